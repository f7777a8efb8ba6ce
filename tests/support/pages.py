"""A board on which everything there can be is to be seen, and what other pages show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from router.domain.attention import Loaded
from router.domain.board import Board, NodeSeen, QueueSeen, ReplicaSeen, RuleSeen, SweepSeen, TransferSeen
from router.domain.transfer import Attempt
from router.web.pages import PageContext

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
STUDY, SERIES, INSTANCE, PATIENT = "1.2.826.0.1.10", "1.2.826.0.1.10.1", "1.2.826.0.1.10.1.7", "4711-of-a-patient"
KEY = "the-key-of-forms"


def at(seconds: float) -> datetime:
    """A time so many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def context(**values: Any) -> PageContext:
    """Somebody looks who has not logged in, but could."""
    usual: dict[str, Any] = {
        "now": NOW,
        "version": "1.2.3",
        "logged_in": False,
        "may_log_in": True,
        "identifiers": False,
        "form_key": "",
        "message": "",
        "path": "/",
        "problems": {},
    }
    return PageContext(**{**usual, **values})


def logged_in(**values: Any) -> PageContext:
    """Somebody looks who has logged in."""
    return context(**{"logged_in": True, "form_key": KEY, **values})


def transfer(number: int, state: str = "moving", *, identifiers: bool = False, **values: Any) -> TransferSeen:
    """A transfer of study `STUDY.NUMBER`."""
    ended = state not in ("queued", "held", "moving", "verifying")
    usual: dict[str, Any] = {
        "rule": "ct-to-workstation",
        "source": "archive",
        "destination": "workstation",
        "study": f"{number:012x}",
        "expected": 40,
        "attempts": 1,
        "queued_at": at(-600),
        "started_at": at(-90) if state not in ("queued", "held") else None,
        "updated_at": at(-1),
        "finished_at": at(-30) if ended else None,
        "actions": ("retry",) if ended else ("cancel", "hold"),
    }
    if identifiers:
        usual |= {"study_instance_uid": f"{STUDY}.{number}", "series_instance_uid": SERIES, "patient_id": PATIENT}
    return TransferSeen(id=number, state=state, **{**usual, **values})


def full_board(*, identifiers: bool = False, name: str = "") -> Board:
    """Something of everything; `name` is part of each name."""

    def seen(number: int, state: str, **values: Any) -> TransferSeen:
        return transfer(number, state, identifiers=identifiers, rule=f"ct{name}", **values)

    archive, ws, research = f"archive{name}", f"workstation{name}", f"research{name}"
    return Board(
        at=NOW,
        identifiers=identifiers,
        states={"queued": 12, "held": 1, "moving": 2, "verifying": 1, "complete": 12345, "failed": 2, "partial": 1},
        live=(
            seen(31, "moving", completed=12, failed=1, warning=2, ends_at=at(75), destination=ws),
            seen(32, "moving", expected=None, completed=3, destination=ws, wish="hold", actions=("cancel", "release")),
            seen(33, "verifying", completed=40, reason=f"Waits for {ws} to index.", destination=ws),
        ),
        queues=(
            QueueSeen(
                source=archive,
                destination=ws,
                queued=9,
                moving=2,
                oldest_queued_at=at(-1800),
                why=f"{archive} is busy: 2 of 2 associations in use.",
            ),
            QueueSeen(
                source=archive,
                destination=research,
                queued=3,
                oldest_queued_at=at(-9000),
                why=f"route {archive} -> {research} is stopped: The source does not know the destination; "
                "next try at 10:20 UTC",
                stopped=True,
            ),
            QueueSeen(source=archive, destination="local", held=1),
            QueueSeen(source=archive, destination="backup", verifying=1),
        ),
        nodes=(
            NodeSeen(
                name=archive,
                ae_title="ARCHIVE",
                address="10.0.0.5:104",
                up=True,
                left_alone=False,
                associations=2,
                associations_allowed=2,
                waiting=3,
                queued=12,
            ),
            NodeSeen(
                name=ws,
                ae_title="WS",
                address="10.0.0.6:104",
                up=None,
                left_alone=False,
                window_open=False,
                opens_at=at(7200),
                associations=0,
                associations_allowed=0,
                queued=9,
                why=f"{ws} is closed by its windows until 12:00 UTC.",
            ),
            NodeSeen(
                name=research,
                ae_title="RESEARCH",
                address="10.0.0.7:104",
                up=False,
                left_alone=True,
                associations=0,
                associations_allowed=1,
                queued=3,
                why=f"{research} does not answer; it is left alone, and tried again at 10:02 UTC.",
            ),
            NodeSeen(name="old", ae_title="OLD", address="10.0.0.8:104", up=False, left_alone=False),
            NodeSeen(name="ledger-only", ae_title="X", address="10.0.0.9:104"),
        ),
        rules=(
            RuleSeen(
                name=f"ct{name}",
                description=f"CT of today{name}",
                owner=f"radiology{name}",
                trigger="sweep",
                source=archive,
                destinations=(ws, research),
                last=SweepSeen(state="complete", at=at(-130), duration_seconds=1.5, matches=210, selected=4, queries=1),
                next_at=at(170),
                failed_recently=2,
            ),
            RuleSeen(
                name="incomplete",
                trigger="sweep",
                source=archive,
                destinations=("local",),
                last=SweepSeen(state="incomplete", at=at(-300), matches=1, selected=1, queries=1, reason="It is cut."),
                next_at=at(5),
            ),
            RuleSeen(
                name="failing",
                trigger="sweep",
                source=archive,
                destinations=("local",),
                last=SweepSeen(state="failed", at=at(-300), reason=f"{research} does not answer."),
                next_at=at(-20),
            ),
            RuleSeen(
                name="late",
                trigger="sweep",
                source=archive,
                destinations=("local",),
                last=SweepSeen(state="due", at=at(-1200)),
                next_at=at(-1200),
            ),
            RuleSeen(
                name="runs",
                trigger="worklist",
                source=archive,
                destinations=("local",),
                last=SweepSeen(state="running", at=at(-4)),
            ),
            RuleSeen(name="orders", trigger="order", source=archive, destinations=("local",)),
            RuleSeen(name="off", enabled=False, trigger="sweep", source=archive, destinations=("local",)),
        ),
        replicas=(
            ReplicaSeen(
                name=f"router-1{name}", address="10.0.0.1:9104", here=True, started_at=at(-7200), seen_at=at(-1)
            ),
            ReplicaSeen(
                name=f"router-2{name}", address="10.0.0.2:9104", leads=True, started_at=at(-90), seen_at=at(-1)
            ),
            ReplicaSeen(name=f"router-3{name}", seen_at=at(-40), silent=True, other_configuration=True),
        ),
        failures=(
            seen(
                21,
                "failed",
                status="0xA702",
                cause="suboperations-impossible",
                reason=f"{archive} cannot reach the destination, or it refuses{name}.",
                finished_at=at(-200),
            ),
            seen(22, "partial", completed=38, failed=2, reason="2 of 40 instances are missing.", finished_at=at(-4000)),
            seen(23, "contradicted", completed=0, reason="Success, but nothing is there.", finished_at=at(-90000)),
        ),
        activity=tuple(
            seen(number, state, completed=40, finished_at=at(-60 * number))
            for number, state in enumerate(("complete", "nothing", "unproven", "cancelled", *["complete"] * 8), 1)
        ),
        problems={"disk": f"1 bytes free in the store, 2 wanted{name}"},
    )


REFUSED = Loaded(accepted=False, at=at(-60), errors=2, warnings=1)
RESTART = Loaded(accepted=True, at=at(-60), restart_needed=("http", "listen"))


def attempts(name: str = "") -> tuple[Attempt, ...]:
    """A move that failed, and a look for evidence."""
    usual: dict[str, Any] = {"cause": "all-failed", "completed": 38, "failed": 2, "warning": 0}
    move: dict[str, Any] = {
        "step": "move",
        "happening": "retry",
        "reason": f"No instance could be moved{name}.",
        "status": 0xA702,
    }
    look: dict[str, Any] = {"step": "verify", "happening": "some_missing", "reason": "", "status": None}
    return tuple(
        Attempt(number=number, started_at=at(-90 + number), finished_at=at(-80 + number), **usual, **one)
        for number, one in enumerate((move, look), 1)
    )


def considered(*, identifiers: bool = False, name: str = "") -> dict[str, Any]:
    """A decision about the study as a prior."""
    return {
        "rule": f"priors{name}",
        "appointment": 5,
        "start": at(3600),
        "study_instance_uid": STUDY if identifiers else None,
        "destination": f"workstation{name}",
        "decision": "move",
        "code": "selected",
        "reason": f"The same part of the body{name}.",
        "group": "ct",
        "score": 12,
        "breakdown": f"10 for the modality{name}, 2 for its age",
        "age_days": 400,
    }


def explained(name: str = "") -> dict[str, Any]:
    """What `explain` says of a study, with something of everything."""
    leaf = {"text": f"StudyDescription: Lung*{name}", "passed": True, "decides": True, "seen": [f"Lung{name}"]}
    clause = {"text": "any", "passed": None, "decides": False, "seen": [], "parts": [{**leaf, "parts": []}]}
    gate: dict[str, Any] = {"gate": "window", "destination": None, "series": [], "state": "wait", "passed": False}
    decision = {
        "destination": "workstation",
        "series": [],
        "decision": "hold",
        "code": "settling",
        "reason": f"It settles{name}.",
        "transfer": 21,
        "conclusion": f"it would be moved later{name}",
        "opens_at": at(600),
    }
    rule = {
        "rule": f"ct{name}",
        "trigger": "sweep",
        "source": f"archive{name}",
        "found": True,
        "clauses": [clause, {**leaf, "passed": False, "parts": []}],
        "gates": [
            {**gate, "reason": f"closed{name}", "opens_at": at(60)},
            {**gate, "destination": f"workstation{name}", "state": "fail", "reason": "no", "opens_at": None},
            {**gate, "state": "pass", "passed": True, "reason": "open", "opens_at": None},
        ],
        "decisions": [decision, {**decision, "decision": "skip", "transfer": None, "opens_at": None, "breakdown": "x"}],
        "next_sweep_at": at(60),
        "notes": [f"A note{name}."],
        "problem": None,
    }
    nothing: dict[str, Any] = {
        "clauses": [],
        "gates": [],
        "decisions": [],
        "next_sweep_at": None,
        "notes": [],
        "found": None,
    }
    return {
        "study_instance_uid": STUDY,
        "study": {
            f"archive{name}": {"found": True, "problem": None, "values": {"StudyDate": ["20261122"], "Empty": []}},
            "away": {"found": None, "problem": f"It does not answer{name}.", "values": {}},
            "other": {"found": False, "problem": None, "values": {}},
            "unasked": {"found": None, "problem": None, "values": {}},
        },
        "rules": [rule, {**rule, **nothing, "rule": "other", "problem": f"It does not answer{name}."}],
        "considered": [considered(name=name)],
        "transfers": [transfer(21, "failed", reason=f"It failed{name}."), transfer(31, "queued")],
    }


def overview(name: str = "", *, good: bool = False) -> dict[str, Any]:
    """The values of the page of the configuration."""
    diagnostics = [
        {
            "file": f"rules/{name}.yaml",
            "line": 8,
            "column": 42,
            "severity": severity,
            "code": "DR011",
            "message": f"there is no node '{name}'",
            "hint": f"try {name}" if severity == "error" else "",
        }
        for severity in ("error", "warning")
    ]
    problems = {} if good else {"disk": f"full{name}"}
    return {
        "version": "1.2.3",
        "uptime_seconds": 93784.2,
        "configuration": {
            "directory": f"rules{name}",
            "hash": "abc",
            "loaded_at": "2026-11-22T09:00:00Z",
            "files": [f"rules/{name}.yaml", "rules/b.yaml"],
            "rules": 3,
            "nodes": 1,
            "restart_needed": [] if good else ["http", "listen"],
            "last_reload": {
                "at": "2026-11-22T09:30:00Z",
                "reloaded": good,
                "changed": False,
                "hash": "abc",
                "diagnostics": [] if good else diagnostics,
                "diagnostics_total": 0 if good else 7,
            },
        },
        "health": {"status": "ok" if good else "failing", "problems": problems},
        "readiness": {"status": "ok" if good else "failing", "problems": problems},
    }
