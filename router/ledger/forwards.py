"""The queries about transfers from our own store: what is known of them, and queueing them with what they carry."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update

from router.domain.forwarding import FELL_BACK, Known, Passage
from router.domain.rule import LOCAL
from router.domain.transfer import TRANSITIONS, UNDER_WAY, Happening, Instance, Intent, State, TransferFact
from router.ledger import intents
from router.ledger.database import chunks, insert_or
from router.ledger.history import lists_of
from router.ledger.history_tables import history
from router.ledger.instances import DELIVERED, EXPECTED, MISSING, pack, unpack
from router.ledger.tables import instance_lists, transfers

_t, _l = transfers.c, instance_lists.c
_COLUMNS = _t.id, _t.series_instance_uid, _t.destination, _t.state, _t.instance_count, _t.cause
_AT_ONCE = 400
_FELL_BACK = "Another node of the group has got it; nothing had been sent."


def known(connection: Connection, study: str) -> dict[Intent, Known]:
    """Every transfer of a study from `local`, with its lists."""
    old = connection.execute(
        select(*(history.c[column.name] for column in _COLUMNS)).where(
            history.c.source == LOCAL, history.c.study_instance_uid == study
        )
    ).all()
    lists = {
        (number, kind): frozenset(each.sop_instance_uid for each in unpack(packed))
        for number, kind, packed in lists_of(connection, [row.id for row in old])
    }
    here = _known(connection, study, _t.study_instance_uid == study, _t.source == LOCAL)
    return _together(study, old, lists) | here


def _known(connection: Connection, study: str, *which: ColumnElement[bool]) -> dict[Intent, Known]:
    rows = connection.execute(select(*_COLUMNS).where(*which)).all()
    lists: dict[tuple[int, str], frozenset[str]] = {}
    for some in chunks((int(row.id) for row in rows), _AT_ONCE):
        found = connection.execute(
            select(instance_lists).where(_l.transfer_id.in_(some), _l.kind.in_([EXPECTED, DELIVERED, MISSING]))
        )
        for one in found:
            lists[one.transfer_id, one.kind] = frozenset(each.sop_instance_uid for each in unpack(one.instances))
    return _together(study, rows, lists)


def _together(study: str, rows: Sequence[Any], lists: Mapping[tuple[int, str], frozenset[str]]) -> dict[Intent, Known]:
    nothing: frozenset[str] = frozenset()
    return {
        Intent(LOCAL, study, row.series_instance_uid, row.destination): Known(
            fact=TransferFact(row.id, State(row.state), row.instance_count, row.cause),
            wanted=lists.get((row.id, EXPECTED), nothing),
            there=_there(State(row.state), *(lists.get((row.id, kind)) for kind in (EXPECTED, DELIVERED, MISSING))),
        )
        for row in rows
    }


def _there(
    state: State, expected: frozenset[str] | None, delivered: frozenset[str] | None, missing: frozenset[str] | None
) -> frozenset[str]:
    """What the destination holds: what is proven, else what it acknowledged and is not known to lack."""
    wanted = expected or frozenset()
    if state is State.COMPLETE:
        return wanted
    if state is State.PARTIAL and missing:
        return wanted - missing
    return wanted & (delivered or frozenset()) - (missing or frozenset())


def still_stand(connection: Connection, passages: Sequence[Passage]) -> bool:
    """Whether the transfers are as they were when these were decided, as far as it matters."""
    news = [one.decision.new for one in passages if one.decision.new is not None]
    for new in news:
        state = _state_of(connection, new.intent)
        if (state is None) != (new.happening is None):
            return False
        if state is not None and new.happening is not None and new.happening not in TRANSITIONS[state]:
            return False
    relied_on = [one.decision.transfer for one in passages if one.decision.new is None and one.decision.transfer]
    for some in chunks(relied_on, _AT_ONCE):
        fell_back = _t.state == State.CANCELLED.value, _t.cause == FELL_BACK
        if connection.scalar(select(_t.id).where(_t.id.in_(some), *fell_back).limit(1)):
            return False  # another rule has withdrawn meanwhile what was thought to be under way
    withdrawn = [number for one in passages for number in one.withdrawn]
    waiting = (State.QUEUED.value, State.CANCELLED.value)
    return all(connection.scalar(select(_t.state).where(_t.id == number)) in waiting for number in withdrawn)


def _state_of(connection: Connection, intent: Intent) -> State | None:
    state = connection.scalar(select(_t.state).where(*_its(intent)))
    return None if state is None else State(state)


def _its(intent: Intent) -> tuple[ColumnElement[bool], ...]:
    return (
        _t.source == intent.source,
        _t.study_instance_uid == intent.study_instance_uid,
        _t.series_instance_uid == intent.series_instance_uid,
        _t.destination == intent.destination,
    )


def write(connection: Connection, passages: Sequence[Passage], elsewhere: Collection[str], now: datetime) -> set[str]:
    """Queue what was decided, cancel what is withdrawn. The nodes that it was withdrawn from.

    `elsewhere`: nodes that it is not withdrawn from, for other rules have given them the study.
    """
    for one in passages:
        _queue(connection, one, now)
    numbers = {number for one in passages for number in one.withdrawn}
    rows = connection.execute(select(_t.id, _t.destination).where(_t.id.in_(numbers))).all() if numbers else []
    left = {row.id: row.destination for row in rows if row.destination not in elsewhere}
    if left:
        connection.execute(
            update(transfers)
            .where(_t.id.in_(left), _t.state == State.QUEUED.value)
            .values(
                state=State.CANCELLED.value,
                cause=FELL_BACK,
                reason=_FELL_BACK,
                fence=_t.fence + 1,
                finished_at=now,
                updated_at=now,
            )
        )
    return set(left.values())


def _queue(connection: Connection, passage: Passage, now: datetime) -> None:
    """Queue or hold a transfer, and remember what it is to carry: what it was to, and this."""
    new = passage.decision.new
    if new is None:
        return
    # Only this one: a study passed on series by series has as many as it has series, and each comes by here.
    before = _known(connection, new.intent.study_instance_uid, *_its(new.intent)).get(new.intent)
    carried = _list(connection, before.fact.id, EXPECTED) if before is not None else set()
    wanted = sorted(carried | passage.wanted)
    if before is None or new.happening is None:
        intents.add(connection, [new], now)
    elif new.happening is Happening.GREW and before.fact.state in UNDER_WAY:
        intents.count(connection, [{"row_id": before.fact.id, "new_count": len(wanted)}], now)
    else:
        there = [one for one in sorted(carried) if one.sop_instance_uid in before.there]
        intents.start_over(connection, [intents.anew(new, before.fact.id, now) | {"new_count": len(wanted)}], now)
        if new.happening is Happening.GREW and there:
            _put(connection, before.fact.id, DELIVERED, there)
    number = connection.scalar(select(_t.id).where(*_its(new.intent)))
    assert number is not None
    _put(connection, number, EXPECTED, wanted)


def _list(connection: Connection, number: int, kind: str) -> set[Instance]:
    packed = connection.scalar(select(_l.instances).where(_l.transfer_id == number, _l.kind == kind))
    return set() if packed is None else set(unpack(packed))


def _put(connection: Connection, number: int, kind: str, instances: Sequence[Instance]) -> None:
    """No worker holds the transfer: who has lost his claim writes nothing any more."""
    statement = insert_or(instance_lists, connection).values(transfer_id=number, kind=kind, instances=pack(instances))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["transfer_id", "kind"], set_={"instances": statement.excluded.instances}
        )
    )
