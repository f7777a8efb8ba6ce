"""What the engine needs for studies that leave the object store: of a ledger (in `ports.Ledger`), and of the files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from router.domain.receipt import Receipt
from router.domain.retention import Departed, Departure, HeldStudy


class DepartureLedger(Protocol):
    """Departures. Raises only LedgerError. Every method is one transaction; thread-safe."""

    def may_leave(self, now: datetime, limit: int, *, oldest: bool, store: str | None = None) -> list[str]:
        """The next studies that may leave a store (None: any) by now: with `oldest` what came first is first."""

    def held_studies(self, study_instance_uids: Collection[str], now: datetime) -> list[HeldStudy]:
        """What is known of these, as far as the store holds something of them."""

    def postpone_leaving(self, again: Mapping[str, datetime], gone: Collection[str] = ()) -> None:
        """Look at these studies again later; at those that are `gone` no more."""

    def hasten_leaving(self, now: datetime) -> None:
        """Look at all anew that may leave some day."""

    def begin_departure(self, seen: HeldStudy, now: datetime) -> Departure | None:
        """Note that a study leaves. None where there is news of it that was not `seen`: then it stays."""

    def unfinished_departures(self, limit: int, store: str | None = None) -> list[Departure]:
        """Studies that are to leave a store (None: any) and have not, the first first."""

    def leaving_receipts(
        self, departure: Departure, after: tuple[str, str], limit: int, store: str | None = None
    ) -> list[Receipt]:
        """The next receipts of what leaves a store (None: any); `after`: Series and SOP Instance UID of the last."""

    def forget_receipts(self, gone: Sequence[Receipt]) -> None:
        """Forget receipts whose files are gone; what came again since has another."""

    def end_departure(self, departure: Departure, now: datetime, store: str | None = None) -> bool:
        """Note that a study has left. False where it has left this store only (None: all of them)."""

    def departed(self, study_instance_uid: str) -> Departed | None:
        """What has left the store of a study; None where nothing has, or somebody wants it here again."""


class Files(Protocol):
    """The files of the object store. Raises only StoreError; thread-safe."""

    def is_whole(self, study_instance_uid: str, receipts: Sequence[Receipt]) -> bool:
        """Whether the store has files of these, no other of the study, and none that just came again."""

    def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        """Remove the files of these; those of which none is there any more, durably. What came again stays."""
