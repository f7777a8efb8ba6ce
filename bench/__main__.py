"""`python -m bench`: runs the benchmarks, prints a table of ratios with the targets, writes JSON where asked to."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pynetdicom

import router
from bench.catalogue import BENCHMARKS, Benchmark
from bench.harness import BenchmarkError, bench_in, program
from bench.result import Row, as_json, table, verdict
from tests.support.orthanc import orthanc_version
from tests.support.process import run as run_program

LEGEND = """Medians over the runs; the contenders take turns. In brackets: what an acknowledged instance survives there,
[fsync] a power cut, [rename] a killed process, [none] neither; each peer does what it does as delivered."""

_BUSY = 0.5
"""Load from which the figures suffer: this machine should have nothing else to do."""
_QUICK = "A quick run only shows that it works; its figures mean nothing."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit status: 0, or 1 where a benchmark could not be run."""
    options = _parser().parse_args(arguments)
    chosen = [benchmark for benchmark in BENCHMARKS if not options.only or benchmark.name in options.only]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that all is tidied up
    started = time.monotonic()
    machine = _machine()
    print("  ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows: dict[str, list[Row]] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="dicom-router-bench-", dir=options.directory) as directory:
        for benchmark in chosen:
            rows[benchmark.name] = []
            failure = _run(benchmark, Path(directory), options.quick, rows[benchmark.name])
            if failure:
                failures[benchmark.name] = failure
                print(f"{benchmark.name} could not be run to its end: {failure}", file=sys.stderr, flush=True)
    everything = [row for some in rows.values() for row in some]
    minutes = (time.monotonic() - started) / 60
    if machine["load"] > _BUSY:
        print(f"\nThe machine had other work when this began (load {machine['load']}): figures and ratios suffer.")
    judged = _QUICK if options.quick else verdict(everything)
    print(f"\n{table(everything)}\n\n{LEGEND}\n\n{judged}\n{minutes:.1f} minutes.", flush=True)
    if options.json:
        content = {
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "quick": options.quick,
            "machine": machine,
            "benchmarks": {name: as_json(some) for name, some in rows.items()},
            "failures": failures,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {benchmark.name:<14}{benchmark.description}" for benchmark in BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Benchmarks of the router beside real peers, in one run.",
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[benchmark.name for benchmark in BENCHMARKS],
        metavar="NAME",
        help="run this one; may be given several times",
    )
    parser.add_argument("--quick", action="store_true", help="few runs of little work: shows that it works, no more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where files are written: the disk to measure")
    return parser


def _run(benchmark: Benchmark, directory: Path, quick: bool, rows: list[Row]) -> str:
    """Run one and print its part of the table. Returns why it failed, empty where it did not."""
    print(f"\n{benchmark.name}: {benchmark.description}", file=sys.stderr, flush=True)
    try:
        with contextlib.closing(_Progress()) as progress, bench_in(directory, quick=quick, say=progress.say) as bench:
            rows.extend(benchmark.run(bench))
    except (BenchmarkError, AssertionError, OSError, subprocess.SubprocessError) as error:
        return str(error) or type(error).__name__
    return ""


class _Progress:
    """What is going on: on a terminal one line that changes, else nothing."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Show it."""
        if self._live:
            print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the line clean."""
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "dicom-router": router.__version__,
        "python": platform.python_version(),
        "pydicom": pydicom.__version__,
        "pynetdicom": pynetdicom.__version__,
        "dcmtk": run_program([program("storescu"), "--version"]).stdout.split()[2].lstrip("v"),
        "orthanc": orthanc_version(),
        "system": f"{platform.system()}-{platform.release()}",
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
