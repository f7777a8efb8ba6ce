"""The query of what was asked for: whether a study is on its way from a node to our own Store SCP, or was lately."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, or_, select, text

from router.domain.transfer import State
from router.ledger.tables import MOVES, attempts, transfers

_t, _a = transfers.c, attempts.c


def was_asked(
    connection: Connection,
    sources: Collection[str],
    destinations: Collection[str],
    study_instance_uid: str,
    since: datetime,
) -> bool:
    """Whether one of these sources was asked to send a study (empty: anything) to one of these destinations.

    It is moved now, or a run of it has ended since then; one whose worker is gone may still be going on at the source.
    """
    wanted: list[ColumnElement[bool]] = [_t.source.in_(sources), _t.destination.in_(destinations)]
    under_way: ColumnElement[bool] = _t.state.in_((State.MOVING, State.VERIFYING))
    if study_instance_uid:
        wanted.append(_t.study_instance_uid == study_instance_uid)
        # Whatever became of it since: what was begun and is touched is at most as old as its last run.
        under_way = or_(under_way, and_(_t.updated_at >= since, _t.started_at.is_not(None)))
    if connection.scalar(select(_t.id).where(*wanted, under_way).limit(1)) is not None:
        return True
    ran = select(_t.id).join(attempts, _t.id == _a.transfer_id).where(*wanted, text(f"attempts.{MOVES}"))
    return connection.scalar(ran.where(_a.finished_at >= since).limit(1)) is not None
