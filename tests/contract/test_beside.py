"""Services on one ledger: of those that write at once none waits for one that waits for it; another leads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from router.domain.arriving import ArrivalDue
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL
from router.domain.transfer import Ending, Finish, Happening, Route, Stop
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after, claim, intent, new, queue
from tests.support.process import READY_SECONDS, wait_for

ROUNDS = 5
STOPS = Finish(happening=Happening.STOPPED, moved=True, stop=Stop(cause="busy", reason="Full.", probe_at=after(60)))


def receipt(number: int) -> Receipt:
    return Receipt(
        study_instance_uid=f"1.2.826.{number % 7}",
        series_instance_uid=f"1.2.826.{number % 7}.1",
        sop_instance_uid=f"1.2.826.{number % 7}.1.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="CT",
        size=1,
        path=f"{number}.dcm",
        received_at=NOW,
        store="shared",
    )


@pytest.fixture
def other(ledger: SqlLedger, url: str) -> Iterator[SqlLedger]:
    """A second service's."""
    with SqlLedger.open(url) as opened:
        yield opened


def at_once(one: Callable[[], object], another: Callable[[], object]) -> None:
    """Both at the same moment. Raises what either raises."""
    barrier = threading.Barrier(2)

    def work(which: Callable[[], object]) -> None:
        barrier.wait(READY_SECONDS)
        which()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (one, another)))


# --- In what order ----------------------------------------------------------------------------------------------------


def test_receipts_of_one_shared_store_may_come_from_two_in_any_order(ledger: SqlLedger, other: SqlLedger) -> None:
    batch = [receipt(number) for number in range(300)]
    dues = [
        ArrivalDue(study_instance_uid=f"1.2.826.{n % 7}", rule=f"rule-{n}", due_at=NOW, whole=n % 2 == 0)
        for n in range(60)
    ]
    for _ in range(ROUNDS):
        at_once(lambda: ledger.add_receipts(batch, dues), lambda: other.add_receipts(batch[::-1], dues[::-1]))
    assert ledger.stored_amount().instances == 300
    assert len(ledger.arrivals()) == 60


def test_what_two_finish_at_once_may_come_in_any_order(ledger: SqlLedger, other: SqlLedger) -> None:
    places = ("ws", "pacs", "research", "teaching")
    routes = [Route("archive", place) for place in places]
    queue(ledger, [new(intent(n, destination=place)) for n in range(ROUNDS * 2) for place in places])
    for round_ in range(ROUNDS):
        for route in routes:
            ledger.resume_route(route)
        taken = ledger.claim_transfers(["archive"], after(round_), LEASE, len(places) * 2)
        by_place = sorted(taken, key=lambda one: one.intent.destination)
        ends = [Ending(transfer, STOPS, NOW) for transfer in by_place]
        at_once(partial(ledger.finish_all, ends[::2], NOW), partial(other.finish_all, ends[:0:-2], NOW))
        assert len(taken) == len(places) * 2
    assert [one.route for one in ledger.stopped_routes()] == sorted(routes)


def test_studies_that_two_prove_to_be_elsewhere_may_come_in_any_order(ledger: SqlLedger, other: SqlLedger) -> None:
    ledger.add_receipts([receipt(number) for number in range(7)])
    everywhere = [new(intent(n, source=LOCAL, destination=place)) for place in ("ws", "pacs") for n in range(7)]
    again = [new(one.intent, happening=Happening.AGAIN) for one in everywhere]
    for round_ in range(ROUNDS):
        queue(ledger, again if round_ else everywhere, after(round_))
        while moving := ledger.claim_transfer([LOCAL], after(round_), LEASE):
            ledger.finish(moving, Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
        looked: dict[str, list[Ending]] = {"ws": [], "pacs": []}
        for place, ends in looked.items():
            while looking := ledger.claim_verification([place], after(round_), LEASE):
                ends.append(Ending(looking, Finish(happening=Happening.PROVEN), NOW))
        assert [len(ends) for ends in looked.values()] == [7, 7]
        at_once(partial(ledger.finish_all, looked["ws"], NOW), partial(other.finish_all, looked["pacs"][::-1], NOW))
    assert len(ledger.may_leave(after(3600), 100, oldest=True)) == 7


def test_endings_are_answered_in_the_order_they_came_in(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(n)) for n in range(5)])
    taken = [claim(ledger) for _ in range(5)]
    ledger.release_claims(taken[2:3], NOW)
    mixed = [taken[n] for n in (3, 0, 2, 4, 1)]
    ended = ledger.finish_all([Ending(one, Finish(happening=Happening.FAIL), NOW) for one in mixed], NOW)
    assert [one and one.id for one in ended] == [one.id if one is not taken[2] else None for one in mixed]


# --- Who leads --------------------------------------------------------------------------------------------------------


def test_who_resigns_is_followed_and_may_lead_again_later(ledger: SqlLedger, other: SqlLedger) -> None:
    assert ledger.leads()
    assert not other.leads()
    ledger.resign()
    wait_for(other.leads, "the other to lead")
    assert not ledger.leads()
    other.resign()
    wait_for(ledger.leads, "the first to lead again")
    assert not other.leads()
