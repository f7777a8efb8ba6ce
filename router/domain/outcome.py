"""From statuses, failures, counters and evidence to an Outcome and a Verdict. The tables are the documentation.

Rules of this file: what a status means stands in a table, not in a branch; sentences speak to an administrator and hold
no identifier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta

import msgspec

from router.domain.causes import CAUSES as CAUSES
from router.domain.causes import CLEAN as CLEAN
from router.domain.causes import FIND_FAILURES as FIND_FAILURES
from router.domain.causes import MOVE_STATUSES as MOVE_STATUSES
from router.domain.causes import Remedy as Remedy
from router.domain.causes import Tally, counted_cause, status_cause
from router.domain.causes import error_cause as error_cause
from router.domain.dicom import SubOperationCounts
from router.domain.expectation import Expectation as Expectation
from router.domain.expectation import Portion as Portion
from router.domain.expectation import portions as portions
from router.domain.rule import Retry
from router.domain.store_causes import STORE_CAUSES
from router.domain.transfer import Happening, Instance, backoff


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


def outcome_of_status(
    status: int,
    counts: SubOperationCounts,
    asked: int | None,
    comment: str = "",
    *,
    wavering: bool = False,
    note: str = "",
) -> Outcome:
    """Classify a final C-MOVE or C-GET response; `asked` is the number of instances it should move, if known.

    `counts` are the highest counters of all its responses; `wavering`: they fell, or contradicted each other. `note` is
    what this side knows of the reason: it goes with the sentence where something is wrong.
    """
    tally = Tally(counts.completed, counts.failed, counts.warning, asked, wavering)
    cause = counted_cause(status_cause(status), tally)
    row = CAUSES[cause]
    wrong = row.remedy is not Remedy.NONE
    sentence = f"{row.sentence} {note}" if note and wrong else row.sentence
    said = quotable(comment) if wrong else ""
    return Outcome(cause=cause, remedy=row.remedy, sentence=sentence, comment=said, status=status, counts=counts)


def outcome_of_error(code: str, message: str) -> Outcome:
    """Classify a WireError by its cause code; its message is the sentence."""
    cause = error_cause(code)
    return Outcome(cause=cause, remedy=CAUSES[cause].remedy, sentence=message)


SOON_DELAY = 2.0
"""Seconds before an attempt that is worth a try soon; doubles each time, with jitter."""
SOON_TRIES = 3
"""So many attempts are followed by another one soon; after that each waits as long as any other."""


def retry_wait(retry: Retry, cause: str, attempts: int, uniform: float) -> timedelta | None:
    """The wait before the next attempt after this cause; None where there is to be none.

    `attempts` counts those made (at least 1), `uniform` is a random number of [0, 1).
    """
    row = CAUSES.get(cause, CAUSES["wire"])
    made = max(1, attempts)
    if made >= min(retry.attempts, row.tries or retry.attempts):
        return None
    if row.remedy is Remedy.SOON and made <= SOON_TRIES:
        ceiling = min(retry.delay, SOON_DELAY * 2.0 ** (made - 1))
        return timedelta(seconds=ceiling * (0.5 + uniform / 2))
    return backoff(retry, made, uniform)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the destination holds of it.

    `kind`: `receipts`, `commitment`, `find`, `none`. `present` are SOP Instance UIDs, `count` their number where only
    that is known.
    """

    kind: str
    present: frozenset[str] | None = None
    count: int | None = None
    series: Mapping[str, int] | None = None
    """Series Instance UID -> instances it holds of it, where it says so."""
    unlisted: frozenset[str] = frozenset()
    """Series that it counts but does not list."""
    failures: Mapping[str, int] = {}
    """SOP Instance UID -> Failure Reason (0008,1197) of those that storage commitment was refused for."""
    note: str = ""
    """Why there is no evidence, or none that is stronger."""


def missing_instances(expectation: Expectation, evidence: Evidence) -> frozenset[Instance] | None:
    """Which listed instances the evidence does not show; None where either side has no list.

    A count proves nothing about single instances: a destination may hold objects of its own in the study.
    """
    if expectation.instances is None or evidence.present is None:
        return None
    present, unlisted = evidence.present, evidence.unlisted
    return frozenset(
        one
        for one in expectation.instances
        if one.sop_instance_uid not in present and one.series_instance_uid not in unlisted
    )


def short_series(expectation: Expectation, evidence: Evidence) -> frozenset[str] | None:
    """The series of which fewer instances are there than the source holds; None where either side has no numbers."""
    numbers = expectation.by_series
    if numbers is None or evidence.series is None:
        return None
    short = {series for series, number in numbers.items() if evidence.series.get(series, 0) < number}
    return frozenset(short | {one.series_instance_uid for one in missing_instances(expectation, evidence) or ()})


def all_there(expectation: Expectation, evidence: Evidence) -> bool:
    """Whether every instance is proven to be there, one by one."""
    return (
        expectation.listed_in_full
        and missing_instances(expectation, evidence) == frozenset()
        and all(one.series_instance_uid not in evidence.unlisted for one in expectation.instances or ())
    )


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence says: a happening of the state table, and why."""

    happening: Happening
    reason: str
    there: int | None = None
    """How many of the expected instances are there, if known."""
    missing: frozenset[Instance] = frozenset()
    short: frozenset[str] = frozenset()
    """Series that are not whole there, where the source lists no instances but counts them."""


def judge(expectation: Expectation, evidence: Evidence, cause: str) -> Verdict:
    """The verdict on evidence and the last attempt's cause. Evidence outranks what the PACS says."""
    size = expectation.size
    if size == 0:
        return Verdict(happening=Happening.EMPTY, reason=CAUSES["gone"].sentence, there=0)
    if evidence.kind == "none":
        return _without_evidence(evidence, cause)
    missing = missing_instances(expectation, evidence)
    short = short_series(expectation, evidence)
    there = _there(expectation, evidence, missing)
    if missing or short:
        return _short(there, size, cause, missing or frozenset(), short or frozenset())
    if size is None:
        if there and cause in CLEAN:
            reason = f"The destination holds {there}; the source does not say how many there are."
            return Verdict(happening=Happening.NO_EVIDENCE, reason=reason, there=there)
        return _short(there, None, cause)
    if expectation.listed_in_full and missing is not None and not _counted_only(expectation, evidence):
        return Verdict(happening=Happening.PROVEN, reason=f"All {size} instances are there.", there=size)
    if cause in CLEAN and not missing and _same_numbers(expectation, evidence):
        reason = f"All {size} instances are there, by the number of each series."
        return Verdict(happening=Happening.PROVEN, reason=reason, there=size)
    if there >= size and cause in CLEAN:
        listed = evidence.present is not None and not _counted_only(expectation, evidence)
        reason = (
            f"The destination holds {there} instances, the source counts {size} but does not list them all."
            if listed
            else f"The destination counts {there} of {size} instances, but does not list them all."
        )
        return Verdict(happening=Happening.NO_EVIDENCE, reason=reason, there=size)
    if missing is not None and cause in CLEAN:
        reason = f"The source counts {size} instances but lists {len(expectation.instances or ())}; those are there."
        return Verdict(happening=Happening.NO_EVIDENCE, reason=reason, there=there)
    return _short(min(there, size), size, cause)


def _same_numbers(expectation: Expectation, evidence: Evidence) -> bool:
    """Whether both sides hold the same number of instances of the same series: nothing of somebody else's among them.

    More than the source has would prove nothing: a destination may hold objects of its own in the study.
    """
    numbers = expectation.by_series
    if numbers is None or sum(numbers.values()) != expectation.size or evidence.series is None:
        return False
    listed = evidence.present is not None and not _counted_only(expectation, evidence)
    return listed and {series: held for series, held in evidence.series.items() if held} == dict(numbers)


def _counted_only(expectation: Expectation, evidence: Evidence) -> bool:
    """Whether the destination counts a series that matters, but does not list it."""
    return bool(evidence.unlisted & (expectation.series.keys() if expectation.series else evidence.unlisted))


def _there(expectation: Expectation, evidence: Evidence, missing: frozenset[Instance] | None) -> int:
    """How many of the expected instances are there; objects of its own in the study do not count, if that shows."""
    numbers = expectation.by_series
    if numbers is not None and evidence.series is not None:
        held = sum(min(number, evidence.series.get(series, 0)) for series, number in numbers.items())
        return min(held, sum(numbers.values()) - len(missing or ()))
    if missing:
        return len(expectation.instances or ()) - len(missing)
    if missing is not None and evidence.present is not None:
        return min(len(evidence.present), expectation.size or len(evidence.present))
    return len(evidence.present) if evidence.present is not None else evidence.count or 0


def _short(
    there: int,
    size: int | None,
    cause: str,
    missing: frozenset[Instance] = frozenset(),
    short: frozenset[str] = frozenset(),
) -> Verdict:
    of = f" of {size}" if size is not None else ""
    where = f"; {len(short)} series are not whole" if short and not missing else ""
    if cause in CLEAN or cause == "success-empty" or (cause == "success-partial" and not there):
        happening = Happening.CONTRADICTION
        sent = "The destination acknowledged what was sent" if cause in STORE_CAUSES else "The source reports success"
        reason = f"{sent}, but the destination holds {there}{of} instances{where}."
    else:
        happening = Happening.SOME_MISSING if there else Happening.FAIL
        sentence = CAUSES[cause].sentence if cause in CAUSES else ""
        reason = f"The destination holds {there}{of} instances{where}. {sentence}".strip()
    return Verdict(happening=happening, reason=reason, there=there, missing=missing, short=short)


def _without_evidence(evidence: Evidence, cause: str) -> Verdict:
    if cause in CLEAN:
        return Verdict(happening=Happening.NO_EVIDENCE, reason=evidence.note or "Nobody can be asked what arrived.")
    sentence = CAUSES[cause].sentence if cause in CAUSES else ""
    if cause in ("success-partial", "some-failed", "warning-uncounted"):
        return Verdict(happening=Happening.SOME_MISSING, reason=sentence)
    if cause == "success-empty":
        return Verdict(happening=Happening.CONTRADICTION, reason=sentence)
    return Verdict(happening=Happening.FAIL, reason=f"{sentence} {evidence.note}".strip())
