"""What the peers of the simulated PACS did to it, in order. Test code reads it; nothing here is written to a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

Kind = Literal["echo", "find", "move", "get", "store", "cancel"]

#: Older operations are forgotten beyond this many, so that a long demo cannot grow without end.
CAPACITY = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One request of a peer.

    `status` is the final status we answered; None while the operation runs, or when it never was answered. `keys`
    maps keyword to text, several values joined by a backslash. `association` is the number of the association, from 1.
    """

    kind: Kind
    at: datetime
    calling: str
    association: int
    message_id: int
    level: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    destination: str = ""
    originator: str = ""
    originator_message_id: int | None = None
    status: int | None = None


class Record:
    """A thread-safe list of operations, in the order in which they arrived."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._operations: dict[int, Operation] = {}
        self._next = 0

    def begin(self, operation: Operation) -> int:
        """Add an operation; the returned number is for `end`."""
        with self._changed:
            number = self._next
            self._next += 1
            self._operations[number] = operation
            if len(self._operations) > CAPACITY:
                del self._operations[next(iter(self._operations))]
            self._changed.notify_all()
            return number

    def end(self, number: int, status: int) -> None:
        """Note the final status of an operation."""
        with self._changed:
            operation = self._operations.get(number)
            if operation is not None:
                self._operations[number] = replace(operation, status=status)
            self._changed.notify_all()

    def of(self, kind: Kind) -> tuple[Operation, ...]:
        """The operations of one kind."""
        return tuple(operation for operation in self if operation.kind == kind)

    def wait_for(self, kind: Kind, *, count: int = 1, ended: bool = False, timeout_seconds: float = 20.0) -> Operation:
        """Wait until `count` operations of a kind have begun (or ended) and return the last of them.

        Raises:
            TimeoutError: fewer than `count` came within the time.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while True:
                seen = [
                    operation
                    for operation in self._operations.values()
                    if operation.kind == kind and (operation.status is not None or not ended)
                ]
                if len(seen) >= count:
                    return seen[count - 1]
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError(f"{len(seen)} of {count} {kind} operations within {timeout_seconds} s")
                self._changed.wait(remaining)

    def clear(self) -> None:
        """Forget everything."""
        with self._changed:
            self._operations.clear()

    def __iter__(self) -> Iterator[Operation]:
        with self._changed:
            return iter(tuple(self._operations.values()))

    def __len__(self) -> int:
        with self._changed:
            return len(self._operations)


def now() -> datetime:
    """The present, aware, in UTC."""
    return datetime.now(UTC)
