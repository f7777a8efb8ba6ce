"""Passing on what arrived: an attempt against a fake destination, a real ledger, each step taken by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from pathlib import Path

import msgspec
import pytest

from router.domain.arriving import ArrivalDue, taken
from router.domain.condition import Condition, Evaluation
from router.domain.forward import Forward, Group, Syntax
from router.domain.forwarding import decide
from router.domain.passing import ArrivalReport
from router.domain.rule import LOCAL, Arrival, BreakerSettings, Move, Retry, Rule
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Happening, Instance, Intent, NewTransfer, Route, State, Transfer
from router.domain.triggers import Unit
from router.engine.mover import LEASE_SECONDS
from router.errors import LedgerError
from tests.support.engine import Bench
from tests.support.passing import EXPLICIT, JPEG

STUDY, SERIES = "2.1", "2.1.1"


class Passing(Bench):
    """A bench whose rule passes on what arrived to `ws`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.passes_on()

    def passes_on(self, syntax: Syntax = Syntax.KEEP, verify: str = "auto", attempts: int = 3) -> None:
        rule = Rule(
            name="r",
            arrival=Arrival(),
            where=Condition(),
            move=Move(to=("ws",), verify=verify, retry=Retry(attempts=attempts)),
            forward=Forward(to=(Group(nodes=("ws",)),), transfer_syntax=syntax),
        )
        self.rules = msgspec.structs.replace(self.rules, rules={"r": rule})

    # what is done by hand

    def arrives(self, *numbers: int, syntax: str = EXPLICIT) -> None:
        self.shelf.arrives(*(f"{SERIES}.{number}" for number in numbers), at=self.clock.now(), syntax=syntax)

    def queue(self, happening: Happening | None = None) -> None:
        self.clock.advance(60)
        now = self.clock.now()
        self.ledger.add_sweeps([SweepDue(rule="r", source=LOCAL, due_at=now)])
        claim = self.ledger.claim_sweep([LOCAL], now, LEASE_SECONDS)
        assert claim is not None
        new = NewTransfer(
            intent=Intent(LOCAL, STUDY, "", "ws"),
            rule="r",
            priority=1,
            instance_count=len(self.shelf.receipts),
            happening=happening,
        )
        self.ledger.finish_sweep(claim, SweepReport(state=SweepState.COMPLETE), [new], [], now)

    def step(self) -> Transfer | None:
        now = self.clock.now()
        transfer = self.ledger.claim_verification(["ws"], now, LEASE_SECONDS)
        if transfer is not None:
            return self.verifier.run(transfer, self.never)
        self.stopped.look(self.rules, now)
        probe = self.stopped.claim_probe([LOCAL], self.rules, now, LEASE_SECONDS, ())
        transfer = probe or self.ledger.claim_transfer([LOCAL], now, LEASE_SECONDS)
        return self.forwarder.run(transfer, self.never) if transfer is not None else None

    def ends(self) -> Transfer:
        [transfer] = self.finish()
        return transfer

    @property
    def sent(self) -> list[str]:
        return [one.sop_instance_uid.removeprefix(f"{SERIES}.") for one in self.destinations.sent]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Passing]:
    bench = Passing(tmp_path)
    yield bench
    bench.ledger.close()


def test_what_arrived_is_sent_and_proven(bench: Passing) -> None:
    bench.arrives(1, 2, 3)
    bench.queue()
    ended = bench.ends()
    assert (ended.state, ended.completed, ended.expected, ended.attempts) == (State.COMPLETE, 3, 3, 1)
    assert bench.sent == ["1", "2", "3"]


def test_a_ledger_that_is_away_before_anything_was_sent_is_said_and_tried_again(
    bench: Passing, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_expected = bench.ledger.set_expected

    def away(transfer: Transfer, instances: Sequence[Instance]) -> None:
        monkeypatch.setattr(bench.ledger, "set_expected", set_expected)
        raise LedgerError("The ledger is away.")

    monkeypatch.setattr(bench.ledger, "set_expected", away)
    bench.arrives(1)
    bench.queue()
    waiting = bench.step()
    assert waiting is not None
    assert (waiting.state, waiting.cause, waiting.attempts) == (State.QUEUED, "ledger", 0)
    assert bench.sent == []
    assert bench.ends().state is State.COMPLETE


def test_what_comes_later_is_sent_later_and_that_alone(bench: Passing) -> None:
    bench.arrives(1, 2)
    bench.queue()
    bench.ends()
    bench.arrives(3)
    bench.queue(Happening.GREW)
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.COMPLETE, 3)
    assert bench.sent == ["1", "2", "3"]


def test_one_instance_that_is_refused_for_good_holds_up_no_other(bench: Passing) -> None:
    bench.destinations.answers = {f"{SERIES}.2": 0xC123}
    bench.arrives(1, 2, 3)
    bench.queue()
    ended = bench.ends()
    assert (ended.state, ended.completed, ended.failed) == (State.PARTIAL, 2, 1)
    assert bench.sent == ["1", "2", "3"], "it is not tried again"
    assert [(one.sop_instance_uid, one.lasting) for one in bench.shelf.fates] == [(f"{SERIES}.2", True)]
    assert "2 of 3 instances. 1 not: it cannot understand the data set (Cxxx)." in ended.reason
    assert bench.counted() == 2


def test_a_node_that_is_full_gets_the_rest_later(bench: Passing) -> None:
    bench.destinations.answers = {f"{SERIES}.2": 0xA700}
    bench.arrives(1, 2, 3)
    bench.queue()
    bench.step()
    bench.destinations.answers = {}
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.COMPLETE, 3)
    assert bench.sent == ["1", "2", "3", "2"]


def test_a_node_that_is_down_gets_it_once_it_is_up_and_no_attempt_is_lost_on_the_route(bench: Passing) -> None:
    bench.peers.down.add("ws")
    bench.arrives(1)
    bench.queue()
    tried = bench.step()
    assert tried is not None
    assert (tried.state, tried.cause) == (State.QUEUED, "connection-refused")
    assert bench.ledger.stopped_routes() == []
    bench.peers.down.clear()
    assert bench.ends().state is State.COMPLETE


def test_what_broke_off_is_gone_on_with_where_it_broke_off(bench: Passing) -> None:
    bench.destinations.breaks_after = 2
    bench.arrives(1, 2, 3, 4)
    bench.queue()
    bench.step()
    bench.destinations.breaks_after = None
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.COMPLETE, 4)
    assert bench.sent == ["1", "2", "3", "4"]


def test_a_node_that_allows_nothing_stops_the_route_and_nothing_is_given_up(bench: Passing) -> None:
    bench.arrives(1, 2)
    bench.destinations.answers = dict.fromkeys(bench.shelf.receipts, 0x0124)
    bench.queue()
    ended = bench.step()
    assert ended is not None
    assert (ended.state, ended.attempts) == (State.QUEUED, 0)
    [stopped] = bench.ledger.stopped_routes()
    assert stopped.cause == "store-not-authorised"


def test_what_no_instance_of_can_be_taken_fails_with_the_reason(bench: Passing) -> None:
    bench.destinations.takes = {EXPLICIT}
    bench.arrives(1, 2, syntax=JPEG)
    bench.queue()
    ended = bench.ends()
    assert (ended.state, ended.cause, ended.attempts) == (State.FAILED, "store-syntax-refused", 1)
    assert "2 not: it does not take the transfer syntax" in ended.reason
    assert len(bench.shelf.fates) == 2
    assert all(one.lasting for one in bench.shelf.fates)


def test_what_is_not_taken_as_it_came_is_decompressed_where_the_rule_says_so(bench: Passing) -> None:
    bench.passes_on(Syntax.EXPLICIT)
    bench.destinations.takes = {EXPLICIT}
    bench.arrives(1)
    bench.arrives(2, 3, syntax=JPEG)
    bench.shelf.broken = {f"{SERIES}.3"}
    bench.queue()
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.PARTIAL, 2)
    assert sorted(bench.sent) == ["1", "2"]
    assert bench.shelf.released == [f"temporary/{SERIES}.2"]
    assert [one.words for one in bench.shelf.fates] == [
        "it does not take the transfer syntax, and it could not be decompressed here"
    ]


def test_what_cannot_be_decompressed_now_is_tried_again(bench: Passing) -> None:
    bench.passes_on(Syntax.EXPLICIT)
    bench.destinations.takes = {EXPLICIT}
    bench.arrives(1)
    bench.arrives(2, syntax=JPEG)
    bench.shelf.not_now = {f"{SERIES}.2"}
    bench.queue()
    first = bench.step()
    assert first is not None
    assert (first.state, first.cause) == (State.VERIFYING, "store-not-prepared")
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.COMPLETE, 2)
    assert bench.sent == ["1", "2"]


def test_where_nobody_can_be_asked_its_answers_are_believed(bench: Passing) -> None:
    bench.passes_on(verify="none")
    bench.arrives(1, 2)
    bench.queue()
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.UNPROVEN, 2)
    bench.arrives(3)
    bench.queue(Happening.GREW)
    assert bench.ends().state is State.UNPROVEN
    assert bench.sent == ["1", "2", "3"], "what was acknowledged is not sent again"


def test_what_is_gone_from_the_store_is_nothing(bench: Passing) -> None:
    bench.queue()
    assert bench.ends().state is State.NOTHING


def test_what_is_cancelled_goes_on_when_the_router_is_back(bench: Passing) -> None:
    bench.arrives(1, 2)
    bench.queue()
    bench.never.set()
    interrupted = bench.step()
    assert interrupted is not None
    assert (interrupted.state, interrupted.attempts) == (State.QUEUED, 0)
    bench.never.clear()
    assert bench.ends().state is State.COMPLETE


def test_a_rule_or_node_that_is_gone_says_so(bench: Passing) -> None:
    bench.arrives(1)
    bench.queue()
    bench.rules = msgspec.structs.replace(bench.rules, rules={})
    ended = bench.step()
    assert ended is not None
    assert (ended.state, ended.cause) == (State.FAILED, "rule-removed")


def test_a_transfer_that_two_rules_share_outlives_the_first(bench: Passing) -> None:
    first = bench.rules.rules["r"]
    others = {name: msgspec.structs.replace(first, name=name) for name in ("s", "t")}
    bench.arrives(1)
    bench.queue()
    now = bench.clock.now()
    bench.ledger.note_arrivals([ArrivalDue("t", STUDY, now)], now)
    pending = bench.ledger.claim_arrival(now, LEASE_SECONDS)
    assert pending is not None
    takes = taken(first.where, Unit.STUDY, list(bench.shelf.receipts.values()), {}, Evaluation(now, UTC))
    known = bench.ledger.known_of(STUDY)
    passages = decide(rule=others["t"], consignments=takes.consignments, known=known, health={}, studies={}, callers={})
    assert bench.ledger.finish_arrival(pending, ArrivalReport(), passages, now)
    bench.rules = msgspec.structs.replace(bench.rules, rules=others)
    assert bench.ends().state is State.COMPLETE


def test_an_instance_at_which_a_node_breaks_off_holds_up_no_other(bench: Passing) -> None:
    bench.destinations.breaks_at = f"{SERIES}.3"
    bench.arrives(*range(1, 6))
    bench.queue()
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.PARTIAL, 4), ended.reason
    assert sorted(bench.sent) == ["1", "2", "4", "5"]


def test_a_stopped_route_is_probed_as_the_destination_says_and_flows_again(bench: Passing) -> None:
    bench.arrives(1, 2)
    bench.destinations.answers = dict.fromkeys(bench.shelf.receipts, 0x0124)
    bench.queue()
    bench.step()
    [stopped] = bench.ledger.stopped_routes()
    assert stopped.route == Route(LOCAL, "ws")
    assert stopped.probe_at > bench.clock.now()
    assert bench.step() is None, "nothing is claimed on it"
    bench.destinations.answers = {}
    bench.clock.advance((stopped.probe_at - bench.clock.now()).total_seconds() + 1)
    assert bench.ends().state is State.COMPLETE
    assert bench.ledger.stopped_routes() == []


def test_what_is_lacking_there_in_the_end_is_sent_again_by_c_store(bench: Passing) -> None:
    bench.destinations.loses = True
    bench.arrives(1, 2)
    bench.queue()
    bench.step()
    bench.destinations.loses = False
    ended = bench.ends()
    assert (ended.state, ended.completed, ended.rounds) == (State.COMPLETE, 2, 1)
    assert sorted(bench.sent) == ["1", "1", "2", "2"]
    assert bench.peers.requests == [], "never as a C-MOVE"


def test_what_is_acknowledged_and_never_there_is_contradicted_by_who_acknowledged_it(bench: Passing) -> None:
    bench.destinations.loses = True
    bench.arrives(1, 2)
    bench.queue()
    ended = bench.ends()
    assert ended.state is State.CONTRADICTED
    assert ended.reason.startswith("The destination acknowledged what was sent, but the destination holds 0 of 2")


def test_an_attempt_that_gets_on_costs_none_and_one_that_does_not_does(bench: Passing) -> None:
    bench.destinations.breaks_after = 1
    bench.arrives(*range(1, 10))
    bench.queue()
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.COMPLETE, 9), "nine times one, with three attempts"
    assert bench.sent == [str(number) for number in range(1, 10)]


def test_what_breaks_off_and_gets_nowhere_comes_to_an_end(bench: Passing) -> None:
    bench.destinations.breaks_after = 1
    bench.destinations.loses = True
    bench.arrives(1, 2, 3)
    bench.queue()
    ended = bench.ends()
    assert ended.state is State.FAILED
    assert len(bench.sent) <= 6


def test_a_service_waits_for_a_node_that_is_away_however_long(bench: Passing) -> None:
    node = msgspec.structs.replace(bench.rules.nodes["ws"], breaker=BreakerSettings(failures=1000))
    bench.rules = msgspec.structs.replace(bench.rules, nodes={"ws": node})
    bench.slots.heeds_breakers = True
    bench.peers.down.add("ws")
    bench.arrives(1)
    bench.queue()
    for _ in range(20):
        tried = bench.step()
        assert tried is not None
        assert (tried.state, tried.attempts) == (State.QUEUED, 0)
        bench.clock.advance(2)
    bench.peers.down.clear()
    assert bench.ends().state is State.COMPLETE


def test_no_more_than_a_few_decompressed_files_exist_at_a_time(bench: Passing) -> None:
    bench.passes_on(Syntax.EXPLICIT)
    bench.destinations.takes = {EXPLICIT}
    bench.arrives(*range(1, 12), syntax=JPEG)
    bench.queue()
    assert bench.ends().state is State.COMPLETE
    assert bench.destinations.portions[0] == 11
    assert sum(bench.destinations.portions[1:]) == 11
    assert max(bench.destinations.portions[1:]) <= 4
    assert len(bench.shelf.released) == 11


def test_reasons_of_before_are_forgotten_with_the_attempt_that_succeeds(bench: Passing) -> None:
    bench.destinations.answers = {f"{SERIES}.1": 0xA700}
    bench.arrives(1, 2)
    bench.queue()
    bench.step()
    assert [one.lasting for one in bench.shelf.fates] == [False]
    bench.destinations.answers = {}
    assert bench.ends().state is State.COMPLETE
    assert bench.shelf.fates == []


def test_some_that_are_refused_where_nobody_can_be_asked_make_it_partial_with_the_reasons(bench: Passing) -> None:
    bench.passes_on(verify="none")
    bench.destinations.answers = {f"{SERIES}.2": 0xC123}
    bench.arrives(1, 2, 3)
    bench.queue()
    ended = bench.ends()
    assert (ended.state, ended.completed, ended.failed, ended.attempts) == (State.PARTIAL, 2, 1, 1)
    assert "2 of 3 instances. 1 not: it cannot understand the data set (Cxxx)." in ended.reason


# --- instances of other replicas --------------------------------------------------------------------------------------


def _with_some_away(bench: Passing) -> None:
    bench.arrives(1, 2)
    bench.shelf.arrives(f"{SERIES}.3", at=bench.clock.now(), store="other")
    bench.shelf.away_stores, bench.shelf.why_away = {"other"}, "The replica b does not run."


def test_what_another_replica_holds_waits_for_it_and_the_rest_is_sent(bench: Passing) -> None:
    _with_some_away(bench)
    bench.queue()
    waiting = bench.step()
    assert waiting is not None
    assert (waiting.state, waiting.cause, waiting.reason) == (
        State.QUEUED,
        "replica-away",
        "The replica b does not run.",
    )
    assert bench.sent == ["1", "2"]
    assert waiting.attempts == 0, "waiting costs none"
    bench.shelf.away_stores = set()
    ended = bench.ends()
    assert (ended.state, ended.completed) == (State.COMPLETE, 3)
    assert bench.sent == ["1", "2", "3"], "each once"


def test_while_it_waits_nothing_is_sent_again_and_nobody_is_asked(bench: Passing) -> None:
    bench.destinations.answers = {f"{SERIES}.2": 0xC123}
    _with_some_away(bench)
    bench.queue()
    bench.step()
    sent = list(bench.sent)
    for _ in range(5):
        bench.clock.advance(60)
        waiting = bench.step()
        assert waiting is not None
        assert (waiting.state, waiting.cause) == (State.QUEUED, "replica-away")
    assert bench.sent == sent
    bench.shelf.away_stores = set()
    ended = bench.ends()
    assert (ended.state, ended.completed, ended.failed) == (State.PARTIAL, 2, 1)


def _resting(bench: Passing, *, looks: int = 3) -> None:
    """Nothing is sent, whatever time passes."""
    sent = list(bench.sent)
    for _ in range(looks):
        bench.clock.advance(60)
        waiting = bench.step()
        assert waiting is not None
        assert (waiting.state, waiting.cause) == (State.QUEUED, "replica-away")
    assert bench.sent == sent


@pytest.mark.parametrize("breaks_after", [0, 1])
def test_what_can_be_had_goes_on_after_a_break_before_the_rest_is_waited_for(bench: Passing, breaks_after: int) -> None:
    _with_some_away(bench)
    bench.arrives(4, 5)
    bench.destinations.breaks_after = breaks_after
    bench.queue()
    broken = bench.step()
    assert broken is not None
    assert broken.state is State.QUEUED
    assert broken.cause != "replica-away"
    assert len(bench.sent) == breaks_after
    bench.destinations.breaks_after = None
    bench.clock.advance(3600)
    waiting = bench.step()
    assert waiting is not None
    assert (waiting.state, waiting.cause) == (State.QUEUED, "replica-away")
    assert sorted(bench.sent) == ["1", "2", "4", "5"]
    _resting(bench)
    bench.shelf.away_stores = set()
    assert bench.ends().state is State.COMPLETE
    assert sorted(bench.sent) == ["1", "2", "3", "4", "5"], "each once"


def test_a_node_that_breaks_off_again_and_again_is_left_alone_until_the_replica_is_back(bench: Passing) -> None:
    _with_some_away(bench)
    bench.destinations.breaks_after = 0
    bench.queue()
    causes = []
    for _ in range(3):
        tried = bench.step()
        assert tried is not None
        causes.append(tried.cause)
        bench.clock.advance(3600)
    assert [cause == "replica-away" for cause in causes] == [False, False, True], "it has three attempts"
    bench.destinations.breaks_after = None
    _resting(bench)
    bench.shelf.away_stores = set()
    assert bench.ends().state is State.COMPLETE


def test_of_several_replicas_what_one_has_is_sent_when_that_is_back(bench: Passing) -> None:
    _with_some_away(bench)
    bench.shelf.arrives(f"{SERIES}.4", at=bench.clock.now(), store="third")
    bench.shelf.away_stores = {"other", "third"}
    bench.queue()
    waiting = bench.step()
    assert waiting is not None
    lacking = [one.sop_instance_uid for one in bench.ledger.missing_instances(waiting.id)]
    assert lacking == [f"{SERIES}.3", f"{SERIES}.4"]
    _resting(bench)
    bench.shelf.away_stores = {"other"}
    bench.clock.advance(60)
    bench.step()
    assert bench.sent == ["1", "2", "4"]
    _resting(bench)
    bench.shelf.away_stores = set()
    assert bench.ends().state is State.COMPLETE
    assert bench.sent == ["1", "2", "4", "3"]
    assert bench.ledger.missing_instances(waiting.id) == []


def test_what_comes_while_it_waits_is_sent_at_once(bench: Passing) -> None:
    _with_some_away(bench)
    bench.queue()
    bench.step()
    bench.arrives(4)
    bench.queue(Happening.GREW)
    bench.clock.advance(60)
    waiting = bench.step()
    assert waiting is not None
    assert waiting.cause == "replica-away"
    assert bench.sent == ["1", "2", "4"]
    _resting(bench)
