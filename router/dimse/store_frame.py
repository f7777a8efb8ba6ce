"""A buffer laid out as P-DATA-TF PDUs, filled from a file: a data set on its way without a copy in between."""

from __future__ import annotations

import os

from router.dimse.pdu import LAST, PDATA_HEADER, PduType

_SIZE = 1 << 20
"""Bytes of the buffer: all of most instances, and what is read ahead of a bigger one."""
_MAXIMUM_SLOTS = 512
"""PDUs in it; readv() takes at most 1024 buffers."""


class CutOff(Exception):
    """A file ended before the data set did."""


class Frame:
    """The next piece of a data set, in PDUs as long as the receiver takes (PS3.8 annex D.1), headers in place.

    `limit` is the receiver's maximum length, 0 is none. The file is read into the gaps between the headers, so that
    one piece of memory is all there is to send.
    """

    def __init__(self, limit: int) -> None:
        header = PDATA_HEADER.size
        # A presentation data value has an even length but for the last of a data set of odd length (PS3.8 annex E.2).
        self._step = (min(limit + 6, _SIZE) if limit else _SIZE) - header & ~1
        self._stride = self._step + header
        count = max(1, min(_SIZE // self._stride, _MAXIMUM_SLOTS))
        self._memory = bytearray(self._stride * count)
        self._view = memoryview(self._memory)
        self._slots = [self._view[place + header : place + self._stride] for place in self._places(count)]
        self._count = count
        self._context_id = 0
        self._shortened = -1
        self.capacity = self._step * count
        """Bytes of a data set that fit at once."""

    def _places(self, count: int) -> range:
        return range(0, self._stride * count, self._stride)

    def fill(self, descriptor: int, context_id: int, size: int, *, last: bool) -> memoryview:
        """Read `size` bytes, at least 1 and at most `capacity`; `last` ends the data set, else `size` is `capacity`.

        Returns the PDUs, valid until the next call. Raises CutOff, OSError.
        """
        self._write_headers(context_id)
        full, rest = divmod(size, self._step)
        if last and rest == 0:
            full, rest = full - 1, self._step
        slots = self._slots[:full]
        if rest:
            slots.append(self._slots[full][:rest])
        self._read(descriptor, slots, size)
        if last:
            self._write_header(full, rest, LAST)
            self._shortened = full
        return self._view[: size + len(slots) * PDATA_HEADER.size]

    def _write_headers(self, context_id: int) -> None:
        if context_id != self._context_id:
            self._context_id = context_id
            for number in range(self._count):
                self._write_header(number, self._step, 0)
        elif self._shortened >= 0:
            self._write_header(self._shortened, self._step, 0)
        self._shortened = -1

    def _write_header(self, number: int, size: int, control: int) -> None:
        place = number * self._stride
        PDATA_HEADER.pack_into(self._memory, place, PduType.P_DATA, size + 6, size + 2, self._context_id, control)

    def _read(self, descriptor: int, slots: list[memoryview], size: int) -> None:
        done = os.readv(descriptor, slots)
        while done < size:
            # Network file systems give less than was asked for.
            full, rest = divmod(done, self._step)
            more = os.readv(descriptor, [slots[full][rest:], *slots[full + 1 :]])
            if more == 0:
                raise CutOff()
            done += more
