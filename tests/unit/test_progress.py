"""From counters that fall, vanish, start again or lie to increases that only rise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.dicom import SubOperationCounts
from router.domain.progress import Progress

COUNTS = st.builds(SubOperationCounts, *[st.none() | st.integers(0, 65535)] * 4)
LIMITS = st.none() | st.integers(0, 70_000)
NAMES = ("completed", "failed", "warning")


@given(st.lists(COUNTS), LIMITS)
def test_counters_never_fall_and_never_exceed_what_was_asked_for(
    responses: list[SubOperationCounts], expected: int | None
) -> None:
    progress = Progress(expected)
    totals = dict.fromkeys(NAMES, 0)
    for response in responses:
        before = progress.counts
        increase = progress.advance(response)
        for name in NAMES:
            more = getattr(increase, name)
            assert more is not None
            assert more >= 0
            totals[name] += more
            assert totals[name] == getattr(progress, name) == getattr(progress.counts, name) >= getattr(before, name)
        if expected is not None:
            assert sum(totals.values()) <= expected
            assert (increase.remaining or 0) + sum(totals.values()) <= max(expected, sum(totals.values()))


@given(st.lists(COUNTS))
def test_without_a_limit_the_highest_value_counts(responses: list[SubOperationCounts]) -> None:
    progress = Progress()
    for response in responses:
        progress.advance(response)
    for name in NAMES:
        reported = [value for one in responses if (value := getattr(one, name)) is not None]
        assert getattr(progress, name) == max(reported, default=0)
        assert getattr(progress.reported, name) == max(reported, default=None)


def of(*counts: tuple[int | None, int | None, int | None, int | None], expected: int | None = None) -> Progress:
    progress = Progress(expected)
    for one in counts:
        progress.advance(SubOperationCounts(*one))
    return progress


@pytest.mark.parametrize(
    ("responses", "wavering"),
    [
        ([(3, 1, 0, 0), (2, 2, 0, 0), (None, 4, 0, 0)], False),
        ([(3, 1, 0, 0), (2, 1, 1, 0), (1, 1, 1, 1)], False),
        ([(3, 1, 0, 0), (9, 2, 0, 0)], True),
        ([(None, 3, None, None), (None, 2, None, None)], True),
        ([(3, 1, 0, 0), (None, None, None, None), (1, 3, 0, 0)], False),
        ([(3, 7, 0, 0), (10, 0, 0, 0)], True),
    ],
)
def test_contradictions_are_noticed(
    responses: list[tuple[int | None, int | None, int | None, int | None]], wavering: bool
) -> None:
    assert of(*responses).wavering is wavering


def test_what_is_reported_and_what_is_believed() -> None:
    progress = of((5, 40, 3, 0), (0, 60, 60, 0), expected=48)
    assert progress.counts == SubOperationCounts(0, 45, 3, 0)
    assert progress.reported == SubOperationCounts(None, 60, 60, 0)
