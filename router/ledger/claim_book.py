"""The part of the ledger that workers use all the time: to claim, to prolong and to finish. Queries by name.

These change single rows, so their writers may share a commit, or write beside one another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from router.domain.dicom import SubOperationCounts
from router.domain.transfer import Ending, Finish, Route, Transfer
from router.ledger import claims
from router.ledger import queue as waiting
from router.ledger.database import Database


class ClaimBook:
    """Claims of a ledger. Raises only LedgerError; thread-safe."""

    _database: Database
    _found_some = False
    """Whether the last claim found a transfer: then the next one most likely does, and need not look first."""

    def claim_transfer(
        self,
        sources: Sequence[str],
        now: datetime,
        lease_seconds: float,
        without: Collection[Route] = (),
        *,
        oldest: bool = False,
    ) -> Transfer | None:
        """Take the most urgent due queued transfer of one of these sources; it is then moving, with a new fence.

        With `oldest` the one that has been due for longest. Routes that are stopped, and those in `without`, are passed
        over.
        """
        claimed = self.claim_transfers(sources, now, lease_seconds, 1, without, oldest=oldest)
        return claimed[0] if claimed else None

    def claim_transfers(
        self,
        sources: Sequence[str],
        now: datetime,
        lease_seconds: float,
        most: int,
        without: Collection[Route] = (),
        *,
        oldest: bool = False,
    ) -> list[Transfer]:
        """The same for so many at once, those that `claim_transfer` would take one after the other.

        It may be fewer although more wait: of what is near line at a source one is moved at a time.
        """
        if not self._found_some:
            # Looked for without the right to write first, so that idle workers never stand in a writer's way.
            with self._database.read() as connection:
                if waiting.next_transfer(connection, sources, now, without, oldest=oldest) is None:
                    return []
        with self._database.write(beside=True) as connection:
            claimed = claims.claim_transfers(connection, sources, now, lease_seconds, most, without, oldest=oldest)
        self._found_some = len(claimed) == most
        return claimed

    def claim_probe(
        self, route: Route, now: datetime, lease_seconds: float, next_probe_at: datetime
    ) -> Transfer | None:
        """Take a transfer that is to try a stopped route, if one is due; another may be taken at `next_probe_at`."""
        with self._database.read() as connection:
            if waiting.next_probe(connection, route, now) is None:
                return None
        with self._database.write() as connection:
            return claims.claim_probe(connection, route, now, lease_seconds, next_probe_at)

    def claim_verification(self, destinations: Sequence[str], now: datetime, lease_seconds: float) -> Transfer | None:
        """Take the oldest due verification at one of these destinations that no one has claimed."""
        with self._database.read() as connection:
            if waiting.next_verification(connection, destinations, now) is None:
                return None
        with self._database.write(beside=True) as connection:
            return claims.claim_verification(connection, destinations, now, lease_seconds)

    def renew(self, transfer: Transfer, now: datetime, lease_seconds: float, counts: SubOperationCounts | None) -> bool:
        """Prolong the lease and note progress (None: no news). False where the claim was lost."""
        with self._database.write(beside=True) as connection:
            return claims.renew(connection, transfer, now, lease_seconds, counts)

    def finish(self, transfer: Transfer, finish: Finish, started_at: datetime, now: datetime) -> Transfer | None:
        """End a claimed step: new state by the table, attempt remembered. None where the claim was lost."""
        (ended,) = self.finish_all([Ending(transfer, finish, started_at)], now)
        return ended

    def finish_all(self, endings: Sequence[Ending], now: datetime) -> list[Transfer | None]:
        """The same for many at once, in their order, with one commit: all of them, or where it raises none."""
        with self._database.write(beside=True) as connection:
            return claims.finish_all(connection, endings, now)

    def release_claims(self, transfers: Sequence[Transfer], now: datetime) -> None:
        """End the leases of these claims at once, as if expired (the router stops and did not finish them)."""
        with self._database.write(beside=True) as connection:
            claims.release(connection, transfers, now)
        self._database.tell()
