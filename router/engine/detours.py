"""Transfers that have stepped aside: they wait for their destination, and keep nobody else at their source waiting."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from router.domain.transfer import Route


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
