"""What every part of the builder uses: trees with their places, findings, and values that stand in many settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from router.config.diagnostics import Code, Diagnostic, Severity
from router.config.document import MappingNode, Node
from router.config.merge import Sections
from router.config.schema import diagnostic_at, did_you_mean, node_at
from router.config.values import (
    ae_title_problem,
    is_zone,
    machine_zone,
    nearest_attribute,
    nearest_zone,
    parse_percentage,
    result_limit,
)
from router.domain import rule as model
from router.domain.problem import ExpressionError, Kind, Step
from router.domain.timing import parse_duration

_CODES = {
    Kind.SYNTAX: Code.MATCHER,
    Kind.ATTRIBUTE: Code.UNKNOWN_ATTRIBUTE,
    Kind.MATCHER: Code.MATCHER,
    Kind.VALUE: Code.ATTRIBUTE_VALUE,
    Kind.REGEX: Code.REGULAR_EXPRESSION,
    Kind.DATE: Code.DATE,
    Kind.DATE_ORDER: Code.DATE_ORDER,
    Kind.CRON: Code.CRON,
    Kind.WINDOW: Code.WINDOW,
    Kind.KEY: Code.KEY_REFUSED,
    Kind.UID_WILDCARD: Code.UID_WILDCARD,
}

Settings = TypeVar("Settings", bound=model.Model)


@lru_cache(maxsize=64)
def _durations_of(kind: type[model.Model]) -> frozenset[str]:
    """The fields of a group of settings that are durations: asked for every node and rule, and slow to find out."""
    return frozenset(field.name for field in msgspec.structs.fields(kind) if field.type is float)


class Base:
    """The merged sections, and what is found in them. `damaged` names what the schema refused in part."""

    def __init__(self, sections: Sections, damaged: frozenset[Step], now: datetime) -> None:
        self.sections = sections
        self.diagnostics: list[Diagnostic] = []
        self.trees: dict[str, MappingNode] = {}
        """The rules' trees with the defaults merged in."""
        self.refused_keys: set[str] = set()
        """Rules with a matching key that could not be compiled."""
        self.now = now
        self.machine_zone = machine_zone()
        self._damaged = damaged

    # --- places -------------------------------------------------------------------------------------------------------

    def is_damaged(self, *names: str) -> bool:
        """Whether something of these nodes, rules or sections was refused before: what is missing then is no news."""
        return not self._damaged.isdisjoint(("", "defaults", *names))

    def rule_place(self, rule: str, *path: Step, at_key: bool = False) -> Node:
        """The place of something of a rule; of the rule's name where the path leads nowhere."""
        tree = self.trees[rule]
        place = node_at(tree, path, at_key)
        return self.sections.rules.keys[rule] if place is tree else place

    def node_tree(self, name: str) -> Node:
        """A node's tree with the defaults merged in."""
        tree = self.sections.nodes.values[name]
        return self.sections.with_defaults("nodes", tree) if isinstance(tree, MappingNode) else tree

    def report(self, place: Node, code: Code, message: str, hint: str = "", *, warning: bool = False) -> None:
        """Note a finding."""
        severity = Severity.WARNING if warning else Severity.ERROR
        self.diagnostics.append(diagnostic_at(place, code, message, hint, severity=severity))

    def report_expression(self, error: ExpressionError, tree: Node, subject: str, hint: str = "") -> None:
        """Note what is wrong with an expression of a tree; a `hint` takes the place of the usual one."""
        if not hint:
            hint = error.hint
            if error.kind is Kind.ATTRIBUTE and error.name:
                hint = nearest_attribute(error.name)
            elif error.kind is Kind.MATCHER and error.name:
                hint = did_you_mean(error.name, hint.removeprefix("matchers are ").split(", ")) or hint
        self.report(node_at(tree, error.path, error.at_key), _CODES[error.kind], f"{subject}: {error.message}", hint)

    # --- values -------------------------------------------------------------------------------------------------------

    def settings(self, kind: type[Settings], tree: MappingNode, values: Mapping[str, Any], key: str) -> Settings:
        """A group of numbers and durations, which are the fields of type float."""
        given: dict[str, Any] = dict(values.get(key, {}))
        if "max_results" in given:
            given["max_results"] = result_limit(given["max_results"])
        if "duty" in given:
            given["duty"] = parse_percentage(text := given["duty"])
            if given["duty"] is None:
                message = f"{text!r} is no duty cycle for {key}.duty"
                hint = "more than 0% and at most 100%, for example 50%"
                self.report(node_at(tree, (key, "duty")), Code.BAD_VALUE, message, hint)
        for name in _durations_of(kind) & set(given):
            given[name] = self.duration(node_at(tree, (key, name)), given[name])
        settings = kind(**given)
        inactivity, total = getattr(settings, "inactivity", 0.0), getattr(settings, "total", 0.0)
        if inactivity > total:
            place = node_at(tree, (key, "inactivity" if "inactivity" in given else "total"), at_key=True)
            self.report(place, Code.LIMITS, f"{key}.inactivity is longer than {key}.total", "it would never be reached")
        return settings

    def ae_title(self, place: Node, title: str, subject: str) -> bool:
        """Whether that is one."""
        problem = ae_title_problem(title)
        if problem:
            self.report(place, Code.AE_TITLE, f"{subject} {problem}")
        return not problem

    def zone(self, tree: MappingNode, values: Mapping[str, Any], default: str) -> str:
        """The key `timezone` of a tree."""
        name: str = values.get("timezone", default)
        if is_zone(name):
            return name
        self.report(tree.values["timezone"], Code.TIME_ZONE, f"there is no time zone {name!r}", nearest_zone(name))
        return default

    def duration(self, place: Node, text: str) -> float:
        """Seconds."""
        try:
            return parse_duration(text)
        except ExpressionError as error:
            self.report(place, Code.BAD_VALUE, error.message, error.hint)
            return 1.0

    def durations(self, tree: MappingNode, values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
        """Those of these keys that are given, in seconds."""
        return {key: self.duration(tree.values[key], values[key]) for key in keys if key in values}
