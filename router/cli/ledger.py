"""`ledger`: the whole ledger out into a file, in from one, and how it stands as a database."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from router import __version__
from router.cli.render import counted, new_table
from router.cli.settings import (
    interruptible,
    load_rules,
    plain,
    print_json,
    progress_terminal,
    say,
    settings_of,
    terminal,
)
from router.cli.store_text import byte_count
from router.domain.ledger_state import LedgerState, MovedTable
from router.domain.replicas import is_silent, leader
from router.service import open_ledger

_LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""

_file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))


@click.group(short_help="The ledger as a whole: export, import, status.")
def ledger() -> None:
    """Take the ledger from one database to another, such as from SQLite to PostgreSQL; see how large it is."""


@ledger.command("export", short_help="Write all of the ledger to a file, whatever database it is on.")
@_file
@click.option("--force", is_flag=True, help="Replace the file where it is there already.")
@click.pass_context
def export(ctx: click.Context, file: Path, force: bool) -> int:
    """Write all of the ledger to FILE, as it is at this moment: compressed, with a checksum, for its owner only.

    Services may go on meanwhile; what they do after this moment is not in the file. To move to another database stop
    them first, export, change router.ledger, import, and start them again.
    """
    settings = settings_of(ctx)
    with open_ledger(load_rules(settings), read_only=True, create=False) as opened, interruptible(), _Shown() as shown:
        done = opened.export_to(file, force=force, made_by=f"dicom-router {__version__}", progress=shown.show)
    size = file.stat().st_size
    if settings.json:
        print_json(
            {
                "file": str(file),
                "bytes": size,
                "made_at": done.at,
                "services": done.services,
                "rows": _rows(done.tables),
            }
        )
        return 0
    out = terminal()
    out.print(plain(f"Exported {_amount(done.tables)} to {file} ({byte_count(size)})."), soft_wrap=True)
    if done.services:
        whose = "A service runs" if done.services == 1 else f"{done.services} services run"
        at = f"{done.at.astimezone():%Y-%m-%d %H:%M:%S}"
        out.print(f"{whose} on this ledger: what happened after {at} is not in the file.", soft_wrap=True)
    return 0


@ledger.command("import", short_help="Fill an empty ledger from such a file.")
@_file
@click.pass_context
def import_(ctx: click.Context, file: Path) -> int:
    """Fill the ledger of the configuration from FILE, with all of it or nothing. It must be empty, and not in use.

    Who worked when the file was made holds nothing any more: what a move had done is looked up before it is repeated.
    """
    settings = settings_of(ctx)
    with open_ledger(load_rules(settings)) as opened, interruptible(), _Shown() as shown:
        moved = opened.import_from(file, progress=shown.show)
    if settings.json:
        print_json({"file": str(file), "rows": _rows(moved)})
    else:
        terminal().print(plain(f"Imported {_amount(moved)} from {file}."), soft_wrap=True)
    return 0


@ledger.command("status", short_help="Its database, size, rows; who works on it; the oldest work.")
@click.pass_context
def status(ctx: click.Context) -> int:
    """What the ledger is kept in, how large it is, who works on it, and since when its oldest work waits."""
    settings = settings_of(ctx)
    with open_ledger(load_rules(settings), read_only=True, create=False) as opened:
        state, now = opened.census(), opened.clock().now()
    if settings.json:
        print_json(_state_row(state, now))
    else:
        _print_state(state, now)
    return 0


def _print_state(state: LedgerState, now: datetime) -> None:
    out = terminal()
    out.print(plain(f"{state.name}: {state.database}, version {state.version}, {byte_count(state.size)}."))
    if state.oldest_queued_at is not None:
        since = f"; the oldest of what waits was queued {state.oldest_queued_at.astimezone():%Y-%m-%d %H:%M:%S}"
    else:
        since = ""
    out.print(f"{counted(state.open_transfers, 'transfer')} not ended{since}.")
    if not state.services:
        out.print("No service runs on it.")
    leads = leader(state.services)
    for one in state.services:
        role = ", leads" if one is leads else ""
        silent = f", silent for {(now - one.seen_at).total_seconds():.0f} s" if is_silent(one, now) else ""
        seen = f"seen {one.seen_at.astimezone():%H:%M:%S}"
        out.print(plain(f"Service {one.replica or one.owner} at {one.address or '(no HTTP)'}, {seen}{silent}{role}."))
    table = new_table("table", "rows")
    for size in state.tables:
        table.add_row(size.name, f"{size.rows:,}" if size.exact else f"about {size.rows:,} or more")
    out.print(table)


def _state_row(state: LedgerState, now: datetime) -> dict[str, Any]:
    leads = leader(state.services)
    return {
        "ledger": state.name,
        "database": state.database,
        "version": state.version,
        "bytes": state.size,
        "open_transfers": state.open_transfers,
        "oldest_queued_at": state.oldest_queued_at,
        "leader": (leads.replica or leads.owner) if leads is not None else None,
        "services": [
            {
                "replica": one.replica,
                "address": one.address,
                "seen_at": one.seen_at,
                "silent": is_silent(one, now),
                "leads": one is leads,
            }
            for one in state.services
        ],
        "tables": [{"table": one.name, "rows": one.rows, "exact": one.exact} for one in state.tables],
    }


def _rows(moved: tuple[MovedTable, ...]) -> dict[str, int]:
    return {one.name: one.rows for one in moved}


def _amount(moved: tuple[MovedTable, ...]) -> str:
    rows = _rows(moved)
    transfers = rows.get("transfers", 0) + rows.get("history", 0)
    return (
        f"{counted(transfers, 'transfer')}, {counted(rows.get('receipts', 0), 'receipt')} and all that belongs to them"
    )


class _Shown:
    """How far it is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._console = progress_terminal()
        self._bar: Progress | None = None
        self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, table: str, done: int, rows: int) -> None:
        """So many of a table's rows are done."""
        if self._bar is not None:
            for task in self._bar.task_ids if done == 0 else ():
                self._bar.remove_task(task)
            if not self._bar.task_ids:
                self._bar.add_task(table, total=rows)
            self._bar.update(self._bar.task_ids[0], description=table, completed=done, total=rows)
        elif time.monotonic() - self._told_at >= _LINE_SECONDS:
            self._told_at = time.monotonic()
            say(f"{table}: {done:,} of {rows:,} rows.")
