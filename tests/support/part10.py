"""Part 10 files looked at as bytes: where the data set begins, what the file meta information says."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


class Part10(NamedTuple):
    """A file as PS3.10 section 7 divides it: preamble, file meta information, data set as encoded."""

    preamble: bytes
    meta: dict[int, bytes]
    """Values of the file meta group as encoded, by element number: 0x0010 is the Transfer Syntax UID."""
    dataset: bytes

    @property
    def sop_class_uid(self) -> str:
        """Media Storage SOP Class UID (0002,0002)."""
        return self._uid(0x0002)

    @property
    def sop_instance_uid(self) -> str:
        """Media Storage SOP Instance UID (0002,0003)."""
        return self._uid(0x0003)

    @property
    def transfer_syntax_uid(self) -> str:
        """Transfer Syntax UID (0002,0010)."""
        return self._uid(0x0010)

    def _uid(self, element: int) -> str:
        return self.meta[element].rstrip(b"\0 ").decode("ascii")


def read_part10(path: Path) -> Part10:
    """Read a Part 10 file. Raises ValueError if it is none."""
    data = path.read_bytes()
    if data[128:132] != b"DICM":
        raise ValueError(f"{path.name} is not a DICOM Part 10 file")
    # The file meta information is always in Explicit VR Little Endian; it ends where group 0002 ends, which holds for
    # files without a correct group length too.
    meta: dict[int, bytes] = {}
    offset = 132
    while data[offset : offset + 2] == b"\x02\x00":
        element = struct.unpack_from("<H", data, offset + 2)[0]
        if data[offset + 4 : offset + 6] in _LONG:
            (length,) = struct.unpack_from("<L", data, offset + 8)
            offset += 12
        else:
            (length,) = struct.unpack_from("<H", data, offset + 6)
            offset += 8
        meta[element] = data[offset : offset + length]
        offset += length
    return Part10(data[:128], meta, data[offset:])


def dataset_bytes(path: Path) -> bytes:
    """Return the data set of a Part 10 file exactly as it is encoded, without preamble and file meta information."""
    return read_part10(path).dataset
