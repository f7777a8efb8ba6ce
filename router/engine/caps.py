"""What is known of nodes by the numbers of their matches: at how many they cut their answers, how many came before."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from router.domain.bisection import Seen
from router.domain.dicom import Identifier
from router.domain.question import covers
from router.domain.rule import Node

_QUESTIONS_REMEMBERED = 32
"""Per node: how many matches other questions brought lately."""
_REMEMBERED_SECONDS = 86400.0
"""How long the same number of different questions, once it was found to be chance, is not looked into again; and how
long the most matches that came show that a smaller number is no cap."""
_SETTLED_NUMBERS = 1000


class Caps:
    """The numbers at which nodes were seen to cut their answers. Thread-safe.

    `learn` keeps a number for the next start, `tell` shows it. A node that says that it cuts its answers is only shown:
    what it does not say so of is whole, whatever its number.
    """

    def __init__(
        self,
        known: dict[str, int] | None = None,
        learn: Callable[[str, int], None] | None = None,
        tell: Callable[[str, int], None] | None = None,
    ) -> None:
        self._known = dict(known or {})
        self._learn = learn
        self._tell = tell
        self._said: dict[str, int] = {}
        self._lock = threading.Lock()

    def learned(self, node: Node) -> int | None:
        """The number at which a node cuts its answers, as far as was seen; None where it does not."""
        with self._lock:
            return self._known.get(node.name)

    def learn(self, node: Node, number: int) -> None:
        """It cuts its answers at this number; 0: it does not, after all."""
        with self._lock:
            if self._known.get(node.name, 0) == number:
                return
            if number:
                self._known[node.name] = number
            else:
                self._known.pop(node.name, None)
        if self._learn is not None:
            self._learn(node.name, number)

    def said(self, node: Node, number: int) -> None:
        """It cut an answer at this number and said so; 0: it does not any more."""
        with self._lock:
            if self._said.get(node.name, 0) == number:
                return
            self._said[node.name] = number
        if self._tell is not None:
            self._tell(node.name, number)

    def exceeded(self, node: Node, count: int) -> None:
        """It gave a whole answer of so many matches: what was known of smaller numbers is over."""
        with self._lock:
            learned, said = self._known.get(node.name, count), self._said.get(node.name, count)
        if said < count:
            self.said(node, 0)
        if learned < count:
            self.learn(node, 0)

    def known(self) -> dict[str, int]:
        """Name of a node -> the number at which it cuts, of those that do."""
        with self._lock:
            return dict(self._known)


class Experience:
    """How many matches nodes gave to questions at STUDY level lately. Thread-safe and bounded."""

    def __init__(self) -> None:
        self._asked: dict[str, deque[tuple[Identifier, int]]] = {}
        self._largest: dict[str, tuple[int, float]] = {}
        self._settled: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    def largest(self, node: Node) -> int:
        """The most matches that a node gave lately."""
        with self._lock:
            return self._largest.get(node.name, (0, 0.0))[0]

    def note(self, node: Node, question: Identifier, count: int, *, whole: bool = True) -> Seen:
        """What other questions brought before this one, which is remembered for the next unless it ended early."""
        with self._lock:
            now = time.monotonic()
            before = self._asked.setdefault(node.name, deque(maxlen=_QUESTIONS_REMEMBERED))
            largest, at = self._largest.get(node.name, (0, now))
            if now - at > _REMEMBERED_SECONDS:
                largest = 0  # a cap may have been set since
            alike = any(
                number == count and covers(one, question) is None and covers(question, one) is None
                for one, number in before
            )
            if whole:
                before.append((question, count))
            if count >= largest:
                self._largest[node.name] = count, now
            settled = now - self._settled.get((node.name, count), float("-inf")) < _REMEMBERED_SECONDS
        return Seen(largest, alike, settled)

    def settle(self, node: Node, count: int) -> None:
        """That different questions brought so many was looked into, and it was chance."""
        with self._lock:
            while len(self._settled) >= _SETTLED_NUMBERS:
                self._settled.pop(next(iter(self._settled)))
            self._settled[node.name, count] = time.monotonic()
