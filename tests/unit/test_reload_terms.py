"""A reload while work is under way: what has begun ends as it began, what waits goes on under the new rules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.condition import compile_condition
from router.domain.dicom import Identifier, QueryRetrieveLevel, SubOperationCounts
from router.domain.rule import Move, MoveSettings, Node, Retry, Rule
from router.domain.sweep import SweepState
from router.domain.transfer import State, Transfer
from router.engine import terms as terms_module
from router.engine.ports import MoveResult
from router.engine.terms import Terms
from router.errors import ConnectionFailed, WireError
from tests.support.engine import Bench

STUDY = "1.2.3"


class Edited(Bench):
    """A bench whose rules are edited in the middle of a request."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.peers.add("pacs", STUDY, f"{STUDY}.1", "1.2.3.1.1", "1.2.3.1.2")
        self.edit: Callable[[], None] = lambda: None

        def deliver(wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
            self.edit()
            return wanted

        self.peers.deliver = deliver

    def rule(self, **changes: Any) -> None:
        rule = msgspec.structs.replace(self.rules.rules["r"], **changes)
        self.rules = msgspec.structs.replace(self.rules, rules={"r": rule}, content_hash="edited")

    def node(self, name: str, **changes: Any) -> None:
        node = msgspec.structs.replace(self.rules.nodes[name], **changes)
        self.rules = msgspec.structs.replace(self.rules, nodes=self.rules.nodes | {name: node}, content_hash="edited")

    def without(self, *, rule: bool = False, node: str = "") -> None:
        nodes = {name: one for name, one in self.rules.nodes.items() if name != node}
        rules: dict[str, Rule] = {} if rule else self.rules.rules
        self.rules = msgspec.structs.replace(self.rules, nodes=nodes, rules=rules, content_hash="edited")

    def step_once(self) -> Transfer:
        done = self.step()
        assert done is not None
        return done


@pytest.fixture
def bench(tmp_path: Path) -> Edited:
    return Edited(tmp_path)


FAILED = MoveResult(status=0xA701, counts=SubOperationCounts(None, 0, 2, 0))


@pytest.mark.parametrize(("before", "after", "attempts"), [(1, 9, 1), (9, 2, 2), (3, 3, 3)])
def test_an_attempt_spends_the_budget_it_began_with_and_the_next_one_that_of_the_edit(
    bench: Edited, before: int, after: int, attempts: int
) -> None:
    bench.to("ws", retry=Retry(attempts=before, delay=1.0))
    bench.sweep()
    bench.peers.deliver = lambda wanted: []

    def answer(wanted: int, delivered: int) -> MoveResult:
        bench.to("ws", retry=Retry(attempts=after, delay=1.0))
        return MoveResult(status=0xA701, counts=SubOperationCounts(None, 0, 2, 0))

    bench.peers.answer = answer
    (ended,) = bench.finish()
    assert ended.attempts == len(bench.peers.requests) == attempts
    assert ended.state is State.FAILED


def test_a_running_attempt_keeps_destination_and_deadlines_and_what_is_queued_has_the_new(bench: Edited) -> None:
    bench.peers.add("pacs", "1.9", "1.9.1", "1.9.1.1")
    bench.peers.titles["OTHER"] = "ws"
    bench.to("ws", verify="none")
    asked: list[str] = []

    def edit() -> None:
        bench.node("ws", ae_title="OTHER")
        bench.node("pacs", move=MoveSettings(inactivity=7.0, total=70.0))

    def fail(node: Node, level: QueryRetrieveLevel, keys: Identifier) -> WireError | None:
        asked.append(node.name)
        if not bench.peers.requests:
            edit()  # while the attempt asks what there is to be moved
        return None

    bench.sweep()
    bench.peers.fail = fail
    bench.step_once()
    while len(bench.peers.requests) < 2:
        bench.step_once()
    (_, first), (_, second) = bench.peers.requests[:2]
    assert asked
    assert (first.destination_ae_title, first.inactivity, first.total) == ("WS", 600.0, 7200.0)
    assert (second.destination_ae_title, second.inactivity, second.total) == ("OTHER", 7.0, 70.0)


@pytest.mark.parametrize("edit", ["gone", "asks"])
def test_what_has_moved_is_verified_as_its_rule_said_when_it_began(bench: Edited, edit: str) -> None:
    bench.to("ws", verify="none")
    bench.sweep()
    bench.edit = (lambda: bench.without(rule=True)) if edit == "gone" else (lambda: bench.to("ws", verify="find"))
    assert bench.step_once().state is State.VERIFYING
    ended = bench.finish()[0]
    assert ended.state is State.UNPROVEN
    assert "verify: none" in ended.reason


def test_a_destination_that_is_removed_while_it_is_moved_to_is_still_asked_for_the_evidence(bench: Edited) -> None:
    bench.to("ws")
    bench.sweep()
    bench.edit = lambda: bench.without(rule=True, node="ws")
    assert bench.step_once().state is State.VERIFYING
    assert bench.finish()[0].state is State.COMPLETE


def test_a_destination_that_is_corrected_while_it_is_moved_to_is_asked_where_it_is_now(bench: Edited) -> None:
    bench.to("ws")
    bench.sweep()
    bench.edit = lambda: bench.node("ws", host="10.1.1.1")
    bench.step_once()
    hosts: list[str] = []
    bench.peers.fail = lambda node, level, keys: hosts.append(node.host)  # type: ignore[func-returns-value]
    assert bench.finish()[0].state is State.COMPLETE
    assert set(hosts) == {"10.1.1.1"}


def test_what_is_queued_for_a_node_that_is_removed_ends_saying_so(bench: Edited) -> None:
    bench.to("ws")
    bench.sweep()
    bench.without(node="ws")
    ended = bench.step_once()
    assert (ended.state, ended.cause) == (State.FAILED, "node-removed")


def test_what_is_queued_by_a_rule_that_is_removed_is_moved_all_the_same(bench: Edited) -> None:
    bench.to("ws")
    bench.sweep()
    bench.without(rule=True)
    assert bench.finish()[0].state is State.COMPLETE


def test_a_sweep_under_way_decides_by_the_rule_that_it_began_with(bench: Edited) -> None:
    bench.to("ws")
    condition, problems = compile_condition({"StudyDescription": "KNEE"})
    assert not problems

    def edit(node: Node, level: QueryRetrieveLevel, keys: Identifier) -> WireError | None:
        bench.rule(where=condition, move=Move(to=("local",)))
        return None

    bench.peers.fail = edit
    report = bench.sweep()
    assert (report.state, report.selected) == (SweepState.COMPLETE, 1)
    assert [one.intent.destination for one in bench.ledger.transfers()] == ["ws"]
    assert bench.sweep().selected == 0, "the next one has the edit"


def test_a_sweep_whose_rule_is_removed_while_it_waits_ends_saying_so(bench: Edited) -> None:
    bench.without(rule=True)
    report = bench.sweep()
    assert (report.state, report.cause) == (SweepState.FAILED, "rule-removed")


def test_a_sweep_whose_source_fails_after_the_edit_fails_by_itself(bench: Edited) -> None:
    def edit(node: Node, level: QueryRetrieveLevel, keys: Identifier) -> WireError | None:
        bench.without(rule=True, node="pacs")
        return ConnectionFailed("gone")

    bench.peers.fail = edit
    assert bench.sweep().state is SweepState.FAILED


# --- What is remembered -----------------------------------------------------------------------------------------------


def test_what_is_remembered_is_forgotten_at_the_verdict_and_has_a_bound(
    bench: Edited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terms_module, "MOST_REMEMBERED", 2)
    bench.to("ws", verify="none")
    bench.sweep()
    claimed = bench.ledger.claim_transfer(["pacs"], bench.clock.now(), 60)
    assert claimed is not None
    begun, now = bench.rules, msgspec.structs.replace(bench.rules, rules={})
    terms = Terms()
    terms.begin(claimed, begun)
    assert terms.move(claimed, now).verify == "none"
    terms.ended(claimed, msgspec.structs.replace(claimed, state=State.VERIFYING))
    assert terms.move(claimed, now).verify == "none", "it is not over"
    terms.ended(claimed, msgspec.structs.replace(claimed, state=State.COMPLETE))
    assert terms.move(claimed, now).verify == "auto"

    others = [msgspec.structs.replace(claimed, id=number) for number in (101, 102, 103)]
    for one in others:
        terms.begin(one, begun)
    assert [terms.move(one, now).verify for one in others] == ["auto", "none", "none"]


def test_it_is_remembered_by_many_threads_at_once(bench: Edited) -> None:
    bench.to("ws", verify="none")
    bench.sweep()
    claimed = bench.ledger.claim_transfer(["pacs"], bench.clock.now(), 60)
    assert claimed is not None
    terms, wrong = Terms(), []

    def work(number: int) -> None:
        one = msgspec.structs.replace(claimed, id=number)
        for _ in range(200):
            terms.begin(one, bench.rules)
            if terms.move(one, msgspec.structs.replace(bench.rules, rules={})).verify != "none":
                wrong.append(number)
            terms.ended(one, None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
