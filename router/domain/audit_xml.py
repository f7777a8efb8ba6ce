"""Audit messages as bytes: the XML of PS3.15 section A.5.1 in a syslog message (RFC 5424, PS3.15 section A.6). Pure."""

from __future__ import annotations

import base64
import ipaddress
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from router.domain.audit import SUCCESS, UNKNOWN, AuditMessage, Code, Participant, ParticipantObject, Party

MSGID = "DICOM+RFC3881"
APP_NAME = "dicom-router"
NOTICE, WARNING = 5, 4
"""Severities (PS3.15 section A.6)."""
MAXIMUM_TEXT = 250
"""Characters of one value, at most: with it and the bound on queries a message cannot outgrow 32 KiB."""

_APPLICATION_SERVER = "4"
"""AuditSourceTypeCode (PS3.15 section A.5.1.2.1)."""
_BOM = b"\xef\xbb\xbf"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write (section 2.2)."""
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends: the audit source and what a syslog header says of it."""

    own: Party
    site: str = ""
    facility: int = 10
    process: str = "-"
    """The process's number."""


def syslog_of(message: AuditMessage, origin: Origin, at: datetime) -> bytes:
    """The whole syslog message (RFC 5424 section 6), without what frames it on its way. `at` is aware."""
    severity = NOTICE if message.outcome == SUCCESS else WARNING
    header = " ".join(
        (
            f"<{origin.facility * 8 + severity}>1",
            _moment(at),
            _word(origin.own.host, 255),
            APP_NAME,
            _word(origin.process, 128),
            MSGID,
            "-",
            "",
        )
    )
    return header.encode("ascii") + _BOM + xml_of(message, origin, at).encode()


def is_whole(message: bytes) -> bool:
    """Whether a syslog message of `syslog_of` is all there."""
    return message.startswith(b"<") and message.endswith(b"</AuditMessage>")


def octet_counted(message: bytes) -> bytes:
    """A syslog message as a stream carries it (RFC 5425 section 4.3)."""
    return b"%d %b" % (len(message), message)


def xml_of(message: AuditMessage, origin: Origin, at: datetime) -> str:
    """The AuditMessage as XML, by the schema of PS3.15 section A.5.1. `at` is aware."""
    root = ET.Element("AuditMessage")
    event = _child(
        root,
        "EventIdentification",
        EventActionCode=message.action,
        EventDateTime=_moment(at),
        EventOutcomeIndicator=str(message.outcome),
    )
    _coded(event, "EventID", message.event)
    for kind in message.types:
        _coded(event, "EventTypeCode", kind)
    if message.description:
        _child(event, "EventOutcomeDescription").text = _text(message.description)
    for participant in message.participants:
        _participant(root, participant)
    source = {"AuditEnterpriseSiteID": origin.site} if origin.site else {}
    identification = _child(root, "AuditSourceIdentification", **source, AuditSourceID=_source_id(origin.own))
    ET.SubElement(identification, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    for one in message.objects:
        _object(root, one)
    return f'<?xml version="1.0" encoding="UTF-8"?>{ET.tostring(root, encoding="unicode")}'


def _source_id(own: Party) -> str:
    return f"{own.user_id}@{own.host}" if own.host else own.user_id


def _participant(root: ET.Element, participant: Participant) -> None:
    party = participant.party
    attributes = {"UserID": party.user_id or party.host or UNKNOWN}
    if party.ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={party.ae_title}"  # PS3.15 section A.5.2.2
    attributes["UserIsRequestor"] = "true" if participant.requestor else "false"
    if party.host:
        attributes["NetworkAccessPointID"] = party.host
        attributes["NetworkAccessPointTypeCode"] = "2" if _is_address(party.host) else "1"
    element = _child(root, "ActiveParticipant", **attributes)
    for role in participant.roles:
        _coded(element, "RoleIDCode", role)
    if participant.media is not None:
        _coded(_child(element, "MediaIdentifier"), "MediaType", participant.media)


def _object(root: ET.Element, one: ParticipantObject) -> None:
    attributes = {"ParticipantObjectID": one.id or UNKNOWN, "ParticipantObjectTypeCode": str(one.type_code)}
    if one.role is not None:
        attributes["ParticipantObjectTypeCodeRole"] = str(one.role)
    element = _child(root, "ParticipantObjectIdentification", **attributes)
    _coded(element, "ParticipantObjectIDTypeCode", one.id_type)
    if one.query is not None:
        _child(element, "ParticipantObjectQuery").text = base64.b64encode(one.query).decode()
    else:
        _child(element, "ParticipantObjectName").text = _text(one.name)
    for kind, value in one.details:
        encoded = base64.b64encode(value[:MAXIMUM_TEXT].encode("utf-8", "replace")).decode()
        _child(element, "ParticipantObjectDetail", type=kind, value=encoded)
    if one.counted:
        description = _child(element, "ParticipantObjectDescription")
        for counted in one.counted:
            uid = {"UID": counted.sop_class_uid} if counted.sop_class_uid else {}
            _child(description, "SOPClass", **uid, NumberOfInstances=str(counted.instances))


def _coded(parent: ET.Element, name: str, code: Code) -> None:
    attributes = {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning}
    ET.SubElement(parent, name, attributes)


def _child(parent: ET.Element, name: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, name, _clean(attributes))


def _clean(attributes: Mapping[str, str]) -> dict[str, str]:
    return {key: value if key == "value" else _text(value) for key, value in attributes.items()}


def _text(value: str) -> str:
    """A value as XML can hold it, of bounded length."""
    return _NOT_XML.sub("\ufffd", value[:MAXIMUM_TEXT])


def _word(value: str, most: int) -> str:
    """A field of the header: printable ASCII without spaces, `-` for none (RFC 5424 section 6)."""
    return _NOT_PRINTABLE.sub("", value)[:most] or "-"


def _moment(at: datetime) -> str:
    """A time as both xsd:dateTime and RFC 5424 write it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
