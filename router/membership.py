"""A service among those that share its ledger: wires its announcements, its part as leader, what it sees of others."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Sequence

from router.announcing import Announcer
from router.domain.overview import ServiceInfo
from router.domain.replicas import NAME_SECONDS
from router.domain.rule import RuleSet
from router.engine.company import Company
from router.engine.ports import Clock
from router.leading import Leading
from router.ledger.ledger import SqlLedger
from router.observe import logs

_JOIN_SECONDS = 2.0
"""It hears the end within a moment, or hangs on a database that is away; nobody needs to wait for that."""


class Membership:
    """`rules` and `address` (of HTTP) are said of the service, `store` is the name of its object store.

    `told` are called, from a thread of their own, where another service tells that there is something to look at.
    `lead` is called with True where the service begins to lead and with False where it leads no more, `after` after
    each announcement, `deposed` where another service has taken the name, as it may of one that was thought dead.
    """

    def __init__(
        self,
        owner: str,
        ledger: SqlLedger,
        clock: Clock,
        store: str,
        *,
        rules: Callable[[], RuleSet],
        address: Callable[[], str],
        told: Sequence[Callable[[], None]],
        lead: Callable[[bool], None],
        after: Callable[[], None],
        deposed: Callable[[], object],
    ) -> None:
        self.company = Company(owner)
        """Who else is there."""
        self._leading = Leading(
            leads=ledger.leads,
            resign=ledger.resign,
            begin=lambda: lead(True),
            end=lambda: lead(False),
            trouble=logs.trouble,
        )
        self._stopping = threading.Event()
        self._hearing = threading.Thread(target=self._hear, args=(ledger, told), name="hear", daemon=True)
        self._announcer = Announcer(
            ledger=ledger,
            clock=clock,
            owner=owner,
            host=platform.node(),
            store=lambda: store,
            rules=rules,
            address=address,
            leads=lambda: self._leading.leads,
            company=self.company,
            trouble=logs.trouble,
            waiting=self._waiting,
            after=after,
            deposed=deposed,
        )

    @property
    def replica(self) -> str:
        """What this service is called."""
        return self._announcer.replica

    @property
    def leads(self) -> bool:
        """Whether this service makes sweeps due, for all."""
        return self._leading.leads

    @property
    def services(self) -> tuple[ServiceInfo, ...]:
        """Those that live, by name."""
        return self.company.services

    @property
    def problem(self) -> str:
        """Why the ledger is not to be had; empty where it is."""
        return self._announcer.problem

    @property
    def fault(self) -> str:
        """Why this service does not work any more, and is to be started again; empty where it does."""
        if self._announcer.deposed:
            return self._announcer.problem
        return "" if self._announcer.alive else "thread ended"

    def agrees(self, rules: RuleSet, *, anew: bool = False) -> bool:
        """Whether all services have these rules: as was seen last, or (`anew`) now. Raises LedgerError then."""
        if anew:
            self._announcer.look()
        return self.company.agrees(rules)

    def adopt(self, rules: RuleSet) -> None:
        """Let the others know of rules that this service is about to adopt. Raises nothing."""
        if self._hearing.ident is not None and not self._stopping.is_set():  # it has joined, and has not left
            self._announcer.announce(rules)

    @staticmethod
    def _waiting(name: str) -> None:
        logs.logger().warning(
            "waits for its name: another service on this ledger has it, and may be ending",
            replica=name,
            seconds=NAME_SECONDS,
        )

    def join(self) -> None:
        """Take a name and go on announcing. Raises RouterError where another service has it, LedgerError."""
        if before := self._announcer.take_name():
            logs.logger().warning("takes the place of a service that ended without a word", count=len(before))
        self._announcer.start()
        self._hearing.start()

    def _hear(self, ledger: SqlLedger, told: Sequence[Callable[[], None]]) -> None:
        def wake() -> None:
            for one in told:
                one()

        try:
            ledger.listen(wake, self._stopping)
        except Exception as error:  # noqa: BLE001  then work is found by looking for it now and then
            logs.trouble("listen", error)

    def lead(self) -> None:
        """Lead wherever no other service does."""
        self._leading.start()

    def follow(self) -> None:
        """Lead no more."""
        self._leading.stop()

    def leave(self) -> None:
        """Hear no more, and say that this service has ended. Raises LedgerError."""
        self._stopping.set()
        if self._hearing.is_alive():
            self._hearing.join(_JOIN_SECONDS)
        self._announcer.stop()
