"""The project around the code: packaging, Makefile, container, monitoring stack. What meets must agree."""

from __future__ import annotations

import ast
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import router
from router.domain.rule import RouterSettings
from tests.support.process import run

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = RouterSettings()
MODULES = sorted((ROOT / "router").rglob("*.py"))
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

CONFIGURATION_DIRECTORY = "/etc/dicom-router"
DATA_DIRECTORY = "/var/lib/dicom-router"


# --- Packaging -------------------------------------------------------------------------------------------------------


def pins() -> dict[str, Version]:
    """Return what constraints.txt pins."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(item.name): Version(str(item.specifier).removeprefix("==")) for item in requirements}


def closure(requirements: list[Requirement]) -> set[str]:
    """Return the names of all distributions installed because of these requirements, themselves included."""
    found: set[str] = set()
    while requirements:
        requirement = requirements.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        requirements += map(Requirement, metadata.requires(name) or [])
    return found


def test_constraints_pin_everything_installed_at_a_version_asked_for() -> None:
    pinned = pins()
    wanted = PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]
    requirements = [Requirement(item) for item in [*wanted, *PYPROJECT["build-system"]["requires"], "pip>=25.3"]]
    for requirement in requirements:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement.name
    for name in closure(requirements):
        assert pinned.get(name) == Version(metadata.version(name)), name


def test_no_file_names_where_packages_come_from() -> None:
    files = ["constraints.txt", "pyproject.toml", "Makefile", "Dockerfile", "compose.yaml", *SCRIPTS]
    for path in files:
        text = (ROOT / path).read_text()
        assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|@ *(https?|git)", text), path
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_the_wheel_holds_the_package_and_its_schemas_and_nothing_else(tmp_path: Path) -> None:
    run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path], directory=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        description = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {f"router/schemas/{path.name}" for path in (ROOT / "schemas").iterdir()} <= names
    assert {str(path.relative_to(ROOT)) for path in MODULES} <= names
    assert {name.split("/")[0] for name in names} == {"router", wheel.name.split("-py3")[0] + ".dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert f"\nVersion: {router.__version__}\n" in description
    assert "dicom-router = router.__main__:main" in scripts


def test_license() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License")
    assert "The dicom-router authors" in text
    assert PYPROJECT["project"]["license"] == "MIT"


# --- Modules ---------------------------------------------------------------------------------------------------------


def test_modules_are_short_and_say_what_may_live_in_them() -> None:
    long = {str(path.relative_to(ROOT)) for path in MODULES if len(path.read_text().splitlines()) > 420}
    silent = {str(path.relative_to(ROOT)) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))}
    assert (long, silent) == (set(), set())


# Calls that reach outside; the imports that would be needed for others are what import-linter forbids.
IMPURE = {"now", "today", "utcnow", "open", "print", "input", "read_text", "read_bytes", "write_text", "write_bytes"}


def test_the_domain_reads_no_clock_and_no_file() -> None:
    calls = [
        (f"{path.name}:{node.lineno}", node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
        for path in sorted((ROOT / "router" / "domain").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
    ]
    assert calls
    assert [call for call in calls if call[1] in IMPURE] == []


# --- Makefile and scripts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["help", "install", "demo", "test", "bench", "lint", "peers", "clean"])
def test_make_has_the_target(target: str) -> None:
    run(["make", "--dry-run", "--directory", ROOT, target])


def test_make_test_lints_installs_peers_and_forbids_skips() -> None:
    commands = run(["make", "--dry-run", "--always-make", "--directory", ROOT, "test"]).stdout
    for part in ["scripts/venv.sh", "scripts/peers.sh", "ruff check", "ruff format --check", "mypy", "lint-imports"]:
        assert part in commands, part
    assert re.search(r"pytest .*--forbid-skips", commands)
    assert commands.index("lint-imports") < commands.index("-m pytest")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_stop_at_errors_and_can_be_run(path: Path) -> None:
    run(["bash", "-n", path])
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "set -euo pipefail" in text
    assert path.stat().st_mode & stat.S_IXUSR


def test_the_check_of_every_change_is_make_test() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_peers_names_each_program_the_tests_start() -> None:
    wanted = (ROOT / "scripts" / "peers.sh").read_text()
    for program in [
        "Orthanc",
        "dcmqrscp",
        "storescp",
        "storescu",
        "findscu",
        "movescu",
        "echoscu",
        "dcmsend",
        "dcmconv",
    ]:
        assert f"{program}:" in wanted, program
    assert "prometheus:" in wanted
    assert "promtool:" in wanted


def forbidding_skips(path: Path, test: str, workers: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on a file with this test as `make test` does."""
    (path / "test_sample.py").write_text(test)
    options = ["-p", "no:cacheprovider", "-p", "tests.conftest", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml"]
    command = [sys.executable, "-m", "pytest", *options, "-n", workers, "--forbid-skips", path / "test_sample.py"]
    return run(command, check=False, directory=ROOT)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skipped_test_fails_the_run_where_skips_are_forbidden(tmp_path: Path, workers: str) -> None:
    done = forbidding_skips(tmp_path, "import pytest\n\ndef test_skips():\n    pytest.skip('no peer')\n", workers)
    assert done.returncode == 1
    assert "--forbid-skips does not allow" in done.stdout


def test_a_run_without_skips_passes_where_they_are_forbidden(tmp_path: Path) -> None:
    assert forbidding_skips(tmp_path, "def test_passes():\n    pass\n", "0").returncode == 0
