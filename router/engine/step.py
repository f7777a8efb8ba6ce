"""The end of a claimed step of a transfer, and of the transfer: written to the ledger, then told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from router.domain.events import AttemptEnded, Event, PriorEnded, TransferEnded
from router.domain.transfer import Finish, Transfer, lead_of, timely
from router.engine.ports import Clock, Ledger, Observer, Pseudonym


def end_step(
    transfer: Transfer,
    finish: Finish,
    started_at: datetime,
    *,
    ledger: Ledger,
    clock: Clock,
    pseudonym: Pseudonym,
    observer: Observer | None,
) -> Transfer | None:
    """End a step; the transfer as the ledger has it then, None where the claim was lost. No observer: say nothing."""
    now = clock.now()
    ended = ledger.finish(transfer, finish, started_at, now)
    if ended is not None and observer is not None:
        observer(
            AttemptEnded(
                transfer=transfer.id,
                study=pseudonym(transfer.intent.study_instance_uid),
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


def verdict_events(transfer: Transfer, now: datetime, pseudonym: Pseudonym) -> Iterator[Event]:
    """What is to be told of a transfer that has its verdict now."""
    yield TransferEnded(
        transfer=transfer.id,
        study=pseudonym(transfer.intent.study_instance_uid),
        rule=transfer.rule,
        source=transfer.intent.source,
        destination=transfer.intent.destination,
        verdict=str(transfer.state),
        reason=transfer.reason,
        expected=transfer.expected,
        completed=transfer.completed,
        duration_seconds=max(0.0, (now - (transfer.started_at or transfer.queued_at)).total_seconds()),
        seen_to_verified_seconds=max(0.0, (now - transfer.queued_at).total_seconds()),
    )
    if (timeliness := timely(transfer, now)) is not None:
        yield PriorEnded(rule=transfer.rule, result=timeliness, lead_seconds=lead_of(transfer, now))
