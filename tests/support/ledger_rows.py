"""Ledgers with rows in every table, made by chance but such that the databases take them; and all rows of one."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, LargeBinary, Table, UniqueConstraint, select

from router.domain.transfer import State
from router.ledger.dump import carried
from router.ledger.ledger import SqlLedger
from router.ledger.tables import meta, metadata

Rows = Mapping[str, list[tuple[Any, ...]]]
_LETTERS = string.ascii_letters + string.digits + " ^=\\\"'\t\n,ÄßあП𝔘\u2028\x7f"
_COUNTED = ("fence", "attempts", "rounds", "looks", "completed", "failed", "warning")
_LEASED = (State.MOVING, State.VERIFYING)


def database_of(ledger: SqlLedger) -> Any:
    """What a test may reach through to, to see the tables themselves."""
    return ledger._database


def fill(ledger: SqlLedger, chance: random.Random, most: int, *, leased: bool = False) -> None:
    """Rows in every table that is carried over, up to so many in each; `leased`: somebody works on some of them."""
    parents: dict[str, list[Any]] = {}
    with database_of(ledger).write() as connection:
        for name, table in carried().items():
            if name == meta.name:
                continue
            known: set[tuple[Any, ...]] = set()
            real = metadata.tables[name]
            unique = [real.primary_key.columns.keys()] + [
                constraint.columns.keys() for constraint in real.constraints if isinstance(constraint, UniqueConstraint)
            ]
            rows = []
            for number in range(chance.randint(0, most)):
                row = {one.name: _value(one, real, parents, chance, number, leased) for one in table.columns}
                if name == "transfers":
                    row |= {"wish": "", "steps": 1 << 20} if leased else {"wish": ""}
                    row["state"] = chance.choice(_LEASED if row["lease_until"] is not None else list(State)).value
                keys = {(index, *(row[column] for column in columns)) for index, columns in enumerate(unique)}
                if _orphan(real, parents) or keys & known:
                    continue
                known |= keys
                rows.append(row)
            if rows:
                connection.execute(table.insert(), rows)
            parents[name] = [row["id"] for row in rows if "id" in row]


def _orphan(table: Table, parents: Mapping[str, list[Any]]) -> bool:
    return any(not parents[one.column.table.name] for one in table.foreign_keys)


def _value(
    column: Column[Any], real: Table, parents: Mapping[str, list[Any]], chance: random.Random, number: int, leased: bool
) -> Any:
    true = real.columns[column.name]
    if true.foreign_keys:
        return chance.choice(parents[next(iter(true.foreign_keys)).column.table.name] or [0])
    if column.name == "lease_until":
        return chance.randint(1, 1 << 52) if leased and chance.random() < 0.5 else None
    if column.name == "id":
        return number * 3 + 1
    if leased and column.name in _COUNTED:
        return chance.randint(0, 1000)
    if leased and column.name == "claimed_at":
        return number
    if column.name == "priority":
        return chance.randint(0, 2)
    if true.nullable and chance.random() < 0.3:
        return None
    if isinstance(column.type, LargeBinary):
        return chance.randbytes(chance.choice((0, 1, 64, 3000)))
    if isinstance(column.type, Boolean):
        return chance.random() < 0.5
    if isinstance(column.type, BigInteger):
        return chance.choice((0, -1, (1 << 53) + 1, chance.randint(0, 1 << 52)))
    if column.type.python_type is int:
        return chance.choice((0, 1, (1 << 31) - 1, -(1 << 31), chance.randint(0, 1000)))
    return "".join(chance.choices(_LETTERS, k=chance.choice((0, 1, 8, 64, 200))))


def all_rows(ledger: SqlLedger) -> Rows:
    """Every row of every table that is carried over, sorted; that of the version of the tables aside."""
    with database_of(ledger).read() as connection:
        found = {}
        for name, table in carried().items():
            rows = [tuple(row) for row in connection.execute(select(table))]
            found[name] = sorted((row for row in rows if row[0] != "schema_version"), key=repr)
        return found
