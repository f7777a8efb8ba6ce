"""The end of a claimed step of a transfer: written to the ledger, then told."""

from __future__ import annotations

from datetime import datetime

from router.domain.events import AttemptEnded
from router.domain.transfer import Finish, Transfer
from router.engine.ports import Clock, Ledger, Observer


def end_step(
    transfer: Transfer, finish: Finish, started_at: datetime, *, ledger: Ledger, clock: Clock, observer: Observer | None
) -> Transfer | None:
    """End a step; the transfer as the ledger has it then, None where the claim was lost. No observer: say nothing."""
    now = clock.now()
    ended = ledger.finish(transfer, finish, started_at, now)
    if ended is not None and observer is not None:
        observer(
            AttemptEnded(
                transfer=transfer.id,
                rule=transfer.rule,
                source=transfer.intent.source,
                destination=transfer.intent.destination,
                cause=finish.cause,
                state=ended.state,
                status=finish.status,
                message=finish.reason,
                duration_seconds=(now - started_at).total_seconds(),
            )
        )
    return ended
