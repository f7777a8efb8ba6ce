"""Checks of sense on what looks ahead: triggers other than a sweep, priors, orders. They read, nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from router.config.base import Base
from router.config.diagnostics import Code, Diagnostic, Severity
from router.config.document import Node
from router.config.schema import diagnostic_at, did_you_mean, node_at
from router.domain.dicom import QueryRetrieveLevel
from router.domain.rule import LOCAL, Rule, RuleLimits, RuleSet

_LONGEST = 30 * 86400.0
"""Seconds that something may be waited for."""

_USUAL = {
    "settle": "10m is usual, for late reports some hours",
    "stable": "60s is usual",
    "lead": "2h is usual",
}

_NOT_LOCAL = {
    "sweep.source": "this router's own store cannot be swept",
    "worklist.source": "this router has no worklist to ask",
    "priors.source": "this router's own store cannot be asked",
}


def warning_at(place: Node, code: Code, message: str, hint: str = "") -> Diagnostic:
    """A warning at a node's place."""
    return diagnostic_at(place, code, message, hint, severity=Severity.WARNING)


def nodes_hint(name: str, rules: RuleSet) -> str:
    """Which node was meant."""
    known = ", ".join(rules.nodes) if rules.nodes else "none is configured"
    return did_you_mean(name, rules.nodes) or f"nodes: {known}"


def check_source(rule: Rule, rules: RuleSet, builder: Base, key: str, source: str) -> Iterator[Diagnostic]:
    """Whether `source` below that key of a rule is a node."""
    if not source:
        if not builder.is_damaged(rule.name):
            place = builder.rule_place(rule.name, key, "source", at_key=True)  # where there is one, with nothing beside
            yield diagnostic_at(place, Code.MISSING_KEY, f"rules.{rule.name} has no {key}.source", "name a node")
    elif source not in rules.nodes and not builder.is_damaged(source, "nodes"):
        place = builder.rule_place(rule.name, key, "source")
        what = _NOT_LOCAL[f"{key}.source"] if source == LOCAL else f"there is no node {source!r}"
        message = f"rules.{rule.name}.{key}.source: {what}"
        yield diagnostic_at(place, Code.UNKNOWN_NODE, message, nodes_hint(source, rules))


def check_longest(rule: Rule, builder: Base, trigger: str, key: str, seconds: float) -> Iterator[Diagnostic]:
    """Whether something is waited for longer than makes sense."""
    if seconds > _LONGEST:
        message = f"rules.{rule.name}.{trigger}.{key} is longer than {_LONGEST / 86400:g} days"
        place = builder.rule_place(rule.name, trigger, key)
        yield diagnostic_at(place, Code.BAD_VALUE, message, _USUAL[key])


def check_prefetch(rule: Rule, rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """The triggers that look ahead, and the priors they are for."""
    if rule.worklist is not None:
        yield from check_source(rule, rules, builder, "worklist", rule.worklist.source)
        yield from check_longest(rule, builder, "worklist", "lead", rule.worklist.lead or 0.0)
    if rule.order is not None:
        yield from check_longest(rule, builder, "order", "lead", rule.order.lead or 0.0)
    if rule.arrival is not None:
        yield from check_longest(rule, builder, "arrival", "stable", rule.arrival.stable)
        for index, name in enumerate(rule.arrival.senders):
            if name not in rules.nodes and not builder.is_damaged(name, "nodes"):
                place = builder.rule_place(rule.name, "arrival", "from", index)
                message = f"rules.{rule.name}.arrival.from: there is no node {name!r}"
                yield diagnostic_at(place, Code.UNKNOWN_NODE, message, nodes_hint(name, rules))
    if rule.priors is not None:
        yield from check_source(rule, rules, builder, "priors", rule.priors.source)
        if not rule.priors.groups and not builder.is_damaged(rule.name):
            place = builder.rule_place(rule.name, "priors", at_key=True)
            hint = "for example groups: [{name: recent, max: 3, within: 5y}]"
            yield diagnostic_at(place, Code.MISSING_KEY, f"rules.{rule.name} has no priors.groups", hint)
        yield from _check_beside_priors(rule, builder)
        return
    trigger = next((key for key in ("worklist", "order") if getattr(rule, key) is not None), "")
    if trigger and rule.sweep is None and rule.forward is None and not builder.is_damaged(rule.name):
        place = builder.rule_place(rule.name, trigger, at_key=True)
        hint = "say with priors which earlier studies of the patient are moved"
        yield diagnostic_at(place, Code.MISSING_KEY, f"rules.{rule.name}: {trigger} needs priors", hint)


def _check_beside_priors(rule: Rule, builder: Base) -> Iterator[Diagnostic]:
    """Settings of a plain move."""
    wrong: list[tuple[tuple[str, ...], str]] = []
    if rule.limits != RuleLimits():
        wrong.append((("limits",), "give the groups a max"))
    if rule.sweep is not None and rule.sweep.settle:
        wrong.append((("sweep", "settle"), "leave it out: priors do not grow any more"))
    if rule.move.level is not QueryRetrieveLevel.STUDY:
        wrong.append((("move", "level"), "leave it out: priors are moved as whole studies"))
    for path, hint in wrong:
        place = builder.rule_place(rule.name, *path, at_key=True)
        message = f"rules.{rule.name}.{'.'.join(path)} has no meaning beside priors"
        yield diagnostic_at(place, Code.NOT_WITH_PRIORS, message, hint)


def check_orders(rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """Whether the rules that wait for orders and the listener for them fit together."""
    hl7, tree = rules.router.hl7, builder.sections.router
    waiting = [rule for rule in rules.rules.values() if rule.order is not None]
    if hl7 is None:
        for rule in waiting if not builder.is_damaged("router") else ():
            place = builder.rule_place(rule.name, "order", at_key=True)
            message = f"rules.{rule.name}: order needs a listener for HL7 messages, router.hl7"
            yield diagnostic_at(place, Code.MISSING_KEY, message, "for example hl7: {listen: 0.0.0.0:2575} in router")
        return
    if not waiting and not builder.is_damaged(*rules.rules, "rules"):
        place = node_at(tree, ("hl7",), at_key=True)
        message = "router.hl7: no rule waits for orders, messages would be acknowledged for nothing"
        yield warning_at(place, Code.UNUSED_KEY, message, "add a rule with order:, or leave it out")
    for rule in waiting:
        for index, sender in enumerate(rule.order.senders if rule.order is not None else ()):
            if hl7.senders and not any(_overlap(sender, other) for other in hl7.senders):
                place = builder.rule_place(rule.name, "order", "from", index)
                message = f"rules.{rule.name}.order.from: router.hl7.from does not let {sender!r} in"
                hint = "add it there, or leave one of the two lists away"
                yield warning_at(place, Code.UNUSED_KEY, message, hint)


def _overlap(one: str, other: str) -> bool:
    """Whether a sender can be meant by both: an application stands for all of its facilities."""
    application, _, facility = one.partition("|")
    other_application, _, other_facility = other.partition("|")
    return application == other_application and (not facility or not other_facility or facility == other_facility)
