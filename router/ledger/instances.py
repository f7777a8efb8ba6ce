"""The queries about lists of instances: what is expected of a transfer, what was delivered by it, what was refused."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, delete, literal, select

from router.domain.transfer import Instance, Transfer
from router.ledger import history
from router.ledger.database import insert_or
from router.ledger.tables import instance_lists, transfers

EXPECTED, SERIES, MISSING, DELIVERED, REFUSED = "expected", "series", "missing", "delivered", "refused"
OF_THE_SOURCE = (EXPECTED, SERIES, MISSING, REFUSED)
"""The kinds that no longer hold once a transfer starts over, for the source is asked again."""

_l, _t = instance_lists.c, transfers.c


def replace(connection: Connection, transfer: Transfer, kind: str, instances: Sequence[Instance]) -> None:
    """Remember a list in place of the one before; nothing changes where the claim has gone to someone else."""
    _replace(connection, transfer, kind, pack(instances))


def replace_counts(connection: Connection, transfer: Transfer, counts: Mapping[str, int | None]) -> None:
    """The same for the number of instances of each series."""
    _replace(connection, transfer, SERIES, zlib.compress(msgspec.msgpack.encode(counts)))


def replace_reasons(connection: Connection, transfer: Transfer, reasons: Mapping[str, Sequence[str]]) -> None:
    """The same for why which instances were refused: a reason -> SOP Instance UIDs."""
    _replace(connection, transfer, REFUSED, zlib.compress(msgspec.msgpack.encode(reasons)))


def remove(connection: Connection, transfer: Transfer, kind: str) -> None:
    """Forget a list, while the claim is still ours."""
    ours = select(_t.id).where(_t.id == transfer.id, _t.fence == transfer.fence)
    connection.execute(delete(instance_lists).where(_l.transfer_id.in_(ours), _l.kind == kind))


def _replace(connection: Connection, transfer: Transfer, kind: str, packed: bytes) -> None:
    still_ours = select(literal(transfer.id), literal(kind), literal(packed)).where(
        _t.id == transfer.id, _t.fence == transfer.fence
    )
    statement = insert_or(instance_lists, connection).from_select(["transfer_id", "kind", "instances"], still_ours)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["transfer_id", "kind"], set_={"instances": statement.excluded.instances}
        )
    )


def _packed(connection: Connection, transfer_id: int, kind: str) -> bytes | None:
    found = connection.scalar(select(_l.instances).where(_l.transfer_id == transfer_id, _l.kind == kind))
    return history.list_of(connection, transfer_id, kind) if found is None else found


def find(connection: Connection, transfer_id: int, kind: str) -> list[Instance] | None:
    """A list, sorted by series; None where there is none."""
    packed = _packed(connection, transfer_id, kind)
    return None if packed is None else unpack(packed)


def find_counts(connection: Connection, transfer_id: int) -> dict[str, int | None] | None:
    """The number of instances of each series; None where there is none."""
    packed = _packed(connection, transfer_id, SERIES)
    return None if packed is None else msgspec.msgpack.decode(zlib.decompress(packed), type=dict[str, int | None])


def find_reasons(connection: Connection, transfer_id: int) -> dict[str, list[str]]:
    """Why which instances were refused; empty where none was."""
    packed = _packed(connection, transfer_id, REFUSED)
    return {} if packed is None else msgspec.msgpack.decode(zlib.decompress(packed), type=dict[str, list[str]])


def pack(instances: Sequence[Instance]) -> bytes:
    """Instances as bytes of a column."""
    by_series: dict[str, list[str]] = {}
    for instance in instances:
        by_series.setdefault(instance.series_instance_uid, []).append(instance.sop_instance_uid)
    return zlib.compress(msgspec.msgpack.encode(by_series))


def unpack(packed: bytes) -> list[Instance]:
    """What `pack` was given, series by series."""
    by_series = msgspec.msgpack.decode(zlib.decompress(packed), type=dict[str, list[str]])
    return [Instance(series, instance) for series, instances in by_series.items() for instance in instances]
