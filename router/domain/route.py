"""Routes: what the end of a C-MOVE says about the way it took, when a way is stopped, and when it is tried again.

A stop is for what no study can get past: a destination the source does not know, a service it does not offer. Some
sources say so plainly (A801), others in disguise (A-ABORT, Cxxx, A702), which takes repetition to believe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from router.domain.causes import CAUSES, CLEAN, Remedy
from router.domain.transfer import Route, State, Transfer

MAXIMUM_PROBE_SECONDS = 3600.0
"""The longest wait between two probes of a stopped route, unless the configuration asks for a longer first one."""


class StoppedRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route on which nothing is moved but a probe now and then."""

    route: Route
    cause: str
    reason: str
    stopped_at: datetime
    probe_at: datetime
    """When the next transfer may try it."""
    probes: int = 0


class Run(NamedTuple):
    """How a C-MOVE ended, as far as its route is concerned. Times are monotonic seconds."""

    transfer: int
    cause: str
    began: float
    ended: float
    responded: bool = False
    """There was a Pending response, or a sub-operation that failed: the source began to send."""
    done: int = 0
    """Sub-operations that delivered an instance, and instances that arrived here."""


class Sign(StrEnum):
    """What a run says about its route."""

    PASSED = "passed"
    """The route works."""
    STOPS = "stops"
    """Nothing can go this way until a person changes a configuration."""
    SUSPECT = "suspect"
    """It may mean the same."""
    SILENT = "silent"
    """Nothing."""


class Disguise(NamedTuple):
    """How a source may say that it does not know, or never reaches, a destination."""

    words: str
    within: float = float("inf")
    """It answers so within so many seconds of the request."""
    slow_to_show: bool = False
    """A destination that is down looks the same: it takes several studies, and responses before it prove nothing."""


DISGUISES: dict[str, Disguise] = {
    "aborted": Disguise("the association was aborted", within=2.0),
    "aborted-by-provider": Disguise("the association was aborted", within=2.0),
    "connection-lost": Disguise("the connection was closed", within=2.0),
    # Orthanc says so of a destination that it does not know, and of one that is down; others of one bad study.
    "unable-to-process": Disguise("status Cxxx", slow_to_show=True),
    "suboperations-impossible": Disguise("status A702", slow_to_show=True),
}

REPETITIONS = 2
"""So many quick refusals in a row, of one study or several, stop the route."""

STUDIES = 3
"""So many different studies that all come to nothing, one after the other, stop the route."""

_PASSED = CLEAN | {"success-partial", "success-empty", "warning-uncounted", "some-failed"}

_QUICK = (
    "{times} C-MOVE requests in a row were refused at once without moving anything ({cause}): does the source know the "
    "destination's AE title and address? Enter them there."
)
_SLOW = (
    "{times} studies in a row came to nothing ({cause}): does the source know the destination's AE title and address, "
    "is the destination running there, and not full?"
)


def sign(run: Run) -> Sign:
    """What a run says about its route."""
    if run.done:
        return Sign.PASSED
    disguise = DISGUISES.get(run.cause)
    if disguise is not None and disguise.slow_to_show:
        return Sign.SUSPECT
    if run.responded or run.cause in _PASSED:
        return Sign.PASSED
    if stops(run.cause):
        return Sign.STOPS
    if disguise is not None and run.ended - run.began <= disguise.within:
        return Sign.SUSPECT
    return Sign.SILENT


def stops(cause: str) -> bool:
    """Whether the cause alone, with nothing moved, stops a route."""
    return cause in CAUSES and CAUSES[cause].remedy is Remedy.STOP_ROUTE


def proves(stopped_for: str, run: Run) -> bool:
    """Whether a run, under way or ended, proves that a route stopped for this cause works again."""
    disguise = DISGUISES.get(stopped_for)
    slow_to_show = disguise is not None and disguise.slow_to_show
    return run.done > 0 or run.cause in CLEAN or (run.responded and not slow_to_show)


def suspicions(before: Sequence[Run], run: Run) -> tuple[Run, ...]:
    """The suspicious runs of a route with one more: those that say something new, the latest few."""
    if before and run.began < before[-1].ended:
        return tuple(before)  # beside the one before, not after it: both may have met the same passing trouble
    return (*before, run)[-(REPETITIONS + STUDIES) :]


def grounds(suspicious: Sequence[Run]) -> str:
    """Why suspicious runs in a row stop their route, as a sentence; empty where they do not yet."""
    quick = [run for run in suspicious if not DISGUISES[run.cause].slow_to_show]
    if len(quick) >= REPETITIONS:
        return _QUICK.format(times=len(quick), cause=DISGUISES[quick[-1].cause].words)
    studies = {run.transfer for run in suspicious}
    if len(studies) >= STUDIES:
        return _SLOW.format(times=len(studies), cause=DISGUISES[suspicious[-1].cause].words)
    return ""


def probe_seconds(first: float, probes: int) -> float:
    """Seconds from one probe to the next: the first wait, doubling with each probe made, up to an hour."""
    longest = max(first, MAXIMUM_PROBE_SECONDS)
    return max(1.0, min(longest, first * 2.0 ** min(probes, 32)))


def waits_for(transfer: Transfer, stopped: Mapping[Route, StoppedRoute]) -> StoppedRoute | None:
    """The stop that keeps a queued transfer from moving; None where nothing does."""
    return stopped.get(transfer.route) if transfer.state is State.QUEUED else None


def said_of(stop: StoppedRoute, next_try: str) -> str:
    """Why the transfers of a route wait, as a sentence; `next_try` is a time for people, such as `at 14:05`."""
    source, destination = stop.route
    return f"route {source} -> {destination} is stopped: {stop.reason.rstrip('.')}; next try {next_try}"
