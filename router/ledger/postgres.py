"""The ledger in PostgreSQL: its URL, its connections, the locks that writers hold.

A writer holds an advisory lock, alone or, beside others on other rows, shared; it goes with its transaction. All that
is read and written otherwise is the same SQL as in SQLite.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import QueuePool

from router.domain.replicas import LOST_SECONDS
from router.errors import LedgerError
from router.ledger.backend import MAXIMUM_CONNECTIONS, WAIT_SECONDS
from router.ledger.clock import DatabaseClock, uptime
from router.ledger.postgres_words import is_gone, problem
from router.ledger.sessions import Leader, Listener

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.types.string import StrDumper

    from router.ledger.patient import PatientConnection
except ImportError:  # an optional part of the installation
    DriverError: type[Exception] = type("DriverError", (Exception,), {})
    _INSTALLED = False
else:
    DriverError = psycopg.Error
    _INSTALLED = True

EXAMPLE = "postgresql://router@database.example/dicom_router"
_NO_URL = (
    f"`router.ledger` is not a URL of PostgreSQL; write it like {EXAMPLE}, characters such as @ / : ? # % in user or "
    "password percent-encoded (@ as %40, / as %2F)."
)
OLDEST = 14
"""The oldest version of PostgreSQL that will do: it ends sessions that are idle, so that a leader who hangs is none."""

_SCHEMES = ("postgresql://", "postgres://", "postgresql+psycopg://")
_WRITERS = 0x6469636F6D5277
"""The advisory lock of writers; any number that no other program uses on this database."""

_TIMEOUTS = "-c lock_timeout=10s -c statement_timeout=30s -c idle_in_transaction_session_timeout=25s -c timezone=UTC"
_DEFAULTS: Mapping[str, Any] = {
    "connect_timeout": 10,  # of each host
    # A host that is gone is noticed although nothing says so: within half a minute.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
ANSWER_SECONDS = 40.0
"""A database that says nothing for so long hangs: it would have ended the statement itself before."""
BEGIN_SECONDS = 15.0
"""The same as a transaction begins: it would have given up the wait for the writers' lock."""
_SLOW_SECONDS = 3.0
"""Who refuses to let somebody in does so sooner; one that takes longer hangs, or is not to be reached."""
_PAUSE_SECONDS = 5.0
"""So long nobody else waits for one that hangs: many who wait in turn would take minutes."""
_LONG = (
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '5min';"
    "SET LOCAL idle_in_transaction_session_timeout = 0;"
)
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
_WRITE = "BEGIN;"
_ALONE = f"SELECT pg_advisory_xact_lock({_WRITERS});"
_BESIDE = f"SELECT pg_advisory_xact_lock_shared({_WRITERS});"
_TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_ABOUT = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8"
_TELL = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
_TELL_SECONDS = 0.1
"""So often at most others are told: PostgreSQL lets one transaction at a time commit that tells something."""


def is_ours(url: str) -> bool:
    """Whether a URL names a database of PostgreSQL."""
    return url.startswith(_SCHEMES)


class PostgresBackend:
    """A database of PostgreSQL; thread-safe, and safe between machines.

    Raises LedgerError where the URL is wrong or the driver is not installed; connects when it is used first.
    """

    def __init__(self, url: str, *, read_only: bool) -> None:
        self.path: Path | None = None
        self._parameters = _parameters(url, read_only)
        self.name = _name(self._parameters)
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=MAXIMUM_CONNECTIONS,
            max_overflow=0,
            pool_timeout=WAIT_SECONDS,
            pool_use_lifo=True,
            use_native_hstore=False,
            hide_parameters=True,
        )
        self._clock = DatabaseClock(self._compare)
        self._away = False
        self._silent: tuple[float, str] | None = None
        self._grace_until = 0.0
        self._leader = Leader(self.connect_alone)
        self._token = secrets.token_hex(8)
        self._telling = threading.Lock()
        self._told_at = 0.0
        self._untold = False

    def check(self) -> None:
        """Whatever there is to find out the next transaction finds out."""

    @contextmanager
    def read(self, *, long: bool = False) -> Iterator[Connection]:
        """A transaction that sees one state of the database and is not let change it."""
        with self._transaction(_READ, long=long) as connection:
            yield connection

    @contextmanager
    def write(self, *, beside: bool = False, long: bool = False) -> Iterator[Connection]:
        """A transaction that holds the writers' lock: alone, or `beside` others.

        Each statement sees what was committed before it. Who waits for the lock alone is not passed by any who come
        later, so that he never waits for long.
        """
        with self._transaction(_WRITE, _BESIDE if beside else _ALONE, long=long) as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str, lock: str = "", *, long: bool) -> Iterator[Connection]:
        said = begin + (_LONG if long else "") + lock
        with self._begun(said, None if long else BEGIN_SECONDS) as connection, connection.begin():
            _raw(connection).patience = None if long else ANSWER_SECONDS
            yield connection

    def _begun(self, begin: str, patience: float | None) -> Connection:
        """A connection that has said this. One that died since it was used last is replaced, once."""
        while True:
            fresh = self._away
            connection = self._engine.connect()
            try:
                _raw(connection).patience = patience
                self._say(connection, begin)
            except BaseException as error:
                gone = isinstance(error, DriverError) and (_raw(connection).closed or is_gone(error))
                if gone:
                    connection.invalidate()
                connection.close()
                if fresh or not gone:
                    raise
                # Those that rest in the pool have died with it.
                self._engine.dispose()
                self._away = True
                continue
            if self._away:
                self._away = False
                self._grace_until = max(self._grace_until, uptime() + LOST_SECONDS)
            return connection

    def _say(self, connection: Connection, begin: str) -> None:
        # By the driver itself, in one round trip; the time is asked for along the way where it is due.
        raw = _raw(connection)
        if not self._clock.is_old(1.0):
            raw.execute(begin, prepare=False)
            return
        cursor = raw.execute(begin, prepare=False)
        self._ask_time(raw)
        cursor.close()

    def _ask_time(self, raw: Any) -> None:
        before = uptime()
        microseconds = raw.execute(_TIME).fetchone()[0]
        self._clock.compare(microseconds, before, uptime())

    def _compare(self) -> None:
        try:
            with self.read():
                pass  # asks for the time, as it is old
        except (DBAPIError, DriverError, NoConnection, LedgerError):
            return

    def _connect(self) -> Any:
        silent, began = self._silent, uptime()
        if silent is not None and began < silent[0]:
            raise psycopg.OperationalError(silent[1])
        try:
            raw = self._open({})
        except DriverError as error:
            self._away = True
            if uptime() - began > _SLOW_SECONDS:
                self._silent = uptime() + _PAUSE_SECONDS, str(error)
            raise
        self._silent = None
        raw.unanswered = self._unanswered
        age: float = raw.execute(_ABOUT).fetchone()[0]
        self._grace_until = max(self._grace_until, uptime() + LOST_SECONDS - age)
        return raw

    def _unanswered(self) -> None:
        self._away = True

    def connect_alone(self, **changes: Any) -> Any:
        """A connection of the driver beside the pool's; with `options` these are said as well. Raises DriverError."""
        return self._open(changes)

    def _open(self, changes: Mapping[str, Any]) -> Any:
        parameters = {**self._parameters, **changes}
        parameters["options"] = f"{self._parameters['options']} {changes.get('options', '')}".strip()
        raw = PatientConnection.connect(**parameters, autocommit=True)
        raw.patience = BEGIN_SECONDS
        version = raw.info.server_version // 10_000
        if version < OLDEST:
            raw.close()
            raise LedgerError(
                f"The ledger {self.name} is on PostgreSQL {version}; version {OLDEST} or newer is needed: upgrade it."
            )
        raw.adapters.register_dumper(str, _Text)
        return raw

    def problem(self, error: Exception) -> str:
        """What the error's SQLSTATE means, or what the driver says of a connection that did not come about."""
        if isinstance(error, NoConnection):
            return f"is too busy: all {MAXIMUM_CONNECTIONS} connections were in use for {WAIT_SECONDS:.0f} s"
        return problem(error.orig if isinstance(error, DBAPIError) and error.orig is not None else error)

    def clock(self) -> DatabaseClock:
        """The database's time."""
        return self._clock

    def lost_at(self, now: datetime) -> datetime:
        """Now; but nothing is lost for a while after the database was away: nobody could prolong a lease."""
        return now if uptime() >= self._grace_until else datetime(1970, 1, 1, tzinfo=UTC)

    def leads(self) -> bool:
        """Whether this process has the leader's lock."""
        return self._leader.hold()

    def resign(self) -> None:
        """Let another lead."""
        self._leader.release()

    def tell(self) -> None:
        """Tell the others, a few times a second at most; what comes between is told by the one who listens."""
        with self._telling:
            self._untold = uptime() - self._told_at < _TELL_SECONDS
            if self._untold:
                return
            self._told_at = uptime()
        self._notify()

    def _notify(self) -> None:
        try:
            with self._engine.connect() as connection:
                _raw(connection).patience = BEGIN_SECONDS
                _raw(connection).execute(_TELL, (Listener.CHANNEL, self._token))
        except (DBAPIError, DriverError, NoConnection, LedgerError):
            return  # they look for work now and then as well

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Call `wake` whenever another process tells, and when it could not be heard for a while."""

        def flush() -> None:
            if self._untold:
                self.tell()

        Listener(self.connect_alone, self._token).listen(wake, flush, stopping)

    def close(self) -> None:
        """Close the connections, and lead no more."""
        self._leader.release()
        if self._untold and not self._away:
            self._notify()
        self._engine.dispose()


def _raw(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _parameters(url: str, read_only: bool) -> dict[str, Any]:
    """What the driver is to know; a URL as libpq has it, with several hosts too. Raises LedgerError."""
    if not _INSTALLED:
        raise LedgerError(
            "The ledger is in PostgreSQL, and the driver for that is not installed; install it where the router is: "
            "pip install 'psycopg[binary]>=3.2' (in the source directory also: pip install '.[postgresql]')."
        )
    _, rest = url.split("://", 1)
    try:
        given = conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.Error:
        raise LedgerError(_NO_URL) from None
    # The library takes what stands before an unencoded `/` for the host: it would send a password there, and name it.
    authority, _, path = rest.partition("?")[0].partition("/")
    if "@" in path or authority.count("@") > 1:
        raise LedgerError(_NO_URL)
    if not given.get("dbname") and not given.get("service"):
        raise LedgerError(f"The ledger {_name(given)} does not name a database; write it like {EXAMPLE}.")
    several = "," in str(given.get("host") or given.get("hostaddr") or "")
    wanted = {"target_session_attrs": "read-write"} if several and not read_only else {}
    parameters = {**_DEFAULTS, **wanted, "application_name": "dicom-router", **given, "client_encoding": "UTF8"}
    parameters["options"] = f"{_TIMEOUTS} {given.get('options') or ''}".strip()
    return parameters


def _name(parameters: Mapping[str, Any]) -> str:
    """How messages call a database: as a URL without password."""
    user = f"{parameters['user']}@" if parameters.get("user") else ""
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "").split(",")
    ports = str(parameters.get("port") or "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    return f"postgresql://{user}{places}/{parameters.get('dbname') or ''}"


if _INSTALLED:

    class _Text(StrDumper):
        """Texts as they are, but for the NUL character, which PostgreSQL cannot hold."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)
