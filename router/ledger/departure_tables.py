"""Tables about studies that leave the object store: which may, and which have. Their queries are in `departures.py`.

Which may leave a trigger notes whenever a transfer from the store is proven, so that no query that says so can forget
it, and a store of a hundred thousand studies need not be searched for them.
"""

from __future__ import annotations

from sqlalchemy import DDL, Column, Index, LargeBinary, Table, Text, event

from router.domain.rule import LOCAL
from router.domain.transfer import State
from router.ledger.tables import Instant, metadata, receipts, transfers

leavers = Table(
    "leavers",
    metadata,
    # Studies of which something was proven to be elsewhere, that may leave some day.
    Column("study_instance_uid", Text, primary_key=True),
    Column("received_at", Instant, nullable=False),  # the last instance, as it was then: the oldest leave first
    Column("look_at", Instant, nullable=False),  # before that it cannot leave
    sqlite_with_rowid=False,
)
departures = Table(
    "departures",
    metadata,
    # Studies that leave or have left. What has left of them counts as having been there.
    Column("study_instance_uid", Text, primary_key=True),
    Column("last_received_at", Instant, nullable=False),  # what came later stays
    Column("begun_at", Instant, nullable=False),
    Column("left_at", Instant),  # set when all of it was gone
    Column("instances", LargeBinary, nullable=False),
)
Index("ix_leavers_look", leavers.c.look_at)
Index("ix_leavers_oldest", leavers.c.received_at, leavers.c.look_at)
Index(
    "ix_departures_begun",
    departures.c.begun_at,
    sqlite_where=departures.c.left_at.is_(None),
    postgresql_where=departures.c.left_at.is_(None),
)
leavers.add_is_dependent_on(transfers)
leavers.add_is_dependent_on(receipts)

_PROVEN = f"new.source = '{LOCAL}' AND new.state = '{State.COMPLETE}' AND old.state <> new.state"
_NOTED = """
INSERT INTO leavers (study_instance_uid, received_at, look_at)
SELECT new.study_instance_uid, coalesce(max(received_at), new.updated_at), new.updated_at
FROM receipts WHERE study_instance_uid = new.study_instance_uid
ON CONFLICT (study_instance_uid) DO UPDATE SET received_at = excluded.received_at, look_at = excluded.look_at;
"""
PROVEN_TRIGGER = f"CREATE TRIGGER forwards_proven AFTER UPDATE OF state ON transfers WHEN {_PROVEN} BEGIN {_NOTED} END"
_CALL = "EXECUTE FUNCTION forwards_proven()"
_POSTGRESQL = (
    f"CREATE FUNCTION forwards_proven() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {_NOTED} RETURN NULL; END $$",
    f"CREATE TRIGGER forwards_proven AFTER UPDATE OF state ON transfers FOR EACH ROW WHEN ({_PROVEN}) {_CALL}",
)
for _dialect, _statements in (("sqlite", (PROVEN_TRIGGER,)), ("postgresql", _POSTGRESQL)):
    for _statement in _statements:
        _made = DDL(_statement).execute_if(dialect=_dialect)  # type: ignore[no-untyped-call]
        event.listen(leavers, "after_create", _made)
