"""`apply`: sweep now, wait until the transfers end, say how."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import timedelta

import click
from rich.console import Console, Group
from rich.live import Live

from router.cli.render import STYLES, sweep_row, sweeps_table, transfer_row, transfers_table
from router.cli.settings import load_rules, print_json, progress_terminal, settings_of, terminal
from router.domain.rule import Rule, RuleSet
from router.domain.sweep import SWEEP_ENDED, SweepDue, SweepRecord, SweepState
from router.domain.transfer import State, Transfer
from router.engine.ports import Ledger
from router.errors import UsageError
from router.observe import logs
from router.service import Service, SystemClock, open_ledger

SERVICE_SECONDS = 10.0
"""A service that announced itself within this time is running."""
_POLL_SECONDS = 0.2


def rules_named(rules: RuleSet, names: tuple[str, ...]) -> list[Rule]:
    """The enabled rules of these names, or all. Raises UsageError for a name that is not there."""
    for name in names:
        if name not in rules.rules:
            raise UsageError(f"There is no rule {name}; there are: {', '.join(rules.rules) or 'none'}.")
    return [r for r in rules.rules.values() if r.enabled and (not names or r.name in names)]


@click.command()
@click.option("--rule", "names", multiple=True, help="Only this rule; may be repeated.")
@click.option("--timeout", type=float, default=None, metavar="SECONDS", help="Stop waiting after so many seconds.")
@click.pass_context
def apply(ctx: click.Context, names: tuple[str, ...], timeout: float | None) -> int:
    """Run the sweeps of all (or these) rules now, wait until their transfers end, print what became of them."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    chosen = rules_named(rules, names)
    if not chosen:
        raise UsageError("No rule is enabled, so there is nothing to apply.")
    sweeps, transfers = _apply(rules, chosen, progress_terminal(), timeout)
    if settings.json:
        print_json({"sweeps": [sweep_row(s) for s in sweeps], "transfers": [transfer_row(t) for t in transfers]})
    else:
        out = terminal()
        out.print(sweeps_table(sweeps))
        if transfers:
            out.print()
            out.print(transfers_table(transfers))
        out.print(summary(transfers))
    return 0 if good(sweeps, transfers) else 1


def _apply(
    rules: RuleSet, chosen: list[Rule], console: Console, timeout: float | None
) -> tuple[list[SweepRecord], list[Transfer]]:
    """By the service that runs on this ledger, else by one of our own for the time being."""
    with open_ledger(rules) as ledger:
        services = ledger.services(SystemClock().now() - timedelta(seconds=SERVICE_SECONDS))
        if services:
            if all(service.content_hash != rules.content_hash for service in services):
                console.print("The running service has another configuration loaded; it sweeps with that one.")
            return _sweep(ledger, lambda: None, chosen, console, timeout)
    logs.configure(quiet=True)
    service = Service(rules)
    try:
        service.start(scheduled=False)
        return sweep_now(service, chosen, console, timeout)
    finally:
        service.stop(drain=0.0)


def sweep_now(
    service: Service, chosen: list[Rule], console: Console, timeout: float | None = None
) -> tuple[list[SweepRecord], list[Transfer]]:
    """Make these rules' sweeps due in a service of our own and wait for what comes of it."""
    return _sweep(service.ledger, service.wake, chosen, console, timeout)


def _sweep(
    ledger: Ledger, wake: Callable[[], None], chosen: list[Rule], console: Console, timeout: float | None
) -> tuple[list[SweepRecord], list[Transfer]]:
    now = SystemClock().now()
    due = [
        SweepDue(rule=r.name, source=r.sweep.source, due_at=now, tier=r.sweep.widest_tier, manual=True) for r in chosen
    ]
    ids = ledger.add_sweeps(due)
    wake()
    deadline = time.monotonic() + timeout if timeout is not None else None
    return wait(lambda: (ledger.sweeps(ids), ledger.transfers(sweeps=ids, limit=100_000)), console, deadline)


Look = Callable[[], tuple[list[SweepRecord], list[Transfer]]]


def wait(look: Look, console: Console, deadline: float | None) -> tuple[list[SweepRecord], list[Transfer]]:
    """Show progress until all sweeps and their transfers have ended, or the deadline (monotonic) passes."""
    seen: dict[int, str] = {}
    live = Live(console=console, refresh_per_second=5, transient=True) if console.is_terminal else None
    with live or contextlib.nullcontext():
        while True:
            sweeps, transfers = look()
            if live is not None:
                live.update(_picture(sweeps, transfers))
            else:
                _lines(transfers, seen, console)
            open_work = any(s.state not in SWEEP_ENDED for s in sweeps) or any(
                not t.ended and t.state is not State.HELD for t in transfers
            )
            if not open_work or (deadline is not None and time.monotonic() > deadline):
                return sweeps, sorted(transfers, key=lambda t: t.id)
            time.sleep(_POLL_SECONDS)


def _picture(sweeps: list[SweepRecord], transfers: list[Transfer]) -> Group:
    running = [t for t in transfers if t.state in (State.MOVING, State.VERIFYING)]
    waiting = [t for t in transfers if t.state is State.QUEUED and t.attempts]
    ended = sum(t.ended for t in transfers)
    asking = sum(s.state not in SWEEP_ENDED for s in sweeps)
    head = f"{ended} of {len(transfers)} transfers ended" + (f", {asking} sweeps running" if asking else "")
    shown = (running + waiting)[:15]
    return Group(head, transfers_table(shown, title="")) if shown else Group(head)


def _lines(transfers: list[Transfer], seen: dict[int, str], console: Console) -> None:
    for transfer in reversed(transfers):
        if seen.get(transfer.id) == transfer.state:
            continue
        seen[transfer.id] = transfer.state
        expected = "?" if transfer.expected is None else transfer.expected
        console.print(
            f"transfer {transfer.id} {transfer.rule} {transfer.intent.source} -> {transfer.intent.destination}: "
            f"{transfer.state} {transfer.completed}/{expected} {transfer.reason}".rstrip(),
            markup=False,
            soft_wrap=True,
        )


def summary(transfers: list[Transfer]) -> str:
    """One line: how many of each verdict, with colour."""
    if not transfers:
        return "Nothing to move."
    totals: dict[State, int] = {}
    for transfer in transfers:
        totals[transfer.state] = totals.get(transfer.state, 0) + 1
    parts = [f"[{STYLES.get(state, 'cyan')}]{count} {state}[/]" for state, count in sorted(totals.items())]
    return f"{len(transfers)} transfers: {', '.join(parts)}."


def good(sweeps: list[SweepRecord], transfers: list[Transfer]) -> bool:
    """Whether everything is there, as far as anybody can say."""
    if any(t.state not in (State.COMPLETE, State.UNPROVEN) for t in transfers):
        return False
    return all(sweep.state is SweepState.COMPLETE for sweep in sweeps)
