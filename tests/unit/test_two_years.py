"""Windows and schedules over two years in three time zones, against references that work otherwise.

The references are plain: every minute of the years is looked at on the clock of the zone. For cron there is `cronsim`
beside it, which follows Debian's cron.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.timing import Schedule, next_due
from router.domain.window import Window, parse_dates, parse_span

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
"""Lord Howe Island lies in the south, and its clock changes by half an hour."""
START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTES = 730 * 24 * 60
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTE = timedelta(minutes=1)
FIRST_DAY = date(2025, 12, 31)


class Clock(NamedTuple):
    """What the clocks of a zone show in each minute of the two years."""

    week: list[int]
    """Minutes since Monday 00:00."""
    day: list[int]
    """Days since 31 December 2025."""
    jumps: tuple[int, ...]
    """Minutes in which another offset begins."""


@lru_cache(maxsize=3)
def clock(zone: str) -> Clock:
    week, days, jumps, there, before = [], [], [], ZoneInfo(zone), None
    start, first = int(START.timestamp()), FIRST_DAY.toordinal()
    for minute in range(MINUTES):
        local = datetime.fromtimestamp(start + 60 * minute, there)
        week.append(local.weekday() * 1440 + local.hour * 60 + local.minute)
        days.append(local.toordinal() - first)
        if minute % 30 == 0:  # no zone changes its clock at another minute
            offset = local.utcoffset()
            if before is not None and offset != before:
                jumps.append(minute)
            before = offset
    return Clock(week, days, tuple(jumps))


def moment(minute: int) -> datetime:
    return START + minute * MINUTE


@pytest.mark.parametrize("zone", ZONES)
def test_the_years_hold_both_changes_of_the_clock_twice(zone: str) -> None:
    shifts = [(clock(zone).week[jump] - clock(zone).week[jump - 1]) % 10080 for jump in clock(zone).jumps]
    width = 30 if zone == "Australia/Lord_Howe" else 60
    assert sorted(shifts) == [1 + width] * 2 + [10081 - width] * 2


# --- Windows ----------------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """A window as somebody means it."""

    spans: tuple[tuple[frozenset[int], int, int], ...]
    """Days it begins on, from, to."""
    closed: frozenset[int]
    """Days since 31 December 2025."""

    def made(self, zone: str) -> Window:
        """Through the texts of the configuration."""
        parts = [part for span in self.spans for part in parse_span(text_of(*span))]
        dates = [parse_dates(str(FIRST_DAY + timedelta(days=day))) for day in self.closed]
        return Window.of("w", zone, parts, dates)

    def table(self) -> list[bool]:
        """For each minute of the week whether it is open, by the words of the language."""
        return [any(self._within(*divmod(minute, 1440), *span) for span in self.spans) for minute in range(10080)]

    @staticmethod
    def _within(weekday: int, minute: int, days: frozenset[int], first: int, last: int) -> bool:
        if first < last:
            return weekday in days and first <= minute < last
        return (weekday in days and minute >= first) or ((weekday - 1) % 7 in days and minute < last)


def text_of(days: frozenset[int], first: int, last: int) -> str:
    def time(minute: int) -> str:
        return f"{minute // 60:02}:{minute % 60:02}"

    ordered = sorted(days)
    if len(ordered) == 7:
        names = "daily"
    elif len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        names = f"{DAYS[ordered[0]]}-{DAYS[ordered[-1]]}"
    else:
        names = ",".join(DAYS[day] for day in ordered)
    return f"{names} {time(first)}-{time(last)}"


def state(shape: Shape, table: list[bool], zone: str, minute: int) -> bool:
    times = clock(zone)
    return times.day[minute] not in shape.closed and table[times.week[minute]]


def stepped(shape: Shape, zone: str, minute: int) -> Iterator[tuple[int, bool]]:
    """The minutes after this one in which it opens or closes, found by looking at each."""
    table = shape.table()
    before = state(shape, table, zone, minute)
    for after in range(minute + 1, MINUTES):
        now = state(shape, table, zone, after)
        if now != before:
            yield after, now
            before = now


TIMES = st.one_of(st.integers(0, 1439), st.sampled_from([0, 60, 90, 105, 120, 135, 150, 180, 1380]))
SPANS = st.tuples(
    st.frozensets(st.integers(0, 6), min_size=1),
    TIMES,
    st.one_of(TIMES, st.just(1440)),
)
SHAPES = st.builds(
    Shape,
    st.lists(SPANS, min_size=1, max_size=4).map(tuple),
    st.frozensets(st.integers(0, 731), max_size=12),
)


@st.composite
def moments(draw: st.DrawFn, zone: str) -> int:
    """A minute of the years, every other time close to a change of the clock."""
    if draw(st.booleans()):
        return draw(st.sampled_from(clock(zone).jumps)) + draw(st.integers(-3 * 1440, 2 * 1440))
    return draw(st.integers(0, MINUTES - 30 * 1440))


@settings(max_examples=150, deadline=None)
@given(SHAPES, st.sampled_from(ZONES), st.data())
def test_a_window_opens_and_closes_where_stepping_finds_it(shape: Shape, zone: str, data: st.DataObject) -> None:
    window, minute = shape.made(zone), data.draw(moments(zone))
    now = moment(minute) + data.draw(st.sampled_from([timedelta(), timedelta(seconds=59, microseconds=999999)]))
    assert window.open_at(now) is state(shape, shape.table(), zone, minute)
    found = list(islice(stepped(shape, zone, minute), 2))
    changes = [moment(after) for after, _ in found]
    expected = {opens: next((moment(after) for after, now in found if now is opens), None) for opens in (True, False)}
    last = moment(MINUTES - 1)
    told = {True: window.next_open(now), False: window.next_close(now)}
    for opens, one in told.items():
        # Beyond the two years the reference sees nothing.
        assert one == expected[opens] or (expected[opens] is None and (one is None or one > last))
    assert not changes or window.next_change(now) == changes[0]


FIXED = {
    "off-peak": Shape(
        ((frozenset(range(5)), 1140, 420), (frozenset({5, 6}), 0, 1440)),
        frozenset(
            (date(year, month, day) - FIRST_DAY).days for year in (2026, 2027) for month, day in ((1, 1), (12, 25))
        ),
    ),
    "the hour that changes": Shape(((frozenset(range(7)), 105, 150),), frozenset()),
    "sundays over midnight": Shape(((frozenset({5, 6}), 1410, 125),), frozenset({88, 298, 94, 277})),
}


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("name", FIXED)
def test_a_window_over_the_two_years(name: str, zone: str) -> None:
    shape = FIXED[name]
    window, expected = shape.made(zone), [(moment(minute), now) for minute, now in stepped(shape, zone, 0)]
    now, found = START, []
    while (change := window.next_change(now)) is not None and change < moment(MINUTES):
        found.append((change, window.open_at(change)))
        now = change
    assert found == expected
    assert len(found) > 350


# --- Schedules: every -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [5, 7, 60, 600, 1440, 10080])
def test_every_over_the_two_years(every: int) -> None:
    """Whole minutes, so that stepping meets them; seconds are looked at below."""
    phase = every * 7 // 16
    schedule = Schedule(every=every * 60.0, phase=phase * 60.0)
    offset = int(START.timestamp()) // 60
    expected = [minute for minute in range(1, MINUTES) if (offset + minute) % every == phase]
    found = list(schedule.due_between(START, moment(MINUTES - 1)))
    assert found == [moment(minute) for minute in expected]


@given(
    st.integers(1, 3000),
    st.text(min_size=1, max_size=5),
    st.integers(0, MINUTES * 60),
    st.integers(0, 999_999),
)
def test_every_keeps_to_its_seconds(every: int, name: str, second: int, microsecond: int) -> None:
    schedule = Schedule.periodic(every, name)
    now = START + timedelta(seconds=second, microseconds=microsecond)
    due = next_due(schedule, now)
    assert now < due <= now + timedelta(seconds=every)
    assert next_due(schedule, due) - due == timedelta(seconds=every)
    since = (due - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)
    assert since % (every * 1000) == pytest.approx(schedule.phase * 1000, abs=1e-6)


# --- Schedules: cron --------------------------------------------------------------------------------------------------

EXPRESSIONS = (
    "30 2 * * *",
    "0 2 * * *",
    "15,45 1-3 * * *",
    "10 0-3 * * sun",
    "0 0 13 * fri",
    "45 23 1,15 * *",
    "5 7-19/3 * * mon-fri",
    "0 3 29 3,10 *",
    "*/20 2 * * *",
    "* 2 * * sun",
    "20 */4 * * *",
    "0 * * 3,4,10,11 sat,sun",
)


def by_minutes(expression: str, zone: str) -> list[int]:
    """The minutes in which Debian's cron runs a job, by its manual and by looking at each minute.

    A job with `*` in minute or hour runs whenever the clock shows its time. Any other runs when the clock shows it for
    the first time; what the clock leaves out runs when it goes on.
    """
    fields = expression.split()
    wild = fields[0].startswith("*") or fields[1].startswith("*")
    times = clock(zone)
    on_day = {day: _on(FIRST_DAY + timedelta(days=day), fields) for day in range(times.day[-1] + 1)}
    in_day = [_in(minute, fields) for minute in range(1440)]
    runs, shown = [], set()
    jumps = set(times.jumps)
    for minute in range(MINUTES):
        day, of_day = times.day[minute], times.week[minute] % 1440
        due = on_day[day] and in_day[of_day]
        if not wild and minute in jumps:
            skipped = range(times.week[minute - 1] % 1440 + 1, of_day)  # empty where it goes back
            due = due or (on_day[day] and any(in_day[left] for left in skipped))
        if due and not wild:
            due = (day, of_day) not in shown
            shown.add((day, of_day))
        if due:
            runs.append(minute)
    return runs


def _values(field: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    for number, name in enumerate(names):
        field = field.replace(name, str(number))
    found: set[int] = set()
    for term in field.split(","):
        span, _, step = term.partition("/")
        first, dash, last = (str(low), "-", str(high)) if span == "*" else span.partition("-")
        found |= set(range(int(first), int(last if dash else first) + 1, int(step or 1)))
    return found


def _in(minute: int, fields: list[str]) -> bool:
    return minute % 60 in _values(fields[0], 0, 59) and minute // 60 in _values(fields[1], 0, 23)


def _on(day: date, fields: list[str]) -> bool:
    weekdays = _values(fields[4], 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat"))
    by_day, by_weekday = day.day in _values(fields[2], 1, 31), day.isoweekday() % 7 in weekdays
    either = "*" not in (fields[2], fields[4])
    return day.month in _values(fields[3], 1, 12) and (by_day or by_weekday if either else by_day and by_weekday)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_cron_over_the_two_years(expression: str, zone: str) -> None:
    schedule, expected = Schedule.at(expression, zone), by_minutes(expression, zone)
    assert list(schedule.due_between(moment(-1), moment(MINUTES - 1))) == [moment(run) for run in expected]
    # One after the other, around each change of the clock.
    for jump in clock(zone).jumps:
        near = expected[bisect_left(expected, jump - 2880) : bisect_right(expected, jump + 2880)]
        for before, after in pairwise(near):
            assert next_due(schedule, moment(before)) == moment(after)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_cron_agrees_with_cronsim_over_the_two_years(expression: str, zone: str) -> None:
    """But for the days on which Lord Howe changes its clock: cronsim takes every change for a whole hour."""
    there = ZoneInfo(zone)
    simulated = {run.astimezone(UTC) for run in _until_the_end(CronSim(expression, moment(-1).astimezone(there)))}
    found = set(Schedule.at(expression, zone).due_between(moment(-1), moment(MINUTES - 1)))
    odd = {run.astimezone(there).date() for run in found ^ simulated}
    allowed = {moment(jump).astimezone(there).date() for jump in clock(zone).jumps} if "Lord_Howe" in zone else set()
    assert odd <= allowed


def _until_the_end(runs: Iterator[datetime]) -> Iterator[datetime]:
    for run in runs:
        if run.astimezone(UTC) >= moment(MINUTES):
            return
        yield run
