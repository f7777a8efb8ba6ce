"""A full round of sweeps, one million known studies over twenty sources, all at once, beside their C-FINDs alone.

Everything the service does for a sweep is in it: it is made due, claimed, asked, decided study by study against the
ledger, and its report is written. Beside it the same questions, asked as much at once, their answers decoded and
kept. Time is held against time, and the most memory against the most memory.
"""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.harness import Bench, BenchmarkError, seconds
from bench.matches import garbage_collected_as_in_the_service, instance_count, study_instance_uid
from bench.result import Row, Series, under
from router.config.compiler import load
from router.dimse.peers import Peers
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.levels import RETURN_KEYS
from router.domain.rule import Rule, RuleSet
from router.domain.sweep import SweepDue, SweepState
from router.engine.query import Inquiry
from router.engine.slots import NodeSlots, Urgency
from router.engine.sweep import Sweeper
from router.ledger.ledger import SqlLedger
from tests.support.router import Site, node

_NOBODY = threading.Event()
_START = datetime(2026, 1, 1, tzinfo=UTC)
_LEASE = 3600.0

# A complete transfer for each match that the responder gives, of each source. Instants are microseconds.
_FILL = """
INSERT INTO transfers (source, study_instance_uid, destination, rule, priority, state, instance_count,
                       queued_at, next_at, updated_at, finished_at)
WITH RECURSIVE number (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i < :last)
SELECT :source, study_instance_uid(i), 'local', :rule, 1, 'complete', instance_count(i), :at, :at, :at, :at
FROM number
"""


class _Clock:
    """Later by ten minutes with each round, so that no answer of the one before serves the next."""

    def __init__(self) -> None:
        self.at = _START

    def now(self) -> datetime:
        return self.at


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    bench.stack.enter_context(garbage_collected_as_in_the_service())
    sources, each = bench.scale(20, 3), bench.scale(50_000, 500)
    bench.say(f"making {each:,} matches, and a ledger that knows those of {sources} sources")
    round_ = _Round(bench, sources, each)
    whole: list[tuple[float, float]] = []
    alone: list[tuple[float, float]] = []
    for number in range(bench.scale(3, 1)):
        for label, figures, work in (("sweeps", whole, round_.sweep), ("C-FINDs", alone, round_.find)):
            bench.say(f"run {number + 1}: {label}")
            figures.append(_measured(work))
    count = sources * each
    title = f"Round of sweeps, {count:,} known studies, {sources} sources at once"
    for unit, place in (("s", 0), ("MiB more", 1)):
        ours = Series("sweeps, decisions and reports included", tuple(one[place] for one in whole), count)
        theirs = Series("their C-FINDs alone", tuple(one[place] for one in alone), count)
        yield Row(title, unit, ours, theirs, under(1.5 if place == 0 else 2.0))


def _measured(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and the MiB by which resident memory was above the beginning's at most."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, proc(5)
    taken = seconds(work)
    return taken, max(_status("VmHWM") - before, 1) / 1024


def _status(name: str) -> int:
    """A figure of this process in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise BenchmarkError(f"This system does not say {name} of a process.")


class _Round:
    """Twenty sources with a rule each, and the ledger of a router that has moved all they have."""

    def __init__(self, bench: Bench, sources: int, each: int) -> None:
        self._each = each
        port = bench.module("responder", each)
        names = [f"archive-{number:02}" for number in range(sources)]
        site = Site(
            bench.folder("site"),
            # A round number of matches looks as if they had been cut.
            nodes={name: node("ARCHIVE", port, find={"max_results": "none"}) for name in names},
            rules={
                f"from-{name}": {
                    "sweep": {"source": name, "every": "5m", "keys": {"StudyDate": "20240101..20240131"}},
                    "where": {
                        "ModalitiesInStudy": ["CT", "MR", "US", "CR"],
                        "StudyDescription": {"matches": "(?i)chest|thorax|head|abdomen"},
                        "NumberOfStudyRelatedInstances": {"gte": 10},
                    },
                    "move": {"to": ["local"]},
                }
                for name in names
            },
        )
        rules = load(site.rules_directory).rule_set
        assert rules is not None
        self._rules: RuleSet = rules
        self._clock = _Clock()
        self._due = itertools.count()
        self._ledger = bench.stack.enter_context(SqlLedger.open(site.settings["ledger"]))
        path = site.settings["ledger"].removeprefix("sqlite:///")
        for rule in rules.rules.values():
            bench.say(f"filling the ledger: {rule.asked}")
            _fill(path, rule, each)
        self._peers = Peers("BENCH", lambda event: None)
        bench.stack.callback(self._peers.close)
        self._inquiry = Inquiry(self._peers, NodeSlots())
        self._pool = bench.stack.enter_context(ThreadPoolExecutor(sources))

    def sweep(self) -> None:
        """All sweeps become due at once, as after a night, and run to their ends."""
        self._clock.at = _START + timedelta(minutes=10 * (next(self._due) + 1))
        now = self._clock.at
        # A new one for each round, as nothing but the ledger remembers what was decided.
        sweeper = Sweeper(
            rules=lambda: self._rules,
            ledger=self._ledger,
            inquiry=self._inquiry,
            clock=self._clock,
            observer=lambda event: None,
        )
        due = [SweepDue(rule=rule.name, source=rule.asked, due_at=now) for rule in self._rules.rules.values()]
        self._ledger.add_sweeps(due)

        def one(source: str) -> None:
            claimed = self._ledger.claim_sweep([source], now, _LEASE)
            if claimed is None:
                raise BenchmarkError("A sweep that is due could not be claimed.")
            report = sweeper.run(claimed, _NOBODY)
            if (report.state, report.matches, report.selected) != (SweepState.COMPLETE, self._each, 0):
                raise BenchmarkError("A sweep did not find all studies, or did not know them all.")

        list(self._pool.map(one, [sweep.source for sweep in due]))

    def find(self) -> None:
        """The same questions, their answers decoded."""
        keys: dict[int, tuple[str, ...]] = dict.fromkeys(RETURN_KEYS[QueryRetrieveLevel.STUDY], ())

        def one(rule: Rule) -> int:
            result = self._inquiry.find(
                self._rules.nodes[rule.asked], QueryRetrieveLevel.STUDY, Identifier(keys), Urgency.SWEEP, _NOBODY
            )
            return len(result.identifiers)

        if set(self._pool.map(one, self._rules.rules.values())) != {self._each}:
            raise BenchmarkError("A C-FIND did not bring all matches.")


def _fill(path: str, rule: Rule, each: int) -> None:
    """Each study was moved once, and did not grow since."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("study_instance_uid", 1, study_instance_uid)
        connection.create_function("instance_count", 1, instance_count)
        connection.execute("PRAGMA synchronous = OFF")
        at = int(_START.timestamp() * 1_000_000)
        connection.execute(_FILL, {"last": each - 1, "source": rule.asked, "rule": rule.name, "at": at})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
