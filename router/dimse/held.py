"""Associations that are held, by whose they are; several processes may count together, each in places of its own."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import MutableSequence

_TRIES = 5
_PAUSE_SECONDS = 0.004
FREE = 0
"""What a place holds that nobody has taken."""


class Held:
    """The associations of this process, within a table that others may share. To be called by one thread at a time.

    An association is a mark of its node in one place. It is written before all are counted: two that come at once in
    two processes see each other, and never is one too many let in.
    """

    def __init__(self, places: MutableSequence[int], own: range) -> None:
        """`places` are those of all processes; only those of the range `own`, free at first, are written here."""
        self._places = places
        self._free = list(own)
        self._taken: dict[int, int] = {}

    def take(self, serial: int, node: str, most: int | None) -> bool:
        """Hold one more of a node, unless it would be more than `most` (None: as many as there are places)."""
        mark = mark_of(node)
        for _ in range(_TRIES):
            if not self._free:
                return False
            place = self._free[-1]
            self._places[place] = mark
            if most is None or self._count(mark) <= most:
                self._taken[serial] = self._free.pop()
                return True
            self._places[place] = FREE
            if self._count(mark) >= most:
                return False
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # another one came at once: only one gives way
        return False

    def leave(self, serial: int) -> None:
        """Hold it no longer; one that was not held does not matter."""
        place = self._taken.pop(serial, None)
        if place is not None:
            self._places[place] = FREE
            self._free.append(place)

    def _count(self, mark: int) -> int:
        return self._places[:].count(mark)


def mark_of(node: str) -> int:
    """A number of 64 bits that stands for a node, the same in each process; never `FREE`."""
    return int.from_bytes(hashlib.blake2b(node.encode(), digest_size=8).digest()) or 1
