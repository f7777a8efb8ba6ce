"""A look for priors on the bench: what is asked of whom, what comes of it, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.cli.plan_priors import PlannedPriors, plan_priors
from router.config.anatomy import shipped
from router.domain.appointment import Appointment, AppointmentState, Notice
from router.domain.condition import Condition
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.events import AppointmentNoted, LookEnded, ValueRefused
from router.domain.hl7 import Merge
from router.domain.key import KeyMatch
from router.domain.priors import PriorCondition, PriorGroup, Priors
from router.domain.rule import Arrival, FindSettings, Node, Order, Sweep, Worklist
from router.domain.safety import refusal
from router.domain.sweep import SweepDue, SweepState
from router.domain.transfer import State
from router.engine.forward_look import ForwardLook
from router.engine.mover import LEASE_SECONDS
from router.engine.prefetch import MOST_FAILURES, MOST_SERIES_QUERIES, Looked, NotToBeAsked
from router.engine.query import QueryFailed
from router.engine.shared_slots import SharedSlots
from router.errors import Cancelled, ConnectionFailed, WireError
from router.opening import Planner
from tests.support.engine import Bench, node

STUDY, SERIES = QueryRetrieveLevel.STUDY, QueryRetrieveLevel.SERIES
DAY = timedelta(days=1)
PATIENT = {"PatientID": "P", "IssuerOfPatientID": "H", "PatientBirthDate": "19700101", "PatientSex": "F"}


class Fetches(Bench):
    """A bench whose rule moves priors of `pacs` to `ws`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.rules = msgspec.structs.replace(self.rules, anatomy=shipped())
        self.prefetches()

    def prior(self, uid: str, date: str, instances: int = 2, **attributes: str) -> None:
        """A study of the patient at the source."""
        said = PATIENT | {"StudyDate": date, "ModalitiesInStudy": "CT", "StudyDescription": "CT Chest"} | attributes
        self.peers.add("pacs", uid, f"{uid}.1", *(f"{uid}.1.{n}" for n in range(instances)), **said)

    def note(
        self,
        key: str = "k",
        start_at: datetime | None = None,
        *,
        again: bool = False,
        sweep_id: int | None = None,
        trigger: str = "order",
        current: Identifier | None = None,
        due_at: datetime | None = None,
        cancelled: bool = False,
        source: str = "pacs",
    ) -> str:
        """Tell of an appointment."""
        if current is None:
            current = Identifier.of(**PATIENT, Modality="CT", RequestedProcedureDescription="CT Chest")
        notice = Notice(
            rule="r",
            trigger=trigger,
            key=key,
            source=source,
            current=current,
            patient_id=current.text("PatientID"),
            issuer=current.text("IssuerOfPatientID"),
            start_at=start_at,
            due_at=due_at or self.clock.now(),
            cancelled=cancelled,
        )
        (news,) = self.ledger.note([notice], self.clock.now(), {"r": 43200.0}, again=again, sweep_id=sweep_id)
        return str(news)

    def looked(self, **noted: object) -> Appointment:
        """Tell of an appointment and look for its priors."""
        self.note(**noted)  # type: ignore[arg-type]
        found = self.look()
        assert found is not None
        return found

    def dry(self, **attributes: str) -> Looked:
        """Look without writing."""
        current = Identifier.of(**(PATIENT | attributes))
        rule = self.rules.rules["r"]
        return self.prefetcher.look(self.rules, rule, current, None, self.never)

    def asked(self, name: str = "pacs", level: QueryRetrieveLevel = STUDY) -> list[Identifier]:
        return [keys for asked, at, keys in self.peers.finds if asked == name and at is level]

    def ended(self) -> LookEnded:
        return [event for event in self.events if isinstance(event, LookEnded)][-1]

    def want(self, *groups: PriorGroup, **changes: object) -> None:
        """Let the rule have these groups."""
        self.prefetches(priors=Priors(source="pacs", groups=groups, **changes))  # type: ignore[arg-type]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Fetches]:
    bench = Fetches(tmp_path)
    yield bench
    bench.ledger.close()


def filled(keys: Identifier) -> Identifier:
    return Identifier({tag: values for tag, values in keys.elements.items() if values})


# --- What is asked ----------------------------------------------------------------------------------------------------


def test_the_source_is_asked_for_the_patient_alone(bench: Fetches) -> None:
    bench.looked()
    (asked,) = bench.asked()
    assert filled(asked) == Identifier.of(PatientID="P")


def test_former_ids_of_the_patient_are_asked_for_too_and_what_they_bring_is_the_patients(bench: Fetches) -> None:
    bench.ledger.merge_patients([Merge("OLD", "H", "P", "H")], bench.clock.now())
    bench.prior("1.1", "20240101")
    bench.prior("1.2", "20230101", PatientID="OLD")
    one = bench.looked()
    assert [keys.text("PatientID") for keys in bench.asked()] == ["P", "OLD"]
    assert (one.candidates, one.taken) == (2, 2)


def test_a_former_id_that_cannot_be_asked_for_is_left_out(bench: Fetches) -> None:
    bench.ledger.merge_patients([Merge("*", "H", "P", "H")], bench.clock.now())
    bench.looked()
    assert [keys.text("PatientID") for keys in bench.asked()] == ["P"]


NASTY = st.one_of(
    st.text(alphabet="\\*? \t\r\n\0\x1bAB1", max_size=70),
    st.text(max_size=70),
    st.just(""),
).filter(lambda text: bool(refusal(text.strip())))


@given(patient_id=st.one_of(NASTY, st.lists(st.sampled_from(["A", "B", "*"]), min_size=2, max_size=3)))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_patient_id_that_could_widen_a_query_is_asked_of_nobody(bench: Fetches, patient_id: str | list[str]) -> None:
    bench.prior("1.1", "20240101")
    current = Identifier.of(**(PATIENT | {"PatientID": patient_id}))  # type: ignore[arg-type]
    with pytest.raises(NotToBeAsked) as caught:
        bench.prefetcher.look(bench.rules, bench.rules.rules["r"], current, None, bench.never)
    assert bench.peers.finds == []
    assert bench.peers.requests == []
    refused = bench.events[-1]
    assert isinstance(refused, ValueRefused)
    assert (refused.trigger, refused.attribute) == ("order", "PatientID")
    if isinstance(patient_id, str) and len(patient_id) > 4:
        assert patient_id not in str(caught.value)


def test_an_appointment_whose_patient_id_cannot_be_asked_for_has_failed_for_good(bench: Fetches) -> None:
    one = bench.looked(current=Identifier.of(PatientID="P*"))
    assert (one.state, one.cause) == (AppointmentState.FAILED, "unusable-patient-id")
    assert one.reason == (
        "The current study's Patient ID cannot be asked for: it holds * or ?, which match other patients too."
    )
    assert bench.ended().result == "failed"
    assert bench.look() is None


def test_series_are_asked_only_where_the_study_does_not_say_enough(bench: Fetches) -> None:
    bench.want(PriorGroup(name="same", where=PriorCondition(anatomy=("same",)), max=5))
    bench.prior("1.1", "20240101")
    bench.prior("1.2", "20240102", StudyDescription="Follow-up")
    bench.prior("1.3", "20240103", ModalitiesInStudy="")
    bench.peers.series_attributes["1.2.1"] = {"Modality": "CT", "BodyPartExamined": "CHEST"}
    bench.peers.series_attributes["1.3.1"] = {"Modality": "CT"}
    looked = bench.dry(Modality="CT", StudyDescription="CT Chest")
    assert [keys.text("StudyInstanceUID") for keys in bench.asked(level=SERIES)] == ["1.3", "1.2"]
    assert sorted(one.study_instance_uid for one in looked.record if one.taken) == ["1.1", "1.2", "1.3"]
    assert looked.queries == len(bench.peers.finds)


def test_series_are_not_asked_for_the_body_part_where_no_group_looks_at_it(bench: Fetches) -> None:
    bench.prior("1.1", "20240101", StudyDescription="Follow-up")
    bench.dry()
    assert bench.asked(level=SERIES) == []


def test_series_of_the_newest_are_asked_for_up_to_a_number(bench: Fetches) -> None:
    for n in range(MOST_SERIES_QUERIES + 5):
        bench.prior(f"1.{n}", f"{1900 + n}0101", ModalitiesInStudy="")
    bench.dry()
    asked = [keys.text("StudyInstanceUID") for keys in bench.asked(level=SERIES)]
    assert len(asked) == MOST_SERIES_QUERIES
    assert asked[0] == f"1.{MOST_SERIES_QUERIES + 4}"


def test_a_source_that_does_not_answer_for_series_is_not_asked_on_and_on(bench: Fetches) -> None:
    for n in range(10):
        bench.prior(f"1.{n}", f"{2010 + n}0101", ModalitiesInStudy="")
    bench.peers.fail = lambda node, level, keys: QueryFailed(0xA900, "failed") if level is SERIES else None
    looked = bench.dry()
    assert len(bench.asked(level=SERIES)) == MOST_FAILURES
    assert looked.reason == "pacs does not answer for the series of some studies."
    assert looked.candidates == 10


def test_what_a_source_adds_of_other_patients_is_neither_asked_about_nor_taken(bench: Fetches) -> None:
    bench.prior("1.1", "20240101", ModalitiesInStudy="", PatientID="*")
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: object) -> object:
        return honest(node, level, Identifier.of(StudyInstanceUID=keys.text("StudyInstanceUID")), **named)  # type: ignore[arg-type]

    bench.peers.find = find  # type: ignore[method-assign,assignment]
    looked = bench.dry()
    assert bench.asked(level=SERIES) == []
    assert [one.code for one in looked.record] == ["another-patient"]


def test_each_destination_is_asked_what_it_has_before_anything_is_chosen(bench: Fetches) -> None:
    bench.prefetches("ws", "local")
    for n in range(4):
        bench.prior(f"1.{n}", f"202{n + 2}0101")
    bench.peers.add("ws", "1.3", "1.3.1", "1.3.1.0", "1.3.1.1")
    looked = bench.dry()
    by_patient, by_uid = bench.asked("ws")
    assert filled(by_patient) == Identifier.of(PatientID="P")
    assert set(by_uid.values("StudyInstanceUID")) == {"1.0", "1.1", "1.2"}
    taken = {(one.destination, one.study_instance_uid) for one in looked.record if one.taken}
    assert taken == {("ws", "1.2"), ("ws", "1.1"), ("local", "1.3"), ("local", "1.2")}
    assert "present" in {one.code for one in looked.record if one.destination == "ws"}


@pytest.mark.parametrize("setting", [{"verify": "none"}, {"skip_present": False}])
def test_a_destination_that_the_rule_does_not_want_asked_is_not(bench: Fetches, setting: dict[str, object]) -> None:
    rule = bench.prefetches()
    bench.prefetches(move=msgspec.structs.replace(rule.move, **setting))
    bench.prior("1.1", "20240101")
    looked = bench.dry()
    assert bench.asked("ws") == []
    assert looked.reason == ""
    assert [one.taken for one in looked.record] == [True]


def test_a_destination_that_cannot_be_asked_still_gets_its_priors_and_that_is_said(bench: Fetches) -> None:
    bench.prior("1.1", "20240101")
    bench.peers.down.add("ws")
    one = bench.looked()
    assert (one.state, one.taken, one.complete) == (AppointmentState.DONE, 1, True)
    assert "What ws holds is not known" in one.reason


# --- What comes of it -------------------------------------------------------------------------------------------------


def test_what_is_chosen_is_at_the_destination_and_the_rest_has_its_reason(bench: Fetches) -> None:
    for n in range(9):
        bench.prior(f"1.{n}", f"{2016 + n}0101")
    start = bench.clock.now() + DAY
    one = bench.looked(start_at=start)
    assert (one.state, one.candidates, one.taken) == (AppointmentState.DONE, 9, 2)
    queued = {(t.intent.study_instance_uid, t.deadline_at) for t in bench.ledger.transfers()}
    assert queued == {("1.8", start), ("1.7", start)}
    bench.finish()
    assert bench.peers.holdings["ws"].keys() == {"1.8", "1.7"}
    record = bench.ledger.priors_of(one.id)
    assert [prior.code for prior in record].count("taken") == 2
    assert all(prior.reason for prior in record)
    assert len(record) == 9
    ended = bench.ended()
    assert (ended.result, ended.candidates, ended.groups, ended.queries) == ("done", 9, {"recent": 2}, one.queries)


def test_looking_again_moves_nothing(bench: Fetches) -> None:
    for n in range(5):
        bench.prior(f"1.{n}", f"{2020 + n}0101")
    bench.looked()
    bench.finish()
    moved = len(bench.peers.requests)
    bench.clock.advance(60)
    bench.looked(again=True)
    bench.finish()
    assert len(bench.peers.requests) == moved
    assert bench.peers.holdings["ws"].keys() == {"1.4", "1.3"}


def test_another_appointment_of_the_same_visit_shares_the_numbers_of_the_groups(bench: Fetches) -> None:
    for n in range(5):
        bench.prior(f"1.{n}", f"{2020 + n}0101")
    start = bench.clock.now() + DAY
    bench.looked(key="a", start_at=start)
    bench.finish()
    bench.looked(key="b", start_at=start + timedelta(hours=1))
    bench.finish()
    assert bench.peers.holdings["ws"].keys() == {"1.4", "1.3"}


def test_what_the_destination_lost_is_brought_again(bench: Fetches) -> None:
    bench.prior("1.1", "20240101")
    bench.looked()
    bench.finish()
    bench.peers.holdings["ws"].clear()
    bench.clock.advance(3 * 86400)
    bench.looked()
    bench.finish()
    assert bench.peers.holdings["ws"].keys() == {"1.1"}


def test_a_person_s_look_tries_what_failed_again_and_another_look_does_not(bench: Fetches) -> None:
    bench.prior("1.1", "20240101")
    bench.looked()
    bench.peers.deliver = lambda wanted: []
    bench.finish()
    (failed,) = bench.ledger.transfers()
    assert failed.state not in (State.COMPLETE, State.QUEUED)
    bench.peers.deliver = lambda wanted: wanted
    bench.clock.advance(86400)
    bench.looked()
    assert bench.ledger.transfers()[0].state is failed.state
    bench.ledger.add_sweeps([SweepDue(rule="r", source="pacs", due_at=bench.clock.now(), manual=True)])
    bench.looked(again=True, sweep_id=1)
    assert bench.ledger.transfers()[0].state is State.QUEUED


def test_an_answer_that_is_not_whole_is_said_not_to_be(bench: Fetches) -> None:
    small = msgspec.structs.replace(bench.rules.nodes["pacs"], find=FindSettings(max_results=1, max_queries=1))
    bench.rules = msgspec.structs.replace(bench.rules, nodes=bench.rules.nodes | {"pacs": small})
    bench.prior("1.1", "20240101")
    one = bench.looked()
    assert (one.state, one.complete, one.cause, one.taken) == (AppointmentState.DONE, False, "capped", 1)
    assert one.reason
    assert not bench.ended().complete


# --- What goes wrong --------------------------------------------------------------------------------------------------


def test_a_source_that_cannot_be_asked_is_asked_again_later(bench: Fetches) -> None:
    bench.prior("1.1", "20240101")
    bench.peers.down.add("pacs")
    one = bench.looked()
    assert (one.state, one.attempts, one.cause) == (AppointmentState.WAITING, 1, ConnectionFailed.cause)
    assert one.due_at == bench.clock.now() + timedelta(seconds=30)
    assert "pacs" in one.reason
    assert bench.ended().result == "again"
    assert bench.look() is None
    bench.clock.advance(31)
    bench.peers.down.clear()
    again = bench.look()
    assert again is not None
    assert (again.state, again.taken, again.reason) == (AppointmentState.DONE, 1, "")


def test_after_a_day_without_an_appointment_it_is_given_up(bench: Fetches) -> None:
    bench.peers.down.add("pacs")
    one = bench.looked()
    for _ in range(1000):
        if one.state is AppointmentState.FAILED:
            break
        bench.clock.time = one.due_at
        found = bench.look()
        assert found is not None
        one = found
    assert one.state is AppointmentState.FAILED
    assert timedelta(hours=23) < bench.clock.now() - one.noted_at < timedelta(hours=24)
    assert one.cause == ConnectionFailed.cause
    assert bench.ended().result == "failed"


def test_when_a_look_is_cancelled_it_is_due_again_at_once(bench: Fetches) -> None:
    bench.peers.fail = lambda *asked: Cancelled()
    one = bench.looked()
    assert (one.state, one.due_at) == (AppointmentState.WAITING, bench.clock.now())


def test_a_rule_that_is_gone_ends_its_appointments(bench: Fetches) -> None:
    bench.note()
    bench.rules = msgspec.structs.replace(bench.rules, rules={})
    one = bench.look()
    assert one is not None
    assert (one.state, one.cause) == (AppointmentState.FAILED, "rule-removed")
    assert one.reason == "The running configuration has no enabled rule r with priors."
    assert bench.peers.finds == []


def test_an_appointment_follows_its_rule_to_another_source(bench: Fetches) -> None:
    bench.rules = msgspec.structs.replace(bench.rules, nodes=bench.rules.nodes | {"new": node("new")})
    bench.note(source="gone")
    bench.prior("1.1", "20240101")
    moved = bench.look()
    assert moved is not None
    assert (moved.state, moved.source) == (AppointmentState.WAITING, "pacs")
    assert [event.news for event in bench.events if isinstance(event, AppointmentNoted)] == ["changed"]
    one = bench.look()
    assert one is not None
    assert (one.state, one.taken) == (AppointmentState.DONE, 1)
    assert [t.intent.source for t in bench.ledger.transfers()] == ["pacs"]


def test_nothing_of_a_look_counts_where_there_was_news_meanwhile(bench: Fetches) -> None:
    bench.prior("1.1", "20240101")
    bench.note()

    def fail(node: Node, level: QueryRetrieveLevel, keys: Identifier) -> WireError | None:
        if node.name == "pacs":
            bench.note(cancelled=True)
        return None

    bench.peers.fail = fail
    one = bench.look()
    assert one is not None
    assert one.state is AppointmentState.CANCELLED
    assert bench.ledger.transfers() == []
    assert not [event for event in bench.events if isinstance(event, LookEnded)]


# --- Arrivals ---------------------------------------------------------------------------------------------------------


def arrived(bench: Fetches, **attributes: str) -> Appointment:
    """Look for the priors of a study in our store."""
    said = PATIENT | {"StudyInstanceUID": "2.1", "StudyDate": "20261122", "ModalitiesInStudy": "CT"} | attributes
    bench.stored["2.1"] = Identifier.of(**said)
    return bench.looked(trigger="arrival", current=Identifier.of(StudyInstanceUID="2.1"))


def test_what_arrived_is_read_from_the_store_when_its_priors_are_looked_for(bench: Fetches) -> None:
    bench.prefetches(arrival=Arrival())
    bench.prior("1.1", "20240101")
    bench.prior("2.1", "20261122")
    one = arrived(bench)
    assert (one.candidates, one.taken) == (2, 1)
    assert [prior.code for prior in bench.ledger.priors_of(one.id)] == ["taken", "current"]


def test_what_arrived_and_is_not_as_the_rule_wants_brings_nothing(bench: Fetches) -> None:
    bench.prefetches(arrival=Arrival(), where=Condition.of({"ModalitiesInStudy": "MR"}))
    bench.prior("1.1", "20240101")
    one = arrived(bench)
    assert (one.state, one.taken, one.candidates) == (AppointmentState.DONE, 0, 0)
    assert one.reason == "The study that arrived does not fulfil the rule's condition."
    assert bench.peers.finds == []
    bench.clock.advance(86400)
    assert arrived(bench, ModalitiesInStudy="MR").taken == 1


def test_what_arrived_and_is_gone_brings_nothing(bench: Fetches) -> None:
    bench.prefetches(arrival=Arrival())
    one = bench.looked(trigger="arrival", current=Identifier.of(StudyInstanceUID="2.1"))
    assert (one.state, one.taken) == (AppointmentState.DONE, 0)
    assert one.reason == "The study that arrived is not in the store any more."


def test_what_arrived_under_an_old_id_is_looked_for_under_the_new_one(bench: Fetches) -> None:
    bench.prefetches(arrival=Arrival())
    bench.prior("1.1", "20240101")
    bench.stored["2.1"] = Identifier.of(**(PATIENT | {"StudyInstanceUID": "2.1", "PatientID": "OLD"}))
    bench.note(trigger="arrival", current=Identifier.of(StudyInstanceUID="2.1", PatientID="OLD", IssuerOfPatientID="H"))
    bench.ledger.merge_patients([Merge("OLD", "H", "P", "H")], bench.clock.now())
    one = bench.look()
    assert one is not None
    assert [keys.text("PatientID") for keys in bench.asked()] == ["P", "OLD"]
    assert one.taken == 1


# --- Plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_a_look_would_do_and_writes_nothing(bench: Fetches) -> None:
    bench.prior("1.1", "20240101")
    bench.note()
    waiting = bench.ledger.appointments()
    looked = bench.prefetcher.look_for(bench.rules, bench.rules.rules["r"], waiting[0], threading.Event())
    assert [decision.new is not None for decision in looked.decisions] == [True]
    assert bench.ledger.transfers() == []
    assert bench.ledger.appointments() == waiting
    assert bench.ledger.claim_appointment(["pacs"], bench.clock.now(), LEASE_SECONDS) is not None


def planned(bench: Fetches, notices: Sequence[Notice] = ()) -> tuple[list[PlannedPriors], int]:
    forwards = ForwardLook(bench.rules, bench.ledger, lambda receipts, wanted: {})
    planner = Planner(bench.sweeper, bench.prefetcher, bench.ledger, SharedSlots(bench.clock), bench.peers, forwards)
    return plan_priors(planner, bench.rules, bench.rules.rules["r"], notices)


def test_a_plan_of_a_rule_that_waits_looks_for_what_waits_arrivals_from_the_store(bench: Fetches) -> None:
    bench.prefetches(arrival=Arrival())
    bench.prior("1.1", "20240101")
    bench.stored["2.1"] = Identifier.of(**PATIENT, StudyInstanceUID="2.1")
    bench.note(trigger="arrival", current=Identifier.of(StudyInstanceUID="2.1"))
    ((one,), found) = planned(bench)
    assert found == 1
    assert one.looked is not None, one.problem
    assert [prior.taken for prior in one.looked.record] == [True]


def test_a_plan_looks_at_a_bounded_number_and_counts_all_that_are_not_cancelled(
    bench: Fetches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.cli.plan_priors.MOST_CURRENTS", 2)
    for n in range(3):
        bench.note(key=f"k{n}", start_at=bench.clock.now() + n * DAY)
    assert [one.current.start_at for one in planned(bench)[0]] == [bench.clock.now(), bench.clock.now() + DAY]
    assert planned(bench)[1] == 3
    bench.prefetches(worklist=Worklist(source="ris"))
    notice = Notice(
        rule="r",
        trigger="worklist",
        key="k",
        source="pacs",
        current=Identifier.of(**PATIENT),
        patient_id="P",
        due_at=bench.clock.now(),
    )
    ended = msgspec.structs.replace(notice, key="e", cancelled=True)
    priors, found = planned(bench, [notice, ended])
    assert (len(priors), found) == (1, 1)


def test_a_plan_says_why_it_could_not_look(bench: Fetches) -> None:
    bench.peers.down.add("pacs")
    bench.note()
    ((one,), _) = planned(bench)
    assert one.looked is None
    assert "pacs" in one.problem


# --- Worklists and sweeps that find current studies -------------------------------------------------------------------


def test_a_sweep_of_a_worklist_tells_what_was_left_out_and_why(bench: Fetches) -> None:
    keys = (KeyMatch.of("ScheduledProcedureStepStartDate", "today..today+1d"),)
    bench.prefetches(worklist=Worklist(source="ws", keys=keys))
    step = Identifier.of(
        Modality="CT", ScheduledProcedureStepStartDate="20261122", ScheduledProcedureStepStartTime="1500"
    )
    for number, patient_id in enumerate(("P", "*")):
        row = Identifier.of(PatientID=patient_id, IssuerOfPatientID="H", AccessionNumber=f"A{number}")
        row.elements[known_tag("ScheduledProcedureStepSequence")] = (step,)
        bench.peers.worklists["ws"].append(row)
    report = bench.sweep()
    assert (report.state, report.matches, report.selected) == (SweepState.COMPLETE, 2, 1)
    assert report.account == "Steps left out: 1: its PatientID cannot be used in a query (wildcard)."
    assert [one.patient_id for one in bench.ledger.appointments()] == ["P"]


def test_a_sweep_for_priors_notes_each_study_it_finds_once_and_moves_none_of_them(bench: Fetches) -> None:
    bench.prefetches(sweep=Sweep(source="pacs", keys=(KeyMatch.of("StudyDate", "today"),)))
    bench.prior("2.1", "20261122")
    assert bench.sweep().selected == 1
    assert bench.sweep().selected == 0
    bench.prior("1.1", "20240101")
    one = bench.look()
    assert one is not None
    assert (one.key, one.taken) == ("2.1", 1)
    assert [t.intent.study_instance_uid for t in bench.ledger.transfers()] == ["1.1"]


def test_a_person_s_sweep_of_a_rule_that_waits_makes_what_waits_due(bench: Fetches) -> None:
    bench.prefetches(order=Order(lead=3600.0))
    bench.prior("1.1", "20240101")
    start = bench.clock.now() + 3 * DAY
    bench.note(start_at=start, due_at=start)
    assert bench.look() is None
    assert bench.sweep(manual=True).selected == 1
    one = bench.look()
    assert one is not None
    assert (one.state, one.taken, one.sweep_id) == (AppointmentState.DONE, 1, 1)
