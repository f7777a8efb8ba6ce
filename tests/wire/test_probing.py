"""The doctor's steps on the wire: name, TCP, TLS, contexts; and where its one image lands."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from router.dimse.association import Association
from router.dimse.landing import Landing
from router.dimse.pdu import AssociateRequest, ProposedContext
from router.dimse.probing import Probing, certificate_end, port_problem
from router.dimse.store_scp import ServerSettings
from router.domain.rule import Node, Timeouts, TlsSettings
from router.errors import AssociationRejected, ConnectionFailed, ContextRefused, TlsError, WireError
from router.simulator import Behaviour, SimulatedPacs
from tests.support.certificates import Authority
from tests.support.process import wait_for
from tests.support.tarpit import Tarpit
from tests.wire.scu import CT, EXPLICIT, PATIENT, VERIFICATION, Server, associate, echo, store

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MR = "1.2.840.10008.5.1.4.1.1.4"
PROBING = Probing("ROUTER")


def node(port: int, *, host: str = "127.0.0.1", tls: TlsSettings | None = None, seconds: float = 5.0) -> Node:
    return Node(
        name="n", ae_title="PEER", host=host, port=port, tls=tls, timeouts=Timeouts(connect=seconds, negotiation=20.0)
    )


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# reaching -------------------------------------------------------------------------------------------------------------


def test_an_address_resolves_to_itself_and_a_name_that_does_not_exist_to_nothing() -> None:
    assert PROBING.resolve(node(104)) == ["127.0.0.1"]
    for host in ("no-such-host.invalid", "a" * 70 + ".invalid", "..."):
        with pytest.raises(ConnectionFailed) as failed:
            PROBING.resolve(node(104, host=host))
        assert failed.value.cause == "name-unresolved"


def test_a_name_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        never.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(ConnectionFailed) as failed:
        PROBING.resolve(node(104, host="archive", seconds=0.2))
    never.set()
    assert failed.value.cause == "name-unresolved"


def test_refused_and_swallowed_connections_are_told_apart() -> None:
    with pytest.raises(ConnectionFailed) as refused:
        PROBING.connect(node(free()))
    assert refused.value.cause == "connection-refused"
    with Tarpit("dead") as hole, pytest.raises(ConnectionFailed) as swallowed:
        PROBING.connect(node(hole.port, seconds=0.5))
    assert swallowed.value.cause == "connect-timeout"


def test_every_address_of_a_name_has_its_turn_though_the_first_swallows_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SimulatedPacs("PEER") as pacs, Tarpit("dead") as hole:

        def two(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (hole.port, pacs.port)]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        assert PROBING.connect(node(104, host="pacs.example", seconds=4.0)).own_address == "127.0.0.1"
        PROBING.echo(node(104, host="pacs.example", seconds=4.0))  # as all requests do
        assert pacs.associations_total == 1


def test_a_name_whose_addresses_all_swallow_connections_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Tarpit("dead") as hole:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", hole.port))] * 3
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with pytest.raises(ConnectionFailed) as swallowed:
            PROBING.connect(node(104, host="pacs.example", seconds=0.6))
    assert swallowed.value.cause == "connect-timeout"


def test_the_address_of_this_machine_is_the_one_the_node_sees(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert PROBING.connect(node(server.port)).own_address == "127.0.0.1"


# association ----------------------------------------------------------------------------------------------------------


def test_the_accepted_classes_are_those_of_the_answer() -> None:
    with SimulatedPacs("PEER") as pacs:
        assert set(PROBING.accepted(node(pacs.port), [VERIFICATION, FIND, CT, MR])) == {VERIFICATION, FIND, CT, MR}
        pacs.behaviour = replace(Behaviour(), refused_sop_classes=frozenset({FIND, MR}))
        assert set(PROBING.accepted(node(pacs.port), [VERIFICATION, FIND, CT, MR])) == {VERIFICATION, CT}


def test_one_association_at_a_time_stands_and_none_is_left_open() -> None:
    with SimulatedPacs("PEER") as pacs:
        for _ in range(3):
            PROBING.echo(node(pacs.port))
            PROBING.accepted(node(pacs.port), [FIND])
        assert pacs.associations_total == 6
        assert pacs.associations_peak == 1


def test_an_echo_that_is_not_offered_is_no_rejection() -> None:
    behaviour = Behaviour(refused_sop_classes=frozenset({VERIFICATION}))
    with SimulatedPacs("PEER", behaviour=behaviour) as pacs, pytest.raises(ContextRefused):
        PROBING.echo(node(pacs.port))


# TLS ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture
def ours(authority: Authority) -> TlsSettings:
    return authority.settings(authority.issue("router"))


@pytest.mark.parametrize(("days", "cause"), [(90, ""), (-1, "tls-expired")])
def test_the_certificate_is_seen_whether_it_is_accepted_or_not(
    tmp_path: Path, authority: Authority, ours: TlsSettings, days: int, cause: str
) -> None:
    theirs = authority.issue(f"peer{days}", days=days)
    with Server(tmp_path, tls=authority.settings(theirs)) as server:
        peer = node(server.port, tls=ours)
        seen = PROBING.certificate(peer)
        on_disk = certificate_end(str(theirs.certificate))
        assert seen is not None
        assert seen == on_disk
        if not cause:
            secured = PROBING.secure(peer)
            assert secured.version in ("TLSv1.2", "TLSv1.3")
            assert secured.expires_at == seen.last
        else:
            with pytest.raises(TlsError) as failed:
                PROBING.secure(peer)
            assert failed.value.cause == cause


def test_a_peer_that_does_not_take_our_certificate_is_found_out_in_the_handshake(
    tmp_path: Path, authority: Authority, ours: TlsSettings
) -> None:
    stranger = Authority(tmp_path / "stranger")
    theirs = authority.issue("picky")
    settings = TlsSettings(ca=str(stranger.certificate), certificate=str(theirs.certificate), key=str(theirs.key))
    with Server(tmp_path / "store", tls=settings) as server, pytest.raises(TlsError) as failed:
        PROBING.secure(node(server.port, tls=ours))
    assert failed.value.cause == "tls-refused"


def test_who_speaks_tls_is_told_from_who_does_not(tmp_path: Path, authority: Authority, ours: TlsSettings) -> None:
    with Server(tmp_path / "a", tls=ours) as secure, Server(tmp_path / "b") as plain, Tarpit("silent") as silent:
        assert PROBING.speaks_tls(node(secure.port))
        assert not PROBING.speaks_tls(node(plain.port, seconds=2.0))
        assert not PROBING.speaks_tls(node(silent.port, seconds=0.5))
        assert PROBING.certificate(node(silent.port, seconds=0.5)) is None


def test_files_of_tls_that_cannot_be_used_are_a_tls_error(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pem")
    settings = TlsSettings(ca=gone, certificate=gone, key=gone)
    for step in (PROBING.secure, PROBING.echo):
        with pytest.raises(TlsError) as failed:
            step(node(104, tls=settings))
        assert failed.value.cause == "tls-files"
    assert certificate_end(gone) is None


# ports ----------------------------------------------------------------------------------------------------------------


def test_a_port_is_free_taken_or_not_ours() -> None:
    assert port_problem("127.0.0.1", free()) == ""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert port_problem("127.0.0.1", other.getsockname()[1]) == "in-use"
    assert port_problem("192.0.2.1", 11112) == "no-such-address"
    assert port_problem("no-such-host.invalid", 11112) in ("no-such-address", "unusable")


# where the image lands ------------------------------------------------------------------------------------------------


@pytest.fixture
def landing() -> Iterator[Landing]:
    found = Landing()
    port = free()
    found.open(ServerSettings(host="127.0.0.1", port=port))
    found.port = port  # type: ignore[attr-defined]
    yield found
    found.close()


def port_of(landing: Landing) -> int:
    return int(landing.port)  # type: ignore[attr-defined]


def test_nobody_is_let_in_while_nothing_is_awaited(landing: Landing) -> None:
    with pytest.raises(AssociationRejected) as rejected:
        associate(port_of(landing))
    assert (rejected.value.result, rejected.value.source, rejected.value.reason) == (2, 3, 1)
    assert not landing.wait(0.0).came


def test_the_awaited_image_is_taken_and_tells_who_stored_it_for_whom(landing: Landing) -> None:
    landing.expect("1.2.3")
    request = AssociateRequest("WHATEVER", "ANYBODY", (ProposedContext(1, CT, (EXPLICIT,)),), 16384)
    association = Association.request("127.0.0.1", port_of(landing), request, peer="It", limits=PATIENT)
    assert store(association, "1.2.3", b"\x08\x00\x18\x00\x04\x00\x00\x001.2\0").status == 0
    association.release(5.0)
    seen = landing.wait(20.0)
    assert seen.came
    assert (seen.calling_ae_title, seen.called_ae_title) == ("ANYBODY", "WHATEVER")
    assert seen.transfer_syntax
    assert seen.others == 0
    assert landing.last_arrival() > 0.0


def test_anything_else_is_refused_and_counted(landing: Landing) -> None:
    landing.expect("1.2.3")
    association = associate(port_of(landing))
    assert store(association, "1.2.4", b"\0" * 100).status == 0xA700
    assert store(association, "1.2.5", b"\0" * 100).status == 0xA700
    assert echo(association) == 0
    association.release(5.0)
    seen = landing.wait(0.0)
    assert not seen.came
    assert seen.others == 2
    assert len(seen.callers) == 1


def test_what_was_seen_of_one_image_is_forgotten_with_the_next(landing: Landing) -> None:
    landing.expect("1.2.3")
    association = associate(port_of(landing))
    assert store(association, "1.2.3", b"\0" * 100).status == 0
    association.release(5.0)
    assert landing.wait(20.0).came
    landing.expect("1.2.4")
    seen = landing.wait(0.0)
    assert (seen.came, seen.callers, seen.others) == (False, (), 0)


def test_a_caller_that_fails_in_tls_leaves_its_reason(authority: Authority, ours: TlsSettings) -> None:
    found, port = Landing(), free()
    found.open(ServerSettings(host="127.0.0.1", port=port, tls=ours))
    try:
        found.expect("1.2.3")
        with pytest.raises(WireError):
            associate(port)
        assert wait_for(lambda: found.wait(0.0).tls_trouble, "the handshake has failed").startswith("tls")
    finally:
        found.close()
