"""What every DIMSE operation of a requestor needs: message IDs, scrubbed comments, waiting for the response."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from router.dimse import command as commands
from router.dimse.association import Association, Context, Message
from router.errors import RemoteProtocolError

PENDING = frozenset({0xFF00, 0xFF01})
CANCELLED = 0xFE00
CANCEL_GRACE = 10.0
"""Seconds a peer has to answer a C-CANCEL; many ignore it."""
TICK = 0.25
"""Seconds between looks at whether this side wants to stop."""

_MAXIMUM_COMMENT = 64
_IDENTIFYING_DIGITS = 5


class MessageIds:
    """Message IDs, unique among those in flight in this process (PS3.7 section 9.1): 1..65535, cycling. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._in_flight: set[int] = set()

    @contextmanager
    def one(self) -> Iterator[int]:
        """An ID for the duration of a request."""
        with self._lock:
            while True:
                self._last = self._last % 0xFFFF + 1
                if self._last not in self._in_flight:
                    break
            message_id = self._last
            self._in_flight.add(message_id)
        try:
            yield message_id
        finally:
            with self._lock:
                self._in_flight.discard(message_id)


MESSAGE_IDS = MessageIds()


def scrub(comment: str) -> str:
    """A peer's Error Comment for people: at most 64 characters, no control characters, nothing that may identify.

    Words with five or more digits (UIDs, patient IDs, accession numbers, dates) or a caret (names) are masked.
    """
    printable = "".join(character if character.isprintable() else " " for character in comment[:_MAXIMUM_COMMENT])
    return " ".join(
        "…" if "^" in word or sum(map(str.isdigit, word)) >= _IDENTIFYING_DIGITS else word for word in printable.split()
    )


def response(association: Association, message: Message, context: Context, field: int, message_id: int) -> int:
    """The status of a response to this request. Raises RemoteProtocolError where it is another message."""
    command = message.command
    if command.field != field or message.context_id != context.context_id:
        association.abort()
        raise RemoteProtocolError(f"{association.peer} answered with something other than what was asked for.")
    if command.number(commands.MESSAGE_ID_BEING_RESPONDED_TO) != message_id:
        association.abort()
        raise RemoteProtocolError(f"{association.peer} answered a request that was not made.")
    return command.status


def send_cancel(association: Association, context: Context, message_id: int) -> None:
    """C-CANCEL-RQ for a request under way (PS3.7 section 9.3.2.3)."""
    association.send(
        context.context_id,
        commands.encode(
            {
                commands.COMMAND_FIELD: commands.C_CANCEL_RQ,
                commands.MESSAGE_ID_BEING_RESPONDED_TO: message_id,
                commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
            }
        ),
    )


def now() -> float:
    """The monotonic clock, seconds."""
    return time.monotonic()
