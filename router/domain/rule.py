"""The validated configuration as frozen values. Made by `config.compiler`, read by everything else.

Durations are seconds, addresses host and port, names those of the configuration.
"""

from __future__ import annotations

import msgspec

from router.domain.condition import Condition, KeyMatch
from router.domain.dicom import InformationModel, QueryRetrieveLevel
from router.domain.timing import Schedule

LOCAL = "local"
"""The destination name that means this router's own Store SCP."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all configuration values."""


class NodeLimits(Model, frozen=True, kw_only=True):
    """How gently a node is treated, over all rules."""

    associations: int = 1
    """Associations in flight that this router opens to the node."""


class FindSettings(Model, frozen=True, kw_only=True):
    """How a node is queried."""

    inactivity: float = 120.0
    """Seconds without a response after which a C-FIND is given up."""
    total: float = 1800.0
    """Seconds after which a C-FIND is given up whatever happens."""
    max_results: int | None = None
    """The node answers at most so many matches; a response of that size is incomplete."""


class MoveSettings(Model, frozen=True, kw_only=True):
    """How a node is asked to move."""

    inactivity: float = 600.0
    """Seconds without a response or an arriving instance after which a C-MOVE is cancelled."""
    total: float = 7200.0
    """Seconds after which a C-MOVE is cancelled whatever happens."""
    max_uids: int = 50
    """UIDs in one request at SERIES or IMAGE level."""


class StoreSettings(Model, frozen=True, kw_only=True):
    """How instances are sent to a node."""

    inactivity: float = 120.0
    """Seconds in which a node must take more of a data set, or answer it."""
    total: float = 7200.0
    """Seconds after which what is left of one request is not sent any more."""
    operations: int = 1
    """Instances that may be under way unanswered, if the node agrees (PS3.7 section D.3.3.3); 1 asks for nothing,
    which is safest: some nodes reject associations that ask."""


class Timeouts(Model, frozen=True, kw_only=True):
    """Deadlines of the upper layer."""

    connect: float = 10.0
    """Seconds for the TCP connection."""
    negotiation: float = 30.0
    """Seconds for an answer to A-ASSOCIATE or A-RELEASE."""


class Node(Model, frozen=True, kw_only=True):
    """A configured application entity."""

    name: str
    ae_title: str
    host: str
    port: int
    timezone: str = "UTC"
    """IANA name; where the configuration names none the compiler fills in that of the machine the router runs on."""
    sends_as: tuple[str, ...] = ()
    """AE titles it stores from; empty means its own."""
    root: InformationModel = InformationModel.STUDY_ROOT
    limits: NodeLimits = NodeLimits()
    find: FindSettings = FindSettings()
    move: MoveSettings = MoveSettings()
    store: StoreSettings = StoreSettings()
    timeouts: Timeouts = Timeouts()

    @property
    def calling_ae_titles(self) -> tuple[str, ...]:
        """The AE titles under which the node may open associations to this router."""
        return self.sends_as or (self.ae_title,)


class RouterSettings(Model, frozen=True, kw_only=True):
    """This router itself."""

    ae_title: str = "ROUTER"
    listen_host: str = "0.0.0.0"
    listen_port: int = 11112
    store: str = "./data/store"
    ledger: str = "sqlite:///./data/ledger.db"
    http_host: str = "127.0.0.1"
    http_port: int = 9104
    durability: str = "fsync"
    """`fsync`: acknowledged instances survive a power cut; `rename`: they survive a killed process."""
    minimum_free: int = 1 << 30
    """Bytes that must stay free on the store's file system; below, instances are refused with A700."""
    maximum_associations: int = 64
    """Associations the Store SCP holds at once."""
    receivers: int = 1
    """Processes that receive, on the same port."""
    drain: float = 30.0
    """Seconds running moves may take to end after SIGTERM before they are cancelled."""


class Retry(Model, frozen=True, kw_only=True):
    """The one retry budget of a transfer."""

    attempts: int = 6
    """Attempts in all, the first included."""
    delay: float = 30.0
    """Seconds before the second attempt; doubles each time, with full jitter."""
    maximum_delay: float = 3600.0


class Tier(Model, frozen=True, kw_only=True):
    """One schedule of a sweep, with how far it looks back."""

    schedule: Schedule
    lookback: float | None = None
    """Seconds; replaces StudyDate by `now-lookback..now` where set."""


class Sweep(Model, frozen=True, kw_only=True):
    """The trigger: a recurring C-FIND."""

    source: str
    level: QueryRetrieveLevel = QueryRetrieveLevel.STUDY
    tiers: tuple[Tier, ...] = ()
    keys: tuple[KeyMatch, ...] = ()

    @property
    def widest_tier(self) -> int:
        """The number of the tier that looks back farthest: what a person means who asks for the rule's sweep."""
        lookbacks = [float("inf") if tier.lookback is None else tier.lookback for tier in self.tiers]
        return lookbacks.index(max(lookbacks)) if lookbacks else 0


class Move(Model, frozen=True, kw_only=True):
    """The action: a C-MOVE to each destination."""

    to: tuple[str, ...]
    level: QueryRetrieveLevel = QueryRetrieveLevel.STUDY
    verify: str = "auto"
    """`auto`: the strongest evidence to be had; `find`: destination C-FIND or nothing; `none`: do not ask."""
    skip_present: bool = True
    """Do not move what the destination already holds."""
    retry: Retry = Retry()


class Rule(Model, frozen=True, kw_only=True):
    """One routing rule."""

    name: str
    description: str = ""
    owner: str = ""
    enabled: bool = True
    priority: str = "normal"
    sweep: Sweep
    where: Condition
    move: Move


class RuleSet(Model, frozen=True, kw_only=True):
    """A whole configuration, checked."""

    router: RouterSettings
    nodes: dict[str, Node]
    rules: dict[str, Rule]
    content_hash: str

    def node(self, name: str) -> Node | None:
        """The node of that name; None for `local` or where it is gone."""
        return self.nodes.get(name)
