"""What the engine needs of the outside. Adapters implement these protocols; nothing else may be imported for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from typing import Protocol

from router.domain.appointment import Appointment
from router.domain.arriving import ArrivalDue
from router.domain.commitment import Commitment, CommitmentAnswer, CommitmentRequest
from router.domain.dicom import Identifier, QueryRetrieveLevel, SubOperationCounts
from router.domain.events import Event
from router.domain.exchange import FindResult as FindResult
from router.domain.exchange import MoveProgress as MoveProgress
from router.domain.exchange import MoveRequest as MoveRequest
from router.domain.exchange import MoveResult as MoveResult
from router.domain.holds import HeldRoute
from router.domain.overview import BacklogRow, Overview, ServiceInfo
from router.domain.passing import PendingArrival
from router.domain.receipt import Receipt
from router.domain.restraint import Held
from router.domain.route import StoppedRoute
from router.domain.rule import Node
from router.domain.sweep import SweepDue, SweepRecord, SweepReport
from router.domain.transfer import (
    Attempt,
    Finish,
    Happening,
    Instance,
    Intent,
    NewTransfer,
    Route,
    State,
    Transfer,
    TransferFact,
)
from router.engine.appointment_port import AppointmentLedger
from router.engine.arrival_port import ArrivalLedger
from router.engine.departure_port import DepartureLedger

Observer = Callable[[Event], None]
"""Takes an event; never raises, never blocks."""

Pseudonym = Callable[[str], str]
"""Gives a Study Instance UID what stands for it in events; empty where nothing does."""

Correlate = Callable[[Transfer | SweepRecord | Appointment | PendingArrival], AbstractContextManager[None]]
"""While the context lasts, all that the log says in this thread is said of this piece of work."""

Trouble = Callable[[str, BaseException], None]
"""Takes where something unforeseen happened, and what: it goes to the log, the work goes on."""


class Clock(Protocol):
    """Time from outside, so that tests own it."""

    def now(self) -> datetime:
        """The time, aware, UTC."""


class Peers(Protocol):
    """Requests to nodes. Every call has deadlines from the node's settings and raises only WireError."""

    def echo(self, node: Node) -> None:
        """C-ECHO."""

    def find(
        self, node: Node, level: QueryRetrieveLevel, keys: Identifier, *, maximum: int, cancelled: threading.Event
    ) -> FindResult:
        """C-FIND with the keys (values to match, empty to be returned); C-CANCEL after `maximum` matches."""

    def worklist(self, node: Node, keys: Identifier, *, maximum: int, cancelled: threading.Event) -> FindResult:
        """Modality worklist C-FIND (PS3.4 section K.4.1); keys may hold sequences with one item each."""

    def move(
        self,
        node: Node,
        request: MoveRequest,
        *,
        on_response: Callable[[MoveProgress], None],
        last_arrival: Callable[[], float],
        cancelled: threading.Event,
    ) -> MoveResult:
        """C-MOVE until its final response.

        `last_arrival` gives the monotonic time of the last instance that arrived here for it (0.0: none), which counts
        as activity. Setting `cancelled` sends C-CANCEL, waits a grace time for the final response, then aborts.
        """

    def get(
        self,
        node: Node,
        request: MoveRequest,
        *,
        sop_classes: Collection[str],
        on_response: Callable[[MoveProgress], None],
        cancelled: threading.Event,
    ) -> MoveResult:
        """C-GET into this router's own store until its final response; the request's destination is not used.

        `sop_classes` are those of the instances, as far as they are known. For `cancelled` see `move`.
        """

    def commit(
        self,
        node: Node,
        requests: Sequence[CommitmentRequest],
        *,
        on_answer: Callable[[CommitmentAnswer], None],
        answered: Callable[[], bool],
        cancelled: threading.Event,
    ) -> None:
        """Ask for storage commitment; what is answered at once goes to `on_answer`.

        `answered` says that no answer is awaited any more. CommitmentRefused where the node refuses.
        """


class Ledger(AppointmentLedger, DepartureLedger, ArrivalLedger, Protocol):
    """Queue and memory. Raises only LedgerError. Every method is one transaction; thread-safe."""

    # sweeps -----------------------------------------------------------------------------------------------------

    def add_sweeps(self, sweeps: Sequence[SweepDue]) -> list[int]:
        """Make sweeps due; one that exists for its rule and due time is left alone. Returns their ids in order."""

    def claim_sweep(self, sources: Sequence[str], now: datetime, lease_seconds: float) -> SweepRecord | None:
        """Take the oldest due (or abandoned) sweep of one of these sources."""

    def finish_sweep(
        self,
        sweep: SweepRecord,
        report: SweepReport,
        transfers: Sequence[NewTransfer],
        under_way: Sequence[int],
        now: datetime,
        day: date | None = None,
    ) -> bool:
        """Write the report, queue or hold what was selected, in one transaction. False where the claim was lost.

        `under_way` names transfers the sweep found already under way: they belong to it as well as the queued ones.
        What is charged for is noted for the rule on `day`.
        A NewTransfer whose intent has meanwhile come into being is left alone unless its happening is legal for it.
        """

    def held(self, rule: str, source: str, settled_before: datetime, most: int) -> list[Held]:
        """What a rule holds by its limits or has let settle since then: `most` of each cause, the oldest first."""

    def held_by_others(self, rule: str, transfer_ids: Sequence[int]) -> list[Held]:
        """Those of these transfers that another rule holds back."""

    def held_routes(self) -> list[HeldRoute]:
        """How much each rule holds back, by route."""

    def release_held(self, route: HeldRoute, most: int, now: datetime) -> int:
        """Queue what a rule holds back on a route, `most` of it, the oldest first; how many."""

    def queued_on(self, rule: str, day: date) -> int:
        """Instances that the rule's sweeps have queued on this day of its source."""

    def renew_sweep(self, sweep: SweepRecord, now: datetime, lease_seconds: float) -> bool:
        """Prolong the lease of a running sweep. False where the claim was lost."""

    def last_complete_sweep(self, rule: str, tier: int, now: datetime) -> datetime | None:
        """When the last complete scheduled sweep of a tier was due, or else its first of all; None: none has ended."""

    def caps(self) -> dict[str, int]:
        """Name of a node -> the number of matches at which it was seen to cut its answers."""

    def learn_cap(self, node: str, matches: int) -> None:
        """Remember at how many matches a node cuts its answers; 0 forgets it."""

    def open_sweeps(self, source: str = "", most: int | None = None) -> list[SweepRecord]:
        """Sweeps that are due or running, the oldest first: of a source (else of all), `most` of each state."""

    def sweeps(self, ids: Sequence[int]) -> list[SweepRecord]:
        """These sweeps."""

    def last_sweeps(self) -> list[SweepRecord]:
        """The last ended sweep per rule and tier."""

    # transfers --------------------------------------------------------------------------------------------------

    def facts(self, source: str, study_instance_uids: Sequence[str]) -> dict[Intent, TransferFact]:
        """What is known of these studies' intents from this source (their series' too)."""

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

    def moves_since(self, moment: datetime) -> list[tuple[Route, datetime]]:
        """The runs that ended since then and may have sent a C-MOVE or C-GET, by route and end."""

    def claim_probe(
        self, route: Route, now: datetime, lease_seconds: float, next_probe_at: datetime
    ) -> Transfer | None:
        """Take a transfer that is to try a stopped route, if one is due; another may be taken at `next_probe_at`."""

    def claim_verification(self, destinations: Sequence[str], now: datetime, lease_seconds: float) -> Transfer | None:
        """Take the oldest due verification at one of these destinations that no one has claimed."""

    def renew(self, transfer: Transfer, now: datetime, lease_seconds: float, counts: SubOperationCounts | None) -> bool:
        """Prolong the lease and note progress (None: no news). False where the claim was lost."""

    def finish(self, transfer: Transfer, finish: Finish, started_at: datetime, now: datetime) -> Transfer | None:
        """End a claimed step: new state by the table, attempt remembered. None where the claim was lost."""

    def expire_leases(self, now: datetime) -> int:
        """Send transfers whose worker is gone to verification, sweeps back to due. Returns how many."""

    def wished(self) -> list[tuple[int, int]]:
        """Number and fence number of the transfers that their workers are to let go of, for a person wants it."""

    def release_claims(self, transfers: Sequence[Transfer], now: datetime) -> None:
        """End the leases of these claims at once, as if expired (the router stops and did not finish them)."""

    def set_expected(self, transfer: Transfer, instances: Sequence[Instance]) -> None:
        """Remember the IMAGE-level list of a transfer (replaces the one before)."""

    def expected_instances(self, transfer_id: int) -> list[Instance] | None:
        """The IMAGE-level list of a transfer; None where there is none."""

    def set_expected_series(self, transfer: Transfer, counts: Mapping[str, int | None]) -> None:
        """Remember how many instances each series has at the source (None: unknown); replaces what was before."""

    def expected_series(self, transfer_id: int) -> dict[str, int | None] | None:
        """What `set_expected_series` remembered; None where nothing was."""

    def set_missing(self, transfer: Transfer, instances: Sequence[Instance]) -> None:
        """Remember which instances the destination lacks; none: forget it."""

    def missing_instances(self, transfer_id: int) -> list[Instance]:
        """What `set_missing` remembered; empty where nothing was."""

    def set_delivered(self, transfer: Transfer, instances: Sequence[Instance]) -> None:
        """Remember which instances a destination without evidence was successfully sent."""

    def delivered_instances(self, transfer_id: int) -> list[Instance]:
        """What `set_delivered` remembered; empty where nothing was."""

    def request_commitment(self, transfer: Transfer, node: str, transaction_uids: Sequence[str], now: datetime) -> bool:
        """Remember that a node is asked for storage commitment, in place of what was asked before; no UID: forget it.

        Done before it is asked, for the answer may come at once. False where the claim was lost.
        """

    def answer_commitment(self, answer: CommitmentAnswer, nodes: Sequence[str], now: datetime) -> bool | None:
        """Note an answer that came from one of these nodes; a transfer that waits for it is due at once.

        None where none of them was asked for it (any more), False where it was answered before.
        """

    def commitments(self, transfer_id: int) -> list[Commitment]:
        """The transactions since the last move of a transfer, the oldest first."""

    def awaits_commitment(self, transfer_id: int) -> bool:
        """Whether a transaction of a transfer has no answer yet."""

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

    def transfer(self, transfer_id: int) -> Transfer | None:
        """One transfer."""

    def attempts(self, transfer_id: int) -> list[Attempt]:
        """What was done for a transfer, oldest first."""

    def apply(self, transfer_id: int, happening: Happening, now: datetime, reason: str = "") -> Transfer:
        """A person's word on a transfer (cancel, hold, release, again). Raises LedgerError where not possible.

        To cancel or hold what a worker holds is a wish: see `wished`; it is heeded when the worker lets go.
        """

    def backlog(self) -> list[BacklogRow]:
        """Counts by source, destination and state."""

    def overview(self, most_live: int, most_recent: int) -> Overview:
        """What people look at who watch: so much of what is under way, and so many failures and other ends."""

    # routes -----------------------------------------------------------------------------------------------------

    def stopped_routes(self) -> list[StoppedRoute]:
        """The routes that are stopped."""

    def stopped_route(self, route: Route) -> StoppedRoute | None:
        """How a route is stopped; None where it is not."""

    def resume_route(self, route: Route) -> bool:
        """Let a stopped route flow again. False where it was not stopped."""

    def probe_route(self, route: Route, now: datetime) -> bool:
        """Let a transfer try a stopped route at once. False where it is not stopped."""

    def adopt_configuration(self, content_hash: str, names: Collection[str], now: datetime) -> None:
        """Forget stopped routes of nodes it does not name; if it is another one than before, try all others at once."""

    # receipts ---------------------------------------------------------------------------------------------------

    def add_receipts(self, receipts: Sequence[Receipt], dues: Sequence[ArrivalDue] = ()) -> None:
        """Index instances of the object store; known ones are replaced. Note, at once with them, who waits for them."""

    def received(self, study_instance_uid: str, series_instance_uid: str = "") -> set[str]:
        """The SOP Instance UIDs our store holds of a study or series."""

    def received_instances(self, study_instance_uid: str, series_instance_uid: str = "") -> list[Instance]:
        """The instances our store holds of a study or series, with their series."""

    def received_classes(self, study_instance_uid: str, series_instance_uid: str = "") -> dict[str, str]:
        """SOP Instance UID -> SOP Class UID of what our store holds of a study or series."""

    def receipt_paths(self, study_instance_uid: str, store: str | None = None) -> set[str]:
        """The paths in our store under which instances of a study are indexed."""

    # services ---------------------------------------------------------------------------------------------------

    def announce(self, info: ServiceInfo) -> None:
        """Say that a service works on this ledger; repeated every few seconds."""

    def withdraw(self, owner: str) -> None:
        """Say that it has stopped."""

    def services(self, seen_since: datetime) -> list[ServiceInfo]:
        """Services that announced themselves since then."""
