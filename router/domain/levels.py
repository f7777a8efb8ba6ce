"""What a query asks back at each Query/Retrieve level, and by which keys every SCP matches (PS3.4 section C.6)."""

from __future__ import annotations

from router.domain.attributes import level_of
from router.domain.dicom import QueryRetrieveLevel, tag_of


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(tag for keyword in keywords.split() if (tag := tag_of(keyword)) is not None)


RETURN_KEYS: dict[QueryRetrieveLevel, frozenset[int]] = {
    QueryRetrieveLevel.PATIENT: _tags("PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex"),
    QueryRetrieveLevel.STUDY: _tags(
        "StudyInstanceUID StudyDate StudyTime AccessionNumber PatientName PatientID StudyID ModalitiesInStudy "
        "StudyDescription NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances InstanceAvailability"
    ),
    QueryRetrieveLevel.SERIES: _tags(
        "SeriesInstanceUID Modality SeriesNumber NumberOfSeriesRelatedInstances InstanceAvailability"
    ),
    QueryRetrieveLevel.IMAGE: _tags("SOPInstanceUID SOPClassUID InstanceNumber"),
}
"""What is always asked back; archives exist that want Patient ID and Patient's Name to be there (empty)."""

MATCHED_BY_ALL = _tags(
    "StudyDate StudyTime AccessionNumber PatientName PatientID StudyID StudyInstanceUID Modality SeriesNumber "
    "SeriesInstanceUID InstanceNumber SOPInstanceUID"
)
"""Required and unique keys: an SCP must match by these, by others it may not (PS3.4 tables C.6-1 to C.6-5)."""


ONLINE, NEARLINE, OFFLINE, UNAVAILABLE = "ONLINE", "NEARLINE", "OFFLINE", "UNAVAILABLE"
"""Instance Availability (0008,0056), PS3.3 section C.4.23.1.1: of a study or series, that of its least available."""

AVAILABILITIES = frozenset({ONLINE, NEARLINE, OFFLINE, UNAVAILABLE})

NOT_TO_BE_HAD = frozenset({OFFLINE, UNAVAILABLE})
"""What a C-MOVE would fail for until somebody puts a medium in, or does not hold the instances any more."""


def asked_at(tag: int) -> QueryRetrieveLevel:
    """The level whose query carries a key: patient attributes go with STUDY (Study Root has them there)."""
    level = level_of(tag)
    return QueryRetrieveLevel.STUDY if level in (None, QueryRetrieveLevel.PATIENT) else level
