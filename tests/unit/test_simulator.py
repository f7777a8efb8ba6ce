"""The simulator's parts that open no socket: its studies, its matching, its record."""

from __future__ import annotations

import subprocess
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from router.simulator import Instance, Operation, Record, demo_archive, make_study
from router.simulator.encoding import Undecodable, decode, encode, undecodable
from router.simulator.matching import matches

TODAY = date(2026, 11, 24)


# --- Studies ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_study() -> None:
    one, other = (make_study(seed=7, instances=3) for _ in range(2))
    assert [encode(a, ExplicitVRLittleEndian) for a in one] == [encode(b, ExplicitVRLittleEndian) for b in other]
    assert make_study(seed=8)[0].StudyInstanceUID != one[0].StudyInstanceUID


def test_more_instances_of_the_same_seed_are_the_same_study_grown() -> None:
    small, large = make_study(seed=7, instances=3), make_study(seed=7, instances=5, series=2)
    assert {d.SOPInstanceUID for d in small} < {d.SOPInstanceUID for d in large}
    assert {d.StudyInstanceUID for d in small + large} == {small[0].StudyInstanceUID}
    assert len({d.SeriesInstanceUID for d in large}) == 2


def test_images_have_structure_and_differ() -> None:
    first, second = make_study(seed=1, instances=2)
    assert len(set(first.PixelData)) > 50
    assert first.PixelData != second.PixelData
    assert len(first.PixelData) == 64 * 64 * 2


@pytest.mark.parametrize("modality", ["CT", "MR", "DX", "CR", "US", "PT", "SR", "OT"])
def test_every_modality_is_a_file_that_dcmtk_reads(modality: str, tmp_path: Path) -> None:
    (dataset,) = make_study(seed=1, modality=modality, instances=1, patient_name="Fürst^Jürgen", body_part="CHEST")
    path = tmp_path / "one.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert dcmread(path).PatientName == "Fürst^Jürgen"
    dump = subprocess.run(["dcmdump", "-q", path], capture_output=True, timeout=60, check=False)
    assert (dump.returncode, dump.stderr) == (0, b"")
    assert all(len(uid) <= 64 for uid in (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID))


def test_a_modality_without_a_sop_class_is_named() -> None:
    with pytest.raises(ValueError, match="XX"):
        make_study(seed=1, modality="XX")


def test_the_demo_rule_selects_some_and_excludes_some() -> None:
    studies: dict[str, list[Dataset]] = {}
    for dataset in demo_archive(TODAY):
        studies.setdefault(dataset.StudyInstanceUID, []).append(dataset)
    recent = [s for s in studies.values() if s[0].StudyDate >= "20261122"]
    chest = [
        s
        for s in studies.values()
        if "chest" in s[0].StudyDescription.lower() or "thorax" in s[0].StudyDescription.lower()
    ]
    ct = [s for s in studies.values() if any(d.Modality == "CT" for d in s)]
    selected = [s for s in studies.values() if s in recent and s in chest and s in ct]
    assert len(studies) == 13
    assert (len(selected), sum(map(len, selected))) == (4, 151)
    # Each of the three conditions excludes something that meets the other two.
    assert [s for s in recent if s in chest and s not in ct]
    assert [s for s in recent if s in ct and s not in chest]
    assert [s for s in chest if s in ct and s not in recent]


# --- Matching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vr", "key", "value", "expected"),
    [
        ("LO", "", "anything", True),
        ("LO", "*", "", True),
        ("LO", "CT Chest", "CT Chest", True),
        ("LO", "CT chest", "CT Chest", False),
        ("LO", "CT*", "CT Chest", True),
        ("LO", "*hest", "CT Chest", True),
        ("LO", "C? Chest", "CT Chest", True),
        ("LO", "C?Chest", "CT Chest", False),
        ("LO", "a.c", "abc", False),
        ("LO", "x", "", False),
        ("PN", "doe^j*", "Doe^John", True),
        ("PN", "DOE^JOHN", "Doe^John^^^", True),
        ("PN", "Doe^John^^", "Doe^John", True),
        ("PN", "山田*", "Yamada^Tarou=山田^太郎", True),
        ("PN", "Roe*", "Doe^John", False),
        ("CS", "CT", ["CT", "SR"], True),
        ("CS", "MR", ["CT", "SR"], False),
        ("CS", ["MR", "CT"], ["CT", "SR"], True),
        ("UI", ["1.2.3", "1.2.4"], "1.2.4", True),
        ("UI", "1.2.3", "1.2.33", False),
        ("UI", "1.2.*", "1.2.3", False),
        ("DA", "20240102", "20240102", True),
        ("DA", "20240102", "20240103", False),
        ("DA", "20240101-20240103", "20240101", True),
        ("DA", "20240101-20240103", "20240103", True),
        ("DA", "20240101-20240103", "20240104", False),
        ("DA", "20240102-", "20240101", False),
        ("DA", "20240102-", "20290101", True),
        ("DA", "-20240102", "20240102", True),
        ("DA", "20240102", "2024.01.02", True),
        ("DA", "20240101-20240103", "", False),
        ("TM", "101500", "101500.25", True),
        ("TM", "1015", "101559", True),
        ("TM", "1015", "101600", False),
        ("TM", "10-11", "115959", True),
        ("TM", "1000-1015", "101530", True),
        ("TM", "-0959", "100000", False),
        ("DT", "2024010210-2024010211", "20240102113000", True),
        ("IS", "7", "07", True),
        ("IS", "7", "8", False),
        ("DS", "1.50", "1.5", True),
    ],
)
def test_matching(vr: str, key: object, value: object, *, expected: bool) -> None:
    tag = Tag(0x00091001)
    assert matches(DataElement(tag, vr, key), DataElement(tag, vr, value)) is expected


def test_several_values_are_literal_text_where_lists_are_not_matched() -> None:
    tag = Tag("ModalitiesInStudy")
    key, value = DataElement(tag, "CS", ["CT", "MR"]), DataElement(tag, "CS", ["CT"])
    assert matches(key, value)
    assert not matches(key, value, value_lists=False)


def test_a_missing_attribute_matches_universal_keys_only() -> None:
    tag = Tag("StudyDescription")
    assert matches(DataElement(tag, "LO", ""), None)
    assert not matches(DataElement(tag, "LO", "x"), None)


def test_a_sequence_matches_if_one_item_has_all_keys() -> None:
    def codes(*pairs: tuple[str, str]) -> DataElement:
        items = []
        for code, scheme in pairs:
            item = Dataset()
            item.CodeValue = code
            item.CodingSchemeDesignator = scheme
            items.append(item)
        return DataElement(Tag("ProcedureCodeSequence"), "SQ", items)

    stored = codes(("A", "99X"), ("B", "99Y"))
    assert matches(codes(("B", "99Y")), stored)
    assert not matches(codes(("A", "99Y")), stored)
    assert matches(codes(("A", "")), stored)
    assert matches(codes(("", "")), codes(("C", "D")))


# --- Bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit]
)
def test_spoilt_bytes_do_not_decode(transfer_syntax: object) -> None:
    with pytest.raises(Undecodable):
        decode(undecodable(transfer_syntax), transfer_syntax)  # type: ignore[arg-type]


def test_an_instance_is_re_encoded_between_uncompressed_transfer_syntaxes_only() -> None:
    instance = Instance.from_dataset(make_study(seed=1, instances=1)[0])
    implicit = instance.encoded_in(ImplicitVRLittleEndian)
    assert implicit is not None
    assert (
        decode(implicit, ImplicitVRLittleEndian).PixelData == decode(instance.encoded, ExplicitVRLittleEndian).PixelData
    )
    assert instance.encoded_in(ExplicitVRLittleEndian) is instance.encoded
    assert instance.encoded_in(JPEGBaseline8Bit) is None


# --- Record ----------------------------------------------------------------------------------------------------------


def test_the_record_keeps_order_and_final_status() -> None:
    record = Record()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    first = record.begin(Operation(kind="find", at=at, calling="A", association=1, message_id=1))
    record.begin(Operation(kind="echo", at=at, calling="B", association=2, message_id=2))
    assert [operation.status for operation in record] == [None, None]
    record.end(first, 0xA900)
    assert [(o.kind, o.status) for o in record] == [("find", 0xA900), ("echo", None)]
    assert record.wait_for("find", ended=True).calling == "A"
    with pytest.raises(TimeoutError):
        record.wait_for("echo", ended=True, timeout_seconds=0.01)
    record.clear()
    assert len(record) == 0
