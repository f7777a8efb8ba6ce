"""Object stores of several replicas: their names, what counts, which copy is taken, leftovers of other machines."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.receipt import Receipt, by_clock
from router.domain.stores import COUNTS_FOR, StoreSeen, chosen, counting
from router.engine.arrivals import ASK_SECONDS, Arrivals, Indexed
from router.errors import LedgerError, StoreError
from router.indexing import Indexer
from router.ledger.ledger import SqlLedger
from router.object_temporary import STRANGERS_SECONDS, begun_by, remove_leftovers
from router.objects import ObjectStore
from router.store_name import name_at
from tests.support.stored import Stored, uids

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def receipt(instance: str, store: str = "", seconds: float = 0) -> Receipt:
    return Receipt(
        study_instance_uid="1.2",
        series_instance_uid="1.2.3",
        sop_instance_uid=f"1.2.3.{instance}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="CT1",
        size=1,
        path=f"1.2/1.2.3/1.2.3.{instance}.dcm",
        received_at=NOW + timedelta(seconds=seconds),
        store=store,
    )


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_store_keeps_the_name_that_it_gets_first_whoever_comes_at_once(tmp_path: Path) -> None:
    names: list[str] = []

    def open_one() -> None:
        store = ObjectStore(tmp_path / "store")
        names.append(store.name)
        store.close()

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(names) == 8
    assert len(set(names)) == 1
    assert len(names[0]) == 12
    assert name_at(tmp_path / "store") == names[0]
    assert names_in(tmp_path / "store") == [".incoming", ".store"], "nothing else is left"


def test_two_stores_have_two_names_and_one_that_nobody_opened_none(tmp_path: Path) -> None:
    stores = [ObjectStore(tmp_path / name) for name in ("a", "b")]
    assert len({one.name for one in stores}) == 2
    for one in stores:
        one.close()
    assert name_at(tmp_path) == name_at(tmp_path / "none") == ""


def test_a_name_that_is_none_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / ".store").write_text("hello\n", encoding="utf-8")
    with pytest.raises(StoreError, match="12 hexadecimal digits: restore it"):
        ObjectStore(tmp_path)


# --- what counts ----------------------------------------------------------------------------------------------------


def test_what_other_stores_hold_counts_for_a_day_after_they_were_seen() -> None:
    stores = [
        StoreSeen(name="own", replica="a", seen_at=NOW),
        StoreSeen(name="other", replica="b", seen_at=NOW - COUNTS_FOR + timedelta(seconds=1)),
        StoreSeen(name="old", replica="c", seen_at=NOW - COUNTS_FOR),
    ]
    assert counting(stores, "own", NOW) == {"other"}


_RECEIPTS = st.lists(
    st.builds(receipt, st.sampled_from("123"), st.sampled_from(["", "own", "b", "c"]), st.integers(0, 9)), max_size=12
)


@given(_RECEIPTS, st.sets(st.sampled_from(["b", "c"])))
def test_one_copy_of_each_instance_is_taken_and_never_a_worse_one(receipts: list[Receipt], reachable: set[str]) -> None:
    taken = chosen(receipts, "own", reachable)
    assert sorted(one.sop_instance_uid for one in taken) == sorted({one.sop_instance_uid for one in receipts})
    for one in taken:
        copies = [each for each in receipts if each.sop_instance_uid == one.sop_instance_uid]
        assert one in copies
        if any(each.store in ("", "own") for each in copies):
            assert one.store in ("", "own")
        elif any(each.store in reachable for each in copies):
            assert one.store in reachable


def test_receipts_follow_the_common_clock_only_where_it_differs_enough_to_matter() -> None:
    batch = [receipt("1")]
    assert by_clock(batch, timedelta(milliseconds=900)) == batch
    assert by_clock(batch, timedelta(seconds=-90)) == [receipt("1", seconds=-90)]


# --- leftovers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_leftovers_of_this_machine_go_at_once_those_of_another_after_a_day(tmp_path: Path, directory: int) -> None:
    ours, before, theirs = f"{begun_by()}-1.part", "123-abc-0.part", "m00000000-7-abc-0.part"
    for name in (ours, before, theirs):
        (tmp_path / name).touch()
    remove_leftovers(directory)
    assert names_in(tmp_path) == [theirs]
    written_at = (tmp_path / theirs).stat().st_mtime
    remove_leftovers(directory, written_at + STRANGERS_SECONDS - 1)
    assert names_in(tmp_path) == [theirs]
    remove_leftovers(directory, written_at + STRANGERS_SECONDS + 1)
    assert names_in(tmp_path) == []


def test_what_somebody_writes_stays(tmp_path: Path, directory: int) -> None:
    name = f"{begun_by()}-1.part"
    with (tmp_path / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_leftovers(directory)
        assert names_in(tmp_path) == [name]


# --- adoption -------------------------------------------------------------------------------------------------------


def test_receipts_of_before_belong_to_the_store_that_has_their_files(tmp_path: Path) -> None:
    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        stored, store = Stored(tmp_path / "store", ledger), ObjectStore(tmp_path / "store")
        kept = stored.put(1, receipt=False)
        gone = stored.put(1, 1, 2, receipt=False)
        twice = stored.put(1, 1, 3)  # it has come again since
        nameless = [msgspec.structs.replace(one, store="") for one in (kept, gone, twice)]
        ledger.add_receipts(nameless)
        stored.file(gone).unlink()
        indexer = Indexer(ledger, store)
        indexer.start()
        indexer.stop(60)
        found = {(one.receipt.sop_instance_uid, one.receipt.store) for one in ledger.indexed(uids(1)[0])}
        assert found == {
            (kept.sop_instance_uid, store.name),
            (twice.sop_instance_uid, store.name),
            (gone.sop_instance_uid, ""),
        }
        store.close()
        stored.close()


# --- arrivals at other services -------------------------------------------------------------------------------------


class Ledgers:
    """What the ledger says, and how often it was asked."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.found: Indexed | None = Indexed(0, 0, None)
        self.asked = 0
        self.broken = False
        self.arrivals = Arrivals(self.indexed, lambda: self.now)

    def indexed(self, study: str) -> Indexed | None:
        self.asked += 1
        if self.broken:
            raise LedgerError("down")
        return self.found


def test_what_arrives_at_another_service_keeps_a_move_alive() -> None:
    ledgers = Ledgers()
    arrivals = ledgers.arrivals
    ledgers.found = Indexed(3, 3, NOW)
    assert arrivals.last("1.2") == 0.0, "what was there before has not arrived now"
    assert arrivals.number("1.2") == 0
    ledgers.now += ASK_SECONDS
    ledgers.found = Indexed(5, 5, NOW)
    assert arrivals.last("1.2") == ledgers.now
    assert arrivals.number("1.2") == 2
    seen = ledgers.now
    ledgers.now += ASK_SECONDS
    assert arrivals.last("1.2") == seen, "nothing more came"


def test_the_ledger_is_asked_seldom_and_not_while_something_comes_here() -> None:
    ledgers = Ledgers()
    arrivals = ledgers.arrivals
    arrivals.note("1.2")
    for _ in range(9):
        ledgers.now += 0.5
        arrivals.last("1.2")
    assert ledgers.asked == 0
    ledgers.now += ASK_SECONDS
    for _ in range(9):
        ledgers.now += 0.1
        arrivals.last("1.2")
    assert ledgers.asked == 1
    arrivals.last("1.2", fresh=True)
    assert ledgers.asked == 2


def test_alone_or_without_the_ledger_only_what_comes_here_counts() -> None:
    ledgers = Ledgers()
    ledgers.found = None
    ledgers.arrivals.note("1.2")
    came = ledgers.now
    ledgers.now += 100
    assert ledgers.arrivals.last("1.2") == came
    assert ledgers.arrivals.number("1.2") == 1
    ledgers.broken = True
    assert ledgers.arrivals.last("1.2") == came
