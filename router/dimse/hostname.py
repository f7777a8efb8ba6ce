"""By which names this machine goes."""

from __future__ import annotations

import contextlib
import socket
import threading


class OwnNames:
    """The machine's host name at once, and its full name when the resolver has told it. Thread-safe."""

    def __init__(self) -> None:
        self._names = frozenset({socket.gethostname().lower()})
        # The system's resolver knows no deadline; a thread that it holds ends with the process.
        threading.Thread(target=self._ask, name="own-name", daemon=True).start()

    def __call__(self) -> frozenset[str]:
        """Those known by now, in lower case."""
        return self._names

    def _ask(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._names |= {socket.getfqdn().lower().rstrip(".")}
