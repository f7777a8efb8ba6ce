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

_held: list[int] = []


def free_port() -> int:
    """Return a TCP port nothing listens on, reserved for this process until it ends.

    A lock per port keeps test processes that run side by side apart: asking the kernel for any free port and closing
    it again would leave a moment in which another process is given the same one.
    """
    directory = Path(tempfile.gettempdir()) / f"dicom-router-test-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    choice = random.SystemRandom()
    for _ in range(1000):
        port = choice.randrange(_FIRST, _LAST)
        lock = os.open(directory / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        if _bindable(port):
            _held.append(lock)
            return port
        os.close(lock)
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
