"""Associations held over several processes: never one too many, and each place is used."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import MutableSequence

from hypothesis import given
from hypothesis import strategies as st

from router.dimse.held import FREE, Held

PLACES = 8


def processes(count: int) -> tuple[MutableSequence[int], list[Held]]:
    """A table, and those that share it."""
    places = [FREE] * (PLACES * count)
    return places, [Held(places, range(number * PLACES, (number + 1) * PLACES)) for number in range(count)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.booleans(), st.integers(0, 20), st.sampled_from("ab"), st.sampled_from([None, 1, 3])
        )
    )
)
def test_a_node_holds_as_many_as_it_may_over_all_processes(
    steps: list[tuple[int, bool, int, str, int | None]],
) -> None:
    places, every = processes(3)
    holding: dict[tuple[int, int], str] = {}
    for number, take, serial, node, most in steps:
        if not take:
            every[number].leave(serial)
            holding.pop((number, serial), None)
        elif (number, serial) not in holding:
            full = Counter(one for one, _ in holding)[number] == PLACES
            room = most is None or Counter(holding.values())[node] < most
            assert every[number].take(serial, node, most) is (room and not full)
            if room and not full:
                holding[number, serial] = node
    assert len([one for one in places if one != FREE]) == len(holding)


def test_of_many_that_come_at_once_as_many_are_let_in_as_may() -> None:
    for _ in range(20):
        _, every = processes(6)
        begin = threading.Barrier(6)
        taken: list[int] = []

        def come(held: Held, number: int, begin: threading.Barrier = begin, taken: list[int] = taken) -> None:
            begin.wait(20)
            if held.take(1, "pacs", 2):
                taken.append(number)

        threads = [threading.Thread(target=come, args=(held, number)) for number, held in enumerate(every)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(taken) <= 2
        assert sum(held.take(2, "pacs", 2) for held in every) == 2 - len(taken), "a place is never lost"


def test_processes_count_in_one_table() -> None:
    context = multiprocessing.get_context("spawn")
    places = context.RawArray("Q", 2 * PLACES)
    mine, other = (Held(places, range(number * PLACES, (number + 1) * PLACES)) for number in range(2))
    assert mine.take(1, "pacs", 2)
    process = context.Process(target=_take_one, args=(other,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert not mine.take(2, "pacs", 2), "the other process holds one"
    assert mine.take(2, "ws", 2)


def _take_one(held: Held) -> None:
    assert held.take(1, "pacs", 2)
    assert not held.take(2, "pacs", 2)
