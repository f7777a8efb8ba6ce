"""HAProxy, started by a test with the file that is shipped: only addresses and ports are others."""

from __future__ import annotations

import csv
import io
import re
import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.support.ports import free_port
from tests.support.process import Process, run

SHIPPED = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
DICOM, HL7, HTTP, OWN_METRICS = 11112, 2575, 9104, 8404
"""The ports that stand in it, of HAProxy as of the replicas."""

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_RESOLVERS = re.compile(r"^resolvers docker\n(?:[ \t]+.*\n)+", re.MULTILINE)


def haproxy_program() -> str:
    """HAProxy's path: Debian installs it where ordinary users do not look."""
    return shutil.which("haproxy") or "/usr/sbin/haproxy"


def rendered(replicas: Mapping[str, str], inside: Mapping[int, int], outside: Mapping[int, int]) -> str:
    """The shipped file as a site adapts it that has no Docker.

    `replicas`: {name in the file: address}; `inside` and `outside`: {port in the file: port} of replicas and HAProxy.
    """
    text = _RESOLVERS.sub("", SHIPPED.read_text(encoding="utf-8"))
    text = text.replace(" resolvers docker init-addr last,libc,none", "")
    text = re.sub(r"(?m)^    bind :(\d+)$", lambda found: f"    bind 127.0.0.1:{outside[int(found[1])]}", text)
    text = re.sub(r"\bcheck port (\d+)", lambda found: f"check port {inside[int(found[1])]}", text)
    return re.sub(
        r"^(    server (\S+) )(\S+):(\d+)",
        lambda found: f"{found[1]}{replicas[found[3]]}:{inside[int(found[4])]}",
        text,
        flags=re.MULTILINE,
    )


def check(path: Path) -> str:
    """What `haproxy -c` says of a file. Raises AssertionError where it is not valid."""
    return run([haproxy_program(), "-c", "-f", path]).stdout


class Haproxy(Process):
    """HAProxy with the shipped file, on free ports of this machine, before these replicas."""

    def __init__(self, directory: Path, replicas: Mapping[str, str], inside: Mapping[int, int]) -> None:
        """Start it and wait until it listens. `replicas` and `inside`: see `rendered`."""
        self.ports = {port: free_port() for port in (DICOM, HL7, HTTP, OWN_METRICS)}
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "haproxy.cfg"
        path.write_text(rendered(replicas, inside, self.ports), encoding="utf-8")
        super().__init__([haproxy_program(), "-f", path], directory, name="haproxy")
        self.wait_until_listening(*self.ports.values())

    def get(self, path: str, port: int = HTTP) -> str:
        """What a path says through HAProxy, or, with OWN_METRICS, HAProxy itself."""
        with _OPENER.open(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=60) as response:
            return str(response.read().decode())

    def up(self, backend: str = "dicom-ready") -> set[str]:
        """The replicas that a backend takes for ready: the last check said so, and enough of them that it uses them.

        Neither is enough: before the first check a server is UP, and after the first good one it is not yet.
        """
        checked = {name for name, state in self._servers("haproxy_server_check_status", backend) if state == "L7OK"}
        return checked & {name for name, state in self._servers("haproxy_server_status", backend) if state == "UP"}

    def associations(self, backend: str = "dicom-ready") -> dict[str, int]:
        """How many connections each replica got from a backend so far."""
        return {name: int(value) for name, value in self._values("haproxy_server_sessions_total", backend)}

    def _servers(self, metric: str, backend: str) -> list[tuple[str, str]]:
        return [
            (labels["server"], labels["state"])
            for labels, value in self._samples(metric)
            if labels.get("proxy") == backend and float(value) == 1
        ]

    def _values(self, metric: str, backend: str) -> list[tuple[str, float]]:
        return [
            (labels["server"], float(value))
            for labels, value in self._samples(metric)
            if labels.get("proxy") == backend
        ]

    def _samples(self, metric: str) -> list[tuple[dict[str, str], str]]:
        found = []
        for line in self.get("/metrics", OWN_METRICS).splitlines():
            if line.startswith(f"{metric}{{"):
                labels, _, value = line[len(metric) + 1 :].rpartition("} ")
                pairs = next(csv.reader(io.StringIO(labels), quotechar='"', skipinitialspace=True))
                found.append(({k: v.strip('"') for k, v in (pair.split("=", 1) for pair in pairs)}, value))
        return found
