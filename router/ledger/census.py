"""The queries about a ledger as a database: its size, its rows, who works on it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Table, func, select, text

from router.domain.ledger_state import LedgerState, TableSize
from router.domain.transfer import UNDER_WAY
from router.ledger.backlog import backlog
from router.ledger.dialects import on_postgresql
from router.ledger.migrations import stored_version
from router.ledger.services import seen_since
from router.ledger.tables import metadata

COUNTED_ROWS = 1_000_000
"""As many are counted one by one; of more rows there is an estimate, or just that they are more."""


def census(connection: Connection, name: str, path: Path | None, alive_since: datetime) -> LedgerState:
    """A ledger as it stands. `path`: its file, where it has one. Takes a second at most, however large it is."""
    lanes = backlog(connection)
    return LedgerState(
        name=name,
        database=_program(connection),
        version=stored_version(connection),
        size=_size(connection, path),
        tables=tuple(_rows(connection, one) for one in sorted(metadata.tables.values(), key=lambda one: one.name)),
        services=tuple(seen_since(connection, alive_since)),
        open_transfers=sum(lane.count for lane in lanes if lane.state in UNDER_WAY),
        oldest_queued_at=min((lane.oldest_queued_at for lane in lanes if lane.oldest_queued_at), default=None),
    )


def _program(connection: Connection) -> str:
    if on_postgresql(connection):
        return f"PostgreSQL {connection.scalar(text('SHOW server_version'))}"
    return f"SQLite {connection.scalar(select(func.sqlite_version()))}"


def _size(connection: Connection, path: Path | None) -> int:
    if on_postgresql(connection):
        return int(connection.scalar(select(func.pg_database_size(func.current_database()))) or 0)
    files = [path, path.with_name(f"{path.name}-wal")] if path is not None else []
    return sum(one.stat().st_size for one in files if one.exists())


def _rows(connection: Connection, one: Table) -> TableSize:
    some = select(1).select_from(one).limit(COUNTED_ROWS + 1).subquery()
    rows = connection.scalar(select(func.count()).select_from(some)) or 0
    if rows <= COUNTED_ROWS:
        return TableSize(name=str(one.name), rows=rows)
    estimate = 0
    if on_postgresql(connection):
        query = text("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(:name)")
        estimate = connection.scalar(query, {"name": one.name}) or 0
    return TableSize(name=str(one.name), rows=max(estimate, COUNTED_ROWS), exact=False)
