"""The file that a ledger travels in: its format, its checksum, and how it comes into being whole or not at all.

Gzip around lines of JSON, so that any tool can look into it: the first line says what it holds (`Contents`), each line
after it some rows of one table, the last the SHA-256 (FIPS 180-4) of all bytes before it and how many rows there were.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from router.errors import LedgerError, UsageError

FORMAT = 1
"""Version of the format; one of the ledger's tables stands beside it."""
NAME = "dicom-router ledger"
MAXIMUM_LINE_BYTES = 256 << 20
"""A longer line is not read: no row of a ledger needs it."""

_COMPRESSION = 3
_BUFFER_BYTES = 1 << 20
_PRIVATE = 0o600

Value = bool | int | str | None
Row = tuple[Any, ...]


class TableContents(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds of one table."""

    name: str
    columns: tuple[str, ...]
    binary: tuple[str, ...] = ()
    """Columns whose values are Base64 (RFC 4648)."""
    rows: int
    last_id: int = 0
    """The highest number ever given to a row, also to one that is gone; 0 where rows have no number of their own."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the file."""

    name: str = NAME
    format: int = FORMAT
    ledger_version: int
    made_at: datetime
    made_by: str
    """The program and its version."""
    tables: tuple[TableContents, ...]

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables)


class Part(msgspec.Struct, frozen=True):
    """Some rows of one table."""

    table: str
    rows: list[list[Value]]


class Ending(msgspec.Struct, frozen=True):
    """The last line: without it the file is not whole."""

    rows: dict[str, int]
    sha256: str


class _Version(msgspec.Struct):
    name: str
    format: int


_contents = msgspec.json.Decoder(Contents)
_version = msgspec.json.Decoder(_Version)
_part = msgspec.json.Decoder(Part)
_ending = msgspec.json.Decoder(Ending)
_encoder = msgspec.json.Encoder()


class DumpWriter:
    """Writes lines, and counts and sums up what it wrote."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._sum = hashlib.sha256()
        self._rows: dict[str, int] = {}

    def begin(self, contents: Contents) -> None:
        """What is going to follow."""
        self._rows = {table.name: 0 for table in contents.tables}
        self._line(contents)

    def rows(self, table: str, rows: Sequence[Row]) -> None:
        """Some rows of a table, their values in the order of its columns; binary values as bytes."""
        self._rows[table] += len(rows)
        self._line({"table": table, "rows": rows})

    def end(self) -> dict[str, int]:
        """Close with the checksum. Returns how many rows were written, by table."""
        self._line(Ending(self._rows, self._sum.hexdigest()))
        return self._rows

    def _line(self, value: object) -> None:
        line = _encoder.encode(value) + b"\n"
        if len(line) > MAXIMUM_LINE_BYTES:
            raise LedgerError("The ledger holds a value that is too large to be exported; please report this as a bug.")
        self._sum.update(line)
        self._stream.write(line)


@contextmanager
def new_dump(path: Path, *, force: bool, keep: Sequence[Path] = ()) -> Iterator[DumpWriter]:
    """A file that is there when the block has ended well, and otherwise not. Only its owner may read it.

    Raises UsageError where there is one already (unless `force`), where it can be none, or where it is one to `keep`;
    LedgerError where it cannot be written.
    """
    refuse_place(path, force=force, keep=keep)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(descriptor, "wb", _BUFFER_BYTES) as raw:
            with gzip.GzipFile("", "wb", _COMPRESSION, raw, mtime=0) as stream:
                yield DumpWriter(stream)
            raw.flush()
            os.fsync(raw.fileno())
        _publish(beside, path, force=force)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def refuse_place(path: Path, *, force: bool, keep: Sequence[Path] = ()) -> None:
    """Raise UsageError where no export may be written to this path; see `new_dump`."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is no ordinary file; name one that does not exist yet.")
    if any(one.exists() and one.samefile(path) for one in keep):
        raise UsageError(f"{path} is the ledger itself; name another file.")
    if not force:
        raise UsageError(f"{path} is there already; name another file, or replace it with --force.")


def _publish(beside: Path, path: Path, *, force: bool) -> None:
    if force:
        beside.replace(path)
    else:
        try:
            os.link(beside, path)  # unlike a rename it replaces nothing that came meanwhile
        except FileExistsError:
            raise UsageError(f"{path} has come into being meanwhile; it was left as it is.") from None
        except OSError:  # a file system without links
            beside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unwritable(path: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"The export {path} cannot be written ({error.strerror or 'I/O error'}); nothing of it was kept."
    )


class DumpReader:
    """A file that was found to be whole, its rows table by table."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self.contents = self._checked()
        """What it holds."""

    def parts(self) -> Iterator[Part]:
        """The rows, some at a time. Raises LedgerError where the file is no longer what was checked."""
        digest = hashlib.sha256()
        for line, following in self._lines():
            if following is None:
                if not _same(line, digest):
                    raise self._damaged("it was changed while it was read")
                return
            digest.update(line)
            if line.startswith(b'{"table":'):
                yield self._decoded(_part, line)

    def _checked(self) -> Contents:
        """Read all of it once, before anything is done with it."""
        digest = hashlib.sha256()
        contents: Contents | None = None
        for line, following in self._lines():
            if contents is None:
                contents = self._first(line)
            if following is None:
                if not line.startswith(b'{"rows":'):
                    raise self._damaged("its end is missing")
                if not _same(line, digest):
                    raise self._damaged("its checksum is not that of its contents")
                told = self._decoded(_ending, line).rows
                if told != {table.name: table.rows for table in contents.tables}:
                    raise self._damaged("its first and its last line disagree about how much it holds")
                return contents
            digest.update(line)
        raise self._damaged("it is empty")

    def _first(self, line: bytes) -> Contents:
        try:
            found = _version.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            found = None
        if found is None or found.name != NAME:
            raise LedgerError(
                f"{self._path} is no export of a ledger; make one with `dicom-router ledger export FILE`."
            )
        if found.format > FORMAT:
            raise LedgerError(
                f"{self._path} was written by a newer dicom-router (its format is {found.format}, this program knows "
                f"{FORMAT}); use that program."
            )
        contents: Contents = self._decoded(_contents, line)
        return contents

    def _lines(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Each line with the one that follows it."""
        try:
            self._stream.seek(0)
            with gzip.GzipFile(fileobj=self._stream, mode="rb") as unpacked:
                line = unpacked.readline(MAXIMUM_LINE_BYTES + 1)
                while line:
                    if line[-1:] != b"\n":
                        raise self._damaged("a line of it does not end")
                    following = unpacked.readline(MAXIMUM_LINE_BYTES + 1)
                    yield line, following or None
                    line = following
        except gzip.BadGzipFile:
            raise self._damaged("it is not compressed as an export is, or was changed") from None
        except EOFError:
            raise self._damaged("its end is missing") from None
        except zlib.error:
            raise self._damaged("its compressed contents were changed") from None
        except OSError as error:
            raise LedgerError(f"{self._path} cannot be read ({error.strerror or 'I/O error'}).") from None

    def _decoded(self, decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
        try:
            return decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            raise self._damaged("a line of it cannot be understood") from None

    def _damaged(self, how: str) -> LedgerError:
        return LedgerError(
            f"The export {self._path} is damaged: {how}; nothing was imported. Copy it again, or export again."
        )


@contextmanager
def open_dump(path: Path) -> Iterator[DumpReader]:
    """A file to import, found to be whole. Raises LedgerError where it is not, or cannot be read."""
    try:
        stream = path.open("rb", _BUFFER_BYTES)
    except OSError as error:
        raise LedgerError(f"The export {path} cannot be read ({error.strerror or 'I/O error'}).") from None
    with stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise LedgerError(f"{path} is no ordinary file; an import reads its file twice, to check it first.")
        yield DumpReader(stream, path)


def counted(contents: Contents) -> Mapping[str, int]:
    """Rows by table."""
    return {table.name: table.rows for table in contents.tables}


def _same(line: bytes, digest: Any) -> bool:
    try:
        return bool(_ending.decode(line).sha256 == digest.hexdigest())
    except (msgspec.DecodeError, UnicodeError):
        return False
