"""How many associations a node is asked to carry after it said that there are too many. Pure: times are given.

Additive increase, multiplicative decrease: half of them at once, then one more for each good minute.
"""

from __future__ import annotations

import msgspec

STEP_SECONDS = 60.0
"""One association more for so long without a rejection."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds in which nothing is sent after a rejection; doubles while that goes on."""


class Throttle(msgspec.Struct, frozen=True, kw_only=True):
    """Associations in use for a node, where they are fewer than it is allowed.

    Times are of one clock that never goes back.
    """

    limit: int | None = None
    """None: as many as it is allowed."""
    cut_at: float = float("-inf")
    changed_at: float = float("-inf")
    pause: float = 0.0
    paused_until: float = float("-inf")

    def allowed(self, associations: int) -> int:
        """How many may be in use of those that are allowed."""
        return associations if self.limit is None else min(self.limit, associations)

    def rejected(self, in_use: int, associations: int, began: float, now: float, *, pause: bool = True) -> Throttle:
        """The node had too much with so many in use. Requests that began before the last cut say nothing new."""
        if began < self.cut_at:
            return self
        limit = max(1, min(in_use, self.allowed(associations)) // 2)
        seconds = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self.pause)) if pause else self.pause
        return Throttle(
            limit=limit if limit < associations else None,
            cut_at=now,
            changed_at=now,
            pause=seconds,
            paused_until=now + seconds if pause else self.paused_until,
        )

    def succeeded(self, associations: int, now: float) -> Throttle:
        """A request was answered."""
        limit, changed_at = self.limit, self.changed_at
        if limit is not None and now - changed_at >= STEP_SECONDS:
            limit, changed_at = limit + 1, now
        if limit is not None and limit >= associations:
            limit = None
        if (limit, self.pause) == (self.limit, 0.0):
            return self
        return msgspec.structs.replace(self, limit=limit, changed_at=changed_at, pause=0.0)
