"""Audit messages (PS3.15 annex A) as values: settings, codes, participants, objects. Pure; `audit_xml` writes them.

They are the one thing of this router that holds patient IDs and Study Instance UIDs beside the ledger: they go to the
audit repository, and never into a log, a metric or a notification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

UDP, TLS = "udp", "tls"
"""How messages travel: RFC 5426 or RFC 5425."""

PORTS = {UDP: 514, TLS: 6514}
"""Where a syslog server listens unless `to` says otherwise (RFC 5426 section 3.3, RFC 5425 section 4.1)."""


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where audit messages go, and how."""

    host: str
    port: int
    transport: str = TLS
    ca: str = ""
    """Absolute path of a PEM file of the authorities that are trusted; empty: those of the system."""
    certificate: str = ""
    """Absolute path of the certificate that is shown; empty: none."""
    key: str = ""
    verify_hostname: bool = True
    site: str = ""
    """AuditEnterpriseSiteID; empty: left out."""
    facility: int = 10
    """The syslog facility, 10 is security/authorization (PS3.15 section A.6)."""
    buffer: int = 64 << 20
    """Bytes that may wait until they can be sent; then the oldest go."""


SUCCESS, MINOR, SERIOUS, MAJOR = 0, 4, 8, 12
"""EventOutcomeIndicator (PS3.15 section A.5.1.1)."""


UNKNOWN = "<none>"
"""Stands for what is not known and must be there: a Patient ID, a study whose files cannot be read, who somebody is."""


class Code(NamedTuple):
    """A coded value: `csd-code`, `codeSystemName`, `originalText`."""

    value: str
    scheme: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


APPLICATION_ACTIVITY = _dcm("110100", "Application Activity")
BEGIN_TRANSFERRING = _dcm("110102", "Begin Transferring DICOM Instances")
INSTANCES_TRANSFERRED = _dcm("110104", "DICOM Instances Transferred")
STUDY_DELETED = _dcm("110105", "DICOM Study Deleted")
EXPORT = _dcm("110106", "Export")
QUERY = _dcm("110112", "Query")
SECURITY_ALERT = _dcm("110113", "Security Alert")

APPLICATION_START = _dcm("110120", "Application Start")
APPLICATION_STOP = _dcm("110121", "Application Stop")
NODE_AUTHENTICATION = _dcm("110126", "Node Authentication")
SOFTWARE_CONFIGURATION = _dcm("110131", "Software Configuration")
USE_OF_RESTRICTED_FUNCTION = _dcm("110132", "Use of Restricted Function")
AUDIT_RECORDING_STOPPED = _dcm("110133", "Audit Recording Stopped")

APPLICATION = _dcm("110150", "Application")
DESTINATION = _dcm("110152", "Destination Role ID")
SOURCE = _dcm("110153", "Source Role ID")
DESTINATION_MEDIA = _dcm("110154", "Destination Media")

URI = _dcm("110037", "URI")
"""Of the media types (PS3.16 CID 405) what fits a directory."""

STUDY_INSTANCE_UID = _dcm("110180", "Study Instance UID")
SOP_CLASS_UID = _dcm("110181", "SOP Class UID")
NODE_ID = _dcm("110182", "Node ID")
PATIENT_NUMBER = Code("2", "RFC-3881", "Patient Number")


class Party(NamedTuple):
    """Somebody that takes part: this router, a node, or who only says to be one."""

    user_id: str
    """As the log calls it (PS3.15 section A.5.2.1): a node's name, this router's AE title."""
    ae_title: str = ""
    host: str = ""
    """Name or IP address; empty: not known."""


class Participant(msgspec.Struct, frozen=True, kw_only=True):
    """An ActiveParticipant."""

    party: Party
    requestor: bool
    roles: tuple[Code, ...] = ()
    media: Code | None = None
    """What kind of medium it is (MediaType), where it is one."""


class Counted(NamedTuple):
    """A SOPClass of a ParticipantObjectDescription: how many instances."""

    instances: int
    sop_class_uid: str = ""
    """Empty: of classes that are not told."""


MOST_CLASSES = 40
"""SOP classes that a message tells apart; no study has so many, unless somebody means it."""


def counted_by_class(classes: Mapping[str, int]) -> tuple[Counted, ...]:
    """Instances by SOP class, the most frequent first; the rest of very many classes together."""
    ranked = sorted(classes.items(), key=lambda one: (-one[1], one[0]))
    told = [Counted(count, uid) for uid, count in ranked[:MOST_CLASSES]]
    rest = sum(count for _, count in ranked[MOST_CLASSES:])
    return tuple([*told, Counted(rest)] if rest else told)


class ParticipantObject(msgspec.Struct, frozen=True, kw_only=True):
    """A ParticipantObjectIdentification. Of `name` and `query` the schema wants one: the query where there is one."""

    id: str
    id_type: Code
    type_code: int
    """1 person, 2 system object."""
    role: int | None = None
    """1 patient, 3 report, 13 security resource."""
    name: str = ""
    query: bytes | None = None
    details: tuple[tuple[str, str], ...] = ()
    """Pairs of type and value."""
    counted: tuple[Counted, ...] = ()
    """How many instances, by SOP class where that is known; empty: nobody said."""


class AuditMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An AuditMessage but for its time and source, which whoever sends it adds."""

    event: Code
    action: str
    """C create, R read, U update, D delete, E execute."""
    outcome: int = SUCCESS
    types: tuple[Code, ...] = ()
    description: str = ""
    """EventOutcomeDescription: why it failed, a sentence; empty: left out."""
    participants: tuple[Participant, ...]
    objects: tuple[ParticipantObject, ...] = ()
