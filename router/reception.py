"""What comes in by itself: instances and storage commitment reports. Wires what takes them, decides nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial

from router.admitting import GuardedStore, Sender
from router.dimse.get import Intake
from router.dimse.store_scp import ServerSettings
from router.domain.access import admissions
from router.domain.arriving import dues
from router.domain.commitment import CommitmentAnswer
from router.domain.events import Event
from router.domain.quarantine import ALLOW, GRACE_SECONDS, KEEP, REFUSE
from router.domain.receipt import Receipt, by_clock
from router.domain.rule import LOCAL, RuleSet
from router.elsewhere import Elsewhere
from router.engine.arrivals import Arrivals
from router.errors import LedgerError
from router.indexing import Indexer
from router.ledger.clock import ahead
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore
from router.observe import logs
from router.quarantine import Quarantine
from router.questions import Question, Questions
from router.receipts import ReceiptBatches
from router.receiver import OTHER
from router.receiver_words import ReceiverSettings
from router.receiving import Receivers

_RECEIVE_SECONDS = 10.0
"""How long stores under way may take to end when the service stops."""
_INSIST_SECONDS = 60.0
"""For how long something that came in is tried to be written, while the ledger cannot be written to."""


class Reception:
    """Takes instances and storage commitment reports, and hands them on.

    `on_arrived` is told of receipts that are indexed, `on_answer` of a report with the nodes it may be from, `moving`
    names the sources that something is being moved from. All may raise LedgerError: they are called again for a while.
    `audit` is told of receipts that are indexed, once; `on_whole` whether all receivers run. Those never raise.
    """

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: SqlLedger,
        elsewhere: Elsewhere,
        observer: Callable[[Event], None],
        on_arrived: Callable[[list[Receipt]], object],
        audit: Callable[[list[Receipt]], object],
        on_answer: Callable[[CommitmentAnswer, Sequence[str]], object],
        moving: Callable[[], set[str]],
        wake: Callable[[], None],
        on_whole: Callable[[bool], None],
    ) -> None:
        self._rules = rules
        self._ledger = ledger
        self._observer = observer
        self._on_arrived = on_arrived
        self._audit = audit
        self._on_answer = on_answer
        self._moving = moving
        self._wake = wake
        self._on_whole = on_whole
        self._now = elsewhere.now
        self.arrivals = Arrivals(elsewhere.indexed)
        self._indexer = Indexer(ledger, elsewhere.store, self._arrived, lambda batch: dues(batch, rules()))
        self._receipts = ReceiptBatches(self._received, logs.trouble)
        self._callers = admissions(rules())
        self._questions = Questions(self._reply)
        self.intake = Intake(self._guarded(elsewhere.store), self._receipts.put)
        """Takes what comes on associations of this process, by C-GET."""
        self._receivers: Receivers | None = None
        self._stopping = threading.Event()

    def _guarded(self, store: ObjectStore) -> GuardedStore:
        router = self._rules().router
        return GuardedStore(
            store,
            Quarantine(store.root, router.quarantine, durable=router.durability == "fsync"),
            sender=self._source,
            asked=self._questions.asked,
            observer=self._observer,
        )

    def _source(self, ae_title: str) -> Sender:
        """Who answers a C-GET. He may send what was asked for, and else what he might push."""
        nodes = [one for one in self._rules().nodes.values() if one.ae_title == ae_title]
        pushes = {one.push for one in nodes}
        return Sender(nodes[0].name if nodes else OTHER, next((one for one in (ALLOW, KEEP) if one in pushes), REFUSE))

    def _reply(self, question: Question) -> None:
        self._questions.answer(question.answered(self._asked_by_get))

    def _asked_by_get(self, ae_title: str, study_instance_uid: str) -> bool:
        """As `_asked`, of any source: this side has called it, and may have its name forgotten since."""
        sources = {one.node for one in self._callers.values()} | set(self._rules().nodes)
        return self._was_asked(sources, [LOCAL], study_instance_uid)

    # life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Index what the store holds. Raises LedgerError."""
        self._indexer.start()

    def listen(self) -> None:
        """Receive. Raises RouterError where the Store SCP cannot listen."""
        router = self._rules().router
        settings = ReceiverSettings(
            ae_title=router.ae_title,
            server=ServerSettings(
                host=router.listen_host,
                port=router.listen_port,
                maximum_associations=router.maximum_associations,
                tls=router.tls,
            ),
            store=router.store,
            durability=router.durability,
            minimum_free=router.minimum_free,
            quarantine=router.quarantine,
            callers=self._callers,
        )
        self._receivers = Receivers(
            settings,
            router.receivers,
            on_receipts=self._received,
            on_answers=self._committed,
            asked=self._asked,
            observer=self._observer,
            on_loss=self._indexer.missed,
            trouble=logs.trouble,
            on_whole=self._on_whole,
        )
        self._receivers.start()

    def stop(self, seconds: float = 0.0) -> None:
        """Take no more associations, let those under way end, in ten `seconds` at least, and write what has come."""
        if self._receivers is not None:
            self._receivers.stop(max(_RECEIVE_SECONDS, seconds))
        self._receipts.stop(_RECEIVE_SECONDS)
        self._indexer.stop(_RECEIVE_SECONDS)
        self._stopping.set()

    def adopt(self) -> None:
        """Let those store whom the configuration names, and of former ones who still send what was asked for.

        A source that is removed while it moves something may open further associations for it.
        """
        wanted = admissions(self._rules())
        if self._callers == wanted:
            return
        moving = self._moving()
        admitted = {title: one for title, one in self._callers.items() if one.node in moving} | wanted
        if admitted != self._callers:
            self._callers = admitted
            if self._receivers is not None:
                self._receivers.adopt(admitted)

    @property
    def port(self) -> int:
        """The port the Store SCP listens on; 0 where it does not."""
        return self._receivers.port if self._receivers is not None else 0

    @property
    def problem(self) -> str:
        """Why it does not receive as it should; empty where it does."""
        if self._receivers is None:
            return "not listening yet"
        return "a receiver is being started" if self._receivers.alive < self._rules().router.receivers else ""

    def _asked(self, calling_ae_title: str, study_instance_uid: str) -> bool:
        """Whether a study (empty: any) is on its way here from who calls under that title, or was a moment ago.

        The ledger knows it of every process that works on it. Raises LedgerError.
        """
        rules, caller = self._rules(), self._callers.get(calling_ae_title)
        senders = {one.name for one in rules.nodes.values() if calling_ae_title in one.calling_ae_titles}
        here = [LOCAL, *(one.name for one in rules.nodes.values() if one.ae_title == rules.router.ae_title)]
        return self._was_asked(senders | ({caller.node} if caller is not None else set()), here, study_instance_uid)

    def _was_asked(self, sources: Collection[str], destinations: Sequence[str], study_instance_uid: str) -> bool:
        since = self._now() - timedelta(seconds=GRACE_SECONDS)
        return self._ledger.was_asked(sources, destinations, study_instance_uid, since)

    # what comes in --------------------------------------------------------------------------------------------------

    def _received(self, batch: list[Receipt]) -> None:
        """Index what a receiver reports; what cannot be written is found again from the files once it can be."""
        batch = by_clock(batch, ahead(self._now))
        try:
            self._ledger.add_receipts(batch, dues(batch, self._rules()))
        except LedgerError as error:
            logs.trouble("receipts", error)
            self._indexer.missed()
        else:
            self._arrived(batch)
        for receipt in batch:
            self.arrivals.note(receipt.study_instance_uid)
        self._wake()

    def _arrived(self, batch: list[Receipt]) -> None:
        """Tell the audit and the rules that wait for arrivals of what is indexed."""
        self._audit(batch)
        self._insist("arrivals", partial(self._on_arrived, batch))

    def _committed(self, answers: list[CommitmentAnswer]) -> None:
        """Note storage commitment reports; one that cannot be written is missed, as if it had not come."""
        for answer in answers:
            title = answer.calling_ae_title
            nodes = [node.name for node in self._rules().nodes.values() if title in node.calling_ae_titles]
            self._insist("commitment", partial(self._on_answer, answer, nodes))
        self._wake()

    def _insist(self, what: str, write: Callable[[], object]) -> None:
        """Write to the ledger, for a while even though it cannot be written to."""
        deadline = time.monotonic() + _INSIST_SECONDS
        while True:
            try:
                write()
                return
            except LedgerError as error:
                logs.trouble(what, error)
                if time.monotonic() > deadline or self._stopping.wait(1.0):
                    return
