"""Store SCPs in processes of their own, so that a burst never starves the engine; what they report comes by pipe.

Only what it takes to receive may be imported here: a receiver knows `dimse` and `objects`, no ledger and no engine.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.util
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from router.admitting import GuardedStore, Sender
from router.dimse.held import FREE, Held
from router.dimse.services import Accepted, Rejected
from router.dimse.store_scp import StoreServer
from router.domain.access import Admission, Shown, refusal
from router.domain.commitment import CommitmentAnswer
from router.domain.events import AssociationsActive, Event
from router.domain.quarantine import REFUSE
from router.domain.receipt import Receipt
from router.errors import ConfigurationError, RouterError, StoreError, StoreRefused
from router.objects import ObjectStore
from router.observe.silence import silence
from router.quarantine import Quarantine
from router.questions import Asked, Question, Questions, Reply
from router.receiver_words import Callers, CannotListen, Listening, ReceiverSettings, Report, Stop

OTHER = "other"
"""The label of callers that no node of the configuration is."""

_CALLING_NOT_RECOGNISED, _CALLED_NOT_RECOGNISED = (1, 1, 3), (1, 1, 7)
"""Result, source and reason of A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""

_START_SECONDS = 30.0
_PORT_SECONDS = 1.5
_QUEUE = 20_000
_BATCH = 500
_REPORT_SECONDS = 0.01
"""Between two reports. One for each instance of a burst would cost more than receiving it."""
_QUEUE_PATIENCE = 30.0
_ANSWERS = 64
"""Storage commitment reports that wait to be handed on; each may hold thousands of UIDs."""
_ANSWER_PATIENCE = 10.0
_STOP_SLACK = 15.0
_RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


# --- in the receiver's process ----------------------------------------------------------------------------------------


def receive(settings: ReceiverSettings, pipe: Connection, held: Held | None = None) -> None:
    """The main function of a receiver's process: until it is told to stop, or the engine is gone.

    `held` counts the associations that it and others hold; None: it is alone.
    """
    # The engine says when to stop; a signal to the whole group must not end stores that are under way.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gc.set_threshold(100_000, 20, 100)
    silence()
    receiver = _Receiver(settings, pipe, held)
    try:
        receiver.start()
    except RouterError as error:
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
        self._pipe.send(Listening(self._server.port))

    def serve(self) -> None:
        assert self._server is not None
        reporting = threading.Thread(target=self._report, name="report", daemon=True)
        reporting.start()
        grace = 0.0
        try:
            while True:
                word = self._pipe.recv()
                if isinstance(word, Reply):
                    self._questions.answer(word)
                elif isinstance(word, Callers):
                    self._callers = word.callers
                elif isinstance(word, Stop):
                    grace = word.grace
                    break
        except (EOFError, OSError):  # the engine is gone: nothing is acknowledged any more that nobody would index
            self._orphaned = True
            self._questions.close()
        self._server.stop(grace)
        self._queue.put(None)
        reporting.join(_STOP_SLACK)

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


# --- in the engine's process ------------------------------------------------------------------------------------------


class Receivers:
    """Starts receivers, hands on what they report, starts them again where one dies, stops them.

    `on_receipts`, `on_answers`, `asked` and `observer` are called on a thread per receiver; `on_loss` after one has
    died, when files may lie in the store that nobody has reported. `asked` may raise RouterError where it cannot say.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        count: int,
        *,
        on_receipts: Callable[[list[Receipt]], None],
        on_answers: Callable[[list[CommitmentAnswer]], None] = lambda answers: None,
        asked: Asked,
        observer: Callable[[Event], None],
        on_loss: Callable[[], None],
        trouble: Callable[[str, BaseException], None],
    ) -> None:
        self._settings = settings
        self._count = count
        self._on_receipts = on_receipts
        self._on_answers = on_answers
        self._asked = asked
        self._observer = observer
        self._on_loss = on_loss
        self._trouble = trouble
        self._context = multiprocessing.get_context("spawn")  # forking a process with threads is not safe
        self._most = settings.server.maximum_associations
        self._places = self._context.RawArray("Q", count * self._most) if count > 1 else None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._saying = threading.Lock()
        self._running: dict[int, tuple[Any, Connection]] = {}
        self._threads: list[threading.Thread] = []
        # An interpreter that ends without `stop` would wait for processes that no signal but this one ends.
        multiprocessing.util.Finalize(self, _kill_all, args=(self._running,), exitpriority=100)
        self.port = settings.server.port

    def start(self) -> None:
        """Start them all. Raises ConfigurationError where the port cannot be had."""
        shared = self._count > 1
        for number in range(self._count):
            # The first finds out whether the port is free, and which it is; the others share it.
            server = msgspec.structs.replace(self._settings.server, port=self.port, reuse_port=shared)
            claiming = msgspec.structs.replace(server, claim=shared and number == 0)
            self._settings = msgspec.structs.replace(self._settings, server=claiming)
            self._launch(number)
            self._settings = msgspec.structs.replace(self._settings, server=server)
            thread = threading.Thread(target=self._watch, args=(number,), name=f"receiver-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def alive(self) -> int:
        """How many of them run."""
        with self._lock:
            return sum(process.is_alive() for process, _ in self._running.values())

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        with self._lock:
            return [process.pid for process, _ in self._running.values()]

    def adopt(self, callers: Mapping[str, Admission]) -> None:
        """Who may store from now on."""
        self._settings = msgspec.structs.replace(self._settings, callers=dict(callers))
        self._say(Callers(dict(callers)))

    def stop(self, grace: float) -> None:
        """Stop them; stores under way may end within `grace` seconds."""
        self._stopping.set()
        self._say(Stop(grace))
        deadline = time.monotonic() + grace + _STOP_SLACK
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            left = [process for process, _ in self._running.values()]
        for process in left:
            process.kill()
            process.join(5.0)

    def _say(self, word: Callers | Stop) -> None:
        with self._lock:
            pipes = [pipe for _, pipe in self._running.values()]
        for pipe in pipes:
            self._say_to(pipe, word)

    def _say_to(self, pipe: Connection, word: Callers | Stop | Reply) -> None:
        with self._saying, contextlib.suppress(OSError):
            pipe.send(word)

    def _held(self, number: int) -> Held | None:
        """Where a receiver that is to be started counts its associations; those of one before it died with it."""
        if self._places is None:
            return None
        own = range(number * self._most, (number + 1) * self._most)
        self._places[own.start : own.stop] = [FREE] * self._most
        return Held(self._places, own)

    def _launch(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=receive, args=(self._settings, theirs, self._held(number)), name=f"receiver-{number}", daemon=True
        )
        process.start()
        theirs.close()
        word = ours.recv() if _ready(ours) else None
        if not isinstance(word, Listening):
            process.kill()
            process.join(5.0)
            ours.close()
            if isinstance(word, CannotListen):
                raise ConfigurationError(word.reason)
            raise StoreError("A receiver did not start; see the log.")
        self.port = word.port
        with self._lock:
            self._running[number] = (process, ours)

    def _watch(self, number: int) -> None:
        """Hand on what a receiver reports; start it again when it dies."""
        failures = 0
        while True:
            with self._lock:
                process, pipe = self._running[number]
            active: Counter[tuple[str, str]] = Counter()
            with contextlib.suppress(EOFError, OSError):
                while True:
                    word = pipe.recv()
                    try:
                        self._hear(word, pipe, active)
                    except Exception as error:  # noqa: BLE001  a defect of ours must not end the receiving
                        self._trouble("receiver", error)
                        self._on_loss()
                    failures = 0
            pipe.close()
            process.join(5.0)
            with self._lock:
                del self._running[number]
            for (node, role), count in active.items():  # its associations died with it
                self._observer(AssociationsActive(node=node, role=role, change=-count))
            if self._stopping.is_set():
                return
            self._trouble(
                "receiver", StoreError(f"A receiver ended unasked (exit {process.exitcode}); another follows.")
            )
            while not self._again(number, failures):
                failures += 1
                if self._stopping.is_set():
                    return

    def _again(self, number: int, failures: int) -> bool:
        if self._stopping.wait(_RESTART_SECONDS[min(failures, len(_RESTART_SECONDS) - 1)]):
            return False
        try:
            self._launch(number)
        except RouterError as error:
            self._trouble("receiver", error)
            return False
        self._on_loss()
        return True

    def _hear(self, report: Report | Question, pipe: Connection, active: Counter[tuple[str, str]]) -> None:
        if isinstance(report, Question):
            self._say_to(pipe, report.answered(self._asked))
            return
        for event in report.events:
            if isinstance(event, AssociationsActive):
                active[event.node, event.role] += event.change
            self._observer(event)
        if report.receipts:
            self._on_receipts(report.receipts)
        if report.answers:
            self._on_answers(report.answers)


def _kill_all(running: dict[int, tuple[Any, Connection]]) -> None:
    for process, _ in list(running.values()):
        process.kill()


def _ready(pipe: Connection) -> bool:
    try:
        return pipe.poll(_START_SECONDS)
    except (EOFError, OSError):
        return False
