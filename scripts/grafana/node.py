"""The dashboard of nodes: what each allows, how it answers, what goes from it and to it."""

from __future__ import annotations

from grafana.board import Row, dashboard
from grafana.panels import Column, Json, Panel, Query, bars, gauges, lines, stat, states, table
from grafana.promql import ARROW, by_node, counted, down, of, or_none, quantile, rate, summed, up
from grafana.words import (
    BAD,
    CLOSED_IS_USUAL,
    GOOD,
    LEFT_ALONE,
    LONG,
    NODE,
    NONE_IS_FINE,
    NONE_IS_USUAL,
    ONE_IS_FINE,
    OUTCOMES,
    POOR,
    UP,
    WINDOW,
)

IN_USE = of("associations_active", "node", role="requestor")
FAILED = of("associations_total", "node", role="requestor", result="!accepted")
ALL = of("associations_total", "node", role="requestor")
FROM, TO = {"source": "~$node"}, {"destination": "~$node"}


def board() -> Json:
    """The dashboard."""
    return dashboard(
        NODE,
        "nodes",
        "How each node is treated and how it answers: limits, breaker, windows, response times, rejections, queues.",
        ("instance", "node"),
        (
            Row("Now", (*now(), each())),
            Row("Whether it may be asked", may_be_asked()),
            Row("Limits", limits()),
            Row("How it answers", answers()),
            Row("What goes from it and to it", traffic()),
        ),
    )


def now() -> tuple[Panel, ...]:
    """At a glance."""
    return (
        stat(
            "Nodes down",
            or_none(f"count(count by (node) ({down('node')}))"),
            "Nodes whose last exchange did not work. `dicom-router doctor NODE` says what is wrong.",
            steps=NONE_IS_FINE,
            width=4,
        ),
        stat(
            "Left alone",
            summed(summed(of("breaker_open", "node"), "node", "max")),
            "Nodes that failed so often in a row that they are only tried now and then (nodes.*.breaker). They are "
            "asked again by themselves when they answer.",
            steps=NONE_IS_FINE,
            width=4,
        ),
        stat(
            "Windows closed",
            or_none(f"count(max by (node) ({of('window_open', 'node')}) == 0)"),
            "Nodes with which nothing may be begun now, by their windows. That is as configured; what waits for them "
            "waits rightly.",
            steps=((None, GOOD), (1, "blue")),
            width=4,
        ),
        stat(
            "Requests that waited",
            counted(of("node_waits_total", "node"), window="$__range"),
            "Requests that a limit made wait in the time shown. Many are no fault: they are the archive's protection "
            "at work.",
            decimals=0,
            width=4,
        ),
        stat(
            "Associations failed",
            counted(FAILED, window="$__range"),
            "Associations the router asked for in the time shown and did not get, or that broke. The graph below says "
            "how.",
            steps=NONE_IS_USUAL,
            decimals=0,
            width=4,
        ),
        stat(
            "Queued",
            summed(of("transfers", state="queued", **FROM)),
            "Transfers that wait to be moved from these nodes. `dicom-router transfers list --source NODE --state "
            "queued` says what for.",
            width=4,
        ),
    )


def each() -> Panel:
    """A row for each node."""
    return table(
        "Each node",
        (
            Column("node"),
            Column("answers", summed(up("node"), "node", "min"), words=UP, steps=ONE_IS_FINE),
            Column("breaker", summed(of("breaker_open", "node"), "node", "max"), words=LEFT_ALONE, steps=NONE_IS_FINE),
            Column(
                "window",
                summed(of("window_open", "node"), "node", "min"),
                words=WINDOW,
                steps=CLOSED_IS_USUAL,
            ),
            Column("in use", summed(IN_USE, "node")),
            Column("allowed", summed(of("node_associations_allowed", "node"), "node", "max")),
            Column("limit", summed(of("node_associations_limit", "node"), "node", "max")),
            Column("moves in the last hour", summed(of("node_moves_last_hour", "node"), "node", "max")),
            Column("moves_per_hour", summed(of("node_moves_per_hour_limit", "node"), "node", "max")),
            Column(
                "cuts answers at",
                summed(of("find_cap", "node"), "node", "max"),
                words={0: ("not seen to", "transparent")},
            ),
            Column("queued from it", summed(by_node(of("transfers", state="queued", **FROM), "source"), "node")),
            Column("queued to it", summed(by_node(of("transfers", state="queued", **TO), "destination"), "node")),
        ),
        "Each node now. Without `answers` it has not been called yet; without moves_per_hour it has no such limit; "
        "`cuts answers at`: it was seen to end its answers at so many matches, and sweeps split their questions.",
        sort="-queued from it",
        height=9,
        none="no node is configured",
    )


def may_be_asked() -> tuple[Panel, ...]:
    """What of a node is open or closed, over time."""
    return (
        states(
            "Node up",
            Query(summed(up("node"), "node", "min"), "{{node}}"),
            "Whether the last exchange worked. Nodes the router has not called yet are left out. Down: does it run, "
            "are address and port right, does it know this router?",
            UP,
        ),
        states(
            "Breaker",
            Query(summed(of("breaker_open", "node"), "node", "max"), "{{node}}"),
            "While a node is left alone nothing is begun with it but a try now and then. A node that answers C-ECHO "
            "but no query stays here as well: its database may hang.",
            LEFT_ALONE,
        ),
        states(
            "Window",
            Query(summed(of("window_open", "node"), "node", "min"), "{{node}}"),
            "When something may be begun with the node (nodes.*.windows). If a backlog does not go down overnight, "
            "the windows are too short.",
            WINDOW,
        ),
    )


def limits() -> tuple[Panel, ...]:
    """What is allowed and what of it is used."""
    return (
        lines(
            "Associations in use and allowed",
            [
                Query(summed(IN_USE, "node"), "{{node}} in use"),
                Query(summed(of("node_associations_allowed", "node"), "node", "max"), "{{node}} allowed"),
                Query(summed(of("node_associations_limit", "node"), "node", "max"), "{{node}} limit"),
            ],
            "Allowed below the limit: the node rejected associations for now, and the router has become more modest; "
            "it grows again by itself. In use at the limit all day: the node could be allowed more "
            "(limits.associations).",
            dashed=("/ (allowed|limit)$/",),
            width=12,
        ),
        lines(
            "Moves in the last hour",
            [
                Query(summed(of("node_moves_last_hour", "node"), "node", "max"), "{{node}}"),
                Query(summed(of("node_moves_per_hour_limit", "node"), "node", "max"), "{{node}} limit"),
            ],
            "Moves in which the node took part, and its moves_per_hour (0 while a window without that limit is open). "
            "At the limit for hours with a queue: raise it, or accept that it takes longer.",
            dashed=("/ limit$/",),
            width=12,
            none="no node has moves_per_hour",
        ),
        bars(
            "Requests that waited, by what for",
            counted(of("node_waits_total", "node"), "node, reason"),
            "{{node}} {{reason}}",
            "slots: limits.associations; pause: after a rejection; duty: the share of time; pace: queries per minute "
            "or moves per hour; incoming: what the destination takes at once. The one that leads is the limit to "
            "raise.",
            width=12,
        ),
        gauges(
            "Answers cut at",
            Query(summed(of("find_cap", "node"), "node", "max"), "{{node}}"),
            "The number of matches at which the node was seen to cut its answers; 0: it does not. Sweeps split their "
            "questions there. Having the limit raised at the archive makes them quicker.",
            unit="short",
            steps=((None, GOOD), (1, POOR)),
            width=12,
            none="no node is configured",
        ),
    )


def answers() -> tuple[Panel, ...]:
    """How a node answers."""
    seconds = of("node_response_seconds_bucket", "node")
    share = f"{counted(FAILED, 'node', '$__range')} / ({counted(ALL, 'node', '$__range')} > 0)"
    return (
        lines(
            "Response time",
            [
                Query(quantile(0.5, seconds, "node"), "{{node}} half"),
                Query(quantile(0.95, seconds, "node"), "{{node}} 95 %"),
            ],
            "From a request (C-ECHO, C-FIND, C-MOVE, C-GET, C-STORE) to the first that comes in answer. Up, with the "
            "same load: the node is busy or near its end; treat it more gently (limits.duty).",
            unit="s",
            steps=((None, GOOD), (5, POOR), (30, BAD)),
            none="no request was answered",
        ),
        lines(
            "Requests answered",
            [Query(rate(of("node_response_seconds_count", "node"), "node"), "{{node}}")],
            "Requests a second that the node answered: the load this router puts on it.",
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Mean response time",
            [
                Query(
                    f"{rate(of('node_response_seconds_sum', 'node'), 'node')} "
                    f"/ ({rate(of('node_response_seconds_count', 'node'), 'node')} > 0)",
                    "{{node}}",
                )
            ],
            "The mean of the first answers. Far above the median: a few requests, most often large queries, take very "
            "long.",
            unit="s",
            none="no request was answered",
        ),
        bars(
            "Associations by result",
            counted(ALL, "node, result"),
            "{{node}} {{result}}",
            "rejected_permanent: it does not know this router, or is called by another title; rejected_transient: too "
            "many at once; refused, timeout: nothing listens, or a firewall; aborted: it broke off.",
        ),
        gauges(
            "Share of associations that failed",
            Query(share, "{{node}}"),
            "Of the associations asked for in the time shown. A few percent come from restarts and busy moments; more "
            "is worth a look at the node's log.",
            unit="percentunit",
            steps=((None, GOOD), (0.02, POOR), (0.2, BAD)),
            most=1,
            none="no association was asked for",
        ),
        bars(
            "C-MOVE responses by status",
            counted(of("move_responses_total", status="!0xFF00", **FROM), "source, status"),
            "{{source}} {{status}}",
            "Final answers of the source. 0x0000 success, 0xB000 some failed, 0xA801 destination unknown there, "
            "0xA702 out of resources, 0xC000 unable to process, 0xFE00 cancelled.",
            none="no move was answered",
        ),
    )


def traffic() -> tuple[Panel, ...]:
    """What goes from a node and to it."""
    states_open = "~queued|held|moving|verifying"
    oldest = of("transfers_oldest_queued_seconds", **FROM)
    return (
        lines(
            "Queue from it",
            [Query(summed(of("transfers", state=states_open, **FROM), "source, state"), "{{source}} {{state}}")],
            "Transfers of which the node is the source, by state. `held` wait for a limit of their rule, not for the "
            "node.",
            stacked=True,
        ),
        lines(
            "Queue to it",
            [
                Query(
                    summed(of("transfers", state=states_open, **TO), "destination, state"), "{{destination}} {{state}}"
                )
            ],
            "Transfers of which the node is the destination, by state. `verifying` that stays: it does not answer the "
            "question what it holds.",
            stacked=True,
        ),
        lines(
            "Oldest queued from it",
            [Query(summed(oldest, "source, destination", "max"), ARROW)],
            "How long the oldest transfer from the node has waited. Compare with its windows before you worry.",
            unit="s",
            steps=LONG,
        ),
        bars(
            "Moved from it",
            counted(of("move_suboperations_total", **FROM), "outcome"),
            "{{outcome}}",
            "Instances that moves from the node brought, by outcome. Failures to all destinations: its log says why "
            "it cannot send.",
            colors=OUTCOMES,
        ),
        bars(
            "Moved to it",
            counted(of("move_suboperations_total", **TO), "outcome"),
            "{{outcome}}",
            "Instances that moves to the node brought, by outcome. Failures from all sources: the destination refuses "
            "them, or is full.",
            colors=OUTCOMES,
        ),
        lines(
            "Transfer duration from it",
            [Query(quantile(0.95, of("transfer_duration_seconds_bucket", **FROM), "source"), "{{source}} 95 %")],
            "95 of 100 transfers from the node took less, from the first claim to the verdict. Slower than others: "
            "its disk or tape, or the network to it.",
            unit="s",
            none="no transfer has ended",
        ),
        bars(
            "Stored by it here",
            counted(of("store_instances_total", calling="~$node"), "calling, status"),
            "{{calling}} {{status}}",
            "C-STORE requests of the node to this router's own store. 0x0000 taken; 0xA700 no room; 0xC000 not "
            "readable.",
            none="it stored nothing here",
        ),
        lines(
            "Bytes stored by it here",
            [Query(rate(of("store_bytes_total", calling="~$node"), "calling"), "{{calling}}")],
            "Data sets a second that the node brought to this router's own store.",
            unit="Bps",
            stacked=True,
        ),
        bars(
            "Storage commitment",
            counted(of("storage_commitments_total", "node"), "node, result"),
            "{{node}} {{result}}",
            "Transactions with the node. overdue: it has not answered in time; failed: it does not keep all of it; "
            "refused: does it know this router's AE title?",
            none="no commitment was asked for",
        ),
    )
