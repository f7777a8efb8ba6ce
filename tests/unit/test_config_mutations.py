"""Every example configuration, with one thing wrong at a time: it is an error, at the line of what is wrong.

The examples are the shipped one, the starter of `init`, and those of the README. Every key is misspelt, every value is
given another shape, every name of something else is broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from router.cli.init import STARTER
from router.config.compiler import Loaded, Sources, compile_sources
from router.config.diagnostics import as_text

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)

Files = dict[str, str]
Steps = tuple[str | int, ...]


class Mutation(NamedTuple):
    """A text with one thing wrong."""

    name: str
    lines: frozenset[int]
    """Of what is wrong, or of its key; counted from 1."""
    text: str


# --- The examples -----------------------------------------------------------------------------------------------------


def readme() -> Iterator[Files]:
    """Each block of YAML of the README, together with the configuration beside which it stands."""
    whole = ""
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL):
        if block.startswith("# beside"):
            yield {"whole.yaml": whole, "beside.yaml": block}
        else:
            whole = block
            yield {"whole.yaml": block}


def examples() -> dict[str, Files]:
    shipped = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "rules").glob("*.yaml"))}
    starter = {name: text() for name, text in STARTER.items() if name.endswith(".yaml")}
    found = {"shipped": shipped, "starter": starter}
    return found | {f"readme-{number}": files for number, files in enumerate(readme())}


# --- What is wrong ----------------------------------------------------------------------------------------------------

NAMED = ("nodes", "rules", "windows", "anatomy", "tests")
"""Sections whose keys are names of one's own."""


def is_name(path: Steps) -> bool:
    """Whether a key is a name of one's own: nothing can be wrong with it by itself."""
    if path[:1] == ("tests",) and len(path) > 2:
        return path[2:-1] in (("studies",), ("received",)) or path[2:3] + path[4:-1] == ("received", "instances")
    return len(path) == 2 and path[0] in NAMED


def misspelt(key: str) -> Iterator[str]:
    """The ways in which fingers slip."""
    middle = len(key) // 2
    yield key[:middle] + key[middle + 1 :]
    yield key[:middle] + key[middle - 1] + key[middle:] if len(key) > 1 else key * 2
    if key[:1] != key[1:2]:
        yield key[1:2] + key[:1] + key[2:]
    yield key.upper() if key != key.upper() else key.lower()
    yield key.capitalize() if key != key.capitalize() else key.lower()
    if "_" in key:
        yield key.replace("_", "-")
        yield key.replace("_", "")


Found = tuple[Steps, yaml.Node, yaml.Node | None]


def nodes(node: yaml.Node, path: Steps = (), key: yaml.Node | None = None) -> Iterator[Found]:
    """Every value with its path and its key."""
    yield path, node, key
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from nodes(value, (*path, name.value), name)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from nodes(item, (*path, index), None)


def values(text: str) -> Iterator[Found]:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None
    return (found for found in nodes(root) if found[0])


def replaced(text: str, node: yaml.Node, new: str) -> str:
    """The text with other words in the place of a node."""
    end = node.end_mark.index
    if not isinstance(node, yaml.ScalarNode) and not node.flow_style:  # it ends where the next thing begins
        end = len(text[:end].rstrip(" "))
        new += "\n"
    return text[: node.start_mark.index] + new + text[end:]


def lines_of(node: yaml.Node, key: yaml.Node | None) -> frozenset[int]:
    return frozenset(one.start_mark.line + 1 for one in (node, key) if one is not None)


def keys_misspelt(text: str) -> Iterator[Mutation]:
    """Each key in every second of the ways, which are others for its neighbour."""
    for number, (path, _, key) in enumerate(values(text)):
        if key is None or is_name(path) or is_of_the_current_study(path) or path[-2:-1] == ("channels",):
            continue
        for way, wrong in enumerate(dict.fromkeys(misspelt(key.value))):
            if (number + way) % 2 == 0 and wrong != key.value:  # (0009,1002) has no other case
                name = f"{'.'.join(map(str, path))} -> {wrong}"
                yield Mutation(name, lines_of(key, None), replaced(text, key, wrong))


def is_of_the_current_study(path: Steps) -> bool:
    """The exception: `modality` of the current study, written in capitals, is its attribute, and means the same."""
    return path[-1] == "modality" and path[-2] in ("unless", "when")


def values_mistyped(text: str) -> Iterator[Mutation]:
    """Each value in every second of the shapes, which are others for its neighbour."""
    for number, (path, node, key) in enumerate(values(text)):
        for way, (shape, wrong) in enumerate(WRONG[type(node)].items()):
            if (number + way) % 2 == 0 and not allowed(path, node, key, shape):
                name = f"{'.'.join(map(str, path))} = {shape}"
                yield Mutation(name, lines_of(node, key), replaced(text, node, wrong))


def references_broken(text: str) -> Iterator[Mutation]:
    for path, node, key in values(text):
        last = [step for step in path if isinstance(step, str)][-1]
        # Senders of HL7 messages are not configured; addresses of mail and of an audit repository are no names.
        of_others = (last == "from" and "arrival" not in path) or {"mail", "audit"} & {*path}
        if isinstance(node, yaml.ScalarNode) and last in REFERENCES and not of_others:
            for wrong in (f"{node.value}x", f"x-{node.value}", node.value.upper()):
                name = f"{'.'.join(map(str, path))} = {wrong}"
                yield Mutation(name, lines_of(node, key), replaced(text, node, wrong))


REFERENCES = ("source", "to", "from", "use", "rule", "group", "anatomy", "near", "destination")
"""Keys beside which names stand: of nodes, windows, rules, groups, regions."""

KINDS = {"key": keys_misspelt, "value": values_mistyped, "reference": references_broken}


WRONG: dict[type[yaml.Node], dict[str, str]] = {
    yaml.ScalarNode: {"list": "[wrong, wrong]", "mapping": "{wrong: wrong}", "nothing": "", "text": "wrong ?"},
    yaml.SequenceNode: {"mapping": "{wrong: wrong}", "nothing": "", "number": "17"},
    yaml.MappingNode: {"list": "[wrong, wrong]", "number": "17", "nothing": ""},
}
NUMBER = re.compile(r"[0-9.]+|true|false")


def allowed(path: Steps, node: yaml.Node, key: yaml.Node | None, shape: str) -> bool:
    """The exceptions: where another shape is another way to say something, or is no other shape at all."""
    names = [step for step in path if isinstance(step, str)]
    if shape == "nothing" and key is None:
        return True  # nothing between two commas of a list is no item, for YAML
    if shape == "nothing" and (len(path) == 1 or names[-1] in ("hl7", "order", "arrival", "tls")):
        return True  # an empty section; what is there with its defaults
    if names[-1] in ("description", "owner") and len(names) == 3:
        return shape in ("nothing", "text")  # what people write for people
    if shape == "text" and not (isinstance(node, yaml.ScalarNode) and NUMBER.fullmatch(node.value)):
        return True  # a text in the place of a text
    attribute = next((name for name in reversed(names) if name[:1].isupper() or name.startswith("(")), "")
    if attribute and (names[-1] == attribute or names[-1] in ("code", "scheme", "meaning")):
        if "keys" in names or names[0] == "tests":
            # One value, a list, or nothing: the attribute is only asked back, or the study does not have it.
            return shape in ("list", "nothing", "number", "text")
        return shape in ("list", "number", "text")  # one value, a list of them, or matchers
    if names[-1] == "modality" and shape == "number":  # one value, and who knows what modalities there will be
        return True
    if names[:1] == ["tests"] and shape == "nothing":  # a study or an instance of which nothing more is said
        return is_name(path) and len(path) > 2
    return False


# --- The tests --------------------------------------------------------------------------------------------------------


def compiled(files: Files) -> Loaded:
    return compile_sources(Sources(tuple((name, text.encode()) for name, text in files.items()), ()), NOW)


def missed(files: Files, name: str, mutation: Mutation) -> str:
    """What is found instead of an error at its line; empty where that is found."""
    loaded = compiled({**files, name: mutation.text})
    if loaded.rule_set is None and any(one.file == name and one.line in mutation.lines for one in loaded.errors):
        return ""
    found = as_text(loaded.diagnostics) or "nothing"
    return f"{name}:{sorted(mutation.lines)} {mutation.name}: found {found}"


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_as_it_is_has_no_error(example: str) -> None:
    loaded = compiled(EXAMPLES[example])
    assert loaded.rule_set is not None, as_text(loaded.diagnostics)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("example", "name"), [(example, name) for example, files in EXAMPLES.items() for name in files]
)
def test_whatever_is_wrong_with_an_example_is_an_error_at_its_line(example: str, name: str, kind: str) -> None:
    files = EXAMPLES[example]
    assert [found for one in KINDS[kind](files[name]) if (found := missed(files, name, one))] == []


def test_the_shipped_example_is_mutated_in_hundreds_of_ways() -> None:
    number = {kind: sum(1 for text in EXAMPLES["shipped"].values() for _ in make(text)) for kind, make in KINDS.items()}
    assert number["key"] > 400
    assert number["value"] > 400
    assert number["reference"] > 50
