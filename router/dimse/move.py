"""C-MOVE as SCU, PS3.4 section C.4.2 and PS3.7 section 9.1.4."""

from __future__ import annotations

import threading
from collections.abc import Callable

from router.dimse import command as commands
from router.dimse.association import Association, Context
from router.dimse.operation import MESSAGE_IDS
from router.dimse.retrieve import Deadlines, Follower, Operation
from router.domain.exchange import MoveProgress, MoveRequest, MoveResult


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
        operation = Operation(association, context, message_id, "C-MOVE", commands.C_MOVE_RSP)
        return Follower(
            operation,
            Deadlines(inactivity, total),
            on_response=on_response,
            last_arrival=last_arrival,
            cancelled=cancelled,
        ).run()
