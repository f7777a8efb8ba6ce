"""`doctor`: whether nodes and this router are ready for what the rules want, and what to change where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from router.cli.render import counted
from router.cli.settings import (
    interruptible,
    load_configuration,
    no_such,
    plain,
    print_json,
    progress_terminal,
    settings_of,
    terminal,
)
from router.config.places import Places
from router.domain.checkup import Check, Result
from router.opening import practice

_MARKS = {
    Result.OK: ("ok", "green"),
    Result.WARN: ("warn", "yellow"),
    Result.FAIL: ("FAIL", "bold red"),
    Result.SKIPPED: ("-", "dim"),
}


@click.command(short_help="Check nodes and this router's own side, and say what to change.")
@click.argument("nodes", nargs=-1, metavar="[NODE...]")
@click.option(
    "--move/--no-move",
    "wanted",
    default=None,
    help="Ask every node, or none, to move one image here; by default those that rules bring studies from.",
)
@click.pass_context
def doctor(ctx: click.Context, nodes: tuple[str, ...], wanted: bool | None) -> int:
    """Check all (or these) nodes, from name and TCP to a cheap query and one image moved here, and this router itself.

    Each finding says what to change, and on which system or in which line of the configuration. At most one image of a
    node is moved, to this router only, and it is not kept. Exit code 0 if all is well or there are only warnings, 1 if
    something is wrong.
    """
    settings = settings_of(ctx)
    loaded, rules = load_configuration(settings)
    for name in nodes:
        if name not in rules.nodes:
            raise no_such("node", name, rules.nodes)
    names = list(dict.fromkeys(nodes)) or list(rules.nodes)
    warnings = [str(one) for one in loaded.diagnostics]
    with (
        interruptible(),
        practice(rules, Places(settings.config), warnings, wanted=wanted) as (examiner, router),
        _waiting(progress_terminal(), names),
    ):
        found = examiner.examine(names)
    every = [*router, *(check for checks in found.values() for check in checks)]
    if settings.json:
        print_json({"nodes": [{"node": name, "checks": found[name]} for name in names], "router": router})
    else:
        out = terminal()
        for name in names:
            node = rules.nodes[name]
            out.print(_shown(f"{name} ({node.ae_title} at {node.host}:{node.port})", found[name]))
        out.print(_shown(f"this router ({rules.router.ae_title})", router))
        out.print(_summary(every))
    return 1 if any(check.result is Result.FAIL for check in every) else 0


def _waiting(console: Console, names: Sequence[str]) -> AbstractContextManager[object]:
    if not console.is_terminal:
        return nullcontext()
    return console.status(f"Asking {', '.join(names[:3])}{' and others' if len(names) > 3 else ''} ...")


def _shown(head: str, checks: Sequence[Check]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in checks:
        mark, style = _MARKS[check.result]
        grid.add_row(Text(mark, style), check.check, plain(check.message))
        if check.remedy:
            grid.add_row("", "", Text.assemble(("-> ", style), plain(check.remedy)))
    return Group(Text(head, "bold"), Padding(grid, (0, 0, 1, 2), expand=False))


def _summary(checks: Iterable[Check]) -> Text:
    totals = Counter(check.result for check in checks)
    parts = [
        Text(counted(totals[Result.FAIL], "thing") + " to mend", _MARKS[Result.FAIL][1]),
        Text(counted(totals[Result.WARN], "warning"), _MARKS[Result.WARN][1]),
        Text(f"{totals[Result.OK]} ok", _MARKS[Result.OK][1]),
        Text(f"{totals[Result.SKIPPED]} not tried", _MARKS[Result.SKIPPED][1]),
    ]
    shown = [
        part
        for part, result in zip(parts, (Result.FAIL, Result.WARN, Result.OK, Result.SKIPPED), strict=True)
        if totals[result] or result is Result.FAIL
    ]
    return Text.assemble(Text(", ").join(shown), ".")
