"""The queries about routes: which are stopped and why, stopping and resuming them, and when one is tried again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, insert, not_, or_, select, update

from router.domain.route import StoppedRoute
from router.domain.transfer import Route, Stop
from router.ledger.database import chunks, insert_or
from router.ledger.tables import meta, routes

_r = routes.c
_CONFIGURATION = "configuration"
_NAMES_AT_ONCE = 500


def stopped(connection: Connection) -> list[StoppedRoute]:
    """All that are stopped, in order."""
    return [_stopped(row) for row in connection.execute(select(routes).order_by(_r.source, _r.destination))]


def one(connection: Connection, route: Route) -> StoppedRoute | None:
    """How a route is stopped; None where it is not."""
    row = connection.execute(select(routes).where(_is(route))).one_or_none()
    return None if row is None else _stopped(row)


def stopped_at(connection: Connection, sources: Sequence[str]) -> list[Route]:
    """The stopped routes from these sources."""
    found: list[Route] = []
    for some in chunks(sources, _NAMES_AT_ONCE):
        rows = connection.execute(_STOPPED_AT, {"names": some})
        found += [Route(source, destination) for source, destination in rows]
    return found


_STOPPED_AT = select(_r.source, _r.destination).where(_r.source.in_(bindparam("names", expanding=True)))


def stop(connection: Connection, route: Route, why: Stop, now: datetime) -> None:
    """Stop a route. Of one that is stopped already only the cause changes: its next probe has its time."""
    values = {"cause": why.cause, "reason": why.reason}
    new = {"source": route.source, "destination": route.destination, "stopped_at": now, "probe_at": why.probe_at}
    statement = insert_or(routes, connection).values(**values, **new)
    connection.execute(statement.on_conflict_do_update(index_elements=["source", "destination"], set_=values))


def resume(connection: Connection, route: Route) -> bool:
    """Let it flow again. False where it was not stopped."""
    return bool(connection.execute(delete(routes).where(_is(route))).rowcount)


def hasten(connection: Connection, route: Route, now: datetime) -> bool:
    """Let a transfer try it at once. False where it is not stopped."""
    if one(connection, route) is None:
        return False
    connection.execute(update(routes).where(_is(route), _r.probe_at > now).values(probe_at=now, probes=0))
    return True


def is_due(connection: Connection, route: Route, now: datetime) -> bool:
    """Whether a transfer may try it now."""
    return connection.execute(select(_r.source).where(_is(route), _r.probe_at <= now)).one_or_none() is not None


def probed(connection: Connection, route: Route, next_probe_at: datetime) -> None:
    """A transfer tries it; the next one may at that time."""
    connection.execute(update(routes).where(_is(route)).values(probe_at=next_probe_at, probes=_r.probes + 1))


def adopt(connection: Connection, content_hash: str, names: Collection[str], now: datetime) -> None:
    """Fit them to a configuration: forget those of other nodes; if it is another than before, all are tried at once."""
    known = list(names)
    connection.execute(delete(routes).where(or_(not_(_r.source.in_(known)), not_(_r.destination.in_(known)))))
    before = connection.scalar(select(meta.c.value).where(meta.c.name == _CONFIGURATION))
    if before == content_hash:
        return
    connection.execute(update(routes).values(probe_at=now, probes=0))
    if before is None:
        connection.execute(insert(meta).values(name=_CONFIGURATION, value=content_hash))
    else:
        connection.execute(update(meta).where(meta.c.name == _CONFIGURATION).values(value=content_hash))


def _is(route: Route) -> ColumnElement[bool]:
    return and_(_r.source == route.source, _r.destination == route.destination)


def _stopped(row: Any) -> StoppedRoute:
    return StoppedRoute(
        route=Route(row.source, row.destination),
        cause=row.cause,
        reason=row.reason,
        stopped_at=row.stopped_at,
        probe_at=row.probe_at,
        probes=row.probes,
    )
