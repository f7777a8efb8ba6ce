"""The overview's first row: one number each, what should be 0 and what is going on."""

from __future__ import annotations

from grafana.panels import Panel, leads_to, stat
from grafana.promql import ALERTS, PAIR, POORLY, ROUTE, SWEEP, WAITED, counted, down, late, of, or_none, rate, summed
from grafana.words import (
    BAD,
    GOOD,
    LONG,
    NODE,
    NONE_IS_FINE,
    NONE_IS_USUAL,
    ONE_IS_FINE,
    POOR,
    PREFETCH,
    RELOAD,
    RULE,
    STORE,
)


def trouble() -> tuple[Panel, ...]:
    """What should be 0."""
    return (
        stat(
            "Alerts firing",
            or_none(f"count({ALERTS})"),
            "Alerts of monitoring/alerts.yaml that fire now. The table below names them; each has a runbook in "
            "Prometheus.",
            steps=NONE_IS_FINE,
        ),
        stat(
            "Nodes down",
            or_none(f"count(count by (node) ({down()}))"),
            "Configured nodes whose last exchange did not work. Nodes the router has not called yet do not count. "
            "`dicom-router doctor NODE` says what is wrong.",
            steps=NONE_IS_FINE,
            link=leads_to(NODE, "Nodes"),
        ),
        stat(
            "Nodes left alone",
            summed(summed(of("breaker_open"), "node", "max")),
            "Nodes that failed so often in a row that they are only tried now and then. The work with them waits; it "
            "goes on by itself when they answer.",
            steps=NONE_IS_FINE,
            link=leads_to(NODE, "Nodes"),
        ),
        stat(
            "Routes stopped",
            summed(summed(of("route_stopped", *PAIR), "source, destination", "max")),
            "Routes on which nothing can be moved until somebody changes a configuration, most often at the source. "
            "`dicom-router transfers list --state queued` gives the reason.",
            steps=NONE_IS_FINE,
        ),
        stat(
            "Sweeps late",
            or_none(f"count({late(*SWEEP)})"),
            "Rules whose next complete sweep is overdue by schedule and windows: new studies may go unseen. The "
            "rule's dashboard shows how its sweeps end.",
            steps=NONE_IS_FINE,
            link=leads_to(RULE, "Rules"),
        ),
        stat(
            "Ended poorly",
            counted(POORLY, window="$__range"),
            "Transfers that failed, were partial or contradicted in the time shown. `dicom-router transfers list "
            "--state failed` names them; they are not tried again by themselves.",
            steps=NONE_IS_USUAL,
            decimals=0,
        ),
        stat(
            "Priors not on time",
            or_none(counted(of("priors_ended_total", "rule", result="~late|missing"), window="$__range")),
            "Priors that came after the appointment began, or not at all, in the time shown. The prefetch dashboard "
            "says of which rule.",
            steps=NONE_IS_USUAL,
            decimals=0,
            link=leads_to(PREFETCH, "Prefetch"),
        ),
        stat(
            "Last reload",
            summed(of("config_last_reload_successful"), how="min"),
            "Whether the last reload was accepted; if not, the configuration before it is in force. `dicom-router "
            "validate` says what is wrong with the new one.",
            steps=ONE_IS_FINE,
            words=RELOAD,
        ),
    )


def work() -> tuple[Panel, ...]:
    """What is going on."""
    return (
        stat(
            "Routers running",
            or_none(f"count({of('build_info')})"),
            "Routers that Prometheus reads now. 0: look at Status, Targets in Prometheus.",
            steps=ONE_IS_FINE,
        ),
        stat(
            "Sub-operations completed",
            rate(of("move_suboperations_total", *ROUTE, outcome="completed")),
            "Instances a second that arrived, or that the sources report as moved where nobody can know better.",
            unit="ops",
            trend=True,
        ),
        stat(
            "Remaining",
            summed(of("move_suboperations_remaining", *PAIR)),
            "Instances that the running moves still have before them. 0 while transfers wait: their nodes are closed, "
            "limited or left alone.",
            trend=True,
        ),
        stat(
            "Moving",
            summed(of("transfers", *PAIR, state="~moving|verifying")),
            "Transfers that move now, or whose arrival is being proven.",
            trend=True,
        ),
        stat(
            "Waiting",
            summed(of("transfers", *PAIR, state="~queued|held")),
            "Transfers queued, and held back by a rule. `dicom-router top` shows what each waits for.",
            trend=True,
        ),
        stat(
            "Oldest waiting",
            summed(WAITED, how="max"),
            "Age of the oldest queued transfer on any route. Closed windows make it grow as much as a backlog does.",
            unit="s",
            steps=LONG,
        ),
        stat(
            "Disk free",
            f"min({of('store_free_bytes')} / {of('store_size_bytes')})",
            "Free share of the store's file system. Below router.minimum_free nothing is taken any more: make room. "
            "The store's dashboard says how long it will last.",
            unit="percentunit",
            steps=((None, BAD), (0.05, POOR), (0.15, GOOD)),
            link=leads_to(STORE, "Store and disk"),
        ),
        stat(
            "Notifications waiting",
            or_none(summed(of("notifications_waiting"))),
            "Notifications that no webhook or mail server has taken yet. If they stay, the log says what the channel "
            "answers.",
            steps=((None, GOOD), (5, POOR)),
        ),
    )
