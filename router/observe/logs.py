"""Logs: one event per line, console or JSON, without identifiers. The only place that configures structlog."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TextIO

import msgspec
import structlog

from router.domain.events import (
    AppointmentNoted,
    AssociationEnded,
    AssociationsAllowed,
    AttemptEnded,
    BreakerClosed,
    BreakerOpened,
    CapLearned,
    CommitmentNoted,
    ConfigurationLoaded,
    Event,
    HoldsLeft,
    LookEnded,
    MessageAnswered,
    NodeReachability,
    PriorEnded,
    RouteResumed,
    RouteStopped,
    StoreRefusal,
    SweepEnded,
    SweepMissed,
    TransferEnded,
    ValueRefused,
)
from router.domain.outcome import CLEAN
from router.errors import RouterError
from router.observe.labels import ACCEPTED_MESSAGES
from router.observe.silence import silence

REPEAT_SECONDS = 10.0
"""The same refusal, failed association or trouble is told once in so many seconds, with how often it happened since."""

_MESSAGES: dict[type[Event], str] = {
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
    PriorEnded: "prior late, or not there at all, for its appointment",
    MessageAnswered: "HL7 message not taken",
    StoreRefusal: "store refused",
    AssociationEnded: "association failed",
    CommitmentNoted: "storage commitment",
    BreakerOpened: "node left alone: it does not answer; after the pause it is tried again",
    BreakerClosed: "node no longer left alone: what waited for it goes on",
    AssociationsAllowed: "associations to node changed: fewer after it had too many, one more each good minute",
    ConfigurationLoaded: "configuration loaded",
    HoldsLeft: "the rule was removed, or leads there no more: the transfers that it held back go on",
}

_SWEEP_LEVELS = {"complete": "info", "incomplete": "warning", "failed": "error"}
_LOOK_LEVELS = {"done": "info", "again": "warning", "failed": "error"}
_VERDICT_LEVELS = {
    "complete": "info",
    "nothing": "info",
    "unproven": "info",
    "cancelled": "warning",
    "partial": "error",
    "contradicted": "error",
    "failed": "error",
}
_EXPECTED = CLEAN | {"", "gone", "cancelled"}
"""Causes of an attempt's end that nobody needs to look into."""

_REPEATED = (
    *(StoreRefusal, AssociationEnded, CommitmentNoted, SweepMissed),
    *(AppointmentNoted, ValueRefused, PriorEnded, MessageAnswered),
)
"""Events that a peer or a full disk can bring about thousands of times a minute."""

_TITLES = 100
"""Pairs of AE titles whose refusals are told apart."""

_USUAL: dict[type[Event], tuple[str, frozenset[str]]] = {
    **dict.fromkeys(
        (AssociationEnded, CommitmentNoted), ("result", frozenset({"accepted", "requested", "committed", "failed"}))
    ),
    AppointmentNoted: ("news", frozenset({"repeated", "unknown"})),
    PriorEnded: ("result", frozenset({"on_time"})),
    MessageAnswered: ("word", frozenset(ACCEPTED_MESSAGES)),
}
"""Events that are no news where a field has one of these words: what came of it is told elsewhere, or nothing did."""

_UID = re.compile(r"\b(?:\d+(?:\.\d+){4,}|2\.25(?:\.\d+)+)\b")
"""Something that may be a UID; an IPv4 address, with its three dots, is none."""


class _Stream:
    """A stream whose reader may go away: work goes on, unlogged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            return

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


class Repeats:
    """Tells when something that happens again and again is to be told once more. Thread-safe and bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, maximum: int = 1000) -> None:
        self._clock = clock
        self._maximum = maximum
        self._lock = threading.Lock()
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def times(self, what: Hashable) -> int:
        """How often it happened since it was told last, this time included; 0 while it is too early to tell it."""
        with self._lock:
            now = self._clock()
            told_at, since = self._seen.get(what, (-REPEAT_SECONDS, 0))
            due = now - told_at >= REPEAT_SECONDS
            if what not in self._seen and len(self._seen) >= self._maximum:
                del self._seen[next(iter(self._seen))]
            self._seen[what] = (now, 0) if due else (told_at, since + 1)
            return since + 1 if due else 0


_troubles = Repeats()


class _Bridge(logging.Handler):
    """What the router's adapters have to say to nobody in particular; their texts are ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log it."""
        logger().log(record.levelno, record.getMessage(), where=record.name)


def configure(stream: TextIO | None = None, *, json: bool = False, quiet: bool = False) -> None:
    """Send logs to a stream (standard error unless given).

    `quiet` is for commands that tell on the terminal what becomes of the work. Libraries' own loggers and warnings are
    silenced, and the last words of threads are ours: they know patients.
    """
    out = stream or sys.stderr
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _presentable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL if quiet else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=_Stream(out)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    silence(trouble)
    logging.getLogger("router").handlers = [_Bridge()]
    logging.getLogger("router").propagate = False


def logger() -> Any:
    """The logger."""
    return structlog.get_logger()


class LogObserver:
    """Writes events that a person at night wants to see, at a level that says how much they matter. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._up: dict[str, bool] = {}
        self._titles: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._repeats = Repeats(clock)

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, NodeReachability):
            self._reachability(event)
            return
        message = _MESSAGES.get(type(event))
        field, usual = _USUAL.get(type(event), ("", ()))
        if message is None or (field and getattr(event, field) in usual):
            return
        fields = _fields(event)
        if isinstance(event, _REPEATED):
            times = self._repeats.times((type(event), *self._told_apart(event, fields).items()))
            if not times:
                return
            if times > 1:
                fields["times"] = times
        if isinstance(event, HoldsLeft) and not fields.pop("released"):
            message = "a disabled rule holds transfers back until it is enabled, or they are released"
        if isinstance(event, ConfigurationLoaded):
            self._loaded(event, fields)
            return
        getattr(logger(), _level(event))(message, **fields)

    def _loaded(self, event: ConfigurationLoaded, fields: dict[str, Any]) -> None:
        """One line for the news, and one for each thing to do about it."""
        for own_line in ("diagnostics", "restart_needed"):
            fields.pop(own_line)
        if event.successful:
            logger().info(_MESSAGES[ConfigurationLoaded], **fields)
        else:
            logger().error("configuration rejected: the one before stays in force", **fields)
        for diagnostic in event.diagnostics:
            logger().error("configuration rejected", diagnostic=diagnostic)
        if event.restart_needed:
            keys = ", ".join(event.restart_needed)
            logger().warning("changes under router: take effect after a restart", keys=keys)

    def _told_apart(self, event: Event, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields that tell one repeated event from another.

        AE titles are the caller's choice: so many pairs have lines of their own, then an address has one for all.
        """
        if not isinstance(event, StoreRefusal):
            return fields
        titles = (event.calling_ae_title, event.called_ae_title)
        with self._lock:
            if len(self._titles) < _TITLES:
                self._titles.add(titles)
            if titles in self._titles:
                return fields
        return {key: value for key, value in fields.items() if not key.endswith("_ae_title")}

    def _reachability(self, event: NodeReachability) -> None:
        with self._lock:
            before = self._up.get(event.node)
            self._up[event.node] = event.up
        if before is event.up or (before is None and event.up):
            return
        if event.up:
            logger().info("node up", node=event.node)
        else:
            logger().warning("node down", node=event.node)


def trouble(where: str, error: BaseException) -> None:
    """Log that something failed: with its text only if it is ours, for texts of others hold values."""
    ours = isinstance(error, RouterError)
    fields = {"where": where, "error": str(error) if ours else type(error).__name__}
    if not ours:
        fields["at"] = _place(error)
    times = _troubles.times(tuple(fields.items()))
    if not times:
        return
    logger().error("trouble" if ours else "unforeseen error", **fields, **({"times": times} if times > 1 else {}))


def _place(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return ""
    code = frame.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{frame.tb_lineno} {code.co_name}"


def _fields(event: Event) -> dict[str, Any]:
    fields = {key: value for key, value in msgspec.structs.asdict(event).items() if value not in (None, "", {})}
    for key, value in fields.items():
        if key.endswith("_seconds"):
            fields[key] = round(value, 3)
    if "status" in fields:
        fields["status"] = f"0x{fields['status']:04X}"
    if "event" in fields:  # the log's own word for what happened
        fields["hl7_event"] = fields.pop("event")
    if "message" in fields:
        fields["detail"] = fields.pop("message")
    return fields


def _level(event: Event) -> str:
    match event:
        case SweepEnded():
            return _SWEEP_LEVELS.get(event.result, "warning")
        case TransferEnded():
            return _VERDICT_LEVELS.get(event.verdict, "error")
        case AttemptEnded():
            proven = event.state in ("complete", "nothing")
            failed = _VERDICT_LEVELS.get(event.state) == "error"
            return "info" if proven or (event.cause in _EXPECTED and not failed) else "warning"
        case LookEnded():
            level = _LOOK_LEVELS.get(event.result, "warning")
            return "warning" if level == "info" and not event.complete else level
        case PriorEnded():
            return "error" if event.result == "missing" else "warning"
        case AppointmentNoted() | RouteResumed() | BreakerClosed() | AssociationsAllowed(limit=None):
            return "info"
        case ConfigurationLoaded():
            return "info" if event.successful else "error"
        case _:
            return "warning"


def _presentable(logger: Any, method: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """One line whatever a text holds, no control over the terminal, and nothing that looks like a UID."""
    return {key: _clean(value) if isinstance(value, str) else value for key, value in line.items()}


def _clean(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return _UID.sub("…", printable)
