"""The object store as the source of what is passed on: what a transfer carries, its files, some of them decompressed.

Decompressed files lie under STORE/.forward, each locked while this process lives, so that what a process that was
killed has left there is told from what another one is sending, and removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from router.decompression import Decompressor
from router.domain.exchange import StoredObject
from router.domain.forward import Syntax
from router.domain.receipt import Receipt
from router.domain.rule import RuleSet
from router.domain.store_outcome import InstanceFate
from router.domain.transfer import Transfer
from router.elsewhere import Elsewhere
from router.errors import StoreError
from router.ledger.ledger import SqlLedger
from router.object_places import DIRECTORY_FLAGS
from router.object_temporary import begun_by, remove_leftovers
from router.objects import ObjectStore

MOST_NOTED = 1_000
"""Instances of a transfer that are named with the reason why the destination did not take them."""

UIDS: dict[Syntax, str] = {Syntax.EXPLICIT: "1.2.840.10008.1.2.1", Syntax.IMPLICIT: "1.2.840.10008.1.2"}
"""What compressed instances are sent in."""

_PLACE = ".forward"
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StoreShelf:
    """Implements `engine.forwarder.Shelf`. Thread-safe, and safe beside other processes on the same store."""

    def __init__(
        self,
        store: ObjectStore,
        ledger: SqlLedger,
        rules: Callable[[], RuleSet],
        decompressor: Decompressor,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Removes what a process that was killed has left. Raises StoreError where the directory cannot be used.

        `elsewhere` has what other replicas hold; None: there is no other store.
        """
        self._store = store
        self._ledger = ledger
        self._rules = rules
        self._decompressor = decompressor
        self._elsewhere = elsewhere
        self._token = begun_by()
        self._numbers = itertools.count()
        self._held: dict[str, int] = {}
        """Path of a decompressed file -> the descriptor that holds its lock."""
        self._lock = threading.Lock()
        try:
            (store.root / _PLACE).mkdir(mode=0o700, exist_ok=True)
            self._directory = os.open(store.root / _PLACE, DIRECTORY_FLAGS)
            remove_leftovers(self._directory)
        except OSError as error:
            raise StoreError(
                f"The object store {store.root} cannot be used: {error.strerror}; check router.store, its permissions."
            ) from error

    def close(self) -> None:
        """Remove the decompressed files that are left; nothing may be decompressed afterwards."""
        with self._lock:
            paths = list(self._held)
        for path in paths:
            self._remove(path)
        self._decompressor.close()
        os.close(self._directory)

    def wanted(self, transfer: Transfer) -> Sequence[Receipt]:
        """What was decided that the transfer is to carry, as far as it is still here. Raises LedgerError."""
        expected = self._ledger.expected_instances(transfer.id)
        if not expected:
            return []
        wanted = set(expected)
        callers, intent = self._rules().callers, transfer.intent
        receipts = self._ledger.receipts_of(intent.study_instance_uid, intent.series_instance_uid)
        if self._elsewhere is not None:
            receipts = self._elsewhere.chosen(receipts)
        return [
            one
            for one in receipts
            if (one.series_instance_uid, one.sop_instance_uid) in wanted
            and callers.get(one.calling_ae_title, "") != intent.destination
        ]

    def open(self, stored: StoredObject) -> tuple[int, int]:
        """A descriptor positioned at the data set, and the data set's size. Raises StoreError, OSError, LedgerError.

        A file that has lost its end is not sent: there are nodes that would keep what came of it. Raises StoreAway
        where it is in the store of another replica, and cannot be had now.
        """
        if self._is_elsewhere(stored):
            assert self._elsewhere is not None
            return self._elsewhere.open(stored)
        descriptor, size = self._store.open(stored)
        if size < stored.size:
            os.close(descriptor)
            raise StoreError(f"An instance of the object store {self._store.root} has lost its end.")
        return descriptor, size

    def away(self, objects: Sequence[StoredObject]) -> tuple[frozenset[str], str]:
        """SOP Instance UIDs of those that cannot be had now, and why, as a sentence. Raises LedgerError."""
        return self._elsewhere.away(objects) if self._elsewhere is not None else (frozenset(), "")

    def decompressed(self, stored: StoredObject, syntax: Syntax) -> StoredObject | None:
        """The same instance in a temporary file, in the transfer syntax that is asked for; None where that fails.

        Raises StoreError where it cannot be tried now: there is no room, no process, or another store is away.
        """
        name = f"{self._token}-{next(self._numbers)}.part"
        path = f"{_PLACE}/{name}"
        try:
            self._store.check_space()
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=self._directory)
        except OSError as error:
            raise StoreError(f"No temporary file can be made in the store: {error.strerror}.") from error
        with self._lock:
            self._held[path] = descriptor
        root = Path(self._store.root)
        done = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._file_of(stored, root) as file:
                done = self._decompressor.run(file, root / path, UIDS[syntax])
            # Else it was taken for a leftover in the moment before it was locked.
            done = done and os.fstat(descriptor).st_nlink > 0
        except OSError:
            pass
        finally:
            if not done:
                self._remove(path)
        if not done:
            return None
        return msgspec.structs.replace(stored, path=path, transfer_syntax_uid=UIDS[syntax], size=0, store="")

    def release(self, stored: StoredObject) -> None:
        """A temporary file is not needed any more."""
        self._remove(stored.path)

    def note(self, transfer: Transfer, fates: Sequence[InstanceFate]) -> None:
        """Remember why the destination did not take which instances, `MOST_NOTED` at most. Raises LedgerError."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for fate in [one for one in fates if one.words][:MOST_NOTED]:
            reasons[fate.words].append(fate.sop_instance_uid)
        self._ledger.set_refused(transfer, reasons)

    def _is_elsewhere(self, stored: StoredObject) -> bool:
        return self._elsewhere is not None and stored.store not in ("", self._elsewhere.own)

    @contextlib.contextmanager
    def _file_of(self, stored: StoredObject, root: Path) -> Iterator[Path]:
        """The file of an instance; one of another store as long as this lasts. Raises what `open` does."""
        if not self._is_elsewhere(stored):
            yield root / stored.path
            return
        descriptor, _size = self.open(stored)
        try:
            yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")  # it has no name of its own
        finally:
            os.close(descriptor)

    def _remove(self, path: str) -> None:
        with self._lock:
            descriptor = self._held.pop(path, None)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.unlink(path.removeprefix(f"{_PLACE}/"), dir_fd=self._directory)
            os.close(descriptor)
