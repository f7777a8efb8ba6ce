"""MSH, the head of an HL7 message, taken from its bytes before anything else is known of it. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*(?=MSH)")
"""What may stand before it: a byte order mark, blanks."""
_END = re.compile(rb"[\r\n]")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]{2,6}\Z")
_USUAL = "|^~\\&"


class Separators(NamedTuple):
    """The delimiters of a message (HL7 2.5.1 section 2.5.4), each another character."""

    field: str
    component: str
    repetition: str
    escape: str
    subcomponent: str


USUAL = Separators(*_USUAL)


class Header(NamedTuple):
    """MSH as it came, byte for character (ISO 8859-1): what is only handed back need not be understood."""

    separators: Separators
    encoding_characters: str
    """MSH-2."""
    fields: tuple[str, ...]

    def field(self, number: int) -> str:
        """MSH-`number`, with its separators and escapes; empty where absent. Numbers from 2."""
        return self.fields[number - 1] if number <= len(self.fields) else ""

    def component(self, number: int, component: int) -> str:
        """A component of the first repetition of a field."""
        repetition = self.field(number).split(self.separators.repetition)[0]
        components = repetition.split(self.separators.component)
        return components[component - 1].strip() if component <= len(components) else ""


def header(data: bytes) -> Header | None:
    """The header of a message (or of its beginning); None where there is none that makes sense.

    Separators other than the usual ones are the message's own choice, but must be punctuation and differ.
    """
    start = _START.match(data)
    if start is None:
        return None
    end = _END.search(data, start.end())
    line = data[start.end() : end.start() if end else len(data)].decode("latin-1")
    fields = line.split(line[3:4] or "|")
    if fields[0] != "MSH" or len(fields) < 3:
        return None
    own = line[3] + fields[1]
    if not _PUNCTUATION.match(own):
        return None
    separators = Separators(*(own[:5] + _USUAL[len(own[:5]) :]))
    if len({*separators, *own}) != max(len(own), len(separators)):
        return None
    return Header(separators, fields[1], tuple(fields))
