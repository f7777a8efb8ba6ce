"""`quarantine`: what came in and may not enter the store as it is: listed, shown, released, removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from router.cli.render import counted, new_table
from router.cli.settings import load_rules, plain, print_json, say, settings_of, terminal
from router.cli.store_text import byte_count
from router.domain.quarantine import MEANINGS, Quarantined
from router.domain.rule import RuleSet
from router.errors import RouterError
from router.quarantine import Quarantine
from router.releasing import look, releaser
from router.service import open_ledger

_numbers = click.argument("numbers", metavar="NUMBER...", nargs=-1, required=True, type=click.IntRange(min=1))


@click.group(short_help="What may not enter the store: list, show, release, remove.")
def quarantine() -> None:
    """List what came in and may not enter the store as it is, look at it, release it into the store, remove it."""


@quarantine.command("list", short_help="What is in quarantine, what came last first.")
@click.option("--reason", type=click.Choice(list(MEANINGS)), help="Only what is there for this reason.")
@click.option("--source", default="", metavar="NODE", help="Only what this node sent.")
@click.pass_context
def list_(ctx: click.Context, reason: str | None, source: str) -> int:
    """What is in quarantine: why, who sent it, and when."""
    settings = settings_of(ctx)
    opened = _opened(load_rules(settings))
    found = [
        one for one in opened.all() if (reason is None or one.reason == reason) and (not source or one.node == source)
    ]
    if settings.json:
        print_json({"objects": [_row(one) for one in found], "bytes": sum(one.size for one in found)})
        return 0
    out = terminal()
    if not found:
        out.print("Nothing such is in quarantine." if reason or source else "Nothing is in quarantine.")
        return 0
    out.print(_table(found))
    out.print(plain(f"{counted(len(found), 'object')}, {byte_count(sum(one.size for one in found))}."))
    return 0


@quarantine.command("show", short_help="One object: why it is there, and what it says of itself.")
@click.argument("number", metavar="NUMBER", type=click.IntRange(min=1))
@click.pass_context
def show(ctx: click.Context, number: int) -> int:
    """One object: why it is in quarantine, what it says of itself, and where its file lies."""
    settings = settings_of(ctx)
    opened = _opened(load_rules(settings))
    one, path = opened.find(number), opened.file(number)
    row = _row(one) | _contents(path, one)
    if settings.json:
        print_json(row)
        return 0
    out = terminal()
    for name, value in row.items():
        text = f"{value.astimezone():%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value or "-")
        out.print(plain(f"{name.replace('_', ' '):<20}{text}"))
    return 0


@quarantine.command("release", short_help="Into the store, as if it had come in now.")
@_numbers
@click.pass_context
def release(ctx: click.Context, numbers: tuple[int, ...]) -> int:
    """Move objects into the store, under the UIDs that their data sets have; rules that wait for arrivals see them.

    What still cannot be decoded stays where it is. A service may run meanwhile. Exit code 1 if one stays.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with open_ledger(rules) as ledger, releaser(rules, ledger) as opened:
        return _each(settings.json, numbers, "released", opened.release)


@quarantine.command("remove", short_help="Delete for good.")
@_numbers
@click.pass_context
def remove(ctx: click.Context, numbers: tuple[int, ...]) -> int:
    """Delete objects in quarantine for good. Exit code 1 if one could not be deleted."""
    settings = settings_of(ctx)
    return _each(settings.json, numbers, "removed", _opened(load_rules(settings)).remove)


def _opened(rules: RuleSet) -> Quarantine:
    return Quarantine(Path(rules.router.store), rules.router.quarantine)


def _each(json: bool, numbers: Sequence[int], done: str, act: Callable[[int], object]) -> int:
    """Do it to each; what cannot be done to one does not keep it from the others."""
    well: list[int] = []
    failed: list[dict[str, Any]] = []
    for number in dict.fromkeys(numbers):
        try:
            act(number)
            well.append(number)
        except RouterError as error:
            failed.append({"number": number, "reason": str(error)})
    if json:
        print_json({done: well, "failed": failed})
    else:
        for one in failed:
            say(one["reason"])
        if well:
            terminal().print(plain(f"{counted(len(well), 'object')} {done}: {', '.join(map(str, well))}."))
    return 1 if failed else 0


def _row(one: Quarantined) -> dict[str, Any]:
    return {
        "number": one.number,
        "reason": one.reason,
        "node": one.node,
        "calling_ae_title": one.calling_ae_title,
        "received": one.received_at,
        "last_offered": one.offered_at,
        "bytes": one.size,
    }


def _contents(path: Path, one: Quarantined) -> dict[str, Any]:
    meta, header = look(path, one)
    return {
        "meaning": MEANINGS[one.reason],
        "sop_class_uid": header.sop_class_uid if header is not None else "",
        "sop_instance_uid": header.sop_instance_uid if header is not None else "",
        "study_instance_uid": header.study_instance_uid if header is not None else "",
        "series_instance_uid": header.series_instance_uid if header is not None else "",
        "requested_as": meta.sop_instance_uid if meta is not None else "",
        "transfer_syntax_uid": meta.transfer_syntax_uid if meta is not None else "",
        "file": str(path.absolute()),
    }


def _table(found: Sequence[Quarantined]) -> Table:
    table = new_table("number", "reason", "from", "received", "last offered", "size", right=("number", "size"))
    for column in (0, 1, 3, 4, 5):
        table.columns[column].no_wrap = True
    for one in found:
        table.add_row(
            str(one.number),
            one.reason,
            plain(one.node or one.calling_ae_title or "-"),
            f"{one.received_at.astimezone():%Y-%m-%d %H:%M}",
            f"{one.offered_at.astimezone():%Y-%m-%d %H:%M}",
            byte_count(one.size),
        )
    return table
