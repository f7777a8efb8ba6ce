"""What a destination holds: receipts for `local`, a C-FIND for third parties, or the admission that nobody can say.

Storage commitment, which a destination is asked for, is in `commitment.py`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable

from router.domain.causes import CAUSES, Remedy, error_cause
from router.domain.expectation import Listing, expect
from router.domain.outcome import Evidence
from router.domain.retention import left_of
from router.domain.rule import LOCAL, Node
from router.domain.transfer import Instance, Transfer
from router.engine.ports import Ledger
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import Urgency
from router.errors import Cancelled, WireError

_REMEMBER_SECONDS = 60.0
_LEFT = "Some of it was passed on, and has left the store since (router.retention)."

HOPELESS = frozenset(code for code, cause in CAUSES.items() if cause.remedy is Remedy.STOP_ROUTE)
"""Causes after which asking the node again is no use for a while."""


def commits(destination: Node | None, verify: str) -> bool:
    """Whether storage commitment is to be asked for."""
    return destination is not None and destination.commitment is not None and verify in ("auto", "commitment")


def found(listing: Listing) -> Evidence:
    """What a destination's answers show. It counts a series that it does not list: which instances it has is unknown.

    An empty list at IMAGE level is no answer: archives exist that list no reports.
    """
    expectation = expect("image", listing, None)
    numbers = {series: number for series, number in (expectation.series or {}).items() if number is not None}
    unlisted = frozenset(series for series in numbers if not listing.instances.get(series))
    return Evidence(
        kind="find",
        present=frozenset(one.sop_instance_uid for one in listing.listed),
        series=numbers,
        unlisted=unlisted,
    )


class Unavailable(WireError):
    """The destination could not be asked now, but may be later."""

    cause = "destination-down"


class EvidenceGatherer:
    """Finds evidence for transfers."""

    def __init__(self, ledger: Ledger, inquiry: Inquiry, held: Callable[[str], set[str]]) -> None:
        """`held` gives the SOP Instance UIDs whose files of a study are in our store."""
        self._ledger = ledger
        self._inquiry = inquiry
        self._held = held
        self._mute: dict[Node, tuple[float, str]] = {}

    def before(self, transfer: Transfer, destination: Node | None, verify: str, cancelled: threading.Event) -> Evidence:
        """What need not be moved: what the destination holds, or what alone it committed itself to after the last move.

        Raises what `gather` does.
        """
        if commits(destination, verify):
            known = [one for one in self._ledger.commitments(transfer.id) if one.answered_at is not None]
            if any(one.failed for one in known):
                failed = {uid for one in known for uid in one.failed}
                committed = frozenset(uid for one in known for uid in one.committed)
                return Evidence(kind="commitment", present=committed - failed)
        return self.gather(transfer, destination, verify, cancelled)

    def gather(
        self,
        transfer: Transfer,
        destination: Node | None,
        verify: str,
        cancelled: threading.Event,
    ) -> Evidence:
        """What the destination holds of the study or series.

        Raises Unavailable where it may be had later, Cancelled when cancelled.
        """
        study, series = transfer.intent.study_instance_uid, transfer.intent.series_instance_uid
        if transfer.intent.destination == LOCAL:
            # A receipt whose file is gone proves nothing.
            there = self._here(study, series)
            left = left_of(self._ledger.departed(study), series) - there
            return Evidence(
                kind="receipts",
                present=frozenset(one.sop_instance_uid for one in there | left),
                series=Counter(one.series_instance_uid for one in there | left),
                note=_LEFT if left else "",
            )
        if destination is None:
            return Evidence(kind="none", note="The configuration no longer has the destination.")
        if verify == "none":
            return Evidence(kind="none", note="The rule says verify: none.")
        muted = self._mute.get(destination)
        if muted and time.monotonic() - muted[0] < _REMEMBER_SECONDS:
            return Evidence(kind="none", note=muted[1])
        try:
            return self._ask(transfer, destination, cancelled)
        except Cancelled:
            raise
        except WireError as error:
            hopeless = error_cause(error.cause) in HOPELESS
            if isinstance(error, QueryFailed):
                hopeless = error.status in (0x0122, 0x0124, 0xA900)
            if hopeless:
                note = f"{destination.name} answers no query, so nobody can say what arrived there."
                self._mute[destination] = (time.monotonic(), note)
                return Evidence(kind="none", note=note)
            raise Unavailable(str(error)) from error

    def _here(self, study: str, series: str) -> set[Instance]:
        """What the store holds: a receipt whose file is gone proves nothing."""
        held = self._held(study)
        return {one for one in self._ledger.received_instances(study, series) if one.sop_instance_uid in held}

    def _ask(self, transfer: Transfer, node: Node, cancelled: threading.Event) -> Evidence:
        """The destination's IMAGE-level list, else its count: which instances it holds matters, not how many."""
        about = (
            node,
            transfer.intent.study_instance_uid,
            transfer.intent.series_instance_uid,
            transfer.patient_id,
            Urgency.VERIFY,
            cancelled,
        )
        with contextlib.suppress(QueryFailed):
            listing = self._inquiry.listing(*about)
            if listing.listed and not listing.cut:
                return found(listing)
        count = self._inquiry.count(*about)  # an empty list is an answer only where the count agrees
        return Evidence(kind="find", count=count, present=frozenset() if count == 0 else None)
