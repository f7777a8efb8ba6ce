"""C-STORE sub-operations: the storage SCU side of the simulated PACS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from types import TracebackType
from typing import Literal

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from .archive import Instance
from .associations import Associations, StoppedError, has_left, no_delay
from .behaviour import Behaviour
from .encoding import UNCOMPRESSED, undecodable
from .negotiation import takes_too_much

Result = Literal["completed", "failed", "warning"]

#: PS3.8 section 9.3.2.2: presentation context identifiers are odd and at most 255.
_MAX_CONTEXTS = 128


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a move goes: the AE title the mover named, and the address we know it under."""

    ae_title: str
    host: str
    port: int


class Delivery:
    """The sub-operations of one move, as a context manager. Associations are opened when the first instance needs one.

    `originator` is the mover's AE title and message id.
    """

    def __init__(
        self,
        associations: Associations,
        our_ae_title: str,
        destination: Destination,
        originator: tuple[str, int],
        behaviour: Behaviour,
        timeout_seconds: float,
    ) -> None:
        self._entity = associations.entity(behaviour.stores_from or our_ae_title, behaviour)
        self._entity.connection_timeout = min(timeout_seconds, 5.0)
        self._entity.acse_timeout = self._entity.dimse_timeout = timeout_seconds
        self._stopping = associations.stopping
        self._destination = destination
        self._behaviour = behaviour
        self._originator_id: int | None = originator[1]
        self._originator: str | None = originator[0]
        if behaviour.move_originator == "absent":
            self._originator, self._originator_id = None, None
        elif behaviour.move_originator == "self":
            self._originator = our_ae_title
        self._association: Association | None = None
        self._message_ids = (1 + n % 65535 for n in count())

    def __enter__(self) -> Delivery:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_association()

    def send(self, instances: Sequence[Instance]) -> Iterator[Result]:
        """Store the instances one by one; yields the result of each.

        A destination that cannot be reached, that rejects us or breaks off fails every instance that is left.
        """
        batches = [[one] for one in instances] if self._behaviour.association_per_suboperation else _batches(instances)
        sent = 0
        for batch in batches:
            self._end_association()
            self._open_association(batch)
            for instance in batch:
                sent += 1
                yield self._store(instance, spoilt=sent <= self._behaviour.undecodable_instances)

    def _open_association(self, batch: Iterable[Instance]) -> None:
        try:
            association = self._entity.associate(
                self._destination.host,
                self._destination.port,
                contexts=_contexts(batch),
                ae_title=self._destination.ae_title,
                max_pdu=self._behaviour.max_pdu_length,
                evt_handlers=[(evt.EVT_CONN_OPEN, lambda event: no_delay(event.assoc))],
            )
        except StoppedError:
            return
        if association.is_established and takes_too_much(association.acceptor.maximum_length, self._behaviour):
            association.abort(block=False)
        elif association.is_established:
            association._reactor_checkpoint = _Gate()
            self._association = association

    def _end_association(self) -> None:
        association, self._association = self._association, None
        if association is None:
            return
        if self._stopping.is_set() or has_left(association):
            association.kill()
        else:
            association.release()

    def _store(self, instance: Instance, *, spoilt: bool) -> Result:
        association = self._association
        if association is None or not association.is_established or self._stopping.is_set():
            return "failed"
        found = context_for(association, instance)
        if found is None:
            return "failed"
        context_id, transfer_syntax, encoded = found
        if spoilt:
            encoded = undecodable(transfer_syntax)
        request = C_STORE()
        request.MessageID = next(self._message_ids)
        request.Priority = 0
        request.AffectedSOPClassUID = instance.sop_class
        request.AffectedSOPInstanceUID = instance.sop_instance
        request.MoveOriginatorApplicationEntityTitle = self._originator
        request.MoveOriginatorMessageID = self._originator_id
        request.DataSet = BytesIO(encoded)
        status = _exchange(association, request, context_id)
        return "failed" if status is None else result_of(status)


def result_of(status: int) -> Result:
    """How a sub-operation is counted by its C-STORE status (PS3.4 section C.4.2.1.5)."""
    if status == 0x0000:
        return "completed"
    return "warning" if status >> 12 == 0xB or status in (0x0107, 0x0116) else "failed"


class _Gate(threading.Event):
    """The checkpoint of an association's reactor, which tells when the reactor really waits at it.

    pynetdicom goes by a flag that is up for a moment without the reactor waiting; a reactor that passes just then takes
    the response off the queue, and who sent the request waits for it in vain.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._open = True
        self._waiting = False

    def set(self) -> None:
        """Open it."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Close it without waiting for the reactor."""
        with self._changed:
            self._open = False

    def is_set(self) -> bool:
        """Whether it is open."""
        return self._open

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open; one that is closed again at once is not passed."""
        with self._changed:
            while not self._open:
                self._waiting = True
                self._changed.notify_all()
                self._changed.wait(timeout)
                if timeout is not None:
                    break
            self._waiting = False
            return self._open

    def close(self, alive: Callable[[], bool]) -> None:
        """Close it and return once the reactor waits at it, or is no longer alive."""
        with self._changed:
            self._open = False
            while not self._waiting and alive():
                self._changed.wait(0.05)


def _exchange(association: Association, request: C_STORE, context_id: int) -> int | None:
    """Send a C-STORE and wait for its status; None if none came, and then the association is over."""
    gate = association._reactor_checkpoint
    assert isinstance(gate, _Gate)
    gate.close(association.is_alive)
    try:
        association.dimse.send_msg(request, context_id)
        _, response = association.dimse.get_msg(block=True)
    finally:
        gate.set()
    if isinstance(response, C_STORE) and response.is_valid_response:
        return response.Status
    association.abort(block=False)
    association.is_established = False
    return None


def _contexts(batch: Iterable[Instance]) -> list[PresentationContext]:
    """One context for each SOP class and transfer syntax that is stored; the stored transfer syntax first.

    What is stored uncompressed is offered in the other uncompressed ones too; what is compressed only as it is, since
    we could not send it otherwise.
    """
    contexts = []
    for sop_class, transfer_syntax in dict.fromkeys((one.sop_class, one.transfer_syntax) for one in batch):
        context = PresentationContext()
        context.abstract_syntax = sop_class
        others = (ExplicitVRLittleEndian, ImplicitVRLittleEndian) if transfer_syntax in UNCOMPRESSED else ()
        context.transfer_syntax = [transfer_syntax, *(other for other in others if other != transfer_syntax)]
        contexts.append(context)
    return contexts


def _batches(instances: Sequence[Instance]) -> list[list[Instance]]:
    """Instances that fit one association: no more presentation contexts than it may have."""
    batches: list[list[Instance]] = []
    kinds: set[tuple[UID, UID]] = set()
    for instance in instances:
        kind = (instance.sop_class, instance.transfer_syntax)
        if not batches or (kind not in kinds and len(kinds) == _MAX_CONTEXTS):
            batches.append([])
            kinds = set()
        kinds.add(kind)
        batches[-1].append(instance)
    return batches


def context_for(association: Association, instance: Instance) -> tuple[int, UID, bytes] | None:
    """The accepted context to send an instance in, its transfer syntax, and the bytes; as stored if that can be."""
    accepted = [one for one in association.accepted_contexts if one.abstract_syntax == instance.sop_class]
    accepted.sort(key=lambda one: one.transfer_syntax[0] != instance.transfer_syntax)
    for context in accepted:
        transfer_syntax = context.transfer_syntax[0]
        encoded = instance.encoded_in(transfer_syntax)
        if encoded is not None and context.context_id is not None:
            return context.context_id, transfer_syntax, encoded
    return None
