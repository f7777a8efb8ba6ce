"""`python -m bench.sizing`: what a study, an instance, a rule and a node cost, and how long an archive takes to move.

Measured with whole services between a made-up archive and a made-up destination: with one instance a study and with
eleven, small and big, with few rules and nodes and with many, in a small ledger and in ones of ten times the size.
With --figures FILE nothing is measured: the arithmetic is done again with what was measured before, for another site.
Not one of the table: it takes its time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.at_work import AtWork
from bench.factory import study_instance_uid
from bench.harness import BenchmarkError, seconds
from bench.sizing_model import DAY, MIB, NATIONAL, Figures, Site, days, ledger_bytes, memory, stages
from bench.usage import postgresql, postgresql_server
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Finish, Happening, Intent, NewTransfer
from router.ledger.ledger import SqlLedger
from tests.support.postgres import PostgresServer
from tests.support.router import node

_SMALL, _BIG = 64, 512
_MANY = 101
_OTHERS = 10**8
"""The first of the studies that are in a ledger and are never offered."""
_BIG_MIB = _BIG * _BIG * 2 / MIB
_SECONDS = 900.0
_LEASE = 600.0
_WRITE = 8192
_SWEEP_SECONDS = 10.0

# Studies that were moved long ago, and are not offered. Instants are microseconds.
_FILL = """
INSERT INTO transfers (source, study_instance_uid, destination, rule, priority, state, instance_count,
                       queued_at, next_at, updated_at, finished_at)
WITH RECURSIVE number (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM number WHERE i < :last)
SELECT 'archive', study_instance_uid(i), 'local', 'in', 1, 'complete', :instances, :at, :at, :at, :at
FROM number
"""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one run found, as `--json` writes it."""

    machine: str
    ledger: str
    at: str
    figures: dict[str, float]
    grown: dict[str, float]
    """Seconds of CPU a study, by how many transfers the ledger had before."""


class Bench:
    """Starts one service after the other and reads what each used."""

    def __init__(self, directory: Path, server: PostgresServer | None, *, quick: bool) -> None:
        self.directory = directory
        self.server = server
        self._quick = quick
        self._count = 0

    def scale(self, full: int, quick: int) -> int:
        """Pieces of work, fewer in a quick run."""
        return quick if self._quick else full

    @contextlib.contextmanager
    def service(self, name: str, *, known: range = range(0), **settings: Any) -> Iterator[AtWork]:
        """A service of its own, in whose ledger these studies are known."""
        _say(f"{name} ...")
        self._count += 1
        with contextlib.ExitStack() as stack:
            place = self.directory / f"{self._count}"
            if known:
                path = place / "site" / "ledger.db"
                path.parent.mkdir(parents=True)
                SqlLedger.open(f"sqlite:///{path}").close()
                _fill(path, known, int(settings.get("instances", 1)))
            url, size = stack.enter_context(postgresql(self.server)) if self.server is not None else ("", None)
            yield AtWork(stack, place, name, ledger=url, size=size, **settings)

    def work(self, studies: int, **settings: Any) -> tuple[float, float]:
        """CPU seconds and bytes of the ledger that each of so many studies took."""
        instances, forward = settings.get("instances", 1), settings.get("forward", False)
        with self.service(f"{studies} studies of {instances}, forward {forward}", **settings) as service:
            # Studies that nothing is compared with: programs have been read, caches are warm.
            warm = min(20, studies)
            self._done(service, 0, warm)
            before = service.sample()
            self._done(service, warm, warm + studies)
            after = service.sample()
            if service.not_complete():
                raise BenchmarkError("Not every transfer ended complete.")
            cpu = after.used.cpu_seconds - before.used.cpu_seconds
            return cpu / studies, (after.ledger - before.ledger) / studies

    @staticmethod
    def _done(service: AtWork, first: int, last: int) -> None:
        service.factory.offer(first, last)
        deadline = time.monotonic() + _SECONDS
        while service.ended() < last * service.per_study:
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"Not all studies were through after {_SECONDS:.0f} s: {service.ended()} of {last}"
                )
            time.sleep(0.1)

    def idle(self, rules: int, nodes: int, *, known: int = 0) -> tuple[float, float]:
        """CPU seconds of a round of sweeps, and bytes of memory, of a service that finds nothing new."""
        more_nodes = {f"node-{n}": node(f"N{n}", 104) for n in range(nodes - 2)}
        more_rules = {
            f"rule-{n}": {
                "sweep": {
                    "source": "archive",
                    "every": f"{_SWEEP_SECONDS:.0f}s",
                    "keys": {"StudyDate": "today-1d..today", "ModalitiesInStudy": "CT"},
                },
                "where": {"StudyDescription": {"matches": f"(?i)region {n}"}},
                "move": {"to": ["local"]},
            }
            for n in range(rules - 1)
        }
        settings = {"rules": more_rules, "nodes": more_nodes, "forward": False, "instances": 1}
        every = f"{_SWEEP_SECONDS:.0f}s"
        name = f"{rules} rules, {nodes} nodes, {known} known"
        with self.service(name, known=range(known), every=every, **settings) as idle:
            idle.factory.offer(0, known)
            rounds = self.scale(6, 1)
            time.sleep(self.scale(2, 1) * _SWEEP_SECONDS)
            before = idle.sample()
            time.sleep(rounds * _SWEEP_SECONDS)
            after = idle.sample()
            if after.transfers:
                raise BenchmarkError("A study was moved that should have been known.")
            return (after.used.cpu_seconds - before.used.cpu_seconds) / rounds, after.used.resident


def measure(bench: Bench) -> tuple[Figures, dict[str, float]]:
    """All figures; where the ledger is SQLite, also how a study's cost grows with the ledger."""
    sqlite = bench.server is None
    few, many = bench.scale(400, 10), bench.scale(40, 2)
    one, one_bytes = bench.work(few, instances=1, rows=_SMALL, forward=False)
    some, some_bytes = bench.work(many, instances=_MANY, rows=_SMALL, forward=False)
    big, _ = bench.work(many, instances=_MANY, rows=_BIG, forward=False)
    on_one, on_one_bytes = bench.work(few, instances=1, rows=_SMALL, forward=True)
    on_some, _ = bench.work(many, instances=_MANY, rows=_SMALL, forward=True)
    on_big, _ = bench.work(many, instances=_MANY, rows=_BIG, forward=True)
    instance, on_instance = (some - one) / (_MANY - 1), (on_some - on_one - some + one) / (_MANY - 1)
    instance_bytes = (some_bytes - one_bytes) / (_MANY - 1)
    alone, alone_memory = bench.idle(1, 2)
    rules = bench.scale(500, 20)
    ruled, ruled_memory = bench.idle(rules, 2)
    nodes = bench.scale(200, 20)
    _, noded_memory = bench.idle(1, nodes)
    known = bench.scale(20_000, 500)
    sweeping = bench.idle(1, 2, known=known)[0] if sqlite else 0.0
    figures = Figures(
        cpu_study=max(one - instance, 0.0),
        cpu_instance=instance,
        cpu_mebibyte=max(big - some, 0.0) / _MANY / _BIG_MIB,
        cpu_forward_study=max(on_one - one - on_instance, 0.0),
        cpu_forward_instance=max(on_instance, 0.0),
        cpu_forward_mebibyte=max(on_big - big - on_some + some, 0.0) / _MANY / _BIG_MIB,
        cpu_known=max(sweeping - alone, 0.0) / known,
        cpu_rule_day=max(ruled - alone, 0.0) / (rules - 1) * DAY / 300,
        ledger_study=max(one_bytes - instance_bytes, 0.0),
        ledger_instance=instance_bytes,
        ledger_forward=max(on_one_bytes - one_bytes, 0.0),
        resident=alone_memory,
        resident_rule=max(ruled_memory - alone_memory, 0.0) / (rules - 1),
        resident_node=max(noded_memory - alone_memory, 0.0) / (nodes - 2),
        fsync_seconds=_fsync_seconds(bench.directory, bench.scale(300, 20)),
        transfer_seconds=_transfer_seconds(bench, few),
    )
    grown = {"0": one}
    if sqlite:
        for before in (bench.scale(100_000, 1000), bench.scale(1_000_000, 10_000)):
            grown[str(before)] = bench.work(
                few, instances=1, rows=_SMALL, forward=False, known=range(_OTHERS, _OTHERS + before)
            )[0]
    return figures, grown


def _fill(path: Path, known: range, instances: int) -> None:
    """These studies were moved."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("study_instance_uid", 1, study_instance_uid)
        connection.execute("PRAGMA synchronous = OFF")
        at = int(datetime.now(UTC).timestamp() * 1_000_000)
        values = {"first": known.start, "last": known.stop - 1, "instances": instances, "at": at}
        connection.execute(_FILL, values)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fsync_seconds(directory: Path, times: int) -> float:
    """The median of a small write that is on the disk."""
    path = directory / "synced"
    with path.open("wb", buffering=0) as file:

        def write() -> None:
            file.write(bytes(_WRITE))
            os.fsync(file.fileno())

        found = statistics.median(seconds(write) for _ in range(times))
    path.unlink()
    return found


def _transfer_seconds(bench: Bench, transfers: int) -> float:
    """The median of what one transfer takes of the ledger: claimed, moved, claimed for a look, proven."""
    now = datetime.now(UTC)
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{bench.directory}/alone.db"
        if bench.server is not None:
            url, _ = stack.enter_context(postgresql(bench.server))
        ledger = stack.enter_context(SqlLedger.open(url))
        ledger.add_sweeps([SweepDue(rule="sizing", source="sizing", due_at=now)])
        sweep = ledger.claim_sweep(["sizing"], now, _LEASE)
        if sweep is None:
            raise BenchmarkError("The sweep that queues the transfers could not be claimed.")
        new = [
            NewTransfer(
                intent=Intent("sizing", study_instance_uid(n), "", "there"), rule="sizing", priority=1, instance_count=1
            )
            for n in range(transfers)
        ]
        ledger.finish_sweep(sweep, SweepReport(state=SweepState.COMPLETE), new, [], now)

        def one() -> None:
            moved = ledger.claim_transfer(["sizing"], now, _LEASE)
            assert moved is not None
            ledger.finish(moved, Finish(happening=Happening.MOVED, completed=1, moved=True), now, now)
            seen = ledger.claim_verification(["there"], now, _LEASE)
            assert seen is not None
            ledger.finish(seen, Finish(happening=Happening.PROVEN, expected=1), now, now)

        return statistics.median(seconds(one) for _ in range(transfers))


# --- Text -------------------------------------------------------------------------------------------------------------


def figures_text(measured: Measured) -> str:
    """What was measured, as a table."""
    found = Figures(**measured.figures)
    rows: list[tuple[str, str]] = [
        ("a study moved to this router, CPU", f"{found.cpu_study * 1000:.1f} ms"),
        ("an instance of it (8 KB), CPU", f"{found.cpu_instance * 1000:.2f} ms"),
        ("each further MiB of an instance, CPU", f"{found.cpu_mebibyte * 1000:.2f} ms"),
        ("a study passed on, CPU", f"{found.cpu_forward_study * 1000:.1f} ms"),
        ("an instance passed on, CPU", f"{found.cpu_forward_instance * 1000:.2f} ms"),
        ("each further MiB passed on, CPU", f"{found.cpu_forward_mebibyte * 1000:.2f} ms"),
        ("a known study in a sweep, CPU", f"{found.cpu_known * 1e6:.0f} us"),
        ("a rule, swept each 5 minutes, CPU a day", f"{found.cpu_rule_day:.1f} s"),
        ("a study in the ledger", f"{found.ledger_study:,.0f} bytes"),
        ("an instance in the ledger (its receipt)", f"{found.ledger_instance:,.0f} bytes"),
        ("a study passed on, in the ledger", f"{found.ledger_forward:,.0f} bytes"),
        ("an idle service, memory", f"{found.resident / MIB:.0f} MiB"),
        ("a rule, memory", f"{found.resident_rule / 1024:.1f} KiB"),
        ("a node, memory", f"{found.resident_node / 1024:.1f} KiB"),
        ("a write that is on the disk", f"{found.fsync_seconds * 1000:.2f} ms"),
        ("a transfer in the ledger, its four steps", f"{found.transfer_seconds * 1000:.2f} ms"),
    ]
    lines = [f"Measured {measured.at} on {measured.machine}, ledger {measured.ledger}"]
    lines += [f"  {name:<44}{value:>16}" for name, value in rows]
    first = measured.grown["0"]
    lines += [
        f"  {'a study, ' + format(int(before), ',') + ' in the ledger before, CPU':<44}{cpu * 1000:>13.1f} ms"
        f"{cpu / first:>7.2f}x"
        for before, cpu in measured.grown.items()
        if before != "0"
    ]
    return "\n".join(lines)


def site_text(site: Site, found: Figures, replicas: Sequence[int] = (1, 3, 10)) -> str:
    """How long a site takes, each stage with its rate, the slowest named."""
    studies = site.instances / site.instances_a_study
    size = f"{site.bytes_an_instance / MIB:.2f} MiB"
    whole = f"{site.instances * site.bytes_an_instance / 1e12:,.1f} TB"
    lines = [f"{site.instances:,.0f} instances of {size} in {studies:,.0f} studies, {whole}"]
    lines.append("  instances a second" + "".join(f"{number:>10} x" for number in replicas) + "  (replicas)")
    tables = {number: {stage.name: stage for stage in stages(site, found, number)} for number in replicas}
    for name in tables[replicas[0]]:
        rates = "".join(f"{tables[number][name].instances_a_second:>12,.0f}" for number in replicas)
        lines.append(f"  {name[:54]:<56}{rates}")
    slowest = {number: stages(site, found, number)[0] for number in replicas}
    lines += [
        f"  {number:>3} replicas: {days(site, found, number):>8,.1f} days, bottleneck: {slowest[number].name}"
        for number in replicas
    ]
    lines.append(f"  ledger in the end: {ledger_bytes(site, found) / 1e9:,.1f} GB, without a history")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, or take what was measured, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little work: shows that it works, no more")
    parser.add_argument(
        "--ledger", choices=["sqlite", "postgresql"], default="sqlite", help="what the ledger is kept in"
    )
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where files are written: the disk to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="measure nothing: take this --json of another run")
    for field in msgspec.structs.fields(_Options):
        text = f"of the site that is worked out; default {field.default:g}"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default, help=text)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that all is tidied up
    if options.figures:
        measured = msgspec.json.decode(options.figures.read_bytes(), type=Measured)
    else:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(postgresql_server()) if options.ledger == "postgresql" else None
            made = tempfile.TemporaryDirectory(prefix="dicom-router-sizing-", dir=options.directory)
            directory = Path(stack.enter_context(made))
            figures, grown = measure(Bench(directory, server, quick=options.quick))
        measured = Measured(
            machine=f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
            ledger=options.ledger,
            at=f"{datetime.now(UTC):%Y-%m-%d}",
            figures=vars(figures),
            grown=grown,
        )
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=2))
    found = Figures(**measured.figures)
    print(figures_text(measured))
    print(f"\n{site_text(_site(options), found)}")
    print(f"\nmemory with 1,000 rules and 200 nodes: {memory(found, 1000, 200) / MIB:.0f} MiB")
    return 0


class _Options(msgspec.Struct):
    """The site's numbers, as options."""

    instances: float = NATIONAL.instances
    instances_a_study: float = NATIONAL.instances_a_study
    megabytes_an_instance: float = NATIONAL.bytes_an_instance / MIB
    source_instances_a_second: float = NATIONAL.source_instances_a_second
    source_associations: float = NATIONAL.source_associations
    source_query_seconds: float = NATIONAL.source_query_seconds
    network_gigabits: float = NATIONAL.network_bits_a_second / 1e9
    cores: float = NATIONAL.cores
    disk_megabytes_a_second: float = NATIONAL.disk_bytes_a_second / 1e6
    open_hours: float = NATIONAL.open_hours


def _site(options: argparse.Namespace) -> Site:
    return Site(
        instances=options.instances,
        instances_a_study=options.instances_a_study,
        bytes_an_instance=options.megabytes_an_instance * MIB,
        source_instances_a_second=options.source_instances_a_second,
        source_associations=int(options.source_associations),
        source_query_seconds=options.source_query_seconds,
        network_bits_a_second=options.network_gigabits * 1e9,
        cores=int(options.cores),
        disk_bytes_a_second=options.disk_megabytes_a_second * 1e6,
        open_hours=options.open_hours,
    )


if __name__ == "__main__":
    sys.exit(main())
