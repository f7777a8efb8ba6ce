"""The bare minimum of an upper layer for the measuring ends: a sink, a canned responder, a sender without end.

Nothing here checks what a peer sends: both ends belong to the benchmark. One process a connection, so that no
interpreter lock stands between four of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator

from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.pdu import AssociateRequest, ContextReply, PduType

MAXIMUM_LENGTH = 131072
"""Of a P-DATA-TF: what the router's Store SCP announces, so that a sender cuts its data alike."""
_CHUNK = 256 * 1024
_BACKLOG = 64
_MESSAGE_ID = struct.pack("<HHL", 0, commands.MESSAGE_ID, 2)


def serve(port: int, session: Callable[[socket.socket], None]) -> None:
    """Accept connections on loopback until the process is ended; `session` gets each in a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.create_server(("127.0.0.1", port), backlog=_BACKLOG) as listener:
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                prepare(connection)
                with contextlib.suppress(ConnectionError):
                    session(connection)
                os._exit(0)
            connection.close()


def prepare(connection: socket.socket) -> None:
    """No delay, either way."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    acknowledge(connection)


def acknowledge(connection: socket.socket) -> None:
    """Acknowledge at once what came: a sender with Nagle's algorithm on waits for it."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def pdus(connection: socket.socket) -> Iterator[tuple[int, memoryview]]:
    """Type and body of each PDU; the body is valid until the next one is asked for."""
    buffer = bytearray(_CHUNK + 2 * (MAXIMUM_LENGTH + 6))
    view = memoryview(buffer)
    start = end = 0
    while True:
        while end - start >= 6:
            kind, length = pdu.HEADER.unpack_from(buffer, start)
            following = start + 6 + length
            if following > end:
                break
            yield kind, view[start + 6 : following]
            start = following
        if start == end:
            start = end = 0
        elif len(buffer) - end < _CHUNK:
            view[: end - start] = view[start:end]
            start, end = 0, end - start
        count = connection.recv_into(view[end : end + _CHUNK])
        if not count:
            return
        end += count
        acknowledge(connection)


def accept(connection: socket.socket, body: memoryview) -> AssociateRequest:
    """Accept an association: all contexts, the first transfer syntax of each."""
    request = pdu.decode_associate_request(body)
    replies = [
        ContextReply(context.context_id, pdu.ContextResult.ACCEPTED, context.transfer_syntaxes[0])
        for context in request.contexts
    ]
    connection.sendall(pdu.encode_associate_accept(request, replies, MAXIMUM_LENGTH))
    return request


def message_id(command_set: memoryview | bytes) -> int:
    """Message ID (0000,0110) of a command set."""
    raw = bytes(command_set)
    position = raw.index(_MESSAGE_ID) + len(_MESSAGE_ID)
    return int.from_bytes(raw[position : position + 2], "little")


def data_pdu(context_id: int, control: int, value: bytes | memoryview) -> bytes:
    """One P-DATA-TF with one presentation data value."""
    return pdu.PDATA_HEADER.pack(PduType.P_DATA, len(value) + 6, len(value) + 2, context_id, control) + bytes(value)


def command_pdu(context_id: int, elements: dict[int, int | str]) -> bytes:
    """A whole command set in one P-DATA-TF."""
    return data_pdu(context_id, pdu.COMMAND | pdu.LAST, commands.encode(elements))
