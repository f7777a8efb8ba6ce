"""Storage commitment as evidence: asking a destination after a move, and what its answers say until all are in.

No worker waits here: an answer may take hours, and makes its transfer due when it comes.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

from router.domain.breaker import HELD_OFF
from router.domain.commitment import (
    LASTING_REFUSALS,
    Commitment,
    CommitmentAnswer,
    Reference,
    transactions,
)
from router.domain.dicom import Identifier, QueryRetrieveLevel, is_uid
from router.domain.events import CommitmentNoted
from router.domain.outcome import Evidence, Expectation, error_cause
from router.domain.rule import CommitmentSettings, Node
from router.domain.transfer import Instance, Transfer
from router.engine.ports import Clock, Ledger, Observer, Peers
from router.engine.query import Inquiry, unique_keys
from router.engine.slots import NodeSlots, Urgency
from router.errors import Cancelled, CommitmentRefused, ContextRefused, WireError

_REMEMBER_SECONDS = 60.0
_REMEMBERED = 1_000
_WAITS = (30.0, 300.0, 1800.0)
_LONGEST_WAIT = 3600.0
"""Seconds between looks: an answer brings one at once, so a look before it only finds out that time is up."""

_AWAY = HELD_OFF | {"unreachable", "rejected-busy"}
"""Causes that say nothing about whether the node takes such requests."""


class Waiting(NamedTuple):
    """An answer is outstanding."""

    seconds: float
    """Until the next look, unless the answer comes before."""
    reason: str


class Unanswered(NamedTuple):
    """There is no answer to be had, for this reason."""

    reason: str
    lasting: bool
    """Asking again in a moment is no use."""


class Committer:
    """Asks for storage commitment, and reads the answers from the ledger. Thread-safe."""

    def __init__(
        self, *, ledger: Ledger, inquiry: Inquiry, peers: Peers, slots: NodeSlots, clock: Clock, observer: Observer
    ) -> None:
        self._ledger = ledger
        self._inquiry = inquiry
        self._peers = peers
        self._slots = slots
        self._clock = clock
        self._observer = observer
        self._lock = threading.Lock()
        self._mute: dict[Node, tuple[float, Unanswered]] = {}
        self._overdue: OrderedDict[str, None] = OrderedDict()
        """Transactions that were told to be overdue."""

    def take(self, answer: CommitmentAnswer, nodes: Sequence[str]) -> bool:
        """Note an answer that came from one of these nodes. Whether it was awaited. Raises LedgerError."""
        known = self._ledger.answer_commitment(answer, nodes, self._clock.now())
        if known is None:
            self._note(nodes[0] if nodes else "", "unknown")
        elif known:
            self._note(nodes[0], "failed" if answer.failed else "committed")
        return bool(known)

    def look(
        self,
        transfer: Transfer,
        expectation: Expectation,
        source: Node | None,
        destination: Node,
        settings: CommitmentSettings,
        cancelled: threading.Event,
    ) -> Evidence | Waiting | Unanswered:
        """What the destination has committed itself to since the last move; it is asked where it was not yet.

        Raises Cancelled when cancelled, or where the claim was lost.
        """
        known = self._asked(transfer, destination)
        if not known:
            refusal = self._request(transfer, expectation.instances or frozenset(), source, destination, cancelled)
            if refusal is not None:
                return refusal
            known = self._asked(transfer, destination)
        outstanding = [one for one in known if one.answered_at is None]
        if not outstanding:
            failed = {uid: reason for one in known for uid, reason in one.failed.items()}
            committed = frozenset(uid for one in known for uid in one.committed)
            return Evidence(kind="commitment", present=committed - failed.keys(), failures=failed)
        left = (outstanding[0].requested_at + timedelta(seconds=settings.timeout) - self._clock.now()).total_seconds()
        if left <= 0:
            self._tell_overdue(destination, outstanding)
            reason = f"{destination.name} did not answer the storage commitment request in time."
            return Unanswered(reason, lasting=True)
        longest = max(_LONGEST_WAIT, settings.timeout / 4)
        wait = _WAITS[transfer.looks] if transfer.looks < len(_WAITS) else longest
        reason = f"{destination.name} took the storage commitment request and has not answered it yet."
        return Waiting(min(wait, left), reason)

    def forget(self, transfer: Transfer, destination: str) -> None:
        """Let the next look ask anew, under a transaction of its own."""
        self._ledger.request_commitment(transfer, destination, (), self._clock.now())

    def asked(self, transfer: Transfer, destination: Node) -> bool:
        """Whether the destination was asked since the last move."""
        return bool(self._asked(transfer, destination))

    def _asked(self, transfer: Transfer, destination: Node) -> list[Commitment]:
        return [one for one in self._ledger.commitments(transfer.id) if one.node == destination.name]

    # asking -------------------------------------------------------------------------------------------------------

    def _request(
        self,
        transfer: Transfer,
        instances: Collection[Instance],
        source: Node | None,
        destination: Node,
        cancelled: threading.Event,
    ) -> Unanswered | None:
        with self._lock:
            muted = self._mute.get(destination)
        if muted and time.monotonic() - muted[0] < _REMEMBER_SECONDS:
            return muted[1]
        if not instances:
            return Unanswered("No list of instances is known that could be committed.", lasting=True)
        classes, away = self._classes(transfer, instances, source, destination, cancelled)
        if len(classes) < len(instances):
            unknown = len(instances) - len(classes)
            reason = f"Of {unknown} instances nobody says the SOP class, without which they cannot be committed."
            return Unanswered(reason, lasting=not away)
        try:
            self._send(transfer, [Reference(of, uid) for uid, of in classes.items()], destination, cancelled)
        except Cancelled:
            raise
        except WireError as error:
            return self._refused(destination, error)
        return None

    def _send(
        self, transfer: Transfer, references: Iterable[Reference], destination: Node, cancelled: threading.Event
    ) -> None:
        requests = transactions(references, lambda: f"2.25.{uuid.uuid4().int}")
        uids = [request.transaction_uid for request in requests]
        if not self._ledger.request_commitment(transfer, destination.name, uids, self._clock.now()):
            raise Cancelled("Somebody else verifies this transfer.")
        try:
            with self._slots.hold(destination, Urgency.VERIFY, cancelled):
                self._peers.commit(
                    destination,
                    requests,
                    on_answer=lambda answer: self._take_at_once(answer, destination),
                    answered=lambda: not self._ledger.awaits_commitment(transfer.id),
                    cancelled=cancelled,
                )
        except BaseException:
            self._ledger.request_commitment(transfer, destination.name, (), self._clock.now())
            raise
        for _ in requests:
            self._note(destination.name, "requested")

    def _take_at_once(self, answer: CommitmentAnswer, destination: Node) -> None:
        self.take(answer, [destination.name])

    def _refused(self, destination: Node, error: WireError) -> Unanswered:
        """Why a request failed; a node that refuses is not asked again for a while."""
        if error_cause(error.cause) in _AWAY:
            return Unanswered(str(error), lasting=False)
        self._note(destination.name, "refused")
        lasting = isinstance(error, ContextRefused) or (
            isinstance(error, CommitmentRefused) and error.status in LASTING_REFUSALS
        )
        refusal = Unanswered(str(error), lasting)
        with self._lock:
            self._mute[destination] = (time.monotonic(), refusal)
        return refusal

    def _classes(
        self,
        transfer: Transfer,
        instances: Collection[Instance],
        source: Node | None,
        destination: Node,
        cancelled: threading.Event,
    ) -> tuple[dict[str, str], bool]:
        """SOP Instance UID -> SOP Class UID, and whether a node that might know more could not be asked.

        Our own receipts know them, else the source, else the destination.
        """
        intent = transfer.intent
        wanted = {one.sop_instance_uid: one.series_instance_uid for one in instances}
        received = self._ledger.received_classes(intent.study_instance_uid, intent.series_instance_uid)
        classes = {uid: received[uid] for uid in wanted if received.get(uid)}
        away = False
        for node in (source, destination):
            open_series = {series for uid, series in wanted.items() if uid not in classes}
            if node is None or not open_series:
                continue
            try:
                for series in sorted(open_series):
                    found = self._ask_classes(node, transfer, series, cancelled)
                    classes |= {uid: of for uid, of in found.items() if wanted.get(uid) == series}
            except Cancelled:
                raise
            except WireError:
                away = True
        return classes, away

    def _ask_classes(self, node: Node, transfer: Transfer, series: str, cancelled: threading.Event) -> dict[str, str]:
        keys = unique_keys(transfer.patient_id, transfer.intent.study_instance_uid, series)
        keys.elements.update(Identifier.of(SOPInstanceUID="", SOPClassUID="").elements)
        rows = self._inquiry.find(node, QueryRetrieveLevel.IMAGE, keys, Urgency.VERIFY, cancelled).identifiers
        pairs = ((row.text("SOPInstanceUID"), row.text("SOPClassUID")) for row in rows)
        return {uid: sop_class for uid, sop_class in pairs if is_uid(uid) and is_uid(sop_class)}

    # telling ------------------------------------------------------------------------------------------------------

    def _tell_overdue(self, destination: Node, outstanding: Iterable[Commitment]) -> None:
        for one in outstanding:
            with self._lock:
                told = one.transaction_uid in self._overdue
                self._overdue[one.transaction_uid] = None
                if len(self._overdue) > _REMEMBERED:
                    self._overdue.popitem(last=False)
            if not told:
                self._note(destination.name, "overdue")

    def _note(self, node: str, result: str) -> None:
        self._observer(CommitmentNoted(node=node, result=result))
