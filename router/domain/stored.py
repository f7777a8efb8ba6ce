"""What the object store holds, and what can be wrong with one of its files. Pure: the files are read elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from router.domain.header import Header
from router.domain.part10 import FileMeta
from router.domain.receipt import Receipt

CHECKSUM = "sha256"
"""Of the whole file, head included: what `sha256sum` prints."""


class StoredStudy(msgspec.Struct, frozen=True, kw_only=True):
    """A study of which the object store holds instances; `size` counts the bytes of their data sets."""

    study_instance_uid: str
    instances: int
    size: int
    first_received_at: datetime
    last_received_at: datetime
    calling_ae_titles: tuple[str, ...] = ()
    """Who stored it."""
    transfers: tuple[int, ...] = ()
    """Those under way to or from the store, the oldest first: they still need what it holds."""
    stores: tuple[str, ...] = ()
    """The names of the object stores that hold something of it, where more than one was ever known."""


class Amount(NamedTuple):
    """How much there is, by its receipts; `size` in bytes of data sets."""

    instances: int
    size: int


class Indexed(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt, and the checksum of its file where the file was read again since."""

    receipt: Receipt
    checksum: bytes | None


class Place(NamedTuple):
    """Where the store keeps an instance: its path is made of these, with `.dcm` at the end."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str

    @property
    def path(self) -> str:
        """Relative to the store's root."""
        return f"{self.study_instance_uid}/{self.series_instance_uid}/{self.sop_instance_uid}.dcm"


class FileSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a file of the store, read from its beginning to its end."""

    meta: FileMeta | None = None
    """None where it has no head of a DICOM file (PS3.10 section 7.1)."""
    header: Header | None = None
    """None where the UIDs of the data set cannot be read."""
    size: int = 0
    """Bytes of the data set."""
    cut_off: bool = False
    checksum: bytes = b""
    changed_at: datetime


class Fault(StrEnum):
    """What is wrong with an instance of the store, or with its export (the last two)."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    NOT_DICOM = "not-dicom"
    MISPLACED = "misplaced"
    CUT_OFF = "cut-off"
    SIZE = "size"
    HEAD = "head"
    CHECKSUM = "checksum"
    NO_RECEIPT = "no-receipt"
    TAKEN = "taken"
    MISWRITTEN = "miswritten"


MEANINGS: Mapping[Fault, str] = MappingProxyType(
    {
        Fault.MISSING: "The ledger has its receipt, but there is no such file.",
        Fault.UNREADABLE: "The file cannot be read: no permission, no plain file, or the disk reports an error.",
        Fault.NOT_DICOM: "The file does not begin as a DICOM file, or its data set cannot be read.",
        Fault.MISPLACED: "The UIDs in the file are not those of its path.",
        Fault.CUT_OFF: "The file ends within an element.",
        Fault.SIZE: "The data set has another size than when it was received.",
        Fault.HEAD: "The file has another SOP Class or transfer syntax than when it was received.",
        Fault.CHECKSUM: "The file holds other bytes than when it was first verified.",
        Fault.NO_RECEIPT: "The ledger has no receipt of the file; a service gives it one when it starts.",
        Fault.TAKEN: "The directory has another file of that name; it was left as it is.",
        Fault.MISWRITTEN: "What was written is not what was read; it was removed again.",
    }
)
"""Each fault as a sentence."""


class Finding(NamedTuple):
    """A fault, and where."""

    place: Place
    fault: Fault


def fault_of(seen: FileSeen, place: Place, known: Indexed | None) -> Fault | None:
    """What is wrong with a file, by its place and its receipt; the first of the faults in their order.

    A file without receipt that is whole is at fault for having none.
    """
    if seen.meta is None or seen.header is None:
        return Fault.NOT_DICOM
    header = seen.header
    inside = (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
    if inside != tuple(place) or seen.meta.sop_instance_uid != place.sop_instance_uid:
        return Fault.MISPLACED
    if seen.cut_off:
        return Fault.CUT_OFF
    if known is None:
        return Fault.NO_RECEIPT
    receipt = known.receipt
    if seen.size != receipt.size:
        return Fault.SIZE
    if (seen.meta.sop_class_uid, seen.meta.transfer_syntax_uid) != (receipt.sop_class_uid, receipt.transfer_syntax_uid):
        return Fault.HEAD
    if known.checksum is not None and known.checksum != seen.checksum:
        return Fault.CHECKSUM
    return None
