"""A Store SCP that discards: it answers every C-STORE with success and keeps nothing. What a sender can reach at most.

`python -m bench.sink PORT`
"""

from __future__ import annotations

import socket
import sys

from bench import wire
from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.pdu import PduType


def discard(connection: socket.socket) -> None:
    """Serve one association."""
    message = 0
    for kind, body in wire.pdus(connection):
        if kind == PduType.P_DATA:
            control = body[5]
            if control & pdu.COMMAND:
                message = wire.message_id(body[6:])
            elif control & pdu.LAST:
                connection.sendall(_success(body[4], message))
        elif kind == PduType.ASSOCIATE_RQ:
            wire.accept(connection, body)
        elif kind == PduType.RELEASE_RQ:
            connection.sendall(pdu.encode_release_response())


def _success(context_id: int, message: int) -> bytes:
    return wire.command_pdu(
        context_id,
        {
            commands.COMMAND_FIELD: commands.C_STORE_RSP,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: message,
            commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
            commands.STATUS: 0,
        },
    )


if __name__ == "__main__":
    wire.serve(int(sys.argv[1]), discard)
