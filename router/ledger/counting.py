"""How many transfers there are of each state on each way: a small table that the database itself keeps.

To count a million transfers takes a third of a second, and Prometheus and people ask all the time. Triggers keep the
table, so that no query that changes a state can forget it. Its query is in `backlog.py`.
"""

from __future__ import annotations

from sqlalchemy import DDL, BigInteger, Column, PrimaryKeyConstraint, Table, Text, event

from router.ledger.tables import metadata, transfers

transfer_counts = Table(
    "transfer_counts",
    metadata,
    Column("source", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("source", "destination", "state"),
    sqlite_with_rowid=False,
)
transfer_counts.add_is_dependent_on(transfers)

_LESS = """
UPDATE transfer_counts SET count = count - 1
WHERE source = old.source AND destination = old.destination AND state = old.state;
"""
_MORE = """
INSERT INTO transfer_counts (source, destination, state, count)
VALUES (new.source, new.destination, new.state, 1)
ON CONFLICT (source, destination, state) DO UPDATE SET count = count + 1;
"""
_LANE = "source, destination, state"
_OTHER = "(old.source, old.destination, old.state) <> (new.source, new.destination, new.state)"
_TRIGGERS = (
    f"CREATE TRIGGER transfers_came AFTER INSERT ON transfers BEGIN {_MORE} END",
    f"CREATE TRIGGER transfers_changed AFTER UPDATE OF {_LANE} ON transfers WHEN {_OTHER} BEGIN {_LESS} {_MORE} END",
    f"CREATE TRIGGER transfers_went AFTER DELETE ON transfers BEGIN {_LESS} END",
)
for _trigger in _TRIGGERS:
    _made = DDL(_trigger).execute_if(dialect="sqlite")  # type: ignore[no-untyped-call]
    event.listen(transfer_counts, "after_create", _made)
