"""Sub-operations are told once, never taken back, and never beyond the evidence."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from router.domain.dicom import SubOperationCounts
from router.domain.events import Event, SubOperationsCounted
from router.domain.transfer import Intent, State, Transfer
from router.engine.tally import Tallies

NOW = datetime(2026, 11, 25, tzinfo=UTC)
TRANSFER = Transfer(
    id=7,
    intent=Intent("pacs", "1.2", "", "ws"),
    rule="r",
    priority=1,
    state=State.MOVING,
    instance_count=4,
    queued_at=NOW,
    next_at=NOW,
    updated_at=NOW,
)


class Told:
    """What an observer hears."""

    def __init__(self, before: int | None = 0) -> None:
        self.events: list[SubOperationsCounted] = []
        self.tallies = Tallies(self._hear)
        self.tallies.begin(TRANSFER, before)

    def _hear(self, event: Event) -> None:
        assert isinstance(event, SubOperationsCounted)
        self.events.append(event)

    def hear(self, completed: int = 0, warning: int = 0, failed: int = 0, *, shown: int | None = 0) -> Told:
        self.tallies.hear(TRANSFER, SubOperationCounts(None, completed, failed, warning), shown)
        return self

    def look(self, there: int | None) -> Told:
        self.tallies.look(TRANSFER, there)
        return self

    @property
    def sums(self) -> tuple[int, int, int]:
        """Completed, failed, warning."""
        counts = [event.counts for event in self.events]
        return (
            sum(one.completed or 0 for one in counts),
            sum(one.failed or 0 for one in counts),
            sum(one.warning or 0 for one in counts),
        )


def test_what_a_third_party_got_is_told_when_it_has_been_asked() -> None:
    told = Told().hear(4)
    assert told.sums == (0, 0, 0)
    assert told.look(3).sums == (3, 0, 0)
    assert told.look(4).sums == (4, 0, 0)
    assert told.look(2).sums == (4, 0, 0), "nothing is taken back"


def test_what_arrives_here_is_told_at_once_but_no_more_than_claimed() -> None:
    told = Told().hear(1, shown=0).hear(1, shown=2).hear(0, shown=3)
    assert told.sums == (2, 0, 0)
    assert told.look(4).sums == (4, 0, 0)


def test_a_source_is_believed_where_nobody_can_be_asked() -> None:
    assert Told().hear(2, shown=None).sums == (2, 0, 0)
    assert Told(None).hear(4).look(None).sums == (4, 0, 0)


def test_a_source_that_does_not_count_is_counted_for() -> None:
    assert Told().hear().look(4).sums == (4, 0, 0)
    assert Told(1).hear().look(4).sums == (3, 0, 0)
    assert Told(None).hear().look(4).sums == (4, 0, 0)


def test_what_was_there_before_is_not_counted() -> None:
    assert Told(2).hear(4).look(4).sums == (2, 0, 0)
    assert Told(None).hear(2).look(4).sums == (2, 0, 0)


def test_warnings_and_failures_keep_their_outcome() -> None:
    assert Told().hear(1, warning=2, failed=1).look(3).sums == (1, 1, 2)
    assert Told().hear(1, warning=2).look(1).sums == (0, 0, 1)


def test_after_the_end_nothing_is_told() -> None:
    told = Told().hear(4)
    told.tallies.end(TRANSFER)
    assert told.look(4).sums == (0, 0, 0)


@given(
    before=st.none() | st.integers(0, 5),
    steps=st.lists(
        st.tuples(st.just("hear"), st.integers(0, 5), st.integers(0, 5))
        | st.tuples(st.just("look"), st.integers(0, 9), st.just(0)),
        max_size=12,
    ),
)
def test_never_more_than_the_most_that_was_shown(before: int | None, steps: list[tuple[str, int, int]]) -> None:
    told = Told(before)
    most = 0
    for kind, one, other in steps:
        if kind == "hear":
            told.hear(one, other)
        else:
            told.look(one)
            most = max(most, one)
        completed, _, warning = told.sums
        assert completed + warning <= most
        assert all((event.counts.completed or 0) >= 0 for event in told.events)
