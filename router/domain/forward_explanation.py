"""Why a rule passes on what has arrived, or does not: who sent it, is it quiet, what matches, who gets it. Pure.

For a terminal only: it shows values of patients. What it decides is what `forwarding.decide` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from router.domain.arriving import Consignment, Quiet, counting, of_pieces, quiet, taken, to_read, with_counts
from router.domain.condition import Evaluation, Explanation
from router.domain.dicom import Identifier
from router.domain.forward import Choice, Group
from router.domain.forward_choice import WORDS, Health
from router.domain.forwarding import Known, Passage, decide
from router.domain.gates import Gate, Way
from router.domain.receipt import Receipt
from router.domain.restraint import spelled
from router.domain.rule import Arrival, Rule, Unit
from router.domain.selection import Action, Decision
from router.domain.transfer import Intent

CONDITION, NOT_QUIET = "condition", "quiet"
"""Codes of decisions: no instance matches; more may come."""

MOST_KINDS = 5
"""Instances that are explained one by one: of each kind, one."""

_PLURALS = {Unit.STUDY: "studies", Unit.SERIES: "series", Unit.INSTANCE: "instances"}


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision depends on beside the study itself; see `forwarding.decide`."""

    known: Mapping[Intent, Known] = {}
    health: Mapping[str, Health] = {}
    studies: Mapping[str, int] = {}
    callers: Mapping[str, str] = {}
    manual: bool = False


class ForwardExplained(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule makes of what has arrived of one study."""

    counted: int
    """Instances that count: one of the rule's `from` sent them."""
    taken: int
    """Of those, how many the rule takes."""
    gate: Gate
    """Whether all that counts is quiet."""
    clauses: tuple[Explanation, ...]
    reason: str
    """Why it takes nothing; empty where it takes something."""
    passages: tuple[Passage, ...]
    """As if all of it were quiet."""
    coming: frozenset[str]
    """SOP Instance UIDs of what is not quiet yet."""
    notes: tuple[str, ...]
    """What else there is to say, in sentences."""


def explain_forward(
    rule: Rule,
    receipts: Sequence[Receipt],
    headers: Mapping[str, Identifier],
    evaluation: Evaluation,
    around: Surroundings,
) -> ForwardExplained:
    """Explain it; `receipts` are all of one study, `headers` (by SOP Instance UID) those of `arriving.to_read`."""
    arrival, action = rule.arrival, rule.forward
    assert arrival is not None
    assert action is not None
    counted = counting(receipts, arrival, around.callers)
    calm = quiet(counted, arrival, evaluation.now)
    found = taken(rule.where, action.level, counted, headers, evaluation)
    passages = decide(
        rule=rule,
        consignments=found.consignments,
        known=around.known,
        health=around.health,
        studies=around.studies,
        callers=around.callers,
        manual=around.manual,
    )
    return ForwardExplained(
        counted=len(counted),
        taken=sum(len(one.receipts) for one in found.consignments),
        gate=_quiet(counted, arrival, calm, evaluation),
        clauses=_clauses(rule, action.level, counted, headers, evaluation),
        reason=found.reason,
        passages=tuple(passages),
        coming=_coming(counted, arrival, calm),
        notes=(
            _arrived(receipts, counted, arrival, around.callers),
            *_unread(rule, action.level, counted, headers),
            *_groups(action.to, found.consignments, passages, around),
        ),
    )


# --- Who sent it, and is that all -------------------------------------------------------------------------------------


def _arrived(
    receipts: Sequence[Receipt], counted: Sequence[Receipt], arrival: Arrival, callers: Mapping[str, str]
) -> str:
    if not receipts:
        return "Nothing of the study has arrived here."
    senders = Counter(callers.get(one.calling_ae_title, "") for one in receipts)
    parts = []
    for name, number in senders.most_common():
        counts = not arrival.senders or name in arrival.senders
        parts.append(
            f"{number} from {name or 'nodes that are not configured'}" + ("" if counts else " (does not count)")
        )
    only = f" Only what {' or '.join(arrival.senders)} sent counts." if len(counted) < len(receipts) else ""
    total = len(receipts)
    return f"{total} {'instance has' if total == 1 else 'instances have'} arrived here: {', '.join(parts)}.{only}"


def _quiet(counted: Sequence[Receipt], arrival: Arrival, found: Quiet, evaluation: Evaluation) -> Gate:
    name = "quiet"
    if not counted:
        return Gate(gate=name, way=Way.FAIL, reason="nothing that counts has arrived")
    if arrival.level is Unit.INSTANCE:
        return Gate(gate=name, way=Way.PASS, reason="each instance goes at once (arrival.level: instance)")
    latest = max(one.received_at for one in counted)
    last = f"the last instance came at {_clock(latest, evaluation)}"
    stable = f"{spelled(arrival.stable)} without another are asked for (arrival.stable)"
    if found.next_at is None:
        return Gate(gate=name, way=Way.PASS, reason=f"{last}; {stable}")
    ready = f"; {_number(len(found.there), arrival.level)} of it already quiet" if found.there else ""
    all_of_it = latest + timedelta(seconds=arrival.stable)
    return Gate(gate=name, way=Way.WAIT, reason=f"{last}; {stable}{ready}", opens_at=all_of_it)


def _coming(counted: Sequence[Receipt], arrival: Arrival, found: Quiet) -> frozenset[str]:
    there = {one.sop_instance_uid for one in of_pieces(counted, arrival.level, found.there)}
    return frozenset(one.sop_instance_uid for one in counted if one.sop_instance_uid not in there)


def _clock(moment: datetime, evaluation: Evaluation) -> str:
    there, now = moment.astimezone(evaluation.zone), evaluation.now.astimezone(evaluation.zone)
    return f"{there:%H:%M:%S}" if there.date() == now.date() else f"{there:%Y-%m-%d %H:%M:%S}"


def _number(number: int, unit: Unit) -> str:
    return f"{number} {unit if number == 1 else _PLURALS[unit]}"


# --- What matches -----------------------------------------------------------------------------------------------------


def _unread(rule: Rule, level: Unit, counted: Sequence[Receipt], headers: Mapping[str, Identifier]) -> list[str]:
    asked = to_read(rule.where, level, counted)
    unread = sum(one.sop_instance_uid not in headers for one in asked)
    return [f"Of {unread} of {len(asked)} files the header cannot be read; they match nothing."] if unread else []


def _clauses(
    rule: Rule, level: Unit, counted: Sequence[Receipt], headers: Mapping[str, Identifier], evaluation: Evaluation
) -> tuple[Explanation, ...]:
    """The condition, asked of the instances that are asked; those that say the same are one."""
    asked = [one for one in to_read(rule.where, level, counted) if one.sop_instance_uid in headers]
    header_of = with_counts(counted, headers)
    kinds = Counter(rule.where.explain(header_of(one), evaluation) for one in asked)
    if not kinds:
        return ()
    if len(kinds) == 1:
        return (msgspec.structs.replace(next(iter(kinds)), text="where: all of"),)
    matching = sum(number for one, number in kinds.items() if one.passed)
    ordered = sorted(kinds.items(), key=lambda item: (not item[0].passed, -item[1]))
    parts = [msgspec.structs.replace(one, text=f"{number} of them: all of") for one, number in ordered[:MOST_KINDS]]
    return (
        Explanation(f"one of its instances matches: {matching} of {len(asked)} do", matching > 0, (), tuple(parts)),
    )


# --- Who gets it ------------------------------------------------------------------------------------------------------


def _groups(
    groups: Sequence[Group],
    consignments: Sequence[Consignment],
    passages: Sequence[Passage],
    around: Surroundings,
) -> list[str]:
    """Which member of a group gets it, and why that one."""
    if not consignments:
        return []
    found = []
    senders = {around.callers.get(one.calling_ae_title, "") for part in consignments for one in part.receipts}
    for group in groups:
        if group.choice is Choice.ALL_OF:
            continue
        chosen = next((one.decision for one in passages if one.decision.destination in group.nodes), None)
        head = f"Of {group.choice} [{', '.join(group.nodes)}]"
        if chosen is None:
            found.append(f"{head} nobody gets it: they sent it.")
            continue
        states = [f"{name} {'sent it' if name in senders else _standing(name, group, around)}" for name in group.nodes]
        found.append(f"{head} {chosen.destination} gets it: {', '.join(states)}.")
    return found


def _standing(name: str, group: Group, around: Surroundings) -> str:
    words = WORDS[around.health.get(name, Health.READY)]
    if group.choice is not Choice.ROUND_ROBIN:
        return words
    number = around.studies.get(name, 0)
    return f"{words} and has got {number} {'study' if number == 1 else 'studies'}"


# --- What comes of it -------------------------------------------------------------------------------------------------


def passed_on(study_instance_uid: str, found: ForwardExplained) -> list[Decision]:
    """What would be done now, for each destination: with the number of instances that would go.

    What is not quiet yet is held until it is.
    """
    if not found.counted:
        return []
    if found.reason:
        return [
            Decision(
                action=Action.SKIP,
                code=CONDITION,
                reason=found.reason,
                study_instance_uid=study_instance_uid,
                instance_count=found.counted,
            )
        ]
    return [_now(one, found) for one in found.passages]


def _now(passage: Passage, found: ForwardExplained) -> Decision:
    decision = passage.decision
    if decision.action is not Action.MOVE:
        return decision
    ready = [one for one in passage.missing if one.sop_instance_uid not in found.coming]
    if ready or not passage.missing:
        return msgspec.structs.replace(decision, instance_count=len(ready))
    return msgspec.structs.replace(
        decision,
        action=Action.HOLD,
        code=NOT_QUIET,
        reason=f"more may come: {found.gate.reason}",
        instance_count=len(passage.missing),
        new=None,
    )
