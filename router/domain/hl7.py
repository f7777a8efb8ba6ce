"""HL7 messages about examinations to come, as values: the listener's settings, orders, and how they are answered.

HL7 version 2.3.1 to 2.5.1 as IHE Scheduled Workflow uses it; paths are `SEGMENT-FIELD[.COMPONENT[.SUBCOMPONENT]]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from router.domain.dicom import Identifier
from router.domain.triggers import ADMISSION_EVENTS, MERGE_EVENT, ORDER_EVENTS


class Hl7Path(NamedTuple):
    """Where in a message a value stands; numbers from 1, 0: not narrowed."""

    segment: str
    field: int
    component: int = 0
    subcomponent: int = 0


class Hl7Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The MLLP listener."""

    host: str = "0.0.0.0"
    port: int = 2575
    tls: bool = False
    """It speaks TLS only, mutual, with the files of `router.tls`."""
    allow: tuple[str, ...] = ()
    """Networks (`10.0.0.0/8`) or addresses from which connections are taken; empty: any."""
    senders: tuple[str, ...] = ()
    """Sending applications (MSH-3), or `APPLICATION|FACILITY`, whose messages are taken; empty: any."""
    timezone: str = "UTC"
    """Of times that bear no offset; where the configuration names none, that of the machine."""
    character_set: str = "utf-8"
    """Of messages whose MSH-18 names none; a Python codec."""
    maximum_size: int = 1 << 20
    """Bytes of one message."""
    messages_per_minute: int = 6000
    """Of one connection; what comes faster is read later."""
    connections: int = 32
    timeout: float = 30.0
    """Seconds in which a message that has begun must end."""
    idle: float = 3600.0
    """Seconds after which a connection without a message is closed."""
    fields: Mapping[str, tuple[Hl7Path, ...]] = {}
    """Attribute -> where its value stands, the first that is filled in counts; what is not named here is as usual."""


class Request(StrEnum):
    """What an order wants."""

    SCHEDULE = "schedule"
    """A new examination, or one that changed."""
    CANCEL = "cancel"


class OrderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One order of a message."""

    request: Request
    key: str
    """What makes it the same order again, within its sender; empty: nothing does."""
    examination: Identifier
    """The examination to come, by DICOM attributes: flat, as a worklist would say it, such as
    `ScheduledProcedureStepStartDate`, `Modality`, `RequestedProcedureCodeSequence`. Dates and times are local to
    `Hl7Settings.timezone`."""


class Merge(NamedTuple):
    """A patient ID gives way to another (ADT^A40). Issuers may be empty."""

    old_patient_id: str
    old_issuer: str
    patient_id: str
    issuer: str


class OrderMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message, read."""

    event: str
    """Such as `ORM^O01`."""
    application: str
    facility: str
    requests: tuple[OrderRequest, ...] = ()
    merges: tuple[Merge, ...] = ()

    @property
    def sender(self) -> str:
        """`APPLICATION|FACILITY`."""
        return f"{self.application}|{self.facility}"


ACCEPT, ERROR, REJECT = "AA", "AE", "AR"
"""Acknowledgement codes (MSA-1): durably queued (or nothing to do); wrong in its content; not taken (now)."""


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """How a message is answered. `reason` holds no value of the message."""

    code: str
    reason: str = ""
    condition: int = 0
    """HL7 table 0357, for ERR: 100 segment sequence, 101 required field missing, 102 data type, 200 unsupported message
    type, 201 unsupported event, 207 application internal error; 0: none."""
    word: str = "accepted"
    """Why, in one word of a finite set; see `WORDS`."""


WORDS = (
    *("accepted", "repeated", "ignored", "malformed", "missing-field", "unusable-value", "unsupported", "too-large"),
    *("not-allowed", "not-durable", "character-set", "incomplete", "too-many-connections", "tls"),
)
"""What became of a message, for metrics and logs."""


def takes(senders: tuple[str, ...], message: OrderMessage) -> bool:
    """Whether a list of senders holds the one of this message; the empty list holds all."""
    return not senders or message.application in senders or message.sender in senders


# --- What is read, as tables ------------------------------------------------------------------------------------------

EVENTS = (*ORDER_EVENTS, *ADMISSION_EVENTS, MERGE_EVENT)
"""The messages this router takes."""

OTHER_EVENT = "other"
"""Stands for all other messages: what they call themselves has no bound."""

ONLY_EVENTS = {"ORM": "O01", "OMI": "O23"}
"""Message types with one event, which old senders leave out."""

CONDITIONS = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    200: "Unsupported message type",
    201: "Unsupported event code",
    203: "Unsupported version id",
    207: "Application internal error",
}
"""HL7 table 0357, as far as this router says it."""

CHARACTER_SETS = {
    "ASCII": "ascii",
    "ISO IR6": "ascii",
    **{f"8859/{part}": f"iso8859-{part}" for part in (*range(1, 10), 15)},
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
    "ISO IR14": "shift_jis",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_2",
}
"""HL7 table 0211 -> Python codec. UTF-16 and UTF-32 cannot go over MLLP, whose frames end at a byte."""

CONTROLS = {
    **dict.fromkeys(("NW", "XO", "SC", "SN", "RP", "RO"), Request.SCHEDULE),
    **dict.fromkeys(("CA", "OC", "DC", "OD", "CR"), Request.CANCEL),
}
"""ORC-1 (HL7 table 0119) -> what it wants; all others want nothing of this router."""

STATUSES: dict[str, Request | None] = {"CA": Request.CANCEL, "DC": Request.CANCEL, "CM": None}
"""ORC-5 (HL7 table 0038) of an order that is scheduled -> what it wants instead: cancelled, discontinued, completed."""

APPOINTMENTS = {"S12": Request.SCHEDULE, "S13": Request.SCHEDULE, "S14": Request.SCHEDULE, "S15": Request.CANCEL}
"""Events of SIU -> what they want."""


def _paths(*texts: str) -> tuple[Hl7Path, ...]:
    return tuple(
        Hl7Path(segment, *map(int, place.split("."))) for segment, _, place in (text.partition("-") for text in texts)
    )


_PATIENT = {
    "PatientID": _paths("PID-3.1"),
    "IssuerOfPatientID": _paths("PID-3.4.1"),
    "PatientName": _paths("PID-5"),
    "PatientBirthDate": _paths("PID-7.1"),
    "PatientSex": _paths("PID-8.1"),
    "AdmissionID": _paths("PV1-19.1"),
    "CurrentPatientLocation": _paths("PV1-3"),
}
_ORDER = {
    **_PATIENT,
    "ReferringPhysicianName": _paths("PV1-8.2", "OBR-16.2"),
    "AccessionNumber": _paths("IPC-1.1", "OBR-18.1"),
    "RequestedProcedureID": _paths("IPC-2.1", "OBR-19.1"),
    "StudyInstanceUID": _paths("IPC-3.1", "ZDS-1.1"),
    "ScheduledProcedureStepID": _paths("IPC-4.1", "OBR-20.1"),
    "Modality": _paths("IPC-5.1", "OBR-24.1"),
    "RequestedProcedureCodeSequence": _paths("OBR-4.1", "OBR-4.4"),
    "RequestedProcedureDescription": _paths("OBR-4.2", "OBR-4.5", "OBR-44.2"),
    "ScheduledProtocolCodeSequence": _paths("IPC-6.1", "OBR-4.4"),
    "ScheduledProcedureStepStartDate": _paths("TQ1-7.1", "ORC-7.4", "OBR-27.4", "OBR-36.1"),
    "ScheduledStationAETitle": _paths("IPC-9.1"),
    "PlacerOrderNumberImagingServiceRequest": _paths("ORC-2.1", "OBR-2.1"),
    "FillerOrderNumberImagingServiceRequest": _paths("ORC-3.1", "OBR-3.1"),
}
FIELDS: Mapping[str, Mapping[str, tuple[Hl7Path, ...]]] = {
    "ORM": _ORDER,
    "OMI": _ORDER,
    "SIU": {
        **_PATIENT,
        "StudyInstanceUID": _paths("ZDS-1.1"),
        "RequestedProcedureCodeSequence": _paths("AIS-3.1", "AIS-3.4"),
        "RequestedProcedureDescription": _paths("AIS-3.2", "AIS-3.5"),
        "ScheduledProcedureStepStartDate": _paths("SCH-11.4", "TQ1-7.1", "AIS-4.1"),
    },
    "ADT": {**_PATIENT, "AdmittingDate": _paths("PV1-44.1", "EVN-2.1", "MSH-7.1")},
}
"""Message type -> attribute -> where its value stands, unless `Hl7Settings.fields` says otherwise.

A code begins at its component, two more follow; a timestamp is whole, its time goes to the attribute beside the date.
"""

_ORDER_KEYS = (
    ("accession", ("AccessionNumber", "ScheduledProcedureStepID")),
    *(("filler", (path,)) for path in _paths("ORC-3", "OBR-3")),
    *(("placer", (path,)) for path in _paths("ORC-2", "OBR-2")),
)
KEYS: Mapping[str, tuple[tuple[str, tuple[str | Hl7Path, ...]], ...]] = {
    "ORM": _ORDER_KEYS,
    "OMI": _ORDER_KEYS,
    "SIU": (
        *(("filler-appointment", (path,)) for path in _paths("SCH-2")),
        *(("placer-appointment", (path,)) for path in _paths("SCH-1")),
    ),
    "ADT": (("visit", ("AdmissionID",)), ("patient", ("AdmittingDate", "PatientID", "IssuerOfPatientID"))),
}
"""Message type -> what an order's key is made of: its kind, then attributes or places. The first whose first part is
filled in counts."""
