"""What every ledger does, whatever database it lives in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from typing import Any

import msgspec
import pytest

from router.domain.dicom import SubOperationCounts
from router.domain.overview import ServiceInfo
from router.domain.receipt import Receipt
from router.domain.route import StoppedRoute
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import WISHES, Finish, Happening, Instance, Route, State, Stop, TransferFact
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after, claim, hold, intent, look, new, queue, running_sweep

COMPLETE = SweepReport(state=SweepState.COMPLETE, matches=3, selected=1, queries=2)


def ended(ledger: SqlLedger, happening: Happening = Happening.PROVEN, **finish: object) -> int:
    """Bring the next transfer to its end; its id."""
    moved = claim(ledger)
    assert ledger.finish(moved, Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
    looked = look(ledger)
    assert ledger.finish(looked, Finish(happening=happening, **finish), NOW, NOW)  # type: ignore[arg-type]
    return moved.id


class TestSweeps:
    def test_is_unique_per_rule_tier_and_due_time(self, ledger: SqlLedger) -> None:
        due = SweepDue(rule="ct", source="archive", due_at=NOW)
        others = [
            SweepDue(rule="ct", source="archive", due_at=after(1)),
            SweepDue(rule="ct", source="archive", due_at=NOW, tier=1),
            SweepDue(rule="ct", source="archive", due_at=NOW, manual=True),
            SweepDue(rule="mr", source="archive", due_at=NOW),
        ]
        first, *rest = ledger.add_sweeps([due, *others])
        assert len({first, *rest}) == 5
        assert ledger.add_sweeps([others[0], due]) == [rest[0], first]
        assert [sweep.due for sweep in ledger.sweeps([rest[2], first])] == [others[2], due]

    def test_the_oldest_due_of_the_sources_is_claimed(self, ledger: SqlLedger) -> None:
        ledger.add_sweeps(
            [
                SweepDue(rule="late", source="archive", due_at=after(2)),
                SweepDue(rule="early", source="archive", due_at=after(1)),
                SweepDue(rule="elsewhere", source="pacs", due_at=NOW),
            ]
        )
        assert ledger.claim_sweep(["archive"], NOW, LEASE) is None
        assert ledger.claim_sweep([], after(9), LEASE) is None
        claimed = ledger.claim_sweep(["archive", "pacs"], after(1), LEASE)
        assert claimed is not None
        assert (claimed.due.rule, claimed.state, claimed.started_at) == ("elsewhere", SweepState.RUNNING, after(1))
        rules = []
        while sweep := ledger.claim_sweep(["archive", "pacs"], after(3), LEASE):
            rules.append(sweep.due.rule)
        assert rules == ["early", "late"]

    def test_an_abandoned_one_is_claimed_again_and_its_late_report_changes_nothing(self, ledger: SqlLedger) -> None:
        abandoned = running_sweep(ledger)
        assert ledger.claim_sweep(["archive"], after(LEASE - 1), LEASE) is None
        again = ledger.claim_sweep(["archive"], after(LEASE), LEASE)
        assert again is not None
        assert (again.id, again.fence) == (abandoned.id, abandoned.fence + 1)
        assert not ledger.finish_sweep(abandoned, COMPLETE, [new(intent(1))], [], after(LEASE))
        assert not ledger.renew_sweep(abandoned, after(LEASE), LEASE)
        assert ledger.transfers() == []
        assert ledger.finish_sweep(again, COMPLETE, [new(intent(1))], [], after(LEASE))
        assert len(ledger.transfers()) == 1

    def test_renewing_keeps_it(self, ledger: SqlLedger) -> None:
        sweep = running_sweep(ledger)
        assert ledger.renew_sweep(sweep, after(50), LEASE)
        assert ledger.expire_leases(after(LEASE + 1)) == 0
        assert ledger.expire_leases(after(50 + LEASE)) == 1
        assert [one.state for one in ledger.open_sweeps()] == [SweepState.DUE]
        assert not ledger.finish_sweep(sweep, COMPLETE, [], [], after(200))

    def test_the_report_is_kept(self, ledger: SqlLedger) -> None:
        sweep = running_sweep(ledger)
        assert [one.id for one in ledger.open_sweeps()] == [sweep.id]
        assert [one.id for one in ledger.open_sweeps("archive", 1)] == [sweep.id]
        assert ledger.open_sweeps("another") == []
        report = SweepReport(
            state=SweepState.INCOMPLETE, matches=500, selected=1, queries=7, cause="cap", reason="It stopped at 500."
        )
        assert ledger.finish_sweep(sweep, report, [], [], after(5))
        (record,) = ledger.sweeps([sweep.id])
        assert (record.state, record.report, record.finished_at) == (SweepState.INCOMPLETE, report, after(5))
        assert ledger.open_sweeps() == []
        assert not ledger.finish_sweep(sweep, COMPLETE, [], [], after(6))
        assert ledger.claim_sweep(["archive"], after(9), LEASE) is None

    def test_the_last_one_is_the_latest_the_schedule_made_due_per_rule_and_tier(self, ledger: SqlLedger) -> None:
        for at in (after(10), after(5)):
            ledger.finish_sweep(running_sweep(ledger, at), COMPLETE, [], [], after(20))
        ledger.finish_sweep(running_sweep(ledger, after(30), manual=True), COMPLETE, [], [], after(31))
        ledger.finish_sweep(running_sweep(ledger, after(1), rule="mr"), COMPLETE, [], [], after(2))
        running_sweep(ledger, after(40))
        assert {sweep.due.rule: sweep.due.due_at for sweep in ledger.last_sweeps()} == {"ct": after(10), "mr": after(1)}

    def test_the_watermark_is_the_last_complete_one_that_the_schedule_made_due(self, ledger: SqlLedger) -> None:
        incomplete = SweepReport(state=SweepState.INCOMPLETE, account="9 queries: answers are cut at 25.")
        assert ledger.last_complete_sweep("ct", 0, after(60)) is None
        ledger.finish_sweep(running_sweep(ledger, after(1)), incomplete, [], [], after(2))
        ledger.finish_sweep(running_sweep(ledger, after(3)), incomplete, [], [], after(4))
        assert ledger.last_complete_sweep("ct", 0, after(60)) == after(1), (
            "before any is complete, where the first one was due"
        )
        ledger.finish_sweep(running_sweep(ledger, after(5)), COMPLETE, [], [], after(9))
        for at, state in ((10, SweepState.INCOMPLETE), (12, SweepState.FAILED)):
            ledger.finish_sweep(running_sweep(ledger, after(at)), SweepReport(state=state), [], [], after(at + 1))
        ledger.finish_sweep(running_sweep(ledger, after(20), manual=True), COMPLETE, [], [], after(21))
        ledger.finish_sweep(running_sweep(ledger, after(22), rule="mr"), COMPLETE, [], [], after(23))
        running_sweep(ledger, after(30))
        assert ledger.last_complete_sweep("ct", 0, after(60)) == after(5)
        assert ledger.last_complete_sweep("ct", 1, after(60)) is None
        assert ledger.last_complete_sweep("ct", 0, after(4)) == after(1), "of a clock that is wrong by now"

    def test_remembers_at_how_many_matches_nodes_cut_their_answers(self, ledger: SqlLedger) -> None:
        assert ledger.caps() == {}
        ledger.learn_cap("archive", 500)
        ledger.learn_cap("archive", 100)
        ledger.learn_cap("pacs", 25)
        assert ledger.caps() == {"archive": 100, "pacs": 25}
        ledger.learn_cap("archive", 0)
        ledger.learn_cap("gone", 0)
        assert ledger.caps() == {"pacs": 25}

    def test_owns_what_it_queued_and_what_it_found_under_way(self, ledger: SqlLedger) -> None:
        first = queue(ledger, [new(intent(1)), new(intent(2))])
        one, two = sorted(transfer.id for transfer in ledger.transfers())
        # The third was queued by another sweep since this one looked: it belongs to both.
        queue(ledger, [new(intent(3))], after(1))
        second = queue(ledger, [new(intent(3)), new(intent(4))], after(2), under_way=[two, 99999])
        numbers = {transfer.id: int(transfer.intent[1].split(".")[-1]) for transfer in ledger.transfers()}
        assert {numbers[transfer.id] for transfer in ledger.transfers(sweeps=[first.id])} == {1, 2}
        assert {numbers[transfer.id] for transfer in ledger.transfers(sweeps=[second.id])} == {2, 3, 4}
        assert len(ledger.transfers(sweeps=[first.id, second.id])) == 4
        assert one in numbers


class TestIntents:
    def test_are_never_queued_twice(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(1), rule="other")])
        queue(ledger, [new(intent(1), rule="other", count=9)])
        (transfer,) = ledger.transfers()
        assert (transfer.rule, transfer.instance_count, transfer.state) == ("ct", 5, State.QUEUED)
        assert (transfer.queued_at, transfer.patient_id, transfer.attempts) == (NOW, "P1", 0)

    def test_differ_by_source_series_and_destination(self, ledger: SqlLedger) -> None:
        wanted = [
            intent(1), intent(1, source="pacs"), intent(1, destination="local"), intent(1, series="1.2.3"), intent(2),
        ]  # fmt: skip
        queue(ledger, [new(one) for one in wanted])
        assert {transfer.intent for transfer in ledger.transfers()} == set(wanted)

    def test_facts_tell_what_is_known_of_the_studies_of_one_source(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(n)) for n in range(2000)])
        queue(ledger, [new(intent(7, series="1.2.3"), count=None), new(intent(7, source="pacs"))])
        moving = claim(ledger)
        facts = ledger.facts("archive", [intent(n).study_instance_uid for n in range(1500)] + ["1.9"])
        assert len(facts) == 1501
        assert facts[moving.intent] == TransferFact(moving.id, State.MOVING, 5, "")
        assert facts[intent(7, series="1.2.3")].instance_count is None
        assert ledger.facts("archive", []) == {}

    @pytest.mark.parametrize("happening", [Happening.GREW, Happening.AGAIN])
    def test_an_ended_one_is_queued_anew(self, ledger: SqlLedger, happening: Happening) -> None:
        queue(ledger, [new(intent(1))])
        number = ended(ledger, Happening.SOME_MISSING, cause="gap", reason="2 are missing.", expected=5, completed=3)
        before = ledger.transfer(number)
        assert before is not None
        assert (before.state, before.attempts, before.cause, before.expected) == (State.PARTIAL, 1, "gap", 5)
        assert before.finished_at == NOW
        sweep = queue(ledger, [new(intent(1), count=8, rule="mr", priority=0, happening=happening)], after(5))
        (anew,) = ledger.transfers(sweeps=[sweep.id])
        assert (anew.id, anew.state, anew.instance_count, anew.rule, anew.priority) == (
            number, State.QUEUED, 8, "mr", 0,
        )  # fmt: skip
        assert (anew.attempts, anew.rounds, anew.looks, anew.status, anew.cause, anew.reason) == (0, 0, 0, None, "", "")
        assert (anew.expected, anew.completed, anew.queued_at, anew.next_at) == (None, 0, after(5), after(5))
        assert (anew.finished_at, anew.started_at) == (None, None)

    @pytest.mark.parametrize("held", [False, True])
    def test_growth_of_a_waiting_one_only_changes_the_count(self, ledger: SqlLedger, held: bool) -> None:
        queue(ledger, [new(intent(1))])
        number = ledger.transfers()[0].id
        if held:
            ledger.apply(number, Happening.HOLD, NOW)
        else:
            retried = claim(ledger)
            ledger.finish(
                retried, Finish(happening=Happening.RETRY, next_at=after(90), cause="timeout", moved=True), NOW, NOW
            )
        before = ledger.transfer(number)
        queue(ledger, [new(intent(1), count=8, rule="mr", happening=Happening.GREW)], after(5))
        grown = ledger.transfer(number)
        assert before is not None
        assert grown is not None
        assert (grown.state, grown.instance_count, grown.rule) == (before.state, 8, "ct")
        assert (grown.attempts, grown.cause, grown.next_at) == (before.attempts, before.cause, before.next_at)

    def test_growth_of_a_moving_one_is_left_for_a_later_sweep(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        queue(ledger, [new(intent(1), count=8, happening=Happening.GREW)])
        assert ledger.transfer(moving.id) == moving
        assert ledger.facts("archive", [intent(1).study_instance_uid])[intent(1)].instance_count == 5

    def test_growth_that_another_sweep_has_seen_first_is_not_moved_again(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), count=8)])
        number = ended(ledger)
        queue(ledger, [new(intent(1), count=8, happening=Happening.GREW)])
        transfer = ledger.transfer(number)
        assert transfer is not None
        assert transfer.state is State.COMPLETE

    def test_what_was_expected_is_forgotten_with_growth(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        ledger.set_expected(moving, [Instance("1.1", "1.1.1")])
        ledger.set_delivered(moving, [Instance("1.1", "1.1.1")])
        ledger.finish(moving, Finish(happening=Happening.NO_EVIDENCE), NOW, NOW)
        queue(ledger, [new(intent(1), count=8, happening=Happening.GREW)])
        assert ledger.expected_instances(moving.id) is None
        assert ledger.delivered_instances(moving.id) == [Instance("1.1", "1.1.1")]
        ledger.finish(claim(ledger), Finish(happening=Happening.FAIL), NOW, NOW)
        ledger.apply(moving.id, Happening.AGAIN, NOW)
        assert ledger.delivered_instances(moving.id) == []


class TestClaims:
    def test_the_most_urgent_comes_first_then_the_longest_due(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), priority=2), new(intent(2)), new(intent(3, source="pacs"), priority=0)])
        queue(ledger, [new(intent(4, source="pacs")), new(intent(5), priority=0)], after(1))
        order = []
        while claimed := ledger.claim_transfer(["archive", "pacs"], after(2), LEASE):
            assert (claimed.state, claimed.fence, claimed.lease_until) == (State.MOVING, 1, after(2 + LEASE))
            assert claimed.started_at == after(2)
            order.append(int(claimed.intent.study_instance_uid.split(".")[-1]))
        assert order == [3, 5, 2, 4, 1]

    def test_only_these_sources_and_only_what_is_due(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2, source="pacs"))], after(10))
        assert ledger.claim_transfer(["archive", "pacs"], after(9), LEASE) is None
        assert ledger.claim_transfer(["other"], after(10), LEASE) is None
        assert ledger.claim_transfer([], after(10), LEASE) is None
        assert claim(ledger, after(10), "pacs").intent == intent(2, source="pacs")
        assert ledger.claim_transfer(["pacs"], after(10), LEASE) is None

    def test_any_number_of_sources(self, ledger: SqlLedger) -> None:
        sources = [f"node{n}" for n in range(250)]
        queue(ledger, [new(intent(1, source="node3")), new(intent(2, source="node240"), priority=0)])
        first = ledger.claim_transfer(sources, NOW, LEASE)
        second = ledger.claim_transfer(sources, NOW, LEASE)
        assert first is not None
        assert second is not None
        assert (first.intent.source, second.intent.source) == ("node240", "node3")

    def test_verification_is_claimed_by_destination_and_held_by_one(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2, destination="local"))])
        for wait in (20, 10):
            ledger.finish(claim(ledger), Finish(happening=Happening.MOVED, next_at=after(wait)), NOW, NOW)
        assert ledger.claim_verification(["ws", "local"], after(9), LEASE) is None
        looked = ledger.claim_verification(["ws", "local"], after(20), LEASE)
        assert looked is not None
        assert (looked.intent.destination, looked.state, looked.fence) == ("local", State.VERIFYING, 2)
        assert ledger.claim_verification(["local"], after(20), LEASE) is None
        assert look(ledger, after(20)).intent == intent(1)

    def test_renewing_prolongs_and_notes_progress(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        assert ledger.renew(moving, after(30), LEASE, SubOperationCounts(7, 3, 1, 2))
        assert ledger.renew(moving, after(40), LEASE, SubOperationCounts())
        assert ledger.renew(moving, after(50), LEASE, None)
        renewed = ledger.transfer(moving.id)
        assert renewed is not None
        assert (renewed.completed, renewed.failed, renewed.warning) == (5, 1, 2)
        assert renewed.lease_until == after(50 + LEASE)
        assert ledger.expire_leases(after(50 + LEASE - 1)) == 0

    def test_renewing_never_shortens(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        for at, until in ((30, 30), (20, 30), (31, 31)):
            assert ledger.renew(moving, after(at), LEASE, None)
            renewed = ledger.transfer(moving.id)
            assert renewed is not None
            assert renewed.lease_until == after(until + LEASE)

    def test_a_lost_lease_is_verified_before_anything_is_repeated(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        assert ledger.claim_transfer(["archive"], after(999), LEASE) is None
        assert ledger.claim_verification(["ws"], after(999), LEASE) is None
        assert ledger.expire_leases(after(LEASE)) == 1
        assert ledger.expire_leases(after(LEASE)) == 0
        looked = look(ledger, after(LEASE))
        assert (looked.state, looked.cause, looked.attempts) == (State.VERIFYING, "lease-lost", 1)
        assert ledger.finish(moving, Finish(happening=Happening.FAIL), NOW, after(LEASE)) is None
        assert not ledger.renew(moving, after(LEASE), LEASE, None)
        (attempt,) = ledger.attempts(moving.id)
        assert (attempt.step, attempt.happening, attempt.started_at) == ("move", "lease_lost", NOW)
        # The worker that looks is lost as well: another one looks.
        assert ledger.expire_leases(after(2 * LEASE)) == 1
        assert look(ledger, after(2 * LEASE)).fence > looked.fence
        assert ledger.finish(looked, Finish(happening=Happening.PROVEN), NOW, after(2 * LEASE)) is None

    def test_released_claims_are_like_lost_ones(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2))])
        first, second = claim(ledger), claim(ledger)
        ended_before = ledger.finish(second, Finish(happening=Happening.FAIL), NOW, NOW)
        ledger.release_claims([first, second], after(1))
        assert look(ledger, after(1)).id == first.id
        assert ledger.transfer(second.id) == ended_before

    def test_no_two_threads_get_the_same(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(n)) for n in range(60)])

        def work() -> list[int]:
            mine = []
            while transfer := ledger.claim_transfer(["archive"], NOW, LEASE):
                mine.append(transfer.id)
                ledger.finish(transfer, Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
            return mine

        with ThreadPoolExecutor(12) as threads:  # more than there are connections
            workers = [threads.submit(work) for _ in range(12)]
            claimed = [number for worker in workers for number in worker.result(60)]
        assert sorted(claimed) == sorted(transfer.id for transfer in ledger.transfers(states=[State.VERIFYING]))
        assert len(claimed) == len(set(claimed)) == 60


class TestFinish:
    def test_counts_attempts_looks_and_rounds(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        seen = []
        steps = [
            (claim, Finish(happening=Happening.RETRY, cause="timeout", moved=True)),
            (claim, Finish(happening=Happening.RETRY, cause="refused")),
            (claim, Finish(happening=Happening.MOVED, status=0xB000, moved=True, expected=5)),
            (look, Finish(happening=Happening.LATER)),
            (look, Finish(happening=Happening.LATER)),
            (look, Finish(happening=Happening.GAP, completed=3)),
            (claim, Finish(happening=Happening.MOVED, status=0, moved=True)),
            (look, Finish(happening=Happening.PROVEN, completed=5, status=0)),
        ]
        for take, finish in steps:
            changed = ledger.finish(take(ledger), finish, NOW, NOW)
            assert changed is not None
            seen.append((changed.state.value, changed.attempts, changed.rounds, changed.looks))
            assert changed.lease_until is None
        assert seen == [
            ("queued", 1, 0, 0),
            ("queued", 1, 0, 0),
            ("verifying", 2, 0, 0),
            ("verifying", 2, 0, 1),
            ("verifying", 2, 0, 2),
            ("queued", 2, 1, 2),
            ("verifying", 3, 1, 0),
            ("complete", 3, 1, 0),
        ]
        assert changed.expected == 5
        assert changed.finished_at == NOW
        remembered = [(one.number, one.step, one.happening) for one in ledger.attempts(changed.id)]
        assert remembered[:3] == [(1, "move", "retry"), (2, "move", "retry"), (3, "move", "moved")]
        assert remembered[3:] == [
            (4, "verify", "later"), (5, "verify", "later"), (6, "verify", "gap"), (7, "move", "moved"),
            (8, "verify", "proven"),
        ]  # fmt: skip
        assert ledger.attempts(changed.id)[2].status == 0xB000

    def test_waits_until_it_is_told_to(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        ledger.finish(claim(ledger), Finish(happening=Happening.RETRY, next_at=after(30)), NOW, after(1))
        assert ledger.claim_transfer(["archive"], after(29), LEASE) is None
        again = claim(ledger, after(30))
        assert (again.queued_at, again.started_at, again.fence) == (NOW, NOW, 2)

    def test_with_an_old_number_changes_nothing(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        first = claim(ledger)
        done = ledger.finish(first, Finish(happening=Happening.RETRY), NOW, NOW)
        assert ledger.finish(first, Finish(happening=Happening.FAIL), NOW, NOW) is None
        assert ledger.transfer(first.id) == done
        second = claim(ledger)
        assert ledger.finish(first, Finish(happening=Happening.FAIL), NOW, NOW) is None
        ledger.set_expected(first, [Instance("1.1", "1.1.1")])
        assert ledger.expected_instances(first.id) is None
        assert ledger.transfer(first.id) == second
        assert len(ledger.attempts(first.id)) == 1

    def test_refuses_what_the_table_of_states_does_not_have(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        with pytest.raises(LedgerError, match="moving cannot take later"):
            ledger.finish(moving, Finish(happening=Happening.LATER), NOW, NOW)
        assert ledger.transfer(moving.id) == moving

    def test_remembers_a_bounded_number_of_attempts(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        for _ in range(55):
            moving = claim(ledger)
            ledger.finish(moving, Finish(happening=Happening.RETRY, cause="busy"), NOW, NOW)
        assert [attempt.number for attempt in ledger.attempts(moving.id)] == list(range(6, 56))


class TestInstanceLists:
    def test_are_kept_apart_and_replaced(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        assert ledger.expected_instances(moving.id) is None
        assert ledger.delivered_instances(moving.id) == []
        expected = [Instance(f"1.{n // 100}", f"1.{n // 100}.{n}") for n in range(1000)]
        ledger.set_expected(moving, expected[:3])
        ledger.set_expected(moving, expected)
        ledger.set_delivered(moving, expected[5:6])
        assert ledger.expected_instances(moving.id) == expected
        assert ledger.delivered_instances(moving.id) == expected[5:6]
        ledger.set_expected(moving, [])
        assert ledger.expected_instances(moving.id) == []


WS, OTHER = Route("archive", "ws"), Route("archive", "other")


def stopped(ledger: SqlLedger, at: float = 0, cause: str = "destination-unknown", probe: float = 900) -> None:
    """The next transfer meets a stop of its route."""
    stop = Stop(cause=cause, reason="Nobody knows it.", probe_at=after(at + probe))
    finish = Finish(happening=Happening.STOPPED, cause=cause, reason=stop.reason, stop=stop)
    assert ledger.finish(claim(ledger, after(at)), finish, after(at), after(at))


class TestRoutes:
    def test_a_stop_keeps_everything_of_the_route_and_nothing_else(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2)), new(intent(3, destination="other"), priority=2)])
        queue(ledger, [new(intent(4, source="pacs"), priority=2)])
        stopped(ledger)
        (one,) = ledger.stopped_routes()
        assert (
            one
            == ledger.stopped_route(WS)
            == StoppedRoute(
                route=WS, cause="destination-unknown", reason="Nobody knows it.", stopped_at=NOW, probe_at=after(900)
            )
        )
        assert ledger.stopped_route(OTHER) is None
        met = ledger.transfer(1)
        assert met is not None
        assert (met.state, met.attempts, met.reason) == (State.QUEUED, 0, "Nobody knows it.")
        taken = []
        while claimed := ledger.claim_transfer(["archive", "pacs"], after(5000), LEASE):
            taken.append(claimed.intent)
        assert sorted(taken) == [intent(3, destination="other"), intent(4, source="pacs")]

    def test_one_transfer_probes_at_its_time_and_the_one_that_failed_comes_last(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), priority=0)])
        queue(ledger, [new(intent(2), priority=2), new(intent(3))], after(1))
        stopped(ledger, at=2)
        assert ledger.claim_probe(WS, after(901), LEASE, after(9999)) is None, "not yet"
        assert ledger.claim_probe(OTHER, after(9999), LEASE, after(9999)) is None, "not stopped"
        probe = ledger.claim_probe(WS, after(902), LEASE, after(2000))
        assert probe is not None
        assert probe.intent == intent(2), "the longest waiting, whatever its priority"
        assert ledger.claim_probe(WS, after(1999), LEASE, after(9999)) is None, "one at a time"
        again = Stop(cause="not-authorised", reason="Not allowed.", probe_at=after(7000))
        assert ledger.finish(probe, Finish(happening=Happening.STOPPED, stop=again), after(902), after(903))
        (row,) = ledger.stopped_routes()
        assert (row.cause, row.reason, row.probes) == ("not-authorised", "Not allowed.", 1)
        assert (row.stopped_at, row.probe_at) == (after(2), after(2000)), "its times stay"
        second = ledger.claim_probe(WS, after(2000), LEASE, after(4000))
        assert second is not None
        assert second.intent == intent(3)

    def test_resuming_lets_it_flow(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2))])
        stopped(ledger)
        assert ledger.resume_route(WS)
        assert not ledger.resume_route(WS)
        assert ledger.stopped_routes() == []
        assert {claim(ledger, after(1)).id, claim(ledger, after(1)).id} == {1, 2}

    @pytest.mark.parametrize("happening", [Happening.RELEASE, Happening.AGAIN])
    def test_a_persons_word_makes_the_probe_due(self, ledger: SqlLedger, happening: Happening) -> None:
        queue(ledger, [new(intent(1))])
        stopped(ledger)
        assert ledger.apply(1, happening, after(5)).state is State.QUEUED
        probe = ledger.claim_probe(WS, after(5), LEASE, after(99))
        assert probe is not None
        with pytest.raises(LedgerError, match="moving"):
            ledger.apply(1, happening, after(6))

    def test_it_can_be_tried_at_once(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        assert not ledger.probe_route(WS, NOW)
        stopped(ledger)
        assert ledger.probe_route(WS, after(7))
        assert [one.probe_at for one in ledger.stopped_routes()] == [after(7)]
        assert ledger.probe_route(WS, after(9))
        assert [one.probe_at for one in ledger.stopped_routes()] == [after(7)], "it is due already"

    def test_another_configuration_tries_them_and_forgets_those_of_other_nodes(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2, destination="other"))])
        ledger.adopt_configuration("a", ["archive", "ws", "other"], NOW)
        for _ in range(2):
            stopped(ledger)
        ledger.adopt_configuration("a", ["archive", "ws", "other"], after(1))
        assert {one.probe_at for one in ledger.stopped_routes()} == {after(900)}
        ledger.adopt_configuration("b", ["archive", "ws"], after(2))
        assert [(one.route, one.probe_at) for one in ledger.stopped_routes()] == [(WS, after(2))]
        ledger.adopt_configuration("b", ["ws"], after(3))
        assert ledger.stopped_routes() == []

    def test_the_oldest_may_go_before_the_urgent(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), priority=2)])
        queue(ledger, [new(intent(2), priority=0), new(intent(3), priority=1)], after(1))
        queue(ledger, [new(intent(4, destination="other"), priority=2)], after(2))
        claims = [
            ledger.claim_transfer(["archive"], after(9), LEASE, oldest=oldest) for oldest in (False, True, True, False)
        ]
        assert [claimed.id for claimed in claims if claimed] == [2, 1, 3, 4]

    def test_the_oldest_is_looked_for_on_open_routes_only(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), priority=2), new(intent(2, destination="other"), priority=2)])
        queue(ledger, [new(intent(3, destination="other"), priority=0)], after(1))
        claimed = ledger.claim_transfer(["archive"], after(9), LEASE, [WS], oldest=True)
        assert claimed is not None
        assert claimed.id == 2

    def test_moves_since_a_moment_are_known_by_route(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(number)) for number in range(1, 5)])
        ends = [
            (Happening.MOVED, after(10)),
            (Happening.RETRY, after(20)),
            (Happening.PROVEN, after(30)),
            (Happening.MOVED, after(40)),
        ]
        for happening, at in ends:
            assert ledger.finish(claim(ledger, after(5)), Finish(happening=happening), after(5), at) is not None
        assert ledger.moves_since(after(20)) == [(WS, after(40)), (WS, after(20))]
        assert ledger.moves_since(after(41)) == []

    def test_routes_can_be_passed_over(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2, destination="other"), priority=2), new(intent(3, source="pacs"))])
        sources = ["archive", "pacs"]
        assert ledger.claim_transfer(sources, NOW, LEASE, {WS, OTHER, Route("pacs", "ws")}) is None
        claimed = ledger.claim_transfer(sources, NOW, LEASE, [WS, Route("pacs", "ws")])
        assert claimed is not None
        assert claimed.intent == intent(2, destination="other")
        claimed = ledger.claim_transfer(sources, NOW, LEASE, [WS])
        assert claimed is not None
        assert claimed.intent == intent(3, source="pacs")

    def test_the_most_urgent_comes_first_over_open_routes_and_whole_sources(self, ledger: SqlLedger) -> None:
        names = [f"d{n}" for n in range(150)]
        queue(ledger, [new(intent(n, destination=name)) for n, name in enumerate(names)])
        queue(ledger, [new(intent(500, source="pacs")), new(intent(501, destination="d149"), priority=0)], after(1))
        numbers = {int(one.intent.study_instance_uid.split(".")[-1]): one.id for one in ledger.transfers()}

        def order(claims: int) -> list[int]:
            """What is taken next; each looks at all open routes, so that many would take long."""
            closed = [Route("archive", "d0")]
            taken = (ledger.claim_transfer(["archive", "pacs"], after(2), LEASE, closed) for _ in range(claims))
            return [int(one.intent.study_instance_uid.split(".")[-1]) for one in taken if one]

        assert order(4) == [501, 1, 2, 3]
        for number in range(4, 96):
            ledger.apply(numbers[number], Happening.CANCEL, after(2))
        assert order(3) == [96, 97, 98]
        for number in range(99, 147):
            ledger.apply(numbers[number], Happening.CANCEL, after(2))
        assert order(5) == [147, 148, 149, 500]


class TestAttending:
    @pytest.mark.parametrize("url", ["sqlite"], indirect=True)
    def test_alone_on_the_ledger_whoever_held_something_is_dead(self, url: str, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2)), new(intent(3))])
        running_sweep(ledger, after(1))
        moving = claim(ledger)
        ledger.finish(claim(ledger), Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
        look(ledger)
        ledger.apply(claim(ledger).id, Happening.CANCEL, NOW)
        ledger.announce(ServiceInfo(owner="dead", address="", seen_at=NOW))
        with SqlLedger.open(url) as service, SqlLedger.open(url) as other:
            assert service.attend(after(2)) == 4
            states = [one.state for one in sorted(ledger.transfers(), key=lambda one: one.id)]
            assert states == [State.VERIFYING, State.VERIFYING, State.CANCELLED]
            assert ledger.services(NOW) == []
            assert [one.state for one in ledger.open_sweeps()] == [SweepState.DUE]
            assert ledger.finish(moving, Finish(happening=Happening.FAIL), NOW, NOW) is None
            held = look(service, after(2))
            assert other.attend(after(3)) == 0, "the first lives"
            assert service.renew(held, after(3), LEASE, None)
            service.close()
            with SqlLedger.open(url) as third:
                assert third.attend(after(4)) == 0, "the other lives"
                other.close()
        with SqlLedger.open(url) as last:
            assert last.attend(after(5)) == 1

    def test_one_that_only_looks_disturbs_nobody(self, url: str, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        with SqlLedger.open(url, read_only=True) as reader:
            assert reader.stopped_routes() == []
        assert ledger.renew(moving, after(1), LEASE, None)


class TestPeople:
    def test_hold_release_cancel_and_again(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        number = ledger.transfers()[0].id
        held = ledger.apply(number, Happening.HOLD, NOW, "the scanner is being repaired")
        assert (held.state, held.reason) == (State.HELD, "the scanner is being repaired")
        assert ledger.claim_transfer(["archive"], after(99), LEASE) is None
        assert ledger.apply(number, Happening.RELEASE, after(5)).next_at == after(5)
        cancelled = ledger.apply(number, Happening.CANCEL, after(6), "not needed")
        assert (cancelled.state, cancelled.finished_at, cancelled.reason) == (State.CANCELLED, after(6), "not needed")
        again = ledger.apply(number, Happening.AGAIN, after(7))
        assert (again.state, again.queued_at, again.finished_at, again.reason) == (State.QUEUED, after(7), None, "")
        assert claim(ledger, after(7)).id == number

    @pytest.mark.parametrize("wish", [Happening.CANCEL, Happening.HOLD])
    @pytest.mark.parametrize("take", [claim, look])
    def test_what_a_worker_holds_is_not_taken_from_it(self, ledger: SqlLedger, wish: Happening, take: Any) -> None:
        queue(ledger, [new(intent(1))])
        if take is look:
            ledger.finish(claim(ledger), Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
        held = take(ledger)
        asked = ledger.apply(held.id, wish, after(1))
        assert (asked.state, asked.wish, asked.fence) == (held.state, wish, held.fence)
        assert ledger.wished() == [(held.id, held.fence)]
        assert ledger.renew(held, after(2), LEASE, None)
        let_go = ledger.finish(held, Finish(happening=Happening.INTERRUPTED, completed=3), NOW, after(3))
        assert let_go is not None
        assert let_go.state is (State.CANCELLED if wish is Happening.CANCEL else State.HELD)
        assert (let_go.wish, let_go.completed, let_go.reason) == ("", 3, WISHES[wish])
        assert let_go.finished_at == (after(3) if let_go.ended else None)
        assert ledger.wished() == []

    def test_a_verdict_that_comes_first_stands(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        ledger.apply(moving.id, Happening.CANCEL, after(1))
        ended = ledger.finish(moving, Finish(happening=Happening.PROVEN, reason="All there."), NOW, after(2))
        assert ended is not None
        assert (ended.state, ended.wish, ended.reason) == (State.COMPLETE, "", "All there.")

    def test_a_wish_can_be_taken_back(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        ledger.apply(moving.id, Happening.HOLD, after(1))
        assert ledger.apply(moving.id, Happening.RELEASE, after(2)).wish == ""
        with pytest.raises(LedgerError):
            ledger.apply(moving.id, Happening.RELEASE, after(3))
        retried = ledger.finish(moving, Finish(happening=Happening.RETRY), NOW, after(4))
        assert retried is not None
        assert retried.state is State.QUEUED

    @pytest.mark.parametrize("before", [True, False])
    @pytest.mark.parametrize("wish", [Happening.CANCEL, Happening.HOLD])
    def test_a_worker_that_is_gone_keeps_nobody_waiting(self, ledger: SqlLedger, wish: Happening, before: bool) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        if before:
            ledger.apply(moving.id, wish, after(1))
            assert ledger.expire_leases(after(LEASE)) == 1
        else:
            ledger.apply(moving.id, wish, after(LEASE))
        left = ledger.transfer(moving.id)
        assert left is not None
        assert left.state is (State.CANCELLED if wish is Happening.CANCEL else State.HELD)
        assert (left.wish, left.lease_until, left.reason) == ("", None, WISHES[wish])
        assert ledger.finish(moving, Finish(happening=Happening.MOVED), NOW, after(LEASE)) is None

    @pytest.mark.parametrize("happening", [Happening.RELEASE, Happening.PROVEN, Happening.GREW])
    def test_other_words_are_refused(self, ledger: SqlLedger, happening: Happening) -> None:
        queue(ledger, [new(intent(1))])
        (before,) = ledger.transfers()
        with pytest.raises(LedgerError):
            ledger.apply(before.id, happening, NOW)
        assert ledger.transfers() == [before]

    def test_an_unknown_transfer(self, ledger: SqlLedger) -> None:
        with pytest.raises(LedgerError, match="no transfer 4711"):
            ledger.apply(4711, Happening.CANCEL, NOW)
        assert ledger.transfer(4711) is None
        assert ledger.attempts(4711) == []


class TestLists:
    def test_by_every_property_newest_first(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(n)) for n in range(5)])
        queue(ledger, [new(intent(9, source="pacs", destination="local"), rule="mr")])
        moving = claim(ledger)
        failed = ledger.finish(claim(ledger), Finish(happening=Happening.FAIL), NOW, NOW)
        numbers = [transfer.id for transfer in ledger.transfers()]
        assert numbers == sorted(numbers, reverse=True)
        assert [transfer.id for transfer in ledger.transfers(limit=2)] == numbers[:2]
        assert ledger.transfers(states=[State.FAILED, State.MOVING]) == [failed, moving]
        assert [t.id for t in ledger.transfers(states=[State.QUEUED, State.FAILED], limit=3)] == numbers[:3]
        (other,) = ledger.transfers(rule="mr")
        assert other.intent.source == "pacs"
        assert ledger.transfers(source="pacs") == [other]
        assert ledger.transfers(destination="local") == [other]
        assert ledger.transfers(study_instance_uid="1.2.826.9") == [other]
        assert ledger.transfers(rule="mr", source="archive") == []

    def test_the_backlog_counts_and_knows_the_oldest_that_is_queued(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1)), new(intent(2))])
        queue(ledger, [new(intent(3)), new(intent(4, destination="local"))], after(3))
        claim(ledger)
        rows = {
            (row.source, row.destination, row.state): (row.count, row.oldest_queued_at, row.next_at)
            for row in ledger.backlog()
        }
        assert rows == {
            ("archive", "ws", State.QUEUED): (2, NOW, NOW),
            ("archive", "ws", State.MOVING): (1, None, None),
            ("archive", "local", State.QUEUED): (1, after(3), after(3)),
        }

    def test_the_backlog_knows_when_the_first_of_any_priority_may_be_taken_up(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), priority=0), new(intent(2), priority=2)])
        for seconds in (90, 60):
            ledger.finish(claim(ledger), Finish(happening=Happening.RETRY, next_at=after(seconds)), NOW, NOW)
        (row,) = ledger.backlog()
        assert (row.count, row.oldest_queued_at, row.next_at) == (2, NOW, after(60))

    def test_times_come_back_exactly_and_aware(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        (transfer,) = ledger.transfers()
        assert transfer.queued_at == NOW
        assert transfer.queued_at.tzinfo is UTC

    def test_everything_is_there_after_opening_again(self, url: str) -> None:
        with SqlLedger.open(url) as ledger:
            queue(ledger, [new(intent(n)) for n in range(3)])
            moving = claim(ledger)
            before = ledger.transfers()
        with SqlLedger.open(url, create=False) as ledger:
            assert ledger.transfers() == before
            assert ledger.finish(moving, Finish(happening=Happening.MOVED), NOW, NOW)
        with SqlLedger.open(url, read_only=True) as ledger:
            assert len(ledger.transfers(states=[State.VERIFYING])) == 1
            with pytest.raises(LedgerError, match="reading only"):
                ledger.withdraw("me")


def receipt(study: str, series: str, sop: str, path: str = "") -> Receipt:
    return Receipt(
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=sop,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="ORTHANC",
        size=3 << 32,
        path=path or f"{study}/{series}/{sop}.dcm",
        received_at=NOW,
    )


class TestReceipts:
    def test_tell_what_is_held_of_a_study_or_series(self, ledger: SqlLedger) -> None:
        ledger.add_receipts([])
        ledger.add_receipts([receipt("1.1", "1.1.1", f"1.1.1.{n}") for n in range(3)])
        ledger.add_receipts([receipt("1.1", "1.1.2", "1.1.2.1"), receipt("1.2", "1.2.1", "1.2.1.1")])
        assert ledger.received("1.1") == {"1.1.1.0", "1.1.1.1", "1.1.1.2", "1.1.2.1"}
        assert ledger.received("1.1", "1.1.2") == {"1.1.2.1"}
        assert ledger.received("1.3") == set()

    def test_are_replaced_and_known_under_their_path(self, ledger: SqlLedger) -> None:
        old, newer = receipt("1.1", "1.2", "1.3", "a.dcm"), receipt("1.1", "1.2", "1.3", "b.dcm")
        assert ledger.receipt_paths("1.1") == set()
        ledger.add_receipts([old, receipt("1.1", "1.2", "1.4", "c.dcm"), receipt("1.9", "1.2", "1.5", "d.dcm")])
        assert ledger.receipt_paths("1.1") == {"a.dcm", "c.dcm"}
        ledger.add_receipts([newer, newer])
        assert ledger.receipt_paths("1.1") == {"b.dcm", "c.dcm"}
        assert ledger.received("1.1") == {"1.3", "1.4"}


class TestServices:
    def test_are_known_while_they_announce_themselves(self, ledger: SqlLedger) -> None:
        first = ServiceInfo(owner="a", address="127.0.0.1:9104", seen_at=NOW, content_hash="x")
        second = ServiceInfo(owner="b", address="127.0.0.1:9105", seen_at=after(1))
        for info in (first, second):
            ledger.announce(info)
        assert ledger.services(NOW) == [second, first]
        assert ledger.services(after(1)) == [second]
        moved = ServiceInfo(owner="a", address="127.0.0.1:9200", seen_at=after(5), content_hash="y")
        ledger.announce(moved)
        ledger.withdraw("b")
        assert ledger.services(NOW) == [moved]

    def test_are_forgotten_in_the_end(self, ledger: SqlLedger) -> None:
        ledger.announce(ServiceInfo(owner="a", address="127.0.0.1:9104", seen_at=NOW))
        late = ServiceInfo(owner="b", address="127.0.0.1:9104", seen_at=after(2 * 86400))
        ledger.announce(late)
        assert ledger.services(NOW) == [late]


class TestNearLine:
    def test_one_is_moved_at_a_time_from_each_source(self, ledger: SqlLedger) -> None:
        tapes = [msgspec.structs.replace(new(intent(n)), availability="NEARLINE", priority=1) for n in range(3)]
        queue(ledger, [*tapes, msgspec.structs.replace(new(intent(9)), availability="ONLINE", priority=2)])
        first = claim(ledger)
        assert first.availability == "NEARLINE"
        assert claim(ledger).intent == intent(9), "what is online need not wait for it, however less urgent"
        assert ledger.claim_transfer(["archive"], NOW, LEASE) is None
        assert ledger.finish(first, Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
        second = claim(ledger)
        assert second.availability == "NEARLINE"
        assert look(ledger).id == first.id, "a look at the evidence needs no tape"
        assert ledger.claim_transfer(["archive"], NOW, LEASE) is None
        assert ledger.expire_leases(after(LEASE + 1)) == 3
        assert claim(ledger, after(LEASE + 1)).availability == "NEARLINE"


class TestListsOfInstances:
    def test_what_each_series_holds_and_what_is_missing_is_remembered_while_it_is_claimed(
        self, ledger: SqlLedger
    ) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        counts = {"1.1": 3, "1.2": None}
        ledger.set_expected_series(moving, counts)
        ledger.set_missing(moving, [Instance("1.1", "1.1.1")])
        assert ledger.expected_series(moving.id) == counts
        assert ledger.missing_instances(moving.id) == [Instance("1.1", "1.1.1")]
        ledger.set_expected_series(moving, {})
        ledger.set_missing(moving, [])
        assert (ledger.expected_series(moving.id), ledger.missing_instances(moving.id)) == (None, [])
        assert ledger.expire_leases(after(LEASE)) == 1
        ledger.set_expected_series(moving, counts)
        ledger.set_missing(moving, [Instance("1.1", "1.1.1")])
        assert (ledger.expected_series(moving.id), ledger.missing_instances(moving.id)) == (None, [])

    def test_they_are_forgotten_when_it_starts_over(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        ledger.set_expected_series(moving, {"1.1": 3})
        ledger.set_missing(moving, [Instance("1.1", "1.1.1")])
        assert ledger.finish(moving, Finish(happening=Happening.FAIL), NOW, NOW)
        assert ledger.missing_instances(moving.id) == [Instance("1.1", "1.1.1")]
        ledger.apply(moving.id, Happening.AGAIN, NOW)
        assert (ledger.expected_series(moving.id), ledger.missing_instances(moving.id)) == (None, [])

    def test_receipts_are_had_with_their_series(self, ledger: SqlLedger) -> None:
        assert ledger.received_instances("1.1") == []


class TestHeldByRules:
    def test_a_hold_is_written_down_and_let_go(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), hold=hold()), new(intent(2))])
        held, queued = sorted(ledger.transfers(), key=lambda t: t.intent)
        assert (held.state, held.cause, held.reason) == (State.HELD, "settling", "Held: settling.")
        assert (held.queued_at, held.next_at) == (NOW, after(600))
        assert claim(ledger).id == queued.id
        assert ledger.claim_transfer(["archive"], after(9999), LEASE) is None
        queue(ledger, [new(intent(1), count=7, rule="mr", happening=Happening.RELEASE)], after(700))
        moving = claim(ledger, after(700))
        assert (moving.id, moving.rule, moving.instance_count, moving.cause) == (held.id, "mr", 7, "")
        assert moving.queued_at == after(700)

    def test_what_is_held_belongs_to_no_sweep_until_it_is_queued(self, ledger: SqlLedger) -> None:
        sweep = queue(ledger, [new(intent(1), hold=hold()), new(intent(2))])
        assert [t.intent for t in ledger.transfers(sweeps=[sweep.id])] == [intent(2)]

    def test_what_grew_waits_with_what_was_there(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moved = claim(ledger)
        assert ledger.finish(moved, Finish(happening=Happening.PROVEN, completed=5), NOW, NOW)
        queue(ledger, [new(intent(1), count=8, happening=Happening.GREW, hold=hold(since=after(5)))], after(5))
        (held,) = ledger.held("ct", "archive", after(5), 10)
        assert (held.completed, held.instance_count, held.since) == (5, 8, after(5))
        assert ledger.transfers()[0].finished_at is None

    def test_what_is_asked_again_waits_with_nothing(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        assert ledger.finish(claim(ledger), Finish(happening=Happening.FAIL, completed=2), NOW, NOW)
        queue(ledger, [new(intent(1), happening=Happening.AGAIN, hold=hold("studies-per-sweep"))], after(5))
        (held,) = ledger.held("ct", "archive", after(5), 10)
        assert (held.completed, held.cause) == (0, "studies-per-sweep")

    def test_the_oldest_come_first_and_what_has_not_settled_stays_out(self, ledger: SqlLedger) -> None:
        waiting = [("settling", 30), ("settling", 10), ("studies-per-sweep", 20), ("instances-per-day", 99)]
        selected = [new(intent(n), hold=hold(c, since=after(s))) for n, (c, s) in enumerate(waiting, 1)]
        queue(ledger, [*selected, new(intent(9), rule="mr", hold=hold()), new(intent(8, source="pacs"), hold=hold())])
        found = ledger.held("ct", "archive", after(10), 10)
        assert {one.intent for one in found} == {intent(2), intent(3), intent(4)}
        assert [one.intent for one in ledger.held("ct", "archive", after(60), 1) if one.cause == "settling"] == [
            intent(2)
        ]
        numbers = [t.id for t in ledger.transfers()]
        assert [one.intent for one in ledger.held_by_others("ct", numbers)] == [intent(9)]

    @pytest.mark.parametrize("happening", [Happening.RELEASE, Happening.WAIT])
    @pytest.mark.parametrize("word", [Happening.HOLD, Happening.RELEASE, Happening.CANCEL])
    def test_a_persons_word_meanwhile_stands(self, ledger: SqlLedger, happening: Happening, word: Happening) -> None:
        queue(ledger, [new(intent(1), hold=hold())])
        said = ledger.apply(ledger.transfers()[0].id, word, after(1))
        assert said.cause == ""
        hold_on = hold("studies-per-sweep") if happening is Happening.WAIT else None
        queue(ledger, [new(intent(1), happening=happening, hold=hold_on)], after(2))
        assert ledger.transfer(said.id) == said

    def test_a_person_holds_only_once(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), hold=hold())])
        number = ledger.transfers()[0].id
        assert ledger.apply(number, Happening.HOLD, after(1)).cause == ""
        with pytest.raises(LedgerError, match="already"):
            ledger.apply(number, Happening.HOLD, after(2))
        assert ledger.apply(number, Happening.RELEASE, after(3)).queued_at == after(1)

    def test_it_is_held_on_for_another_reason(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), hold=hold())])
        prolonged = hold("instances-per-day", since=NOW, seconds=9000)
        queue(ledger, [new(intent(1), count=6, rule="mr", happening=Happening.WAIT, hold=prolonged)], after(700))
        (one,) = ledger.transfers()
        assert (one.state, one.cause, one.instance_count, one.rule) == (State.HELD, "instances-per-day", 6, "ct")
        assert (one.queued_at, one.next_at, one.updated_at) == (NOW, after(9000), after(700))

    def test_a_day_is_charged_for_what_was_really_queued(self, ledger: SqlLedger) -> None:
        day = NOW.date()
        queue(ledger, [new(intent(1))])
        sweep = running_sweep(ledger, after(1))
        report = SweepReport(state=SweepState.COMPLETE)
        selected = [new(intent(1), charge=100), new(intent(2), charge=7), new(intent(3), charge=30)]
        assert ledger.finish_sweep(sweep, report, selected, (), after(1), day)
        assert ledger.queued_on("ct", day) == 37
        assert (ledger.queued_on("mr", day), ledger.queued_on("ct", day + timedelta(days=1))) == (0, 0)
        later = running_sweep(ledger, after(2))
        assert ledger.finish_sweep(later, report, [new(intent(4), charge=3)], (), after(2), day)
        assert ledger.queued_on("ct", day) == 40
        much_later = running_sweep(ledger, after(3))
        selected = [new(intent(5), charge=1)]
        assert ledger.finish_sweep(much_later, report, selected, (), after(3), day + timedelta(days=30))
        assert ledger.queued_on("ct", day) == 0, "old days are forgotten"
