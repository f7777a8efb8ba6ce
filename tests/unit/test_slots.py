"""Slots per node: never more than allowed, urgent work first, every wait ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from router.domain.dicom import QueryRetrieveLevel
from router.domain.events import AssociationsAllowed, BreakerClosed, BreakerOpened, Event
from router.domain.rule import BreakerSettings, Node, NodeLimits, WindowUse
from router.domain.transfer import Route
from router.domain.window import Window, parse_span
from router.engine.detours import Detours
from router.engine.guard import Purpose
from router.engine.probe import Prober
from router.engine.slots import STALLED_SECONDS, NodeSlots, Urgency
from router.errors import (
    AssociationRejected,
    Cancelled,
    ConnectionFailed,
    ConnectionLost,
    ContextRefused,
    DeadlineExceeded,
    NodeLeftAlone,
    RemoteProtocolError,
)
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock, FakePeers
from tests.support.process import wait_for

NEVER = threading.Event()


class Watch:
    """A clock that never goes back, which tests turn."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def node(name: str = "archive", associations: int = 1) -> Node:
    return Node(name=name, ae_title="A", host="h", port=1, limits=NodeLimits(associations=associations))


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("allowed", [1, 3])
def test_never_more_than_the_node_allows(allowed: int) -> None:
    slots, peak, lock, now = NodeSlots(), 0, threading.Lock(), 0

    def work() -> None:
        nonlocal peak, now
        for _ in range(20):
            with slots.hold(node(associations=allowed), Urgency.MOVE, NEVER):
                with lock:
                    now += 1
                    peak = max(peak, now)
                with lock:
                    now -= 1

    threads = [start(work) for _ in range(8)]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert 1 <= peak <= allowed
    assert slots.in_use("archive") == 0


def test_a_sweep_goes_before_moves_that_waited_longer() -> None:
    slots, order = NodeSlots(), []

    def work(urgency: Urgency) -> None:
        with slots.hold(node(), urgency, NEVER):
            order.append(urgency)

    with slots.hold(node(), Urgency.MOVE, NEVER):
        threads = []
        for waiting, urgency in enumerate((Urgency.MOVE, Urgency.VERIFY, Urgency.SWEEP), 1):
            threads.append(start(lambda urgency=urgency: work(urgency)))  # type: ignore[misc]
            wait_for(lambda waiting=waiting: slots.waiting("archive") == waiting, "the wait")
    for thread in threads:
        thread.join(30)
    assert order == [Urgency.SWEEP, Urgency.VERIFY, Urgency.MOVE]


def test_nodes_do_not_wait_for_each_other() -> None:
    slots = NodeSlots()
    with slots.hold(node("one"), Urgency.MOVE, NEVER), slots.hold(node("two"), Urgency.MOVE, NEVER):
        assert (slots.in_use("one"), slots.in_use("two")) == (1, 1)


def test_a_wait_ends_when_cancelled_or_in_the_end() -> None:
    watch = Watch()
    slots, cancelled = NodeSlots(monotonic=watch), threading.Event()
    cancelled.set()
    with slots.hold(node(), Urgency.MOVE, NEVER):
        with pytest.raises(Cancelled), slots.hold(node(), Urgency.MOVE, cancelled):
            pass
        failures: list[BaseException] = []
        waiting = start(lambda: failures.append(fails_to_hold(slots)))
        wait_for(lambda: slots.waiting("archive") == 1, "the wait")
        watch.time += STALLED_SECONDS - 1
        waiting.join(0.5)
        assert waiting.is_alive()
        watch.time += 2
        waiting.join(30)
    assert isinstance(failures[0], DeadlineExceeded)
    assert failures[0].cause == "no-free-association"
    assert "archive" in str(failures[0])
    with slots.hold(node(), Urgency.MOVE, NEVER):
        pass


def fails_to_hold(slots: NodeSlots) -> BaseException:
    try:
        with slots.hold(node(), Urgency.MOVE, NEVER):
            raise AssertionError("it was granted")
    except DeadlineExceeded as failure:
        return failure


def test_a_queue_that_moves_is_waited_for_however_long_it_takes() -> None:
    watch = Watch()
    slots, granted = NodeSlots(monotonic=watch), threading.Event()

    def work(urgency: Urgency, until: threading.Event, has: threading.Event) -> None:
        with slots.hold(node(), urgency, NEVER):
            has.set()
            until.wait(30)

    def begin(urgency: Urgency, has: threading.Event) -> tuple[threading.Thread, threading.Event]:
        until = threading.Event()
        return start(lambda: work(urgency, until, has)), until

    first = threading.Event()
    holder, until = begin(Urgency.SWEEP, first)
    assert first.wait(30)
    waiting, its_end = begin(Urgency.MOVE, granted)
    its_end.set()
    wait_for(lambda: slots.waiting("archive") == 1, "the wait")
    for _ in range(4):
        has = threading.Event()
        following, its_end = begin(Urgency.SWEEP, has)
        wait_for(lambda: slots.waiting("archive") == 2, "the more urgent one")
        watch.time += 0.9 * STALLED_SECONDS
        until.set()
        holder.join(30)
        assert has.wait(30)
        holder, until = following, its_end
    assert not granted.is_set()
    until.set()
    waiting.join(30)
    assert granted.is_set()


# what a node allows -----------------------------------------------------------------------------------------------


def ask(slots: NodeSlots, target: Node, purpose: Purpose = Purpose.QUERY, **more: Any) -> None:
    with slots.hold(target, Urgency.MOVE, NEVER, purpose=purpose, **more):
        pass


def waits(slots: NodeSlots, target: Node, purpose: Purpose, **more: Any) -> threading.Thread:
    """A request that has to wait."""
    before = slots.waiting(target.name)
    thread = start(lambda: ask(slots, target, purpose, **more))
    wait_for(lambda: slots.waiting(target.name) == before + 1, "the wait")
    return thread


def limited(**limits: Any) -> Node:
    return Node(name="archive", ae_title="A", host="h", port=1, limits=NodeLimits(**limits))


def test_queries_per_minute_are_those_of_any_minute() -> None:
    watch = Watch()
    slots, archive = NodeSlots(monotonic=watch), limited(queries_per_minute=2)
    for _ in range(2):
        ask(slots, archive)
        watch.time += 10
    gate = slots.gate(archive)
    assert gate is not None
    assert (gate.reason, gate.until) == ("pace", 1060.0)
    ask(slots, archive, Purpose.OTHER)
    waiting = waits(slots, archive, Purpose.QUERY)
    watch.time = 1059.9
    waiting.join(0.5)
    assert waiting.is_alive()
    watch.time = 1060.0
    waiting.join(30)
    assert not waiting.is_alive()
    assert slots.gate(archive) is not None


def test_a_slot_rests_as_its_duty_cycle_says() -> None:
    watch = Watch()
    slots, archive = NodeSlots(monotonic=watch), limited(associations=2, duty=0.25)
    with slots.hold(archive, Urgency.MOVE, NEVER):
        watch.time += 10
    assert slots.gate(archive) is None, "the other slot is ready"
    with slots.hold(archive, Urgency.MOVE, NEVER):
        gate = slots.gate(archive)
        assert gate is not None
        assert (gate.reason, gate.until) == ("duty", 1040.0)
        waiting = waits(slots, archive, Purpose.OTHER)
        watch.time = 1040.0
        waiting.join(30)
        assert not waiting.is_alive()


def test_a_budget_of_moves_is_one_for_source_and_destination() -> None:
    watch = Watch()
    slots, pacs, ws = NodeSlots(monotonic=watch), node("pacs", 4), limited(moves_per_hour=3)
    slots.recall_moves("archive", [100.0, 4000.0])
    ask(slots, pacs, Purpose.MOVE, to=ws)
    assert slots.takes(ws, 0)
    assert not slots.takes(ws, 1), "one that was claimed is about to use it up"
    assert slots.takes(pacs, 100)
    ask(slots, ws, Purpose.MOVE)
    assert not slots.takes(ws, 0)
    sides: list[str] = []

    @contextmanager
    def aside() -> Iterator[None]:
        sides.append("in")
        yield
        sides.append("out")

    waiting = waits(slots, pacs, Purpose.MOVE, to=ws, aside=aside)
    wait_for(lambda: sides == ["in"], "the detour")
    ask(slots, pacs, Purpose.MOVE)  # who waits for a destination keeps nobody else waiting
    watch.time += 3500
    waiting.join(30)
    assert sides == ["in", "out"]


def test_incoming_moves_are_counted_over_all_sources() -> None:
    slots, ws = NodeSlots(), limited(incoming=1)
    with slots.hold(node("pacs"), Urgency.MOVE, NEVER, purpose=Purpose.MOVE, to=ws):
        waiting = waits(slots, node("vna"), Purpose.MOVE, to=ws)
    waiting.join(30)
    assert not waiting.is_alive()


def test_windows_stand_in_the_place_of_limits_and_shut_the_gate_only() -> None:
    night = Window.of("night", "UTC", parse_span("daily 22:00-06:00"))
    clock = FakeClock()
    slots = NodeSlots(lambda: {"night": night}, clock)
    archive = Node(name="archive", ae_title="A", host="h", port=1, windows=(WindowUse(window="night", associations=5),))
    gate = slots.gate(archive)
    assert gate is not None
    assert gate.reason == "window"
    ask(slots, archive)  # what has begun goes on
    clock.advance(12 * 3600)
    assert (slots.gate(archive), slots.allowed(archive)) == (None, 5)


# a node in trouble ------------------------------------------------------------------------------------------------


def fail(slots: NodeSlots, target: Node, error: Exception, urgency: Urgency = Urgency.MOVE) -> None:
    with pytest.raises(type(error)), slots.hold(target, urgency, NEVER):
        raise error


DOWN = ConnectionFailed("archive refused the connection; is it running?", "connection-refused")
BUSY = AssociationRejected(2, 3, 2)


def test_a_node_that_does_not_answer_is_left_alone_until_a_probe_gets_through() -> None:
    watch, events = Watch(), list[Event]()
    slots, archive = NodeSlots(observer=events.append, monotonic=watch), node()
    slots.heeds_breakers = True
    for _ in range(archive.breaker.failures - 1):
        fail(slots, archive, DOWN)
    ask(slots, archive)
    for _ in range(archive.breaker.failures):
        assert not slots.left_alone(archive)
        fail(slots, archive, DOWN)
    assert slots.left_alone(archive)
    gate = slots.gate(archive)
    assert gate is not None
    assert (gate.reason, gate.until) == ("breaker", 1030.0)
    with pytest.raises(NodeLeftAlone, match="archive"), slots.hold(archive, Urgency.VERIFY, NEVER):
        raise AssertionError
    assert not slots.probe_due(archive)
    watch.time += 30
    assert slots.probe_due(archive)
    fail(slots, archive, DOWN, Urgency.PROBE)
    assert not slots.probe_due(archive)
    watch.time += 60
    with slots.hold(archive, Urgency.PROBE, NEVER):
        pass
    assert (slots.left_alone(archive), slots.gate(archive)) == (False, None)
    assert [type(event) for event in events] == [BreakerOpened, BreakerOpened, BreakerClosed]
    assert isinstance(events[0], BreakerOpened)
    assert isinstance(events[1], BreakerOpened)
    assert (events[0].pause_seconds, events[0].cause, events[1].pause_seconds) == (30.0, "connection-refused", 60.0)
    assert "is it running" in events[0].message


def test_who_waits_for_a_slot_when_the_node_is_given_up_does_not_touch_it() -> None:
    slots, archive = (
        NodeSlots(),
        Node(name="archive", ae_title="A", host="h", port=1, breaker=BreakerSettings(failures=1)),
    )
    slots.heeds_breakers = True
    failures: list[Exception] = []

    def work() -> None:
        try:
            ask(slots, archive)
        except NodeLeftAlone as failure:
            failures.append(failure)

    with suppress(ConnectionFailed), slots.hold(archive, Urgency.MOVE, NEVER):
        waiting = start(work)
        wait_for(lambda: slots.waiting("archive") == 1, "the wait")
        raise DOWN
    waiting.join(30)
    assert len(failures) == 1


@pytest.mark.parametrize(
    "error", [ContextRefused(), AssociationRejected(1, 1, 3), Cancelled(), RemoteProtocolError(), RuntimeError()]
)
def test_what_is_an_answer_or_nobodys_fault_is_no_silence(error: Exception) -> None:
    slots, archive = NodeSlots(), node()
    slots.heeds_breakers = True
    for _ in range(20):
        fail(slots, archive, error)
    assert not slots.left_alone(archive)


def test_a_move_that_was_heard_of_is_no_silence() -> None:
    slots, archive = NodeSlots(), node()
    slots.heeds_breakers = True
    for _ in range(20):
        with suppress(ConnectionLost), slots.hold(archive, Urgency.MOVE, NEVER) as slot:
            slot.heard()
            raise ConnectionLost
    assert not slots.left_alone(archive)


def test_a_person_who_waits_is_not_kept_waiting_by_a_breaker() -> None:
    slots, archive = NodeSlots(), node()
    for _ in range(20):
        fail(slots, archive, DOWN)
    assert (slots.left_alone(archive), slots.gate(archive)) == (False, None)


def test_rejections_halve_the_associations_and_good_minutes_bring_them_back() -> None:
    watch, events = Watch(), list[Event]()
    slots, archive = NodeSlots(observer=events.append, monotonic=watch), node(associations=8)

    def reject_beside(others: int) -> None:
        with ExitStack() as stack:
            for _ in range(others):
                stack.enter_context(slots.hold(archive, Urgency.MOVE, NEVER))
            fail(slots, archive, BUSY)
            watch.time += 0.001

    reject_beside(7)
    assert slots.allowed(archive) == 4
    gate = slots.gate(archive)
    assert gate is not None
    assert gate.reason == "pause"
    watch.time += 10
    reject_beside(3)
    assert slots.allowed(archive) == 2
    for expected in (3, 4, 5, 6, 7, 8, 8):
        watch.time += 60
        ask(slots, archive)
        ask(slots, archive)
        assert slots.allowed(archive) == expected
    assert [event.limit for event in events if isinstance(event, AssociationsAllowed)] == [4, 2, 3, 4, 5, 6, 7, None]


@pytest.mark.parametrize(("status", "allowed"), [(0x0213, 1), (0xA700, 1), (0xA702, 2), (0xC000, 2), (0, 2)])
def test_a_node_out_of_resources_is_asked_for_less(status: int, allowed: int) -> None:
    slots, archive = NodeSlots(), node(associations=2)
    with slots.hold(archive, Urgency.MOVE, NEVER, purpose=Purpose.MOVE) as slot:
        slot.ended(status)
    assert slots.allowed(archive) == allowed


def test_a_query_that_is_too_large_is_asked_in_parts_without_a_pause() -> None:
    slots, archive = NodeSlots(), node(associations=4)
    with slots.hold(archive, Urgency.SWEEP, NEVER, purpose=Purpose.QUERY) as slot:
        slot.ended(0xA700)
    assert (slots.allowed(archive), slots.gate(archive)) == (1, None)
    with slots.hold(archive, Urgency.SWEEP, NEVER, purpose=Purpose.QUERY) as slot:
        slot.ended(0x0213)
    gate = slots.gate(archive)
    assert gate is not None
    assert gate.reason == "pause"


def test_a_node_with_one_association_that_rejects_it_is_left_alone_in_the_end() -> None:
    watch = Watch()
    slots, archive = NodeSlots(monotonic=watch), node()
    slots.heeds_breakers = True
    for _ in range(archive.breaker.failures):
        assert not slots.left_alone(archive)
        fail(slots, archive, BUSY)
        watch.time += 100
    assert slots.left_alone(archive)


def test_a_changed_configuration_is_tried_anew() -> None:
    slots, archive = NodeSlots(), node()
    slots.heeds_breakers = True
    slots.adopt({"archive": archive})
    for _ in range(5):
        fail(slots, archive, DOWN)
    slots.adopt({"archive": archive})
    assert slots.left_alone(archive)
    slots.adopt({"archive": node(associations=2)})
    assert not slots.left_alone(archive)


def test_a_probe_is_an_echo_and_a_query_where_the_node_is_a_source(tmp_path: Path) -> None:
    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        peers, slots, archive = FakePeers(ledger), NodeSlots(), node()
        troubles: list[BaseException] = []
        prober = Prober(peers, slots, lambda where, error: troubles.append(error))
        prober.probe(archive, ask=False)
        assert peers.finds == []
        prober.probe(archive, ask=True)
        ((name, level, keys),) = peers.finds
        assert (name, level) == ("archive", QueryRetrieveLevel.STUDY)
        assert keys.text("StudyInstanceUID").startswith("2.25.")
        peers.down.add("archive")
        with pytest.raises(ConnectionFailed):
            prober.probe(archive, ask=True)
        assert not troubles


def test_a_slot_is_given_back_whatever_happens() -> None:
    slots = NodeSlots()
    with pytest.raises(RuntimeError), slots.hold(node(), Urgency.MOVE, NEVER):
        raise RuntimeError
    assert slots.in_use("archive") == 0


def test_a_detour_is_slow_only_after_a_while_and_never_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    detours = Detours()
    route = Route("archive", "ws")
    with detours.wait(route):
        assert detours.slow() == []
        monkeypatch.setattr(Detours, "SLOW_SECONDS", 0.0)
        with detours.wait(route):
            assert detours.slow() == [route, route]
            first = detours.late()
        assert detours.slow() == [route]
        assert len(first - detours.late()) == 1
    assert (detours.slow(), detours.late()) == ([], frozenset())
