"""The head of a DICOM file, PS3.10 section 7.1: preamble, prefix and file meta information, as bytes and back. Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

IMPLEMENTATION_CLASS_UID = "2.25.137723294585547589999949579760077955089"
IMPLEMENTATION_VERSION_NAME = "DICOM_ROUTER"

MAXIMUM_HEAD = 4096
"""Bytes that certainly hold the head of a file this router wrote."""

_PREAMBLE = bytes(128) + b"DICM"
_GROUP_LENGTH = struct.Struct("<HH2sHL")
_SHORT = struct.Struct("<HH2sH")
_VERSION = struct.pack("<HH2sxxL", 2, 0x0001, b"OB", 2) + b"\x00\x01"
_IMPLEMENTATION = (
    (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
    (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
)
_START = len(_PREAMBLE) + _GROUP_LENGTH.size
_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID, _SOURCE_AE_TITLE = 0x0002, 0x0003, 0x0010, 0x0016


class FileMeta(NamedTuple):
    """What the file meta information says of an instance."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str


def _element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _SHORT.pack(2, element, vr, len(value)) + value


_OURS = b"".join(_element(*element) for element in _IMPLEMENTATION)


def encode_file_meta(meta: FileMeta) -> bytes:
    """Preamble (always zero: nothing of the sender's gets into it), prefix and file meta information."""
    body = (
        _VERSION
        + _element(_SOP_CLASS_UID, b"UI", meta.sop_class_uid)
        + _element(_SOP_INSTANCE_UID, b"UI", meta.sop_instance_uid)
        + _element(_TRANSFER_SYNTAX_UID, b"UI", meta.transfer_syntax_uid)
        + _OURS
        + _element(_SOURCE_AE_TITLE, b"AE", meta.calling_ae_title)
    )
    return _PREAMBLE + _GROUP_LENGTH.pack(2, 0, b"UL", 4, len(body)) + body


def decode_file_meta(head: bytes) -> tuple[FileMeta, int] | None:
    """The file meta information and where the data set begins; None where the bytes are no head of a DICOM file."""
    if len(head) < _START or head[128:132] != b"DICM":
        return None
    group, element, vr, _length, size = _GROUP_LENGTH.unpack_from(head, len(_PREAMBLE))
    end = _START + size
    if (group, element, vr) != (2, 0, b"UL") or end > len(head):
        return None
    texts: dict[int, str] = {}
    position = _START
    while position + _SHORT.size <= end:
        group, element, vr, length = _SHORT.unpack_from(head, position)
        position += _SHORT.size
        if vr in {b"OB", b"UN", b"UT"}:
            if position + 4 > end:
                return None
            length = int.from_bytes(head[position : position + 4], "little")
            position += 4
        if position + length > end:
            return None
        texts[element] = head[position : position + length].decode("latin-1").rstrip(" \0")
        position += length
    meta = FileMeta(
        texts.get(_SOP_CLASS_UID, ""),
        texts.get(_SOP_INSTANCE_UID, ""),
        texts.get(_TRANSFER_SYNTAX_UID, ""),
        texts.get(_SOURCE_AE_TITLE, ""),
    )
    return (meta, end) if meta.sop_instance_uid else None
