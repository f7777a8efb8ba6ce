"""What happened, as frozen values without identifiers. Metrics and logs subscribe to them.

`rule`, `source`, `destination` and `node` are names of the configuration; durations are seconds.
"""

from __future__ import annotations

import msgspec

from router.domain.dicom import SubOperationCounts


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events."""


class SweepEnded(Event, frozen=True, kw_only=True):
    """A sweep ended: result `complete`, `incomplete` or `failed`."""

    rule: str
    source: str
    result: str
    matches: int = 0
    selected: int = 0
    queries: int = 0
    unavailable: int = 0
    """Studies or series left out because the source has them off line."""
    duration_seconds: float
    cause: str = ""
    message: str = ""


class SweepMissed(Event, frozen=True, kw_only=True):
    """A sweep became due but could not start in time, or was still running."""

    rule: str
    source: str


class SubOperationsCounted(Event, frozen=True, kw_only=True):
    """Sub-operations newly reported by a C-MOVE response: `counts` holds increases, `remaining` the level."""

    rule: str
    source: str
    destination: str
    transfer: int
    counts: SubOperationCounts


class MoveResponded(Event, frozen=True, kw_only=True):
    """A C-MOVE response arrived."""

    source: str
    destination: str
    status: int


class AttemptEnded(Event, frozen=True, kw_only=True):
    """One run of a transfer ended; it may go on with another."""

    transfer: int
    rule: str
    source: str
    destination: str
    cause: str
    state: str
    status: int | None = None
    message: str = ""
    duration_seconds: float = 0.0


class TransferEnded(Event, frozen=True, kw_only=True):
    """A transfer has its verdict."""

    transfer: int
    rule: str
    source: str
    destination: str
    verdict: str
    reason: str = ""
    expected: int | None = None
    completed: int = 0
    duration_seconds: float
    seen_to_verified_seconds: float


class RouteStopped(Event, frozen=True, kw_only=True):
    """A route is stopped: no study can go this way until somebody changes a configuration; one tries now and then."""

    source: str
    destination: str
    cause: str
    message: str = ""


class RouteResumed(Event, frozen=True, kw_only=True):
    """A route that was stopped works again, or is no longer configured."""

    source: str
    destination: str


class InstanceStored(Event, frozen=True, kw_only=True):
    """The Store SCP answered a C-STORE. `calling` is a configured node or `other`; `size` in bytes."""

    calling: str
    status: int
    size: int = 0


class StoreRefusal(Event, frozen=True, kw_only=True):
    """An instance or an association for storing was refused, with a reason of a finite set.

    What stands behind `reason` is of the peer's own making: for the log, where it helps to find who called, and never
    for the label of a metric. AE titles are printable ASCII, at most 16 characters.
    """

    calling: str
    reason: str
    calling_ae_title: str = ""
    called_ae_title: str = ""
    ip_address: str = ""


class CommitmentNoted(Event, frozen=True, kw_only=True):
    """Something happened to a storage commitment; result is a word of `router.domain.commitment.RESULTS`."""

    node: str
    result: str


class AssociationEnded(Event, frozen=True, kw_only=True):
    """An association was attempted or accepted.

    role: `requestor` or `acceptor`; result: `accepted`, `rejected_permanent`, `rejected_transient`, `aborted`,
    `timeout`, `refused`.
    """

    node: str
    role: str
    result: str


class AssociationsActive(Event, frozen=True, kw_only=True):
    """The number of open associations of a role changed by `change`."""

    node: str
    role: str
    change: int


class NodeReachability(Event, frozen=True, kw_only=True):
    """The latest exchange with a node worked, or did not."""

    node: str
    up: bool


class ConfigurationLoaded(Event, frozen=True, kw_only=True):
    """A configuration was loaded, or rejected."""

    successful: bool
    content_hash: str = ""
