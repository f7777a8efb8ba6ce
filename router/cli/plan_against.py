"""`plan --against DIR`: what a changed configuration makes different from the one that runs now."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from router.cli.differing import differences_table, show_sides, show_totals
from router.cli.plan_estimate import Forecaster, estimate_json, said_of
from router.cli.plan_rows import plan_json
from router.cli.planned import Planned, plan_rules
from router.cli.render import counted, short
from router.cli.settings import Settings, load_rules, no_such, plain, print_json, say, terminal
from router.domain.difference import (
    NAME,
    Change,
    Comparison,
    Difference,
    Homes,
    Totals,
    compare,
    node_changes,
    renamed,
    router_changes,
    totals,
)
from router.domain.rule import Rule, RuleSet
from router.domain.waiting import closed_nodes
from router.errors import ConfigurationError, UsageError
from router.service import SystemClock, planner, planner_beside


class Listed(Enum):
    """Which studies are listed one by one."""

    NOTHING = "nothing"
    DECIDED = "decided"
    """Those that are decided otherwise."""
    ALL = "all"
    """Those as well whose reason only reads otherwise."""


class _Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A rule before and after the change."""

    name: str
    before: Planned | None
    """None: the configuration has no such rule that is enabled."""
    after: Planned | None
    comparison: Comparison

    @property
    def failure(self) -> str:
        """Why there is nothing to compare; empty where there is."""
        return next((one.failure for one in (self.before, self.after) if one is not None and one.failure), "")

    @property
    def doubt(self) -> str:
        """Why there may be more; empty where all answers are complete."""
        return next((one.doubt for one in (self.before, self.after) if one is not None and one.doubt), "")

    @property
    def change(self) -> str:
        """`new` or `gone`; empty where the rule is there on both sides."""
        return "new" if self.before is None else "gone" if self.after is None else ""


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that is to be said."""

    directory: Path
    nodes: dict[str, tuple[Change, ...]]
    router: tuple[Change, ...]
    rules: list[_Compared]
    totals: Totals


def say_closed(rules: RuleSet, chosen: Sequence[Rule]) -> None:
    """Say of each node that will be asked though its windows close it now."""
    closed = closed_nodes(rules, SystemClock().now())
    for name in dict.fromkeys(node for rule in chosen for node in (rule.asked, rule.source) if node in closed):
        say(f"{closed[name]} It is asked all the same, for this plan only.")


def against(settings: Settings, before: RuleSet, directory: Path, names: Sequence[str], listed: Listed) -> int:
    """Plan both configurations and print the difference; the exit code."""
    after = _changed_rules(directory)
    old, new = _chosen(before, after, names)
    say_closed(before, old)
    with planner(before, say) as opened:
        same = {name for name, node in before.nodes.items() if after.nodes.get(name) == node}
        began = opened.sweeper.now()
        anew = [rule for rule in new if not _alike(before, after, rule.name, same)]
        # A source that is the same on both sides is asked once where one answer can serve both.
        together = [(after, rule) for rule in anew if {rule.asked, rule.source} <= same]
        apart = [(after, rule) for rule in anew if not {rule.asked, rule.source} <= same]
        planned = plan_rules(opened, [*((before, rule) for rule in old), *together], began)
        with planner_beside(opened, after) as changed:
            planned += plan_rules(changed, apart, began)
        was = {one.rule.name: one for one in planned[: len(old)]}
        anew_planned = {one.rule.name: one for one in planned[len(old) :]}
        is_now = {rule.name: anew_planned.get(rule.name) or was[rule.name] for rule in new}
        homes = Homes(*(str(one.absolute()) for one in (settings.config, directory)))
        found = _compared(directory, before, after, was, is_now, homes)
        forecasts = [Forecaster(opened.ledger, rules, opened.sweeper.now()) for rules in (before, after)]
        if settings.json:
            usual = plan_json(before, list(was.values()), forecasts[0])
            print_json(
                {**usual, **_json(found), "estimate_against": estimate_json(list(is_now.values()), forecasts[1])}
            )
        else:
            out = terminal()
            _show(settings, found, out, listed)
            for when, side, forecaster in zip(("Now", "After the change"), (was, is_now), forecasts, strict=True):
                out.print(plain(f"{when}: {said_of(forecaster.total(list(side.values())))}"))
    return 1 if any(one.failure for one in found.rules) else 0


def _changed_rules(directory: Path) -> RuleSet:
    """The changed configuration. Raises ConfigurationError with its diagnostics printed."""
    try:
        return load_rules(Settings(config=directory))
    except ConfigurationError as error:
        raise ConfigurationError(f"--against: {error}") from None


def _chosen(before: RuleSet, after: RuleSet, names: Sequence[str]) -> tuple[list[Rule], list[Rule]]:
    """The enabled rules of these names (of all) on each side. Raises UsageError where neither side has one."""
    sides = [{name: rule for name, rule in rules.rules.items() if rule.enabled} for rules in (before, after)]
    known = {**sides[0], **sides[1]}
    for name in names:
        if name not in known:
            raise no_such("enabled rule", name, known)
    if not known:
        raise UsageError("No rule is enabled in either configuration, so there is nothing to compare.")
    old, new = ([rule for name, rule in side.items() if not names or name in names] for side in sides)
    return old, new


def _alike(before: RuleSet, after: RuleSet, name: str, same: set[str]) -> bool:
    """Whether a rule, with all that its decisions depend on, is the same on both sides."""
    rule = after.rules[name]
    if before.rules.get(name) != rule:
        return False
    senders = rule.arrival.senders or after.nodes if rule.arrival is not None else ()
    named = {rule.asked, rule.source, *rule.move.to, *senders}.intersection(after.nodes)
    if rule.priors is None:
        return named <= same
    return named <= same and (before.anatomy, before.router) == (after.anatomy, after.router)


def _compared(
    directory: Path,
    before: RuleSet,
    after: RuleSet,
    was: dict[str, Planned],
    is_now: dict[str, Planned],
    homes: Homes,
) -> _Found:
    rules, called = [], renamed(before, after)
    for name in dict.fromkeys((*was, *is_now)):
        old, new = was.get(name), is_now.get(name)
        one = _Compared(name=name, before=old, after=new, comparison=Comparison())
        if not one.failure:
            comparison = compare(old.decisions if old else (), new.decisions if new else (), called)
            one = msgspec.structs.replace(one, comparison=comparison)
        rules.append(one)
    sure = [one for one in rules if not one.failure]
    return _Found(
        directory=directory,
        nodes=node_changes(before, after, homes),
        router=router_changes(before, after, homes),
        rules=rules,
        totals=totals(
            (intent for one in sure if one.before for intent in one.before.moves),
            (intent for one in sure if one.after for intent in one.after.moves),
            called,
        ),
    )


# JSON -----------------------------------------------------------------------------------------------------------------


def _json(found: _Found) -> dict[str, Any]:
    return {
        "against": str(found.directory),
        "nodes": [
            {"node": name, "changes": [one._asdict() for one in changes]} for name, changes in found.nodes.items()
        ],
        "router": [one._asdict() for one in found.router],
        "rules": [
            {
                "rule": one.name,
                "change": one.change or None,
                "added": one.comparison.added,
                "removed": one.comparison.removed,
                "changed": one.comparison.changed,
                "reworded": one.comparison.reworded,
                "unchanged": one.comparison.unchanged,
                "reason": one.failure or one.doubt,
                "differences": [_difference(difference) for difference in one.comparison.differences],
            }
            for one in found.rules
        ],
        **found.totals._asdict(),
    }


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "study_instance_uid": one.unit.study_instance_uid,
        "series_instance_uid": one.unit.series_instance_uid or None,
        "destination": one.unit.destination or None,
        "before": one.before,
        "after": one.after,
    }


# text -----------------------------------------------------------------------------------------------------------------


def _show(settings: Settings, found: _Found, out: Console, listed: Listed) -> None:
    show_sides(out, settings.config, found.directory)
    for name, changes in found.nodes.items():
        out.print(plain(_changes_of(f"node {name}", changes)))
    if found.router:
        out.print(plain(_changes_of("this router", found.router)))
        out.print(plain(f"Both are planned with the ledger of {settings.config}.", "dim"))
    differs = False
    for one in found.rules:
        _show_rule(one, out, listed)
        differs = differs or one.comparison.reworded < len(one.comparison.differences)
    failed = sum(bool(one.failure) for one in found.rules)
    if failed < len(found.rules):
        but = f" (but for {counted(failed, 'rule')} that could not be compared)" if failed else ""
        show_totals(out, found.totals, but)
    if differs and listed is Listed.NOTHING:
        out.print("--studies lists the difference study by study.", style="dim")


def _show_rule(one: _Compared, out: Console, listed: Listed) -> None:
    head = Text.assemble((one.name, "bold"), f" ({one.change})" if one.change else "", ": ")
    if one.failure:
        out.print(Text.assemble(head, plain(f"not compared: {one.failure}", "red")))
        return
    found = one.comparison
    otherwise = found.changed - found.reworded
    counts = [f"+{found.added} -{found.removed} (={found.unchanged} unchanged)"]
    counts += [f"{otherwise} otherwise decided"] if otherwise else []
    counts += [f"{found.reworded} as before for a reason that reads otherwise"] if found.reworded else []
    out.print(Text.assemble(head, ", ".join(counts)))
    if one.doubt:
        out.print(plain(f"The answer is incomplete, so there may be more: {one.doubt}", "red"))
    shown = [one for one in found.differences if listed is Listed.ALL or not one.reworded]
    if shown and listed is not Listed.NOTHING:
        out.print(differences_table(shown, short))


def _changes_of(what: str, changes: Sequence[Change]) -> str:
    if len(changes) == 1 and not (changes[0].before and changes[0].after):
        only = changes[0]
        return f"{what}: {'new' if only.after else 'gone'}, {only.after or only.before}"
    name = next((f" is called {one.after} now" for one in changes if one.setting == NAME), "")
    others = "; ".join(f"{one.setting} {one.before} -> {one.after}" for one in changes if one.setting != NAME)
    return f"{what}{name}" + (f": {others}" if others else "")
