"""One DIMSE request on an accepted association and the ways to answer it: respond, wait, hang, abort."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE

from .associations import has_left
from .encoding import encode
from .query import Query
from .record import Kind, Operation, Record, now

_POLL_SECONDS = 0.005

PENDING = 0xFF00
PENDING_UNSUPPORTED_KEYS = 0xFF01
SUCCESS = 0x0000
CANCELLED = 0xFE00

Primitive = C_ECHO | C_FIND | C_GET | C_MOVE | C_STORE


@dataclass(frozen=True, slots=True)
class Counts:
    """Sub-operation counters of a C-MOVE or C-GET response (PS3.7 section 9.3.4.2); None leaves one out."""

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None


class Session:
    """A request being served, in the thread of its association."""

    def __init__(
        self,
        association: Association,
        number: int,
        request: Primitive,
        context_id: int,
        stopping: threading.Event,
        record: Record,
    ) -> None:
        self.association = association
        self.number = number
        self.message_id = int(request.MessageID or 0)
        self.calling = str(association.requestor.ae_title).strip()
        self.sop_class = UID(request.AffectedSOPClassUID or "")
        context = association._accepted_cx[context_id]
        self.transfer_syntax: UID = context.transfer_syntax[0]
        self._request = request
        self._context_id = context_id
        self._stopping = stopping
        self._record = record
        self._noted: int | None = None
        self._responded = False
        self.lose_early_cancel = False
        """A C-CANCEL that came before the first response is not heard."""

    @property
    def identifier(self) -> bytes:
        """The bytes of the request's identifier."""
        stored = getattr(self._request, "Identifier", None)
        return stored.getvalue() if stored is not None else b""

    @property
    def stopping(self) -> bool:
        """Whether the simulated PACS is being stopped."""
        return self._stopping.is_set()

    @property
    def peer_left(self) -> bool:
        """Whether the peer released, aborted or dropped the association, or we are stopping."""
        return self.stopping or has_left(self.association)

    @property
    def cancelled(self) -> bool:
        """Whether a C-CANCEL came for this request."""
        if self.lose_early_cancel and not self._responded:
            return False
        return self.message_id in self.association.dimse.cancel_req

    def wait(self, seconds: float, *, though_left: bool = False, until_cancelled: bool = False) -> bool:
        """Wait; False as soon as we stop or the peer has left (unless that is no matter)."""
        deadline = time.monotonic() + seconds
        while not self.stopping and (though_left or not has_left(self.association)):
            remaining = deadline - time.monotonic()
            if remaining <= 0 or (until_cancelled and self.cancelled):
                return True
            self._stopping.wait(min(remaining, _POLL_SECONDS))
        return False

    def hang(self) -> None:
        """Never answer: return when the peer has left or we stop."""
        self.wait(float("inf"))

    def abort(self) -> None:
        """Send A-ABORT after what was already answered."""
        self.association.abort(block=False)

    def note(
        self,
        kind: Kind,
        *,
        query: Query | None = None,
        keys: Mapping[str, str] | None = None,
        destination: str = "",
        originator: tuple[str, int | None] = ("", None),
    ) -> None:
        """Put the request on record."""
        operation = Operation(
            kind=kind,
            at=now(),
            calling=self.calling,
            association=self.number,
            message_id=self.message_id,
            level=query.level if query else "",
            keys=query.as_text() if query else dict(keys or {}),
            destination=destination,
            originator=originator[0],
            originator_message_id=originator[1],
        )
        self._noted = self._record.begin(operation)

    def finish(
        self,
        status: int,
        offending: BaseTag | None = None,
        comment: str = "",
        *,
        identifier: bytes | Dataset | None = None,
        counts: Counts | None = None,
    ) -> None:
        """Send the final response, and put its status on record first: whoever has the response finds it there."""
        if self._noted is not None and not self.peer_left:
            self._record.end(self._noted, status)
        self.respond(status, offending, comment, identifier=identifier, counts=counts)

    def respond(
        self,
        status: int,
        offending: BaseTag | None = None,
        comment: str = "",
        *,
        identifier: bytes | Dataset | None = None,
        counts: Counts | None = None,
    ) -> None:
        """Send a response; a peer that has left does not hear it."""
        if self.peer_left:
            return
        if self.lose_early_cancel and not self._responded:
            self.association.dimse.cancel_req.pop(self.message_id, None)
        self._responded = True
        response = type(self._request)()
        response.MessageIDBeingRespondedTo = self.message_id
        response.AffectedSOPClassUID = self.sop_class
        response.Status = status
        if isinstance(response, C_STORE) and isinstance(self._request, C_STORE):
            response.AffectedSOPInstanceUID = self._request.AffectedSOPInstanceUID
        if isinstance(response, C_FIND | C_GET | C_MOVE) and identifier is not None:
            encoded = encode(identifier, self.transfer_syntax) if isinstance(identifier, Dataset) else identifier
            response.Identifier = BytesIO(encoded)
        if isinstance(response, C_GET | C_MOVE) and counts is not None:
            response.NumberOfRemainingSuboperations = counts.remaining
            response.NumberOfCompletedSuboperations = counts.completed
            response.NumberOfFailedSuboperations = counts.failed
            response.NumberOfWarningSuboperations = counts.warning
        if offending is not None and isinstance(response, C_FIND | C_MOVE):
            response.OffendingElement = [offending]  # type: ignore[assignment] # set to None first, so mypy infers that
        if comment:
            response.ErrorComment = comment  # type: ignore[assignment]
        self.association.dimse.send_msg(response, self._context_id)


def failed_list(uids: Sequence[str]) -> Dataset:
    """The identifier of a final C-MOVE response (PS3.4 section C.4.2.1.4.2)."""
    dataset = Dataset()
    dataset.FailedSOPInstanceUIDList = list(uids)
    return dataset
