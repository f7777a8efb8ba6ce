"""The HTTP endpoints, of a running service and of the server alone."""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.errors import RouterError
from router.web.app import HttpServer
from tests.support.peers import check_metrics
from tests.support.ports import free_port, listening
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

RULE: dict[str, Any] = {
    "sweep": {"source": "archive", "cron": "0 0 1 1 *", "keys": {"StudyDate": "today"}},
    "move": {"to": ["local"]},
}
OPEN_METRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


class Reply:
    """An HTTP response."""

    def __init__(self, port: int, path: str, *, method: str = "GET", **headers: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            self.status = response.status
            self.content_type = response.headers.get("content-type", "")
            self.body = response.read()
        finally:
            connection.close()

    @property
    def problems(self) -> dict[str, str]:
        said = json.loads(self.body)
        assert said["status"] == ("ok" if self.status == 200 else "failing")
        assert self.content_type == "application/json"
        return dict(said["problems"])


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

    def _ready(self) -> bool:
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
        idle = http.client.HTTPConnection("127.0.0.1", site.http_port, timeout=20)
        idle.request("GET", "/healthz")
        idle.getresponse().read()  # kept alive: a scraper that stays connected must not hold the router up
        silent = http.client.HTTPConnection("127.0.0.1", site.http_port, timeout=20)
        silent.connect()
        assert router.stop() == 0
        assert not listening(site.http_port)
        idle.close()
        silent.close()
    assert re.search(r"\bstopped\b", router.log)
    assert "Traceback" not in router.log


# --- The server alone ------------------------------------------------------------------------------------------------


class Part:
    """What the endpoints show, as the test says."""

    def __init__(self) -> None:
        self.metrics: Callable[[], bytes] = lambda: b"x 1\n"
        self.unwell: dict[str, str] = {}
        self.unready: dict[str, str] = {}

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        return self.metrics(), "text/plain"

    def health(self) -> dict[str, str]:
        return self.unwell

    def readiness(self) -> dict[str, str]:
        return {**self.unwell, **self.unready}


@pytest.fixture
def part() -> Part:
    return Part()


@pytest.fixture
def server(part: Part) -> Iterator[HttpServer]:
    one = HttpServer(part, "127.0.0.1", 0)
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
    server = HttpServer(part, "127.0.0.1", 0)
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
        HttpServer(part, host, server.port)
    assert f"{host}:{server.port}" in str(told.value)
    assert "\n" not in str(told.value)


def test_it_can_be_stopped_without_having_been_started(part: Part) -> None:
    server = HttpServer(part, "127.0.0.1", 0)
    server.stop()
    assert not listening(server.port)
