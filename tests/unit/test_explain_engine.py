"""One study explained: it says of it what the rule's sweep says, and asks no more than it must."""

from __future__ import annotations

import io
import random
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from rich.console import Console

from router.cli.explain_text import show
from router.domain.condition import Condition
from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel, name_of, vr_of
from router.domain.gates import Way
from router.domain.key import KeyMatch
from router.domain.priors import PriorGroup, Priors, Within
from router.domain.rule import Arrival, Move, Node, Rule, RuleLimits, Sweep, Tier, Worklist
from router.domain.selection import LIMITED, Action, Decision
from router.domain.timing import Schedule
from router.domain.transfer import Happening, State
from router.engine.explain import Explainer
from router.engine.explain_prior import PriorExplainer
from router.engine.explain_ways import Ways
from router.engine.explained import RuleExplained, StudyExplained, WayExplained
from router.engine.forward_look import ForwardLook
from router.engine.ports import FindResult
from router.errors import ConnectionFailed
from tests.support.engine import Bench
from tests.support.fake_peers import FakePeers

HOUR = 3600.0


class Archive(FakePeers):
    """Matches by the keys it is asked with, as a PACS does; some attributes it matches by, but does not return."""

    hidden: frozenset[str] = frozenset()
    lenient = False
    """What has no value of a key matches it."""

    def find(
        self, node: Node, level: QueryRetrieveLevel, keys: Identifier, *, maximum: int, cancelled: threading.Event
    ) -> FindResult:
        found = super().find(node, level, keys, maximum=maximum, cancelled=cancelled)
        of_study = ("StudyDate", "StudyDescription", "ModalitiesInStudy")
        known = of_study if level is QueryRetrieveLevel.STUDY else ("Modality",)
        own = Identifier({tag: values for tag, values in keys.elements.items() if name_of(tag) in known})
        rows = [row for row in found.identifiers if self._matches(row, own)]
        shown = [
            Identifier({tag: values for tag, values in row.elements.items() if name_of(tag) not in self.hidden})
            for row in rows
        ]
        return FindResult(identifiers=shown, status=found.status)

    def _matches(self, row: Identifier, keys: Identifier) -> bool:
        for tag, wanted in keys.elements.items():
            if not wanted:
                continue
            values = [value for value in row.elements.get(tag, ()) if isinstance(value, str) and value]
            pattern = str(wanted[0])
            if not values:
                if not self.lenient:
                    return False
            elif vr_of(tag) == "DA":
                first, _, last = pattern.partition("-")
                if not first <= values[0] <= (last or first):
                    return False
            elif not any(fnmatchcase(value, pattern) for value in values):
                return False
        return True


class Explained(Bench):
    """A bench on which one study is explained."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        # The same peers, that every part of the bench has, but matching by keys.
        self.peers.__class__ = Archive
        assert isinstance(self.peers, Archive)
        self.archive: Archive = self.peers

    def rule(self, name: str = "r", **changes: Any) -> Rule:
        fields: dict[str, Any] = {"where": Condition(), "move": Move(to=("ws",)), "sweep": Sweep(source="pacs")}
        rule = Rule(name=name, **(fields | changes))
        self.rules = msgspec.structs.replace(self.rules, rules={**self.rules.rules, name: rule})
        return rule

    def node(self, name: str = "pacs", **changes: Any) -> None:
        changed = msgspec.structs.replace(self.rules.nodes[name], **changes)
        self.rules = msgspec.structs.replace(self.rules, nodes=self.rules.nodes | {name: changed})

    def ways(self, uid: str, offline: bool) -> Ways:
        return Ways(
            uid,
            rules=self.rules,
            ledger=self.ledger,
            inquiry=self.inquiry,
            now=self.clock.now(),
            left_alone=(),
            offline=offline,
        )

    def explain(self, uid: str, *names: str, offline: bool = False) -> StudyExplained:
        explainer = Explainer(
            uid,
            rules=self.rules,
            ledger=self.ledger,
            inquiry=self.inquiry,
            prefetcher=self.prefetcher,
            stored=lambda study, wanted: self.stored.get(study),
            forwards=ForwardLook(self.rules, self.ledger, lambda receipts, wanted: {}),
            clock=self.clock,
            ways=self.ways(uid, offline),
            offline=offline,
        )
        return explainer.explain([self.rules.rules[name] for name in names or ("r",)])

    def one(self, uid: str, **options: Any) -> RuleExplained:
        (rule,) = self.explain(uid, **options).rules
        return rule

    def as_prior(self, uid: str, current: str) -> RuleExplained:
        explainer = PriorExplainer(
            uid, rules=self.rules, inquiry=self.inquiry, prefetcher=self.prefetcher, ways=self.ways(uid, False)
        )
        (rule,) = explainer.explain([self.rules.rules["r"]], current).rules
        return rule

    def plan(self, rule: Rule) -> list[Decision]:
        found = self.sweeper.look(self.rules, rule, self.never, tier=rule.widest_tier, manual=True)
        return found.selection.decisions


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Explained]:
    made = Explained(tmp_path)
    yield made
    made.ledger.close()


def gates(one: RuleExplained | WayExplained) -> dict[str, Way]:
    return {gate.gate: gate.way for gate in one.gates}


def every(tiers: int = 1, **fields: Any) -> Sweep:
    schedule = Schedule.periodic(HOUR)
    return Sweep(source="pacs", tiers=tuple(Tier(schedule=schedule) for _ in range(tiers)), **fields)


# --- As the plan says -------------------------------------------------------------------------------------------------

WORDS = ("CT Chest", "CT Knee", "MR Knee", "")
MODALITIES = ("CT", "MR", "")


class Chance:
    """A random archive, rule and past."""

    def __init__(self, seed: int, bench: Explained) -> None:
        self.random = random.Random(seed)
        self.bench = bench
        for number in range(10):
            self.study(f"1.{number + 1}")

    def pick(self, *of: Any) -> Any:
        return self.random.choice(of)

    def study(self, uid: str) -> None:
        day = self.bench.clock.now() - timedelta(days=self.random.randrange(5), hours=self.random.randrange(24))
        said = {
            "StudyDate": f"{day:%Y%m%d}",
            "StudyTime": f"{day:%H%M%S}",
            "StudyDescription": self.pick(*WORDS),
            "ModalitiesInStudy": self.pick(*MODALITIES),
            "InstanceAvailability": self.pick("", "ONLINE", "ONLINE", "NEARLINE", "OFFLINE"),
            "PatientID": "P1",
        }
        for series in range(self.random.randint(1, 3)):
            instances = [f"{uid}.{series}.{n}" for n in range(self.random.randint(1, 4))]
            self.bench.peers.add("pacs", uid, f"{uid}.{series}", *instances)
            self.bench.peers.series_attributes[f"{uid}.{series}"] = {"Modality": self.pick("CT", "MR")}
        self.bench.peers.attributes[uid] = {name: value for name, value in said.items() if value}

    def make_rule(self) -> Rule:
        by_series = self.random.random() < 0.3
        dates = self.pick("today-3d..today", "today-1d..today", "now-90h..now", "20261101..20261130")
        keys = [KeyMatch.of("StudyDate", dates)]
        modalities = self.pick("", "", "", "CT", "C*")
        keys += [KeyMatch.of("ModalitiesInStudy", modalities)] if modalities else []
        keys += self.pick([], [], [], [KeyMatch.of("StudyDescription", "*Knee*")])
        keys += self.pick([], [KeyMatch.of("Modality", "CT", "US")]) if by_series else []
        schedule = Schedule.periodic(HOUR)
        tiers = self.pick(
            (),
            (Tier(schedule=schedule),),
            (Tier(schedule=schedule, lookback=6 * HOUR), Tier(schedule=schedule, lookback=90 * HOUR)),
        )
        level = QueryRetrieveLevel.SERIES if by_series else QueryRetrieveLevel.STUDY
        move_level = self.pick(level, QueryRetrieveLevel.SERIES, QueryRetrieveLevel.STUDY)
        where = self.pick(
            {},
            {},
            {"StudyDescription": {"matches": "Knee"}},
            {"ModalitiesInStudy": ["CT", "US"]},
            {"not": {"ModalitiesInStudy": "CT"}, "StudyDescription": {"exists": "true"}},
            {"any": [{"StudyDescription": "CT Chest"}, {"NumberOfStudyRelatedInstances": {"gt": "3"}}]},
        )
        return self.bench.rule(
            sweep=Sweep(
                source="pacs",
                level=level,
                tiers=tiers,
                keys=tuple(keys),
                settle=self.pick(0.0, 0.0, 600.0),
            ),
            where=Condition.of(where),
            move=Move(to=self.pick(("ws",), ("local",), ("ws", "local")), level=move_level),
            limits=self.pick(RuleLimits(), RuleLimits(), RuleLimits(studies_per_sweep=2, instances_per_day=9)),
        )

    def past(self) -> None:
        """Some sweeps and moves, some of them failing; what the archive has grows, a person holds or cancels some."""
        bench, some = self.bench, self.random
        for _ in range(some.randrange(3)):
            bench.sweep(manual=some.random() < 0.5)
            bench.peers.deliver = lambda wanted: [one for one in wanted if some.random() < 0.8]
            for _ in range(some.randrange(12)):
                bench.step()
            bench.clock.advance(some.choice((1.0, 700.0)))
        for uid in some.sample(sorted(bench.peers.holdings["pacs"]), 3):
            bench.peers.add("pacs", uid, f"{uid}.0", f"{uid}.0.new")
        for one in bench.ledger.transfers():
            if one.state in (State.QUEUED, State.HELD) and some.random() < 0.3:
                bench.ledger.apply(one.id, some.choice((Happening.HOLD, Happening.CANCEL)), bench.clock.now())


def said(decisions: list[Decision]) -> set[tuple[str, str, str, str, str]]:
    return {
        (one.destination, one.series_instance_uid, str(one.action), one.code, one.reason)
        for one in decisions
        if one.code not in ("key", "condition")  # not found: a source may not answer it at all, for another reason
    }


def told(one: RuleExplained, study: str) -> list[Decision]:
    return [
        msgspec.structs.replace(way.decision, study_instance_uid=study, series_instance_uid=series)
        for way in one.ways
        for series in way.series or ("",)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_each_study_is_explained_as_the_plan_decides(seed: int, bench: Explained) -> None:
    chance = Chance(seed, bench)
    bench.archive.lenient = chance.pick(True, False)
    rule = chance.make_rule()
    chance.past()
    bench.archive.hidden = frozenset(chance.pick((), ("ModalitiesInStudy",), ("NumberOfStudyRelatedInstances",)))
    planned = bench.plan(rule)
    before = len(bench.peers.requests), bench.ledger.transfers()
    for uid in bench.peers.holdings["pacs"]:
        mine = [one for one in planned if one.study_instance_uid == uid]
        explained = bench.one(uid)
        decisions = told(explained, uid)
        fits = all(clause.passed for clause in explained.clauses)
        assert fits or not explained.found, "what is found passes every clause"
        assert explained.found or not fits or explained.notes, "what is not found says why"
        assert bool(explained.decides) is not fits
        if rule.limits != RuleLimits() and said(mine) != said(decisions):
            # How much room the other studies of the sweep leave only the whole sweep shows, and that is what it says.
            assert {one.code for one in mine} & {LIMITED}
            moving = [way for way in explained.ways if way.decision.action is Action.MOVE]
            assert moving
            assert all("if the sweep leaves it room" in w.conclusion.text or gates_wait(w) for w in moving)
            continue
        assert said(mine) == said(decisions), uid
        found = any(one.destination for one in mine)
        if explained.found is not found:  # the sweep goes on with what it holds though it is out of its range
            assert not explained.found
            assert {one.transfer for one in mine if one.destination} - {None}
    assert (len(bench.peers.requests), bench.ledger.transfers()) == before, "nothing was moved, nothing written"


def gates_wait(way: WayExplained) -> bool:
    return any(gate.way is Way.WAIT for gate in way.gates) or "holds all of it already" in way.conclusion.text


def test_many_of_the_random_studies_are_found_and_many_are_not(tmp_path: Path) -> None:
    codes: set[str] = set()
    found = 0
    for seed in range(10):
        (tmp_path / str(seed)).mkdir()
        bench = Explained(tmp_path / str(seed))
        chance = Chance(seed, bench)
        chance.make_rule()
        chance.past()
        for uid in bench.peers.holdings["pacs"]:
            one = bench.one(uid)
            found += bool(one.found)
            codes |= {way.decision.code for way in one.ways}
        bench.ledger.close()
    assert 10 < found < 90
    assert {"new", "key", "condition", "settling", "done", "under-way"} <= codes


# --- What is asked ----------------------------------------------------------------------------------------------------


def test_rules_of_one_source_share_the_question_for_the_study(bench: Explained) -> None:
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", StudyDate="20261122", StudyDescription="CT Knee")
    for name in ("r", "s"):
        bench.rule(name, sweep=every(keys=(KeyMatch.of("StudyDate", "20200101"),)))
    explained = bench.explain("1.1", "r", "s")
    assert [one.found for one in explained.rules] == [False, False]
    assert len(bench.peers.finds) == 1, "what the keys exclude is not asked for again"


def test_what_the_source_computes_only_is_found_out_from_the_series(bench: Explained) -> None:
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", StudyDate="20261122")
    bench.peers.series_attributes["1.1.1"] = {"Modality": "MR"}
    bench.rule(where=Condition.of({"ModalitiesInStudy": "MR"}))
    one = bench.one("1.1")
    assert one.found
    assert one.notes == ("pacs does not say ModalitiesInStudy; it follows from the series.",)
    assert one.clauses[-1].parts[0].seen == ("MR",)


def test_a_source_that_is_down_gives_one_sentence_and_the_other_rules_go_on(bench: Explained) -> None:
    bench.rules = msgspec.structs.replace(
        bench.rules,
        nodes=bench.rules.nodes | {"other": msgspec.structs.replace(bench.rules.nodes["pacs"], name="other")},
    )
    bench.rule("s", sweep=Sweep(source="other"))
    bench.rule()
    bench.peers.add("other", "1.1", "1.1.1", "1.1.1.1")
    bench.peers.down.add("pacs")
    explained = bench.explain("1.1", "r", "s")
    assert explained.failed
    down, up = explained.rules
    assert (down.found, bool(down.problem)) == (None, True)
    assert (up.found, up.problem) == (True, "")
    assert [way.conclusion.text for way in up.ways] == ["would be moved now"]


def test_a_destination_that_cannot_be_asked_is_no_obstacle(bench: Explained) -> None:
    bench.rule()
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1")
    bench.peers.down.add("ws")
    explained = bench.explain("1.1")
    (way,) = explained.rules[0].ways
    (gate,) = [gate for gate in way.gates if gate.gate == "already-there"]
    assert gate.passed
    assert gate.reason.startswith("not known: ")
    assert not explained.failed


def test_what_the_destination_holds_already_would_not_be_moved(bench: Explained) -> None:
    bench.rule()
    for node in ("pacs", "ws"):
        bench.peers.add(node, "1.1", "1.1.1", "1.1.1.1", "1.1.1.2")
    (way,) = bench.one("1.1").ways
    assert way.conclusion.text == "nothing would be moved: ws holds all of it already"
    assert gates(way)["already-there"] is Way.FAIL


def test_a_study_that_nobody_has_is_said_to_be_nowhere(bench: Explained) -> None:
    bench.rule()
    explained = bench.explain("1.99")
    assert explained.seen[0].row is None
    assert explained.rules[0].found is False
    assert explained.rules[0].notes == ("pacs does not have the study.",)
    assert not explained.failed
    bench.node(root=InformationModel.PATIENT_ROOT)
    assert "Patient Root" in bench.one("1.99").notes[0]


def test_offline_nothing_is_asked_and_the_ledger_decides(bench: Explained) -> None:
    bench.rule()
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1")
    bench.sweep()
    bench.finish()
    bench.peers.finds.clear()
    one = bench.one("1.1", offline=True)
    assert one.found is None
    assert [(way.decision.action, way.decision.code) for way in one.ways] == [(Action.SKIP, "done")]
    assert bench.peers.finds == []


def test_what_settles_says_since_when_and_until_when(bench: Explained) -> None:
    bench.rule(sweep=every(settle=600.0))
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1")
    bench.sweep()
    since = bench.clock.now()
    bench.clock.advance(60)
    (way,) = bench.one("1.1").ways
    (gate,) = [gate for gate in way.gates if gate.gate == "settle"]
    assert (gate.way, gate.opens_at) == (Way.WAIT, since + timedelta(seconds=600))
    assert f"since {since.astimezone(ZoneInfo('UTC')):%H:%M}" in gate.reason


def test_what_failed_before_is_left_by_sweeps_and_tried_by_apply(bench: Explained) -> None:
    bench.rule(move=Move(to=("local",)))
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", "1.1.1.2")
    bench.peers.deliver = lambda wanted: [one for one in wanted if one[1] == "1.1.1.1"]
    bench.sweep()
    bench.finish()
    (way,) = bench.one("1.1").ways
    assert gates(way)["failed-before"] is Way.FAIL
    assert way.conclusion.text == "would be moved now by `apply` only"


def test_what_another_rule_moved_says_which(bench: Explained) -> None:
    bench.rule()
    bench.rule("s")
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1")
    bench.sweep()
    bench.finish()
    (way,) = bench.explain("1.1", "s").rules[0].ways
    (gate,) = [gate for gate in way.gates if gate.gate == "duplicate"]
    assert gate.reason == "moved before: transfer 1, complete, by rule r"


def test_on_a_terminal_signs_are_shown_and_no_line_is_too_long(bench: Explained) -> None:
    bench.rule(
        sweep=every(settle=600.0, keys=(KeyMatch.of("StudyDate", "today-1d..today"),)),
        where=Condition.of({"StudyDescription": {"matches": "Knee"}, "not": {"PatientID": "P9"}}),
    )
    bench.rule("s", where=Condition.of({"StudyDescription": "MR"}))
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", StudyDate="20261122", StudyDescription="CT\x1b[31m Knee")
    out = io.StringIO()
    show(bench.rules, bench.explain("1.1", "r", "s"), Console(file=out, force_terminal=True, width=80, no_color=True))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(line.rstrip() for line in lines)
    assert "\x1b" not in text, "nothing of a data set controls the terminal"
    assert "  ✓ where: all of\n    ✓ StudyDescription matches Knee; seen: CT" in text
    assert "    ✗ StudyDescription is MR; seen: CT" in text
    assert "    … settle             the next sweep begins to watch its number of instances," in text


# --- Priors -----------------------------------------------------------------------------------------------------------

PATIENT = {"PatientID": "P", "IssuerOfPatientID": "H", "PatientBirthDate": "19600101", "PatientSex": "F"}
PRIORS = Priors(source="pacs", groups=(PriorGroup(name="recent", max=1, within=Within("5y", months=60)),))


def patient(bench: Explained) -> None:
    for uid, date in (("1.1", "20240101"), ("1.2", "20230101"), ("1.3", "20100101"), ("2.1", "20261122")):
        bench.peers.add("pacs", uid, f"{uid}.1", f"{uid}.1.1", StudyDate=date, ModalitiesInStudy="CT", **PATIENT)


def test_as_a_current_study_it_is_said_how_many_priors_would_come(bench: Explained) -> None:
    patient(bench)
    bench.rule(sweep=every(keys=(KeyMatch.of("StudyDate", "today"),)), priors=PRIORS)
    one = bench.one("2.1")
    assert one.found
    assert "As the current study it would make 1 transfer of priors, out of 4 studies of the patient" in one.notes[0]
    assert bench.one("1.1").found is False
    bench.peers.fail = lambda node, level, keys: ConnectionFailed("It is down.") if keys.text("PatientID") else None
    one = bench.one("2.1")
    assert one.found
    assert one.problem == "What would be fetched for it could not be asked: It is down."


@pytest.mark.parametrize(
    ("uid", "code", "fits"), [("1.1", "taken", True), ("1.2", "full", True), ("1.3", "too-old", False)]
)
def test_as_a_prior_each_filter_and_group_is_said(bench: Explained, uid: str, code: str, fits: bool) -> None:
    patient(bench)
    bench.rule(sweep=every(keys=(KeyMatch.of("StudyDate", "today"),)), priors=PRIORS)
    one = bench.as_prior(uid, "2.1")
    (way,) = one.ways
    assert way.decision.prior is not None
    assert (way.decision.prior.code, one.found, bool(way.gates)) == (code, code == "taken", code == "taken")
    *filters, groups = one.clauses
    assert all(clause.passed for clause in filters)
    assert groups.passed is fits
    assert groups.parts[0].text == "group recent (at most 1): all of"
    assert (one.decides != ()) is not fits


def test_a_prior_of_a_current_study_that_is_not_there_or_of_another_patient(bench: Explained) -> None:
    patient(bench)
    bench.peers.add("pacs", "9.1", "9.1.1", "9.1.1.1", PatientID="Q", StudyDate="20261122")
    bench.rule(sweep=every(), priors=PRIORS)
    assert bench.as_prior("1.1", "7.7").notes == ("pacs does not have the current study.",)
    (note,) = bench.as_prior("1.1", "9.1").notes
    assert note == "pacs does not list it among the 1 studies of the current study's patient."
    bench.peers.down.add("pacs")
    assert bench.as_prior("1.1", "2.1").problem


def test_rules_that_no_sweep_starts_say_where_their_current_studies_come_from(bench: Explained) -> None:
    bench.rule(sweep=None, worklist=Worklist(source="ris"), priors=PRIORS)
    one = bench.one("1.1")
    assert one.found is None
    assert one.notes[0].startswith("Current studies come from the worklist of ris")
    bench.rule(sweep=None, arrival=Arrival(), where=Condition.of({"Modality": "CT"}), priors=PRIORS)
    assert bench.one("1.1").found is False
    assert bench.peers.finds == []


def test_an_arrival_is_explained_by_its_headers_here(bench: Explained) -> None:
    patient(bench)
    bench.rule(move=Move(to=("local",)))
    bench.sweep()
    bench.finish()
    bench.stored["2.1"] = Identifier.of(StudyInstanceUID="2.1", Modality="CT", **PATIENT)
    bench.rule(sweep=None, arrival=Arrival(senders=("pacs",)), where=Condition.of({"Modality": "CT"}), priors=PRIORS)
    one = bench.one("2.1")
    assert one.found
    assert one.clauses[0].parts[0].seen == ("CT",)
    assert one.notes[0] == "1 instances of it have arrived here."
    assert "As the current study it would make" in one.notes[-1]
    bench.peers.fail = lambda node, level, keys: ConnectionFailed("down")
    assert bench.one("2.1").problem == "down"
