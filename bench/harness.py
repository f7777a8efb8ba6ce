"""How to measure: where files go, what is started and surely ended, runs that take turns. Knows no benchmark."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.result import Series
from tests.support.ports import free_port
from tests.support.process import Process

ROOT = Path(__file__).parents[1]
P = TypeVar("P", bound=Process)


class BenchmarkError(Exception):
    """A benchmark cannot be run, or what it measured is not what it meant to; the message says why."""


@dataclass(frozen=True)
class Contender:
    """Someone who does the work: `run` does it once and returns the figure of that run."""

    label: str
    run: Callable[[], float]
    count: int = 0
    durability: str = ""


@dataclass
class Bench:
    """What a benchmark is given. `directory` is its own, on the file system that is measured, gone in the end."""

    directory: Path
    quick: bool = False
    say: Callable[[str], None] = lambda text: None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    modules: dict[str, Process] = field(default_factory=dict)
    """The one started last under each name."""

    def scale(self, full: int, quick: int) -> int:
        """A number of runs or pieces of work, smaller in a quick run."""
        return quick if self.quick else full

    def folder(self, name: str) -> Path:
        """A new directory for one contender."""
        path = self.directory / f"{name}-{len(list(self.directory.iterdir()))}"
        path.mkdir(parents=True)
        return path

    def start(self, process: P) -> P:
        """Have the process ended with the benchmark."""
        self.stack.enter_context(process)
        return process

    def module(self, name: str, *arguments: object) -> int:
        """Start a module of this package that listens on a port, its first argument; returns the port."""
        port = free_port()
        words = [sys.executable, "-m", f"bench.{name}", str(port), *map(str, arguments)]
        process = Process(words, self.folder(name), name=name, working_directory=ROOT)
        self.modules[name] = self.start(process).wait_until_listening(port)
        return port

    def compete(self, contenders: Sequence[Contender], runs: int) -> list[Series]:
        """The series of each. They take turns, so that a disturbance hits all alike, each round another one first.

        What was written before is on the disk before a run starts: nobody pays for somebody else's data.
        """
        values: list[list[float]] = [[] for _ in contenders]
        for turn in range(runs):
            for step in range(len(contenders)):
                place = (turn + step) % len(contenders)
                contender = contenders[place]
                self.say(f"run {turn + 1} of {runs}: {contender.label} {contender.durability}")
                os.sync()
                values[place].append(contender.run())
        return [
            Series(contender.label, tuple(figures), contender.count, contender.durability)
            for contender, figures in zip(contenders, values, strict=True)
        ]


def rate(count: int, work: Callable[[], object]) -> float:
    """Pieces of work a second."""
    return count / seconds(work)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def program(name: str) -> str:
    """The path of a DCMTK program. pynetdicom puts programs of the same names into the virtual environment."""
    own = Path(sys.prefix) / "bin"
    places = [place for place in os.get_exec_path() if Path(place) != own]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise BenchmarkError(f"{name} is not installed; `make peers` installs it.")
    return found


def environment(*, nodelay: bool) -> Mapping[str, str]:
    """The environment of a DCMTK program: as delivered it leaves Nagle's algorithm on, TCP_NODELAY=1 turns it off."""
    inherited = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    return {**inherited, "TCP_NODELAY": "1"} if nodelay else inherited


@contextlib.contextmanager
def bench_in(parent: Path, *, quick: bool, say: Callable[[str], None]) -> Iterator[Bench]:
    """A directory below the given one and a stack of processes, which are ended whatever happens."""
    directory = parent / f"{time.monotonic_ns()}"
    directory.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        yield Bench(directory, quick, say, stack)
