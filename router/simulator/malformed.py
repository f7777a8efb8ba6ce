"""Responses as pydicom would not write them: blanks, padding, odd lengths, unknown VRs. No network here."""

from __future__ import annotations

import struct

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from .behaviour import Behaviour
from .encoding import encode, keyword_of, text_of

_UNKNOWN_VR = "ZZ"


def spoils(behaviour: Behaviour) -> bool:
    """Whether responses need `encode_spoilt`."""
    return bool(behaviour.blank or behaviour.uid_padding or behaviour.odd_lengths or behaviour.bad_vrs)


def encode_spoilt(row: Dataset, behaviour: Behaviour, transfer_syntax: UID, character_set: str) -> bytes:
    """The bytes of a row, with what the behaviour spoils written as the standard does not have it.

    Only elements with text are spoilt, never sequences.
    """
    encodings = convert_encodings((character_set or "ISO_IR 6").split("\\"))
    padding = behaviour.uid_padding.encode("ascii")
    chunks = []
    for element in row:
        keyword = keyword_of(element)
        vr = element.VR
        value = None
        text = text_of(row, element.tag).encode(encodings[0], "replace")
        if keyword in behaviour.blank:
            value = b"  "
        elif keyword in behaviour.odd_lengths:
            value = text if len(text) % 2 else text + b" "
        elif keyword in behaviour.bad_vrs:
            vr, value = _UNKNOWN_VR, text + b" "[: len(text) % 2]
        elif padding and text and vr == "UI":
            value = b"\\".join(uid + padding for uid in text.split(b"\\"))
            value += padding[-1:] * (len(value) % 2)
        if value is not None:
            chunks.append(_element(element.tag, vr, value, transfer_syntax))
        else:
            alone = Dataset()
            alone.add(element)
            chunks.append(encode(alone, transfer_syntax, character_set))
    return b"".join(chunks)


def _element(tag: BaseTag, vr: str, value: bytes, transfer_syntax: UID) -> bytes:
    """A data element whose VR has a length of two bytes in Explicit VR (PS3.5 section 7.1)."""
    order = "<" if transfer_syntax.is_little_endian else ">"
    head = struct.pack(f"{order}HH", tag.group, tag.element)
    if transfer_syntax.is_implicit_VR:
        return head + struct.pack(f"{order}L", len(value)) + value
    return head + vr.encode("ascii") + struct.pack(f"{order}H", len(value)) + value
