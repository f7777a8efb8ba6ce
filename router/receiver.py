"""A Store SCP in a process of its own: what it does there. `receiving` starts it and hears what it reports.

Only what it takes to receive may be imported here: a receiver knows `dimse` and `objects`, no ledger and no engine.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from router.admitting import GuardedStore, Sender
from router.dimse.held import Held
from router.dimse.services import Accepted, Rejected
from router.dimse.store_scp import StoreServer
from router.domain.access import Shown, refusal
from router.domain.commitment import CommitmentAnswer
from router.domain.events import AssociationsActive, Event
from router.domain.quarantine import REFUSE
from router.domain.receipt import Receipt
from router.errors import ConfigurationError, RouterError, StoreRefused
from router.holding_back import ignore
from router.objects import ObjectStore
from router.observe.silence import silence
from router.quarantine import Quarantine
from router.questions import Question, Questions, Reply
from router.receiver_words import Callers, CannotListen, Listening, ReceiverSettings, Report, Stop

OTHER = "other"
"""The label of callers that no node of the configuration is."""

STOP_SLACK = 15.0
"""Seconds in which what has come may be reported once a receiver has stopped."""

_CALLING_NOT_RECOGNISED, _CALLED_NOT_RECOGNISED = (1, 1, 3), (1, 1, 7)
"""Result, source and reason of A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""

_PORT_SECONDS = 1.5
_QUEUE = 20_000
_BATCH = 500
_REPORT_SECONDS = 0.01
"""Between two reports. One for each instance of a burst would cost more than receiving it."""
_QUEUE_PATIENCE = 30.0
_ANSWERS = 64
"""Storage commitment reports that wait to be handed on; each may hold thousands of UIDs."""
_ANSWER_PATIENCE = 10.0


def receive(settings: ReceiverSettings, pipe: Connection, held: Held | None = None) -> None:
    """The main function of a receiver's process: until it is told to stop, or the engine is gone.

    `held` counts the associations that it and others hold; None: it is alone.
    """
    ignore()  # the engine says when to stop; a signal to the whole group must not end stores that are under way
    gc.set_threshold(100_000, 20, 100)
    silence()
    receiver = _Receiver(settings, pipe, held)
    try:
        receiver.start()
    except RouterError as error:
        with contextlib.suppress(OSError):
            pipe.send(CannotListen(str(error)))
        return
    receiver.serve()


class _Receiver:
    def __init__(self, settings: ReceiverSettings, pipe: Connection, held: Held | None) -> None:
        self._settings = settings
        self._held = held
        self._callers = dict(settings.callers)
        self._pipe = pipe
        self._sending = threading.Lock()
        self._questions = Questions(self._send)
        self._queue: queue.Queue[Receipt | Event | CommitmentAnswer | None] = queue.Queue(_QUEUE)
        self._answers = threading.BoundedSemaphore(_ANSWERS)
        self._server: StoreServer | None = None
        self._orphaned = False

    def start(self) -> None:
        settings = self._settings
        store = ObjectStore(Path(settings.store), durability=settings.durability, minimum_free=settings.minimum_free)
        guarded = GuardedStore(
            store,
            Quarantine(store.root, settings.quarantine, durable=settings.durability == "fsync"),
            sender=self._sender,
            asked=self._questions.asked,
            observer=self._mention,
        )
        self._server = StoreServer(
            settings.server,
            guarded,
            policy=self._policy,
            on_receipt=self._tell,
            observer=self._mention,
            on_answer=self._hand_on,
            held=self._held,
        )
        _listen(self._server)
        with contextlib.suppress(OSError):  # the engine is gone already, as `serve` will hear
            self._pipe.send(Listening(self._server.port))

    def serve(self) -> None:
        assert self._server is not None
        reporting = threading.Thread(target=self._report, name="report", daemon=True)
        reporting.start()
        grace = self._heed()
        # Stores that are under way may still have to ask, and the replies come by the same pipe.
        with contextlib.suppress(RuntimeError):  # the system has no thread left
            threading.Thread(target=self._heed_on, args=(self._server,), name="heed", daemon=True).start()
        self._server.stop(grace)
        self._queue.put(None)
        reporting.join(STOP_SLACK)

    def _heed_on(self, server: StoreServer) -> None:
        """While it stops: whoever asks a second time may leave less time, and when the engine is gone there is none."""
        while not self._orphaned:
            grace = self._heed()
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=server.stop, args=(grace,), name="hasten", daemon=True).start()

    def _heed(self) -> float:
        """Do what the engine says, until it says that this has to stop, or is gone; how long stores may then take."""
        try:
            while True:
                word = self._pipe.recv()
                if isinstance(word, Reply):
                    self._questions.answer(word)
                elif isinstance(word, Callers):
                    self._callers = word.callers
                elif isinstance(word, Stop):
                    return word.grace
        except (EOFError, OSError):  # the engine is gone: nothing is acknowledged any more that nobody would index
            self._orphaned = True
            self._questions.close()
            return 0.0

    def _policy(self, calling: str, called: str, address: str, shown: Shown | None) -> Accepted | Rejected:
        caller = self._callers.get(calling)
        if called != self._settings.ae_title:
            return Rejected(*_CALLED_NOT_RECOGNISED, caller.node if caller is not None else OTHER)
        if caller is None:
            return Rejected(*_CALLING_NOT_RECOGNISED, OTHER)
        cause = refusal(caller, address, shown)
        if cause:
            return Rejected(*_CALLING_NOT_RECOGNISED, caller.node, cause)
        return Accepted(caller.node, caller.associations)

    def _sender(self, calling: str) -> Sender:
        caller = self._callers.get(calling)
        return Sender(caller.node, caller.push) if caller is not None else Sender(OTHER, REFUSE)

    def _send(self, word: Report | Question) -> None:
        """Tell the engine. Raises OSError where it is gone, or takes nothing for too long."""
        if not self._sending.acquire(timeout=-1 if isinstance(word, Report) else _QUEUE_PATIENCE):
            raise TimeoutError
        try:
            self._pipe.send(word)
        finally:
            self._sending.release()

    def _tell(self, receipt: Receipt) -> None:
        """Queue a receipt, before the sender gets its success. Raises StoreRefused where the engine takes none."""
        self._refuse_orphaned()
        try:
            self._queue.put(receipt, timeout=_QUEUE_PATIENCE)
        except queue.Full:
            raise StoreRefused(0xA700, "out-of-resources", "The engine takes no receipts") from None

    def _hand_on(self, answer: CommitmentAnswer) -> None:
        """Queue a storage commitment report. Raises StoreRefused where too many wait: their lists can be long."""
        self._refuse_orphaned()
        if not self._answers.acquire(timeout=_ANSWER_PATIENCE):
            raise StoreRefused(0xA700, "out-of-resources", "The engine takes no reports")
        try:
            self._queue.put(answer, timeout=_ANSWER_PATIENCE)
        except queue.Full:
            self._answers.release()
            raise StoreRefused(0xA700, "out-of-resources", "The engine takes no reports") from None

    def _refuse_orphaned(self) -> None:
        """Raises StoreRefused where nobody would index what is acknowledged."""
        if self._orphaned:
            raise StoreRefused(0xA700, "out-of-resources", "The router is being restarted")

    def _mention(self, event: Event) -> None:
        # A metric less, where the engine stands still; but a gauge that misses a change is wrong for good.
        patience = _QUEUE_PATIENCE if isinstance(event, AssociationsActive) else 0.0
        with contextlib.suppress(queue.Full):
            self._queue.put(event, block=patience > 0, timeout=patience or None)

    def _report(self) -> None:
        """Send what is in the queue, all that is there at a time: the first at once, what follows closely together."""
        ending = False
        following = 0.0
        while not ending:
            batch = [self._queue.get()]
            time.sleep(max(0.0, following - time.monotonic()))
            with contextlib.suppress(queue.Empty):
                while len(batch) < _BATCH:
                    batch.append(self._queue.get_nowait())
            ending = None in batch
            report = Report(
                receipts=[one for one in batch if isinstance(one, Receipt)],
                events=[one for one in batch if isinstance(one, Event)],
                answers=[one for one in batch if isinstance(one, CommitmentAnswer)],
            )
            try:
                self._send(report)
            except OSError:  # the engine is gone; the files are there, and indexed when it is back
                return
            for _ in report.answers:
                self._answers.release()
            following = time.monotonic() + _REPORT_SECONDS


def _listen(server: StoreServer) -> None:
    """Listen; a receiver of a service that has just died may hold the port for a moment longer."""
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        try:
            server.start()
            return
        except ConfigurationError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
