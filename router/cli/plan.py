"""`plan`: what a sweep would do, without doing it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.cli.apply import rules_named
from router.cli.render import closed_nodes, counted, new_table, short
from router.cli.settings import load_rules, plain, print_json, say, settings_of, terminal
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Action, Decision
from router.engine.sweep import Answer, Sweeper
from router.errors import RouterError
from router.service import SystemClock, planner

_STYLES = {Action.MOVE: "green", Action.HOLD: "yellow", Action.SKIP: "dim"}
_ORDER = list(Action)
_ROWS = 40
"""Rows of a rule's table before `--all` is needed."""
_REASONS = 12


class Planned(NamedTuple):
    """What one rule's sweep would do; no answer where the source could not be asked."""

    rule: Rule
    answer: Answer | None
    problem: str = ""


@click.command(short_help="Say what would be moved, held and skipped, and why.")
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Only this rule; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="List every study, those that are skipped too.")
@click.pass_context
def plan(ctx: click.Context, names: tuple[str, ...], everything: bool) -> int:
    """Say what would be moved, held and skipped, and why. Asks the sources (C-FIND only), moves and writes nothing.

    Exit code 1 if a source could not be asked.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    chosen = rules_named(rules, names)
    closed = closed_nodes(rules, SystemClock().now())
    for name in dict.fromkeys(rule.sweep.source for rule in chosen if rule.sweep.source in closed):
        say(f"{closed[name]} It is asked all the same, for this plan only.")
    with planner(rules, say) as sweeper:
        began = sweeper.now()
        planned = [_look(sweeper, rules, rule, chosen[at:], began) for at, rule in enumerate(chosen, 1)]
    if settings.json:
        print_json(_json(planned))
    else:
        out = terminal()
        for number, one in enumerate(planned):
            if number:
                out.print()
            show(one, out, everything=everything)
    return 0 if all(one.answer is not None for one in planned) else 1


def _look(sweeper: Sweeper, rules: RuleSet, rule: Rule, beside: Sequence[Rule], since: datetime) -> Planned:
    try:
        answer = sweeper.look(
            rules, rule, threading.Event(), tier=rule.sweep.widest_tier, manual=True, beside=beside, since=since
        )
        return Planned(rule, answer)
    except RouterError as error:
        return Planned(rule, None, str(error))


def _json(planned: list[Planned]) -> dict[str, Any]:
    return {
        "sweeps": [
            {
                "rule": one.rule.name,
                "source": one.rule.sweep.source,
                "matches": one.answer.matches if one.answer else 0,
                "complete": one.answer.complete if one.answer else False,
                "queries": one.answer.queries if one.answer else 0,
                "reason": one.answer.reason if one.answer else one.problem,
                "account": one.answer.account if one.answer else "",
            }
            for one in planned
        ],
        "transfers": [
            _decision_row(one.rule, decision)
            for one in planned
            if one.answer
            for decision in one.answer.selection.decisions
        ],
    }


def _decision_row(rule: Rule, decision: Decision) -> dict[str, Any]:
    """A decision as JSON; `destination` is null where a study is left out before destinations matter."""
    return {
        "rule": rule.name,
        "source": rule.sweep.source,
        "destination": decision.destination or None,
        "study_instance_uid": decision.study_instance_uid,
        "series_instance_uid": decision.series_instance_uid or None,
        "decision": str(decision.action),
        "expected": decision.instance_count,
        "availability": decision.availability or None,
        "completed": 0,
        "failed": 0,
        "warning": 0,
        "attempts": 0,
        "status": None,
        "code": decision.code,
        "reason": decision.reason,
    }


def show_plan(rules: RuleSet, rule: Rule, sweeper: Sweeper, out: Console) -> None:
    """Plan one rule and print it."""
    show(_look(sweeper, rules, rule, (), sweeper.now()), out, everything=False)


class _Row(NamedTuple):
    """What is decided alike for one study or series."""

    action: Action
    study: str
    series: str
    instances: int | None
    reason: str


def show(one: Planned, out: Console, *, everything: bool) -> None:
    """A rule's plan for people: a row per study and decision, reasons of those that are left out counted."""
    source = one.rule.sweep.source
    if one.answer is None:
        out.print(Text.assemble((one.rule.name, "bold"), ": ", plain(one.problem, "red")))
        return
    decisions = one.answer.selection.decisions
    found = counted(one.answer.matches, "match", "matches")
    out.print(
        Text.assemble(
            (one.rule.name, "bold"), f": {found} at {source}, {counted(one.answer.queries, 'query', 'queries')}"
        )
    )
    if one.answer.account:
        out.print(plain(one.answer.account, "dim"))
    if not one.answer.complete:
        out.print(plain(f"The answer is incomplete: {one.answer.reason}", "red"))
    rows = _rows(d for d in decisions if everything or d.action is not Action.SKIP)
    if rows:
        shown = rows if everything else rows[:_ROWS]
        out.print(_table(shown))
        if len(rows) > len(shown):
            out.print(f"and {len(rows) - len(shown)} more; --all lists them", style="dim")
    moves = [d for d in decisions if d.action is Action.MOVE]
    instances = sum(d.instance_count or 0 for d in moves)
    out.print(f"{counted(len(moves), 'transfer')} with {counted(instances, 'instance')} to move.")
    if not everything:
        _show_skipped([d for d in decisions if d.action is Action.SKIP], out)


def _rows(decisions: Iterable[Decision]) -> list[tuple[_Row, list[str]]]:
    """Decisions that differ in their destination only make one row."""
    rows: dict[_Row, list[str]] = {}
    for one in decisions:
        row = _Row(one.action, one.study_instance_uid, one.series_instance_uid, one.instance_count, one.reason)
        rows.setdefault(row, []).append(one.destination)
    return sorted(rows.items(), key=lambda item: _ORDER.index(item[0].action))


def _table(rows: list[tuple[_Row, list[str]]]) -> Table:
    table = new_table("", "study", "instances", "to", "why", right=("instances",))
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for row, destinations in rows:
        table.add_row(
            Text(str(row.action), _STYLES[row.action]),
            short(row.study, row.series),
            "?" if row.instances is None else str(row.instances),
            plain(", ".join(filter(None, destinations))),
            plain(row.reason),
        )
    return table


def _show_skipped(skipped: list[Decision], out: Console) -> None:
    reasons = Counter(d.reason for d in skipped).most_common()
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for reason, count in reasons[:_REASONS]:
        grid.add_row(f"skip {count}:", plain(reason, "dim"))
    if len(reasons) > _REASONS:
        left = sum(count for _, count in reasons[_REASONS:])
        grid.add_row(f"skip {left}:", plain("other reasons; --all lists them", "dim"))
    if reasons:
        out.print(grid)
