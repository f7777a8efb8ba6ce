"""The part of the ledger that remembers what people were told, and what they are still to be told. Queries by name."""

from __future__ import annotations

from datetime import datetime

from router.domain.notice_delivery import Delivery, Told
from router.domain.notice_group import Turn
from router.ledger import notices
from router.ledger.database import Database
from router.ledger.notices import Decide


class NoticeBook:
    """The notifications of a ledger. Raises only LedgerError; thread-safe, and safe between processes."""

    _database: Database

    def turn_notices(self, decide: Decide, now: datetime) -> Turn:
        """Have it decided what is told, and write that down, in one transaction.

        `decide` gets all groups, and when notifications of the last hour were made, by channel.
        """
        with self._database.write() as connection:
            return notices.turn(connection, decide, now)

    def claim_notification(self, now: datetime, lease_seconds: float) -> Delivery | None:
        """Take the next notification that is due and that nobody delivers; each channel has its own in order."""
        with self._database.read() as connection:
            if not notices.any_due(connection, now):
                return None
        with self._database.write() as connection:
            return notices.claim(connection, now, lease_seconds)

    def finish_notification(self, delivery: Delivery, result: str, now: datetime, reason: str = "") -> bool:
        """It was delivered, or is given up; `reason`: why, or what there is to remark. False: the claim was lost."""
        with self._database.write() as connection:
            return notices.finish(connection, delivery, result, now, reason)

    def put_off_notification(self, delivery: Delivery, next_at: datetime, reason: str) -> bool:
        """An attempt to deliver it failed; the next one is at that time. False where the claim was lost."""
        with self._database.write() as connection:
            return notices.put_off(connection, delivery, next_at, reason)

    def notifications(self, most: int = 1000) -> list[Told]:
        """What people were told lately, or are still to be told, the newest first."""
        with self._database.read() as connection:
            return notices.lately(connection, most)

    def notifications_waiting(self) -> dict[str, int]:
        """Channel -> notifications that are not delivered yet."""
        with self._database.read() as connection:
            return notices.waiting(connection)

    def next_notification(self) -> datetime | None:
        """When the next attempt to deliver one is due; None where none waits."""
        with self._database.read() as connection:
            return notices.next_due(connection)
