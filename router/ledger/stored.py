"""The queries about what our object store holds as a whole: its studies, page by page, and checksums of its files."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, tuple_, update

from router.domain.receipt import Receipt
from router.domain.rule import LOCAL
from router.domain.stored import Amount, Indexed, StoredStudy
from router.domain.transfer import UNDER_WAY
from router.ledger.database import chunks
from router.ledger.receipts import COLUMNS
from router.ledger.stores import of
from router.ledger.tables import Instant, receipts, transfers

_r, _t = receipts.c, transfers.c
_AT_ONCE = 500
"""Studies that are named in one statement."""


def studies(
    connection: Connection, only: Collection[str] | None, callers: Collection[str] | None, limit: int
) -> list[StoredStudy]:
    """Studies that are held, what came last first: of `only` these, of which one of `callers` stored something."""
    last = func.max(_r.received_at, type_=Instant())
    first = func.min(_r.received_at, type_=Instant())
    query = (
        select(_r.study_instance_uid, func.count(_r.sop_instance_uid.distinct()), func.sum(_r.size), first, last)
        .where(*_among(only))
        .group_by(_r.study_instance_uid)
        .order_by(last.desc(), _r.study_instance_uid)
        .limit(limit)
    )
    if callers is not None:
        theirs = select(_r.study_instance_uid).where(_r.calling_ae_title.in_(callers))
        query = query.where(_r.study_instance_uid.in_(theirs))
    rows = connection.execute(query).all()
    found = [row[0] for row in rows]
    titles, needed = _by_study(connection, found, _r.calling_ae_title), _under_way(connection, found)
    stores = _by_study(connection, found, _r.store)
    return [
        StoredStudy(
            study_instance_uid=uid,
            instances=count,
            size=size,
            first_received_at=first_at,
            last_received_at=last_at,
            calling_ae_titles=tuple(titles.get(uid, ())),
            transfers=tuple(needed.get(uid, ())),
            stores=tuple(filter(None, stores.get(uid, ()))),
        )
        for uid, count, size, first_at, last_at in rows
    ]


def uids(connection: Connection, after: str, limit: int, store: str | None) -> list[str]:
    """The next Study Instance UIDs that are held, in their order as texts."""
    query = select(_r.study_instance_uid).where(_r.study_instance_uid > after, *of(store)).distinct()
    return list(connection.scalars(query.order_by(_r.study_instance_uid).limit(limit)))


def amount(connection: Connection, only: Collection[str] | None, store: str | None) -> Amount:
    """How much is held, of `only` these studies."""
    query = select(func.count(), func.coalesce(func.sum(_r.size), 0)).where(*_among(only), *of(store))
    return Amount(*connection.execute(query).one())


def page(
    connection: Connection, study: str, after: tuple[str, str, str], limit: int, store: str | None
) -> list[Indexed]:
    """The next instances of a study, by series, instance and store as texts; `after` has those of the last one."""
    key = tuple_(_r.series_instance_uid, _r.sop_instance_uid, _r.store)
    query = (
        select(*COLUMNS, _r.checksum)
        .where(_r.study_instance_uid == study, key > tuple_(*after), *of(store))
        .order_by(_r.series_instance_uid, _r.sop_instance_uid, _r.store)
        .limit(limit)
    )
    return [_indexed(dict(row)) for row in connection.execute(query).mappings()]


def one(connection: Connection, study: str, series: str, instance: str, store: str | None) -> Indexed | None:
    """What is known of an instance; of several stores that which came last."""
    query = select(*COLUMNS, _r.checksum).where(
        _r.study_instance_uid == study, _r.series_instance_uid == series, _r.sop_instance_uid == instance, *of(store)
    )
    row = connection.execute(query.order_by(_r.received_at.desc(), _r.store).limit(1)).mappings().one_or_none()
    return _indexed(dict(row)) if row is not None else None


def keep_checksums(connection: Connection, found: Sequence[tuple[Receipt, bytes]]) -> None:
    """Remember checksums of files whose receipts are still these, and that have none yet."""
    if not found:
        return
    statement = update(receipts).where(
        _r.study_instance_uid == bindparam("study"),
        _r.series_instance_uid == bindparam("series"),
        _r.sop_instance_uid == bindparam("instance"),
        _r.store == bindparam("its_store"),
        _r.received_at == bindparam("at", type_=Instant()),
        _r.checksum.is_(None),
    )
    rows = [
        {
            "study": receipt.study_instance_uid,
            "series": receipt.series_instance_uid,
            "instance": receipt.sop_instance_uid,
            "its_store": receipt.store,
            "at": receipt.received_at,
            "found": checksum,
        }
        for receipt, checksum in found
    ]
    connection.execute(statement.values(checksum=bindparam("found")), rows)


def _among(only: Collection[str] | None) -> list[ColumnElement[bool]]:
    return [] if only is None else [_r.study_instance_uid.in_(only)]


def _by_study(connection: Connection, found: Sequence[str], column: ColumnElement[str]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for some in chunks(found, _AT_ONCE):
        query = select(_r.study_instance_uid, column).where(_r.study_instance_uid.in_(some)).distinct()
        for uid, value in connection.execute(query.order_by(column)):
            values.setdefault(uid, []).append(value)
    return values


def _under_way(connection: Connection, found: Sequence[str]) -> dict[str, list[int]]:
    """Transfers that need what is held: those to the store count what is there already, those from it send it on."""
    states = [str(state) for state in UNDER_WAY]
    needed: dict[str, list[int]] = {}
    for some in chunks(found, _AT_ONCE):
        query = select(_t.study_instance_uid, _t.id).where(
            _t.study_instance_uid.in_(some), _t.state.in_(states), (_t.destination == LOCAL) | (_t.source == LOCAL)
        )
        for uid, number in connection.execute(query.order_by(_t.id)):
            needed.setdefault(uid, []).append(number)
    return needed


def _indexed(row: dict[str, object]) -> Indexed:
    checksum = row.pop("checksum")
    return Indexed(
        receipt=Receipt(**row),  # type: ignore[arg-type]
        checksum=checksum if isinstance(checksum, bytes) else None,
    )
