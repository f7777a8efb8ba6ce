"""An object store with instances in it and their receipts in a ledger, without a network."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from router.domain.receipt import Receipt
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
PIXELS = 3000
"""Bytes of pixel data of each instance."""


def uids(study: int, series: int = 1, instance: int = 1) -> tuple[str, str, str]:
    """Study, Series and SOP Instance UID."""
    root = f"1.2.826.0.1.{study}"
    return root, f"{root}.{series}", f"{root}.{series}.{instance}"


def data_set(study: str, series: str, instance: str, *, name: str = "Doe^Jane") -> bytes:
    """A small instance in Explicit VR Little Endian, without a file's head."""
    dataset = Dataset()
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = instance
    dataset.PatientName = name
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = series
    dataset.add_new(0x7FE00010, "OB", bytes(PIXELS))
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, dataset)
    return stream.getvalue()


class Stored:
    """A store and what the ledger says of it."""

    def __init__(self, root: Path, ledger: SqlLedger) -> None:
        self.root = root
        self.ledger = ledger
        self._objects = ObjectStore(root, durability="rename")

    def put(
        self, study: int, series: int = 1, instance: int = 1, *, calling: str = "CT1", receipt: bool = True
    ) -> Receipt:
        """Store an instance as the Store SCP does; without `receipt` the ledger does not hear of it."""
        where = uids(study, series, instance)
        writer = self._objects.begin(
            sop_class_uid=CT, sop_instance_uid=where[2], transfer_syntax_uid=EXPLICIT, calling_ae_title=calling
        )
        try:
            writer.write(memoryview(data_set(*where)))
            stored = writer.commit()
        finally:
            writer.discard()
        if receipt:
            self.ledger.add_receipts([stored])
        return stored

    def file(self, receipt: Receipt) -> Path:
        """Where an instance is."""
        return self.root / receipt.path

    def close(self) -> None:
        """Give the store back."""
        self._objects.close()
