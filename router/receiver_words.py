"""What the engine and its receivers say to each other, by pipe: plain values. What is asked stands in `questions`."""

from __future__ import annotations

import msgspec

from router.dimse.store_scp import ServerSettings
from router.domain.access import Admission
from router.domain.commitment import CommitmentAnswer
from router.domain.events import Event
from router.domain.quarantine import QuarantineSettings
from router.domain.receipt import Receipt


class ReceiverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All a receiver needs to know; goes to its process as it is."""

    ae_title: str
    server: ServerSettings
    store: str
    durability: str
    minimum_free: int
    quarantine: QuarantineSettings = QuarantineSettings()
    callers: dict[str, Admission]
    """AE titles that may store -> who that is, and how he may come."""


class Listening(msgspec.Struct, frozen=True):
    """The receiver listens."""

    port: int


class CannotListen(msgspec.Struct, frozen=True):
    """The receiver cannot listen, for this reason; it has ended."""

    reason: str


class Report(msgspec.Struct, frozen=True):
    """What a receiver has to tell since its last report."""

    receipts: list[Receipt]
    events: list[Event]
    answers: list[CommitmentAnswer] = []
    """Storage commitment reports, as they came: whether they were asked for the engine knows."""


class Callers(msgspec.Struct, frozen=True):
    """Who may store from now on."""

    callers: dict[str, Admission]


class Stop(msgspec.Struct, frozen=True):
    """Accept no more, let stores under way end within the grace time, then end."""

    grace: float
