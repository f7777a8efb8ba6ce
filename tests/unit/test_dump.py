"""The file that a ledger travels in: whole or refused, never over what is there, for its owner only."""

from __future__ import annotations

import errno
import gzip
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import LedgerError, UsageError
from router.ledger import dump_file
from router.ledger.dump_file import Contents, TableContents, new_dump, open_dump

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS = [[1, "ä", True, None], [2, "\u2028\x00", False, "AAEC"]]


def contents(rows: int) -> Contents:
    table = TableContents(name="things", columns=("id", "name", "flag", "data"), binary=("data",), rows=rows, last_id=7)
    return Contents(ledger_version=8, made_at=AT, made_by="test", tables=(table,))


def write(path: Path, rows: list[list[Any]], *, force: bool = False) -> None:
    with new_dump(path, force=force) as writer:
        writer.begin(contents(len(rows)))
        for row in rows:
            writer.rows("things", [tuple(row)])
        writer.end()


def read(path: Path) -> list[list[Any]]:
    with open_dump(path) as reader:
        return [row for part in reader.parts() for row in part.rows]


def outcome(path: Path) -> tuple[list[list[Any]], str]:
    """What was read, or why not."""
    try:
        return read(path), ""
    except LedgerError as error:
        return [], str(error)


def left(directory: Path) -> list[str]:
    """What there is in a directory."""
    return [one.name for one in directory.iterdir()]


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.text())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=st.lists(st.lists(VALUES, min_size=4, max_size=4), max_size=20))
def test_what_was_written_is_read(tmp_path: Path, rows: list[list[Any]]) -> None:
    path = tmp_path / "file"
    write(path, rows, force=True)
    assert read(path) == rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "file"
    write(path, ROWS * 30)
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_a_file_that_was_cut_or_changed_is_refused_or_the_same(
    tmp_path: Path, whole: bytes, data: st.DataObject
) -> None:
    path = tmp_path / "file"
    at = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["cut", "changed", "more", "twice"]))
    if how == "cut":
        damaged = whole[:at]
    elif how == "changed":
        damaged = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    else:
        damaged = whole + (whole if how == "twice" else data.draw(st.binary(min_size=1, max_size=9)))
    path.write_bytes(damaged)
    found, sentence = outcome(path)
    # What is read all the same was changed in a bit of gzip's header that nobody reads, or has zeros after its end.
    assert found == ROWS * 30 if not sentence else sentence.startswith(("The export ", str(path)))
    assert "\n" not in sentence


def repacked(path: Path, *lines: object) -> None:
    path.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "is empty"),
        ([{"some": "thing"}], "is no export of a ledger; make one with `dicom-router ledger export FILE`"),
        ([[1, 2]], "is no export of a ledger"),
        ([{"name": dump_file.NAME, "format": 2}], r"newer dicom-router \(its format is 2, this program knows 1\)"),
        ([{"name": dump_file.NAME, "format": 1}], "a line of it cannot be understood"),
    ],
)
def test_what_is_no_export_is_said_to_be_none(tmp_path: Path, lines: list[object], words: str) -> None:
    path = tmp_path / "file"
    repacked(path, *lines)
    with pytest.raises(LedgerError, match=words):
        read(path)


def test_lines_that_were_taken_out_are_missed(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "file"
    lines = gzip.decompress(whole).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([*lines[:5], *lines[6:]])))
    with pytest.raises(LedgerError, match="its checksum is not that of its contents; nothing was imported"):
        read(path)
    path.write_bytes(gzip.compress(b"".join(lines)[:-1]))
    with pytest.raises(LedgerError, match="a line of it does not end"):
        read(path)


def test_a_file_that_changes_after_it_was_checked_is_noticed(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(whole)
    lines = gzip.decompress(whole).splitlines(keepends=True)
    with open_dump(path) as reader:
        path.write_bytes(gzip.compress(b"".join([*lines[:5], *lines[6:]])))
        with pytest.raises(LedgerError, match="it was changed while it was read"):
            list(reader.parts())


def test_only_its_owner_may_read_it_and_nothing_else_is_left(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "file", ROWS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert left(tmp_path) == ["file"]


def test_a_file_that_is_there_is_left_alone_but_by_force(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(UsageError, match="is there already; name another file, or replace it with --force"):
        write(path, ROWS)
    assert path.read_text() == "mine"
    write(path, ROWS, force=True)
    assert read(path) == ROWS


def test_a_file_that_came_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write_beside() -> None:
        with new_dump(path, force=False) as writer:
            writer.begin(contents(0))
            writer.end()
            path.write_text("another's")

    with pytest.raises(UsageError, match="has come into being meanwhile"):
        write_beside()
    assert path.read_text() == "another's"
    assert left(tmp_path) == ["file"]


def test_neither_a_directory_nor_a_device_nor_the_ledger_is_replaced(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    ledger.write_text("precious")
    (tmp_path / "name").hardlink_to(ledger)
    with (
        pytest.raises(UsageError, match="is the ledger itself"),
        new_dump(tmp_path / "name", force=True, keep=[ledger]),
    ):
        pass
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="is no ordinary file"):
            write(path, ROWS, force=True)
    assert ledger.read_text() == "precious"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"file cannot be written \(No such file or directory\)"):
        write(tmp_path / "no" / "file", ROWS)
    with pytest.raises(LedgerError, match=r"cannot be read \(No such file or directory\)"):
        read(tmp_path / "file")
    with pytest.raises(LedgerError, match=r"is no ordinary file|cannot be read \(Is a directory\)"):
        read(tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_does_not_end_well_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with new_dump(tmp_path / "file", force=False) as writer:
            writer.begin(contents(1))
            raise error

    with pytest.raises((LedgerError, KeyboardInterrupt)):
        fail()
    assert left(tmp_path) == []


def test_a_value_too_large_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_file, "MAXIMUM_LINE_BYTES", 1000)
    with pytest.raises(LedgerError, match="too large to be exported"):
        write(tmp_path / "file", [[1, "x" * 2000, True, None]])
    assert left(tmp_path) == []
