"""Which transfers come by C-GET, and what the engine knows of their SOP classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from router.domain.dicom import QueryRetrieveLevel, SubOperationCounts
from router.domain.exchange import MoveResult
from router.domain.outcome import CAUSES, outcome_of_status
from router.domain.rule import MoveSettings, Retry
from router.domain.transfer import State
from router.errors import DeadlineExceeded
from tests.support.engine import Bench
from tests.support.fake_peers import CT

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", "1.1.1.2")
    yield made
    made.ledger.close()


def node_via(bench: Bench, via: str) -> None:
    """The archive's own setting."""
    nodes = dict(bench.rules.nodes)
    nodes["pacs"] = msgspec.structs.replace(nodes["pacs"], move=MoveSettings(via=via))
    bench.rules = msgspec.structs.replace(bench.rules, nodes=nodes)


@pytest.mark.parametrize(
    ("node", "rule", "expected"),
    [
        ("move", None, False),
        ("get", None, True),
        ("move", "get", True),
        ("get", "move", False),
        ("get", "get", True),
    ],
)
def test_the_rule_outranks_the_node(bench: Bench, node: str, rule: str | None, expected: bool) -> None:
    node_via(bench, node)
    bench.to("local", via=rule)
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert bool(bench.peers.gets) is expected
    assert bench.counted() == 2


def test_other_destinations_are_reached_by_c_move_in_any_case(bench: Bench) -> None:
    node_via(bench, "get")
    bench.to("local", "ws")
    bench.sweep()
    assert {transfer.state for transfer in bench.finish()} == {State.COMPLETE}
    assert len(bench.peers.gets) == 1
    assert len(bench.peers.requests) == 2


def test_the_studys_own_list_of_sop_classes_is_enough(bench: Bench) -> None:
    bench.peers.attributes["1.1"] = {"SOPClassesInStudy": MR}
    bench.to("local", via="get")
    bench.sweep()
    bench.finish()
    assert bench.peers.gets == [{MR}]


def test_else_the_instances_are_asked_and_only_once_in_an_attempt(bench: Bench) -> None:
    bench.to("local", via="get")
    bench.sweep()
    bench.finish()
    assert bench.peers.gets == [{CT}]
    asked = [
        keys for _, level, keys in bench.peers.finds if level is QueryRetrieveLevel.IMAGE and "SOPClassUID" in keys
    ]
    assert len(asked) == 1


def test_a_source_that_reports_none_is_asked_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.peers.classes = False
    bench.to("local", via="get")
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert bench.peers.gets == [frozenset()]


def test_a_source_too_slow_to_tell_them_is_asked_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: object, **more: object) -> None:
        raise DeadlineExceeded

    monkeypatch.setattr("router.engine.query.Inquiry.sop_classes", slow)
    bench.to("local", via="get")
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.COMPLETE
    assert bench.peers.gets == [frozenset()]


def test_what_was_not_negotiated_is_said_of_the_attempt(bench: Bench) -> None:
    note = "The source did not agree to send by C-GET: MR Image Storage."
    bench.peers.deliver = lambda wanted: [one for one in wanted if one[1] == "1.1.1.1"]
    bench.peers.answer = lambda wanted, delivered: MoveResult(
        status=0xB000, counts=SubOperationCounts(None, 1, wanted - 1, 0), note=note
    )
    bench.to("local", via="get", retry=Retry(attempts=2))
    bench.sweep()
    (transfer,) = bench.finish()
    assert transfer.state is State.PARTIAL
    attempt = next(one for one in bench.ledger.attempts(transfer.id) if one.step == "move")
    assert attempt.reason.endswith(note)


def test_a_note_goes_with_what_is_wrong_only() -> None:
    wrong = outcome_of_status(0xB000, SubOperationCounts(None, 1, 1, 0), 2, note="Because.")
    assert wrong.sentence == f"{CAUSES['some-failed'].sentence} Because."
    assert outcome_of_status(0, SubOperationCounts(None, 2, 0, 0), 2, note="Because.").sentence.endswith("success.")
