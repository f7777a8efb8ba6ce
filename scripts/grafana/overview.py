"""The overview: what moves, how it ends, and who needs to be looked at."""

from __future__ import annotations

from grafana.board import Row, dashboard
from grafana.overview_glance import trouble, work
from grafana.overview_replicas import replicas
from grafana.panels import Column, Json, Panel, Query, bars, leads_to, lines, stat, states, table
from grafana.promql import (
    ALERTS,
    ARROW,
    PAIR,
    POORLY,
    ROUTE,
    SWEEP,
    WAITED,
    by_node,
    counted,
    of,
    quantile,
    rate,
    summed,
    up,
)
from grafana.words import (
    BAD,
    CLOSED_IS_USUAL,
    COMPLETE,
    GOOD,
    LEFT_ALONE,
    LONG,
    NODE,
    NONE_IS_FINE,
    NONE_IS_USUAL,
    ONE_IS_FINE,
    OUTCOMES,
    OVERVIEW,
    POOR,
    RELOAD,
    RULE,
    STOPPED,
    UP,
    VERDICTS,
    WINDOW,
)

ENDED = of("transfers_total", *ROUTE)
TO_NODE = leads_to(NODE, "This node", "node")
TO_RULE = leads_to(RULE, "This rule", "rule")


def board() -> Json:
    """The dashboard."""
    return dashboard(
        OVERVIEW,
        "overview",
        "What the router moves, how it ends, whether it sees everything, and who needs to be looked at.",
        ("instance", "rule", "source", "destination"),
        (
            Row("At a glance", (*trouble(), *work())),
            Row("What moves now", moving()),
            Row("Verdicts", verdicts()),
            Row("Rules and nodes", (rules(), nodes(), *over_time())),
            Row("Services on one ledger", replicas()),
            Row("Alerts and notifications", told()),
            Row("Configuration", configuration()),
        ),
    )


def moving() -> tuple[Panel, ...]:
    """Over time."""
    return (
        lines(
            "Sub-operations by outcome",
            [Query(rate(of("move_suboperations_total", *ROUTE), "outcome"), "{{outcome}}")],
            "Sub-operations of C-MOVE and C-GET, a second. Failed ones: the verdicts below say which route, "
            "`dicom-router transfers show ID` which reason.",
            unit="ops",
            stacked=True,
            colors=OUTCOMES,
            width=12,
        ),
        lines(
            "Remaining by route",
            [Query(summed(of("move_suboperations_remaining", *PAIR), "source, destination"), ARROW)],
            "Instances that the running moves of each route still have before them. A line that stays level is a move "
            "that hangs; it ends at the source's deadline (nodes.*.move).",
            stacked=True,
            width=12,
        ),
        lines(
            "Transfers by state",
            [
                Query(
                    summed(of("transfers", *PAIR, state="~queued|held|moving|verifying"), "state"),
                    "{{state}}",
                )
            ],
            "Transfers in the ledger that have not ended. If `queued` grows day by day, more comes than may go: see "
            "the limits and windows of the nodes.",
            stacked=True,
            width=12,
        ),
        lines(
            "Oldest queued by route",
            [Query(summed(WAITED, "source, destination", "max"), ARROW)],
            "How long the oldest transfer of each route has waited. One route only: look at its two nodes. All of "
            "them: the router or its disk.",
            unit="s",
            steps=LONG,
            width=12,
        ),
    )


def verdicts() -> tuple[Panel, ...]:
    """How transfers end."""
    return (
        bars(
            "Transfers ended by verdict",
            counted(ENDED, "verdict"),
            "{{verdict}}",
            "What the evidence says: receipts of the router's own store, storage commitment, queries to the "
            "destination. `contradicted`: the source reported success, and it is not there.",
            colors=VERDICTS,
            width=12,
        ),
        table(
            "Verdicts by rule and destination",
            (
                Column("rule", link=TO_RULE),
                Column("source", link=TO_NODE),
                Column("destination", link=TO_NODE),
                Column("verdict"),
                Column("transfers", counted(ENDED, f"{', '.join(ROUTE)}, verdict", "$__range"), decimals=0),
            ),
            "Transfers that ended in the time shown. Names lead to the dashboard of the rule or node.",
            sort="-transfers",
            above=0,
            width=12,
            none="no transfer has ended",
        ),
        lines(
            "Transfer duration",
            [
                Query(quantile(0.5, of("transfer_duration_seconds_bucket", *PAIR)), "half are faster than"),
                Query(quantile(0.95, of("transfer_duration_seconds_bucket", *PAIR)), "95 % are faster than"),
            ],
            "From the first claim of a transfer to its verdict, retries included. Slow with the same load: the "
            "source's disk or tape, or the network.",
            unit="s",
            none="no transfer has ended",
        ),
        lines(
            "Seen to verified",
            [
                Query(quantile(0.5, of("seen_to_verified_seconds_bucket")), "half are faster than"),
                Query(quantile(0.95, of("seen_to_verified_seconds_bucket")), "95 % are faster than"),
            ],
            "From the sweep that saw a study to the verdict: what people wait for. Far above the transfer duration, "
            "it is the queue that costs the time.",
            unit="s",
            none="no transfer has ended",
        ),
        lines(
            "C-MOVE responses by status",
            [Query(rate(of("move_responses_total", *PAIR), "source, status"), "{{source}} {{status}}")],
            "0xFF00 is Pending, 0x0000 success, 0xB000 success with failures; 0xA801: the source does not know the "
            "destination; 0xA702 and 0xC000: see the source's log.",
            unit="ops",
        ),
    )


def rules() -> Panel:
    """A row for each rule."""
    age = f"time() - max by (rule) ({of('sweep_last_success_timestamp_seconds', *SWEEP)} > 0)"
    due = f"max by (rule) ({of('sweep_due_timestamp_seconds', *SWEEP)} > 0) - time()"
    return table(
        "Rules",
        (
            Column("rule", link=TO_RULE),
            Column(
                "last sweep",
                summed(of("sweep_complete", *SWEEP), "rule", "min"),
                words=COMPLETE,
                steps=ONE_IS_FINE,
            ),
            Column("complete since", age, unit="s", decimals=0),
            Column("due in", due, unit="s", decimals=0, steps=((None, BAD), (0, GOOD))),
            Column("matches", counted(of("sweep_matches_total", *SWEEP), "rule", "$__range"), decimals=0),
            Column("transfers ended", counted(ENDED, "rule", "$__range"), decimals=0),
            Column("of them poorly", counted(POORLY, "rule", "$__range"), decimals=0, steps=NONE_IS_USUAL),
        ),
        "Each rule in the time shown. `due in` below 0: its next complete sweep is late. An order's rule has no "
        "sweeps of its own. The name leads to the rule's dashboard.",
        sort="-of them poorly",
        height=9,
        none="no rule is configured",
    )


def nodes() -> Panel:
    """A row for each node."""
    waits = counted(of("node_waits_total"), "node", "$__range")
    failed = counted(of("associations_total", role="requestor", result="!accepted"), "node", "$__range")
    queued = summed(by_node(of("transfers", state="queued"), "source"), "node")
    return table(
        "Nodes",
        (
            Column("node", link=TO_NODE),
            Column("answers", summed(up(), "node", "min"), words=UP, steps=ONE_IS_FINE),
            Column("breaker", summed(of("breaker_open"), "node", "max"), words=LEFT_ALONE, steps=NONE_IS_FINE),
            Column(
                "window",
                summed(of("window_open"), "node", "min"),
                words=WINDOW,
                steps=CLOSED_IS_USUAL,
            ),
            Column("in use", summed(of("associations_active", role="requestor"), "node")),
            Column("allowed", summed(of("node_associations_allowed"), "node", "max")),
            Column("queued from it", queued),
            Column("requests that waited", waits, decimals=0),
            Column("associations failed", failed, decimals=0, steps=NONE_IS_USUAL),
        ),
        "Each node now; the last two columns count the time shown. A node without `answers` has not been called yet. "
        "The name leads to the node's dashboard.",
        sort="-associations failed",
        height=9,
        none="no node is configured",
    )


def over_time() -> tuple[Panel, ...]:
    """How rules and nodes did."""
    return (
        lines(
            "Age of the last complete sweep",
            [Query(f"time() - ({of('sweep_last_success_timestamp_seconds', *SWEEP)} > 0)", "{{rule}} on {{source}}")],
            "How long ago each rule last saw everything. One that climbs without end: its sweeps fail or are "
            "incomplete, and studies may go unseen.",
            unit="s",
            width=6,
        ),
        states(
            "Sweep completeness",
            Query(summed(of("sweep_complete", *SWEEP), "rule, source", "min"), "{{rule}} on {{source}}"),
            "Whether the last sweep is proven to have found everything that matches. `dicom-router plan --rule RULE` "
            "says why not.",
            COMPLETE,
            width=6,
        ),
        states(
            "Node up",
            Query(summed(up(), "node", "min"), "{{node}}"),
            "Whether the last exchange with each node worked. Nodes the router has not called yet are left out.",
            UP,
            width=6,
        ),
        states(
            "Route stopped",
            Query(summed(of("route_stopped", *PAIR), "source, destination", "max"), ARROW),
            "Since when nothing can be moved from a source to a destination. After the configuration there is mended, "
            "`dicom-router transfers retry ID` of one transfer starts the route again.",
            STOPPED,
            width=6,
        ),
    )


def told() -> tuple[Panel, ...]:
    """Alerts, notifications and audit messages."""
    labels = ("alertname", "severity", "instance", "rule", "source", "destination", "node", "reason", "certificate")
    return (
        table(
            "Alerts",
            (
                Column("alertname"),
                Column("severity", words={"critical": ("critical", BAD), "warning": ("warning", POOR)}),
                Column("instance"),
                Column("rule", link=TO_RULE),
                *(Column(label, link=TO_NODE) for label in ("source", "destination", "node")),
                *(Column(label) for label in labels[7:]),
                Column("", summed(ALERTS, ", ".join(labels))),
            ),
            "Alerts that fire now and what about. Prometheus (Alerts) has for each what it means and what to do.",
            sort="severity",
            width=12,
            none="no alert fires",
        ),
        bars(
            "Notifications by result",
            counted(of("notifications_total"), "channel, result"),
            "{{channel}} {{result}}",
            "Webhooks and mails by how they went. Given up: nobody was told; the log says what the channel answered.",
            width=6,
            none="no channel is configured",
        ),
        lines(
            "Notifications waiting by channel",
            [Query(summed(of("notifications_waiting"), "channel"), "{{channel}}")],
            "Notifications that are not delivered yet. They are tried again; if they stay, look at address and "
            "password of router.notify.",
            width=6,
            none="no channel is configured",
        ),
        bars(
            "Audit messages by result",
            counted(of("audit_messages_total"), "result"),
            "{{result}}",
            "Messages to the audit record repository. Failed: an attempt, they wait; dropped: they are lost.",
            width=12,
            none="nothing is audited",
        ),
        lines(
            "Audit messages waiting",
            [Query(summed(of("audit_waiting"), "instance"), "{{instance}}")],
            "Audit messages on the disk that the repository does not have yet. If they stay, it cannot be reached: the "
            "log says why. Past router.audit.buffer the oldest are lost.",
            width=12,
            none="nothing is audited",
        ),
    )


def configuration() -> tuple[Panel, ...]:
    """What runs."""
    return (
        states(
            "Reload",
            Query(summed(of("config_last_reload_successful"), "instance", "min"), "{{instance}}"),
            "Whether the last reload was accepted. While it is not, edits have no effect: `dicom-router validate`.",
            RELOAD,
            height=6,
        ),
        stat(
            "In force since",
            f"{summed(of('config_last_reload_success_timestamp_seconds'), how='max')} * 1000",
            "When a configuration was last accepted, by a start or a reload.",
            unit="dateTimeFromNow",
            width=4,
            height=6,
        ),
        table(
            "What runs",
            (
                Column("instance"),
                Column("version"),
                Column("hash"),
                Column("work"),
                Column("", summed(of("build_info"), "instance, version", "max")),
                Column("", summed(of("config_info"), "instance, hash, work", "max")),
            ),
            "Version of each router and hash of its configuration; `work`: of all but the section router. Several "
            "routers are to agree in version and work; where they are not meant to, take "
            "DicomRouterConfigurationsDiffer out of the alerts.",
            width=12,
            height=6,
            none="no router runs",
        ),
    )
