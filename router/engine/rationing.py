"""Shares the slots of nodes with the other services on the ledger; while there is none, this one counts for itself.

What is decided stands in `domain.ration`. A thread looks who is there, about once a second.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

from router.domain import ration
from router.domain.node_state import Obstacle
from router.domain.ration import Ration, Request, Return
from router.domain.rule import Node
from router.engine.ports import Clock, Trouble
from router.engine.ration_port import Count, RationLedger, States
from router.engine.slot_counts import SlotCounts
from router.errors import LedgerError

LOOK_SECONDS = 1.0
WAITING_SECONDS = 0.25
"""How often it is looked while requests wait for what others hold."""
FRESH_SECONDS = 30.0
"""A service that others have not seen for so long begins nothing: they will take it for dead after LOST_SECONDS."""
CUT_OFF_SECONDS = 45.0
"""After so long it ends what it holds."""
SILENT_SECONDS = 6.0
"""A service that lives announces itself more often."""
ALONE_SECONDS = 10.0
"""When the others have been gone for so long, a service counts for itself again."""

_JOIN_SECONDS = 10.0
_TURN_SECONDS = 5.0
_LEAST_SECONDS = 0.1


def uptime() -> float:
    """Seconds since the machine started, those that it slept in too: no one can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Rationing:
    """What the slots of one service need to be shared: `ration_port.Shares`. Thread-safe.

    `fit` releases idle associations to a node until no more than so many stand: one that idles needs a slot as well,
    for the node counts it. `recall` tells the slots what the ledger knows of the moves of the last hour.
    """

    def __init__(
        self,
        slots: SlotCounts,
        ledger: RationLedger,
        owner: str,
        clock: Clock,
        trouble: Trouble,
        fit: Callable[[Node, int], None] = lambda node, room: None,
        recall: Callable[[], object] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        elapsed: Callable[[], float] = uptime,
    ) -> None:
        self._slots = slots
        self._ledger = ledger
        self._owner = owner
        self._clock = clock
        self._trouble = trouble
        self._fit = fit
        self._recall = recall
        self._monotonic = monotonic
        self._elapsed = elapsed
        self._count = Count.CHANGING
        self._entered = False
        self._parting = False
        """It is to count for itself again, and nobody knows yet whether that is written."""
        self._returns: dict[tuple[str, int], Return] = {}
        """What was given back here, and not in the ledger yet."""
        self._forgotten: set[str] = set()
        """Nodes that are to be tried anew."""
        self._turn = threading.Lock()
        """One at a time settles with the ledger."""
        self._contact = float("-inf")
        """When others saw this service last, for sure."""
        self._looked = float("-inf")
        self._seen: dict[str, tuple[datetime, float]] = {}
        """Member -> its last sign of life, and when that was noticed."""
        self._solitary_since: float | None = None
        self._waited = float("-inf")
        self._failing = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._changed = slots.share(self)

    # what the slots ask -------------------------------------------------------------------------------------------

    @property
    def count(self) -> Count:
        """Who counts; read and changed under the lock of the slots only."""
        return self._count

    @property
    def owner(self) -> str:
        """Whose slots these are."""
        return self._owner

    def fresh(self) -> bool:
        """Whether others have seen this service lately: who may be taken for dead begins nothing."""
        return self._elapsed() - self._contact < FRESH_SECONDS

    def offset(self) -> float:
        """What the ledger's clock shows more than that of the slots, in seconds."""
        return self._clock.now().timestamp() - self._monotonic()

    def take(self, request: Request) -> tuple[Obstacle | None, States]:
        """Ask for a slot; until when an obstacle stands is by the ledger's clock. Raises LedgerError."""
        now = self._clock.now()
        request = request._replace(heard=self._heard())
        decision = partial(ration.take, request=request, now=now.timestamp())
        return self._ledger.ration(_nodes(request), decision, now)

    def give_back(self, node: Node, one: Return, room: int) -> None:
        """Give a slot back. `room`: associations to the node that may stand then. What fails now is done later."""
        self._fit(node, room)
        with self._changed:
            self._returns[one.key] = one
            self._slots.let_go(one.key[1])
        if not self._turn.acquire(timeout=_TURN_SECONDS):  # who has it for so long waits for the ledger as well
            self._wake.set()
            return
        try:
            self._settle()
        except LedgerError:
            self._wake.set()
        finally:
            self._turn.release()

    def forget(self, nodes: Collection[str]) -> None:
        """These nodes are tried anew."""
        self._forgotten.update(nodes)
        self._wake.set()

    def wake(self) -> None:
        """Somebody waits."""
        self._waited = self._elapsed()

    def told(self) -> None:
        """Another service says that there is something to look at."""
        if self._elapsed() - self._waited < 1.0:
            self._wake.set()

    # life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look; the service has announced itself."""
        self.look()
        thread = threading.Thread(target=self._run, name="rationing", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Give back what is held, and leave. Nothing is granted any more. Raises nothing: the dead are found out."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)
        try:
            with self._turn:
                self._settle()
                with self._changed:
                    states = self._slots.snapshot() if self._count is Count.ALONE else {}
                    self._count, entered, self._entered = Count.CHANGING, self._entered, False
                if entered:
                    now = self._clock.now()
                    decision = partial(ration.leave, owner=self._owner, states=states, now=now.timestamp())
                    self._ledger.ration(None, decision, now)
        except LedgerError as error:
            self._trouble("rationing", error)
        self._ledger.tell()

    def _run(self) -> None:
        while not self._stopping.is_set():
            waited = self._elapsed() - self._waited < 1.0
            self._wake.wait(WAITING_SECONDS if waited and self._count is Count.SHARED else LOOK_SECONDS)
            self._wake.clear()
            if not self._stopping.is_set():
                self.look()
                self._stopping.wait(_LEAST_SECONDS * random.uniform(0.5, 1.0))

    def look(self) -> None:
        """See who is there, and what has changed; settle what is to be settled. Raises nothing."""
        try:
            with self._turn:
                self._look()
            self._failing = False
        except LedgerError as error:
            if not self._failing:
                self._trouble("rationing", error)
            self._failing = True
        except Exception as error:  # noqa: BLE001  a defect must not leave the others waiting for ever
            self._trouble("rationing", error)
        if self._elapsed() - self._contact > CUT_OFF_SECONDS:
            self._slots.cut_off()

    def _look(self) -> None:
        started, now = self._elapsed(), self._clock.now()
        look = self._ledger.ration_look(self._slots.versions(), now)
        self._hear(look.seen, started, now)
        others = look.circle.members.keys() - {self._owner}
        if self._entered and self._owner not in look.circle.members:
            self._expelled()
        dead = look.lost - self._heard() - {self._owner}
        if self._count is Count.SHARED and not all(look.circle.members.get(one, True) for one in dead):
            self._entered = False  # what one that counted for itself knew is gone; nobody holds anything as yet
        if not self._entered:
            self._enter(now)
        elif self._parting:
            self._part(now)
        elif self._count is Count.SHARED:
            self._slots.adopt_states(look.states)
            self._part_when_solitary(not (others - look.lost), now)
        elif others or self._count is Count.CHANGING:
            self._share(now)
        self._settle()
        self._tidy(now)

    def _hear(self, seen: Mapping[str, datetime], at: float, now: datetime) -> None:
        """Note who gave a sign of life, by when it was noticed: a clock may be set at any time."""
        with self._changed:
            self._seen = {
                owner: self._seen[owner] if owner in self._seen and self._seen[owner][0] == moment else (moment, at)
                for owner, moment in seen.items()
            }
            own = self._seen.get(self._owner)
            if own is not None and own[1] == at:
                since = self._looked if self._looked > float("-inf") else at - max(0.0, (now - own[0]).total_seconds())
                self._contact = max(self._contact, since)
            self._looked = at

    def _heard(self) -> frozenset[str]:
        """The services that gave a sign of life lately."""
        now = self._elapsed()
        with self._changed:
            return frozenset(owner for owner, (_, at) in self._seen.items() if now - at < SILENT_SECONDS)

    # who counts ---------------------------------------------------------------------------------------------------

    def _become(self, count: Count) -> None:
        with self._changed:
            self._count = count
            self._changed.notify_all()

    def _expelled(self) -> None:
        """The others have taken this service for dead: what it does has to end before it begins anew."""
        self._entered = self._parting = False
        self._become(Count.CHANGING)
        self._slots.cut_off()

    def _enter(self, now: datetime) -> None:
        if self._slots.mine():
            return
        self._fit_all()
        self._recall()
        with self._changed:
            remembered = self._slots.snapshot()
        moment = now.timestamp()
        alone, states = self._ledger.ration(
            None, lambda known: ration.enter(known, self._owner, remembered, moment), now
        )
        self._slots.adopt_states(states)
        self._entered, self._parting, self._solitary_since = True, False, None
        self._become(Count.ALONE if alone else Count.SHARED)

    def _share(self, now: datetime) -> None:
        """Write down what is held; from now on the ledger is asked."""
        with self._changed:
            self._count = Count.CHANGING
            states = self._slots.snapshot()
        self._fit_all()
        member, written = self._ledger.ration(None, lambda known: ration.share(known, self._owner, states), now)
        if not member:
            self._expelled()
            return
        self._slots.adopt_states(written)
        self._solitary_since = None
        self._become(Count.SHARED)
        self._ledger.tell()

    def _part_when_solitary(self, solitary: bool, now: datetime) -> None:
        if not solitary:
            self._solitary_since = None
            return
        at = self._elapsed()
        self._solitary_since = at if self._solitary_since is None else self._solitary_since
        if at - self._solitary_since < ALONE_SECONDS:
            return
        with self._changed:
            if self._returns or self._slots.asks:
                return
            self._count, self._parting = Count.CHANGING, True
        self._part(now)

    def _part(self, now: datetime) -> None:
        """Count for itself again, if nobody else is there."""
        moment = now.timestamp()
        alone, states = self._ledger.ration(None, lambda known: ration.part(known, self._owner, moment), now)
        if alone is None:
            self._expelled()
            return
        self._slots.adopt_states(states)
        self._parting, self._solitary_since = False, None
        self._become(Count.ALONE if alone else Count.SHARED)

    def _fit_all(self) -> None:
        """Let no association idle that is not counted."""
        for node, held in self._slots.standing():
            self._fit(node, held)

    # what is left to do -------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Give back what was given back here. Raises LedgerError; then all of it is still to be done."""
        with self._changed:
            returns, count = list(self._returns.values()), self._count
        if not returns or count is Count.CHANGING:
            return
        if count is Count.ALONE:
            for one in returns:
                self._slots.return_here(one)
        else:
            self._return(returns)
        with self._changed:
            for one in returns:
                self._returns.pop(one.key, None)
            self._changed.notify_all()

    def _return(self, returns: Sequence[Return]) -> None:
        nodes = {name for one in returns for name in (one.node, one.to) if name}

        def decision(known: Ration) -> None:
            for one in returns:
                ration.give_back(known, one)

        _, states = self._ledger.ration(nodes, decision, self._clock.now())
        self._slots.adopt_states(states, {one.node: one.lesson for one in returns if one.lesson is not None})
        if any(state.waiters.keys() - {self._owner} for _, state in states.values()):
            self._ledger.tell()

    def _tidy(self, now: datetime) -> None:
        """Where the ledger is asked: nothing is kept that nobody holds, and changed nodes are tried anew."""
        if self._count is not Count.SHARED:
            self._forgotten.clear()
            return
        with self._changed:
            strays = [one for one in self._slots.strays() if one.key not in self._returns]
            forgotten, self._forgotten = self._forgotten, set()
        if strays:  # asked for, and granted, but the answer was lost
            self._return([one._replace(ended=now.timestamp()) for one in strays])
        if forgotten:
            try:
                _, states = self._ledger.ration(forgotten, ration.forget, now)
            except LedgerError:
                self._forgotten |= forgotten
                raise
            self._slots.adopt_states(states)


def _nodes(request: Request) -> list[str]:
    return [request.node, request.to] if request.to else [request.node]
