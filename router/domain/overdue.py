"""When a rule's next sweep is due, by its schedules and its source's windows. Pure."""

from __future__ import annotations

from datetime import datetime

from router.domain.allowance import allowance, opens_at
from router.domain.rule import RuleSet


def sweep_due(rules: RuleSet, name: str, after: datetime) -> datetime | None:
    """The first moment (UTC) after that one at which the rule's sweep is due and its source's windows are open.

    None where it never is: the rule is disabled, has no schedule, or its source never opens again.
    """
    rule = rules.rules[name]
    node = rules.node(rule.asked)
    if not rule.enabled or not rule.tiers or node is None:
        return None
    due = min(tier.schedule.next_due(after) for tier in rule.tiers)
    return due if allowance(node, rules.windows, due).open else opens_at(node, rules.windows, due)
