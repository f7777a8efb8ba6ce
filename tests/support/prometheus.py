"""A real Prometheus, started by a test, and queries to it."""

from __future__ import annotations

import functools
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.ports import free_port
from tests.support.process import READY_SECONDS, Process, run, wait_for

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Sample(NamedTuple):
    """One element of a query's result."""

    labels: dict[str, str]
    value: float


class PrometheusError(Exception):
    """Prometheus did not accept a query; the message is its own."""


class Prometheus(Process):
    """Prometheus on a free port of this machine, scraping the targets every 250 ms."""

    def __init__(
        self,
        directory: Path,
        targets: Mapping[str, int | Sequence[int]],
        *,
        scrape_interval: str = "250ms",
        rules: Path | None = None,
        metrics_path: str = "/metrics",
    ) -> None:
        """Start it and wait until it is ready.

        `targets` maps job names to ports on loopback, `rules` is a file or a pattern of files.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        configuration = {
            "global": {
                "scrape_interval": scrape_interval,
                "scrape_timeout": scrape_interval,
                "evaluation_interval": scrape_interval,
            },
            "rule_files": [str(rules)] if rules else [],
            "scrape_configs": [
                {
                    "job_name": job,
                    "metrics_path": metrics_path,
                    "static_configs": [
                        {"targets": [f"127.0.0.1:{port}" for port in ([ports] if isinstance(ports, int) else ports)]}
                    ],
                }
                for job, ports in targets.items()
            ],
        }
        path = directory / "prometheus.yml"
        path.write_text(json.dumps(configuration, indent=2), encoding="utf-8")  # JSON is YAML
        super().__init__(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                "--storage.tsdb.retention.time=1h",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            directory,
            name="prometheus",
        )
        self.wait_until(self._ready, "Prometheus is ready")

    def query(self, expression: str) -> list[Sample]:
        """Evaluate a PromQL expression now. Raises PrometheusError if it is not valid."""
        data = self._get("/api/v1/query", query=expression)["data"]
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [
            Sample({str(name): str(value) for name, value in item["metric"].items()}, float(item["value"][1]))
            for item in data["result"]
        ]

    def value(self, expression: str) -> float | None:
        """Evaluate an expression that yields at most one element, and return its value."""
        result = self.query(expression)
        if len(result) > 1:
            raise AssertionError(f"{expression} has {len(result)} elements")
        return result[0].value if result else None

    def wait_for_value(self, expression: str, expected: float, seconds: float = READY_SECONDS) -> None:
        """Wait until an expression has this value."""
        wait_for(lambda: self.value(expression) == expected, f"{expression} == {expected}", seconds)

    def wait_until_up(self, *jobs: str, seconds: float = READY_SECONDS) -> None:
        """Wait until the last scrape of each of these jobs succeeded."""
        for job in jobs:
            self.wait_until(functools.partial(self._up, job), f"{job} is scraped", seconds)

    def targets(self) -> list[dict[str, Any]]:
        """Return the active targets, with `lastError` where a scrape failed."""
        active: list[dict[str, Any]] = self._get("/api/v1/targets")["data"]["activeTargets"]
        return active

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or fire, with their texts."""
        active: list[dict[str, Any]] = self._get("/api/v1/alerts")["data"]["alerts"]
        return active

    def _up(self, job: str) -> bool:
        return self.value(f'up{{job="{job}"}}') == 1

    def _ready(self) -> bool:
        try:
            with _OPENER.open(f"{self.url}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _get(self, path: str, **parameters: str) -> Any:
        try:
            with _OPENER.open(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise PrometheusError(json.loads(error.read())["error"]) from None


def check_metrics(exposition: str) -> str:
    """Run `promtool check metrics` on a scrape and return what it has to say: nothing if all is well."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return (done.stdout + done.stderr).strip() or ("" if done.returncode == 0 else f"exit status {done.returncode}")


def check_configuration(path: Path) -> None:
    """Run `promtool check config` on a Prometheus configuration; raises AssertionError with its findings."""
    run(["promtool", "check", "config", path])
