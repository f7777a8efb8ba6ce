"""An archive for the tests, made of our own acceptor: it answers C-ECHO itself, and the rest by a script."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection

from router.dimse import command as commands
from router.dimse.association import Association, Limits
from router.dimse.pdu import AssociateRequest, ContextReply, RoleSelection
from router.dimse.request import find_identifier
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.errors import WireError


class Call:
    """One C-MOVE, C-GET or C-FIND as the script sees it."""

    def __init__(self, association: Association, context_id: int, message_id: int, field: int) -> None:
        self._association = association
        self._field = field
        self._context_id = context_id
        self.message_id = message_id

    @property
    def association(self) -> Association:
        """The association it came on."""
        return self._association

    def context_of(self, sop_class: str, transfer_syntax: str) -> int | None:
        """The accepted context of a SOP class and transfer syntax."""
        for context in self._association.contexts.values():
            if (context.abstract_syntax, context.transfer_syntax) == (sop_class, transfer_syntax):
                return context.context_id
        return None

    def store(
        self, context_id: int | None, sop_class: str, instance: str, data: bytes, *, number: int = 7
    ) -> commands.Command:
        """A sub-operation of a C-GET: a C-STORE on the same association, and the answer to it."""
        self.send_store(context_id, sop_class, instance, data, number=number)
        message = self._association.receive(time.monotonic() + 10.0)
        assert message is not None
        assert message.command.number(commands.MESSAGE_ID_BEING_RESPONDED_TO) == number
        return message.command

    def send_store(
        self, context_id: int | None, sop_class: str, instance: str, data: bytes, *, number: int = 7
    ) -> None:
        """Only the request of it."""
        self._association.send(
            self._context_id if context_id is None else context_id,
            commands.encode(
                {
                    commands.AFFECTED_SOP_CLASS_UID: sop_class,
                    commands.COMMAND_FIELD: commands.C_STORE_RQ,
                    commands.MESSAGE_ID: number,
                    commands.PRIORITY: 0,
                    commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
                    commands.AFFECTED_SOP_INSTANCE_UID: instance,
                }
            ),
            data,
        )

    def respond(
        self,
        status: int,
        *,
        remaining: int | None = None,
        completed: int | None = None,
        failed: int | None = None,
        warning: int | None = None,
        comment: str = "",
        failed_uids: list[str] | None = None,
        message_id: int | None = None,
    ) -> None:
        """Send a response."""
        counters = {
            commands.REMAINING: remaining,
            commands.COMPLETED: completed,
            commands.FAILED: failed,
            commands.WARNING: warning,
        }
        elements: dict[int, int | str] = {key: value for key, value in counters.items() if value is not None}
        elements |= {
            commands.COMMAND_FIELD: self._field | commands.RESPONSE,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: self.message_id if message_id is None else message_id,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET if failed_uids else commands.NO_DATA_SET,
            commands.STATUS: status,
        }
        if comment:
            elements[commands.ERROR_COMMENT] = comment
        data = None
        if failed_uids:
            implicit = self._association.contexts[self._context_id].transfer_syntax == "1.2.840.10008.1.2"
            data = find_identifier(
                QueryRetrieveLevel.STUDY, Identifier.of(FailedSOPInstanceUIDList=failed_uids), implicit
            )
        self._association.send(self._context_id, commands.encode(elements), data)

    def match(self, identifier: bytes | None) -> None:
        """Send a pending C-FIND-RSP with these bytes."""
        self._association.send(
            self._context_id,
            commands.encode(
                {
                    commands.COMMAND_FIELD: commands.C_FIND_RSP,
                    commands.MESSAGE_ID_BEING_RESPONDED_TO: self.message_id,
                    commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET if identifier is None else commands.DATA_SET,
                    commands.STATUS: 0xFF00,
                }
            ),
            identifier,
        )

    def wait_for_cancel(self, seconds: float = 10.0) -> bool:
        """Whether a C-CANCEL for this request came."""
        message = self._association.receive(time.monotonic() + seconds)
        if message is None:
            return False
        assert message.command.field == commands.C_CANCEL_RQ
        return message.command.number(commands.MESSAGE_ID_BEING_RESPONDED_TO) == self.message_id

    @property
    def alive(self) -> bool:
        """Whether the association stands."""
        return self._association.established

    def close(self) -> None:
        """Drop the connection."""
        self._association.close()


class Archive:
    """Listens on a free port until `stop`. It refuses contexts of `refused` and agrees to no role for `unsent`."""

    def __init__(
        self,
        script: Callable[[Call], None],
        *,
        refused: Collection[str] = (),
        unsent: Collection[str] = (),
        answers_roles: bool = True,
    ) -> None:
        self._script = script
        self._refused = refused
        self._unsent = unsent
        self._answers_roles = answers_roles
        self.requests: list[AssociateRequest] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.close_on_next_message = False
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        roles: list[RoleSelection] = []

        def decide(request: AssociateRequest) -> list[ContextReply]:
            self.requests.append(request)
            if self._answers_roles:
                roles.extend(role._replace(scp=role.sop_class_uid not in self._unsent) for role in request.roles)
            return [
                ContextReply(
                    context.context_id,
                    3 if context.abstract_syntax in self._refused else 0,
                    context.transfer_syntaxes[0],
                )
                for context in request.contexts
            ]

        with connection:
            try:
                association = Association.accept(
                    connection,
                    lambda request, _shown: decide(request),
                    peer="The router",
                    limits=Limits(inactivity=10.0),
                    roles=roles,
                )
                while association.established:
                    self._answer(association)
            except WireError:
                return

    def _answer(self, association: Association) -> None:
        message = association.receive(time.monotonic() + 30.0)
        assert message is not None
        if self.close_on_next_message:
            self.close_on_next_message = False
            association.close()
            return
        message_id = message.command.number(commands.MESSAGE_ID)
        assert message_id is not None
        if message.command.field == commands.C_ECHO_RQ:
            association.send(
                message.context_id,
                commands.encode(
                    {
                        commands.COMMAND_FIELD: commands.C_ECHO_RSP,
                        commands.MESSAGE_ID_BEING_RESPONDED_TO: message_id,
                        commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
                        commands.STATUS: 0,
                    }
                ),
            )
            return
        association.read_data(message.context_id, 1 << 20)
        self._script(Call(association, message.context_id, message_id, message.command.field))

    def drop_connections(self) -> None:
        """Close what is open, as an archive does that dislikes idle associations, and wait until it is."""
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads[1:]:
            thread.join(10)

    def stop(self) -> None:
        """Stop listening and close everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        self._threads[0].join(10)
