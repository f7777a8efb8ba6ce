"""The queries about object stores: who has which, what of a study is in which, that one is gone for good."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, delete, func, select, update

from router.domain.rule import LOCAL
from router.domain.selection import AGAIN_WHEN_ASKED
from router.domain.stores import StoreSeen
from router.domain.transfer import State
from router.ledger.database import insert_or
from router.ledger.history_tables import history
from router.ledger.store_tables import stores
from router.ledger.tables import Instant, receipts, transfers

_s, _r = stores.c, receipts.c
_EVERY = timedelta(seconds=30)
"""How old the note of a store may be before it is written anew."""
_STUDIES = 200
_HAD = sorted(state.value for state in AGAIN_WHEN_ASKED | {State.COMPLETE})
"""Ended so, a transfer may have brought something; what a person cancelled is wanted no more."""


def of(store: str | None) -> list[ColumnElement[bool]]:
    """Those receipts that are of a store: its own, and those of which nobody ever said where they are. None: all."""
    return [] if store is None else [_r.store.in_(("", store))]


def note(connection: Connection, name: str, replica: str, now: datetime) -> None:
    """A service has this store now; another one that it had before it has no more."""
    if not name:
        return
    known = connection.execute(select(stores).where(_s.name == name)).one_or_none()
    if known is not None and known.replica == replica and not known.replaced and known.seen_at > now - _EVERY:
        return
    row = {"replica": replica, "seen_at": now, "replaced": False}
    statement = insert_or(stores, connection).values(name=name, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))
    if replica:
        connection.execute(
            update(stores).where(_s.replica == replica, _s.name != name, _s.replaced.is_(False)).values(replaced=True)
        )


def known(connection: Connection) -> list[StoreSeen]:
    """The stores that services have or had, but for those that their replicas have replaced by others."""
    rows = connection.execute(select(stores).where(_s.replaced.is_(False)).order_by(_s.replica, _s.name))
    return [StoreSeen(name=row.name, replica=row.replica, seen_at=row.seen_at) for row in rows]


def held_in(connection: Connection, study: str, names: Collection[str]) -> set[str]:
    """The SOP Instance UIDs of a study that these stores hold."""
    if not names:
        return set()
    query = select(_r.sop_instance_uid).where(_r.study_instance_uid == study, _r.store.in_(names))
    return set(connection.scalars(query))


def amounts(connection: Connection) -> dict[str, int]:
    """Name of a store -> how many instances it holds. Reads all receipts."""
    return {row[0]: row[1] for row in connection.execute(select(_r.store, func.count()).group_by(_r.store))}


def arrived(connection: Connection, study: str, own: str) -> tuple[int, int, datetime | None]:
    """How many instances of a study stores hold, how many of them others than this, and when the last one came."""
    others = func.coalesce(func.sum(case((_r.store.in_(("", own)), 0), else_=1)), 0)
    query = select(func.count(), others, func.max(_r.received_at, type_=Instant()))
    count, elsewhere, at = connection.execute(query.where(_r.study_instance_uid == study)).one()
    return count, elsewhere, at


def adopt(connection: Connection, study: str, paths: Sequence[str], store: str) -> None:
    """Note of receipts without a store that their files are in this one."""
    named = receipts.alias("named")
    its = (_r.study_instance_uid == study, _r.store == "", _r.path == bindparam("its_path"))
    twice = and_(
        named.c.study_instance_uid == study,
        named.c.series_instance_uid == _r.series_instance_uid,
        named.c.sop_instance_uid == _r.sop_instance_uid,
        named.c.store == store,
    )
    rows = [{"its_path": path} for path in paths]
    if rows:
        connection.execute(delete(receipts).where(*its, select(named.c.path).where(twice).exists()), rows)
        connection.execute(update(receipts).where(*its).values(store=store), rows)


def without_store(connection: Connection, study: str) -> set[str]:
    """The paths of the receipts of a study of which nobody ever said in which store they are."""
    return set(connection.scalars(select(_r.path).where(_r.study_instance_uid == study, _r.store == "")))


def next_studies(connection: Connection, name: str, after: str, most: int) -> list[str]:
    """Studies of which a store holds something, by UID from after that one, with so many instances, or one study."""
    query = select(_r.study_instance_uid, func.count()).where(_r.store == name, _r.study_instance_uid > after)
    rows = connection.execute(query.group_by(_r.study_instance_uid).order_by(_r.study_instance_uid).limit(_STUDIES))
    found: list[str] = []
    total = 0
    for study, count in rows:
        if found and total + count > most:
            break
        found.append(study)
        total += count
    return found


def losing(connection: Connection, name: str, studies: Collection[str]) -> list[int]:
    """The transfers of these studies to our stores that have ended and have instances in this store alone."""
    other = receipts.alias("other")
    elsewhere = and_(
        other.c.study_instance_uid == _r.study_instance_uid,
        other.c.series_instance_uid == _r.series_instance_uid,
        other.c.sop_instance_uid == _r.sop_instance_uid,
        other.c.store != name,
    )
    query = select(_r.study_instance_uid, _r.series_instance_uid).distinct()
    lost = connection.execute(
        query.where(
            _r.study_instance_uid.in_(studies), _r.store == name, ~select(other.c.path).where(elsewhere).exists()
        )
    ).all()
    parts = {(row[0], row[1]) for row in lost} | {(row[0], "") for row in lost}
    numbers: list[int] = []
    for table in (transfers.c, history.c):
        rows = connection.execute(
            select(table.id, table.study_instance_uid, table.series_instance_uid).where(
                table.study_instance_uid.in_({study for study, _ in parts}),
                table.destination == LOCAL,
                table.state.in_(_HAD),
            )
        )
        numbers += [row[0] for row in rows if (row[1], row[2]) in parts]
    return sorted(numbers)


def forget(connection: Connection, name: str, studies: Collection[str]) -> int:
    """Forget what a store that is gone for good held of these studies; how many receipts that were."""
    return connection.execute(delete(receipts).where(_r.study_instance_uid.in_(studies), _r.store == name)).rowcount


def forget_name(connection: Connection, name: str) -> None:
    """Forget a store of which no receipts are left."""
    connection.execute(delete(stores).where(_s.name == name))
