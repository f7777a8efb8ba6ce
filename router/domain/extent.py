"""Whether a data set ends where its elements say: told from its parts as they come. Pure; decodes no value."""

from __future__ import annotations

from router.domain.header import EXPLICIT_BIG_ENDIAN, LONG_VRS, PLAIN, SHORT_VRS, STRUCTS, VRS

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MAXIMUM_DEPTH = 64
_PADDING = b"\0 \r\n"


class Extent:
    """Follows the elements of one data set through its parts, going from length to length.

    It gives up, and finds nothing cut off, where the bytes are no elements in ascending order: what is only odd is kept
    as it came.
    """

    __slots__ = ("_big", "_carry", "_explicit", "_last", "_levels", "_lost", "_next", "_seen")

    def __init__(self, transfer_syntax_uid: str) -> None:
        self._big = transfer_syntax_uid == EXPLICIT_BIG_ENDIAN
        self._explicit: bool | None = None
        self._levels: list[tuple[bool, bool]] = []
        """Open structures of undefined length: whether of items, whether in explicit VR."""
        self._last = -1
        self._lost = False
        self._next = 0
        self._seen = 0
        self._carry = b""

    def feed(self, part: memoryview) -> None:
        """The next part of the data set."""
        size = len(part)
        if self._lost or self._next >= self._seen + size:
            self._seen += size
            return
        base = self._seen
        self._seen += size
        if self._carry:
            base -= len(self._carry)
            part = memoryview(self._carry + part)
        position = self._walk(part, self._next - base)
        self._next = base + position
        self._carry = bytes(part[position:])

    @property
    def cut_off(self) -> bool:
        """Whether the data set, if nothing more comes, ends within an element."""
        return not self._lost and (self._next > self._seen or bool(self._carry.strip(_PADDING)))

    def _walk(self, data: memoryview, position: int) -> int:
        """Go on from an element at `position`; returns where the first one begins whose head is not there yet."""
        pair, short, long = STRUCTS[self._big]
        levels, size = self._levels, len(data)
        if self._explicit is None:
            if size < 8:
                return position
            self._explicit = self._big or bytes(data[4:6]) in VRS
        plain = self._explicit and not self._big
        while position + 8 <= size:
            if plain and not levels:
                position = self._skip_plain(data, position)
                if position + 8 > size:
                    break
            group, element = pair.unpack_from(data, position)
            tag = group << 16 | element
            in_items, explicit = levels[-1] if levels else (False, self._explicit)
            if group == 0xFFFE or in_items:
                (length,) = long.unpack_from(data, position + 4)
                position += 8
                if tag == _ITEM and in_items:
                    if length == _UNDEFINED:
                        levels.append((False, explicit))
                    else:
                        position += length
                elif levels and tag == (_SEQUENCE_END if in_items else _ITEM_END):
                    levels.pop()
                else:
                    self._lost = True
                    return position
                continue
            vr = b""
            head = 8
            if not explicit:
                (length,) = long.unpack_from(data, position + 4)
            else:
                vr = bytes(data[position + 4 : position + 6])
                if vr in LONG_VRS:
                    if position + 12 > size:
                        break
                    (length,) = long.unpack_from(data, position + 8)
                    head = 12
                else:
                    (length,) = short.unpack_from(data, position + 6)
            if (explicit and vr not in VRS) or (not levels and tag <= self._last) or len(levels) >= _MAXIMUM_DEPTH:
                self._lost = True
                return position
            if not levels:
                self._last = tag
            position += head
            if length == _UNDEFINED:
                levels.append((True, explicit and vr != b"UN"))
            else:
                position += length
        return position

    def _skip_plain(self, data: memoryview, position: int) -> int:
        """Past elements of the root with a short length: most of a data set in explicit VR little endian."""
        unpack, short, last = PLAIN.unpack_from, SHORT_VRS, self._last
        end = len(data) - 8
        while position <= end:
            group, element, vr, length = unpack(data, position)
            tag = group << 16 | element
            if vr not in short or tag <= last or group == 0xFFFE:
                break
            last = tag
            position += 8 + length
        self._last = last
        return position
