"""Queries about studies that have arrived and are to be passed on: news of them, whose turn it is, how a look ended.

What a look decides becomes transfers from `local`; those queries are in `forwards.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, select, text, update

from router.domain.arriving import ArrivalDue
from router.domain.forwarding import Passage
from router.domain.passing import ArrivalReport, ArrivalState, PendingArrival
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL
from router.ledger import forwards, history
from router.ledger.arrival_tables import DONE, arrivals, forward_turns
from router.ledger.dialects import earlier, insert_or, later
from router.ledger.receipts import COLUMNS
from router.ledger.tables import LOOKING, WAITING, receipts

PAUSE = timedelta(seconds=1)
"""After a look: so long what comes meanwhile is gathered, for each look reads all that there is of a study."""

_a, _r, _g = arrivals.c, receipts.c, forward_turns.c
_WAITING, _LOOKING, _DONE = (one.value for one in ArrivalState)


# --- Noting -----------------------------------------------------------------------------------------------------------


def note(connection: Connection, dues: Sequence[ArrivalDue], now: datetime) -> None:
    """Remember that these are to be looked at."""
    # In order: who notes the same ones at the same time waits, and is waited for by nobody meanwhile.
    ordered = sorted(dues, key=lambda due: (due.study_instance_uid, due.rule, not due.whole))
    for whole, some in groupby(ordered, key=lambda due: due.whole):
        rows = [
            {
                "study_instance_uid": due.study_instance_uid,
                "rule": due.rule,
                "due_at": due.due_at,
                "noted_at": now,
                "news": 1,
                "state": _WAITING,
            }
            for due in some
        ]
        connection.execute(_noting(connection, whole=whole), rows)


def _noting(connection: Connection, *, whole: bool) -> Any:
    statement = insert_or(arrivals, connection)
    new = statement.excluded
    due: ColumnElement[Any] = new.due_at
    if not whole:
        pause = PAUSE // timedelta(microseconds=1)
        due = later(new.due_at, func.coalesce(_a.finished_at + text(str(pause)), new.due_at))
        due = case((_a.state == _WAITING, earlier(_a.due_at, due)), else_=due)
    return statement.on_conflict_do_update(
        index_elements=["study_instance_uid", "rule"],
        set_={
            "due_at": due,
            "noted_at": case((_a.state == _DONE, new.noted_at), else_=_a.noted_at),
            "news": _a.news + 1,
            "state": case((_a.state == _DONE, _WAITING), else_=_a.state),
        },
    )


# --- A worker's -------------------------------------------------------------------------------------------------------


def any_to_claim(connection: Connection, now: datetime, lost_at: datetime) -> bool:
    """Whether a claim would find one that is due or abandoned."""
    return _first(connection, now) is not None or any_to_expire(connection, lost_at)


def _first(connection: Connection, now: datetime) -> Any:
    due = select(_a.study_instance_uid, _a.rule).where(text(WAITING), _a.due_at <= now)
    return connection.execute(due.order_by(_a.due_at).limit(1)).one_or_none()


def claim(connection: Connection, now: datetime, lost_at: datetime, lease_seconds: float) -> PendingArrival | None:
    """Take the one that has been due for longest; one whose lease ran out by `lost_at` is due again."""
    expire(connection, lost_at)
    first = _first(connection, now)
    if first is None:
        return None
    row = connection.execute(
        update(arrivals)
        .where(_a.study_instance_uid == first.study_instance_uid, _a.rule == first.rule)
        .values(state=_LOOKING, fence=_a.fence + 1, lease_until=now + timedelta(seconds=lease_seconds))
        .returning(arrivals)
    ).one()
    return arrival_of(row)


def renew(connection: Connection, pending: PendingArrival, now: datetime, lease_seconds: float) -> bool:
    """Prolong the lease. False where the claim was lost."""
    until = now + timedelta(seconds=lease_seconds)
    return bool(connection.execute(update(arrivals).where(_claimed(pending)).values(lease_until=until)).rowcount)


def _claimed(pending: PendingArrival) -> ColumnElement[bool]:
    its = _a.study_instance_uid == pending.study_instance_uid, _a.rule == pending.rule
    return and_(*its, _a.fence == pending.fence, _a.state == _LOOKING)


def any_to_expire(connection: Connection, now: datetime) -> bool:
    """Whether one that is being looked at has lost its worker."""
    return connection.scalar(select(_a.rule).where(text(LOOKING), _a.lease_until <= now).limit(1)) is not None


def expire(connection: Connection, now: datetime) -> int:
    """Send those whose worker is gone back to wait. Returns how many."""
    return connection.execute(
        update(arrivals)
        .where(text(LOOKING), _a.lease_until <= now)
        .values(state=_WAITING, lease_until=None, fence=_a.fence + 1)
    ).rowcount


def finish(
    connection: Connection, pending: PendingArrival, report: ArrivalReport, passages: Sequence[Passage], now: datetime
) -> bool:
    """Write how a look ended and what it decided. False where the claim was lost, or what it decided is out of date."""
    row = connection.execute(select(arrivals).where(_claimed(pending))).one_or_none()
    if row is None:
        return False
    if passages:
        # What is changed, or was relied on, may have gone into the history.
        history.recall_study(connection, LOCAL, pending.study_instance_uid)
    if not forwards.still_stand(connection, passages):
        values = {"state": _WAITING, "lease_until": None, "due_at": now + PAUSE}
        connection.execute(update(arrivals).where(_claimed(pending)).values(values))
        return False
    nodes = set(json.loads(row.nodes))
    chosen = {one.decision.destination for one in passages if one.wanted}
    elsewhere = _given_by_others(connection, pending)
    withdrawn = forwards.write(connection, passages, elsewhere, now)
    _take_turns(connection, pending.rule, sorted(chosen - nodes))
    due_at = report.due_at
    if row.news != pending.news:
        soon = max(row.due_at, now + PAUSE)
        due_at = soon if due_at is None else min(soon, due_at)
    values = {
        "state": _DONE if due_at is None else _WAITING,
        "lease_until": None,
        "nodes": json.dumps(sorted((nodes - withdrawn) | chosen)),
        "cause": report.cause,
        "reason": report.reason,
        "finished_at": now,
    }
    if due_at is not None:
        values["due_at"] = due_at
    if report.due_at is None:
        values["noted_at"] = now  # what there is yet to be decided about came meanwhile
    connection.execute(update(arrivals).where(_claimed(pending)).values(values))
    return True


def _given_by_others(connection: Connection, pending: PendingArrival) -> set[str]:
    """The nodes to which other rules have given the study."""
    its = _a.study_instance_uid == pending.study_instance_uid, _a.rule != pending.rule
    return {node for nodes in connection.scalars(select(_a.nodes).where(*its)) for node in json.loads(nodes)}


def _take_turns(connection: Connection, rule: str, nodes: Sequence[str]) -> None:
    """These get a study of the rule: each is level with the others after it, however long it got none."""
    for node in nodes:
        turns = given(connection, rule)
        number = max(turns.get(node, 0), max(turns.values(), default=0) - 1) + 1
        statement = insert_or(forward_turns, connection).values(rule=rule, node=node, turns=number)
        connection.execute(statement.on_conflict_do_update(index_elements=["rule", "node"], set_={"turns": number}))


# --- Reading ----------------------------------------------------------------------------------------------------------


def given(connection: Connection, rule: str) -> dict[str, int]:
    """Node -> its turns of a rule."""
    rows = connection.execute(select(_g.node, _g.turns).where(_g.rule == rule))
    return {row.node: row.turns for row in rows}


def receipts_of(connection: Connection, study: str, series: str) -> list[Receipt]:
    """What the store holds of a study or series."""
    query = select(*COLUMNS).where(_r.study_instance_uid == study)
    if series:
        query = query.where(_r.series_instance_uid == series)
    return [Receipt(**row) for row in connection.execute(query).mappings()]


def find(
    connection: Connection, rule: str, states: Sequence[ArrivalState], study: str, limit: int
) -> list[PendingArrival]:
    """Those with all of these properties, the soonest due first."""
    where: list[ColumnElement[bool]] = []
    if rule:
        where.append(_a.rule == rule)
    if study:
        where.append(_a.study_instance_uid == study)
    found: list[PendingArrival] = []
    for state in dict.fromkeys(states or ArrivalState):
        query = select(arrivals).where(text(f"state = '{state.value}'"), *where).order_by(_a.due_at).limit(limit)
        found += [arrival_of(row) for row in connection.execute(query)]
    return sorted(found, key=lambda one: (one.due_at, one.study_instance_uid, one.rule))[:limit]


def forget(connection: Connection, before: datetime) -> int:
    """Forget those that were decided about before that moment."""
    return connection.execute(delete(arrivals).where(text(DONE), _a.finished_at < before)).rowcount


def arrival_of(row: Any) -> PendingArrival:
    """An arrival from a row with all columns of its table."""
    return PendingArrival(
        rule=row.rule,
        study_instance_uid=row.study_instance_uid,
        due_at=row.due_at,
        noted_at=row.noted_at,
        state=ArrivalState(row.state),
        news=row.news,
        fence=row.fence,
        nodes=tuple(json.loads(row.nodes)),
        cause=row.cause,
        reason=row.reason,
        finished_at=row.finished_at,
    )
