"""The dashboards asked of a real Prometheus that scrapes a router at work: every panel has something to show."""

from __future__ import annotations

import functools
import http.client
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.alerts import without_waiting
from tests.support.dashboard import DASHBOARDS, expressions, load, offers, resolve
from tests.support.hospital import INSTANCES, Hospital
from tests.support.peers import Orthanc, Prometheus
from tests.support.process import wait_for


@pytest.fixture
def hospital(tmp_path: Path, start_orthanc: Callable[..., Orthanc]) -> Iterator[Hospital]:
    with ExitStack() as stack:
        yield Hospital(tmp_path, stack, start_orthanc(ae_title="VAULT"))


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
    """The panels that have nothing to show, a value that is no number, or a series without a name."""
    poor = []
    for expression in expressions():
        result = prometheus.query(expression.promql)
        numbers = all(math.isfinite(sample.value) for sample in result)
        named = all(sample.labels.get(label) for sample in result for label in expression.named_by)
        if not (result and numbers and named):
            poor.append(f"{expression.dashboard}, {expression.panel}: {result}\n    {expression.promql}")
    return poor


def panel(prometheus: Prometheus, where: str, *labels: str) -> dict[str, float]:
    """What the first query of a panel (`dashboard: title`) shows, by these labels."""
    dashboard, _, title = where.partition(": ")
    expression = next(one.promql for one in expressions() if (one.dashboard, one.panel) == (dashboard, title))
    return {
        " ".join(sample.labels.get(label, "") for label in labels): sample.value
        for sample in prometheus.query(expression)
    }


def test_every_panel_shows_what_the_router_does(
    hospital: Hospital, plain_port: int, tmp_path: Path, start_prometheus: Callable[..., Prometheus]
) -> None:
    site = hospital.site
    rules = without_waiting(tmp_path / "rules")
    with site.run() as router:
        both = [
            start_prometheus(targets={"dicom-router": port}, scrape_interval="1s", rules=rules)
            for port in (site.http_port, plain_port)
        ]
        for prometheus in both:
            # An increase begins at the second scrape: what counts from 0 has to be seen at 0 first.
            prometheus.wait_until_up("dicom-router")
            wait_for(functools.partial(prometheus.value, "count(dicom_router_build_info)"), "a first scrape")
        hospital.work()
        assert len(site.stored()) == 2 * INSTANCES - 1
        wait_for(lambda: len(hospital.reading.stored) == INSTANCES + 2 * PRIOR, "the priors of both patients")
        for prometheus in both:
            all_answer(prometheus)
            eventually(functools.partial(panels_say_what_happened, prometheus))
            eventually(functools.partial(totals_are_exact, prometheus))
            eventually(functools.partial(variables_offer_what_is_configured, prometheus, hospital))
        wait_for(lambda: len(one := series(both[0])) > 1000 and one == series(both[1]), "both to say the same")
        assert hospital.told.taken
        assert router.stop() == 0


def all_answer(prometheus: Prometheus) -> None:
    """Every expression of every dashboard has a value at the same time."""
    poor = ["not asked yet"]

    def every_one() -> bool:
        poor[:] = without_an_answer(prometheus)
        return not poor

    try:
        wait_for(every_one, "an answer to every panel", interval=0.5)
    except AssertionError:
        pytest.fail("\n".join(poor))


def eventually(check: Callable[[], None], seconds: float = 120.0) -> None:
    """Let a check fail for a while: the scrape that sees what has just happened may be yet to come."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (AssertionError, KeyError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def shows(prometheus: Prometheus, where: str, labels: tuple[str, ...]) -> set[str]:
    """What a panel shows above 0, by the labels."""
    return {label for label, value in panel(prometheus, where, *labels).items() if value > 0}


SWEPT = {"from-healthy", "from-loses-some", "from-forgetful", "from-worklist", "from-orders"}
NOT_SWEPT = {"from-rejects", "from-dead"}
CALLERS = {"healthy 0x0000", "loses-some 0x0000", "loses-some 0xC000"}
FULL = {
    ("overview: Alerts firing", ()): {""},
    ("overview: Sub-operations completed", ()): {""},
    ("overview: Sub-operations by outcome", ("outcome",)): {"completed", "failed"},
    ("overview: Transfers ended by verdict", ("verdict",)): {"complete", "partial"},
    ("overview: Verdicts by rule and destination", ("rule", "destination", "verdict")): {
        "from-healthy local complete",
        "from-healthy reading-room complete",
        "from-healthy vault complete",
        "from-loses-some local partial",
        "from-orders reading-room complete",
        "from-worklist reading-room complete",
    },
    ("overview: Node up", ("node",)): {
        "healthy",
        "reading-room",
        "vault",
        "loses-some",
        "forgetful",
        "past",
        "ris",
    },
    ("overview: Route stopped", ("source", "destination")): {"forgetful local"},
    ("overview: Notifications by result", ("channel", "result")): {"chat sent"},
    ("overview: In force since", ()): {""},
    ("node: Breaker", ("node",)): {"dead"},
    ("node: Stored by it here", ("calling", "status")): CALLERS,
    ("node: Moves in the last hour", ("node",)): {"healthy"},
    ("node: Storage commitment", ("node", "result")): {"vault requested", "vault committed"},
    ("rule: Matches by rule", ("rule",)): {"from-healthy", "from-loses-some", "from-forgetful", "from-worklist"},
    ("rule: Sweeps by result", ("result",)): {"complete", "failed"},
    ("rule: Sweeps missed", ("rule",)): set(),
    ("rule: Sweep completeness", ("rule",)): SWEPT,
    ("store: Instances by caller and status", ("calling", "status")): CALLERS,
    ("store: Bytes received", ("calling",)): {"healthy", "loses-some"},
    ("store: Refused by reason", ("reason",)): {"unparseable", "association-rejected"},
    ("store: HL7 messages by answer", ("code",)): {"AA", "AE"},
    ("store: Days until certificates expire", ("certificate",)): {
        "nodes.night.tls.ca",
        "nodes.night.tls.certificate",
    },
    ("prefetch: Priors ended", ("result",)): {"on_time"},
    ("prefetch: Lead", ("rule",)): {"from-worklist", "from-orders"},
    ("prefetch: Priors chosen by group", ("rule", "group")): {
        "from-worklist same-region",
        "from-orders same-region",
    },
    ("prefetch: Appointments by trigger", ("rule", "trigger")): {"from-worklist worklist", "from-orders order"},
    ("prefetch: Looks by result", ("result",)): {"done"},
    ("prefetch: Messages refused by reason", ("reason",)): {"missing-field"},
    ("prefetch: Values refused by reason", ("trigger", "reason")): {"worklist wildcard"},
}
"""(panel, labels) -> what is above 0 there."""
EXACT = {
    "overview: Remaining": 0,
    "overview: Waiting": 1,
    "overview: Nodes down": 2,
    "overview: Nodes left alone": 1,
    "overview: Routes stopped": 1,
    "overview: Sweeps late": 0,
    "overview: Priors not on time": 0,
    "overview: Last reload": 1,
    "overview: Routers running": 1,
    "overview: Notifications waiting": 0,
    "overview: Services on the ledger": 1,
    "overview: Leader": 1,
    "overview: Replicas": 1,
    "overview: Names of the replicas": 1,
    "node: Windows closed": 1,
    "rule: Holds let go": 0,
    "prefetch: On time": 1,
    "store: Time until the floor": None,
}
"""Panel of one number -> that number; None: some positive one."""


def panels_say_what_happened(prometheus: Prometheus) -> None:
    show = functools.partial(panel, prometheus)
    for (where, labels), expected in FULL.items():
        assert shows(prometheus, where, labels) == expected, where
    for where, number in EXACT.items():
        ((_, value),) = show(where).items()
        assert value == number if number is not None else value > 0, where
    assert show("overview: Node up", "node").keys() - shows(prometheus, "overview: Node up", ("node",)) == {
        "rejects",
        "dead",
    }
    assert set(show("rule: Sweep completeness", "rule")) == SWEPT | NOT_SWEPT
    ages = show("overview: Age of the last complete sweep", "rule")
    assert set(ages) == SWEPT
    assert all(0 <= age < 300 for age in ages.values())
    assert show("node: Requests that waited, by what for", "node", "reason")["healthy duty"] > 0
    assert show("overview: C-MOVE responses by status", "source", "status")["healthy 0x0000"] > 0
    assert show("node: C-MOVE responses by status", "source", "status")["forgetful 0xA801"] > 0
    failed = show("node: Associations by result", "node", "result")
    assert failed["rejects rejected_permanent"] > 0
    assert failed["dead refused"] > 0
    assert failed["never-asked accepted"] == 0
    accepted = show("store: Associations as acceptor", "node", "result")
    assert accepted["healthy accepted"] > 0
    assert accepted["other rejected_permanent"] > 0
    assert {"DicomRouterRouteStopped forgetful", "DicomRouterBreakerOpen "} <= set(
        show("overview: Alerts", "alertname", "source")
    )


PRIOR = 2
"""Instances of each prior."""


def totals_are_exact(prometheus: Prometheus) -> None:
    arrived = 4 * INSTANCES - 1 + 2 * PRIOR
    for expression, total in {
        'sum(dicom_router_move_suboperations_total{outcome="completed"})': arrived,
        'sum(dicom_router_store_instances_total{status="0x0000"})': 2 * INSTANCES - 1,
        'sum(dicom_router_transfers{state="complete"})': 5,
        'sum(dicom_router_transfers{state="partial"})': 1,
        "sum(dicom_router_transfers)": 7,
        "sum(dicom_router_transfers_total)": 6,
        "sum(dicom_router_seen_to_verified_seconds_count)": 6,
        'sum(dicom_router_sweep_matches_total{rule!="from-worklist"})': 3,
    }.items():
        prometheus.wait_for_value(expression, total)


def variables_offer_what_is_configured(prometheus: Prometheus, hospital: Hospital) -> None:
    offered: dict[tuple[str, str], set[str]] = {}
    for path in DASHBOARDS:
        for variable, asked, label in offers(load(path)):
            found = prometheus.query(f"count by ({label}) ({resolve(asked)})")
            offered[path.stem, variable] = {sample.labels[label] for sample in found}
    sources = {name.removeprefix("from-") for name in SWEPT | NOT_SWEPT} - {"worklist", "orders"} | {"past"}
    expected = {
        "rule": set(hospital.rules),
        "source": sources,
        "destination": {"local", "reading-room", "vault"},
        "node": set(hospital.nodes),
    }
    for (dashboard, variable), values in offered.items():
        if variable == "instance":
            assert len(values) == 1
        elif (dashboard, variable) == ("prefetch", "rule"):
            assert values == {"from-worklist", "from-orders"}
        else:
            assert values == expected[variable], (dashboard, variable)


RESTLESS = "dicom_router_store_free_bytes|dicom_router_transfers_oldest_queued_seconds|.*:.*"
"""What changes from scrape to scrape, and what Prometheus makes itself."""


def series(prometheus: Prometheus) -> dict[frozenset[tuple[str, str]], float]:
    """Every series of the router that does not change by itself, whoever was scraped."""
    return {
        frozenset((name, value) for name, value in sample.labels.items() if name != "instance"): sample.value
        for sample in prometheus.query(f'{{__name__=~"dicom_router_.+",__name__!~"{RESTLESS}"}}')
    }
