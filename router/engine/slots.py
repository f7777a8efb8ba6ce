"""Slots per node: the one place where every request to it passes, over everything the router does with it.

What is decided stands in `guard` and in `domain.breaker`, `domain.throttle` and `domain.pace`; waiting is here.
"""

from __future__ import annotations

import itertools
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple

import msgspec

from router.domain.allowance import Allowance, allowance
from router.domain.breaker import Breaker
from router.domain.events import AssociationsAllowed, BreakerClosed, BreakerOpened, Event, NodeWaited
from router.domain.rule import Node
from router.domain.throttle import Throttle
from router.domain.window import Window
from router.engine.guard import Guard, Obstacle, Purpose, Slot
from router.engine.ports import Clock, Observer
from router.errors import Cancelled, DeadlineExceeded, NodeLeftAlone

STALLED_SECONDS = 86400.0
"""A wait for a slot is given up only when all slots are held and none was taken or given back for so long, or for twice
what one request may take: no queue that moves runs into it."""

_GLANCE_SECONDS = 0.2
_NEW = "The node's configuration has changed, or it is gone."
_ANY_TIME = datetime(1970, 1, 1, tzinfo=UTC)


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
    probe: bool


class NodeSlots:
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
        self._windows = windows
        self._clock = clock
        self._observer = observer
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._guards: dict[str, Guard] = {}
        self._without_windows: dict[str, tuple[Node, Allowance]] = {}
        self._nodes: dict[str, Node] = {}
        """As the running configuration has them."""
        self._waiting: dict[str, list[_Waiter]] = {}
        self._order = itertools.count()
        self.heeds_breakers = False
        """Requests to nodes that do not answer fail at once; else that is noted only (`apply`: a person waits)."""

    # what is known ------------------------------------------------------------------------------------------------

    def in_use(self, node: str) -> int:
        """Slots of the node held now."""
        with self._changed:
            return self._guard(node).in_use

    def waiting(self, node: str) -> int:
        """How many wait for a slot of the node."""
        with self._changed:
            return len(self._waiting.get(node, ()))

    def known_as(self, node: Node) -> Node:
        """The node by the name under which its slots are counted."""
        return node

    def allowance(self, node: Node) -> Allowance:
        """The limits that hold for the node now."""
        if node.windows and self._clock is not None:
            windows = self._windows()
            if all(use.window is None or use.window in windows for use in node.windows):
                return allowance(node, windows, self._clock.now())
        kept = self._without_windows.get(node.name)
        if kept is None or kept[0] is not node:
            kept = node, allowance(msgspec.structs.replace(node, windows=()), {}, _ANY_TIME)
            self._without_windows[node.name] = kept
        return kept[1]

    def allowed(self, node: Node) -> int:
        """Slots of the node that may be in use now."""
        with self._changed:
            return self._guard(node.name).throttle.allowed(self.allowance(node).associations)

    def left_alone(self, node: Node) -> bool:
        """Whether the node does not answer, so that nothing is to be begun with it."""
        with self._changed:
            return self._left_alone(self._guard(node.name))

    def probe_due(self, node: Node) -> bool:
        """Whether a node that is left alone is to be tried now."""
        with self._changed:
            guard = self._guard(node.name)
            return self._left_alone(guard) and guard.breaker.probe_due(self._monotonic())

    def gate(self, node: Node) -> Obstacle | None:
        """Why no new piece of work is to be begun with the node, which begins with a query; None where it may.

        That all slots are held is no such reason: who waits for one goes by urgency.
        """
        limits = self.allowance(node)
        if not limits.open:
            return Obstacle("window", float("inf"))
        with self._changed:
            guard, now = self._guard(node.name), self._monotonic()
            if self._left_alone(guard):
                return Obstacle("breaker", guard.breaker.probe_at)
            found = guard.obstacle(limits, Purpose.QUERY, now)
            return None if found is None or found.reason == "slots" else found

    def takes(self, node: Node, claimed: int) -> bool:
        """Whether a move in which the node takes part may be begun besides so many claimed ones, by its budget."""
        most = self.allowance(node).moves_per_hour
        if most is None:
            return True
        with self._changed:
            guard = self._guard(node.name)
            not_begun = max(0, claimed - guard.moving - guard.incoming)
            return guard.moves.count(self._monotonic()) + not_begun < most

    def moves_last_hour(self) -> dict[str, int]:
        """Node -> moves of the last hour that count towards its limit."""
        now = self._monotonic()
        with self._changed:
            return {name: guard.moves.count(now) for name, guard in self._guards.items()}

    def adopt(self, nodes: Mapping[str, Node]) -> None:
        """The nodes of a new configuration: one that has changed is tried anew, those that are gone are forgotten."""
        events: list[Event] = []
        with self._changed:
            for name, guard in list(self._guards.items()):
                if nodes.get(name) == self._nodes.get(name) and name in nodes:
                    continue
                if guard.breaker.opened_at is not None and self.heeds_breakers:
                    events.append(
                        BreakerClosed(node=name, open_seconds=self._monotonic() - guard.breaker.opened_at, message=_NEW)
                    )
                if guard.throttle.limit is not None:
                    events.append(AssociationsAllowed(node=name, limit=None))
                guard.breaker, guard.throttle = Breaker(), Throttle()
                if name not in nodes and not (guard.in_use or guard.incoming or self._waiting.get(name)):
                    del self._guards[name]
            self._nodes = dict(nodes)
            self._changed.notify_all()
        for event in events:
            self._observer(event)

    def recall_moves(self, node: str, ages: Iterable[float]) -> None:
        """After a start: moves of before in which the node took part, by how many seconds ago they were."""
        now = self._monotonic()
        with self._changed:
            self._guard(node).moves.recall(now - age for age in ages)

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
        waiter = _Waiter(urgency, next(self._order), known, there, purpose, urgency is Urgency.PROBE)
        slot = self._acquire(waiter, cancelled, aside)
        failure: BaseException | None = None
        try:
            yield slot
        except BaseException as error:
            failure = error
            raise
        finally:
            self._give_back(slot, failure)

    def _acquire(
        self, waiter: _Waiter, cancelled: threading.Event, aside: Callable[[], AbstractContextManager[None]]
    ) -> Slot:
        node, reason = waiter.node, ""
        with ExitStack() as detour, self._changed:
            guard = self._guard(node.name)
            waiting = self._waiting.setdefault(node.name, [])
            insort(waiting, waiter, key=_in_order)
            try:
                since = self._monotonic()
                at_side = False
                while True:
                    if self._left_alone(guard) and not waiter.probe:
                        raise NodeLeftAlone(f"{node.name} does not answer; it is left alone until it does.")
                    now = self._monotonic()
                    obstacle = self._obstacle(waiter, now)
                    first = next(one for one in waiting if one is waiter or self._obstacle(one, now) is None)
                    if obstacle is None and first is waiter:
                        slot = self._grant(waiter, now)
                        break
                    if cancelled.is_set():
                        raise Cancelled
                    held_up = obstacle or Obstacle("slots", float("inf"))
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
                    self._changed.wait(max(0.001, min(_GLANCE_SECONDS, held_up.until - now)))
            finally:
                waiting.remove(waiter)
                self._changed.notify_all()
        if reason:
            self._observer(NodeWaited(node=node.name, reason=reason))
        return slot

    def _grant(self, waiter: _Waiter, now: float) -> Slot:
        slot = Slot(waiter.node, waiter.to, waiter.purpose, now, waiter.probe)
        self._guard(slot.node.name).take(slot, self._there(slot))
        return slot

    def _give_back(self, slot: Slot, failure: BaseException | None) -> None:
        with self._changed:
            guard, now, limits = self._guard(slot.node.name), self._monotonic(), self.allowance(slot.node)
            guard.give_back(slot, self._there(slot), limits.duty, now)
            events = guard.learn(slot, failure, limits.associations, now)
            self._changed.notify_all()
        for event in events:
            if self.heeds_breakers or not isinstance(event, BreakerOpened | BreakerClosed):
                self._observer(event)

    def _there(self, slot: Slot) -> Guard | None:
        return self._guard(slot.to.name) if slot.to is not None else None

    # what stands in the way ---------------------------------------------------------------------------------------

    def _guard(self, name: str) -> Guard:
        return self._guards.setdefault(name, Guard())

    def _left_alone(self, guard: Guard) -> bool:
        return self.heeds_breakers and guard.breaker.is_open

    def _obstacle(self, waiter: _Waiter, now: float) -> Obstacle | None:
        obstacle = self._guard(waiter.node.name).obstacle(self.allowance(waiter.node), waiter.purpose, now)
        if obstacle is not None or waiter.to is None:
            return obstacle
        return self._guard(waiter.to.name).obstacle_to(self.allowance(waiter.to), now)


def _in_order(waiter: _Waiter) -> tuple[int, int]:
    return waiter.urgency, waiter.number
