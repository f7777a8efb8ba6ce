"""The commands `validate`, `init` and `schema`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from router import config
from router.cli.init import init
from router.cli.schema import schema
from router.cli.settings import Settings
from router.cli.validate import validate
from router.config.diagnostics import Code, Diagnostic
from router.errors import UsageError

ROOT = Path(__file__).parents[2]
MISTAKES = ROOT / "tests" / "data" / "config"


def run(command: click.Command, *arguments: str, directory: Path = ROOT / "rules", form: str = "text") -> Result:
    return CliRunner().invoke(command, list(arguments), obj=Settings(config=directory, format=form))


def test_validate_a_clean_configuration() -> None:
    result = run(validate)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "is valid" in result.stderr


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    shutil.copy(MISTAKES / "unknown-key-in-sweep.yaml", tmp_path)
    return tmp_path


def test_validate_prints_errors_in_every_format(broken: Path) -> None:
    text = run(validate, directory=broken)
    assert text.exit_code == 1
    assert text.stdout.startswith(f"{broken / 'unknown-key-in-sweep.yaml'}:13:7: error DR010 ")
    assert "1 error, 0 warnings" in text.stderr
    as_json = run(validate, directory=broken, form="json")
    assert as_json.exit_code == 1
    assert [one["line"] for one in json.loads(as_json.stdout)["diagnostics"]] == [13]
    github = run(validate, directory=broken, form="github")
    assert github.exit_code == 1
    assert github.stdout.startswith("::error file=")


def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    shutil.copy(MISTAKES / "haste.yaml", tmp_path)
    result = run(validate, directory=tmp_path)
    assert result.exit_code == 0
    assert "warning DR043" in result.stdout


def test_json_of_a_clean_configuration() -> None:
    result = run(validate, form="json")
    assert json.loads(result.stdout) == {"diagnostics": []}


def test_validate_without_a_directory_is_a_usage_error(tmp_path: Path) -> None:
    result = run(validate, directory=tmp_path / "nowhere")
    assert isinstance(result.exception, UsageError)
    assert "is no directory" in str(result.exception)


def test_init_writes_a_configuration_that_is_valid(tmp_path: Path) -> None:
    result = run(init, str(tmp_path / "new" / "rules"))
    assert result.exit_code == 0
    loaded = config.load(tmp_path / "new" / "rules")
    assert loaded.rule_set is not None
    assert not loaded.diagnostics
    for path in (tmp_path / "new" / "rules").glob("*.yaml"):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema=./")
        assert (path.parent / first.partition("$schema=")[2]).is_file()
        assert str(path) in result.stdout


def test_init_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text("mine")
    result = run(init, str(tmp_path))
    assert isinstance(result.exception, UsageError)
    assert "nodes.yaml" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["nodes.yaml"]
    assert (tmp_path / "nodes.yaml").read_text() == "mine"


def test_init_as_json(tmp_path: Path) -> None:
    files = json.loads(run(init, str(tmp_path / "x"), form="json").stdout)["files"]
    assert sorted(files) == sorted(str(path) for path in (tmp_path / "x").iterdir())


def test_init_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(init, str(tmp_path / "file" / "x"))
    assert isinstance(result.exception, UsageError)
    assert "cannot be written" in str(result.exception)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["router", "nodes", "defaults", "rules"]),
        ("rules", ["*.sweep", "*.where", "*.move"]),
        ("rules.*.sweep.keys", ["rules.*.sweep.keys", "Study Date", "mapping"]),
        ("rules.sweep.keys", ["rules.*.sweep.keys"]),
        ("rules.my-rule.sweep.keys", ["rules.*.sweep.keys"]),
        ("rules.*.sweep.tiers.lookback", ["text", "7d"]),
        ("rules.*.where", ["all", "any", "not"]),
        ("rules.*.where.StudyDescription", ["matches", "between", "exists"]),
        ("nodes.*.move.total", ["default:  2h"]),
        ("nodes.*.limits.associations", ["range:    from 1 to 64"]),
        ("router.durability", ["fsync | rename"]),
        ("nodes.*", ["required: ae_title, address"]),
    ],
)
def test_schema_documents_a_key(path: str, expected: list[str]) -> None:
    result = run(schema, path)
    assert result.exit_code == 0, result.exception
    assert not [text for text in expected if text not in result.stdout]


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("rulez", "rules"),
        ("nodes.*.limit", "limits"),
        ("rules.swep", "sweep"),
        ("router.durability.x", "nothing below"),
    ],
)
def test_schema_of_an_unknown_key_says_what_was_meant(path: str, meant: str) -> None:
    result = run(schema, path)
    assert isinstance(result.exception, UsageError)
    assert meant in str(result.exception)


def test_schema_as_json() -> None:
    assert json.loads(run(schema, "nodes.*.root", form="json").stdout)["enum"] == ["study", "patient"]


# --- validate --strict, and what GitHub is told -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "plain", "strict"), [("haste", 0, 1), ("unknown-key-in-sweep", 1, 1)])
def test_with_strict_warnings_fail_as_well(name: str, plain: int, strict: int, tmp_path: Path) -> None:
    shutil.copy(MISTAKES / f"{name}.yaml", tmp_path)
    for form in ("text", "json", "github"):
        assert run(validate, directory=tmp_path, form=form).exit_code == plain
        assert run(validate, "--strict", directory=tmp_path, form=form).exit_code == strict


def test_strict_lets_a_clean_configuration_pass() -> None:
    assert run(validate, "--strict").exit_code == 0


def test_github_is_told_files_as_they_are_named_in_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "site" / "rules"
    rules.mkdir(parents=True)
    shutil.copy(MISTAKES / "haste.yaml", rules)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    for directory in (rules, Path("site/rules"), Path("site/../site/rules")):
        told = run(validate, directory=directory, form="github").stdout
        assert told.startswith("::warning file=site/rules/haste.yaml,line=12,col="), told
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "site"))
    assert "file=rules/haste.yaml," in run(validate, directory=rules, form="github").stdout
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "elsewhere"))
    assert f"file={rules}/haste.yaml," in run(validate, directory=rules, form="github").stdout


def test_a_hint_with_a_line_of_its_own_stays_one_line_for_github(tmp_path: Path) -> None:
    (tmp_path / "a,b%.yaml").write_text('rules: {"x\\ny": 1}\n')
    told = run(validate, directory=tmp_path, form="github").stdout.splitlines()
    assert told
    assert all(line.startswith(("::error file=", "::warning file=")) for line in told)
    assert all("a%2Cb%25.yaml," in line for line in told)


@pytest.mark.parametrize(
    ("code", "message", "shown"),
    [
        (Code.ATTRIBUTE_VALUE, "'1980-12-40' is no date for rules.r.where", "'…' is no date for rules.r.where"),
        (
            Code.REGULAR_EXPRESSION,
            "the regular expression '(Doe's' is not valid",
            "the regular expression '…' is not valid",
        ),
        (Code.UNKNOWN_NODE, "there is no node 'archiv'", "there is no node 'archiv'"),
    ],
)
def test_logs_and_pages_show_no_value_of_the_files(code: Code, message: str, shown: str) -> None:
    assert Diagnostic(file="a.yaml", code=code, message=message).discreet.message == shown


def test_what_controls_a_terminal_is_not_printed() -> None:
    one = Diagnostic(file="a\n::error.yaml", code=Code.UNKNOWN_KEY, message="there is no key \x1b]0;x")
    assert "\n" not in str(one)
    assert "\x1b" not in str(one)
