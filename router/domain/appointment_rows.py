"""Appointments and the decisions about priors, as JSON rows. The field names are a contract. Pure.

Nothing in them identifies a patient, but for the UIDs of studies.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from router.domain.appointment import Appointment
from router.domain.relevance import Prior
from router.domain.rule import RuleSet

Considered = tuple[Appointment, Prior]


def at_source(moment: datetime | None, source: str, rules: RuleSet) -> datetime | None:
    """A moment in the time zone of the node where the priors are; where that is gone, in this machine's."""
    if moment is None:
        return None
    node = rules.node(source)
    return moment.astimezone(ZoneInfo(node.timezone) if node is not None else None)


def appointment_row(appointment: Appointment, rules: RuleSet) -> dict[str, Any]:
    """An appointment as JSON."""
    return {
        "id": appointment.id,
        "rule": appointment.rule,
        "trigger": appointment.trigger,
        "source": appointment.source,
        "start": at_source(appointment.start_at, appointment.source, rules),
        "due": at_source(appointment.due_at, appointment.source, rules),
        "state": str(appointment.state),
        "candidates": appointment.candidates,
        "taken": appointment.taken,
        "queries": appointment.queries,
        "complete": appointment.complete,
        "cause": appointment.cause or None,
        "reason": appointment.reason,
        "noted": appointment.noted_at,
        "looked": appointment.finished_at,
    }


def prior_row(prior: Prior) -> dict[str, Any]:
    """A decision about a candidate as JSON."""
    return {
        "study_instance_uid": prior.study_instance_uid,
        "destination": prior.destination,
        "decision": decision(prior),
        "code": prior.code,
        "reason": prior.reason,
        "group": prior.group or None,
        "score": prior.score,
        "breakdown": prior.breakdown,
        "age_days": prior.age_days,
    }


def considered_row(one: Considered, rules: RuleSet) -> dict[str, Any]:
    """A decision with the appointment that it was made for, as JSON."""
    appointment, prior = one
    return {
        "rule": appointment.rule,
        "appointment": appointment.id,
        "start": at_source(appointment.start_at, appointment.source, rules),
        **prior_row(prior),
    }


def decision(prior: Prior) -> str:
    """In the words of `plan`."""
    return "move" if prior.taken else "skip"
