"""Versions of the ledger's tables: how an older one becomes that of today. No query but those of the migrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, func, insert, inspect, select, update

from router.ledger.arrival_tables import arrivals, forward_turns
from router.ledger.counting import count_changes, transfer_counts
from router.ledger.departure_tables import PROVEN_TRIGGER, departures, leavers
from router.ledger.history_tables import history
from router.ledger.node_state_tables import node_states
from router.ledger.store_tables import stores
from router.ledger.tables import (
    DEADLINES_INDEX,
    ENDED_INDEX,
    HELD_INDEX,
    LATEST_INDEX,
    MOVES_INDEX,
    OLDEST_INDEX,
    ROUTES_INDEX,
    appointment_priors,
    appointment_transfers,
    appointments,
    caps,
    commitments,
    meta,
    metadata,
    notice_groups,
    notifications,
    patient_merges,
    receipts,
    routes,
    rule_days,
    transfers,
)


class UnusableTablesError(Exception):
    """The tables of a database are not those of a ledger of a known version; the message ends a sentence about it."""


VERSION = 8
"""The version of the tables above; a new ledger starts with it."""


def _to_2(connection: Connection) -> None:
    for column in ("wish", "availability"):
        connection.exec_driver_sql(f"ALTER TABLE transfers ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
    metadata.create_all(connection, tables=[routes, commitments])
    ROUTES_INDEX.create(connection)


def _to_3(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE sweeps ADD COLUMN account TEXT NOT NULL DEFAULT ''")
    metadata.create_all(connection, tables=[caps, rule_days])
    HELD_INDEX.create(connection)
    MOVES_INDEX.create(connection)


def _to_4(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE transfers ADD COLUMN deadline_at BIGINT")
    metadata.create_all(connection, tables=[appointments, appointment_priors, appointment_transfers, patient_merges])
    DEADLINES_INDEX.create(connection)


def _to_5(connection: Connection) -> None:
    metadata.create_all(connection, tables=[transfer_counts, notice_groups, notifications])
    lane = (transfers.c.source, transfers.c.destination, transfers.c.state)
    counted = select(*lane, func.count()).group_by(*lane)
    connection.execute(insert(transfer_counts).from_select(["source", "destination", "state", "count"], counted))
    connection.exec_driver_sql("DROP INDEX ix_transfers_backlog")
    for index in (OLDEST_INDEX, ENDED_INDEX, LATEST_INDEX):
        index.create(connection)


def _to_6(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE receipts ADD COLUMN checksum BLOB")


def _to_7(connection: Connection) -> None:
    metadata.create_all(connection, tables=[leavers, departures, arrivals, forward_turns])


def _to_8(connection: Connection) -> None:
    for column in ("work_hash", "replica", "store"):
        connection.exec_driver_sql(f"ALTER TABLE services ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
    connection.exec_driver_sql("ALTER TABLE services ADD COLUMN started_at BIGINT")
    connection.exec_driver_sql("ALTER TABLE services ADD COLUMN leads BOOLEAN NOT NULL DEFAULT 0")
    # SQLite cannot change a primary key: the receipts move into a table that has the store in it.
    connection.exec_driver_sql("DROP TRIGGER forwards_proven")
    connection.exec_driver_sql("ALTER TABLE receipts RENAME TO receipts_before")
    metadata.create_all(connection, tables=[receipts, count_changes, history, stores, node_states])
    kept = [column.name for column in receipts.columns if column.name != "store"]
    names = ", ".join(kept)
    connection.exec_driver_sql(f"INSERT INTO receipts ({names}) SELECT {names} FROM receipts_before")
    connection.exec_driver_sql("DROP TABLE receipts_before")
    connection.exec_driver_sql(PROVEN_TRIGGER)


MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {
    2: _to_2,
    3: _to_3,
    4: _to_4,
    5: _to_5,
    6: _to_6,
    7: _to_7,
    8: _to_8,
}
"""How a ledger of the version before becomes one of this version; one entry for each version after the first."""

SCHEMA_VERSION = "schema_version"
"""The row of `meta` with the version of the tables."""


def stored_version(connection: Connection) -> int:
    """The version of the tables in this database; 0 where there are none at all.

    Raises UnusableTablesError where the tables are not a ledger's.
    """
    names = inspect(connection).get_table_names()
    if not names:
        return 0
    if meta.name in names:
        value = connection.scalar(select(meta.c.value).where(meta.c.name == SCHEMA_VERSION))
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
        connection.execute(insert(meta).values(name=SCHEMA_VERSION, value=str(version)))
        return
    for step in range(stored + 1, version + 1):
        migrations[step](connection)
    connection.execute(update(meta).where(meta.c.name == SCHEMA_VERSION).values(value=str(version)))
