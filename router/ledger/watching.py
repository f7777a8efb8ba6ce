"""The part of the ledger for those who watch: how much there is of all, what moves, what ended. Queries by name."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, text

from router.domain.overview import ArrivingRow, BacklogRow, Overview
from router.domain.selection import AGAIN_WHEN_ASKED
from router.domain.transfer import ENDED
from router.ledger import routes, sweeps, transfers
from router.ledger.arrival_tables import arrivals
from router.ledger.backlog import backlog
from router.ledger.database import Database
from router.ledger.tables import LOOKING, WAITING, Instant


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
                arriving=tuple(_arriving(connection)),
            )


def _arriving(connection: Connection) -> list[ArrivingRow]:
    """Studies about which nothing has been decided yet, by the rule that waits for them."""
    found: dict[str, ArrivingRow] = {}
    for where in (WAITING, LOOKING):  # each by its own index: those that are done are many
        due = func.min(arrivals.c.due_at, type_=Instant())
        query = select(arrivals.c.rule, func.count(), due).where(text(where), arrivals.c.nodes == "[]")
        for rule, count, at in connection.execute(query.group_by(arrivals.c.rule)):
            other = found.get(rule, ArrivingRow(rule=rule, count=0, next_at=at))
            found[rule] = ArrivingRow(rule=rule, count=other.count + count, next_at=min(other.next_at or at, at))
    return list(found.values())
