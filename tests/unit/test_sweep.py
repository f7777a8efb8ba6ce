"""What a sweep asks, and what it makes of the answer, whatever the archive does with the keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.condition import Condition
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.key import KeyMatch
from router.domain.rule import FindSettings, Move, Node, RouterSettings, Rule, RuleSet, Sweep, Tier
from router.domain.selection import Action
from router.domain.timing import Schedule
from router.engine.look import Answer
from router.engine.ports import FindResult
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import NodeSlots
from router.engine.sweep import Sweeper
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock, FakePeers

STUDY, SERIES = QueryRetrieveLevel.STUDY, QueryRetrieveLevel.SERIES


class Bench:
    def __init__(self) -> None:
        self.ledger = SqlLedger.in_memory()
        self.peers = FakePeers(self.ledger)
        self.node = Node(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
        self.never = threading.Event()

    def look(
        self,
        keys: dict[str, Any] | None = None,
        where: dict[str, Any] | None = None,
        *,
        level: QueryRetrieveLevel = STUDY,
        move: QueryRetrieveLevel | None = None,
        tiers: tuple[Tier, ...] = (),
        tier: int = 0,
    ) -> Answer:
        matches = tuple(
            KeyMatch.of(name, *([value] if isinstance(value, str) else value)) for name, value in (keys or {}).items()
        )
        rule = Rule(
            name="r",
            sweep=Sweep(source="pacs", level=level, keys=matches, tiers=tiers),
            where=Condition.of(where),
            move=Move(to=("local",), level=move or level),
        )
        rules = RuleSet(router=RouterSettings(), nodes={"pacs": self.node}, rules={"r": rule}, content_hash="x")
        sweeper = Sweeper(
            rules=lambda: rules,
            ledger=self.ledger,
            inquiry=Inquiry(self.peers, NodeSlots()),
            clock=FakeClock(),
            observer=lambda event: None,
        )
        return sweeper.look(rules, rule, self.never, tier=tier)

    def asked(self, level: QueryRetrieveLevel) -> list[Identifier]:
        return [keys for _, at, keys in self.peers.finds if at is level]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench()
    bench.peers.add(
        "pacs", "1.1", "1.1.1", "1.1.1.1", ModalitiesInStudy="CT", StudyDescription="Chest", StudyDate="20261122"
    )
    bench.peers.add(
        "pacs", "1.2", "1.2.1", "1.2.1.1", ModalitiesInStudy="MR", StudyDescription="Knee", StudyDate="20261121"
    )
    bench.peers.add(
        "pacs", "1.3", "1.3.1", "1.3.1.1", ModalitiesInStudy="US", StudyDescription="Chest", StudyDate="20200101"
    )
    yield bench
    bench.ledger.close()


def moved(answer: Answer) -> list[str]:
    return sorted(d.study_instance_uid for d in answer.selection.decisions if d.action is Action.MOVE)


def reasons(answer: Answer) -> dict[str, str]:
    return {d.study_instance_uid: d.reason for d in answer.selection.decisions if d.action is Action.SKIP}


def test_keys_are_sent_and_applied_again_to_what_comes_back(bench: Bench) -> None:
    answer = bench.look({"StudyDate": "20261101..20261130", "ModalitiesInStudy": "CT"})
    (asked,) = bench.asked(STUDY)
    assert asked.text("StudyDate") == "20261101-20261130"
    assert asked.text("ModalitiesInStudy") == "CT"
    assert moved(answer) == ["1.1"]
    assert "ModalitiesInStudy" in reasons(answer)["1.2"]
    assert "StudyDate" in reasons(answer)["1.3"]


def test_patient_keys_are_always_there_for_archives_that_want_them(bench: Bench) -> None:
    bench.look({"StudyDate": "today-2d..today"})
    (asked,) = bench.asked(STUDY)
    assert "PatientID" in asked
    assert "PatientName" in asked


def test_a_list_is_asked_value_by_value_and_each_study_is_taken_once(bench: Bench) -> None:
    answer = bench.look({"StudyDate": "20261101..20261130", "ModalitiesInStudy": ["CT", "MR"]})
    assert [asked.text("ModalitiesInStudy") for asked in bench.asked(STUDY)] == ["CT", "MR"]
    assert answer.queries == 2
    assert moved(answer) == ["1.1", "1.2"]


def test_a_long_list_is_matched_here_only(bench: Bench) -> None:
    answer = bench.look({"StudyDate": "20261101..20261130", "ModalitiesInStudy": [f"M{n}" for n in range(30)] + ["CT"]})
    (asked,) = bench.asked(STUDY)
    assert asked.values("ModalitiesInStudy") == ()
    assert moved(answer) == ["1.1"]


def test_modalities_that_an_archive_leaves_out_are_looked_up_in_the_series(bench: Bench) -> None:
    bench.peers.attributes["1.1"].pop("ModalitiesInStudy")
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: Any) -> FindResult:
        result = honest(node, level, keys, **named)
        if level is SERIES:
            for row in result.identifiers:
                row.elements.update(Identifier.of(Modality="CT").elements)
        return result

    bench.peers.find = find  # type: ignore[method-assign]
    assert moved(bench.look({"StudyDate": "20261101..20261130", "ModalitiesInStudy": "CT"})) == ["1.1"]
    assert moved(bench.look({"StudyDate": "20261101..20261130"}, {"ModalitiesInStudy": "CT"})) == ["1.1"]


def test_a_key_that_is_neither_matched_nor_returned_selects_nothing(bench: Bench) -> None:
    answer = bench.look({"StudyDate": "20261101..20261130", "ReferringPhysicianName": "Smith*"})
    assert moved(answer) == []
    assert "does not return ReferringPhysicianName" in reasons(answer)["1.1"]


def test_conditions_ask_for_what_they_look_at_and_say_why_not(bench: Bench) -> None:
    answer = bench.look(
        {"StudyDate": "20200101..20261130"},
        {"StudyDescription": {"matches": "(?i)chest"}, "PatientSex": {"exists": False}},
    )
    (asked,) = bench.asked(STUDY)
    assert "PatientSex" in asked
    assert moved(answer) == ["1.1", "1.3"]
    assert reasons(answer) == {"1.2": "StudyDescription does not match (?i)chest"}


def test_rows_without_a_usable_uid_or_of_another_level_are_dropped(bench: Bench) -> None:
    honest = bench.peers.find

    def find(*arguments: Any, **named: Any) -> FindResult:
        result = honest(*arguments, **named)
        odd = [
            Identifier.of(StudyInstanceUID="", StudyDate="20261122"),
            Identifier.of(StudyInstanceUID="../../etc", StudyDate="20261122"),
            Identifier.of(StudyInstanceUID="1.9", StudyDate="20261122", QueryRetrieveLevel="SERIES"),
        ]
        return msgspec.structs.replace(result, identifiers=[*odd, *result.identifiers, *result.identifiers])

    bench.peers.find = find  # type: ignore[method-assign]
    answer = bench.look({"StudyDate": "20261101..20261130"})
    assert moved(answer) == ["1.1", "1.2"]
    assert not answer.complete, "what cannot be moved is not passed over in silence"
    assert "2 matches" in answer.reason


def test_the_only_key_that_narrows_is_asked_however_many_values_it_has(bench: Bench) -> None:
    bench.look({"PatientID": [f"P{n}" for n in range(40)]})
    assert [asked.text("PatientID") for asked in bench.asked(STUDY)] == [f"P{n}" for n in range(40)]


@pytest.mark.parametrize(
    ("status", "undecodable", "limit", "complete"),
    [(0, 0, None, True), (0xFE00, 0, None, False), (0xA700, 0, None, False), (0, 1, None, False), (0, 0, 3, False)],
)
def test_an_answer_that_may_lack_something_is_not_complete(
    bench: Bench, status: int, undecodable: int, limit: int | None, complete: bool
) -> None:
    honest = bench.peers.find
    bench.node = msgspec.structs.replace(bench.node, find=FindSettings(max_results=limit))

    def find(*arguments: Any, **named: Any) -> FindResult:
        return msgspec.structs.replace(honest(*arguments, **named), status=status, undecodable=undecodable)

    bench.peers.find = find  # type: ignore[method-assign]
    answer = bench.look({"StudyDate": "20261101..20261130"})
    assert answer.complete is complete
    assert bool(answer.reason) is not complete
    assert moved(answer) == ["1.1", "1.2"], "what did come is moved all the same"


def test_a_failure_without_any_match_is_an_error(bench: Bench) -> None:
    bench.peers.find = lambda *a, **n: FindResult(identifiers=[], status=0xC001, error_comment="boom")  # type: ignore[method-assign]
    with pytest.raises(QueryFailed, match=r"pacs \(PACS\).*C001") as caught:
        bench.look({"StudyDate": "today"})
    assert caught.value.comment == "boom"
    assert "boom" not in str(caught.value), "what is logged holds no comment of a peer"


def test_series_are_asked_study_by_study_and_moved_by_themselves(bench: Bench) -> None:
    bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1", "1.1.2.2")
    answer = bench.look(
        {"StudyDate": "20261101..20261130"}, {"NumberOfSeriesRelatedInstances": {"gte": 2}}, level=SERIES
    )
    assert [asked.text("StudyInstanceUID") for asked in bench.asked(SERIES)] == ["1.1", "1.2"]
    (new,) = answer.selection.to_move
    assert (new.intent.study_instance_uid, new.intent.series_instance_uid, new.instance_count) == ("1.1", "1.1.2", 2)


@pytest.mark.parametrize(("level", "move"), [(SERIES, SERIES), (STUDY, SERIES)])
@pytest.mark.parametrize("stated", [True, False], ids=["of other studies too", "with nothing above the series"])
def test_a_series_is_of_the_study_it_was_asked_for(
    bench: Bench, level: QueryRetrieveLevel, move: QueryRetrieveLevel, stated: bool
) -> None:
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **more: Any) -> FindResult:
        if level is not SERIES:
            return honest(node, level, keys, **more)
        if stated:
            return honest(node, level, Identifier.of(StudyInstanceUID=""), **more)
        (row,) = honest(node, level, keys, **more).identifiers
        return FindResult(
            identifiers=[Identifier({**row.elements, **Identifier.of(StudyInstanceUID="", PatientID=" ").elements})],
            status=0,
        )

    bench.peers.find = find  # type: ignore[method-assign]
    bench.peers.attributes["1.1"]["PatientID"] = "P1"
    answer = bench.look({"StudyDate": "20261101..20261130"}, {"StudyDescription": "Chest"}, level=level, move=move)
    (new,) = answer.selection.to_move
    assert (new.intent.study_instance_uid, new.intent.series_instance_uid, new.patient_id) == ("1.1", "1.1.1", "P1")


def test_what_is_counted_by_lists_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.engine.look.MAXIMUM_QUERIES", 1)
    bench.peers.report_counts = False
    answer = bench.look({"StudyDate": "20261101..20261130"})
    assert [new.instance_count for new in answer.selection.to_move] == [1, None]
    assert "1 was not" in answer.account


def test_a_match_in_a_series_can_move_its_study_once(bench: Bench) -> None:
    bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1")
    answer = bench.look({"StudyDate": "20261122"}, level=SERIES, move=STUDY)
    (new,) = answer.selection.to_move
    assert (new.intent.series_instance_uid, new.instance_count) == ("", 2)


def test_a_study_can_be_moved_series_by_series(bench: Bench) -> None:
    bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1")
    answer = bench.look({"StudyDate": "20261122"}, move=SERIES)
    assert sorted(new.intent.series_instance_uid for new in answer.selection.to_move) == ["1.1.1", "1.1.2"]


def test_a_tier_looks_back_as_far_as_it_says(bench: Bench) -> None:
    tiers = (
        Tier(schedule=Schedule.periodic(60, "r"), lookback=3600.0),
        Tier(schedule=Schedule.periodic(60, "r"), lookback=3 * 86400.0),
    )
    bench.look({"StudyDate": "20000101..20000102", "ModalitiesInStudy": "CT"}, tiers=tiers, tier=1)
    (asked,) = bench.asked(STUDY)
    assert asked.text("StudyDate") == "20261119-20261122"
    assert asked.text("ModalitiesInStudy") == "CT"
