"""Which services of this machine are alive on a ledger's file: a lock beside it that the system takes from the dead."""

from __future__ import annotations

import fcntl
import os
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
