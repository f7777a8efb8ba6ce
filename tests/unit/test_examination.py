"""Examinations read from whatever speaks of them, modalities by family, and whether two patients are one."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.dicom import Identifier, known_tag
from router.domain.examination import (
    ANOTHER_PATIENT,
    COMPANIONS,
    IDENTITY_UNSURE,
    MODALITIES,
    Code,
    Patient,
    examination,
    families,
    family,
    same_patient,
)
from router.domain.priors import IDENTITY
from router.domain.timing import parse_tm


def item(value: str, scheme: str = "", meaning: str = "", keyword: str = "CodeValue") -> Identifier:
    return Identifier.of(**{keyword: value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning})


def data_set(sequences: dict[str, list[Identifier]] | None = None, **values: Any) -> Identifier:
    elements = dict(Identifier.of(**values).elements)
    for keyword, items in (sequences or {}).items():
        elements[known_tag(keyword)] = tuple(items)
    return Identifier(elements)


def test_a_worklist_item_with_its_step_beside_it_is_read() -> None:
    found = examination(
        data_set(
            {
                "ScheduledProtocolCodeSequence": [item("P1", "99H", "MR Knie")],
                "RequestedProcedureCodeSequence": [item("R1", "99H", "MRT")],
            },
            PatientID=" 123 ",
            IssuerOfPatientID="HOSP",
            PatientBirthDate="19700102",
            PatientSex="f",
            AccessionNumber="A1",
            StudyInstanceUID="1.2",
            Modality="MR",
            ScheduledProcedureStepStartDate="20261201",
            ScheduledProcedureStepStartTime="0930",
            ScheduledProcedureStepDescription="Knie links",
            RequestedProcedureDescription="MRT Knie",
        )
    )
    assert found.patient == Patient("123", "HOSP", "19700102", "F")
    assert (found.study_instance_uid, found.accession_number) == ("1.2", "A1")
    assert (found.date, found.time) == (date(2026, 12, 1), parse_tm("0930"))
    assert found.modalities == ("MR",)
    assert found.descriptions == ("Knie links", "MRT Knie", "MR Knie", "MRT")
    assert found.codes == (Code("P1", "99H", "MR Knie"), Code("R1", "99H", "MRT"))


def test_a_match_of_a_query_is_read() -> None:
    identifier = data_set(
        {"ProcedureCodeSequence": [item("C", "99H")], "AnatomicRegionsInStudyCodeSequence": [item("69536005", "SCT")]},
        StudyDate="20250102",
        StudyTime="101112.5",
        ModalitiesInStudy=["CT", "sr", "CT"],
        StudyDescription="Kopf",
        NumberOfStudyRelatedInstances="12",
        InstanceAvailability="NEARLINE",
        BodyPartExamined=["head ", "HEAD", "Neck"],
    )
    found = examination(identifier)
    assert (found.date, found.time) == (date(2025, 1, 2), parse_tm("101112.5"))
    assert found.modalities == ("CT", "SR")
    assert found.descriptions == ("Kopf",)
    assert found.codes == (Code("C", "99H"),)
    assert found.regions == (Code("69536005", "SCT"),)
    assert found.body_parts == ("HEAD", "NECK")
    assert (found.instance_count, found.availability) == (12, "NEARLINE")
    assert found.attributes is identifier


def test_the_header_of_a_stored_object_is_read() -> None:
    found = examination(
        data_set(
            {"AnatomicRegionSequence": [item("T-D3000", "SRT")]},
            Modality="DX",
            StudyDate="2025.01.02",
            StudyDescription="Follow-up",
            SeriesDescription="pa",
            ProtocolName="Thorax",
        )
    )
    assert found.modalities == ("DX",)
    assert found.date == date(2025, 1, 2)
    assert found.descriptions == ("Follow-up", "pa", "Thorax")
    assert found.regions == (Code("T-D3000", "SRT"),)


def test_blank_and_malformed_values_count_as_absent() -> None:
    found = examination(
        data_set(
            {"ProcedureCodeSequence": [item("  ", "99H", "nothing"), Identifier()]},
            PatientID=" ",
            PatientBirthDate="1970",
            PatientSex="U",
            ModalitiesInStudy=[" ", "\0"],
            Modality="CT",
            StudyDate="20251301",
            ScheduledProcedureStepStartDate="20250102",
            StudyTime="10",
            StudyDescription=" \0",
            BodyPartExamined="",
            NumberOfStudyRelatedInstances="many",
        )
    )
    assert found.patient == Patient("")
    assert found.modalities == ("CT",)
    assert (found.date, found.time) == (date(2025, 1, 2), None)  # a time belongs to its own date
    assert (found.descriptions, found.codes, found.body_parts, found.instance_count) == ((), (), (), None)
    assert examination(Identifier()).date is None


@pytest.mark.parametrize("keyword", ["CodeValue", "LongCodeValue", "URNCodeValue"])
def test_a_code_is_read_whichever_attribute_holds_its_value(keyword: str) -> None:
    found = examination(data_set({"ProcedureCodeSequence": [item("C", "99H", keyword=keyword)]}))
    assert found.codes == (Code("C", "99H"),)


def test_modalities_are_compared_by_family_and_without_companions() -> None:
    assert family("CR") == family("DX") == family("RG") == family("XR") == "XR"
    assert family("CT") == "CT" and family("MG") == "MG"
    assert families(["CR", "SR", "CT"]) == {"XR", "CT"}
    assert families(["CR", "SR"], companions=True) == {"XR", "SR"}
    assert "OT" not in COMPANIONS and "OT" in MODALITIES and COMPANIONS < MODALITIES


BORN, OTHER = "19700102", "19800102"
PATIENTS = [
    # policy, current, candidate, what is said
    ("verified", Patient("1", "H"), Patient("1", "H"), ""),
    ("verified", Patient("1", "H"), Patient("1", " h "), ""),
    ("verified", Patient("1", "H&1.2&ISO"), Patient("1", "h^1.3^ISO"), ""),
    ("verified", Patient("1", "H", BORN, "F"), Patient("1", "H", OTHER, "M"), ""),
    ("verified", Patient("1", "H", BORN, "F"), Patient("1", "G", BORN, "F"), ANOTHER_PATIENT),
    ("verified", Patient("1", "H"), Patient("2", "H"), ANOTHER_PATIENT),
    ("verified", Patient("1", "H"), Patient("01", "H"), ANOTHER_PATIENT),
    ("verified", Patient("1"), Patient(""), ANOTHER_PATIENT),
    ("verified", Patient(""), Patient(""), ANOTHER_PATIENT),
    ("verified", Patient("1", "", BORN, "F"), Patient("1", "", BORN, "F"), ""),
    ("verified", Patient("1", "H", BORN, "F"), Patient("1", "", BORN, "F"), ""),
    ("verified", Patient("1", "", BORN, "F"), Patient("1", "H", BORN, "F"), ""),
    ("verified", Patient("1", "", BORN, "F"), Patient("1", "", OTHER, "F"), ANOTHER_PATIENT),
    ("verified", Patient("1", "", BORN, "F"), Patient("1", "", BORN, "M"), ANOTHER_PATIENT),
    ("verified", Patient("1", "", BORN, ""), Patient("1", "", OTHER, "F"), ANOTHER_PATIENT),
    ("verified", Patient("1", "", BORN, "F"), Patient("1", "", BORN, ""), IDENTITY_UNSURE),
    ("verified", Patient("1", "", "", "F"), Patient("1", "", BORN, "F"), IDENTITY_UNSURE),
    ("verified", Patient("1"), Patient("1", "H"), IDENTITY_UNSURE),
    ("patient-id", Patient("1"), Patient("1"), ""),
    ("patient-id", Patient("1"), Patient("1", "H"), ""),
    ("patient-id", Patient("1", "", BORN, "F"), Patient("1", "", BORN, "M"), ""),
    ("patient-id", Patient("1", "", BORN), Patient("1", "", OTHER), ANOTHER_PATIENT),
    ("patient-id", Patient("1", "H"), Patient("1", "G"), ANOTHER_PATIENT),
    ("patient-id", Patient("1", "H", BORN), Patient("1", "H", OTHER), ""),
    ("patient-id", Patient("1"), Patient("2"), ANOTHER_PATIENT),
]


@pytest.mark.parametrize(("policy", "current", "candidate", "said"), PATIENTS)
def test_two_patients_are_one_or_not(policy: str, current: Patient, candidate: Patient, said: str) -> None:
    assert same_patient(current, candidate, policy) == said


def test_former_ids_count_with_their_own_issuers() -> None:
    current = Patient("1", "H")
    asked = [("1", "H"), ("old", "G")]
    assert same_patient(current, Patient("old", "G"), "verified", asked) == ""
    assert same_patient(current, Patient("old", "H"), "verified", asked) == ANOTHER_PATIENT
    assert same_patient(current, Patient("older", "G"), "verified", asked) == ANOTHER_PATIENT


PEOPLE = st.builds(
    Patient,
    st.sampled_from(["1", "2", ""]),
    st.sampled_from(["", "H", "G"]),
    st.sampled_from(["", BORN, OTHER]),
    st.sampled_from(["", "F", "M"]),
)


@given(PEOPLE, PEOPLE)
def test_the_stricter_policy_never_takes_what_the_other_leaves(current: Patient, candidate: Patient) -> None:
    strict, lenient = (same_patient(current, candidate, policy) for policy in IDENTITY)
    assert strict or not lenient
    assert bool(strict) == bool(same_patient(candidate, current, IDENTITY[0]))
