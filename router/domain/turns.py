"""Whose turn it is when the urgent would always go first. Pure."""

from __future__ import annotations

EVERY = 5
"""Of so many claims at a source one goes to what has waited longest, however urgent the rest is."""


class Turns:
    """Counts the claims at each source. Not thread-safe."""

    def __init__(self) -> None:
        self._claims: dict[str, int] = {}

    def longest_waiting(self, source: str) -> bool:
        """Whether the next claim at the source is for what has waited longest."""
        return self._claims.get(source, 0) >= EVERY - 1

    def claimed(self, source: str) -> None:
        """One was claimed there."""
        self._claims[source] = (self._claims.get(source, 0) + 1) % EVERY
