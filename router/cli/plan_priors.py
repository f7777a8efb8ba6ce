"""The part of `plan` that is about priors: each current study with what would be fetched for it, and why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.cli.considered import age, time_of
from router.cli.render import ACTION_STYLES, counted, new_table, short
from router.cli.settings import plain
from router.domain.appointment import Appointment, AppointmentState, Notice
from router.domain.appointment_rows import at_source
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Action, Decision
from router.engine.prefetch import Looked
from router.errors import RouterError
from router.service import Planner

MOST_CURRENTS = 100
"""Current studies of a rule that one plan looks at, the earliest: each takes some queries."""
_MOST_COUNTED = 10_000
_ROWS = 30
"""Rows of a current study's table before `--all` is needed."""


class Current(NamedTuple):
    """A current study, as `plan` found it."""

    trigger: str
    start_at: datetime | None
    due_at: datetime
    look: Callable[[], Looked]
    """Looks for its priors."""
    study: str = ""
    """Its Study Instance UID; empty where it has none yet."""


class PlannedPriors(NamedTuple):
    """What would be fetched for one current study; None where that could not be asked."""

    current: Current
    looked: Looked | None
    problem: str = ""


def plan_priors(
    planner: Planner, rules: RuleSet, rule: Rule, notices: Sequence[Notice]
) -> tuple[list[PlannedPriors], int]:
    """Look for the priors of what a trigger found, or of what waits in the ledger where it comes by itself.

    And of how many there are; not all of many are looked at.
    """
    if rule.sweep is None and rule.worklist is None:
        waiting = planner.ledger.appointments(rule=rule.name, states=[AppointmentState.WAITING], limit=_MOST_COUNTED)
        currents = [_waiting(planner, rules, rule, one) for one in waiting]
    else:
        currents = [_found(planner, rules, rule, one) for one in notices if not one.cancelled]
    currents.sort(key=lambda one: one.start_at or one.due_at)
    return [_look(one) for one in currents[:MOST_CURRENTS]], len(currents)


def _waiting(planner: Planner, rules: RuleSet, rule: Rule, one: Appointment) -> Current:
    look = partial(planner.prefetcher.look_for, rules, rule, one, threading.Event())
    return Current(one.trigger, one.start_at, one.due_at, look, one.current.text("StudyInstanceUID"))


def _found(planner: Planner, rules: RuleSet, rule: Rule, one: Notice) -> Current:
    look = partial(planner.prefetcher.look, rules, rule, one.current, one.start_at, threading.Event())
    return Current(one.trigger, one.start_at, one.due_at, look, one.current.text("StudyInstanceUID"))


def _look(current: Current) -> PlannedPriors:
    try:
        return PlannedPriors(current, current.look())
    except RouterError as error:
        return PlannedPriors(current, None, str(error))


def priors_row(rules: RuleSet, rule: Rule, one: PlannedPriors) -> dict[str, Any]:
    """A current study as JSON."""
    looked = one.looked
    return {
        "rule": rule.name,
        "trigger": one.current.trigger,
        "study_instance_uid": one.current.study or None,
        "start": at_source(one.current.start_at, rule.source, rules),
        "due": at_source(one.current.due_at, rule.source, rules),
        "candidates": looked.candidates if looked else 0,
        "taken": sum(prior.taken for prior in looked.record) if looked else 0,
        "queries": looked.queries if looked else 0,
        "complete": looked.complete if looked else False,
        "reason": looked.reason if looked else one.problem,
    }


def prior_fields(decision: Decision) -> dict[str, Any]:
    """What a decision's JSON row says of the prior; nothing where it is about none."""
    prior = decision.prior
    if prior is None:
        return {}
    return {
        "group": prior.group or None,
        "score": prior.score,
        "breakdown": prior.breakdown or None,
        "age_days": prior.age_days,
    }


def show_priors(
    rules: RuleSet, rule: Rule, planned: Sequence[PlannedPriors], found: int, out: Console, *, everything: bool
) -> None:
    """A table for each current study."""
    for one in planned:
        out.print()
        start = one.current.start_at
        when = f"appointment {time_of(start, rule.source, rules)}" if start else "no appointment"
        which = f" {short(one.current.study)}" if one.current.study else ""
        head = Text.assemble((f"{one.current.trigger}{which}, {when}", "bold"))
        if one.looked is None:
            out.print(Text.assemble(head, ": ", plain(one.problem, "red")))
            continue
        looked = one.looked
        moves = sum(d.action is Action.MOVE for d in looked.decisions)
        studies = counted(looked.candidates, "study", "studies")
        out.print(Text.assemble(head, f": {studies} of the patient, {counted(moves, 'transfer')} to move"))
        if looked.reason:
            out.print(plain(looked.reason, "dim" if looked.complete else "red"))
        decisions = looked.decisions if everything else looked.decisions[:_ROWS]
        if decisions:
            out.print(_table(decisions))
        if len(looked.decisions) > len(decisions):
            out.print(f"and {len(looked.decisions) - len(decisions)} more; --all lists them", style="dim")
    if found > len(planned):
        out.print(f"{found - len(planned)} more current studies are not looked at by a plan.", style="dim")


def _table(decisions: Sequence[Decision]) -> Table:
    table = new_table("", "study", "group", "score", "age", "to", "why", right=("score",))
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for one in decisions:
        prior = one.prior
        table.add_row(
            Text(str(one.action), ACTION_STYLES[one.action]),
            short(one.study_instance_uid),
            plain(prior.group if prior else ""),
            "" if prior is None or prior.score is None else str(prior.score),
            age(prior.age_days if prior else None),
            plain(one.destination),
            plain(one.reason),
        )
    return table
