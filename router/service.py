"""The composition root: the only module that knows every part. It wires them and decides nothing."""

from __future__ import annotations

import platform
import threading
import time
import uuid
from pathlib import Path

import msgspec

from router import __version__
from router.auditing import Auditing
from router.boards import Boards, Running
from router.dimse.peers import Peers
from router.domain.events import CapLearned, Event, StoreRefusal
from router.domain.overview import not_ended
from router.domain.rule import RuleSet
from router.elsewhere import elsewhere
from router.engine.commitment import Committer
from router.engine.detours import Detours
from router.engine.dispatcher import Dispatcher
from router.engine.evidence import EvidenceGatherer
from router.engine.gates import recall_moves
from router.engine.kit import Kit
from router.engine.mover import Mover
from router.engine.probe import Prober
from router.engine.query import Inquiry
from router.engine.rationing import Rationing
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
from router.keeping import historian, remembered_caps, retainer
from router.lookup import Lookup
from router.membership import Membership
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

_RECALL_SECONDS = 15.0
"""How often the one that leads looks at the sweeps that others have run."""
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
        self.ledger = open_ledger(rules)
        self.clock = self.ledger.clock()
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
        self.elsewhere = elsewhere(self.store, self.ledger, self.clock, lambda: self.rules.router)
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
        self.membership = Membership(
            self.owner,
            self.ledger,
            self.clock,
            self.store.name,
            rules=lambda: self.rules,
            address=lambda: self.http_address,
            told=(self.wake, lambda: self._rationing.told()),
            lead=self._lead,
            after=self._announced,
            deposed=lambda: self.dispatcher.stop(0.0),
        )
        self._historian = historian(lambda: self.rules, self.ledger, self.clock, lambda: self.membership.leads)
        self._reception = Reception(
            rules=lambda: self.rules,
            ledger=self.ledger,
            elsewhere=self.elsewhere,
            observer=self.observe,
            on_arrived=lambda batch: self.prefetch.arrived(batch),
            audit=self.auditing.arrived,
            on_answer=lambda answer, nodes: self.committer.take(answer, nodes),
            moving=lambda: self.dispatcher.moving,
            wake=self.wake,
            on_whole=self._refusals.receiving,
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
                owner=self.owner,
                services=lambda: self.membership.services,
                clock=self.clock,
            ),
        )
        self._stopping = threading.Event()
        self._scheduled = self._begun = self._ending = False
        self._recalled = float("-inf")

    def _wire(self) -> Dispatcher:
        detours, study = Detours(), self._study
        peers = self.auditing.peers(self.peers, lambda: self.rules)
        slots = self._slots = NodeSlots(lambda: self.rules.windows, self.clock, self.observe)
        slots.adopt(self.rules.nodes)
        self._rationing = Rationing(
            *(slots, self.ledger, self.owner, self.clock, logs.trouble, self.peers.fit),
            recall=lambda: recall_moves(slots, self.ledger, self.rules.nodes, self.clock.now()),
        )
        self.metrics.watch_moves(slots.moves_last_hour)
        inquiry = Inquiry(peers, slots, remembered_caps(self.ledger, self.observe))
        evidence = EvidenceGatherer(self.ledger, inquiry, self.elsewhere.held)
        tallies = Tallies(self.observe)
        self.committer = Committer(
            ledger=self.ledger, inquiry=inquiry, peers=peers, slots=slots, clock=self.clock, observer=self.observe
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
            elsewhere=self.elsewhere,
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
        self.forwarding = Forwarding(rules, kit, peers, self.store, self.ledger, self.elsewhere)
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
            agrees=self.membership.agrees,
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
        self.membership.join()
        self._slots.heeds_breakers = scheduled
        self._surroundings.start()
        self._reception.start()
        if scheduled or self.rules.needs_listener:
            self._reception.listen()
        self._rationing.start()
        self.dispatcher.start()
        if scheduled:
            for node, matches in self.ledger.caps().items():
                self.metrics(CapLearned(node=node, matches=matches))
            self.membership.lead()
            self._announced()
            self.notifier.start(one.route for one in self.ledger.stopped_routes())
            self.prefetch.listen()
            self._retainer.start()
            self._historian.start()
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
            replica=self.membership.replica,
            content_hash=self.rules.content_hash,
            ae_title=router.ae_title,
            **{name: address for name, address in addresses.items() if address},
            rules=len(self.rules.rules),
            nodes=len(self.rules.nodes),
        )

    def stop(self, drain: float | None = None) -> None:
        """Claim no more, let running moves end (then cancel them), keep receiving until they have, then close."""
        self._ending = True
        self.membership.follow()
        if drain is None and self._begun:  # a load balancer has to see that it is not ready
            self._stopping.wait(self.rules.router.leave)
        drain = self.rules.router.drain if drain is None else drain
        until = time.monotonic() + drain
        self.prefetch.stop(_ORDERS_SECONDS)
        self.dispatcher.stop(drain)
        self._reception.stop(until - time.monotonic())
        for part in (self._retainer, self._historian, self._surroundings, self.notifier, self.auditing):
            part.stop()
        self._stopping.set()
        self.peers.close()
        self._rationing.stop()
        self.forwarding.close()
        try:
            self.membership.leave()
            logs.logger().info("left for the next start", **not_ended(self.ledger.backlog()))
        except LedgerError as error:
            logs.trouble("stop", error)
        self.ledger.close()

    def adopt(self, rules: RuleSet) -> None:
        """Go on with another configuration. What stands under `router:` needs a restart and stays as it was.

        But for what is named in `AT_ONCE`: who is told of trouble may have to change while there is some.
        What begins from now on sees the new one only; what is under way goes on as it began. Never raises.
        """
        rules = msgspec.structs.replace(rules, router=self.rules.router.adopting(rules.router))
        self.metrics.configure(rules)  # before anything of the new rules can be counted
        self._slots.adopt(rules.nodes)
        self.membership.adopt(rules)  # nobody else is to end for good what it makes of them
        self.rules = rules
        self._surroundings.adopt()
        self._reception.adopt()
        if self._scheduled:
            self.scheduler.adopt(self.rules)
            self.metrics.prepare()
        self.wake()

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
        if self.membership.fault:
            problems["announce"] = self.membership.fault
        if self.dispatcher.stalled:
            problems["dispatcher"] = "takes up no work; see the log"
        return problems

    def readiness(self) -> dict[str, str]:
        """What is not ready by part; empty when work can be taken."""
        problems = self.health()
        if self._ending or not self._begun:
            problems["service"] = "stopping" if self._ending else "starting"
        if self.membership.problem:
            problems["ledger"] = self.membership.problem
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

    def _lead(self, leads: bool) -> None:
        """Begin, or end, what one service does for all. Raises LedgerError; then it has not begun."""
        if leads:
            self.metrics.recall(self.ledger.last_sweeps())
            self.scheduler.start(self.rules)
        else:
            self.scheduler.stop()
        logs.logger().info("leads" if leads else "leads no more", replica=self.membership.replica)

    def _announced(self) -> None:
        self._reception.adopt()
        services, leads = self.membership.services, self.membership.leads
        self.metrics.show_replicas(self.membership.replica, len(services), leads=leads or not self._scheduled)
        if leads and len(services) > 1 and time.monotonic() - self._recalled > _RECALL_SECONDS:
            self._recalled = time.monotonic()
            self.metrics.recall(self.ledger.last_sweeps())
