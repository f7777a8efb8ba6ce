"""Many at once: a batch claims and finishes what one after the other would, with one commit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.levels import NEARLINE
from router.domain.transfer import Ending, Finish, Happening, NewTransfer, Route, State, Transfer
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after, intent, new, queue
from tests.support.process import READY_SECONDS

SOURCES = ["archive", "second", "third"]
PROVEN = Finish(happening=Happening.PROVEN, moved=True, completed=5)


def numbers(claimed: list[Transfer]) -> list[str]:
    return [one.intent.study_instance_uid.rpartition(".")[2] for one in claimed]


def test_the_most_urgent_come_first_and_no_more_than_asked_for(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1), priority=2), new(intent(2), priority=0), new(intent(3), priority=1)])
    claimed = ledger.claim_transfers(SOURCES, NOW, LEASE, 2)
    assert numbers(claimed) == ["2", "3"]
    assert {(one.state, one.fence) for one in claimed} == {(State.MOVING, 1)}
    assert numbers(ledger.claim_transfers(SOURCES, NOW, LEASE, 2)) == ["1"]
    assert ledger.claim_transfers(SOURCES, NOW, LEASE, 2) == []


def test_of_what_is_near_line_at_a_source_one_is_taken(ledger: SqlLedger) -> None:
    some = [
        msgspec.structs.replace(new(intent(number, source=source)), availability=NEARLINE)
        for number, source in ((1, "archive"), (2, "archive"), (3, "second"))
    ]
    queue(ledger, [*some, new(intent(4))])
    assert sorted(numbers(ledger.claim_transfers(SOURCES, NOW, LEASE, 9))) == ["1", "3", "4"]
    assert ledger.claim_transfers(SOURCES, NOW, LEASE, 9) == []


def test_closed_routes_are_passed_over(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(number, destination=to)) for number, to in ((1, "ws"), (2, "local"), (3, "ws"))])
    assert numbers(ledger.claim_transfers(SOURCES, NOW, LEASE, 9, [Route("archive", "ws")])) == ["2"]


def test_endings_are_written_in_order_and_lost_claims_told(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(number)) for number in (1, 2, 3)])
    claimed = ledger.claim_transfers(SOURCES, NOW, LEASE, 3)
    ledger.release_claims([claimed[1]], after(1))
    endings = [Ending(one, PROVEN, NOW) for one in claimed]
    first, second, third = ledger.finish_all(endings, after(2))
    assert second is None
    assert [one and (one.id, one.state) for one in (first, third)] == [
        (claimed[0].id, State.COMPLETE),
        (claimed[2].id, State.COMPLETE),
    ]
    assert [len(ledger.attempts(one.id)) for one in claimed] == [1, 1, 1]
    assert ledger.finish_all([], NOW) == []


def test_a_batch_with_an_ending_that_cannot_be_is_not_written_at_all(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1)), new(intent(2))])
    claimed = ledger.claim_transfers(SOURCES, NOW, LEASE, 2)
    wrong = Finish(happening=Happening.GREW)
    with pytest.raises(LedgerError, match="cannot take grew"):
        ledger.finish_all([Ending(claimed[0], PROVEN, NOW), Ending(claimed[1], wrong, NOW)], NOW)
    assert {one.state for one in ledger.transfers()} == {State.MOVING}
    assert ledger.attempts(claimed[0].id) == []


def test_a_wish_is_heeded_in_a_batch(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1)), new(intent(2))])
    claimed = ledger.claim_transfers(SOURCES, NOW, LEASE, 2)
    ledger.apply(claimed[1].id, Happening.HOLD, NOW)
    retry = Finish(happening=Happening.RETRY, moved=True)
    ended = ledger.finish_all([Ending(one, retry, NOW) for one in claimed], NOW)
    assert [one and one.state for one in ended] == [State.QUEUED, State.HELD]


_NEW = st.builds(
    lambda number, source, to, priority, near: msgspec.structs.replace(
        new(intent(number, source=source, destination=to), priority=priority), availability=NEARLINE if near else ""
    ),
    st.integers(1, 40),
    st.sampled_from(SOURCES),
    st.sampled_from(["ws", "local"]),
    st.integers(0, 2),
    st.booleans(),
)


@settings(deadline=None, max_examples=40)
@given(
    selected=st.lists(_NEW, max_size=12, unique_by=lambda one: one.intent),
    most=st.integers(1, 6),
    closed=st.lists(st.builds(Route, st.sampled_from(SOURCES), st.sampled_from(["ws", "local"])), max_size=2),
    oldest=st.booleans(),
)
def test_batches_take_what_one_after_the_other_would(
    selected: list[NewTransfer], most: int, closed: list[Route], oldest: bool
) -> None:
    with SqlLedger.in_memory() as one_by_one, SqlLedger.in_memory() as batched:
        for at, one in enumerate(selected):
            for ledger in (one_by_one, batched):
                queue(ledger, [one], after(at % 3))
        singly = []
        while (one_claimed := one_by_one.claim_transfer(SOURCES, after(9), LEASE, closed, oldest=oldest)) is not None:
            singly.append(one_claimed)
        together: list[Transfer] = []
        while claimed := batched.claim_transfers(SOURCES, after(9), LEASE, most, closed, oldest=oldest):
            assert len(claimed) <= most
            together += claimed
        assert {one.id for one in together} == {one.id for one in singly}
        if all(one.availability == "" for one in selected):
            assert together == singly


def test_many_workers_at_once_take_each_once_and_end_all(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(number)) for number in range(120)])

    def work() -> list[int]:
        done = []
        while claimed := ledger.claim_transfer(SOURCES, NOW, LEASE) or ledger.claim_transfer(SOURCES, NOW, LEASE):
            assert ledger.renew(claimed, NOW, LEASE, None)
            assert ledger.finish(claimed, PROVEN, NOW, NOW) is not None
            done.append(claimed.id)
        return done

    with ThreadPoolExecutor(6) as pool:
        taken = [number for one in [pool.submit(work) for _ in range(6)] for number in one.result(READY_SECONDS)]
    assert len(taken) == len(set(taken))
    while left := ledger.claim_transfers(SOURCES, NOW, LEASE, 50):
        taken += [one.id for one in left]
    assert len(taken) == 120
