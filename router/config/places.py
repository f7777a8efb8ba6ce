"""Where a key stands in the files of a configuration, for who has to tell a person what to change."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from router.config.compiler import read
from router.config.document import DocumentError, MappingNode, Node, parse_document
from router.config.merge import Sections


class Places:
    """The places of keys, read from a directory once, when the first is asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @cached_property
    def _sections(self) -> Sections:
        sections = Sections()
        for name, contents in read(self._directory).files:
            try:
                root, _duplicates = parse_document(contents, name)
            except DocumentError:
                continue
            if root is not None:
                sections.add(root)
        return sections

    def __call__(self, section: str, *keys: str) -> str:
        """`nodes.archive.address in FILE:LINE`; of a key that is not written the line of the nearest one above it."""
        path = ".".join((section, *keys))
        found: Node | None = None
        tree: Node = getattr(self._sections, section)
        for key in keys:
            if not isinstance(tree, MappingNode) or key not in tree.keys:
                break
            found, tree = tree.keys[key], tree.values[key]
        return f"{path} in {found.file}:{found.line}" if found is not None else f"{path} in {self._directory}"
