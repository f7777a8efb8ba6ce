"""The queries about notifications: groups of trouble and what was told of them, and what is on its way to people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, and_, delete, func, insert, or_, select, update

from router.domain.notice_delivery import LONGEST_ASKED, REMEMBERED, Delivery, Told
from router.domain.notice_group import Group, Notification, Turn
from router.ledger.database import insert_or
from router.ledger.tables import notice_groups, notifications

Decide = Callable[[Sequence[Group], Mapping[str, Sequence[datetime]]], Turn]

_g, _n = notice_groups.c, notifications.c
_HOUR = timedelta(hours=1)
_AHEAD = LONGEST_ASKED + _HOUR
"""What is due later than this was put off before the clock was set back."""
_group = msgspec.msgpack.Decoder(Group)
_notification = msgspec.msgpack.Decoder(Notification)


def turn(connection: Connection, decide: Decide, now: datetime) -> Turn:
    """Have it decided what is told, on all that is known, and write that down."""
    groups, unreadable = [], []
    for row in connection.execute(select(notice_groups)):
        try:
            groups.append(_group.decode(row.state))
        except msgspec.MsgspecError:  # of another version: what it collected cannot be told
            unreadable.append((row.channel, row.name))
    made: dict[str, list[datetime]] = {}
    for channel, made_at in connection.execute(select(_n.channel, _n.made_at).where(_n.made_at > now - _HOUR)):
        made.setdefault(channel, []).append(made_at)
    decided = decide(groups, made)
    for channel, name in (*unreadable, *((channel, _name(key)) for channel, key in decided.forgotten)):
        connection.execute(delete(notice_groups).where(_g.channel == channel, _g.name == name))
    for group in decided.changed:
        name, state = _name(group.key), msgspec.msgpack.encode(group)
        statement = insert_or(notice_groups, connection).values(channel=group.channel, name=name, state=state)
        connection.execute(statement.on_conflict_do_update(index_elements=["channel", "name"], set_={"state": state}))
    for one in decided.notifications:
        content = msgspec.msgpack.encode(one)
        connection.execute(insert(notifications).values(channel=one.channel, content=content, made_at=now, next_at=now))
    connection.execute(delete(notifications).where(_n.finished_at < now - REMEMBERED))
    return decided


def claim(connection: Connection, now: datetime, lease_seconds: float) -> Delivery | None:
    """Take the next notification that is due and nobody delivers; each channel has its own in order."""
    row = connection.execute(_due(now)).one_or_none()
    if row is None:
        return None
    attempts, lease = row.attempts + 1, now + timedelta(seconds=lease_seconds)
    connection.execute(update(notifications).where(_n.id == row.id).values(attempts=attempts, lease_until=lease))
    try:
        content = _notification.decode(row.content)
    except msgspec.MsgspecError:
        connection.execute(delete(notifications).where(_n.id == row.id))
        return None
    return Delivery(id=row.id, notification=content, made_at=row.made_at, attempts=attempts)


def any_due(connection: Connection, now: datetime) -> bool:
    """Whether `claim` would find one."""
    return connection.execute(_due(now)).one_or_none() is not None


def _heads() -> Select[tuple[int]]:
    """The oldest of each channel: people read of the end after they have read of the trouble."""
    return select(func.min(_n.id)).where(_n.finished_at.is_(None)).group_by(_n.channel)


def _due(now: datetime) -> Select[Any]:
    free = or_(_n.lease_until.is_(None), _n.lease_until < now, _n.lease_until > now + _AHEAD)
    wanted = and_(_n.id.in_(_heads()), or_(_n.next_at <= now, _n.next_at > now + _AHEAD), free)
    return select(notifications).where(wanted).order_by(_n.next_at, _n.id).limit(1)


def finish(connection: Connection, delivery: Delivery, result: str, now: datetime, reason: str) -> bool:
    """It was delivered, or is given up. False where the claim was lost."""
    values = {"result": result, "finished_at": now, "lease_until": None, "reason": reason}
    return _of(connection, delivery, values)


def put_off(connection: Connection, delivery: Delivery, next_at: datetime, reason: str) -> bool:
    """An attempt failed; the next one is at that time. False where the claim was lost."""
    return _of(connection, delivery, {"next_at": next_at, "reason": reason, "lease_until": None})


def _of(connection: Connection, delivery: Delivery, values: Mapping[str, object]) -> bool:
    mine = and_(_n.id == delivery.id, _n.attempts == delivery.attempts, _n.finished_at.is_(None))
    return bool(connection.execute(update(notifications).where(mine).values(values)).rowcount)


def lately(connection: Connection, most: int) -> list[Told]:
    """Notifications that are remembered, the newest first."""
    found = []
    for row in connection.execute(select(notifications).order_by(_n.id.desc()).limit(most)):
        try:
            content = _notification.decode(row.content)
        except msgspec.MsgspecError:
            continue
        found.append(
            Told(
                notification=content,
                made_at=row.made_at,
                attempts=row.attempts,
                result=row.result,
                reason=row.reason,
                next_at=row.next_at,
                finished_at=row.finished_at,
            )
        )
    return found


def waiting(connection: Connection) -> dict[str, int]:
    """Channel -> notifications that are not delivered yet."""
    counted = select(_n.channel, func.count()).where(_n.finished_at.is_(None)).group_by(_n.channel)
    return {row[0]: row[1] for row in connection.execute(counted)}


def next_due(connection: Connection) -> datetime | None:
    """When the next attempt to deliver something is due."""
    found: datetime | None = connection.scalar(select(func.min(_n.next_at)).where(_n.id.in_(_heads())))
    return found


def _name(key: Sequence[str]) -> str:
    """A group's key as a text; the names hold no control characters."""
    return "\x1f".join(key)
