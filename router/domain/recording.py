"""A recorded sweep: what a source answered, with everything replaced that points to a person or an institution. Pure.

The same value has the same replacement everywhere, made with a key (HMAC-SHA-256): who does not have the key cannot go
back, nor try values out. What becomes of which value says `router.domain.confidential`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from router.domain.clause import Clause
from router.domain.confidential import HEAD, Fate, fate, folded, is_lost, is_replaced, looked_for, spelled, written
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag, name_of, tag_of, vr_of
from router.domain.key import KeyMatch
from router.domain.levels import asked_at
from router.domain.rule import Rule
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
    rule: str = ""
    """Name of the rule whose sweep was asked; empty: keys that somebody gave."""
    kept: tuple[str, ...] = ()
    """The attributes that are as they were although a recording replaces them, by name."""

    @property
    def has_whole_series(self) -> bool:
        """Where it has series of a study, it has all of them: they were asked for without a key."""
        return all(asked_at(tag) is QueryRetrieveLevel.STUDY for tag, values in self.keys.elements.items() if values)

    def loses(self, tag: int) -> bool:
        """Whether its values of an attribute are replacements, which say nothing to a rule."""
        return is_lost(tag) and name_of(tag) not in self.kept

    @property
    def zone(self) -> ZoneInfo:
        """The source's time zone."""
        return ZoneInfo(self.timezone)


def calculable(moment: datetime) -> bool:
    """Whether every date that rules count from a moment lies in the calendar: they count 500 years at most."""
    return 1000 <= moment.year < 9000


def named(prefix: str, rows: Iterable[Identifier]) -> dict[str, Identifier]:
    """Rows by names that count from 1."""
    return {f"{prefix}-{number}": row for number, row in enumerate(rows, 1)}


def asked_for(recording: Recording, question: Identifier, fulfilled: frozenset[int] = frozenset()) -> bool:
    """Whether the recording has all that the source would answer to a question, as far as its keys tell.

    What it was asked of series counts only where the question is about series as well; `fulfilled` are asked alike.
    """
    of_series = _SERIES_INSTANCE_UID in question.elements
    for tag, values in recording.keys.elements.items():
        theirs = question.elements.get(tag, ())
        if tag in fulfilled or not any(values) or (theirs and set(theirs) <= set(values)):
            continue
        if asked_at(tag) is not QueryRetrieveLevel.STUDY and not of_series:
            continue
        if tag != _STUDY_DATE or not theirs or not all(_within(one, values) for one in theirs):
            return False
    return True


def fulfilled_by(recording: Recording, rule: Rule) -> frozenset[int]:
    """The keys of a rule that ask for what is replaced, and that the recording was asked with: all of it fulfils them.

    That is known of the rule that it was made by, and taken for granted of keys that somebody gave, as many values.
    """
    asked = recording.keys.elements
    return frozenset(
        key.tag
        for key in _lost_keys(recording, rule)
        if recording.rule in ("", rule.name) and len(set(asked.get(key.tag, ()))) == len({v.text for v in key.values})
    )


def unknowable(recording: Recording, rule: Rule) -> Iterator[str]:
    """What a replay cannot say of a rule, as the rule looks at what is replaced: sentences."""
    given = fulfilled_by(recording, rule)
    if given:
        names = ", ".join(sorted(map(name_of, given)))
        yield f"The rule {rule.name} asks for {names}, which a recording replaces: it counts as fulfilled here."
    seen = {clause.path[-1] for clause in rule.where.clauses if _judges(clause)}
    lost = {tag for tag in seen if recording.loses(tag)} | {key.tag for key in _lost_keys(recording, rule)} - given
    if lost:
        names = ", ".join(sorted(map(name_of, lost)))
        yield (
            f"The rule {rule.name} looks at {names}, which a recording replaces: "
            "what it says of that is not what the source's rows would give."
        )


def _lost_keys(recording: Recording, rule: Rule) -> list[KeyMatch]:
    keys = rule.sweep.keys if rule.sweep is not None else ()
    return [key for key in keys if key.values and recording.loses(key.tag)]


def _judges(clause: Clause) -> bool:
    """Whether a clause looks at values: that there is one is the same after it was replaced, unless it is left out."""
    left_out = clause.exists is not None and vr_of(clause.path[-1]) in ("DT", "TM")
    return bool(clause.tests) or left_out or any(map(_judges, clause.denied))


def _within(one: str | Identifier, values: Iterable[str | Identifier]) -> bool:
    """Whether a day or range lies within one of these."""
    inner = parse_da_range(one) if isinstance(one, str) else None
    ranges = [found for value in values if isinstance(value, str) and (found := parse_da_range(value)) is not None]
    return inner is not None and any(first <= inner[0] and inner[1] <= last for first, last in ranges)


# what is replaced -----------------------------------------------------------------------------------------------------

UNIQUE = frozenset(map(known_tag, ("StudyInstanceUID", "SeriesInstanceUID", "PatientID")))
"""What a recording must have."""

_LONGEST_SHIFT = 365
_TRIES = 64


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
        found = {form for one in originals for form in self._identifiers(one)}
        self._values = {form for form in found if looked_for(form)}
        self._lengths: dict[str, list[int]] = {}
        """First letters -> the lengths of what begins with them, the longest first."""
        for length, head in sorted({(len(form), form[:HEAD]) for form in self._values}, reverse=True):
            self._lengths.setdefault(head, []).append(length)

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
        match fate(tag, value, self._keep):
            case Fate.STAYS:
                return value
            case Fate.SCRUBBED:
                return self._scrub(value)
            case Fate.DAY:
                return self._earlier(vr_of(tag), value) if self._shift else value
            case Fate.BIRTH:
                return self._birth(value)
            case Fate.GONE:
                return ""
            case kind:
                return self._replacement(_KINDS.get(kind, "text"), value)

    def _identifiers(self, original: Identifier) -> Iterator[str]:
        """The values that are replaced, as they are looked for."""
        for tag, values in original.elements.items():
            for value in values:
                if isinstance(value, Identifier):
                    yield from self._identifiers(value)
                    continue
                kind = fate(tag, value, self._keep)
                if is_replaced(tag) and kind not in (Fate.STAYS, Fate.SCRUBBED):
                    yield folded(value.strip(" \0"))
                if kind is Fate.NAME:
                    yield from (form for one in spelled(folded(value)) for form in written(one))

    def _replacement(self, kind: str, value: str) -> str:
        """What always stands for a value; other than any original, and without one in it."""
        value = value.strip(" \0").rstrip("^")
        found = self._known.get((kind, value))
        if found is None:
            for number in range(_TRIES):
                found = _MADE[kind](self._digest(kind, value, number))
                if found not in self._taken and not self._within(folded(found)):
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
                place = self._within(folded(found))
                if place is None:
                    break
                found = found[: place[0]] + self._replacement("text", found[slice(*place)]) + found[place[1] :]
            else:
                found = self._replacement("text", text)
            self._scrubbed[text] = found
            self.in_texts += found != text
        return found

    def _within(self, text: str) -> tuple[int, int] | None:
        """Where an original stands in a text, as a slice; the longest first."""
        best: tuple[int, int] | None = None
        for start in range(len(text) - HEAD + 1):
            for length in self._lengths.get(text[start : start + HEAD], ()):
                if best is not None and length <= best[1] - best[0]:
                    break
                if text[start : start + length] in self._values:
                    best = start, start + length
                    break
        return best


_KINDS = {Fate.NAME: "name", Fate.UID: "uid"}
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
    """The attributes of a recording that have values which are replaced or left out, by name."""
    return sorted({name_of(tag) for one in identifiers_of(recording) for tag in _replaced(one, keep)})


def _replaced(one: Identifier, keep: frozenset[int]) -> Iterator[int]:
    for tag, values in one.elements.items():
        for value in values:
            if isinstance(value, Identifier):
                yield from _replaced(value, keep)
            elif fate(tag, value, keep) not in (Fate.STAYS, Fate.SCRUBBED, Fate.DAY):
                yield tag
