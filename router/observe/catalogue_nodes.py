"""The table of metrics, second part: nodes, the file system and certificates, the router itself. Pure."""

from __future__ import annotations

from router.domain.events import WAITS
from router.observe.definitions import RESPONSE_BUCKETS, Definition, callers, certificates, channels, nodes, once, paced
from router.observe.labels import ASSOCIATION_RESULTS, AUDITED, NOTIFICATIONS, QUARANTINED, ROLES

NODES_AND_ROUTER = (
    # Associations.
    Definition(
        "associations_total",
        "counter",
        "Associations attempted or accepted, by result.",
        ("node", "role", "result"),
        callers,
        (ROLES, ASSOCIATION_RESULTS),
    ),
    Definition("associations_active", "gauge", "Associations open now.", ("node", "role"), callers, (ROLES,)),
    Definition("node_up", "gauge", "1 if the last exchange with the node worked.", ("node",), nodes),
    Definition(
        "window_open", "gauge", "1 if something may be begun with the node now, by its windows.", ("node",), nodes
    ),
    Definition(
        "breaker_open",
        "gauge",
        "1 while the node is left alone because it does not answer; it is tried now and then.",
        ("node",),
        nodes,
    ),
    Definition(
        "node_associations_allowed",
        "gauge",
        "Associations to the node that are allowed now, by limits, windows and rejections; 0 while it is closed.",
        ("node",),
        nodes,
    ),
    Definition(
        "node_waits_total",
        "counter",
        "Requests to the node that had to wait, by what for: slots, pause (after a rejection), duty, pace, incoming, "
        "ledger (which replicas count by).",
        ("node", "reason"),
        nodes,
        (WAITS,),
    ),
    Definition(
        "node_associations_limit",
        "gauge",
        "Associations to the node that its limits allow in the window that is open now, rejections left aside.",
        ("node",),
        nodes,
    ),
    Definition(
        "node_moves_last_hour",
        "gauge",
        "Moves in which the node took part that count towards its moves_per_hour now.",
        ("node",),
        paced,
    ),
    Definition(
        "node_moves_per_hour_limit",
        "gauge",
        "The node's moves_per_hour now; 0 while a window without that limit is open.",
        ("node",),
        paced,
    ),
    Definition(
        "node_response_seconds",
        "histogram",
        "From a request (C-ECHO, C-FIND, C-MOVE, C-GET, C-STORE) to the node until the first that came in answer.",
        ("node",),
        nodes,
        buckets=RESPONSE_BUCKETS,
    ),
    # What the router stands on.
    Definition(
        "store_free_bytes",
        "gauge",
        "Bytes free on the store's file system; gone while that does not answer.",
        (),
        None,
    ),
    Definition(
        "store_size_bytes", "gauge", "Size of the store's file system; gone while that does not answer.", (), None
    ),
    Definition("store_minimum_free_bytes", "gauge", "router.minimum_free: with less free, instances are refused."),
    Definition("store_removed_total", "counter", "Instances that left the store, as router.retention says."),
    Definition("store_removed_bytes_total", "counter", "Bytes of data sets of the instances that left the store."),
    Definition(
        "quarantine_total",
        "counter",
        "Instances that were put into the quarantine, or offered again, by reason.",
        ("reason",),
        once,
        (QUARANTINED,),
    ),
    Definition("quarantine_objects", "gauge", "Objects in the quarantine; gone while the store is silent.", (), None),
    Definition(
        "certificate_expiry_timestamp_seconds",
        "gauge",
        "When the first of the certificates in a file expires, by the key that names it; 0: none can be read there.",
        ("certificate",),
        certificates,
    ),
    # Notifications.
    Definition(
        "notifications_total",
        "counter",
        "Notifications by what became of them: sent, failed (an attempt), given_up, suppressed (told in a summary).",
        ("channel", "result"),
        channels,
        (NOTIFICATIONS,),
    ),
    Definition("notifications_waiting", "gauge", "Notifications that are not delivered yet.", ("channel",), channels),
    # Audit messages.
    Definition(
        "audit_messages_total",
        "counter",
        "Audit messages by what became of them: sent, dropped (lost: the buffer was full), failed (attempts to send).",
        ("result",),
        once,
        (AUDITED,),
    ),
    Definition("audit_waiting", "gauge", "Audit messages that are not sent yet."),
    # Services that share a ledger.
    Definition("leads", "gauge", "1 if this service makes sweeps due and shows what concerns all on its ledger."),
    Definition("replicas", "gauge", "Services that live on the ledger, this one included."),
    # The router itself.
    Definition("config_last_reload_successful", "gauge", "1 if the last configuration was accepted."),
    Definition("config_last_reload_success_timestamp_seconds", "gauge", "When a configuration was last accepted."),
    Definition(
        "config_info",
        "gauge",
        "The running configuration: hash of all of it, and (work) of all but the section router.",
        ("hash", "work"),
        None,
    ),
    Definition("info", "gauge", "What this service is called among those on its ledger.", ("replica",), None),
    Definition("build_info", "gauge", "The running version.", ("version",), None),
)
