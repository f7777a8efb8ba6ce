"""Claims due work from the ledger and runs it, a thread per piece of work, bounded per node. Decides nothing itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from router.domain.appointment import Appointment
from router.domain.passing import PendingArrival
from router.domain.rule import LOCAL, Node, RuleSet
from router.domain.sweep import SweepRecord
from router.domain.tenure import LEASE_SECONDS, Tenure
from router.domain.transfer import State, Transfer
from router.engine.detours import Detours
from router.engine.forwarder import Forwarder
from router.engine.gates import Gates
from router.engine.giving_back import give_back, give_back_after_outage
from router.engine.lane import Claim, Lane
from router.engine.leases import Held, Leases, lasting
from router.engine.mover import Mover
from router.engine.orphans import Orphans
from router.engine.passing import Passer
from router.engine.ports import Clock, Correlate, Ledger, Observer, Pseudonym, Trouble
from router.engine.prefetch import Prefetcher
from router.engine.probe import Prober
from router.engine.rollout import Agrees, Rollout
from router.engine.routes import StoppedRoutes
from router.engine.slots import NodeSlots
from router.engine.step import verdict_events
from router.engine.sweep import Sweeper
from router.engine.upkeep import Upkeep, decided
from router.engine.verifier import Verifier
from router.errors import LedgerError

_TICK_SECONDS = 1.0
_GLANCE_SECONDS = 0.05
_STRANGERS_SECONDS = 5.0
_STALLED_SECONDS = 60.0
_FORGET_SECONDS = 60.0
"""How often it is seen what others have looked at of what was moved here."""
_HEED_SECONDS = 0.25
"""Between two looks for what people ask of work under way, and for routes that others have stopped."""
_SWEEPS_PER_SOURCE = 1
_LOOKS_PER_SOURCE = 2
"""Appointments whose priors are looked for at once at a source; its associations are shared by all that asks it."""
_VERIFICATIONS_PER_DESTINATION = 2
_ARRIVALS = 4
"""Studies that have arrived and are looked at at once."""
_FORWARDS = 16
"""Transfers from our own store at a time, to all destinations; to one as many as it has associations."""
_CANCEL_SECONDS = 20.0
"""How long cancelled work may take to end: the grace of a C-CANCEL and then some."""


class Dispatcher:
    """Runs all work as it becomes due: looks, sweeps, moves, verifications; each node within its own bounds."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        sweeper: Sweeper,
        prefetcher: Prefetcher,
        mover: Mover,
        forwarder: Forwarder,
        passer: Passer,
        verifier: Verifier,
        detours: Detours,
        slots: NodeSlots,
        prober: Prober,
        clock: Clock,
        observer: Observer,
        pseudonym: Pseudonym,
        correlate: Correlate,
        trouble: Trouble,
        agrees: Agrees = lambda rules, *, anew=False: True,
    ) -> None:
        self._rules = rules
        self._ledger = ledger
        self._sweeper = sweeper
        self._upkeep = Upkeep(ledger)
        self._orphans = Orphans(ledger, observer)
        self._rollout = Rollout(ledger, agrees, clock)
        self._leases = Leases(ledger, self._held, clock)
        self._mover = mover
        self._forwarder = forwarder
        self._verifier = verifier
        self._detours = detours
        self._slots = slots
        self._prober = prober
        self._gates = Gates(slots)
        self._routes = StoppedRoutes(ledger, observer)
        self._clock = clock
        self._observer = observer
        self._pseudonym = pseudonym
        self._correlate = correlate
        self._trouble = trouble
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._lock, self._claiming = threading.Lock(), threading.Lock()
        self._threads: dict[threading.Thread, Held] = {}
        """What runs."""
        self._unproven: set[int] = set()
        """Transfers moved here that wait for a look at the evidence: draining includes it."""
        self._next_look = 0.0
        self._late: frozenset[int] = frozenset()
        self._heeded = self._forgot = float("-inf")
        self._heeded_for: RuleSet | None = None
        self._strangers_at = float("-inf")
        self._turned = time.monotonic()
        self._loop: threading.Thread | None = None
        self._sweeps: Lane[SweepRecord] = Lane(
            room=lambda name, node: _SWEEPS_PER_SOURCE,
            node_of=lambda sweep: sweep.due.source,
            claim=lambda names, now, seconds: self._rollout.claim_sweep(self._rules(), names, now, seconds),
            run=self._run_sweep,
        )
        self._looks: Lane[Appointment] = Lane(
            room=lambda name, node: _LOOKS_PER_SOURCE,
            node_of=lambda appointment: appointment.source,
            claim=ledger.claim_appointment,
            run=prefetcher.run,
        )
        self._arrivals: Lane[PendingArrival] = Lane(
            room=lambda name, node: _ARRIVALS,
            node_of=lambda pending: LOCAL,
            claim=lambda names, now, seconds: ledger.claim_arrival(now, seconds),
            run=passer.run,
        )
        self._moves: Lane[Transfer] = Lane(
            room=self._room_to_move,
            node_of=lambda transfer: transfer.intent.source,
            claim=self._claim_move,
            run=self._run_move,
        )
        self._verifications: Lane[Transfer] = Lane(
            room=lambda name, node: _VERIFICATIONS_PER_DESTINATION,
            node_of=lambda transfer: transfer.intent.destination,
            claim=ledger.claim_verification,
            run=self._run_verification,
        )

    def start(self) -> None:
        """Begin to claim work."""
        loop = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        loop.start()
        self._loop = loop
        self._leases.start()

    @property
    def stalled(self) -> bool:
        """Whether it claims no work though it should: its loop has ended, or failed for a while."""
        if self._loop is None or self._stopping.is_set():
            return False
        return not self._loop.is_alive() or time.monotonic() - self._turned > _STALLED_SECONDS

    @property
    def moving(self) -> set[str]:
        """The sources from which something is being moved."""
        with self._lock:
            return {name for name, number in self._moves.running.items() if number}

    def wake(self) -> None:
        """Work may have become due."""
        self._wake.set()

    def stop(self, drain_seconds: float) -> bool:
        """Claim no more; give running work `drain_seconds` to end, then cancel it. Whether all of it ended.

        What has been moved is still verified within that time.
        """
        self._stopping.set()
        self._wake.set()
        with self._claiming:
            pass  # what was being claimed counts as running now: it is not to be given back before it has begun
        self._forget_what_is_decided()
        ended = self._join(drain_seconds, verified=True)
        self._ended.set()
        self._wake.set()
        if self._loop is not None:
            self._loop.join(_TICK_SECONDS * 10)
        if not ended:
            with self._lock:
                for held in self._threads.values():
                    held.cancelled.set()
            ended = self._join(_CANCEL_SECONDS)
        self._prober.stop()
        self._leases.stop()
        left = [held.claim for held in self._held() if isinstance(held.claim, Transfer)]
        if left:
            try:
                self._ledger.release_claims(left, self._clock.now())
            except LedgerError as error:  # their leases end by themselves
                self._trouble("dispatcher", error)
        return ended

    def _held(self) -> list[Held]:
        with self._lock:
            return list(self._threads.values())

    def _forget_what_is_decided(self) -> None:
        """What waited for a look a person may have cancelled or held, or another replica has looked at it."""
        self._forgot = time.monotonic()
        with self._lock:
            waiting = set(self._unproven)
        with contextlib.suppress(LedgerError):
            no_more = decided(self._ledger, waiting)
            with self._lock:
                self._unproven -= no_more

    def _join(self, seconds: float, *, verified: bool = False) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                threads = list(self._threads)
                begun = [thread for thread in threads if thread.ident is not None]
                open_work = bool(threads) or (verified and bool(self._unproven))
            left = deadline - time.monotonic()
            if not open_work or left <= 0:
                return not threads
            if begun:
                begun[0].join(min(0.2, left))
            else:
                time.sleep(min(0.05, left))
                if verified and not threads and time.monotonic() - self._forgot > _TICK_SECONDS:
                    self._forget_what_is_decided()

    # the loop -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            try:
                self._turn()
                self._turned = time.monotonic()
            except LedgerError as error:  # not a fault of this process, which a restart could mend
                self._turned = time.monotonic()
                self._next_look = self._turned + _TICK_SECONDS
                self._trouble("dispatcher", error)
            except Exception as error:  # noqa: BLE001  whatever it is, the next turn may do better
                self._trouble("dispatcher", error)
            self._rest()

    def _rest(self) -> None:
        """Until work may be due, or a move turns out to wait for its destination: then others have its turn."""
        left = max(0.02, min(_TICK_SECONDS, self._next_look - time.monotonic()))
        until = time.monotonic() + left
        while left > 0:
            moving = any(self._moves.running.values())
            if self._wake.wait(min(left, _GLANCE_SECONDS) if moving else left):
                return
            if self._detours.late() - self._late:
                return
            left = until - time.monotonic()

    def _turn(self) -> None:
        now = self._clock.now()
        if self._leases.keep():
            self._ledger.expire_leases(now)
        if self._next_look <= time.monotonic():  # else something that waits is due sooner
            self._next_look = time.monotonic() + _TICK_SECONDS
        self._upkeep.look(now)
        rules = self._rules()
        if self._rollout.agrees(rules):
            self._orphans.look(rules, now)
        names = [*rules.nodes, LOCAL]
        self._gates.forget()
        self._late = self._detours.late()
        if time.monotonic() - self._heeded > _HEED_SECONDS or rules is not self._heeded_for:
            self._heeded, self._heeded_for = time.monotonic(), rules
            self._routes.look(rules, now)
            self._heed_wishes()
        if time.monotonic() - self._strangers_at > _STRANGERS_SECONDS:
            self._strangers_at = time.monotonic()
            self._rollout.look(rules, names)
            if time.monotonic() - self._forgot > _FORGET_SECONDS:
                self._forget_what_is_decided()
        names += self._rollout.strangers
        # The slow work first: a source should not stand idle while what it sent is looked up.
        if not self._stopping.is_set():
            self._prober.look(rules)
            self._fill(self._moves, names, rules)
        self._fill(self._verifications, names, rules)
        if not self._stopping.is_set():
            self._fill(self._arrivals, [LOCAL], rules)
            self._fill(self._looks, names, rules)
            self._fill(self._sweeps, names, rules)
        self._next_look = min(self._next_look, self._gates.opens_at)

    def _fill(self, lane: Lane[Claim], names: Sequence[str], rules: RuleSet) -> None:
        while not self._ended.is_set() and (lane is self._verifications or not self._stopping.is_set()):
            with self._lock:
                free = [name for name in names if lane.running[name] < lane.room(name, rules.node(name))]
            free = [name for name in free if self._gates.open(rules.node(name))]
            if not free:
                return
            with self._claiming:
                if self._stopping.is_set() and lane is not self._verifications:
                    return
                tenure = Tenure(time.monotonic())
                claim = lane.claim(free, self._clock.now(), LEASE_SECONDS)  # the turn may have begun long ago
                if claim is None:
                    return
                cancelled = threading.Event()
                thread = threading.Thread(target=self._work, args=(lane, claim, cancelled), name="work", daemon=True)
                with self._lock:
                    lane.running[lane.node_of(claim)] += 1
                    self._threads[thread] = Held(claim, cancelled, tenure)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left
                with self._lock:
                    lane.running[lane.node_of(claim)] -= 1
                    del self._threads[thread]
                give_back(self._ledger, claim, "not-begun", self._clock.now())
                raise

    def _work(self, lane: Lane[Claim], claim: Claim, cancelled: threading.Event) -> None:
        next_at: datetime | None = None
        try:
            with self._correlate(claim):
                next_at = self._run_claim(lane, claim, cancelled)
        finally:
            with self._lock:
                lane.running[lane.node_of(claim)] -= 1
                self._threads.pop(threading.current_thread(), None)
            if next_at is not None:
                wait = (next_at - self._clock.now()).total_seconds()
                self._next_look = min(self._next_look, time.monotonic() + max(0.0, wait))
            self._wake.set()

    def _run_claim(self, lane: Lane[Claim], claim: Claim, cancelled: threading.Event) -> datetime | None:
        try:
            left = lasting(lambda: self._rollout.leaves(claim, self._rules()))
            return None if left else lane.run(claim, cancelled)
        except Exception as error:  # noqa: BLE001  a defect in one piece of work must not take the others down
            self._trouble("work", error)
            if isinstance(error, LedgerError):
                give_back_after_outage(self._ledger, claim, self._clock)
            return None

    def _heed_wishes(self) -> None:
        """Stop what a person wants cancelled or held; the ledger makes it so when the work has let go."""
        wished = set(self._ledger.wished())
        if wished:
            for held in self._held():
                if isinstance(held.claim, Transfer) and (held.claim.id, held.claim.fence) in wished:
                    held.cancelled.set()

    # the kinds of work --------------------------------------------------------------------------------------------

    def _run_sweep(self, sweep: SweepRecord, cancelled: threading.Event) -> datetime | None:
        self._sweeper.run(sweep, cancelled)
        return None

    def _room_to_move(self, name: str, node: Node | None) -> int:
        """Moves at a time: as many as it has associations; those that wait for their destination need none."""
        if name == LOCAL:
            return _FORWARDS
        aside = sum(route.source == name for route in self._detours.slow())
        return (self._slots.allowed(node) if node else 1) + aside

    def _claim_move(self, sources: Sequence[str], now: datetime, lease_seconds: float) -> Transfer | None:
        """A probe that is due, else the most urgent move on a route whose destination keeps nobody waiting.

        Now and then it is the turn of what has waited longest at a source.
        """
        rules, turns = self._rules(), self._gates.turns
        claims = [held.claim for held in self._held()]
        moving = [claim for claim in claims if isinstance(claim, Transfer) and claim.state is State.MOVING]
        sources = self._gates.sources(sources, rules, moving)
        without = {*self._rollout.routes, *self._detours.slow(), *self._gates.closed_routes(sources, rules, moving)}
        probe = self._routes.claim_probe(sources, rules, now, lease_seconds, without)
        if probe is not None:
            return probe
        turn = [source for source in sources if turns.longest_waiting(source)]
        others = [source for source in sources if source not in turn]
        claim = None
        for some, oldest in ((turn, True), (others, False)):
            if some and claim is None:
                claim = self._ledger.claim_transfer(some, now, lease_seconds, without, oldest=oldest)
        if claim is not None:
            turns.claimed(claim.intent.source)
        return claim

    def _run_move(self, transfer: Transfer, cancelled: threading.Event) -> datetime | None:
        runs = self._forwarder if transfer.intent.source == LOCAL else self._mover
        ended = runs.run(transfer, cancelled)
        if ended is not None and ended.state is State.QUEUED:
            self._heeded = float("-inf")  # its route may be stopped
        return self._tell(transfer, ended)

    def _run_verification(self, transfer: Transfer, cancelled: threading.Event) -> datetime | None:
        return self._tell(transfer, self._verifier.run(transfer, cancelled))

    def _worth_draining(self, transfer: Transfer) -> bool:
        """Whether a look comes while a drain may still last, and asks: an archive may take hours to commit itself."""
        if (transfer.next_at - self._clock.now()).total_seconds() > self._rules().router.drain:
            return False
        try:
            return not self._ledger.awaits_commitment(transfer.id)
        except LedgerError:  # a ledger out of reach makes nobody wait
            return False

    def _tell(self, claimed: Transfer, transfer: Transfer | None) -> datetime | None:
        unproven = transfer is not None and transfer.state is State.VERIFYING and self._worth_draining(transfer)
        with self._lock:
            (self._unproven.add if unproven else self._unproven.discard)(claimed.id)
        if transfer is None:
            return None
        if not transfer.ended:
            return transfer.next_at
        for event in verdict_events(transfer, self._clock.now(), self._pseudonym):
            self._observer(event)
        return None
