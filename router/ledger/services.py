"""The queries about services: who works on this ledger."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, delete, select

from router.domain.overview import ServiceInfo
from router.ledger import stores
from router.ledger.database import insert_or
from router.ledger.tables import services

_FORGOTTEN_AFTER = timedelta(days=1)
_FIELDS = tuple(field.name for field in msgspec.structs.fields(ServiceInfo))


def announce(connection: Connection, info: ServiceInfo) -> None:
    """Write down a service, in place of what it said before; those long silent are forgotten."""
    statement = insert_or(services, connection).values(msgspec.structs.asdict(info))
    renewed = {name: statement.excluded[name] for name in _FIELDS if name != "owner"}
    connection.execute(statement.on_conflict_do_update(index_elements=["owner"], set_=renewed))
    stores.note(connection, info.store, info.replica, info.seen_at)
    connection.execute(delete(services).where(services.c.seen_at < info.seen_at - _FORGOTTEN_AFTER))


def withdraw(connection: Connection, owner: str) -> None:
    """Forget a service."""
    connection.execute(delete(services).where(services.c.owner == owner))


def withdraw_all(connection: Connection) -> None:
    """Forget them all: none of them lives."""
    connection.execute(delete(services))


def seen_since(connection: Connection, since: datetime) -> list[ServiceInfo]:
    """Services that announced themselves since then, the latest first."""
    rows = connection.execute(
        select(services).where(services.c.seen_at >= since).order_by(services.c.seen_at.desc(), services.c.owner)
    )
    return [ServiceInfo(**{name: getattr(row, name) for name in _FIELDS}) for row in rows]
