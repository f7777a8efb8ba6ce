"""Checks of who may come in: certificates that nobody looks at, metrics that nobody could read."""

from __future__ import annotations

from collections.abc import Iterator

from router.config.checks_prefetch import warning_at
from router.config.diagnostics import Code, Diagnostic
from router.config.model import Builder
from router.config.schema import diagnostic_at, node_at
from router.domain.quarantine import ALLOW
from router.domain.rule import GUARDED, LOCAL, RuleSet


def check_access(rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    """What protects less than it seems to."""
    router = rules.router
    for name, node in rules.nodes.items():
        if not node.certificate_names or router.tls is not None or builder.is_damaged(name, "router"):
            continue
        place = node_at(builder.node_tree(name), ("certificate_names",), at_key=True)
        subject = f"nodes.{name}.certificate_names"
        if node.tls is None:
            message = f"{subject}: no certificate is ever seen, for neither router.tls nor nodes.{name}.tls is set"
            yield diagnostic_at(place, Code.UNSEEN_CERTIFICATE, message, "set router.tls, or leave the names out")
        else:
            message = f"{subject}: who calls as {name} is let in without, for router.tls is not set"
            hint = "set router.tls; until then only what this router connects to is looked at"
            yield warning_at(place, Code.UNSEEN_CERTIFICATE, message, hint)
    clients = router.http_tls is not None and router.http_tls.clients
    if router.metrics == GUARDED and router.token is None and not clients and not builder.is_damaged("router"):
        place = node_at(builder.sections.router, ("metrics",))
        message = "router.metrics: nobody could read them, for there is neither router.token nor http_tls.clients"
        yield diagnostic_at(place, Code.UNREADABLE_METRICS, message, "set router.token, or metrics: open")


def check_pushes(rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    """Rules that wait for what nobody sends, or nobody may."""
    fetched = {rule.source for rule in rules.rules.values() if rule.enabled and LOCAL in rule.move.to}
    for rule in rules.rules.values():
        for index, name in enumerate(rule.arrival.senders if rule.enabled and rule.arrival is not None else ()):
            node = rules.node(name)
            if node is None or node.push == ALLOW or name in fetched or builder.is_damaged(name, *rules.rules, "rules"):
                continue
            place = builder.rule_place(rule.name, "arrival", "from", index)
            message = f"rules.{rule.name}.arrival.from: nothing arrives from {name}: its push is {node.push}, "
            message += "and no rule moves from it to local"
            hint = f"set nodes.{name}.push: allow, or add a rule that moves to local"
            yield warning_at(place, Code.NEVER_ARRIVES, message, hint)
