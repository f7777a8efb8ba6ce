"""What an editor makes of the schema: the real yaml-language-server checks, completes and explains configurations."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router import config
from router.cli.init import STARTER, write_starter
from router.cli.reference import resolve
from router.config.document import parse_document
from router.config.schema import FILE_NAME, check, full_schema
from tests.support.language_server import DIRECTORY, LanguageServer, Offer
from tests.unit.test_config_mistakes import DATA, MISTAKES

ROOT = Path(__file__).parents[2]
MODELINE = f"# yaml-language-server: $schema=./{FILE_NAME}\n"

NOT_YAML = {"DR001", "DR002", "DR003", "DR004"}
"""Codes of what is wrong before any schema is looked at."""


@pytest.fixture(scope="module")
def server() -> Iterator[LanguageServer]:
    with LanguageServer() as started:
        yield started


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of a configuration with the schema beside, as `init` leaves it."""
    shutil.copy(ROOT / "schemas" / FILE_NAME, tmp_path)
    return tmp_path


def filled(offer: Offer, indent: str) -> str:
    """What an editor writes where the cursor is `indent` into the line: each place with the text that is proposed."""
    text = re.sub(r"\$\{\d+:([^}]*)\}|\$\{?\d+\}?", lambda found: found[1] or "", offer.text)
    return text.replace("\n", "\n" + indent)


# --- Checking ---------------------------------------------------------------------------------------------------------


def test_the_language_server_is_pinned_and_no_file_says_where_it_comes_from() -> None:
    wanted = json.loads((DIRECTORY / "package.json").read_text())["dependencies"]["yaml-language-server"]
    locked = json.loads((DIRECTORY / "package-lock.json").read_text())["packages"]
    installed = json.loads((DIRECTORY / "node_modules/yaml-language-server/package.json").read_text())["version"]
    assert locked["node_modules/yaml-language-server"]["version"] == wanted == installed
    assert "://" not in (DIRECTORY / "package-lock.json").read_text()
    assert all("integrity" in package for name, package in locked.items() if name)


def test_nothing_is_wrong_with_the_shipped_configurations(server: LanguageServer) -> None:
    files = [*(ROOT / "rules").glob("*.yaml"), *(ROOT / "monitoring" / "stack").glob("*.yaml")]
    texts = {path: path.read_text("utf-8") for path in files}
    assert len(texts) > 10
    assert all("yaml-language-server: $schema=" in text.partition("\n")[0] for text in texts.values())
    assert server.problems(texts) == {path: [] for path in texts}


def test_what_init_writes_is_checked_by_the_schema_beside_it(server: LanguageServer, tmp_path: Path) -> None:
    paths = [path for path in write_starter(tmp_path / "new") if path.suffix == ".yaml"]
    texts = {path: path.read_text("utf-8") for path in paths}
    assert {path.name for path in texts} == set(STARTER) - {FILE_NAME}
    assert server.problems(texts) == {path: [] for path in texts}
    broken = {path: text + "\nsurprise: {}\n" for path, text in texts.items()}
    for path, found in server.problems(broken).items():
        assert [one.line for one in found] == [broken[path].count("\n")], path.name


def test_nothing_is_wrong_with_the_configurations_of_the_readme(server: LanguageServer, directory: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    texts = {directory / f"readme-{number}.yaml": MODELINE + block for number, block in enumerate(blocks)}
    assert texts
    assert server.problems(texts) == {path: [] for path in texts}


def test_an_editor_and_validate_see_the_same_mistakes_on_the_same_lines(
    server: LanguageServer, directory: Path
) -> None:
    """For every example of a mistake: what the schema knows is marked there; what it does not know is not marked."""
    rows = [(name, line) for name, code, line, _ in MISTAKES if code not in NOT_YAML]
    contents = {name: (DATA / f"{name}.yaml").read_bytes() for name, _ in rows}
    texts = {directory / f"{name}.yaml": MODELINE + text.decode() for name, text in contents.items()}
    seen = {path.stem: {one.line - 1 for one in found} for path, found in server.problems(texts).items()}
    by_schema = 0
    for name, line in rows:
        root, _ = parse_document(contents[name], name)
        assert root is not None
        known = {diagnostic.line for _, diagnostic in check(root)}
        assert known <= seen[name] <= {line}, name
        by_schema += bool(known)
    assert by_schema > 30


def test_what_is_no_yaml_is_marked_too(server: LanguageServer, directory: Path) -> None:
    lines = {name: line for name, _, line, _ in MISTAKES if name in ("yaml-syntax", "yaml-tab", "yaml-duplicate-key")}
    texts = {directory / f"{name}.yaml": MODELINE + (DATA / f"{name}.yaml").read_text() for name in lines}
    for path, found in server.problems(texts).items():
        assert lines[path.stem] in {one.line - 1 for one in found}, path.stem


SENTENCES = {
    "router: {drain: soon}": "A duration: a number and s, m, h, d, w, mo or y",
    "nodes: {'two words': {ae_title: A, address: 'a:1'}}": "A name: letters, digits, dot, dash and underscore",
    "router: {minimum_free: much}": "A size: a number and B, KiB",
    "defaults: {nodes: {limits: {duty: half}}}": "A share, such as 50%.",
    "rules: {a: {priority: hasty}}": '"urgent", "normal", "low"',
    "router: {drian: 5s}": "Property drian is not allowed.",
}


def test_an_editor_says_what_is_expected(server: LanguageServer, directory: Path) -> None:
    texts = {directory / f"{number}.yaml": MODELINE + text for number, text in enumerate(SENTENCES)}
    found = server.problems(texts)
    for (path, text), sentence in zip(texts.items(), SENTENCES.values(), strict=True):
        assert [sentence in one.message for one in found[path]] == [True], (text, found[path])


# --- Completing -------------------------------------------------------------------------------------------------------

PLACES = {
    "|": (),
    "router:\n  |": ("router",),
    "nodes:\n  archive:\n    |": ("nodes", "*"),
    "windows:\n  night:\n    |": ("windows", "*"),
    "rules:\n  one:\n    |": ("rules", "*"),
    "rules:\n  one:\n    sweep:\n      |": ("rules", "*", "sweep"),
    "rules:\n  one:\n    sweep:\n      keys:\n        |": ("rules", "*", "sweep", "keys"),
    "rules:\n  one:\n    where:\n      |": ("rules", "*", "where"),
    "rules:\n  one:\n    where:\n      StudyDescription:\n        |": ("rules", "*", "where", "StudyDescription"),
    "rules:\n  one:\n    worklist:\n      keys:\n        |": ("rules", "*", "worklist", "keys"),
    "rules:\n  one:\n    priors:\n      groups:\n        - |": ("rules", "*", "priors", "groups", "[]"),
    "tests:\n  one:\n    |": ("tests", "*"),
}


def part_at(path: tuple[str, ...]) -> Any:
    """The schema at a path."""
    part = resolve(full_schema())
    for step in path:
        inner = {"*": part.get("additionalProperties"), "[]": part.get("items")}
        part = resolve(inner[step] if step in inner else part["properties"][step])
    return part


@pytest.mark.parametrize("text", PLACES)
def test_every_key_that_may_stand_somewhere_is_offered_there_with_its_description(
    server: LanguageServer, directory: Path, text: str
) -> None:
    offers = {offer.label: offer for offer in server.offers(directory / "a.yaml", MODELINE + text)}
    wanted = set(part_at(PLACES[text])["properties"])
    assert wanted <= set(offers)
    assert all(offers[key].documentation for key in wanted)


VALUES = {
    "rules:\n  one:\n    priority: |": {"urgent", "normal", "low"},
    "rules:\n  one:\n    sweep:\n      level: |": {"STUDY", "SERIES"},
    "rules:\n  one:\n    move:\n      verify: |": {"auto", "commitment", "find", "none"},
    "rules:\n  one:\n    order:\n      events:\n        - |": {"ORM^O01", "SIU^S12"},
    "router:\n  durability: |": {"fsync", "rename"},
    "router:\n  drain: |": {"30s"},
    "nodes:\n  one:\n    find:\n      max_results: |": {"auto", "none"},
    "rules:\n  one:\n    sweep:\n      keys:\n        StudyDate: |": {"today-2d..today", "yesterday..today"},
    "tests:\n  one:\n    expect:\n      ct:\n        decision: |": {"move", "hold", "skip"},
}


@pytest.mark.parametrize("text", VALUES)
def test_the_values_of_a_key_are_offered(server: LanguageServer, directory: Path, text: str) -> None:
    assert VALUES[text] <= {offer.label for offer in server.offers(directory / "a.yaml", MODELINE + text)}


def test_each_value_has_its_own_description(server: LanguageServer, directory: Path) -> None:
    offers = server.offers(directory / "a.yaml", MODELINE + "rules:\n  one:\n    move:\n      verify: |")
    said = {offer.label: offer.documentation for offer in offers}
    assert said["find"] == "Only what the destination answers to a query."
    assert len(set(said.values())) == len(said) == 4


NODES = """\
nodes:
  archive: {ae_title: ARCHIVE, address: 10.0.0.5:104}
  ris: {ae_title: RIS, address: 10.0.0.6:104}
  workstation: {ae_title: WS1, address: 10.0.0.9:104}
"""
RULE = """\
rules:
  ct-to-workstation:
    sweep: {source: archive, every: 5m, keys: {StudyDate: today}}
    move: {to: [workstation]}
"""
SNIPPETS = [
    ("nodes:\n  |", "a node", RULE.replace("workstation]", "local]")),
    ("nodes:\n  archive:\n    |", "a node", RULE.replace("workstation]", "local]")),
    ("windows:\n  |", "a window", NODES.replace("archive: {", "archive: {windows: [{use: off-peak}], ") + RULE),
    ("anatomy:\n  |", "a region", NODES + RULE),
    ("rules:\n  |", "a rule that sweeps", NODES),
    ("rules:\n  |", "a rule that prefetches", NODES),
    ("rules:\n  one:\n    |", "a rule that sweeps", NODES),
    ("rules:\n  one:\n    |", "a rule that prefetches", NODES),
    ("tests:\n  |", "a test", NODES + RULE),
]


@pytest.mark.parametrize(("text", "label", "beside"), SNIPPETS, ids=[f"{row[1]} at {row[0]}" for row in SNIPPETS])
def test_a_snippet_is_a_valid_configuration_as_it_is(
    server: LanguageServer, directory: Path, text: str, label: str, beside: str
) -> None:
    offers = {offer.label: offer for offer in server.offers(directory / "a.yaml", MODELINE + text)}
    before = text.removesuffix("|")
    written = before + filled(offers[label], " " * len(before.rpartition("\n")[2])) + "\n"
    (directory / "a.yaml").write_text(written)
    (directory / "b.yaml").write_text(beside)
    loaded = config.load(directory)
    assert [str(one) for one in loaded.diagnostics if Path(one.file).name == "a.yaml"] == [], written
    assert loaded.rule_set is not None


# --- Explaining -------------------------------------------------------------------------------------------------------

HOVERED = {
    "nodes:\n  archive:\n    fi|nd: {total: 1h}": ("nodes", "*", "find"),
    "rules:\n  one:\n    pri|ority: urgent": ("rules", "*", "priority"),
    "rules:\n  one:\n    sweep:\n      settle: 1|0m": ("rules", "*", "sweep", "settle"),
    "rules:\n  one:\n    sweep:\n      keys: {Study|Date: today}": ("rules", "*", "sweep", "keys", "StudyDate"),
}


@pytest.mark.parametrize("text", HOVERED)
def test_a_key_shows_its_description_values_and_examples(server: LanguageServer, directory: Path, text: str) -> None:
    part = part_at(HOVERED[text])
    shown = server.hover(directory / "a.yaml", MODELINE + text)
    assert part["description"] in shown.replace("\\", "")
    assert "Example:" in shown
    for value in part.get("enum", ()):
        assert f"* `{value}`: " in shown
