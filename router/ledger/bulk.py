"""What the databases do each in its own way when a whole ledger is read or written: many rows at once, row numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, bindparam, func, select, table, text
from sqlalchemy import column as column_of

from router.ledger.dialects import on_postgresql

_ROWS = 5000
"""Rows that SQLite is given at once."""
_CACHE_KIB = 256 << 10
"""That SQLite may use while it fills a ledger: indexes grow everywhere at once."""
_SEQUENCES = table("sqlite_sequence", column_of("name"), column_of("seq"))


def load(connection: Connection, into: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Write rows as they are, the values those of the driver. Returns how many.

    The usual way of SQLAlchemy takes three times as long.
    """
    quote = connection.dialect.identifier_preparer.quote
    names = ", ".join(quote(name) for name in columns)
    if on_postgresql(connection):
        return _copy(connection, f"COPY {quote(into.name)} ({names}) FROM STDIN", rows)
    connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE_KIB}")
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {quote(into.name)} ({names}) VALUES ({marks})"
    count, remaining = 0, iter(rows)
    while some := [tuple(row) for row in islice(remaining, _ROWS)]:
        connection.exec_driver_sql(statement, some)
        count += len(some)
    return count


def _copy(connection: Connection, statement: str, rows: Iterable[Sequence[Any]]) -> int:
    count = 0
    cursor: Any = connection.connection.cursor()
    with cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
            count += 1
    return count


def last_id(connection: Connection, of: Table) -> int:
    """The highest number that a row was ever given; 0 where none was."""
    if on_postgresql(connection):
        sequence = connection.scalar(select(func.pg_get_serial_sequence(of.name, "id")))
        if sequence is None:
            return 0
        called = text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}")
        return int(connection.scalar(called) or 0)
    query = select(_SEQUENCES.c.seq).where(_SEQUENCES.c.name == of.name)
    return int(connection.scalar(query) or 0)


def set_last_id(connection: Connection, of: Table, number: int) -> None:
    """Let the next row have a number above this one, and above those that are there."""
    if number <= 0:
        return
    if on_postgresql(connection):
        sequence = func.pg_get_serial_sequence(of.name, "id")
        connection.execute(select(func.setval(sequence, bindparam("number", number))))
        return
    where = _SEQUENCES.c.name == of.name
    highest = func.max(_SEQUENCES.c.seq, number)
    if not connection.execute(_SEQUENCES.update().where(where).values(seq=highest)).rowcount:
        connection.execute(_SEQUENCES.insert().values(name=of.name, seq=number))
