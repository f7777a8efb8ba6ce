"""Studies that arrive in the store, as triggers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from router.domain.appointment import AppointmentState
from router.domain.dicom import Identifier
from router.domain.events import AppointmentNoted
from router.domain.forward import Forward, Group
from router.domain.receipt import Receipt
from router.domain.rule import Arrival
from tests.support.engine import Bench


class Arrives(Bench):
    """A bench whose rule waits for studies that arrive."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.prefetches(arrival=Arrival(stable=60.0))
        self.stored["2.1"] = Identifier.of(StudyInstanceUID="2.1", PatientID="P", IssuerOfPatientID="H")
        self.number = 0

    def receipt(self, study: str = "2.1", title: str = "WS") -> Receipt:
        self.number += 1
        return Receipt(
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
            sop_instance_uid=f"{study}.1.{self.number}",
            sop_class_uid="1.2",
            transfer_syntax_uid="1.2.1",
            calling_ae_title=title,
            size=1,
            path=f"{study}/{self.number}",
            received_at=self.clock.now(),
        )

    def arrive(self, study: str = "2.1", title: str = "WS") -> None:
        self.arrivals.note([self.receipt(study, title)])

    @property
    def news(self) -> list[str]:
        return [event.news for event in self.events if isinstance(event, AppointmentNoted)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Arrives]:
    bench = Arrives(tmp_path)
    yield bench
    bench.ledger.close()


def test_a_study_that_arrives_is_an_appointment_once_it_is_stable(bench: Arrives) -> None:
    bench.arrive()
    (one,) = bench.ledger.appointments()
    assert (one.key, one.trigger, one.source, one.start_at) == ("2.1", "arrival", "pacs", None)
    assert (one.patient_id, one.issuer) == ("P", "H")
    assert one.due_at == bench.clock.now() + timedelta(seconds=60)
    assert bench.look() is None
    assert bench.news == ["new"]


def test_it_is_pushed_back_while_more_of_it_arrives(bench: Arrives) -> None:
    for _ in range(5):
        bench.arrive()
        bench.clock.advance(50)
        assert bench.look() is None
    (one,) = bench.ledger.appointments()
    assert one.due_at == bench.clock.now() + timedelta(seconds=10)
    bench.clock.advance(10)
    done = bench.look()
    assert done is not None
    assert done.state is AppointmentState.DONE
    assert bench.news == ["new"], "more of the same is no news"


def test_a_straggler_makes_nothing_be_looked_for_again(bench: Arrives) -> None:
    bench.arrive()
    bench.clock.advance(60)
    bench.look()
    bench.arrive()
    bench.clock.advance(3600)
    assert bench.look() is None


def test_a_batch_makes_one_appointment_of_each_study_at_its_last_instance(bench: Arrives) -> None:
    bench.stored["2.2"] = Identifier.of(StudyInstanceUID="2.2", PatientID="Q")
    batch = [bench.receipt("2.1"), bench.receipt("2.2")]
    bench.clock.advance(7)
    bench.arrivals.note([*batch, bench.receipt("2.1")])
    due = {one.key: one.due_at for one in bench.ledger.appointments()}
    now = bench.clock.now()
    assert due == {"2.1": now + timedelta(seconds=60), "2.2": now + timedelta(seconds=53)}


@pytest.mark.parametrize(
    ("senders", "title", "noted"),
    [((), "WS", True), ((), "STRANGER", True), (("ws",), "WS", True), (("ws",), "PACS", False), (("ws",), "X", False)],
)
def test_only_what_comes_from_the_senders_of_the_rule_counts(
    bench: Arrives, senders: tuple[str, ...], title: str, noted: bool
) -> None:
    bench.prefetches(arrival=Arrival(senders=senders))
    bench.arrive(title=title)
    assert bool(bench.ledger.appointments()) is noted


def test_a_study_whose_files_cannot_be_read_is_none(bench: Arrives) -> None:
    bench.arrive("2.9")
    assert bench.ledger.appointments() == []


def test_nothing_is_read_where_no_rule_waits(bench: Arrives) -> None:
    bench.prefetches(arrival=Arrival(), enabled=False)
    bench.arrive()
    bench.prefetches()
    bench.arrive()
    assert bench.ledger.appointments() == []


def test_what_is_only_passed_on_is_no_appointment(bench: Arrives) -> None:
    rule = bench.prefetches(arrival=Arrival())
    passes = msgspec.structs.replace(rule, priors=None, forward=Forward(to=(Group(nodes=("ws",)),)))
    bench.rules = msgspec.structs.replace(bench.rules, rules={"r": passes})
    bench.arrive()
    assert (bench.ledger.appointments(), bench.news) == ([], [])


def test_a_header_is_read_once_while_a_study_arrives(bench: Arrives) -> None:
    bench.arrive()
    del bench.stored["2.1"]
    bench.clock.advance(5)
    bench.arrive()
    (one,) = bench.ledger.appointments()
    assert one.due_at == bench.clock.now() + timedelta(seconds=60)


def test_each_rule_waits_as_long_as_it_says(bench: Arrives) -> None:
    rule = bench.rules.rules["r"]
    patient = msgspec.structs.replace(rule, name="s", arrival=Arrival(stable=600.0))
    bench.rules = msgspec.structs.replace(bench.rules, rules={"r": rule, "s": patient})
    bench.arrive()
    now = bench.clock.now()
    assert {one.rule: one.due_at for one in bench.ledger.appointments()} == {
        "r": now + timedelta(seconds=60),
        "s": now + timedelta(seconds=600),
    }
