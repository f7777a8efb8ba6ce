"""What it costs to be watched: a scrape and a board of a big site, with a big ledger beside a small one."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec

from bench.harness import Bench, Contender, seconds
from bench.result import Row, more_by_under
from router.boards import Boards
from router.domain.condition import Condition
from router.domain.dicom import SubOperationCounts
from router.domain.events import SubOperationsCounted, TransferEnded
from router.domain.pseudonym import Pseudonyms
from router.domain.rule import Move, Node, RouterSettings, Rule, RuleSet, Sweep
from router.ledger.ledger import SqlLedger
from router.observe.metrics import Metrics
from router.opening import SystemClock

NODES, RULES = 100, 500
_MOVES = 50
"""Transfers that move and end between two scrapes."""
_START = datetime(2026, 1, 1, tzinfo=UTC)

# One in twenty waits, one has failed, one is being verified; the others are complete. Instants are microseconds.
_TRANSFERS = """
INSERT INTO transfers (source, study_instance_uid, destination, rule, priority, state, instance_count,
                       queued_at, next_at, updated_at, finished_at)
WITH RECURSIVE number (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < :rows)
SELECT 'node' || (i % 500 % 100), '1.2.826.0.1.3680043.10.1001.20240115.' || (10000000 + i),
       CASE i / 500 % 2 WHEN 0 THEN 'local' ELSE 'node' || (i % 500 * 7 % 100) END, 'rule' || (i % 500), i % 3,
       CASE i % 20 WHEN 0 THEN 'queued' WHEN 1 THEN 'failed' WHEN 2 THEN 'verifying' ELSE 'complete' END, 5,
       :start + i, :start + i, :start + i, CASE WHEN i % 20 IN (0, 2) THEN NULL ELSE :start + i END
FROM number
"""
_SWEEPS = """
INSERT INTO sweeps (rule, source, tier, manual, due_at, state, started_at, finished_at, matches)
WITH RECURSIVE number (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < :rows)
SELECT 'rule' || (i % 500), 'node' || (i % 500 % 100), 0, 0, :start + i, 'complete', :start + i, :start + i, 7
FROM number
"""


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    small, big = bench.scale(10_000, 2_000), bench.scale(1_000_000, 20_000)
    sites = {rows: _Site(bench, rows) for rows in (big, small)}
    repeats = bench.scale(10, 2)
    for work, figure, difference in (
        (f"Scrape, {NODES} nodes, {RULES} rules, {_MOVES} moves since the last", _Site.scraped, 10.0),
        (f"Board, {NODES} nodes, {RULES} rules", _Site.looked_at, 50.0),
    ):
        contenders = [
            Contender(f"{rows:,} rows", _milliseconds(figure, site, repeats), repeats) for rows, site in sites.items()
        ]
        many, few = bench.compete(contenders, bench.scale(7, 2))
        yield Row(work, "ms", many, few, more_by_under(difference))
    site = sites[big]
    bench.say(f"a scrape has {site.series():,} series in {len(site.text):,} bytes")


def _milliseconds(figure: Callable[[_Site], None], site: _Site, repeats: int) -> Callable[[], float]:
    def run_once() -> float:
        return sum(site.timed(figure) for _ in range(repeats)) / repeats * 1000

    return run_once


class _Site:
    """A big configuration, and a ledger with so many rows."""

    def __init__(self, bench: Bench, rows: int) -> None:
        bench.say(f"filling a ledger with {rows:,} rows")
        path = bench.folder("watching") / "ledger.db"
        self._ledger = bench.stack.enter_context(SqlLedger.open(f"sqlite:///{path}"))
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        start = int(_START.timestamp() * 1_000_000)
        connection.execute(_TRANSFERS, {"rows": rows, "start": start})
        connection.execute(_SWEEPS, {"rows": max(RULES, rows // 2), "start": start})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        self._rules = _configuration()
        self._metrics = Metrics()
        self._metrics.configure(self._rules)
        self._metrics.prepare()
        self._random = random.Random(rows)
        self.text = b""

    def timed(self, work: Callable[[_Site], None]) -> float:
        """Seconds that it takes after some moves."""
        for _ in range(_MOVES):
            number = self._random.randrange(RULES)
            route = {"rule": f"rule{number}", "source": f"node{number % NODES}", "destination": "local"}
            self._metrics(SubOperationsCounted(**route, transfer=number, counts=SubOperationCounts(0, 5, 0, 0)))
            self._metrics(
                TransferEnded(
                    **route,
                    transfer=number,
                    verdict="complete",
                    duration_seconds=3.0,
                    seen_to_verified_seconds=9.0,
                )
            )
        self._metrics.watch_backlog(self._ledger.backlog)  # nothing is remembered of the reading before
        return seconds(lambda: work(self))

    def scraped(self) -> None:
        """A scrape, with a reading of the ledger."""
        self.text, _ = self._metrics.render("")

    def looked_at(self) -> None:
        """A board as JSON, read anew."""
        boards = Boards(
            rules=lambda: self._rules, ledger=self._ledger, clock=SystemClock(), pseudonyms=Pseudonyms(b"bench")
        )
        msgspec.json.encode(boards.board(identifiers=False))

    def series(self) -> int:
        """How many series the last scrape had."""
        return sum(not line.startswith(b"#") for line in self.text.splitlines())


def _configuration() -> RuleSet:
    nodes = {
        f"node{number}": Node(name=f"node{number}", ae_title=f"N{number}", host="127.0.0.1", port=104)
        for number in range(NODES)
    }
    rules = {
        f"rule{number}": Rule(
            name=f"rule{number}",
            sweep=Sweep(source=f"node{number % NODES}"),
            where=Condition(),
            move=Move(to=("local", f"node{number * 7 % NODES}")),
        )
        for number in range(RULES)
    }
    return RuleSet(router=RouterSettings(), nodes=nodes, rules=rules, content_hash="bench")
