"""A service at work between a made-up archive and a made-up destination: what a soak and the sizing measure."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import ROOT, BenchmarkError
from bench.usage import Size, Usage, sqlite_size, usage
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.router import RunningRouter, Site, node

_AHEAD = 1000
"""Studies that the archive has beyond those that have ended: there is always something to do."""
_BEHIND = 200
"""Studies that it still lists although they have ended: they are known."""


@dataclass(frozen=True)
class Sample:
    """What was read at a moment; `transfers` is how many have ended, `ledger` bytes."""

    at: float
    transfers: int
    used: Usage
    ledger: int


class Factory:
    """The archive and the destination, and how far the archive has got."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path, *, instances: int, rows: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._offer = directory / "offer"
        self.offer(0, 0)
        self.archive, self.sink = free_port(), free_port()
        self._stack, self._directory = stack, directory
        self._sizes = (str(instances), str(rows))

    def start(self, destination: int) -> None:
        """Start both; the archive moves to this port of the machine, whatever the destination is called."""
        for name, port, target in (("ARCHIVE", self.archive, [str(destination)]), ("SINK", self.sink, [])):
            words = [sys.executable, "-m", "bench.factory", str(port), name, str(self._offer), *self._sizes, *target]
            made = Process(words, self._directory, name=f"factory-{name.lower()}", working_directory=ROOT)
            self._stack.enter_context(made).wait_until_listening(port)

    def offer(self, first: int, last: int) -> None:
        """The studies that the archive lists: from the first on, up to before the last."""
        new = self._offer.with_suffix(".new")
        new.write_text(f"{first} {last}")
        new.replace(self._offer)


class AtWork:
    """One service between them, with a move of all that the archive lists, and a forward of it where it is wanted."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        directory: Path,
        name: str,
        *,
        ledger: str = "",
        size: Size | None = None,
        instances: int = 2,
        rows: int = 64,
        forward: bool = True,
        rules: Mapping[str, Any] | None = None,
        nodes: Mapping[str, Any] | None = None,
        router: Mapping[str, Any] | None = None,
        every: str = "5s",
    ) -> None:
        """Start it. `ledger` is a URL, else a SQLite file; `size` says how big the ledger is."""
        self.name = name
        self.samples: list[Sample] = []
        self.factory = Factory(stack, directory / "factory", instances=instances, rows=rows)
        moving: dict[str, Any] = {
            "in": {
                "sweep": {"source": "archive", "every": every, "keys": {"StudyDate": "today-1d..today"}},
                "move": {"to": ["local"], "retry": {"attempts": 3, "delay": "1s"}},
            }
        }
        if forward:
            moving["on"] = {"arrival": {"from": ["archive"], "stable": "2s"}, "forward": {"to": ["sink"]}}
        self.site = Site(
            directory / "site",
            nodes={
                "archive": node(
                    "ARCHIVE",
                    self.factory.archive,
                    timezone="UTC",
                    limits={"associations": 4},
                    find={"max_results": "none"},
                ),
                "sink": node("SINK", self.factory.sink, limits={"associations": 2, "incoming": 2}),
                **(nodes or {}),
            },
            rules={**moving, **(rules or {})},
            router={**({"ledger": ledger} if ledger else {}), **(router or {})},
        )
        self._size = size or sqlite_size(self.site.directory / "ledger.db")
        self.factory.start(self.site.dicom_port)
        self.router = stack.enter_context(RunningRouter(self.site))
        self.per_study = 2 if forward else 1

    def feed(self) -> None:
        """There is always something to do."""
        done = self.ended() // self.per_study
        self.factory.offer(max(0, done - _BEHIND), done + _AHEAD)

    def sample(self) -> Sample:
        """Read what it uses, and remember it."""
        if self.router.returncode is not None:
            raise BenchmarkError(f"The service on {self.name} ended: {self.router.log[-2000:]}")
        self.samples.append(Sample(time.monotonic(), self.ended(), usage(self.router.pid), self._size()))
        return self.samples[-1]

    def ended(self) -> int:
        """Transfers that have ended, as the metrics count them."""
        lines = [line for line in self.router.metrics().splitlines() if line.startswith("dicom_router_transfers_total")]
        return int(sum(float(line.rpartition(" ")[2]) for line in lines))

    def not_complete(self) -> int:
        """Those among them that are not complete."""
        lines = [
            line
            for line in self.router.metrics().splitlines()
            if line.startswith("dicom_router_transfers_total") and 'verdict="complete"' not in line
        ]
        return int(sum(float(line.rpartition(" ")[2]) for line in lines))
