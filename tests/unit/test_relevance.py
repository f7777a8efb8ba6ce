"""Which priors are taken: filters, groups and their numbers, scores, the oldest, and what was brought before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config.anatomy import shipped
from router.domain.condition import Condition, Evaluation
from router.domain.dicom import Identifier, known_tag
from router.domain.examination import Examination, examination
from router.domain.priors import PriorCondition, PriorException, PriorGroup, Priors, Within
from router.domain.relevance import CODES, OLDEST, Presence, Prior, attributes_of, choose, wants_anatomy

EVALUATION = Evaluation(datetime(2026, 11, 28, 9, 0, tzinfo=UTC), ZoneInfo("Europe/Berlin"))


def where(condition: Mapping[str, object] | None = None, **parts: Any) -> PriorCondition:
    same = tuple(known_tag(keyword) for keyword in parts.pop("same", ()))
    return PriorCondition(**parts, same=same, condition=Condition.of(condition))


def group(name: str, most: int | None = None, years: int = 0, condition: PriorCondition | None = None) -> PriorGroup:
    within = Within(f"{years}y", months=12 * years) if years else None
    return PriorGroup(name=name, where=condition or where(), max=most, within=within)


SAME_REGION = where(anatomy=("same",), modality=("same",))


def priors(*groups: PriorGroup, **settings: Any) -> Priors:
    return Priors(source="pacs", groups=groups or (group("any"),), **settings)


def study(number: int | str, day: str = "20260101", description: str = "", modality: Any = "CT", **more: Any) -> Any:
    """A study of one patient, as a C-FIND match."""
    values = {"PatientID": "1", "IssuerOfPatientID": "H"} | more
    return examination(
        Identifier.of(
            StudyInstanceUID=f"1.{number}",
            StudyDate=day,
            StudyDescription=description,
            ModalitiesInStudy=modality,
            **values,
        )
    )


def step(**values: Any) -> Examination:
    """The current one, from a worklist."""
    known = {
        "PatientID": "1",
        "IssuerOfPatientID": "H",
        "StudyInstanceUID": "1.0",
        "Modality": "CT",
        "ScheduledProcedureStepStartDate": "20261201",
        "ScheduledProcedureStepStartTime": "1000",
        "ScheduledProcedureStepDescription": "CT Thorax",
    }
    return examination(Identifier.of(**known | values))


CURRENT = step()


def chosen(
    candidates: Iterable[Examination],
    rule: Priors,
    current: Examination = CURRENT,
    there: Iterable[int | str] = (),
    brought: Mapping[str, str] | None = None,
    **more: Any,
) -> list[Prior]:
    presence = {f"1.{number}": Presence.THERE for number in there}
    return choose(
        current,
        list(candidates),
        rule,
        shipped(),
        EVALUATION,
        destination="ws",
        presence=presence,
        brought=brought or {},
        **more,
    )


def told(decisions: Iterable[Prior]) -> str:
    """Numbers in order, each with its group, or the code it was left out for."""
    parts = []
    for one in decisions:
        word = one.group if one.code == "taken" else f"{one.code}:{one.group}" if one.group else one.code
        parts.append(f"{one.study_instance_uid.removeprefix('1.')}={word}")
    return " ".join(parts)


# --- Filters ----------------------------------------------------------------------------------------------------------

LEFT_OUT = [
    ("current", study(0), {}),
    ("current", study(1, AccessionNumber="A1"), {}),
    ("another-patient", study(1, PatientID="2"), {}),
    ("another-patient", study(1, IssuerOfPatientID="G"), {}),
    ("identity-unsure", study(1, IssuerOfPatientID=""), {}),
    ("later", study(1, "20261202"), {}),
    ("later", study(1, "20261201", StudyTime="1001"), {}),
    ("excluded", study(1, modality=["OT", "SR"]), {"exclude": where(modality=("OT", "SR"), entirely=True)}),
    ("excluded", study(1, modality=["SR", "KO"]), {"exclude": where(modality=("KO", "SR"), entirely=True)}),
    ("excluded", study(1, StudyID="T"), {"exclude": where({"StudyID": "T"})}),
    ("exception", study(1, modality="US"), {"exceptions": (PriorException(leave_out=where(modality=("US",))),)}),
    ("unavailable", study(1, InstanceAvailability="OFFLINE"), {}),
    ("unavailable", study(1, InstanceAvailability="UNAVAILABLE"), {}),
    ("undated", study(1, ""), {"undated": "never"}),
    ("undated", study(1, "2025-99-99"), {"undated": "never"}),
]


@pytest.mark.parametrize(("code", "candidate", "settings"), LEFT_OUT)
def test_what_is_left_out_whatever_groups_there_are(
    code: str, candidate: Examination, settings: dict[str, Any]
) -> None:
    (decision,) = chosen([candidate], priors(**settings), step(AccessionNumber="A1"))
    assert (decision.code, decision.taken, decision.group, decision.score) == (code, False, "", None)
    assert decision.reason and decision.breakdown == ""


TAKEN = [
    (study(1, AccessionNumber=""), {}),
    (study(1, "20261201"), {}),  # its time is not known
    (study(1, "20261201", StudyTime="0959"), {}),
    (study(1, "20261201", StudyTime="10"), {}),  # not surely later
    (study(1, modality=["CT", "SR"]), {"exclude": where(modality=("OT", "SR"), entirely=True)}),
    (study(1, modality=["CT", "OT"]), {"exclude": where(modality=("OT", "SR"), entirely=True)}),
    (study(1, modality=[]), {"exclude": where(modality=("OT", "SR"), entirely=True)}),
    (study(1, InstanceAvailability="NEARLINE"), {}),
    (study(1, ""), {}),
    (study(1, IssuerOfPatientID=""), {"identity": "patient-id"}),
]


@pytest.mark.parametrize(("candidate", "settings"), TAKEN)
def test_what_is_not_left_out(candidate: Examination, settings: dict[str, Any]) -> None:
    assert told(chosen([candidate], priors(**settings), step(AccessionNumber=""))) == "1=any"


def test_a_current_study_without_a_date_has_todays_in_the_zone_of_the_source() -> None:
    night = Evaluation(datetime(2026, 11, 28, 23, 30, tzinfo=UTC), ZoneInfo("Europe/Berlin"))
    current = step(ScheduledProcedureStepStartDate="")
    candidates = [study(1, "20261129", StudyTime="2359"), study(2, "20261130")]
    decisions = choose(current, candidates, priors(), shipped(), night, destination="ws", presence={}, brought={})
    assert told(decisions) == "1=any 2=later"
    assert [one.age_days for one in decisions] == [0, -1]


def test_former_patient_ids_are_asked_for_with_the_current_one() -> None:
    candidates = [study(1, PatientID="old"), study(2, PatientID="1"), study(3, PatientID="3")]
    assert told(chosen(candidates, priors())) == "2=any 1=another-patient 3=another-patient"
    asked = [("1", "H"), ("old", "H")]
    assert told(chosen(candidates, priors(), asked=asked)) == "1=any 2=any 3=another-patient"


NO_OLD_ULTRASOUND = PriorException(leave_out=where(modality=("US",)), unless=where(modality=("US",)))


def test_an_exception_may_depend_on_the_current_study() -> None:
    rule = priors(exceptions=(NO_OLD_ULTRASOUND,))
    candidates = [study(1, modality="US"), study(2, modality="CT")]
    assert told(chosen(candidates, rule)) == "2=any 1=exception"
    assert told(chosen(candidates, rule, step(Modality="US"))) == "1=any 2=any"
    rule = priors(exceptions=(PriorException(leave_out=where(modality=("US",)), when=where(anatomy=("chest",))),))
    assert told(chosen(candidates, rule)) == "2=any 1=exception"
    assert told(chosen(candidates, rule, step(ScheduledProcedureStepDescription="CT Knie"))) == "2=any 1=any"


# --- What groups want -------------------------------------------------------------------------------------------------

FITS = [
    # condition, current, candidate, whether it fits
    (where(), step(), study(1, modality=[]), True),
    (where(anatomy=("same",)), step(), study(1, description="Chest pa"), True),
    (where(anatomy=("same",)), step(), study(1, description="CT Thorax Abdomen"), True),
    (where(anatomy=("same",)), step(), study(1, description="CT Abdomen"), False),
    (where(anatomy=("near",)), step(), study(1, description="CT Abdomen"), True),
    (where(anatomy=("near",)), step(), study(1, description="Chest"), True),
    (where(anatomy=("near",)), step(), study(1, description="Knie"), False),
    (where(anatomy=("same", "knee")), step(), study(1, description="Knie"), True),
    (where(anatomy=("knee",)), step(), study(1, description="Chest"), False),
    (where(anatomy=("same",)), step(ScheduledProcedureStepDescription=""), study(1), False),
    (where(anatomy=("same",)), step(), study(1, BodyPartExamined="CHEST"), True),
    (where(modality=("same",)), step(), study(1, modality=["CT", "SR"]), True),
    (where(modality=("same",)), step(), study(1, modality="MR"), False),
    (where(modality=("same",)), step(Modality="DX"), study(1, modality="CR"), True),
    (where(modality=("same",)), step(Modality="SR"), study(1, modality="SR"), False),
    (where(modality=("XR",)), step(), study(1, modality="DX"), True),
    (where(modality=("CR",)), step(), study(1, modality=["MR", "DX"]), True),
    (where(modality=("same", "MR")), step(), study(1, modality="MR"), True),
    (where(modality=("MR", "US")), step(), study(1, modality="CT"), False),
    (where(modality=("SR",)), step(), study(1, modality=["CT", "SR"]), True),
    (where(modality=("CT",), entirely=True), step(), study(1, modality=["CT", "SR"]), True),
    (where(modality=("CT",), entirely=True), step(), study(1, modality=["CT", "PT"]), False),
    (where(modality=("same",), entirely=True), step(), study(1, modality=["CT", "PR"]), True),
    (where(modality=("CT",)), step(), study(1, modality=[]), False),
    (where({"StudyDescription": {"matches": "(?i)thorax"}}), step(), study(1, description="Thorax"), True),
    (where({"StudyDescription": {"matches": "(?i)thorax"}}), step(), study(1, description="Knie"), False),
    (where(same=["StudyID"]), step(StudyID="X"), study(1, StudyID="X"), True),
    (where(same=["StudyID"]), step(StudyID="X"), study(1, StudyID="Y"), False),
    (where(same=["StudyID"]), step(StudyID=""), study(1, StudyID=""), False),
    (where(same=["StudyID", "PatientID"]), step(StudyID="X"), study(1, StudyID="Y"), False),
    (
        where(same=["ReferringPhysicianName"]),
        step(ReferringPhysicianName="Doe^Jane"),
        study(1, ReferringPhysicianName="DOE^JANE^^"),
        True,
    ),
    (SAME_REGION, step(), study(1, description="Chest", modality="MR"), False),
]


@pytest.mark.parametrize(("condition", "current", "candidate", "fits"), FITS)
def test_a_candidate_fits_a_group_or_not(
    condition: PriorCondition, current: Examination, candidate: Examination, fits: bool
) -> None:
    assert told(chosen([candidate], priors(group("g", None, 0, condition)), current)) == (
        "1=g" if fits else "1=no-group"
    )


def test_codes_of_a_sequence_are_the_same_by_value_and_scheme() -> None:
    def with_code(number: int, value: str, scheme: str) -> Examination:
        code = Identifier.of(CodeValue=value, CodingSchemeDesignator=scheme)
        elements = study(number).attributes.elements
        return examination(Identifier({**elements, known_tag("ProcedureCodeSequence"): (code,)}))

    rule = priors(group("g", None, 0, where(same=["ProcedureCodeSequence"])))
    candidates = [with_code(1, "C", "99H"), with_code(2, "C", "99X"), with_code(3, "D", "99H"), study(4)]
    assert told(chosen(candidates, rule, with_code(0, "C", "99H"))) == "1=g 2=no-group 3=no-group 4=no-group"


WITHIN = [
    ("20211201", True),  # exactly five years before
    ("20211130", False),
    ("20261130", True),
]


@pytest.mark.parametrize(("day", "recent"), WITHIN)
def test_within_counts_by_the_calendar_from_the_day_of_the_current_study(day: str, recent: bool) -> None:
    assert told(chosen([study(1, day)], priors(group("g", 1, 5)))) == ("1=g" if recent else "1=too-old:g")


def test_within_over_a_leap_day_and_beyond_the_calendar() -> None:
    leap = step(ScheduledProcedureStepStartDate="20240229")
    candidates = [study(1, "20230228"), study(2, "20230227")]
    assert told(chosen(candidates, priors(group("g", 9, 1)), leap)) == "1=g 2=too-old:g"
    assert told(chosen(candidates, priors(group("g", 9, 3000)), leap)) == "1=g 2=g"


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_a_score_says_what_it_is_made_of() -> None:
    code = (Identifier.of(CodeValue="C", CodingSchemeDesignator="99H"),)
    current = examination(
        Identifier({**CURRENT.attributes.elements, known_tag("RequestedProcedureCodeSequence"): code})
    )
    best = study(1, "20261130", "Thorax").attributes.elements
    candidates = [
        examination(Identifier({**best, known_tag("ProcedureCodeSequence"): code})),
        study(2, "20251201", "Chest"),  # a year
        study(3, "20251202", "Abdomen", "MR"),
        study(4, "20160101", "Knee", "MR"),
        study(5, "", "Chest"),
    ]
    scores = {one.study_instance_uid: (one.score, one.breakdown) for one in chosen(candidates, priors(), current)}
    assert scores == {
        "1.1": (100, "anatomy same 50 + modality same 25 + procedure same 5 + recency 20"),
        "1.2": (93, "anatomy same 50 + modality same 25 + recency 18"),
        "1.3": (45, "anatomy near 25 + recency 20"),
        "1.4": (0, "recency 0"),
        "1.5": (75, "anatomy same 50 + modality same 25 + recency 0"),
    }


def test_the_best_come_first_then_the_newest_and_those_without_a_date_last() -> None:
    candidates = [
        study(1, "20260101", "Knie"),
        study(2, "20260102", "Knie"),
        study(3, "", "Thorax"),
        study(4, "20200101", "Thorax"),
        study(5, "20260102", "Knie", StudyTime="12"),
        study(6, "20260101", "Knie"),
    ]
    assert told(chosen(candidates, priors())) == "4=any 5=any 2=any 1=any 6=any 3=any"


def test_ages_are_days_before_the_current_study() -> None:
    decisions = chosen([study(1, "20261130"), study(2, "20251201"), study(3, "")], priors())
    assert [one.age_days for one in decisions] == [1, 365, None]


# --- Groups -----------------------------------------------------------------------------------------------------------

RULE = priors(group("same-region", 2, 5, SAME_REGION), group("recent", 1, 1))


def test_a_candidate_goes_into_the_first_group_that_wants_it_and_has_room() -> None:
    candidates = [
        study(1, "20251001", "Thorax"),
        study(2, "20260901", "Thorax"),
        study(3, "20260601", "Thorax"),
        study(4, "20260701", "Thorax"),
        study(5, "20260801", "Knie"),
        study(6, "20200101", "Thorax"),
        study(7, "20200101", "Knie", "MR"),
    ]
    decisions = chosen(candidates, RULE)
    assert told(decisions) == (
        "2=same-region 4=same-region 3=recent 1=full:same-region 6=too-old:same-region 5=full:recent 7=too-old:recent"
    )
    reasons = {one.study_instance_uid: one.reason for one in decisions}
    assert reasons == {
        "1.2": "taken for same-region (1 of 2)",
        "1.4": "taken for same-region (2 of 2)",
        "1.3": "taken for recent (1 of 1)",
        "1.1": "the groups that it fits are full (same-region: 2)",
        "1.5": "the groups that it fits are full (recent: 1)",
        "1.6": "fits same-region but for its age (within 5y)",
        "1.7": "fits recent but for its age (within 1y)",
    }


def test_why_a_candidate_fits_no_group_is_said_without_what_peers_wrote() -> None:
    rule = priors(
        group("a", 1, 0, where(anatomy=("same",))),
        group("b", 1, 0, where(modality=("same",))),
        group("c", 1, 0, where(modality=("MR", "US"))),
        group("d", 1, 0, where(same=["StudyID"])),
        group("e", 1, 0, where({"StudyID": "T"})),
    )
    (decision,) = chosen([study(1, "20200101", "Knie of Jane", ["JANE DOE", "PT", "SR"], StudyID="secret")], rule)
    assert decision.reason == (
        "fits no group (anatomy knee, the current study has chest; modality PT another, the current study has CT; "
        "modality PT another, not MR or US; no StudyID in common; its conditions do not hold)"
    )
    (decision,) = chosen([study(1)], priors(rule.groups[0]), step(ScheduledProcedureStepDescription=""))
    assert decision.reason == "fits no group (anatomy not known, the current study has none that is known)"


def test_a_group_without_a_number_takes_all() -> None:
    decisions = chosen([study(number) for number in range(1, 30)], priors())
    assert [one.code for one in decisions] == ["taken"] * 29
    assert decisions[0].reason == "taken for any"
    assert decisions[0].destination == "ws"


# --- The four mistakes that others make -------------------------------------------------------------------------------


def test_the_current_study_takes_nobodys_place() -> None:
    candidates = [study(0, "20261201", "Thorax"), study(1, "20260101", "Thorax"), study(2, "20250101", "Thorax")]
    assert told(chosen(candidates, priors(group("g", 2)))) == "1=g 2=g 0=current"


def test_what_is_at_the_destination_already_takes_nobodys_place() -> None:
    candidates = [study(number, f"2026010{number}", "Thorax") for number in range(1, 6)]
    decisions = chosen(candidates, priors(group("g", 2)), there=[5, 4])
    assert told(decisions) == "3=g 2=g 5=present:g 4=present:g 1=full:g"
    assert [one.taken for one in decisions] == [True, True, False, False, False]


def test_age_counts_from_the_day_of_the_current_study_whenever_it_is_asked() -> None:
    rule = priors(group("g", 2, 1))
    early = step(ScheduledProcedureStepStartDate="20271201")
    candidates = [study(1, "20261115")]
    assert told(chosen(candidates, rule)) == "1=g"
    assert told(chosen(candidates, rule, early)) == "1=too-old:g"
    undated = step(ScheduledProcedureStepStartDate="")
    for year, said in ((2026, "1=g"), (2028, "1=too-old:g")):
        now = Evaluation(datetime(year, 11, 28, tzinfo=UTC), UTC)
        found = choose(undated, candidates, rule, shipped(), now, destination="ws", presence={}, brought={})
        assert told(found) == said


def test_studies_without_a_date_come_last_or_never() -> None:
    candidates = [study(1, "", "Thorax"), study(2, "20210101", "Knie")]
    assert told(chosen(candidates, priors(group("g", 1)))) == "2=g 1=full:g"
    assert told(chosen(candidates, priors(group("g", 2, 1)))) == "1=g 2=too-old:g"
    assert told(chosen(candidates, priors(group("g", 2), undated="never"))) == "2=g 1=undated"


# --- The oldest relevant ----------------------------------------------------------------------------------------------

KEEP = priors(group("g", 1, 5, SAME_REGION), keep_oldest_relevant=True)
OLD = [
    study(1, "20260101", "Thorax"),
    study(2, "20250101", "Thorax"),
    study(3, "20100101", "Thorax"),
    study(4, "20000101", "Knie"),
    study(5, "", "Thorax"),
]


def test_the_oldest_relevant_comes_beyond_age_and_number() -> None:
    decisions = chosen(OLD, KEEP)
    assert told(decisions) == "1=g 3=oldest:oldest 2=full:g 4=no-group 5=full:g"
    assert [one.taken for one in decisions] == [True, True, False, False, False]
    assert decisions[1].reason == "taken as the oldest relevant"


def test_the_oldest_relevant_that_is_there_is_not_moved() -> None:
    assert told(chosen(OLD, KEEP, there=[3])) == "1=g 3=present:oldest 2=full:g 4=no-group 5=full:g"


def test_the_oldest_relevant_that_is_taken_anyway_is_taken_once() -> None:
    assert told(chosen(OLD[:1], KEEP)) == "1=g"
    same_day = [study(2, "20260101", "Thorax"), study(1, "20260101", "Thorax")]
    assert told(chosen(same_day, KEEP)) == "1=g 2=full:g"


def test_the_oldest_relevant_must_pass_the_filters() -> None:
    candidates = [*OLD[:2], study(3, "20100101", "Thorax", InstanceAvailability="OFFLINE")]
    assert told(chosen(candidates, KEEP)) == "1=g 2=oldest:oldest 3=unavailable"


def test_what_the_source_has_off_line_but_the_destination_holds_is_no_loss() -> None:
    candidates = [*OLD[:2], study(3, "20100101", "Thorax", InstanceAvailability="OFFLINE")]
    assert told(chosen(candidates, KEEP, there=[3])) == "1=g 3=present:oldest 2=full:g"


# --- What was brought before ------------------------------------------------------------------------------------------


def test_what_was_brought_is_taken_again_and_fills_its_group() -> None:
    candidates = [study(number, f"2026010{number}", "Thorax") for number in range(1, 6)]
    brought = {"1.1": "g", "1.2": "g"}
    decisions = chosen(candidates, priors(group("g", 3)), there=[1, 2], brought=brought)
    assert told(decisions) == "2=g 1=g 5=g 4=full:g 3=full:g"
    assert decisions[0].reason == "taken for g before, for the same appointment"


def test_what_was_brought_for_a_group_that_is_gone_is_a_candidate_like_any_other() -> None:
    candidates = [study(number, f"2026010{number}") for number in range(1, 4)]
    decisions = chosen(candidates, priors(group("g", 1)), brought={"1.1": "old"})
    assert told(decisions) == "3=g 2=full:g 1=full:g"


def test_what_was_brought_for_another_examination_of_the_day_fills_no_group_that_it_does_not_fit() -> None:
    knees = [study(number, description="MR knee", modality="MR") for number in (1, 2)]
    heads = [study(number, description="MR head", modality="MR") for number in (3, 4)]
    same = group("same", 2, condition=SAME_REGION)
    current = study(9, "20260301", "MR head", "MR")
    decisions = chosen([*knees, *heads], priors(same), brought={"1.1": "same", "1.2": "same"}, current=current)
    assert {one.study_instance_uid for one in decisions if one.taken} == {"1.3", "1.4"}


def test_what_was_brought_is_taken_again_when_the_source_has_it_off_line_since() -> None:
    candidates = [study(1, InstanceAvailability="OFFLINE"), study(2)]
    assert told(chosen(candidates, priors(group("g", 1)), brought={"1.1": "g"})) == "1=g 2=full:g"


def test_what_was_brought_of_another_patient_is_not_taken_again() -> None:
    candidates = [study(1, PatientID="2"), study(2)]
    assert told(chosen(candidates, priors(group("g", 1)), brought={"1.1": "g"})) == "2=g 1=another-patient"


# --- What it needs ----------------------------------------------------------------------------------------------------


def test_a_rule_says_whether_it_looks_at_the_anatomy() -> None:
    by_region = where(anatomy=("knee",))
    assert not wants_anatomy(priors(exclude=where(modality=("SR",)), exceptions=(NO_OLD_ULTRASOUND,)))
    assert wants_anatomy(RULE)
    assert wants_anatomy(priors(exclude=by_region))
    assert wants_anatomy(priors(exceptions=(PriorException(leave_out=where(), unless=by_region),)))
    assert wants_anatomy(priors(exceptions=(PriorException(leave_out=where(), when=by_region),)))


def test_a_rule_names_what_it_asks_of_candidates() -> None:
    rule = priors(
        group("a", 1, 0, where({"StudyDate": "today-1d..today"}, same=["StudyID"])),
        exclude=where({"any": [{"StudyDescription": "X"}, {"InstitutionName": "Y"}]}),
        exceptions=(PriorException(leave_out=where({"AccessionNumber": "1"}), unless=where({"PatientAge": "1Y"})),),
    )
    keywords = ["StudyDate", "StudyTime", "StudyID", "StudyDescription", "InstitutionName", "AccessionNumber"]
    assert attributes_of(rule) == {known_tag(keyword) for keyword in keywords}


# --- What always holds ------------------------------------------------------------------------------------------------

DAYS = st.dates(date(2000, 1, 1), date(2027, 1, 1)).map(lambda day: f"{day:%Y%m%d}")
CANDIDATES = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.one_of(DAYS, st.just("")),
        st.sampled_from(["Thorax", "Abdomen", "Knie", ""]),
        st.sampled_from([["CT"], ["MR"], ["CT", "SR"], ["SR"], ["DX"], []]),
        st.sampled_from(["1", "1", "1", "2"]),
        st.sampled_from(["ONLINE", "ONLINE", "OFFLINE"]),
    ),
    max_size=25,
    unique_by=lambda values: values[0],
).map(
    lambda rows: [study(n, day, text, made, PatientID=p, InstanceAvailability=a) for n, day, text, made, p, a in rows]
)
CONDITIONS = st.sampled_from([where(), SAME_REGION, where(anatomy=("near",)), where(modality=("MR", "XR"))])
GROUPS = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(1, 4)), st.sampled_from([0, 1, 5]), CONDITIONS), min_size=1, max_size=3
)
RULES = st.builds(
    lambda groups, keep, undated, exclude: priors(
        *(group(f"g{number}", *parts) for number, parts in enumerate(groups)),
        keep_oldest_relevant=keep,
        undated=undated,
        exclude=where(modality=("SR",), entirely=True) if exclude else None,
    ),
    GROUPS,
    st.booleans(),
    st.sampled_from(["last", "never"]),
    st.booleans(),
)
THERE = st.sets(st.integers(0, 40), max_size=8)


@settings(max_examples=200, deadline=None)
@given(CANDIDATES, RULES, THERE, st.randoms(use_true_random=False))
def test_what_holds_of_every_choice(candidates: list[Examination], rule: Priors, there: set[int], chance: Any) -> None:
    decisions = chosen(candidates, rule, there=there)
    uids = [one.study_instance_uid for one in decisions]
    assert sorted(uids) == sorted(one.study_instance_uid for one in candidates)
    assert all(one.code in CODES and one.reason and one.taken == (one.code in ("taken", "oldest")) for one in decisions)
    assert [one.taken for one in decisions] == sorted((one.taken for one in decisions), reverse=True)
    taken = [one for one in decisions if one.taken]
    for wanted in rule.groups:
        assert wanted.max is None or sum(one.group == wanted.name for one in taken) <= wanted.max
    assert sum(one.group == OLDEST for one in taken) <= rule.keep_oldest_relevant
    assert "1.0" not in {one.study_instance_uid for one in taken}
    assert not {f"1.{number}" for number in there} & {one.study_instance_uid for one in taken}
    assert all(one.score is None or 0 <= one.score <= 100 for one in decisions)

    shuffled = list(candidates)
    chance.shuffle(shuffled)
    assert chosen(shuffled, rule, there=there) == decisions

    brought = {one.study_instance_uid: one.group for one in taken}
    for now_there in (there, there | {uid.removeprefix("1.") for uid in brought}):
        again = chosen(candidates, rule, there=now_there, brought=brought)
        assert told(again) == told(decisions)
