"""Instances of other replicas: fetched from a real HTTP server of ours, or not, with a sentence that says why."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from router.domain.overview import ServiceInfo
from router.domain.rule import RouterSettings
from router.domain.secret import Secret
from router.elsewhere import Elsewhere
from router.engine.forward_port import stored_of
from router.errors import LedgerError, StoreAway, StoreError, StoreRefused
from router.fetching import BUSY_TRIES, Fetcher, Holder
from router.ledger.ledger import SqlLedger
from router.object_headers import header_in
from router.objects import ObjectStore
from tests.support.fake_peers import FakeClock
from tests.support.ports import free_port
from tests.support.stored import Stored, uids

TOKEN = "a-token-of-at-least-16-characters"
PATIENT_NAME = 0x00100010


class Other:
    """The store of another replica, given over HTTP as `answers` says: by default as it is."""

    def __init__(self, directory: Path, ledger: SqlLedger) -> None:
        self.stored = Stored(directory, ledger)
        self.asked: list[str] = []
        self.bytes_given = 0
        self.answers: Callable[[bytes], tuple[int, bytes, int]] = lambda content: (200, content, len(content))
        other = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                other.asked.append(self.path)
                path = other.stored.root / (self.path.removeprefix("/api/v1/objects/") + ".dcm")
                shown = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                content = path.read_bytes() if path.exists() else b""
                status, body, length = other.answers(content) if content else (404, b"", 0)
                if not shown:
                    status, body, length = 401, b"", 0
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)
                    other.bytes_given += len(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(60)
        self.stored.close()


class Place:
    """A replica with its own store, and another one's."""

    def __init__(self, directory: Path) -> None:
        self.ledger = SqlLedger.open(f"sqlite:///{directory}/ledger.db")
        self.other = Other(directory / "other", self.ledger)
        self.store = ObjectStore(directory / "own", durability="rename")
        self.mine = Stored(directory / "own", self.ledger)
        (directory / "token").write_text(TOKEN, encoding="utf-8")
        self.settings = RouterSettings(token=Secret(file=str(directory / "token")))
        self.clock = FakeClock()
        self.slept: list[float] = []
        self.fetcher = Fetcher(self.store.incoming, lambda: self.settings, sleep=self.slept.append)
        self.elsewhere = self.anew()

    def anew(self) -> Elsewhere:
        """What has nothing in memory."""
        self.elsewhere = Elsewhere(self.store, self.ledger, self.clock, self.fetcher)
        return self.elsewhere

    def announce(self, address: str = "") -> None:
        info = ServiceInfo(
            owner="127.0.0.1:abc",
            address=address or self.other.address,
            seen_at=self.clock.now(),
            replica="replica-b",
            store=self.other.stored.put(99).store,
        )
        self.ledger.announce(info)

    def close(self) -> None:
        self.other.close()
        self.mine.close()
        self.store.close()
        self.ledger.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def read(descriptor: int, size: int) -> bytes:
    try:
        return os.read(descriptor, size + 1)
    finally:
        os.close(descriptor)


def test_an_instance_of_another_replica_is_had_byte_for_byte_and_nothing_is_left(place: Place) -> None:
    place.announce()
    receipt = place.other.stored.put(1)
    descriptor, size = place.elsewhere.open(stored_of(receipt))
    whole = place.other.stored.file(receipt).read_bytes()
    assert size == receipt.size
    assert read(descriptor, size) == whole[-size:]
    assert list(place.store.incoming.iterdir()) == []


def test_a_service_that_listens_everywhere_is_called_by_its_machine(place: Place) -> None:
    place.announce(f"0.0.0.0:{place.other.address.rpartition(':')[2]}")
    receipt = place.other.stored.put(1)
    descriptor, _size = place.elsewhere.open(stored_of(receipt))
    os.close(descriptor)


def test_the_own_copy_is_taken_before_another(place: Place) -> None:
    place.announce()
    theirs, mine = place.other.stored.put(1), place.mine.put(1)
    assert place.elsewhere.chosen([theirs, mine]) == [mine]
    assert place.elsewhere.away([stored_of(mine)]) == (frozenset(), "")
    assert place.elsewhere.away([stored_of(theirs)]) == (frozenset(), "")


def test_what_a_replica_holds_that_does_not_run_is_away_but_counts_for_a_day(place: Place) -> None:
    place.announce()
    receipt = place.other.stored.put(1)
    place.clock.advance(60)
    away, why = place.anew().away([stored_of(receipt)])
    assert away == {receipt.sop_instance_uid}
    assert "the replica replica-b, which does not run (last seen 2026-11-22 10:00 UTC)" in why
    with pytest.raises(StoreAway, match="replica-b"):
        place.elsewhere.open(stored_of(receipt))
    assert place.elsewhere.held(uids(1)[0]) == {receipt.sop_instance_uid}
    place.clock.advance(timedelta(days=1).total_seconds())
    assert place.anew().held(uids(1)[0]) == set()


def test_of_the_own_store_only_files_count_and_a_store_of_nobody_is_named(place: Place) -> None:
    receipt = place.mine.put(1)
    assert place.elsewhere.held(uids(1)[0]) == {receipt.sop_instance_uid}
    place.mine.file(receipt).unlink()
    assert place.elsewhere.held(uids(1)[0]) == set()
    lost = place.other.stored.put(2)
    _, why = place.elsewhere.away([stored_of(lost)])
    assert f"dicom-router store forget {lost.store}" in why


def test_one_that_is_not_to_be_reached_is_not_asked_again_at_once(place: Place) -> None:
    receipt = place.other.stored.put(1)
    place.announce(f"127.0.0.1:{free_port()}")
    assert place.elsewhere.away([stored_of(receipt)])[1] == ""
    with pytest.raises(StoreAway, match="replica-b, which holds instances of it, is not to be reached"):
        place.elsewhere.open(stored_of(receipt))
    assert "is not to be reached" in place.elsewhere.away([stored_of(receipt)])[1]


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        (lambda content: (200, content[:-100], len(content)), StoreAway, "replica-b"),
        (lambda content: (200, content[:-100], len(content) - 100), StoreError, "something else than it received"),
        (lambda content: (200, b"x" * len(content), len(content)), StoreError, "something else than it received"),
        (lambda content: (503, b"", 0), StoreAway, "cannot give instances now"),
        (lambda content: (404, b"", 0), StoreError, "does not hold an instance any more"),
    ],
    ids=["broken-off", "short", "another", "busy", "gone"],
)
def test_what_is_not_as_it_was_received_is_not_taken(
    place: Place,
    answers: Callable[[bytes], tuple[int, bytes, int]],
    error: type[Exception],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[http.client.HTTPResponse] = []

    def getresponse(self: http.client.HTTPConnection) -> http.client.HTTPResponse:
        given.append(really(self))
        return given[-1]

    really = http.client.HTTPConnection.getresponse
    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", getresponse)
    place.announce()
    receipt = place.other.stored.put(1)
    place.other.answers = answers
    with pytest.raises(error, match=words) as raised:
        place.elsewhere.open(stored_of(receipt))
    assert {one.isclosed() for one in given} == {True}, "a connection is left open"
    assert isinstance(raised.value, StoreAway) is (error is StoreAway)
    assert uids(1)[0] not in str(raised.value)
    assert list(place.store.incoming.iterdir()) == []


def test_one_that_gives_too_much_already_is_asked_again_and_is_not_away(place: Place) -> None:
    place.announce()
    receipt, busy = place.other.stored.put(1), iter([503, 503, 503])
    place.other.answers = lambda content: (next(busy, 200), content, len(content))
    os.close(place.elsewhere.open(stored_of(receipt))[0])
    assert len(place.other.asked) == 4
    assert len(place.slept) == 3
    assert 0 < min(place.slept) <= max(place.slept) <= 1

    place.other.asked.clear()
    place.other.answers = lambda _: (503, b"", 0)
    with pytest.raises(StoreAway, match="cannot give instances now"):
        place.elsewhere.open(stored_of(receipt))
    assert len(place.other.asked) == BUSY_TRIES, "not for ever"
    assert place.elsewhere.away([stored_of(receipt)]) == (frozenset(), ""), "it lives: the others are asked for"
    place.other.answers = lambda content: (200, content, len(content))
    os.close(place.elsewhere.open(stored_of(receipt))[0])


def test_a_checksum_that_is_known_is_compared(place: Place) -> None:
    place.announce()
    receipt = place.other.stored.put(1)
    content = place.other.stored.file(receipt).read_bytes()
    place.ledger.keep_checksums([(receipt, hashlib.sha256(content).digest())])
    os.close(place.elsewhere.open(stored_of(receipt))[0])
    changed = bytearray(content)
    changed[-1] ^= 1
    place.other.answers = lambda _: (200, bytes(changed), len(changed))
    with pytest.raises(StoreError, match="is not what was received there"):
        place.elsewhere.open(stored_of(receipt))


def test_where_there_is_no_room_or_no_ledger_here_it_is_away_and_not_damaged(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is damaged is given up; this is not."""
    place.announce()
    wanted = stored_of(place.other.stored.put(1))

    def full() -> None:
        raise StoreRefused(0xA700, "out-of-space", "Out of space")

    place.fetcher = Fetcher(place.store.incoming, lambda: place.settings, check_space=full)
    with pytest.raises(StoreAway, match="make room"):
        place.anew().open(wanted)

    def away(*_: object) -> None:
        raise LedgerError("The ledger is away.")

    monkeypatch.setattr(place.ledger, "indexed_instance", away)
    with pytest.raises(StoreAway, match="The ledger is away"):
        place.anew().open(wanted)


def test_without_the_token_nothing_is_given_and_the_sentence_says_so(place: Place, tmp_path: Path) -> None:
    place.announce()
    stored = stored_of(place.other.stored.put(1))
    holder = Holder("replica-b", place.other.address)
    (tmp_path / "token").write_text("another-token-of-this-one", encoding="utf-8")
    with pytest.raises(StoreAway, match=r"does not accept this one's token \(401\)"):
        place.fetcher.fetch(holder, stored)
    place.settings = RouterSettings()
    with pytest.raises(StoreAway, match=r"router\.token only, and the configuration has none"):
        place.fetcher.fetch(holder, stored)
    with pytest.raises(StoreAway, match=r"answers over TLS, this one has no router\.http_tls"):
        place.fetcher.fetch(Holder("replica-b", f"https://{place.other.address}"), stored)


def test_of_a_big_instance_only_the_beginning_is_fetched_for_its_header(place: Place) -> None:
    place.announce()
    receipt = place.other.stored.put(1)
    content = place.other.stored.file(receipt).read_bytes()
    big = content + bytes(64 << 20)
    place.other.answers = lambda _: (200, big, len(big))
    with place.elsewhere.reading(stored_of(receipt)) as file:
        header = header_in(file, [PATIENT_NAME])
    assert header is not None
    assert header.text("PatientName") == "Doe^Jane"
    assert place.other.bytes_given == 0, "the connection ended long before all of it was written"
