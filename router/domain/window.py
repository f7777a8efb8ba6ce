"""Windows: when a node may be asked. Wall-clock times of a zone, over midnight and over changes of the clock."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec

from router.domain.problem import ExpressionError, Kind
from router.domain.timing import parse_da
from router.domain.zone import offset_change

DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ALL_WEEK = ((0, WEEK_MINUTES),)
_DAY = timedelta(days=1)
_LOOK_DAYS = 8
"""A week, and a day for the clocks: without a change so long, only dates that are excepted can bring one."""
_LAST_DAY = date(9998, 12, 31)
"""What opens or closes later, never does."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Weekly opening times on the clock of a zone.

    It is open at a moment if the wall clock of its zone then shows a time within one of its spans: the hour that comes
    twice in autumn is open both times or closed both times, the hour that is left out in spring is neither. On a date
    that is excepted it is closed from midnight to midnight, whatever the span of the evening before reaches into.
    """

    name: str
    timezone: str
    """IANA name."""
    spans: tuple[tuple[int, int], ...]
    """Minutes since Monday 00:00, from (included) to (excluded), in order, apart, within the week."""
    closed: tuple[tuple[date, date], ...] = ()
    """Local dates, first and last, on which it is closed from midnight to midnight; in order, apart."""
    description: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        timezone: str,
        spans: Iterable[tuple[int, int]],
        closed: Iterable[tuple[date, date]] = (),
        description: str = "",
    ) -> Window:
        """A window of what `parse_span` and `parse_dates` gave; what overlaps or meets is joined."""
        return cls(
            name=name, timezone=timezone, spans=_joined(spans), closed=_joined_dates(closed), description=description
        )

    @property
    def always_open(self) -> bool:
        """It never closes."""
        return self.spans == _ALL_WEEK and not self.closed

    def open_at(self, moment: datetime) -> bool:
        """Whether it is open at that moment (aware)."""
        local = moment.astimezone(ZoneInfo(self.timezone))
        if self._closed_until(local.date()) is not None:
            return False
        minute = (local.weekday() * 24 + local.hour) * 60 + local.minute
        index = bisect_right(self.spans, (minute, WEEK_MINUTES)) - 1
        return index >= 0 and minute < self.spans[index][1]

    def next_change(self, moment: datetime) -> datetime | None:
        """The first moment (UTC) after this one (aware) at which it opens or closes; None where that never comes."""
        zone = ZoneInfo(self.timezone)
        moment = moment.astimezone(UTC)
        before = self.open_at(moment)
        first = moment.astimezone(zone).date()
        while first <= _LAST_DAY:
            # A day around them: where a clock goes back over midnight, a date is not over when the next begins.
            last = first + timedelta(days=_LOOK_DAYS)
            until = datetime.combine(last, time(), zone).astimezone(UTC)
            days = [first + timedelta(days=number) for number in range(-1, _LOOK_DAYS + 1)]
            edges = {edge for day in days for edge in self._edges(day, zone) if moment < edge < until}
            for edge in sorted(edges):
                if self.open_at(edge) != before:
                    return edge
            eventful = self._eventful_day(last, before)
            if eventful is None:
                return None
            first = eventful
        return None

    def next_open(self, moment: datetime) -> datetime | None:
        """The first moment (UTC) after this one (aware) at which it opens, being closed before; None if never."""
        return self._next(moment, opens=True)

    def next_close(self, moment: datetime) -> datetime | None:
        """The first moment (UTC) after this one (aware) at which it closes, being open before; None if never."""
        return self._next(moment, opens=False)

    def _next(self, moment: datetime, *, opens: bool) -> datetime | None:
        change = self.next_change(moment)
        if change is not None and self.open_at(change) != opens:
            change = self.next_change(change)
        return change

    def _edges(self, day: date, zone: ZoneInfo) -> Iterator[datetime]:
        """The moments around a local date at which it may open or close: more than enough of them."""
        first = day.weekday() * DAY_MINUTES
        minutes = {edge - first for span in self.spans for edge in span if first <= edge < first + DAY_MINUTES}
        midnight = datetime.combine(day, time())
        for minute in minutes | {0}:
            wall = midnight + timedelta(minutes=minute)
            for fold in (0, 1):
                yield wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        # Where the clock jumps, it may jump over an edge.
        start = midnight.replace(tzinfo=zone).astimezone(UTC)
        marks = [start + timedelta(hours=hours) for hours in (0, 6, 12, 18, 25)]
        offsets = [mark.astimezone(zone).utcoffset() for mark in marks]
        for index in range(len(marks) - 1):
            if offsets[index] != offsets[index + 1]:
                yield offset_change(marks[index], marks[index + 1], zone)

    def _eventful_day(self, day: date, is_open: bool) -> date | None:
        """Where to look on from this day, after a week without a change; None where there is none to come."""
        if is_open and self.spans == _ALL_WEEK:
            index = bisect_left(self.closed, (day, date.min))
            return self.closed[index][0] if index < len(self.closed) else None
        if not self.spans:
            return None
        until = self._closed_until(day)
        return day if until is None else until + _DAY if until < _LAST_DAY else None

    def _closed_until(self, day: date) -> date | None:
        """The last of the excepted dates that this one belongs to; None where it is not excepted."""
        index = bisect_right(self.closed, (day, date.max)) - 1
        return self.closed[index][1] if index >= 0 and day <= self.closed[index][1] else None


def _joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    result: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1]:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return tuple(result)


def _joined_dates(ranges: Iterable[tuple[date, date]]) -> tuple[tuple[date, date], ...]:
    joined = _joined((first.toordinal(), last.toordinal() + 1) for first, last in ranges)
    return tuple((date.fromordinal(first), date.fromordinal(last - 1)) for first, last in joined)


# --- Texts ------------------------------------------------------------------------------------------------------------

_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})\Z")
_SPAN_HINT = "days and times, for example mon-fri 19:00-07:00, sat,sun 00:00-24:00 or daily 12:30-13:15"
_DATE_HINT = "2026-12-25, or the first and the last of several: 2026-12-24..2027-01-01"


def parse_span(text: str) -> tuple[tuple[int, int], ...]:
    """Compile `DAYS HH:MM-HH:MM` to minutes since Monday 00:00, from and to, in the week. Raises ExpressionError.

    DAYS are names, lists and ranges of them (which may run over the end of the week), or `daily`. A span that ends
    where or before it begins ends on the next day; 24:00 is the end of the day.
    """
    squeezed = re.sub(r"\s*([,-])\s*", r"\1", " ".join(text.lower().split()))
    days_text, _, times_text = squeezed.rpartition(" ")
    if not times_text[:1].isdigit():
        raise _mistake(f"{text!r} does not end with times", _SPAN_HINT)
    if not days_text:
        raise _mistake(f"{text!r} names no days", f"write daily {times_text}" if "-" in times_text else _SPAN_HINT)
    first_text, dash, last_text = times_text.partition("-")
    if not dash:
        raise _mistake(f"{text!r} names one time only", "from and to, for example 19:00-07:00")
    first, last = _minutes(first_text, text), _minutes(last_text, text)
    if first == DAY_MINUTES:
        raise _mistake(f"{text!r} begins at 24:00", "write 00:00 and the next day")
    length = last - first if last > first else last - first + DAY_MINUTES
    spans: list[tuple[int, int]] = []
    for day in _days(days_text, text):
        start = day * DAY_MINUTES + first
        end = start + length
        spans.append((start, min(end, WEEK_MINUTES)))
        if end > WEEK_MINUTES:
            spans.append((0, end - WEEK_MINUTES))
    return _joined(spans)


def _minutes(text: str, whole: str) -> int:
    match = _TIME.match(text) if text.isascii() else None
    if match is None:
        raise _mistake(f"{text!r} in {whole!r} is no time of day", "hours and minutes, for example 07:30")
    minutes = int(match[1]) * 60 + int(match[2])
    if int(match[2]) > 59 or minutes > DAY_MINUTES:
        raise _mistake(f"{text!r} in {whole!r} is no time of day", "00:00 to 24:00")
    return minutes


def _days(text: str, whole: str) -> set[int]:
    if text == "daily":
        return set(range(7))
    days: set[int] = set()
    for term in text.split(","):
        first_text, dash, last_text = term.partition("-")
        first = _day(first_text, whole)
        last = _day(last_text, whole) if dash else first
        days |= {day % 7 for day in range(first, last + 1 if last >= first else last + 8)}
    return days


def _day(text: str, whole: str) -> int:
    if text in _DAYS:
        return _DAYS.index(text)
    meant = next((day for day in _DAYS if len(text) > 1 and (text.startswith(day) or day.startswith(text))), "")
    hint = f"did you mean {meant}?" if meant else f"days are {', '.join(_DAYS)}, or daily"
    if " " in text or "-" in text:
        hint = "a list is written mon,wed and a range mon-fri"
    raise _mistake(f"{text!r} in {whole!r} is no day of the week", hint)


def parse_dates(text: str) -> tuple[date, date]:
    """First and last of `2026-12-25` or `2026-12-24..2027-01-01`. Raises ExpressionError."""
    ends = [part.strip() for part in text.split("..")]
    days = [parse_da(part) for part in ends]
    for part, day in zip(ends, days, strict=True):
        if day is None:
            raise _mistake(f"{part!r} is no date" if part else f"the dates {text!r} are open", _DATE_HINT)
    first, last = days[0], days[-1]
    if len(days) > 2 or first is None or last is None:
        raise _mistake(f"{text!r} is no date", _DATE_HINT)
    if first > last:
        raise _mistake(f"the dates {text!r} end before they begin", _DATE_HINT)
    return first, last


def _mistake(message: str, hint: str) -> ExpressionError:
    return ExpressionError(Kind.WINDOW, message, hint)
