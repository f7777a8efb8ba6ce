"""The table of the object stores that services of this ledger have. Its queries are in `stores.py`."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Table, Text

from router.ledger.tables import Instant, metadata

stores = Table(
    "stores",
    metadata,
    # Kept when its services stop: what it holds counts for a while, and people are told where it is.
    Column("name", Text, primary_key=True),
    Column("replica", Text, nullable=False),  # that had it last
    Column("seen_at", Instant, nullable=False),
    Column("replaced", Boolean, nullable=False, server_default="0"),  # its replica has another store since
    sqlite_with_rowid=False,
)
