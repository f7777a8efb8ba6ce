"""What cases about sweeps have of their own: the ledger before the sweep, its tier, who asked for it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from router.config.case_values import CaseTree
from router.config.diagnostics import Code
from router.config.document import MappingNode, Node, ScalarNode
from router.domain.dicom import QueryRetrieveLevel
from router.domain.rule import Rule
from router.domain.sweep_case import Fact, Part
from router.domain.transfer import RULE_HOLDS, State


def tier(tree: CaseTree, rule: Rule) -> int:
    """The number of the tier that sweeps, from 0."""
    node, text = tree.tree.values.get("tier"), tree.text("tier")
    if node is None or text is None:
        return rule.widest_tier
    found = int(text) - 1
    if found >= len(rule.tiers):
        tiers = "1 tier" if len(rule.tiers) == 1 else f"{len(rule.tiers)} tiers"
        tree.refuse(node, "tier", f"the rule {rule.name} has {tiers}", code=Code.CASE_KEY)
        return rule.widest_tier
    return found


def flag(tree: CaseTree, key: str, *, default: bool) -> bool:
    """A boolean of the case."""
    text = tree.text(key)
    return default if text is None else text.casefold() == "true"


def number(tree: CaseTree, key: str) -> int:
    """A whole number of the case; 0 where it has none."""
    return int(tree.text(key) or 0)


def facts(tree: CaseTree, rule: Rule, parts: Collection[str], now: datetime) -> dict[Part, dict[str, Fact]]:
    """What the ledger says: study or series -> destination -> how the transfer stands."""
    section = tree.section("ledger")
    found: dict[Part, dict[str, Fact]] = {}
    by_series = rule.move.level is QueryRetrieveLevel.SERIES
    for name, at in section.values.items():
        if not tree.knows(section.keys[name], "ledger", name, "study", parts) or not isinstance(at, MappingNode):
            continue
        study, _, series = name.partition("/")
        if bool(series) is not by_series:
            moved, hint = ("series", f"{study}/SERIES") if by_series else ("studies", study)
            message = f"the rule {rule.name} moves {moved}, so the ledger has {moved}"
            tree.refuse(section.keys[name], "ledger", message, f"write {hint}", code=Code.CASE_LEDGER)
            continue
        there = found.setdefault(Part(study, series), {})
        for destination, node in at.values.items():
            where = f"ledger.{name}"
            if tree.knows(at.keys[destination], where, destination, "destination", rule.move.to):
                there[destination] = _fact(tree, f"{where}.{destination}", node, now)
    return found


def _fact(tree: CaseTree, where: str, node: Node, now: datetime) -> Fact:
    if not isinstance(node, MappingNode):
        return Fact(state=State(node.text if isinstance(node, ScalarNode) else State.COMPLETE))
    given = {key: value.text for key, value in node.values.items() if isinstance(value, ScalarNode)}
    fact = Fact(
        state=State(given["state"]),
        instances=int(given["instances"]) if given.get("instances") else None,
        cause=given.get("cause", ""),
        since=tree.ago(node.values["since"], f"{where}.since", now) if "since" in node.values else None,
        rule=given.get("rule", ""),
    )
    if fact.state is not State.HELD:
        for key in ("since", "rule"):
            if key in node.values:
                message = f"says something of a hold, but the transfer is {fact.state}"
                tree.refuse(node.keys[key], f"{where}.{key}", message, "leave it out", code=Code.CASE_LEDGER)
        if fact.cause in RULE_HOLDS:
            message = f"{fact.cause} is why a transfer is held, but this one is {fact.state}"
            tree.refuse(node.values["cause"], f"{where}.cause", message, "state: held", code=Code.CASE_LEDGER)
    elif "since" in node.values and fact.cause not in RULE_HOLDS:
        message = "how long an administrator has held it does not matter"
        hint = f"cause: one of {', '.join(sorted(RULE_HOLDS))}"
        tree.refuse(node.keys["since"], f"{where}.since", message, hint, code=Code.CASE_LEDGER)
    return fact
