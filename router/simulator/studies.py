"""Synthetic studies: small, valid, deterministic; and the archive the demo runs on. No file, no clock, no chance."""

from __future__ import annotations

import uuid
from array import array
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

_NAMESPACE = uuid.UUID("6c9e3c0a-2f0b-5a3e-9b61-4d8a7d2c9f10")

SOP_CLASSES: Mapping[str, UID] = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "CR": ComputedRadiographyImageStorage,
    "US": UltrasoundImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "SR": BasicTextSRStorage,
    "OT": SecondaryCaptureImageStorage,
}

#: What the information object of a modality asks for beyond the modules all images share (PS3.3 annex A).
_MODALITY_ATTRIBUTES: Mapping[str, Mapping[str, object]] = {
    "CT": {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
        "KVP": "120",
        "PatientPosition": "HFS",
    },
    "MR": {
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "500",
        "EchoTime": "12",
        "EchoTrainLength": "1",
        "PatientPosition": "HFS",
    },
    "DX": {
        "ImageType": ["ORIGINAL", "PRIMARY", ""],
        "PresentationIntentType": "FOR PRESENTATION",
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": -1,
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "US",
        "PresentationLUTShape": "IDENTITY",
        "LossyImageCompression": "00",
        "BurnedInAnnotation": "NO",
        "ImageLaterality": "U",
        "DetectorType": "DIRECT",
        "ImagerPixelSpacing": ["0.2", "0.2"],
    },
}

SeriesPlan = tuple[str, str, int]
"""One series: modality, description, number of instances."""


def make_uid(*parts: object) -> UID:
    """A UID that depends on the parts alone, under 2.25 (PS3.5 annex B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}")


def make_study(
    *,
    seed: int | str,
    modality: str = "CT",
    description: str = "",
    patient_id: str = "PAT001",
    patient_name: str = "Sample^Patient",
    study_date: date | str = "20240102",
    study_time: str = "101500",
    accession: str = "",
    series: int | Sequence[SeriesPlan] = 1,
    instances: int = 5,
    body_part: str = "",
    patient_birth_date: str = "19600504",
    patient_sex: str = "O",
    character_set: str = "ISO_IR 100",
    rows: int = 64,
) -> list[Dataset]:
    """Make a study, one data set per instance, in Explicit VR Little Endian.

    The UIDs depend on the seed and the position alone: the same call with more instances or series returns a study
    that has grown, its earlier instances unchanged.

    `seed` is what UIDs and images derive from. `series` is how many series of the study's modality to make, with
    `instances` in each, or what each of them is. `rows` is height and width of the images in pixels.

    Raises:
        ValueError: a modality for which no SOP class is known.
    """
    plans = [(modality, f"Series {n}", instances) for n in range(1, series + 1)] if isinstance(series, int) else series
    common = Dataset()
    common.SpecificCharacterSet = character_set
    common.StudyInstanceUID = make_uid(seed)
    common.PatientID = patient_id
    common.PatientName = patient_name
    common.PatientBirthDate = patient_birth_date
    common.PatientSex = patient_sex
    common.StudyDate = study_date if isinstance(study_date, str) else study_date.strftime("%Y%m%d")
    common.StudyTime = study_time
    common.AccessionNumber = accession
    common.StudyID = "1"
    common.StudyDescription = description
    common.ReferringPhysicianName = ""
    return [
        _instance(common, seed, plan, series_number, number, body_part, rows)
        for series_number, plan in enumerate(plans, 1)
        for number in range(1, plan[2] + 1)
    ]


def _instance(
    common: Dataset, seed: int | str, plan: SeriesPlan, series_number: int, number: int, body_part: str, rows: int
) -> Dataset:
    modality, description, _ = plan
    if modality not in SOP_CLASSES:
        raise ValueError(f"no SOP class for modality {modality}; known: {', '.join(sorted(SOP_CLASSES))}")
    dataset = Dataset()
    dataset.update(common)
    dataset.SOPClassUID = SOP_CLASSES[modality]
    dataset.SOPInstanceUID = make_uid(seed, series_number, number)
    dataset.SeriesInstanceUID = make_uid(seed, series_number)
    dataset.Modality = modality
    dataset.SeriesNumber = str(series_number)
    dataset.SeriesDescription = description
    dataset.SeriesDate = dataset.ContentDate = common.StudyDate
    dataset.SeriesTime = dataset.ContentTime = common.StudyTime
    dataset.InstanceNumber = str(number)
    dataset.Manufacturer = "Simulated"
    dataset.ManufacturerModelName = "Simulated scanner"
    dataset.InstitutionName = "Simulated hospital"
    if body_part:
        dataset.BodyPartExamined = body_part
    if modality == "SR":
        _add_report(dataset)
    else:
        _add_image(dataset, seed, series_number, number, rows)
    for keyword, value in _MODALITY_ATTRIBUTES.get(modality, {}).items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _add_image(dataset: Dataset, seed: int | str, series_number: int, number: int, rows: int) -> None:
    dataset.FrameOfReferenceUID = make_uid(seed, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.ImagePositionPatient = ["0", "0", str(number * 2)]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.PixelSpacing = ["0.7", "0.7"]
    dataset.SliceThickness = "2"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = rows
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter = "1500"
    dataset.WindowWidth = "3000"
    # The disc moves from one instance to the next, so that no two images of a study are the same.
    shift = (series_number * 17 + number * 3) % rows * rows * 2
    disc = _disc(rows)
    dataset.PixelData = disc[shift:] + disc[:shift]


@lru_cache(maxsize=8)
def _disc(rows: int) -> bytes:
    """A bright disc with a gradient: 16 bits per pixel, 12 used, little endian."""
    centre = rows / 2
    values = array("H")
    for y in range(rows):
        for x in range(rows):
            distance = ((x - centre) ** 2 + (y - centre) ** 2) / centre**2
            values.append(max(40 + x, int(3000 * (1 - distance))) & 0x0FFF)
    if array("H", [1]).tobytes() != b"\x01\x00":
        values.byteswap()
    return values.tobytes()


def _add_report(dataset: Dataset) -> None:
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.PerformedProcedureCodeSequence = []
    dataset.ReferencedPerformedProcedureStepSequence = []
    title = Dataset()
    title.CodeValue = "18748-4"
    title.CodingSchemeDesignator = "LN"
    title.CodeMeaning = "Diagnostic imaging report"
    dataset.ConceptNameCodeSequence = [title]
    finding = Dataset()
    finding.CodeValue = "121071"
    finding.CodingSchemeDesignator = "DCM"
    finding.CodeMeaning = "Finding"
    text = Dataset()
    text.RelationshipType = "CONTAINS"
    text.ValueType = "TEXT"
    text.ConceptNameCodeSequence = [finding]
    text.TextValue = "No abnormality seen."
    dataset.ContentSequence = [text]


#: The demo's archive: days ago, modality, description, body part, patient (id, name), series.
_DEMO: Sequence[tuple[int, str, str, str, tuple[str, str], Sequence[SeriesPlan]]] = (
    (0, "CT", "CT Chest with contrast", "CHEST", ("D1001", "Almeida^Rosa"), [("CT", "Lung 2mm", 40), ("CT", "MPR", 8)]),
    (0, "CT", "CT Thorax low dose", "CHEST", ("D1002", "Berg^Anders"), [("CT", "Lung 1mm", 36)]),
    (0, "CT", "CT Abdomen/Pelvis", "ABDOMEN", ("D1003", "Castro^Elena"), [("CT", "Portal venous", 30)]),
    (0, "MR", "MR Brain", "BRAIN", ("D1004", "Dubois^Luc"), [("MR", "T1 ax", 12), ("MR", "T2 ax", 12)]),
    (0, "DX", "DX Chest PA/LAT", "CHEST", ("D1005", "Eriksen^Nora"), [("DX", "PA", 1), ("DX", "LAT", 1)]),
    (1, "CT", "CT HR chest", "CHEST", ("D1006", "Fürst^Jürgen"), [("CT", "HR lung", 32), ("SR", "Dose report", 1)]),
    (1, "CT", "CT Head", "HEAD", ("D1007", "Gomez^Pilar"), [("CT", "Brain 5mm", 20)]),
    (1, "MR", "MR Thorax", "CHEST", ("D1008", "Haddad^Samir"), [("MR", "HASTE", 15)]),
    (2, "CT", "CT Angio chest (PE)", "CHEST", ("D1009", "Ivanova^Anna"), [("CT", "Angio 1mm", 34)]),
    (2, "US", "US Abdomen", "ABDOMEN", ("D1010", "Jensen^Mads"), [("US", "Liver", 4)]),
    (5, "CT", "CT Chest follow-up", "CHEST", ("D1002", "Berg^Anders"), [("CT", "Lung 2mm", 30)]),
    (6, "MR", "MR Knee left", "KNEE", ("D1011", "Kowalski^Ewa"), [("MR", "PD fs", 10)]),
    (9, "CT", "CT Thorax", "CHEST", ("D1001", "Almeida^Rosa"), [("CT", "Lung 2mm", 24)]),
)


def demo_archive(today: date) -> list[Dataset]:
    """The demo's archive: 13 studies of the last ten days.

    A rule for CT with chest or thorax in the description, of today and the two days before, selects four of them (151
    instances); it leaves out CT of other regions, chest examinations of other modalities, and older chest CT.
    """
    return [
        dataset
        for number, (days_ago, modality, description, body_part, patient, series) in enumerate(_DEMO, 1)
        for dataset in make_study(
            seed=f"demo/{number}",
            modality=modality,
            description=description,
            patient_id=patient[0],
            patient_name=patient[1],
            study_date=today - timedelta(days=days_ago),
            study_time=f"{7 + number % 10:02d}{number * 7 % 60:02d}00",
            accession=f"A{20000 + number}",
            series=series,
            body_part=body_part,
        )
    ]
