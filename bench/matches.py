"""C-FIND matches at STUDY level as an archive gives them, each different: what the decoders and sweeps are fed with.

What differs from study to study or patient to patient in an archive does so here: nobody may gain by values that repeat
only in a benchmark.
"""

from __future__ import annotations

import contextlib
import gc
import struct
from collections.abc import Iterator

from router.domain.dicom import tag_of, vr_of

SYNTAXES = {True: "1.2.840.10008.1.2", False: "1.2.840.10008.1.2.1"}
"""Transfer syntax by `implicit`."""
MODALITIES = ("CT", "MR", "CT\\SR", "US", "CR")
DESCRIPTIONS = ("CT Thorax", "MR Head routine", "Chest CT low dose", "US Abdomen", "CR Chest PA")
_FAMILIES = ("Doe", "Miller", "Müller", "Okafor", "Tan", "O'Neill")
_GIVEN = ("Jane", "Anna Maria", "Jörg", "Chidi", "Wei Ling", "Sean")
_SYLLABLES = ("ba", "den", "kor", "li", "mar", "no", "sa", "tin", "ul", "wen")


@contextlib.contextmanager
def garbage_collected_as_in_the_service() -> Iterator[None]:
    """What `router.cli.run` sets, for the router and for what it is compared to in this process."""
    usual = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def study_instance_uid(number: int) -> str:
    """Of the match with this number."""
    return f"1.2.826.0.1.3680043.10.1001.20240115.{1_000_000 + number}"


def attributes(number: int) -> dict[str, str]:
    """The attributes of one match: what the router's study query asks back, and what archives add."""
    patient = number // 3
    return {
        "SpecificCharacterSet": "ISO_IR 100",
        "StudyDate": f"202401{number % 31 + 1:02}",
        "StudyTime": f"{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}.000000",
        "AccessionNumber": f"A{number:09}",
        "QueryRetrieveLevel": "STUDY",
        "RetrieveAETitle": "ARCHIVE",
        "ModalitiesInStudy": MODALITIES[number % len(MODALITIES)],
        "ReferringPhysicianName": "Referrer^Rita",
        "StudyDescription": DESCRIPTIONS[number % len(DESCRIPTIONS)],
        "PatientName": _name(patient),
        "PatientID": f"PID{patient:08}",
        "PatientBirthDate": f"19{patient % 90 + 10}{patient % 12 + 1:02}{patient % 28 + 1:02}",
        "PatientSex": "FM"[patient % 2],
        "StudyInstanceUID": study_instance_uid(number),
        "StudyID": f"S{number:07}",
        "NumberOfStudyRelatedSeries": str(number % 7 + 1),
        "NumberOfStudyRelatedInstances": str(instance_count(number)),
    }


def _name(patient: int) -> str:
    """Of this patient alone: `Doebaden^Jane`."""
    family, given = _FAMILIES[patient % len(_FAMILIES)], _GIVEN[patient // 6 % len(_GIVEN)]
    return family + "".join(_SYLLABLES[int(digit)] for digit in str(patient)) + "^" + given


def instance_count(number: int) -> int:
    """Number of Study Related Instances of a match."""
    return number % 400 + 10


def identifiers(count: int, *, implicit: bool) -> Iterator[bytes]:
    """So many matches, encoded."""
    tags = {keyword: tag for keyword in attributes(0) if (tag := tag_of(keyword)) is not None}
    order = sorted(tags, key=lambda keyword: tags[keyword])
    heads = {keyword: _head(tags[keyword], implicit) for keyword in order}
    length = struct.Struct("<L" if implicit else "<H").pack
    for number in range(count):
        values = attributes(number)
        parts = []
        for keyword in order:
            value = values[keyword].encode("latin-1")
            if len(value) % 2:
                value += b"\0" if keyword.endswith("UID") else b" "
            parts += [heads[keyword], length(len(value)), value]
        yield b"".join(parts)


def _head(tag: int, implicit: bool) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    return head if implicit else head + vr_of(tag).encode("ascii")
