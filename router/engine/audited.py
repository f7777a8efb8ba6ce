"""Requests to nodes, each told of to the audit repository. The one place that knows what is queried and transferred."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Protocol

from router.domain.audit import MINOR, SERIOUS, SUCCESS, AuditMessage, Counted, Party, counted_by_class
from router.domain.audit_arrived import Retrieved
from router.domain.audit_messages import (
    FIND_CLASSES,
    begin_transferring,
    instances_transferred,
    party_of,
    query,
)
from router.domain.checkup import WORKLIST_SOP_CLASS
from router.domain.commitment import CommitmentAnswer, CommitmentRequest
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.exchange import StoredObject, StoreOutcome, StoreResult
from router.domain.receipt import Receipt
from router.domain.rule import Node, RuleSet
from router.domain.store_outcome import STORED
from router.engine.forwarder import OpenObject, StorePeers
from router.engine.ports import FindResult, MoveProgress, MoveRequest, MoveResult, Peers
from router.errors import Cancelled, WireError

Auditor = Callable[[AuditMessage], None]
"""Takes an audit message; never raises. It returns once the message survives a kill of the process."""

Encode = Callable[[QueryRetrieveLevel | None, Identifier], bytes]
"""The data set of a C-FIND (None: of the worklist) in Explicit VR Little Endian."""


class Subject(NamedTuple):
    """Whose instances they are; empty where that cannot be read."""

    study_instance_uid: str = ""
    patient_id: str = ""


Identify = Callable[[str], Subject]
"""Of a file of the store, or a temporary one; never raises."""


class AllPeers(Peers, StorePeers, Protocol):
    """Every request there is."""


class Retrievals:
    """Knows what is being retrieved to this router. Thread-safe."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._retrieved = Retrieved()

    def brought(self, receipt: Receipt) -> bool:
        """Whether an instance came in answer to a retrieval."""
        with self._lock:
            return self._retrieved.brought(receipt)

    @contextmanager
    def under_way(self, source: Node, study_instance_uid: str) -> Iterator[None]:
        """While a study, or some of it, is retrieved from a node."""
        with self._lock:
            number = self._retrieved.begin(source.calling_ae_titles, study_instance_uid, self._now())
        try:
            yield
        finally:
            with self._lock:
                self._retrieved.end(number, self._now())


class AuditedPeers:
    """Peers whose queries and transfers are audited; what they answer, and what they raise, stays as it is.

    `own` is this router, `rules` gives the running configuration: it says whose AE title a destination is. `person` is
    who has this router ask by a command. `retrievals` is told what is retrieved to this router.
    """

    def __init__(
        self,
        peers: AllPeers,
        auditor: Auditor,
        own: Party,
        rules: Callable[[], RuleSet],
        encode: Encode,
        identify: Identify,
        retrievals: Retrievals,
        person: Party | None = None,
    ) -> None:
        self._peers = peers
        self._auditor = auditor
        self._own = own
        self._rules = rules
        self._encode = encode
        self._identify = identify
        self._retrievals = retrievals
        self._person = person

    def echo(self, node: Node) -> None:
        """C-ECHO: the standard has no audit message for it."""
        self._peers.echo(node)

    def find(
        self, node: Node, level: QueryRetrieveLevel, keys: Identifier, *, maximum: int, cancelled: threading.Event
    ) -> FindResult:
        """C-FIND; see `Peers.find`."""
        with self._asked(node, FIND_CLASSES[node.root], self._encode(level, keys)) as told:
            result = self._peers.find(node, level, keys, maximum=maximum, cancelled=cancelled)
            told.ended(result.status, partly=bool(result.identifiers))
        return result

    def worklist(self, node: Node, keys: Identifier, *, maximum: int, cancelled: threading.Event) -> FindResult:
        """Modality worklist C-FIND; see `Peers.worklist`."""
        with self._asked(node, WORKLIST_SOP_CLASS, self._encode(None, keys)) as told:
            result = self._peers.worklist(node, keys, maximum=maximum, cancelled=cancelled)
            told.ended(result.status, partly=bool(result.identifiers))
        return result

    def move(
        self,
        node: Node,
        request: MoveRequest,
        *,
        on_response: Callable[[MoveProgress], None],
        last_arrival: Callable[[], float],
        cancelled: threading.Event,
    ) -> MoveResult:
        """C-MOVE; see `Peers.move`."""
        with self._retrieved(node, self._destination(request.destination_ae_title), request) as told:
            result = self._peers.move(
                node, request, on_response=on_response, last_arrival=last_arrival, cancelled=cancelled
            )
            told.moved(result)
        return result

    def get(
        self,
        node: Node,
        request: MoveRequest,
        *,
        sop_classes: Collection[str],
        on_response: Callable[[MoveProgress], None],
        cancelled: threading.Event,
    ) -> MoveResult:
        """C-GET; see `Peers.get`."""
        with self._retrieved(node, self._own, request) as told:
            result = self._peers.get(
                node, request, sop_classes=sop_classes, on_response=on_response, cancelled=cancelled
            )
            told.moved(result)
        return result

    def commit(
        self,
        node: Node,
        requests: Sequence[CommitmentRequest],
        *,
        on_answer: Callable[[CommitmentAnswer], None],
        answered: Callable[[], bool],
        cancelled: threading.Event,
    ) -> None:
        """Storage commitment: the standard has no audit message for it."""
        self._peers.commit(node, requests, on_answer=on_answer, answered=answered, cancelled=cancelled)

    def store(
        self,
        node: Node,
        objects: Iterable[StoredObject],
        *,
        open_object: OpenObject,
        on_outcome: Callable[[StoreOutcome], None],
        cancelled: threading.Event,
    ) -> StoreResult:
        """C-STORE of instances of one study; see `StorePeers.store`."""
        given = iter(objects)
        first = next(given, None)
        if first is None:
            return StoreResult(counts={})
        there: Counter[str] = Counter()
        lacking = 0

        def hear(outcome: StoreOutcome) -> None:
            nonlocal lacking
            if outcome.standing in STORED:
                there[outcome.stored.sop_class_uid] += 1
            else:
                lacking += 1
            on_outcome(outcome)

        subject = self._identify(first.path)
        with self._transferred(self._own, party_of(node), subject) as told:
            try:
                result = self._peers.store(
                    node,
                    itertools.chain((first,), given),
                    open_object=open_object,
                    on_outcome=hear,
                    cancelled=cancelled,
                )
                told.stored(result.reason, lacking, partly=bool(there))
            finally:
                told.counted = counted_by_class(there) or (Counted(0),)
        return result

    @contextmanager
    def _asked(self, node: Node, sop_class_uid: str, identifier: bytes) -> Iterator[_Told]:
        told = _Told()
        try:
            with told:
                yield told
        finally:
            asked = (self._own, party_of(node), sop_class_uid, identifier)
            self._auditor(query(*asked, told.outcome, told.description, self._person))

    @contextmanager
    def _retrieved(self, source: Node, destination: Party, request: MoveRequest) -> Iterator[_Told]:
        subject = Subject(request.study_instance_uid, request.patient_id)
        with self._transferred(party_of(source), destination, subject) as told:
            if destination != self._own:
                yield told
                return
            with self._retrievals.under_way(source, request.study_instance_uid):
                yield told

    @contextmanager
    def _transferred(self, source: Party, destination: Party, subject: Subject) -> Iterator[_Told]:
        ways = (self._own, source, destination, *subject)
        self._auditor(begin_transferring(*ways, person=self._person))
        told = _Told()
        try:
            with told:
                yield told
        finally:
            self._auditor(
                instances_transferred(
                    *ways,
                    outcome=told.outcome,
                    description=told.description,
                    counted=told.counted,
                    person=self._person,
                )
            )

    def _destination(self, ae_title: str) -> Party:
        rules = self._rules()
        if ae_title == rules.router.ae_title:
            return self._own
        named = (party_of(node) for node in rules.nodes.values() if node.ae_title == ae_title)
        return next(named, Party(ae_title, ae_title))


class _Told:
    """How a request ended, for its audit message."""

    def __init__(self) -> None:
        self.outcome = SERIOUS
        self.description = "It ended in an unforeseen way."
        self.counted: tuple[Counted, ...] = ()

    def ended(self, status: int, *, partly: bool) -> None:
        """With a final status; `partly`: it was of some use, whatever the status."""
        self.outcome = SUCCESS if status == 0 else MINOR if partly else SERIOUS
        self.description = "" if status == 0 else f"It ended with the status 0x{status:04X}."

    def moved(self, result: MoveResult) -> None:
        """As a C-MOVE or C-GET ended."""
        counts = result.counts
        stored = (counts.completed or 0) + (counts.warning or 0)
        reported = (counts.completed, counts.warning) != (None, None)
        self.counted = (Counted(stored),) if reported else ()
        self.ended(result.status, partly=stored > 0)
        if result.status == 0 and counts.failed:
            self.outcome = MINOR if stored else SERIOUS
            self.description = f"{counts.failed} sub-operations failed."

    def stored(self, reason: str, lacking: int, *, partly: bool) -> None:
        """As a C-STORE of all of them ended, `lacking` so many."""
        self.description = reason or (f"{lacking} instances were not stored." if lacking else "")
        self.outcome = MINOR if self.description and partly else SERIOUS if self.description else SUCCESS

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, WireError):  # its sentence is ours, and holds no identifier
            self.outcome = MINOR if isinstance(error, Cancelled) else SERIOUS
            self.description = str(error)
