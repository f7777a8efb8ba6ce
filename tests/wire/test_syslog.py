"""Audit messages reach a real syslog server, over UDP and TLS; while there is none they wait, and nothing else does."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from router.dimse.syslog import carrier_for
from router.domain.audit import AuditSettings, Party
from router.domain.audit_arrived import QUIET
from router.domain.audit_messages import begin_transferring, query
from router.domain.audit_xml import Origin
from router.domain.events import ConfigurationLoaded, Event, StoreRefusal
from router.domain.events_people import AuditSent, AuditWaiting
from router.domain.receipt import Receipt
from router.errors import ConnectionFailed
from router.observe.audit import Audit
from router.observe.audit_spool import DIRECTORY, Spool
from tests.support.audit import Side, TlsRepository, UdpRepository
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.sinks import rude_server

OWN = Party("ROUTER", "ROUTER", "here")
ARCHIVE = Party("archive", "ORTHANC", "10.0.0.5")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


class Desk:
    """An audit with what it told of itself."""

    def __init__(self, directory: Path, settings: AuditSettings) -> None:
        self.events: list[Event] = []
        self.directory = directory
        self.ahead = timedelta()
        """By how much the clock goes ahead."""
        self.spool = Spool(directory, settings.buffer)
        self.audit = Audit(
            origin=Origin(own=OWN, process="1"),
            spool=self.spool,
            carrier=carrier_for(settings),
            now=lambda: datetime.now(UTC) + self.ahead,
            observer=self.events.append,
            sender=lambda title: Party(title.lower(), title),
            patient_of=lambda receipt: f"P{receipt.study_instance_uid}",
        )

    def results(self, result: str) -> list[AuditSent]:
        return [one for one in list(self.events) if isinstance(one, AuditSent) and one.result == result]

    def tell(self, *patients: str) -> None:
        for patient in patients:
            self.audit.record(begin_transferring(OWN, ARCHIVE, OWN, "1.2.3", patient))


Open = Callable[[AuditSettings], Desk]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def make(settings: AuditSettings) -> Desk:
            made = Desk(tmp_path / "store", settings)
            stack.callback(made.audit.stop)
            return made

        yield make


def udp(port: int) -> AuditSettings:
    return AuditSettings(host="127.0.0.1", port=port, transport="udp")


def tls(port: int, authority: Authority) -> AuditSettings:
    return AuditSettings(host="127.0.0.1", port=port, ca=str(authority.certificate))


PATIENTS = tuple(f"P{number}" for number in range(250))


def test_over_udp_messages_come_in_order_between_start_and_stop(desk: Open) -> None:
    with UdpRepository() as repository:
        made = desk(udp(repository.port))
        made.audit.start()
        made.tell(*PATIENTS)
        repository.wait(1 + len(PATIENTS))
        made.audit.stop()
        heard = repository.wait(2 + len(PATIENTS))
    assert (heard[0].types, heard[-1].types) == (["Application Start"], ["Application Stop"])
    assert tuple(one.objects["Patient Number"] for one in heard[1:-1]) == PATIENTS
    assert sum(one.count for one in made.results("sent")) == 2 + len(PATIENTS)
    waiting = [one.count for one in made.events if isinstance(one, AuditWaiting)]
    assert waiting[-1] == 0
    assert len(made.spool) == 0


def test_over_udp_messages_wait_while_nobody_listens(desk: Open) -> None:
    port = free_port()
    made = desk(udp(port))
    made.audit.start()
    made.tell("P1")
    wait_for(lambda: made.results("failed"), "the attempt to fail")
    assert "no syslog server listens there" in made.results("failed")[0].message
    with UdpRepository(port) as repository:
        heard = repository.wait(2)
    assert [one.event for one in heard[:2]] == ["Application Activity", "Begin Transferring DICOM Instances"]


def test_a_message_that_a_power_cut_has_emptied_is_counted_and_holds_up_no_other(
    desk: Open, authority: Authority
) -> None:
    with TlsRepository(authority.issue("after-a-cut")) as repository:
        made = desk(tls(repository.port, authority))
        made.tell("P1", "P2", "P3")
        first, second, _third = sorted((made.directory / DIRECTORY).glob("*.syslog"))
        first.write_bytes(b"")
        second.write_bytes(bytes(second.stat().st_size))
        made.spool.look()
        made.audit.start()
        heard = repository.wait(3)
        assert heard[0].objects["Patient Number"] == "P3"
        assert heard[-1].types == ["Audit Recording Stopped"]
    assert [one.count for one in made.results("dropped")] == [2]
    assert sum(one.count for one in made.results("failed")) == 0


def test_over_tls_messages_follow_one_another_on_one_connection(desk: Open, authority: Authority) -> None:
    with TlsRepository(authority.issue("audit")) as repository:
        made = desk(tls(repository.port, authority))
        made.audit.start()
        made.tell(*PATIENTS)
        made.audit.record(query(OWN, ARCHIVE, "1.2", "Müller".encode()))
        heard = repository.wait(2 + len(PATIENTS))
        assert tuple(one.objects["Patient Number"] for one in heard[1:-1]) == PATIENTS
        assert heard[-1].query == "Müller".encode()
        assert repository.connections == 1


def test_a_server_that_wants_a_certificate_is_shown_ours(desk: Open, authority: Authority) -> None:
    own = authority.issue("router")
    with TlsRepository(authority.issue("strict"), clients=str(authority.certificate)) as repository:
        settings = msgspec.structs.replace(
            tls(repository.port, authority), certificate=str(own.certificate), key=str(own.key)
        )
        desk(settings).audit.start()
        assert repository.wait(1)[0].types == ["Application Start"]


def test_renewed_files_serve_from_the_next_connection_on(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    files = {name: tmp_path / name for name in ("ca", "certificate", "key")}

    def install(issuer: Authority, trusted: Authority) -> None:
        own = issuer.issue("renewed")
        for name, source in (("ca", trusted.certificate), ("certificate", own.certificate), ("key", own.key)):
            shutil.copy(source, files[name])

    with TlsRepository(authority.issue("renewing"), clients=str(authority.certificate)) as repository:
        paths = {name: str(path) for name, path in files.items()}
        carrier = carrier_for(AuditSettings(host="127.0.0.1", port=repository.port, **{"transport": "tls", **paths}))
        for issuer, trusted in ((authority, other), (other, authority)):
            install(issuer, trusted)
            with pytest.raises(ConnectionFailed):
                carrier.send([b"<1>1 first"])
        install(authority, authority)
        carrier.send([b"<1>1 second"])
        carrier.close()
        assert wait_for(lambda: repository.messages, "the message") == [b"<1>1 second"]


def test_a_server_that_refuses_us_is_named_and_nothing_counts_as_sent(desk: Open, authority: Authority) -> None:
    with TlsRepository(authority.issue("strict2"), clients=str(authority.certificate)) as repository:
        made = desk(tls(repository.port, authority))
        made.audit.start()
        wait_for(lambda: made.results("failed"), "the attempt to fail")
        assert made.results("failed")[0].message.startswith(f"127.0.0.1:{repository.port} ")
        assert made.results("sent") == []
        assert len(made.spool) == 1


@pytest.mark.parametrize(("name", "days"), [("IP:127.0.0.2", 30), ("IP:127.0.0.1", -1)])
def test_a_server_with_the_wrong_certificate_gets_nothing(
    desk: Open, authority: Authority, name: str, days: int
) -> None:
    with TlsRepository(authority.issue(f"wrong{days}", names=name, days=days)) as repository:
        made = desk(tls(repository.port, authority))
        made.audit.start()
        wait_for(lambda: made.results("failed"), "the attempt to fail")
        assert "shows a certificate that is not trusted" in made.results("failed")[0].message
        assert repository.messages == []


def test_the_host_name_of_a_certificate_need_not_fit_where_it_is_said_so(desk: Open, authority: Authority) -> None:
    with TlsRepository(authority.issue("other-name", names="DNS:audit.example")) as repository:
        settings = msgspec.structs.replace(tls(repository.port, authority), verify_hostname=False)
        desk(settings).audit.start()
        repository.wait(1)


def test_a_connection_that_the_server_ended_is_made_anew_and_nothing_is_lost(desk: Open, authority: Authority) -> None:
    with TlsRepository(authority.issue("restarting")) as repository:
        made = desk(tls(repository.port, authority))
        made.audit.start()
        repository.wait(1)
        repository.hang_up()
        made.tell("P1", "P2")
        wait_for(lambda: all(one in repository.text for one in ('ID="P1"', 'ID="P2"')), "both messages")
        assert repository.connections == 2


def test_who_speaks_no_tls_or_says_nothing_at_all_is_named(desk: Open, authority: Authority) -> None:
    with rude_server(lambda connection: connection.sendall(b"220 mail.example\r\n" * 10)) as port:
        made = desk(tls(port, authority))
        made.audit.start()
        wait_for(lambda: made.results("failed"), "the attempt to fail")
        assert "does not speak TLS as expected" in made.results("failed")[0].message


def test_files_that_cannot_be_used_any_more_are_named_with_their_key(tmp_path: Path) -> None:
    settings = AuditSettings(host="127.0.0.1", port=1, ca=str(tmp_path / "gone.pem"))
    with pytest.raises(ConnectionFailed, match=r"^router\.audit\.ca: .*gone\.pem"):
        carrier_for(settings).send([b"x"])


def test_a_host_that_nobody_knows_is_named() -> None:
    for transport in ("udp", "tls"):
        settings = AuditSettings(host="no-such-host.invalid", port=514, transport=transport)
        with pytest.raises(ConnectionFailed, match=r"^no-such-host\.invalid:514 "):
            carrier_for(settings).send([b"x"])


def test_what_is_not_sent_waits_for_the_next_start_and_comes_before_what_is_new(
    desk: Open, authority: Authority
) -> None:
    port = free_port()
    first = desk(tls(port, authority))
    first.audit.start()
    first.tell("P1")
    wait_for(lambda: first.results("failed"), "the attempt to fail")
    first.audit.stop()
    with TlsRepository(authority.issue("late"), port=port) as repository:
        desk(tls(port, authority)).audit.start()
        heard = repository.wait(4)
    kinds = [*heard[0].types, heard[1].event, *heard[2].types, *heard[3].types]
    assert kinds == [
        "Application Start",
        "Begin Transferring DICOM Instances",
        "Application Stop",
        "Application Start",
    ]


def test_a_full_buffer_costs_the_oldest_and_the_repository_is_told(desk: Open, authority: Authority) -> None:
    port = free_port()
    made = desk(msgspec.structs.replace(tls(port, authority), buffer=20_000))
    made.audit.start()
    wait_for(lambda: made.results("failed"), "the attempt to fail")
    made.tell(*PATIENTS[:50])
    lost = sum(one.count for one in made.results("dropped"))
    assert lost > 0
    assert made.results("dropped")[0].message == "the buffer is full"
    with TlsRepository(authority.issue("full"), port=port) as repository:
        heard = repository.wait(51 - lost + 1)
    assert [one.objects["Patient Number"] for one in heard[:-1]] == list(PATIENTS[lost - 1 : 50])
    assert heard[-1].types == ["Audit Recording Stopped"]
    assert heard[-1].details["Alert Description"].startswith(f"{lost} audit messages are lost")


def test_a_buffer_that_cannot_be_written_to_costs_messages_and_no_work(desk: Open, tmp_path: Path) -> None:
    with UdpRepository() as repository:
        made = desk(udp(repository.port))
        made.audit.start()
        repository.wait(1)
        directory = tmp_path / "store" / DIRECTORY
        directory.rename(tmp_path / "aside")
        made.tell("P1", "P2")
        assert [one.count for one in made.results("dropped")] == [1, 1]
        (tmp_path / "aside").rename(directory)
        made.tell("P3")
        heard = repository.wait(3)
    assert heard[1].objects["Patient Number"] == "P3"
    assert heard[2].details["Alert Description"].startswith("2 audit messages are lost")


def test_a_stranger_cannot_fill_the_buffer_with_alerts(desk: Open) -> None:
    with UdpRepository() as repository:
        made = desk(udp(repository.port))
        made.audit.start()
        for number in range(1000):
            made.audit(
                StoreRefusal(
                    calling="other",
                    reason="association-rejected",
                    calling_ae_title=f"E{number}",
                    ip_address="10.6.6.6",
                )
            )
        made.audit(ConfigurationLoaded(successful=True, content_hash="abc"))
        heard = repository.wait(3)
    assert [one.types for one in heard[:3]] == [
        ["Application Start"],
        ["Node Authentication"],
        ["Software Configuration"],
    ]


def test_the_configuration_of_a_start_is_told_after_the_start(desk: Open) -> None:
    with UdpRepository() as repository:
        made = desk(udp(repository.port))
        made.audit(ConfigurationLoaded(successful=True, content_hash="abc"))
        made.audit.start()
        heard = repository.wait(2)
    assert [one.types for one in heard] == [["Application Start"], ["Software Configuration"]]


def test_of_two_processes_one_sends_for_both(desk: Open) -> None:
    with UdpRepository() as repository:
        one, other = desk(udp(repository.port)), desk(udp(repository.port))
        one.audit.start()
        repository.wait(1)
        other.audit.start()
        other.tell("P1")
        heard = repository.wait(3)
        assert heard[2].objects["Patient Number"] == "P1"
        assert other.results("sent") == []


def test_a_server_that_takes_nothing_more_holds_nobody_up(
    desk: Open, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.dimse.syslog.TIMEOUT", 0.5)
    mute = socket.create_server(("127.0.0.1", 0))
    with mute:
        made = desk(tls(mute.getsockname()[1], authority))
        made.audit.start()
        made.tell("P1")
        wait_for(lambda: made.results("failed"), "the attempt to fail")
        assert "does not answer" in made.results("failed")[0].message


# what is pushed -------------------------------------------------------------------------------------------------------


def receipts(study: str, *numbers: int) -> list[Receipt]:
    return [
        Receipt(
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
            sop_instance_uid=f"{study}.1.{number}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_ae_title="CT1",
            size=1,
            path=f"{study}/{study}.1/{study}.1.{number}.dcm",
            received_at=datetime.now(UTC),
        )
        for number in numbers
    ]


def transferred(repository: UdpRepository) -> list[tuple[str, int | None]]:
    """Study and number of instances of each message about a transfer."""
    told = [one for one in repository.heard if one.event == "DICOM Instances Transferred"]
    return [(one.objects["Study Instance UID"], one.instances) for one in told]


def test_what_is_pushed_is_told_once_it_is_quiet(desk: Open) -> None:
    with UdpRepository() as repository:
        made = desk(udp(repository.port))
        made.audit.start()
        for number in range(5):
            made.audit.arrived(receipts("1.2", number))
        made.audit.arrived(receipts("1.3", 1))
        repository.wait(1)
        assert transferred(repository) == []
        assert len(list((made.directory / DIRECTORY).glob("*.draft"))) == 2
        made.ahead = QUIET
        wait_for(lambda: len(transferred(repository)) == 2, "both studies")
        made.audit.arrived(receipts("1.2", 5))
        made.audit.stop()
        wait_for(lambda: len(transferred(repository)) == 3, "the rest")
        assert transferred(repository) == [("1.2", 5), ("1.3", 1), ("1.2", 1)]
        told = next(one for one in repository.heard if one.event == "DICOM Instances Transferred")
        assert told.sides == [
            Side("ct1", "AETITLES=CT1", "Source Role ID", True),
            Side("ROUTER", "AETITLES=ROUTER", "Destination Role ID", False),
        ]
        assert told.objects["Patient Number"] == "P1.2"


def test_what_is_pushed_while_the_buffer_cannot_be_written_to_counts_as_lost_and_nothing_else_happens(
    desk: Open,
) -> None:
    made = desk(udp(free_port()))
    directory = made.directory / DIRECTORY
    directory.rename(made.directory / "elsewhere")
    made.audit.arrived(receipts("1.2", *range(10)))
    made.ahead = QUIET
    made.audit.arrived(receipts("1.3", 1))
    assert [one.count for one in made.results("dropped")] == [1]
    (made.directory / "elsewhere").rename(directory)
    made.audit.arrived(receipts("1.3", 2))
    assert len(list(directory.glob("*.draft"))) == 1
