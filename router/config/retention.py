"""The key `router.retention`: when studies leave the object store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.config.base import Base
from router.config.checks_prefetch import warning_at
from router.config.diagnostics import Code, Diagnostic
from router.config.document import MappingNode
from router.config.schema import node_at
from router.config.values import parse_percentage
from router.domain.retention_settings import Retention, Watermark
from router.domain.rule import RuleSet

_KEEP = 7 * 86400.0
_USUAL = Watermark(high=0.85, low=0.75)


def retention_settings(base: Base, router: MappingNode, values: Mapping[str, Any]) -> Retention | None:
    """What the router's tree says of it; None where it says nothing."""
    tree = router.values.get("retention")
    if not isinstance(tree, MappingNode):
        return None
    given: Mapping[str, Any] = values["retention"]
    watermark = _watermark(base, tree, given["watermark"]) if "watermark" in given else None
    return Retention(keep=base.durations(tree, given, "keep").get("keep", _KEEP), watermark=watermark)


def _watermark(base: Base, tree: MappingNode, given: Mapping[str, Any]) -> Watermark:
    shares = {"high": _USUAL.high, "low": _USUAL.low}
    for key in shares.keys() & given.keys():
        share = parse_percentage(given[key])
        if share is None:
            place = node_at(tree, ("watermark", key))
            message = f"router.retention.watermark.{key}: {given[key]!r} is no share of a disk"
            base.report(place, Code.WATERMARK, message, "above 0% and at most 100%; high: 85%, low: 75% is usual")
            return _USUAL
        shares[key] = share
    if shares["low"] >= shares["high"]:
        place = node_at(tree, ("watermark", "low" if "low" in given else "high"))
        low, high = (given.get(key, f"{shares[key]:.0%}") for key in ("low", "high"))
        message = f"router.retention.watermark: low ({low}) is not below high ({high})"
        base.report(place, Code.WATERMARK, message, "high: 85%, low: 75% is usual")
        return _USUAL
    return Watermark(**shares)


def check_retention(rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """Retention by which nothing would ever leave."""
    if rules.router.retention is None or builder.is_damaged("router", "rules", *rules.rules):
        return
    if any(one.code is Code.WATERMARK for one in builder.diagnostics):
        return
    forwards = [rule for rule in rules.rules.values() if rule.enabled and rule.forward is not None]
    if not forwards:
        place = node_at(builder.sections.router, ("retention",), at_key=True)
        message = "router.retention: nothing ever leaves the store, for no rule forwards"
        yield warning_at(place, Code.NOTHING_LEAVES, message, "leave it out, or pass on what arrives with forward")
    for rule in forwards:
        if rule.move.verify == "none":
            place = builder.rule_place(rule.name, "forward", "verify")
            message = f"rules.{rule.name}.forward.verify: what is never proven never leaves the store"
            hint = "leave verify out, or router.retention"
            yield warning_at(place, Code.NEVER_PROVEN, message, hint)
