"""Attributes that an archive leaves out: when they are found out, how often, and what where that is not possible."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.clause import clauses_of
from router.domain.condition import Condition, Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, tag_of
from router.domain.key import KeyMatch
from router.domain.partial import PartialCondition
from router.domain.rule import FindSettings, Move, Node, RouterSettings, Rule, RuleSet, Sweep
from router.domain.selection import Action
from router.engine import computed
from router.engine.computed import ComputedAttributes
from router.engine.look import Answer
from router.engine.ports import FindResult
from router.engine.query import Inquiry
from router.engine.slots import NodeSlots
from router.engine.sweep import Sweeper
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import CT, FakeClock, FakePeers

STUDY, SERIES, IMAGE = QueryRetrieveLevel.STUDY, QueryRetrieveLevel.SERIES, QueryRetrieveLevel.IMAGE
DATES = {"StudyDate": "20261101..20261130"}


class Archive(FakePeers):
    """Gives the modality of a series, as its UID says; other than that it leaves out what `hides` names."""

    modalities: dict[str, str]
    hides: set[str]
    fails: int | None = None

    def find(self, node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: Any) -> FindResult:
        result = super().find(node, level, keys, **named)
        if self.fails is not None and level is not STUDY:
            return FindResult(identifiers=[], status=self.fails)
        for row in result.identifiers:
            if level is SERIES and (modality := self.modalities.get(row.text("SeriesInstanceUID"))):
                row.elements.update(Identifier.of(Modality=modality).elements)
            for name in self.hides:
                row.elements.pop(tag_of(name) or 0, None)
        return result


class Bench:
    def __init__(self) -> None:
        self.ledger = SqlLedger.in_memory()
        self.peers = Archive(self.ledger)
        self.peers.modalities, self.peers.hides = {}, {"ModalitiesInStudy", "NumberOfStudyRelatedInstances"}
        self.node = Node(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
        self.rules = RuleSet(router=RouterSettings(), nodes={"pacs": self.node}, rules={}, content_hash="x")
        self.sweeper = Sweeper(
            rules=lambda: self.rules,
            ledger=self.ledger,
            inquiry=Inquiry(self.peers, NodeSlots()),
            clock=FakeClock(),
            observer=lambda event: None,
        )

    def add(self, study: str, *modalities: str, instances: int = 2, **attributes: str) -> None:
        for number, modality in enumerate(modalities, 1):
            series = f"{study}.{number}"
            self.peers.modalities[series] = modality
            uids = [f"{series}.{n}" for n in range(1, instances + 1)]
            self.peers.add("pacs", study, series, *uids, StudyDate="20261122", **attributes)

    def look(
        self, where: dict[str, Any] | None = None, keys: dict[str, Any] | None = None, level: QueryRetrieveLevel = STUDY
    ) -> Answer:
        rule = Rule(
            name="r",
            sweep=Sweep(
                source="pacs",
                level=level,
                keys=tuple(KeyMatch.of(name, value) for name, value in {**DATES, **(keys or {})}.items()),
            ),
            where=Condition.of(where),
            move=Move(to=("local",), level=level),
        )
        self.rules = RuleSet(router=RouterSettings(), nodes={"pacs": self.node}, rules={"r": rule}, content_hash="x")
        self.peers.finds.clear()
        return self.sweeper.look(self.rules, rule, threading.Event())

    def asked(self, level: QueryRetrieveLevel) -> list[str]:
        return [keys.text("StudyInstanceUID") for _, at, keys in self.peers.finds if at is level]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.ledger.close()


def moved(answer: Answer) -> list[str]:
    return sorted(d.study_instance_uid for d in answer.selection.decisions if d.action is Action.MOVE)


def reasons(answer: Answer) -> dict[str, str]:
    return {d.study_instance_uid: d.reason for d in answer.selection.decisions if d.action is Action.SKIP}


def test_one_query_for_a_study_brings_all_of_them(bench: Bench) -> None:
    bench.peers.hides.add("NumberOfStudyRelatedSeries")
    bench.add("1.1", "CT", "SR", instances=3)
    bench.add("1.2", "CT", instances=3)
    bench.add("1.3", "CT", "MR", instances=1)
    answer = bench.look(
        {"NumberOfStudyRelatedSeries": {"gte": 2}, "NumberOfStudyRelatedInstances": {"gte": 6}},
        {"ModalitiesInStudy": "CT"},
    )
    assert moved(answer) == ["1.1"]
    assert sorted(bench.asked(SERIES)) == ["1.1", "1.2", "1.3"]
    assert bench.asked(IMAGE) == []
    assert (answer.queries, answer.complete) == (4, True)
    assert "3 queries for what pacs leaves out" in answer.account
    (new,) = answer.selection.to_move
    assert new.instance_count == 6


def test_only_what_passes_all_else_is_asked_for(bench: Bench) -> None:
    bench.add("1.1", "CT", StudyDescription="Chest")
    bench.add("1.2", "CT", StudyDescription="Knee")
    bench.peers.add("pacs", "1.3", "1.3.1", "1.3.1.1", StudyDate="20200101", StudyDescription="Chest")
    where = {"StudyDescription": {"like": "Chest*"}, "NumberOfStudyRelatedInstances": {"gte": 2}}
    answer = bench.look(where, {"ModalitiesInStudy": "CT"})
    assert moved(answer) == ["1.1"]
    assert set(bench.asked(SERIES)) == {"1.1"}
    assert reasons(answer)["1.2"] == "StudyDescription is not like Chest*", "nothing is said of what nobody looked at"
    assert "StudyDate" in reasons(answer)["1.3"]


def test_nothing_is_asked_where_it_does_not_matter(bench: Bench) -> None:
    bench.peers.hides = {"ModalitiesInStudy"}
    bench.add("1.1", "CT", StudyDescription="Chest")
    answer = bench.look({"any": [{"StudyDescription": "Chest"}, {"ModalitiesInStudy": "MR"}]})
    assert moved(answer) == ["1.1"]
    assert bench.asked(SERIES) == []


def test_a_rule_without_them_asks_for_none(bench: Bench) -> None:
    bench.peers.hides = {"ModalitiesInStudy"}
    bench.add("1.1", "CT")
    answer = bench.look(keys={"ModalitiesInStudy": ""})
    assert moved(answer) == ["1.1"]
    assert (bench.asked(SERIES), answer.account) == ([], "")


@pytest.mark.parametrize("blank", ["", " ", "\0"])
def test_a_blank_is_no_value(bench: Bench, blank: str) -> None:
    bench.peers.hides.clear()
    bench.add("1.1", "CT", ModalitiesInStudy=blank)
    assert moved(bench.look(keys={"ModalitiesInStudy": "CT"})) == ["1.1"]
    assert moved(bench.look({"ModalitiesInStudy": "CT"})) == ["1.1"]


def test_something_that_is_no_number_is_none(bench: Bench) -> None:
    bench.add("1.1", "CT", NumberOfStudyRelatedSeries="many")
    assert moved(bench.look({"NumberOfStudyRelatedSeries": {"lte": 1}})) == ["1.1"]
    assert moved(bench.look({"NumberOfStudyRelatedSeries": {"gte": 2}})) == []


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"ModalitiesInStudy": {"exists": False}}, []),
        ({"ModalitiesInStudy": {"exists": True}}, ["1.1"]),
        ({"ModalitiesInStudy": {"not": "MR"}}, ["1.1"]),
        ({"ModalitiesInStudy": {"not": "CT"}}, []),
        ({"not": {"ModalitiesInStudy": "CT"}}, []),
        ({"NumberOfStudyRelatedInstances": {"exists": False}}, []),
        ({"StudyDescription": {"exists": False}}, ["1.1"]),
    ],
)
def test_exists_speaks_of_the_study_not_of_the_answer(bench: Bench, where: dict[str, Any], expected: list[str]) -> None:
    bench.add("1.1", "CT")
    assert moved(bench.look(where)) == expected


@pytest.mark.parametrize("where", [{"exists": False}, {"exists": True}, {"not": "MR"}, "CT"])
def test_what_cannot_be_said_is_left_out_and_the_sweep_is_not_complete(bench: Bench, where: Any) -> None:
    bench.add("1.1", "")
    bench.add("1.2", "CT")
    bench.peers.attributes["1.2"]["StudyDescription"] = "Chest"
    answer = bench.look({"ModalitiesInStudy": where})
    assert "1.1" not in moved(answer)
    assert reasons(answer)["1.1"].startswith("ModalitiesInStudy cannot be said")
    assert not answer.complete
    assert "1 study was left out" in answer.reason
    assert "pacs does not say it" in answer.reason
    assert "1.1" not in answer.reason


def test_instances_are_listed_where_the_series_do_not_say_how_many(bench: Bench) -> None:
    bench.peers.report_counts = False
    bench.add("1.1", "CT", "SR", instances=3)
    answer = bench.look({"NumberOfStudyRelatedInstances": 6})
    assert moved(answer) == ["1.1"]
    assert (len(bench.asked(SERIES)), len(bench.asked(IMAGE)), answer.queries) == (1, 2, 4)


def test_sop_classes_are_those_of_the_instances(bench: Bench) -> None:
    bench.peers.hides = {"ModalitiesInStudy"}
    bench.add("1.1", "CT", "CT")
    assert moved(bench.look({"SOPClassesInStudy": CT})) == ["1.1"]
    assert (len(bench.asked(SERIES)), len(bench.asked(IMAGE))) == (1, 2)
    assert moved(bench.look({"SOPClassesInStudy": {"not": CT}})) == []
    bench.peers.classes = False
    bench.add("1.2", "CT")
    answer = bench.look({"SOPClassesInStudy": {"not": CT}})
    assert (moved(answer), answer.complete) == ([], False)


def test_a_sweep_by_series_finds_out_once_for_a_study(bench: Bench) -> None:
    bench.add("1.1", "CT", "SR", "MR")
    answer = bench.look({"ModalitiesInStudy": "SR", "Modality": "CT"}, level=SERIES)
    (new,) = answer.selection.to_move
    assert new.intent.series_instance_uid == "1.1.1"
    assert len(bench.asked(SERIES)) == 2, "one for the sweep, one for the study's modalities"


# memory and bounds --------------------------------------------------------------------------------------------------


def test_it_is_found_out_again_only_when_the_study_has_grown(bench: Bench) -> None:
    bench.peers.hides = {"ModalitiesInStudy"}
    bench.add("1.1", "CT")
    assert moved(bench.look({"ModalitiesInStudy": "CT"})) == ["1.1"]
    again = bench.look({"ModalitiesInStudy": "CT"})
    assert (moved(again), bench.asked(SERIES), again.queries) == (["1.1"], [], 1)
    bench.peers.modalities["1.1.2"] = "SR"
    bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1")
    assert moved(bench.look({"ModalitiesInStudy": "SR"})) == ["1.1"]
    assert bench.asked(SERIES) == ["1.1"]


TAG = {name: tag_of(name) or 0 for name in ("ModalitiesInStudy", "NumberOfStudyRelatedInstances")}


def test_how_long_it_is_remembered() -> None:
    now = [0.0]
    memory = ComputedAttributes(Inquiry(FakePeers(SqlLedger.in_memory()), NodeSlots()), monotonic=lambda: now[0])
    values = {TAG["ModalitiesInStudy"]: ("CT",), TAG["NumberOfStudyRelatedInstances"]: ("6",)}
    memory.remember("pacs", "1.1", 6, values)
    memory.remember("pacs", "1.2", None, values)
    memory.remember("pacs", "1.3", 6, dict.fromkeys(values))
    assert memory.recall("pacs", "1.1", 6) == memory.recall("pacs", "1.2", None) == values
    assert memory.recall("pacs", "1.1", 7) == memory.recall("pacs", "1.1", None) == {}
    assert memory.recall("other", "1.1", 6) == {}
    now[0] = 60.0
    assert memory.recall("pacs", "1.1", 6) == values
    assert set(memory.recall("pacs", "1.2", None)) == {TAG["ModalitiesInStudy"]}, "a number may have grown"
    assert memory.recall("pacs", "1.3", 6) == dict.fromkeys(values)
    now[0] = 3000.0
    assert memory.recall("pacs", "1.1", 6) == values
    assert memory.recall("pacs", "1.2", None) == memory.recall("pacs", "1.3", 6) == {}
    now[0] = 4000.0
    assert memory.recall("pacs", "1.1", 6) == {}


def test_memory_has_a_bound_and_takes_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed, "_REMEMBERED", 50)
    memory = ComputedAttributes(Inquiry(FakePeers(SqlLedger.in_memory()), NodeSlots()))

    def work(name: str) -> None:
        for number in range(500):
            memory.remember(name, f"1.{number}", 1, {TAG["ModalitiesInStudy"]: (name,)})
            assert memory.recall(name, f"1.{number}", 1) in ({}, {TAG["ModalitiesInStudy"]: (name,)})

    threads = [threading.Thread(target=work, args=(f"n{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(memory._known) == 50


def test_a_sweep_asks_so_often_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed, "MAXIMUM_QUERIES", 3)
    for number in range(5):
        bench.add(f"1.{number}", "CT")
    answer = bench.look({"ModalitiesInStudy": "CT", "NumberOfStudyRelatedInstances": {"gte": 1}})
    assert len(moved(answer)) == 3
    assert (answer.queries, answer.complete) == (4, False)
    assert "2 studies were left out" in answer.reason
    assert "3 times at most" in answer.reason
    again = bench.look({"ModalitiesInStudy": "CT"})
    assert (len(moved(again)), again.complete) == (5, True), "what is known needs no query: the next sweep gets further"


def test_a_source_that_fails_is_left_in_peace(bench: Bench) -> None:
    bench.peers.hides = {"ModalitiesInStudy"}
    for number in range(20):
        bench.add(f"1.{number}", "CT", StudyDescription="Chest" if number == 7 else "")
    bench.peers.fails = 0xC001
    answer = bench.look({"any": [{"StudyDescription": "Chest"}, {"ModalitiesInStudy": "CT"}]})
    assert len(bench.asked(SERIES)) == computed.MAXIMUM_FAILURES
    assert not answer.complete
    assert "19 studies were left out" in answer.reason
    assert "status C001" in answer.reason


def test_an_answer_that_may_be_cut_short_says_nothing(bench: Bench) -> None:
    bench.node = msgspec.structs.replace(bench.node, find=FindSettings(max_results=2))
    bench.add("1.1", "CT", "SR")
    answer = bench.look({"ModalitiesInStudy": "CT"})
    assert (moved(answer), answer.complete) == ([], False)


# partly known -------------------------------------------------------------------------------------------------------

NAMES = ("Modality", "BodyPartExamined", "StudyDescription")
words = st.sampled_from(["A", "B"])
clauses = st.one_of(
    st.tuples(st.sampled_from(NAMES), words).map(lambda pair: {pair[0]: pair[1]}),
    st.tuples(st.sampled_from(NAMES), words).map(lambda pair: {pair[0]: {"not": pair[1]}}),
    st.tuples(st.sampled_from(NAMES), st.booleans()).map(lambda pair: {pair[0]: {"exists": pair[1]}}),
)
conditions = st.recursive(
    clauses,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)


@given(conditions, st.dictionaries(st.sampled_from(NAMES), words), st.sets(st.sampled_from(NAMES)))
def test_what_is_decided_holds_whatever_the_unknown_turns_out_to_be(
    where: dict[str, Any], known: dict[str, str], unknown: set[str]
) -> None:
    condition, evaluation = Condition.of(where), Evaluation(FakeClock().now(), FakeClock().now().tzinfo)  # type: ignore[arg-type]
    tags = frozenset(tag_of(name) or 0 for name in unknown)
    row = {name: value for name, value in known.items() if name not in unknown}
    partial = PartialCondition(condition, evaluation, tags)
    verdict = partial.verdict(Identifier.of(**row))
    outcomes = {
        condition.holds(Identifier.of(**row, **dict(zip(sorted(unknown), filled, strict=True))), evaluation)
        for filled in _fillings(len(unknown))
    }
    if verdict is not None:
        assert outcomes == {verdict}
    if not tags & {clause.path[0] for clause in clauses_of(condition.root)}:
        assert verdict is not None
    assert bool(partial.reason(Identifier.of(**row))) is (verdict is False)


def _fillings(number: int) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for _ in range(number):
        found = [(*one, word) for one in found for word in ("A", "B", "")]
    return found
