"""C-MOVE as SCU, PS3.4 section C.4.2 and PS3.7 section 9.1.4."""

from __future__ import annotations

import threading
from collections.abc import Callable

from router.dimse import command as commands
from router.dimse.association import Association, Context, Message
from router.dimse.identifier import IdentifierError, decode
from router.dimse.operation import (
    CANCEL_GRACE,
    CANCELLED,
    MESSAGE_IDS,
    PENDING,
    TICK,
    now,
    response,
    scrub,
    send_cancel,
)
from router.dimse.request import failed_uids
from router.domain.dicom import SubOperationCounts
from router.domain.exchange import MoveProgress, MoveRequest, MoveResult
from router.errors import Cancelled, DeadlineExceeded, WireError

MAXIMUM_IDENTIFIER = 8 << 20
"""Bytes of a response's identifier: 65535 failed UIDs of 64 characters are 4 MiB."""


def move(
    association: Association,
    context: Context,
    request: MoveRequest,
    identifier: bytes,
    *,
    inactivity: float,
    total: float,
    on_response: Callable[[MoveProgress], None],
    last_arrival: Callable[[], float],
    cancelled: threading.Event,
) -> MoveResult:
    """Send C-MOVE with an encoded identifier and follow it to its final response.

    Raises DeadlineExceeded after `inactivity` seconds without a response or an arriving instance or `total` seconds in
    all, Cancelled where `cancelled` was set and no final response came in the grace, and what `receive` raises.
    """
    with MESSAGE_IDS.one() as message_id:
        association.send(
            context.context_id,
            commands.encode(
                {
                    commands.AFFECTED_SOP_CLASS_UID: context.abstract_syntax,
                    commands.COMMAND_FIELD: commands.C_MOVE_RQ,
                    commands.MESSAGE_ID: message_id,
                    commands.PRIORITY: request.priority,
                    commands.MOVE_DESTINATION: request.destination_ae_title,
                    commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
                }
            ),
            identifier,
        )
        follower = _Follower(association, context, message_id, on_response)
        return follower.run(inactivity, total, last_arrival, cancelled)


class _Follower:
    def __init__(
        self,
        association: Association,
        context: Context,
        message_id: int,
        on_response: Callable[[MoveProgress], None],
    ) -> None:
        self._association = association
        self._context = context
        self._message_id = message_id
        self._on_response = on_response
        self._counts = SubOperationCounts()

    def run(
        self, inactivity: float, total: float, last_arrival: Callable[[], float], cancelled: threading.Event
    ) -> MoveResult:
        peer = self._association.peer
        started = heard = now()
        while True:
            moment = now()
            heard = max(heard, last_arrival())
            if cancelled.is_set():
                return self._cancel(Cancelled(f"The C-MOVE of {peer} was cancelled."), CANCELLED)
            if moment > heard + inactivity:
                return self._cancel(
                    DeadlineExceeded(f"{peer} made no progress with a C-MOVE for {inactivity:g} s; it was cancelled.")
                )
            if moment > started + total:
                return self._cancel(
                    DeadlineExceeded(f"{peer} did not finish a C-MOVE within {total:g} s; it was cancelled.")
                )
            message = self._association.receive(min(moment + TICK, started + total + TICK))
            if message is None:
                continue
            heard = now()
            result = self._take(message)
            if result is not None:
                return result

    def _take(self, message: Message) -> MoveResult | None:
        """One response: reported, and the result where it is the final one."""
        association, command = self._association, message.command
        status = response(association, message, self._context, commands.C_MOVE_RSP, self._message_id)
        uids: tuple[str, ...] = ()
        if command.has_data:
            data = association.read_data(message.context_id, MAXIMUM_IDENTIFIER)
            try:
                uids = failed_uids(decode(data, self._context.transfer_syntax))
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
        association = self._association
        try:
            send_cancel(association, self._context, self._message_id)
            deadline = now() + CANCEL_GRACE
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
