"""The queries about the history: what has ended and is old goes there with all that is known of it, and comes back.

A transfer is either in `transfers` or in `history`, under the same number, and moves between them in one transaction.
What others still refer to stays: priors of an appointment that is remembered, and what an archive may yet commit itself
to. The rest of its rows (the sweeps it belonged to, old commitments) goes.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, insert, literal, or_, select, tuple_

from router.domain.history import Archived, Mark
from router.domain.transfer import ENDED, Attempt, Intent, State, Transfer
from router.ledger.commitments import KEPT
from router.ledger.database import chunks
from router.ledger.history_tables import history
from router.ledger.rows import transfer_of
from router.ledger.tables import (
    Instant,
    appointment_transfers,
    attempts,
    commitments,
    instance_lists,
    transfers,
)

_h, _t, _a, _l = history.c, transfers.c, attempts.c, instance_lists.c
_AT_ONCE = 400
_STATES = sorted(ENDED)
_OWN = tuple(column.name for column in _h if column.name != "content")
"""Columns that the history has as such."""


class _Step(msgspec.Struct, array_like=True, kw_only=True):
    """An attempt; the fields are the columns of its table but for the transfer's number."""

    number: int
    step: str
    started_at: datetime
    finished_at: datetime
    happening: str
    cause: str
    reason: str
    status: int | None
    completed: int
    failed: int
    warning: int


class _Content(msgspec.Struct, array_like=True, kw_only=True):
    """The columns of a transfer that the history has not as such, and what belonged to it.

    Fields are only ever added at the end, with a default: what older versions wrote is read for ever.
    """

    priority: int
    patient_id: str
    expected: int | None
    completed: int
    failed: int
    warning: int
    attempts: int
    rounds: int
    looks: int
    status: int | None
    reason: str
    fence: int
    steps: int
    availability: str
    queued_at: datetime
    started_at: datetime | None
    next_at: datetime
    claimed_at: datetime | None
    updated_at: datetime
    deadline_at: datetime | None
    remembered: list[_Step]
    lists: dict[str, bytes]


_BESIDES = ("remembered", "lists")
_PACKED = tuple(name for name in _Content.__struct_fields__ if name not in _BESIDES)
_decode = msgspec.msgpack.Decoder(_Content).decode


def _pack(row: Any, remembered: Sequence[Any], lists: Mapping[str, bytes]) -> bytes:
    steps = [_Step(**{name: one[name] for name in _Step.__struct_fields__}) for one in remembered]
    content = _Content(**{name: row[name] for name in _PACKED}, remembered=steps, lists=dict(lists))
    return zlib.compress(msgspec.msgpack.encode(content))


def _unpack(packed: bytes) -> _Content:
    return _decode(zlib.decompress(packed))


# going ----------------------------------------------------------------------------------------------------------------


def archive(connection: Connection, mark: Mark | None, before: datetime, most: int, now: datetime) -> Archived:
    """Move what ended before that moment, of the next `most` after the mark (None: the first)."""
    state = mark.state if mark is not None else State(_STATES[0])
    ended: list[ColumnElement[bool]] = [_t.finished_at.is_not(None), _t.state == state.value, _t.finished_at < before]
    if mark is not None:
        ended.append(tuple_(_t.finished_at, _t.id) > tuple_(literal(mark.finished_at, Instant()), mark.transfer_id))
    needed = or_(
        exists().where(appointment_transfers.c.transfer_id == _t.id),
        exists().where(and_(commitments.c.transfer_id == _t.id, commitments.c.requested_at >= now - KEPT)),
    )
    query = select(transfers, needed.label("needed")).where(*ended).order_by(_t.finished_at, _t.id).limit(most)
    # Where others may write at the same time, what somebody has just asked for again is passed over.
    rows = connection.execute(query.with_for_update(of=transfers, skip_locked=True)).mappings().all()
    going = [row for row in rows if not row["needed"]]
    _move(connection, going)
    if len(rows) == most:
        return Archived(moved=len(going), mark=Mark(state, rows[-1]["finished_at"], rows[-1]["id"]))
    following = _STATES.index(state) + 1
    if following == len(_STATES):
        return Archived(moved=len(going), mark=None)
    return Archived(moved=len(going), mark=Mark(State(_STATES[following]), datetime.min.replace(tzinfo=now.tzinfo), 0))


def _move(connection: Connection, going: Sequence[Any]) -> None:
    if not going:
        return
    numbers = [row["id"] for row in going]
    remembered: defaultdict[int, list[Any]] = defaultdict(list)
    its = select(attempts).where(_a.transfer_id.in_(numbers)).order_by(_a.transfer_id, _a.number)
    for one in connection.execute(its).mappings():
        remembered[one["transfer_id"]].append(one)
    lists: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
    for each in connection.execute(select(instance_lists).where(_l.transfer_id.in_(numbers))):
        lists[each.transfer_id][each.kind] = each.instances
    rows = [
        {name: row[name] for name in _OWN} | {"content": _pack(row, remembered[row["id"]], lists[row["id"]])}
        for row in going
    ]
    connection.execute(insert(history), rows)
    connection.execute(delete(transfers).where(_t.id.in_(numbers)))


# coming back ----------------------------------------------------------------------------------------------------------


def holds_any(connection: Connection) -> bool:
    """Whether anything is in the history: most ledgers need not look there."""
    return connection.scalar(_ANY) is not None


_ANY = select(_h.id).where(_h.id > 0).limit(1)  # said so, an index answers it


def recall(connection: Connection, intents: Iterable[Intent]) -> None:
    """Take these out of the history, as they went in, so that they can be changed; others are passed over."""
    wanted = set(intents)
    if not wanted or not holds_any(connection):
        return
    for some in chunks((one.study_instance_uid for one in wanted), _AT_ONCE):
        rows = connection.execute(select(history).where(_h.study_instance_uid.in_(some))).all()
        _bring_back(connection, [row for row in rows if _intent(row) in wanted])


def recall_one(connection: Connection, transfer_id: int) -> None:
    """The same for the transfer of that number."""
    _bring_back(connection, connection.execute(select(history).where(_h.id == transfer_id)).all())


def recall_study(connection: Connection, source: str, study: str) -> None:
    """The same for all transfers of a study from a source."""
    its = select(history).where(_h.source == source, _h.study_instance_uid == study)
    _bring_back(connection, connection.execute(its).all())


def _intent(row: Any) -> Intent:
    return Intent(row.source, row.study_instance_uid, row.series_instance_uid, row.destination)


def _bring_back(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    if not rows:
        return
    contents = {row.id: _unpack(row.content) for row in rows}
    back = [
        {name: getattr(row, name) for name in _OWN} | {name: getattr(contents[row.id], name) for name in _PACKED}
        for row in rows
    ]
    connection.execute(insert(transfers), back)
    steps = [
        {"transfer_id": number} | msgspec.structs.asdict(step)
        for number, content in contents.items()
        for step in content.remembered
    ]
    if steps:
        connection.execute(insert(attempts), steps)
    lists = [
        {"transfer_id": number, "kind": kind, "instances": packed}
        for number, content in contents.items()
        for kind, packed in content.lists.items()
    ]
    if lists:
        connection.execute(insert(instance_lists), lists)
    connection.execute(delete(history).where(_h.id.in_(list(contents))))


# reading --------------------------------------------------------------------------------------------------------------


def transfer_in(row: Any) -> Transfer:
    """A transfer from a row of the history with all its columns."""
    return transfer_of(_Seen(row))


class _Seen:
    """A row of the history that reads like one of `transfers`."""

    wish, lease_until = "", None

    def __init__(self, row: Any) -> None:
        content = _unpack(row.content)
        for name in _OWN:
            setattr(self, name, getattr(row, name))
        for name in _PACKED:
            setattr(self, name, getattr(content, name))


def find(connection: Connection, *, states: Sequence[State], wanted: Mapping[str, str], limit: int) -> list[Transfer]:
    """Transfers in the history with all of these properties, the highest number first; an empty one is any."""
    query = select(history).order_by(_h.id.desc()).limit(limit)
    if states:
        query = query.where(_h.state.in_([state.value for state in states]))
    for name, value in wanted.items():
        if value:
            query = query.where(_h[name] == value)
    return [transfer_in(row) for row in connection.execute(query)]


def one(connection: Connection, transfer_id: int) -> Transfer | None:
    """The transfer of that number, if it is in the history."""
    row = connection.execute(select(history).where(_h.id == transfer_id)).one_or_none()
    return None if row is None else transfer_in(row)


def remembered(connection: Connection, transfer_id: int) -> list[Attempt]:
    """What was done for a transfer in the history, oldest first; empty for any other."""
    content = _content(connection, transfer_id)
    return [] if content is None else [Attempt(**msgspec.structs.asdict(step)) for step in content.remembered]


def list_of(connection: Connection, transfer_id: int, kind: str) -> bytes | None:
    """A list of a transfer in the history, as it was packed; None where there is none, or it is not there."""
    content = _content(connection, transfer_id)
    return None if content is None else content.lists.get(kind)


def lists_of(connection: Connection, transfer_ids: Sequence[int]) -> list[tuple[int, str, bytes]]:
    """All lists of those transfers that are in the history: number, kind, and the list as it was packed."""
    found: list[tuple[int, str, bytes]] = []
    for some in chunks(transfer_ids, _AT_ONCE):
        rows = connection.execute(select(_h.id, _h.content).where(_h.id.in_(some)))
        found += [(row.id, kind, packed) for row in rows for kind, packed in _unpack(row.content).lists.items()]
    return found


def _content(connection: Connection, transfer_id: int) -> _Content | None:
    packed = connection.scalar(select(_h.content).where(_h.id == transfer_id))
    return None if packed is None else _unpack(packed)


def latest_runs(
    connection: Connection, source: str, destination: str, states: Sequence[State], most: int
) -> list[tuple[Transfer, list[Attempt]]]:
    """Of a route the latest transfers that ended so, with their attempts, the latest first."""
    query = (
        select(history)
        .where(_h.source == source, _h.destination == destination, _h.state.in_([state.value for state in states]))
        .order_by(_h.finished_at.desc())
        .limit(most)
    )
    return [(transfer_in(row), remembered(connection, row.id)) for row in connection.execute(query).all()]
