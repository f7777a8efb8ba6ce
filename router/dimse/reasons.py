"""What failed connections, rejections and aborts mean, as sentences for people: the tables of PS3.8 section 9.3."""

from __future__ import annotations

import socket

from router.dimse.pdu import AssociateRequest, Buffer
from router.errors import ConnectionFailed

_PERMANENT = 1

REJECTIONS = {
    (1, 1): "rejected the association without a reason; its log or its administrator may know one",
    (1, 2): "rejected the association: it does not support the DICOM application context",
    (1, 3): "rejected this router's AE title {calling}; register it there",
    (1, 7): "does not answer to the AE title {called}; correct ae_title of the node",
    (2, 1): "rejected the association in its upper layer without a reason",
    (2, 2): "rejected the association: it speaks another version of the protocol",
    (3, 1): "is congested for the moment; it can be tried again later",
    (3, 2): "has no association left for this router; try again later, or lower limits.associations of the node",
}
"""By source and reason, PS3.8 table 9-21: 1 service user, 2 provider (ACSE), 3 provider (presentation)."""

ABORTS = {
    0: "without a reason",
    1: "because of a PDU it does not know",
    2: "because of a PDU it did not expect",
    4: "because of a PDU parameter it does not know",
    5: "because of a PDU parameter it did not expect",
    6: "because of an invalid PDU parameter",
}
"""By reason of a provider's A-ABORT, PS3.8 table 9-26."""


def connection_failure(peer: str, seconds: float, error: OSError) -> ConnectionFailed:
    """Why no connection came about within `seconds`."""
    match error:
        case TimeoutError():
            return ConnectionFailed(
                f"{peer} did not answer the connection within {seconds:g} s; is the address right?", "connect-timeout"
            )
        case ConnectionRefusedError():
            return ConnectionFailed(
                f"{peer} refused the connection; is it running and is the address right?", "connection-refused"
            )
        case socket.gaierror():
            return ConnectionFailed(f"{peer} cannot be found: its host name does not resolve.", "name-unresolved")
    return ConnectionFailed(f"{peer} cannot be reached: {error.strerror or 'network error'}.")


def rejection_sentence(peer: str, request: AssociateRequest, body: Buffer) -> str:
    """The sentence for an A-ASSOCIATE-RJ, from what follows its PDU header."""
    result, source, reason = body[1], body[2], body[3]
    text = REJECTIONS.get((source, reason))
    if text is None:
        text = f"rejected the association (result {result}, source {source}, reason {reason})"
    elif result != _PERMANENT and source == 1:
        text += " (it says that this is temporary)"
    return f"{peer} {text.format(calling=request.calling_ae_title, called=request.called_ae_title)}."


def abort_sentence(peer: str, source: int, reason: int, request: AssociateRequest | None = None) -> str:
    """The sentence for an A-ABORT; `request` is the one of this side, if it made it."""
    if source == 0 and request is not None:
        return (
            f"{peer} aborted the association; its log says why. Does it accept {request.calling_ae_title} as calling "
            f"AE title, and is {request.called_ae_title} its own?"
        )
    if source == 0:
        return f"{peer} aborted the association; its log says why."
    return f"{peer} aborted the association {ABORTS.get(reason, 'without a reason')}."
