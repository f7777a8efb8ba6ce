"""What a ledger tells about itself: who works on it, and how much waits."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from router.domain.route import StoppedRoute
from router.domain.sweep import SweepRecord
from router.domain.transfer import ENDED, State, Transfer


class ServiceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A running service on a ledger."""

    owner: str
    address: str
    """Of its HTTP, host:port."""
    seen_at: datetime
    content_hash: str = ""
    """Of the configuration it runs."""
    work_hash: str = ""
    """Of what it says about work: all but the section `router`, which each replica has its own of."""
    replica: str = ""
    """Its name, as people know it; empty where a program of before wrote it down."""
    store: str = ""
    """The name of its object store."""
    started_at: datetime | None = None
    leads: bool = False
    """It makes sweeps due, for all."""


class BacklogRow(msgspec.Struct, frozen=True, kw_only=True):
    """Transfers of one state from one source to one destination."""

    source: str
    destination: str
    state: State
    count: int
    oldest_queued_at: datetime | None
    next_at: datetime | None = None
    """When the first of what is queued may be taken up; earlier than now: it is its turn."""


class ArrivingRow(msgspec.Struct, frozen=True, kw_only=True):
    """Studies that a rule waits for, or has not looked at yet."""

    rule: str
    count: int
    next_at: datetime | None = None
    """When the first of them is looked at."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What a ledger holds at one moment, as far as people look at it who watch the router."""

    backlog: tuple[BacklogRow, ...] = ()
    live: tuple[Transfer, ...] = ()
    """Moving or verifying: those that somebody works on, then others; the longest under way first."""
    failures: tuple[Transfer, ...] = ()
    """Failed, partial or contradicted, the newest first."""
    activity: tuple[Transfer, ...] = ()
    """Ended otherwise, the newest first."""
    sweeps: tuple[SweepRecord, ...] = ()
    """Those that are due or running, and the last ended one of each rule."""
    stopped: tuple[StoppedRoute, ...] = ()
    arriving: tuple[ArrivingRow, ...] = ()


def not_ended(rows: Iterable[BacklogRow]) -> dict[str, int]:
    """How many transfers have not ended, by state."""
    left = {str(state): 0 for state in State if state not in ENDED}
    for row in rows:
        if row.state not in ENDED:
            left[str(row.state)] += row.count
    return left
