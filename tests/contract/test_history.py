"""The history, in every ledger: what is long over goes there, stays known in every way, and comes back unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.history import Archived, Mark
from router.domain.rule import LOCAL
from router.domain.transfer import ENDED, UNDER_WAY, Finish, Happening, Instance, Intent, Route, State, Transfer
from router.errors import LedgerError
from router.ledger import history
from router.ledger.ledger import SqlLedger
from router.ledger.tables import attempts, transfers
from tests.contract import test_arrivals as arrived
from tests.contract.ledgers import LEASE, NOW, after, claim, hold, intent, look, new, queue
from tests.contract.test_appointments import brought, found, note, notice, taken_up, wanted
from tests.contract.test_ledger_sqlite import Plans
from tests.contract.test_rates import moved
from tests.contract.test_stored import receipt, uid
from tests.support.departures import pass_on

DAY = 86400.0
LATER = after(100 * DAY)
A, B = Instance("s", "1"), Instance("s", "2")


def archive(ledger: SqlLedger, before: float = 50 * DAY, most: int = 500, now: float = 100 * DAY) -> int:
    """A whole pass; how many went."""
    mark: Mark | None = None
    moved_there = 0
    for _ in range(1000):
        done = ledger.archive(mark, after(before), most, after(now))
        moved_there, mark = moved_there + done.moved, done.mark
        if mark is None:
            return moved_there
    raise AssertionError("a pass does not end")


def ended(ledger: SqlLedger, number: int = 1, happening: Happening = Happening.PROVEN, at: float = 0.0) -> Transfer:
    """A transfer that was moved, looked at, and ended so."""
    queue(ledger, [new(intent(number))], after(at))
    one = claim(ledger, after(at))
    ledger.finish(one, Finish(happening=Happening.MOVED, completed=4, failed=1, status=0xB000), after(at), after(at))
    one = look(ledger, after(at))
    ledger.set_expected(one, [A, B])
    ledger.set_missing(one, [B])
    ledger.set_delivered(one, [A])
    ledger.set_expected_series(one, {"s": 2})
    ledger.set_refused(one, {"why": ["2"]})
    done = ledger.finish(one, Finish(happening=happening, completed=5, reason="So."), after(at), after(at))
    assert done is not None
    return done


def everything(ledger: SqlLedger, number: int) -> list[Any]:
    """All that can be asked by a transfer's number."""
    return [
        ledger.transfer(number),
        ledger.attempts(number),
        ledger.expected_instances(number),
        ledger.missing_instances(number),
        ledger.delivered_instances(number),
        ledger.expected_series(number),
        ledger.refused_instances(number),
    ]


class TestGoing:
    def test_what_ended_long_ago_goes_and_nothing_else(self, ledger: SqlLedger) -> None:
        old, young = ended(ledger), ended(ledger, 2, at=60 * DAY)
        queue(ledger, [new(intent(3)), new(intent(4), hold=hold())])
        assert archive(ledger) == 1
        assert [one.id for one in ledger.history()] == [old.id]
        assert {one.intent for one in ledger.transfers()} == {young.intent, intent(3), intent(4)}
        assert archive(ledger) == 0

    @pytest.mark.parametrize("most", [1, 2, 3, 500])
    def test_steps_of_any_size_go_through_every_state(self, ledger: SqlLedger, most: int) -> None:
        verdicts = [Happening.PROVEN, Happening.SOME_MISSING, Happening.FAIL, Happening.CANCEL, Happening.NO_EVIDENCE]
        numbers = {ended(ledger, at + 1, one, at=at).id for at, one in enumerate([*verdicts, *verdicts])}
        assert archive(ledger, most=most) == 10
        assert {one.id for one in ledger.history()} == numbers
        assert ledger.transfers() == []

    def test_an_empty_ledger_is_gone_through_in_a_step_for_each_state(self, ledger: SqlLedger) -> None:
        mark: Mark | None = None
        steps = 0
        while steps == 0 or mark is not None:
            done = ledger.archive(mark, NOW, 500, NOW)
            mark, steps = done.mark, steps + 1
            assert done.moved == 0
        assert steps == len(ENDED)
        assert done == Archived(moved=0, mark=None)

    def test_counts_are_of_what_is_not_history(self, ledger: SqlLedger) -> None:
        ended(ledger)
        ended(ledger, 2, at=60 * DAY)
        assert [(row.state, row.count) for row in ledger.backlog()] == [("complete", 2)]
        archive(ledger)
        assert [(row.state, row.count) for row in ledger.backlog() if row.count] == [("complete", 1)]

    def test_priors_stay_as_long_as_their_appointment_is_remembered(self, ledger: SqlLedger) -> None:
        brought(ledger, notice(), numbers=[1])
        one = claim(ledger)
        ledger.finish(one, Finish(happening=Happening.PROVEN, moved=True), NOW, NOW)
        assert archive(ledger) == 0
        assert len(ledger.reasons_of(one.id)) == 1
        ledger.forget_appointments(LATER)
        assert archive(ledger) == 1

    def test_what_may_yet_be_committed_stays(self, ledger: SqlLedger) -> None:
        done = ended(ledger)
        ledger.apply(done.id, Happening.AGAIN, after(1))
        one = claim(ledger, after(1))
        ledger.finish(one, Finish(happening=Happening.MOVED), after(1), after(1))
        one = look(ledger, after(1))
        assert ledger.request_commitment(one, "ws", ["2.25.1"], after(90 * DAY))
        ledger.finish(one, Finish(happening=Happening.PROVEN), after(1), after(2))
        assert archive(ledger) == 0
        assert len(ledger.commitments(one.id)) == 1
        assert archive(ledger, now=200 * DAY) == 1


class TestKnown:
    @pytest.mark.parametrize("happening", [Happening.PROVEN, Happening.SOME_MISSING, Happening.FAIL, Happening.CANCEL])
    def test_all_that_is_asked_by_number_is_as_it_was(self, ledger: SqlLedger, happening: Happening) -> None:
        number = ended(ledger, 1, happening).id
        before = everything(ledger, number)
        assert archive(ledger) == 1
        assert everything(ledger, number) == before

    def test_all_columns_of_a_transfer_are_kept(self) -> None:
        kept = {*history._OWN, *history._PACKED}
        # What a worker or a person wants of one under way; an ended one has neither.
        assert {column.name for column in transfers.c} - kept == {"wish", "lease_until"}
        assert {*history._Step.__struct_fields__, "transfer_id"} == {column.name for column in attempts.c}

    def test_facts_are_of_both(self, ledger: SqlLedger) -> None:
        studies = [intent(number).study_instance_uid for number in (1, 2, 3)]
        ended(ledger)
        ended(ledger, 2, Happening.FAIL, at=60 * DAY)
        queue(ledger, [new(intent(3, series="1.2"))])
        before = ledger.facts("archive", studies)
        assert len(before) == 3
        archive(ledger)
        assert ledger.facts("archive", studies) == before
        assert ledger.facts("other", studies) == {}

    def test_lists_say_the_history_where_a_study_is_named(self, ledger: SqlLedger) -> None:
        old = ended(ledger)
        ended(ledger, 2)
        ended(ledger, 3, at=60 * DAY)
        archive(ledger)
        assert ledger.transfers(study_instance_uid=old.intent.study_instance_uid) == [old]
        assert ledger.transfers(study_instance_uid=old.intent.study_instance_uid, states=[State.FAILED]) == []
        assert len(ledger.transfers()) == 1
        listed = ledger.history(rule="ct", source="archive", destination="ws")
        assert [one.intent for one in listed] == [intent(2), intent(1)]
        assert ledger.history(limit=1) == listed[:1]
        assert ledger.history(states=[State.COMPLETE]) == listed
        assert ledger.history(states=[State.FAILED]) == []
        for nothing in ({"rule": "x"}, {"source": "x"}, {"destination": "x"}, {"study_instance_uid": "9"}):
            assert ledger.history(**nothing) == []  # type: ignore[arg-type]

    def test_paces_and_callers_of_a_quiet_route_are_known_from_it(self, ledger: SqlLedger) -> None:
        moved(ledger, 1, 10.0, 100)
        moved(ledger, 2, 20.0, 200)
        ledger.add_receipts([receipt(1)])
        route = Route("archive", "ws")
        before = ledger.past_moves([route])
        pace, callers = before[route], ledger.stored_from("archive")
        archive(ledger)
        assert ledger.transfers() == []
        assert ledger.past_moves([route]) == {route: pace}
        assert ledger.stored_from("archive") == callers
        moved(ledger, 3, 5.0, 50)
        assert len(ledger.past_moves([route])[route]) == 3

    def test_studies_behind_a_pseudonym_are_found(self, ledger: SqlLedger) -> None:
        ended(ledger)
        ended(ledger, 2, at=60 * DAY)
        archive(ledger)
        assert len(ledger.studies_where(lambda uid: True)) == 2
        assert len(ledger.studies_where(lambda uid: True, 1)) == 1

    def test_what_was_delivered_lately_is_told(self, ledger: SqlLedger) -> None:
        study = ended(ledger).intent.study_instance_uid
        archive(ledger)
        assert ledger.delivered_since("archive", "ws", [study], after(-1)) == {study: 5}
        assert ledger.delivered_since("archive", "ws", [study], after(1)) == {}


class TestComingBack:
    def test_a_known_study_is_not_moved_twice(self, ledger: SqlLedger) -> None:
        old = ended(ledger)
        archive(ledger)
        queue(ledger, [new(intent(1))], LATER)
        assert ledger.claim_transfer(["archive"], LATER, LEASE) is None
        assert ledger.history() == [old]

    def test_one_that_grew_is_queued_under_its_number_with_what_was_done_for_it(self, ledger: SqlLedger) -> None:
        old = ended(ledger)
        done = ledger.attempts(old.id)
        archive(ledger)
        queue(ledger, [new(intent(1), count=9, happening=Happening.GREW)], LATER)
        assert ledger.history() == []
        one = claim(ledger, LATER)
        assert (one.id, one.instance_count, one.fence > old.fence) == (old.id, 9, True)
        assert ledger.attempts(one.id) == done
        assert ledger.delivered_instances(one.id) == [A], "it counts as there"
        ledger.finish(one, Finish(happening=Happening.PROVEN, moved=True), LATER, LATER)
        assert [step.number for step in ledger.attempts(one.id)] == [1, 2, 3]

    def test_one_that_did_not_grow_stays_although_a_sweep_thought_so(self, ledger: SqlLedger) -> None:
        old = ended(ledger)
        archive(ledger)
        queue(ledger, [new(intent(1), count=5, happening=Happening.GREW)], LATER)
        assert ledger.transfer(old.id) == old
        assert archive(ledger) + len(ledger.history()) >= 1
        assert ledger.transfer(old.id) == old

    def test_a_person_may_ask_again(self, ledger: SqlLedger) -> None:
        old = ended(ledger, happening=Happening.FAIL)
        archive(ledger)
        again = ledger.apply(old.id, Happening.AGAIN, LATER)
        assert (again.id, again.state, again.attempts) == (old.id, State.QUEUED, 0)
        assert claim(ledger, LATER).id == old.id

    def test_what_a_person_cannot_say_leaves_it_where_it_is(self, ledger: SqlLedger) -> None:
        old = ended(ledger)
        archive(ledger)
        with pytest.raises(LedgerError, match="complete cannot take cancel"):
            ledger.apply(old.id, Happening.CANCEL, LATER)
        assert ledger.history() == [old]

    def test_numbers_are_not_given_again(self, ledger: SqlLedger) -> None:
        old = ended(ledger)
        archive(ledger)
        assert ended(ledger, 2).id > old.id

    def test_an_appointment_holds_on_to_a_prior_of_long_ago(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(wanted(1))])
        ledger.finish(claim(ledger), Finish(happening=Happening.PROVEN, moved=True), NOW, NOW)
        assert archive(ledger) == 1
        note(ledger, notice())
        found(ledger, taken_up(ledger), [1], queued=[])
        assert [one.state for one in ledger.transfers()] == [State.COMPLETE]
        assert len(ledger.reasons_of(ledger.transfers()[0].id)) == 1
        assert archive(ledger) == 0


class TestForwards:
    def test_retention_counts_proven_forwards_of_the_history(self, ledger: SqlLedger) -> None:
        ledger.add_receipts([receipt(1)])
        pass_on(ledger, uid(1), after(5))
        before = ledger.held_studies([uid(1)], LATER)
        assert (before[0].proven_forwards, before[0].unsent) == (1, 0)
        assert archive(ledger) == 1
        assert ledger.held_studies([uid(1)], LATER) == before
        ledger.add_receipts([receipt(1, "2")])
        assert ledger.held_studies([uid(1)], LATER)[0].unsent == 1
        ledger.add_receipts([receipt(2)])
        pass_on(ledger, uid(2), after(5))
        (seen,) = ledger.held_studies([uid(2)], LATER)
        archive(ledger)
        assert ledger.begin_departure(seen, LATER) is not None

    def test_what_comes_later_is_passed_on_and_no_more(self, ledger: SqlLedger) -> None:
        rules = arrived.rule_set(arrived.rule("r", arrived.to("a")))
        arrived.arrive(ledger, rules, arrived.receipt(1))
        arrived.look(ledger, rules, 60)
        first = arrived.run(ledger, Happening.PROVEN, 60)
        known = ledger.known_of(arrived.STUDY)
        assert archive(ledger) == 1
        assert ledger.known_of(arrived.STUDY) == known
        arrived.arrive(ledger, rules, arrived.receipt(2, at=70))
        arrived.look(ledger, rules, 200)
        assert arrived.transfers(ledger) == {"a": State.QUEUED}
        assert arrived.carried(ledger, "a") == {"1", "2"}
        one = ledger.claim_transfer([LOCAL], after(200), LEASE)
        assert one is not None
        assert one.id == first.id
        assert [each.sop_instance_uid[-1] for each in ledger.delivered_instances(one.id)] == ["1"]


# --- As if nothing had gone there -------------------------------------------------------------------------------------

Deed = Callable[[SqlLedger, float], object]
_NUMBERS = st.integers(1, 3)
_HAPPENINGS = [None, Happening.GREW, Happening.AGAIN, Happening.WAIT, Happening.RELEASE]


def _sweeping(number: int, happening: Happening | None, count: int) -> Deed:
    held = hold() if happening is Happening.WAIT else None
    return lambda ledger, at: queue(
        ledger, [new(intent(number), count=count, happening=happening, hold=held)], after(at)
    )


def _finishing(happening: Happening, moved: bool) -> Deed:
    def deed(ledger: SqlLedger, at: float) -> None:
        one = ledger.claim_transfer(["archive"], after(at), LEASE)
        if one is not None:
            ledger.set_expected(one, [A, B])
            ledger.finish(one, Finish(happening=happening, moved=moved, next_at=after(at)), after(at), after(at))

    return deed


def _looking(happening: Happening) -> Deed:
    def deed(ledger: SqlLedger, at: float) -> None:
        one = ledger.claim_verification(["ws"], after(at), LEASE)
        if one is not None:
            ledger.set_missing(one, [B])
            ledger.finish(one, Finish(happening=happening, next_at=after(at)), after(at), after(at))

    return deed


def _saying(number: int, happening: Happening) -> Deed:
    def deed(ledger: SqlLedger, at: float) -> str:
        try:
            ledger.apply(number, happening, after(at))
        except LedgerError as error:
            return str(error)
        return ""

    return deed


_DEEDS = st.one_of(
    st.builds(_sweeping, _NUMBERS, st.sampled_from(_HAPPENINGS), st.integers(4, 6)),
    st.builds(_finishing, st.sampled_from([Happening.MOVED, Happening.RETRY, Happening.FAIL]), st.booleans()),
    st.builds(_looking, st.sampled_from([Happening.PROVEN, Happening.SOME_MISSING, Happening.GAP, Happening.LATER])),
    st.builds(_saying, _NUMBERS, st.sampled_from([Happening.AGAIN, Happening.CANCEL, Happening.RELEASE])),
)


@settings(deadline=None, max_examples=30)
@given(deeds=st.lists(_DEEDS, max_size=25), passes=st.lists(st.booleans(), min_size=25, max_size=25))
def test_a_ledger_with_a_history_answers_as_one_without(deeds: list[Deed], passes: list[bool]) -> None:
    with SqlLedger.in_memory() as plain, SqlLedger.in_memory() as other:
        for at, (deed, archives) in enumerate(zip(deeds, passes, strict=False)):
            assert deed(plain, at) == deed(other, at)
            if archives:
                archive(other)
            studies = [intent(number).study_instance_uid for number in (1, 2, 3)]
            assert plain.facts("archive", studies) == other.facts("archive", studies)
            for number in (1, 2, 3):
                assert everything(plain, number) == everything(other, number)
        assert {one.id for one in other.transfers(states=list(UNDER_WAY))} == {
            one.id for one in plain.transfers(states=list(UNDER_WAY))
        }


def test_intents_of_other_series_and_destinations_are_their_own(ledger: SqlLedger) -> None:
    ended(ledger)
    archive(ledger)
    others = [intent(1, series="1.2"), intent(1, destination="local"), intent(1, source="second")]
    queue(ledger, [new(one) for one in others], LATER)
    assert {one.intent for one in ledger.transfers()} == set(others)
    assert [one.intent for one in ledger.history()] == [Intent("archive", "1.2.826.1", "", "ws")]


def test_the_history_is_read_by_its_indexes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with SqlLedger.open(f"sqlite:///{path}") as opened:
        old, route = ended(opened), Route("archive", "ws")
        archive(opened)
        ended(opened, 2)
        with Plans(path) as plans:
            archive(opened, most=1)
            opened.facts("archive", [old.intent.study_instance_uid])
            opened.transfer(old.id)
            opened.attempts(old.id)
            opened.transfers(study_instance_uid=old.intent.study_instance_uid)
            opened.history(rule="ct")
            opened.past_moves([route])
            opened.held_studies([uid(1)], LATER)
            opened.known_of(arrived.STUDY)
            opened.delivered_since("archive", "ws", ["1.2"], NOW)
            queue(opened, [new(intent(1), count=9, happening=Happening.GREW)], LATER)
            opened.apply(2, Happening.AGAIN, LATER)
        lines = plans.lines()
    scans = [step for _, _, step in lines if step.startswith(("SCAN history", "SCAN transfers", "SCAN attempts"))]
    assert scans == []
    moved_on = [step for statement, _, step in lines if "needed" in statement and step.startswith("SEARCH transfers")]
    assert moved_on != []
    assert all("ix_transfers_ended" in step for step in moved_on)
