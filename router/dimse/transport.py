"""One TCP connection with absolute deadlines and a large receive buffer. Nothing here knows what the bytes mean.

Deadlines are values of `time.monotonic()`. The socket does not block; a call waits in poll(), so that data which is
already there costs one system call and a peer that drips bytes cannot stretch a deadline.
"""

from __future__ import annotations

import contextlib
import mmap
import select
import socket
import time
from collections.abc import Callable, Sequence

from router.dimse.pdu import Buffer
from router.errors import ConnectionLost, DeadlineExceeded

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
_IOV_MAXIMUM = 512
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 6}
"""Firewalls forget flows that are silent for half an hour or so; a C-MOVE without pending responses is."""
_CHUNK = 256 * 1024
"""Bytes taken at once; more would only leave the processor's cache."""
_LINGER_BYTES = 1 << 22
WATCH_SECONDS = 0.25
_LONGEST_POLL = 3600.0
"""Seconds; what poll() takes is limited, so longer waits take several."""


class Transport:
    """A connected socket. Not thread-safe, except `interrupt`.

    `buffer[start:end]` is what was received and not yet taken. `capacity` is in bytes; the buffer is mapped, so that
    pages that were never touched cost no memory: a silent peer holds one.
    """

    __slots__ = ("_poll", "_socket", "_view", "buffer", "end", "peer", "start")

    def __init__(self, connected: socket.socket, peer: str, capacity: int) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            option = getattr(socket, name, None)
            if option is not None:
                connected.setsockopt(socket.IPPROTO_TCP, option, value)
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self.peer = peer
        self.buffer = mmap.mmap(-1, capacity)
        self._view = memoryview(self.buffer)
        self.start = 0
        self.end = 0

    def view(self, start: int, end: int) -> memoryview:
        """A part of the buffer, valid until the next call that receives."""
        return self._view[start:end]

    def wait(self, until: float) -> bool:
        """Whether at least one byte is there before `until`. Raises ConnectionLost at the end of the stream."""
        return self.start < self.end or self._receive(until)

    def fill(self, count: int, deadline: float) -> None:
        """Until `count` bytes are buffered. Raises ConnectionLost, DeadlineExceeded."""
        missing = count - (self.end - self.start)
        if missing <= 0:
            return
        if self.start == self.end:
            self.start = self.end = 0
        elif self.start + count > len(self.buffer):
            size = self.end - self.start
            self._view[:size] = self._view[self.start : self.end]
            self.start, self.end = 0, size
        while self.end - self.start < count:
            if not self._receive(deadline):
                raise DeadlineExceeded(f"{self.peer} stopped sending in the middle of a message.")

    def _receive(self, deadline: float) -> bool:
        """Take what is there into the free end of the buffer, waiting until the deadline for it."""
        if self.start == self.end:
            self.start = self.end = 0
        tail = self._view[self.end : self.end + _CHUNK]
        while True:
            try:
                count = self._socket.recv_into(tail)
            except BlockingIOError:
                if not self._wait_readable(deadline) and time.monotonic() >= deadline:
                    return False
                continue
            except OSError as error:
                raise ConnectionLost(f"{self.peer} broke the connection.") from error
            if count == 0:
                raise ConnectionLost(f"{self.peer} closed the connection.")
            self.end += count
            # What came is kept, but a peer that drips does not win time by it.
            return time.monotonic() <= deadline

    def _wait_readable(self, deadline: float) -> bool:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        # About to wait for the peer: acknowledge at once what it sent. A sender that leaves Nagle's algorithm on holds
        # its next segment back until then, which otherwise costs 40 ms each time.
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return bool(self._poll.poll(min(remaining, _LONGEST_POLL) * 1000.0 + 0.999))

    def send(self, buffers: Sequence[Buffer], deadline: float, watch: Callable[[int], object] | None = None) -> None:
        """Send all buffers in as few writes as possible. Raises ConnectionLost, DeadlineExceeded.

        `watch` is called with the bytes sent so far whenever the peer takes no more and at least each `WATCH_SECONDS`
        while that lasts; what it raises ends the sending.
        """
        pending = [memoryview(buffer) for buffer in buffers if len(buffer)]
        position = total = 0
        writable: select.poll | None = None
        while position < len(pending):
            try:
                sent = self._socket.sendmsg(pending[position : position + _IOV_MAXIMUM])
            except BlockingIOError:
                remaining = deadline - time.monotonic()
                if writable is None:
                    writable = select.poll()
                    writable.register(self._socket, select.POLLOUT)
                if watch is not None:
                    watch(total)
                    if remaining > 0:
                        writable.poll(min(remaining, WATCH_SECONDS) * 1000.0 + 0.999)
                        continue
                if remaining <= 0 or not writable.poll(remaining * 1000.0 + 0.999):
                    raise DeadlineExceeded(f"{self.peer} stopped taking data.") from None
                continue
            except OSError as error:
                raise ConnectionLost(f"{self.peer} broke the connection.") from error
            total += sent
            while sent:
                size = len(pending[position])
                if sent < size:
                    pending[position] = pending[position][sent:]
                    break
                sent -= size
                position += 1

    def quiet(self) -> bool:
        """Whether the connection stands and nothing unasked came: it can be used for a request."""
        if self.start < self.end:
            return False
        try:
            return not self._poll.poll(0)
        except OSError:
            return False

    def interrupt(self) -> None:
        """From another thread: end a wait for data as if the peer had closed; sending still works."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self, linger: float = 0.0) -> None:
        """Close. With `linger`, give the peer so many seconds to take what was sent last (an abort, a rejection).

        Closing while the peer's bytes are unread would reset the connection and destroy it.
        """
        if linger > 0.0:
            with contextlib.suppress(OSError, ConnectionLost):
                self._socket.shutdown(socket.SHUT_WR)
                self._discard(time.monotonic() + linger)
        with contextlib.suppress(OSError):
            self._socket.close()

    def _discard(self, deadline: float) -> None:
        discarded = 0
        while discarded < _LINGER_BYTES and time.monotonic() < deadline:
            self.start = self.end = 0
            if not self._receive(deadline):
                return
            discarded += self.end


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection within `timeout` seconds over all addresses of the host. Raises OSError, TimeoutError.

    An address that does not answer gets an equal part of the time that is left, so that each has its turn.
    """
    deadline = time.monotonic() + timeout
    failure: OSError | None = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _name, address) in enumerate(found):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        candidate = socket.socket(family, kind, protocol)
        try:
            candidate.settimeout(remaining / (len(found) - number))
            candidate.connect(address)
        except OSError as error:
            candidate.close()
            failure = error
            continue
        return candidate
    raise failure or TimeoutError()
