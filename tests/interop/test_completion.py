"""Completion in the real shells: the script that `completion` prints, at work in bash, zsh and fish."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from router.cli.main import root
from tests.support.process import run

NODES = """\
nodes:
  archive: {ae_title: ARCHIVE, address: 10.0.0.5:104}
  annex: {ae_title: ANNEX, address: 10.0.0.6:104}
  workstation: {ae_title: WS1, address: 10.0.0.9:104}
"""
RULES = """\
rules:
  ct-to-workstation:
    sweep: {source: archive, every: 5m, keys: {StudyDate: today}}
    move: {to: [workstation]}
  mr-to-workstation:
    sweep: {source: annex, every: 5m, keys: {StudyDate: today}}
    move: {to: [workstation]}
"""

Completed = Callable[[str], list[str]]


def script(shell: str) -> str:
    result = CliRunner().invoke(root, ["completion", shell])
    assert result.exit_code == 0
    return result.output


def in_bash(directory: Path, line: str) -> list[str]:
    """What bash has in COMPREPLY at the end of a line."""
    words = " ".join(f"'{word}'" for word in line.split(" "))
    (directory / "try.bash").write_text(
        f"{script('bash')}\n"
        f"COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMPREPLY=()\n"
        "compopt() { printf 'compopt %s\\n' \"$*\"; }\n"
        "complete -p dicom-router > /dev/null || exit 1\n"
        "_dicom_router_completion dicom-router\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    return shell_lines(["bash", "--norc", "--noprofile", "try.bash"], directory)


def in_zsh(directory: Path, line: str) -> list[str]:
    """What zsh is told to add at the end of a line; what it describes comes with a colon before the description."""
    words = " ".join(f"'{word}'" for word in line.split(" "))
    (directory / "try.zsh").write_text(
        "compdef() { :; }\n"
        "_describe() { print -rl -- ${(P)3}; }\n"
        "compadd() { print -rl -- ${(P)@[-1]}; }\n"
        '_path_files() { print -r -- "files $*"; }\n'
        f"{script('zsh')}\n"
        f"words=({words}); CURRENT=${{#words}}\n"
        "_dicom_router_completion\n"
    )
    return [said.partition(":")[0] for said in shell_lines(["zsh", "-f", "try.zsh"], directory)]


def in_fish(directory: Path, line: str) -> list[str]:
    """What fish itself lists at the end of a line; descriptions stand behind a tab."""
    (directory / "try.fish").write_text(f"{script('fish')}\ncomplete --do-complete '{line}'\n")
    return [said.partition("\t")[0] for said in shell_lines(["fish", "--no-config", "try.fish"], directory)]


def shell_lines(command: list[str], directory: Path) -> list[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = run(["env", f"PATH={path}", f"HOME={directory}", *command], directory=directory)
    return [line for line in done.stdout.splitlines() if line]


@pytest.fixture(params=[in_bash, in_zsh, in_fish], ids=["bash", "zsh", "fish"])
def completed(request: pytest.FixtureRequest, tmp_path: Path) -> Completed:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "nodes.yaml").write_text(NODES)
    (tmp_path / "rules" / "rules.yaml").write_text(RULES)
    return lambda line: request.param(tmp_path, line)


def test_commands_are_completed(completed: Completed) -> None:
    assert set(completed("dicom-router va")) == {"validate"}
    assert set(completed("dicom-router transfers re")) == {"retry", "release"}
    assert {"plan", "explain", "doctor", "completion"} <= set(completed("dicom-router "))


def test_options_and_their_values_are_completed(completed: Completed) -> None:
    assert set(completed("dicom-router plan --ru")) == {"--rule"}
    assert set(completed("dicom-router transfers list --state c")) == {"complete", "contradicted", "cancelled"}


def test_names_of_the_configuration_are_completed(completed: Completed) -> None:
    assert set(completed("dicom-router query a")) == {"archive", "annex"}
    assert set(completed("dicom-router doctor w")) == {"workstation"}
    assert set(completed("dicom-router plan --rule ")) == {"ct-to-workstation", "mr-to-workstation"}


def test_another_configuration_is_looked_into_where_the_line_names_it(completed: Completed, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.yaml").write_text("rules:\n  elsewhere: {}\n")
    assert set(completed("dicom-router --config other plan --rule ")) == {"elsewhere"}
    assert set(completed("dicom-router plan --config other --rule ")) == {"elsewhere"}


def test_keys_and_codes_are_completed(completed: Completed) -> None:
    assert set(completed("dicom-router schema rules.sweep.se")) == {"rules.sweep.settle"}
    assert set(completed("dicom-router schema DR04")) >= {"DR040", "DR041"}
