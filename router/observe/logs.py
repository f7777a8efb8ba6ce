"""Logs: one event per line, console or JSON, without identifiers. The only place that configures structlog."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import NoneType
from typing import Any, TextIO

import structlog

from router.domain.events import ConfigurationLoaded, Event, HoldsLeft, NodeReachability, StoreRefusal
from router.domain.pseudonym import without_uids
from router.errors import RouterError
from router.observe.log_lines import MESSAGES, REPEATED, fields_of, line_of
from router.observe.silence import silence

REPEAT_SECONDS = 10.0
"""The same refusal, failed association or trouble is told once in so many seconds, with how often it happened since."""

_TITLES = 100
"""Pairs of AE titles whose refusals are told apart."""

_FIRST = ("timestamp", "level", "event", "transfer", "sweep", "appointment", "study", "rule", "source", "destination")
"""Keys that come first in a line, in this order; the others follow as they were told."""


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


def configure(stream: TextIO | None = None, *, json: bool = False, level: str = "info", quiet: bool = False) -> None:
    """Send logs of a level (`debug`, `info`, `warning` or `error`) and above to a stream, else to standard error.

    `quiet` is for commands that tell on the terminal what becomes of the work. Libraries' own loggers and warnings are
    silenced, and the last words of threads are ours: they know patients.
    """
    out = stream or sys.stderr
    console = structlog.dev.ConsoleRenderer(colors=out.isatty(), sort_keys=False)
    renderer: Any = structlog.processors.JSONRenderer() if json else console
    least = logging.CRITICAL if quiet else logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _presentable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(file=_Stream(out)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    silence(trouble)
    logging.getLogger("router").handlers = [_Bridge()]
    logging.getLogger("router").propagate = False


def logger() -> Any:
    """The logger."""
    return structlog.get_logger()


def bound(**fields: object) -> AbstractContextManager[None]:
    """While it lasts, each line of this thread carries these fields too, but for the empty ones."""
    return structlog.contextvars.bound_contextvars(**{key: value for key, value in fields.items() if value})


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
        level, message = line_of(event)
        if not message or (level == "debug" and not logger().is_enabled_for(logging.DEBUG)):
            return
        fields = fields_of(event)
        if isinstance(event, REPEATED) and level != "debug":
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
        getattr(logger(), level)(message, **fields)

    def _loaded(self, event: ConfigurationLoaded, fields: dict[str, Any]) -> None:
        """One line for the news, and one for each thing to do about it."""
        for own_line in ("diagnostics", "restart_needed"):
            fields.pop(own_line)
        if event.successful:
            logger().info(MESSAGES[ConfigurationLoaded], **fields)
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
        if before is event.up:
            return
        if before is None and event.up:
            logger().debug("node answers", node=event.node)
        elif event.up:
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


def _presentable(logger: Any, method: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """One line whatever a text holds, no control over the terminal, and nothing that looks like a UID."""
    keys = dict.fromkeys((*(key for key in _FIRST if key in line), *line))
    return {key: _clean(line[key]) for key in keys}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        printable = "".join(character if character.isprintable() else " " for character in value)
        return without_uids(printable)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(inner) for inner in value]
    if isinstance(value, Path):
        return _clean(str(value))
    return value if isinstance(value, (int, float, NoneType)) else f"<{type(value).__name__}>"  # its text may hold any
