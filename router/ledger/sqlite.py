"""The ledger in a SQLite file: how it is opened, how writers take turns, what its errors mean."""

from __future__ import annotations

import errno
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from router.errors import LedgerError
from router.ledger.backend import MAXIMUM_CONNECTIONS, WAIT_SECONDS
from router.ledger.clock import MachineClock
from router.ledger.lock import LeaderLock
from router.ledger.turns import Turns

EXAMPLE = "sqlite:///./data/ledger.db"
_BEGIN = "begin"

_PROBLEMS = {
    sqlite3.SQLITE_BUSY: "is locked by another process; stop what holds it, then try again",
    sqlite3.SQLITE_LOCKED: "is locked by another process; stop what holds it, then try again",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full; make room",
    sqlite3.SQLITE_IOERR: "could not be read or written: the disk reports an error, or is full; check it",
    sqlite3.SQLITE_CORRUPT: "is damaged; stop the router and restore it from a backup, or move it away to start anew",
    sqlite3.SQLITE_NOTADB: "is not a database; choose another file, or move this one away",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that the path is right and the router may write to its directory",
    sqlite3.SQLITE_READONLY: "may not be written to; check the permissions of the file and its directory",
    sqlite3.SQLITE_PERM: "may not be opened; check the permissions of the file and its directory",
    sqlite3.SQLITE_AUTH: "may not be opened; check the permissions of the file and its directory",
    sqlite3.SQLITE_CONSTRAINT: "refused a value that its rules do not allow; please report this as a bug",
    sqlite3.SQLITE_TOOBIG: "refused a value that is too large",
    sqlite3.SQLITE_ERROR: "has tables this program does not understand; move it away to start anew",
}
OTHER = "could not be read or written"


class SqliteBackend:
    """A SQLite file, or a database in memory; thread-safe, and safe between processes of one machine.

    Writers of a process take turns in it, and then wait for those of other processes.
    """

    def __init__(self, path: Path | None, name: str, *, read_only: bool) -> None:
        self.path = path
        self.name = name
        self._read_only = read_only
        self._engine = _engine(path, read_only=read_only)
        self._writing = self._engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        self._turns = Turns(self._alone, self._busy, WAIT_SECONDS)
        self._leader = LeaderLock(path)
        self._file: tuple[int, int] | None = None
        """Which file it is: what is written after somebody deleted or replaced it would be lost."""

    def pin(self) -> None:
        """Remember which file it is from now on."""
        self._file = _identity(self.path) if self.path is not None else None

    def check(self) -> None:
        """Raise LedgerError where the file is not the one that was opened."""
        if self._file is not None and self.path is not None and _identity(self.path) != self._file:
            raise LedgerError(
                f"The ledger {self.name} was moved, deleted or replaced while it was in use; restart the router."
            )

    @contextmanager
    def read(self, *, long: bool = False) -> Iterator[Connection]:
        """A transaction that sees one state of the file; readers never wait for a writer."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def write(self, *, beside: bool = False, long: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that holds the right to write: there is but one writer of a file.

        With `beside` it may be shared with others of this process, one after the other.
        """
        # Taking turns in the process is fair and quick; SQLite's own waiting polls and may starve a thread.
        return self._turns.write(beside=beside)

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        with self._writing.connect() as connection, connection.begin():
            yield connection

    def _busy(self) -> LedgerError:
        return LedgerError(f"The ledger {self.name} is too busy: a write waited {WAIT_SECONDS:.0f} s for its turn.")

    def problem(self, error: Exception) -> str:
        """What SQLite's error code means."""
        original = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(original, sqlite3.Error):
            code = getattr(original, "sqlite_errorcode", None)
            # The lower byte is the error, the rest says more about it.
            return _PROBLEMS.get(code & 0xFF, OTHER) if isinstance(code, int) else OTHER
        return OTHER

    def clock(self) -> MachineClock:
        """The machine's: all who share a file are on it."""
        return MachineClock()

    def lost_at(self, now: datetime) -> datetime:
        """Now: a file is never away."""
        return now

    def leads(self) -> bool:
        """Whether this process has the lock beside the file; without a file it is alone."""
        return not self._read_only and self._leader.hold()

    def resign(self) -> None:
        """Let another lead."""
        self._leader.release()

    def tell(self) -> None:
        """Nobody can be told: processes on one file look for work now and then."""

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Nobody tells."""

    def close(self) -> None:
        """Close the connections, and lead no more."""
        self._leader.release()
        self._engine.dispose()


def path_of(url: URL) -> Path:
    """The file that a URL names. Raises LedgerError."""
    if url.host or url.query or not url.database or url.database.startswith((":memory:", "file:")):
        shown = url.render_as_string(hide_password=True)
        raise LedgerError(f"The ledger {shown} does not name a file; write it like {EXAMPLE}.")
    return Path(url.database)


def holds_something(path: Path) -> bool:
    """Whether there is a file with something in it. Raises OSError where nobody can say."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
    return status.st_size > 0


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _engine(path: Path | None, *, read_only: bool) -> Engine:
    # Of a file that nobody has open SQLite makes a log while it is read, and takes it away only where it may write.
    mode = "rwc" if not read_only else "ro" if path and _log_of(path).exists() else "rw"
    target = f"{path.resolve().as_uri()}?mode={mode}" if path else ":memory:"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            target,
            uri=path is not None,
            timeout=WAIT_SECONDS,
            isolation_level=None,  # transactions begin where we say so, not where the driver guesses
            check_same_thread=False,
        )
        try:
            if path is not None and not read_only:
                _enable_wal(connection)
            if read_only:
                connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA cache_size = -16384")  # KiB
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        # A database in memory belongs to its connection: there can be but one.
        pool_size=MAXIMUM_CONNECTIONS if path else 1,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        hide_parameters=True,
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

    return engine


def _log_of(path: Path) -> Path:
    """The write-ahead log of a file, which is there while somebody has it open."""
    return path.with_name(f"{path.name}-wal")


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; it stays with the file.

    Where two processes create a ledger at the same moment, SQLite gives up on this at once instead of waiting.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
