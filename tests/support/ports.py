"""TCP ports for servers that tests start: free on loopback, and given out once over all test processes."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below Linux's range of ports for outgoing connections (from 32768), so that no client can take one in between.
_FIRST, _LAST = 20000, 32000

_given: set[int] = set()
_locks: list[int] = []
"""The one descriptor through which this process holds its ports; open until the process ends."""


def free_port() -> int:
    """Return a TCP port nothing listens on, reserved for this process until it ends.

    A lock per port keeps test processes that run side by side apart: asking the kernel for any free port and closing
    it again would leave a moment in which another process is given the same one. The locks are bytes of one file: a
    process that has had a thousand ports needs no thousand descriptors, beyond which `select` is of no use.
    """
    if not _locks:
        name = Path(tempfile.gettempdir()) / f"dicom-router-test-ports-{os.getuid()}.lock"
        _locks.append(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    choice = random.SystemRandom()
    for _ in range(1000):
        port = choice.randrange(_FIRST, _LAST)
        if port in _given:  # a lock of this process's own does not stop it
            continue
        try:
            fcntl.lockf(_locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            continue
        if _bindable(port):
            _given.add(port)
            return port
        fcntl.lockf(_locks[0], fcntl.LOCK_UN, 1, port)
    raise RuntimeError(f"no free TCP port between {_FIRST} and {_LAST}")


def listening(port: int, host: str = "127.0.0.1", seconds: float = 1.0) -> bool:
    """Say whether something accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def _bindable(port: int) -> bool:
    # On every address: Orthanc and DCMTK cannot be told to listen on loopback only.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
