"""Sample objects: pydicom's own test files, which are real scans, and studies made to measure."""

from __future__ import annotations

import functools
import itertools
import uuid
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydicom
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from tests.support.part10 import dataset_bytes
from tests.support.process import run

__all__ = ["RealFile", "StudyFiles", "add_instance", "dataset_bytes", "make_study", "real_files", "settled_files"]


# --- pydicom's test files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RealFile:
    """One of pydicom's test files, with what a test may want to choose it by."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    patient_id: str
    modality: str
    number_of_frames: int
    specific_character_set: tuple[str, ...]
    has_pixel_data: bool

    @property
    def compressed(self) -> bool:
        """Whether its pixel data is encapsulated."""
        return bool(UID(self.transfer_syntax_uid).is_compressed)


@functools.cache
def real_files(*, deflated: bool = False, distinct: bool = True) -> tuple[RealFile, ...]:
    """Return pydicom's test files that are whole, consistent storage objects.

    They come in many encodings: all uncompressed transfer syntaxes, JPEG, JPEG-LS, JPEG 2000, RLE; with one frame, many
    or no image at all; in Latin, Greek, Arabic, Hebrew, Cyrillic, Japanese, Korean and Chinese character sets.

    Several files show the same instance in different encodings. With `distinct`, as an archive wants it, each SOP
    Instance UID comes once, in the encoding that adds most to the variety. Only files installed with pydicom are used,
    nothing is downloaded.

    DCMTK and Orthanc re-encode some of them when they send them (trailing padding, odd lengths, group lengths), even
    without a change of transfer syntax. Where a file that came over the wire is compared with its source byte for
    byte, use `settled_files`.
    """
    root = Path(pydicom.__file__).parent / "data"
    found = [file for path in sorted(root.rglob("*")) if path.is_file() and (file := _real_file(path)) is not None]
    found = [file for file in found if deflated or file.transfer_syntax_uid != DeflatedExplicitVRLittleEndian]
    if distinct:
        found = _one_of_each_instance(found)
    return tuple(sorted(found, key=lambda file: file.path))


def _one_of_each_instance(files: list[RealFile]) -> list[RealFile]:
    alternatives: dict[str, list[RealFile]] = {}
    for file in files:
        alternatives.setdefault(file.sop_instance_uid, []).append(file)
    used: Counter[str] = Counter()
    chosen = []
    # Those with a choice come last, so that they can take what the others leave out.
    for choice in sorted(alternatives.values(), key=len):
        file = min(choice, key=lambda file: (used[file.transfer_syntax_uid], -file.number_of_frames, file.path))
        used[file.transfer_syntax_uid] += 1
        chosen.append(file)
    return chosen


# Cut off on purpose, or wrong in ways that stop DCMTK and Orthanc: in the RLE doses even the UIDs have VR UN.
_BROKEN = {
    "MR_truncated.dcm",
    "rtplan_truncated.dcm",
    "badVR.dcm",
    "rtdose_rle.dcm",
    "rtdose_rle_1frame.dcm",
}


def settled_files(directory: Path) -> list[RealFile]:
    """Write DCMTK's own encoding of `real_files`, in the same transfer syntaxes, below the directory.

    DCMTK, and Orthanc which is built on it, send these exactly as they are, as long as the receiver accepts the
    transfer syntax: what arrives anywhere must equal them byte for byte.
    """
    settled = []
    for file in real_files():
        path = directory / f"{file.sop_instance_uid}.dcm"
        run(["dcmconv", "--quiet", "--group-length-remove", "--padding-off", file.path, path])
        settled.append(replace(file, path=path))
    return settled


def _real_file(path: Path) -> RealFile | None:
    if path.name in _BROKEN:
        return None
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(path)
        meta = dataset.file_meta
        needed = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
        if not all(dataset.get(keyword) for keyword in needed) or "TransferSyntaxUID" not in meta:
            return None
        if (dataset.SOPClassUID, dataset.SOPInstanceUID) != (
            meta.get("MediaStorageSOPClassUID"),
            meta.get("MediaStorageSOPInstanceUID"),
        ):
            return None
        character_set = dataset.get("SpecificCharacterSet") or ()
        return RealFile(
            path=path,
            sop_class_uid=str(dataset.SOPClassUID),
            sop_instance_uid=str(dataset.SOPInstanceUID),
            study_instance_uid=str(dataset.StudyInstanceUID),
            series_instance_uid=str(dataset.SeriesInstanceUID),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            patient_id=str(dataset.get("PatientID", "")),
            modality=str(dataset.get("Modality", "")),
            number_of_frames=int(dataset.get("NumberOfFrames") or 1),
            specific_character_set=(character_set,) if isinstance(character_set, str) else tuple(character_set),
            has_pixel_data="PixelData" in dataset,
        )


# --- Studies made to measure -----------------------------------------------------------------------------------------

_SOP_CLASSES = {
    "CR": ComputedRadiographyImageStorage,
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "OT": SecondaryCaptureImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "SR": EnhancedSRStorage,
    "US": UltrasoundImageStorage,
}
_MANUFACTURER = "dicom-router tests"


@dataclass
class StudyFiles:
    """A study on disk. `series` maps each Series Instance UID to its files in order of Instance Number."""

    directory: Path
    study_instance_uid: str
    modality: str
    template: Dataset = field(repr=False)
    series: dict[str, list[Path]] = field(default_factory=dict)
    sop_instance_uids: dict[Path, str] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """All files of the study."""
        return list(itertools.chain.from_iterable(self.series.values()))

    @property
    def instances(self) -> set[str]:
        """The SOP Instance UIDs of the study."""
        return set(self.sop_instance_uids.values())


def make_study(
    directory: Path,
    *,
    modality: str = "CT",
    description: str = "Thorax routine",
    patient_id: str = "TEST-0001",
    patient_name: str = "Doe^Jane",
    accession: str = "A0001",
    study_date: str = "20240102",
    study_time: str = "093000",
    series: int = 1,
    instances: int = 3,
    rows: int = 64,
    body_part: str | None = None,
    character_set: str | list[str] | None = None,
    uid_root: str | None = None,
) -> StudyFiles:
    """Write a study as Part 10 files in Explicit VR Little Endian, `instances` in each series, and say what it holds.

    The Study Instance UID is `uid_root`, by default a fresh one; series and instances count on below it. `rows` is the
    edge of the square 16 bit image: 64 gives 8 KB of pixels, 512 gives 512 KB. Modality SR gives reports without image.
    """
    root = uid_root or f"2.25.{uuid.uuid4().int}"
    template = _study_level(root, modality, description, patient_id, patient_name, accession, study_date, study_time)
    if character_set is not None:
        template.SpecificCharacterSet = character_set
    template.BodyPartExamined = body_part
    if modality == "SR":
        _add_report(template)
    else:
        _add_image(template, rows)
    study = StudyFiles(directory / root, root, modality, template)
    study.directory.mkdir(parents=True, exist_ok=True)
    for _ in range(series):
        add_series(study, instances)
    return study


def add_series(study: StudyFiles, instances: int = 1) -> list[Path]:
    """Add a series with so many instances to the study and return its files."""
    uid = f"{study.study_instance_uid}.{len(study.series) + 1}"
    study.series[uid] = []
    return [add_instance(study, uid) for _ in range(instances)]


def add_instance(study: StudyFiles, series_instance_uid: str | None = None) -> Path:
    """Add one instance to a series of the study, the last one by default, and return its file."""
    uid = series_instance_uid or list(study.series)[-1]
    files = study.series[uid]
    dataset = study.template
    dataset.SeriesInstanceUID = uid
    dataset.SeriesNumber = list(study.series).index(uid) + 1
    dataset.InstanceNumber = len(files) + 1
    dataset.SOPInstanceUID = f"{uid}.{len(files) + 1}"
    if "ImagePositionPatient" in dataset:
        dataset.ImagePositionPatient = [-160, -160, 5 * len(files)]
        dataset.SliceLocation = 5 * len(files)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    path = study.directory / f"{dataset.SeriesNumber:03}-{dataset.InstanceNumber:05}.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    files.append(path)
    study.sop_instance_uids[path] = str(dataset.SOPInstanceUID)
    return path


def _study_level(
    root: str,
    modality: str,
    description: str,
    patient_id: str,
    patient_name: str,
    accession: str,
    study_date: str,
    study_time: str,
) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = _SOP_CLASSES[modality]
    dataset.StudyInstanceUID = root
    dataset.Modality = modality
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = study_date
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = study_time
    dataset.StudyDescription = description
    dataset.SeriesDescription = f"{description} {modality}"
    dataset.StudyID = accession[-16:]
    dataset.AccessionNumber = accession
    dataset.PatientID = patient_id
    dataset.PatientName = patient_name
    dataset.PatientBirthDate = "19600504"
    dataset.PatientSex = "F"
    dataset.ReferringPhysicianName = "Referrer^Rita"
    dataset.InstitutionName = "General Hospital"
    dataset.StationName = f"{modality}1"
    dataset.Manufacturer = _MANUFACTURER
    return dataset


def _add_image(dataset: Dataset, rows: int) -> None:
    dataset.FrameOfReferenceUID = f"{dataset.StudyInstanceUID}.0"
    dataset.PositionReferenceIndicator = None
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [-160, -160, 0]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SliceThickness = 5
    dataset.SliceLocation = 0
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = rows
    dataset.PixelSpacing = [0.625, 0.625]
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept = -1024
    dataset.RescaleSlope = 1
    row = b"".join((column * 4095 // rows).to_bytes(2, "little") for column in range(rows))
    dataset.PixelData = row * rows
    dataset["PixelData"].VR = "OW"


def _add_report(dataset: Dataset) -> None:
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "18748-4", "LN", "Diagnostic imaging study"
    dataset.ValueType = "CONTAINER"
    dataset.ConceptNameCodeSequence = [title]
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.ContentSequence = []
