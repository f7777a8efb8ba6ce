"""How many transfers there are of each state on each way: a small table that the database itself keeps.

To count a million transfers takes a third of a second, and Prometheus and people ask all the time. Triggers keep the
table, so that no query that changes a state can forget it. Its query is in `backlog.py`.

In PostgreSQL many write at the same time, and would wait for each other's rows of the table: there each change is a row
of its own in a second table, which is added to the first now and then.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Connection,
    FromClause,
    PrimaryKeyConstraint,
    Table,
    Text,
    event,
    func,
    select,
    text,
    union_all,
)

from router.ledger.dialects import on_postgresql
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
count_changes = Table(
    "count_changes",
    metadata,
    # What is to be added to the counts; always empty in SQLite.
    Column("source", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("change", BigInteger, nullable=False),
)
transfer_counts.add_is_dependent_on(transfers)
transfer_counts.add_is_dependent_on(count_changes)

CHANGES_KEPT = 500
"""So many changes may wait: they are summed up whenever the counts are asked for."""

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

# A hundred thousand new transfers are counted once; a claim changes one row, and a renewal of its lease none.
_INTO = f"INSERT INTO count_changes ({_LANE}, change)"
_CALL = "EXECUTE FUNCTION transfers_counted()"
_POSTGRESQL = (
    f"""
    CREATE FUNCTION transfers_counted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            {_INTO} SELECT {_LANE}, count(*) FROM came GROUP BY {_LANE};
        ELSIF TG_OP = 'DELETE' THEN
            {_INTO} SELECT {_LANE}, -count(*) FROM went GROUP BY {_LANE};
        ELSE
            {_INTO} VALUES (old.source, old.destination, old.state, -1), (new.source, new.destination, new.state, 1);
        END IF;
        RETURN NULL;
    END $$
    """,
    f"CREATE TRIGGER transfers_came AFTER INSERT ON transfers REFERENCING NEW TABLE AS came FOR EACH STATEMENT {_CALL}",
    f"CREATE TRIGGER transfers_changed AFTER UPDATE OF {_LANE} ON transfers FOR EACH ROW WHEN ({_OTHER}) {_CALL}",
    f"CREATE TRIGGER transfers_went AFTER DELETE ON transfers REFERENCING OLD TABLE AS went FOR EACH STATEMENT {_CALL}",
    # Rows come and go here all the time: what is dead is to be cleared away before it makes the table long to read.
    "ALTER TABLE count_changes SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)",
)
for _dialect, _statements in (("sqlite", _TRIGGERS), ("postgresql", _POSTGRESQL)):
    for _statement in _statements:
        _made = DDL(_statement).execute_if(dialect=_dialect)  # type: ignore[no-untyped-call]
        event.listen(transfer_counts, "after_create", _made)

_FOLD = text(
    f"""
    WITH gone AS (DELETE FROM count_changes RETURNING {_LANE}, change)
    INSERT INTO transfer_counts AS kept ({_LANE}, count)
    SELECT {_LANE}, sum(change) FROM gone GROUP BY {_LANE}
    ON CONFLICT ({_LANE}) DO UPDATE SET count = kept.count + excluded.count
    """
)


def counted(*, summed: bool) -> FromClause:
    """Source, destination, state and count of transfers, each way and state once; `summed`: where changes wait."""
    if not summed:
        return transfer_counts
    way = ("source", "destination", "state")
    kept, more = transfer_counts.c, count_changes.c
    parts: Any = union_all(
        select(*(kept[name] for name in way), kept.count), select(*(more[name] for name in way), more.change)
    ).subquery()
    total = func.sum(parts.c.count, type_=BigInteger()).cast(BigInteger)
    return select(*(parts.c[name] for name in way), total.label("count")).group_by(*way).subquery()


def any_to_fold(connection: Connection) -> bool:
    """Whether so many changes wait that they should be added to the counts."""
    if not on_postgresql(connection):
        return False
    return connection.scalar(select(count_changes.c.change).offset(CHANGES_KEPT).limit(1)) is not None


def fold(connection: Connection) -> None:
    """Add the changes to the counts; nothing else may do so at the same time."""
    if on_postgresql(connection):
        connection.execute(_FOLD)
