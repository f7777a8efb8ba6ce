"""Lines of text behind marks. Tables break what is too long, but take their time: what fits is put together here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text


def in_lines(
    out: Console, rows: Sequence[Sequence[Text]], *, indent: int = 0, widths: Sequence[int] = (), gap: int = 1
) -> Text | None:
    """Rows as lines, each cell but the last as wide as its column (and `widths`); None where one would be broken."""
    columns = len(rows[0])
    least = [*widths, *[0] * (columns - len(widths))]
    wide = [max(least[place], *(row[place].cell_len for row in rows)) for place in range(columns - 1)]
    room, lines = out.width, []
    for row in rows:
        line = Text(" " * indent)
        for cell, width in zip(row, wide, strict=False):
            line.append_text(cell).append(" " * (width - cell.cell_len + gap))
        line.append_text(row[-1])
        if line.cell_len > room or "\n" in line.plain:
            return None
        lines.append(line)
    return Text("\n").join(lines)
