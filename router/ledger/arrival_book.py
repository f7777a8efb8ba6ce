"""The part of the ledger that knows what has arrived and is to be passed on: each query by name, in its transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from router.domain.arriving import ArrivalDue
from router.domain.forwarding import Known, Passage
from router.domain.passing import ArrivalReport, ArrivalState, PendingArrival
from router.domain.receipt import Receipt
from router.domain.transfer import Intent
from router.ledger import arrivals as queries
from router.ledger import forwards
from router.ledger.database import Database


class ArrivalBook:
    """The arrivals of a ledger: `engine.arrival_port.ArrivalLedger`. Raises only LedgerError; thread-safe."""

    _database: Database

    def note_arrivals(self, dues: Sequence[ArrivalDue], now: datetime) -> None:
        """Remember that rules are to look at studies."""
        if dues:
            with self._database.write() as connection:
                queries.note(connection, dues, now)

    def claim_arrival(self, now: datetime, lease_seconds: float) -> PendingArrival | None:
        """Take the study that has been due (or abandoned) for longest."""
        with self._database.read() as connection:
            if not queries.any_to_claim(connection, now, self._database.lost_at(now)):
                return None
        with self._database.write() as connection:
            return queries.claim(connection, now, self._database.lost_at(now), lease_seconds)

    def renew_arrival(self, pending: PendingArrival, now: datetime, lease_seconds: float) -> bool:
        """Prolong the lease of one that is being looked at. False where the claim was lost."""
        with self._database.write() as connection:
            return queries.renew(connection, pending, now, lease_seconds)

    def finish_arrival(
        self, pending: PendingArrival, report: ArrivalReport, passages: Sequence[Passage], now: datetime
    ) -> bool:
        """Write how a look ended, and queue what it decided. False where that is out of date: it is due again."""
        with self._database.write() as connection:
            ours = queries.finish(connection, pending, report, passages, now)
        if passages:
            self._database.tell()
        return ours

    def known_of(self, study: str) -> dict[Intent, Known]:
        """Every transfer of a study from `local`, with what it is to carry and what of that is there."""
        with self._database.read() as connection:
            return forwards.known(connection, study)

    def given(self, rule: str) -> dict[str, int]:
        """Node -> how many studies of a rule it has got, for round robin."""
        with self._database.read() as connection:
            return queries.given(connection, rule)

    def receipts_of(self, study: str, series: str = "") -> list[Receipt]:
        """What the store holds of a study or series."""
        with self._database.read() as connection:
            return queries.receipts_of(connection, study, series)

    def arrivals(
        self, *, rule: str = "", states: Sequence[ArrivalState] = (), study: str = "", limit: int = 1000
    ) -> list[PendingArrival]:
        """Studies by these properties (all of those given), the soonest due first."""
        with self._database.read() as connection:
            return queries.find(connection, rule, states, study, limit)

    def forget_arrivals(self, before: datetime) -> int:
        """Forget those that were decided about before that moment. Returns how many."""
        with self._database.write() as connection:
            return queries.forget(connection, before)
