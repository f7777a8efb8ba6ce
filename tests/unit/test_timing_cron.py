"""Cron expressions, against cronsim, which follows Debian's cron."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from router.domain.cron import parse_cron
from router.domain.problem import ExpressionError, Kind
from router.domain.timing import Schedule, next_due

BERLIN = ZoneInfo("Europe/Berlin")


def runs(expression: str, after: datetime, count: int, zone: str = "Europe/Berlin") -> list[str]:
    schedule, found = Schedule.at(expression, zone), []
    for _ in range(count):
        after = next_due(schedule, after)
        found.append(after.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes"))
    return found


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    # cronsim reads 1-1/2 as 1/2, which is not what cron does; leave such a span out.
    span = st.tuples(number, number).filter(lambda pair: pair[0] != pair[1]).map(lambda p: f"{min(p)}-{max(p)}")
    stepped = st.tuples(st.one_of(st.just("*"), span), st.integers(1, high)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    terms = st.lists(st.one_of(number.map(str), span, stepped), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), terms)


EXPRESSIONS = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)).map(" ".join)
MOMENTS = st.one_of(
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
    # around the days the clock changes
    st.integers(-36 * 60, 36 * 60).map(lambda m: datetime(2026, 3, 29, 1) + timedelta(minutes=m)),  # noqa: DTZ001
    st.integers(-36 * 60, 36 * 60).map(lambda m: datetime(2026, 10, 25, 1) + timedelta(minutes=m)),  # noqa: DTZ001
)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, MOMENTS, st.sampled_from(["Europe/Berlin", "UTC", "America/New_York", "Australia/Sydney"]))
def test_agrees_with_cronsim(expression: str, at: datetime, zone: str) -> None:
    after = at.replace(tzinfo=UTC)
    # cronsim thinks in wall clocks: from within a repeated hour it may look back at the first pass of it.
    local = after.astimezone(ZoneInfo(zone))
    assume(local.utcoffset() == local.replace(fold=1 - local.fold).utcoffset())
    try:
        expected = next(CronSim(expression, local)).astimezone(UTC)
    except (CronSimError, StopIteration):
        assume(False)
    assert next_due(Schedule.at(expression, zone), after) == expected


def test_weekdays_are_those_of_cron() -> None:
    friday = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert [day[:10] for day in runs("0 6 * * 1-5", friday, 5)] == [
        "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26", "2026-11-27"]  # fmt: skip
    sunday = runs("0 6 * * 0", friday, 1)
    assert sunday == runs("0 6 * * 7", friday, 1) == runs("0 6 * * sun", friday, 1)
    assert sunday[0].startswith("2026-11-22")
    assert [day[:10] for day in runs("0 6 * * sat-sun", friday, 2)] == ["2026-11-21", "2026-11-22"]


def test_day_or_weekday_if_both_are_given() -> None:
    assert [day[:10] for day in runs("0 0 13 * fri", datetime(2026, 11, 1, tzinfo=UTC), 4)] == [
        "2026-11-06", "2026-11-13", "2026-11-20", "2026-11-27"]  # fmt: skip
    assert runs("0 0 1 * fri", datetime(2026, 11, 28, tzinfo=UTC), 1)[0].startswith("2026-12-01")


def test_autumn_hour_runs_once() -> None:
    assert runs("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), 2) == [
        "2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]  # fmt: skip


def test_spring_gap_runs_once_after_it() -> None:
    assert runs("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), 2) == [
        "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]  # fmt: skip
    assert runs("15,45 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), 2) == [
        "2026-03-29T03:00+02:00", "2026-03-30T02:15+02:00"]  # fmt: skip


def test_minutes_run_in_real_time_through_both() -> None:
    autumn = runs("*/30 * * * *", datetime(2026, 10, 24, 23, 45, tzinfo=UTC), 5)
    assert [run[11:] for run in autumn] == ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00", "03:00+01:00"]
    spring = runs("*/30 * * * *", datetime(2026, 3, 29, 0, 15, tzinfo=UTC), 3)
    assert [run[11:] for run in spring] == ["01:30+01:00", "03:00+02:00", "03:30+02:00"]


def test_a_clock_that_changes_by_half_an_hour() -> None:
    """Lord Howe Island goes from 02:00 back to 01:30, and forward to 02:30 (where cronsim, stepping hours, errs)."""
    autumn = runs("* 2 * * sun", datetime(2026, 4, 4, 12, tzinfo=UTC), 1, "Australia/Lord_Howe")
    assert autumn == ["2026-04-05T02:00+10:30"]
    repeated = runs("45 1 * * *", datetime(2026, 4, 4, 12, tzinfo=UTC), 2, "Australia/Lord_Howe")
    assert repeated == ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"]
    gap = runs("15 2 * * *", datetime(2026, 10, 3, 12, tzinfo=UTC), 2, "Australia/Lord_Howe")
    assert gap == ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"]


def test_the_last_of_february_is_found() -> None:
    assert runs("0 0 29 2 *", datetime(2026, 1, 1, tzinfo=UTC), 1)[0].startswith("2028-02-29")
    assert runs("0 0 29 2 */7", datetime(2032, 3, 1, tzinfo=UTC), 1)[0].startswith("2060-02-29")


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 * ", "* * * * 8",
     "*/0 * * * *", "5-1 * * * *", "a * * * *", "1,,2 * * * *", "* * * * fri-mon", "* * 30 2 *", "* * * * mon#2",
     "@daily", "* * L * *", "-1 * * * *", "1-2-3 * * * *", "* * 31 4,6 *"],
)  # fmt: skip
def test_other_expressions_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_cron(text)
    assert caught.value.kind is Kind.CRON


def test_names_and_case() -> None:
    assert parse_cron("0 2 * JAN,jun MON-fri").months == {1, 6}
    assert parse_cron("0 2 * * MON-fri").weekdays == {1, 2, 3, 4, 5}
    assert Schedule.at("0 2 * * *", "Europe/Berlin").text == "cron 0 2 * * * (Europe/Berlin)"
