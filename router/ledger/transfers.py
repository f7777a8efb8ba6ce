"""The queries of people and metrics about transfers: lists, a person's word on one, the backlog."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select, update

from router.domain.overview import BacklogRow
from router.domain.transfer import ENDED, Attempt, Happening, IllegalTransition, State, Transfer, after
from router.errors import LedgerError
from router.ledger.instances import DELIVERED, EXPECTED
from router.ledger.intents import forget_lists, starting_over
from router.ledger.rows import transfer_of
from router.ledger.tables import attempts, sweep_transfers, transfers

PERSONAL = frozenset({Happening.CANCEL, Happening.HOLD, Happening.RELEASE, Happening.AGAIN})
"""What a person may say to a transfer."""

_t, _a = transfers.c, attempts.c


def find(
    connection: Connection,
    *,
    sweeps: Sequence[int],
    states: Sequence[State],
    wanted: dict[str, str],
    limit: int,
) -> list[Transfer]:
    """Transfers with all of these properties, newest first; an empty one is any."""
    query = select(transfers).order_by(_t.id.desc()).limit(limit)
    if sweeps:
        linked = select(sweep_transfers.c.transfer_id).where(sweep_transfers.c.sweep_id.in_(sweeps))
        query = query.where(_t.id.in_(linked))
    for name, value in wanted.items():
        if value:
            query = query.where(_t[name] == value)
    # State by state, because then an index has them in order already and the limit ends the reading.
    queries = [query.where(_t.state == state.value) for state in dict.fromkeys(states)] or [query]
    found = [transfer_of(row) for one in queries for row in connection.execute(one)]
    return sorted(found, key=lambda transfer: transfer.id, reverse=True)[:limit]


def one(connection: Connection, transfer_id: int) -> Transfer | None:
    """One transfer."""
    row = connection.execute(select(transfers).where(_t.id == transfer_id)).one_or_none()
    return None if row is None else transfer_of(row)


def remembered(connection: Connection, transfer_id: int) -> list[Attempt]:
    """What was done for a transfer, oldest first."""
    rows = connection.execute(select(attempts).where(_a.transfer_id == transfer_id).order_by(_a.number))
    return [
        Attempt(
            number=row.number,
            step=row.step,
            started_at=row.started_at,
            finished_at=row.finished_at,
            happening=row.happening,
            cause=row.cause,
            reason=row.reason,
            status=row.status,
            completed=row.completed,
            failed=row.failed,
            warning=row.warning,
        )
        for row in rows
    ]


def apply(connection: Connection, transfer_id: int, happening: Happening, now: datetime, reason: str) -> Transfer:
    """A person's word. Raises LedgerError where there is no such transfer or the table of states does not allow it."""
    row = connection.execute(select(transfers).where(_t.id == transfer_id)).one_or_none()
    if row is None:
        raise LedgerError(f"The ledger has no transfer {transfer_id}.")
    if happening not in PERSONAL:
        raise LedgerError(f"{happening} is not for people to say.")
    try:
        state = after(State(row.state), happening)
    except IllegalTransition as error:
        raise LedgerError(f"Transfer {transfer_id}: {error}") from None
    # Whoever holds it loses it: a new fence number makes its finish come too late.
    values: dict[str, Any] = {"state": state.value, "fence": row.fence + 1, "lease_until": None, "updated_at": now}
    if happening is Happening.AGAIN:
        values = starting_over(now) | values
        forget_lists(connection, [row.id], [EXPECTED, DELIVERED])
    elif happening is Happening.RELEASE:
        values["next_at"] = now
    if state in ENDED:
        values["finished_at"] = now
    values["reason"] = reason
    changed = connection.execute(update(transfers).where(_t.id == row.id).values(**values).returning(transfers)).one()
    return transfer_of(changed)


def backlog(connection: Connection) -> list[BacklogRow]:
    """Counts by source, destination and state, with the oldest that is queued."""
    lane = (_t.source, _t.destination, _t.state)
    rows = connection.execute(select(*lane, func.count(), func.min(_t.queued_at)).group_by(*lane).order_by(*lane))
    return [
        BacklogRow(
            source=source,
            destination=destination,
            state=State(state),
            count=count,
            oldest_queued_at=oldest if state == State.QUEUED.value else None,
        )
        for source, destination, state, count, oldest in rows
    ]
