"""Whether the last exchange with each node worked, as the events say."""

from __future__ import annotations

import threading
from collections.abc import Collection

from router.domain.events import Event, NodeReachability


class Reachability:
    """Remembers the last word on each node; an observer of events. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._up: dict[str, bool] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, NodeReachability):
            with self._lock:
                self._up[event.node] = event.up

    def up(self, node: str) -> bool | None:
        """Whether the last exchange with it worked; None: there was none."""
        with self._lock:
            return self._up.get(node)

    def keep(self, nodes: Collection[str]) -> None:
        """Forget all others: they are not configured any more."""
        with self._lock:
            self._up = {name: up for name, up in self._up.items() if name in nodes}
