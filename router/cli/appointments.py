"""`appointments`: the examinations to come that the ledger knows, and what was chosen for them. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.cli.considered import (
    APPOINTMENT_STYLES,
    appointments_table,
    priors_table,
    time_of,
)
from router.cli.settings import limit_option, load_rules, no_such, plain, print_json, say, settings_of, terminal
from router.domain.appointment import Appointment, AppointmentState
from router.domain.appointment_rows import appointment_row, prior_row
from router.domain.relevance import Prior
from router.domain.rule import RuleSet
from router.errors import RouterError
from router.service import open_ledger

_STATE = click.Choice([str(state) for state in AppointmentState])


@click.group(short_help="Examinations to come, and their priors: list, show.")
def appointments() -> None:
    """List and show the appointments for which rules fetch priors."""


@appointments.command("list", short_help="Appointments, the soonest due first.")
@click.option("--rule", default="", metavar="NAME", help="Only appointments of this rule.")
@click.option("--state", "states", multiple=True, type=_STATE, help="Only this state; may be repeated.")
@limit_option()
@click.pass_context
def list_(ctx: click.Context, rule: str, states: tuple[str, ...], limit: int) -> int:
    """Appointments, the soonest due first. Times are those of the node where the priors are."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with open_ledger(rules, read_only=True, create=False) as ledger:
        found = ledger.appointments(rule=rule, states=[AppointmentState(s) for s in states], limit=limit)
        if rule and rule not in rules.rules and not found and not ledger.appointments(rule=rule, limit=1):
            raise no_such("rule", rule, rules.rules)
    if settings.json:
        print_json({"appointments": [appointment_row(one, rules) for one in found]})
        return 0
    out = terminal()
    if not found:
        out.print("No such appointments.")
        return 0
    out.print(appointments_table(found, rules))
    if len(found) == limit:
        say(f"These are the first {limit}; there may be more (--limit).")
    return 0


@appointments.command("show", short_help="One appointment: each candidate, taken or not, and why.")
@click.argument("number", type=int)
@click.pass_context
def show(ctx: click.Context, number: int) -> int:
    """One appointment: each of the patient's studies that was looked at, whether it was taken, and why."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with open_ledger(rules, read_only=True, create=False) as ledger:
        appointment = ledger.appointment(number)
        if appointment is None:
            raise RouterError(
                f"The ledger has no appointment {number}; `dicom-router appointments list` shows what it has."
            )
        priors = ledger.priors_of(number)
    if settings.json:
        print_json({"appointment": appointment_row(appointment, rules), "candidates": [prior_row(p) for p in priors]})
    else:
        _show(appointment, priors, rules, terminal())
    return 0


def _show(appointment: Appointment, priors: Sequence[Prior], rules: RuleSet, out: Console) -> None:
    def when(moment: datetime | None) -> str:
        return time_of(moment, appointment.source, rules)

    facts: dict[str, str | Text] = {
        "appointment": str(appointment.id),
        "state": Text(str(appointment.state), APPOINTMENT_STYLES[appointment.state]),
        "why": plain(appointment.reason),
        "rule": appointment.rule,
        "trigger": appointment.trigger,
        "priors from": appointment.source,
        "start": when(appointment.start_at),
        "due": when(appointment.due_at),
        "heard of": when(appointment.noted_at),
        "looked": when(appointment.finished_at),
        "candidates": str(appointment.candidates) + ("" if appointment.complete else ", perhaps not all there are"),
        "taken": str(appointment.taken),
        "queries": str(appointment.queries),
    }
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            grid.add_row(name, value)
    out.print(grid)
    if priors:
        out.print()
        out.print(priors_table(priors, width=out.width))
