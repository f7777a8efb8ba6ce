"""The listener for HL7 messages: MLLP over TCP or TLS. A message is answered once `take` has it durably, or not at all.

A thread per connection, of which there are few: its messages are read, taken and answered one after the other, and
whatever a peer does, or leaves undone, only its own connection suffers.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from ssl import SSLContext, SSLError

from router.dimse.tls import failure
from router.domain.access import is_allowed
from router.domain.events import Event, MessageAnswered
from router.domain.hl7 import (
    ACCEPT,
    OTHER_EVENT,
    REJECT,
    Acknowledgement,
    Hl7Settings,
    OrderMessage,
)
from router.errors import ConfigurationError, RouterError
from router.triggers.acknowledgement import encode
from router.triggers.framing import END, START, Frames, Said
from router.triggers.header import Header, header
from router.triggers.message import read

_BACKLOG = 64
_PIECE = 64 * 1024
_ANSWERS = 64 * 1024
"""Bytes of answers that the system keeps for a peer that does not read them."""
_HANDSHAKE_SECONDS = 15.0
_FAREWELL_SECONDS = 0.5
"""For a peer to take the last answer before the connection is closed; bytes unread would make it vanish."""
_FAREWELL_PIECES = 64
_PAUSE_SECONDS = 0.1
"""Until the next attempt where the system has no file descriptor or thread left."""
_LAST_WAIT = 1.0


class TlsHandshakeFailed(RouterError):
    """A connection for HL7 messages was closed: its TLS handshake did not end in time, or was broken off."""


class MllpListener:
    """Takes HL7 messages. Thread-safe."""

    def __init__(
        self,
        settings: Hl7Settings,
        take: Callable[[OrderMessage], Acknowledgement],
        *,
        observe: Callable[[Event], None],
        trouble: Callable[[str, BaseException], None],
        ssl: Callable[[], SSLContext] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`take` writes down durably what a message asks for, and may block; `ssl` gives the context of a connection.

        `observe` and `trouble` (where, and what was raised) are called in any thread.
        """
        self.settings = settings
        self.take = take
        self.observe = observe
        self.trouble = trouble
        self.ssl = ssl
        self.now = now
        self.stopping = threading.Event()
        self.port = settings.port
        """Where it listens; known after `start` if the settings say 0."""
        self._allowed = [ipaddress.ip_network(text, strict=False) for text in settings.allow]
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._connections: dict[_Connection, threading.Thread] = {}

    @property
    def alive(self) -> bool:
        """Whether it accepts connections."""
        return self._thread is not None and self._thread.is_alive() and not self.stopping.is_set()

    def start(self) -> None:
        """Listen. Raises RouterError, with what to change, where the address or a file of TLS cannot be had."""
        if self.ssl is not None:
            self.ssl()
        self._socket = self._bind()
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, args=(self._socket,), name="hl7", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Accept no more; messages that are being taken are answered within so many seconds, all others are not."""
        deadline = time.monotonic() + seconds
        self.stopping.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            self._socket.close()
        if self._thread is not None:
            self._thread.join(_LAST_WAIT)
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            connection.hush()
        for thread in connections.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        for connection, thread in connections.items():
            if thread.is_alive():
                connection.abort()
        last = time.monotonic() + _LAST_WAIT
        for thread in connections.values():
            thread.join(max(0.0, last - time.monotonic()))

    def answered(self, event: str, acknowledgement: Acknowledgement) -> None:
        """Say what became of a message, or of a connection that was to bring some."""
        accepted = acknowledgement.code == ACCEPT
        self.observe(
            MessageAnswered(
                event=event,
                code=acknowledgement.code,
                word=acknowledgement.word,
                message="" if accepted else acknowledgement.reason,
            )
        )

    # connections ------------------------------------------------------------------------------------------------

    def _bind(self) -> socket.socket:
        host, port = self.settings.host, self.settings.port
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
                0
            ]
            listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ANSWERS)
            return listening
        except OSError as error:
            why = {
                errno.EADDRINUSE: "another program uses the port; change router.hl7.listen or stop it",
                errno.EACCES: "ports below 1024 need a privilege; change router.hl7.listen",
                errno.EADDRNOTAVAIL: "this machine does not have that address; change router.hl7.listen",
            }.get(error.errno or 0, "the address cannot be used; check router.hl7.listen")
            raise ConfigurationError(f"The listener for HL7 cannot listen on {host}:{port}: {why}.") from error

    def _accept(self, listening: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                connected, address = listening.accept()
            except OSError as error:
                if not self.stopping.is_set():
                    self.trouble("hl7", error)
                    self.stopping.wait(_PAUSE_SECONDS)
                continue
            try:
                self._admit(connected, address[0])
            except Exception as error:  # noqa: BLE001 - the listener outlives whatever befalls one connection
                connected.close()
                self.trouble("hl7", error)
                self.stopping.wait(_PAUSE_SECONDS)

    def _admit(self, connected: socket.socket, host: str) -> None:
        refusal = None if is_allowed(self._allowed, host) else _NOT_ALLOWED
        with self._lock:
            if refusal is None and len(self._connections) >= self.settings.connections:
                refusal = _TOO_MANY
            if refusal is None and not self.stopping.is_set():
                connection = _Connection(self, connected, host)
                thread = threading.Thread(target=self._run, args=(connection,), name="hl7-connection", daemon=True)
                thread.start()
                self._connections[connection] = thread
                return
        connected.close()
        if refusal is not None:
            self.answered(OTHER_EVENT, refusal)

    def _run(self, connection: _Connection) -> None:
        try:
            connection.run()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the process; values stay out of the log
            self.trouble("hl7", error)
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)


class _Connection:
    """One connection, on its own thread. `hush` and `abort` are for others."""

    def __init__(self, listener: MllpListener, connected: socket.socket, host: str) -> None:
        settings = listener.settings
        self._host = host
        self._listener = listener
        self._socket = connected
        self._frames = Frames(settings.maximum_size)
        self._timeout = settings.timeout
        self._pace = _Pace(settings.messages_per_minute)
        self._begun_at = time.monotonic()
        """When the message that has not ended has begun, or else the last one ended."""

    def run(self) -> None:
        """Answer messages until the peer has no more, breaks a rule or a deadline, or the listener stops."""
        if not self._secured():
            return
        stopping = self._listener.stopping
        try:
            while not stopping.is_set():
                said = self._next()
                if said is None or not self._heed(*said):
                    break
        except OSError:  # SSLError too
            if self._frames.open:
                self._broken_off()

    def hush(self) -> None:
        """Let it hear no more; what it is about to say it may still say."""
        with contextlib.suppress(OSError):
            # Of TLS as well: its own shutdown would drop the encryption of what is still to be said.
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def abort(self) -> None:
        """Let it say no more either."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """End it so that what was said last arrives."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            deadline = time.monotonic() + _FAREWELL_SECONDS
            for _ in range(_FAREWELL_PIECES):
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                if not socket.socket.recv(self._socket, _PIECE):
                    break
        self._socket.close()

    # reading ----------------------------------------------------------------------------------------------------

    def _secured(self) -> bool:
        """Agree on keys, where the listener speaks TLS. False where that did not come about."""
        if self._listener.ssl is None:
            return True
        try:
            context = self._listener.ssl()
            self._socket.settimeout(min(_HANDSHAKE_SECONDS, self._timeout))
            # One call, so that one deadline holds for all of it.
            self._socket = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
            self._socket.do_handshake()
        except RouterError as error:
            self._listener.trouble("hl7", error)
            return False
        except (OSError, ValueError) as error:
            if not self._listener.stopping.is_set():
                if isinstance(error, SSLError) and error.reason:
                    why = str(failure(error, f"A peer at {self._host}", requestor=False))
                    self._listener.answered(OTHER_EVENT, _rejected("tls", why))
                else:  # it broke off, or said nothing: perhaps it only looked whether somebody listens
                    self._listener.trouble("hl7", TlsHandshakeFailed())
            return False
        self._begun_at = time.monotonic()
        return True

    def _next(self) -> tuple[Said, bytes] | None:
        """What comes next; None where nothing more does. Raises OSError."""
        while (said := self._frames.next()) is None:
            inside = self._frames.open
            seconds = self._timeout if inside else self._listener.settings.idle
            left = self._begun_at + seconds - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                data = self._socket.recv(_PIECE)
            except TimeoutError:
                self._late()
                return None
            if not data:
                if inside:
                    self._broken_off()
                return None
            if not inside:
                heard = time.monotonic()
            self._frames.feed(data)
            if not inside and START in data:
                self._begun_at = heard
        return said

    def _late(self) -> None:
        if self._frames.overflowing is not None:
            with contextlib.suppress(OSError):
                self._answer(header(self._frames.overflowing), OTHER_EVENT, self._too_large())
        elif self._frames.open:
            self._broken_off()

    def _broken_off(self) -> None:
        self._listener.answered(OTHER_EVENT, self._too_large() if self._frames.overflowing is not None else _INCOMPLETE)

    def _heed(self, said: Said, data: bytes) -> bool:
        """Answer what was heard. False where nothing more is to be read. Raises OSError."""
        if said is Said.NOISE:
            self._listener.answered(OTHER_EVENT, _NO_MLLP)
            return False
        if said is Said.GIVEN_UP:
            self._listener.answered(OTHER_EVENT, _INCOMPLETE)
            return True
        if said is Said.TOO_LARGE:
            self._answer(header(data), OTHER_EVENT, self._too_large())
        else:
            self._take(data)
        self._begun_at = time.monotonic()
        wait = self._pace.wait(self._begun_at)
        if wait > 0 and not self._listener.stopping.wait(wait):
            self._begun_at = time.monotonic()
        return True

    # answering --------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        head, event = None, OTHER_EVENT
        try:
            head, event, content = read(data, self._listener.settings)
            answer = self._listener.take(content) if isinstance(content, OrderMessage) else content
        except Exception as error:  # noqa: BLE001 - whatever happened, it is not durable, and the sender must know
            self._listener.trouble("hl7", error)
            answer = _NOT_DURABLE
        self._answer(head, event, answer)

    def _answer(self, head: Header | None, event: str, answer: Acknowledgement) -> None:
        self._listener.answered(event, answer)
        message = encode(head, answer, secrets.token_hex(10), self._listener.now())
        self._socket.settimeout(self._timeout)
        self._socket.sendall(START + message + END + b"\r")

    def _too_large(self) -> Acknowledgement:
        most = self._listener.settings.maximum_size
        reason = f"The message is larger than {most} bytes; see router.hl7.maximum_size."
        return Acknowledgement(code=REJECT, reason=reason, condition=207, word="too-large")


class _Pace:
    """Spreads a connection's messages over the minute; as many as belong into a second may come at once."""

    def __init__(self, per_minute: int) -> None:
        self._interval = 60.0 / per_minute
        self._ahead = max(1.0, self._interval)
        self._due_at = float("-inf")

    def wait(self, now: float) -> float:
        """Count a message; seconds until the next one may be read."""
        self._due_at = max(self._due_at, now - self._ahead) + self._interval
        return self._due_at - now


def _rejected(word: str, reason: str) -> Acknowledgement:
    return Acknowledgement(code=REJECT, reason=reason, condition=207, word=word)


_NOT_ALLOWED = _rejected("not-allowed", "A connection came from an address that is not in router.hl7.allow.")
_TOO_MANY = _rejected("too-many-connections", "There are as many connections as router.hl7.connections allows.")
_INCOMPLETE = _rejected("incomplete", "A message did not end: within router.hl7.timeout, or before another one.")
_NO_MLLP = _rejected("malformed", "What a connection brings is no MLLP: too much stands between the frames.")
_NOT_DURABLE = _rejected("not-durable", "The router could not write the message down; try again later.")
