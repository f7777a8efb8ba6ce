"""What IANA zones do to clocks: the moments at which an offset changes. Pure; the time zone is handed in."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo


def offset_change(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The moment (UTC) between these two at which the offset of the zone changes, to the second."""
    offset = before.astimezone(zone).utcoffset()
    low, high = int(before.timestamp()), int(after.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)
