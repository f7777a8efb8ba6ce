"""Audit messages that wait to be sent: a file each, in a directory of the store. They survive a killed process.

Several processes may add messages (a service, and commands beside it); one at a time sends, whoever holds the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import threading
import time
from collections.abc import Iterable
from pathlib import Path

DIRECTORY = ".audit"
"""Under `router.store`: no study is called so."""

_SUFFIX, _HALF, _DRAFT = ".syslog", ".half", ".draft"
_OWNER = ".drafting"
"""A file that is locked for as long as somebody writes the drafts of its name."""
_LOCK = ".lock"
_LEFT_SECONDS = 3600.0
"""After so long nobody writes to a half file any more."""
_numbers = itertools.count()


def _new_name() -> str:
    """A file's name without its ending; later ones come later in the alphabet."""
    return f"{time.time_ns():020d}-{os.getpid()}-{next(_numbers):06d}"


class Spool:
    """The messages, oldest first; thread-safe. `bound` is in bytes. Raises OSError only where it says so."""

    def __init__(self, store: Path, bound: int) -> None:
        """Make the directory, where there is none, and look what is in it. Raises OSError."""
        self._directory = store / DIRECTORY
        self._bound = bound
        self._mutex = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._unsettled: dict[str, None] = {}
        self._lock: int | None = None
        self._owner = secrets.token_hex(8)
        self._drafting: int | None = None
        store.mkdir(parents=True, exist_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self.look()

    def __len__(self) -> int:
        return len(self._sizes)

    def look(self) -> None:
        """See what is there: other processes add and take away. Raises OSError."""
        with self._mutex:
            self._sizes = dict(sorted(self._found()))
            self._bytes = sum(self._sizes.values())

    def _found(self) -> Iterable[tuple[str, int]]:
        long_ago = time.time() - _LEFT_SECONDS
        with os.scandir(self._directory) as entries:
            for entry in entries:
                try:
                    if entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False):
                        yield entry.name, entry.stat().st_size
                    elif entry.name.endswith(_HALF) and entry.stat().st_mtime < long_ago:
                        (self._directory / entry.name).unlink()
                except FileNotFoundError:  # another process was quicker
                    continue

    def check(self) -> None:
        """See whether messages can be kept. Raises OSError."""
        if not os.access(self._directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def put(self, message: bytes) -> int:
        """Keep a message; how many older ones had to go for it. Raises OSError where it cannot be kept.

        It survives a killed process when this returns, a power cut after `settle`.
        """
        with self._mutex:
            name = f"{_new_name()}{_SUFFIX}"
            self._write(name, message)
            return self._keep(name, len(message))

    def _write(self, name: str, message: bytes) -> None:
        half, whole = self._directory / f"{_new_name()}{_HALF}", self._directory / name
        try:
            with open(half, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(message)
            half.rename(whole)
        except OSError:
            half.unlink(missing_ok=True)
            raise
        self._unsettled[name] = None

    def _keep(self, name: str, size: int) -> int:
        """A message is to be sent; how many older ones had to go for it."""
        self._sizes[name] = size
        self._bytes += size
        gone = 0
        while self._bytes > self._bound and len(self._sizes) > 1:
            self._forget(next(iter(self._sizes)))
            gone += 1
        return gone

    # what is not to be sent yet ---------------------------------------------------------------------------------------

    def draft(self, number: int, message: bytes) -> None:
        """Keep a message that may still change, in place of the last one of this number. Raises OSError."""
        with self._mutex:
            self._own()
            self._write(self._draft(number), message)

    def finish(self, number: int) -> int:
        """A draft does not change any more: it is to be sent. As `put`; raises OSError where it is gone."""
        with self._mutex:
            return self._finish(self._draft(number))

    def finish_left(self) -> int:
        """The same for all drafts of whom there is no more. Raises OSError."""
        gone = 0
        with self._mutex:
            drafts = sorted(path.name for path in self._directory.glob(f"*{_DRAFT}"))
            owners = {name.rpartition("-")[0] for name in drafts}
            owners |= {path.stem for path in self._directory.glob(f"*{_OWNER}")}
            left = {owner for owner in owners if not self._is_held(owner)}
            for draft in drafts:
                if draft.rpartition("-")[0] in left:
                    with contextlib.suppress(FileNotFoundError):  # another process was quicker
                        gone += self._finish(draft)
            for owner in left:
                (self._directory / f"{owner}{_OWNER}").unlink(missing_ok=True)
        return gone

    def _own(self) -> None:
        """Show others that the drafts of this name are somebody's."""
        if self._drafting is not None:
            return
        half = self._directory / f"{_new_name()}{_HALF}"
        descriptor = os.open(half, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            half.rename(self._directory / f"{self._owner}{_OWNER}")  # locked already when others see it
        except BaseException:
            os.close(descriptor)
            half.unlink(missing_ok=True)
            raise
        self._drafting = descriptor

    def _is_held(self, owner: str) -> bool:
        try:
            descriptor = os.open(self._directory / f"{owner}{_OWNER}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _draft(self, number: int) -> str:
        return f"{self._owner}-{number:06d}{_DRAFT}"

    def _finish(self, draft: str) -> int:
        name = f"{_new_name()}{_SUFFIX}"
        size = (self._directory / draft).stat().st_size
        (self._directory / draft).rename(self._directory / name)
        self._unsettled.pop(draft, None)
        self._unsettled[name] = None
        return self._keep(name, size)

    def oldest(self, most: int, most_bytes: int) -> list[tuple[str, bytes]]:
        """Name and message of the oldest, so many at most.

        Raises OSError where there is none but such as cannot be read: they hold up no other.
        """
        found: list[tuple[str, bytes]] = []
        size = 0
        trouble: OSError | None = None
        with self._mutex:
            names = list(self._sizes)
        for name in names:
            try:
                message = (self._directory / name).read_bytes()
            except FileNotFoundError:  # dropped meanwhile
                with self._mutex:
                    self._bytes -= self._sizes.pop(name, 0)
                continue
            except OSError as error:
                trouble = error
                continue
            size += len(message)
            if found and size > most_bytes:
                break
            found.append((name, message))
            if len(found) == most:
                break
        if trouble is not None and not found:
            raise trouble
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Forget messages: they were sent. Raises OSError."""
        with self._mutex:
            for name in names:
                self._forget(name)

    def _forget(self, name: str) -> None:
        self._bytes -= self._sizes.pop(name, 0)
        self._unsettled.pop(name, None)
        (self._directory / name).unlink(missing_ok=True)

    def settle(self) -> None:
        """Have what still waits survive a power cut as well. Raises OSError."""
        with self._mutex:
            names, self._unsettled = self._unsettled, {}
        for name in names:
            self._sync(self._directory / name)
        if names:
            self._sync(self._directory)

    def _sync(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # who sends --------------------------------------------------------------------------------------------------------

    def lock(self) -> bool:
        """Become the one that sends, or stay it; False where another process is. Raises OSError."""
        if self._lock is not None:
            return True
        descriptor = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor
        return True

    def release(self) -> None:
        """Let another process send; what is still a draft is left to the next one."""
        for descriptor in (self._lock, self._drafting):
            if descriptor is not None:
                os.close(descriptor)
        self._lock = self._drafting = None
