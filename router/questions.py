"""What a receiver asks the engine: whether a study was asked of who sends it. Who asks, and the words on the pipe.

The engine reads it from the ledger, where a transfer is `moving` before its C-MOVE goes out, whichever process sends
that: so what was asked for is never refused, and nobody needs to announce anything.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from router.domain.quarantine import GRACE_SECONDS
from router.errors import RouterError, StoreRefused

Asked = Callable[[str, str], bool]
"""Takes a calling AE title and a Study Instance UID (empty: any study). Raises RouterError where nobody can say."""

_OUT_OF_RESOURCES = 0xA700
_PATIENCE_SECONDS = 20.0
_REMEMBERED = 10_000
"""Studies; of what was sent unasked none is remembered, for it may be asked for in the next moment."""


class Reply(msgspec.Struct, frozen=True):
    """The answer to a question; `asked` is None where nobody can say now."""

    number: int
    asked: bool | None


class Question(msgspec.Struct, frozen=True):
    """Whether a study was asked for."""

    number: int
    calling_ae_title: str
    study_instance_uid: str

    def answered(self, asked: Asked) -> Reply:
        """The reply, by somebody who knows."""
        try:
            return Reply(self.number, asked(self.calling_ae_title, self.study_instance_uid))
        except RouterError:
            return Reply(self.number, None)


class Questions:
    """Asks, waits for the reply, and remembers what was asked for while it keeps coming. Thread-safe."""

    def __init__(
        self,
        send: Callable[[Question], None],
        clock: Callable[[], float] = time.monotonic,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        """`send` raises OSError where nobody is there to answer; `clock` and `patience` are in seconds."""
        self._send = send
        self._clock = clock
        self._patience = patience
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._replies: dict[int, bool | None] = {}
        self._waiting: set[int] = set()
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()
        """What was asked for -> until when that counts without another question."""
        self._closed = False

    def asked(self, calling_ae_title: str, study_instance_uid: str) -> bool:
        """Whether it was asked for.

        Raises StoreRefused (A700) where that cannot be said now: the sender comes again, and what was asked for is not
        turned away for good.
        """
        key = (calling_ae_title, study_instance_uid)
        with self._changed:
            if self._known.get(key, 0.0) > self._clock():
                self._remember(key)
                return True
        reply = self._ask(*key)
        if reply is None:
            raise StoreRefused(_OUT_OF_RESOURCES, "ledger", "Whether this was asked for is not known now")
        if reply:
            with self._changed:
                self._remember(key)
        return reply

    def answer(self, reply: Reply) -> None:
        """A reply has come."""
        with self._changed:
            if reply.number in self._waiting:
                self._replies[reply.number] = reply.asked
                self._changed.notify_all()

    def close(self) -> None:
        """Nobody answers any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ask(self, calling_ae_title: str, study_instance_uid: str) -> bool | None:
        with self._changed:
            number = next(self._numbers)
            self._waiting.add(number)
        try:
            self._send(Question(number, calling_ae_title, study_instance_uid))
            with self._changed:
                self._changed.wait_for(lambda: number in self._replies or self._closed, self._patience)
                return self._replies.pop(number, None)
        except OSError:
            return None
        finally:
            with self._changed:
                self._waiting.discard(number)
                self._replies.pop(number, None)

    def _remember(self, key: tuple[str, str]) -> None:
        if key[1]:  # that anything was asked for says nothing of what comes later
            self._known[key] = self._clock() + GRACE_SECONDS
            self._known.move_to_end(key)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
