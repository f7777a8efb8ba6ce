"""Lines behind marks, put together without a table."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from router.cli.lines import in_lines

_WORDS = st.text(st.sampled_from("ab \u4e2d\u00e4-"), min_size=1, max_size=12).map(str.strip).filter(bool)


def printed(what: Text | Padding) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80, highlight=False).print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@given(st.lists(st.tuples(_WORDS, _WORDS, _WORDS), min_size=1, max_size=4), st.integers(0, 6), st.integers(0, 18))
def test_lines_that_fit_are_those_of_a_table(rows: list[tuple[str, str, str]], indent: int, least: int) -> None:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, min_width=least or None)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    cells = [tuple(map(Text, row)) for row in rows]
    lines = in_lines(Console(file=io.StringIO(), width=80), cells, indent=indent, widths=(0, least))
    assert lines is not None
    assert printed(lines) == printed(Padding(grid, (0, 0, 0, indent), expand=False))


def test_what_would_be_broken_is_left_to_a_table() -> None:
    narrow = Console(file=io.StringIO(), width=20)
    assert in_lines(narrow, [(Text("skip 1:"), Text("a reason"))]) is not None
    assert in_lines(narrow, [(Text("skip 1:"), Text("a reason that is long"))]) is None
    assert in_lines(narrow, [(Text("x"), Text("two\nlines"))]) is None
