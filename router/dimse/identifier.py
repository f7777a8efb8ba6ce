"""C-FIND identifiers and data set headers from their bytes into the domain's `Identifier`.

Two paths with one result: a fast one for flat little endian data sets, and pydicom for what has structure or code
extensions. Both share the conversion of a single value, `_values`. Patient data passes here: nothing is ever logged.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pydicom.config
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from router.domain.dicom import Identifier, vr_of
from router.errors import RemoteProtocolError

# pydicom's warnings and log records carry values of data sets; none of them may reach a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

TRANSFER_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))

Values = tuple[str | Identifier, ...]


class IdentifierError(RemoteProtocolError):
    """The peer sent an identifier that is not a data set."""


class _NotPlain(Exception):
    """The fast path meets something it leaves to pydicom."""


_TEXT, _CHARSET_TEXT, _TRIMMED, _CHARSET_SINGLE, _SINGLE, _TAGS, _SEQUENCE, _SKIP, _BYTES, _UNKNOWN = range(10)
_NUMBER = 16
"""Kinds from here on are numbers, index into _NUMBER_FORMATS."""

_NUMBER_FORMATS = ("H", "h", "L", "l", "Q", "q", "f", "d")
_KIND_OF_VR = {
    **dict.fromkeys(("AS", "CS", "DA", "DT", "TM", "UI"), _TEXT),
    **dict.fromkeys(("LO", "PN", "SH", "UC"), _CHARSET_TEXT),
    **dict.fromkeys(("AE", "DS", "IS"), _TRIMMED),
    **dict.fromkeys(("LT", "ST", "UT"), _CHARSET_SINGLE),
    "UR": _SINGLE,
    "AT": _TAGS,
    "SQ": _SEQUENCE,
    "UN": _UNKNOWN,
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW"), _BYTES),
    **{vr: _NUMBER + index for index, vr in enumerate(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"))},
}
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
"""With a 32-bit length in explicit VR, PS3.5 section 7.1.2."""

_UNDEFINED = 0xFFFFFFFF
_CHARACTER_SET = 0x00080005
_DEFAULT = "iso8859"
CODECS = {**python_encoding, "ISO_IR 203": "iso8859_15"}
"""Python codec of each Specific Character Set; Latin alphabet No. 9 is younger than pydicom's table."""
_IMPLICIT = struct.Struct("<HHL")
_EXPLICIT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<L")


def decode(data: bytes, transfer_syntax: str, assume_character_set: str = "") -> Identifier:
    """One identifier from its bytes; for many of a kind see `Decoder`. Raises IdentifierError."""
    return Decoder(transfer_syntax, assume_character_set).decode(data)


# the fast path ------------------------------------------------------------------------------------------------------


def _kind(tag: int, vr: str) -> int:
    if tag & 0xFFFF == 0 or tag >> 16 == 0xFFFE:
        return _SKIP
    kind = _KIND_OF_VR.get(vr)
    if kind is None:
        raise _NotPlain
    # pydicom too gives an element of VR UN the VR of the dictionary.
    return kind if kind != _UNKNOWN or vr_of(tag) == "UN" else _KIND_OF_VR[vr_of(tag)]


_Element = tuple[int, int, int, dict[str, Values]]
"""Tag, kind and length, as the first eight bytes of an element say, and the values such an attribute had before."""

_MAXIMUM_HEADS = 4096
_MAXIMUM_ATTRIBUTES = 64
_MAXIMUM_VALUES = 1024
_MAXIMUM_LENGTH = 64
"""What a decoder remembers at most: heads, attributes, values of each, characters of a value. No peer makes it grow."""

_NOTHING: dict[str, Values] = {}
"""The known values of attributes whose values are not remembered; always empty."""


class Decoder:
    """Decodes identifiers in implicit or explicit VR little endian, many alike: the answer to one C-FIND.

    Values are text without padding; numbers, tags and unknown VRs take their text form, sequences an Identifier an
    item; group lengths are left out; values of bytes (OB, OW and their like) are present without values.
    `assume_character_set`, values separated by backslashes, holds where Specific Character Set (0008,0005) names none.

    It remembers the heads of elements (tag, VR and length) and the values of attributes that have few different ones,
    so that those are made once and shared by all identifiers. Not thread-safe.
    """

    def __init__(self, transfer_syntax: str, assume_character_set: str = "") -> None:
        self._transfer_syntax = transfer_syntax
        self._read_head = _implicit_head if transfer_syntax == ImplicitVRLittleEndian else _explicit_head
        self._assumed = assume_character_set
        self._assumed_names = assumed_names(assume_character_set)
        self._heads: dict[str, _Element] = {}
        self._known: dict[tuple[int, int], dict[str, Values]] = {}
        """By tag and kind of value."""

    def decode(self, data: bytes) -> Identifier:
        """An identifier from its bytes. Raises IdentifierError."""
        try:
            elements = self._elements(data)
        except _NotPlain:
            return decode_with_pydicom(data, self._transfer_syntax, self._assumed)
        identifier = Identifier()
        identifier.elements = elements  # fresh: no need to copy
        return identifier

    def _elements(self, data: bytes) -> dict[int, Values]:
        text = str(data, "latin-1")  # slices and looks up faster than bytes, and most values need no other decoding
        escapes = "\x1b" in text
        codec = ""
        elements: dict[int, Values] = {}
        heads = self._heads
        position, length, size = 0, 0, len(text)
        limit = size - 8
        while position <= limit:
            start = position + 8
            try:
                tag, kind, length, known = heads[text[position:start]]
            except KeyError:
                tag, kind, length, known = self._head(text[position:start])
            position = start + length
            value = text[start:position]
            values = known.get(value)
            if values is None:
                if kind == _LONG_FORM:
                    if start + 4 > size:
                        break
                    kind, length = _long_form(tag, data, start)
                    start += 4
                    position = start + length
                    value = text[start:position]
                if position > size:
                    _overrun(length)
                if kind <= _TRIMMED and (kind != _CHARSET_TEXT or (value.isascii() and not escapes)):
                    stripped = value.rstrip(" \0")
                    if "\\" in stripped or kind == _TRIMMED:
                        values = _split(kind, stripped)
                    elif stripped:
                        values = (stripped,)
                    else:
                        values = ()
                    if known is not _NOTHING:
                        self._remember(tag, kind, known, value, values)
                elif kind == _SKIP:
                    continue
                else:
                    if length and kind == _SEQUENCE:
                        raise _NotPlain
                    if not codec:
                        codec = _codec(elements.get(_CHARACTER_SET) or self._assumed_names)
                    values = _values(kind, data[start:position], codec, None)
            elements[tag] = values
        if position > size:  # the last value is a known one, but cut off
            _overrun(length)
        return elements

    def _head(self, head: str) -> _Element:
        """Read the head of an element that is not among those remembered."""
        tag, kind, length = self._read_head(head.encode("latin-1"))
        known = _NOTHING
        if _TEXT <= kind <= _TRIMMED:
            known = self._known.get((tag, kind), _NOTHING)
            if known is _NOTHING and len(self._known) < _MAXIMUM_ATTRIBUTES:
                known = self._known.setdefault((tag, kind), {})
        element = (tag, kind, length, known)
        if len(self._heads) < _MAXIMUM_HEADS:
            self._heads[head] = element
        return element

    def _remember(self, tag: int, kind: int, known: dict[str, Values], value: str, values: Values) -> None:
        if len(known) >= _MAXIMUM_VALUES:  # hardly any comes again, as with UIDs: look for them no longer
            self._known[tag, kind] = _NOTHING
            self._heads.clear()
        elif len(value) <= _MAXIMUM_LENGTH:
            known[value] = values


_LONG_FORM = -1
_EXPLICIT_KINDS = {vr.encode("ascii"): _LONG_FORM if vr in _LONG_VRS else kind for vr, kind in _KIND_OF_VR.items()}
_EXPLICIT_LONG_KINDS = {vr.encode("ascii"): kind for vr, kind in _KIND_OF_VR.items() if vr in _LONG_VRS}


def _implicit_head(head: bytes) -> tuple[int, int, int]:
    group, element, length = _IMPLICIT.unpack(head)
    tag = group << 16 | element
    return tag, _kind(tag, vr_of(tag)), length


def _explicit_head(head: bytes) -> tuple[int, int, int]:
    """What has a 32-bit length, and what is no VR at all, is of the kind _LONG_FORM and of no length yet."""
    group, element, vr, length = _EXPLICIT.unpack(head)
    tag = group << 16 | element
    kind = _EXPLICIT_KINDS.get(vr, _LONG_FORM)
    if kind == _LONG_FORM:
        return tag, kind, 0
    return tag, kind if element else _SKIP, length


def _long_form(tag: int, data: bytes, start: int) -> tuple[int, int]:
    """Kind and length of an element with a 32-bit length; what is no VR at all is left to pydicom."""
    kind = _EXPLICIT_LONG_KINDS.get(data[start - 4 : start - 2])
    if kind is None:
        raise _NotPlain
    if not tag & 0xFFFF or kind == _UNKNOWN:
        kind = _kind(tag, "UN")
    return kind, _LONG.unpack_from(data, start)[0]


def _overrun(length: int) -> None:
    if length == _UNDEFINED:
        raise _NotPlain
    raise IdentifierError


def assumed_names(character_set: str) -> tuple[str, ...]:
    """The values of a configured Specific Character Set; the default repertoire where it is empty."""
    return tuple(character_set.split("\\"))


def _codec(names: Values) -> str:
    """The Python codec where one does for the whole data set; raises _NotPlain for code extensions and oddities."""
    name = names[0] if len(names) == 1 and isinstance(names[0], str) else None
    codec = CODECS.get(name) if name is not None else None
    if codec is None:
        if name is not None and "\0" in name:
            return _DEFAULT  # pydicom's reader refuses the whole data set then
        raise _NotPlain
    return codec


# one value, for both paths ------------------------------------------------------------------------------------------

_DELIMITERS = {0x0D, 0x0A, 0x09, 0x0C}
_PERSON_NAME_DELIMITERS = {*_DELIMITERS, ord("^"), ord("=")}


def _values(kind: int, raw: bytes, codec: str, encodings: Sequence[str] | None) -> Values:
    """The values of an element that is no sequence, as text. `encodings` are those of code extensions."""
    if not raw or kind == _BYTES:
        return ()
    if kind >= _NUMBER:
        code = _NUMBER_FORMATS[kind - _NUMBER]
        count = len(raw) // struct.calcsize(f"<{code}")
        return tuple([str(number) for number in struct.unpack_from(f"<{count}{code}", raw)])
    if kind == _TAGS:
        halves = struct.unpack_from(f"<{len(raw) // 4 * 2}H", raw)
        return tuple([f"({group:04X},{element:04X})" for group, element in zip(halves[::2], halves[1::2], strict=True)])
    if kind in {_CHARSET_TEXT, _CHARSET_SINGLE, _UNKNOWN}:
        text = _text(raw, codec, encodings)
    else:
        text = str(raw, "latin-1")
    text = text.rstrip(" \0")
    if kind in {_CHARSET_SINGLE, _SINGLE}:
        return (text,) if text else ()
    return _split(kind, text)


def _split(kind: int, text: str) -> Values:
    """The values of a text without its trailing padding."""
    if kind == _TRIMMED:
        text = text.strip(" \0")
        if "\\" in text:
            return tuple([part.strip(" \0") for part in text.split("\\")])
    elif "\\" in text:
        return tuple([part.rstrip(" \0") for part in text.split("\\")])
    return (text,) if text else ()


def _text(raw: bytes, codec: str, encodings: Sequence[str] | None) -> str:
    if encodings is not None and b"\x1b" in raw:
        return decode_bytes(raw, encodings, _PERSON_NAME_DELIMITERS)
    if encodings is None and b"\x1b" in raw:
        raise _NotPlain
    return raw.decode(codec, "replace")


# pydicom ------------------------------------------------------------------------------------------------------------


def decode_with_pydicom(data: bytes, transfer_syntax: str, assume_character_set: str = "") -> Identifier:
    """The same through pydicom: sequences, undefined lengths, code extensions. Raises IdentifierError."""
    try:
        dataset = read_dataset(
            BytesIO(data), is_implicit_VR=transfer_syntax == ImplicitVRLittleEndian, is_little_endian=True
        )
        return _from_dataset(dataset, assumed_names(assume_character_set))
    except IdentifierError:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises whatever its parser ran into, values in the text
        raise IdentifierError from None


def _from_dataset(dataset: Dataset, inherited: tuple[str, ...]) -> Identifier:
    elements: dict[int, Values] = {}
    names = inherited
    encodings = character_set_encodings(inherited)
    for tag in list(dataset.keys()):
        raw: Any = dataset.get_item(tag)
        number = int(tag)
        if number & 0xFFFF == 0 or number >> 16 == 0xFFFE:
            continue
        vr = raw.VR or vr_of(number)
        if vr == "UN":
            vr = vr_of(number)
        if vr == "SQ" or not isinstance(raw, RawDataElement):
            elements[number] = tuple([_from_dataset(item, names) for item in dataset[tag].value or ()])
            continue
        value = raw.value or b""
        if raw.length not in {_UNDEFINED, len(value)}:
            raise IdentifierError
        kind = _KIND_OF_VR.get(vr)
        if (
            kind is None and vr.isascii() and vr.isupper()
        ):  # a VR that nobody knows: the attribute is known all the same
            kind = _KIND_OF_VR.get(vr_of(number))
        if kind is None:
            raise IdentifierError
        elements[number] = _values(kind, value, encodings[0], encodings)
        if number == _CHARACTER_SET:
            names = tuple(str(name) for name in elements[number]) or inherited
            encodings = character_set_encodings(names)
    return Identifier(elements)


def character_set_encodings(names: tuple[str, ...]) -> list[str]:
    """The Python codecs of a Specific Character Set; what names none is the default, as an error of the peer's."""
    if len(names) == 1 and names[0] in CODECS:
        return [CODECS[names[0]]]
    try:
        return [codec if _is_text_codec(codec) else _DEFAULT for codec in convert_encodings(list(names))] or [_DEFAULT]
    except (LookupError, ValueError):
        return [_DEFAULT]


def _is_text_codec(codec: str) -> bool:
    try:
        return b"A".decode(codec) == "A"
    except (LookupError, ValueError):
        return False
