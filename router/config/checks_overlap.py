"""Checks of sense between rules and nodes: what one does for another already, what never happens, what is not used."""

from __future__ import annotations

from collections.abc import Iterator

from router.config.base import Base
from router.config.checks_condition import check_clashes
from router.config.checks_prefetch import warning_at
from router.config.diagnostics import Code, Diagnostic
from router.config.document import MappingNode, Node, ScalarNode
from router.config.schema import node_at
from router.domain.coincidence import falls_into, open_together
from router.domain.overlap import overlaps
from router.domain.rule import Rule, RuleSet


def check_together(rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """All of it; asked of a configuration without errors, so that nothing is missing that was only misspelt."""
    yield from _check_overlaps(rules, builder)
    for rule in rules.rules.values():
        yield from check_clashes(rule, rules, builder)
        if rule.enabled:
            yield from _check_windows(rule, rules, builder)
            yield from _check_schedules(rule, rules, builder)
    yield from _check_senders(rules, builder)
    yield from _check_used(rules, builder)
    yield from _check_cases(rules, builder)


def _place(node: Node) -> str:
    return f"{node.file}:{node.line}:{node.column}"


def _check_overlaps(rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """Rules that do nothing that others do not do."""
    keys = builder.sections.rules.keys
    for one in overlaps(rules.rules.values(), builder.now):
        others = " and ".join(one.by)
        where = ", ".join(f"{name} is at {_place(keys[name])}" for name in one.by)
        if one.twice:
            message = f"rules {one.rule} and {others} would move the same images to the same place in two ways"
            hint = f"{where}; let their keys exclude each other, or leave one out"
            yield warning_at(keys[one.rule], Code.MOVED_TWICE, message, hint)
        else:
            message = f"rules.{one.rule} moves nothing of its own: all that it finds is moved by {others} already"
            yield warning_at(keys[one.rule], Code.HIDDEN_RULE, message, f"{where}; leave one out, or narrow {others}")


def _check_windows(rule: Rule, rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """Nodes that are never open at the same time."""
    source = rules.node(rule.source)
    for index, name in enumerate(rule.move.to):
        destination = rules.node(name)
        if source is None or destination is None:
            continue
        if not open_together(source.windows, destination.windows, rules.windows, builder.now.date()):
            place = builder.rule_place(rule.name, "move", "to", index)
            message = f"rules.{rule.name}.move.to: {name} and {rule.source} are never open at the same time"
            hint = "nothing could ever be moved: let their windows overlap, or add {always: true} to one of them"
            yield warning_at(place, Code.NEVER_TOGETHER, message, hint)


def _check_schedules(rule: Rule, rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """Schedules that never come due while the node that is asked is open."""
    node = rules.node(rule.asked)
    trigger = "worklist" if rule.worklist is not None else "sweep"
    for index, tier in enumerate(rule.tiers if node is not None else ()):
        assert node is not None
        if not falls_into(tier.schedule, node.windows, rules.windows, builder.now.date()):
            tree = node_at(builder.trees[rule.name], (trigger,))
            tiered = isinstance(tree, MappingNode) and "tiers" in tree.values
            path = (trigger, "tiers", index, "cron") if tiered else (trigger, "cron")
            message = f"rules.{rule.name}.{trigger} never comes due while a window of {node.name} is open"
            hint = f"its runs would wait for the next window; cron is read in {tier.schedule.timezone}"
            yield warning_at(builder.rule_place(rule.name, *path), Code.NEVER_IN_WINDOW, message, hint)


def _check_senders(rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """AE titles under which two nodes store here."""
    first: dict[str, str] = {}
    for name, node in rules.nodes.items():
        for title in node.calling_ae_titles:
            other = rules.nodes.get(first.setdefault(title, name))
            if other is None or other is node or not (node.sends_as or other.sends_as):
                continue
            tree = builder.node_tree(name)
            own = node.sends_as.index(title) if title in node.sends_as else None
            place = node_at(tree, ("ae_title",) if own is None else ("sends_as", own))
            message = f"nodes {other.name} and {name} both store here as {title}: nobody can tell which of them it was"
            hint = f"{other.name} is at {_place(builder.sections.nodes.keys[other.name])}"
            yield warning_at(place, Code.SAME_SENDER, message, f"{hint}; give each the AE title that it stores from")


def _check_used(rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """Nodes that no rule names; where a rule takes what arrives from anywhere, that is all of them."""
    used: set[str] = set()
    for rule in rules.rules.values():
        used |= {rule.asked, rule.source, *rule.move.to}
        if rule.arrival is not None:
            used |= set(rule.arrival.senders or rules.nodes)
    for name in rules.nodes if rules.rules else ():
        if name not in used:
            message = f"no rule names the node {name}"
            place = builder.sections.nodes.keys[name]
            yield warning_at(place, Code.UNUSED_NODE, message, "name it in a rule, or leave it out")


def _check_cases(rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """Cases of rules that are disabled: what they say does not happen yet."""
    for name, tree in builder.sections.tests.values.items():
        named = tree.values.get("rule") if isinstance(tree, MappingNode) else None
        rule = rules.rules.get(named.text) if isinstance(named, ScalarNode) else None
        if named is not None and rule is not None and not rule.enabled:
            message = f"tests.{name} is about the rule {rule.name}, which is disabled"
            yield warning_at(named, Code.UNUSED_KEY, message, "it runs all the same; enable the rule once it is right")
