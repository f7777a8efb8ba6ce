"""A C-FIND SCP that replays canned matches as fast as the receiver takes them, whatever is asked.

`python -m bench.responder PORT MATCHES`
"""

from __future__ import annotations

import socket
import sys
from functools import cache

from bench import wire
from bench.matches import identifiers
from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.pdu import PduType

_IMPLICIT = "1.2.840.10008.1.2"
_PIECE = 250
_USUAL = ((1, True), (1, False), (3, False))
"""Context ID, whether in implicit VR: what pynetdicom, DCMTK and the router ask with."""


def replay(connection: socket.socket, count: int) -> None:
    """Serve one association: every C-FIND gets all matches."""
    syntaxes: dict[int, str] = {}
    message = 0
    for kind, body in wire.pdus(connection):
        if kind == PduType.P_DATA:
            context_id, control = body[4], body[5]
            if control & pdu.COMMAND:
                message = wire.message_id(body[6:])
            elif control & pdu.LAST:
                _answer(connection, context_id, message, syntaxes[context_id] == _IMPLICIT, count)
        elif kind == PduType.ASSOCIATE_RQ:
            request = wire.accept(connection, body)
            syntaxes = {context.context_id: context.transfer_syntaxes[0] for context in request.contexts}
        elif kind == PduType.RELEASE_RQ:
            connection.sendall(pdu.encode_release_response())


def _answer(connection: socket.socket, context_id: int, message: int, implicit: bool, count: int) -> None:
    """In pieces: the receiver has something to do while the next is put together."""
    pending = _response(context_id, message, 0xFF00, commands.DATA_SET)
    matches = _data_pdus(context_id, implicit, count)
    for start in range(0, count, _PIECE):
        connection.sendall(b"".join([pending + data for data in matches[start : start + _PIECE]]))
    connection.sendall(_response(context_id, message, 0x0000, commands.NO_DATA_SET))


def _response(context_id: int, message: int, status: int, data_set: int) -> bytes:
    return wire.command_pdu(
        context_id,
        {
            commands.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.5.1.4.1.2.2.1",
            commands.COMMAND_FIELD: commands.C_FIND_RSP,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: message,
            commands.COMMAND_DATA_SET_TYPE: data_set,
            commands.STATUS: status,
        },
    )


@cache
def _data_pdus(context_id: int, implicit: bool, count: int) -> list[bytes]:
    return [wire.data_pdu(context_id, pdu.LAST, data) for data in identifiers(count, implicit=implicit)]


def main(port: int, count: int) -> None:
    """Serve; the matches are made before the port opens, so that no asker waits for them."""
    for context_id, implicit in _USUAL:
        _data_pdus(context_id, implicit, count)
    wire.serve(port, lambda connection: replay(connection, count))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
