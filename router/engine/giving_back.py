"""Gives claims back, so that others may take what has not begun, or could not go on."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from router.domain.causes import CAUSES
from router.domain.passing import PendingArrival
from router.domain.sweep import SweepRecord
from router.domain.transfer import Finish, Happening, State, Transfer
from router.engine.leases import Work, lasting
from router.engine.ports import Clock, Ledger
from router.errors import LedgerError

AGAIN_SECONDS = 5.0
"""After so long another may take it."""
_AFTER_OUTAGE_SECONDS = 30.0
"""After so long it is tried again where the ledger could not be asked: one that is back is not overrun at once."""


def give_back(ledger: Ledger, claim: Work, cause: str, now: datetime, seconds: float = AGAIN_SECONDS) -> None:
    """Let it be taken again after a while, at no cost. Raises LedgerError.

    A transfer says why, by a cause of `router.domain.causes`; what was moved keeps what its verdict rests on.
    """
    if isinstance(claim, Transfer):
        moved = claim.state is State.VERIFYING
        finish = Finish(
            happening=Happening.INTERRUPTED if moved else Happening.RETRY,
            cause=claim.cause if moved else cause,
            reason=claim.reason if moved else CAUSES[cause].sentence,
            status=claim.status if moved else None,
            next_at=now + timedelta(seconds=seconds),
            expected=claim.expected,
            completed=claim.completed,
            failed=claim.failed,
            warning=claim.warning,
        )
        ledger.finish(claim, finish, now, now)
    elif isinstance(claim, SweepRecord):
        ledger.renew_sweep(claim, now, seconds)
    elif isinstance(claim, PendingArrival):
        ledger.renew_arrival(claim, now, seconds)
    else:
        ledger.renew_appointment(claim, now, seconds)


def after_outage(transfer: Transfer, error: LedgerError, now: datetime) -> Finish:
    """The end of an attempt that sent nothing, for the ledger could not be asked or written to: that costs none."""
    return Finish(
        happening=Happening.RETRY,
        next_at=now + timedelta(seconds=_AFTER_OUTAGE_SECONDS),
        cause="ledger",
        reason=f"{CAUSES['ledger'].sentence} {error}",
        completed=transfer.completed,
    )


def give_back_after_outage(ledger: Ledger, claim: Work, clock: Clock) -> None:
    """What broke off for the ledger was away; but what may have been sent is looked up, as when a service is gone."""
    if isinstance(claim, Transfer) and claim.state is State.MOVING:
        return
    with suppress(LedgerError):  # then its lease ends
        lasting(lambda: give_back(ledger, claim, "ledger", clock.now(), _AFTER_OUTAGE_SECONDS))
