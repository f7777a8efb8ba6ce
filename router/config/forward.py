"""The action `forward`, from its tree to the model. What it means beside other settings is checked elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.config.base import Base
from router.config.document import MappingNode
from router.domain import rule as model
from router.domain.dicom import QueryRetrieveLevel
from router.domain.forward import Choice, Forward, Group, Syntax


def forward(values: Mapping[str, Any], arrival: model.Arrival | None) -> Forward:
    """The action; without a level it is that of the arrival."""
    return Forward(
        to=tuple(_group(given) for given in values.get("to", ()) if given),
        level=model.Unit(values.get("level", arrival.level if arrival is not None else "study")),
        transfer_syntax=Syntax(values.get("transfer_syntax", "keep")),
    )


def _group(given: str | Mapping[str, list[str]]) -> Group:
    if isinstance(given, str):
        return Group(nodes=(given,))
    [(choice, nodes)] = given.items()
    return Group(choice=Choice(choice), nodes=tuple(nodes))


def as_move(base: Base, tree: MappingNode, values: Mapping[str, Any], action: Forward) -> model.Move:
    """Destinations, evidence and retries, where every part of the program looks for them."""
    return model.Move(
        to=action.nodes,
        level=QueryRetrieveLevel.STUDY if action.level is model.Unit.STUDY else QueryRetrieveLevel.SERIES,
        verify=values.get("verify", "auto"),
        retry=base.settings(model.Retry, tree, values, "retry"),
    )
