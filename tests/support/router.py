"""The router as its users meet it: a directory of YAML and the command line, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.support.part10 import read_part10
from tests.support.ports import free_port, listening
from tests.support.process import Process

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

COMMAND = [sys.executable, "-m", "router"]


class Site:
    """A configured router in a directory: `nodes` and `rules` as they stand in YAML."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: Mapping[str, Any],
        rules: Mapping[str, Any],
        router: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.rules_directory = directory / "rules"
        self.rules_directory.mkdir(parents=True, exist_ok=True)
        self.store = directory / "store"
        self.host = "127.0.0.1"
        self.dicom_port = free_port()
        self.http_port = free_port()
        self.settings = {
            "ae_title": "ROUTER",
            "listen": f"127.0.0.1:{self.dicom_port}",
            "store": str(self.store),
            "ledger": f"sqlite:///{directory}/ledger.db",
            "http": f"127.0.0.1:{self.http_port}",
            "minimum_free": 0,
            **(router or {}),
        }
        self.configure(nodes=nodes, rules=rules)

    def configure(self, *, nodes: Mapping[str, Any], rules: Mapping[str, Any]) -> None:
        """Write the configuration anew."""
        content = {"router": self.settings, "nodes": dict(nodes), "rules": dict(rules)}
        (self.rules_directory / "site.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def call(self, *arguments: str, seconds: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [*COMMAND, "--config", str(self.rules_directory), *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def json(self, *arguments: str, code: int | None = 0, seconds: float = 240.0) -> Any:
        """Run one command with `--format json` and return what it printed."""
        done = self.call(*arguments, "--format", "json", seconds=seconds)
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def apply(self, *arguments: str, code: int | None = 0, seconds: float = 240.0) -> Any:
        """`apply`, as JSON."""
        return self.json("apply", *arguments, code=code, seconds=seconds)

    def run(self) -> RunningRouter:
        """Start the service."""
        return RunningRouter(self)

    def stored(self) -> dict[str, Path]:
        """{SOP Instance UID: file} of the object store."""
        return {read_part10(path).sop_instance_uid: path for path in self.store.glob("[0-9]*/**/*.dcm")}


class StartedRouter(Process):
    """`dicom-router run`; it is not waited for."""

    def __init__(self, site: Site) -> None:
        self.site = site
        super().__init__(
            [*COMMAND, "--config", str(site.rules_directory), "run"],
            site.directory,
            name="dicom-router",
            working_directory=site.directory,
        )

    def get(self, path: str) -> str:
        """What an HTTP path says."""
        with _OPENER.open(f"http://{self.site.host}:{self.site.http_port}{path}", timeout=60) as response:
            return str(response.read().decode())

    def metrics(self) -> str:
        """What /metrics says."""
        return self.get("/metrics")

    def ready(self) -> bool:
        """Whether /readyz says so."""
        if not listening(self.site.http_port, self.site.host):
            return False
        try:
            return '"ok"' in self.get("/readyz")
        except OSError:
            return False


class RunningRouter(StartedRouter):
    """`dicom-router run`, and ready."""

    def __init__(self, site: Site) -> None:
        """Start it and wait until it is ready."""
        super().__init__(site)
        self.wait_until(self.ready, "the router is ready")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if error is None:
            assert not self.overdue, f"it did not end when it was told to\n{self._tail()}"

    def receivers(self) -> list[int]:
        """The processes that receive."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        children = {int(pid) for task in tasks for pid in _read(task / "children").split()}
        return sorted(pid for pid in children if b"spawn_main" in _read(Path(f"/proc/{pid}/cmdline")))


def _read(path: Path) -> bytes:
    """What stands there; nothing where the process or thread has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def node(ae_title: str, port: int, **settings: Any) -> dict[str, Any]:
    """A node as it stands in YAML."""
    return {"ae_title": ae_title, "address": f"127.0.0.1:{port}", **settings}
