"""Stopped routes: what stops one, what does not, the probe, and how it flows again. No network, no waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.causes import CAUSES
from router.domain.dicom import SubOperationCounts
from router.domain.events import RouteResumed, RouteStopped
from router.domain.route import (
    DISGUISES,
    REPETITIONS,
    STUDIES,
    Run,
    Sign,
    grounds,
    probe_seconds,
    proves,
    sign,
    suspicions,
)
from router.domain.rule import Node, Retry
from router.domain.transfer import Happening, Route, State, Transfer
from router.engine.ports import MoveProgress, MoveRequest, MoveResult
from router.errors import AssociationAborted, AssociationRejected, ConnectionLost, WireError
from tests.support.engine import Bench

ROUTE = Route("pacs", "local")
EMPTY = SubOperationCounts()
QUICK = ["aborted", "connection-lost"]
SLOW = ["suboperations-impossible", "unable-to-process"]


def run(cause: str, transfer: int = 1, at: float = 0.0, lasting: float = 0.5, **more: Any) -> Run:
    return Run(transfer, cause, at, at + lasting, **more)


# --- what a run says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (run("destination-unknown"), Sign.STOPS),
        (run("class-not-supported"), Sign.STOPS),
        (run("not-authorised"), Sign.STOPS),
        (run("no-context"), Sign.STOPS),
        (run("rejected"), Sign.STOPS),
        (run("destination-unknown", responded=True), Sign.PASSED),
        (run("rejected", done=1), Sign.PASSED),
        (run("aborted"), Sign.SUSPECT),
        (run("aborted", lasting=3), Sign.SILENT),
        (run("aborted", responded=True), Sign.PASSED),
        (run("connection-lost"), Sign.SUSPECT),
        (run("connection-lost", lasting=3), Sign.SILENT),
        (run("unable-to-process", lasting=60), Sign.SUSPECT),
        (run("unable-to-process", done=2), Sign.PASSED),
        (run("suboperations-impossible", lasting=60), Sign.SUSPECT),
        (run("suboperations-impossible", responded=True), Sign.SUSPECT),
        (run("suboperations-impossible", done=1), Sign.PASSED),
        (run("success"), Sign.PASSED),
        (run("some-failed"), Sign.PASSED),
        (run("timeout"), Sign.SILENT),
        (run("unreachable"), Sign.SILENT),
        (run("rejected-busy"), Sign.SILENT),
        (run("all-failed"), Sign.SILENT),
        (run("all-failed", responded=True), Sign.PASSED),
    ],
)
def test_what_a_run_says(one: Run, expected: Sign) -> None:
    assert sign(one) is expected


def test_every_disguise_is_a_cause() -> None:
    assert set(DISGUISES) <= set(CAUSES)


def gathered(*runs: Run) -> tuple[Run, ...]:
    found: tuple[Run, ...] = ()
    for one in runs:
        found = suspicions(found, one)
    return found


@pytest.mark.parametrize("first", QUICK)
@pytest.mark.parametrize("second", QUICK)
@pytest.mark.parametrize("transfer", [1, 2])
def test_two_quick_refusals_in_a_row_are_enough(first: str, second: str, transfer: int) -> None:
    assert grounds(gathered(run(first))) == ""
    said = grounds(gathered(run(first), run(second, transfer, at=1)))
    assert DISGUISES[second].words in said
    assert "AE title" in said


def test_two_at_the_same_time_are_one() -> None:
    assert grounds(gathered(run("aborted", 1, at=0), run("aborted", 2, at=0.2))) == ""


@pytest.mark.parametrize("slow", SLOW)
def test_a_destination_that_may_be_down_takes_several_studies(slow: str) -> None:
    assert grounds(gathered(*(run(slow, 1, at=n) for n in range(20)))) == "", "one study may be at fault itself"
    assert grounds(gathered(*(run(slow, n, at=n) for n in range(STUDIES - 1)))) == ""
    assert "full" in grounds(gathered(*(run(slow, n, at=n) for n in range(STUDIES))))


@given(st.lists(st.tuples(st.sampled_from(sorted(DISGUISES)), st.integers(1, 3)), max_size=30))
def test_suspicion_never_grows_without_bound_nor_stops_for_less(met: list[tuple[str, int]]) -> None:
    found = gathered(*(run(cause, transfer, at=n) for n, (cause, transfer) in enumerate(met)))
    assert len(found) <= REPETITIONS + STUDIES
    if grounds(found):
        quick = sum(not DISGUISES[cause].slow_to_show for cause, _ in met)
        assert quick >= REPETITIONS or len({transfer for _, transfer in met}) >= STUDIES


@given(st.floats(0, 1e7), st.integers(0, 10_000))
def test_probes_are_never_hasty_and_never_rare(first: float, probes: int) -> None:
    seconds = probe_seconds(first, probes)
    assert max(1.0, min(first, 3600)) <= seconds <= max(first, 3600)


def test_the_wait_between_probes_doubles_up_to_an_hour() -> None:
    assert [probe_seconds(900, n) for n in range(4)] == [900, 1800, 3600, 3600]


def test_what_proves_that_a_route_works() -> None:
    assert proves("destination-unknown", run("", responded=True))
    assert not proves("destination-unknown", run(""))
    assert not proves("suboperations-impossible", run("", responded=True)), "it is sent, but does it arrive?"
    assert proves("suboperations-impossible", run("", done=1))
    assert proves("destination-unknown", run("success-uncounted"))


# --- the engine ------------------------------------------------------------------------------------------------------


class Stop(Bench):
    """An archive with studies, and an answer to every C-MOVE that a test sets."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        for number in range(1, 6):
            self.peers.add("pacs", f"1.{number}", f"1.{number}.1", f"1.{number}.1.1", f"1.{number}.1.2")
        self.honest = self.peers.move

    def refuse(self, how: int | WireError, *, pending: bool = False) -> None:
        """Answer every C-MOVE with a status, or an error, moving nothing."""

        def move(
            node: Node, request: MoveRequest, *, on_response: Callable[[MoveProgress], None], **_: Any
        ) -> MoveResult:
            self.peers.requests.append((node.name, request))
            self.clock.advance(0.01)
            if pending:
                on_response(MoveProgress(status=0xFF00, counts=SubOperationCounts(2, 0, 0, 0)))
            if isinstance(how, WireError):
                raise how
            on_response(MoveProgress(status=how, counts=EMPTY))
            return MoveResult(status=how, counts=EMPTY)

        self.peers.move = move  # type: ignore[method-assign]

    def cure(self) -> None:
        self.peers.move = self.honest  # type: ignore[method-assign]

    def settle(self) -> list[Transfer]:
        """Work until nothing is due any more, letting the waits of those pass that no stop keeps."""
        for _ in range(200):
            if self.step() is None:
                stopped = {one.route for one in self.ledger.stopped_routes()}
                going = [
                    t
                    for t in self.ledger.transfers()
                    if not t.ended and (t.state is not State.QUEUED or t.route not in stopped)
                ]
                if not going:
                    break
                self.clock.advance(max(0.0, (min(t.next_at for t in going) - self.clock.now()).total_seconds()) + 0.001)
        self.stopped.look(self.rules, self.clock.now())
        return sorted(self.ledger.transfers(), key=lambda one: one.id)

    @property
    def asked(self) -> int:
        return len(self.peers.requests)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Stop]:
    bench = Stop(tmp_path)
    bench.to("local", retry=Retry(attempts=3))
    yield bench
    bench.ledger.close()


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        (0xA801, "destination-unknown"),
        (0x0122, "class-not-supported"),
        (0x0124, "not-authorised"),
        (AssociationRejected(1, 1, 3, "pacs rejects this router."), "rejected-calling-ae-title"),
    ],
)
def test_one_plain_answer_stops_the_route_for_all_its_studies(bench: Stop, how: Any, cause: str) -> None:
    bench.refuse(how)
    bench.sweep()
    transfers = bench.settle()
    assert bench.asked == 1, "the others were not even asked for"
    assert [(t.state, t.attempts) for t in transfers] == [(State.QUEUED, 0)] * 5
    assert sum(t.cause == cause for t in transfers) == 1
    (one,) = bench.ledger.stopped_routes()
    assert (one.route, one.cause, one.probes) == (ROUTE, cause, 0)
    assert (one.probe_at - one.stopped_at).total_seconds() == 900
    (event,) = bench.of(RouteStopped)
    assert (event.source, event.destination, event.cause) == ("pacs", "local", cause)
    assert one.reason == event.message != ""


def test_other_routes_of_the_source_go_on(bench: Stop) -> None:
    bench.to("ws", "local")
    honest = bench.honest

    def move(node: Node, request: MoveRequest, **named: Any) -> MoveResult:
        if request.destination_ae_title == "WS":
            return MoveResult(status=0xA801, counts=EMPTY)
        return honest(node, request, **named)

    bench.peers.move = move  # type: ignore[method-assign]
    bench.sweep()
    states = {(t.intent.destination, t.state) for t in bench.settle()}
    assert states == {("ws", State.QUEUED), ("local", State.COMPLETE)}


@pytest.mark.parametrize(
    ("how", "requests"),
    [
        (AssociationAborted(2, 0, "pacs aborted."), REPETITIONS),
        (ConnectionLost("pacs closed the connection."), REPETITIONS),
        (0xC000, STUDIES),
        (0xC123, STUDIES),
        (0xA702, STUDIES),
    ],
)
def test_a_disguise_takes_repetition(bench: Stop, how: Any, requests: int) -> None:
    bench.refuse(how)
    bench.sweep()
    transfers = bench.settle()
    (one,) = bench.ledger.stopped_routes()
    assert bench.asked == requests
    assert one.reason.endswith(("Enter them there.", "not full?"))
    assert {t.state for t in transfers} == {State.QUEUED}
    assert max(t.attempts for t in transfers) == 1


def test_one_study_that_the_source_cannot_process_stops_nothing_and_ends(bench: Stop) -> None:
    honest = bench.honest

    def move(node: Node, request: MoveRequest, **named: Any) -> MoveResult:
        if request.study_instance_uid == "1.3":
            return MoveResult(status=0xC000, counts=EMPTY)
        return honest(node, request, **named)

    bench.peers.move = move  # type: ignore[method-assign]
    bench.sweep()
    for _ in range(5):
        bench.clock.advance(3601)
        bench.settle()
    states = {t.intent.study_instance_uid: t.state for t in bench.ledger.transfers()}
    assert states.pop("1.3") is State.FAILED
    assert set(states.values()) == {State.COMPLETE}
    assert bench.of(RouteStopped) == []


def test_a_study_that_may_itself_be_why_the_route_is_stopped_lets_others_try_first(bench: Stop) -> None:
    honest = bench.honest
    asked: list[str] = []

    def move(node: Node, request: MoveRequest, **named: Any) -> MoveResult:
        asked.append(request.study_instance_uid)
        if request.study_instance_uid == "1.1" or len(asked) < 3:
            raise AssociationAborted(0, 0, "pacs aborted.")
        return honest(node, request, **named)

    bench.peers.move = move  # type: ignore[method-assign]
    bench.sweep()
    bench.settle()
    for _ in range(12):
        bench.clock.advance(3601)
        bench.settle()
    states = {t.intent.study_instance_uid: t.state for t in bench.ledger.transfers()}
    assert states.pop("1.1") is State.FAILED
    assert set(states.values()) == {State.COMPLETE}


def test_one_refusal_of_many_successes_stops_nothing(bench: Stop) -> None:
    honest = bench.honest

    def move(node: Node, request: MoveRequest, **named: Any) -> MoveResult:
        if request.study_instance_uid == "1.3":
            raise AssociationAborted(0, 0, "pacs aborted.")
        return honest(node, request, **named)

    bench.peers.move = move  # type: ignore[method-assign]
    for number in range(6, 20):
        bench.peers.add("pacs", f"1.{number}", f"1.{number}.1", f"1.{number}.1.1")
    bench.sweep()
    for _ in range(30):
        bench.step()
    assert bench.ledger.stopped_routes() == []
    assert sum(t.state is State.COMPLETE for t in bench.ledger.transfers()) >= 12


def test_an_abort_after_a_pending_response_is_no_disguise(bench: Stop) -> None:
    bench.refuse(AssociationAborted(0, 0, "pacs aborted."), pending=True)
    bench.sweep()
    assert {t.state for t in bench.settle()} == {State.FAILED}
    assert bench.ledger.stopped_routes() == []


def test_images_that_arrive_in_spite_of_what_the_source_says_stop_nothing(bench: Stop) -> None:
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0xA702, counts=EMPTY)
    bench.sweep()
    assert {t.state for t in bench.settle()} == {State.COMPLETE}
    assert bench.ledger.stopped_routes() == []


def test_a_store_of_ours_that_refuses_is_not_the_source_s_fault(bench: Stop) -> None:
    bench.to("local", retry=Retry(attempts=1))
    bench.refuse(0xA702)
    refusing = bench.peers.move

    def move(*arguments: Any, **named: Any) -> MoveResult:
        bench.refusals.note("out-of-space")
        return refusing(*arguments, **named)

    bench.peers.move = move  # type: ignore[method-assign]
    bench.sweep()
    transfers = bench.settle()
    assert {t.state for t in transfers} == {State.FAILED}
    assert bench.ledger.stopped_routes() == []
    assert "its disk has too little free space" in bench.ledger.attempts(transfers[0].id)[0].reason


def test_a_receiver_of_ours_that_is_down_is_not_the_source_s_fault(bench: Stop) -> None:
    """However short each attempt is, and whenever in that time it began."""
    bench.to("local", retry=Retry(attempts=1))
    bench.refuse(0xA702)
    bench.refusals.receiving(False)
    bench.sweep()
    transfers = bench.settle()
    assert {t.state for t in transfers} == {State.FAILED}
    assert bench.ledger.stopped_routes() == []
    assert "a receiver of its own had ended" in bench.ledger.attempts(transfers[0].id)[0].reason
    bench.refusals.receiving(True)
    assert bench.refusals.since(time.monotonic()) == ""


def test_the_probe_is_one_transfer_and_waits_longer_each_time(bench: Stop) -> None:
    bench.refuse(0xA801)
    bench.sweep()
    bench.settle()
    probed = [bench.peers.requests[-1][1].study_instance_uid]
    for wait in (900, 1800, 3600, 3600):
        bench.clock.advance(wait - 1)
        bench.settle()
        assert bench.asked == len(probed)
        bench.clock.advance(2)
        bench.settle()
        probed.append(bench.peers.requests[-1][1].study_instance_uid)
        assert bench.asked == len(probed)
    assert len(set(probed)) == 5, "each time another one: a study may be at fault itself"
    assert {(t.state, t.attempts) for t in bench.ledger.transfers()} == {(State.QUEUED, 0)}
    assert len(bench.of(RouteStopped)) == 1


@pytest.mark.parametrize("how", [0xA801, 0xC000, 0xA702])
def test_a_probe_that_gets_through_lets_all_flow(bench: Stop, how: int) -> None:
    bench.refuse(how)
    bench.sweep()
    bench.settle()
    bench.cure()
    bench.clock.advance(901)
    assert {t.state for t in bench.settle()} == {State.COMPLETE}
    assert bench.ledger.stopped_routes() == []
    assert [(e.source, e.destination) for e in bench.of(RouteResumed)] == [ROUTE]


def test_a_probe_in_disguise_keeps_it_stopped_and_each_study_tries_in_turn(bench: Stop) -> None:
    bench.refuse(0xA801)
    bench.sweep()
    bench.settle()
    assert {(t.state, t.attempts) for t in bench.ledger.transfers()} == {(State.QUEUED, 0)}
    bench.refuse(0xC000)
    for _ in bench.ledger.transfers():
        bench.clock.advance(3601)
        bench.settle()
    assert {(t.state, t.attempts) for t in bench.ledger.transfers()} == {(State.QUEUED, 1)}
    (one,) = bench.ledger.stopped_routes()
    assert one.cause == "unable-to-process"


def test_the_first_sign_of_life_of_a_probe_is_enough(bench: Stop) -> None:
    """A probe may be a study of hours: the others do not wait for its end."""
    bench.refuse(0xA801)
    bench.sweep()
    bench.settle()
    seen: list[int] = []

    def move(node: Node, request: MoveRequest, *, on_response: Callable[[MoveProgress], None], **_: Any) -> MoveResult:
        on_response(MoveProgress(status=0xFF00, counts=SubOperationCounts(2, 0, 0, 0)))
        seen.append(len(bench.ledger.stopped_routes()))
        return MoveResult(status=0xB000, counts=SubOperationCounts(None, 0, 2, 0))

    bench.peers.move = move  # type: ignore[method-assign]
    bench.clock.advance(901)
    bench.step()
    assert seen == [0]


def test_a_probe_that_has_nothing_to_move_leaves_it_to_another(bench: Stop) -> None:
    bench.refuse(0xA801)
    bench.sweep()
    bench.settle()
    for number in (2, 3):
        del bench.peers.holdings["pacs"][f"1.{number}"]
    bench.clock.advance(901)
    states = {t.intent.study_instance_uid: t.state for t in bench.settle()}
    assert bench.asked == 2
    assert sorted(states.values()) == [State.NOTHING] * 2 + [State.QUEUED] * 3


def test_a_persons_word_tries_it_at_once(bench: Stop) -> None:
    bench.refuse(0xA801)
    bench.sweep()
    number = bench.settle()[0].id
    for happening in (Happening.AGAIN, Happening.RELEASE):
        before = bench.asked
        bench.ledger.apply(number, happening, bench.clock.now())
        bench.settle()
        assert bench.asked == before + 1


def test_another_configuration_tries_it_at_once_and_forgets_removed_nodes(bench: Stop) -> None:
    bench.refuse(0xA801)
    bench.sweep()
    bench.settle()
    bench.rules = msgspec.structs.replace(bench.rules, content_hash="changed")
    bench.settle()
    assert bench.asked == 2
    bench.rules = msgspec.structs.replace(
        bench.rules, content_hash="again", nodes={"ws": bench.rules.nodes["ws"]}, rules={}
    )
    bench.settle()
    assert bench.ledger.stopped_routes() == []
    assert len(bench.of(RouteResumed)) == 1


def test_a_restart_knows_what_is_stopped(bench: Stop) -> None:
    bench.refuse(0xA801)
    bench.sweep()
    bench.settle()
    bench.stopped = type(bench.stopped)(bench.ledger, bench.events.append)
    bench.settle()
    assert bench.asked == 1, "the configuration is the same: it waits for its time"
    assert len(bench.of(RouteStopped)) == 2, "whoever watches the new service is told again"
