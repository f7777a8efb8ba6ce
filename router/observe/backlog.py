"""The ledger's backlog as far as it can be had in time: no scrape waits for a ledger that is slow, hangs or fails."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from router.domain.overview import BacklogRow
from router.errors import RouterError
from router.observe import logs


class Backlog:
    """Reads in a thread of its own, one at a time, and remembers what it read.

    `fresh`: seconds for which what was read serves again. `patience`: seconds a caller waits for a reading, counted
    from its start. `stale`: seconds after which what was read last is no answer any more.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[BacklogRow]],
        *,
        fresh: float = 2.0,
        patience: float = 1.0,
        stale: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._fresh = fresh
        self._patience = patience
        self._stale = stale
        self._clock = clock
        self._changed = threading.Condition()
        self._rows: Sequence[BacklogRow] = ()
        self._read_at = -math.inf
        self._asked_at = -math.inf
        self._reading = False

    def rows(self) -> Sequence[BacklogRow] | None:
        """The backlog; None where the ledger has not told it for so long that nobody knows."""
        with self._changed:
            if not self._reading and self._clock() - self._asked_at >= self._fresh:
                self._begin()
            if self._reading:
                left = self._asked_at + self._patience - self._clock()
                self._changed.wait_for(lambda: not self._reading, max(0.0, left))
            return self._rows if self._clock() - self._read_at < self._stale else None

    def _begin(self) -> None:
        self._asked_at = self._clock()
        self._reading = True
        try:
            threading.Thread(target=self._work, name="backlog", daemon=True).start()
        except RuntimeError:  # the system has no thread left
            self._reading = False

    def _work(self) -> None:
        rows = None
        try:
            rows = self._read()
        except RouterError:
            pass  # the service tells of its ledger's troubles itself
        except Exception as error:  # noqa: BLE001  a defect of ours must not cost the other metrics
            logs.trouble("backlog", error)
        with self._changed:
            if rows is not None:
                self._rows, self._read_at = rows, self._clock()
            self._reading = False
            self._changed.notify_all()
