"""The dispatcher: which work is begun, whose turn it is, and what holds it back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.appointment import Appointment
from router.domain.events import AttemptEnded, Event, SweepEnded, TransferEnded
from router.domain.rule import BreakerSettings, Node, NodeLimits, WindowUse
from router.domain.sweep import SweepDue, SweepRecord, SweepReport, SweepState
from router.domain.transfer import Intent, NewTransfer, Route, State, Transfer
from router.domain.window import Window, parse_span
from router.engine.dispatcher import Dispatcher
from router.engine.gates import Gates, recall_moves
from router.engine.probe import Prober
from router.engine.slots import NodeSlots, Urgency
from router.errors import ConnectionFailed
from tests.support.engine import Bench
from tests.support.fake_peers import FakeClock
from tests.support.process import wait_for


class Works(Bench):
    """A bench whose dispatcher works by itself."""

    def __init__(self, directory: Path) -> None:
        self.work: dict[int, Transfer | SweepRecord | Appointment] = {}
        """The piece of work that each thread is at."""
        self.told: list[tuple[Event, Transfer | SweepRecord | Appointment | None]] = []
        super().__init__(directory)
        self.troubles: list[BaseException] = []
        self.dispatcher = Dispatcher(
            rules=lambda: self.rules,
            ledger=self.ledger,
            sweeper=self.sweeper,
            prefetcher=self.prefetcher,
            mover=self.mover,
            verifier=self.verifier,
            detours=self.detours,
            slots=self.slots,
            prober=Prober(self.peers, self.slots, lambda where, error: self.troubles.append(error)),
            clock=self.clock,
            observer=self.observe,
            pseudonym=self.pseudonyms.of,
            correlate=self.correlate,
            trouble=lambda where, error: self.troubles.append(error),
        )

    def observe(self, event: Event) -> None:
        """Note of which piece of work it is told."""
        super().observe(event)
        self.told.append((event, self.work.get(threading.get_ident())))

    @contextmanager
    def correlate(self, claim: Transfer | SweepRecord | Appointment) -> Iterator[None]:
        """Note what is worked on, by the thread that does."""
        self.work[threading.get_ident()] = claim
        try:
            yield
        finally:
            del self.work[threading.get_ident()]

    def node(self, name: str, **settings: Any) -> Node:
        """Set up a node otherwise."""
        changed = msgspec.structs.replace(self.rules.nodes[name], **settings)
        self.rules = msgspec.structs.replace(self.rules, nodes=self.rules.nodes | {name: changed})
        return changed

    def queue(self, *intents: Intent, priority: int = 1) -> None:
        """Queue transfers, a moment after those of before."""
        self.clock.advance(1)
        now = self.clock.now()
        for intent in intents:
            self.peers.add(intent.source, intent.study_instance_uid, f"{intent.study_instance_uid}.1", "1.2.3")
        self.ledger.add_sweeps([SweepDue(rule="r", source="pacs", due_at=now, tier=7)])
        claimed = self.ledger.claim_sweep(["pacs"], now, 60)
        assert claimed is not None
        new = [NewTransfer(intent=one, rule="r", priority=priority, instance_count=1) for one in intents]
        assert self.ledger.finish_sweep(claimed, SweepReport(state=SweepState.COMPLETE), new, [], now)
        self.clock.advance(1)

    @contextmanager
    def working(self) -> Iterator[None]:
        """While the dispatcher works."""
        self.dispatcher.start()
        try:
            yield
        finally:
            self.dispatcher.stop(0.0)
            assert not self.troubles

    def states(self) -> dict[str, State]:
        return {one.intent.study_instance_uid: one.state for one in self.ledger.transfers()}

    def ended(self) -> bool:
        return all(one.ended for one in self.ledger.transfers())


@pytest.fixture
def works(tmp_path: Path) -> Works:
    return Works(tmp_path)


def to_local(study: str, source: str = "pacs") -> Intent:
    return Intent(source, study, "", "local")


def test_the_urgent_go_first_but_nothing_starves(works: Works) -> None:
    works.node("pacs", limits=NodeLimits(associations=1))
    works.queue(*(to_local(f"1.3.{n}") for n in range(4)), priority=2)
    works.queue(*(to_local(f"1.2.{n}") for n in range(20)), priority=0)
    with works.working():
        wait_for(works.ended, "all transfers")
    order = [request.study_instance_uid for _, request in works.peers.requests]
    assert len(order) == 24
    assert order[:4] == [f"1.2.{n}" for n in range(4)]
    assert [order.index(f"1.3.{n}") for n in range(4)] == [4, 9, 14, 19]


def test_nothing_is_begun_with_a_node_whose_windows_are_closed_until_they_open(works: Works) -> None:
    night = Window.of("night", "UTC", parse_span("daily 22:00-06:00"))
    works.node("pacs", windows=(WindowUse(window="night"),))
    works.rules = msgspec.structs.replace(works.rules, windows={"night": night})
    works.slots._windows, works.slots._clock = lambda: works.rules.windows, works.clock
    works.queue(to_local("1.2.1"), to_local("1.2.2", source="ws"))
    works.ledger.add_sweeps([SweepDue(rule="r", source="pacs", due_at=works.clock.now())])
    with works.working():
        wait_for(lambda: works.states()["1.2.2"].value == "complete", "the other node's transfer")
        assert works.states()["1.2.1"] is State.QUEUED
        assert [one.state for one in works.ledger.open_sweeps()] == [SweepState.DUE]
        works.clock.advance(12 * 3600)
        wait_for(works.ended, "all transfers")
        wait_for(lambda: not works.ledger.open_sweeps(), "the sweep")


def test_a_node_that_is_left_alone_is_probed_and_then_goes_on(works: Works) -> None:
    pacs = works.node("pacs", breaker=BreakerSettings(failures=1, pause=0.5, maximum_pause=0.5))
    works.slots.heeds_breakers = True
    works.peers.down.add("pacs")
    works.queue(*(to_local(f"1.2.{n}") for n in range(3)))
    with works.working():
        wait_for(lambda: works.slots.left_alone(pacs), "the breaker")
        wait_for(lambda: works.slots._guard("pacs").breaker.pauses > 2, "probes that fail")
        assert set(works.states().values()) == {State.QUEUED}
        assert sum(one.attempts for one in works.ledger.transfers()) == 0, "waiting for it costs no attempt"
        works.peers.down.clear()
        wait_for(lambda: not works.slots.left_alone(pacs), "a probe that gets through")
        works.clock.advance(60)
        wait_for(works.ended, "all transfers")
    assert set(works.states().values()) == {State.COMPLETE}


def test_a_destination_that_does_not_answer_keeps_no_moves_to_it(works: Works) -> None:
    ws = works.node("ws", breaker=BreakerSettings(failures=1, pause=1000, maximum_pause=1000))
    works.slots.heeds_breakers = True
    with pytest.raises(ConnectionFailed), works.slots.hold(ws, Urgency.VERIFY, works.never):
        raise ConnectionFailed
    works.queue(Intent("pacs", "1.2.1", "", "ws"))
    with works.working():
        wait_for(lambda: works.states()["1.2.1"] is State.VERIFYING, "the move")
    assert works.peers.finds
    assert "ws" not in {name for name, _, _ in works.peers.finds}


def test_what_a_destination_takes_holds_back_the_routes_to_it(works: Works) -> None:
    works.node("ws", limits=NodeLimits(incoming=1, moves_per_hour=2))
    works.queue(Intent("pacs", "1.2.1", "", "ws"), Intent("pacs", "1.2.2", "", "ws"))
    gates, sources = Gates(works.slots), ["pacs"]
    assert gates.closed_routes(sources, works.rules, []) == set()
    claimed = works.ledger.claim_transfer(sources, works.clock.now(), 60)
    assert claimed is not None
    assert gates.closed_routes(sources, works.rules, [claimed]) == {Route("pacs", "ws")}
    assert gates.sources(["pacs", "gone"], works.rules, [claimed]) == ["pacs", "gone"]


def test_a_restart_begins_no_budget_anew(works: Works) -> None:
    works.queue(to_local("1.2.1"), Intent("pacs", "1.2.2", "", "ws"))
    with works.working():
        wait_for(lambda: len(works.ledger.moves_since(works.clock.now() - timedelta(hours=1))) == 2, "two moves")
    slots = NodeSlots()
    recall_moves(slots, works.ledger, works.rules.nodes, works.clock.now())
    pacs = msgspec.structs.replace(works.rules.nodes["pacs"], limits=NodeLimits(moves_per_hour=3))
    ws = msgspec.structs.replace(works.rules.nodes["ws"], limits=NodeLimits(moves_per_hour=1))
    assert slots.takes(pacs, 0)
    assert not slots.takes(pacs, 1)
    assert not slots.takes(ws, 0)


def test_gates_know_when_the_first_of_them_may_open(works: Works) -> None:
    time = [0.0]
    slots = NodeSlots(clock=FakeClock(), monotonic=lambda: time[0])
    gates = Gates(slots, lambda: time[0])
    resting = works.node("pacs", limits=NodeLimits(duty=0.1))
    with slots.hold(resting, Urgency.MOVE, works.never):
        time[0] = 1.0
    assert not gates.open(resting)
    assert gates.open(works.rules.nodes["ws"])
    assert gates.open(None)
    assert gates.opens_at == pytest.approx(10.0)
    gates.forget()
    assert gates.opens_at == float("inf")
    time[0] = 10.1
    assert gates.open(resting)


def test_what_is_told_while_a_piece_of_work_is_done_is_told_of_that_piece(works: Works) -> None:
    works.queue(*(to_local(f"1.2.{n}") for n in range(5)), to_local("1.2.9", source="ws"))
    works.ledger.add_sweeps([SweepDue(rule="r", source="pacs", due_at=works.clock.now())])
    with works.working():
        wait_for(works.ended, "all transfers")
        wait_for(lambda: not works.ledger.open_sweeps(), "the sweep")
    of_transfers = [(event, work) for event, work in works.told if isinstance(event, AttemptEnded | TransferEnded)]
    assert len({event.transfer for event, _ in of_transfers}) == 6
    for event, work in of_transfers:
        assert isinstance(work, Transfer)
        assert work.id == event.transfer
        assert event.study == works.pseudonyms.of(work.intent.study_instance_uid)
    (sweep,) = [work for event, work in works.told if isinstance(event, SweepEnded)]
    assert isinstance(sweep, SweepRecord)
    assert works.work == {}
