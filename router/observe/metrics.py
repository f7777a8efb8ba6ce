"""The Prometheus metrics of the router. Labels come from the configuration only. Their text is in `families`."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router import __version__
from router.domain.events import (
    DROPPED,
    HELD_BACK,
    WAITS,
    AppointmentNoted,
    AssociationEnded,
    AssociationsActive,
    AssociationsAllowed,
    AttemptEnded,
    BreakerClosed,
    BreakerOpened,
    CapLearned,
    CommitmentNoted,
    ConfigurationLoaded,
    Event,
    HoldsLeft,
    InstanceQuarantined,
    InstanceStored,
    LookEnded,
    MessageAnswered,
    MoveResponded,
    NodeReachability,
    NodeResponded,
    NodeWaited,
    PriorEnded,
    RouteResumed,
    RouteStopped,
    StoreRefusal,
    StudyLeft,
    SubOperationsCounted,
    SweepEnded,
    SweepMissed,
    TransferEnded,
    ValueRefused,
)
from router.domain.events_people import AuditSent, AuditWaiting, NotificationEnded, NotificationsWaiting
from router.domain.overdue import sweep_due
from router.domain.overview import BacklogRow
from router.domain.rule import RuleSet
from router.domain.surroundings import Space
from router.domain.sweep import SweepRecord, SweepState
from router.observe.catalogue import CATALOGUE
from router.observe.families import END, OPEN_METRICS, Family, ProcessText, wants_open_metrics
from router.observe.labels import (
    ACCEPTED_MESSAGES,
    ASSOCIATION_RESULTS,
    AUDITED,
    COMMITMENTS,
    LOOK_RESULTS,
    MESSAGE_CODES,
    MESSAGE_EVENTS,
    MESSAGE_REFUSALS,
    NEWS,
    NOTIFICATIONS,
    OTHER,
    PRIOR_RESULTS,
    QUARANTINED,
    REFUSALS,
    ROLES,
    SUBOPERATION_OUTCOMES,
    SWEEP_RESULTS,
    VALUES_REFUSED,
    VERDICTS,
    Labels,
    Names,
    move_status,
    one_of,
    store_status,
)
from router.observe.levels import Levels

__all__ = ["OTHER", "Metrics"]

_CONTENT_TYPE_OPEN_METRICS = f"{OPEN_METRICS}; version=1.0.0; charset=utf-8"


class Metrics(Collector):
    """All metrics in a registry of their own; an observer of events. Thread-safe.

    `now` gives the time as seconds since 1970.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._rendering = threading.Lock()
        self._names = Names()
        self._rules: RuleSet | None = None
        self._swept: dict[Labels, datetime] = {}
        """When a rule's last complete sweep ended; before the first, when the rule came."""
        self._remaining: dict[int, tuple[str, str, int]] = {}
        self._active: Tally[tuple[str, str]] = Tally()
        self._stopped: set[Labels] = set()
        self._process: ProcessText | None = None
        self._families = {name: Family(definition) for name, definition in CATALOGUE.items()}
        self._levels = Levels(self._families, self._lock, now)
        self._families["build_info"].set((__version__,), 1)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._handlers: dict[type[Event], Callable[..., None]] = {
            SubOperationsCounted: self._suboperations_counted,
            MoveResponded: self._responded,
            AttemptEnded: lambda e: self._set_remaining(e.transfer, e.source, e.destination, 0),
            TransferEnded: self._transfer_ended,
            RouteStopped: lambda e: self._show_route((e.source, e.destination), stopped=True),
            RouteResumed: lambda e: self._show_route((e.source, e.destination), stopped=False),
            SweepEnded: self._sweep_ended,
            SweepMissed: self._sweep_missed,
            CapLearned: self._cap_learned,
            AppointmentNoted: self._appointment_noted,
            LookEnded: self._look_ended,
            PriorEnded: self._prior_ended,
            MessageAnswered: self._message_answered,
            ValueRefused: self._value_refused,
            InstanceStored: self._stored,
            StoreRefusal: lambda e: self._families["store_refused_total"].add((one_of(e.reason, REFUSALS),)),
            StudyLeft: self._study_left,
            InstanceQuarantined: lambda e: self._families["quarantine_total"].add((one_of(e.reason, QUARANTINED),)),
            AssociationEnded: self._association_ended,
            AssociationsActive: self._associations_active,
            CommitmentNoted: self._commitment_noted,
            NodeReachability: self._reached,
            BreakerOpened: lambda e: self._show_breaker(e.node, is_open=True),
            BreakerClosed: lambda e: self._show_breaker(e.node, is_open=False),
            AssociationsAllowed: lambda e: self._levels.limit(e.node, e.limit),
            NodeWaited: self._waited,
            NodeResponded: self._node_responded,
            ConfigurationLoaded: self._loaded,
            HoldsLeft: self._holds_left,
            AuditSent: lambda e: self._families["audit_messages_total"].add((one_of(e.result, AUDITED),), e.count),
            AuditWaiting: lambda e: self._families["audit_waiting"].set((), e.count),
            NotificationEnded: self._notification_ended,
            NotificationsWaiting: self._notifications_waiting,
        }

    def __call__(self, event: Event) -> None:
        """Take an event."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            with self._lock:
                handler(event)

    def configure(self, rules: RuleSet) -> None:
        """Make every configured label set exist, at 0, and drop those whose names are gone."""
        with self._lock:
            self._rules = rules
            self._names = names = Names(rules)
            for family in self._families.values():
                family.configure(names)
            self._levels.configure(rules, names)
            for pair in (*names.pairs, (OTHER, OTHER)):
                self._show_remaining(pair)
            self._swept = {sweep: self._swept.get(sweep, self._time()) for sweep in names.sweeps}
            for sweep in names.sweeps:
                self._show_due(sweep)
            for pair in self._stopped:
                self._show_route(pair, stopped=True)
            for node, role in itertools.product((*names.nodes, (OTHER,)), ROLES):
                self._show_active(node[0], role)

    def prepare(self) -> None:
        """Make text of what is configured, which takes a second where that is much: no scrape waits for it then."""
        with self._rendering:
            for family in self._families.values():
                family.render(self._lock, open_metrics=False)

    def watch_backlog(self, read: Callable[[], Sequence[BacklogRow]]) -> None:
        """Export the ledger's backlog, read at most every other second; it goes where that fails for a minute."""
        self._levels.watch_backlog(read)

    def watch_moves(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Export how many moves of the last hour count towards each node's limit; `read` must not block."""
        self._levels.watch_moves(read)

    def watch_process(self) -> None:
        """Export what this process uses: processor time, memory, open files."""
        self._process = ProcessText()

    def show_replicas(self, replica: str, number: int, *, leads: bool) -> None:
        """What this service is called, how many live on its ledger, and whether it shows what concerns them all."""
        with self._lock:
            self._levels.replicas(replica, number, leads=leads)

    def show_space(self, space: Space) -> None:
        """The store's file system, as it was found now; it is shown for a minute."""
        with self._lock:
            self._levels.space(space)

    def show_quarantine(self, objects: int) -> None:
        """How many objects lie in the quarantine now; it is shown for a minute."""
        with self._lock:
            self._levels.quarantine(objects)

    def show_certificates(self, ends: Mapping[str, datetime | None]) -> None:
        """When certificates expire, by the key that names them; None: they cannot be read."""
        with self._lock:
            for key, end in ends.items():
                if (key,) in self._names.certificates:
                    expiry = end.timestamp() if end is not None else 0
                    self._families["certificate_expiry_timestamp_seconds"].set((key,), expiry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format a scraper accepts, and its content type."""
        self._levels.look()
        open_metrics = wants_open_metrics(accept)
        with self._rendering:
            parts = [part for family in self._levels.shown() for part in family.render(self._lock, open_metrics)]
            if self._process is not None:
                parts.append(self._process.render(open_metrics))
        if open_metrics:
            parts.append(END)
        return "".join(parts).encode(), _CONTENT_TYPE_OPEN_METRICS if open_metrics else CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterable[Metric]:
        """All families as prometheus_client knows them."""
        self._levels.look()
        with self._lock:
            return [metric for family in self._families.values() for metric in family.collect()]

    def describe(self) -> Iterable[Metric]:
        """Nothing: the gauge `transfers` and the counter `transfers_total` would pass for the same family."""
        return []

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    # events, under the lock -----------------------------------------------------------------------------------------

    def _suboperations_counted(self, event: SubOperationsCounted) -> None:
        route = self._names.route(event.rule, event.source, event.destination)
        for outcome in SUBOPERATION_OUTCOMES:
            self._families["move_suboperations_total"].add((*route, outcome), getattr(event.counts, outcome) or 0)
        if event.counts.remaining is not None:
            self._set_remaining(event.transfer, event.source, event.destination, event.counts.remaining)

    def _set_remaining(self, transfer: int, source: str, destination: str, remaining: int) -> None:
        if remaining > 0:
            self._remaining[transfer] = (source, destination, remaining)
        elif self._remaining.pop(transfer, None) is None:
            return
        self._show_remaining(self._names.pair(source, destination))

    def _show_remaining(self, pair: Labels) -> None:
        pair_of = self._names.pair
        total = sum(count for source, to, count in self._remaining.values() if pair_of(source, to) == pair)
        if total or self._families["move_suboperations_remaining"].has(pair):
            self._families["move_suboperations_remaining"].set(pair, total)

    def _responded(self, event: MoveResponded) -> None:
        self._families["move_responses_total"].add(
            (*self._names.pair(event.source, event.destination), move_status(event.status))
        )

    def _transfer_ended(self, event: TransferEnded) -> None:
        route = self._names.route(event.rule, event.source, event.destination)
        self._families["transfers_total"].add((*route, one_of(event.verdict, VERDICTS)))
        self._families["transfer_duration_seconds"].observe(route[1:], event.duration_seconds)
        self._families["seen_to_verified_seconds"].observe((), event.seen_to_verified_seconds)
        self._set_remaining(event.transfer, event.source, event.destination, 0)

    def _show_route(self, pair: Labels, *, stopped: bool) -> None:
        (self._stopped.add if stopped else self._stopped.discard)(pair)
        if pair in self._names.pairs:
            self._families["route_stopped"].set(pair, stopped)

    def _sweep_ended(self, event: SweepEnded) -> None:
        sweep = self._names.sweep(event.rule, event.source)
        self._families["sweeps_total"].add((*sweep, one_of(event.result, SWEEP_RESULTS)))
        self._families["sweep_duration_seconds"].observe(sweep, event.duration_seconds)
        self._families["sweep_matches_total"].add(sweep, event.matches)
        self._families["sweep_unavailable_total"].add(sweep, event.unavailable)
        self._families["sweep_queries_total"].add(sweep, event.queries)
        for reason in HELD_BACK:
            self._families["sweep_held_total"].add((*sweep, reason), event.held.get(reason, 0))
        for reason in DROPPED:
            self._families["sweep_rows_dropped_total"].add((*sweep, reason), event.dropped.get(reason, 0))
        if sweep not in self._names.sweeps:
            return  # "the last sweep of any other rule" means nothing
        self._families["sweep_complete"].set(sweep, event.result == "complete")
        if event.result == "complete":
            self._families["sweep_last_success_timestamp_seconds"].set(sweep, self._now())
            self._swept[sweep] = self._time()
            self._show_due(sweep)

    def _show_due(self, sweep: Labels) -> None:
        due = sweep_due(self._rules, sweep[0], self._swept[sweep]) if self._rules is not None else None
        self._families["sweep_due_timestamp_seconds"].set(sweep, due.timestamp() if due is not None else 0)

    def _cap_learned(self, event: CapLearned) -> None:
        if (event.node,) in self._names.nodes:
            self._families["find_cap"].set((event.node,), event.matches)

    def _sweep_missed(self, event: SweepMissed) -> None:
        self._families["sweeps_missed_total"].add(self._names.sweep(event.rule, event.source), event.count)

    def recall(self, sweeps: Iterable[SweepRecord]) -> None:
        """After a start: what the ledger knows of the last sweeps, so that their age does not begin anew."""
        with self._lock:
            for sweep in sorted(sweeps, key=lambda one: one.due.due_at):
                labels = self._names.sweep(sweep.due.rule, sweep.due.source)
                if labels not in self._names.sweeps or sweep.finished_at is None:
                    continue
                complete = sweep.state is SweepState.COMPLETE
                self._families["sweep_complete"].set(labels, complete)
                if complete:
                    self._families["sweep_last_success_timestamp_seconds"].set(labels, sweep.finished_at.timestamp())
                    self._swept[labels] = sweep.finished_at
                    self._show_due(labels)

    def _appointment_noted(self, event: AppointmentNoted) -> None:
        labels = self._names.appointment(event.rule, event.trigger)
        self._families["appointments_total"].add((*labels, one_of(event.news, NEWS)))

    def _look_ended(self, event: LookEnded) -> None:
        labels = self._names.look(event.rule, event.source)
        self._families["prior_looks_total"].add((*labels, one_of(event.result, LOOK_RESULTS)))
        self._families["prior_look_duration_seconds"].observe(labels[1:], event.duration_seconds)
        for group, count in event.groups.items():
            self._families["priors_selected_total"].add(self._names.group(event.rule, group), count)

    def _prior_ended(self, event: PriorEnded) -> None:
        labels = (self._names.prefetch(event.rule), one_of(event.result, PRIOR_RESULTS))
        self._families["priors_ended_total"].add(labels)
        if event.lead_seconds is not None:
            self._families["prior_lead_seconds"].observe(labels[:1], max(0.0, event.lead_seconds))

    def _message_answered(self, event: MessageAnswered) -> None:
        labels = (one_of(event.event, MESSAGE_EVENTS), one_of(event.code, MESSAGE_CODES))
        self._families["order_messages_total"].add(labels)
        if event.word not in ACCEPTED_MESSAGES:
            self._families["order_messages_refused_total"].add((one_of(event.word, MESSAGE_REFUSALS),))

    def _value_refused(self, event: ValueRefused) -> None:
        triggers, reasons = VALUES_REFUSED
        labels = (one_of(event.trigger, triggers), one_of(event.reason, reasons))
        self._families["values_refused_total"].add(labels)

    def _stored(self, event: InstanceStored) -> None:
        calling = self._names.node(event.calling)
        self._families["store_instances_total"].add((calling, store_status(event.status)))
        if event.status == 0:
            self._families["store_bytes_total"].add((calling,), event.size)

    def _study_left(self, event: StudyLeft) -> None:
        self._families["store_removed_total"].add((), event.instances)
        self._families["store_removed_bytes_total"].add((), event.size)

    def _commitment_noted(self, event: CommitmentNoted) -> None:
        labels = (self._names.node(event.node), one_of(event.result, COMMITMENTS))
        self._families["storage_commitments_total"].add(labels)

    def _association_ended(self, event: AssociationEnded) -> None:
        result = one_of(event.result, ASSOCIATION_RESULTS)
        self._families["associations_total"].add((self._names.node(event.node), one_of(event.role, ROLES), result))

    def _associations_active(self, event: AssociationsActive) -> None:
        role = one_of(event.role, ROLES)
        self._active[event.node, role] += event.change
        if not self._active[event.node, role]:
            del self._active[event.node, role]
        self._show_active(self._names.node(event.node), role)

    def _show_active(self, label: str, role: str) -> None:
        node_of = self._names.node
        open_now = sum(n for (name, its), n in self._active.items() if its == role and node_of(name) == label)
        self._families["associations_active"].set((label, role), open_now)

    def _reached(self, event: NodeReachability) -> None:
        if (event.node,) in self._names.nodes:
            self._families["node_up"].set((event.node,), event.up)

    def _show_breaker(self, node: str, *, is_open: bool) -> None:
        if (node,) in self._names.nodes:
            self._families["breaker_open"].set((node,), is_open)

    def _waited(self, event: NodeWaited) -> None:
        if (event.node,) in self._names.nodes:
            self._families["node_waits_total"].add((event.node, one_of(event.reason, WAITS)))

    def _node_responded(self, event: NodeResponded) -> None:
        if (event.node,) in self._names.nodes:
            self._families["node_response_seconds"].observe((event.node,), event.seconds)

    def _loaded(self, event: ConfigurationLoaded) -> None:
        self._families["config_last_reload_successful"].set((), event.successful)
        if event.successful:
            self._families["config_last_reload_success_timestamp_seconds"].set((), self._now())
            self._families["config_info"].keep([])
            self._families["config_info"].set((event.content_hash, event.work_hash), 1)

    def _holds_left(self, event: HoldsLeft) -> None:
        if event.released:
            self._families["holds_released_total"].add((), event.count)

    def _notification_ended(self, event: NotificationEnded) -> None:
        if (event.channel,) in self._names.channels:
            labels = (event.channel, one_of(event.result, NOTIFICATIONS))
            self._families["notifications_total"].add(labels, event.count)

    def _notifications_waiting(self, event: NotificationsWaiting) -> None:
        if (event.channel,) in self._names.channels:
            self._families["notifications_waiting"].set((event.channel,), event.count)
