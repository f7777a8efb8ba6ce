"""From absolute sub-operation counters, as a PACS reports them, to increases that can be added up."""

from __future__ import annotations

from router.domain.dicom import SubOperationCounts

_COUNTED = ("completed", "failed", "warning")


class Progress:
    """The counters of one C-MOVE or C-GET.

    They are absolute per operation and may be absent, fall or start again (PS3.7 section 9.1.4 leaves them optional):
    only what exceeds the highest value seen is an increase. Where it is known how many instances were asked for
    (`expected`), no more sub-operations than that are believed, however many are reported.
    """

    def __init__(self, expected: int | None = None) -> None:
        self._expected = expected
        self._sum: int | None = None
        self.completed = 0
        self.failed = 0
        self.warning = 0
        self.remaining: int | None = None
        self.reported = SubOperationCounts()
        """The highest counters of any response, believed or not; None where there were none."""
        self.wavering = False
        """A counter fell, or the sum of all four changed from one response to the next."""

    def advance(self, counts: SubOperationCounts) -> SubOperationCounts:
        """Take a response's counters; return the increases, with the level of `remaining`."""
        self._note(counts)
        increases = {}
        for name in _COUNTED:
            before = getattr(self, name)
            increase = max(0, (getattr(counts, name) or 0) - before)
            if self._expected is not None:
                increase = min(increase, self._room)
            increases[name] = increase
            setattr(self, name, before + increase)
        remaining = counts.remaining
        if remaining is not None and self._expected is not None:
            remaining = min(remaining, self._room)
        self.remaining = remaining
        return SubOperationCounts(remaining=remaining, **increases)

    @property
    def counts(self) -> SubOperationCounts:
        """The counters that are believed: never lower than before."""
        return SubOperationCounts(self.remaining, self.completed, self.failed, self.warning)

    @property
    def _room(self) -> int:
        return max(0, (self._expected or 0) - self.completed - self.failed - self.warning)

    def _note(self, counts: SubOperationCounts) -> None:
        highest: dict[str, int | None] = {}
        for name in _COUNTED:  # remaining falls by nature
            now, before = getattr(counts, name), getattr(self.reported, name)
            self.wavering = self.wavering or (now is not None and before is not None and now < before)
            highest[name] = before if now is None else max(now, before or 0)
        self.reported = SubOperationCounts(None, **highest)
        if None not in counts:
            whole = sum(number or 0 for number in counts)
            self.wavering = self.wavering or (self._sum is not None and whole != self._sum)
            self._sum = whole
