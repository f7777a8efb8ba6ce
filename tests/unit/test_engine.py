"""The engine against fake peers and a real ledger: sweeps, moves, verdicts, repair, growth. No network, no waiting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from router.domain.dicom import Identifier, QueryRetrieveLevel, SubOperationCounts
from router.domain.events import SweepEnded
from router.domain.route import StoppedRoute
from router.domain.rule import Node, Retry
from router.domain.sweep import SweepState
from router.domain.transfer import Happening, Instance, Route, State, Transfer
from router.engine.mover import LEASE_SECONDS
from router.engine.ports import FindResult, MoveRequest, MoveResult
from router.engine.slots import Urgency
from router.errors import Cancelled, ConnectionFailed, LedgerError
from tests.support.engine import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", "1.1.1.2")
    bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1")
    yield bench
    bench.ledger.close()


def test_a_study_is_moved_and_proven(bench: Bench) -> None:
    report = bench.sweep()
    (transfer,) = bench.finish()
    assert (report.state, report.matches, report.selected) == (SweepState.COMPLETE, 1, 1)
    assert (transfer.state, transfer.expected, transfer.completed, transfer.attempts) == (State.COMPLETE, 3, 3, 1)
    assert bench.counted() == 3
    ((_, request),) = bench.peers.requests
    assert (request.level, request.destination_ae_title) == ("STUDY", "ROUTER")


def test_nothing_is_moved_twice(bench: Bench) -> None:
    bench.sweep()
    bench.finish()
    assert bench.sweep(manual=True).selected == 0
    bench.finish()
    assert len(bench.peers.requests) == 1


@pytest.mark.parametrize("destination", ["local", "ws"])
@pytest.mark.parametrize("mute", [False, True])
def test_growth_moves_the_difference_only(bench: Bench, destination: str, mute: bool) -> None:
    bench.to(destination)
    if mute:
        bench.peers.mute.add("ws")
    bench.sweep()
    bench.finish()
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.3")
    bench.clock.advance(100)
    assert bench.sweep().selected == 1
    (transfer,) = bench.finish()
    assert transfer.state is (State.UNPROVEN if destination == "ws" and mute else State.COMPLETE)
    assert bench.peers.requests[1][1].sop_instance_uids == ("1.1.1.3",)
    assert bench.counted() == 4


def test_a_destination_that_holds_it_already_gets_nothing(bench: Bench) -> None:
    bench.to("ws")
    bench.peers.holdings["ws"]["1.1"] = {k: set(v) for k, v in bench.peers.holdings["pacs"]["1.1"].items()}
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.cause) == (State.COMPLETE, "already-present")
    assert bench.peers.requests == []


def test_without_skip_present_it_is_moved_all_the_same(bench: Bench) -> None:
    bench.to("ws", skip_present=False)
    bench.peers.holdings["ws"]["1.1"] = {k: set(v) for k, v in bench.peers.holdings["pacs"]["1.1"].items()}
    bench.sweep()
    bench.finish()
    assert len(bench.peers.requests) == 1


def test_a_silent_partial_is_repaired_at_the_gap(bench: Bench) -> None:
    """The PACS says Success for all, the last instance did not come the first time."""
    bench.peers.deliver = lambda wanted: wanted[:-1] if len(wanted) == 3 else wanted
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0, counts=SubOperationCounts(None, wanted, 0, 0))
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed, transfer.rounds) == (State.COMPLETE, 3, 1)
    assert bench.peers.requests[1][1].series_instance_uids == ("1.1.2",)


def test_forever_half_with_success_is_contradicted(bench: Bench) -> None:
    bench.peers.deliver = lambda wanted: [w for w in wanted if w[0] == "1.1.1"]
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0, counts=SubOperationCounts(None, wanted, 0, 0))
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed, transfer.expected) == (State.CONTRADICTED, 2, 3)
    assert len(bench.peers.requests) == 3, "two repairs, then the truth"
    assert bench.counted() == 2, "whatever the source counts"


def test_forever_half_with_a_warning_is_partial(bench: Bench) -> None:
    bench.peers.deliver = lambda wanted: [w for w in wanted if w[0] == "1.1.1"]
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed) == (State.PARTIAL, 2)


def test_success_with_nothing_is_asked_again_and_never_complete(bench: Bench) -> None:
    bench.to("local", retry=Retry(attempts=3))
    bench.peers.deliver = lambda wanted: []
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0, counts=SubOperationCounts(None, 0, 0, 0))
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.CONTRADICTED
    assert len(bench.peers.requests) == 3


def test_images_there_although_the_source_failed_is_complete(bench: Bench) -> None:
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0xA702, counts=SubOperationCounts())
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.status) == (State.COMPLETE, 0xA702)
    assert len(bench.peers.requests) == 1


def test_a_source_that_is_down_fails_the_sweep_in_one_sentence(bench: Bench) -> None:
    bench.peers.down.add("pacs")
    report = bench.sweep()
    assert (report.state, report.cause) == (SweepState.FAILED, "unreachable")
    assert "pacs refused the connection" in report.reason
    assert [e.result for e in bench.events if isinstance(e, SweepEnded)] == ["failed"]


def test_a_source_that_goes_down_uses_up_the_retry_budget_then_fails(bench: Bench) -> None:
    bench.to("local", retry=Retry(attempts=3))
    bench.sweep()
    bench.peers.down.add("pacs")
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.cause, transfer.attempts) == (State.FAILED, "unreachable", 3)


def leave_alone(bench: Bench, name: str) -> None:
    """The node has given no answer, as often as it takes."""
    bench.slots.heeds_breakers = True
    node = bench.rules.nodes[name]
    for _ in range(node.breaker.failures):
        with suppress(ConnectionFailed), bench.slots.hold(node, Urgency.VERIFY, bench.never):
            raise ConnectionFailed


def test_a_source_that_is_left_alone_costs_no_attempt(bench: Bench) -> None:
    bench.to("local", retry=Retry(attempts=1))
    bench.sweep()
    leave_alone(bench, "pacs")
    asked = len(bench.peers.finds)
    for _ in range(3):
        transfer = bench.step()
        assert transfer is not None
        assert (transfer.state, transfer.cause, transfer.attempts) == (State.QUEUED, "left-alone", 0)
        bench.clock.advance(2)
    assert len(bench.peers.finds) == asked, "nobody has touched it"
    bench.slots.adopt({})
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.attempts) == (State.COMPLETE, 1)


def test_a_destination_that_is_left_alone_is_looked_at_later(bench: Bench) -> None:
    bench.to("ws")
    bench.sweep()
    leave_alone(bench, "ws")
    moved = bench.step()
    assert moved is not None
    assert moved.state is State.VERIFYING, "the source may reach it"
    looked = bench.step()
    assert looked is not None
    assert (looked.state, looked.looks) == (State.VERIFYING, 1)
    assert "left alone" in looked.reason
    assert "ws" not in {name for name, _, _ in bench.peers.finds}
    bench.slots.adopt({})
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE


def test_what_failed_is_asked_again_by_a_person_only(bench: Bench) -> None:
    bench.to("local", retry=Retry(attempts=1))
    bench.sweep()
    bench.peers.down.add("pacs")
    bench.finish()
    bench.peers.down.clear()
    assert bench.sweep().selected == 0
    assert bench.sweep(manual=True).selected == 1
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE


def test_a_crash_in_the_middle_is_verified_before_anything_is_moved(bench: Bench) -> None:
    bench.sweep()
    claim = bench.ledger.claim_transfer(["pacs"], bench.clock.now(), LEASE_SECONDS)
    assert claim is not None
    bench.clock.advance(LEASE_SECONDS + 1)
    assert bench.ledger.expire_leases(bench.clock.now()) == 1
    assert bench.ledger.transfers()[0].state is State.VERIFYING
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert bench.mover.run(claim, bench.never) is None, "the old claim changes nothing"
    assert [t.state for t in bench.ledger.transfers()] == [State.COMPLETE]


def test_a_count_the_source_does_not_give_is_counted(bench: Bench) -> None:
    bench.peers.report_counts = False
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.instance_count, transfer.state) == (3, State.COMPLETE)


def test_a_study_that_vanished_is_nothing(bench: Bench) -> None:
    bench.sweep()
    del bench.peers.holdings["pacs"]["1.1"]
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.expected) == (State.NOTHING, 0)
    assert bench.peers.requests == []


def test_a_source_that_lists_no_instances_is_believed_its_count(bench: Bench) -> None:
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, *arguments: Any, **named: Any) -> FindResult:
        if level is QueryRetrieveLevel.IMAGE:
            return FindResult(identifiers=[], status=0)
        return honest(node, level, *arguments, **named)

    bench.peers.find = find  # type: ignore[method-assign]
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.expected, transfer.completed) == (State.COMPLETE, 3, 3)


def test_a_destination_that_cannot_be_asked_is_unproven(bench: Bench) -> None:
    bench.to("ws")
    bench.peers.mute.add("ws")
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.status) == (State.UNPROVEN, 0)
    assert "ws answers no query" in transfer.reason


def test_objects_of_its_own_at_the_destination_prove_nothing(bench: Bench) -> None:
    bench.to("ws")
    bench.peers.holdings["ws"]["1.1"] = {"9.9": {"9.9.1", "9.9.2", "9.9.3", "9.9.4"}}
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert len(bench.peers.requests) == 1, "it was moved, though as many instances were there before"
    assert bench.peers.holdings["ws"]["1.1"]["1.1.2"] == {"1.1.2.1"}


def test_receipts_whose_files_are_gone_prove_nothing(bench: Bench) -> None:
    bench.sweep()
    (transfer,) = bench.finish()
    bench.lost_files = {"1.1.1.1"}
    bench.ledger.apply(transfer.id, Happening.AGAIN, bench.clock.now())
    bench.peers.deliver = lambda wanted: bench.lost_files.clear() or wanted  # type: ignore[func-returns-value]
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert bench.peers.requests[1][1].sop_instance_uids == ("1.1.1.1",)


def test_a_list_shorter_than_the_count_is_not_the_whole(bench: Bench) -> None:
    """An archive that lists no reports at IMAGE level: the report comes with its series, not with a list."""
    bench.sweep()
    bench.finish()
    bench.peers.add("pacs", "1.1", "1.1.9", "1.1.9.1")
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: Any) -> FindResult:
        result = honest(node, level, keys, **named)
        rows = [row for row in result.identifiers if row.text("SOPInstanceUID") != "1.1.9.1"]
        return FindResult(identifiers=rows, status=0)

    bench.peers.find = find  # type: ignore[method-assign]
    assert bench.sweep().selected == 1
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed, transfer.expected) == (State.COMPLETE, 4, 4)
    assert bench.peers.requests[1][1].series_instance_uids == ("1.1.9",)


def test_shrinking_and_growing_again_is_seen(bench: Bench) -> None:
    bench.sweep()
    bench.finish()
    bench.peers.holdings["pacs"]["1.1"]["1.1.1"].discard("1.1.1.2")
    bench.sweep()
    bench.finish()
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.7")
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert bench.peers.requests[-1][1].sop_instance_uids == ("1.1.1.7",)


def test_a_destination_that_restarts_is_asked_again_when_it_is_back(bench: Bench) -> None:
    bench.to("ws")
    bench.sweep()
    assert bench.step() is not None
    bench.peers.down.add("ws")
    for _ in range(6):
        assert bench.step() is not None
        bench.clock.advance(121)
    bench.peers.down.clear()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed) == (State.COMPLETE, 3)


def test_a_destination_that_takes_its_time_is_not_sent_everything_again(bench: Bench) -> None:
    bench.to("ws")
    bench.sweep()
    assert bench.step() is not None
    late = bench.peers.holdings["ws"].pop("1.1")
    for _ in range(5):
        assert bench.step() is not None
        bench.clock.advance(16)
    bench.peers.holdings["ws"]["1.1"] = late
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert len(bench.peers.requests) == 1


@pytest.mark.parametrize("status", [0xA900, 0xC000])
def test_a_source_that_refuses_lists_of_instances_is_asked_for_their_series(bench: Bench, status: int) -> None:
    bench.sweep()
    bench.finish()
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.3")
    honest = bench.peers.move

    def move(node: Node, request: MoveRequest, **named: Any) -> MoveResult:
        if request.sop_instance_uids:
            return MoveResult(status=status, counts=SubOperationCounts())
        return honest(node, request, **named)

    bench.peers.move = move  # type: ignore[method-assign]
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed) == (State.COMPLETE, 4)
    assert bench.peers.requests[-1][1].series_instance_uids == ("1.1.1",)


def test_everything_there_although_the_final_status_is_permanent(bench: Bench) -> None:
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0x0124, counts=SubOperationCounts())
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.status) == (State.COMPLETE, 0x0124)


def test_a_comment_of_the_peer_stays_out_of_what_is_logged(bench: Bench) -> None:
    bench.to("local", retry=Retry(attempts=1))
    bench.peers.deliver = lambda wanted: []
    bench.peers.answer = lambda wanted, delivered: MoveResult(
        status=0xA702, counts=SubOperationCounts(), error_comment="patient KOWALSKI unknown"
    )
    bench.sweep()
    (transfer,) = bench.finish()
    assert "KOWALSKI" not in transfer.reason
    assert not any("KOWALSKI" in str(event) for event in bench.events)
    assert "KOWALSKI" in bench.ledger.attempts(transfer.id)[0].reason


def test_a_ledger_that_is_away_before_anything_was_sent_is_said_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that nobody works on would stay `moving` until it is lost, and be told as a crash."""
    bench.sweep()
    set_expected = bench.ledger.set_expected

    def away(transfer: Transfer, instances: Sequence[Instance]) -> None:
        monkeypatch.setattr(bench.ledger, "set_expected", set_expected)
        raise LedgerError("The ledger is away.")

    monkeypatch.setattr(bench.ledger, "set_expected", away)
    waiting = bench.step()
    assert waiting is not None
    assert (waiting.state, waiting.cause, waiting.attempts) == (State.QUEUED, "ledger", 0)
    assert waiting.reason.endswith("The ledger is away.")
    assert bench.peers.requests == []
    (ended,) = bench.finish()
    assert ended.state is State.COMPLETE


def test_a_ledger_that_is_away_while_something_is_moved_costs_neither_the_move_nor_its_outcome(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.to("ws")
    bench.sweep()
    stopped_route, failures = bench.ledger.stopped_route, 0

    def away(route: Route) -> StoppedRoute | None:
        nonlocal failures
        if bench.peers.requests and failures < 2:
            failures += 1
            raise LedgerError("The ledger is away.")
        return stopped_route(route)

    monkeypatch.setattr(bench.ledger, "stopped_route", away)
    moved = bench.step()
    assert moved is not None
    assert (moved.state, moved.cause, moved.attempts) == (State.VERIFYING, "success", 1)
    assert failures == 2
    assert len(bench.peers.requests) == 1


def test_a_sweep_that_is_cancelled_is_due_again_at_once(bench: Bench) -> None:
    """A nightly rule is not to wait for the next night because the service was restarted while it swept."""
    bench.peers.fail = lambda node, level, keys: Cancelled()
    bench.sweep()
    (sweep,) = bench.ledger.open_sweeps()
    due_at = sweep.due.due_at
    assert not [event for event in bench.events if isinstance(event, SweepEnded)]
    bench.peers.fail = lambda node, level, keys: None
    again = bench.ledger.claim_sweep(["pacs"], bench.clock.now(), LEASE_SECONDS)
    assert again is not None
    assert again.due.due_at == due_at
    assert bench.sweeper.run(again, bench.never).selected == 1
    assert bench.ledger.open_sweeps() == []


def test_a_sweep_that_a_person_waits_for_ends_when_it_is_cancelled(bench: Bench) -> None:
    bench.peers.fail = lambda node, level, keys: Cancelled()
    report = bench.sweep(manual=True)
    assert (report.state, report.cause) == (SweepState.FAILED, "cancelled")
    assert bench.ledger.open_sweeps() == []


def test_a_sweep_that_breaks_off_by_a_defect_ends_so_that_nobody_waits_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a value of a data set")

    monkeypatch.setattr(bench.ledger, "facts", broken)
    with pytest.raises(ZeroDivisionError):
        bench.sweep()
    (sweep,) = bench.ledger.last_sweeps()
    assert sweep.state is SweepState.FAILED
    assert sweep.report is not None
    assert (sweep.report.cause, "ZeroDivisionError" in sweep.report.reason) == ("defect", True)
    assert "value" not in sweep.report.reason
