"""Checks of sense on what is passed on: the action `forward` beside its trigger and its nodes. They read, no more."""

from __future__ import annotations

from collections.abc import Iterator

from router.config.base import Base
from router.config.checks_prefetch import nodes_hint, warning_at
from router.config.diagnostics import Code, Diagnostic
from router.config.document import Node
from router.config.schema import diagnostic_at
from router.domain.arriving import NEVER_IN_DATA_SETS
from router.domain.dicom import name_of
from router.domain.forward import Choice, Forward, Group
from router.domain.problem import Step
from router.domain.rule import LOCAL, Arrival, Rule, RuleLimits, RuleSet, Unit

_UNITS = tuple(Unit)


def check_forward(rule: Rule, rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """What is wrong with a rule that passes on what arrived, and with an arrival that nothing is passed on from."""
    action, arrival = rule.forward, rule.arrival
    if action is None:
        if arrival is not None and rule.priors is None and rule.sweep is None and not builder.is_damaged(rule.name):
            place = builder.rule_place(rule.name, "arrival", at_key=True)
            message = f"rules.{rule.name}: arrival needs forward or priors"
            hint = "say with forward where it is passed on, or with priors which earlier studies are moved"
            yield diagnostic_at(place, Code.MISSING_KEY, message, hint)
        elif arrival is not None and rule.priors is not None and arrival.level is not Unit.STUDY:
            place = builder.rule_place(rule.name, "arrival", "level", at_key=True)
            message = f"rules.{rule.name}.arrival.level has no meaning beside priors"
            yield diagnostic_at(place, Code.NOT_WITH_PRIORS, message, "leave it out: priors are those of whole studies")
        return
    yield from _check_beside(rule, builder)
    if arrival is not None:
        yield from _check_levels(rule, action, arrival, builder)
    yield from _check_destinations(rule, action, rules, builder)
    yield from _check_condition(rule, builder)


def _check_beside(rule: Rule, builder: Base) -> Iterator[Diagnostic]:
    """What else the rule says, or does not."""
    tree = builder.trees[rule.name]
    place = builder.rule_place(rule.name, "forward", at_key=True)
    if "move" in tree.values:
        message = f"rules.{rule.name} has more than one action: move and forward"
        yield diagnostic_at(place, Code.TRIGGER, message, "make a rule of each")
    if rule.priors is not None:
        message = f"rules.{rule.name}.forward has no meaning beside priors"
        yield diagnostic_at(place, Code.NOT_WITH_PRIORS, message, "priors are moved: say move")
    elif rule.arrival is None and rule.trigger in tree.values:
        message = f"rules.{rule.name}: {rule.trigger} does not go with forward"
        hint = "only what has arrived here is passed on: say arrival, or move in place of forward"
        yield diagnostic_at(place, Code.TRIGGER, message, hint)
    elif rule.limits != RuleLimits():
        limits = builder.rule_place(rule.name, "limits", at_key=True)
        message = f"rules.{rule.name}.limits has no meaning beside forward"
        yield diagnostic_at(limits, Code.UNKNOWN_KEY, message, "limit the nodes: limits of each destination")


def _check_levels(rule: Rule, action: Forward, arrival: Arrival, builder: Base) -> Iterator[Diagnostic]:
    if _UNITS.index(action.level) < _UNITS.index(arrival.level):
        place = builder.rule_place(rule.name, "forward", "level")
        message = f"rules.{rule.name}.forward.level: a {action.level} is more than the {arrival.level} that has arrived"
        yield diagnostic_at(place, Code.BAD_VALUE, message, f"leave it out, or say arrival.level: {action.level}")
    if arrival.level is Unit.INSTANCE and "stable" in getattr(builder.trees[rule.name].values["arrival"], "values", ()):
        place = builder.rule_place(rule.name, "arrival", "stable", at_key=True)
        message = f"rules.{rule.name}.arrival.stable is never used: an instance is there at once"
        yield warning_at(place, Code.UNUSED_KEY, message, "leave it out, or wait for the series or study")


# --- Destinations -----------------------------------------------------------------------------------------------------


def _places(rule: Rule, action: Forward, builder: Base) -> Iterator[tuple[str, Group, Node]]:
    """Each node that is named, with its group and where it stands."""
    for number, group in enumerate(action.to):
        place = builder.rule_place(rule.name, "forward", "to", number)
        for index, name in enumerate(group.nodes):
            steps: tuple[Step, ...] = ("forward", "to", number, str(group.choice), index)
            inside = builder.rule_place(rule.name, *steps)
            yield name, group, inside if len(group.nodes) > 1 or group.choice is not Choice.ALL_OF else place


def _check_destinations(rule: Rule, action: Forward, rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    subject = f"rules.{rule.name}.forward.to"
    if not action.to and not builder.is_damaged(rule.name):
        place = builder.rule_place(rule.name, "forward", at_key=True)
        yield diagnostic_at(
            place, Code.MISSING_KEY, f"rules.{rule.name} has no forward.to", "for example to: [archive]"
        )
    senders = rule.arrival.senders if rule.arrival is not None else ()
    origins = {title: name for name in senders if (node := rules.node(name)) for title in (node.ae_title,)}
    titles: dict[str, str] = {}
    for name, _, place in _places(rule, action, builder):
        if name == LOCAL:
            yield diagnostic_at(place, Code.LOOP, f"{subject}: local is where it has arrived already", "name a node")
            continue
        node = rules.node(name)
        if node is None:
            if not builder.is_damaged(name, "nodes"):
                message = f"{subject}: there is no node {name!r}"
                yield diagnostic_at(place, Code.UNKNOWN_NODE, message, nodes_hint(name, rules))
            continue
        title = node.ae_title
        if title == rules.router.ae_title:
            message = f"{subject}: {name} is this router itself (AE title {title})"
            yield diagnostic_at(place, Code.LOOP, message, "name another node")
        elif title in origins:
            message = f"{subject}: {name} is where it comes from (AE title {title})"
            yield diagnostic_at(
                place, Code.LOOP, message, f"leave it out, or take {origins[title]} out of arrival.from"
            )
        elif title and title in titles:
            same = "stands twice" if titles[title] == name else f"is the same destination as {titles[title]}"
            yield diagnostic_at(place, Code.SAME_NODE, f"{subject}: {name} {same} (AE title {title})", "leave one out")
        titles[title] = name
        if rule.move.verify == "commitment" and node.commitment is None:
            message = f"rules.{rule.name}.forward.verify: {name} is not known to answer storage commitment requests"
            hint = f"if it does, set nodes.{name}.commitment: true"
            yield diagnostic_at(builder.rule_place(rule.name, "forward", "verify"), Code.BAD_VALUE, message, hint)


# --- The condition ----------------------------------------------------------------------------------------------------


def _check_condition(rule: Rule, builder: Base) -> Iterator[Diagnostic]:
    for clause in rule.where.clauses:
        if clause.path[0] in NEVER_IN_DATA_SETS:
            place = builder.rule_place(rule.name, "where", clause.name, at_key=True)
            message = f"rules.{rule.name}.where: no instance that arrives holds {name_of(clause.path[0])}"
            hint = "only answers to a query do; attributes of the images themselves can be asked for"
            yield warning_at(place, Code.CONDITION_LEVEL, message, hint)
