"""Watches over routes: what each C-MOVE says about the way it takes becomes a stop, or lets a stopped route flow again.

What is decided stands in `domain.route`; what is remembered between attempts, and the ledger, are here.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec

from router.domain.dicom import SubOperationCounts
from router.domain.events import RouteResumed, RouteStopped
from router.domain.route import Run, Sign, StoppedRoute, grounds, probe_seconds, proves, sign, stops, suspicions
from router.domain.rule import LOCAL, Node, RuleSet
from router.domain.transfer import Route, Stop, Transfer
from router.engine.arrivals import Arrivals
from router.engine.ports import Clock, Ledger, Observer
from router.errors import LedgerError

_DOWN = "receiver-down"
REFUSAL_REASONS: dict[str, str] = {
    "out-of-space": "its disk has too little free space (router.minimum_free)",
    "ledger": "whether this was asked for was not known, for the ledger could not be asked; see the log",
    "out-of-resources": "it takes no more receipts; see the log",
    "storage-failure": "it could not write; see the log",
    "too-many-associations": "all its associations are in use (router.maximum_associations)",
    "association-rejected": "it rejects the AE titles that called (is the source's `sends_as` right?)",
    "too-many-of-node": "a node held as many associations as its limits.incoming_associations allows",
    "address": "a node called from an address that is not in its sends_from",
    "tls-wrong-certificate": "a node showed a certificate that is not in its certificate_names",
    "tls": "a TLS handshake with it failed; see the log",
    _DOWN: "a receiver of its own had ended, and another was being started",
}
"""Reasons of a StoreRefusal that explain why a source cannot send to us, as the end of a sentence."""


def asked_on(route: Route) -> str:
    """The node that this router asks for what goes a way: the source, or where it sends itself the destination."""
    return route.destination if route.source == LOCAL else route.source


class Refusals:
    """What our own Store SCP refused last, by reason. Thread-safe."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._lock = threading.Lock()

    def receiving(self, whole: bool) -> None:
        """Whether all of it receives now; while it does not, nobody else is to blame for what does not come."""
        with self._lock:
            self._at[_DOWN] = time.monotonic() if whole else math.inf

    def note(self, reason: str) -> None:
        """It refused something."""
        reason = "tls" if reason.startswith("tls-") and reason not in REFUSAL_REASONS else reason
        if reason in REFUSAL_REASONS:
            with self._lock:
                self._at[reason] = time.monotonic()

    def since(self, moment: float) -> str:
        """Why it refused something since that monotonic time, as a sentence; empty where it did not."""
        with self._lock:
            reasons = [REFUSAL_REASONS[reason] for reason, at in self._at.items() if at >= moment]
        return f"This router's own store refused meanwhile: {'; '.join(sorted(reasons))}." if reasons else ""


class RouteWatch:
    """Remembers what looked like a stop in disguise, and writes stops and their end. Thread-safe."""

    def __init__(self, ledger: Ledger, clock: Clock, refusals: Refusals) -> None:
        self._ledger = ledger
        self._clock = clock
        self.refusals = refusals
        self._suspicious: dict[Route, tuple[Run, ...]] = {}
        self._lock = threading.Lock()

    def stop(self, asked: Node, cause: str, reason: str) -> Stop:
        """A stop of a route on which this node is asked, with the time of the first probe."""
        wait = timedelta(seconds=probe_seconds(asked.move.probe, 0))
        return Stop(cause=cause, reason=reason, probe_at=self._clock.now() + wait)

    def judge(self, route: Route, source: Node, run: Run, sentence: str) -> Stop | None:
        """What the end of a C-MOVE means for its route: a stop, or nothing; one that passed ends what was."""
        what = sign(run)
        if what is Sign.PASSED:
            with self._lock:
                self._suspicious.pop(route, None)
            self.passed(route, run)
        if what is Sign.STOPS:
            return self.stop(source, run.cause, sentence)
        if what is Sign.SUSPECT:
            if self._ledger.stopped_route(route) is not None:
                return self.stop(source, run.cause, sentence)
            with self._lock:
                some = self._suspicious[route] = suspicions(self._suspicious.get(route, ()), run)
            why = grounds(some)
            return self.stop(source, run.cause, why) if why else None
        return None

    def passed(self, route: Route, run: Run) -> None:
        """Let a stopped route flow again, if this run, under way or ended, proves that it works."""
        stopped = self._ledger.stopped_route(route)
        if stopped is not None and proves(stopped.cause, run):
            self._ledger.resume_route(route)

    def untried(self, route: Route) -> None:
        """A transfer of the route ended without a C-MOVE: if it was to try a stopped route, another one is to."""
        if self._ledger.stopped_route(route) is not None:
            self._ledger.probe_route(route, self._clock.now())


class Passage:
    """What one attempt of a transfer sees of its route."""

    def __init__(self, watch: RouteWatch, transfer: Transfer, source: Node, arrivals: Arrivals) -> None:
        self._watch = watch
        self._transfer = transfer
        self._source = source
        self._arrivals = arrivals
        self._run = Run(transfer.id, "", 0.0, 0.0)
        self.begun = False
        self.note = ""
        """What else there is to say of how it ended, as a sentence."""

    def begin(self) -> None:
        """A C-MOVE goes out."""
        self.begun = True
        self._run = self._run._replace(began=time.monotonic())

    def heard(self, pending: bool, counts: SubOperationCounts) -> None:
        """A response came; `counts` are those of the whole attempt."""
        done = (counts.completed or 0) + (counts.warning or 0)
        before = self._run
        responded = before.responded or pending or bool(counts.failed)
        self._run = before._replace(responded=responded, done=done)
        if (responded, done > 0) != (before.responded, before.done > 0):
            with suppress(LedgerError):  # its end says the same
                self._watch.passed(self._transfer.route, self._run)

    def ended(self, cause: str, sentence: str) -> Stop | None:
        """The attempt ended for this cause; the stop of its route, if that is what it means."""
        intent, run = self._transfer.intent, self._run._replace(cause=cause, ended=time.monotonic())
        if not self.begun:
            return self.failed_early(cause, sentence)
        if intent.destination == LOCAL:
            if self._arrivals.last(intent.study_instance_uid, fresh=True) >= run.began:
                run = run._replace(done=max(1, run.done))
            elif sign(run) is Sign.SUSPECT:
                self.note = self._watch.refusals.since(run.began)
                if self.note:
                    return None
        return self._watch.judge(self._transfer.route, self._source, run, sentence)

    def failed_early(self, cause: str, sentence: str) -> Stop | None:
        """The source did not even take a C-MOVE; the stop of the route, if that is what it means."""
        return self._watch.stop(self._source, cause, sentence) if stops(cause) else None

    def untried(self) -> None:
        """Nothing had to be moved, or somebody interfered."""
        if not self.begun:
            self._watch.untried(self._transfer.route)


class StoppedRoutes:
    """What is stopped, as it was last seen: tells when that changes, and takes the probes that are due."""

    def __init__(self, ledger: Ledger, observer: Observer) -> None:
        self._ledger = ledger
        self._observer = observer
        self._stopped: dict[Route, StoppedRoute] = {}
        self._adopted = ""

    def look(self, rules: RuleSet, now: datetime) -> None:
        """Look again; where the configuration has changed, fit what is stopped to it first."""
        if rules.content_hash != self._adopted:
            self._ledger.adopt_configuration(rules.content_hash, [*rules.nodes, LOCAL], now)
            self._adopted = rules.content_hash
        before = self._stopped
        self._stopped = {one.route: one for one in self._ledger.stopped_routes()}
        for route, one in self._stopped.items():
            if route not in before or before[route].stopped_at != one.stopped_at:
                self._observer(
                    RouteStopped(
                        source=route.source, destination=route.destination, cause=one.cause, message=one.reason
                    )
                )
        for route in before.keys() - self._stopped.keys():
            self._observer(RouteResumed(source=route.source, destination=route.destination))

    def claim_probe(
        self, sources: Collection[str], rules: RuleSet, now: datetime, lease_seconds: float, without: Collection[Route]
    ) -> Transfer | None:
        """Take a transfer that is to try a stopped route from one of these sources, if one is due."""
        for route, one in self._stopped.items():
            node = rules.node(asked_on(route))
            if node is None or one.probe_at > now or route.source not in sources or route in without:
                continue
            following = now + timedelta(seconds=probe_seconds(node.move.probe, one.probes + 1))
            probe = self._ledger.claim_probe(route, now, lease_seconds, following)
            if probe is not None:
                self._stopped[route] = msgspec.structs.replace(one, probe_at=following, probes=one.probes + 1)
                return probe
        return None
