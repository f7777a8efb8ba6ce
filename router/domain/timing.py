"""Durations, date expressions and schedules: parsed once, evaluated with a time and a zone handed in.

Units: durations are seconds. A zone is an IANA zone; moments are aware.
"""

from __future__ import annotations

import calendar
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from router.domain.cron import Cron, parse_cron
from router.domain.problem import ExpressionError, Kind

# --- Durations --------------------------------------------------------------------------------------------------------

DURATION_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,6})?(s|m|h|d|w|mo|y)$"
_DURATION = re.compile(DURATION_PATTERN.replace("[0-9]{1,9}(\\.[0-9]{1,6})?", "([0-9]{1,9}(?:\\.[0-9]{1,6})?)"))
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "mo": 30 * 86400, "y": 365 * 86400}
MAXIMUM_DURATION = 100 * 365 * 86400
"""Seconds; anything longer is a slip of the finger."""


def parse_duration(text: str) -> float:
    """Seconds of `90s 5m 2h 7d 3w 6mo 5y`. A month counts 30 days, a year 365. Raises ExpressionError."""
    match = _DURATION.match(text)
    if match is None or text.endswith("\n"):
        raise ExpressionError(
            Kind.VALUE, f"{text!r} is no duration", "a number and a unit: 90s, 5m, 2h, 7d, 3w, 6mo (months), 5y"
        )
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > MAXIMUM_DURATION:
        raise ExpressionError(Kind.VALUE, f"{text!r} is longer than 100 years")
    return seconds


# --- Values of the standard -------------------------------------------------------------------------------------------

_DA = re.compile(r"([0-9]{4})([.-]?)([0-9]{2})\2([0-9]{2})\Z")
_TM = re.compile(r"([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:\.([0-9]{1,6}))?)?)?\Z")
_SECOND = 1_000_000
DAY = 86400 * _SECOND
"""Microseconds of a day."""


class Span(NamedTuple):
    """Microseconds since midnight, both inclusive: what a time of some precision may mean."""

    low: int
    high: int


WHOLE_DAY = Span(0, DAY - 1)


@lru_cache(maxsize=8192)
def parse_da(value: str) -> date | None:
    """A DA value (PS3.5 section 6.2): `YYYYMMDD`, or with the dots or dashes old objects carry; None for others."""
    match = _DA.match(value)
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None


def parse_da_range(value: str) -> tuple[date, date] | None:
    """First and last day of a DA matching value: a day, or a range with both ends (PS3.4 section C.2.2.2.5)."""
    first_text, dash, last_text = value.partition("-")
    first, last = parse_da(first_text), parse_da(last_text if dash else first_text)
    return None if first is None or last is None else (first, last)


@lru_cache(maxsize=8192)
def parse_tm(value: str) -> Span | None:
    """A TM value (PS3.5 section 6.2) `HH[MM[SS[.F]]]`, colons allowed, as the span its precision leaves open."""
    match = _TM.match(value)
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2] or 0), min(int(match[3] or 0), 59)  # 60 is a leap second
    if hour > 23 or minute > 59 or int(match[3] or 0) > 60:
        return None
    low = ((hour * 60 + minute) * 60 + second) * _SECOND
    if match[4]:
        low += int(match[4].ljust(6, "0"))
        return Span(low, low + 10 ** (6 - len(match[4])) - 1)
    width = 1 if match[3] else 60 if match[2] else 3600
    return Span(low, low + width * _SECOND - 1)


def moments(day: date, span: Span, zone: tzinfo) -> tuple[datetime, datetime]:
    """First and last moment (UTC) that a local date and time may mean; an hour that comes twice means both.

    A time that was left out when clocks went forward means what it would have been by the clock before and after.
    """
    midnight = datetime.combine(day, time())
    low, high = midnight + timedelta(microseconds=span.low), midnight + timedelta(microseconds=span.high)
    first, last = _utc(low.replace(tzinfo=zone)), _utc(high.replace(tzinfo=zone, fold=1))
    if first <= last:
        return first, last
    return _utc(low.replace(tzinfo=zone, fold=1)), _utc(high.replace(tzinfo=zone))


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # within a day of year 1 or 9999, where no zone matters
        return moment.replace(tzinfo=UTC)


# --- Date expressions -------------------------------------------------------------------------------------------------

_BASE = re.compile(r"\s*(today|yesterday|now|[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2})")
_STEP = re.compile(r"\s*([+-])\s*([0-9]{1,6})(h|d|w|mo|m|y)")
_MAXIMUM_YEARS = 500
_DATE_HINT = "20240101, 2024-01-01, today, yesterday or now, with steps such as -2d (h d w m y), or two of them: A..B"


class DateEnd(msgspec.Struct, frozen=True):
    """One end of a date expression. Without `day` it counts from the present: the day, or (`instant`) the moment."""

    day: date | None = None
    instant: bool = False
    months: int = 0
    days: int = 0
    seconds: float = 0.0

    def resolve(self, now: datetime, zone: tzinfo) -> tuple[date, datetime | None]:
        """The local date, and the moment (UTC) where the end is a moment."""
        if self.instant:
            local = now.astimezone(zone).replace(tzinfo=None)
            local = datetime.combine(shift(local.date(), self.months, self.days), local.time())
            # An unshifted wall clock keeps its fold: the second pass of a repeated hour is not the first.
            moment = local.replace(tzinfo=zone).astimezone(UTC) if self.months or self.days else now.astimezone(UTC)
            moment += timedelta(seconds=self.seconds)
            return moment.astimezone(zone).date(), moment
        return shift(self.day or now.astimezone(zone).date(), self.months, self.days), None


def shift(day: date, months: int, days: int) -> date:
    """Calendar arithmetic: a month later is the same day of the month, or the month's last.

    Raises ValueError or OverflowError beyond the years 1 to 9999.
    """
    month = day.year * 12 + day.month - 1 + months
    year, month = divmod(month, 12)
    shifted = date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
    return shifted + timedelta(days=days)


class DateRange(msgspec.Struct, frozen=True):
    """What a date expression means at one moment: local dates, and the exact moments (UTC, both inclusive)."""

    first: date
    last: date
    start: datetime
    end: datetime
    timed: bool
    """An end is a moment: the time of day counts where it is known."""

    @property
    def empty(self) -> bool:
        """From lies after to: nothing matches."""
        return self.start > self.end

    @property
    def wire(self) -> str:
        """The value of a matching key: `YYYYMMDD`, or `YYYYMMDD-YYYYMMDD` with both ends (PS3.4 section C.2.2.2.5).

        Times of day never go onto the wire: date and time keys are matched independently of each other. An empty range
        gives its last day, so that the request stays valid; nothing that comes back matches.
        """
        last = f"{self.last:%Y%m%d}".rjust(8, "0")
        if self.first >= self.last:
            return last
        return f"{self.first:%Y%m%d}".rjust(8, "0") + "-" + last

    def contains(self, day: date, span: Span | None, zone: tzinfo) -> bool:
        """Whether a local date, with its time of day where known, may lie within."""
        if self.empty or not self.first <= day <= self.last:
            return False
        if not self.timed:
            return True
        low, high = moments(day, span or WHOLE_DAY, zone)
        return low <= self.end and high >= self.start


class DateExpression(msgspec.Struct, frozen=True):
    """`A..B` or a single day, to be evaluated at sweep time in the zone of the source."""

    text: str
    first: DateEnd
    last: DateEnd
    moment: bool = False
    """A single `now-2h` means that moment, to be earlier or later than; without it, its day."""

    @classmethod
    def parse(cls, text: str) -> DateExpression:
        """Compile one. Raises ExpressionError."""
        if ".." not in text:
            end = _parse_end(text, text)
            return cls(text, end, end)
        left, _, right = text.partition("..")
        if not left.strip() or not right.strip():
            # Some archives choke on open ends, and an open end is the whole archive.
            raise ExpressionError(
                Kind.DATE, f"the date range {text!r} is open", "give both ends, for example 19000101..today"
            )
        return cls(text, _parse_end(left, text), _parse_end(right, text))

    @classmethod
    def looking_back(cls, seconds: float) -> DateExpression:
        """From that long ago until now."""
        return cls(f"now-{seconds:g}s..now", DateEnd(instant=True, seconds=-seconds), DateEnd(instant=True))

    def beginning(self, before: datetime, now: datetime, zone: tzinfo) -> DateExpression:
        """The same, but beginning where it would have begun at the moment `before`."""
        if self.first.instant and not self.single:
            seconds = self.first.seconds - (now - before).total_seconds()
            first = msgspec.structs.replace(self.first, seconds=seconds)
        else:
            first = DateEnd(day=self.first.resolve(before, zone)[0])
        last = self.last
        if self.single and last.instant:  # its day, not its moment
            last = DateEnd(day=last.resolve(now, zone)[0])
        return msgspec.structs.replace(self, first=first, last=last)

    def as_moment(self) -> DateExpression:
        """The same, to be compared to as a moment."""
        return msgspec.structs.replace(self, moment=True)

    @property
    def single(self) -> bool:
        """It names one day."""
        return self.first == self.last

    @property
    def relative(self) -> bool:
        """It moves with the present."""
        return self.first.day is None or self.last.day is None

    @property
    def timed(self) -> bool:
        """The time of day counts where it is known."""
        return (self.moment or not self.single) and (self.first.instant or self.last.instant)

    def resolve(self, now: datetime, zone: tzinfo) -> DateRange:
        """What it means at `now` (aware) in that zone."""
        first, start = self.first.resolve(now, zone)
        last, end = self.last.resolve(now, zone)
        if not self.timed:
            start = end = None
        return DateRange(
            first,
            last,
            start or _utc(datetime.combine(first, time(), zone)),
            end or _utc(datetime.combine(last, time.max, zone).replace(fold=1)),  # its last hour may come twice
            start is not None or end is not None,
        )


def _parse_end(text: str, whole: str) -> DateEnd:
    def error(message: str, hint: str = _DATE_HINT) -> ExpressionError:
        return ExpressionError(Kind.DATE, message, hint)

    match = _BASE.match(text)
    if match is None:
        raise error(f"{text.strip()!r} is no date")
    base, day = match[1], None
    if base not in ("today", "yesterday", "now"):
        day = parse_da(base)
        if day is None:
            raise error(f"{base!r} is no day of the calendar")
    months, days, hours, position = 0, -1 if base == "yesterday" else 0, 0, match.end()
    while step := _STEP.match(text, position):
        count, unit, position = int(step[1] + step[2]), step[3], step.end()
        months += count * {"m": 1, "mo": 1, "y": 12}.get(unit, 0)
        days += count * {"d": 1, "w": 7}.get(unit, 0)
        hours += count if unit == "h" else 0
        if unit == "h" and base != "now":
            raise error(f"hours count from now, not from {base!r}", "write now-2h, or count days")
    if text[position:].strip():
        raise error(f"{text.strip()!r} is no date: {text[position:].strip()!r} is not understood")
    if abs(months) > 12 * _MAXIMUM_YEARS or abs(days) > 366 * _MAXIMUM_YEARS or abs(hours) > 8784 * _MAXIMUM_YEARS:
        raise error(f"{text.strip()!r} steps further than {_MAXIMUM_YEARS} years")
    if day is not None:
        try:
            day, months, days = shift(day, months, days), 0, 0
        except (ValueError, OverflowError):
            raise error(f"{text.strip()!r} leaves the calendar") from None
    return DateEnd(day, base == "now", months, days, hours * 3600.0)


# --- Schedules --------------------------------------------------------------------------------------------------------


class Schedule(msgspec.Struct, frozen=True):
    """When a sweep comes due: every so many seconds, or by cron in a zone. Exactly one of `every` and `cron` is set.

    Two schedules that are equal come due at the same moments, so an unchanged rule need not be rescheduled on reload.
    """

    every: float | None = None
    cron: Cron | None = None
    timezone: str = "UTC"
    """IANA name in which `cron` is read."""
    phase: float = 0.0
    """Seconds by which `every` is shifted against the epoch."""

    @classmethod
    def periodic(cls, seconds: float, name: str = "") -> Schedule:
        """Every so many seconds. Raises ExpressionError.

        Due times do not drift: they are multiples of the period since the epoch, shifted by a share of it that is drawn
        from the name, so that what has other names and the same period does not fall due in the same second.
        """
        if seconds <= 0:
            raise ExpressionError(Kind.VALUE, "a period must be longer than 0")
        share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48 if name else 0.0
        return cls(every=float(seconds), phase=round(share * seconds, 3) % seconds)

    @classmethod
    def at(cls, cron: str, timezone: str) -> Schedule:
        """By a cron expression in that zone. Raises ExpressionError."""
        return cls(cron=parse_cron(cron), timezone=timezone)

    @property
    def text(self) -> str:
        """For people: `every 300s` or `cron 0 2 * * * (Europe/Berlin)`."""
        return f"cron {self.cron.text} ({self.timezone})" if self.cron else f"every {self.every or 0:g}s"

    def next_due(self, after: datetime) -> datetime:
        """The first due time after that moment, in UTC."""
        if self.cron is not None:
            return self.cron.next_after(after, ZoneInfo(self.timezone))
        every, phase = round((self.every or 1.0) * _SECOND), round(self.phase * _SECOND)
        elapsed = (after - _EPOCH) // timedelta(microseconds=1)
        return _EPOCH + timedelta(microseconds=((elapsed - phase) // every + 1) * every + phase)

    def due_between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The due times after the one moment, up to and including the other, in UTC."""
        if self.cron is not None:
            yield from self.cron.runs_between(after, until, ZoneInfo(self.timezone))
            return
        moment = self.next_due(after)
        while moment <= until:
            yield moment
            moment = self.next_due(moment)

    def latest_due(self, until: datetime) -> datetime:
        """The last due time up to and including that moment, in UTC: whoever asks at that moment hears the same."""
        if self.cron is None:
            every, phase = round((self.every or 1.0) * _SECOND), round(self.phase * _SECOND)
            elapsed = (until - _EPOCH) // timedelta(microseconds=1)
            return _EPOCH + timedelta(microseconds=(elapsed - phase) // every * every + phase)
        for days in _LOOKING_BACK:
            found = list(self.due_between(until - timedelta(days=days), until))
            if found:
                return found[-1]
        return until


_LOOKING_BACK = (2, 60, 800, 366 * 41)
"""Days in which the last run by cron is looked for: one comes in the last of them, see `router.domain.cron`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def next_due(schedule: Schedule, after: datetime) -> datetime:
    """The first due time after that moment, in UTC."""
    return schedule.next_due(after)
