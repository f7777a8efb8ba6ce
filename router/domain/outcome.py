"""From statuses, failures, counters and evidence to an Outcome and a Verdict. The tables are the documentation.

Rules of this file: what a status means stands in a table, not in a branch; sentences speak to an administrator and hold
no identifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from router.domain.dicom import SubOperationCounts
from router.domain.transfer import Happening, Instance


class Remedy(StrEnum):
    """What helps against an outcome."""

    NONE = "none"
    """Nothing is wrong; evidence decides."""
    SOON = "soon"
    """Ask again after a short delay."""
    LATER = "later"
    """Ask again, with growing delay."""
    SMALLER = "smaller"
    """Ask again for what is missing."""
    STOP_ROUTE = "stop route"
    """No study can go this way until a person changes a configuration."""
    PERMANENT = "permanent"
    """This request will never succeed as it is."""


class Cause(msgspec.Struct, frozen=True):
    """A row of the outcome table."""

    remedy: Remedy
    sentence: str


CAUSES: dict[str, Cause] = {
    "success": Cause(Remedy.NONE, "The source reports success."),
    "success-partial": Cause(Remedy.SMALLER, "The source reports success, but for fewer instances than there are."),
    "success-empty": Cause(Remedy.LATER, "The source reports success without moving anything."),
    "warning": Cause(Remedy.NONE, "The destination took all instances, some with a warning."),
    "some-failed": Cause(Remedy.SMALLER, "The source reports that some instances could not be moved."),
    "all-failed": Cause(Remedy.LATER, "The source reports that no instance could be moved."),
    "matches-unknown": Cause(Remedy.SMALLER, "The source is out of resources: it cannot count the matches (A701)."),
    "suboperations-impossible": Cause(
        Remedy.LATER, "The source cannot send to the destination (A702): is the destination running and not full?"
    ),
    "out-of-resources": Cause(Remedy.LATER, "The source is out of resources (A700)."),
    "destination-unknown": Cause(
        Remedy.STOP_ROUTE,
        "The source does not know the destination's AE title (A801): enter it there with its address.",
    ),
    "identifier-mismatch": Cause(Remedy.PERMANENT, "The source does not accept the identifier (A900)."),
    "class-not-supported": Cause(Remedy.STOP_ROUTE, "The source does not support this service (0122)."),
    "not-authorised": Cause(Remedy.STOP_ROUTE, "The source does not allow this request (0124)."),
    "argument": Cause(Remedy.PERMANENT, "The source found an error in the request."),
    "processing-failure": Cause(Remedy.SOON, "The source failed while processing the request."),
    "resource-limitation": Cause(Remedy.LATER, "The source is short of resources (0213)."),
    "unable-to-process": Cause(Remedy.LATER, "The source is unable to process the request (Cxxx)."),
    "cancelled-by-peer": Cause(
        Remedy.SMALLER, "The source ended the request as cancelled, though nobody cancelled it."
    ),
    "unknown-status": Cause(Remedy.LATER, "The source answered with a status the standard does not define."),
    "frame-level": Cause(Remedy.PERMANENT, "The source refused a frame level request (AAxx)."),
    "cancelled": Cause(Remedy.NONE, "Cancelled."),
    "unreachable": Cause(Remedy.LATER, "The node cannot be reached."),
    "connection-lost": Cause(Remedy.SMALLER, "The connection broke during the work."),
    "aborted": Cause(Remedy.SMALLER, "The node aborted the association."),
    "timeout": Cause(Remedy.SMALLER, "The node did not answer in time."),
    "no-context": Cause(Remedy.STOP_ROUTE, "The node does not offer this service."),
    "protocol": Cause(Remedy.LATER, "The node violated the DICOM protocol."),
    "rejected": Cause(Remedy.STOP_ROUTE, "The node rejects associations from this router."),
    "rejected-busy": Cause(Remedy.LATER, "The node is busy and rejected the association."),
    "wire": Cause(Remedy.LATER, "The exchange with the node failed."),
    "destination-down": Cause(Remedy.LATER, "The destination cannot be asked for what it holds."),
    "node-removed": Cause(Remedy.PERMANENT, "The configuration no longer has this node."),
    "rule-removed": Cause(Remedy.PERMANENT, "The configuration no longer has this rule."),
    "lease-lost": Cause(Remedy.SMALLER, "The router stopped in the middle; what arrived is looked up first."),
    "already-present": Cause(Remedy.NONE, "The destination held it already; nothing was moved."),
    "gone": Cause(Remedy.NONE, "The source has no instance of it any more."),
}

MOVE_STATUSES: dict[int, str] = {
    0x0000: "success",
    0xA700: "out-of-resources",
    0xA701: "matches-unknown",
    0xA702: "suboperations-impossible",
    0xA801: "destination-unknown",
    0xA900: "identifier-mismatch",
    0xB000: "some-failed",
    0xFE00: "cancelled-by-peer",
    0x0122: "class-not-supported",
    0x0124: "not-authorised",
    0x0105: "argument",
    0x0106: "argument",
    0x0115: "argument",
    0x0117: "argument",
    0x0119: "argument",
    0x0120: "argument",
    0x0121: "argument",
    0x0211: "class-not-supported",
    0x0110: "processing-failure",
    0x0210: "processing-failure",
    0x0212: "processing-failure",
    0x0213: "resource-limitation",
}
"""Final status of a C-MOVE -> cause (PS3.4 table C.4-2, PS3.7 annex C). Ranges are in STATUS_RANGES."""

STATUS_RANGES: tuple[tuple[int, int, str], ...] = (
    (0xAA00, 0xAA04, "frame-level"),
    (0xC000, 0xCFFF, "unable-to-process"),
)

BUSY = frozenset({(3, 1), (3, 2)})
"""Source and reason of A-ASSOCIATE-RJ that mean busy whatever the result says (PS3.8 section 9.3.4)."""

FIND_FAILURES: dict[int, str] = {
    0xA700: "the source refuses: too many matches or out of resources",
    0xA900: "the source does not accept the identifier",
    0x0122: "the source does not support this information model",
    0x0124: "the source does not allow this router to query",
    0xFE00: "the source ended the query early",
    0x0110: "the source failed while processing the query",
    0x0213: "the source is short of resources",
}


def status_cause(status: int) -> str:
    """The cause code of a final C-MOVE status, counters aside."""
    known = MOVE_STATUSES.get(status)
    if known:
        return known
    for low, high, cause in STATUS_RANGES:
        if low <= status <= high:
            return cause
    return "unknown-status"


def error_cause(code: str) -> str:
    """The cause code of a WireError's `cause`; the numbers of a rejection are judged here (PS3.8 section 9.3.4)."""
    if code.startswith("rejected-"):
        result, source, reason = (int(number) for number in code.removeprefix("rejected-").split("-"))
        return "rejected-busy" if result == 2 or (source, reason) in BUSY else "rejected"
    return code if code in CAUSES else "wire"


def quotable(comment: str) -> str:
    """An Error Comment (0000,0902) without what may identify somebody: words with a caret or three digits in a row."""
    return " ".join("…" if _TELLING.search(word) else word for word in comment.split())


_TELLING = re.compile(r"\^|\d\D?\d\D?\d")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The classified result of an attempt."""

    cause: str
    remedy: Remedy
    sentence: str
    comment: str = ""
    """What the peer said of it: for `transfers show`, never for a log."""
    status: int | None = None
    counts: SubOperationCounts = SubOperationCounts()


def outcome_of_status(status: int, counts: SubOperationCounts, asked: int | None, comment: str = "") -> Outcome:
    """Classify a final C-MOVE response; `asked` is the number of instances the request should move, if known."""
    cause = status_cause(status)
    done = (counts.completed or 0) + (counts.warning or 0)
    failed = counts.failed or 0
    short = failed > 0 or (asked is not None and done < asked)
    if cause == "some-failed":
        if done == 0:
            cause = "all-failed"
        elif not short and counts.warning:
            cause = "warning"
    elif cause == "success" and (counts.completed is not None or failed):
        if done == 0 and asked != 0:
            cause = "success-empty" if not failed else "all-failed"
        elif short:
            cause = "success-partial"
    row = CAUSES[cause]
    said = quotable(comment) if row.remedy is not Remedy.NONE else ""
    return Outcome(cause=cause, remedy=row.remedy, sentence=row.sentence, comment=said, status=status, counts=counts)


def outcome_of_error(code: str, message: str) -> Outcome:
    """Classify a WireError by its cause code; its message is the sentence."""
    cause = error_cause(code)
    return Outcome(cause=cause, remedy=CAUSES[cause].remedy, sentence=message)


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What the source holds: `instances` is the IMAGE-level list where it could be had, `count` the number it reports.

    A list shorter than the count is not the whole: archives exist that leave out reports at IMAGE level.
    """

    instances: frozenset[Instance] | None = None
    count: int | None = None

    @property
    def size(self) -> int | None:
        """Number of instances, if known: the greater of list and count."""
        if self.instances is None:
            return self.count
        return max(len(self.instances), self.count or 0)

    @property
    def listed_in_full(self) -> bool:
        """Whether the list names every instance."""
        return self.instances is not None and len(self.instances) == self.size


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the destination holds of it.

    `kind`: `receipts`, `find`, `none`. `present` are SOP Instance UIDs, `count` their number where only that is known.
    """

    kind: str
    present: frozenset[str] | None = None
    count: int | None = None
    note: str = ""
    """Why there is no evidence."""


def missing_instances(expectation: Expectation, evidence: Evidence) -> frozenset[Instance] | None:
    """Which listed instances the evidence does not show; None where either side has no list.

    A count proves nothing about single instances: a destination may hold objects of its own in the study.
    """
    if expectation.instances is None or evidence.present is None:
        return None
    present = evidence.present
    return frozenset(i for i in expectation.instances if i.sop_instance_uid not in present)


def all_there(expectation: Expectation, evidence: Evidence) -> bool:
    """Whether every instance is proven to be there, one by one."""
    return expectation.listed_in_full and missing_instances(expectation, evidence) == frozenset()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence says: a happening of the state table, and why."""

    happening: Happening
    reason: str
    there: int | None = None
    """How many of the expected instances are there, if known."""
    missing: frozenset[Instance] = frozenset()


CLEAN = frozenset({"success", "warning", "already-present"})
"""Causes after which a transfer without evidence counts as moved."""


def judge(expectation: Expectation, evidence: Evidence, cause: str) -> Verdict:
    """The verdict on evidence and the last attempt's cause. Evidence outranks what the PACS says."""
    size = expectation.size
    if size == 0:
        return Verdict(happening=Happening.EMPTY, reason=CAUSES["gone"].sentence, there=0)
    if evidence.kind == "none":
        return _without_evidence(evidence, cause)
    missing = missing_instances(expectation, evidence)
    if missing:
        return _short(len(expectation.instances or ()) - len(missing), size, cause, missing)
    there = len(evidence.present) if evidence.present is not None else evidence.count or 0
    if expectation.instances is not None and missing is not None:
        there = min(there, size or 0)
    if size is None:
        if there and cause in CLEAN:
            reason = f"The destination holds {there}; the source does not say how many there are."
            return Verdict(happening=Happening.NO_EVIDENCE, reason=reason, there=there)
        return _short(there, None, cause, frozenset())
    if there >= size and evidence.present is not None:
        return Verdict(happening=Happening.PROVEN, reason=f"All {size} instances are there.", there=size)
    if there >= size and cause in CLEAN:
        reason = f"The destination counts {there} of {size} instances, but does not list them."
        return Verdict(happening=Happening.NO_EVIDENCE, reason=reason, there=size)
    if missing is not None and cause in CLEAN:
        reason = f"The source counts {size} instances but lists {len(expectation.instances or ())}; those are there."
        return Verdict(happening=Happening.NO_EVIDENCE, reason=reason, there=there)
    return _short(min(there, size), size, cause, frozenset())


def _short(there: int, size: int | None, cause: str, missing: frozenset[Instance]) -> Verdict:
    of = f" of {size}" if size is not None else ""
    if cause in CLEAN or cause == "success-empty" or (cause == "success-partial" and not there):
        happening = Happening.CONTRADICTION
        reason = f"The source reports success, but the destination holds {there}{of} instances."
    else:
        happening = Happening.SOME_MISSING if there else Happening.FAIL
        sentence = CAUSES[cause].sentence if cause in CAUSES else ""
        reason = f"The destination holds {there}{of} instances. {sentence}".strip()
    return Verdict(happening=happening, reason=reason, there=there, missing=missing)


def _without_evidence(evidence: Evidence, cause: str) -> Verdict:
    if cause in CLEAN:
        return Verdict(happening=Happening.NO_EVIDENCE, reason=evidence.note or "Nobody can be asked what arrived.")
    sentence = CAUSES[cause].sentence if cause in CAUSES else ""
    if cause in ("success-partial", "some-failed"):
        return Verdict(happening=Happening.SOME_MISSING, reason=sentence)
    if cause == "success-empty":
        return Verdict(happening=Happening.CONTRADICTION, reason=sentence)
    return Verdict(happening=Happening.FAIL, reason=f"{sentence} {evidence.note}".strip())


def in_order(instances: Iterable[Instance]) -> list[Instance]:
    """Instances by series, then by SOP Instance UID, so that requests are the same every time."""
    return sorted(instances)


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """One C-MOVE of a difference: whole series, or instances of one series."""

    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()
    size: int


def portions(missing: Iterable[Instance], expected: Iterable[Instance], maximum: int) -> list[Portion]:
    """How to ask for what is missing only.

    Series that are missing whole are asked for together at SERIES level, instances one list per series at IMAGE level
    (a list may not cross its parent, PS3.4 section C.4.2.1.4.1); no list is longer than `maximum` UIDs.
    """
    by_series: dict[str, list[str]] = {}
    for series, instance in in_order(missing):
        by_series.setdefault(series, []).append(instance)
    totals: dict[str, int] = {}
    for series, _ in expected:
        totals[series] = totals.get(series, 0) + 1
    whole = [series for series, uids in by_series.items() if len(uids) >= totals.get(series, 0)]
    result = []
    for start in range(0, len(whole), maximum):
        some = tuple(whole[start : start + maximum])
        result.append(Portion(series_instance_uids=some, size=sum(len(by_series[series]) for series in some)))
    for series, uids in by_series.items():
        if len(uids) >= totals.get(series, 0):
            continue
        for start in range(0, len(uids), maximum):
            some = tuple(uids[start : start + maximum])
            result.append(Portion(series_instance_uids=(series,), sop_instance_uids=some, size=len(some)))
    return result
