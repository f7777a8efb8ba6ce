"""The modality worklist: questions, steps, appointments, and what an answer that lacks something means."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.appointment import Appointment, AppointmentState, Notice
from router.domain.condition import Condition, Evaluation, KeyMatch
from router.domain.dicom import Identifier
from router.domain.events import Event, ValueRefused
from router.domain.priors import PriorCondition, PriorGroup, Priors
from router.domain.rule import FindSettings, Move, Node, Rule, Worklist
from router.domain.worklist import (
    CANCELLED,
    COMPLETED,
    MAXIMUM_QUERIES,
    RETURN_KEYS,
    STEP_KEYS,
    WORKLIST_KEYS,
    ended,
    key_of,
    past,
    questions,
    start_of,
    steps_of,
    vanished,
)
from router.engine import worklist as engine
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import NodeSlots
from router.engine.worklist import WorklistAnswer, WorklistLook
from tests.support.fake_peers import FakePeers

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
"""10:00 in Berlin."""
EVALUATION = Evaluation(now=NOW, zone=BERLIN)
START_DATE = "ScheduledProcedureStepStartDate"
TODAY_AND_TOMORROW = KeyMatch.of(START_DATE, "today..today+1d")


def step(**attributes: str) -> Identifier:
    """An item of the Scheduled Procedure Step Sequence."""
    return Identifier.of(
        **{
            START_DATE: "20261122",
            "ScheduledProcedureStepStartTime": "140000",
            "Modality": "MR",
            "ScheduledProcedureStepID": "1",
            **attributes,
        }
    )


def match(*steps: Identifier, **above: str) -> Identifier:
    """A match of a worklist."""
    row = Identifier.of(**{"AccessionNumber": "A1", "PatientID": "P1", "RequestedProcedureID": "RP1", **above})
    sequence = Identifier.of(ScheduledProcedureStepSequence="").elements
    return Identifier({**row.elements, **dict.fromkeys(sequence, steps or (step(),))})


def flat(**attributes: str) -> Identifier:
    (one,) = steps_of(match(step(**attributes)))
    return one


# --- The question -----------------------------------------------------------------------------------------------------


def asked(*keys: KeyMatch, wanted: frozenset[int] = frozenset()) -> list[tuple[Identifier, Identifier]]:
    """Each question, and its item."""
    return [
        (one, item)
        for one in questions(keys, EVALUATION, wanted)
        for item in one.values("ScheduledProcedureStepSequence")
        if isinstance(item, Identifier)
    ]


def test_keys_of_the_step_are_asked_inside_its_sequence_and_the_others_above_it() -> None:
    ((question, item),) = asked(TODAY_AND_TOMORROW, KeyMatch.of("Modality", "MR"), KeyMatch.of("PatientID", "P1"))
    assert item.values(START_DATE) == ("20261122-20261123",)
    assert item.values("Modality") == ("MR",)
    assert question.values("PatientID") == ("P1",)
    assert "Modality" not in question
    assert "PatientID" not in item


def test_what_is_always_asked_back_stands_where_it_belongs_and_is_empty() -> None:
    ((question, item),) = asked(TODAY_AND_TOMORROW)
    assert {*question, *item} >= RETURN_KEYS
    assert not set(question) & STEP_KEYS
    assert set(item) <= STEP_KEYS
    assert question.values("AccessionNumber") == item.values("ScheduledProcedureStepID") == ()


def test_codes_are_asked_with_one_item_that_is_empty() -> None:
    ((question, item),) = asked(TODAY_AND_TOMORROW)
    for codes in (
        question.values("RequestedProcedureCodeSequence"),
        item.values("ScheduledProtocolCodeSequence"),
    ):
        (code,) = codes
        assert isinstance(code, Identifier)
        assert [*code.elements.values()] == [(), (), ()]


def test_the_days_are_those_of_the_node_and_times_are_never_asked() -> None:
    late = Evaluation(now=datetime(2026, 11, 22, 23, 30, tzinfo=UTC), zone=BERLIN)
    keys = [KeyMatch.of(START_DATE, "now..now+4h"), KeyMatch.of("ScheduledProcedureStepStartTime", "0700..1900")]
    (question,) = questions(keys, late)
    (item,) = question.values("ScheduledProcedureStepSequence")
    assert isinstance(item, Identifier)
    assert item.values(START_DATE) == ("20261123",)
    assert item.values("ScheduledProcedureStepStartTime") == ()


def test_a_list_is_asked_value_by_value() -> None:
    items = [item for _, item in asked(TODAY_AND_TOMORROW, KeyMatch.of("Modality", "MR", "CT"))]
    assert [item.values("Modality") for item in items] == [("MR",), ("CT",)]


def test_long_lists_are_not_asked_but_the_date_is() -> None:
    stations = KeyMatch.of("ScheduledStationAETitle", *(f"MR{number}" for number in range(MAXIMUM_QUERIES + 1)))
    ((_, item),) = asked(TODAY_AND_TOMORROW, stations)
    assert item.values("ScheduledStationAETitle") == ()
    days = KeyMatch.of(START_DATE, *(f"202612{day:02d}" for day in range(1, MAXIMUM_QUERIES + 3)))
    assert len(asked(days)) == MAXIMUM_QUERIES + 2


def test_what_the_rule_looks_at_is_asked_back_in_its_place() -> None:
    where = Condition.of({"CurrentPatientLocation": "WARD", "ScheduledStationName": {"like": "*"}})
    ((question, item),) = asked(TODAY_AND_TOMORROW, wanted=where.attributes)
    assert "CurrentPatientLocation" in question
    assert "ScheduledStationName" in item


@given(st.sets(st.sampled_from(sorted(STEP_KEYS | WORKLIST_KEYS))))
def test_every_question_has_one_item_with_the_attributes_of_steps_alone(wanted: set[int]) -> None:
    ((question, item),) = asked(TODAY_AND_TOMORROW, wanted=frozenset(wanted))
    assert not set(question) & STEP_KEYS
    assert set(item) <= STEP_KEYS
    assert {*question, *item} >= wanted


# --- Steps ------------------------------------------------------------------------------------------------------------


def test_several_steps_in_one_match_are_several_each_with_what_stands_above() -> None:
    one, other = steps_of(match(step(), step(Modality="CT", ScheduledProcedureStepID="2")))
    assert (one.text("Modality"), other.text("Modality")) == ("MR", "CT")
    assert one.text("PatientID") == other.text("PatientID") == "P1"
    (kept,) = other.values("ScheduledProcedureStepSequence")
    assert isinstance(kept, Identifier)
    assert kept.text("Modality") == "CT"


def test_the_item_says_what_the_step_is_and_what_stands_above_it_whose() -> None:
    (one,) = steps_of(match(step(PatientID="P2", AccessionNumber="A2"), Modality="CT"))
    assert (one.text("PatientID"), one.text("AccessionNumber"), one.text("Modality")) == ("P1", "A1", "MR")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, datetime(2026, 11, 22, 13, 0, tzinfo=UTC)),
        ({"ScheduledProcedureStepStartTime": ""}, datetime(2026, 11, 21, 23, 0, tzinfo=UTC)),
        ({"ScheduledProcedureStepStartTime": "noon"}, datetime(2026, 11, 21, 23, 0, tzinfo=UTC)),
        ({"ScheduledProcedureStepStartTime": "14:30"}, datetime(2026, 11, 22, 13, 30, tzinfo=UTC)),
        ({START_DATE: "20260722"}, datetime(2026, 7, 22, 12, 0, tzinfo=UTC)),
        ({START_DATE: "", "ScheduledProcedureStepStartTime": "140000"}, None),
        ({START_DATE: "tomorrow"}, None),
        ({"TimezoneOffsetFromUTC": "-0500"}, datetime(2026, 11, 22, 19, 0, tzinfo=UTC)),
        ({"TimezoneOffsetFromUTC": "somewhere"}, datetime(2026, 11, 22, 13, 0, tzinfo=UTC)),
    ],
)
def test_a_step_starts_in_the_zone_of_its_node_or_its_own(
    attributes: dict[str, str], expected: datetime | None
) -> None:
    assert start_of(flat(**attributes), BERLIN) == expected


@given(day=st.dates(date(1970, 1, 1), date(2100, 1, 1)), seconds=st.integers(0, 86399))
def test_every_start_is_the_moment_its_clock_shows(day: date, seconds: int) -> None:
    clock = datetime(day.year, day.month, day.day) + timedelta(seconds=seconds)  # noqa: DTZ001  local
    attributes = {START_DATE: f"{clock:%Y%m%d}", "ScheduledProcedureStepStartTime": f"{clock:%H%M%S}"}
    start = start_of(flat(**attributes), ZoneInfo("Asia/Kolkata"))
    assert start is not None
    assert start.astimezone(ZoneInfo("Asia/Kolkata")).replace(tzinfo=None) == clock


def test_a_step_without_a_time_is_past_only_when_its_day_is() -> None:
    hour = timedelta(hours=1)
    timeless = flat(ScheduledProcedureStepStartTime="")
    assert not past(timeless, EVALUATION, hour)
    assert past(timeless, EVALUATION._replace(now=NOW + timedelta(days=1)), hour)
    assert past(flat(ScheduledProcedureStepStartTime="085900"), EVALUATION, hour)
    assert not past(flat(ScheduledProcedureStepStartTime="0901"), EVALUATION, hour)


@pytest.mark.parametrize(
    ("above", "step_id", "expected"),
    [
        ({}, "1", "A1 1"),
        ({}, "", "A1"),
        ({"AccessionNumber": ""}, "1", "RP1 1"),
        ({"AccessionNumber": " ", "RequestedProcedureID": "", "StudyInstanceUID": "1.2"}, "1", "1.2 1"),
        ({"AccessionNumber": ""}, "", ""),
        ({"AccessionNumber": "", "RequestedProcedureID": ""}, "1", ""),
        ({"AccessionNumber": "A" * 5000}, "1", "RP1 1"),
    ],
)
def test_the_key_is_accession_number_and_step_or_what_stands_in_its_place(
    above: dict[str, str], step_id: str, expected: str
) -> None:
    (one,) = steps_of(match(step(ScheduledProcedureStepID=step_id), **above))
    assert key_of(one) == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("", ""),
        ("SCHEDULED", ""),
        ("ARRIVED", ""),
        ("STARTED", ""),
        ("DEPARTED", COMPLETED),
        ("completed ", COMPLETED),
        ("CANCELLED", CANCELLED),
        ("CANCELED", CANCELLED),
        ("DISCONTINUED", CANCELLED),
    ],
)
def test_a_status_says_whether_a_step_is_over(status: str, expected: str) -> None:
    assert ended(flat(ScheduledProcedureStepStatus=status)) == expected


def appointment(key: str, start_at: datetime | None) -> Appointment:
    return Appointment(
        id=1,
        rule="mr",
        trigger="worklist",
        key=key,
        source="pacs",
        current=Identifier(),
        patient_id="P1",
        start_at=start_at,
        due_at=NOW,
        state=AppointmentState.WAITING,
        noted_at=NOW,
    )


# --- One look ---------------------------------------------------------------------------------------------------------


class Known:
    """What a ledger knows of a rule's appointments."""

    def __init__(self) -> None:
        self.appointments: list[Appointment] = []

    def expected(self, rule: str, first: datetime, last: datetime) -> list[Appointment]:
        return [
            one
            for one in self.appointments
            if one.rule == rule and one.start_at is not None and first <= one.start_at <= last
        ]

    def take(self, notices: list[Notice]) -> None:
        """Note them all as new."""
        for number, one in enumerate(notices):
            self.appointments.append(
                msgspec.structs.replace(appointment(one.key, one.start_at), id=number, current=one.current)
            )


class Bench:
    """A worklist that takes no notice of keys, and a rule that asks it for today and tomorrow."""

    def __init__(self) -> None:
        self.ledger = Known()
        self.peers = FakePeers(cast("Any", self.ledger))
        self.events: list[Event] = []
        self.node = Node(name="ris", ae_title="RIS", host="127.0.0.1", port=104, timezone="Europe/Berlin")
        self.now = NOW
        self.keys: tuple[KeyMatch, ...] = (TODAY_AND_TOMORROW,)
        self.lead: float | None = 7200.0
        self.where = Condition.of({})

    def look(self, *rows: Identifier, manual: bool = False) -> WorklistAnswer:
        """Look, while the worklist holds these."""
        self.peers.worklists["ris"] = [*rows]
        rule = Rule(
            name="mr",
            worklist=Worklist(source="ris", keys=self.keys, lead=self.lead),
            where=self.where,
            priors=Priors(
                source="pacs",
                groups=(PriorGroup(name="all", where=PriorCondition(same=(0x00080080,))),),
            ),
            move=Move(to=("local",)),
        )
        look = WorklistLook(cast("Any", self.ledger), Inquiry(self.peers, NodeSlots()), self.events.append)
        return look.look(rule, self.node, Evaluation(self.now, BERLIN), manual=manual, cancelled=threading.Event())

    def known(self, *rows: Identifier) -> None:
        """Look, and note what was seen."""
        self.ledger.take([*self.look(*rows).notices])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def brief(answer: WorklistAnswer) -> list[tuple[str, bool]]:
    """Keys, and whether they are cancelled."""
    return [(one.key.partition(" of ")[0], one.cancelled) for one in answer.notices]


def test_a_step_becomes_an_appointment_that_is_due_its_lead_before(bench: Bench) -> None:
    answer = bench.look(match(IssuerOfPatientID="HOSPITAL"))
    (one,) = answer.notices
    assert (one.rule, one.trigger, one.key, one.source) == ("mr", "worklist", "A1 1 of P1 HOSPITAL", "pacs")
    assert (one.patient_id, one.issuer) == ("P1", "HOSPITAL")
    assert one.start_at == datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
    assert one.due_at == datetime(2026, 11, 22, 11, 0, tzinfo=UTC)
    assert one.current.text("Modality") == "MR"
    assert (answer.matches, answer.queries, answer.complete, answer.reason) == (1, 1, True, "")


def test_without_a_lead_or_when_it_has_passed_or_a_person_asks_it_is_due_now(bench: Bench) -> None:
    soon = match(step(ScheduledProcedureStepStartTime="1030"))
    assert bench.look(soon).notices[0].due_at == NOW
    assert bench.look(match(), manual=True).notices[0].due_at == NOW
    bench.lead = None
    assert bench.look(match()).notices[0].due_at == NOW


def test_what_nobody_asked_for_is_not_kept(bench: Bench) -> None:
    (one,) = bench.look(match(step(SeriesDescription="x"), PatientComments="y", InstitutionName="z")).notices
    assert "SeriesDescription" not in one.current
    assert "PatientComments" not in one.current
    assert one.current.text("InstitutionName") == "z", "the groups of the rule look at it"
    (item,) = one.current.values("ScheduledProcedureStepSequence")
    assert isinstance(item, Identifier)
    assert "SeriesDescription" not in item


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({START_DATE: "20261201"}, START_DATE),
        ({START_DATE: ""}, f"does not return {START_DATE}"),
        ({"Modality": "CT"}, "outside the key Modality"),
        ({"Modality": ""}, "does not return Modality"),
        ({"ScheduledProcedureStepLocation": ""}, "does not return ScheduledProcedureStepLocation"),
        ({"ScheduledProcedureStepDescription": "Head"}, "ScheduledProcedureStepDescription"),
    ],
)
def test_steps_that_do_not_fit_the_rule_are_left_out_and_counted(
    bench: Bench, attributes: dict[str, str], word: str
) -> None:
    bench.keys += (KeyMatch.of("Modality", "MR"), KeyMatch.of("ScheduledProcedureStepLocation", "ROOM 1"))
    bench.where = Condition.of({"ScheduledProcedureStepDescription": {"like": "*knee*"}})
    fits = {"ScheduledProcedureStepLocation": "ROOM 1", "ScheduledProcedureStepDescription": "MR knee"}
    answer = bench.look(match(step(**fits)), match(step(**{**fits, **attributes}), AccessionNumber="A2"))
    assert brief(answer) == [("A1 1", False)]
    assert answer.account.startswith("Steps left out: 1: ")
    assert word in answer.account


def test_a_required_key_that_is_not_returned_was_matched_by(bench: Bench) -> None:
    bench.keys += (KeyMatch.of("ScheduledStationAETitle", "MR1"),)
    assert len(bench.look(match()).notices) == 1
    assert bench.look(match(step(ScheduledStationAETitle="CT1"))).notices == []


def test_a_condition_on_the_sequence_asks_for_what_it_looks_at_and_sees_one_step(bench: Bench) -> None:
    bench.where = Condition.of({"ScheduledProcedureStepSequence.ScheduledStationName": "A"})
    answer = bench.look(
        match(step(ScheduledStationName="A"), step(ScheduledProcedureStepID="2", ScheduledStationName="B"))
    )
    assert brief(answer) == [("A1 1", False)]


@pytest.mark.parametrize(
    ("patient_id", "word"), [("", "empty"), ("P*", "wildcard"), ("P\x07", "control"), ("P" * 65, "too-long")]
)
def test_a_patient_id_that_could_widen_a_query_is_refused_and_counted(bench: Bench, patient_id: str, word: str) -> None:
    answer = bench.look(match(PatientID=patient_id), match(PatientID="P2", AccessionNumber="A2"))
    assert [one.patient_id for one in answer.notices] == ["P2"]
    assert bench.events[-1:] == [ValueRefused(rule="mr", trigger="worklist", attribute="PatientID", reason=word)]
    assert answer.complete


def test_what_is_done_or_begun_long_ago_brings_no_appointment_and_cancels_none(bench: Bench) -> None:
    bench.known(match())
    assert brief(bench.look(match(step(ScheduledProcedureStepStatus="COMPLETED")))) == []
    assert brief(bench.look(match(step(ScheduledProcedureStepStartTime="0800")))) == []


def test_a_cancelled_step_cancels(bench: Bench) -> None:
    assert brief(bench.look(match(step(ScheduledProcedureStepStatus="DISCONTINUED")))) == [("A1 1", True)]


def test_a_step_that_comes_twice_is_one_appointment_the_first_that_stands(bench: Bench) -> None:
    later = step(ScheduledProcedureStepStartTime="1500")
    cancelled = step(ScheduledProcedureStepStartTime="1200", ScheduledProcedureStepStatus="CANCELLED")
    rows = (match(cancelled), match(later), match(), match())
    for order in (rows, rows[::-1]):
        (one,) = bench.look(*order).notices
        assert (one.cancelled, one.start_at) == (False, datetime(2026, 11, 22, 13, 0, tzinfo=UTC))


def test_steps_without_any_number_are_told_apart_by_patient_modality_and_day(bench: Bench) -> None:
    nameless = {"AccessionNumber": "", "RequestedProcedureID": ""}
    rows = [match(step(ScheduledProcedureStepID=""), PatientID=patient, **nameless) for patient in ("P1", "P2", "P1")]
    assert len(bench.look(*rows).notices) == 2


# --- What is missing --------------------------------------------------------------------------------------------------


def test_what_a_complete_answer_does_not_have_any_more_is_cancelled(bench: Bench) -> None:
    bench.known(match(), match(AccessionNumber="A2"))
    assert brief(bench.look(match(AccessionNumber="A2"))) == [("A2 1", False), ("A1 1", True)]


def test_a_step_that_moved_is_not_cancelled(bench: Bench) -> None:
    bench.known(match())
    answer = bench.look(match(step(ScheduledProcedureStepStartTime="1600")))
    assert brief(answer) == [("A1 1", False)]
    assert answer.notices[0].start_at == datetime(2026, 11, 22, 15, 0, tzinfo=UTC)


def test_what_has_begun_or_lies_outside_the_days_that_were_asked_for_is_not_cancelled(bench: Bench) -> None:
    bench.keys = (KeyMatch.of(START_DATE, "today..today+9d"),)
    bench.known(match(), match(step(**{START_DATE: "20261130"}), AccessionNumber="A2"))
    bench.keys = (TODAY_AND_TOMORROW,)
    assert brief(bench.look()) == [("A1 1", True)]
    bench.now = NOW + timedelta(hours=5)
    assert brief(bench.look()) == []


def test_days_between_those_that_were_asked_for_are_not_missed(bench: Bench) -> None:
    bench.known(match(step(**{START_DATE: "20261123"})))
    bench.keys = (KeyMatch.of(START_DATE, "20261122", "20261124"),)
    assert brief(bench.look()) == []


def test_a_step_in_another_offset_from_utc_is_missed_by_its_own_days(bench: Bench) -> None:
    far = match(
        step(**{START_DATE: "20261123", "ScheduledProcedureStepStartTime": "2300"}), TimezoneOffsetFromUTC="-1000"
    )
    bench.known(far)
    assert brief(bench.look()) == [("A1 1", True)]


def test_appointments_of_another_trigger_are_none_of_its_business(bench: Bench) -> None:
    bench.known(match())
    bench.ledger.appointments = [msgspec.structs.replace(one, trigger="order") for one in bench.ledger.appointments]
    assert brief(bench.look()) == []


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-3, 3) | st.none()), max_size=8),
    st.sets(st.sampled_from("abcd")),
)
def test_what_vanished_is_unseen_and_still_to_come(known: list[tuple[str, int | None]], seen: set[str]) -> None:
    appointments = [appointment(key, None if hours is None else NOW + timedelta(hours=hours)) for key, hours in known]
    gone = vanished(appointments, seen, NOW)
    wanted = [(key, hours) for key, hours in known if key not in seen and hours is not None and hours > 0]
    assert [one.key for one in gone] == [key for key, _ in wanted]
    assert all(one.cancelled and one.due_at == NOW for one in gone)


def test_a_step_that_does_not_fit_the_rule_any_more_is_cancelled(bench: Bench) -> None:
    bench.where = Condition.of({"Modality": "MR"})
    bench.known(match())
    assert brief(bench.look(match(step(Modality="CT")))) == [("A1 1", True)]


def test_a_step_of_which_nobody_can_say_any_more_whether_it_fits_stays(bench: Bench) -> None:
    bench.keys += (KeyMatch.of("Modality", "MR"),)
    bench.known(match())
    assert brief(bench.look(match(step(Modality="")))) == []


@pytest.mark.parametrize("status", [0xA700, 0xFE00, 0xC001])
def test_an_answer_that_ended_early_cancels_nothing_but_counts(bench: Bench, status: int) -> None:
    bench.known(match())
    bench.peers.worklist_status = status
    answer = bench.look(match(AccessionNumber="A2"))
    assert brief(answer) == [("A2 1", False)]
    assert not answer.complete
    assert f"{status:04X}" in answer.reason


def test_a_failure_without_a_match_is_an_error_in_one_sentence(bench: Bench) -> None:
    bench.peers.worklist_status = 0xA900
    with pytest.raises(QueryFailed, match=r"^ris \(RIS\) failed a worklist query, status A900: [^.]+\.$"):
        bench.look()


def test_more_matches_than_there_is_room_for_cancel_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.known(match())
    monkeypatch.setattr(engine, "MAXIMUM_MATCHES", 2)
    bench.keys += (KeyMatch.of("Modality", "MR", "CT"),)
    answer = bench.look(*(match(AccessionNumber=f"B{number}") for number in range(5)))
    assert brief(answer) == [("B0 1", False), ("B1 1", False)]
    assert not answer.complete
    assert (answer.queries, answer.matches) == (1, 2)


def test_an_answer_at_the_node_s_cap_cancels_nothing(bench: Bench) -> None:
    bench.known(match())
    bench.node = Node(name="ris", ae_title="RIS", host="127.0.0.1", port=104, find=FindSettings(max_results=1))
    answer = bench.look(match(AccessionNumber="A2"))
    assert brief(answer) == [("A2 1", False)]
    assert not answer.complete


def test_matches_without_the_sequence_cancel_nothing(bench: Bench) -> None:
    bench.known(match())
    without = Identifier.of(AccessionNumber="A1", PatientID="P1")
    for row in (without, Identifier.of(AccessionNumber="A1", PatientID="P1", ScheduledProcedureStepSequence="")):
        answer = bench.look(row)
        assert brief(answer) == []
        assert not answer.complete
        assert "Sequence" in answer.reason


def test_a_worklist_that_lost_everything_cancels_nothing_and_says_so(bench: Bench) -> None:
    bench.known(*(match(AccessionNumber=f"A{number}") for number in range(21)))
    answer = bench.look()
    assert brief(answer) == []
    assert not answer.complete
    assert "21 appointments" in answer.reason
    bench.ledger.appointments.pop()
    assert len(bench.look().notices) == 20
