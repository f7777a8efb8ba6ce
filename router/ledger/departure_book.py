"""The part of the ledger that knows which studies leave the object store: each query by name, in its transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from router.domain.receipt import Receipt
from router.domain.retention import Departed, Departure, HeldStudy
from router.ledger import departures
from router.ledger.database import Database


class DepartureBook:
    """Departures of a ledger: `engine.departure_port.DepartureLedger`. Raises only LedgerError; thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def may_leave(self, now: datetime, limit: int, *, oldest: bool, store: str | None = None) -> list[str]:
        """The next studies that may leave a store (None: any) by now: with `oldest` what came first is first."""
        with self._database.read() as connection:
            return departures.due(connection, now, limit, store, oldest=oldest)

    def held_studies(self, study_instance_uids: Collection[str], now: datetime) -> list[HeldStudy]:
        """What is known of these, as far as the store holds something of them."""
        with self._database.read() as connection:
            return departures.held(connection, study_instance_uids, now)

    def postpone_leaving(self, again: Mapping[str, datetime], gone: Collection[str] = ()) -> None:
        """Look at these studies again later; at those that are `gone` no more."""
        if again or gone:
            with self._database.write() as connection:
                departures.postpone(connection, again)
                departures.forget(connection, gone)

    def hasten_leaving(self, now: datetime) -> None:
        """Look at all anew that may leave some day."""
        with self._database.write() as connection:
            departures.hasten(connection, now)

    def begin_departure(self, seen: HeldStudy, now: datetime) -> Departure | None:
        """Note that a study leaves. None where there is news of it that was not `seen`: then it stays."""
        with self._database.write() as connection:
            return departures.begin(connection, seen, now)

    def unfinished_departures(self, limit: int, store: str | None = None) -> list[Departure]:
        """Studies that are to leave a store (None: any) and have not, the first first."""
        with self._database.read() as connection:
            return departures.unfinished(connection, limit, store)

    def leaving_receipts(
        self, departure: Departure, after: tuple[str, str], limit: int, store: str | None = None
    ) -> list[Receipt]:
        """The next receipts of what leaves a store (None: any); `after`: Series and SOP Instance UID of the last."""
        with self._database.read() as connection:
            return departures.remaining(connection, departure, after, limit, store)

    def forget_receipts(self, gone: Sequence[Receipt]) -> None:
        """Forget receipts whose files are gone; what came again since has another."""
        if gone:
            with self._database.write() as connection:
                departures.remove(connection, gone)

    def end_departure(self, departure: Departure, now: datetime, store: str | None = None) -> bool:
        """Note that a study has left. False where it has left this store only (None: all of them)."""
        with self._database.write() as connection:
            return departures.end(connection, departure, now, store)

    def departed(self, study_instance_uid: str) -> Departed | None:
        """What has left the store of a study; None where nothing has, or somebody wants it here again."""
        with self._database.read() as connection:
            return departures.departed(connection, study_instance_uid)
