"""When a node that does not answer is left alone, and when it is tried again. Pure: times are given, in seconds."""

from __future__ import annotations

from enum import Enum

import msgspec

from router.domain.causes import CAUSES, error_cause
from router.domain.rule import BreakerSettings


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """Closed: requests go to the node. Open: nothing is begun with it, but for a probe when that is due.

    Times are of one clock that never goes back.
    """

    failures: int = 0
    """Requests in a row that got no answer."""
    opened_at: float | None = None
    """None: it is closed."""
    pauses: int = 0
    """Pauses since it opened, the present one included."""
    pause: float = 0.0
    """Seconds of the present pause."""
    probe_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Nothing is begun with the node."""
        return self.opened_at is not None

    def probe_due(self, now: float) -> bool:
        """Whether the node is to be tried: half-open."""
        return self.is_open and now >= self.probe_at

    def failed(self, settings: BreakerSettings, now: float, *, probe: bool = False) -> Breaker:
        """A request got no answer. While it is open only a probe that failed makes the pause longer."""
        failures = self.failures + 1
        if self.opened_at is None and failures < settings.failures:
            return Breaker(failures=failures)
        if self.opened_at is not None and not probe:
            return msgspec.structs.replace(self, failures=failures)
        pause = settings.pause if self.opened_at is None else 2 * self.pause
        pause = min(pause, settings.maximum_pause)
        opened_at = now if self.opened_at is None else self.opened_at
        return Breaker(
            failures=failures, opened_at=opened_at, pauses=self.pauses + 1, pause=pause, probe_at=now + pause
        )

    def answered(self) -> Breaker:
        """The node answered, whatever it said: it is there."""
        return self if self == Breaker() else Breaker()


class Sign(Enum):
    """What the end of a request says about the node."""

    ANSWERED = "answered"
    SILENT = "silent"
    """It got no answer."""
    BUSY = "busy"
    """It took no association for now (a transient rejection), or is out of resources: it is asked for too much."""
    NOTHING = "nothing"
    """It says nothing about the node: this side ended it, or nobody knows."""


BUSY_CAUSES = frozenset({"rejected-congestion", "rejected-local-limit", "rejected-busy", "rejected-busy-permanent"})
"""Causes of a rejection that passes (PS3.8 section 9.3.4)."""

SILENT_CAUSES = frozenset(
    {
        *("unreachable", "connection-refused", "connect-timeout", "name-unresolved", "negotiation-timeout"),
        *("tls", "tls-not-spoken", "connection-lost", "timeout", "timeout-inactivity", "timeout-total"),
        *(cause for cause in CAUSES if cause.startswith("aborted")),
    }
)
"""Causes of requests that got no answer, unless something was heard before."""

HELD_OFF = frozenset({"left-alone", "no-free-association"})
"""Causes of requests that were never sent: the node is left alone, or had no association for them."""

_OF_THIS_SIDE = HELD_OFF | {"cancelled", "protocol", "wire", "tls-files"}

SHORT_OF_RESOURCES = frozenset({0x0213, 0xA700})
"""Statuses by which a node says that it is asked for too much (PS3.7 annex C, PS3.4 tables C.4-1 and C.4-2)."""


def sign_of_error(code: str, *, heard: bool = False) -> Sign:
    """What a WireError's `cause` says of the node; `heard`: something had come before."""
    cause = error_cause(code)
    if cause in BUSY_CAUSES:
        return Sign.BUSY
    if cause in SILENT_CAUSES:
        return Sign.ANSWERED if heard else Sign.SILENT
    return Sign.NOTHING if cause in _OF_THIS_SIDE else Sign.ANSWERED


def sign_of_status(status: int) -> Sign:
    """What a final status says of the node."""
    return Sign.BUSY if status in SHORT_OF_RESOURCES else Sign.ANSWERED
