"""The part of the ledger that keeps what is long over out of the way: each query by name, in its transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from router.domain.history import Archived, Mark
from router.domain.transfer import State, Transfer
from router.ledger import history
from router.ledger.database import Database


class HistoryBook:
    """The history of a ledger: `engine.history_port.HistoryLedger`. Raises only LedgerError; thread-safe."""

    _database: Database

    def archive(self, mark: Mark | None, before: datetime, most: int, now: datetime) -> Archived:
        """Put what ended before that moment into the history, of the next `most` that ended; `mark`: None at first.

        It stays known: `facts`, `transfer` and all that is asked by a transfer's number answer as before, and it comes
        out of the history where it grew or is asked for again.
        """
        with self._database.write() as connection:
            return history.archive(connection, mark, before, most, now)

    def history(
        self,
        *,
        states: Sequence[State] = (),
        rule: str = "",
        source: str = "",
        destination: str = "",
        study_instance_uid: str = "",
        limit: int = 1000,
    ) -> list[Transfer]:
        """Transfers in the history by these properties (all of those given), the highest number first."""
        wanted = {"rule": rule, "source": source, "destination": destination, "study_instance_uid": study_instance_uid}
        with self._database.read() as connection:
            return history.find(connection, states=states, wanted=wanted, limit=limit)
