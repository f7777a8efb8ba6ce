"""The engine where sources say little or wrong things: late data, counts only, gaps, tapes. No network, no waiting."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from router.cli import main as command_line
from router.domain.dicom import Identifier, QueryRetrieveLevel, SubOperationCounts
from router.domain.events import SubOperationsCounted, SweepEnded
from router.domain.rule import FindSettings, MoveSettings, Node, Retry, RuleSet
from router.domain.transfer import Happening, State, Transfer
from router.engine.mover import LEASE_SECONDS
from router.engine.ports import FindResult, MoveRequest, MoveResult
from router.engine.slots import Urgency
from router.errors import DeadlineExceeded
from tests.support.engine import Bench

STUDY, SERIES, IMAGE = QueryRetrieveLevel.STUDY, QueryRetrieveLevel.SERIES, QueryRetrieveLevel.IMAGE
COUNTED = MoveResult(status=0, counts=SubOperationCounts(None, 3, 0, 0))
UNCOUNTED = MoveResult(status=0, counts=SubOperationCounts())
EMPTY = MoveResult(status=0, counts=SubOperationCounts(None, 0, 0, 0))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", "1.1.1.2")
    bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1")
    yield bench
    bench.ledger.close()


def source(bench: Bench, **settings: Any) -> None:
    """Give the source other settings."""
    nodes = bench.rules.nodes | {"pacs": msgspec.structs.replace(bench.rules.nodes["pacs"], **settings)}
    rules = bench.rules
    bench.rules = RuleSet(router=rules.router, nodes=nodes, rules=rules.rules, content_hash="z")


def lists(bench: Bench, keep: Callable[[str, QueryRetrieveLevel, Identifier], bool]) -> None:
    """Leave out of every answer what is not to be kept: by node, level and row."""
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: Any) -> FindResult:
        rows = honest(node, level, keys, **named).identifiers
        return FindResult(identifiers=[row for row in rows if keep(node.name, level, row)], status=0)

    bench.peers.find = find  # type: ignore[method-assign]


def no_lists(bench: Bench) -> None:
    """The source answers nothing at IMAGE level."""
    lists(bench, lambda name, level, _: (name, level) != ("pacs", IMAGE))


def late(bench: Bench, answer: MoveResult) -> Callable[[int], None]:
    """The source reports success at once and sends nothing yet; what is returned sends the first so many instances."""
    requests: list[MoveRequest] = []

    def move(node: Node, request: MoveRequest, **named: Any) -> MoveResult:
        bench.peers.requests.append((node.name, request))
        requests.append(request)
        return answer

    bench.peers.move = move  # type: ignore[method-assign]
    instances = [("1.1.1", "1.1.1.1"), ("1.1.1", "1.1.1.2"), ("1.1.2", "1.1.2.1")]

    def send(number: int) -> None:
        for series, uid in instances[:number]:
            bench.peers._arrive(requests[0], series, uid)

    return send


def pass_time(bench: Bench, seconds: float) -> None:
    """Let time pass, and the engine do all that becomes due meanwhile."""
    until = bench.clock.now() + timedelta(seconds=seconds)
    while bench.clock.now() < until:
        while bench.step() is not None:
            pass
        due = [t.next_at for t in bench.ledger.transfers() if not t.ended]
        bench.clock.time = min([until, *(moment for moment in due if moment > bench.clock.now())])
    while bench.step() is not None:
        pass


# data that comes late -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", ["local", "ws"])
@pytest.mark.parametrize("answer", [COUNTED, UNCOUNTED, EMPTY])
def test_success_at_once_and_data_a_minute_later_is_complete_and_not_moved_twice(
    bench: Bench, destination: str, answer: MoveResult
) -> None:
    bench.to(destination)
    send = late(bench, answer)
    bench.sweep()
    pass_time(bench, 60)
    assert [t.state for t in bench.ledger.transfers()] == [State.VERIFYING]
    send(3)
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed) == (State.COMPLETE, 3)
    assert len(bench.peers.requests) == 1


@pytest.mark.parametrize("destination", ["local", "ws"])
def test_what_trickles_in_is_waited_for_as_long_as_it_comes(bench: Bench, destination: str) -> None:
    bench.to(destination)
    send = late(bench, COUNTED)
    bench.sweep()
    pass_time(bench, 50)
    for number in (1, 2):
        send(number)
        pass_time(bench, 25)
        assert [t.state for t in bench.ledger.transfers()] == [State.VERIFYING]
        assert len(bench.peers.requests) == 1
    send(3)
    (transfer,) = bench.finish()
    assert (transfer.state, len(bench.peers.requests)) == (State.COMPLETE, 1)


def test_what_never_comes_is_asked_for_again_after_some_minutes(bench: Bench) -> None:
    late(bench, COUNTED)
    bench.sweep()
    pass_time(bench, 300)
    assert len(bench.peers.requests) > 1


# expectations from counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", ["local", "ws"])
def test_without_lists_the_series_that_is_short_is_repaired_by_its_count(bench: Bench, destination: str) -> None:
    bench.to(destination)
    no_lists(bench)
    bench.peers.deliver = lambda wanted: [w for w in wanted if w[0] == "1.1.1"] if len(wanted) == 3 else wanted
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0, counts=SubOperationCounts(None, wanted, 0, 0))
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.expected, transfer.completed) == (State.COMPLETE, 3, 3)
    first, second = (request for _, request in bench.peers.requests)
    assert (first.level, second.level, second.series_instance_uids) == (STUDY, SERIES, ("1.1.2",))


def test_without_lists_a_gap_that_stays_ends_after_two_rounds(bench: Bench) -> None:
    no_lists(bench)
    bench.peers.deliver = lambda wanted: [w for w in wanted if w[0] == "1.1.1"]
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed, transfer.rounds) == (State.PARTIAL, 2, 2)
    assert "1 series are not whole" in transfer.reason
    assert [request.series_instance_uids for _, request in bench.peers.requests] == [(), ("1.1.2",), ("1.1.2",)]


def test_an_empty_list_of_one_series_is_made_up_for_by_its_count(bench: Bench) -> None:
    lists(bench, lambda name, level, row: not (name == "pacs" and row.text("SOPInstanceUID") == "1.1.2.1"))
    bench.peers.deliver = lambda wanted: [w for w in wanted if w[0] == "1.1.1"] if len(wanted) == 3 else wanted
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0, counts=SubOperationCounts(None, wanted, 0, 0))
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.expected, transfer.completed) == (State.COMPLETE, 3, 3)
    assert bench.peers.requests[1][1].series_instance_uids == ("1.1.2",)


def test_a_destination_that_lists_no_reports_is_unproven_rather_than_sent_them_again(bench: Bench) -> None:
    bench.to("ws")
    lists(bench, lambda name, level, row: not (name == "ws" and row.text("SOPInstanceUID") == "1.1.2.1"))
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed) == (State.UNPROVEN, 3)
    assert "does not list them all" in transfer.reason
    assert len(bench.peers.requests) == 1


@pytest.mark.parametrize(
    ("expected", "levels", "size", "state"),
    [
        ("auto", {SERIES, IMAGE}, 3, State.COMPLETE),
        ("image", {SERIES, IMAGE}, 3, State.COMPLETE),
        ("series", {SERIES}, 3, State.COMPLETE),
        ("study", {STUDY}, 3, State.UNPROVEN),
        ("none", set(), None, State.UNPROVEN),
    ],
)
def test_a_source_is_asked_what_it_can_be_trusted_with(
    bench: Bench, expected: str, levels: set[QueryRetrieveLevel], size: int | None, state: State
) -> None:
    source(bench, find=FindSettings(expected=expected))
    bench.sweep()
    bench.peers.finds.clear()
    (transfer,) = bench.finish()
    assert {level for name, level, _ in bench.peers.finds if name == "pacs"} == levels
    assert (transfer.expected, transfer.state) == (size, state)


@pytest.mark.parametrize(("expected", "state"), [("auto", State.UNPROVEN), ("image", State.COMPLETE)])
def test_a_count_that_is_too_high_matters_unless_the_lists_are_trusted(
    bench: Bench, expected: str, state: State
) -> None:
    """A source that counts rejected objects as well."""
    source(bench, find=FindSettings(expected=expected))
    bench.peers.attributes["1.1"] = {}
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: Any) -> FindResult:
        result = honest(node, level, keys, **named)
        for row in result.identifiers if (node.name, level) == ("pacs", STUDY) else []:
            row.elements.update(Identifier.of(NumberOfStudyRelatedInstances="5").elements)
        return result

    bench.peers.find = find  # type: ignore[method-assign]
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is state


def image_queries(bench: Bench) -> int:
    return sum(name == "pacs" and level is IMAGE for name, level, _ in bench.peers.finds)


def test_the_list_is_asked_for_once_for_all_destinations_until_the_count_changes(bench: Bench) -> None:
    bench.to("local", "ws")
    bench.sweep()
    bench.finish()
    assert image_queries(bench) == 2, "one for each series"
    bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.2")
    bench.sweep()
    assert {t.state for t in bench.finish()} == {State.COMPLETE}
    assert image_queries(bench) == 4
    assert len(bench.peers.holdings["ws"]["1.1"]["1.1.2"]) == 2


def test_what_is_remembered_of_sources_has_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.engine.query._CACHE_INSTANCES", 7)
    inquiry, node = bench.inquiry, bench.rules.nodes["pacs"]
    for number in range(2, 9):
        bench.peers.add("pacs", f"1.{number}", f"1.{number}.1", *(f"1.{number}.1.{one}" for one in range(3)))
    for number in range(2, 9):
        inquiry.listing(node, f"1.{number}", "", "", Urgency.MOVE, bench.never, known_count=3)
    assert inquiry._cached_instances == 6
    assert len(inquiry._listings) == 2
    bench.peers.finds.clear()
    inquiry.listing(node, "1.8", "", "", Urgency.MOVE, bench.never, known_count=3)
    assert bench.peers.finds == []


# smaller and sooner -------------------------------------------------------------------------------------------------


def too_much(bench: Bench, refuses: Callable[[MoveRequest], bool], fault: Callable[[], MoveResult]) -> None:
    honest = bench.peers.move

    def move(node: Node, request: MoveRequest, **named: Any) -> MoveResult:
        if refuses(request):
            bench.peers.requests.append((node.name, request))
            return fault()
        return honest(node, request, **named)

    bench.peers.move = move  # type: ignore[method-assign]


def a701() -> MoveResult:
    return MoveResult(status=0xA701, counts=SubOperationCounts())


def silence() -> MoveResult:
    raise DeadlineExceeded("pacs made no progress.", "timeout-inactivity")


@pytest.mark.parametrize("fault", [a701, silence])
@pytest.mark.parametrize("listed", [True, False])
def test_what_is_too_much_is_asked_for_series_by_series(
    bench: Bench, fault: Callable[[], MoveResult], listed: bool
) -> None:
    if not listed:
        no_lists(bench)
    too_much(bench, lambda request: request.level is STUDY, fault)
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert [request.series_instance_uids for _, request in bench.peers.requests] == [(), ("1.1.1",), ("1.1.2",)]


def test_then_in_lists_of_instances(bench: Bench) -> None:
    source(bench, move=MoveSettings(max_uids=1))
    too_much(bench, lambda request: request.level is not IMAGE, a701)
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed) == (State.COMPLETE, 3)
    levels = [request.level for _, request in bench.peers.requests]
    assert levels == [STUDY, SERIES, SERIES, IMAGE, IMAGE, IMAGE]


def test_a_source_that_hangs_is_not_waited_for_portion_by_portion(bench: Bench) -> None:
    bench.to("local", retry=Retry(attempts=2))
    for number in range(3, 9):
        bench.peers.add("pacs", "1.1", f"1.1.{number}", f"1.1.{number}.1")
    too_much(bench, lambda request: True, silence)
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.cause) == (State.FAILED, "timeout-inactivity")
    assert [request.level for _, request in bench.peers.requests] == [STUDY, SERIES, SERIES], "two in a row are enough"


def test_one_series_that_hangs_does_not_keep_the_others(bench: Bench) -> None:
    bench.to("local", retry=Retry(attempts=2))
    bench.peers.add("pacs", "1.1", "1.1.3", "1.1.3.1")
    too_much(bench, lambda request: request.series_instance_uids in ((), ("1.1.1",)), silence)
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.completed) == (State.PARTIAL, 2)


def waits(bench: Bench) -> list[float]:
    """Run until the transfer ends; the seconds from each C-MOVE to the next."""
    sent: list[Any] = []
    honest = bench.peers.move

    def move(node: Node, request: MoveRequest, **named: Any) -> MoveResult:
        sent.append(bench.clock.now())
        return honest(node, request, **named)

    bench.peers.move = move  # type: ignore[method-assign]
    bench.sweep()
    bench.finish()
    return [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(sent)]


def test_soon_is_some_seconds_and_not_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.999)
    bench.to("local", retry=Retry(attempts=6, delay=100.0))
    bench.peers.deliver = lambda wanted: []
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0x0110, counts=SubOperationCounts())
    gaps = waits(bench)
    assert [round(gap) for gap in gaps] == [2, 4, 8, 799, 1598]


def test_what_is_unable_to_process_is_not_asked_six_times(bench: Bench) -> None:
    bench.to("local", retry=Retry(attempts=6))
    bench.peers.deliver = lambda wanted: []
    bench.peers.answer = lambda wanted, delivered: MoveResult(
        status=0xC000, counts=SubOperationCounts(None, 0, wanted, 0)
    )
    bench.sweep()
    pass_time(bench, 7200)
    assert len(bench.peers.requests) <= 3


# what is missing, and what is counted --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 0xB000])
def test_what_a_third_party_lacks_is_remembered_by_name(bench: Bench, status: int) -> None:
    bench.to("ws")
    bench.peers.deliver = lambda wanted: [w for w in wanted if w[0] == "1.1.1"]
    bench.peers.answer = lambda wanted, delivered: MoveResult(
        status=status, counts=SubOperationCounts(None, wanted if status == 0 else delivered, 0 if status == 0 else 1, 0)
    )
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is (State.PARTIAL if status else State.CONTRADICTED)
    assert [one.sop_instance_uid for one in bench.ledger.missing_instances(transfer.id)] == ["1.1.2.1"]
    bench.ledger.apply(transfer.id, Happening.AGAIN, bench.clock.now())
    assert bench.ledger.missing_instances(transfer.id) == []
    bench.peers.deliver = lambda wanted: wanted
    bench.peers.answer = None
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert bench.ledger.missing_instances(transfer.id) == []


@pytest.mark.parametrize(
    "counters",
    [
        SubOperationCounts(None, 60_000, 0, 0),
        SubOperationCounts(None, None, None, None),
        SubOperationCounts(None, 0, 0, 0),
        SubOperationCounts(None, 1, 9, 9),
    ],
)
def test_metrics_never_exceed_what_was_asked_for(bench: Bench, counters: SubOperationCounts) -> None:
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0, counts=counters)
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    counted = [event.counts for event in bench.events if isinstance(event, SubOperationsCounted)]
    assert sum((one.completed or 0) + (one.warning or 0) for one in counted) == 3, "what the evidence shows"
    assert sum(one.failed or 0 for one in counted) <= 3, "what was asked for"
    assert all(number is None or number >= 0 for one in counted for number in one)


# availability -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("availability", ["OFFLINE", "UNAVAILABLE", "offline"])
def test_what_is_off_line_is_left_out_and_asked_for_again(bench: Bench, availability: str) -> None:
    bench.peers.attributes["1.1"] = {"InstanceAvailability": availability}
    report = bench.sweep()
    assert (report.matches, report.selected, bench.ledger.transfers()) == (1, 0, [])
    assert [event.unavailable for event in bench.events if isinstance(event, SweepEnded)] == [1]
    bench.peers.attributes["1.1"] = {"InstanceAvailability": "ONLINE"}
    assert bench.sweep().selected == 1
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.availability) == (State.COMPLETE, "ONLINE")
    bench.peers.attributes["1.1"] = {"InstanceAvailability": availability}
    bench.sweep()
    assert [event.unavailable for event in bench.events if isinstance(event, SweepEnded)] == [1, 0, 0]


def claim(bench: Bench) -> Transfer | None:
    return bench.ledger.claim_transfer(["pacs"], bench.clock.now(), LEASE_SECONDS)


def test_what_is_near_line_comes_after_the_rest_one_at_a_time_and_patiently(bench: Bench) -> None:
    for number in (0, 2):
        bench.peers.add("pacs", f"1.{number}", f"1.{number}.1", f"1.{number}.1.1", InstanceAvailability="NEARLINE")
    bench.sweep()
    bench.clock.advance(5)
    order = [claim(bench), claim(bench), claim(bench)]
    first, second = order[0], order[1]
    assert first is not None
    assert second is not None
    assert (first.intent.study_instance_uid, first.availability) == ("1.1", "")
    assert (second.availability, order[2]) == ("NEARLINE", None), "one tape at a time"
    assert (first.priority, second.priority) == (1, 2)
    bench.mover.run(second, bench.never)
    assert bench.peers.requests[-1][1].inactivity == 3600.0
    third = claim(bench)
    assert third is not None
    assert third.availability == "NEARLINE"
    bench.mover.run(first, bench.never)
    assert bench.peers.requests[-1][1].inactivity == 600.0


def test_a_study_that_is_online_again_is_no_tape_any_more(bench: Bench) -> None:
    bench.peers.attributes["1.1"] = {"InstanceAvailability": "NEARLINE"}
    bench.sweep()
    bench.finish()
    bench.peers.attributes["1.1"] = {"InstanceAvailability": "ONLINE"}
    bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.2")
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.availability, transfer.priority) == (State.COMPLETE, "ONLINE", 1)


# what people see ----------------------------------------------------------------------------------------------------


def test_show_names_what_a_third_party_lacks_in_text_and_json(
    bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bench.to("ws")
    bench.peers.deliver = lambda wanted: [w for w in wanted if w[0] == "1.1.1"]
    bench.sweep()
    bench.finish()
    nodes = {name: {"ae_title": name.upper(), "address": "127.0.0.1:104"} for name in ("pacs", "ws")}
    rule = {"sweep": {"source": "pacs", "every": "5m", "keys": {"StudyDate": "today"}}, "move": {"to": ["ws"]}}
    router = {"ledger": f"sqlite:///{tmp_path}/ledger.db", "store": f"{tmp_path}/store"}
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "all.yaml").write_text(
        yaml.safe_dump({"router": router, "nodes": nodes, "rules": {"r": rule}})
    )
    show = ["--config", str(tmp_path / "rules"), "transfers", "show", "1"]
    with pytest.raises(SystemExit, match="0"):
        command_line.main(show)
    assert "1 missing at ws:\n  1.1.2.1\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        command_line.main([*show, "--format", "json"])
    assert json.loads(capsys.readouterr().out)["missing"] == ["1.1.2.1"]


def unwhole(bench: Bench, change: Callable[[list[Identifier]], FindResult]) -> None:
    """The source gives no counts, and answers IMAGE queries so."""
    bench.peers.report_counts = False
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: Any) -> FindResult:
        result = honest(node, level, keys, **named)
        return change(result.identifiers) if (node.name, level) == ("pacs", IMAGE) else result

    bench.peers.find = find  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["undecodable", "no uid", "capped"])
def test_a_list_that_is_not_whole_proves_nothing(bench: Bench, how: str) -> None:
    bench.to("ws")

    def change(rows: list[Identifier]) -> FindResult:
        kept = [row for row in rows if row.text("SOPInstanceUID") != "1.1.1.2"]
        if how == "no uid" and len(kept) < len(rows):
            return FindResult(identifiers=[*kept, Identifier.of(SOPInstanceUID="")], status=0)
        return FindResult(identifiers=kept, status=0, undecodable=(len(rows) - len(kept)) * (how == "undecodable"))

    if how == "capped":
        source(bench, find=FindSettings(max_results=1))
    unwhole(bench, change)
    bench.peers.deliver = lambda wanted: [one for one in wanted if one[1] != "1.1.1.2"]
    bench.peers.answer = lambda wanted, delivered: MoveResult(status=0, counts=SubOperationCounts())
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.UNPROVEN


def test_an_archive_that_does_not_match_by_series_is_understood(bench: Bench) -> None:
    bench.to("ws")
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: Any) -> FindResult:
        if (node.name, level) != ("pacs", IMAGE):
            return honest(node, level, keys, **named)
        every = bench.peers.holdings["pacs"]["1.1"].items()
        rows = [Identifier.of(SeriesInstanceUID=series, SOPInstanceUID=uid) for series, uids in every for uid in uids]
        return FindResult(identifiers=rows, status=0)

    bench.peers.find = find  # type: ignore[method-assign]
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, transfer.expected, transfer.completed) == (State.COMPLETE, 3, 3)


def test_a_study_whose_worker_is_always_lost_ends_with_its_budget(bench: Bench) -> None:
    bench.to("ws", verify="none", retry=Retry(attempts=2, delay=0.1))
    bench.sweep()
    for _ in range(20):
        bench.clock.advance(1000)
        moving = bench.ledger.claim_transfer(["pacs"], bench.clock.now(), LEASE_SECONDS)
        if moving is None:
            break
        bench.clock.advance(LEASE_SECONDS + 1)
        bench.ledger.expire_leases(bench.clock.now())
        while (look := bench.ledger.claim_verification(["ws"], bench.clock.now(), LEASE_SECONDS)) is not None:
            bench.verifier.run(look, bench.never)
    (transfer,) = bench.ledger.transfers()
    assert (transfer.state, transfer.attempts) == (State.FAILED, 2)


def test_a_cancelled_study_that_grows_stays_cancelled(bench: Bench) -> None:
    bench.sweep()
    (transfer,) = bench.ledger.transfers()
    bench.ledger.apply(transfer.id, Happening.CANCEL, bench.clock.now())
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.9")
    assert bench.sweep().selected == 0
    assert bench.finish()[0].state is State.CANCELLED
