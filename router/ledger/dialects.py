"""How the two databases say the same thing, where SQLAlchemy does not say it for both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import BigInteger, Connection, Select, Table, Text, bindparam, cast, column, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import GenericFunction

_Value = TypeVar("_Value")

POSTGRESQL = "postgresql"


def on_postgresql(connection: Connection) -> bool:
    """Whether this is a connection to PostgreSQL."""
    return connection.dialect.name == POSTGRESQL


def chunks(values: Iterable[_Value], size: int) -> Iterator[list[_Value]]:
    """The values, each once, in lists of at most this size: a statement takes only so many parameters."""
    unique = list(dict.fromkeys(values))
    for start in range(0, len(unique), size):
        yield unique[start : start + size]


def insert_or(table: Table, connection: Connection) -> Any:
    """An INSERT that can say what happens on conflict; the two databases share the words but not the class."""
    if on_postgresql(connection):
        return postgresql.insert(table)
    return sqlite.insert(table)


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows with the same columns, none of them binary; those that are there already are left alone.

    On PostgreSQL all of them are one statement with one parameter, and the triggers on the table are called once.
    """
    if not rows:
        return
    if not on_postgresql(connection):
        connection.execute(sqlite.insert(table).on_conflict_do_nothing(), list(rows))
        return
    names = list(rows[0])
    columns = [table.columns[name] for name in names]
    bind = [one.type.bind_processor(connection.dialect) for one in columns]
    plain = [
        {name: row[name] if bound is None else bound(row[name]) for name, bound in zip(names, bind, strict=True)}
        for row in rows
    ]
    given = func.json_populate_recordset(_row_of(table), cast(bindparam("rows"), postgresql.JSON))
    found = given.table_valued(*(column(one.name, one.type) for one in columns))
    added = postgresql.insert(table).from_select(names, select(*(found.c[name] for name in names)))
    connection.execute(added.on_conflict_do_nothing(), {"rows": packed(plain)})


def _row_of(table: Table) -> ColumnElement[Any]:
    return postgresql_row(table.name)


class postgresql_row(ColumnElement[Any]):  # noqa: N801 - reads like the SQL it stands for
    """A row of a table with nothing in it, that tells json_populate_recordset the types of its columns."""

    inherit_cache = False

    def __init__(self, name: str) -> None:
        self.table_name = name


@compiles(postgresql_row)
def _write_row(element: postgresql_row, compiler: Any, **_: Any) -> str:
    return f"NULL::{compiler.preparer.quote(element.table_name)}"


def packed(values: Any) -> Any:
    """Values as the text of a JSON parameter. The NUL character, which PostgreSQL's texts cannot hold, is replaced."""
    encoded = msgspec.json.encode(values)
    if b"\\u0000" in encoded:
        encoded = encoded.replace(b"\\\\", b"\\u005c").replace(b"\\u0000", "\ufffd".encode())
    return encoded.decode()


class json_each(GenericFunction[Any]):  # noqa: N801 - SQLite's name for it
    """The members of a JSON array, as a table with the column `value`."""

    name = "json_each"
    inherit_cache = True


class json_array(GenericFunction[Any]):  # noqa: N801 - SQLite's name for it
    """A JSON array of these values."""

    name = "json_array"
    inherit_cache = True


class json_group_array(GenericFunction[Any]):  # noqa: N801 - SQLite's name for it
    """All values of a group as the text of a JSON array."""

    name = "json_group_array"
    inherit_cache = True


class later(GenericFunction[Any]):  # noqa: N801 - used like a function
    """The greater of two values, of which none is NULL."""

    name = "max"
    identifier = "later"
    inherit_cache = True


class earlier(GenericFunction[Any]):  # noqa: N801 - used like a function
    """The smaller of two values, of which none is NULL."""

    name = "min"
    identifier = "earlier"
    inherit_cache = True


@compiles(later, POSTGRESQL)
def _later(element: later, compiler: Any, **words: Any) -> str:
    return f"greatest({compiler.process(element.clauses, **words)})"


@compiles(earlier, POSTGRESQL)
def _earlier(element: earlier, compiler: Any, **words: Any) -> str:
    return f"least({compiler.process(element.clauses, **words)})"


@compiles(json_each, POSTGRESQL)
def _each(element: json_each, compiler: Any, **words: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **words)} AS JSON))"


@compiles(json_array, POSTGRESQL)
def _array(element: json_array, compiler: Any, **words: Any) -> str:
    return f"json_build_array({compiler.process(element.clauses, **words)})"


@compiles(json_group_array, POSTGRESQL)
def _group(element: json_group_array, compiler: Any, **words: Any) -> str:
    return f"CAST(coalesce(json_agg({compiler.process(element.clauses, **words)}), '[]') AS TEXT)"


def texts_in(name: str) -> Select[Any]:
    """The texts of a JSON array that is bound to this name: as many as there are in one parameter."""
    return select(json_each(bindparam(name, type_=Text())).table_valued("value").c.value)


def numbers_in(name: str) -> Select[Any]:
    """The same for whole numbers."""
    return select(cast(json_each(bindparam(name, type_=Text())).table_valued("value").c.value, BigInteger))


@compiles(CreateColumn, POSTGRESQL)
def _create_column(element: CreateColumn, compiler: Any, **words: Any) -> str:
    """Texts compare by their bytes, as in SQLite, whatever the language of the database: order and indexes need it."""
    written: str = compiler.visit_create_column(element, **words)
    if written and isinstance(element.element.type, Text):
        written = written.replace(" TEXT", ' TEXT COLLATE "C"', 1)
    return written
