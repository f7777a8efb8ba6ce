"""From when until when a sweep that moves with the present finds a study, by its date. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from router.domain.dicom import Identifier
from router.domain.key import KeyMatch
from router.domain.matcher import Evaluation
from router.domain.timing import DateEnd, DateExpression

_AWAY = timedelta(days=80 * 366)
"""How far from the present a change is looked for."""
_SECOND = timedelta(seconds=1)
_KEPT = 256
_FIRST, _LAST = DateEnd(day=date(1, 1, 2)), DateEnd(day=date(9999, 12, 30))


class Coverage(NamedTuple):
    """The moments (UTC, to the second) between which a key takes a study; None: no such moment is near."""

    since: datetime | None
    until: datetime | None


def coverage(key: KeyMatch, row: Identifier, evaluation: Evaluation) -> Coverage | None:
    """Of a key that is one date range which moves with the present; None for others, and without a date in the row."""
    dates = key.values[0].dates if len(key.values) == 1 else None
    if dates is None or not dates.relative or (dates.single and dates.first.instant):
        return None
    looked_at = {tag: row.elements[tag] for tag in sorted(key.attributes) if tag in row.elements}
    return _coverage(key, dates, tuple(looked_at.items()), evaluation)


@lru_cache(maxsize=_KEPT)
def _coverage(
    key: KeyMatch,
    dates: DateExpression,
    elements: tuple[tuple[int, tuple[str | Identifier, ...]], ...],
    evaluation: Evaluation,
) -> Coverage | None:
    """By what the key looks at: of one study many rules ask the same."""
    row = Identifier(dict(elements))
    if key.matches(row, evaluation) is None:
        return None
    begins = KeyMatch.of_date(key.name, DateExpression(dates.text, dates.first, _LAST))
    ends = KeyMatch.of_date(key.name, DateExpression(dates.text, _FIRST, dates.last))

    def at(moment: datetime) -> Evaluation:
        return evaluation._replace(now=moment)

    # As time goes by the end of the range passes the study, then its beginning does: each once.
    since = _turn(lambda moment: bool(ends.matches(row, at(moment))), evaluation.now)
    until = _turn(lambda moment: not begins.matches(row, at(moment)), evaluation.now)
    return Coverage(since, until)


def _turn(happened: Callable[[datetime], bool], now: datetime) -> datetime | None:
    """The first moment at which something has happened that stays so; None where it is not near."""
    early, late = now.astimezone(UTC).replace(microsecond=0) - _AWAY, now.astimezone(UTC).replace(microsecond=0) + _AWAY
    if happened(early) or not happened(late):
        return None
    while late - early > _SECOND:
        middle = early + ((late - early) // 2 // _SECOND) * _SECOND
        if happened(middle):
            late = middle
        else:
            early = middle
    return late
