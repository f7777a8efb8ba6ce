"""What is certain of date expressions at every moment from now on: which end lies before which. Pure.

Nothing is proven by trying moments out: an end is a span of days around the present, wide enough for months of
different length, for changes of the clock and for every time zone. What is not certain is not claimed.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from router.domain.clause import Test
from router.domain.timing import DateEnd, DateExpression

_MONTH = 30.436875
_UNEVEN = 4.0
"""Days by which a number of months may differ from its average."""
_CLOCK = 0.1
"""Days that a change of the clock may make."""
_ZONES = 1.1
"""Days that time zones may lie apart."""


class Edge(NamedTuple):
    """An end of a range: the start or the last moment of a day, or a moment."""

    end: DateEnd
    last: bool
    """Of a day, its last moment."""
    by_day: bool
    """A moment stands for its day."""
    later: int = 0
    """Whole days to add."""

    def span(self) -> tuple[float, float]:
        """Days from the present at which it may lie; of an end that moves with the present."""
        shift = self.end.months * _MONTH + self.end.days + self.later + self.end.seconds / 86400
        slack = _UNEVEN if self.end.months else 0.0
        before, after = (0.0, 1.0) if self.last else (-1.0, 0.0)
        if self.end.instant and not self.by_day:
            before = after = 0.0
        if not self.end.instant or self.by_day or self.end.days or self.end.months:
            slack += _CLOCK
        return shift + before - slack, shift + after + slack


class Dates(NamedTuple):
    """The days or moments from one edge to another; None: without bound."""

    first: Edge | None
    last: Edge | None


def dates_of(expression: DateExpression, by_day: bool | None = None) -> Dates:
    """Those that an expression means as an equality; with `by_day`, as days or as moments."""
    by_day = not expression.timed if by_day is None else by_day
    return Dates(Edge(expression.first, False, by_day), Edge(expression.last, True, by_day))


def dates_of_test(test: Test) -> tuple[Dates, ...]:
    """Alternatives of which a date that satisfies a matcher is in one; none where the matcher does not say."""
    expressions = [operand.dates for operand in test.operands if operand.dates is not None]
    if not expressions or len(expressions) != len(test.operands):
        return ()
    by_day = not any(expression.timed for expression in expressions)
    if test.operator in ("equals", "in"):
        return tuple(dates_of(expression, by_day) for expression in expressions)
    first, last = expressions[0], expressions[-1]
    day = 1 if by_day else 0  # what is later than a day is the following one at least
    return {
        "between": (Dates(Edge(first.first, False, by_day), Edge(last.last, True, by_day)),),
        "gt": (Dates(Edge(last.last, False, by_day, day), None),),
        "gte": (Dates(Edge(first.first, False, by_day), None),),
        "lt": (Dates(None, Edge(first.first, True, by_day, -day)),),
        "lte": (Dates(None, Edge(last.last, True, by_day)),),
    }.get(test.operator, ())


def covers(outer: DateExpression, inner: DateExpression, now: datetime) -> bool:
    """Whether, as matching keys, all that the inner one takes the outer one takes: now and later."""
    if (outer.first, outer.last, outer.timed) == (inner.first, inner.last, inner.timed):
        return True
    wide, narrow = dates_of(outer), dates_of(inner)
    if wide.first is None or wide.last is None or narrow.first is None or narrow.last is None:
        return False
    return _not_after(wide.first, narrow.first, now) and _not_after(narrow.last, wide.last, now)


def apart(one: Dates, other: Dates, now: datetime) -> bool:
    """Whether no study can be in both: now and later."""
    return _before(one.last, other.first, now) or _before(other.last, one.first, now)


def _before(last: Edge | None, first: Edge | None, now: datetime) -> bool:
    """Whether the end of one range lies before the start of another for every study.

    Days are compared as days. With moments a study counts as all that its date may mean, in a time zone of its own.
    """
    if last is None or first is None:
        return False
    if last.by_day and first.by_day and (days := _days_between(last, first)) is not None:
        return days > 0
    return _distance(last, first, now) > _ZONES + 1


def _not_after(one: Edge, other: Edge, now: datetime) -> bool:
    a, b = one.end, other.end
    if (days := _days_between(one, other)) is not None:
        return days > 0 or (days == 0 and one.last <= other.last)
    if a.instant and b.instant and (a.months, a.days) == (b.months, b.days) and not one.by_day and not other.by_day:
        return a.seconds <= b.seconds
    return _distance(one, other, now) >= 0


def _days_between(one: Edge, other: Edge) -> int | None:
    """Days from the one to the other where both are days, and both of the calendar or both counted from today."""
    a, b = one.end, other.end
    later = other.later - one.later
    if a.day is not None and b.day is not None:
        return (b.day - a.day).days + later
    both_count = a.day is None and b.day is None and not a.instant and not b.instant
    return b.days - a.days + later if both_count and a.months == b.months else None


def _distance(one: Edge, other: Edge, now: datetime) -> float:
    """Days from the one to the other at least, now and later; less than nothing where that is not certain."""
    if one.end.day is not None and other.end.day is not None:
        return float((_days_between(one, other) or 0) - 1)
    if other.end.day is not None:
        return -1.0  # the one comes nearer every day
    earliest = other.span()[0]
    if one.end.day is not None:
        return earliest - ((one.end.day - now.date()).days + one.later + 1 + _ZONES)
    return earliest - one.span()[1]
