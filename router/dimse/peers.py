"""Requests to nodes: the adapter behind the engine's port `Peers`. Every failure is a WireError with one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TypeVar

from router.dimse.association import Association, Context
from router.dimse.commitment import CONTEXTS as COMMITMENT_CONTEXTS
from router.dimse.commitment import Refused, request_commitment
from router.dimse.delivery import Delivery
from router.dimse.echo import verify
from router.dimse.find import find
from router.dimse.get import Intake, Source, get
from router.dimse.get_contexts import Proposal, propose, sendable
from router.dimse.identifier import TRANSFER_SYNTAXES
from router.dimse.move import move
from router.dimse.operation import now
from router.dimse.pdu import ProposedContext
from router.dimse.pool import Pool, describe
from router.dimse.request import find_identifier, move_identifier, worklist_identifier
from router.dimse.retrieve import Deadlines
from router.dimse.services import Caller
from router.dimse.store_scu import OUT_OF_RESOURCES, OpenObject, Work
from router.domain.commitment import STORAGE_COMMITMENT_SOP_CLASS, CommitmentAnswer, CommitmentRequest
from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel
from router.domain.events import Event, NodeReachability, NodeResponded
from router.domain.exchange import (
    FindResult,
    MoveOriginator,
    MoveProgress,
    MoveRequest,
    MoveResult,
    StoredObject,
    StoreOutcome,
    StoreResult,
)
from router.domain.rule import Node
from router.errors import (
    AssociationAborted,
    Cancelled,
    CommitmentRefused,
    ConnectionLost,
    ContextRefused,
    LocalProtocolError,
    WireError,
)

IDLE_SECONDS = 3.0
"""An association is kept for the next request to its node for so long; archives dislike idle ones."""
LINGER_SECONDS = 5.0
"""How long an association stays for storage commitment reports: some archives send them there, most on their own."""
MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
"""Modality Worklist Information Model - FIND."""
_WORKLIST = Proposal((ProposedContext(1, MODALITY_WORKLIST, TRANSFER_SYNTAXES),))
_IMPLICIT = "1.2.840.10008.1.2"
_PATIENT_ID = 0x00100020

T = TypeVar("T")


class Peers:
    """C-ECHO, C-FIND, C-MOVE, C-GET, C-STORE and N-ACTION to nodes. Thread-safe; each call blocks its thread.

    `observer` must neither raise nor block. `intake` takes what comes by C-GET; without it there is no C-GET.
    """

    def __init__(
        self,
        calling_ae_title: str,
        observer: Callable[[Event], None],
        *,
        idle_seconds: float = IDLE_SECONDS,
        intake: Intake | None = None,
    ) -> None:
        self._observer = observer
        self._intake = intake
        self._pool = Pool(calling_ae_title, observer, idle_seconds)

    def echo(self, node: Node) -> None:
        """C-ECHO. Raises WireError."""
        self._exchange(node, partial(verify, node), repeatable=True)

    def find(
        self, node: Node, level: QueryRetrieveLevel, keys: Identifier, *, maximum: int, cancelled: threading.Event
    ) -> FindResult:
        """C-FIND with the keys (values to match, empty to be returned); C-CANCEL after `maximum` matches.

        Raises WireError; Cancelled where `cancelled` was set.
        """

        def work(association: Association) -> FindResult:
            model, context = _context(node, association, level, "C-FIND", with_patient=True)
            implicit = context.transfer_syntax == _IMPLICIT
            keys_of_level = _allowed(keys, level, model)
            identifier = find_identifier(level, keys_of_level, implicit, node.find.assume_character_set)
            return _find(node, association, context, identifier, maximum, cancelled)

        return self._exchange(node, work, repeatable=True)

    def worklist(self, node: Node, keys: Identifier, *, maximum: int, cancelled: threading.Event) -> FindResult:
        """Modality worklist C-FIND (PS3.4 section K.4.1); keys may hold sequences with one item each.

        Its association proposes the worklist only: some worklists reject what else is proposed, and archives know
        none. Raises WireError; Cancelled where `cancelled` was set.
        """

        def work(association: Association) -> FindResult:
            context = association.context_for(MODALITY_WORKLIST)
            if context is None:
                raise ContextRefused(
                    f"{describe(node)} accepts no modality worklist queries from this router; "
                    f"is it the node that has the worklist, and may this router's AE title ask for it?"
                )
            implicit = context.transfer_syntax == _IMPLICIT
            identifier = worklist_identifier(keys, implicit, node.find.assume_character_set)
            return _find(node, association, context, identifier, maximum, cancelled)

        return self._exchange(node, work, repeatable=True, proposal=_WORKLIST)

    def move(
        self,
        node: Node,
        request: MoveRequest,
        *,
        on_response: Callable[[MoveProgress], None],
        last_arrival: Callable[[], float],
        cancelled: threading.Event,
    ) -> MoveResult:
        """C-MOVE until its final response. Never repeated: what a broken one has done is unknown.

        Setting `cancelled` sends C-CANCEL, waits a grace time for the final response, then aborts. Raises WireError.
        """

        def work(association: Association) -> MoveResult:
            model, context = _context(node, association, request.level, "C-MOVE", with_patient=bool(request.patient_id))
            inactivity, total = request.deadlines(node.move.inactivity, node.move.total)
            return move(
                association,
                context,
                request,
                move_identifier(
                    request,
                    context.transfer_syntax == _IMPLICIT,
                    with_patient=model is InformationModel.PATIENT_ROOT,
                    character_set=node.find.assume_character_set,
                ),
                inactivity=inactivity,
                total=total,
                on_response=on_response,
                last_arrival=last_arrival,
                cancelled=cancelled,
            )

        return self._exchange(node, work, repeatable=False)

    def get(
        self,
        node: Node,
        request: MoveRequest,
        *,
        sop_classes: Collection[str],
        on_response: Callable[[MoveProgress], None],
        cancelled: threading.Event,
    ) -> MoveResult:
        """C-GET into the intake until its final response; the deadlines are those of a C-MOVE.

        `sop_classes` are those of the instances, as far as they are known: they are proposed first. Setting `cancelled`
        sends C-CANCEL, waits a grace time for the final response, then aborts. Raises WireError.
        """
        intake = self._intake
        if intake is None:
            raise LocalProtocolError("This command has no store that a C-GET could bring instances to.")
        proposal = propose(sop_classes)

        def work(association: Association) -> MoveResult:
            model, context = _context(node, association, request.level, "C-GET", with_patient=bool(request.patient_id))
            if not sendable(association):
                raise ContextRefused(
                    f"{describe(node)} accepts C-GET but agreed to send no storage SOP class by it; use via: move."
                )
            return get(
                association,
                context,
                move_identifier(
                    request,
                    context.transfer_syntax == _IMPLICIT,
                    with_patient=model is InformationModel.PATIENT_ROOT,
                    service="C-GET",
                    character_set=node.find.assume_character_set,
                ),
                priority=request.priority,
                deadlines=Deadlines(*request.deadlines(node.move.inactivity, node.move.total)),
                source=Source(Caller(node.ae_title, node.name), frozenset(sop_classes), proposal.left_out),
                intake=intake,
                observer=self._observer,
                on_response=on_response,
                cancelled=cancelled,
            )

        # Again where the association was stale: an instance that comes twice is kept once.
        return self._exchange(node, work, repeatable=True, proposal=proposal)

    def store(
        self,
        node: Node,
        objects: Iterable[StoredObject],
        *,
        open_object: OpenObject,
        on_outcome: Callable[[StoreOutcome], None],
        cancelled: threading.Event,
        originator: MoveOriginator | None = None,
    ) -> StoreResult:
        """C-STORE of all instances as they are; each gets exactly one outcome, reported as soon as it is known.

        `open_object` gives a file descriptor positioned at an instance's data set, and the data set's size in bytes.
        What fails on the wire is not raised but in the result; the instances it left are `unconfirmed` or `not sent`.
        Setting `cancelled` lets the instance under way end within a grace time. Raises what the callbacks raise.
        """
        deadline = now() + node.store.total
        responded = partial(self._responded, node)
        delivery = Delivery(
            self._pool, node, Work(open_object, on_outcome, cancelled, node.store, deadline, responded, originator)
        )
        result = delivery.run(objects)
        failure = delivery.failure
        self._reached(node, None if failure is not None and failure.cause == OUT_OF_RESOURCES else failure)
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
        """Ask for storage commitment (PS3.4 annex J), an N-ACTION each, over an association of its own.

        Reports that come on it within a few seconds go to `on_answer`, which raises RouterError where it cannot take
        one; `answered` says that none is awaited any more. Raises WireError: CommitmentRefused where the node refused.
        """

        def work(association: Association) -> Refused | None:
            context = association.context_for(STORAGE_COMMITMENT_SOP_CLASS)
            if context is None:
                raise ContextRefused(f"{describe(node)} accepts no storage commitment requests from this router.")
            return request_commitment(
                association,
                context,
                requests,
                inactivity=node.find.inactivity,
                linger=LINGER_SECONDS,
                on_answer=on_answer,
                answered=answered,
                cancelled=cancelled,
            )

        try:
            association = self._pool.open(node, COMMITMENT_CONTEXTS)
        except WireError as failure:
            self._reached(node, failure)
            raise
        refused = self._attempt(node, association, work, keep=False)
        if refused is not None:
            raise CommitmentRefused(
                refused.status,
                f"{describe(node)} refused a storage commitment request, status {refused.status:04X}.",
                refused.comment,
            )

    def fit(self, node: Node, room: int) -> None:
        """Release idle associations to a node until no more than so many stand. Raises nothing."""
        self._pool.fit(node, room)

    def close(self) -> None:
        """Release all associations that are not in use; those in use end with their request."""
        self._pool.close()

    def _exchange(
        self, node: Node, work: Callable[[Association], T], *, repeatable: bool, proposal: Proposal | None = None
    ) -> T:
        pool = self._pool
        association = pool.take(node, proposal.offers, proposal.roles) if proposal is not None else pool.take(node)
        if association is not None:
            before = association.received
            try:
                return self._attempt(node, association, work)
            except (ConnectionLost, AssociationAborted):
                # The peer may have closed it in the moment we sent; only then, and only what changes nothing, again.
                if not repeatable or association.received != before:
                    raise
        try:
            if proposal is not None:
                association = pool.open(node, proposal.contexts, roles=proposal.roles)
            else:
                association = pool.open(node)
        except WireError as failure:
            self._reached(node, failure)
            raise
        return self._attempt(node, association, work)

    def _attempt(
        self, node: Node, association: Association, work: Callable[[Association], T], *, keep: bool = True
    ) -> T:
        end = self._pool.give_back if keep else self._pool.release
        try:
            result = self._timed(node, association, work)
        except ContextRefused:
            end(node, association)
            self._reached(node, None)  # it answered: a workstation that only stores is up
            raise
        except WireError as failure:
            reusable = isinstance(failure, Cancelled) and association.established
            if reusable:
                self._pool.give_back(node, association)
            else:
                self._pool.discard(node, association, failure)
            self._reached(node, failure)
            raise
        except BaseException:
            self._pool.discard(node, association, Cancelled())
            raise
        end(node, association)
        self._reached(node, None)
        return result

    def _timed(self, node: Node, association: Association, work: Callable[[Association], T]) -> T:
        association.ask()
        try:
            return work(association)
        finally:
            if association.answered_after is not None:
                self._responded(node, association.answered_after)

    def _responded(self, node: Node, seconds: float) -> None:
        self._observer(NodeResponded(node=node.name, seconds=seconds))

    def _reached(self, node: Node, failure: WireError | None) -> None:
        if not isinstance(failure, Cancelled | LocalProtocolError):
            self._observer(NodeReachability(node=node.name, up=failure is None))


def _find(
    node: Node, association: Association, context: Context, identifier: bytes, maximum: int, cancelled: threading.Event
) -> FindResult:
    """A C-FIND with the node's deadlines."""
    return find(
        association,
        context,
        identifier,
        inactivity=node.find.inactivity,
        total=node.find.total,
        maximum=maximum,
        cancelled=cancelled,
        assume_character_set=node.find.assume_character_set,
    )


def _context(
    node: Node, association: Association, level: QueryRetrieveLevel, service: str, *, with_patient: bool
) -> tuple[InformationModel, Context]:
    """The node's root if it is accepted, else the other one, where the level and what is known allow it."""
    other = {
        InformationModel.STUDY_ROOT: InformationModel.PATIENT_ROOT,
        InformationModel.PATIENT_ROOT: InformationModel.STUDY_ROOT,
    }
    accepted = False
    for model in (node.root, other[node.root]):
        context = association.context_for({"C-FIND": model.find, "C-MOVE": model.move, "C-GET": model.get}[service])
        if context is None:
            continue
        accepted = True
        if model is InformationModel.STUDY_ROOT and level is QueryRetrieveLevel.PATIENT:
            continue
        if model is InformationModel.PATIENT_ROOT and not with_patient:
            continue
        return model, context
    if not accepted:
        raise ContextRefused(
            f"{describe(node)} accepts no {service} from this router; allow its AE title to query and retrieve there."
        )
    need = "Patient Root" if level is QueryRetrieveLevel.PATIENT else "Study Root, or a Patient ID with Patient Root"
    raise ContextRefused(f"{describe(node)} cannot take this {service}: at {level.value} level it needs {need}.")


def _allowed(keys: Identifier, level: QueryRetrieveLevel, model: InformationModel) -> Identifier:
    """The keys without what the model does not have at the level: below STUDY, Study Root knows no patient."""
    if model is InformationModel.PATIENT_ROOT or level in (QueryRetrieveLevel.PATIENT, QueryRetrieveLevel.STUDY):
        return keys
    return Identifier({tag: values for tag, values in keys.elements.items() if tag != _PATIENT_ID})
