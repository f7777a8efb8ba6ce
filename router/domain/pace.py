"""How fast a node is asked: so many requests in any span of time, and a rest after each. No clock: times are given."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence

LATE_SECONDS = 10.0
"""A request may reach the node so long after it was let go, as long as it has not ended."""
_MOST = 200_000
"""Requests remembered; of more the oldest are forgotten."""
_EXACT = 256
"""Of so many requests each is packed by itself, of those before them only the minute in which it stops counting."""
_MINUTE = 60_000


class Pace:
    """Counts requests in a sliding window of so many seconds. Not thread-safe.

    A request counts from the moment it is let go until the window has passed since it reached the node, which is known
    only when it has ended.
    """

    def __init__(self, seconds: float) -> None:
        """A window of so many seconds."""
        self.seconds = seconds
        self._until: list[float] = []
        """When each stops counting, in order."""

    def begin(self, now: float) -> float:
        """Let a request go; what is returned is for `end`."""
        self._forget(now)
        until = now + LATE_SECONDS + self.seconds
        insort(self._until, until)
        return until

    def end(self, begun: float, now: float) -> None:
        """A request has ended: it had reached the node by now."""
        if now + self.seconds < begun:
            at = bisect_right(self._until, begun) - 1
            if at >= 0 and self._until[at] == begun:
                del self._until[at]
                insort(self._until, now + self.seconds)

    def recall(self, moments: Iterable[float]) -> None:
        """Requests of before, by when they reached the node."""
        self._until = sorted([*self._until, *(moment + self.seconds for moment in moments)])[-_MOST:]

    def count(self, now: float) -> int:
        """Requests that count now."""
        return len(self._until) - bisect_right(self._until, now)

    def free_at(self, most: int | None, now: float) -> float:
        """When the next request may go, if there may be so many (at least 1) in the window; `now` where it may now."""
        if most is None or self.count(now) < most:
            return now
        return self._until[-most]

    def shifted(self, seconds: float) -> Pace:
        """The same by a clock that shows so many seconds more."""
        other = Pace(self.seconds)
        other._until = [until + seconds for until in self._until]
        return other

    def packed(self, now: float) -> list[int]:
        """What still counts, in few numbers: milliseconds to the next moment, how many stop counting then, and so on.

        Errs on the safe side: the moments are rounded up, those of more than a few hundred requests to whole minutes.
        """
        counting = self._until[bisect_right(self._until, now) :]
        early = max(0, len(counting) - _EXACT)
        moments = [milliseconds(until) for until in counting]
        moments[:early] = [min(-(-moment // _MINUTE) * _MINUTE, moments[early]) for moment in moments[:early]]
        numbers: list[int] = []
        before = 0
        for moment in moments:
            if numbers and moment == before:
                numbers[-1] += 1
            else:
                numbers += [moment - before, 1]
            before = moment
        return numbers

    @classmethod
    def unpacked(cls, seconds: float, numbers: Sequence[int]) -> Pace:
        """What `packed` made."""
        self, moment = cls(seconds), 0
        for step, count in zip(numbers[::2], numbers[1::2], strict=True):
            moment += step
            self._until += [moment / 1000] * count
        return self

    def _forget(self, now: float) -> None:
        del self._until[: max(bisect_right(self._until, now), len(self._until) - _MOST + 1)]


def rest(busy: float, duty: float | None) -> float:
    """Seconds that a slot rests after it was busy, to be busy for that share (above 0, at most 1) of the time."""
    return 0.0 if duty is None else busy * (1 - duty) / duty


def ready_at(rests: Sequence[float], free: int, now: float) -> float:
    """When one of `free` slots is ready, given when the rests end that are still owed; `now` where one is."""
    owed = sorted(end for end in rests if end > now)
    return now if len(owed) < free else owed[len(owed) - max(1, free)]


def milliseconds(moment: float) -> int:
    """A moment in seconds, rounded up to whole milliseconds."""
    return math.ceil(round(moment * 1000, 3))
