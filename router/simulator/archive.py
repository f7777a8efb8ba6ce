"""The instances a simulated PACS holds, and the patients, studies and series they form. No network here."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.dsutils import split_dataset

from .encoding import UNCOMPRESSED, Undecodable, decode, encode, text_of


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP instance: its bytes as they are stored, and the header read from them."""

    header: Dataset
    transfer_syntax: UID
    encoded: bytes
    sop_class: UID
    sop_instance: UID
    study: str
    series: str

    @classmethod
    def from_encoded(cls, encoded: bytes, transfer_syntax: UID) -> Instance:
        """Read the header from the bytes of a data set.

        Raises:
            Undecodable: the bytes do not parse, or a UID is missing.
        """
        header = decode(encoded, transfer_syntax)
        uids = [
            text_of(header, f"{name}UID") for name in ("SOPClass", "SOPInstance", "StudyInstance", "SeriesInstance")
        ]
        if not all(uids):
            raise Undecodable("a UID is missing")
        # The pixels stay in the bytes only.
        for tag in [tag for tag in header.keys() if tag.group == 0x7FE0]:  # noqa: SIM118 - iterating reads the values
            del header[tag]
        return cls(header, transfer_syntax, encoded, UID(uids[0]), UID(uids[1]), uids[2], uids[3])

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Instance:
        """Encode a data set in the transfer syntax of its file meta, else in Explicit VR Little Endian."""
        meta = getattr(dataset, "file_meta", None)
        transfer_syntax = meta.get("TransferSyntaxUID", ExplicitVRLittleEndian) if meta else ExplicitVRLittleEndian
        return cls.from_encoded(encode(dataset, transfer_syntax), transfer_syntax)

    @classmethod
    def from_file(cls, path: Path) -> Instance:
        """Take the data set of a DICOM file (PS3.10) byte for byte."""
        meta, offset = split_dataset(path)
        return cls.from_encoded(path.read_bytes()[offset:], meta.TransferSyntaxUID)

    def encoded_in(self, transfer_syntax: UID) -> bytes | None:
        """The bytes in another transfer syntax, or None where that takes an image codec."""
        if transfer_syntax == self.transfer_syntax:
            return self.encoded
        if transfer_syntax not in UNCOMPRESSED or self.transfer_syntax not in UNCOMPRESSED:
            return None
        return encode(decode(self.encoded, self.transfer_syntax), transfer_syntax)


@dataclass(slots=True)
class Series:
    """The instances of one series, by SOP Instance UID."""

    instances: dict[str, Instance] = field(default_factory=dict)

    @property
    def first(self) -> Instance:
        """The instance that speaks for the series."""
        return next(iter(self.instances.values()))


@dataclass(slots=True)
class Study:
    """The series of one study, by Series Instance UID."""

    series: dict[str, Series] = field(default_factory=dict)

    @property
    def first(self) -> Instance:
        """The instance that speaks for the study and its patient."""
        return next(iter(self.series.values())).first

    def instances(self) -> list[Instance]:
        """All instances of the study."""
        return [instance for series in self.series.values() for instance in series.instances.values()]


class Archive:
    """A thread-safe store of instances in memory. A second copy of an instance replaces the first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._studies: dict[str, Study] = {}

    def add(self, instances: Iterable[Instance]) -> None:
        """Add or replace instances."""
        for instance in instances:
            with self._lock:
                study = self._studies.setdefault(instance.study, Study())
                series = study.series.setdefault(instance.series, Series())
                series.instances[str(instance.sop_instance)] = instance

    def remove(self, study_uid: str) -> None:
        """Remove a study; one that is not there is no error."""
        with self._lock:
            self._studies.pop(study_uid, None)

    def studies(self) -> list[Study]:
        """A copy of what is there now: later changes do not show in it."""
        with self._lock:
            return [
                Study({uid: Series(dict(series.instances)) for uid, series in study.series.items()})
                for study in self._studies.values()
            ]

    def instances(self) -> tuple[Instance, ...]:
        """All instances."""
        with self._lock:
            return tuple(instance for study in self._studies.values() for instance in study.instances())

    def select(
        self,
        *,
        patient_id: str = "",
        studies: Sequence[str] = (),
        series: Sequence[str] = (),
        instances: Sequence[str] = (),
    ) -> list[Instance]:
        """The instances with these unique keys; an empty key matches all."""
        with self._lock:
            chosen = (
                [self._studies[uid] for uid in studies if uid in self._studies] if studies else self._studies.values()
            )
            return [
                instance
                for study in chosen
                for series_uid, one in study.series.items()
                if not series or series_uid in series
                for instance in one.instances.values()
                if (not instances or str(instance.sop_instance) in instances)
                and (not patient_id or text_of(instance.header, "PatientID") == patient_id)
            ]
