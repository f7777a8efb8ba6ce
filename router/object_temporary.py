"""Temporary files of the object store: by whom they were begun, and which of them are left by somebody who is gone.

Whoever writes one holds a lock on it. Where machines share a file system, locks may not be seen by the others: what
another machine began is taken for left only after a day.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import secrets
import time

STRANGERS_SECONDS = 86_400.0
"""How long a temporary file of another machine may be without a change before it counts as left."""
_MACHINE = re.compile(r"m([0-9a-f]{8})-")


def begun_by() -> str:
    """The beginning of the names of one writer's files: the machine, the process, and something random."""
    return f"m{_machine()}-{os.getpid()}-{secrets.token_hex(8)}"


def remove_leftovers(directory: int, now: float | None = None) -> None:
    """Remove what nobody writes any more from an open directory. Raises OSError where it cannot be listed."""
    long_ago = (time.time() if now is None else now) - STRANGERS_SECONDS
    for name in sorted(os.listdir(directory)):
        with contextlib.suppress(OSError):
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                began = _MACHINE.match(name)
                ours = began is None or began[1] == _machine()
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if ours or os.fstat(descriptor).st_mtime < long_ago:
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(descriptor)


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]
