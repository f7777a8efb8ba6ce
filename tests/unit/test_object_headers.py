"""What stored files say of their study: real scans, files made to measure, and broken ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from router.domain.dicom import Identifier, known_tag
from router.domain.examination import Code, examination
from router.domain.prefetching import ATTRIBUTES
from router.object_headers import MAXIMUM_SERIES, ObjectHeaders
from tests.support.samples import RealFile, real_files


def item(**attributes: object) -> Dataset:
    data_set = Dataset()
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    return data_set


def write(root: Path, path: str, **attributes: object) -> str:
    """A small file with pixel data."""
    data_set = item(
        SOPClassUID=CTImageStorage,
        SOPInstanceUID=f"1.2.{abs(hash(path)) % 10**9}",
        StudyInstanceUID="1.1",
        SpecificCharacterSet="ISO_IR 192",
        Rows=1,
        Columns=2,
        BitsAllocated=8,
        PixelData=b"\0\0",
        **attributes,
    )
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set["PixelData"].VR = "OB"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    data_set.save_as(root / path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("file", real_files(), ids=lambda file: file.path.name)
def test_the_header_of_a_real_file_says_what_pydicom_reads(file: RealFile, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    shutil.copy(file.path, tmp_path / "s" / "1.dcm")
    found = ObjectHeaders(tmp_path).study(["s/1.dcm"])
    assert found is not None
    whole = dcmread(file.path, stop_before_pixels=True)
    for keyword in ("StudyInstanceUID", "PatientID", "StudyDate", "PatientSex", "AccessionNumber"):
        assert found.text(keyword) == str(whole.get(keyword) or "").strip(" \0"), keyword
    assert found.values("ModalitiesInStudy") == ((file.modality,) if file.modality else ())
    assert found.elements.keys() <= ATTRIBUTES
    assert known_tag("PixelData") not in found.elements
    read = examination(found)
    assert read.study_instance_uid == file.study_instance_uid
    assert str(whole.get("StudyDescription") or "").strip(" \0") in ("", *read.descriptions)


def test_sequences_are_read_with_their_items(tmp_path: Path) -> None:
    code = item(CodeValue="CTCHEST", CodingSchemeDesignator="99LOCAL", CodeMeaning="CT Chest")
    region = item(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Chest")
    path = write(
        tmp_path, "s/1", PatientID="P", ProcedureCodeSequence=[code], AnatomicRegionSequence=[region], Modality="CT"
    )
    found = ObjectHeaders(tmp_path).study([path])
    assert found is not None
    read = examination(found)
    assert read.codes == (Code("CTCHEST", "99LOCAL", "CT Chest"),)
    assert read.regions == (Code("51185008", "SCT", "Chest"),)


def test_sequences_that_nest_without_end_are_read_so_far_only(tmp_path: Path) -> None:
    inner = item(CodeValue="X")
    for _ in range(30):
        inner = item(CodeValue="X", ProcedureCodeSequence=[inner])
    found = ObjectHeaders(tmp_path).study([write(tmp_path, "s/1", ProcedureCodeSequence=[inner])])
    depth = 0
    while found is not None and found.values("ProcedureCodeSequence"):
        (only,) = found.values("ProcedureCodeSequence")
        assert isinstance(only, Identifier)
        found, depth = only, depth + 1
    assert 1 <= depth <= 5


def test_a_study_has_the_modalities_and_body_parts_of_all_its_series(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "a/1", PatientID="P", Modality="CT", BodyPartExamined="CHEST", SeriesDescription="first"),
        write(tmp_path, "b/1", PatientID="P", Modality="SR", SeriesDescription="second"),
        write(tmp_path, "c/1", PatientID="P", Modality="CT", BodyPartExamined="ABDOMEN"),
    ]
    found = ObjectHeaders(tmp_path).study(reversed(paths))
    assert found is not None
    assert found.values("ModalitiesInStudy") == found.values("Modality") == ("CT", "SR")
    assert found.values("BodyPartExamined") == ("CHEST", "ABDOMEN")
    assert found.text("SeriesDescription") == "first"


def test_what_is_blank_in_one_series_is_taken_from_another(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "a/1", PatientID="P", StudyDescription="", AccessionNumber=" "),
        write(tmp_path, "b/1", PatientID="P", StudyDescription="CT Chest", AccessionNumber="A1"),
    ]
    found = ObjectHeaders(tmp_path).study(paths)
    assert found is not None
    assert (found.text("StudyDescription"), found.text("AccessionNumber")) == ("CT Chest", "A1")


def test_names_come_in_the_characters_that_they_were_written_in(tmp_path: Path) -> None:
    found = ObjectHeaders(tmp_path).study([write(tmp_path, "s/1", PatientName="Müller^Jörg", StudyDescription="山")])
    assert found is not None
    assert (found.text("PatientName"), found.text("StudyDescription")) == ("Müller^Jörg", "山")


def test_a_patient_id_with_a_backslash_comes_as_several_values(tmp_path: Path) -> None:
    found = ObjectHeaders(tmp_path).study([write(tmp_path, "s/1", PatientID="A\\B")])
    assert found is not None
    assert found.values("PatientID") == ("A", "B")


def test_further_attributes_are_read_where_they_are_wanted(tmp_path: Path) -> None:
    headers, path = ObjectHeaders(tmp_path), write(tmp_path, "s/1", PatientID="P", Manufacturer="ACME")
    unasked, asked = headers.study([path]), headers.study([path], [known_tag("Manufacturer")])
    assert unasked is not None
    assert asked is not None
    assert (unasked.text("Manufacturer"), asked.text("Manufacturer")) == ("", "ACME")


def test_one_file_of_each_series_is_read_and_not_of_endlessly_many(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"{n:03}/1", Modality=f"M{n}") for n in range(MAXIMUM_SERIES + 3)]
    paths.append(write(tmp_path, "000/2", Modality="NOT"))
    found = ObjectHeaders(tmp_path).study(paths)
    assert found is not None
    assert found.values("ModalitiesInStudy") == tuple(f"M{n}" for n in range(MAXIMUM_SERIES))


@pytest.mark.parametrize("data", [b"", b"DICM", b"\0" * 128 + b"DICM", b"\xff" * 5000, b"not DICOM at all" * 100])
def test_a_broken_file_says_nothing_and_others_are_read_all_the_same(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_bytes(data)
    headers, good = ObjectHeaders(tmp_path), write(tmp_path, "b/1", PatientID="P")
    assert headers.study(["a/1"]) is None
    found = headers.study(["a/1", good])
    assert found is not None
    assert found.text("PatientID") == "P"


def test_files_that_are_gone_or_lead_elsewhere_say_nothing(tmp_path: Path) -> None:
    headers = ObjectHeaders(tmp_path)
    assert headers.study([]) is None
    assert headers.study(["s/gone"]) is None
    path = write(tmp_path, "s/1", PatientID="P")
    (tmp_path / "s" / "link").symlink_to(tmp_path / path)
    assert headers.study(["s/link"]) is None


@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_whatever_is_wrong_in_a_file_nothing_is_raised(tmp_path: Path, data: st.DataObject) -> None:
    code = item(CodeValue="CTCHEST", CodingSchemeDesignator="99LOCAL", CodeMeaning="CT Chest")
    path = write(tmp_path, "s/1", PatientID="P", PatientName="Ä^B", ProcedureCodeSequence=[code], StudyDate="20240101")
    whole = bytearray((tmp_path / path).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(132, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / path).write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    found = ObjectHeaders(tmp_path).study([path])
    if found is not None:
        examination(found)
