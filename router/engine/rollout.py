"""While a new configuration is rolled out over several replicas: work for what only another one knows is left to it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from router.domain.rule import LOCAL, RuleSet
from router.domain.sweep import SweepRecord
from router.domain.transfer import Route, State, Transfer
from router.engine.giving_back import give_back
from router.engine.leases import Work
from router.engine.ports import Clock, Ledger


class Agrees(Protocol):
    """Tells whether all services on the ledger have the same rules."""

    def __call__(self, rules: RuleSet, *, anew: bool = False) -> bool:
        """Whether they have these: as was seen last, or (`anew`) as the ledger has it now. Raises LedgerError then."""


class Rollout:
    """Only where all services have the same rules is what they do not know for nobody. Not thread-safe.

    Then such work ends, and says why.
    """

    def __init__(self, ledger: Ledger, agrees: Agrees, clock: Clock) -> None:
        self._ledger = ledger
        self._agrees = agrees
        self._clock = clock
        self.strangers: list[str] = []
        """Nodes that work waits for but no configuration has: it is claimed, and ends saying so."""
        self.routes: frozenset[Route] = frozenset()
        """Where transfers wait whose destination only another configuration has."""

    def agrees(self, rules: RuleSet) -> bool:
        """See the class."""
        return self._agrees(rules)

    def look(self, rules: RuleSet, known: Collection[str]) -> None:
        """See what waits. Raises LedgerError."""
        sources = {sweep.due.source for sweep in self._ledger.open_sweeps()} | self._ledger.waiting_sources()
        rows = [row for row in self._ledger.backlog() if row.state in (State.QUEUED, State.VERIFYING)]
        found = sources.union(*({row.source, row.destination} for row in rows))
        agreed = self._agrees(rules)
        self.strangers = sorted(found - set(known)) if agreed else []
        routes = () if agreed else (Route(row.source, row.destination) for row in rows)
        self.routes = frozenset(route for route in routes if not set(route) <= set(known))

    def claim_sweep(
        self, rules: RuleSet, sources: Sequence[str], now: datetime, lease_seconds: float
    ) -> SweepRecord | None:
        """The oldest due sweep of these sources that have none due which is another's. Raises LedgerError."""
        if not self._agrees(rules):
            others = {one.due.source for one in self._ledger.open_sweeps() if not _knows(rules, one)}
            sources = [source for source in sources if source not in others]
        return self._ledger.claim_sweep(sources, now, lease_seconds) if sources else None

    def leaves(self, claim: Work, rules: RuleSet) -> bool:
        """Whether this work is another's. Then it has been given back, for others to take. Raises LedgerError."""
        # Seen anew: what was seen last is of before a service adopted what it made this work of.
        if _knows(rules, claim) or (self._agrees(rules) and self._agrees(rules, anew=True)):
            return False
        give_back(self._ledger, claim, "other-configuration", self._clock.now())
        return True


def _knows(rules: RuleSet, claim: Work) -> bool:
    """Whether the rules have what the work is about; how evidence is looked for the rule says as well."""
    if isinstance(claim, Transfer):
        intent = claim.intent
        nodes = all(name == LOCAL or rules.node(name) is not None for name in (intent.source, intent.destination))
        return nodes and claim.rule in rules.rules
    rule = rules.rules.get(claim.due.rule if isinstance(claim, SweepRecord) else claim.rule)
    return rule is not None and rule.enabled
