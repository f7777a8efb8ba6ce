"""What is known of the slots of each node, by this process or by all that share the ledger. Who waits is in `slots`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from router.domain.allowance import Allowance, allowance
from router.domain.events import AssociationsAllowed, BreakerClosed, BreakerOpened, Event
from router.domain.node_state import Lesson, NodeState, Obstacle, Purpose, changes, merged
from router.domain.ration import ANY_DUTY, ASK_AGAIN_SECONDS, NOT_AGREED, Return
from router.domain.rule import Node
from router.domain.window import Window
from router.engine.guard import Slot
from router.engine.ports import Clock, Observer
from router.engine.ration_port import Count, Shares, States

_NEW = "The node's configuration has changed, or it is gone."
_ELSEWHERE = "Another replica found it so."
_ANY_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_UNTIL_TOLD = float("inf")


class SlotCounts:
    """How many slots of each node are held, and what was learned of it. Thread-safe."""

    def __init__(
        self,
        windows: Callable[[], Mapping[str, Window]] = dict,
        clock: Clock | None = None,
        observer: Observer = lambda event: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`windows` and `clock` say what a node allows at a moment; without a clock its own limits hold."""
        self._windows = windows
        self._clock = clock
        self._observer = observer
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._guards: dict[str, NodeState] = {}
        """What is known of each node; where services share, as it was when the ledger was asked last."""
        self._versions: dict[str, int] = {}
        """Of the shared states that are known."""
        self._without_windows: dict[str, tuple[Node, Allowance]] = {}
        self._nodes: dict[str, Node] = {}
        """As the running configuration has them."""
        self._held: dict[int, Slot] = {}
        """The slots of this process, by number."""
        self._asking: dict[str, int] = {}
        """Node -> the number of the slot for which the ledger is being asked."""
        self._shares: Shares | None = None
        self.heeds_breakers = False
        """Requests to nodes that do not answer fail at once; else that is noted only (`apply`: a person waits)."""

    # what is known ------------------------------------------------------------------------------------------------

    def in_use(self, node: str) -> int:
        """Slots of the node held now, by whatever service."""
        with self._changed:
            return self._guard(node).in_use

    def known_as(self, node: Node) -> Node:
        """The node by the name under which its slots are counted."""
        return node

    def allowance(self, node: Node) -> Allowance:
        """The limits that hold for the node now."""
        if node.windows and self._clock is not None:
            windows = self._windows()
            if all(use.window is None or use.window in windows for use in node.windows):
                return allowance(node, windows, self._clock.now())
        kept = self._without_windows.get(node.name)
        if kept is None or kept[0] is not node:
            kept = node, allowance(msgspec.structs.replace(node, windows=()), {}, _ANY_TIME)
            self._without_windows[node.name] = kept
        return kept[1]

    def allowed(self, node: Node) -> int:
        """Slots of the node that may be in use now."""
        with self._changed:
            return self._guard(node.name).throttle.allowed(self.allowance(node).associations)

    def left_alone(self, node: Node) -> bool:
        """Whether the node does not answer, so that nothing is to be begun with it."""
        with self._changed:
            return self._left_alone(self._guard(node.name))

    def probe_due(self, node: Node) -> bool:
        """Whether a node that is left alone is to be tried now."""
        with self._changed:
            guard = self._guard(node.name)
            return self._left_alone(guard) and guard.breaker.probe_due(self._monotonic())

    def gate(self, node: Node) -> Obstacle | None:
        """Why no new piece of work is to be begun with the node, which begins with a query; None where it may.

        That all slots are held is no such reason: who waits for one goes by urgency.
        """
        limits = self.allowance(node)
        if not limits.open:
            return Obstacle("window", _UNTIL_TOLD)
        with self._changed:
            guard, now = self._guard(node.name), self._monotonic()
            if self._left_alone(guard):
                return Obstacle("breaker", guard.breaker.probe_at)
            found = self._unsettled(now) or guard.obstacle(limits, Purpose.QUERY, now)
            return None if found is None or found.reason == "slots" else found

    def takes(self, node: Node, claimed: int) -> bool:
        """Whether a move in which the node takes part may be begun besides so many claimed ones, by its budget."""
        most = self.allowance(node).moves_per_hour
        if most is None:
            return True
        with self._changed:
            guard = self._guard(node.name)
            not_begun = max(0, claimed - guard.own(self._owner))
            return guard.moves.count(self._monotonic()) + not_begun < most

    def moves_last_hour(self) -> dict[str, int]:
        """Node -> moves of the last hour that count towards its limit."""
        now = self._monotonic()
        with self._changed:
            return {name: guard.moves.count(now) for name, guard in self._guards.items()}

    def adopt(self, nodes: Mapping[str, Node]) -> None:
        """The nodes of a new configuration: one that has changed is tried anew, those that are gone are forgotten."""
        events: list[Event] = []
        with self._changed:
            changed = [name for name in self._guards if name not in nodes or nodes[name] != self._nodes.get(name)]
            for name in changed:
                guard = self._guards[name]
                if guard.breaker.opened_at is not None and self.heeds_breakers:
                    events.append(
                        BreakerClosed(node=name, open_seconds=self._monotonic() - guard.breaker.opened_at, message=_NEW)
                    )
                if guard.throttle.limit is not None:
                    events.append(AssociationsAllowed(node=name, limit=None))
                guard.forget()
                if name not in nodes and not (guard.in_use or guard.incoming):
                    del self._guards[name]
                    self._versions.pop(name, None)
            if self._shares is not None and self._nodes:
                self._shares.forget(changed)
            self._nodes = dict(nodes)
            self._changed.notify_all()
        for event in events:
            self._observer(event)

    def recall_moves(self, node: str, ages: Iterable[float]) -> None:
        """Moves of before in which the node took part, by how many seconds ago they were, if more than are known."""
        now = self._monotonic()
        before = NodeState()
        before.moves.recall(now - age for age in ages)
        with self._changed:
            self._guard(node).moves = merged([self._guard(node), before], now).moves

    # sharing with other services ----------------------------------------------------------------------------------

    def share(self, shares: Shares) -> threading.Condition:
        """From now on slots are shared by these rules; called before the first is taken. Their lock is returned."""
        self._shares = shares
        return self._changed

    def snapshot(self) -> dict[str, NodeState]:
        """What is known of each node, by the ledger's clock. Under the lock."""
        offset = self._offset()
        return {name: guard.shifted(offset) for name, guard in self._guards.items()}

    def versions(self) -> dict[str, int]:
        """The versions of the shared states that are known."""
        with self._changed:
            return dict(self._versions)

    def adopt_states(self, states: States, lessons: Mapping[str, Lesson] | None = None) -> None:
        """Take what the ledger says of nodes, as far as it is news; `lessons`: what this process has just learned."""
        events: list[Event] = []
        with self._changed:
            offset, now = self._offset(), self._monotonic()
            for name, (version, state) in states.items():
                if version <= self._versions.get(name, -1) or not (name in self._nodes or name in self._guards):
                    continue
                before = self._guard(name)
                after = self._guards[name] = state.shifted(-offset)
                self._versions[name] = version
                lesson = lessons.get(name) if lessons else None
                cause, message = (lesson.cause, lesson.message) if lesson is not None else ("", _ELSEWHERE)
                events += changes(name, (before.throttle, before.breaker), after, now, cause, message)
            self._changed.notify_all()
        self._tell(events)

    def return_here(self, one: Return) -> None:
        """Give back by this process's own count what was to be given back by the shared one."""
        offset = self._offset()
        lesson = one.lesson and one.lesson._replace(began=one.lesson.began - offset)
        with self._changed:
            events = self._return(one._replace(ended=one.ended - offset, lesson=lesson))
            self._changed.notify_all()
        self._tell(events)

    def mine(self) -> set[int]:
        """The numbers of the slots that this process holds, or is asking for."""
        with self._changed:
            return {*self._held, *self._asking.values()}

    @property
    def asks(self) -> bool:
        """Whether the ledger is being asked for a slot. Under the lock."""
        return bool(self._asking)

    def standing(self) -> list[tuple[Node, int]]:
        """Each node that is known, and how many slots of it this process holds."""
        with self._changed:
            nodes = self._nodes | {slot.node.name: slot.node for slot in self._held.values()}
            return [(node, self._standing(name)) for name, node in nodes.items()]

    def let_go(self, number: int) -> None:
        """A slot is this process's no more. Under the lock."""
        self._held.pop(number, None)

    def _standing(self, name: str) -> int:
        """Associations to a node that have work."""
        return sum(slot.node.name == name and not slot.ending for slot in self._held.values())

    def strays(self) -> list[Return]:
        """What the ledger has for this process's slots, but nobody here holds or asks for. Under the lock."""
        known, limits = {*self._held, *self._asking.values()}, Allowance(open=True, duty=ANY_DUTY)
        return [
            Return(key, name, limits, held.to, 0.0)
            for name, guard in self._guards.items()
            for key, held in guard.held.items()
            if key[0] == self._owner and key[1] not in known
        ]

    def cut_off(self) -> None:
        """End what is held: others may soon take this process for dead. Probes end by themselves."""
        with self._changed:
            for slot in self._held.values():
                if slot.cancelled is not None:
                    slot.cancelled.set()
            self._changed.notify_all()

    def _return(self, one: Return) -> list[Event]:
        """Give back what this process counts for itself."""
        guard = self._guard(one.node)
        guard.give_back(one.key, one.limits.duty, one.ended)
        if one.to:
            self._guard(one.to).gone(one.key, one.ended)
        if one.lesson is None:
            return []
        return guard.learn(one.node, one.lesson, one.settings, one.limits.associations, one.ended)

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            if self.heeds_breakers or not isinstance(event, BreakerOpened | BreakerClosed):
                self._observer(event)

    def _offset(self) -> float:
        """What the ledger's clock shows more than that of this process."""
        return self._shares.offset() if self._shares is not None else 0.0

    @property
    def _alone(self) -> bool:
        return self._shares is None or self._shares.count is Count.ALONE

    @property
    def _owner(self) -> str:
        return self._shares.owner if self._shares is not None else ""

    def _unsettled(self, now: float) -> Obstacle | None:
        """What is in the way of every request while nobody knows who counts."""
        shares = self._shares
        if shares is None or (shares.count is not Count.CHANGING and shares.fresh()):
            return None
        return Obstacle(NOT_AGREED, now + ASK_AGAIN_SECONDS)

    def _guard(self, name: str) -> NodeState:
        guard = self._guards.get(name)
        if guard is None:
            guard = self._guards[name] = NodeState()
        return guard

    def _left_alone(self, guard: NodeState) -> bool:
        return self.heeds_breakers and guard.breaker.is_open
