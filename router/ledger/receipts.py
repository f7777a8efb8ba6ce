"""The queries about receipts: which instances our object store holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, func, select

from router.domain.receipt import Receipt
from router.domain.transfer import Instance
from router.ledger.database import insert_or
from router.ledger.tables import receipts, transfers

_r = receipts.c
_LATELY = 50
"""Transfers that are looked at for who stores what they brought."""
COLUMNS = tuple(_r[name] for name in Receipt.__struct_fields__)
"""Those of a Receipt."""
_KEY = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")


def add(connection: Connection, batch: Sequence[Receipt]) -> None:
    """Index instances; known ones are replaced, and the checksums of their files forgotten: they came anew."""
    if not batch:
        return
    statement = insert_or(receipts, connection)
    replaced = {column.name: statement.excluded[column.name] for column in _r if column.name not in _KEY}
    connection.execute(
        statement.on_conflict_do_update(index_elements=_KEY, set_=replaced),
        [msgspec.structs.asdict(receipt) for receipt in batch],
    )


def received(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    """The SOP Instance UIDs held of a study, or of one of its series."""
    query = select(_r.sop_instance_uid).where(_r.study_instance_uid == study_instance_uid)
    if series_instance_uid:
        query = query.where(_r.series_instance_uid == series_instance_uid)
    return set(connection.scalars(query))


def received_instances(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> list[Instance]:
    """The instances held of a study, or of one of its series."""
    query = select(_r.series_instance_uid, _r.sop_instance_uid).where(_r.study_instance_uid == study_instance_uid)
    if series_instance_uid:
        query = query.where(_r.series_instance_uid == series_instance_uid)
    return [Instance(series, instance) for series, instance in connection.execute(query)]


def received_classes(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> dict[str, str]:
    """SOP Instance UID -> SOP Class UID of what is held of a study, or of one of its series."""
    query = select(_r.sop_instance_uid, _r.sop_class_uid).where(_r.study_instance_uid == study_instance_uid)
    if series_instance_uid:
        query = query.where(_r.series_instance_uid == series_instance_uid)
    return {row.sop_instance_uid: row.sop_class_uid for row in connection.execute(query)}


def paths(connection: Connection, study_instance_uid: str) -> set[str]:
    """The paths under which instances of a study are indexed."""
    return set(connection.scalars(select(_r.path).where(_r.study_instance_uid == study_instance_uid)))


def one(connection: Connection, study: str, series: str, instance: str) -> Receipt | None:
    """The receipt of an instance."""
    query = select(*COLUMNS).where(
        _r.study_instance_uid == study, _r.series_instance_uid == series, _r.sop_instance_uid == instance
    )
    row = connection.execute(query).mappings().one_or_none()
    return Receipt(**row) if row is not None else None


def stored_from(connection: Connection, source: str, destination: str) -> dict[str, datetime]:
    """Calling AE titles of what the latest transfers of a route brought -> when one last stored."""
    t = transfers.c
    latest = (
        select(t.study_instance_uid)
        .where(t.source == source, t.destination == destination)
        .order_by(t.id.desc())
        .limit(_LATELY)
    )
    query = (
        select(_r.calling_ae_title, func.max(_r.received_at))
        .where(_r.study_instance_uid.in_(latest), _r.calling_ae_title != "")
        .group_by(_r.calling_ae_title)
    )
    return {row[0]: row[1] for row in connection.execute(query)}
