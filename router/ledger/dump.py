"""A whole ledger out of a database into a file, and from there into another database. The queries for both."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)

from router.domain.ledger_state import MovedTable
from router.ledger import appointments, arrivals, claims, sweeps
from router.ledger.bulk import last_id, load, set_last_id
from router.ledger.dump_file import Contents, DumpReader, DumpWriter, Part, Row, TableContents
from router.ledger.migrations import SCHEMA_VERSION, VERSION
from router.ledger.tables import Instant, meta, metadata, notifications

OLDEST_VERSION = 8
"""Of the ledger's tables: what was exported from older ones cannot be imported, for none was."""
STAYS = frozenset({"services", "node_states", "transfer_counts", "count_changes"})
"""Tables that are not carried over: who is alive is true of one database only, and counts are made anew."""

_ROWS = 200
"""Rows of a line; fewer where their binary values are large."""
_BINARY_BYTES = 1 << 20
_FAR = datetime.max.replace(tzinfo=UTC)

Progress = Callable[[str, int, int], None]
"""Told the table, how many of its rows are done, and how many there are."""


class UnusableDumpError(Exception):
    """What an export holds cannot go into this ledger; the message ends a sentence about it."""


def carried() -> Mapping[str, Table]:
    """The tables that are carried over by name, what others refer to first; times in them are bare microseconds."""
    bare = MetaData()
    found = {}
    for one in metadata.sorted_tables:
        if one.name not in STAYS:
            columns = [
                Column(each.name, BigInteger() if isinstance(each.type, Instant) else each.type) for each in one.columns
            ]
            found[str(one.name)] = Table(one.name, bare, *columns)
    return found


def export(connection: Connection, writer: DumpWriter, *, made_at: datetime, made_by: str, progress: Progress) -> None:
    """Write all that is carried over, as it is at the moment that the connection's transaction sees."""
    tables = carried()
    told = []
    for name, one in tables.items():
        rows = connection.scalar(select(func.count()).select_from(one)) or 0
        told.append(
            TableContents(
                name=name,
                columns=tuple(map(str, one.columns.keys())),
                binary=tuple(str(each.name) for each in one.columns if isinstance(each.type, LargeBinary)),
                rows=rows,
                last_id=last_id(connection, metadata.tables[name]) if _numbered(name) else 0,
            )
        )
    writer.begin(Contents(ledger_version=VERSION, made_at=made_at, made_by=made_by, tables=tuple(told)))
    for contents in told:
        done = 0
        progress(contents.name, done, contents.rows)
        for some in _read(connection, tables[contents.name], contents):
            writer.rows(contents.name, some)
            done += len(some)
            progress(contents.name, done, contents.rows)


def _read(connection: Connection, one: Table, contents: TableContents) -> Iterator[list[Row]]:
    result = connection.execute(select(one).execution_options(yield_per=_ROWS))
    binary = [contents.columns.index(name) for name in contents.binary]
    for some in result.partitions(_ROWS):
        rows = [tuple(row) for row in some]
        if not binary:
            yield rows
            continue
        size, begin = 0, 0
        for number, row in enumerate(rows):
            size += sum(len(row[at] or b"") for at in binary)
            if size > _BINARY_BYTES:
                yield rows[begin : number + 1]
                size, begin = 0, number + 1
        if rows[begin:]:
            yield rows[begin:]


def refuse_contents(contents: Contents) -> None:
    """Raise UnusableDumpError where this program does not understand what an export holds."""
    if contents.ledger_version > VERSION:
        raise UnusableDumpError(
            f"was exported by a newer dicom-router (its ledger's version is {contents.ledger_version}, this program "
            f"knows {VERSION}); use that program"
        )
    known = carried()
    for one in contents.tables:
        if one.name in known and set(one.columns) <= set(known[one.name].columns.keys()):
            continue
        if contents.ledger_version >= OLDEST_VERSION and one.name in STAYS:
            continue
        raise UnusableDumpError(f"holds what this program does not know of ({one.name}); use the program that made it")


def in_use(connection: Connection) -> bool:
    """Whether a ledger holds anything but the key that it made for itself."""
    tables = (one for name, one in carried().items() if name != meta.name)
    return any(connection.execute(select(one).limit(1)).first() is not None for one in tables)


def import_(connection: Connection, reader: DumpReader, *, now: datetime, progress: Progress) -> tuple[MovedTable, ...]:
    """Fill an empty ledger. Raises UnusableDumpError; the caller's transaction makes that all or nothing.

    Whatever was being done is nobody's work any more: what a move has done is looked up before it is repeated, all else
    is due again.
    """
    contents = {one.name: one for one in reader.contents.tables}
    # Indexes that are made of rows that are there cost a third of those that grow with each row.
    indexes = [index for name in contents for index in metadata.tables[name].indexes]
    for index in indexes:
        index.drop(connection, checkfirst=True)
    parts = reader.parts()
    part = next(parts, None)
    moved = []
    # The file has its tables in the order of those that refer to each other, and each of them in one piece.
    while part is not None:
        one = contents[part.table]
        rows = _Rows(part, parts, one, progress)
        if one.name == meta.name:
            _write_meta(connection, [dict(zip(one.columns, row, strict=True)) for row in rows])
        else:
            load(connection, metadata.tables[one.name], one.columns, rows)
        if rows.done != one.rows:
            raise UnusableDumpError(f"holds {rows.done} rows of {one.name}, and says {one.rows}")
        moved.append(MovedTable(name=one.name, rows=rows.done))
        part = rows.following
    for index in indexes:
        index.create(connection)
    for name, one in contents.items():
        if _numbered(name):
            set_last_id(connection, metadata.tables[name], one.last_id)
    _let_go(connection, now)
    return tuple(moved)


class _Rows:
    """The rows of one table with their values as a driver takes them; afterwards, what follows them."""

    def __init__(self, first: Part, parts: Iterator[Part], contents: TableContents, progress: Progress) -> None:
        self._first, self._parts, self._contents, self._progress = first, parts, contents, progress
        self._binary = [contents.columns.index(name) for name in contents.binary]
        self.done = 0
        self.following: Part | None = None

    def __iter__(self) -> Iterator[list[object]]:
        part: Part | None = self._first
        while part is not None and part.table == self._contents.name:
            for row in part.rows:
                yield self._values(row)
            self.done += len(part.rows)
            self._progress(self._contents.name, self.done, self._contents.rows)
            part = next(self._parts, None)
        self.following = part

    def _values(self, row: list[bool | int | str | None]) -> list[object]:
        values: list[object] = list(row)
        if len(values) != len(self._contents.columns):
            raise UnusableDumpError(f"holds a row of {self._contents.name} with too few or too many values")
        for at in self._binary:
            value = values[at]
            if value is not None:
                try:
                    values[at] = base64.b64decode(str(value), validate=True)
                except binascii.Error:
                    raise UnusableDumpError(f"holds a value of {self._contents.name} that is no Base64") from None
        return values


def _write_meta(connection: Connection, rows: list[dict[str, object]]) -> None:
    """What the ledger knows of its site; its version is that of its own tables."""
    for row in rows:
        if row["name"] != SCHEMA_VERSION:
            connection.execute(delete(meta).where(meta.c.name == row["name"]))
            connection.execute(insert(meta).values(row))


def _let_go(connection: Connection, now: datetime) -> None:
    """End every lease: who held it works on another database."""
    claims.expire_all(connection, now)
    for part in (sweeps, appointments, arrivals):
        part.expire(connection, _FAR)
    connection.execute(update(notifications).values(lease_until=None))


def _numbered(name: str) -> bool:
    one = metadata.tables.get(name)
    return one is not None and "id" in one.columns and one.columns["id"].primary_key
