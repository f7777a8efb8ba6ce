"""A look at the server that keeps a ledger, for `doctor`: it changes nothing, and needs no tables to be there."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from router.domain.ledger_state import DatabaseSeen
from router.ledger.database import Database
from router.ledger.postgres import PostgresBackend, is_ours

_ASKED = 5
"""So often, for one answer may be late by chance."""
_SEEN = text(
    """
    SELECT current_setting('server_version') AS version,
        coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
        (to_regclass('transfers') IS NULL OR (
            has_table_privilege(to_regclass('transfers'), 'INSERT')
            AND has_table_privilege(to_regclass('transfers'), 'UPDATE')
            AND has_table_privilege(to_regclass('transfers'), 'DELETE'))) AS may_write,
        (pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on') AS read_only,
        current_setting('server_encoding') AS encoding,
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            AS connections,
        current_setting('synchronous_commit') AS synchronous_commit,
        current_setting('fsync') = 'on' AS fsync
    """
)
_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")


def server_seen(url: str, now: Callable[[], datetime]) -> DatabaseSeen | None:
    """The server behind a database URL; None where there is none, for the ledger is a file. Raises LedgerError.

    `now` is this machine's clock.
    """
    if not is_ours(url):
        return None
    database = Database(PostgresBackend(url, read_only=False), read_only=True)
    try:
        with database.read() as connection:
            row = connection.execute(_SEEN).one()
            seconds, ahead = min(_time(connection, now) for _ in range(_ASKED))
            return DatabaseSeen(seconds=seconds, ahead_seconds=ahead, **row._mapping)
    finally:
        database.close()


def _time(connection: Connection, now: Callable[[], datetime]) -> tuple[float, float]:
    """How long a question took, and how far the server's clock is ahead by it."""
    at, begun = now(), time.monotonic()
    told = connection.scalar(_CLOCK) or 0.0
    seconds = time.monotonic() - begun
    return seconds, (datetime.fromtimestamp(told, UTC) - at).total_seconds() - seconds / 2
