"""The queries about lists of instances: what is expected of a transfer, what was delivered by it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, literal, select

from router.domain.transfer import Instance, Transfer
from router.ledger.database import insert_or
from router.ledger.tables import instance_lists, transfers

EXPECTED, DELIVERED = "expected", "delivered"

_l, _t = instance_lists.c, transfers.c


def replace(connection: Connection, transfer: Transfer, kind: str, instances: Sequence[Instance]) -> None:
    """Remember a list in place of the one before; nothing changes where the claim has gone to someone else."""
    still_ours = select(literal(transfer.id), literal(kind), literal(_pack(instances))).where(
        _t.id == transfer.id, _t.fence == transfer.fence
    )
    statement = insert_or(instance_lists, connection).from_select(["transfer_id", "kind", "instances"], still_ours)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["transfer_id", "kind"], set_={"instances": statement.excluded.instances}
        )
    )


def find(connection: Connection, transfer_id: int, kind: str) -> list[Instance] | None:
    """A list, sorted by series; None where there is none."""
    packed = connection.scalar(select(_l.instances).where(_l.transfer_id == transfer_id, _l.kind == kind))
    return None if packed is None else _unpack(packed)


def _pack(instances: Sequence[Instance]) -> bytes:
    by_series: dict[str, list[str]] = {}
    for instance in instances:
        by_series.setdefault(instance.series_instance_uid, []).append(instance.sop_instance_uid)
    return zlib.compress(msgspec.msgpack.encode(by_series))


def _unpack(packed: bytes) -> list[Instance]:
    by_series = msgspec.msgpack.decode(zlib.decompress(packed), type=dict[str, list[str]])
    return [Instance(series, instance) for series, instances in by_series.items() for instance in instances]
