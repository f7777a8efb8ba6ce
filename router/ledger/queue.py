"""Which transfer is next: each query is answered by the indexes alone, however much waits or has ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    bindparam,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    text,
    union_all,
)

from router.domain.levels import NEARLINE
from router.domain.transfer import Route, State
from router.ledger import routes
from router.ledger.tables import QUEUED, UNCLAIMED_VERIFICATION, Instant, transfers

PRIORITIES = (0, 1, 2)

_LANES_AT_ONCE = 100
"""Lanes in one union, each once per priority; SQLite takes 500 parts."""

_MOST = bindparam("most", type_=Integer())

_t = transfers.c
_other = transfers.alias("other").c


Lane = tuple[str, ...]
"""Where work waits: a source, a source and a destination, or a destination."""


def next_transfer(
    connection: Connection,
    sources: Sequence[str],
    now: datetime,
    without: Collection[Route] = (),
    *,
    oldest: bool = False,
) -> int | None:
    """The most urgent due transfer in the queues of these sources, on no route that is stopped or in `without`.

    With `oldest` it is the one that has been due for longest, however urgent.
    """
    found = next_transfers(connection, sources, now, 1, without, oldest=oldest)
    return found[0] if found else None


def next_transfers(
    connection: Connection,
    sources: Sequence[str],
    now: datetime,
    most: int,
    without: Collection[Route] = (),
    *,
    oldest: bool = False,
) -> list[int]:
    """The next so many: those that would be next one after the other. It may be fewer where some are near line."""
    closed = {*without, *routes.stopped_at(connection, sources)}
    mixed = list(dict.fromkeys(source for source in sources if any(route.source == source for route in closed)))
    whole = [(source,) for source in dict.fromkeys(sources) if source not in mixed]
    open_routes = [route for source in mixed for route in _queued_routes(connection, source) if route not in closed]
    of_sources, of_routes = (_oldest_transfer, _oldest_of_routes) if oldest else (_next_transfer, _next_of_routes)
    found = _first(connection, of_sources, whole, now, most) + _first(connection, of_routes, open_routes, now, most)
    fetching: set[str] = set()
    numbers: list[int] = []
    for *_, number, source, availability in sorted(found):
        if availability == NEARLINE and source in fetching:
            continue  # of these one at a time
        if availability == NEARLINE:
            fetching.add(source)
        numbers.append(number)
    return numbers[:most]


def next_verification(connection: Connection, destinations: Sequence[str], now: datetime) -> int | None:
    """The oldest due verification at these destinations that no one holds."""
    rows = _first(connection, _next_verification, [(name,) for name in dict.fromkeys(destinations)], now)
    return int(rows[0][-1]) if rows else None


def next_probe(connection: Connection, route: Route, now: datetime) -> int | None:
    """The transfer that is to try a stopped route, if one is due: the one that has waited longest, however urgent.

    One that fails waits behind the others, so that a study which is at fault itself does not keep the route stopped.
    """
    if not routes.is_due(connection, route, now):
        return None
    rows = _first(connection, _next_of_route, [route], now)
    return int(rows[0][-1]) if rows else None


def _first(
    connection: Connection, query: Any, lanes: Sequence[Lane], now: datetime, most: int = 1
) -> list[tuple[Any, ...]]:
    """The first so many rows of a query over lanes, in order."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(lanes), _LANES_AT_ONCE):
        some = list(lanes[start : start + _LANES_AT_ONCE])
        # Nothing waits in a lane without a name, and a statement for each number of lanes would be compiled anew.
        some += [tuple("" for _ in some[-1])] * ((1 << (len(some) - 1).bit_length()) - len(some))
        bound = {f"name_{at}_{part}": name for at, lane in enumerate(some) for part, name in enumerate(lane)}
        rows = connection.execute(query(len(some)), {"now": now, "most": most, **bound})
        found += map(tuple, rows)
    return sorted(found)[:most] if len(lanes) > _LANES_AT_ONCE else found


def _queued_routes(connection: Connection, source: str) -> list[Route]:
    """The routes from a source on which something is queued: a step into the index for each, however much it is."""
    found: list[Route] = []
    while True:
        destination = connection.scalar(
            _NEXT_DESTINATION, {"of_source": source, "last": found[-1].destination if found else ""}
        )
        if destination is None:
            return found
        found.append(Route(source, destination))


_NEXT_DESTINATION = select(func.min(_t.destination)).where(
    text(QUEUED), _t.source == bindparam("of_source"), _t.destination > bindparam("last")
)


def _lanes(columns: tuple[Any, ...], lanes: int, *, oldest: bool = False) -> Select[Any]:
    """Ask each lane and priority by itself: each is one step into the index, however much waits or has ended."""
    best = (
        union_all(
            *(
                select(_of_lane(columns, number, priority).subquery())
                for number in range(lanes)
                for priority in PRIORITIES
            )
        )
        .subquery()
        .c
    )
    order = (best.next_at, best.id) if oldest else (best.priority, best.next_at, best.id)
    return select(*order, best.source, best.availability).order_by(*order).limit(_MOST)


_BY_SOURCE, _BY_ROUTE = (_t.source,), (_t.source, _t.destination)
_kept = lru_cache(maxsize=_LANES_AT_ONCE)
_next_transfer = _kept(partial(_lanes, _BY_SOURCE))
_next_of_routes = _kept(partial(_lanes, _BY_ROUTE))
_oldest_transfer = _kept(partial(_lanes, _BY_SOURCE, oldest=True))
_oldest_of_routes = _kept(partial(_lanes, _BY_ROUTE, oldest=True))


def _next_of_route(_: int) -> Select[Any]:
    """The transfer of one route that tried least often, then the one that has waited longest.

    It may be a study that stopped the route: others go first. All that wait there are looked at, but that is rare.
    """
    here = (_t.source == bindparam("name_0_0"), _t.destination == bindparam("name_0_1"))
    return (
        select(_t.attempts, _t.next_at, _t.id)
        .where(text(QUEUED), *here, _due(), _fetchable(0))
        .order_by(_t.attempts, _t.next_at, _t.id)
        .limit(1)
    )


def _of_lane(columns: tuple[Any, ...], number: int, priority: int) -> Select[Any]:
    here = [column == bindparam(f"name_{number}_{part}") for part, column in enumerate(columns)]
    return (
        select(literal(priority).label("priority"), _t.next_at, _t.id, _t.source, _t.availability)
        .where(text(QUEUED), *here, _t.priority == priority, _due(), _fetchable(number))
        .order_by(_t.next_at, _t.id)
        .limit(_MOST)
    )


def _fetchable(number: int) -> ColumnElement[bool]:
    """Not near line, or nothing else that is near line is being moved from this lane's source: tape drives are few."""
    fetching = exists().where(
        _other.lease_until.is_not(None),
        _other.source == bindparam(f"name_{number}_0"),
        _other.state == State.MOVING.value,
        _other.availability == NEARLINE,
    )
    return or_(_t.availability != NEARLINE, not_(fetching))


@lru_cache(maxsize=_LANES_AT_ONCE)
def _next_verification(destinations: int) -> Select[Any]:
    lanes = []
    for number in range(destinations):
        lane = (
            select(_t.next_at, _t.id)
            .where(text(UNCLAIMED_VERIFICATION), _t.destination == bindparam(f"name_{number}_0"), _due())
            .order_by(_t.next_at, _t.id)
            .limit(1)
            .subquery()
        )
        lanes.append(select(lane))
    best = union_all(*lanes).subquery()
    return select(best).order_by(best.c.next_at, best.c.id).limit(1)


def _due() -> ColumnElement[bool]:
    return _t.next_at <= bindparam("now", type_=Instant())
