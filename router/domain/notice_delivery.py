"""How notifications reach people: when one that did not is tried again, and when it is given up. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from router.domain.notice_group import Notification

GIVEN_UP_AFTER = timedelta(hours=24)
"""What could not be delivered for so long is given up."""
REMEMBERED = timedelta(days=2)
"""How long a notification that was delivered or given up is remembered."""
_FIRST_PAUSE = timedelta(seconds=30)
_LONGEST_PAUSE = timedelta(minutes=30)
LONGEST_ASKED = timedelta(hours=2)
"""Nobody is left alone for longer, whatever he asks for."""
_REFUSALS = 5
"""Attempts after which a message that is itself refused is given up: others wait behind it."""

SENT, FAILED, GIVEN_UP, SUPPRESSED = "sent", "failed", "given_up", "suppressed"
RESULTS = (SENT, FAILED, GIVEN_UP, SUPPRESSED)
"""What became of a notification, or of an attempt: suppressed ones were told in a summary instead."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A notification that is on its way."""

    id: int
    notification: Notification
    made_at: datetime
    attempts: int = 0
    """Attempts to deliver it, this one included. It says as well whose turn it is: a claim that was lost has fewer."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A notification as it is remembered."""

    notification: Notification
    made_at: datetime
    attempts: int
    result: str
    """`sent` or `given_up`; empty while it is on its way."""
    reason: str
    """Why the latest attempt to deliver it failed; once it is sent, what there is to remark of that."""
    next_at: datetime
    """When the next attempt is due, while it is on its way."""
    finished_at: datetime | None


def tried_again_at(
    delivery: Delivery, now: datetime, asked_seconds: float | None = None, *, refused: bool = False
) -> datetime | None:
    """When an attempt that failed now is followed by another; None: never, it is given up.

    `asked_seconds`: how long the other side asked to be left alone. `refused`: it does not want this very message.
    """
    pause = min(_FIRST_PAUSE * 2 ** min(delivery.attempts - 1, 10), _LONGEST_PAUSE)
    if asked_seconds is not None:
        pause = max(pause, min(timedelta(seconds=max(0.0, min(asked_seconds, 1e6))), LONGEST_ASKED))
    hopeless = now - delivery.made_at >= GIVEN_UP_AFTER or (refused and delivery.attempts >= _REFUSALS)
    return None if hopeless else now + pause
