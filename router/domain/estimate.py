"""How long moves take: from what past ones took, within the limits of the nodes over the time to come. Pure.

Each limit is reckoned with by itself, as if the others did not matter, and the one that takes longest counts. So more
to move is never faster, and neither is a stricter limit; where several limits bite at once it takes a little longer.
With several associations it is at most one move, the longest, too long: nobody knows which one comes last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations
from statistics import median
from typing import NamedTuple

import msgspec

from router.domain.allowance import Allowance, allowance, changes_at, opens_at
from router.domain.rule import Node
from router.domain.transfer import Route
from router.domain.window import Window

PAST_MOVES = 50
"""The latest moves of a route that its rate is from."""
HORIZON = timedelta(days=366)
"""What would end later is not reckoned."""

_HOUR = timedelta(hours=1)
_MOST_TURNS = 100_000
"""Changes of what is allowed that one limit is followed over."""
_ANYTHING = Allowance(open=True)
_INFINITE = float("inf")


class PastMove(NamedTuple):
    """A move that ended: what it brought, and how long its transfer was being worked on."""

    instances: int
    seconds: float


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """What moves on a route take, one at a time."""

    moves: int
    """Past moves that it is from."""
    per_move: float
    """Seconds for each move, whatever it brings: the association, the queries, the answer."""
    per_instance: float
    """Seconds for each instance."""
    typical: int
    """Instances of the middle one: what a study of unknown size is taken for."""


def rate_of(past: Sequence[PastMove]) -> Rate | None:
    """The rate of past moves; None where there are none. By medians: a study that hung for an hour changes little."""
    if not past:
        return None
    slopes = [
        (one.seconds - other.seconds) / (one.instances - other.instances)
        for one, other in combinations(past, 2)
        if one.instances != other.instances
    ]
    per_instance = max(0.0, median(slopes)) if slopes else 0.0
    per_move = median(one.seconds - per_instance * one.instances for one in past)
    if not slopes or per_move < 0.0:  # nothing tells the two apart
        per_instance, per_move = median(one.seconds / max(1, one.instances) for one in past), 0.0
    return Rate(
        moves=len(past),
        per_move=per_move,
        per_instance=per_instance,
        typical=round(median(one.instances for one in past)),
    )


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be moved on a route."""

    route: Route
    moves: int = 0
    instances: int = 0
    unknown: int = 0
    """Moves whose number of instances nobody knows; they are among `moves`."""
    largest: int = 0
    """Instances of the largest move."""

    @classmethod
    def of(cls, route: Route, counts: Iterable[int | None]) -> Work:
        """Moves by their numbers of instances; None: not known."""
        sizes = list(counts)
        known = [size for size in sizes if size is not None]
        return cls(
            route=route,
            moves=len(sizes),
            instances=sum(known),
            unknown=len(sizes) - len(known),
            largest=max(known, default=0),
        )

    def seconds(self, rate: Rate) -> float:
        """How long it takes, one move after another."""
        return self.moves * rate.per_move + (self.instances + self.unknown * rate.typical) * rate.per_instance

    def longest(self, rate: Rate) -> float:
        """How long its largest move takes."""
        return rate.per_move + max(self.largest, rate.typical if self.unknown else 0) * rate.per_instance


def joined(works: Iterable[Work]) -> list[Work]:
    """The same work, each route once, in order of their coming; without routes on which nothing moves."""
    found: dict[Route, Work] = {}
    for one in works:
        had = found.get(one.route, Work(route=one.route))
        found[one.route] = Work(
            route=one.route,
            moves=had.moves + one.moves,
            instances=had.instances + one.instances,
            unknown=had.unknown + one.unknown,
            largest=max(had.largest, one.largest),
        )
    return [one for one in found.values() if one.moves]


class Bound(NamedTuple):
    """A limit, by which it takes as long as it takes."""

    limit: str
    """`associations`, `incoming` or `moves_per_hour`."""
    node: str


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """How long work takes, counted from `now`; nothing of it where there is nothing to move."""

    finish_at: datetime | None = None
    """When the last move has ended; None: that cannot be said, for one of the reasons below."""
    seconds: float | None = None
    past_moves: int = 0
    """Past moves that it is from, over all routes."""
    instances_per_second: float = 0.0
    """Of one move, what it takes besides the instances included."""
    bound: Bound | None = None
    """The limit that takes longest."""
    opens_at: Mapping[str, datetime | None] = {}
    """Nodes that their windows close now, and when each opens; None: never."""
    unmeasured: tuple[Route, ...] = ()
    """Routes on which nothing was moved before."""
    endless: bool = False
    """By the limits and windows it does not end within HORIZON."""


def estimate(
    works: Sequence[Work],
    rates: Mapping[Route, Rate],
    nodes: Mapping[str, Node],
    windows: Mapping[str, Window],
    now: datetime,
    begun: Mapping[str, Sequence[datetime]] | None = None,
) -> Estimate:
    """When all of it has been moved, if it begins now (aware) and nothing else is moved meanwhile.

    `begun` has the moves of the last hour by the nodes that took part. A name that no node has is this router itself,
    which has neither limits nor windows. What has begun goes on where a window closes.
    """
    works = joined(works)
    if not works:
        return Estimate(finish_at=now, seconds=0.0)
    parts = dict.fromkeys(name for one in works for name in one.route if name in nodes)
    closed = {name: nodes[name] for name in parts if not allowance(nodes[name], windows, now).open}
    opening = {name: opens_at(node, windows, now) for name, node in closed.items()}
    unmeasured = tuple(one.route for one in works if one.route not in rates)
    if unmeasured:
        return Estimate(opens_at=opening, unmeasured=unmeasured)
    reckoning = _Reckoning(works, rates, nodes, windows, now.astimezone(UTC), begun or {})
    ends = list(reckoning.ends())
    busy = sum(one.seconds(rates[one.route]) for one in works)
    instances = sum(one.instances + one.unknown * rates[one.route].typical for one in works)
    found = Estimate(
        past_moves=sum(rates[one.route].moves for one in works),
        instances_per_second=instances / busy if busy else 0.0,
        opens_at=opening,
    )
    latest: tuple[datetime, Bound] | None = None
    for bound, end in ends:
        if end is None:
            return msgspec.structs.replace(found, bound=bound, endless=True)
        if latest is None or end > latest[0]:
            latest = end, bound
    assert latest is not None
    finish_at, bound = latest
    return msgspec.structs.replace(
        found, finish_at=finish_at, seconds=(finish_at - reckoning.now).total_seconds(), bound=bound
    )


class _Reckoning:
    """One estimate's working state."""

    def __init__(
        self,
        works: Sequence[Work],
        rates: Mapping[Route, Rate],
        nodes: Mapping[str, Node],
        windows: Mapping[str, Window],
        now: datetime,
        begun: Mapping[str, Sequence[datetime]],
    ) -> None:
        self.now = now
        self._works = works
        self._rates = rates
        self._nodes = nodes
        self._windows = windows
        self._begun = begun
        self._allowed: dict[tuple[str, datetime], Allowance] = {}
        self._changes: dict[tuple[str, datetime], datetime | None] = {}

    def ends(self) -> Iterator[tuple[Bound, datetime | None]]:
        """When all has been moved, by each limit; None: not within the horizon."""
        for one in self._works:
            yield from self._of_route(one)
        for name in dict.fromkeys(one.route.source for one in self._works):
            yield self._busy(Bound("associations", name), [one for one in self._works if one.route.source == name])
        for name in dict.fromkeys(one.route.destination for one in self._works):
            coming = [one for one in self._works if one.route.destination == name]
            yield self._busy(Bound("incoming", name), coming)
        for name in dict.fromkeys(name for one in self._works for name in one.route):
            concerned = [one for one in self._works if name in one.route]
            last = self._last_begun(name, concerned, sum(one.moves for one in concerned))
            yield Bound("moves_per_hour", name), last

    def _of_route(self, work: Work) -> Iterator[tuple[Bound, datetime | None]]:
        """As if nothing else were moved: both of its nodes must be open."""
        yield self._busy(Bound("associations", work.route.source), [work])
        yield self._busy(Bound("incoming", work.route.destination), [work])
        first = self._rates[work.route].per_move
        for name in dict.fromkeys(work.route):
            last = self._last_begun(name, [work], work.moves)
            yield Bound("moves_per_hour", name), self._later(last, first)

    def _busy(self, bound: Bound, works: Sequence[Work]) -> tuple[Bound, datetime | None]:
        """When moves have ended that share a node's associations (or its incoming moves).

        The last to begin finds room at the latest when all others have been worked off, and is the longest at worst.
        """
        seconds = sum(one.seconds(self._rates[one.route]) for one in works)
        longest = max(one.longest(self._rates[one.route]) for one in works)
        last = self._worked_off(max(0.0, seconds - longest), bound, works)
        return bound, self._later(last, longest)

    def _later(self, last: datetime | None, seconds: float) -> datetime | None:
        """So many seconds after; None: not within the horizon."""
        if last is None or seconds > (self.now + HORIZON - last).total_seconds():
            return None
        return last + timedelta(seconds=seconds)

    def _worked_off(self, seconds: float, bound: Bound, works: Sequence[Work]) -> datetime | None:
        """When so many seconds of work have been done."""
        at, left = self.now, seconds
        for _ in range(_MOST_TURNS):
            change = self._change(at, works)
            room = self._room(at, bound) if self._open(at, works) else 0.0
            if room > 0.0:
                needed = left / room
                if needed <= ((change or self.now + HORIZON) - at).total_seconds():
                    return at + timedelta(seconds=needed)
                if change is not None:
                    left -= room * (change - at).total_seconds()
            if change is None or change > self.now + HORIZON:
                return None
            at = change
        return None

    def _last_begun(self, name: str, works: Sequence[Work], moves: int) -> datetime | None:
        """When the last of so many moves begins, in which the node takes part."""
        before = sorted(moment for moment in self._begun.get(name, ()) if moment > self.now - _HOUR)
        counting = deque((moment, 1) for moment in before)
        at, left = self.now, moves
        for _ in range(_MOST_TURNS):
            while counting and counting[0][0] <= at - _HOUR:
                counting.popleft()
            turn = self._change(at, works)
            if self._open(at, works):
                most = self._at(name, at).moves_per_hour
                free = left if most is None else max(0, most - sum(number for _, number in counting))
                if free >= left:
                    return at
                if free:
                    counting.append((at, free))
                    left -= free
                again = counting[0][0] + _HOUR
                turn = again if turn is None else min(turn, again)
            if turn is None or turn > self.now + HORIZON:
                return None
            at = turn
        return None

    # what is allowed ----------------------------------------------------------------------------------------------

    def _open(self, at: datetime, works: Iterable[Work]) -> bool:
        """Whether a move of these may begin."""
        return any(all(self._at(name, at).open for name in one.route) for one in works)

    def _room(self, at: datetime, bound: Bound) -> float:
        """Seconds of work that are done in a second."""
        if bound.node not in self._nodes:
            return _INFINITE
        limits = self._at(bound.node, at)
        if bound.limit == "incoming":
            return _INFINITE if limits.incoming is None else limits.incoming
        return limits.associations * (1.0 if limits.duty is None else limits.duty)

    def _at(self, name: str, at: datetime) -> Allowance:
        node = self._nodes.get(name)
        if node is None:
            return _ANYTHING
        known = self._allowed.get((name, at))
        if known is None:  # several limits ask the same
            known = self._allowed[name, at] = allowance(node, self._windows, at)
        return known

    def _change(self, at: datetime, works: Iterable[Work]) -> datetime | None:
        """The next moment at which something may be allowed that is not, or the other way round."""
        names = {name for one in works for name in one.route}
        changes = [self._change_of(self._nodes[name], at) for name in names if name in self._nodes]
        return min((one for one in changes if one is not None), default=None)

    def _change_of(self, node: Node, at: datetime) -> datetime | None:
        if not node.windows:
            return None
        if (node.name, at) not in self._changes:
            self._changes[node.name, at] = changes_at(node, self._windows, at)
        return self._changes[node.name, at]
