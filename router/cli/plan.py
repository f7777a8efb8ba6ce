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
from router.cli.plan_priors import PlannedPriors, plan_priors, prior_fields, priors_row, show_priors
from router.cli.render import closed_nodes, counted, new_table, short
from router.cli.settings import load_rules, plain, print_json, say, settings_of, terminal
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Action, Decision
from router.engine.look import Answer
from router.engine.sweep import Sweeper
from router.errors import RouterError
from router.service import Planner, SystemClock, planner

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
    priors: Sequence[PlannedPriors] = ()
    """For each current study that was looked at, where the rule moves priors."""
    currents: int = 0
    """Current studies, those that were not looked at too."""

    @property
    def decisions(self) -> list[Decision]:
        """About what the sweep found, and about priors."""
        found = list(self.answer.selection.decisions) if self.answer else []
        return found + [decision for one in self.priors if one.looked for decision in one.looked.decisions]


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
    for name in dict.fromkeys(node for rule in chosen for node in (rule.asked, rule.source) if node in closed):
        say(f"{closed[name]} It is asked all the same, for this plan only.")
    with planner(rules, say) as opened:
        began = opened.sweeper.now()
        planned = [_plan(opened, rules, rule, chosen[at:], began) for at, rule in enumerate(chosen, 1)]
    if settings.json:
        print_json(_json(rules, planned))
    else:
        out = terminal()
        for number, one in enumerate(planned):
            if number:
                out.print()
            show(rules, one, out, everything=everything)
    asked = all(one.answer is not None and all(prior.looked for prior in one.priors) for one in planned)
    return 0 if asked else 1


def _plan(opened: Planner, rules: RuleSet, rule: Rule, beside: Sequence[Rule], since: datetime) -> Planned:
    planned = _look(opened.sweeper, rules, rule, beside, since)
    if rule.priors is None or planned.answer is None:
        return planned
    priors, currents = plan_priors(opened, rules, rule, planned.answer.notices)
    return planned._replace(priors=priors, currents=currents)


def _look(sweeper: Sweeper, rules: RuleSet, rule: Rule, beside: Sequence[Rule], since: datetime) -> Planned:
    try:
        answer = sweeper.look(
            rules, rule, threading.Event(), tier=rule.widest_tier, manual=True, beside=beside, since=since
        )
        return Planned(rule, answer)
    except RouterError as error:
        return Planned(rule, None, str(error))


def _json(rules: RuleSet, planned: list[Planned]) -> dict[str, Any]:
    looks = {"appointments": [priors_row(rules, one.rule, prior) for one in planned for prior in one.priors]}
    return {
        "sweeps": [
            {
                "rule": one.rule.name,
                "source": one.rule.asked,
                "matches": one.answer.matches if one.answer else 0,
                "complete": one.answer.complete if one.answer else False,
                "queries": one.answer.queries if one.answer else 0,
                "reason": one.answer.reason if one.answer else one.problem,
                "account": one.answer.account if one.answer else "",
            }
            for one in planned
        ],
        **(looks if any(one.rule.priors is not None for one in planned) else {}),
        "transfers": [_decision_row(one.rule, decision) for one in planned for decision in one.decisions],
    }


def _decision_row(rule: Rule, decision: Decision) -> dict[str, Any]:
    """A decision as JSON; `destination` is null where a study is left out before destinations matter."""
    return {
        "rule": rule.name,
        "source": rule.source,
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
        **prior_fields(decision),
    }


def show_plan(rules: RuleSet, rule: Rule, sweeper: Sweeper, out: Console) -> None:
    """Plan one rule and print it."""
    show(rules, _look(sweeper, rules, rule, (), sweeper.now()), out, everything=False)


class _Row(NamedTuple):
    """What is decided alike for one study or series."""

    action: Action
    study: str
    series: str
    instances: int | None
    reason: str


def show(rules: RuleSet, one: Planned, out: Console, *, everything: bool) -> None:
    """A rule's plan for people: a row per study and decision, reasons of those that are left out counted."""
    source = one.rule.asked
    if one.answer is None:
        out.print(Text.assemble((one.rule.name, "bold"), ": ", plain(one.problem, "red")))
        return
    decisions = one.answer.selection.decisions
    trigger = one.rule.trigger
    if trigger in ("order", "arrival"):
        out.print(Text.assemble((one.rule.name, "bold"), f": {counted(one.currents, trigger)} waiting"))
        show_priors(rules, one.rule, one.priors, one.currents, out, everything=everything)
        return
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
    if one.rule.priors is not None:
        show_priors(rules, one.rule, one.priors, one.currents, out, everything=everything)
    rows = _rows(d for d in decisions if everything or d.action is not Action.SKIP)
    if rows:
        shown = rows if everything else rows[:_ROWS]
        out.print(_table(shown))
        if len(rows) > len(shown):
            out.print(f"and {len(rows) - len(shown)} more; --all lists them", style="dim")
    moves = [d for d in one.decisions if d.action is Action.MOVE]
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
