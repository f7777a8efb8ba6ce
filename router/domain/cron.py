"""Cron expressions: five fields with cron's own meaning of weekdays, of "day or weekday", and of the hour DST skips.

The semantics are those of Debian's cron (cron(8), crontab(5)), which administrators know.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo

import msgspec

from router.domain.problem import ExpressionError, Kind
from router.domain.zone import offset_change

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("weekday", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)}),
)

_SEARCH_DAYS = 366 * 41
"""29 February on a given weekday comes again after 40 years at most (28, or 40 over a skipped leap year)."""


class Cron(msgspec.Struct, frozen=True):
    """A parsed cron expression. Weekdays are cron's: 0 is Sunday."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    """Day of month and weekday are both restricted: a day matches if either does."""
    wall_clock: bool
    """Neither minute nor hour starts with `*`: the job means times on the wall, each once a day whatever DST does."""

    def on(self, day: date) -> bool:
        """Whether it runs on that day."""
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_day or by_weekday if self.either_day else by_day and by_weekday

    def next_after(self, after: datetime, zone: tzinfo) -> datetime:
        """The first run after that moment, in UTC.

        On the day the clock goes forward, a job at a time that does not exist runs once at the end of the gap; on the
        day it goes back, a job at a time that exists twice runs the first time only. Jobs with `*` in minute or hour
        run in real time: not in the gap, and in both passes of the repeated hour.
        """
        after = after.astimezone(UTC)
        local = after.astimezone(zone).replace(tzinfo=None)
        day = local.date() - timedelta(days=1)
        earliest = local - timedelta(hours=26)
        for _ in range(_SEARCH_DAYS):
            if self.on(day):
                runs = [
                    moment
                    for hour in self.hours
                    for minute in self.minutes
                    if (wall := datetime.combine(day, time(hour, minute))) >= earliest
                    for moment in self._moments(wall, zone)
                    if moment > after
                ]
                if runs:
                    return min(runs)
            day += timedelta(days=1)
        raise ExpressionError(Kind.CRON, f"the cron expression {self.text!r} never comes due")

    def runs_between(self, after: datetime, until: datetime, zone: tzinfo) -> Iterator[datetime]:
        """The runs after the one moment, up to and including the other, in UTC; those of a day in order."""
        day = after.astimezone(zone).date() - timedelta(days=1)
        last = until.astimezone(zone).date() + timedelta(days=1)
        while day <= last:
            if self.on(day):
                walls = (datetime.combine(day, time(hour, minute)) for hour in self.hours for minute in self.minutes)
                runs = {moment for wall in walls for moment in self._moments(wall, zone) if after < moment <= until}
                yield from sorted(runs)
            day += timedelta(days=1)

    def _moments(self, wall: datetime, zone: tzinfo) -> tuple[datetime, ...]:
        """The moments at which clocks on the wall show this time."""
        first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
        second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
        if first == second:
            return (first,)
        if first < second:  # the hour that comes twice
            return (first,) if self.wall_clock else (first, second)
        # The hour that does not come: PEP 495 gives fold=1 the offset after the gap and fold=0 the one before.
        if not self.wall_clock:
            return ()
        return (offset_change(second, first, zone),)


def parse_cron(text: str) -> Cron:
    """Compile `minute hour day-of-month month weekday`. Raises ExpressionError."""
    parts = text.lower().split()
    if len(parts) != len(_FIELDS):
        raise ExpressionError(
            Kind.CRON,
            f"a cron expression has five fields, {text!r} has {len(parts)}",
            'minute hour day-of-month month weekday, for example "*/5 7-19 * * mon-fri"',
        )
    minutes, hours, days, months, weekdays = (
        _parse_field(part, *field) for part, field in zip(parts, _FIELDS, strict=True)
    )
    either_day = not (parts[2].startswith("*") or parts[4].startswith("*"))
    if not either_day and min(days) > max(_DAYS_IN_MONTH[month - 1] for month in months):
        raise ExpressionError(Kind.CRON, f"the cron expression {text!r} never comes due: no such day in that month")
    return Cron(
        text=text,
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        either_day=either_day,
        wall_clock=not (parts[0].startswith("*") or parts[1].startswith("*")),
    )


def _parse_field(text: str, field: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    values: set[int] = set()
    for term in text.split(","):
        values |= _parse_term(term, field, low, high, names)
    return values


def _parse_term(term: str, field: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    span, slash, step_text = term.partition("/")
    step = 1
    if slash:
        if not step_text.isascii() or not step_text.isdigit() or int(step_text) == 0:
            raise ExpressionError(Kind.CRON, f"{term!r} is no {field}: the step must be a whole number above 0")
        step = int(step_text)
    if span == "*":
        # The whole of the field; weekday 7 is Sunday again, stepping over it would count Sunday twice.
        return set(range(low, (6 if field == "weekday" else high) + 1, step))
    first_text, dash, last_text = span.partition("-")
    first = _number(first_text, term, field, low, high, names)
    last = first
    if dash:
        last = _number(last_text, term, field, low, high, names)
        if field == "weekday" and last == 0 and first > 0:
            last = 7  # sat-sun
    elif slash:
        last = high
    if last < first:
        raise ExpressionError(
            Kind.CRON, f"{term!r} is no {field}: it goes backwards", f"write two: {first_text}-{high},{low}-{last_text}"
        )
    return set(range(first, last + 1, step))


def _number(text: str, term: str, field: str, low: int, high: int, names: dict[str, int]) -> int:
    if text in names:
        return names[text]
    if text.isascii() and text.isdigit() and len(text) <= 2 and low <= int(text) <= high:
        return int(text)
    allowed = f"{low} to {high}" + (f" or {', '.join(names)}" if names else "")
    raise ExpressionError(Kind.CRON, f"{term!r} is no {field}", f"allowed: {allowed}")
