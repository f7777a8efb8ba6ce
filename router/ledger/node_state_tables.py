"""The table of what services that share a ledger share about nodes. Its queries are in `node_states.py`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, Table, Text

from router.ledger.tables import Instant, metadata

node_states = Table(
    "node_states",
    metadata,
    # The row without a name is the circle: who works on this ledger, and counts how. A few kilobytes a row at most.
    Column("node", Text, primary_key=True),
    Column("state", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False, server_default="0"),  # rises whenever it is written
    Column("changed_at", Instant, nullable=False),
)
