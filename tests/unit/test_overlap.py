"""What is said of rules against each other is true: of hidden rules, of conditions that never hold, of windows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from router.domain.certainty import covers
from router.domain.coincidence import falls_into, open_together
from router.domain.condition import Condition, Evaluation, KeyMatch
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.implication import clash
from router.domain.modality import DEFINED_TERMS, RETIRED_TERMS, is_modality, meant_by
from router.domain.overlap import Overlap, overlaps
from router.domain.rule import Move, Rule, RuleLimits, Sweep, Tier, WindowUse
from router.domain.timing import DateExpression, Schedule
from router.domain.window import Window, parse_span

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
STUDY, SERIES = QueryRetrieveLevel.STUDY, QueryRetrieveLevel.SERIES

Keys = Mapping[str, str | list[str]]


def keys_of(given: Keys) -> tuple[KeyMatch, ...]:
    return tuple(KeyMatch.of(name, *([value] if isinstance(value, str) else value)) for name, value in given.items())


def rule(name: str, keys: Keys, where: Mapping[str, Any] | None = None, **changes: Any) -> Rule:
    tiers = changes.pop("tiers", None) or (Tier(schedule=Schedule.periodic(changes.pop("every", 300.0), "archive")),)
    sweep = Sweep(
        source=changes.pop("source", "archive"),
        level=changes.pop("level", STUDY),
        tiers=tiers,
        keys=keys_of(keys),
        settle=changes.pop("settle", 0.0),
    )
    move = changes.pop("move", Move(to=("workstation",)))
    return Rule(name=name, sweep=sweep, where=Condition.of(where), move=move, **changes)


def found(*rules: Rule) -> list[Overlap]:
    return list(overlaps(rules, NOW))


RECENT = {"StudyDate": "today-7d..today"}
CT = {**RECENT, "ModalitiesInStudy": "CT"}


# --- Hidden rules -----------------------------------------------------------------------------------------------------

HIDDEN = [
    # the wider rule, the narrower one
    (rule("a", RECENT), rule("b", CT)),
    (rule("a", RECENT), rule("b", {"StudyDate": "today-2d..today"})),
    (rule("a", RECENT), rule("b", {"StudyDate": "now-3h..today"})),
    (rule("a", RECENT), rule("b", RECENT, {"StudyDescription": "x"})),
    (rule("a", RECENT), rule("b", RECENT, every=3600.0)),
    (rule("a", RECENT), rule("b", RECENT, settle=60.0)),
    (rule("a", RECENT), rule("b", RECENT, limits=RuleLimits(studies_per_sweep=5))),
    (rule("a", RECENT, move=Move(to=("other", "workstation"))), rule("b", RECENT)),
    (rule("a", RECENT), rule("b", {**RECENT, "Modality": "CT"}, level=SERIES)),
    (rule("a", {"StudyDate": "19000101..today"}), rule("b", RECENT)),
    (rule("a", {**RECENT, "ModalitiesInStudy": ["CT", "MR"]}), rule("b", CT)),
    (rule("a", {**RECENT, "PatientName": "MUE*"}), rule("b", {**RECENT, "PatientName": "Muell*"})),
    (rule("a", {**RECENT, "StationName": "CT?"}), rule("b", {**RECENT, "StationName": ["CT1", "CT2"]})),
    (rule("a", RECENT, {"PatientSex": ["F", "O"]}), rule("b", RECENT, {"PatientSex": "F", "PatientAge": "30Y"})),
    (rule("a", RECENT, {"any": [{"PatientSex": "F"}, {"StudyID": "1"}]}), rule("b", RECENT, {"PatientSex": "F"})),
    (rule("a", RECENT, {"StudyDescription": {"like": "A*"}}), rule("b", CT, {"(0008,1030)": {"like": "A*"}})),
    (rule("a", RECENT, priority="urgent"), rule("b", RECENT)),
    (
        rule("a", {}, tiers=(Tier(schedule=Schedule.periodic(60.0), lookback=7200.0),)),
        rule("b", {}, tiers=(Tier(schedule=Schedule.at("0 * * * *", "UTC"), lookback=3600.0),)),
    ),
]


@pytest.mark.parametrize(("wide", "narrow"), HIDDEN)
def test_a_rule_of_which_another_takes_everything_is_hidden(wide: Rule, narrow: Rule) -> None:
    assert found(wide, narrow) == [Overlap("b", ("a",), twice=False)]
    assert found(narrow, wide) == [Overlap("b", ("a",), twice=False)], "whichever stands first"


def test_of_two_equal_rules_the_later_one_is_hidden() -> None:
    assert found(rule("a", CT), rule("b", CT)) == [Overlap("b", ("a",), twice=False)]
    assert found(rule("b", CT), rule("a", CT), rule("c", CT)) == [
        Overlap("a", ("b",), twice=False),
        Overlap("c", ("b",), twice=False),
    ]


def test_a_rule_may_be_hidden_by_one_rule_at_each_destination() -> None:
    both = rule("both", CT, move=Move(to=("workstation", "local")))
    assert found(both, rule("w", RECENT)) == []
    assert found(both, rule("w", RECENT), rule("l", RECENT, move=Move(to=("local",)))) == [
        Overlap("both", ("w", "l"), twice=False)
    ]


APART = [
    (rule("a", RECENT, source="other"), rule("b", CT)),
    (rule("a", RECENT, move=Move(to=("elsewhere",))), rule("b", CT)),
    (rule("a", RECENT, enabled=False), rule("b", CT)),
    (rule("a", RECENT), rule("b", CT, priority="urgent")),
    (rule("a", RECENT, every=600.0), rule("b", CT)),
    (rule("a", RECENT, settle=600.0), rule("b", CT)),
    (rule("a", RECENT, limits=RuleLimits(instances_per_day=5)), rule("b", CT)),
    (rule("a", RECENT, move=Move(to=("workstation",), verify="none")), rule("b", CT)),
    (rule("a", RECENT), rule("b", {"StudyDate": "today-8d..today"})),
    (rule("a", RECENT), rule("b", {"PatientID": "1"})),
    (rule("a", {"StudyDate": "20240101..20240131"}), rule("b", {"StudyDate": "20240101..20240201"})),
    (rule("a", {"StudyDate": "today-1mo..today"}), rule("b", {"StudyDate": "today-30d..today"})),
    (rule("a", {"StudyDate": "now-6h..now"}), rule("b", {"StudyDate": "today"})),
    (rule("a", CT), rule("b", {**RECENT, "ModalitiesInStudy": ["CT", "MR"]})),
    (rule("a", RECENT, {"PatientSex": "F"}), rule("b", RECENT, {"PatientSex": ["F", "M"]})),
    (rule("a", RECENT, {"ModalitiesInStudy": "CT"}), rule("b", CT)),  # an answer may lack what only a key asks for
    (rule("a", CT, level=SERIES), rule("b", CT)),
]


@pytest.mark.parametrize(("one", "other"), APART)
def test_rules_that_do_something_of_their_own_are_not_hidden(one: Rule, other: Rule) -> None:
    assert [overlap for overlap in found(one, other) if overlap.rule == "b"] == []


def test_images_that_are_moved_as_studies_and_as_series_are_moved_twice() -> None:
    reports = rule("reports", {**RECENT, "Modality": "SR"}, level=SERIES, move=Move(to=("workstation",), level=SERIES))
    assert found(rule("whole", RECENT), reports) == [Overlap("reports", ("whole",), twice=True)]
    assert found(rule("whole", {**RECENT, "ModalitiesInStudy": "CT"}), reports) == []


def test_equal_rules_that_move_in_different_ways_contradict_each_other() -> None:
    careful = rule("b", CT, move=Move(to=("workstation",), verify="commitment"))
    assert found(rule("a", CT), careful) == [Overlap("b", ("a",), twice=True)]


# --- It is true of every study ----------------------------------------------------------------------------------------

SEXES, MODALITIES = ["F", "M", "O"], ["CT", "MR", "SR", "CTX"]
DATES = [
    *("today", "yesterday", "today-2d..today", "today-7d..yesterday", "today-1mo..today", "today-30d..today"),
    *("now-3h..now", "now-50h..today", "20261101..20261130", "19000101..today", "20261120", "now-1mo..now"),
]
some = st.sampled_from
values = st.one_of(some(MODALITIES), st.lists(some([*MODALITIES, "C*", "?R"]), min_size=1, max_size=2, unique=True))
given_keys = st.fixed_dictionaries(
    {},
    optional={"StudyDate": some(DATES), "ModalitiesInStudy": values, "PatientName": some(["A*", "ab*", "Abc", "B?"])},
)
clauses = st.fixed_dictionaries(
    {},
    optional={
        "PatientSex": st.one_of(
            some(SEXES), st.lists(some(SEXES), min_size=1, max_size=2, unique=True), st.just({"not": "F"})
        ),
        "StudyDate": st.builds(lambda matcher, text: {matcher: text}, some(["lt", "gt", "lte", "gte"]), some(DATES)),
        "NumberOfStudyRelatedInstances": st.dictionaries(
            some(["gt", "gte", "lt", "lte", "equals"]), some(["1", "2", "3"]), min_size=1, max_size=3
        ),
        "ModalitiesInStudy": st.one_of(
            values.filter(lambda v: "C*" not in v and "?R" not in v), st.just({"not": "CT"})
        ),
        "StudyDescription": some([{"exists": True}, {"exists": False}, "CT", {"like": "C*"}, {"not": ["CT"]}]),
    },
)
conditions = st.one_of(
    clauses,
    st.builds(lambda a, b: {"any": [a, b]}, clauses.filter(bool), clauses.filter(bool)),
    st.builds(lambda a, b: {**a, "not": b}, clauses, clauses.filter(bool)),
    st.builds(lambda a, b: {**a, "all": [b]}, clauses, clauses.filter(bool)),
)
moments = st.integers(0, 500 * 24).map(lambda hours: NOW + timedelta(hours=hours))


@st.composite
def studies(draw: st.DrawFn, now: datetime) -> Identifier:
    day = (now.astimezone(BERLIN) + timedelta(days=draw(st.integers(-40, 1)))).date()
    given = {
        "StudyDate": f"{day:%Y%m%d}",
        "StudyTime": draw(some(["", "0000", "1200", "2359"])),
        "ModalitiesInStudy": draw(st.lists(some(MODALITIES), max_size=2)),
        "PatientName": draw(some(["Abc", "ABD^^", "b1"])),
        "PatientSex": draw(some(SEXES)),
        "StudyDescription": draw(some(["", "CT", "C", "x"])),
        "NumberOfStudyRelatedInstances": draw(some(["1", "2", "3"])),
    }
    return Identifier.of(**given)


def takes(one: Rule, study: Identifier, evaluation: Evaluation) -> bool:
    assert one.sweep is not None
    asked = all(key.matches(study, evaluation) is not False for key in one.sweep.keys)
    return asked and one.where.holds(study, evaluation)


@settings(max_examples=400, deadline=None)
@given(given_keys, clauses, given_keys, clauses, moments, st.data())
def test_what_a_hidden_rule_takes_the_other_takes(
    keys: Keys, where: dict[str, Any], more: Keys, and_where: dict[str, Any], now: datetime, data: st.DataObject
) -> None:
    wide, narrow = rule("a", keys, where), rule("b", {**keys, **more}, {**where, **and_where})
    hidden = {overlap.rule: overlap.by for overlap in found(wide, narrow)}
    evaluation = Evaluation(now, BERLIN)
    study = data.draw(studies(now))
    by_name = {"a": wide, "b": narrow}
    for name, (other,) in hidden.items():
        if takes(by_name[name], study, evaluation):
            assert takes(by_name[other], study, evaluation)


@settings(max_examples=500, deadline=None)
@given(given_keys, conditions, st.data())
def test_no_study_passes_a_condition_that_can_never_hold(
    keys: Keys, where: dict[str, Any], data: st.DataObject
) -> None:
    condition = Condition.of(where)
    never = clash(condition.root, [keys_of(keys)], Evaluation(NOW, BERLIN))
    assume(never is not None)
    now = data.draw(moments)
    study, evaluation = data.draw(studies(now)), Evaluation(now, BERLIN)
    asked = all(key.matches(study, evaluation) for key in keys_of(keys))
    assert not (asked and condition.holds(study, evaluation))


@settings(max_examples=400, deadline=None)
@given(some(DATES), some(DATES), moments, st.integers(-45, 2), some(["UTC", "Europe/Berlin", "America/New_York"]))
def test_a_range_that_covers_another_does_so_on_every_day_to_come(
    outer: str, inner: str, now: datetime, days: int, zone: str
) -> None:
    wide, narrow = KeyMatch.of("StudyDate", outer), KeyMatch.of("StudyDate", inner)
    assume(covers(DateExpression.parse(outer), DateExpression.parse(inner), NOW))
    evaluation = Evaluation(now, ZoneInfo(zone))
    day = (now.astimezone(ZoneInfo(zone)) + timedelta(days=days)).date()
    for clock in ("", "0000", "2359", "1130"):
        study = Identifier.of(StudyDate=f"{day:%Y%m%d}", StudyTime=clock)
        assert wide.matches(study, evaluation) or not narrow.matches(study, evaluation)


def test_covering_is_seen_where_it_is_plain() -> None:
    def known(outer: str, inner: str) -> bool:
        return covers(DateExpression.parse(outer), DateExpression.parse(inner), NOW)

    assert known("today-7d..today", "today-2d..yesterday")
    assert known("today-1y..today", "today-6mo..today")
    assert known("20240101..20241231", "20240301..20240331")
    assert known("now-2d..now", "now-2h..now")
    assert not known("20260101..20261231", "today")


# --- Conditions that never hold ---------------------------------------------------------------------------------------

NEVER: list[tuple[Keys, dict[str, Any], str, bool]] = [
    ({}, {"PatientSex": {"in": ["F", "M"], "equals": "O"}}, "PatientSex", False),
    ({}, {"PatientSex": {"like": "M*", "equals": "F"}}, "PatientSex", False),
    ({}, {"ModalitiesInStudy": {"equals": "CT", "not": ["CT", "MR"]}}, "ModalitiesInStudy", False),
    ({}, {"PatientAge": {"gte": "18Y", "lt": "200M"}}, "PatientAge", False),
    ({}, {"NumberOfStudyRelatedInstances": 3, "all": [{"NumberOfStudyRelatedInstances": {"gt": 3}}]}, "", False),
    ({}, {"StudyDate": {"lt": "today-1y", "gt": "today-30d"}}, "StudyDate", False),
    ({}, {"StudyDate": {"gt": "20240131", "lt": "20240201"}}, "StudyDate", False),
    ({}, {"StudyID": "1", "not": {"StudyID": ["1", "2"]}}, "StudyID", False),
    ({}, {"any": [{"PatientSex": {"gt": "A", "equals": "F", "in": ["M"]}}]}, "PatientSex", False),
    ({"StudyDate": "today"}, {"StudyDate": {"lt": "today"}}, "StudyDate", True),
    ({"StudyDate": "today-2d..today"}, {"StudyDate": "20200101..20201231"}, "StudyDate", True),
    ({"Modality": ["CT", "MR"]}, {"Modality": "US"}, "Modality", True),
    ({"Modality": "CT"}, {"any": [{"Modality": "US"}, {"Modality": "MR"}]}, "Modality", True),
]


@pytest.mark.parametrize(("keys", "where", "name", "by_key"), NEVER)
def test_a_condition_that_can_never_hold_is_seen(keys: Keys, where: dict[str, Any], name: str, by_key: bool) -> None:
    seen = clash(Condition.of(where).root, [keys_of(keys)], Evaluation(NOW, BERLIN))
    assert seen is not None
    assert seen.key is by_key
    assert not name or seen.name == name


SOMETIMES: list[tuple[Keys, dict[str, Any]]] = [
    ({}, {"ModalitiesInStudy": "CT", "all": [{"ModalitiesInStudy": "MR"}]}),  # a study may hold both
    ({"ModalitiesInStudy": "CT"}, {"ModalitiesInStudy": "MR"}),
    ({"ModalitiesInStudy": "CT"}, {"Modality": "PT"}),
    ({"StudyDate": "today-2d..today"}, {"StudyDate": {"lt": "today"}}),
    ({"StudyDate": "now-2h..now"}, {"StudyDate": {"lt": "now-3h"}}),  # a study without a time may be both
    ({"StudyDate": "today"}, {"StudyDate": {"gte": "20990101"}}),  # it will be
    ({"StudyDate": "today-30d..today"}, {"StudyDate": {"lt": "today-1mo"}}),
    ({}, {"NumberOfStudyRelatedInstances": {"gte": 3, "lte": 3}}),
    ({}, {"PatientSex": "F", "not": {"StudyID": "1"}}),
    ({}, {"any": [{"PatientSex": "F"}, {"PatientSex": {"equals": "M", "in": ["F"]}}]}),
    ({}, {"StudyDescription": {"matches": "a", "equals": "abc"}}),
]


@pytest.mark.parametrize(("keys", "where"), SOMETIMES)
def test_a_condition_that_may_hold_is_left_alone(keys: Keys, where: dict[str, Any]) -> None:
    assert clash(Condition.of(where).root, [keys_of(keys)], Evaluation(NOW, BERLIN)) is None


def test_a_condition_clashes_with_keys_only_if_it_does_at_every_tier() -> None:
    condition = Condition.of({"StudyDate": {"lt": "today-5d"}})
    recent, all_of_it = keys_of({"StudyDate": "today-2d..today"}), keys_of({"StudyDate": "19000101..today"})
    assert clash(condition.root, [recent, all_of_it], Evaluation(NOW, BERLIN)) is None
    assert clash(condition.root, [recent, recent], Evaluation(NOW, BERLIN)) is not None


# --- Windows ----------------------------------------------------------------------------------------------------------


def window(text: str, zone: str) -> Window:
    return Window.of(text, zone, parse_span(text))


SPANS = ["daily 19:00-07:00", "mon-fri 07:00-19:00", "sun 22:00-23:00", "sat,sun 00:00-24:00", "daily 03:30-03:45"]
ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"]
USES = (WindowUse(window="w"),)


@settings(max_examples=60, deadline=None)
@given(some(SPANS), some(ZONES), some(SPANS), some(ZONES), moments)
def test_windows_that_are_never_open_together_are_not_open_together_at_any_time(
    text: str, zone: str, other: str, other_zone: str, start: datetime
) -> None:
    one, two = window(text, zone), window(other, other_zone)
    together = open_together(USES, (WindowUse(window="v"),), {"w": one, "v": two}, NOW.date())
    times = [start + timedelta(minutes=minutes) for minutes in range(0, 7 * 24 * 60, 15)]
    assert together or not any(one.open_at(moment) and two.open_at(moment) for moment in times)
    if zone == other_zone:
        assert together is any(one.open_at(moment) and two.open_at(moment) for moment in times)


@settings(max_examples=60, deadline=None)
@given(
    some(["0 12 * * *", "*/20 7-18 * * mon-fri", "30 3 1 * *", "0 22 * * sun"]), some(ZONES), some(SPANS), some(ZONES)
)
def test_a_schedule_that_never_falls_into_a_window_does_not_in_a_year(
    cron: str, zone: str, text: str, other_zone: str
) -> None:
    schedule, one = Schedule.at(cron, zone), window(text, other_zone)
    inside = any(one.open_at(due) for due in schedule.due_between(NOW, NOW + timedelta(days=90)))
    assert falls_into(schedule, USES, {"w": one}, NOW.date()) or not inside


def test_what_is_always_open_or_not_known_is_in_no_doubt() -> None:
    night = {"w": window("daily 19:00-07:00", "UTC")}
    noon, hourly = Schedule.at("0 12 * * *", "UTC"), Schedule.periodic(3600.0)
    today = date(2026, 11, 23)
    assert not falls_into(noon, USES, night, today)
    assert falls_into(hourly, USES, night, today)
    assert falls_into(noon, (*USES, WindowUse()), night, today)
    assert falls_into(noon, (WindowUse(window="elsewhere"),), night, today)
    assert falls_into(noon, (), night, today)
    assert open_together(USES, (), night, today)


# --- Modalities -------------------------------------------------------------------------------------------------------


def test_what_people_call_modalities_leads_to_defined_terms() -> None:
    assert (meant_by("mri"), meant_by("XRay"), meant_by("ct"), meant_by("nonsense")) == ("MR", "DX or CR", "CT", "")
    assert is_modality("SR") and is_modality("DS") and not is_modality("MRI")
    assert not DEFINED_TERMS & RETIRED_TERMS


def test_many_alternatives_beside_each_other_take_no_time_without_end() -> None:
    names = ["PatientID", "StudyID", "AccessionNumber", "StudyDescription", "PatientSex", "PatientName", "Modality"]
    groups = [{"any": [{name: f"{n}"} for n in range(8)]} for name in names if name != "PatientSex"]
    condition = Condition.of({"all": [*groups, *groups]})
    now = Evaluation(datetime(2026, 11, 28, tzinfo=UTC), UTC)
    assert clash(condition.root, (), now) is None


def test_alternatives_that_all_contradict_are_still_found_beside_others() -> None:
    condition = Condition.of(
        {"all": [{"any": [{"StudyID": "3"}, {"StudyID": "4"}]}, {"StudyID": "5"}, {"any": [{"PatientID": "1"}]}]}
    )
    now = Evaluation(datetime(2026, 11, 28, tzinfo=UTC), UTC)
    assert clash(condition.root, (), now) is not None
