"""Keeps the claims of running work: renews them, and ends work whose claim was lost or cannot be renewed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from router.domain.appointment import Appointment
from router.domain.passing import PendingArrival
from router.domain.sweep import SweepRecord
from router.domain.tenure import LEASE_SECONDS, Tenure
from router.domain.transfer import Transfer
from router.engine.ports import Clock, Ledger
from router.errors import LedgerError

_RENEW_SECONDS = LEASE_SECONDS / 4
_WATCH_SECONDS = 1.0
_FAILING_SECONDS = 20.0
"""So long, of what it takes to keep all, may go into asking in vain: the ledger is away then, not one row locked."""

Result = TypeVar("Result")

Work = Transfer | SweepRecord | Appointment | PendingArrival


class Held(NamedTuple):
    """A claim, what cancels its work (each its own: a claim that is lost must stop that work only), how it is held."""

    claim: Work
    cancelled: threading.Event
    tenure: Tenure


class Leases:
    """`held` gives what runs now. The ledger is asked by `keep` alone; the watch over time waits for nothing."""

    def __init__(
        self,
        ledger: Ledger,
        held: Callable[[], Sequence[Held]],
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._held = held
        self._clock = clock
        self._monotonic = monotonic
        self._kept_at = float("-inf")
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="tenure", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._ended.set()

    def keep(self) -> bool:
        """Renew what is due to be, a few times before it runs out. Whether it was due.

        Raises LedgerError where one could not be, after the others were; then it is due again at once.
        """
        began = self._monotonic()
        if began - self._kept_at < _RENEW_SECONDS:
            return False
        failed: LedgerError | None = None
        failing = 0.0
        for held in self._held():
            at = self._monotonic()
            try:
                if self._renew(held.claim):
                    held.tenure.keep(at)
                else:
                    held.cancelled.set()  # somebody else has it now
            except LedgerError as error:
                failed = failed or error
                failing += self._monotonic() - at
                if failing >= _FAILING_SECONDS:
                    break
        if failed is not None:
            raise failed
        self._kept_at = began
        return True

    def _renew(self, claim: Work) -> bool:
        # The time of each, not of all: where the ledger is slow the last is written long after the first, and its lease
        # must not end before its tenure does.
        now = self._clock.now()
        if isinstance(claim, Transfer):
            return self._ledger.renew(claim, now, LEASE_SECONDS, None)
        if isinstance(claim, Appointment):
            return self._ledger.renew_appointment(claim, now, LEASE_SECONDS)
        if isinstance(claim, PendingArrival):
            return self._ledger.renew_arrival(claim, now, LEASE_SECONDS)
        return self._ledger.renew_sweep(claim, now, LEASE_SECONDS)

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_SECONDS):
            self.look()

    def look(self) -> None:
        """End what may soon be another's: this service may be cut off from the ledger, and others not."""
        at = self._monotonic()
        for held in self._held():
            if held.tenure.is_over(at):
                held.cancelled.set()


def lasting(
    call: Callable[[], Result],
    sleep: Callable[[float], object] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Result:
    """Do what must not be lost: where the ledger is away it is tried again each second, for as long as a lease lasts.

    Raises LedgerError after that; then another may have the claim, and looks up what was done.
    """
    began = monotonic()
    while True:
        try:
            return call()
        except LedgerError:
            if monotonic() - began >= LEASE_SECONDS:
                raise
        sleep(_WATCH_SECONDS)
