"""What the ledger needs now and then: near deadlines made urgent, appointments long over forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from router.domain.appointment import Notice
from router.domain.dicom import Identifier
from router.domain.transfer import URGENT
from router.engine.upkeep import KEPT, Upkeep
from tests.support.engine import Bench

SOON = timedelta(minutes=1)
PATIENT = {"PatientID": "P", "IssuerOfPatientID": "H"}


class Kept(Bench):
    """A bench with an appointment and its one prior queued, and the upkeep."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.prefetches()
        self.seconds = 0.0
        self.upkeep = Upkeep(self.ledger, lambda: self.seconds)
        self.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", **PATIENT, StudyDate="20240101")
        self.start_at = self.clock.now() + 3 * URGENT
        self.note()
        self.look()

    def note(self) -> None:
        notice = Notice(
            rule="r",
            trigger="order",
            key="k",
            source="pacs",
            current=Identifier.of(**PATIENT),
            patient_id="P",
            issuer="H",
            start_at=self.start_at,
            due_at=self.clock.now(),
        )
        self.ledger.note([notice], self.clock.now(), {"r": 3600.0})

    def keep(self, wait: timedelta) -> None:
        """Let time pass and do what is due."""
        self.clock.time += wait
        self.seconds += wait.total_seconds()
        self.upkeep.look(self.clock.now())

    @property
    def priority(self) -> int:
        (transfer,) = self.ledger.transfers()
        return transfer.priority


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Kept]:
    bench = Kept(tmp_path)
    yield bench
    bench.ledger.close()


def test_what_is_queued_becomes_urgent_an_hour_before_its_deadline(bench: Kept) -> None:
    bench.keep(SOON)
    assert bench.priority == 1
    bench.keep(2 * URGENT - 2 * SOON)
    assert bench.priority == 1
    bench.keep(2 * SOON)
    assert bench.priority == 0


def test_it_looks_for_that_every_now_and_then_only(bench: Kept) -> None:
    bench.keep(timedelta(0))
    bench.clock.time += 3 * URGENT
    bench.keep(timedelta(seconds=1))
    assert bench.priority == 1
    bench.keep(timedelta(seconds=15))
    assert bench.priority == 0


def test_appointments_long_over_are_forgotten_but_not_their_transfers(bench: Kept) -> None:
    bench.finish()
    bench.keep(3 * URGENT + KEPT - SOON)
    assert len(bench.ledger.appointments()) == 1
    bench.keep(timedelta(hours=1))
    assert bench.ledger.appointments() == []
    assert len(bench.ledger.transfers()) == 1


def test_an_appointment_that_is_still_heard_of_or_still_to_come_is_kept(bench: Kept) -> None:
    bench.start_at = bench.clock.now() + 3 * KEPT
    bench.note()
    bench.keep(2 * KEPT)
    assert len(bench.ledger.appointments()) == 1
