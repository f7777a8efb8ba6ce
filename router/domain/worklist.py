"""The modality worklist as an SCU sees it (PS3.4 annex K): its questions, and its answers step by step. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

from router.domain.appointment import Appointment, Notice
from router.domain.condition import Evaluation, KeyMatch
from router.domain.dicom import Identifier, known_tag
from router.domain.matcher import TIMEZONE_OFFSET_FROM_UTC, parse_offset, span_of
from router.domain.prefetching import due_at
from router.domain.rule import Rule
from router.domain.timing import WHOLE_DAY, Span, moments, parse_da


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(map(known_tag, keywords.split()))


STEP_SEQUENCE = known_tag("ScheduledProcedureStepSequence")
START_DATE = known_tag("ScheduledProcedureStepStartDate")
_START_TIME = known_tag("ScheduledProcedureStepStartTime")

STEP_KEYS = _tags("""
    ScheduledStationAETitle ScheduledProcedureStepStartDate ScheduledProcedureStepStartTime Modality
    ScheduledPerformingPhysicianName ScheduledPerformingPhysicianIdentificationSequence
    ScheduledProcedureStepDescription ScheduledStationName ScheduledProcedureStepLocation
    ReferencedDefinedProtocolSequence ReferencedPerformedProtocolSequence ScheduledProtocolCodeSequence PreMedication
    ScheduledProcedureStepID RequestedContrastAgent ScheduledProcedureStepStatus ScheduledProcedureStepEndDate
    ScheduledProcedureStepEndTime CommentsOnTheScheduledProcedureStep AnatomicalOrientationType""")
"""What stands in an item of the Scheduled Procedure Step Sequence (PS3.4 table K.6-1)."""

WORKLIST_KEYS = _tags("""
    PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex OtherPatientIDs AccessionNumber
    StudyInstanceUID RequestedProcedureID RequestedProcedureDescription RequestedProcedurePriority
    RequestedProcedureLocation PatientTransportArrangements NamesOfIntendedRecipientsOfResults
    ReasonForTheRequestedProcedure RequestingPhysician ReferringPhysicianName RequestingService
    PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest AdmissionID CurrentPatientLocation
    PatientInstitutionResidence AdmittingDiagnosesDescription ConfidentialityConstraintOnPatientDataDescription
    PatientState PregnancyStatus MedicalAlerts Allergies SpecialNeeds InstitutionName
    InstitutionalDepartmentName""")
"""What stands above it and may be a matching key; all but the patient's name and ID are optional ones."""

RETURN_KEYS = _tags("""
    PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyInstanceUID
    RequestedProcedureID RequestedProcedureDescription RequestedProcedureCodeSequence ReferringPhysicianName AdmissionID
    CurrentPatientLocation ScheduledStationAETitle ScheduledProcedureStepStartDate ScheduledProcedureStepStartTime
    Modality ScheduledPerformingPhysicianName ScheduledProcedureStepDescription ScheduledStationName
    ScheduledProcedureStepLocation ScheduledProtocolCodeSequence ScheduledProcedureStepID ScheduledProcedureStepStatus
    """)
"""What is always asked back (PS3.4 table K.6-1), above and in the step."""

_MATCHED_BY_ALL = _tags("ScheduledStationAETitle ScheduledPerformingPhysicianName PatientName PatientID")
"""Required matching keys by which an SCP must have matched, whether it returns them or not. Of Modality and the start
date it must return a value: an answer without one comes from an SCP that takes no notice of keys."""

MAXIMUM_QUERIES = 12
"""A list of values is asked value by value while that makes no more queries than this; else it is matched here only."""

_CODES = ("RequestedProcedureCodeSequence", "ScheduledProtocolCodeSequence")
_A_CODE = Identifier.of(CodeValue="", CodingSchemeDesignator="", CodeMeaning="")


# --- The question -----------------------------------------------------------------------------------------------------


def questions(
    keys: Sequence[KeyMatch], evaluation: Evaluation, wanted: Collection[int] = frozenset()
) -> Iterator[Identifier]:
    """The identifiers to send: keys of the step in one item, all else above it (PS3.4 sections C.2.2.2.6, K.6.1.2).

    `wanted` are tags that are asked back besides RETURN_KEYS. Lists of values are asked one by one, as far as that
    stays a handful; the date is asked for in any case. Times are never asked for: see `KeyMatch.wire`.
    """
    asked: dict[int, tuple[str | Identifier, ...]] = dict.fromkeys(RETURN_KEYS.union(wanted), ())
    asked.update(dict.fromkeys(map(known_tag, _CODES), (_A_CODE,)))
    for tag in (STEP_SEQUENCE, TIMEZONE_OFFSET_FROM_UTC):  # the sequence is made below; a zone is given, never asked
        asked.pop(tag, None)
    choices: list[list[tuple[int, tuple[str, ...]]]] = []
    number = 1
    for key in keys:
        asked.update(dict.fromkeys(key.attributes - asked.keys(), ()))
        values = key.wire(evaluation)
        if values and (key.tag == START_DATE or len(values) * number <= MAXIMUM_QUERIES):
            choices.append([(key.tag, value) for value in values])
            number *= len(values)
    for choice in itertools.product(*choices):
        flat = {**asked, **dict(choice)}
        step = Identifier({tag: values for tag, values in flat.items() if tag in STEP_KEYS})
        above = {tag: values for tag, values in flat.items() if tag not in STEP_KEYS}
        yield Identifier({**above, STEP_SEQUENCE: (step,)})


def range_of(keys: Sequence[KeyMatch], evaluation: Evaluation) -> tuple[datetime, datetime] | None:
    """First and last moment of the starts that these keys ask for; None where they ask for none."""
    ranges = [
        value.dates.resolve(*evaluation)
        for key in keys
        if key.tag == START_DATE
        for value in key.values
        if value.dates is not None
    ]
    asked = [one for one in ranges if not one.empty]
    return (min(one.start for one in asked), max(one.end for one in asked)) if asked else None


# --- The answer -------------------------------------------------------------------------------------------------------


def steps_of(row: Identifier) -> list[Identifier]:
    """One flat data set for each scheduled step of a match: what stands above it, with the step's own beside it.

    The sequence is kept with that one item. A match without an item is a single one without a step's attributes. An
    item does not speak of the patient or the order: where both say something, what stands above counts.
    """
    steps = []
    for item in row.elements.get(STEP_SEQUENCE, ()):
        if isinstance(item, Identifier):
            own = {tag: values for tag, values in item.elements.items() if tag in STEP_KEYS}
            steps.append(Identifier({**item.elements, **row.elements, **own, STEP_SEQUENCE: (item,)}))
    return steps or [row]


def only(step: Identifier, tags: Collection[int]) -> Identifier:
    """A flat step with just these attributes (and its zone), in its item too: what nobody asked for is not kept."""
    kept = {tag: values for tag, values in step.elements.items() if tag in tags or tag == TIMEZONE_OFFSET_FROM_UTC}
    items = [item for item in step.elements.get(STEP_SEQUENCE, ()) if isinstance(item, Identifier)]
    if items:
        kept[STEP_SEQUENCE] = tuple(
            Identifier({tag: values for tag, values in item.elements.items() if tag in tags}) for item in items
        )
    return Identifier(kept)


def start_of(step: Identifier, zone: tzinfo) -> datetime | None:
    """When a step begins (UTC): its start date and time, in its own offset from UTC or else that zone.

    A date without a time is its beginning; None without a date.
    """
    spread = _starts(step, zone, Span(0, 0))
    return spread[0] if spread else None


def past(step: Identifier, evaluation: Evaluation, grace: timedelta) -> bool:
    """Whether a step was to begin longer ago than `grace`; one without a time may begin until the day ends."""
    spread = _starts(step, evaluation.zone, WHOLE_DAY)
    return spread is not None and spread[1] < evaluation.now - grace


def _starts(step: Identifier, zone: tzinfo, otherwise: Span) -> tuple[datetime, datetime] | None:
    """The moments at which it may begin; `otherwise` is the time of day where it gives none."""
    day = parse_da(step.text("ScheduledProcedureStepStartDate"))
    if day is None:
        return None
    own = parse_offset(step.text("TimezoneOffsetFromUTC"))
    return moments(day, span_of(step, _START_TIME) or otherwise, own or zone)


_LONGEST = 64
"""Characters; no value that names an order is longer (PS3.5 section 6.2: UI, LO)."""


def key_of(step: Identifier) -> str:
    """What makes it the same step again: accession number and step ID; empty where nothing does.

    Without an accession number that of the requested procedure, or of the study, stands in its place.
    """
    step_id = _short(step, "ScheduledProcedureStepID")
    order = _short(step, "AccessionNumber")
    if not order and step_id:
        order = _short(step, "RequestedProcedureID") or _short(step, "StudyInstanceUID")
    return f"{order} {step_id}".rstrip() if order else ""


def _short(step: Identifier, name: str) -> str:
    text = step.text(name)
    return text if len(text) <= _LONGEST else ""


CANCELLED, COMPLETED = "cancelled", "completed"

_ENDED = {
    **dict.fromkeys(("CANCELLED", "CANCELED", "DISCONTINUED", "ABORTED", "DELETED"), CANCELLED),
    **dict.fromkeys(("COMPLETED", "DEPARTED", "FINISHED", "DONE"), COMPLETED),
}
"""Scheduled Procedure Step Status (PS3.3 section C.4.10 has DEPARTED only), and what worklists say besides."""


def ended(step: Identifier) -> str:
    """CANCELLED or COMPLETED where its status says so; else empty."""
    return _ENDED.get(step.text("ScheduledProcedureStepStatus").upper(), "")


class Against(NamedTuple):
    """What speaks against a step."""

    reason: str
    """A sentence."""
    undecided: bool = False
    """Nobody can say: the worklist does not return what it was asked for."""


def against(keys: Iterable[KeyMatch], step: Identifier, evaluation: Evaluation) -> Against | None:
    """What speaks against a flat step by these keys; None where nothing does."""
    for key in keys:
        verdict = key.bind(evaluation)(step)
        if verdict is False:
            return Against(f"outside the key {key.name}: the worklist answered more than the rule asks for")
        if verdict is None and key.tag not in _MATCHED_BY_ALL:
            return Against(f"the worklist does not return {key.name}, so nobody can say whether it matched by it", True)
    return None


# --- Appointments -----------------------------------------------------------------------------------------------------


def notice(rule: Rule, step: Identifier, evaluation: Evaluation, *, manual: bool = False) -> Notice:
    """What a flat step says of an appointment. Its Patient ID must have passed `safety.refusal`.

    With `manual` a person asks: it is due now.
    """
    start_at = start_of(step, evaluation.zone)
    patient_id, issuer = step.text("PatientID"), step.text("IssuerOfPatientID")
    one_of_the_day = f"{step.text('Modality')} {step.text('ScheduledProcedureStepStartDate')}"
    return Notice(
        rule=rule.name,
        trigger="worklist",
        # The patient belongs to it: a RIS may give several of them the same accession number.
        key=f"{key_of(step) or one_of_the_day} of {patient_id} {issuer}".rstrip(),
        source=rule.source,
        current=step,
        patient_id=patient_id,
        issuer=issuer,
        start_at=start_at,
        due_at=evaluation.now if manual else due_at(rule, start_at, evaluation.now),
        cancelled=ended(step) == CANCELLED,
    )


def each_once(notices: Iterable[Notice]) -> list[Notice]:
    """One notice for each appointment: of several steps under one key the first that is not cancelled.

    Otherwise what a worklist lists twice would be moved to and fro by each of its answers.
    """
    found: dict[str, Notice] = {}
    for one in notices:
        other = found.get(one.key)
        if other is None or _first(one) < _first(other):
            found[one.key] = one
    return list(found.values())


def _first(one: Notice) -> tuple[bool, bool, float]:
    return (one.cancelled, one.start_at is None, one.start_at.timestamp() if one.start_at is not None else 0.0)


def vanished(expected: Iterable[Appointment], seen: Collection[str], now: datetime) -> list[Notice]:
    """The end of those that a complete answer does not have any more, by key, and that begin later than now."""
    return [
        Notice(
            rule=one.rule,
            trigger=one.trigger,
            key=one.key,
            source=one.source,
            current=one.current,
            patient_id=one.patient_id,
            issuer=one.issuer,
            start_at=one.start_at,
            due_at=one.due_at,
            cancelled=True,
        )
        for one in expected
        if one.key not in seen and one.start_at is not None and one.start_at > now
    ]
