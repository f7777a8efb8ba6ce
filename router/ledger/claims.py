"""The queries of a worker: claim, renew, finish, and what happens when it is gone.

A claim is a lease and a fence number. `lease_until` is set exactly while someone holds the transfer; the fence number
rises with every claim and every loss, so that a worker that comes late changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Integer,
    Row,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    update,
)

from router.domain.dicom import SubOperationCounts
from router.domain.outcome import CAUSES
from router.domain.transfer import (
    ENDED,
    SAID,
    WISHES,
    Ending,
    Finish,
    Happening,
    IllegalTransition,
    Route,
    State,
    Transfer,
    after,
)
from router.errors import LedgerError
from router.ledger import commitments, routes
from router.ledger.picking import candidates, pick, pick_verification
from router.ledger.queue import next_probe, next_transfers, next_verification
from router.ledger.rows import transfer_of
from router.ledger.tables import LEASED, QUEUED, UNCLAIMED_VERIFICATION, Instant, attempts, transfers

ATTEMPTS_KEPT = 50
"""Attempts remembered per transfer; older ones are forgotten."""

_t, _a = transfers.c, attempts.c
_LEASE_LOST = "lease-lost"
_TRIES = 4
"""Where all that is due is just being taken by others so often, it is left to them."""


def _time(name: str) -> BindParameter[datetime]:
    return bindparam(name, type_=Instant())


# These are made once: to make a statement anew takes longer than to have the database execute it.
_OURS = and_(_t.id == bindparam("row_id"), _t.fence == bindparam("of_fence"), _t.lease_until.is_not(None))
_SEEN = select(_t.state, _t.wish).where(_OURS)


def _claiming(which: ColumnElement[bool], state: State, free: str) -> Any:
    # The transaction holds the right to write; the condition is for databases where others may write at the same time.
    return (
        update(transfers)
        .where(which, text(free))
        .values(
            state=after(state, Happening.CLAIMED).value,
            fence=_t.fence + 1,
            claimed_at=_time("at"),
            started_at=func.coalesce(_t.started_at, _time("at")),
            lease_until=_time("until"),
            updated_at=_time("at"),
        )
        .returning(transfers)
    )


_CLAIM = {
    state: _claiming(_t.id == bindparam("row_id"), state, free)
    for state, free in ((State.QUEUED, QUEUED), (State.VERIFYING, UNCLAIMED_VERIFICATION))
}
_CLAIM_MANY = _claiming(_t.id.in_(bindparam("row_ids", expanding=True)), State.QUEUED, QUEUED)
_END = (
    update(transfers)
    .where(_OURS, _t.state == bindparam("was"), _t.wish == bindparam("wished"))
    .values(
        state=bindparam("new_state"),
        expected=func.coalesce(bindparam("new_expected", type_=Integer()), _t.expected),
        completed=bindparam("new_completed"),
        failed=bindparam("new_failed"),
        warning=bindparam("new_warning"),
        attempts=_t.attempts + bindparam("moves", type_=Integer()),
        rounds=_t.rounds + bindparam("gaps", type_=Integer()),
        looks=_t.looks * bindparam("keeps_looks", type_=Integer()) + bindparam("more_looks", type_=Integer()),
        status=bindparam("new_status"),
        cause=bindparam("new_cause"),
        reason=bindparam("new_reason"),
        steps=_t.steps + 1,
        next_at=_time("new_next_at"),
        lease_until=None,
        wish="",
        finished_at=_time("new_finished_at"),
        updated_at=_time("at"),
    )
    .returning(transfers)
)
_AT_ONCE = update(transfers).where(_t.id == bindparam("row_id")).values(next_at=_time("at")).returning(transfers)
_REMEMBER = insert(attempts)
_FORGET = delete(attempts).where(_a.transfer_id == bindparam("row_id"), _a.number <= bindparam("last"))


def claim_transfers(
    connection: Connection,
    sources: Sequence[str],
    now: datetime,
    lease_seconds: float,
    most: int,
    without: Collection[Route] = (),
    *,
    oldest: bool = False,
) -> list[Transfer]:
    """Take what `next_transfers` names, in its order; they are then moving."""
    wanted = candidates(connection, most)
    for _ in range(_TRIES):
        found = next_transfers(connection, sources, now, wanted, without, oldest=oldest)
        if not found:
            return []
        picked = pick(connection, found, most)
        if picked:
            until = now + timedelta(seconds=lease_seconds)
            rows = connection.execute(_CLAIM_MANY, {"row_ids": picked, "at": now, "until": until})
            claimed = {row.id: transfer_of(row) for row in rows}
            return [claimed[number] for number in picked if number in claimed]
    return []


def claim_probe(
    connection: Connection, route: Route, now: datetime, lease_seconds: float, next_probe_at: datetime
) -> Transfer | None:
    """Take what `next_probe` names; another may be taken at `next_probe_at`."""
    found = next_probe(connection, route, now)
    if found is None:
        return None
    routes.probed(connection, route, next_probe_at)
    return _claim(connection, found, State.QUEUED, now, lease_seconds)


def claim_verification(
    connection: Connection, destinations: Sequence[str], now: datetime, lease_seconds: float
) -> Transfer | None:
    """Take what `next_verification` names."""
    for _ in range(_TRIES):
        found = next_verification(connection, destinations, now)
        if found is None:
            return None
        picked = pick_verification(connection, found, now)
        if picked is not None:
            return _claim(connection, picked, State.VERIFYING, now, lease_seconds)
    return None


def renew(
    connection: Connection, transfer: Transfer, now: datetime, lease_seconds: float, counts: SubOperationCounts | None
) -> bool:
    """Prolong the lease, never shorten it, and note progress. False where the claim was lost."""
    progress: dict[str, int] = {}
    if counts is not None:
        # A sub-operation with a warning has delivered its instance (PS3.4 section C.4.2.1.6).
        if counts.completed is not None:
            progress["completed"] = counts.completed + (counts.warning or 0)
        if counts.failed is not None:
            progress["failed"] = counts.failed
        if counts.warning is not None:
            progress["warning"] = counts.warning
    until = literal(now + timedelta(seconds=lease_seconds), Instant())
    # Its worker and who keeps its lease may write in another order than they looked at the clock in.
    later = case((_t.lease_until < until, until), else_=_t.lease_until)
    statement = update(transfers).where(_held(transfer)).values(lease_until=later, updated_at=now, **progress)
    return bool(connection.execute(statement).rowcount)


def finish_all(connection: Connection, endings: Sequence[Ending], now: datetime) -> list[Transfer | None]:
    """End claimed steps and remember the attempts, in the order given. None where a claim was lost.

    Raises LedgerError where the table of states has no such transition.
    """
    # Written in an order that all writers keep, so that none waits for one that waits for him: the rows of a study,
    # then those of routes.
    ended: dict[int, Transfer | None] = {}
    for number in sorted(range(len(endings)), key=lambda number: _turn(endings[number].transfer)):
        one = endings[number]
        ended[number] = _finish(connection, one.transfer, one.finish, one.started_at, now)
    stops = [(one.transfer.route, one.finish.stop) for number, one in enumerate(endings) if ended[number]]
    for route, stop in sorted(stops, key=lambda stop: stop[0]):
        if stop is not None:
            routes.stop(connection, route, stop, now)
    return [ended[number] for number in range(len(endings))]


def _turn(transfer: Transfer) -> tuple[str, int]:
    return transfer.intent.study_instance_uid, transfer.id


def _finish(
    connection: Connection, transfer: Transfer, finish: Finish, started_at: datetime, now: datetime
) -> Transfer | None:
    state, wish = transfer.state, ""  # so it is as long as the claim holds, unless a person wished something
    while True:
        try:
            row, illegal = _end(connection, transfer, finish, state, wish, now), ""
        except IllegalTransition as error:  # of a worker that has lost the claim it does not matter
            row, illegal = None, str(error)
        if row is not None:
            break
        seen = connection.execute(_SEEN, _claimed(transfer)).one_or_none()
        if seen is None:
            return None
        if illegal:
            raise LedgerError(illegal)
        state, wish = State(seen.state), seen.wish
    step = {
        "started_at": started_at,
        "finished_at": now,
        "happening": finish.happening.value,
        "cause": finish.cause,
        "reason": f"{finish.reason}{SAID}{finish.comment}" if finish.comment else finish.reason,
        "status": finish.status,
        "completed": finish.completed,
        "failed": finish.failed,
        "warning": finish.warning,
    }
    _remember(connection, row.id, row.steps, state, step)
    if finish.happening is Happening.MOVED:
        commitments.forget(connection, [row.id])  # they were about what was there before
    elif finish.happening is Happening.LATER and commitments.answered_since(connection, row.id, row.claimed_at):
        # What came while it was looked at may not have been seen.
        row = connection.execute(_AT_ONCE, {"row_id": row.id, "at": now}).one()
    return transfer_of(row)


def _end(
    connection: Connection, transfer: Transfer, finish: Finish, state: State, wish: str, now: datetime
) -> Row[Any] | None:
    """Write how a step ended, if the claim holds, and state and wish are these; the row as it is then.

    Raises IllegalTransition.
    """
    following = after(state, finish.happening)
    reason = finish.reason
    if wish and following not in ENDED:
        wished_for = Happening(wish)
        following, reason = after(state, wished_for), WISHES[wished_for]
    moved = finish.moved or finish.happening is Happening.MOVED
    values = _claimed(transfer) | {
        "was": state.value,
        "wished": wish,
        "new_state": following.value,
        "new_expected": finish.expected,
        "new_completed": finish.completed,
        "new_failed": finish.failed,
        "new_warning": finish.warning,
        "moves": int(finish.moved),
        "gaps": int(finish.happening is Happening.GAP),
        "keeps_looks": int(not moved),
        "more_looks": int(not moved and finish.happening is Happening.LATER),
        "new_status": finish.status,
        "new_cause": finish.cause,
        "new_reason": reason,
        "new_next_at": finish.next_at or now,
        "new_finished_at": now if following in ENDED else None,
        "at": now,
    }
    return connection.execute(_END, values).one_or_none()


def any_to_expire(connection: Connection, now: datetime) -> bool:
    """Whether a transfer has lost its worker."""
    return connection.scalar(select(_t.id).where(text(LEASED), _t.lease_until <= now).limit(1)) is not None


def expire(connection: Connection, now: datetime, lost_at: datetime) -> int:
    """Send transfers whose lease ran out by `lost_at` to verification. Returns how many."""
    return _lose(connection, and_(text(LEASED), _t.lease_until <= lost_at), now)


def expire_all(connection: Connection, now: datetime) -> int:
    """The same for every transfer that anybody held: nobody is left. Returns how many."""
    return _lose(connection, text(LEASED), now)


def wished(connection: Connection) -> list[tuple[int, int]]:
    """Number and fence number of the transfers that their workers are to let go of."""
    rows = connection.execute(select(_t.id, _t.fence).where(text(LEASED), _t.wish != ""))
    return [(number, fence) for number, fence in rows]


def release(connection: Connection, claims: Sequence[Transfer], now: datetime) -> None:
    """End these claims as if they had expired."""
    for claim in sorted(claims, key=_turn):
        _lose(connection, _held(claim), now)


def _claim(connection: Connection, number: int, state: State, now: datetime, lease_seconds: float) -> Transfer | None:
    until = now + timedelta(seconds=lease_seconds)
    row = connection.execute(_CLAIM[state], {"row_id": number, "at": now, "until": until}).one_or_none()
    return None if row is None else transfer_of(row)


def _claimed(transfer: Transfer) -> dict[str, Any]:
    return {"row_id": transfer.id, "of_fence": transfer.fence}


def _held(transfer: Transfer) -> ColumnElement[bool]:
    return and_(_t.id == transfer.id, _t.fence == transfer.fence, _t.lease_until.is_not(None))


def _lose(connection: Connection, which: Any, now: datetime) -> int:
    """The worker of these is gone and what it did is unknown: it is looked up before anything is repeated."""
    lost = connection.execute(select(transfers).where(which).with_for_update()).all()
    for row in lost:
        state = State(row.state)
        values: dict[str, Any] = {
            "state": after(state, Happening.LEASE_LOST).value,
            "fence": row.fence + 1,
            "lease_until": None,
            "wish": "",
            "next_at": now,
            "updated_at": now,
        }
        if state is State.MOVING:
            # The lost run counts as an attempt: a study that kills its worker would otherwise be moved for ever.
            reason = CAUSES[_LEASE_LOST].sentence
            values |= {"cause": _LEASE_LOST, "reason": reason, "attempts": row.attempts + 1, "looks": 0}
            step = {
                "started_at": row.claimed_at,
                "finished_at": now,
                "happening": Happening.LEASE_LOST.value,
                "cause": _LEASE_LOST,
                "reason": reason,
                "completed": row.completed,
                "failed": row.failed,
                "warning": row.warning,
            }
            values["steps"] = row.steps + 1
            _remember(connection, row.id, row.steps + 1, state, step)
        if row.wish:
            wish = Happening(row.wish)
            ended = after(state, wish)
            values |= {"state": ended.value, "reason": WISHES[wish], "finished_at": now if ended in ENDED else None}
        # A request that was on its way may never have been sent.
        commitments.forget(connection, [row.id], unanswered_only=state is not State.MOVING)
        connection.execute(update(transfers).where(_t.id == row.id).values(**values))
    return len(lost)


def _remember(connection: Connection, transfer_id: int, number: int, state: State, step: dict[str, Any]) -> None:
    """Write an attempt of this number down and forget those beyond what is kept."""
    name = "move" if state is State.MOVING else "verify"
    connection.execute(_REMEMBER, {"transfer_id": transfer_id, "number": number, "step": name, **step})
    if number > ATTEMPTS_KEPT:
        connection.execute(_FORGET, {"row_id": transfer_id, "last": number - ATTEMPTS_KEPT})
