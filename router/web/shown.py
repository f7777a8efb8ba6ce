"""How values look on the page: times, durations, bars, and a word and a shape for each state. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from router.domain.board import NodeSeen, ReplicaSeen, TransferSeen
from router.domain.sweep import SweepState
from router.domain.transfer import State


class Look(NamedTuple):
    """How something stands: never by colour alone."""

    word: str
    tone: str
    """good, bad, warn, busy or idle: a class of the style sheet."""

    @property
    def shape(self) -> str:
        """A sign that goes with the tone."""
        return SHAPES[self.tone]


SHAPES = {"good": "✓", "bad": "✕", "warn": "▲", "busy": "▶", "idle": "○"}

_STATES = {
    State.QUEUED: "idle",
    State.HELD: "warn",
    State.MOVING: "busy",
    State.VERIFYING: "busy",
    State.COMPLETE: "good",
    State.PARTIAL: "bad",
    State.NOTHING: "idle",
    State.UNPROVEN: "warn",
    State.CONTRADICTED: "bad",
    State.FAILED: "bad",
    State.CANCELLED: "idle",
}
_SWEEPS = {
    SweepState.DUE: Look("waits for its turn", "idle"),
    SweepState.RUNNING: Look("runs", "busy"),
    SweepState.COMPLETE: Look("complete", "good"),
    SweepState.INCOMPLETE: Look("incomplete", "warn"),
    SweepState.FAILED: Look("failed", "bad"),
}
_WAYS = {"pass": Look("open", "good"), "wait": Look("waits", "warn"), "fail": Look("shut", "bad")}
_DECISIONS = {"move": "good", "hold": "warn", "skip": "idle", "leave": "idle"}
LEVELS = {"error": Look("Error", "bad"), "warning": Look("Warning", "warn")}


def of_state(state: str) -> Look:
    """How a state of a transfer looks."""
    return Look(state, _STATES.get(State(state), "idle"))


def of_sweep(state: str) -> Look:
    """How a state of a sweep looks."""
    return _SWEEPS[SweepState(state)]


def of_node(node: NodeSeen) -> Look:
    """How a node stands."""
    if node.left_alone:
        return Look("left alone", "bad")
    if not node.window_open:
        return Look("closed", "warn")
    return {True: Look("up", "good"), False: Look("down", "bad"), None: Look("not asked yet", "idle")}[node.up]


def of_replica(replica: ReplicaSeen) -> Look:
    """How a service on the ledger stands."""
    if replica.silent:
        return Look("silent", "bad")
    return Look("leads", "good") if replica.leads else Look("works", "good")


def of_gate(way: str) -> Look:
    """How a gate stands."""
    return _WAYS.get(way, Look(way, "idle"))


def of_decision(action: str) -> Look:
    """What would be done for a study."""
    return Look(action, _DECISIONS.get(action, "idle"))


def of_clause(passed: bool | None) -> Look:
    """What came of a clause."""
    return {True: Look("holds", "good"), False: Look("does not hold", "bad"), None: Look("not known", "idle")}[passed]


# --- Times -----------------------------------------------------------------------------------------------------------

_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"))


def spelled(seconds: float) -> str:
    """A duration: `12 s`, `4 min`, `1 h 20 min`, `2 d 3 h`; page.js spells it in the same way."""
    whole = max(0, int(seconds))
    for size, unit, lesser, name in _UNITS:
        if whole >= size:
            rest = whole % size // lesser
            return f"{whole // size} {unit} {rest} {name}" if rest else f"{whole // size} {unit}"
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


_GRACE_SECONDS = 60
"""What was due less than this ago is due now; after that it is late."""


def _ago(seconds: float) -> str:
    return f"{spelled(seconds)} ago" if seconds >= 0 else f"in {spelled(-seconds)}"


def _due(seconds: float) -> str:
    if seconds < 0:
        return f"in {spelled(-seconds)}"
    return "now" if seconds < _GRACE_SECONDS else f"{spelled(seconds)} late"


_FORMS = {"ago": _ago, "due": _due, "age": spelled}
"""How a time is told, from the seconds that have passed since."""


def absolute(moment: datetime) -> str:
    """A time in this machine's zone, with its name."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def machine(moment: datetime) -> str:
    """A time for machines, as in the API."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


class Clock:
    """Tells times: relative to now, or absolute so that what is written stays the same while nothing happens."""

    def __init__(self, now: datetime, *, relative: bool) -> None:
        self.now = now
        self._relative = relative

    def told(self, moment: datetime, form: str) -> str:
        """A time in one of the forms `ago`, `due` and `age`."""
        return _FORMS[form]((self.now - moment).total_seconds()) if self._relative else absolute(moment)


# --- Bars ------------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A stretch of a bar, in hundredths of its length."""

    kind: str
    """done, warning or failed: a class of the style sheet."""
    start: float
    length: float


class Bar(NamedTuple):
    """Sub-operations of a transfer: what was done, what failed, what is left."""

    parts: tuple[Part, ...]
    done: int
    total: int | None
    """None: nobody knows how many there are."""
    text: str


def bar_of(seen: TransferSeen) -> Bar:
    """The bar of a transfer. `completed` includes those with a warning."""
    ended = seen.completed + seen.failed
    known = seen.expected is not None
    total = max(seen.expected or 0, ended)
    parts, start = [], 0.0
    clean = max(0, seen.completed - seen.warning)
    for kind, number in (("done", clean), ("warning", seen.completed - clean), ("failed", seen.failed)):
        if number and known and total:
            length = round(100 * number / total, 2)
            parts.append(Part(kind, round(start, 2), length))
            start += length
    said = [f"{seen.completed} of {total}" if known else f"{seen.completed} so far"]
    said += [f"{seen.failed} failed"] if seen.failed else []
    said += [f"{seen.warning} with a warning"] if seen.warning else []
    said += [f"{total - ended} to go"] if known and total > ended else []
    return Bar(tuple(parts), ended, total if known else None, ", ".join(said))
