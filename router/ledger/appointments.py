"""The queries about appointments: news of them, whose turn it is, how a look ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    insert,
    literal,
    or_,
    select,
    text,
    type_coerce,
    update,
)

from router.domain.appointment import (
    Appointment,
    AppointmentReport,
    AppointmentState,
    Change,
    News,
    Notice,
    reconcile,
)
from router.domain.relevance import Prior
from router.domain.transfer import Intent, NewTransfer
from router.ledger import appointment_transfers as belonging
from router.ledger import history, intents, merges
from router.ledger.packing import pack_identifier, pack_prior, unpack_identifier
from router.ledger.tables import LOOKING, WAITING, Instant, appointment_priors, appointments

PRIORS_KEPT = 500
"""Decisions about candidates that are remembered of an appointment's last look."""

_HEARD_OF = timedelta(minutes=1)
"""So long what is said again need not be written down."""
_ENDED = [one.value for one in (AppointmentState.DONE, AppointmentState.FAILED, AppointmentState.CANCELLED)]
_a, _p = appointments.c, appointment_priors.c


# --- News -------------------------------------------------------------------------------------------------------------


# Built once, for a listener waits for one of these before it acknowledges a message.
_BY_KEY = select(appointments).where(_a.rule == bindparam("of_rule"), _a.key == bindparam("of_key"))
_ADD = insert(appointments)
_CHANGE = update(appointments).where(_a.id == bindparam("row_id"))


def says_nothing(connection: Connection, notices: Sequence[Notice], now: datetime, repeat: Mapping[str, float]) -> bool:
    """Whether `note` would change nothing about these but when they were heard of, and that by little."""
    for notice in merges.renamed(connection, notices):
        known = _known(connection, notice)
        if known is None or now - known.noted_at >= _HEARD_OF or known.noted_at > now:
            return False
        change = reconcile(known, notice, now, repeat.get(notice.rule, 0.0), again=False)
        if change.news is not News.REPEATED or change.due_at != known.due_at:
            return False
    return True


def note(
    connection: Connection,
    notices: Sequence[Notice],
    now: datetime,
    repeat: Mapping[str, float],
    *,
    again: bool,
    sweep_id: int | None,
) -> list[News]:
    """Reconcile each notice with what is known, in order."""
    return [
        _note(connection, one, now, repeat.get(one.rule, 0.0), again, sweep_id)
        for one in merges.renamed(connection, notices)
    ]


def _note(
    connection: Connection, notice: Notice, now: datetime, repeat: float, again: bool, sweep_id: int | None
) -> News:
    known = _known(connection, notice)
    change = reconcile(known, notice, now, repeat, again=again)
    if change.news is News.UNKNOWN:
        return change.news
    values = _changed(notice, change, now)
    if sweep_id is not None and not notice.cancelled:
        values["sweep_id"] = sweep_id
    elif change.look and not notice.cancelled and known is not None and known.state.value in _ENDED:
        values["sweep_id"] = None  # whoever waited for the look before has had it
    if known is None:
        connection.execute(_ADD, {"rule": notice.rule, "key": notice.key, **values})
        return change.news
    if change.look:
        values |= {"fence": known.fence + 1, "lease_until": None, "attempts": 0, "cause": "", "reason": ""}
    connection.execute(_CHANGE, {"row_id": known.id, **values})
    if change.cancel:
        belonging.cancel_unbegun(connection, known.id, now)
    if change.deadlines:
        belonging.move_deadlines(connection, known.id, now)
    return change.news


def _known(connection: Connection, notice: Notice) -> Appointment | None:
    row = connection.execute(_BY_KEY, {"of_rule": notice.rule, "of_key": notice.key}).one_or_none()
    return None if row is None else appointment_of(row)


def _changed(notice: Notice, change: Change, now: datetime) -> dict[str, Any]:
    if notice.cancelled:  # all the rest stays as it was: the end of something may say little else
        return {"state": change.state.value, "noted_at": now}
    return {
        "trigger": notice.trigger,
        "source": notice.source,
        "current": pack_identifier(notice.current),
        "patient_id": notice.patient_id,
        "issuer": notice.issuer,
        "start_at": notice.start_at,
        "due_at": change.due_at,
        "turn_at": notice.start_at or change.due_at,
        "state": change.state.value,
        "noted_at": now,
    }


def hasten(connection: Connection, rule: str, sweep_id: int, now: datetime) -> int:
    """Make all that wait for their time due now, for a person's sweep."""
    waiting = (_a.rule == rule, _a.state == AppointmentState.WAITING.value)
    due = case((_a.due_at > now, literal(now, Instant())), else_=_a.due_at)
    return connection.execute(
        update(appointments).where(*waiting).values(due_at=due, attempts=0, sweep_id=sweep_id)
    ).rowcount


# --- A worker's -------------------------------------------------------------------------------------------------------


def any_to_claim(connection: Connection, sources: Sequence[str], now: datetime, lost_at: datetime) -> bool:
    """Whether a claim would find one that is due or abandoned."""
    due = select(_a.id).where(text(WAITING), _a.source.in_(sources), _a.due_at <= now).limit(1)
    return connection.scalar(due) is not None or any_to_expire(connection, lost_at)


def claim(
    connection: Connection, sources: Sequence[str], now: datetime, lost_at: datetime, lease_seconds: float
) -> Appointment | None:
    """Take the due one that starts first; one whose lease ran out by `lost_at` is due again."""
    expire(connection, lost_at)
    firsts = (_first(connection, name, now) for name in dict.fromkeys(sources))
    found = [first for first in firsts if first is not None]
    if not found:
        return None
    row = connection.execute(
        update(appointments)
        .where(_a.id == min(found)[1], text(WAITING))
        .values(
            state=AppointmentState.LOOKING.value,
            fence=_a.fence + 1,
            lease_until=now + timedelta(seconds=lease_seconds),
        )
        .returning(appointments)
    ).one_or_none()
    return None if row is None else appointment_of(row)


def _first(connection: Connection, source: str, now: datetime) -> tuple[datetime, int] | None:
    """The due one of a source that starts first; the index has them in this order, whether they are due or not yet."""
    row = connection.execute(_FIRST, {"of_source": source, "now": now}).one_or_none()
    return None if row is None else (row.turn_at, row.id)


# The sum keeps SQLite from finding all that are due, and then sorting them, for each claim anew.
_FIRST = (
    select(_a.turn_at, _a.id)
    .where(
        text(WAITING),
        _a.source == bindparam("of_source"),
        type_coerce(_a.due_at, BigInteger) + 0 <= bindparam("now", type_=Instant()),
    )
    .order_by(_a.turn_at, _a.id)
    .limit(1)
)


def renew(connection: Connection, appointment: Appointment, now: datetime, lease_seconds: float) -> bool:
    """Prolong the lease. False where the claim was lost."""
    until = now + timedelta(seconds=lease_seconds)
    return bool(
        connection.execute(update(appointments).where(_claimed(appointment)).values(lease_until=until)).rowcount
    )


def _claimed(appointment: Appointment) -> ColumnElement[bool]:
    looking = AppointmentState.LOOKING.value
    return and_(_a.id == appointment.id, _a.fence == appointment.fence, _a.state == looking)


def any_to_expire(connection: Connection, now: datetime) -> bool:
    """Whether one that is being looked at has lost its worker."""
    return connection.scalar(select(_a.id).where(text(LOOKING), _a.lease_until <= now).limit(1)) is not None


def expire(connection: Connection, now: datetime) -> int:
    """Send those whose worker is gone back to wait. Returns how many."""
    return connection.execute(
        update(appointments)
        .where(text(LOOKING), _a.lease_until <= now)
        .values(state=AppointmentState.WAITING.value, lease_until=None, fence=_a.fence + 1)
    ).rowcount


def finish(
    connection: Connection,
    appointment: Appointment,
    report: AppointmentReport,
    record: Sequence[Prior],
    transfers: Sequence[NewTransfer],
    now: datetime,
) -> bool:
    """Write how a look ended, and what it chose. False where the claim was lost."""
    row = connection.execute(select(appointments).where(_claimed(appointment))).one_or_none()
    if row is None:
        return False
    again = report.state is AppointmentState.WAITING
    values: dict[str, Any] = {
        "state": report.state.value,
        "lease_until": None,
        "queries": report.queries,
        "complete": report.complete,
        "cause": report.cause,
        "reason": report.reason,
    }
    if again:
        due_at = report.due_at or now
        values |= {"due_at": due_at, "turn_at": row.start_at or due_at, "attempts": row.attempts + 1}
        connection.execute(update(appointments).where(_a.id == row.id).values(**values))
        return True
    values["finished_at"] = now
    if report.state is AppointmentState.FAILED:  # what was brought before stands
        connection.execute(update(appointments).where(_a.id == row.id).values(**values, attempts=row.attempts + 1))
        return True
    taken = [prior for prior in record if prior.taken]
    values |= {"candidates": report.candidates, "taken": len(taken), "attempts": 0}
    connection.execute(update(appointments).where(_a.id == row.id).values(**values))
    _remember(connection, row.id, record)
    # The appointment may have moved while it was looked at.
    # An appointment holds on to its priors, also to those that were brought long ago.
    history.recall(connection, [Intent(row.source, one.study_instance_uid, "", one.destination) for one in taken])
    intents.queue(connection, [_with_deadline(new, row.start_at) for new in transfers], now)
    belonging.link(connection, appointment_of(row), taken, transfers, now, whole=report.complete)
    return True


def _with_deadline(new: NewTransfer, start_at: datetime | None) -> NewTransfer:
    return msgspec.structs.replace(new, deadline_at=start_at)


def _remember(connection: Connection, appointment_id: int, record: Sequence[Prior]) -> None:
    connection.execute(delete(appointment_priors).where(_p.appointment_id == appointment_id))
    rows = [
        {
            "appointment_id": appointment_id,
            "number": number,
            "study_instance_uid": prior.study_instance_uid,
            "taken": prior.taken,
            "prior": pack_prior(prior),
        }
        for number, prior in enumerate(sorted(record, key=lambda prior: not prior.taken)[:PRIORS_KEPT])
    ]
    if rows:
        connection.execute(insert(appointment_priors), rows)


# --- Reading ----------------------------------------------------------------------------------------------------------


def one(connection: Connection, appointment_id: int) -> Appointment | None:
    """One appointment."""
    row = connection.execute(select(appointments).where(_a.id == appointment_id)).one_or_none()
    return None if row is None else appointment_of(row)


def find(
    connection: Connection, rule: str, states: Sequence[AppointmentState], sweeps: Sequence[int], limit: int
) -> list[Appointment]:
    """Those with all of these properties, the soonest due first."""
    where: list[ColumnElement[bool]] = []
    if rule:
        where.append(_a.rule == rule)
    if states:
        where.append(_a.state.in_([state.value for state in states]))
    if sweeps:
        where.append(_a.sweep_id.in_(sweeps))
    query = select(appointments).where(*where).order_by(_a.due_at, _a.id).limit(limit)
    return [appointment_of(row) for row in connection.execute(query)]


def waiting_sources(connection: Connection) -> set[str]:
    """Where the priors are of those that wait."""
    return set(connection.scalars(select(_a.source).where(text(WAITING)).distinct()))


def expected(connection: Connection, rule: str, first: datetime, last: datetime) -> list[Appointment]:
    """Those of a rule, not cancelled, that start within these moments."""
    query = select(appointments).where(
        _a.rule == rule, _a.start_at.between(first, last), _a.state != AppointmentState.CANCELLED.value
    )
    return [appointment_of(row) for row in connection.execute(query)]


def forget(connection: Connection, before: datetime) -> int:
    """Forget those that nothing was heard of since, and that ended and have started, before that moment."""
    over = (_a.noted_at < before, or_(_a.start_at.is_(None), _a.start_at < before), _a.state.in_(_ENDED))
    return connection.execute(delete(appointments).where(*over)).rowcount


def appointment_of(row: Any) -> Appointment:
    """An appointment from a row with all columns of its table."""
    return Appointment(
        id=row.id,
        rule=row.rule,
        trigger=row.trigger,
        key=row.key,
        source=row.source,
        current=unpack_identifier(row.current),
        patient_id=row.patient_id,
        issuer=row.issuer,
        start_at=row.start_at,
        due_at=row.due_at,
        state=AppointmentState(row.state),
        fence=row.fence,
        attempts=row.attempts,
        sweep_id=row.sweep_id,
        queries=row.queries,
        candidates=row.candidates,
        taken=row.taken,
        complete=row.complete,
        cause=row.cause,
        reason=row.reason,
        noted_at=row.noted_at,
        finished_at=row.finished_at,
    )
