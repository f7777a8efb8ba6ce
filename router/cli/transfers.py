"""`transfers`: what the ledger knows."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.table import Table
from rich.text import Text

from router.cli.render import STYLES, UNDER_WAY_STYLE, size, transfer_row, transfers_table
from router.cli.settings import load_rules, plain, print_json, say, settings_of, terminal
from router.domain.outcome import Evidence, Expectation, missing_instances
from router.domain.rule import LOCAL
from router.domain.transfer import Attempt, Happening, State, Transfer
from router.engine.ports import Ledger
from router.errors import LedgerError, RouterError
from router.service import SystemClock, open_ledger

_MISSING = 50
"""Missing instances that are listed for people; JSON has all."""


@click.group(short_help="What the ledger knows: list, show, retry.")
def transfers() -> None:
    """List and show transfers, and ask again for those that failed."""


@transfers.command("list", short_help="Transfers, newest first.")
@click.option("--state", "states", multiple=True, type=click.Choice([str(s) for s in State]), help="Only this state.")
@click.option("--rule", default="", metavar="NAME", help="Only transfers of this rule.")
@click.option("--source", default="", metavar="NODE", help="Only transfers from this node.")
@click.option("--destination", default="", metavar="NODE", help="Only transfers to this node.")
@click.option("--study", default="", metavar="UID", help="Only transfers of this Study Instance UID.")
@click.option(
    "--limit",
    default=100,
    show_default=True,
    metavar="NUMBER",
    type=click.IntRange(1, 100_000),
    help="At most so many.",
)
@click.pass_context
def list_(
    ctx: click.Context, states: tuple[str, ...], rule: str, source: str, destination: str, study: str, limit: int
) -> int:
    """Transfers, newest first."""
    settings = settings_of(ctx)
    with open_ledger(load_rules(settings), read_only=True) as ledger:
        found = ledger.transfers(
            states=[State(s) for s in states],
            rule=rule,
            source=source,
            destination=destination,
            study_instance_uid=study,
            limit=limit,
        )
    if settings.json:
        print_json({"transfers": [transfer_row(t) for t in found]})
        return 0
    out = terminal()
    if not found:
        out.print("No such transfers.")
        return 0
    out.print(transfers_table(found, width=out.width))
    if len(found) == limit:
        say(f"These are the newest {limit}; there may be more (--limit).")
    return 0


@transfers.command("show", short_help="One transfer: each attempt, and what is missing.")
@click.argument("number", type=int)
@click.pass_context
def show(ctx: click.Context, number: int) -> int:
    """One transfer: its state, each attempt, and what is missing."""
    settings = settings_of(ctx)
    with open_ledger(load_rules(settings), read_only=True) as ledger:
        transfer = ledger.transfer(number)
        if transfer is None:
            raise RouterError(f"The ledger has no transfer {number}; `dicom-router transfers list` shows what it has.")
        attempts = ledger.attempts(number)
        missing = _missing(ledger, transfer)
    if settings.json:
        print_json({"transfer": transfer_row(transfer), "attempts": attempts, "missing": missing})
    else:
        _show(transfer, attempts, missing)
    return 0


def _missing(ledger: Ledger, transfer: Transfer) -> list[str] | None:
    """SOP Instance UIDs that our store lacks; None where nobody can say without asking a node."""
    expected = ledger.expected_instances(transfer.id)
    if expected is None or transfer.intent.destination != LOCAL:
        return None
    present = ledger.received(transfer.intent.study_instance_uid, transfer.intent.series_instance_uid)
    gap = missing_instances(
        Expectation(instances=frozenset(expected)), Evidence(kind="receipts", present=frozenset(present))
    )
    return sorted(instance.sop_instance_uid for instance in gap or ())


def _show(transfer: Transfer, attempts: Sequence[Attempt], missing: list[str] | None) -> None:
    out = terminal()
    intent, total = transfer.intent, size(transfer)
    troubles = [
        f"{count} {word}" for word, count in (("failed", transfer.failed), ("warning", transfer.warning)) if count
    ]
    facts: dict[str, str | Text] = {
        "transfer": str(transfer.id),
        "state": Text(str(transfer.state), STYLES.get(transfer.state, UNDER_WAY_STYLE)),
        "why": plain(transfer.reason),
        "rule": transfer.rule,
        "from": intent.source,
        "to": intent.destination,
        "study": intent.study_instance_uid,
        "series": intent.series_instance_uid,
        "instances": ", ".join([f"{transfer.completed} of {'?' if total is None else total}", *troubles]),
        "attempts": str(transfer.attempts),
        "status": f"{transfer.status:04X}" if transfer.status is not None else "",
        "queued": f"{transfer.queued_at.astimezone():%Y-%m-%d %H:%M:%S}",
        "ended": f"{transfer.finished_at.astimezone():%Y-%m-%d %H:%M:%S}" if transfer.finished_at else "",
    }
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            grid.add_row(name, value)
    out.print(grid)
    if attempts:
        out.print()
        out.print(_steps(attempts))
    if missing:
        out.print(f"\n{len(missing)} missing at {intent.destination}:", style="bold")
        for uid in missing[:_MISSING]:
            out.print(f"  {uid}")
        if len(missing) > _MISSING:
            out.print(f"  and {len(missing) - _MISSING} more; --format json lists them")


def _steps(attempts: Sequence[Attempt]) -> Table:
    """What was done, a row each."""
    grid = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("when", "step", "led to", "there"):
        grid.add_column(column, no_wrap=True)
    grid.add_column("what happened")
    for one in attempts:
        there = f"{one.completed}" + (f" ({one.failed} failed)" if one.failed else "")
        status = f" (status {one.status:04X})" if one.status and f"{one.status:04X}" not in one.reason else ""
        grid.add_row(
            f"{one.started_at.astimezone():%m-%d %H:%M:%S}",
            one.step,
            one.happening.replace("_", " "),
            there,
            plain(one.reason + status),
        )
    return grid


@transfers.command("retry", short_help="Queue transfers that have ended again.")
@click.argument("numbers", type=int, nargs=-1, required=True)
@click.pass_context
def retry(ctx: click.Context, numbers: tuple[int, ...]) -> int:
    """Queue transfers that have ended again; only what is missing is moved.

    A running service takes them up, else the next `apply`. Exit code 1 if one of them cannot be queued.
    """
    settings = settings_of(ctx)
    changed: list[Transfer] = []
    problems: list[str] = []
    with open_ledger(load_rules(settings)) as ledger:
        for number in dict.fromkeys(numbers):
            try:
                changed.append(ledger.apply(number, Happening.AGAIN, SystemClock().now()))
            except LedgerError as error:
                known = ledger.transfer(number)
                if known is not None and not known.ended:
                    problems.append(f"Transfer {number} has not ended: it is {known.state}.")
                else:
                    problems.append(str(error))
    if settings.json:
        print_json({"transfers": [transfer_row(t) for t in changed]})
    elif changed:
        out = terminal()
        out.print(transfers_table(changed, width=out.width))
    for problem in problems:
        say(f"dicom-router: {problem}")
    return 1 if problems else 0
