"""Studies that leave the object store, in every ledger: which may, what is known of them, that they left."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from router.domain.arriving import ArrivalDue
from router.domain.retention import Departed, HeldStudy
from router.domain.rule import LOCAL
from router.domain.transfer import Finish, Happening, Instance, Intent, State
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import NOW, after, claim, intent, new, queue
from tests.contract.test_appointments import DONE, note, notice, prior, taken_up
from tests.contract.test_ledger_sqlite import Plans
from tests.contract.test_stored import receipt, uid
from tests.support.departures import pass_on

LATER = after(1e7)


def held(ledger: SqlLedger, number: int = 1) -> HeldStudy:
    (one,) = ledger.held_studies([uid(number)], LATER)
    return one


def test_a_study_may_leave_once_a_transfer_from_the_store_is_proven(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(2, seconds=-60), receipt(3), receipt(4)])
    queue(ledger, [new(intent(3, destination=LOCAL))])
    claimed = claim(ledger)
    ledger.finish(claimed, Finish(happening=Happening.PROVEN), NOW, NOW)
    pass_on(ledger, uid(4), after(5), happening=Happening.NO_EVIDENCE)
    assert ledger.may_leave(LATER, 9, oldest=True) == []
    pass_on(ledger, uid(1), after(10))
    pass_on(ledger, uid(2), after(20))
    assert ledger.may_leave(LATER, 9, oldest=True) == [uid(2), uid(1)], "what came first"
    assert ledger.may_leave(LATER, 9, oldest=False) == [uid(1), uid(2)], "what was proven first"
    assert ledger.may_leave(after(15), 9, oldest=True) == [uid(1)]
    assert ledger.may_leave(LATER, 1, oldest=True) == [uid(2)]


def test_what_stays_is_looked_at_later_and_at_once_where_settings_changed(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(2)])
    pass_on(ledger, uid(1), NOW)
    pass_on(ledger, uid(2), NOW)
    ledger.postpone_leaving({uid(1): after(100)}, [uid(2)])
    assert ledger.may_leave(after(99), 9, oldest=True) == []
    assert ledger.may_leave(after(100), 9, oldest=True) == [uid(1)]
    ledger.hasten_leaving(after(50))
    assert ledger.may_leave(after(50), 9, oldest=False) == [uid(1)]


def test_all_is_known_of_a_study_that_the_decision_asks_for(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(1, "2", seconds=60, size=5)])
    assert held(ledger) == HeldStudy(study_instance_uid=uid(1), size=15, last_received_at=after(60))
    pass_on(ledger, uid(1), after(70))
    pass_on(ledger, uid(1), after(80), to="archive")
    assert held(ledger) == HeldStudy(
        study_instance_uid=uid(1),
        size=15,
        last_received_at=after(60),
        forwards=2,
        proven_forwards=2,
        proven_at=after(80),
    )
    assert ledger.held_studies([uid(2)], NOW) == []


def test_transfers_that_are_under_way_or_unproven_show(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1)])
    pass_on(ledger, uid(1), NOW)
    pass_on(ledger, uid(1), NOW, to="second", happening=Happening.NO_EVIDENCE)
    pass_on(ledger, uid(1), NOW, to="third", happening=None)
    queue(ledger, [new(intent(1, destination=LOCAL)), new(intent(1, destination="elsewhere"))])
    one = held(ledger)
    assert (one.transfers, one.forwards, one.proven_forwards) == (2, 3, 1)


def test_what_another_node_of_its_group_got_is_no_forward(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1)])
    pass_on(ledger, uid(1), NOW)
    pass_on(ledger, uid(1), NOW, to="second", happening=Happening.CANCEL)
    assert held(ledger).forwards == 1


def test_instances_that_no_proven_transfer_carried_show(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(1, "2"), receipt(1, "3")])
    first, second, _third = sorted(ledger.received_instances(uid(1)))
    pass_on(ledger, uid(1), NOW, carried=[first])
    assert held(ledger).unsent == 2
    pass_on(ledger, uid(1), NOW, to="second", carried=[second])
    assert held(ledger).unsent == 1


def test_a_study_leaves_receipt_by_receipt_and_is_known_to_have_left(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(1, "2"), receipt(2)])
    instances = frozenset(ledger.received_instances(uid(1)))
    pass_on(ledger, uid(1), after(10))
    departure = ledger.begin_departure(held(ledger), after(20))
    assert departure is not None
    assert ledger.unfinished_departures(9) == [departure]
    assert ledger.may_leave(LATER, 9, oldest=True) == []
    assert ledger.departed(uid(1)) == Departed(left_at=None, instances=instances)
    page = ledger.leaving_receipts(departure, ("", ""), 1)
    assert len(page) == 1
    ledger.forget_receipts(page)
    rest = ledger.leaving_receipts(departure, (page[0].series_instance_uid, page[0].sop_instance_uid), 9)
    assert {one.sop_instance_uid for one in [*page, *rest]} == {one.sop_instance_uid for one in instances}
    ledger.forget_receipts(rest)
    ledger.end_departure(departure, after(30))
    assert ledger.unfinished_departures(9) == []
    assert ledger.received(uid(1)) == set()
    assert ledger.received(uid(2)) == {receipt(2).sop_instance_uid}
    assert ledger.departed(uid(1)) == Departed(left_at=after(30), instances=instances)
    assert ledger.departed(uid(2)) is None


def test_a_study_of_which_there_is_news_does_not_begin_to_leave(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1)])
    pass_on(ledger, uid(1), NOW)
    seen = held(ledger)
    ledger.add_receipts([receipt(1, "2", seconds=5)])
    assert ledger.begin_departure(seen, LATER) is None
    seen = held(ledger)
    queue(ledger, [new(Intent(LOCAL, uid(1), "", "second"))], after(60))
    assert ledger.begin_departure(seen, LATER) is None
    assert ledger.unfinished_departures(9) == []
    assert ledger.may_leave(LATER, 9, oldest=True) == [uid(1)]


def test_what_came_while_a_study_leaves_stays_and_is_looked_at_again(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(1, "2")])
    pass_on(ledger, uid(1), NOW)
    departure = ledger.begin_departure(held(ledger), after(10))
    assert departure is not None
    leaving = ledger.leaving_receipts(departure, ("", ""), 9)
    ledger.add_receipts([receipt(1, "2", seconds=11), receipt(1, "3", seconds=11)])
    assert [one.sop_instance_uid for one in ledger.leaving_receipts(departure, ("", ""), 9)] == [
        receipt(1).sop_instance_uid
    ]
    ledger.forget_receipts(leaving)
    ledger.end_departure(departure, after(20))
    assert ledger.received(uid(1)) == {receipt(1, number).sop_instance_uid for number in "23"}
    assert ledger.may_leave(after(20) + timedelta(hours=1), 9, oldest=True) == [uid(1)]
    one = held(ledger)
    assert one.left_before
    assert one.unsent == 1


def test_what_has_left_before_is_remembered_when_more_of_the_study_leaves(ledger: SqlLedger) -> None:
    for number, seconds in (("1", 0), ("2", 100)):
        ledger.add_receipts([receipt(1, number, seconds=seconds)])
        again = Happening.GREW if seconds else None
        pass_on(ledger, uid(1), after(seconds + 10), again=Happening.AGAIN if again else None)
        departure = ledger.begin_departure(held(ledger), after(seconds + 20))
        assert departure is not None
        ledger.forget_receipts(ledger.leaving_receipts(departure, ("", ""), 9))
        ledger.end_departure(departure, after(seconds + 30))
    departed = ledger.departed(uid(1))
    assert departed is not None
    series = receipt(1).series_instance_uid
    assert departed.instances == {Instance(series, receipt(1, number).sop_instance_uid) for number in "12"}


def test_who_asks_for_a_study_again_here_has_it_brought_again(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1)])
    queue(ledger, [new(intent(1, destination=LOCAL))])
    claimed = claim(ledger)
    ledger.finish(claimed, Finish(happening=Happening.PROVEN), NOW, NOW)
    pass_on(ledger, uid(1), NOW)
    departure = ledger.begin_departure(held(ledger), after(10))
    assert departure is not None
    ledger.forget_receipts(ledger.leaving_receipts(departure, ("", ""), 9))
    (forward,) = ledger.transfers(source=LOCAL)
    ledger.end_departure(departure, after(20))
    ledger.apply(forward.id, Happening.AGAIN, after(30))
    assert ledger.departed(uid(1)) is not None, "to send it on again brings nothing here"
    assert ledger.apply(claimed.id, Happening.AGAIN, after(30)).state is State.QUEUED
    assert ledger.departed(uid(1)) is None


def test_a_selection_that_asks_again_has_it_brought_again(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1)])
    queue(ledger, [new(intent(1, destination=LOCAL))])
    ledger.finish(claim(ledger), Finish(happening=Happening.PROVEN), NOW, NOW)
    pass_on(ledger, uid(1), NOW)
    departure = ledger.begin_departure(held(ledger), after(10))
    assert departure is not None
    ledger.end_departure(departure, after(20))
    queue(ledger, [new(intent(1, destination=LOCAL), count=9, happening=Happening.GREW)], after(100))
    assert ledger.departed(uid(1)) is not None, "of what grew only the difference is wanted"
    ledger.finish(claim(ledger, after(100)), Finish(happening=Happening.PROVEN), after(100), after(100))
    queue(ledger, [new(intent(1, destination=LOCAL), happening=Happening.AGAIN)], after(200))
    assert ledger.departed(uid(1)) is None


def test_rules_that_have_not_decided_yet_show(ledger: SqlLedger) -> None:
    due = ArrivalDue("on", uid(1), after(60))
    ledger.add_receipts([receipt(1)], [due, due._replace(rule="other")])
    assert held(ledger).arrivals == 2
    pass_on(ledger, uid(1), NOW)
    assert held(ledger).arrivals == 2


def test_appointments_to_come_show_and_those_that_are_over_do_not(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(2)])
    note(ledger, notice("a"), notice("b"))
    for _ in "ab":
        claimed = taken_up(ledger)
        assert ledger.finish_appointment(claimed, DONE, [prior(1), prior(2, taken=False)], [], NOW)

    def needed(seconds: float) -> list[int]:
        return [one.appointments for one in ledger.held_studies([uid(1), uid(2)], after(seconds))]

    assert needed(0) == [2, 0]
    note(ledger, notice("a", cancelled=True))
    assert needed(0) == [1, 0]
    assert needed(3 * 86400) == [0, 0]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_may_leave_is_found_by_an_index_however_much_stays(url: str) -> None:
    with SqlLedger.open(url) as ledger, Plans(Path(url.removeprefix("sqlite:///"))) as plans:
        ledger.add_receipts([receipt(1)])
        ledger.may_leave(NOW, 9, oldest=True)
        ledger.may_leave(NOW, 9, oldest=False)
        ledger.unfinished_departures(9)
        steps = [(statement, step) for statement, _, step in plans.lines() if statement.startswith("SELECT")]
    assert len(steps) == 3
    for statement, step in steps:
        assert "INDEX" in step, statement
        assert "TEMP" not in step, statement
