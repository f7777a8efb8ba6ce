"""Store SCPs in processes of their own, so that a burst never starves the engine; what they report comes by pipe.

The engine's side: starts them, hears them, starts them again, stops them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from router.dimse.held import FREE, Held
from router.domain.access import Admission
from router.domain.commitment import CommitmentAnswer
from router.domain.events import AssociationsActive, Event
from router.domain.receipt import Receipt
from router.errors import ConfigurationError, RouterError, StoreError
from router.holding_back import held_back
from router.questions import Asked, Question, Reply
from router.receiver import STOP_SLACK, receive
from router.receiver_words import Callers, CannotListen, Listening, ReceiverSettings, Report, Stop

_START_SECONDS = 30.0
_RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Receivers:
    """Starts receivers, hands on what they report, starts them again where one dies, stops them.

    `on_receipts`, `on_answers`, `asked` and `observer` are called on a thread per receiver; `on_loss` after one has
    died, when files may lie in the store that nobody has reported. `asked` may raise RouterError where it cannot say.
    `on_whole` is told False when one has died, True when all run again.
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
        on_whole: Callable[[bool], None] = lambda whole: None,
    ) -> None:
        self._on_whole = on_whole
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
        """Stop them; stores under way may end within `grace` seconds. A second call may leave less time."""
        self._stopping.set()
        self._say(Stop(grace))
        deadline = time.monotonic() + grace + STOP_SLACK
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
        """Raises ConfigurationError where it cannot listen, StoreError where it does not come up."""
        try:
            ours, theirs = self._context.Pipe()
        except OSError as error:  # no file descriptor is left
            raise StoreError(f"A receiver cannot be started: {error.strerror}.") from error
        process = self._context.Process(
            target=receive, args=(self._settings, theirs, self._held(number)), name=f"receiver-{number}", daemon=True
        )
        word = None
        try:
            resource_tracker.ensure_running()  # started by the first process, it would let the signals through
            with held_back():
                process.start()
            theirs.close()
            word = _first_word(ours)
        except OSError as error:  # no memory or process is left
            raise StoreError(f"A receiver cannot be started: {error.strerror}.") from error
        finally:
            if not isinstance(word, Listening):
                theirs.close()
                ours.close()
                if process.pid is not None:
                    process.kill()
                    process.join(5.0)
        if isinstance(word, CannotListen):
            raise ConfigurationError(word.reason)
        if not isinstance(word, Listening):
            raise StoreError("A receiver did not start; see the log.")
        self.port = word.port
        with self._lock:
            self._running[number] = (process, ours)
        # What was said to all while this one came up it has not heard.
        self._say_to(ours, Callers(dict(self._settings.callers)))
        if self._stopping.is_set():
            self._say_to(ours, Stop(0.0))

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
            self._on_whole(False)
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
        self._on_whole(self.alive == self._count)
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


def _first_word(pipe: Connection) -> object:
    """What it says when it has come up; None where it does not."""
    try:
        return pipe.recv() if pipe.poll(_START_SECONDS) else None
    except (EOFError, OSError):
        return None
