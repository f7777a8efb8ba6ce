"""When the transfers under way end, if they go on as they did. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from router.domain.transfer import State, Transfer

LEAST = timedelta(seconds=2)
"""What is seen for a shorter time says nothing about the pace."""
FARTHEST = timedelta(days=7)


class Mark(NamedTuple):
    """Where a move stood when it was seen first."""

    fence: int
    """Which of the transfer's moves it was."""
    done: int
    """Sub-operations that had ended."""
    at: datetime


def marks(before: Mapping[int, Mark], live: Iterable[Transfer]) -> dict[int, Mark]:
    """A mark for each that moves: of a move that was seen before the one it had."""
    kept: dict[int, Mark] = {}
    for one in live:
        if one.state is State.MOVING:
            known = before.get(one.id)
            kept[one.id] = known if known is not None and known.fence == one.fence else _first(one)
    return kept


def ends_at(transfer: Transfer, mark: Mark | None) -> datetime | None:
    """When it ends, counted from what it has done since the mark; None where that says nothing."""
    total = transfer.instance_count if transfer.expected is None else transfer.expected
    if mark is None or total is None:
        return None
    done = _done(transfer)
    gained, took, left = done - mark.done, transfer.updated_at - mark.at, total - done
    if gained <= 0 or took < LEAST or left < 0:
        return None
    needs = left / gained * took.total_seconds()
    return transfer.updated_at + timedelta(seconds=needs) if needs < FARTHEST.total_seconds() else None


def _first(transfer: Transfer) -> Mark:
    if not transfer.attempts and not transfer.rounds and transfer.started_at is not None:
        return Mark(transfer.fence, 0, transfer.started_at)  # the first of its moves began with nothing
    return Mark(transfer.fence, _done(transfer), transfer.updated_at)


def _done(transfer: Transfer) -> int:
    return transfer.completed + transfer.failed
