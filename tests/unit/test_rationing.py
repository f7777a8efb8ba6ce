"""Services that share the slots of nodes: whatever happens to them, no limit is exceeded by all of them together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.domain.events import BreakerClosed, BreakerOpened, Event
from router.domain.node_state import NodeState
from router.domain.ration import Circle, Ration, RationLook
from router.domain.replicas import LOST_SECONDS
from router.domain.rule import BreakerSettings, Node, NodeLimits
from router.engine import slots as slots_module
from router.engine.guard import Purpose
from router.engine.ration_port import Count
from router.engine.rationing import ALONE_SECONDS, CUT_OFF_SECONDS, FRESH_SECONDS, Rationing
from router.engine.slots import NodeSlots, Urgency
from router.errors import Cancelled, ConnectionFailed, LedgerError, NodeLeftAlone

T = TypeVar("T")
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Time:
    """One clock for all, which tests turn: the ledger's, the process's and the machine's."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed)

    def __call__(self) -> float:
        return 1000.0 + self.passed


class Desk:
    """The shared states in memory, packed as the ledger packs them; its queries are tested by the ledger's contract."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.circle = Circle().packed()
        self.rows: dict[str, tuple[int, bytes]] = {}
        self.seen: dict[str, datetime] = {}

    def lost(self, owners: Collection[str]) -> frozenset[str]:
        since = self.time.now() - timedelta(seconds=LOST_SECONDS)
        return frozenset(owner for owner in owners if self.seen.get(owner, START - timedelta(days=1)) < since)

    def ration(
        self, nodes: Collection[str] | None, decision: Callable[[Ration], T], now: datetime
    ) -> tuple[T, dict[str, tuple[int, NodeState]]]:
        names = self.rows if nodes is None else nodes
        states = {name: NodeState.unpacked(self.rows[name][1]) if name in self.rows else NodeState() for name in names}
        known = Ration(Circle.unpacked(self.circle), states, self.lost)
        decided = decision(known)
        if nodes is None:
            self.circle = known.circle.packed()
        for name, state in known.nodes.items():
            self.rows[name] = self.rows.get(name, (0, b""))[0] + 1, state.packed(now.timestamp())
        return decided, self._read(known.nodes)

    def ration_look(self, known: Mapping[str, int], now: datetime) -> RationLook:
        circle = Circle.unpacked(self.circle)
        states = self._read([name for name, (version, _) in self.rows.items() if known.get(name) != version])
        return RationLook(circle, dict(self.seen), self.lost(circle.members), states)

    def state(self, name: str) -> NodeState:
        return NodeState.unpacked(self.rows[name][1])

    def _read(self, names: Collection[str]) -> dict[str, tuple[int, NodeState]]:
        return {name: (self.rows[name][0], NodeState.unpacked(self.rows[name][1])) for name in names}


class Line:
    """What lies between a service and the ledger: it may break before or after what is asked is done."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cut = False
        self.faults: list[str] = []
        """What happens to the next calls, the first first: `before`, `after`, or nothing."""
        self.writes = 0
        self.told = 0

    def _through(self, call: Callable[[], T]) -> T:
        fault = self.faults.pop(0) if self.faults else ""
        if self.cut or fault == "before":
            raise LedgerError("The ledger cannot be reached.")
        done = call()
        if fault == "after":
            raise LedgerError("The ledger's answer was lost.")
        return done

    def ration(
        self, nodes: Collection[str] | None, decision: Callable[[Ration], T], now: datetime
    ) -> tuple[T, dict[str, tuple[int, NodeState]]]:
        self.writes += 1
        return self._through(lambda: self.desk.ration(nodes, decision, now))

    def ration_look(self, known: Mapping[str, int], now: datetime) -> RationLook:
        return self._through(lambda: self.desk.ration_look(known, now))

    def tell(self) -> None:
        self.told += 1


class Try(threading.Event):
    """Cancels a wait, but not before the ledger was asked once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def is_set(self) -> bool:
        self.asked += 1
        return super().is_set() or self.asked > 1


class Replica:
    """A service as far as it takes slots; its thread is the test."""

    def __init__(
        self, owner: str, desk: Desk, time: Time, nodes: Collection[Node], begun: Mapping[str, Collection[float]]
    ) -> None:
        """`begun`: when moves began, as the ledger's transfers tell."""
        self.owner = owner
        self.time = time
        self.begun = begun
        self.line = Line(desk)
        self.events: list[Event] = []
        self.troubles: list[str] = []
        self.idle: dict[str, int] = {}
        """What the last `fit` left room for, by node."""
        self.slots = NodeSlots(clock=time, observer=self.events.append, monotonic=time)
        self.slots.heeds_breakers = True
        self.slots.adopt({node.name: node for node in nodes})
        self.rationing = Rationing(
            self.slots,
            self.line,
            owner,
            time,
            lambda where, error: self.troubles.append(f"{where}: {error!r}"),
            lambda node, room: self.idle.update({node.name: room}),
            self.recall,
            monotonic=time,
            elapsed=time,
        )
        self.holds: list[tuple[ExitStack, Node, Node | None, Purpose, threading.Event]] = []
        self.announce()

    def recall(self) -> None:
        for name, moments in self.begun.items():
            self.slots.recall_moves(name, [self.time.passed - one for one in moments])

    def announce(self) -> None:
        if not self.line.cut:
            self.line.desk.seen[self.owner] = self.time.now()

    def look(self) -> None:
        self.rationing.look()
        for one in [one for one in self.holds if threading.Event.is_set(one[4])]:
            self.give(self.holds.index(one))

    def take(self, node: Node, to: Node | None = None, purpose: Purpose = Purpose.MOVE, **more: Any) -> bool:
        """Whether a slot was got at once."""
        stack, cancelled = ExitStack(), Try()
        urgency = more.pop("urgency", Urgency.MOVE)
        try:
            stack.enter_context(self.slots.hold(node, urgency, cancelled, purpose=purpose, to=to))
        except (Cancelled, NodeLeftAlone):
            return False
        self.holds.append((stack, node, to, purpose, cancelled))
        return True

    def give(self, number: int = 0, error: Exception | None = None) -> None:
        """Let go, where the request ended with this error."""
        stack = self.holds.pop(number)[0]
        if error is None:
            stack.close()
            return
        try:
            stack.__exit__(type(error), error, None)
        except type(error):
            return

    def stop(self) -> None:
        while self.holds:
            self.give()
        self.rationing.stop()
        if not self.line.cut:
            self.line.desk.seen.pop(self.owner, None)

    @property
    def count(self) -> Count:
        return self.rationing.count


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_GLANCE_SECONDS", 0.001)


def limited(name: str, **limits: Any) -> Node:
    return Node(name=name, ae_title=name.upper(), host="h", port=1, limits=NodeLimits(**limits))


ARCHIVE = limited("archive", associations=2, moves_per_hour=3)
WARD = limited("ward", associations=1, incoming=1)
NODES = (ARCHIVE, WARD)


class House:
    """A ledger and the services on it."""

    def __init__(self, nodes: Collection[Node] = NODES) -> None:
        self.time = Time()
        self.desk = Desk(self.time)
        self.nodes = nodes
        self.replicas: list[Replica] = []
        self._dead: list[Replica] = []
        self.begun: dict[str, list[float]] = {node.name: [] for node in nodes}
        """When moves began in which a node takes part."""
        self._started = 0

    def start(self) -> Replica:
        self._started += 1
        replica = Replica(f"replica:{self._started}", self.desk, self.time, self.nodes, self.begun)
        self.replicas.append(replica)
        replica.look()
        return replica

    def settle(self, rounds: int = 3) -> None:
        for _ in range(rounds):
            self.later(1.0)

    def later(self, seconds: float, step: float = 5.0) -> None:
        """Time passes, in which all that live look around and announce themselves."""
        end = self.time.passed + seconds
        while self.time.passed < end:
            self.time.passed = min(end, self.time.passed + step)
            for replica in self.replicas:
                replica.announce()
            for replica in list(self.replicas):
                replica.look()

    def crash(self, replica: Replica) -> None:
        """It is no more; what is left of it in this process reaches the ledger no more either."""
        replica.line.cut = True
        self.replicas.remove(replica)
        self._dead.append(replica)


@pytest.fixture
def house() -> House:
    return House()


# what must hold ---------------------------------------------------------------------------------------------------


class Fleet(RuleBasedStateMachine):
    """Replicas that come, go, die, are cut off from the ledger and lose its answers, at two nodes with limits."""

    @initialize()
    def begin(self) -> None:
        self.house = House()

    @precondition(lambda self: len(self.house.replicas) < 4)
    @rule(fault=st.sampled_from(["", "", "before", "after"]))
    def start(self, fault: str) -> None:
        replica = self.house.start()
        replica.line.faults = [fault]

    @precondition(lambda self: self.house.replicas)
    @rule(which=st.integers(0, 3), to=st.booleans(), purpose=st.sampled_from(Purpose))
    def take(self, which: int, to: bool, purpose: Purpose) -> None:
        replica = self._one(which)
        there = WARD if to and purpose is Purpose.MOVE else None
        if replica.take(ARCHIVE, there, purpose) and purpose is Purpose.MOVE:
            for node in (ARCHIVE, there):
                if node is not None:
                    self.house.begun[node.name].append(self.house.time.passed)

    @precondition(lambda self: self.house.replicas)
    @rule(which=st.integers(0, 3))
    def ask_the_ward(self, which: int) -> None:
        self._one(which).take(WARD, None, Purpose.QUERY)

    @precondition(lambda self: any(one.holds for one in self.house.replicas))
    @rule(which=st.integers(0, 3), number=st.integers(0, 5))
    def give(self, which: int, number: int) -> None:
        holding = [one for one in self.house.replicas if one.holds]
        replica = holding[which % len(holding)]
        replica.give(number % len(replica.holds))

    @precondition(lambda self: self.house.replicas)
    @rule(which=st.integers(0, 3))
    def crash(self, which: int) -> None:
        self.house.crash(self._one(which))

    @precondition(lambda self: self.house.replicas)
    @rule(which=st.integers(0, 3))
    def stop(self, which: int) -> None:
        replica = self._one(which)
        replica.stop()
        self.house.replicas.remove(replica)

    @precondition(lambda self: self.house.replicas)
    @rule(which=st.integers(0, 3), cut=st.booleans())
    def line(self, which: int, cut: bool) -> None:
        self._one(which).line.cut = cut

    @precondition(lambda self: self.house.replicas)
    @rule(which=st.integers(0, 3), faults=st.lists(st.sampled_from(["", "before", "after"]), max_size=4))
    def faults(self, which: int, faults: list[str]) -> None:
        self._one(which).line.faults = faults

    @precondition(lambda self: self.house.replicas)
    @rule(which=st.integers(0, 3))
    def look(self, which: int) -> None:
        self._one(which).look()

    @rule(seconds=st.sampled_from([0.2, 2.0, 12.0, 70.0]))
    def later(self, seconds: float) -> None:
        self.house.later(seconds, step=2.0 if seconds < 60 else 9.0)

    @rule()
    def much_later(self) -> None:
        self.house.later(300.0, step=25.0)

    def _one(self, which: int) -> Replica:
        return self.house.replicas[which % len(self.house.replicas)]

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        if not hasattr(self, "house"):
            return
        holds = [one for replica in self.house.replicas for one in replica.holds]
        for node in NODES:
            assert sum(one[1] is node for one in holds) <= node.limits.associations
            incoming = sum(one[2] is node for one in holds)
            assert node.limits.incoming is None or incoming <= node.limits.incoming
            most, begun = node.limits.moves_per_hour, self.house.begun[node.name]
            for last, at in enumerate(begun):
                in_the_hour = sum(at - one < 3600 for one in begun[: last + 1])
                assert most is None or in_the_hour <= most

    @invariant()
    def nothing_unforeseen_happens(self) -> None:
        if hasattr(self, "house"):
            troubles = [one for replica in self.house.replicas for one in replica.troubles]
            assert all("LedgerError" in one for one in troubles)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestFleet = pytest.mark.usefixtures("hurry")(TestFleet)


# one by one -------------------------------------------------------------------------------------------------------


def test_who_is_alone_counts_for_itself_and_writes_nothing(house: House) -> None:
    replica = house.start()
    house.settle()
    assert replica.count is Count.ALONE
    writes = replica.line.writes
    assert replica.take(ARCHIVE, WARD)
    assert replica.take(ARCHIVE)
    assert not replica.take(ARCHIVE)
    replica.give()
    house.settle()
    assert replica.line.writes == writes
    assert replica.idle == {"archive": 0, "ward": 0}, "only when it entered: afterwards associations may idle"


def test_who_comes_waits_until_the_first_has_written_down_what_it_holds(house: House) -> None:
    first = house.start()
    assert first.take(ARCHIVE)
    assert first.take(ARCHIVE)
    second = house.start()
    assert second.count is Count.SHARED
    assert not second.take(ARCHIVE)
    house.settle()
    assert first.count is Count.SHARED
    assert not second.take(ARCHIVE), "the first holds them all"
    first.give()
    assert first.idle["archive"] == 1, "what idles is released before the slot is another's"
    house.settle(1)
    assert second.take(ARCHIVE)
    assert second.slots.in_use("archive") == 2


def test_once_the_others_have_gone_it_counts_for_itself_again(house: House) -> None:
    first, second = house.start(), house.start()
    house.settle()
    assert second.take(ARCHIVE)
    first.stop()
    house.replicas.remove(first)
    house.later(ALONE_SECONDS + 5, 1.0)
    assert second.count is Count.ALONE
    assert second.slots.in_use("archive") == 1, "what it holds is counted on"
    second.give()
    assert second.slots.in_use("archive") == 0


def test_a_dead_holders_slots_are_waited_for(house: House) -> None:
    first, second = house.start(), house.start()
    house.settle()
    assert first.take(ARCHIVE)
    assert first.take(ARCHIVE)
    house.crash(first)
    house.later(LOST_SECONDS - 10)
    assert not second.take(ARCHIVE)
    house.later(20)
    assert second.take(ARCHIVE)


def test_who_does_not_reach_the_ledger_begins_nothing_and_ends_what_it_holds_before_it_counts_as_dead(
    house: House,
) -> None:
    first, second = house.start(), house.start()
    house.settle()
    assert first.take(ARCHIVE)
    first.line.cut = True
    house.later(FRESH_SECONDS + 5, 1.0)
    assert not first.take(ARCHIVE)
    assert first.holds, "a short outage ends nothing"
    house.later(CUT_OFF_SECONDS - FRESH_SECONDS, 1.0)
    assert not first.holds
    assert len(first.troubles) == 1, "told once"
    first.line.cut = False
    house.later(LOST_SECONDS)
    assert first.take(ARCHIVE)
    assert second.take(ARCHIVE)


@pytest.mark.parametrize("fault", ["before", "after"])
def test_an_answer_that_is_lost_leaves_no_slot_held(house: House, fault: str) -> None:
    first, second = house.start(), house.start()
    house.settle()
    first.line.faults = [fault]
    assert not first.take(ARCHIVE, None, Purpose.QUERY)
    assert second.take(ARCHIVE, None, Purpose.QUERY)
    second.line.faults = [fault]
    second.give()
    house.settle()
    assert not house.desk.state("archive").held
    assert first.take(ARCHIVE, None, Purpose.QUERY)
    assert first.take(ARCHIVE, None, Purpose.QUERY)


def test_a_breaker_that_one_opens_is_open_for_all_and_one_of_them_probes(house: House) -> None:
    house.nodes = (limited("archive", associations=1),)
    first, second = house.start(), house.start()
    house.settle()
    for _ in range(BreakerSettings().failures):
        assert first.take(house.nodes[0], None, Purpose.QUERY)
        first.give(0, ConnectionFailed("The archive cannot be reached."))
    house.settle(1)
    assert second.slots.left_alone(house.nodes[0])
    opened = [one for one in second.events if isinstance(one, BreakerOpened)]
    assert [one.message for one in opened] == ["Another replica found it so."]
    house.later(BreakerSettings().pause, 1.0)
    assert first.slots.probe_due(house.nodes[0])
    assert first.take(house.nodes[0], None, Purpose.OTHER, urgency=Urgency.PROBE)
    assert not second.take(house.nodes[0], None, Purpose.OTHER, urgency=Urgency.PROBE), "the other does it"
    first.give()
    house.settle(1)
    for replica in (first, second):
        assert any(isinstance(one, BreakerClosed) for one in replica.events)
        assert not replica.slots.left_alone(house.nodes[0])


def test_a_replica_that_waits_has_its_turn(house: House) -> None:
    house.nodes = (limited("archive", associations=1),)
    first, second = house.start(), house.start()
    house.settle()
    turns = []
    for _ in range(20):
        for replica in (first, second):  # the first is always a moment earlier
            if replica.take(house.nodes[0], None, Purpose.QUERY):
                turns.append(replica.owner)
                replica.give()
                break
        second.take(house.nodes[0], None, Purpose.QUERY)
        while second.holds:
            turns.append(second.owner)
            second.give()
        house.settle(1)
    assert {first.owner, second.owner} == set(turns)
