"""Dockerfile, compose files and HAProxy. What meets must agree, and the image's commands must work.

There is no container engine where the tests run: files are read with the types they have to be of, and the commands of
the Dockerfile are run in a new environment, by a user who may do nothing, with the files a builder would get.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from router import config
from router.dimse.store_scp import ServerSettings
from router.domain.hl7 import Hl7Settings
from tests.support import haproxy
from tests.support.containers import (
    CONFIGURATION_DIRECTORY,
    DATA_DIRECTORY,
    DEPLOY,
    PORTS,
    ROOT,
    SETTINGS,
    TIDY_SECONDS,
    Strict,
    configuration,
    dockerfile,
    only,
)
from tests.support.ports import free_port
from tests.support.process import Process, run, wait_for

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


# --- Dockerfile ------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """What ENV sets."""
    return dict(word.split("=", 1) for word in shlex.split(only("ENV")))


def health() -> list[str]:
    """The command of HEALTHCHECK."""
    return list(ast.literal_eval(only("HEALTHCHECK").split("CMD ", 1)[1]))


def context() -> list[str]:
    """What reaches the builder."""
    return [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def test_the_image_builds_from_files_that_exist_and_reach_the_builder() -> None:
    sources = [
        source
        for word, rest in dockerfile()
        if word == "COPY" and not rest.startswith("--from")
        for source in shlex.split(rest)[:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "router", "schemas"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in context()), source
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
    assert str(SETTINGS.ledger).startswith("sqlite:///./")


def test_the_image_offers_the_default_ports_and_watches_its_health() -> None:
    assert set(only("EXPOSE").split()) == PORTS
    options = only("HEALTHCHECK").split("CMD ", 1)[0]
    assert {"--interval", "--timeout"} <= {option.split("=")[0] for option in options.split()}
    assert environment()["DICOM_ROUTER_HEALTH"] == f"http://127.0.0.1:{SETTINGS.http_port}/healthz"
    assert "os.environ['DICOM_ROUTER_HEALTH']" in health()[-1]


def test_the_image_starts_the_service_and_stops_it_gently() -> None:
    assert ast.literal_eval(only("CMD")) == ["dicom-router", "run", "--config", CONFIGURATION_DIRECTORY]
    assert "dicom-router" in PYPROJECT["project"]["scripts"]
    assert only("STOPSIGNAL") == "SIGTERM"


def test_the_image_can_use_postgresql_and_decompress() -> None:
    (installation,) = [rest for word, rest in dockerfile() if word == "RUN" and "pip install" in rest]
    extras = re.search(r'"\.\[([\w,]+)\]"', installation)[1].split(",")
    assert set(extras) == set(PYPROJECT["project"]["optional-dependencies"])


# --- The image's commands, run ---------------------------------------------------------------------------------------


class Image:
    """What the Dockerfile makes, below a directory instead of /."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.user = int(only("USER").partition(":")[0]) if os.geteuid() == 0 else os.geteuid()
        self.source, self.data = root / "src", root / DATA_DIRECTORY[1:]
        for directory in (self.source, self.data, root / "opt"):
            directory.mkdir(parents=True)
            self._give(directory)
        for name in context():
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, self.source / name)
        for path in self.source.rglob("*"):
            self._give(path)

    def _give(self, path: Path) -> None:
        os.chown(path, self.user, -1)

    def here(self, text: str) -> str:
        """A command with its absolute paths below the root."""
        return re.sub(r"(?<![\w.])/(opt|etc|var)/", f"{self.root}/\\1/", text)

    def as_user(self, arguments: list[str]) -> list[str]:
        """The arguments that run these as the image's user, who writes nothing but what is its own.

        It may read everything: the Python of a build machine may lie where only root gets to.
        """
        if os.geteuid() != 0:
            return arguments
        who = [f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        may = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
        return ["setpriv", *who, *may, "--bounding-set=-all,+dac_read_search", "--no-new-privs", *arguments]

    @property
    def variables(self) -> dict[str, str]:
        """The environment of its processes."""
        path = self.here(environment()["PATH"].replace("$PATH", os.environ["PATH"]))
        return environment() | {"PATH": path, "HOME": str(self.data), "TMPDIR": str(self.data), "PIP_NO_COMPILE": "1"}

    def shell(self, command: str, directory: Path, seconds: float) -> str:
        """Run a line of the Dockerfile."""
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        done = run(
            self.as_user(["env", *variables, "/bin/sh", "-ec", self.here(command)]),
            directory=directory,
            seconds=seconds,
        )
        return done.stdout


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """The image, built once: the RUN of its first stage, with this Python."""
    with tempfile.TemporaryDirectory(prefix="dicom-router-image-") as directory:  # pytest's are closed to other users
        Path(directory).chmod(0o755)
        built = Image(Path(directory))
        (command,) = [rest for word, rest in dockerfile() if word == "RUN" and "pip install" in rest]
        python = f"{shlex.quote(sys.executable)} -m venv"
        built.shell(command.replace("python -m venv", python), built.source, 900.0)
        yield built


def service(image: Image, directory: Path, **settings: Any) -> tuple[Process, int]:
    """CMD, with a configuration as a ConfigMap is mounted; ready. With its HTTP port."""
    http = free_port()
    content = {
        "router": {
            "listen": f"127.0.0.1:{free_port()}",
            "http": f"127.0.0.1:{http}",
            "minimum_free": 0,
            "watch_every": "1s",
            **settings,
        }
    }
    mount(directory, "site.yaml", yaml.safe_dump(content), 1)
    command = ast.literal_eval(only("CMD"))
    command[command.index(CONFIGURATION_DIRECTORY)] = str(directory)
    process = Process(
        image.as_user([shutil.which(command[0], path=image.variables["PATH"]) or command[0], *command[1:]]),
        image.root / "logs",
        name=directory.name,
        environment=image.variables,
        working_directory=image.data,
    )
    return process.wait_until(lambda: "started" in process.log, "the service has started"), http


def mount(directory: Path, name: str, text: str, version: int) -> None:
    """A file of a ConfigMap as the kubelet brings it and renews it: the link `..data` is swapped."""
    (directory / f"..{version}").mkdir(parents=True)
    (directory / f"..{version}" / name).write_text(text)
    (directory / "..new").symlink_to(f"..{version}")
    (directory / "..new").replace(directory / "..data")
    if not (directory / name).is_symlink():
        (directory / name).symlink_to(f"..data/{name}")


def is_healthy(image: Image, url: str) -> bool:
    """What HEALTHCHECK says."""
    command = [shutil.which(health()[0], path=image.variables["PATH"]) or "python", *health()[1:]]
    variables = [f"{name}={value}" for name, value in (image.variables | {"DICOM_ROUTER_HEALTH": url}).items()]
    # A proxy that the container is told of must not be asked about the container itself.
    variables.append("http_proxy=http://127.0.0.1:1")
    return run(image.as_user(["env", *variables, *command]), check=False).returncode == 0


@pytest.mark.timeout(1200)
def test_the_image_is_built_and_serves_as_an_unprivileged_user(image: Image, tmp_path: Path) -> None:
    assert "dicom-router" in image.shell("dicom-router --version", image.data, 60.0)
    image.shell("python -c 'import psycopg, gdcm'", image.data, 60.0)
    directory = image.root / "etc" / "dicom-router"
    process, http = service(image, directory)
    with process:
        url = f"http://127.0.0.1:{http}/healthz"
        assert is_healthy(image, url)
        assert not is_healthy(image, f"http://127.0.0.1:{free_port()}/healthz")
        assert (image.data / "data" / "store").is_dir()  # relative paths start at the volume
        if os.geteuid() == 0:
            assert (image.data / "data" / "ledger.db").stat().st_uid == image.user

        # The configuration is taken when the mounted directory is swapped, and a mistake changes nothing.
        text = (directory / "site.yaml").read_text()
        mount(directory, "site.yaml", text + "nodes: {archive: {ae_title: PACS, address: 'pacs.example:104'}}\n", 2)
        wait_for(lambda: process.log.count("configuration loaded") >= 2, "the service takes the new configuration")
        mount(directory, "site.yaml", text + "nodes: {archive: {ae_title: PACS}}\n", 3)
        wait_for(lambda: "configuration rejected" in process.log, "the service refuses a configuration with a mistake")
        assert is_healthy(image, url)
        assert process.stop() == 0, process.log
        assert not is_healthy(image, url)


# --- Compose ---------------------------------------------------------------------------------------------------------


class Check(Strict, kw_only=True):
    """A health check."""

    test: list[str]
    interval: str
    timeout: str
    retries: int
    start_period: str = "0s"


class Condition(Strict, kw_only=True):
    """What has to be true of a service before another one starts."""

    condition: str


class ComposeService(Strict, kw_only=True):
    """A container of the Compose specification, as far as we use it."""

    image: str
    build: str = ""
    hostname: str = ""
    profiles: list[str] = msgspec.field(default_factory=list)
    init: bool = False
    restart: str
    stop_signal: str = "SIGTERM"
    stop_grace_period: str = "10s"
    read_only: bool = False
    tmpfs: list[str] = msgspec.field(default_factory=list)
    shm_size: str = ""
    cap_drop: list[str] = msgspec.field(default_factory=list)
    security_opt: list[str] = msgspec.field(default_factory=list)
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    secrets: list[str] = msgspec.field(default_factory=list)
    volumes: list[str] = msgspec.field(default_factory=list)
    ports: list[str] = msgspec.field(default_factory=list)
    depends_on: list[str] | dict[str, Condition] = msgspec.field(default_factory=list)
    healthcheck: Check | None = None


class ComposeSecret(Strict, kw_only=True):
    """A secret of a file."""

    file: str


class Compose(Strict, kw_only=True):
    """A Compose file. Keys with `x-` are ours."""

    services: dict[str, ComposeService]
    secrets: dict[str, ComposeSecret] = msgspec.field(default_factory=dict)
    volumes: dict[str, None]


def compose(name: str) -> Compose:
    """A Compose file of ours."""
    content = yaml.safe_load((ROOT / name).read_text())
    return msgspec.convert({key: value for key, value in content.items() if not key.startswith("x-")}, Compose)


ONE, SCALE = compose("compose.yaml"), compose("compose.scale.yaml")
STACKS = pytest.mark.parametrize("stack", [ONE, SCALE], ids=["compose.yaml", "compose.scale.yaml"])
REPLICAS = ["router-1", "router-2", "router-3"]


def plain(text: str) -> str:
    """A value with the defaults of its variables filled in."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def mounts(service: ComposeService) -> dict[str, str]:
    """Return {path in the container: volume or path here}."""
    found = {}
    for mount in service.volumes:
        source, target = plain(mount).removesuffix(":ro").split(":")
        found[target] = source
    return found


def published(service: ComposeService) -> dict[str, tuple[str, str]]:
    """Return {port in the container: (address, port) of this machine}."""
    found = {}
    for port in service.ports:
        address, outside, inside = plain(port).split(":")
        found[inside] = (address, outside)
    return found


def seconds(duration: str) -> int:
    """A duration of Compose."""
    return int(duration.removesuffix("s"))


@STACKS
def test_services_of_a_stack_are_pinned_and_meet(stack: Compose) -> None:
    for name, service in stack.services.items():
        assert set(service.depends_on) <= set(stack.services), name
        assert set(service.secrets) <= set(stack.secrets), name
        if not service.build:
            assert re.search(r":v?\d+(\.\d+)*$", service.image), f"{name}: pin a version"
        if isinstance(service.depends_on, dict):
            for other, wanted in service.depends_on.items():
                assert wanted.condition == "service_healthy"
                assert stack.services[other].healthcheck is not None
    assert {secret for service in stack.services.values() for secret in service.secrets} == set(stack.secrets)


@STACKS
def test_everything_a_stack_mounts_exists(stack: Compose) -> None:
    used = {source for service in stack.services.values() for source in mounts(service).values()}
    for source in used:
        assert source in stack.volumes or (source.startswith(".") and (ROOT / source).exists()), source
    assert set(stack.volumes) <= used


@STACKS
def test_ports_of_a_stack_are_published_once_and_to_this_machine_only(stack: Compose) -> None:
    ports = [place for service in stack.services.values() for place in published(service).values()]
    assert {address for address, _ in ports} == {"127.0.0.1"}
    assert len(set(ports)) == len(ports)


@STACKS
def test_routers_of_a_stack_may_do_nothing_and_have_time_to_end(stack: Compose) -> None:
    routers = {name: service for name, service in stack.services.items() if service.image == "dicom-router"}
    assert routers
    for service in routers.values():
        assert service.build == "."
        assert service.read_only and service.init
        assert service.cap_drop == ["ALL"]
        assert service.security_opt == ["no-new-privileges:true"]
        assert CONFIGURATION_DIRECTORY in mounts(service)
        rules = configuration(ROOT / mounts(service)[CONFIGURATION_DIRECTORY])
        needed = rules.router.leave + rules.router.drain
        assert seconds(service.stop_grace_period) > needed
        # Where the image's health check, Prometheus and the ports look for it.
        assert (rules.router.http_host, rules.router.http_port) == ("0.0.0.0", SETTINGS.http_port)
        assert (rules.router.listen_host, rules.router.listen_port) == ("0.0.0.0", SETTINGS.listen_port)
    volumes = [mounts(service)[DATA_DIRECTORY] for service in routers.values()]
    assert len(set(volumes)) == len(volumes)
    assert set(volumes) <= set(stack.volumes)


@STACKS
def test_the_archive_of_a_stack_and_its_routers_know_each_other(stack: Compose) -> None:
    orthanc = stack.services["orthanc"]
    settings = json.loads(orthanc.environment["ORTHANC_JSON"])
    router = next(service for service in stack.services.values() if service.image == "dicom-router")
    rules = configuration(ROOT / mounts(router)[CONFIGURATION_DIRECTORY])
    (node,) = rules.nodes.values()
    assert (node.ae_title, node.host, node.port) == (settings["DicomAet"], "orthanc", settings["DicomPort"])
    ((title, host, port),) = settings["DicomModalities"].values()
    assert title == rules.router.ae_title
    assert str(port) in published(stack.services[host])
    assert settings["StorageDirectory"] in mounts(orthanc)
    assert {str(settings["DicomPort"]), str(settings["HttpPort"])} == set(published(orthanc))


@STACKS
def test_prometheus_and_grafana_of_a_stack_find_what_they_show(stack: Compose) -> None:
    found = mounts(stack.services["prometheus"])
    scrape = yaml.safe_load((ROOT / found["/etc/prometheus/prometheus.yml"]).read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in scrape["scrape_configs"]}
    routers = [name for name, service in stack.services.items() if service.image == "dicom-router"]
    assert jobs["dicom-router"] == [f"{name}:{SETTINGS.http_port}" for name in routers]
    for target in (target for targets in jobs.values() for target in targets):
        assert target.split(":")[0] in stack.services
    assert {f"/etc/prometheus/{name}" for name in scrape["rule_files"]} <= set(found)
    grafana = mounts(stack.services["grafana"])
    provisioning = ROOT / grafana["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert published(stack.services["prometheus"]) == {"9090": ("127.0.0.1", "9090")}
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "dicom-router.yaml").read_text())["providers"]
    directory = provider["options"]["path"]
    home = stack.services["grafana"].environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{directory}/overview.json"
    assert (ROOT / grafana[directory] / "overview.json").exists()


@pytest.mark.parametrize("file", ["monitoring/prometheus.yml", "deploy/scale/prometheus.yml"])
def test_prometheus_takes_its_file(tmp_path: Path, file: str) -> None:
    for path in (ROOT / file, ROOT / "monitoring" / "recording.yaml", ROOT / "monitoring" / "alerts.yaml"):
        shutil.copy(path, tmp_path)
    run(["promtool", "check", "config", tmp_path / Path(file).name])


def test_the_stack_of_one_machine_is_what_it_was() -> None:
    assert set(ONE.services) == {"router", "orthanc", "prometheus", "grafana"}
    assert set(published(ONE.services["router"])) == {str(SETTINGS.listen_port), str(SETTINGS.http_port)}
    loaded = config.load(ROOT / mounts(ONE.services["router"])[CONFIGURATION_DIRECTORY])
    assert [str(diagnostic) for diagnostic in loaded.diagnostics] == []


# --- Three replicas --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What deploy/scale/secrets.sh makes, beside a copy of it."""
    copied = Path(shutil.copy(DEPLOY / "scale" / "secrets.sh", tmp_path_factory.mktemp("scale")))
    run(["bash", "-n", copied])
    run([copied])
    return copied.parent / "secrets"


def with_secrets(directory: Path, secrets: Path, target: Path) -> Path:
    """A copy of a configuration whose secrets are those of a directory here."""
    shutil.copytree(directory, target)
    for path in target.glob("*.yaml"):
        path.write_text(re.sub(r"/run/secrets(/dicom-router)?/", f"{secrets}/", path.read_text()))
    return target


def test_the_secrets_are_made_once_and_for_the_owner(secrets: Path) -> None:
    assert {path.name for path in secrets.iterdir()} == set(SCALE.secrets)
    assert {(ROOT / secret.file).name for secret in SCALE.secrets.values()} == set(SCALE.secrets)
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    # The containers' users are nobody on this machine: they read the files, which are all they see.
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o444}
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    assert run([secrets.parent / "secrets.sh"]).stdout.count("kept ") == len(before)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert len(before["router-token"].strip()) >= 16
    assert before["router-token"] != before["database-password"]
    database = SCALE.services["database"]
    user, name = database.environment["POSTGRES_USER"], database.environment["POSTGRES_DB"]
    password = before["database-password"].strip()
    assert before["ledger-url"].strip() == f"postgresql://{user}:{password}@database/{name}"
    assert database.environment["POSTGRES_PASSWORD_FILE"] == "/run/secrets/database-password"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/scale/secrets/" in ignored


@pytest.mark.parametrize("name", ["scale", "kubernetes"])
def test_the_configuration_of_replicas_is_valid(name: str, secrets: Path, tmp_path: Path) -> None:
    directory = with_secrets(DEPLOY / name / "configuration", secrets, tmp_path / "configuration")
    done = run([sys.executable, "-m", "router", "--config", directory, "validate"], directory=ROOT)
    assert re.search(r" is valid: .* 0 warnings$", done.stdout.strip())
    rules = configuration(directory)
    assert rules.router.leave > 0
    assert rules.router.token is not None
    assert rules.router.hl7 is not None and str(rules.router.hl7.port) in PORTS
    assert Path(rules.router.store).is_relative_to(DATA_DIRECTORY)
    assert rules.router.replica == ""  # the host name: the files are the same for all


def test_replicas_have_names_of_their_own_and_wait_for_the_database() -> None:
    assert {"balancer", "database", "prometheus", "grafana", *REPLICAS} <= set(SCALE.services)
    for name in REPLICAS:
        service = SCALE.services[name]
        assert service.hostname == name
        assert set(service.secrets) == {"ledger-url", "router-token"}
        assert list(service.depends_on) == ["database"]
        assert service.ports == []  # reached through the balancer
        assert seconds(service.stop_grace_period) >= 35 + TIDY_SECONDS
    database = SCALE.services["database"]
    assert database.ports == []
    assert database.healthcheck is not None and "--host=127.0.0.1" in database.healthcheck.test
    assert int(database.image.removeprefix("postgres:")) >= 14


class Proxy:
    """deploy/haproxy.cfg, by its sections."""

    def __init__(self) -> None:
        self.sections: dict[str, list[str]] = {}
        current: list[str] = []
        for line in haproxy.SHIPPED.read_text().splitlines():
            if line and not line.startswith(("#", " ")):
                current = self.sections.setdefault(line, [])
            elif line.strip() and not line.strip().startswith("#"):
                current.append(line.strip())

    def seconds(self, section: str, timeout: str) -> int:
        """A timeout of a section."""
        (found,) = [line.split()[-1] for line in self.sections[section] if line.split()[:2] == ["timeout", timeout]]
        return int(found[:-1]) * {"s": 1, "m": 60}[found[-1]]

    def having(self, start: str) -> Iterator[tuple[str, list[str]]]:
        """(section, words) of the lines that begin so."""
        for section, lines in self.sections.items():
            for line in lines:
                if line.split()[0] == start:
                    yield section, line.split()


def test_haproxy_leads_to_all_replicas_and_their_ports() -> None:
    proxy = Proxy()
    for section in ("backend dicom-ready", "backend dicom-listening", "listen hl7", "listen http"):
        servers = {words[1]: words[2] for found, words in proxy.having("server") if found == section}
        assert list(servers) == REPLICAS, section
        (port,) = {address.split(":")[1] for address in servers.values()}
        assert [address.split(":")[0] for address in servers.values()] == REPLICAS
        assert port in PORTS
    bound = {words[1].removeprefix(":") for _, words in proxy.having("bind")}
    assert bound == {*PORTS, str(haproxy.OWN_METRICS)}
    assert set(published(SCALE.services["balancer"])) == PORTS
    assert (ROOT / mounts(SCALE.services["balancer"])["/usr/local/etc/haproxy/haproxy.cfg"]) == haproxy.SHIPPED
    scrape = yaml.safe_load((DEPLOY / "scale" / "prometheus.yml").read_text())
    assert scrape["scrape_configs"][1]["static_configs"][0]["targets"] == [f"balancer:{haproxy.OWN_METRICS}"]


def test_haproxy_is_more_patient_than_the_router_and_quicker_than_it_leaves() -> None:
    proxy = Proxy()
    assert min(proxy.seconds("frontend dicom", "client"), proxy.seconds("backend dicom-ready", "server")) > (
        ServerSettings().inactivity
    )
    assert proxy.seconds("listen hl7", "server") > Hl7Settings().idle
    assert proxy.seconds("listen hl7", "client") > Hl7Settings().idle
    (words,) = [words for _, words in proxy.having("default-server")]
    options = dict(itertools.pairwise(words))
    noticed = int(options["fall"]) * seconds(options["inter"]) + proxy.seconds("defaults", "check")
    assert noticed < configuration(DEPLOY / "scale" / "configuration").router.leave
    text = haproxy.SHIPPED.read_text()
    assert not re.search(r"^\s*[^#\s].*(shutdown-sessions|send-proxy)", text, re.MULTILINE)


def test_haproxy_logs_no_path() -> None:
    (form,) = [words for _, words in Proxy().having("log-format")]
    logged = set(re.findall(r"%(?:\[[^\]]*\]|\{[^}]*\})?([A-Za-z]+)", " ".join(form)))
    assert logged.isdisjoint({"r", "HU", "HP", "HQ", "HPO", "hr", "hs", "hrl", "hsl", "CC", "CS"})
    assert not re.search(r"^\s*option httplog", haproxy.SHIPPED.read_text(), re.MULTILINE)
    assert not list(Proxy().having("capture"))
