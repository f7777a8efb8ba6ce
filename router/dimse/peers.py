"""Requests to nodes: the adapter behind the engine's port `Peers`. Every failure is a WireError with one sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from router.dimse.association import Association, Context
from router.dimse.delivery import Delivery
from router.dimse.echo import echo
from router.dimse.find import find
from router.dimse.move import move
from router.dimse.operation import now
from router.dimse.pool import Pool, describe
from router.dimse.request import find_identifier, move_identifier
from router.dimse.store_scu import OUT_OF_RESOURCES, OpenObject, Work
from router.domain.dicom import VERIFICATION_SOP_CLASS, Identifier, InformationModel, QueryRetrieveLevel
from router.domain.events import Event, NodeReachability
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
    ConnectionLost,
    ContextRefused,
    LocalProtocolError,
    RemoteProtocolError,
    WireError,
)

IDLE_SECONDS = 3.0
"""An association is kept for the next request to its node for so long; archives dislike idle ones."""
_IMPLICIT = "1.2.840.10008.1.2"
_PATIENT_ID = 0x00100020

T = TypeVar("T")


class Peers:
    """C-ECHO, C-FIND, C-MOVE and C-STORE to nodes. Thread-safe; each call blocks its thread.

    `observer` must neither raise nor block.
    """

    def __init__(
        self, calling_ae_title: str, observer: Callable[[Event], None], *, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._observer = observer
        self._pool = Pool(calling_ae_title, observer, idle_seconds)

    def echo(self, node: Node) -> None:
        """C-ECHO. Raises WireError."""

        def work(association: Association) -> None:
            context = association.context_for(VERIFICATION_SOP_CLASS)
            if context is None:
                raise ContextRefused(f"{describe(node)} accepts associations but no C-ECHO from this router.")
            status = echo(association, context, node.timeouts.negotiation)
            if status != 0:
                raise RemoteProtocolError(f"{describe(node)} answered a C-ECHO with status {status:04X}.")

        self._exchange(node, work, repeatable=True)

    def find(
        self, node: Node, level: QueryRetrieveLevel, keys: Identifier, *, maximum: int, cancelled: threading.Event
    ) -> FindResult:
        """C-FIND with the keys (values to match, empty to be returned); C-CANCEL after `maximum` matches.

        Raises WireError; Cancelled where `cancelled` was set.
        """

        def work(association: Association) -> FindResult:
            model, context = _context(node, association, level, "C-FIND", with_patient=True)
            return find(
                association,
                context,
                find_identifier(level, _allowed(keys, level, model), context.transfer_syntax == _IMPLICIT),
                inactivity=node.find.inactivity,
                total=node.find.total,
                maximum=maximum,
                cancelled=cancelled,
            )

        return self._exchange(node, work, repeatable=True)

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
            return move(
                association,
                context,
                request,
                move_identifier(
                    request,
                    context.transfer_syntax == _IMPLICIT,
                    with_patient=model is InformationModel.PATIENT_ROOT,
                ),
                inactivity=node.move.inactivity,
                total=node.move.total,
                on_response=on_response,
                last_arrival=last_arrival,
                cancelled=cancelled,
            )

        return self._exchange(node, work, repeatable=False)

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
        delivery = Delivery(
            self._pool, node, Work(open_object, on_outcome, cancelled, node.store, deadline, originator)
        )
        result = delivery.run(objects)
        failure = delivery.failure
        self._reached(node, None if failure is not None and failure.cause == OUT_OF_RESOURCES else failure)
        return result

    def close(self) -> None:
        """Release all associations that are not in use; those in use end with their request."""
        self._pool.close()

    def _exchange(self, node: Node, work: Callable[[Association], T], *, repeatable: bool) -> T:
        association = self._pool.take(node)
        if association is not None:
            before = association.received
            try:
                return self._attempt(node, association, work)
            except (ConnectionLost, AssociationAborted):
                # The peer may have closed it in the moment we sent; only then, and only what changes nothing, again.
                if not repeatable or association.received != before:
                    raise
        try:
            association = self._pool.open(node)
        except WireError as failure:
            self._reached(node, failure)
            raise
        return self._attempt(node, association, work)

    def _attempt(self, node: Node, association: Association, work: Callable[[Association], T]) -> T:
        try:
            result = work(association)
        except ContextRefused:
            self._pool.give_back(node, association)
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
        self._pool.give_back(node, association)
        self._reached(node, None)
        return result

    def _reached(self, node: Node, failure: WireError | None) -> None:
        if not isinstance(failure, Cancelled | LocalProtocolError):
            self._observer(NodeReachability(node=node.name, up=failure is None))


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
        context = association.context_for(model.find if service == "C-FIND" else model.move)
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
