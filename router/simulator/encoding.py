"""Data sets to bytes and back, without logging what they hold; and the texts of a query's keys.

The process-wide switches of pynetdicom and pydicom that the simulator needs are set here and nowhere else in it. They
are set on import because pynetdicom reads `LOG_HANDLER_LEVEL` whenever an association object is made.
"""

from __future__ import annotations

from io import BytesIO

from pydicom import config as pydicom_config
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import _config as pynetdicom_config

# pynetdicom writes whole identifiers, patient names included, to the log unless told otherwise.
pynetdicom_config.LOG_HANDLER_LEVEL = "none"
pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False
# pydicom's warnings about odd values quote the value.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE

#: Transfer syntaxes between which a data set is re-encoded by writing it again, with no image codec.
UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


class Undecodable(Exception):
    """The bytes are not a data set in the transfer syntax they came with."""


def encode(dataset: Dataset, transfer_syntax: UID, character_set: str | None = None) -> bytes:
    """The bytes of a data set, without file meta information.

    `character_set` is for text in a data set that does not say which one it uses.
    """
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax.is_implicit_VR
    buffer.is_little_endian = transfer_syntax.is_little_endian
    encodings = convert_encodings((character_set or "ISO_IR 6").split("\\"))
    write_dataset(buffer, dataset, parent_encoding=encodings)
    return buffer.getvalue()


def undecodable(transfer_syntax: UID) -> bytes:
    """Bytes that begin as a data set and break off inside the header of a sequence's item."""
    vr = b"" if transfer_syntax.is_implicit_VR else b"SQ\0\0"
    cut = b"\x08\x00\x40\x11" + vr + b"\xff\xff\xff\xff" + b"\xfe\xff"
    level = Dataset()
    level.QueryRetrieveLevel = "STUDY"
    return encode(level, transfer_syntax) + cut


def decode(encoded: bytes, transfer_syntax: UID) -> Dataset:
    """The data set in the bytes: its structure is read, its values when they are asked for.

    Raises:
        Undecodable: the bytes do not parse.
    """
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        raise Undecodable("deflated data sets are not read here")
    try:
        dataset = read_dataset(BytesIO(encoded), transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian)
    except Exception as error:
        # pydicom raises whatever its readers meet: EOFError, struct.error, ValueError, NotImplementedError...
        # None of their texts is kept: they may quote the value.
        raise Undecodable("the bytes do not parse") from error
    if encoded and (not dataset or min(dataset.keys()).group < 0x0008):
        raise Undecodable("the bytes are no data set")
    return dataset


def element_of(dataset: Dataset, keyword_or_tag: str | int) -> DataElement | None:
    """An element with its value read; None where it is missing or its value cannot be read."""
    try:
        return dataset.get(Tag(keyword_or_tag))
    except Exception:  # noqa: BLE001 - pydicom converts the value now, and raises what its readers meet
        return None


def text_of(dataset: Dataset, keyword_or_tag: str | int) -> str:
    """The values of an element as text, joined by backslashes; empty where there is none."""
    return "\\".join(texts(element_of(dataset, keyword_or_tag)))


def keyword_of(element: DataElement) -> str:
    """The keyword of an element, or `(gggg,eeee)` where it has none."""
    return element.keyword or f"({element.tag.group:04X},{element.tag.element:04X})"


def texts(element: DataElement | None) -> list[str]:
    """The values of an element as text, without padding; none for zero length and for sequences."""
    if element is None or element.VR == "SQ" or element.value is None:
        return []
    values = element.value if isinstance(element.value, (MultiValue, list)) else [element.value]
    found = [str(value).strip(" \0") for value in values if value is not None]
    return [] if found == [""] else found
