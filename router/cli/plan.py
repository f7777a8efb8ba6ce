"""`plan`: what a sweep would do, without doing it."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import click
from rich.table import Table

from router.cli.apply import rules_named
from router.cli.render import short
from router.cli.settings import load_rules, print_json, settings_of, terminal
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Action, Decision
from router.engine.sweep import Answer, Sweeper
from router.errors import RouterError
from router.service import planner

_STYLES = {Action.MOVE: "green", Action.HOLD: "yellow", Action.SKIP: "dim"}


@click.command()
@click.option("--rule", "names", multiple=True, help="Only this rule; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="List skipped studies too, not only their number.")
@click.pass_context
def plan(ctx: click.Context, names: tuple[str, ...], everything: bool) -> int:
    """Say what would be moved, held and skipped, and why. Asks the sources (C-FIND only), moves and writes nothing."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    chosen = rules_named(rules, names)
    answers: list[tuple[Rule, Answer | None, str]] = []
    with planner(rules) as sweeper:
        for rule in chosen:
            try:
                answers.append((rule, _look(rules, rule, sweeper), ""))
            except RouterError as error:
                answers.append((rule, None, str(error)))
    if settings.json:
        print_json(_json(answers))
    else:
        for rule, answer, problem in answers:
            _show(rule, answer, problem, everything)
    return 0 if all(answer is not None for _, answer, _ in answers) else 1


def _json(answers: list[tuple[Rule, Answer | None, str]]) -> dict[str, Any]:
    return {
        "sweeps": [
            {
                "rule": rule.name,
                "source": rule.sweep.source,
                "matches": answer.matches if answer else 0,
                "complete": answer.complete if answer else False,
                "queries": answer.queries if answer else 0,
                "reason": answer.reason if answer else problem,
            }
            for rule, answer, problem in answers
        ],
        "transfers": [
            {
                "rule": rule.name,
                "source": rule.sweep.source,
                "destination": decision.destination or None,
                "study_instance_uid": decision.study_instance_uid,
                "series_instance_uid": decision.series_instance_uid or None,
                "expected": decision.instance_count,
                "decision": str(decision.action),
                "code": decision.code,
                "reason": decision.reason,
            }
            for rule, answer, _ in answers
            if answer
            for decision in answer.selection.decisions
        ],
    }


def show_plan(rules: RuleSet, rule: Rule, sweeper: Sweeper) -> None:
    """Plan one rule and print it. Raises WireError where the source cannot be asked."""
    _show(rule, _look(rules, rule, sweeper), "", everything=False)


def _look(rules: RuleSet, rule: Rule, sweeper: Sweeper) -> Answer:
    return sweeper.look(rules, rule, threading.Event(), tier=rule.sweep.widest_tier, manual=True)


def _show(rule: Rule, answer: Answer | None, problem: str, everything: bool) -> None:
    out = terminal()
    if answer is None:
        out.print(f"[bold]{rule.name}[/]: [red]{problem}[/]")
        return
    decisions = answer.selection.decisions
    totals = Counter(decision.action for decision in decisions)
    out.print(
        f"[bold]{rule.name}[/] ({rule.sweep.source}): {answer.matches} matches in {answer.queries} queries; "
        + ", ".join(f"{totals[action]} {action}" for action in Action)
        + ("" if answer.complete else f"; [red]incomplete: {answer.reason}[/]")
    )
    moved = sum(d.instance_count or 0 for d in decisions if d.action is Action.MOVE)
    shown = [d for d in decisions if everything or d.action is not Action.SKIP]
    if shown:
        out.print(_table(shown))
        out.print(f"{moved} instances to move.")
    if not everything:
        for reason, count in Counter(d.reason for d in decisions if d.action is Action.SKIP).most_common(20):
            out.print(f"  skip {count} x {reason}", markup=False)


def _table(decisions: list[Decision]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("decision", "to", "study"):
        table.add_column(column)
    table.add_column("instances", justify="right")
    table.add_column("why", overflow="fold")
    for decision in decisions:
        table.add_row(
            f"[{_STYLES[decision.action]}]{decision.action}[/]",
            decision.destination,
            short(decision.study_instance_uid, decision.series_instance_uid),
            "?" if decision.instance_count is None else str(decision.instance_count),
            decision.reason,
        )
    return table
