"""Several object stores in every ledger: whose is whose, what is where, and that each lets go of its own."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from router.domain.overview import ServiceInfo
from router.domain.receipt import Receipt
from router.domain.retention import Departure
from router.domain.stores import Forgotten, StoreSeen
from router.domain.transfer import Finish, Happening, State
from router.ledger import store_book
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import NOW, after, claim, intent, new, queue
from tests.contract.test_stored import receipt, uid


def announce(ledger: SqlLedger, replica: str, store: str, seconds: float = 0, owner: str = "") -> None:
    info = ServiceInfo(owner=owner or replica, address="", seen_at=after(seconds), replica=replica, store=store)
    ledger.announce(info)


def within(store: str, number: int, instance: str = "1", **more: float) -> Receipt:
    return msgspec.structs.replace(receipt(number, instance, **more), store=store)  # type: ignore[arg-type]


def test_stores_are_remembered_when_their_services_have_stopped(ledger: SqlLedger) -> None:
    announce(ledger, "a", "s1")
    announce(ledger, "b", "s2", 10)
    ledger.withdraw("a")
    assert ledger.stores() == [
        StoreSeen(name="s1", replica="a", seen_at=NOW),
        StoreSeen(name="s2", replica="b", seen_at=after(10)),
    ]
    announce(ledger, "a", "s1", 3600)
    assert ledger.stores()[0].seen_at == after(3600)


def test_a_store_that_its_replica_has_replaced_is_none_any_more_until_it_is_back(ledger: SqlLedger) -> None:
    announce(ledger, "a", "s1")
    announce(ledger, "a", "s2", 10)
    assert [one.name for one in ledger.stores()] == ["s2"]
    announce(ledger, "a", "s1", 20)
    assert [one.name for one in ledger.stores()] == ["s1"]


def test_an_instance_in_two_stores_is_one_of_the_study(ledger: SqlLedger) -> None:
    one, other = within("s1", 1), within("s2", 1, seconds=5)
    ledger.add_receipts([one, other, within("s2", 1, "2")])
    study = uid(1)
    assert len(ledger.received_instances(study)) == len(ledger.received(study)) == 2
    assert ledger.receipt(study, one.series_instance_uid, one.sop_instance_uid) == other, "what came last"
    assert ledger.receipt(study, one.series_instance_uid, one.sop_instance_uid, "s1") == one
    known = ledger.indexed_instance(study, one.series_instance_uid, one.sop_instance_uid, "s1")
    assert known is not None
    assert known.receipt == one
    (told,) = ledger.stored_studies()
    assert (told.instances, told.stores) == (2, ("s1", "s2"))
    assert [found.receipt.store for found in ledger.indexed(study)] == ["s1", "s2", "s2"]
    assert [found.receipt for found in ledger.indexed(study, "s1")] == [one]
    assert ledger.receipt_paths(study, "s1") == {one.path}
    assert list(ledger.stored_uids("s1")) == list(ledger.stored_uids("s2")) == [study]
    assert list(ledger.stored_uids("s3")) == []
    assert [ledger.stored_amount(None, store).instances for store in ("s1", "s2", None)] == [1, 2, 3]
    assert ledger.held_in(study, ["s2"]) == ledger.received(study)
    assert ledger.held_in(study, []) == set()
    assert ledger.store_amounts() == {"s1": 1, "s2": 2}


def test_a_checksum_is_of_a_copy(ledger: SqlLedger) -> None:
    one, other = within("s1", 1), within("s2", 1)
    ledger.add_receipts([one, other])
    ledger.keep_checksums([(one, b"1")])
    assert [found.checksum for found in ledger.indexed(uid(1))] == [b"1", None]


def test_arrivals_are_counted_over_all_stores(ledger: SqlLedger) -> None:
    assert ledger.arrived(uid(1), "s1") == (0, 0, None)
    ledger.add_receipts([within("s1", 1), within("s2", 1, "2", seconds=9), within("", 1, "3")])
    assert ledger.arrived(uid(1), "s1") == (3, 1, after(9))


def test_a_store_that_is_gone_is_forgotten_with_its_receipts_alone(ledger: SqlLedger) -> None:
    announce(ledger, "a", "s1")
    announce(ledger, "b", "s2")
    ledger.add_receipts([within("s1", number) for number in range(5)] + [within("s2", 1)])
    assert ledger.forget_store("s1") == Forgotten(instances=5)
    assert ledger.store_amounts() == {"s2": 1}
    assert [one.name for one in ledger.stores()] == ["s2"]
    assert ledger.forget_store("s1") == Forgotten(instances=0)


def moved(ledger: SqlLedger, number: int, *, series: str = "", how: Happening = Happening.PROVEN) -> int:
    """A transfer to our stores that has ended so; its number."""
    queue(ledger, [new(intent(number, destination="local", series=series))], after(number))
    one = claim(ledger, after(number))
    finished = ledger.finish(one, Finish(happening=how, moved=True), after(number), after(number))
    assert finished is not None
    return one.id


def stores_with_losses(ledger: SqlLedger) -> dict[str, int]:
    """Transfers by what a store that is gone means to them; that of the study 1 is in the history."""
    numbers = {"history": moved(ledger, 1)}
    done = None
    while done is None or done.mark is not None:
        done = ledger.archive(None if done is None else done.mark, after(50), 500, after(50))
    assert [one.id for one in ledger.history()] == list(numbers.values())
    numbers |= {
        "complete": moved(ledger, 2),
        "partial": moved(ledger, 3, how=Happening.SOME_MISSING),
        "both": moved(ledger, 4),
        "series": moved(ledger, 5, series=f"{uid(5)}.1"),
        "other series": moved(ledger, 5, series=f"{uid(5)}.2"),
        "cancelled": moved(ledger, 6, how=Happening.CANCEL),
    }
    ledger.add_receipts([within("s1", number) for number in range(1, 7)])
    ledger.add_receipts([within("s2", 4), within("s2", 2, "2")])
    return numbers


LOSES = ("history", "complete", "partial", "series")


def test_transfers_that_have_lost_instances_with_a_store_are_named(ledger: SqlLedger) -> None:
    numbers = stores_with_losses(ledger)
    lost = tuple(sorted(numbers[one] for one in LOSES))
    assert ledger.losing("s1") == list(lost)
    assert ledger.losing("s3") == []
    assert ledger.forget_store("s1") == Forgotten(instances=6, lost=lost)
    assert [one.state for one in ledger.transfers() if one.state is State.QUEUED] == []
    assert ledger.losing("s1") == []


def test_transfers_that_have_lost_instances_are_queued_again_from_the_history_too(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = stores_with_losses(ledger)
    monkeypatch.setattr(store_book, "_AT_ONCE", 1)  # a study at a time
    lost = tuple(sorted(numbers[one] for one in LOSES))
    assert ledger.forget_store("s1", again_at=after(60)) == Forgotten(instances=6, lost=lost)
    assert sorted(one.id for one in ledger.transfers(states=[State.QUEUED])) == list(lost)
    assert ledger.history() == []
    assert ledger.store_amounts() == {"s2": 2}
    assert claim(ledger, after(61)).id in lost


def test_a_study_leaves_store_by_store(ledger: SqlLedger) -> None:
    one, other = within("s1", 1), within("s2", 1, "2", seconds=5)
    ledger.add_receipts([one, other])
    (seen,) = ledger.held_studies([uid(1)], NOW)
    assert seen.size == 20
    departure = ledger.begin_departure(seen, after(10))
    assert departure == Departure(study_instance_uid=uid(1), last_received_at=after(5))
    assert ledger.unfinished_departures(9, "s1") == ledger.unfinished_departures(9, "s2") == [departure]
    assert ledger.leaving_receipts(departure, ("", ""), 9, "s1") == [one]
    ledger.forget_receipts([one])
    assert not ledger.end_departure(departure, after(20), "s1"), "the other store has some of it yet"
    assert ledger.unfinished_departures(9, "s1") == []
    assert ledger.unfinished_departures(9, "s2") == [departure]
    departed = ledger.departed(uid(1))
    assert departed is not None
    assert departed.left_at is None
    assert ledger.leaving_receipts(departure, ("", ""), 9, "s2") == [other]
    ledger.forget_receipts([other])
    assert ledger.end_departure(departure, after(30), "s2")
    departed = ledger.departed(uid(1))
    assert departed is not None
    assert departed.left_at == after(30)
    assert len(departed.instances) == 2
    assert ledger.unfinished_departures(9) == []


def test_what_is_left_of_a_forgotten_store_no_departure_waits_for(ledger: SqlLedger) -> None:
    one, other = within("s1", 1), within("s2", 1, "2")
    ledger.add_receipts([one, other])
    (seen,) = ledger.held_studies([uid(1)], NOW)
    departure = ledger.begin_departure(seen, NOW)
    assert departure is not None
    ledger.forget_receipts([one])
    assert not ledger.end_departure(departure, NOW, "s1")
    ledger.forget_store("s2")
    assert ledger.unfinished_departures(9, "s1") == [departure]
    assert ledger.end_departure(departure, NOW + timedelta(seconds=1), "s1")
