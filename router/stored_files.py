"""The files of the object store, found by their places and read to their ends. Nothing here writes.

Directories and files are opened relative to each other and never through a symbolic link, as the store makes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from router.domain.dicom import is_uid
from router.domain.extent import Extent
from router.domain.header import Header, MalformedHeader, scan
from router.domain.stored import CHECKSUM, FileSeen, Place
from router.domain.surroundings import Space
from router.errors import StoreError
from router.object_files import head_of
from router.object_places import DIRECTORY_FLAGS, FILE_FLAGS
from router.store_name import name_at

_SUFFIX = ".dcm"
_CHUNK = 1 << 20
"""Bytes that are read at once; the UIDs of a data set must be in the first of them, as when it was received."""
# Something that is no file, such as a pipe, must not keep us waiting when it is opened.
_FILE = FILE_FLAGS | os.O_NONBLOCK


class StoredFiles:
    """Reads the store at a root, beside who writes to it. Raises StoreError where the root cannot be opened."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        try:
            self._root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreError(f"There is no object store at {self.root} yet; look at router.store.") from None
        except OSError as error:
            raise StoreError(
                f"The object store {self.root} cannot be read: {error.strerror}; check router.store, its permissions."
            ) from None

    @property
    def name(self) -> str:
        """The name of the store, which receipts are of; empty where no service of this version was ever here."""
        return name_at(self.root)

    def close(self) -> None:
        """Give the root back; nothing can be read any more."""
        os.close(self._root)

    def __enter__(self) -> StoredFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def space(self) -> Space:
        """The file system it lies on. Raises OSError."""
        found = os.fstatvfs(self._root)
        return Space(free=found.f_bavail * found.f_frsize, size=found.f_blocks * found.f_frsize)

    def studies(self) -> list[str]:
        """The Study Instance UIDs of its directories, in their order as texts."""
        return sorted(filter(is_uid, _names(self._root)))

    def series(self, study_instance_uid: str) -> list[str]:
        """The Series Instance UIDs of the directories of a study."""
        return sorted(filter(is_uid, self._names(study_instance_uid)))

    def instances(self, study_instance_uid: str, series_instance_uid: str) -> list[str]:
        """The SOP Instance UIDs of the files of a series."""
        names = self._names(study_instance_uid, series_instance_uid)
        return sorted(uid for name in names if name.endswith(_SUFFIX) and is_uid(uid := name.removesuffix(_SUFFIX)))

    def look(self, place: Place) -> FileSeen:
        """Read a file. Raises FileNotFoundError where there is none, OSError where it cannot be read."""
        with self.open(place) as descriptor:
            try:
                return look_at(descriptor)
            finally:
                # It was read once, and pushes nothing out of memory that others need.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    @contextlib.contextmanager
    def open(self, place: Place) -> Iterator[int]:
        """A descriptor of a file. Raises FileNotFoundError where there is none, OSError where it cannot be read."""
        with self._directory(place.study_instance_uid, place.series_instance_uid) as directory:
            descriptor = os.open(f"{place.sop_instance_uid}{_SUFFIX}", _FILE, dir_fd=directory)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def link(self, place: Place, target: Path) -> None:
        """Give a file another name. Raises OSError, FileExistsError where the name is taken."""
        with self._directory(place.study_instance_uid, place.series_instance_uid) as directory:
            os.link(f"{place.sop_instance_uid}{_SUFFIX}", target, src_dir_fd=directory, follow_symlinks=False)

    def _names(self, *names: str) -> list[str]:
        try:
            with self._directory(*names) as directory:
                return _names(directory)
        except OSError:
            return []

    @contextlib.contextmanager
    def _directory(self, *names: str) -> Iterator[int]:
        if not all(map(is_uid, names)):  # a receipt that does not name a place in the store
            raise FileNotFoundError
        with contextlib.ExitStack() as opened:
            directory = self._root
            for name in names:
                directory = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
                opened.callback(os.close, directory)
            yield directory


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def look_at(descriptor: int) -> FileSeen:
    """Read a file from its beginning to its end, in bounded memory. Raises OSError."""
    status = os.fstat(descriptor)
    changed_at = datetime.fromtimestamp(status.st_mtime, UTC)
    if not stat.S_ISREG(status.st_mode):
        raise OSError
    head = head_of(descriptor)
    if head is None:
        return FileSeen(changed_at=changed_at)
    meta, offset = head
    checksum = hashlib.new(CHECKSUM, os.pread(descriptor, offset, 0))
    extent = Extent(meta.transfer_syntax_uid)
    header: Header | None = None
    size = 0
    while chunk := os.pread(descriptor, _CHUNK, offset + size):
        if size == 0:
            header = _header(chunk, meta.transfer_syntax_uid, complete=len(chunk) < _CHUNK)
        checksum.update(chunk)
        extent.feed(memoryview(chunk))
        size += len(chunk)
    return FileSeen(
        meta=meta,
        header=header,
        size=size,
        cut_off=extent.cut_off,
        checksum=checksum.digest(),
        changed_at=changed_at,
    )


def _header(first: bytes, transfer_syntax_uid: str, *, complete: bool) -> Header | None:
    try:
        return scan(first, transfer_syntax_uid, complete=complete)
    except MalformedHeader:
        return None
