"""A PostgreSQL server of the tests' own: started when it is asked for first, ended with the tests; a database for each.

It keeps nothing safe (no fsync): a test that ends the server by force asks for a durable one of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg

from router.ledger.ledger import SqlLedger
from router.ledger.migrations import VERSION
from tests.support.ports import free_port
from tests.support.process import READY_SECONDS

USER = "router"
_UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "log_min_messages": "warning",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}


def programs() -> Path:
    """The directory with the programs of the newest PostgreSQL that Debian has installed here."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert found, "PostgreSQL is not installed; scripts/peers.sh installs it"
    return found[-1].parent


def _as_its_user() -> list[str]:
    """PostgreSQL refuses to run as root; and it shall not outlive a test run that was killed."""
    ends_with_us = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() != 0:
        return ends_with_us
    return [*ends_with_us, "--reuid", "postgres", "--regid", "postgres", "--init-groups"]


class PostgresServer:
    """One server in a directory of its own on a port of its own; `durable`: what is committed outlives a crash."""

    def __init__(self, *, durable: bool = False, **settings: str) -> None:
        self.port = free_port()
        self._settings = {**_SETTINGS, **({} if durable else _UNSAFE), **settings}
        self.directory = Path(tempfile.mkdtemp(prefix="dicom-router-postgres-"))
        self._data = self.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        made = [programs() / "initdb", "-D", self._data, "-U", USER, "-A", "trust", "--no-sync"]
        subprocess.run(
            [*_as_its_user(), *map(str, made), "--no-locale", "--encoding=UTF8"],
            cwd=self.directory,
            check=True,
            capture_output=True,
            timeout=READY_SECONDS,
        )
        atexit.register(self.end)

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.directory / "log"

    def url(self, database: str = "postgres", user: str = USER) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it lets somebody in."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        command = [*_as_its_user(), str(programs() / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(self.log.read_text(encoding="utf-8", errors="replace")[-4000:]) from None
                time.sleep(0.05)
            else:
                return

    def stop(self, *, immediately: bool = False) -> None:
        """Stop it: with a last checkpoint, or as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            self._process.wait(READY_SECONDS)
            self._process = None

    def pause(self) -> None:
        """Make it hang: it accepts connections, and says nothing."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, check=False)
        for pid in (self._process.pid, *map(int, found.stdout.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """Stop it for good and remove what it wrote."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop(immediately=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def do(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Say something to it, as its owner; the rows it answers."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The URL of a fresh database that is like this one; it is gone afterwards, with all connections to it."""
        name = f"test_{next(self._numbers)}"
        self.create(name, template)
        try:
            yield self.url(name)
        finally:
            self.drop(name)

    def create(self, name: str, template: str = "template0") -> None:
        """Create a database like another."""
        self.do(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        self.do(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@functools.cache
def server() -> PostgresServer:
    """The server that the tests of this process share."""
    started = PostgresServer()
    started.start()
    return started


_EMPTY = """
DO $$
DECLARE one record;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    SET LOCAL session_replication_role = replica;  -- neither triggers nor foreign keys
    FOR one IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DELETE FROM %I', one.tablename);
    END LOOP;
    INSERT INTO meta (name, value) VALUES ('schema_version', '{version}');
    PERFORM setval(sequencename::regclass, 1, false) FROM pg_sequences;
END $$
"""
_unused: list[str] = []


@contextlib.contextmanager
def ledger_database() -> Iterator[str]:
    """The URL of a database with an empty ledger. It is emptied again afterwards, which is quicker than to make one."""
    if not _unused:
        name = f"ledger_{time.monotonic_ns()}"
        server().create(name)
        SqlLedger.open(server().url(name)).close()
        _unused.append(name)
    name = _unused.pop()
    yield server().url(name)
    try:
        server().do(_EMPTY.replace("{version}", str(VERSION)), name)
    except psycopg.Error:  # a test has done something else to it
        server().drop(name)
    else:
        _unused.append(name)
