"""What becomes of what a rule holds back when the rule is removed, disabled, or leads elsewhere."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from router.domain.rule import RuleSet


class HeldRoute(NamedTuple):
    """How many transfers a rule holds back on a route."""

    rule: str
    source: str
    destination: str
    transfers: int


class Owner(StrEnum):
    """What a configuration says of the rule that holds something back."""

    LEADS = "leads"
    """It moves studies this way: its sweeps let go what it holds."""
    ASLEEP = "asleep"
    """It would, but is disabled: nothing is to begin because of it."""
    GONE = "gone"
    """There is no such rule any more, or it does not lead this way: nobody else would let go what it held."""


def owner_of(held: HeldRoute, rules: RuleSet) -> Owner:
    """Whether a rule that holds something back still leads where it held it."""
    rule = rules.rules.get(held.rule)
    if rule is None or rule.sweep is None or rule.priors is not None:
        return Owner.GONE
    if rule.sweep.source != held.source or held.destination not in rule.move.to:
        return Owner.GONE
    return Owner.LEADS if rule.enabled else Owner.ASLEEP
