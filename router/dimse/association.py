"""An association that carries DIMSE messages, for both roles, on one blocking thread: negotiation, PS3.7 messages."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.command import Command
from router.dimse.pdu import COMMAND, HEADER, LAST, AssociateRequest, Buffer, ContextReply, RoleSelection
from router.dimse.reasons import connection_failure, rejection_sentence
from router.dimse.state import Action, Event, Role
from router.dimse.tls import TlsTransport
from router.dimse.transport import connect
from router.dimse.upper_layer import FOREVER, Fragment, Limits, Released, UpperLayer
from router.domain.access import Shown
from router.errors import (
    AssociationRejected,
    ConnectionLost,
    DeadlineExceeded,
    RemoteProtocolError,
    TlsError,
)

__all__ = ["Association", "Context", "Limits", "Message", "Refusal", "Released"]

_MINIMUM_RATE = 1024
"""Bytes a second that a data set must make on average, after a grace; below, the peer is taken for a slow drip."""
_LINGER = 1.0

Write = Callable[[memoryview], object]


class Context(NamedTuple):
    """An accepted presentation context."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


class Refusal(NamedTuple):
    """Result, source and reason of an A-ASSOCIATE-RJ."""

    result: int
    source: int
    reason: int


Decide = Callable[[AssociateRequest, Shown | None], Refusal | Sequence[ContextReply]]
"""Answers a request; the second value is the certificate that the requestor showed, None without TLS."""

Offer = tuple[str, tuple[str, ...]]
"""Abstract syntax and transfer syntaxes of a proposed presentation context."""


class Message(NamedTuple):
    """The command set of a message that arrived; its data set, if it has one, is still to be read."""

    context_id: int
    command: Command


class Association(UpperLayer):
    """One association. Not thread-safe, except `interrupt`. After any exception of a method it is closed."""

    def __init__(
        self,
        connection: socket.socket,
        role: Role,
        peer: str,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        host: str = "",
    ) -> None:
        super().__init__(connection, role, peer, limits, tls, host)
        self._last_command: bytes | None = None
        self._last_decoded = Command()
        self._last_pdu = b""
        """The whole P-DATA-TF of the last command set, if it was one."""
        self.received = 0
        """Messages that came so far."""
        self.answered_after: float | None = None
        """As requestor: seconds from the request under way to the first message after it; None: none came yet."""
        self._asked_at: float | None = None
        self.contexts: dict[int, Context] = {}
        self.offered: dict[Offer, int] = {}
        """As requestor: what was proposed, and the ID of its context."""
        self.refused: dict[int, int] = {}
        """As requestor: context ID -> ContextResult of those that were not accepted."""
        self.operations = 1
        """As requestor: operations that may be outstanding at once (PS3.7 section D.3.3.3)."""
        self.proposed_roles: tuple[RoleSelection, ...] = ()
        self.roles: dict[str, RoleSelection] = {}
        """SOP class -> the requestor's roles, where both sides agreed to others than the default ones."""

    # making one -------------------------------------------------------------------------------------------------

    @classmethod
    def request(
        cls,
        host: str,
        port: int,
        request: AssociateRequest,
        *,
        peer: str,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        certificate_names: Sequence[str] = (),
    ) -> Association:
        """Connect and negotiate (PS3.8 section 7.1), encrypted with `tls`. `peer` names the node in sentences.

        With TLS the node's certificate must bear one of `certificate_names`, where there are some.

        Raises ConnectionFailed, TlsError, DeadlineExceeded, AssociationRejected, AssociationAborted, ConnectionLost,
        RemoteProtocolError.
        """
        deadline = time.monotonic() + limits.connect
        try:
            connection = connect(host, port, limits.connect)
        except OSError as error:
            raise connection_failure(peer, limits.connect, error) from error
        association = cls(connection, Role.REQUESTOR, peer, limits, tls, host)
        association._secure(deadline, certificate_names)
        association._negotiate(request)
        return association

    def _negotiate(self, request: AssociateRequest) -> None:
        self._machine.step(Event.ASSOCIATE_REQUEST)
        self._machine.step(Event.TRANSPORT_CONFIRM)
        self._request = request
        try:
            self._send([pdu.encode_associate_request(request)])
            self._hard = deadline = time.monotonic() + self._limits.negotiation
            action = self._pump(deadline)
        except ConnectionLost as error:
            if isinstance(self._transport, TlsTransport):
                raise TlsError(
                    f"{self.peer} closed the encrypted connection without an answer to the association request; "
                    "does it accept this router's certificate?",
                    "tls-refused",
                ) from error
            raise ConnectionLost(
                f"{self.peer} closed the connection without an answer to the association request; is it a DICOM port, "
                "or does it want `tls: true`?"
            ) from error
        body = self._transport.view(self._cursor, self._pdu_end)
        if action is None:
            self.abort()
            raise DeadlineExceeded(
                f"{self.peer} accepted the connection but did not answer the association request within "
                f"{self._limits.negotiation:g} s; is it a DICOM port?",
                "negotiation-timeout",
            )
        if action is Action.AE_4:
            result, source, reason = body[1], body[2], body[3]
            self.close()
            raise AssociationRejected(result, source, reason, rejection_sentence(self.peer, request, body))
        try:
            accept = pdu.decode_associate_accept(body)
        except RemoteProtocolError as error:
            self._violation(str(error))
        self._hard = FOREVER
        self._skip()
        proposed = {context.context_id: context for context in request.contexts}
        self.offered = {context[1:]: context.context_id for context in request.contexts}
        self.proposed_roles = request.roles
        self.roles = {role.sop_class_uid: role for role in pdu.agreed_roles(accept.roles, request.roles)}
        self.refused = dict.fromkeys(proposed, int(pdu.ContextResult.NO_REASON))  # for those it does not mention
        for reply in accept.contexts:
            context = proposed.get(reply.context_id)
            if context is None:
                continue
            if reply.result != pdu.ContextResult.ACCEPTED:
                self.refused[reply.context_id] = reply.result
                continue
            self.refused.pop(reply.context_id, None)
            if reply.transfer_syntax not in context.transfer_syntaxes:
                self._violation("It accepted a presentation context with a transfer syntax that was not proposed.")
            self.contexts[reply.context_id] = Context(reply.context_id, context.abstract_syntax, reply.transfer_syntax)
        self._set_peer_maximum(accept.maximum_length)
        # An answer may only lower what was proposed; 0 is no limit.
        self.operations = min(filter(None, (request.operations, accept.operations)), default=0)

    @classmethod
    def accept(
        cls,
        connection: socket.socket,
        decide: Decide,
        *,
        peer: str,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        roles: Sequence[RoleSelection] = (),
    ) -> Association:
        """Negotiate as acceptor on a connection that came in (PS3.8 section 7.1), encrypted with `tls`.

        `roles` a requestor may have. Raises what `request` does; AssociationRejected where this side rejected.
        """
        association = cls(connection, Role.ACCEPTOR, peer, limits, tls)
        association._answer(decide, roles)
        return association

    def _answer(self, decide: Decide, allowed: Sequence[RoleSelection]) -> None:
        machine = self._machine
        deadline = time.monotonic() + self._limits.negotiation
        self._secure(deadline)
        machine.step(Event.TRANSPORT_INDICATION)
        self._hard = deadline
        if self._pump(deadline) is None:
            machine.step(Event.ARTIM_EXPIRED)
            self.close()
            raise DeadlineExceeded(f"{self.peer} connected but sent no association request.")
        try:
            request = pdu.decode_associate_request(self._transport.view(self._cursor, self._pdu_end))
        except RemoteProtocolError as error:
            self._violation(str(error))
        self._hard = FOREVER
        self._skip()
        if not request.protocol_version & 1:
            decision: Refusal | Sequence[ContextReply] = Refusal(1, 2, 2)
        elif request.application_context != pdu.APPLICATION_CONTEXT:
            decision = Refusal(1, 1, 2)
        else:
            decision = decide(request, self._transport.shown if isinstance(self._transport, TlsTransport) else None)
        if isinstance(decision, Refusal):
            machine.step(Event.ASSOCIATE_REJECT)
            self._send([pdu.encode_associate_reject(*decision)])
            self.close(_LINGER)
            raise AssociationRejected(*decision, f"The association of {self.peer} was rejected.")
        proposed = {context.context_id: context.abstract_syntax for context in request.contexts}
        for reply in decision:
            if reply.result == pdu.ContextResult.ACCEPTED:
                self.contexts[reply.context_id] = Context(
                    reply.context_id, proposed[reply.context_id], reply.transfer_syntax
                )
        self._set_peer_maximum(request.maximum_length)
        machine.step(Event.ASSOCIATE_ACCEPT)
        roles = pdu.agreed_roles(request.roles, allowed)
        self.roles = {role.sop_class_uid: role for role in roles}
        self._send([pdu.encode_associate_accept(request, decision, self._limits.maximum_length, roles=roles)])

    def _set_peer_maximum(self, length: int) -> None:
        if 0 < length < pdu.MINIMUM_LENGTH:
            self._violation("It takes PDUs of no useful length.")
        self._peer_maximum = length

    # messages ---------------------------------------------------------------------------------------------------

    def context_for(self, abstract_syntax: str) -> Context | None:
        """The accepted presentation context of an abstract syntax."""
        for context in self.contexts.values():
            if context.abstract_syntax == abstract_syntax:
                return context
        return None

    def send(self, context_id: int, command: Buffer, data: Buffer | None = None) -> None:
        """Send one DIMSE message, command set and data set in one write. Raises ConnectionLost, DeadlineExceeded."""
        buffers = list(pdu.fragments(context_id, True, command, self._peer_maximum))
        if data is not None:
            buffers += pdu.fragments(context_id, False, data, self._peer_maximum)
        self._machine.step(Event.P_DATA_REQUEST)
        self._send(buffers)
        if self._asked_at is None:
            self._asked_at = time.monotonic()

    def ask(self) -> None:
        """The next message that is sent is a request: `answered_after` begins anew."""
        self._asked_at = self.answered_after = None

    @property
    def peer_maximum(self) -> int:
        """Bytes of a P-DATA-TF after its header that the peer takes; 0 is no limit."""
        return self._peer_maximum

    def write(self, buffers: Sequence[Buffer], seconds: float, watch: Callable[[int], object]) -> None:
        """Send P-DATA-TF PDUs that the caller cut himself, within `seconds`; for `watch` see `Transport.send`.

        Raises ConnectionLost, DeadlineExceeded, and what `watch` raises.
        """
        self._machine.step(Event.P_DATA_REQUEST)
        self._send(buffers, seconds, watch)

    def receive(self, until: float) -> Message | None:
        """The command set of the next message; None where none began to arrive before `until`.

        Raises Released, ConnectionLost, DeadlineExceeded, AssociationAborted, RemoteProtocolError.
        """
        fragment = self._fragment(until)
        if fragment is None:
            return None
        context_id, control, start, end = fragment
        self._last_pdu = b""
        if control == COMMAND | LAST:
            raw = bytes(self._transport.view(start, end))
            if end == self._pdu_end and HEADER.unpack_from(self._transport.buffer, start - 12)[1] == end - start + 6:
                self._last_pdu = bytes(self._transport.view(start - 12, end))
        else:
            context_id, raw = self._collect_command(fragment)
        if context_id not in self.contexts:
            self._violation("It used a presentation context that was not accepted.")
        self.received += 1
        if self.answered_after is None and self._asked_at is not None:
            self.answered_after = time.monotonic() - self._asked_at
        if raw == self._last_command:  # pending C-FIND responses of one request are all alike
            return Message(context_id, self._last_decoded)
        try:
            decoded = commands.decode(raw)
        except RemoteProtocolError as error:
            self._violation(str(error))
        self._last_command, self._last_decoded = raw, decoded
        return Message(context_id, decoded)

    def _collect_command(self, fragment: Fragment) -> tuple[int, bytes]:
        self._hard = time.monotonic() + self._limits.pdu
        collected = bytearray()
        first_id = fragment.context_id
        while True:
            context_id, control, start, end = fragment
            if not control & COMMAND or context_id != first_id:
                self._violation("It sent a data set or another context in the middle of a command set.")
            collected += self._transport.view(start, end)
            if len(collected) > commands.MAXIMUM_LENGTH:
                self._violation("It sent a command set without end.")
            if control & LAST:
                self._hard = FOREVER
                return first_id, bytes(collected)
            following = self._fragment(self._hard)
            if following is None:
                self._too_slow()
            fragment = following

    def repeated(self) -> bytes | None:
        """The data set of the next message, if its command set is the same as the last one, byte for byte.

        Only where both are wholly in the buffer, one PDU each, else None and nothing is taken: the way most responses
        of a C-FIND come.
        """
        transport = self._transport
        start = transport.start
        head = self._last_pdu
        position = start + len(head)
        if not head or self._cursor != self._pdu_end or position + 12 > transport.end:
            return None
        buffer = transport.buffer
        if buffer[start:position] != head or not self.established:
            return None
        kind, length, value_length, context_id, control = pdu.PDATA_HEADER.unpack_from(buffer, position)
        end = position + 6 + length
        if (
            kind != pdu.PduType.P_DATA
            or control != LAST
            or context_id != head[10]
            or value_length != length - 4
            or length > self._limits.maximum_length
            or end > transport.end
        ):
            return None
        self._cursor = self._pdu_end = transport.start = end
        self.received += 1
        return bytes(transport.view(position + 12, end))

    def read_data(self, context_id: int, maximum: int) -> bytes:
        """The data set of the message whose command was received, at most `maximum` bytes."""
        fragment = self._fragment(time.monotonic() + self._limits.inactivity)
        if fragment is not None and fragment.control == LAST and fragment.context_id == context_id:
            if fragment.end - fragment.start > maximum:
                self._violation("It sent a data set that is too long for its message.")
            return bytes(self._transport.view(fragment.start, fragment.end))
        collected = bytearray()

        def append(part: memoryview) -> None:
            if len(collected) + len(part) > maximum:
                self._violation("It sent a data set that is too long for its message.")
            collected.extend(part)

        self._stream(context_id, append, fragment)
        return bytes(collected)

    def stream_data(self, context_id: int, write: Write) -> int:
        """Give the data set's fragments to `write` as they come, without copies; returns the number of bytes.

        An exception of `write` leaves the association in the middle of the data set: only `abort` is then allowed.
        """
        return self._stream(context_id, write, self._fragment(time.monotonic() + self._limits.inactivity))

    def _stream(self, context_id: int, write: Write, fragment: Fragment | None) -> int:
        started = time.monotonic()
        received = 0
        while True:
            if fragment is None:
                self._too_slow()
            found_id, control, start, end = fragment
            if control & COMMAND or found_id != context_id:
                self._violation("It sent a command set or another context in the middle of a data set.")
            received += end - start
            write(self._transport.view(start, end))
            if control & LAST:
                self._hard = FOREVER
                return received
            if self._cursor == self._pdu_end:
                self._hard = started + self._limits.inactivity + received / _MINIMUM_RATE
                fragment = self._fragment(min(self._hard, time.monotonic() + self._limits.inactivity))
            else:
                fragment = self._fragment(self._hard)
