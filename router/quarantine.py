"""The quarantine on disk: STORE/.quarantine/NUMBER-DIGEST.dcm, each with a note (.json) of why it is there.

Safe between processes: who changes something holds a lock on the directory. Neither names nor notes hold a value of an
object.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from router.domain.quarantine import UNKNOWN, Held, Quarantined, QuarantineSettings
from router.errors import NotThere, StoreError
from router.object_places import DIRECTORY_FLAGS, FILE_FLAGS, lock
from router.objects import Writer

DIRECTORY = ".quarantine"
_NAME = re.compile(r"([0-9]{6,12})-([0-9a-f]{24})\.dcm\Z")
_LAST = "last"
"""The file with the last number that was given: none is given twice, for people note them down."""
_HALF = "half"
"""What a small file is called while it is written."""
_NOTE_BYTES = 4096
_LOCK_SECONDS = 5.0
_FULL_SECONDS = 5.0
"""So long a quarantine that was full is not looked at again: whoever sends refused objects by the thousand waits for
no directory."""


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is written beside an object."""

    reason: str
    node: str
    calling_ae_title: str
    received_at: datetime


class _Entry(NamedTuple):
    number: int
    digest: str
    size: int

    @property
    def stem(self) -> str:
        return f"{self.number:06d}-{self.digest}"


class Quarantine:
    """Thread-safe, and safe beside other processes on the same store."""

    def __init__(self, store: Path | str, settings: QuarantineSettings, *, durable: bool = True) -> None:
        self.path = Path(store) / DIRECTORY
        self._settings = settings
        self._durable = durable
        self._lock = threading.Lock()
        self._full_until = 0.0

    @property
    def most(self) -> int:
        """The largest object, in bytes, that could ever be kept."""
        return self._settings.size if self._settings.objects else 0

    def keep(self, writer: Writer, *, reason: str, node: str, calling_ae_title: str) -> bool:
        """Keep what was written, durably. False where there is no room, or it cannot be written.

        What is there already is not kept again.
        """
        if writer.size > self.most or time.monotonic() < self._full_until:
            return False
        now = datetime.now(UTC)
        note = _Note(reason=reason, node=node, calling_ae_title=calling_ae_title, received_at=now)
        try:
            digest = writer.checksum()[:24]
            with self._locked(create=True) as directory:
                entries = list(_entries(directory))
                known = next((one for one in entries if one.digest == digest), None)
                if known is not None:
                    os.utime(f"{known.stem}.dcm", (now.timestamp(), now.timestamp()), dir_fd=directory)
                    return True
                if not _held(entries).takes(writer.size, self._settings):
                    self._full_until = time.monotonic() + _FULL_SECONDS
                    return False
                entry = _Entry(_next_number(directory, entries), digest, writer.size)
                self._write(_LAST, str(entry.number).encode(), directory)
                self._write(f"{entry.stem}.json", msgspec.json.encode(note), directory)
                try:
                    writer.link(f"{entry.stem}.dcm", directory)
                except OSError:
                    os.unlink(f"{entry.stem}.json", dir_fd=directory)
                    raise
                if self._durable:
                    os.fsync(directory)
        except (OSError, StoreError):
            return False
        return True

    def held(self) -> Held:
        """How much lies there. Raises OSError."""
        try:
            directory = os.open(self.path, DIRECTORY_FLAGS)
        except FileNotFoundError:
            return Held()
        try:
            return _held(list(_entries(directory)))
        finally:
            os.close(directory)

    def all(self) -> list[Quarantined]:
        """What lies there, what came last first. Raises StoreError."""
        if self.path.parent.is_dir() and not self.path.exists():
            return []  # nothing was ever kept
        with self._reading() as directory:
            found = [self._seen(directory, entry) for entry in _entries(directory)]
        return sorted(found, key=lambda one: one.number, reverse=True)

    def find(self, number: int) -> Quarantined:
        """One object. Raises NotThere, StoreError."""
        with self._reading() as directory:
            return self._seen(directory, _entry(directory, number))

    def file(self, number: int) -> Path:
        """Where an object lies. Raises NotThere, StoreError."""
        with self._reading() as directory:
            return self.path / f"{_entry(directory, number).stem}.dcm"

    def remove(self, number: int) -> None:
        """Remove an object for good. Raises NotThere, StoreError."""
        try:
            with self._locked(create=False) as directory:
                entry = _entry(directory, number)
                os.unlink(f"{entry.stem}.dcm", dir_fd=directory)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{entry.stem}.json", dir_fd=directory)
        except FileNotFoundError:
            raise NotThere(_absent(number)) from None
        except OSError as error:
            raise StoreError(f"The quarantine {self.path} cannot be changed: {error.strerror}.") from None

    # ------------------------------------------------------------------------------------------------------------------

    def _write(self, name: str, content: bytes, directory: int) -> None:
        """Write a small file whole, or leave what was there: on a full disk too."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_HALF, flags, 0o600, dir_fd=directory)
        try:
            os.write(descriptor, content)
            if self._durable:
                os.fsync(descriptor)
            os.rename(_HALF, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(_HALF, dir_fd=directory)
            raise
        finally:
            os.close(descriptor)

    def _seen(self, directory: int, entry: _Entry) -> Quarantined:
        note, offered_at = _note(directory, entry)
        return Quarantined(
            number=entry.number,
            reason=note.reason if note is not None else UNKNOWN,
            node=note.node if note is not None else "",
            calling_ae_title=note.calling_ae_title if note is not None else "",
            received_at=note.received_at if note is not None else offered_at,
            offered_at=offered_at,
            size=entry.size,
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[int]:
        try:
            if not self.path.parent.is_dir():
                raise StoreError(f"There is no object store at {self.path.parent} yet; look at router.store.")
            with self._opened(create=False) as directory:
                yield directory
        except FileNotFoundError:
            raise NotThere("Nothing is in quarantine, and nothing ever was.") from None
        except OSError as error:
            raise StoreError(f"The quarantine {self.path} cannot be read: {error.strerror}.") from None

    @contextlib.contextmanager
    def _opened(self, *, create: bool) -> Iterator[int]:
        if create:
            self.path.mkdir(mode=0o700, exist_ok=True)
        directory = os.open(self.path, DIRECTORY_FLAGS)
        try:
            yield directory
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _locked(self, *, create: bool) -> Iterator[int]:
        """Raises OSError, TimeoutError (one of them) where others hold it for too long."""
        with self._lock, self._opened(create=create) as directory:
            try:
                lock(directory, fcntl.LOCK_EX, _LOCK_SECONDS)
            except TimeoutError:
                raise TimeoutError(0, "another process holds it") from None
            yield directory


def _entries(directory: int) -> Iterator[_Entry]:
    with os.scandir(directory) as found:
        for one in found:
            match = _NAME.match(one.name)
            if match is not None:
                with contextlib.suppress(FileNotFoundError):
                    status = one.stat(follow_symlinks=False)
                    yield _Entry(int(match[1]), match[2], status.st_size)


def _held(entries: list[_Entry]) -> Held:
    return Held(objects=len(entries), size=sum(one.size for one in entries))


def _entry(directory: int, number: int) -> _Entry:
    for one in _entries(directory):
        if one.number == number:
            return one
    raise NotThere(_absent(number))


def _next_number(directory: int, entries: Sequence[_Entry]) -> int:
    last = _read(_LAST, directory)
    return max([0, *(one.number for one in entries), *([int(last)] if last.isdigit() else [])]) + 1


def _read(name: str, directory: int) -> bytes:
    """A small file; nothing where it cannot be read."""
    try:
        descriptor = os.open(name, FILE_FLAGS, dir_fd=directory)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _NOTE_BYTES)
    finally:
        os.close(descriptor)


def _absent(number: int) -> str:
    return f"There is no object {number} in quarantine; `dicom-router quarantine list` shows what there is."


def _note(directory: int, entry: _Entry) -> tuple[_Note | None, datetime]:
    """What is noted of an object, and when it was offered last."""
    try:
        changed = os.stat(f"{entry.stem}.dcm", dir_fd=directory, follow_symlinks=False).st_mtime
        offered_at = datetime.fromtimestamp(changed, UTC)
    except FileNotFoundError:
        raise NotThere(_absent(entry.number)) from None
    try:
        return msgspec.json.decode(_read(f"{entry.stem}.json", directory), type=_Note), offered_at
    except msgspec.MsgspecError:
        return None, offered_at
