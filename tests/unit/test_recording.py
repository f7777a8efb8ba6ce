"""Recordings: nothing in them points to anybody, the same stays the same, and rules decide as by the original."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary

from router.config.document import DocumentError
from router.config.recording import dumped, read_recording, recording_key, write_recording
from router.domain.attributes import identifying
from router.domain.condition import Condition, Evaluation
from router.domain.confidential import FREE_TEXTS, KEEPABLE, is_replaced
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag, tag_of
from router.domain.key import KeyMatch
from router.domain.recording import (
    Pseudonyms,
    Recording,
    asked_for,
    identifiers_of,
    named,
    pseudonymous,
    replaced_in,
)
from router.domain.rehearsal import Material, rehearse
from router.domain.rule import Move, Rule, RuleLimits, Sweep
from router.errors import RouterError, UsageError

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 28, 8, tzinfo=ZONE)

# --- Made up answers --------------------------------------------------------------------------------------------------

_MARKED = st.text("GJKMPQVWXYZÄß0123456789", min_size=3, max_size=10)
IDS = _MARKED.map(lambda text: f"Q{text}Z")
NAMES = _MARKED.map(lambda text: f"Qu{text}^Xy{text[:3]}")
UIDS = st.integers(10**6, 10**20).map(lambda number: f"1.2.826.99.{number}")
BIRTHS = st.dates(date(1900, 1, 1), date(1960, 1, 1)).map(lambda day: f"{day:%Y%m%d}")
DAYS = st.integers(-5, 400).map(lambda days: f"{NOW - timedelta(days=days):%Y%m%d}")
WORDS = ["CT chest", "Thorax a.p.", "MR knee", 'chest "quoted" \\ back', "Schädel: nativ\nund KM"]
MODALITIES = st.lists(st.sampled_from(["CT", "MR", "US", "SR"]), max_size=2).map(tuple)


def _one(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return values.map(lambda value: (value,)) | st.just(())


ROWS = st.fixed_dictionaries(
    {"StudyInstanceUID": UIDS.map(lambda uid: (uid,)), "PatientID": _one(IDS)},
    optional={
        "PatientName": _one(NAMES),
        "PatientBirthDate": _one(BIRTHS),
        "PatientBirthTime": st.just(("071501",)),
        "AccessionNumber": _one(IDS),
        "StudyID": _one(IDS),
        "ReferringPhysicianName": st.tuples(NAMES, NAMES),
        "InstitutionName": _one(IDS),
        "OtherPatientIDsSequence": st.tuples(st.builds(lambda one: Identifier.of(PatientID=one), IDS)),
        "PatientComments": _one(IDS),
        "StudyDescription": _one(st.sampled_from(WORDS)),
        "StudyDate": _one(DAYS),
        "StudyTime": _one(st.sampled_from(["0715", "235959.9", "12"])),
        "ModalitiesInStudy": MODALITIES,
        "NumberOfStudyRelatedInstances": _one(st.integers(0, 500).map(str)),
        "SOPClassesInStudy": st.just(("1.2.840.10008.5.1.4.1.1.2",)),
        "PatientSex": st.just(("F",)),
        "(0009,1001)": _one(IDS),
    },
)


def _row(attributes: dict[str, tuple[str | Identifier, ...]], told: bool) -> Identifier:
    """A row; where it is `told`, somebody typed the patient's ID into the description."""
    words, patient = attributes.get("StudyDescription"), attributes["PatientID"]
    if words and patient and told:
        attributes = {**attributes, "StudyDescription": (f"{words[0]} {str(patient[0]).lower()}",)}
    return Identifier({_tag(name): values for name, values in attributes.items()})


def studies() -> st.SearchStrategy[Identifier]:
    return st.builds(_row, ROWS, st.booleans())


def series() -> st.SearchStrategy[Identifier]:
    return st.builds(
        lambda **attributes: Identifier.of(**attributes),
        SeriesInstanceUID=UIDS,
        Modality=st.sampled_from(["CT", "SR"]),
        SeriesDescription=st.sampled_from(["dose", "thin"]),
        OperatorsName=NAMES,
        NumberOfSeriesRelatedInstances=st.integers(1, 20),
    )


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    rows = draw(st.lists(studies(), max_size=6, unique_by=lambda row: row.text("StudyInstanceUID")))
    below = {
        name: named("series", draw(st.lists(series(), max_size=3, unique_by=lambda row: row.text("SeriesInstanceUID"))))
        for name in named("study", rows)
        if draw(st.booleans())
    }
    return Recording(
        source="archive",
        recorded_at=NOW,
        timezone="Europe/Berlin",
        keys=Identifier.of(StudyDate="20261101-20261128", PatientID=draw(IDS)),
        returned=("StudyDate", "PatientID"),
        studies=named("study", rows),
        series=below,
    )


def _tag(name: str) -> int:
    tag = tag_of(name)
    assert tag is not None
    return tag


def replaced(recording: Recording, key: bytes = b"k" * 32, **settings: Any) -> Recording:
    pseudonyms = Pseudonyms(key, identifiers_of(recording), **settings)
    return pseudonymous(recording, pseudonyms, settings.get("drop", frozenset()))


def read_back(recording: Recording) -> Recording:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "recording.yaml"
        write_recording(path, recording, force=False)
        return read_recording(path)


def leaves(one: Identifier) -> list[tuple[int, str]]:
    found = []
    for tag, values in one.elements.items():
        for value in values:
            found += leaves(value) if isinstance(value, Identifier) else [(tag, value)]
    return found


NAMED = """
    StudyInstanceUID SeriesInstanceUID PatientID PatientName PatientBirthDate AccessionNumber StudyID
    ReferringPhysicianName OperatorsName InstitutionName PatientComments"""
IDENTIFYING = {*map(known_tag, NAMED.split()), 0x00091001}


# --- What must hold ---------------------------------------------------------------------------------------------------


@given(recordings(), st.integers(0, 500))
def test_no_identifying_value_of_the_answer_is_in_the_file_not_even_within_a_description(
    original: Recording, weeks: int
) -> None:
    contents = dumped(replaced(original, shift=weeks)).decode().casefold()
    for one in identifiers_of(original):
        for tag, value in leaves(one):
            if tag in IDENTIFYING:
                assert value.casefold() not in contents


@given(recordings())
def test_the_same_value_has_the_same_replacement_and_another_has_another(original: Recording) -> None:
    known: dict[tuple[str, str], str] = {}
    for before, after in zip(identifiers_of(original), identifiers_of(replaced(original)), strict=True):
        assert before.elements.keys() == after.elements.keys()
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber", "StudyID"):
            if value := before.text(name):
                assert known.setdefault((name[-3:] == "UID", value), after.text(name)) == after.text(name) != value
        for old, new in zip(
            before.values("ReferringPhysicianName"), after.values("ReferringPhysicianName"), strict=True
        ):
            assert isinstance(old, str)
            assert isinstance(new, str)
            assert known.setdefault((False, old), new) == new != old
    assert len(known) == len(set(known.values()))


CONDITIONS = st.dictionaries(
    st.sampled_from(
        ["StudyDescription", "NumberOfStudyRelatedInstances", "PatientSex", "StudyTime", "SOPClassesInStudy"]
    ),
    st.none(),
    max_size=3,
).flatmap(
    lambda names: st.fixed_dictionaries(
        {
            name: {
                "StudyDescription": st.sampled_from(
                    [{"matches": "(?i)chest|thorax"}, {"like": "*knee*"}, {"exists": False}, {"equals": "CT chest"}]
                ),
                "NumberOfStudyRelatedInstances": st.sampled_from([{"gte": "100"}, {"exists": True}]),
                "PatientSex": st.just("F"),
                "StudyTime": st.just({"lt": "12:00"}),
                "SOPClassesInStudy": st.just("1.2.840.10008.5.1.4.1.1.2"),
            }[name]
            for name in names
        }
    )
)
RELATIVE = st.sampled_from(["today-7d..today", "today", "now-36h..now", "today-60d..yesterday"])
FIXED = st.sampled_from(["20261101..20261120", "today-2m..today", "today-1y..20261231"])


@st.composite
def rules(draw: st.DrawFn, dates: st.SearchStrategy[str]) -> Rule:
    by_series, of_series = draw(st.booleans()), draw(st.booleans())
    keys = [KeyMatch.of("StudyDate", draw(dates))]
    if draw(st.booleans()):
        keys.append(KeyMatch.of("ModalitiesInStudy", *draw(st.sampled_from([("CT",), ("CT", "MR")]))))
    if by_series:
        keys.append(KeyMatch.of("Modality", "SR"))
    levels = {True: QueryRetrieveLevel.SERIES, False: QueryRetrieveLevel.STUDY}
    return Rule(
        name="rule",
        sweep=Sweep(
            source="archive", level=levels[by_series], keys=tuple(keys), settle=draw(st.sampled_from([0.0, 600.0]))
        ),
        where=Condition.of(draw(CONDITIONS)),
        move=Move(to=("workstation", "local"), level=levels[of_series]),
        limits=draw(
            st.sampled_from([RuleLimits(), RuleLimits(studies_per_sweep=2), RuleLimits(instances_per_day=300)])
        ),
    )


def decided(rule: Rule, recording: Recording) -> list[tuple[str, str, str, str, int | None]]:
    assert rule.sweep is not None
    uid = {name: row.text("StudyInstanceUID") for name, row in recording.studies.items()}
    material = Material(
        studies=list(recording.studies.values()),
        series={uid[name]: list(below.values()) for name, below in recording.series.items()},
    )
    evaluation = Evaluation(recording.recorded_at, recording.zone)
    made = rehearse(rule, rule.sweep, material, evaluation, tier=0, manual=True).decisions
    names = {value: name for name, value in uid.items()}
    return [(names[one.study_instance_uid], str(one.action), one.code, one.reason, one.instance_count) for one in made]


@given(recordings(), rules(RELATIVE | FIXED))
def test_rules_that_look_at_no_identifier_decide_by_the_file_as_by_the_answer(original: Recording, rule: Rule) -> None:
    assert decided(rule, read_back(replaced(original))) == decided(rule, original)


@given(recordings(), rules(st.sampled_from(["today-7d..today", "today", "today-60d..yesterday"])), st.integers(1, 520))
def test_shifted_dates_make_no_difference_to_rules_that_count_days_from_now(
    original: Recording, rule: Rule, weeks: int
) -> None:
    shifted = read_back(replaced(original, shift=weeks))
    assert decided(rule, shifted) == decided(rule, original)
    assert shifted.recorded_at.astimezone(ZONE).replace(tzinfo=None) == NOW.replace(tzinfo=None) - timedelta(
        weeks=weeks
    )


@given(recordings())
def test_a_file_is_read_as_it_was_written(original: Recording) -> None:
    assert read_back(original) == original


def test_texts_that_yaml_could_take_for_something_else_stay_texts(tmp_path: Path) -> None:
    hostile = [
        "null",
        "~",
        "yes",
        "00123",
        "12:30:00",
        "# none",
        "a: b",
        "'\"\\",
        "\x85\u2028\ufeff",
        "😀",
        "\ud800",
        "\0",
    ]
    row = Identifier.of(StudyInstanceUID="1.2", StudyDescription=hostile)
    path = tmp_path / "one"
    write_recording(path, made([row]), force=False)
    found = read_recording(path).studies["study-1"].values("StudyDescription")
    assert found == tuple("\ufffd" if text == "\ud800" else text for text in hostile)


# --- Attributes -------------------------------------------------------------------------------------------------------


PROFILE = """
    PatientID PatientName PatientBirthDate PatientBirthTime OtherPatientIDs OtherPatientNames IssuerOfPatientID
    AccessionNumber StudyID StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID
    ReferringPhysicianName PhysiciansOfRecord NameOfPhysiciansReadingStudy PerformingPhysicianName OperatorsName
    InstitutionName InstitutionAddress InstitutionalDepartmentName StationName PerformedStationAETitle
    PatientComments AdditionalPatientHistory AdmittingDiagnosesDescription Occupation EthnicGroup PatientAddress
    PatientTelephoneNumbers MedicalRecordLocator AdmissionID ImageComments DeviceSerialNumber RequestedProcedureID
    ScheduledProcedureStepID PerformedProcedureStepID RequestingPhysician LastMenstrualDate MilitaryRank
    BranchOfService RegionOfResidence CountryOfResidence StudyComments"""


@pytest.mark.parametrize("keyword", PROFILE.split())
def test_attributes_of_the_confidentiality_profile_are_replaced(keyword: str) -> None:
    """PS3.15 table E.1-1, what of it a C-FIND may ask back."""
    assert is_replaced(known_tag(keyword))


def test_no_name_uid_or_free_text_of_the_dictionary_stays_but_those_named() -> None:
    kept = {
        tag
        for tag, entry in DicomDictionary.items()
        if entry[0][:2] in {"PN", "UI", "LO", "LT", "SH", "ST", "UC", "UT", "AE"} and not is_replaced(tag)
    }
    assert kept >= FREE_TEXTS
    assert len(kept) <= 20
    assert is_replaced(0x00091001)  # a private one


def test_what_the_standard_defines_and_what_has_no_value_stays() -> None:
    row = Identifier.of(
        StudyInstanceUID="1.2.3", SOPClassesInStudy="1.2.840.10008.5.1.4.1.1.2", PatientSex="F", PatientID=""
    )
    new = replaced(made([row])).studies["study-1"]
    assert new.text("SOPClassesInStudy") == "1.2.840.10008.5.1.4.1.1.2"
    assert new.text("PatientSex") == "F"
    assert "PatientID" in new
    assert new.values("PatientID") == ()
    assert new.text("StudyInstanceUID").startswith("2.25.")


def test_an_attribute_may_be_kept_or_left_out() -> None:
    row = Identifier.of(
        StudyInstanceUID="1.2.3", InstitutionName="Clinic Q77", StationName="CT99", PatientID="PID-Q77-1"
    )
    keep, drop = frozenset({known_tag("InstitutionName")}), frozenset({known_tag("StationName")})
    original = made([row], returned=("StationName", "InstitutionName"))
    new = replaced(original, keep=keep, drop=drop)
    assert new.studies["study-1"].text("InstitutionName") == "Clinic Q77"
    assert "StationName" not in new.studies["study-1"]
    assert new.returned == ("InstitutionName",)
    assert replaced_in(original, keep) == ["PatientID", "StationName", "StudyInstanceUID"]


def test_a_birth_date_moves_by_less_than_a_year_and_a_malformed_one_goes() -> None:
    rows = [Identifier.of(StudyInstanceUID=f"1.{n}", PatientBirthDate=b) for n, b in enumerate(["19700101", "unknown"])]
    first, second = replaced(made(rows)).studies.values()
    moved = datetime.strptime(first.text("PatientBirthDate"), "%Y%m%d").replace(tzinfo=UTC).date() - date(1970, 1, 1)
    assert 1 <= abs(moved.days) <= 365
    assert second.values("PatientBirthDate") == ()


def test_recordings_with_one_key_agree_and_those_without_do_not(tmp_path: Path) -> None:
    original = made([Identifier.of(StudyInstanceUID="1.2.3", PatientID="PID-Q77-1")])
    key = recording_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert recording_key(tmp_path / "key") == key
    assert replaced(original, key) == replaced(original, key) != replaced(original, b"another" * 8)


def test_a_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    with pytest.raises(RouterError, match="less than 32 characters"):
        recording_key(tmp_path / "key")


def test_whether_a_recording_has_all_that_a_question_brings() -> None:
    asked = made([], keys=Identifier.of(StudyDate="20261101-20261128", ModalitiesInStudy=["CT", "MR"]))
    assert asked_for(asked, Identifier.of(StudyDate="20261127-20261128", ModalitiesInStudy="CT", PatientID="1"))
    assert not asked_for(asked, Identifier.of(StudyDate="20261027-20261128", ModalitiesInStudy="CT"))
    assert not asked_for(asked, Identifier.of(StudyDate="20261127", ModalitiesInStudy="US"))
    assert not asked_for(asked, Identifier.of(StudyDate="20261127"))
    assert not asked_for(asked, Identifier.of(StudyDate="", ModalitiesInStudy="CT"))


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("DOE^JANE^^^", "CT DOE^JANE chest", "CT {} chest"),
        ("DOE^JANE", "ct doe jane", "ct {}"),
        ("DOE^JANE", "Doe, Jane: CT", "{}: CT"),
        ("DOE^JANE", "Doe,Jane: CT", "{}: CT"),
        ("DOE^JANE", "CT of Jane Doe", "CT of {}"),
        ("DOE, JANE", "CT DOE^JANE", "CT {}"),
        ("SMITH^JOHN^Q^DR", "CT SMITH^JOHN brain", "CT {} brain"),
        ("SMITH^JOHN^Q^DR", "CT Smith, John Q", "CT {}"),
        ("SMITH^JOHN^Q^DR", "CT Smith^John^Q^DR", "CT {}"),
        ("VAN DER BERG^ANNA MARIA", "van der Berg, Anna", "{}"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "CT YAMADA^TAROU 頭部", "CT {} 頭部"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "CT 山田^太郎 頭部", "CT {} 頭部"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "CT 山田太郎 頭部", "CT {} 頭部"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "やまだ たろう", "{}"),
        ("Wang^Wei=王^伟", "胸部 王伟", "胸部 {}"),
        ("GROß^PETER", "GROSS, PETER", "{}"),
        ("Müller^Jörg", "Mueller Joerg", "{}"),
        ("MUELLER^JOERG", "Müller Jörg", "{}"),
        ("García^José", "Garcia Jose", "{}"),
        ("CHEST^PHANTOM", "CT chest", "CT chest"),
        ("DOE^^^DR", "CT does", "CT does"),
    ],
)
def test_a_persons_name_goes_from_descriptions_however_it_is_written(name: str, text: str, left: str) -> None:
    row = Identifier.of(StudyInstanceUID="1.2", PatientName=name, StudyDescription=text)
    found = replaced(made([row])).studies["study-1"].text("StudyDescription")
    assert re.fullmatch(left.format("ID[0-9A-F]{12}"), found)


@given(NAMES, st.sampled_from(["^", " ", ", ", ","]), st.booleans(), st.sampled_from(["", "^", "^^^"]))
def test_family_and_given_name_are_in_no_file_in_any_letters(name: str, mark: str, upper: bool, tail: str) -> None:
    told = mark.join(name.split("^"))
    told = told.upper() if upper else told.lower()
    row = Identifier.of(StudyInstanceUID="1.2.9", PatientName=name + tail, StudyDescription=f"CT {told} 2")
    assert told.casefold() not in dumped(replaced(made([row]))).decode().casefold()


def test_identifiers_go_from_codes_and_from_what_makers_wrote() -> None:
    code = Identifier.of(CodeValue="ACC777005", CodingSchemeDesignator="99LOCAL", CodeMeaning="CT for Brown^Bob")
    row = Identifier(
        {
            **Identifier.of(StudyInstanceUID="1.2", AccessionNumber="ACC777005", PatientName="Brown^Bob").elements,
            **Identifier.of(Manufacturer="Maker Brown^Bob", SoftwareVersions="ACC777005").elements,
            known_tag("ProcedureCodeSequence"): (code,),
        }
    )
    text = dumped(replaced(made([row]))).decode()
    assert "ACC777005" not in text
    assert "Brown" not in text
    assert "99LOCAL" in text


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientAge", "DOE J"),
        ("Modality", "DOE^JANE"),
        ("StudyDate", "DOE^JANE"),
        ("StudyDate", "20261301"),
        ("StudyTime", "DOE JANE"),
        ("NumberOfStudyRelatedInstances", "4711 DOE"),
        ("PatientWeight", "DOE 70"),
        ("SpecificCharacterSet", "DOE"),
        ("TimezoneOffsetFromUTC", "DOE"),
        ("StudyInstanceUID", "1.2.840.10008.1.2.3.777"),
        ("FrameOfReferenceUID", "1.2.840.10008.1.4.777"),
        ("SOPClassesInStudy", "1.2.840.10008.DOE"),
        ("PixelData", "DOE"),
    ],
)
def test_what_is_no_value_of_its_kind_does_not_stay(keyword: str, value: str) -> None:
    row = Identifier.of(**{"StudyInstanceUID": "1.2", keyword: value})
    assert value not in dumped(replaced(made([row]))).decode()
    assert keyword in replaced_in(made([row]), frozenset())


def test_values_of_their_kind_stay() -> None:
    given = {
        "PatientAge": "045Y",
        "Modality": "CT",
        "BodyPartExamined": "Chest",
        "StudyDate": "20261128",
        "StudyTime": "0715-0800",
        "NumberOfStudyRelatedInstances": "12",
        "PatientWeight": "7.05E1",
        "SpecificCharacterSet": "ISO 2022 IR 87",
        "TimezoneOffsetFromUTC": "+0100",
        "Rows": "512",
    }
    new = replaced(made([Identifier.of(StudyInstanceUID="1.2", **given)])).studies["study-1"]
    assert {name: new.text(name) for name in given} == given


def test_a_word_in_the_wrong_place_stays_in_descriptions() -> None:
    row = Identifier.of(StudyInstanceUID="1.2", BodyPartExamined="Schädel", StudyDescription="Schädel nativ")
    new = replaced(made([row])).studies["study-1"]
    assert new.text("BodyPartExamined").startswith("ID")
    assert new.text("StudyDescription") == "Schädel nativ"


def test_only_names_of_places_and_devices_can_be_kept() -> None:
    points = """
        PersonTelephoneNumbers PatientTelecomInformation PlacerOrderNumberImagingServiceRequest
        FillerOrderNumberImagingServiceRequest ServiceEpisodeID ClinicalTrialSubjectID InsurancePlanIdentification
        PerformedProcedureStepID VisitComments PatientID PatientName AccessionNumber StudyInstanceUID"""
    assert not [name for name in points.split() if known_tag(name) in KEEPABLE]
    assert not [tag for tag in KEEPABLE if identifying(tag)]
    keep = frozenset({known_tag("PatientID"), known_tag("StationName")})
    row = Identifier.of(StudyInstanceUID="1.2", PatientID="PID-1", StationName="CT1 DOE^JANE", PatientName="DOE^JANE")
    new = replaced(made([row]), keep=keep).studies["study-1"]
    assert "PID" not in new.text("PatientID")
    assert re.fullmatch("CT1 ID[0-9A-F]{12}", new.text("StationName"))


# --- Files ------------------------------------------------------------------------------------------------------------


def made(rows: list[Identifier], **fields: Any) -> Recording:
    given = {"keys": Identifier(), "returned": (), **fields}
    return Recording(source="archive", recorded_at=NOW, timezone="Europe/Berlin", studies=named("study", rows), **given)


def test_a_recording_is_its_owners_and_never_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "recording.yaml"
    write_recording(path, made([]), force=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--force replaces it"):
        write_recording(path, made([Identifier.of(StudyInstanceUID="1.2")]), force=False)
    assert path.read_bytes() == before
    write_recording(path, made([Identifier.of(StudyInstanceUID="1.2")]), force=True)
    assert list(read_recording(path).studies) == ["study-1"]
    assert [one.name for one in tmp_path.iterdir()] == ["recording.yaml"]


def test_a_recording_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    row = Identifier.of(StudyInstanceUID="1.2", StudyDescription=["x"] * 300)
    with pytest.raises(RouterError, match="narrow the keys"):
        write_recording(tmp_path / "r", made([row] * 700), force=False)
    with pytest.raises(RouterError, match="cannot be written"):
        write_recording(tmp_path / "none" / "deep" / "r", made([]), force=False)
    assert list(tmp_path.iterdir()) == []


GOOD = dumped(made([Identifier.of(StudyInstanceUID="1.2", StudyDate="20261128")])).decode()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("recording: 1", "recording: 2", "another version"),
        ("recording: 1", "record: 1", "is no recording"),
        ("studies:\n", "study:\n", "has the key 'study'"),
        ("Europe/Berlin", "Europe/Berln", "time zone"),
        ("+01:00", "", "no moment"),
        ('"2026-11-28T', '"28.11.2026 ', "no moment"),
        ('"2026-', '"0001-', "lies in the year 1"),
        ('"2026-', '"9999-', "lies in the year 9999"),
        ("source:", "kept: [x]\nsource:", "kept lists DICOM keywords"),
        ("complete: true", "complete: perhaps", "true or false"),
        ("StudyDate", "StudyDte", "no DICOM attribute"),
        ("returned: []", "returned: [x]", "DICOM keywords"),
        ("keys: {}", "keys: []", "must be a mapping"),
        ('StudyInstanceUID: "1.2", ', "", "without StudyInstanceUID"),
        ("complete: true\n", "complete: true\ncomplete: true\n", "a second time"),
        ("complete: true\n", "", "has no 'complete'"),
        ("studies:\n", "studies: [\n", ""),
        ("study-1: {", "study-1: !tag {", "tag"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_with_its_place(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in GOOD
    path = tmp_path / "recording.yaml"
    path.write_text(GOOD.replace(before, after))
    with pytest.raises(DocumentError) as found:
        read_recording(path)
    diagnostic = found.value.diagnostic
    assert message in diagnostic.message
    assert (diagnostic.file, str(diagnostic.code)) == (str(path), "DR071")
    assert diagnostic.line >= 1


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DocumentError, match="no regular file"):
        read_recording(tmp_path / "fifo")
    with pytest.raises(RouterError, match="no regular file"):
        recording_key(tmp_path / "fifo")


def test_a_file_says_by_which_rule_it_was_made_and_what_was_kept() -> None:
    original = made([Identifier.of(StudyInstanceUID="1.2")], rule="chest", kept=("InstitutionName",))
    assert read_back(original) == original
    assert "(kept: InstitutionName)" in dumped(original).decode()


@given(st.binary(max_size=300))
def test_whatever_stands_in_a_file_is_a_recording_or_a_diagnostic(contents: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "recording.yaml"
        path.write_bytes(contents)
        with pytest.raises(DocumentError):
            read_recording(path)
