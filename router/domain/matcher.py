"""How one value of an attribute is compared: by its value representation (PS3.5 section 6.2), never by its looks.

Ordered values are spans from the lowest to the highest that a text of some precision may mean (`2024` hours, whole
days): a comparison holds if any value of the span satisfies it. Everything is parsed and compiled at load.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from pydicom.datadict import keyword_for_tag, tag_for_keyword

from router.domain.dicom import Identifier, vr_of
from router.domain.problem import ExpressionError, Kind
from router.domain.timing import DAY, WHOLE_DAY, DateExpression, Span, moments, parse_da, parse_tm

NUMERIC = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"})
BINARY = frozenset({"OB", "OW", "OF", "OD", "OL", "OV"})
WILDCARD = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
"""Representations in which `*` and `?` are wildcards of C-FIND (PS3.4 section C.2.2.2.4)."""


class Evaluation(NamedTuple):
    """The present, in which date expressions are evaluated: `now` is aware, `zone` that of the source."""

    now: datetime
    zone: tzinfo


class Range(NamedTuple):
    """The lowest and highest value something may mean, both included."""

    low: Any
    high: Any


Read = Callable[[str, Identifier, Evaluation], Range | None]
"""Makes a value comparable, given the data set it stands in; None where it is malformed."""


class Operand(msgspec.Struct, frozen=True):
    """What a value is compared with: fixed, or a date expression."""

    text: str
    fixed: Range | None = None
    dates: DateExpression | None = None

    def at(self, evaluation: Evaluation, by_day: bool = False) -> Range:
        """Its range at that moment: of local days, or of moments."""
        if self.dates is not None:
            resolved = self.dates.resolve(*evaluation)
            return Range(resolved.first, resolved.last) if by_day else Range(resolved.start, resolved.end)
        return self.fixed or Range(self.text, self.text)


# --- Ages, numbers, text ----------------------------------------------------------------------------------------------

_AS = re.compile(r"([0-9]{1,3})([DWMY])\Z")
_AGE_DAYS = {"D": Decimal(1), "W": Decimal(7), "M": Decimal("30.4375"), "Y": Decimal("365.25")}
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\Z")


def parse_age(value: str) -> Range | None:
    """An AS value in days: `012Y`, `18M`; a year has 365.25 days, a month a twelfth of that."""
    match = _AS.match(value.upper())
    if match is None:
        return None
    days = int(match[1]) * _AGE_DAYS[match[2]]
    return Range(days, days)


def parse_number(value: str) -> Range | None:
    """An IS, DS or binary number."""
    if len(value) > 32 or not _NUMBER.match(value):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return Range(number, number)


def normalize_name(value: str) -> str:
    """A person name for comparison: caseless, without trailing empty components (PS3.5 section 6.2.1)."""
    groups = unicodedata.normalize("NFC", value).casefold().split("=")
    return "=".join("^".join(part.strip() for part in group.split("^")).rstrip("^ ") for group in groups).rstrip("=")


def _read_text(value: str, _: Identifier, __: Evaluation) -> Range | None:
    return Range(value, value)


def _read_number(value: str, _: Identifier, __: Evaluation) -> Range | None:
    return parse_number(value)


def _read_age(value: str, _: Identifier, __: Evaluation) -> Range | None:
    return parse_age(value)


def _read_time(value: str, _: Identifier, __: Evaluation) -> Range | None:
    span = parse_tm(value)
    return Range(span.low, span.high) if span else None


def _read_name(value: str, _: Identifier, __: Evaluation) -> Range | None:
    name = normalize_name(value)
    return Range(name, name)


_OFFSET = re.compile(r"([+-])([0-9]{2})([0-5][0-9])\Z")
TIMEZONE_OFFSET_FROM_UTC = 0x00080201


@lru_cache(maxsize=64)
def parse_offset(value: str) -> tzinfo | None:
    """An offset from UTC as DT and Timezone Offset From UTC have it, `+0100`; None for what is none."""
    match = _OFFSET.match(value)
    if match is None or int(match[2]) >= 24:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))


def zone_of(container: Identifier, evaluation: Evaluation) -> tzinfo:
    """The zone of the times in a data set: its own offset where it gives one (PS3.3 section C.12.1.1.8)."""
    for value in container.elements.get(TIMEZONE_OFFSET_FROM_UTC, ()):
        own = parse_offset(value.strip()) if isinstance(value, str) else None
        return evaluation.zone if own is None else own
    return evaluation.zone


_DT = re.compile(r"([0-9]{4})([0-9]{2})?([0-9]{2})?([0-9]{2})?([0-9]{2})?([0-9]{2}(?:\.[0-9]{1,6})?)?([+-][0-9]{4})?\Z")


def read_datetime(value: str, container: Identifier, evaluation: Evaluation) -> Range | None:
    """A DT value (PS3.5 section 6.2), in the zone of its data set unless it names its own offset."""
    match = _DT.match(value)
    if match is None:
        return None
    day = parse_da(match[1] + (match[2] or "01") + (match[3] or "01"))
    span = parse_tm("".join(part or "" for part in match.group(4, 5, 6))) if match[4] else WHOLE_DAY
    if day is None or span is None:
        return None
    zone = parse_offset(match[7]) if match[7] else zone_of(container, evaluation)
    if zone is None:
        return None
    low, high = moments(day, span, zone)
    if not match[3]:  # precision of a month or a year
        month = day.month if match[2] else 12
        following = day.replace(day=28, month=month) + timedelta(days=4)
        high = moments(following - timedelta(days=following.day), WHOLE_DAY, zone)[1]
    return Range(low, high)


def time_of_date(tag: int) -> int | None:
    """The tag of the time that belongs to a date: StudyTime to StudyDate."""
    keyword = keyword_for_tag(tag)
    if not keyword.endswith("Date") or vr_of(tag) != "DA":
        return None
    time_tag = tag_for_keyword(keyword.removesuffix("Date") + "Time")
    return time_tag if time_tag is not None and vr_of(time_tag) == "TM" else None


def span_of(container: Identifier, time_tag: int | None) -> Span | None:
    """The time of day a data set gives for a date; None where it gives none."""
    for value in container.elements.get(time_tag, ()) if time_tag is not None else ():
        return parse_tm(value.strip()) if isinstance(value, str) else None
    return None


def day_reader(value: str, _: Identifier, __: Evaluation) -> Range | None:
    """Reads a DA value as a local day, for comparisons in which no time of day counts."""
    day = parse_da(value)
    return Range(day, day) if day else None


def date_reader(tag: int, timed: bool) -> Read:
    """Reads a DA value as a range of moments; with the time beside it where the time of day matters."""
    time_tag = time_of_date(tag) if timed else None

    def read(value: str, container: Identifier, evaluation: Evaluation) -> Range | None:
        day = parse_da(value)
        if day is None:
            return None
        return Range(*moments(day, span_of(container, time_tag) or WHOLE_DAY, zone_of(container, evaluation)))

    return read


def reader(tag: int, timed: bool = False) -> Read:
    """How values of an attribute are read for comparison."""
    vr = vr_of(tag)
    if vr == "DA":
        return date_reader(tag, timed)
    return _READERS.get(vr, _read_number if vr in NUMERIC else _read_text)


_READERS: dict[str, Read] = {"AS": _read_age, "TM": _read_time, "DT": read_datetime, "PN": _read_name}


# --- Operands ---------------------------------------------------------------------------------------------------------


def parse_operand(tag: int, text: str, ordered: bool = False) -> Operand:
    """Compile what an attribute is compared with; `ordered` if it is to be less or greater. Raises ExpressionError."""
    vr = vr_of(tag)
    if vr in ("DA", "DT"):
        dates = DateExpression.parse(text)
        check_order(dates)
        return Operand(text, dates=dates.as_moment() if ordered else dates)
    if vr == "TM":
        return Operand(text, fixed=parse_time_range(text))
    if vr == "PN":
        name = normalize_name(text)
        return Operand(text, fixed=Range(name, name))
    if vr == "AS":
        return Operand(text, fixed=_required(parse_age(text), f"{text!r} is no age", "for example 18Y, 6M, 2W or 10D"))
    if vr in NUMERIC:
        return Operand(text, fixed=_required(parse_number(text), f"{text!r} is no number, which this attribute holds"))
    return Operand(text)


def _required(value: Range | None, message: str, hint: str = "") -> Range:
    if value is None:
        raise ExpressionError(Kind.VALUE, message, hint)
    return value


def parse_time_range(text: str) -> Range:
    """`07:30`, `0730..1900`; over midnight if the first lies after the last. Raises ExpressionError."""
    left, dots, right = text.partition("..")
    ends = [parse_tm(part.strip()) for part in (left, right if dots else left)]
    if ends[0] is None or ends[1] is None:
        raise ExpressionError(Kind.VALUE, f"{text!r} is no time of day", "for example 07:30, 073000 or 07:00..19:00")
    low, high = ends[0].low, ends[1].high
    return Range(low, high if low <= high else high + DAY)


def check_order(dates: DateExpression) -> None:
    """Raises ExpressionError where a date range can never hold a day: from lies after to, whenever it is evaluated."""
    if dates.relative and (dates.first.day is not None or dates.last.day is not None):
        return  # one end moves: it may be empty one day and not another
    resolved = dates.resolve(datetime(2024, 7, 1, 12, tzinfo=UTC), UTC)
    if resolved.empty:
        raise ExpressionError(Kind.DATE_ORDER, f"the date range {dates.text!r} ends before it begins", "swap its ends")


# --- Comparisons ------------------------------------------------------------------------------------------------------

Comparison = Callable[[Range, Range], bool]

COMPARISONS: dict[str, Comparison] = {
    "equals": lambda value, operand: value.low <= operand.high and value.high >= operand.low,
    "gt": lambda value, operand: value.high > operand.high,
    "gte": lambda value, operand: value.high >= operand.low,
    "lt": lambda value, operand: value.low < operand.low,
    "lte": lambda value, operand: value.low <= operand.high,
}


def within_day(value: Range, operand: Range) -> bool:
    """`equals` for times of day, where an operand may run over midnight."""
    equals = COMPARISONS["equals"]
    return equals(value, operand) or (operand.high >= DAY and equals(Range(value.low + DAY, value.high + DAY), operand))
