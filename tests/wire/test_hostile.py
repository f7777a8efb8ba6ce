"""Peers that are silent, drip, lie about lengths, talk nonsense: at the Store SCP and at the requestor."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.association import Association, Limits
from router.dimse.pdu import AssociateRequest, ContextReply, ProposedContext
from router.dimse.store_scp import ServerSettings
from router.domain.access import Admission
from router.errors import (
    AssociationAborted,
    AssociationRejected,
    ConnectionFailed,
    ConnectionLost,
    DeadlineExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    WireError,
)
from router.receiver_words import ReceiverSettings
from router.receiving import Receivers
from tests.support.part10 import dataset_bytes
from tests.support.process import wait_for
from tests.support.samples import StudyFiles
from tests.wire.scu import CT, EXPLICIT, SHORT, Server, associate, echo, raw, read_all, store, store_command

REQUEST = pdu.encode_associate_request(
    AssociateRequest("ROUTER", "EVIL", (ProposedContext(1, CT, (EXPLICIT,)),), 16384)
)
ABORT = 7


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "store", inactivity=2.0, **SHORT) as running:
        yield running


def p_data(*values: tuple[int, int, bytes]) -> bytes:
    body = b"".join(
        struct.pack(">LBB", len(content) + 2, number, control) + content for number, control, content in values
    )
    return pdu.HEADER.pack(4, len(body)) + body


def established(port: int) -> socket.socket:
    """A bare connection with an association on it."""
    connection = raw(port)
    connection.sendall(REQUEST)
    head = connection.recv(6, socket.MSG_WAITALL)
    assert head[0] == 2
    connection.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
    return connection


def refused(connection: socket.socket, parts: Iterable[bytes], pause: float = 0.0) -> bool:
    """Send the parts one by one; whether the other side ended the connection meanwhile."""
    try:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
    except OSError:
        return True
    return False


COMMAND = store_command("1.2.3")
WRONG_BEFORE_AN_ASSOCIATION = {
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown PDU": b"\x99\x00\x00\x00\x00\x04abcd",
    "4 GiB": b"\x01\x00\xff\xff\xff\xff",
    "data before an association": p_data((1, 3, COMMAND)),
    "a release before an association": pdu.encode_release_request(),
    "an accept": pdu.encode_associate_accept(AssociateRequest("A", "B", (), 0), [], 0),
    "a request without content": pdu.HEADER.pack(1, 0),
    "a request with items that are too long": pdu.HEADER.pack(1, len(REQUEST) - 26) + REQUEST[6:-20],
    "a request with no room for data": pdu.encode_associate_request(AssociateRequest("A", "B", (), 5)),
}
WRONG_IN_AN_ASSOCIATION = {
    "a second request": REQUEST,
    "a longer PDU than allowed": pdu.HEADER.pack(4, 131073),
    "a PDU of 4 GiB": pdu.HEADER.pack(4, 0xFFFFFFFF),
    "an empty PDU": pdu.HEADER.pack(4, 0),
    "a context that was not accepted": p_data((9, 3, COMMAND)),
    "a value longer than its PDU": pdu.HEADER.pack(4, 10) + struct.pack(">LBB", 100, 1, 3) + b"abcd",
    "a value without its header": pdu.HEADER.pack(4, 6) + struct.pack(">LBB", 1, 1, 3),
    "a cut value header": pdu.HEADER.pack(4, 8) + struct.pack(">LBB", 2, 1, 1) + b"\0\0",
    "data without a command": p_data((1, 2, b"data")),
    "a command that is none": p_data((1, 3, b"not a command set")),
    "an empty command": p_data((1, 3, b"")),
    "a data set in the middle of a command": p_data((1, 1, COMMAND[:10]), (1, 2, b"data")),
    "a command in the middle of a data set": p_data((1, 3, COMMAND), (1, 0, b"data"), (1, 3, COMMAND)),
    "another context in the middle of a data set": p_data((1, 3, COMMAND), (1, 0, b"data"), (3, 2, b"data")),
    "a release response nobody asked for": pdu.encode_release_response(),
    "a rejection": pdu.encode_associate_reject(1, 1, 1),
}


@pytest.mark.parametrize("case", WRONG_BEFORE_AN_ASSOCIATION)
def test_what_is_wrong_before_an_association_is_aborted(server, case):
    with raw(server.port) as connection:
        connection.sendall(WRONG_BEFORE_AN_ASSOCIATION[case])
        assert read_all(connection)[0] == ABORT
    server.wait_until_idle()


@pytest.mark.parametrize("case", WRONG_IN_AN_ASSOCIATION)
def test_what_is_wrong_in_an_association_is_aborted(server, case):
    with established(server.port) as connection:
        connection.sendall(WRONG_IN_AN_ASSOCIATION[case])
        assert read_all(connection)[0] == ABORT
    server.wait_until_idle()
    assert server.files() == []


def test_a_command_without_end_is_aborted(server):
    with established(server.port) as connection:
        fragment = p_data((1, 1, bytes(16000)))
        assert refused(connection, [fragment] * 1000)
    server.wait_until_idle()


def silent(connection: socket.socket) -> None:
    """Nothing at all."""


def half_a_header(connection: socket.socket) -> None:
    connection.sendall(REQUEST[:3])


def half_a_request(connection: socket.socket) -> None:
    connection.sendall(REQUEST[:50])


def half_a_pdu(connection: socket.socket) -> None:
    connection.sendall(REQUEST + pdu.HEADER.pack(4, 1000) + bytes(10))


def half_a_command(connection: socket.socket) -> None:
    connection.sendall(REQUEST + p_data((1, 1, COMMAND[:10])))


def half_a_data_set(connection: socket.socket) -> None:
    connection.sendall(REQUEST + p_data((1, 3, COMMAND), (1, 0, bytes(1000))))


def nothing_after_the_association(connection: socket.socket) -> None:
    connection.sendall(REQUEST)


@pytest.mark.parametrize(
    "behaviour",
    [
        silent,
        half_a_header,
        half_a_request,
        half_a_pdu,
        half_a_command,
        half_a_data_set,
        nothing_after_the_association,
    ],
)
def test_whoever_stops_is_gone_after_the_deadline_and_leaves_nothing(server, behaviour):
    with raw(server.port) as connection:
        behaviour(connection)
        read_all(connection)
    server.wait_until_idle()
    assert server.files() == []


@pytest.mark.parametrize("start", [b"", REQUEST], ids=["the request", "data"])
def test_a_byte_at_a_time_does_not_stretch_the_deadline(server, start):
    content = REQUEST if not start else pdu.HEADER.pack(4, 5000) + bytes(5000)
    with raw(server.port) as connection:
        connection.sendall(start)
        began = time.monotonic()
        assert refused(connection, (bytes([byte]) for byte in content * 100), pause=0.02)
        assert time.monotonic() - began < 60.0
    server.wait_until_idle()


def test_a_data_set_that_trickles_in_whole_pdus_ends_too(server):
    with established(server.port) as connection:
        connection.sendall(p_data((1, 3, COMMAND)))
        assert refused(connection, [p_data((1, 0, b"ab"))] * 1000, pause=0.02)
    server.wait_until_idle()
    assert server.files() == []


def four_gigabytes(connection: socket.socket) -> None:
    connection.sendall(WRONG_BEFORE_AN_ASSOCIATION["4 GiB"])


def four_gigabytes_of_data(connection: socket.socket) -> None:
    connection.sendall(p_data((1, 3, COMMAND)) + WRONG_IN_AN_ASSOCIATION["a PDU of 4 GiB"])


def half_a_pdu_of_data(connection: socket.socket) -> None:
    connection.sendall(p_data((1, 3, COMMAND)) + pdu.HEADER.pack(4, 100_000) + bytes(50_000))


DRIPPING_REQUEST = [bytes([byte]) for byte in REQUEST]
DRIPPING_DATA = [p_data((1, 3, COMMAND)) + pdu.HEADER.pack(4, 5000), *[b"\0"] * 5000]
HOSTILE = {silent: 56, half_a_request: 30, four_gigabytes: 30}
HOSTILE_IN_AN_ASSOCIATION = {half_a_pdu_of_data: 18, four_gigabytes_of_data: 18}
DRIPPING, DRIPPING_IN_AN_ASSOCIATION = 30, 18
"""Together two hundred; those in an association are fewer than the router takes at once, for it counts them."""


class Usage(NamedTuple):
    """What a process uses."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        proc = Path(f"/proc/{pid}")
        resident = int((proc / "statm").read_text().split()[1]) * 4096
        return cls(resident, len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir())))


def forget_peak(pid: int) -> None:
    """Let the peak of its memory begin anew (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(pid: int) -> int:
    """The most it has used since."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


class Drips:
    """Sends each connection its next part once a second, until all of them have ended or `stop`."""

    def __init__(self) -> None:
        self.ended = 0
        self._left: list[tuple[socket.socket, Iterator[bytes]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def add(self, connection: socket.socket, parts: Iterable[bytes]) -> None:
        self._left.append((connection, iter(parts)))

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while True:
            for drip in list(self._left):
                connection, parts = drip
                try:
                    connection.sendall(next(parts))
                except OSError:
                    self.ended += 1
                    self._left.remove(drip)
            if self._stop.wait(1.0):
                return

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receivers]:
    """A receiver as the router runs it, in a process of its own, with deadlines that a test can wait for."""
    settings = ReceiverSettings(
        ae_title="ROUTER",
        server=ServerSettings(host="127.0.0.1", port=0, negotiation=4.0, pdu=4.0, stall=4.0, inactivity=4.0),
        store=str(tmp_path / "store"),
        durability="fsync",
        minimum_free=0,
        callers={"SENDER": Admission(node="sender"), "EVIL": Admission(node="evil")},
    )
    receivers = Receivers(
        settings,
        1,
        on_receipts=lambda receipts: None,
        asked=lambda title, study: True,
        observer=lambda event: None,
        on_loss=lambda: None,
        trouble=lambda what, error: None,
    )
    receivers.start()
    yield receivers
    receivers.stop(5.0)


def send_all(port: int, made: StudyFiles) -> None:
    association = associate(port)
    for path, uid in made.sop_instance_uids.items():
        assert store(association, uid, dataset_bytes(path)).status == 0
    association.release(5.0)


def test_an_honest_sender_is_served_beside_two_hundred_hostile_ones(receiver, tmp_path, study):
    (pid,) = receiver.pids
    made = study(instances=20, rows=128)
    send_all(receiver.port, study(instances=3))
    idle = Usage.of(pid)
    wait_for(lambda: Usage.of(pid).threads < idle.threads or idle.threads <= 4, "the first association to end")
    idle = Usage.of(pid)
    forget_peak(pid)

    drips = Drips()
    with contextlib.ExitStack() as hostile:
        connections = []

        def another(connection: socket.socket) -> socket.socket:
            connections.append(hostile.enter_context(connection))
            return connection

        for behaviour, count in HOSTILE_IN_AN_ASSOCIATION.items():
            for _ in range(count):
                behaviour(another(established(receiver.port)))
        for _ in range(DRIPPING_IN_AN_ASSOCIATION):
            drips.add(another(established(receiver.port)), DRIPPING_DATA)
        for behaviour, count in HOSTILE.items():
            for _ in range(count):
                behaviour(another(raw(receiver.port)))
        for _ in range(DRIPPING):
            drips.add(another(raw(receiver.port)), DRIPPING_REQUEST)
        assert len(connections) == 200
        drips.start()

        send_all(receiver.port, made)
        there = Usage.of(pid).threads - idle.threads
        assert there >= 200 - 30 - 18, "all were still there, but for those that announced 4 GiB, who may be gone"

        # All of them go, though some never stop to drip, and none is told to.
        wait_for(lambda: Usage.of(pid).threads <= idle.threads, "the hostile connections to be ended")
        for connection in connections:
            read_all(connection)
        wait_for(lambda: drips.ended == DRIPPING + DRIPPING_IN_AN_ASSOCIATION, "the drips to run into the end")
        drips.stop()
        wait_for(lambda: Usage.of(pid).descriptors <= idle.descriptors, "the descriptors to be given back")
        assert peak_memory(pid) <= idle.memory + (64 << 20)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != ".store"]
    assert len(files) == 23 and {path.suffix for path in files} == {".dcm"}
    send_all(receiver.port, made)
    assert receiver.pids == [pid]


def test_the_oldest_silent_connection_makes_room(tmp_path):
    with Server(tmp_path / "store", maximum_waiting=5) as server:
        bad = [raw(server.port) for _ in range(20)]
        association = associate(server.port)
        assert echo(association) == 0
        association.release(5.0)
        assert read_all(bad[0]) == b""
        for connection in bad:
            connection.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=300), associated=st.booleans())
def test_random_bytes_never_harm(server, garbage, associated):
    with raw(server.port) as connection:
        connection.sendall((REQUEST if associated else b"") + garbage)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    association = associate(server.port)
    assert echo(association) == 0
    association.release(5.0)
    assert server.files() == []


# as requestor -------------------------------------------------------------------------------------------------------


class Peer:
    """A scripted acceptor: `script` gets each connection."""

    def __init__(self, script) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._script = script
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(10.0)
        with connection:
            self._script(connection)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.join(15)
        self._listener.close()
        assert not self._thread.is_alive()


def replies(*parts: bytes):
    """A script: take the request, send these, read until the end."""

    def script(connection: socket.socket) -> None:
        _take(connection)
        for part in parts:
            connection.sendall(part)
        read_all(connection)

    return script


def _take(connection: socket.socket) -> bytes:
    head = connection.recv(6, socket.MSG_WAITALL)
    return connection.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)


SHORTLY = Limits(connect=0.5, negotiation=0.5, pdu=0.5, inactivity=0.5)
ASKED = AssociateRequest("ROUTER", "SENDER", (), 0)
ACCEPT = pdu.encode_associate_accept(ASKED, [ContextReply(1, 0, EXPLICIT)], 16384)


def ask(port: int) -> Association:
    return associate(port, [(CT, (EXPLICIT,))], limits=SHORTLY)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((1, 1, 1), "without a reason"),
        ((1, 1, 2), "application context"),
        ((1, 1, 3), "rejected this router's AE title SENDER; register it there"),
        ((1, 1, 7), "does not answer to the AE title ROUTER; correct ae_title"),
        ((2, 1, 1), "says that this is temporary"),
        ((1, 2, 1), "in its upper layer"),
        ((1, 2, 2), "another version"),
        ((2, 3, 1), "congested"),
        ((2, 3, 2), "no association left"),
        ((1, 1, 9), "result 1, source 1, reason 9"),
        ((7, 7, 7), "result 7, source 7, reason 7"),
    ],
)
def test_each_rejection_is_a_sentence_that_says_what_to_do(numbers, words):
    with Peer(replies(pdu.encode_associate_reject(*numbers))) as peer:
        with pytest.raises(AssociationRejected, match=f"The server .*{words}") as caught:
            ask(peer.port)
        assert (caught.value.result, caught.value.source, caught.value.reason) == numbers
        assert caught.value.cause == "rejected-{}-{}-{}".format(*numbers)


@pytest.mark.parametrize(
    ("part", "error", "words"),
    [
        (
            pdu.encode_abort(0, 0),
            AssociationAborted,
            "aborted .*Does it accept SENDER as calling AE title, and is ROUTER its own",
        ),
        (b"\x15\x03\x01\x00\x02\x02\x46", RemoteProtocolError, "does it want `tls: true`"),
        (pdu.encode_abort(2, 6), AssociationAborted, "because of an invalid PDU parameter"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", RemoteProtocolError, "not a DICOM PDU; is the port right"),
        (pdu.HEADER.pack(2, 0xFFFFFFFF), RemoteProtocolError, "length"),
        (pdu.HEADER.pack(3, 5) + bytes(5), RemoteProtocolError, "length"),
        (pdu.encode_release_response(), RemoteProtocolError, "A-RELEASE-RP PDU at a moment"),
        (p_data((1, 3, b"")), RemoteProtocolError, "P-DATA-TF PDU at a moment"),
        (ACCEPT[:20], DeadlineExceeded, "stopped sending"),
        (b"", DeadlineExceeded, "did not answer the association request within 0.5 s"),
        (
            pdu.encode_associate_accept(ASKED, [ContextReply(1, 0, "1.2.840.10008.1.2.4.50")], 0),
            RemoteProtocolError,
            "was not proposed",
        ),
        (pdu.encode_associate_accept(ASKED, [], 3), RemoteProtocolError, "no useful length"),
    ],
)
def test_what_goes_wrong_in_negotiation_is_a_typed_sentence(part, error, words):
    with Peer(replies(part)) as peer, pytest.raises(error, match=f"The server .*{words}"):
        ask(peer.port)


def test_a_peer_that_hangs_up(study):
    with Peer(lambda connection: None) as peer, pytest.raises(WireError, match=r"The server closed .* `tls: true`"):
        ask(peer.port)


def test_addresses_that_lead_nowhere():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(ConnectionFailed, match="refused the connection; is it running"):
        ask(free)
    with pytest.raises(ConnectionFailed, match="does not resolve"):
        Association.request("no-such-host.invalid", 104, ASKED, peer="The server", limits=SHORTLY)


def test_contexts_that_were_not_accepted_are_left_out():
    answers = [ContextReply(1, 3, ""), ContextReply(3, 0, EXPLICIT), ContextReply(99, 0, EXPLICIT)]
    with Peer(replies(pdu.encode_associate_accept(ASKED, answers, 0))) as peer:
        association = associate(peer.port, [(CT, (EXPLICIT,)), ("1.2.3", (EXPLICIT,))], limits=SHORTLY)
        assert list(association.contexts) == [3]
        assert association.context_for(CT) is None
        assert association.context_for("1.2.3") is not None
        association.abort()


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (pdu.encode_abort(0, 0), AssociationAborted),
        (pdu.encode_release_request(), ConnectionLost),
        (p_data((1, 3, b"rubbish")), RemoteProtocolError),
        (p_data((5, 3, COMMAND)), RemoteProtocolError),
        (pdu.HEADER.pack(4, 70000) + bytes(70000), DeadlineExceeded),
        (pdu.HEADER.pack(4, 200000), RemoteProtocolError),
        (p_data((1, 1, COMMAND[:20])), DeadlineExceeded),
        (ACCEPT, RemoteProtocolError),
    ],
)
def test_what_goes_wrong_while_waiting_for_a_response(part, error):
    cut = part[:-1000] if len(part) > 60000 else part
    with Peer(replies(ACCEPT, cut)) as peer:
        association = ask(peer.port)
        with pytest.raises(error):
            association.receive(time.monotonic() + 10.0)
        assert not association.established
        with pytest.raises(LocalProtocolError):
            association.send(1, COMMAND)
        association.abort()


def test_no_response_is_none_and_not_an_error():
    with Peer(replies(ACCEPT)) as peer:
        association = ask(peer.port)
        assert association.receive(time.monotonic() + 0.05) is None
        assert association.quiet
        association.abort()


def test_a_peer_that_takes_no_data_ends_the_send():
    stop = threading.Event()

    def deaf(connection: socket.socket) -> None:
        _take(connection)
        connection.sendall(ACCEPT)
        stop.wait(15)

    with Peer(deaf) as peer:
        association = ask(peer.port)
        with pytest.raises(DeadlineExceeded, match="stopped taking data"):
            association.send(1, COMMAND, bytes(64 << 20))
        stop.set()


def test_a_release_nobody_answers_ends():
    with Peer(replies(ACCEPT)) as peer:
        association = ask(peer.port)
        with pytest.raises(DeadlineExceeded, match="release"):
            association.release(0.2)


def test_a_release_collision_is_resolved():
    """PS3.8 section 7.2.2.4: both ask at once; the requestor answers first."""
    seen: list[bytes] = []

    def collide(connection: socket.socket) -> None:
        _take(connection)
        connection.sendall(ACCEPT + pdu.encode_release_request())
        seen.append(connection.recv(10, socket.MSG_WAITALL))
        seen.append(connection.recv(10, socket.MSG_WAITALL))
        connection.sendall(pdu.encode_release_response())
        read_all(connection)

    with Peer(collide) as peer:
        association = ask(peer.port)
        association.release(5.0)
    assert [part[0] for part in seen] == [5, 6]


def test_data_that_crosses_a_release_request_is_dropped():
    with Peer(replies(ACCEPT, p_data((1, 3, COMMAND)), pdu.encode_release_response())) as peer:
        ask(peer.port).release(5.0)


def test_several_values_in_one_pdu_and_one_value_in_several_pdus():
    response = commands.encode(
        {
            commands.COMMAND_FIELD: commands.C_FIND_RSP,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: 1,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
            commands.STATUS: 0xFF00,
        }
    )
    together = p_data((1, 3, response), (1, 0, b"ab"), (1, 2, b"cd"))
    apart = b"".join(
        p_data(value)
        for value in [
            (1, 1, response[:7]),
            (1, 1, b""),
            (1, 3, response[7:]),
            (1, 0, b"ab"),
            (1, 0, b""),
            (1, 2, b"cd"),
        ]
    )
    plain = p_data((1, 3, response)) + p_data((1, 2, b"abcd"))
    with Peer(replies(ACCEPT, together, apart, plain, plain, plain)) as peer:
        association = ask(peer.port)
        for _ in range(4):
            message = association.receive(time.monotonic() + 10.0)
            assert message is not None
            assert message.command.status == 0xFF00
            assert association.read_data(1, 100) == b"abcd"
        # The last one may come by the short way, if it is in the buffer already.
        again = association.repeated()
        if again is None:
            assert association.receive(time.monotonic() + 10.0) is not None
            again = association.read_data(1, 100)
        assert again == b"abcd"
        assert association.received == 5
        association.abort()


def test_a_data_set_longer_than_its_message_allows():
    for values in ([(1, 2, bytes(200))], [(1, 0, bytes(60)), (1, 2, bytes(60))]):
        with Peer(replies(ACCEPT, p_data((1, 3, COMMAND), *values))) as peer:
            association = ask(peer.port)
            assert association.receive(time.monotonic() + 10.0) is not None
            with pytest.raises(RemoteProtocolError, match="too long"):
                association.read_data(1, 100)


def test_descriptors_are_given_back(server):
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    association = associate(server.port)
    association.release(5.0)
    server.wait_until_idle()
    before = count()
    for _ in range(10):
        associate(server.port).release(5.0)
        associate(server.port).abort()
        with raw(server.port) as connection:
            connection.sendall(b"rubbish rubbish")
            read_all(connection)
    server.wait_until_idle()
    wait_for(lambda: count() <= before, "the descriptors to be given back")
