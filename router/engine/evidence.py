"""What a destination holds: receipts for `local`, a C-FIND for third parties, or the admission that nobody can say."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from router.domain.outcome import Evidence, error_cause
from router.domain.rule import LOCAL, Node
from router.domain.transfer import Transfer
from router.engine.ports import Ledger
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import Urgency
from router.errors import Cancelled, WireError

_REMEMBER_SECONDS = 60.0

HOPELESS = frozenset({"no-context", "rejected", "class-not-supported", "not-authorised"})
"""Causes after which asking the node again is no use for a while."""


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
            return Evidence(
                kind="receipts", present=frozenset(self._ledger.received(study, series) & self._held(study))
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
            instances = self._inquiry.instances(*about)
            if instances:
                return Evidence(kind="find", present=frozenset(one.sop_instance_uid for one in instances))
        count = self._inquiry.count(*about)  # an empty list is an answer only where the count agrees
        return Evidence(kind="find", count=count, present=frozenset() if count == 0 else None)
