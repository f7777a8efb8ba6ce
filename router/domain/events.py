"""What happened, as frozen values without identifiers. Metrics and logs subscribe to them.

`rule`, `source`, `destination` and `node` are names of the configuration; durations are seconds.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from router.domain.dicom import SubOperationCounts

DROPPED = ("duplicate", "level", "uid", "undecodable")
"""Why a match cannot be used: it came twice, is of another level, has no usable unique key, or does not decode."""

HELD_BACK = ("settling", "studies_per_sweep", "instances_per_day")
"""Why a rule holds transfers back: they settle (`sweep.settle`), or a limit of the rule is reached."""

WAITS = ("slots", "pause", "duty", "pace", "incoming", "ledger")
"""What a request to a node waited for first: a free slot, the pause after a rejection, the rest of its duty cycle, its
queries per minute or moves per hour, the destination's incoming moves, or the ledger, by which replicas count."""


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
    held: dict[str, int] = {}
    """Transfers that the rule holds back from now on, by a word of HELD_BACK."""
    unavailable: int = 0
    """Studies or series left out because the source has them off line."""
    dropped: dict[str, int] = {}
    """Matches left out that could not be used, by a word of DROPPED."""
    account: str = ""
    """What it took to find everything, as a sentence."""
    duration_seconds: float
    cause: str = ""
    message: str = ""


class CapLearned(Event, frozen=True, kw_only=True):
    """A node was seen to cut its answers at so many matches; 0: it does not, after all."""

    node: str
    matches: int


class SweepMissed(Event, frozen=True, kw_only=True):
    """Due times that brought no sweep: the one before was still open, or nothing ran when they passed."""

    rule: str
    source: str
    count: int = 1


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
    study: str = ""
    """The study's pseudonym; empty where the configuration wants none."""
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
    study: str = ""
    """The study's pseudonym; empty where the configuration wants none."""
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
    `certificate_name` is that of a certificate which an authority that is trusted has issued; at most 64 characters.
    """

    calling: str
    reason: str
    calling_ae_title: str = ""
    called_ae_title: str = ""
    ip_address: str = ""
    certificate_name: str = ""


class InstanceQuarantined(Event, frozen=True, kw_only=True):
    """An instance was put aside; reason is a word of `router.domain.quarantine.MEANINGS`."""

    calling: str
    reason: str


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


class BreakerOpened(Event, frozen=True, kw_only=True):
    """A node that does not answer is left alone; again, for longer, where a probe of it failed."""

    node: str
    failures: int
    """Requests in a row without an answer."""
    pause_seconds: float
    """Until the next probe."""
    cause: str = ""
    message: str = ""


class BreakerClosed(Event, frozen=True, kw_only=True):
    """A node that was left alone answers again, or its configuration has changed."""

    node: str
    open_seconds: float
    message: str = ""


class AssociationsAllowed(Event, frozen=True, kw_only=True):
    """A node said that it is asked for too much, or was good for a while: so many are used now; None: all allowed."""

    node: str
    limit: int | None


class NodeWaited(Event, frozen=True, kw_only=True):
    """A request to a node had to wait, for a word of WAITS."""

    node: str
    reason: str


class NodeResponded(Event, frozen=True, kw_only=True):
    """The first that came in answer to a request to a node, so many seconds after the request was sent."""

    node: str
    seconds: float


class DiskSpace(Event, frozen=True, kw_only=True):
    """Room on the store's file system is another now: state `ok`, `low`, or `full` (instances are refused). Bytes."""

    state: str
    free: int
    size: int
    minimum: int
    """What must stay free: `router.minimum_free`."""


class StudyLeft(Event, frozen=True, kw_only=True):
    """A study was removed from the store, as `router.retention` says: so many instances, and bytes of data sets."""

    study: str
    """What stands for it in the log."""
    instances: int
    size: int


class RoomLacking(Event, frozen=True, kw_only=True):
    """`router.retention` is to make room, and nothing may leave the store: so many bytes are lacking."""

    size: int


class CertificateExpires(Event, frozen=True, kw_only=True):
    """A file of certificates stands otherwise: state `ok`, `expiring` (within 14 days), `expired` or `unreadable`."""

    certificate: str
    """The key of the configuration that names the file, such as `router.tls.certificate`."""
    state: str
    expires_at: datetime | None = None
    """When the first of its certificates expires."""


class ConfigurationLoaded(Event, frozen=True, kw_only=True):
    """A configuration was loaded, or rejected."""

    successful: bool
    content_hash: str = ""
    work_hash: str = ""
    """Of all but the section `router`, which is a replica's own."""
    diagnostics: tuple[str, ...] = ()
    """Why it was rejected, a line each, where that was not told before."""
    restart_needed: tuple[str, ...] = ()
    """Keys under `router:` that take effect after a restart, where that was not told before."""


class HoldsLeft(Event, frozen=True, kw_only=True):
    """A rule that was removed or disabled, or leads elsewhere now, has left transfers that it holds back."""

    rule: str
    source: str
    destination: str
    count: int
    released: bool
    """They go on; else they wait until the rule is enabled again, or a person releases them."""


class AppointmentNoted(Event, frozen=True, kw_only=True):
    """News of an appointment: `news` is a word of `router.domain.appointment.News`, `trigger` one of TRIGGERS."""

    rule: str
    trigger: str
    news: str


class ValueRefused(Event, frozen=True, kw_only=True):
    """A value of a message or worklist that could widen a query was refused, and with it what it stood in.

    `trigger` is a word of `router.domain.appointment.TRIGGERS`, `reason` of `router.domain.safety.REFUSALS`.
    """

    rule: str
    trigger: str
    attribute: str
    """The attribute's keyword, never its value."""
    reason: str


class ArrivalLookEnded(Event, frozen=True, kw_only=True):
    """A look at a study that has arrived ended; result is a word of ARRIVAL_LOOKS."""

    rule: str
    result: str
    instances: int = 0
    """Instances that the rule takes."""
    transfers: int = 0
    """Transfers that were queued for them, or carry more now."""
    withdrawn: int = 0
    """Transfers that were cancelled, for another node of their group gets it."""
    duration_seconds: float = 0.0
    cause: str = ""
    message: str = ""


ARRIVAL_LOOKS = ("passed_on", "left", "known", "again")
"""Transfers were queued; the rule does not take it; nothing is to be done; it is looked at again."""


class LookEnded(Event, frozen=True, kw_only=True):
    """A look for a patient's priors ended: result `done`, `failed`, or `again` where it is tried once more."""

    rule: str
    source: str
    appointment: int
    result: str
    candidates: int = 0
    groups: dict[str, int] = {}
    """Group -> priors taken for it; `oldest` for what the rule keeps as the oldest relevant."""
    queries: int = 0
    complete: bool = True
    duration_seconds: float = 0.0
    cause: str = ""
    message: str = ""


class PriorEnded(Event, frozen=True, kw_only=True):
    """A prior with a deadline has its verdict; result is a word of TIMELINESS."""

    rule: str
    result: str
    lead_seconds: float | None = None
    """How long before its appointment it was there; negative: after it began; None: it was not."""


TIMELINESS = ("on_time", "late", "missing")
"""Whether a prior was there before its appointment: proven or unproven before, after, or not at all."""


class MessageAnswered(Event, frozen=True, kw_only=True):
    """An HL7 message was answered; `event` such as `ORM^O01`, or `other` for what this router does not take."""

    event: str
    code: str
    """AA, AE or AR."""
    word: str
    """A word of `router.domain.hl7.WORDS`."""
    message: str = ""
    """Why it was not accepted, a sentence without any value of it."""
