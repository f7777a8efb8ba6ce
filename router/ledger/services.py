"""The queries about services: who works on this ledger."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, delete, select

from router.domain.overview import ServiceInfo
from router.ledger.database import insert_or
from router.ledger.tables import services

_FORGOTTEN_AFTER = timedelta(days=1)


def announce(connection: Connection, info: ServiceInfo) -> None:
    """Write down a service, in place of what it said before; those long silent are forgotten."""
    statement = insert_or(services, connection).values(msgspec.structs.asdict(info))
    renewed = {name: statement.excluded[name] for name in ("address", "seen_at", "content_hash")}
    connection.execute(statement.on_conflict_do_update(index_elements=["owner"], set_=renewed))
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
    return [
        ServiceInfo(owner=row.owner, address=row.address, seen_at=row.seen_at, content_hash=row.content_hash)
        for row in rows
    ]
