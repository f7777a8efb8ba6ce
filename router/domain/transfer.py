"""A transfer and its life: the table of states is the only truth about which event leads where.

Rules of this file: every transition is a row of TRANSITIONS; nothing here reads a clock or draws a random number.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec

from router.domain.rule import Retry


class State(StrEnum):
    """Where a transfer stands."""

    QUEUED = "queued"
    HELD = "held"
    MOVING = "moving"
    VERIFYING = "verifying"
    COMPLETE = "complete"
    PARTIAL = "partial"
    NOTHING = "nothing"
    UNPROVEN = "unproven"
    CONTRADICTED = "contradicted"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Happening(StrEnum):
    """What can happen to a transfer."""

    CLAIMED = "claimed"
    """A worker took it up."""
    MOVED = "moved"
    """The C-MOVE ended; evidence decides."""
    RETRY = "retry"
    """The attempt failed in a way that may pass; again after a delay."""
    INTERRUPTED = "interrupted"
    """The router is stopping; again at once when it is back."""
    STOPPED = "stopped"
    """Nothing was moved, for the route is stopped: it waits until the route works again."""
    LEASE_LOST = "lease_lost"
    """The worker is gone and what it did is unknown: verify first."""
    LATER = "later"
    """Evidence may still come; look again after a delay."""
    GAP = "gap"
    """Evidence shows some are missing: move the difference."""
    PROVEN = "proven"
    SOME_MISSING = "some_missing"
    EMPTY = "empty"
    NO_EVIDENCE = "no_evidence"
    CONTRADICTION = "contradiction"
    FAIL = "fail"
    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"
    AGAIN = "again"
    """A person or an explicit sweep asks for it again."""
    GREW = "grew"
    """The source holds more instances than when it was last moved."""
    WAIT = "wait"
    """It is to be moved (again), but its rule holds it back: it settles, or a limit is reached."""


SETTLING = "settling"
STUDIES_PER_SWEEP = "studies-per-sweep"
INSTANCES_PER_DAY = "instances-per-day"
LIMIT_HOLDS = frozenset({STUDIES_PER_SWEEP, INSTANCES_PER_DAY})
RULE_HOLDS = LIMIT_HOLDS | {SETTLING}
"""Causes of a hold that sweeps may end. Any other is a person's, and only a person ends it."""

APPOINTMENT_CANCELLED = "appointment-cancelled"
"""Cause of a cancellation that is nobody's word on the study: whoever asks for it next has it moved."""


_VERDICTS = {
    Happening.PROVEN: State.COMPLETE,
    Happening.SOME_MISSING: State.PARTIAL,
    Happening.EMPTY: State.NOTHING,
    Happening.NO_EVIDENCE: State.UNPROVEN,
    Happening.CONTRADICTION: State.CONTRADICTED,
    Happening.FAIL: State.FAILED,
    Happening.CANCEL: State.CANCELLED,
}

_ENDED = {Happening.GREW: State.QUEUED, Happening.AGAIN: State.QUEUED, Happening.WAIT: State.HELD}

TRANSITIONS: dict[State, dict[Happening, State]] = {
    State.QUEUED: {
        Happening.CLAIMED: State.MOVING,
        Happening.HOLD: State.HELD,
        Happening.CANCEL: State.CANCELLED,
        Happening.GREW: State.QUEUED,
        Happening.AGAIN: State.QUEUED,
    },
    State.HELD: {
        Happening.RELEASE: State.QUEUED,
        Happening.CANCEL: State.CANCELLED,
        Happening.GREW: State.HELD,
        Happening.WAIT: State.HELD,
        Happening.HOLD: State.HELD,  # a person's in place of a rule's
    },
    State.MOVING: {
        Happening.MOVED: State.VERIFYING,
        Happening.RETRY: State.QUEUED,
        Happening.INTERRUPTED: State.QUEUED,
        Happening.STOPPED: State.QUEUED,
        Happening.LEASE_LOST: State.VERIFYING,
        Happening.HOLD: State.HELD,
        **_VERDICTS,
    },
    State.VERIFYING: {
        Happening.CLAIMED: State.VERIFYING,
        Happening.LATER: State.VERIFYING,
        Happening.INTERRUPTED: State.VERIFYING,
        Happening.LEASE_LOST: State.VERIFYING,
        Happening.GAP: State.QUEUED,
        Happening.RETRY: State.QUEUED,
        Happening.HOLD: State.HELD,
        **_VERDICTS,
    },
    State.COMPLETE: _ENDED,
    State.PARTIAL: _ENDED,
    State.NOTHING: _ENDED,
    State.UNPROVEN: _ENDED,
    State.CONTRADICTED: _ENDED,
    State.FAILED: _ENDED,
    State.CANCELLED: {Happening.AGAIN: State.QUEUED},
}

ENDED = frozenset(_VERDICTS.values())
"""States in which nothing is under way any more; each is a verdict."""

UNDER_WAY = frozenset(State) - ENDED


WISHES: dict[Happening, str] = {
    Happening.CANCEL: "Cancelled by a person.",
    Happening.HOLD: "Held by a person; `transfers release` lets it go on.",
}
"""What a person may say of a transfer that a worker holds, with the reason that stands there once it has happened.

The worker is told to stop; what has arrived stays. Where its work has ended otherwise meanwhile, that stands.
"""


class IllegalTransition(ValueError):
    """The table of transfer states has no such transition."""


def after(state: State, happening: Happening) -> State:
    """The state that a happening leads to. Raises IllegalTransition where the table has none."""
    try:
        return TRANSITIONS[state][happening]
    except KeyError:
        raise IllegalTransition(f"A transfer that is {state} cannot take {happening}.") from None


class Intent(NamedTuple):
    """What makes a transfer the same transfer, whichever rule asks. `series_instance_uid` is empty for a study."""

    source: str
    study_instance_uid: str
    series_instance_uid: str
    destination: str


class Route(NamedTuple):
    """From a source to a destination, by their names in the configuration."""

    source: str
    destination: str


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Why a route is to be stopped, and when one transfer is to try it again."""

    cause: str
    reason: str
    probe_at: datetime


class TransferFact(NamedTuple):
    """What the ledger knows of an intent, as far as a selection needs it."""

    id: int
    state: State
    instance_count: int | None
    cause: str


class Instance(NamedTuple):
    """An instance at the source."""

    series_instance_uid: str
    sop_instance_uid: str


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why a rule holds a transfer back, and until when."""

    cause: str
    """One of RULE_HOLDS."""
    reason: str
    since: datetime
    """Since when it has been held with the number of instances that it has now."""
    next_at: datetime
    """From when a sweep may release it."""


class NewTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """A decision to move, to be written to the ledger: a new intent, or a known one that grew or is asked again."""

    intent: Intent
    rule: str
    priority: int
    instance_count: int | None
    patient_id: str = ""
    """Needed by Patient Root requests only; never printed."""
    availability: str = ""
    """Instance Availability (0008,0056), empty where the source does not say."""
    happening: Happening | None = None
    """None for a new intent, else GREW, AGAIN, RELEASE or WAIT."""
    hold: Hold | None = None
    """Set where the rule holds it back: it is written down as held, not queued."""
    charge: int = 0
    """Instances by which queueing it uses up the rule's `instances_per_day`."""
    deadline_at: datetime | None = None
    """When it should be there: the appointment that it is for."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """One study or series to one destination, as the ledger holds it."""

    id: int
    intent: Intent
    rule: str
    priority: int
    state: State
    instance_count: int | None
    """Instances the source reported at the last sweep: the fingerprint that shows growth."""
    patient_id: str = ""
    expected: int | None = None
    completed: int = 0
    """Instances known to be there: by evidence where there is some, else by the PACS's counters."""
    failed: int = 0
    warning: int = 0
    attempts: int = 0
    """Runs of a C-MOVE since it was last queued anew."""
    rounds: int = 0
    """Repairs of a gap since it was last queued anew."""
    looks: int = 0
    """Looks for evidence since the last C-MOVE."""
    status: int | None = None
    cause: str = ""
    reason: str = ""
    fence: int = 0
    queued_at: datetime
    """When it was queued; while its rule holds it back, since when (`Hold.since`)."""
    started_at: datetime | None = None
    """When it was first claimed since it was last queued anew."""
    next_at: datetime
    finished_at: datetime | None = None
    updated_at: datetime
    lease_until: datetime | None = None
    availability: str = ""
    """Instance Availability (0008,0056) as the last sweep that queued it saw it; empty where the source did not say."""
    wish: str = ""
    """What a person asked for while a worker holds it: a happening of WISHES."""
    deadline_at: datetime | None = None
    """When it should be there; the earliest of the appointments that it is for."""

    @property
    def ended(self) -> bool:
        """Whether it has its verdict."""
        return self.state in ENDED

    @property
    def route(self) -> Route:
        """The way it takes."""
        return Route(self.intent.source, self.intent.destination)


URGENT = timedelta(hours=1)
"""How long before its deadline a transfer goes before all others."""

WAITED = timedelta(days=1)
"""How long before its deadline a transfer counts as having begun to wait: the earlier deadline goes first."""


def timely(transfer: Transfer, now: datetime) -> str | None:
    """Whether what had a deadline was there in time, a word of `router.domain.events.TIMELINESS`.

    None where it had none, or a person (or its appointment) gave it up.
    """
    if transfer.deadline_at is None or transfer.state is State.CANCELLED:
        return None
    if transfer.state not in (State.COMPLETE, State.UNPROVEN):
        return "missing"
    return "on_time" if now <= transfer.deadline_at else "late"


def lead_of(transfer: Transfer, now: datetime) -> float | None:
    """How many seconds before its deadline something is there; negative: after it. None where there is nothing."""
    if transfer.deadline_at is None or transfer.state not in (State.COMPLETE, State.UNPROVEN):
        return None
    return (transfer.deadline_at - now).total_seconds()


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """How a claimed step of a transfer ended; written only if the fence number still holds."""

    happening: Happening
    next_at: datetime | None = None
    cause: str = ""
    reason: str = ""
    comment: str = ""
    """What the peer said of it: remembered with the attempt, never logged."""
    status: int | None = None
    expected: int | None = None
    completed: int = 0
    failed: int = 0
    warning: int = 0
    moved: bool = False
    """A C-MOVE was sent: counts as an attempt and resets the looks."""
    stop: Stop | None = None
    """Stop the route, in the same transaction."""


class Ending(NamedTuple):
    """A claimed step that has ended, and when it began."""

    transfer: Transfer
    finish: Finish
    started_at: datetime


SAID = " It says: "
"""Stands between the reason of an attempt and what the peer said of it."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a C-MOVE, or one look for evidence, as the ledger remembers it."""

    number: int
    step: str
    """`move` or `verify`."""
    started_at: datetime
    finished_at: datetime
    happening: str
    cause: str
    reason: str
    status: int | None
    completed: int
    failed: int
    warning: int

    @property
    def discreet(self) -> Attempt:
        """The same without what the peer said, which may name a patient."""
        return msgspec.structs.replace(self, reason=self.reason.partition(SAID)[0])


def backoff(retry: Retry, attempts: int, uniform: float) -> timedelta:
    """The wait before the next attempt: exponential with full jitter.

    `attempts` counts those made (at least 1), `uniform` is a random number of [0, 1).
    """
    ceiling = min(retry.maximum_delay, retry.delay * 2.0 ** min(max(attempts, 1) - 1, 32))
    return timedelta(seconds=ceiling * uniform)
