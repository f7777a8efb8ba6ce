"""Text of requests into bytes of a Specific Character Set (PS3.5 section 6.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

from pydicom.charset import decode_bytes, encode_string

from router.dimse.identifier import CODECS, assumed_names, character_set_encodings
from router.domain.character_set import MULTI_BYTE

UTF_8 = "ISO_IR 192"

_DELIMITER = re.compile(r"([\^=])")
_ASCII = "ascii"
_TO_ASCII = b"\x1b(B"
_LEFT_OPEN = re.compile(rb"\x1b\$(?:[@B]|\(D)[^\x1b]*\Z")
"""Ends in a set of two bytes in the place of ASCII (JIS X 0208 or 0212): the next component must find ASCII there."""
_DELIMITERS = {ord("^"), ord("="), ord("\\")}


def encoder_for(character_set: str, texts: Iterable[str]) -> tuple[tuple[str, ...], Callable[[str], bytes]]:
    """The Specific Character Set for these texts, and what encodes them: the wanted one, else UTF-8.

    UTF-8 holds every text, but an archive may not know it; one whose answers come without a character set is likelier
    to understand the one they are in. It must hold every text exactly.
    """
    names = assumed_names(character_set)
    if any(names):
        encode = partial(_encode_one, names[0]) if len(names) == 1 else partial(_encode_extended, names)
        try:
            for text in texts:
                encode(text)
        except UnicodeError:
            pass
        else:
            return names, encode
    return (UTF_8,), partial(str.encode, encoding="utf-8")


def _encode_one(name: str, text: str) -> bytes:
    """Without code extensions. Raises UnicodeError where it does not hold the text."""
    encoded = text.encode(_strict(CODECS[name]))
    if name not in MULTI_BYTE and len(encoded) != len(text):  # the codec of ISO_IR 13 knows more than that set
        raise UnicodeError
    return encoded


def _encode_extended(names: tuple[str, ...], text: str) -> bytes:
    """With code extensions; each component of a name begins with the first set (PS3.5 section 6.1.2.5.3)."""
    encodings = [_strict(encoding) for encoding in character_set_encodings(names)]
    for character in text:
        if not any(_holds(encoding, character) for encoding in encodings):
            raise UnicodeError  # pydicom would put a question mark there
    encoded = b"".join(_encode_part(part, encodings) for part in _DELIMITER.split(text) if part)
    if decode_bytes(encoded, character_set_encodings(names), _DELIMITERS) != text:
        raise UnicodeError
    return encoded


def _encode_part(part: str, encodings: list[str]) -> bytes:
    encoded = encode_string(part, encodings)
    if encodings[0] == _ASCII and _LEFT_OPEN.search(encoded):
        encoded += _TO_ASCII
    return encoded


def _strict(encoding: str) -> str:
    """The default repertoire is ASCII; pydicom's codec for it, which is there for reading, holds more."""
    return _ASCII if encoding == CODECS["ISO_IR 6"] else encoding


def _holds(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeError:
        return False
    return True
