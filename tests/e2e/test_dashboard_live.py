"""The dashboard asked of a real Prometheus that scrapes a router at work: every panel has something to show."""

from __future__ import annotations

import functools
import http.client
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from router.simulator import CALLING_NOT_RECOGNISED, Behaviour, SimulatedPacs, make_study
from tests.support.dashboard import expressions, load, resolve
from tests.support.peers import Prometheus
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import Site, node

QUICK = {
    "find": {"inactivity": "5s", "total": "10s"},
    "move": {"inactivity": "5s", "total": "20s"},
    "timeouts": {"connect": "2s", "negotiation": "2s"},
}
INSTANCES = 4


class Hospital:
    """A router at work: what it did is known, so that what the panels say can be held against it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.site = Site(directory / "site", nodes={}, rules={})
        self.stack = stack
        self.nodes: dict[str, Any] = {}
        self.rules: dict[str, Any] = {}
        self.reading = stack.enter_context(SimulatedPacs("READING"))
        self.nodes["reading-room"] = node("READING", self.reading.port, **QUICK)
        self.healthy = self.archive("healthy", None, "local", "reading-room")
        self.archive("loses-some", Behaviour(undecodable_instances=1), "local")
        self.archive("rejects", Behaviour(reject=CALLING_NOT_RECOGNISED), "local")
        self.nodes["dead"] = node("DEAD", free_port(), **QUICK)
        self.rules["from-dead"] = self.rule("dead", "local")
        self.nodes["never-asked"] = node("NEVER", free_port(), **QUICK)
        self.site.configure(nodes=self.nodes, rules=self.rules)

    def archive(self, name: str, behaviour: Behaviour | None, *destinations: str) -> SimulatedPacs:
        title = name.upper()
        pacs = SimulatedPacs(
            title,
            studies=make_study(seed=name, study_date=f"{date.today():%Y%m%d}", instances=INSTANCES),
            behaviour=behaviour,
            destinations={
                "ROUTER": ("127.0.0.1", self.site.dicom_port),
                "READING": ("127.0.0.1", self.reading.port),
            },
        )
        self.stack.enter_context(pacs)
        self.nodes[name] = node(title, pacs.port, **QUICK)
        self.rules[f"from-{name}"] = self.rule(name, *destinations)
        return pacs

    @staticmethod
    def rule(source: str, *destinations: str) -> dict[str, Any]:
        return {
            "sweep": {"source": source, "cron": "0 0 1 1 *", "keys": {"StudyDate": "today-2d..today"}},
            "move": {"to": list(destinations), "retry": {"attempts": 1}},
        }


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    with ExitStack() as stack:
        yield Hospital(tmp_path, stack)


class PlainText(BaseHTTPRequestHandler):
    """Hands a scrape on to the router, but takes plain text only: Prometheus itself prefers OpenMetrics."""

    def do_GET(self) -> None:
        router = http.client.HTTPConnection("127.0.0.1", self.server.router_port, timeout=20)  # type: ignore[attr-defined]
        try:
            router.request("GET", self.path, headers={"Accept": "text/plain;version=0.0.4"})
            reply = router.getresponse()
            body = reply.read()
        except OSError:
            self.send_error(503)  # it has stopped
            return
        finally:
            router.close()
        self.send_response(reply.status)
        self.send_header("content-type", reply.headers["content-type"])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def plain_port(hospital: Hospital) -> Iterator[int]:
    """A port where the router's metrics are plain text whatever is asked for."""
    with ThreadingHTTPServer(("127.0.0.1", 0), PlainText) as server:
        server.router_port = hospital.site.http_port  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(10.0)


def without_an_answer(prometheus: Prometheus) -> list[str]:
    """The panels that have nothing to show, or a value that is no number."""
    poor = []
    for expression in expressions():
        result = prometheus.query(expression.promql)
        if not result or any(math.isnan(sample.value) for sample in result):
            poor.append(f"{expression.panel}: {result}")
    return poor


def panel(prometheus: Prometheus, title: str, *labels: str) -> dict[str, float]:
    """What the first query of a panel shows, by these labels."""
    expression = next(one.promql for one in expressions() if one.panel == title)
    return {" ".join(sample.labels[label] for label in labels): sample.value for sample in prometheus.query(expression)}


def test_every_panel_shows_what_the_router_does(
    hospital: Hospital, plain_port: int, start_prometheus: Callable[..., Prometheus]
) -> None:
    site = hospital.site
    with site.run() as router:
        both = [
            start_prometheus(targets={"dicom-router": port}, scrape_interval="1s")
            for port in (site.http_port, plain_port)
        ]
        for prometheus in both:
            # An increase begins at the second scrape: what counts from 0 has to be seen at 0 first.
            prometheus.wait_until_up("dicom-router")
            wait_for(functools.partial(prometheus.value, "count(dicom_router_build_info)"), "a first scrape")
        site.apply(code=1)
        assert len(hospital.reading.stored) == INSTANCES
        assert len(site.stored()) == 2 * INSTANCES - 1
        for prometheus in both:
            all_answer(prometheus)
            eventually(functools.partial(panels_say_what_happened, prometheus))
            eventually(functools.partial(totals_are_exact, prometheus))
            variables_offer_what_is_configured(prometheus, hospital)
        wait_for(lambda: series(both[0]) == series(both[1]), "both formats to say the same")
        assert len(series(both[0])) > 300
        assert router.stop() == 0


def all_answer(prometheus: Prometheus) -> None:
    poor = ["not asked yet"]

    def every_one() -> bool:
        poor[:] = without_an_answer(prometheus)
        return not poor

    try:
        wait_for(every_one, "an answer to every panel", interval=0.5)
    except AssertionError:
        pytest.fail("\n".join(poor))


def eventually(check: Callable[[], None], seconds: float = 30.0) -> None:
    """Let a check fail for a while: the scrape that sees what has just happened may be yet to come."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (AssertionError, KeyError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def shows(prometheus: Prometheus, title: str, labels: tuple[str, ...], expected: set[str]) -> bool:
    """Whether a panel shows exactly these, by the labels, above 0."""
    return {label for label, value in panel(prometheus, title, *labels).items() if value > 0} == expected


def panels_say_what_happened(prometheus: Prometheus) -> None:
    show = functools.partial(panel, prometheus)
    wait_for(lambda: show("Remaining") == {"": 0.0}, "nothing to remain")
    assert show("Waiting") == {"": 0.0}
    assert show("Oldest waiting") == {"": 0.0}
    assert show("Last reload") == {"": 1.0}
    assert show("Nodes down") == {"": 2.0}
    assert show("Node up", "node") == {"healthy": 1, "reading-room": 1, "loses-some": 1, "rejects": 0, "dead": 0}
    assert show("Sweep completeness", "rule") == {
        "from-healthy": 1,
        "from-loses-some": 1,
        "from-rejects": 0,
        "from-dead": 0,
    }
    assert set(show("Age of the last complete sweep", "rule")) == {"from-healthy", "from-loses-some"}
    assert all(0 <= age < 300 for age in show("Age of the last complete sweep", "rule").values())
    for title, labels, shown in (
        ("Sub-operations completed", (), {""}),
        ("Sub-operations by outcome", ("outcome",), {"completed", "failed"}),
        ("Transfers ended by verdict", ("verdict",), {"complete", "partial"}),
        (
            "Verdicts by rule and destination",
            ("rule", "destination", "verdict"),
            {"from-healthy local complete", "from-healthy reading-room complete", "from-loses-some local partial"},
        ),
        ("Matches", ("rule",), {"from-healthy", "from-loses-some"}),
        ("Sweeps by result", ("result",), {"complete", "failed"}),
        ("Sweeps missed", ("rule",), set()),
        ("Instances received", ("calling", "status"), {"healthy 0x0000", "loses-some 0x0000", "loses-some 0xC000"}),
        ("Bytes received", ("calling",), {"healthy", "loses-some"}),
        ("Refusals", ("reason",), {"unparseable"}),
        ("In force since", (), {""}),
    ):
        assert shows(prometheus, title, labels, shown), title
    assert show("C-MOVE responses by status", "source", "status")["healthy 0x0000"] > 0
    associations = show("Associations by result", "node", "role", "result")
    assert associations["rejects requestor rejected_permanent"] > 0
    assert associations["dead requestor refused"] > 0
    assert associations["healthy acceptor accepted"] > 0
    assert associations["never-asked requestor accepted"] == 0


def totals_are_exact(prometheus: Prometheus) -> None:
    arrived = 3 * INSTANCES - 1
    for expression, total in {
        'sum(dicom_router_move_suboperations_total{outcome="completed"})': arrived,
        'sum(dicom_router_store_instances_total{status="0x0000"})': 2 * INSTANCES - 1,
        'sum(dicom_router_transfers{state="complete"})': 2,
        'sum(dicom_router_transfers{state="partial"})': 1,
        "sum(dicom_router_transfers)": 3,
        "sum(dicom_router_transfers_total)": 3,
        "sum(dicom_router_seen_to_verified_seconds_count)": 3,
        "sum(dicom_router_sweep_matches_total)": 2,
    }.items():
        prometheus.wait_for_value(expression, total)


def variables_offer_what_is_configured(prometheus: Prometheus, hospital: Hospital) -> None:
    offered = {}
    for variable in load()["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
            found = prometheus.query(f"count by ({label}) ({resolve(metric)})")
            offered[variable["name"]] = {sample.labels[label] for sample in found}
    assert offered["rule"] == set(hospital.rules)
    assert offered["source"] == {"healthy", "loses-some", "rejects", "dead"}
    assert offered["destination"] == {"local", "reading-room"}
    assert len(offered["instance"]) == 1


def series(prometheus: Prometheus) -> dict[frozenset[tuple[str, str]], float]:
    """Every series of the router, whoever was scraped."""
    return {
        frozenset((name, value) for name, value in sample.labels.items() if name != "instance"): sample.value
        for sample in prometheus.query('{__name__=~"dicom_router_.+"}')
    }
