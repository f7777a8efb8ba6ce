"""Gauges that are brought up to date when somebody scrapes: windows, limits, backlog, room on the disk."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from router.domain.allowance import allowance
from router.domain.overview import BacklogRow
from router.domain.rule import RuleSet
from router.domain.surroundings import Space
from router.observe.backlog import Backlog
from router.observe.catalogue import LEDGER_WIDE
from router.observe.families import Family
from router.observe.labels import STATES, Labels, Names

SPACE_STALE_SECONDS = 60.0
"""After so long without a look at it the room on the disk is not known any more."""


class Levels:
    """`families` and what is kept here are guarded by `lock`; `now` is the time as seconds since 1970."""

    def __init__(self, families: Mapping[str, Family], lock: threading.Lock, now: Callable[[], float]) -> None:
        self._families = families
        self._lock = lock
        self._now = now
        self._names = Names()
        self._rules: RuleSet | None = None
        self._limits: dict[str, int | None] = {}
        self._backlog: Backlog | None = None
        self._moves: Callable[[], Mapping[str, int]] | None = None
        self._space_at = self._quarantine_at = float("-inf")
        self._leads = True

    def shown(self) -> list[Family]:
        """The families to show: those of what concerns all services on the ledger only where this one leads."""
        return [family for name, family in self._families.items() if self._leads or name not in LEDGER_WIDE]

    # told, under the lock -------------------------------------------------------------------------------------------

    def configure(self, rules: RuleSet, names: Names) -> None:
        """Another configuration."""
        self._rules = rules
        self._names = names
        self._limits = {name: limit for name, limit in self._limits.items() if name in rules.nodes}
        self._families["store_minimum_free_bytes"].set((), rules.router.minimum_free)

    def limit(self, node: str, associations: int | None) -> None:
        """What rejections have left of a node's associations; None: all of them."""
        self._limits[node] = associations

    def replicas(self, replica: str, number: int, *, leads: bool) -> None:
        """What this service is called, how many live on its ledger, and whether it leads; until told so it does."""
        self._leads = leads
        self._families["leads"].set((), leads)
        self._families["replicas"].set((), number)
        self._families["info"].keep([(replica,)])
        self._families["info"].set((replica,), 1)

    def space(self, space: Space) -> None:
        """The store's file system, as it was found now."""
        self._space_at = self._now()
        self._families["store_free_bytes"].set((), space.free)
        self._families["store_size_bytes"].set((), space.size)

    def quarantine(self, objects: int) -> None:
        """How many objects lie in the quarantine now."""
        self._quarantine_at = self._now()
        self._families["quarantine_objects"].set((), objects)

    # ------------------------------------------------------------------------------------------------------------------

    def watch_backlog(self, read: Callable[[], Sequence[BacklogRow]]) -> None:
        """See Metrics."""
        self._backlog = Backlog(read)

    def watch_moves(self, read: Callable[[], Mapping[str, int]]) -> None:
        """See Metrics."""
        self._moves = read

    def look(self) -> None:
        """Bring all up to date. The lock must not be held."""
        self._look_at_backlog()
        moves = self._moves() if self._moves is not None else {}
        with self._lock:
            self._look_at_limits(moves)
            if self._now() - self._space_at > SPACE_STALE_SECONDS:
                self._families["store_free_bytes"].keep([])
                self._families["store_size_bytes"].keep([])
            if self._now() - self._quarantine_at > SPACE_STALE_SECONDS:
                self._families["quarantine_objects"].keep([])

    def _look_at_limits(self, moves: Mapping[str, int]) -> None:
        if self._rules is None:
            return
        now = datetime.fromtimestamp(self._now(), UTC)
        for name, node in self._rules.nodes.items():
            limits = allowance(node, self._rules.windows, now)
            self._families["window_open"].set((name,), limits.open)
            allowed = min(limits.associations, self._limits.get(name) or limits.associations)
            self._families["node_associations_allowed"].set((name,), allowed if limits.open else 0)
            self._families["node_associations_limit"].set((name,), limits.associations)
            if (name,) in self._names.paced:
                self._families["node_moves_last_hour"].set((name,), moves.get(name, 0))
                self._families["node_moves_per_hour_limit"].set((name,), limits.moves_per_hour or 0)

    def _look_at_backlog(self) -> None:
        if self._backlog is None:
            return
        rows = self._backlog.rows()
        with self._lock:
            if rows is None:
                self._families["transfers"].keep([])
                self._families["transfers_oldest_queued_seconds"].keep([])
                return
            counts: Tally[Labels] = Tally()
            ages: dict[Labels, float] = dict.fromkeys(self._names.pairs, 0.0)
            now = datetime.fromtimestamp(self._now(), UTC)
            for row in rows:
                pair = self._names.pair(row.source, row.destination)
                counts[(row.state, *pair)] += row.count
                age = (now - row.oldest_queued_at).total_seconds() if row.oldest_queued_at is not None else 0.0
                ages[pair] = max(ages.get(pair, 0.0), age)
            labels = [(state, *pair) for pair in ages for state in STATES]
            self._families["transfers"].keep(labels)
            self._families["transfers_oldest_queued_seconds"].keep(ages)
            for one in labels:
                self._families["transfers"].set(one, counts[one])
            for pair, age in ages.items():
                self._families["transfers_oldest_queued_seconds"].set(pair, age)
