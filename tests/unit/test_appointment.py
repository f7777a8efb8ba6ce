"""What news of an appointment does: the table, each cell, and what holds of any order of news."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.appointment import Appointment, AppointmentState, Change, News, Notice, reconcile, urgent_from
from router.domain.dicom import Identifier

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
REPEAT = 3600.0
S, N = AppointmentState, News


def notice(**changes: object) -> Notice:
    base = Notice(
        rule="r",
        trigger="order",
        key="k",
        source="pacs",
        current=Identifier.of(PatientID="P", Modality="CT", ScheduledProcedureStepStartDate="20261123"),
        patient_id="P",
        start_at=NOW + 24 * HOUR,
        due_at=NOW + 22 * HOUR,
    )
    return msgspec.structs.replace(base, **changes)


def known(state: AppointmentState, said: Notice | None = None, **changes: object) -> Appointment:
    said = said or notice()
    ended = state in (S.DONE, S.FAILED)
    base = Appointment(
        id=1,
        rule=said.rule,
        trigger=said.trigger,
        key=said.key,
        source=said.source,
        current=said.current,
        patient_id=said.patient_id,
        issuer=said.issuer,
        start_at=said.start_at,
        due_at=said.due_at,
        state=state,
        noted_at=NOW - MINUTE,
        finished_at=NOW - MINUTE if ended else None,
    )
    return msgspec.structs.replace(base, **changes)


SAME = notice()
MOVED = notice(start_at=NOW + 48 * HOUR, due_at=NOW + 46 * HOUR)
SOONER = notice(start_at=NOW + HOUR, due_at=NOW)
CHANGED = notice(current=Identifier.of(PatientID="P", Modality="MR"))
OTHER_PATIENT = notice(patient_id="Q")
CANCELLED = notice(cancelled=True)

TABLE = [
    # state, notice, news, state after, due, look, deadlines, cancel
    (S.WAITING, SAME, N.REPEATED, S.WAITING, SAME.due_at, False, False, False),
    (S.WAITING, MOVED, N.MOVED, S.WAITING, MOVED.due_at, False, True, False),
    (S.WAITING, CHANGED, N.CHANGED, S.WAITING, SAME.due_at, True, False, False),
    (S.WAITING, OTHER_PATIENT, N.CHANGED, S.WAITING, SAME.due_at, True, False, True),
    (S.WAITING, CANCELLED, N.CANCELLED, S.CANCELLED, SAME.due_at, True, True, True),
    (S.LOOKING, SAME, N.REPEATED, S.LOOKING, SAME.due_at, False, False, False),
    (S.LOOKING, MOVED, N.MOVED, S.LOOKING, SAME.due_at, False, True, False),
    (S.LOOKING, CHANGED, N.CHANGED, S.WAITING, SAME.due_at, True, False, False),
    (S.LOOKING, CANCELLED, N.CANCELLED, S.CANCELLED, SAME.due_at, True, True, True),
    (S.DONE, SAME, N.REPEATED, S.DONE, SAME.due_at, False, False, False),
    (S.DONE, MOVED, N.MOVED, S.WAITING, MOVED.due_at, True, True, False),
    (S.DONE, SOONER, N.MOVED, S.DONE, SAME.due_at, False, True, False),
    (S.DONE, CHANGED, N.CHANGED, S.WAITING, SAME.due_at, True, False, False),
    (S.DONE, CANCELLED, N.CANCELLED, S.CANCELLED, SAME.due_at, True, True, True),
    (S.FAILED, SAME, N.REPEATED, S.FAILED, SAME.due_at, False, False, False),
    (S.FAILED, MOVED, N.MOVED, S.WAITING, MOVED.due_at, True, True, False),
    (S.FAILED, SOONER, N.MOVED, S.WAITING, NOW, True, True, False),
    (S.FAILED, CHANGED, N.CHANGED, S.WAITING, SAME.due_at, True, False, False),
    (S.FAILED, CANCELLED, N.CANCELLED, S.CANCELLED, SAME.due_at, True, True, True),
    (S.CANCELLED, SAME, N.REVIVED, S.WAITING, SAME.due_at, True, False, False),
    (S.CANCELLED, MOVED, N.REVIVED, S.WAITING, MOVED.due_at, True, False, False),
    (S.CANCELLED, CHANGED, N.REVIVED, S.WAITING, SAME.due_at, True, False, False),
    (S.CANCELLED, CANCELLED, N.REPEATED, S.CANCELLED, SAME.due_at, False, False, False),
]


@pytest.mark.parametrize(("state", "said", "news", "then", "due_at", "look", "deadlines", "cancel"), TABLE)
def test_each_cell_of_the_table(
    state: AppointmentState,
    said: Notice,
    news: News,
    then: AppointmentState,
    due_at: datetime,
    look: bool,
    deadlines: bool,
    cancel: bool,
) -> None:
    change = reconcile(known(state), said, NOW, REPEAT, again=False)
    assert change == Change(news=news, state=then, due_at=due_at, look=look, deadlines=deadlines, cancel=cancel)


def test_what_was_never_known_is_new_and_its_end_is_nothing() -> None:
    new = reconcile(None, SAME, NOW, REPEAT, again=False)
    assert new == Change(news=N.NEW, state=S.WAITING, due_at=SAME.due_at, look=True)
    assert reconcile(None, CANCELLED, NOW, REPEAT, again=False).news is N.UNKNOWN


@pytest.mark.parametrize(
    ("state", "news", "then"),
    [
        (None, N.NEW, S.WAITING),
        (S.WAITING, N.AGAIN, S.WAITING),
        (S.LOOKING, N.AGAIN, S.LOOKING),
        (S.DONE, N.AGAIN, S.WAITING),
        (S.FAILED, N.AGAIN, S.WAITING),
        (S.CANCELLED, N.REVIVED, S.WAITING),
    ],
)
def test_a_person_has_it_looked_at_now(state: AppointmentState | None, news: News, then: AppointmentState) -> None:
    change = reconcile(known(state) if state else None, SAME, NOW, REPEAT, again=True)
    assert (change.news, change.state) == (news, then)
    if then is S.WAITING:
        assert change.look
        assert change.due_at == NOW


@pytest.mark.parametrize("state", [S.DONE, S.FAILED])
@pytest.mark.parametrize(("ago", "news"), [(REPEAT - 1, N.REPEATED), (REPEAT, N.AGAIN)])
def test_the_same_is_looked_at_again_only_when_the_last_look_is_long_ago(
    state: AppointmentState, ago: float, news: News
) -> None:
    before = known(state, finished_at=NOW - timedelta(seconds=ago))
    assert reconcile(before, SAME, NOW, REPEAT, again=False).news is news


@pytest.mark.parametrize("state", [S.WAITING, S.LOOKING, S.DONE, S.FAILED])
def test_a_start_that_comes_or_goes_is_another_start(state: AppointmentState) -> None:
    without = notice(start_at=None, due_at=NOW)
    assert reconcile(known(state), without, NOW, REPEAT, again=False).news is N.MOVED
    assert reconcile(known(state, without), SAME, NOW, REPEAT, again=False).news is N.MOVED


def test_another_time_in_the_data_set_and_empty_attributes_are_no_other_content() -> None:
    current = Identifier.of(
        PatientID="P", Modality="CT", ScheduledProcedureStepStartDate="20261124", AccessionNumber=""
    )
    said = msgspec.structs.replace(MOVED, current=current)
    assert reconcile(known(S.DONE), said, NOW, REPEAT, again=False).news is N.MOVED


def test_a_further_instance_pushes_an_arrival_back_and_is_no_news() -> None:
    first = notice(trigger="arrival", start_at=None, due_at=NOW)
    later = msgspec.structs.replace(first, due_at=NOW + MINUTE)
    change = reconcile(known(S.WAITING, first), later, NOW, REPEAT, again=False)
    assert (change.news, change.due_at) == (N.REPEATED, later.due_at)


def test_what_waits_for_a_retry_keeps_its_time_when_the_same_is_said_again() -> None:
    retried = known(S.WAITING, due_at=NOW + 10 * MINUTE, attempts=3)
    assert reconcile(retried, SAME, NOW, REPEAT, again=False).due_at == NOW + 10 * MINUTE


def test_transfers_are_urgent_an_hour_before() -> None:
    assert urgent_from(NOW) == NOW - HOUR


MOMENTS = st.sampled_from([None, NOW, NOW + HOUR, NOW + 24 * HOUR])
NOTICES = st.builds(
    notice,
    start_at=MOMENTS,
    due_at=st.sampled_from([NOW - MINUTE, NOW, NOW + HOUR]),
    patient_id=st.sampled_from(["P", "Q"]),
    trigger=st.sampled_from(["order", "arrival"]),
    current=st.sampled_from([SAME.current, CHANGED.current]),
    cancelled=st.booleans(),
)


def applied(before: Appointment | None, said: Notice, change: Change) -> Appointment:
    finished = before.finished_at if before is not None else None
    return known(change.state, said, due_at=change.due_at, finished_at=finished, noted_at=NOW)


@given(st.sampled_from([None, *S]), NOTICES, NOTICES, st.booleans())
def test_saying_the_same_twice_is_no_news(
    state: AppointmentState | None, earlier: Notice, said: Notice, again: bool
) -> None:
    before = known(state, earlier) if state is not None else None
    first = reconcile(before, said, NOW, REPEAT, again=again)
    if first.news is N.UNKNOWN:
        return
    second = reconcile(applied(before, said, first), said, NOW, REPEAT, again=False)
    assert second.news is N.REPEATED
    assert second.state is first.state
    assert not (second.look or second.cancel or second.deadlines)


@given(st.sampled_from(list(S)), NOTICES)
def test_cancelled_and_revived_it_waits(state: AppointmentState, said: Notice) -> None:
    end = msgspec.structs.replace(said, cancelled=True)
    before = known(state, said)
    gone = applied(before, end, reconcile(before, end, NOW, REPEAT, again=False))
    assert gone.state is S.CANCELLED
    back = reconcile(gone, msgspec.structs.replace(said, cancelled=False), NOW, REPEAT, again=False)
    assert (back.news, back.state, back.look) == (N.REVIVED, S.WAITING, True)


@given(st.sampled_from([None, *S]), NOTICES, NOTICES, st.booleans())
def test_nothing_is_looked_at_but_from_waiting_and_only_an_end_cancels(
    state: AppointmentState | None, earlier: Notice, said: Notice, again: bool
) -> None:
    change = reconcile(known(state, earlier) if state else None, said, NOW, REPEAT, again=again)
    another = state is not None and (earlier.patient_id, earlier.issuer) != (said.patient_id, said.issuer)
    assert change.cancel <= (said.cancelled or another)
    if change.look:
        assert change.state in (S.WAITING, S.CANCELLED)
