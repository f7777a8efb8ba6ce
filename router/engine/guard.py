"""What is remembered of one node, and what that means for the next request to it. Waiting is done in `slots`."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from router.domain.allowance import Allowance
from router.domain.breaker import Breaker, Sign, sign_of_error, sign_of_status
from router.domain.events import AssociationsAllowed, BreakerClosed, BreakerOpened, Event
from router.domain.pace import Pace, ready_at, rest
from router.domain.rule import Node
from router.domain.throttle import Throttle
from router.errors import WireError

QUERIES_SECONDS, MOVES_SECONDS = 60.0, 3600.0
"""The windows of `limits.queries_per_minute` and `limits.moves_per_hour`."""

_RESTS_KEPT = 256
_TOO_LARGE = 0xA700
"""C-FIND: out of resources (PS3.4 table C.4-1), which archives also say of an answer that is too large for them."""


class Purpose(StrEnum):
    """What a request is, for the limits that count."""

    QUERY = "query"
    MOVE = "move"
    OTHER = "other"


class Obstacle(NamedTuple):
    """What a request waits for: a word of `events.WAITS`, and until when (monotonic; infinite: until told)."""

    reason: str
    until: float
    elsewhere: bool = False
    """It is the destination's."""


class Slot:
    """A slot that is held. Its holder says what was heard; without a word, and without an error, it was an answer."""

    def __init__(self, node: Node, to: Node | None, purpose: Purpose, began: float, probe: bool) -> None:
        self.node = node
        self.to = to
        self.purpose = purpose
        self.began = began
        self.probe = probe
        self.status = 0
        self.has_heard = False
        self.counted: list[tuple[Pace, float]] = []

    def heard(self) -> None:
        """Something came: it is no silent node, whatever becomes of the request."""
        self.has_heard = True

    def ended(self, status: int) -> None:
        """The final status."""
        self.status = status

    def sign(self, failure: BaseException | None) -> Sign:
        """What the end of the request says about the node."""
        if failure is None:
            return sign_of_status(self.status)
        if isinstance(failure, WireError):
            return sign_of_error(failure.cause, heard=self.has_heard)
        return Sign.NOTHING


class Guard:
    """What is remembered of one node. Not thread-safe."""

    def __init__(self) -> None:
        self.in_use = 0
        self.moving = 0
        self.incoming = 0
        self.rests: list[tuple[float, float]] = []
        """(when a slot was given back, how long it had been busy)."""
        self.queries = Pace(QUERIES_SECONDS)
        self.moves = Pace(MOVES_SECONDS)
        self.throttle = Throttle()
        self.breaker = Breaker()
        self.turned = float("-inf")
        """When a slot was last taken or given back."""

    # what stands in the way ---------------------------------------------------------------------------------------

    def obstacle(self, limits: Allowance, purpose: Purpose, now: float) -> Obstacle | None:
        """What a request to the node would wait for."""
        free = self.throttle.allowed(limits.associations) - self.in_use
        if free <= 0:
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

    def take(self, slot: Slot, there: Guard | None) -> None:
        """A slot is taken; `there` is the guard of a move's destination."""
        self.in_use += 1
        self.turned = slot.began
        paces = []
        if slot.purpose is Purpose.QUERY:
            paces.append(self.queries)
        elif slot.purpose is Purpose.MOVE:
            self.moving += 1
            paces.append(self.moves)
            if there is not None:
                there.incoming += 1
                paces.append(there.moves)
        slot.counted = [(pace, pace.begin(slot.began)) for pace in paces]

    def give_back(self, slot: Slot, there: Guard | None, duty: float | None, now: float) -> None:
        """A slot is given back."""
        self.in_use -= 1
        self.turned = now
        owed = [one for one in self.rests if one[0] + rest(one[1], duty) > now]
        self.rests = [*owed, (now, now - slot.began)][-_RESTS_KEPT:]
        for pace, begun in slot.counted:
            pace.end(begun, now)
        if slot.purpose is Purpose.MOVE:
            self.moving -= 1
            if there is not None:
                there.incoming -= 1

    def learn(self, slot: Slot, failure: BaseException | None, associations: int, now: float) -> list[Event]:
        """What the end of a request, whose slot was given back, changes for those to come, as events."""
        sign, name, throttle, breaker = slot.sign(failure), slot.node.name, self.throttle, self.breaker
        if sign is Sign.BUSY:
            # A query that is too large for the node is asked in parts: no pause is needed between them.
            pause = not (failure is None and slot.purpose is Purpose.QUERY and slot.status == _TOO_LARGE)
            self.throttle = throttle.rejected(self.in_use + 1, associations, slot.began, now, pause=pause)
        elif sign is Sign.ANSWERED:
            self.throttle = throttle.succeeded(associations, now)
        rejected_alone = sign is Sign.BUSY and failure is not None and not self.in_use
        if sign is Sign.SILENT or rejected_alone:
            self.breaker = breaker.failed(slot.node.breaker, now, probe=slot.probe)
        elif sign is Sign.ANSWERED or (sign is Sign.BUSY and failure is None):
            self.breaker = breaker.answered()
        events: list[Event] = []
        if self.throttle.limit != throttle.limit:
            events.append(AssociationsAllowed(node=name, limit=self.throttle.limit))
        if self.breaker.pauses > breaker.pauses:
            events.append(
                BreakerOpened(
                    node=name,
                    failures=self.breaker.failures,
                    pause_seconds=self.breaker.pause,
                    cause=failure.cause if isinstance(failure, WireError) else "",
                    message=str(failure),
                )
            )
        elif breaker.opened_at is not None and not self.breaker.is_open:
            events.append(BreakerClosed(node=name, open_seconds=now - breaker.opened_at))
        return events
