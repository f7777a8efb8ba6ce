"""Boards read at most once a second, however many ask, and never keep anybody waiting for long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from router.boards import FRESH_SECONDS, STALE_SECONDS, Boards, Running
from router.domain.board_view import ServiceNow
from router.domain.events import NodeReachability
from router.domain.overview import BacklogRow, Overview
from router.domain.rule import BreakerSettings, NodeLimits, RuleSet
from router.domain.transfer import State
from router.engine.guard import Purpose
from router.engine.reachability import Reachability
from router.engine.scheduler import Scheduler
from router.engine.slots import NodeSlots, Urgency
from router.errors import ConnectionFailed, LedgerError
from router.ledger.ledger import SqlLedger
from tests.support.boards import PSEUDONYMS, rules, transfer
from tests.support.engine import Bench
from tests.support.fake_peers import FakeClock


class Seen:
    """A ledger that counts how often it is looked at, and does what it is told."""

    def __init__(self) -> None:
        self.read = 0
        self.happens: Callable[[], None] = lambda: None

    def overview(self, most_live: int, most_recent: int) -> Overview:
        self.read += 1
        count = self.read
        self.happens()
        rows = BacklogRow(source="archive", destination="ws", state=State.QUEUED, count=count, oldest_queued_at=None)
        return Overview(backlog=(rows,), live=(transfer(1),))


class Watch:
    """A monotonic clock that tests turn."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def watch() -> Watch:
    return Watch()


def boards_of(seen: Seen, watch: Watch, wait_seconds: float = 30.0) -> Boards:
    given = rules()
    return Boards(
        rules=lambda: given,
        ledger=seen,
        clock=FakeClock(),
        pseudonyms=PSEUDONYMS,
        monotonic=watch,
        wait_seconds=wait_seconds,
    )


def test_within_a_second_nobody_reads_again_whatever_he_may_see(seen: Seen, watch: Watch) -> None:
    boards = boards_of(seen, watch)
    masked, shown = boards.board(identifiers=False), boards.board(identifiers=True)
    assert boards.board(identifiers=False) is masked
    assert (masked.live[0].study_instance_uid, shown.live[0].study_instance_uid) == (None, "1.2.826.1")
    assert seen.read == 1
    watch.time += FRESH_SECONDS
    assert boards.board(identifiers=False).queues[0].queued == 2


def test_who_comes_while_it_is_read_gets_what_is_read(seen: Seen, watch: Watch) -> None:
    boards, arrived, go_on = boards_of(seen, watch), threading.Event(), threading.Event()

    def slow() -> None:
        arrived.set()
        assert go_on.wait(60)

    seen.happens = slow
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(boards.board, identifiers=False)
        assert arrived.wait(60)
        others = [pool.submit(boards.board, identifiers=False) for _ in range(19)]
        go_on.set()
        assert {id(one.result(60)) for one in others} == {id(first.result(60))}
    assert seen.read == 1


def test_who_has_waited_long_enough_gets_the_one_before(seen: Seen, watch: Watch) -> None:
    boards, arrived, go_on = boards_of(seen, watch, wait_seconds=0.05), threading.Event(), threading.Event()

    def hang() -> None:
        arrived.set()
        assert go_on.wait(60)

    before = boards.board(identifiers=False)
    watch.time += 2
    seen.happens = hang
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(boards.board, identifiers=False)
        assert arrived.wait(60)
        assert boards.board(identifiers=False) is before
        watch.time += STALE_SECONDS
        with pytest.raises(LedgerError, match="does not answer in time"):
            boards.board(identifiers=False)
        go_on.set()
        assert reading.result(60).queues[0].queued == 2


def test_a_ledger_that_fails_is_told_of_and_asked_again_a_second_later(seen: Seen, watch: Watch) -> None:
    boards = boards_of(seen, watch)

    def fail() -> None:
        raise LedgerError("The ledger is locked.")

    seen.happens = fail
    for _ in range(3):
        with pytest.raises(LedgerError, match="is locked"):
            boards.board(identifiers=False)
    assert seen.read == 1
    watch.time += FRESH_SECONDS
    seen.happens = lambda: None
    assert boards.board(identifiers=False).queues[0].queued == 2


def test_a_defect_while_reading_leaves_the_next_one_able_to_read(seen: Seen, watch: Watch) -> None:
    boards = boards_of(seen, watch)

    def break_down() -> None:
        raise ZeroDivisionError

    seen.happens = break_down
    with pytest.raises(ZeroDivisionError):
        boards.board(identifiers=False)
    watch.time += FRESH_SECONDS
    seen.happens = lambda: None
    assert boards.board(identifiers=False).queues[0].queued == 2


def test_a_whole_board_of_an_engine_that_worked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.peers.holdings["pacs"] = {"1.2.3": {"1.2.3.1": {"1.2.3.1.1", "1.2.3.1.2"}}}
    bench.sweep()
    running = Boards(rules=lambda: bench.rules, ledger=bench.ledger, clock=bench.clock, pseudonyms=PSEUDONYMS)
    before = running.board(identifiers=True)
    assert [(one.source, one.destination, one.queued) for one in before.queues] == [("pacs", "local", 1)]
    assert before.rules[0].last is not None
    assert (before.rules[0].last.state, before.rules[0].last.selected) == ("complete", 1)
    bench.finish()
    after = Boards(rules=lambda: bench.rules, ledger=bench.ledger, clock=bench.clock, pseudonyms=PSEUDONYMS)
    (done,) = after.board(identifiers=True).activity
    assert (done.study_instance_uid, done.verdict, done.actions) == ("1.2.3", "complete", ("retry",))
    assert not after.board(identifiers=True).served


class Service:
    """What a running service consists of, so far as a board asks it."""

    def __init__(self, given: RuleSet) -> None:
        self.rules = given
        self.clock, self.watch, self.reached = FakeClock(), Watch(), Reachability()
        self.slots = NodeSlots(monotonic=self.watch)
        self.slots.heeds_breakers = True
        self.ledger = SqlLedger.in_memory()
        self.scheduler = Scheduler(
            ledger=self.ledger,
            clock=self.clock,
            observer=lambda event: None,
            trouble=lambda where, error: None,
            wake=lambda: None,
        )
        self.running = Running(
            slots=self.slots,
            scheduler=self.scheduler,
            reachability=self.reached,
            readiness=lambda: {"disk": "full"},
            clock=self.clock,
            monotonic=self.watch,
        )

    def now(self) -> ServiceNow:
        return self.running(self.rules)


def test_what_a_running_service_knows_of_its_nodes() -> None:
    given = rules()
    archive = msgspec.structs.replace(
        given.nodes["archive"],
        breaker=BreakerSettings(failures=1, pause=30.0),
        limits=NodeLimits(associations=2, moves_per_hour=1),
    )
    service = Service(msgspec.structs.replace(given, nodes={**given.nodes, "archive": archive}))
    never = threading.Event()
    with service.slots.hold(archive, Urgency.MOVE, never, purpose=Purpose.MOVE):
        inside = service.now().nodes["archive"]
    assert (inside.up, inside.associations, inside.associations_allowed, inside.moves_left) == (None, 1, 2, False)
    service.reached(NodeReachability(node="archive", up=False))
    with pytest.raises(ConnectionFailed), service.slots.hold(archive, Urgency.SWEEP, never):
        raise ConnectionFailed("It is gone.", "connection-refused")
    now = service.now()
    alone = now.nodes["archive"]
    assert (alone.up, alone.left_alone, alone.probe_at) == (False, True, service.clock.now() + timedelta(seconds=30))
    assert (now.nodes["ws"].up, now.nodes["ws"].left_alone, now.nodes["ws"].probe_at) == (None, False, None)
    assert now.problems == {"disk": "full"}


def test_the_last_exchange_with_a_node_counts_until_the_node_is_gone() -> None:
    service = Service(rules())
    for up in (False, True):
        service.reached(NodeReachability(node="ws", up=up))
    assert service.now().nodes["ws"].up is True
    service.rules = rules(nodes=("archive",))
    service.now()
    service.rules = rules()
    assert service.now().nodes["ws"].up is None
