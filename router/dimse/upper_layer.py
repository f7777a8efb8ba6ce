"""The upper layer of one association, PS3.8: PDUs in and out, the state machine's actions, release and abort.

The state machine's table decides what is allowed; this module does what its actions say. Every wait has a deadline.
What the presentation data values mean is the business of `association.py`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from router.dimse import pdu
from router.dimse.pdu import COMMAND, HEADER, LAST, PDV_HEADER, AssociateRequest, Buffer, PduType
from router.dimse.reasons import abort_sentence
from router.dimse.state import TABLE, Action, Event, Machine, Role, State
from router.dimse.tls import TlsTransport
from router.dimse.transport import Transport
from router.errors import (
    AssociationAborted,
    ConnectionLost,
    DeadlineExceeded,
    RemoteProtocolError,
    TlsError,
    WireError,
)

_EVENTS = {
    PduType.ASSOCIATE_RQ: Event.ASSOCIATE_RQ_PDU,
    PduType.ASSOCIATE_AC: Event.ASSOCIATE_AC_PDU,
    PduType.ASSOCIATE_RJ: Event.ASSOCIATE_RJ_PDU,
    PduType.P_DATA: Event.P_DATA_PDU,
    PduType.RELEASE_RQ: Event.RELEASE_RQ_PDU,
    PduType.RELEASE_RP: Event.RELEASE_RP_PDU,
    PduType.ABORT: Event.ABORT_PDU,
}
_SEND_ABORT = {Action.AA_1: 0, Action.AA_7: 2, Action.AA_8: 2}
_SHORT_LENGTH = 4
_TLS_HANDSHAKE, _TLS_ALERT = 0x16, 0x15
"""The first byte of a TLS connection, and of the answer to what is none (RFC 8446 section 5.1)."""
_CAPACITY = pdu.MAXIMUM_ASSOCIATE_LENGTH + 6
_LINGER = 1.0
FOREVER = float("inf")


class Limits(NamedTuple):
    """Deadlines in seconds and bounds in bytes of one association."""

    connect: float = 10.0
    """For the connection, the TLS handshake of the requestor included."""
    negotiation: float = 30.0
    """For each answer to A-ASSOCIATE and A-RELEASE; for TLS handshake and A-ASSOCIATE-RQ of a peer together."""
    pdu: float = 30.0
    """For the rest of a PDU, and of a command set, once its first byte came; for each write."""
    inactivity: float = 60.0
    """Between the PDUs of one message; also how long a data set may come at less than the minimum rate."""
    maximum_length: int = 131072
    """Of a P-DATA-TF that this side takes."""


class Fragment(NamedTuple):
    """A presentation data value: its context, its message control header, where its content lies in the buffer."""

    context_id: int
    control: int
    start: int
    end: int


class Released(ConnectionLost):
    """The peer released the association."""


class UpperLayer:
    """The state, the connection and the PDUs of one association. Not thread-safe, except `interrupt`.

    After any exception of a method it is closed.
    """

    def __init__(
        self,
        connection: socket.socket,
        role: Role,
        peer: str,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        host: str = "",
    ) -> None:
        capacity = max(_CAPACITY, 2 * (limits.maximum_length + 6))
        self._transport = (
            Transport(connection, peer, capacity)
            if tls is None
            else TlsTransport(connection, peer, capacity, tls, host)
        )
        self._machine = Machine(role)
        self._limits = limits
        self._hard = FOREVER
        self._cursor = 0
        self._pdu_end = 0
        self._peer_maximum = 0
        self._request: AssociateRequest | None = None
        """As requestor: what was proposed."""
        self.peer = peer
        self.role = role

    def _secure(self, deadline: float, names: Sequence[str] = ()) -> None:
        """The TLS handshake, if there is to be one. It belongs to the transport connection: PS3.8 sees it opened after.

        The peer's certificate must bear one of `names`, where there are some. Raises TlsError, ConnectionLost,
        DeadlineExceeded.
        """
        transport = self._transport
        if isinstance(transport, TlsTransport):
            try:
                transport.handshake(deadline)
                transport.require(names)
            except WireError as error:
                self.close(_LINGER if isinstance(error, TlsError) else 0.0)  # the peer must get to read our alert
                raise

    # PDUs -------------------------------------------------------------------------------------------------------

    def _fragment(self, until: float) -> Fragment | None:
        """The next presentation data value: context ID, control header, where it lies in the buffer.

        None where no PDU began to arrive before `until`.
        """
        transport = self._transport
        while self._cursor == self._pdu_end:
            start = transport.start
            available = transport.end - start
            if available > _SHORT_LENGTH + 2 and self._machine.state is State.ESTABLISHED:
                kind, length = HEADER.unpack_from(transport.buffer, start)
                # The common case, a whole P-DATA-TF in the buffer, is the cell (Sta6, Evt10) of the table: DT-2, Sta6.
                if kind == PduType.P_DATA and 6 <= length <= self._limits.maximum_length and available >= length + 6:
                    self._cursor = start + 6
                    self._pdu_end = transport.start = start + 6 + length
                    break
            action = self._pump(until)
            if action is None:
                return None
            if action is Action.AR_2:
                self._machine.step(Event.RELEASE_RESPONSE)
                self._send([pdu.encode_release_response()])
                self.close(_LINGER)
                raise Released(f"{self.peer} released the association.")
        cursor = self._cursor
        if cursor + 6 > self._pdu_end:
            self._violation("It sent a presentation data value that is cut off.")
        length, context_id, control = PDV_HEADER.unpack_from(transport.buffer, cursor)
        end = cursor + 4 + length
        if length < 2 or end > self._pdu_end:
            self._violation("It sent a presentation data value of a wrong length.")
        self._cursor = end
        return Fragment(context_id, control & (COMMAND | LAST), cursor + 6, end)

    def _pump(self, until: float) -> Action | None:
        """Read one PDU, follow the table, do what its action says; None where none began to arrive before `until`."""
        try:
            kind = self._read_pdu(until)
        except DeadlineExceeded:
            self.abort()
            raise
        except (ConnectionLost, TlsError):
            if Event.TRANSPORT_CLOSED in _row(self._machine):
                self._machine.step(Event.TRANSPORT_CLOSED)
            self.close()
            raise
        if kind is None:
            return None
        action = self._machine.step(_EVENTS[kind])
        if action in _SEND_ABORT:
            self._finish_abort(_SEND_ABORT[action], 2)
            raise RemoteProtocolError(f"{self.peer} sent an {_NAMES[kind]} PDU at a moment that does not allow one.")
        if action in {Action.AA_3, Action.AA_2}:
            source, reason = self._transport.view(self._cursor + 2, self._cursor + 4)
            self.close()
            raise AssociationAborted(source, reason, abort_sentence(self.peer, source, reason, self._request))
        if action is Action.AR_6:
            self._skip()  # data that crossed our release request
        return action

    def _read_pdu(self, until: float) -> PduType | None:
        """A whole PDU into the buffer, its body between cursor and PDU end."""
        transport = self._transport
        if not transport.wait(until):
            return None
        deadline = min(self._hard, time.monotonic() + self._limits.pdu)
        transport.fill(6, deadline)
        kind, length = HEADER.unpack_from(transport.buffer, transport.start)
        if kind == PduType.P_DATA:
            fits = 6 <= length <= self._limits.maximum_length
        elif kind in {PduType.ASSOCIATE_RQ, PduType.ASSOCIATE_AC}:
            fits = length <= pdu.MAXIMUM_ASSOCIATE_LENGTH
        else:
            fits = length == _SHORT_LENGTH
        if kind not in _EVENTS:
            self._no_pdu(kind)
        if not fits:
            self._violation("It announced a PDU of a length that is not allowed.", 6)
        transport.fill(6 + length, deadline)
        self._cursor = transport.start + 6
        self._pdu_end = transport.start = self._cursor + length
        return PduType(kind)

    def _skip(self) -> None:
        self._cursor = self._pdu_end

    def _send(
        self, buffers: Sequence[Buffer], seconds: float = 0.0, watch: Callable[[int], object] | None = None
    ) -> None:
        try:
            self._transport.send(buffers, time.monotonic() + (seconds or self._limits.pdu), watch)
        except WireError:
            self._machine.state = State.IDLE
            self.close()
            raise

    # ending -----------------------------------------------------------------------------------------------------

    def _violation(self, sentence: str, reason: int = 0) -> NoReturn:
        """The peer broke the protocol: A-ABORT from the service provider, typed error."""
        if Event.INVALID_PDU in _row(self._machine):
            self._machine.step(Event.INVALID_PDU)
        self._finish_abort(2, reason)
        raise RemoteProtocolError(f"{self.peer} violated the DICOM protocol: {sentence}")

    def _no_pdu(self, kind: int) -> NoReturn:
        """Something else came in place of a PDU, by its first byte. Raises RemoteProtocolError, TlsError."""
        if self.role is Role.REQUESTOR:
            if kind == _TLS_ALERT:
                self._violation("It speaks TLS: does it want `tls: true`?", 1)
            self._violation("It sent something that is not a DICOM PDU; is the port right?", 1)
        greets = kind == _TLS_HANDSHAKE and self._machine.state is State.AWAITING_ASSOCIATE_RQ
        if greets and not isinstance(self._transport, TlsTransport):
            self._machine.step(Event.INVALID_PDU)
            self._finish_abort(2, 1)
            advice = "set router.tls, or send without"
            raise TlsError(f"{self.peer} speaks TLS to a port that does not; {advice}.", "tls-unwanted")
        self._violation("It sent something that is not a DICOM PDU.", 1)

    def _too_slow(self) -> NoReturn:
        self.abort()
        raise DeadlineExceeded(f"{self.peer} stopped sending in the middle of a message.")

    def _finish_abort(self, source: int, reason: int) -> None:
        with contextlib.suppress(WireError):
            self._transport.send([pdu.encode_abort(source, reason)], time.monotonic() + _LINGER)
        self.close(_LINGER)

    def release(self, timeout: float) -> None:
        """End in order within `timeout` seconds (PS3.8 section 7.2). Raises WireError where the peer does not."""
        self._machine.step(Event.RELEASE_REQUEST)
        self._send([pdu.encode_release_request()])
        self._hard = deadline = time.monotonic() + timeout
        while True:
            action = self._pump(deadline)
            if action is None:
                self.abort()
                raise DeadlineExceeded(f"{self.peer} did not answer the release request.")
            if action is Action.AR_3:
                self.close()
                return
            if action is Action.AR_10 or (action is Action.AR_8 and self.role is Role.REQUESTOR):
                self._machine.step(Event.RELEASE_RESPONSE)
                self._send([pdu.encode_release_response()])
            if action is Action.AR_10:
                self.close(_LINGER)
                return

    def abort(self) -> None:
        """End at once: A-ABORT from the service user, where the state allows one. Never raises."""
        if Event.ABORT_REQUEST not in _row(self._machine):
            self.close()
        elif self._machine.step(Event.ABORT_REQUEST) is Action.AA_1:
            self._finish_abort(0, 0)
        else:
            self.close()

    def close(self, linger: float = 0.0) -> None:
        """Close the connection."""
        self._transport.close(linger)
        self._machine.state = State.IDLE

    def interrupt(self) -> None:
        """From another thread: make the thread that waits for the peer see the end of the stream."""
        self._transport.interrupt()

    @property
    def established(self) -> bool:
        """Whether messages can be sent and received."""
        return self._machine.state is State.ESTABLISHED

    @property
    def quiet(self) -> bool:
        """Whether it is established and the peer neither closed nor sent anything unasked."""
        return self.established and self._transport.quiet()


def _row(machine: Machine) -> dict[Event, tuple[Action, State]]:
    return TABLE[machine.state]


_NAMES = {kind: f"A-{kind.name.replace('_', '-')}" if kind is not PduType.P_DATA else "P-DATA-TF" for kind in PduType}
