"""Which audit message tells of what, with whom and what in it: a function for each (PS3.15 section A.5.3). Pure."""

from __future__ import annotations

from router.domain.access import REFUSALS
from router.domain.audit import (
    APPLICATION,
    APPLICATION_ACTIVITY,
    APPLICATION_START,
    APPLICATION_STOP,
    AUDIT_RECORDING_STOPPED,
    BEGIN_TRANSFERRING,
    DESTINATION,
    DESTINATION_MEDIA,
    EXPORT,
    INSTANCES_TRANSFERRED,
    MINOR,
    NODE_AUTHENTICATION,
    NODE_ID,
    PATIENT_NUMBER,
    QUERY,
    SECURITY_ALERT,
    SERIOUS,
    SOFTWARE_CONFIGURATION,
    SOP_CLASS_UID,
    SOURCE,
    STUDY_DELETED,
    STUDY_INSTANCE_UID,
    SUCCESS,
    UNKNOWN,
    URI,
    USE_OF_RESTRICTED_FUNCTION,
    AuditMessage,
    Code,
    Counted,
    Participant,
    ParticipantObject,
    Party,
)
from router.domain.dicom import InformationModel
from router.domain.events import ConfigurationLoaded, Event, StoreRefusal
from router.domain.events_people import ActionTaken, CallerRefused
from router.domain.rule import Node

TOO_MANY_GUESSES = 429
"""How HTTP answers somebody who showed so many wrong tokens that none is looked at any more."""
MAXIMUM_QUERY = 8 << 10
"""Bytes of an identifier that fit: with base64 around it a message stays below 32 KiB, which every repository takes."""

FIND_CLASSES = {
    InformationModel.STUDY_ROOT: "1.2.840.10008.5.1.4.1.2.2.1",
    InformationModel.PATIENT_ROOT: "1.2.840.10008.5.1.4.1.2.1.1",
}
"""SOP classes of C-FIND (PS3.4 section C.6)."""
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
"""The transfer syntax that identifiers have in audit messages, whatever they had on the wire."""

OF_STRANGERS = frozenset(
    {
        *REFUSALS,
        "tls-certificate",
        "tls-expired",
        "tls-host-name",
        "tls-no-certificate",
        "tls-not-spoken",
        "tls-refused",
        "tls-unknown-ca",
        "tls-unwanted",
        "tls-version",
    }
)
"""Reasons of a StoreRefusal that say: somebody was kept out. The others are about instances, space or our own files."""


def party_of(node: Node) -> Party:
    """A configured node."""
    return Party(node.name, node.ae_title, node.host)


# what the service does ------------------------------------------------------------------------------------------------


def application_activity(own: Party, *, started: bool) -> AuditMessage:
    """The service starts or stops (PS3.15 section A.5.3.1)."""
    return AuditMessage(
        event=APPLICATION_ACTIVITY,
        action="E",
        types=(APPLICATION_START if started else APPLICATION_STOP,),
        participants=(Participant(party=own, requestor=False, roles=(APPLICATION,)),),
    )


def query(
    own: Party,
    node: Party,
    sop_class_uid: str,
    identifier: bytes,
    outcome: int = SUCCESS,
    description: str = "",
    person: Party | None = None,
) -> AuditMessage:
    """A C-FIND of this router (PS3.15 section A.5.3.10): what was asked, never what was answered.

    `person` is who wanted it, by a command; None: a rule did. `identifier` is the data set in Explicit VR Little
    Endian; one of more than MAXIMUM_QUERY bytes is left out.
    """
    fits = len(identifier) <= MAXIMUM_QUERY
    return AuditMessage(
        event=QUERY,
        action="E",
        outcome=outcome,
        description=description,
        participants=(
            Participant(party=own, requestor=person is None, roles=(SOURCE,)),
            Participant(party=node, requestor=False, roles=(DESTINATION,)),
            *(() if person is None else (Participant(party=person, requestor=True),)),
        ),
        objects=(
            ParticipantObject(
                id=sop_class_uid,
                id_type=SOP_CLASS_UID,
                type_code=2,
                role=3,
                query=identifier if fits else None,
                name="" if fits else f"an identifier of {len(identifier)} bytes, too many for an audit message",
                details=(("TransferSyntax", EXPLICIT_LITTLE_ENDIAN),) if fits else (),
            ),
        ),
    )


def begin_transferring(
    own: Party, source: Party, destination: Party, study: str, patient_id: str, *, person: Party | None = None
) -> AuditMessage:
    """Instances of a study are asked for or sent, from one to the other (PS3.15 section A.5.3.3).

    `person` is who wanted it, by a command; None: a rule did.
    """
    return AuditMessage(
        event=BEGIN_TRANSFERRING,
        action="E",
        participants=_ways(own, source, destination, person),
        objects=_study(study, patient_id),
    )


def instances_transferred(
    own: Party,
    source: Party,
    destination: Party,
    study: str,
    patient_id: str,
    *,
    outcome: int = SUCCESS,
    description: str = "",
    counted: tuple[Counted, ...] = (),
    person: Party | None = None,
) -> AuditMessage:
    """Instances of a study were sent, or that has failed (PS3.15 section A.5.3.7); `counted` empty: nobody said.

    The action is Read: this router does not know whether the receiver had some of them before.
    """
    return AuditMessage(
        event=INSTANCES_TRANSFERRED,
        action="R",
        outcome=outcome,
        description=description,
        participants=_ways(own, source, destination, person),
        objects=_study(study, patient_id, counted),
    )


def instances_received(
    own: Party, source: Party, study: str, patient_id: str, counted: tuple[Counted, ...]
) -> AuditMessage:
    """Instances of a study came here unasked (PS3.15 section A.5.3.7): who sent them is who wanted it."""
    return AuditMessage(
        event=INSTANCES_TRANSFERRED,
        action="C",
        participants=(
            Participant(party=source, requestor=True, roles=(SOURCE,)),
            Participant(party=own, requestor=False, roles=(DESTINATION,)),
        ),
        objects=_study(study, patient_id, counted),
    )


def exported(
    own: Party,
    person: Party,
    directory: str,
    study: str,
    patient_id: str,
    *,
    outcome: int = SUCCESS,
    description: str = "",
    instances: int,
) -> AuditMessage:
    """A person had a study copied out of the store (PS3.15 section A.5.3.6)."""
    return AuditMessage(
        event=EXPORT,
        action="R",
        outcome=outcome,
        description=description,
        participants=(
            Participant(party=own, requestor=False, roles=(SOURCE,)),
            Participant(party=person, requestor=True),
            Participant(party=Party(directory), requestor=False, roles=(DESTINATION_MEDIA,), media=URI),
        ),
        objects=_study(study, patient_id, (Counted(instances),)),
    )


def study_deleted(
    own: Party,
    study: str,
    patient_id: str,
    *,
    outcome: int = SUCCESS,
    description: str = "",
    counted: tuple[Counted, ...] = (),
    person: Party | None = None,
) -> AuditMessage:
    """A study was taken out of the store, or that has failed (PS3.15 section A.5.3.8)."""
    asked = () if person is None else (Participant(party=person, requestor=True),)
    return AuditMessage(
        event=STUDY_DELETED,
        action="D",
        outcome=outcome,
        description=description,
        participants=(Participant(party=own, requestor=person is None), *asked),
        objects=_study(study, patient_id, counted),
    )


def _ways(own: Party, source: Party, destination: Party, person: Party | None) -> tuple[Participant, ...]:
    """Who sends, who receives and, where it is neither of them, who asked for it: this router, or a person by it."""
    asks = own if person is None else person
    sides = ((source, SOURCE), (destination, DESTINATION))
    taking_part = [Participant(party=one, requestor=one == asks, roles=(role,)) for one, role in sides]
    known = (source, destination)
    others = dict.fromkeys(one for one in (own, asks) if one not in known)
    return (*taking_part, *(Participant(party=one, requestor=one == asks) for one in others))


def _study(study: str, patient_id: str, counted: tuple[Counted, ...] = ()) -> tuple[ParticipantObject, ...]:
    patient = patient_id.strip() or UNKNOWN
    return (
        ParticipantObject(id=study or UNKNOWN, id_type=STUDY_INSTANCE_UID, type_code=2, role=3, counted=counted),
        ParticipantObject(id=patient, id_type=PATIENT_NUMBER, type_code=1, role=1),
    )


# what somebody should look at -----------------------------------------------------------------------------------------


def security_alert(
    own: Party, kind: Code, subject: str, sentence: str, outcome: int, others: tuple[Party, ...] = ()
) -> AuditMessage:
    """Something that concerns security (PS3.15 section A.5.3.11). `subject`: the node it is about, name or address."""
    return AuditMessage(
        event=SECURITY_ALERT,
        action="E",
        outcome=outcome,
        types=(kind,),
        description="" if outcome == SUCCESS else sentence,
        participants=(
            Participant(party=own, requestor=True),
            *(Participant(party=other, requestor=False) for other in others),
        ),
        objects=(
            ParticipantObject(
                id=subject, id_type=NODE_ID, type_code=2, role=13, details=(("Alert Description", sentence),)
            ),
        ),
    )


def recording_gap(own: Party, count: int) -> AuditMessage:
    """So many audit messages are lost: the buffer was full, or could not be written to."""
    sentence = f"{count} audit messages are lost: the buffer was full, or could not be written to."
    return security_alert(own, AUDIT_RECORDING_STOPPED, own.host, sentence, SERIOUS)


def alert_of(own: Party, event: Event, times: int = 1) -> AuditMessage | None:
    """What an event means to the audit repository; None: nothing. `times`: how often it happened since the last one."""
    match event:
        case StoreRefusal() if event.reason in OF_STRANGERS:
            return _kept_out(own, event, times)
        case ConfigurationLoaded(successful=True):
            sentence = f"The configuration {event.content_hash} was loaded."
            return security_alert(own, SOFTWARE_CONFIGURATION, own.host, sentence, SUCCESS)
        case ConfigurationLoaded():
            sentence = f"The configuration {event.content_hash} was rejected; the one before stays in force."
            return security_alert(own, SOFTWARE_CONFIGURATION, own.host, sentence, MINOR)
        case ActionTaken():
            what = f"transfer {event.transfer}" if event.transfer is not None else f"rule {event.rule}"
            meant = f" ({what})" if event.transfer is not None or event.rule else ""
            sentence = f"Somebody had something done over HTTP, as {event.by}: {event.action}{meant}."
            return security_alert(own, USE_OF_RESTRICTED_FUNCTION, own.host, sentence, SUCCESS)
        case CallerRefused():
            return _refused(own, event, times)
        case _:
            return None


def _kept_out(own: Party, event: StoreRefusal, times: int) -> AuditMessage:
    caller = Party(
        event.calling_ae_title or event.ip_address or event.calling, event.calling_ae_title, event.ip_address
    )
    called = f", which called {event.called_ae_title}," if event.called_ae_title else ""
    shown = f" It showed the certificate {event.certificate_name}." if event.certificate_name else ""
    often = f" {times} times since the last alert" if times > 1 else ""
    sentence = f"A peer{called} was refused{often}: {event.reason}.{shown}"
    return security_alert(own, NODE_AUTHENTICATION, event.ip_address or event.calling, sentence, MINOR, (caller,))


def refusal_outcome(event: CallerRefused) -> int:
    """How bad it is: showing nothing, or something wrong, is less than guessing."""
    return SERIOUS if event.http_status == TOO_MANY_GUESSES else MINOR


def _refused(own: Party, event: CallerRefused, times: int) -> AuditMessage:
    often = f" {times} times since the last alert" if times > 1 else ""
    sentence = f"Somebody was refused over HTTP{often}: {event.request} was answered with {event.http_status}."
    caller = Party(event.ip_address, host=event.ip_address)
    return security_alert(
        own, USE_OF_RESTRICTED_FUNCTION, event.ip_address, sentence, refusal_outcome(event), (caller,)
    )
