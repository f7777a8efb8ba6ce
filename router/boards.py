"""The board of a router, for whoever looks: read at most once a second, however many ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from router.domain.board import MOST_LIVE, MOST_RECENT, Board
from router.domain.board_ends import Mark, marks
from router.domain.board_view import Moment, NodeNow, ServiceNow, drawn
from router.domain.overview import Overview, ServiceInfo
from router.domain.pseudonym import Pseudonyms
from router.domain.rule import Node, RuleSet
from router.engine.ports import Clock
from router.engine.reachability import Reachability
from router.engine.scheduler import Scheduler
from router.engine.slots import NodeSlots
from router.errors import LedgerError

FRESH_SECONDS = 1.0
"""For how long a board is shown again instead of reading another."""
WAIT_SECONDS = 5.0
"""How long somebody waits for a board that is being read for somebody else; then he gets the one before."""
STALE_SECONDS = 60.0
"""After so long the one before is no answer any more."""


class Overviews(Protocol):
    """What a board needs of the ledger."""

    def overview(self, most_live: int, most_recent: int) -> Overview:
        """So much of what is under way, and so many failures and other ends. Raises LedgerError."""


class Running:
    """What only a running service knows, put together for a board."""

    def __init__(
        self,
        *,
        slots: NodeSlots,
        scheduler: Scheduler,
        reachability: Reachability,
        readiness: Callable[[], dict[str, str]],
        quarantined: Callable[[], int] = lambda: 0,
        owner: str = "",
        services: Callable[[], tuple[ServiceInfo, ...]] = tuple,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._scheduler = scheduler
        self._reachability = reachability
        self._readiness = readiness
        self._quarantined = quarantined
        self._owner = owner
        self._services = services
        self._clock = clock
        self._monotonic = monotonic

    def __call__(self, rules: RuleSet) -> ServiceNow:
        """How things stand with the nodes of a configuration."""
        self._reachability.keep(rules.nodes)
        return ServiceNow(
            nodes={name: self._node(node) for name, node in rules.nodes.items()},
            planned=self._scheduler.planned(),
            problems=self._readiness(),
            quarantined=self._quarantined(),
            owner=self._owner,
            services=self._services(),
        )

    def _node(self, node: Node) -> NodeNow:
        slots = self._slots
        left_alone = slots.left_alone(node)
        gate = slots.gate(node) if left_alone else None
        probe_at = None
        if gate is not None and gate.reason == "breaker":
            probe_at = self._clock.now() + timedelta(seconds=gate.until - self._monotonic())
        return NodeNow(
            up=self._reachability.up(node.name),
            left_alone=left_alone,
            probe_at=probe_at,
            associations=slots.in_use(node.name),
            associations_allowed=slots.allowed(node),
            waiting=slots.waiting(node.name),
            moves_left=slots.takes(node, 0),
        )


class Boards:
    """Makes the board of what the ledger holds and a service knows. Thread-safe.

    `service` is None where none runs: then the board says what the ledger holds.
    """

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Overviews,
        clock: Clock,
        pseudonyms: Pseudonyms,
        service: Callable[[RuleSet], ServiceNow] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._rules = rules
        self._ledger = ledger
        self._clock = clock
        self._pseudonyms = pseudonyms
        self._service = service
        self._monotonic = monotonic
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._reading = False
        self._asked_at = float("-inf")
        self._read_at = float("-inf")
        self._made: dict[bool, Board] = {}
        """The boards of the moment read last, by whether they show identifiers."""
        self._moment: Moment | None = None
        self._failure: LedgerError | None = None
        """Why the last reading came to nothing."""
        self._marks: dict[int, Mark] = {}

    def board(self, *, identifiers: bool) -> Board:
        """The board of now, or of a second ago at most. Raises LedgerError where it is not to be had in time."""
        with self._changed:
            if self._reading:
                self._changed.wait_for(lambda: not self._reading, self._wait_seconds)
                return self._known(identifiers)
            if self._monotonic() - self._asked_at < FRESH_SECONDS:
                return self._known(identifiers)
            self._reading, self._asked_at = True, self._monotonic()
        moment, failure = None, None
        try:
            moment = self._read()
        except LedgerError as error:
            failure = error
        finally:
            with self._changed:
                self._reading, self._failure, self._made = False, failure, {} if moment is not None else self._made
                if moment is not None:
                    self._moment, self._read_at = moment, self._monotonic()
                self._changed.notify_all()
        with self._changed:
            return self._known(identifiers)

    def _read(self) -> Moment:
        rules = self._rules()
        overview = self._ledger.overview(MOST_LIVE, MOST_RECENT)
        self._marks = marks(self._marks, overview.live)
        return Moment(
            rules=rules,
            now=self._clock.now(),
            overview=overview,
            service=self._service(rules) if self._service is not None else None,
            marks=self._marks,
        )

    def _known(self, identifiers: bool) -> Board:
        """What was read last, under the lock."""
        if self._failure is not None and not self._reading:
            raise LedgerError(str(self._failure))
        if self._moment is None or self._monotonic() - self._read_at > STALE_SECONDS:
            raise LedgerError("The ledger does not answer in time; the router's log may say why.")
        if identifiers not in self._made:
            self._made[identifiers] = drawn(self._moment, self._pseudonyms, identifiers=identifiers)
        return self._made[identifiers]
