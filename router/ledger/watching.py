"""The part of the ledger for those who watch: how much there is of all, what moves, what ended. Queries by name."""

from __future__ import annotations

from router.domain.overview import BacklogRow, Overview
from router.domain.selection import AGAIN_WHEN_ASKED
from router.domain.transfer import ENDED
from router.ledger import routes, sweeps, transfers
from router.ledger.backlog import backlog
from router.ledger.database import Database


class Watching:
    """What people and Prometheus look at. Raises only LedgerError; thread-safe."""

    _database: Database

    def backlog(self) -> list[BacklogRow]:
        """Counts by source, destination and state."""
        with self._database.read() as connection:
            return backlog(connection)

    def overview(self, most_live: int, most_recent: int) -> Overview:
        """What people look at who watch: so much of what is under way, and so many failures and other ends.

        All of it is of one moment. Costs as much however many transfers have ended.
        """
        with self._database.read() as connection:
            return Overview(
                backlog=tuple(backlog(connection)),
                live=tuple(transfers.under_way(connection, most_live)),
                failures=tuple(transfers.lately_ended(connection, AGAIN_WHEN_ASKED, most_recent)),
                activity=tuple(transfers.lately_ended(connection, ENDED - AGAIN_WHEN_ASKED, most_recent)),
                sweeps=(*sweeps.open_records(connection), *sweeps.latest(connection)),
                stopped=tuple(routes.stopped(connection)),
            )
