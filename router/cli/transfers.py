"""`transfers`: what the ledger knows."""

from __future__ import annotations

import click

from router.cli.render import transfer_row, transfers_table
from router.cli.settings import load_rules, print_json, settings_of, terminal
from router.domain.outcome import Evidence, Expectation, missing_instances
from router.domain.rule import LOCAL
from router.domain.transfer import Happening, State
from router.errors import UsageError
from router.service import SystemClock, open_ledger


@click.group()
def transfers() -> None:
    """List and show transfers, and ask again for those that failed."""


@transfers.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice([str(s) for s in State]), help="Only this state.")
@click.option("--rule", default="", help="Only transfers of this rule.")
@click.option("--source", default="", help="Only transfers from this node.")
@click.option("--destination", default="", help="Only transfers to this node.")
@click.option("--study", default="", metavar="UID", help="Only transfers of this Study Instance UID.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="At most so many.")
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
    elif found:
        terminal().print(transfers_table(found))
    else:
        click.echo("No such transfers.")
    return 0


@transfers.command("show")
@click.argument("number", type=int)
@click.pass_context
def show(ctx: click.Context, number: int) -> int:
    """One transfer: its state, each attempt, and what is missing."""
    settings = settings_of(ctx)
    with open_ledger(load_rules(settings), read_only=True) as ledger:
        transfer = ledger.transfer(number)
        if transfer is None:
            raise UsageError(f"The ledger has no transfer {number}; `dicom-router transfers list` shows those it has.")
        attempts = ledger.attempts(number)
        expected = ledger.expected_instances(number)
        missing: list[str] | None = None
        if expected is not None and transfer.intent.destination == LOCAL:
            present = ledger.received(transfer.intent.study_instance_uid, transfer.intent.series_instance_uid)
            gap = missing_instances(
                Expectation(instances=frozenset(expected)), Evidence(kind="receipts", present=frozenset(present))
            )
            missing = sorted(instance.sop_instance_uid for instance in gap or ())
    if settings.json:
        print_json({"transfer": transfer_row(transfer), "attempts": attempts, "missing": missing})
        return 0
    out = terminal()
    for key, value in transfer_row(transfer).items():
        if value not in (None, ""):
            out.print(f"{key + ':':<22}{value}", markup=False)
    out.print()
    for attempt in attempts:
        status = f" {attempt.status:04X}" if attempt.status is not None else ""
        out.print(
            f"{attempt.started_at:%Y-%m-%d %H:%M:%S} {attempt.step:<6} {attempt.happening}{status} "
            f"completed {attempt.completed}, failed {attempt.failed}, warning {attempt.warning}: {attempt.reason}",
            markup=False,
        )
    if missing:
        out.print(f"\n{len(missing)} missing at {transfer.intent.destination}:")
        for uid in missing:
            out.print(f"  {uid}")
    return 0


@transfers.command("retry")
@click.argument("numbers", type=int, nargs=-1, required=True)
@click.pass_context
def retry(ctx: click.Context, numbers: tuple[int, ...]) -> int:
    """Queue transfers that have ended again; only what is missing is moved.

    A running service takes them up, else the next `apply`.
    """
    settings = settings_of(ctx)
    with open_ledger(load_rules(settings)) as ledger:
        changed = [ledger.apply(number, Happening.AGAIN, SystemClock().now()) for number in numbers]
    if settings.json:
        print_json({"transfers": [transfer_row(t) for t in changed]})
    else:
        terminal().print(transfers_table(changed))
    return 0
