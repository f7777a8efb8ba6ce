"""What the standard says of attributes as keys: their level, which of them narrow a query, which identify a person.

PS3.4 section C.6, tables C.6-1 to C.6-5. An attribute that is in no table is allowed anywhere: archives differ.
"""

from __future__ import annotations

from router.domain.dicom import QueryRetrieveLevel, tag_of, vr_of

LEVELS = tuple(QueryRetrieveLevel)
"""From the top: PATIENT, STUDY, SERIES, IMAGE."""

_KEYS: dict[QueryRetrieveLevel, str] = {
    QueryRetrieveLevel.PATIENT: """
        PatientID PatientName IssuerOfPatientID IssuerOfPatientIDQualifiersSequence PatientBirthDate PatientBirthTime
        PatientSex OtherPatientIDs OtherPatientIDsSequence OtherPatientNames EthnicGroup PatientComments
        NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances""",
    QueryRetrieveLevel.STUDY: """
        StudyInstanceUID StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence StudyID StudyDescription
        ModalitiesInStudy SOPClassesInStudy AnatomicRegionsInStudyCodeSequence ReferringPhysicianName
        PhysiciansOfRecord NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription ProcedureCodeSequence PatientAge
        PatientSize PatientWeight Occupation AdditionalPatientHistory NumberOfStudyRelatedSeries
        NumberOfStudyRelatedInstances""",
    QueryRetrieveLevel.SERIES: """
        SeriesInstanceUID Modality SeriesNumber SeriesDescription SeriesDescriptionCodeSequence SeriesDate SeriesTime
        BodyPartExamined Laterality ProtocolName PerformingPhysicianName OperatorsName PatientPosition
        PerformedProcedureStepStartDate PerformedProcedureStepStartTime PerformedProcedureStepID
        PerformedProcedureStepDescription RequestAttributesSequence NumberOfSeriesRelatedInstances
        PresentationIntentType FrameOfReferenceUID""",
    QueryRetrieveLevel.IMAGE: """
        SOPInstanceUID SOPClassUID InstanceNumber AcquisitionNumber AcquisitionDate AcquisitionTime ContentDate
        ContentTime ImageType NumberOfFrames Rows Columns BitsAllocated SliceThickness SliceLocation ImageComments
        ConceptNameCodeSequence CompletionFlag VerificationFlag AvailableTransferSyntaxUID""",
}


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(tag for keyword in keywords.split() if (tag := tag_of(keyword)) is not None)


LEVEL_OF: dict[int, QueryRetrieveLevel] = {tag: level for level, names in _KEYS.items() for tag in _tags(names)}
"""The level at which an attribute is a key, by tag."""

SELECTIVE = _tags("StudyDate AccessionNumber PatientID PatientName StudyID StudyInstanceUID")
"""Keys at STUDY level that every archive must match (unique or required, table C.6-5) and that narrow a query.

Study Time is required too but never sent; the optional keys, Modalities in Study among them, an archive may ignore, and
then it answers with everything it has.
"""

SET_BY_ROUTER = {
    0x00080052: "the level of the sweep sets it",
    0x00080005: "it follows from the values of the other keys",
    0x00080201: "the time zone of the node is taken into account before the query is sent",
}
"""Attributes of a C-FIND identifier that no rule may give, with the reason."""

_IDENTIFYING = _tags("""
    AccessionNumber AdditionalPatientHistory AdmissionID ImageComments IssuerOfPatientID MedicalRecordLocator
    OtherPatientIDs OtherPatientIDsSequence PatientAddress PatientBirthDate PatientBirthTime PatientComments PatientID
    PatientTelephoneNumbers RequestedProcedureID ScheduledProcedureStepID StudyID""")


def level_of(tag: int) -> QueryRetrieveLevel | None:
    """The level of an attribute; None where no table names it."""
    return LEVEL_OF.get(tag)


def below(tag: int, level: QueryRetrieveLevel) -> bool:
    """Whether an attribute belongs to a lower level than this one: a query at this level does not know it."""
    own = LEVEL_OF.get(tag)
    return own is not None and LEVELS.index(own) > LEVELS.index(level)


def identifying(tag: int) -> bool:
    """Whether a value of the attribute could point to a person or a case: kept out of every stored text."""
    return tag in _IDENTIFYING or vr_of(tag) in ("PN", "UI")
