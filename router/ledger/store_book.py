"""The part of the ledger that knows the object stores of its services: each query by name, in its transaction."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from router.domain.stores import Forgotten, StoreSeen
from router.domain.transfer import Happening
from router.ledger import stores as queries
from router.ledger import transfers
from router.ledger.database import Database

_AT_ONCE = 2_000


class StoreBook:
    """The stores of a ledger. Raises only LedgerError; thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def stores(self) -> list[StoreSeen]:
        """The object stores that services have or had, by replica; none that its replica has replaced by another."""
        with self._database.read() as connection:
            return queries.known(connection)

    def note_store(self, name: str, replica: str, now: datetime) -> None:
        """A service has this store."""
        with self._database.write() as connection:
            queries.note(connection, name, replica, now)

    def held_in(self, study_instance_uid: str, stores: Collection[str]) -> set[str]:
        """The SOP Instance UIDs that these stores hold of a study."""
        with self._database.read() as connection:
            return queries.held_in(connection, study_instance_uid, stores)

    def arrived(self, study_instance_uid: str, own: str) -> tuple[int, int, datetime | None]:
        """How many instances of a study are held, how many by other stores than this, and when the last one came."""
        with self._database.read() as connection:
            return queries.arrived(connection, study_instance_uid, own)

    def store_amounts(self) -> dict[str, int]:
        """Name of a store (empty: of which nobody ever said it) -> how many instances it holds."""
        with self._database.read() as connection:
            return queries.amounts(connection)

    def without_store(self, study_instance_uid: str) -> set[str]:
        """The paths of a study's receipts of which nobody ever said in which store they are."""
        with self._database.read() as connection:
            return queries.without_store(connection, study_instance_uid)

    def adopt_receipts(self, study_instance_uid: str, paths: Collection[str], store: str) -> None:
        """Note of such receipts that their files are in this store."""
        if paths:
            with self._database.write() as connection:
                queries.adopt(connection, study_instance_uid, sorted(paths), store)

    def losing(self, name: str) -> list[int]:
        """The transfers to our stores that have ended, also those in the history, with instances in this store alone.

        Those that a person cancelled are not among them.
        """
        found, after = list[int](), ""
        while True:
            with self._database.read() as connection:
                studies = queries.next_studies(connection, name, after, _AT_ONCE)
                found += queries.losing(connection, name, studies) if studies else []
            if not studies:
                return sorted(found)
            after = studies[-1]

    def forget_store(self, name: str, again_at: datetime | None = None) -> Forgotten:
        """Forget a store that is gone for good with all of its receipts, in parts.

        `again_at`: the transfers that lose instances by it are queued again, at that time, with what they lose, so that
        one that is interrupted forgets none: called again it goes on.
        """
        instances, lost, after = 0, list[int](), ""
        while True:
            with self._database.write() as connection:
                studies = queries.next_studies(connection, name, after, _AT_ONCE)
                if not studies:
                    queries.forget_name(connection, name)
                    break
                losing = queries.losing(connection, name, studies)
                instances += queries.forget(connection, name, studies)
                if again_at is not None:
                    for number in losing:
                        transfers.apply(connection, number, Happening.AGAIN, again_at, "")
            lost += losing
            after = studies[-1]
        if lost and again_at is not None:
            self._database.tell()
        return Forgotten(instances=instances, lost=tuple(sorted(lost)))
