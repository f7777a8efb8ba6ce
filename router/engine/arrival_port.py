"""What the engine needs of a ledger for studies that are to be passed on; a part of `ports.Ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from router.domain.arriving import ArrivalDue
from router.domain.forwarding import Known, Passage
from router.domain.passing import ArrivalReport, ArrivalState, PendingArrival
from router.domain.receipt import Receipt
from router.domain.transfer import Intent


class ArrivalLedger(Protocol):
    """Arrivals. Raises only LedgerError. Every method is one transaction; thread-safe."""

    def note_arrivals(self, dues: Sequence[ArrivalDue], now: datetime) -> None:
        """Remember that rules are to look at studies; what comes in is noted by `add_receipts`, with its receipt.

        A study that a rule waits for as a whole is due after its last instance, any other as soon as any part of it is.
        """

    def claim_arrival(self, now: datetime, lease_seconds: float) -> PendingArrival | None:
        """Take the study that has been due (or abandoned) for longest."""

    def renew_arrival(self, pending: PendingArrival, now: datetime, lease_seconds: float) -> bool:
        """Prolong the lease of one that is being looked at. False where the claim was lost."""

    def finish_arrival(
        self, pending: PendingArrival, report: ArrivalReport, passages: Sequence[Passage], now: datetime
    ) -> bool:
        """Write how a look ended, and what it decided: queue transfers with the lists of what they are to carry.

        What a transfer was to carry before it carries still. A transfer that is withdrawn stays where another rule has
        given the study to that node. What was noted meanwhile makes the study due again. False where the claim was
        lost, or a transfer is not any more as it was when this was decided: then nothing is written, and the study is
        due again.
        """

    def known_of(self, study: str) -> dict[Intent, Known]:
        """Every transfer of a study from `local`, with what it is to carry and what of that is there."""

    def given(self, rule: str) -> dict[str, int]:
        """Node -> how many studies of a rule it has got, for round robin.

        One that got none for a while is level with the others after its first: it does not get all until it is.
        """

    def receipts_of(self, study: str, series: str = "") -> list[Receipt]:
        """What the store holds of a study or series."""

    def arrivals(
        self, *, rule: str = "", states: Sequence[ArrivalState] = (), study: str = "", limit: int = 1000
    ) -> list[PendingArrival]:
        """Studies by these properties (all of those given), the soonest due first."""

    def forget_arrivals(self, before: datetime) -> int:
        """Forget those that were decided about before that moment. Returns how many."""
