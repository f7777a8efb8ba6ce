"""A sweep as the ledger holds it: one run of a rule's C-FIND."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class SweepState(StrEnum):
    """Where a sweep stands."""

    DUE = "due"
    RUNNING = "running"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


SWEEP_ENDED = frozenset({SweepState.COMPLETE, SweepState.INCOMPLETE, SweepState.FAILED})


class SweepDue(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep that is to run. Unique per rule and due time."""

    rule: str
    source: str
    due_at: datetime
    tier: int = 0
    manual: bool = False
    """A person asked for it: what failed before is asked again."""


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a sweep ended."""

    state: SweepState
    matches: int = 0
    selected: int = 0
    queries: int = 0
    cause: str = ""
    reason: str = ""
    """A sentence for people, without identifiers."""
    account: str = ""
    """What it took to find everything, as a sentence; empty where one query did."""
    dropped: dict[str, int] = {}
    """Matches left out, by why: `duplicate`, `level`, `uid`, `undecodable`."""


class SweepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger."""

    id: int
    due: SweepDue
    state: SweepState
    report: SweepReport | None = None
    fence: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
