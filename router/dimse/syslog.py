"""Carries syslog messages to their server: over UDP (RFC 5426), or as a stream over TLS (RFC 5425)."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence
from typing import Protocol

from router.dimse.client_tls import client_context
from router.dimse.tls_files import requestor_context
from router.domain.audit import TLS, AuditSettings
from router.domain.audit_xml import octet_counted
from router.domain.rule import TlsSettings
from router.errors import ConnectionFailed, TlsFileError

TIMEOUT = 10.0
"""Seconds that a connection, a handshake, or the sending of one batch may take."""

_COMPLAINT_SECONDS = 0.2
"""How long a server that is not there, or does not like our certificate, is given to say so."""
_PACE_SECONDS = 0.002
"""Between two datagrams: a server's buffer that overflows loses them without a word."""
_POLL_SECONDS = 0.02


class Carrier(Protocol):
    """Takes messages to the server."""

    def send(self, messages: Sequence[bytes]) -> None:
        """All of them, in order. Raises ConnectionFailed; then none counts as sent."""

    def close(self) -> None:
        """Let go of the connection."""


def carrier_for(settings: AuditSettings) -> Carrier:
    """What carries messages as the settings say. It connects when it first sends, and anew after an error."""
    return _Stream(settings) if settings.transport == TLS else _Datagrams(settings)


class _Datagrams:
    """A message is a datagram. Nobody confirms them; only a host that says that nobody listens is noticed."""

    def __init__(self, settings: AuditSettings) -> None:
        self._host, self._port = settings.host, settings.port
        self._socket: socket.socket | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        try:
            patience = 0.0
            if self._socket is None:
                self._socket, patience = self._connected(), _COMPLAINT_SECONDS
            for message in messages:
                self._socket.send(message)
                if patience:
                    _wait(self._socket, 0, patience)
                if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, "")
                patience = 0.0
                time.sleep(_PACE_SECONDS)
        except OSError as error:
            self.close()
            raise ConnectionFailed(f"{self._host}:{self._port} {_what_happened(error)}.") from None

    def _connected(self) -> socket.socket:
        for family, kind, protocol, _, address in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM):
            made = socket.socket(family, kind, protocol)
            made.settimeout(TIMEOUT)
            made.connect(address)
            return made
        raise OSError("no address")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Stream:
    """Messages follow one another on a connection over TLS, which lasts until one side ends it."""

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        self._socket: ssl.SSLSocket | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        at = f"{self._settings.host}:{self._settings.port}"
        try:
            if self._socket is not None and _is_over(self._socket):
                self.close()
            fresh = self._socket is None
            if self._socket is None:
                self._socket = self._connected()
            self._socket.settimeout(TIMEOUT)
            self._socket.sendall(b"".join(octet_counted(message) for message in messages))
            _until_taken(self._socket)
            if fresh:  # in TLS 1.3 a server refuses our certificate only after the handshake
                _wait(self._socket, select.POLLIN, _COMPLAINT_SECONDS)
            if _is_over(self._socket):
                raise ConnectionResetError
        except TlsFileError as error:
            raise ConnectionFailed(f"router.audit.{error.setting}: {error}") from None
        except (OSError, ValueError) as error:  # ValueError: a host name that no certificate can carry
            self.close()
            raise ConnectionFailed(f"{at} {_what_happened(error)}.") from None

    def _connected(self) -> ssl.SSLSocket:
        settings = self._settings
        context = _context(settings)
        plain = socket.create_connection((settings.host, settings.port), TIMEOUT)
        try:
            return context.wrap_socket(plain, server_hostname=settings.host)
        except BaseException:
            plain.close()
            raise

    def close(self) -> None:
        made, self._socket = self._socket, None
        if made is not None:
            with contextlib.suppress(OSError, ValueError):
                made.settimeout(_COMPLAINT_SECONDS)
                made.unwrap()
            made.close()


def _context(settings: AuditSettings) -> ssl.SSLContext:
    """Made anew for each connection, so that renewed files serve from the next one on."""
    if settings.certificate:
        files = TlsSettings(ca=settings.ca, certificate=settings.certificate, key=settings.key)
        context = requestor_context(files)
    else:
        context = client_context(settings.ca)
    context.check_hostname = settings.verify_hostname
    return context


def _is_over(connection: ssl.SSLSocket) -> bool:
    """Whether the server has ended the connection. Syslog servers say nothing else."""
    connection.settimeout(0.0)
    try:
        while connection.recv(1024):
            pass
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    return True


def _until_taken(connection: ssl.SSLSocket) -> None:
    """Wait until the server's machine has acknowledged every byte: what it has not is lost with the connection."""
    deadline = time.monotonic() + TIMEOUT
    while struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_POLL_SECONDS)


def _wait(connection: socket.socket, events: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(connection, events)  # errors are always waited for
    poll.poll(seconds * 1000)


def _what_happened(error: Exception) -> str:
    """The rest of a sentence that begins with the server."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"shows a certificate that is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS as expected ({error.reason or 'the connection ended'})"
    match error:
        case ConnectionRefusedError():
            return "refuses connections: no syslog server listens there"
        case ConnectionResetError() | BrokenPipeError():
            return "closed the connection"
        case TimeoutError():
            return "does not answer, or takes nothing more"
        case socket.gaierror():
            return "has a host name that is not known"
        case OSError():
            return f"cannot be reached ({error.strerror or 'I/O error'})"
        case _:
            return "has a host name that no certificate can carry"
