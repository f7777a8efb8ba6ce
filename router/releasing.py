"""Takes an object out of the quarantine: into the store, as an instance like any other that came in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from router.domain.arriving import dues
from router.domain.header import Header, MalformedHeader, scan
from router.domain.part10 import FileMeta
from router.domain.quarantine import Quarantined
from router.domain.receipt import Receipt, by_clock
from router.domain.rule import RuleSet
from router.engine.arrival import ArrivalTrigger
from router.errors import NotPossible, StoreError, StoreRefused
from router.ledger.clock import ahead
from router.ledger.ledger import SqlLedger
from router.object_files import head_of
from router.object_headers import of_stored
from router.object_places import FILE_FLAGS
from router.objects import HEADER_LIMIT, ObjectStore
from router.quarantine import Quarantine

_CHUNK = 1 << 20
_WHY_NOT = {
    "unparseable": "its data set is cut off, or cannot be decoded",
    "missing-uid": "its data set lacks the Study, Series or SOP Instance UID",
    "invalid-uid": "a UID in its data set is not valid",
    "conflict": "the store holds another version of the instance, and nothing is overwritten",
    "out-of-space": "the disk of the store has too little free space (router.minimum_free)",
}


class Releaser:
    """Releases objects one by one. `index` gives a receipt to the ledger, and to the rules that wait for arrivals."""

    def __init__(self, quarantine: Quarantine, store: ObjectStore, index: Callable[[Receipt], None]) -> None:
        self._quarantine = quarantine
        self._store = store
        self._index = index

    def release(self, number: int) -> Receipt:
        """Store an object under the UIDs that its data set has, and take it out of the quarantine.

        It counts as stored by whoever sent it, now. Where the ledger cannot be written it stays in the quarantine, and
        can be released again. Raises NotThere, NotPossible with the reason, StoreError, LedgerError.
        """
        path = self._quarantine.file(number)
        with _opened(path, number) as descriptor:
            meta, header, offset = contents_of(descriptor)
            if meta is None or header is None:
                raise _not_possible(number, "unparseable")
            receipt = self._stored(descriptor, offset, meta, header, number)
        self._index(receipt)
        self._quarantine.remove(number)
        return receipt

    def _stored(self, descriptor: int, offset: int, meta: FileMeta, header: Header, number: int) -> Receipt:
        if not header.sop_instance_uid:
            raise _not_possible(number, "missing-uid")
        try:
            writer = self._store.begin(
                # What the data set says of itself counts: what the request said may be why it is in quarantine.
                sop_class_uid=header.sop_class_uid or meta.sop_class_uid,
                sop_instance_uid=header.sop_instance_uid,
                transfer_syntax_uid=meta.transfer_syntax_uid,
                calling_ae_title=meta.calling_ae_title,
            )
            try:
                while chunk := os.pread(descriptor, _CHUNK, offset):
                    writer.write(memoryview(chunk))
                    offset += len(chunk)
                return writer.commit()
            finally:
                writer.discard()
        except StoreRefused as refusal:
            raise _not_possible(number, refusal.reason) from None
        except OSError as error:
            raise StoreError(f"Object {number} of the quarantine cannot be read: {error.strerror}.") from None


def look(path: Path, one: Quarantined) -> tuple[FileMeta | None, Header | None]:
    """What an object in quarantine says of itself, as far as it can be read. Raises StoreError."""
    with _opened(path, one.number) as descriptor:
        meta, header, _offset = contents_of(descriptor)
        return meta, header


def contents_of(descriptor: int) -> tuple[FileMeta | None, Header | None, int]:
    """Head, UIDs and where the data set begins; None for what cannot be read."""
    head = head_of(descriptor)
    if head is None:
        return None, None, 0
    meta, offset = head
    first = os.pread(descriptor, HEADER_LIMIT, offset)
    try:
        return meta, scan(first, meta.transfer_syntax_uid, complete=len(first) < HEADER_LIMIT), offset
    except MalformedHeader:
        return meta, None, offset


@contextmanager
def releaser(rules: RuleSet, ledger: SqlLedger) -> Iterator[Releaser]:
    """What releases into the configured store, beside a service that may run. Raises StoreError."""
    router = rules.router
    clock = ledger.clock()
    store = ObjectStore(router.store, durability=router.durability, minimum_free=router.minimum_free)
    trigger = ArrivalTrigger(
        rules=lambda: rules,
        ledger=ledger,
        stored=of_stored(router.store, lambda study: ledger.receipt_paths(study, store.name)),
        clock=clock,
        observer=lambda event: None,
    )

    def index(receipt: Receipt) -> None:
        batch = by_clock([receipt], ahead(clock.now))
        ledger.add_receipts(batch, dues(batch, rules))
        trigger.note(batch)

    try:
        yield Releaser(Quarantine(store.root, router.quarantine), store, index)
    finally:
        store.close()


@contextmanager
def _opened(path: Path, number: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, FILE_FLAGS)
    except OSError as error:
        raise StoreError(f"Object {number} of the quarantine cannot be read: {error.strerror}.") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _not_possible(number: int, reason: str) -> NotPossible:
    why = _WHY_NOT.get(reason, f"the store refuses it ({reason})")
    file = f"its file is named by: dicom-router quarantine show {number}"
    return NotPossible(f"Object {number} cannot be released: {why}; {file}.")
