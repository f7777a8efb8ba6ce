"""Compares the files of the object store with the ledger's receipts, beside a service; changes no file and no receipt.

Each file is read to its end. The checksum of one that has none yet is kept with its receipt. None is made when an
instance comes in: that would cost a sixth of the time where it is synchronised, and more than all else where it is not.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from router.domain.receipt import Receipt
from router.domain.stored import Fault, FileSeen, Finding, Indexed, Place, fault_of
from router.ledger.ledger import SqlLedger
from router.stored_files import StoredFiles

ARRIVING = timedelta(minutes=1)
"""A file that is younger may be without its receipt: receipts come to the ledger in batches."""
_BATCH = 500
"""Checksums that are written down at once."""


class Inspected(msgspec.Struct):
    """What was looked at so far; `size` in bytes of data sets that were read."""

    studies: int = 0
    instances: int = 0
    size: int = 0
    first_read: int = 0
    """Instances whose checksum was kept for the next time."""
    compared: int = 0
    """Instances whose checksum was compared with that of the first time."""
    arriving: int = 0
    """Files that came in a moment ago and have no receipt yet."""
    faults: int = 0


class Inspector:
    """Verifies what the store holds. One thread."""

    def __init__(
        self,
        ledger: SqlLedger,
        files: StoredFiles,
        now: Callable[[], datetime],
        *,
        on_fault: Callable[[Finding], None],
        on_progress: Callable[[Inspected], None] = lambda inspected: None,
    ) -> None:
        """`on_progress` is called after each instance."""
        self._ledger = ledger
        self._files = files
        self._now = now
        self._on_fault = on_fault
        self._on_progress = on_progress
        self._store = files.name
        self._inspected = Inspected()
        self._checksums: list[tuple[Receipt, bytes]] = []

    def verify(self, only: Sequence[str] | None = None) -> Inspected:
        """All there is, or `only` these studies. Raises LedgerError."""
        for study in self._all() if only is None else only:
            self._inspected.studies += 1
            for known in self._ledger.indexed(study, self._store):
                self._known(known)
            self._unknown(study)
        self._write_down()
        return self._inspected

    def examine(self, known: Indexed) -> tuple[Fault | None, FileSeen | None]:
        """What is wrong with an instance that has a receipt, and what was found in its file. Raises LedgerError."""
        place = place_of(known.receipt)
        fault, seen = self._look(place, known)
        if fault is None:
            return None, seen
        # Something may have happened to it meanwhile: it came in anew, or left the store.
        again = self._ledger.indexed_instance(*place, self._store)
        if again == known:
            departed = self._ledger.departed(place.study_instance_uid) if fault is Fault.MISSING else None
            return (None, None) if departed is not None and departed.left_at is None else (fault, seen)
        return self._look(place, again) if again is not None else (None, None)

    def _all(self) -> Iterator[str]:
        """Every study with a receipt or a directory, once."""
        last = ""
        for study in heapq.merge(self._ledger.stored_uids(self._store), self._files.studies()):
            if study != last:
                last = study
                yield study

    def _known(self, known: Indexed) -> None:
        fault, seen = self.examine(known)
        if fault is not None:
            self._report(place_of(known.receipt), fault)
        elif seen is not None and known.checksum is not None:
            self._inspected.compared += 1
        elif seen is not None:
            self._inspected.first_read += 1
            self._checksums.append((known.receipt, seen.checksum))
            if len(self._checksums) >= _BATCH:
                self._write_down()
        self._count(seen)

    def _unknown(self, study: str) -> None:
        """The files of a study that have no receipt."""
        for series in self._files.series(study):
            places = [Place(study, series, instance) for instance in self._files.instances(study, series)]
            paths = self._ledger.receipt_paths(study, self._store)
            for place in places:
                if place.path not in paths and self._ledger.receipt(*place, self._store) is None:
                    self._without_receipt(place)

    def _without_receipt(self, place: Place) -> None:
        fault, seen = self._look(place, None)
        if fault is Fault.MISSING or self._ledger.receipt(*place, self._store) is not None:
            return  # it has left the store, or its receipt has come
        if fault is Fault.NO_RECEIPT and seen is not None and self._now() - seen.changed_at < ARRIVING:
            self._inspected.arriving += 1
        elif fault is not None:
            self._report(place, fault)
        self._count(seen)

    def _look(self, place: Place, known: Indexed | None) -> tuple[Fault | None, FileSeen | None]:
        if known is not None and known.receipt.path != place.path:
            return Fault.MISPLACED, None
        try:
            seen = self._files.look(place)
        except (FileNotFoundError, NotADirectoryError):
            return Fault.MISSING, None
        except OSError:
            return Fault.UNREADABLE, None
        return fault_of(seen, place, known), seen

    def _report(self, place: Place, fault: Fault) -> None:
        self._inspected.faults += 1
        self._on_fault(Finding(place, fault))

    def _count(self, seen: FileSeen | None) -> None:
        self._inspected.instances += 1
        self._inspected.size += seen.size if seen is not None else 0
        self._on_progress(self._inspected)

    def _write_down(self) -> None:
        self._ledger.keep_checksums(self._checksums)
        self._checksums.clear()


def place_of(receipt: Receipt) -> Place:
    """Where the file of a receipt belongs."""
    return Place(receipt.study_instance_uid, receipt.series_instance_uid, receipt.sop_instance_uid)
