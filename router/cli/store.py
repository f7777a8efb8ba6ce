"""`store`: what the object store holds, what may leave it, whether it is as it came, a copy. No file of it changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from router.auditing import Exports, exports_by_hand
from router.cli.leave import by_study
from router.cli.render import counted
from router.cli.settings import (
    interruptible,
    limit_option,
    load_rules,
    no_such,
    plain,
    print_json,
    progress_terminal,
    say,
    settings_of,
    terminal,
)
from router.cli.store_leaving import OFF, leaving_row, print_leaving
from router.cli.store_others import forget, replicas_of, say_elsewhere
from router.cli.store_text import (
    Faults,
    byte_count,
    exported_row,
    exported_study,
    exported_text,
    inspected_row,
    inspected_text,
    studies_table,
    study_row,
)
from router.domain.dicom import is_uid
from router.domain.pseudonym import Pseudonyms, is_pseudonym
from router.domain.rule import RuleSet
from router.domain.surroundings import Space
from router.errors import ConfigurationError, LedgerMissing, RouterError, UsageError
from router.exporting import Exported, Exporter
from router.inspection import Inspector
from router.keeping import foreseen
from router.ledger.ledger import SqlLedger
from router.service import SystemClock, open_ledger, site_pseudonyms
from router.stored_files import StoredFiles

_LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""
_DRAW_SECONDS = 0.1

_study = click.option(
    "--study",
    "studies",
    multiple=True,
    metavar="UID",
    help="Only this study: its UID, or its pseudonym in the log; may be repeated.",
)
_faults = limit_option("Name at most so many faults; all are counted.", default=1000, most=1_000_000)


@click.group(short_help="The object store: list, leaving, verify, export, forget.")
def store() -> None:
    """List what the object store holds, verify its files, export studies. No file in it is changed.

    Where several replicas work on one ledger, `list` and `leaving` are about all of their stores, `verify` and `export`
    about the one of this machine.
    """


@store.command("list", short_help="Studies in the store, what came last first.")
@_study
@click.option("--source", default="", metavar="NODE", help="Only studies of which this node stored something.")
@limit_option()
@click.pass_context
def list_(ctx: click.Context, studies: tuple[str, ...], source: str, limit: int) -> int:
    """Studies in the store: how much of each, when it came and from whom, what still needs it, when it may leave."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    if source and source not in rules.nodes:
        raise no_such("node", source, rules.nodes)
    with open_ledger(rules, read_only=True, create=False) as ledger:
        names = _pseudonyms(rules, ledger, studies)
        callers = set(rules.nodes[source].calling_ae_titles) if source else None
        found = ledger.stored_studies(only=_meant(studies, names, ledger), callers=callers, limit=limit)
        uids = [one.study_instance_uid for one in found]
        # Whether there is room on the disk is not asked: `leaving` tells.
        decided = foreseen(ledger, rules.router, Space(free=0, size=0), ledger.clock().now(), uids)
        stores = replicas_of(ledger)
    leaves = by_study(decided)
    if settings.json:
        print_json({"studies": [study_row(one, names, rules, leaves, stores) for one in found]})
        return 0
    out = terminal()
    if not found:
        out.print("No such studies." if studies or source else "The store holds no study.")
        return 0
    out.print(studies_table(found, names, rules, leaves, stores))
    if len(found) == limit:
        say(f"These are the last {limit}; there may be more (--limit).")
    return 0


@store.command("leaving", short_help="What would leave the store now, and why the rest stays.")
@_study
@limit_option("Name at most so many studies; all are counted.")
@click.pass_context
def leaving(ctx: click.Context, studies: tuple[str, ...], limit: int) -> int:
    """What router.retention would let go now, in this order, and why each other study stays. Nothing is removed."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with open_ledger(rules, read_only=True, create=False) as ledger, StoredFiles(rules.router.store) as files:
        names = _pseudonyms(rules, ledger, studies)
        decided = foreseen(ledger, rules.router, _space(files), ledger.clock().now(), _meant(studies, names, ledger))
    if settings.json:
        print_json(leaving_row(decided, names, limit))
    elif decided is None:
        terminal().print(OFF)
    else:
        print_leaving(terminal(), decided, names, limit)
    return 0


def _space(files: StoredFiles) -> Space:
    try:
        return files.space()
    except OSError as error:
        raise RouterError(f"The disk of the store does not say how full it is ({error.strerror}).") from None


@store.command("verify", short_help="Read every file, and compare it with its receipt.")
@_study
@_faults
@click.pass_context
def verify(ctx: click.Context, studies: tuple[str, ...], limit: int) -> int:
    """Read every file of the store: is it whole, does it belong where it lies, is it as it came?

    The first time the checksum (SHA-256) of each file is written into the ledger, and later compared. A service may run
    meanwhile. Nothing is repaired. Exit code 1 if something is wrong.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    faults = Faults(limit)
    with (
        interruptible(),
        open_ledger(rules, create=False) as ledger,
        StoredFiles(rules.router.store) as files,
    ):
        names = _pseudonyms(rules, ledger, studies)
        only = _meant(studies, names, ledger)
        with _Progress("verified", ledger.stored_amount(only, files.name).instances) as progress:
            inspector = Inspector(
                ledger,
                files,
                SystemClock().now,
                on_fault=faults.add,
                on_progress=lambda inspected: progress.show(inspected.instances, inspected.size, inspected.faults),
            )
            inspected = inspector.verify(only)
        say_elsewhere(ledger, files.name, only, "verified")
    if studies and not inspected.instances:
        raise RouterError("The store holds nothing of what --study names; `dicom-router store list` shows what it has.")
    if settings.json:
        print_json({**inspected_row(inspected), **faults.row(names)})
    else:
        terminal().print(plain(inspected_text(inspected)))
        faults.print(terminal())
    return 1 if inspected.faults else 0


@store.command("export", short_help="Copy studies to a directory, and verify the copies.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@_study
@click.option(
    "--link", is_flag=True, help="Hard links in place of copies where the file system allows: never edit them."
)
@_faults
@click.pass_context
def export(ctx: click.Context, directory: Path, studies: tuple[str, ...], link: bool, limit: int) -> int:
    """Copy studies to DIR/STUDY/SERIES/INSTANCE.dcm; without --study all there are.

    Each copy is read again and compared. What is there already is left as it is, so that an export that was broken off
    goes on where it was. Exit code 1 if an instance could not be exported.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    faults = Faults(limit)
    tell = exports_by_hand(rules, directory, SystemClock().now)
    with (
        interruptible(),
        open_ledger(rules, read_only=True, create=False) as ledger,
        StoredFiles(rules.router.store) as files,
    ):
        names = _pseudonyms(rules, ledger, studies)
        only = _meant(studies, names, ledger)
        amount = ledger.stored_amount(only, files.name)
        say_elsewhere(ledger, files.name, only, "exported")
        if studies and not amount.instances:
            raise RouterError(
                "The store holds nothing of what --study names; `dicom-router store list` shows what it has."
            )
        with (
            _Progress("exported", amount.instances) as progress,
            Exporter(
                ledger,
                files,
                directory,
                link=link,
                on_fault=faults.add,
                on_progress=lambda total: progress.show(total.instances + total.faults, total.size, total.faults),
            ) as exporter,
        ):
            wanted = ledger.stored_uids(files.name) if only is None else only
            exported = {uid: _exported(uid, exporter, ledger, files.name, tell) for uid in wanted}
    total = exporter.total
    if settings.json:
        print_json(
            {
                "directory": str(directory.absolute()),
                **exported_row(total),
                "studies": [exported_study(uid, one, names) for uid, one in exported.items()],
                **faults.row(names),
            }
        )
    else:
        terminal().print(plain(exported_text(total, len(exported), directory)))
        faults.print(terminal())
    return 1 if total.faults else 0


store.add_command(forget)


def _exported(uid: str, exporter: Exporter, ledger: SqlLedger, store: str, tell: Exports) -> Exported:
    """Export a study, and tell the audit of it, however that ends."""
    paths, before = ledger.receipt_paths(uid, store), exporter.total.instances
    failure = "The export was broken off."
    try:
        exported = exporter.export(uid)
        failure = f"{counted(exported.faults, 'instance')} could not be exported." if exported.faults else ""
    finally:
        if paths:
            tell(uid, paths, exporter.total.instances - before, failure)
    return exported


# which studies ----------------------------------------------------------------------------------------------------


def _pseudonyms(rules: RuleSet, ledger: SqlLedger, studies: Sequence[str]) -> Pseudonyms | None:
    """What stands for studies in the log; None where there is no key, or it may not be read, and none is needed."""
    try:
        return site_pseudonyms(rules, ledger.site_key)
    except (ConfigurationError, LedgerMissing):
        if any(map(is_pseudonym, studies)):
            raise
        return None


def _meant(studies: Sequence[str], names: Pseudonyms | None, ledger: SqlLedger) -> list[str] | None:
    """The UIDs of the studies that are wanted; None: all. Raises UsageError for what is no UID and no pseudonym."""
    if not studies:
        return None
    if odd := [given for given in studies if not is_pseudonym(given) and not is_uid(given)]:
        raise UsageError(f"--study {odd[0][:70]!r} is neither the UID nor the pseudonym of a study.")
    wanted = {given for given in studies if is_pseudonym(given)}
    found = [given for given in studies if is_uid(given) and given not in wanted]
    if wanted and names is not None:
        found += [uid for uid in ledger.stored_uids() if names.of(uid) in wanted]
    return list(dict.fromkeys(found))


# progress ---------------------------------------------------------------------------------------------------------


class _Progress:
    """How far it is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, done: str, total: int) -> None:
        self._done = done
        self._total = total
        self._console = progress_terminal()
        live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bar = (
            Progress(
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            if live
            else None
        )
        self._task = self._bar.add_task("", total=max(total, 1)) if self._bar else None
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, instances: int, size: int, faults: int) -> None:
        """So many instances and bytes are done, with so many faults."""
        now = time.monotonic()
        if now - self._told < (_LINE_SECONDS if self._bar is None else _DRAW_SECONDS):
            return
        self._told = now
        of = max(self._total, instances)
        text = f"{instances} of {counted(of, 'instance')} {self._done}, {byte_count(size)}, {counted(faults, 'fault')}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=instances, total=max(of, 1), description=text)
        else:
            say(text)
