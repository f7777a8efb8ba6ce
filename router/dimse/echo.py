"""C-ECHO as SCU, PS3.7 section 9.1.5."""

from __future__ import annotations

from router.dimse import command as commands
from router.dimse.association import Association, Context
from router.dimse.operation import MESSAGE_IDS, now, response
from router.dimse.pool import describe
from router.domain.dicom import VERIFICATION_SOP_CLASS
from router.domain.rule import Node
from router.errors import ContextRefused, DeadlineExceeded, RemoteProtocolError


def echo(association: Association, context: Context, deadline_seconds: float) -> int:
    """Send C-ECHO, return the status. Raises WireError."""
    with MESSAGE_IDS.one() as message_id:
        association.send(
            context.context_id,
            commands.encode(
                {
                    commands.AFFECTED_SOP_CLASS_UID: VERIFICATION_SOP_CLASS,
                    commands.COMMAND_FIELD: commands.C_ECHO_RQ,
                    commands.MESSAGE_ID: message_id,
                    commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
                }
            ),
        )
        message = association.receive(now() + deadline_seconds)
        if message is None:
            association.abort()
            raise DeadlineExceeded(f"{association.peer} did not answer a C-ECHO within {deadline_seconds:g} s.")
        return response(association, message, context, commands.C_ECHO_RSP, message_id)


def verify(node: Node, association: Association) -> None:
    """A C-ECHO to a node, which it must take and answer with success. Raises WireError."""
    context = association.context_for(VERIFICATION_SOP_CLASS)
    if context is None:
        raise ContextRefused(f"{describe(node)} accepts associations but no C-ECHO from this router.")
    status = echo(association, context, node.timeouts.negotiation)
    if status != 0:
        raise RemoteProtocolError(f"{describe(node)} answered a C-ECHO with status {status:04X}.")
