"""Whether an answer may have been cut short, and how its question is asked in parts that together cover it. Pure."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from enum import StrEnum
from typing import NamedTuple

from router.domain.dicom import Identifier, known_tag
from router.domain.timing import parse_da, parse_da_range, parse_tm

STUDY_DATE, STUDY_TIME = known_tag("StudyDate"), known_tag("StudyTime")
MODALITIES, ACCESSION = known_tag("ModalitiesInStudy"), known_tag("AccessionNumber")

CANCELLED, OUT_OF_RESOURCES = 0xFE00, 0xA700
SUSPICIOUS = frozenset({100, 200, 250, 300, 400, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 10_000, 20_000, 50_000})
"""Numbers at which archives cut their answers without saying so."""
FEW = 25
"""Fewer matches than this are no cap, however often they come."""


class Cut(StrEnum):
    """Whether an answer holds all matches."""

    NO = "no"
    MAYBE = "maybe"
    """Its number is suspicious; asking in parts shows whether there are more."""
    YES = "yes"


class Seen(NamedTuple):
    """What other questions to the same node brought before."""

    largest: int = 0
    """The most matches of any: a number below is no cap."""
    alike: bool = False
    """A question about something else brought just as many."""
    settled: bool = False
    """Just as many were looked into lately, and it was chance."""


def cut(status: int, count: int, *, configured: int | None, learned: int | None, seen: Seen) -> Cut:
    """Judge an answer by its final status and its number of matches.

    `configured`: `find.max_results` of the node (0: it never cuts, None: not known); `learned`: the number at which it
    was seen to cut.
    """
    if status != 0:
        return Cut.YES
    if configured is not None:
        return Cut.YES if 0 < configured <= count else Cut.NO
    if learned is not None and count <= learned:
        return Cut.YES if count == learned else Cut.NO
    if count < max(seen.largest, FEW):
        return Cut.NO
    # A round number is looked into each time: what was all a while ago may be the first so many of more by now.
    return Cut.MAYBE if count in SUSPICIOUS or (seen.alike and not seen.settled) else Cut.NO


class Dimension(StrEnum):
    """By what a question is divided; the words end a sentence `in parts by ...`."""

    DATE = "Study Date"
    MODALITY = "modality"
    TIME = "Study Time"
    ACCESSION = "Accession Number"


TAG_OF = {
    Dimension.DATE: STUDY_DATE,
    Dimension.MODALITY: MODALITIES,
    Dimension.TIME: STUDY_TIME,
    Dimension.ACCESSION: ACCESSION,
}


class Split(NamedTuple):
    """A question in parts. They cover it, but for studies without a value of the dimension's attribute."""

    dimension: Dimension
    parts: tuple[Identifier, ...]
    whole: bool = False
    """They cover it whatever the studies hold."""


def split(
    question: Identifier,
    rows: Sequence[Identifier],
    modalities: Sequence[str],
    unusable: frozenset[Dimension],
    *,
    balanced: bool = False,
) -> Split | None:
    """The parts in which to ask a question whose answer was cut; None where there is no way left.

    `rows` are the matches that came, `modalities` those that the asker wants though the question does not say so,
    `unusable` the dimensions by which the source does not match. `balanced`: the matches may well be all; they are to
    fall into both halves of a date range.
    """
    for dimension, divide in _DIVIDERS:
        if dimension not in unusable:
            found = divide(question, rows, modalities, balanced)
            if found is not None:
                return found
    return None


def outside(part: Identifier, dimension: Dimension, row: Identifier) -> bool:
    """Whether a match contradicts the part it is the answer to: the source does not match by that attribute."""
    tag = TAG_OF[dimension]
    wanted, values = _text(part, tag), [value for value in row.elements.get(tag, ()) if isinstance(value, str)]
    value = values[0].strip() if values else ""
    if not wanted or not value:
        return False
    match dimension:
        case Dimension.DATE:
            days, day = parse_da_range(wanted), parse_da(value)
            return days is not None and day is not None and not days[0] <= day <= days[1]
        case Dimension.TIME:
            span, time = _seconds(wanted), parse_tm(value)
            return (
                span is not None
                and time is not None
                and (time.high // 1_000_000 < span[0] or time.low // 1_000_000 > span[1])
            )
        case Dimension.MODALITY:
            return wanted not in values
        case Dimension.ACCESSION:
            return not (value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted)


def lacks(dimension: Dimension, row: Identifier) -> bool:
    """Whether a match has no value by which it could be found in a part."""
    return not any(row.elements.get(TAG_OF[dimension], ()))


def expected(division: Split, row: Identifier) -> bool:
    """Whether a match of the whole question must come back in one of its parts."""
    if division.dimension is not Dimension.MODALITY:
        return not lacks(division.dimension, row)
    values = row.elements.get(MODALITIES, ())
    return any(_text(part, MODALITIES) in values for part in division.parts)


_CONTROLS = {Dimension.DATE: "19000102", Dimension.TIME: "035901-035902", Dimension.ACCESSION: "~z~q~x*"}


def control(question: Identifier, dimension: Dimension) -> Identifier | None:
    """A question that has next to no match, if the source matches by the dimension; None where it is no help."""
    return _with(question, TAG_OF[dimension], _CONTROLS[dimension]) if dimension in _CONTROLS else None


COMMON_MODALITIES = ("CT", "MR", "US", "CR", "DX", "MG", "NM", "PT", "XA", "RF", "OT", "SR")


def by_common_modality(question: Identifier) -> tuple[Identifier, ...]:
    """Questions that find more of what cannot be divided, without covering it. None where it names a modality."""
    if _text(question, MODALITIES):
        return ()
    return tuple(_with(question, MODALITIES, one) for one in COMMON_MODALITIES)


# --- Study Date -------------------------------------------------------------------------------------------------------

_EARLIEST, _LATEST = date(1900, 1, 1), date(2099, 12, 31)


def _by_date(
    question: Identifier, rows: Sequence[Identifier], modalities: Sequence[str], balanced: bool
) -> Split | None:
    value = _text(question, STUDY_DATE)
    days = parse_da_range(value) if value else (_EARLIEST, _LATEST)
    if days is None or days[0] >= days[1]:
        return None
    first, last = days
    middle = first + (last - first) // 2
    if balanced or not value:
        seen = sorted(day for row in rows if (day := parse_da(_text(row, STUDY_DATE))) and first <= day < last)
        middle = seen[len(seen) // 2] if seen else middle
    halves = (first, middle), (middle + timedelta(days=1), last)
    return Split(
        Dimension.DATE, tuple(_with(question, STUDY_DATE, _range(*half)) for half in halves), whole=bool(value)
    )


def _range(first: date, last: date) -> str:
    return f"{first:%Y%m%d}" if first == last else f"{first:%Y%m%d}-{last:%Y%m%d}"


# --- Modalities in Study ----------------------------------------------------------------------------------------------


def _by_modality(
    question: Identifier, rows: Sequence[Identifier], modalities: Sequence[str], balanced: bool
) -> Split | None:
    if _text(question, MODALITIES) or len(modalities) < 2:
        return None
    parts = tuple(_with(question, MODALITIES, one) for one in dict.fromkeys(modalities))
    return Split(Dimension.MODALITY, parts, whole=True)  # the asker wants no others


# --- Study Time -------------------------------------------------------------------------------------------------------

_DAY_SECONDS = 86400


def _by_time(
    question: Identifier, rows: Sequence[Identifier], modalities: Sequence[str], balanced: bool
) -> Split | None:
    """Within one day only: date and time are matched independently of each other (PS3.4 section C.2.2.2.5).

    The halves share a second, so that no fraction of one lies between them.
    """
    days = parse_da_range(_text(question, STUDY_DATE))
    if days is None or days[0] != days[1]:
        return None
    value = _text(question, STUDY_TIME)
    span = _seconds(value) if value else (0, _DAY_SECONDS - 1)
    if span is None or span[1] - span[0] < 2:
        return None
    middle = (span[0] + span[1]) // 2
    halves = (span[0], middle), (middle, span[1])
    return Split(Dimension.TIME, tuple(_with(question, STUDY_TIME, _times(*half)) for half in halves))


def _times(first: int, last: int) -> str:
    end = _clock(last) + (".999999" if last == _DAY_SECONDS - 1 else "")
    return f"{_clock(first) if first else '00'}-{end}"  # archives that compare as text find 0000 before 000000


def _clock(second: int) -> str:
    return f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"


def _seconds(value: str) -> tuple[int, int] | None:
    first_text, dash, last_text = value.partition("-")
    first, last = parse_tm(first_text), parse_tm(last_text)
    return None if not dash or first is None or last is None else (first.low // 1_000_000, last.low // 1_000_000)


# --- Accession Number -------------------------------------------------------------------------------------------------

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase + "-_./#+"
_LONGEST = 16


def _by_accession(
    question: Identifier, rows: Sequence[Identifier], modalities: Sequence[str], balanced: bool
) -> Split | None:
    value = _text(question, ACCESSION)
    if value and not value.endswith("*"):
        return None
    prefix = value[:-1]
    if len(prefix) >= _LONGEST or "*" in prefix or "?" in prefix:
        return None
    if rows and all(lacks(Dimension.ACCESSION, row) for row in rows):
        return None
    seen = {text[len(prefix)] for row in rows if len(text := _text(row, ACCESSION)) > len(prefix)} - set("*?\\")
    parts = [_with(question, ACCESSION, f"{prefix}{one}*") for one in dict.fromkeys([*sorted(seen), *_ALPHABET])]
    if prefix:
        parts.append(_with(question, ACCESSION, prefix))
    return Split(Dimension.ACCESSION, tuple(parts))


_Divider = Callable[[Identifier, Sequence[Identifier], Sequence[str], bool], Split | None]
_DIVIDERS: tuple[tuple[Dimension, _Divider], ...] = (
    (Dimension.DATE, _by_date),
    (Dimension.MODALITY, _by_modality),
    (Dimension.TIME, _by_time),
    (Dimension.ACCESSION, _by_accession),
)


def _text(identifier: Identifier, tag: int) -> str:
    values = identifier.elements.get(tag, ())
    return values[0].strip() if values and isinstance(values[0], str) else ""


def _with(question: Identifier, tag: int, value: str) -> Identifier:
    return Identifier({**question.elements, tag: (value,)})
