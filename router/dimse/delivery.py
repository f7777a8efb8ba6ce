"""Instances of any number to a node: over as many associations as their contexts need, each with an outcome."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from router.dimse.association import Association
from router.dimse.pool import Pool
from router.dimse.store_contexts import Portion, batches, portions
from router.dimse.store_scu import Sender, Unreadable, Work
from router.domain.dicom import is_uid
from router.domain.exchange import Standing, StoredObject, StoreOutcome, StoreResult
from router.domain.rule import Node
from router.errors import AssociationAborted, Cancelled, ConnectionLost, WireError


class Delivery:
    """One request to store. After its first failure on the wire nothing more is sent: the rest is `not sent`."""

    def __init__(self, pool: Pool, node: Node, work: Work) -> None:
        self._pool = pool
        self._node = node
        self._work = work._replace(report=self._report)
        self._on_outcome = work.report
        self._association: Association | None = None
        self._pooled = False
        self._counts = dict.fromkeys(Standing, 0)
        self.failure: WireError | None = None
        """What ended it before its end."""

    def run(self, objects: Iterable[StoredObject]) -> StoreResult:
        """Send all. Raises only what `objects` and the callbacks raise; the association is then aborted."""
        try:
            for batch in batches(objects):
                for portion in portions([stored for stored in batch if self._sendable(stored)]):
                    self._deliver(portion)
        except BaseException:
            if self._association is not None:
                self._pool.discard(self._node, self._association, Cancelled())
            raise
        self._give_back()
        counts = {standing: count for standing, count in self._counts.items() if count}
        if self.failure is None:
            return StoreResult(counts=counts)
        return StoreResult(counts=counts, cause=self.failure.cause, reason=str(self.failure))

    def _report(self, outcome: StoreOutcome) -> None:
        self._counts[outcome.standing] += 1
        self._on_outcome(outcome)

    def _sendable(self, stored: StoredObject) -> bool:
        """What is no UID cannot be proposed."""
        sendable = is_uid(stored.sop_class_uid) and is_uid(stored.transfer_syntax_uid)
        if not sendable:
            self._report(StoreOutcome(stored=stored, standing=Standing.UNREADABLE, cause="invalid-uid"))
        return sendable

    def _deliver(self, portion: Portion) -> None:
        queue = deque(portion.objects)
        while queue and self.failure is None:
            association = self._associate(portion)
            if association is None:
                break
            before = association.received
            sender = Sender(association, self._work)
            try:
                sender.run(queue)
            except Unreadable:
                self._end(None)
                self._give_up(sender, Unreadable.cause)
            except WireError as failure:
                # The peer may have closed an idle association in the moment we used it; storing twice does no harm.
                stale = self._pooled and association.received == before
                self._end(failure)
                if stale and isinstance(failure, ConnectionLost | AssociationAborted):
                    queue.extendleft(reversed([stored for stored, _ in sender.outstanding.values()]))
                    continue
                self.failure = failure
                self._give_up(sender, failure.cause)
        if self.failure is not None:
            for stored in queue:
                self._report(StoreOutcome(stored=stored, standing=Standing.NOT_SENT, cause=self.failure.cause))

    def _give_up(self, sender: Sender, cause: str) -> None:
        for stored, _ in sender.outstanding.values():
            self._report(StoreOutcome(stored=stored, standing=Standing.UNCONFIRMED, cause=cause))

    # associations -----------------------------------------------------------------------------------------------

    def _associate(self, portion: Portion) -> Association | None:
        """One that was offered the portion's contexts: that in hand, an idle one, a new one; None after a failure."""
        offers = portion.offers
        association = self._association
        if association is not None and offers <= association.offered.keys():
            return association
        self._give_back()
        try:
            if self._work.cancelled.is_set():
                raise Cancelled("The C-STORE was cancelled.")
            found = None if self._pooled else self._pool.take(self._node, offers)
            self._pooled = found is not None
            self._association = found or self._pool.open(
                self._node, portion.contexts, operations=self._work.settings.operations
            )
        except WireError as failure:
            self.failure = failure
        return self._association

    def _give_back(self) -> None:
        if self._association is not None:
            self._pool.give_back(self._node, self._association)
            self._association, self._pooled = None, False

    def _end(self, failure: WireError | None) -> None:
        """After an exception: keep the association if it is in step, else let it go."""
        association, self._association = self._association, None
        if association is None:
            return
        if association.established:
            self._pool.give_back(self._node, association)
        else:
            self._pool.discard(self._node, association, failure or Cancelled())
