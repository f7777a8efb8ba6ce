"""Files that leave the store: they and nothing else, durably, whoever receives meanwhile."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from router import object_places
from router.domain.receipt import Receipt, by_clock
from router.errors import RouterError, StoreError, StoreRefused
from router.ledger.ledger import SqlLedger
from router.removal import SETTLE_SECONDS, Remover
from tests.support.stored import Stored, uids

STUDY = uids(1)[0]


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    with SqlLedger.in_memory() as ledger:
        opened = Stored(tmp_path / "store", ledger)
        yield opened
        opened.close()


@pytest.fixture
def remover(stored: Stored) -> Iterator[Remover]:
    with Remover(stored.root) as opened:
        yield opened


def files(stored: Stored) -> set[str]:
    return {str(path.relative_to(stored.root)) for path in stored.root.rglob("*.dcm")}


def age(stored: Stored, receipt: Receipt, seconds: float) -> None:
    """Make a file older."""
    status = stored.file(receipt).stat()
    os.utime(stored.file(receipt), (status.st_atime, status.st_mtime - seconds))


def test_files_go_with_the_directories_that_they_leave_empty_and_no_other_file_does(
    stored: Stored, remover: Remover
) -> None:
    first, second = stored.put(1, 1, 1), stored.put(1, 2, 1)
    kept, other = stored.put(1, 2, 2), stored.put(2)
    assert remover.remove([first, second]) == [first, second]
    assert files(stored) == {kept.path, other.path}
    assert not (stored.root / STUDY / first.series_instance_uid).exists()
    assert remover.remove([kept]) == [kept]
    assert not (stored.root / STUDY).exists()
    assert files(stored) == {other.path}


def test_what_is_gone_already_counts_as_removed(stored: Stored, remover: Remover) -> None:
    first, second = stored.put(1, 1, 1), stored.put(1, 2, 1)
    stored.file(first).unlink()
    assert remover.remove([first, second]) == [first, second]
    assert remover.remove([first, second]) == [first, second]


def test_what_came_again_a_moment_ago_stays(stored: Stored, remover: Remover) -> None:
    """Its sender was told that it is kept, and the receipt that says so may still be on its way."""
    first, second = stored.put(1, 1, 1), stored.put(1, 1, 2)
    again = stored.put(1, 1, 1)
    assert again.received_at > first.received_at
    assert remover.remove([first, second]) == [second]
    assert files(stored) == {first.path}
    assert not remover.is_whole(STUDY, [first])
    assert remover.remove([again]) == [again], "with the receipt of the last time"


@pytest.mark.parametrize("minutes", [-5, 5])
def test_what_came_again_stays_though_the_ledgers_clock_differs(stored: Stored, minutes: int) -> None:
    """Files have their times by the machine's clock, receipts by that of the ledger's database."""
    ahead = timedelta(minutes=minutes)
    first, second = stored.put(1, 1, 1), stored.put(1, 1, 2)
    again = stored.put(1, 1, 1)
    old, other, new = by_clock([first, second, again], ahead)
    with Remover(stored.root, ahead=lambda: ahead) as remover:
        assert not remover.is_whole(STUDY, [old, other])
        assert remover.is_whole(STUDY, [new, other])
        assert remover.remove([old, other]) == [other]
        assert files(stored) == {first.path}
        assert remover.remove([new]) == [new]


def test_a_file_that_was_merely_touched_long_ago_goes(stored: Stored, remover: Remover) -> None:
    first = stored.put(1)
    old = msgspec.structs.replace(first, received_at=first.received_at.replace(year=2020))
    assert not remover.is_whole(STUDY, [old])
    age(stored, first, SETTLE_SECONDS + 60)
    assert remover.is_whole(STUDY, [old])
    assert remover.remove([old]) == [old]


def test_a_study_is_whole_where_the_ledger_knows_all_its_files(stored: Stored, remover: Remover) -> None:
    first, second = stored.put(1, 1, 1), stored.put(1, 2, 1)
    assert remover.is_whole(STUDY, [first, second])
    assert not remover.is_whole(STUDY, [first]), "the other has come in, and is not in the ledger yet"
    (stored.root / STUDY / "note.txt").write_text("a person's")
    (stored.root / STUDY / first.series_instance_uid / "Thumbs.db").write_text("a program's")
    assert remover.is_whole(STUDY, [first, second])


def test_a_store_of_which_no_file_is_there_is_not_mounted_and_lets_nothing_go(stored: Stored, remover: Remover) -> None:
    first, second = stored.put(1, 1, 1), stored.put(1, 1, 2)
    stored.file(first).unlink()
    assert remover.is_whole(STUDY, [first, second])
    stored.file(second).unlink()
    assert not remover.is_whole(STUDY, [first, second])
    assert not remover.is_whole("1.2.3.4", [])


def test_a_link_in_place_of_a_directory_leads_to_no_file_elsewhere(
    stored: Stored, remover: Remover, tmp_path: Path
) -> None:
    receipt = stored.put(1)
    (stored.root / STUDY).rename(tmp_path / "elsewhere")
    (stored.root / STUDY).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot be removed now"):
        remover.remove([receipt])
    assert list((tmp_path / "elsewhere").rglob("*.dcm"))


def test_while_a_receiver_puts_something_into_a_study_nothing_of_it_is_removed(
    stored: Stored, remover: Remover
) -> None:
    receipt = stored.put(1)
    directory = os.open(stored.root / STUDY, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_SH)
    with pytest.raises(StoreError, match="cannot be removed now"):
        remover.remove([receipt])
    assert files(stored) == {receipt.path}
    os.close(directory)
    assert remover.remove([receipt]) == [receipt]


def test_a_receiver_that_waits_in_vain_refuses_what_it_cannot_put_there(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = object_places.lock
    monkeypatch.setattr(object_places, "lock", lambda directory, operation: lock(directory, operation, 0.01))
    receipt = stored.put(1)
    directory = os.open(stored.root / STUDY, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with pytest.raises(StoreRefused):
        stored.put(1, 1, 2)
    assert files(stored) == {receipt.path}
    os.close(directory)
    stored.put(1, 1, 2)


def test_a_study_that_goes_and_comes_all_the_time_loses_nothing_that_was_taken(
    stored: Stored, remover: Remover
) -> None:
    """Receivers put instances into directories that are removed in the same moment."""
    enough = threading.Event()
    taken: list[Receipt] = []
    errors: list[Exception] = []

    def receive(first: int) -> None:
        number = first
        try:
            while not enough.is_set():
                number += 2
                taken.append(stored.put(1, number % 3, number, receipt=False))
        except (OSError, RouterError) as error:
            errors.append(error)

    threads = [threading.Thread(target=receive, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    removed: list[Receipt] = []
    try:
        ends_at = time.monotonic() + 60
        while len(removed) < 300 and time.monotonic() < ends_at:
            gone = {one.path for one in removed}
            removed += remover.remove([one for one in list(taken) if one.path not in gone])
    finally:
        enough.set()
        for thread in threads:
            thread.join(30)
    assert errors == []
    assert removed
    gone = {one.path for one in removed}
    assert files(stored) == {one.path for one in taken} - gone
