"""Slots per node: never more than allowed, urgent work first, every wait ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from router.domain.rule import Node, NodeLimits
from router.domain.transfer import Route
from router.engine.slots import Detours, NodeSlots, Urgency
from router.errors import Cancelled, DeadlineExceeded
from tests.support.process import wait_for

NEVER = threading.Event()


def node(name: str = "archive", associations: int = 1) -> Node:
    return Node(name=name, ae_title="A", host="h", port=1, limits=NodeLimits(associations=associations))


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("allowed", [1, 3])
def test_never_more_than_the_node_allows(allowed: int) -> None:
    slots, peak, lock, now = NodeSlots(), 0, threading.Lock(), 0

    def work() -> None:
        nonlocal peak, now
        for _ in range(20):
            with slots.hold(node(associations=allowed), Urgency.MOVE, NEVER):
                with lock:
                    now += 1
                    peak = max(peak, now)
                with lock:
                    now -= 1

    threads = [start(work) for _ in range(8)]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert 1 <= peak <= allowed
    assert slots.in_use("archive") == 0


def test_a_sweep_goes_before_moves_that_waited_longer() -> None:
    slots, order = NodeSlots(), []

    def work(urgency: Urgency) -> None:
        with slots.hold(node(), urgency, NEVER):
            order.append(urgency)

    with slots.hold(node(), Urgency.MOVE, NEVER):
        threads = []
        for waiting, urgency in enumerate((Urgency.MOVE, Urgency.VERIFY, Urgency.SWEEP), 1):
            threads.append(start(lambda urgency=urgency: work(urgency)))  # type: ignore[misc]
            wait_for(lambda waiting=waiting: slots.waiting("archive") == waiting, "the wait")
    for thread in threads:
        thread.join(30)
    assert order == [Urgency.SWEEP, Urgency.VERIFY, Urgency.MOVE]


def test_nodes_do_not_wait_for_each_other() -> None:
    slots = NodeSlots()
    with slots.hold(node("one"), Urgency.MOVE, NEVER), slots.hold(node("two"), Urgency.MOVE, NEVER):
        assert (slots.in_use("one"), slots.in_use("two")) == (1, 1)


def test_a_wait_ends_when_cancelled_or_in_the_end() -> None:
    slots, cancelled = NodeSlots(), threading.Event()
    cancelled.set()
    with slots.hold(node(), Urgency.MOVE, NEVER):
        with pytest.raises(Cancelled), slots.hold(node(), Urgency.MOVE, cancelled):
            pass
        with (
            pytest.raises(DeadlineExceeded, match="archive"),
            slots.hold(node(), Urgency.MOVE, NEVER, patience=0.0),
        ):
            pass
    with slots.hold(node(), Urgency.MOVE, NEVER):
        pass


def test_a_slot_is_given_back_whatever_happens() -> None:
    slots = NodeSlots()
    with pytest.raises(RuntimeError), slots.hold(node(), Urgency.MOVE, NEVER):
        raise RuntimeError
    assert slots.in_use("archive") == 0


def test_a_detour_is_slow_only_after_a_while_and_never_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    detours = Detours()
    route = Route("archive", "ws")
    with detours.wait(route):
        assert detours.slow() == []
        monkeypatch.setattr(Detours, "SLOW_SECONDS", 0.0)
        with detours.wait(route):
            assert detours.slow() == [route, route]
            first = detours.late()
        assert detours.slow() == [route]
        assert len(first - detours.late()) == 1
    assert (detours.slow(), detours.late()) == ([], frozenset())
