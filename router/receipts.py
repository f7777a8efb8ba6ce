"""Receipts of what comes in on this process's own associations (C-GET): taken one by one, handed on in batches."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from router.domain.receipt import Receipt
from router.errors import StoreRefused

_QUEUE = 20_000
_BATCH = 500
_GATHER_SECONDS = 0.01
"""Between two batches: a transaction of the ledger for each instance would cost more than receiving it."""
_PATIENCE = 30.0
"""Seconds a sender waits for room in the queue."""
_OUT_OF_RESOURCES = 0xA700


class ReceiptBatches:
    """Thread-safe. `on_receipts` is called on one thread of its own, with what came in the order in which it came."""

    def __init__(
        self, on_receipts: Callable[[list[Receipt]], None], trouble: Callable[[str, BaseException], None]
    ) -> None:
        self._on_receipts = on_receipts
        self._trouble = trouble
        self._queue: queue.Queue[Receipt | None] = queue.Queue(_QUEUE)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def put(self, receipt: Receipt) -> None:
        """Take one, before its sender gets a success. Raises StoreRefused (A700) where none can be taken now."""
        with self._lock:
            if self._stopped:
                raise StoreRefused(_OUT_OF_RESOURCES, "out-of-resources", "The router is stopping")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="receipts", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system has no thread left
                    raise StoreRefused(_OUT_OF_RESOURCES, "out-of-resources", "No thread is left") from None
                self._thread = thread
        try:
            self._queue.put(receipt, timeout=_PATIENCE)
        except queue.Full:
            raise StoreRefused(_OUT_OF_RESOURCES, "out-of-resources", "The engine takes no receipts") from None

    def stop(self, seconds: float) -> None:
        """Take no more, and hand on what was taken; what is left after `seconds` is found again from the files."""
        with self._lock:
            self._stopped = True
            thread = self._thread
        if thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=seconds)
            thread.join(seconds)

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            time.sleep(_GATHER_SECONDS)
            with contextlib.suppress(queue.Empty):
                while len(batch) < _BATCH:
                    batch.append(self._queue.get_nowait())
            receipts = [one for one in batch if one is not None]
            if receipts:
                try:
                    self._on_receipts(receipts)
                except Exception as error:  # noqa: BLE001 - the thread must live on; the files are there
                    self._trouble("receipts", error)
            if None in batch:
                return
