"""DICOM over TLS (PS3.15 annex B): the encrypted transport, and sentences for what goes wrong in a handshake.

OpenSSL never sees the socket: it reads and writes memory, and `Transport` does all the waiting, so that every deadline
holds in the handshake and after it. The contexts are made in `tls_files.py`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence

from router.dimse.certificate import shown_by
from router.dimse.pdu import Buffer
from router.dimse.transport import Transport
from router.domain.access import Shown, bears
from router.errors import (
    ConnectionLost,
    DeadlineExceeded,
    TlsError,
    WireError,
)

_PIECE = 256 * 1024
"""Bytes encrypted at once, and taken at once."""
_RECORDS = 64 * 1024
"""Encrypted bytes read at once."""
_ALERT_SECONDS = 1.0
_DISCARDED = 1 << 22

# --- the transport ----------------------------------------------------------------------------------------------------


class TlsTransport(Transport):
    """A Transport whose bytes are encrypted on the wire. `handshake` comes first.

    The context says which role this side has; `host` is whom a requestor wants to reach.
    """

    __slots__ = ("_end_of_stream", "_heard", "_incoming", "_outgoing", "_requestor", "_ssl", "_torn")

    def __init__(
        self, connected: socket.socket, peer: str, capacity: int, context: ssl.SSLContext, host: str = ""
    ) -> None:
        super().__init__(connected, peer, capacity)
        self._requestor = context.protocol == ssl.PROTOCOL_TLS_CLIENT
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._heard = False
        """Whether anything came that could be decrypted."""
        self._end_of_stream: ConnectionLost | None = None
        self._torn = False
        """Whether a record was cut off on its way out: nothing can follow it."""
        try:
            self._ssl = context.wrap_bio(
                self._incoming, self._outgoing, server_side=not self._requestor, server_hostname=host or None
            )
        except ValueError:  # UnicodeError too
            connected.close()
            raise TlsError(f"{peer} has a host name that no certificate can carry.", "tls-host-name") from None

    def handshake(self, deadline: float) -> None:
        """Agree on keys and see each other's certificates. Raises TlsError, ConnectionLost, DeadlineExceeded."""
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                with contextlib.suppress(WireError):
                    self._flush(min(deadline, time.monotonic() + _ALERT_SECONDS))
                raise failure(error, self.peer, self._requestor) from error
            self._flush(deadline)
            try:
                in_time = self._fetch(deadline)
            except ConnectionLost as error:
                if not self._requestor:
                    raise
                raise TlsError(
                    f"{self.peer} closed the connection in the TLS handshake; does it speak TLS at that port?",
                    "tls-not-spoken",
                ) from error
            if not in_time:
                advice = "; does it speak TLS at that port?" if self._requestor else "."
                raise DeadlineExceeded(f"{self.peer} did not finish the TLS handshake in time{advice}")
        self._flush(deadline)

    @property
    def version(self) -> str:
        """The version of TLS that was agreed on, as `TLSv1.3`; empty before the handshake."""
        return self._ssl.version() or ""

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER, verified or not; None where it showed none."""
        return self._ssl.getpeercert(binary_form=True)

    @property
    def shown(self) -> Shown | None:
        """The peer's certificate where it was verified, once the handshake is over; else None."""
        return shown_by(self._ssl)

    def require(self, names: Sequence[str]) -> None:
        """The peer's certificate must bear one of these names; none: any does. Raises TlsError."""
        if names and not bears(shown := self.shown, names):
            called = f" ({shown.called})" if shown is not None else ""
            raise TlsError(
                f"{self.peer} showed a certificate that is trusted but is not this node's{called}; "
                "certificate_names does not have it.",
                "tls-wrong-certificate",
            )

    def _fetch(self, deadline: float) -> bool:
        """Take encrypted bytes that are there, waiting until the deadline for them."""
        while True:
            try:
                data = self._socket.recv(_RECORDS)
            except BlockingIOError:
                if not self._wait_readable(deadline) and time.monotonic() >= deadline:
                    return False
                continue
            except OSError as error:
                raise ConnectionLost(f"{self.peer} broke the connection.") from error
            if not data:
                raise ConnectionLost(f"{self.peer} closed the connection.")
            self._incoming.write(data)
            # As in Transport: who drips wins no time, nor does one that sends records without content.
            return time.monotonic() <= deadline

    def _receive(self, deadline: float) -> bool:
        if self._end_of_stream is not None:
            raise self._end_of_stream
        if self.start == self.end:
            self.start = self.end = 0
        tail = self._view[self.end : self.end + _PIECE]
        while not (count := self._decrypt(tail)):
            if self._outgoing.pending:  # the answer to a change of keys
                self._flush(deadline)
            if not self._fetch(deadline):
                return False
        self._heard = True
        while count < len(tail) and self._incoming.pending:
            try:
                more = self._decrypt(tail[count:])
            except ConnectionLost as end:  # often right behind the last message, which still counts
                self._end_of_stream = end
                break
            if not more:
                break
            count += more
        self.end += count
        return time.monotonic() <= deadline

    def _decrypt(self, into: memoryview) -> int:
        """The content of at most one record; 0 where none is complete yet."""
        try:
            count: int = self._ssl.read(len(into), into)  # type: ignore[assignment]
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLError as error:
            # With TLS 1.3 a requestor learns only now that the other side did not take its certificate.
            if self._requestor and not self._heard:
                raise failure(error, self.peer, self._requestor) from error
            raise ConnectionLost(f"{self.peer} broke the encrypted connection ({_word(error)}).") from error
        if count == 0:
            raise ConnectionLost(f"{self.peer} closed the connection.")
        return count

    def send(self, buffers: Sequence[Buffer], deadline: float, watch: Callable[[int], object] | None = None) -> None:
        """As `Transport.send`; what `watch` gets is never more than what was given to be sent."""
        total = 0
        for piece in _pieces(buffers):
            if self._torn:
                raise ConnectionLost(f"The encrypted connection to {self.peer} is closed.")
            try:
                self._ssl.write(piece)
            except ssl.SSLError as error:
                raise ConnectionLost(f"{self.peer} broke the encrypted connection ({_word(error)}).") from error
            self._flush(deadline, _counted(watch, total, len(piece)))
            total += len(piece)

    def _flush(self, deadline: float, watch: Callable[[int], object] | None = None) -> None:
        """Send what is encrypted."""
        data = self._outgoing.read()
        if not data:
            return
        try:
            super().send([data], deadline, watch)
        except ConnectionLost:
            self._torn = True
            if self._requestor and not self._heard:  # the reason may have come before the end
                with contextlib.suppress(ConnectionLost):
                    self._receive(0.0)
                    self._receive(0.0)
            raise
        except BaseException:
            self._torn = True
            raise

    def quiet(self) -> bool:
        """As `Transport.quiet`; records without content, such as tickets, are taken in and do not count."""
        if self.start < self.end:
            return False
        try:
            self._fetch(0.0)
            self._receive(0.0)
        except WireError:
            return False
        return self.start == self.end

    def close(self, linger: float = 0.0) -> None:
        """As `Transport.close`, with TLS's own farewell before it where the connection takes it at once."""
        if not self._torn:
            with contextlib.suppress(ssl.SSLError, ValueError, OSError):
                self._ssl.unwrap()  # writes close_notify; the peer's is not waited for
            with contextlib.suppress(WireError):
                self._flush(0.0)
            self._torn = True
        super().close(linger)

    def _discard(self, deadline: float) -> None:
        discarded = 0
        while discarded < _DISCARDED and self._fetch(deadline):
            discarded += len(self._incoming.read())


def _pieces(buffers: Sequence[Buffer]) -> Iterator[bytearray]:
    """The buffers as few large pieces: each write makes records of its own, and the headers between are small."""
    piece = bytearray()
    for buffer in buffers:
        rest = memoryview(buffer)
        while len(rest):
            room = _PIECE - len(piece)
            piece += rest[:room]
            rest = rest[room:]
            if len(piece) == _PIECE:
                yield piece
                piece = bytearray()
    if piece:
        yield piece


def _counted(watch: Callable[[int], object] | None, before: int, size: int) -> Callable[[int], object] | None:
    """`watch` for a piece of the whole, of which encrypted bytes are counted: they are a few more."""
    if watch is None:
        return None
    return lambda sent: watch(before + min(sent, size))


# --- sentences --------------------------------------------------------------------------------------------------------

_CERTIFICATE = {
    9: ("is not valid yet; is the time right here and there?", "tls-expired"),
    10: ("has expired, or whose authority's has; it must be renewed there.", "tls-expired"),
    62: (
        "is for another host name; use a name that it carries in the address, or set verify_hostname: false.",
        "tls-host-name",
    ),
    64: (
        "is for another IP address; use a name that it carries in the address, or set verify_hostname: false.",
        "tls-host-name",
    ),
    **dict.fromkeys(
        (2, 18, 19, 20, 21),
        ("no authority in the file ca has issued; is that the right file?", "tls-unknown-ca"),
    ),
}
"""By OpenSSL's X509_V_ERR_* number."""

_VERSIONS = (
    "{peer} and this router have no version of TLS or cipher in common; TLS 1.2 or 1.3 is needed.",
    "tls-version",
)
_REFUSALS = {
    "CERTIFICATE_EXPIRED": "it says that it has expired; renew it",
    "CERTIFICATE_REVOKED": "it says that it was revoked; renew it",
    "UNKNOWN_CA": "it does not know the authority that issued it; enter that there",
    "CERTIFICATE_REQUIRED": "it wants one and got none",
}
"""By the name of the peer's alert about this side's certificate (RFC 8446 section 6.2)."""
_ABOUT_CERTIFICATE = (
    "CERTIFICATE",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
    "DECRYPT_ERROR",
)
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}
_NO_TLS |= {"UNEXPECTED_MESSAGE", "PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE", "NOT_SSL_RECORD_LAYER"}
_NOTHING_SHARED = {"UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE"}
_NOTHING_SHARED |= {"NO_SUITABLE_KEY_SHARE", "NO_SUITABLE_SIGNATURE_ALGORITHM", "NO_SHARED_SIGNATURE_ALGORITHMS"}
_ALERTS_OF_VERSION = ("ALERT_PROTOCOL_VERSION", "ALERT_HANDSHAKE_FAILURE", "ALERT_INSUFFICIENT_SECURITY")


def failure(error: ssl.SSLError, peer: str, requestor: bool) -> TlsError:
    """Why a handshake failed, for people: who must do what. Nothing that the peer sent is in it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words, label = _CERTIFICATE.get(
            error.verify_code, (f"is not accepted: {error.verify_message}.", "tls-certificate")
        )
        return TlsError(f"{peer} showed a certificate that {words}", label)
    reason = _word(error)
    if "_ALERT_" in reason:
        return _alerted(reason, peer)
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return TlsError(
            f"{peer} showed no certificate; this router wants one that an authority in ca has issued.",
            "tls-no-certificate",
        )
    if reason in _NOTHING_SHARED:
        return TlsError(_VERSIONS[0].format(peer=peer), _VERSIONS[1])
    if reason in _NO_TLS:
        advice = "is the port right? Else take tls out of the node" if requestor else "this port takes nothing else"
        return TlsError(f"{peer} does not speak TLS; {advice}.", "tls-not-spoken")
    return TlsError(f"The TLS handshake with {peer} failed ({reason}).")


def _alerted(reason: str, peer: str) -> TlsError:
    alert = reason.partition("_ALERT_")[2]
    if any(part in alert for part in _ABOUT_CERTIFICATE):
        why = _REFUSALS.get(alert, "its log may say why")
        return TlsError(f"{peer} does not accept this router's certificate: {why}.", "tls-refused")
    if reason.endswith(_ALERTS_OF_VERSION):
        return TlsError(_VERSIONS[0].format(peer=peer), _VERSIONS[1])
    return TlsError(f"{peer} ended the TLS handshake ({alert}).")


def _word(error: ssl.SSLError) -> str:
    """OpenSSL's name for what happened, one of a finite set."""
    return error.reason or "no reason given"
