"""The queries about receipts: which instances our object store holds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select

from router.domain.receipt import Receipt
from router.ledger.database import insert_or
from router.ledger.tables import receipts

_r = receipts.c
_KEY = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")


def add(connection: Connection, batch: Sequence[Receipt]) -> None:
    """Index instances; known ones are replaced."""
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


def paths(connection: Connection, study_instance_uid: str) -> set[str]:
    """The paths under which instances of a study are indexed."""
    return set(connection.scalars(select(_r.path).where(_r.study_instance_uid == study_instance_uid)))
