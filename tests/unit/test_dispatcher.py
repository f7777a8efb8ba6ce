"""The dispatcher: which work is begun, whose turn it is, and what holds it back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.appointment import Appointment
from router.domain.arriving import dues
from router.domain.condition import Condition
from router.domain.events import ArrivalLookEnded, AttemptEnded, Event, SweepEnded, TransferEnded
from router.domain.forward import Forward, Group
from router.domain.passing import PendingArrival
from router.domain.rule import Arrival, BreakerSettings, Move, Node, NodeLimits, Retry, Rule, RuleSet, WindowUse
from router.domain.sweep import SweepDue, SweepRecord, SweepReport, SweepState
from router.domain.transfer import Happening, Intent, NewTransfer, Route, State, Transfer
from router.domain.window import Window, parse_span
from router.engine.dispatcher import Dispatcher
from router.engine.gates import Gates, recall_moves
from router.engine.giving_back import AGAIN_SECONDS
from router.engine.leases import Work
from router.engine.probe import Prober
from router.engine.rollout import Rollout
from router.engine.slots import NodeSlots, Urgency
from router.errors import ConnectionFailed, LedgerError
from tests.support.engine import Bench, node
from tests.support.fake_peers import FakeClock
from tests.support.process import wait_for


class Works(Bench):
    """A bench whose dispatcher works by itself."""

    def __init__(self, directory: Path) -> None:
        self.work: dict[int, Transfer | SweepRecord | Appointment | PendingArrival] = {}
        """The piece of work that each thread is at."""
        self.told: list[tuple[Event, Transfer | SweepRecord | Appointment | PendingArrival | None]] = []
        super().__init__(directory)
        self.troubles: list[BaseException] = []
        self.dispatcher = Dispatcher(
            rules=lambda: self.rules,
            ledger=self.ledger,
            sweeper=self.sweeper,
            prefetcher=self.prefetcher,
            mover=self.mover,
            forwarder=self.forwarder,
            passer=self.passer,
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
    def correlate(self, claim: Transfer | SweepRecord | Appointment | PendingArrival) -> Iterator[None]:
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
        with self.dispatcher._claiming:  # else it may take the sweep itself
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


def test_what_is_claimed_late_in_a_slow_turn_is_claimed_for_as_long(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[float] = []
    claim, expire = works.ledger.claim_transfer, works.ledger.expire_leases

    def slow(now: datetime) -> int:
        works.clock.advance(70)
        return expire(now)

    def noting(sources: Sequence[str], now: datetime, *rest: Any, **more: Any) -> Transfer | None:
        claimed.append((works.clock.now() - now).total_seconds())
        return claim(sources, now, *rest, **more)

    monkeypatch.setattr(works.ledger, "expire_leases", slow)
    monkeypatch.setattr(works.ledger, "claim_transfer", noting)
    works.queue(*(to_local(f"1.2.{n}") for n in range(3)))
    with works.working():
        wait_for(works.ended, "all transfers")
    assert set(claimed) == {0.0}


def test_where_no_thread_is_left_a_claim_is_given_back_and_costs_nothing(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, failed = threading.Thread.start, threading.Event()

    def no_thread_left(thread: threading.Thread) -> None:
        if thread.name == "work" and not failed.is_set():
            failed.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_thread_left)
    works.queue(to_local("1.2.1"))
    with works.working():
        wait_for(lambda: [one.cause for one in works.ledger.transfers()] == ["not-begun"], "it to be given back")
        assert works.states() == {"1.2.1": State.QUEUED}
        wait_for(lambda: works.troubles, "the trouble to be told")
        works.clock.advance(AGAIN_SECONDS + 1)
        wait_for(works.ended, "the transfer")
        assert [type(one) for one in works.troubles] == [RuntimeError]
        works.troubles.clear()
    assert [(one.state, one.attempts) for one in works.ledger.transfers()] == [(State.COMPLETE, 1)]


def test_a_ledger_that_is_away_for_a_moment_costs_no_claim(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = Rollout.leaves

    def away(rollout: Rollout, claim: Work, rules: RuleSet) -> bool:
        monkeypatch.setattr(Rollout, "leaves", leaves)
        raise LedgerError("The ledger is away.")

    monkeypatch.setattr(Rollout, "leaves", away)
    works.queue(to_local("1.2.1"))
    with works.working():
        wait_for(works.ended, "the transfer")
    assert [(one.state, one.attempts) for one in works.ledger.transfers()] == [(State.COMPLETE, 1)]


def test_a_look_that_the_ledger_broke_off_is_given_back_with_all_that_is_known(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would look for a minute or two, else."""
    run = works.verifier.run

    def away(transfer: Transfer, cancelled: threading.Event) -> Transfer | None:
        monkeypatch.setattr(works.verifier, "run", run)
        raise LedgerError("The ledger is away.")

    monkeypatch.setattr(works.verifier, "run", away)
    works.queue(to_local("1.2.1"))
    with works.working():
        wait_for(lambda: works.troubles, "the trouble to be told")
        wait_for(
            lambda: (
                [(one.state, one.cause) for one in works.ledger.transfers()] == [(State.VERIFYING, "success")]
                and not works.dispatcher._held()
            ),
            "it to be given back",
        )
        works.clock.advance(31)
        wait_for(works.ended, "the transfer")
        assert [type(one) for one in works.troubles] == [LedgerError]
        works.troubles.clear()
    assert [(one.state, one.attempts) for one in works.ledger.transfers()] == [(State.COMPLETE, 1)]


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


# --- What is passed on from our own store ----------------------------------------------------------------------------


def passes_on(works: Works, *names: str, associations: int = 2) -> None:
    """Let the rule pass on what arrives to these nodes."""
    for name in names:
        works.rules = msgspec.structs.replace(works.rules, nodes=works.rules.nodes | {name: node(name)})
        works.node(name, limits=NodeLimits(associations=associations))
        works.peers.titles[name.upper()] = name
    rule = Rule(
        name="r",
        arrival=Arrival(),
        where=Condition(),
        move=Move(to=names, retry=Retry(attempts=2)),
        forward=Forward(to=tuple(Group(nodes=(name,)) for name in names)),
    )
    works.rules = msgspec.structs.replace(works.rules, rules={"r": rule})


def queue_forwards(works: Works, *pairs: tuple[int, str]) -> None:
    """Queue the study of a number, which has arrived, for a node."""
    for number, _ in pairs:
        works.shelf.arrives(f"1.7.{number}.1.1", at=works.clock.now())
    works.queue(*(Intent("local", f"1.7.{number}", "", name) for number, name in pairs))


def test_what_is_passed_on_fills_each_destination_no_more_than_it_allows(works: Works) -> None:
    passes_on(works, "a", "b")
    held = threading.Event()
    works.destinations.holds = {"a": held, "b": held}
    queue_forwards(works, *((number, "a" if number < 6 else "b") for number in range(12)))
    with works.working():
        wait_for(lambda: works.destinations.at_work == {"a": 2, "b": 2}, "as many as both take")
        held.set()
        wait_for(works.ended, "all transfers")
    assert set(works.states().values()) == {State.COMPLETE}
    assert works.destinations.most_at_work == {"a": 2, "b": 2}
    assert works.peers.requests == [], "nothing is moved"


def test_there_is_an_end_to_what_is_passed_on_at_a_time(works: Works) -> None:
    names = [f"n{number}" for number in range(20)]
    passes_on(works, *names)
    held = threading.Event()
    works.destinations.holds = dict.fromkeys(names, held)
    queue_forwards(works, *enumerate(names))
    with works.working():
        wait_for(lambda: works.destinations.at_work.total() == 16, "as many as there may be")
        assert len([one for one in works.ledger.transfers() if one.state is State.MOVING]) == 16
        held.set()
        wait_for(works.ended, "all transfers")


def test_a_dead_destination_takes_no_room_from_others_and_gets_its_own_when_it_is_back(works: Works) -> None:
    passes_on(works, "dead", "alive")
    dead = works.node("dead", breaker=BreakerSettings(failures=1, pause=0.2, maximum_pause=0.2))
    works.slots.heeds_breakers = True
    works.peers.down.add("dead")
    queue_forwards(works, *((number, "dead") for number in range(20)))
    with works.working():
        wait_for(lambda: works.slots.left_alone(dead), "the breaker")
        queue_forwards(works, *((number, "alive") for number in range(20, 24)))
        wait_for(lambda: all(works.states()[f"1.7.{number}"].value == "complete" for number in range(20, 24)), "these")
        assert {works.states()[f"1.7.{number}"] for number in range(20)} == {State.QUEUED}
        assert sum(one.attempts for one in works.ledger.transfers(destination="dead")) == 0
        works.peers.down.clear()
        wait_for(lambda: not works.slots.left_alone(dead), "a probe that gets through")
        works.clock.advance(60)
        wait_for(works.ended, "all transfers")
    assert set(works.states().values()) == {State.COMPLETE}


def test_what_waits_for_a_dead_destination_has_not_begun_and_can_be_withdrawn(works: Works) -> None:
    passes_on(works, "dead", "alive")
    dead = works.node("dead", breaker=BreakerSettings(failures=1, pause=1000, maximum_pause=1000))
    works.slots.heeds_breakers = True
    with pytest.raises(ConnectionFailed), works.slots.hold(dead, Urgency.VERIFY, works.never):
        raise ConnectionFailed
    queue_forwards(works, (1, "dead"))
    with works.working():
        queue_forwards(works, (2, "alive"))
        wait_for(lambda: works.states()["1.7.2"].value == "complete", "the other")
        [waiting] = works.ledger.transfers(destination="dead")
        assert (waiting.state, waiting.attempts, waiting.started_at) == (State.QUEUED, 0, None), "it has not begun"
        works.ledger.apply(waiting.id, Happening.CANCEL, works.clock.now())
        assert works.ended()


def test_a_closed_window_of_a_destination_holds_what_is_passed_on_until_it_opens(works: Works) -> None:
    passes_on(works, "a")
    works.node("a", windows=(WindowUse(window="night"),))
    night = Window.of("night", "UTC", parse_span("daily 22:00-06:00"))
    works.rules = msgspec.structs.replace(works.rules, windows={"night": night})
    works.slots._windows, works.slots._clock = lambda: works.rules.windows, works.clock
    queue_forwards(works, (1, "a"))
    gates = Gates(works.slots)
    assert gates.closed_routes(["local"], works.rules, []) == {Route("local", "a")}
    works.clock.advance(12 * 3600)
    with works.working():
        wait_for(works.ended, "the transfer")


def test_a_stopped_route_from_our_own_store_is_probed(works: Works) -> None:
    passes_on(works, "a")
    works.destinations.answers = {"1.7.1.1.1": 0x0124}
    queue_forwards(works, (1, "a"))
    with works.working():
        wait_for(works.ledger.stopped_routes, "the stop")
        works.destinations.answers = {}
        works.clock.advance(3600)
        wait_for(works.ended, "the transfer")
    assert works.states() == {"1.7.1": State.COMPLETE}
    assert works.ledger.stopped_routes() == []


def test_what_arrives_is_looked_at_and_passed_on_by_itself(works: Works) -> None:
    passes_on(works, "a")
    works.shelf.arrives("1.7.1.1.1", "1.7.1.1.2", at=works.clock.now())
    receipts = list(works.shelf.receipts.values())
    works.ledger.add_receipts(receipts, dues(receipts, works.rules))
    with works.working():
        works.clock.advance(61)
        wait_for(lambda: works.ledger.transfers() and works.ended(), "the transfer")
    assert works.states() == {"1.7.1": State.COMPLETE}
    assert sorted(one.sop_instance_uid for one in works.destinations.sent) == ["1.7.1.1.1", "1.7.1.1.2"]
    [look] = [(event, work) for event, work in works.told if isinstance(event, ArrivalLookEnded)]
    assert look[0].result == "passed_on"
    assert isinstance(look[1], PendingArrival)
    assert works.troubles == []
