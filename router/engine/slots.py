"""Slots per node: the one place where every request to it passes, over everything the router does with it.

What is decided stands in `domain.node_state`, `breaker`, `throttle` and `pace`, what services on one ledger share in
`domain.ration`; waiting is here.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from enum import IntEnum
from typing import NamedTuple

from router.domain.events import NodeWaited
from router.domain.node_state import Obstacle, Purpose
from router.domain.ration import NOT_AGREED, Request, Return
from router.domain.rule import Node
from router.domain.window import Window
from router.engine.guard import Slot
from router.engine.ports import Clock, Observer
from router.engine.slot_counts import SlotCounts
from router.errors import Cancelled, DeadlineExceeded, LedgerError, NodeLeftAlone

STALLED_SECONDS = 86400.0
"""A wait for a slot is given up only when all slots are held and none was taken or given back for so long, or for twice
what one request may take: no queue that moves runs into it."""
ASK_SECONDS = 1.0
"""How often a service asks the ledger for a slot that others hold, about."""

_GLANCE_SECONDS = 0.2
_UNTIL_TOLD = float("inf")


class Urgency(IntEnum):
    """Who goes first when several wait for the same node."""

    PROBE = -1
    SWEEP = 0
    VERIFY = 1
    MOVE = 2


class _Waiter(NamedTuple):
    urgency: int
    number: int
    node: Node
    to: Node | None
    purpose: Purpose
    cancelled: threading.Event

    @property
    def probe(self) -> bool:
        return self.urgency is Urgency.PROBE

    @property
    def to_name(self) -> str:
        return self.to.name if self.to is not None else ""


class _Refused(NamedTuple):
    """The ledger had no slot: when to ask again, unless there is news of the nodes before."""

    until: float
    versions: tuple[int | None, int | None]


class NodeSlots(SlotCounts):
    """Grants at most as many slots per node as it allows now; waiters in order of urgency, then of coming.

    `windows` and `clock` say what a node allows at a moment; without a clock its own limits hold. Thread-safe.
    """

    def __init__(
        self,
        windows: Callable[[], Mapping[str, Window]] = dict,
        clock: Clock | None = None,
        observer: Observer = lambda event: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(windows, clock, observer, monotonic)
        self._waiting: dict[str, list[_Waiter]] = {}
        self._order = itertools.count(1)
        self._refused: dict[str, _Refused] = {}

    def waiting(self, node: str) -> int:
        """How many wait here for a slot of the node."""
        with self._changed:
            return len(self._waiting.get(node, ()))

    # holding ------------------------------------------------------------------------------------------------------

    @contextmanager
    def hold(
        self,
        node: Node,
        urgency: Urgency,
        cancelled: threading.Event,
        *,
        purpose: Purpose = Purpose.OTHER,
        to: Node | None = None,
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Iterator[Slot]:
        """Hold a slot for one request. Inside a closed window too: what has begun goes on.

        `to` is the destination of a move; while its limits are what is waited for, `aside` is entered. Raises Cancelled
        when cancelled, NodeLeftAlone where the node is left alone (but not to a probe), DeadlineExceeded where nothing
        moves at the node; none of them has touched it.
        """
        known, there = self.known_as(node), to and self.known_as(to)
        slot = self._acquire(_Waiter(urgency, next(self._order), known, there, purpose, cancelled), aside)
        failure: BaseException | None = None
        try:
            yield slot
        except BaseException as error:
            failure = error
            raise
        finally:
            self._give_back(slot, failure)

    def _acquire(self, waiter: _Waiter, aside: Callable[[], AbstractContextManager[None]]) -> Slot:
        node, reason = waiter.node, ""
        with ExitStack() as detour, self._changed:
            guard = self._guard(node.name)
            waiting = self._waiting.setdefault(node.name, [])
            insort(waiting, waiter, key=_in_order)
            try:
                since = self._monotonic()
                at_side = False
                while True:
                    guard = self._guard(node.name)
                    if self._left_alone(guard) and not waiter.probe:
                        raise NodeLeftAlone(f"{node.name} does not answer; it is left alone until it does.")
                    now = self._monotonic()
                    obstacle = self._obstacle(waiter, now)
                    first = next(one for one in waiting if one is waiter or self._obstacle(one, now) is None)
                    if first is waiter and obstacle is None and self._alone:
                        slot = self._grant(waiter, now)
                        break
                    if waiter.cancelled.is_set():
                        raise Cancelled
                    if first is waiter and self._may_ask(waiter, obstacle, now):
                        granted = self._ask(waiter)
                        if granted is not None:
                            slot = granted
                            break
                        obstacle = self._obstacle(waiter, self._monotonic())
                        if obstacle is None and not self._alone:
                            obstacle = Obstacle(NOT_AGREED, _UNTIL_TOLD)
                    held_up = obstacle or Obstacle("slots", _UNTIL_TOLD)
                    stalled = max(STALLED_SECONDS, 2 * max(node.find.total, node.move.total))
                    if held_up.reason == "slots" and now - max(since, guard.turned) > stalled:
                        raise DeadlineExceeded(
                            f"No association to {node.name} became free; raise limits.associations?",
                            "no-free-association",
                        )
                    reason = reason or held_up.reason
                    if held_up.elsewhere and not at_side:
                        detour.enter_context(aside())
                        at_side = True
                    elif at_side and not held_up.elsewhere:
                        detour.pop_all().close()
                        at_side = False
                    if not self._alone and self._shares is not None:
                        self._shares.wake()
                    self._changed.wait(max(0.001, min(_GLANCE_SECONDS, held_up.until - now)))
            finally:
                waiting.remove(waiter)
                self._changed.notify_all()
        if reason:
            self._observer(NodeWaited(node=node.name, reason=reason))
        return slot

    def _grant(self, waiter: _Waiter, now: float) -> Slot:
        slot = self._slot(waiter, waiter.number, now)
        self._guard(slot.node.name).take(slot.key, slot.purpose, slot.to_name, now)
        if slot.to is not None:
            self._guard(slot.to.name).come(slot.key, now)
        return slot

    def _slot(self, waiter: _Waiter, number: int, now: float) -> Slot:
        cancelled = None if waiter.probe else waiter.cancelled
        slot = Slot((self._owner, number), waiter.node, waiter.to, waiter.purpose, now, cancelled)
        self._held[number] = slot
        return slot

    def _give_back(self, slot: Slot, failure: BaseException | None) -> None:
        lesson = slot.lesson(failure)
        with self._changed:
            slot.ending = True
            now, limits, shares = self._monotonic(), self.allowance(slot.node), self._shares
            if self._alone or shares is None:
                room = None
                self._held.pop(slot.key[1], None)
                events = self._return(
                    Return(slot.key, slot.node.name, limits, slot.to_name, now, lesson, slot.node.breaker)
                )
            else:
                events = []
                room = self._standing(slot.node.name)
            self._changed.notify_all()
        if room is not None and shares is not None:
            offset = shares.offset()
            lesson = lesson._replace(began=lesson.began + offset)
            one = Return(slot.key, slot.node.name, limits, slot.to_name, now + offset, lesson, slot.node.breaker)
            shares.give_back(slot.node, one, room)
        self._tell(events)

    def _obstacle(self, waiter: _Waiter, now: float) -> Obstacle | None:
        unsettled = self._unsettled(now)
        if unsettled is not None:
            return unsettled
        guard = self._guard(waiter.node.name)
        before = guard.before(self._owner, now) if guard.waiters else 0
        obstacle = guard.obstacle(self.allowance(waiter.node), waiter.purpose, now, before)
        if obstacle is not None or waiter.to is None:
            return obstacle
        return self._guard(waiter.to.name).obstacle_to(self.allowance(waiter.to), now)

    # asking the ledger --------------------------------------------------------------------------------------------

    def _may_ask(self, waiter: _Waiter, obstacle: Obstacle | None, now: float) -> bool:
        """Whether the ledger is to be asked now: nothing is in the way, or others hold what is, who may be dead."""
        name = waiter.node.name
        if self._alone or self._unsettled(now) is not None or name in self._asking:
            return False
        refused = self._refused.get(name)
        if refused is not None and now >= refused.until:
            refused = None
        if obstacle is None:
            return refused is None or refused.versions != self._known_versions(waiter)
        if refused is not None or obstacle.until != _UNTIL_TOLD:
            return False
        there = waiter.to.name if obstacle.elsewhere and waiter.to is not None else name
        return bool(self._guard(there).owners() - {self._owner})

    def _ask(self, waiter: _Waiter) -> Slot | None:
        """Ask the ledger for a slot. The lock is let go meanwhile; the request keeps the node for itself."""
        shares, name, number = self._shares, waiter.node.name, next(self._order)
        if shares is None:
            return None
        request = Request(
            (self._owner, number),
            name,
            self.allowance(waiter.node),
            waiter.purpose,
            waiter.to_name,
            self.allowance(waiter.to) if waiter.to is not None else None,
            waiter.probe,
            self.heeds_breakers,
        )
        self._asking[name] = number
        obstacle: Obstacle | None = Obstacle(NOT_AGREED, _UNTIL_TOLD)
        self._changed.release()
        try:
            obstacle, states = shares.take(request)
            self.adopt_states(states)
        except LedgerError:  # it is told of by those whose work it ends; here it is a wait
            pass
        finally:
            self._changed.acquire()
            del self._asking[name]
            self._changed.notify_all()
        if obstacle is None:
            self._refused.pop(name, None)
            return self._slot(waiter, number, self._monotonic())
        if obstacle.reason == "breaker" and waiter.probe:
            raise NodeLeftAlone(f"{name} does not answer; another replica tries it.")
        until = self._monotonic() + ASK_SECONDS * random.uniform(0.75, 1.25)
        self._refused[name] = _Refused(until, self._known_versions(waiter))
        return None

    def _known_versions(self, waiter: _Waiter) -> tuple[int | None, int | None]:
        return self._versions.get(waiter.node.name), self._versions.get(waiter.to_name)


def _in_order(waiter: _Waiter) -> tuple[int, int]:
    return waiter.urgency, waiter.number
