"""Shell completion without a shell: the outline is that of the commands, names are found, nothing disturbs a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from router import config
from router.cli.completion import PROGRAM, VARIABLE, commands
from router.cli.main import root
from router.cli.outline import outline
from router.config.names import names_in
from tests.support.scripts import script

ROOT = Path(__file__).parents[2]
HEAVY = {"pydicom", "pynetdicom", "sqlalchemy", "rich", "jsonschema", "structlog", "msgspec", "starlette"}


def offered(*words: str) -> dict[str, str]:
    """What is offered for the last word, with its kind."""
    completer = ShellComplete(commands(), {}, PROGRAM, VARIABLE)
    return {item.value: item.type for item in completer.get_completions(list(words[:-1]), words[-1])}


def asked(line: str, directory: Path, shell: str = "bash_complete") -> subprocess.CompletedProcess[str]:
    """The program as a shell calls it."""
    words = line.split(" ")
    environment = os.environ | {VARIABLE: shell, "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-m", "router"]
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_outline_is_current() -> None:
    text = (ROOT / "router" / "cli" / "outline.json").read_text("utf-8")
    assert script("outline").main() == text, "run `python scripts/outline.py`"


def test_every_command_and_option_is_completed() -> None:
    assert set(offered("")) == set(root.commands)
    for name, command in root.commands.items():
        inner = list(command.commands.items()) if isinstance(command, click.Group) else []
        for words, one in [([name], command), *(([name, below], part) for below, part in inner)]:
            known = {option for parameter in one.params for option in parameter.opts if option.startswith("--")}
            assert known <= set(offered(*words, "--")), words


def test_the_help_tells_of_each_command_what_the_command_tells() -> None:
    said = " ".join(CliRunner().invoke(root, ["--help"], terminal_width=200).output.split())
    for name, command in root.commands.items():
        assert f"{name} {command.get_short_help_str(limit=100)}" in said


def test_to_complete_loads_no_command(tmp_path: Path) -> None:
    """Neither a database nor DICOM: it is asked at every press of a key."""
    code = (
        "import sys, router.cli.completion as it; it.commands();"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "click" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())


def test_values_are_offered_by_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.yaml").write_text("rules: {one: {}, two: {}}\nnodes: {pacs: {}}\ntests: {first: {}}\n")
    assert offered("plan", "--rule", "") == {"one": "plain", "two": "plain"}
    assert offered("query", "--rule", "o") == {"one": "plain"}
    assert offered("transfers", "list", "--source", "") == {"pacs": "plain"}
    assert offered("doctor", "") == {"pacs": "plain"}
    assert offered("doctor", "pacs", "") == {}
    assert offered("test", "--run", "") == {"first": "plain"}
    assert offered("plan", "--against", "x") == {"x": "dir"}
    assert offered("--config", "x") == {"x": "dir"}
    assert offered("test", "--junit", "x") == {"x": "file"}
    assert offered("init", "x") == {"x": "dir"}
    assert offered("validate", "--format", "") == {"text": "plain", "json": "plain", "github": "plain"}
    assert offered("completion", "z") == {"zsh": "plain"}


def test_paths_of_keys_are_offered_step_by_step() -> None:
    assert "rules" in offered("schema", "")
    assert "rules.sweep" not in offered("schema", "")
    assert {"rules", "rules.sweep", "rules.move"} <= set(offered("schema", "rules"))
    assert set(offered("schema", "rules.sweep.k")) >= {"rules.sweep.keys"}
    assert not any("*" in path for path in outline()["keys"])
    for path in outline()["keys"]:
        assert CliRunner().invoke(root, ["schema", path]).exit_code == 0, path


def test_names_are_found_in_files_that_are_still_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "# a comment\nnodes:\n  archive:\n    ae_title: A\n    limits: {duty: 50%}\n  'quoted': &x {ae_title: B}\n"
        "  again: *x\nrules:\n  one:\n    where:\n      any:\n        - {nodes: 1}\n        - nodes\n  two: [\n"
    )
    (tmp_path / "b.yaml").write_text("rules: {three: {rules: {four: 1}}, 'not a name': 1, \"new\\nline\": 1}\n")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "d.txt").write_text("rules: {five: {}}")
    (tmp_path / ".e.yaml").write_text("rules: {six: {}}")
    (tmp_path / "f.yaml").mkdir()
    assert names_in(tmp_path, "rules") == ["one", "three", "two"]
    assert names_in(tmp_path, "nodes") == ["again", "archive", "quoted"]
    assert names_in(tmp_path / "missing", "rules") == []


@given(st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9-]{0,8}\Z"), st.recursive(st.text("ab:", max_size=4), st.lists)))
def test_every_name_of_a_section_is_found(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, object]) -> None:
    directory = tmp_path_factory.mktemp("names")
    (directory / "a.yaml").write_text(json.dumps({"nodes": {"x": [{"rules": entries}]}, "rules": entries, "tests": {}}))
    assert names_in(directory, "rules") == sorted(entries)


@pytest.mark.parametrize(
    "shell", ["bash_complete", "zsh_complete", "fish_complete", "bash_other", "other_complete", ""]
)
def test_whatever_is_wrong_nothing_is_said_into_the_line(tmp_path: Path, shell: str) -> None:
    (tmp_path / "rules").write_text("no directory")
    for line in ("dicom-router plan --rule ", "dicom-router nonsense 'quote"):
        done = asked(line, tmp_path, shell)
        assert done.stderr == ""


def test_the_script_is_printed_for_each_shell_and_for_no_other() -> None:
    for shell in ("bash", "zsh", "fish"):
        plain = CliRunner().invoke(root, ["completion", shell])
        assert plain.exit_code == 0
        assert VARIABLE in plain.output
        assert PROGRAM in plain.output
    assert CliRunner().invoke(root, ["completion", "cmd"]).exit_code == 2


def test_the_configuration_package_has_what_it_names_and_nothing_else() -> None:
    """It loads its parts when they are asked for."""
    assert {name for name in config.__all__ if getattr(config, name).__name__ == name} == set(config.__all__)
    with pytest.raises(AttributeError, match="no attribute 'loaded'"):
        config.loaded  # noqa: B018
