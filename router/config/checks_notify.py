"""Checks of sense on who is told of what goes wrong: channels that are not there, and such that nobody uses."""

from __future__ import annotations

from collections.abc import Iterator

from router.config.checks_prefetch import warning_at
from router.config.diagnostics import Code, Diagnostic
from router.config.document import MappingNode, Node
from router.config.model import Builder
from router.config.schema import diagnostic_at, did_you_mean, node_at
from router.domain.rule import RuleSet


def check_notify(rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    """What is wrong between channels, and those who name them."""
    settings = rules.router.notify
    tree = builder.sections.router
    written = _names(tree, "notify", "channels")
    if builder.is_damaged("router") or set(written) - set(settings.channels):
        return  # what is missing then is known already
    for index, name in enumerate(settings.to or ()):
        if name not in written:
            yield _unknown(node_at(tree, ("notify", "to", index)), "router.notify.to", name, written)
    named, doubtful = set(settings.heard_by), not set(settings.heard_by) <= set(written)
    for rule in rules.rules.values():
        for index, name in enumerate(rule.notify.to or ()):
            named.add(name)
            if name not in written:
                doubtful = True
                place = builder.rule_place(rule.name, "notify", "to", index)
                yield _unknown(place, f"rules.{rule.name}.notify.to", name, written)
    for name in written:
        if name not in named and not doubtful:
            message = f"router.notify.channels.{name} is told nothing"
            hint = "name it under router.notify.to, or in a rule: notify: {to: [" + name + "]}"
            yield warning_at(node_at(tree, ("notify", "channels", name), at_key=True), Code.UNUSED_KEY, message, hint)
    if not written:
        yield from _without_channels(rules, builder)


def _without_channels(rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    hint = "add one under router.notify.channels: a name with mail or webhook"
    tree = builder.sections.router
    if "notify" in tree.values and not rules.router.notify.to:
        message = "router.notify has no channel: nobody is told anything"
        yield warning_at(node_at(tree, ("notify",), at_key=True), Code.NO_CHANNEL, message, hint)
        return
    for rule in rules.rules.values():
        if rule.notify.on and not rule.notify.to:
            message = f"rules.{rule.name}.notify: there is no channel, so nobody is told"
            yield warning_at(builder.rule_place(rule.name, "notify", at_key=True), Code.NO_CHANNEL, message, hint)
            return


def _unknown(place: Node, subject: str, name: str, known: list[str]) -> Diagnostic:
    message = f"{subject}: there is no channel {name!r}"
    hint = did_you_mean(name, known) or (
        f"channels: {', '.join(known)}" if known else "add it to router.notify.channels"
    )
    return diagnostic_at(place, Code.UNKNOWN_CHANNEL, message, hint)


def _names(tree: Node, *path: str) -> list[str]:
    """The keys of the mapping at a path; none where it is not there."""
    for step in path:
        if not isinstance(tree, MappingNode) or step not in tree.values:
            return []
        tree = tree.values[step]
    return list(tree.values) if isinstance(tree, MappingNode) else []
