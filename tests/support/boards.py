"""What a board is made of, in short."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from router.domain.board_view import Moment
from router.domain.condition import Condition
from router.domain.overview import Overview
from router.domain.pseudonym import Pseudonyms
from router.domain.rule import Move, Node, NodeLimits, RouterSettings, Rule, RuleSet, Sweep
from router.domain.sweep import SweepDue, SweepRecord, SweepReport, SweepState
from router.domain.transfer import ENDED, Intent, State, Transfer

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
PSEUDONYMS = Pseudonyms(b"the key of a test")
PATIENT = "4711-of-a-patient"


def at(seconds: float) -> datetime:
    """A time so many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def rule(name: str, source: str = "archive", **settings: Any) -> Rule:
    """A rule with a sweep that moves to `local`."""
    return Rule(name=name, sweep=Sweep(source=source), where=Condition(), move=Move(to=("local",)), **settings)


def rules(*given: Rule, nodes: tuple[str, ...] = ("archive", "ws"), **changes: Any) -> RuleSet:
    """A configuration; without rules with one that is called `ct`."""
    return RuleSet(
        router=RouterSettings(),
        nodes={
            name: Node(name=name, ae_title=name.upper(), host="127.0.0.1", port=104, limits=NodeLimits(associations=2))
            for name in nodes
        },
        rules={one.name: one for one in given or (rule("ct"),)},
        content_hash="x",
        **changes,
    )


def transfer(number: int, state: State = State.MOVING, *, destination: str = "local", **values: Any) -> Transfer:
    """A transfer of study 1.2.826.NUMBER from `archive`."""
    usual: dict[str, Any] = {
        "rule": "ct",
        "priority": 1,
        "instance_count": 10,
        "patient_id": PATIENT,
        "queued_at": at(-100),
        "next_at": at(-100),
        "updated_at": NOW,
        "finished_at": NOW if state in ENDED else None,
    }
    study = Intent("archive", f"1.2.826.{number}", "", destination)
    return Transfer(id=number, intent=study, state=state, **{**usual, **values})


def sweep(
    name: str = "ct", state: SweepState = SweepState.COMPLETE, *, began: float = -60, number: int = 1, **report: Any
) -> SweepRecord:
    """A sweep that began so many seconds after NOW, and took two."""
    ended = state not in (SweepState.DUE, SweepState.RUNNING)
    return SweepRecord(
        id=number,
        due=SweepDue(rule=name, source="archive", due_at=at(began)),
        state=state,
        report=SweepReport(state=state, **report) if ended else None,
        started_at=None if state is SweepState.DUE else at(began),
        finished_at=at(began + 2) if ended else None,
    )


def moment(given: RuleSet | None = None, **values: Any) -> Moment:
    """A moment; what belongs to the overview may be given by its names."""
    names = {field.name for field in msgspec.structs.fields(Overview)}
    seen = {name: tuple(values.pop(name)) for name in names & values.keys()}
    return Moment(rules=given or rules(), now=NOW, overview=Overview(**seen), **values)
