"""The listener for HL7 messages on real sockets: every message type, and senders of every kind of misbehaviour."""

import shutil
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from router.dimse.tls_files import Renewed, acceptor_context, requestor_context
from router.domain.access import is_allowed
from router.domain.events import Event, MessageAnswered
from router.domain.hl7 import EVENTS, WORDS, Acknowledgement, Hl7Settings, OrderMessage
from router.errors import LedgerError, RouterError
from router.triggers.mllp import MllpListener, TlsHandshakeFailed
from tests.support.certificates import Authority
from tests.support.hl7 import SAMPLES, MllpClient, framed, order, sample
from tests.support.process import wait_for


class Site:
    """A listener with what it took, said and complained of."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.taken: list[OrderMessage] = []
        self.events: list[MessageAnswered] = []
        self.troubles: list[BaseException] = []
        self.hook: Callable[[], None] = lambda: None
        self.listener: MllpListener

    def __call__(self, ssl: Callable[[], ssl.SSLContext] | None = None, **settings: Any) -> "Site":
        given = {"host": "127.0.0.1", "port": 0, "messages_per_minute": 1_000_000, **settings}
        self.listener = MllpListener(
            Hl7Settings(**given),
            self._take,
            observe=self._observe,
            trouble=lambda where, error: self.troubles.append(error),
            ssl=ssl,
            now=lambda: datetime(2026, 3, 1, tzinfo=UTC),
        )
        self.listener.start()
        self._stack.callback(self.listener.stop, 5.0)
        return self

    def _take(self, message: OrderMessage) -> Acknowledgement:
        self.hook()
        self.taken.append(message)
        return Acknowledgement(code="AA")

    def _observe(self, event: Event) -> None:
        assert isinstance(event, MessageAnswered)
        assert event.event in (*EVENTS, "other") and event.word in WORDS
        self.events.append(event)

    def client(self, **settings: Any) -> MllpClient:
        client = MllpClient(self.listener.port, **settings)
        self._stack.callback(client.close)
        return client

    @property
    def words(self) -> list[str]:
        return [event.word for event in self.events]

    def says(self, word: str) -> bool:
        """Wait until something was answered, or counted, with this word."""
        return wait_for(lambda: word in self.words, f"an answer {word}")

    def works(self) -> bool:
        """Whether an order is still taken."""
        with MllpClient(self.listener.port) as client:
            return self.listener.alive and client.ask(order()).code == "AA"


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack)


# --- well-behaved senders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in SAMPLES.iterdir()))
def test_each_type_of_message_is_taken_and_accepted(site: Site, name: str) -> None:
    answer = site().client().ask(sample(name))
    assert answer.code == "AA" and answer.control_id == sample(name).split(b"|")[9].decode()
    (message,) = site.taken
    assert message.event == {"o01": "ORM^O01", "o23": "OMI^O23"}.get(name[4:], f"{name[:3].upper()}^{name[4:].upper()}")
    assert [(event.event, event.code, event.word) for event in site.events] == [(message.event, "AA", "accepted")]
    assert message.requests or message.merges


def test_a_thousand_messages_on_one_connection_are_answered_in_order(site: Site) -> None:
    client = site().client()
    sender = threading.Thread(
        target=lambda: [client.write(framed(order(f"A{n}", control_id=str(n)))) for n in range(1000)]
    )
    sender.start()
    assert [client.answer().control_id for _ in range(1000)] == [str(n) for n in range(1000)]
    sender.join(10)
    keys = [message.requests[0].key.split("\t")[0] for message in site.taken]
    assert keys == [f"accession A{n}" for n in range(1000)]


def test_several_messages_in_one_segment_are_each_answered(site: Site) -> None:
    client = site().client()
    client.write(b"".join(framed(order(control_id=str(n))) for n in range(3)))
    assert [client.answer().control_id for _ in range(3)] == ["0", "1", "2"]


def test_a_message_may_come_byte_by_byte(site: Site) -> None:
    client = site().client()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in framed(order()):
        client.write(bytes((byte,)))
    assert client.answer().code == "AA"


def test_connections_work_side_by_side(site: Site) -> None:
    both = threading.Barrier(2, timeout=10)
    site.hook = lambda: both.wait() and None
    clients = [site(connections=4).client(), site.client()]
    for client in clients:
        client.write(framed(order()))
    assert [client.answer().code for client in clients] == ["AA", "AA"]


def test_messages_above_the_rate_wait_and_are_not_dropped(site: Site) -> None:
    client = site(messages_per_minute=600).client()
    started = time.monotonic()
    client.write(b"".join(framed(order(control_id=str(n))) for n in range(20)))
    assert [client.answer().control_id for _ in range(20)] == [str(n) for n in range(20)]
    assert 0.8 < time.monotonic() - started < 60


# --- sloppy and hostile senders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ("AE", "malformed")),
        (b"garbage", ("AE", "malformed")),
        (b"\x00" * 100, ("AE", "malformed")),
        (sample("orm_o01")[:60], ("AE", "missing-field")),
        (sample("orm_o01")[:200], ("AE", "malformed")),
        (sample("orm_o01").replace(b"4711", b"47\x0011"), ("AE", "unusable-value")),
        (sample("orm_o01").replace(b"4711", b"*"), ("AE", "unusable-value")),
        (sample("orm_o01").replace(b"Erika", b"\xff\xfe"), ("AE", "character-set")),
        (sample("orm_o01").replace(b"ORM^O01", b"ORU^R01"), ("AR", "unsupported")),
        (sample("orm_o01").replace(b"^~\\&", b"^^^^"), ("AE", "malformed")),
        (sample("orm_o01").replace(b"|", b"\x00"), ("AE", "malformed")),
        (b"x" * 20_001, ("AR", "too-large")),
    ],
)
def test_what_is_wrong_is_answered_with_its_reason_and_the_connection_goes_on(
    site: Site, data: bytes, expected: tuple[str, str]
) -> None:
    client = site(maximum_size=20_000).client()
    answer = client.ask(data)
    assert (answer.code, site.words) == (expected[0], [expected[1]])
    assert answer.reason and site.events[0].message
    assert not site.taken
    assert client.ask(order()).code == "AA"
    assert site.works()


def test_other_separators_are_answered_with_the_same(site: Site) -> None:
    data = sample("orm_o01").decode().translate(str.maketrans("|^~\\&", "#$%!*")).encode()
    answer = site().client().ask(data)
    assert answer.code == "AA" and answer.raw.startswith(b"MSH#$%!*#")


def test_noise_between_frames_is_passed_over(site: Site) -> None:
    client = site().client()
    client.write(b"\r\n noise" + framed(order(control_id="1")) + b"\x00\r\n" + framed(order(control_id="2")))
    assert [client.answer().control_id for _ in range(2)] == ["1", "2"]


def test_what_is_no_mllp_at_all_is_hung_up_on(site: Site) -> None:
    client = site().client()
    client.write(b"GET / HTTP/1.1\r\n" * 1000)
    assert client.ended() and site.says("malformed")
    assert site.works()


def test_a_frame_that_lacks_its_last_byte_is_answered_all_the_same(site: Site) -> None:
    client = site().client()
    for control_id in ("1", "2"):
        client.write(framed(order(control_id=control_id))[:-1])
        assert client.answer().control_id == control_id


def test_a_message_that_is_begun_anew_counts_and_the_first_one_is_incomplete(site: Site) -> None:
    client = site().client()
    client.write(b"\x0b" + order(control_id="1")[:50] + framed(order(control_id="2")))
    assert client.answer().control_id == "2"
    assert site.words == ["incomplete", "accepted"]


def test_a_message_that_does_not_end_in_time_is_hung_up_on_without_an_answer(site: Site) -> None:
    client = site(timeout=0.3).client()
    client.write(b"\x0b" + order()[:100])
    assert client.ended() and site.says("incomplete")
    assert not site.taken and site.works()


def test_a_message_that_drips_is_late_however_steadily(site: Site) -> None:
    client = site(timeout=0.5).client()
    client.write(b"\x0b")
    started = time.monotonic()
    with suppress(OSError):
        while time.monotonic() - started < 60:
            client.write(b"M")
            time.sleep(0.02)
    assert time.monotonic() - started < 50
    assert site.says("incomplete") and site.works()


@pytest.mark.parametrize("data", [b"\x0b" + order()[:100], b"\x0b" + order()])
def test_a_connection_that_ends_within_a_message_is_counted(site: Site, data: bytes) -> None:
    client = site().client()
    client.write(data)
    client.close()
    assert site.says("incomplete")
    assert not site.taken and site.works()


def test_a_huge_message_is_rejected_with_its_control_id_and_memory_stays_flat(site: Site) -> None:
    client = site(maximum_size=100_000).client()
    client.ask(order())
    tracemalloc.start()
    try:
        client.write(b"\x0b" + order(control_id="BIG"))
        for _ in range(300):
            client.write(b"NTE|" + b"x" * 100_000 + b"\r")
        client.write(b"\x1c\r")
        answer = client.answer()
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert (answer.code, answer.control_id, site.words[-1]) == ("AR", "BIG", "too-large")
    assert client.ask(order()).code == "AA"


def test_a_huge_message_without_an_end_is_rejected_in_time(site: Site) -> None:
    client = site(maximum_size=10_000, timeout=0.5).client()
    client.write(b"\x0b" + order(control_id="BIG") + b"x" * 50_000)
    answer = client.answer()
    assert (answer.code, answer.control_id) == ("AR", "BIG")
    assert client.ended() and site.words == ["too-large"]


def test_a_sender_that_reads_no_answers_is_hung_up_on(site: Site) -> None:
    client = site(timeout=0.5).client()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    data = framed(order(control_id="x" * 150)) * 50
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        _write_until_refused(client, data)
    assert site.works()


def _write_until_refused(client: MllpClient, data: bytes) -> None:
    for _ in range(10_000):
        client.write(data)


def test_a_connection_without_messages_is_closed_after_a_while_noise_or_not(site: Site) -> None:
    silent, noisy = site(idle=0.4).client(), site.client()
    started = time.monotonic()
    with suppress(OSError):
        while time.monotonic() - started < 60:
            noisy.write(b"\r")
            time.sleep(0.02)
    assert time.monotonic() - started < 50
    assert silent.ended() and not site.events and site.works()


def test_connections_beyond_the_bound_are_closed_at_once_and_counted(site: Site) -> None:
    site(connections=5)
    first = [site.client() for _ in range(5)]
    assert [client.ask(order()).code for client in first] == ["AA"] * 5
    beyond = [site.client() for _ in range(40)]
    assert all(client.ended() for client in beyond)
    assert wait_for(lambda: site.words.count("too-many-connections") == 40, "40 refusals")
    assert [client.ask(order()).code for client in first] == ["AA"] * 5
    for client in first:
        client.close()
    assert wait_for(lambda: _answers(site), "a free place")


def _answers(site: Site) -> bool:
    try:
        return site.works()
    except (EOFError, OSError):
        return False


# --- who may ----------------------------------------------------------------------------------------------------------


def test_connections_from_other_addresses_are_closed_at_once_and_counted(site: Site) -> None:
    client = site(allow=("10.0.0.0/8", "192.168.1.20")).client()
    assert client.ended() and site.says("not-allowed")
    assert [(event.event, event.code) for event in site.events] == [("other", "AR")]


def test_connections_from_allowed_networks_are_taken(site: Site) -> None:
    assert site(allow=("10.0.0.0/8", "127.0.0.0/8")).client().ask(order()).code == "AA"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("::ffff:10.1.2.3", True), ("10.1.2.3", True), ("fe80::1%eth0", True), ("::ffff:10.2.2.3", False), ("::1", False)],
)
def test_an_ipv4_address_is_allowed_also_where_the_listener_speaks_ipv6(host: str, allowed: bool) -> None:
    assert is_allowed([ip_network("10.1.0.0/16"), ip_network("fe80::/10")], host) is allowed


def test_applications_that_are_not_listed_are_rejected(site: Site) -> None:
    client = site(senders=("RIS",)).client()
    assert client.ask(order(application="OTHER")).code == "AR"
    assert client.ask(order()).code == "AA"
    assert site.words == ["not-allowed", "accepted"]


# --- durability -------------------------------------------------------------------------------------------------------


def test_a_message_that_could_not_be_written_is_rejected_and_taken_when_sent_again(site: Site) -> None:
    def fail() -> None:
        raise LedgerError

    client = site().client()
    site.hook = fail
    answer = client.ask(order())
    assert (answer.code, answer.condition, site.words) == ("AR", 207, ["not-durable"])
    assert "again" in answer.reason and isinstance(site.troubles[0], LedgerError)
    site.hook = lambda: None
    assert client.ask(order()).code == "AA"
    assert len(site.taken) == 1


def test_nothing_is_accepted_before_it_was_taken(site: Site) -> None:
    go = threading.Event()
    site.hook = lambda: go.wait(20) and None
    client = site().client()
    client.write(framed(order()))
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)
    go.set()
    assert client.answer().code == "AA"


# --- start and stop ---------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said_in_a_sentence(site: Site) -> None:
    port = site().listener.port
    with pytest.raises(RouterError, match=rf"cannot listen on 127\.0\.0\.1:{port}: another program uses the port"):
        site(port=port)


def test_a_message_that_is_being_taken_is_answered_before_the_listener_stops(site: Site) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go.wait(20)

    site.hook = slow
    client, idle, unfinished = site().client(), site.client(), site.client()
    unfinished.write(b"\x0bMSH|")
    client.write(framed(order(control_id="1")) + framed(order(control_id="2")))
    assert begun.wait(10)
    stopping = threading.Thread(target=site.listener.stop, args=(15.0,))
    stopping.start()
    assert idle.ended() and unfinished.ended()
    assert not site.listener.alive
    go.set()
    assert client.answer().control_id == "1"
    assert client.ended()
    stopping.join(10)
    assert not stopping.is_alive() and len(site.taken) == 1
    with pytest.raises(OSError):  # noqa: PT011 - whichever way the system says so
        site.client()


def test_stopping_does_not_wait_longer_than_it_may(site: Site) -> None:
    begun, go = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        go.wait(60)

    site.hook = stuck
    client = site().client()
    client.write(framed(order()))
    assert begun.wait(10)
    started = time.monotonic()
    site.listener.stop(0.3)
    assert time.monotonic() - started < 30
    go.set()


# --- TLS --------------------------------------------------------------------------------------------------------------


class Keys(NamedTuple):
    server: Callable[[], ssl.SSLContext]
    known: ssl.SSLContext
    stranger: ssl.SSLContext


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    directory: Path = tmp_path_factory.mktemp("keys")
    authority, other = Authority(directory / "authority"), Authority(directory / "other")
    own = authority.settings(authority.issue("router"))
    stranger = requestor_context(other.settings(other.issue("stranger")))
    stranger.check_hostname = False
    stranger.verify_mode = ssl.CERT_NONE
    return Keys(
        lambda: acceptor_context(own), requestor_context(authority.settings(authority.issue("sender"))), stranger
    )


def test_orders_come_over_tls_and_the_one_being_taken_is_answered_at_the_stop(site: Site, keys: Keys) -> None:
    begun, go = threading.Event(), threading.Event()
    client = site(ssl=keys.server).client(context=keys.known)
    assert client.ask(order(control_id="1")).code == "AA"

    def slow() -> None:
        begun.set()
        go.wait(20)

    site.hook = slow
    client.write(framed(order(control_id="2")))
    assert begun.wait(10)
    stopping = threading.Thread(target=site.listener.stop, args=(15.0,))
    stopping.start()
    assert wait_for(lambda: not site.listener.alive, "the stop")
    go.set()
    assert client.answer().control_id == "2"
    stopping.join(10)


def test_a_stranger_or_plain_text_or_silence_instead_of_a_handshake_is_hung_up_on(site: Site, keys: Keys) -> None:
    plain, silent = site(ssl=keys.server, timeout=1.0).client(), site.client()
    plain.write(framed(order()))
    assert plain.ended() and silent.ended()
    with pytest.raises((OSError, EOFError)):
        site.client(context=keys.stranger).ask(order())
    assert wait_for(lambda: site.words == ["tls", "tls"] and len(site.troubles) == 1, "three failed handshakes")
    assert isinstance(site.troubles[0], TlsHandshakeFailed)
    assert "did not end in time" in str(site.troubles[0])
    said = " ".join(event.message for event in site.events)
    assert "A peer at 127.0.0.1 does not speak TLS" in said
    assert "no authority in the file ca has issued" in said
    assert not site.taken
    assert site.client(context=keys.known).ask(order()).code == "AA"


def test_a_renewed_certificate_is_shown_and_who_shows_none_is_hung_up_on(
    site: Site, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("renewed") / "authority")
    settings = authority.settings(authority.issue("listener"))
    own = msgspec.structs.replace(settings, certificate=str(tmp_path / "own.pem"), key=str(tmp_path / "own.key"))

    def install(name: str) -> None:
        made = authority.issue(name)
        shutil.copy(made.certificate, own.certificate)
        shutil.copy(made.key, own.key)

    install("first")
    known = requestor_context(authority.settings(authority.issue("sender")))
    running = site(ssl=Renewed(acceptor_context, own).get)
    for name in ("first", "second"):
        install(name)
        client = running.client(context=known)
        assert client.ask(order()).code == "AA"
        assert isinstance(client.socket, ssl.SSLSocket)
        assert ((("commonName", name),),) == client.socket.getpeercert()["subject"]
    nameless = ssl.create_default_context(cafile=str(authority.certificate))
    with pytest.raises((OSError, EOFError)):
        running.client(context=nameless).ask(order())
    assert wait_for(lambda: any("showed no certificate" in one.message for one in site.events), "the cause")
