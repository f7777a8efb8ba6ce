"""The table of all metrics: name, kind, meaning, labels, and which label sets exist from the start. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from router.domain.events import DROPPED, HELD_BACK, WAITS
from router.observe.labels import (
    ASSOCIATION_RESULTS,
    COMMITMENTS,
    LOOK_RESULTS,
    MESSAGE_CODES,
    MESSAGE_EVENTS,
    MESSAGE_REFUSALS,
    NEWS,
    OTHER,
    PRIOR_RESULTS,
    REFUSALS,
    RESPONSE_STATUSES,
    ROLES,
    STORE_STATUSES,
    SUBOPERATION_OUTCOMES,
    SWEEP_RESULTS,
    VALUES_REFUSED,
    VERDICTS,
    Labels,
    Names,
)

PREFIX = "dicom_router_"

Scope = Callable[[Names], Iterable[Labels]]


def _once(names: Names) -> Iterable[Labels]:
    return [()]


def _routes(names: Names) -> Iterable[Labels]:
    return names.routes


def _pairs(names: Names) -> Iterable[Labels]:
    return names.pairs


def _sweeps(names: Names) -> Iterable[Labels]:
    return names.sweeps


def _nodes(names: Names) -> Iterable[Labels]:
    return names.nodes


def _callers(names: Names) -> Iterable[Labels]:
    return [*names.nodes, (OTHER,)]


def _groups(names: Names) -> Iterable[Labels]:
    return names.groups


def _appointments(names: Names) -> Iterable[Labels]:
    return names.appointments


def _looks(names: Names) -> Iterable[Labels]:
    return names.looks


def _prefetches(names: Names) -> Iterable[Labels]:
    return names.prefetches


def _prior_sources(names: Names) -> Iterable[Labels]:
    return names.prior_sources


class Definition(NamedTuple):
    """One metric."""

    name: str
    """Without the prefix."""
    kind: str
    """`counter`, `gauge` or `histogram`."""
    text: str
    labels: Labels = ()
    """Names: first those of the scope, then one for each vocabulary."""
    scope: Scope | None = _once
    """Gives the label sets that exist from the start, at 0; None where none does."""
    vocabularies: tuple[tuple[str, ...], ...] = ()
    """Each word of them goes with each set of the scope."""
    buckets: tuple[float, ...] = ()


_PAIR = ("source", "destination")
_ROUTE = ("rule", *_PAIR)
_SWEEP = ("rule", "source")
_TRANSFER_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_SWEEP_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 1800)

_DEFINITIONS = (
    # Moves.
    Definition(
        "move_suboperations_total",
        "counter",
        "C-MOVE and C-GET sub-operations by outcome; no more completed ones than arrived, where that can be known.",
        (*_ROUTE, "outcome"),
        _routes,
        (SUBOPERATION_OUTCOMES,),
    ),
    Definition(
        "move_suboperations_remaining",
        "gauge",
        "Sub-operations that running C-MOVE and C-GET requests still have before them.",
        _PAIR,
        _pairs,
    ),
    Definition(
        "move_responses_total",
        "counter",
        "C-MOVE and C-GET responses received, by status.",
        (*_PAIR, "status"),
        _pairs,
        (RESPONSE_STATUSES,),
    ),
    Definition(
        "route_stopped",
        "gauge",
        "1 while nothing can be moved from the source to the destination until somebody changes a configuration.",
        _PAIR,
        _pairs,
    ),
    # Transfers.
    Definition(
        "transfers_total",
        "counter",
        "Transfers that ended, by verdict.",
        (*_ROUTE, "verdict"),
        _routes,
        (VERDICTS,),
    ),
    Definition(
        "transfers", "gauge", "Transfers in the ledger by state (they survive a restart).", ("state", *_PAIR), None
    ),
    Definition(
        "holds_released_total",
        "counter",
        "Transfers let go that were held back by a rule that was removed, or does not lead there any more.",
        (),
        _once,
    ),
    Definition(
        "transfers_oldest_queued_seconds",
        "gauge",
        "Age of the oldest transfer that waits; 0 where none does.",
        _PAIR,
        None,
    ),
    Definition(
        "transfer_duration_seconds",
        "histogram",
        "From the first claim of a transfer to its verdict.",
        _PAIR,
        _pairs,
        buckets=_TRANSFER_BUCKETS,
    ),
    Definition(
        "seen_to_verified_seconds",
        "histogram",
        "From the sweep that saw a study to the verdict.",
        buckets=_TRANSFER_BUCKETS,
    ),
    # Sweeps.
    Definition(
        "sweeps_total", "counter", "Sweeps that ended, by result.", (*_SWEEP, "result"), _sweeps, (SWEEP_RESULTS,)
    ),
    Definition(
        "sweep_duration_seconds", "histogram", "How long a sweep took.", _SWEEP, _sweeps, buckets=_SWEEP_BUCKETS
    ),
    Definition("sweep_matches_total", "counter", "Matches that sweeps brought.", _SWEEP, _sweeps),
    Definition(
        "sweep_unavailable_total",
        "counter",
        "Matches that sweeps left out because the source has them off line.",
        _SWEEP,
        _sweeps,
    ),
    Definition(
        "sweep_held_total",
        "counter",
        "Transfers that sweeps began to hold back: until they have settled, or by a limit of the rule.",
        (*_SWEEP, "reason"),
        _sweeps,
        (HELD_BACK,),
    ),
    Definition("sweep_queries_total", "counter", "C-FIND requests that sweeps took.", _SWEEP, _sweeps),
    Definition(
        "sweep_rows_dropped_total",
        "counter",
        "Matches that sweeps could not use: twice, of another level, without a unique key, not decodable.",
        (*_SWEEP, "reason"),
        _sweeps,
        (DROPPED,),
    ),
    Definition(
        "find_cap",
        "gauge",
        "The number of matches at which the node was seen to cut its answers; 0 where it does not.",
        ("node",),
        _nodes,
    ),
    Definition("sweep_complete", "gauge", "1 if the last sweep is proven to have found everything.", _SWEEP, _sweeps),
    Definition("sweep_last_success_timestamp_seconds", "gauge", "When the last complete sweep ended.", _SWEEP, _sweeps),
    Definition(
        "sweep_due_timestamp_seconds",
        "gauge",
        "When the next complete sweep is due, by schedule and windows: in the past while it is late; 0: never.",
        _SWEEP,
        _sweeps,
    ),
    Definition(
        "sweeps_missed_total",
        "counter",
        "Due times that brought no sweep: the one before was still open, or the router did not run.",
        _SWEEP,
        _sweeps,
    ),
    # Prefetch.
    Definition(
        "appointments_total",
        "counter",
        "News of examinations to come, by what each was to what is known.",
        ("rule", "trigger", "news"),
        _appointments,
        (NEWS,),
    ),
    Definition(
        "prior_looks_total",
        "counter",
        "Looks for a patient's priors that ended, by result; one that ended with `again` is tried once more.",
        (*_SWEEP, "result"),
        _looks,
        (LOOK_RESULTS,),
    ),
    Definition(
        "prior_look_duration_seconds",
        "histogram",
        "How long a look for a patient's priors took.",
        ("source",),
        _prior_sources,
        buckets=_SWEEP_BUCKETS,
    ),
    Definition(
        "priors_selected_total",
        "counter",
        "Priors that were chosen, by the group they were chosen for; each destination counted.",
        ("rule", "group"),
        _groups,
    ),
    Definition(
        "priors_ended_total",
        "counter",
        "Priors with a deadline that have their verdict: there before the appointment, after it, or not at all.",
        ("rule", "result"),
        _prefetches,
        (PRIOR_RESULTS,),
    ),
    Definition(
        "order_messages_total",
        "counter",
        "HL7 messages answered, by event and acknowledgement code.",
        ("event", "code"),
        _once,
        (MESSAGE_EVENTS, MESSAGE_CODES),
    ),
    Definition(
        "order_messages_refused_total",
        "counter",
        "HL7 messages that were not taken, by why.",
        ("reason",),
        _once,
        (MESSAGE_REFUSALS,),
    ),
    Definition(
        "values_refused_total",
        "counter",
        "Values of worklists and messages that could widen a query, and were refused.",
        ("trigger", "reason"),
        _once,
        VALUES_REFUSED,
    ),
    # Store SCP.
    Definition(
        "store_instances_total",
        "counter",
        "C-STORE requests answered, by status.",
        ("calling", "status"),
        _callers,
        (STORE_STATUSES,),
    ),
    Definition("store_bytes_total", "counter", "Bytes of data sets stored.", ("calling",), _callers),
    Definition(
        "store_refused_total",
        "counter",
        "Instances and associations refused.",
        ("reason",),
        _once,
        (REFUSALS,),
    ),
    # Storage commitment.
    Definition(
        "storage_commitments_total",
        "counter",
        "Storage commitment transactions requested, answered, refused, overdue.",
        ("node", "result"),
        _callers,
        (COMMITMENTS,),
    ),
    # Associations.
    Definition(
        "associations_total",
        "counter",
        "Associations attempted or accepted, by result.",
        ("node", "role", "result"),
        _callers,
        (ROLES, ASSOCIATION_RESULTS),
    ),
    Definition("associations_active", "gauge", "Associations open now.", ("node", "role"), _callers, (ROLES,)),
    Definition("node_up", "gauge", "1 if the last exchange with the node worked.", ("node",), _nodes),
    Definition(
        "window_open", "gauge", "1 if something may be begun with the node now, by its windows.", ("node",), _nodes
    ),
    Definition(
        "breaker_open",
        "gauge",
        "1 while the node is left alone because it does not answer; it is tried now and then.",
        ("node",),
        _nodes,
    ),
    Definition(
        "node_associations_allowed",
        "gauge",
        "Associations to the node that are allowed now, by limits, windows and rejections; 0 while it is closed.",
        ("node",),
        _nodes,
    ),
    Definition(
        "node_waits_total",
        "counter",
        "Requests to the node that had to wait, by what for: slots, pause (after a rejection), duty, pace, incoming.",
        ("node", "reason"),
        _nodes,
        (WAITS,),
    ),
    # The router itself.
    Definition("config_last_reload_successful", "gauge", "1 if the last configuration was accepted."),
    Definition("config_last_reload_success_timestamp_seconds", "gauge", "When a configuration was last accepted."),
    Definition("config_info", "gauge", "The running configuration.", ("hash",), None),
    Definition("build_info", "gauge", "The running version.", ("version",), None),
)

CATALOGUE = {definition.name: definition for definition in _DEFINITIONS}
"""{name without prefix: definition}, in the order of /metrics."""
