"""The queries about the site: its key for pseudonyms, and which studies stand behind one."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from sqlalchemy import Connection, select

from router.ledger.database import insert_or
from router.ledger.history_tables import history
from router.ledger.tables import meta, transfers

KEY_BYTES = 32
_SITE_KEY = "site_key"
_ROWS = 1000
"""Rows that are read at once."""


def key(connection: Connection) -> bytes | None:
    """The site's key; None where it has none yet."""
    value = connection.scalar(select(meta.c.value).where(meta.c.name == _SITE_KEY))
    return None if value is None else bytes.fromhex(value)


def make_key(connection: Connection) -> None:
    """Give the site a key by chance, unless it has one."""
    statement = insert_or(meta, connection).values(name=_SITE_KEY, value=secrets.token_hex(KEY_BYTES))
    connection.execute(statement.on_conflict_do_nothing(index_elements=["name"]))


def studies(connection: Connection, wanted: Callable[[str], bool], most: int) -> list[str]:
    """The Study Instance UIDs that are wanted, of so many of the newest transfers; the newest first."""
    found: dict[str, None] = {}
    left = most
    for table in (transfers, history):
        newest = select(table.c.study_instance_uid).order_by(table.c.id.desc()).limit(left)
        for uid in connection.execution_options(yield_per=_ROWS).scalars(newest):
            left -= 1
            if wanted(uid):
                found[uid] = None
    return list(found)
