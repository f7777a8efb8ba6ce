"""What a running service uses: CPU, memory, descriptors, threads, writes and the size of its ledger. Linux only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.support.postgres import PostgresServer

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """Of a process and all that it started, at a moment; sizes in bytes."""

    cpu_seconds: float
    resident: int
    descriptors: int
    threads: int
    written: int
    """Bytes that were given to the disk."""


def usage(pid: int) -> Usage:
    """Of a process and its descendants."""
    found = [_of(one) for one in (pid, *descendants(pid))]
    return Usage(
        cpu_seconds=sum(one.cpu_seconds for one in found),
        resident=sum(one.resident for one in found),
        descriptors=sum(one.descriptors for one in found),
        threads=sum(one.threads for one in found),
        written=sum(one.written for one in found),
    )


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those started by them."""
    found: list[int] = []
    for task in (_PROC / str(pid) / "task").iterdir():
        for child in map(int, _read(task / "children").split()):
            found += [child, *descendants(child)]
    return found


def _of(pid: int) -> Usage:
    directory = _PROC / str(pid)
    # The command's name, in brackets, may hold spaces. Fields after it from the third on, proc(5).
    fields = _read(directory / "stat").rpartition(")")[2].split()
    written = [line for line in _read(directory / "io").splitlines() if line.startswith("write_bytes")]
    try:
        descriptors = len(list((directory / "fd").iterdir()))
    except OSError:
        descriptors = 0
    return Usage(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0,
        resident=int(fields[21]) * os.sysconf("SC_PAGE_SIZE") if fields else 0,
        descriptors=descriptors,
        threads=int(fields[17]) if fields else 0,
        written=int(written[0].split()[1]) if written else 0,
    )


def _read(path: Path) -> str:
    """What stands there; nothing where the process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


Size = Callable[[], int]


def sqlite_size(path: Path) -> Size:
    """Of a SQLite ledger: its pages, wherever they stand at the moment, in the file or in its write-ahead log."""

    def size() -> int:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60.0)) as connection:
            pages, free, each = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
            return (pages - free) * each

    return size


@contextlib.contextmanager
def postgresql(server: PostgresServer) -> Iterator[tuple[str, Size]]:
    """A new database of a server: its URL, and how big it is."""
    with server.database() as url, psycopg.connect(url, autocommit=True) as connection:

        def size() -> int:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            return int(row[0]) if row else 0

        yield url, size


@contextlib.contextmanager
def postgresql_server() -> Iterator[PostgresServer]:
    """A server of its own that keeps what is committed."""
    server = PostgresServer(durable=True)
    try:
        server.start()
        yield server
    finally:
        server.end()
