"""Which transfers a claim takes where others claim at the same time: a row that another has locked is passed over.

In SQLite nobody else writes meanwhile, and what was found is what is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from router.domain.levels import NEARLINE
from router.domain.transfer import State
from router.ledger.dialects import on_postgresql
from router.ledger.tables import QUEUED, UNCLAIMED_VERIFICATION, Instant, transfers

_SPARE = 16
"""Candidates beyond those that are wanted: so many others may be claiming at the same moment."""
_FETCHING = 0x66657463
"""The advisory locks of those who may begin to fetch from near line, one for each source."""

_t = transfers.c
_IDS = bindparam("ids", type_=ARRAY(BigInteger))
_QUEUED: Any = (
    select(_t.id, _t.source, _t.availability)
    .where(_t.id == func.any(_IDS), text(QUEUED))
    .order_by(func.array_position(_IDS, _t.id))
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_IS_FETCHING = select(_t.id).where(
    _t.lease_until.is_not(None),
    _t.source == bindparam("of_source"),
    _t.state == State.MOVING.value,
    _t.availability == NEARLINE,
)
_VERIFICATION = select(_t.id).where(text(UNCLAIMED_VERIFICATION)).with_for_update(skip_locked=True)
_THIS: Any = _VERIFICATION.where(_t.id == bindparam("row_id"))
_SAME_PLACE = select(_t.destination).where(_t.id == bindparam("row_id")).scalar_subquery()
_NEXT: Any = (
    _VERIFICATION.where(_t.destination == _SAME_PLACE.correlate(None), _t.next_at <= bindparam("now", type_=Instant()))
    .order_by(_t.next_at, _t.id)
    .limit(1)
)


def candidates(connection: Connection, most: int) -> int:
    """How many to look for where so many are wanted."""
    return most + _SPARE if on_postgresql(connection) else most


def pick(connection: Connection, found: Sequence[int], most: int) -> list[int]:
    """The first so many of these queued transfers that nobody else has, in their order; they are locked."""
    if not on_postgresql(connection):
        return list(found[:most])
    rows = connection.execute(_QUEUED, {"ids": list(found), "most": most}).all()
    near = {row.source for row in rows if row.availability == NEARLINE}
    if not near:
        return [row.id for row in rows]
    # In order, for others lock them too.
    may_fetch = {source for source in sorted(near) if _may_fetch(connection, source)}
    picked: list[int] = []
    for row in rows:
        if row.availability == NEARLINE:
            if row.source not in may_fetch:
                continue
            may_fetch.remove(row.source)  # of these one at a time
        picked.append(row.id)
    return picked


def pick_verification(connection: Connection, found: int, now: datetime) -> int | None:
    """This verification, locked, or where another has it the next at the same place; None: there is none just now."""
    if not on_postgresql(connection):
        return found
    row = connection.execute(_THIS, {"row_id": found}).first()
    row = row or connection.execute(_NEXT, {"row_id": found, "now": now}).first()
    return None if row is None else int(row.id)


def _may_fetch(connection: Connection, source: str) -> bool:
    """Whether nothing that is near line is being moved from there; until the commit nobody else may begin to."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:kind, hashtext(:source))"), {"kind": _FETCHING, "source": source}
    )
    return connection.execute(_IS_FETCHING, {"of_source": source}).first() is None
