"""The dashboard of rules: whether their sweeps see everything and in time, and what becomes of what they find."""

from __future__ import annotations

from grafana.board import Row, dashboard
from grafana.panels import Column, Json, Panel, Query, bars, leads_to, lines, stat, states, table
from grafana.promql import ARROW, ROUTE, counted, late, of, or_none, quantile, rate, summed
from grafana.words import (
    BAD,
    COMPLETE,
    GOOD,
    NODE,
    NONE_IS_FINE,
    NONE_IS_USUAL,
    ONE_IS_FINE,
    OUTCOMES,
    POOR,
    RULE,
    SHARE,
    SWEEP_RESULTS,
    VERDICTS,
)

ENDED = of("transfers_total", "rule", "destination")
ON = "{{rule}} on {{source}}"
TO_NODE = leads_to(NODE, "This node", "node")
LAST = f"{of('sweep_last_success_timestamp_seconds', 'rule')} > 0"
DUE = f"{of('sweep_due_timestamp_seconds', 'rule')} > 0"


def board() -> Json:
    """The dashboard."""
    return dashboard(
        RULE,
        "rules",
        "Whether each rule's sweeps see everything and in time, and what becomes of what they find.",
        ("instance", "rule", "destination"),
        (
            Row("Now", (*now(), each())),
            Row("Sweeps in time", in_time()),
            Row("What sweeps find", found()),
            Row("What they leave out or hold back", left_out()),
            Row("Transfers", transfers()),
        ),
    )


def now() -> tuple[Panel, ...]:
    """At a glance."""
    good = of("transfers_total", "rule", "destination", verdict="~complete|nothing|unproven")
    rated = of("transfers_total", "rule", "destination", verdict="!cancelled")
    return (
        stat(
            "Sweeps late",
            or_none(f"count({late('rule')})"),
            "Rules whose next complete sweep is overdue, by schedule and windows. New studies may wait there unseen.",
            steps=NONE_IS_FINE,
            width=4,
        ),
        stat(
            "Last sweep incomplete",
            or_none(f"count({of('sweep_complete', 'rule')} == 0 and {LAST})"),
            "Rules that have had a complete sweep, but whose last one was not. `dicom-router plan --rule RULE` gives "
            "the reason.",
            steps=NONE_IS_FINE,
            width=4,
        ),
        stat(
            "Oldest complete sweep",
            or_none(f"time() - min({LAST})"),
            "How long ago the rule that is furthest behind last saw everything. Compare with its schedule: a nightly "
            "rule is a day old.",
            unit="s",
            width=4,
        ),
        stat(
            "Matches",
            counted(of("sweep_matches_total", "rule"), window="$__range"),
            "Matches that sweeps brought in the time shown. None for long: does the archive still get studies, do the "
            "keys fit?",
            decimals=0,
            width=4,
        ),
        stat(
            "Ended well",
            f"{counted(good, window='$__range')} / ({counted(rated, window='$__range')} > 0)",
            "Share of the transfers that ended in the time shown and are complete, had nothing to move, or are "
            "unproven where nobody can be asked. Cancelled ones do not count.",
            unit="percentunit",
            steps=SHARE,
            width=4,
            none="none ended",
        ),
        stat(
            "Holds let go",
            summed(of("holds_released_total")),
            "Transfers let go, since the start, that were held back by a rule that was removed or does not lead there "
            "any more.",
            width=4,
        ),
    )


def each() -> Panel:
    """A row for each rule and source."""
    by = "rule, source"
    return table(
        "Each rule",
        (
            Column("rule"),
            Column("source", link=TO_NODE),
            Column("last sweep", summed(of("sweep_complete", "rule"), by, "min"), words=COMPLETE, steps=ONE_IS_FINE),
            Column("complete since", f"time() - {summed(LAST, by, 'max')}", unit="s", decimals=0),
            Column(
                "due in", f"{summed(DUE, by, 'max')} - time()", unit="s", decimals=0, steps=((None, BAD), (0, GOOD))
            ),
            Column("queries", counted(of("sweep_queries_total", "rule"), by, "$__range"), decimals=0),
            Column("matches", counted(of("sweep_matches_total", "rule"), by, "$__range"), decimals=0),
            Column(
                "missed",
                counted(of("sweeps_missed_total", "rule"), by, "$__range"),
                decimals=0,
                steps=NONE_IS_USUAL,
            ),
            Column("held back", counted(of("sweep_held_total", "rule"), by, "$__range"), decimals=0),
            Column("off line", counted(of("sweep_unavailable_total", "rule"), by, "$__range"), decimals=0),
            Column(
                "unusable",
                counted(of("sweep_rows_dropped_total", "rule"), by, "$__range"),
                decimals=0,
                steps=NONE_IS_USUAL,
            ),
        ),
        "Each rule now, with the node it asks; from `queries` on, in the time shown. `due in` below 0: late. Rules "
        "that wait for orders have no sweeps of their own.",
        sort="due in",
        height=9,
        none="no rule is configured",
    )


def in_time() -> tuple[Panel, ...]:
    """Freshness."""
    return (
        lines(
            "Age of the last complete sweep",
            [Query(f"time() - ({LAST})", ON)],
            "A saw-tooth as high as the rule's period. One that only climbs: the sweeps fail or are incomplete.",
            unit="s",
        ),
        lines(
            "Time until the next is due",
            [Query(f"({DUE}) - time()", ON)],
            "Below 0 it is late. Late for long: sweeps fail, or the source is held by others (limits, windows).",
            unit="s",
            steps=((None, BAD), (0, GOOD)),
            least=None,
            none="no rule has a schedule",
        ),
        states(
            "Sweep completeness",
            Query(summed(of("sweep_complete", "rule"), "rule, source", "min"), ON),
            "Whether the last sweep is proven to have found everything that matches. `dicom-router plan --rule RULE` "
            "says why not.",
            COMPLETE,
        ),
        bars(
            "Sweeps by result",
            counted(of("sweeps_total", "rule"), "result"),
            "{{result}}",
            "incomplete: something was found, more may be there; failed: the source could not be asked.",
            colors=SWEEP_RESULTS,
        ),
        lines(
            "Sweep duration",
            [
                Query(quantile(0.5, of("sweep_duration_seconds_bucket", "rule"), "rule"), "{{rule}} half"),
                Query(quantile(0.95, of("sweep_duration_seconds_bucket", "rule"), "rule"), "{{rule}} 95 %"),
            ],
            "Sweeps that take longer than their period are missed. Look back less in the frequent tier, far in a "
            "nightly one.",
            unit="s",
            none="no sweep has ended",
        ),
        bars(
            "Sweeps missed",
            counted(of("sweeps_missed_total", "rule"), "rule, source"),
            ON,
            "Due times that brought no sweep: the one before was still open, or the router did not run. Often: sweep "
            "less often.",
        ),
    )


def found() -> tuple[Panel, ...]:
    """Matches and what they cost."""
    queries, ended = of("sweep_queries_total", "rule"), of("sweeps_total", "rule")
    return (
        bars(
            "Matches by rule",
            counted(of("sweep_matches_total", "rule"), "rule, source"),
            ON,
            "Matches that sweeps brought, each time anew: what was moved already is found again and left alone.",
        ),
        bars(
            "Queries",
            counted(queries, "rule, source"),
            ON,
            "C-FIND requests that sweeps took: the load on the archive.",
        ),
        lines(
            "Queries for one sweep",
            [
                Query(
                    f"{counted(queries, 'rule, source', '1h')} / ({counted(ended, 'rule, source', '1h')} > 0)",
                    ON,
                )
            ],
            "The mean of the hour before. One where nothing is cut; more where an archive cuts its answers and the "
            "question is split. Many: have the archive's limit raised, or narrow the keys.",
            none="no sweep has ended",
        ),
    )


def left_out() -> tuple[Panel, ...]:
    """What did not become a transfer at once."""
    return (
        bars(
            "Held back by reason",
            counted(of("sweep_held_total", "rule"), "rule, reason"),
            "{{rule}} {{reason}}",
            "settling: the study may still grow (sweep.settle); studies_per_sweep, instances_per_day: limits of the "
            "rule. They go by themselves; `dicom-router transfers release ID` lets one go now.",
        ),
        bars(
            "Off line",
            counted(of("sweep_unavailable_total", "rule"), "rule, source"),
            ON,
            "Matches left out because the source has them off line (on tape). Every sweep looks at them again; have "
            "them fetched at the source.",
        ),
        bars(
            "Unusable answers",
            counted(of("sweep_rows_dropped_total", "rule"), "rule, reason"),
            "{{rule}} {{reason}}",
            "duplicate: the same twice; level: of another level; uid: without a unique key; undecodable: not to be "
            "read. The archive's vendor must mend all but the first.",
        ),
    )


def transfers() -> tuple[Panel, ...]:
    """What became of what was found."""
    moved, completed, failed = (
        of("move_suboperations_total", "rule", "destination", **outcome)
        for outcome in ({}, {"outcome": "completed"}, {"outcome": "failed"})
    )
    return (
        bars(
            "Transfers ended by verdict",
            counted(ENDED, "verdict"),
            "{{verdict}}",
            "partial: some instances are not there; contradicted: the source says they are, the evidence says not; "
            "failed: given up. `dicom-router transfers list --rule RULE` shows them.",
            colors=VERDICTS,
            width=12,
        ),
        table(
            "Verdicts by route",
            (
                Column("rule"),
                *(Column(end, link=TO_NODE) for end in ("source", "destination")),
                Column("verdict"),
                Column("transfers", counted(ENDED, f"{', '.join(ROUTE)}, verdict", "$__range"), decimals=0),
            ),
            "Transfers that ended in the time shown, by route and how. `dicom-router transfers list --rule RULE` "
            "shows each.",
            sort="-transfers",
            above=0,
            width=12,
            none="no transfer has ended",
        ),
        lines(
            "Sub-operations by outcome",
            [Query(rate(moved, "outcome"), "{{outcome}}")],
            "Instances a second that moves of the rule brought. Failed ones are tried again as move.retry says.",
            unit="ops",
            stacked=True,
            colors=OUTCOMES,
        ),
        lines(
            "Completed by route",
            [
                Query(rate(completed, ", ".join(ROUTE)), ARROW),
            ],
            "Instances a second on each route of the rule: how its work is spread over destinations.",
            unit="ops",
            stacked=True,
        ),
        lines(
            "Share of instances that failed",
            [
                Query(
                    f"{counted(failed, 'rule', '1h')} / ({counted(moved, 'rule', '1h')} > 0)",
                    "{{rule}}",
                )
            ],
            "Of the sub-operations of the hour before. Retries count again, so a few percent may end well all the "
            "same.",
            unit="percentunit",
            steps=((None, GOOD), (0.01, POOR), (0.1, BAD)),
            none="nothing was moved",
        ),
    )
