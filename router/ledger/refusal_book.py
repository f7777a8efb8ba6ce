"""The part of the ledger that knows which instances a destination did not take, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.domain.transfer import Transfer
from router.ledger import instances as instance_queries
from router.ledger.database import Database


class RefusalBook:
    """Refusals by transfer. Raises only LedgerError; thread-safe."""

    _database: Database

    def set_refused(self, transfer: Transfer, reasons: Mapping[str, Sequence[str]]) -> None:
        """Remember a reason -> SOP Instance UIDs, in place of what was before, while it is claimed; none: forget it."""
        with self._database.write() as connection:
            if reasons:
                instance_queries.replace_reasons(connection, transfer, reasons)
            else:
                instance_queries.remove(connection, transfer, instance_queries.REFUSED)

    def refused_instances(self, transfer_id: int) -> dict[str, list[str]]:
        """What `set_refused` remembered; empty where nothing was."""
        with self._database.read() as connection:
            return instance_queries.find_reasons(connection, transfer_id)
