"""From chosen priors to transfers, when they are due, and which patient IDs may be asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.appointment import Appointment, AppointmentState
from router.domain.condition import Condition
from router.domain.dicom import Identifier
from router.domain.examination import Examination, examination
from router.domain.prefetching import candidates_question, decisions, due_at, of_swept, retry_at, visit
from router.domain.priors import PriorCondition, PriorGroup, Priors
from router.domain.relevance import Presence, Prior
from router.domain.rule import Arrival, Move, Order, Rule, Sweep, Worklist
from router.domain.safety import REFUSALS, patient_refusal, refusal
from router.domain.selection import PRIORITIES, Action, Decision
from router.domain.transfer import URGENT, Happening, Intent, State, TransferFact

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
PRIORS = Priors(source="pacs", groups=(PriorGroup(name="g", max=2),))


def rule(**changes: object) -> Rule:
    base = Rule(
        name="r", worklist=Worklist(source="ris", lead=7200.0), priors=PRIORS, where=Condition(), move=Move(to=("ws",))
    )
    return msgspec.structs.replace(base, **changes)


def candidate(availability: str = "ONLINE") -> Examination:
    return examination(
        Identifier.of(
            StudyInstanceUID="1.1", PatientID="P", NumberOfStudyRelatedInstances=3, InstanceAvailability=availability
        )
    )


def prior(*, taken: bool = True) -> Prior:
    code, reason = ("taken", "taken for g (1 of 2)") if taken else ("full", "the groups that it fits are full (g: 2)")
    return Prior(
        study_instance_uid="1.1", destination="ws", taken=taken, code=code, reason=reason, group="g", instance_count=3
    )


def decide(
    state: State | None = None,
    presence: Presence = Presence.ABSENT,
    *,
    availability: str = "ONLINE",
    start_at: datetime | None = NOW + 24 * HOUR,
    first: bool = False,
    taken: bool = True,
    priority: str = "normal",
    cause: str = "",
) -> Decision:
    intent = Intent("pacs", "1.1", "", "ws")
    facts = {} if state is None else {intent: TransferFact(id=7, state=state, instance_count=3, cause=cause)}
    (made,) = decisions(
        rule(priority=priority),
        [prior(taken=taken)],
        {"1.1": candidate(availability)},
        facts,
        {"1.1": presence},
        destination="ws",
        start_at=start_at,
        now=NOW,
        first=first,
    )
    return made


def test_what_is_taken_is_moved_by_the_appointment() -> None:
    made = decide()
    assert made.action is Action.MOVE
    assert made.new is not None
    assert (made.new.intent, made.new.deadline_at) == (Intent("pacs", "1.1", "", "ws"), NOW + 24 * HOUR)
    assert made.reason == "taken for g (1 of 2); not moved before"
    assert made.prior == prior()


def test_what_is_not_taken_is_skipped_with_the_reason() -> None:
    made = decide(taken=False)
    assert (made.action, made.code, made.new) == (Action.SKIP, "full", None)
    assert made.reason == "the groups that it fits are full (g: 2)"
    assert made.instance_count == 3


def test_without_an_appointment_there_is_no_deadline() -> None:
    made = decide(start_at=None)
    assert made.new is not None
    assert made.new.deadline_at is None


@pytest.mark.parametrize(
    ("until", "priority"),
    [(URGENT, "urgent"), (-HOUR, "urgent"), (URGENT + timedelta(seconds=1), "low"), (None, "low")],
)
def test_what_is_wanted_soon_is_urgent_and_all_else_as_the_rule_says(until: timedelta | None, priority: str) -> None:
    made = decide(priority="low", start_at=None if until is None else NOW + until)
    assert made.new is not None
    assert made.new.priority == PRIORITIES[priority]


@pytest.mark.parametrize("state", [State.COMPLETE, State.UNPROVEN])
def test_what_was_moved_and_is_there_is_not_moved_again(state: State) -> None:
    made = decide(state, Presence.THERE)
    assert (made.action, made.new, made.transfer) == (Action.SKIP, None, 7)


@pytest.mark.parametrize("state", [State.COMPLETE, State.UNPROVEN])
@pytest.mark.parametrize("presence", [Presence.ABSENT, Presence.UNKNOWN])
def test_what_was_moved_and_is_gone_is_moved_again(state: State, presence: Presence) -> None:
    made = decide(state, presence)
    assert (made.action, made.code, made.transfer) == (Action.MOVE, "again", 7)
    assert made.new is not None
    assert made.new.happening is Happening.AGAIN
    assert "not there any more" in made.reason


def test_what_is_gone_and_cannot_be_had_from_the_source_is_said_to_be_so() -> None:
    made = decide(State.COMPLETE, availability="OFFLINE")
    assert (made.action, made.code, made.new, made.transfer) == (Action.SKIP, "unavailable", None, 7)
    assert "off line" in made.reason


@pytest.mark.parametrize("state", [State.FAILED, State.PARTIAL, State.CONTRADICTED])
def test_what_failed_before_is_tried_again_at_the_first_look_only(state: State) -> None:
    assert decide(state, first=True).action is Action.MOVE
    assert decide(state, first=False).code == "failed-before"


@pytest.mark.parametrize("state", [State.QUEUED, State.MOVING, State.VERIFYING])
def test_what_is_under_way_is_left_alone(state: State) -> None:
    assert decide(state, first=True).code == "under-way"


def test_what_was_cancelled_with_an_appointment_is_wanted_again_but_not_what_a_person_cancelled() -> None:
    assert decide(State.CANCELLED, cause="appointment-cancelled").action is Action.MOVE
    assert decide(State.CANCELLED, cause="cancelled").action is Action.SKIP


@pytest.mark.parametrize(
    ("start", "lead", "due"),
    [
        (NOW + 24 * HOUR, 7200.0, NOW + 22 * HOUR),
        (NOW + HOUR, 7200.0, NOW),
        (NOW - HOUR, 7200.0, NOW),
        (NOW + 24 * HOUR, None, NOW),
        (None, 7200.0, NOW),
    ],
)
def test_a_look_is_due_its_lead_before_the_appointment_and_never_in_the_past(
    start: datetime | None, lead: float | None, due: datetime
) -> None:
    assert due_at(rule(worklist=Worklist(source="ris", lead=lead)), start, NOW) == due


@pytest.mark.parametrize(
    ("trigger", "settings"),
    [
        ("sweep", {"sweep": Sweep(source="pacs")}),
        ("worklist", {"worklist": Worklist(source="ris")}),
        ("order", {"order": Order()}),
        ("arrival", {"arrival": Arrival()}),
    ],
)
def test_a_rule_says_what_starts_it_in_a_word(trigger: str, settings: dict[str, object]) -> None:
    assert rule(**({"worklist": None} | settings)).trigger == trigger


def test_a_visit_is_a_day_around_the_appointment_or_around_now() -> None:
    assert visit(NOW + 48 * HOUR, NOW) == (NOW + 24 * HOUR, NOW + 72 * HOUR)
    assert visit(None, NOW) == (NOW - 24 * HOUR, NOW + 24 * HOUR)


def appointment(**changes: object) -> Appointment:
    base = Appointment(
        id=1,
        rule="r",
        trigger="order",
        key="k",
        source="pacs",
        current=Identifier(),
        patient_id="P",
        due_at=NOW,
        state=AppointmentState.LOOKING,
        noted_at=NOW,
    )
    return msgspec.structs.replace(base, **changes)


def test_a_look_that_failed_is_tried_again_later_and_later() -> None:
    waits = [retry_at(appointment(attempts=attempts), NOW) for attempts in range(20)]
    seconds = [(at - NOW).total_seconds() for at in waits if at is not None]
    assert seconds[:3] == [30.0, 60.0, 120.0]
    assert seconds == sorted(seconds)
    assert seconds[-1] == 600.0


@pytest.mark.parametrize(
    ("start", "heard", "last"),
    [
        (None, NOW, NOW + 24 * HOUR),
        (NOW + 48 * HOUR, NOW, NOW + 49 * HOUR),
        (NOW - HOUR, NOW, NOW + HOUR),
    ],
)
def test_a_look_is_given_up_when_it_would_come_too_late(
    start: datetime | None, heard: datetime, last: datetime
) -> None:
    one = appointment(start_at=start, noted_at=heard)
    wait = timedelta(seconds=30)
    assert retry_at(one, last - wait) == last
    assert retry_at(one, last - wait + timedelta(seconds=1)) is None


def test_candidates_are_asked_for_by_the_patient_alone_with_what_the_groups_look_at() -> None:
    groups = (PriorGroup(name="g", where=PriorCondition(condition=Condition.of({"InstitutionName": "X"})), max=1),)
    question = candidates_question("P 1", Priors(source="pacs", groups=groups))
    filled = {tag: values for tag, values in question.elements.items() if values}
    assert filled == Identifier.of(PatientID="P 1").elements
    assert {"InstitutionName", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"} <= {
        name
        for name in ("InstitutionName", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID")
        if name in question
    }


def test_a_swept_study_wants_its_priors_at_once() -> None:
    row = Identifier.of(StudyInstanceUID="1.9", PatientID="P", IssuerOfPatientID="H")
    notice = of_swept(rule(), row, NOW)
    assert (notice.key, notice.patient_id, notice.issuer, notice.due_at) == ("1.9", "P", "H", NOW)
    assert (notice.source, notice.start_at, notice.trigger) == ("pacs", None, "sweep")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "empty"),
        (" \t ", "empty"),
        ("\u3000", "empty"),
        ("x" * 65, "too-long"),
        ("A\\B", "backslash"),
        ("A*", "wildcard"),
        ("A?B", "wildcard"),
        ("A\x00B", "control"),
        ("A\nB", "control"),
        ("A\u200bB", "control"),
        ("A\u2028B", "control"),
        ("A\ud800B", "control"),
        ("4711-A/2", ""),
        ("山田", ""),
        ("x" * 64, ""),
    ],
)
def test_a_value_that_could_widen_a_query_is_refused(value: str, why: str) -> None:
    assert refusal(value) == why


@given(st.text(max_size=70))
def test_what_is_not_refused_is_one_value_without_a_wildcard(value: str) -> None:
    word = refusal(value)
    assert word in ("", *REFUSALS)
    if not word:
        assert value.strip()
        assert len(value) <= 64
        assert not set(value) & set("\\*?\0\r\n\f\x1b")


def test_a_patient_id_that_came_as_several_values_is_refused() -> None:
    assert patient_refusal(Identifier.of(PatientID=["A", "B"])) == "backslash"
    assert patient_refusal(Identifier.of(PatientID=["A"])) == ""
    assert patient_refusal(Identifier()) == "empty"
