"""The object store on disk: instances as they came, under STUDY/SERIES/SOPINSTANCE.dcm, durable before acknowledged.

Nothing half-written is ever visible under a final name: a temporary file is written, synchronised, then linked to it.
All names are made of checked UIDs and opened relative to directories that may not be symbolic links.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from router.domain.dicom import is_uid
from router.domain.exchange import StoredObject
from router.domain.extent import Extent
from router.domain.header import Header, MalformedHeader, scan
from router.domain.part10 import FileMeta, encode_file_meta
from router.domain.receipt import Receipt
from router.domain.surroundings import Space
from router.errors import NotThere, StoreError, StoreRefused
from router.object_files import damaged_in, head_of, receipt_from_file, receipt_of, same_data_set
from router.object_places import DIRECTORY_FLAGS, FILE_FLAGS, opened, series_directory, touch
from router.object_temporary import begun_by, remove_leftovers
from router.store_name import named

OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
DUPLICATE_WITH_OTHER_BYTES = 0xB000
UNPARSEABLE = 0xC001
NO_STUDY_OR_SERIES = 0xC002
INVALID_UID = 0xC003
PROCESSING_FAILURE = 0x0110

HEADER_LIMIT = 1 << 20
"""Bytes at the beginning of a data set in which its UIDs must be found."""
_INCOMING = ".incoming"
_FIRST_LOOK = 4096
_SPACE_CHECK = 64 << 20
"""Bytes of one object after which the free space is looked at again."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TRIES = 5
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


class ObjectStore:
    """Thread-safe, and safe beside other processes on the same root.

    `durability`: `fsync` survives a power cut, `rename` a killed process. `minimum_free` in bytes.
    Raises StoreError where the root cannot be made.
    """

    def __init__(self, root: Path | str, *, durability: str = "fsync", minimum_free: int = 0) -> None:
        self.root = Path(root)
        self._durable = durability == "fsync"
        self._minimum_free = minimum_free
        self._token = begun_by()
        self._counter = itertools.count()
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.root / _INCOMING).mkdir(mode=0o700, exist_ok=True)
            self._root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.name = named(self._root)
            self._incoming = os.open(_INCOMING, DIRECTORY_FLAGS, dir_fd=self._root)
        except OSError as error:
            raise StoreError(
                f"The object store {self.root} cannot be used: {error.strerror}; check router.store, its permissions."
            ) from error

    def close(self) -> None:
        """Give the directories back; nothing may be stored afterwards."""
        os.close(self._incoming)
        os.close(self._root)

    @property
    def incoming(self) -> Path:
        """Where temporary files lie."""
        return self.root / _INCOMING

    def begin(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str
    ) -> Writer:
        """Start to write an instance. Raises StoreRefused (A700 without space, C003 for what is no UID)."""
        if not is_uid(sop_instance_uid) or not is_uid(sop_class_uid):
            raise StoreRefused(INVALID_UID, "invalid-uid", "The SOP Class or Instance UID is not valid.")
        self.check_space()
        meta = FileMeta(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae_title)
        for _ in range(_TRIES):
            name = f"{self._token}-{next(self._counter)}.part"
            try:
                descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=self._incoming)
            except OSError as error:
                raise _refusal(error) from error
            try:
                # Held while the writer lives: how `recover` tells a leftover from one that somebody is writing.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return Writer(self, meta, name, descriptor)
            except OSError:
                pass
            os.close(descriptor)  # it was taken for a leftover, in the moment before it was locked
        raise StoreRefused(PROCESSING_FAILURE, "storage-failure", "The instance could not be written")

    def check_space(self) -> None:
        """Raises StoreRefused (A700) where the file system has less free than it must keep."""
        if self._minimum_free and self.space().free < self._minimum_free:
            raise StoreRefused(OUT_OF_RESOURCES, "out-of-space", "Out of space")

    def space(self) -> Space:
        """The file system it lies on; may take as long as a file system that hangs. Raises OSError."""
        found = os.fstatvfs(self._root)
        return Space(free=found.f_bavail * found.f_frsize, size=found.f_blocks * found.f_frsize)

    def held(self, study_instance_uid: str) -> set[str]:
        """The SOP Instance UIDs of a study whose files are there."""
        found: set[str] = set()
        for _series, directory in self._children(study_instance_uid):
            found.update(name[:-4] for name in _names(directory) if name.endswith(".dcm"))
        return found

    def intact(self) -> bool:
        """Whether the root is still the directory that was opened, not one that took its place."""
        try:
            now = self.root.stat()
        except OSError:
            return False
        opened = os.fstat(self._root)
        return (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino)

    def open(self, stored: Receipt | StoredObject) -> tuple[int, int]:
        """A file descriptor positioned at the data set, and the data set's size. Raises StoreError."""
        try:
            descriptor = os.open(self.root / stored.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"An instance of the object store {self.root} is gone: {error.strerror}.") from error
        head = head_of(descriptor)
        if head is None:
            os.close(descriptor)
            raise StoreError(f"An instance of the object store {self.root} is damaged.")
        _meta, offset = head
        os.lseek(descriptor, offset, os.SEEK_SET)
        return descriptor, os.fstat(descriptor).st_size - offset

    def file(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> tuple[int, int]:
        """A descriptor of the whole Part 10 file of an instance, and the file's size. Raises NotThere."""
        with contextlib.ExitStack() as stack:
            directory: int | None = self._root
            for uid in (study_instance_uid, series_instance_uid):
                if directory is not None and is_uid(uid):
                    directory = stack.enter_context(opened(uid, DIRECTORY_FLAGS, directory))
                else:
                    directory = None
            with contextlib.suppress(OSError):
                if directory is not None and is_uid(sop_instance_uid):
                    descriptor = os.open(f"{sop_instance_uid}.dcm", FILE_FLAGS, dir_fd=directory)
                    return descriptor, os.fstat(descriptor).st_size
        raise NotThere("The object store of this router has no such instance.")

    # recovery ---------------------------------------------------------------------------------------------------

    def recover(self, known: Callable[[str], Collection[str]]) -> Iterator[Receipt]:
        """After a start: remove what was left half-written, and give receipts for instances that have none.

        `known` is asked once for each study: the paths of its receipts. Files that have one are not opened.
        """
        remove_leftovers(self._incoming)
        for study in filter(is_uid, _names(self._root)):
            indexed = known(study)
            for series, directory in self._children(study):
                for entry in _names(directory):
                    if entry.endswith(".dcm") and f"{study}/{series}/{entry}" not in indexed:
                        found = receipt_from_file(study, series, directory, entry, self.name)
                        if found is not None:
                            yield found

    def _children(self, study: str) -> Iterator[tuple[str, int]]:
        if not is_uid(study):
            return
        with opened(study, DIRECTORY_FLAGS, self._root) as directory:
            if directory is None:
                return
            for series in _names(directory):
                if is_uid(series):
                    with opened(series, DIRECTORY_FLAGS, directory) as inner:
                        if inner is not None:
                            yield series, inner

    # used by Writer ---------------------------------------------------------------------------------------------

    def publish(self, temporary: str, descriptor: int, receipt: Receipt, offset: int) -> None:
        """Give the temporary file its final name, durably. The first of two with one name wins.

        The same data set again is a success; another one under the same UID is answered with the warning B000, and the
        first kept: nothing is silently overwritten. Only a file that a power cut has left damaged is replaced.
        """
        if self._durable:
            os.fsync(descriptor)
        final = f"{receipt.sop_instance_uid}.dcm"
        place = (self._root, receipt.study_instance_uid, receipt.series_instance_uid)
        with series_directory(*place, durable=self._durable) as series:
            try:
                self._link(temporary, final, series)
            except FileExistsError:
                if damaged_in(series, final):
                    os.rename(temporary, final, src_dir_fd=self._incoming, dst_dir_fd=series)
                elif not same_data_set(descriptor, offset, final, series):
                    raise StoreRefused(
                        DUPLICATE_WITH_OTHER_BYTES, "conflict", "Another version of the instance is held and kept"
                    ) from None
                else:
                    touch(final, receipt.received_at, series)
            if self._durable:
                os.fsync(series)

    def link(self, temporary: str, descriptor: int, name: str, directory: int) -> None:
        """Give the temporary file a name in another directory, durably. Raises OSError."""
        if self._durable:
            os.fsync(descriptor)
        self._link(temporary, name, directory)
        if self._durable:
            os.fsync(directory)

    def _link(self, temporary: str, final: str, directory: int) -> None:
        try:
            os.link(temporary, final, src_dir_fd=self._incoming, dst_dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links: an exclusive lock on the directory makes look-and-rename one step.
            fcntl.flock(directory, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                os.stat(final, dir_fd=directory, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.rename(temporary, final, src_dir_fd=self._incoming, dst_dir_fd=directory)

    def remove(self, temporary: str) -> None:
        """Remove a temporary file, if it is still there."""
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=self._incoming)


class Writer:
    """One instance on its way to the disk. `discard` ends it, committed or not; one thread."""

    def __init__(self, store: ObjectStore, meta: FileMeta, name: str, descriptor: int) -> None:
        self._store = store
        self._meta = meta
        self._name = name
        self._descriptor = descriptor
        self._prefix = encode_file_meta(meta)
        self._head = bytearray()
        self._header: Header | None = None
        self._look_at = _FIRST_LOOK
        self._extent = Extent(meta.transfer_syntax_uid)
        self._check_at = _SPACE_CHECK
        self._size = 0

    def write(self, data: memoryview) -> None:
        """Append a part of the data set. Raises StoreRefused; `discard` is then still to be called."""
        if self._header is None:
            self._look(data)
        self.append(data)

    def append(self, data: memoryview) -> None:
        """The same without a look at what it is: of an object that is not for the store, see `link`."""
        self._extent.feed(data)
        try:
            if self._size == 0:
                _write_all(self._descriptor, self._prefix, data)
            else:
                _write_all(self._descriptor, b"", data)
        except OSError as error:
            raise _refusal(error) from error
        self._size += len(data)
        if self._size >= self._check_at:
            self._check_at += _SPACE_CHECK
            self._store.check_space()

    def _look(self, data: memoryview) -> None:
        """Look for the UIDs in what came so far, again each time it has doubled, until the limit."""
        if not self._head:  # nearly always they are in the first part, of which no copy is needed then
            self._header = self._scan(data[:HEADER_LIMIT], complete=False)
            if self._header is not None:
                return
            self._head += data[:HEADER_LIMIT]
        else:
            self._head += data[: HEADER_LIMIT - len(self._head)]
            if len(self._head) < self._look_at:
                return
            self._header = self._scan(self._head, complete=False)
        self._look_at = min(max(2 * len(self._head), _FIRST_LOOK), HEADER_LIMIT)
        if self._header is None and len(self._head) == HEADER_LIMIT:
            raise StoreRefused(UNPARSEABLE, "unparseable", "No UIDs in the beginning of the data set")

    def _scan(self, data: bytearray | memoryview, *, complete: bool) -> Header | None:
        try:
            return scan(data, self._meta.transfer_syntax_uid, complete=complete)
        except MalformedHeader as error:
            raise StoreRefused(UNPARSEABLE, "unparseable", "The data set cannot be parsed") from error

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return len(self._prefix) + self._size if self._size else 0

    @property
    def study_instance_uid(self) -> str:
        """As the data set has it; empty until it was seen."""
        return self._header.study_instance_uid if self._header is not None else ""

    def check(self) -> Receipt:
        """The receipt that `commit` will give, once all is written. Raises StoreRefused."""
        if self._header is None:
            self._header = self._scan(self._head, complete=True)
        return self._checked(self._header)

    def commit(self) -> Receipt:
        """Check, make durable, give the final name. Raises StoreRefused. `discard` is still to be called."""
        receipt = self.check()
        try:
            self._store.publish(self._name, self._descriptor, receipt, len(self._prefix))
        except OSError as error:
            raise _refusal(error) from error
        return receipt

    def checksum(self) -> str:
        """SHA-256 of the file as it is now, in hexadecimal digits. Raises OSError."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()

    def link(self, name: str, directory: int) -> None:
        """Give the file, as it is now, a name in another directory of the store, durably. Raises OSError."""
        self._store.link(self._name, self._descriptor, name, directory)

    def discard(self) -> None:
        """Remove the temporary file, which a commit has given its final name before. May be called twice."""
        if self._descriptor >= 0:
            self._store.remove(self._name)
            os.close(self._descriptor)
            self._descriptor = -1

    def _checked(self, header: Header | None) -> Receipt:
        meta = self._meta
        if self._size == 0 or header is None:
            raise StoreRefused(UNPARSEABLE, "unparseable", "The data set is empty")
        if not header.study_instance_uid or not header.series_instance_uid or not header.sop_instance_uid:
            raise StoreRefused(NO_STUDY_OR_SERIES, "missing-uid", "A Study, Series or SOP Instance UID is missing")
        if not is_uid(header.study_instance_uid) or not is_uid(header.series_instance_uid):
            raise StoreRefused(INVALID_UID, "invalid-uid", "The Study or Series Instance UID is not valid")
        if header.sop_instance_uid != meta.sop_instance_uid or (
            header.sop_class_uid and header.sop_class_uid != meta.sop_class_uid
        ):
            raise StoreRefused(MISMATCH, "mismatch", "The data set's SOP UIDs differ from the command's")
        if self._extent.cut_off:
            raise StoreRefused(UNPARSEABLE, "unparseable", "The data set is cut off")
        uids, now = (header.study_instance_uid, header.series_instance_uid), datetime.now(UTC)
        return receipt_of(meta, *uids, self._size, now, self._store.name)


def _write_all(descriptor: int, prefix: bytes, data: memoryview) -> None:
    written = os.writev(descriptor, (prefix, data)) if prefix else os.write(descriptor, data)
    if written < len(prefix):
        while written < len(prefix):
            written += os.write(descriptor, prefix[written:])
    position = written - len(prefix)
    while position < len(data):
        position += os.write(descriptor, data[position:])


def _names(directory: int) -> list[str]:
    return sorted(os.listdir(directory))


def _refusal(error: OSError) -> StoreRefused:
    if error.errno in _FULL:
        return StoreRefused(OUT_OF_RESOURCES, "out-of-space", "Out of space")
    return StoreRefused(PROCESSING_FAILURE, "storage-failure", "The instance could not be written")
