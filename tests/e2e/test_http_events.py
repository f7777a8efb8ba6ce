"""Server-sent events: what changes on the board reaches those who listen, and nobody who listens holds up another."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from router.domain.board import Board
from router.domain.rule import PageSettings, RouterSettings
from router.errors import LedgerError
from router.web import bounded, stream
from router.web.server import HttpServer
from tests.support.process import wait_for
from tests.support.web import PATIENT, STUDY, TOKEN, Configuration, Reply, Visitor, Work

SHOWN = RouterSettings(page=PageSettings(identifiers=True))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """What the service shows."""
    return Work(tmp_path)


@pytest.fixture
def configuration() -> Configuration:
    """With a token, and identifiers for who shows it."""
    one = Configuration()
    one.secret = TOKEN
    one.settings = SHOWN
    return one


@pytest.fixture
def server(work: Work, configuration: Configuration, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    """The events of it."""
    monkeypatch.setattr(stream, "EVERY_SECONDS", 0.1)
    one = HttpServer(work, configuration, "127.0.0.1", 0)
    one.start()
    yield one
    one.stop()


class Listener:
    """Somebody who listens to the events."""

    def __init__(self, port: int, **headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        lines = [f"{name}: {value}" for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items()]
        # HTTP/1.0: what comes is not cut into chunks.
        self.socket.sendall("\r\n".join(["GET /api/v1/events HTTP/1.0", *lines, "", ""]).encode())
        self._stream = self.socket.makefile("rb")
        self.status = int(self._stream.readline().split()[1])
        self.headers: dict[str, str] = {}
        while line := self._stream.readline().decode().strip():
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self.comments = 0
        self.last_id = 0

    def event(self) -> dict[str, str] | None:
        """The sections of the next event; None at the end."""
        name = data = ""
        for raw in self._stream:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("id: "):
                assert int(line[4:]) > self.last_id
                self.last_id = int(line[4:])
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and data:
                assert name in ("board", "heartbeat")
                if name == "board":
                    return dict(json.loads(data))
                data = ""
        return None

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


@contextlib.contextmanager
def listening(port: int, **headers: str) -> Iterator[Listener]:
    one = Listener(port, **headers)
    try:
        yield one
    finally:
        one.close()


def test_all_sections_come_first_and_then_those_that_change(server: HttpServer, work: Work) -> None:
    with listening(server.port) as listener:
        assert (listener.status, listener.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert listener.headers["cache-control"] == "no-store"
        first = listener.event()
        assert first is not None
        assert {"live", "queues", "nodes", "rules", "failures", "activity"} <= set(first)
        assert "It did not work." in first["failures"]
        assert work.saying.say("retry", 1).state == "queued"
        changed = listener.event()
        assert changed is not None
        assert "failures" in changed
        assert "It did not work." not in changed["failures"]
        assert "nodes" not in changed or changed["nodes"] != first["nodes"]


def test_nobody_who_has_not_shown_the_token_hears_an_identifier(server: HttpServer) -> None:
    with listening(server.port) as masked, listening(server.port, Authorization=f"Bearer {TOKEN}") as trusted:
        text, shown = json.dumps(masked.event()), json.dumps(trusted.event())
    for secret in (STUDY, PATIENT):
        assert secret not in text
    assert STUDY in shown


def test_sections_hold_no_key_of_a_form(server: HttpServer) -> None:
    visitor = Visitor(server.port)
    visitor.log_in()
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    with listening(server.port, Cookie=cookie) as listener:
        assert visitor.form_key() not in json.dumps(listener.event())


def test_who_logs_out_hears_no_more(server: HttpServer) -> None:
    visitor = Visitor(server.port)
    visitor.log_in()
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    with listening(server.port, Cookie=cookie) as listener:
        first = listener.event()
        assert first is not None
        assert STUDY in json.dumps(first)
        assert visitor.do("/logout").status == 303
        assert listener.event() is None


def test_a_new_token_ends_what_was_heard_with_the_old_one(server: HttpServer, configuration: Configuration) -> None:
    with listening(server.port, Authorization=f"Bearer {TOKEN}") as listener:
        assert listener.event() is not None
        configuration.secret = "another token than before"
        assert listener.event() is None


def test_a_wrong_token_hears_nothing(server: HttpServer) -> None:
    with listening(server.port, Authorization="Bearer nonsense") as listener:
        assert listener.status == 401


def test_one_listener_too_many_is_told_to_come_again_and_one_that_goes_makes_room(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MOST_LISTENERS", 3)
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listening(server.port)) for _ in range(3)]
        assert [one.status for one in listeners] == [200] * 3
        refused = Reply(server.port, "/api/v1/events")
        assert (refused.status, refused.headers["retry-after"]) == (503, "10")
        listeners[0].close()

        def room() -> bool:
            with listening(server.port) as one:
                return one.status == 200

        wait_for(room, "room for another listener")


def test_asking_for_the_headers_alone_is_no_listening(server: HttpServer) -> None:
    reply = Reply(server.port, "/api/v1/events", method="HEAD")
    assert (reply.status, reply.body) == (200, b"")


def test_the_board_is_asked_for_only_while_somebody_listens_and_once_for_all(
    server: HttpServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    real = work.real_boards

    class Counting:
        def board(self, *, identifiers: bool) -> Board:
            asked.append(identifiers)
            return real.board(identifiers=identifiers)

    work.boards = Counting()
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            assert stack.enter_context(listening(server.port)).event() is not None
        begun, began = len(asked), time.monotonic()
        time.sleep(1.0)
        rounds, most = len(asked) - begun, (time.monotonic() - began) / stream.EVERY_SECONDS + 1
        assert set(asked) == {False}
    assert rounds <= most, "one for all, not one for each"
    wait_for(lambda: (before := len(asked), time.sleep(0.5), len(asked) == before)[2], "nobody asks any more")


def test_a_ledger_that_fails_for_a_while_is_told_to_who_listens_and_then_all_comes_anew(
    server: HttpServer, work: Work
) -> None:
    class Failing:
        def board(self, *, identifiers: bool) -> Board:
            raise LedgerError("The ledger x cannot be read <now>.")

    with listening(server.port) as listener:
        first = listener.event()
        real, work.boards = work.boards, Failing()
        told = listener.event()
        assert told is not None
        assert set(told) == {"summary"}
        assert "The ledger x cannot be read &lt;now&gt;." in told["summary"]
        assert "What stands below is as it was before that." in told["summary"]
        work.boards = real
        assert listener.event() == first


def test_a_defect_while_the_board_is_made_ends_no_stream(server: HttpServer, work: Work) -> None:
    class Failing:
        def board(self, *, identifiers: bool) -> Board:
            raise ZeroDivisionError

    with listening(server.port) as listener:
        assert listener.event() is not None
        real, work.boards = work.boards, Failing()
        time.sleep(0.5)
        work.saying.say("retry", 1)
        work.boards = real
        assert listener.event() is not None


def test_a_stream_without_news_lives_longer_than_idle_connections_and_says_so(
    work: Work, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.2)
    server = HttpServer(work, configuration, "127.0.0.1", 0)
    server.start()
    try:
        with listening(server.port) as listener:
            assert listener.event() is not None
            time.sleep(2.0)
            work.saying.say("retry", 1)
            assert listener.event() is not None
            assert listener.comments >= 2
    finally:
        server.stop()


def test_a_listener_that_does_not_read_is_dropped_and_holds_up_nobody(
    server: HttpServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "READ_SECONDS", 5.0)  # for the one that reads as well
    monkeypatch.setattr(stream, "MOST_LISTENERS", 2)
    boards = Growing(work)
    work.boards = boards
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.settimeout(30)
    deaf.connect(("127.0.0.1", server.port))
    deaf.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
    with deaf, listening(server.port) as listener:
        for _ in range(10):
            assert listener.event() is not None

        def dropped() -> bool:
            assert listener.event() is not None
            with listening(server.port) as one:
                return one.status == 200

        wait_for(dropped, "the one that does not read to be dropped")


def test_a_listener_whose_computer_takes_no_more_makes_room_though_little_is_sent(
    server: HttpServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "DEAD_SECONDS", 2.0)
    monkeypatch.setattr(stream, "MOST_LISTENERS", 1)
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.2)
    work.boards = Growing(work, rounds=1)
    asleep = socket.socket()
    asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asleep.settimeout(30)
    asleep.connect(("127.0.0.1", server.port))
    asleep.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())

    def there_is_room() -> bool:
        with listening(server.port) as one:
            return one.status == 200

    with asleep:
        wait_for(lambda: not there_is_room(), "the one that sleeps to be let in")
        wait_for(there_is_room, "the one that sleeps to be dropped")


class Growing:
    """A board with long reasons that are others each time, so many times."""

    def __init__(self, work: Work, rounds: int = 1 << 30) -> None:
        self._now = work.clock.now
        self._rounds = rounds
        self._seen = work.lookup.transfer(1, identifiers=False, appointments=False).transfer
        self._number = 0

    def board(self, *, identifiers: bool) -> Board:
        self._number = min(self._number + 1, self._rounds)
        long = msgspec.structs.replace(self._seen, reason=f"{self._number} " + "x" * 30_000)
        return Board(at=self._now(), identifiers=identifiers, states={}, failures=(long,) * 20)


def test_streams_do_not_hold_up_the_end(work: Work, configuration: Configuration) -> None:
    server = HttpServer(work, configuration, "127.0.0.1", 0)
    server.start()
    with listening(server.port) as one, listening(server.port) as other:
        assert one.event() is not None
        assert other.event() is not None
        ended = threading.Thread(target=server.stop)
        ended.start()
        ended.join(30)
        assert not ended.is_alive()
        assert one.event() is None
