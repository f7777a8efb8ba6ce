"""Upper layer PDUs, PS3.8 section 9.3, as bytes and back: pure, bounded, no sockets.

P-DATA is not here as an object: the association reads presentation data values where they lie in its buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from router.domain.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from router.errors import RemoteProtocolError

Buffer = bytes | bytearray | memoryview

MAXIMUM_ASSOCIATE_LENGTH = 1 << 20
"""Bytes of an A-ASSOCIATE PDU; the 128 contexts with all transfer syntaxes the standard has need about half."""
MAXIMUM_CONTEXTS = 128
"""Presentation context IDs are odd and below 256 (PS3.8 section 9.3.2.2)."""
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

HEADER = struct.Struct(">BxL")
"""Type and length of any PDU."""
PDV_HEADER = struct.Struct(">LBB")
"""Length of a presentation data value, context ID, message control header (PS3.8 section 9.3.5.1, annex E.2)."""
PDATA_HEADER = struct.Struct(">BxLLBB")
_ITEM = struct.Struct(">BxH")
_MAXIMUM_LENGTH, _OPERATIONS_WINDOW, _ROLE_SELECTION = 0x51, 0x53, 0x54
_ASSOCIATE = struct.Struct(">HH16s16s32s")

MINIMUM_LENGTH = 16
"""A receiver that takes less per PDU cannot be sent anything sensible."""
_UNLIMITED_FRAGMENT = 1 << 20

COMMAND = 0x01
"""Message control header: the fragment belongs to a command set."""
LAST = 0x02
"""Message control header: the last fragment."""


class PduType(IntEnum):
    """PDU types, PS3.8 section 9.3.1."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class ContextResult(IntEnum):
    """Result of a presentation context in an A-ASSOCIATE-AC, PS3.8 table 9-18."""

    ACCEPTED = 0
    USER_REJECTED = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class ProposedContext(NamedTuple):
    """A presentation context as the requestor proposes it."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


class ContextReply(NamedTuple):
    """A presentation context as the acceptor answers it."""

    context_id: int
    result: int
    transfer_syntax: str


class RoleSelection(NamedTuple):
    """SCP/SCU Role Selection, PS3.7 section D.3.3.4: the roles of the association's requestor for a SOP class.

    Without one the requestor is the SCU and the acceptor the SCP.
    """

    sop_class_uid: str
    scu: bool
    scp: bool


class AssociateRequest(NamedTuple):
    """A-ASSOCIATE-RQ. AE titles are without padding; blank ones are tolerated. `maximum_length` 0 is no limit."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int
    protocol_version: int = 1
    application_context: str = APPLICATION_CONTEXT
    titles: bytes = b""
    """Both AE title fields and the reserved bytes as they came, to be echoed in the A-ASSOCIATE-AC."""
    operations: int = 1
    """Operations the requestor would like to have outstanding at once (asynchronous operations window, PS3.7 section
    D.3.3.3); 0 is no limit, 1 is the synchronous default and proposes nothing."""
    roles: tuple[RoleSelection, ...] = ()
    """Roles other than the default that the requestor proposes."""


class AssociateAccept(NamedTuple):
    """A-ASSOCIATE-AC."""

    contexts: tuple[ContextReply, ...]
    maximum_length: int
    operations: int = 1
    """Operations the requestor may have outstanding at once; 0 is no limit."""
    roles: tuple[RoleSelection, ...] = ()
    """The roles the acceptor agrees to; a class it does not name keeps the default ones."""


def ae_title(raw: Buffer) -> str:
    """An AE title without the spaces around it, or the NULs and tabs of some senders."""
    return str(raw, "latin-1").strip(" \0\t")


def _uid(raw: Buffer) -> str:
    return str(raw, "latin-1").rstrip(" \0")


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _role(role: RoleSelection) -> bytes:
    uid = role.sop_class_uid.encode("ascii")
    return _item(_ROLE_SELECTION, struct.pack(">H", len(uid)) + uid + bytes((role.scu, role.scp)))


def _user_information(maximum_length: int, operations: int, roles: Sequence[RoleSelection]) -> bytes:
    # Some old acceptors reject items they do not know: the default is proposed by silence.
    window = b"" if operations == 1 else _item(_OPERATIONS_WINDOW, struct.pack(">HH", operations, 1))
    return _item(
        0x50,
        _item(_MAXIMUM_LENGTH, struct.pack(">L", maximum_length))
        + _item(0x52, IMPLEMENTATION_CLASS_UID.encode("ascii"))
        + window
        + b"".join(map(_role, roles))
        + _item(0x55, IMPLEMENTATION_VERSION_NAME.encode("ascii")),
    )


def _associate(kind: PduType, titles: bytes, contexts: bytes, user_information: bytes) -> bytes:
    body = (
        struct.pack(">HH", 1, 0)
        + titles
        + _item(0x10, APPLICATION_CONTEXT.encode("ascii"))
        + contexts
        + user_information
    )
    return HEADER.pack(kind, len(body)) + body


def encode_associate_request(request: AssociateRequest) -> bytes:
    """The A-ASSOCIATE-RQ PDU (PS3.8 section 9.3.2)."""
    titles = b"".join(
        title.encode("ascii", "replace")[:16].ljust(16) for title in (request.called_ae_title, request.calling_ae_title)
    )
    contexts = b"".join(
        _item(
            0x20,
            struct.pack(">Bxxx", context.context_id)
            + _item(0x30, context.abstract_syntax.encode("ascii"))
            + b"".join(_item(0x40, syntax.encode("ascii")) for syntax in context.transfer_syntaxes),
        )
        for context in request.contexts
    )
    user = _user_information(request.maximum_length, request.operations, request.roles)
    return _associate(PduType.ASSOCIATE_RQ, titles + bytes(32), contexts, user)


def encode_associate_accept(
    request: AssociateRequest,
    replies: Sequence[ContextReply],
    maximum_length: int,
    operations: int = 1,
    roles: Sequence[RoleSelection] = (),
) -> bytes:
    """The A-ASSOCIATE-AC PDU for a request (PS3.8 section 9.3.3).

    `roles` are those agreed to, see `agreed_roles`.
    """
    contexts = b"".join(
        _item(
            0x21,
            struct.pack(">BxBx", reply.context_id, reply.result) + _item(0x40, reply.transfer_syntax.encode("latin-1")),
        )
        for reply in replies
    )
    user = _user_information(maximum_length, operations, roles)
    return _associate(PduType.ASSOCIATE_AC, request.titles or bytes(64), contexts, user)


def agreed_roles(proposed: Sequence[RoleSelection], allowed: Sequence[RoleSelection]) -> tuple[RoleSelection, ...]:
    """The acceptor's answer to proposed roles: at most what is allowed, only for the classes of both.

    A role that was not proposed cannot be given (PS3.7 section D.3.3.4).
    """
    may = {role.sop_class_uid: role for role in allowed}
    return tuple(
        RoleSelection(uid, scu and may[uid].scu, scp and may[uid].scp) for uid, scu, scp in proposed if uid in may
    )


def encode_associate_reject(result: int, source: int, reason: int) -> bytes:
    """The A-ASSOCIATE-RJ PDU (PS3.8 section 9.3.4)."""
    return struct.pack(">BxLxBBB", PduType.ASSOCIATE_RJ, 4, result, source, reason)


def encode_release_request() -> bytes:
    """The A-RELEASE-RQ PDU (PS3.8 section 9.3.6)."""
    return struct.pack(">BxLxxxx", PduType.RELEASE_RQ, 4)


def encode_release_response() -> bytes:
    """The A-RELEASE-RP PDU (PS3.8 section 9.3.7)."""
    return struct.pack(">BxLxxxx", PduType.RELEASE_RP, 4)


def encode_abort(source: int, reason: int) -> bytes:
    """The A-ABORT PDU: source 0 user or 2 provider, reason (PS3.8 section 9.3.8)."""
    return struct.pack(">BxLxxBB", PduType.ABORT, 4, source, reason)


def _items(raw: memoryview, where: str) -> Iterator[tuple[int, memoryview]]:
    position, size = 0, len(raw)
    while position < size:
        if position + 4 > size:
            raise RemoteProtocolError(f"The {where} ends in the middle of an item.")
        kind, length = _ITEM.unpack_from(raw, position)
        position += 4
        if position + length > size:
            raise RemoteProtocolError(f"An item of the {where} is longer than what it is in.")
        yield kind, raw[position : position + length]
        position += length


class _UserInformation(NamedTuple):
    maximum_length: int = 0
    operations: int = 1
    roles: tuple[RoleSelection, ...] = ()


def _decode_user_information(raw: memoryview, where: str) -> _UserInformation:
    found: dict[int, int] = {}
    roles: dict[str, RoleSelection] = {}
    for kind, value in _items(raw, where):
        if kind in {_MAXIMUM_LENGTH, _OPERATIONS_WINDOW} and len(value) == 4:
            found.setdefault(kind, int.from_bytes(value, "big"))
        elif kind == _ROLE_SELECTION and len(roles) < MAXIMUM_CONTEXTS:
            # One per SOP class, so no more than there are contexts; what is beyond can name no class that counts.
            role = _decode_role(value)
            roles.setdefault(role.sop_class_uid, role)
    return _UserInformation(
        found.get(_MAXIMUM_LENGTH, 0), found.get(_OPERATIONS_WINDOW, 1 << 16) >> 16, tuple(roles.values())
    )


def _decode_role(value: memoryview) -> RoleSelection:
    length = int.from_bytes(value[:2], "big")
    if len(value) < 4 or length != len(value) - 4:
        raise RemoteProtocolError("A role selection is longer or shorter than it says.")
    return RoleSelection(_uid(value[2:-2]), value[-2] == 1, value[-1] == 1)


def decode_associate_request(body: Buffer) -> AssociateRequest:
    """An A-ASSOCIATE-RQ from what follows the PDU header.

    Unknown items are ignored (PS3.8 section 9.3.1). Raises RemoteProtocolError.
    """
    raw = memoryview(body)
    if len(raw) < _ASSOCIATE.size:
        raise RemoteProtocolError("The A-ASSOCIATE-RQ is too short.")
    version, _reserved, called, calling, _rest = _ASSOCIATE.unpack_from(raw)
    contexts: list[ProposedContext] = []
    application_context = ""
    user = _UserInformation()
    for kind, value in _items(raw[_ASSOCIATE.size :], "A-ASSOCIATE-RQ"):
        if kind == 0x10:
            application_context = _uid(value)
        elif kind == 0x20:
            contexts.append(_proposed(value))
            if len(contexts) > MAXIMUM_CONTEXTS:
                raise RemoteProtocolError(f"More than {MAXIMUM_CONTEXTS} presentation contexts were proposed.")
        elif kind == 0x50:
            user = _decode_user_information(value, "user information")
    if len({context.context_id for context in contexts}) != len(contexts):
        raise RemoteProtocolError("A presentation context ID was proposed twice.")
    return AssociateRequest(
        called_ae_title=ae_title(called),
        calling_ae_title=ae_title(calling),
        contexts=tuple(contexts),
        maximum_length=user.maximum_length,
        protocol_version=version,
        application_context=application_context,
        titles=bytes(raw[4:68]),
        operations=user.operations,
        roles=user.roles,
    )


def _proposed(value: memoryview) -> ProposedContext:
    if len(value) < 4:
        raise RemoteProtocolError("A presentation context is too short.")
    abstract_syntax = ""
    transfer_syntaxes: list[str] = []
    for kind, sub_item in _items(value[4:], "presentation context"):
        if kind == 0x30:
            abstract_syntax = _uid(sub_item)
        elif kind == 0x40:
            transfer_syntaxes.append(_uid(sub_item))
    if value[0] % 2 == 0:
        raise RemoteProtocolError("A presentation context ID is even.")
    return ProposedContext(value[0], abstract_syntax, tuple(transfer_syntaxes))


def decode_associate_accept(body: Buffer) -> AssociateAccept:
    """An A-ASSOCIATE-AC from what follows the PDU header. Raises RemoteProtocolError."""
    raw = memoryview(body)
    if len(raw) < _ASSOCIATE.size:
        raise RemoteProtocolError("The A-ASSOCIATE-AC is too short.")
    contexts: list[ContextReply] = []
    user = _UserInformation()
    for kind, value in _items(raw[_ASSOCIATE.size :], "A-ASSOCIATE-AC"):
        if kind == 0x21:
            if len(value) < 4:
                raise RemoteProtocolError("A presentation context is too short.")
            syntaxes = [_uid(sub) for sub_kind, sub in _items(value[4:], "presentation context") if sub_kind == 0x40]
            contexts.append(ContextReply(value[0], value[2], syntaxes[0] if syntaxes else ""))
            if len(contexts) > MAXIMUM_CONTEXTS:
                raise RemoteProtocolError(f"More than {MAXIMUM_CONTEXTS} presentation contexts were answered.")
        elif kind == 0x50:
            user = _decode_user_information(value, "user information")
    return AssociateAccept(tuple(contexts), user.maximum_length, user.operations, user.roles)


def fragments(context_id: int, command: bool, data: Buffer, limit: int) -> Iterator[Buffer]:
    """P-DATA-TF PDUs of one command set or data set, as buffers to be sent one after the other, without copies.

    `limit` is the receiver's maximum length (PS3.8 annex D.1): bytes of a PDU after its header; 0 is none.
    """
    view = memoryview(data)
    kind = COMMAND if command else 0
    step = min(limit or _UNLIMITED_FRAGMENT, _UNLIMITED_FRAGMENT) - 6 & ~1
    size = len(view)
    position = 0
    while True:
        end = min(position + step, size)
        control = kind | LAST if end == size else kind
        yield PDATA_HEADER.pack(PduType.P_DATA, end - position + 6, end - position + 2, context_id, control)
        yield view[position:end]
        position = end
        if position >= size:
            return
