"""Sweeps of one source that are due at once: what they ask together, and what none of them suffers from another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from router.domain.condition import Condition
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.key import KeyMatch
from router.domain.rule import Move, Node, RouterSettings, Rule, RuleSet, Sweep
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import State
from router.engine import sharing
from router.engine.ports import FindResult
from router.engine.query import Inquiry
from router.engine.slots import NodeSlots
from router.engine.sweep import Sweeper
from router.errors import ConnectionFailed, DeadlineExceeded
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock, FakePeers

STUDY = QueryRetrieveLevel.STUDY
WIDE = {"StudyDate": "20261122"}
NARROW = [WIDE | {"PatientID": f"P{number}"} for number in range(6)]


class Bench:
    """Rules by their keys, all of them due at once."""

    def __init__(self) -> None:
        self.ledger = SqlLedger.in_memory()
        self.peers = FakePeers(self.ledger)
        for number in range(6):
            attributes = {"StudyDate": "20261122", "StudyTime": "080000", "PatientID": f"P{number}"}
            self.peers.add("pacs", f"1.{number}", f"1.{number}.1", f"1.{number}.1.1", **attributes)
        self.answer: Callable[[Identifier, list[Identifier]], FindResult] = lambda keys, rows: FindResult(
            identifiers=rows, status=0
        )
        self._find, self.peers.find = self.peers.find, self.find  # type: ignore[method-assign]
        self.clock = FakeClock()
        self.seconds = 1.0
        """Until the next sweep has its turn."""
        self.rules = RuleSet(
            router=RouterSettings(),
            nodes={"pacs": Node(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)},
            rules={},
            content_hash="x",
        )
        self.sweeper = Sweeper(
            rules=lambda: self.rules,
            ledger=self.ledger,
            inquiry=Inquiry(self.peers, NodeSlots()),
            clock=self.clock,
            observer=lambda event: None,
        )

    def find(self, node: Node, level: QueryRetrieveLevel, keys: Identifier, **more: Any) -> FindResult:
        rows = self._find(node, level, keys, **more).identifiers
        wanted = keys.text("PatientID")
        return self.answer(keys, [row for row in rows if not wanted or row.text("PatientID") == wanted])

    def rule(
        self, name: str, keys: dict[str, str], *, settle: float = 0.0, where: dict[str, Any] | None = None
    ) -> None:
        matches = tuple(KeyMatch.of(key, value) for key, value in keys.items())
        self.rules.rules[name] = Rule(
            name=name,
            sweep=Sweep(source="pacs", keys=matches, settle=settle),
            where=Condition.of(where),
            move=Move(to=("local",)),
        )

    def narrow_and_wide(self) -> None:
        for number, keys in enumerate(NARROW):
            self.rule(f"narrow-{number}", keys)
        self.rule("wide", WIDE)

    def period(self) -> dict[str, SweepReport]:
        self.ledger.add_sweeps(
            [SweepDue(rule=name, source="pacs", due_at=self.clock.now()) for name in self.rules.rules]
        )
        reports = {}
        while (sweep := self.ledger.claim_sweep(["pacs"], self.clock.now(), 60)) is not None:
            reports[sweep.due.rule] = self.sweeper.run(sweep, threading.Event())
            self.clock.advance(self.seconds)
        return reports

    @property
    def asked(self) -> list[str]:
        """The Patient IDs that were asked for, empty where none was."""
        return [keys.text("PatientID") for _, level, keys in self.peers.finds if level is STUDY]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.ledger.close()


def test_a_wider_question_whose_answer_is_cut_is_asked_once_and_harms_nobody(bench: Bench) -> None:
    def cut(keys: Identifier, rows: list[Identifier]) -> FindResult:
        return (
            FindResult(identifiers=rows, status=0)
            if keys.text("PatientID")
            else FindResult(identifiers=rows[:2], status=0xA700)
        )

    bench.answer = cut
    bench.narrow_and_wide()
    reports = bench.period()
    assert reports.pop("wide").state is SweepState.INCOMPLETE
    assert {report.state for report in reports.values()} == {SweepState.COMPLETE}
    assert [name for name, report in reports.items() if report.queries > 1] == ["narrow-0"]
    assert {one.intent.study_instance_uid for one in bench.ledger.transfers()} == set(bench.peers.holdings["pacs"])


@pytest.mark.parametrize("slow", [False, True], ids=["failed", "timed out"])
def test_a_wider_question_that_fails_fails_nobody_else(bench: Bench, slow: bool) -> None:
    def fail(keys: Identifier, rows: list[Identifier]) -> FindResult:
        if keys.text("PatientID"):
            return FindResult(identifiers=rows, status=0)
        if slow:
            raise DeadlineExceeded("too slow")
        return FindResult(identifiers=[], status=0xC000)

    bench.answer = fail
    bench.narrow_and_wide()
    reports = bench.period()
    assert reports.pop("wide").state is SweepState.FAILED
    assert {report.state for report in reports.values()} == {SweepState.COMPLETE}
    assert bench.asked.count("") == 2, "once for all the others, once for its own rule"


def test_an_archive_that_is_not_there_is_not_asked_twice(bench: Bench) -> None:
    tries: list[Identifier] = []

    def down(keys: Identifier, rows: list[Identifier]) -> FindResult:
        tries.append(keys)
        raise ConnectionFailed("down")

    bench.answer = down
    bench.narrow_and_wide()
    assert {report.cause for report in bench.period().values()} == {"unreachable"}
    assert len(tries) == len(bench.rules.rules)


def test_an_answer_serves_for_minutes_not_for_as_long_as_a_source_is_closed(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.rule(name, WIDE)
    bench.seconds = 400.0
    queries = [report.queries for report in bench.period().values()]
    assert queries == [1, 0, 1]


def test_an_answer_from_before_the_clock_was_set_back_serves_nobody(bench: Bench) -> None:
    bench.rule("a", WIDE)
    bench.rule("b", WIDE)
    bench.clock.advance(7200)
    bench.ledger.add_sweeps([SweepDue(rule=name, source="pacs", due_at=bench.clock.now()) for name in "ab"])
    sweep = bench.ledger.claim_sweep(["pacs"], bench.clock.now(), 60)
    assert sweep is not None
    bench.sweeper.run(sweep, threading.Event())
    bench.clock.advance(-3600)
    bench.ledger.add_sweeps([SweepDue(rule="a", source="pacs", due_at=bench.clock.now())])
    again = bench.ledger.claim_sweep(["pacs"], bench.clock.now(), 60)
    assert again is not None
    assert bench.sweeper.run(again, threading.Event()).queries == 1


def test_what_settles_is_judged_by_when_the_source_was_asked(bench: Bench) -> None:
    bench.rule("asks", WIDE, where={"StudyDescription": "none has it"})
    bench.rule("settles", WIDE, settle=300.0)
    bench.seconds = 200.0
    states = []
    for _ in range(3):
        bench.period()
        states.append({one.state for one in bench.ledger.transfers()})
    # Seen at 200 s for the first time; the answer that came at 600 s was asked for at 400 s, the next at 800 s.
    assert states == [{State.HELD}, {State.HELD}, {State.QUEUED}]
    assert len(bench.asked) == 3


def test_a_watermark_is_no_later_than_what_was_seen(bench: Bench) -> None:
    bench.rule("a", WIDE)
    bench.rule("b", WIDE)
    due = bench.clock.now()
    bench.seconds = 300.0
    bench.period()
    for name in "ab":
        assert bench.ledger.last_complete_sweep(name, 0, bench.clock.now()) == due


def test_the_matches_that_are_kept_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_ROWS_KEPT", 7)
    answers = sharing.Answers()
    now = bench.clock.now()
    question = [Identifier.of(StudyDate=f"2026112{n}", StudyInstanceUID="") for n in range(3)]
    rows = [Identifier.of(StudyInstanceUID=f"1.{n}", StudyDate="20261121") for n in range(4)]

    def ask(one: Identifier, for_others: bool) -> sharing.Found:
        return sharing.Found(rows=rows, complete=True, queries=1)

    def taken(one: Identifier) -> int:
        others = [sharing.Wanted(one, now)]
        found, _ = answers.ask("pacs", one, rule="r", due_at=now, now=now, others=others, ask=ask)
        return found.queries

    assert [taken(one) for one in (question[0], question[0], question[1], question[0])] == [1, 0, 1, 1]
    answers.retain("pacs", [], now + timedelta(seconds=1))
    assert taken(question[0]) == 1


def test_the_watermarks_of_many_sweeps_are_read_once_each(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    honest = bench.ledger.last_complete_sweep

    def read(rule: str, *more: Any) -> Any:
        reads.append(rule)
        return honest(rule, *more)

    monkeypatch.setattr(bench.ledger, "last_complete_sweep", read)
    for number in range(30):
        bench.rule(f"r{number}", WIDE)
    for _ in range(2):
        assert {report.state for report in bench.period().values()} == {SweepState.COMPLETE}
    assert len(reads) == 60
    assert bench.asked == ["", ""]


def test_what_one_rule_makes_of_an_answer_changes_it_for_no_other(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.rule(name, WIDE | {"ModalitiesInStudy": "CT"})
    seen: list[dict[int, Any]] = []
    honest = bench.answer

    def answer(keys: Identifier, rows: list[Identifier]) -> FindResult:
        result = honest(keys, rows)
        seen.extend(row.elements for row in result.identifiers if keys.text("StudyInstanceUID") == "")
        return result

    bench.answer = answer
    reports = bench.period()
    assert [report.matches for report in reports.values()] == [6, 6, 6]
    assert all(Identifier(one).text("ModalitiesInStudy") == "" for one in seen), "found out for each match beside it"
