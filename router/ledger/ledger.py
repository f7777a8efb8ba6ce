"""The ledger as the engine sees it: every query by name, each in its transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Self

from router.domain.commitment import Commitment, CommitmentAnswer
from router.domain.holds import HeldRoute
from router.domain.overview import ServiceInfo
from router.domain.restraint import Held
from router.domain.sweep import SweepDue, SweepRecord, SweepReport
from router.domain.transfer import (
    Attempt,
    Happening,
    Instance,
    Intent,
    NewTransfer,
    Route,
    State,
    Transfer,
    TransferFact,
)
from router.ledger import appointments as appointment_queries
from router.ledger import arrivals as arrival_queries
from router.ledger import caps as cap_queries
from router.ledger import claims, counting, held, intents
from router.ledger import commitments as commitment_queries
from router.ledger import instances as instance_queries
from router.ledger import services as service_queries
from router.ledger import sweeps as sweep_queries
from router.ledger import transfers as transfer_queries
from router.ledger.appointment_book import AppointmentBook
from router.ledger.arrival_book import ArrivalBook
from router.ledger.backend import Time
from router.ledger.claim_book import ClaimBook
from router.ledger.database import Database
from router.ledger.departure_book import DepartureBook
from router.ledger.dump_book import DumpBook
from router.ledger.history_book import HistoryBook
from router.ledger.lock import ServiceLock
from router.ledger.node_state_book import NodeStateBook
from router.ledger.notice_book import NoticeBook
from router.ledger.receipt_index import ReceiptIndex
from router.ledger.refusal_book import RefusalBook
from router.ledger.route_book import RouteBook
from router.ledger.site_book import SiteBook
from router.ledger.watching import Watching

_AT_ONCE = 2_000
"""Transfers of a sweep that are queued in one transaction, for which all others wait."""
_PART_SECONDS = 2.0
"""So much longer a sweep keeps its lease for each of these but the last."""
_FOREVER = datetime.max.replace(tzinfo=UTC)


class SqlLedger(
    ReceiptIndex,
    RouteBook,
    SiteBook,
    Watching,
    AppointmentBook,
    NoticeBook,
    RefusalBook,
    DepartureBook,
    ArrivalBook,
    HistoryBook,
    ClaimBook,
    NodeStateBook,
    DumpBook,
):
    """Queue and memory on a SQL database: `engine.ports.Ledger`.

    Every method is one transaction and raises only LedgerError; thread-safe, and safe between processes.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._lock = ServiceLock(database.path)

    @classmethod
    def open(cls, url: str, *, create: bool = True, read_only: bool = False) -> Self:
        """Open the ledger at a database URL such as `sqlite:///./data/ledger.db`. Raises LedgerError.

        One that does not exist comes into being with its directory, or raises LedgerMissing where `create` is false.
        Read-only it is an empty ledger instead, and no file comes into being.
        """
        return cls(Database.open(url, create=create, read_only=read_only))

    @classmethod
    def in_memory(cls) -> Self:
        """An empty ledger that vanishes with the process."""
        return cls(Database.in_memory())

    def close(self) -> None:
        """Close the connections; every further call raises LedgerError."""
        self._database.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # sweeps -----------------------------------------------------------------------------------------------------

    def add_sweeps(self, sweeps: Sequence[SweepDue]) -> list[int]:
        """Make sweeps due; one that exists for its rule, tier and due time is left alone. Returns ids in order."""
        with self._database.write() as connection:
            added = sweep_queries.add(connection, sweeps)
        self._database.tell()
        return added

    def claim_sweep(self, sources: Sequence[str], now: datetime, lease_seconds: float) -> SweepRecord | None:
        """Take the oldest due (or abandoned) sweep of one of these sources."""
        with self._database.read() as connection:
            if not sweep_queries.any_to_claim(connection, sources, now, self._database.lost_at(now)):
                return None
        with self._database.write(beside=True) as connection:
            return sweep_queries.claim(connection, sources, now, self._database.lost_at(now), lease_seconds)

    def renew_sweep(self, sweep: SweepRecord, now: datetime, lease_seconds: float) -> bool:
        """Prolong the lease of a running sweep. False where the claim was lost."""
        with self._database.write(beside=True) as connection:
            return sweep_queries.renew(connection, sweep, now, lease_seconds)

    def finish_sweep(
        self,
        sweep: SweepRecord,
        report: SweepReport,
        transfers: Sequence[NewTransfer],
        under_way: Sequence[int],
        now: datetime,
        day: date | None = None,
    ) -> bool:
        """Queue or hold what was selected, write the report with the last of it. False where the claim was lost.

        Each transaction takes so much that others never wait for long. Where a service dies before the last, what it
        queued goes on, and the sweep is due again and finds it known.
        """
        last = max(len(transfers), len(under_way), 1) - 1
        for start in range(0, last + 1, _AT_ONCE):
            some = transfers[start : start + _AT_ONCE]
            with self._database.write() as connection:
                if start + _AT_ONCE <= last:
                    ours = sweep_queries.keep(connection, sweep, _PART_SECONDS)
                else:
                    ours = sweep_queries.finish(connection, sweep, report, now)
                if not ours:
                    return False
                charged = intents.queue(connection, some, now)
                if day is not None:
                    held.charge(connection, sweep.due.rule, day, charged)
                moving = [new.intent for new in some if new.hold is None]
                sweep_queries.link(connection, sweep.id, moving, under_way[start : start + _AT_ONCE])
        self._database.tell()
        return True

    def held(self, rule: str, source: str, settled_before: datetime, most: int) -> list[Held]:
        """What a rule holds by its limits or has let settle since then: `most` of each cause, the oldest first."""
        with self._database.read() as connection:
            return held.of_rule(connection, rule, source, settled_before, most)

    def held_by_others(self, rule: str, transfer_ids: Sequence[int]) -> list[Held]:
        """Those of these transfers that another rule holds back."""
        with self._database.read() as connection:
            return held.of_others(connection, rule, transfer_ids)

    def held_routes(self) -> list[HeldRoute]:
        """How much each rule holds back, by route."""
        with self._database.read() as connection:
            return held.of_routes(connection)

    def release_held(self, route: HeldRoute, most: int, now: datetime) -> int:
        """Queue what a rule holds back on a route, `most` of it, the oldest first; how many."""
        with self._database.write() as connection:
            released = held.release(connection, route, most, now)
        self._database.tell()
        return released

    def queued_on(self, rule: str, day: date) -> int:
        """Instances that the rule's sweeps have queued on this day of its source."""
        with self._database.read() as connection:
            return held.queued_on(connection, rule, day)

    def last_complete_sweep(self, rule: str, tier: int, now: datetime) -> datetime | None:
        """When the last complete scheduled sweep of a tier was due, or else its first of all; None: none has ended."""
        with self._database.read() as connection:
            return sweep_queries.last_complete(connection, rule, tier, now)

    def caps(self) -> dict[str, int]:
        """Name of a node -> the number of matches at which it was seen to cut its answers."""
        with self._database.read() as connection:
            return cap_queries.known(connection)

    def learn_cap(self, node: str, matches: int) -> None:
        """Remember at how many matches a node cuts its answers; 0 forgets it."""
        with self._database.write() as connection:
            cap_queries.learn(connection, node, matches)

    def open_sweeps(self, source: str = "", most: int | None = None) -> list[SweepRecord]:
        """Sweeps that are due or running, the oldest first: of a source (else of all), `most` of each state."""
        with self._database.read() as connection:
            return sweep_queries.open_records(connection, source, most)

    def sweeps(self, ids: Sequence[int]) -> list[SweepRecord]:
        """These sweeps, in the order of the ids."""
        with self._database.read() as connection:
            return sweep_queries.records(connection, ids)

    def last_sweeps(self) -> list[SweepRecord]:
        """The last ended sweep per rule and tier, of those the schedule made due."""
        with self._database.read() as connection:
            return sweep_queries.last(connection)

    # transfers --------------------------------------------------------------------------------------------------

    def facts(self, source: str, study_instance_uids: Sequence[str]) -> dict[Intent, TransferFact]:
        """What is known of these studies' intents from this source (their series' too)."""
        with self._database.read() as connection:
            return intents.facts(connection, source, study_instance_uids)

    def expire_leases(self, now: datetime) -> int:
        """Transfers whose worker is gone are looked at first, all else is due again; how many."""
        others = (sweep_queries, appointment_queries, arrival_queries)
        with self._database.read() as connection:
            lost_at = self._database.lost_at(now)
            lost = any(part.any_to_expire(connection, lost_at) for part in (claims, *others))
            if not lost and not counting.any_to_fold(connection):
                return 0
        with self._database.write() as connection:
            counting.fold(connection)
            lost_at = self._database.lost_at(now)
            expired: int = sum(part.expire(connection, lost_at) for part in others)
            return expired + claims.expire(connection, now, lost_at)

    def wished(self) -> list[tuple[int, int]]:
        """Number and fence number of the transfers that their workers are to let go of, for a person wants it."""
        with self._database.read() as connection:
            return claims.wished(connection)

    def set_expected(self, transfer: Transfer, instances: Sequence[Instance]) -> None:
        """Remember the IMAGE-level list of a transfer (replaces the one before), while it is claimed."""
        with self._database.write(beside=True) as connection:
            instance_queries.replace(connection, transfer, instance_queries.EXPECTED, instances)

    def expected_instances(self, transfer_id: int) -> list[Instance] | None:
        """The IMAGE-level list of a transfer; None where there is none."""
        with self._database.read() as connection:
            return instance_queries.find(connection, transfer_id, instance_queries.EXPECTED)

    def set_expected_series(self, transfer: Transfer, counts: Mapping[str, int | None]) -> None:
        """Remember how many instances each series has at the source (None: unknown), while it is claimed."""
        with self._database.write(beside=True) as connection:
            if counts:
                instance_queries.replace_counts(connection, transfer, counts)
            else:
                instance_queries.remove(connection, transfer, instance_queries.SERIES)

    def expected_series(self, transfer_id: int) -> dict[str, int | None] | None:
        """What `set_expected_series` remembered; None where nothing was."""
        with self._database.read() as connection:
            return instance_queries.find_counts(connection, transfer_id)

    def set_missing(self, transfer: Transfer, instances: Sequence[Instance]) -> None:
        """Remember which instances the destination lacks (replaces the list before), while it is claimed."""
        with self._database.write(beside=True) as connection:
            if instances:
                instance_queries.replace(connection, transfer, instance_queries.MISSING, instances)
            else:
                instance_queries.remove(connection, transfer, instance_queries.MISSING)

    def missing_instances(self, transfer_id: int) -> list[Instance]:
        """What `set_missing` remembered; empty where nothing was."""
        with self._database.read() as connection:
            return instance_queries.find(connection, transfer_id, instance_queries.MISSING) or []

    def set_delivered(self, transfer: Transfer, instances: Sequence[Instance]) -> None:
        """Remember which instances a destination without evidence was successfully sent (replaces the list before)."""
        with self._database.write(beside=True) as connection:
            instance_queries.replace(connection, transfer, instance_queries.DELIVERED, instances)

    def delivered_instances(self, transfer_id: int) -> list[Instance]:
        """What `set_delivered` remembered; empty where nothing was."""
        with self._database.read() as connection:
            return instance_queries.find(connection, transfer_id, instance_queries.DELIVERED) or []

    def request_commitment(self, transfer: Transfer, node: str, transaction_uids: Sequence[str], now: datetime) -> bool:
        """Remember that a node is asked for storage commitment, in place of what was asked. False: claim lost."""
        with self._database.write() as connection:
            return commitment_queries.add(connection, transfer, node, transaction_uids, now)

    def answer_commitment(self, answer: CommitmentAnswer, nodes: Sequence[str], now: datetime) -> bool | None:
        """Note an answer of one of these nodes; its transfer is due at once. None: not asked; False: not the first."""
        with self._database.write() as connection:
            news = commitment_queries.answer(connection, answer, nodes, now)
        if news:
            self._database.tell()
        return news

    def commitments(self, transfer_id: int) -> list[Commitment]:
        """The transactions since the last move of a transfer, the oldest first."""
        with self._database.read() as connection:
            return commitment_queries.find(connection, transfer_id)

    def awaits_commitment(self, transfer_id: int) -> bool:
        """Whether a transaction of a transfer has no answer yet."""
        with self._database.read() as connection:
            return commitment_queries.outstanding(connection, transfer_id)

    def transfers(
        self,
        *,
        sweeps: Sequence[int] = (),
        states: Sequence[State] = (),
        rule: str = "",
        source: str = "",
        destination: str = "",
        study_instance_uid: str = "",
        limit: int = 1000,
    ) -> list[Transfer]:
        """Transfers by these properties (all of those given), newest first."""
        wanted = {"rule": rule, "source": source, "destination": destination, "study_instance_uid": study_instance_uid}
        with self._database.read() as connection:
            return transfer_queries.find(connection, sweeps=sweeps, states=states, wanted=wanted, limit=limit)

    def transfer(self, transfer_id: int) -> Transfer | None:
        """One transfer."""
        with self._database.read() as connection:
            return transfer_queries.one(connection, transfer_id)

    def attempts(self, transfer_id: int) -> list[Attempt]:
        """What was done for a transfer, oldest first; the last 50 steps are kept."""
        with self._database.read() as connection:
            return transfer_queries.remembered(connection, transfer_id)

    def apply(self, transfer_id: int, happening: Happening, now: datetime, reason: str = "") -> Transfer:
        """A person's word on a transfer (cancel, hold, release, again). Raises LedgerError where not possible."""
        with self._database.write() as connection:
            transfer = transfer_queries.apply(connection, transfer_id, happening, now, reason)
        self._database.tell()
        return transfer

    def moves_since(self, moment: datetime) -> list[tuple[Route, datetime]]:
        """The runs that ended since then and may have sent a C-MOVE or C-GET, by route and end."""
        with self._database.read() as connection:
            return transfer_queries.moves_since(connection, moment)

    # services ---------------------------------------------------------------------------------------------------

    def attend(self, now: datetime) -> int:
        """Say that a service begins to work here, until the ledger is closed; how many claims it found orphaned.

        Where no other service works on this ledger, whoever held a claim is dead: all claims end at once.
        """
        if not self._lock.take():
            return 0
        try:
            with self._database.write() as connection:
                service_queries.withdraw_all(connection)
                orphaned = claims.expire_all(connection, now) + sweep_queries.expire(connection, _FOREVER)
                orphaned += arrival_queries.expire(connection, _FOREVER)
                return orphaned + appointment_queries.expire(connection, _FOREVER)
        finally:
            self._lock.share()

    def clock(self) -> Time:
        """The time that all who share the ledger share."""
        return self._database.clock()

    def leads(self) -> bool:
        """Whether this process leads those that share the ledger; it tries to. Raises nothing."""
        return self._database.leads()

    def resign(self) -> None:
        """Lead no more, so that another process may at once; it is not to be asked again. Raises nothing."""
        self._database.resign()

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Call `wake` whenever another service tells that work is due, until stopping; for a thread of its own.

        Returns at once where nobody can tell, as in SQLite: work is looked for now and then as well.
        """
        self._database.listen(wake, stopping)

    def announce(self, info: ServiceInfo) -> None:
        """Say that a service works on this ledger; repeated every few seconds."""
        with self._database.write(beside=True) as connection:
            service_queries.announce(connection, info)

    def withdraw(self, owner: str) -> None:
        """Say that it has stopped."""
        with self._database.write(beside=True) as connection:
            service_queries.withdraw(connection, owner)

    def services(self, seen_since: datetime) -> list[ServiceInfo]:
        """Services that announced themselves since then, the latest first; none that is known to be dead."""
        if self._lock.deserted():
            return []
        with self._database.read() as connection:
            return service_queries.seen_since(connection, seen_since)

    def lost_at(self, now: datetime) -> datetime:
        """Who shows no sign from then on counts as lost after a while: `now`, or long ago where the ledger was away."""
        with self._database.read():
            return self._database.lost_at(now)
