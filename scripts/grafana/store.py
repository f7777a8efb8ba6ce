"""The dashboard of the store and what it stands on: what comes in, disk, certificates, the process."""

from __future__ import annotations

from grafana.board import Row, dashboard
from grafana.panels import Column, Json, Panel, Query, bars, gauges, lines, stat, table
from grafana.promql import counted, of, or_none, rate, summed
from grafana.words import BAD, GOOD, NONE_IS_USUAL, POOR, STORE

FREE, SIZE, FLOOR = (of(f"store_{word}_bytes") for word in ("free", "size", "minimum_free"))
YEAR = 365 * 86400
DAY = 86400
ACCEPTED = of("associations_total", "node", role="acceptor")
CALLING = {"calling": "~$node"}
RECEIVED = of("store_instances_total", **CALLING)
TAKEN = of("store_instances_total", status="0x0000", **CALLING)
REFUSED = of("store_refused_total")
EXPIRY = of("certificate_expiry_timestamp_seconds")
DAYS_LEFT = ((None, BAD), (7, POOR), (30, GOOD))
TIME_LEFT = ((None, BAD), (DAY, POOR), (7 * DAY, GOOD))
LEFT = f"clamp_max(({FREE} - {FLOOR}) / clamp_min(-deriv({FREE}[6h]), 1), {YEAR})"
"""Seconds until the floor at the pace of the last six hours, as a line through them has it; a year where it does not
shrink by a byte a second."""


def own(metric: str, function: str = "{}") -> str:
    """A metric that every program has, or a function of it, of the routers only."""
    asked = function.format(f'{metric}{{instance=~"$instance"}}')
    return f"sum by (instance) ({asked} and on (job, instance) {of('build_info')})"


def board() -> Json:
    """The dashboard."""
    return dashboard(
        STORE,
        "store and disk",
        "What is sent to the router's own store and how it is answered; disk, certificates and the process.",
        ("instance", "node"),
        (
            Row("Now", now()),
            Row("Disk", disk()),
            Row("What comes in", received()),
            Row("Associations and messages", accepted()),
            Row("Process and certificates", process()),
        ),
    )


def now() -> tuple[Panel, ...]:
    """At a glance."""
    return (
        stat(
            "Free",
            f"min({FREE})",
            "Bytes free on the store's file system; of several routers, the least. No value: the file system does not "
            "answer.",
            unit="bytes",
            none="the file system does not answer",
        ),
        stat(
            "Above the floor",
            f"min({FREE} - {FLOOR})",
            "How much may still come before instances are refused (router.minimum_free). Below 0 they are: make room.",
            unit="bytes",
            steps=((None, BAD), (0, POOR), (10 * 2**30, GOOD)),
            none="the file system does not answer",
        ),
        stat(
            "Time until the floor",
            f"min({LEFT})",
            "At the pace of the last six hours. Short: make room, or give the store a larger disk.",
            unit="s",
            steps=TIME_LEFT,
            words={(YEAR, None): ("does not shrink", GOOD)},
            none="the file system does not answer",
        ),
        stat(
            "Instances received",
            counted(TAKEN, window="$__range"),
            "Instances that were taken and kept in the time shown.",
            decimals=0,
        ),
        stat(
            "Received now",
            rate(of("store_bytes_total", **CALLING)),
            "Bytes of data sets a second that are written to the store.",
            unit="Bps",
            trend=True,
        ),
        stat(
            "Refused",
            counted(REFUSED, window="$__range"),
            "Instances and associations refused in the time shown. `Refused by reason` says why.",
            steps=NONE_IS_USUAL,
            decimals=0,
        ),
        stat(
            "Open as acceptor",
            summed(of("associations_active", "node", role="acceptor")),
            "Associations that others hold to this router now. Near router.maximum_associations the next are rejected.",
            trend=True,
        ),
        stat(
            "First certificate expires in",
            or_none(f"(min({EXPIRY}) - time()) / {DAY}"),
            "Days until the first certificate of the configuration expires, by its file. Renew it, then reload.",
            unit="d",
            steps=DAYS_LEFT,
            words={0: ("none configured", "text")},
            decimals=0,
        ),
    )


def disk() -> tuple[Panel, ...]:
    """Room."""
    return (
        lines(
            "Space",
            [
                Query(summed(FREE, "instance", "min"), "{{instance}} free"),
                Query(summed(FLOOR, "instance", "min"), "{{instance}} floor"),
                Query(f"min by (instance) (predict_linear({FREE}[6h], {DAY}))", "{{instance}} free in a day"),
            ],
            "Free space, what it will be in a day at the pace of the last six hours, and router.minimum_free, the "
            "floor below which instances are refused. The three must not meet.",
            unit="bytes",
            dashed=("/ (floor|free in a day)$/",),
            least=None,
            width=12,
            none="the file system does not answer",
        ),
        lines(
            "Free share",
            [Query(f"min by (instance) ({FREE} / {SIZE})", "{{instance}}")],
            "Of the store's file system. What else lies on it counts as well: a full disk is not always the store's "
            "doing.",
            unit="percentunit",
            steps=((None, BAD), (0.05, POOR), (0.15, GOOD)),
            width=6,
            none="the file system does not answer",
        ),
        lines(
            "Time until the floor, over time",
            [Query(f"min by (instance) ({LEFT})", "{{instance}}")],
            "At the pace of the six hours before; a year means that it does not shrink. Where it falls faster than "
            "the clock, more comes from day to day.",
            unit="s",
            width=6,
            none="the file system does not answer",
        ),
        bars(
            "Instances that left the store",
            counted(of("store_removed_total"), "instance"),
            "{{instance}}",
            "What router.retention removed, all of it proven to be elsewhere. None while the disk is fuller than its "
            "watermark: `dicom-router store leaving` says why each study stays.",
            width=12,
            none="nothing was removed",
        ),
        lines(
            "Bytes that left the store",
            [Query(rate(of("store_removed_bytes_total"), "instance"), "{{instance}}")],
            "Data sets removed a second. For long below `Bytes received`, the store grows.",
            unit="Bps",
            width=12,
            none="nothing was removed",
        ),
    )


def received() -> tuple[Panel, ...]:
    """C-STORE."""
    return (
        bars(
            "Instances by caller and status",
            counted(RECEIVED, "calling, status"),
            "{{calling}} {{status}}",
            "C-STORE requests answered. 0x0000 taken; 0xA700 no room; 0xA900, 0xC000 not what it says it is, or not "
            "readable; `other` stands for callers that are no node of the configuration.",
            none="nothing was sent",
        ),
        lines(
            "Bytes received",
            [Query(rate(of("store_bytes_total", **CALLING), "calling"), "{{calling}}")],
            "Data sets written to the store, a second, by who sent them.",
            unit="Bps",
            stacked=True,
        ),
        bars(
            "Refused by reason",
            counted(REFUSED, "reason"),
            "{{reason}}",
            "association-rejected: an unknown caller, or the wrong AE title of ours; not-asked-for: a push; "
            "address, tls-wrong-certificate: it calls as a node and may not be it; too-many-*: limits; "
            "out-of-space: below minimum_free; unparseable, mismatch, missing-uid: the sender's fault; other tls-*: "
            "certificates. The log names the caller.",
        ),
        lines(
            "Share refused",
            [
                Query(
                    f"{counted(of('store_instances_total', status='!0x0000', **CALLING), 'calling', '1h')} "
                    f"/ ({counted(RECEIVED, 'calling', '1h')} > 0)",
                    "{{calling}}",
                )
            ],
            "Of the instances each caller sent in the hour before. One caller only: its objects; all of them: this "
            "router's disk.",
            unit="percentunit",
            steps=((None, GOOD), (0.001, POOR), (0.05, BAD)),
            none="nothing was sent",
        ),
        lines(
            "Mean size of an instance",
            [
                Query(
                    f"{counted(of('store_bytes_total', **CALLING), 'calling', '1h')} "
                    f"/ ({counted(TAKEN, 'calling', '1h')} > 0)",
                    "{{calling}}",
                )
            ],
            "What was taken in the hour before. Times the instances a day it is what the disk must hold.",
            unit="bytes",
            none="nothing was taken",
        ),
        bars(
            "Quarantined by reason",
            counted(of("quarantine_total"), "reason"),
            "{{reason}}",
            "Put aside for a person to look at, repetitions included. not-asked-for: from nodes with push: quarantine; "
            "the others could not be stored. `dicom-router quarantine list` shows them.",
            none="nothing was put aside",
        ),
        lines(
            "Objects in quarantine",
            [Query(summed(of("quarantine_objects"), "instance"), "{{instance}}")],
            "What waits for somebody to release or remove it. At router.quarantine.objects no more is kept.",
            steps=((None, GOOD), (1, POOR)),
            none="the store does not answer",
            width=12,
        ),
        bars(
            "Storage commitment by result",
            counted(of("storage_commitments_total", "node"), "result"),
            "{{result}}",
            "What destinations committed themselves to. overdue: no answer in time; failed: they do not keep all of "
            "it; not_taken: answers this router could not use.",
            none="no commitment was asked for",
            width=12,
        ),
    )


def accepted() -> tuple[Panel, ...]:
    """What others open to the router."""
    return (
        bars(
            "Associations as acceptor",
            counted(ACCEPTED, "node, result"),
            "{{node}} {{result}}",
            "Associations others opened to this router. rejected_permanent: the caller is not known here, or calls "
            "another AE title; rejected_transient: too many at once; aborted: it broke off.",
        ),
        lines(
            "Open as acceptor by caller",
            [Query(summed(of("associations_active", "node", role="acceptor"), "node"), "{{node}}")],
            "A line that never comes down: a caller that opens associations and does not release them.",
            stacked=True,
        ),
        bars(
            "HL7 messages by answer",
            counted(of("order_messages_total"), "code"),
            "{{code}}",
            "Orders and appointments by acknowledgement: AA taken, AE an error in it, AR not for this router. The "
            "prefetch dashboard says what was wrong.",
            colors={"AA": GOOD, "AE": POOR, "AR": BAD},
        ),
    )


def process() -> tuple[Panel, ...]:
    """What the router stands on."""
    days = f"min by (certificate) (({EXPIRY} - time()) / {DAY})"
    return (
        lines(
            "Processor",
            [Query(own("process_cpu_seconds_total", "rate({}[$__rate_interval])"), "{{instance}}")],
            "Cores in use. More than one for long while little moves is a fault: report it with the log of that time.",
            unit="none",
            width=6,
        ),
        lines(
            "Memory",
            [Query(own("process_resident_memory_bytes"), "{{instance}}")],
            "Resident memory. It levels off at the work there is. If it climbs for days, that is a fault: report it; "
            "a restart helps for the time being.",
            unit="bytes",
            width=6,
        ),
        lines(
            "Open files",
            [
                Query(own("process_open_fds"), "{{instance}} open"),
                Query(own("process_max_fds"), "{{instance}} allowed"),
            ],
            "Files and connections. Near the allowed number nothing can be opened any more: raise LimitNOFILE of the "
            "service.",
            dashed=("/ allowed$/",),
            width=6,
        ),
        stat(
            "Running since",
            f"max({own('process_start_time_seconds')}) * 1000",
            "When the router last started. Sooner than you know of: its log's last lines before say why it ended.",
            unit="dateTimeFromNow",
            width=6,
            height=8,
        ),
        gauges(
            "Days until certificates expire",
            Query(days, "{{certificate}}"),
            "By the key of the configuration that names the file. Below 0 it has expired, and peers will refuse it; "
            "far below: the file cannot be read. Renew it, then reload.",
            unit="d",
            steps=DAYS_LEFT,
            most=365,
            width=12,
            none="no certificate is configured",
        ),
        table(
            "Certificates",
            (
                Column("instance"),
                Column("certificate"),
                Column("expires", f"min by (instance, certificate) ({EXPIRY}) * 1000", unit="dateTimeAsIso"),
                Column(
                    "days left",
                    f"min by (instance, certificate) (({EXPIRY} - time()) / {DAY})",
                    decimals=0,
                    steps=DAYS_LEFT,
                ),
            ),
            "Every certificate file of the configuration with the day its first certificate expires.",
            sort="days left",
            width=12,
            none="no certificate is configured",
        ),
    )
