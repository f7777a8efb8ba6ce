"""`top`: what moves, waits and failed, on the terminal, drawn anew every other second."""

from __future__ import annotations

import time

import click
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live

from router.cli.board_screen import screen
from router.cli.board_source import Answer, BoardSource
from router.cli.settings import interruptible, load_rules, print_json, settings_of, terminal
from router.errors import LedgerError

_GLANCE_SECONDS = 0.1
"""How soon a terminal that changed its size is drawn anew."""


@click.command(short_help="What moves, waits and failed, drawn anew every other second.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.5, max=3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Look anew after so many seconds.",
)
@click.option("--once", is_flag=True, help="Print one screen and end; so it is where output goes to no terminal.")
@click.option("--identifiers", is_flag=True, help="Show UIDs, where the service lets whoever has the token see them.")
@click.pass_context
def top(ctx: click.Context, every: float, once: bool, identifiers: bool) -> int:
    """What moves now, what waits and why, recent failures, nodes, and the rules with their last and next sweeps.

    As the running service says, else as the ledger has it. Ctrl-C ends it. With `--format json` the board is printed
    once as JSON, as `GET /api/v1/board` has it.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with BoardSource(rules, identifiers=identifiers) as source:
        if settings.json:
            print_json(source.get().board)
            return 0
        out = terminal()
        live = out.is_terminal and not out.is_dumb_terminal
        if once or not live:
            for line in screen(source.get(), out.width, out.height - 1 if live else None):
                out.print(line, soft_wrap=True)
            return 0
        answer = source.get()  # what goes wrong at once is told on the terminal as it was
        try:
            with interruptible():
                _watch(source, answer, out, every)
        except KeyboardInterrupt:
            return 0
    return 0


def _watch(source: BoardSource, answer: Answer, out: Console, every: float) -> None:
    """Draw until somebody ends it; where no board is to be had, the last one stays, and why."""
    trouble = ""
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            due = time.monotonic() + every
            size = _draw(live, out, answer, trouble)
            while (left := due - time.monotonic()) > 0:
                time.sleep(min(_GLANCE_SECONDS, left))
                if out.size != size:
                    size = _draw(live, out, answer, trouble)
            try:
                answer, trouble = source.get(), ""
            except LedgerError as error:
                trouble = f"{error} This is how it was."


def _draw(live: Live, out: Console, answer: Answer, trouble: str) -> ConsoleDimensions:
    """Draw for the size that the terminal has; that size."""
    size = out.size
    live.update(Group(*screen(answer, size.width, size.height, trouble)), refresh=True)
    return size
