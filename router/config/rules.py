"""The section `rules`: each rule with its trigger, its condition, its priors and what is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.config.base import Base
from router.config.diagnostics import Code
from router.config.document import MappingNode
from router.config.forward import as_move, forward
from router.config.merge import TRIGGERS
from router.config.notify import rule_notify
from router.config.priors import build_priors
from router.config.schema import raw_value, schema_at, value_of
from router.config.triggers import arrival, order, sweep, worklist
from router.domain import rule as model
from router.domain.anatomy import Anatomy
from router.domain.condition import compile_condition
from router.domain.dicom import QueryRetrieveLevel


def build_rule(
    base: Base, name: str, tree: MappingNode, nodes: Mapping[str, model.Node], anatomy: Anatomy
) -> model.Rule:
    """A rule, from its tree with the defaults merged in."""
    values = value_of(tree, schema_at(("rules", name)))
    where = tree.values.get("where", MappingNode(tree.file, tree.line, tree.column))
    condition, errors = compile_condition(raw_value(where) if isinstance(where, MappingNode) else {})
    for error in errors:
        base.report_expression(error, where, f"rules.{name}.where")
    _one_trigger(base, name, tree)
    triggers = {key: inner for key in TRIGGERS if (inner := _mapping(tree, key)) is not None}
    arrived = arrival(base, triggers["arrival"], values["arrival"]) if "arrival" in triggers else None
    passing_on = _mapping(tree, "forward")
    passes_on = forward(values["forward"], arrived) if passing_on is not None else None
    return model.Rule(
        name=name,
        description=values.get("description", ""),
        owner=values.get("owner", ""),
        enabled=values.get("enabled", True),
        priority=values.get("priority", "normal"),
        sweep=sweep(base, name, triggers["sweep"], values["sweep"], nodes) if "sweep" in triggers else None,
        worklist=worklist(base, name, triggers["worklist"], values["worklist"], nodes)
        if "worklist" in triggers
        else None,
        order=order(base, triggers["order"], values["order"]) if "order" in triggers else None,
        arrival=arrived,
        where=condition,
        priors=build_priors(base, name, inner, values["priors"], anatomy)
        if (inner := _mapping(tree, "priors")) is not None
        else None,
        move=as_move(base, passing_on, values["forward"], passes_on)
        if passing_on is not None and passes_on is not None
        else _move(base, tree, values.get("move", {})),
        forward=passes_on,
        limits=base.settings(model.RuleLimits, tree, values, "limits"),
        notify=rule_notify(values),
    )


def _mapping(tree: MappingNode, key: str) -> MappingNode | None:
    """What stands beside a key; an empty mapping where that is nothing, None where there is no such key."""
    inner = tree.values.get(key)
    if inner is None or isinstance(inner, MappingNode):
        return inner
    return MappingNode(inner.file, inner.line, inner.column)


def _one_trigger(base: Base, name: str, tree: MappingNode) -> None:
    given = [key for key in tree.values if key in TRIGGERS]
    if len(given) > 1:
        first, second = (tree.keys[key] for key in given[:2])
        message = f"rules.{name} has more than one trigger: {' and '.join(given)}"
        hint = f"{given[0]} is at {first.file}:{first.line}:{first.column}; make a rule of each"
        base.report(second, Code.TRIGGER, message, hint)
    elif not given and not base.is_damaged(name):
        hint = 'sweep, worklist, order or arrival, for example sweep: {"source": "archive", "every": "5m"}'
        base.report(base.rule_place(name, "-"), Code.TRIGGER, f"rules.{name} has no trigger", hint)


def _move(base: Base, tree: MappingNode, values: Mapping[str, Any]) -> model.Move:
    inner = tree.values.get("move")
    retry = model.Retry()
    if isinstance(inner, MappingNode):
        retry = base.settings(model.Retry, inner, values, "retry")
    return model.Move(
        to=tuple(values.get("to", ())),
        level=QueryRetrieveLevel(values.get("level", "STUDY")),
        verify=values.get("verify", "auto"),
        skip_present=values.get("skip_present", True),
        via=values.get("via"),
        retry=retry,
    )
