"""Answers to HL7 messages (HL7 2.5.1 section 2.9.2, original mode): MSH, MSA and, where it was not taken, ERR. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from router.domain.hl7 import ACCEPT, CONDITIONS, Acknowledgement
from router.triggers.header import USUAL, Header, Separators

MAXIMUM_ECHO = 199
"""Characters of a field that is handed back: those of the longest control ID (HL7 2.9)."""

_MINIMAL = Header(USUAL, "".join(USUAL[1:]), ())
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EVENT = re.compile(r"[A-Za-z0-9]{1,8}\Z")


def encode(header: Header | None, acknowledgement: Acknowledgement, control_id: str, now: datetime) -> bytes:
    """The message that answers, without its frame. `control_id` is the answer's own (MSH-10).

    Sender and receiver are exchanged. What is handed back keeps the bytes, separators and character set it came with;
    where no header was understood there is nothing to hand back.
    """
    asked = header if header is not None else _MINIMAL
    marks = asked.separators
    event = asked.component(9, 2)
    kind = f"ACK{marks.component}{event}" if _EVENT.match(event) else "ACK"
    head = ["MSH", asked.encoding_characters]
    head += [_echo(asked, number) for number in (5, 6, 3, 4)]
    head += [f"{now:%Y%m%d%H%M%S}{now:%z}", "", kind, control_id]
    head += [_echo(asked, 11) or "P", _echo(asked, 12) or "2.5", *[""] * 5, _echo(asked, 18)]
    text = _escaped(acknowledgement.reason, marks)
    segments = [head, ["MSA", acknowledgement.code, _echo(asked, 10), text]]
    if acknowledgement.code != ACCEPT:
        condition = acknowledgement.condition or 207
        coded = marks.component.join((str(condition), CONDITIONS.get(condition, ""), "HL70357"))
        segments.append(["ERR", "", "", coded, "E", "", "", "", text])
    lines = (marks.field.join(segment).rstrip(marks.field) for segment in segments)
    return "".join(f"{line}\r" for line in lines).encode("latin-1", "replace")


def _echo(header: Header, number: int) -> str:
    return _CONTROL.sub("", header.field(number))[:MAXIMUM_ECHO]


def _escaped(text: str, marks: Separators) -> str:
    letters = {
        marks.field: "F",
        marks.component: "S",
        marks.repetition: "R",
        marks.escape: "E",
        marks.subcomponent: "T",
    }
    return "".join(
        f"{marks.escape}{letters[character]}{marks.escape}" if character in letters else character for character in text
    )
