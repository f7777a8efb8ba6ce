"""What `plan` found out: a rule's look at its source, with its decisions and what they come to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from router.cli.plan_priors import PlannedPriors, plan_priors
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Action, Decision
from router.domain.transfer import Intent
from router.engine.look import Answer
from router.engine.sharing import Wanted
from router.engine.sweep import Sweeper
from router.errors import RouterError
from router.service import Planner


class Planned(NamedTuple):
    """What one rule's sweep would do; no answer where the source could not be asked."""

    rule: Rule
    answer: Answer | None
    problem: str = ""
    priors: Sequence[PlannedPriors] = ()
    """For each current study that was looked at, where the rule moves priors."""
    currents: int = 0
    """Current studies, those that were not looked at too."""

    @property
    def decisions(self) -> list[Decision]:
        """About what the sweep found, and about priors."""
        found = list(self.answer.selection.decisions) if self.answer else []
        return found + [decision for one in self.priors if one.looked for decision in one.looked.decisions]

    @property
    def moves(self) -> dict[Intent, int | None]:
        """What would be moved, each once, with its number of instances (None: not known)."""
        return {
            Intent(self.rule.source, one.study_instance_uid, one.series_instance_uid, one.destination): (
                one.instance_count
            )
            for one in self.decisions
            if one.action is Action.MOVE
        }

    @property
    def failure(self) -> str:
        """Why not everything could be asked; empty where it could."""
        if self.answer is None:
            return self.problem
        return next((one.problem for one in self.priors if one.looked is None), "")

    @property
    def doubt(self) -> str:
        """Why an answer is incomplete; empty where all are complete."""
        if self.answer is not None and not self.answer.complete:
            return self.answer.reason
        return next((one.looked.reason for one in self.priors if one.looked and not one.looked.complete), "")


def plan_rules(opened: Planner, chosen: Sequence[tuple[RuleSet, Rule]], at: datetime) -> list[Planned]:
    """Plan rules, all as of one moment (aware); what is asked for one serves those after it. Raises LedgerError."""
    asked = [opened.sweeper.questions(rules, rule, at) for rules, rule in chosen]
    ahead: dict[str, deque[Wanted]] = {}
    for (_, rule), questions in zip(chosen, asked, strict=True):
        ahead.setdefault(rule.asked, deque()).extend(questions)
    planned = []
    for (rules, rule), questions in zip(chosen, asked, strict=True):
        for _ in questions:  # what it asks itself is ahead of the others'
            ahead[rule.asked].popleft()
        planned.append(_plan_rule(opened, rules, rule, tuple(ahead[rule.asked]), at))
    return planned


def _plan_rule(opened: Planner, rules: RuleSet, rule: Rule, beside: Sequence[Wanted], at: datetime) -> Planned:
    if rule.forward is not None:
        return Planned(rule, opened.forwards.plan(rule, at))
    planned = look(opened.sweeper, rules, rule, beside, at)
    if rule.priors is None or planned.answer is None:
        return planned
    priors, currents = plan_priors(opened, rules, rule, planned.answer.notices)
    return planned._replace(priors=priors, currents=currents)


def look(sweeper: Sweeper, rules: RuleSet, rule: Rule, beside: Sequence[Wanted], at: datetime) -> Planned:
    """Plan one rule without its priors; what is asked serves those `beside` as well."""
    try:
        answer = sweeper.look(rules, rule, threading.Event(), tier=rule.widest_tier, manual=True, beside=beside, at=at)
        return Planned(rule, answer)
    except RouterError as error:
        return Planned(rule, None, str(error))
