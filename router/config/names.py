"""The names in a configuration, for a shell to complete: found quickly, and in files that are still being written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

MAXIMUM_BYTES = 4 << 20
"""Of all files together; what is beyond is not looked at, for somebody waits."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
"""What can be a name; all else could be taken for something else by a shell."""


def names_in(directory: Path, section: str) -> list[str]:
    """What a section of the configuration has by name, such as `rules`, in order; nothing that cannot be read."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".yaml" and path.name[0] != ".")
    except OSError:
        return []
    found: list[str] = []
    left = MAXIMUM_BYTES
    for path in paths:
        try:
            if not path.is_file():  # a pipe would be waited for
                continue
            with path.open("rb") as stream:
                contents = stream.read(left)
        except OSError:
            continue
        left -= len(contents)
        found += _names(contents, section)
    return sorted(set(found))


def _names(contents: bytes, section: str) -> Iterator[str]:
    """The keys of the mapping below a key of the file, those before a mistake in it too."""
    depth, is_key, inside = 0, True, False
    try:
        for event in yaml.parse(contents, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                is_key = True
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
                is_key = True  # it was a value
            elif depth <= 2 and isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
                name = getattr(event, "value", "")
                if is_key and depth == 1:
                    inside = name == section
                elif is_key and inside and _NAME.match(name):
                    yield name
                is_key = not is_key
    except yaml.YAMLError:
        return
