"""The ledger's tables, their indexes and their versions. No query but those of the migrations lives here.

Times are whole microseconds since 1970 in UTC, so that both databases keep them exactly and order them cheaply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An aware datetime as whole microseconds since 1970 in UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """To the database; a naive datetime raises TypeError."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


# SQLite fills a row's id by itself only where the column is INTEGER, which holds 64 bits there.
_Id = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()


class UnusableTablesError(Exception):
    """The tables of a database are not those of a ledger of a known version; the message ends a sentence about it."""


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _number(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("tier", Integer, nullable=False),
    Column("manual", Boolean, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("state", Text, nullable=False),
    _number("fence"),
    Column("lease_until", Instant),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    _number("matches"),
    _number("selected"),
    _number("queries"),
    _text("cause"),
    _text("reason"),
    _text("account"),  # what it took to find everything
    # What makes a sweep the same sweep: the guard against two schedulers, rather than any lock between them.
    UniqueConstraint("rule", "tier", "manual", "due_at", name="uq_sweeps_due"),
    sqlite_autoincrement=True,
)

transfers = Table(
    "transfers",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("source", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    _text("series_instance_uid"),
    Column("destination", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("instance_count", Integer),
    _text("patient_id"),
    Column("expected", Integer),
    _number("completed"),
    _number("failed"),
    _number("warning"),
    _number("attempts"),
    _number("rounds"),
    _number("looks"),
    Column("status", Integer),
    _text("cause"),
    _text("reason"),
    _number("fence"),
    _number("steps"),  # attempts ever remembered: the number of the last one
    _text("wish"),  # what a person asked for while a worker held it
    _text("availability"),  # InstanceAvailability (0008,0056) as the sweep saw it
    Column("queued_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("next_at", Instant, nullable=False),
    Column("claimed_at", Instant),  # when the last claim began
    Column("lease_until", Instant),  # set exactly while a worker holds it
    Column("finished_at", Instant),
    Column("updated_at", Instant, nullable=False),
    UniqueConstraint("source", "study_instance_uid", "series_instance_uid", "destination", name="uq_transfers_intent"),
    # A claim asks each priority by itself, so that the index alone answers it; these are all there are.
    CheckConstraint("priority BETWEEN 0 AND 2", name="ck_transfers_priority"),
    sqlite_autoincrement=True,
)

sweep_transfers = Table(
    "sweep_transfers",
    metadata,
    Column("sweep_id", _Id, ForeignKey("sweeps.id", ondelete="CASCADE"), nullable=False),
    Column("transfer_id", _Id, ForeignKey("transfers.id", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("sweep_id", "transfer_id"),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("transfer_id", _Id, ForeignKey("transfers.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("step", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("finished_at", Instant, nullable=False),
    Column("happening", Text, nullable=False),
    _text("cause"),
    _text("reason"),
    Column("status", Integer),
    _number("completed"),
    _number("failed"),
    _number("warning"),
    PrimaryKeyConstraint("transfer_id", "number"),
    sqlite_with_rowid=False,
)

instance_lists = Table(
    "instance_lists",
    metadata,
    Column("transfer_id", _Id, ForeignKey("transfers.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("instances", LargeBinary, nullable=False),
    PrimaryKeyConstraint("transfer_id", "kind"),
)

receipts = Table(
    "receipts",
    metadata,
    Column("study_instance_uid", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False),
    _text("sop_class_uid"),
    _text("transfer_syntax_uid"),
    _text("calling_ae_title"),
    Column("size", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("received_at", Instant, nullable=False),
    # The key leads with the study: what we hold of it lies together and is read in one range.
    PrimaryKeyConstraint("study_instance_uid", "series_instance_uid", "sop_instance_uid"),
    sqlite_with_rowid=False,
)

routes = Table(
    "routes",
    metadata,
    # A row is a route that is stopped: nothing is claimed for it but a probe now and then.
    Column("source", Text, nullable=False),
    Column("destination", Text, nullable=False),
    _text("cause"),
    _text("reason"),
    Column("stopped_at", Instant, nullable=False),
    Column("probe_at", Instant, nullable=False),
    _number("probes"),
    PrimaryKeyConstraint("source", "destination"),
    sqlite_with_rowid=False,
)

commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", Text, primary_key=True),
    Column("transfer_id", _Id, ForeignKey("transfers.id", ondelete="CASCADE"), nullable=False),
    Column("node", Text, nullable=False),
    Column("requested_at", Instant, nullable=False),
    Column("answered_at", Instant),
    Column("answer", LargeBinary),
    sqlite_with_rowid=False,
)

caps = Table(
    "caps",
    metadata,
    # A node that was seen to cut its answers, and at how many matches.
    Column("node", Text, primary_key=True),
    Column("matches", Integer, nullable=False),
    sqlite_with_rowid=False,
)

rule_days = Table(
    "rule_days",
    metadata,
    # How many instances a rule has queued on a day (its proleptic Gregorian ordinal), where it has a limit for that.
    Column("rule", Text, nullable=False),
    Column("day", Integer, nullable=False),
    Column("instances", BigInteger, nullable=False),
    PrimaryKeyConstraint("rule", "day"),
    sqlite_with_rowid=False,
)

services = Table(
    "services",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("address", Text, nullable=False),
    Column("seen_at", Instant, nullable=False),
    _text("content_hash"),
)


def _partial(name: str, *columns: Column[Any], where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


# Partial indexes hold only what is under way: a claim costs the same however much has ended.
QUEUED = "state = 'queued'"
UNCLAIMED_VERIFICATION = "state = 'verifying' AND lease_until IS NULL"
LEASED = "lease_until IS NOT NULL"
HELD = "state = 'held'"
MOVES = "step = 'move'"
DUE = "state = 'due'"
RUNNING = "state = 'running'"

_t, _s = transfers.c, sweeps.c
_partial("ix_transfers_queue", _t.source, _t.priority, _t.next_at, _t.id, where=QUEUED)
# Where a route of a source is stopped, its other routes are asked each by itself: what waits in vain costs no claim.
_routes = _partial("ix_transfers_routes", _t.source, _t.destination, _t.priority, _t.next_at, _t.id, where=QUEUED)
_partial("ix_transfers_verification", _t.destination, _t.next_at, _t.id, where=UNCLAIMED_VERIFICATION)
_partial("ix_transfers_leases", _t.lease_until, where=LEASED)
_held = _partial("ix_transfers_held", _t.rule, _t.source, _t.cause, _t.queued_at, _t.id, where=HELD)
Index("ix_transfers_study", _t.study_instance_uid)
Index("ix_transfers_state", _t.state, _t.id)
Index("ix_transfers_backlog", _t.source, _t.destination, _t.state, _t.queued_at)
_partial("ix_sweeps_due", _s.due_at, _s.id, where=DUE)
_partial("ix_sweeps_running", _s.lease_until, where=RUNNING)
Index("ix_sweeps_last", _s.manual, _s.rule, _s.tier, _s.finished_at, _s.due_at)
_moves = _partial("ix_attempts_moves", attempts.c.finished_at, where=MOVES)
Index("ix_sweep_transfers_transfer", sweep_transfers.c.transfer_id)
Index("ix_commitments_transfer", commitments.c.transfer_id, commitments.c.requested_at)
Index("ix_commitments_requested", commitments.c.requested_at)

VERSION = 3
"""The version of the tables above; a new ledger starts with it."""


def _to_2(connection: Connection) -> None:
    for column in ("wish", "availability"):
        connection.exec_driver_sql(f"ALTER TABLE transfers ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
    metadata.create_all(connection, tables=[routes, commitments])
    _routes.create(connection)


def _to_3(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE sweeps ADD COLUMN account TEXT NOT NULL DEFAULT ''")
    metadata.create_all(connection, tables=[caps, rule_days])
    _held.create(connection)
    _moves.create(connection)


MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {2: _to_2, 3: _to_3}
"""How a ledger of the version before becomes one of this version; one entry for each version after the first."""

_SCHEMA_VERSION = "schema_version"


def stored_version(connection: Connection) -> int:
    """The version of the tables in this database; 0 where there are none at all.

    Raises UnusableTablesError where the tables are not a ledger's.
    """
    names = inspect(connection).get_table_names()
    if not names:
        return 0
    if meta.name in names:
        value = connection.scalar(select(meta.c.value).where(meta.c.name == _SCHEMA_VERSION))
        if value is not None and value.isdecimal():
            return int(value)
    raise UnusableTablesError("holds tables of something else; choose another place for the ledger")


def refuse_newer(version: int, known: int = VERSION) -> None:
    """Raise UnusableTablesError for a ledger that a newer dicom-router has written."""
    if version > known:
        raise UnusableTablesError(
            f"was written by a newer dicom-router (its version is {version}, this program knows {known}); "
            "use that program, or another ledger"
        )


def migrate(
    connection: Connection,
    version: int = VERSION,
    migrations: Mapping[int, Callable[[Connection], None]] = MIGRATIONS,
) -> None:
    """Bring the database to this version within the running transaction. Raises UnusableTablesError for a newer one."""
    stored = stored_version(connection)
    refuse_newer(stored, version)
    if stored == version:
        return
    if stored == 0:
        metadata.create_all(connection)
        connection.execute(insert(meta).values(name=_SCHEMA_VERSION, value=str(version)))
        return
    for step in range(stored + 1, version + 1):
        migrations[step](connection)
    connection.execute(update(meta).where(meta.c.name == _SCHEMA_VERSION).values(value=str(version)))
