"""Whether new work may be begun with a node now. What has begun is not asked: it goes on, slot by slot."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta

from router.domain.rule import LOCAL, Node, RuleSet
from router.domain.transfer import Route, State, Transfer
from router.domain.turns import Turns
from router.engine.guard import MOVES_SECONDS
from router.engine.ports import Ledger
from router.engine.slots import NodeSlots

_MOST_MOVING = 10_000


class Gates:
    """The gates of one dispatcher; remembers when the next that is shut may open. Not thread-safe."""

    def __init__(self, slots: NodeSlots, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._monotonic = monotonic
        self.turns = Turns()
        self.opens_at = float("inf")
        """When the first of those that were shut since `forget` may open (monotonic); infinite: nobody knows."""

    def forget(self) -> None:
        """Begin a new turn."""
        self.opens_at = float("inf")

    def open(self, node: Node | None) -> bool:
        """Whether a piece of work may be begun with a node; `local` (None) is always open."""
        obstacle = self._slots.gate(node) if node is not None else None
        if obstacle is None:
            return True
        if obstacle.until > self._monotonic():
            self.opens_at = min(self.opens_at, obstacle.until)
        return False

    def sources(self, names: Iterable[str], rules: RuleSet, moving: Iterable[Transfer]) -> list[str]:
        """Those of these sources that have a move left of their budget, besides those that were claimed."""
        claimed = _parts(moving)
        nodes = ((name, rules.node(name)) for name in names)
        return [name for name, node in nodes if node is None or self._slots.takes(node, claimed[name])]

    def closed_routes(self, sources: Collection[str], rules: RuleSet, moving: Collection[Transfer]) -> set[Route]:
        """The routes from these sources whose destination takes no move now.

        A destination that does not answer is no reason: this router may not reach what the source reaches.
        """
        claimed, coming = _parts(moving), Counter(one.intent.destination for one in moving)
        closed: set[Route] = set()
        for name, node in rules.nodes.items():
            if not node.windows and node.limits.incoming is None and node.limits.moves_per_hour is None:
                continue
            limits = self._slots.allowance(node)
            full = limits.incoming is not None and coming[name] >= limits.incoming
            if full or not limits.open or not self._slots.takes(node, claimed[name]):
                closed |= {Route(source, name) for source in sources}
        if LOCAL in sources:
            closed |= self._closed_from_here(rules, moving)
        return closed

    def _closed_from_here(self, rules: RuleSet, moving: Collection[Transfer]) -> set[Route]:
        """The routes from `local` to nodes that this router is not to send to now, or sends to as much as it may."""
        coming = Counter(one.intent.destination for one in moving if one.intent.source == LOCAL)
        return {
            Route(LOCAL, name)
            for name, node in rules.nodes.items()
            if coming[name] >= self._slots.allowed(node) or not self.open(node)
        }


def recall_moves(slots: NodeSlots, ledger: Ledger, nodes: Collection[str], now: datetime) -> None:
    """After a start: what nodes have of their moves per hour is not had anew. Raises LedgerError."""
    ages: dict[str, list[float]] = {}
    for route, at in ledger.moves_since(now - timedelta(seconds=MOVES_SECONDS)):
        for name in set(route).intersection(nodes):
            ages.setdefault(name, []).append((now - at).total_seconds())
    for transfer in ledger.transfers(states=(State.MOVING,), limit=_MOST_MOVING):  # of a service that has just died
        for name in {transfer.intent.source, transfer.intent.destination}.intersection(nodes):
            ages.setdefault(name, []).append(0.0)
    for name, seconds in ages.items():
        slots.recall_moves(name, seconds)


def _parts(moving: Iterable[Transfer]) -> Counter[str]:
    """In how many of these moves each node takes part."""
    return Counter(name for one in moving for name in (one.intent.source, one.intent.destination))
