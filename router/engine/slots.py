"""Associations in flight per node, over everything the router does with it."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from router.domain.rule import Node
from router.domain.transfer import Route
from router.errors import Cancelled, DeadlineExceeded


class Urgency(IntEnum):
    """Who goes first when several wait for the same node."""

    SWEEP = 0
    VERIFY = 1
    MOVE = 2


class NodeSlots:
    """Grants at most `limits.associations` slots per node; waiters in order of urgency, then of coming."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_use: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[int, int]]] = {}
        self._order = itertools.count()

    def in_use(self, node: str) -> int:
        """Slots of the node held now."""
        with self._changed:
            return self._in_use.get(node, 0)

    def waiting(self, node: str) -> int:
        """How many wait for a slot of the node."""
        with self._changed:
            return len(self._waiting.get(node, ()))

    @contextmanager
    def hold(
        self, node: Node, urgency: Urgency, cancelled: threading.Event, patience: float = 3600.0
    ) -> Iterator[None]:
        """Hold a slot. Raises Cancelled when cancelled, DeadlineExceeded after `patience` seconds of waiting."""
        self._acquire(node, urgency, cancelled, time.monotonic() + patience)
        try:
            yield
        finally:
            with self._changed:
                self._in_use[node.name] -= 1
                self._changed.notify_all()

    def _acquire(self, node: Node, urgency: Urgency, cancelled: threading.Event, deadline: float) -> None:
        ticket = (int(urgency), next(self._order))
        with self._changed:
            waiting = self._waiting.setdefault(node.name, [])
            heapq.heappush(waiting, ticket)
            try:
                while waiting[0] != ticket or self._in_use.get(node.name, 0) >= node.limits.associations:
                    if cancelled.is_set():
                        raise Cancelled
                    if time.monotonic() > deadline:
                        raise DeadlineExceeded(
                            f"No association to {node.name} became free; raise limits.associations?",
                            "no-free-association",
                        )
                    self._changed.wait(0.2)
                self._in_use[node.name] = self._in_use.get(node.name, 0) + 1
            finally:
                waiting.remove(ticket)
                heapq.heapify(waiting)
                self._changed.notify_all()


class Detours:
    """Transfers that wait for their destination while their source, whose turn they have, could serve others."""

    SLOW_SECONDS = 0.1
    """A wait that is longer is not held against the source."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[Route, float]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    @contextmanager
    def wait(self, route: Route) -> Iterator[None]:
        """While the destination of a route is asked."""
        number = next(self._numbers)
        with self._lock:
            self._since[number] = route, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._since[number]

    def slow(self) -> list[Route]:
        """The routes of the transfers that have waited too long, each as often as there are such transfers."""
        return [route for route, _ in self._slow().values()]

    def late(self) -> frozenset[int]:
        """The same waits by number: each has its own."""
        return frozenset(self._slow())

    def _slow(self) -> dict[int, tuple[Route, float]]:
        late = time.monotonic() - self.SLOW_SECONDS
        with self._lock:
            return {number: one for number, one in self._since.items() if one[1] <= late}
