"""The parts that bring priors, put together: what notes appointments, what looks for priors, where orders come in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.dimse.tls_files import Renewed, acceptor_context
from router.domain.events import Event
from router.domain.receipt import Receipt
from router.domain.rule import RuleSet
from router.elsewhere import Elsewhere
from router.engine.arrival import ArrivalTrigger
from router.engine.orders import Orders
from router.engine.ports import Clock, Ledger
from router.engine.prefetch import Prefetcher
from router.engine.query import Inquiry
from router.object_headers import of_stored
from router.triggers.mllp import MllpListener


class Prefetch:
    """Wires them and decides nothing."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        inquiry: Inquiry,
        elsewhere: Elsewhere,
        clock: Clock,
        observer: Callable[[Event], None],
        wake: Callable[[], None],
        trouble: Callable[[str, BaseException], None],
    ) -> None:
        stored = of_stored(elsewhere.store.root, lambda study: ledger.receipt_paths(study, elsewhere.own))
        self._rules = rules
        self._observer = observer
        self._trouble = trouble
        self.prefetcher = Prefetcher(
            rules=rules,
            ledger=ledger,
            inquiry=inquiry,
            held=elsewhere.held,
            stored=stored,
            clock=clock,
            observer=observer,
        )
        self._arrivals = ArrivalTrigger(rules=rules, ledger=ledger, stored=stored, clock=clock, observer=observer)
        self._orders = Orders(rules=rules, ledger=ledger, clock=clock, observer=observer, wake=wake)
        self._listener: MllpListener | None = None

    def listen(self) -> None:
        """Take orders where the configuration says so. Raises RouterError where that is not possible."""
        router = self._rules().router
        if router.hl7 is None:
            return
        context = None
        if router.hl7.tls and router.tls is not None:
            context = Renewed(acceptor_context, router.tls).get
            context()
        self._listener = MllpListener(
            router.hl7, self._orders.take, observe=self._observer, trouble=self._trouble, ssl=context
        )
        self._listener.start()

    def arrived(self, receipts: Sequence[Receipt]) -> None:
        """Note what is in the store and indexed. Raises LedgerError."""
        self._arrivals.note(receipts)

    @property
    def problem(self) -> str:
        """What is wrong, in a word; empty where nothing is."""
        if self._rules().router.hl7 is None or (self._listener is not None and self._listener.alive):
            return ""
        return "not listening"

    def stop(self, seconds: float) -> None:
        """Take no more orders; what is being taken is answered within so many seconds."""
        if self._listener is not None:
            self._listener.stop(seconds)
