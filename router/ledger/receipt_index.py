"""The part of the ledger that knows what our object store holds: each query by name, in its transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from router.domain.arriving import ArrivalDue
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL
from router.domain.stored import Amount, Indexed, StoredStudy
from router.domain.transfer import Instance
from router.ledger import arrivals as arrival_queries
from router.ledger import asked as asked_queries
from router.ledger import receipts as receipt_queries
from router.ledger import stored as stored_queries
from router.ledger.store_book import StoreBook

_PAGE = 500
"""Rows that are read at once where all are read: nothing is held up, and no memory grows with them."""


class ReceiptIndex(StoreBook):
    """The receipts of a ledger. Raises only LedgerError; thread-safe."""

    def add_receipts(self, receipts: Sequence[Receipt], dues: Sequence[ArrivalDue] = ()) -> None:
        """Index instances of the object store; known ones are replaced. Note, at once with them, who waits for them."""
        if receipts:
            with self._database.write(beside=True) as connection:
                receipt_queries.add(connection, receipts)
                arrival_queries.note(connection, dues, max(one.received_at for one in receipts))

    def received(self, study_instance_uid: str, series_instance_uid: str = "") -> set[str]:
        """The SOP Instance UIDs our store holds of a study or series."""
        with self._database.read() as connection:
            return receipt_queries.received(connection, study_instance_uid, series_instance_uid)

    def received_instances(self, study_instance_uid: str, series_instance_uid: str = "") -> list[Instance]:
        """The instances our store holds of a study or series, with their series."""
        with self._database.read() as connection:
            return receipt_queries.received_instances(connection, study_instance_uid, series_instance_uid)

    def received_classes(self, study_instance_uid: str, series_instance_uid: str = "") -> dict[str, str]:
        """SOP Instance UID -> SOP Class UID of what our store holds of a study or series."""
        with self._database.read() as connection:
            return receipt_queries.received_classes(connection, study_instance_uid, series_instance_uid)

    def receipt_paths(self, study_instance_uid: str, store: str | None = None) -> set[str]:
        """The paths under which instances of a study are indexed: in this store, or (None) in any."""
        with self._database.read() as connection:
            return receipt_queries.paths(connection, study_instance_uid, store)

    def receipt(
        self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str, store: str | None = None
    ) -> Receipt | None:
        """The receipt of an instance that a store (None: any) holds; None where it holds none."""
        with self._database.read() as connection:
            return receipt_queries.one(connection, study_instance_uid, series_instance_uid, sop_instance_uid, store)

    def stored_from(self, source: str) -> dict[str, datetime]:
        """Calling AE titles of what was moved from a node to this router lately -> when one last stored."""
        with self._database.read() as connection:
            return receipt_queries.stored_from(connection, source, LOCAL)

    def was_asked(
        self, sources: Collection[str], destinations: Collection[str], study_instance_uid: str, since: datetime
    ) -> bool:
        """Whether one of these sources was asked to send a study (empty: anything) here: now, or since that moment."""
        with self._database.read() as connection:
            return asked_queries.was_asked(connection, sources, destinations, study_instance_uid, since)

    # the store as a whole ---------------------------------------------------------------------------------------

    def stored_studies(
        self, *, only: Collection[str] | None = None, callers: Collection[str] | None = None, limit: int = 100
    ) -> list[StoredStudy]:
        """Studies that our store holds, what came last first: of `only` these, with something stored by `callers`."""
        with self._database.read() as connection:
            return stored_queries.studies(connection, only, callers, limit)

    def stored_uids(self, store: str | None = None) -> Iterator[str]:
        """The UIDs of all studies that a store (None: any) holds, in their order as texts; read in pages."""
        after = ""
        while True:
            with self._database.read() as connection:
                found = stored_queries.uids(connection, after, _PAGE, store)
            yield from found
            if len(found) < _PAGE:
                return
            after = found[-1]

    def stored_amount(self, only: Collection[str] | None = None, store: str | None = None) -> Amount:
        """How much a store (None: all of them) holds, of `only` these studies."""
        with self._database.read() as connection:
            return stored_queries.amount(connection, only, store)

    def indexed(self, study_instance_uid: str, store: str | None = None) -> Iterator[Indexed]:
        """What a store (None: each) holds of a study, by series and instance as texts; read in pages."""
        after = ("", "", "")
        while True:
            with self._database.read() as connection:
                found = stored_queries.page(connection, study_instance_uid, after, _PAGE, store)
            yield from found
            if len(found) < _PAGE:
                return
            last = found[-1].receipt
            after = (last.series_instance_uid, last.sop_instance_uid, last.store)

    def indexed_instance(
        self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str, store: str | None = None
    ) -> Indexed | None:
        """What is known of an instance; None where a store (None: any) holds none."""
        with self._database.read() as connection:
            return stored_queries.one(connection, study_instance_uid, series_instance_uid, sop_instance_uid, store)

    def keep_checksums(self, found: Sequence[tuple[Receipt, bytes]]) -> None:
        """Remember checksums of files whose receipts are still these, and that have none yet."""
        if found:
            with self._database.write() as connection:
                stored_queries.keep_checksums(connection, found)
