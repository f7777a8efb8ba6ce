"""The query of the backlog: how much waits, moves and has ended on each way, and since when it waits."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, func, select, text

from router.domain.overview import BacklogRow
from router.domain.transfer import State
from router.ledger.counting import counted
from router.ledger.dialects import on_postgresql
from router.ledger.queue import PRIORITIES
from router.ledger.tables import QUEUED, transfers

_t = transfers.c


def backlog(connection: Connection) -> list[BacklogRow]:
    """Counts by source, destination and state; of what is queued the oldest, and when the first of it may be taken up.

    Costs as much with a million transfers as with ten: each way takes a few looks into an index.
    """
    rows = connection.execute(_query(summed=on_postgresql(connection)))
    return [
        BacklogRow(
            source=source,
            destination=destination,
            state=State(state),
            count=count,
            oldest_queued_at=since,
            next_at=min((moment for moment in due if moment is not None), default=None),
        )
        for source, destination, state, count, since, *due in rows
    ]


@cache
def _query(*, summed: bool) -> Select[Any]:
    c = counted(summed=summed).c
    waiting = (_t.source == c.source, _t.destination == c.destination, text(QUEUED), c.state == State.QUEUED.value)
    oldest = select(func.min(_t.queued_at)).where(*waiting).scalar_subquery()
    # Priority by priority, because then the index of the routes has each in order.
    firsts = [select(func.min(_t.next_at)).where(*waiting, _t.priority == one).scalar_subquery() for one in PRIORITIES]
    lanes = select(c.source, c.destination, c.state, c.count, oldest, *firsts).where(c.count > 0)
    return lanes.order_by(c.source, c.destination, c.state)
