"""The shipped example: valid, and every key of it, misspelt, is caught on its line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from router import config
from router.config.diagnostics import as_text
from router.config.document import MappingNode, Node, SequenceNode, parse_document
from router.config.schema import FILE_NAME

RULES = Path(__file__).parents[2] / "rules"
FILES = sorted(RULES.glob("*.yaml"))
MODELINE = f"# yaml-language-server: $schema=../schemas/{FILE_NAME}"


def test_the_example_is_valid_without_a_warning() -> None:
    loaded = config.load(RULES)
    assert loaded.rule_set is not None
    assert not loaded.diagnostics, as_text(loaded.diagnostics)
    assert len(FILES) >= 6


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_each_file_starts_with_the_modeline_and_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == MODELINE
    assert lines[2].startswith("# ")
    assert (path.parent / "../schemas" / FILE_NAME).is_file()


def keys_of(node: Node, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Node]]:
    """Every key below a node with its path, names of one's own left out: they may be anything."""
    found: list[tuple[tuple[str, ...], Node]] = []
    if isinstance(node, MappingNode):
        for key, value in node.values.items():
            of_ones_own = path in (("nodes",), ("rules",), ("windows",), ("anatomy",), ("tests",))
            of_ones_own |= path[:1] == ("tests",) and path[2:] in (("studies",), ("received",))
            of_ones_own |= path[:1] == ("tests",) and path[2:3] == ("received",) and path[4:] == ("instances",)
            if not of_ones_own:
                found.append(((*path, key), node.keys[key]))
            found += keys_of(value, (*path, key))
    elif isinstance(node, SequenceNode):
        for item in node.items:
            found += keys_of(item, path)
    return found


MUTATIONS = [
    pytest.param(file, key.line, key.column, path[-1], id=f"{file.stem}:{'.'.join(path)}:{key.line}")
    for file in FILES
    for path, key in keys_of(parse_document(file.read_bytes(), file.name)[0] or MappingNode("", 0, 0))
]


@pytest.mark.parametrize("how", ["dropped", "swapped", "case"])
@pytest.mark.parametrize(("file", "line", "column", "key"), MUTATIONS)
def test_a_misspelt_key_is_caught_on_its_line(
    file: Path, line: int, column: int, key: str, how: str, tmp_path: Path
) -> None:
    case = key.swapcase() if key.swapcase() != key else f"{key}x"
    misspelt = {"dropped": key[:-1] + "z", "swapped": key[1] + key[0] + key[2:], "case": case}[how]
    shutil.copytree(RULES, tmp_path / "rules")
    lines = file.read_text().splitlines(keepends=True)
    before, after = lines[line - 1][: column - 1], lines[line - 1][column - 1 :]
    if after[:1] == '"':
        before, after = before + after[0], after[1:]
    assert after.startswith(key)
    lines[line - 1] = before + misspelt + after.removeprefix(key)
    (tmp_path / "rules" / file.name).write_text("".join(lines))
    loaded = config.load(tmp_path / "rules")
    assert loaded.rule_set is None
    found = [(Path(one.file).name, one.line) for one in loaded.errors]
    assert found == [(file.name, line)], as_text(loaded.diagnostics)
    assert loaded.errors[0].hint
