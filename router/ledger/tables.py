"""The ledger's tables and their indexes. No query lives here; older versions of them are in `migrations.py`.

Times are whole microseconds since 1970 in UTC, so that both databases keep them exactly and order them cheaply.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
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
    text,
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
    Column("deadline_at", Instant),  # the earliest of the appointments that it is for
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
    Column("checksum", LargeBinary),  # of the file, as it was when it was first read again after this receipt
    # The key leads with the study: what we hold of it lies together and is read in one range.
    _text("store"),  # which object store holds it: the name of that store, empty where only one was ever known
    PrimaryKeyConstraint("study_instance_uid", "series_instance_uid", "sop_instance_uid", "store"),
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

appointments = Table(
    "appointments",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("current", LargeBinary, nullable=False),
    Column("patient_id", Text, nullable=False),
    _text("issuer"),
    Column("start_at", Instant),
    Column("due_at", Instant, nullable=False),
    Column("turn_at", Instant, nullable=False),  # the start, or where there is none when it is due: the earliest first
    Column("state", Text, nullable=False),
    _number("fence"),
    Column("lease_until", Instant),
    _number("attempts"),
    Column("sweep_id", _Id),  # of a person who waits for it
    _number("queries"),
    _number("candidates"),
    _number("taken"),
    Column("complete", Boolean, nullable=False, server_default="1"),
    _text("cause"),
    _text("reason"),
    Column("noted_at", Instant, nullable=False),
    Column("finished_at", Instant),
    UniqueConstraint("rule", "key", name="uq_appointments_key"),
    sqlite_autoincrement=True,
)

appointment_priors = Table(
    "appointment_priors",
    metadata,
    # What the last look decided about each candidate.
    Column("appointment_id", _Id, ForeignKey("appointments.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("taken", Boolean, nullable=False),
    Column("prior", LargeBinary, nullable=False),
    PrimaryKeyConstraint("appointment_id", "number"),
    sqlite_with_rowid=False,
)

appointment_transfers = Table(
    "appointment_transfers",
    metadata,
    Column("appointment_id", _Id, ForeignKey("appointments.id", ondelete="CASCADE"), nullable=False),
    Column("transfer_id", _Id, ForeignKey("transfers.id", ondelete="CASCADE"), nullable=False),
    Column("owned", Boolean, nullable=False),  # it was queued for this appointment, and is cancelled with it
    PrimaryKeyConstraint("appointment_id", "transfer_id"),
    sqlite_with_rowid=False,
)

patient_merges = Table(
    "patient_merges",
    metadata,
    # A patient ID that gave way to another; chains are followed when they are written.
    Column("old_patient_id", Text, nullable=False),
    Column("old_issuer", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("merged_at", Instant, nullable=False),
    PrimaryKeyConstraint("old_patient_id", "old_issuer"),
    sqlite_with_rowid=False,
)

services = Table(
    "services",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("address", Text, nullable=False),
    Column("seen_at", Instant, nullable=False),
    _text("content_hash"),
    _text("work_hash"),  # of what its configuration says about work
    _text("replica"),  # its name, as people know it
    _text("store"),  # the name of its object store
    Column("started_at", Instant),
    Column("leads", Boolean, nullable=False, server_default="0"),  # it makes sweeps due, for all
)

notice_groups = Table(
    "notice_groups",
    metadata,
    # What has happened and is not told yet, and what was told: a group of trouble on a channel.
    Column("channel", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", LargeBinary, nullable=False),
    PrimaryKeyConstraint("channel", "name"),
    sqlite_with_rowid=False,
)

notifications = Table(
    "notifications",
    metadata,
    # What is on its way to people, or was lately.
    Column("id", _Id, primary_key=True),
    Column("channel", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("made_at", Instant, nullable=False),
    Column("next_at", Instant, nullable=False),
    _number("attempts"),
    Column("lease_until", Instant),
    _text("result"),
    _text("reason"),
    Column("finished_at", Instant),
    sqlite_autoincrement=True,
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
WITH_DEADLINE = "deadline_at IS NOT NULL AND priority > 0"
WAITING = "state = 'waiting'"
LOOKING = "state = 'looking'"
FINISHED = "finished_at IS NOT NULL"

_t, _s, _a = transfers.c, sweeps.c, appointments.c
_partial("ix_transfers_queue", _t.source, _t.priority, _t.next_at, _t.id, where=QUEUED)
# Where a route of a source is stopped, its other routes are asked each by itself: what waits in vain costs no claim.
ROUTES_INDEX = _partial("ix_transfers_routes", _t.source, _t.destination, _t.priority, _t.next_at, _t.id, where=QUEUED)
_partial("ix_transfers_verification", _t.destination, _t.next_at, _t.id, where=UNCLAIMED_VERIFICATION)
_partial("ix_transfers_leases", _t.lease_until, where=LEASED)
HELD_INDEX = _partial("ix_transfers_held", _t.rule, _t.source, _t.cause, _t.queued_at, _t.id, where=HELD)
Index("ix_transfers_study", _t.study_instance_uid)
Index("ix_transfers_state", _t.state, _t.id)
OLDEST_INDEX = _partial("ix_transfers_oldest", _t.source, _t.destination, _t.queued_at, where=QUEUED)
ENDED_INDEX = _partial("ix_transfers_ended", _t.state, _t.finished_at, _t.id, where=FINISHED)
_partial("ix_sweeps_due", _s.due_at, _s.id, where=DUE)
_partial("ix_sweeps_running", _s.lease_until, where=RUNNING)
LATEST_INDEX = _partial("ix_sweeps_latest", _s.rule, _s.finished_at, _s.id, where=FINISHED)
Index("ix_sweeps_last", _s.manual, _s.rule, _s.tier, _s.finished_at, _s.due_at)
MOVES_INDEX = _partial("ix_attempts_moves", attempts.c.finished_at, where=MOVES)
Index("ix_sweep_transfers_transfer", sweep_transfers.c.transfer_id)
Index("ix_commitments_transfer", commitments.c.transfer_id, commitments.c.requested_at)
Index("ix_commitments_requested", commitments.c.requested_at)

# The state is a column, for SQLite would rather find all that are queued by their state than use a partial index.
DEADLINES_INDEX = _partial("ix_transfers_deadlines", _t.state, _t.deadline_at, where=WITH_DEADLINE)
_partial("ix_appointments_due", _a.source, _a.due_at, where=WAITING)
_partial("ix_appointments_turn", _a.source, _a.turn_at, _a.id, _a.due_at, where=WAITING)
_partial("ix_appointments_looking", _a.lease_until, where=LOOKING)
Index("ix_appointments_start", _a.rule, _a.start_at)
Index("ix_appointments_patient", _a.patient_id)
Index("ix_appointments_noted", _a.noted_at)
_partial("ix_appointments_sweep", _a.sweep_id, where="sweep_id IS NOT NULL")
Index("ix_appointment_priors_study", appointment_priors.c.study_instance_uid, appointment_priors.c.appointment_id)
Index("ix_appointment_transfers_transfer", appointment_transfers.c.transfer_id)
Index("ix_patient_merges_patient", patient_merges.c.patient_id)
_partial("ix_notifications_due", notifications.c.next_at, notifications.c.id, where="finished_at IS NULL")
Index("ix_notifications_made", notifications.c.made_at)
