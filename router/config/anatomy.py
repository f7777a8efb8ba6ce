"""The anatomy table: the one shipped beside this file, and what a configuration's section `anatomy` makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from router.config.diagnostics import Code
from router.config.document import MappingNode, Node, parse_document
from router.config.schema import did_you_mean, node_at, raw_value, schema_at, value_of
from router.config.tls import Report
from router.domain.anatomy import Anatomy, Region
from router.domain.pattern import regular_expression
from router.domain.priors import NEAR, SAME
from router.domain.problem import ExpressionError

FILE_NAME = "anatomy.yaml"
_RECOGNISERS = ("codes", "regions", "body_part", "near")


@lru_cache(maxsize=1)
def shipped() -> Anatomy:
    """The table that holds where a configuration says nothing else."""
    contents = resources.files("router.config").joinpath(FILE_NAME).read_bytes()
    root, _ = parse_document(contents, FILE_NAME)
    assert isinstance(root, MappingNode)
    return Anatomy(
        regions={
            name: _region(name, values, tuple(re.compile(text, re.IGNORECASE) for text in values["description"]))
            for name, values in raw_value(root).items()
        }
    )


def compile_anatomy(section: MappingNode, report: Report) -> Anatomy:
    """The shipped table with the section `anatomy` on top; what of it is not understood goes to `report`."""
    if not section.values:
        return shipped()
    regions = dict(shipped().regions)
    trees = {name: tree for name, tree in section.values.items() if isinstance(tree, MappingNode)}
    for name, tree in trees.items():
        if name in (SAME, NEAR):
            hint = "a rule's priors mean the current study's regions, or their neighbours, by it"
            report(section.keys[name], Code.BAD_NAME, f"a region cannot be called {name}", hint)
            continue
        values = value_of(tree, schema_at(("anatomy", name)))
        given = _region(name, values, _patterns(name, tree, values, report))
        known = regions.get(name)
        regions[name] = given if known is None or values.get("replace", False) else _joined(known, given)
    for name, tree in trees.items():
        near = tree.values.get("near")
        for index, other in enumerate(raw_value(near) if near is not None else ()):
            if other not in regions or other == name:
                place: Node = node_at(tree, ("near", index))
                message = f"anatomy.{name}.near: there is no region {other!r}"
                if other == name:
                    message = f"anatomy.{name}.near: a region is no neighbour of itself"
                hint = did_you_mean(other, regions) or "regions are " + ", ".join(regions)
                report(place, Code.BAD_VALUE, message, hint if other != name else "leave it out")
    return Anatomy(regions=regions)


def _patterns(name: str, tree: MappingNode, values: Mapping[str, Any], report: Report) -> tuple[re.Pattern[str], ...]:
    patterns = []
    for index, text in enumerate(values.get("description", ())):
        try:
            patterns.append(regular_expression(text, caseless=True))
        except ExpressionError as error:
            place = node_at(tree, ("description", index))
            report(place, Code.REGULAR_EXPRESSION, f"anatomy.{name}.description: {error.message}", error.hint)
    return tuple(patterns)


def _region(name: str, values: Mapping[str, Any], description: tuple[re.Pattern[str], ...]) -> Region:
    sets = {key: frozenset(values.get(key, ())) for key in _RECOGNISERS}
    return Region(name=name, description=description, **sets)


def _joined(known: Region, given: Region) -> Region:
    return Region(
        name=known.name,
        description=known.description + given.description,
        **{key: getattr(known, key) | getattr(given, key) for key in _RECOGNISERS},
    )
