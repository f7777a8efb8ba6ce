"""The queries about which transfers are for which appointments: deadlines, what is cancelled, why one was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, delete, exists, func, or_, select, text, update

from router.domain.appointment import Appointment, AppointmentState
from router.domain.relevance import Prior
from router.domain.transfer import APPOINTMENT_CANCELLED, ENDED, RULE_HOLDS, Intent, NewTransfer, State
from router.ledger import sweeps
from router.ledger.database import chunks, insert_or
from router.ledger.history_tables import history
from router.ledger.intents import turn_of
from router.ledger.packing import unpack_prior
from router.ledger.tables import (
    WITH_DEADLINE,
    Instant,
    appointment_priors,
    appointment_transfers,
    appointments,
    transfers,
)

_a, _p, _l, _t = appointments.c, appointment_priors.c, appointment_transfers.c, transfers.c
_other = appointment_transfers.alias("other").c
_owner, _link = appointments.alias("owner").c, appointment_transfers.alias("link").c
_STUDIES_AT_ONCE = 400
_CANCELLED = "The appointment was cancelled, or is about something else now; nothing had arrived."


def link(
    connection: Connection,
    appointment: Appointment,
    taken: Sequence[Prior],
    queued: Sequence[NewTransfer],
    now: datetime,
    *,
    whole: bool,
) -> None:
    """Note which transfers an appointment's priors are, and whether it was for it that they were queued.

    Where the answer was `whole`, what it queued before and does not take now is cancelled, or belongs to the others
    that want it. `appointment` is as it was before this look.
    """
    own = {new.intent for new in queued}
    wanted = [Intent(appointment.source, one.study_instance_uid, "", one.destination) for one in taken]
    before = _owned_by(connection, appointment)
    numbers: dict[int, bool] = {}
    for intent in wanted:
        row = connection.execute(
            select(_t.id, _t.queued_at).where(
                _t.source == intent.source,
                _t.study_instance_uid == intent.study_instance_uid,
                _t.series_instance_uid == "",
                _t.destination == intent.destination,
            )
        ).one_or_none()
        if row is not None:  # another may have queued it a moment before
            numbers[row.id] = before.get(row.id, False) or (intent in own and row.queued_at == now)
    stale = [number for number in before if number not in numbers] if whole else []
    if stale:
        _cancel(connection, appointment.id, now, stale)
        _let_go(connection, appointment.id, {number: before[number] for number in stale})
        _move_deadlines(connection, stale, now)
    if not numbers:
        return
    add = insert_or(appointment_transfers, connection)
    connection.execute(
        add.on_conflict_do_update(
            index_elements=[_l.appointment_id, _l.transfer_id], set_={"owned": add.excluded.owned}
        ),
        [{"appointment_id": appointment.id, "transfer_id": number, "owned": own} for number, own in numbers.items()],
    )
    _move_deadlines(connection, list(numbers), now)
    if appointment.sweep_id is not None:
        # Who waits for it waits for what is under way, not for what has ended before.
        under_way = select(_t.id).where(_t.id.in_(list(numbers)), _t.state.not_in([state.value for state in ENDED]))
        sweeps.link(connection, appointment.sweep_id, [], list(connection.scalars(under_way)))


def _owned_by(connection: Connection, appointment: Appointment) -> dict[int, bool]:
    """Transfers that the last look chose, and whether they are queued for it: not anew since then, by another."""
    last = appointment.finished_at
    rows = connection.execute(
        select(_l.transfer_id, _l.owned, _t.queued_at)
        .join(transfers, _t.id == _l.transfer_id)
        .where(_l.appointment_id == appointment.id)
    )
    return {row.transfer_id: row.owned and last is not None and row.queued_at <= last for row in rows}


def _let_go(connection: Connection, appointment_id: int, stale: Mapping[int, bool]) -> None:
    """An appointment does not want these transfers any more; those it owned are then owned by the others."""
    connection.execute(
        delete(appointment_transfers).where(
            _l.appointment_id == appointment_id, _l.transfer_id == bindparam("of_transfer")
        ),
        [{"of_transfer": number} for number in stale],
    )
    owned = [{"of_transfer": number} for number, own in stale.items() if own]
    if owned:
        connection.execute(
            update(appointment_transfers).where(_l.transfer_id == bindparam("of_transfer")).values(owned=True), owned
        )


def cancel_unbegun(connection: Connection, appointment_id: int, now: datetime) -> None:
    """Cancel what an appointment has queued, that has not begun, and that no other one wants."""
    _cancel(connection, appointment_id, now, None)


def _cancel(connection: Connection, appointment_id: int, now: datetime, only: Sequence[int] | None) -> None:
    wanted_by_another = exists().where(
        _other.transfer_id == _t.id,
        _other.appointment_id != appointment_id,
        _other.appointment_id == _a.id,
        _a.state != AppointmentState.CANCELLED.value,
    )
    # The one that queued it may have been cancelled before. What was queued since its last look, another wanted.
    queued_for_one = exists().where(
        _link.transfer_id == _t.id,
        _link.owned,
        _owner.id == _link.appointment_id,
        _owner.finished_at >= _t.queued_at,
    )
    own = (
        select(_t.id, _t.state, _t.cause, _t.completed)
        .join(appointment_transfers, _l.transfer_id == _t.id)
        .where(_l.appointment_id == appointment_id, queued_for_one, ~wanted_by_another)
    )
    unbegun = [
        row.id
        for row in connection.execute(own)
        if (only is None or row.id in only)
        and (
            (row.state == State.QUEUED.value and not row.completed)
            or (row.state == State.HELD.value and row.cause in RULE_HOLDS)
        )
    ]
    if unbegun:
        connection.execute(
            update(transfers).where(_t.id == bindparam("row_id")).values(**_as_cancelled(now)),
            [{"row_id": number} for number in unbegun],
        )


def _as_cancelled(now: datetime) -> dict[str, Any]:
    return {
        "state": State.CANCELLED.value,
        "cause": APPOINTMENT_CANCELLED,
        "reason": _CANCELLED,
        "fence": _t.fence + 1,
        "finished_at": now,
        "updated_at": now,
    }


def move_deadlines(connection: Connection, appointment_id: int, now: datetime) -> None:
    """Give the transfers of an appointment that have not ended the earliest start of those that they are for."""
    its = select(_l.transfer_id).where(_l.appointment_id == appointment_id)
    _move_deadlines(connection, list(connection.scalars(its)), now)


def _move_deadlines(connection: Connection, numbers: Sequence[int], now: datetime) -> None:
    """Give these transfers, as far as they have not ended, the earliest start of the appointments that they are for.

    What had started before a transfer was queued is not what it was queued for, unless there is nothing else.
    """
    to_come = case((_a.start_at >= _t.queued_at, _a.start_at))
    starts = (
        select(func.coalesce(func.min(to_come), func.max(_a.start_at)))
        .where(
            _a.id == _other.appointment_id,
            _other.transfer_id == _t.id,
            _a.state != AppointmentState.CANCELLED.value,
        )
        .scalar_subquery()
    )
    rows = connection.execute(
        select(_t.id, _t.state, _t.attempts, _t.deadline_at, _t.queued_at, _t.next_at, starts.label("wanted")).where(
            _t.id.in_(numbers), _t.state.not_in([state.value for state in ENDED])
        )
    ).all()
    changed = []
    for row in rows:
        # What tries again waits for its time whatever the deadline.
        waits = row.state == State.QUEUED.value and not row.attempts and row.next_at <= now
        next_at = turn_of(row.wanted, row.queued_at) if waits else row.next_at
        if row.wanted != row.deadline_at:
            changed.append({"row_id": row.id, "new_deadline": row.wanted, "new_turn": next_at})
    if changed:
        connection.execute(
            update(transfers)
            .where(_t.id == bindparam("row_id"))
            .values(
                deadline_at=bindparam("new_deadline", type_=Instant()),
                next_at=bindparam("new_turn", type_=Instant()),
                updated_at=now,
            ),
            changed,
        )


def any_to_hasten(connection: Connection, deadline_before: datetime) -> bool:
    """Whether `hasten` would find one."""
    return connection.scalar(select(_t.id).where(*_near(deadline_before)).limit(1)) is not None


def hasten(connection: Connection, deadline_before: datetime) -> int:
    """Make queued transfers urgent whose deadline is near. Returns how many."""
    return connection.execute(update(transfers).where(*_near(deadline_before)).values(priority=0)).rowcount


def _near(deadline_before: datetime) -> tuple[Any, ...]:
    return (_t.state == State.QUEUED.value, text(WITH_DEADLINE), _t.deadline_at < deadline_before)


def priors_of(connection: Connection, appointment_id: int) -> list[Prior]:
    """What the last look decided about each candidate."""
    query = select(_p.prior).where(_p.appointment_id == appointment_id).order_by(_p.number)
    return [unpack_prior(packed) for packed in connection.execute(query).scalars()]


def considered(connection: Connection, study_instance_uid: str, limit: int) -> list[tuple[int, Prior]]:
    """The latest decisions about a study as a prior, with the number of the appointment."""
    query = (
        select(_p.appointment_id, _p.prior)
        .join(appointments, _a.id == _p.appointment_id)
        .where(_p.study_instance_uid == study_instance_uid)
        .order_by(_a.finished_at.desc(), _p.appointment_id.desc(), _p.number)
        .limit(limit)
    )
    return [(row.appointment_id, unpack_prior(row.prior)) for row in connection.execute(query)]


def brought(
    connection: Connection, rule: str, patient_id: str, issuer: str, first: datetime, last: datetime
) -> dict[str, dict[str, str]]:
    """Destination -> Study Instance UID -> group of what a rule has taken for a patient's visit."""
    at = func.coalesce(_a.start_at, _a.finished_at)
    # What a cancelled one has had moved is there, and counts: it may have been booked anew under another number.
    moved = exists().where(
        _l.appointment_id == _a.id,
        _t.id == _l.transfer_id,
        _t.study_instance_uid == _p.study_instance_uid,
        _t.state != State.CANCELLED.value,
    )
    query = (
        select(_p.prior)
        .join(appointments, _a.id == _p.appointment_id)
        .where(
            _a.patient_id == patient_id,
            _a.rule == rule,
            _a.issuer == issuer,
            at.between(first, last),
            or_(_a.state != AppointmentState.CANCELLED.value, moved),
            _p.taken,
        )
        .order_by(_a.id, _p.number)
    )
    found: dict[str, dict[str, str]] = {}
    for packed in connection.execute(query).scalars():
        prior = unpack_prior(packed)
        found.setdefault(prior.destination, {}).setdefault(prior.study_instance_uid, prior.group)
    return found


def reasons_of(connection: Connection, transfer_id: int) -> list[tuple[int, Prior]]:
    """For which appointments a transfer was chosen, by their number, and why."""
    query = (
        select(_l.appointment_id, _p.prior, _t.destination)
        .join(transfers, _t.id == _l.transfer_id)
        .join(
            appointment_priors,
            and_(_p.appointment_id == _l.appointment_id, _p.study_instance_uid == _t.study_instance_uid),
        )
        .where(_l.transfer_id == transfer_id)
        .order_by(_l.appointment_id.desc(), _p.number)
    )
    rows = [(row.appointment_id, unpack_prior(row.prior), row.destination) for row in connection.execute(query)]
    return [(number, prior) for number, prior, destination in rows if prior.destination == destination]


def delivered_since(
    connection: Connection, source: str, destination: str, studies: Sequence[str], moment: datetime
) -> dict[str, int | None]:
    """Studies that were delivered since then, with their number of instances."""
    found: dict[str, int | None] = {}
    for some in chunks(studies, _STUDIES_AT_ONCE):
        for c in (history.c, _t):
            rows = connection.execute(
                select(c.study_instance_uid, c.instance_count).where(
                    c.source == source,
                    c.study_instance_uid.in_(some),
                    c.series_instance_uid == "",
                    c.destination == destination,
                    c.state.in_([State.COMPLETE.value, State.UNPROVEN.value]),
                    c.finished_at >= moment,
                )
            )
            found.update({row.study_instance_uid: row.instance_count for row in rows})
    return found
