"""What every ledger does, whatever database it lives in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path

import pytest

from router.domain.dicom import SubOperationCounts
from router.domain.overview import ServiceInfo
from router.domain.receipt import Receipt
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Finish, Happening, Instance, State, TransferFact
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import ADAPTERS, LEASE, NOW, after, claim, intent, look, new, queue, running_sweep

COMPLETE = SweepReport(state=SweepState.COMPLETE, matches=3, selected=1, queries=2)


@pytest.fixture(params=sorted(ADAPTERS))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ADAPTERS[request.param](tmp_path)


@pytest.fixture
def ledger(url: str) -> Iterator[SqlLedger]:
    with SqlLedger.open(url) as opened:
        yield opened


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

    def test_cancelling_takes_it_from_its_worker(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1))])
        moving = claim(ledger)
        cancelled = ledger.apply(moving.id, Happening.CANCEL, after(1))
        assert not ledger.renew(moving, after(2), LEASE, None)
        assert ledger.finish(moving, Finish(happening=Happening.MOVED), NOW, after(2)) is None
        assert ledger.expire_leases(after(999)) == 0
        assert ledger.transfer(moving.id) == cancelled

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
        rows = {(row.source, row.destination, row.state): (row.count, row.oldest_queued_at) for row in ledger.backlog()}
        assert rows == {
            ("archive", "ws", State.QUEUED): (2, NOW),
            ("archive", "ws", State.MOVING): (1, None),
            ("archive", "local", State.QUEUED): (1, after(3)),
        }

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
