"""DCMTK's wlmscpfs: a modality worklist from a directory of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.support.dcmtk import Address
from tests.support.ports import free_port
from tests.support.process import Process

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"


def scheduled(
    accession: str,
    *,
    date: str,
    time: str = "100000",
    modality: str = "MR",
    station: str = "MR1",
    patient_id: str = "P1",
    patient_name: str = "Doe^Jane",
    description: str = "MR Knee",
    step_id: str = "1",
    status: str = "SCHEDULED",
    code: tuple[str, str, str] = ("MRKNEE", "99LOCAL", "MR Knee"),
    step: dict[str, Any] | None = None,
    **above: Any,
) -> Dataset:
    """An item of a worklist with one scheduled step. `step` and `above` set further attributes of both."""
    item = Dataset()
    item.SpecificCharacterSet = "ISO_IR 100"
    item.AccessionNumber = accession
    item.ReferringPhysicianName = "Who^Doctor"
    item.PatientName = patient_name
    item.PatientID = patient_id
    item.IssuerOfPatientID = "HOSPITAL"
    item.PatientBirthDate = "19700101"
    item.PatientSex = "F"
    item.StudyInstanceUID = generate_uid(entropy_srcs=[accession])
    item.RequestedProcedureDescription = description
    item.RequestedProcedureCodeSequence = [_code(*code)]
    item.AdmissionID = ""
    item.CurrentPatientLocation = "WARD 3"
    item.RequestedProcedureID = f"RP{accession}"
    item.RequestedProcedurePriority = "ROUTINE"
    one = Dataset()
    one.Modality = modality
    one.ScheduledStationAETitle = station
    one.ScheduledProcedureStepStartDate = date
    one.ScheduledProcedureStepStartTime = time
    one.ScheduledPerformingPhysicianName = "Per^Former"
    one.ScheduledProcedureStepDescription = description
    one.ScheduledProtocolCodeSequence = [_code(*code)]
    one.ScheduledProcedureStepID = step_id
    one.ScheduledStationName = "SCANNER"
    one.ScheduledProcedureStepLocation = "ROOM 1"
    one.ScheduledProcedureStepStatus = status
    for keyword, value in (step or {}).items():
        setattr(one, keyword, value)
    item.ScheduledProcedureStepSequence = [one]
    for keyword, value in above.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


class Wlmscpfs(Process):
    """DCMTK's wlmscpfs. What it answers is what lies in its directory when it is asked.

    `options` are added to its command line: `+xi` for implicit VR only, `--sleep-before 5`, `--refuse` and the like.
    """

    def __init__(self, directory: Path, *, ae_title: str = "RIS", options: tuple[str, ...] = ()) -> None:
        """Start it and wait until it listens."""
        self.ae_title = ae_title
        self.port = free_port()
        self.items = directory / "worklists" / ae_title
        self.items.mkdir(parents=True, exist_ok=True)
        (self.items / "lockfile").touch()
        command: list[str | Path] = [
            "wlmscpfs",
            "-v",
            "-dhl",
            "-csk",
            "-dfp",
            self.items.parent,
            *options,
            str(self.port),
        ]
        super().__init__(command, directory, name=f"wlmscpfs-{ae_title}")
        self.wait_until_listening(self.port)

    @property
    def address(self) -> Address:
        """Its AE title and port."""
        return Address(self.ae_title, self.port)

    def put(self, *items: Dataset) -> None:
        """Add items, or replace those of the same accession number and step."""
        for item in items:
            item.file_meta = FileMetaDataset()
            item.file_meta.MediaStorageSOPClassUID = UID(MODALITY_WORKLIST)
            item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            path = self._path(item.AccessionNumber, item.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID)
            whole = path.with_suffix(".new")
            item.save_as(whole, enforce_file_format=True)
            whole.replace(path)

    def remove(self, accession: str, step_id: str = "1") -> None:
        """Take an item away."""
        self._path(accession, step_id).unlink()

    def _path(self, accession: str, step_id: str) -> Path:
        return self.items / f"{accession}-{step_id}.wl"
