"""The validated configuration as frozen values. Made by `config.compiler`, read by everything else.

Durations are seconds, addresses host and port, names those of the configuration.
"""

from __future__ import annotations

import msgspec

from router.domain.anatomy import Anatomy
from router.domain.audit import AuditSettings
from router.domain.condition import Condition
from router.domain.dicom import InformationModel, QueryRetrieveLevel
from router.domain.forward import Forward as Forward
from router.domain.hl7 import Hl7Settings
from router.domain.notify import NotifySettings, RuleNotify
from router.domain.priors import Priors
from router.domain.quarantine import REFUSE, QuarantineSettings
from router.domain.retention_settings import Retention
from router.domain.secret import Secret as Secret
from router.domain.triggers import Arrival as Arrival
from router.domain.triggers import Order as Order
from router.domain.triggers import Sweep as Sweep
from router.domain.triggers import Tier as Tier
from router.domain.triggers import Unit as Unit
from router.domain.triggers import Worklist as Worklist
from router.domain.watch_settings import LogSettings as LogSettings
from router.domain.watch_settings import PageSettings as PageSettings
from router.domain.window import Window

LOCAL = "local"
"""The destination name that means this router's own Store SCP."""

MOVE, GET = "move", "get"
"""How studies come to this router: C-MOVE, or C-GET on the association that asks for them."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all configuration values."""


class NodeLimits(Model, frozen=True, kw_only=True):
    """How gently a node is treated, over all rules."""

    associations: int = 1
    """Associations in flight that this router opens to the node."""
    queries_per_minute: int | None = None
    """C-FIND requests in any 60 seconds; None: no limit."""
    moves_per_hour: int | None = None
    """C-MOVE and C-GET requests in any hour in which the node takes part, as source or destination; None: no limit."""
    duty: float | None = None
    """Share (0 to 1) of the time in which a slot of the node may be busy; None: no rest between requests."""
    incoming: int | None = None
    """Moves to the node that may run at once, from all sources; None: no limit."""
    incoming_associations: int | None = None
    """Associations that it may hold to each receiver of this router's Store SCP at once; None: no limit of its own."""


class WindowUse(Model, frozen=True, kw_only=True):
    """What limits a node has while a window is open; the first of a node's list that is open counts."""

    window: str | None = None
    """Name of a window; None: always open."""
    associations: int | None = None
    """These stand in the place of the node's own where they are set; see NodeLimits."""
    queries_per_minute: int | None = None
    moves_per_hour: int | None = None
    duty: float | None = None
    incoming: int | None = None


class BreakerSettings(Model, frozen=True, kw_only=True):
    """When a node that does not answer is left alone."""

    failures: int = 5
    """Failures in a row, of requests that got no answer, after which nothing is begun with the node."""
    pause: float = 30.0
    """Seconds until it is tried again by one C-ECHO and one query; doubles each time."""
    maximum_pause: float = 600.0


class FindSettings(Model, frozen=True, kw_only=True):
    """How a node is queried."""

    inactivity: float = 120.0
    """Seconds without a response after which a C-FIND is given up."""
    total: float = 1800.0
    """Seconds after which a C-FIND is given up whatever happens."""
    max_results: int | None = None
    """The node answers at most so many matches; a response of that size is incomplete. None: found out by itself; 0:
    it never cuts an answer short, no number is suspicious."""
    max_queries: int = 1000
    """C-FIND requests that one sweep may take to find everything."""
    assume_character_set: str = ""
    """Specific Character Set (0008,0005) of answers that name none; empty: the default repertoire."""
    expected: str = "auto"
    """How far the node is trusted to say what it holds; see `router.domain.expectation.TRUSTS`."""


SECONDS_PER_INSTANCE = 5.0
"""What a C-MOVE may take in all for each of its instances, where that is more than the node's total."""


class MoveSettings(Model, frozen=True, kw_only=True):
    """How a node is asked to move."""

    inactivity: float = 600.0
    """Seconds without a response or an arriving instance after which a C-MOVE is cancelled."""
    total: float = 7200.0
    """Seconds after which a C-MOVE is cancelled whatever happens; a large study has `SECONDS_PER_INSTANCE` for each."""
    nearline_inactivity: float = 3600.0
    """The inactivity where the study is near line: a tape is fetched first."""
    probe: float = 900.0
    """Seconds after which one transfer tries a stopped route from the node; doubles each time, up to an hour."""
    max_uids: int = 50
    """UIDs in one request at SERIES or IMAGE level."""
    via: str = MOVE
    """How studies come from it to `local`: `move` or `get`; any other destination needs C-MOVE."""

    def deadlines(self, instances: int | None, *, nearline: bool = False) -> tuple[float, float]:
        """Inactivity and total, in seconds, of a request for so many instances (None: not known)."""
        inactivity = max(self.inactivity, self.nearline_inactivity) if nearline else self.inactivity
        return inactivity, max(self.total, inactivity, SECONDS_PER_INSTANCE * (instances or 0))


class StoreSettings(Model, frozen=True, kw_only=True):
    """How instances are sent to a node."""

    inactivity: float = 120.0
    """Seconds in which a node must take more of a data set, or answer it."""
    total: float = 7200.0
    """Seconds after which what is left of one request is not sent any more."""
    operations: int = 1
    """Instances that may be under way unanswered, if the node agrees (PS3.7 section D.3.3.3); 1 asks for nothing,
    which is safest: some nodes reject associations that ask."""


class CommitmentSettings(Model, frozen=True, kw_only=True):
    """How a node is asked for storage commitment (PS3.4 annex J)."""

    timeout: float = 21600.0
    """Seconds after which an answer is no longer waited for."""


class TlsSettings(Model, frozen=True, kw_only=True):
    """Mutual TLS (PS3.15 annex B): the files of this side, and whom it trusts. Absolute paths of PEM files."""

    ca: str
    """Certificates that are trusted: authorities, or peers' own."""
    certificate: str
    """This side's certificate, with those between it and its authority."""
    key: str
    """The certificate's private key, not encrypted."""
    verify_hostname: bool = True
    """As requestor: the peer's certificate must be for the host that was connected to."""


class HttpTls(Model, frozen=True, kw_only=True):
    """How HTTP is served over TLS."""

    files: TlsSettings
    """`ca` counts only where there are `clients`."""
    clients: tuple[str, ...] = ()
    """Names or SHA-256 fingerprints of certificates: who shows one of these needs no token."""


OPEN, GUARDED = "open", "guarded"
"""Who may read the metrics: whoever reaches the port; who shows the token, or a client's certificate."""


class Timeouts(Model, frozen=True, kw_only=True):
    """Deadlines of the upper layer."""

    connect: float = 10.0
    """Seconds for the TCP connection, the TLS handshake included."""
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
    sends_from: tuple[str, ...] = ()
    """Networks it opens associations to this router from; empty: anywhere."""
    certificate_names: tuple[str, ...] = ()
    """Names or SHA-256 fingerprints, one of which its certificate bears; empty: any that is trusted."""
    push: str = REFUSE
    """What becomes of what it sends unasked, a word of `router.domain.quarantine`."""
    root: InformationModel = InformationModel.STUDY_ROOT
    limits: NodeLimits = NodeLimits()
    windows: tuple[WindowUse, ...] = ()
    """The first that is open counts; where none is, nothing is begun with the node. Empty: always open."""
    breaker: BreakerSettings = BreakerSettings()
    find: FindSettings = FindSettings()
    move: MoveSettings = MoveSettings()
    store: StoreSettings = StoreSettings()
    timeouts: Timeouts = Timeouts()
    tls: TlsSettings | None = None
    """How requests to the node are encrypted; None: they are not."""
    commitment: CommitmentSettings | None = None
    """The node commits itself to what it was sent, when asked; None: it does not."""

    @property
    def calling_ae_titles(self) -> tuple[str, ...]:
        """The AE titles under which the node may open associations to this router."""
        titles = self.sends_as or (self.ae_title,)
        if self.commitment is not None and self.ae_title not in titles:
            return (*titles, self.ae_title)  # it reports under its own, whatever it stores under
        return titles


AT_ONCE = ("notify", "history")
"""Keys under `router:` whose changes take effect without a restart."""


class RouterSettings(Model, frozen=True, kw_only=True):
    """This router itself."""

    ae_title: str = "ROUTER"
    listen_host: str = "0.0.0.0"
    listen_port: int = 11112
    store: str = "./data/store"
    ledger: str | Secret = "sqlite:///./data/ledger.db"
    """Its database URL, or where that stands."""
    http_host: str = "127.0.0.1"
    http_port: int = 9104
    http_tls: HttpTls | None = None
    """HTTP is served over TLS only, with these; None: without."""
    metrics: str = OPEN
    replica: str = ""
    """What this service is called among those that share its ledger; empty: as its host is called."""
    durability: str = "fsync"
    """`fsync`: acknowledged instances survive a power cut; `rename`: they survive a killed process."""
    minimum_free: int = 1 << 30
    """Bytes that must stay free on the store's file system; below, instances are refused with A700."""
    quarantine: QuarantineSettings = QuarantineSettings()
    retention: Retention | None = None
    """When studies that were passed on leave the store; None: never."""
    history: float | None = None
    """Seconds after which what has ended goes into the ledger's history; None: never."""
    maximum_associations: int = 64
    """Associations the Store SCP holds at once."""
    receivers: int = 1
    """Processes that receive, on the same port."""
    drain: float = 30.0
    """Seconds running moves, and associations that store here, may take to end after SIGTERM before they are cut."""
    leave: float = 0.0
    """Seconds after SIGTERM in which it goes on as before, but for saying that it is not ready."""
    tls: TlsSettings | None = None
    """The Store SCP speaks TLS only, with these; None: it speaks none."""
    hl7: Hl7Settings | None = None
    """Where orders come in; None: nowhere."""
    watch: bool = True
    """Changes of the configuration's files are taken without being told to."""
    watch_every: float = 10.0
    """Seconds between two looks at them, where nothing says sooner that they have changed."""
    token: Secret | None = None
    """Who shows it may change something over HTTP; None: programs on this machine may."""
    page: PageSettings = PageSettings()
    log: LogSettings = LogSettings()
    audit: AuditSettings | None = None
    """Where audit messages go; None: none are made."""
    notify: NotifySettings = NotifySettings()
    """Who is told of what goes wrong. Takes effect at once, without a restart."""

    def adopting(self, wanted: RouterSettings) -> RouterSettings:
        """These settings with what of `wanted` takes effect at once."""
        return msgspec.structs.replace(self, **{name: getattr(wanted, name) for name in AT_ONCE})

    def restart_needed(self, wanted: RouterSettings) -> tuple[str, ...]:
        """The keys, as they stand under `router:`, that `wanted` has otherwise: they take effect after a restart."""
        names = [field.name for field in msgspec.structs.fields(RouterSettings)]
        changed = [name for name in names if name not in AT_ONCE and getattr(self, name) != getattr(wanted, name)]
        return tuple(dict.fromkeys(name.removesuffix("_host").removesuffix("_port") for name in changed))


class Retry(Model, frozen=True, kw_only=True):
    """The one retry budget of a transfer."""

    attempts: int = 6
    """Attempts in all, the first included."""
    delay: float = 30.0
    """Seconds before the second attempt; doubles each time, with full jitter."""
    maximum_delay: float = 3600.0


class Move(Model, frozen=True, kw_only=True):
    """The action: a C-MOVE to each destination."""

    to: tuple[str, ...]
    level: QueryRetrieveLevel = QueryRetrieveLevel.STUDY
    verify: str = "auto"
    """`auto`: the strongest evidence to be had; `commitment`: storage commitment or nothing; `find`: destination C-FIND
    or nothing; `none`: do not ask."""
    skip_present: bool = True
    """Do not move what the destination already holds."""
    via: str | None = None
    """How studies come to `local`, `move` or `get`; None: as the source's settings say."""
    retry: Retry = Retry()


class RuleLimits(Model, frozen=True, kw_only=True):
    """How much a rule may move; the rest is held."""

    studies_per_sweep: int | None = None
    """Studies (or series) that one sweep queues, counted once for all destinations."""
    instances_per_day: int | None = None
    """Instances queued from midnight to midnight in the source's time zone, each destination counted."""


class Rule(Model, frozen=True, kw_only=True):
    """One routing rule. Of `sweep`, `worklist`, `order` and `arrival` one is set.

    All but the first need `priors`, or, an arrival, `forward`.
    """

    name: str
    description: str = ""
    owner: str = ""
    enabled: bool = True
    priority: str = "normal"
    sweep: Sweep | None = None
    worklist: Worklist | None = None
    order: Order | None = None
    arrival: Arrival | None = None
    where: Condition
    """Asked of what the trigger finds: the study that is to be moved, or with `priors` the current one."""
    priors: Priors | None = None
    """Set where not what the trigger finds is moved, but what the patient had before."""
    move: Move
    """Where to, how often it is tried and how it is proven, by C-MOVE or, where `forward` is set, by C-STORE."""
    forward: Forward | None = None
    """Set where what arrived is passed on; `move` then names every node of its groups."""
    limits: RuleLimits = RuleLimits()
    notify: RuleNotify = RuleNotify()

    @property
    def trigger(self) -> str:
        """What starts it, a word of `router.domain.appointment.TRIGGERS`."""
        if self.worklist is not None:
            return "worklist"
        if self.order is not None:
            return "order"
        return "arrival" if self.arrival is not None else "sweep"

    @property
    def asked(self) -> str:
        """The node that the trigger asks: a sweep's or worklist's source; else where the priors are."""
        trigger = self.sweep or self.worklist
        return trigger.source if trigger is not None else self.source

    @property
    def source(self) -> str:
        """Where what it moves comes from; empty where the configuration does not say."""
        if self.priors is not None:
            return self.priors.source
        if self.forward is not None:
            return LOCAL
        return self.sweep.source if self.sweep is not None else ""

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """When the trigger asks; none for what comes by itself."""
        trigger = self.sweep or self.worklist
        return trigger.tiers if trigger is not None else ()

    @property
    def widest_tier(self) -> int:
        """The number of the tier that looks back farthest: what a person means who asks for the rule's sweep."""
        lookbacks = [float("inf") if tier.lookback is None else tier.lookback for tier in self.tiers]
        return lookbacks.index(max(lookbacks)) if lookbacks else 0

    @property
    def lead(self) -> float | None:
        """Seconds before an appointment at which its work becomes due; None: at once."""
        trigger = self.worklist or self.order
        return trigger.lead if trigger is not None else None


class RuleSet(Model, frozen=True, kw_only=True):
    """A whole configuration, checked."""

    router: RouterSettings
    nodes: dict[str, Node]
    rules: dict[str, Rule]
    windows: dict[str, Window] = {}
    anatomy: Anatomy = Anatomy()
    content_hash: str
    """Of the files, byte by byte."""
    work_hash: str = ""
    """Of what they say about work: all sections but `router`, of which each replica has its own."""

    @property
    def callers(self) -> dict[str, str]:
        """AE titles that may store to this router -> the node's name."""
        return {title: node.name for node in self.nodes.values() for title in node.calling_ae_titles}

    @property
    def needs_listener(self) -> bool:
        """Whether somebody has to reach this router for the rules: who stores here, or reports storage commitment."""
        destinations = {name for rule in self.rules.values() for name in rule.move.to}
        nodes = [self.node(name) for name in destinations]
        return LOCAL in destinations or any(node is not None and node.commitment is not None for node in nodes)

    def node(self, name: str) -> Node | None:
        """The node of that name; None for `local` or where it is gone."""
        return self.nodes.get(name)
