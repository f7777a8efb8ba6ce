"""Claim and finish in a small and in a big ledger: the time of one must not depend on what has gathered."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from bench.harness import Bench, BenchmarkError, Contender, seconds
from bench.result import Row, under
from router.domain.transfer import Finish, Happening
from router.ledger.ledger import SqlLedger

_SOURCE = "archive"
_START = datetime(2026, 1, 1, tzinfo=UTC)
_QUEUED_EACH = 5
"""One row in so many waits; the others have ended."""
_LEASE = 60.0

# A row of each study, without going through the ledger a million times. Instants are microseconds.
_FILL = """
INSERT INTO transfers (source, study_instance_uid, destination, rule, priority, state, instance_count,
                       queued_at, next_at, updated_at, finished_at)
WITH RECURSIVE number (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < :rows)
SELECT :source, '1.2.826.0.1.3680043.10.1001.20240115.' || (10000000 + i), 'local', 'ct', i % 3,
       CASE i % :each WHEN 0 THEN 'queued' ELSE 'complete' END, 5,
       :start + i, :start + i, :start + i, CASE i % :each WHEN 0 THEN NULL ELSE :start + i END
FROM number
"""


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    small, big = bench.scale(10_000, 2_000), bench.scale(1_000_000, 20_000)
    pairs = bench.scale(200, 20)
    contenders = [
        Contender(f"{rows:,} rows", _Claiming(bench, rows, pairs).median_milliseconds, pairs, "fsync")
        for rows in (big, small)
    ]
    many, few = bench.compete(contenders, bench.scale(7, 2))
    yield Row("Claim and finish of one transfer, two transactions", "ms", many, few, under(1.2))


class _Claiming:
    """A ledger, and a worker that claims and finishes one transfer after the other."""

    def __init__(self, bench: Bench, rows: int, pairs: int) -> None:
        bench.say(f"filling a ledger with {rows:,} rows")
        path = bench.folder("ledger") / "ledger.db"
        self._ledger = bench.stack.enter_context(SqlLedger.open(f"sqlite:///{path}"))
        self._pairs = pairs
        self._now = _START + timedelta(days=1)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        start = int(_START.timestamp() * 1_000_000)
        connection.execute(_FILL, {"rows": rows, "source": _SOURCE, "each": _QUEUED_EACH, "start": start})
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        self.median_milliseconds()  # once for the caches

    def median_milliseconds(self) -> float:
        """Of one pair, over a run."""
        return statistics.median(seconds(self._pair) for _ in range(self._pairs)) * 1000

    def _pair(self) -> None:
        claimed = self._ledger.claim_transfer([_SOURCE], self._now, _LEASE)
        if claimed is None:
            raise BenchmarkError("No transfer is left to be claimed.")
        finish = Finish(happening=Happening.PROVEN, completed=5, expected=5, status=0, moved=True)
        if self._ledger.finish(claimed, finish, self._now, self._now) is None:
            raise BenchmarkError("A claim was lost.")
