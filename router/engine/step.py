"""The end of a claimed step of a transfer, and of the transfer: written to the ledger, then told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from router.domain.events import AttemptEnded, Event, PriorEnded, TransferEnded
from router.domain.transfer import Finish, Transfer, after, lead_of, timely
from router.engine.leases import lasting
from router.engine.ports import Clock, Ledger, Observer, Pseudonym
from router.errors import LedgerError


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
    """End a step; the transfer as the ledger has it then, None where the claim was lost. No observer: say nothing.

    Where the ledger is away it is tried until the claim may be another's: the outcome would be lost otherwise. What the
    ledger has written although it could not say so is not written again, and told like the rest.
    """
    now = clock.now()
    failed = False

    def write() -> Transfer | None:
        nonlocal failed
        try:
            ended = ledger.finish(transfer, finish, started_at, now)
            return _written(ledger, transfer, finish, started_at, now) if ended is None and failed else ended
        except LedgerError:
            failed = True
            raise

    ended = lasting(write)
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


def _written(
    ledger: Ledger, transfer: Transfer, finish: Finish, started_at: datetime, now: datetime
) -> Transfer | None:
    """The transfer after this step where the ledger ended it so before, else None: the claim was lost."""
    found = ledger.transfer(transfer.id)
    if found is None:
        return None
    if found.fence == transfer.fence and found.lease_until is None:
        return found  # to lose a claim, as to take it, raises the fence number: nobody else ended this one
    step = (started_at, now, finish.happening.value)
    if any((one.started_at, one.finished_at, one.happening) == step for one in ledger.attempts(transfer.id)):
        # Somebody is at its next step already.
        return msgspec.structs.replace(found, state=after(transfer.state, finish.happening))
    return None


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
