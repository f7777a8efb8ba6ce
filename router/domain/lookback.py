"""How far a sweep looks back: its own window, and what the sweeps since the last complete one may have missed. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

from router.domain.dicom import tag_of
from router.domain.key import KeyMatch, KeyValue
from router.domain.rule import Sweep
from router.domain.timing import DateExpression

_STUDY_DATE = tag_of("StudyDate")
_USUAL_PERIODS = 2
"""The last complete sweep is usually no older than so many periods of its tier."""
_PERIOD_SECONDS = 86400.0
"""Taken for the period of a tier that runs by cron."""


class SweepKeys(NamedTuple):
    """The matching keys of one sweep."""

    keys: tuple[KeyMatch, ...]
    further: timedelta = timedelta()
    """How much earlier the window begins than usual."""


def sweep_keys(sweep: Sweep, tier: int, *, now: datetime, zone: tzinfo, watermark: datetime | None) -> SweepKeys:
    """The keys of a sweep of this tier at `now`: the tier's look-back stands in the place of the Study Date.

    `watermark` is when the last complete sweep of the tier was due, or else the first of all (None: there was none, or
    it does not matter). What that one could not see begins there: a look-back, and a date range that moves with the
    present, begin as early as they would have then, `sweep.catch_up` earlier at most.
    """
    late = min(max(0.0, (now - watermark).total_seconds()), sweep.catch_up) if watermark is not None else 0.0
    lookback = sweep.tiers[tier].lookback if tier < len(sweep.tiers) else None
    further = timedelta(seconds=late) if late > _usual(sweep, tier) else timedelta()
    if lookback is not None:
        key = KeyMatch.of_date("StudyDate", DateExpression.looking_back(lookback + late))
        return SweepKeys((key, *(one for one in sweep.keys if one.tag != _STUDY_DATE)), further)
    if not late:
        return SweepKeys(sweep.keys)
    before = now - timedelta(seconds=late)
    keys, widened = [], False
    for key in sweep.keys:
        if key.tag == _STUDY_DATE and any(_moves(value) for value in key.values):
            key = KeyMatch(key.name, key.tag, tuple(_widened(value, before, now, zone) for value in key.values))
            widened = True
        keys.append(key)
    return SweepKeys(tuple(keys), further if widened else timedelta())


def _moves(value: KeyValue) -> bool:
    """Whether it begins earlier the earlier it is asked: an absolute date never does."""
    return value.dates is not None and value.dates.first.day is None


def _widened(value: KeyValue, before: datetime, now: datetime, zone: tzinfo) -> KeyValue:
    if value.dates is None or not _moves(value):
        return value
    (widened,) = KeyMatch.of_date("StudyDate", value.dates.beginning(before, now, zone)).values
    return widened


def _usual(sweep: Sweep, tier: int) -> float:
    every = sweep.tiers[tier].schedule.every if tier < len(sweep.tiers) else None
    return _USUAL_PERIODS * (every or _PERIOD_SECONDS)


def looked_back(further: timedelta) -> str:
    """A sentence about a window that began earlier than usual."""
    seconds = further.total_seconds()
    span = f"{seconds:.0f} seconds"
    for size, least, unit in ((60, 120, "minutes"), (3600, 7200, "hours"), (86400, 172800, "days")):
        if seconds >= least:
            span = f"{seconds / size:.1f} {unit}"
    return f"It looked back {span} further, to where the last complete sweep had looked."
