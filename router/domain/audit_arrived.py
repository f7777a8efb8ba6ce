"""Which audit message tells of what arrived here: pushed instances by sender and study, retrieved ones not. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from router.domain.audit import AuditMessage, Party, counted_by_class
from router.domain.audit_messages import instances_received
from router.domain.receipt import Receipt

QUIET = timedelta(seconds=30)
"""After so long without a further instance a batch is told."""
MOST_INSTANCES = 10_000
"""Of one batch; what comes then is the next one."""
MOST_BATCHES = 500
"""That are open at once; one more has the one told that is quiet for longest."""
LATE = timedelta(seconds=10)
"""A source that has ended a retrieval may still be sending for so long."""
OLD = timedelta(days=1)
"""What is indexed so long after it came was told when it came, by the service that received it."""
_FORGET = timedelta(minutes=10)
"""Receipts are here within this time, however much comes."""

Batched = tuple[str, str]
"""Calling AE title and Study Instance UID."""


class Retrieved:
    """What is being retrieved to this router, and was until lately: its own messages tell of that."""

    def __init__(self) -> None:
        self._began = 0
        self._open: dict[int, tuple[frozenset[str], str, datetime]] = {}
        self._ended: list[tuple[frozenset[str], str, datetime, datetime]] = []

    def begin(self, titles: Collection[str], study: str, at: datetime) -> int:
        """A retrieval begins, of a node that stores under one of these AE titles; its number."""
        self._began += 1
        self._open[self._began] = (frozenset(titles), study, at)
        return self._began

    def end(self, number: int, at: datetime) -> None:
        """It has ended."""
        titles, study, began = self._open.pop(number)
        self._ended = [one for one in self._ended if at - one[3] < _FORGET]
        self._ended.append((titles, study, began, at))

    def brought(self, receipt: Receipt) -> bool:
        """Whether an instance came in answer to one of them."""
        title, study, came = receipt.calling_ae_title, receipt.study_instance_uid, receipt.received_at
        if any(study == of and title in titles and came >= at for titles, of, at in self._open.values()):
            return True
        return any(
            study == of and title in titles and began <= came <= ended + LATE
            for titles, of, began, ended in self._ended
        )


class Batch:
    """What one sender has sent of one study, so far."""

    def __init__(self, key: Batched, number: int, patient_id: str) -> None:
        self.key = key
        self.number = number
        """No other batch has it."""
        self.patient_id = patient_id
        self.instances = 0
        self.last_at: datetime
        self._classes: Counter[str] = Counter()

    def add(self, receipt: Receipt, now: datetime) -> None:
        """One more instance."""
        self.instances += 1
        self._classes[receipt.sop_class_uid] += 1
        self.last_at = now

    def message(self, own: Party, source: Party) -> AuditMessage:
        """What there is to tell."""
        return instances_received(own, source, self.key[1], self.patient_id, counted_by_class(self._classes))


class Batches:
    """The batches that are open; those that are quiet for longest come first. Bounded."""

    def __init__(self, patient_of: Callable[[Receipt], str]) -> None:
        """`patient_of` gives the Patient ID of the first instance of each."""
        self._patient_of = patient_of
        self._opened = 0
        self._batches: OrderedDict[Batched, Batch] = OrderedDict()

    def add(self, receipt: Receipt, now: datetime) -> Batch:
        """The batch that an instance went into."""
        key = (receipt.calling_ae_title, receipt.study_instance_uid)
        batch = self._batches.get(key)
        if batch is None:
            self._opened += 1
            batch = self._batches[key] = Batch(key, self._opened, self._patient_of(receipt))
        batch.add(receipt, now)
        self._batches.move_to_end(key)
        return batch

    def due(self, now: datetime) -> list[Batch]:
        """Those that are to be told now; they are closed."""
        surplus = len(self._batches) - MOST_BATCHES
        due = [
            one
            for place, one in enumerate(self._batches.values())
            if place < surplus or now - one.last_at >= QUIET or one.instances >= MOST_INSTANCES
        ]
        for one in due:
            del self._batches[one.key]
        return due

    def close(self) -> list[Batch]:
        """All of them: there will be no more."""
        batches = list(self._batches.values())
        self._batches.clear()
        return batches
