"""`top`: where its board is from, and what its screen says. Without a terminal and without a router."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len

from router.cli.board_screen import screen
from router.cli.board_source import Answer, BoardSource, ask
from router.domain.board import Board
from router.domain.board_ends import Mark
from router.domain.board_view import NodeNow, ServiceNow, drawn
from router.domain.condition import Condition
from router.domain.forward import Forward, Group
from router.domain.overview import ArrivingRow, BacklogRow, ServiceInfo
from router.domain.rule import Arrival, Move, RouterSettings, Rule, RuleSet, Secret
from router.domain.sweep import SweepState
from router.domain.transfer import State
from router.errors import LedgerMissing
from router.ledger.ledger import SqlLedger
from router.opening import SystemClock
from tests.contract.ledgers import intent, new, queue
from tests.support.boards import PSEUDONYMS, at, moment, rule, rules, sweep, transfer

QUEUED = BacklogRow(source="archive", destination="local", state=State.QUEUED, count=12, oldest_queued_at=at(-240))
WAITS = "archive is busy: 2 of 2 associations in use."


def busy_board(*, identifiers: bool = False) -> Board:
    """A board with something of everything."""
    given = moment(
        rules(rule("ct"), rule("mr"), rule("off", enabled=False)),
        backlog=[QUEUED],
        live=[transfer(1, completed=4, failed=1, started_at=at(-50)), transfer(2, State.VERIFYING)],
        failures=[transfer(3, State.PARTIAL, reason="The destination holds 3 of 10.", finished_at=at(-7200))],
        sweeps=[
            sweep("ct", SweepState.INCOMPLETE, matches=500, selected=12, reason="It was cut."),
            sweep("mr", matches=7, number=2),
        ],
        marks={1: Mark(0, 0, at(-50))},
        service=ServiceNow(
            nodes={"archive": NodeNow(up=True, associations=2, associations_allowed=2), "ws": NodeNow(left_alone=True)},
            planned={"ct/0": at(90), "mr/0": at(-1)},
            problems={"disk": "nearly full"},
        ),
    )
    return drawn(given, PSEUDONYMS, identifiers=identifiers)


def text(board: Board, width: int = 130, height: int | None = None) -> str:
    return "\n".join(line.plain for line in screen(Answer(board, "As the service says."), width, height))


# the screen -----------------------------------------------------------------------------------------------------------


def test_the_screen_says_what_moves_waits_and_failed_and_how_nodes_and_rules_are() -> None:
    lines = [" ".join(line.split()) for line in text(busy_board()).splitlines()]
    assert lines[0].endswith("12 queued")
    assert lines[1:3] == ["As the service says.", "disk: nearly full"]
    study = PSEUDONYMS.of
    assert f"1 {study('1.2.826.1')} ct archive local ━━━━━━━━━━·········· 4/10 1 50 s" in lines
    assert f"2 {study('1.2.826.2')} ct archive local verifying 0/10" in lines
    assert f"archive local 12 4 min {WAITS}" in lines
    assert f"3 2 h ct archive local partial {study('1.2.826.3')} The destination holds 3 of 10." in lines
    assert lines[lines.index("node state in use queued why") + 1] == (
        "ws left alone 0/1 ws does not answer; it is left alone."
    )
    assert "archive up 2/2 12" in lines
    assert lines[-5:] == [
        "rule last sweep matches to move next",
        "ct incomplete 58 s ago 500 12 in 1 min",
        "It was cut.",
        "mr complete 58 s ago 7 0 now",
        "off not enabled",
    ]


def test_replicas_are_shown_where_there_are_several() -> None:
    def info(name: str, **values: Any) -> ServiceInfo:
        usual = {
            "address": f"10.0.0.{name}:9104",
            "seen_at": at(-1),
            "started_at": at(-7200),
            "replica": f"router-{name}",
        }
        return ServiceInfo(owner=name, **(usual | values))

    def shown(*services: ServiceInfo, width: int = 130) -> list[str]:
        given = moment(service=ServiceNow(owner="1", services=services))
        return [
            " ".join(line.split()) for line in text(drawn(given, PSEUDONYMS, identifiers=False), width).splitlines()
        ]

    third = info("3", seen_at=at(-40), started_at=None, address="", work_hash="another")
    lines = shown(info("1"), info("2", leads=True, started_at=at(-90)), third)
    first = lines.index("replica state for http")
    assert lines[first + 1 : first + 5] == [
        "router-1 works 2 h 10.0.0.1:9104",
        "router-2 leads 1 min 10.0.0.2:9104",
        "router-3 silent",
        "has another configuration",
    ]
    narrow = shown(info("1"), info("2", leads=True), third, width=24)
    assert [line.split()[1] for line in narrow if line.startswith("rou…")] == ["works", "leads", "silent"]
    assert not [line for line in shown(info("1", leads=True)) if "replica" in line]


def test_an_idle_router_says_so() -> None:
    shown = text(drawn(moment(service=ServiceNow()), PSEUDONYMS, identifiers=False))
    assert "no transfers yet" in shown
    assert "Nothing moves now." in shown
    assert "failed" not in shown


def test_a_router_with_nothing_to_do_says_what_it_has_done() -> None:
    done = BacklogRow(source="archive", destination="local", state=State.COMPLETE, count=14, oldest_queued_at=None)
    shown = text(drawn(moment(service=ServiceNow(), backlog=[done]), PSEUDONYMS, identifiers=False))
    assert shown.splitlines()[0].endswith("14 complete")


@pytest.mark.parametrize("width", [20, 40, 69, 70, 109, 110, 200])
@pytest.mark.parametrize("height", [3, 10, 24, None])
def test_the_screen_fits_every_terminal(width: int, height: int | None) -> None:
    lines = text(busy_board(), width, height).splitlines()
    assert height is None or len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)


def test_a_narrow_terminal_says_why_below() -> None:
    lines = text(busy_board(), 40).splitlines()
    assert "  archive is busy: 2 of 2 associations" in lines
    assert "  in use." in lines


def test_identifiers_are_there_only_where_the_board_has_them() -> None:
    assert "1.2.826" not in text(busy_board())
    assert "…2.826.1" in text(busy_board(identifiers=True))


def test_a_name_cannot_send_anything_to_the_terminal() -> None:
    evil = drawn(
        moment(rules(rule("\x1b[31mct\n")), live=[transfer(1, rule="a\x1b]0;x\x07")]), PSEUDONYMS, identifiers=False
    )
    lines = screen(Answer(evil, "x"), 120, None)
    assert not any(character in line.plain for line in lines for character in "\x1b\x07\n")


# the source -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server that answers GET as it is told; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                answer(self)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


def sends(body: bytes, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture
def configuration(tmp_path: Path) -> RuleSet:
    settings = RouterSettings(ledger=f"sqlite:///{tmp_path}/ledger.db")
    return msgspec.structs.replace(rules(), router=settings)


@pytest.fixture
def ledger(configuration: RuleSet) -> Iterator[SqlLedger]:
    """With a study that waits, and attended by a service."""
    with SqlLedger.open(str(configuration.router.ledger)) as opened:
        opened.attend(SystemClock().now())
        queue(opened, [new(intent(1, destination="local"))])
        yield opened


def announce(ledger: SqlLedger, address: str) -> None:
    ledger.announce(ServiceInfo(owner="a", address=address, seen_at=SystemClock().now()))


def test_the_running_service_is_asked_at_the_address_that_it_announced(
    configuration: RuleSet, ledger: SqlLedger
) -> None:
    board = busy_board()
    with serving(sends(msgspec.json.encode(board))) as address, BoardSource(configuration, identifiers=False) as source:
        announce(ledger, address)
        assert source.get() == Answer(board, f"As the service at {address} says.")


def test_without_a_service_the_ledger_is_read(configuration: RuleSet, ledger: SqlLedger) -> None:
    with BoardSource(configuration, identifiers=False) as source:
        board, origin = source.get()
    assert origin == "No service runs: as the ledger has it."
    assert not board.served
    assert [(one.source, one.destination, one.queued) for one in board.queues] == [("archive", "local", 1)]


def hangs(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(600):  # a byte now and then, so that no single wait is long
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (sends(b"no", 503), "answered 503"),
        (sends(b'{"at": 1}'), "answers otherwise than this version does"),
        (sends(b"<html>"), "answers otherwise than this version does"),
        (sends(b"", 302), "answered 302"),
    ],
    ids=["busy", "something else", "no JSON", "elsewhere"],
)
def test_a_service_that_does_not_answer_as_it_should_is_told_of_and_the_ledger_read(
    configuration: RuleSet, ledger: SqlLedger, answer: Callable[[BaseHTTPRequestHandler], None], said: str
) -> None:
    with serving(answer) as address, BoardSource(configuration, identifiers=False) as source:
        announce(ledger, address)
        board, origin = source.get()
    assert origin == f"The service at {address} {said}: as the ledger has it."
    assert board.queues[0].queued == 1


def test_a_service_that_is_not_to_be_reached_is_told_of(configuration: RuleSet, ledger: SqlLedger) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    announce(ledger, address)
    with BoardSource(configuration, identifiers=False) as source:
        assert source.get().origin == f"The service at {address} is not to be reached: as the ledger has it."


def test_nobody_waits_for_a_service_that_trickles() -> None:
    with serving(hangs) as address, pytest.raises(TimeoutError):
        ask(address, seconds=0.3)


def test_no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(sends(msgspec.json.encode(busy_board()))) as address:
        assert ask(address).states["queued"] == 12


def test_the_token_is_shown_only_where_identifiers_are_asked_for(
    configuration: RuleSet, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_TOKEN", "open-sesame-open-sesame")
    router = msgspec.structs.replace(configuration.router, token=Secret(env="THE_TOKEN"))
    with_token = msgspec.structs.replace(configuration, router=router)
    shown: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        shown.append(handler.headers["Authorization"])
        sends(msgspec.json.encode(busy_board(identifiers=len(shown) == 2)))(handler)

    with serving(answer) as address:
        announce(ledger, address)
        origins = []
        for identifiers in (False, True, True):
            with BoardSource(with_token, identifiers=identifiers) as source:
                origins.append(source.get().origin)
    assert shown == [None, "Bearer open-sesame-open-sesame", "Bearer open-sesame-open-sesame"]
    assert origins[:2] == [f"As the service at {address} says."] * 2
    assert "shows no identifiers: router.page.identifiers is not set there" in origins[2]


def test_without_a_ledger_it_says_so(configuration: RuleSet) -> None:
    with pytest.raises(LedgerMissing, match="There is no ledger at"):
        BoardSource(configuration, identifiers=False)


def test_what_is_passed_on_comes_from_this_router_and_waiting_arrivals_are_counted() -> None:
    passes = Rule(
        name="onwards",
        arrival=Arrival(),
        where=Condition(),
        move=Move(to=("ws",)),
        forward=Forward(to=(Group(nodes=("ws",)),)),
    )
    waiting = msgspec.structs.replace(QUEUED, source="local", destination="ws")
    given = moment(rules(passes), backlog=[waiting], arriving=[ArrivingRow(rule="onwards", count=2, next_at=at(40))])
    lines = [" ".join(line.split()) for line in text(drawn(given, PSEUDONYMS, identifiers=False)).splitlines()]
    assert any(line.startswith("this router ws 12 4 min") for line in lines)
    assert "onwards 2 studies still arriving in 40 s" in lines
