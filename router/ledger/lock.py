"""Who is alive on a ledger's file, and who leads: locks beside it that the system takes from the dead."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

_PATIENCE_SECONDS = 10.0


class ServiceLock:
    """`LEDGER.lock`: each service holds a share of it; who gets all of it knows that no other service lives.

    Without a path, or where the file cannot be locked, nobody ever gets all of it.
    """

    def __init__(self, ledger: Path | None) -> None:
        self._path = ledger.with_name(f"{ledger.name}.lock") if ledger is not None else None
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take all of it where it is free, else a share. Whether it was free; `share` must follow then."""
        if self._path is None or self._descriptor is not None:
            return False
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.share()
            return False
        return True

    def share(self) -> None:
        """Keep a share only, so that others can have theirs. One that takes all of it does not keep it for long."""
        if self._descriptor is None:
            return
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except OSError as error:  # another takes all of it just now; or a file system without locks
                if not isinstance(error, BlockingIOError) or time.monotonic() > deadline:
                    self.release()
                    return
            time.sleep(0.02)

    def deserted(self) -> bool:
        """Whether no service lives; asked by who is none itself."""
        if self._path is None or self._descriptor is not None:
            return False
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # no service was ever here, or the file is not ours to lock: the ledger's word counts
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def release(self) -> None:
        """Let go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class LeaderLock:
    """`LEDGER.leader`: one process holds it, and leads all that share the ledger; thread-safe.

    Without a path there is nobody else. Where the file system has no locks all lead, rather than none: what a leader
    does for all is guarded by the ledger itself.
    """

    def __init__(self, ledger: Path | None) -> None:
        self._path = ledger.with_name(f"{ledger.name}.leader") if ledger is not None else None
        self._turn = threading.Lock()
        self._descriptor: int | None = None

    def hold(self) -> bool:
        """Take it where it is free. Whether it is held."""
        if self._path is None:
            return True
        with self._turn:
            if self._descriptor is not None:
                if _is_still(self._path, self._descriptor):
                    return True
                self._let_go()  # somebody removed or replaced the file, and another may hold the new one
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError:
                return True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                return not isinstance(error, BlockingIOError)
            self._descriptor = descriptor
            return True

    def release(self) -> None:
        """Let go."""
        with self._turn:
            self._let_go()

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
