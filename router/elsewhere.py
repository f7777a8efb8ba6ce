"""What the stores of other replicas hold: whether it counts, which replica has it, and how it is got from there."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from router.domain.exchange import StoredObject
from router.domain.overview import ServiceInfo
from router.domain.receipt import Receipt
from router.domain.rule import RouterSettings
from router.domain.stores import StoreSeen, chosen, counting
from router.engine.arrivals import Indexed
from router.engine.ports import Clock
from router.errors import LedgerError, StoreAway, StoreBusy, StoreError
from router.fetching import Fetcher, Holder
from router.ledger.ledger import SqlLedger
from router.object_files import head_of
from router.objects import ObjectStore

LIVE_SECONDS = 15.0
"""A service that was seen so lately is asked for what it has."""
_KNOWN_SECONDS = 2.0
"""How long what the ledger says of services and stores is taken to hold."""
_FAILED_SECONDS = 5.0
"""How long a replica that was not to be had is not asked again."""
_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})


class _Known(NamedTuple):
    stores: dict[str, StoreSeen]
    counts: frozenset[str]
    holders: dict[str, list[Holder]]
    accompanied: bool
    at: float


class Elsewhere:
    """Thread-safe. Raises LedgerError where that is not said otherwise."""

    def __init__(self, store: ObjectStore, ledger: SqlLedger, clock: Clock, fetcher: Fetcher) -> None:
        self.store = store
        self._ledger = ledger
        self._clock = clock
        self._fetcher = fetcher
        self._known: _Known | None = None
        self._failed: dict[str, tuple[float, str]] = {}
        """Name of a store -> when it was not to be had, and why."""
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The time, aware, UTC: that of all services of the ledger."""
        return self._clock.now()

    def indexed(self, study_instance_uid: str) -> Indexed | None:
        """What the ledger has of a study, of all services; None where this one is alone."""
        if not self._look().accompanied:
            return None
        return Indexed(*self._ledger.arrived(study_instance_uid, self.own))

    @property
    def own(self) -> str:
        """The name of the own store."""
        return self.store.name

    def held(self, study_instance_uid: str) -> set[str]:
        """SOP Instance UIDs of a study that are there: files of the own store, receipts of others that count."""
        found = self.store.held(study_instance_uid)
        others = self._look().counts
        return found | self._ledger.held_in(study_instance_uid, others) if others else found

    def chosen(self, receipts: Iterable[Receipt]) -> list[Receipt]:
        """One copy of each instance: the own one where there is one, else one that can be had."""
        return chosen(receipts, self.own, self._look().holders)

    def away(self, objects: Iterable[StoredObject]) -> tuple[frozenset[str], str]:
        """SOP Instance UIDs of what cannot be had now, and why, as a sentence; empty where all can be had."""
        reasons: dict[str, str] = {}
        found = set()
        for one in objects:
            if one.store in ("", self.own):
                continue
            if one.store not in reasons:
                reasons[one.store] = self._why_away(one.store)
            if reasons[one.store]:
                found.add(one.sop_instance_uid)
        return frozenset(found), next(filter(None, reasons.values()), "")

    def open(self, stored: StoredObject) -> tuple[int, int]:
        """A descriptor positioned at the data set of an instance of another store, and the data set's size.

        Raises StoreAway where it cannot be had now, StoreError where it is damaged or gone.
        """
        try:
            return self._open(stored)
        except LedgerError as error:  # who has it cannot be looked up
            raise StoreAway(str(error)) from error

    def _open(self, stored: StoredObject) -> tuple[int, int]:
        why = self._why_away(stored.store)
        if why:
            raise StoreAway(why)
        known = self._ledger.indexed_instance(*_place(stored), stored.store)
        descriptor = self._from_any(stored, known.checksum if known is not None else None)
        head = head_of(descriptor)
        size = os.fstat(descriptor).st_size - (head[1] if head is not None else 0)
        if head is None or head[0].sop_instance_uid != stored.sop_instance_uid or (stored.size and size != stored.size):
            os.close(descriptor)
            raise StoreError("Another replica gave something else than it received.")
        os.lseek(descriptor, head[1], os.SEEK_SET)
        return descriptor, size

    @contextlib.contextmanager
    def reading(self, stored: StoredObject) -> Iterator[io.RawIOBase]:
        """An instance of another store as a file, fetched as it is read. Raises StoreAway, StoreError."""
        why = self._why_away(stored.store)
        holders = self.holders(stored.store)
        if why or not holders:
            raise StoreAway(why)
        with self._fetcher.reading(holders[0], stored) as file:
            yield file

    def holders(self, store: str) -> Sequence[Holder]:
        """The replicas that run now and have this store."""
        return self._look().holders.get(store, [])

    def note_failed(self, store: str, why: str) -> None:
        """Nobody gives what this store holds now."""
        with self._lock:
            self._failed[store] = time.monotonic(), why
            while len(self._failed) > 100:
                del self._failed[next(iter(self._failed))]

    # ------------------------------------------------------------------------------------------------------------------

    def _from_any(self, stored: StoredObject, checksum: bytes | None) -> int:
        failure: StoreAway | None = None
        for holder in self.holders(stored.store):
            try:
                return self._fetcher.fetch(holder, stored, checksum)
            except StoreAway as error:
                failure = error
        why = str(failure) if failure is not None else self._nobody(stored.store)
        if not isinstance(failure, StoreBusy):  # it lives: only this instance had no turn
            self.note_failed(stored.store, why)
        raise StoreAway(why)

    def _why_away(self, store: str) -> str:
        if not self.holders(store):
            return self._nobody(store)
        with self._lock:
            at, why = self._failed.get(store, (float("-inf"), ""))
        return why if time.monotonic() - at < _FAILED_SECONDS else ""

    def _nobody(self, store: str) -> str:
        seen = self._look().stores.get(store)
        if seen is None:
            return (
                f"Instances of it are in the object store {store}, which no replica has any more: give a replica its "
                f"directory back, or `dicom-router store forget {store}`."
            )
        return (
            f"Instances of it are in the store of the replica {seen.replica}, which does not run (last seen "
            f"{seen.seen_at:%Y-%m-%d %H:%M} UTC); it goes on when that is back."
        )

    def _look(self) -> _Known:
        with self._lock:
            known = self._known
        if known is not None and time.monotonic() - known.at < _KNOWN_SECONDS:
            return known
        now = self._clock.now()
        stores = self._ledger.stores()
        services = self._ledger.services(now - timedelta(seconds=LIVE_SECONDS))
        known = _Known(
            {one.name: one for one in stores},
            counting(stores, self.own, now),
            _holders(services, self.own),
            len(services) > 1,
            time.monotonic(),
        )
        with self._lock:
            self._known = known
        return known


def elsewhere(store: ObjectStore, ledger: SqlLedger, clock: Clock, settings: Callable[[], RouterSettings]) -> Elsewhere:
    """For this store."""
    return Elsewhere(store, ledger, clock, Fetcher(store.incoming, settings, store.check_space))


def _holders(services: Collection[ServiceInfo], own: str) -> dict[str, list[Holder]]:
    found: dict[str, list[Holder]] = {}
    for one in services:
        if one.store and one.store != own and one.address:
            found.setdefault(one.store, []).append(Holder(one.replica or one.owner, _callable(one)))
    return found


def _callable(service: ServiceInfo) -> str:
    """Where it is called: a service that listens on all addresses by the name of its machine."""
    scheme, _, rest = service.address.rpartition("://")
    host, _, port = rest.rpartition(":")
    if host.strip("[]") in _EVERYWHERE:
        host = service.owner.rpartition(":")[0]
    return f"{scheme}://{host}:{port}" if scheme else f"{host}:{port}"


def _place(stored: StoredObject) -> tuple[str, str, str]:
    study, series, _ = stored.path.split("/")
    return study, series, stored.sop_instance_uid
