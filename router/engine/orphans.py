"""Lets go what rules held back that are gone: it was selected once, and nobody else would let it go."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from router.domain.events import HoldsLeft
from router.domain.holds import HeldRoute, Owner, owner_of
from router.domain.rule import RuleSet
from router.engine.ports import Ledger, Observer

GRACE_SECONDS = 30.0
"""How long a rule must have been gone: who edits in several steps takes it away and brings it back."""
MOST_RELEASED = 10_000
"""Transfers of a rule's route that are let go at once; the rest follows at the next look."""

_Key = tuple[str, str, str]


class Orphans:
    """Looks for holds without an owner now and then. Not thread-safe."""

    def __init__(self, ledger: Ledger, observer: Observer, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._observer = observer
        self._monotonic = monotonic
        self._next = float("-inf")
        self._rules: RuleSet | None = None
        self._gone_since: dict[_Key, float] = {}
        self._asleep: set[_Key] = set()
        """What has been told of."""

    def look(self, rules: RuleSet, now: datetime) -> None:
        """Do what is due; at once where the rules are others than before. Raises LedgerError."""
        at = self._monotonic()
        if at < self._next and rules is self._rules:
            return
        owners = {held: owner_of(held, rules) for held in self._ledger.held_routes()}
        self._next, self._rules = at + GRACE_SECONDS, rules
        gone = {held[:3]: held for held, owner in owners.items() if owner is Owner.GONE}
        self._gone_since = {key: self._gone_since.get(key, at) for key in gone}
        for key, held in gone.items():
            if at - self._gone_since[key] >= GRACE_SECONDS:
                self._release(held, now)
        asleep = {held[:3]: held for held, owner in owners.items() if owner is Owner.ASLEEP}
        for key in asleep.keys() - self._asleep:
            self._tell(asleep[key], asleep[key].transfers, released=False)
        self._asleep = set(asleep)

    def _release(self, held: HeldRoute, now: datetime) -> None:
        released = self._ledger.release_held(held, MOST_RELEASED, now)
        if released:
            self._tell(held, released, released=True)

    def _tell(self, held: HeldRoute, count: int, *, released: bool) -> None:
        self._observer(
            HoldsLeft(rule=held.rule, source=held.source, destination=held.destination, count=count, released=released)
        )
