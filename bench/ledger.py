"""Claim and finish: how many a second, and whether it depends on what has gathered, on both databases."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import text

from bench.harness import Bench, BenchmarkError, Contender, rate, seconds
from bench.result import Row, Series, at_least, under
from router.domain.transfer import Ending, Finish, Happening
from router.ledger.ledger import SqlLedger
from tests.support.postgres import PostgresServer

_SOURCE = "archive"
_START = datetime(2026, 1, 1, tzinfo=UTC)
_QUEUED_EACH = 5
"""One row in so many waits; the others have ended."""
_LEASE = 60.0
_AT_ONCE = 50
"""Transfers that a batch claims, and finishes."""
_ASKED = 1000.0
"""Pairs a second that are asked for with batches, on SQLite."""
_PROVEN = Finish(happening=Happening.PROVEN, completed=5, expected=5, status=0, moved=True)

# A row of each study, without going through the ledger a million times. Instants are microseconds.
_FILL = text("""
INSERT INTO transfers (source, study_instance_uid, destination, rule, priority, state, instance_count,
                       queued_at, next_at, updated_at, finished_at)
WITH RECURSIVE number (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < :rows)
SELECT :source, '1.2.826.0.1.3680043.10.1001.20240115.' || (10000000 + i), 'local', 'ct', i % 3,
       CASE i % :each WHEN 0 THEN 'queued' ELSE 'complete' END, 5,
       :start + i, :start + i, :start + i, CASE i % :each WHEN 0 THEN NULL ELSE :start + i END
FROM number
""")
_AGAIN = text("UPDATE transfers SET state = 'queued', finished_at = NULL, attempts = 0 WHERE attempts > 0")


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    small, big = bench.scale(10_000, 2_000), bench.scale(1_000_000, 20_000)
    pairs, runs = bench.scale(200, 20), bench.scale(7, 2)
    for name, place in (("SQLite", _file), ("PostgreSQL", _server(bench))):
        ledgers = {rows: _Claiming(bench, place(bench), rows, pairs) for rows in (big, small)}
        singly = [Contender(f"{rows:,} rows", one.milliseconds, pairs, "fsync") for rows, one in ledgers.items()]
        many, few = bench.compete(singly, runs)
        yield Row(f"Claim and finish of one transfer, two transactions, {name}", "ms", many, few, under(1.2))
        for work, figure in _WAYS.items():
            ways = [Contender(f"{rows:,} rows", partial(figure, one), pairs, "fsync") for rows, one in ledgers.items()]
            many, few = bench.compete(ways, runs)
            yield Row(f"{work}, {name}", "pairs/s", many, few, at_least(1 / 1.2))
            if work == _BATCHED and name == "SQLite":
                yield Row(f"{work}, {name}", "pairs/s", many, Series("asked for", (_ASKED,)), at_least(1))


def _server(bench: Bench) -> Callable[[Bench], str]:
    """Databases of one server, whose commits last as those of SQLite do."""
    server = PostgresServer(durable=True)
    bench.stack.callback(server.end)
    server.start()
    return lambda _: bench.stack.enter_context(server.database())


def _file(bench: Bench) -> str:
    return f"sqlite:///{bench.folder('ledger') / 'ledger.db'}"


class _Claiming:
    """A ledger, and workers that claim and finish one transfer after the other."""

    def __init__(self, bench: Bench, url: str, rows: int, pairs: int) -> None:
        bench.say(f"filling a ledger with {rows:,} rows")
        self._ledger = bench.stack.enter_context(SqlLedger.open(url))
        self._pairs = pairs
        self._now = _START + timedelta(days=1)
        start = int(_START.timestamp() * 1_000_000)
        with self._ledger._database.write(long=True) as connection:
            connection.execute(_FILL, {"rows": rows, "source": _SOURCE, "each": _QUEUED_EACH, "start": start})
        with self._ledger._database.write(long=True) as connection:
            connection.execute(text("ANALYZE"))
        self._waiting = rows // _QUEUED_EACH
        self._left = self._waiting
        self.milliseconds()  # once for the caches

    def milliseconds(self) -> float:
        """The median of one pair, over a run."""
        self._stock(self._pairs)
        return statistics.median(seconds(self._pair) for _ in range(self._pairs)) * 1000

    def by(self, workers: int) -> float:
        """Pairs a second by so many at the same time."""
        self._stock(self._pairs)
        with ThreadPoolExecutor(workers) as pool:
            return rate(self._pairs, lambda: list(pool.map(lambda _: self._pair(), range(self._pairs))))

    def batched(self) -> float:
        """Pairs a second, many claimed and finished with one commit each."""
        batches = max(self._pairs // _AT_ONCE, 1)
        self._stock(batches * _AT_ONCE)

        def work() -> None:
            for _ in range(batches):
                self._batch()

        return rate(batches * _AT_ONCE, work)

    def _stock(self, wanted: int) -> None:
        """See to it that so many wait: where they do not, those that were moved wait again."""
        if self._left < wanted:
            with self._ledger._database.write() as connection:
                connection.execute(_AGAIN)
            self._left = self._waiting
        self._left -= wanted

    def _pair(self) -> None:
        claimed = self._ledger.claim_transfer([_SOURCE], self._now, _LEASE)
        if claimed is None:
            raise BenchmarkError("No transfer is left to be claimed.")
        if self._ledger.finish(claimed, _PROVEN, self._now, self._now) is None:
            raise BenchmarkError("A claim was lost.")

    def _batch(self) -> None:
        claimed = self._ledger.claim_transfers([_SOURCE], self._now, _LEASE, _AT_ONCE)
        if len(claimed) < _AT_ONCE:
            raise BenchmarkError("Too few transfers are left to be claimed.")
        ended = self._ledger.finish_all([Ending(one, _PROVEN, self._now) for one in claimed], self._now)
        if None in ended:
            raise BenchmarkError("A claim was lost.")


_BATCHED = f"Claim and finish, {_AT_ONCE} at once"
_WAYS: dict[str, Callable[[_Claiming], float]] = {
    "Claim and finish by 4 workers": lambda one: one.by(4),
    "Claim and finish by 8 workers": lambda one: one.by(8),
    _BATCHED: _Claiming.batched,
}
