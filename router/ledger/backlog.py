"""The query of the backlog: how much waits, moves and has ended on each way, and since when it waits."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, text

from router.domain.overview import BacklogRow
from router.domain.transfer import State
from router.ledger.counting import transfer_counts
from router.ledger.queue import PRIORITIES
from router.ledger.tables import QUEUED, transfers

_t, _c = transfers.c, transfer_counts.c


def backlog(connection: Connection) -> list[BacklogRow]:
    """Counts by source, destination and state; of what is queued the oldest, and when the first of it may be taken up.

    Costs as much with a million transfers as with ten: each way takes a few looks into an index.
    """
    waiting = (_t.source == _c.source, _t.destination == _c.destination, text(QUEUED), _c.state == State.QUEUED.value)
    oldest = select(func.min(_t.queued_at)).where(*waiting).scalar_subquery()
    # Priority by priority, because then the index of the routes has each in order.
    firsts = [select(func.min(_t.next_at)).where(*waiting, _t.priority == one).scalar_subquery() for one in PRIORITIES]
    lanes = select(_c.source, _c.destination, _c.state, _c.count, oldest, *firsts).where(_c.count > 0)
    rows = connection.execute(lanes.order_by(_c.source, _c.destination, _c.state))
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
