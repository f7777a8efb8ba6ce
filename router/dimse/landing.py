"""Where the one image lands that `doctor` asks a node for: a Store SCP that lets anybody in, and keeps nothing.

What comes is read to its end and dropped: no instance is written anywhere. Callers are let in only while an image is
awaited, and only that image is answered with Success.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import NamedTuple

from router.dimse.get_contexts import names
from router.dimse.services import Accepted, ObjectWriter, Rejected
from router.dimse.store_scp import ServerSettings, StoreServer
from router.domain.access import Shown
from router.domain.checkup import Caller, Landed
from router.domain.events import Event, StoreRefusal
from router.domain.receipt import Receipt
from router.errors import StoreRefused

_CONGESTED = (2, 3, 1)
"""Temporary congestion, PS3.8 table 9-21: whoever stores unasked comes again when the router itself listens."""
_OUT_OF_RESOURCES = 0xA700
_LABEL = "other"
_MAXIMUM_CALLERS = 100
_STOP_SECONDS = 5.0


class _Stored(NamedTuple):
    calling_ae_title: str
    transfer_syntax_uid: str


class Landing:
    """One image at a time: `expect`, then the request, then `wait`. Thread-safe.

    As a sink (PS3.4 annex B) it serves the Store SCP and C-GET alike.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._awaited = ""
        self._stored: _Stored | None = None
        self._others = 0
        self._callers: list[Caller] = []
        self._tls_trouble = ""
        self._last_arrival = 0.0
        self._server: StoreServer | None = None

    def open(self, settings: ServerSettings) -> None:
        """Listen. Raises ConfigurationError where the address cannot be had."""
        server = StoreServer(
            settings, self, policy=self._policy, on_receipt=lambda receipt: None, observer=self._observe
        )
        server.start()
        self._server = server

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.stop(_STOP_SECONDS)
            self._server = None

    def expect(self, sop_instance_uid: str) -> None:
        """Await this image from now on; what was seen before is forgotten."""
        with self._changed:
            self._awaited = sop_instance_uid
            self._stored, self._others, self._tls_trouble = None, 0, ""
            self._callers = []
            self._last_arrival = 0.0

    def last_arrival(self) -> float:
        """The monotonic time at which something last came for it; 0.0: nothing yet."""
        with self._changed:
            return self._last_arrival

    def wait(self, seconds: float) -> Landed:
        """What came, once it came or so many seconds are over; then nothing is awaited any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stored is not None, timeout=seconds)
            self._awaited = ""
            stored = self._stored
            called = [one.called_ae_title for one in self._callers if stored and one.calling_ae_title == stored[0]]
            return Landed(
                calling_ae_title=stored.calling_ae_title if stored is not None else "",
                called_ae_title=called[-1] if called else "",
                transfer_syntax=names([stored.transfer_syntax_uid]) if stored is not None else "",
                others=self._others,
                callers=tuple(self._callers),
                tls_trouble=self._tls_trouble,
            )

    def begin(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str
    ) -> ObjectWriter:
        """Take an instance that is awaited. Raises StoreRefused for any other."""
        with self._changed:
            if not self._awaited:
                raise StoreRefused(_OUT_OF_RESOURCES, "out-of-resources", "Nothing is awaited just now")
            if sop_instance_uid != self._awaited:
                self._others += 1
                raise StoreRefused(_OUT_OF_RESOURCES, "out-of-resources", "Only one instance was asked for")
            self._last_arrival = time.monotonic()
        return _Dropped(self, sop_class_uid, sop_instance_uid, _Stored(calling_ae_title, transfer_syntax_uid))

    def _arrived(self, stored: _Stored) -> None:
        with self._changed:
            self._stored = stored
            self._last_arrival = time.monotonic()
            self._changed.notify_all()

    def _policy(self, calling: str, called: str, address: str, shown: Shown | None) -> Accepted | Rejected:
        with self._changed:
            if not self._awaited:
                return Rejected(*_CONGESTED)
            if len(self._callers) < _MAXIMUM_CALLERS:
                self._callers.append(Caller(calling_ae_title=calling, called_ae_title=called, ip_address=address))
            return Accepted(_LABEL)

    def _observe(self, event: Event) -> None:
        if isinstance(event, StoreRefusal) and event.reason.startswith("tls"):
            with self._changed:
                self._tls_trouble = event.reason


class _Dropped:
    """An instance on its way to nowhere."""

    def __init__(self, landing: Landing, sop_class_uid: str, sop_instance_uid: str, stored: _Stored) -> None:
        self._landing = landing
        self._class = sop_class_uid
        self._instance = sop_instance_uid
        self._stored = stored
        self._size = 0

    def write(self, data: memoryview) -> None:
        """Count a part of the data set."""
        self._size += len(data)

    def commit(self) -> Receipt:
        """It came to its end."""
        self._landing._arrived(self._stored)
        return Receipt(
            study_instance_uid="",
            series_instance_uid="",
            sop_instance_uid=self._instance,
            sop_class_uid=self._class,
            transfer_syntax_uid=self._stored.transfer_syntax_uid,
            calling_ae_title=self._stored.calling_ae_title,
            size=self._size,
            path="",
            received_at=datetime.now(UTC),
        )

    def discard(self) -> None:
        """There is nothing to clean up."""
