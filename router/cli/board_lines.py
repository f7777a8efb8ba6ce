"""Tables whose every row is a known number of lines, however narrow a terminal is, and sharing its height. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

GAP = 2
_INDENT = 2
LEAST = 4
"""Columns of a terminal that no column of a table gives up."""
ROOMY = 70
"""Columns of a terminal on which what is said below a row is one line; else it may be two."""
_LEAST_LINES = 4
"""A table that has not so many, or all of its own, is left out: its head, a row with a line below it, and a count."""


class Column(NamedTuple):
    """A column of a table."""

    name: str
    right: bool = False
    firm: bool = False
    """It is never cut: numbers, times and bars."""


class Row(NamedTuple):
    """A row of a table, and what is said below it."""

    cells: Sequence[Text]
    below: str = ""


class Section(NamedTuple):
    """A table. Its name, a plural, is said where there is no room for it; its columns have names of their own."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    empty: str = ""
    """What is said where there are no rows; without it the section is left out then."""


def share(wanted: Sequence[int], room: int) -> list[int]:
    """How many lines each gets of so many: what it wants, or as much as the others that want more."""
    given = [0] * len(wanted)
    while room > 0 and (open_ := [place for place, most in enumerate(wanted) if given[place] < most]):
        each = max(1, room // len(open_))
        for place in open_:
            more = min(each, wanted[place] - given[place], room)
            given[place] += more
            room -= more
    return given


def drawn(sections: Sequence[Section], width: int, height: int | None) -> list[Text]:
    """The sections as lines, an empty one between them; what does not fit is counted. `height` None: all fits."""
    shown = [section for section in sections if section.rows or section.empty]
    wholes = [_lines(section, width, None) for section in shown]
    if height is None or sum(map(len, wholes)) + len(wholes) - 1 <= height:
        return _joined(wholes, spaced=True)
    least = [min(_LEAST_LINES, len(whole)) for whole in wholes]
    kept = len(shown)
    while kept and sum(least[:kept]) + (kept < len(shown)) > height:
        kept -= 1
    left_out = [f"{len(section.rows)} {section.name}" for section in shown[kept:]]
    rooms = share([len(whole) for whole in wholes[:kept]], height - bool(left_out))
    lines = _joined([_lines(one, width, room) for one, room in zip(shown, rooms, strict=False)], spaced=False)
    return [*lines, cut(Text(f"not shown: {', '.join(left_out)}", "dim"), width)][:height] if left_out else lines


def _joined(parts: Sequence[Sequence[Text]], *, spaced: bool) -> list[Text]:
    lines: list[Text] = []
    for part in parts:
        if lines and part and spaced:
            lines.append(Text())
        lines += part
    return lines


def _lines(section: Section, width: int, room: int | None) -> list[Text]:
    """A section in so many lines."""
    if not section.rows:
        return [cut(Text(section.empty, "dim"), width)]
    table = [[Text(column.name, "bold") for column in section.columns], *(row.cells for row in section.rows)]
    widths = _widths(section.columns, table, width)
    lines = [_line(section.columns, table[0], widths, width)]
    broken = room is None and width < ROOMY
    blocks = [
        [_line(section.columns, row.cells, widths, width), *_below(row.below, width, broken=broken)]
        for row in section.rows
    ]
    if room is None or len(lines) + sum(map(len, blocks)) <= room:
        return [*lines, *(line for block in blocks for line in block)]
    left = len(blocks)
    for block in blocks:
        if len(lines) + len(block) + 1 > room:
            break
        lines += block
        left -= 1
    return [*lines, cut(Text(f"and {left} more", "dim"), width)]


def _below(sentence: str, width: int, *, broken: bool) -> list[Text]:
    """What is said below a row; `broken` at words into two lines where it is too long for one."""
    if not sentence:
        return []
    first, rest = sentence, ""
    while broken and cell_len(first) > width - _INDENT and " " in first:
        first, _, word = first.rpartition(" ")
        rest = f"{word} {rest}".rstrip()
    return [cut(Text(" " * _INDENT + part, "yellow"), width) for part in (first, rest) if part]


def _widths(columns: Sequence[Column], table: Sequence[Sequence[Text]], width: int) -> list[int]:
    """The widths of the columns: the widest that may be cut gives way until the table fits."""
    widths = [max(row[place].cell_len for row in table) for place in range(len(columns))]
    excess = sum(widths) + GAP * (len(columns) - 1) - width
    while excess > 0:
        loose = [place for place, column in enumerate(columns) if not column.firm and widths[place] > LEAST]
        if not loose:
            break
        widest = max(loose, key=lambda place: widths[place])
        widths[widest] -= 1
        excess -= 1
    return widths


def _line(columns: Sequence[Column], cells: Sequence[Text], widths: Sequence[int], width: int) -> Text:
    line = Text()
    for place, (column, cell, wide) in enumerate(zip(columns, cells, widths, strict=True)):
        cell = cut(cell, wide)
        space = " " * (wide - cell.cell_len)
        if place:
            line.append(" " * GAP)
        line = line.append(space).append_text(cell) if column.right else line.append_text(cell).append(space)
    line.rstrip()
    return cut(line, width)


def cut(text: Text, width: int) -> Text:
    """The text in so many columns, with an ellipsis where it does not fit."""
    cropped = text.copy()
    cropped.truncate(width, overflow="ellipsis")
    return cropped
