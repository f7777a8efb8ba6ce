"""Whether windows are ever open at the same time, and schedules ever come due in them. Pure.

Times are those of the week on a clock; clocks of different zones are compared by every difference that they have in
the two years to come. Excepted dates are left out of it: they only ever close.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from router.domain.cron import Cron
from router.domain.rule import WindowUse
from router.domain.timing import Schedule
from router.domain.window import DAY_MINUTES, WEEK_MINUTES, Window

_DAYS_AHEAD = 731
Spans = tuple[tuple[int, int], ...]


def open_together(
    one: Sequence[WindowUse], other: Sequence[WindowUse], windows: Mapping[str, Window], today: date
) -> bool:
    """Whether two nodes with these windows may ever be used at the same moment. True where it is in doubt."""
    mine, theirs = _used(one, windows), _used(other, windows)
    if mine is None or theirs is None:
        return True
    return any(_meet(a, b, today) for a in mine for b in theirs)


def falls_into(schedule: Schedule, uses: Sequence[WindowUse], windows: Mapping[str, Window], today: date) -> bool:
    """Whether a schedule ever comes due while one of a node's windows is open. True where it is in doubt."""
    used = _used(uses, windows)
    if used is None or schedule.cron is None:
        return True
    return any(
        _runs_in(schedule.cron, window.spans, shift)
        for window in used
        for shift in _differences(schedule.timezone, window.timezone, today)
    )


def _used(uses: Sequence[WindowUse], windows: Mapping[str, Window]) -> list[Window] | None:
    """The windows of a node; None where it is always open, or one of them is not known."""
    found = [windows.get(use.window or "") for use in uses]
    known = [window for window in found if window is not None]
    return known if known and len(known) == len(found) else None


def _meet(one: Window, other: Window, today: date) -> bool:
    return any(
        first < end and start < last
        for shift in _differences(other.timezone, one.timezone, today)
        for start, end in _shifted(other.spans, shift)
        for first, last in one.spans
    )


def _shifted(spans: Iterable[tuple[int, int]], shift: int) -> Iterator[tuple[int, int]]:
    """Spans of the week on a clock that is so many minutes ahead."""
    for first, last in spans:
        start = (first + shift) % WEEK_MINUTES
        end = start + last - first
        yield start, min(end, WEEK_MINUTES)
        if end > WEEK_MINUTES:
            yield 0, end - WEEK_MINUTES


@lru_cache(maxsize=256)
def _differences(zone: str, other: str, today: date) -> frozenset[int]:
    """Minutes by which the other zone's clock is ahead of the one's, in the time to come."""
    if zone == other:
        return frozenset({0})
    first = datetime.combine(today, time(), UTC)
    moments = (first + timedelta(hours=hours) for hours in range(0, _DAYS_AHEAD * 24, 6))
    return frozenset(_offset(moment, other) - _offset(moment, zone) for moment in moments)


def _offset(moment: datetime, zone: str) -> int:
    offset = moment.astimezone(ZoneInfo(zone)).utcoffset() or timedelta()
    return round(offset.total_seconds() / 60)


@lru_cache(maxsize=1024)
def _runs_in(cron: Cron, spans: Spans, shift: int) -> bool:
    """Whether it runs within one of these spans of a clock that is so many minutes ahead."""
    starts = [first for first, _ in spans]
    for minute in _minutes_of_week(cron):
        at = (minute + shift) % WEEK_MINUTES
        index = bisect_right(starts, at) - 1
        if index >= 0 and at < spans[index][1]:
            return True
    return False


def _minutes_of_week(cron: Cron) -> Iterator[int]:
    """Minutes since Monday 00:00 at which it may run; a day of the month is any weekday."""
    whole_month = len(cron.days) == 31
    weekdays = cron.weekdays if whole_month and not cron.either_day else range(7)
    for weekday in weekdays:
        start = (weekday - 1) % 7 * DAY_MINUTES
        for hour in cron.hours:
            for minute in cron.minutes:
                yield start + hour * 60 + minute
