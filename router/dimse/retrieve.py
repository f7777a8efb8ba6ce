"""Following a C-MOVE or C-GET as SCU from its request to its final response, PS3.4 section C.4, PS3.7 section 9.1."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from router.dimse import command as commands
from router.dimse.association import Association, Context, Message
from router.dimse.identifier import IdentifierError, decode
from router.dimse.operation import (
    CANCEL_GRACE,
    CANCELLED,
    PENDING,
    TICK,
    now,
    response,
    scrub,
    send_cancel,
)
from router.dimse.request import failed_uids
from router.domain.dicom import SubOperationCounts
from router.domain.exchange import MoveProgress, MoveResult
from router.errors import Cancelled, DeadlineExceeded, WireError

MAXIMUM_IDENTIFIER = 8 << 20
"""Bytes of a response's identifier: 65535 failed UIDs of 64 characters are 4 MiB."""


class Operation(NamedTuple):
    """A request that was sent on an association."""

    association: Association
    context: Context
    message_id: int
    service: str
    """C-MOVE or C-GET, for sentences."""
    response: int
    """The command field of its responses."""


class Deadlines(NamedTuple):
    """How long it may take, in seconds."""

    inactivity: float
    """Without a response or an arriving instance."""
    total: float


class Follower:
    """Takes the responses of one operation.

    `serve` answers a C-STORE request that comes in between (C-GET); None where none may come.
    """

    def __init__(
        self,
        operation: Operation,
        deadlines: Deadlines,
        *,
        on_response: Callable[[MoveProgress], None],
        last_arrival: Callable[[], float],
        cancelled: threading.Event,
        serve: Callable[[Message], None] | None = None,
    ) -> None:
        self._operation = operation
        self._deadlines = deadlines
        self._on_response = on_response
        self._last_arrival = last_arrival
        self._cancelled = cancelled
        self._serve = serve
        self._counts = SubOperationCounts()
        self._end = float("inf")
        self._cancelling = False

    def run(self) -> MoveResult:
        """The final response.

        Raises DeadlineExceeded at a deadline, Cancelled where `cancelled` was set and no final response came in the
        grace, and what `Association.receive` raises.
        """
        association, service = self._operation.association, self._operation.service
        inactivity, total = self._deadlines
        peer = association.peer
        started = heard = now()
        self._end = started + total
        while True:
            moment = now()
            heard = max(heard, self._last_arrival())
            if self._cancelled.is_set():
                return self._cancel(Cancelled(f"The {service} of {peer} was cancelled."), CANCELLED)
            if moment > heard + inactivity:
                return self._cancel(
                    DeadlineExceeded(
                        f"{peer} made no progress with a {service} for {inactivity:g} s; it was cancelled.",
                        "timeout-inactivity",
                    )
                )
            if moment > started + total:
                return self._cancel(
                    DeadlineExceeded(
                        f"{peer} did not finish a {service} within {total:g} s; it was cancelled.", "timeout-total"
                    )
                )
            message = association.receive(min(moment + TICK, started + total + TICK))
            if message is None:
                continue
            result = self._take(message)
            heard = now()
            if result is not None:
                return result

    def check(self) -> None:
        """In the middle of a data set that arrives: abort where there is no time left for the rest of it.

        Raises DeadlineExceeded or Cancelled.
        """
        moment = now()
        if not self._cancelling and self._cancelled.is_set():
            self._cancelling = True
            self._end = min(self._end, moment + CANCEL_GRACE)
        if moment <= self._end:
            return
        association, service = self._operation.association, self._operation.service
        association.abort()
        if self._cancelled.is_set():
            raise Cancelled(f"The {service} of {association.peer} was cancelled in the middle of an instance.")
        raise DeadlineExceeded(
            f"{association.peer} did not finish a {service} within {self._deadlines.total:g} s; it was aborted.",
            "timeout-total",
        )

    def _take(self, message: Message) -> MoveResult | None:
        """A sub-operation, served; or a response: reported, and the result where it is the final one."""
        command = message.command
        if self._serve is not None and command.field == commands.C_STORE_RQ:
            self._serve(message)
            return None
        association, context, message_id, _service, field = self._operation
        status = response(association, message, context, field, message_id)
        uids: tuple[str, ...] = ()
        if command.has_data:
            data = association.read_data(message.context_id, MAXIMUM_IDENTIFIER)
            try:
                uids = failed_uids(decode(data, context.transfer_syntax))
            except IdentifierError:
                uids = ()  # the list is a hint; the counters and the evidence decide
        counts = SubOperationCounts(
            command.number(commands.REMAINING),
            command.number(commands.COMPLETED),
            command.number(commands.FAILED),
            command.number(commands.WARNING),
        )
        if counts != SubOperationCounts():
            self._counts = counts
        self._on_response(MoveProgress(status=status, counts=counts))
        if status in PENDING:
            return None
        return MoveResult(
            status=status,
            counts=self._counts,
            failed_sop_instance_uids=uids,
            error_comment=scrub(command.text(commands.ERROR_COMMENT)),
        )

    def _cancel(self, failure: WireError, answered_by: int | None = None) -> MoveResult:
        """C-CANCEL, then the final response within the grace, else abort.

        A final response is the result unless it only confirms a cancellation that stands for a failure.
        """
        association = self._operation.association
        self._cancelling = True
        self._end = deadline = now() + CANCEL_GRACE
        try:
            send_cancel(association, self._operation.context, self._operation.message_id)
            while (moment := now()) < deadline:
                message = association.receive(min(moment + TICK, deadline))
                result = self._take(message) if message is not None else None
                if result is not None:
                    break
            else:
                association.abort()
                raise failure
        except WireError:
            raise failure from None
        if result.status == CANCELLED and answered_by != CANCELLED:
            raise failure
        return result
