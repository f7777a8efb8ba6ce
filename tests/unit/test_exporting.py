"""Exporting from the store: byte for byte, nothing overwritten, only what is sound."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from router.domain.stored import Fault, Finding
from router.errors import StoreError
from router.exporting import Exported, Exporter
from router.ledger.ledger import SqlLedger
from router.stored_files import StoredFiles
from tests.support.stored import Stored, uids

STUDY = uids(1)[0]


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    with SqlLedger.in_memory() as ledger:
        opened = Stored(tmp_path / "store", ledger)
        for series, instance in [(1, 1), (1, 2), (2, 1)]:
            opened.put(1, series, instance)
        yield opened
        opened.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "export"


def export(stored: Stored, directory: Path, *, link: bool = False) -> tuple[Exported, list[Finding]]:
    found: list[Finding] = []
    with (
        StoredFiles(stored.root) as files,
        Exporter(stored.ledger, files, directory, link=link, on_fault=found.append) as exporter,
    ):
        done = exporter.export(STUDY)
    assert done.faults == len(found)
    return done, found


def contents(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file() and not {".incoming", ".store"} & {*path.parts}]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("link", [False, True])
def test_a_study_is_exported_byte_for_byte_under_the_names_of_the_store(
    stored: Stored, directory: Path, link: bool
) -> None:
    done, found = export(stored, directory, link=link)
    there = contents(directory)
    assert found == []
    assert there == contents(stored.root)
    assert (done.copied, done.linked, done.present) == ((0, 3, 0) if link else (3, 0, 0))
    assert done.size == sum(map(len, there.values()))
    for name in there:
        assert dcmread(directory / name).StudyInstanceUID == STUDY
        assert (directory / name).samefile(stored.root / name) is link
        assert (directory / name).stat().st_mode & 0o077 == 0


def test_the_store_is_left_as_it_is(stored: Stored, directory: Path) -> None:
    before = contents(stored.root)
    export(stored, directory)
    assert contents(stored.root) == before


@pytest.mark.parametrize("link", [False, True])
def test_a_second_time_nothing_is_written(stored: Stored, directory: Path, link: bool) -> None:
    export(stored, directory)
    inodes = {path: path.stat().st_ino for path in directory.rglob("*.dcm")}
    done, found = export(stored, directory, link=link)
    assert (done.copied, done.linked, done.present, found) == (0, 0, 3, [])
    assert inodes == {path: path.stat().st_ino for path in directory.rglob("*.dcm")}


def test_an_export_that_was_broken_off_goes_on(stored: Stored, directory: Path) -> None:
    export(stored, directory)
    one, other, _ = sorted(directory.rglob("*.dcm"))
    one.unlink()
    other.rename(other.with_name(f".{other.stem}.part"))  # as it is when it was killed before the name was given
    done, _ = export(stored, directory)
    assert (done.copied, done.present) == (2, 1)
    assert contents(directory) == contents(stored.root)


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_another_file_of_that_name_is_left_and_named(
    stored: Stored, directory: Path, tmp_path: Path, kind: str
) -> None:
    export(stored, directory)
    path = min(directory.rglob("*.dcm"))
    path.unlink()
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    if kind == "file":
        path.write_bytes(b"precious")
    elif kind == "link":
        path.symlink_to(outside)
    else:
        path.mkdir()
    done, (finding,) = export(stored, directory)
    assert (finding.fault, finding.place.path) == (Fault.TAKEN, str(path.relative_to(directory)))
    assert done.present == 2
    assert outside.read_bytes() == b"precious"
    assert kind != "file" or path.read_bytes() == b"precious"


@pytest.mark.parametrize("link", [False, True])
def test_what_is_damaged_is_not_exported_and_the_rest_is(stored: Stored, directory: Path, link: bool) -> None:
    (known, *_) = stored.ledger.indexed(STUDY)
    path = stored.file(known.receipt)
    os.truncate(path, path.stat().st_size - 10)
    done, (finding,) = export(stored, directory, link=link)
    assert finding.fault is Fault.CUT_OFF
    assert done.instances == 2
    assert set(contents(directory)) == set(contents(stored.root)) - {known.receipt.path}


def test_what_has_other_bytes_than_when_it_was_verified_is_not_exported(stored: Stored, directory: Path) -> None:
    (known, *_) = stored.ledger.indexed(STUDY)
    stored.ledger.keep_checksums([(known.receipt, bytes(32))])
    _, (finding,) = export(stored, directory)
    assert finding.fault is Fault.CHECKSUM
    assert known.receipt.path not in contents(directory)


def test_what_is_gone_is_named(stored: Stored, directory: Path) -> None:
    (known, *_) = stored.ledger.indexed(STUDY)
    stored.file(known.receipt).unlink()
    done, (finding,) = export(stored, directory)
    assert (finding.fault, done.copied) == (Fault.MISSING, 2)


def test_without_hard_links_files_are_copied(stored: Stored, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    done, found = export(stored, directory, link=True)
    assert (done.copied, done.linked, found) == (3, 0, [])
    assert contents(directory) == contents(stored.root)


def test_what_is_written_wrongly_is_noticed_and_removed(
    stored: Stored, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def wrongly(descriptor: int, data: memoryview) -> int:
        return write(descriptor, bytes(data[:-1]) + b"\1")

    monkeypatch.setattr(os, "write", wrongly)
    done, found = export(stored, directory)
    assert [finding.fault for finding in found] == [Fault.MISWRITTEN] * 3
    assert done.instances == 0
    assert contents(directory) == {}


def test_a_full_disk_ends_it_with_one_sentence_and_leaves_no_half_a_file(
    stored: Stored, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"Nothing can be written to .*: No space left on device"):
        export(stored, directory)
    assert contents(directory) == {}


@pytest.mark.parametrize("name", [".", "inside", "inside/deep"])
def test_a_directory_in_the_store_itself_is_refused(stored: Stored, name: str) -> None:
    with pytest.raises(StoreError, match="lies in the object store itself"):
        export(stored, stored.root / name)
    assert not (stored.root / "inside").exists()


def test_a_directory_that_is_none_is_an_error(stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="Nothing can be written to"):
        export(stored, tmp_path / "file")


def test_two_exports_into_one_directory_do_not_mix(stored: Stored, directory: Path) -> None:
    directory.mkdir(parents=True)
    held = os.open(directory, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match="Another export"):
        export(stored, directory)
    os.close(held)
    assert export(stored, directory)[0].copied == 3


@pytest.mark.parametrize("link", [False, True])
def test_a_link_in_place_of_a_directory_is_not_followed(stored: Stored, directory: Path, link: bool) -> None:
    directory.mkdir(parents=True)
    (directory / STUDY).symlink_to(stored.root / STUDY)
    before = contents(stored.root)
    done, found = export(stored, directory, link=link)
    assert (done.instances, {one.fault for one in found}) == (0, {Fault.TAKEN})
    assert contents(stored.root) == before
