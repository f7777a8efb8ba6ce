"""What there is to know about a ledger as a database: how large it is, who works on it, what is oldest in it. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from router.domain.overview import ServiceInfo


class MovedTable(msgspec.Struct, frozen=True, kw_only=True):
    """What of a table went into an export, or came out of one."""

    name: str
    rows: int


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What an export holds."""

    at: datetime
    """What came later is not in it."""
    tables: tuple[MovedTable, ...]
    services: int
    """That worked on the ledger meanwhile."""


class TableSize(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows a table has."""

    name: str
    rows: int
    exact: bool = True
    """Counted; else the database's estimate, or as far as it was counted."""


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger as it stands."""

    name: str
    """How messages call it: without its password."""
    database: str
    """Which program keeps it, with its version."""
    version: int
    """Of its tables."""
    size: int
    """Bytes on disk, indexes and log included."""
    tables: tuple[TableSize, ...]
    services: tuple[ServiceInfo, ...]
    """Those that announced themselves lately."""
    open_transfers: int
    """Not ended."""
    oldest_queued_at: datetime | None
    """Since when the oldest of what waits for its turn has been waiting."""


class DatabaseSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A database server as `doctor` found it."""

    version: str
    seconds: float
    """A question and its answer took so long."""
    ahead_seconds: float
    """The server's clock shows so much more than this machine's; negative: less."""
    may_create: bool
    """This user may make tables in the ledger's schema."""
    may_write: bool
    """This user may change the ledger's tables, where there are any."""
    read_only: bool
    """Nothing can be written: a standby, or a database that is set so."""
    encoding: str
    """Of its texts."""
    connections: int
    """That this server lets in at once, those kept for administrators aside."""
    synchronous_commit: str
    fsync: bool
