"""The queries about what rules hold back: reading it, writing it, and what a rule has queued on a day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
from sqlalchemy import Boolean, Connection, bindparam, case, delete, func, select, text, update

from router.domain.holds import HeldRoute
from router.domain.restraint import Held
from router.domain.transfer import LIMIT_HOLDS, RULE_HOLDS, SETTLING, Happening, Hold, Intent, State, after
from router.ledger.dialects import insert_or, numbers_in
from router.ledger.tables import HELD, Instant, rule_days, transfers

_t, _d = transfers.c, rule_days.c
_COLUMNS = (
    *(_t.id, _t.source, _t.study_instance_uid, _t.series_instance_uid, _t.destination, _t.rule, _t.cause),
    *(_t.instance_count, _t.completed, _t.queued_at, _t.patient_id, _t.availability),
)
_DAYS_KEPT = 7


def of_rule(connection: Connection, rule: str, source: str, settled_before: datetime, most: int) -> list[Held]:
    """What a rule holds by its limits, and what it has let settle since then; `most` of each cause, oldest first."""
    here = (text(HELD), _t.rule == rule, _t.source == source)
    found: list[Held] = []
    for cause in sorted(LIMIT_HOLDS):
        found += _read(connection, (*here, _t.cause == cause), most)
    return found + _read(connection, (*here, _t.cause == SETTLING, _t.queued_at <= settled_before), most)


def of_others(connection: Connection, rule: str, transfer_ids: Sequence[int]) -> list[Held]:
    """Those of these transfers that another rule than this holds."""
    numbers = numbers_in("numbers")
    query = select(*_COLUMNS).where(
        _t.id.in_(numbers), _t.state == State.HELD.value, _t.rule != rule, _t.cause.in_(RULE_HOLDS)
    )
    rows = connection.execute(query, {"numbers": msgspec.json.encode(list(transfer_ids)).decode()})
    return [_held(row) for row in rows]


def of_routes(connection: Connection) -> list[HeldRoute]:
    """How much each rule holds back, by route."""
    route = (_t.rule, _t.source, _t.destination)
    query = select(*route, func.count()).where(text(HELD), _t.cause.in_(RULE_HOLDS)).group_by(*route).order_by(*route)
    return [HeldRoute(*row) for row in connection.execute(query)]


def release(connection: Connection, route: HeldRoute, most: int, now: datetime) -> int:
    """Queue what a rule holds back on a route, the oldest first; how many. It waits from now on."""
    here = (_t.rule == route.rule, _t.source == route.source, _t.destination == route.destination)
    some = select(_t.id).where(text(HELD), *here, _t.cause.in_(RULE_HOLDS)).order_by(_t.queued_at, _t.id).limit(most)
    released = (
        update(transfers)
        .where(_t.id.in_(some))
        .values(
            state=after(State.HELD, Happening.RELEASE).value,
            cause="",
            reason=f"The rule {route.rule} that held it does not lead here any more; it goes on.",
            queued_at=now,
            next_at=now,
            updated_at=now,
        )
    )
    return connection.execute(released).rowcount


def _read(connection: Connection, where: Sequence[Any], most: int) -> list[Held]:
    query = select(*_COLUMNS).where(*where).order_by(_t.queued_at, _t.id).limit(most)
    return [_held(row) for row in connection.execute(query)]


def _held(row: Any) -> Held:
    return Held(
        id=row.id,
        intent=Intent(row.source, row.study_instance_uid, row.series_instance_uid, row.destination),
        rule=row.rule,
        cause=row.cause,
        instance_count=row.instance_count,
        completed=row.completed,
        since=row.queued_at,
        patient_id=row.patient_id,
        availability=row.availability,
    )


def columns(hold: Hold) -> dict[str, Any]:
    """The columns of a transfer that begins to be held."""
    return {
        "state": State.HELD.value,
        "cause": hold.cause,
        "reason": hold.reason,
        "queued_at": hold.since,
        "next_at": hold.next_at,
    }


BOUND: Mapping[str, Any] = {
    "state": State.HELD.value,
    "cause": bindparam("new_cause"),
    "reason": bindparam("new_reason"),
    "queued_at": bindparam("new_since", type_=Instant()),
    "next_at": bindparam("new_next_at", type_=Instant()),
    # What was there before it grew, so that only the difference is charged when it is let go.
    "completed": case((bindparam("forget", type_=Boolean()), 0), else_=_t.completed),
}
"""The same for many at once: to be bound by `bound`, and by `forget`: what was there counts for nothing."""


def bound(hold: Hold) -> dict[str, Any]:
    """The parameters of BOUND."""
    return {
        "new_cause": hold.cause,
        "new_reason": hold.reason,
        "new_since": hold.since,
        "new_next_at": hold.next_at,
    }


def prolong(connection: Connection, holds: Mapping[int, tuple[Hold, int | None]], now: datetime) -> None:
    """Hold on for another cause, or anew with another number of instances, what a rule holds already."""
    if holds:
        statement = (
            update(transfers)
            .where(_t.id == bindparam("row_id"))
            .values(
                cause=bindparam("new_cause"),
                reason=bindparam("new_reason"),
                queued_at=bindparam("new_since", type_=Instant()),
                next_at=bindparam("new_next_at", type_=Instant()),
                instance_count=bindparam("new_count"),
                updated_at=now,
            )
        )
        rows = [{"row_id": number, "new_count": count, **bound(hold)} for number, (hold, count) in holds.items()]
        connection.execute(statement, rows)


def queued_on(connection: Connection, rule: str, day: date) -> int:
    """Instances that a rule has queued on a day, as far as they were charged to it."""
    wanted = select(_d.instances).where(_d.rule == rule, _d.day == day.toordinal())
    return connection.scalar(wanted) or 0


def charge(connection: Connection, rule: str, day: date, instances: int) -> None:
    """Note that a rule has queued so many more instances on a day; old days are forgotten."""
    if instances:
        row = {"rule": rule, "day": day.toordinal(), "instances": instances}
        add = insert_or(rule_days, connection).values(**row)
        more = {"instances": _d.instances + instances}
        connection.execute(add.on_conflict_do_update(index_elements=[_d.rule, _d.day], set_=more))
        connection.execute(delete(rule_days).where(_d.rule == rule, _d.day < day.toordinal() - _DAYS_KEPT))
