"""The Prometheus metrics of the router: the only home of prometheus_client. Labels come from the configuration only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router import __version__
from router.domain.events import (
    AssociationEnded,
    AssociationsActive,
    ConfigurationLoaded,
    Event,
    InstanceStored,
    MoveResponded,
    NodeReachability,
    StoreRefusal,
    SubOperationsCounted,
    SweepEnded,
    SweepMissed,
    TransferEnded,
)
from router.domain.outcome import MOVE_STATUSES
from router.domain.overview import BacklogRow
from router.domain.rule import RuleSet
from router.domain.sweep import SWEEP_ENDED
from router.domain.transfer import ENDED, State

PREFIX = "dicom_router"
_OPEN_METRICS = "application/openmetrics-text"
OTHER = "other"
SUBOPERATION_OUTCOMES = ("completed", "failed", "warning")
VERDICTS = tuple(sorted(ENDED))
SWEEP_RESULTS = tuple(sorted(SWEEP_ENDED))
RESPONSE_STATUSES = ("0xFF00", "0x0000", "0xB000", "0xFE00", "0xA702", "0xA801", OTHER)
"""Statuses whose series exist from the start; others of the outcome table appear when they occur."""
STORE_STATUSES = ("0x0000", "0xB000", "0xA700", "0xA900", "0xC000", "0x0117", "0x0122", "0x0124")
ASSOCIATION_RESULTS = ("accepted", "rejected_permanent", "rejected_transient", "aborted", "timeout", "refused")
REFUSALS = ("association", "out-of-space", "uid-mismatch", "unreadable", "sop-class", "invalid-uid", OTHER)
_KNOWN_STATUSES = frozenset({f"0x{status:04X}" for status in MOVE_STATUSES} | set(RESPONSE_STATUSES))
_BACKLOG_SECONDS = 2.0
_TRANSFER_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_SWEEP_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 1800)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics in a registry of their own; an observer of events."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._remaining: dict[int, tuple[str, str, int]] = {}
        self._rules: RuleSet | None = None
        route = ("source", "destination")

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, tuple(labels), registry=self.registry)

        def gauge(name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, tuple(labels), registry=self.registry)

        def histogram(name: str, text: str, labels: Iterable[str], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", text, tuple(labels), registry=self.registry, buckets=buckets)

        self.suboperations = counter(
            "move_suboperations_total",
            "C-MOVE sub-operations as the sources reported them, by outcome.",
            ("rule", *route, "outcome"),
        )
        self.remaining = gauge(
            "move_suboperations_remaining", "Sub-operations that running C-MOVE requests still have before them.", route
        )
        self.transfers = counter("transfers_total", "Transfers that ended, by verdict.", ("rule", *route, "verdict"))
        self.responses = counter("move_responses_total", "C-MOVE responses received, by status.", (*route, "status"))
        self.transfer_duration = histogram(
            "transfer_duration_seconds", "From the first claim of a transfer to its verdict.", route, _TRANSFER_BUCKETS
        )
        self.seen_to_verified = histogram(
            "seen_to_verified_seconds", "From the sweep that saw a study to the verdict.", (), _TRANSFER_BUCKETS
        )
        self.sweeps = counter("sweeps_total", "Sweeps that ended, by result.", ("rule", "source", "result"))
        self.sweep_duration = histogram(
            "sweep_duration_seconds", "How long a sweep took.", ("rule", "source"), _SWEEP_BUCKETS
        )
        self.sweep_matches = counter("sweep_matches_total", "Matches that sweeps brought.", ("rule", "source"))
        self.sweep_complete = gauge(
            "sweep_complete", "1 if the last sweep is proven to have found everything.", ("rule", "source")
        )
        self.sweep_last_success = gauge(
            "sweep_last_success_timestamp_seconds", "When the last complete sweep ended.", ("rule", "source")
        )
        self.sweeps_missed = counter(
            "sweeps_missed_total", "Sweeps not started because the one before was still open.", ("rule", "source")
        )
        self.store_instances = counter(
            "store_instances_total", "C-STORE requests answered, by status.", ("calling", "status")
        )
        self.store_bytes = counter("store_bytes_total", "Bytes of data sets stored.", ("calling",))
        self.store_refused = counter("store_refused_total", "Instances and associations refused.", ("reason",))
        self.associations = counter(
            "associations_total", "Associations attempted or accepted, by result.", ("node", "role", "result")
        )
        self.associations_active = gauge("associations_active", "Associations open now.", ("node", "role"))
        self.node_up = gauge("node_up", "1 if the last exchange with the node worked.", ("node",))
        self.reload_successful = gauge("config_last_reload_successful", "1 if the last configuration was accepted.")
        self.reload_success_time = gauge(
            "config_last_reload_success_timestamp_seconds", "When a configuration was last accepted."
        )
        self.config_info = gauge("config_info", "The running configuration.", ("hash",))
        gauge("build_info", "The running version.", ("version",)).labels(__version__).set(1)
        self._handlers: dict[type[Event], Callable[..., None]] = {
            SubOperationsCounted: self._suboperations,
            MoveResponded: self._responded,
            TransferEnded: self._transfer_ended,
            SweepEnded: self._sweep_ended,
            SweepMissed: lambda e: self.sweeps_missed.labels(e.rule, e.source).inc(),
            InstanceStored: self._stored,
            StoreRefusal: lambda e: self.store_refused.labels(e.reason if e.reason in REFUSALS else OTHER).inc(),
            AssociationEnded: lambda e: self.associations.labels(self._node(e.node), e.role, e.result).inc(),
            AssociationsActive: lambda e: self.associations_active.labels(self._node(e.node), e.role).inc(e.change),
            NodeReachability: lambda e: self.node_up.labels(self._node(e.node)).set(e.up),
            ConfigurationLoaded: self._loaded,
        }

    def __call__(self, event: Event) -> None:
        """Take an event."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def configure(self, rules: RuleSet) -> None:
        """Make every configured label set exist, at 0, and drop those whose names are gone."""
        self._forget(rules)
        self._rules = rules
        for rule in rules.rules.values():
            source = rule.sweep.source
            for ending in SWEEP_RESULTS:
                self.sweeps.labels(rule.name, source, ending)
            self.sweep_duration.labels(rule.name, source)
            self.sweep_matches.labels(rule.name, source)
            self.sweeps_missed.labels(rule.name, source)
            self.sweep_complete.labels(rule.name, source)
            self.sweep_last_success.labels(rule.name, source)
            for destination in rule.move.to:
                for outcome in SUBOPERATION_OUTCOMES:
                    self.suboperations.labels(rule.name, source, destination, outcome)
                for verdict in VERDICTS:
                    self.transfers.labels(rule.name, source, destination, verdict)
                for status in RESPONSE_STATUSES:
                    self.responses.labels(source, destination, status)
                self.remaining.labels(source, destination)
                self.transfer_duration.labels(source, destination)
        for name in (*rules.nodes, OTHER):
            self.node_up.labels(name) if name != OTHER else None
            for role in ("requestor", "acceptor"):
                self.associations_active.labels(name, role)
                for result in ASSOCIATION_RESULTS:
                    self.associations.labels(name, role, result)
            self.store_bytes.labels(name)
            for status in STORE_STATUSES:
                self.store_instances.labels(name, status)
        for reason in REFUSALS:
            self.store_refused.labels(reason)

    def watch_backlog(self, read: Callable[[], Sequence[BacklogRow]]) -> None:
        """Export the ledger's backlog; `read` is called at most every other second, whoever scrapes."""
        self.registry.register(_BacklogCollector(read, lambda: self._rules))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format a scraper accepts, and its content type."""
        encoder, content_type = choose_encoder(accept)
        view = _Disambiguated(self.registry) if content_type.startswith(_OPEN_METRICS) else self.registry
        return encoder(view), content_type

    # events -------------------------------------------------------------------------------------------------------

    def _suboperations(self, event: SubOperationsCounted) -> None:
        for outcome in SUBOPERATION_OUTCOMES:
            increase = getattr(event.counts, outcome) or 0
            if increase:
                self.suboperations.labels(event.rule, event.source, event.destination, outcome).inc(increase)
        if event.counts.remaining is None:
            return
        with self._lock:
            if event.counts.remaining:
                self._remaining[event.transfer] = (event.source, event.destination, event.counts.remaining)
            else:
                self._remaining.pop(event.transfer, None)
            route = (event.source, event.destination)
            total = sum(count for *names, count in self._remaining.values() if tuple(names) == route)
            self.remaining.labels(*route).set(total)

    def _responded(self, event: MoveResponded) -> None:
        status = f"0x{event.status:04X}"
        self.responses.labels(event.source, event.destination, status if status in _KNOWN_STATUSES else OTHER).inc()

    def _transfer_ended(self, event: TransferEnded) -> None:
        self.transfers.labels(event.rule, event.source, event.destination, event.verdict).inc()
        self.transfer_duration.labels(event.source, event.destination).observe(event.duration_seconds)
        self.seen_to_verified.observe(event.seen_to_verified_seconds)

    def _sweep_ended(self, event: SweepEnded) -> None:
        names = (event.rule, event.source)
        self.sweeps.labels(*names, event.result).inc()
        self.sweep_duration.labels(*names).observe(event.duration_seconds)
        self.sweep_matches.labels(*names).inc(event.matches)
        self.sweep_complete.labels(*names).set(event.result == "complete")
        if event.result == "complete":
            self.sweep_last_success.labels(*names).set(time.time())

    def _stored(self, event: InstanceStored) -> None:
        calling = self._node(event.calling)
        status = event.status if event.status < 0xC000 or event.status > 0xCFFF else 0xC000
        self.store_instances.labels(calling, f"0x{status:04X}").inc()
        self.store_bytes.labels(calling).inc(event.size)

    def _loaded(self, event: ConfigurationLoaded) -> None:
        self.reload_successful.set(event.successful)
        if event.successful:
            self.reload_success_time.set(time.time())
            self.config_info.clear()
            self.config_info.labels(event.content_hash).set(1)

    def _node(self, name: str) -> str:
        return name if self._rules is not None and name in self._rules.nodes else OTHER

    def _forget(self, rules: RuleSet) -> None:
        """Drop series of rules, routes and nodes that the new configuration does not have."""
        if self._rules is None:
            return
        routes: set[tuple[str, ...]] = {(r.name, r.sweep.source, d) for r in rules.rules.values() for d in r.move.to}
        sweeps: set[tuple[str, ...]] = {(r.name, r.sweep.source) for r in rules.rules.values()}
        pairs: set[tuple[str, ...]] = {route[1:] for route in routes}
        nodes: set[tuple[str, ...]] = {(name,) for name in (*rules.nodes, OTHER)}
        keep: list[tuple[int, set[tuple[str, ...]], tuple[Counter | Gauge | Histogram, ...]]] = [
            (3, routes, (self.suboperations, self.transfers)),
            (2, pairs, (self.responses, self.remaining, self.transfer_duration)),
            (
                2,
                sweeps,
                (
                    self.sweeps,
                    self.sweep_duration,
                    self.sweep_matches,
                    self.sweep_complete,
                    self.sweep_last_success,
                    self.sweeps_missed,
                ),
            ),
            (
                1,
                nodes,
                (self.store_instances, self.store_bytes, self.associations, self.associations_active, self.node_up),
            ),
        ]
        for width, names, metrics in keep:
            for metric in metrics:
                samples = [s for family in metric.collect() for s in family.samples if "le" not in s.labels]
                for labels in {tuple(sample.labels.values()) for sample in samples}:
                    if labels[:width] not in names:
                        metric.remove(*labels)


class _Disambiguated(CollectorRegistry):
    """The registry for OpenMetrics, where the counter `transfers_total` would be of the same family as `transfers`.

    There it is of a family of its own and of unknown type, which is how the format takes a name that ends in `_total`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._of = registry

    def collect(self) -> Iterable[Metric]:
        for family in self._of.collect():
            if family.type == "counter" and family.name == f"{PREFIX}_transfers":
                apart = Metric(f"{family.name}_total", family.documentation, "unknown")
                apart.samples = family.samples
                yield apart
            else:
                yield family


class _BacklogCollector(Collector):
    """Gauges read from the ledger, cached so that a scrape never waits for it longer than one aggregate query."""

    def __init__(self, read: Callable[[], Sequence[BacklogRow]], rules: Callable[[], RuleSet | None]) -> None:
        self._read = read
        self._rules = rules
        self._lock = threading.Lock()
        self._rows: Sequence[BacklogRow] = ()
        self._read_at = -_BACKLOG_SECONDS

    def describe(self) -> Iterable[Metric]:
        return []  # its `transfers` shares a family name with the counter `transfers_total`, see _Disambiguated

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._read_at >= _BACKLOG_SECONDS:
                self._rows = self._read()
                self._read_at = time.monotonic()
            rows = self._rows
        return self._families(rows)

    def _families(self, rows: Sequence[BacklogRow]) -> list[Metric]:
        count = GaugeMetricFamily(
            f"{PREFIX}_transfers",
            "Transfers in the ledger by state (they survive a restart).",
            labels=("state", "source", "destination"),
        )
        oldest = GaugeMetricFamily(
            f"{PREFIX}_transfers_oldest_queued_seconds",
            "Age of the oldest transfer that waits; 0 where none does.",
            labels=("source", "destination"),
        )
        rules = self._rules()
        routes = {(r.sweep.source, d) for r in rules.rules.values() for d in r.move.to} if rules else set()
        totals = {(state, *route): 0 for route in routes for state in State}
        ages = dict.fromkeys(routes, 0.0)
        now = datetime.now(UTC)
        for row in rows:
            route = (row.source, row.destination)
            if route not in routes:
                continue
            totals[row.state, *route] = row.count
            if row.oldest_queued_at is not None:
                ages[route] = max(ages[route], (now - row.oldest_queued_at).total_seconds())
        for labels, value in totals.items():
            count.add_metric([str(label) for label in labels], value)
        for route, age in ages.items():
            oldest.add_metric(list(route), age)
        return [count, oldest]
