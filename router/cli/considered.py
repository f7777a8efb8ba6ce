"""Appointments and the decisions about priors, as tables. Nothing in them identifies a patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from router.cli.render import counted, new_table, short
from router.cli.settings import plain
from router.domain.appointment import Appointment, AppointmentState
from router.domain.appointment_rows import Considered, at_source, decision
from router.domain.relevance import Prior
from router.domain.rule import RuleSet

APPOINTMENT_STYLES = {
    AppointmentState.WAITING: "cyan",
    AppointmentState.LOOKING: "cyan",
    AppointmentState.DONE: "green",
    AppointmentState.FAILED: "red",
    AppointmentState.CANCELLED: "magenta",
}
_WIDE = 160
"""Columns from which a table has room for whole UIDs."""


def time_of(moment: datetime | None, source: str, rules: RuleSet) -> str:
    """The same for people; a dash where there is none."""
    there = at_source(moment, source, rules)
    return f"{there:%Y-%m-%d %H:%M}" if there is not None else "-"


def age(days: int | None) -> str:
    """An age in words: `12 days`, `3.4 years`."""
    if days is None:
        return "-"
    return f"{days} days" if abs(days) < 365 else f"{days / 365.25:.1f} years"


def score(prior: Prior) -> str:
    """The score and what it is made of."""
    if prior.score is None:
        return "-"
    return f"{prior.score}" + (f" = {prior.breakdown}" if prior.breakdown else "")


def styled(prior: Prior) -> Text:
    """The decision in its colour."""
    return Text(decision(prior), "green" if prior.taken else "dim")


def appointments_table(appointments: Sequence[Appointment], rules: RuleSet) -> RenderableType:
    """Appointments for people; times are those of where the priors are."""
    numbers = ("id", "candidates", "taken")
    table = new_table(
        *("id", "rule", "trigger", "start", "due", "state", "candidates", "taken", "looked"), right=numbers
    )
    for column in table.columns[2:6]:
        column.no_wrap = True
    for one in appointments:
        table.add_row(
            str(one.id),
            plain(one.rule),
            plain(one.trigger),
            time_of(one.start_at, one.source, rules),
            time_of(one.due_at, one.source, rules),
            Text(str(one.state), APPOINTMENT_STYLES[one.state]),
            str(one.candidates),
            str(one.taken),
            time_of(one.finished_at, one.source, rules),
        )
    return table


def priors_table(priors: Iterable[Prior], *, width: int) -> RenderableType:
    """What was decided about each candidate."""
    table = new_table("", "study", "to", "group", "age", "score", "why")
    table.columns[0].no_wrap = table.columns[1].no_wrap = table.columns[4].no_wrap = True
    table.columns[5].overflow = "fold"
    for one in priors:
        table.add_row(
            styled(one),
            one.study_instance_uid if width >= _WIDE else short(one.study_instance_uid),
            plain(one.destination),
            plain(one.group or "-"),
            age(one.age_days),
            plain(score(one)),
            plain(one.reason),
        )
    return table


def considered_table(considered: Iterable[Considered], rules: RuleSet) -> RenderableType:
    """For which appointments one study was looked at, and what was decided."""
    table = new_table("", "rule", "appointment", "start", "to", "group", "age", "score", "why", right=("appointment",))
    table.columns[0].no_wrap = table.columns[3].no_wrap = table.columns[6].no_wrap = True
    table.columns[7].overflow = "fold"
    for appointment, prior in considered:
        table.add_row(
            styled(prior),
            plain(appointment.rule),
            str(appointment.id),
            time_of(appointment.start_at, appointment.source, rules),
            plain(prior.destination),
            plain(prior.group or "-"),
            age(prior.age_days),
            plain(score(prior)),
            plain(prior.reason),
        )
    return table


def appointments_summary(appointments: Sequence[Appointment]) -> Group:
    """How many there are of each state, and why some are not done."""
    states = Counter(one.state for one in appointments)
    parts = ", ".join(f"{states[state]} {state}" for state in AppointmentState if state in states)
    taken = sum(one.taken for one in appointments)
    lines = [Text(f"{counted(len(appointments), 'appointment')}: {parts}; {counted(taken, 'prior')} chosen.")]
    why: dict[str, list[str]] = {}
    for one in appointments:
        if one.reason and not (one.state is AppointmentState.DONE and one.complete):
            why.setdefault(one.reason, []).append(str(one.id))
    lines += [plain(f"appointment {', '.join(ids[:6])}: {reason}") for reason, ids in why.items()]
    return Group(*lines)
