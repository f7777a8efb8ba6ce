"""The alerts asked of a real Prometheus that scrapes a router in trouble: what should fire does, and nothing else."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from router.dimse.peers import Peers
from router.domain.rule import Node
from router.errors import WireError
from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.alerts import MONITORING, without_waiting
from tests.support.certificates import Authority
from tests.support.filesystems import MEBIBYTE, SmallDisk, small_disk
from tests.support.hl7 import PATIENT, MllpClient, message, order
from tests.support.peers import Prometheus
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

BORN = "19640812"
"""What the sample of an order says of its patient."""
MINIMUM_FREE = 16 * MEBIBYTE
SECONDS = 180.0
"""Generous: Prometheus, a router and six archives share the machine with other tests."""
QUICK = {
    "find": {"inactivity": "10s", "total": "20s"},
    "move": {"inactivity": "10s", "total": "20s"},
    "timeouts": {"connect": "5s", "negotiation": "5s"},
    "breaker": {"failures": 2, "pause": "2s", "maximum_pause": "2s"},
}


class Trouble:
    """A router and whom it works with: each has one thing wrong, but for `healthy`."""

    def __init__(self, directory: Path, disk: SmallDisk, stack: ExitStack) -> None:
        self.disk = disk
        self.stack = stack
        self.hl7_port = free_port()
        self.site = Site(
            directory / "site",
            nodes={},
            rules={},
            router={
                "store": str(disk.root / "store"),
                "minimum_free": MINIMUM_FREE,
                "notify": {
                    "channels": {
                        "on-call": {"webhook": {"url": f"http://127.0.0.1:{free_port()}/", "encryption": "none"}}
                    },
                    "wait": "1s",
                },
                "hl7": {"listen": f"127.0.0.1:{self.hl7_port}", "timezone": "UTC"},
            },
        )
        self.site.store = disk.root / "store"
        self.nodes: dict[str, Any] = {"dead": node("DEAD", free_port(), **QUICK)}
        self.rules: dict[str, Any] = {"from-dead": self.rule("dead", "local", every="1s")}
        self.room = self.archive("room", Behaviour(store_status=0xA700), studies=0)
        self.archive("healthy", None)
        self.archive("loses", Behaviour(undecodable_instances=1), studies=12)
        self.archive("lies", Behaviour(deliver_fraction=0.5))
        self.archive("crowded", None, studies=3, limits={"studies_per_sweep": 1})
        self.archive("anonymous", Behaviour(rows_without_uid=1))
        self.archive("slow", Behaviour(response_delay_seconds=3.5), every="1s")
        self.archive("forgetful", None, knows_router=False)
        self.archive("refused", None, to="room")
        self.archive("history", None, swept=False)
        self.rules["priors"] = {
            "order": {},
            "priors": {
                "source": "history",
                "groups": [{"name": "any", "where": {"modality": "CT"}, "max": 1, "within": "5y"}],
            },
            "move": {"to": ["room"], "retry": {"attempts": 1}},
        }
        authority = Authority(directory / "keys")
        own = authority.issue("own", days=1)
        files = {"ca": str(authority.certificate), "certificate": str(own.certificate), "key": {"file": str(own.key)}}
        self.nodes["secured"] = node("SECURED", free_port(), tls=files)
        self.site.configure(nodes=self.nodes, rules=self.rules)

    def archive(
        self,
        name: str,
        behaviour: Behaviour | None,
        *,
        studies: int = 1,
        to: str = "local",
        every: str | None = None,
        knows_router: bool = True,
        swept: bool = True,
        **rule: Any,
    ) -> SimulatedPacs:
        """An archive with studies of today, and a rule that moves them."""
        made = [
            one
            for number in range(studies)
            for one in make_study(
                seed=f"{name}-{number}",
                modality="CT",
                description="CT Abdomen",
                patient_id=PATIENT,
                patient_birth_date=BORN,
                patient_sex="F",
                study_date=f"{date.today() - timedelta(days=1):%Y%m%d}",
                instances=2,
            )
        ]
        destinations = {"ROUTER": ("127.0.0.1", self.site.dicom_port)} if knows_router else {}
        if name != "room":
            destinations["ROOM"] = ("127.0.0.1", self.room.port)
        pacs = SimulatedPacs(name.upper(), studies=made, behaviour=behaviour, destinations=destinations)
        self.stack.enter_context(pacs)
        self.nodes[name] = node(name.upper(), pacs.port, timezone="UTC", **QUICK)
        if studies and swept:
            self.rules[f"from-{name}"] = self.rule(name, to, every=every, **rule)
        return pacs

    @staticmethod
    def rule(source: str, to: str, *, every: str | None = None, **more: Any) -> dict[str, Any]:
        when = {"every": every} if every else {"cron": "0 0 1 1 *"}
        return {
            "sweep": {"source": source, **when, "keys": {"StudyDate": "today-3d..today"}},
            "move": {"to": [to], "retry": {"attempts": 1}},
            **more,
        }

    # what goes wrong ----------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """The sweeps that do not come by themselves, once."""
        stopped = "from-forgetful"
        once = [name for name, rule in self.rules.items() if "cron" in rule.get("sweep", ()) and name != stopped]
        self.site.apply(*(word for name in once for word in ("--rule", name)), code=None, seconds=SECONDS)
        self.site.apply("--rule", stopped, "--timeout", "5", code=None, seconds=SECONDS)

    def order(self) -> None:
        """An examination to come whose prior will not get through, and messages that are none."""
        with MllpClient(self.hl7_port) as client:
            at = datetime.now(UTC) + timedelta(hours=2)
            assert client.ask(order(start=f"{at:%Y%m%d%H%M}")).code == "AA"
            assert client.ask(message("PID|1", "ORC|NW", "OBR|1")).code != "AA"

    def call_as_a_stranger(self) -> None:
        """An association of somebody whom nobody knows."""
        peers = Peers("STRANGER", lambda event: None)
        with pytest.raises(WireError):
            peers.echo(Node(name="router", ae_title="ROUTER", host="127.0.0.1", port=self.site.dicom_port))
        peers.close()

    def break_the_configuration(self) -> None:
        (self.site.rules_directory / "broken.yaml").write_text("rules: {broken: {move: {to: [nobody]}}}\n", "utf-8")

    def mend_the_configuration(self) -> None:
        (self.site.rules_directory / "broken.yaml").unlink()


class Asked(NamedTuple):
    """The rules as Prometheus has them."""

    prometheus: Prometheus
    alerts: dict[str, str]
    """Alert -> expression."""
    recorded: dict[str, str]
    """Recorded name -> expression."""

    def firing(self) -> dict[str, set[str]]:
        """Alert -> of each that fires what it is about, in one word."""
        found: dict[str, set[str]] = {}
        for sample in self.prometheus.query('ALERTS{alertstate="firing"}'):
            found.setdefault(sample.labels["alertname"], set()).add(about(sample.labels))
        return found


def about(labels: dict[str, str]) -> str:
    """The label that tells alerts of one name apart."""
    for name in ("rule", "certificate", "reason", "node", "source", "channel"):
        if name in labels:
            return labels[name]
    return ""


@pytest.fixture
def trouble(tmp_path: Path) -> Iterator[Trouble]:
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk("tmpfs", tmp_path, 64))
        yield Trouble(tmp_path, disk, stack)


@pytest.fixture
def other(tmp_path: Path) -> Site:
    """A second router of the same job, with another configuration, whose audit repository is not there."""
    audit = {"to": f"127.0.0.1:{free_port()}"}
    return Site(tmp_path / "other", nodes={"nobody": node("NOBODY", free_port())}, rules={}, router={"audit": audit})


def expressions(name: str, key: str) -> dict[str, str]:
    groups = yaml.safe_load((MONITORING / name).read_text("utf-8"))["groups"]
    return {rule[key]: rule["expr"] for group in groups for rule in group["rules"]}


def selectors(expression: str) -> set[str]:
    """Each metric with what it is selected by, as it stands in an expression."""
    return set(re.findall(r"(?:[\w:]*dicom_router_[\w:]+|\bup)(?:\{[^}]*\})?", expression))


EXPECTED = {
    "DicomRouterSweepIncomplete": {"from-anonymous"},
    "DicomRouterSweepStale": {"from-dead", "from-slow"},
    "DicomRouterSweepsMissed": {"from-dead", "from-slow"},
    "DicomRouterRouteStopped": {"forgetful"},
    "DicomRouterTransfersFailed": {"from-refused", "priors"},
    "DicomRouterTransfersPartial": {"from-loses"},
    "DicomRouterTransfersContradicted": {"from-lies"},
    "DicomRouterTransfersFailing": {"from-loses"},
    "DicomRouterTransfersHeld": {"from-crowded"},
    "DicomRouterNodeDown": {"dead"},
    "DicomRouterBreakerOpen": {"dead"},
    "DicomRouterPriorsLate": {"priors"},
    "DicomRouterOrdersRefused": {"missing-field"},
    "DicomRouterStoreRefused": {"association-rejected", "unparseable"},
    "DicomRouterQuarantined": {""},
    "DicomRouterAuditStuck": {""},
    "DicomRouterConfigurationsDiffer": {""},
    "DicomRouterNotificationsFailing": {"on-call"},
    "DicomRouterCertificateExpiresSoon": {"nodes.secured.tls.certificate"},
    "DicomRouterCertificateExpires": {"nodes.secured.tls.certificate"},
}
"""What fires as long as nothing is mended, and of whom it is said."""


@pytest.mark.timeout(900)
def test_alerts_fire_for_what_is_wrong_and_for_nothing_else(
    trouble: Trouble, other: Site, tmp_path: Path, start_prometheus: Callable[..., Prometheus]
) -> None:
    with trouble.site.run() as router, other.run() as beside:
        prometheus = start_prometheus(
            targets={"dicom-router": [trouble.site.http_port, other.http_port]},
            scrape_interval="1s",
            rules=without_waiting(tmp_path / "hasty"),
        )
        asked = Asked(prometheus, expressions("alerts.yaml", "alert"), expressions("recording.yaml", "record"))
        # An increase begins at the second scrape: what counts from 0 has to be seen at 0 first.
        wait_for(lambda: prometheus.value("count(dicom_router_build_info)") == 2, "a first scrape of both")
        trouble.sweep()
        trouble.order()
        trouble.call_as_a_stranger()
        fires(asked, EXPECTED)
        everything_asked_for_is_there(asked)
        for alert in asked.alerts:
            if alert not in {*EXPECTED, *LATER, *QUIET}:
                pytest.fail(f"nobody says when {alert} fires")
        assert not texts_that_failed(asked)
        its_configuration_is_refused(trouble, asked)
        its_disk_runs_full(trouble, asked)
        it_ends(beside, asked)
        assert router.stop() == 0


LATER = {
    "DicomRouterReloadFailed",
    "DicomRouterDiskLow",
    "DicomRouterDiskFull",
    "DicomRouterDiskFilling",
    "DicomRouterDown",
}
QUIET = {
    "DicomRouterBacklogOld",
    "DicomRouterStoreSilent",
    "DicomRouterAbsent",
    "DicomRouterNoLeader",
    "DicomRouterReplicaLost",
}
"""What takes hours, replicas, or a mount that hangs: here their selectors have series, the rest is for promtool."""


def fires(asked: Asked, expected: dict[str, set[str]]) -> None:
    """Wait until just these fire."""
    seen: dict[str, set[str]] = {}

    def just_these() -> bool:
        seen.clear()
        seen.update(asked.firing())
        return seen == expected

    try:
        wait_for(just_these, "the alerts", SECONDS, 0.5)
    except AssertionError:
        assert seen == expected
        raise


def everything_asked_for_is_there(asked: Asked) -> None:
    """No expression asks for series that nobody has, and what is recorded has values."""
    for name, expression in {**asked.alerts, **asked.recorded}.items():
        for selector in selectors(expression):
            count = functools.partial(asked.prometheus.query, f"count({selector})")
            wait_for(count, f"{name}: somebody who has {selector}", SECONDS)  # after a late scrape nobody has it
        asked.prometheus.query(expression)
    for name in asked.recorded:
        wait_for(lambda name=name: asked.prometheus.query(name), f"a value of {name}", SECONDS)


def texts_that_failed(asked: Asked) -> list[str]:
    """Texts of firing alerts in which a placeholder could not be filled in."""
    alerts = wait_for(asked.prometheus.alerts, "alerts", SECONDS)  # after a late scrape there are none
    texts = [text for alert in alerts for text in alert["annotations"].values()]
    return [text for text in texts if "<error" in text or "<no value>" in text or "  " in text]


def its_configuration_is_refused(trouble: Trouble, asked: Asked) -> None:
    trouble.break_the_configuration()
    fires(asked, {**EXPECTED, "DicomRouterReloadFailed": {""}})
    trouble.mend_the_configuration()
    fires(asked, EXPECTED)


def its_disk_runs_full(trouble: Trouble, asked: Asked) -> None:
    trouble.disk.hold(trouble.disk.free - 3 * MINIMUM_FREE // 2)
    fires(asked, {**EXPECTED, "DicomRouterDiskLow": {""}, "DicomRouterDiskFilling": {""}})
    trouble.disk.hold(MINIMUM_FREE)
    full = {name: {""} for name in ("DicomRouterDiskLow", "DicomRouterDiskFull", "DicomRouterDiskFilling")}
    fires(asked, {**EXPECTED, **full})
    trouble.disk.let_go()
    fires(asked, EXPECTED)


def it_ends(beside: RunningRouter, asked: Asked) -> None:
    """One router fewer: it is down, no configuration differs any more, and nobody knows of its audit messages."""
    assert beside.stop() == 0
    over = ("DicomRouterConfigurationsDiffer", "DicomRouterAuditStuck")
    left = {name: whom for name, whom in EXPECTED.items() if name not in over}
    fires(asked, {**left, "DicomRouterDown": {""}})
