"""A bounded look at the first bytes of a data set for the UIDs a store needs. Pure; never decodes values it skips."""

from __future__ import annotations

import struct
from typing import NamedTuple

EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E

_WANTED = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID})
_LAST_WANTED = SERIES_INSTANCE_UID
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MAXIMUM_DEPTH = 64
PLAIN = struct.Struct("<HH2sH")
"""The head of an element with a short length in explicit VR little endian."""
_MAXIMUM_UID = 128
"""Bytes; the longest UID has 64, some senders pad generously. What is longer is malformed."""

VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = VRS - LONG_VRS
STRUCTS = {
    big: tuple(struct.Struct(order + code) for code in ("HH", "H", "L")) for big, order in ((False, "<"), (True, ">"))
}


class Header(NamedTuple):
    """The UIDs of an instance as they are in its data set; empty where absent."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


class MalformedHeader(ValueError):
    """The bytes are not a data set."""


class _Incomplete(Exception):
    """The bytes end before the answer is known."""


class _Level(NamedTuple):
    """What is being walked through: a data set (of an item, or the root) or a sequence of items."""

    in_sequence: bool
    explicit: bool


def scan(data: bytes | bytearray | memoryview, transfer_syntax_uid: str, *, complete: bool) -> Header | None:
    """The UIDs, from the beginning of a data set; None where more bytes are needed to tell.

    `complete` says that there are no more. Encapsulated and unknown transfer syntaxes are Explicit VR Little Endian;
    where the first element shows that the sender meant the other VR encoding, that is believed, as the bytes are kept
    as they came. Raises MalformedHeader.
    """
    found: dict[int, str] = {}
    try:
        _walk(memoryview(data), transfer_syntax_uid == EXPLICIT_BIG_ENDIAN, complete, found)
    except _Incomplete:
        if not complete:
            return None
        raise MalformedHeader("The data set is cut off.") from None
    return Header(
        found.get(SOP_CLASS_UID, ""),
        found.get(SOP_INSTANCE_UID, ""),
        found.get(STUDY_INSTANCE_UID, ""),
        found.get(SERIES_INSTANCE_UID, ""),
    )


def _walk(data: memoryview, big: bool, complete: bool, found: dict[int, str]) -> None:
    """Go through the elements until the last wanted one; sequences of undefined length are walked into."""
    pair, short, long = STRUCTS[big]
    size, position = len(data), 0
    explicit = big or bytes(data[4:6]) in VRS
    levels = [_Level(False, explicit)]
    plain = explicit and not big
    while True:
        if plain and len(levels) == 1:
            position = _skip_plain(data, position, size)
        if complete and position == size and len(levels) == 1:
            return
        if position + 8 > size:
            raise _Incomplete
        group, element = pair.unpack_from(data, position)
        tag = group << 16 | element
        level = levels[-1]
        start = position + 8
        if group == 0xFFFE or level.in_sequence:
            position = start + _structure(tag, long.unpack_from(data, position + 4)[0], levels)
            continue
        if len(levels) == 1 and tag > _LAST_WANTED:
            return
        vr = b""
        if level.explicit:
            vr = bytes(data[position + 4 : position + 6])
            if vr in LONG_VRS:
                if position + 12 > size:
                    raise _Incomplete
                (length,) = long.unpack_from(data, position + 8)
                start = position + 12
            elif vr in VRS:
                (length,) = short.unpack_from(data, position + 6)
            else:
                raise MalformedHeader("The data set has an element of no known VR.")
        else:
            (length,) = long.unpack_from(data, position + 4)
        if length == _UNDEFINED:
            if len(levels) >= _MAXIMUM_DEPTH:
                raise MalformedHeader("The data set is nested too deeply.")
            # A UN of undefined length holds items in implicit VR (PS3.5 section 6.2.2).
            levels.append(_Level(True, level.explicit and vr != b"UN"))
            position = start
            continue
        end = start + length
        if len(levels) == 1 and tag in _WANTED:
            if length > _MAXIMUM_UID:
                raise MalformedHeader("The data set has a UID that is too long.")
            if end > size:
                raise _Incomplete
            found[tag] = str(data[start:end], "latin-1").rstrip(" \0")
            if tag == _LAST_WANTED:
                return
        position = end


def _skip_plain(data: memoryview, position: int, size: int) -> int:
    """Past elements of the root with a short length that nobody wants: most of an explicit little endian head."""
    unpack, short, wanted = PLAIN.unpack_from, SHORT_VRS, _WANTED
    last = size - 8
    while position <= last:
        group, element, vr, length = unpack(data, position)
        tag = group << 16 | element
        if tag >= _LAST_WANTED or vr not in short or tag in wanted:
            break
        position += 8 + length
    return position


def _structure(tag: int, length: int, levels: list[_Level]) -> int:
    """An item or delimiter: go a level down or up; returns how many bytes to skip (PS3.5 section 7.5)."""
    level = levels[-1]
    if tag == _ITEM and level.in_sequence:
        if length != _UNDEFINED:
            return length
        levels.append(_Level(False, level.explicit))
        return 0
    closes = (tag == _SEQUENCE_END and level.in_sequence) or (tag == _ITEM_END and not level.in_sequence)
    if not closes or len(levels) == 1:
        raise MalformedHeader("The data set has a delimiter where none belongs.")
    levels.pop()
    return 0
