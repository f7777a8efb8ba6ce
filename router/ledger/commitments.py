"""The queries about storage commitment: what archives were asked to commit themselves to, and what they answered.

Rows belong to what a transfer's last move brought: they go when another move has ended, or it starts over.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, text, update

from router.domain.commitment import MAXIMUM_PATIENCE, Commitment, CommitmentAnswer
from router.domain.transfer import Transfer
from router.ledger.tables import UNCLAIMED_VERIFICATION, commitments, transfers

_c, _t = commitments.c, transfers.c
KEPT = 2 * MAXIMUM_PATIENCE
"""After that a row has nothing to say any more."""


class _Answer(msgspec.Struct, array_like=True):
    committed: list[str]
    failed: dict[str, int]


def add(connection: Connection, transfer: Transfer, node: str, transaction_uids: Sequence[str], now: datetime) -> bool:
    """Remember that a node is asked, in place of what was asked for this transfer. False where its claim was lost."""
    ours = select(_t.id).where(_t.id == transfer.id, _t.fence == transfer.fence, _t.lease_until.is_not(None))
    if connection.scalar(ours) is None:
        return False
    forget(connection, [transfer.id])
    connection.execute(delete(commitments).where(_c.requested_at < now - KEPT))
    if transaction_uids:
        rows = [
            {"transaction_uid": uid, "transfer_id": transfer.id, "node": node, "requested_at": now}
            for uid in transaction_uids
        ]
        connection.execute(insert(commitments), rows)
    return True


def answer(connection: Connection, answered: CommitmentAnswer, nodes: Sequence[str], now: datetime) -> bool | None:
    """Note an answer. None where none of these nodes was asked for it, False where it was answered before.

    A transfer that waits for its verification is due at once.
    """
    row = connection.execute(
        select(_c.transfer_id, _c.node, _c.answered_at).where(_c.transaction_uid == answered.transaction_uid)
    ).one_or_none()
    if row is None or row.node not in nodes:
        return None
    if row.answered_at is not None:
        return False  # the first answer holds: archives repeat those whose response they missed
    packed = _Answer(sorted(answered.committed), dict(answered.failed))
    connection.execute(
        update(commitments)
        .where(_c.transaction_uid == answered.transaction_uid)
        .values(answered_at=now, answer=zlib.compress(msgspec.msgpack.encode(packed)))
    )
    connection.execute(
        update(transfers)
        .where(_t.id == row.transfer_id, text(UNCLAIMED_VERIFICATION), _t.next_at > now)
        .values(next_at=now, updated_at=now)
    )
    return True


def find(connection: Connection, transfer_id: int) -> list[Commitment]:
    """The transactions of a transfer, the oldest first."""
    rows = connection.execute(
        select(commitments).where(_c.transfer_id == transfer_id).order_by(_c.requested_at, _c.transaction_uid)
    )
    return [_commitment(*row) for row in rows]


def outstanding(connection: Connection, transfer_id: int) -> bool:
    """Whether an answer is awaited for a transfer."""
    query = select(_c.transaction_uid).where(_c.transfer_id == transfer_id, _c.answered_at.is_(None)).limit(1)
    return connection.scalar(query) is not None


def answered_since(connection: Connection, transfer_id: int, since: datetime | None) -> bool:
    """Whether an answer came since then: what was looked at before may not have seen it."""
    if since is None:
        return False
    query = select(_c.transaction_uid).where(_c.transfer_id == transfer_id, _c.answered_at >= since).limit(1)
    return connection.scalar(query) is not None


def forget(connection: Connection, transfer_ids: Sequence[int], *, unanswered_only: bool = False) -> None:
    """Remove what no longer holds."""
    if not transfer_ids:
        return
    statement = delete(commitments).where(_c.transfer_id == bindparam("of_transfer"))
    if unanswered_only:
        statement = statement.where(_c.answered_at.is_(None))
    connection.execute(statement, [{"of_transfer": number} for number in transfer_ids])


def _commitment(
    transaction_uid: str,
    transfer_id: int,
    node: str,
    requested_at: datetime,
    answered_at: datetime | None,
    packed: bytes | None,
) -> Commitment:
    said = _Answer([], {}) if packed is None else msgspec.msgpack.decode(zlib.decompress(packed), type=_Answer)
    return Commitment(
        transaction_uid=transaction_uid,
        node=node,
        requested_at=requested_at,
        answered_at=answered_at,
        committed=frozenset(said.committed),
        failed=said.failed,
    )
