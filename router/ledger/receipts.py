"""The queries about receipts: which instances our object store holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, func, select

from router.domain.receipt import Receipt
from router.domain.transfer import Instance
from router.ledger.database import insert_or
from router.ledger.history_tables import history
from router.ledger.stores import of
from router.ledger.tables import receipts, transfers

_r = receipts.c
_LATELY = 50
"""Transfers that are looked at for who stores what they brought."""
COLUMNS = tuple(_r[name] for name in Receipt.__struct_fields__)
"""Those of a Receipt."""
_KEY = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "store")


def add(connection: Connection, batch: Sequence[Receipt]) -> None:
    """Index instances; known ones are replaced, and the checksums of their files forgotten: they came anew."""
    if not batch:
        return
    statement = insert_or(receipts, connection)
    replaced = {column.name: statement.excluded[column.name] for column in _r if column.name not in _KEY}
    connection.execute(
        statement.on_conflict_do_update(index_elements=_KEY, set_=replaced),
        # In order: who writes the same ones at the same time waits, and is waited for by nobody meanwhile.
        [msgspec.structs.asdict(receipt) for receipt in sorted(batch, key=_key)],
    )


def _key(receipt: Receipt) -> tuple[str, ...]:
    return tuple(getattr(receipt, name) for name in _KEY)


def received(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    """The SOP Instance UIDs held of a study, or of one of its series."""
    query = select(_r.sop_instance_uid).where(_r.study_instance_uid == study_instance_uid)
    if series_instance_uid:
        query = query.where(_r.series_instance_uid == series_instance_uid)
    return set(connection.scalars(query))


def received_instances(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> list[Instance]:
    """The instances held of a study, or of one of its series."""
    query = select(_r.series_instance_uid, _r.sop_instance_uid).distinct()
    query = query.where(_r.study_instance_uid == study_instance_uid)
    if series_instance_uid:
        query = query.where(_r.series_instance_uid == series_instance_uid)
    return [Instance(series, instance) for series, instance in connection.execute(query)]


def received_classes(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> dict[str, str]:
    """SOP Instance UID -> SOP Class UID of what is held of a study, or of one of its series."""
    query = select(_r.sop_instance_uid, _r.sop_class_uid).where(_r.study_instance_uid == study_instance_uid)
    if series_instance_uid:
        query = query.where(_r.series_instance_uid == series_instance_uid)
    return {row.sop_instance_uid: row.sop_class_uid for row in connection.execute(query)}


def paths(connection: Connection, study_instance_uid: str, store: str | None) -> set[str]:
    """The paths under which instances of a study are indexed."""
    return set(connection.scalars(select(_r.path).where(_r.study_instance_uid == study_instance_uid, *of(store))))


def one(connection: Connection, study: str, series: str, instance: str, store: str | None) -> Receipt | None:
    """The receipt of an instance; of several stores that which came last."""
    query = select(*COLUMNS).where(
        _r.study_instance_uid == study, _r.series_instance_uid == series, _r.sop_instance_uid == instance, *of(store)
    )
    row = connection.execute(query.order_by(_r.received_at.desc(), _r.store).limit(1)).mappings().one_or_none()
    return Receipt(**row) if row is not None else None


def _latest(table: Table, source: str, destination: str, order: ColumnElement[Any]) -> Select[str]:
    its = table.c.source == source, table.c.destination == destination
    return select(table.c.study_instance_uid).where(*its).order_by(order.desc()).limit(_LATELY)


def stored_from(connection: Connection, source: str, destination: str) -> dict[str, datetime]:
    """Calling AE titles of what the latest transfers of a route brought -> when one last stored."""
    here = _latest(transfers, source, destination, transfers.c.id)
    latest = list(connection.scalars(here))
    if len(latest) < _LATELY:
        latest += connection.scalars(_latest(history, source, destination, history.c.finished_at))
    query = (
        select(_r.calling_ae_title, func.max(_r.received_at))
        .where(_r.study_instance_uid.in_(latest), _r.calling_ae_title != "")
        .group_by(_r.calling_ae_title)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
