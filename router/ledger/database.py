"""The ledger's database as its queries see it: transactions, whatever database it is, and its errors in words.

Every error of the database leaves as a LedgerError with one sentence: which ledger, what happened, what to do. The
database's own text stays behind, because it may quote the values of the statement. What differs between databases
lives in `sqlite.py`, `postgres.py` and `dialects.py`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from router.errors import LedgerError, LedgerMissing
from router.ledger import postgres
from router.ledger.backend import MAXIMUM_CONNECTIONS as MAXIMUM_CONNECTIONS
from router.ledger.backend import Backend, Time
from router.ledger.dialects import chunks as chunks
from router.ledger.dialects import insert_or as insert_or
from router.ledger.migrations import VERSION, UnusableTablesError, migrate, refuse_newer, stored_version
from router.ledger.sqlite import EXAMPLE, SqliteBackend, holds_something, path_of


class Database:
    """One database with a bounded number of connections; thread-safe.

    `name` is how messages call it: without its password.
    """

    def __init__(self, backend: Backend, *, read_only: bool) -> None:
        self._backend = backend
        self._read_only = read_only
        self._closed = False

    @property
    def path(self) -> Path | None:
        """The file it lives in; None where it has none."""
        return self._backend.path

    @property
    def name(self) -> str:
        """How messages call it: without its password."""
        return self._backend.name

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written to it."""
        return self._read_only

    @classmethod
    def open(cls, url: str, *, create: bool, read_only: bool) -> Database:
        """Open a database and bring its tables up to date. Raises LedgerError, LedgerMissing without `create`.

        Read-only, one that does not exist is like an empty one, and nothing comes into being.
        """
        if postgres.is_ours(url):
            return cls._on_server(url, create=create, read_only=read_only)
        return cls._in_file(_file_of(url), create=create, read_only=read_only)

    @classmethod
    def _in_file(cls, path: Path, *, create: bool, read_only: bool) -> Database:
        name = str(path)
        try:
            name = str(path.absolute())
            exists = holds_something(path)
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
        backend = SqliteBackend(path, name, read_only=read_only)
        self = cls(backend, read_only=read_only)
        if self._prepare():
            if not read_only:
                backend.pin()
            return self
        self.close()
        if not create:
            raise _missing(name)
        return cls.in_memory(name, read_only=True)

    @classmethod
    def _on_server(cls, url: str, *, create: bool, read_only: bool) -> Database:
        backend = postgres.PostgresBackend(url, read_only=read_only)
        self = cls(backend, read_only=read_only)
        try:
            with self.read() as connection:
                version = stored_version(connection)
        except LedgerError:
            self.close()
            raise
        if version or (create and not read_only):
            # That of today is left alone: a command that looks in does not stand in a service's way.
            if version != VERSION or read_only:
                self._prepare()
            return self
        self.close()
        if not create:
            raise LedgerMissing(
                f"There is no ledger in {backend.name} yet; the first start makes it, "
                "or `dicom-router ledger import FILE` before it."
            )
        return cls.in_memory(backend.name, read_only=True)

    @classmethod
    def in_memory(cls, name: str = "in memory", *, read_only: bool = False) -> Database:
        """An empty database that vanishes with the process."""
        self = cls(SqliteBackend(None, name, read_only=False), read_only=False)
        self._prepare()
        self._read_only = read_only
        return self

    def _prepare(self) -> bool:
        """Bring the tables up to date, or look at them where only reading. False where there are none to read."""
        try:
            if not self._read_only:
                with self.write(long=True) as connection:
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
    def read(self, *, long: bool = False) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing. Raises LedgerError.

        `long`: it may take as long as it does, as an export may; all else ends after half a minute.
        """
        with self._translated(), self._backend.read(long=long) as connection:
            yield connection

    @contextmanager
    def write(self, *, beside: bool = False, long: bool = False) -> Iterator[Connection]:
        """A transaction that holds the right to write from its start: what it has read stays so. Raises LedgerError.

        `beside`: others that say so too may write at the same time. Each changes rows of its own: it picks them with
        FOR UPDATE, or changes them by conditions that hold for it alone.
        """
        if self._read_only:
            raise LedgerError(f"The ledger {self.name} is open for reading only.")
        with self._translated(), self._backend.write(beside=beside, long=long) as connection:
            yield connection

    def clock(self) -> Time:
        """The time that all who share the ledger share: leases and liveness are measured by it."""
        return self._backend.clock()

    def lost_at(self, now: datetime) -> datetime:
        """Leases that ran out by then count as lost: `now`, or nothing yet where the database was away itself.

        To be asked within a transaction: as it begins it is found out whether the database was away.
        """
        return self._backend.lost_at(now)

    def leads(self) -> bool:
        """Whether this process leads those that share the ledger. Raises nothing: who cannot know does not lead."""
        return not self._closed and not self._read_only and self._backend.leads()

    def resign(self) -> None:
        """Lead no more, so that another process may at once. Raises nothing."""
        self._backend.resign()

    def tell(self) -> None:
        """Tell the other processes that work is due. Raises nothing: they look for it now and then as well."""
        if not self._closed and not self._read_only:
            self._backend.tell()

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Call `wake` whenever another process tells that work is due, until stopping; for a thread of its own."""
        if not self._closed:
            self._backend.listen(wake, stopping)

    def close(self) -> None:
        """Close the connections; nothing works any more afterwards."""
        self._closed = True
        self._backend.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self._closed:
            raise LedgerError(f"The ledger {self.name} is closed.")
        self._backend.check()
        try:
            yield
        except UnusableTablesError as error:
            raise LedgerError(f"The ledger {self.name} {error}.") from None
        except (UnicodeError, OverflowError):
            problem = "cannot hold a value: it is not valid text, or too large a number"
            raise LedgerError(f"The ledger {self.name} {problem}.") from None
        except (SQLAlchemyError, sqlite3.Error, postgres.DriverError) as error:
            raise LedgerError(f"The ledger {self.name} {self._problem(error)}.") from None

    def _problem(self, error: Exception) -> str:
        original = getattr(error, "orig", error)
        if isinstance(original, (UnicodeError, OverflowError)):
            return "cannot hold a value: it is not valid text, or too large a number"
        return self._backend.problem(error)


def _missing(name: str) -> LedgerMissing:
    return LedgerMissing(f"There is no ledger at {name} yet; relative paths start at the working directory.")


def _file_of(url: str) -> Path:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise LedgerError(f"`router.ledger` is not a database URL; write it like {EXAMPLE}.") from None
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite"}:
        shown = parsed.render_as_string(hide_password=True)
        raise LedgerError(
            f"The ledger {shown} cannot be used: a ledger is kept in SQLite or PostgreSQL; "
            f"write it like {EXAMPLE} or {postgres.EXAMPLE}."
        )
    return path_of(parsed)
