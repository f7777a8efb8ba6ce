"""The time that all services on a ledger share: that of the machine, or of the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REFRESH_SECONDS = 5.0
"""So old what is known of the database's time may get before it is asked again."""


class MachineClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The time, aware, UTC."""
        return datetime.now(UTC)


def ahead(now: Callable[[], datetime]) -> timedelta:
    """By how much a clock is ahead of the machine's, which files have their times by."""
    return now() - datetime.now(UTC)


def uptime() -> float:
    """Seconds since the machine started, those that it slept in too: no one can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DatabaseClock:
    """The database's time, told by this machine's count of seconds since they were compared last; thread-safe.

    `ask` makes somebody call `compare`, and may fail in silence: then what was known goes on, and it is asked again
    some seconds later.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._offset: float | None = None
        self._compared = 0.0
        self._asked = threading.Lock()
        self._next_ask = 0.0

    def compare(self, microseconds: int, before: float, after: float) -> None:
        """The database said this time (since 1970) between these two moments of `uptime`."""
        self._offset = microseconds / 1e6 - (before + after) / 2
        self._compared = after

    def is_old(self, seconds: float = REFRESH_SECONDS) -> bool:
        """Whether it should be compared again."""
        return self._offset is None or uptime() - self._compared > seconds

    def now(self) -> datetime:
        """The time, aware, UTC. As long as the database was never heard of, the machine's."""
        if self.is_old() and uptime() >= self._next_ask and self._asked.acquire(blocking=False):
            try:
                self._next_ask = uptime() + REFRESH_SECONDS
                self._ask()
            finally:
                self._asked.release()
        if self._offset is None:
            return datetime.now(UTC)
        return _EPOCH + timedelta(seconds=uptime() + self._offset)
