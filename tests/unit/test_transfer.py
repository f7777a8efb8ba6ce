"""The table of transfer states, and back-off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.rule import Retry
from router.domain.transfer import (
    ENDED,
    TRANSITIONS,
    UNDER_WAY,
    Happening,
    IllegalTransition,
    Intent,
    State,
    Transfer,
    after,
    backoff,
    lead_of,
    timely,
)


def test_every_state_has_a_row_and_every_target_is_a_state() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {target for ways in TRANSITIONS.values() for target in ways.values()} <= set(State)


def test_every_state_can_be_reached_from_queued() -> None:
    reached, frontier = {State.QUEUED}, [State.QUEUED]
    while frontier:
        for target in TRANSITIONS[frontier.pop()].values():
            if target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(State)


@pytest.mark.parametrize("state", sorted(UNDER_WAY))
def test_everything_under_way_can_end(state: State) -> None:
    reached, frontier = {state}, [state]
    while frontier:
        for target in TRANSITIONS[frontier.pop()].values():
            if target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached & ENDED


@pytest.mark.parametrize("state", sorted(ENDED))
def test_what_has_ended_moves_again_only_when_it_grew_or_was_asked_for(state: State) -> None:
    grows = set() if state is State.CANCELLED else {Happening.GREW}  # what a person cancelled stays so
    waits = {Happening.WAIT for _ in grows}  # until its rule lets it go
    assert set(TRANSITIONS[state]) - waits == {Happening.AGAIN, *grows}


def test_a_worker_that_vanished_leads_to_verification_never_to_another_move() -> None:
    assert after(State.MOVING, Happening.LEASE_LOST) is State.VERIFYING


@given(st.sampled_from(State), st.sampled_from(Happening))
def test_what_is_not_in_the_table_is_refused(state: State, happening: Happening) -> None:
    if happening in TRANSITIONS[state]:
        assert after(state, happening) is TRANSITIONS[state][happening]
    else:
        with pytest.raises(IllegalTransition, match=state.value):
            after(state, happening)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded_by_its_maximum(attempts: int, uniform: float) -> None:
    retry = Retry(attempts=6, delay=30.0, maximum_delay=3600.0)
    assert 0 <= backoff(retry, attempts, uniform).total_seconds() <= 3600


def test_backoff_doubles_with_full_jitter() -> None:
    retry = Retry(delay=10.0, maximum_delay=1000.0)
    assert [backoff(retry, n, 0.5).total_seconds() for n in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert backoff(retry, 3, 0.0).total_seconds() == 0.0


@given(st.sampled_from(State), st.none() | st.integers(-(10**6), 10**6))
def test_what_is_there_has_a_lead_on_its_deadline_and_what_is_not_has_none(state: State, seconds: int | None) -> None:
    now = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
    transfer = Transfer(
        id=1,
        intent=Intent("archive", "1.2.3", "", "ws1"),
        rule="priors",
        priority=0,
        state=state,
        instance_count=1,
        queued_at=now,
        next_at=now,
        updated_at=now,
        deadline_at=None if seconds is None else now + timedelta(seconds=seconds),
    )
    lead = lead_of(transfer, now)
    assert lead == (seconds if state in (State.COMPLETE, State.UNPROVEN) else None)
    late = timely(transfer, now) == "late"
    assert late == (lead is not None and lead < 0)
