"""From a current study to its priors' transfers: what is asked for, and what becomes of what was chosen. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from router.domain.appointment import Appointment, Notice, urgent_from
from router.domain.dicom import Identifier, QueryRetrieveLevel, tag_of
from router.domain.examination import Examination, Patient
from router.domain.levels import RETURN_KEYS
from router.domain.priors import Priors
from router.domain.relevance import Presence, Prior, attributes_of
from router.domain.rule import Rule
from router.domain.selection import Action, Candidate, Decision, decide
from router.domain.transfer import Happening, Intent, State, TransferFact

SAME_VISIT = timedelta(days=1)
"""Appointments of a rule and patient that lie no further apart share the numbers of their groups."""

PATIENCE = timedelta(days=1)
"""How long priors are looked for, where there is no appointment, while their source cannot be asked."""
AFTERWARDS = timedelta(hours=1)
"""The same after the appointment."""
_FIRST_RETRY, _LONGEST_RETRY = timedelta(seconds=30), timedelta(minutes=10)


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(tag for keyword in keywords.split() if (tag := tag_of(keyword)) is not None)


_OF_THE_PATIENT = _tags("PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex")
ATTRIBUTES = _OF_THE_PATIENT | _tags(
    "StudyInstanceUID StudyDate StudyTime AccessionNumber StudyDescription ProcedureCodeSequence ModalitiesInStudy "
    "Modality SeriesDescription ProtocolName BodyPartExamined AnatomicRegionSequence RequestedProcedureDescription "
    "RequestedProcedureCodeSequence InstitutionName StationName ReferringPhysicianName SpecificCharacterSet"
)
"""What a stored object is asked for, to be the current study."""

CURRENT_KEYS = (
    RETURN_KEYS[QueryRetrieveLevel.STUDY]
    | _OF_THE_PATIENT
    | _tags("ProcedureCodeSequence AnatomicRegionsInStudyCodeSequence")
)
"""What a source is asked back of a study that may have priors, or be one."""


def candidates_question(patient_id: str, priors: Priors) -> Identifier:
    """The STUDY level query for all studies of a patient. The ID must have passed `safety.refusal`."""
    keys: dict[int, tuple[str | Identifier, ...]] = dict.fromkeys(CURRENT_KEYS | attributes_of(priors), ())
    keys.update(Identifier.of(PatientID=patient_id).elements)
    return Identifier(keys)


def of_swept(rule: Rule, row: Identifier, now: datetime) -> Notice:
    """The notice of a study that a sweep (or the store) has found: its priors are wanted at once."""
    patient = Patient(row.text("PatientID"), row.text("IssuerOfPatientID"))
    return Notice(
        rule=rule.name,
        trigger="sweep",
        key=row.text("StudyInstanceUID"),
        source=rule.source,
        current=row,
        patient_id=patient.patient_id,
        issuer=patient.issuer,
        due_at=now,
    )


def due_at(rule: Rule, start_at: datetime | None, now: datetime) -> datetime:
    """When the priors of an appointment are to be looked for: its `lead` before, at once where it has none."""
    if start_at is None or rule.lead is None:
        return now
    return max(now, start_at - timedelta(seconds=rule.lead))


def visit(start_at: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Between which moments other appointments belong to the same visit."""
    at = start_at or now
    return at - SAME_VISIT, at + SAME_VISIT


def retry_at(appointment: Appointment, now: datetime) -> datetime | None:
    """When a look that failed is tried again; None: not any more, it would come too late."""
    at = now + min(_LONGEST_RETRY, _FIRST_RETRY * 2 ** min(appointment.attempts, 10))
    last = appointment.noted_at + PATIENCE
    if appointment.start_at is not None:
        last = max(appointment.start_at + AFTERWARDS, appointment.noted_at + AFTERWARDS)
    return at if at <= last else None


def decisions(
    rule: Rule,
    chosen: Sequence[Prior],
    examinations: Mapping[str, Examination],
    facts: Mapping[Intent, TransferFact],
    presence: Mapping[str, Presence],
    *,
    destination: str,
    start_at: datetime | None,
    now: datetime,
    first: bool,
) -> list[Decision]:
    """What is to be done about each candidate at one destination; those that are not taken are skipped, with why.

    `first`: it is the first look for this appointment (or a person asks), so what failed before is tried again.
    """
    urgent = start_at is not None and now >= urgent_from(start_at)
    priority = "urgent" if urgent else rule.priority

    def decided(one: Examination, known: Mapping[Intent, TransferFact]) -> Decision:
        candidate = Candidate(
            study_instance_uid=one.study_instance_uid,
            instance_count=one.instance_count,
            patient_id=one.patient.patient_id,
            availability=one.availability,
        )
        (decision,) = decide(
            rule=rule.name,
            source=rule.source,
            destinations=[destination],
            priority=priority,
            candidates=[candidate],
            facts=known,
            manual=first,
        )
        return decision

    made: list[Decision] = []
    for prior in chosen:
        uid = prior.study_instance_uid
        if not prior.taken:
            made.append(_left(prior, destination))
            continue
        decision = decided(examinations[uid], facts)
        fact = facts.get(Intent(rule.source, uid, "", destination))
        if fact is not None and decision.code == "done" and _gone(fact, presence.get(uid, Presence.UNKNOWN)):
            decision = _again(decided(examinations[uid], {}), fact)
        made.append(_for(decision, prior, start_at))
    return made


def _left(prior: Prior, destination: str) -> Decision:
    """About a candidate that is not taken."""
    return Decision(
        action=Action.SKIP,
        code=prior.code,
        reason=prior.reason,
        study_instance_uid=prior.study_instance_uid,
        destination=destination,
        instance_count=prior.instance_count,
        prior=prior,
    )


def _again(decision: Decision, fact: TransferFact) -> Decision:
    """A decision about what was moved before and is gone, as if it never had been; the ledger has its transfer."""
    if decision.new is None:  # the source cannot send it
        return msgspec.structs.replace(decision, transfer=fact.id)
    return msgspec.structs.replace(
        decision,
        code="again",
        reason="was moved before, but is not there any more",
        transfer=fact.id,
        new=msgspec.structs.replace(decision.new, happening=Happening.AGAIN),
    )


def _gone(fact: TransferFact, presence: Presence) -> bool:
    """Whether what the ledger says was delivered is not there: destinations clean up after themselves."""
    return fact.state in (State.COMPLETE, State.UNPROVEN) and presence is not Presence.THERE


def _for(decision: Decision, prior: Prior, start_at: datetime | None) -> Decision:
    """A decision with the prior that it is for, what it is moved for before what is known of it."""
    new = decision.new
    if new is not None and start_at is not None:
        new = msgspec.structs.replace(new, deadline_at=start_at)
    return msgspec.structs.replace(decision, prior=prior, new=new, reason=f"{prior.reason}; {decision.reason}")
