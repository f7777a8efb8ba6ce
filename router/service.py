"""The composition root: the only module that knows every part. It wires them and decides nothing."""

from __future__ import annotations

import platform
import threading
import uuid
from pathlib import Path

import msgspec

from router import __version__
from router.auditing import Auditing
from router.boards import Boards, Running
from router.dimse.peers import Peers
from router.domain.events import CapLearned, Event, StoreRefusal
from router.domain.overview import ServiceInfo, not_ended
from router.domain.rule import RuleSet
from router.engine.caps import Caps
from router.engine.commitment import Committer
from router.engine.detours import Detours
from router.engine.dispatcher import Dispatcher
from router.engine.evidence import EvidenceGatherer
from router.engine.gates import recall_moves
from router.engine.kit import Kit
from router.engine.mover import Mover
from router.engine.probe import Prober
from router.engine.query import Inquiry
from router.engine.reachability import Reachability
from router.engine.routes import Refusals, RouteWatch
from router.engine.scheduler import Scheduler
from router.engine.slots import NodeSlots
from router.engine.sweep import Sweeper
from router.engine.tally import Tallies
from router.engine.terms import Terms
from router.engine.verifier import Verifier
from router.errors import LedgerError
from router.forwarding import Forwarding
from router.keeping import retainer
from router.lookup import Lookup
from router.objects import ObjectStore
from router.observe import logs
from router.observe.correlation import Correlation
from router.observe.metrics import Metrics
from router.observe.notify import Notifier
from router.opening import Planner as Planner
from router.opening import SystemClock as SystemClock
from router.opening import explain_study, lasting_pseudonyms
from router.opening import open_ledger as open_ledger
from router.opening import open_peers as open_peers
from router.opening import open_postman as open_postman
from router.opening import planner as planner
from router.opening import planner_beside as planner_beside
from router.opening import site_pseudonyms as site_pseudonyms
from router.opening import studies_meant as studies_meant
from router.prefetch import Prefetch
from router.quarantine import Quarantine
from router.reception import Reception
from router.saying import Saying
from router.surroundings import Surroundings

_ANNOUNCE_SECONDS = 2.0
_ORDERS_SECONDS = 5.0
"""How long messages that are being taken may take to be answered when the service stops."""


class Service:
    """The running router: ledger, store, Store SCP, scheduler, dispatcher, metrics."""

    def __init__(self, rules: RuleSet) -> None:
        """Opens ledger and store. Raises LedgerError or StoreError."""
        self.rules = rules
        self.owner = f"{platform.node()}:{uuid.uuid4().hex[:12]}"
        self.http_address = ""
        self.metrics = Metrics()
        self.metrics.configure(rules)
        self._log = logs.LogObserver()
        self.clock = SystemClock()
        self.ledger = open_ledger(rules)
        self.pseudonyms = lasting_pseudonyms(rules, self.ledger.site_key, logs.trouble)
        """What stands for studies in the log, on the page and in notifications."""
        self.notifier = Notifier(
            rules=lambda: self.rules,
            ledger=self.ledger,
            postman=open_postman(),
            now=self.clock.now,
            observer=self.observe,
        )
        self.auditing = Auditing(rules, self.clock.now, self.observe, lambda: self.rules)
        self.metrics.watch_backlog(self.ledger.backlog)
        self.metrics.watch_process()
        self.store = ObjectStore(
            Path(rules.router.store), durability=rules.router.durability, minimum_free=rules.router.minimum_free
        )
        self._refusals = Refusals()
        self._reachability = Reachability()
        self._surroundings = Surroundings(
            rules=lambda: self.rules,
            space=self.store.space,
            intact=self.store.intact,
            clock=self.clock,
            observer=self.observe,
            show_space=self.metrics.show_space,
            quarantined=Quarantine(self.store.root, rules.router.quarantine).held,
            show_quarantine=self.metrics.show_quarantine,
            show_certificates=self.metrics.show_certificates,
            well=self.notifier,
        )
        self._retainer = retainer(
            lambda: self.rules, self.ledger, self.store, self.clock, self.observe, self._study, self.auditing.files
        )
        self._reception = Reception(
            rules=lambda: self.rules,
            ledger=self.ledger,
            store=self.store,
            observer=self.observe,
            on_arrived=lambda batch: self.prefetch.arrived(batch),
            audit=self.auditing.arrived,
            on_answer=lambda answer, nodes: self.committer.take(answer, nodes),
            moving=lambda: self.dispatcher.moving,
            wake=self.wake,
        )
        self.peers = Peers(rules.router.ae_title, self.observe, intake=self._reception.intake)
        self.dispatcher = self._wire()
        self.scheduler = Scheduler(
            ledger=self.ledger,
            clock=self.clock,
            observer=self.observe,
            trouble=logs.trouble,
            wake=self.dispatcher.wake,
        )
        self.saying = Saying(
            rules=lambda: self.rules,
            ledger=self.ledger,
            clock=self.clock,
            wake=self.wake,
            explain=explain_study,
            trouble=logs.trouble,
        )
        self.lookup = Lookup(rules=lambda: self.rules, ledger=self.ledger, clock=self.clock, pseudonyms=self.pseudonyms)
        self.boards = Boards(
            rules=lambda: self.rules,
            ledger=self.ledger,
            clock=self.clock,
            pseudonyms=self.pseudonyms,
            service=Running(
                slots=self._slots,
                scheduler=self.scheduler,
                reachability=self._reachability,
                readiness=self.readiness,
                quarantined=lambda: self._surroundings.quarantined,
                clock=self.clock,
            ),
        )
        self._stopping = threading.Event()
        self._announcer: threading.Thread | None = None
        self._scheduled = False
        self._problem = ""
        self._begun = False
        self._ending = False

    def _wire(self) -> Dispatcher:
        detours, study = Detours(), self._study
        peers = self.auditing.peers(self.peers, lambda: self.rules)
        slots = self._slots = NodeSlots(lambda: self.rules.windows, self.clock, self.observe)
        slots.adopt(self.rules.nodes)
        self.metrics.watch_moves(slots.moves_last_hour)
        inquiry = Inquiry(peers, slots, Caps(self.ledger.caps(), self._cap_learned, self._cap_shown))
        evidence = EvidenceGatherer(self.ledger, inquiry, self.store.held)
        tallies = Tallies(self.observe)
        self.committer = Committer(
            ledger=self.ledger,
            inquiry=inquiry,
            peers=peers,
            slots=slots,
            clock=self.clock,
            observer=self.observe,
        )

        def rules() -> RuleSet:
            return self.rules

        self.sweeper = Sweeper(
            rules=rules, ledger=self.ledger, inquiry=inquiry, clock=self.clock, observer=self.observe
        )
        self.prefetch = Prefetch(
            rules=rules,
            ledger=self.ledger,
            inquiry=inquiry,
            store=self.store,
            clock=self.clock,
            observer=self.observe,
            wake=self.wake,
            trouble=logs.trouble,
        )
        kit = Kit(
            peers=peers,
            ledger=self.ledger,
            inquiry=inquiry,
            evidence=evidence,
            slots=slots,
            arrivals=self._reception.arrivals,
            tallies=tallies,
            routes=RouteWatch(self.ledger, self.clock, self._refusals),
            terms=(terms := Terms()),
            detours=detours,
            clock=self.clock,
            observer=self.observe,
            pseudonym=study,
        )
        self.forwarding = Forwarding(rules, kit, peers, self.store, self.ledger)
        return Dispatcher(
            rules=rules,
            ledger=self.ledger,
            sweeper=self.sweeper,
            prefetcher=self.prefetch.prefetcher,
            mover=Mover(rules, kit),
            forwarder=self.forwarding.forwarder,
            passer=self.forwarding.passer,
            verifier=Verifier(
                rules=rules,
                ledger=self.ledger,
                evidence=evidence,
                committer=self.committer,
                tallies=tallies,
                terms=terms,
                clock=self.clock,
                observer=self.observe,
                pseudonym=study,
            ),
            detours=detours,
            slots=slots,
            prober=Prober(peers, slots, logs.trouble),
            clock=self.clock,
            observer=self.observe,
            pseudonym=study,
            correlate=Correlation(study),
            trouble=logs.trouble,
        )

    # life ---------------------------------------------------------------------------------------------------------

    def start(self, *, scheduled: bool) -> None:
        """Begin to work: with the schedules, or (`apply`) only on what is put into the ledger.

        Raises RouterError where the Store SCP cannot listen.
        """
        self._scheduled = scheduled
        self.auditing.start()
        orphaned = self.ledger.attend(self.clock.now())
        if orphaned:
            logs.logger().warning("work that a former service left is looked up first", count=orphaned)
        recall_moves(self._slots, self.ledger, self.rules.nodes, self.clock.now())
        self._slots.heeds_breakers = scheduled
        self._surroundings.start()
        self._reception.start()
        if scheduled or self.rules.needs_listener:
            self._reception.listen()
        self._announce()
        announcer = threading.Thread(target=self._announcing, name="announce", daemon=True)
        announcer.start()
        self._announcer = announcer
        self.dispatcher.start()
        if scheduled:
            self.metrics.recall(self.ledger.last_sweeps())
            for node, matches in self.ledger.caps().items():
                self.metrics(CapLearned(node=node, matches=matches))
            self.scheduler.start(self.rules)
            self.notifier.start(one.route for one in self.ledger.stopped_routes())
            self.prefetch.listen()
            self._retainer.start()
            self.metrics.prepare()
        self._begun = True
        router = self.rules.router
        addresses = {
            "listen": f"{router.listen_host}:{self.store_port}" if self.store_port else "",
            "http": self.http_address,
            "hl7": f"{router.hl7.host}:{router.hl7.port}" if router.hl7 is not None and scheduled else "",
        }
        logs.logger().info(
            "started",
            version=__version__,
            content_hash=self.rules.content_hash,
            ae_title=router.ae_title,
            **{name: address for name, address in addresses.items() if address},
            rules=len(self.rules.rules),
            nodes=len(self.rules.nodes),
        )

    def stop(self, drain: float | None = None) -> None:
        """Claim no more, let running moves end (then cancel them), keep receiving until they have, then close."""
        self._ending = True
        if self._scheduled:
            self.scheduler.stop()
        self.prefetch.stop(_ORDERS_SECONDS)
        self.dispatcher.stop(self.rules.router.drain if drain is None else drain)
        self._reception.stop()
        self._retainer.stop()
        self._surroundings.stop()
        self.notifier.stop()
        self.auditing.stop()
        self._stopping.set()
        if self._announcer is not None:
            self._announcer.join(10.0)
        self.peers.close()
        self.forwarding.close()
        try:
            self.ledger.withdraw(self.owner)
            logs.logger().info("left for the next start", **not_ended(self.ledger.backlog()))
        except LedgerError as error:
            logs.trouble("stop", error)
        self.ledger.close()

    def adopt(self, rules: RuleSet) -> None:
        """Go on with another configuration. What stands under `router:` needs a restart and stays as it was.

        But for `router.notify`: who is told of trouble may have to change while there is some.
        What begins from now on sees the new one only; what is under way goes on as it began. Never raises.
        """
        router = msgspec.structs.replace(self.rules.router, notify=rules.router.notify)
        rules = msgspec.structs.replace(rules, router=router)
        self.metrics.configure(rules)  # before anything of the new rules can be counted
        self._slots.adopt(rules.nodes)
        self.rules = rules
        self._surroundings.adopt()
        self._reception.adopt()
        if self._scheduled:
            self.scheduler.adopt(self.rules)
        self.wake()
        if self._scheduled:
            self.metrics.prepare()

    def wake(self) -> None:
        """Work was put into the ledger."""
        self.dispatcher.wake()

    @property
    def store_port(self) -> int:
        """The port the Store SCP listens on; 0 where it does not."""
        return self._reception.port

    # what others ask ----------------------------------------------------------------------------------------------

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type."""
        return self.metrics.render(accept)

    def health(self) -> dict[str, str]:
        """What is wrong by part; empty when the process works."""
        problems: dict[str, str] = {}
        if self._announcer is not None and not self._announcer.is_alive():
            problems["announce"] = "thread ended"
        if self.dispatcher.stalled:
            problems["dispatcher"] = "takes up no work; see the log"
        return problems

    def readiness(self) -> dict[str, str]:
        """What is not ready by part; empty when work can be taken."""
        problems = self.health()
        if self._ending or not self._begun:
            problems["service"] = "stopping" if self._ending else "starting"
        if self._problem:
            problems["ledger"] = self._problem
        if self.prefetch.problem:
            problems["hl7"] = self.prefetch.problem
        if self._reception.problem:
            problems["store"] = self._reception.problem
        return problems | self._surroundings.problems()

    # events -------------------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        """Tell metrics, logs and those who are notified of an event."""
        self.metrics(event)
        self._log(event)
        self.notifier(event)
        self.auditing(event)
        self._reachability(event)
        if isinstance(event, StoreRefusal):
            self._refusals.note(event.reason)

    def _study(self, study_instance_uid: str) -> str:
        """What stands for a study in events and the log."""
        hashed = self.rules.router.log.identifiers == "hashed"
        return self.pseudonyms.of(study_instance_uid) if hashed else ""

    def _cap_learned(self, node: str, matches: int) -> None:
        """Remember at how many matches a node cuts its answers; what cannot be written is learned again."""
        self._cap_shown(node, matches)
        try:
            self.ledger.learn_cap(node, matches)
        except LedgerError as error:
            logs.trouble("caps", error)

    def _cap_shown(self, node: str, matches: int) -> None:
        self.observe(CapLearned(node=node, matches=matches))

    def _announcing(self) -> None:
        while not self._stopping.wait(_ANNOUNCE_SECONDS):
            self._announce()
            self._reception.adopt()

    def _announce(self) -> None:
        now = self.clock.now()
        try:
            self.ledger.announce(
                ServiceInfo(
                    owner=self.owner,
                    address=self.http_address,
                    seen_at=now,
                    content_hash=self.rules.content_hash,
                )
            )
            self._problem = ""
        except LedgerError as error:
            self._problem = str(error)
            logs.trouble("announce", error)
