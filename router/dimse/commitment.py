"""Storage commitment on the wire, PS3.4 annex J: N-ACTION as SCU, N-EVENT-REPORT taken on either kind of association.

An archive reports on the association of the request or on one that it opens itself, where it is the SCP although it is
the requestor (role selection, PS3.7 section D.3.3.4).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from router.dimse import command as commands
from router.dimse.association import Association, Context, Message
from router.dimse.command import Command
from router.dimse.identifier import TRANSFER_SYNTAXES, IdentifierError, decode
from router.dimse.operation import MESSAGE_IDS, TICK, now, response, scrub
from router.dimse.pdu import ProposedContext, RoleSelection
from router.dimse.request import commitment_data_set
from router.domain.commitment import (
    STORAGE_COMMITMENT_SOP_CLASS,
    STORAGE_COMMITMENT_SOP_INSTANCE,
    CommitmentAnswer,
    CommitmentRequest,
)
from router.domain.dicom import Identifier, is_uid
from router.errors import AssociationAborted, Cancelled, ConnectionLost, DeadlineExceeded, RouterError

CONTEXTS = (ProposedContext(1, STORAGE_COMMITMENT_SOP_CLASS, TRANSFER_SYNTAXES),)
"""What a request needs; it goes over an association of its own."""

REPORTER = (RoleSelection(STORAGE_COMMITMENT_SOP_CLASS, scu=False, scp=True),)
"""The roles of a requestor that comes to report."""

MAXIMUM_REPORT = 4 << 20
"""Bytes of a report; one about the most instances a transaction of ours has needs well below one MiB."""

SUCCESS = 0x0000
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
_PROCESSING_FAILURE = 0x0110
_NO_SUCH_INSTANCE = 0x0112
_NO_SUCH_EVENT_TYPE = 0x0113
_INVALID_ARGUMENT = 0x0115
_RESOURCE_LIMITATION = 0x0213
_REQUEST_COMMITMENT = 1
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2
"""Action Type ID and Event Type IDs, PS3.4 tables J.3-1 and J.3-2."""
_MAXIMUM_RESPONSE = 1 << 20

OnAnswer = Callable[[CommitmentAnswer], None]
"""Takes what an archive answered; raises RouterError where it cannot be taken now."""


class Refused(NamedTuple):
    """An archive's answer to an N-ACTION that is no success."""

    status: int
    comment: str


def request_commitment(
    association: Association,
    context: Context,
    requests: Iterable[CommitmentRequest],
    *,
    inactivity: float,
    linger: float,
    on_answer: OnAnswer,
    answered: Callable[[], bool],
    cancelled: threading.Event,
) -> Refused | None:
    """One N-ACTION for each request; the first refusal ends it. None where all were taken.

    Then waits up to `linger` seconds for reports on this association, unless `answered` says that all have come another
    way. Raises DeadlineExceeded where an N-ACTION stays unanswered for `inactivity` seconds, Cancelled where
    `cancelled` was set before all were taken, and what `Association.receive` raises.
    """
    for request in requests:
        data = commitment_data_set(request, context.transfer_syntax == TRANSFER_SYNTAXES[1])
        with MESSAGE_IDS.one() as message_id:
            association.send(context.context_id, _action(message_id), data)
            refused = _await(association, context, message_id, now() + inactivity, on_answer, cancelled)
        if refused is not None:
            return refused
    try:
        _linger(association, now() + linger, on_answer, answered, cancelled)
    except (ConnectionLost, AssociationAborted):
        return None  # all requests were taken; the archive reports on an association of its own
    return None


def _action(message_id: int) -> bytes:
    return commands.encode(
        {
            commands.REQUESTED_SOP_CLASS_UID: STORAGE_COMMITMENT_SOP_CLASS,
            commands.COMMAND_FIELD: commands.N_ACTION_RQ,
            commands.MESSAGE_ID: message_id,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
            commands.REQUESTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_SOP_INSTANCE,
            commands.ACTION_TYPE_ID: _REQUEST_COMMITMENT,
        }
    )


def _await(
    association: Association,
    context: Context,
    message_id: int,
    deadline: float,
    on_answer: OnAnswer,
    cancelled: threading.Event,
) -> Refused | None:
    while (moment := now()) < deadline:
        if cancelled.is_set():
            association.abort()
            raise Cancelled(f"The storage commitment request to {association.peer} was cancelled.")
        message = association.receive(min(moment + TICK, deadline))
        if message is None:
            continue
        if message.command.field == commands.N_EVENT_REPORT_RQ:  # about an earlier transaction
            take_report(association, message, "", on_answer)
            continue
        status = response(association, message, context, commands.N_ACTION_RSP, message_id)
        if message.command.has_data:
            association.read_data(context.context_id, _MAXIMUM_RESPONSE)
        if status == SUCCESS or status in _WARNINGS:
            return None
        return Refused(status, scrub(message.command.text(commands.ERROR_COMMENT)))
    association.abort()
    raise DeadlineExceeded(f"{association.peer} did not answer a storage commitment request in time.")


def _linger(
    association: Association,
    deadline: float,
    on_answer: OnAnswer,
    answered: Callable[[], bool],
    cancelled: threading.Event,
) -> None:
    while (moment := now()) < deadline and not cancelled.is_set() and not answered():
        message = association.receive(min(moment + TICK, deadline))
        if message is not None and message.command.field == commands.N_EVENT_REPORT_RQ:
            take_report(association, message, "", on_answer)
        elif message is not None:
            association.abort()  # nothing else can be right; the requests were taken all the same
            return


# N-EVENT-REPORT, PS3.7 section 10.1.1 -------------------------------------------------------------------------------


def take_report(association: Association, message: Message, calling_ae_title: str, on_answer: OnAnswer) -> bool:
    """Read one N-EVENT-REPORT, hand it on, answer it. Whether it was taken. Raises WireError where all is over."""
    command = message.command
    data = association.read_data(message.context_id, MAXIMUM_REPORT) if command.has_data else b""
    transfer_syntax = association.contexts[message.context_id].transfer_syntax
    status = _judge(command) or _hand_on(data, transfer_syntax, calling_ae_title, on_answer)
    elements: dict[int, int | str] = {
        commands.COMMAND_FIELD: commands.N_EVENT_REPORT_RSP,
        commands.MESSAGE_ID_BEING_RESPONDED_TO: command.number(commands.MESSAGE_ID) or 0,
        commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
        commands.STATUS: status,
        commands.AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT_SOP_CLASS,
        commands.AFFECTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_SOP_INSTANCE,
    }
    event_type = command.number(commands.EVENT_TYPE_ID)
    if event_type is not None:
        elements[commands.EVENT_TYPE_ID] = event_type
    association.send(message.context_id, commands.encode(elements))
    return status == SUCCESS


def _judge(command: Command) -> int:
    if command.text(commands.AFFECTED_SOP_INSTANCE_UID) != STORAGE_COMMITMENT_SOP_INSTANCE:
        return _NO_SUCH_INSTANCE
    if command.number(commands.EVENT_TYPE_ID) not in (_ALL_COMMITTED, _FAILURES_EXIST):
        return _NO_SUCH_EVENT_TYPE
    return SUCCESS


def _hand_on(data: bytes, transfer_syntax: str, calling_ae_title: str, on_answer: OnAnswer) -> int:
    try:
        answer = report_of(decode(data, transfer_syntax), calling_ae_title)
    except IdentifierError:
        return _PROCESSING_FAILURE
    if answer is None:
        return _INVALID_ARGUMENT
    try:
        on_answer(answer)
    except RouterError:
        return _RESOURCE_LIMITATION
    return SUCCESS


def report_of(data_set: Identifier, calling_ae_title: str) -> CommitmentAnswer | None:
    """The data set of a report (PS3.4 section J.3.3); None without a valid Transaction UID (0008,1195).

    The event type is not believed: the lists count, and a failure more than a commitment to the same instance.
    """
    transaction_uid = data_set.text("TransactionUID")
    if not is_uid(transaction_uid):
        return None
    failed = {}
    for item in data_set.values("FailedSOPSequence"):
        if isinstance(item, Identifier) and is_uid(uid := item.text("ReferencedSOPInstanceUID")):
            failed[uid] = item.number("FailureReason") or _PROCESSING_FAILURE
    committed = {
        uid
        for item in data_set.values("ReferencedSOPSequence")
        if isinstance(item, Identifier) and is_uid(uid := item.text("ReferencedSOPInstanceUID"))
    }
    return CommitmentAnswer(
        transaction_uid=transaction_uid,
        calling_ae_title=calling_ae_title,
        committed=frozenset(committed - failed.keys()),
        failed=failed,
    )
