"""The table of what is long over: transfers that ended, kept apart so that those under way stay few.

Its queries are in `history.py`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text, UniqueConstraint

from router.ledger.tables import Instant, metadata

history = Table(
    "history",
    metadata,
    # The number that the transfer had, and has again where it comes back.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("instance_count", Integer),
    Column("cause", Text, nullable=False),
    Column("finished_at", Instant, nullable=False),
    # All else that is known of it, its attempts and its lists of instances: read for one transfer at a time.
    Column("content", LargeBinary, nullable=False),
    UniqueConstraint("source", "study_instance_uid", "series_instance_uid", "destination", name="uq_history_intent"),
)
Index("ix_history_study", history.c.study_instance_uid)
Index("ix_history_route", history.c.source, history.c.destination, history.c.finished_at)
Index("ix_history_rule", history.c.rule, history.c.id)
