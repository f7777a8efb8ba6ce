"""The lines of the log: what each event is called, at which level, what it carries, what is no news. Pure tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from router.domain.dicom import SubOperationCounts
from router.domain.events import (
    AppointmentNoted,
    ArrivalLookEnded,
    AssociationEnded,
    AssociationsAllowed,
    AttemptEnded,
    BreakerClosed,
    BreakerOpened,
    CapLearned,
    CertificateExpires,
    CommitmentNoted,
    ConfigurationLoaded,
    DiskSpace,
    Event,
    HoldsLeft,
    InstanceQuarantined,
    InstanceStored,
    LookEnded,
    MessageAnswered,
    MoveResponded,
    NodeResponded,
    NodeWaited,
    PriorEnded,
    RoomLacking,
    RouteResumed,
    RouteStopped,
    StoreRefusal,
    StudyLeft,
    SubOperationsCounted,
    SweepEnded,
    SweepMissed,
    TransferEnded,
    ValueRefused,
)
from router.domain.events_people import ActionTaken, AuditSent, CallerRefused, NotificationEnded
from router.observe.labels import ACCEPTED_MESSAGES

MESSAGES: dict[type[Event], str] = {
    SweepEnded: "sweep ended",
    CapLearned: "node cuts its answers short at so many matches (0: it does not); they are asked in parts",
    SweepMissed: "sweep missed: the one before is still open, or nothing ran at its time",
    AttemptEnded: "attempt ended",
    TransferEnded: "transfer ended",
    RouteStopped: "route stopped: its transfers wait, one tries it now and then",
    RouteResumed: "route resumed",
    AppointmentNoted: "news of appointments",
    ValueRefused: "value refused: it could widen a query; what it stood in is left out",
    LookEnded: "look for priors ended",
    ArrivalLookEnded: "study that arrived looked at",
    PriorEnded: "prior late, or not there at all, for its appointment",
    MessageAnswered: "HL7 message not taken",
    StoreRefusal: "store refused",
    InstanceQuarantined: "instance put into the quarantine: see dicom-router quarantine list",
    AssociationEnded: "association failed",
    CommitmentNoted: "storage commitment",
    BreakerOpened: "node left alone: it does not answer; after the pause it is tried again",
    BreakerClosed: "node no longer left alone: what waited for it goes on",
    AssociationsAllowed: "associations to node changed: fewer after it had too many, one more each good minute",
    DiskSpace: "room on the store's file system (full: instances are refused; low: they soon will be)",
    StudyLeft: "study left the store (router.retention): all of it is proven to be elsewhere",
    RoomLacking: "room is lacking in the store, and no study may leave it: see dicom-router store leaving",
    CertificateExpires: "certificates of a file (expiring: within 14 days)",
    NotificationEnded: "notification (failed: it is tried again; suppressed: told in a summary, with others)",
    AuditSent: "audit messages (failed: they wait, and are tried again; dropped: they are lost)",
    ConfigurationLoaded: "configuration loaded",
    HoldsLeft: "the rule was removed, or leads there no more: the transfers that it held back go on",
    ActionTaken: "somebody had something done over HTTP",
    CallerRefused: "somebody was refused over HTTP",
}

STEPS: dict[type[Event], str] = {
    SubOperationsCounted: "sub-operations counted",
    MoveResponded: "C-MOVE response",
    InstanceStored: "instance stored",
    NodeWaited: "request waited",
    NodeResponded: "node responded",
}
"""What happens all the time, and is told at debug only."""

_SWEEP_LEVELS = {"complete": "info", "incomplete": "warning", "failed": "error"}
_LOOK_LEVELS = {"done": "info", "again": "info", "failed": "error"}
_BROKEN_OFF = frozenset({"cancelled", "rule-removed"})
"""Causes of a sweep's failure that somebody brought about."""
_COMMITMENT_LEVELS = {"refused": "warning", "overdue": "warning"}
_VERDICT_LEVELS = {
    "complete": "info",
    "nothing": "info",
    "unproven": "info",
    "cancelled": "info",
    "partial": "error",
    "contradicted": "error",
    "failed": "error",
}
_NOTIFICATION_LEVELS = {"sent": "info", "failed": "warning", "suppressed": "info", "given_up": "error"}
_STATE_LEVELS = {"ok": "info", "low": "warning", "expiring": "warning"}
"""Of the disk and of certificates; what is not named here stops something."""
REPEATED = (
    *(StoreRefusal, InstanceQuarantined, AssociationEnded, CommitmentNoted, SweepMissed),
    *(AppointmentNoted, ValueRefused, PriorEnded, MessageAnswered, NotificationEnded, AuditSent),
    CallerRefused,
)
"""Events that a peer or a full disk can bring about thousands of times a minute."""


class Usual(NamedTuple):
    """Events that are no news where a field has one of these words; what they are called then, at debug."""

    field: str
    words: frozenset[str]
    message: str


USUAL: dict[type[Event], Usual] = {
    AssociationEnded: Usual("result", frozenset({"accepted"}), "association ended"),
    CommitmentNoted: Usual("result", frozenset({"requested", "committed", "failed"}), "storage commitment"),
    AppointmentNoted: Usual("news", frozenset({"repeated", "unknown"}), "nothing new of appointments"),
    ArrivalLookEnded: Usual("result", frozenset({"known", "again"}), "nothing to pass on yet, or no more"),
    PriorEnded: Usual("result", frozenset({"on_time"}), "prior on time"),
    MessageAnswered: Usual("word", frozenset(ACCEPTED_MESSAGES), "HL7 message taken"),
    AuditSent: Usual("result", frozenset({"sent"}), "audit messages sent"),
}
"""What comes of these is told elsewhere, or nothing does."""


def line_of(event: Event) -> tuple[str, str]:
    """Level and message of an event; both empty where it is for metrics only."""
    kind = type(event)
    usual = USUAL.get(kind)
    if usual is not None and getattr(event, usual.field) in usual.words:
        return "debug", usual.message
    if kind in STEPS:
        return "debug", STEPS[kind]
    return (level_of(event), MESSAGES[kind]) if kind in MESSAGES else ("", "")


def fields_of(event: Event) -> dict[str, Any]:
    """What an event's line carries: no empty values, durations rounded, no word that the log needs itself."""
    fields = {key: value for key, value in msgspec.structs.asdict(event).items() if value not in (None, "", {})}
    fields.pop("lead_seconds", None)  # for the metric: each prior's is another, and so none would be a repetition
    fields |= _counted(fields.pop("counts", None))
    for key, value in fields.items():
        if key.endswith("seconds"):
            fields[key] = round(value, 3)
        if isinstance(value, datetime):
            fields[key] = value.isoformat(timespec="seconds")
    if "status" in fields:
        fields["status"] = f"0x{fields['status']:04X}"
    if "event" in fields:  # the log's own word for what happened
        fields["hl7_event"] = fields.pop("event")
    if "message" in fields:
        fields["detail"] = fields.pop("message")
    return fields


def _counted(counts: SubOperationCounts | None) -> dict[str, int]:
    told = {} if counts is None else counts._asdict()
    return {key: value for key, value in told.items() if value or (key == "remaining" and value is not None)}


def level_of(event: Event) -> str:
    """How much an event matters at night: `warning` and `error` are what somebody must look at, sooner or later."""
    match event:
        case SweepEnded():
            return "info" if event.cause in _BROKEN_OFF else _SWEEP_LEVELS.get(event.result, "warning")
        case TransferEnded():
            return _VERDICT_LEVELS.get(event.verdict, "error")
        case LookEnded():
            level = _LOOK_LEVELS.get(event.result, "warning")
            return "warning" if level == "info" and not event.complete else level
        case PriorEnded():
            return "error" if event.result == "missing" else "warning"
        case AssociationEnded():
            return "warning" if event.result == "rejected_permanent" else "info"
        case CommitmentNoted():
            return _COMMITMENT_LEVELS.get(event.result, "info")
        case RouteStopped() | StoreRefusal(reason="out-of-space"):
            return "error"
        case AttemptEnded() | AppointmentNoted() | RouteResumed() | BreakerClosed() | AssociationsAllowed():
            return "info"  # it goes on by itself; what does not is told with the verdict, the route or the node
        case CapLearned() | ActionTaken() | StudyLeft() | ArrivalLookEnded():
            return "info"
        case DiskSpace() | CertificateExpires():
            return _STATE_LEVELS.get(event.state, "error")
        case NotificationEnded(result="sent", message=remark) if remark:
            return "warning"
        case CallerRefused():
            return "warning" if event.http_status == 429 else "info"  # so many wrong tokens: somebody guesses
        case AuditSent():
            return "error" if event.result == "dropped" else "warning"
        case NotificationEnded():
            return _NOTIFICATION_LEVELS.get(event.result, "warning")
        case ConfigurationLoaded():
            return "info" if event.successful else "error"
        case _:
            return "warning"
