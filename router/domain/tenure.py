"""For how long work may go on without the ledger. Pure; times are monotonic seconds."""

from __future__ import annotations

LEASE_SECONDS = 60.0
"""A claim that was not renewed for so long is another's to take."""
CUT_OFF_SECONDS = 45.0
"""Work whose claim could not be renewed for so long is ended: there is time left to, before somebody else begins it."""


class Tenure:
    """How a claim is held. `at`: when the claim was asked for, which is not later than when it was given."""

    def __init__(self, at: float) -> None:
        self._kept_at = at

    def keep(self, at: float) -> None:
        """It was renewed; `at`: when that was asked for."""
        self._kept_at = max(self._kept_at, at)

    def is_over(self, at: float) -> bool:
        """Whether it is time to let go: it was not renewed for too long."""
        return at - self._kept_at >= CUT_OFF_SECONDS
