"""HTTP against who guesses tokens, and against pages of other sites that call the router by a name of their own."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from router.domain.rule import GUARDED, PageSettings, RouterSettings
from router.web.guesses import MOST_GUESSES
from router.web.server import HttpServer
from tests.support.web import TOKEN, Configuration, Visitor, Work

ELSEWHERE = "127.0.0.2"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
WRONG = {"Authorization": "Bearer nonsense"}


@pytest.fixture
def configuration() -> Configuration:
    one = Configuration()
    one.secret = TOKEN
    one.settings = RouterSettings(
        http_host="router-web.example", metrics=GUARDED, page=PageSettings(hosts=("Router.Hospital.example",))
    )
    return one


@pytest.fixture
def server(tmp_path: Path, configuration: Configuration) -> Iterator[HttpServer]:
    one = HttpServer(Work(tmp_path), configuration, "127.0.0.1", 0)
    one.start()
    yield one
    one.stop()


def ask(
    server: HttpServer, path: str, method: str = "GET", source: str = "127.0.0.1", **headers: str
) -> tuple[int, str, str]:
    """Status, Retry-After and body."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60, source_address=(source, 0))) as one:
        one.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = one.getresponse()
        return answer.status, answer.headers.get("retry-after", ""), answer.read().decode()


@pytest.mark.parametrize(
    ("method", "path", "refused"),
    [
        ("GET", "/api/v1/board", 401),
        ("GET", "/metrics", 401),
        ("GET", "/transfers", 401),
        ("POST", "/api/v1/transfers/1/retry", 401),
        ("POST", "/-/reload", 403),
    ],
)
def test_after_ten_wrong_tokens_an_address_waits_and_no_other_does(
    server: HttpServer, configuration: Configuration, method: str, path: str, refused: int
) -> None:
    for _ in range(MOST_GUESSES):
        assert ask(server, path, method, ELSEWHERE, **WRONG)[0] == refused
    for shown in (WRONG, RIGHT):
        status, retry_after, said = ask(server, path, method, ELSEWHERE, **shown)
        assert (status, 0 < int(retry_after) <= 60) == (429, True), "the right one is not looked at either"
        assert "Too many wrong tokens" in said
        assert "nonsense" not in said
    assert configuration.reloads == 0
    assert ask(server, "/metrics", source=ELSEWHERE)[0] == 401, "who shows none is not said to wait"
    assert ask(server, "/healthz", source=ELSEWHERE, **WRONG)[0] == 200
    assert ask(server, path, method, **RIGHT)[0] == 200


def test_guesses_at_the_login_and_over_the_api_are_counted_together(server: HttpServer) -> None:
    for _ in range(MOST_GUESSES // 2):
        assert ask(server, "/api/v1/board", **WRONG)[0] == 401
        assert Visitor(server.port).log_in("nonsense").status == 403
    visitor = Visitor(server.port)
    late = visitor.log_in()
    assert (late.status, visitor.cookies) == (429, {})
    assert "Too many wrong tokens" in late.text


def test_who_has_logged_in_goes_on_while_others_guess_from_his_address(server: HttpServer) -> None:
    visitor = Visitor(server.port)
    visitor.log_in()
    for _ in range(MOST_GUESSES + 1):
        ask(server, "/api/v1/board", **WRONG)
    assert visitor.get("/transfers").status == 200
    assert visitor.do("/transfers/1/retry").status == 303


OURS = (
    *("127.0.0.1", "10.0.0.5:9104", "[::1]:9104", "localhost:9104", socket.gethostname()),
    *("router.hospital.example", "ROUTER.hospital.example:443", "router-web.example"),
)
FOREIGN = ("evil.example", "router.hospital.example.evil.example", "127.0.0.1.evil.example:9104", "localhost.evil")
PAGES = ("/", "/transfers", "/login", "/static/page.css", "/nothing", "/api/v1/board", "/api/v1/openapi.json")


@pytest.mark.parametrize("host", OURS)
def test_the_page_is_shown_to_who_calls_the_router_by_a_name_of_its_own(server: HttpServer, host: str) -> None:
    for path in ("/", "/api/v1/board"):
        assert ask(server, path, Host=host)[0] == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_a_page_of_another_site_reads_nothing_by_a_name_of_its_own(server: HttpServer, host: str) -> None:
    for path in PAGES:
        for shown in ({}, {"X_Forwarded_Host": "localhost"}, WRONG if path == "/" else {}):
            status, _, said = ask(server, path, Host=host, **shown)
            assert (status, "router.page.hosts" in said, host in said) == (403, True, False), path
    assert ask(server, "/-/reload", "POST", Host=host)[0] == 403


def test_a_session_opens_nothing_by_a_foreign_name(server: HttpServer) -> None:
    visitor = Visitor(server.port)
    visitor.log_in()
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    assert ask(server, "/", Cookie=cookie)[0] == 200
    assert ask(server, "/", Cookie=cookie, Host="evil.example")[0] == 403


def test_monitoring_and_who_shows_the_token_may_use_any_name(server: HttpServer) -> None:
    for path in ("/healthz", "/readyz"):
        assert ask(server, path, Host="router.monitoring.example:9104")[0] == 200
    assert ask(server, "/metrics", Host="router.monitoring.example:9104")[0] == 401
    for path in ("/metrics", "/api/v1/board"):
        assert ask(server, path, Host="router.monitoring.example:9104", **RIGHT)[0] == 200


def test_tokens_are_not_guessed_under_a_foreign_name_without_end(server: HttpServer) -> None:
    for _ in range(MOST_GUESSES):
        assert ask(server, "/", source=ELSEWHERE, Host="evil.example", **WRONG)[0] == 403
    assert ask(server, "/", source=ELSEWHERE, Host="evil.example", **RIGHT)[0] == 403
    assert ask(server, "/", source=ELSEWHERE, **RIGHT)[0] == 429
    assert ask(server, "/", Host="evil.example", **RIGHT)[0] == 200
