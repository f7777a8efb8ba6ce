"""Breaker, throttle, pace, rest and turns: what they promise, whatever comes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.breaker import BUSY_CAUSES, HELD_OFF, SILENT_CAUSES, Breaker, Sign, sign_of_error, sign_of_status
from router.domain.causes import CAUSES, UNSENT
from router.domain.pace import LATE_SECONDS, Pace, ready_at, rest
from router.domain.rule import BreakerSettings
from router.domain.throttle import LONGEST_PAUSE, STEP_SECONDS, Throttle
from router.domain.turns import EVERY, Turns

SETTINGS = st.builds(
    BreakerSettings,
    failures=st.integers(1, 6),
    pause=st.floats(1, 100),
    maximum_pause=st.floats(100, 1000),
)


@given(SETTINGS, st.lists(st.sampled_from(["failed", "answered", "probe failed", "later"]), max_size=60))
def test_the_breaker_opens_after_so_many_failures_in_a_row_and_any_answer_closes_it(
    settings: BreakerSettings, story: list[str]
) -> None:
    breaker, now, in_a_row, last_pause = Breaker(), 0.0, 0, 0.0
    for what in story:
        now += 400.0 if what == "later" else 0.1
        before = breaker
        if what == "answered":
            breaker, in_a_row = breaker.answered(), 0
            assert not breaker.is_open
        elif what == "failed" or (what == "probe failed" and breaker.is_open):
            probe = what == "probe failed"
            breaker, in_a_row = breaker.failed(settings, now, probe=probe), in_a_row + 1
            assert breaker.is_open == (in_a_row >= settings.failures)
            if before.is_open and not probe:
                assert breaker.probe_at == before.probe_at, "what had begun makes no pause longer"
            elif breaker.is_open:
                assert breaker.probe_at == now + breaker.pause
                first = not before.is_open
                wanted = settings.pause if first else min(2 * last_pause, settings.maximum_pause)
                assert breaker.pause == wanted
        last_pause = breaker.pause
        assert breaker.probe_due(now) == (breaker.is_open and now >= breaker.probe_at)


def test_every_cause_says_one_thing_of_a_node() -> None:
    assert not BUSY_CAUSES & SILENT_CAUSES
    assert not HELD_OFF & (BUSY_CAUSES | SILENT_CAUSES)
    assert CAUSES.keys() >= BUSY_CAUSES | SILENT_CAUSES | HELD_OFF
    assert HELD_OFF <= UNSENT


@pytest.mark.parametrize(
    ("cause", "sign", "when_heard"),
    [
        ("connection-refused", Sign.SILENT, Sign.ANSWERED),
        ("aborted-2-1", Sign.SILENT, Sign.ANSWERED),
        ("timeout-inactivity", Sign.SILENT, Sign.ANSWERED),
        ("rejected-2-3-2", Sign.BUSY, Sign.BUSY),
        ("rejected-1-3-1", Sign.BUSY, Sign.BUSY),
        ("rejected-1-1-3", Sign.ANSWERED, Sign.ANSWERED),
        ("no-context", Sign.ANSWERED, Sign.ANSWERED),
        ("cancelled", Sign.NOTHING, Sign.NOTHING),
        ("left-alone", Sign.NOTHING, Sign.NOTHING),
    ],
)
def test_what_errors_say_of_a_node(cause: str, sign: Sign, when_heard: Sign) -> None:
    assert sign_of_error(cause) is sign
    assert sign_of_error(cause, heard=True) is when_heard


def test_what_statuses_say_of_a_node() -> None:
    busy = {status for status in range(0x10000) if sign_of_status(status) is Sign.BUSY}
    assert busy == {0x0213, 0xA700}


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.sampled_from(["busy", "busy, but old", "good"]), st.floats(0, 90), st.integers(1, 64))),
)
def test_the_throttle_stays_within_bounds_and_comes_back(
    associations: int, story: list[tuple[str, float, int]]
) -> None:
    throttle, now = Throttle(), 0.0
    for what, seconds, in_use in story:
        now += seconds
        before, had = throttle, throttle.allowed(associations)
        if what == "busy":
            throttle = throttle.rejected(in_use, associations, now, now)
            assert throttle.allowed(associations) == max(1, min(in_use, had) // 2)
            assert now < throttle.paused_until <= now + LONGEST_PAUSE
        elif what == "busy, but old":
            throttle = throttle.rejected(in_use, associations, throttle.cut_at - 1, now)
            assert throttle is before or before == Throttle()
        else:
            throttle = throttle.succeeded(associations, now)
            assert had <= throttle.allowed(associations) <= had + 1
            if throttle.allowed(associations) > had:
                assert now - before.changed_at >= STEP_SECONDS
        assert 1 <= throttle.allowed(associations) <= associations
    for _ in range(64):
        now += STEP_SECONDS
        throttle = throttle.succeeded(associations, now)
    assert throttle.allowed(associations) == associations


def test_the_pause_grows_while_rejections_go_on() -> None:
    throttle, now, pauses = Throttle(), 0.0, []
    for _ in range(9):
        throttle = throttle.rejected(1, 4, now, now)
        pauses.append(throttle.paused_until - now)
        now = throttle.paused_until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    throttle = throttle.succeeded(4, now).rejected(1, 4, now, now)
    assert throttle.paused_until - now == 1


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 30), st.floats(0, 1)), min_size=1, max_size=40),
)
def test_in_no_window_more_requests_reach_the_node_than_allowed(
    most: int, story: list[tuple[float, float, float]]
) -> None:
    """Requests one after the other: each goes as soon as it may, and reaches the node some time before it ends."""
    pace, now, reached = Pace(60.0), 0.0, list[float]()
    for wait, length, share in story:
        now = pace.free_at(most, now + wait)
        begun = pace.begin(now)
        reached.append(now + min(LATE_SECONDS, share * length))
        now += length
        pace.end(begun, now)
    for at in reached:
        assert sum(at <= other < at + 59.999 for other in reached) <= most


def test_a_pace_is_not_kept_below_what_is_allowed() -> None:
    pace, now = Pace(60.0), 0.0
    for _ in range(10):
        pace.end(pace.begin(now), now + 0.1)
        now = pace.free_at(1, now + 0.1)
    assert now == pytest.approx(10 * 60.1)
    assert Pace(60.0).free_at(None, 5.0) == 5.0


def test_a_pace_knows_what_was_before() -> None:
    pace = Pace(3600.0)
    pace.recall([-10.0, -3700.0, -20.0])
    assert pace.count(0.0) == 2
    assert pace.free_at(2, 0.0) == 3580.0


@given(st.floats(0.1, 1e4), st.floats(0.01, 1))
def test_rest_makes_the_share(busy: float, duty: float) -> None:
    assert busy / (busy + rest(busy, duty)) == pytest.approx(duty)
    assert rest(busy, None) == 0


@given(st.lists(st.floats(0, 100), max_size=8), st.integers(1, 8), st.floats(0, 100))
def test_a_slot_is_ready_as_soon_as_fewer_rest_than_are_free(rests: list[float], free: int, now: float) -> None:
    at = ready_at(rests, free, now)
    assert sum(end > at for end in rests) < free
    if at > now:
        assert at in rests
        assert sum(end >= at for end in rests) >= free


def test_one_of_five_claims_is_for_what_waits_longest() -> None:
    turns, given_to = Turns(), Counter[tuple[str, bool]]()
    for number in range(60):
        source = ("a", "b", "b")[number % 3]
        given_to[source, turns.longest_waiting(source)] += 1
        turns.claimed(source)
    assert given_to == {("a", True): 4, ("a", False): 16, ("b", True): 8, ("b", False): 32}
    assert EVERY == 5
