"""Connections to PostgreSQL that stand for something while they last: the leader's, and the one that listens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from router.errors import LedgerError
from router.ledger.clock import uptime

try:
    from psycopg import Error as DriverError
except ImportError:  # an optional part of the installation
    DriverError = OSError  # type: ignore[assignment,misc]

_LEADER = 0x6469636F6D4C64
"""The advisory lock of the leader; any number that no other program uses on this database."""

SILENT_SECONDS = 15
"""A leader that says nothing for so long hangs, or is cut off: the database lets another lead."""

ANSWER_SECONDS = 10.0
"""A database that says nothing to these for so long hangs; its own timeout of 5 s has not helped."""
_RELEASE_SECONDS = 2.0

_QUICK = {"connect_timeout": 5, "tcp_user_timeout": 8_000, "keepalives_idle": 4, "keepalives_interval": 2}
_LEADING = f"-c idle_session_timeout={SILENT_SECONDS}s -c statement_timeout=5s -c lock_timeout=5s"
_AGAIN_SECONDS = (1.0, 2.0, 5.0, 10.0)
_LOOK_SECONDS = 0.25
_PAUSE_SECONDS = 0.05
"""After a word of others: what more they say meanwhile is heard as one, however many they are."""

Connect = Callable[..., Any]
"""Opens a connection of the driver with these changes to what it is to know."""


class Leader:
    """The lock that one process holds and that goes with its connection; thread-safe."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._turn = threading.Lock()
        self._connection: Any = None
        self._holds = False
        self._released = 0

    def hold(self) -> bool:
        """Take it where it is free. Whether it is held, as far as the database says so."""
        with self._turn:
            released = self._released
            try:
                if self._connection is None:
                    self._connection = self._connect(options=_LEADING, **_QUICK)
                    self._connection.patience = ANSWER_SECONDS
                asked = uptime()
                if self._holds:
                    self._connection.execute("SELECT 1")
                else:
                    tried = self._connection.execute(f"SELECT pg_try_advisory_lock({_LEADER})")
                    self._holds = bool(tried.fetchone()[0])
                # An answer that took so long may be of before the session was ended.
                if uptime() - asked > SILENT_SECONDS:
                    self._let_go()
            except (DriverError, LedgerError):
                self._let_go()
            if self._released != released:  # meanwhile, by one who could not wait
                self._let_go()
            return self._holds

    def release(self) -> None:
        """Let go; where the database is being waited for, as soon as it answers or is given up."""
        self._released += 1
        if not self._turn.acquire(timeout=_RELEASE_SECONDS):
            self._released += 1  # who holds the turn now has begun before this
            if not self._turn.acquire(blocking=False):
                return
        try:
            self._let_go()
        finally:
            self._turn.release()

    def _let_go(self) -> None:
        self._holds = False
        if self._connection is not None:
            with contextlib.suppress(DriverError):
                self._connection.close()
            self._connection = None


class Listener:
    """Hears when another process tells that work is due."""

    CHANNEL = "dicom_router"

    def __init__(self, connect: Connect, token: str) -> None:
        self._connect = connect
        self._token = token
        """What this process itself tells by: it need not hear that."""

    def listen(self, wake: Callable[[], None], flush: Callable[[], None], stopping: threading.Event) -> None:
        """Call `wake` when others tell, at most so many times a second, and `flush` several times, until stopping.

        What was told while the database could not be heard is unknown: `wake` is called when it can be again.
        """
        failed = 0
        while not stopping.is_set():
            try:
                with self._connect() as connection:
                    connection.patience = ANSWER_SECONDS
                    connection.execute(f"LISTEN {self.CHANNEL}")
                    if failed:
                        wake()
                    failed = 0
                    self._hear(connection, wake, flush, stopping)
            except (DriverError, LedgerError):
                stopping.wait(_AGAIN_SECONDS[min(failed, len(_AGAIN_SECONDS) - 1)])
                failed += 1

    def _hear(
        self, connection: Any, wake: Callable[[], None], flush: Callable[[], None], stopping: threading.Event
    ) -> None:
        while not stopping.is_set():
            told = list(connection.notifies(timeout=_LOOK_SECONDS, stop_after=1))
            if any(one.payload != self._token for one in told):
                wake()
                stopping.wait(_PAUSE_SECONDS)
            flush()
