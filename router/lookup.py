"""What the ledger knows of single transfers and studies, for the page and the API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from router.domain.appointment_rows import considered_row
from router.domain.board import TransferSeen
from router.domain.pseudonym import Pseudonyms
from router.domain.route import waits_for
from router.domain.rule import RuleSet
from router.domain.transfer import Attempt, State, Transfer
from router.domain.transfer_seen import transfer_seen
from router.domain.waiting import closed_nodes, explained
from router.engine.missing import missing_instances
from router.engine.ports import Clock, Ledger
from router.errors import NotThere


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which transfers are wanted: those with all of these properties; an empty one is any."""

    states: tuple[State, ...] = ()
    rule: str = ""
    source: str = ""
    destination: str = ""
    study_instance_uid: str = ""
    limit: int = 100


class MissingSeen(msgspec.Struct, frozen=True, kw_only=True):
    """Instances of a transfer that are not there."""

    count: int
    sop_instance_uids: tuple[str, ...] | None = None
    """None where the reader may not see them."""


class TransferShown(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer, with all that the ledger knows of it."""

    transfer: TransferSeen
    attempts: tuple[Attempt, ...]
    """The oldest first; with what peers said of them only where the reader may see identifiers."""
    missing: MissingSeen | None = None
    """None where nobody can say without asking a node."""
    appointments: tuple[dict[str, Any], ...] | None = None
    """Those that it is a prior for, and why; None where the reader may not see them."""


class StudyKnown(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger knows of a study."""

    considered: tuple[dict[str, Any], ...]
    """For which appointments it was looked at as a prior, and what was decided."""
    transfers: tuple[TransferSeen, ...]


class Lookup:
    """Reads the ledger. Thread-safe. Every method raises LedgerError."""

    def __init__(self, *, rules: Callable[[], RuleSet], ledger: Ledger, clock: Clock, pseudonyms: Pseudonyms) -> None:
        self._rules = rules
        self._ledger = ledger
        self._clock = clock
        self._pseudonyms = pseudonyms

    def transfers(self, wanted: Wanted, *, identifiers: bool) -> tuple[TransferSeen, ...]:
        """Transfers, the newest first."""
        return self._seen(
            self._ledger.transfers(
                states=wanted.states,
                rule=wanted.rule,
                source=wanted.source,
                destination=wanted.destination,
                study_instance_uid=wanted.study_instance_uid,
                limit=wanted.limit,
            ),
            identifiers=identifiers,
        )

    def transfer(self, transfer_id: int, *, identifiers: bool, appointments: bool) -> TransferShown:
        """One transfer; with its `appointments`, which the reader must be allowed to see. Raises NotThere."""
        transfer = self._ledger.transfer(transfer_id)
        if transfer is None:
            raise NotThere(f"The ledger has no transfer {transfer_id}.")
        (seen,) = self._seen([transfer], identifiers=identifiers)
        missing = missing_instances(self._ledger, transfer)
        return TransferShown(
            transfer=seen,
            attempts=tuple(one if identifiers else one.discreet for one in self._ledger.attempts(transfer_id)),
            missing=None
            if missing is None
            else MissingSeen(count=len(missing), sop_instance_uids=tuple(missing) if identifiers else None),
            appointments=self._considered(self._ledger.reasons_of(transfer_id), identifiers=identifiers)
            if appointments
            else None,
        )

    def seen(self, transfer: Transfer, *, identifiers: bool) -> TransferSeen:
        """How a transfer is shown."""
        (seen,) = self._seen([transfer], identifiers=identifiers)
        return seen

    def study(self, study_instance_uid: str, *, identifiers: bool) -> StudyKnown:
        """What is known of a study, for who has named it."""
        return StudyKnown(
            considered=self._considered(self._ledger.priors_considered(study_instance_uid), identifiers=True),
            transfers=self.transfers(Wanted(study_instance_uid=study_instance_uid), identifiers=identifiers),
        )

    def _considered(self, found: Sequence[Any], *, identifiers: bool) -> tuple[dict[str, Any], ...]:
        rows = [considered_row(one, self._rules()) for one in found]
        return tuple(row if identifiers else {**row, "study_instance_uid": None} for row in rows)

    def _seen(self, transfers: Iterable[Transfer], *, identifiers: bool) -> tuple[TransferSeen, ...]:
        now: datetime = self._clock.now()
        stopped = {one.route: one for one in self._ledger.stopped_routes()}
        return tuple(
            transfer_seen(one, self._pseudonyms, identifiers=identifiers, stopped=waits_for(one, stopped) is not None)
            for one in explained(transfers, stopped, closed_nodes(self._rules(), now), now)
        )
