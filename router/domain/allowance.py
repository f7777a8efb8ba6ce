"""What a node allows at a moment: its own limits, or those of its window that is open then. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from router.domain.rule import Node
from router.domain.window import Window


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that hold for a node at a moment; see `router.domain.rule.NodeLimits` for their units."""

    open: bool
    """Something may be begun with the node."""
    associations: int = 1
    queries_per_minute: int | None = None
    moves_per_hour: int | None = None
    duty: float | None = None
    incoming: int | None = None


_LIMITS = ("associations", "queries_per_minute", "moves_per_hour", "duty", "incoming")


def allowance(node: Node, windows: Mapping[str, Window], now: datetime) -> Allowance:
    """The limits at a moment (aware). Where no window of the node is open, its own limits stand but nothing begins."""
    limits = node.limits
    uses = [use for use in node.windows if use.window is None or windows[use.window].open_at(now)]
    use = uses[0] if uses else None
    values = {
        name: limits_value if use is None or getattr(use, name) is None else getattr(use, name)
        for name in _LIMITS
        for limits_value in (getattr(limits, name),)
    }
    return Allowance(open=bool(uses) or not node.windows, **values)


def strictest(all_of: Sequence[Allowance]) -> Allowance:
    """The limits that keep within all of these (one at least)."""
    given = {name: [limit for one in all_of if (limit := getattr(one, name)) is not None] for name in _LIMITS}
    return Allowance(
        open=all(one.open for one in all_of), **{name: min(limits) for name, limits in given.items() if limits}
    )


def opens_at(node: Node, windows: Mapping[str, Window], now: datetime) -> datetime | None:
    """The next moment (UTC) at which something may be begun with the node; None where it may now, or never will."""
    if allowance(node, windows, now).open:
        return None
    opening = [windows[use.window].next_open(now) for use in node.windows if use.window is not None]
    return min((moment for moment in opening if moment is not None), default=None)


def changes_at(node: Node, windows: Mapping[str, Window], now: datetime) -> datetime | None:
    """The next moment (UTC) at which the node's allowance may change; None where it stays as it is."""
    changes = []
    for use in node.windows:
        if use.window is None:
            break  # what stands after it never counts
        changes.append(windows[use.window].next_change(now))
    return min((moment for moment in changes if moment is not None), default=None)
