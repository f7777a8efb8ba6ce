"""The engine against fake peers and a real ledger, each step taken by hand. No network, no waiting."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec

from router.domain.appointment import Appointment
from router.domain.condition import Condition
from router.domain.dicom import Identifier
from router.domain.events import Event, SubOperationsCounted
from router.domain.priors import PriorGroup, Priors, Within
from router.domain.pseudonym import Pseudonyms
from router.domain.rule import Move, Node, NodeLimits, Order, RouterSettings, Rule, RuleSet, Sweep
from router.domain.sweep import SweepDue, SweepReport
from router.domain.transfer import Transfer
from router.engine.arrival import ArrivalTrigger
from router.engine.arrivals import Arrivals
from router.engine.commitment import Committer
from router.engine.detours import Detours
from router.engine.evidence import EvidenceGatherer
from router.engine.forwarder import Forwarder
from router.engine.kit import Kit
from router.engine.mover import LEASE_SECONDS, Mover
from router.engine.orders import Orders
from router.engine.passing import Passer
from router.engine.prefetch import Prefetcher
from router.engine.query import Inquiry
from router.engine.routes import Refusals, RouteWatch, StoppedRoutes
from router.engine.slots import NodeSlots
from router.engine.sweep import Sweeper
from router.engine.tally import Tallies
from router.engine.terms import Terms
from router.engine.verifier import Verifier
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock, FakePeers
from tests.support.passing import FakeDestinations, FakeShelf


def node(name: str) -> Node:
    return Node(name=name, ae_title=name.upper(), host="127.0.0.1", port=104, limits=NodeLimits(associations=2))


class Bench:
    """An engine on the bench: each step of it is taken by hand."""

    def __init__(self, directory: Path, **move: object) -> None:
        self.clock = FakeClock()
        self.ledger = SqlLedger.open(f"sqlite:///{directory}/ledger.db")
        self.peers = FakePeers(self.ledger)
        self.peers.titles = {"WS": "ws", "PACS": "pacs"}
        self.events: list[Event] = []
        self.pseudonyms = Pseudonyms(b"the bench's key")
        self.never = threading.Event()
        self.lost_files: set[str] = set()
        settings = Move(to=("local",), **move)  # type: ignore[arg-type]
        self.rules = RuleSet(
            router=RouterSettings(),
            nodes={name: node(name) for name in ("pacs", "ws")},
            rules={"r": Rule(name="r", sweep=Sweep(source="pacs"), where=Condition(), move=settings)},
            content_hash="x",
        )
        self.refusals = Refusals()
        self.stopped = StoppedRoutes(self.ledger, self.events.append)
        self.detours = Detours()
        self.slots = slots = NodeSlots(observer=self.events.append)
        self.inquiry = inquiry = Inquiry(self.peers, slots)
        evidence = EvidenceGatherer(self.ledger, inquiry, self.held)
        observer = self.observe
        tallies = Tallies(observer)
        self.sweeper = Sweeper(
            rules=lambda: self.rules, ledger=self.ledger, inquiry=inquiry, clock=self.clock, observer=observer
        )
        self.stored: dict[str, Identifier] = {}
        """Study Instance UID -> what the headers of its files in our store say."""
        self.woken = 0
        self.prefetcher = Prefetcher(
            rules=lambda: self.rules,
            ledger=self.ledger,
            inquiry=inquiry,
            held=self.held,
            stored=lambda study, wanted: self.stored.get(study),
            clock=self.clock,
            observer=observer,
        )
        self.orders = Orders(
            rules=lambda: self.rules, ledger=self.ledger, clock=self.clock, observer=observer, wake=self._woken
        )
        self.arrivals = ArrivalTrigger(
            rules=lambda: self.rules,
            ledger=self.ledger,
            stored=lambda study, wanted: self.stored.get(study),
            clock=self.clock,
            observer=observer,
        )
        kit = Kit(
            peers=self.peers,
            ledger=self.ledger,
            inquiry=inquiry,
            evidence=evidence,
            slots=slots,
            arrivals=Arrivals(),
            tallies=tallies,
            routes=RouteWatch(self.ledger, self.clock, self.refusals),
            terms=(terms := Terms()),
            detours=self.detours,
            clock=self.clock,
            observer=observer,
            pseudonym=self.pseudonyms.of,
        )
        self.committer = Committer(
            ledger=self.ledger,
            inquiry=inquiry,
            peers=self.peers,
            slots=slots,
            clock=self.clock,
            observer=observer,
        )
        self.mover = Mover(lambda: self.rules, kit)
        self.destinations = FakeDestinations(self.peers)
        self.shelf = FakeShelf()
        self.forwarder = Forwarder(lambda: self.rules, kit, self.destinations, self.shelf)
        self.headers: dict[str, Identifier] = {}
        """SOP Instance UID -> what the header of its file says."""
        self.passer = Passer(
            rules=lambda: self.rules,
            ledger=self.ledger,
            slots=slots,
            headers=lambda receipts, tags: {
                uid: self.headers[uid] for one in receipts if (uid := one.sop_instance_uid) in self.headers
            },
            clock=self.clock,
            observer=observer,
        )
        self.verifier = Verifier(
            rules=lambda: self.rules,
            ledger=self.ledger,
            evidence=evidence,
            committer=self.committer,
            tallies=tallies,
            terms=terms,
            clock=self.clock,
            observer=observer,
            pseudonym=self.pseudonyms.of,
        )

    def observe(self, event: Event) -> None:
        """Take an event."""
        self.events.append(event)

    def _woken(self) -> None:
        self.woken += 1

    def held(self, study: str) -> set[str]:
        return self.ledger.received(study) - self.lost_files

    def to(self, *destinations: str, **move: object) -> None:
        rule = self.rules.rules["r"]
        settings = Move(to=destinations, **move)  # type: ignore[arg-type]
        changed = Rule(name="r", sweep=rule.sweep, where=rule.where, move=settings)
        self.rules = RuleSet(router=self.rules.router, nodes=self.rules.nodes, rules={"r": changed}, content_hash="y")

    def prefetches(self, *destinations: str, priors: Priors | None = None, **changes: Any) -> Rule:
        """Let the rule move priors from `pacs`, for orders unless `changes` name another trigger."""
        triggers: dict[str, Any] = dict.fromkeys(("sweep", "worklist", "order", "arrival"))
        if not triggers.keys() & changes.keys():
            changes["order"] = Order()
        groups = (PriorGroup(name="recent", max=2, within=Within("5y", months=60)),)
        settings: dict[str, Any] = triggers | {"where": Condition(), "move": Move(to=destinations or ("ws",))} | changes
        rule = Rule(name="r", priors=priors or Priors(source="pacs", groups=groups), **settings)
        self.rules = msgspec.structs.replace(self.rules, rules={"r": rule})
        return rule

    def sweep(self, *, manual: bool = False) -> SweepReport:
        self.clock.advance(60)
        self.ledger.add_sweeps([SweepDue(rule="r", source="pacs", due_at=self.clock.now(), manual=manual)])
        claim = self.ledger.claim_sweep(["pacs"], self.clock.now(), LEASE_SECONDS)
        assert claim is not None
        return self.sweeper.run(claim, self.never)

    def look(self) -> Appointment | None:
        """Look for the priors of the appointment that is due next; how it stands then. None where none is due."""
        claim = self.ledger.claim_appointment([*self.rules.nodes, "gone"], self.clock.now(), LEASE_SECONDS)
        if claim is None:
            return None
        self.prefetcher.run(claim, self.never)
        return self.ledger.appointment(claim.id)

    def step(self) -> Transfer | None:
        """Run whatever is due next; None where nothing is."""
        now = self.clock.now()
        transfer = self.ledger.claim_verification(["local", "ws"], now, LEASE_SECONDS)
        if transfer is not None:
            return self.verifier.run(transfer, self.never)
        self.stopped.look(self.rules, now)
        probe = self.stopped.claim_probe(["pacs"], self.rules, now, LEASE_SECONDS, ())
        transfer = probe or self.ledger.claim_transfer(["pacs"], now, LEASE_SECONDS)
        return self.mover.run(transfer, self.never) if transfer is not None else None

    def finish(self) -> list[Transfer]:
        """Work until everything has ended, letting waits pass."""
        for _ in range(200):
            if self.step() is None:
                open_ = [t for t in self.ledger.transfers() if not t.ended]
                if not open_:
                    return sorted(self.ledger.transfers(), key=lambda t: t.id)
                self.clock.advance(max(0.0, (min(t.next_at for t in open_) - self.clock.now()).total_seconds()) + 0.001)
        raise AssertionError("the transfers do not end")

    def counted(self) -> int:
        return sum(e.counts.completed or 0 for e in self.events if isinstance(e, SubOperationsCounted))
