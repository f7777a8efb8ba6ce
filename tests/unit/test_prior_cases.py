"""The table of cases in tests/priors: which priors a radiologist would expect, run as any configuration's tests are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from router import config
from router.cli.main import root
from router.config.diagnostics import as_text
from router.config.schema import FILE_NAME
from router.domain.case import NOT_ASKED
from router.domain.relevance import CODES

TABLE = Path(__file__).parents[1] / "priors"
FILES = sorted(TABLE.glob("*.yaml"))
LEAST = 40


def command(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(root, ("--config", str(directory), "test", *arguments), standalone_mode=False)


def printed(directory: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what it printed as JSON."""
    result = command(directory, *arguments, "--format", "json")
    assert result.stdout, result.exception or result.stderr
    return result.return_value, json.loads(result.stdout)


def test_the_table_is_valid_without_a_warning() -> None:
    loaded = config.load(TABLE)
    assert not loaded.diagnostics, as_text(loaded.diagnostics)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_each_file_starts_with_the_modeline_and_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == f"# yaml-language-server: $schema=../../schemas/{FILE_NAME}"
    assert lines[2].startswith("# ")
    assert (path.parent / "../../schemas" / FILE_NAME).is_file()


def test_every_case_of_the_table_holds() -> None:
    code, told = printed(TABLE)
    assert [case for case in told["cases"] if not case["passed"]] == []
    assert (code, told["failed"]) == (0, 0)
    assert told["passed"] == len(told["cases"]) >= LEAST


def test_each_reason_that_there_is_occurs_in_the_table() -> None:
    codes = {wanted.code for case in config.load(TABLE).cases for wanted in case.expect.values()}
    assert codes - {""} == {*CODES, *NOT_ASKED}


def test_each_rule_of_the_table_is_tried() -> None:
    loaded = config.load(TABLE)
    assert loaded.rule_set is not None
    assert {case.rule for case in loaded.cases} == set(loaded.rule_set.rules)


def test_a_wrong_expectation_is_named_and_no_other(tmp_path: Path) -> None:
    copy = shutil.copytree(TABLE, tmp_path / "priors")
    path = copy / "cases-modalities.yaml"
    text = path.read_text("utf-8")
    right = "us: {decision: skip, code: exception, reason: exception 1}"
    assert text.count(right) == 1
    path.write_text(text.replace(right, "us: {decision: move, group: same-region}"), "utf-8")

    code, told = printed(copy)
    (failed,) = [case for case in told["cases"] if not case["passed"]]
    (failure,) = failed["failures"]
    assert (code, told["failed"], failed["name"]) == (1, 1, "no-old-ultrasound-for-ct")
    assert (failure["study"], failure["destination"]) == ("us", "reading-room")
    assert failure["expected"] == "move, group same-region"
    assert failure["got"].startswith("skip, code exception: ")

    lines = command(copy).stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("FAIL")] == ["no-old-ultrasound-for-ct"]
    assert lines[-1].endswith("1 failed.")
