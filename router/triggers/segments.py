"""Segments of an HL7 message, and the attributes that stand in them. Pure.

A value that the examination cannot do without is refused where it is unusable; any other then counts as not given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import hl7

from router.domain.dicom import Identifier, is_uid, known_tag, vr_of
from router.domain.hl7 import ERROR, KEYS, Acknowledgement, Hl7Path
from router.domain.safety import refusal
from router.triggers.header import Separators

MAXIMUM_LENGTH = 1024
"""Characters of a value."""
_MAXIMUM_RAW = 4 * MAXIMUM_LENGTH
"""Characters of a value with its escape sequences."""
_MAXIMUM_PARTS = 100
"""Repetitions of a field, and components of one, that are looked at: orders read what they share again and again."""

_NULL = '""'
"""What says that a value is to be deleted (HL7 2.5.1 section 2.5.3)."""
_LAYOUT = {"H": "", "N": "", ".br": " ", ".sp": " "}
"""Escape sequences of formatted text, and what is left of them."""
_TIMESTAMP = re.compile(r"([0-9]{8}(?:[0-9]{2}){0,3})(?:\.[0-9]+)?([+-][0-9]{4})?\Z")
_START = ("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime")
_PATIENT = ("PatientID", "IssuerOfPatientID")
_PREFERRED = ("MR", "PI")
"""Identifier types (HL7 table 0203) by which archives know a patient: medical record number, internal identifier."""
_SEXES = ("M", "F", "O")
_FORBIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")

Repetition = Sequence[Sequence[str]]
"""Components, each of subcomponents."""


class Refused(Exception):
    """The message is not taken; `acknowledgement` says why."""

    def __init__(self, acknowledgement: Acknowledgement) -> None:
        super().__init__(acknowledgement.reason)
        self.acknowledgement = acknowledgement


def unusable(reason: str) -> Refused:
    """A value that cannot be worked with."""
    return Refused(Acknowledgement(code=ERROR, reason=reason, condition=102, word="unusable-value"))


def missing(reason: str) -> Refused:
    """A value that is required and not there."""
    return Refused(Acknowledgement(code=ERROR, reason=reason, condition=101, word="missing-field"))


class Identity(NamedTuple):
    """A patient ID (CX)."""

    patient_id: str
    issuer: str
    kind: str


class Segment(NamedTuple):
    """A segment as the library parsed it."""

    name: str
    content: Any

    def repetitions(self, field: int) -> Iterator[Repetition]:
        """The repetitions of a field."""
        if field < len(self.content):
            for repetition in islice(self.content[field], _MAXIMUM_PARTS):
                if isinstance(repetition, str):
                    yield ((repetition,),)
                else:
                    parts = islice(repetition, _MAXIMUM_PARTS)
                    yield tuple((part,) if isinstance(part, str) else tuple(part) for part in parts)


Step = list[Segment]
"""The segments of which one order consists."""


class Reader:
    """Reads values from the segments of one message."""

    def __init__(
        self,
        kind: str,
        separators: Separators,
        codec: str,
        zone: ZoneInfo,
        fields: Mapping[str, Sequence[Hl7Path]],
    ) -> None:
        """`kind`: the message type; `zone`: of what comes out, and of what comes in without an offset."""
        self._keys = KEYS.get(kind, ())
        self._codec = codec
        self._zone = zone
        self._fields = fields
        self._texts = {_NULL: ""}
        """What was decoded, for orders share much."""
        mark = re.escape(separators.escape)
        self._escape = re.compile(f"{mark}([^{mark}]*){mark}")
        self._meanings = {**dict(zip("FSRET", separators, strict=True)), **_LAYOUT}

    @property
    def segments(self) -> frozenset[str]:
        """The segments from which values are taken."""
        places = [path for paths in self._fields.values() for path in paths]
        places += [part for _, parts in self._keys for part in parts if isinstance(part, Hl7Path)]
        return frozenset(path.segment for path in places)

    def first(self, paths: Sequence[Hl7Path], step: Sequence[Segment]) -> str:
        """The first value that is filled in, by path, segment and repetition. Raises Refused for an unusable one."""
        return next(
            (text for path, repetition in _places(paths, step) if (text := self._leaf(repetition, path))),
            "",
        )

    def identities(self, paths: Sequence[Hl7Path], step: Sequence[Segment]) -> list[Identity]:
        """The patient IDs that can be asked for, at least one. Raises Refused.

        Where some are of a preferred type the others do not count: they are known elsewhere, as other patients' even.
        """
        found = [
            Identity(text, self._issuer(path, repetition, step), self._part(repetition, 5).upper())
            for path, repetition in _places(paths, step)
            if (text := self._leaf(repetition, path))
        ]
        if not found:
            raise missing(f"The patient ID is missing ({paths[0].segment}-{paths[0].field}).")
        preferred = [one for one in found if one.kind in _PREFERRED] or found
        good = [one for one in preferred if not refusal(one.patient_id)]
        if not good:
            raise unusable(f"The patient ID cannot be used in a query ({refusal(preferred[0].patient_id)}).")
        if any(one.issuer and refusal(one.issuer) for one in good):
            raise unusable("The issuer of the patient ID cannot be used in a query.")
        return good

    def patient(self, step: Sequence[Segment]) -> list[Identity]:
        """See `identities`: whom a step is about."""
        return self.identities(self._fields["PatientID"], step)

    def examination(self, step: Sequence[Segment], *, lenient: bool) -> Identifier:
        """What a step says of the examination. With `lenient` an unusable start counts as none. Raises Refused."""
        patient = self.patient(step)[0]
        texts = dict(zip(_PATIENT, patient, strict=False))
        items: dict[int, tuple[str | Identifier, ...]] = {}
        for keyword, paths in self._fields.items():
            kind = vr_of(known_tag(keyword))
            if keyword in _PATIENT:
                continue
            if keyword == _START[0]:
                texts |= zip(_START, self._start(self.first(paths, step), lenient=lenient), strict=True)
            elif kind == "SQ":
                items[known_tag(keyword)] = tuple(self._codes(paths, step))
            elif kind == "PN":
                texts[keyword] = next(filter(None, (self._person(*place) for place in _places(paths, step))), "")
            else:
                texts[keyword] = _usable(keyword, kind, self.first(paths, step))
        elements = items | {known_tag(keyword): (text,) for keyword, text in texts.items() if text}
        return Identifier({tag: values for tag, values in elements.items() if values})

    def key(self, step: Sequence[Segment], examination: Identifier) -> str:
        """What makes it the same order again, see KEYS; empty where nothing does."""
        for kind, parts in self._keys:
            values = [examination.text(part) if isinstance(part, str) else self.first((part,), step) for part in parts]
            if values[0]:
                # No value holds a control character: nothing else comes out the same.
                return f"{kind} " + "\t".join(values)
        return ""

    # values -----------------------------------------------------------------------------------------------------

    def _text(self, raw: str) -> str:
        known = self._texts.get(raw)
        if known is not None:
            return known
        text = self._escape.sub(self._unescaped, raw).strip() if len(raw) <= _MAXIMUM_RAW else raw
        if len(text) > MAXIMUM_LENGTH:
            raise unusable(f"A value is longer than {MAXIMUM_LENGTH} characters.")
        if not text.isprintable() and any(unicodedata.category(one) in _FORBIDDEN for one in text):
            raise unusable("A value holds control characters.")
        self._texts[raw] = text
        return text

    def _unescaped(self, match: re.Match[str]) -> str:
        """An escape sequence (HL7 2.5.1 section 2.7). What is not known stays as it is.

        Not by the library: that repeats a layout as often as the message says, and logs what it cannot decode.
        """
        sequence = match[1]
        if sequence[:1] == "X":
            try:
                return bytes.fromhex(sequence[1:]).decode(self._codec)
            except ValueError:
                return match[0]
        return self._meanings.get(sequence, match[0])

    def _part(self, repetition: Repetition, component: int, subcomponent: int = 0) -> str:
        """A component's (first) subcomponent; the standard's rule is that what is absent is empty."""
        parts = repetition[component - 1] if component <= len(repetition) else ()
        number = subcomponent or 1
        return self._text(parts[number - 1]) if number <= len(parts) else ""

    def _leaf(self, repetition: Repetition, path: Hl7Path) -> str:
        if path.component:
            return self._part(repetition, path.component, path.subcomponent)
        parts = (self._part(repetition, number) for number in range(1, len(repetition) + 1))
        return "^".join(parts).rstrip("^")[:MAXIMUM_LENGTH]

    def _issuer(self, path: Hl7Path, repetition: Repetition, step: Sequence[Segment]) -> str:
        """Who issued a patient ID: CX-4 of the same repetition, or wherever it is said to stand."""
        places = self._fields["IssuerOfPatientID"]
        beside = next((place for place in places if place[:2] == path[:2]), None)
        if beside is not None:
            return self._leaf(repetition, beside)
        if path.segment == "MRG":
            return self._part(repetition, 4)
        return self.first(places, step)

    def _start(self, text: str, *, lenient: bool) -> tuple[str, str]:
        day, time = moment(text, self._zone)
        if text and not day and not lenient:
            raise unusable("The start of the examination is not a date and time.")
        return day, time

    def _codes(self, paths: Sequence[Hl7Path], step: Sequence[Segment]) -> list[Identifier]:
        """The codes at the first of these paths that has any: three components each (CE, CWE)."""
        for path in paths:
            first = path.component or 1
            found = [
                dict(zip(_CODE, texts, strict=True))
                for _, repetition in _places((path,), step)
                if any(texts := [self._part(repetition, first + one) for one in (0, 2, 1)])
            ]
            if found:
                return [Identifier.of(**{name: text for name, text in one.items() if text}) for one in found]
        return []

    def _person(self, path: Hl7Path, repetition: Repetition) -> str:
        """A name: XPN and XCN have the suffix before the prefix, PN (PS3.5 section 6.2.1) after it."""
        first = path.component or 1
        parts = (self._part(repetition, first + one).replace("^", " ") for one in (0, 1, 2, 4, 3))
        return "^".join(parts).rstrip("^")


def _places(paths: Sequence[Hl7Path], step: Sequence[Segment]) -> Iterator[tuple[Hl7Path, Repetition]]:
    for path in paths:
        for segment in step:
            if segment.name == path.segment:
                for repetition in segment.repetitions(path.field):
                    yield path, repetition


def _usable(keyword: str, kind: str, text: str) -> str:
    """A value as its value representation wants it; empty where that cannot be."""
    if keyword == "PatientSex":
        return text.upper() if text.upper() in _SEXES else ""
    if kind == "DA":
        return _day(text[:8])
    if kind == "UI":
        return text if is_uid(text) else ""
    return text.upper() if kind == "CS" else text


def _day(text: str) -> str:
    try:
        return f"{date(int(text[:4]), int(text[4:6]), int(text[6:8])):%Y%m%d}" if _TIMESTAMP.match(text) else ""
    except ValueError:
        return ""


def moment(text: str, zone: ZoneInfo) -> tuple[str, str]:
    """Date and time (DA, TM) of a timestamp (HL7 DTM or TS) on the clocks of a zone.

    A date alone gives no time; what is no date, or less than one, gives neither.
    """
    match = _TIMESTAMP.match(text)
    if match is None or not _day(match[1][:8]):
        return "", ""
    digits, offset = match[1], match[2]
    if len(digits) == 8:
        return digits, ""
    try:
        at = datetime.strptime(digits.ljust(14, "0") + (offset or "+0000"), "%Y%m%d%H%M%S%z")
        local = at.astimezone(zone) if offset else at
    except (ValueError, OverflowError):
        return "", ""
    return f"{local.year:04}{local:%m%d}", f"{local:%H%M%S}"


def segments_of(parsed: Sequence[Any]) -> Step:
    """The segments of a message that the library parsed."""
    return [Segment(str(one[0]), one) for one in parsed if isinstance(one, hl7.Segment) and one]
