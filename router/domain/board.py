"""The board: what people see who watch the router, as frozen values; one JSON document. Pure.

The status page, `GET /api/v1/board` and `dicom-router top` show it. Names are those of the configuration; identifiers
of a study are there only where the configuration and the reader's token allow it, else pseudonyms stand for them.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from router.domain.rule import LOCAL

THIS_ROUTER = "this router"
"""Where what is passed on comes from, for people; in JSON it is `local`."""

MOST_LIVE = 100
"""Transfers under way that are shown, at most."""
MOST_RECENT = 50
"""Recent failures that are shown, at most; as many of the recent activity."""


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    pass


class TransferSeen(_Shown, frozen=True, kw_only=True):
    """One transfer. The names are those of `transfers list --format json`, and some more."""

    id: int
    rule: str
    source: str
    destination: str
    study: str
    """The study's pseudonym, as in the log."""
    study_instance_uid: str | None = None
    """None where the reader may not see it."""
    series_instance_uid: str | None = None
    patient_id: str | None = None
    state: str
    verdict: str | None = None
    expected: int | None = None
    """Instances that should arrive, as far as known."""
    completed: int = 0
    failed: int = 0
    warning: int = 0
    attempts: int = 0
    status: str | None = None
    """DICOM status, such as 0xA701."""
    cause: str | None = None
    reason: str = ""
    """Why it stands where it stands, a sentence that holds now."""
    wish: str = ""
    priority: int = 0
    queued_at: datetime
    started_at: datetime | None = None
    next_at: datetime | None = None
    updated_at: datetime
    finished_at: datetime | None = None
    deadline: datetime | None = None
    ends_at: datetime | None = None
    """When its C-MOVE ends if it goes on as it did; None where nobody can tell."""
    actions: tuple[str, ...] = ()
    """What may be said to it now: words of retry, cancel, hold, release."""


class QueueSeen(_Shown, frozen=True, kw_only=True):
    """What waits on one way from a source to a destination."""

    source: str
    destination: str
    queued: int = 0
    held: int = 0
    moving: int = 0
    verifying: int = 0
    oldest_queued_at: datetime | None = None
    why: str = ""
    """Why what is queued there waits, a sentence; empty where it is simply its turn soon."""
    stopped: bool = False
    """Nothing can go this way until somebody changes a configuration."""


class NodeSeen(_Shown, frozen=True, kw_only=True):
    """One node. What only a running service knows is None without one."""

    name: str
    ae_title: str
    address: str
    up: bool | None = None
    """The last exchange worked; None: there was none yet."""
    left_alone: bool | None = None
    """Its breaker is open."""
    window_open: bool = True
    opens_at: datetime | None = None
    """When its windows open next, where they are closed."""
    associations: int | None = None
    """In use now."""
    associations_allowed: int | None = None
    """By limits, windows and rejections, now."""
    waiting: int | None = None
    """Requests that wait for a slot."""
    queued: int = 0
    """Transfers from or to it that wait."""
    why: str = ""
    """Why it holds work back now, a sentence; empty where it does not."""


class SweepSeen(_Shown, frozen=True, kw_only=True):
    """The last sweep of a rule."""

    state: str
    """complete, incomplete, failed, running, due."""
    at: datetime | None = None
    """When it ended; else when it began or was due."""
    duration_seconds: float | None = None
    matches: int = 0
    selected: int = 0
    queries: int = 0
    reason: str = ""


class RuleSeen(_Shown, frozen=True, kw_only=True):
    """One rule."""

    name: str
    description: str = ""
    owner: str = ""
    enabled: bool = True
    trigger: str
    source: str
    destinations: tuple[str, ...]
    last: SweepSeen | None = None
    """None where it has no sweep, or had none yet."""
    next_at: datetime | None = None
    """When its next sweep is due, or what arrives is looked at; None where nothing is to come or nothing runs."""
    arriving: int = 0
    """Studies that are still arriving: it waits for more of them, or has not looked at them yet."""
    failed_recently: int = 0
    """Its transfers among the recent failures."""


class ReplicaSeen(_Shown, frozen=True, kw_only=True):
    """A service that lives on the ledger."""

    name: str
    address: str = ""
    """Of its HTTP, host:port; empty where it serves none."""
    here: bool = False
    """It is the one that answers."""
    leads: bool = False
    """It makes sweeps due, for all."""
    store: str = ""
    """The name of its object store: those with the same one share their files."""
    started_at: datetime | None = None
    seen_at: datetime
    silent: bool = False
    """It has not been seen for some seconds, and may be dead."""
    other_configuration: bool = False
    """It has other nodes, rules or windows than the one that answers."""


class Board(_Shown, frozen=True, kw_only=True):
    """All of it, at one moment."""

    at: datetime
    identifiers: bool = False
    """Identifiers are shown."""
    served: bool = True
    """A service runs; else this is what the ledger holds."""
    states: dict[str, int]
    """State -> transfers in the ledger."""
    live: tuple[TransferSeen, ...] = ()
    """Moving or verifying, the longest under way first."""
    queues: tuple[QueueSeen, ...] = ()
    rules: tuple[RuleSeen, ...] = ()
    nodes: tuple[NodeSeen, ...] = ()
    failures: tuple[TransferSeen, ...] = ()
    """Failed, partial or contradicted, the newest first."""
    activity: tuple[TransferSeen, ...] = ()
    """Other transfers that ended, the newest first."""
    problems: dict[str, str] = {}
    """What is not ready, by part, as /readyz says."""
    quarantined: int = 0
    """Objects in the quarantine, as far as a service knows."""
    replicas: tuple[ReplicaSeen, ...] = ()
    """The services that live on the ledger, by name."""


def said(source: str) -> str:
    """Where something comes from, for people."""
    return THIS_ROUTER if source == LOCAL else source
