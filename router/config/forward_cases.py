"""What cases about passing on have of their own: what arrived from whom, and which nodes can take something."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from router.config.case_values import CaseTree
from router.config.diagnostics import Code
from router.config.document import MappingNode, ScalarNode
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier
from router.domain.forward_case import Arrived
from router.domain.forward_choice import Health
from router.domain.rule import Rule, RuleSet
from router.domain.sweep_case import Fact, Part

INSTANCES = "instances"
_OWN = ("from", "ago", INSTANCES)
"""Keys of what was received that are no attributes; an instance has `series` in the place of the last."""
_OF_INSTANCE = ("from", "ago", "series")
_ONLY = "1"
"""The name of an instance or series that stands for all there is."""


def received(
    tree: CaseTree, rule: Rule, rules: RuleSet, now: datetime, evaluation: Evaluation
) -> dict[str, dict[str, Arrived]]:
    """What arrived: study -> its instances by names. Without more it came from the first node of `from`, long ago."""
    assert rule.arrival is not None
    senders = rule.arrival.senders
    usual = Arrived(
        header=Identifier(),
        series=_ONLY,
        sender=senders[0] if senders else "",
        at=now - timedelta(seconds=rule.arrival.stable),
    )
    found: dict[str, dict[str, Arrived]] = {}
    for study, node in tree.section("received").values.items():
        given = node if isinstance(node, MappingNode) else MappingNode(tree.key.file, 0, 0)
        where = f"received.{study}"
        shared = _arrived(tree, where, given, usual, rules, now, evaluation, _OWN)
        below = given.values.get(INSTANCES)
        rows = below.values.items() if isinstance(below, MappingNode) else ()
        instances = {
            name: _arrived(tree, f"{where}.{INSTANCES}.{name}", row, shared, rules, now, evaluation, _OF_INSTANCE)
            if isinstance(row, MappingNode)
            else shared
            for name, row in rows
        }
        for name in set(instances) & {one.series for one in instances.values()}:
            assert isinstance(below, MappingNode)
            message = f"{name} is the name of an instance and of a series"
            tree.refuse(below.keys[name], where, message, "give each its own: expect means one of them")
        found[study] = instances or {_ONLY: shared}
    return found


def _arrived(
    tree: CaseTree,
    where: str,
    node: MappingNode,
    usual: Arrived,
    rules: RuleSet,
    now: datetime,
    evaluation: Evaluation,
    own: tuple[str, ...],
) -> Arrived:
    """An instance, or what is common to all of a study; what is not said is as in `usual`."""
    texts = {key: one for key, one in node.values.items() if key in own and isinstance(one, ScalarNode)}
    sender, at = usual.sender, usual.at
    if "from" in texts:
        sender = texts["from"].text
        tree.knows(texts["from"], f"{where}.from", sender, "node", rules.nodes)
    if "ago" in texts:
        at = tree.ago(texts["ago"], f"{where}.ago", now) or at
    header = tree.identifier(where, node, evaluation, leave_out=own)
    return Arrived(
        header=Identifier({**usual.header.elements, **header.elements}),
        series=texts["series"].text if "series" in texts else usual.series,
        sender=sender,
        at=at,
    )


def health(tree: CaseTree, rule: Rule) -> dict[str, Health]:
    """Nodes that cannot take anything now."""
    return {name: Health(node.text) for name, node in _of_destinations(tree, rule, "health")}


def given(tree: CaseTree, rule: Rule) -> dict[str, int]:
    """How many studies each node has got of the rule."""
    return {name: int(node.text) for name, node in _of_destinations(tree, rule, "given")}


def _of_destinations(tree: CaseTree, rule: Rule, key: str) -> Iterator[tuple[str, ScalarNode]]:
    section = tree.section(key)
    for name, node in section.values.items():
        if tree.knows(section.keys[name], key, name, "destination", rule.move.to) and isinstance(node, ScalarNode):
            yield name, node


def check_ledger(tree: CaseTree, ledger: dict[Part, dict[str, Fact]], arrived: dict[str, dict[str, Arrived]]) -> None:
    """Report a number of instances that the case does not have."""
    for part, at in ledger.items():
        there = sum(part.series in ("", one.series) for one in arrived[part.study].values())
        for destination, fact in at.items():
            if fact.instances is not None and fact.instances > there:
                node = tree.section("ledger").keys[str(part)]
                message = f"of {fact.instances} instances the case has {there}"
                hint = "the first so many of received were to go there: name them, or leave instances out"
                tree.refuse(node, f"ledger.{part}.{destination}", message, hint, code=Code.CASE_LEDGER)
