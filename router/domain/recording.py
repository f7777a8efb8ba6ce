"""A recorded sweep: what a source answered, with everything replaced that points to a person or an institution. Pure.

PS3.15 table E.1-1 names the attributes; what a C-FIND may bring beside them is replaced unless it is known to be
harmless, so that an attribute nobody thought of is no leak. The same value has the same replacement everywhere, made
with a key (HMAC-SHA-256): who does not have the key cannot go back, nor try values out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from router.domain.attributes import identifying
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag, name_of, tag_of, vr_of
from router.domain.levels import asked_at
from router.domain.timing import parse_da, parse_da_range

_STUDY_DATE = known_tag("StudyDate")
_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")

Series = Mapping[str, Mapping[str, Identifier]]


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What a source answered at a moment."""

    source: str
    """Name of the node."""
    recorded_at: datetime
    """Aware; a replay takes it for now."""
    timezone: str
    """IANA name of the source's."""
    keys: Identifier
    """The matching keys that it was asked with; where a list was asked value by value, each value."""
    returned: tuple[str, ...]
    """The attributes that were asked back, keys included."""
    studies: Mapping[str, Identifier]
    """By names that count from `study-1`, in the order of the answer."""
    series: Series = {}
    """Study -> its series by names that count from `series-1`; of others they were not asked for."""
    complete: bool = True
    shifted: bool = False
    """All dates, and `recorded_at`, lie so many weeks before the true ones, nobody says how many."""

    @property
    def has_whole_series(self) -> bool:
        """Where it has series of a study, it has all of them: they were asked for without a key."""
        return all(asked_at(tag) is QueryRetrieveLevel.STUDY for tag, values in self.keys.elements.items() if values)

    @property
    def zone(self) -> ZoneInfo:
        """The source's time zone."""
        return ZoneInfo(self.timezone)


def named(prefix: str, rows: Iterable[Identifier]) -> dict[str, Identifier]:
    """Rows by names that count from 1."""
    return {f"{prefix}-{number}": row for number, row in enumerate(rows, 1)}


def asked_for(recording: Recording, question: Identifier) -> bool:
    """Whether the recording has all that the source would answer to a question, as far as its keys tell.

    What it was asked of series counts only where the question is about series as well.
    """
    of_series = _SERIES_INSTANCE_UID in question.elements
    for tag, values in recording.keys.elements.items():
        theirs = question.elements.get(tag, ())
        if not any(values) or (theirs and set(theirs) <= set(values)):
            continue
        if asked_at(tag) is not QueryRetrieveLevel.STUDY and not of_series:
            continue
        if tag != _STUDY_DATE or not theirs or not all(_within(one, values) for one in theirs):
            return False
    return True


def _within(one: str | Identifier, values: Iterable[str | Identifier]) -> bool:
    """Whether a day or range lies within one of these."""
    inner = parse_da_range(one) if isinstance(one, str) else None
    ranges = [found for value in values if isinstance(value, str) and (found := parse_da_range(value)) is not None]
    return inner is not None and any(first <= inner[0] and inner[1] <= last for first, last in ranges)


# what is replaced -----------------------------------------------------------------------------------------------------


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(map(known_tag, keywords.split()))


FREE_TEXTS = _tags("""
    StudyDescription SeriesDescription ProtocolName PerformedProcedureStepDescription RequestedProcedureDescription
    ScheduledProcedureStepDescription CodeMeaning""")
"""Texts that people type and rules match: they stay, but for the identifiers of the recording that stand in them."""

_HARMLESS = FREE_TEXTS | _tags("""
    SpecificCharacterSet TimezoneOffsetFromUTC CodeValue CodingSchemeDesignator CodingSchemeVersion LongCodeValue
    URNCodeValue Manufacturer ManufacturerModelName SoftwareVersions""")
_TEXT = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UN", "UR", "UT"})
"""Value representations that can hold anything."""
_DATED = frozenset({"DA", "DT", "TM"})
_PATIENT_GROUP = 0x0010
_STANDARD_UIDS = "1.2.840.10008."
"""Root of the UIDs that the standard itself defines (PS3.6 annex A): SOP classes, transfer syntaxes."""

UNIQUE = _tags("StudyInstanceUID SeriesInstanceUID PatientID")
"""What a recording must have."""

_FOUND_IN_TEXT = 4
"""Identifiers of so many characters are looked for within texts; shorter ones stand in too many words and numbers."""
_LONGEST_SHIFT = 365
_TRIES = 64


def is_replaced(tag: int) -> bool:
    """Whether the values of an attribute are replaced."""
    if tag in _HARMLESS:
        return False
    vr = vr_of(tag)
    if vr in _DATED:
        return tag >> 16 == _PATIENT_GROUP
    return vr in _TEXT or identifying(tag)


class Pseudonyms:
    """Replaces what identifies in one recording."""

    def __init__(
        self,
        key: bytes,
        originals: Iterable[Identifier],
        *,
        keep: frozenset[int] = frozenset(),
        drop: frozenset[int] = frozenset(),
        shift: int = 0,
    ) -> None:
        """`originals`: all that is to be replaced. `keep` stays as it is, `drop` is left out, `shift` is in weeks."""
        self._key = key
        self._keep = keep
        self._drop = drop
        self._shift = timedelta(weeks=shift)
        self._known: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()
        self._scrubbed: dict[str, str] = {}
        self.in_texts = 0
        """Different texts in which identifiers were replaced."""
        values = {value for one in originals for value in self._identifiers(one)}
        self._values = {value for value in values if len(value) >= _FOUND_IN_TEXT}
        self._lengths = sorted({len(value) for value in self._values}, reverse=True)

    def identifier(self, original: Identifier) -> Identifier:
        """The same attributes with what identifies replaced. What has no value goes on having none."""
        elements: dict[int, tuple[str | Identifier, ...]] = {}
        for tag, values in original.elements.items():
            if tag not in self._drop:
                replaced = (self._value(tag, value) for value in values)
                elements[tag] = tuple(value for value in replaced if not isinstance(value, str) or value)
        return Identifier(elements)

    def moment(self, moment: datetime, zone: ZoneInfo) -> datetime:
        """A moment, shifted as the dates are: the same time of day."""
        local = moment.astimezone(zone).replace(tzinfo=None) - self._shift
        return local.replace(tzinfo=zone) if self._shift else moment

    # values -----------------------------------------------------------------------------------------------------------

    def _value(self, tag: int, value: str | Identifier) -> str | Identifier:
        if isinstance(value, Identifier):
            return self.identifier(value)
        vr = vr_of(tag)
        if tag in self._keep or not self._replaces(tag, value):
            if vr in ("DA", "DT") and self._shift:
                return self._earlier(vr, value)
            return self._scrub(value) if tag in FREE_TEXTS | self._keep else value
        if vr in _DATED:
            return self._birth(value) if vr == "DA" else ""
        return self._replacement({"PN": "name", "UI": "uid"}.get(vr, "text"), value)

    def _replaces(self, tag: int, value: str) -> bool:
        if not value.strip(" \0") or (vr_of(tag) == "UI" and value.startswith(_STANDARD_UIDS)):
            return False
        return tag not in self._keep and is_replaced(tag)

    def _identifiers(self, original: Identifier) -> Iterator[str]:
        """The values that are replaced, as they are looked for."""
        for tag, values in original.elements.items():
            for value in values:
                if isinstance(value, Identifier):
                    yield from self._identifiers(value)
                elif self._replaces(tag, value):
                    yield _folded(value.strip(" \0"))

    def _replacement(self, kind: str, value: str) -> str:
        """What always stands for a value; other than any original, and without one in it."""
        value = value.strip(" \0").rstrip("^")
        found = self._known.get((kind, value))
        if found is None:
            for number in range(_TRIES):
                found = _MADE[kind](self._digest(kind, value, number))
                if found not in self._taken and not self._within(_folded(found)):
                    break
            assert found is not None
            self._taken.add(found)
            self._known[kind, value] = found
        return found

    def _birth(self, value: str) -> str:
        """A date some days off; empty for what is none."""
        day = parse_da(value.strip())
        if day is None:
            return ""
        shifted = value
        for number in range(_TRIES):
            digest = int.from_bytes(self._digest("birth", value, number)[:4])
            days = digest % _LONGEST_SHIFT + 1
            try:
                shifted = f"{day + timedelta(days=days if digest & 1 << 31 else -days):%Y%m%d}".rjust(8, "0")
            except OverflowError:
                continue
            if shifted not in self._values:
                break
        return shifted

    def _earlier(self, vr: str, value: str) -> str:
        """A DA or DT value, or a range of days, earlier by the shift; what is none stays out."""
        value = value.strip()
        day, rest = parse_da(value), ""
        if vr == "DA" and day is None and "-" in value:
            return "-".join(self._earlier(vr, end) if end else "" for end in value.split("-"))
        if vr == "DT" and day is None:
            day, rest = parse_da(value[:8]), value[8:]
        try:
            return f"{day - self._shift:%Y%m%d}".rjust(8, "0") + rest if day is not None else ""
        except OverflowError:
            return ""

    def _digest(self, kind: str, value: str, number: int) -> bytes:
        return hmac.digest(self._key, f"{kind}\0{number}\0{value}".encode(), hashlib.sha256)

    # texts ------------------------------------------------------------------------------------------------------------

    def _scrub(self, text: str) -> str:
        """A text that stays, without the recording's identifiers."""
        found = self._scrubbed.get(text)
        if found is None:
            found = text
            for _ in range(_TRIES):
                place = self._within(_folded(found))
                if place is None:
                    break
                found = found[: place[0]] + self._replacement("text", found[slice(*place)]) + found[place[1] :]
            self._scrubbed[text] = found
            self.in_texts += found != text
        return found

    def _within(self, text: str) -> tuple[int, int] | None:
        """Where an original stands in a text, as a slice; the longest first."""
        for length in self._lengths:
            for start in range(len(text) - length + 1):
                if text[start : start + length] in self._values:
                    return start, start + length
        return None


def _folded(text: str) -> str:
    """A text for comparison, letter by letter, so that it stays as long as it is: capital letters do not matter."""
    return "".join(lower if len(lower := letter.lower()) == 1 else letter for letter in text)


_MADE = {
    "text": lambda digest: f"ID{digest[:6].hex().upper()}",
    "name": lambda digest: f"Name^{digest[:6].hex().upper()}",
    "uid": lambda digest: f"2.25.{int.from_bytes(digest[:8]) | 1 << 63}",
}
"""Replacements that fit every value representation of their kind (PS3.5 section 6.2: SH has 16 characters)."""


def pseudonymous(recording: Recording, pseudonyms: Pseudonyms, drop: frozenset[int] = frozenset()) -> Recording:
    """The recording with its identifiers replaced."""
    return msgspec.structs.replace(
        recording,
        recorded_at=pseudonyms.moment(recording.recorded_at, recording.zone),
        keys=pseudonyms.identifier(recording.keys),
        returned=tuple(name for name in recording.returned if tag_of(name) not in drop),
        studies={name: pseudonyms.identifier(row) for name, row in recording.studies.items()},
        series={
            study: {name: pseudonyms.identifier(row) for name, row in below.items()}
            for study, below in recording.series.items()
        },
    )


def identifiers_of(recording: Recording) -> Iterator[Identifier]:
    """Everything in a recording that may hold an identifier."""
    yield recording.keys
    yield from recording.studies.values()
    for below in recording.series.values():
        yield from below.values()


def replaced_in(recording: Recording, keep: frozenset[int]) -> list[str]:
    """The attributes of a recording that have values which are replaced, by name."""
    tags = {
        tag
        for one in identifiers_of(recording)
        for tag, values in one.elements.items()
        if values and tag not in keep and is_replaced(tag)
    }
    return sorted(map(name_of, tags))
