"""What the ledger needs now and then while a service runs: deadlines that come near, what is long over."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from router.domain.transfer import URGENT, State
from router.engine.ports import Ledger

KEPT = timedelta(days=30)
"""How long an appointment that is over is remembered, with its patient's ID, and what was made of a study."""
_DEADLINES_SECONDS = 15.0
_FORGET_SECONDS = 3600.0


class Upkeep:
    """Does each in its turn. Not thread-safe."""

    def __init__(self, ledger: Ledger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._monotonic = monotonic
        self._hastened = self._forgot = float("-inf")

    def look(self, now: datetime) -> None:
        """Do what is due. Raises LedgerError."""
        at = self._monotonic()
        if at - self._hastened >= _DEADLINES_SECONDS:
            self._hastened = at
            self._ledger.hasten_transfers(now + URGENT)
        if at - self._forgot >= _FORGET_SECONDS:
            self._forgot = at
            self._ledger.forget_appointments(now - KEPT)
            self._ledger.forget_arrivals(now - KEPT)


def decided(ledger: Ledger, waiting: Collection[int]) -> set[int]:
    """Those of the transfers that wait for no look at the evidence any more, whoever saw to it. Raises LedgerError."""
    return {
        number for number in waiting if (known := ledger.transfer(number)) is None or known.state is not State.VERIFYING
    }
