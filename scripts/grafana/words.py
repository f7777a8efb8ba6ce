"""Colours, thresholds and words that mean the same on every dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OVERVIEW, NODE, RULE, STORE, PREFETCH = (
    f"dicom-router-{word}" for word in ("overview", "node", "rule", "store", "prefetch")
)
"""The uid of each dashboard."""

GOOD, POOR, BAD = "green", "orange", "red"
VERDICTS = {
    "complete": GOOD,
    "unproven": "blue",
    "nothing": "purple",
    "partial": POOR,
    "contradicted": "dark-red",
    "failed": BAD,
    "cancelled": "text",
}
OUTCOMES = {"completed": GOOD, "warning": POOR, "failed": BAD}
SWEEP_RESULTS = {"complete": GOOD, "incomplete": POOR, "failed": BAD}
ON_TIME = {"on_time": GOOD, "late": POOR, "missing": BAD}

Steps = Sequence[tuple[float | None, str]]
Words = Mapping[Any, tuple[str, str]]

FINE: Steps = ((None, GOOD),)
NONE_IS_FINE: Steps = ((None, GOOD), (1, BAD))
NONE_IS_USUAL: Steps = ((None, GOOD), (1, POOR))
ONE_IS_FINE: Steps = ((None, BAD), (1, GOOD))
LONG: Steps = ((None, GOOD), (1800, POOR), (4 * 3600, BAD))
SHARE: Steps = ((None, BAD), (0.9, POOR), (0.99, GOOD))

UP: Words = {0: ("down", BAD), 1: ("up", GOOD)}
LEFT_ALONE: Words = {0: ("asked", GOOD), 1: ("left alone", BAD)}
WINDOW: Words = {0: ("closed", "blue"), 1: ("open", GOOD)}
LEADS_OR_NOT: Steps = ((None, "blue"), (1, GOOD))
CLOSED_IS_USUAL: Steps = ((None, "blue"), (1, GOOD))
STOPPED: Words = {0: ("runs", GOOD), 1: ("stopped", BAD)}
COMPLETE: Words = {0: ("incomplete or none", BAD), 1: ("complete", GOOD)}
LEADS: Words = {0: ("follows", "blue"), 1: ("leads", GOOD)}
RELOAD: Words = {0: ("rejected", BAD), 1: ("in force", GOOD)}
