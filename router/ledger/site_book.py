"""The part of the ledger that knows its site: the key that pseudonyms are made with, and the way back from one."""

from __future__ import annotations

from collections.abc import Callable

from router.errors import LedgerMissing
from router.ledger import site
from router.ledger.database import Database

TRANSFERS_SEARCHED = 1_000_000
"""Transfers, the newest, among which the study of a pseudonym is looked for."""


class SiteBook:
    """What a ledger knows of its site. Raises only LedgerError; thread-safe."""

    _database: Database

    def site_key(self) -> bytes:
        """The site's key, 32 bytes: made by chance when it is asked for first, then the same for ever.

        Raises LedgerMissing where there is none yet and the ledger is open for reading only.
        """
        with self._database.read() as connection:
            known = site.key(connection)
        if known is None and not self._database.read_only:
            with self._database.write() as connection:  # another process may be quicker: then its key counts
                site.make_key(connection)
                known = site.key(connection)
        if known is None:
            raise LedgerMissing(
                f"The ledger {self._database.name} has no key for pseudonyms yet; `dicom-router run` makes one when it "
                "starts."
            )
        return known

    def studies_where(self, wanted: Callable[[str], bool], most: int = TRANSFERS_SEARCHED) -> list[str]:
        """The Study Instance UIDs that are wanted, looked for among so many of the newest transfers."""
        with self._database.read() as connection:
            return site.studies(connection, wanted, most)
