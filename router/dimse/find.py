"""C-FIND as SCU, PS3.4 section C.4.1 and PS3.7 section 9.1.2."""

from __future__ import annotations

import threading

from router.dimse import command as commands
from router.dimse.association import Association, Context
from router.dimse.identifier import Decoder, IdentifierError
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
from router.domain.dicom import Identifier
from router.domain.exchange import FindResult
from router.errors import Cancelled, DeadlineExceeded, WireError

MAXIMUM_IDENTIFIER = 4 << 20
"""Bytes of one match."""
MAXIMUM_ANSWER = 256 << 20
"""Bytes of all matches of one query; more are cancelled, as more than were asked for are."""
_OPTIONAL_KEYS_UNSUPPORTED = 0xFF01


def find(
    association: Association,
    context: Context,
    identifier: bytes,
    *,
    inactivity: float,
    total: float,
    maximum: int,
    cancelled: threading.Event,
    assume_character_set: str = "",
) -> FindResult:
    """Send C-FIND with an encoded identifier and collect at most `maximum` matches; more are cancelled.

    Raises DeadlineExceeded after `inactivity` seconds without a response or `total` seconds in all, Cancelled where
    `cancelled` was set, and what `Association.receive` raises.
    """
    with MESSAGE_IDS.one() as message_id:
        association.send(
            context.context_id,
            commands.encode(
                {
                    commands.AFFECTED_SOP_CLASS_UID: context.abstract_syntax,
                    commands.COMMAND_FIELD: commands.C_FIND_RQ,
                    commands.MESSAGE_ID: message_id,
                    commands.PRIORITY: 0,
                    commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
                }
            ),
            identifier,
        )
        return _Collector(association, context, message_id, maximum, assume_character_set).run(
            inactivity, total, cancelled
        )


class _Collector:
    def __init__(
        self, association: Association, context: Context, message_id: int, maximum: int, character_set: str
    ) -> None:
        self._association = association
        self._context = context
        self._message_id = message_id
        self._maximum = maximum
        self._decode = Decoder(context.transfer_syntax, character_set).decode
        self._matches: list[Identifier] = []
        self._size = 0
        self._undecodable = 0
        self._optional = False

    def run(self, inactivity: float, total: float, cancelled: threading.Event) -> FindResult:
        association = self._association
        started = heard = now()
        while True:
            moment = now()
            if cancelled.is_set():
                self._cancel()
                raise Cancelled(f"The query of {association.peer} was cancelled.")
            if moment > heard + inactivity or moment > started + total:
                self._cancel()
                waited = f"{inactivity:g} s of silence" if moment > heard + inactivity else f"{total:g} s"
                raise DeadlineExceeded(f"{association.peer} did not finish a C-FIND; given up after {waited}.")
            message = association.receive(min(moment + TICK, heard + inactivity))
            if message is None:
                continue
            heard = moment
            status = response(association, message, self._context, commands.C_FIND_RSP, self._message_id)
            if status not in PENDING:
                return self._result(status, self._finish(message.command))
            self._optional |= status == _OPTIONAL_KEYS_UNSUPPORTED
            if not message.command.has_data:
                self._undecodable += 1
                continue
            data: bytes | None = association.read_data(message.context_id, MAXIMUM_IDENTIFIER)
            while data is not None:
                self._size += len(data)
                if len(self._matches) >= self._maximum or self._size > MAXIMUM_ANSWER:
                    return self._result(CANCELLED, self._cancel())
                self._add(data)
                data = association.repeated()

    def _add(self, data: bytes) -> None:
        try:
            self._matches.append(self._decode(data))
        except IdentifierError:
            self._undecodable += 1

    def _finish(self, command: commands.Command) -> str:
        if command.has_data:
            self._association.read_data(self._context.context_id, MAXIMUM_IDENTIFIER)
        return scrub(command.text(commands.ERROR_COMMENT))

    def _result(self, status: int, comment: str) -> FindResult:
        return FindResult(
            identifiers=self._matches,
            status=status,
            error_comment=comment,
            undecodable=self._undecodable,
            optional_keys_unsupported=self._optional,
        )

    def _cancel(self) -> str:
        """C-CANCEL; what still comes is dropped until the final response or the end of the grace, then abort."""
        association = self._association
        try:
            send_cancel(association, self._context, self._message_id)
            deadline = now() + CANCEL_GRACE
            while (moment := now()) < deadline:
                message = association.receive(min(moment + TICK, deadline))
                if message is None:
                    continue
                status = response(association, message, self._context, commands.C_FIND_RSP, self._message_id)
                comment = self._finish(message.command)
                if status not in PENDING:
                    return comment
        except WireError:
            return ""  # some peers abort instead; what was asked for is over in any case
        association.abort()
        return ""
