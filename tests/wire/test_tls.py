"""DICOM over TLS, both roles: real peers, certificates that do not fit, peers that never finish the handshake."""

import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from router.dimse.association import Association, Limits
from router.dimse.pdu import AssociateRequest, ProposedContext
from router.dimse.peers import Peers
from router.dimse.tls_files import Renewed, acceptor_context, requestor_context
from router.domain.events import AssociationEnded, NodeReachability, StoreRefusal
from router.domain.exchange import Standing, StoredObject
from router.domain.rule import Node, Timeouts, TlsSettings
from router.errors import ConfigurationError, ConnectionLost, DeadlineExceeded, RemoteProtocolError, TlsError, WireError
from tests.support.certificates import Authority, Certificate
from tests.support.dcmtk import Address, echoscu, storescu
from tests.support.part10 import dataset_bytes, read_part10
from tests.support.process import wait_for
from tests.support.router import Site
from tests.wire.scu import (
    CT,
    EXPLICIT,
    IMPLICIT,
    PATIENT,
    VERIFICATION,
    Server,
    answer,
    echo,
    raw,
    store,
    store_command,
)


class Keys(NamedTuple):
    """What the tests' sides show and trust."""

    authority: Authority
    other: Authority
    router: Certificate
    peer: Certificate
    expired: Certificate
    elsewhere: Certificate
    stranger: Certificate

    @property
    def ours(self) -> TlsSettings:
        return self.authority.settings(self.router)

    @property
    def theirs(self) -> TlsSettings:
        return self.authority.settings(self.peer)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Keys:
    directory = tmp_path_factory.mktemp("keys")
    authority, other = Authority(directory / "authority"), Authority(directory / "other")
    return Keys(
        authority,
        other,
        authority.issue("router"),
        authority.issue("peer"),
        authority.issue("expired", days=-1),
        authority.issue("elsewhere", names="DNS:pacs.example.org,IP:10.9.8.7"),
        other.issue("stranger"),
    )


@pytest.fixture
def server(tmp_path, keys) -> Iterator[Server]:
    with Server(tmp_path / "store", tls=keys.ours) as running:
        yield running


def dcmtk(authority: Authority, own: Certificate) -> tuple[str, ...]:
    """DCMTK's options."""
    return ("+tls", str(own.key), str(own.certificate), "+cf", str(authority.certificate))


def associate(
    port: int, tls: TlsSettings | ssl.SSLContext | None, *, limits: Limits = PATIENT, host: str = "127.0.0.1"
) -> Association:
    """An association for CT and C-ECHO."""
    contexts = (ProposedContext(1, CT, (EXPLICIT,)), ProposedContext(3, VERIFICATION, (IMPLICIT,)))
    context = requestor_context(tls) if isinstance(tls, TlsSettings) else tls
    request = AssociateRequest("ROUTER", "SENDER", contexts, 131072)
    return Association.request(host, port, request, peer="The server", limits=limits, tls=context)


def refusals(server: Server) -> list[str]:
    server.wait_until_idle()
    wait_for(lambda: server.events_of(AssociationEnded), "the association's end")
    return [event.reason for event in server.events_of(StoreRefusal)]


# --- real peers -------------------------------------------------------------------------------------------------------


def test_storescu_stores_a_study_byte_for_byte(server, keys, study):
    made = study(series=2, instances=5)
    storescu(Address("ROUTER", server.port), made.files, *dcmtk(keys.authority, keys.peer))
    assert {receipt.sop_instance_uid for receipt in server.receipts} == made.instances
    for path, uid in made.sop_instance_uids.items():
        (stored,) = server.store.root.rglob(f"{uid}.dcm")
        assert stored.read_bytes().endswith(dataset_bytes(path))
    server.wait_until_idle()
    assert {event.result for event in server.events_of(AssociationEnded)} == {"accepted"}


@pytest.mark.parametrize("case", ["stranger", "expired"])
def test_echoscu_with_a_certificate_that_does_not_fit_is_refused(server, keys, case):
    options = dcmtk(keys.authority, getattr(keys, case))
    assert echoscu(Address("ROUTER", server.port), *options, check=False).returncode != 0
    assert refusals(server) == [{"stranger": "tls-unknown-ca", "expired": "tls-expired"}[case]]


@pytest.fixture
def storescp(start_storescp, keys):
    return start_storescp(options=["+xa", "--fork", *dcmtk(keys.authority, keys.peer)])


def node(port: int, tls: TlsSettings | None, **settings) -> Node:
    return Node(name="workstation", ae_title="STORESCP", host="127.0.0.1", port=port, tls=tls, **settings)


@pytest.fixture
def events() -> list:
    return []


@pytest.fixture
def peers(events) -> Iterator[Peers]:
    running = Peers("ROUTER", events.append)
    yield running
    running.close()


def test_echo_and_store_to_storescp(storescp, keys, study, peers):
    there = node(storescp.port, keys.ours)
    peers.echo(there)
    peers.echo(there)  # on the same association
    made = study(series=1, instances=20, rows=256)
    outcomes = []

    def open_object(stored: StoredObject) -> tuple[int, int]:
        path = next(path for path, uid in made.sop_instance_uids.items() if uid == stored.sop_instance_uid)
        descriptor = os.open(path, os.O_RDONLY)
        size = len(dataset_bytes(path))
        os.lseek(descriptor, -size, os.SEEK_END)
        return descriptor, size

    objects = []
    for path, uid in made.sop_instance_uids.items():
        meta = read_part10(path)
        objects.append(
            StoredObject(
                sop_class_uid=meta.sop_class_uid,
                sop_instance_uid=uid,
                transfer_syntax_uid=meta.transfer_syntax_uid,
                path=str(path),
            )
        )
    peers.store(there, objects, open_object=open_object, on_outcome=outcomes.append, cancelled=threading.Event())
    assert {outcome.standing for outcome in outcomes} == {Standing.SUCCESS}
    received = storescp.wait_for_instances(20)
    for path, uid in made.sop_instance_uids.items():
        assert dataset_bytes(received[uid]) == dataset_bytes(path)


def test_storescp_does_not_take_our_certificate(storescp, keys, peers, events):
    settings = keys.authority.settings(keys.stranger)
    with pytest.raises(TlsError, match="certificate") as caught:
        peers.echo(node(storescp.port, settings))
    assert caught.value.cause == "tls-refused"
    assert caught.value.reason == "tls-refused"
    assert [event.result for event in events if isinstance(event, AssociationEnded)] == ["refused"]
    assert [event.up for event in events if isinstance(event, NodeReachability)] == [False]


def test_a_running_router_speaks_tls_both_ways(tmp_path, storescp, keys, study):
    """`dicom-router run` with a receiver in a process of its own, beside `query` to a node with `tls: true`."""
    files = {"ca": "ca.pem", "certificate": "us.pem", "key": {"file": "us.key"}}
    there = {"ae_title": "STORESCP", "address": f"127.0.0.1:{storescp.port}", "tls": True, "push": "allow"}
    site = Site(
        tmp_path / "site", nodes={"workstation": there}, rules={}, router={"tls": files, "maximum_associations": 4}
    )
    sources = (keys.authority.certificate, keys.router.certificate, keys.router.key)
    for source, name in zip(sources, ("ca.pem", "us.pem", "us.key"), strict=True):
        shutil.copy(source, site.rules_directory / name)
    made = study(series=1, instances=3)
    here = Address("ROUTER", site.dicom_port)
    with site.run():
        storescu(here, made.files, *dcmtk(keys.authority, keys.peer), calling="STORESCP")
        assert set(site.stored()) == made.instances
        assert echoscu(here, calling="STORESCP", check=False).returncode != 0
        done = site.call("query", "workstation", "StudyDate=20240101")
        assert "accepts no C-FIND from this router" in done.stdout + done.stderr  # over TLS it said so


# --- certificates, as requestor ---------------------------------------------------------------------------------------


def test_both_of_our_roles_together(server, keys):
    association = associate(server.port, keys.theirs)
    for _ in range(3):
        assert echo(association) == 0
        assert association.quiet
    association.release(5.0)
    server.wait_until_idle()
    assert [event.result for event in server.events_of(AssociationEnded)] == ["accepted"]


@pytest.mark.parametrize(
    ("case", "reason", "sentence"),
    [
        ("stranger", "tls-unknown-ca", "The server showed a certificate that no authority in the file ca has issued"),
        ("expired", "tls-expired", "The server showed a certificate that has expired"),
        ("elsewhere", "tls-host-name", "is for another IP address.*verify_hostname: false"),
    ],
)
def test_a_server_with_a_certificate_that_does_not_fit(tmp_path, keys, case, reason, sentence):
    settings = keys.authority.settings(getattr(keys, case))
    with Server(tmp_path / "store", tls=settings) as server:
        with pytest.raises(TlsError, match=sentence) as caught:
            associate(server.port, keys.theirs)
        assert caught.value.reason == reason
        assert refusals(server) == ["tls-refused"]


def test_another_host_name(tmp_path, keys):
    with Server(tmp_path / "store", tls=keys.authority.settings(keys.elsewhere)) as server:
        with pytest.raises(TlsError, match="is for another host name"):
            associate(server.port, keys.theirs, host="localhost")
        indifferent = msgspec.structs.replace(keys.theirs, verify_hostname=False)
        association = associate(server.port, indifferent, host="localhost")
        assert echo(association) == 0
        association.release(5.0)


def test_a_peers_own_certificate_can_be_trusted_instead_of_an_authority(tmp_path, keys):
    pinned = msgspec.structs.replace(keys.ours, ca=str(keys.peer.certificate))
    with Server(tmp_path / "store", tls=pinned) as server:
        associate(server.port, keys.theirs).release(5.0)
        with pytest.raises(WireError):
            echo(associate(server.port, keys.ours))


def answering(reply: Callable[[socket.socket], object]) -> tuple[socket.socket, int]:
    """A server that does this with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    reply(connection)
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    return listener, listener.getsockname()[1]


def drip(connection: socket.socket) -> None:
    for byte in b"\x16\x03\x03\x04\x00" + bytes(1024):
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


NO_TLS_SERVERS: dict[str, tuple[Callable[[socket.socket], object], type[WireError], str]] = {
    "silent": (lambda c: c.recv(1 << 20) and time.sleep(60.0), DeadlineExceeded, "did not finish the TLS handshake"),
    "drips": (drip, DeadlineExceeded, "did not finish the TLS handshake"),
    "closes": (lambda c: c.recv(1), TlsError, "in the TLS handshake; does it speak TLS at that port|broke"),
    "garbage": (lambda c: c.sendall(os.urandom(4096).replace(b"\x16", b"x")), TlsError, "does not speak TLS|failed"),
    "HTTP": (lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), TlsError, "does not speak TLS; is the port"),
    "endless": (lambda c: [c.sendall(b"\x16\x03\x03\x40\x00" + bytes(0x4000)) for _ in range(1000)], TlsError, "TLS"),
}


@pytest.mark.parametrize("case", NO_TLS_SERVERS)
def test_a_server_without_tls(keys, case):
    reply, kind, sentence = NO_TLS_SERVERS[case]
    listener, port = answering(reply)
    started = time.monotonic()
    with listener, pytest.raises(kind, match=sentence):
        associate(port, keys.theirs, limits=PATIENT._replace(connect=1.0))
    assert time.monotonic() - started < 30


def test_tls_to_a_plain_port_of_ours(tmp_path, keys):
    with Server(tmp_path / "store") as server:
        with pytest.raises(TlsError, match="does not speak TLS; is the port right") as caught:
            associate(server.port, keys.theirs)
        assert caught.value.reason == "tls-not-spoken"


# --- as acceptor ------------------------------------------------------------------------------------------------------


def test_a_plain_association_to_a_tls_port(server, keys):
    with pytest.raises((ConnectionLost, RemoteProtocolError), match="does it want `tls: true`"):
        associate(server.port, None)
    assert refusals(server) == ["tls-not-spoken"]


def test_no_client_certificate(server, keys):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(keys.authority.certificate)
    with pytest.raises(TlsError, match="does not accept this router's certificate"):
        associate(server.port, context)
    assert refusals(server) == ["tls-no-certificate"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(server, keys, version):
    context = requestor_context(keys.theirs)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(TlsError, match=r"TLS 1\.2 or 1\.3 is needed"):
        associate(server.port, context)
    assert refusals(server) == ["tls-version"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_server_of_an_old_version_is_refused(keys):
    context = acceptor_context(keys.ours)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    listener, port = answering(lambda c: context.wrap_socket(c, server_side=True))
    with listener, pytest.raises(TlsError, match=r"TLS 1\.2 or 1\.3 is needed"):
        associate(port, keys.theirs)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_big_data_set_arrives_byte_for_byte(server, keys, study, version):
    """Random bytes, so that a piece lost or swapped shows; in PDUs as large as the server takes."""
    path, uid = next(iter(study().sop_instance_uids.items()))
    head = dataset_bytes(path)
    head = head[: head.index(b"\xe0\x7f\x10\x00")]  # up to the pixel data
    pixels = os.urandom(40_000_000)
    data = head + b"\xe0\x7f\x10\x00OW\0\0" + len(pixels).to_bytes(4, "little") + pixels
    context = requestor_context(keys.theirs)
    context.minimum_version = context.maximum_version = version
    association = associate(server.port, context)
    assert store(association, uid, data).status == 0
    association.release(5.0)
    (stored,) = server.files()
    assert stored.read_bytes().endswith(data)


def test_records_of_any_size(server, keys, study):
    """One association whose bytes come in records of 1 to 700 bytes, several to a packet."""
    path, uid = next(iter(study().sop_instance_uids.items()))
    data = dataset_bytes(path)
    association = associate(server.port, keys.theirs)
    transport = association._transport
    whole = transport.send

    def crumbs(buffers, deadline, watch=None):
        joined = b"".join(buffers)
        size = 1
        while joined:
            transport._ssl.write(joined[:size])
            joined = joined[size:]
            size = size % 700 + 1
        whole([], deadline, watch)
        transport._flush(deadline)

    association._send = lambda buffers, *rest: crumbs(buffers, time.monotonic() + 10.0)
    association.send(1, store_command(uid), data)
    assert answer(association).status == 0
    del association._send
    association.release(5.0)
    assert server.files()[0].read_bytes().endswith(data)


def secured(port: int, keys: Keys) -> ssl.SSLSocket:
    """A connection with a finished handshake, and nothing more."""
    return requestor_context(keys.theirs).wrap_socket(raw(port), server_hostname="127.0.0.1")


def test_a_peer_that_stops_in_the_middle_of_a_record(tmp_path, keys):
    with Server(tmp_path / "store", tls=keys.ours, negotiation=1.0, pdu=0.5) as server:
        connection = secured(server.port, keys)
        descriptor = connection.detach()
        bare = socket.socket(fileno=descriptor)
        bare.sendall(b"\x17\x03\x03\x00\x40half a record")
        server.wait_until_idle(5.0)
        assert [event.result for event in server.events_of(AssociationEnded)] == ["timeout"]
        bare.close()


def test_a_forged_record_ends_the_association(server, keys):
    connection = secured(server.port, keys)
    bare = socket.socket(fileno=connection.detach())
    bare.sendall(b"\x17\x03\x03\x00\x40" + os.urandom(64))
    server.wait_until_idle(5.0)
    assert [event.result for event in server.events_of(AssociationEnded)] == ["aborted"]
    bare.close()


def test_an_answer_right_before_the_end_is_not_lost(server, keys):
    """A-RELEASE-RP, TLS's farewell and the end of the stream come in one packet."""
    for _ in range(20):
        association = associate(server.port, keys.theirs)
        association.release(5.0)
    server.wait_until_idle()
    assert {event.result for event in server.events_of(AssociationEnded)} == {"accepted"}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_peers_that_never_finish_the_handshake(tmp_path, keys, study):
    """100 of them, silent, dripping, or talking nonsense: a store beside them is quick, and in the end all are gone."""
    path, uid = next(iter(study().sop_instance_uids.items()))
    before_threads, before_files = threading.active_count(), open_files()
    hello = ssl.MemoryBIO()
    half = requestor_context(keys.theirs).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    greeting = hello.read()
    with Server(tmp_path / "store", tls=keys.ours, negotiation=10.0) as server:
        started = time.monotonic()
        connections = [raw(server.port) for _ in range(100)]
        for number, connection in enumerate(connections):
            connection.sendall([b"", greeting[:20], greeting, b"\x16"][number % 4])
        wait_for(lambda: len(server._waiting) == 100, "all connections to wait")
        association = associate(server.port, keys.theirs)
        assert store(association, uid, dataset_bytes(path)).status == 0
        association.release(5.0)
        assert len(server._waiting) == 100, "the association did not wait for them"
        while time.monotonic() < started + 9.0:  # who drips wins no time
            for connection in connections[1::4]:
                connection.sendall(b"\0")
            time.sleep(0.5)
        server.wait_until_idle(started + 60.0 - time.monotonic())
        assert time.monotonic() - started >= 9.5
        for connection in connections:
            connection.close()
        results = [event.result for event in server.events_of(AssociationEnded)]
        wait_for(lambda: len(server.events_of(AssociationEnded)) == 101, "all ends to be told")
        assert set(results) <= {"accepted", "timeout", "refused"}
        assert len(server.receipts) == 1
    wait_for(lambda: threading.active_count() <= before_threads, "threads to end")
    wait_for(lambda: open_files() <= before_files, "file descriptors to be closed")


def test_the_oldest_of_too_many_is_dropped(tmp_path, keys):
    with Server(tmp_path / "store", tls=keys.ours, maximum_waiting=5) as server:
        connections = [raw(server.port) for _ in range(8)]
        for connection in connections[:3]:
            assert connection.recv(1) == b""
        assert len(server._waiting) == 5
        associate(server.port, keys.theirs).release(5.0)
        for connection in connections:
            connection.close()


def test_stopping_ends_handshakes_under_way(tmp_path, keys):
    with Server(tmp_path / "store", tls=keys.ours) as server:
        connections = [raw(server.port) for _ in range(5)]
        wait_for(lambda: len(server._waiting) == 5, "all connections to wait")
        started = time.monotonic()
        server.stop(60.0)
        assert time.monotonic() - started < 30
        assert not server._waiting
        for connection in connections:
            connection.close()


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_renewed_certificate_needs_no_restart(tmp_path, keys):
    certificate, key = tmp_path / "us.pem", tmp_path / "us.key"
    shutil.copy(keys.expired.certificate, certificate)
    shutil.copy(keys.expired.key, key)
    settings = TlsSettings(ca=str(keys.authority.certificate), certificate=str(certificate), key=str(key))
    with Server(tmp_path / "store", tls=settings) as server:
        with pytest.raises(TlsError, match="has expired"):
            associate(server.port, keys.theirs)
        shutil.copy(keys.router.certificate, certificate)  # half of it: the pair before stays in force
        with pytest.raises(TlsError, match="has expired"):
            associate(server.port, keys.theirs)
        shutil.copy(keys.router.key, key)
        associate(server.port, keys.theirs).release(5.0)


def test_files_that_are_gone_are_said_before_listening(tmp_path, keys):
    settings = msgspec.structs.replace(keys.ours, key=str(tmp_path / "gone.key"))
    server = Server(tmp_path / "store", tls=settings)
    with pytest.raises(ConfigurationError, match=r"gone\.key' cannot be read: No such file or directory"):
        server.start()
    server.store.close()
    with pytest.raises(ConfigurationError):
        Renewed(requestor_context, settings).get()


def test_a_node_whose_files_are_gone_is_unreachable(keys, tmp_path, peers):
    settings = msgspec.structs.replace(keys.ours, ca=str(tmp_path / "gone.pem"))
    with pytest.raises(TlsError, match=r"cannot be asked over TLS: .*gone\.pem") as caught:
        peers.echo(node(1, settings, timeouts=Timeouts(connect=1.0)))
    assert caught.value.reason == "tls-files"
