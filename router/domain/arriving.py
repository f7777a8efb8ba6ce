"""What has arrived, as far as passing it on is concerned: who waits for it, is it quiet, what is taken of it. Pure.

* **Due.** What comes in is noted with its receipt for each rule that passes on what its sender sends.
* **Quiet.** A study (series) is there once nothing of it came for `stable`; an instance is there at once. Only what the
  nodes of `from` sent counts, by push or because a `move` brought it here; without `from`, whatever came.
* **Taken.** `where` is asked of the header of each instance as a whole. At level `study` one instance that satisfies it
  takes the study with it, at level `series` its series, at level `instance` itself alone. Where it names attributes of
  patient, study and series only, one instance of each series is asked: those are the same in all of them.

Reasons hold no identifier: they are stored and printed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from router.domain.attributes import LEVEL_OF
from router.domain.condition import Condition, Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.receipt import Receipt
from router.domain.rule import Rule, RuleSet
from router.domain.triggers import Arrival, Unit

_MODALITY, _MODALITIES = known_tag("Modality"), known_tag("ModalitiesInStudy")
_STUDY_SERIES = known_tag("NumberOfStudyRelatedSeries")
_STUDY_INSTANCES = known_tag("NumberOfStudyRelatedInstances")
_SERIES_INSTANCES = known_tag("NumberOfSeriesRelatedInstances")

COUNTED = frozenset({_MODALITIES, _STUDY_SERIES, _STUDY_INSTANCES, _SERIES_INSTANCES})
"""Attributes that no header has, and that follow from what has arrived."""

NEVER_IN_DATA_SETS = frozenset(
    map(
        known_tag,
        (
            *("QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability", "AvailableTransferSyntaxUID"),
            *("SOPClassesInStudy", "AnatomicRegionsInStudyCodeSequence", "NumberOfPatientRelatedStudies"),
            *("NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances"),
        ),
    )
)
"""Attributes of answers to queries that are not those of any instance (PS3.4 section C.3.4), COUNTED aside."""


# --- Due --------------------------------------------------------------------------------------------------------------


class ArrivalDue(NamedTuple):
    """A rule is to look at a study, of which something has arrived."""

    rule: str
    study_instance_uid: str
    due_at: datetime
    whole: bool = True
    """The rule waits for the whole study: whatever else of it comes puts the look off."""


def dues(batch: Iterable[Receipt], rules: RuleSet) -> list[ArrivalDue]:
    """What is to be looked at, and when, now that these have arrived: one for each rule and study."""
    waiting = [
        (rule, rule.arrival)
        for rule in rules.rules.values()
        if rule.enabled and rule.forward is not None and rule.arrival is not None
    ]
    if not waiting:
        return []
    callers = rules.callers
    first: dict[tuple[str, str], datetime] = {}
    last: dict[tuple[str, str], datetime] = {}
    for one in batch:
        place = one.study_instance_uid, callers.get(one.calling_ae_title, "")
        first[place] = min(first.get(place, one.received_at), one.received_at)
        last[place] = max(last.get(place, one.received_at), one.received_at)
    found: dict[tuple[str, str], ArrivalDue] = {}
    for rule, arrival in waiting:
        whole = arrival.level is Unit.STUDY
        for study, sender in last:
            if arrival.senders and sender not in arrival.senders:
                continue
            at = (last if whole else first)[study, sender] + _wait(arrival)
            before = found.get((rule.name, study))
            if before is not None:
                at = max(before.due_at, at) if whole else min(before.due_at, at)
            found[rule.name, study] = ArrivalDue(rule.name, study, at, whole)
    return list(found.values())


def _wait(arrival: Arrival) -> timedelta:
    """How long nothing more of it has to come."""
    return timedelta(seconds=0.0 if arrival.level is Unit.INSTANCE else arrival.stable)


# --- Quiet ------------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """What arrives as one thing; empty is what lies below it."""

    study_instance_uid: str
    series_instance_uid: str = ""
    sop_instance_uid: str = ""


_PIECES: dict[Unit, Callable[[Receipt], Piece]] = {
    Unit.STUDY: lambda one: Piece(one.study_instance_uid),
    Unit.SERIES: lambda one: Piece(one.study_instance_uid, one.series_instance_uid),
    Unit.INSTANCE: lambda one: Piece(one.study_instance_uid, one.series_instance_uid, one.sop_instance_uid),
}


class Quiet(NamedTuple):
    """What is there, in the order of its last instance, and when the next of the rest will be (None: nothing is)."""

    there: tuple[Piece, ...]
    next_at: datetime | None


def counting(receipts: Iterable[Receipt], arrival: Arrival, callers: Mapping[str, str]) -> list[Receipt]:
    """What counts for the trigger: the last receipt of each instance that a node of `from` sent.

    `callers`: AE titles and the nodes that store under them.
    """
    latest: dict[Piece, Receipt] = {}
    for one in receipts:
        if not arrival.senders or callers.get(one.calling_ae_title, "") in arrival.senders:
            known = latest.setdefault(_PIECES[Unit.INSTANCE](one), one)
            if one.received_at > known.received_at:
                latest[_PIECES[Unit.INSTANCE](one)] = one
    return list(latest.values())


def quiet(receipts: Iterable[Receipt], arrival: Arrival, now: datetime) -> Quiet:
    """What is there of these, which all count."""
    last: dict[Piece, datetime] = {}
    piece_of = _PIECES[arrival.level]
    for one in receipts:
        piece = piece_of(one)
        last[piece] = max(last.get(piece, one.received_at), one.received_at)
    wait = _wait(arrival)
    there = sorted((at, piece) for piece, at in last.items() if at + wait <= now)
    return Quiet(
        tuple(piece for _, piece in there), min((at + wait for at in last.values() if at + wait > now), default=None)
    )


def of_pieces(receipts: Iterable[Receipt], level: Unit, pieces: Iterable[Piece]) -> list[Receipt]:
    """Those of the receipts that belong to these pieces."""
    wanted, piece_of = set(pieces), _PIECES[level]
    return [one for one in receipts if piece_of(one) in wanted]


def zone_of(rules: RuleSet, rule: Rule) -> ZoneInfo:
    """The time zone of a rule's days: its source's; of what arrives, the one that most of the nodes of `from` are in.

    Without `from`: that of most nodes.
    """
    source = rules.node(rule.source)
    if source is not None:
        return ZoneInfo(source.timezone)
    senders = rule.arrival.senders if rule.arrival is not None else ()
    nodes = [node for name in senders or rules.nodes if (node := rules.node(name)) is not None]
    zones = Counter(node.timezone for node in nodes).most_common(1)
    return ZoneInfo(zones[0][0] if zones else "UTC")


# --- Taken ------------------------------------------------------------------------------------------------------------


def tags_of(where: Condition) -> frozenset[int]:
    """The attributes that are read from headers for a condition."""
    named = where.attributes
    return (named - COUNTED) | ({_MODALITY} if _MODALITIES in named else set())


def to_read(where: Condition, unit: Unit, receipts: Iterable[Receipt]) -> list[Receipt]:
    """Of these, all of them of one study, the instances whose headers are read for a condition."""
    if not where.clauses:
        return []
    ordered = sorted(receipts, key=lambda one: (one.series_instance_uid, one.sop_instance_uid))
    shared = all(
        tag in COUNTED or LEVEL_OF.get(tag, QueryRetrieveLevel.IMAGE) is not QueryRetrieveLevel.IMAGE
        for tag in where.attributes
    )
    if unit is Unit.INSTANCE or not shared:
        return ordered
    firsts: dict[str, Receipt] = {}
    for one in ordered:
        firsts.setdefault(one.series_instance_uid, one)
    return list(firsts.values())


class Consignment(msgspec.Struct, frozen=True, kw_only=True):
    """What one transfer is to carry: of a study, or of a series of it. `series_instance_uid` is empty for a study."""

    study_instance_uid: str
    series_instance_uid: str = ""
    receipts: tuple[Receipt, ...]


class Taken(NamedTuple):
    """What a rule takes of a study, and why it leaves the rest; `reason` is empty where it takes something."""

    consignments: tuple[Consignment, ...]
    reason: str = ""


def taken(
    where: Condition,
    unit: Unit,
    receipts: Sequence[Receipt],
    headers: Mapping[str, Identifier],
    evaluation: Evaluation,
) -> Taken:
    """What a rule takes of these receipts, all of one study, whose headers (by SOP Instance UID) were read.

    An instance whose header could not be read satisfies nothing.
    """
    asked = to_read(where, unit, receipts)
    readable = [one for one in asked if one.sop_instance_uid in headers]
    if asked and not readable:
        return Taken((), "the headers of what arrived cannot be read")
    counted = with_counts(receipts, headers)
    holds = where.bind(evaluation)
    full = {one.sop_instance_uid: counted(one) for one in readable}
    matching = {uid for uid, header in full.items() if holds(header)}
    if asked and not matching:
        first = where.explain(next(iter(full.values())), evaluation)
        return Taken((), first.reason or "no instance matches")
    series = {one.series_instance_uid for one in readable if one.sop_instance_uid in matching}
    keep: dict[Unit, Callable[[Receipt], bool]] = {
        Unit.STUDY: lambda one: True,
        Unit.SERIES: lambda one: not asked or one.series_instance_uid in series,
        Unit.INSTANCE: lambda one: not asked or one.sop_instance_uid in matching,
    }
    groups: dict[tuple[str, str], list[Receipt]] = defaultdict(list)
    for one in sorted(filter(keep[unit], receipts), key=lambda one: (one.series_instance_uid, one.sop_instance_uid)):
        groups[one.study_instance_uid, "" if unit is Unit.STUDY else one.series_instance_uid].append(one)
    return Taken(
        tuple(
            Consignment(study_instance_uid=study, series_instance_uid=one, receipts=tuple(members))
            for (study, one), members in groups.items()
        )
    )


def with_counts(receipts: Sequence[Receipt], headers: Mapping[str, Identifier]) -> Callable[[Receipt], Identifier]:
    """The header of an instance (one of `headers`) together with the attributes that follow from all that arrived."""
    instances = {(one.series_instance_uid, one.sop_instance_uid) for one in receipts}
    by_series = Counter(series for series, _ in instances)
    modalities = dict.fromkeys(
        value for one in headers.values() for value in one.elements.get(_MODALITY, ()) if isinstance(value, str)
    )

    def header_of(one: Receipt) -> Identifier:
        return Identifier(
            {
                **headers[one.sop_instance_uid].elements,
                _MODALITIES: tuple(modalities),
                _STUDY_SERIES: (str(len(by_series)),),
                _STUDY_INSTANCES: (str(len(instances)),),
                _SERIES_INSTANCES: (str(by_series[one.series_instance_uid]),),
            }
        )

    return header_of
