"""The part of the ledger that knows what our object store holds: each query by name, in its transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from router.domain.receipt import Receipt
from router.domain.rule import LOCAL
from router.domain.transfer import Instance
from router.ledger import receipts as receipt_queries
from router.ledger.database import Database


class ReceiptIndex:
    """The receipts of a ledger. Raises only LedgerError; thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_receipts(self, receipts: Sequence[Receipt]) -> None:
        """Index instances of the object store; known ones are replaced."""
        if receipts:
            with self._database.write() as connection:
                receipt_queries.add(connection, receipts)

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

    def receipt_paths(self, study_instance_uid: str) -> set[str]:
        """The paths in our store under which instances of a study are indexed."""
        with self._database.read() as connection:
            return receipt_queries.paths(connection, study_instance_uid)

    def receipt(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> Receipt | None:
        """The receipt of an instance that our store holds; None where it holds none."""
        with self._database.read() as connection:
            return receipt_queries.one(connection, study_instance_uid, series_instance_uid, sop_instance_uid)

    def stored_from(self, source: str) -> dict[str, datetime]:
        """Calling AE titles of what was moved from a node to this router lately -> when one last stored."""
        with self._database.read() as connection:
            return receipt_queries.stored_from(connection, source, LOCAL)
