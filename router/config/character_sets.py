"""A node's `find.assume_character_set`: one defined term, or several as a list or with backslashes between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from router.config.diagnostics import Code
from router.config.document import MappingNode
from router.config.schema import did_you_mean, node_at
from router.domain.character_set import DEFINED_TERMS, character_set
from router.domain.problem import ExpressionError


def with_character_set(
    name: str, tree: MappingNode, values: Mapping[str, Any], report: Callable[..., None]
) -> Mapping[str, Any]:
    """The values of a node with its assumed character set as one text; what is none is reported and left out."""
    given = values.get("find", {}).get("assume_character_set")
    if given is None:
        return values
    find = dict(values["find"])
    listed = isinstance(given, list)
    try:
        find["assume_character_set"] = character_set(given if listed else given.split("\\"))
    except ExpressionError as error:
        del find["assume_character_set"]
        place = node_at(tree, ("find", "assume_character_set", *(error.path if listed else ())))
        meant = did_you_mean(error.name.upper(), DEFINED_TERMS) if error.name else ""
        message = f"nodes.{name}.find.assume_character_set: {error.message}"
        report(place, Code.BAD_VALUE, message, meant or error.hint)
    return {**values, "find": find}
