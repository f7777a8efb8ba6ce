"""How relevant a study is to the current one: 0 to 100, and what that is made of. Pure."""

from __future__ import annotations

from typing import NamedTuple

from router.domain.prior_condition import Study, View

SAME_ANATOMY, NEAR_ANATOMY, SAME_MODALITY, SAME_PROCEDURE, RECENCY, PER_YEAR = 50, 25, 25, 5, 20, 2
"""Points. Recency is what the newest have; each whole year of age takes PER_YEAR of it away."""


class Score(NamedTuple):
    """Points, and how they add up."""

    points: int
    breakdown: str


def score(view: View, study: Study) -> Score:
    """What a study scores. Without a date it has no points for recency."""
    parts: list[tuple[str, int]] = []
    if not study.regions.isdisjoint(view.current.regions):
        parts.append(("anatomy same", SAME_ANATOMY))
    elif not study.regions.isdisjoint(view.neighbours):
        parts.append(("anatomy near", NEAR_ANATOMY))
    if not study.images.isdisjoint(view.current.images):
        parts.append(("modality same", SAME_MODALITY))
    if _same_procedure(view, study):
        parts.append(("procedure same", SAME_PROCEDURE))
    parts.append(("recency", _recency(view, study)))
    return Score(sum(points for _, points in parts), " + ".join(f"{name} {points}" for name, points in parts))


def _same_procedure(view: View, study: Study) -> bool:
    """Whether a code of both procedures is the same; schemes count where both sides have one."""
    return any(
        ours.value == theirs.value and (not ours.scheme or not theirs.scheme or ours.scheme == theirs.scheme)
        for ours in view.current.examination.codes
        for theirs in study.examination.codes
    )


def _recency(view: View, study: Study) -> int:
    day = study.examination.date
    if day is None:
        return 0
    years = view.day.year - day.year - ((view.day.month, view.day.day) < (day.month, day.day))
    return max(0, RECENCY - PER_YEAR * max(0, years))
