"""How services that share a ledger share the slots of nodes: no limit is exceeded by all of them together. Pure.

Who works on a ledger stands in its `Circle`. A service that is the only one counts for itself and writes nothing; it is
`alone`. Whoever comes enters the circle and takes no slot before all others have written down what they hold, from when
on each asks the shared states for every slot. So at no moment does anybody count without the others' slots.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from router.domain.allowance import Allowance
from router.domain.events import Event
from router.domain.node_state import Key, Lesson, NodeState, Obstacle, Purpose, merged
from router.domain.rule import BreakerSettings

NOT_AGREED = "ledger"
"""The word of `events.WAITS` for what the ledger does not allow, or cannot be asked for."""
ASK_AGAIN_SECONDS = 0.5
"""When to ask again after another service has not written down yet what it holds."""
ANY_DUTY = 1e-9
"""Whatever a node's duty is, the rests that are owed by it are kept."""
PROBING_SECONDS = 30.0
"""While one replica probes a node that is left alone, the others do not, for so long."""


class Circle(msgspec.Struct):
    """The services that work on a ledger: owner -> whether it counts by the shared states (else for itself)."""

    members: dict[str, bool] = {}

    def packed(self) -> bytes:
        """As the ledger keeps it."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpacked(cls, content: bytes) -> Circle:
        """What `packed` made. Raises ValueError where it is something else."""
        return msgspec.msgpack.decode(content, type=cls)


class Ration:
    """What the ledger knows at a moment of a decision: the circle, the nodes it is about, and who is dead.

    `lost` says which of some owners live no more; it may cost a query.
    """

    def __init__(
        self, circle: Circle, nodes: Mapping[str, NodeState], lost: Callable[[Collection[str]], Collection[str]]
    ) -> None:
        self.circle = circle
        self.nodes = dict(nodes)
        self.lost = lost

    def others(self, owner: str) -> dict[str, bool]:
        """The other members, the dead ones too."""
        return {name: sharing for name, sharing in self.circle.members.items() if name != owner}

    def live_others(self, owner: str) -> dict[str, bool]:
        """The other members that live."""
        others = self.others(owner)
        lost = self.lost(others) if others else ()
        return {name: sharing for name, sharing in others.items() if name not in lost}


class RationLook(NamedTuple):
    """Who shares a ledger, and what is new about nodes."""

    circle: Circle
    seen: Mapping[str, datetime]
    """When each service announced itself last; none that has withdrawn."""
    lost: frozenset[str]
    """Members that live no more."""
    states: Mapping[str, tuple[int, NodeState]]
    """Node -> the version of its state, and the state, of those that are of another version than was known."""


class Request(NamedTuple):
    """What a service asks for: a slot of a node, and for a move a part of what its destination allows."""

    key: Key
    node: str
    limits: Allowance
    purpose: Purpose
    to: str = ""
    limits_to: Allowance | None = None
    probe: bool = False
    heeds: bool = True
    """It leaves nodes alone that do not answer."""
    heard: frozenset[str] = frozenset()
    """Services that gave a sign of life just now, as who asks has seen: by a clock alone they are not dead."""


class Return(NamedTuple):
    """A slot that is given back, and what was learned from its request (None: nothing)."""

    key: Key
    node: str
    limits: Allowance
    to: str
    ended: float
    lesson: Lesson | None = None
    settings: BreakerSettings = BreakerSettings()


# the circle -------------------------------------------------------------------------------------------------------


def enter(ration: Ration, owner: str, remembered: Mapping[str, NodeState], now: float) -> bool:
    """A service begins to work: the first one counts for itself, any other by the shared states. Whether it is alone.

    `ration` has all nodes. `remembered` is what the service knows of former times, for the case that nobody else does.
    A service that was taken for dead, or comes a second time, enters anew: what it held before is not its own any more.
    """
    _bury(ration, {owner}, now)
    others, live = ration.others(owner), ration.live_others(owner)
    # With one that counted for itself died what it knew; until now nobody could take anything by the shared states.
    orphaned = any(not sharing for name, sharing in others.items() if name not in live)
    _bury(ration, others.keys() - live.keys(), now)
    ration.circle.members[owner] = bool(live)
    if any(live.values()) and not orphaned:
        return False
    for name, state in remembered.items():
        known = ration.nodes.setdefault(name, NodeState())
        fuller = merged([known, state], now)
        known.queries, known.moves, known.rests = fuller.queries, fuller.moves, fuller.rests
    return not live


def share(ration: Ration, owner: str, states: Mapping[str, NodeState]) -> bool:
    """A service that counted for itself writes down what it knows, and counts by the shared states from now on.

    False where it is no member: it was taken for dead, and has to enter anew. Once done it changes nothing.
    """
    if owner not in ration.circle.members:
        return False
    if not ration.circle.members[owner]:
        ration.nodes.update(states)
        ration.circle.members[owner] = True
    return True


def part(ration: Ration, owner: str, now: float) -> bool | None:
    """Once the others have gone, a service counts for itself again: True. False: somebody is there.

    `ration` has all nodes. None where the service itself is no member any more. What the shared states say holds: the
    service grants nothing from before it asks for this until it knows how it was decided.
    """
    if owner not in ration.circle.members:
        return None
    live = ration.live_others(owner)
    if not live:
        _bury(ration, ration.others(owner), now)
    ration.circle.members[owner] = bool(live)
    return not live


def leave(ration: Ration, owner: str, states: Mapping[str, NodeState], now: float) -> None:
    """A service ends: it holds nothing any more. `ration` has all nodes; `states`: what it knew, if it was alone."""
    if ration.circle.members.get(owner) is False:
        ration.nodes.update(states)
    _bury(ration, {owner}, now)


def _bury(ration: Ration, owners: Collection[str], now: float) -> None:
    for owner in owners:
        ration.circle.members.pop(owner, None)
    for state in ration.nodes.values():
        state.drop(owners, ANY_DUTY, now)


# slots ------------------------------------------------------------------------------------------------------------


def take(ration: Ration, request: Request, now: float) -> Obstacle | None:
    """Take a slot; what stands in the way where that is not possible now: nothing is taken then."""
    owner = request.key[0]
    members = ration.circle.members
    if not members.get(owner, False):
        return Obstacle(NOT_AGREED, now + ASK_AGAIN_SECONDS)
    if not all(members.values()):
        return Obstacle(NOT_AGREED, now + ASK_AGAIN_SECONDS)
    state = ration.nodes[request.node]
    there = ration.nodes[request.to] if request.to else None
    if state.breaker.is_open and request.heeds and not (request.probe and state.breaker.probe_due(now)):
        return Obstacle("breaker", state.breaker.probe_at)
    found = _obstacle(state, there, request, now)
    if found is not None and found.until == float("inf") and _drop_lost(ration, request, now):
        found = _obstacle(state, there, request, now)
    if found is not None:
        if found.reason == "slots":
            state.wait(owner, now)
        return found
    state.take(request.key, request.purpose, request.to, now)
    if there is not None:
        there.come(request.key, now)
    if request.probe and state.breaker.is_open:
        state.breaker = msgspec.structs.replace(state.breaker, probe_at=now + PROBING_SECONDS)
    return None


def give_back(ration: Ration, one: Return) -> list[Event]:
    """Give a slot back, and learn from how its request ended; what is not held (any more) changes nothing."""
    state = ration.nodes[one.node]
    if one.key not in state.held:
        return []
    state.give_back(one.key, one.limits.duty, one.ended)
    if one.to:
        ration.nodes[one.to].gone(one.key, one.ended)
    if one.lesson is None:
        return []
    return state.learn(one.node, one.lesson, one.settings, one.limits.associations, one.ended)


def forget(ration: Ration) -> None:
    """These nodes are tried anew."""
    for state in ration.nodes.values():
        state.forget()


def _obstacle(state: NodeState, there: NodeState | None, request: Request, now: float) -> Obstacle | None:
    found = state.obstacle(request.limits, request.purpose, now, state.before(request.key[0], now))
    if found is not None or there is None or request.limits_to is None:
        return found
    return there.obstacle_to(request.limits_to, now)


def _drop_lost(ration: Ration, request: Request, now: float) -> bool:
    """Free what the dead hold of these nodes. Whether there was anything."""
    states = [(ration.nodes[request.node], request.limits.duty)]
    if request.to:
        states.append((ration.nodes[request.to], None if request.limits_to is None else request.limits_to.duty))
    holders: set[str] = {owner for state, _ in states for owner in state.owners()} - {request.key[0]}
    suspects = holders - request.heard
    lost = ration.lost(suspects) if suspects else ()
    dropped = [state.drop(lost, duty, now) for state, duty in states]
    return any(dropped)
