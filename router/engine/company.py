"""The services that share this ledger, as this one sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from router.domain.overview import ServiceInfo
from router.domain.replicas import agreed
from router.domain.rule import RuleSet

STALE_SECONDS = 30.0
"""After so long without a look nobody knows who else is there."""


class Company:
    """What was seen last; thread-safe. `owner`: this service."""

    def __init__(self, owner: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._owner = owner
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._services: tuple[ServiceInfo, ...] = ()
        self._seen_at = float("-inf")
        self._everybody = False

    def see(self, services: Sequence[ServiceInfo], *, everybody: bool = True) -> None:
        """Those that live, this one among them; whether these are all, or more may come back: the ledger was away."""
        with self._lock:
            self._services, self._seen_at, self._everybody = tuple(services), self._monotonic(), everybody

    @property
    def services(self) -> tuple[ServiceInfo, ...]:
        """Those that lived when somebody looked last, by name."""
        with self._lock:
            return self._services

    @property
    def others(self) -> tuple[ServiceInfo, ...]:
        """The same without this one."""
        return tuple(one for one in self.services if one.owner != self._owner)

    def agrees(self, rules: RuleSet) -> bool:
        """Whether what these rules do not know is for nobody: all services have the same, as far as anyone knows."""
        with self._lock:
            known = self._monotonic() - self._seen_at <= STALE_SECONDS
            return known and self._everybody and agreed(self._services, self._owner, rules.work_hash)
