"""Orders that come in: which rules want them, what they do to appointments, and how they are answered."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.domain.appointment import Appointment, AppointmentState
from router.domain.condition import Condition
from router.domain.dicom import Identifier
from router.domain.events import AppointmentNoted, ValueRefused
from router.domain.hl7 import WORDS, Acknowledgement, Hl7Settings, Merge, OrderMessage, OrderRequest, Request
from router.domain.rule import Order
from router.domain.safety import refusal
from router.engine.orders import LONG_PAST
from router.errors import LedgerError
from tests.support.engine import Bench

SCHEDULE, CANCEL = Request.SCHEDULE, Request.CANCEL
DAY = timedelta(days=1)


class Ordered(Bench):
    """A bench whose rule waits for orders."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        hl7 = Hl7Settings(timezone="Europe/Berlin")
        self.rules = msgspec.structs.replace(self.rules, router=msgspec.structs.replace(self.rules.router, hl7=hl7))
        self.prefetches()

    def order(
        self,
        request: Request = SCHEDULE,
        key: str = "accession A1",
        *,
        start: str = "20261124 1430",
        sender: str = "RIS|HOSPITAL",
        event: str = "ORM^O01",
        **attributes: str,
    ) -> Acknowledgement:
        """Take an order."""
        date, _, time = start.partition(" ")
        said = {
            "PatientID": "P",
            "IssuerOfPatientID": "H",
            "Modality": "CT",
            "ScheduledProcedureStepStartDate": date,
            "ScheduledProcedureStepStartTime": time,
        }
        examination = Identifier.of(**(said | attributes))
        application, _, facility = sender.partition("|")
        requests = (OrderRequest(request=request, key=key, examination=examination),)
        return self.orders.take(
            OrderMessage(event=event, application=application, facility=facility, requests=requests)
        )

    @property
    def known(self) -> list[Appointment]:
        return self.ledger.appointments()

    @property
    def one(self) -> Appointment:
        (one,) = self.known
        return one

    @property
    def news(self) -> list[str]:
        return [event.news for event in self.events if isinstance(event, AppointmentNoted)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Ordered]:
    bench = Ordered(tmp_path)
    yield bench
    bench.ledger.close()


def test_an_order_is_an_appointment_at_its_time_in_the_zone_of_the_messages(bench: Ordered) -> None:
    assert bench.order() == Acknowledgement(code="AA")
    one = bench.one
    assert one.start_at == datetime(2026, 11, 24, 13, 30, tzinfo=UTC)
    assert (one.patient_id, one.issuer, one.trigger, one.source) == ("P", "H", "order", "pacs")
    assert one.due_at == bench.clock.now()
    assert bench.woken == 1
    assert bench.news == ["new"]


def test_it_falls_due_its_lead_before(bench: Ordered) -> None:
    bench.prefetches(order=Order(lead=7200.0))
    bench.order()
    assert bench.one.due_at == datetime(2026, 11, 24, 11, 30, tzinfo=UTC)


def test_repeated_orders_change_nothing_and_wake_nobody(bench: Ordered) -> None:
    bench.order()
    for _ in range(5):
        bench.clock.advance(1)
        assert bench.order() == Acknowledgement(code="AA", word="repeated")
    assert bench.woken == 1
    assert len(bench.known) == 1
    assert bench.news == ["new", *["repeated"] * 5]


def test_a_moved_order_moves_its_appointment(bench: Ordered) -> None:
    bench.prefetches(order=Order(lead=3600.0))
    bench.order()
    bench.order(start="20261125 0900")
    assert bench.one.start_at == datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
    assert bench.one.due_at == datetime(2026, 11, 25, 7, 0, tzinfo=UTC)
    assert bench.woken == 2
    assert bench.news == ["new", "moved"]


def test_a_cancelled_order_cancels_its_appointment_and_a_new_one_revives_it(bench: Ordered) -> None:
    bench.order()
    assert bench.order(CANCEL).code == "AA"
    assert bench.one.state is AppointmentState.CANCELLED
    bench.order()
    assert bench.one.state is AppointmentState.WAITING
    assert bench.news == ["new", "cancelled", "revived"]


def test_cancelling_what_was_never_known_is_ignored(bench: Ordered) -> None:
    assert bench.order(CANCEL) == Acknowledgement(code="AA", word="ignored")
    assert bench.known == []
    assert bench.woken == 0


def test_an_order_that_does_not_fulfil_the_condition_is_ignored(bench: Ordered) -> None:
    bench.prefetches(where=Condition.of({"Modality": "MR"}))
    assert bench.order() == Acknowledgement(code="AA", word="ignored")
    assert bench.known == []


def test_an_order_that_does_not_fulfil_the_condition_any_more_is_cancelled(bench: Ordered) -> None:
    bench.prefetches(where=Condition.of({"Modality": "CT"}))
    bench.order()
    assert bench.order(Modality="US").code == "AA"
    assert bench.one.state is AppointmentState.CANCELLED


def test_orders_of_long_ago_are_ignored(bench: Ordered) -> None:
    bench.clock.time = datetime(2026, 11, 24, 13, 30, tzinfo=UTC) + LONG_PAST + timedelta(seconds=1)
    assert bench.order() == Acknowledgement(code="AA", word="ignored")
    assert bench.known == []
    bench.clock.advance(-1)
    bench.order()
    assert len(bench.known) == 1


def test_an_order_without_a_time_is_due_at_once_and_has_no_deadline(bench: Ordered) -> None:
    bench.prefetches(order=Order(lead=7200.0))
    bench.order(start="")
    assert (bench.one.start_at, bench.one.due_at) == (None, bench.clock.now())


def test_what_nothing_makes_the_same_again_is_one_per_patient_and_day(bench: Ordered) -> None:
    bench.order(key="")
    bench.order(key="", start="20261124 0900")
    assert len(bench.known) == 1
    bench.order(key="", start="20261125 0900")
    bench.order(key="", PatientID="Q")
    assert len(bench.known) == 3


@pytest.mark.parametrize("other", ["RIS|CLINIC", "OTHER|HOSPITAL"])
def test_the_same_number_of_another_sender_is_another_order(bench: Ordered, other: str) -> None:
    bench.order()
    bench.order(sender=other, PatientID="Q")
    assert {one.patient_id for one in bench.known} == {"P", "Q"}
    bench.order(CANCEL, sender=other, PatientID="Q")
    assert {one.patient_id for one in bench.known if one.state is AppointmentState.WAITING} == {"P"}


@pytest.mark.parametrize(
    ("order", "taken"),
    [
        (Order(), True),
        (Order(senders=("RIS",)), True),
        (Order(senders=("RIS|HOSPITAL",)), True),
        (Order(senders=("RIS|CLINIC",)), False),
        (Order(senders=("OTHER", "RIS")), True),
        (Order(events=("OMI^O23",)), False),
    ],
)
def test_a_rule_takes_orders_of_its_senders_and_events_only(bench: Ordered, order: Order, taken: bool) -> None:
    bench.prefetches(order=order)
    assert bench.order().word == ("accepted" if taken else "ignored")
    assert len(bench.known) == taken


def test_admissions_are_taken_by_rules_that_name_them(bench: Ordered) -> None:
    assert bench.order(event="ADT^A01").word == "ignored"
    bench.prefetches(order=Order(events=("ADT^A01",)))
    assert bench.order(event="ADT^A01").word == "accepted"


def test_a_rule_that_is_not_enabled_takes_none(bench: Ordered) -> None:
    bench.prefetches(enabled=False)
    assert bench.order().word == "ignored"
    assert bench.known == []


def test_each_rule_has_its_own_appointment_of_an_order(bench: Ordered) -> None:
    rule = bench.rules.rules["r"]
    second = msgspec.structs.replace(rule, name="s", where=Condition.of({"Modality": "MR"}))
    bench.rules = msgspec.structs.replace(bench.rules, rules={"r": rule, "s": second})
    bench.order()
    assert [one.rule for one in bench.known] == ["r"]
    bench.order(Modality="MR")
    assert sorted(one.rule for one in bench.known) == ["r", "s"]


def test_all_orders_of_a_message_are_taken_at_once(bench: Ordered) -> None:
    requests = tuple(
        OrderRequest(request=SCHEDULE, key=f"accession A{n}", examination=Identifier.of(PatientID="P"))
        for n in range(3)
    )
    message = OrderMessage(event="ORM^O01", application="RIS", facility="", requests=requests)
    assert bench.orders.take(message).code == "AA"
    assert len(bench.known) == 3
    assert bench.woken == 1


def test_a_merge_is_remembered_whatever_rules_there_are(bench: Ordered) -> None:
    bench.prefetches(enabled=False)
    message = OrderMessage(event="ADT^A40", application="RIS", facility="", merges=(Merge("OLD", "H", "P", "H"),))
    assert bench.orders.take(message) == Acknowledgement(code="AA")
    assert bench.ledger.former_ids("P", "H") == [("OLD", "H")]


def test_a_message_without_orders_is_acknowledged(bench: Ordered) -> None:
    message = OrderMessage(event="ORM^O01", application="RIS", facility="")
    assert bench.orders.take(message) == Acknowledgement(code="AA", word="ignored")


class Unwritable:
    """A ledger that cannot be written to."""

    def note(self, *arguments: object, **named: object) -> None:
        raise LedgerError("disk full")

    merge_patients = note


@pytest.mark.parametrize("merges", [(), (Merge("OLD", "", "P", ""),)])
def test_what_cannot_be_written_down_is_not_accepted(
    bench: Ordered, monkeypatch: pytest.MonkeyPatch, merges: tuple[Merge, ...]
) -> None:
    monkeypatch.setattr(bench.ledger, "note", Unwritable().note)
    monkeypatch.setattr(bench.ledger, "merge_patients", Unwritable().note)
    request = OrderRequest(request=SCHEDULE, key="k", examination=Identifier.of(PatientID="P"))
    message = OrderMessage(
        event="ADT^A40" if merges else "ORM^O01",
        application="RIS",
        facility="",
        merges=merges,
        requests=() if merges else (request,),
    )
    answer = bench.orders.take(message)
    assert (answer.code, answer.word, answer.condition) == ("AR", "not-durable", 207)
    assert "disk" not in answer.reason
    assert bench.woken == 0
    assert bench.events == []


@given(
    patient_id=st.one_of(
        st.text(alphabet="\\*?\t\0 AB", max_size=70).filter(lambda text: bool(refusal(text.strip()))),
        st.lists(st.sampled_from(["A", "B"]), min_size=2, max_size=2),
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_patient_id_that_could_widen_a_query_is_refused_counted_and_not_repeated(
    bench: Ordered, patient_id: str | list[str]
) -> None:
    bench.events.clear()
    answer = bench.order(PatientID=patient_id)  # type: ignore[arg-type]
    assert (answer.code, answer.word, answer.condition) == ("AE", "unusable-value", 207)
    assert answer.word in WORDS
    assert answer.reason.startswith("The patient ID cannot be used in a query (")
    (event,) = bench.events
    assert isinstance(event, ValueRefused)
    assert (event.rule, event.trigger, event.attribute) == ("r", "order", "PatientID")
    assert bench.known == []
    assert bench.woken == 0
