"""When a study leaves the store, or why it stays, as the `store` commands say it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from router.domain.retention import Leaving, Why

_WORDS = {"": "now", Why.ROOM: "when full"}


class Leave(NamedTuple):
    """Why a study stays (empty: it leaves), the sentence about it, and when it may leave, where that is known."""

    why: str
    reason: str
    at: datetime | None = None

    @property
    def word(self) -> str:
        """For a column: a time, or one word."""
        return f"{self.at.astimezone():%Y-%m-%d %H:%M}" if self.at is not None else _WORDS.get(self.why, self.why)


def by_study(decided: Leaving | None) -> dict[str, Leave]:
    """What is decided about each study; empty where nothing ever leaves."""
    if decided is None:
        return {}
    leaves = {one.study_instance_uid: Leave("", "It leaves now.") for one in decided.leave}
    return leaves | {one.study.study_instance_uid: Leave(one.why, one.reason, one.until) for one in decided.stay}
