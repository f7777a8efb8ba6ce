"""What is explained of a study, from values: keys and since when they cover it, the gates, and what comes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.config.anatomy import shipped
from router.domain.condition import Condition, Evaluation, KeyMatch
from router.domain.coverage import coverage
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.examination import examination
from router.domain.gates import (
    OWN,
    SHARED,
    Gate,
    Present,
    Standing,
    Way,
    conclude,
    own_gates,
    shared_gates,
)
from router.domain.prior_condition import Study, View
from router.domain.prior_explanation import explain_prior
from router.domain.priors import PriorCondition, PriorException, PriorGroup, Priors, Within
from router.domain.relevance import choose
from router.domain.route import StoppedRoute
from router.domain.rule import Move, Node, NodeLimits, Rule, RuleLimits, Sweep, Tier, WindowUse
from router.domain.rule_explanation import deciding, explain_sweep
from router.domain.selection import Action, Decision
from router.domain.timing import Schedule
from router.domain.transfer import Hold, Intent, NewTransfer, Route, State, Transfer
from router.domain.window import Window, parse_span

NOW = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
EVALUATION = Evaluation(now=NOW, zone=BERLIN)
ROW = Identifier.of(StudyDate="20261127", StudyTime="101500", StudyDescription="CT Chest", PatientID="P1")


# --- Keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "texts", "said", "passed"),
    [
        ("StudyDate", ["today-1d..today"], "StudyDate is today-1d..today (2026-11-27 to 2026-11-28)", True),
        ("StudyDate", ["today"], "StudyDate is today (2026-11-28)", False),
        ("StudyDate", ["20261127"], "StudyDate is 20261127", True),
        ("StudyDescription", ["MR*"], "StudyDescription is like MR*", False),
        ("StudyDescription", ["CT Chest", "CT Knee"], "StudyDescription is one of CT Chest, CT Knee", True),
        ("StudyDescription", [], "StudyDescription may have any value", True),
        ("ModalitiesInStudy", ["CT"], "ModalitiesInStudy is CT", False),
        ("AccessionNumber", ["A1"], "AccessionNumber is A1", True),
    ],
)
def test_a_key_is_explained_with_what_it_means_now(name: str, texts: list[str], said: str, passed: bool) -> None:
    one = KeyMatch.of(name, *texts).explain(ROW, EVALUATION)
    assert (one.text, one.passed) == (said, passed)


def test_a_key_that_names_moments_shows_the_time_of_day_too() -> None:
    one = KeyMatch.of("StudyDate", "now-26h..now").explain(ROW, EVALUATION)
    assert one.text == "StudyDate is now-26h..now (2026-11-27 08:00 to 2026-11-28 10:00)"
    assert one.seen == ("20261127", "101500")
    assert one.passed


DATES = ("today", "today-1d..today", "now-26h..now", "now-3h..now", "20200101..yesterday", "today-1m..today+2d")


@given(
    st.sampled_from(DATES),
    st.datetimes(min_value=NOW.replace(year=2025, tzinfo=None), max_value=NOW.replace(year=2027, tzinfo=None)),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
)
def test_a_key_takes_a_study_just_between_the_moments_that_are_said(text: str, taken: datetime, zone: str) -> None:
    key = KeyMatch.of("StudyDate", text)
    evaluation = Evaluation(now=NOW, zone=ZoneInfo(zone))
    row = Identifier.of(StudyDate=f"{taken:%Y%m%d}", StudyTime=f"{taken:%H%M%S}")
    covered = coverage(key, row, evaluation)
    assert covered is not None
    for moment, inside in ((covered.since, True), (covered.until, False)):
        if moment is None:
            continue
        before = bool(key.matches(row, evaluation._replace(now=moment - timedelta(seconds=1))))
        assert bool(key.matches(row, evaluation._replace(now=moment))) is inside
        assert before is not inside
    within = (covered.since is None or covered.since <= NOW) and (covered.until is None or covered.until > NOW)
    assert bool(key.matches(row, evaluation)) is within


@pytest.mark.parametrize("text", ["20261127", "20260101..20261231", "now-2h"])
def test_of_dates_that_stand_still_nothing_is_said(text: str) -> None:
    assert coverage(KeyMatch.of("StudyDate", text), ROW, EVALUATION) is None
    assert coverage(KeyMatch.of("StudyDate", "today"), Identifier.of(PatientID="P1"), EVALUATION) is None


def rule(*tiers: Tier, keys: tuple[KeyMatch, ...] = (), where: dict[str, object] | None = None, **more: Any) -> Rule:
    fields: dict[str, Any] = {"move": Move(to=("ws",))} | more
    level = fields.pop("level", QueryRetrieveLevel.STUDY)
    settle = fields.pop("settle", 0.0)
    return Rule(
        name="r",
        sweep=Sweep(source="pacs", tiers=tiers, keys=keys, level=level, settle=settle),
        where=Condition.of(where),
        **fields,
    )


HOURLY = Schedule.periodic(3600)


def explained(one: Rule, row: Identifier = ROW, series: list[Identifier] | None = None) -> list[str]:
    assert one.sweep is not None
    return [line for part in explain_sweep(one, one.sweep, row, series, EVALUATION) for line in part.render()]


def test_each_tier_says_whether_it_would_find_the_study_and_how_long() -> None:
    tiers = (Tier(schedule=HOURLY, lookback=7200.0), Tier(schedule=HOURLY, lookback=7 * 86400.0), Tier(schedule=HOURLY))
    one = rule(*tiers, keys=(KeyMatch.of("StudyDescription", "CT*"), KeyMatch.of("StudyDate", "20261128")))
    seen = " (seen: 20261127, 101500)"
    assert explained(one) == [
        "pass  all keys of the sweep match",
        "  pass  StudyDescription is like CT* (seen: CT Chest)",
        "pass  one of the tiers looks back far enough",
        "  FAIL  every 3600s, looking back 2h: 2026-11-28 08:00 to 2026-11-28 10:00, no more since 2026-11-27 12:15"
        + seen,
        f"  pass  every 3600s, looking back 7d: 2026-11-21 10:00 to 2026-11-28 10:00, until 2026-12-04 10:15{seen}",
        "  FAIL  every 3600s: StudyDate is 20261128 (seen: 20261127)",
    ]


def test_a_sweep_of_series_says_which_series_fits() -> None:
    one = rule(keys=(KeyMatch.of("Modality", "CT"),), where={"PatientID": "P1"}, level=QueryRetrieveLevel.SERIES)
    rows = [
        Identifier({**ROW.elements, **Identifier.of(SeriesInstanceUID=f"1.{m}", Modality=m).elements})
        for m in ("MR", "CT")
    ]
    assert explained(one, series=rows) == [
        "pass  one of its series fits",
        "  FAIL  series 1.MR",
        "    FAIL  Modality is CT (seen: MR)",
        "    pass  where: all of",
        "      pass  PatientID is P1 (seen: P1)",
        "  pass  series 1.CT",
        "    pass  Modality is CT (seen: CT)",
        "    pass  where: all of",
        "      pass  PatientID is P1 (seen: P1)",
    ]


@pytest.mark.parametrize(
    ("where", "way"),
    [
        ({"PatientID": "P1"}, ()),
        ({"PatientID": "P1", "StudyDescription": "MR"}, (0, 1)),
        ({"any": [{"PatientID": "X"}, {"PatientID": "Y"}]}, (0, 0)),
        ({"not": {"PatientID": "P1"}}, (0, 0)),
        ({"all": [{"PatientID": "P1"}, {"PatientID": "X"}]}, (0, 0, 1)),
    ],
)
def test_the_clause_that_decides_is_found(where: dict[str, object], way: tuple[int, ...]) -> None:
    one = rule(where=where)
    assert one.sweep is not None
    assert deciding(explain_sweep(one, one.sweep, ROW, None, EVALUATION)) == way


# --- Gates ------------------------------------------------------------------------------------------------------------

NIGHT = Window.of("night", "Europe/Berlin", parse_span("daily 19:00-07:00"))


def node(name: str, *, window: bool = False, **limits: Any) -> Node:
    windows = (WindowUse(window="night"),) if window else ()
    return Node(
        name=name,
        ae_title=name.upper(),
        host="h",
        port=104,
        timezone="Europe/Berlin",
        windows=windows,
        limits=NodeLimits(**limits),
    )


def decision(action: Action = Action.MOVE, code: str = "new", **more: Any) -> Decision:
    fields: dict[str, Any] = {"reason": "why", "study_instance_uid": "1.1", "destination": "ws", "instance_count": 3}
    return Decision(action=action, code=code, **(fields | more))


def transfer(state: State, cause: str = "", **more: Any) -> Transfer:
    fields: dict[str, Any] = {
        "id": 7,
        "intent": Intent("pacs", "1.1", "", "ws"),
        "rule": "other",
        "priority": 1,
        "instance_count": 3,
        "queued_at": NOW - timedelta(minutes=5),
        "next_at": NOW + timedelta(minutes=5),
        "updated_at": NOW,
    }
    return Transfer(state=state, cause=cause, **(fields | more))


def standing(**changes: Any) -> Standing:
    fields: dict[str, Any] = {
        "now": NOW,
        "zone": BERLIN,
        "rule": rule(Tier(schedule=HOURLY)),
        "source": node("pacs"),
        "destination": "ws",
        "node": node("ws"),
        "windows": {"night": NIGHT},
        "decision": decision(),
        "next_sweep_at": NOW + timedelta(minutes=30),
    }
    return Standing(**(fields | changes))


def gates(one: Standing) -> dict[str, Gate]:
    return {gate.gate: gate for gate in (*shared_gates(one), *own_gates(one))}


def concluded(one: Standing) -> str:
    return conclude(one, [*shared_gates(one), *own_gates(one)]).text


def test_where_nothing_stands_in_the_way_it_would_be_moved_now() -> None:
    one = standing()
    assert {gate.way for gate in gates(one).values()} == {Way.PASS}
    assert concluded(one) == "would be moved now"
    assert gates(one)["next-sweep"].reason == "due at 10:30; `apply` sweeps at once"


def test_a_closed_window_says_when_it_opens_of_source_and_destination() -> None:
    for changes, name in (
        ({"source": node("pacs", window=True)}, "source"),
        ({"node": node("ws", window=True)}, "destination"),
    ):
        one = standing(**changes)
        gate = gates(one)[f"{name}-window"]
        assert (gate.way, gate.opens_at) == (Way.WAIT, datetime(2026, 11, 28, 18, 0, tzinfo=UTC))
        assert concluded(one) == f"waits until 19:00 ({name}-window)"
    never = Window.of("night", "UTC", ())
    assert gates(standing(source=node("pacs", window=True), windows={"night": never}))["source-window"].way is Way.FAIL


@given(st.lists(st.integers(0, 7200), max_size=12), st.integers(1, 6))
def test_moves_of_an_hour_that_are_used_up_come_back_as_they_grow_old(ages: list[int], most: int) -> None:
    ended = [NOW - timedelta(seconds=seconds) for seconds in ages]
    one = standing(source=node("pacs", moves_per_hour=most), moves={"pacs": ended})
    gate = gates(one)["source-limits"]
    used = sum(age < 3600 for age in ages)
    assert f"{used} of {most} moves an hour" in gate.reason
    assert gate.passed is (used < most)
    if gate.opens_at is not None:
        left = sum(moment + timedelta(hours=1) > gate.opens_at for moment in ended)
        assert left < most
        earlier = sum(moment + timedelta(hours=1) > gate.opens_at - timedelta(seconds=1) for moment in ended)
        assert earlier >= most


def test_limits_that_are_in_force_are_named() -> None:
    one = standing(source=node("pacs", associations=2, duty=0.5, queries_per_minute=30), node=node("ws", incoming=3))
    assert gates(one)["source-limits"].reason == "pacs: 2 associations, 30 queries a minute, busy 50% of the time"
    assert gates(one)["destination-limits"].reason == "ws: 3 moves to it at once"


@pytest.mark.parametrize(
    ("state", "cause", "decided", "gate", "way", "words"),
    [
        (
            State.COMPLETE,
            "",
            decision(Action.SKIP, "done"),
            "duplicate",
            Way.FAIL,
            "moved before: transfer 7, complete",
        ),
        (State.MOVING, "", decision(Action.SKIP, "under-way"), "duplicate", Way.FAIL, "under way: transfer 7, moving"),
        (State.HELD, "", decision(Action.HOLD, "held"), "duplicate", Way.FAIL, "`transfers release` lets it go on"),
        (
            State.COMPLETE,
            "",
            decision(code="grew"),
            "duplicate",
            Way.PASS,
            "known, why: transfer 7, complete, by rule other",
        ),
        (State.FAILED, "a700", decision(code="again"), "failed-before", Way.FAIL, "failed before (a700)"),
        (State.FAILED, "a700", decision(code="grew"), "failed-before", Way.PASS, "but it has changed since"),
    ],
)
def test_what_the_ledger_knows_is_said(
    state: State, cause: str, decided: Decision, gate: str, way: Way, words: str
) -> None:
    found = gates(standing(transfer=transfer(state, cause), decision=decided))[gate]
    assert found.way is way
    assert words in found.reason


def test_a_study_that_settles_says_since_when_and_until_when() -> None:
    settling = rule(Tier(schedule=HOURLY), settle=600.0)
    known = transfer(State.HELD, "settling")
    one = standing(rule=settling, transfer=known, decision=decision(Action.HOLD, "settling"))
    gate = gates(one)["settle"]
    assert (gate.way, gate.opens_at) == (Way.WAIT, NOW + timedelta(minutes=5))
    assert gate.reason == "the same number of instances since 09:55; 10m are asked for"
    assert concluded(one) == "held until 10:05 (settle): why"
    hold = Hold(cause="settling", reason="", since=NOW, next_at=NOW + timedelta(minutes=10))
    new = NewTransfer(intent=known.intent, rule="r", priority=1, instance_count=3, hold=hold)
    one = standing(rule=settling, decision=decision(Action.HOLD, "settling", new=new))
    assert gates(one)["settle"].opens_at == NOW + timedelta(minutes=40), "from the next sweep on"


def test_limits_of_the_rule_say_what_is_used_and_when_they_begin_anew() -> None:
    limited = rule(Tier(schedule=HOURLY), limits=RuleLimits(studies_per_sweep=2, instances_per_day=9))
    one = standing(rule=limited, queued_today=4, waiting=3)
    assert gates(one)["studies-per-sweep"].reason.startswith("2 for each sweep; 3 wait, the oldest goes first")
    assert gates(one)["instances-per-day"].reason == "4 of 9 used today; begins anew at 2026-11-29 00:00"
    assert concluded(one) == "would be moved now, if the sweep leaves it room (studies_per_sweep and instances_per_day)"
    waiting = transfer(State.HELD, "instances-per-day", rule="r")
    one = standing(rule=limited, queued_today=9, transfer=waiting, decision=decision(Action.HOLD, "limit"))
    assert gates(one)["instances-per-day"].opens_at == datetime(2026, 11, 28, 23, 0, tzinfo=UTC)
    assert concluded(one) == "held until 2026-11-29 00:00 (instances-per-day): why"
    waiting = transfer(State.HELD, "studies-per-sweep", rule="r")
    one = standing(rule=limited, transfer=waiting, decision=decision(Action.HOLD, "limit"))
    assert gates(one)["studies-per-sweep"].opens_at == NOW + timedelta(minutes=30)


@pytest.mark.parametrize(
    ("present", "way", "words"),
    [
        (Present(count=3), Way.FAIL, "ws holds 3 of 3 instances (skip_present)"),
        (Present(count=2), Way.PASS, "ws holds 2 of 3 instances"),
        (Present(count=0), Way.PASS, "ws holds 0 of 3 instances"),
        (Present(), Way.PASS, "does not say how many"),
        (Present(note="ws is down."), Way.PASS, "not known: ws is down."),
    ],
)
def test_what_is_there_already_is_said(present: Present, way: Way, words: str) -> None:
    one = standing(present=present)
    gate = gates(one)["already-there"]
    assert gate.way is way
    assert words in gate.reason
    assert (concluded(one) == "nothing would be moved: ws holds all of it already") is (way is Way.FAIL)
    trusting = rule(Tier(schedule=HOURLY), move=Move(to=("ws",), skip_present=False))
    assert gates(standing(rule=trusting, present=present))["already-there"].passed


def test_a_stopped_route_and_a_node_that_is_left_alone_make_it_wait() -> None:
    stopped = StoppedRoute(
        route=Route("pacs", "ws"), cause="a801", reason="unknown", stopped_at=NOW, probe_at=NOW, probes=0
    )
    one = standing(stopped=stopped, left_alone={"ws"})
    assert gates(one)["route"].way is Way.WAIT
    assert gates(one)["breaker"].way is Way.WAIT
    assert concluded(one) == "waits for what nobody knows the time of (route, breaker)"


def test_a_rule_that_is_disabled_and_a_study_that_is_not_found_move_nothing() -> None:
    one = standing(rule=rule(enabled=False))
    assert gates(one)["enabled"].way is Way.FAIL
    assert concluded(one) == "skipped: the rule is disabled"
    assert concluded(standing(decision=None)) == "not found by the rule"
    outside = decision(Action.SKIP, "key", reason="outside the key StudyDate: more than was asked for")
    assert concluded(standing(decision=outside)) == "not found: outside the key StudyDate"


@pytest.mark.parametrize(("word", "way"), [("OFFLINE", Way.FAIL), ("NEARLINE", Way.PASS), ("ONLINE", Way.PASS)])
def test_availability_is_a_gate(word: str, way: Way) -> None:
    assert gates(standing(decision=decision(availability=word)))["availability"].way is way


def test_a_transfer_under_way_says_what_it_waits_for() -> None:
    one = standing(
        source=node("pacs", window=True),
        transfer=transfer(State.QUEUED),
        decision=decision(Action.SKIP, "under-way", reason="already queued"),
    )
    assert concluded(one) == "skipped: already queued; transfer 7 waits until 19:00 (source-window)"


STATES = st.sampled_from([None, *State])
CAUSES = st.sampled_from(["", "settling", "studies-per-sweep", "a700"])
CODES = st.sampled_from(
    ["new", "grew", "again", "done", "under-way", "held", "settling", "limit", "key", "unavailable"]
)


@given(st.booleans(), STATES, CAUSES, st.sampled_from(Action), CODES, st.sampled_from([None, 0, 2, 3]), st.booleans())
def test_what_is_said_to_move_now_has_no_gate_that_waits(
    window: bool, state: State | None, cause: str, action: Action, code: str, count: int | None, limited: bool
) -> None:
    limits = RuleLimits(studies_per_sweep=2, instances_per_day=5) if limited else RuleLimits()
    one = standing(
        rule=rule(Tier(schedule=HOURLY), settle=60.0, limits=limits),
        source=node("pacs", window=window),
        transfer=None if state is None else transfer(state, cause),
        decision=decision(action, code),
        present=Present(count=count),
    )
    found = [*shared_gates(one), *own_gates(one)]
    assert len(found) <= len(SHARED) + len(OWN)
    text = conclude(one, found).text
    assert text
    if text.startswith("would be moved now"):
        assert action is Action.MOVE
        assert Way.WAIT not in {gate.way for gate in found}
    if window and action is Action.MOVE:
        assert not text.startswith("would be moved now")


# --- Priors -----------------------------------------------------------------------------------------------------------

ANATOMY = shipped()


def study(uid: str, day: str, description: str, modality: str, **more: str) -> Identifier:
    known = {"PatientID": "1", "IssuerOfPatientID": "H", "StudyInstanceUID": uid}
    return Identifier.of(**known, StudyDate=day, StudyDescription=description, ModalitiesInStudy=modality, **more)


DESCRIPTIONS = st.sampled_from(["CT Thorax", "MR Knee", "CT Abdomen", "XR Chest", "", "contrast"])
STUDIES = st.builds(
    study,
    st.sampled_from([f"1.{n}" for n in range(4)]),
    st.sampled_from(["", "20261101", "20240101", "20100101", "20270101"]),
    DESCRIPTIONS,
    st.sampled_from(["CT", "MR", "CR", "SR", ""]),
    StationName=st.sampled_from(["A", "B", ""]),
)
CONDITIONS = st.builds(
    PriorCondition,
    anatomy=st.sampled_from([(), ("same",), ("near",), ("knee",), ("chest",)]),
    modality=st.sampled_from([(), ("same",), ("CT",), ("XR",)]),
    entirely=st.booleans(),
    same=st.sampled_from([(), (known_tag("StationName"),)]),
    condition=st.sampled_from([Condition(), Condition.of({"StudyDescription": {"like": "*contrast*"}})]),
)


@given(CONDITIONS, STUDIES, STUDIES)
def test_the_parts_of_a_condition_hold_together_if_it_holds(
    condition: PriorCondition, current: Identifier, candidate: Identifier
) -> None:
    view = View.of(examination(current), ANATOMY, EVALUATION)
    one = Study.of(examination(candidate), ANATOMY)
    parts = view.explain(condition, one)
    assert all(part.passed for part in parts) is view.holds(condition, one)


GROUPS = st.lists(
    st.builds(
        PriorGroup,
        name=st.sampled_from(["a", "b", "c"]),
        where=CONDITIONS,
        max=st.sampled_from([None, 1]),
        within=st.sampled_from([None, Within("5y", months=60)]),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda group: group.name,
)
PRIORS = st.builds(
    Priors,
    source=st.just("pacs"),
    groups=GROUPS.map(tuple),
    exclude=st.none() | CONDITIONS,
    exceptions=st.lists(st.builds(PriorException, leave_out=CONDITIONS, unless=st.none() | CONDITIONS), max_size=1).map(
        tuple
    ),
    undated=st.sampled_from(["last", "never"]),
)


@given(PRIORS, STUDIES, STUDIES)
def test_a_prior_is_explained_as_it_was_decided(priors: Priors, current: Identifier, candidate: Identifier) -> None:
    assume(current.text("StudyInstanceUID") != "1.3")
    ours, theirs = examination(current), examination(candidate)
    (prior,) = choose(ours, [theirs], priors, ANATOMY, EVALUATION, destination="ws", presence={}, brought={})
    *filters, groups = explain_prior(prior, ours, theirs, priors, ANATOMY, EVALUATION)
    left_out = prior.code not in ("taken", "full", "too-old", "no-group")
    assert [one.passed for one in filters].count(False) == left_out
    if left_out:
        assert not filters[-1].passed
        if prior.code in ("excluded", "exception"):
            assert not all(part.passed for part in filters[-1].parts), "a part says why"
    else:
        assert groups.passed is (prior.code in ("taken", "full"))
        assert [group.text.split()[1].rstrip(":") for group in groups.parts] == [group.name for group in priors.groups]


def test_it_is_said_by_what_the_anatomy_was_found() -> None:
    current = examination(study("1.1", "20261101", "CT Thorax", "CT"))
    group = PriorGroup(name="near", where=PriorCondition(anatomy=("same",), modality=("same",)), max=2)
    priors = Priors(source="pacs", groups=(group,), identity="patient-id")
    for more, by in (({}, "its description"), ({"BodyPartExamined": "CHEST"}, "Body Part Examined")):
        words = "CT Thorax" if not more else "CT"
        candidate = examination(study("1.2", "20240101", words, "CT", **more))
        (prior,) = choose(current, [candidate], priors, ANATOMY, EVALUATION, destination="ws", presence={}, brought={})
        groups = explain_prior(prior, current, candidate, priors, ANATOMY, EVALUATION)[-1]
        anatomy, modality = groups.parts[0].parts
        assert anatomy.seen == (f"chest, by {by}",)
        assert anatomy.text == "anatomy is same (chest)"
        assert (modality.text, modality.seen) == ("modality is same (CT)", ("CT",))
    assert msgspec.structs.asdict(prior)["taken"]
