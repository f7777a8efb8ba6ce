"""The C-GET SCP: sub-operations on the mover's own association (PS3.4 section C.4.3); the rest is as for a C-MOVE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import count
from types import TracebackType

from pynetdicom.dimse_primitives import C_STORE

from .archive import Archive, Instance
from .behaviour import Behaviour
from .delivery import Result, context_for, result_of
from .encoding import undecodable
from .move import Move
from .query import Refusal, read_get, select
from .session import Session


def serve_get(session: Session, archive: Archive, behaviour: Behaviour) -> None:
    """Serve one C-GET. What `behaviour` says of a C-MOVE holds, but for destinations and their associations."""
    query = read_get(session.identifier, session.transfer_syntax, session.sop_class)
    session.note("get", query=query)
    if behaviour.hang_move_after == 0:
        session.hang()
        return
    if not session.wait(behaviour.response_delay_seconds):
        return
    refusal = query.refusal
    if behaviour.refuse_move_status is not None:
        refusal = Refusal(behaviour.refuse_move_status)
    if refusal is not None:
        session.finish(*refusal)
        return
    Move(session, select(archive, query), behaviour, lambda: _SameAssociation(session, behaviour)).run()


class _SameAssociation:
    """Sub-operations on the association of the C-GET, in the thread that serves it."""

    def __init__(self, session: Session, behaviour: Behaviour) -> None:
        self._session = session
        self._undecodable = behaviour.undecodable_instances
        self._message_ids = (1 + n % 65535 for n in count())

    def __enter__(self) -> _SameAssociation:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to end: the association is the peer's."""

    def send(self, instances: Sequence[Instance]) -> Iterator[Result]:
        """Store the instances one by one; yields the result of each."""
        for number, instance in enumerate(instances):
            yield self._store(instance, spoilt=number < self._undecodable)

    def _store(self, instance: Instance, *, spoilt: bool) -> Result:
        association = self._session.association
        role = association.requestor.role_selection.get(instance.sop_class)
        found = context_for(association, instance)
        if found is None or role is None or not role.scp_role or self._session.peer_left:
            return "failed"
        context_id, transfer_syntax, encoded = found
        request = C_STORE()
        request.MessageID = next(self._message_ids)
        request.Priority = 0
        request.AffectedSOPClassUID = instance.sop_class
        request.AffectedSOPInstanceUID = instance.sop_instance
        request.DataSet = BytesIO(undecodable(transfer_syntax) if spoilt else encoded)
        association.dimse.send_msg(request, context_id)
        _, response = association.dimse.get_msg(block=True)
        if isinstance(response, C_STORE) and response.is_valid_response and response.Status is not None:
            return result_of(response.Status)
        self._session.abort()
        return "failed"
