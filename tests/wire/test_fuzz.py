"""Conversations that were tampered with, at both sides of the wire: typed errors, no hang, no growth, and no debris.

Whole conversations are composed of true PDUs, put out of order, and then damaged. What was once found to be answered
wrongly is kept among the examples. The codecs on their own are fuzzed beside their tests (test_pdu.py, test_command.py,
test_identifier.py, tests/unit/test_header.py).
"""

from __future__ import annotations

import gc
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.association import Association, Limits
from router.dimse.find import find
from router.dimse.move import move
from router.dimse.operation import MESSAGE_IDS
from router.dimse.pdu import AssociateRequest, ContextReply, ProposedContext
from router.dimse.request import find_identifier
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.exchange import MoveRequest
from router.errors import WireError
from tests.support.process import wait_for
from tests.wire.scu import CT, EXPLICIT, IMPLICIT, SHORT, VERIFICATION, Server, associate, echo, store_command

FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
HANG = 60.0
"""Seconds after which a conversation counts as one that hangs; deadlines of half a second should have ended it."""
GROWTH = 48 << 20
"""Bytes that thousands of conversations may leave behind: what the allocator keeps, not what they sent."""
LARGEST_ANSWER = 256 << 20
"""Bytes of all matches of one query, encoded."""
TAMPERED = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def p_data(*values: tuple[int, int, bytes]) -> bytes:
    """One P-DATA-TF of (context ID, message control header, content)."""
    body = b"".join(
        pdu.PDV_HEADER.pack(len(content) + 2, number, control) + content for number, control, content in values
    )
    return pdu.HEADER.pack(4, len(body)) + body


def request(field: int, *, data: bool, **elements: int | str) -> bytes:
    """The command set of a request."""
    return commands.encode(
        {
            commands.AFFECTED_SOP_CLASS_UID: CT,
            commands.COMMAND_FIELD: field,
            commands.MESSAGE_ID: 1,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET if data else commands.NO_DATA_SET,
        }
    )


def response(field: int, status: int, *, data: bool = False, **counters: int) -> bytes:
    """The command set of a response to the message that is sent next."""
    return commands.encode(
        {
            commands.COMMAND_FIELD: field,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: 1,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET if data else commands.NO_DATA_SET,
            commands.STATUS: status,
            commands.ERROR_COMMENT: "Out of order",
            **{getattr(commands, name.upper()): number for name, number in counters.items()},
        }
    )


def instance(uid: str = "1.2.3.4") -> bytes:
    """A small data set in Explicit VR Little Endian."""

    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        raw = value + b"\0" * (len(value) % 2)
        return group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr + len(raw).to_bytes(2, "little") + raw

    return (
        element(8, 0x16, b"UI", CT.encode())
        + element(8, 0x18, b"UI", uid.encode())
        + element(0x20, 0x0D, b"UI", b"1.2")
        + element(0x20, 0x0E, b"UI", b"1.2.3")
        + b"\xe0\x7f\x10\x00OB\0\0\x64\0\0\0"
        + bytes(100)
    )


MATCH = find_identifier(
    QueryRetrieveLevel.STUDY,
    Identifier.of(StudyInstanceUID="1.2.3", PatientName="Doe^Jane", ModalitiesInStudy="CT", StudyDate="20260102"),
    implicit=True,
)

# damage ---------------------------------------------------------------------------------------------------------------


class Damage(NamedTuple):
    """One thing that is done to the bytes of a conversation; `place` is a share of its length, in 65536ths."""

    kind: str
    place: int
    size: int
    value: bytes


LENGTHS = [(number).to_bytes(4, "big") for number in (0, 1, 2, 5, 6, 7, 0xFFFF, 0x20001, 0x7FFFFFFF, 0xFFFFFFFF)]
damages = st.builds(
    Damage,
    st.sampled_from(["replace", "insert", "remove", "repeat", "cut", "length", "exchange"]),
    st.integers(0, 0xFFFF),
    st.integers(1, 300),
    st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(LENGTHS)),
)


def damaged(stream: bytes, damage: Damage) -> bytes:
    """The bytes after one damage."""
    place = damage.place * len(stream) >> 16
    end = min(place + damage.size, len(stream))
    match damage.kind:
        case "replace":
            return stream[:place] + damage.value + stream[place + len(damage.value) :]
        case "insert":
            return stream[:place] + damage.value + stream[place:]
        case "remove":
            return stream[:place] + stream[end:]
        case "repeat":
            return stream[:end] + stream[place:]
        case "cut":
            return stream[:place]
        case "length":  # of a PDU, or of the value in it
            heads = _heads(stream)
            if not heads:
                return stream
            head = heads[damage.place % len(heads)] + (2 if damage.size % 2 else 6)
            return stream[:head] + damage.value[:4].rjust(4, b"\0") + stream[head + 4 :]
        case _:
            middle = (place + end) // 2
            return stream[:place] + stream[middle:end] + stream[place:middle] + stream[end:]


def _heads(stream: bytes) -> list[int]:
    """Where the PDUs begin."""
    found, position = [], 0
    while position + 6 <= len(stream):
        found.append(position)
        position += 6 + int.from_bytes(stream[position + 2 : position + 6], "big")
    return found


def tampered(parts: list[bytes], choice: list[int], done: list[Damage], start: bytes = b"") -> bytes:
    """A conversation of these parts, damaged."""
    stream = start + b"".join(parts[number % len(parts)] for number in choice)
    for damage in done:
        stream = damaged(stream, damage)
    return stream


choices = st.lists(st.integers(0, 40), max_size=8)
several = st.lists(damages, max_size=4)


def chance(dice: random.Random) -> tuple[list[int], list[Damage]]:
    """Choice and damages without hypothesis, for runs of thousands."""
    kinds = ["replace", "insert", "remove", "repeat", "cut", "length", "exchange"]
    return [dice.randrange(40) for _ in range(dice.randrange(9))], [
        Damage(
            dice.choice(kinds),
            dice.randrange(0x10000),
            dice.randrange(1, 300),
            dice.choice([*LENGTHS, dice.randbytes(dice.randrange(1, 9))]),
        )
        for _ in range(dice.randrange(5))
    ]


# this side is the acceptor --------------------------------------------------------------------------------------------

ASSOCIATE = pdu.encode_associate_request(
    AssociateRequest(
        "ROUTER",
        "EVIL",
        (
            ProposedContext(1, CT, (EXPLICIT,)),
            ProposedContext(3, VERIFICATION, (IMPLICIT,)),
            ProposedContext(5, FIND, (IMPLICIT,)),
        ),
        16384,
    )
)
STORE = store_command("1.2.3.4")
SENT = [
    p_data((1, 3, STORE), (1, 2, instance())),
    p_data((1, 3, STORE)) + p_data((1, 0, instance()[:50])) + p_data((1, 2, instance()[50:])),
    p_data((1, 1, STORE[:20]), (1, 3, STORE[20:]), (1, 0, b""), (1, 2, instance())),
    p_data((1, 3, store_command("1.2.3.4", data=False))),
    p_data((3, 3, request(commands.C_ECHO_RQ, data=False))),
    p_data((3, 3, request(commands.C_ECHO_RQ, data=True)), (3, 2, bytes(50))),
    p_data((1, 3, request(commands.C_FIND_RQ, data=True)), (1, 2, MATCH)),
    p_data((1, 3, request(commands.C_MOVE_RQ, data=True))),
    p_data((1, 3, request(0x0140, data=False))),
    p_data((1, 3, response(commands.C_STORE_RSP, 0))),
    p_data((1, 3, response(commands.C_CANCEL_RQ, 0))),
    p_data((1, 2, instance())),
    pdu.encode_release_request(),
    pdu.encode_release_response(),
    pdu.encode_abort(0, 0),
    ASSOCIATE,
    pdu.encode_associate_reject(1, 1, 1),
]


class Faults(logging.Handler):
    """Collects what the Store SCP says of faults that no typed error stands for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Remember it."""
        self.found.append(record.getMessage())


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    handler = Faults()
    log = logging.getLogger("router.dimse.store_scp")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, faults: Faults) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("fuzz") / "store", inactivity=1.0, **SHORT) as running:
        yield running


def talk(port: int, stream: bytes, *, hang_up: bool) -> None:
    """Say all of it, then nothing more, until the other side has ended the connection; it must."""
    with socket.create_connection(("127.0.0.1", port), HANG) as connection:
        try:
            connection.sendall(stream)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            return


def sound(server: Server, faults: Faults) -> None:
    """Nothing untyped happened, nothing temporary is left, and all that has a final name was acknowledged."""
    server.wait_until_idle(HANG)
    assert faults.found == []
    names = {str(path.relative_to(server.store.root)) for path in server.files()}
    assert names == {receipt.path for receipt in server.receipts}
    assert {path.suffix for path in server.files()} <= {".dcm"}


@TAMPERED
@given(choice=choices, done=several, associated=st.booleans())
@example(choice=[0], done=[], associated=True)
@example(choice=[0], done=[], associated=False)
@example(choice=[4, 12], done=[Damage("length", 1, 2, LENGTHS[-1])], associated=True)
@example(choice=[0, 0, 0], done=[Damage("length", 1, 1, LENGTHS[-2])], associated=True)
@example(choice=[2, 2], done=[Damage("exchange", 0x4000, 200, b"\0")], associated=True)
@example(choice=[12, 12, 0], done=[], associated=True)
@example(choice=[14], done=[Damage("repeat", 0, 300, b"\0")], associated=False)
def test_the_store_scp_survives_any_conversation(
    server: Server, faults: Faults, choice: list[int], done: list[Damage], associated: bool
) -> None:
    talk(server.port, tampered(SENT, choice, done, ASSOCIATE if associated else b""), hang_up=True)
    sound(server, faults)


@settings(TAMPERED, max_examples=12)
@given(choice=choices, done=several)
@example(choice=[0], done=[])
@example(choice=[0], done=[Damage("cut", 0xFF00, 1, b"\0")])
@example(choice=[], done=[Damage("cut", 0x8000, 1, b"\0")])
def test_the_store_scp_ends_a_conversation_that_is_left_open(
    server: Server, faults: Faults, choice: list[int], done: list[Damage]
) -> None:
    """The same without hanging up: the deadlines have to end it."""
    talk(server.port, tampered(SENT, choice, done, ASSOCIATE), hang_up=False)
    sound(server, faults)


def test_thousands_of_conversations_leave_nothing_behind(server: Server, faults: Faults) -> None:
    """No growth without bound: neither memory nor descriptors nor threads; and the next honest peer is served."""
    dice = random.Random(20261123)

    def several_at_random(count: int) -> None:
        for _ in range(count):
            choice, done = chance(dice)
            talk(server.port, tampered(SENT, choice, done, ASSOCIATE), hang_up=True)
        server.events.clear()

    several_at_random(300)
    server.wait_until_idle(HANG)
    before = Resources.now()
    several_at_random(2000)
    sound(server, faults)
    association = associate(server.port)
    assert echo(association) == 0
    association.release(5.0)
    server.wait_until_idle(HANG)
    before.hold()


class Resources(NamedTuple):
    """What this process uses."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def now(cls) -> Resources:
        """As it is now."""
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        return cls(resident, len(list(Path("/proc/self/fd").iterdir())), threading.active_count())

    def hold(self) -> None:
        """Wait until no more is used than then; memory may have grown a little."""

        def over() -> str:
            now = Resources.now()
            return (
                ""
                if now.memory <= self.memory + GROWTH
                and now.descriptors <= self.descriptors
                and now.threads <= self.threads
                else f"{self} became {now}"
            )

        wait_for(lambda: not over(), f"what was used to be given back: {over()}", HANG)


# this side is the requestor -------------------------------------------------------------------------------------------

ACCEPT = pdu.encode_associate_accept(
    AssociateRequest("ROUTER", "EVIL", (), 0),
    [ContextReply(1, 0, IMPLICIT), ContextReply(3, 0, IMPLICIT), ContextReply(5, 0, EXPLICIT)],
    16384,
)
ANSWERED = [
    p_data((1, 3, response(commands.C_FIND_RSP, 0xFF00, data=True)), (1, 2, MATCH)),
    p_data((1, 3, response(commands.C_FIND_RSP, 0xFF01, data=True))) + p_data((1, 2, MATCH)),
    (p_data((1, 3, response(commands.C_FIND_RSP, 0xFF00, data=True))) + p_data((1, 2, MATCH))) * 5,
    p_data((1, 3, response(commands.C_FIND_RSP, 0xFF00, data=True)), (1, 0, MATCH[:9]), (1, 0, b""), (1, 2, MATCH[9:])),
    p_data((1, 3, response(commands.C_FIND_RSP, 0xFF00))),
    p_data((1, 3, response(commands.C_FIND_RSP, 0))),
    p_data((1, 3, response(commands.C_FIND_RSP, 0xA700))),
    p_data((1, 3, response(commands.C_FIND_RSP, 0xFE00, data=True)), (1, 2, MATCH)),
    p_data((3, 3, response(commands.C_MOVE_RSP, 0xFF00, remaining=5, completed=1, failed=0, warning=0))),
    p_data((3, 3, response(commands.C_MOVE_RSP, 0xB000, completed=65535, failed=65535, data=True)), (3, 2, MATCH)),
    p_data((3, 3, response(commands.C_MOVE_RSP, 0))),
    p_data((3, 3, response(commands.C_MOVE_RSP, 0xA801, data=True))),
    p_data((1, 3, response(commands.C_ECHO_RSP, 0))),
    p_data((5, 3, STORE), (5, 2, instance())),
    pdu.encode_release_request(),
    pdu.encode_release_response(),
    pdu.encode_abort(2, 6),
    pdu.encode_associate_reject(1, 1, 7),
    ACCEPT,
]
HURRIED = Limits(connect=5.0, negotiation=0.5, pdu=0.5, inactivity=0.5)
PATIENT = Limits(connect=20.0, negotiation=20.0, pdu=20.0, inactivity=20.0)
"""For conversations that must end well, however busy the machine is."""
ASKED = AssociateRequest(
    "EVIL",
    "ROUTER",
    (ProposedContext(1, FIND, (IMPLICIT,)), ProposedContext(3, MOVE, (IMPLICIT,)), ProposedContext(5, CT, (EXPLICIT,))),
    16384,
)


class Impostor:
    """An acceptor that answers each connection with the same bytes, whatever it is asked."""

    def __init__(self) -> None:
        self.stream = b""
        self.again = b""
        self.times = 0
        """How often `again` is sent after it, unless the other side has enough before."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(HANG)
                try:
                    connection.recv(6)
                    connection.sendall(self.stream)
                    sent = 0
                    while sent < self.times:
                        connection.sendall(self.again)
                        sent += 1
                    if sent:
                        connection.sendall(p_data((1, 3, response(commands.C_FIND_RSP, 0))))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    continue

    def close(self) -> None:
        """Stop it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(HANG)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def impostor() -> Iterator[Impostor]:
    running = Impostor()
    yield running
    running.close()


MAXIMUM = 20


def query(association: Association, inactivity: float = 0.5, total: float = 2.0) -> None:
    """C-FIND."""
    result = find(
        association,
        association.contexts[1],
        MATCH,
        inactivity=inactivity,
        total=total,
        maximum=MAXIMUM,
        cancelled=threading.Event(),
    )
    assert len(result.identifiers) <= MAXIMUM
    assert len(result.error_comment) <= 64
    assert all(isinstance(found, Identifier) for found in result.identifiers)


def patient_query(association: Association) -> None:
    """C-FIND, of an archive that may take its time."""
    query(association, inactivity=20.0, total=60.0)


def retrieve(association: Association) -> None:
    """C-MOVE."""
    wanted = MoveRequest(destination_ae_title="ROUTER", level=QueryRetrieveLevel.STUDY, study_instance_uid="1.2.3")
    result = move(
        association,
        association.contexts[3],
        wanted,
        MATCH,
        inactivity=0.5,
        total=2.0,
        on_response=lambda progress: None,
        last_arrival=lambda: 0.0,
        cancelled=threading.Event(),
    )
    assert 0 <= result.status <= 0xFFFF
    assert len(result.error_comment) <= 64


def ask(port: int, service: Callable[[Association], None], limits: Limits = HURRIED) -> bool:
    """Whether the service came to a result; a WireError is one of the ways it may not, anything else is raised."""
    began = time.monotonic()
    try:
        association = Association.request("127.0.0.1", port, ASKED, peer="The impostor", limits=limits)
        try:
            if not {1, 3} <= set(association.contexts):
                return False
            MESSAGE_IDS._last = 0  # so that the answers made beforehand are answers to this request
            service(association)
        finally:
            association.abort()
    except WireError:
        return False
    finally:
        assert time.monotonic() - began < HANG
    return True


SERVICES = {"find": query, "move": retrieve}
services = pytest.mark.parametrize("service", SERVICES)


@services
@TAMPERED
@given(choice=choices, done=several)
@example(choice=[0, 5], done=[])
@example(choice=[8, 10], done=[])
@example(choice=[4] * 8, done=[])
@example(choice=[2, 2, 2, 2, 2], done=[])
@example(choice=[0, 5], done=[Damage("length", 3, 2, LENGTHS[-1])])
@example(choice=[9], done=[Damage("replace", 0xFFF0, 1, b"\xff\xff\xff\xff")])
@example(choice=[7, 7], done=[Damage("repeat", 0x8000, 300, b"\0")])
def test_requests_survive_any_answer(impostor: Impostor, service: str, choice: list[int], done: list[Damage]) -> None:
    impostor.stream = tampered(ANSWERED, choice, done, ACCEPT)
    ask(impostor.port, SERVICES[service])


@services
def test_thousands_of_answers_leave_nothing_behind(impostor: Impostor, service: str) -> None:
    dice = random.Random(20261123)
    results = 0

    def several_at_random(count: int) -> int:
        successes = 0
        for _ in range(count):
            choice, done = chance(dice)
            impostor.stream = tampered(ANSWERED, choice, done, ACCEPT)
            successes += ask(impostor.port, SERVICES[service])
        return successes

    several_at_random(300)
    before = Resources.now()
    results = several_at_random(1500)
    assert results > 30, "some conversations are whole enough to be served"
    before.hold()


@TAMPERED
@given(done=several, count=st.integers(1, 4))
@example(done=[Damage("replace", 0x2000, 1, b"\xff\xff\xff\xff")], count=1)
@example(done=[Damage("replace", 0x2000, 1, b"\xfe\xff\x00\xe0")], count=3)
def test_queries_survive_identifiers_that_are_damaged(impostor: Impostor, done: list[Damage], count: int) -> None:
    """In sound PDUs and responses, so that the damage reaches what decodes identifiers."""
    identifier = MATCH
    for damage in done:
        identifier = damaged(identifier, damage)
    head = response(commands.C_FIND_RSP, 0xFF00, data=True)
    impostor.stream = ACCEPT + p_data((1, 3, head), (1, 2, identifier)) * count
    impostor.stream += p_data((1, 3, response(commands.C_FIND_RSP, 0)))
    assert ask(impostor.port, patient_query, PATIENT), "a match that cannot be read ends no query"


@pytest.mark.parametrize(("size", "times"), [(2 << 20, 200), (0, 200_000)], ids=["big matches", "many matches"])
def test_an_answer_that_is_too_much_is_cancelled(
    impostor: Impostor, monkeypatch: pytest.MonkeyPatch, size: int, times: int
) -> None:
    """What one query may bring is bounded in number and in bytes; what came is then not the whole answer."""
    monkeypatch.setattr("router.dimse.find.CANCEL_GRACE", 0.2)
    comment = b"\x08\x00\x81\x10" + size.to_bytes(4, "little") + b"A" * size  # (0008,1081)
    parts = [comment[start : start + 100_000] for start in range(0, len(comment), 100_000)]
    values = [(1, 0, part) for part in parts[:-1]] + [(1, 2, parts[-1])]
    head = p_data((1, 3, response(commands.C_FIND_RSP, 0xFF00, data=True)))
    impostor.stream, impostor.again, impostor.times = ACCEPT, head + b"".join(map(p_data, values)), times
    association = Association.request("127.0.0.1", impostor.port, ASKED, peer="The impostor", limits=HURRIED)
    MESSAGE_IDS._last = 0
    try:
        result = find(
            association,
            association.contexts[1],
            MATCH,
            inactivity=10.0,
            total=60.0,
            maximum=100_000,
            cancelled=threading.Event(),
        )
    finally:
        impostor.times = 0
        association.abort()
    assert result.status == 0xFE00
    assert 0 < len(result.identifiers) <= 100_000
    assert len(result.identifiers) * size <= LARGEST_ANSWER
