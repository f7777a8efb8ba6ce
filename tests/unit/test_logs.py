"""The logs: one line per event, levels that mean something, JSON, and no identifier whatever comes in."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import pickle
import re
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from router.domain.dicom import SubOperationCounts
from router.domain.events import (
    AppointmentNoted,
    ArrivalLookEnded,
    AssociationEnded,
    AssociationsActive,
    AssociationsAllowed,
    AttemptEnded,
    BreakerClosed,
    BreakerOpened,
    CapLearned,
    CertificateExpires,
    CommitmentNoted,
    ConfigurationLoaded,
    DiskSpace,
    Event,
    HoldsLeft,
    InstanceQuarantined,
    InstanceStored,
    LookEnded,
    MessageAnswered,
    MoveResponded,
    NodeReachability,
    NodeResponded,
    NodeWaited,
    PriorEnded,
    RoomLacking,
    RouteResumed,
    RouteStopped,
    StoreRefusal,
    StudyLeft,
    SubOperationsCounted,
    SweepEnded,
    SweepMissed,
    TransferEnded,
    ValueRefused,
)
from router.domain.events_people import (
    ActionTaken,
    AuditSent,
    AuditWaiting,
    CallerRefused,
    NotificationEnded,
    NotificationsWaiting,
)
from router.errors import LedgerError
from router.observe import logs

ROUTE = {"transfer": 7, "study": "0c5ae3c9b1f4", "rule": "ct", "source": "pacs", "destination": "ws"}

MOVE = {key: value for key, value in ROUTE.items() if key != "study"}


class Journal:
    """What is logged."""

    def __init__(self, *, console: bool = False, level: str = "info") -> None:
        self.stream = io.StringIO()
        logs.configure(self.stream, json=not console, level=level)
        self.now = 0.0
        self.observe = logs.LogObserver(clock=lambda: self.now)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Each line as the object it is, without its time."""
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        for line in found:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line.pop("timestamp"))
        return found

    def of(self, event: Event) -> dict[str, Any]:
        """The one line of an event."""
        self.observe(event)
        (line,) = self.lines
        return line


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Leave the process as it was: what `configure` sets is meant for a process of its own."""
    names = ("", "router", "pynetdicom", "pydicom", "apscheduler", "sqlalchemy", "asyncio", "uvicorn", "uvicorn.error")
    loggers = [logging.getLogger(name) for name in names]
    kept = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    hook, logs._troubles = threading.excepthook, logs.Repeats()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for one, handlers, propagate, level in kept:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
        threading.excepthook = hook
        structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    with untouched():
        yield


@pytest.fixture
def journal() -> Journal:
    return Journal()


# --- Lines -----------------------------------------------------------------------------------------------------------

LINES: list[tuple[Event, dict[str, Any]]] = [
    (
        AuditSent(result="failed", message="audit.x.example:6514 does not answer, or takes nothing more."),
        {
            "event": "audit messages (failed: they wait, and are tried again; dropped: they are lost)",
            "level": "warning",
            "result": "failed",
            "count": 1,
            "detail": "audit.x.example:6514 does not answer, or takes nothing more.",
        },
    ),
    (
        NotificationEnded(channel="pager", kind="verdict", result="failed", count=3, message="The server says 503."),
        {
            "event": "notification (failed: it is tried again; suppressed: told in a summary, with others)",
            "level": "warning",
            "channel": "pager",
            "kind": "verdict",
            "result": "failed",
            "count": 3,
            "detail": "The server says 503.",
        },
    ),
    (
        SweepEnded(
            rule="ct", source="pacs", result="complete", matches=9, selected=2, queries=1, duration_seconds=0.12345
        ),
        {
            "event": "sweep ended",
            "level": "info",
            "rule": "ct",
            "source": "pacs",
            "result": "complete",
            "matches": 9,
            "selected": 2,
            "queries": 1,
            "unavailable": 0,
            "duration_seconds": 0.123,
        },
    ),
    (
        SweepEnded(
            rule="ct",
            source="pacs",
            result="failed",
            duration_seconds=2.0,
            cause="unreachable",
            message="pacs refused the connection.",
        ),
        {
            "event": "sweep ended",
            "level": "error",
            "rule": "ct",
            "source": "pacs",
            "result": "failed",
            "matches": 0,
            "selected": 0,
            "queries": 0,
            "unavailable": 0,
            "duration_seconds": 2.0,
            "cause": "unreachable",
            "detail": "pacs refused the connection.",
        },
    ),
    (
        CapLearned(node="pacs", matches=100),
        {
            "event": "node cuts its answers short at so many matches (0: it does not); they are asked in parts",
            "level": "info",
            "node": "pacs",
            "matches": 100,
        },
    ),
    (
        SweepMissed(rule="ct", source="pacs"),
        {
            "event": "sweep missed: the one before is still open, or nothing ran at its time",
            "level": "warning",
            "rule": "ct",
            "source": "pacs",
            "count": 1,
        },
    ),
    (
        AttemptEnded(**ROUTE, cause="timeout", state="queued", status=0xFE00, message="Silent.", duration_seconds=1.0),
        {
            "event": "attempt ended",
            "level": "info",
            **ROUTE,
            "cause": "timeout",
            "state": "queued",
            "status": "0xFE00",
            "detail": "Silent.",
            "duration_seconds": 1.0,
        },
    ),
    (
        TransferEnded(
            **ROUTE,
            verdict="partial",
            reason="2 of 3.",
            expected=3,
            completed=2,
            duration_seconds=1.5,
            seen_to_verified_seconds=2.5,
        ),
        {
            "event": "transfer ended",
            "level": "error",
            **ROUTE,
            "verdict": "partial",
            "reason": "2 of 3.",
            "expected": 3,
            "completed": 2,
            "duration_seconds": 1.5,
            "seen_to_verified_seconds": 2.5,
        },
    ),
    (
        RouteStopped(source="pacs", destination="ws", cause="destination-unknown", message="Nobody knows it."),
        {
            "event": "route stopped: its transfers wait, one tries it now and then",
            "level": "error",
            "source": "pacs",
            "destination": "ws",
            "cause": "destination-unknown",
            "detail": "Nobody knows it.",
        },
    ),
    (
        BreakerOpened(node="pacs", failures=5, pause_seconds=30.0, cause="connect-timeout", message="Is it running?"),
        {
            "event": "node left alone: it does not answer; after the pause it is tried again",
            "level": "warning",
            "node": "pacs",
            "failures": 5,
            "pause_seconds": 30.0,
            "cause": "connect-timeout",
            "detail": "Is it running?",
        },
    ),
    (
        BreakerClosed(node="pacs", open_seconds=90.0),
        {
            "event": "node no longer left alone: what waited for it goes on",
            "level": "info",
            "node": "pacs",
            "open_seconds": 90.0,
        },
    ),
    (
        AssociationsAllowed(node="pacs", limit=2),
        {
            "event": "associations to node changed: fewer after it had too many, one more each good minute",
            "level": "info",
            "node": "pacs",
            "limit": 2,
        },
    ),
    (
        RouteResumed(source="pacs", destination="ws"),
        {"event": "route resumed", "level": "info", "source": "pacs", "destination": "ws"},
    ),
    (
        StoreRefusal(calling="pacs", reason="out-of-space"),
        {"event": "store refused", "level": "error", "calling": "pacs", "reason": "out-of-space"},
    ),
    (
        InstanceQuarantined(calling="pacs", reason="conflict"),
        {
            "event": "instance put into the quarantine: see dicom-router quarantine list",
            "level": "warning",
            "calling": "pacs",
            "reason": "conflict",
        },
    ),
    (
        AssociationEnded(node="pacs", role="requestor", result="timeout"),
        {
            "event": "association failed",
            "level": "info",
            "node": "pacs",
            "role": "requestor",
            "result": "timeout",
        },
    ),
    (
        CommitmentNoted(node="pacs", result="overdue"),
        {"event": "storage commitment", "level": "warning", "node": "pacs", "result": "overdue"},
    ),
    (NodeReachability(node="pacs", up=False), {"event": "node down", "level": "warning", "node": "pacs"}),
    (
        ConfigurationLoaded(successful=True, content_hash="abc", work_hash="def"),
        {
            "event": "configuration loaded",
            "level": "info",
            "successful": True,
            "content_hash": "abc",
            "work_hash": "def",
        },
    ),
    (
        ConfigurationLoaded(successful=False),
        {
            "event": "configuration rejected: the one before stays in force",
            "level": "error",
            "successful": False,
        },
    ),
    (
        HoldsLeft(rule="mr", source="pacs", destination="ws", count=4, released=True),
        {
            "event": "the rule was removed, or leads there no more: the transfers that it held back go on",
            "level": "warning",
            "rule": "mr",
            "source": "pacs",
            "destination": "ws",
            "count": 4,
        },
    ),
    (
        HoldsLeft(rule="mr", source="pacs", destination="ws", count=4, released=False),
        {
            "event": "a disabled rule holds transfers back until it is enabled, or they are released",
            "level": "warning",
            "rule": "mr",
            "source": "pacs",
            "destination": "ws",
            "count": 4,
        },
    ),
    (
        CallerRefused(request="POST /-/reload", http_status=401, ip_address="10.6.6.6"),
        {
            "event": "somebody was refused over HTTP",
            "level": "info",
            "request": "POST /-/reload",
            "http_status": 401,
            "ip_address": "10.6.6.6",
        },
    ),
    (
        ActionTaken(by="session", action="retry", transfer=17),
        {
            "event": "somebody had something done over HTTP",
            "level": "info",
            "by": "session",
            "action": "retry",
            "transfer": 17,
        },
    ),
    (
        AppointmentNoted(rule="mr", trigger="worklist", news="moved"),
        {
            "event": "news of appointments",
            "level": "info",
            "rule": "mr",
            "trigger": "worklist",
            "news": "moved",
        },
    ),
    (
        ValueRefused(rule="mr", trigger="order", attribute="PatientID", reason="wildcard"),
        {
            "event": "value refused: it could widen a query; what it stood in is left out",
            "level": "warning",
            "rule": "mr",
            "trigger": "order",
            "attribute": "PatientID",
            "reason": "wildcard",
        },
    ),
    (
        LookEnded(
            rule="mr",
            source="pacs",
            appointment=3,
            result="done",
            candidates=9,
            groups={"same": 2},
            queries=4,
            duration_seconds=0.12345,
        ),
        {
            "event": "look for priors ended",
            "level": "info",
            "rule": "mr",
            "source": "pacs",
            "appointment": 3,
            "result": "done",
            "candidates": 9,
            "groups": {"same": 2},
            "queries": 4,
            "complete": True,
            "duration_seconds": 0.123,
        },
    ),
    (
        LookEnded(
            rule="mr",
            source="pacs",
            appointment=3,
            result="again",
            cause="unreachable",
            message="pacs does not answer.",
        ),
        {
            "event": "look for priors ended",
            "level": "info",
            "rule": "mr",
            "source": "pacs",
            "appointment": 3,
            "result": "again",
            "candidates": 0,
            "queries": 0,
            "complete": True,
            "duration_seconds": 0.0,
            "cause": "unreachable",
            "detail": "pacs does not answer.",
        },
    ),
    (
        ArrivalLookEnded(rule="onwards", result="passed_on", instances=312, transfers=2, duration_seconds=0.04321),
        {
            "event": "study that arrived looked at",
            "level": "info",
            "rule": "onwards",
            "result": "passed_on",
            "instances": 312,
            "transfers": 2,
            "withdrawn": 0,
            "duration_seconds": 0.043,
        },
    ),
    (
        PriorEnded(rule="mr", result="late", lead_seconds=-61.5),
        {
            "event": "prior late, or not there at all, for its appointment",
            "level": "warning",
            "rule": "mr",
            "result": "late",
        },
    ),
    (
        PriorEnded(rule="mr", result="missing"),
        {
            "event": "prior late, or not there at all, for its appointment",
            "level": "error",
            "rule": "mr",
            "result": "missing",
        },
    ),
    (
        MessageAnswered(event="ORM^O01", code="AE", word="missing-field", message="PID-3 is empty."),
        {
            "event": "HL7 message not taken",
            "level": "warning",
            "hl7_event": "ORM^O01",
            "code": "AE",
            "word": "missing-field",
            "detail": "PID-3 is empty.",
        },
    ),
    (
        StudyLeft(study="s-1", instances=3, size=500),
        {
            "event": "study left the store (router.retention): all of it is proven to be elsewhere",
            "level": "info",
            "study": "s-1",
            "instances": 3,
            "size": 500,
        },
    ),
    (
        RoomLacking(size=7),
        {
            "event": "room is lacking in the store, and no study may leave it: see dicom-router store leaving",
            "level": "warning",
            "size": 7,
        },
    ),
    (
        DiskSpace(state="full", free=5, size=100, minimum=10),
        {
            "event": "room on the store's file system (full: instances are refused; low: they soon will be)",
            "level": "error",
            "state": "full",
            "free": 5,
            "size": 100,
            "minimum": 10,
        },
    ),
    (
        CertificateExpires(
            certificate="router.tls.certificate",
            state="expiring",
            expires_at=datetime(2026, 12, 1, 12, 0, 0, 5, tzinfo=UTC),
        ),
        {
            "event": "certificates of a file (expiring: within 14 days)",
            "level": "warning",
            "certificate": "router.tls.certificate",
            "state": "expiring",
            "expires_at": "2026-12-01T12:00:00+00:00",
        },
    ),
]
STEPS: list[tuple[Event, dict[str, Any]]] = [
    (
        SubOperationsCounted(**MOVE, counts=SubOperationCounts(0, 2, None, 0)),
        {"event": "sub-operations counted", **MOVE, "remaining": 0, "completed": 2},
    ),
    (
        MoveResponded(source="pacs", destination="ws", status=0xFF00),
        {"event": "C-MOVE response", "source": "pacs", "destination": "ws", "status": "0xFF00"},
    ),
    (
        InstanceStored(calling="pacs", status=0, size=9),
        {"event": "instance stored", "calling": "pacs", "status": "0x0000", "size": 9},
    ),
    (
        AssociationEnded(node="pacs", role="acceptor", result="accepted"),
        {"event": "association ended", "node": "pacs", "role": "acceptor", "result": "accepted"},
    ),
    (
        CommitmentNoted(node="pacs", result="committed"),
        {"event": "storage commitment", "node": "pacs", "result": "committed"},
    ),
    (NodeReachability(node="pacs", up=True), {"event": "node answers", "node": "pacs"}),
    (NodeWaited(node="pacs", reason="duty"), {"event": "request waited", "node": "pacs", "reason": "duty"}),
    (NodeResponded(node="pacs", seconds=0.12345), {"event": "node responded", "node": "pacs", "seconds": 0.123}),
    (
        AppointmentNoted(rule="mr", trigger="worklist", news="repeated"),
        {"event": "nothing new of appointments", "rule": "mr", "trigger": "worklist", "news": "repeated"},
    ),
    (AuditSent(result="sent", count=9), {"event": "audit messages sent", "result": "sent", "count": 9}),
    (
        ArrivalLookEnded(rule="onwards", result="again"),
        {
            "event": "nothing to pass on yet, or no more",
            "rule": "onwards",
            "result": "again",
            "instances": 0,
            "transfers": 0,
            "withdrawn": 0,
            "duration_seconds": 0.0,
        },
    ),
    (PriorEnded(rule="mr", result="on_time"), {"event": "prior on time", "rule": "mr", "result": "on_time"}),
    (
        MessageAnswered(event="ORM^O01", code="AA", word="accepted"),
        {"event": "HL7 message taken", "hl7_event": "ORM^O01", "code": "AA", "word": "accepted"},
    ),
    (
        MessageAnswered(event="ADT^A01", code="AA", word="ignored"),
        {"event": "HL7 message taken", "hl7_event": "ADT^A01", "code": "AA", "word": "ignored"},
    ),
]
"""What happens all the time, as debug has it."""
SILENT: list[Event] = [
    AssociationsActive(node="pacs", role="acceptor", change=1),
    NotificationsWaiting(channel="pager", count=1),
    AuditWaiting(count=3),
]
"""For metrics only."""


@pytest.mark.parametrize(("event", "line"), LINES, ids=[str(number) for number in range(len(LINES))])
def test_an_event_is_one_line_with_its_level_and_fields(journal: Journal, event: Event, line: dict[str, Any]) -> None:
    assert journal.of(event) == line


def test_what_happens_all_the_time_is_told_at_debug_only(journal: Journal) -> None:
    for event in [*SILENT, *(event for event, _ in STEPS)]:
        journal.observe(event)
    assert journal.lines == []


@pytest.mark.parametrize(("event", "line"), STEPS, ids=[str(number) for number in range(len(STEPS))])
def test_at_debug_each_step_is_a_line_however_often_it_happens(event: Event, line: dict[str, Any]) -> None:
    journal = Journal(level="debug")
    assert journal.of(event) == {"level": "debug", **line}
    if not isinstance(event, NodeReachability):
        for _ in range(99):
            journal.observe(event)
        assert journal.lines == [{"level": "debug", **line}] * 100
    for silent in SILENT:
        journal.observe(silent)
    assert len(journal.lines) in (1, 100)


@pytest.mark.parametrize(("level", "told"), [("warning", {"warning", "error"}), ("error", {"error"})])
def test_a_level_leaves_out_what_matters_less(level: str, told: set[str]) -> None:
    journal = Journal(level=level)
    for event, _ in LINES:
        journal.observe(event)
    logs.logger().info("started")
    logs.trouble("work", ValueError("x"))
    assert {line["level"] for line in journal.lines} == told


def test_a_refused_configuration_has_a_line_for_each_diagnostic_and_a_pending_restart_one(journal: Journal) -> None:
    journal.observe(ConfigurationLoaded(successful=False, content_hash="abc", diagnostics=("a.yaml:1:1: x", "b: y")))
    journal.observe(ConfigurationLoaded(successful=True, content_hash="def", restart_needed=("http", "drain")))
    rejected = {"event": "configuration rejected", "level": "error"}
    refusal = "configuration rejected: the one before stays in force"
    assert journal.lines == [
        {"event": refusal, "level": "error", "successful": False, "content_hash": "abc"},
        rejected | {"diagnostic": "a.yaml:1:1: x"},
        rejected | {"diagnostic": "b: y"},
        {"event": "configuration loaded", "level": "info", "successful": True, "content_hash": "def"},
        {"event": "changes under router: take effect after a restart", "level": "warning", "keys": "http, drain"},
    ]


def test_no_kind_of_event_is_forgotten() -> None:
    kinds = {kind for kind in Event.__subclasses__() if kind.__module__.startswith("router.domain.events")}
    assert {type(event) for event, _ in [*LINES, *STEPS]} | {type(event) for event in SILENT} == kinds


@pytest.mark.parametrize(
    ("verdict", "level"),
    [
        ("complete", "info"),
        ("nothing", "info"),
        ("unproven", "info"),
        ("cancelled", "info"),
        ("partial", "error"),
        ("contradicted", "error"),
        ("failed", "error"),
    ],
)
def test_the_verdict_says_how_much_it_matters(journal: Journal, verdict: str, level: str) -> None:
    event = TransferEnded(**ROUTE, verdict=verdict, duration_seconds=1.0, seen_to_verified_seconds=1.0)
    assert journal.of(event)["level"] == level


@pytest.mark.parametrize("state", ["queued", "verifying", "complete", "partial", "contradicted", "failed"])
@pytest.mark.parametrize("cause", ["success", "timeout", "unreachable", "destination-unknown"])
def test_an_attempt_wakes_nobody_for_another_follows_or_the_verdict_does(
    journal: Journal, cause: str, state: str
) -> None:
    assert journal.of(AttemptEnded(**ROUTE, cause=cause, state=state))["level"] == "info"


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (AssociationEnded(node="pacs", role="requestor", result="rejected_permanent"), "warning"),
        (AssociationEnded(node="pacs", role="requestor", result="rejected_transient"), "info"),
        (CommitmentNoted(node="pacs", result="refused"), "warning"),
        (CommitmentNoted(node="pacs", result="unknown"), "info"),
        (StoreRefusal(calling="other", reason="association-rejected"), "warning"),
        (SweepEnded(rule="r", source="s", result="failed", duration_seconds=1.0, cause="cancelled"), "info"),
        (SweepEnded(rule="r", source="s", result="incomplete", duration_seconds=1.0, cause="capped"), "warning"),
        (AssociationsAllowed(node="pacs", limit=None), "info"),
    ],
)
def test_what_somebody_must_look_at_is_a_warning_or_an_error(journal: Journal, event: Event, level: str) -> None:
    assert journal.of(event)["level"] == level


def test_all_lines_of_a_transfer_carry_its_number(journal: Journal) -> None:
    journal.observe(AttemptEnded(**ROUTE, cause="timeout", state="queued"))
    journal.observe(AttemptEnded(**ROUTE, cause="success", state="verifying"))
    journal.observe(TransferEnded(**ROUTE, verdict="complete", duration_seconds=1.0, seen_to_verified_seconds=1.0))
    assert [(line["transfer"], line["study"]) for line in journal.lines] == [(7, "0c5ae3c9b1f4")] * 3


def test_a_node_is_spoken_of_when_that_changes(journal: Journal) -> None:
    for up in (True, True, False, False, True, True, False):
        journal.observe(NodeReachability(node="pacs", up=up))
    journal.observe(NodeReachability(node="ws", up=False))
    assert [(line["event"], line["node"]) for line in journal.lines] == [
        ("node down", "pacs"),
        ("node up", "pacs"),
        ("node down", "pacs"),
        ("node down", "ws"),
    ]


@pytest.mark.parametrize(
    ("result", "complete", "level"),
    [("done", True, "info"), ("done", False, "warning"), ("again", True, "info"), ("failed", False, "error")],
)
def test_a_look_warns_where_it_did_not_find_everything(
    journal: Journal, result: str, complete: bool, level: str
) -> None:
    event = LookEnded(rule="mr", source="pacs", appointment=3, result=result, complete=complete)
    assert journal.of(event)["level"] == level


def test_a_morning_of_appointments_is_a_few_lines(journal: Journal) -> None:
    for second in range(30):
        journal.now = float(second)
        for _ in range(100):
            journal.observe(AppointmentNoted(rule="mr", trigger="order", news="new"))
    assert [line.get("times", 1) for line in journal.lines] == [1, 1000, 1000]


def test_a_full_disk_does_not_fill_itself_with_the_same_line(journal: Journal) -> None:
    for _ in range(1000):
        journal.observe(StoreRefusal(calling="pacs", reason="out-of-space"))
    journal.observe(StoreRefusal(calling="ws", reason="out-of-space"))
    journal.now += logs.REPEAT_SECONDS
    journal.observe(StoreRefusal(calling="pacs", reason="out-of-space"))
    assert [(line["calling"], line.get("times")) for line in journal.lines] == [
        ("pacs", None),
        ("ws", None),
        ("pacs", 1000),
    ]


def test_a_rejected_association_names_who_called_whom_and_from_where(journal: Journal) -> None:
    event = StoreRefusal(
        calling="other",
        reason="association-rejected",
        calling_ae_title="PACS2",
        called_ae_title="ROUTR",
        ip_address="10.0.0.7",
    )
    line = journal.of(pickle.loads(pickle.dumps(event)))
    assert (line["calling_ae_title"], line["called_ae_title"], line["ip_address"]) == ("PACS2", "ROUTR", "10.0.0.7")


def test_titles_that_a_stranger_makes_up_do_not_fill_the_log(journal: Journal) -> None:
    for number in range(5000):
        titles = {"calling_ae_title": f"A{number}", "called_ae_title": "ROUTER"}
        journal.observe(StoreRefusal(calling="other", reason="association-rejected", ip_address="10.0.0.7", **titles))
    assert [line["calling_ae_title"] for line in journal.lines[:2]] == ["A0", "A1"], "each has a line of its own"
    assert len(journal.lines) <= 101


def test_what_is_remembered_of_repetitions_has_a_bound() -> None:
    repeats = logs.Repeats(lambda: 0.0, maximum=10)
    assert [repeats.times(number) for number in range(100)] == [1] * 100
    assert repeats.times(99) == 0
    assert repeats.times(0) == 1, "forgotten"


# --- What each line means, as docs/logs.md tells it -------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
OTHER_LEVELS: list[Event] = [
    *(
        SweepEnded(rule="r", source="s", result=result, cause=cause, duration_seconds=1.0)
        for result, cause in (("complete", ""), ("incomplete", "capped"), ("failed", "timeout"))
    ),
    *(
        TransferEnded(**ROUTE, verdict=verdict, duration_seconds=1.0, seen_to_verified_seconds=1.0)
        for verdict in ("complete", "failed")
    ),
    *(LookEnded(rule="r", source="s", appointment=1, result="done", complete=complete) for complete in (True, False)),
    LookEnded(rule="r", source="s", appointment=1, result="failed"),
    AssociationEnded(node="n", role="requestor", result="rejected_permanent"),
    CommitmentNoted(node="n", result="unknown"),
    StoreRefusal(calling="n", reason="association-rejected"),
    ConfigurationLoaded(successful=False, diagnostics=("x",)),
    ConfigurationLoaded(successful=True, restart_needed=("http",)),
    *(NotificationEnded(channel="pager", result=result) for result in ("sent", "given_up", "suppressed")),
    AuditSent(result="dropped", count=2, message="the buffer is full"),
    CallerRefused(request="POST /login", http_status=429, ip_address="10.6.6.6"),
    DiskSpace(state="ok", free=50, size=100, minimum=10),
    DiskSpace(state="low", free=11, size=100, minimum=10),
    CertificateExpires(certificate="router.tls.certificate", state="ok"),
    CertificateExpires(certificate="router.tls.certificate", state="expired"),
]
"""What LINES and STEPS have at other levels."""


def told_by_events() -> set[tuple[str, str]]:
    """Message and level of all that comes of events."""
    journal = Journal(level="debug")
    for event in [*(event for event, _ in [*LINES, *STEPS]), *OTHER_LEVELS, NodeReachability(node="pacs", up=False)]:
        journal.now += 2 * logs.REPEAT_SECONDS
        journal.observe(event)
    journal.observe(NodeReachability(node="pacs", up=True))
    return {(line["event"], line["level"]) for line in journal.lines}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Level and call of all that is logged without an event: every `logger().level("message", ...)` there is."""
    for path in sorted((ROOT / "router").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args:
                of, level = call.func.value, call.func.attr
                if isinstance(of, ast.Call) and ast.unparse(of.func) in ("logger", "logs.logger"):
                    yield level, call


def told_in_so_many_words() -> Iterator[tuple[str, str]]:
    """Message and level of it."""
    for level, call in calls():
        for text in ast.walk(call.args[0]):
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield text.value, level


def documented() -> dict[tuple[str, str], list[str]]:
    """Message and level -> what else docs/logs.md says of it."""
    lines = (ROOT / "docs" / "logs.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    found = [row for row in rows if len(row) == 4 and row[0].startswith("`")]
    return {(row[0].strip("`"), level): row[2:] for row in found for level in row[1].split(", ")}


def test_each_line_is_documented_with_its_levels_and_no_other(journal: Journal) -> None:
    assert set(documented()) == told_by_events() | set(told_in_so_many_words())


def test_of_each_line_that_somebody_must_look_at_it_is_said_what_to_do() -> None:
    for (message, level), (meaning, todo) in documented().items():
        assert meaning.endswith("."), message
        if level in ("warning", "error"):
            assert todo.endswith((".", "?")), message


def test_each_key_of_a_line_is_documented() -> None:
    text = (ROOT / "docs" / "logs.md").read_text("utf-8")
    keys = {key for _, line in [*LINES, *STEPS] for key in line} | {"times", "timestamp", "transfer", "sweep"}
    keys |= {keyword.arg for _, call in calls() for keyword in call.keywords if keyword.arg is not None}
    keys |= {"appointment", "where", "error", "at", "calling_ae_title", "called_ae_title", "ip_address"}
    for key in keys:
        assert f"`{key}`" in text, key


# --- Troubles --------------------------------------------------------------------------------------------------------


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # noqa: BLE001 - with its traceback
        return caught


def test_what_is_ours_is_told_in_its_own_words(journal: Journal) -> None:
    logs.trouble("announce", raised(LedgerError("The ledger l.db is locked.")))
    assert journal.lines == [
        {"event": "trouble", "level": "error", "where": "announce", "error": "The ledger l.db is locked."}
    ]


def test_what_is_not_ours_is_told_by_kind_and_place(journal: Journal) -> None:
    logs.trouble("work", raised(KeyError("DOE^JANE")))
    (line,) = journal.lines
    assert line["error"] == "KeyError"
    assert re.fullmatch(r"test_logs\.py:\d+ raised", line["at"])


def test_the_same_trouble_is_told_once_in_a_while(journal: Journal) -> None:
    for _ in range(100):
        logs.trouble("announce", LedgerError("The ledger l.db is locked."))
    logs.trouble("announce", LedgerError("The ledger l.db is damaged."))
    assert len(journal.lines) == 2


SECRET = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).map(lambda text: f"SECRET{text}SECRET")


@given(SECRET, st.sampled_from([ValueError, KeyError, OSError, RuntimeError, UnicodeError, AssertionError]))
def test_no_text_of_somebody_else_is_ever_logged(secret: str, kind: type[Exception]) -> None:
    for console in (False, True):
        with untouched():
            journal = Journal(console=console)
            logs.trouble("work", raised(kind(secret)))
            chained = LedgerError("The ledger failed.")
            chained.__cause__ = kind(secret)
            logs.trouble("work", raised(chained))
        assert len(journal.stream.getvalue().splitlines()) == 2
        assert "SECRET" not in journal.stream.getvalue()


def test_the_last_words_of_a_thread_are_without_values(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    threading.excepthook = threading.__excepthook__
    journal = Journal()

    def die() -> None:
        raise ValueError("DOE^JANE")

    thread = threading.Thread(target=die, name="receipts")
    thread.start()
    thread.join(10.0)
    (line,) = journal.lines
    assert (line["where"], line["error"]) == ("thread receipts", "ValueError")
    assert "DOE" not in journal.stream.getvalue() + "".join(capsys.readouterr())


# --- Nothing else ----------------------------------------------------------------------------------------------------


def test_events_have_no_place_for_an_identifier() -> None:
    """Texts are names of the configuration or of programs, words of a finite set, sentences of ours; nothing else."""
    texts = {
        "study": "pseudonym",
        "rule": "name",
        "source": "name",
        "destination": "name",
        "node": "name",
        "calling": "name",
        "result": "word",
        "cause": "word",
        "state": "word",
        "verdict": "word",
        "role": "word",
        "reason": "word or sentence",
        "message": "sentence",
        "account": "sentence",
        "channel": "name",
        "kind": "word",
        "trigger": "word",
        "news": "word",
        "by": "word",
        "action": "word",
        "word": "word",
        "code": "word",
        "event": "a message's type",
        "attribute": "keyword",
        "certificate": "key",
        "content_hash": "hash",
        "work_hash": "hash",
        "calling_ae_title": "a program's name",
        "called_ae_title": "a program's name",
        "certificate_name": "of a certificate that is trusted",
        "ip_address": "a machine",
        "request": "method and path, as this router names them",
    }
    counts = {"held": "word", "dropped": "word", "groups": "name"}
    of_the_configuration = {"diagnostics": "sentence", "restart_needed": "key"}
    numbers = (int, bool, float, int | None, float | None, datetime | None)
    for kind in Event.__subclasses__():
        for name, hint in get_type_hints(kind).items():
            if not name.startswith("__") and hint is not SubOperationCounts:
                allowed = hint in numbers or (hint is str and name in texts)
                allowed = allowed or (hint == dict[str, int] and name in counts)
                allowed = allowed or (hint == tuple[str, ...] and name in of_the_configuration)
                assert allowed, f"{kind.__name__}.{name}"


@given(st.text(max_size=60))
def test_a_sentence_stays_one_line_and_cannot_command_the_terminal(text: str) -> None:
    for console in (False, True):
        with untouched():
            journal = Journal(console=console)
            journal.observe(SweepEnded(rule="r", source="s", result="failed", duration_seconds=1.0, message=text))
        written = journal.stream.getvalue()
        assert written.endswith("\n")
        assert written.count("\n") == len(written.splitlines()) == 1
        assert all(character.isprintable() for character in written[:-1])


UIDS = st.lists(st.integers(0, 10**12), min_size=5, max_size=10).map(lambda parts: ".".join(map(str, parts)))
SHORT_UIDS = st.lists(st.integers(0, 10**38), min_size=1, max_size=3).map(lambda p: ".".join(["2", "25", *map(str, p)]))


@given(st.text(max_size=20), UIDS | SHORT_UIDS, st.text(max_size=20))
def test_no_uid_is_logged_whatever_stands_around_it_and_wherever_it_stands(before: str, uid: str, after: str) -> None:
    text = f"{before} {uid}{after}"
    for console in (False, True):
        with untouched():
            journal = Journal(console=console, level="debug")
            logs.trouble(text, LedgerError(text))
            with logs.bound(study=text):
                logs.logger().debug(text, sentence=text, table={text: [text, {text: text}]}, several=(text,))
        assert uid not in journal.stream.getvalue()


@given(UIDS, st.sampled_from(["x", "_", "é", "UID", "="]))
def test_a_uid_is_masked_where_a_word_goes_over_into_it(uid: str, before: str) -> None:
    with untouched():
        journal = Journal()
        logs.logger().info(f"{before}{uid}{before}")
    assert uid not in journal.stream.getvalue()


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("1.2.840.113619.2.55.3.604688", "…"),
        ("of 2.25.329800735698586629295641978511506172918.1.", "of …."),
        ("at 10.0.0.5:104", "at 10.0.0.5:104"),
        ("at 10.2.25.7:104", "at 10.2.25.7:104"),
        ("took 1.25 s", "took 1.25 s"),
        ("study 1.2.840.10008 and 2.999.1234", "study … and …"),
        ("dicom-router 1.2.3", "dicom-router 1.2.3"),
    ],
)
def test_what_looks_like_a_uid_is_masked_should_it_ever_get_this_far(journal: Journal, said: str, logged: str) -> None:
    line = journal.of(SweepEnded(rule="r", source="s", result="failed", duration_seconds=1.0, message=said))
    assert line["detail"] == logged


def test_of_what_is_no_plain_value_the_kind_is_logged_and_not_its_text(journal: Journal) -> None:
    uid = "1.2.840.113619.2.55.3.604688"
    logs.logger().info(
        "x", error=ValueError(f"DOE^JANE {uid}"), raw=b"DOE^JANE", path=Path(f"/in/{uid}.dcm"), none=None
    )
    (line,) = journal.lines
    told = {key: line[key] for key in ("error", "raw", "path", "none")}
    assert told == {"error": "<ValueError>", "raw": "<bytes>", "path": "/in/….dcm", "none": None}


@pytest.mark.parametrize("name", ["pynetdicom.acse", "pydicom", "apscheduler.scheduler", "uvicorn.error", "sqlalchemy"])
def test_libraries_are_silent(journal: Journal, capfd: pytest.CaptureFixture[str], name: str) -> None:
    logging.getLogger(name).critical("patient DOE^JANE")
    logging.getLogger(name).error("patient DOE^JANE", exc_info=ValueError("DOE^JANE"))
    assert journal.lines == []
    assert "".join(capfd.readouterr()) == ""


def test_what_adapters_say_to_nobody_in_particular_is_logged(journal: Journal) -> None:
    logging.getLogger("router.dimse.store_scp").error("An association ended by an internal fault: %s", "KeyError")
    logging.getLogger("router.dimse.store_scp").debug("nothing of interest")
    assert journal.lines == [
        {
            "event": "An association ended by an internal fault: KeyError",
            "level": "error",
            "where": "router.dimse.store_scp",
        }
    ]


def test_warnings_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    from pydicom.dataset import Dataset
    from pydicom.valuerep import validate_value

    Journal()
    warnings.warn("Invalid value for VR UI: 'DOE^JANE'", UserWarning, stacklevel=1)
    dataset = Dataset()
    dataset.StudyInstanceUID = "DOE^JANE"
    validate_value("DA", "DOE^JANE", 1)
    assert "".join(capfd.readouterr()) == ""


def test_a_command_that_shows_its_work_logs_nothing_else() -> None:
    stream = io.StringIO()
    logs.configure(stream, quiet=True)
    observe = logs.LogObserver()
    for event, _ in LINES:
        observe(event)
    logs.trouble("work", ValueError("x"))
    assert stream.getvalue() == ""


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise ValueError("closed")


def test_work_goes_on_when_nobody_reads_the_log_any_more() -> None:
    stream = Gone()
    logs.configure(stream)
    logs.LogObserver()(SweepMissed(rule="r", source="s"))
    stream.close()


def test_lines_of_several_threads_do_not_mix(journal: Journal) -> None:
    def work(number: int) -> None:
        for _ in range(100):
            journal.observe(AttemptEnded(**{**ROUTE, "transfer": number}, cause="success", state="verifying"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert sorted(line["transfer"] for line in journal.lines) == sorted([0, 1, 2, 3] * 100)


def test_the_console_shows_the_same_on_one_line() -> None:
    journal = Journal(console=True)
    journal.observe(TransferEnded(**ROUTE, verdict="failed", duration_seconds=1.0, seen_to_verified_seconds=1.0))
    (line,) = journal.stream.getvalue().splitlines()
    for part in (
        "[error",
        "transfer ended",
        "transfer=7",
        "rule=ct",
        "source=pacs",
        "destination=ws",
        "verdict=failed",
    ):
        assert part in line
