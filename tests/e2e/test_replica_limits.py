"""Several real services on one ledger: an archive sees its limits kept by all of them together, at every moment."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from router.domain.transfer import State
from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support import postgres
from tests.support.process import wait_for
from tests.support.replicas import Fleet, Watch
from tests.support.router import node

SLOTS = 2
QUICK = {"find": {"inactivity": "20s", "total": "60s"}, "move": {"inactivity": "20s", "total": "60s"}}
RULE = {"sweep": {"source": "archive", "every": "2s", "keys": {"StudyDate": "today-7d..today"}}}
SLOW = Behaviour(suboperation_delay_seconds=0.2)
"""So that moves of several replicas would be under way at once, if nobody counted."""


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty ledger, or nothing for a file."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(postgres.ledger_database()) if request.param == "postgresql" else ""


def studies(count: int, seed: str = "limits") -> list[Dataset]:
    today = f"{date.today():%Y%m%d}"
    return [one for number in range(count) for one in make_study(seed=f"{seed}{number}", study_date=today, instances=2)]


class House:
    """An archive that two or three replicas share, and a ward to which it moves."""

    def __init__(
        self, stack: contextlib.ExitStack, directory: Path, ledger: str, replicas: int, **limits: object
    ) -> None:
        self.archive = SimulatedPacs("ARCHIVE", behaviour=SLOW)
        self.watch = Watch(self.archive)
        stack.enter_context(self.archive)
        self.ward = stack.enter_context(SimulatedPacs("WARD"))
        self.archive.set_destination("WARD", "127.0.0.1", self.ward.port)
        nodes = {
            "archive": node("ARCHIVE", self.archive.port, limits=limits, **QUICK),
            "ward": node("WARD", self.ward.port, limits={"associations": 2, "incoming": 1}, **QUICK),
        }
        rule = RULE | {"move": {"to": ["ward", "local"]}}
        self.fleet = stack.enter_context(
            Fleet(directory, nodes=nodes, rules={"all": rule}, replicas=replicas, ledger=ledger)
        )
        self.fleet.is_destination_of(self.archive)

    def moved_by(self) -> list[int]:
        """How many transfers each replica says it has ended."""
        return [len(re.findall(r"transfer ended", self.fleet.log(number))) for number in range(len(self.fleet.sites))]


def test_associations_and_incoming_moves_of_all_replicas_together(tmp_path: Path, ledger: str) -> None:
    """One begins, the others join while it is at work, one is killed: never one association too many."""
    with contextlib.ExitStack() as stack:
        house = House(stack, tmp_path, ledger, 3, associations=SLOTS)
        fleet, count = house.fleet, 16
        fleet.start(0)
        house.archive.add(studies(count))
        wait_for(lambda: len(house.archive.record.of("move")) >= 3, "the first has begun")
        fleet.start(1, 2)
        wait_for(lambda: len(house.archive.record.of("move")) >= 8, "all of them are at work")
        house.archive.add(studies(count // 2, "more"))
        fleet.kill(0)
        fleet.start(0)
        total = 2 * (count + count // 2)
        fleet.wait_for_states({State.COMPLETE: total})
        assert 1 <= house.archive.associations_peak <= SLOTS
        assert house.ward.associations_peaks.get("ROUTER", 0) <= 2
        assert house.watch.most_moving["WARD"] == 1
        moves = house.watch.moves()
        assert len(moves) == total
        assert sum(moves.values()) <= total + SLOTS, "what the killed one had begun may be moved again, no more"
        assert sum(one > 0 for one in house.moved_by()) >= 2, "the work was shared"
        assert [fleet.stop(number) for number in range(3)] == [0, 0, 0]
        with fleet.ledger() as opened:
            look = opened.ration_look({}, opened.clock().now())
        assert look.circle.members == {}
        assert not any(state.held or state.coming for _, state in look.states.values())


def test_moves_per_hour_are_those_of_all_replicas_together(tmp_path: Path, ledger: str) -> None:
    most = 5
    with contextlib.ExitStack() as stack:
        house = House(stack, tmp_path, ledger, 2, associations=4, moves_per_hour=most)
        house.archive.add(studies(6))
        fleet = house.fleet
        fleet.start()
        wait_for(lambda: len(house.archive.record.of("move")) >= most, "as many moves as there may be", 120.0)
        fleet.restart(0)
        until = time.monotonic() + 6.0  # in which one too many would come: both look several times a second
        while time.monotonic() < until:
            assert len(house.archive.record.of("move")) <= most
            time.sleep(0.1)
        fleet.assert_running()
        assert len(fleet.transfers(State.QUEUED)) + len(fleet.transfers(State.MOVING)) == 12 - most


def test_a_breaker_that_one_opened_is_open_for_all(tmp_path: Path, ledger: str) -> None:
    with contextlib.ExitStack() as stack:
        house = House(stack, tmp_path, ledger, 2, associations=1)
        fleet = house.fleet
        nodes = fleet.nodes
        nodes["archive"] |= {"breaker": {"failures": 2, "pause": "10m"}, "timeouts": {"connect": "2s"}}
        fleet.configure(nodes=nodes)
        replicas = fleet.start()
        house.archive.stop()

        def open_for_all() -> bool:
            fleet.assert_running()
            return all('dicom_router_breaker_open{node="archive"} 1.0' in one.metrics() for one in replicas)

        wait_for(open_for_all, "both leave it alone", 120.0, interval=0.5)
        tellers = [number for number in range(2) if "Another replica found it so" in fleet.log(number)]
        assert len(tellers) == 1, "one had it from the other"
