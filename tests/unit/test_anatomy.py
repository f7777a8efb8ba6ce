"""Anatomy: what of a study says where it was, the shipped table, and what a configuration makes of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr._snomed_dict import mapping as snomed

from router.config.anatomy import compile_anatomy, shipped
from router.config.diagnostics import Code
from router.config.document import MappingNode, Node, parse_document
from router.domain.anatomy import Anatomy, Region
from router.domain.dicom import Identifier, known_tag
from router.domain.examination import examination
from router.domain.pattern import regular_expression


def coded(keyword: str, *codes: str, meaning: str = "") -> dict[int, tuple[Identifier, ...]]:
    """A code sequence of `SCHEME:CODE`."""
    items = []
    for code in codes:
        scheme, _, value = code.rpartition(":")
        items.append(Identifier.of(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning))
    return {known_tag(keyword): tuple(items)}


def located(anatomy: Anatomy | None = None, *sequences: dict[int, tuple[Identifier, ...]], **values: Any) -> str:
    """Regions in order, and by what."""
    elements = dict(Identifier.of(**values).elements)
    for sequence in sequences:
        elements |= sequence
    found = (anatomy or shipped()).regions_of(examination(Identifier(elements)))
    return " ".join([*sorted(found.regions), f"({found.by})" if found.by else "(nothing)"])


DESCRIPTIONS = {
    # English
    "CT HEAD W/O CONTRAST": "head",
    "MRI Brain with and without contrast": "head",
    "CT Head^Routine": "head",
    "MR_BRAIN_STROKE": "head",
    "CT Sinuses": "face",
    "CT Orbits and IAC": "face head",
    "CT Neck Soft Tissue W": "neck",
    "US Thyroid": "neck",
    "US Carotid Duplex Bilateral": "neck",
    "MRI C-Spine wo": "cervical-spine",
    "XR Cervical Spine 3 views": "cervical-spine",
    "MR T SPINE": "thoracic-spine",
    "XR Thoracic Spine AP & LAT": "thoracic-spine",
    "MRI LUMBAR SPINE W/WO": "lumbar-spine",
    "XR L-Spine": "lumbar-spine",
    "XR Sacrum & Coccyx": "lumbar-spine",
    "MRI Whole Spine": "cervical-spine lumbar-spine thoracic-spine",
    "XR Spine": "cervical-spine lumbar-spine thoracic-spine",
    "Chest PA and Lateral": "chest",
    "CXR portable": "chest",
    "CT CHEST PE PROTOCOL": "chest",
    "CT chest wall mass": "chest",
    "XR ribs left": "chest",
    "CTA Thoracic Aorta": "chest",
    "CCTA with FFR": "heart",
    "CT CORONARY ANGIOGRAM": "heart",
    "Cardiac MRI stress perfusion": "heart",
    "MG Mammogram Screening Bilateral": "breast",
    "L CC mammo cranio-caudal": "breast",
    "US BREAST LT": "breast",
    "CT Abdomen/Pelvis W": "abdomen pelvis",
    "CT CAP": "abdomen chest pelvis",
    "CT Chest Abd Pelvis with contrast": "abdomen chest pelvis",
    "XR KUB": "abdomen pelvis",
    "MRCP": "abdomen",
    "US Renal": "abdomen",
    "MRI Liver": "abdomen",
    "US Gallbladder": "abdomen",
    "MRI Prostate multiparametric": "pelvis",
    "US Bladder": "pelvis",
    "US TESTES": "pelvis",
    "CT Stone Protocol": "abdomen pelvis",
    "CTA Aorta": "abdomen chest",
    "XR Right Hip 2 views": "hip",
    "XR femoral neck": "hip",
    "XR FEMUR LT": "thigh",
    "MRI Knee Left": "knee",
    "XR TIB/FIB R": "lower-leg",
    "XR ANKLE 3V RT": "ankle",
    "XR Foot Rt": "foot",
    "MR Shoulder RT": "shoulder",
    "XR humerus": "upper-arm",
    "XR ELBOW": "elbow",
    "XR Forearm": "forearm",
    "XR Wrist scaphoid": "wrist",
    "XR HAND LT": "hand",
    "DEXA bone density": "hip lumbar-spine",
    "NM Bone Scan Whole Body": "whole-body",
    "PET/CT skull base to mid-thigh": "whole-body",
    "PET CT Brain": "head",
    # German
    "CT Schädel nativ": "head",
    "cCT": "head",
    "MRT Schaedel mit KM": "head",
    "MR Hirn / Kopf": "head",
    "CT NNH": "face",
    "MRT Felsenbein": "head",
    "CT Hals": "neck",
    "Sono Schilddrüse": "neck",
    "HWS in 2 Ebenen": "cervical-spine",
    "BWS ap/seitl.": "thoracic-spine",
    "MRT LWS": "lumbar-spine",
    "MRT HWS/BWS": "cervical-spine thoracic-spine",
    "Lendenwirbelsäule": "lumbar-spine",
    "Wirbelsäulenganzaufnahme": "cervical-spine lumbar-spine thoracic-spine",
    "Röntgenthorax p.a.": "chest",
    "THORAX ap liegend": "chest",
    "CT Thorax/Abdomen": "abdomen chest",
    "CT Thorax Abdomen Becken": "abdomen chest pelvis",
    "Herz-MRT": "heart",
    "Koronar-CT": "heart",
    "MRT Brust bds.": "breast",
    "Mammographie beidseits": "breast",
    "Oberbauchsonographie": "abdomen",
    "CT Niere nativ": "abdomen",
    "MRT Gallenwege": "abdomen",
    "Beckenübersicht": "pelvis",
    "MRT Harnblase": "pelvis",
    "Hüfte rechts axial": "hip",
    "Kniegelenk links": "knee",
    "MRT Oberes Sprunggelenk re": "ankle",
    "Vorfuß": "foot",
    "Schulter li": "shoulder",
    "Ellenbogengelenk": "elbow",
    "Unterarm": "forearm",
    "Handgelenk": "wrist",
    "Hand rechts": "hand",
    "Unterschenkel": "lower-leg",
    "Skelettszintigraphie": "whole-body",
    # French
    "Scanner cérébral sans injection": "head",
    "IRM encéphale": "head",
    "TDM des sinus": "face",
    "TDM cou": "neck",
    "IRM rachis cervical": "cervical-spine",
    "Rachis dorsal F+P": "thoracic-spine",
    "IRM du rachis lombaire": "lumbar-spine",
    "Radio du thorax": "chest",
    "Scanner thoracique": "chest",
    "TDM TAP": "abdomen chest pelvis",
    "Scanner thoraco-abdomino-pelvien": "abdomen chest pelvis",
    "TDM abdomino-pelvienne": "abdomen pelvis",
    "Coroscanner": "heart",
    "Mammographie bilatérale": "breast",
    "IRM des seins": "breast",
    "Échographie hépatique": "abdomen",
    "Bassin de face": "pelvis",
    "Colonne lombaire": "lumbar-spine",
    "ARM cérébrale": "head",
    "Radio hanche gauche": "hip",
    "IRM genou droit": "knee",
    "Radio cheville": "ankle",
    "Pied gauche": "foot",
    "Épaule droite": "shoulder",
    "Avant-bras": "forearm",
    "Radio poignet et main": "hand wrist",
    # Spanish
    "TC craneal sin contraste": "head",
    "RM cerebral": "head",
    "TC de cráneo": "head",
    "TC senos paranasales": "face",
    "TC cuello": "neck",
    "Ecografía cervical": "cervical-spine neck",
    "RM columna cervical": "cervical-spine",
    "RM columna dorsal": "thoracic-spine",
    "RX columna lumbar AP y L": "lumbar-spine",
    "RX tórax PA": "chest",
    "TC torácico": "chest",
    "TC toracoabdominopélvico": "abdomen chest pelvis",
    "RM corazón": "heart",
    "Mamografía": "breast",
    "Ecografía abdominal": "abdomen",
    "RM hígado": "abdomen",
    "TC pelvis ósea": "pelvis",
    "RX cadera derecha": "hip",
    "RM rodilla izquierda": "knee",
    "RX tobillo": "ankle",
    "RX pie": "foot",
    "RX hombro": "shoulder",
    "RX muñeca": "wrist",
    "RX mano": "hand",
    "RX codo": "elbow",
    "Gammagrafía ósea": "whole-body",
    # Nothing to go by
    "Screening": "",
    "Coronal reformats": "",
    "Routine AP and lateral": "",
    "Joint tap": "",
}


@pytest.mark.parametrize(("description", "regions"), DESCRIPTIONS.items())
def test_the_shipped_table_reads_descriptions(description: str, regions: str) -> None:
    assert located(StudyDescription=description) == (f"{regions} (description)" if regions else "(nothing)")


def test_only_the_first_256_characters_of_a_description_are_looked_at() -> None:
    assert located(StudyDescription="x " * 127 + "knee") == "(nothing)"  # cut off within the word
    assert located(StudyDescription="x " * 126 + "knee") == "knee (description)"


@pytest.mark.parametrize(
    ("body_part", "regions"),
    [
        ("CHEST", "chest"),
        ("LSPINE", "lumbar-spine"),
        ("CTSPINE", "cervical-spine thoracic-spine"),
        ("TLSPINE", "lumbar-spine thoracic-spine"),
        ("SPINE", "cervical-spine lumbar-spine thoracic-spine"),
        ("HEADNECK", "head neck"),
        ("ABDOMENPELVIS", "abdomen pelvis"),
        ("CHESTABDOMEN", "abdomen chest"),
        ("CHESTABDPELVIS", "abdomen chest pelvis"),
        ("NECKCHESTABDPELV", "abdomen chest neck pelvis"),
        ("chest abdomen", "abdomen chest"),
        ("WHOLEBODY", "whole-body"),
    ],
)
def test_body_part_examined_names_regions_the_combined_ones_each_of_theirs(body_part: str, regions: str) -> None:
    assert located(BodyPartExamined=body_part) == f"{regions} (body-part)"


def test_every_body_part_of_a_study_counts() -> None:
    assert located(BodyPartExamined=["KNEE", "EXTREMITY", "HIP"]) == "hip knee (body-part)"
    assert located(BodyPartExamined="EXTREMITY") == "(nothing)"


TABLE = Anatomy(
    regions={
        "a": Region(name="a", codes=frozenset({"99x:K1", "BOTH"}), near=frozenset({"b"})),
        "b": Region(name="b", description=(re.compile("bee"),), codes=frozenset({"BOTH"})),
        "c": Region(name="c", regions=frozenset({"SCT:3"})),
        "d": Region(name="d", body_part=frozenset({"DEE"}), near=frozenset({"a"})),
    }
)


def test_codes_go_before_descriptions_these_before_regions_and_those_before_body_parts() -> None:
    values: dict[str, Any] = {"StudyDescription": "bee", "BodyPartExamined": "DEE"}
    codes = coded("ProcedureCodeSequence", "99X:K1")
    region = coded("AnatomicRegionSequence", "SCT:3")
    assert located(TABLE, codes, region, **values) == "a (code)"
    assert located(TABLE, region, **values) == "b (description)"
    assert located(TABLE, region, BodyPartExamined="DEE") == "c (region)"
    assert located(TABLE, BodyPartExamined="DEE") == "d (body-part)"
    assert located(TABLE) == "(nothing)"


def test_what_says_nothing_is_passed_over() -> None:
    codes = coded("ProcedureCodeSequence", "99X:other")
    assert located(TABLE, codes, StudyDescription="?", BodyPartExamined="DEE") == "d (body-part)"


@pytest.mark.parametrize(
    ("codes", "found"),
    [
        (["99X:K1"], "a (code)"),
        (["99x:K1"], "a (code)"),
        (["99Y:K1"], "(nothing)"),
        ([":K1"], "(nothing)"),
        (["ANY:BOTH"], "a b (code)"),
        ([":BOTH"], "a b (code)"),
        (["99X:k1"], "(nothing)"),
        (["99X:K2", "99X:K1"], "a (code)"),
    ],
)
def test_a_code_with_a_scheme_wants_that_scheme_and_one_without_takes_any(codes: list[str], found: str) -> None:
    assert located(TABLE, coded("RequestedProcedureCodeSequence", *codes)) == found


def test_the_first_description_that_says_anything_counts() -> None:
    step = {"ScheduledProcedureStepDescription": "MRI knee", "RequestedProcedureDescription": "MRI hip and knee"}
    assert located(None, **step) == "knee (description)"
    assert located(StudyDescription="Follow-up", SeriesDescription="Knee ax") == "knee (description)"
    code = coded("RequestedProcedureCodeSequence", "99H:1234", meaning="MR Knie")
    assert located(None, code) == "knee (description)"


def test_being_near_holds_both_ways() -> None:
    assert TABLE.near(frozenset("a")) == {"b", "d"}
    assert TABLE.near(frozenset("b")) == {"a"}
    assert TABLE.near(frozenset("cd")) == {"a"}
    assert TABLE.near(frozenset()) == frozenset()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lumbar-spine", "abdomen"),
        ("lumbar-spine", "pelvis"),
        ("hip", "pelvis"),
        ("chest", "heart"),
        ("chest", "thoracic-spine"),
        ("neck", "cervical-spine"),
        ("knee", "thigh"),
    ],
)
def test_the_shipped_table_knows_neighbours(one: str, other: str) -> None:
    assert other in shipped().near(frozenset({one}))
    assert one in shipped().near(frozenset({other}))


def test_the_shipped_table_is_sound() -> None:
    regions = shipped().regions
    assert shipped().near(frozenset({"whole-body"})) == set(regions) - {"whole-body"}
    for name, region in regions.items():
        assert region.near <= set(regions) - {name}
        assert region.description and region.regions and region.body_part
        for pattern in region.description:
            regular_expression(pattern.pattern, caseless=True)  # raises for what could take for ever


def test_codes_of_older_objects_stand_beside_those_of_snomed_ct() -> None:
    for region in shipped().regions.values():
        pairs = {(scheme, code) for scheme, _, code in (text.partition(":") for text in region.regions)}
        for scheme, code in pairs:
            other = {"SCT": "SRT", "SRT": "SCT"}[scheme]
            assert code not in snomed[scheme] or (other, snomed[scheme][code]) in pairs


@given(st.text(max_size=300))
def test_any_description_is_read(text: str) -> None:
    found = shipped().regions_of(examination(Identifier.of(StudyDescription=text)))
    assert found.regions <= set(shipped().regions)


# --- The section of a configuration -----------------------------------------------------------------------------------


def compiled(text: str) -> tuple[Anatomy, list[str]]:
    """The table, and what was reported: place, code, message, hint."""
    root, _ = parse_document(text.encode(), "a.yaml")
    assert isinstance(root, MappingNode)
    findings: list[str] = []

    def report(place: Node, code: Code, message: str, hint: str = "", *, warning: bool = False) -> None:
        findings.append(f"{place.line}:{place.column} {code} {message} ({hint})")

    return compile_anatomy(root, report), findings


def test_without_a_section_the_shipped_table_holds() -> None:
    assert compiled("{}") == (shipped(), [])


def test_a_section_adds_to_a_region() -> None:
    table, findings = compiled("knee: {codes: ['99H:KN'], description: ['\\bKNX'], body_part: [KNEE_L], near: [hand]}")
    assert findings == []
    assert located(table, coded("ProcedureCodeSequence", "99H:KN")) == "knee (code)"
    assert (
        located(table, StudyDescription="knx 2 views")
        == located(table, StudyDescription="Knee")
        == "knee (description)"
    )
    assert located(table, BodyPartExamined="KNEE L") == "knee (body-part)"
    assert table.near(frozenset({"knee"})) == {"hand", "thigh", "lower-leg", "whole-body"}


def test_a_section_replaces_a_region() -> None:
    table, findings = compiled("knee: {description: [kniegelenk], replace: true}")
    assert findings == []
    assert located(table, StudyDescription="Kniegelenk") == "knee (description)"
    assert located(table, StudyDescription="MRI knee", BodyPartExamined="KNEE") == "(nothing)"


def test_a_section_that_says_not_to_replace_adds() -> None:
    table, findings = compiled("knee: {description: [kniegelenk], replace: false}")
    assert findings == []
    assert located(table, StudyDescription="MRI knee") == "knee (description)"


def test_a_section_adds_a_region() -> None:
    table, findings = compiled(
        "spine: {description: [columna], regions: ['SCT:1'], near: [abdomen, spine2]}\nspine2: {}"
    )
    assert findings == []
    assert located(table, coded("AnatomicRegionSequence", "SCT:1")) == "spine (region)"
    assert "spine" in table.near(frozenset({"abdomen"}))


def test_mistakes_of_a_section_are_reported_where_they_stand() -> None:
    _, findings = compiled("""
spine:
  description: [ok, "(a+)+b", "("]
  near: [abdomn, spine, xyzzy]
same: {}
""")
    assert sorted(one.partition(" a")[0] for one in findings) == [
        "3:21 DR033",
        "3:31 DR033",
        "4:10 DR014",
        "4:18 DR014",
        "4:25 DR014",
        "5:1 DR021",
    ]
    text = "\n".join(findings)
    assert "5:1 DR021 a region cannot be called same" in text
    assert "there is no region 'abdomn' (did you mean abdomen?)" in text
    assert "a region is no neighbour of itself" in text
    assert "regions are head, face" in text
