"""Verifying the store: what is as it came is found so, each fault has its name, nothing is changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from router.domain.receipt import Receipt
from router.domain.stored import MEANINGS, Fault, Finding
from router.errors import StoreError
from router.inspection import ARRIVING, Inspected, Inspector
from router.ledger.ledger import SqlLedger
from router.stored_files import StoredFiles
from tests.support.stored import PIXELS, Stored, data_set, uids


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    with SqlLedger.in_memory() as ledger:
        opened = Stored(tmp_path / "store", ledger)
        yield opened
        opened.close()


def verify(
    stored: Stored, only: Sequence[str] | None = None, *, later: timedelta = timedelta()
) -> tuple[Inspected, list[Finding]]:
    found: list[Finding] = []
    with StoredFiles(stored.root) as files:
        now = datetime.now(UTC) + later
        inspected = Inspector(stored.ledger, files, lambda: now, on_fault=found.append).verify(only)
    assert inspected.faults == len(found)
    return inspected, found


def cut(path: Path, by: int) -> None:
    os.truncate(path, path.stat().st_size - by)


def cut_in_the_header(path: Path) -> None:
    cut(path, PIXELS + 15)  # within the Series Instance UID


def cut_in_the_pixels(path: Path) -> None:
    cut(path, PIXELS // 2)


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def make_something_else(path: Path) -> None:
    path.write_bytes(b"no DICOM at all" * 100)


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-PIXELS // 2] ^= 1
    path.write_bytes(content)


def swap_with_another(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(uids(1)[2].encode(), uids(7)[2].encode()))


def other_transfer_syntax(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0abcd")


def make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def remove_the_study(path: Path) -> None:
    shutil.rmtree(path.parent.parent)


def test_what_is_as_it_came_is_read_once_and_compared_from_then_on(stored: Stored) -> None:
    for study, series, instance in [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]:
        stored.put(study, series, instance)
    inspected, found = verify(stored)
    assert found == []
    assert (inspected.studies, inspected.instances, inspected.first_read, inspected.compared) == (2, 4, 4, 0)
    assert inspected.size == stored.ledger.stored_amount().size
    inspected, found = verify(stored)
    assert found == []
    assert (inspected.first_read, inspected.compared) == (0, 4)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (Path.unlink, Fault.MISSING),
        (remove_the_study, Fault.MISSING),
        (make_a_directory, Fault.UNREADABLE),
        (make_a_link, Fault.UNREADABLE),
        (make_a_pipe, Fault.UNREADABLE),
        (make_empty, Fault.NOT_DICOM),
        (make_something_else, Fault.NOT_DICOM),
        (cut_in_the_header, Fault.NOT_DICOM),
        (swap_with_another, Fault.MISPLACED),
        (cut_in_the_pixels, Fault.CUT_OFF),
        (longer, Fault.SIZE),
        (other_transfer_syntax, Fault.HEAD),
        (change_a_byte, Fault.CHECKSUM),
    ],
)
def test_each_fault_of_a_file_is_found_and_named(
    stored: Stored, damage: Callable[[Path], object], fault: Fault
) -> None:
    receipt, sound = stored.put(1), stored.put(2)
    verify(stored)
    damage(stored.file(receipt))
    before = stored.ledger.receipt(*uids(1))
    inspected, found = verify(stored)
    assert found == [Finding(uids(1), fault)]  # type: ignore[arg-type]
    assert inspected.compared == 1
    assert stored.ledger.receipt(*uids(1)) == before
    assert stored.file(sound).exists()
    assert verify(stored)[1] == found, "it is found again each time"


def test_every_fault_has_its_meaning() -> None:
    assert set(MEANINGS) == set(Fault)


def test_a_damaged_file_gets_no_checksum(stored: Stored) -> None:
    cut(stored.file(stored.put(1)), 10)
    inspected, _ = verify(stored)
    assert (inspected.first_read, inspected.faults) == (0, 1)
    (known,) = stored.ledger.indexed(uids(1)[0])
    assert known.checksum is None


def test_what_came_in_anew_in_the_place_of_a_damaged_file_is_in_order(stored: Stored) -> None:
    receipt = stored.put(1)
    verify(stored)
    cut(stored.file(receipt), 10)
    assert [finding.fault for finding in verify(stored)[1]] == [Fault.CUT_OFF]
    stored.put(1, calling="CT2")
    inspected, found = verify(stored)
    assert found == []
    assert inspected.first_read == 1


def test_a_file_without_receipt_is_named_unless_it_came_in_a_moment_ago(stored: Stored) -> None:
    stored.put(1)
    stored.put(1, 1, 2, receipt=False)
    stored.put(3, receipt=False)
    inspected, found = verify(stored)
    assert (found, inspected.arriving, inspected.studies) == ([], 2, 2)
    inspected, found = verify(stored, later=2 * ARRIVING)
    assert [(tuple(place), fault) for place, fault in found] == [
        (uids(1, 1, 2), Fault.NO_RECEIPT),
        (uids(3), Fault.NO_RECEIPT),
    ]
    assert (inspected.arriving, inspected.instances) == (0, 3)


def test_a_damaged_file_without_receipt_is_named_by_its_damage(stored: Stored) -> None:
    cut(stored.file(stored.put(1, receipt=False)), 10)
    assert [finding.fault for finding in verify(stored)[1]] == [Fault.CUT_OFF]


def test_only_the_studies_that_are_wanted_are_read(stored: Stored) -> None:
    stored.put(1)
    stored.file(stored.put(2)).unlink()
    inspected, found = verify(stored, [uids(1)[0]])
    assert (inspected.studies, inspected.instances, found) == (1, 1, [])
    assert verify(stored, ["1.2.3"])[0].instances == 0


def test_what_is_not_of_the_store_is_passed_over(stored: Stored) -> None:
    receipt = stored.put(1)
    (stored.root / "lost+found").mkdir()
    (stored.root / ".incoming" / "1.2.3.dcm").write_bytes(b"x")
    stored.file(receipt).with_name("notes.txt").write_text("x")
    inspected, found = verify(stored)
    assert (inspected.instances, found) == (1, [])


@pytest.mark.parametrize("path", ["../../etc/passwd", f"{uids(2)[0]}/{uids(2)[1]}/{uids(2)[2]}.dcm", ""])
def test_a_receipt_never_leads_to_another_place_than_its_uids_say(stored: Stored, path: str) -> None:
    stored.put(2)
    odd = msgspec.structs.replace(stored.put(1), path=path)
    stored.ledger.add_receipts([odd])
    assert verify(stored)[1] == [Finding(uids(1), Fault.MISPLACED)]  # type: ignore[arg-type]


def test_a_directory_of_the_store_that_is_a_link_is_not_followed(stored: Stored, tmp_path: Path) -> None:
    path = stored.file(stored.put(1))
    path.parent.rename(tmp_path / "series")
    path.parent.symlink_to(tmp_path / "series")
    assert [finding.fault for finding in verify(stored)[1]] in ([Fault.MISSING], [Fault.UNREADABLE])


class Forgetful(SqlLedger):
    """A ledger of which an instance leaves, or comes in anew, in the moment before it is looked at again."""

    meanwhile: Callable[[], None] | None = None

    def indexed_instance(self, *key: str):  # type: ignore[no-untyped-def]
        if self.meanwhile is not None:
            self.meanwhile()
            self.meanwhile = None
        return super().indexed_instance(*key)


def test_what_comes_in_anew_while_it_is_looked_at_is_no_fault(tmp_path: Path) -> None:
    with Forgetful.in_memory() as ledger:
        stored = Stored(tmp_path / "store", ledger)
        cut(stored.file(stored.put(1)), 10)
        ledger.meanwhile = lambda: void(stored.put(1))
        assert verify(stored)[1] == []
        stored.close()


def void(_: Receipt) -> None:
    """Nothing is expected."""


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no object store at"):
        StoredFiles(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_data_sets_of_the_helper_are_of_the_size_that_the_store_says(stored: Stored) -> None:
    assert stored.put(1).size == len(data_set(*uids(1)))
