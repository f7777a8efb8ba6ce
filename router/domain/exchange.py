"""What is asked of a node and what it answered, as values: C-FIND, C-MOVE, C-STORE; what a C-STORE status means."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from router.domain.dicom import Identifier, QueryRetrieveLevel, SubOperationCounts


class FindResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a C-FIND brought.

    `status` is the final status (0000 success); on any other the matches are not the whole answer.
    """

    identifiers: list[Identifier]
    status: int
    error_comment: str = ""
    undecodable: int = 0
    """Matches whose identifier could not be decoded."""
    optional_keys_unsupported: bool = False
    """A pending response said FF01."""


class MoveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One C-MOVE: unique keys only (PS3.4 section C.4.2.1.4.1)."""

    destination_ae_title: str
    level: QueryRetrieveLevel
    study_instance_uid: str
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()
    patient_id: str = ""
    """Needed for Patient Root."""
    priority: int = 0
    inactivity: float = 0.0
    """Seconds without a response or an arriving instance that it may take, where that is more than the node's."""
    total: float = 0.0
    """Seconds that it may take in all, where that is more than the node's."""

    def deadlines(self, inactivity: float, total: float) -> tuple[float, float]:
        """Inactivity and total, given those of the node."""
        return max(inactivity, self.inactivity), max(total, self.total)


class MoveProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One C-MOVE response as it came; absent counters are None."""

    status: int
    counts: SubOperationCounts


class MoveResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a C-MOVE ended. `counts` are those of the last response that had any."""

    status: int
    counts: SubOperationCounts
    failed_sop_instance_uids: tuple[str, ...] = ()
    error_comment: str = ""
    note: str = ""
    """What this side knows of sub-operations that failed, a sentence (C-GET: what was not negotiated or refused)."""


# C-STORE as SCU -----------------------------------------------------------------------------------------------------


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    """An instance in a Part 10 file that is to be sent as it is."""

    path: str
    """Where it is; what that is relative to is known to who opens it."""
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int = 0
    """Bytes of its data set when it came in; 0: not known."""
    store: str = ""
    """The name of the object store that holds it; empty: the own one."""


class Standing(StrEnum):
    """How far an instance got."""

    SUCCESS = "success"
    """The node has it."""
    WARNING = "warning"
    """The node has it, changed or with reservations."""
    FAILURE = "failure"
    """The node answered that it did not store it."""
    REFUSED = "refused"
    """The node takes no such instances: no presentation context for its SOP class and transfer syntax."""
    UNREADABLE = "unreadable"
    """The file cannot be sent."""
    UNCONFIRMED = "unconfirmed"
    """Sent to its end, but no answer came: the node may have it."""
    NOT_SENT = "not sent"
    """The work ended before; the node does not have it from us."""


class MoveOriginator(msgspec.Struct, frozen=True, kw_only=True):
    """On whose C-MOVE an instance is sent (PS3.7 section 9.1.1.1)."""

    ae_title: str
    message_id: int


class StoreOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one instance.

    `status` is the C-STORE status where the node answered. `cause` is, for an answer, its meaning in STORE_STATUSES or
    STORE_STATUS_RANGES; for a refusal a value of CONTEXT_REFUSALS; else that of the error that ended the work.
    """

    stored: StoredObject
    standing: Standing
    cause: str
    status: int | None = None
    error_comment: str = ""


class StoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many instances got how far, and what ended the work before its end, if anything did."""

    counts: dict[Standing, int]
    cause: str = ""
    """The `cause` of the error that left instances unsent or unconfirmed, empty where there was none."""
    reason: str = ""
    """That error in a sentence."""

    def count(self, *standings: Standing) -> int:
        """Instances that got so far."""
        return sum(self.counts.get(standing, 0) for standing in standings)

    @property
    def delivered(self) -> int:
        """Instances the node has."""
        return self.count(Standing.SUCCESS, Standing.WARNING)

    @property
    def complete(self) -> bool:
        """Whether the node has all that were to be sent."""
        return self.delivered == sum(self.counts.values())


STORE_STATUSES: dict[int, tuple[Standing, str]] = {
    0x0000: (Standing.SUCCESS, "success"),
    0xB000: (Standing.WARNING, "coerced"),
    0xB006: (Standing.WARNING, "elements-discarded"),
    0xB007: (Standing.WARNING, "class-mismatch"),
    0x0001: (Standing.WARNING, "warning"),
    0x0107: (Standing.WARNING, "warning"),
    0x0116: (Standing.WARNING, "warning"),
    0x0105: (Standing.FAILURE, "argument"),
    0x0106: (Standing.FAILURE, "argument"),
    0x0110: (Standing.FAILURE, "processing-failure"),
    0x0111: (Standing.FAILURE, "duplicate"),
    0x0115: (Standing.FAILURE, "argument"),
    0x0117: (Standing.FAILURE, "argument"),
    0x0119: (Standing.FAILURE, "argument"),
    0x0120: (Standing.FAILURE, "argument"),
    0x0121: (Standing.FAILURE, "argument"),
    0x0122: (Standing.FAILURE, "class-not-supported"),
    0x0124: (Standing.FAILURE, "not-authorised"),
    0x0210: (Standing.FAILURE, "processing-failure"),
    0x0211: (Standing.FAILURE, "class-not-supported"),
    0x0212: (Standing.FAILURE, "processing-failure"),
    0x0213: (Standing.FAILURE, "resource-limitation"),
}
"""What a C-STORE status means (PS3.4 table B.2-1, PS3.7 annex C): how far the instance got, and why."""

STORE_STATUS_RANGES: tuple[tuple[int, int, Standing, str], ...] = (
    (0xA700, 0xA7FF, Standing.FAILURE, "out-of-resources"),
    (0xA900, 0xA9FF, Standing.FAILURE, "class-mismatch"),
    (0xB000, 0xBFFF, Standing.WARNING, "warning"),
    (0xC000, 0xCFFF, Standing.FAILURE, "unable-to-process"),
)
"""First and last status of a range; what STORE_STATUSES has goes first."""

CONTEXT_REFUSALS: dict[int, str] = {
    1: "context-rejected",
    2: "context-rejected",
    3: "class-refused",
    4: "syntax-refused",
}
"""Result of a presentation context in the A-ASSOCIATE-AC (PS3.8 table 9-18) -> why its instances are refused."""


def store_status(status: int) -> tuple[Standing, str]:
    """What a C-STORE status means; one that the standard does not define is a failure."""
    known = STORE_STATUSES.get(status)
    if known:
        return known
    for low, high, standing, cause in STORE_STATUS_RANGES:
        if low <= status <= high:
            return standing, cause
    return Standing.FAILURE, "unknown-status"
