"""What a crash has left in the store without a receipt is indexed, and the rules that wait for it are told at once."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from router.domain.arriving import dues
from router.domain.condition import Condition
from router.domain.forward import Forward, Group
from router.domain.passing import ArrivalState
from router.domain.receipt import Receipt
from router.domain.rule import Arrival, Move, Node, RouterSettings, Rule, RuleSet
from router.indexing import Indexer
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore
from tests.support.process import wait_for
from tests.support.stored import Stored, uids

RULES = RuleSet(
    router=RouterSettings(),
    nodes={"a": Node(name="a", ae_title="A", host="h", port=104)},
    rules={
        "r": Rule(
            name="r",
            arrival=Arrival(stable=60.0),
            where=Condition(),
            move=Move(to=()),
            forward=Forward(to=(Group(nodes=("a",)),)),
        )
    },
    content_hash="x",
)


def test_what_is_found_in_the_store_without_a_receipt_is_passed_on(tmp_path: Path) -> None:
    told: list[Receipt] = []
    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        stored = Stored(tmp_path / "store", ledger)
        receipt = stored.put(1, receipt=False)
        assert ledger.receipts_of(uids(1)[0]) == []
        store = ObjectStore(stored.root)
        indexer = Indexer(ledger, store, told.extend, lambda batch: dues(batch, RULES))
        indexer.start()
        indexer.stop(10.0)
        store.close()
        [one] = ledger.arrivals()
        assert (one.rule, one.study_instance_uid, one.state) == ("r", uids(1)[0], ArrivalState.WAITING)
        assert [known.path for known in ledger.receipts_of(uids(1)[0])] == [receipt.path]
        assert [known.path for known in told] == [receipt.path]


def test_what_is_found_was_received_by_the_ledgers_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what receivers report: else it would seem to have come before what it came after, or not to be settled."""

    class Ahead:
        def now(self) -> datetime:
            return datetime.now(UTC) + timedelta(minutes=5)

    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        monkeypatch.setattr(ledger, "clock", Ahead)
        stored = Stored(tmp_path / "store", ledger)
        receipt = stored.put(1, receipt=False)
        store = ObjectStore(stored.root)
        indexer = Indexer(ledger, store)
        indexer.start()
        indexer.stop(10.0)
        store.close()
        [known] = ledger.receipts_of(uids(1)[0])
        written_at = datetime.fromtimestamp(stored.file(receipt).stat().st_mtime, UTC)
        difference = known.received_at - written_at
        assert timedelta(minutes=4) < difference < timedelta(minutes=6)


def test_what_is_missed_is_looked_for_again_whatever_goes_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system that hiccups, or no file descriptor left."""
    told: list[Receipt] = []
    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        stored = Stored(tmp_path / "store", ledger)
        store = ObjectStore(stored.root)
        indexer = Indexer(ledger, store, told.extend)
        indexer.start()
        recover, failures = store.recover, [OSError(errno.EMFILE, "too many open files")]

        def fail_once(known: Callable[[str], Collection[str]]) -> Iterator[Receipt]:
            if failures:
                raise failures.pop()
            return recover(known)

        monkeypatch.setattr(store, "recover", fail_once)
        receipt = stored.put(1, receipt=False)
        indexer.missed()
        wait_for(lambda: told, "what was missed")
        indexer.stop(10.0)
        store.close()
        assert not failures
        assert [known.path for known in told] == [receipt.path]
