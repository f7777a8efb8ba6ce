"""YAML files as trees of nodes with their places. Values are not interpreted here: every scalar is its literal text.

Built from the parser's events, not by a composer: bounds on depth and size hold before any memory is spent, duplicate
keys are seen, and `00123`, `NO` or `12:30:00` cannot turn into something else. Anchors and aliases work, merge keys
(`<<`) and tags do not.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from router.config.diagnostics import Code, Diagnostic

MAXIMUM_BYTES = 1 << 20
MAXIMUM_DEPTH = 40
MAXIMUM_NODES = 200_000
"""Nodes of a file, each alias counted with all that it stands for."""


class Node:
    """A piece of a file. Line and column count from 1."""

    __slots__ = ("column", "file", "line", "size")

    def __init__(self, file: str, line: int, column: int) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.size = 1
        """Nodes in all, itself included, aliases expanded."""


class ScalarNode(Node):
    """A text; `plain` if it stands without quotes."""

    __slots__ = ("plain", "text")

    def __init__(self, file: str, line: int, column: int, text: str, plain: bool) -> None:
        super().__init__(file, line, column)
        self.text = text
        self.plain = plain

    @property
    def is_nothing(self) -> bool:
        """Whether nothing at all is written."""
        return self.plain and self.text == ""


class SequenceNode(Node):
    """A list."""

    __slots__ = ("items",)

    def __init__(self, file: str, line: int, column: int) -> None:
        super().__init__(file, line, column)
        self.items: list[Node] = []


class MappingNode(Node):
    """A mapping; `keys` are the nodes of its keys, for their places."""

    __slots__ = ("keys", "values")

    def __init__(self, file: str, line: int, column: int) -> None:
        super().__init__(file, line, column)
        self.keys: dict[str, Node] = {}
        self.values: dict[str, Node] = {}

    def put(self, key: str, key_node: Node, value: Node) -> None:
        """Set an entry."""
        self.keys[key] = key_node
        self.values[key] = value


class DocumentError(Exception):
    """A file that cannot be made a tree."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(str(diagnostic))
        self.diagnostic = diagnostic


def read_bytes(path: Path, name: str) -> bytes:
    """The contents of a configuration file. Raises DocumentError."""
    try:
        if not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            message = "cannot be read: it is no ordinary file"
            raise DocumentError(Diagnostic(file=name, code=Code.UNREADABLE, message=message))
        with path.open("rb") as stream:
            contents = stream.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise DocumentError(
            Diagnostic(file=name, code=Code.UNREADABLE, message=f"cannot be read: {error.strerror or 'I/O error'}")
        ) from None
    if len(contents) > MAXIMUM_BYTES:
        message = "is larger than 1 MiB, which no configuration is"
        raise DocumentError(Diagnostic(file=name, code=Code.UNREADABLE, message=message))
    return contents


def parse_document(contents: bytes, name: str) -> tuple[Node | None, list[Diagnostic]]:
    """The tree of a file, and every duplicate key in it. None for an empty file. Raises DocumentError."""
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = contents.count(b"\n", 0, error.start) + 1
        column = error.start - (contents.rfind(b"\n", 0, error.start) + 1) + 1
        raise DocumentError(
            Diagnostic(file=name, line=line, column=column, code=Code.UNREADABLE, message="is not UTF-8")
        ) from None
    return _Builder(name).build(text)


def _place(event: Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)


class _Builder:
    """Makes the tree of one file from its events."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._anchors: dict[str, Node] = {}
        self._findings: list[Diagnostic] = []

    def build(self, text: str) -> tuple[Node | None, list[Diagnostic]]:
        try:
            return self._root(yaml.parse(text, Loader=yaml.CSafeLoader)), self._findings
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join(part for part in (error.context, error.problem) if part)
            line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
            hint = "indent with spaces" if "\\t" in problem or "cannot start any token" in problem else ""
            raise self._error(Code.SYNTAX, problem or "is no YAML", line, column, hint) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            column = error.position - text.rfind("\n", 0, error.position)
            raise self._error(Code.SYNTAX, "has a character that YAML does not allow", line, column) from None
        except yaml.YAMLError:
            raise self._error(Code.SYNTAX, "is no YAML", 0, 0) from None

    def _error(self, code: Code, message: str, line: int, column: int, hint: str = "") -> DocumentError:
        return DocumentError(
            Diagnostic(file=self._name, line=line, column=column, code=code, message=message, hint=hint)
        )

    def _refuse(self, event: Event, message: str, hint: str = "") -> DocumentError:
        return self._error(Code.YAML_FEATURE, message, *_place(event), hint)

    def _root(self, events: Iterator[Event]) -> Node | None:
        root: Node | None = None
        documents = 0
        open_nodes: list[SequenceNode | MappingNode] = []
        open_keys: list[Node | None] = []
        anchors: list[str | None] = []
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refuse(event, "holds several documents", "make it several files")
                continue
            if isinstance(event, (SequenceEndEvent, MappingEndEvent)):
                node: Node = open_nodes.pop()
                open_keys.pop()
                anchor = anchors.pop()
                if anchor:
                    self._anchors[anchor] = node
            elif isinstance(event, (SequenceStartEvent, MappingStartEvent)):
                self._check(event, len(open_nodes))
                kind = SequenceNode if isinstance(event, SequenceStartEvent) else MappingNode
                open_nodes.append(kind(self._name, *_place(event)))
                open_keys.append(None)
                anchors.append(event.anchor)
                continue
            elif isinstance(event, (ScalarEvent, AliasEvent)):
                node = self._leaf(event)
            else:
                continue
            if not open_nodes:
                root = node
            else:
                open_keys[-1] = self._add(open_nodes[-1], open_keys[-1], node, event)
        return root

    def _check(self, event: SequenceStartEvent | MappingStartEvent | ScalarEvent, depth: int) -> None:
        if event.tag is not None and event.tag != "!":
            raise self._refuse(event, f"has the tag {event.tag}", "leave it out: the schema knows the types")
        if depth >= MAXIMUM_DEPTH:
            raise self._refuse(event, f"is nested deeper than {MAXIMUM_DEPTH} levels")

    def _leaf(self, event: ScalarEvent | AliasEvent) -> Node:
        if isinstance(event, AliasEvent):
            node = self._anchors.get(str(event.anchor))
            if node is None:  # also one that stands inside of what it would repeat
                raise self._refuse(event, f"has the alias *{event.anchor} before its anchor is complete")
            return node
        self._check(event, 0)
        scalar = ScalarNode(self._name, *_place(event), event.value, event.style in (None, ""))
        if event.anchor:
            self._anchors[event.anchor] = scalar
        return scalar

    def _add(self, parent: SequenceNode | MappingNode, key: Node | None, node: Node, event: Event) -> Node | None:
        """Put a finished node into its parent. Returns the key that now waits for its value."""
        if isinstance(parent, MappingNode) and key is None:
            if not isinstance(node, ScalarNode):
                raise self._refuse(event, "has a list or mapping as a key")
            if node.plain and node.text == "<<":
                raise self._refuse(event, "has a merge key (<<)", "use the section defaults")
            if isinstance(event, AliasEvent):  # its place is here, not where the anchor stands
                return ScalarNode(self._name, *_place(event), node.text, node.plain)
            return node
        parent.size += node.size
        if parent.size > MAXIMUM_NODES:
            raise self._refuse(event, f"grows to more than {MAXIMUM_NODES} values by its aliases")
        if isinstance(parent, SequenceNode):
            parent.items.append(node)
            return None
        assert isinstance(key, ScalarNode)
        before = parent.keys.get(key.text)
        if before is None:
            parent.put(key.text, key, node)
        else:
            self._findings.append(
                Diagnostic(
                    file=self._name,
                    line=key.line,
                    column=key.column,
                    code=Code.DUPLICATE_KEY,
                    message=f"the key {key.text!r} stands here a second time",
                    hint=f"the first is at line {before.line}, column {before.column}",
                )
            )
        return None
