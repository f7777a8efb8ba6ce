"""Tables that fit a terminal, whatever its size, and say how much of them does not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from router.cli.board_lines import Column, Row, Section, drawn, share

_WORDS = st.text(st.sampled_from("ab 中ä-"), max_size=30)
_ROWS = st.lists(st.builds(lambda one, two, below: Row([Text(one), Text(two)], below), _WORDS, _WORDS, _WORDS))
_SECTIONS = st.lists(_ROWS, max_size=5).map(
    lambda parts: [section(f"things{n}", *rows) for n, rows in enumerate(parts)]
)


def section(name: str, *rows: Row, empty: str = "") -> Section:
    return Section(name, [Column("one"), Column("two", right=True)], rows, empty)


def row(number: int, below: str = "") -> Row:
    return Row([Text(f"name-{number}"), Text(str(number))], below)


def lines(sections: list[Section], width: int, height: int | None) -> list[str]:
    return [line.plain for line in drawn(sections, width, height)]


@given(_SECTIONS, st.integers(1, 120), st.integers(0, 40))
def test_no_line_is_wider_and_no_screen_higher_than_the_terminal(
    sections: list[Section], width: int, height: int
) -> None:
    shown = lines(sections, width, height)
    assert len(shown) <= height
    assert all(cell_len(line) <= width for line in shown)


@given(st.lists(st.integers(0, 30), max_size=5), st.integers(1, 60))
def test_every_row_is_shown_or_counted(sizes: list[int], height: int) -> None:
    sections = [section(f"things{n}", *map(row, range(size))) for n, size in enumerate(sizes)]
    shown = lines(sections, 200, height)
    rows = sum(line.startswith("name-") for line in shown)
    more = sum(int(count) for line in shown for count in re.findall(r"^and (\d+) more", line))
    left_out = sum(int(count) for line in shown for count in re.findall(r"(\d+) things\d", line))
    assert rows + more + left_out == sum(sizes)


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 100))
def test_lines_are_shared_so_that_nobody_has_too_many_while_another_lacks_some(wanted: list[int], room: int) -> None:
    given_ = share(wanted, room)
    assert sum(given_) == min(room, sum(wanted))
    short = [got for got, most in zip(given_, wanted, strict=True) if got < most]
    assert max(given_, default=0) <= min(short, default=1000) + 1


def test_what_fits_stands_apart_and_what_does_not_closes_up() -> None:
    sections = [section("cats", row(1), row(2)), section("dogs", row(3))]
    assert lines(sections, 40, 6) == ["one     two", "name-1    1", "name-2    2", "", "one     two", "name-3    3"]
    assert lines(sections, 40, 5) == ["one     two", "name-1    1", "name-2    2", "one     two", "name-3    3"]
    assert lines(sections, 40, 4) == ["one     two", "name-1    1", "name-2    2", "not shown: 1 dogs"]


def test_what_is_said_below_a_row_never_parts_from_it() -> None:
    sections = [section("cats", *(row(n, "It waits.") for n in range(9)))]
    assert lines(sections, 80, 7) == [
        "one     two", "name-0    0", "  It waits.", "name-1    1", "  It waits.", "and 7 more",
    ]  # fmt: skip


def test_what_is_said_below_is_broken_at_a_word_on_a_narrow_terminal() -> None:
    one = section("cats", row(1, "route a -> b is stopped: the destination is unknown"))
    assert lines([one], 40, None)[2:] == ["  route a -> b is stopped: the", "  destination is unknown"]
    assert lines([one], 24, None)[2:] == ["  route a -> b is", "  stopped: the destinat…"]


@pytest.mark.parametrize("height", [None, 1])
def test_a_section_without_rows_says_so_or_is_left_out(height: int | None) -> None:
    assert lines([section("cats"), section("dogs", empty="No dogs.")], 40, height) == ["No dogs."]


def test_the_widest_column_gives_way_first() -> None:
    one = section("cats", Row([Text("a" * 30), Text("b" * 6)]))
    assert lines([one], 20, None)[1] == "aaaaaaaaaaa…  bbbbbb"
