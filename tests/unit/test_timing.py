"""Durations, date expressions and schedules at chosen moments."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.problem import ExpressionError
from router.domain.timing import (
    MAXIMUM_DURATION,
    DateExpression,
    Schedule,
    next_due,
    parse_da,
    parse_duration,
    parse_tm,
)

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)  # 12:00 in Berlin
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "mo": 30 * 86400, "y": 365 * 86400}


def wire(text: str, now: datetime = NOON, zone: ZoneInfo = BERLIN) -> str:
    return DateExpression.parse(text).resolve(now, zone).wire


@given(st.integers(0, 3000), st.sampled_from(sorted(UNITS)))
def test_durations_are_numbers_with_a_unit(count: int, unit: str) -> None:
    if count * UNITS[unit] <= MAXIMUM_DURATION:
        assert parse_duration(f"{count}{unit}") == count * UNITS[unit]


@pytest.mark.parametrize("text", ["", "5", "5 m", "m5", "-5m", "5M", "1h30m", "5m\n", "1e3s", "101y", "\u0665m"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("today", "20261123"),
        ("yesterday", "20261122"),
        ("now", "20261123"),
        ("20240229", "20240229"),
        ("2024-02-29", "20240229"),
        ("today-2d..today", "20261121-20261123"),
        ("today..today", "20261123"),
        ("today - 1w .. yesterday", "20261116-20261122"),
        ("today-1m..today", "20261023-20261123"),
        ("today-1mo+1d..today", "20261024-20261123"),
        ("today-1y..today+1y", "20251123-20271123"),
        ("2024-02-29+1y..2024-03-31-1m", "20250228-20240229"[9:]),
        ("now-13h..now", "20261122-20261123"),
        ("20231231+1d..20240131", "20240101-20240131"),
    ],
)
def test_date_expressions_on_the_wire(text: str, expected: str) -> None:
    assert wire(text) == expected


def test_a_day_is_that_of_the_zone() -> None:
    evening = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
    assert wire("today", evening, BERLIN) == "20261124"
    assert wire("today", evening, ZoneInfo("America/New_York")) == "20261123"


def test_the_time_of_day_stays_off_the_wire_but_counts_locally() -> None:
    resolved = DateExpression.parse("now-2h..now").resolve(NOON, BERLIN)
    assert resolved.wire == "20261123"
    assert (resolved.start, resolved.end) == (NOON - timedelta(hours=2), NOON)
    day = date(2026, 11, 23)
    assert resolved.contains(day, parse_tm("1100"), BERLIN)
    assert not resolved.contains(day, parse_tm("0930"), BERLIN)
    assert resolved.contains(day, parse_tm("09"), BERLIN) is False
    assert resolved.contains(day, parse_tm("10"), BERLIN)  # anywhere from 10:00 to 10:59
    assert resolved.contains(day, None, BERLIN)  # the archive gives no time: it may be
    assert not resolved.contains(date(2026, 11, 22), None, BERLIN)


def test_the_repeated_hour_is_not_lost() -> None:
    """02:15 comes twice on 2026-10-25; at the second, a look back of 30 minutes reaches into the first."""
    now = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)
    resolved = DateExpression.parse("now-30h..now").resolve(now, BERLIN)
    assert resolved.start == now - timedelta(hours=30)
    short = DateExpression.looking_back(1800).resolve(now, BERLIN)
    assert not short.empty
    assert short.contains(date(2026, 10, 25), parse_tm("0250"), BERLIN)
    assert short.contains(date(2026, 10, 25), parse_tm("0210"), BERLIN)
    assert not short.contains(date(2026, 10, 25), parse_tm("0320"), BERLIN)


@pytest.mark.parametrize(
    "text",
    ["", "..", "today..", "..today", "tomorrow", "today-2", "today-2x", "20240230", "2024-13-01", "today-2h..today",
     "today-501y..today", "A..B", "20240101-20240131", "99991231+1d", "today...today", "00000101"],
)  # fmt: skip
def test_other_date_expressions_are_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        DateExpression.parse(text)
    assert caught.value.hint or "step" in caught.value.message


ENDS = st.one_of(
    st.dates(date(1900, 1, 1), date(2100, 12, 31)).map(lambda day: day.strftime("%Y%m%d")),
    st.sampled_from(["today", "yesterday", "now"]),
)
STEPS = st.lists(
    st.tuples(st.sampled_from("+-"), st.integers(0, 400), st.sampled_from(["d", "w", "m", "mo", "y"])), max_size=1
)


@given(ENDS, STEPS, ENDS, STEPS, st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)))  # noqa: DTZ001
def test_every_expression_gives_a_valid_key(
    left: str, left_steps: list[tuple[str, int, str]], right: str, right_steps: list[tuple[str, int, str]], at: datetime
) -> None:
    ends = ["".join([base, *(f"{sign}{count}{unit}" for sign, count, unit in steps)])
            for base, steps in ((left, left_steps), (right, right_steps))]  # fmt: skip
    resolved = DateExpression.parse("..".join(ends)).resolve(at.replace(tzinfo=UTC), BERLIN)
    parts = [parse_da(part) for part in resolved.wire.split("-")]
    assert all(parts)
    assert parts == sorted(parts, key=str)
    if not resolved.empty:
        assert (parts[0], parts[-1]) == (resolved.first, resolved.last)
        assert resolved.start <= resolved.end
    else:
        assert not resolved.contains(resolved.last, None, BERLIN)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("07", 25200, 28799.999999), ("0730", 27000, 27059.999999), ("073015", 27015, 27015.999999),
     ("073015.5", 27015.5, 27015.599999), ("07:30:15", 27015, 27015.999999), ("235960", 86399, 86399.999999)],
)  # fmt: skip
def test_a_time_spans_what_its_precision_leaves_open(value: str, low: float, high: float) -> None:
    span = parse_tm(value)
    assert span is not None
    assert (span.low / 1e6, span.high / 1e6) == (low, high)


@pytest.mark.parametrize("value", ["", "7", "24", "0760", "073061", "07301", "noon"])
def test_no_time(value: str) -> None:
    assert parse_tm(value) is None


# --- Schedules --------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 100_000),
    st.text(min_size=1, max_size=20),
    st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)),  # noqa: DTZ001
)
def test_periods_do_not_drift(seconds: int, name: str, at: datetime) -> None:
    schedule = Schedule.periodic(seconds, name)
    at = at.replace(tzinfo=UTC)
    first = next_due(schedule, at)
    second = next_due(schedule, first)
    assert at < first <= at + timedelta(seconds=seconds)
    assert second - first == timedelta(seconds=seconds)
    assert next_due(schedule, first - timedelta(microseconds=1)) == first
    assert Schedule.periodic(seconds, name) == schedule


def test_rules_of_one_period_are_spread_over_it() -> None:
    due = {next_due(Schedule.periodic(300, f"rule-{number}"), NOON) for number in range(50)}
    assert len(due) > 45


def test_a_rule_is_due_at_the_same_moments_after_a_restart() -> None:
    assert next_due(Schedule.periodic(300, "ct/0"), NOON) == next_due(Schedule.periodic(300, "ct/0"), NOON)
    assert Schedule.periodic(300, "ct/0").text == "every 300s"


@pytest.mark.parametrize("seconds", [0, -5])
def test_no_period(seconds: float) -> None:
    with pytest.raises(ExpressionError):
        Schedule.periodic(seconds)
