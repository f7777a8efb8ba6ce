"""The queries about how much is moved and how fast: past moves by route, and what waits."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from router.domain.estimate import PastMove, Work
from router.domain.transfer import Happening, Route, State
from router.ledger import history
from router.ledger.tables import attempts, transfers

_SHOWN = (State.COMPLETE, State.UNPROVEN, State.PARTIAL, State.CONTRADICTED)
"""Ends of transfers for which something was moved."""
_UNMOVED = "already-present"

_t, _a = transfers.c, attempts.c


def past_moves(connection: Connection, routes: Collection[Route], most: int) -> dict[Route, list[PastMove]]:
    """The latest moves that brought something, so many for each route, the latest first.

    Of transfers that have ended: for these an index knows the latest of a route, however much the ledger holds.
    """
    found: dict[Route, list[PastMove]] = {}
    for route in dict.fromkeys(routes):
        rows = [row for state in _SHOWN for row in _of(connection, route, state, most)]
        if len(rows) < most:
            rows += _of_old(connection, route, most)
        rows.sort(key=lambda row: row.finished_at, reverse=True)
        past = []
        for row in rows:
            seconds = (row.finished_at - row.started_at).total_seconds()
            # A source that gives no numbers: what is there in the end came with the only move there was.
            instances = row.completed + row.failed or (row.known if row.attempts == 1 else 0)
            if seconds > 0 and instances > 0:
                past.append(PastMove(instances, seconds))
        if past:
            found[route] = past[:most]
    return found


def _of(connection: Connection, route: Route, state: State, most: int) -> list[Any]:
    latest = (
        select(_t.id, _t.attempts, _t.completed)
        .where(_t.source == route.source, _t.destination == route.destination, _t.state == state.value)
        .order_by(_t.queued_at.desc())
        .limit(most)
        .subquery()
    )
    return list(
        connection.execute(
            select(
                _a.started_at,
                _a.finished_at,
                _a.completed,
                _a.failed,
                latest.c.attempts,
                latest.c.completed.label("known"),
            )
            .join(latest, latest.c.id == _a.transfer_id)
            .where(_a.step == "move", _a.happening == Happening.MOVED.value, _a.cause != _UNMOVED)
            .order_by(_a.finished_at.desc())
            .limit(most)
        )
    )


def _of_old(connection: Connection, route: Route, most: int) -> list[Any]:
    runs = history.latest_runs(connection, route.source, route.destination, _SHOWN, most)
    return [
        _Run(one.started_at, one.finished_at, one.completed, one.failed, transfer.attempts, transfer.completed)
        for transfer, attempts_made in runs
        for one in attempts_made
        if one.step == "move" and one.happening == Happening.MOVED and one.cause != _UNMOVED
    ]


class _Run(NamedTuple):
    """What `_of` reads."""

    started_at: datetime
    finished_at: datetime
    completed: int
    failed: int
    attempts: int
    known: int


def queued(connection: Connection) -> list[Work]:
    """What waits to be moved, by route."""
    rows = connection.execute(
        select(
            _t.source,
            _t.destination,
            func.count(),
            func.coalesce(func.sum(_t.instance_count), 0),
            func.count(_t.instance_count),
            func.coalesce(func.max(_t.instance_count), 0),
        )
        .where(_t.state == State.QUEUED.value)
        .group_by(_t.source, _t.destination)
        .order_by(_t.source, _t.destination)
    )
    return [
        Work(
            route=Route(source, destination),
            moves=moves,
            instances=instances,
            unknown=moves - counted,
            largest=largest,
        )
        for source, destination, moves, instances, counted, largest in rows
    ]
