"""What needs a look first, with what to do about it: read off a board. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from router.domain.board import MOST_RECENT, Board, NodeSeen, RuleSeen
from router.domain.sweep import SweepState

LATE = timedelta(minutes=5)
"""A sweep that is so late is overdue; before that it merely waits for its turn."""
RECENT = timedelta(hours=24)
"""Failures that ended within this time want a look."""


class Level(StrEnum):
    """How bad something is."""

    ERROR = "error"
    """Something does not work."""
    WARNING = "warning"
    """Something may not be as it should."""


class Concern(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs a look."""

    level: Level
    what: str
    """A sentence."""
    advice: str
    """What to do, a sentence; empty where the first one says it."""
    section: str
    """The section of the board that shows more of it; empty: none does."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the latest attempt to load the configuration."""

    accepted: bool
    at: datetime
    errors: int = 0
    warnings: int = 0
    restart_needed: tuple[str, ...] = ()
    """Keys below `router` that were changed, and count only after a restart."""


_ADVICE = {
    "disk": "Make room on the disk of the store; until then nothing more is taken.",
    "ledger": "Look whether the disk of the ledger is full or its directory gone; the router's log says more.",
    "store": "Look at the store's directory and the router's log.",
    "hl7": "Look at the router's log: no orders are taken.",
    "service": "Wait a moment; the router's log says more.",
}
_OTHER_ADVICE = "The router's log says more."


def attention(board: Board, problems: Mapping[str, str], loaded: Loaded | None = None) -> tuple[Concern, ...]:
    """What needs a look, the worst first; `problems`: what is not ready, by part."""
    found = [
        *_of_parts({**board.problems, **problems}),
        *_of_configuration(loaded),
        *_of_nodes(board.nodes),
        *_of_routes(board),
        *_of_rules(board),
        *_of_failures(board),
        *_of_quarantine(board),
    ]
    return tuple(sorted(found, key=lambda one: one.level is not Level.ERROR))


def _of_parts(problems: Mapping[str, str]) -> Iterable[Concern]:
    for part, sentence in sorted(problems.items()):
        advice = _ADVICE.get(part, _OTHER_ADVICE)
        yield Concern(level=Level.ERROR, what=f"{part}: {_ended(sentence)}", advice=advice, section="")


def _of_configuration(loaded: Loaded | None) -> Iterable[Concern]:
    if loaded is None:
        return
    if not loaded.accepted:
        count = _counted(loaded.errors, "error")
        what = f"The last change of the configuration was refused ({count}); what ran before runs on."
        advice = "Mend the file that the configuration page names."
        yield Concern(level=Level.ERROR, what=what, advice=advice, section="configuration")
    elif loaded.restart_needed:
        keys = ", ".join(f"router.{key}" for key in loaded.restart_needed)
        what = f"Changes of {keys} count only after a restart."
        advice = "Restart the router when nothing moves."
        yield Concern(level=Level.WARNING, what=what, advice=advice, section="configuration")


def _of_nodes(nodes: Iterable[NodeSeen]) -> Iterable[Concern]:
    for one in nodes:
        if not one.left_alone and one.up is not False:
            continue
        level = Level.ERROR if one.left_alone else Level.WARNING
        what = one.why if one.left_alone and one.why else f"The last exchange with {one.name} failed."
        advice = f"Is it running, and reachable at {one.address}? `dicom-router doctor {one.name}` says what to change."
        yield Concern(level=level, what=what, advice=advice, section="nodes")


def _of_routes(board: Board) -> Iterable[Concern]:
    for one in board.queues:
        if one.stopped:
            what = _ended(one.why[:1].upper() + one.why[1:])
            advice = "Do what the reason says; a retry or release of one of its transfers tries it at once."
            yield Concern(level=Level.ERROR, what=what, advice=advice, section="queues")


def _of_rules(board: Board) -> Iterable[Concern]:
    nodes = {one.name: one for one in board.nodes}
    for one in board.rules:
        if not one.enabled:
            continue
        if one.last is not None and one.last.state in (SweepState.FAILED, SweepState.INCOMPLETE):
            word = "failed" if one.last.state == SweepState.FAILED else "did not find everything"
            what = f"The last sweep of {one.name} {word}: {_ended(one.last.reason or 'no reason is known')}"
            advice = "Once the reason is gone, sweep again; what it did not see is found then."
            level = Level.ERROR if one.last.state == SweepState.FAILED else Level.WARNING
            yield Concern(level=level, what=what, advice=advice, section="rules")
        node = nodes.get(one.source)
        if overdue(one, board.at) and (node is None or node.window_open):
            why = f" {node.why}" if node is not None and node.why else ""
            what = f"A sweep of {one.name} is overdue.{why}"
            advice = "" if why else f"Look whether {one.source} answers and has associations left."
            yield Concern(level=Level.WARNING, what=what, advice=advice, section="rules")


def _of_failures(board: Board) -> Iterable[Concern]:
    recent = [one for one in board.failures if one.finished_at is None or board.at - one.finished_at < RECENT]
    if recent:
        many = "at least " if len(recent) == len(board.failures) >= MOST_RECENT else ""
        verb = "has" if len(recent) == 1 else "have"
        what = f"{many}{_counted(len(recent), 'transfer')} {verb} failed within 24 hours."
        advice = "Each says why; mend that, then retry it."
        yield Concern(level=Level.WARNING, what=what[0].upper() + what[1:], advice=advice, section="failures")


def _of_quarantine(board: Board) -> Iterable[Concern]:
    if board.quarantined:
        verb = "lies" if board.quarantined == 1 else "lie"
        what = f"{_counted(board.quarantined, 'object')} {verb} in quarantine: they came in and could not be stored."
        advice = "`dicom-router quarantine list` says who sent them and why they are there; release or remove them."
        yield Concern(level=Level.WARNING, what=what, advice=advice, section="")


def overdue(rule: RuleSeen, now: datetime) -> bool:
    """Whether a sweep of the rule should have begun a while ago."""
    if not rule.enabled:
        return False
    waits = rule.last is not None and rule.last.state == SweepState.DUE
    due = rule.last.at if waits and rule.last is not None else rule.next_at
    return due is not None and now - due >= LATE


# --- Order: what needs a look stands first ---------------------------------------------------------------------------


def nodes_in_order(nodes: Iterable[NodeSeen]) -> list[NodeSeen]:
    """Those that do not answer, then those that hold work back, then those with work."""
    return sorted(nodes, key=lambda one: (not one.left_alone, one.up is not False, not one.why, -one.queued, one.name))


def rules_in_order(rules: Iterable[RuleSeen], now: datetime) -> list[RuleSeen]:
    """Those whose sweep went wrong or is late, then those that run, then by when they are due; disabled ones last."""
    return sorted(
        rules, key=lambda one: (not one.enabled, not _in_trouble(one, now), not _in_progress(one), _due(one), one.name)
    )


def _in_trouble(rule: RuleSeen, now: datetime) -> bool:
    ended_badly = rule.last is not None and rule.last.state in (SweepState.FAILED, SweepState.INCOMPLETE)
    return ended_badly or overdue(rule, now)


def _in_progress(rule: RuleSeen) -> bool:
    return rule.last is not None and rule.last.state in (SweepState.RUNNING, SweepState.DUE)


def _due(rule: RuleSeen) -> float:
    return rule.next_at.timestamp() if rule.next_at is not None else float("inf")


# --- Words -----------------------------------------------------------------------------------------------------------


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
