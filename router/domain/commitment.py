"""Storage commitment (PS3.4 annex J) as values: what is asked of an archive, what it answered, what a refusal means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

STORAGE_COMMITMENT_SOP_CLASS = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class."""
STORAGE_COMMITMENT_SOP_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its well-known SOP Instance (PS3.4 section J.3.5)."""

MAXIMUM_PATIENCE = timedelta(days=30)
"""No answer is waited for longer, nor remembered."""

MAXIMUM_REFERENCES = 5_000
"""Instances in one request; more make several transactions."""

FAILURE_REASONS: dict[int, str] = {
    0x0110: "a general failure",
    0x0112: "no such instance",
    0x0119: "SOP class and instance do not belong together",
    0x0122: "the SOP class is not supported for storage commitment",
    0x0131: "the transaction UID is in use already",
    0x0213: "short of resources",
}
"""Failure Reason (0008,1197) -> what it means (PS3.3 section C.14.1.1)."""

CLASS_NOT_COMMITTED = 0x0122
"""The failure reason that says nothing about whether the instance is there: of its SOP class nothing is committed."""

RESULTS = ("requested", "refused", "committed", "failed", "overdue", "unknown", "not_taken")
"""What can happen to a transaction, for metrics: `committed` is an answer for all of it, `failed` one with failures,
`unknown` one to what was not asked of this node, `not_taken` one that was malformed or came among too many."""

PASSING = frozenset({0x0110, 0x0112, 0x0213})
"""Failure reasons that may only mean: not yet. Archives take in what they were sent after they have answered for it."""

LASTING_REFUSALS = frozenset({0x0112, 0x0114, 0x0115, 0x0118, 0x0119, 0x0123, 0x0124, 0x0211, 0x0212})
"""Failure statuses of an N-ACTION (PS3.7 section 10.1.4.1.10) after which asking again is no use for a while."""


class Reference(NamedTuple):
    """An instance in a request."""

    sop_class_uid: str
    sop_instance_uid: str


class CommitmentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction: a fresh UID, and the instances that an archive is to be responsible for."""

    transaction_uid: str
    references: tuple[Reference, ...]


class CommitmentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One N-EVENT-REPORT, and who sent it. What it does not mention it did not commit itself to."""

    transaction_uid: str
    calling_ae_title: str
    """Of the archive's association to this router; empty where it answered on the association of the request."""
    committed: frozenset[str] = frozenset()
    """SOP Instance UIDs."""
    failed: Mapping[str, int] = {}
    """SOP Instance UID -> Failure Reason (0008,1197)."""


class Commitment(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction as the ledger remembers it; without `answered_at` its answer is outstanding."""

    transaction_uid: str
    node: str
    requested_at: datetime
    answered_at: datetime | None = None
    committed: frozenset[str] = frozenset()
    failed: Mapping[str, int] = {}


def transactions(references: Iterable[Reference], fresh_uid: Callable[[], str]) -> list[CommitmentRequest]:
    """Split references into transactions of a size that archives take, each under a UID of its own."""
    rest = sorted(references)
    return [
        CommitmentRequest(transaction_uid=fresh_uid(), references=tuple(rest[start : start + MAXIMUM_REFERENCES]))
        for start in range(0, len(rest), MAXIMUM_REFERENCES)
    ]


def failure_sentence(failed: Mapping[str, int]) -> str:
    """What an archive does not commit itself to, and why; empty where there is nothing. No identifier is in it."""
    if not failed:
        return ""
    counts = Counter(failed.values())
    parts = [
        f"{count} ({FAILURE_REASONS.get(reason, 'a reason the standard does not define')}, {reason:04X})"
        for reason, count in sorted(counts.items())
    ]
    return f"It does not commit itself to {', '.join(parts)}."
