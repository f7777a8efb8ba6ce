"""Appointments in every ledger: news, whose turn it is, what is queued for them and cancelled with them, merges."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.appointment import Appointment, AppointmentReport, AppointmentState, News, Notice
from router.domain.dicom import Identifier
from router.domain.hl7 import Merge
from router.domain.relevance import Prior
from router.domain.sweep import SweepDue
from router.domain.transfer import (
    APPOINTMENT_CANCELLED,
    WAITED,
    Finish,
    Happening,
    Intent,
    NewTransfer,
    State,
    Transfer,
)
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from router.ledger.packing import pack_identifier, unpack_identifier
from tests.contract.ledgers import LEASE, NOW, after, claim, look, new, queue

HOUR = timedelta(hours=1)
REPEAT = {"mr": 3600.0}
DONE = AppointmentReport(state=AppointmentState.DONE, queries=2, candidates=3)
S, N = AppointmentState, News


def notice(key: str = "a", **changes: object) -> Notice:
    base = Notice(
        rule="mr",
        trigger="order",
        key=key,
        source="archive",
        current=Identifier.of(PatientID="P", Modality="MR"),
        patient_id="P",
        start_at=NOW + 48 * HOUR,
        due_at=NOW,
    )
    return msgspec.structs.replace(base, **changes)


def note(ledger: SqlLedger, *notices: Notice, at: datetime = NOW) -> list[News]:
    return ledger.note(notices, at, REPEAT)


def taken_up(ledger: SqlLedger, at: datetime = NOW) -> Appointment:
    claimed = ledger.claim_appointment(["archive"], at, LEASE)
    assert claimed is not None
    return claimed


def wanted(number: int, destination: str = "ws") -> Intent:
    return Intent("archive", f"1.2.826.{number}", "", destination)


def prior(number: int, *, taken: bool = True, group: str = "g") -> Prior:
    code = "taken" if taken else "full"
    return Prior(
        study_instance_uid=wanted(number).study_instance_uid,
        destination="ws",
        taken=taken,
        code=code,
        reason=f"it is {code}",
        group=group,
    )


def found(
    ledger: SqlLedger,
    one: Appointment,
    numbers: Sequence[int] = (1, 2),
    at: datetime = NOW,
    *,
    queued: Sequence[NewTransfer] | None = None,
) -> None:
    """End a look that chose the studies of these numbers."""
    record = [*(prior(number) for number in numbers), prior(99, taken=False)]
    if queued is None:
        queued = [new(wanted(number), rule="mr") for number in numbers]
    assert ledger.finish_appointment(one, DONE, record, queued, at)


def brought(ledger: SqlLedger, *notices: Notice, numbers: Sequence[int] = (1, 2), at: datetime = NOW) -> Appointment:
    """An appointment whose priors were chosen and queued."""
    note(ledger, *notices, at=at)
    one = taken_up(ledger, at)
    found(ledger, one, numbers, at)
    return one


def by_number(ledger: SqlLedger) -> dict[int, Transfer]:
    return {int(one.intent.study_instance_uid.rsplit(".", 1)[1]): one for one in ledger.transfers()}


def states(ledger: SqlLedger) -> dict[int, State]:
    return {number: one.state for number, one in by_number(ledger).items()}


class TestNews:
    def test_is_there_after_the_ledger_was_opened_anew(self, url: str) -> None:
        with SqlLedger.open(url) as ledger:
            assert note(ledger, notice("a"), notice("b"), notice("a")) == [N.NEW, N.NEW, N.REPEATED]
        with SqlLedger.open(url) as ledger:
            (first, second) = ledger.appointments()
            assert [first.key, second.key] == ["a", "b"]
            said = notice("a")
            for name in ("rule", "trigger", "source", "current", "patient_id", "start_at", "due_at"):
                assert getattr(first, name) == getattr(said, name)
            assert (first.state, first.noted_at) == (S.WAITING, NOW)
            assert ledger.appointment(first.id) == first
            assert ledger.appointment(999) is None

    def test_is_one_whole_or_nothing(self, ledger: SqlLedger) -> None:
        with pytest.raises(LedgerError):
            note(ledger, notice("a"), notice("b", patient_id="\ud800"))
        assert ledger.appointments() == []

    def test_of_the_same_key_in_another_rule_is_another_appointment(self, ledger: SqlLedger) -> None:
        assert note(ledger, notice(), notice(rule="ct")) == [N.NEW, N.NEW]
        assert [one.rule for one in ledger.appointments(rule="ct")] == ["ct"]

    def test_nothing_is_written_about_the_end_of_the_unknown(self, ledger: SqlLedger) -> None:
        assert note(ledger, notice(cancelled=True)) == [N.UNKNOWN]
        assert ledger.appointments() == []

    def test_an_end_leaves_the_rest_as_it_was(self, ledger: SqlLedger) -> None:
        note(ledger, notice())
        assert note(ledger, notice(cancelled=True, start_at=None, current=Identifier.of(PatientID="P"))) == [
            N.CANCELLED
        ]
        (one,) = ledger.appointments()
        assert (one.state, one.start_at, one.current) == (S.CANCELLED, notice().start_at, notice().current)

    def test_a_change_makes_a_look_that_is_under_way_count_for_nothing(self, ledger: SqlLedger) -> None:
        note(ledger, notice())
        one = taken_up(ledger)
        assert note(ledger, notice(current=Identifier.of(PatientID="P", Modality="CT"))) == [N.CHANGED]
        assert not ledger.renew_appointment(one, NOW, LEASE)
        assert not ledger.finish_appointment(one, DONE, [prior(1)], [new(wanted(1))], NOW)
        assert ledger.transfers() == []
        assert taken_up(ledger).current.text("Modality") == "CT"

    def test_another_time_leaves_a_look_that_is_under_way_and_its_transfers_get_it(self, ledger: SqlLedger) -> None:
        note(ledger, notice())
        one = taken_up(ledger)
        moved = notice(start_at=NOW + 5 * HOUR)
        assert note(ledger, moved) == [N.MOVED]
        found(ledger, one)
        assert {t.deadline_at for t in ledger.transfers()} == {moved.start_at}

    def test_a_persons_is_looked_at_at_once_and_found_by_its_sweep(self, ledger: SqlLedger) -> None:
        (sweep,) = ledger.add_sweeps([SweepDue(rule="mr", source="archive", due_at=NOW, manual=True)])
        later = notice(due_at=NOW + HOUR)
        assert ledger.note([later], NOW, REPEAT) == [N.NEW]
        assert ledger.note([later], NOW, REPEAT, again=True, sweep_id=sweep) == [N.AGAIN]
        (one,) = ledger.appointments(sweeps=[sweep])
        assert one.due_at == NOW
        found(ledger, taken_up(ledger))
        assert {t.id for t in ledger.transfers(sweeps=[sweep])} == {t.id for t in ledger.transfers()}
        assert ledger.note([later], after(7200), REPEAT) == [N.AGAIN]
        assert ledger.appointments(sweeps=[sweep]) == []

    def test_all_of_a_rule_that_wait_are_hastened_for_a_person(self, ledger: SqlLedger) -> None:
        note(ledger, notice("a", due_at=NOW + HOUR), notice("b", due_at=NOW - HOUR), notice("c", rule="ct"))
        (sweep,) = ledger.add_sweeps([SweepDue(rule="mr", source="archive", due_at=NOW, manual=True)])
        assert ledger.hasten("mr", sweep, NOW) == 2
        assert [(one.key, one.due_at) for one in ledger.appointments(sweeps=[sweep])] == [
            ("b", NOW - HOUR), ("a", NOW),
        ]  # fmt: skip


class TestTurns:
    def test_what_starts_first_is_taken_first_of_what_is_due_at_these_sources(self, ledger: SqlLedger) -> None:
        note(
            ledger,
            notice("late", start_at=NOW + 9 * HOUR),
            notice("soon", start_at=NOW + HOUR),
            notice("not-due", start_at=NOW + HOUR / 2, due_at=after(1)),
            notice("elsewhere", start_at=NOW, source="pacs"),
            notice("at-once", start_at=None, due_at=NOW - HOUR),
        )
        assert ledger.waiting_sources() == {"archive", "pacs"}
        taken = [taken_up(ledger).key for _ in range(3)]
        assert taken == ["at-once", "soon", "late"]
        assert ledger.claim_appointment(["archive"], NOW, LEASE) is None
        assert ledger.claim_appointment([], NOW, LEASE) is None
        both = ledger.claim_appointment(["archive", "pacs"], after(1), LEASE)
        assert both is not None
        assert both.key == "elsewhere"

    def test_an_abandoned_one_is_due_again_and_its_worker_comes_too_late(self, ledger: SqlLedger) -> None:
        note(ledger, notice())
        first = taken_up(ledger)
        assert ledger.renew_appointment(first, NOW, 2 * LEASE)
        assert ledger.claim_appointment(["archive"], after(LEASE + 1), LEASE) is None
        assert ledger.expire_leases(after(2 * LEASE)) == 1
        second = taken_up(ledger, after(2 * LEASE))
        assert second.fence > first.fence
        assert not ledger.renew_appointment(first, NOW, LEASE)
        assert not ledger.finish_appointment(first, DONE, [], [], NOW)
        third = taken_up(ledger, after(4 * LEASE))  # a claim finds it as well
        assert third.id == first.id

    @pytest.mark.parametrize("url", ["sqlite"], indirect=True)
    def test_a_service_that_begins_alone_takes_up_what_the_dead_one_had(self, url: str) -> None:
        with SqlLedger.open(url) as ledger:
            note(ledger, notice())
            taken_up(ledger)
        with SqlLedger.open(url) as ledger:
            assert ledger.attend(NOW) == 1
            assert taken_up(ledger).key == "a"

    def test_two_at_once_never_take_the_same(self, url: str) -> None:
        with SqlLedger.open(url) as one, SqlLedger.open(url) as other:
            note(one, *(notice(str(number)) for number in range(40)))

            def work(ledger: SqlLedger) -> list[int]:
                taken = []
                while (claimed := ledger.claim_appointment(["archive"], NOW, LEASE)) is not None:
                    taken.append(claimed.id)
                return taken

            with ThreadPoolExecutor(4) as pool:
                taken = [number for numbers in pool.map(work, [one, other, one, other]) for number in numbers]
        assert sorted(taken) == sorted(set(taken))
        assert len(taken) == 40

    def test_two_that_note_the_same_at_once_make_one(self, url: str) -> None:
        with SqlLedger.open(url) as one, SqlLedger.open(url) as other, ThreadPoolExecutor(4) as pool:
            news = list(pool.map(lambda ledger: note(ledger, notice())[0], [one, other] * 10))
            assert sorted(news) == sorted([N.NEW] + [N.REPEATED] * 19)
            assert len(one.appointments()) == 1


class TestLooks:
    def test_one_that_is_tried_again_keeps_what_was_found_before(self, ledger: SqlLedger) -> None:
        one = brought(ledger, notice())
        ledger.note([notice()], NOW, REPEAT, again=True)
        again = taken_up(ledger)
        report = AppointmentReport(state=S.WAITING, due_at=after(30), cause="refused", reason="It is away.")
        assert ledger.finish_appointment(again, report, [], [], NOW)
        now = ledger.appointment(one.id)
        assert now is not None
        assert (now.state, now.due_at, now.attempts, now.cause, now.taken) == (S.WAITING, after(30), 1, "refused", 2)
        assert len(ledger.priors_of(one.id)) == 3
        assert ledger.claim_appointment(["archive"], after(29), LEASE) is None
        assert taken_up(ledger, after(30)).attempts == 1

    def test_one_that_failed_leaves_what_was_brought_before(self, ledger: SqlLedger) -> None:
        one = brought(ledger, notice())
        ledger.note([notice()], NOW, REPEAT, again=True)
        report = AppointmentReport(state=S.FAILED, cause="refused", reason="It is away.")
        assert ledger.finish_appointment(taken_up(ledger), report, [], [], after(1))
        now = ledger.appointment(one.id)
        assert now is not None
        assert (now.state, now.finished_at, now.taken) == (S.FAILED, after(1), 2)
        assert states(ledger) == {1: State.QUEUED, 2: State.QUEUED}

    def test_each_decision_is_remembered_and_found_by_its_study(self, ledger: SqlLedger) -> None:
        one = brought(ledger, notice(), numbers=[1, 2])
        two = brought(ledger, notice("b"), numbers=[2], at=after(1))
        assert ledger.priors_of(one.id) == [prior(1), prior(2), prior(99, taken=False)]
        uid = wanted(2).study_instance_uid
        assert [(a.id, p) for a, p in ledger.priors_considered(uid)] == [(two.id, prior(2)), (one.id, prior(2))]
        assert len(ledger.priors_considered(uid, limit=1)) == 1
        shared = by_number(ledger)[2].id
        assert [(a.id, p) for a, p in ledger.reasons_of(shared)] == [(two.id, prior(2)), (one.id, prior(2))]
        done = ledger.appointment(one.id)
        assert done is not None
        assert (done.state, done.candidates, done.taken, done.finished_at) == (S.DONE, 3, 2, NOW)

    def test_what_a_look_remembers_has_a_bound_and_what_was_taken_goes_first(self, ledger: SqlLedger) -> None:
        note(ledger, notice())
        one = taken_up(ledger)
        record = [*(prior(number, taken=False) for number in range(700)), prior(999)]
        assert ledger.finish_appointment(one, DONE, record, [], NOW)
        kept = ledger.priors_of(one.id)
        assert len(kept) == 500
        assert kept[0] == prior(999)

    def test_what_a_visit_has_brought_is_told_by_destination(self, ledger: SqlLedger) -> None:
        brought(ledger, notice("a", start_at=NOW + 48 * HOUR), numbers=[1])
        brought(ledger, notice("b", start_at=None), numbers=[2])
        brought(ledger, notice("c", patient_id="Q"), numbers=[3])
        brought(ledger, notice("d", start_at=NOW + 48 * HOUR), numbers=[4])
        note(ledger, notice("d", cancelled=True))

        def of(first: datetime, last: datetime) -> dict[str, dict[str, str]]:
            return ledger.brought("mr", "P", "", first, last)

        at = NOW + 48 * HOUR
        assert of(at, at) == {"ws": {wanted(1).study_instance_uid: "g"}}
        assert of(NOW, NOW) == {"ws": {wanted(2).study_instance_uid: "g"}}
        assert ledger.brought("ct", "P", "", NOW, at) == {}
        assert ledger.brought("mr", "P", "H", NOW, at) == {}

    def test_the_expected_are_those_of_a_time_that_are_not_cancelled(self, ledger: SqlLedger) -> None:
        note(ledger, notice("a"), notice("b"), notice("c", start_at=NOW), notice("d", start_at=None))
        note(ledger, notice("b", cancelled=True))
        at = NOW + 48 * HOUR
        assert [one.key for one in ledger.expected("mr", at, at)] == ["a"]
        assert {one.key for one in ledger.expected("mr", NOW, at)} == {"a", "c"}
        assert ledger.expected("ct", NOW, at) == []


class TestTransfers:
    def test_have_the_start_as_their_deadline_and_the_earlier_goes_first(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(wanted(50))], NOW - HOUR)
        brought(ledger, notice("late", start_at=NOW + 2 * HOUR), numbers=[1])
        brought(ledger, notice("soon", start_at=NOW + HOUR), numbers=[2])
        brought(ledger, notice("far", start_at=NOW + 90 * HOUR), numbers=[3])
        assert by_number(ledger)[1].deadline_at == NOW + 2 * HOUR
        assert by_number(ledger)[1].next_at == NOW + 2 * HOUR - WAITED
        order = [claim(ledger).intent for _ in range(4)]
        assert order == [wanted(2), wanted(1), wanted(50), wanted(3)]

    def test_of_a_sweep_that_are_wanted_get_the_deadline_but_are_not_cancelled_with_it(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(wanted(1))], NOW - HOUR)
        note(ledger, notice())
        found(ledger, taken_up(ledger), [1], queued=[])
        assert by_number(ledger)[1].deadline_at == notice().start_at
        note(ledger, notice(cancelled=True))
        assert states(ledger) == {1: State.QUEUED}
        assert by_number(ledger)[1].deadline_at is None

    def test_of_two_appointments_have_the_earlier_start_and_stay_while_one_of_them_does(
        self, ledger: SqlLedger
    ) -> None:
        brought(ledger, notice("a"))
        sooner = notice("b", start_at=NOW + 30 * HOUR)
        note(ledger, sooner)
        found(ledger, taken_up(ledger), [1, 2], queued=[])
        assert by_number(ledger)[1].deadline_at == sooner.start_at
        assert note(ledger, notice("b", cancelled=True)) == [N.CANCELLED]
        assert by_number(ledger)[1].deadline_at == notice().start_at
        note(ledger, sooner)
        note(ledger, notice("a", cancelled=True))
        assert states(ledger) == {1: State.QUEUED, 2: State.QUEUED}
        assert by_number(ledger)[1].deadline_at == sooner.start_at

    def test_follow_an_appointment_that_moves_and_what_tries_again_keeps_its_time(self, ledger: SqlLedger) -> None:
        brought(ledger, notice())
        retried = claim(ledger)
        later = NOW + 3 * HOUR
        ledger.finish(retried, Finish(happening=Happening.RETRY, next_at=later, moved=True), NOW, NOW)
        moved = notice(start_at=NOW + 4 * HOUR)
        assert note(ledger, moved, at=after(1)) == [N.MOVED]
        assert {one.deadline_at for one in ledger.transfers()} == {moved.start_at}
        turns = {one.id: one.next_at for one in ledger.transfers()}
        assert turns.pop(retried.id) == later
        assert list(turns.values()) == [NOW + 4 * HOUR - WAITED]

    def test_what_has_begun_goes_on_when_the_appointment_is_cancelled(self, ledger: SqlLedger) -> None:
        brought(ledger, notice(), numbers=[1, 2, 3])
        moving = claim(ledger)
        held = claim(ledger)
        ledger.finish(held, Finish(happening=Happening.INTERRUPTED), NOW, NOW)
        ledger.apply(held.id, Happening.HOLD, NOW)
        assert note(ledger, notice(cancelled=True), at=after(5)) == [N.CANCELLED]
        by_id = {one.id: one for one in ledger.transfers()}
        assert by_id.pop(moving.id).state is State.MOVING
        assert by_id.pop(held.id).state is State.HELD  # a person's hold
        (rest,) = by_id.values()
        assert (rest.state, rest.cause, rest.finished_at) == (State.CANCELLED, APPOINTMENT_CANCELLED, after(5))
        assert rest.reason
        assert ledger.finish(moving, Finish(happening=Happening.MOVED, moved=True), NOW, NOW) is not None

    def test_what_was_cancelled_is_queued_again_with_the_new_deadline_or_none(self, ledger: SqlLedger) -> None:
        brought(ledger, notice(), numbers=[1, 2])
        note(ledger, notice(cancelled=True))
        queue(ledger, [new(wanted(1), happening=Happening.AGAIN)], after(1))
        assert by_number(ledger)[1].deadline_at is None
        revived = notice(start_at=NOW + 3 * HOUR, due_at=after(2))
        assert note(ledger, revived, at=after(2)) == [N.REVIVED]
        asked = [new(wanted(2), rule="mr", happening=Happening.AGAIN)]
        found(ledger, taken_up(ledger, after(2)), [1, 2], after(2), queued=asked)
        assert states(ledger) == {1: State.QUEUED, 2: State.QUEUED}
        assert {one.deadline_at for one in ledger.transfers()} == {revived.start_at}

    def test_of_an_appointment_that_is_over_have_the_deadline_of_the_next(self, ledger: SqlLedger) -> None:
        brought(ledger, notice("a", start_at=NOW + HOUR), numbers=[1])
        ledger.finish(claim(ledger), Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
        ledger.finish(look(ledger), Finish(happening=Happening.SOME_MISSING), NOW, NOW)
        at = NOW + 24 * HOUR
        following = notice("b", start_at=at + 24 * HOUR, due_at=at)
        note(ledger, following, at=at)
        found(ledger, taken_up(ledger, at), [1], at, queued=[new(wanted(1), rule="mr", happening=Happening.AGAIN)])
        assert by_number(ledger)[1].deadline_at == following.start_at

    def test_that_a_whole_new_look_does_not_want_any_more_are_cancelled(self, ledger: SqlLedger) -> None:
        brought(ledger, notice(), numbers=[1, 2])
        note(ledger, notice(current=Identifier.of(PatientID="P", Modality="CT")))
        found(ledger, taken_up(ledger), [2, 3], queued=[new(wanted(3), rule="mr")])
        assert states(ledger) == {1: State.CANCELLED, 2: State.QUEUED, 3: State.QUEUED}

    def test_stay_where_the_answer_was_not_whole(self, ledger: SqlLedger) -> None:
        brought(ledger, notice(), numbers=[1, 2])
        ledger.note([notice()], NOW, REPEAT, again=True)
        report = msgspec.structs.replace(DONE, complete=False)
        assert ledger.finish_appointment(taken_up(ledger), report, [prior(2)], [], NOW)
        assert states(ledger) == {1: State.QUEUED, 2: State.QUEUED}

    def test_become_urgent_when_their_deadline_is_near(self, ledger: SqlLedger) -> None:
        brought(ledger, notice("a", start_at=NOW + HOUR), numbers=[1])
        brought(ledger, notice("b"), numbers=[2])
        queue(ledger, [new(wanted(3))])
        assert ledger.hasten_transfers(NOW + HOUR) == 0
        assert ledger.hasten_transfers(NOW + 2 * HOUR) == 1
        assert ledger.hasten_transfers(NOW + 2 * HOUR) == 0
        assert {number: one.priority for number, one in by_number(ledger).items()} == {1: 0, 2: 1, 3: 1}

    def test_delivered_since_counts_what_ended_well(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(wanted(number), count=number) for number in (1, 2, 3)])
        for happening in (Happening.PROVEN, Happening.FAIL):
            ledger.finish(claim(ledger), Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
            ledger.finish(look(ledger), Finish(happening=happening), NOW, NOW)
        studies = [wanted(number).study_instance_uid for number in (1, 2, 3)]
        assert ledger.delivered_since("archive", "ws", studies, NOW) == {studies[0]: 1}
        assert ledger.delivered_since("archive", "ws", studies, after(1)) == {}
        assert ledger.delivered_since("archive", "local", studies, NOW) == {}


class TestMerges:
    def test_open_appointments_and_later_news_go_over_to_the_new_id(self, ledger: SqlLedger) -> None:
        note(ledger, notice())
        looking = taken_up(ledger)
        ledger.merge_patients([Merge("P", "", "Q", "")], NOW)
        assert not ledger.finish_appointment(looking, DONE, [], [], NOW)
        (one,) = ledger.appointments()
        assert (one.patient_id, one.current.text("PatientID"), one.state) == ("Q", "Q", S.WAITING)
        renamed = notice(patient_id="Q", current=Identifier.of(PatientID="Q", Modality="MR"))
        assert note(ledger, notice(), renamed) == [N.REPEATED, N.REPEATED]

    def test_chains_are_followed_and_circles_are_cut(self, ledger: SqlLedger) -> None:
        ledger.merge_patients([Merge("A", "", "B", ""), Merge("B", "", "C", "")], NOW)
        assert ledger.former_ids("C", "") == [("A", ""), ("B", "")]
        assert ledger.former_ids("B", "") == []
        ledger.merge_patients([Merge("C", "", "A", ""), Merge("X", "", "X", "")], after(1))
        assert set(ledger.former_ids("A", "")) == {("B", ""), ("C", "")}
        note(ledger, notice(patient_id="B"))
        assert ledger.appointments()[0].patient_id == "A"
        assert ledger.former_ids("X", "") == []

    def test_an_issuer_of_another_does_not_agree_and_none_is_one_of_its_own(self, ledger: SqlLedger) -> None:
        ledger.merge_patients([Merge("P", "H", "Q", "H")], NOW)
        note(ledger, notice("a", issuer="H"), notice("b", issuer="K"), notice("c"))
        assert {one.key: one.patient_id for one in ledger.appointments()} == {"a": "Q", "b": "P", "c": "P"}
        assert ledger.former_ids("Q", "H") == [("P", "H")]
        assert ledger.former_ids("Q", "") == []
        assert ledger.former_ids("Q", "K") == []

    def test_former_ids_have_a_bound(self, ledger: SqlLedger) -> None:
        ledger.merge_patients([Merge(f"old {number}", "", "P", "") for number in range(30)], NOW)
        assert len(ledger.former_ids("P", "")) == 10

    @given(st.lists(st.tuples(st.sampled_from("ABCDE"), st.sampled_from("ABCDE")), max_size=12))
    def test_an_id_that_gave_way_is_never_one_that_others_gave_way_to(self, pairs: list[tuple[str, str]]) -> None:
        with SqlLedger.in_memory() as ledger:
            for old, new_id in pairs:
                ledger.merge_patients([Merge(old, "", new_id, "")], NOW)
            former = {one: {old for old, _ in ledger.former_ids(one, "")} for one in "ABCDE"}
        assert not {one for one in former if former[one]} & {old for olds in former.values() for old in olds}


def test_only_what_ended_and_is_long_past_is_forgotten(ledger: SqlLedger) -> None:
    brought(ledger, notice("done", start_at=NOW))
    note(ledger, notice("waiting", start_at=NOW), notice("to come"), notice("gone"))
    note(ledger, notice("to come", cancelled=True), notice("gone", cancelled=True))
    assert ledger.forget_appointments(NOW) == 0
    assert ledger.forget_appointments(after(1)) == 1
    assert ledger.forget_appointments(NOW + 49 * HOUR) == 2
    assert [one.key for one in ledger.appointments()] == ["waiting"]
    transfer = by_number(ledger)[1]
    assert ledger.reasons_of(transfer.id) == []
    assert ledger.priors_considered(transfer.intent.study_instance_uid) == []


def test_lists_are_narrowed_by_state_and_limit_the_soonest_due_first(ledger: SqlLedger) -> None:
    note(ledger, *(notice(str(number), due_at=after(-number)) for number in range(3)))
    taken_up(ledger)
    assert [one.key for one in ledger.appointments(limit=2)] == ["2", "1"]
    assert len(ledger.appointments(states=[S.LOOKING])) == 1
    assert len(ledger.appointments(states=[S.WAITING, S.LOOKING], rule="mr")) == 3
    assert ledger.appointments(states=[S.DONE]) == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
IDENTIFIERS = st.recursive(
    st.builds(Identifier, st.dictionaries(st.integers(0, 2**32 - 1), st.lists(TEXT, max_size=3).map(tuple))),
    lambda inner: st.builds(
        Identifier, st.dictionaries(st.integers(0, 2**32 - 1), st.lists(TEXT | inner, max_size=2).map(tuple))
    ),
    max_leaves=5,
)


@given(IDENTIFIERS)
def test_a_data_set_comes_back_as_it_was_put_in(identifier: Identifier) -> None:
    assert unpack_identifier(pack_identifier(identifier)) == identifier


def test_times_keep_their_microseconds(ledger: SqlLedger) -> None:
    at = datetime(2026, 3, 3, 1, 2, 3, 4, tzinfo=UTC)
    note(ledger, notice(start_at=at))
    assert ledger.appointments()[0].start_at == at
