"""The JSON API: answers are as described; to whom it shows what; who may have something done; whatever is sent."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from router.domain.events_people import ActionTaken
from router.domain.rule import PageSettings, RouterSettings
from router.domain.transfer import State
from router.errors import LedgerError
from router.web import app, reading
from router.web.app import make_app
from router.web.server import HttpServer
from router.web.table import ENDPOINTS, Needs
from tests.support.process import wait_for
from tests.support.web import COMMENT, MISTAKE, PATIENT, STUDY, TOKEN, Configuration, Part, Reply, Work

BEARER = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content_Type": "application/json"}
ASK = json.dumps({"study_instance_uid": f"{STUDY}.1"})
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
    """The API of it."""
    one = HttpServer(work, configuration, "127.0.0.1", 0)
    one.start()
    yield one
    one.stop()


def states(work: Work) -> dict[int, str]:
    """Number -> state of each transfer."""
    return {transfer.id: str(transfer.state) for transfer in work.ledger.transfers()}


# --- The description -------------------------------------------------------------------------------------------------


def described(port: int) -> dict[str, Any]:
    return Reply(port, "/api/v1/openapi.json").json


def check(document: dict[str, Any], method: str, path: str, reply: Reply) -> None:
    """Hold an answer against what the description says of it; what it does not name must not be there."""
    responses = document["paths"][path][method.lower()]["responses"]
    content = responses[str(reply.status)]["content"]
    (media_type,) = content
    assert reply.content_type.partition(";")[0] == media_type
    if media_type == "application/json":
        schema = closed({**content[media_type]["schema"], "components": document["components"]})
        jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(
            reply.json
        )


def closed(schema: Any) -> Any:
    """A schema in which an object has no other keys than those that are described."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    known = {key: closed(value) for key, value in schema.items()}
    if "properties" in known and known.get("type") == "object":
        known.setdefault("additionalProperties", False)
    return known


INSTANCE = "/api/v1/objects/{study}/{series}/{instance}"
CALLS: list[tuple[str, str, str, dict[str, str], str | None, int]] = [
    # method, described path, path, headers, body, status
    ("GET", "/api/v1/board", "/api/v1/board", {}, None, 200),
    ("GET", "/api/v1/board", "/api/v1/board", BEARER, None, 200),
    ("GET", "/api/v1/board", "/api/v1/board?x=1", {}, None, 400),
    ("GET", "/api/v1/board", "/api/v1/board", {"Authorization": "Bearer nonsense"}, None, 401),
    ("GET", "/api/v1/rules", "/api/v1/rules", {}, None, 200),
    ("GET", "/api/v1/nodes", "/api/v1/nodes", {}, None, 200),
    ("GET", "/api/v1/transfers", "/api/v1/transfers", BEARER, None, 200),
    ("GET", "/api/v1/transfers", "/api/v1/transfers?state=failed&state=queued&limit=1", {}, None, 200),
    ("GET", "/api/v1/transfers", "/api/v1/transfers?state=none", {}, None, 400),
    ("GET", "/api/v1/transfers", f"/api/v1/transfers?study={STUDY}.1", BEARER, None, 200),
    ("GET", "/api/v1/transfers", f"/api/v1/transfers?study={STUDY}.1", {}, None, 401),
    ("GET", "/api/v1/transfers/{id}", "/api/v1/transfers/1", BEARER, None, 200),
    ("GET", "/api/v1/transfers/{id}", "/api/v1/transfers/1", {}, None, 200),
    ("GET", "/api/v1/transfers/{id}", "/api/v1/transfers/99", {}, None, 404),
    ("GET", "/api/v1/transfers/{id}", "/api/v1/transfers/nonsense", {}, None, 404),
    ("POST", "/api/v1/transfers/{id}/{word}", "/api/v1/transfers/1/retry", BEARER, None, 200),
    ("POST", "/api/v1/transfers/{id}/{word}", "/api/v1/transfers/3/release", BEARER, None, 409),
    ("POST", "/api/v1/transfers/{id}/{word}", "/api/v1/transfers/99/retry", BEARER, None, 404),
    ("POST", "/api/v1/transfers/{id}/{word}", "/api/v1/transfers/1/forget", BEARER, None, 404),
    ("POST", "/api/v1/transfers/{id}/{word}", "/api/v1/transfers/1/retry", BEARER, "x" * 20_000, 413),
    ("POST", "/api/v1/rules/{name}/sweep", "/api/v1/rules/r/sweep", BEARER, None, 202),
    ("POST", "/api/v1/rules/{name}/sweep", "/api/v1/rules/orders/sweep", BEARER, None, 409),
    ("POST", "/api/v1/rules/{name}/sweep", "/api/v1/rules/none/sweep", BEARER, None, 404),
    ("POST", "/api/v1/explain", "/api/v1/explain", BEARER | JSON, ASK, 200),
    ("POST", "/api/v1/explain", "/api/v1/explain", BEARER | JSON, '{"study": 1}', 400),
    ("POST", "/api/v1/explain", "/api/v1/explain", BEARER | JSON, "[" * 5000, 400),
    ("POST", "/api/v1/explain", "/api/v1/explain", BEARER, ASK, 400),
    ("POST", "/api/v1/explain", "/api/v1/explain", BEARER | JSON, '{"study_instance_uid": "DOE^JANE"}', 409),
    ("GET", INSTANCE, "/api/v1/objects/1.2/1.2.3/1.2.3.4", {}, None, 401),
    ("GET", INSTANCE, "/api/v1/objects/1.2/1.2.3/1.2.3.4", BEARER, None, 404),
    ("GET", INSTANCE, "/api/v1/objects/1.2/1.2.3/1.2.3.4?x=1", BEARER, None, 400),
    ("GET", "/api/v1/configuration", "/api/v1/configuration", {}, None, 200),
    ("GET", "/api/v1/events", "/api/v1/events?x=1", {}, None, 400),
    ("GET", "/api/v1/openapi.json", "/api/v1/openapi.json", {}, None, 200),
    ("POST", "/-/reload", "/-/reload", BEARER, None, 200),
    ("POST", "/-/reload", "/-/reload", {}, None, 403),
    ("GET", "/healthz", "/healthz", {}, None, 200),
    ("GET", "/readyz", "/readyz", {}, None, 200),
    ("GET", "/metrics", "/metrics", {}, None, 200),
]


@pytest.mark.parametrize(
    ("method", "path", "called", "headers", "body", "status"),
    CALLS,
    ids=[f"{number}-{c[0]}-{c[1]}-{c[5]}" for number, c in enumerate(CALLS)],
)
def test_each_answer_is_as_described(
    server: HttpServer, method: str, path: str, called: str, headers: dict[str, str], body: str | None, status: int
) -> None:
    reply = Reply(server.port, called, method=method, body=body, **headers)
    assert reply.status == status, reply.text
    check(described(server.port), method, path, reply)
    if status >= 400:
        assert reply.json["error"].endswith(".")
        assert "DOE" not in reply.text


def test_every_described_call_is_tried_and_nothing_else_is_described(server: HttpServer) -> None:
    document = described(server.port)
    described_calls = {(method.upper(), path) for path, ways in document["paths"].items() for method in ways}
    assert described_calls == {(one.method, one.path) for one in ENDPOINTS}
    assert described_calls == {(call[0], call[1]) for call in CALLS}
    assert document["openapi"] == "3.1.0"
    for path, ways in document["paths"].items():
        for operation in ways.values():
            in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_every_route_under_api_is_described(work: Work, configuration: Configuration) -> None:
    routes = {
        (method, route.path)
        for route in make_app(work, configuration).routes
        if isinstance(route, Route) and route.path.startswith(("/api/", "/-/"))
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes == {(one.method, one.path) for one in ENDPOINTS if one.path.startswith(("/api/", "/-/"))}


def test_each_schema_of_the_description_is_one(server: HttpServer) -> None:
    for name, schema in described(server.port)["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description") or schema.get("enum"), name


def test_a_failing_part_is_503_as_described(server: HttpServer, work: Work) -> None:
    work.unwell = {"dispatcher": "takes up no work"}
    document = described(server.port)
    for path in ("/healthz", "/readyz"):
        reply = Reply(server.port, path)
        assert reply.status == 503
        check(document, "GET", path, reply)
    configuration = Reply(server.port, "/api/v1/configuration")
    assert configuration.json["health"]["problems"] == work.unwell


def test_a_ledger_that_does_not_answer_is_503_with_its_sentence(server: HttpServer, work: Work) -> None:
    class Lost:
        def board(self, *, identifiers: bool) -> Any:
            raise LedgerError("The ledger ledger.db cannot be read.")

    work.boards = Lost()
    document = described(server.port)
    for path in ("/api/v1/board", "/api/v1/rules", "/api/v1/nodes"):
        reply = Reply(server.port, path)
        assert (reply.status, reply.json) == (503, {"error": "The ledger ledger.db cannot be read."})
        check(document, "GET", path, reply)
    assert Reply(server.port, "/").status == 503
    assert "cannot be read" in Reply(server.port, "/").text


# --- What is shown ---------------------------------------------------------------------------------------------------


def test_filters_narrow_the_list(server: HttpServer) -> None:
    def ids(query: str) -> list[int]:
        reply = Reply(server.port, f"/api/v1/transfers?{query}", **BEARER)
        assert reply.status == 200, reply.text
        return [one["id"] for one in reply.json["transfers"]]

    assert ids("") == ids("rule=r&source=pacs&destination=ws") == ids("state=") == [3, 2, 1]
    assert ids("state=failed") == [1]
    assert ids("state=failed&state=queued") == [3, 1]
    assert ids("limit=2") == [3, 2]
    assert ids(f"study={STUDY}.2") == [2]
    assert ids("rule=none") == ids("destination=local") == []


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=-1", "limit=1e2", "limit=%D9%A3", "limit=1&limit=2", "state=FAILED"),
        *("study=DOE", "rule=%00", "nothing=1", "rule=a&rule=b"),
    ],
)
def test_a_query_that_is_not_understood_is_400_and_says_of_what(server: HttpServer, query: str) -> None:
    reply = Reply(server.port, f"/api/v1/transfers?{query}")
    assert reply.status == 400
    assert reply.json["error"]


PATHS = [one.path for one in ENDPOINTS if one.method == "GET" and one.path not in ("/api/v1/events", "/metrics")]
PAGES = ["/", "/transfers", "/transfers/1", "/transfers/2", "/explain", "/configuration", "/login", "/nothing"]


@pytest.mark.parametrize("identifiers", [True, False])
def test_who_has_not_shown_the_token_sees_no_identifier_anywhere(
    server: HttpServer, configuration: Configuration, identifiers: bool
) -> None:
    configuration.settings = SHOWN if identifiers else RouterSettings()
    for path in [*PATHS, *PAGES]:
        reply = Reply(server.port, path.replace("{id}", "1"))
        assert reply.status in (200, 404), path
        for secret in (STUDY, PATIENT, TOKEN, COMMENT):
            assert secret not in reply.text, path
    shown = Reply(server.port, "/api/v1/transfers/1").json
    assert shown["missing"] == {"count": 3, "sop_instance_uids": None}
    assert shown["appointments"] is None
    assert len(shown["transfer"]["study"]) == 12


def test_the_token_alone_shows_no_identifiers_unless_the_configuration_does(
    server: HttpServer, configuration: Configuration
) -> None:
    for path in ("/api/v1/board", "/api/v1/transfers", "/api/v1/transfers/1"):
        text = Reply(server.port, path, **BEARER).text
        assert (STUDY in text, COMMENT in text) == (False, False)
    assert Reply(server.port, "/api/v1/transfers/1", **BEARER).json["appointments"] == []
    configuration.settings = SHOWN
    for path in ("/api/v1/board", "/api/v1/transfers", "/api/v1/transfers/1"):
        text = Reply(server.port, path, **BEARER).text
        assert f"{STUDY}.1" in text
        assert PATIENT in text
    detail = Reply(server.port, "/api/v1/transfers/1", **BEARER).json
    assert len(detail["missing"]["sop_instance_uids"]) == detail["missing"]["count"] == 3
    assert detail["attempts"][0]["reason"].endswith(f"It says: {COMMENT}")


def test_a_study_has_the_same_pseudonym_everywhere(server: HttpServer, work: Work) -> None:
    pseudonym = work.bench.pseudonyms.of(f"{STUDY}.1")
    board = Reply(server.port, "/api/v1/board").json
    assert [one["study"] for one in board["failures"]] == [pseudonym]
    assert Reply(server.port, "/api/v1/transfers/1").json["transfer"]["study"] == pseudonym


# --- Who may have something done -------------------------------------------------------------------------------------

ACTIONS = [
    one.path.replace("{id}", "1").replace("{word}", "retry").replace("{name}", "r")
    for one in ENDPOINTS
    if one.needs is not Needs.NOTHING and one.method == "POST"
]


def sent(port: int, path: str, **headers: str) -> Reply:
    return Reply(port, path, method="POST", body=ASK, **{**JSON, **headers})


@pytest.mark.parametrize("path", ACTIONS)
def test_with_a_token_who_does_not_show_it_changes_nothing(
    server: HttpServer, work: Work, configuration: Configuration, path: str
) -> None:
    before = states(work)
    for shown in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": TOKEN}, {"Cookie": f"token={TOKEN}"}):
        reply = sent(server.port, path, **shown)
        assert reply.status == (403 if path == "/-/reload" else 401)
        assert "router.token" in reply.json["error"]
        assert TOKEN not in reply.text
    assert (states(work), work.ledger.open_sweeps(), configuration.reloads, work.woken) == (before, [], 0, 0)
    assert work.done == []


@pytest.mark.parametrize("path", ACTIONS)
def test_a_token_that_is_not_to_be_had_keeps_everybody_out(
    server: HttpServer, work: Work, configuration: Configuration, path: str
) -> None:
    configuration.lost = "the file x cannot be read"
    reply = sent(server.port, path, **BEARER)
    assert reply.status == 403
    assert "the file x cannot be read" in reply.json["error"]
    assert (work.woken, configuration.reloads) == (0, 0)


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Origin": "https://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"X_Forwarded_For": "127.0.0.1"},
    ],
)
def test_without_a_token_other_sites_tricks_with_names_and_proxies_change_nothing(
    server: HttpServer, work: Work, configuration: Configuration, path: str, headers: dict[str, str]
) -> None:
    configuration.secret = None
    reply = sent(server.port, path, **headers)
    assert reply.status == 403
    assert "set router.token" in reply.json["error"]
    assert (work.woken, configuration.reloads, work.done) == (0, 0, [])


def test_without_a_token_a_program_on_this_machine_may_act_but_not_have_a_study_explained(
    server: HttpServer, work: Work, configuration: Configuration
) -> None:
    configuration.secret = None
    assert sent(server.port, "/api/v1/transfers/1/retry").status == 200
    assert sent(server.port, "/api/v1/rules/r/sweep").status == 202
    assert [one.by for one in work.events if isinstance(one, ActionTaken)] == ["local", "local"]
    refused = sent(server.port, "/api/v1/explain")
    assert refused.status == 403
    assert "set router.token" in refused.json["error"]
    assert Reply(server.port, f"/api/v1/transfers?study={STUDY}.1").status == 403
    assert Reply(server.port, "/api/v1/transfers/1").json["appointments"] is None


def test_words_are_said_to_transfers_and_told_to_the_log(server: HttpServer, work: Work) -> None:
    assert sent(server.port, "/api/v1/transfers/1/retry", **BEARER).json["transfer"]["state"] == "queued"
    assert sent(server.port, "/api/v1/transfers/1/hold", **BEARER).json["transfer"]["state"] == "held"
    assert sent(server.port, "/api/v1/transfers/1/release", **BEARER).json["transfer"]["state"] == "queued"
    cancelled = sent(server.port, "/api/v1/transfers/1/cancel", **BEARER).json["transfer"]
    assert (cancelled["state"], cancelled["verdict"], cancelled["actions"]) == ("cancelled", "cancelled", ["retry"])
    assert states(work)[1] == State.CANCELLED
    assert work.woken == 4
    assert work.events == [
        ActionTaken(by="token", action=word, transfer=1) for word in ("retry", "hold", "release", "cancel")
    ]


def test_what_cannot_be_said_is_409_with_the_sentence_of_the_command_line(server: HttpServer, work: Work) -> None:
    before = states(work)
    assert sent(server.port, "/api/v1/transfers/1/hold", **BEARER).json == {
        "error": "Transfer 1 has ended: it is failed."
    }
    assert work.done == []
    assert states(work) == before


def test_a_sweep_that_is_open_is_not_doubled(server: HttpServer, work: Work) -> None:
    first = sent(server.port, "/api/v1/rules/r/sweep", **BEARER).json
    (sweep,) = work.ledger.open_sweeps()
    assert (first, sweep.due.manual) == ({"rule": "r", "sweep": sweep.id}, True)
    second = sent(server.port, "/api/v1/rules/r/sweep", **BEARER)
    assert second.status == 409
    assert "already" in second.json["error"]
    assert [one.id for one in work.ledger.open_sweeps()] == [sweep.id]


def test_an_explanation_holds_what_the_command_line_says_and_the_transfers(
    server: HttpServer, configuration: Configuration
) -> None:
    configuration.settings = SHOWN
    said = sent(server.port, "/api/v1/explain", **BEARER).json
    assert said["study"]["pacs"] == {"found": True, "problem": None, "values": {"StudyDate": ["20261122"]}}
    assert said["rules"][0]["decisions"][0]["conclusion"] == "nothing would be moved"
    assert [one["id"] for one in said["transfers"]] == [1]


def test_two_explanations_at_once_and_no_more(server: HttpServer, work: Work) -> None:
    entered, free = threading.Semaphore(0), threading.Event()
    explain = work.explain

    def slowly(*given: Any, **named: Any) -> Any:
        entered.release()
        assert free.wait(60)
        return explain(*given, **named)

    work.explain = slowly
    replies: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: replies.append(sent(server.port, "/api/v1/explain", **BEARER)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert entered.acquire(timeout=30)
    third = sent(server.port, "/api/v1/explain", **BEARER)
    free.set()
    for thread in threads:
        thread.join(60)
    assert (third.status, [one.status for one in replies]) == (503, [200, 200])
    assert "try again" in third.json["error"]
    assert third.headers["retry-after"]


# --- Whatever is sent ------------------------------------------------------------------------------------------------

TEXT = st.text(alphabet=st.characters(exclude_characters="\r\n", max_codepoint=255), max_size=30)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    path=st.sampled_from([*PATHS, *ACTIONS, *PAGES, "/static/x", "/rules/r/sweep", "/logout", "/reload"]),
    value=st.binary(max_size=30),
    query=st.binary(max_size=60),
    body=st.binary(max_size=200),
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD"]),
    media_type=st.sampled_from(["application/json", "application/x-www-form-urlencoded", "multipart/form-data", ""]),
    header=st.binary(max_size=30).filter(lambda value: not set(value) & set(b"\r\n\0")),
)
def test_nonsense_is_never_a_defect(
    server: HttpServer, path: str, value: bytes, query: bytes, body: bytes, method: str, media_type: str, header: bytes
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    target = path.replace("{id}", quoted(value) or "x").replace("{word}", "retry")
    connection.putrequest(method, f"{target}?{quoted(query, keep='=&')}")
    connection.putheader("Content-Type", media_type)
    connection.putheader("Content-Length", str(len(body)))
    connection.putheader("Referer", header)
    connection.putheader("Cookie", header)
    connection.putheader("Authorization", header)
    try:
        connection.endheaders(body)
        response = connection.getresponse()
        text = response.read().decode()
    except ConnectionError:  # who sends what is no HTTP is left without reading on
        assert set(header) & set(b"\v\f")
        return
    finally:
        connection.close()
    assert response.status < 500, text
    assert "Traceback" not in text


def quoted(value: bytes, keep: str = "") -> str:
    return "".join(chr(byte) if chr(byte) in keep else f"%{byte:02x}" for byte in value)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT,
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["study_instance_uid", "offline", "x"]), inner),
        max_leaves=8,
    )
)
def test_a_body_of_any_shape_is_taken_or_refused(server: HttpServer, value: Any) -> None:
    reply = Reply(server.port, "/api/v1/explain", method="POST", body=json.dumps(value), **(BEARER | JSON))
    assert reply.status in (200, 400, 409, 413), reply.text


def test_a_body_that_does_not_come_is_not_waited_for(
    server: HttpServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.3)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/api/v1/transfers/1/retry", headers={**BEARER, "Content-Length": "10"})
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"].split()[0]) == (408, "The")
    connection.close()
    assert work.woken == 0


def test_every_answer_has_the_headers_that_keep_it_where_it_is(work: Work, configuration: Configuration) -> None:
    def fail() -> bytes:
        raise ValueError

    work.metrics = fail
    server = HttpServer(work, configuration, "127.0.0.1", 0)
    server.start()
    try:
        for path in [*PATHS, *PAGES, "/metrics", "/api/v1/nothing"]:
            reply = Reply(server.port, path.replace("{id}", "1"))
            assert reply.headers["x-content-type-options"] == "nosniff", path
            assert reply.headers["cache-control"] == "no-store", path
            assert "default-src 'none'" in reply.headers["content-security-policy"], path
            assert "frame-ancestors 'none'" in reply.headers["content-security-policy"], path
            assert "server" not in reply.headers, path
        assert Reply(server.port, "/metrics").status == 500
    finally:
        server.stop()


def test_nothing_of_a_request_is_logged(
    server: HttpServer, work: Work, configuration: Configuration, capfd: pytest.CaptureFixture[str]
) -> None:
    configuration.settings = SHOWN
    Reply(server.port, f"/api/v1/transfers?study={STUDY}.1", **BEARER)
    sent(server.port, "/api/v1/explain", **BEARER)
    sent(server.port, "/api/v1/transfers/1/retry", **BEARER)
    Reply(server.port, "/DOE^JANE")
    said = "".join(capfd.readouterr()) + "".join(map(repr, work.events))
    for secret in (STUDY, TOKEN, PATIENT, "DOE"):
        assert secret not in said
    assert len(work.events) == 2


def test_a_ledger_that_hangs_does_not_keep_probes_and_metrics_from_an_answer(
    work: Work, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "WORK_SECONDS", 0.5)
    let_go = threading.Event()

    class Hanging:
        def board(self, *, identifiers: bool) -> Any:
            let_go.wait(60)
            return real.board(identifiers=identifiers)

    real, work.boards = work.boards, Hanging()
    server = HttpServer(work, configuration, "127.0.0.1", 0)
    server.start()
    callers = 50
    replies: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: replies.append(Reply(server.port, "/api/v1/board"))) for _ in range(callers)
    ]
    try:
        for thread in threads:
            thread.start()
        wait_for(lambda: len(replies) == callers - app.MOST_AT_WORK, "those who are too many to be told so")
        assert {reply.status for reply in replies} == {503}
        assert "try again in a moment" in replies[0].json["error"]
        for path in ("/healthz", "/readyz", "/metrics", "/api/v1/configuration"):
            assert Reply(server.port, path).status == 200, path
        let_go.set()
        for thread in threads:
            thread.join(30)
        assert sorted(reply.status for reply in replies)[: app.MOST_AT_WORK] == [200] * app.MOST_AT_WORK
    finally:
        let_go.set()
        server.stop()


def test_a_file_whose_name_is_no_text_is_named_as_far_as_it_goes(
    server: HttpServer, configuration: Configuration
) -> None:
    name = os.fsdecode(b"a\xff.yaml")
    configuration.refuse(msgspec.structs.replace(MISTAKE, file=name))
    configuration.reload()
    configuration.standing = msgspec.structs.replace(configuration.standing, directory=name, files=(name,))
    said = Reply(server.port, "/api/v1/configuration").json["configuration"]
    assert (said["directory"], said["files"]) == ("a?.yaml", ["a?.yaml"])
    assert said["last_reload"]["diagnostics"][0]["file"] == "a?.yaml"
    assert "a?.yaml" in Reply(server.port, "/configuration").text


def test_a_part_that_shows_nothing_has_an_api_too() -> None:
    server = HttpServer(Part(), Configuration(), "127.0.0.1", 0)
    server.start()
    try:
        assert Reply(server.port, "/api/v1/transfers").json == {"transfers": []}
        assert Reply(server.port, "/api/v1/rules").json["rules"] == []
    finally:
        server.stop()


def test_the_transfers_of_the_list_are_those_of_the_ledger(server: HttpServer, work: Work) -> None:
    (failed,) = [one for one in work.ledger.transfers() if one.id == 1]
    (row,) = Reply(server.port, "/api/v1/transfers?state=failed").json["transfers"]
    assert (row["rule"], row["source"], row["destination"]) == ("r", "pacs", "ws")
    assert (row["status"], row["reason"], row["failed"]) == ("0xA702", failed.reason, failed.failed)
    assert msgspec.convert(row["queued_at"], type(failed.queued_at), strict=False) == failed.queued_at
