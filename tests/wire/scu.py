"""A sender for the tests: C-STORE and raw bytes over our own Association, and a Store SCP with short deadlines."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from router.dimse import command as commands
from router.dimse.association import Association, Limits
from router.dimse.pdu import AssociateRequest, ProposedContext
from router.dimse.store_scp import Accepted, Rejected, ServerSettings, StoreServer
from router.domain.events import Event
from router.domain.receipt import Receipt
from router.objects import ObjectStore
from tests.support.process import wait_for

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
PATIENT = Limits(negotiation=10.0, pdu=10.0, inactivity=10.0)
SHORT = {"negotiation": 0.5, "pdu": 0.5, "stall": 0.5}
"""Deadlines of tests with silent peers."""


class Server(StoreServer):
    """A Store SCP on a free port that remembers what it was told."""

    def __init__(
        self,
        root: Path,
        *,
        sink: Any = None,
        policy: Any = None,
        on_receipt: Any = None,
        on_answer: Any = None,
        **settings: Any,
    ):
        self.events: list[Event] = []
        self.receipts: list[Receipt] = []
        self.store = ObjectStore(root)
        super().__init__(
            ServerSettings(**{"host": "127.0.0.1", "port": 0, **settings}),
            sink or self.store,
            policy=policy or (lambda *who: Accepted("other")),
            on_receipt=on_receipt or self.receipts.append,
            observer=self.events.append,
            on_answer=on_answer,
        )

    def events_of(self, kind: type[Event]) -> list[Any]:
        """The events of a class so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def wait_until_idle(self, seconds: float = 20.0) -> None:
        """Until no connection is left."""
        wait_for(lambda: not self._established and not self._waiting, "all connections gone", seconds)

    def files(self) -> list[Path]:
        """All files in the store, temporary ones too."""
        return sorted(path for path in self.store.root.rglob("*") if path.is_file() and path.name != ".store")

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(5.0)
        self.store.close()


def reject_all(*who: object) -> Rejected:
    """A policy."""
    return Rejected(1, 1, 3)


def associate(
    port: int,
    contexts: Iterable[tuple[str, tuple[str, ...]]] = ((CT, (EXPLICIT,)), (VERIFICATION, (IMPLICIT,))),
    *,
    calling: str = "SENDER",
    limits: Limits = PATIENT,
) -> Association:
    """An association with these abstract and transfer syntaxes; context IDs 1, 3, 5 ..."""
    proposed = tuple(ProposedContext(2 * number + 1, *context) for number, context in enumerate(contexts))
    request = AssociateRequest("ROUTER", calling, proposed, 16384)
    return Association.request("127.0.0.1", port, request, peer="The server", limits=limits)


def store_command(instance: str, sop_class: str = CT, *, message_id: int = 1, data: bool = True) -> bytes:
    """The command set of a C-STORE-RQ."""
    elements: dict[int, int | str] = {
        commands.AFFECTED_SOP_CLASS_UID: sop_class,
        commands.COMMAND_FIELD: commands.C_STORE_RQ,
        commands.MESSAGE_ID: message_id,
        commands.PRIORITY: 0,
        commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET if data else commands.NO_DATA_SET,
        commands.AFFECTED_SOP_INSTANCE_UID: instance,
    }
    return commands.encode({key: value for key, value in elements.items() if value != ""})


def answer(association: Association, seconds: float = 10.0) -> commands.Command:
    """The next response."""
    message = association.receive(time.monotonic() + seconds)
    assert message is not None
    return message.command


def store(
    association: Association, instance: str, data: bytes | None, sop_class: str = CT, context_id: int = 1
) -> commands.Command:
    """Send one instance; the response."""
    association.send(context_id, store_command(instance, sop_class, data=data is not None), data)
    return answer(association)


def echo(association: Association, context_id: int = 3) -> int:
    """C-ECHO; the status."""
    association.send(
        context_id,
        commands.encode(
            {
                commands.COMMAND_FIELD: commands.C_ECHO_RQ,
                commands.MESSAGE_ID: 7,
                commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
            }
        ),
    )
    return answer(association).status


def raw(port: int) -> socket.socket:
    """A bare connection."""
    connection = socket.create_connection(("127.0.0.1", port), 10.0)
    connection.settimeout(10.0)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """What the other side sends until it closes."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


Scenario = Callable[[socket.socket], None]
