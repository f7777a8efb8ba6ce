"""Audit messages hold what PS3.15 annex A wants, whatever values they are made of."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.audit import (
    MINOR,
    MOST_CLASSES,
    NODE_AUTHENTICATION,
    SERIOUS,
    AuditMessage,
    Counted,
    Party,
    counted_by_class,
)
from router.domain.audit_messages import (
    MAXIMUM_QUERY,
    alert_of,
    application_activity,
    begin_transferring,
    exported,
    instances_received,
    instances_transferred,
    query,
    recording_gap,
    security_alert,
    study_deleted,
)
from router.domain.audit_xml import MAXIMUM_TEXT, Origin, octet_counted, syslog_of, xml_of
from router.domain.events import ConfigurationLoaded, Event, InstanceStored, StoreRefusal
from router.domain.events_people import ActionTaken, CallerRefused
from tests.support.audit import Heard, Side, taken_apart

NOW = datetime(2026, 11, 22, 10, 0, 0, 5, tzinfo=UTC)
OWN = Party("ROUTER", "ROUTER", "router.example")
ARCHIVE = Party("archive", "ORTHANC", "10.0.0.5")
WORKSTATION = Party("ws1", "WS1", "ws1.example")
ORIGIN = Origin(own=OWN, site="St. Elsewhere", process="4711")
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def heard(message: AuditMessage, origin: Origin = ORIGIN) -> Heard:
    return taken_apart(syslog_of(message, origin, NOW))


def test_the_header_is_that_of_rfc_5424_and_names_facility_and_severity() -> None:
    told = heard(application_activity(OWN, started=True))
    assert (told.pri, told.host, told.process, told.at) == (85, "router.example", "4711", NOW)
    assert heard(recording_gap(OWN, 3)).pri == 84
    elsewhere = Origin(own=Party("R"), facility=13)
    told = heard(application_activity(OWN, started=False), elsewhere)
    assert (told.pri, told.host, told.process) == (109, "-", "-")


def test_times_are_told_in_utc() -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert 'EventDateTime="2026-11-22T10:00:00.000005Z"' in xml_of(
        application_activity(OWN, started=True), ORIGIN, local
    )


def test_a_stream_counts_octets_not_characters() -> None:
    assert octet_counted("ü".encode()) == b"2 \xc3\xbc"


def test_start_and_stop_name_the_application() -> None:
    for started, kind in ((True, "Application Start"), (False, "Application Stop")):
        told = heard(application_activity(OWN, started=started))
        assert (told.code, told.types, told.action, told.outcome) == ("110100", [kind], "E", 0)
        assert told.sides == [Side("ROUTER", "AETITLES=ROUTER", "Application", False)]
        assert told.objects == {}


def test_the_source_is_named_with_its_site() -> None:
    source = heard(application_activity(OWN, started=True)).root.find("AuditSourceIdentification")
    assert source is not None
    assert source.attrib == {"AuditSourceID": "ROUTER@router.example", "AuditEnterpriseSiteID": "St. Elsewhere"}
    source = heard(application_activity(OWN, started=True), Origin(own=OWN)).root.find("AuditSourceIdentification")
    assert source is not None
    assert source.attrib == {"AuditSourceID": "ROUTER@router.example"}


def test_a_query_holds_what_was_asked_and_of_whom() -> None:
    told = heard(query(OWN, ARCHIVE, FIND, b"\x08\x00data"))
    assert (told.code, told.action, told.outcome) == ("110112", "E", 0)
    assert told.sides == [
        Side("ROUTER", "AETITLES=ROUTER", "Source Role ID", True),
        Side("archive", "AETITLES=ORTHANC", "Destination Role ID", False),
    ]
    assert told.objects == {"SOP Class UID": FIND}
    assert told.query == b"\x08\x00data"
    assert told.details == {"TransferSyntax": "1.2.840.10008.1.2.1"}


def test_an_identifier_that_is_too_long_is_counted_in_place_of_being_cut() -> None:
    assert heard(query(OWN, ARCHIVE, FIND, b"x" * MAXIMUM_QUERY)).query == b"x" * MAXIMUM_QUERY
    told = heard(query(OWN, ARCHIVE, FIND, b"x" * (MAXIMUM_QUERY + 1)))
    assert told.query == b""
    assert str(MAXIMUM_QUERY + 1) in told.root.findtext(".//ParticipantObjectName", "")


def test_a_move_elsewhere_names_source_destination_and_who_asked() -> None:
    told = heard(begin_transferring(OWN, ARCHIVE, WORKSTATION, "1.2.3", "P1"))
    sides = [
        Side("archive", "AETITLES=ORTHANC", "Source Role ID", False),
        Side("ws1", "AETITLES=WS1", "Destination Role ID", False),
        Side("ROUTER", "AETITLES=ROUTER", "", True),
    ]
    assert (told.code, told.action, told.sides) == ("110102", "E", sides)
    assert told.objects == {"Study Instance UID": "1.2.3", "Patient Number": "P1"}
    access = [one.attrib.get("NetworkAccessPointTypeCode") for one in told.root.findall("ActiveParticipant")]
    assert access == ["2", "1", "1"]
    ended = heard(
        instances_transferred(
            OWN,
            ARCHIVE,
            WORKSTATION,
            "1.2.3",
            "P1",
            outcome=MINOR,
            description="2 sub-operations failed.",
            counted=(Counted(7),),
        )
    )
    assert (ended.code, ended.action, ended.outcome, ended.instances) == ("110104", "R", 4, 7)
    assert (ended.description, ended.sides, ended.objects) == ("2 sub-operations failed.", sides, told.objects)


def test_what_comes_to_this_router_it_asked_for_itself() -> None:
    told = heard(begin_transferring(OWN, ARCHIVE, OWN, "1.2.3", ""))
    assert told.sides == [
        Side("archive", "AETITLES=ORTHANC", "Source Role ID", False),
        Side("ROUTER", "AETITLES=ROUTER", "Destination Role ID", True),
    ]
    assert told.objects["Patient Number"] == "<none>"
    assert told.instances is None


PERSON = Party("doe@here", host="here")
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def test_what_a_person_has_moved_he_asked_for() -> None:
    told = heard(begin_transferring(OWN, ARCHIVE, OWN, "1.2.3", "P1", person=PERSON))
    assert told.sides == [
        Side("archive", "AETITLES=ORTHANC", "Source Role ID", False),
        Side("ROUTER", "AETITLES=ROUTER", "Destination Role ID", False),
        Side("doe@here", "", "", True),
    ]
    told = heard(begin_transferring(OWN, ARCHIVE, WORKSTATION, "1.2.3", "P1", person=PERSON))
    assert [(one.user, one.requestor) for one in told.sides[2:]] == [("ROUTER", False), ("doe@here", True)]


def test_what_is_sent_here_unasked_its_sender_asked_for() -> None:
    told = heard(instances_received(OWN, ARCHIVE, "1.2.3", "P1", counted_by_class({MR: 2, CT: 5})))
    assert (told.code, told.action, told.outcome) == ("110104", "C", 0)
    assert told.sides == [
        Side("archive", "AETITLES=ORTHANC", "Source Role ID", True),
        Side("ROUTER", "AETITLES=ROUTER", "Destination Role ID", False),
    ]
    assert told.objects == {"Study Instance UID": "1.2.3", "Patient Number": "P1"}
    assert list(told.classes.items()) == [(CT, 5), (MR, 2)]


def test_an_export_names_the_person_and_the_directory() -> None:
    told = heard(exported(OWN, PERSON, "file:///media/cd", "1.2.3", "P1", instances=3))
    assert (told.code, told.event, told.action, told.outcome, told.instances) == ("110106", "Export", "R", 0, 3)
    assert told.sides == [
        Side("ROUTER", "AETITLES=ROUTER", "Source Role ID", False),
        Side("doe@here", "", "", True),
        Side("file:///media/cd", "", "Destination Media", False),
    ]
    failed = exported(OWN, PERSON, "file:///x", "", "", outcome=SERIOUS, description="Broken off.", instances=0)
    told = heard(failed)
    assert (told.outcome, told.description) == (8, "Broken off.")
    assert told.objects == {"Study Instance UID": "<none>", "Patient Number": "<none>"}


def test_a_study_that_is_deleted_is_told_with_who_wanted_it() -> None:
    told = heard(study_deleted(OWN, "1.2.3", "P1", counted=(Counted(4),)))
    assert (told.code, told.event, told.action, told.instances) == ("110105", "DICOM Study Deleted", "D", 4)
    assert told.sides == [Side("ROUTER", "AETITLES=ROUTER", "", True)]
    told = heard(study_deleted(OWN, "1.2.3", "P1", person=PERSON))
    assert [(one.user, one.requestor) for one in told.sides] == [("ROUTER", False), ("doe@here", True)]


@given(st.dictionaries(st.integers(1, 10**9).map(lambda number: f"1.2.{number}"), st.integers(1, 10**6)))
def test_no_instance_is_left_out_however_many_classes_there_are(classes: dict[str, int]) -> None:
    counted = counted_by_class(classes)
    assert sum(one.instances for one in counted) == sum(classes.values())
    assert len(counted) <= MOST_CLASSES + 1
    assert all(classes[one.sop_class_uid] == one.instances for one in counted if one.sop_class_uid)


REFUSED = StoreRefusal(
    calling="other",
    reason="association-rejected",
    calling_ae_title="EVIL",
    called_ae_title="ROUTER",
    ip_address="10.6.6.6",
)
ALERTS: list[tuple[Event, int, str, int, str]] = [
    (
        REFUSED,
        1,
        "Node Authentication",
        4,
        "A peer, which called ROUTER, was refused: association-rejected.",
    ),
    (
        StoreRefusal(calling="other", reason="tls-unknown-ca", ip_address="10.6.6.6"),
        5,
        "Node Authentication",
        4,
        "A peer was refused 5 times since the last alert: tls-unknown-ca.",
    ),
    (
        StoreRefusal(
            calling="archive", reason="tls-wrong-certificate", ip_address="10.6.6.6", certificate_name="ws1.example"
        ),
        1,
        "Node Authentication",
        4,
        "A peer was refused: tls-wrong-certificate. It showed the certificate ws1.example.",
    ),
    (StoreRefusal(calling="archive", reason="address"), 1, "Node Authentication", 4, "A peer was refused: address."),
    (
        ConfigurationLoaded(successful=True, content_hash="abc"),
        1,
        "Software Configuration",
        0,
        "The configuration abc was loaded.",
    ),
    (
        ConfigurationLoaded(successful=False, content_hash="abc"),
        1,
        "Software Configuration",
        4,
        "The configuration abc was rejected; the one before stays in force.",
    ),
    (
        ActionTaken(by="token", action="retry", transfer=17),
        1,
        "Use of Restricted Function",
        0,
        "Somebody had something done over HTTP, as token: retry (transfer 17).",
    ),
    (
        CallerRefused(request="POST /-/reload", http_status=403, ip_address="10.6.6.6"),
        1,
        "Use of Restricted Function",
        4,
        "Somebody was refused over HTTP: POST /-/reload was answered with 403.",
    ),
    (
        CallerRefused(request="POST /login", http_status=429, ip_address="10.6.6.6"),
        40,
        "Use of Restricted Function",
        8,
        "Somebody was refused over HTTP 40 times since the last alert: POST /login was answered with 429.",
    ),
    (
        ActionTaken(by="session", action="login"),
        1,
        "Use of Restricted Function",
        0,
        "Somebody had something done over HTTP, as session: login.",
    ),
]


@pytest.mark.parametrize(("event", "times", "kind", "outcome", "sentence"), ALERTS)
def test_events_that_concern_security_are_alerts(
    event: Event, times: int, kind: str, outcome: int, sentence: str
) -> None:
    message = alert_of(OWN, event, times)
    assert message is not None
    told = heard(message)
    assert (told.code, told.types, told.outcome) == ("110113", [kind], outcome)
    assert told.details == {"Alert Description": sentence}
    assert told.description == (sentence if outcome else "")
    assert told.sides[0] == Side("ROUTER", "AETITLES=ROUTER", "", True)


def test_who_was_kept_out_takes_part_in_the_alert_and_is_its_subject() -> None:
    message = alert_of(OWN, REFUSED)
    assert message is not None
    told = heard(message)
    assert told.sides[1] == Side("EVIL", "AETITLES=EVIL", "", False)
    assert told.objects == {"Node ID": "10.6.6.6"}


@pytest.mark.parametrize(
    "event",
    [
        StoreRefusal(calling="archive", reason="out-of-space"),
        StoreRefusal(calling="archive", reason="tls-files"),
        InstanceStored(calling="archive", status=0),
    ],
)
def test_other_events_are_no_alerts(event: Event) -> None:
    assert alert_of(OWN, event) is None


def test_a_gap_in_the_recording_says_how_much_is_missing() -> None:
    told = heard(recording_gap(OWN, 12))
    assert (told.types, told.outcome) == (["Audit Recording Stopped"], SERIOUS)
    assert told.details["Alert Description"].startswith("12 audit messages are lost")


TEXT = st.text(max_size=700)


@given(user=TEXT, title=TEXT, host=TEXT, study=TEXT, patient=TEXT, sentence=TEXT, site=TEXT, process=TEXT)
def test_whatever_a_peer_or_an_archive_says_stays_a_value(
    user: str, title: str, host: str, study: str, patient: str, sentence: str, site: str, process: str
) -> None:
    party = Party(user, title, host)
    origin = Origin(own=party, site=site, process=process)
    transferred = instances_transferred(
        OWN, party, ARCHIVE, study, patient, outcome=SERIOUS, description=sentence, counted=(Counted(0),)
    )
    told = heard(transferred, origin)
    assert len(told.sides) == 3
    assert len(told.root.findall("ParticipantObjectIdentification")) == 2
    alert = heard(security_alert(OWN, NODE_AUTHENTICATION, host, sentence, MINOR, (party,)), origin)
    assert len(alert.sides) == 2
    written = base64.b64decode(alert.root.find(".//ParticipantObjectDetail").attrib["value"])  # type: ignore[union-attr]
    assert written.decode() == sentence[:MAXIMUM_TEXT].encode("utf-8", "replace").decode()


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), max_size=MAXIMUM_TEXT)
)
def test_what_xml_can_hold_is_told_as_it_is(patient: str) -> None:
    root = ET.fromstring(xml_of(begin_transferring(OWN, ARCHIVE, OWN, "1.2.3", f"x{patient}x"), ORIGIN, NOW))
    ids = [one.attrib["ParticipantObjectID"] for one in root.findall("ParticipantObjectIdentification")]
    assert ids == ["1.2.3", f"x{patient}x"[:MAXIMUM_TEXT]]


@pytest.mark.parametrize("character", ["\u20ac", "\U0001f600", '"', "&", "\n", "\x00"])
def test_the_largest_message_is_taken_by_every_repository(character: str) -> None:
    worst = character * 10_000
    party = Party(worst, worst, worst)
    told = query(party, party, worst, b"x" * MAXIMUM_QUERY, SERIOUS, worst)
    assert len(syslog_of(told, Origin(own=party, site=worst, process=worst), NOW)) < 32_768
    sides = (party._replace(user_id="a"), party._replace(user_id="b"))
    many = counted_by_class({str(number) * 64: 1 << 40 for number in range(1000)})
    told = instances_transferred(party, *sides, worst, worst, outcome=SERIOUS, description=worst, counted=many)
    assert len(syslog_of(told, Origin(own=party, site=worst, process=worst), NOW)) < 32_768
