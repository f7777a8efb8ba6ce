"""Tells the audit repository: makes syslog messages of what is to be audited, keeps them, and has them sent.

Only what cannot be kept is lost: a message is a file before the work that it tells of goes on.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial

from router.dimse.syslog import TIMEOUT, Carrier
from router.domain.audit import AuditMessage, Party
from router.domain.audit_arrived import Batch, Batches
from router.domain.audit_messages import alert_of, application_activity, recording_gap, refusal_outcome
from router.domain.audit_xml import Origin, is_whole, syslog_of
from router.domain.events import ConfigurationLoaded, Event, StoreRefusal
from router.domain.events_people import DROPPED, FAILED, SENT, AuditSent, AuditWaiting, CallerRefused
from router.domain.receipt import Receipt
from router.errors import ConnectionFailed, RouterError
from router.observe import logs
from router.observe.audit_spool import Spool

_BATCH, _BATCH_BYTES = 100, 256 << 10
_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds after the first, second, ... attempt in vain."""
_LOOK_SECONDS = 5.0
"""How often another process's messages are looked for."""
_STOP_SECONDS = 5.0
"""What waits when the service stops may be sent for so long; the rest is sent after the next start."""


class Audit:
    """Takes audit messages, and events that are alerts; never raises. Thread-safe.

    `observer` is told what becomes of them, `now` gives the time (aware). `sender` says who has an AE title,
    `patient_of` whose an instance is that has arrived.
    """

    def __init__(
        self,
        *,
        origin: Origin,
        spool: Spool,
        carrier: Carrier,
        now: Callable[[], datetime],
        observer: Callable[[Event], None],
        sender: Callable[[str], Party],
        patient_of: Callable[[Receipt], str],
    ) -> None:
        self.own = origin.own
        self._origin = origin
        self._spool = spool
        self._carrier = carrier
        self._now = now
        self._observer = observer
        self._sender = sender
        self._batches = Batches(patient_of)
        self._batching = threading.Lock()
        self._refusals = logs.Repeats()
        self._early: list[Event] | None = []
        """What happened before the start, of which nobody is told before the start; None: it has started."""
        self._lost = 0
        """Messages that are gone, and of which the repository was not told yet."""
        self._counting = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._ends_at = float("inf")
        self._thread: threading.Thread | None = None
        self._waiting = -1

    # what is to be told -----------------------------------------------------------------------------------------------

    def record(self, message: AuditMessage) -> None:
        """Keep a message; it is sent soon."""
        self._kept(lambda: self._spool.put(syslog_of(message, self._origin, self._now())))

    def _kept(self, write: Callable[[], int]) -> None:
        """Have a message written that is to be sent; `write` says how many others had to go for it."""
        try:
            gone = write()
        except OSError as error:
            self._drop(1, f"the buffer cannot be written to ({error.strerror or 'I/O error'})")
        except Exception as error:  # noqa: BLE001  a defect of ours must not cost the work that is audited
            logs.trouble("audit", error)
            self._drop(1, "it could not be written")
        else:
            if gone:
                self._drop(gone, "the buffer is full")
            self._wake.set()

    def arrived(self, receipts: Iterable[Receipt]) -> None:
        """Take what came in unasked; it is told by sender and study, once no more comes."""
        with self._batching:
            now = self._now()
            touched = {batch.number: batch for batch in (self._batches.add(one, now) for one in receipts)}
            for batch in touched.values():
                self._draft(batch)
            self._finish(self._batches.due(now))

    def _draft(self, batch: Batch) -> None:
        """Write what would be told now: a killed process leaves it to the next one."""
        try:
            message = batch.message(self.own, self._sender(batch.key[0]))
            self._spool.draft(batch.number, syslog_of(message, self._origin, self._now()))
        except Exception as error:  # noqa: BLE001  as above
            _tell(error)

    def _finish(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._kept(partial(self._spool.finish, batch.number))

    def __call__(self, event: Event) -> None:
        """Take an event; one that is an alert becomes a message."""
        if self._early is not None and isinstance(event, ConfigurationLoaded):
            self._early.append(event)
            return
        try:
            times = 1
            if isinstance(event, StoreRefusal):  # a stranger must not push out of the buffer what tells of him
                times = self._refusals.times((event.reason, _place(event.ip_address)))
            elif isinstance(event, CallerRefused):
                times = self._refusals.times((refusal_outcome(event), _place(event.ip_address)))
            message = alert_of(self.own, event, times) if times else None
        except Exception as error:  # noqa: BLE001  as above
            logs.trouble("audit", error)
            return
        if message is not None:
            self.record(message)

    def _drop(self, count: int, why: str) -> None:
        with self._counting:
            self._lost += count
        self._observer(AuditSent(result=DROPPED, count=count, message=why))

    # life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The service starts: tell of it, and begin to send."""
        self._kept(self._spool.finish_left)
        self.record(application_activity(self.own, started=True))
        early, self._early = self._early or [], None
        for event in early:
            self(event)
        self._thread = threading.Thread(target=self._sending, name="audit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The service stops: tell of it, and send for a while what waits."""
        if self._thread is None:
            return
        with self._batching:
            self._finish(self._batches.close())
        self.record(application_activity(self.own, started=False))
        self._ends_at = time.monotonic() + _STOP_SECONDS
        self._stopping.set()
        self._wake.set()
        self._thread.join(_STOP_SECONDS + 2 * TIMEOUT)
        self._spool.release()

    def _sending(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            ending = self._stopping.is_set()  # looked at first: what was told before the stop is sent by this round
            try:
                if self._spool.lock():
                    self._send_all()
                failures = 0
            except ConnectionFailed as error:
                self._observer(AuditSent(result=FAILED, message=str(error)))
                failures += 1
            except Exception as error:  # noqa: BLE001  a defect of ours must not end the sending
                _tell(error)
                failures += 1
            self._keep()
            if ending:
                break
            if failures:  # what comes in meanwhile does not make it better
                self._pause(_PAUSES[min(failures, len(_PAUSES)) - 1])
            else:
                self._wake.wait(_LOOK_SECONDS)
        self._carrier.close()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopping.wait(min(left, _LOOK_SECONDS)):
            self._keep()

    def _send_all(self) -> None:
        """Send until nothing waits. Raises ConnectionFailed, OSError."""
        while batch := self._spool.oldest(_BATCH, _BATCH_BYTES):
            whole = [message for _, message in batch if is_whole(message)]
            if whole:
                self._carrier.send(whole)
            self._spool.remove(name for name, _ in batch)
            if whole:
                self._observer(AuditSent(result=SENT, count=len(whole)))
            if torn := len(batch) - len(whole):  # no server takes them, and with them nothing that follows
                self._drop(torn, "it was damaged in the buffer (by a power cut?)")
            self._show_waiting()
            self._tell_of_gap()
            if time.monotonic() > self._ends_at:
                return

    def _tell_of_gap(self) -> None:
        """The repository can be reached again: it is told that something is missing."""
        with self._counting:
            lost, self._lost = self._lost, 0
        if lost:
            self.record(recording_gap(self.own, lost))

    def _keep(self) -> None:
        """See what waits, and have it survive a power cut."""
        with self._batching:
            self._finish(self._batches.due(self._now()))
        try:
            self._spool.look()
            self._spool.settle()
        except OSError as error:
            _tell(error)
        self._show_waiting()

    def _show_waiting(self) -> None:
        count = len(self._spool)
        if count != self._waiting:
            self._waiting = count
            self._observer(AuditWaiting(count=count))


def _place(address: str) -> str:
    """An address without what its owner may choose: he has 2^64 of IPv6, and would be told of as often."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed.packed, 64), strict=False))


def _tell(error: Exception) -> None:
    if isinstance(error, OSError):
        error = RouterError(f"The buffer of audit messages cannot be used ({error.strerror or 'I/O error'}).")
    logs.trouble("audit", error)
