"""The historian: puts what ended long ago into the ledger's history, a little at a time. Only the leader does.

How much a step takes and how long it rests afterwards `router.domain.history` says: who claims and finishes goes first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from router.domain.history import MOST, Archived, Mark, next_step, rest_after
from router.engine.ports import Clock, Trouble

PASS_SECONDS = 600.0
"""From the end of a pass over what has ended to the next."""
LOOK_SECONDS = 5.0
"""How soon another configuration, or becoming the leader, shows."""
_STOP_SECONDS = 5.0


class HistoryLedger(Protocol):
    """The part of the ledger that the historian works on. Raises LedgerError."""

    def archive(self, mark: Mark | None, before: datetime, most: int, now: datetime) -> Archived:
        """Put what ended before that moment into the history, of the next `most` after the mark (None: the first)."""
        ...


class Historian:
    """Makes history in a thread of its own. `keep`: for how many seconds what ended stays; None: for ever."""

    def __init__(
        self,
        *,
        keep: Callable[[], float | None],
        ledger: HistoryLedger,
        leads: Callable[[], bool],
        clock: Clock,
        trouble: Trouble,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = keep
        self._ledger = ledger
        self._leads = leads
        self._clock = clock
        self._trouble = trouble
        self._monotonic = monotonic
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._looking, name="history", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; the next start, or the next leader, goes on."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def go_through(self) -> int:
        """One pass over all that has ended, as long as this service leads; how many went. Raises LedgerError."""
        mark: Mark | None = None
        size, moved = MOST // 4, 0
        while (keep := self._keep()) is not None and self._leads() and not self._stopping.is_set():
            now, began = self._clock.now(), self._monotonic()
            done = self._ledger.archive(mark, now - timedelta(seconds=keep), size, now)
            took = self._monotonic() - began
            moved, mark = moved + done.moved, done.mark
            if mark is None:
                break
            size = next_step(size, took)
            self._stopping.wait(rest_after(took))
        return moved

    def _looking(self) -> None:
        due, before = self._monotonic(), self._keep()
        while not self._stopping.is_set():
            try:
                keep = self._keep()
                if keep is None or not self._leads():
                    due = self._monotonic()  # who begins to lead, or to keep a history, begins at once
                elif self._monotonic() >= due or keep != before:
                    self.go_through()
                    due = self._monotonic() + PASS_SECONDS
                before = keep
            except Exception as error:  # noqa: BLE001  a defect of ours must not end the looking
                self._trouble("history", error)
                due = self._monotonic() + PASS_SECONDS
            self._stopping.wait(LOOK_SECONDS)
