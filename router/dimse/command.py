"""Command sets, PS3.7 section 6.3 and annex E: elements of group 0000 in Implicit VR Little Endian, as bytes and back.

Pure and bounded. A command set is a mapping from element number to a number or a text.
"""

from __future__ import annotations

import struct
from typing import Final

from router.dimse.pdu import Buffer
from router.errors import LocalProtocolError, RemoteProtocolError

MAXIMUM_LENGTH = 64 * 1024
"""Bytes of a command set; a regular one has about a hundred."""

AFFECTED_SOP_CLASS_UID: Final = 0x0002
REQUESTED_SOP_CLASS_UID: Final = 0x0003
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120
MOVE_DESTINATION: Final = 0x0600
PRIORITY: Final = 0x0700
COMMAND_DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
OFFENDING_ELEMENT: Final = 0x0901
ERROR_COMMENT: Final = 0x0902
ERROR_ID: Final = 0x0903
AFFECTED_SOP_INSTANCE_UID: Final = 0x1000
REQUESTED_SOP_INSTANCE_UID: Final = 0x1001
EVENT_TYPE_ID: Final = 0x1002
ACTION_TYPE_ID: Final = 0x1008
REMAINING: Final = 0x1020
COMPLETED: Final = 0x1021
FAILED: Final = 0x1022
WARNING: Final = 0x1023
MOVE_ORIGINATOR_AE_TITLE: Final = 0x1030
MOVE_ORIGINATOR_MESSAGE_ID: Final = 0x1031

C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
C_GET_RQ: Final = 0x0010
C_GET_RSP: Final = 0x8010
C_FIND_RQ: Final = 0x0020
C_FIND_RSP: Final = 0x8020
C_MOVE_RQ: Final = 0x0021
C_MOVE_RSP: Final = 0x8021
C_ECHO_RQ: Final = 0x0030
C_ECHO_RSP: Final = 0x8030
N_EVENT_REPORT_RQ: Final = 0x0100
N_EVENT_REPORT_RSP: Final = 0x8100
N_ACTION_RQ: Final = 0x0130
N_ACTION_RSP: Final = 0x8130
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE: Final = 0x8000
"""The bit of the command field that makes a response."""

NO_DATA_SET: Final = 0x0101
DATA_SET: Final = 0x0001

_NUMBERS = frozenset(
    {
        COMMAND_FIELD,
        MESSAGE_ID,
        MESSAGE_ID_BEING_RESPONDED_TO,
        PRIORITY,
        COMMAND_DATA_SET_TYPE,
        STATUS,
        ERROR_ID,
        EVENT_TYPE_ID,
        ACTION_TYPE_ID,
        REMAINING,
        COMPLETED,
        FAILED,
        WARNING,
        MOVE_ORIGINATOR_MESSAGE_ID,
    }
)
_UIDS = frozenset(
    {AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID}
)
_TEXTS = _UIDS | {MOVE_DESTINATION, ERROR_COMMENT, MOVE_ORIGINATOR_AE_TITLE}

_REQUEST = (COMMAND_FIELD, MESSAGE_ID, COMMAND_DATA_SET_TYPE)
_RESPONSE = (COMMAND_FIELD, MESSAGE_ID_BEING_RESPONDED_TO, COMMAND_DATA_SET_TYPE, STATUS)
_REQUIRED = {C_CANCEL_RQ: (COMMAND_FIELD, MESSAGE_ID_BEING_RESPONDED_TO)}
"""Without these a message cannot be answered or attributed at all (PS3.7 annex E.1)."""

_ELEMENT = struct.Struct("<HHL")
_NUMBER_ELEMENT = struct.Struct("<HHLH")
_GROUP_LENGTH = struct.Struct("<HHLL")
_NUMBER = struct.Struct("<H")


class Command(dict[int, int | str]):
    """A command set: element number of group 0000 -> number, or text without padding."""

    __slots__ = ()

    def number(self, element: int) -> int | None:
        """A number; None where absent."""
        value = self.get(element)
        return value if isinstance(value, int) else None

    def text(self, element: int) -> str:
        """A text; empty where absent."""
        value = self.get(element)
        return value if isinstance(value, str) else ""

    @property
    def field(self) -> int:
        """Command Field (0000,0100)."""
        return self.number(COMMAND_FIELD) or 0

    @property
    def status(self) -> int:
        """Status (0000,0900) of a response."""
        return self.number(STATUS) or 0

    @property
    def has_data(self) -> bool:
        """Whether a data set follows."""
        return self.get(COMMAND_DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET


def decode(data: Buffer) -> Command:
    """A command set from its bytes. Unknown elements are ignored. Raises RemoteProtocolError."""
    command = Command()
    unpack = _ELEMENT.unpack_from
    position, size = 0, len(data)
    while position < size:
        if position + 8 > size:
            raise RemoteProtocolError("A command set ends in the middle of an element.")
        group, element, length = unpack(data, position)
        position += 8
        end = position + length
        if group != 0 or end > size:
            raise RemoteProtocolError("A command set holds a foreign group or an element longer than itself.")
        if element in _NUMBERS:
            if length >= 2:
                command[element] = _NUMBER.unpack_from(data, position)[0]
        elif element in _TEXTS:
            command[element] = str(memoryview(data)[position:end], "latin-1").strip(" \0")
        position = end
    field = command.get(COMMAND_FIELD, 0)
    response = isinstance(field, int) and field & RESPONSE
    for element in _REQUIRED.get(command.field, _RESPONSE if response else _REQUEST):
        if element not in command:
            raise RemoteProtocolError(f"A command set lacks its element (0000,{element:04X}).")
    return command


def encode(elements: dict[int, int | str]) -> bytes:
    """A command set with its group length, elements in ascending order. Raises LocalProtocolError."""
    parts: list[bytes] = []
    for element in sorted(elements):
        value = elements[element]
        if isinstance(value, int):
            if element not in _NUMBERS or not 0 <= value <= 0xFFFF:
                raise LocalProtocolError(f"(0000,{element:04X}) of a command set cannot hold this number.")
            parts.append(_NUMBER_ELEMENT.pack(0, element, 2, value))
        else:
            if element not in _TEXTS:
                raise LocalProtocolError(f"(0000,{element:04X}) of a command set cannot hold text.")
            raw = value.encode("ascii", "replace")
            if len(raw) % 2:
                raw += b"\0" if element in _UIDS else b" "
            parts.append(_ELEMENT.pack(0, element, len(raw)) + raw)
    body = b"".join(parts)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body
