"""Whose a transfer is, of the appointments that want it: who cancels it, and which deadline it has."""

from __future__ import annotations

import pytest

from router.domain.appointment import News
from router.domain.transfer import Finish, Happening, State
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after, claim, look, new, queue
from tests.contract.test_appointments import (
    DONE,
    HOUR,
    REPEAT,
    brought,
    by_number,
    found,
    note,
    notice,
    prior,
    states,
    taken_up,
    wanted,
)

LATER = NOW + 60 * HOUR


def wanted_by_both(ledger: SqlLedger) -> None:
    """The study 1 is queued for appointment a; b, which is later, finds it under way."""
    brought(ledger, notice("a"), numbers=[1])
    note(ledger, notice("b", start_at=LATER))
    found(ledger, taken_up(ledger), [1], queued=[])


def moved(ledger: SqlLedger) -> None:
    """The next transfer arrives."""
    ledger.finish(claim(ledger), Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
    ledger.finish(look(ledger), Finish(happening=Happening.PROVEN), NOW, NOW)


@pytest.mark.parametrize("keys", ["ab", "ba"])
def test_the_last_appointment_that_wants_it_cancels_it_whichever_queued_it(ledger: SqlLedger, keys: str) -> None:
    wanted_by_both(ledger)
    first, last = keys
    note(ledger, notice(first, cancelled=True))
    assert states(ledger) == {1: State.QUEUED}
    note(ledger, notice(last, cancelled=True))
    assert states(ledger) == {1: State.CANCELLED}


def test_one_that_its_appointment_does_not_take_any_more_is_the_others(ledger: SqlLedger) -> None:
    wanted_by_both(ledger)
    ledger.note([notice("a")], after(1), REPEAT, again=True)
    found(ledger, taken_up(ledger, after(1)), [], after(1))
    assert states(ledger) == {1: State.QUEUED}
    assert by_number(ledger)[1].deadline_at == LATER
    note(ledger, notice("b", cancelled=True))
    assert states(ledger) == {1: State.CANCELLED}


def test_one_of_a_sweep_that_is_not_taken_any_more_has_no_deadline(ledger: SqlLedger) -> None:
    queue(ledger, [new(wanted(1))])
    note(ledger, notice())
    found(ledger, taken_up(ledger), [1], queued=[])
    assert by_number(ledger)[1].deadline_at == notice().start_at
    ledger.note([notice()], after(1), REPEAT, again=True)
    found(ledger, taken_up(ledger, after(1)), [], after(1))
    one = by_number(ledger)[1]
    assert (one.state, one.deadline_at, one.next_at) == (State.QUEUED, None, one.queued_at)


def test_what_a_sweep_queued_anew_since_is_not_cancelled_with_the_appointment(ledger: SqlLedger) -> None:
    brought(ledger, notice(), numbers=[1])
    moved(ledger)
    queue(ledger, [new(wanted(1), count=9, happening=Happening.GREW)], after(1))
    assert note(ledger, notice(cancelled=True), at=after(2)) == [News.CANCELLED]
    assert states(ledger) == {1: State.QUEUED}


def test_what_a_person_queued_anew_since_is_not_cancelled_even_after_another_look(ledger: SqlLedger) -> None:
    brought(ledger, notice(), numbers=[1])
    number = by_number(ledger)[1].id
    ledger.apply(number, Happening.CANCEL, after(1))
    ledger.apply(number, Happening.AGAIN, after(2))
    ledger.note([notice()], after(3), REPEAT, again=True)
    found(ledger, taken_up(ledger, after(3)), [1], after(3), queued=[])
    note(ledger, notice(cancelled=True), at=after(4))
    assert states(ledger) == {1: State.QUEUED}


def test_what_it_queued_stays_its_own_through_further_looks(ledger: SqlLedger) -> None:
    brought(ledger, notice(), numbers=[1])
    for second in (1, 2):
        ledger.note([notice()], after(second), REPEAT, again=True)
        found(ledger, taken_up(ledger, after(second)), [1], after(second), queued=[])
    note(ledger, notice(cancelled=True), at=after(3))
    assert states(ledger) == {1: State.CANCELLED}


def test_what_tries_again_without_anything_there_is_cancelled_and_what_is_partly_there_goes_on(
    ledger: SqlLedger,
) -> None:
    brought(ledger, notice(), numbers=[1, 2])
    empty, partly = claim(ledger), claim(ledger)
    retry = Finish(happening=Happening.RETRY, next_at=after(60), moved=True)
    ledger.finish(empty, retry, NOW, NOW)
    ledger.finish(partly, Finish(happening=Happening.RETRY, next_at=after(60), moved=True, completed=2), NOW, NOW)
    note(ledger, notice(cancelled=True))
    by_id = {one.id: one.state for one in ledger.transfers()}
    assert by_id == {empty.id: State.CANCELLED, partly.id: State.QUEUED}


def test_a_patient_with_thousands_of_studies_is_looked_at_whole(ledger: SqlLedger) -> None:
    note(ledger, notice())
    one = taken_up(ledger)
    numbers = range(1500)
    record = [prior(number) for number in numbers]
    assert ledger.finish_appointment(one, DONE, record, [new(wanted(number), rule="mr") for number in numbers], NOW)
    assert {t.deadline_at for t in ledger.transfers(limit=2000)} == {notice().start_at}
    assert len(ledger.priors_of(one.id)) < len(record)
    note(ledger, notice(cancelled=True))
    assert {t.state for t in ledger.transfers(limit=2000)} == {State.CANCELLED}
    assert ledger.claim_transfer(["archive"], NOW, LEASE) is None
