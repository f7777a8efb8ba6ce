"""The queries about studies that leave the object store: which may, what is known of them, and that they left."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, bindparam, delete, func, literal, or_, select, text, tuple_, update

from router.domain.appointment import AppointmentState
from router.domain.forwarding import FELL_BACK
from router.domain.passing import ArrivalState
from router.domain.receipt import Receipt
from router.domain.retention import Departed, Departure, HeldStudy
from router.domain.rule import LOCAL
from router.domain.transfer import UNDER_WAY, Instance, State
from router.ledger.arrival_tables import arrivals
from router.ledger.database import chunks, insert_or
from router.ledger.departure_tables import departures, leavers
from router.ledger.history import lists_of
from router.ledger.history_tables import history
from router.ledger.instances import EXPECTED, pack, unpack
from router.ledger.receipts import COLUMNS, received_instances
from router.ledger.stores import of
from router.ledger.tables import Instant, appointment_priors, appointments, instance_lists, receipts, transfers

_r, _t, _a, _p = receipts.c, transfers.c, appointments.c, appointment_priors.c
_l, _d, _n = leavers.c, departures.c, arrivals.c
_AT_ONCE = 400
"""Studies that are named in one statement."""
_AFTER_LEFT = timedelta(hours=1)
"""When a study is looked at again of which something came while it left."""
_OPEN = [AppointmentState.WAITING.value, AppointmentState.LOOKING.value]


def due(connection: Connection, now: datetime, limit: int, store: str | None, *, oldest: bool) -> list[str]:
    """Studies that may leave by now: with `oldest` those that came first, else those that might have left first.

    Of a store those of which it holds something, or nobody does.
    """
    query = select(_l.study_instance_uid).limit(limit)
    if store is not None:
        its = _r.study_instance_uid == _l.study_instance_uid
        query = query.where(or_(select(_r.path).where(its, *of(store)).exists(), ~select(_r.path).where(its).exists()))
    if oldest:
        # The plus keeps the database from reading all that are due by their time, and then sorting them.
        by_now = text("+look_at <= :now").bindparams(bindparam("now", now, type_=Instant()))
        return list(connection.scalars(query.where(by_now).order_by(_l.received_at, _l.look_at, _l.study_instance_uid)))
    return list(connection.scalars(query.where(_l.look_at <= now).order_by(_l.look_at, _l.study_instance_uid)))


def postpone(connection: Connection, again: Mapping[str, datetime]) -> None:
    """Look at these later."""
    if again:
        statement = update(leavers).where(_l.study_instance_uid == bindparam("study"))
        rows = [{"study": study, "at": at} for study, at in again.items()]
        connection.execute(statement.values(look_at=bindparam("at", type_=Instant())), rows)


def hasten(connection: Connection, now: datetime) -> None:
    """Look at all of them now that would be looked at later."""
    connection.execute(update(leavers).where(_l.look_at > now).values(look_at=now))


def forget(connection: Connection, studies: Collection[str]) -> None:
    """The store holds nothing of these."""
    for some in chunks(studies, _AT_ONCE):
        connection.execute(delete(leavers).where(_l.study_instance_uid.in_(some)))


def held(connection: Connection, studies: Collection[str], now: datetime) -> list[HeldStudy]:
    """What is known of these, as far as the store holds something of them."""
    return [one for some in chunks(studies, _AT_ONCE) for one in _held(connection, some, now)]


def _held(connection: Connection, studies: Sequence[str], now: datetime) -> list[HeldStudy]:
    last = func.max(_r.received_at, type_=Instant())
    amounts = connection.execute(
        select(_r.study_instance_uid, func.sum(_r.size), last)
        .where(_r.study_instance_uid.in_(studies))
        .group_by(_r.study_instance_uid)
        .order_by(_r.study_instance_uid)
    ).all()
    appointed, undecided = _appointments(connection, studies, now), _arrivals(connection, studies)
    left = set(connection.scalars(select(_d.study_instance_uid).where(_d.study_instance_uid.in_(studies))))
    under_way: Counter[str] = Counter()
    forwards: defaultdict[str, list[tuple[int, str, datetime | None]]] = defaultdict(list)
    rows = [
        row
        for c in (_t, history.c)
        for row in connection.execute(
            select(c.id, c.study_instance_uid, c.source, c.state, c.cause, c.finished_at).where(
                c.study_instance_uid.in_(studies), or_(c.source == LOCAL, c.destination == LOCAL)
            )
        )
    ]
    rows.sort(key=lambda row: row.id)
    for number, study, source, state, cause, finished_at in rows:
        under_way[study] += State(state) in UNDER_WAY
        if source == LOCAL and not (state == State.CANCELLED.value and cause == FELL_BACK):
            forwards[study].append((number, state, finished_at))
    found = []
    for study, size, received_at in amounts:
        proven = [(number, at) for number, state, at in forwards[study] if state == State.COMPLETE.value]
        ends = [at for _, at in proven if at is not None]
        whole = bool(proven) and len(proven) == len(forwards[study]) and not under_way[study]
        found.append(
            HeldStudy(
                study_instance_uid=study,
                size=size,
                last_received_at=received_at,
                transfers=under_way[study],
                arrivals=undecided.get(study, 0),
                appointments=appointed.get(study, 0),
                forwards=len(forwards[study]),
                proven_forwards=len(proven),
                proven_at=max(ends, default=None),
                # Only then it matters, and it takes more than all the rest.
                unsent=_unsent(connection, study, [number for number, _ in proven]) if whole else 0,
                left_before=study in left,
            )
        )
    return found


def _appointments(connection: Connection, studies: Sequence[str], now: datetime) -> dict[str, int]:
    """How many appointments to come each is a prior for."""
    rows = connection.execute(
        select(_p.study_instance_uid, func.count(_a.id.distinct()))
        .join(appointments, _a.id == _p.appointment_id)
        .where(
            _p.study_instance_uid.in_(studies),
            _p.taken,
            _a.state != AppointmentState.CANCELLED.value,
            or_(_a.start_at > now, _a.state.in_(_OPEN)),
        )
        .group_by(_p.study_instance_uid)
    )
    return {row[0]: row[1] for row in rows}


def _arrivals(connection: Connection, studies: Sequence[str]) -> dict[str, int]:
    """How many rules have not decided yet whether to pass on what came in of each."""
    open_ = [ArrivalState.WAITING.value, ArrivalState.LOOKING.value]
    rows = connection.execute(
        select(_n.study_instance_uid, func.count())
        .where(_n.study_instance_uid.in_(studies), _n.state.in_(open_))
        .group_by(_n.study_instance_uid)
    )
    return {row[0]: row[1] for row in rows}


def _unsent(connection: Connection, study: str, transfer_ids: Sequence[int]) -> int:
    """How many instances of a study are in none of these transfers' lists."""
    lists = instance_lists.c
    packed = list(
        connection.scalars(select(lists.instances).where(lists.transfer_id.in_(transfer_ids), lists.kind == EXPECTED))
    )
    packed += [each for _, kind, each in lists_of(connection, transfer_ids) if kind == EXPECTED]
    carried = {one for each in packed for one in unpack(each)}
    return sum(one not in carried for one in received_instances(connection, study, ""))


# leaving --------------------------------------------------------------------------------------------------------------


def begin(connection: Connection, seen: HeldStudy, now: datetime) -> Departure | None:
    """Note that a study leaves, and what of it. None where anything is known of it now that was not `seen`."""
    study = seen.study_instance_uid
    if _held(connection, [study], now) != [seen]:
        return None
    before = departed(connection, study)
    instances = {*received_instances(connection, study, ""), *(before.instances if before is not None else ())}
    row = {
        "last_received_at": seen.last_received_at,
        "begun_at": now,
        "left_at": None,
        "instances": pack(sorted(instances)),
    }
    statement = insert_or(departures, connection).values(study_instance_uid=study, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["study_instance_uid"], set_=row))
    forget(connection, [study])
    return Departure(study_instance_uid=study, last_received_at=seen.last_received_at)


def unfinished(connection: Connection, limit: int, store: str | None) -> list[Departure]:
    """Studies that are leaving, the first that began first: of a store as long as it, or none, has something of it."""
    query = select(_d.study_instance_uid, _d.last_received_at).where(_d.left_at.is_(None)).order_by(_d.begun_at)
    if store is not None:
        its = and_(_r.study_instance_uid == _d.study_instance_uid, _r.received_at <= _d.last_received_at)
        query = query.where(or_(select(_r.path).where(its, *of(store)).exists(), ~select(_r.path).where(its).exists()))
    return [
        Departure(study_instance_uid=study, last_received_at=at) for study, at in connection.execute(query.limit(limit))
    ]


def remaining(
    connection: Connection, departure: Departure, after: tuple[str, str], limit: int, store: str | None
) -> list[Receipt]:
    """The next receipts of what leaves, by series and instance; `after` has the UIDs of the last one."""
    key = tuple_(_r.series_instance_uid, _r.sop_instance_uid)
    query = (
        select(*COLUMNS)
        .where(
            _r.study_instance_uid == departure.study_instance_uid,
            key > tuple_(*map(literal, after)),
            _r.received_at <= departure.last_received_at,
            *of(store),
        )
        .order_by(_r.series_instance_uid, _r.sop_instance_uid)
        .limit(limit)
    )
    return [Receipt(**row) for row in connection.execute(query).mappings()]


def remove(connection: Connection, gone: Sequence[Receipt]) -> None:
    """Forget receipts whose files are gone; one of an instance that came again since is another."""
    if gone:
        statement = delete(receipts).where(
            _r.study_instance_uid == bindparam("study"),
            _r.series_instance_uid == bindparam("series"),
            _r.sop_instance_uid == bindparam("instance"),
            _r.store == bindparam("its_store"),
            _r.received_at == bindparam("at", type_=Instant()),
        )
        rows = [
            {
                "study": one.study_instance_uid,
                "series": one.series_instance_uid,
                "instance": one.sop_instance_uid,
                "its_store": one.store,
                "at": one.received_at,
            }
            for one in gone
        ]
        connection.execute(statement, rows)


def end(connection: Connection, departure: Departure, now: datetime, store: str | None) -> bool:
    """Note that a study has left. What came of it meanwhile is looked at later.

    False where it has left this store only: others hold some of what is to leave.
    """
    study = departure.study_instance_uid
    if store is not None and _left_elsewhere(connection, departure, store):
        return False
    connection.execute(
        update(departures).where(_d.study_instance_uid == study, _d.left_at.is_(None)).values(left_at=now)
    )
    latest = connection.scalar(select(func.max(_r.received_at, type_=Instant())).where(_r.study_instance_uid == study))
    if latest is not None:
        row = {"received_at": latest, "look_at": now + _AFTER_LEFT}
        statement = insert_or(leavers, connection).values(study_instance_uid=study, **row)
        connection.execute(statement.on_conflict_do_nothing())
    return True


def _left_elsewhere(connection: Connection, departure: Departure, store: str) -> bool:
    """Whether another store holds something of what is to leave."""
    study, leaving = departure.study_instance_uid, departed(connection, departure.study_instance_uid)
    others = connection.execute(
        select(_r.series_instance_uid, _r.sop_instance_uid).where(
            _r.study_instance_uid == study,
            _r.store.not_in(("", store)),
            _r.received_at <= departure.last_received_at,
        )
    )
    decided = leaving.instances if leaving is not None else frozenset()
    return any(Instance(*row) in decided for row in others)


def departed(connection: Connection, study: str) -> Departed | None:
    """What has left of a study."""
    row = connection.execute(select(_d.left_at, _d.instances).where(_d.study_instance_uid == study)).one_or_none()
    return None if row is None else Departed(left_at=row.left_at, instances=frozenset(unpack(row.instances)))


def recall(connection: Connection, studies: Collection[str]) -> None:
    """Somebody wants these here again: that they were here counts no more."""
    for some in chunks(studies, _AT_ONCE):
        connection.execute(delete(departures).where(_d.study_instance_uid.in_(some), _d.left_at.is_not(None)))
