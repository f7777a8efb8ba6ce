"""Many files, one configuration: sections merged by name, defaults merged into nodes and rules. Places are kept."""

from __future__ import annotations

from router.config.diagnostics import Code, Diagnostic
from router.config.document import MappingNode, Node, ScalarNode
from router.config.schema import diagnostic_at

_BY_NAME = {
    "nodes": "node",
    "rules": "rule",
    "windows": "window",
    "anatomy": "region",
    "tests": "test",
    "router": "setting router.",
}
TRIGGERS = ("sweep", "worklist", "order", "arrival")
"""The keys of a rule of which it has one."""
_SCHEDULE = ("every", "cron", "tiers")


class Sections:
    """The merged sections; each name leads to its tree, each key node to its place."""

    def __init__(self) -> None:
        self.router = MappingNode("", 0, 0)
        self.nodes = MappingNode("", 0, 0)
        self.rules = MappingNode("", 0, 0)
        self.windows = MappingNode("", 0, 0)
        self.anatomy = MappingNode("", 0, 0)
        self.tests = MappingNode("", 0, 0)
        self.defaults = MappingNode("", 0, 0)
        self.diagnostics: list[Diagnostic] = []

    def add(self, root: Node) -> None:
        """Merge a file in."""
        if not isinstance(root, MappingNode):
            return
        for section, value in root.values.items():
            if not isinstance(value, MappingNode):
                continue
            if section in _BY_NAME:
                self._add(getattr(self, section), value, _BY_NAME[section])
            elif section == "defaults":
                for kind, defaults in value.values.items():
                    target = self.defaults.values.get(kind)
                    if not isinstance(defaults, MappingNode):
                        continue
                    if not isinstance(target, MappingNode):
                        target = MappingNode(defaults.file, defaults.line, defaults.column)
                        self.defaults.put(kind, value.keys[kind], target)
                    self._add(target, defaults, f"setting defaults.{kind}.")

    def _add(self, target: MappingNode, source: MappingNode, what: str) -> None:
        for name, value in source.values.items():
            key = source.keys[name]
            named = any(target is getattr(self, section) for section in _BY_NAME if section != "router")
            if isinstance(value, ScalarNode) and value.is_nothing and named:
                value = MappingNode(key.file, key.line, key.column)
            before = target.keys.get(name)
            if before is None:
                target.put(name, key, value)
                continue
            subject = f"{what}{name}" if what.endswith(".") else f"{what} {name!r}"
            place = f"{before.file}:{before.line}:{before.column}"
            hint = f"the first is at {place}"
            self.diagnostics.append(diagnostic_at(key, Code.DUPLICATE_NAME, f"the {subject} is given twice", hint))

    def with_defaults(self, kind: str, tree: MappingNode) -> MappingNode:
        """A node's or rule's tree on top of the defaults, in a fresh tree."""
        defaults = self.defaults.values.get(kind)
        if not isinstance(defaults, MappingNode):
            return tree
        return _merged(_fitting(defaults, tree) if kind == "rules" else defaults, tree)


_NOT_WITH_PRIORS = {"limits": "", "sweep": "settle", "move": "level"}
"""Defaults that a rule with priors cannot have, whole or a key of them."""


def _fitting(defaults: MappingNode, tree: MappingNode) -> MappingNode:
    """The defaults that have a meaning for this rule: those of another trigger, or of a plain move, are for others."""
    others = [key for key in TRIGGERS if key not in tree.values] if set(TRIGGERS) & set(tree.values) else []
    if "priors" not in tree.values:
        others.append("priors")
    others += ["move", "limits"] if "forward" in tree.values else ["forward"]
    result = MappingNode(defaults.file, defaults.line, defaults.column)
    for key, value in defaults.values.items():
        if key in others:
            continue
        if "priors" in tree.values and key in _NOT_WITH_PRIORS:
            dropped = _NOT_WITH_PRIORS[key]
            if not dropped:
                continue
            if isinstance(value, MappingNode):
                value = _without(value, dropped)
        result.put(key, defaults.keys[key], value)
    return result


def _without(tree: MappingNode, dropped: str) -> MappingNode:
    result = MappingNode(tree.file, tree.line, tree.column)
    for key, value in tree.values.items():
        if key != dropped:
            result.put(key, tree.keys[key], value)
    return result


def _merged(base: MappingNode, top: MappingNode) -> MappingNode:
    result = MappingNode(top.file, top.line, top.column)
    # A schedule is one thing in three spellings: the one given last replaces the other.
    dropped = _SCHEDULE if any(key in top.values for key in _SCHEDULE) else ()
    for key, value in base.values.items():
        if key not in dropped:
            result.put(key, base.keys[key], value)
    for key, value in top.values.items():
        below = base.values.get(key)
        if isinstance(below, MappingNode) and isinstance(value, MappingNode):
            value = _merged(below, value)
        result.put(key, top.keys[key], value)
    return result
