"""The overview's row of the replicas: which services share the ledger, which of them leads, what each has to do."""

from __future__ import annotations

from grafana.panels import Column, Panel, Query, lines, states, table
from grafana.promql import of, rate, summed
from grafana.words import LEADS, LEADS_OR_NOT, NONE_IS_FINE, ONE_IS_FINE, RELOAD


def replicas() -> tuple[Panel, ...]:
    """Who is there, over time."""
    return (
        table(
            "Replicas",
            (
                Column("instance"),
                Column("leads", summed(of("leads"), "instance", "max"), words=LEADS, steps=LEADS_OR_NOT),
                Column("sees", summed(of("replicas"), "instance", "max"), decimals=0),
                Column("associations", summed(of("associations_active"), "instance"), decimals=0),
                Column(
                    "configuration",
                    summed(of("config_last_reload_successful"), "instance", "min"),
                    words=RELOAD,
                    steps=ONE_IS_FINE,
                ),
                Column("stopped routes", summed(of("route_stopped"), "instance"), decimals=0, steps=NONE_IS_FINE),
            ),
            "Each router that Prometheus reads. `sees`: services that live on its ledger, itself included; fewer than "
            "are configured: look at the one that is missing. One of them leads: it makes sweeps due for all.",
            sort="instance",
            width=12,
            height=7,
            none="no router runs",
        ),
        table(
            "Names of the replicas",
            (
                Column("replica"),
                Column("instance"),
                Column("", summed(of("info"), "replica, instance", "max")),
            ),
            "What each service is called (router.replica, else its host's name): so the status page, `dicom-router "
            "top` and the log name it.",
            sort="replica",
            width=6,
            height=7,
            none="no router runs",
        ),
        lines(
            "Services on the ledger",
            [Query(summed(of("replicas"), "instance", "max"), "seen by {{instance}}")],
            "Services that live on the ledger, as each of them sees it. A dip is a restart; a step down that stays is "
            "a replica that is gone.",
            width=6,
            height=7,
        ),
        states(
            "Leader",
            Query(summed(of("leads"), "instance", "max"), "{{instance}}"),
            "Which replica leads: it makes sweeps due, tells what is to be told, and shows backlog and sweeps of all. "
            "Another takes over when it stops or loses the database; nobody for minutes: DicomRouterNoLeader.",
            LEADS,
            width=12,
            height=6,
        ),
        lines(
            "Sub-operations by replica",
            [Query(rate(of("move_suboperations_total"), "instance"), "{{instance}}")],
            "Instances a second that the moves of each replica brought: whoever is free takes the next transfer, so "
            "that all do about as much.",
            unit="ops",
            stacked=True,
            width=12,
            height=6,
        ),
    )
