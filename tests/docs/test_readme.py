"""The README is true: its tables are the code's, its commands exist, its YAML is valid, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from router import config
from router.cli.main import root
from router.domain.arriving import zone_of
from router.domain.transfer import State
from tests.support.scripts import script

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def test_the_tables_are_made_from_the_code() -> None:
    assert script("readme").current(README) == README, "run `python scripts/readme.py`"


def lines() -> list[str]:
    found = [line.partition("#")[0].strip() for _, block in BLOCKS for line in block.splitlines()]
    return [line for line in found if line.startswith("dicom-router ")]


@pytest.mark.parametrize("line", lines())
def test_a_command_of_the_readme_is_understood(line: str) -> None:
    arguments = shlex.split(line)[1:]
    context: click.Context = root.make_context("dicom-router", list(arguments))
    name, command, rest = root.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None, name
    command.make_context(name, rest, parent=context)


def test_every_command_and_option_is_documented() -> None:
    for name, command in root.commands.items():
        assert f"`{name}" in README, name
        parts = list(command.commands.items()) if isinstance(command, click.Group) else [("", command)]
        for part, one in parts:
            assert f"{name} {part}".strip() in README
            for parameter in one.params:
                for option in parameter.opts:
                    assert not option.startswith("--") or option in README, f"{name} {part} {option}"


def test_every_state_is_explained() -> None:
    for state in State:
        assert f"`{state}`" in README


def configurations() -> list[list[str]]:
    """Each block of YAML, together with the last whole configuration where it says that it stands beside that."""
    found: list[list[str]] = []
    whole = ""
    for block in (block for language, block in BLOCKS if language == "yaml"):
        beside = block.startswith("# beside")
        found.append([whole, block] if beside else [block])
        whole = whole if beside else block
    return found


@pytest.mark.parametrize("blocks", configurations())
def test_yaml_of_the_readme_is_a_valid_configuration(blocks: list[str], tmp_path: Path) -> None:
    for number, block in enumerate(blocks):
        (tmp_path / f"readme-{number}.yaml").write_text(block, "utf-8")
    loaded = config.load(tmp_path)
    assert loaded.rule_set is not None, [str(one) for one in loaded.diagnostics]
    for case in loaded.cases:
        rule = loaded.rule_set.rules[case.rule]
        assert case.run(rule, loaded.rule_set.anatomy, zone_of(loaded.rule_set, rule)) == []


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_to_files(target: str) -> None:
    assert (ROOT / target).exists()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"`?make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
