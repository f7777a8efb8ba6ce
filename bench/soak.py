"""`python -m bench.soak`: the service at full rate for some minutes, on SQLite and PostgreSQL; what it uses stays flat.

An archive that never runs out of small studies, C-MOVE to the router's store, from there by C-STORE to a destination,
each way proven, and the studies leave the store. Memory, descriptors, threads and the ledger's size are read every
15 seconds. Not one of the table: it takes its time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.at_work import AtWork, Sample
from bench.usage import postgresql, postgresql_server

_EVERY = 15.0
_WARM = 0.3
"""The share of the time that is not judged: caches fill, the first studies leave the store."""
_LEAVE = {"retention": {"keep": "1m"}}
_PAGES = 512 * 1024
"""Databases grow by pages of many tables and indexes: by so much the ledger's size tells nothing."""
_MIB = 1 << 20


# --- Verdict --------------------------------------------------------------------------------------------------------


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs (Theil and Sen): outliers do not move it."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(points, 2) if x2 > x1]
    return statistics.median(slopes) if slopes else 0.0


@dataclass(frozen=True)
class Judged:
    """One figure over the time that is judged."""

    name: str
    first: float
    last: float
    growth: float
    """What the slope makes of it over that time."""
    allowed: float
    unit: str = ""

    @property
    def flat(self) -> bool:
        """Whether it grew by no more than is allowed."""
        return self.growth <= self.allowed

    def __str__(self) -> str:
        judged = "flat" if self.flat else "GROWS"
        return (
            f"  {self.name:<24}{self.first:>10.1f} {self.last:>10.1f} {self.unit:<6}"
            f"growth {self.growth:>+8.1f}, allowed {self.allowed:>6.1f}  {judged}"
        )


def judge(samples: Sequence[Sample]) -> list[Judged]:
    """The figures of a run, its beginning left out. The ledger's size is judged by what each transfer adds."""
    begun = samples[0].at
    late = [one for one in samples if one.at - begun >= _WARM * (samples[-1].at - begun)]
    span = late[-1].at - late[0].at

    def over_time(name: str, figure: Callable[[Sample], float], share: float, least: float, unit: str = "") -> Judged:
        points = [(one.at, figure(one)) for one in late]
        middle = statistics.median(value for _, value in points)
        return Judged(name, points[0][1], points[-1][1], slope(points) * span, max(share * middle, least), unit)

    half = len(late) // 2
    early, later = _bytes_each(late[: half + 1]), _bytes_each(late[half:])
    moved = max(late[-1].transfers - late[half].transfers, 1)
    return [
        over_time("resident memory", lambda one: one.used.resident / _MIB, 0.05, 4.0, "MiB"),
        over_time("descriptors", lambda one: one.used.descriptors, 0.05, 3.0),
        over_time("threads", lambda one: one.used.threads, 0.05, 3.0),
        Judged("ledger, bytes a transfer", early, later, later - early, max(0.1 * early, _PAGES / moved), "B"),
    ]


def _bytes_each(samples: Sequence[Sample]) -> float:
    """What a transfer added to the ledger."""
    return slope([(float(one.transfers), float(one.ledger)) for one in samples])


def report(name: str, samples: Sequence[Sample], judged: Sequence[Judged]) -> str:
    """A run as text: a line each minute, then the verdicts."""
    lines = [f"{name}", "  minute transfers   a second   MiB  fds threads  ledger MiB  CPU"]
    last = samples[0]
    for one in samples[1:]:
        if one.at - last.at < 60.0 and one is not samples[-1]:
            continue
        rate = (one.transfers - last.transfers) / (one.at - last.at)
        cpu = (one.used.cpu_seconds - last.used.cpu_seconds) / (one.at - last.at)
        lines.append(
            f"  {(one.at - samples[0].at) / 60:>6.1f}{one.transfers:>10,}{rate:>11.1f}{one.used.resident / _MIB:>6.0f}"
            f"{one.used.descriptors:>5}{one.used.threads:>8}{one.ledger / _MIB:>12.1f}{cpu:>5.0%}"
        )
        last = one
    return "\n".join([*lines, *map(str, judged)])


def main() -> int:
    """Run and print; 0 where everything stayed flat and every transfer ended complete."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--ledger", choices=["sqlite", "postgresql", "both"], default="both", help="side by side")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where files are written: the disk to use")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that all is tidied up
    good = True
    with (
        tempfile.TemporaryDirectory(prefix="dicom-router-soak-", dir=options.directory) as directory,
        contextlib.ExitStack() as stack,
    ):
        soaks = []
        if options.ledger in ("sqlite", "both"):
            soaks.append(AtWork(stack, Path(directory) / "sqlite", "SQLite", router=_LEAVE))
        if options.ledger in ("postgresql", "both"):
            url, size = stack.enter_context(postgresql(stack.enter_context(postgresql_server())))
            soaks.append(
                AtWork(stack, Path(directory) / "postgresql", "PostgreSQL", ledger=url, size=size, router=_LEAVE)
            )
        _run(soaks, options.minutes * 60)
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
        for soak in soaks:
            judged = judge(soak.samples)
            wrong = soak.not_complete()
            print(report(soak.name, soak.samples, judged))
            print(f"  transfers that ended otherwise than complete: {wrong}")
            good = good and not wrong and all(one.flat for one in judged)
    return 0 if good else 1


def _run(soaks: Sequence[AtWork], seconds: float) -> None:
    begun = time.monotonic()
    due = begun
    while time.monotonic() - begun < seconds:
        for soak in soaks:
            soak.feed()
            if time.monotonic() >= due:
                soak.sample()
        if time.monotonic() >= due:
            due += _EVERY
        time.sleep(1.0)
    for soak in soaks:
        soak.sample()


if __name__ == "__main__":
    sys.exit(main())
