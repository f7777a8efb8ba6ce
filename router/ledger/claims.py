"""The queries of a worker: claim, renew, finish, and what happens when it is gone.

A claim is a lease and a fence number. `lease_until` is set exactly while someone holds the transfer; the fence number
rises with every claim and every loss, so that a worker that comes late changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    update,
)

from router.domain.dicom import SubOperationCounts
from router.domain.outcome import CAUSES
from router.domain.transfer import (
    ENDED,
    SAID,
    WISHES,
    Finish,
    Happening,
    IllegalTransition,
    Route,
    State,
    Transfer,
    after,
)
from router.errors import LedgerError
from router.ledger import commitments, routes
from router.ledger.queue import next_probe, next_transfer, next_verification
from router.ledger.rows import transfer_of
from router.ledger.tables import LEASED, QUEUED, UNCLAIMED_VERIFICATION, Instant, attempts, transfers

ATTEMPTS_KEPT = 50
"""Attempts remembered per transfer; older ones are forgotten."""

_t, _a = transfers.c, attempts.c
_LEASE_LOST = "lease-lost"


def claim_transfer(
    connection: Connection,
    sources: Sequence[str],
    now: datetime,
    lease_seconds: float,
    without: Collection[Route] = (),
    *,
    oldest: bool = False,
) -> Transfer | None:
    """Take what `next_transfer` names; it is then moving."""
    found = next_transfer(connection, sources, now, without, oldest=oldest)
    return None if found is None else _claim(connection, found, State.QUEUED, text(QUEUED), now, lease_seconds)


def claim_probe(
    connection: Connection, route: Route, now: datetime, lease_seconds: float, next_probe_at: datetime
) -> Transfer | None:
    """Take what `next_probe` names; another may be taken at `next_probe_at`."""
    found = next_probe(connection, route, now)
    if found is None:
        return None
    routes.probed(connection, route, next_probe_at)
    return _claim(connection, found, State.QUEUED, text(QUEUED), now, lease_seconds)


def claim_verification(
    connection: Connection, destinations: Sequence[str], now: datetime, lease_seconds: float
) -> Transfer | None:
    """Take what `next_verification` names."""
    found = next_verification(connection, destinations, now)
    free = text(UNCLAIMED_VERIFICATION)
    return None if found is None else _claim(connection, found, State.VERIFYING, free, now, lease_seconds)


def renew(
    connection: Connection, transfer: Transfer, now: datetime, lease_seconds: float, counts: SubOperationCounts | None
) -> bool:
    """Prolong the lease and note progress. False where the claim was lost."""
    progress: dict[str, int] = {}
    if counts is not None:
        # A sub-operation with a warning has delivered its instance (PS3.4 section C.4.2.1.6).
        if counts.completed is not None:
            progress["completed"] = counts.completed + (counts.warning or 0)
        if counts.failed is not None:
            progress["failed"] = counts.failed
        if counts.warning is not None:
            progress["warning"] = counts.warning
    until = now + timedelta(seconds=lease_seconds)
    statement = update(transfers).where(_held(transfer)).values(lease_until=until, updated_at=now, **progress)
    return bool(connection.execute(statement).rowcount)


def finish(
    connection: Connection, transfer: Transfer, finish: Finish, started_at: datetime, now: datetime
) -> Transfer | None:
    """End a claimed step and remember the attempt. None where the claim was lost.

    Raises LedgerError where the table of states has no such transition.
    """
    row = connection.execute(select(transfers).where(_held(transfer))).one_or_none()
    if row is None:
        return None
    try:
        state = after(State(row.state), finish.happening)
    except IllegalTransition as error:
        raise LedgerError(str(error)) from None
    reason = finish.reason
    if row.wish and state not in ENDED:
        wish = Happening(row.wish)
        state, reason = after(State(row.state), wish), WISHES[wish]
    if finish.stop is not None:
        routes.stop(connection, transfer.route, finish.stop, now)
    if finish.moved or finish.happening is Happening.MOVED:
        looks = 0
    else:
        looks = row.looks + (finish.happening is Happening.LATER)
    step = {
        "started_at": started_at,
        "finished_at": now,
        "happening": finish.happening.value,
        "cause": finish.cause,
        "reason": f"{finish.reason}{SAID}{finish.comment}" if finish.comment else finish.reason,
        "status": finish.status,
        "completed": finish.completed,
        "failed": finish.failed,
        "warning": finish.warning,
    }
    number = _remember(connection, row, step)
    next_at = finish.next_at or now
    if finish.happening is Happening.MOVED:
        commitments.forget(connection, [row.id])  # they were about what was there before
    elif finish.happening is Happening.LATER and commitments.answered_since(connection, row.id, row.claimed_at):
        next_at = now  # what came while it was looked at may not have been seen
    ended = connection.execute(
        update(transfers)
        .where(_t.id == row.id)
        .values(
            state=state.value,
            expected=row.expected if finish.expected is None else finish.expected,
            completed=finish.completed,
            failed=finish.failed,
            warning=finish.warning,
            attempts=row.attempts + finish.moved,
            rounds=row.rounds + (finish.happening is Happening.GAP),
            looks=looks,
            status=finish.status,
            cause=finish.cause,
            reason=reason,
            steps=number,
            next_at=next_at,
            lease_until=None,
            wish="",
            finished_at=now if state in ENDED else None,
            updated_at=now,
        )
        .returning(transfers)
    ).one()
    return transfer_of(ended)


def any_to_expire(connection: Connection, now: datetime) -> bool:
    """Whether a transfer has lost its worker."""
    return connection.scalar(select(_t.id).where(text(LEASED), _t.lease_until <= now).limit(1)) is not None


def expire(connection: Connection, now: datetime) -> int:
    """Send transfers whose worker is gone to verification. Returns how many."""
    return _lose(connection, and_(text(LEASED), _t.lease_until <= now), now)


def expire_all(connection: Connection, now: datetime) -> int:
    """The same for every transfer that anybody held: nobody is left. Returns how many."""
    return _lose(connection, text(LEASED), now)


def wished(connection: Connection) -> list[tuple[int, int]]:
    """Number and fence number of the transfers that their workers are to let go of."""
    rows = connection.execute(select(_t.id, _t.fence).where(text(LEASED), _t.wish != ""))
    return [(number, fence) for number, fence in rows]


def release(connection: Connection, claims: Sequence[Transfer], now: datetime) -> None:
    """End these claims as if they had expired."""
    for claim in claims:
        _lose(connection, _held(claim), now)


def _claim(
    connection: Connection, number: int, state: State, free: Any, now: datetime, lease_seconds: float
) -> Transfer | None:
    # The transaction holds the right to write; the condition is for databases where others may write at the same time.
    row = connection.execute(
        update(transfers)
        .where(_t.id == number, free)
        .values(
            state=after(state, Happening.CLAIMED).value,
            fence=_t.fence + 1,
            claimed_at=now,
            started_at=func.coalesce(_t.started_at, literal(now, Instant())),
            lease_until=now + timedelta(seconds=lease_seconds),
            updated_at=now,
        )
        .returning(transfers)
    ).one_or_none()
    return None if row is None else transfer_of(row)


def _held(transfer: Transfer) -> ColumnElement[bool]:
    return and_(_t.id == transfer.id, _t.fence == transfer.fence, _t.lease_until.is_not(None))


def _lose(connection: Connection, which: Any, now: datetime) -> int:
    """The worker of these is gone and what it did is unknown: it is looked up before anything is repeated."""
    lost = connection.execute(select(transfers).where(which)).all()
    for row in lost:
        state = State(row.state)
        values: dict[str, Any] = {
            "state": after(state, Happening.LEASE_LOST).value,
            "fence": row.fence + 1,
            "lease_until": None,
            "wish": "",
            "next_at": now,
            "updated_at": now,
        }
        if state is State.MOVING:
            # The lost run counts as an attempt: a study that kills its worker would otherwise be moved for ever.
            reason = CAUSES[_LEASE_LOST].sentence
            values |= {"cause": _LEASE_LOST, "reason": reason, "attempts": row.attempts + 1, "looks": 0}
            step = {
                "started_at": row.claimed_at,
                "finished_at": now,
                "happening": Happening.LEASE_LOST.value,
                "cause": _LEASE_LOST,
                "reason": reason,
                "completed": row.completed,
                "failed": row.failed,
                "warning": row.warning,
            }
            values["steps"] = _remember(connection, row, step)
        if row.wish:
            wish = Happening(row.wish)
            ended = after(state, wish)
            values |= {"state": ended.value, "reason": WISHES[wish], "finished_at": now if ended in ENDED else None}
        # A request that was on its way may never have been sent.
        commitments.forget(connection, [row.id], unanswered_only=state is not State.MOVING)
        connection.execute(update(transfers).where(_t.id == row.id).values(**values))
    return len(lost)


def _remember(connection: Connection, row: Any, step: dict[str, Any]) -> int:
    """Write an attempt down and forget those beyond what is kept. Returns its number."""
    number: int = row.steps + 1
    name = "move" if row.state == State.MOVING.value else "verify"
    connection.execute(insert(attempts).values(transfer_id=row.id, number=number, step=name, **step))
    if number > ATTEMPTS_KEPT:
        connection.execute(delete(attempts).where(_a.transfer_id == row.id, _a.number <= number - ATTEMPTS_KEPT))
    return number
