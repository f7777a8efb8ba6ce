"""The project around the code: packaging, Makefile, container, monitoring stack. What meets must agree."""

from __future__ import annotations

import ast
import json
import re
import shlex
import stat
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import router
from router import config
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


# --- Dockerfile ------------------------------------------------------------------------------------------------------


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def only(instruction: str) -> str:
    """Return the argument of an instruction that is there once."""
    (argument,) = [rest for word, rest in dockerfile() if word == instruction]
    return argument


def test_the_image_builds_from_files_that_exist_and_reach_the_builder() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [
        source
        for word, rest in dockerfile()
        if word == "COPY" and not rest.startswith("--from")
        for source in shlex.split(rest)[:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "router", "schemas"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in allowed), source
    # What hatchling needs to build: the files the project's metadata names.
    assert {PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]} <= set(sources)


def test_the_image_runs_a_supported_python() -> None:
    images = {rest.split()[0] for word, rest in dockerfile() if word == "FROM"}
    (image,) = images
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", image)[1]
    assert f"Programming Language :: Python :: {version}" in PYPROJECT["project"]["classifiers"]


def test_the_image_runs_as_nobody_special() -> None:
    user, _, group = only("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    creation = next(rest for word, rest in dockerfile() if word == "RUN" and "useradd" in rest)
    assert f"--uid {user}" in creation
    assert f"--gid {group}" in creation


def test_the_image_keeps_data_in_a_volume() -> None:
    workdirs = [rest for word, rest in dockerfile() if word == "WORKDIR"]
    assert workdirs[-1] == only("VOLUME") == DATA_DIRECTORY
    # Relative, so that they land in the working directory.
    assert not Path(SETTINGS.store).is_absolute()
    assert SETTINGS.ledger.startswith("sqlite:///./")


def test_the_image_offers_the_default_ports_and_watches_its_health() -> None:
    assert set(only("EXPOSE").split()) == {str(SETTINGS.listen_port), str(SETTINGS.http_port)}
    options, command = only("HEALTHCHECK").split("CMD ", 1)
    assert {"--interval", "--timeout"} <= {option.split("=")[0] for option in options.split()}
    arguments = ast.literal_eval(command)
    assert f"http://127.0.0.1:{SETTINGS.http_port}/healthz" in arguments[-1]
    compile(arguments[-1], "healthcheck", "exec")


def test_the_image_starts_the_service_and_stops_it_gently() -> None:
    assert ast.literal_eval(only("CMD")) == ["dicom-router", "run", "--config", CONFIGURATION_DIRECTORY]
    assert "dicom-router" in PYPROJECT["project"]["scripts"]
    assert only("STOPSIGNAL") == "SIGTERM"


# --- compose.yaml ----------------------------------------------------------------------------------------------------

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
STACK = ROOT / "monitoring" / "stack"


def mounts(service: str) -> dict[str, str]:
    """Return {path in the container: volume or path here} of a service, defaults of variables filled in."""
    found = {}
    for mount in SERVICES[service].get("volumes", []):
        source, target = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount).removesuffix(":ro").split(":")
        found[target] = source
    return found


def test_the_stack_has_a_router_an_archive_prometheus_and_grafana() -> None:
    assert set(SERVICES) == {"router", "orthanc", "prometheus", "grafana"}
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", [])) <= set(SERVICES), name
        if "build" not in service:
            assert re.search(r":v?\d+(\.\d+)+$", service["image"]), f"{name}: pin a version"


def test_everything_the_stack_mounts_exists() -> None:
    for name in SERVICES:
        for source in mounts(name).values():
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                assert source in COMPOSE["volumes"], source
    used = {source for name in SERVICES for source in mounts(name).values()}
    assert set(COMPOSE["volumes"]) <= used


def test_ports_of_the_stack_are_published_once_and_to_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)
    inside = {port.split(":")[2] for port in SERVICES["router"]["ports"]}
    assert inside == set(only("EXPOSE").split())


def test_the_router_of_the_stack_finds_its_configuration_and_keeps_its_data() -> None:
    found = mounts("router")
    assert ROOT / found[CONFIGURATION_DIRECTORY] == STACK
    assert found[DATA_DIRECTORY] in COMPOSE["volumes"]
    assert SERVICES["router"]["build"] == "."
    assert int(SERVICES["router"]["stop_grace_period"].removesuffix("s")) > SETTINGS.drain


def test_the_configuration_of_the_stack_is_valid_and_agrees_with_it() -> None:
    loaded = config.load(STACK)
    assert [str(diagnostic) for diagnostic in loaded.diagnostics] == []
    rules = loaded.rule_set
    assert rules is not None
    orthanc = json.loads(SERVICES["orthanc"]["environment"]["ORTHANC_JSON"])
    (node,) = rules.nodes.values()
    assert (node.ae_title, node.host, node.port) == (orthanc["DicomAet"], "orthanc", orthanc["DicomPort"])
    assert orthanc["DicomModalities"] == {"router": [rules.router.ae_title, "router", rules.router.listen_port]}
    assert orthanc["StorageDirectory"] in mounts("orthanc")
    assert {str(orthanc["DicomPort"]), str(orthanc["HttpPort"])} == {
        port.split(":")[2] for port in SERVICES["orthanc"]["ports"]
    }
    # Where the image's health check and Prometheus look for it.
    assert (rules.router.http_host, rules.router.http_port) == ("0.0.0.0", SETTINGS.http_port)
    assert rules.router.listen_port == SETTINGS.listen_port


def test_prometheus_and_grafana_of_the_stack_find_what_they_show() -> None:
    scrape = yaml.safe_load((ROOT / mounts("prometheus")["/etc/prometheus/prometheus.yml"]).read_text())
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == [f"router:{SETTINGS.http_port}"]
    found = mounts("grafana")
    provisioning = ROOT / found["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert SERVICES["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "dicom-router.yaml").read_text())["providers"]
    directory = provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{directory}/overview.json"
    assert (ROOT / found[directory] / "overview.json").exists()
