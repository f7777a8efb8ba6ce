"""What the header of each stored instance says: private and nested attributes, and what is no header."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from router.domain.condition import Condition, Evaluation
from router.domain.dicom import Identifier, known_tag
from router.object_headers import MAXIMUM_VALUE, ObjectHeaders
from tests.support.fake_peers import FakeClock

PRIVATE = 0x00091002


def write(path: Path, syntax: str = ExplicitVRLittleEndian, **private: object) -> None:
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    data_set.Modality = "CT"
    data_set.ImageType = ["ORIGINAL", "PRIMARY"]
    item = Dataset()
    item.CodeValue = "T-D3000"
    data_set.AnatomicRegionSequence = Sequence([item])
    block = data_set.private_block(0x0009, "ACME 1", create=True)
    block.add_new(0x02, str(private.get("vr", "LO")), private.get("value", "yes"))
    data_set.PixelData = b"\0" * 64
    data_set["PixelData"].VR = "OW"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = syntax
    data_set.save_as(path, enforce_file_format=True)


def read(directory: Path, *tags: int) -> dict[str, Identifier]:
    names = sorted(path.name for path in directory.iterdir())
    return dict(ObjectHeaders(directory).each(names, tags or (PRIVATE, known_tag("Modality"))))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    "where",
    [
        {"Modality": "CT", "ImageType": "PRIMARY"},
        {"(0009,1002)": "yes"},
        {"AnatomicRegionSequence.CodeValue": "T-D3000"},
        {"not": {"(0009,1002)": "no"}},
    ],
)
def test_a_condition_finds_what_it_asks_for_in_the_header(
    tmp_path: Path, syntax: str, where: dict[str, object]
) -> None:
    write(tmp_path / "one.dcm", syntax)
    condition = Condition.of(where)
    header = read(tmp_path, *condition.attributes)["one.dcm"]
    now = FakeClock().now()
    assert condition.holds(header, Evaluation(now, now.tzinfo))  # type: ignore[arg-type]


def test_only_what_is_asked_for_is_there(tmp_path: Path) -> None:
    write(tmp_path / "one.dcm")
    assert read(tmp_path, known_tag("Modality"))["one.dcm"].elements == {known_tag("Modality"): ("CT",)}


def test_what_is_no_header_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "one.dcm")
    (tmp_path / "two.dcm").write_bytes(b"nothing of the kind")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "one.dcm")
    headers = ObjectHeaders(tmp_path)
    assert [path for path, _ in headers.each(["one.dcm", "two.dcm", "link.dcm", "gone.dcm"], [PRIVATE])] == ["one.dcm"]


def test_a_value_without_end_counts_as_absent_and_hides_no_other(tmp_path: Path) -> None:
    write(tmp_path / "one.dcm", vr="UT", value="x" * (MAXIMUM_VALUE + 2))
    assert read(tmp_path)["one.dcm"].elements == {known_tag("Modality"): ("CT",)}


def test_bytes_that_are_no_text_are_no_value(tmp_path: Path) -> None:
    write(tmp_path / "one.dcm", vr="UN", value=b"\x01\xff")
    write(tmp_path / "two.dcm", vr="UN", value=b"yes ")
    found = read(tmp_path)
    assert found["one.dcm"].elements[PRIVATE] == ()
    assert found["two.dcm"].elements[PRIVATE] == ("yes",)
