"""The part of the ledger that knows routes: which are stopped, how fast they were, what waits. Queries by name."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from router.domain.estimate import PAST_MOVES, PastMove, Work
from router.domain.route import StoppedRoute
from router.domain.transfer import Route
from router.ledger import rates
from router.ledger import routes as route_queries
from router.ledger.database import Database


class RouteBook:
    """The routes of a ledger. Raises only LedgerError; thread-safe."""

    _database: Database

    def stopped_routes(self) -> list[StoppedRoute]:
        """The routes that are stopped, in order."""
        with self._database.read() as connection:
            return route_queries.stopped(connection)

    def stopped_route(self, route: Route) -> StoppedRoute | None:
        """How a route is stopped; None where it is not."""
        with self._database.read() as connection:
            return route_queries.one(connection, route)

    def resume_route(self, route: Route) -> bool:
        """Let a stopped route flow again. False where it was not stopped."""
        with self._database.write() as connection:
            resumed = route_queries.resume(connection, route)
        self._database.tell()
        return resumed

    def probe_route(self, route: Route, now: datetime) -> bool:
        """Let a transfer try a stopped route at once. False where it is not stopped."""
        with self._database.write() as connection:
            stopped = route_queries.hasten(connection, route, now)
        self._database.tell()
        return stopped

    def adopt_configuration(self, content_hash: str, names: Collection[str], now: datetime) -> None:
        """Fit what is stopped to a configuration: routes of nodes it does not name are forgotten.

        If it is another one than before, every stopped route is tried at once.
        """
        with self._database.write() as connection:
            route_queries.adopt(connection, content_hash, names, now)

    def past_moves(self, routes: Collection[Route], most: int = PAST_MOVES) -> dict[Route, list[PastMove]]:
        """The latest moves on these routes that brought something, so many for each, the latest first."""
        with self._database.read() as connection:
            return rates.past_moves(connection, routes, most)

    def queued(self) -> list[Work]:
        """What waits to be moved, by route."""
        with self._database.read() as connection:
            return rates.queued(connection)
