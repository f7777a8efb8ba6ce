"""What a rule would pass on of what the store holds now, and why not the rest. For people: it writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Protocol

from router.domain.allowance import allowance
from router.domain.arriving import counting, tags_of, to_read, zone_of
from router.domain.condition import Evaluation
from router.domain.forward_choice import Health
from router.domain.forward_explanation import ForwardExplained, Surroundings, explain_forward, passed_on
from router.domain.forwarding import Known
from router.domain.passing import unwell
from router.domain.receipt import Receipt
from router.domain.route import StoppedRoute
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Selection
from router.domain.stored import StoredStudy
from router.domain.stores import chosen
from router.domain.transfer import Intent
from router.engine.look import Answer
from router.engine.passing import ReadHeaders

MOST_STUDIES = 1000
"""Studies of the store that one plan of a rule looks at, what came last first."""


class Shelf(Protocol):
    """What is asked of the ledger."""

    def receipts_of(self, study: str, series: str = "") -> list[Receipt]:
        """What the store holds of a study."""

    def known_of(self, study: str) -> dict[Intent, Known]:
        """Every transfer of a study from `local`."""

    def given(self, rule: str) -> dict[str, int]:
        """Node -> how many studies it has got of a rule."""

    def stopped_routes(self) -> list[StoppedRoute]:
        """The routes that are stopped."""

    def stored_studies(
        self, *, only: Collection[str] | None = None, callers: Collection[str] | None = None, limit: int = 100
    ) -> list[StoredStudy]:
        """Studies of which one of these AE titles stored something, what came last first."""


class ForwardLook:
    """Looks at what is in the store as rules that pass on would. Not thread-safe."""

    def __init__(
        self,
        rules: RuleSet,
        ledger: Shelf,
        headers: ReadHeaders,
        left_alone: Callable[[], Collection[str]] = tuple,
        store: str = "",
    ) -> None:
        """`left_alone`: nodes that a running service leaves alone; `store`: the name of the own one."""
        self._store = store
        self._rules = rules
        self._ledger = ledger
        self._headers = headers
        self._left_alone = left_alone

    def beside(self, rules: RuleSet) -> ForwardLook:
        """The same for another configuration, on the same ledger and store."""
        return ForwardLook(rules, self._ledger, self._headers, self._left_alone, self._store)

    def plan(self, rule: Rule, now: datetime) -> Answer:
        """What it would do with each study that one of its senders sent. Raises LedgerError."""
        arrival = rule.arrival
        assert arrival is not None
        titles = [title for title, name in self._rules.callers.items() if name in arrival.senders]
        callers = titles if arrival.senders else None
        stored = self._ledger.stored_studies(callers=callers, limit=MOST_STUDIES + 1)
        health, studies = self._health(rule, now), self._ledger.given(rule.name)
        decisions = []
        for one in stored[:MOST_STUDIES]:
            found = self._explained(rule, one.study_instance_uid, now, health, studies, manual=True)
            decisions += passed_on(one.study_instance_uid, found)
            for passage in found.passages:
                if passage.decision.new is not None and passage.decision.new.happening is None:
                    studies[passage.decision.destination] = studies.get(passage.decision.destination, 0) + 1
        more = len(stored) > MOST_STUDIES
        return Answer(
            selection=Selection(decisions=decisions),
            matches=min(len(stored), MOST_STUDIES),
            queries=0,
            complete=not more,
            reason=f"The store holds more; the {MOST_STUDIES} studies that came last were looked at." if more else "",
        )

    def explain(self, rule: Rule, study: str, now: datetime) -> ForwardExplained:
        """Why it passes a study on, or does not. Raises LedgerError."""
        return self._explained(rule, study, now, self._health(rule, now), self._ledger.given(rule.name), manual=False)

    def _explained(
        self,
        rule: Rule,
        study: str,
        now: datetime,
        health: Mapping[str, Health],
        studies: Mapping[str, int],
        *,
        manual: bool,
    ) -> ForwardExplained:
        assert rule.arrival is not None
        assert rule.forward is not None
        receipts = chosen(self._ledger.receipts_of(study), self._store)
        callers = self._rules.callers
        asked = to_read(rule.where, rule.forward.level, counting(receipts, rule.arrival, callers))
        return explain_forward(
            rule,
            receipts,
            self._headers(asked, tags_of(rule.where)) if asked else {},
            Evaluation(now=now, zone=zone_of(self._rules, rule)),
            Surroundings(
                known=self._ledger.known_of(study), health=health, studies=studies, callers=callers, manual=manual
            ),
        )

    def _health(self, rule: Rule, now: datetime) -> dict[str, Health]:
        """Of the destinations that cannot take anything now."""
        assert rule.forward is not None
        alone = self._left_alone()
        return unwell(
            rule.forward.nodes,
            self._rules,
            self._ledger.stopped_routes(),
            left_alone=lambda node: node.name in alone,
            open_now=lambda node: allowance(node, self._rules.windows, now).open,
        )
