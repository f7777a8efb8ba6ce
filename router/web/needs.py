"""What the endpoints need of the service, as protocols: tests give them less than a router."""

from __future__ import annotations

from typing import Protocol

from router.config import Reload, Standing
from router.domain.board import Board, TransferSeen
from router.domain.events import Event
from router.domain.rule import RouterSettings
from router.domain.transfer import Transfer
from router.engine.explained import StudyExplained
from router.lookup import StudyKnown, TransferShown, Wanted


class Boards(Protocol):
    """What the board shows; cheap to ask."""

    def board(self, *, identifiers: bool) -> Board:
        """The board now. Raises LedgerError."""


class Saying(Protocol):
    """What may be said to transfers and rules; each raises RouterError."""

    def say(self, word: str, transfer_id: int) -> Transfer:
        """Say a word to a transfer."""

    def sweep(self, name: str) -> int:
        """Have a rule's sweep done now."""

    def explain(self, study_instance_uid: str, *, offline: bool) -> StudyExplained:
        """What every rule makes of a study."""


class Lookup(Protocol):
    """What the ledger knows of transfers and studies; each raises LedgerError."""

    def transfers(self, wanted: Wanted, *, identifiers: bool) -> tuple[TransferSeen, ...]:
        """Transfers, the newest first."""

    def transfer(self, transfer_id: int, *, identifiers: bool, appointments: bool) -> TransferShown:
        """One transfer. Raises NotThere."""

    def seen(self, transfer: Transfer, *, identifiers: bool) -> TransferSeen:
        """How a transfer is shown."""

    def study(self, study_instance_uid: str, *, identifiers: bool) -> StudyKnown:
        """What is known of a study."""


class Objects(Protocol):
    """The object store of this router."""

    def file(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> tuple[int, int]:
        """A descriptor of the whole Part 10 file of an instance, and the file's size. Raises NotThere."""


class Watched(Protocol):
    """What the endpoints need of the service."""

    @property
    def store(self) -> Objects:
        """The instances that it holds."""

    @property
    def boards(self) -> Boards:
        """What the board shows."""

    @property
    def saying(self) -> Saying:
        """What may be said."""

    @property
    def lookup(self) -> Lookup:
        """What the ledger knows."""

    def observe(self, event: Event) -> None:
        """Tell of an event."""

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type."""

    def health(self) -> dict[str, str]:
        """What is wrong by part; empty when the process works."""

    def readiness(self) -> dict[str, str]:
        """What is not ready by part; empty when work can be taken."""


class Configured(Protocol):
    """What the endpoints need of the configuration's coordinator."""

    @property
    def standing(self) -> Standing:
        """How things stand."""

    @property
    def settings(self) -> RouterSettings:
        """What stands under `router:` and holds."""

    def reload(self) -> Reload:
        """Load the configuration again; takes as long as that takes."""

    def token(self) -> str | None:
        """The secret to be shown; None: there is none. Raises ConfigurationError where it is not to be had."""
