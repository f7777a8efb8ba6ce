"""The dashboard of prefetching: whether priors are there before the patient is."""

from __future__ import annotations

from grafana.board import Row, dashboard
from grafana.panels import Column, Json, Panel, Query, bars, gauges, leads_to, lines, stat, table
from grafana.promql import counted, of, or_none, quantile
from grafana.words import BAD, GOOD, NONE_IS_USUAL, ON_TIME, POOR, PREFETCH, RULE, SHARE, VERDICTS

ENDED = of("priors_ended_total", "rule")
TIMELY = of("priors_ended_total", "rule", result="on_time")
LATE = of("priors_ended_total", "rule", result="late")
MISSING = of("priors_ended_total", "rule", result="missing")
LOOKS = of("prior_looks_total", "rule")
NEWS = of("appointments_total", "rule")
OURS = f"and on (job, instance, rule) {MISSING}"
"""Of rules that have priors."""
RESULTS = {"done": GOOD, "again": POOR, "failed": BAD}
TO_RULE = leads_to(RULE, "This rule", "rule")


def board() -> Json:
    """The dashboard."""
    return dashboard(
        PREFETCH,
        "prefetch",
        "Whether earlier studies are there before the patient is: appointments, looks for priors, and what came when.",
        ("instance", "rule"),
        (
            Row("Now", (*now(), each())),
            Row("Priors on time", on_time()),
            Row("Appointments", appointments()),
            Row("Looks for priors", looks()),
            Row("Messages", messages()),
        ),
        own={"rule": 'dicom_router_priors_ended_total{instance=~"$instance"}'},
    )


def now() -> tuple[Panel, ...]:
    """At a glance, in the time shown."""
    return (
        stat(
            "On time",
            f"{counted(TIMELY, window='$__range')} / ({counted(ENDED, window='$__range')} > 0)",
            "Share of the priors with a deadline that were there before the appointment began.",
            unit="percentunit",
            steps=SHARE,
            width=4,
            none="none ended",
        ),
        stat(
            "Late",
            or_none(counted(LATE, window="$__range")),
            "Priors that arrived after the appointment began. Begin earlier (lead), or ask the source less gently.",
            steps=NONE_IS_USUAL,
            decimals=0,
            width=4,
        ),
        stat(
            "Missing",
            or_none(counted(MISSING, window="$__range")),
            "Priors that were chosen and did not come. `dicom-router transfers list --rule RULE --state failed` says "
            "why.",
            steps=((None, GOOD), (1, BAD)),
            decimals=0,
            width=4,
        ),
        stat(
            "Appointments new",
            or_none(counted(of("appointments_total", "rule", news="new"), window="$__range")),
            "Examinations the router heard of for the first time. None on a working day: does the worklist answer, do "
            "messages come?",
            decimals=0,
            width=4,
        ),
        stat(
            "Looks failed",
            or_none(counted(of("prior_looks_total", "rule", result="failed"), window="$__range")),
            "Looks for priors that were given up: these patients have none here. `dicom-router appointments list` "
            "names the reason.",
            steps=((None, GOOD), (1, BAD)),
            decimals=0,
            width=4,
        ),
        stat(
            "Values refused",
            counted(of("values_refused_total"), window="$__range"),
            "Values of worklists and messages that could have widened a query to other patients, and were not used.",
            steps=NONE_IS_USUAL,
            decimals=0,
            width=4,
        ),
    )


def each() -> Panel:
    """A row for each rule."""
    share = f"{counted(TIMELY, 'rule', '$__range')} / ({counted(ENDED, 'rule', '$__range')} > 0)"
    age = f"time() - max by (rule) ({of('sweep_last_success_timestamp_seconds', 'rule')} > 0 {OURS})"
    return table(
        "Each rule",
        (
            Column("rule", link=TO_RULE),
            Column("news", counted(NEWS, "rule", "$__range"), decimals=0),
            Column("looks", counted(LOOKS, "rule", "$__range"), decimals=0),
            Column("chosen", counted(of("priors_selected_total", "rule"), "rule", "$__range"), decimals=0),
            Column("on time", share, unit="percentunit", steps=SHARE),
            Column("late", counted(LATE, "rule", "$__range"), decimals=0, steps=NONE_IS_USUAL),
            Column("missing", counted(MISSING, "rule", "$__range"), decimals=0, steps=((None, GOOD), (1, BAD))),
            Column("worklist read", age, unit="s", decimals=0),
        ),
        "Each rule that has priors, in the time shown; `worklist read`: how long ago. Rules of orders have none. The "
        "name leads to the rule's dashboard.",
        sort="-missing",
        none="no rule has priors",
    )


def on_time() -> tuple[Panel, ...]:
    """How priors ended."""
    lead = of("prior_lead_seconds_bucket", "rule")
    return (
        bars(
            "Priors ended",
            counted(ENDED, "result"),
            "{{result}}",
            "Priors with a deadline by whether they were there before the appointment: before, after, or not at all.",
            colors=ON_TIME,
        ),
        gauges(
            "Share on time by rule",
            Query(f"{counted(TIMELY, 'rule', '$__range')} / ({counted(ENDED, 'rule', '$__range')} > 0)", "{{rule}}"),
            "In the time shown. One rule below the others: its lead, or its source's windows and limits.",
            unit="percentunit",
            steps=SHARE,
            most=1,
            none="none ended",
        ),
        lines(
            "Lead",
            [
                Query(quantile(0.5, lead, "rule"), "{{rule}} half"),
                Query(quantile(0.05, lead, "rule"), "{{rule}} all but 5 %"),
            ],
            "How long before the appointment a prior was there; 0 for one that came after it began. `all but 5 %` "
            "near 0: there is no reserve left; begin earlier (lead).",
            unit="s",
            none="no prior has come",
        ),
        bars(
            "Priors chosen by group",
            counted(of("priors_selected_total", "rule"), "rule, group"),
            "{{rule}} {{group}}",
            "By the group they were chosen for, each destination counted. A group that never gets any: its conditions "
            "may not fit what the archive says (`dicom-router plan`).",
            width=12,
            none="none was chosen",
        ),
        bars(
            "Transfers of priors by verdict",
            f"sum by (verdict) (increase({of('transfers_total', 'rule')}[$__rate_interval]) {OURS})",
            "{{verdict}}",
            "How the transfers of these rules ended, as the evidence says; with a deadline or without. Poor ones are "
            "priors that somebody reads without.",
            colors=VERDICTS,
            width=12,
        ),
    )


def appointments() -> tuple[Panel, ...]:
    """What was heard of examinations to come."""
    return (
        bars(
            "Appointments by news",
            counted(NEWS, "news"),
            "{{news}}",
            "What each piece of news was to what is known: new, moved to another time, changed, repeated, cancelled. "
            "Only repeated: the source keeps saying the same, which costs nothing.",
            width=12,
        ),
        bars(
            "Appointments by trigger",
            counted(NEWS, "rule, trigger"),
            "{{rule}} {{trigger}}",
            "Where news came from: a worklist that is read, orders that are sent, or studies that arrive.",
            width=12,
        ),
    )


def looks() -> tuple[Panel, ...]:
    """Questions for what a patient has."""
    seconds = of("prior_look_duration_seconds_bucket")
    return (
        bars(
            "Looks by result",
            counted(LOOKS, "result"),
            "{{result}}",
            "Looks for a patient's earlier studies. again: it did not work and is tried once more; failed: given up.",
            colors=RESULTS,
        ),
        lines(
            "Look duration",
            [
                Query(quantile(0.5, seconds, "source"), "{{source}} half"),
                Query(quantile(0.95, seconds, "source"), "{{source}} 95 %"),
            ],
            "How long one look took. Minutes: the archive is slow to search by Patient ID; its vendor can say whether "
            "that is indexed.",
            unit="s",
            none="nobody was looked for",
        ),
        lines(
            "Age of what the worklist said",
            [
                Query(
                    f"time() - ({of('sweep_last_success_timestamp_seconds', 'rule')} > 0 {OURS})",
                    "{{rule}} on {{source}}",
                )
            ],
            "How long ago the worklist was last read whole. Older than the rule's period: see the rule's dashboard. "
            "Rules of orders have none.",
            unit="s",
            none="no rule reads a worklist",
        ),
    )


def messages() -> tuple[Panel, ...]:
    """HL7."""
    return (
        bars(
            "Messages by event and answer",
            counted(of("order_messages_total"), "event, code"),
            "{{event}} {{code}}",
            "HL7 messages answered. AA taken; AE an error in it; AR not for this router. Nothing at all: does the "
            "interface engine still send?",
        ),
        bars(
            "Messages refused by reason",
            counted(of("order_messages_refused_total"), "reason"),
            "{{reason}}",
            "Why messages were not taken; the interface engine must mend them, or router.hl7 must expect what it "
            "sends.",
        ),
        bars(
            "Values refused by reason",
            counted(of("values_refused_total"), "trigger, reason"),
            "{{trigger}} {{reason}}",
            "Values with wildcards or of a form that could find other patients' studies. Whoever sends them must mend "
            "them; the log names the rule.",
        ),
    )
