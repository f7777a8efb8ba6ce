"""Writes what the object store holds to another directory: verified, nothing overwritten, the store left as it is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from router.domain.stored import CHECKSUM, Fault, Finding, Indexed, Place, fault_of
from router.errors import StoreError
from router.inspection import place_of
from router.ledger.ledger import SqlLedger
from router.stored_files import StoredFiles, look_at

_CHUNK = 1 << 20
_NEW = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV})


class Exported(msgspec.Struct):
    """What became of instances; `size` in bytes of whole files."""

    copied: int = 0
    linked: int = 0
    present: int = 0
    """Instances that were there already, byte for byte."""
    size: int = 0
    faults: int = 0

    @property
    def instances(self) -> int:
        """Instances that are in the directory now."""
        return self.copied + self.linked + self.present

    def since(self, before: Exported) -> Exported:
        """What has been added."""
        return Exported(*(mine - theirs for mine, theirs in zip(_counts(self), _counts(before), strict=True)))


def _counts(exported: Exported) -> tuple[int, ...]:
    return msgspec.structs.astuple(exported)


class _Unreadable(Exception):
    """A file of the store cannot be read."""


class Exporter:
    """Exports to DIRECTORY/STUDY/SERIES/INSTANCE.dcm. One thread; one export at a time into a directory.

    With `link` files get a second name where the file system allows it, else they are copied. Raises StoreError where
    the directory cannot be used, or is the store's own.
    """

    def __init__(
        self,
        ledger: SqlLedger,
        files: StoredFiles,
        directory: Path,
        *,
        link: bool = False,
        on_fault: Callable[[Finding], None],
        on_progress: Callable[[Exported], None] = lambda total: None,
    ) -> None:
        """`on_progress` is called after each instance, with all that was exported so far."""
        self._ledger = ledger
        self._files = files
        self._directory = directory
        self._link = link
        self._on_fault = on_fault
        self._on_progress = on_progress
        self.total = Exported()
        store = files.root.resolve()
        if store in (wanted := directory.resolve(), *wanted.parents):
            raise StoreError(f"{directory} lies in the object store itself; choose a directory outside of it.")
        with self._writing():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StoreError(f"Another export writes to {directory} now; wait for its end.") from None

    def close(self) -> None:
        """Let others export into the directory."""
        os.close(self._lock)

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def export(self, study_instance_uid: str) -> Exported:
        """All instances of a study that have a receipt.

        Raises LedgerError, and StoreError where nothing can be written.
        """
        before = msgspec.structs.replace(self.total)
        for known in self._ledger.indexed(study_instance_uid, self._files.name):
            place = place_of(known.receipt)
            fault = self._one(place, known)
            if fault is not None:
                self.total.faults += 1
                self._on_fault(Finding(place, fault))
            self._on_progress(self.total)
        return self.total.since(before)

    def _one(self, place: Place, known: Indexed) -> Fault | None:
        if known.receipt.path != place.path:
            return Fault.MISPLACED
        try:
            with self._files.open(place) as source:
                return self._written(place, known, source)
        except (FileNotFoundError, NotADirectoryError):
            return Fault.MISSING
        except (OSError, _Unreadable):
            return Fault.UNREADABLE

    def _written(self, place: Place, known: Indexed, source: int) -> Fault | None:
        """Raises OSError, _Unreadable for the store's file only."""
        target = self._directory / place.path
        with self._writing():
            for directory in (target.parent.parent, target.parent):
                if directory.is_symlink():  # it leads elsewhere, perhaps into the store itself
                    return Fault.TAKEN
                directory.mkdir(mode=0o700, exist_ok=True)
            there = target.is_symlink() or target.exists()
        if there or self._link:
            seen = look_at(source)
            if (fault := fault_of(seen, place, known)) is not None:
                return fault
            if there:
                return self._compared(target, seen.checksum)
            with self._writing():
                if self._linked(place, target):
                    self.total.linked += 1
                    self.total.size += os.fstat(source).st_size
                    return None
        return self._copied(place, known, source, target)

    def _compared(self, target: Path, checksum: bytes) -> Fault | None:
        """A file of that name is there."""
        try:
            descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return Fault.TAKEN
        try:
            if look_at(descriptor).checksum != checksum:
                return Fault.TAKEN
            self.total.present += 1
            self.total.size += os.fstat(descriptor).st_size
        except OSError:
            return Fault.TAKEN
        finally:
            os.close(descriptor)
        return None

    def _linked(self, place: Place, target: Path) -> bool:
        try:
            self._files.link(place, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return False
        return True

    def _copied(self, place: Place, known: Indexed, source: int, target: Path) -> Fault | None:
        temporary = target.with_name(f".{place.sop_instance_uid}.part")
        with self._writing():
            copy = os.open(temporary, _NEW, 0o600)
            try:
                checksum, size = _copy(source, copy)
                os.fsync(copy)
                os.posix_fadvise(copy, 0, 0, os.POSIX_FADV_DONTNEED)  # so that what is read now comes from the disk
                seen = look_at(copy)
                if seen.meta is not None and seen.checksum != checksum:
                    return Fault.MISWRITTEN
                if (fault := fault_of(seen, place, known)) is not None:
                    return fault
                if not _named(temporary, target):
                    return Fault.TAKEN
            finally:
                os.close(copy)
                temporary.unlink(missing_ok=True)
        self.total.copied += 1
        self.total.size += size
        return None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What goes wrong here concerns the directory: it ends the export."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"Nothing can be written to {self._directory}: {error.strerror}.") from None


def _copy(source: int, copy: int) -> tuple[bytes, int]:
    """Checksum and size of what was read. Raises OSError where it cannot be written, else _Unreadable."""
    checksum = hashlib.new(CHECKSUM)
    position = 0
    while True:
        try:
            chunk = os.pread(source, _CHUNK, position)
        except OSError:
            raise _Unreadable from None
        if not chunk:
            return checksum.digest(), position
        checksum.update(chunk)
        position += len(chunk)
        part = memoryview(chunk)
        while part:
            part = part[os.write(copy, part) :]


def _named(temporary: Path, target: Path) -> bool:
    """Give a file its final name; False where that is taken. Raises OSError."""
    try:
        os.link(temporary, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            return False
        temporary.rename(target)
    return True
