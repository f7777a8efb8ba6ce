"""What the ledger needs of a database: transactions, a clock, a leader, and words for what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

MAXIMUM_CONNECTIONS = 5
"""Connections of one process to the database, those that lead and listen aside."""

WAIT_SECONDS = 30.0
"""How long a caller waits for its turn to write, for a connection, or for another process."""


class Time(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """The time, aware, UTC."""


class Backend(Protocol):
    """One database with a bounded number of connections; thread-safe.

    Its transactions raise what the driver raises; `problem` says it in words.
    """

    name: str
    """How messages call it: without its password."""

    path: Path | None
    """The file it lives in; None where it has none."""

    def check(self) -> None:
        """Raise LedgerError where the database is not what it was when it was opened."""

    def read(self, *, long: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the database and changes nothing; `long`: for as long as it takes."""

    def write(self, *, beside: bool = False, long: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that holds the right to write from its start.

        Nothing else writes meanwhile; with `beside` others may that say so too, on other rows.
        """

    def problem(self, error: Exception) -> str:
        """What happened and what to do, as the end of a sentence about the ledger; without any value or password."""

    def clock(self) -> Time:
        """The time that all who share this database share."""

    def lost_at(self, now: datetime) -> datetime:
        """Leases that ran out by then count as lost: `now`, or nothing yet where the database was away itself."""

    def leads(self) -> bool:
        """Whether this process leads those that share the database; it tries to, and is asked every few seconds."""

    def resign(self) -> None:
        """Lead no more, so that another process may at once. Raises nothing."""

    def tell(self) -> None:
        """Tell the other processes that work is due; soon, if not at once. Raises nothing."""

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Call `wake` whenever another process tells, until stopping. Returns at once where nobody can tell."""

    def close(self) -> None:
        """Close the connections."""
