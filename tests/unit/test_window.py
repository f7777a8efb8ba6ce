"""Windows: their texts, the moments at which they open and close, and what a node allows by them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from router.domain.allowance import Allowance, allowance, changes_at, opens_at
from router.domain.problem import ExpressionError, Kind
from router.domain.rule import Node, NodeLimits, WindowUse
from router.domain.window import WEEK_MINUTES, Window, parse_dates, parse_span

BERLIN = ZoneInfo("Europe/Berlin")
MON, TUE, WED, THU, FRI, SAT, SUN = (day * 1440 for day in range(7))


def window(*spans: str, zone: str = "Europe/Berlin", closed: tuple[str, ...] = ()) -> Window:
    parts = [part for span in spans for part in parse_span(span)]
    return Window.of("w", zone, parts, map(parse_dates, closed))


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    """A wall-clock time; `+` behind it: the second time it comes."""
    return datetime.fromisoformat(text.removesuffix("+")).replace(tzinfo=zone, fold=text.endswith("+")).astimezone(UTC)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("mon 08:00-12:00", ((MON + 480, MON + 720),)),
        ("mon 8:00-12:00", ((MON + 480, MON + 720),)),
        ("Mon,WED 08:15-08:16", ((MON + 495, MON + 496), (WED + 495, WED + 496))),
        (" mon , wed - thu  08:00 - 09:00 ", tuple((day + 480, day + 540) for day in (MON, WED, THU))),
        ("fri 19:00-07:00", ((FRI + 1140, SAT + 420),)),
        ("sun 19:00-07:00", ((0, 420), (SUN + 1140, WEEK_MINUTES))),
        ("sat-mon 12:00-13:00", ((MON + 720, MON + 780), (SAT + 720, SAT + 780), (SUN + 720, SUN + 780))),
        ("sat,sun 00:00-24:00", ((SAT, WEEK_MINUTES),)),
        ("daily 00:00-24:00", ((0, WEEK_MINUTES),)),
        ("daily 09:00-09:00", ((0, WEEK_MINUTES),)),
        ("tue 00:00-00:00", ((TUE, WED),)),
        ("wed 23:59-24:00", ((WED + 1439, THU),)),
        ("mon-mon 00:00-01:00", ((MON, MON + 60),)),
        ("mon 24:00-24:00", None),
    ],
)
def test_spans(text: str, spans: tuple[tuple[int, int], ...] | None) -> None:
    if spans is None:
        with pytest.raises(ExpressionError):
            parse_span(text)
    else:
        assert parse_span(text) == spans


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "days and times"),
        ("mon", "days and times"),
        ("08:00-12:00 mon", "days and times"),
        ("19:00-07:00", "write daily 19:00-07:00"),
        ("mon 8-12", "07:30"),
        ("mon 08:00", "from and to"),
        ("mon 08:00-12:60", "00:00 to 24:00"),
        ("mon 08:00-24:01", "00:00 to 24:00"),
        ("mon 24:00-02:00", "the next day"),
        ("monday 08:00-12:00", "did you mean mon?"),
        ("mo 08:00-12:00", "did you mean mon?"),
        ("son 08:00-12:00", "days are mon"),
        ("mon wed 08:00-12:00", "mon,wed"),
        ("mon,,tue 08:00-12:00", "days are mon"),
        ("mon- 08:00-12:00", "days and times"),
        ("mon-wed-fri 08:00-12:00", "mon,wed"),
        ("daily,mon 08:00-12:00", "days are mon"),
        ("mon 08:00-12:00-13:00", "07:30"),
        ("mon \u0660\u0668:00-12:00", "07:30"),
    ],
)
def test_what_is_no_span_says_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_span(text)
    assert caught.value.kind is Kind.WINDOW
    assert hint in caught.value.hint


def test_dates() -> None:
    assert parse_dates("2026-12-25") == parse_dates("20261225") == (date(2026, 12, 25), date(2026, 12, 25))
    assert parse_dates("2026-12-24 .. 2027-01-01") == (date(2026, 12, 24), date(2027, 1, 1))
    for text in (
        "",
        "today",
        "25.12.2026",
        "2026-02-30",
        "..2026-12-25",
        "2026-12-25..",
        "2026-12-25..2026-12-24",
        "a..b..c",
    ):
        with pytest.raises(ExpressionError) as caught:
            parse_dates(text)
        assert caught.value.kind is Kind.WINDOW
        assert "2026-12-24..2027-01-01" in caught.value.hint


def test_what_overlaps_or_meets_is_one() -> None:
    assert window("mon 08:00-12:00", "mon 11:00-13:00", "mon 13:00-14:00").spans == ((480, 840),)
    closed = window(
        "daily 00:00-24:00", closed=("2026-12-26", "2026-12-24..2026-12-25", "2026-12-25..2026-12-25")
    ).closed
    assert closed == ((date(2026, 12, 24), date(2026, 12, 26)),)


def test_minutes_and_midnight_count() -> None:
    night = window("fri 19:30-07:15")
    for moment, is_open in [
        ("2026-11-27T19:29:59", False),
        ("2026-11-27T19:30", True),
        ("2026-11-28T07:14:59", True),
        ("2026-11-28T07:15", False),
        ("2026-11-27T07:00", False),  # the span of a Thursday there is none
    ]:
        assert night.open_at(at(moment)) is is_open, moment


def test_an_excepted_date_is_closed_from_midnight_to_midnight() -> None:
    night = window("daily 19:00-07:00", closed=("2026-12-25",))
    assert night.next_close(at("2026-12-24T20:00")) == at("2026-12-25T00:00")
    assert night.next_open(at("2026-12-24T20:00")) == at("2026-12-26T00:00"), "what began on the 25th goes on"
    assert night.next_close(at("2026-12-25T20:00")) == at("2026-12-26T07:00")


def test_the_clock_counts_where_it_changes() -> None:
    """In Berlin 02:00 to 03:00 does not come on 29 March 2026 and comes twice on 25 October."""
    early = window("daily 02:00-03:00")
    assert early.next_open(at("2026-03-28T12:00")) == at("2026-03-30T02:00")
    assert early.next_open(at("2026-10-24T12:00")) == at("2026-10-25T02:00")
    assert early.next_close(at("2026-10-24T12:00")) == at("2026-10-25T03:00")
    assert at("2026-10-25T03:00") - at("2026-10-25T02:00") == timedelta(hours=2)
    half = window("daily 02:30-02:45")
    opened = half.next_open(at("2026-10-25T02:46"))
    assert opened == at("2026-10-25T02:30+"), "open both times"
    assert window("daily 02:30-04:00").next_open(at("2026-03-29T00:00")) == at("2026-03-29T03:00")
    assert window("daily 01:00-02:30").next_close(at("2026-03-29T01:30")) == at("2026-03-29T03:00")
    # Open all week but for the hour that does not come.
    gap = window("mon-sat 00:00-24:00", "sun 00:00-02:00", "sun 03:00-24:00")
    assert gap.next_close(at("2026-03-22T12:00")) == at("2026-04-05T02:00")


def test_never_is_none() -> None:
    now = at("2026-11-25T12:00")
    always, never = window("daily 00:00-24:00"), window()
    assert always.always_open
    assert always.open_at(now)
    assert [always.next_change(now), always.next_open(now), always.next_close(now)] == [None] * 3
    assert [never.next_change(now), never.next_open(now), never.next_close(now)] == [None] * 3
    over = window("daily 08:00-09:00", closed=("2026-01-01..9999-12-31",))
    assert [over.next_change(now), over.next_open(now), over.next_close(now)] == [None] * 3
    ending = window("daily 00:00-24:00", closed=("2026-12-01..9999-12-31",))
    assert not ending.always_open
    assert ending.next_close(now) == at("2026-12-01T00:00")
    assert ending.next_open(now) is None


def test_years_are_no_matter() -> None:
    now = at("2026-11-25T12:00")
    assert window("sat 10:00-11:00", closed=("2026-01-01..2126-01-01",)).next_open(now) == at("2126-01-05T10:00")
    assert window("daily 00:00-24:00", closed=("2126-01-01",)).next_close(now) == at("2126-01-01T00:00")


# --- What a node allows ----------------------------------------------------------------------------------------------

WINDOWS = {"night": window("daily 19:00-07:00"), "weekend": window("sat,sun 00:00-24:00")}
DAY, NIGHT = at("2026-11-25T12:00"), at("2026-11-25T20:00")


def node(*uses: WindowUse, **limits: int) -> Node:
    return Node(name="n", ae_title="N", host="h", port=1, windows=uses, limits=NodeLimits(**limits))


def test_the_first_window_that_is_open_counts_over_the_limits_of_the_node() -> None:
    uses = (
        WindowUse(window="weekend", associations=8),
        WindowUse(window="night", associations=6, duty=0.5),
        WindowUse(associations=1, queries_per_minute=10),
    )
    made = node(*uses, associations=2, moves_per_hour=400)
    assert allowance(made, WINDOWS, DAY) == Allowance(
        open=True, associations=1, moves_per_hour=400, queries_per_minute=10
    )
    assert allowance(made, WINDOWS, NIGHT) == Allowance(open=True, associations=6, moves_per_hour=400, duty=0.5)
    assert allowance(made, WINDOWS, at("2026-11-28T20:00")).associations == 8
    assert opens_at(made, WINDOWS, DAY) is None
    assert changes_at(made, WINDOWS, DAY) == at("2026-11-25T19:00")
    assert changes_at(made, WINDOWS, at("2026-11-27T20:00")) == at("2026-11-28T00:00")


def test_a_node_without_windows_is_open() -> None:
    made = node(associations=3)
    assert allowance(made, {}, DAY) == Allowance(open=True, associations=3)
    assert opens_at(made, {}, DAY) is None
    assert changes_at(made, {}, DAY) is None


def test_where_no_window_is_open_the_next_one_to_open_is_told() -> None:
    made = node(WindowUse(window="weekend"), WindowUse(window="night"))
    assert not allowance(made, WINDOWS, DAY).open
    assert opens_at(made, WINDOWS, DAY) == changes_at(made, WINDOWS, DAY) == at("2026-11-25T19:00")
    assert opens_at(made, WINDOWS, NIGHT) is None
    assert opens_at(node(WindowUse(window="never")), {"never": window()}, DAY) is None


def test_what_stands_after_always_changes_nothing() -> None:
    assert changes_at(node(WindowUse(), WindowUse(window="night")), WINDOWS, DAY) is None
