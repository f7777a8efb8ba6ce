"""From absolute sub-operation counters, as a PACS reports them, to increases that can be added up."""

from __future__ import annotations

from router.domain.dicom import SubOperationCounts


class Progress:
    """The counters of one C-MOVE.

    They are absolute per operation and may be absent, fall or start again (protocol facts in PS3.7 section 9.1.4 leave
    them optional): only what exceeds the highest value seen is an increase.
    """

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.warning = 0
        self.remaining: int | None = None

    def advance(self, counts: SubOperationCounts) -> SubOperationCounts:
        """Take a response's counters; return the increases, with the level of `remaining`."""
        increase = SubOperationCounts(
            remaining=counts.remaining,
            completed=max(0, (counts.completed or 0) - self.completed),
            failed=max(0, (counts.failed or 0) - self.failed),
            warning=max(0, (counts.warning or 0) - self.warning),
        )
        self.completed += increase.completed or 0
        self.failed += increase.failed or 0
        self.warning += increase.warning or 0
        self.remaining = counts.remaining
        return increase

    @property
    def counts(self) -> SubOperationCounts:
        """The highest counters seen."""
        return SubOperationCounts(self.remaining, self.completed, self.failed, self.warning)
