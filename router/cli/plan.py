"""`plan`: what a sweep would do, without doing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.cli.apply import rules_named
from router.cli.lines import in_lines
from router.cli.plan_against import Listed, against, say_closed
from router.cli.plan_estimate import Forecast, Forecaster, said, said_in_all
from router.cli.plan_priors import show_priors
from router.cli.plan_rows import plan_json
from router.cli.planned import Planned, look, plan_rules
from router.cli.render import ACTION_STYLES, counted, new_table, short
from router.cli.settings import load_rules, plain, print_json, say, settings_of, terminal
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Action, Decision
from router.engine.look import Answer
from router.engine.sweep import Sweeper
from router.errors import UsageError
from router.service import planner

_ORDER = list(Action)
_ROWS = 40
"""Rows of a rule's table before `--all` is needed."""
_REASONS = 12
_COLUMNS = ("", "study", "instances", "to", "why")


@click.command(short_help="Say what would be moved or forwarded, and why.")
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Only this rule; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="List every study, those that are skipped too.")
@click.option(
    "--against",
    "changed",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Say what the changed configuration in DIR makes different from the one that runs now (--config).",
)
@click.option(
    "--studies",
    is_flag=True,
    help="With --against: list the difference study by study; with --all also where only the reason reads otherwise.",
)
@click.pass_context
def plan(ctx: click.Context, names: tuple[str, ...], everything: bool, changed: Path | None, studies: bool) -> int:
    """Say what would be moved or forwarded, held and skipped, why, and about how long that takes.

    Asks the sources (C-FIND only), or looks into the store for what is forwarded; moves and writes nothing. With
    --against DIR it plans twice: for --config, which is what runs now, and for DIR, a changed copy of it, and says what
    the change makes different.

    Exit code 1 if a source could not be asked.
    """
    settings = settings_of(ctx)
    if studies and changed is None:
        raise UsageError("--studies lists the difference that --against DIR finds; name the DIR, or use --all.")
    rules = load_rules(settings)
    if changed is not None:
        listed = (Listed.ALL if everything else Listed.DECIDED) if studies else Listed.NOTHING
        return against(settings, rules, changed, names, listed)
    chosen = rules_named(rules, names)
    say_closed(rules, chosen)
    with planner(rules, say) as opened:
        planned = plan_rules(opened, [(rules, rule) for rule in chosen], opened.sweeper.now())
        forecaster = Forecaster(opened.ledger, rules, opened.sweeper.now())
        if settings.json:
            print_json(plan_json(rules, planned, forecaster))
        else:
            _print(rules, planned, forecaster, everything=everything)
    return 1 if any(one.failure for one in planned) else 0


def _print(rules: RuleSet, planned: Sequence[Planned], forecaster: Forecaster, *, everything: bool) -> None:
    out = terminal()
    for number, one in enumerate(planned):
        with out:  # written at once
            if number:
                out.print()
            show(rules, one, out, everything=everything, forecast=forecaster.rule(one))
    total = forecaster.total(planned)
    failed = sum(bool(one.failure) for one in planned)
    if failed and (failed < len(planned) or total.waiting):
        out.print()
        out.print(f"{counted(failed, 'rule')} could not be planned; of the others:", style="red")
    if failed == len(planned) and not total.waiting:
        return
    if total.waiting or (total.transfers and (len(planned) > 1 or total.studies != total.transfers)):
        out.print()
        out.print(plain(said_in_all(total), "bold"))


def show_plan(rules: RuleSet, rule: Rule, sweeper: Sweeper, out: Console) -> None:
    """Plan one rule and print it."""
    show(rules, look(sweeper, rules, rule, (), sweeper.now()), out, everything=False)


class _Row(NamedTuple):
    """What is decided alike for one study or series."""

    action: Action
    study: str
    series: str
    instances: int | None
    reason: str


def show(rules: RuleSet, one: Planned, out: Console, *, everything: bool, forecast: Forecast | None = None) -> None:
    """A rule's plan for people: a row per study and decision, reasons of those that are left out counted."""
    if one.answer is None:
        out.print(Text.assemble((one.rule.name, "bold"), ": ", plain(one.problem, "red")))
        return
    decisions = one.answer.selection.decisions
    trigger = one.rule.trigger
    if trigger in ("order", "arrival") and one.rule.forward is None:
        out.print(Text.assemble((one.rule.name, "bold"), f": {counted(one.currents, trigger)} waiting"))
        show_priors(rules, one.rule, one.priors, one.currents, out, everything=everything)
        if one.priors:
            out.print(plain(_to_move(one, forecast)))
        return
    out.print(Text.assemble((one.rule.name, "bold"), f": {_found(one.rule, one.answer)}"))
    if one.answer.account:
        out.print(plain(one.answer.account, "dim"))
    if not one.answer.complete:
        out.print(plain(f"The answer is incomplete: {one.answer.reason}", "red"))
    if one.rule.priors is not None:
        show_priors(rules, one.rule, one.priors, one.currents, out, everything=everything)
    rows = _rows(d for d in decisions if everything or d.action is not Action.SKIP)
    if rows:
        shown = rows if everything else rows[:_ROWS]
        out.print(_table(shown, out))
        if len(rows) > len(shown):
            out.print(f"and {len(rows) - len(shown)} more; --all lists them", style="dim")
    out.print(plain(_to_move(one, forecast)))
    if not everything:
        _show_skipped([d for d in decisions if d.action is Action.SKIP], out)


def _found(rule: Rule, answer: Answer) -> str:
    """How much was looked at."""
    if rule.forward is None:
        found = counted(answer.matches, "match", "matches")
        return f"{found} at {rule.asked}, {counted(answer.queries, 'query', 'queries')}"
    senders = rule.arrival.senders if rule.arrival is not None else ()
    of = f" with something from {' or '.join(senders)}" if senders else ""
    return f"{counted(answer.matches, 'study', 'studies')} in the store{of}"


def _to_move(one: Planned, forecast: Forecast | None) -> str:
    counts, unknown = one.moves.values(), sum(count is None for count in one.moves.values())
    verb = "forward" if one.rule.forward is not None else "move"
    return said(forecast, len(counts), sum(count or 0 for count in counts), unknown, verb)


def _rows(decisions: Iterable[Decision]) -> list[tuple[_Row, list[str]]]:
    """Decisions that differ in their destination only make one row."""
    rows: dict[_Row, list[str]] = {}
    for one in decisions:
        row = _Row(one.action, one.study_instance_uid, one.series_instance_uid, one.instance_count, one.reason)
        rows.setdefault(row, []).append(one.destination)
    return sorted(rows.items(), key=lambda item: _ORDER.index(item[0].action))


def _table(rows: list[tuple[_Row, list[str]]], out: Console) -> Table | Text:
    cells = [
        (
            Text(str(row.action), ACTION_STYLES[row.action]),
            Text(short(row.study, row.series)),
            Text("?" if row.instances is None else str(row.instances)),
            plain(", ".join(filter(None, destinations))),
            plain(row.reason),
        )
        for row, destinations in rows
    ]
    numbers = max(len(_COLUMNS[2]), *(row[2].cell_len for row in cells))
    lines = [tuple(Text(name, "bold") for name in _COLUMNS), *cells]
    for line in lines:
        line[2].pad_left(numbers - line[2].cell_len)
    whole = in_lines(out, lines, gap=2)
    if whole is not None:
        return whole
    table = new_table(*_COLUMNS, right=(_COLUMNS[2],))
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for line in cells:
        table.add_row(*line)
    return table


def _show_skipped(skipped: list[Decision], out: Console) -> None:
    reasons = Counter(d.reason for d in skipped).most_common()
    if not reasons:
        return
    rows = [(Text(f"skip {count}:", "dim"), plain(reason, "dim")) for reason, count in reasons[:_REASONS]]
    if len(reasons) > _REASONS:
        left = sum(count for _, count in reasons[_REASONS:])
        rows.append((Text(f"skip {left}:", "dim"), plain("other reasons; --all lists them", "dim")))
    lines = in_lines(out, rows)
    if lines is not None:
        out.print(lines)
        return
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for row in rows:
        grid.add_row(*row)
    out.print(grid)
