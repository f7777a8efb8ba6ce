"""What `explain` says, as JSON rows. The field names are a contract."""

from __future__ import annotations

from typing import Any

from router.domain.condition import Explanation
from router.domain.gates import Gate
from router.engine.explained import RuleExplained, StudyExplained, WayExplained, values_seen


def explained_row(explained: StudyExplained) -> dict[str, Any]:
    """The study as its sources have it, and each rule."""
    return {
        "study": {
            one.source: {
                "found": None if one.problem or not one.asked else one.row is not None,
                "problem": one.problem or None,
                "values": values_seen(one),
            }
            for one in explained.seen
        },
        "rules": [_rule_row(one) for one in explained.rules],
    }


def _rule_row(one: RuleExplained) -> dict[str, Any]:
    decides = one.decides
    return {
        "rule": one.rule.name,
        "trigger": one.rule.trigger,
        "source": one.rule.asked,
        "found": one.found,
        "clauses": [
            _clause_row(clause, decides[1:] if decides[:1] == (place,) else None)
            for place, clause in enumerate(one.clauses)
        ],
        "gates": [
            *(_gate_row(gate, None) for gate in one.gates),
            *(_gate_row(gate, way) for way in one.ways for gate in way.gates),
        ],
        "decisions": [_way_row(way) for way in one.ways],
        "next_sweep_at": one.next_sweep_at,
        "notes": list(one.notes),
        "problem": one.problem or None,
    }


def _clause_row(one: Explanation, decides: tuple[int, ...] | None) -> dict[str, Any]:
    """A clause with its parts; `decides`: the way from here to the part that decides, None where it is elsewhere."""
    return {
        "text": one.text,
        "passed": one.passed,
        "decides": decides == (),
        "seen": list(one.seen),
        "parts": [
            _clause_row(part, decides[1:] if decides and decides[0] == place else None)
            for place, part in enumerate(one.parts)
        ],
    }


def _gate_row(gate: Gate, way: WayExplained | None) -> dict[str, Any]:
    """A gate; `destination` is null for those of the rule and its source."""
    return {
        "gate": gate.gate,
        "destination": way.destination if way is not None else None,
        "series": list(way.series) if way is not None else [],
        "state": str(gate.way),
        "passed": gate.passed,
        "reason": gate.reason,
        "opens_at": gate.opens_at,
    }


def _way_row(way: WayExplained) -> dict[str, Any]:
    decision, prior = way.decision, way.decision.prior
    of_prior: dict[str, Any] = {}
    if prior is not None:
        of_prior = {
            "group": prior.group or None,
            "score": prior.score,
            "breakdown": prior.breakdown or None,
            "age_days": prior.age_days,
        }
    return {
        "destination": way.destination or None,
        "series": list(way.series),
        "decision": str(decision.action),
        "code": decision.code,
        "reason": decision.reason,
        "transfer": decision.transfer,
        "conclusion": way.conclusion.text,
        "opens_at": way.conclusion.opens_at,
        **of_prior,
    }
