"""From what a source answered and what the ledger knows to a decision per study and destination, each with its reason.

Reasons hold no identifier: they are stored and printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from enum import StrEnum

import msgspec

from router.domain.dicom import Identifier
from router.domain.levels import AVAILABILITIES, NEARLINE, NOT_TO_BE_HAD, OFFLINE, UNAVAILABLE
from router.domain.relevance import Prior
from router.domain.transfer import (
    APPOINTMENT_CANCELLED,
    RULE_HOLDS,
    SETTLING,
    TRANSITIONS,
    UNDER_WAY,
    Happening,
    Intent,
    NewTransfer,
    State,
    TransferFact,
)


class Action(StrEnum):
    """What a decision says."""

    MOVE = "move"
    HOLD = "hold"
    SKIP = "skip"


class Candidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A study or series that a rule selected. `series_instance_uid` is empty for a study."""

    study_instance_uid: str
    series_instance_uid: str = ""
    instance_count: int | None = None
    patient_id: str = ""
    availability: str = ""
    """Instance Availability (0008,0056); empty where the source does not say, which is taken as ONLINE."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    availability: str = ""
    """Instance Availability as the source gives it."""
    transfer: int | None = None
    """The ledger's transfer, where there is one."""
    new: NewTransfer | None = None
    """What the ledger is to write: to queue it for `move`, to hold it (or to note how it grew) for `hold`."""
    prior: Prior | None = None
    """Why it was chosen, or not, where it is about the priors of a current study."""


def left_out(row: Identifier, code: str, reason: str) -> Decision:
    """The decision about a match that is left out before destinations matter."""
    return Decision(
        action=Action.SKIP,
        code=code,
        reason=reason,
        study_instance_uid=row.text("StudyInstanceUID"),
        series_instance_uid=row.text("SeriesInstanceUID"),
        instance_count=row.number("NumberOfStudyRelatedInstances"),
    )


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """All decisions of one sweep."""

    decisions: list[Decision]
    day: date | None = None
    """The source's day to which the rule's `instances_per_day` is charged; None: it has no such limit."""

    @property
    def to_move(self) -> list[NewTransfer]:
        """What the ledger is to queue."""
        return [d.new for d in self.decisions if d.new is not None and d.action is Action.MOVE]

    @property
    def to_hold(self) -> list[NewTransfer]:
        """What the ledger is to hold, or holds and is to count anew."""
        return [d.new for d in self.decisions if d.new is not None and d.action is Action.HOLD]

    @property
    def newly_held(self) -> dict[str, int]:
        """How many transfers the rule holds back from now on, by a word of `router.domain.events.HELD_BACK`."""
        return dict(Counter(new.hold.cause.replace("-", "_") for new in self.to_hold if new.hold is not None))

    @property
    def under_way(self) -> list[int]:
        """Transfers that were found under way already."""
        return [d.transfer for d in self.decisions if d.code == "under-way" and d.transfer is not None]

    @property
    def unavailable(self) -> int:
        """How many studies or series would be moved if the source could send them."""
        return len({(d.study_instance_uid, d.series_instance_uid) for d in self.decisions if d.code == "unavailable"})


AGAIN_WHEN_ASKED = frozenset({State.FAILED, State.PARTIAL, State.CONTRADICTED})
"""Verdicts that a sweep asked for by a person tries to better; a scheduled one leaves them."""

SETTLES, LIMITED = "settling", "limit"
"""Codes of what a rule holds back; see `router.domain.restraint`."""

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
    judge = _Judge(manual)
    usual, move = PRIORITIES[priority], Action.MOVE
    for candidate in candidates:
        study, series, count = candidate.study_instance_uid, candidate.series_instance_uid, candidate.instance_count
        for destination in destinations:
            fact = facts.get((source, study, series, destination))  # type: ignore[call-overload]
            verdict = _NEW if fact is None else judge(fact, count)
            new = None
            availability = candidate.availability
            urgency = usual
            if verdict.action is move and availability:
                availability = availability.upper()
                if availability in NOT_TO_BE_HAD:
                    verdict = _UNAVAILABLE[availability]
                elif availability == NEARLINE:
                    # After what is online, for a tape may take an hour.
                    urgency = min(urgency + 1, PRIORITIES["low"])
                    reason = f"{verdict.reason}; near line, so it takes longer"
                    verdict = msgspec.structs.replace(verdict, reason=reason)
            if verdict.action is move or verdict.happening is not None:
                new = NewTransfer(
                    intent=Intent(source, study, series, destination),
                    rule=rule,
                    priority=urgency,
                    instance_count=count,
                    patient_id=candidate.patient_id,
                    availability=availability if availability in AVAILABILITIES else "",
                    happening=verdict.happening,
                )
            decisions.append(
                Decision(
                    action=verdict.action,
                    code=verdict.code,
                    reason=verdict.reason,
                    study_instance_uid=study,
                    series_instance_uid=series,
                    destination=destination,
                    instance_count=count,
                    availability=availability,
                    transfer=fact.id if fact is not None else None,
                    new=new,
                )
            )
    return decisions


class _Verdict(msgspec.Struct, frozen=True):
    """What a decision says, whichever study it is about."""

    action: Action
    code: str
    reason: str
    happening: Happening | None = None


_NEW = _Verdict(Action.MOVE, "new", "not moved before")
_UNAVAILABLE = {
    OFFLINE: _Verdict(Action.SKIP, "unavailable", "off line at the source (OFFLINE); the next sweep asks again"),
    UNAVAILABLE: _Verdict(
        Action.SKIP, "unavailable", "not to be had from the source (UNAVAILABLE); the next sweep asks again"
    ),
}


class _Judge:
    """Says what is to be done about what is known. Neighbours in a sweep mostly stand alike: that is said once."""

    def __init__(self, manual: bool) -> None:
        self._manual = manual
        self._state: State | None = None
        self._cause = ""
        self._verdict = _NEW

    def __call__(self, fact: TransferFact, count: int | None) -> _Verdict:
        _, state, before, cause = fact
        if count is not None and count != before and Happening.GREW in TRANSITIONS[state]:
            # Fewer than before counts too: something was taken away, something else may have come.
            known = "an unknown number of" if before is None else before
            reason = f"changed from {known} to {count} instances"
            if state is State.HELD:
                return msgspec.structs.replace(_held(cause), happening=Happening.GREW)
            return _Verdict(Action.MOVE, "grew", reason, Happening.GREW)
        if state is not self._state or cause != self._cause:
            self._state, self._cause = state, cause
            self._verdict = _unchanged(state, cause, self._manual)
        return self._verdict


def _held(cause: str) -> _Verdict:
    if cause not in RULE_HOLDS:
        return _Verdict(Action.HOLD, "held", "held by an administrator")
    return _Verdict(Action.HOLD, *held_by_rule(cause))


def held_by_rule(cause: str) -> tuple[str, str]:
    """Code and reason of what goes on being held by a rule for a cause of RULE_HOLDS."""
    if cause == SETTLING:
        return SETTLES, "its number of instances is still being watched (settle)"
    return LIMITED, f"held until there is room ({cause.replace('-', '_')})"


def _unchanged(state: State, cause: str, manual: bool) -> _Verdict:
    if state is State.HELD:
        return _held(cause)
    if state in UNDER_WAY:
        return _Verdict(Action.SKIP, "under-way", f"already {state}")
    if state in AGAIN_WHEN_ASKED:
        if manual:
            return _Verdict(Action.MOVE, "again", f"{state} before; asked for again", Happening.AGAIN)
        reason = f"{state} before ({cause}); `apply` or `transfers retry` asks again"
        return _Verdict(Action.SKIP, "failed-before", reason)
    if state is State.NOTHING:
        return _Verdict(Action.MOVE, "again", "was gone before, but the source lists it now", Happening.AGAIN)
    if state is State.CANCELLED and cause == APPOINTMENT_CANCELLED:
        return _Verdict(Action.MOVE, "again", "was cancelled with an appointment, and is wanted again", Happening.AGAIN)
    return _Verdict(Action.SKIP, "done", f"already {state}")
