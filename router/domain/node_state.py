"""What is remembered of one node: who holds slots of it, how fast it was asked, how it answered. Pure: times are given.

All times are seconds of one clock that never goes back: the process's own, or, where replicas share it, the ledger's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from router.domain.allowance import Allowance
from router.domain.breaker import Breaker, Sign
from router.domain.events import AssociationsAllowed, BreakerClosed, BreakerOpened, Event
from router.domain.pace import Pace, milliseconds, ready_at, rest
from router.domain.rule import BreakerSettings
from router.domain.throttle import Throttle

QUERIES_SECONDS, MOVES_SECONDS = 60.0, 3600.0
"""The windows of `limits.queries_per_minute` and `limits.moves_per_hour`."""
FAIR_SECONDS = 1.0
"""A replica that has waited so long for a slot comes before those that came later; a shorter wait is not worth it."""
WAITER_SECONDS = 3.0
"""A replica that has not asked again for so long waits no more."""

_RESTS_KEPT = 256
_WAITERS_KEPT = 64
_TOO_LARGE = 0xA700
"""C-FIND: out of resources (PS3.4 table C.4-1), which archives also say of an answer that is too large for them."""

Key = tuple[str, int]
"""A slot: its owner (a service; empty where there is but one) and the number that it has there."""


class Purpose(StrEnum):
    """What a request is, for the limits that count."""

    QUERY = "query"
    MOVE = "move"
    OTHER = "other"


class Obstacle(NamedTuple):
    """What a request waits for: a word of `events.WAITS`, and until when (infinite: until told)."""

    reason: str
    until: float
    elsewhere: bool = False
    """It is the destination's."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A slot that is held."""

    purpose: Purpose
    to: str
    """The destination of a move that has limits of its own; empty: none."""
    since: float
    until: float
    """When its request stops counting towards the limit of its kind; 0 where it has none."""


class Coming(msgspec.Struct, frozen=True, array_like=True):
    """A move to this node, whose slot is another node's."""

    since: float
    until: float


class Waiter(msgspec.Struct, frozen=True, array_like=True):
    """A replica that was refused a slot."""

    since: float
    seen: float


class Lesson(NamedTuple):
    """How a request ended, as far as it changes those to come."""

    sign: Sign
    failed: bool
    """It ended with an error rather than with a status."""
    status: int
    cause: str
    message: str
    purpose: Purpose
    began: float
    probe: bool


class NodeState:
    """What is remembered of one node. Not thread-safe."""

    def __init__(self) -> None:
        """Of a node that was never asked."""
        self.held: dict[Key, Held] = {}
        self.coming: dict[Key, Coming] = {}
        self.rests: list[tuple[float, float]] = []
        """(when a slot was given back, how long it had been busy)."""
        self.queries = Pace(QUERIES_SECONDS)
        self.moves = Pace(MOVES_SECONDS)
        self.throttle = Throttle()
        self.breaker = Breaker()
        self.turned = float("-inf")
        """When a slot was last taken or given back."""
        self.waiters: dict[str, Waiter] = {}
        """Replica -> its wait; where one process counts for itself there are none."""

    @property
    def in_use(self) -> int:
        """Slots that are held."""
        return len(self.held)

    @property
    def incoming(self) -> int:
        """Moves to the node that run."""
        return len(self.coming)

    def own(self, owner: str) -> int:
        """Moves of one owner in which the node takes part."""
        moving = sum(one.purpose is Purpose.MOVE for key, one in self.held.items() if key[0] == owner)
        return moving + sum(key[0] == owner for key in self.coming)

    # what stands in the way ---------------------------------------------------------------------------------------

    def obstacle(self, limits: Allowance, purpose: Purpose, now: float, before: int = 0) -> Obstacle | None:
        """What a request to the node would wait for, where so many others come `before` it."""
        free = self.throttle.allowed(limits.associations) - self.in_use
        if free - before <= 0:
            return Obstacle("slots", float("inf"))
        if self.throttle.paused_until > now:
            return Obstacle("pause", self.throttle.paused_until)
        ready = ready_at([ended + rest(busy, limits.duty) for ended, busy in self.rests], free, now)
        if ready > now:
            return Obstacle("duty", ready)
        at = now
        if purpose is Purpose.QUERY:
            at = self.queries.free_at(limits.queries_per_minute, now)
        elif purpose is Purpose.MOVE:
            at = self.moves.free_at(limits.moves_per_hour, now)
        return Obstacle("pace", at) if at > now else None

    def obstacle_to(self, limits: Allowance, now: float) -> Obstacle | None:
        """What a move to the node would wait for."""
        if limits.incoming is not None and self.incoming >= limits.incoming:
            return Obstacle("incoming", float("inf"), elsewhere=True)
        at = self.moves.free_at(limits.moves_per_hour, now)
        return Obstacle("pace", at, elsewhere=True) if at > now else None

    # a request ----------------------------------------------------------------------------------------------------

    def take(self, key: Key, purpose: Purpose, to: str, now: float) -> None:
        """A slot is taken; for a move, `come` is called on the state of its destination."""
        pace = self._pace(purpose)
        self.held[key] = Held(purpose, to, now, pace.begin(now) if pace is not None else 0.0)
        self.turned = now
        self.waiters.pop(key[0], None)

    def come(self, key: Key, now: float) -> None:
        """A move to this node begins."""
        self.coming[key] = Coming(now, self.moves.begin(now))

    def give_back(self, key: Key, duty: float | None, now: float) -> None:
        """A slot is given back; one that is not held changes nothing."""
        held = self.held.pop(key, None)
        if held is None:
            return
        self.turned = now
        owed = [one for one in self.rests if one[0] + rest(one[1], duty) > now]
        self.rests = [*owed, (now, now - held.since)][-_RESTS_KEPT:]
        pace = self._pace(held.purpose)
        if pace is not None:
            pace.end(held.until, now)

    def gone(self, key: Key, now: float) -> None:
        """A move to this node has ended."""
        coming = self.coming.pop(key, None)
        if coming is not None:
            self.moves.end(coming.until, now)

    def drop(self, owners: Collection[str], duty: float | None, now: float) -> bool:
        """What these owners held is free: they are dead. Whether there was anything."""
        slots = [key for key in self.held if key[0] in owners]
        moves = [key for key in self.coming if key[0] in owners]
        for key in slots:
            self.give_back(key, duty, now)
        for key in moves:
            self.gone(key, now)
        for owner in owners:
            self.waiters.pop(owner, None)
        return bool(slots or moves)

    def owners(self) -> set[str]:
        """Who holds something."""
        return {owner for owner, _ in (*self.held, *self.coming)}

    def _pace(self, purpose: Purpose) -> Pace | None:
        return {Purpose.QUERY: self.queries, Purpose.MOVE: self.moves}.get(purpose)

    # turns of replicas --------------------------------------------------------------------------------------------

    def before(self, owner: str, now: float) -> int:
        """How many other replicas have waited so long for a slot that their turn comes first."""
        mine = self.waiters.get(owner)
        since = mine.since if mine is not None and now - mine.seen <= WAITER_SECONDS else now
        return sum(
            other != owner and now - one.seen <= WAITER_SECONDS and one.since < min(since, now - FAIR_SECONDS)
            for other, one in self.waiters.items()
        )

    def wait(self, owner: str, now: float) -> None:
        """A replica was refused a slot."""
        waiters = {name: one for name, one in self.waiters.items() if now - one.seen <= WAITER_SECONDS}
        if owner in waiters or len(waiters) < _WAITERS_KEPT:
            waiters[owner] = Waiter(waiters[owner].since if owner in waiters else now, now)
        self.waiters = waiters

    # what was learned ---------------------------------------------------------------------------------------------

    def learn(self, node: str, lesson: Lesson, settings: BreakerSettings, associations: int, now: float) -> list[Event]:
        """What the end of a request, whose slot was given back, changes for those to come, as events."""
        sign, throttle, breaker = lesson.sign, self.throttle, self.breaker
        if sign is Sign.BUSY:
            # A query that is too large for the node is asked in parts: no pause is needed between them.
            pause = lesson.failed or lesson.purpose is not Purpose.QUERY or lesson.status != _TOO_LARGE
            self.throttle = throttle.rejected(self.in_use + 1, associations, lesson.began, now, pause=pause)
        elif sign is Sign.ANSWERED:
            self.throttle = throttle.succeeded(associations, now)
        rejected_alone = sign is Sign.BUSY and lesson.failed and not self.in_use
        if sign is Sign.SILENT or rejected_alone:
            self.breaker = breaker.failed(settings, now, probe=lesson.probe)
        elif sign is Sign.ANSWERED or (sign is Sign.BUSY and not lesson.failed):
            self.breaker = breaker.answered()
        return changes(node, (throttle, breaker), self, now, lesson.cause, lesson.message)

    def forget(self) -> None:
        """It is tried anew: how it answered counts no more."""
        self.throttle, self.breaker = Throttle(), Breaker()

    # between clocks and replicas ----------------------------------------------------------------------------------

    def shifted(self, seconds: float) -> NodeState:
        """The same by a clock that shows so many seconds more."""
        other = NodeState()
        other.held = {
            key: Held(one.purpose, one.to, one.since + seconds, one.until + seconds if one.until else 0.0)
            for key, one in self.held.items()
        }
        other.coming = {key: Coming(one.since + seconds, one.until + seconds) for key, one in self.coming.items()}
        other.rests = [(ended + seconds, busy) for ended, busy in self.rests]
        other.queries, other.moves = self.queries.shifted(seconds), self.moves.shifted(seconds)
        other.throttle = msgspec.structs.replace(
            self.throttle,
            cut_at=self.throttle.cut_at + seconds,
            changed_at=self.throttle.changed_at + seconds,
            paused_until=self.throttle.paused_until + seconds,
        )
        opened = self.breaker.opened_at
        other.breaker = msgspec.structs.replace(
            self.breaker,
            opened_at=None if opened is None else opened + seconds,
            probe_at=self.breaker.probe_at + seconds,
        )
        other.turned = self.turned + seconds
        other.waiters = {name: Waiter(one.since + seconds, one.seen + seconds) for name, one in self.waiters.items()}
        return other

    def packed(self, now: float) -> bytes:
        """As the ledger keeps it: a few kilobytes at most, however much the node is asked."""
        return msgspec.msgpack.encode(
            _Packed(
                [(*key, Held(one.purpose, one.to, one.since, _whole(one.until))) for key, one in self.held.items()],
                [(*key, Coming(one.since, _whole(one.until))) for key, one in self.coming.items()],
                self.rests,
                self.queries.packed(now),
                self.moves.packed(now),
                self.throttle,
                self.breaker,
                self.turned,
                self.waiters,
            )
        )

    @classmethod
    def unpacked(cls, content: bytes) -> NodeState:
        """What `packed` made. Raises ValueError where it is something else."""
        packed = _DECODER.decode(content)
        self = cls()
        self.held = {(owner, number): one for owner, number, one in packed.held}
        self.coming = {(owner, number): one for owner, number, one in packed.coming}
        self.rests = packed.rests
        self.queries = Pace.unpacked(QUERIES_SECONDS, packed.queries)
        self.moves = Pace.unpacked(MOVES_SECONDS, packed.moves)
        self.throttle, self.breaker = packed.throttle, packed.breaker
        self.turned, self.waiters = packed.turned, packed.waiters
        return self


class _Packed(msgspec.Struct, array_like=True):
    held: list[tuple[str, int, Held]]
    coming: list[tuple[str, int, Coming]]
    rests: list[tuple[float, float]]
    queries: list[int]
    moves: list[int]
    throttle: Throttle
    breaker: Breaker
    turned: float
    waiters: dict[str, Waiter]


_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_Packed)


def changes(
    node: str, before: tuple[Throttle, Breaker], after: NodeState, now: float, cause: str, message: str
) -> list[Event]:
    """What is different in how a node is treated, as events."""
    throttle, breaker = before
    events: list[Event] = []
    if after.throttle.limit != throttle.limit:
        events.append(AssociationsAllowed(node=node, limit=after.throttle.limit))
    if after.breaker.is_open and after.breaker.pauses != breaker.pauses:
        events.append(
            BreakerOpened(
                node=node,
                failures=after.breaker.failures,
                pause_seconds=after.breaker.pause,
                cause=cause,
                message=message,
            )
        )
    elif breaker.opened_at is not None and not after.breaker.is_open:
        events.append(BreakerClosed(node=node, open_seconds=now - breaker.opened_at))
    return events


def merged(states: Sequence[NodeState], now: float) -> NodeState:
    """What counts of several memories of one node (one at least): of each pace the fuller one, and the longer rests."""
    self = NodeState()
    self.rests = max((one.rests for one in states), key=len)
    self.queries = max((one.queries for one in states), key=lambda pace: pace.count(now))
    self.moves = max((one.moves for one in states), key=lambda pace: pace.count(now))
    return self


def _whole(moment: float) -> float:
    return milliseconds(moment) / 1000
