"""The table of all metrics: name, kind, meaning, labels, and which label sets exist from the start. Pure."""

from __future__ import annotations

from router.domain.events import DROPPED, HELD_BACK
from router.observe.catalogue_nodes import NODES_AND_ROUTER
from router.observe.definitions import (
    LEAD_BUCKETS,
    PAIR,
    ROUTE,
    SWEEP,
    SWEEP_BUCKETS,
    TRANSFER_BUCKETS,
    Definition,
    appointments,
    callers,
    groups,
    looks,
    nodes,
    once,
    pairs,
    prefetches,
    prior_sources,
    routes,
    sweeps,
)
from router.observe.labels import (
    COMMITMENTS,
    LOOK_RESULTS,
    MESSAGE_CODES,
    MESSAGE_EVENTS,
    MESSAGE_REFUSALS,
    NEWS,
    PRIOR_RESULTS,
    REFUSALS,
    RESPONSE_STATUSES,
    STORE_STATUSES,
    SUBOPERATION_OUTCOMES,
    SWEEP_RESULTS,
    VALUES_REFUSED,
    VERDICTS,
)

_DEFINITIONS = (
    # Moves.
    Definition(
        "move_suboperations_total",
        "counter",
        "C-MOVE and C-GET sub-operations by outcome; no more completed ones than arrived, where that can be known.",
        (*ROUTE, "outcome"),
        routes,
        (SUBOPERATION_OUTCOMES,),
    ),
    Definition(
        "move_suboperations_remaining",
        "gauge",
        "Sub-operations that running C-MOVE and C-GET requests still have before them.",
        PAIR,
        pairs,
    ),
    Definition(
        "move_responses_total",
        "counter",
        "C-MOVE and C-GET responses received, by status.",
        (*PAIR, "status"),
        pairs,
        (RESPONSE_STATUSES,),
    ),
    Definition(
        "route_stopped",
        "gauge",
        "1 while nothing can be moved from the source to the destination until somebody changes a configuration.",
        PAIR,
        pairs,
    ),
    # Transfers.
    Definition(
        "transfers_total",
        "counter",
        "Transfers that ended, by verdict.",
        (*ROUTE, "verdict"),
        routes,
        (VERDICTS,),
    ),
    Definition(
        "transfers", "gauge", "Transfers in the ledger by state (they survive a restart).", ("state", *PAIR), None
    ),
    Definition(
        "holds_released_total",
        "counter",
        "Transfers let go that were held back by a rule that was removed, or does not lead there any more.",
        (),
        once,
    ),
    Definition(
        "transfers_oldest_queued_seconds",
        "gauge",
        "Age of the oldest transfer that waits; 0 where none does.",
        PAIR,
        None,
    ),
    Definition(
        "transfer_duration_seconds",
        "histogram",
        "From the first claim of a transfer to its verdict.",
        PAIR,
        pairs,
        buckets=TRANSFER_BUCKETS,
    ),
    Definition(
        "seen_to_verified_seconds",
        "histogram",
        "From the sweep that saw a study to the verdict.",
        buckets=TRANSFER_BUCKETS,
    ),
    # Sweeps.
    Definition(
        "sweeps_total", "counter", "Sweeps that ended, by result.", (*SWEEP, "result"), sweeps, (SWEEP_RESULTS,)
    ),
    Definition("sweep_duration_seconds", "histogram", "How long a sweep took.", SWEEP, sweeps, buckets=SWEEP_BUCKETS),
    Definition("sweep_matches_total", "counter", "Matches that sweeps brought.", SWEEP, sweeps),
    Definition(
        "sweep_unavailable_total",
        "counter",
        "Matches that sweeps left out because the source has them off line.",
        SWEEP,
        sweeps,
    ),
    Definition(
        "sweep_held_total",
        "counter",
        "Transfers that sweeps began to hold back: until they have settled, or by a limit of the rule.",
        (*SWEEP, "reason"),
        sweeps,
        (HELD_BACK,),
    ),
    Definition("sweep_queries_total", "counter", "C-FIND requests that sweeps took.", SWEEP, sweeps),
    Definition(
        "sweep_rows_dropped_total",
        "counter",
        "Matches that sweeps could not use: twice, of another level, without a unique key, not decodable.",
        (*SWEEP, "reason"),
        sweeps,
        (DROPPED,),
    ),
    Definition(
        "find_cap",
        "gauge",
        "The number of matches at which the node was seen to cut its answers; 0 where it does not.",
        ("node",),
        nodes,
    ),
    Definition("sweep_complete", "gauge", "1 if the last sweep is proven to have found everything.", SWEEP, sweeps),
    Definition("sweep_last_success_timestamp_seconds", "gauge", "When the last complete sweep ended.", SWEEP, sweeps),
    Definition(
        "sweep_due_timestamp_seconds",
        "gauge",
        "When the next complete sweep is due, by schedule and windows: in the past while it is late; 0: never.",
        SWEEP,
        sweeps,
    ),
    Definition(
        "sweeps_missed_total",
        "counter",
        "Due times that brought no sweep: the one before was still open, or the router did not run.",
        SWEEP,
        sweeps,
    ),
    # Prefetch.
    Definition(
        "appointments_total",
        "counter",
        "News of examinations to come, by what each was to what is known.",
        ("rule", "trigger", "news"),
        appointments,
        (NEWS,),
    ),
    Definition(
        "prior_looks_total",
        "counter",
        "Looks for a patient's priors that ended, by result; one that ended with `again` is tried once more.",
        (*SWEEP, "result"),
        looks,
        (LOOK_RESULTS,),
    ),
    Definition(
        "prior_look_duration_seconds",
        "histogram",
        "How long a look for a patient's priors took.",
        ("source",),
        prior_sources,
        buckets=SWEEP_BUCKETS,
    ),
    Definition(
        "priors_selected_total",
        "counter",
        "Priors that were chosen, by the group they were chosen for; each destination counted.",
        ("rule", "group"),
        groups,
    ),
    Definition(
        "priors_ended_total",
        "counter",
        "Priors with a deadline that have their verdict: there before the appointment, after it, or not at all.",
        ("rule", "result"),
        prefetches,
        (PRIOR_RESULTS,),
    ),
    Definition(
        "prior_lead_seconds",
        "histogram",
        "How long before the appointment a prior was there; 0 for one that came after it began.",
        ("rule",),
        prefetches,
        buckets=LEAD_BUCKETS,
    ),
    Definition(
        "order_messages_total",
        "counter",
        "HL7 messages answered, by event and acknowledgement code.",
        ("event", "code"),
        once,
        (MESSAGE_EVENTS, MESSAGE_CODES),
    ),
    Definition(
        "order_messages_refused_total",
        "counter",
        "HL7 messages that were not taken, by why.",
        ("reason",),
        once,
        (MESSAGE_REFUSALS,),
    ),
    Definition(
        "values_refused_total",
        "counter",
        "Values of worklists and messages that could widen a query, and were refused.",
        ("trigger", "reason"),
        once,
        VALUES_REFUSED,
    ),
    # Store SCP.
    Definition(
        "store_instances_total",
        "counter",
        "C-STORE requests answered, by status.",
        ("calling", "status"),
        callers,
        (STORE_STATUSES,),
    ),
    Definition("store_bytes_total", "counter", "Bytes of data sets stored.", ("calling",), callers),
    Definition(
        "store_refused_total",
        "counter",
        "Instances and associations refused.",
        ("reason",),
        once,
        (REFUSALS,),
    ),
    # Storage commitment.
    Definition(
        "storage_commitments_total",
        "counter",
        "Storage commitment transactions requested, answered, refused, overdue.",
        ("node", "result"),
        callers,
        (COMMITMENTS,),
    ),
)

LEDGER_WIDE = frozenset(
    {
        "transfers",
        "transfers_oldest_queued_seconds",
        "sweep_complete",
        "sweep_last_success_timestamp_seconds",
        "sweep_due_timestamp_seconds",
        "notifications_waiting",
    }
)
"""Gauges of what all services on a ledger share: only the one that leads shows them, so that a sum counts them once."""

CATALOGUE = {definition.name: definition for definition in (*_DEFINITIONS, *NODES_AND_ROUTER)}
"""{name without prefix: definition}, in the order of /metrics."""
