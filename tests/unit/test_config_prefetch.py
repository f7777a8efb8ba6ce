"""What looks ahead arrives in the model: triggers, priors, the listener for orders, the anatomy table."""

from __future__ import annotations

import codecs
import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.compiler import Loaded, Sources, compile_sources
from router.config.diagnostics import Code, as_text
from router.config.hl7 import FILLED
from router.config.schema import full_schema, schema_at
from router.config.values import machine_zone, parse_address, parse_size
from router.domain.condition import Condition, Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, tag_of
from router.domain.hl7 import CHARACTER_SETS, Hl7Path, Hl7Settings
from router.domain.priors import IDENTITY, UNDATED, PriorCondition, PriorException, PriorGroup, Priors, Within
from router.domain.problem import Step
from router.domain.rule import Arrival, Order, Rule, RuleLimits, RuleSet
from router.domain.timing import parse_duration
from router.domain.triggers import ADMISSION_EVENTS, ORDER_EVENTS
from router.domain.worklist import STEP_KEYS, WORKLIST_KEYS

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
EVALUATION = Evaluation(NOW, ZoneInfo("UTC"))

NODES = """
nodes:
  archive: {ae_title: ARCHIVE, address: 10.0.0.5:104}
  ris: {ae_title: RIS, address: 10.0.0.6:104, timezone: Asia/Tokyo}
  ct1: {ae_title: CT1, address: 10.0.0.7:104, push: allow}
  workstation: {ae_title: WS1, address: 10.0.0.9:104}
"""
WORKLIST = "worklist: {source: ris, every: 15m}"
GROUPS = "groups: [{name: recent, max: 2}]"


def loaded(*files: str) -> Loaded:
    sources = Sources(tuple((f"{number}.yaml", text.encode()) for number, text in enumerate(files)), ())
    found = compile_sources(sources, NOW)
    told = tuple(one for one in found.diagnostics if one.code is not Code.UNUSED_NODE)  # these files are pieces
    return msgspec.structs.replace(found, diagnostics=told)


def compiled(*files: str) -> RuleSet:
    result = loaded(*files)
    assert result.rule_set is not None, as_text(result.diagnostics)
    assert not result.diagnostics, as_text(result.diagnostics)
    return result.rule_set


def rule(trigger: str, priors: str = f"{{source: archive, {GROUPS}}}", *more: str) -> Rule:
    """A rule `ahead` of that trigger; a listener where it waits for orders."""
    hl7 = "router: {hl7: {}}\n" if trigger.startswith("order") else ""
    text = f"rules:\n  ahead:\n    {trigger}\n    priors: {priors}\n    move: {{to: [workstation]}}\n"
    return compiled(NODES, hl7 + text, *more).rules["ahead"]


def line(trigger: str, given: str = f"{{source: archive, {GROUPS}}}", key: str = "priors") -> str:
    """A section with one rule."""
    return f"rules: {{r: {{{trigger}, {key}: {given}, move: {{to: [ct1]}}}}}}\n"


def priors(text: str) -> Priors:
    found = rule(WORKLIST, text).priors
    assert found is not None
    return found


def group_where(text: str) -> PriorCondition:
    (group,) = priors(f"{{source: archive, groups: [{{name: one, max: 1, where: {text}}}]}}").groups
    return group.where


# --- Triggers ---------------------------------------------------------------------------------------------------------


def test_a_worklist_arrives_in_the_model() -> None:
    ahead = rule("""worklist:
      source: ris
      tiers: [{every: 10m}, {cron: 0 5 * * *}]
      keys: {ScheduledProcedureStepStartDate: today..today+2d, Modality: [MR, CT], "(0040,0001)": MR1}
      lead: 2h""")
    assert ahead.worklist is not None
    assert (ahead.worklist.source, ahead.asked, ahead.source) == ("ris", "ris", "archive")
    assert (ahead.lead, ahead.worklist.lead) == (7200, 7200)
    assert [tier.schedule.text for tier in ahead.tiers] == ["every 600s", "cron 0 5 * * * (Asia/Tokyo)"]
    assert [tier.lookback for tier in ahead.tiers] == [None, None]
    assert [(tag_of(key.name), key.wire(EVALUATION)) for key in ahead.worklist.keys] == [
        (0x00400002, (("20261123-20261125",),)),
        (0x00080060, (("MR",), ("CT",))),
        (0x00400001, (("MR1",),)),
    ]


@pytest.mark.parametrize("keys", ["", ", keys: {}", ", keys: {ScheduledProcedureStepStartDate: }"])
def test_a_worklist_without_a_date_is_asked_for_today_and_tomorrow(keys: str) -> None:
    ahead = rule(f"worklist: {{source: ris, every: 15m{keys}}}")
    assert ahead.worklist is not None
    (key,) = ahead.worklist.keys
    assert (key.name, key.wire(EVALUATION)) == ("ScheduledProcedureStepStartDate", (("20261123-20261124",),))
    assert ahead.lead is None


def test_the_date_is_added_to_other_keys_of_a_worklist() -> None:
    ahead = rule("worklist: {source: ris, every: 15m, keys: {Modality: MR}}")
    assert ahead.worklist is not None
    assert {key.name for key in ahead.worklist.keys} == {"ScheduledProcedureStepStartDate", "Modality"}


def test_orders_arrive_in_the_model() -> None:
    ahead = rule('order: {from: [RIS, "HIS|MAIN", RIS], events: [SIU^S12, ADT^A01], lead: 1d}')
    assert ahead.order == Order(senders=("RIS", "HIS|MAIN"), events=("SIU^S12", "ADT^A01"), lead=86400)
    assert (ahead.lead, ahead.asked, ahead.tiers) == (86400, "archive", ())
    assert rule("order: {}").order == rule("order:").order == Order()


def test_arrivals_arrive_in_the_model() -> None:
    ahead = rule("arrival: {from: [ct1], stable: 2m}")
    assert (ahead.arrival, ahead.lead) == (Arrival(senders=("ct1",), stable=120), None)
    assert rule("arrival:").arrival == Arrival()


def test_the_priors_of_what_is_swept_may_be_elsewhere() -> None:
    ahead = rule("sweep: {source: ct1, every: 5m, keys: {StudyDate: today}}")
    assert (ahead.asked, ahead.source) == ("ct1", "archive")


def test_a_condition_on_an_examination_to_come_may_look_at_anything() -> None:
    where = "    where: {Modality: CT, ScheduledStationAETitle: {exists: true}}"
    for trigger in (WORKLIST, "order:", "arrival:"):
        ahead = rule(f"{trigger}\n{where}")
        assert ahead.where.holds(Identifier.of(Modality="CT", ScheduledStationAETitle="A"), EVALUATION)


# --- Priors -----------------------------------------------------------------------------------------------------------


def test_priors_arrive_in_the_model() -> None:
    found = priors("""
      source: archive
      groups:
        - {name: same-region, where: {anatomy: same, modality: same}, max: 3, within: 5y}
        - {name: near, where: {anatomy: [near, whole-body], modality: [CT, MR, CT]}, within: 18mo}
        - {name: any-recent, max: 2, within: 3w}
        - {name: of-here, where: {InstitutionName: same, StudyDescription: {matches: chest}}, max: 1, within: 10d}
      keep_oldest_relevant: true
      exclude: {ModalitiesInStudy: [OT, SR]}
      exceptions:
        - {leave_out: {modality: US}, unless: {modality: US}}
        - {leave_out: {anatomy: breast}, when: {anatomy: [head, neck], PatientSex: M}}
      undated: never
      identity: patient-id
      repeat: 1h
      believed: 7d
""")
    here = PriorCondition(same=(0x00080080,), condition=Condition.of({"StudyDescription": {"matches": "chest"}}))
    assert found == Priors(
        source="archive",
        groups=(
            PriorGroup(
                name="same-region",
                where=PriorCondition(anatomy=("same",), modality=("same",)),
                max=3,
                within=Within("5y", months=60),
            ),
            PriorGroup(
                name="near",
                where=PriorCondition(anatomy=("near", "whole-body"), modality=("CT", "MR")),
                within=Within("18mo", months=18),
            ),
            PriorGroup(name="any-recent", max=2, within=Within("3w", days=21)),
            PriorGroup(name="of-here", where=here, max=1, within=Within("10d", days=10)),
        ),
        keep_oldest_relevant=True,
        exclude=PriorCondition(modality=("OT", "SR"), entirely=True),
        exceptions=(
            PriorException(
                leave_out=PriorCondition(modality=("US",), entirely=True), unless=PriorCondition(modality=("US",))
            ),
            PriorException(
                leave_out=PriorCondition(anatomy=("breast",)),
                when=PriorCondition(anatomy=("head", "neck"), condition=Condition.of({"PatientSex": "M"})),
            ),
        ),
        undated="never",
        identity="patient-id",
        repeat=3600,
        believed=7 * 86400,
    )


def test_what_is_not_said_of_priors_has_its_default() -> None:
    assert priors(f"{{source: archive, {GROUPS}}}") == Priors(
        source="archive", groups=(PriorGroup(name="recent", max=2),)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", PriorCondition()),
        ("{modality: XR}", PriorCondition(modality=("XR",))),
        ("{modality: [same, PT]}", PriorCondition(modality=("same", "PT"))),
        # A candidate that holds MR among others is one of MR, unless it is to be left out for it.
        ("{ModalitiesInStudy: MR}", PriorCondition(condition=Condition.of({"ModalitiesInStudy": "MR"}))),
        ("{StationName: {equals: same}}", PriorCondition(condition=Condition.of({"StationName": {"equals": "same"}}))),
        ('{"(0008,0080)": same}', PriorCondition(same=(0x00080080,))),
        ("{ProcedureCodeSequence: same}", PriorCondition(same=(0x00081032,))),
        (
            "{anatomy: chest, any: [{StudyDescription: {like: A*}}, {InstitutionName: B}]}",
            PriorCondition(
                anatomy=("chest",),
                condition=Condition.of({"any": [{"StudyDescription": {"like": "A*"}}, {"InstitutionName": "B"}]}),
            ),
        ),
    ],
)
def test_conditions_on_priors(text: str, expected: PriorCondition) -> None:
    assert group_where(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{modality: SR}", PriorCondition(modality=("SR",), entirely=True)),
        ("{ModalitiesInStudy: same}", PriorCondition(modality=("same",), entirely=True)),
        ("{anatomy: same}", PriorCondition(anatomy=("same",))),
        (
            "{ModalitiesInStudy: {in: [SR]}}",
            PriorCondition(condition=Condition.of({"ModalitiesInStudy": {"in": ["SR"]}})),
        ),
        (
            "{modality: SR, ModalitiesInStudy: {not: CT}}",
            PriorCondition(
                modality=("SR",), entirely=True, condition=Condition.of({"ModalitiesInStudy": {"not": "CT"}})
            ),
        ),
    ],
)
def test_modalities_to_be_left_out_are_all_that_a_study_holds(text: str, expected: PriorCondition) -> None:
    assert priors(f"{{source: archive, {GROUPS}, exclude: {text}}}").exclude == expected
    (exception,) = priors(f"{{source: archive, {GROUPS}, exceptions: [{{leave_out: {text}}}]}}").exceptions
    assert exception == PriorException(leave_out=expected)


@pytest.mark.parametrize(
    ("groups", "unused"),
    [
        ("{name: a, within: 1y}, {name: b, within: 1y, max: 2}", True),
        ("{name: a, within: 1y}, {name: b, within: 12mo}", True),
        ("{name: a, within: 1y}, {name: b, where: {anatomy: same}, within: 30d}", True),
        ("{name: a, where: {anatomy: same}, within: 1y}, {name: b, where: {anatomy: same}, within: 2d}", True),
        ("{name: a, within: 1y}, {name: b, within: 2y}", False),
        ("{name: a, within: 1y}, {name: b, max: 1}", False),
        ("{name: a, within: 1y, max: 9}, {name: b, within: 1y}", False),
        ("{name: a, where: {anatomy: same}, within: 1y}, {name: b, where: {anatomy: near}, within: 1y}", False),
        ("{name: a, where: {anatomy: same}, within: 1y}, {name: b, within: 1y}", False),
    ],
)
def test_a_group_for_which_an_earlier_one_leaves_nothing_is_named(groups: str, unused: bool) -> None:
    text = (
        f"rules:\n  r:\n    {WORKLIST}\n    priors: {{source: archive, groups: [{groups}]}}\n    move: {{to: [ct1]}}\n"
    )
    result = loaded(NODES, text)
    assert result.rule_set is not None
    assert [one.code for one in result.diagnostics] == ([Code.UNUSED_KEY] if unused else [])


# --- Defaults, several files ------------------------------------------------------------------------------------------


def test_defaults_hold_for_the_rules_that_they_fit() -> None:
    rules = compiled(
        NODES,
        f"""
defaults:
  rules:
    sweep: {{source: archive, every: 7m, settle: 10m, keys: {{StudyDate: today}}}}
    worklist: {{source: ris, every: 15m, lead: 3h}}
    priors: {{source: archive, {GROUPS}, exclude: {{modality: SR}}}}
    limits: {{studies_per_sweep: 9}}
    move: {{to: [workstation], level: SERIES, retry: {{attempts: 2}}}}
rules:
  plain: {{sweep: {{source: ct1}}}}
  ahead: {{worklist: {{lead: 1h}}, priors: {{keep_oldest_relevant: true}}}}
  of-swept: {{sweep: {{source: ct1}}, priors: {{{GROUPS}}}}}
""",
    ).rules
    plain, ahead, swept = rules["plain"], rules["ahead"], rules["of-swept"]
    assert plain.sweep is not None and plain.sweep.settle == 600
    assert (plain.worklist, plain.priors, plain.move.level) == (None, None, QueryRetrieveLevel.SERIES)
    assert plain.limits == RuleLimits(studies_per_sweep=9)
    assert ahead.sweep is None and ahead.worklist is not None
    assert (ahead.worklist.source, ahead.lead) == ("ris", 3600)
    assert ahead.priors is not None and ahead.priors.keep_oldest_relevant
    assert ahead.priors.exclude == PriorCondition(modality=("SR",), entirely=True)
    assert (ahead.limits, ahead.move.level, ahead.move.retry.attempts) == (RuleLimits(), QueryRetrieveLevel.STUDY, 2)
    assert swept.sweep is not None and swept.priors is not None
    assert (swept.sweep.settle, swept.limits) == (0, RuleLimits())


def test_regions_of_several_files_are_one_table_and_rules_name_them() -> None:
    text = f"""
anatomy: {{spine: {{codes: [MRLSP, 00123]}}, foot-and-ankle: {{body_part: [FOOT], near: [spine]}}}}
rules:
  ahead:
    {WORKLIST}
    priors: {{source: archive, groups: [{{name: feet, where: {{anatomy: foot-and-ankle}}, max: 1}}]}}
    move: {{to: [workstation]}}
"""
    rules = compiled(NODES, text, "anatomy: {heel: {body_part: [HEEL]}}")
    assert {"MRLSP", "00123"} <= rules.anatomy.regions["spine"].codes
    assert {"foot-and-ankle", "heel", "chest"} <= set(rules.anatomy.regions)
    twice = loaded(NODES, text, "anatomy: {spine: {codes: [X]}}")
    assert [one.code for one in twice.errors] == [Code.DUPLICATE_NAME]
    assert "the region 'spine'" in twice.errors[0].message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("anatomy: {feet: {bodypart: [FOOT]}}", Code.UNKNOWN_KEY),
        ("anatomy: {feet: {body_part: FOOT}}", Code.WRONG_TYPE),
        ("anatomie: {feet: {body_part: [FOOT]}}", Code.UNKNOWN_KEY),
    ],
)
def test_a_region_that_is_lost_is_not_reported_as_missing(text: str, code: Code) -> None:
    rules = line(WORKLIST, "{source: archive, groups: [{name: one, max: 1, where: {anatomy: paws}}]}")
    assert [one.code for one in loaded(NODES, f"{text}\n{rules}").diagnostics] == [code]


@pytest.mark.parametrize(
    "text",
    [
        line(WORKLIST, key="prior"),
        line("wroklist: {}"),
        line(WORKLIST, "{source: archive, group: []}"),
        line(WORKLIST, "{source: archive, groups: [{name: a, maxx: 1}]}"),
        line(WORKLIST, "{sourc: archive, groups: [{name: a, max: 1}]}"),
        "router: {hl: {}}\n" + line("order: "),
        "router: {hl7: {}}\n" + line("ordr: "),
    ],
)
def test_what_a_refused_key_leaves_missing_is_not_reported_too(text: str) -> None:
    result = loaded(NODES, text)
    assert [one.code for one in result.diagnostics] == [Code.UNKNOWN_KEY], as_text(result.diagnostics)


# --- The listener for orders ------------------------------------------------------------------------------------------


def hl7(text: str) -> Hl7Settings:
    rules = line("order: ")
    found = compiled(NODES, f"router:\n  hl7: {text}\n" + rules).router.hl7
    assert found is not None
    return found


def test_the_listener_arrives_in_the_model() -> None:
    assert hl7("""
    listen: 127.0.0.1:6661
    allow: [10.0.0.0/8, 192.168.1.20, "2001:db8::/32"]
    from: [RIS, "HIS|MAIN"]
    timezone: America/New_York
    character_set: 8859/1
    maximum_size: 64KiB
    messages_per_minute: 600
    connections: 4
    timeout: 10s
    idle: 5m
    fields: {AccessionNumber: [IPC-1, OBR-18.1], PatientID: PID-3.4.2}
""") == Hl7Settings(
        host="127.0.0.1",
        port=6661,
        allow=("10.0.0.0/8", "192.168.1.20", "2001:db8::/32"),
        senders=("RIS", "HIS|MAIN"),
        timezone="America/New_York",
        character_set="iso8859-1",
        maximum_size=64 << 10,
        messages_per_minute=600,
        connections=4,
        timeout=10,
        idle=300,
        fields={
            "AccessionNumber": (Hl7Path("IPC", 1), Hl7Path("OBR", 18, 1)),
            "PatientID": (Hl7Path("PID", 3, 4, 2),),
        },
    )


def test_a_listener_of_which_nothing_is_said_has_the_defaults() -> None:
    assert hl7("{}") == hl7("") == Hl7Settings(timezone=machine_zone())
    assert compiled(NODES, line(WORKLIST)).router.hl7 is None


@pytest.mark.parametrize("name", [*CHARACTER_SETS, "utf8", "cp1252", "latin-1", "unicode utf-8"])
def test_a_character_set_is_named_as_hl7_or_python_does(name: str) -> None:
    assert codecs.lookup(hl7(f"{{character_set: '{name}'}}").character_set)


@pytest.mark.parametrize(
    "name", ["utf-16", "utf_32_be", "utf-7", "base64", "rot13", "idna", "unicode_escape", "cp037", "''"]
)
def test_a_character_set_that_hides_the_separators_is_none(name: str) -> None:
    rules = line("order: ")
    result = loaded(NODES, f"router:\n  hl7: {{character_set: {name}}}\n" + rules)
    assert [one.code for one in result.diagnostics] == [Code.BAD_VALUE], as_text(result.diagnostics)


def test_every_attribute_that_orders_fill_may_have_its_place() -> None:
    fields = ", ".join(f"{keyword}: ZZ1-{number}" for number, keyword in enumerate(FILLED, 1))
    assert hl7(f"{{fields: {{{fields}}}}}").fields == {
        keyword: (Hl7Path("ZZ1", number),) for number, keyword in enumerate(FILLED, 1)
    }


@given(st.text(st.sampled_from("APID123.-Z0"), max_size=12))
def test_any_text_is_a_path_or_a_mistake(text: str) -> None:
    rules = line("order: ")
    result = loaded(NODES, f"router: {{hl7: {{fields: {{PatientID: {json.dumps(text)}}}}}}}\n" + rules)
    if result.rule_set is None:
        assert [one.code for one in result.diagnostics] == [Code.HL7_FIELD]
        return
    assert result.rule_set.router.hl7 is not None
    ((path,),) = result.rule_set.router.hl7.fields.values()
    parts = [str(number) for number in path[1:] if number]
    assert text == f"{path.segment}-{'.'.join(parts)}"


# --- The schema -------------------------------------------------------------------------------------------------------

STRUCTS: list[tuple[tuple[Step, ...], type[msgspec.Struct]]] = [
    (("router", "hl7"), Hl7Settings),
    (("rules", "x", "order"), Order),
    (("rules", "x", "arrival"), Arrival),
    (("rules", "x", "priors"), Priors),
]


@pytest.mark.parametrize(("path", "struct"), STRUCTS, ids=[".".join(map(str, path)) for path, _ in STRUCTS])
def test_documented_defaults_are_those_of_the_model(path: tuple[Step, ...], struct: type[msgspec.Struct]) -> None:
    part = schema_at(path)
    assert part is not None
    defaults: dict[str, Any] = {field.name: field.default for field in msgspec.structs.fields(struct)}
    documented = {key: inner["default"] for key, inner in part["properties"].items() if "default" in inner}
    assert documented
    for key, default in documented.items():
        if key == "listen":
            assert parse_address(default) == (defaults["host"], defaults["port"])
        elif key == "maximum_size":
            assert parse_size(default) == defaults[key]
        elif isinstance(defaults[key], float):
            assert parse_duration(default) == defaults[key]
        else:
            assert default == (list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key])


def test_the_words_of_the_schema_are_those_of_the_domain() -> None:
    definitions = full_schema()["definitions"]
    assert definitions["order"]["properties"]["events"]["items"]["enum"] == [*ORDER_EVENTS, *ADMISSION_EVENTS]
    assert definitions["priors"]["properties"]["undated"]["enum"] == list(UNDATED)
    assert definitions["priors"]["properties"]["identity"]["enum"] == list(IDENTITY)
    fields = full_schema()["properties"]["router"]["properties"]["hl7"]["properties"]["fields"]["properties"]
    assert set(fields) == set(FILLED)
    assert {tag_of(name) for name in definitions["worklist_keys"]["properties"]} <= STEP_KEYS | WORKLIST_KEYS
    for name in ("prior_condition", "current_condition"):
        names = set(definitions[name]["properties"]) - {"anatomy", "modality", "any", "all", "not"}
        assert None not in map(tag_of, names)


def test_the_examples_of_the_schema_compile() -> None:
    definitions = full_schema()["definitions"]
    for where in definitions["prior_condition"]["examples"]:
        assert group_where(json.dumps(where)) is not None
    for where in definitions["current_condition"]["examples"]:
        exceptions = json.dumps([{"leave_out": {"modality": "US"}, "unless": where}])
        assert priors(f"{{source: archive, {GROUPS}, exceptions: {exceptions}}}").exceptions
    for settings in full_schema()["properties"]["router"]["properties"]["hl7"]["examples"]:
        assert hl7(json.dumps(settings)) is not None


def test_a_name_of_a_group_is_checked_as_other_names_are() -> None:
    (one,) = loaded(NODES, line(WORKLIST, "{source: archive, groups: [{name: a b, max: 1}]}")).errors
    assert (one.code, one.message) == (Code.BAD_NAME, "'a b' cannot be a name")
