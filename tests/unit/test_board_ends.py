"""When a move ends, told from how it went so far."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from router.domain.board_ends import FARTHEST, Mark, ends_at, marks
from router.domain.board_view import drawn
from router.domain.transfer import State
from tests.support.boards import NOW, PSEUDONYMS, at, moment, transfer


def test_the_first_move_of_a_transfer_is_counted_from_its_beginning() -> None:
    one = transfer(1, completed=3, failed=1, started_at=at(-40))
    assert ends_at(one, marks({}, [one])[1]) == at(60)


def test_another_move_is_counted_from_where_it_stood_when_it_was_seen_first() -> None:
    before = transfer(1, completed=4, attempts=1, started_at=at(-4000), updated_at=at(-10), fence=5)
    known = marks({}, [before])
    assert ends_at(before, known[1]) is None
    now = transfer(1, completed=6, attempts=1, started_at=at(-4000), fence=5)
    assert marks(known, [now]) == known
    assert ends_at(now, known[1]) == at(20)
    again = transfer(1, completed=6, attempts=2, fence=6)
    assert marks(known, [again])[1] == Mark(6, 6, NOW)


def test_only_what_moves_has_a_mark_and_what_is_over_loses_it() -> None:
    known = marks({}, [transfer(1, started_at=at(-9)), transfer(2, State.VERIFYING)])
    assert known.keys() == {1}
    assert marks(known, []) == {}


def test_nobody_can_tell_where_nothing_came_or_nobody_knows_how_much_is_to_come() -> None:
    mark = Mark(0, 0, at(-60))
    assert ends_at(transfer(1), mark) is None
    assert ends_at(transfer(1, completed=3, instance_count=None), mark) is None
    assert ends_at(transfer(1, completed=11), mark) is None
    assert ends_at(transfer(1, completed=3, updated_at=at(-59)), mark) is None
    assert ends_at(transfer(1, completed=1, instance_count=10**9), mark) is None
    assert ends_at(transfer(1, completed=3), None) is None


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 10**6))
def test_it_never_ends_before_now_nor_farther_than_anybody_could_say(
    total: int, completed: int, failed: int, done: int, seconds: float
) -> None:
    one = transfer(1, instance_count=total, completed=completed, failed=failed)
    ends = ends_at(one, Mark(0, done, NOW - timedelta(seconds=seconds)))
    assert ends is None or NOW <= ends <= NOW + FARTHEST


def test_a_board_says_when_a_move_ends() -> None:

    one = transfer(1, completed=5, started_at=at(-50))
    shown = drawn(moment(live=[one], marks=marks({}, [one])), PSEUDONYMS, identifiers=False)
    assert shown.live[0].ends_at == at(50)
