"""Tables about studies that rules pass on once they have arrived. Their queries are in `arrivals.py`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, Table, Text, text

from router.ledger.tables import LOOKING, WAITING, Instant, metadata

arrivals = Table(
    "arrivals",
    metadata,
    # A rule that is to look, is looking, or has looked at a study of which something has arrived.
    Column("study_instance_uid", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("noted_at", Instant, nullable=False),
    Column("news", Integer, nullable=False, server_default="0"),
    Column("state", Text, nullable=False),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("lease_until", Instant),
    Column("nodes", Text, nullable=False, server_default="[]"),  # JSON: who gets it, as was decided
    Column("cause", Text, nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    Column("finished_at", Instant),
    # The key leads with the study: a transfer of it is withdrawn only where no other rule has given it to that node.
    PrimaryKeyConstraint("study_instance_uid", "rule"),
    sqlite_with_rowid=False,
)

forward_turns = Table(
    "forward_turns",
    metadata,
    # Who has got how many studies of a rule.
    Column("rule", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("turns", BigInteger, nullable=False),
    PrimaryKeyConstraint("rule", "node"),
    sqlite_with_rowid=False,
)

DONE = "state = 'done'"

_a = arrivals.c
# One for each state: SQLite would rather find all that wait by an index of states than take the first from these.
Index("ix_arrivals_due", _a.due_at, sqlite_where=text(WAITING), postgresql_where=text(WAITING))
Index("ix_arrivals_looking", _a.lease_until, sqlite_where=text(LOOKING), postgresql_where=text(LOOKING))
Index("ix_arrivals_done", _a.finished_at, sqlite_where=text(DONE), postgresql_where=text(DONE))
Index("ix_arrivals_rule", _a.rule, _a.due_at)
