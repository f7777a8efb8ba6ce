"""What a benchmark yields and how it is shown: series, rows with a target, table, JSON. Measures nothing itself."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Bound(Enum):
    """How our figure is held against the peer's."""

    AT_LEAST = "ratio at least"
    """Ours divided by the peer's; more is better."""
    UNDER = "ratio under"
    """Ours divided by the peer's; less is better."""
    MORE_BY_UNDER = "difference under"
    """Ours less the peer's; less is better."""


@dataclass(frozen=True)
class Target:
    """What the ratio (or the difference) should be."""

    bound: Bound
    value: float

    def figure(self, ours: float, peer: float) -> float:
        """The ratio or the difference."""
        return ours - peer if self.bound is Bound.MORE_BY_UNDER else ours / peer

    def met(self, figure: float) -> bool:
        """Whether it is reached."""
        return figure >= self.value if self.bound is Bound.AT_LEAST else figure < self.value


def at_least(ratio: float) -> Target:
    """Ours is at least so many times the peer's."""
    return Target(Bound.AT_LEAST, ratio)


def under(ratio: float) -> Target:
    """Ours stays under so many times the peer's."""
    return Target(Bound.UNDER, ratio)


def more_by_under(difference: float) -> Target:
    """Ours exceeds the peer's by less than this."""
    return Target(Bound.MORE_BY_UNDER, difference)


@dataclass(frozen=True)
class Series:
    """The figures of one contender, a value a run. `count` is how many pieces of work a run had.

    `durability` says what an acknowledged instance survives: `fsync` a power cut, `rename` a killed process, `none`
    neither (the file grows under its final name).
    """

    label: str
    values: tuple[float, ...]
    count: int = 0
    durability: str = ""

    @property
    def median(self) -> float:
        """The median over the runs."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The distance of the outermost runs as a share of the median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0

    def __str__(self) -> str:
        return f"{self.label} [{self.durability}]" if self.durability else self.label


@dataclass(frozen=True)
class Row:
    """One line of the table: our figure beside a peer's. Without a target it is there to be known."""

    work: str
    unit: str
    ours: Series
    peer: Series
    target: Target | None = None

    @property
    def figure(self) -> float:
        """The ratio of the medians, or their difference."""
        return (self.target or at_least(0)).figure(self.ours.median, self.peer.median)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.target is None else self.target.met(self.figure)


# --- The table -------------------------------------------------------------------------------------------------------

_HEADINGS = ("ours", "peer", "ours", "peer", "", "result", "target", "")
_LEFT = frozenset({0, 1, 4, 7})


def table(rows: Iterable[Row]) -> str:
    """The rows as text, those of one kind of work under its name."""
    return "\n\n".join(
        f"{work}\n{_block([_HEADINGS, *map(_cells, group)])}"
        for work, group in itertools.groupby(rows, key=lambda row: row.work)
    )


def _block(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(texts, widths) for texts in cells)


def verdict(rows: Iterable[Row]) -> str:
    """One sentence: how many targets are met, and the names of the others."""
    judged = [row for row in rows if row.met is not None]
    missed = [f"  {row.work}: {row.ours} / {row.peer}: {_figure(row)}" for row in judged if not row.met]
    summary = f"{len(judged) - len(missed)} of {len(judged)} targets met"
    return "\n".join([f"{summary}; not met:", *missed] if missed else [f"{summary}."])


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    aligned = (
        text.ljust(width) if position in _LEFT else text.rjust(width)
        for position, (text, width) in enumerate(zip(texts, widths, strict=True))
    )
    return ("  " + "  ".join(aligned)).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    outcome = {None: "", True: "met", False: "NOT MET"}[row.met]
    ours, peer = _number(row.ours.median), _number(row.peer.median)
    return (str(row.ours), str(row.peer), ours, peer, row.unit, _figure(row), _target(row.target), outcome)


def _figure(row: Row) -> str:
    if row.target is not None and row.target.bound is Bound.MORE_BY_UNDER:
        return f"{row.figure:+.1f}"
    decimals = 2 if row.figure < 10 else 1 if row.figure < 100 else 0
    # Cut off rather than rounded: 14.97 is not 15.
    return f"{math.floor(row.figure * 10**decimals + 1e-9) / 10**decimals:.{decimals}f}x"


def _target(target: Target | None) -> str:
    if target is None:
        return "-"
    return {
        Bound.AT_LEAST: f">= {target.value:g}x",
        Bound.UNDER: f"< {target.value:g}x",
        Bound.MORE_BY_UNDER: f"< {target.value:+g}",
    }[target.bound]


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


# --- JSON ------------------------------------------------------------------------------------------------------------


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows with every run's value, ready to be dumped."""
    return [
        {
            "work": row.work,
            "unit": row.unit,
            "ours": _series_as_json(row.ours),
            "peer": _series_as_json(row.peer),
            "result": row.figure,
            "target": None if row.target is None else {"bound": row.target.bound.value, "value": row.target.value},
            "met": row.met,
        }
        for row in rows
    ]


def _series_as_json(series: Series) -> dict[str, Any]:
    return {
        "label": series.label,
        "durability": series.durability or None,
        "median": series.median,
        "spread": series.spread,
        "count": series.count,
        "values": list(series.values),
    }
