"""A PACS that is dead, hangs or drips delays its own transfers only: those of all others go on as if it were not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Intent, NewTransfer, State, Transfer
from router.ledger.ledger import SqlLedger
from router.simulator import SimulatedPacs, make_study, make_uid
from tests.support.process import wait_for
from tests.support.router import Site, node
from tests.support.tarpit import Tarpit

STUDIES, INSTANCES = 15, 3
PATIENT = "300s"
"""The bad ones may take far longer than the test: nothing of theirs ends before it."""
SETTINGS: dict[str, Any] = {
    "timeouts": {"connect": PATIENT, "negotiation": PATIENT},
    "find": {"inactivity": PATIENT, "total": PATIENT},
    "move": {"inactivity": PATIENT, "total": PATIENT},
}


class Ward:
    """A good archive and a good workstation among three bad ones that are source and destination of much work."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.site = Site(directory, nodes={}, rules={})
        self.site.settings["drain"] = "0s"
        self.good = stack.enter_context(SimulatedPacs("GOOD"))
        self.workstation = stack.enter_context(SimulatedPacs("WORKSTATION"))
        for number in range(STUDIES):
            study = make_study(seed=f"s{number}", study_date=date.today(), instances=INSTANCES)
            self.good.add(study)
        self.good.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        self.good.set_destination("WORKSTATION", self.workstation.host, self.workstation.port)
        self.nodes: dict[str, Any] = {
            "good": node("GOOD", self.good.port),
            "workstation": node("WORKSTATION", self.workstation.port),
        }
        self.left: list[Transfer] = []
        """What had not come to its end when the good ones' transfers had."""
        self.bad = {kind: stack.enter_context(Tarpit(kind)) for kind in ("dead", "silent", "drip")}

    def rule(self, source: str, *destinations: str, priority: str = "normal") -> dict[str, Any]:
        sweep = {"source": source, "every": "1h", "keys": {"StudyDate": "today-1d..today"}}
        return {"sweep": sweep, "move": {"to": list(destinations)}, "priority": priority}

    def start(self, *, neighbours: bool) -> None:
        rules = {"good": self.rule("good", "workstation", "local")}
        if neighbours:
            for name, tarpit in self.bad.items():
                self.nodes[name] = node(name.upper(), tarpit.port, **SETTINGS)
                rules[f"from-{name}"] = self.rule(name, "local", "workstation")
            # The good archive itself has to serve them, and their work comes first.
            rules["to-bad"] = self.rule("good", *self.bad, priority="urgent")
        self.site.configure(nodes=self.nodes, rules=rules)
        if neighbours:
            self.queue()

    def queue(self) -> None:
        """Work of the bad ones from a time when they could still be asked, the oldest and most urgent there is."""
        intents = [
            Intent(bad, f"1.2.{n}", "", to) for bad in self.bad for n in range(5) for to in ("local", "workstation")
        ]
        intents += [Intent("good", str(make_uid(f"s{n}")), "", bad) for n in range(STUDIES) for bad in self.bad]
        now = datetime.now(UTC)
        with SqlLedger.open(self.site.settings["ledger"]) as ledger:
            ledger.add_sweeps([SweepDue(rule="to-bad", source="good", due_at=now, tier=7)])
            claimed = ledger.claim_sweep(["good"], now, 60)
            assert claimed is not None
            new = [
                NewTransfer(
                    intent=intent,
                    rule="to-bad" if intent.source == "good" else f"from-{intent.source}",
                    priority=0,
                    instance_count=INSTANCES,
                )
                for intent in intents
            ]
            assert ledger.finish_sweep(claimed, SweepReport(state=SweepState.COMPLETE), new, [], now)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        yield Ward(tmp_path / "site", stack)


def measure(ward: Ward) -> float:
    """Seconds from the start of the service's work until all of the good ones' transfers are complete."""
    with ward.site.run() as router, SqlLedger.open(ward.site.settings["ledger"], read_only=True) as ledger:

        def complete() -> bool:
            done = ledger.transfers(states=[State.COMPLETE], source="good")
            return sum(one.intent.destination in ("workstation", "local") for one in done) == 2 * STUDIES

        wait_for(complete, "the good ones' transfers", 150.0, interval=0.05)
        done = [one for one in ledger.transfers(states=[State.COMPLETE], source="good") if one.finished_at]
        others = [one for one in ledger.transfers(limit=10_000) if one not in done]
        router.stop(seconds=60)
        asked = ward.good.record.of("find")[0].at
        ward.left = others
        return max((one.finished_at - asked).total_seconds() for one in done if one.finished_at)


@pytest.mark.timeout(600)
def test_bad_neighbours_delay_nobody(ward: Ward, tmp_path: Path, record_property: Any) -> None:
    with contextlib.ExitStack() as stack:
        quiet = Ward(tmp_path / "quiet", stack)
        quiet.start(neighbours=False)
        alone = measure(quiet)
    ward.start(neighbours=True)
    started = time.monotonic()
    together = measure(ward)
    assert time.monotonic() - started < 300, "the bad ones still hang"
    left = ward.left
    assert len(left) == 3 * 10 + 3 * STUDIES
    assert {one.state for one in left} <= {State.QUEUED, State.MOVING}
    assert all(one.attempts == 0 for one in left), "nothing of the bad ones has come to an end"
    assert {one.intent.source for one in left if one.state is State.MOVING} == {"dead", "silent", "drip", "good"}
    assert all(tarpit.visitors for kind, tarpit in ward.bad.items() if kind != "dead")
    record_property("alone", alone)
    record_property("delay", together - alone)
    # Whoever waits for one of them waits for PATIENT, or for the lease of what it holds.
    assert together - alone < 45
