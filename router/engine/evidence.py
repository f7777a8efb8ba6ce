"""What a destination holds: receipts for `local`, a C-FIND for third parties, or the admission that nobody can say."""

from __future__ import annotations

import threading
import time

from router.domain.outcome import Evidence, Expectation, error_cause
from router.domain.rule import LOCAL, Node
from router.domain.transfer import Transfer
from router.engine.ports import Ledger
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import Urgency
from router.errors import Cancelled, WireError

_REMEMBER_SECONDS = 600.0

HOPELESS = frozenset({"no-context", "rejected", "class-not-supported", "not-authorised"})
"""Causes after which asking the node again is no use for some minutes."""


class Unavailable(WireError):
    """The destination could not be asked now, but may be later."""

    cause = "destination-down"


class EvidenceGatherer:
    """Finds evidence for transfers."""

    def __init__(self, ledger: Ledger, inquiry: Inquiry) -> None:
        self._ledger = ledger
        self._inquiry = inquiry
        self._mute: dict[str, tuple[float, str]] = {}

    def gather(
        self,
        transfer: Transfer,
        destination: Node | None,
        expectation: Expectation,
        verify: str,
        cancelled: threading.Event,
    ) -> Evidence:
        """What the destination holds of the expected instances.

        Raises Unavailable where it may be had later, Cancelled when cancelled.
        """
        study, series = transfer.intent.study_instance_uid, transfer.intent.series_instance_uid
        if transfer.intent.destination == LOCAL:
            return Evidence(kind="receipts", present=frozenset(self._ledger.received(study, series)))
        if destination is None:
            return Evidence(kind="none", note="The configuration no longer has the destination.")
        if verify == "none":
            return Evidence(kind="none", note="The rule says verify: none.")
        muted = self._mute.get(destination.name)
        if muted and time.monotonic() - muted[0] < _REMEMBER_SECONDS:
            return Evidence(kind="none", note=muted[1])
        try:
            return self._ask(transfer, destination, expectation, cancelled)
        except Cancelled:
            raise
        except WireError as error:
            hopeless = error_cause(error.cause) in HOPELESS
            if isinstance(error, QueryFailed):
                hopeless = error.status in (0x0122, 0x0124, 0xA900)
            if hopeless:
                note = f"{destination.name} answers no query, so nobody can say what arrived there."
                self._mute[destination.name] = (time.monotonic(), note)
                return Evidence(kind="none", note=note)
            raise Unavailable(str(error)) from error

    def _ask(self, transfer: Transfer, node: Node, expectation: Expectation, cancelled: threading.Event) -> Evidence:
        intent = transfer.intent
        count = self._inquiry.count(
            node,
            intent.study_instance_uid,
            intent.series_instance_uid,
            transfer.patient_id,
            Urgency.VERIFY,
            cancelled,
        )
        size = expectation.size
        if count is not None and (count == 0 or (size is not None and count >= size)):
            return Evidence(kind="find", count=count, present=frozenset() if count == 0 else None)
        instances = self._inquiry.instances(
            node,
            intent.study_instance_uid,
            intent.series_instance_uid,
            transfer.patient_id,
            Urgency.VERIFY,
            cancelled,
        )
        if not instances and count:  # it answers no IMAGE query: an empty list is then no answer
            return Evidence(kind="find", count=count)
        return Evidence(kind="find", present=frozenset(instance.sop_instance_uid for instance in instances))
