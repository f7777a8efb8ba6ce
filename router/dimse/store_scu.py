"""C-STORE as SCU on one association, PS3.4 annex B and PS3.7 section 9.1.1: from files to outcomes.

A data set goes from its file as it is, whatever its size, through one buffer. While the node works on an instance the
next one is made ready; where an asynchronous operations window was negotiated, several are under way.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.association import Association, Context, Message
from router.dimse.operation import CANCEL_GRACE, TICK, now, response, scrub
from router.dimse.pdu import Buffer
from router.dimse.store_contexts import offer_of
from router.dimse.store_frame import CutOff, Frame
from router.domain.dicom import is_uid
from router.domain.exchange import (
    CONTEXT_REFUSALS,
    MoveOriginator,
    Standing,
    StoredObject,
    StoreOutcome,
    store_status,
)
from router.domain.rule import StoreSettings
from router.errors import Cancelled, DeadlineExceeded, RouterError, WireError

OpenObject = Callable[[StoredObject], tuple[int, int]]
"""A file descriptor positioned at the data set, closed here, and the data set's size. Raises StoreError, OSError."""

OUT_OF_RESOURCES = "out-of-resources"
FULL_AFTER = 3
"""Answers in a row that the node is out of resources, after which it is left in peace."""
_MINIMUM_RATE = 1024
"""Bytes a second that a node must take on average, after its inactivity; below, it is a slow drip."""
_MAXIMUM_OPERATIONS = 64
"""Instances under way where the node sets no limit."""
_MAXIMUM_IGNORED = 1 << 20


class Unreadable(WireError):
    """A file changed while it was sent; the association had to be aborted."""

    cause = "cut-off"


class Work(NamedTuple):
    """What a request to store is made of, but for the instances and the node."""

    open_object: OpenObject
    report: Callable[[StoreOutcome], None]
    cancelled: threading.Event
    settings: StoreSettings
    deadline: float
    """On the monotonic clock: nothing is begun afterwards."""
    responded: Callable[[float], None]
    """Told of each response, how many seconds after its instance was sent it came."""
    originator: MoveOriginator | None = None


class _Prepared(NamedTuple):
    """A message ready to be sent: the whole of it, or, of a big instance, its beginning."""

    stored: StoredObject
    context: Context
    message_id: int
    buffers: list[Buffer]
    descriptor: int
    """-1 where nothing is left to be read."""
    remaining: int


class Sender:
    """Sends instances on one association. `outstanding` are those sent and not answered, by message ID."""

    def __init__(self, association: Association, work: Work) -> None:
        self._association = association
        self._work = work
        self._settings = work.settings
        self._frame = Frame(association.peer_maximum)
        self._window = min(association.operations or _MAXIMUM_OPERATIONS, _MAXIMUM_OPERATIONS)
        self._message_id = 0
        self._full = 0
        self._stop_by: float | None = None
        self._taken = 0
        self._heard = now()
        self._unreported: StoreOutcome | None = None
        self._sent_at: dict[int, float] = {}
        self.outstanding: dict[int, tuple[StoredObject, Context]] = {}

    def run(self, queue: deque[StoredObject]) -> None:
        """Send all; each instance leaves the queue when it was sent or turned out not to be sendable.

        Raises Cancelled or DeadlineExceeded in order, with the association still established and nothing outstanding,
        once `cancelled` is set or the deadline passed; else what `Association` raises, Unreadable, and, where the node
        is full, a WireError whose cause says so.
        """
        prepared: _Prepared | None = None
        try:
            while True:
                if prepared is None:
                    self._report()
                    prepared = self._prepare(queue)
                if prepared is None and not self.outstanding:
                    return
                halted = self._halted()
                if halted is not None and not self.outstanding:
                    raise halted
                if prepared is None or halted is not None or len(self.outstanding) >= self._window:
                    self._report()
                    self._answer()
                    continue
                sending, prepared = prepared, None
                self._send(sending, queue)
        finally:
            if prepared is not None:
                _close(prepared.descriptor)
            self._report()

    def _report(self) -> None:
        """The last answer's outcome. The next instance went before it, so that the node need not wait for us."""
        outcome, self._unreported = self._unreported, None
        if outcome is not None:
            self._work.report(outcome)

    # one instance -----------------------------------------------------------------------------------------------

    def _prepare(self, queue: deque[StoredObject]) -> _Prepared | None:
        """The first instance of the queue that can be sent; those before it are reported and taken out."""
        while queue:
            stored = queue[0]
            context = self._context(stored)
            found = self._read(stored, context) if isinstance(context, Context) else context
            if isinstance(found, _Prepared):
                return found
            queue.popleft()
            self._work.report(found)
        return None

    def _context(self, stored: StoredObject) -> Context | StoreOutcome:
        association = self._association
        context_id = association.offered[offer_of(stored)]
        context = association.contexts.get(context_id)
        if context is not None:
            return context
        cause = CONTEXT_REFUSALS.get(association.refused[context_id], CONTEXT_REFUSALS[pdu.ContextResult.NO_REASON])
        return StoreOutcome(stored=stored, standing=Standing.REFUSED, cause=cause)

    def _read(self, stored: StoredObject, context: Context) -> _Prepared | StoreOutcome:
        if not is_uid(stored.sop_instance_uid):
            return _unreadable(stored, "invalid-uid")
        message_id = self._next_message_id()
        command = self._command(stored, message_id)
        try:
            descriptor, size = self._work.open_object(stored)
        except (RouterError, OSError):
            return _unreadable(stored, "unreadable")
        whole = size <= self._frame.capacity
        try:
            if size <= 0:
                _close(descriptor)
                return _unreadable(stored, "empty")
            part = size if whole else self._frame.capacity
            data = self._frame.fill(descriptor, context.context_id, part, last=whole)
        except (CutOff, OSError) as error:
            _close(descriptor)
            return _unreadable(stored, "cut-off" if isinstance(error, CutOff) else "unreadable")
        if whole:
            _close(descriptor)
            descriptor = -1
        fragments = pdu.fragments(context.context_id, True, command, self._association.peer_maximum)
        return _Prepared(stored, context, message_id, [*fragments, data], descriptor, size - part)

    def _next_message_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1  # far more than can be outstanding (PS3.7 section 9.1)
        return self._message_id

    def _command(self, stored: StoredObject, message_id: int) -> bytes:
        elements: dict[int, int | str] = {
            commands.AFFECTED_SOP_CLASS_UID: stored.sop_class_uid,
            commands.COMMAND_FIELD: commands.C_STORE_RQ,
            commands.MESSAGE_ID: message_id,
            commands.PRIORITY: 0,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
            commands.AFFECTED_SOP_INSTANCE_UID: stored.sop_instance_uid,
        }
        originator = self._work.originator
        if originator is not None:
            elements[commands.MOVE_ORIGINATOR_AE_TITLE] = originator.ae_title
            elements[commands.MOVE_ORIGINATOR_MESSAGE_ID] = originator.message_id
        return commands.encode(elements)

    def _send(self, message: _Prepared, queue: deque[StoredObject]) -> None:
        try:
            self._write(message.buffers)
            remaining = message.remaining
            while remaining:
                part = min(remaining, self._frame.capacity)
                remaining -= part
                self._write(
                    [self._frame.fill(message.descriptor, message.context.context_id, part, last=remaining == 0)]
                )
        except (CutOff, OSError):
            self._association.abort()
            self._report()
            self._work.report(_unreadable(queue.popleft(), "cut-off"))
            raise Unreadable() from None
        finally:
            _close(message.descriptor)
        self.outstanding[message.message_id] = queue.popleft(), message.context
        self._sent_at[message.message_id] = self._heard

    def _write(self, buffers: list[Buffer]) -> None:
        self._taken, self._heard = 0, now()
        if self._grace_is_over(self._heard):
            self._association.abort()
            raise self._cancelled()
        seconds = self._settings.inactivity + sum(map(len, buffers)) / _MINIMUM_RATE
        self._association.write(buffers, seconds, self._watch)
        self._heard = now()

    def _watch(self, taken: int) -> None:
        """The node takes no more for the moment."""
        moment = now()
        if self._grace_is_over(moment):
            raise self._cancelled()
        if taken > self._taken:
            self._taken, self._heard = taken, moment
        elif moment > self._heard + self._settings.inactivity:
            raise DeadlineExceeded(
                f"{self._association.peer} stopped taking data in the middle of a C-STORE for "
                f"{self._settings.inactivity:g} s."
            )

    # answers ----------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """Wait for the next response; its outcome is then `_unreported`."""
        association, inactivity = self._association, self._settings.inactivity
        while True:
            moment = now()
            if self._grace_is_over(moment):
                association.abort()
                raise self._cancelled()
            if moment >= self._heard + inactivity:
                association.abort()
                raise DeadlineExceeded(f"{association.peer} did not answer a C-STORE within {inactivity:g} s.")
            message = association.receive(min(moment + TICK, self._heard + inactivity))
            if message is not None:
                break
        self._heard = now()
        self._take(message)

    def _take(self, message: Message) -> None:
        association, command = self._association, message.command
        answered = command.number(commands.MESSAGE_ID_BEING_RESPONDED_TO)
        expected = answered if answered in self.outstanding else next(iter(self.outstanding))
        stored, context = self.outstanding[expected]
        status = response(association, message, context, commands.C_STORE_RSP, expected)
        del self.outstanding[expected]
        self._work.responded(self._heard - self._sent_at.pop(expected))
        if command.has_data:
            association.read_data(message.context_id, _MAXIMUM_IGNORED)
        standing, cause = store_status(status)
        self._full = self._full + 1 if cause == OUT_OF_RESOURCES else 0
        self._unreported = StoreOutcome(
            stored=stored,
            standing=standing,
            cause=cause,
            status=status,
            error_comment=scrub(command.text(commands.ERROR_COMMENT)),
        )

    # stopping ---------------------------------------------------------------------------------------------------

    def _halted(self) -> WireError | None:
        """Why no further instance is begun, if there is a reason."""
        if self._work.cancelled.is_set():
            return self._cancelled()
        if now() >= self._work.deadline:
            return DeadlineExceeded(
                f"{self._association.peer} did not take all instances within {self._settings.total:g} s."
            )
        if self._full >= FULL_AFTER:
            failure = WireError(f"{self._association.peer} is out of resources; what was left is not sent for now.")
            failure.cause = OUT_OF_RESOURCES
            return failure
        return None

    def _grace_is_over(self, moment: float) -> bool:
        """Whether this side wants to stop and gave the instance under way its time."""
        if not self._work.cancelled.is_set():
            return False
        if self._stop_by is None:
            self._stop_by = moment + CANCEL_GRACE
        return moment >= self._stop_by

    def _cancelled(self) -> Cancelled:
        return Cancelled(f"The C-STORE to {self._association.peer} was cancelled.")


def _unreadable(stored: StoredObject, cause: str) -> StoreOutcome:
    return StoreOutcome(stored=stored, standing=Standing.UNREADABLE, cause=cause)


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
