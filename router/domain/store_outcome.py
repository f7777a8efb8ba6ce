"""From what became of each instance of a C-STORE to the Outcome of the attempt, and a reason for each. Pure."""

from __future__ import annotations

from collections import Counter

import msgspec

from router.domain.causes import CAUSES, Remedy, error_cause
from router.domain.dicom import SubOperationCounts
from router.domain.exchange import Standing, StoreOutcome, StoreResult
from router.domain.outcome import Outcome, quotable
from router.domain.store_causes import INSTANCE_CAUSES, STORE_CAUSES, UNLISTED, InstanceCause

STORED = frozenset({Standing.SUCCESS, Standing.WARNING})
"""The node has the instance: a warning says that it changed or dropped something, not that it refused."""

UNDECIDED = frozenset({Standing.UNCONFIRMED, Standing.NOT_SENT})
"""The attempt ended before the instance's fate was known."""

_RANK = {cause: rank for rank, cause in enumerate(STORE_CAUSES)}


class InstanceFate(msgspec.Struct, frozen=True, kw_only=True):
    """What one instance came to, for the ledger and for people."""

    sop_instance_uid: str
    stored: bool
    lasting: bool = False
    """It will not get there as it is, however often it is tried."""
    words: str = ""
    """Why not; empty where it got there, or where nobody knows yet."""


def cause_of(outcome: StoreOutcome) -> InstanceCause | None:
    """What an instance's end means; None where the node has it, or where that is not known."""
    if outcome.standing in STORED or outcome.standing in UNDECIDED:
        return None
    return INSTANCE_CAUSES.get((outcome.standing, outcome.cause), UNLISTED)


def fate_of(outcome: StoreOutcome) -> InstanceFate:
    """What one instance came to."""
    meaning = cause_of(outcome)
    return InstanceFate(
        sop_instance_uid=outcome.stored.sop_instance_uid,
        stored=outcome.standing in STORED,
        lasting=meaning is not None and CAUSES[meaning.cause].remedy in (Remedy.PERMANENT, Remedy.STOP_ROUTE),
        words=meaning.words if meaning is not None else "",
    )


class Fold:
    """Takes the outcomes of an attempt one by one; its memory does not grow with their number."""

    def __init__(self) -> None:
        self._standings: Counter[Standing] = Counter()
        self._meanings: Counter[InstanceCause] = Counter()
        self._comment = ""
        self._status: int | None = None
        self._worst = len(_RANK)

    def add(self, outcome: StoreOutcome) -> None:
        """What became of one more instance."""
        self._standings[outcome.standing] += 1
        meaning = cause_of(outcome)
        if meaning is None:
            return
        self._meanings[meaning] += 1
        if _RANK[meaning.cause] < self._worst:
            self._worst = _RANK[meaning.cause]
            self._status, self._comment = outcome.status, outcome.error_comment

    @property
    def counts(self) -> SubOperationCounts:
        """The instances so far, as sub-operations: completed, failed, with a warning."""
        counted = self._standings
        failed = sum(number for standing, number in counted.items() if standing not in STORED | UNDECIDED)
        return SubOperationCounts(
            sum(counted[standing] for standing in UNDECIDED),
            counted[Standing.SUCCESS],
            failed,
            counted[Standing.WARNING],
        )

    @property
    def unconfirmed(self) -> int:
        """Instances that were sent and not answered: the node may have them."""
        return self._standings[Standing.UNCONFIRMED]

    def outcome(self, result: StoreResult) -> Outcome:
        """The outcome of the attempt, once all of it was added.

        What ended it before its end counts first; else, where the node took some, what it did not take is tried again
        only if that may help. The route is stopped only where every instance says so.
        """
        counts = self.counts
        if result.cause:
            return self._broken_off(result, counts)
        total = sum(self._standings.values())
        if not self._meanings:
            warned = counts.warning or 0
            cause = "stored-with-warnings" if warned else "stored"
            said = f"The destination has taken all {total} instances" + (
                f", {warned} with a warning (Bxxx)" if warned else ""
            )
            return Outcome(cause=cause, remedy=Remedy.NONE, sentence=f"{said}.", counts=counts, status=0)
        delivered = (counts.completed or 0) + (counts.warning or 0)
        cause = self._cause(delivered)
        return Outcome(
            cause=cause,
            remedy=CAUSES[cause].remedy,
            sentence=self._sentence(cause, delivered, total),
            comment=quotable(self._comment),
            status=self._status,
            counts=counts,
        )

    def _cause(self, delivered: int) -> str:
        """The one that counts, of those of all instances."""
        causes = {one.cause for one in self._meanings}
        others = {cause for cause in causes if CAUSES[cause].remedy is not Remedy.STOP_ROUTE}
        if not others and delivered:
            return "store-refused"
        return min(others or causes, key=_RANK.__getitem__)

    def _broken_off(self, result: StoreResult, counts: SubOperationCounts) -> Outcome:
        cause = "store-out-of-resources" if result.cause == "out-of-resources" else error_cause(result.cause)
        return Outcome(
            cause=cause,
            remedy=CAUSES[cause].remedy,
            sentence=" ".join(filter(None, (result.reason, self._list()))),
            comment=quotable(self._comment),
            status=self._status,
            counts=counts,
        )

    def _sentence(self, cause: str, delivered: int, total: int) -> str:
        row = CAUSES[cause].sentence
        return f"The destination has taken {delivered} of {total} instances. {self._list()} {row}"

    def _list(self) -> str:
        """Of how many instances what is said, the most first."""
        ordered = sorted(self._meanings.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{number} not: {one.words}" for one, number in ordered]
        return "; ".join(parts) + "." if parts else ""
