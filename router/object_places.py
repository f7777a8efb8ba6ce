"""The directories of the object store, shared by who puts files into them and who takes them away.

Who puts a file there holds a shared lock on the study's directory, who removes one an exclusive one. So nothing is put
into a directory that is just being removed, and nothing is removed that was just found to be there already.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY_FLAGS = FILE_FLAGS | os.O_DIRECTORY
LOCK_SECONDS = 10.0
"""How long somebody waits for the other; who removes lets go after a moment."""
_POLL_SECONDS = 0.002
_TRIES = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@contextlib.contextmanager
def series_directory(root: int, study: str, series: str, *, durable: bool) -> Iterator[int]:
    """The directory of a series, made where there is none; nobody removes it or anything in it meanwhile.

    Raises OSError, TimeoutError (one of them) where a lock cannot be had.
    """
    for _ in range(_TRIES):
        with _closed(_made(study, root, durable)) as outer:
            lock(outer, fcntl.LOCK_SH)
            if not is_at(outer, study, root):
                continue  # it was removed between the two, for it was empty
            with _closed(_made(series, outer, durable)) as inner:
                yield inner
                return
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


@contextlib.contextmanager
def opened(name: str, flags: int, parent: int | None, absent: type[OSError] = OSError) -> Iterator[int | None]:
    """What has that name in an open directory; None where opening it fails with `absent`. Raises OSError else."""
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except absent:
        yield None
        return
    with _closed(descriptor):
        yield descriptor


def lock(directory: int, operation: int, seconds: float = LOCK_SECONDS) -> None:
    """Take a lock (LOCK_SH or LOCK_EX) on an open directory, until it is closed. Raises TimeoutError, OSError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(directory, operation | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
            time.sleep(_POLL_SECONDS)


def is_at(directory: int, name: str, parent: int) -> bool:
    """Whether an open directory is still the one of that name. Raises OSError."""
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(directory)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def touch(name: str, received_at: datetime, directory: int) -> None:
    """Note at a file when it was received again: its receipt is on its way, so it is not to be removed now."""
    at = (received_at - _EPOCH) // _MICROSECOND * 1000
    os.utime(name, ns=(at, at), dir_fd=directory, follow_symlinks=False)


def _made(name: str, parent: int, durable: bool) -> int:
    for _ in range(_TRIES):
        try:
            return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            if durable:
                os.fsync(parent)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


@contextlib.contextmanager
def _closed(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
