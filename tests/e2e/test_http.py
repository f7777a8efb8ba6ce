"""The HTTP endpoints, of a running service and of the server alone."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.config import Reload, Severity
from router.errors import RouterError
from router.web import bounded
from router.web.server import HttpServer
from tests.support.peers import check_metrics
from tests.support.ports import free_port, listening
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.web import GOOD, MISTAKE, STUDY, TOKEN, Configuration, Part, Reply, Visitor

RULE: dict[str, Any] = {
    "sweep": {"source": "archive", "cron": "0 0 1 1 *", "keys": {"StudyDate": "today"}},
    "move": {"to": ["local"]},
}
OPEN_METRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


# --- A running service -----------------------------------------------------------------------------------------------


def make_site(directory: Path) -> Site:
    """A router with a rule that is not due before the new year."""
    return Site(directory, nodes={"archive": node("ARCHIVE", free_port())}, rules={"r": RULE})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A router that does not run yet."""
    return make_site(tmp_path)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router that runs, for tests that only look."""
    with make_site(tmp_path_factory.mktemp("router")).run() as running:
        yield running


def test_metrics_come_in_the_format_the_scraper_asks_for(router: RunningRouter) -> None:
    port = router.site.http_port
    plain = Reply(port, "/metrics")
    assert (plain.status, plain.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert check_metrics(plain.body.decode()) == ""
    opened = Reply(port, "/metrics", Accept=OPEN_METRICS)
    assert (opened.status, opened.content_type) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert opened.body.endswith(b"# EOF\n")
    assert Reply(port, "/metrics", Accept="application/openmetrics-text;version=nonsense").status == 200
    assert Reply(port, "/metrics", method="HEAD").body == b""
    for reply in (plain, opened):
        assert b'dicom_router_build_info{version="' in reply.body
        assert b'dicom_router_transfers{destination="local",source="archive",state="queued"} 0.0' in reply.body


def test_a_router_that_works_is_healthy_and_ready(router: RunningRouter) -> None:
    for path in ("/healthz", "/readyz"):
        reply = Reply(router.site.http_port, path)
        assert (reply.status, reply.problems) == (200, {})


def test_the_page_and_its_json_say_what_runs(router: RunningRouter) -> None:
    port = router.site.http_port
    page, said = Reply(port, "/configuration"), Reply(port, "/api/v1/configuration")
    assert (page.status, page.content_type) == (200, "text/html; charset=utf-8")
    assert (said.status, said.content_type) == (200, "application/json")
    configuration = said.json["configuration"]
    assert f'config_info{{hash="{configuration["hash"]}",work="' in router.metrics()
    assert configuration["files"] == [str(router.site.rules_directory / "site.yaml")]
    assert (configuration["rules"], configuration["nodes"], configuration["restart_needed"]) == (1, 1, [])
    assert configuration["last_reload"]["reloaded"]
    assert (said.json["health"], said.json["readiness"]) == ({"status": "ok", "problems": {}},) * 2
    for part in (configuration["hash"], said.json["version"], "site.yaml"):
        assert part in page.text


def test_a_program_on_this_machine_may_reload_a_running_service(router: RunningRouter) -> None:
    reply = Reply(router.site.http_port, "/-/reload", method="POST")
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert set(reply.json) == {"reloaded", "changed", "hash", "restart_needed", "diagnostics"}
    assert (reply.json["reloaded"], reply.json["changed"], reply.json["diagnostics"]) == (True, False, [])


def test_who_has_logged_in_has_a_rule_swept_and_a_study_explained_by_a_running_service(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    site.settings["token"] = {"file": str(tmp_path / "token")}
    site.configure(nodes={"archive": node("ARCHIVE", free_port())}, rules={"r": RULE})
    with site.run() as router:
        visitor = Visitor(site.http_port)
        assert visitor.do("/rules/r/sweep").status == 403
        assert visitor.log_in().status == 303
        assert visitor.do("/rules/r/sweep").status == 303

        def swept() -> dict[str, Any] | None:
            (rule,) = Reply(site.http_port, "/api/v1/rules").json["rules"]
            return rule["last"] if rule["last"] and rule["last"]["state"] == "failed" else None

        assert "archive" in wait_for(swept, "the sweep to fail, for nobody listens")["reason"]
        page = visitor.do("/explain", study_instance_uid=STUDY)
        assert page.status == 200
        assert "archive" in page.text
        for said in ("action=login", "action=sweep", "action=explain", "by=session"):
            assert said in router.log
        for secret in (TOKEN, STUDY):
            assert secret not in router.log


def test_what_is_not_there_is_not_found(router: RunningRouter) -> None:
    port = router.site.http_port
    for path in ("/nothing", "/metrics/x", "/..%2f..%2fetc/passwd", "/docs", "/openapi.json"):
        assert Reply(port, path).status == 404, path
    assert Reply(port, "/metrics", method="POST").status == 405
    assert Reply(port, "/healthz").status == 200


def test_a_ledger_that_cannot_be_written_is_seen_and_so_is_its_recovery(site: Site) -> None:
    def tell(statement: str) -> None:
        ledger = sqlite3.connect(site.directory / "ledger.db", timeout=20)
        with ledger:
            ledger.execute(statement)
        ledger.close()

    with site.run() as router:
        for happening in ("INSERT", "UPDATE"):
            tell(f"CREATE TRIGGER no_{happening} BEFORE {happening} ON services BEGIN SELECT RAISE(ABORT, 'full'); END")
        reply = wait_for(
            lambda: (answer := Reply(site.http_port, "/readyz")).status == 503 and answer, "the router is not ready"
        )
        assert list(reply.problems) == ["ledger"]
        assert "ledger.db" in reply.problems["ledger"]
        assert Reply(site.http_port, "/metrics").status == 200
        for happening in ("INSERT", "UPDATE"):
            tell(f"DROP TRIGGER no_{happening}")
        wait_for(lambda: Reply(site.http_port, "/readyz").status == 200, "the router is ready again")
        assert "Traceback" not in router.log


def test_a_disk_that_is_short_of_room_is_not_ready_but_healthy(site: Site) -> None:
    site.settings["minimum_free"] = "999999GiB"
    site.configure(nodes={"archive": node("ARCHIVE", free_port())}, rules={"r": RULE})
    with Unready(site) as router:
        reply = Reply(site.http_port, "/readyz")
        assert reply.status == 503
        assert "bytes free" in reply.problems["disk"]
        assert Reply(site.http_port, "/healthz").status == 200
        assert Reply(site.http_port, "/metrics").status == 200
        assert router.stop() == 0


class Unready(RunningRouter):
    """A router that answers but does not become ready."""

    def ready(self) -> bool:
        return (
            listening(self.site.http_port)
            and "not listening" not in Reply(self.site.http_port, "/readyz").body.decode()
        )


def test_a_port_that_is_taken_is_one_clear_line(router: RunningRouter, site: Site) -> None:
    taken = router.site.http_port
    site.settings["http"] = f"127.0.0.1:{taken}"
    site.configure(nodes={"archive": node("ARCHIVE", free_port())}, rules={"r": RULE})
    done = site.call("run")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    for part in ("router.http", f"127.0.0.1:{taken}", "Address already in use"):
        assert part in lines[0]
    assert Reply(taken, "/readyz").status == 200, "the first is not disturbed"


def test_it_stops_listening_and_ends_on_sigterm(site: Site) -> None:
    with site.run() as router:
        idle = http.client.HTTPConnection("127.0.0.1", site.http_port, timeout=60)
        idle.request("GET", "/healthz")
        idle.getresponse().read()  # kept alive: a scraper that stays connected must not hold the router up
        silent = http.client.HTTPConnection("127.0.0.1", site.http_port, timeout=60)
        silent.connect()
        assert router.stop() == 0
        assert not listening(site.http_port)
        idle.close()
        silent.close()
    assert re.search(r"\bstopped\b", router.log)
    assert "Traceback" not in router.log


# --- The server alone ------------------------------------------------------------------------------------------------


@pytest.fixture
def part() -> Part:
    return Part()


@pytest.fixture
def configuration() -> Configuration:
    return Configuration()


@pytest.fixture
def server(part: Part, configuration: Configuration) -> Iterator[HttpServer]:
    one = HttpServer(part, configuration, "127.0.0.1", 0)
    one.start()
    yield one
    one.stop()


def test_not_ready_and_not_healthy_are_503_with_the_reason(part: Part, server: HttpServer) -> None:
    part.unready = {"store": "not listening yet"}
    assert Reply(server.port, "/readyz").status == 503
    assert Reply(server.port, "/readyz").problems == {"store": "not listening yet"}
    assert Reply(server.port, "/healthz").status == 200
    part.unwell = {"receipts": "thread ended"}
    assert Reply(server.port, "/healthz").status == 503
    assert Reply(server.port, "/healthz").problems == part.unwell


def test_a_defect_is_a_500_without_its_text(part: Part, server: HttpServer, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> bytes:
        raise ValueError("DOE^JANE")

    part.metrics = fail
    reply = Reply(server.port, "/metrics")
    assert reply.status == 500
    assert "see its log" in reply.body.decode()
    said = reply.body.decode() + "".join(capfd.readouterr())
    assert "DOE" not in said
    assert "Traceback" not in said
    assert Reply(server.port, "/healthz").status == 200


def test_a_scrape_that_hangs_does_not_hold_up_the_health_check_nor_the_end(part: Part) -> None:
    entered, free = threading.Event(), threading.Event()

    def hang() -> bytes:
        entered.set()
        free.wait(60.0)
        return b""

    part.metrics = hang
    server = HttpServer(part, Configuration(), "127.0.0.1", 0)
    server.start()
    waiting = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    waiting.request("GET", "/metrics")
    assert entered.wait(20.0)
    assert Reply(server.port, "/healthz").status == 200
    stopped = threading.Event()

    def stop() -> None:
        server.stop()
        stopped.set()

    threading.Thread(target=stop, daemon=True).start()
    assert stopped.wait(30.0)
    free.set()
    waiting.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.7", "no-such-host.invalid"])
def test_an_address_it_cannot_have_is_named_with_the_reason(part: Part, server: HttpServer, host: str) -> None:
    with pytest.raises(RouterError, match=r"^Cannot listen on \S+:\d+ for HTTP \(.+\); change router\.http\.$") as told:
        HttpServer(part, Configuration(), host, server.port)
    assert f"{host}:{server.port}" in str(told.value)
    assert "\n" not in str(told.value)


def test_it_can_be_stopped_without_having_been_started(part: Part) -> None:
    server = HttpServer(part, Configuration(), "127.0.0.1", 0)
    server.stop()
    assert not listening(server.port)


# --- Status page, alone ----------------------------------------------------------------------------------------------


def test_the_page_shows_a_refused_configuration_as_text_whatever_it_holds(
    server: HttpServer, configuration: Configuration, part: Part
) -> None:
    warning = msgspec.structs.replace(MISTAKE, severity=Severity.WARNING, line=0, message="odd", hint="")
    configuration.refuse(MISTAKE, warning)
    configuration.reload()
    configuration.standing = msgspec.structs.replace(configuration.standing, restart_needed=("http", "drain"))
    part.unready = {"disk": "12 bytes free"}
    text = " ".join(Reply(server.port, "/configuration").text.split())
    for shown in (
        "refused",
        "rules/&lt;b&gt;.yaml:8:42",
        "DR022",
        "there is no node &#39;&lt;x&gt;&#39;",
        "try &amp; see",
        "Warning",
        "router.http",
        "router.drain",
        "12 bytes free",
    ):
        assert shown in text, shown
    assert "<x>" not in text
    last = Reply(server.port, "/api/v1/configuration").json["configuration"]["last_reload"]
    assert last["diagnostics"][0] == {
        "file": "rules/<b>.yaml",
        "line": 8,
        "column": 42,
        "severity": "error",
        "code": "DR022",
        "message": "there is no node '<x>'",
        "hint": "try & see",
    }
    assert (last["reloaded"], last["hash"], last["diagnostics_total"]) == (False, "bad", 2)


def test_a_page_needs_nothing_from_anywhere(server: HttpServer) -> None:
    reply = Reply(server.port, "/configuration")
    for outside in ("http:", "https:", "@import", "url(", "onload", "<style"):
        assert outside not in reply.text
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert reply.headers["cache-control"] == "no-store"


def test_very_many_diagnostics_are_counted_and_the_first_ones_shown(
    server: HttpServer, configuration: Configuration
) -> None:
    configuration.refuse(*(msgspec.structs.replace(MISTAKE, line=number) for number in range(1, 1501)))
    assert len(Reply(server.port, "/-/reload", method="POST").json["diagnostics"]) == 500
    text = Reply(server.port, "/configuration").text
    assert text.count("DR022") == 500
    assert "and 1000 more" in text


# --- POST /-/reload --------------------------------------------------------------------------------------------------


def test_a_refused_configuration_is_422_with_its_diagnostics(server: HttpServer, configuration: Configuration) -> None:
    configuration.refuse(MISTAKE)
    reply = Reply(server.port, "/-/reload", method="POST")
    assert reply.status == 422
    assert (reply.json["reloaded"], reply.json["changed"], reply.json["hash"]) == (False, False, "abc")
    assert [one["code"] for one in reply.json["diagnostics"]] == ["DR022"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_only_a_post_reloads(server: HttpServer, configuration: Configuration, method: str) -> None:
    reply = Reply(server.port, "/-/reload", method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert configuration.reloads == 0


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({"Origin": "https://evil.example"}, "another site"),
        ({"Sec_Fetch_Site": "cross-site"}, "another site"),
        ({"Host": "rebound.example"}, "another host"),
        ({"X_Forwarded_For": "127.0.0.1"}, "own machine"),
    ],
)
def test_without_a_token_browsers_and_proxies_are_refused_with_what_to_do(
    server: HttpServer, configuration: Configuration, headers: dict[str, str], word: str
) -> None:
    reply = Reply(server.port, "/-/reload", method="POST", **headers)
    assert reply.status == 403
    assert word in reply.json["error"]
    assert "set router.token" in reply.json["error"]
    assert configuration.reloads == 0


def test_with_a_token_who_shows_it_may_and_nobody_else(server: HttpServer, configuration: Configuration) -> None:
    configuration.secret = TOKEN
    for shown in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {TOKEN}"}):
        refused = Reply(server.port, "/-/reload", method="POST", **shown)
        assert refused.status == 403
        assert "router.token" in refused.json["error"]
        assert TOKEN not in refused.text
    far = {"Host": "router.example", "X_Forwarded_For": "10.0.0.9"}
    assert Reply(server.port, "/-/reload", method="POST", Authorization=f"Bearer {TOKEN}", **far).status == 200
    assert configuration.reloads == 1


def test_a_token_that_is_not_to_be_had_keeps_everybody_out(server: HttpServer, configuration: Configuration) -> None:
    configuration.lost = "the environment variable X is not set"
    reply = Reply(server.port, "/-/reload", method="POST")
    assert reply.status == 403
    assert "X is not set" in reply.json["error"]
    assert configuration.reloads == 0


def test_reloads_come_one_after_the_other_a_few_wait_and_health_never_does(
    server: HttpServer, configuration: Configuration
) -> None:
    entered, free = threading.Event(), threading.Event()
    at_once: list[int] = []
    running = threading.Semaphore(0)

    def slowly() -> Reload:
        running.release()
        at_once.append(threading.active_count())
        entered.set()
        assert free.wait(60)
        assert running.acquire(blocking=False), "another one runs at the same time"
        assert not running.acquire(blocking=False), "another one runs at the same time"
        return GOOD

    configuration.loading = slowly
    with ThreadPoolExecutor(60) as pool:
        replies = [pool.submit(Reply, server.port, "/-/reload", method="POST") for _ in range(60)]
        try:
            assert entered.wait(30)
            turned_away = wait_for(
                lambda: [one for one in replies if one.done() and one.result().status == 503], "some to be turned away"
            )
            assert turned_away[0].result().headers["retry-after"]
            assert Reply(server.port, "/healthz").status == 200
            assert Reply(server.port, "/metrics").status == 200
        finally:
            free.set()
        statuses = [one.result(60).status for one in replies]
    assert statuses.count(200) == configuration.reloads >= 16
    assert statuses.count(200) + statuses.count(503) == 60


def test_connections_that_never_ask_anything_are_closed_and_keep_nobody_out(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(bounded, "MOST_CONNECTIONS", 20)
    with contextlib.ExitStack() as stack:
        silent = []
        for _ in range(60):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            with contextlib.suppress(OSError):  # one too many is closed at once
                one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            silent.append(one)
        for one in silent:
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
        assert Reply(server.port, "/healthz").status == 200
