"""What becomes history, and how gently: the place of a pass over what has ended, and how much each step takes. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from router.domain.transfer import State

MOST = 500
"""Transfers that one step looks at, at most."""
STEP_SECONDS = 0.1
"""How long a step is to take: whoever claims or finishes meanwhile may wait for it."""
PAUSE_SECONDS = 0.1
"""The shortest rest after a step."""
_FEWEST = 20


class Mark(msgspec.Struct, frozen=True):
    """The last transfer a pass has looked at: passes go state by state, and in each from what ended first."""

    state: State
    finished_at: datetime
    transfer_id: int


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did."""

    moved: int
    """Transfers that are in the history now."""
    mark: Mark | None
    """From where the next step goes on; None: the pass is over."""


def next_step(size: int, seconds: float) -> int:
    """How many transfers the next step takes, after one of this size took so long: about STEP_SECONDS' worth."""
    if seconds <= 0:
        return MOST
    # At most twice as many: a step that found little to do says little about one that has much.
    return max(_FEWEST, int(min(MOST, 2 * size, size * STEP_SECONDS / seconds)))


def rest_after(seconds: float) -> float:
    """How long to leave the ledger to others after a step that took so long, in seconds."""
    return max(PAUSE_SECONDS, seconds)
