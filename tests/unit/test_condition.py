"""Matchers, their edge cases, their explanation, and regular expressions that must not run for ever."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.condition import Condition, Evaluation, compile_condition
from router.domain.dicom import Identifier, tag_of
from router.domain.pattern import wildcard
from router.domain.problem import ExpressionError, Kind

NOW = Evaluation(datetime(2026, 11, 23, 11, 0, tzinfo=UTC), ZoneInfo("Europe/Berlin"))  # 12:00 in Berlin


def code_item(code: str, scheme: str, keyword: str = "CodeValue") -> Identifier:
    return Identifier.of(**{keyword: code, "CodingSchemeDesignator": scheme})


def tag(keyword: str) -> int:
    found = tag_of(keyword)
    assert found is not None
    return found


STUDY = Identifier.of(
    StudyInstanceUID="1.2.3",
    StudyDate="20261123",
    StudyTime="101530",
    StudyDescription="CT Chest ",
    ModalitiesInStudy=["CT", "SR"],
    NumberOfStudyRelatedInstances="0120",
    PatientName="Müller^Jörg^^^",
    PatientID="0042",
    PatientAge="012Y",
    PatientWeight="71.50",
    PatientBirthDate="2014.05.06",
    AccessionNumber="",
    SeriesNumber="abc",
    AcquisitionDateTime="20261123101530+0100",
)
STUDY.elements[tag("ProcedureCodeSequence")] = (code_item("241620005", "SCT"), code_item("P5-08000", "SRT"))
STUDY.elements[tag("RequestAttributesSequence")] = (
    Identifier.of(ScheduledProcedureStepID="S1"),
    Identifier.of(ScheduledProcedureStepID="S2", RequestedProcedureDescription="Chest"),
)


def test_answers_that_are_remembered_are_those_of_each_identifier() -> None:
    condition = Condition.of(
        {"StudyDate": "now-2h..now", "StudyDescription": {"like": "*chest*"}, "ModalitiesInStudy": ["CT", "MR"]}
    )
    fits = {"StudyDate": "20261123", "StudyTime": "1130", "StudyDescription": "a chest", "ModalitiesInStudy": "CT"}
    others: list[dict[str, str]] = [
        {"StudyTime": "0930"},  # the same date: the time beside it counts
        {"StudyDescription": "a head"},
        {"ModalitiesInStudy": "US"},
    ]
    for _ in range(2):
        assert condition.holds(Identifier.of(**fits), NOW)
        for number in range(2000):
            assert not condition.holds(Identifier.of(**{**fits, "StudyDescription": str(number)}), NOW)
        for other in others:
            identifier = Identifier.of(**{**fits, **other})
            assert not condition.holds(identifier, NOW)
            assert condition.explain(identifier, NOW).reason


def test_a_sequence_where_none_belongs_has_no_value_that_fits() -> None:
    identifier = Identifier({tag("StudyDescription"): (Identifier.of(CodeValue="1"), "chest")})
    assert holds({"StudyDescription": "chest"}, identifier)
    assert not holds({"StudyDescription": "head"}, identifier)


def holds(where: dict[str, Any], identifier: Identifier = STUDY) -> bool:
    condition = Condition.of(where)
    answer = condition.holds(identifier, NOW)
    assert condition.explain(identifier, NOW).passed is answer  # one truth, two ways to ask
    assert (condition.explain(identifier, NOW).reason == "") is answer
    return answer


HOLD: list[dict[str, Any]] = [
    {},
    {"StudyDescription": "CT Chest"},
    {"(0008,1030)": "CT Chest"},
    {"StudyDescription": ["MR Head", "CT Chest"]},
    {"StudyDescription": {"equals": "CT Chest"}},
    {"StudyDescription": {"in": ["x", "CT Chest"]}},
    {"StudyDescription": {"like": "CT*"}},
    {"StudyDescription": {"like": "?? Ch?st"}},
    {"StudyDescription": {"matches": "(?i)chest|thorax"}},
    {"StudyDescription": {"matches": "^CT "}},
    {"StudyDescription": {"gte": "CT", "lt": "CU"}},
    {"StudyDescription": {"not": {"matches": "Head"}}},
    {"StudyDescription": {"not": "CT Head"}},
    {"StudyDescription": {"not": ["CT Head", "CT Neck"]}},
    {"StudyDescription": {"exists": "true"}},
    {"StudyDescription": {"exists": True}},
    # several values: any of them, but one for all matchers; under not: none
    {"ModalitiesInStudy": "SR"},
    {"ModalitiesInStudy": ["MR", "CT"]},
    {"ModalitiesInStudy": {"not": "MR"}},
    {"not": {"ModalitiesInStudy": ["MR", "US"]}},
    # numbers
    {"NumberOfStudyRelatedInstances": "120"},
    {"NumberOfStudyRelatedInstances": {"gte": "120", "lte": "120.0"}},
    {"NumberOfStudyRelatedInstances": {"gt": 20}},  # as text "0120" would be less than "20"
    {"PatientWeight": 71.5},
    {"PatientWeight": {"between": ["70", "8e1"]}},
    # ages
    {"PatientAge": "12Y"},
    {"PatientAge": "144M"},
    {"PatientAge": {"gte": "3Y", "lt": "18Y"}},
    {"PatientAge": {"gt": "100W"}},
    # names: caseless, trailing empty components do not count
    {"PatientName": "MÜLLER^JÖRG"},
    {"PatientName": {"like": "müller*"}},
    {"PatientName": {"like": "müller^j?rg"}},
    {"PatientName": {"matches": "^müller"}},
    # text is literal
    {"PatientID": "0042"},
    # dates and times
    {"StudyDate": "today"},
    {"StudyDate": "20261101..20261130"},
    {"StudyDate": ["yesterday", "today"]},
    {"StudyDate": {"gte": "today-1w"}},
    {"StudyDate": {"gt": "yesterday"}},
    {"StudyDate": {"between": ["today-7d", "today"]}},
    {"StudyDate": "now-2h..now"},
    {"StudyDate": {"gte": "now-2h"}},
    {"StudyDate": {"lt": "now"}},
    {"StudyDate": {"like": "2026*"}},
    {"PatientBirthDate": {"gt": "today-18y"}},
    {"PatientBirthDate": "20140506"},
    {"StudyTime": "10:15"},
    {"StudyTime": "101530"},
    {"StudyTime": {"gte": "07:00", "lt": "19:00"}},
    {"StudyTime": {"between": ["07:00", "10:15"]}},
    {"StudyTime": "22:00..11:00"},
    {"StudyTime": {"between": ["22:00", "10:30"]}},
    {"AcquisitionDateTime": {"gte": "now-2h"}},
    {"AcquisitionDateTime": "today"},
    # codes and sequences
    {"ProcedureCodeSequence": {"code": "241620005", "scheme": "SCT"}},
    {"ProcedureCodeSequence": {"code": ["1", "P5-08000"]}},
    {"ProcedureCodeSequence": {"scheme": "SRT"}},
    {"ProcedureCodeSequence": [{"code": "1"}, {"code": "P5-08000", "scheme": "SRT"}]},
    {"ProcedureCodeSequence": {"exists": True}},
    {"ProcedureCodeSequence": {"not": {"code": "1"}}},
    {"ProcedureCodeSequence.CodeValue": {"like": "P5*"}},
    {"RequestAttributesSequence.RequestedProcedureDescription": {"matches": "Chest"}},
    {"RequestAttributesSequence.ScheduledProcedureStepID": "S1"},
    # absence
    {"AccessionNumber": {"exists": False}},
    {"SeriesDescription": {"exists": False}},
    {"SeriesDescription": {"not": {"matches": "."}}},
    {"not": {"SeriesDescription": "x"}},
    # combinations
    {"any": [{"StudyDescription": "x"}, {"PatientID": "0042"}]},
    {"all": [{"StudyDate": "today"}, {"PatientID": "0042"}]},
    {"not": {"any": [{"StudyDescription": "x"}, {"PatientID": "1"}]}},
    {"not": {"StudyDate": "today", "PatientID": "1"}},  # not (this and that)
    # a malformed value can still be looked at as text
    {"SeriesNumber": {"like": "a*"}},
    {"SeriesNumber": {"exists": True}},
]

FAIL: list[dict[str, Any]] = [
    {"StudyDescription": "ct chest"},
    {"StudyDescription": "Chest"},
    {"StudyDescription": {"like": "ct*"}},
    {"StudyDescription": {"like": "Chest"}},
    {"StudyDescription": {"like": "CT?"}},
    {"StudyDescription": {"matches": "chest"}},
    {"StudyDescription": {"exists": False}},
    {"StudyDescription": {"not": {"matches": "Chest"}}},
    {"ModalitiesInStudy": {"not": "SR"}},
    {"ModalitiesInStudy": {"like": "C*", "in": ["SR"]}},  # no single value is both
    {"NumberOfStudyRelatedInstances": {"gt": "120"}},
    {"NumberOfStudyRelatedInstances": {"between": ["1", "119"]}},
    {"PatientAge": {"gte": "18Y"}},
    {"PatientID": "42"},
    {"StudyDate": "yesterday"},
    {"StudyDate": {"lt": "today"}},
    {"StudyDate": "now-1h..now"},
    {"StudyDate": {"gt": "now-90h..now"}},
    {"StudyTime": {"lt": "10:15"}},
    {"StudyTime": "22:00..06:00"},
    {"AcquisitionDateTime": {"gte": "now-1h"}},
    {"ProcedureCodeSequence": {"code": "241620005", "scheme": "SRT"}},
    {"ProcedureCodeSequence": {"not": {"scheme": "SCT"}}},
    {"ProcedureCodeSequence": {"exists": False}},
    {"RequestAttributesSequence.ScheduledProcedureStepID": "S3"},
    # what is not there fails every matcher
    {"AccessionNumber": {"like": "*"}},
    {"AccessionNumber": {"matches": "^"}},
    {"AccessionNumber": {"exists": True}},
    {"SeriesDescription": "x"},
    {"InstanceNumber": {"gte": "0"}},
    # a malformed value satisfies no comparison
    {"SeriesNumber": {"gte": "0"}},
    {"SeriesNumber": {"lte": "0"}},
    {"any": [{"StudyDescription": "x"}, {"PatientID": "1"}]},
    {"all": [{"StudyDate": "today"}, {"PatientID": "1"}]},
    {"not": {"StudyDate": "today"}},
    {"StudyDate": "today", "PatientID": "1"},
]


@pytest.mark.parametrize("where", HOLD, ids=str)
def test_holds(where: dict[str, Any]) -> None:
    assert holds(where)


@pytest.mark.parametrize("where", FAIL, ids=str)
def test_does_not_hold(where: dict[str, Any]) -> None:
    assert not holds(where)


def test_a_date_without_its_time_may_be_meant() -> None:
    only_date = Identifier.of(StudyDate="20261123")
    assert holds({"StudyDate": "now-2h..now"}, only_date)
    assert not holds({"StudyDate": "now-2h..now"}, Identifier.of(StudyDate="20261122"))


def test_the_day_is_that_of_the_source() -> None:
    condition = Condition.of({"StudyDate": "today"})
    late = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
    tomorrow = Identifier.of(StudyDate="20261124")
    assert condition.holds(tomorrow, Evaluation(late, ZoneInfo("Europe/Berlin")))
    assert not condition.holds(tomorrow, Evaluation(late, ZoneInfo("UTC")))
    assert condition.holds(tomorrow, Evaluation(late, ZoneInfo("Europe/Berlin")))


def test_a_name_in_several_scripts_is_each_of_them() -> None:
    name = Identifier.of(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")
    assert holds({"PatientName": "yamada^tarou"}, name)
    assert holds({"PatientName": "山田^太郎"}, name)
    assert holds({"PatientName": {"like": "山*郎"}}, name)
    assert not holds({"PatientName": "太郎"}, name)


def test_long_code_values() -> None:
    item = Identifier()
    item.elements[tag("ProcedureCodeSequence")] = (code_item("12345678901234567", "SCT", "LongCodeValue"),)
    assert holds({"ProcedureCodeSequence": {"code": "12345678901234567"}}, item)


# --- Explanation ------------------------------------------------------------------------------------------------------


def test_every_clause_is_explained_with_what_it_saw() -> None:
    where = {
        "StudyDescription": {"matches": "(?i)abdomen"},
        "any": [{"PatientAge": {"gte": "18Y"}}, {"NumberOfStudyRelatedInstances": {"gte": 100}}],
        "SeriesDescription": "x",
    }
    explanation = Condition.of(where).explain(STUDY, NOW)
    assert explanation.render() == [
        "FAIL  all of",
        "  FAIL  StudyDescription matches (?i)abdomen (seen: CT Chest)",
        "  pass  any of",
        "    FAIL  PatientAge is at least 18Y (seen: 012Y)",
        "    pass  NumberOfStudyRelatedInstances is at least 100 (seen: 0120)",
        "  FAIL  SeriesDescription is x (seen: no value)",
    ]
    assert explanation.reason == "StudyDescription does not match (?i)abdomen; SeriesDescription has no value"


REASONS = [
    ({"StudyDescription": {"like": "MR*"}}, "StudyDescription is not like MR*"),
    ({"ModalitiesInStudy": ["MR", "US"]}, "ModalitiesInStudy is none of MR, US"),
    ({"ModalitiesInStudy": {"not": "SR"}}, "ModalitiesInStudy is SR"),
    (
        {"NumberOfStudyRelatedInstances": {"between": ["1", "2"]}},
        "NumberOfStudyRelatedInstances is not between 1 and 2",
    ),
    ({"AccessionNumber": {"exists": "true"}}, "AccessionNumber is not what the rule asks for"),
    ({"StudyDescription": {"exists": "false"}}, "StudyDescription has a value"),
    ({"not": {"StudyDate": "today"}}, "what must not hold does (StudyDate)"),
    ({"any": [{"PatientID": "1"}, {"StudyDate": "20200101"}]}, "none of the alternatives holds (PatientID, StudyDate)"),
]


@pytest.mark.parametrize(("where", "reason"), REASONS, ids=[reason for _, reason in REASONS])
def test_reasons(where: dict[str, Any], reason: str) -> None:
    assert Condition.of(where).explain(STUDY, NOW).reason == reason


@pytest.mark.parametrize("where", FAIL, ids=str)
def test_reasons_hold_nothing_of_a_patient(where: dict[str, Any]) -> None:
    reason = Condition.of(where).explain(STUDY, NOW).reason
    assert reason
    for value in ("0042", "Müller", "CT Chest", "1.2.3", "20261123", "0120"):
        assert value not in reason


def test_not_even_what_the_rule_itself_says_of_a_person() -> None:
    where = {"PatientID": "4711", "PatientName": {"like": "Doe*"}, "StudyInstanceUID": "1.9"}
    reason = Condition.of(where).explain(STUDY, NOW).reason
    assert not {"4711", "Doe*", "1.9"} & set(reason.replace(";", " ").split())


def test_what_a_query_must_ask_back() -> None:
    where = {
        "StudyDate": {"gte": "now-2h"},
        "any": [{"ProcedureCodeSequence.CodeValue": "1"}, {"not": {"Modality": "CT"}}],
    }
    wanted = {"StudyDate", "StudyTime", "ProcedureCodeSequence", "Modality"}
    assert Condition.of(where).attributes == {tag(name) for name in wanted}


def test_equal_conditions_are_equal() -> None:
    assert Condition.of(HOLD[9]) == Condition.of(HOLD[9]) != Condition.of(HOLD[8])
    assert len({Condition.of(HOLD[9]), Condition.of(HOLD[9])}) == 1


# --- Mistakes ---------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], Kind, tuple[str | int, ...]]] = [
    ({"Studydescription": "x"}, Kind.ATTRIBUTE, ("Studydescription",)),
    ({"StudyDescription.CodeValue": "x"}, Kind.ATTRIBUTE, ("StudyDescription.CodeValue",)),
    ({"StudyDescription": {"contains": "x"}}, Kind.MATCHER, ("StudyDescription", "contains")),
    ({"StudyDescription": {}}, Kind.MATCHER, ("StudyDescription",)),
    ({"StudyDescription": {"code": "1"}}, Kind.MATCHER, ("StudyDescription",)),
    ({"StudyDescription": {"like": ["a", "b"]}}, Kind.VALUE, ("StudyDescription", "like")),
    ({"StudyDescription": {"in": "a"}}, Kind.VALUE, ("StudyDescription", "in")),
    ({"StudyDescription": {"between": ["a"]}}, Kind.VALUE, ("StudyDescription", "between")),
    ({"StudyDescription": {"exists": "maybe"}}, Kind.VALUE, ("StudyDescription", "exists")),
    ({"StudyDescription": ""}, Kind.VALUE, ("StudyDescription",)),
    ({"StudyDescription": ["a", ["b"]]}, Kind.VALUE, ("StudyDescription", 1)),
    ({"StudyDescription": {"matches": "("}}, Kind.REGEX, ("StudyDescription", "matches")),
    ({"StudyDescription": {"not": {"matches": "("}}}, Kind.REGEX, ("StudyDescription", "not", "matches")),
    ({"StudyDate": ["today", "tomorow"]}, Kind.DATE, ("StudyDate", 1)),
    ({"StudyDate": {"between": ["today", "yesterday"]}}, Kind.DATE_ORDER, ("StudyDate", "between")),
    ({"PatientAge": "12"}, Kind.VALUE, ("PatientAge",)),
    ({"StudyTime": "25:00"}, Kind.VALUE, ("StudyTime",)),
    ({"NumberOfStudyRelatedInstances": {"gte": "ten"}}, Kind.VALUE, ("NumberOfStudyRelatedInstances", "gte")),
    ({"PixelData": "x"}, Kind.MATCHER, ("PixelData",)),
    ({"ProcedureCodeSequence": "x"}, Kind.MATCHER, ("ProcedureCodeSequence",)),
    ({"ProcedureCodeSequence": {"code": "1", "meaning": "x"}}, Kind.MATCHER, ("ProcedureCodeSequence",)),
    ({"any": {"StudyDate": "today"}}, Kind.SYNTAX, ("any",)),
    ({"any": []}, Kind.SYNTAX, ("any",)),
    ({"any": ["today"]}, Kind.SYNTAX, ("any", 0)),
    ({"not": {}}, Kind.SYNTAX, ("not",)),
    ({"any": [{"StudyDate": "today"}, {"Modality": {"is": "CT"}}]}, Kind.MATCHER, ("any", 1, "Modality", "is")),
]


@pytest.mark.parametrize(("where", "kind", "path"), WRONG, ids=[str(row[0]) for row in WRONG])
def test_mistakes_are_found_at_load_with_their_place(
    where: dict[str, Any], kind: Kind, path: tuple[str | int, ...]
) -> None:
    _, errors = compile_condition(where)
    assert [(error.kind, error.path) for error in errors] == [(kind, path)]
    with pytest.raises(ExpressionError):
        Condition.of(where)


def test_all_mistakes_are_found_at_once() -> None:
    merged: dict[str, Any] = {"any": [row[0] for row in WRONG[:10]]}
    assert len(compile_condition(merged)[1]) == 10


# --- Patterns ---------------------------------------------------------------------------------------------------------

EXPLOSIVE = [r"(a+)+$", r"(a*)*", r"(a|aa)+$", r"([a-z]+ ?)+x", r"(.*a){20}", r"^(([a-z])+.)+[A-Z]", r"(a?a?)*x",
             r".*.*.*.*.*x", r"(?:x+x+)+y", r"(\w+\s?)*!"]  # fmt: skip
HARMLESS = [r"(?i)chest|thorax", r"^(CT|MR) .*", r"\bknee\b", r"(?:ab|cd)+", r"[A-Z]{2}[0-9]{1,5}",
            r"^.*chest.*pain.*$", r"(left|right)?\s*knee", r"C-?spine", r"(?=.*ct)(?=.*abd)",
            r"(abc){2}", r"x{3}(y)*"]  # fmt: skip


@pytest.mark.parametrize("pattern", EXPLOSIVE)
def test_expressions_that_could_run_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Condition.of({"StudyDescription": {"matches": pattern}})
    assert caught.value.kind is Kind.REGEX


@pytest.mark.parametrize("pattern", HARMLESS)
def test_usual_expressions_are_taken_and_end(pattern: str) -> None:
    condition = Condition.of({"StudyComments": {"matches": pattern}} if tag_of("StudyComments") else {})
    started = time.monotonic()
    for text in ("a" * 20_000, "left " * 4000, "CT " * 7000, "ab" * 10_000 + "!", "chest" * 4000):
        condition.holds(Identifier.of(StudyComments=text), NOW)
    assert time.monotonic() - started < 60


@given(st.text("ab*?^", max_size=12), st.text("abAB^", max_size=12))
def test_wildcards_agree_with_their_definition(pattern: str, value: str) -> None:
    def matches(pattern: str, value: str) -> bool:
        if not pattern:
            return not value
        if pattern[0] == "*":
            return any(matches(pattern[1:], value[at:]) for at in range(len(value) + 1))
        return bool(value) and (pattern[0] == "?" or pattern[0] == value[0]) and matches(pattern[1:], value[1:])

    assert (wildcard(pattern, caseless=False).match(value) is not None) is matches(pattern, value)


def test_wildcards_end() -> None:
    started = time.monotonic()
    assert wildcard("*a" * 30 + "b", caseless=False).match("a" * 5000) is None
    assert time.monotonic() - started < 60


KEYWORDS = ["StudyDescription", "PatientName", "NumberOfStudyRelatedInstances", "StudyDate", "StudyTime", "PatientAge",
            "AcquisitionDateTime"]  # fmt: skip


@given(st.text(max_size=40), st.sampled_from(KEYWORDS))
def test_no_value_from_the_wire_breaks_a_condition(value: str, keyword: str) -> None:
    operands = {"NumberOfStudyRelatedInstances": "5", "StudyDate": "now-1d..now", "StudyTime": "10:00",
                "PatientAge": "5Y", "AcquisitionDateTime": "today"}  # fmt: skip
    operand = operands.get(keyword, "x")
    where = {"all": [{keyword: operand}, {keyword: {"gte": operand}}, {keyword: {"like": "*x*"}}]}
    assert holds(where, Identifier.of(**{keyword: value})) in (True, False)
