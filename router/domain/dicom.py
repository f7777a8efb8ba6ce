"""The standard's words as values: levels, information models, identifiers, sub-operation counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from functools import lru_cache
from typing import NamedTuple

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

MAXIMUM_UID_LENGTH = 64
_UID = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
_TAG = re.compile(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)\Z")


def is_uid(text: str) -> bool:
    """Whether the text is a UID this router will work with: digits and single dots, at most 64 characters.

    Leading zeros in a component are tolerated (PS3.5 section 9.1 forbids them, archives hold them).
    """
    return len(text) <= MAXIMUM_UID_LENGTH and _UID.match(text) is not None


class QueryRetrieveLevel(StrEnum):
    """Query/Retrieve Level (0008,0052), PS3.4 section C.6."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


class InformationModel(Enum):
    """Query/Retrieve Information Model, PS3.4 section C.6."""

    STUDY_ROOT = "study"
    PATIENT_ROOT = "patient"

    @property
    def find(self) -> str:
        """SOP Class UID of the FIND service."""
        return _SOP_CLASSES[self][0]

    @property
    def move(self) -> str:
        """SOP Class UID of the MOVE service."""
        return _SOP_CLASSES[self][1]

    @property
    def get(self) -> str:
        """SOP Class UID of the GET service."""
        return _SOP_CLASSES[self][2]


_SOP_CLASSES = {
    InformationModel.PATIENT_ROOT: tuple(f"1.2.840.10008.5.1.4.1.2.1.{n}" for n in (1, 2, 3)),
    InformationModel.STUDY_ROOT: tuple(f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 2, 3)),
}

VERIFICATION_SOP_CLASS = "1.2.840.10008.1.1"


@lru_cache(maxsize=4096)
def tag_of(name: str) -> int | None:
    """The tag of a DICOM keyword in exact case or of `(gggg,eeee)`; None where there is no such attribute."""
    match = _TAG.match(name)
    if match:
        return int(match[1], 16) << 16 | int(match[2], 16)
    return tag_for_keyword(name)


def known_tag(keyword: str) -> int:
    """The tag of a keyword that the dictionary surely has."""
    found = tag_of(keyword)
    assert found is not None
    return found


def filled_in(values: Sequence[object]) -> bool:
    """Whether these values of an attribute say anything: some archives send blanks."""
    return any(not isinstance(value, str) or value.strip(" \0") for value in values)


@lru_cache(maxsize=4096)
def name_of(tag: int) -> str:
    """The keyword of a tag, or `(gggg,eeee)` where the dictionary has none."""
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


@lru_cache(maxsize=4096)
def vr_of(tag: int) -> str:
    """The value representation of a tag; `UN` where the dictionary has none. Ambiguous ones give the first."""
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


class Identifier:
    """A C-FIND identifier or data set header as a flat map: tag -> values.

    A value is text (without padding) or, for a sequence, an Identifier per item. An attribute that is present with
    zero length has no values: `values()` is empty and `in` is true.
    """

    __slots__ = ("elements",)

    def __init__(self, elements: Mapping[int, tuple[str | Identifier, ...]] | None = None) -> None:
        self.elements: dict[int, tuple[str | Identifier, ...]] = dict(elements or {})

    @classmethod
    def of(cls, **attributes: str | int | list[str] | tuple[str, ...]) -> Identifier:
        """Make one from keywords; for tests and requests. Raises KeyError for an unknown keyword."""
        elements: dict[int, tuple[str | Identifier, ...]] = {}
        for keyword, value in attributes.items():
            tag = tag_for_keyword(keyword)
            if tag is None:
                raise KeyError(keyword)
            values = value if isinstance(value, (list, tuple)) else (str(value),)
            elements[tag] = tuple(v for v in values if v != "")
        return cls(elements)

    def __contains__(self, name: str) -> bool:
        return tag_of(name) in self.elements

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identifier) and self.elements == other.elements

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[int]:
        return iter(self.elements)

    def __repr__(self) -> str:  # no values: a repr ends in logs
        return f"Identifier({', '.join(name_of(tag) for tag in self.elements)})"

    def values(self, name: str) -> tuple[str | Identifier, ...]:
        """All values of an attribute by keyword; empty where absent or of zero length."""
        tag = tag_of(name)
        return self.elements.get(tag, ()) if tag is not None else ()

    def text(self, name: str) -> str:
        """The first text value, stripped; empty where there is none."""
        for value in self.values(name):
            return value.strip() if isinstance(value, str) else ""
        return ""

    def number(self, name: str) -> int | None:
        """The first value as a whole number; None where absent, empty or not a number (counts often are)."""
        text = self.text(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


class SubOperationCounts(NamedTuple):
    """The counters of a C-MOVE response (PS3.7 section 9.1.4); None where the response had none."""

    remaining: int | None = None
    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
