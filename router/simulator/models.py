"""The information models of Query/Retrieve: levels, unique keys, the attributes of each level (PS3.4 section C.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydicom.uid import UID

ALL_LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")

#: SOP class of each information model, Patient Root and Study Root, to its levels (PS3.4 section C.6).
FIND_MODELS: Mapping[UID, Sequence[str]] = {
    UID("1.2.840.10008.5.1.4.1.2.1.1"): ALL_LEVELS,
    UID("1.2.840.10008.5.1.4.1.2.2.1"): ALL_LEVELS[1:],
}
MOVE_MODELS: Mapping[UID, Sequence[str]] = {
    UID("1.2.840.10008.5.1.4.1.2.1.2"): ALL_LEVELS,
    UID("1.2.840.10008.5.1.4.1.2.2.2"): ALL_LEVELS[1:],
}
GET_MODELS: Mapping[UID, Sequence[str]] = {
    UID("1.2.840.10008.5.1.4.1.2.1.3"): ALL_LEVELS,
    UID("1.2.840.10008.5.1.4.1.2.2.3"): ALL_LEVELS[1:],
}

#: It has no levels (PS3.4 section K.6.1.2).
MODALITY_WORKLIST = UID("1.2.840.10008.5.1.4.31")

UNIQUE_KEYS: Mapping[str, str] = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}

#: The stored attributes of each level; at IMAGE level everything in the data set is one.
ATTRIBUTES: Mapping[str, frozenset[str]] = {
    "PATIENT": frozenset(
        [
            "PatientID",
            "PatientName",
            "IssuerOfPatientID",
            "PatientBirthDate",
            "PatientBirthTime",
            "PatientSex",
            "OtherPatientIDs",
            "OtherPatientNames",
            "OtherPatientIDsSequence",
            "EthnicGroup",
            "PatientComments",
        ]
    ),
    "STUDY": frozenset(
        [
            "StudyInstanceUID",
            "StudyDate",
            "StudyTime",
            "AccessionNumber",
            "IssuerOfAccessionNumberSequence",
            "StudyID",
            "StudyDescription",
            "ReferringPhysicianName",
            "NameOfPhysiciansReadingStudy",
            "PhysiciansOfRecord",
            "AdmittingDiagnosesDescription",
            "PatientAge",
            "PatientSize",
            "PatientWeight",
            "Occupation",
            "AdditionalPatientHistory",
            "ProcedureCodeSequence",
            "ReferencedStudySequence",
            "RequestingService",
        ]
    ),
    "SERIES": frozenset(
        [
            "SeriesInstanceUID",
            "Modality",
            "SeriesNumber",
            "SeriesDescription",
            "SeriesDate",
            "SeriesTime",
            "BodyPartExamined",
            "Laterality",
            "ProtocolName",
            "PatientPosition",
            "Manufacturer",
            "ManufacturerModelName",
            "StationName",
            "InstitutionName",
            "InstitutionalDepartmentName",
            "PerformingPhysicianName",
            "OperatorsName",
            "FrameOfReferenceUID",
            "RequestAttributesSequence",
            "PerformedProcedureStepStartDate",
            "PerformedProcedureStepStartTime",
            "PerformedProcedureStepID",
            "PerformedProcedureStepDescription",
            "SeriesDescriptionCodeSequence",
        ]
    ),
    "IMAGE": frozenset(),
}
