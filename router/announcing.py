"""Says every few seconds that this service lives, and sees who else does. Wires and waits; the domain decides."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from router.domain.overview import ServiceInfo
from router.domain.replicas import (
    ANNOUNCE_SECONDS,
    LOST_SECONDS,
    NAME_SECONDS,
    Standing,
    deposed,
    live,
    named,
    predecessors,
)
from router.domain.rule import RuleSet
from router.engine.company import Company
from router.engine.ports import Clock, Trouble
from router.errors import LedgerError, NameTaken

_STEP_SECONDS = 0.5


class Services(Protocol):
    """What announcing needs of the ledger. All raise LedgerError."""

    def announce(self, info: ServiceInfo) -> None:
        """Say that a service works here."""

    def withdraw(self, owner: str) -> None:
        """Say that it does not."""

    def services(self, seen_since: datetime) -> list[ServiceInfo]:
        """Those that announced themselves since then."""

    def lost_at(self, now: datetime) -> datetime:
        """Now; long ago where the ledger itself was away lately, so that who was not seen may live all the same."""


class Announcer:
    """One service's presence on its ledger.

    `rules` and `address` give what is said of it now; `host` what it is called where the configuration does not say,
    `store` the name of its object store, `leads` whether it leads; `waiting` is called once with a
    name that another service has yet, `after` after each announcement, `deposed` once where another has taken the name.
    """

    def __init__(
        self,
        *,
        ledger: Services,
        clock: Clock,
        owner: str,
        host: str,
        store: Callable[[], str],
        rules: Callable[[], RuleSet],
        address: Callable[[], str],
        leads: Callable[[], bool],
        company: Company,
        trouble: Trouble,
        waiting: Callable[[str], None] = lambda name: None,
        after: Callable[[], None] = lambda: None,
        deposed: Callable[[], object] = lambda: None,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._owner = owner
        self._host = host
        self._store = store
        self._rules = rules
        self._address = address
        self._leads = leads
        self._company = company
        self._trouble = trouble
        self._on_waiting = waiting
        self._after = after
        self._on_deposed = deposed
        self._sleep = sleep
        self._monotonic = monotonic
        self._started_at = clock.now()
        self.replica = rules().router.replica or host
        """What this service is called."""
        self.problem = ""
        """Why the ledger was not to be written to, or why this service is to end; empty where all is well."""
        self.deposed = False
        """Another service has taken the name, for this one was thought to be dead."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def take_name(self) -> list[str]:
        """Find a name and say that this service lives; the owners that had the name before, which are dead.

        Raises NameTaken where another service has it and keeps it, LedgerError where the ledger is not to be had.
        """
        began = self._monotonic()
        before: list[str] = []
        told = False
        while True:
            now, services = self._clock.now(), self._seen()
            waited = self._monotonic() - began
            configured = self._rules().router.replica
            name, standing = named(configured, self._host, self._store(), services, self._owner, now, waited)
            if standing is Standing.TAKEN:
                raise NameTaken(
                    f"Another service on this ledger is called {name} (router.replica)"
                    f"{self._whereabouts(services, name)} and has not ended within {NAME_SECONDS:g} s; "
                    "give each service a name of its own, or stop that one first."
                )
            if standing is Standing.WAIT and not told:
                self._on_waiting(name)
                told = True
            if standing is Standing.FREE:
                for owner in predecessors(name, services, self._owner):
                    self._ledger.withdraw(owner)
                    before.append(owner)
                self.replica, self._started_at = name, self._clock.now()
                self._ledger.announce(self._info(self._rules()))
                if not predecessors(name, self._seen(), self._owner):
                    self.announce()
                    return before
                self._ledger.withdraw(self._owner)  # two took it at once: each tries again, in a while of its own
            self._sleep(_STEP_SECONDS * random.uniform(0.5, 2.0))

    def _whereabouts(self, services: list[ServiceInfo], name: str) -> str:
        has = next((one for one in services if one.replica == name and one.owner != self._owner), None)
        if has is None:
            return ""
        at = f" at {has.address}" if has.address else ""
        since = f" since {has.started_at.astimezone():%Y-%m-%d %H:%M}" if has.started_at is not None else ""
        return f"; it runs{at}{since}"

    def _seen(self) -> list[ServiceInfo]:
        now = self._clock.now()
        return live(self._ledger.services(now - timedelta(seconds=LOST_SECONDS)), now)

    def _info(self, rules: RuleSet) -> ServiceInfo:
        return ServiceInfo(
            owner=self._owner,
            address=self._address(),
            seen_at=self._clock.now(),
            content_hash=rules.content_hash,
            work_hash=rules.work_hash,
            replica=self.replica,
            store=self._store(),
            started_at=self._started_at,
            leads=self._leads(),
        )

    def start(self) -> None:
        """Go on announcing in a thread."""
        thread = threading.Thread(target=self._announcing, name="announce", daemon=True)
        thread.start()
        self._thread = thread

    @property
    def alive(self) -> bool:
        """Whether it goes on; also before it began."""
        return self._thread is None or self._thread.is_alive()

    def stop(self) -> None:
        """Announce no more, and say that this service has ended. Raises LedgerError."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10.0)
        self._ledger.withdraw(self._owner)

    def _announcing(self) -> None:
        while not self._stopping.wait(ANNOUNCE_SECONDS):
            try:
                self.announce()
                self._after()
            except Exception as error:  # noqa: BLE001  the next time must come
                self._trouble("announce", error)

    def look(self) -> None:
        """See who else is there, now. Raises LedgerError."""
        self._saw(self._seen(), self._info(self._rules()))

    def _saw(self, services: list[ServiceInfo], own: ServiceInfo) -> None:
        others = [one for one in services if one.owner != self._owner]
        now = self._clock.now()
        everybody = self._ledger.lost_at(now) >= now  # else some may only not have been able to announce themselves
        self._company.see(sorted([*others, own], key=lambda one: (one.replica, one.owner)), everybody=everybody)

    def announce(self, rules: RuleSet | None = None) -> None:
        """Once; with these rules, which it is about to adopt. What goes wrong is told, and stands in `problem`."""
        try:
            services = self._seen()
            if deposed(self.replica, self._started_at, services, self._owner):
                if not self.deposed:
                    self._on_deposed()
                self.deposed = True
                self.problem = f"Another service has taken the name {self.replica}; this one is to end."
                return
            info = self._info(rules or self._rules())
            self._ledger.announce(info)
            self._saw(services, info)
            self.problem = ""
        except LedgerError as error:
            self.problem = str(error)
            self._trouble("announce", error)
