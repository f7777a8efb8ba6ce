"""An examination, to come or done, read from what speaks of it: worklist, order, C-FIND match, stored object. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import date
from typing import NamedTuple

import msgspec

from router.domain.dicom import Identifier
from router.domain.timing import Span, parse_da, parse_tm


class Code(NamedTuple):
    """A coded concept (PS3.3 section 8)."""

    value: str
    scheme: str = ""
    meaning: str = ""


class Patient(NamedTuple):
    """Who it is about."""

    patient_id: str
    issuer: str = ""
    birth_date: str = ""
    """`YYYYMMDD`; empty where not known or not a date."""
    sex: str = ""


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of a study for relevance. Texts and tuples are empty where nothing is known."""

    patient: Patient
    study_instance_uid: str = ""
    accession_number: str = ""
    date: date | None = None
    time: Span | None = None
    modalities: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    codes: tuple[Code, ...] = ()
    """Of the procedure: requested, protocol, performed."""
    regions: tuple[Code, ...] = ()
    """Anatomic regions."""
    body_parts: tuple[str, ...] = ()
    instance_count: int | None = None
    availability: str = ""
    attributes: Identifier
    """All that is known, for conditions."""


# --- What stands in a data set ----------------------------------------------------------------------------------------

_DESCRIPTIONS = (
    "ScheduledProcedureStepDescription",
    "RequestedProcedureDescription",
    "StudyDescription",
)
_LAST_DESCRIPTIONS = ("SeriesDescription", "ProtocolName")
_CODES = ("ScheduledProtocolCodeSequence", "RequestedProcedureCodeSequence", "ProcedureCodeSequence")
_REGIONS = ("AnatomicRegionsInStudyCodeSequence", "AnatomicRegionSequence")
_CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
_DATES = (("StudyDate", "StudyTime"), ("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"))
_SEXES = frozenset({"M", "F", "O"})
_PADDING = " \0\t\r\n"


def examination(identifier: Identifier) -> Examination:
    """Read a flat data set: a worklist item with its step beside it, an order, a C-FIND match, an object's header.

    Blank values count as absent. What a code of the procedure means counts as a description, after the study's own.
    """
    codes = tuple(code for name in _CODES for code in _codes(identifier, name))
    descriptions = [
        *(text for name in _DESCRIPTIONS for text in _texts(identifier, name)),
        *(code.meaning for code in codes if code.meaning),
        *(text for name in _LAST_DESCRIPTIONS for text in _texts(identifier, name)),
    ]
    day, time = _when(identifier)
    modalities = _texts(identifier, "ModalitiesInStudy") or _texts(identifier, "Modality")
    return Examination(
        patient=patient_of(identifier),
        study_instance_uid=_first(identifier, "StudyInstanceUID"),
        accession_number=_first(identifier, "AccessionNumber"),
        date=day,
        time=time,
        modalities=tuple(dict.fromkeys(text.upper() for text in modalities)),
        descriptions=tuple(dict.fromkeys(descriptions)),
        codes=codes,
        regions=tuple(code for name in _REGIONS for code in _codes(identifier, name)),
        body_parts=tuple(dict.fromkeys(text.upper() for text in _texts(identifier, "BodyPartExamined"))),
        instance_count=identifier.number("NumberOfStudyRelatedInstances"),
        availability=_first(identifier, "InstanceAvailability").upper(),
        attributes=identifier,
    )


def patient_of(identifier: Identifier) -> Patient:
    """Whom a data set is about."""
    born = parse_da(_first(identifier, "PatientBirthDate"))
    sex = _first(identifier, "PatientSex").upper()
    return Patient(
        patient_id=_first(identifier, "PatientID"),
        issuer=_first(identifier, "IssuerOfPatientID"),
        birth_date=born.isoformat().replace("-", "") if born else "",
        sex=sex if sex in _SEXES else "",
    )


def _texts(identifier: Identifier, name: str) -> list[str]:
    texts = (value.strip(_PADDING) for value in identifier.values(name) if isinstance(value, str))
    return [text for text in texts if text]


def _first(identifier: Identifier, name: str) -> str:
    return next(iter(_texts(identifier, name)), "")


def _codes(identifier: Identifier, name: str) -> list[Code]:
    """The items of a code sequence, with whichever of its three values they have (PS3.3 section 8.1)."""
    codes = []
    for item in identifier.values(name):
        if isinstance(item, Identifier):
            value = next((text for keyword in _CODE_VALUES if (text := _first(item, keyword))), "")
            if value:
                codes.append(Code(value, _first(item, "CodingSchemeDesignator"), _first(item, "CodeMeaning")))
    return codes


def _when(identifier: Identifier) -> tuple[date | None, Span | None]:
    for date_name, time_name in _DATES:
        day = parse_da(_first(identifier, date_name))
        if day is not None:
            return day, parse_tm(_first(identifier, time_name))
    return None, None


# --- Modalities -------------------------------------------------------------------------------------------------------

FAMILIES: dict[str, str] = {"CR": "XR", "DX": "XR", "RG": "XR"}
"""Modality -> its family, where several are one kind of examination. What is not named is its own."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPANIONS = _words(
    "ANN ASMT AU CTPROTOCOL DOC FID KO M3D PLAN PR REG RTDOSE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG "
    "SMR SR STAIN TEXTUREMAP XAPROTOCOL"
)
"""Modalities that go along with images and do not say what was examined."""

MODALITIES = COMPANIONS | _words(
    "AR BDUS BI BMD CFM CR CT DG DMS DX ECG EEG EMG EOG EPS ES GM HC HD IO IOL IVOCT IVUS KER LEN LS MG MR NM OAM OCT "
    "OP OPM OPT OPTBSV OPTENF OPV OSS OT POS PT PX RESP RF RG RTIMAGE SM SRF TG US VA XA XC XR"
)
"""Defined terms of Modality (PS3.3 section C.7.3.1.1.1), and `XR`: what may be printed; anything else is free text."""


def family(modality: str) -> str:
    """What a modality is compared by."""
    return FAMILIES.get(modality, modality)


def families(modalities: Iterable[str], *, companions: bool = False) -> frozenset[str]:
    """The families of these modalities; without `companions` only of those that are images of their own."""
    return frozenset(family(one) for one in modalities if companions or one not in COMPANIONS)


# --- Patients ---------------------------------------------------------------------------------------------------------

ANOTHER_PATIENT, IDENTITY_UNSURE = "another-patient", "identity-unsure"


def same_patient(current: Patient, candidate: Patient, policy: str, asked: Collection[tuple[str, str]] = ()) -> str:
    """Empty where both are one patient, else ANOTHER_PATIENT or IDENTITY_UNSURE. `policy`: a word of priors.IDENTITY.

    `asked` are the patient IDs with their issuers that were asked for, the current one and those it was known by
    before; none: the current one. The candidate's ID must be one of them exactly.

    Issuers that are known on both sides must agree, and then it is the same patient: an ID is given once by its
    issuer, so a birth date that differs was corrected since. Without an issuer an ID may be another hospital's:
    `verified` wants birth date and sex known on both sides and equal, `patient-id` is content if no birth date
    contradicts.
    """
    wanted = asked or ((current.patient_id, current.issuer),)
    issuers = {_issuer(issuer) for patient_id, issuer in wanted if patient_id == candidate.patient_id}
    if not candidate.patient_id or not issuers:
        return ANOTHER_PATIENT
    issuer = _issuer(candidate.issuer)
    if issuer and issuer in issuers:
        return ""
    if issuer and "" not in issuers:
        return ANOTHER_PATIENT
    pairs = [(current.birth_date, candidate.birth_date)]
    if policy == "verified":
        pairs.append((current.sex, candidate.sex))
    if any(ours and theirs and ours != theirs for ours, theirs in pairs):
        return ANOTHER_PATIENT
    return IDENTITY_UNSURE if policy == "verified" and not all(map(all, pairs)) else ""


def _issuer(text: str) -> str:
    """For comparison, the namespace of an issuer that came as HL7 HD, `NAME&UID&ISO` (or with `^`)."""
    return re.split(r"[\^&]", text, maxsplit=1)[0].strip().casefold()
