"""Many files, one configuration: sections merged by name, defaults merged into nodes and rules. Places are kept."""

from __future__ import annotations

from router.config.diagnostics import Code, Diagnostic
from router.config.document import MappingNode, Node, ScalarNode
from router.config.schema import diagnostic_at

_BY_NAME = {"nodes": "node", "rules": "rule", "windows": "window", "router": "setting router."}
_SCHEDULE = ("every", "cron", "tiers")


class Sections:
    """The merged sections; each name leads to its tree, each key node to its place."""

    def __init__(self) -> None:
        self.router = MappingNode("", 0, 0)
        self.nodes = MappingNode("", 0, 0)
        self.rules = MappingNode("", 0, 0)
        self.windows = MappingNode("", 0, 0)
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
            named = any(target is section for section in (self.nodes, self.rules, self.windows))
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
        return _merged(defaults, tree) if isinstance(defaults, MappingNode) else tree


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
