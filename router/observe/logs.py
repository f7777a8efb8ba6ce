"""Logs: one event per line, console or JSON, without identifiers. The only place that configures structlog."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any, TextIO

import msgspec
import structlog

from router.domain.events import (
    AssociationEnded,
    AttemptEnded,
    ConfigurationLoaded,
    Event,
    NodeReachability,
    StoreRefusal,
    SweepEnded,
    SweepMissed,
    TransferEnded,
)

_MESSAGES: dict[type[Event], str] = {
    SweepEnded: "sweep ended",
    SweepMissed: "sweep missed: the one before is still open",
    AttemptEnded: "attempt ended",
    TransferEnded: "transfer ended",
    StoreRefusal: "store refused",
    ConfigurationLoaded: "configuration loaded",
}

_GOOD = frozenset({"complete", "queued", "verifying", "moving", "unproven"})


def configure(stream: TextIO | None = None, *, json: bool = False, quiet: bool = False) -> None:
    """Send logs to a stream (standard error unless given).

    `quiet` is for commands that tell on the terminal what becomes of the work. Libraries' own loggers are silenced:
    they know patients.
    """
    out = stream or sys.stderr
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL if quiet else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    logging.getLogger().handlers = [logging.NullHandler()]
    for name in ("pynetdicom", "pydicom", "apscheduler", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
    warnings.filterwarnings("ignore", module="pydicom")  # its warnings quote values


def logger() -> Any:
    """The logger."""
    return structlog.get_logger()


class LogObserver:
    """Writes events that a person at night wants to see, at a level that says how much they matter."""

    def __init__(self) -> None:
        self._up: dict[str, bool] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, NodeReachability):
            self._reachability(event)
            return
        message = _MESSAGES.get(type(event))
        if message is None:
            if isinstance(event, AssociationEnded) and event.result != "accepted":
                logger().warning("association failed", **_fields(event))
            return
        _level_of(event)(message, **_fields(event))

    def _reachability(self, event: NodeReachability) -> None:
        before = self._up.get(event.node)
        self._up[event.node] = event.up
        if before is not event.up and (before is not None or not event.up):
            (logger().info if event.up else logger().warning)("node up" if event.up else "node down", node=event.node)


def trouble(where: str, error: BaseException) -> None:
    """Log something unforeseen: its kind and place, not its text unless it is ours (texts of others hold values)."""
    from router.errors import RouterError

    text = str(error) if isinstance(error, RouterError) else type(error).__name__
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    at = f"{frame.tb_frame.f_code.co_name}:{frame.tb_lineno}" if frame is not None else ""
    logger().error("unforeseen error", where=where, error=text, at=at)


def _fields(event: Event) -> dict[str, Any]:
    fields = {key: value for key, value in msgspec.structs.asdict(event).items() if value not in (None, "")}
    for key, value in fields.items():
        if key.endswith("_seconds"):
            fields[key] = round(value, 3)
    if fields.get("status") is not None:
        fields["status"] = f"0x{fields['status']:04X}"
    if "message" in fields:
        fields["detail"] = fields.pop("message")
    return fields


def _level_of(event: Event) -> Callable[..., None]:
    log = logger()
    if isinstance(event, SweepEnded):
        return log.info if event.result == "complete" else log.warning  # type: ignore[no-any-return]
    if isinstance(event, AttemptEnded):
        return log.info if event.state in _GOOD and event.cause in ("success", "") else log.warning  # type: ignore[no-any-return]
    if isinstance(event, TransferEnded):
        return log.info if event.verdict in _GOOD | {"nothing"} else log.error  # type: ignore[no-any-return]
    if isinstance(event, ConfigurationLoaded):
        return log.info if event.successful else log.error  # type: ignore[no-any-return]
    return log.warning  # type: ignore[no-any-return]
