"""What would be passed on of what the store holds, and why not the rest: by a shelf in memory."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from router import config
from router.domain.dicom import Identifier
from router.domain.forwarding import Known
from router.domain.gates import Way
from router.domain.receipt import Receipt
from router.domain.route import StoppedRoute
from router.domain.rule import LOCAL, RuleSet
from router.domain.selection import Action
from router.domain.stored import StoredStudy
from router.domain.transfer import Intent, Route, State, TransferFact
from router.engine import forward_look
from router.engine.forward_look import ForwardLook

NOW = datetime(2026, 11, 28, 8, tzinfo=UTC)
RULES = """\
nodes:
  ct1: {ae_title: CT1, address: 10.0.0.1:104, timezone: UTC, push: allow}
  ws: {ae_title: WS, address: 10.0.0.2:104, push: allow}
  a: {ae_title: A1, address: 10.0.0.3:104}
  b: {ae_title: B1, address: 10.0.0.4:104}
rules:
  chest:
    arrival: {from: [ct1], stable: 60s}
    where: {StudyDescription: {matches: "(?i)chest"}}
    forward: {to: [ws, {any_of: [a, b]}]}
  originals:
    arrival: {level: series}
    where: {ImageType: ORIGINAL}
    forward: {to: [a], level: instance}
  turns:
    arrival: {}
    forward: {to: [{round_robin: [a, b]}]}
"""


class Shelf:
    """A ledger and a store in memory."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.headers: dict[str, Identifier] = {}
        self.known: dict[Intent, Known] = {}
        self.studies: dict[str, int] = {}
        self.stopped: list[StoppedRoute] = []
        self.read: list[str] = []

    def put(
        self, study: str, name: str, *, caller: str = "CT1", ago: float = 600, series: str = "1", **header: object
    ) -> None:
        uid = f"{study}.{series}.{name}"
        self.receipts.append(
            Receipt(
                study_instance_uid=study,
                series_instance_uid=f"{study}.{series}",
                sop_instance_uid=uid,
                sop_class_uid="1.2",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                calling_ae_title=caller,
                size=1,
                path=uid,
                received_at=NOW - timedelta(seconds=ago),
            )
        )
        self.headers[uid] = Identifier.of(**header)

    def receipts_of(self, study: str, series: str = "") -> list[Receipt]:
        return [one for one in self.receipts if one.study_instance_uid == study]

    def known_of(self, study: str) -> dict[Intent, Known]:
        return {intent: one for intent, one in self.known.items() if intent.study_instance_uid == study}

    def given(self, rule: str) -> dict[str, int]:
        return dict(self.studies)

    def stopped_routes(self) -> list[StoppedRoute]:
        return self.stopped

    def stored_studies(
        self, *, only: Collection[str] | None = None, callers: Collection[str] | None = None, limit: int = 100
    ) -> list[StoredStudy]:
        mine = [one for one in self.receipts if callers is None or one.calling_ae_title in callers]
        return [
            StoredStudy(study_instance_uid=uid, instances=1, size=1, first_received_at=NOW, last_received_at=NOW)
            for uid in dict.fromkeys(one.study_instance_uid for one in mine)
        ][:limit]

    def headers_of(self, receipts: Collection[Receipt], wanted: Collection[int]) -> dict[str, Identifier]:
        self.read += [one.sop_instance_uid for one in receipts]
        return {one.sop_instance_uid: self.headers[one.sop_instance_uid] for one in receipts}


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    (tmp_path / "rules.yaml").write_text(RULES)
    loaded = config.load(tmp_path)
    assert loaded.rule_set is not None, [str(one) for one in loaded.diagnostics]
    return loaded.rule_set


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def planned(rules: RuleSet, shelf: Shelf, rule: str) -> list[tuple[str, str, str, str, int | None]]:
    answer = ForwardLook(rules, shelf, shelf.headers_of).plan(rules.rules[rule], NOW)
    assert answer.queries == 0
    return [
        (one.study_instance_uid, str(one.action), one.code, one.destination, one.instance_count)
        for one in answer.selection.decisions
    ]


def test_a_plan_says_what_would_go_where_with_how_many_instances_and_what_is_left(rules: RuleSet, shelf: Shelf) -> None:
    for name in ("1", "2", "3"):
        shelf.put("1.1", name, StudyDescription="Chest")
    shelf.put("1.2", "1", StudyDescription="Knee")
    shelf.put("1.3", "1", caller="WS", StudyDescription="Chest")
    assert planned(rules, shelf, "chest") == [
        ("1.1", "move", "new", "ws", 3),
        ("1.1", "move", "new", "a", 3),
        ("1.2", "skip", "condition", "", 1),
    ]


def test_what_still_comes_is_held_and_says_until_when(rules: RuleSet, shelf: Shelf) -> None:
    shelf.put("1.1", "1", StudyDescription="Chest")
    shelf.put("1.1", "2", ago=20, StudyDescription="Chest")
    assert [row[1:3] for row in planned(rules, shelf, "chest")] == [("hold", "quiet"), ("hold", "quiet")]
    found = ForwardLook(rules, shelf, shelf.headers_of).explain(rules.rules["chest"], "1.1", NOW)
    assert (found.gate.way, found.gate.opens_at) == (Way.WAIT, NOW + timedelta(seconds=40))


def test_of_series_that_come_by_themselves_those_that_are_quiet_go_now(rules: RuleSet, shelf: Shelf) -> None:
    shelf.put("1.1", "1", ImageType=["ORIGINAL"])
    shelf.put("1.1", "2", ImageType=["DERIVED"])
    shelf.put("1.1", "1", series="2", ago=5, ImageType=["ORIGINAL"])
    assert planned(rules, shelf, "originals") == [("1.1", "move", "new", "a", 1), ("1.1", "hold", "quiet", "a", 1)]


def test_only_what_is_missing_is_counted(rules: RuleSet, shelf: Shelf) -> None:
    for name in ("1", "2"):
        shelf.put("1.1", name, StudyDescription="Chest")
    first = frozenset({"1.1.1.1"})
    shelf.known[Intent(LOCAL, "1.1", "", "ws")] = Known(
        fact=TransferFact(1, State.COMPLETE, 1, ""), wanted=first, there=first
    )
    assert planned(rules, shelf, "chest")[0] == ("1.1", "move", "grew", "ws", 1)


def test_round_robin_goes_on_from_study_to_study(rules: RuleSet, shelf: Shelf) -> None:
    for study in ("1.1", "1.2", "1.3"):
        shelf.put(study, "1")
    shelf.studies = {"a": 7, "b": 6}
    assert [row[3] for row in planned(rules, shelf, "turns")] == ["b", "a", "b"]


def test_a_node_whose_route_is_stopped_or_that_is_left_alone_is_passed_over(rules: RuleSet, shelf: Shelf) -> None:
    shelf.put("1.1", "1", StudyDescription="Chest")
    alone = ForwardLook(rules, shelf, shelf.headers_of, lambda: ["a"]).plan(rules.rules["chest"], NOW)
    assert [one.destination for one in alone.selection.decisions] == ["ws", "b"]
    assert alone.selection.decisions[1].reason.endswith("a does not answer: b gets it")
    shelf.stopped = [StoppedRoute(route=Route(LOCAL, "a"), cause="x", reason="x", stopped_at=NOW, probe_at=NOW)]
    stopped = ForwardLook(rules, shelf, shelf.headers_of).plan(rules.rules["chest"], NOW)
    assert [one.destination for one in stopped.selection.decisions] == ["ws", "b"]


def test_a_plan_that_does_not_look_at_all_says_so(
    rules: RuleSet, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_look, "MOST_STUDIES", 2)
    for study in ("1.1", "1.2", "1.3"):
        shelf.put(study, "1")
    answer = ForwardLook(rules, shelf, shelf.headers_of).plan(rules.rules["turns"], NOW)
    assert (answer.matches, answer.complete) == (2, False)
    assert "the 2 studies that came last" in answer.reason


def test_an_explanation_says_who_sent_it_which_clause_failed_and_on_what(rules: RuleSet, shelf: Shelf) -> None:
    shelf.put("1.1", "1", StudyDescription="Knee")
    shelf.put("1.1", "2", caller="WS", StudyDescription="Chest")
    found = ForwardLook(rules, shelf, shelf.headers_of).explain(rules.rules["chest"], "1.1", NOW)
    assert (found.counted, found.taken, found.passages) == (1, 0, ())
    assert found.notes == (
        "2 instances have arrived here: 1 from ct1, 1 from ws (does not count). Only what ct1 sent counts.",
    )
    (clause,) = found.clauses
    assert not clause.passed
    assert clause.parts[0].seen == ("Knee",)
    assert shelf.read == ["1.1.1.1"]


def test_instances_that_say_the_same_are_explained_once(rules: RuleSet, shelf: Shelf) -> None:
    for name in ("1", "2", "3"):
        shelf.put("1.1", name, ImageType=["DERIVED"])
    shelf.put("1.1", "4", ImageType=["ORIGINAL"])
    found = ForwardLook(rules, shelf, shelf.headers_of).explain(rules.rules["originals"], "1.1", NOW)
    (clause,) = found.clauses
    assert (clause.text, clause.passed) == ("one of its instances matches: 1 of 4 do", True)
    assert [(part.text, part.passed) for part in clause.parts] == [
        ("1 of them: all of", True),
        ("3 of them: all of", False),
    ]
    assert found.taken == 1


def test_the_choice_of_a_group_is_explained_member_by_member(rules: RuleSet, shelf: Shelf) -> None:
    shelf.put("1.1", "1", StudyDescription="Chest")
    found = ForwardLook(rules, shelf, shelf.headers_of, lambda: ["a"]).explain(rules.rules["chest"], "1.1", NOW)
    assert found.notes[-1] == "Of any_of [a, b] b gets it: a does not answer, b can take it."
    shelf.studies = {"a": 1, "b": 2}
    turns = ForwardLook(rules, shelf, shelf.headers_of).explain(rules.rules["turns"], "1.1", NOW)
    assert turns.notes[-1] == (
        "Of round_robin [a, b] a gets it: a can take it and has got 1 study, b can take it and has got 2 studies."
    )


def test_of_a_study_that_is_not_there_nothing_is_passed_on(rules: RuleSet, shelf: Shelf) -> None:
    found = ForwardLook(rules, shelf, shelf.headers_of).explain(rules.rules["chest"], "1.9", NOW)
    assert (found.counted, found.taken, found.gate.way) == (0, 0, Way.FAIL)
    assert found.notes == ("Nothing of the study has arrived here.",)
    assert Action.MOVE not in {one.decision.action for one in found.passages}
