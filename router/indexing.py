"""Finds what the object store holds but the ledger does not know, and indexes it: after a start, or a loss."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from router.domain.arriving import ArrivalDue
from router.domain.receipt import Receipt, by_clock
from router.ledger.clock import ahead
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore
from router.observe import logs

_PAUSE_SECONDS, _LONGEST_PAUSE = 1.0, 60.0
"""Between two looks for files without a receipt: usually, and at most, where the ledger takes none."""
_ORPHAN_SECONDS = 5.0
"""After a start: what receivers of a service that was killed still acknowledged, before they saw it, is found then."""
_BATCH = 500


class Indexer:
    """Indexes files without a receipt, on a thread of its own. `missed` says that there may be some; thread-safe."""

    def __init__(
        self,
        ledger: SqlLedger,
        store: ObjectStore,
        on_found: Callable[[list[Receipt]], None] = lambda receipts: None,
        dues: Callable[[list[Receipt]], list[ArrivalDue]] = lambda receipts: [],
    ) -> None:
        """`on_found` is told of what was indexed; `dues` says who waits for it, which is noted at once with it."""
        self._ledger = ledger
        self._store = store
        self._on_found = on_found
        self._dues = dues
        self._missed = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Index what there is, then watch. Raises LedgerError."""
        self._index()
        self._thread = threading.Thread(target=self._watch, name="index", daemon=True)
        self._thread.start()

    def missed(self) -> None:
        """There may be files that nobody has reported."""
        self._missed.set()

    def stop(self, seconds: float) -> None:
        """End within so many seconds."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _index(self) -> None:
        found = 0
        receipts = self._store.recover(self._known)
        while batch := list(itertools.islice(receipts, _BATCH)):
            batch = by_clock(batch, ahead(self._ledger.clock().now))
            self._ledger.add_receipts(batch, self._dues(batch))
            self._on_found(batch)
            found += len(batch)
        if found:
            logs.logger().info("instances without a receipt were found in the store and indexed", count=found)

    def _known(self, study: str) -> set[str]:
        """The paths of a study's receipts of this store. Receipts that name no store become its own by their files."""
        known = self._ledger.receipt_paths(study, self._store.name)
        nameless = self._ledger.without_store(study) if known else set()
        if nameless:
            held = self._store.held(study)
            its = {path for path in nameless if path.rpartition("/")[2].removesuffix(".dcm") in held}
            self._ledger.adopt_receipts(study, its, self._store.name)
        return known

    def _watch(self) -> None:
        pause = _PAUSE_SECONDS
        orphans_at = time.monotonic() + _ORPHAN_SECONDS
        while not self._stopping.wait(pause):
            if time.monotonic() > orphans_at:
                orphans_at = float("inf")
                self._missed.set()
            if self._missed.is_set():
                self._missed.clear()
                try:
                    self._index()
                    pause = _PAUSE_SECONDS
                except Exception as error:  # noqa: BLE001  whatever it is, what was missed is looked for again
                    logs.trouble("receipts", error)
                    self._missed.set()
                    pause = min(2 * pause, _LONGEST_PAUSE)
