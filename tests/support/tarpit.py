"""Servers that are worse than none: dead to connections, silent once connected, or one byte a second."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Literal, Self

Kind = Literal["dead", "silent", "drip"]

_ACCEPT = bytes.fromhex("02000000ffff") + bytes(65535)
"""The beginning of an A-ASSOCIATE-AC that takes its time."""


class Tarpit:
    """Listens on a loopback port.

    `dead`: no connection is ever made, as if a firewall dropped it. `silent`: connections are taken and nothing is
    answered. `drip`: one byte of an answer each second.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._ended = threading.Event()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0 if kind == "dead" else 64)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        self.visitors = 0

    def __enter__(self) -> Self:
        if self.kind == "dead":
            for _ in range(4):  # with its queue full, the system answers no further attempt
                filler = socket.socket()
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filler.connect(("127.0.0.1", self.port))
                self._sockets.append(filler)
        else:
            threading.Thread(target=self._serve, name=f"tarpit-{self.kind}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for one in self._sockets:
            one.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.visitors += 1
            self._sockets.append(connection)
            if self.kind == "drip":
                threading.Thread(target=self._drip, args=(connection,), name="drip", daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        for byte in _ACCEPT:
            with contextlib.suppress(OSError):
                connection.sendall(bytes([byte]))
                if not self._ended.wait(1.0):
                    continue
            return
