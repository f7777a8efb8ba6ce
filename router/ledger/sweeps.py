"""The queries about sweeps: due, claimed, ended, and which transfers belong to one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    false,
    func,
    literal,
    select,
    text,
    type_coerce,
    update,
)

from router.domain.sweep import SWEEP_ENDED, SweepDue, SweepRecord, SweepReport, SweepState
from router.domain.transfer import Intent
from router.ledger.dialects import insert_or, on_postgresql, packed
from router.ledger.tables import DUE, FINISHED, RUNNING, sweep_transfers, sweeps, transfers

_s, _t = sweeps.c, transfers.c


def add(connection: Connection, due: Sequence[SweepDue]) -> list[int]:
    """Make sweeps due; known ones are left alone. Returns the ids in order."""
    ids: list[int] = []
    for sweep in due:
        key = {"rule": sweep.rule, "tier": sweep.tier, "manual": sweep.manual, "due_at": sweep.due_at}
        connection.execute(
            insert_or(sweeps, connection)
            .values(**key, source=sweep.source, state=SweepState.DUE.value)
            .on_conflict_do_nothing()
        )
        ids.append(connection.scalar(select(_s.id).where(*(_s[name] == value for name, value in key.items()))) or 0)
    return ids


def any_to_claim(connection: Connection, sources: Sequence[str], now: datetime, lost_at: datetime) -> bool:
    """Whether a claim would find a sweep that is due or abandoned."""
    due = connection.scalar(_oldest_due(sources, now))
    return due is not None or any_to_expire(connection, lost_at)


def claim(
    connection: Connection, sources: Sequence[str], now: datetime, lost_at: datetime, lease_seconds: float
) -> SweepRecord | None:
    """Take the oldest due sweep of these sources; one whose lease ran out by `lost_at` is due again."""
    expire(connection, lost_at)
    row = connection.execute(
        update(sweeps)
        .where(_s.id == _oldest_due(sources, now).with_for_update(skip_locked=True).scalar_subquery(), text(DUE))
        .values(
            state=SweepState.RUNNING.value,
            fence=_s.fence + 1,
            lease_until=now + timedelta(seconds=lease_seconds),
            started_at=now,
        )
        .returning(sweeps)
    ).one_or_none()
    return None if row is None else _record(row)


def _oldest_due(sources: Sequence[str], now: datetime) -> Select[int]:
    return select(_s.id).where(text(DUE), _s.due_at <= now, _s.source.in_(sources)).order_by(_s.due_at, _s.id).limit(1)


def renew(connection: Connection, sweep: SweepRecord, now: datetime, lease_seconds: float) -> bool:
    """Prolong the lease. False where the claim was lost."""
    until = now + timedelta(seconds=lease_seconds)
    return bool(connection.execute(update(sweeps).where(_claimed(sweep)).values(lease_until=until)).rowcount)


def _claimed(sweep: SweepRecord) -> ColumnElement[bool]:
    return and_(_s.id == sweep.id, _s.fence == sweep.fence, _s.state == SweepState.RUNNING.value)


def any_to_expire(connection: Connection, now: datetime) -> bool:
    """Whether a running sweep has lost its worker."""
    return connection.scalar(select(_s.id).where(text(RUNNING), _s.lease_until <= now).limit(1)) is not None


def expire(connection: Connection, now: datetime) -> int:
    """Send sweeps whose worker is gone back to due. Returns how many."""
    return connection.execute(
        update(sweeps)
        .where(text(RUNNING), _s.lease_until <= now)
        .values(state=SweepState.DUE.value, lease_until=None, started_at=None)
    ).rowcount


def keep(connection: Connection, sweep: SweepRecord, seconds: float) -> bool:
    """Prolong the lease by so much, whatever it was. False where the claim was lost."""
    longer = type_coerce(_s.lease_until, BigInteger) + int(seconds * 1e6)
    return bool(connection.execute(update(sweeps).where(_claimed(sweep)).values(lease_until=longer)).rowcount)


def finish(connection: Connection, sweep: SweepRecord, report: SweepReport, now: datetime) -> bool:
    """Write the report. False where the claim was lost."""
    return bool(
        connection.execute(
            update(sweeps)
            .where(_claimed(sweep))
            .values(
                state=report.state.value,
                lease_until=None,
                finished_at=now,
                matches=report.matches,
                selected=report.selected,
                queries=report.queries,
                cause=report.cause,
                reason=report.reason,
                account=report.account,
            )
        ).rowcount
    )


def link(connection: Connection, sweep_id: int, intents: Sequence[Intent], transfer_ids: Sequence[int]) -> None:
    """Note which transfers belong to a sweep, by intent or by id; ids that do not exist are passed over."""
    add_link = insert_or(sweep_transfers, connection).from_select
    columns = ["sweep_id", "transfer_id"]
    if intents and on_postgresql(connection):
        connection.execute(_LINK_ALL, {"sweep": sweep_id, "wanted": packed([one._asdict() for one in intents])})
    elif intents:
        by_intent = select(literal(sweep_id), _t.id).where(
            _t.source == bindparam("intent_source"),
            _t.study_instance_uid == bindparam("intent_study"),
            _t.series_instance_uid == bindparam("intent_series"),
            _t.destination == bindparam("intent_destination"),
        )
        connection.execute(
            add_link(columns, by_intent).on_conflict_do_nothing(),
            [
                {
                    "intent_source": intent.source,
                    "intent_study": intent.study_instance_uid,
                    "intent_series": intent.series_instance_uid,
                    "intent_destination": intent.destination,
                }
                for intent in intents
            ],
        )
    if transfer_ids:
        by_id = select(literal(sweep_id), _t.id).where(_t.id == bindparam("linked_id"))
        connection.execute(
            add_link(columns, by_id).on_conflict_do_nothing(), [{"linked_id": number} for number in transfer_ids]
        )


# All at once: while they are linked everybody waits.
_LINK_ALL = text(
    """
    INSERT INTO sweep_transfers (sweep_id, transfer_id)
    SELECT :sweep, t.id FROM json_to_recordset(CAST(:wanted AS JSON))
        AS w (source TEXT, study_instance_uid TEXT, series_instance_uid TEXT, destination TEXT)
    JOIN transfers AS t USING (source, study_instance_uid, series_instance_uid, destination)
    ON CONFLICT DO NOTHING
    """
)


def records(connection: Connection, ids: Sequence[int]) -> list[SweepRecord]:
    """These sweeps, in the order of the ids; unknown ids are passed over."""
    found = {row.id: _record(row) for row in connection.execute(select(sweeps).where(_s.id.in_(ids)))}
    return [found[number] for number in dict.fromkeys(ids) if number in found]


def open_records(connection: Connection, source: str = "", most: int | None = None) -> list[SweepRecord]:
    """Sweeps that are due or running, the oldest first: of a source (else of all), `most` of each of the two states."""
    here = (_s.source == source,) if source else ()
    under_way = [
        connection.execute(select(sweeps).where(text(state), *here).order_by(_s.due_at, _s.id).limit(most))
        for state in (DUE, RUNNING)
    ]
    return sorted((_record(row) for rows in under_way for row in rows), key=lambda sweep: (sweep.due.due_at, sweep.id))


def last(connection: Connection) -> list[SweepRecord]:
    """The ended sweep that was due last, per rule and tier; those a person asked for do not count."""
    scheduled = and_(_s.manual == false(), _s.finished_at.is_not(None))
    newest = select(_s.rule, _s.tier, func.max(_s.due_at).label("due_at")).where(scheduled).group_by(_s.rule, _s.tier)
    latest = newest.subquery()
    same = and_(_s.rule == latest.c.rule, _s.tier == latest.c.tier, _s.due_at == latest.c.due_at)
    rows = connection.execute(select(sweeps).join(latest, same).where(scheduled).order_by(_s.rule, _s.tier))
    return [_record(row) for row in rows]


def latest(connection: Connection) -> list[SweepRecord]:
    """The sweep of each rule that ended last, a person's too.

    From rule to rule by the index, and in each to its end: the ledger may hold millions of sweeps.
    """
    ended, other = text(FINISHED), sweeps.alias().c
    first = select(func.min(_s.rule).label("rule")).where(ended).cte("rules", recursive=True)
    following = select(func.min(other.rule)).where(other.finished_at.is_not(None), other.rule > first.c.rule)
    rules = first.union_all(select(following.scalar_subquery()).where(first.c.rule.is_not(None)))
    newest = select(_s.id).where(ended, _s.rule == rules.c.rule).order_by(_s.finished_at.desc(), _s.id.desc()).limit(1)
    ids = select(newest.correlate(rules).scalar_subquery()).select_from(rules)
    return [_record(row) for row in connection.execute(select(sweeps).where(_s.id.in_(ids)).order_by(_s.rule))]


def last_complete(connection: Connection, rule: str, tier: int, now: datetime) -> datetime | None:
    """When the last scheduled sweep of a tier was due that found everything; where none did, when its first one was.

    Not when it began: it may have used what was asked for another since it was due. What is due after `now` is of a
    clock that went wrong. None where none has ended.
    """
    ended = (_s.manual == false(), _s.rule == rule, _s.tier == tier, _s.finished_at.is_not(None), _s.due_at <= now)
    due = select(_s.due_at).where(*ended)
    complete = due.where(_s.state == SweepState.COMPLETE.value).order_by(_s.finished_at.desc())
    found = connection.scalar(complete.limit(1))
    return found if found is not None else connection.scalar(due.order_by(_s.finished_at).limit(1))


def _record(row: Any) -> SweepRecord:
    state = SweepState(row.state)
    report = SweepReport(
        state=state,
        matches=row.matches,
        selected=row.selected,
        queries=row.queries,
        cause=row.cause,
        reason=row.reason,
        account=row.account,
    )
    return SweepRecord(
        id=row.id,
        due=SweepDue(rule=row.rule, source=row.source, due_at=row.due_at, tier=row.tier, manual=row.manual),
        state=state,
        report=report if state in SWEEP_ENDED else None,
        fence=row.fence,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
