"""From what a source answered and what the ledger knows to a decision per study and destination, each with its reason.

Reasons hold no identifier: they are stored and printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from router.domain.dicom import Identifier
from router.domain.transfer import TRANSITIONS, UNDER_WAY, Happening, Intent, NewTransfer, State, TransferFact


class Action(StrEnum):
    """What a decision says."""

    MOVE = "move"
    HOLD = "hold"
    SKIP = "skip"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A study or series that a rule selected. `series_instance_uid` is empty for a study."""

    study_instance_uid: str
    series_instance_uid: str = ""
    instance_count: int | None = None
    patient_id: str = ""
    identifier: Identifier


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done for one study or series at one destination, and why.

    `destination` is empty where a study was left out before destinations mattered.
    """

    action: Action
    code: str
    reason: str
    study_instance_uid: str
    series_instance_uid: str = ""
    destination: str = ""
    instance_count: int | None = None
    transfer: int | None = None
    """The ledger's transfer, where there is one."""
    new: NewTransfer | None = None
    """What the ledger is to queue, for `move`."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """All decisions of one sweep."""

    decisions: list[Decision]

    @property
    def to_move(self) -> list[NewTransfer]:
        """What the ledger is to queue."""
        return [decision.new for decision in self.decisions if decision.new is not None]

    @property
    def under_way(self) -> list[int]:
        """Transfers that were found under way already."""
        return [d.transfer for d in self.decisions if d.code == "under-way" and d.transfer is not None]


AGAIN_WHEN_ASKED = frozenset({State.FAILED, State.PARTIAL, State.CONTRADICTED})
"""Verdicts that a sweep asked for by a person tries to better; a scheduled one leaves them."""

PRIORITIES = {"urgent": 0, "normal": 1, "low": 2}


def decide(
    *,
    rule: str,
    source: str,
    destinations: Sequence[str],
    priority: str,
    candidates: Sequence[Candidate],
    facts: Mapping[Intent, TransferFact],
    manual: bool,
) -> list[Decision]:
    """A decision for each candidate and destination. `manual`: a person asked, so failures are tried again."""
    decisions = []
    for candidate in candidates:
        for destination in destinations:
            intent = Intent(source, candidate.study_instance_uid, candidate.series_instance_uid, destination)
            code, reason, happening = _judge(facts.get(intent), candidate.instance_count, manual)
            fact = facts.get(intent)
            new = None
            if code in _MOVING:
                new = NewTransfer(
                    intent=intent,
                    rule=rule,
                    priority=PRIORITIES[priority],
                    instance_count=candidate.instance_count,
                    patient_id=candidate.patient_id,
                    happening=happening,
                )
            decisions.append(
                Decision(
                    action=Action.MOVE if new else Action.HOLD if code == "held" else Action.SKIP,
                    code=code,
                    reason=reason,
                    study_instance_uid=candidate.study_instance_uid,
                    series_instance_uid=candidate.series_instance_uid,
                    destination=destination,
                    instance_count=candidate.instance_count,
                    transfer=fact.id if fact else None,
                    new=new,
                )
            )
    return decisions


_MOVING = frozenset({"new", "grew", "again"})


def _judge(fact: TransferFact | None, count: int | None, manual: bool) -> tuple[str, str, Happening | None]:
    if fact is None:
        return "new", "not moved before", None
    if count is not None and count != fact.instance_count and Happening.GREW in TRANSITIONS[fact.state]:
        # Fewer than before counts too: something was taken away, something else may have come.
        before = "an unknown number of" if fact.instance_count is None else fact.instance_count
        return "grew", f"changed from {before} to {count} instances", Happening.GREW
    if fact.state is State.HELD:
        return "held", "held by an administrator", None
    if fact.state in UNDER_WAY:
        return "under-way", f"already {fact.state}", None
    if fact.state in AGAIN_WHEN_ASKED:
        if manual:
            return "again", f"{fact.state} before; asked for again", Happening.AGAIN
        return "failed-before", f"{fact.state} before ({fact.cause}); `apply` or `transfers retry` asks again", None
    if fact.state is State.NOTHING:
        return "again", "was gone before, but the source lists it now", Happening.AGAIN
    return "done", f"already {fact.state}", None
