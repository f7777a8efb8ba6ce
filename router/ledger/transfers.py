"""The queries of people and metrics about transfers: lists, and a person's word on one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, text, update

from router.domain.rule import LOCAL
from router.domain.transfer import (
    ENDED,
    RULE_HOLDS,
    TRANSITIONS,
    WISHES,
    Attempt,
    Happening,
    IllegalTransition,
    Route,
    State,
    Transfer,
    after,
)
from router.errors import LedgerError
from router.ledger import commitments, departures, history, routes
from router.ledger.instances import DELIVERED, EXPECTED, OF_THE_SOURCE
from router.ledger.intents import forget_lists, starting_over
from router.ledger.rows import transfer_of
from router.ledger.tables import FINISHED, LEASED, MOVES, attempts, sweep_transfers, transfers

PERSONAL = frozenset({Happening.CANCEL, Happening.HOLD, Happening.RELEASE, Happening.AGAIN})
"""What a person may say to a transfer."""

_TRY_NOW = frozenset({Happening.RELEASE, Happening.AGAIN})
"""Said of a transfer on a stopped route, this lets one try the route at once."""

_UNMOVED = [one.value for one in (Happening.EMPTY, Happening.PROVEN, Happening.NO_EVIDENCE)]
"""Ends of a run that had nothing to move."""
_MOVES_TOLD = 100_000

_t, _a = transfers.c, attempts.c


def find(
    connection: Connection,
    *,
    sweeps: Sequence[int],
    states: Sequence[State],
    wanted: dict[str, str],
    limit: int,
) -> list[Transfer]:
    """Transfers with all of these properties, newest first; an empty one is any.

    Where a study is wanted, those in the history are among them.
    """
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
    if wanted.get("study_instance_uid") and not sweeps:
        found += history.find(connection, states=states, wanted=wanted, limit=limit)
    return sorted(found, key=lambda transfer: transfer.id, reverse=True)[:limit]


def one(connection: Connection, transfer_id: int) -> Transfer | None:
    """One transfer, in the history too."""
    row = connection.execute(select(transfers).where(_t.id == transfer_id)).one_or_none()
    return history.one(connection, transfer_id) if row is None else transfer_of(row)


def under_way(connection: Connection, most: int) -> list[Transfer]:
    """So many that are moving or verifying, the longest under way first; of more those that somebody works on."""
    worked_on = select(transfers).where(text(LEASED)).order_by(_t.started_at, _t.id).limit(most)
    found = connection.execute(worked_on).all()
    state = State.VERIFYING.value  # a parameter, so that the index has them in order and the limit ends the reading
    others = select(transfers).where(_t.state == state, _t.lease_until.is_(None)).order_by(_t.id)
    rows = [*found, *connection.execute(others.limit(most - len(found)))]
    return sorted(map(transfer_of, rows), key=lambda one: (one.started_at or one.queued_at, one.id))


def lately_ended(connection: Connection, states: Iterable[State], most: int) -> list[Transfer]:
    """So many that ended in one of these states, the newest first."""
    ended = select(transfers).where(text(FINISHED)).order_by(_t.finished_at.desc(), _t.id.desc()).limit(most)
    rows = [row for state in states for row in connection.execute(ended.where(_t.state == state.value))]
    return [transfer_of(row) for row in sorted(rows, key=lambda row: (row.finished_at, row.id), reverse=True)[:most]]


def remembered(connection: Connection, transfer_id: int) -> list[Attempt]:
    """What was done for a transfer, oldest first."""
    rows = connection.execute(select(attempts).where(_a.transfer_id == transfer_id).order_by(_a.number)).all()
    if not rows:
        return history.remembered(connection, transfer_id)
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
    """A person's word. Raises LedgerError where there is no such transfer or the table of states does not allow it.

    What a worker holds is not taken from it: the wish is written down, and heeded when the worker lets go.
    """
    history.recall_one(connection, transfer_id)
    row = connection.execute(select(transfers).where(_t.id == transfer_id)).one_or_none()
    if row is None:
        raise LedgerError(f"The ledger has no transfer {transfer_id}.")
    if happening not in PERSONAL:
        raise LedgerError(f"{happening} is not for people to say.")
    hastened = happening in _TRY_NOW and routes.hasten(connection, Route(row.source, row.destination), now)
    wish = _wish(row, happening, now)
    if wish is not None:
        values: dict[str, Any] = {"wish": wish, "updated_at": now}
        return transfer_of(
            connection.execute(update(transfers).where(_t.id == row.id).values(**values).returning(transfers)).one()
        )
    if hastened and happening is Happening.RELEASE and row.state == State.QUEUED.value:
        return transfer_of(row)  # that was all that kept it
    by_rule = row.state == State.HELD.value and row.cause in RULE_HOLDS
    try:
        state = after(State(row.state), happening)
    except IllegalTransition as error:
        raise LedgerError(f"Transfer {transfer_id}: {error}") from None
    if happening is Happening.HOLD and row.state == State.HELD.value and not by_rule:
        raise LedgerError(f"Transfer {transfer_id}: a person holds it already.")
    # Whoever held it has lost it: a new fence number makes its finish come too late.
    values = {"state": state.value, "fence": row.fence + 1, "lease_until": None, "wish": "", "updated_at": now}
    if happening is Happening.AGAIN:
        values = starting_over(now) | values
        if row.destination == LOCAL:
            departures.recall(connection, [row.study_instance_uid])
        # What a transfer from our own store is to carry was decided when it was queued: nobody can be asked again.
        kept = {EXPECTED} if row.source == LOCAL else set()
        forget_lists(connection, [row.id], sorted({*OF_THE_SOURCE, DELIVERED} - kept))
        commitments.forget(connection, [row.id])
    elif happening is Happening.RELEASE:
        values["next_at"] = now
    if state in ENDED:
        values["finished_at"] = now
    values["reason"] = reason or WISHES.get(happening, "")
    if by_rule:
        # From now on it is a person's: no sweep ends that hold, and no wait counts that a rule imposed.
        values |= {"cause": "", "queued_at": now, "next_at": now}
    changed = connection.execute(update(transfers).where(_t.id == row.id).values(**values).returning(transfers)).one()
    return transfer_of(changed)


def _wish(row: Any, happening: Happening, now: datetime) -> str | None:
    """What is to be written down for the worker that holds the transfer; None where it is done at once."""
    if row.lease_until is None or row.lease_until <= now:
        return None
    if happening in WISHES and happening in TRANSITIONS[State(row.state)]:
        return str(happening.value)
    return "" if happening is Happening.RELEASE and row.wish else None


def moves_since(connection: Connection, moment: datetime) -> list[tuple[Route, datetime]]:
    """The runs that ended since then and may have sent a C-MOVE or C-GET, by route and end; so many of the latest."""
    query = (
        select(_t.source, _t.destination, _a.finished_at)
        .join(transfers, _t.id == _a.transfer_id)
        .where(text(f"attempts.{MOVES}"), _a.finished_at >= moment, _a.happening.not_in(_UNMOVED))
        .order_by(_a.finished_at.desc())
        .limit(_MOVES_TOLD)
    )
    return [(Route(source, destination), at) for source, destination, at in connection.execute(query)]
