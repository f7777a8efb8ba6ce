"""Windows of dates and times against brute force: every minute of some days, in zones with odd clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.condition import Condition
from router.domain.dicom import Identifier
from router.domain.key import KeyMatch
from router.domain.matcher import Evaluation, parse_offset
from router.domain.timing import DateExpression, DateRange, Span, moments, parse_tm

MINUTE = timedelta(minutes=1)
BERLIN = ZoneInfo("Europe/Berlin")

# A zone and the UTC day around which its clock is changed: by an hour at night, by half an hour, over midnight (the
# hour before it comes twice; the day begins at 01:00), and far from UTC.
CHANGES = [
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("Australia/Lord_Howe", date(2026, 4, 4)),
    ("Australia/Lord_Howe", date(2026, 10, 3)),
    ("America/Sao_Paulo", date(2018, 2, 18)),
    ("America/Sao_Paulo", date(2018, 11, 4)),
    ("America/Nuuk", date(2026, 3, 29)),
    ("Pacific/Kiritimati", date(2026, 7, 1)),
    ("Pacific/Pago_Pago", date(2026, 7, 1)),
]
changes = st.sampled_from(CHANGES)
SPAN_DAYS = 5


@cache
def minutes_of(change: tuple[str, date]) -> tuple[tuple[datetime, datetime], ...]:
    """Every minute of the days around: UTC, and what the wall clock says, without its zone."""
    name, day = change
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=SPAN_DAYS)
    utc = [start + MINUTE * number for number in range(2 * SPAN_DAYS * 1440)]
    return tuple((moment, moment.astimezone(ZoneInfo(name)).replace(tzinfo=None)) for moment in utc)


def window(change: tuple[str, date], first: int, length: int) -> DateRange:
    """From a minute of the day before for so many minutes, both ends included, as `now-Ns..now` gives it."""
    end = datetime(change[1].year, change[1].month, change[1].day, tzinfo=UTC) - timedelta(days=1)
    end += MINUTE * (first + length)
    return DateExpression.looking_back(length * 60).resolve(end, ZoneInfo(change[0]))


@given(changes, st.integers(0, 2880), st.integers(0, 2000), st.integers(-1, 2), st.integers(0, 1439), st.booleans())
def test_a_window_contains_a_local_time_if_any_moment_it_may_mean_lies_within(
    change: tuple[str, date], first: int, length: int, days: int, minute: int, whole_hour: bool
) -> None:
    zone, day, (hour, rest) = ZoneInfo(change[0]), change[1] + timedelta(days=days), divmod(minute, 60)
    text = f"{hour:02}" if whole_hour else f"{hour:02}{rest:02}"
    found = window(change, first, length)
    meant = [
        utc
        for utc, wall in minutes_of(change)
        if wall.date() == day and wall.hour == hour and (whole_hour or wall.minute == rest)
    ]
    contained = found.contains(day, parse_tm(text), zone)
    if meant:
        assert contained is any(found.start <= utc <= found.end for utc in meant)
    elif contained:  # a time that never was: within two hours of where the clock went on
        low, high = moments(day, parse_tm(text) or Span(0, 0), zone)
        assert high - low <= timedelta(hours=2)


@given(changes, st.integers(0, 2880), st.integers(0, 2000))
def test_every_day_of_a_window_is_asked_for_and_a_day_without_a_time_is_within(
    change: tuple[str, date], first: int, length: int
) -> None:
    found = window(change, first, length)
    days = {wall.date() for utc, wall in minutes_of(change) if found.start <= utc <= found.end}
    assert (found.first, found.last) == (min(days), max(days))
    for day in (change[1] + timedelta(days=number) for number in range(-2, 3)):
        assert found.contains(day, None, ZoneInfo(change[0])) is (day in days)


@given(changes, st.integers(-2, 2), st.integers(0, 2))
def test_the_ends_of_a_range_of_days_are_its_first_and_last_moment(
    change: tuple[str, date], before: int, length: int
) -> None:
    first = change[1] + timedelta(days=before - 1)
    last = min(first + timedelta(days=length), change[1] + timedelta(days=1))
    found = DateExpression.parse(f"{first:%Y%m%d}..{last:%Y%m%d}").resolve(datetime.now(UTC), ZoneInfo(change[0]))
    meant = [utc for utc, wall in minutes_of(change) if first <= wall.date() <= last]
    assert (found.start, found.end) == (meant[0], meant[-1] + MINUTE - timedelta(microseconds=1))


@given(changes, st.integers(0, 2880), st.integers(1, 40))
def test_hours_back_are_hours_whatever_the_clock_did(change: tuple[str, date], minute: int, hours: int) -> None:
    now = datetime(change[1].year, change[1].month, change[1].day, tzinfo=UTC) + MINUTE * (minute - 1440)
    found = DateExpression.parse(f"now-{hours}h..now").resolve(now, ZoneInfo(change[0]))
    assert (found.start, found.end) == (now - timedelta(hours=hours), now)


@pytest.mark.parametrize(
    ("now", "wire", "inside", "outside"),
    [
        # 00:30 on an ordinary day, and on the days on which the clock goes forward and back; three hours back.
        ("2026-11-22T23:30", "20261122-20261123", ["20261122 2131", "20261123 0029"], ["20261122 2129"]),
        ("2026-03-28T23:30", "20260328-20260329", ["20260328 2131", "20260329 0030"], ["20260328 2129"]),
        # 04:30 after the change forward: 02:00 to 03:00 was not, so three hours back is 00:30.
        ("2026-03-29T02:30", "20260329", ["20260329 0031", "20260329 0430"], ["20260329 0029"]),
        # 04:30 after the change back: 02:00 to 03:00 was twice, so three hours back is 02:30, the first or second one.
        ("2026-10-25T03:30", "20261025", ["20261025 0231", "20261025 0430"], ["20261025 0159"]),
        ("2026-10-24T22:30", "20261024-20261025", ["20261024 2131", "20261025 0030"], ["20261024 2129"]),
    ],
)
def test_a_look_back_of_three_hours_in_berlin(now: str, wire: str, inside: list[str], outside: list[str]) -> None:
    evaluation = Evaluation(datetime.fromisoformat(now).replace(tzinfo=UTC), BERLIN)
    for key in (
        KeyMatch.of("StudyDate", "now-3h..now"),
        KeyMatch.of_date("StudyDate", DateExpression.looking_back(10800)),
    ):
        assert key.wire(evaluation) == ((wire,),)
        for text in inside + outside:
            day, time = text.split()
            row = Identifier.of(StudyDate=day, StudyTime=time)
            assert key.matches(row, evaluation) is (text in inside), text


def test_a_day_more_is_the_same_time_of_day() -> None:
    after = datetime(2026, 3, 29, 10, 30, tzinfo=UTC)  # 12:30, with summer time
    found = DateExpression.parse("now-1d..now").resolve(after, BERLIN)
    assert found.start == datetime(2026, 3, 28, 11, 30, tzinfo=UTC)  # 12:30, without


# --- times of day -----------------------------------------------------------------------------------------------------

clock = st.integers(0, 1439).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")


@given(clock, clock, clock)
def test_a_time_of_day_between_two_may_run_over_midnight(low: str, high: str, value: str) -> None:
    expected = low <= value <= high if low <= high else value >= low or value <= high
    row = Identifier.of(StudyTime=value.replace(":", "") + "30")
    evaluation = Evaluation(datetime(2026, 11, 22, 12, tzinfo=UTC), BERLIN)
    for wanted in ({"between": [low, high]}, f"{low}..{high}"):
        assert Condition.of({"StudyTime": wanted}).holds(row, evaluation) is expected
    assert KeyMatch.of("StudyTime", f"{low}..{high}").matches(row, evaluation) is expected


# --- a data set's own offset ------------------------------------------------------------------------------------------


@given(st.datetimes(datetime(2026, 1, 2), datetime(2026, 12, 30)), st.integers(-12, 14), st.integers(1, 30))  # noqa: DTZ001
def test_an_offset_in_the_row_wins_over_the_zone_of_the_node(wall: datetime, hours: int, back: int) -> None:
    offset = f"{'-' if hours < 0 else '+'}{abs(hours):02}00"
    wall = wall.replace(second=0, microsecond=0)
    moment = wall.replace(tzinfo=UTC) - timedelta(hours=hours)
    row = Identifier.of(
        StudyDate=f"{wall:%Y%m%d}", StudyTime=f"{wall:%H%M%S}", TimezoneOffsetFromUTC=offset,
        ScheduledProcedureStepStartDateTime=f"{wall:%Y%m%d%H%M%S}",
    )  # fmt: skip
    for now, expected in ((moment + timedelta(hours=back), True), (moment - timedelta(seconds=1), False)):
        evaluation = Evaluation(now, BERLIN)
        for name in ("StudyDate", "ScheduledProcedureStepStartDateTime"):
            assert Condition.of({name: f"now-{back}h..now"}).holds(row, evaluation) is expected
        assert KeyMatch.of("StudyDate", f"now-{back}h..now").matches(row, evaluation) is expected


def test_two_rows_of_different_offsets_are_not_taken_for_one_another() -> None:
    condition = Condition.of({"ScheduledProcedureStepStartDateTime": "today"})
    evaluation = Evaluation(datetime(2026, 11, 22, 12, tzinfo=UTC), ZoneInfo("UTC"))
    row = {"ScheduledProcedureStepStartDateTime": "20261123003000"}
    assert not condition.holds(Identifier.of(**row), evaluation)
    assert condition.holds(Identifier.of(**row, TimezoneOffsetFromUTC="+0100"), evaluation)
    assert not condition.holds(Identifier.of(**row), evaluation)


@pytest.mark.parametrize("value", ["", "0100", "+1", "+01:00", "+2400", "+0160", "Z", "+01000"])
def test_no_offset(value: str) -> None:
    assert parse_offset(value) is None
    row = Identifier.of(StudyDate="20261122", StudyTime="1230", TimezoneOffsetFromUTC=value)
    evaluation = Evaluation(datetime(2026, 11, 22, 12, tzinfo=UTC), BERLIN)
    assert Condition.of({"StudyDate": "now-1h..now"}).holds(row, evaluation)
