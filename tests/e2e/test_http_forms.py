"""The forms of the pages: who may send them, from where, and what becomes of it; sessions begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route

from router.config import Reload
from router.domain.events_people import ActionTaken
from router.domain.rule import PageSettings, RouterSettings
from router.web import guesses
from router.web.app import make_app
from router.web.server import HttpServer
from tests.support.web import MISTAKE, PATIENT, STUDY, TOKEN, Configuration, Reply, Visitor, Work

SHOWN = RouterSettings(page=PageSettings(identifiers=True))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """What the service shows."""
    return Work(tmp_path)


@pytest.fixture
def configuration() -> Configuration:
    """With a token."""
    one = Configuration()
    one.secret = TOKEN
    return one


@pytest.fixture
def server(work: Work, configuration: Configuration) -> Iterator[HttpServer]:
    """The pages of it."""
    one = HttpServer(work, configuration, "127.0.0.1", 0)
    one.start()
    yield one
    one.stop()


@pytest.fixture
def visitor(server: HttpServer) -> Visitor:
    """Somebody who has logged in."""
    one = Visitor(server.port)
    assert one.log_in().status == 303
    return one


def standing(work: Work, configuration: Configuration) -> tuple[object, ...]:
    """All that a form could change."""
    transfers = [(one.id, one.state, one.wish) for one in work.ledger.transfers()]
    return transfers, [one.id for one in work.ledger.open_sweeps()], configuration.reloads, work.woken, work.done


def posts(work: Work, configuration: Configuration) -> list[str]:
    """Every path that takes a POST."""
    filled = {"{id}": "1", "{word}": "retry", "{name}": "r"}
    paths = [
        route.path
        for route in make_app(work, configuration).routes
        if isinstance(route, Route) and "POST" in (route.methods or set())
    ]
    for name, value in filled.items():
        paths = [path.replace(name, value) for path in paths]
    return paths


# --- Without the token nothing changes -------------------------------------------------------------------------------


def test_no_post_changes_anything_without_the_token(
    server: HttpServer, work: Work, configuration: Configuration
) -> None:
    paths = posts(work, configuration)
    assert {"/login", "/logout", "/transfers/1/retry", "/rules/r/sweep", "/explain", "/reload", "/-/reload"} <= {*paths}
    before = standing(work, configuration)
    for path in paths:
        for fields in ({}, {"token": "nonsense"}, {"form_key": ""}, {"study_instance_uid": f"{STUDY}.1"}):
            reply = Visitor(server.port).post(path, fields)
            assert reply.status in (400, 401, 403, 429), path
            assert not reply.headers.get("set-cookie")
            assert STUDY not in reply.text
    assert standing(work, configuration) == before


def test_without_a_token_in_the_configuration_no_browser_changes_anything(
    server: HttpServer, work: Work, configuration: Configuration
) -> None:
    configuration.secret = None
    before = standing(work, configuration)
    for path in posts(work, configuration):
        if not path.startswith(("/api/", "/-/")):  # for programs on this machine
            reply = Visitor(server.port).post(path, {"token": TOKEN, "form_key": ""})
            assert reply.status == 403, path
            assert "set router.token" in reply.text
    assert standing(work, configuration) == before


def test_nobody_reaches_an_action_by_following_a_link(
    visitor: Visitor, work: Work, configuration: Configuration
) -> None:
    before = standing(work, configuration)
    for path in ("/transfers/1/retry", "/rules/r/sweep", "/reload", "/logout"):
        assert visitor.get(path).status == 405, path
    assert standing(work, configuration) == before


FORMS = ["/transfers/1/retry", "/rules/r/sweep", "/reload", "/logout", "/transfers", "/explain"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "localhost:9999"},
    ],
    ids=lambda headers: "-".join(*headers.items()),
)
def test_a_form_on_a_page_of_another_site_does_nothing_even_for_who_has_logged_in(
    visitor: Visitor, work: Work, configuration: Configuration, headers: dict[str, str]
) -> None:
    before = standing(work, configuration)
    key = visitor.form_key()
    for path in [*FORMS, "/login"]:
        reply = visitor.post(path, {"form_key": key, "token": TOKEN}, **headers)
        assert reply.status == 403, path
        assert "another site" in reply.text
    assert standing(work, configuration) == before
    assert visitor.do("/transfers/1/retry").status == 303, "the session lives on"


@pytest.mark.parametrize("keys", [{}, {"form_key": ""}, {"form_key": "nonsense"}])
def test_a_form_without_its_key_does_nothing(
    visitor: Visitor, work: Work, configuration: Configuration, keys: dict[str, str]
) -> None:
    before = standing(work, configuration)
    for path in FORMS:
        assert visitor.post(path, keys).status == 403, path
    other = Visitor(visitor.port)
    other.log_in()
    assert visitor.post("/transfers/1/retry", {"form_key": other.form_key()}).status == 403, "another session's key"
    assert standing(work, configuration)[:4] == before[:4]


def test_a_session_does_not_open_the_api_to_other_sites(visitor: Visitor, work: Work) -> None:
    reply = visitor.post("/api/v1/transfers/1/retry", {"form_key": visitor.form_key()})
    assert reply.status == 401
    assert work.woken == 0


# --- What the forms do -----------------------------------------------------------------------------------------------


def test_an_action_comes_back_to_the_page_with_what_came_of_it_once(visitor: Visitor, work: Work) -> None:
    visitor.get("/transfers?state=failed")
    reply = visitor.do("/transfers/1/retry")
    assert (reply.status, reply.headers["location"]) == (303, "/transfers?state=failed")
    assert "Transfer 1 is queued now." in visitor.get("/transfers").text
    assert "Transfer 1 is queued now." not in visitor.get("/transfers").text
    assert ActionTaken(by="session", action="retry", transfer=1) in work.events


def test_an_action_without_a_page_to_come_back_to_shows_the_transfer(visitor: Visitor) -> None:
    for referer in ("", "https://evil.example/transfers", f"{visitor.origin}//evil.example", "http://[", "nonsense"):
        reply = visitor.post("/transfers/1/retry", {"form_key": visitor.form_key()}, Referer=referer)
        assert reply.headers["location"] == "/transfers/1", referer
    visitor.get("/")
    assert visitor.do("/transfers/1/cancel").headers["location"] == "/"


def test_what_cannot_be_done_is_said_on_the_page(visitor: Visitor, work: Work) -> None:
    assert visitor.do("/transfers/1/hold").status == 303
    assert "Transfer 1 has ended: it is failed." in visitor.get("/").text
    assert visitor.do("/rules/off/sweep").status == 303
    assert "The rule off is not enabled" in visitor.get("/").text
    assert visitor.do("/transfers/99/retry").status == 303
    assert "no transfer 99" in visitor.get("/").text
    assert [one.action for one in work.events if isinstance(one, ActionTaken)] == ["login"]


def test_a_sweep_is_put_into_the_ledger(visitor: Visitor, work: Work) -> None:
    assert visitor.do("/rules/r/sweep").status == 303
    (sweep,) = work.ledger.open_sweeps()
    assert (sweep.due.rule, sweep.due.manual, work.woken) == ("r", True, 1)


def test_a_reload_shows_what_came_of_it(visitor: Visitor, configuration: Configuration) -> None:
    visitor.get("/")
    assert visitor.do("/reload").headers["location"] == "/"
    assert "was reloaded" in visitor.get("/").text
    configuration.refuse(MISTAKE)
    assert visitor.do("/reload").headers["location"] == "/configuration"
    page = visitor.get("/configuration").text
    assert "refused" in page
    assert "DR022" in page


def test_a_reload_that_is_a_defect_is_a_500_and_the_next_one_works(
    visitor: Visitor, configuration: Configuration
) -> None:
    def fail() -> Reload:
        raise ValueError("DOE^JANE")

    loading, configuration.loading = configuration.loading, fail
    assert visitor.do("/reload").status == 500
    configuration.loading = loading
    assert visitor.do("/reload").status == 303


def test_a_study_is_explained_on_the_page_to_who_has_logged_in(visitor: Visitor, work: Work) -> None:
    reply = visitor.do("/explain", study_instance_uid=f" {STUDY}.1 ", offline="on")
    assert reply.status == 200
    assert "nothing would be moved" in reply.text
    assert reply.headers["cache-control"] == "no-store"
    assert ActionTaken(by="session", action="explain") in work.events
    refused = visitor.do("/explain", study_instance_uid="1" * 65)
    assert refused.status == 400
    assert visitor.do("/explain").status == 409


def test_a_study_is_looked_for_without_standing_in_an_address(visitor: Visitor) -> None:
    reply = visitor.do("/transfers", study=f"{STUDY}.2")
    assert reply.status == 200
    assert "location" not in reply.headers
    assert visitor.get(f"/transfers?study={STUDY}.2").status == 400


def test_identifiers_are_on_the_pages_of_who_has_logged_in_where_the_configuration_says_so(
    visitor: Visitor, configuration: Configuration
) -> None:
    for path in ("/", "/transfers", "/transfers/1"):
        assert STUDY not in visitor.get(path).text, path
    configuration.settings = SHOWN
    for path in ("/", "/transfers", "/transfers/1"):
        assert f"{STUDY}.1" in visitor.get(path).text, path
        masked = Reply(visitor.port, path).text
        assert STUDY not in masked
        assert PATIENT not in masked


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/transfers/1/retry", {"nothing": "x"}, 400),
        ("/transfers/1/forget", {}, 404),
        ("/transfers/x/retry", {}, 404),
        ("/explain", {"study_instance_uid": "DOE^JANE"}, 400),
        ("/explain", {"offline": "perhaps"}, 400),
        ("/transfers", {"limit": "0"}, 400),
        ("/transfers", {"x" * 17_000: ""}, 413),
    ],
)
def test_a_form_that_is_not_understood_is_a_page_that_says_so(
    visitor: Visitor, path: str, fields: dict[str, str], status: int
) -> None:
    reply = visitor.do(path, **fields)
    assert (reply.status, reply.content_type) == (status, "text/html; charset=utf-8")
    assert "DOE" not in reply.text


# --- Sessions --------------------------------------------------------------------------------------------------------


def test_the_cookie_is_for_this_router_only_and_for_no_script(server: HttpServer) -> None:
    visitor = Visitor(server.port)
    cookie = visitor.log_in().headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200", f"dicom-router-session-{server.port}="):
        assert part in cookie
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    encrypted = visitor.post("/login", {"token": TOKEN}, X_Forwarded_Proto="https").headers["set-cookie"]
    assert "Secure" in encrypted


def test_a_wrong_token_is_refused_and_soon_nobody_may_try(server: HttpServer, work: Work) -> None:
    visitor = Visitor(server.port)
    for _ in range(guesses.MOST_GUESSES):
        reply = visitor.log_in("nonsense")
        assert (reply.status, "not the token" in reply.text) == (403, True)
        assert "nonsense" not in reply.text
    late = visitor.log_in()
    assert late.status == 429
    assert 0 < int(late.headers["retry-after"]) <= 60, "what is left of the minute since the first guess"
    assert visitor.cookies == {}
    assert work.done == []


def test_logging_out_ends_the_session(visitor: Visitor, work: Work) -> None:
    key, cookies = visitor.form_key(), dict(visitor.cookies)
    assert visitor.do("/logout").status == 303
    visitor.cookies = cookies
    assert visitor.post("/transfers/1/retry", {"form_key": key}).status == 403
    assert work.woken == 0


def test_a_new_token_ends_the_sessions_of_the_old_one(
    visitor: Visitor, configuration: Configuration, work: Work
) -> None:
    key = visitor.form_key()
    configuration.secret = "another token than before"
    assert visitor.post("/transfers/1/retry", {"form_key": key}).status == 403
    configuration.secret = TOKEN
    assert visitor.post("/transfers/1/retry", {"form_key": key}).status == 403, "it does not come to life again"
    assert work.woken == 0


def test_a_token_that_is_lost_ends_sessions(visitor: Visitor, configuration: Configuration) -> None:
    key = visitor.form_key()
    configuration.lost = "the file x cannot be read"
    assert visitor.post("/transfers/1/retry", {"form_key": key}).status == 403
    assert visitor.log_in().status == 403


# --- Files of the page -----------------------------------------------------------------------------------------------


def test_there_are_no_files_but_those_of_the_page(server: HttpServer) -> None:
    for path in (
        "/static/nothing.css",
        "/static/..%2fpages.py",
        "/static/",
        "/static/../app.py",
        "/static/page.css%00",
    ):
        assert Reply(server.port, path).status == 404, path


def test_a_path_with_a_slash_too_many_is_not_sent_elsewhere(server: HttpServer) -> None:
    for path in ("/transfers/", "/configuration/", "//evil.example"):
        for host, status in (("localhost", 404), ("evil.example", 403)):
            reply = Reply(server.port, path, Host=host)
            assert (reply.status, reply.headers.get("location")) == (status, None)
