"""A plan as JSON rows. The field names are a contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.cli.plan_estimate import Forecaster, estimate_json
from router.cli.plan_priors import prior_fields, priors_row
from router.cli.planned import Planned
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Decision


def plan_json(rules: RuleSet, planned: Sequence[Planned], forecaster: Forecaster) -> dict[str, Any]:
    """A plan as JSON. Raises LedgerError."""
    looks = {"appointments": [priors_row(rules, one.rule, prior) for one in planned for prior in one.priors]}
    return {
        "sweeps": [
            {
                "rule": one.rule.name,
                "source": one.rule.asked,
                "matches": one.answer.matches if one.answer else 0,
                "complete": one.answer.complete if one.answer else False,
                "queries": one.answer.queries if one.answer else 0,
                "reason": one.answer.reason if one.answer else one.problem,
                "account": one.answer.account if one.answer else "",
            }
            for one in planned
        ],
        **(looks if any(one.rule.priors is not None for one in planned) else {}),
        "estimate": estimate_json(planned, forecaster),
        "transfers": [_decision_row(one.rule, decision) for one in planned for decision in one.decisions],
    }


def _decision_row(rule: Rule, decision: Decision) -> dict[str, Any]:
    """A decision as JSON; `destination` is null where a study is left out before destinations matter."""
    return {
        "rule": rule.name,
        "source": rule.source,
        "destination": decision.destination or None,
        "study_instance_uid": decision.study_instance_uid,
        "series_instance_uid": decision.series_instance_uid or None,
        "decision": str(decision.action),
        "expected": decision.instance_count,
        "availability": decision.availability or None,
        "completed": 0,
        "failed": 0,
        "warning": 0,
        "attempts": 0,
        "status": None,
        "code": decision.code,
        "reason": decision.reason,
        **prior_fields(decision),
    }
