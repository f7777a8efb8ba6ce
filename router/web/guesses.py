"""How often the token may be guessed, from each address; who shows the right one elsewhere is never kept out."""

from __future__ import annotations

import ipaddress
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping

MOST_GUESSES = 10
"""Wrong tokens from an address in GUESS_SECONDS; then no token is looked at from there for a while."""
MOST_OF_PEER = 100
"""The same from all whom one proxy speaks for."""
GUESS_SECONDS = 60.0
_MOST_ADDRESSES = 4096
"""That are remembered; the one that guessed longest ago is forgotten first."""
_PREFIX = 64
"""Bits of an IPv6 address that a caller cannot choose."""


class Guesser:
    """Where a token comes from, as keys to count by: the peer, and whom the proxy there speaks for."""

    __slots__ = ("behind", "peer")

    def __init__(self, peer: str, headers: Mapping[str, str]) -> None:
        """`peer` is the address that the connection comes from.

        The last address in X-Forwarded-For is what a proxy has added. Nobody gains much by inventing one, for the
        peer is counted as well.
        """
        self.peer = _narrowed(peer)
        self.behind = _narrowed(headers.get("x-forwarded-for", "").rpartition(",")[2].strip())


class Guesses:
    """Wrong tokens of the last minute, by address. Thread-safe and bounded."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` counts seconds and never goes back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: dict[tuple[str, str], deque[float]] = {}

    def wait(self, guesser: Guesser) -> int:
        """Seconds until a token may be tried from there again; 0: now."""
        now = self._clock()
        with self._lock:
            waits = [
                self._wrong[key][0] + GUESS_SECONDS - now
                for key, most in _keys(guesser)
                if key in self._wrong and len(self._wrong[key]) >= most
            ]
        return max(0, math.ceil(max(waits, default=0.0)))

    def wrong(self, guesser: Guesser) -> None:
        """A wrong token was tried."""
        now = self._clock()
        with self._lock:
            for key, most in _keys(guesser):
                tried = self._wrong.pop(key, None) or deque(maxlen=most)
                tried.append(now)
                self._wrong[key] = tried  # the last one now
            while len(self._wrong) > _MOST_ADDRESSES:
                del self._wrong[next(iter(self._wrong))]


def _keys(guesser: Guesser) -> tuple[tuple[tuple[str, str], int], ...]:
    """What is counted, and up to what."""
    if not guesser.behind:
        return (((guesser.peer, ""), MOST_GUESSES),)
    return ((guesser.peer, guesser.behind), MOST_GUESSES), ((guesser.peer, "all"), MOST_OF_PEER)


def _narrowed(text: str) -> str:
    """An address as it counts; empty where it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _PREFIX), strict=False))
