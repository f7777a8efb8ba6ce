"""Connections, transactions and what can go wrong with them. All that differs between databases lives here.

Every error of the database leaves as a LedgerError with one sentence: which ledger, what happened, what to do. The
database's own text stays behind, because it may quote the values of the statement.
"""

from __future__ import annotations

import errno
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from router.errors import LedgerError, LedgerMissing
from router.ledger.migrations import VERSION, UnusableTablesError, migrate, refuse_newer, stored_version

_Value = TypeVar("_Value")

MAXIMUM_CONNECTIONS = 5
WAIT_SECONDS = 30.0
"""How long a caller waits for its turn to write, for a connection, or for another process."""

_EXAMPLE = "sqlite:///./data/ledger.db"
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
_OTHER = "could not be read or written"


class Database:
    """One database with a bounded number of connections; thread-safe. Writers take turns.

    `name` is how messages call it: without its password.
    """

    def __init__(self, engine: Engine, name: str, *, read_only: bool, path: Path | None = None) -> None:
        self._engine = engine
        self.path = path
        """The file it lives in; None where it has none."""
        self._writing = engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        self._turn = threading.Lock()
        self._name = name
        self._read_only = read_only
        self._closed = False
        self._file: tuple[int, int] | None = None
        """Which file it is: what is written after somebody deleted or replaced it would be lost."""

    @property
    def name(self) -> str:
        """How messages call it: without its password."""
        return self._name

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written to it."""
        return self._read_only

    @classmethod
    def open(cls, url: str, *, create: bool, read_only: bool) -> Database:
        """Open a database and bring its tables up to date. Raises LedgerError, LedgerMissing without `create`.

        Read-only, one that does not exist is like an empty one, and no file comes into being.
        """
        parsed = _parse(url)
        path = Path(parsed.database or "")
        name = str(path)
        try:
            name = str(path.absolute())
            exists = _holds_something(path)
            if not exists and not create:
                raise _missing(name)
            if read_only and not exists:
                return cls.in_memory(name, read_only=True)
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"The ledger {name} cannot be opened ({error.strerror}); check its path and permissions."
            ) from None
        self = cls(_sqlite_engine(path, read_only=read_only), name, read_only=read_only, path=path)
        if self._prepare():
            if not read_only:
                self._file = _identity(path)
            return self
        self.close()
        if not create:
            raise _missing(name)
        return cls.in_memory(name, read_only=True)

    @classmethod
    def in_memory(cls, name: str = "in memory", *, read_only: bool = False) -> Database:
        """An empty database that vanishes with the process."""
        self = cls(_sqlite_engine(None, read_only=False), name, read_only=False)
        self._prepare()
        self._read_only = read_only
        return self

    def _prepare(self) -> bool:
        """Bring the tables up to date, or look at them where only reading. False where there are none to read."""
        try:
            if not self._read_only:
                with self.write() as connection:
                    migrate(connection)
                return True
            with self.read() as connection:
                version = stored_version(connection)
                refuse_newer(version)
                if 0 < version < VERSION:
                    raise UnusableTablesError("is of an older version; start the router once to bring it up to date")
                return version > 0
        except LedgerError:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing. Raises LedgerError."""
        with self._translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the right to write from its start. Raises LedgerError."""
        if self._read_only:
            raise LedgerError(f"The ledger {self._name} is open for reading only.")
        # Taking turns in the process is fair and quick; SQLite's own waiting polls and may starve a thread.
        if not self._turn.acquire(timeout=WAIT_SECONDS):
            raise LedgerError(f"The ledger {self._name} is too busy: a write waited {WAIT_SECONDS:.0f} s for its turn.")
        try:
            with self._translated(), self._writing.connect() as connection, connection.begin():
                yield connection
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close the connections; nothing works any more afterwards."""
        self._closed = True
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self._closed:
            raise LedgerError(f"The ledger {self._name} is closed.")
        if self._file is not None and self.path is not None and _identity(self.path) != self._file:
            raise LedgerError(
                f"The ledger {self._name} was moved, deleted or replaced while it was in use; restart the router."
            )
        try:
            yield
        except UnusableTablesError as error:
            raise LedgerError(f"The ledger {self._name} {error}.") from None
        except (SQLAlchemyError, sqlite3.Error, UnicodeError, OverflowError) as error:
            raise LedgerError(f"The ledger {self._name} {_problem(error)}.") from None


def chunks(values: Iterable[_Value], size: int) -> Iterator[list[_Value]]:
    """The values, each once, in lists of at most this size: a statement takes only so many parameters."""
    unique = list(dict.fromkeys(values))
    for start in range(0, len(unique), size):
        yield unique[start : start + size]


def insert_or(table: Table, connection: Connection) -> Any:
    """An INSERT that can say what happens on conflict; the two databases share the words but not the class."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _holds_something(path: Path) -> bool:
    """Whether there is a file with something in it. Raises OSError where nobody can say."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
    return status.st_size > 0


def _missing(name: str) -> LedgerMissing:
    return LedgerMissing(f"There is no ledger at {name} yet; relative paths start at the working directory.")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise LedgerError(f"`router.ledger` is not a database URL; write it like {_EXAMPLE}.") from None
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite"}:
        raise LedgerError(
            f"The ledger {shown} cannot be used: this version keeps its ledger in SQLite; write it like {_EXAMPLE}."
        )
    if parsed.host or parsed.query or not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise LedgerError(f"The ledger {shown} does not name a file; write it like {_EXAMPLE}.")
    return parsed


def _sqlite_engine(path: Path | None, *, read_only: bool) -> Engine:
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


def _problem(error: Exception) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", None)
        # The lower byte is the error, the rest says more about it.
        return _PROBLEMS.get(code & 0xFF, _OTHER) if isinstance(code, int) else _OTHER
    if isinstance(original, (UnicodeError, OverflowError)):
        return "cannot hold a value: it is not valid text, or too large a number"
    return _OTHER
