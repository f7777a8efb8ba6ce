"""Data sets of requests, C-FIND, C-MOVE and N-ACTION, from the domain's `Identifier` into bytes. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable

from router.dimse.text import encoder_for
from router.domain.commitment import CommitmentRequest
from router.domain.dicom import Identifier, QueryRetrieveLevel, name_of, tag_of, vr_of
from router.domain.exchange import MoveRequest
from router.errors import LocalProtocolError

_CHARACTER_SET = 0x00080005
_LEVEL = 0x00080052
_PATIENT_ID = 0x00100020
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_SOP_INSTANCE_UID = 0x00080018
_FAILED_SOP_INSTANCE_UIDS = 0x00080058
_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_TRANSACTION_UID = 0x00081195
_REFERENCED_SOP_SEQUENCE = 0x00081199

_NUMBERS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_NUL_PADDED = frozenset({"UI", *_BYTES})
_ITEM = 0xFFFEE000


def find_identifier(level: QueryRetrieveLevel, keys: Identifier, implicit: bool, character_set: str = "") -> bytes:
    """A C-FIND identifier: values to match, zero length for return keys (PS3.4 section C.4.1.1.3).

    `character_set` is the node's own, for keys that are not ASCII; without one, or where it lacks a character, UTF-8.
    """
    elements = dict(keys.elements)
    elements[_LEVEL] = (level.value,)
    return _data_set(elements, implicit, character_set)


def worklist_identifier(keys: Identifier, implicit: bool, character_set: str = "") -> bytes:
    """A modality worklist identifier: as `find_identifier`, but a worklist has no levels (PS3.4 section K.4.1.1.3)."""
    return _data_set(keys.elements, implicit, character_set)


def move_identifier(
    request: MoveRequest, implicit: bool, *, with_patient: bool, service: str = "C-MOVE", character_set: str = ""
) -> bytes:
    """A C-MOVE or C-GET identifier: the unique keys of its level and above (PS3.4 sections C.4.2.1.4.1, C.4.3.1.3).

    For `character_set` see `find_identifier`. Raises LocalProtocolError where a unique key of its level is missing.
    """
    needed: dict[QueryRetrieveLevel, tuple[tuple[int, tuple[str, ...]], ...]] = {
        QueryRetrieveLevel.PATIENT: (),
        QueryRetrieveLevel.STUDY: ((_STUDY_INSTANCE_UID, (request.study_instance_uid,)),),
        QueryRetrieveLevel.SERIES: (
            (_STUDY_INSTANCE_UID, (request.study_instance_uid,)),
            (_SERIES_INSTANCE_UID, request.series_instance_uids),
        ),
        QueryRetrieveLevel.IMAGE: (
            (_STUDY_INSTANCE_UID, (request.study_instance_uid,)),
            (_SERIES_INSTANCE_UID, request.series_instance_uids),
            (_SOP_INSTANCE_UID, request.sop_instance_uids),
        ),
    }
    elements: dict[int, tuple[str | Identifier, ...]] = {_LEVEL: (request.level.value,)}
    if with_patient or request.level is QueryRetrieveLevel.PATIENT:
        elements[_PATIENT_ID] = (request.patient_id,)
    elements |= dict(needed[request.level])
    for tag, values in elements.items():
        # An empty unique key would be universal matching: the whole archive.
        if not values or not all(values):
            raise LocalProtocolError(f"A {service} at {request.level.value} level needs {name_of(tag)}.")
    return _data_set(elements, implicit, character_set)


def commitment_data_set(request: CommitmentRequest, implicit: bool) -> bytes:
    """Action Information of a storage commitment request (PS3.4 table J.3-1)."""
    items = tuple(
        Identifier({_REFERENCED_SOP_CLASS_UID: (sop_class,), _REFERENCED_SOP_INSTANCE_UID: (instance,)})
        for sop_class, instance in request.references
    )
    return _encode({_TRANSACTION_UID: (request.transaction_uid,), _REFERENCED_SOP_SEQUENCE: items}, implicit)


def failed_uids(identifier: Identifier) -> tuple[str, ...]:
    """The Failed SOP Instance UID List (0008,0058) of a C-MOVE response."""
    return tuple(
        value for value in identifier.elements.get(_FAILED_SOP_INSTANCE_UIDS, ()) if isinstance(value, str) and value
    )


_Encode = Callable[[str], bytes]


def _utf_8(text: str) -> bytes:
    return text.encode("utf-8")


def _data_set(elements: dict[int, tuple[str | Identifier, ...]], implicit: bool, character_set: str) -> bytes:
    complete = {tag: values for tag, values in elements.items() if tag != _CHARACTER_SET}
    # Specific Character Set only where a key needs one; never of zero length (PS3.4 section C.2.2.2).
    if all(map(_is_ascii, complete.values())):
        return _encode(complete, implicit)
    names, encode = encoder_for(character_set, [text for values in complete.values() for text in _texts(values)])
    complete[_CHARACTER_SET] = names
    return _encode(complete, implicit, encode)


def _texts(values: tuple[str | Identifier, ...]) -> list[str]:
    """All texts, those in items too."""
    texts: list[str] = []
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        else:
            texts += [text for inner in value.elements.values() for text in _texts(inner)]
    return texts


def _is_ascii(values: tuple[str | Identifier, ...]) -> bool:
    return all(
        value.isascii() if isinstance(value, str) else all(map(_is_ascii, value.elements.values())) for value in values
    )


def _encode(elements: dict[int, tuple[str | Identifier, ...]], implicit: bool, encode: _Encode = _utf_8) -> bytes:
    return b"".join(_element(tag, elements[tag], implicit, encode) for tag in sorted(elements))


def _element(tag: int, values: tuple[str | Identifier, ...], implicit: bool, encode: _Encode) -> bytes:
    vr = vr_of(tag)
    value = _value(tag, vr, values, implicit, encode)
    if len(value) % 2:
        value += b"\0" if vr in _NUL_PADDED else b" "
    group, element = tag >> 16, tag & 0xFFFF
    if implicit:
        return struct.pack("<HHL", group, element, len(value)) + value
    if vr in _LONG_VRS:
        return struct.pack("<HH2sxxL", group, element, vr.encode("ascii"), len(value)) + value
    if len(value) > 0xFFFF:
        raise LocalProtocolError(f"The key {name_of(tag)} is too long for explicit VR.")
    return struct.pack("<HH2sH", group, element, vr.encode("ascii"), len(value)) + value


def _value(tag: int, vr: str, values: tuple[str | Identifier, ...], implicit: bool, encode: _Encode) -> bytes:
    if vr == "SQ":
        items = (_encode(value.elements, implicit, encode) for value in values if isinstance(value, Identifier))
        return b"".join(struct.pack("<HHL", _ITEM >> 16, _ITEM & 0xFFFF, len(item)) + item for item in items)
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(values):
        raise LocalProtocolError(f"The key {name_of(tag)} is no sequence but was given items.")
    try:
        if vr in _NUMBERS:
            convert = float if vr in {"FL", "FD"} else int
            return b"".join(struct.pack(f"<{_NUMBERS[vr]}", convert(text)) for text in texts)
        if vr == "AT":
            tags = [tag_of(text) for text in texts]
            if None in tags:
                raise ValueError
            return b"".join(struct.pack("<HH", number >> 16, number & 0xFFFF) for number in tags if number is not None)
    except (ValueError, struct.error):
        raise LocalProtocolError(f"The key {name_of(tag)} was given a value its VR {vr} cannot hold.") from None
    return b"\\".join(map(encode, texts))
