"""What a rule holds back: the decisions, from values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.restraint import PATIENCE, Held, Recount, Restraint, restrain, said_of_held, to_ask_again
from router.domain.rule import RuleLimits
from router.domain.selection import Action, Candidate, Decision, decide
from router.domain.transfer import RULE_HOLDS, Happening, Intent, State, TransferFact

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
SETTLE = 600.0


def restraint(settle: float = 0.0, queued: int = 0, zone: str = "UTC", now: datetime = NOW, **limits: Any) -> Restraint:
    return Restraint(
        rule="r",
        settle=settle,
        limits=RuleLimits(**limits),
        queued_today=queued,
        now=now,
        seen_at=now + timedelta(seconds=2),
        zone=ZoneInfo(zone),
    )


def intent(number: int) -> Intent:
    return Intent("pacs", f"1.{number}", "", "ws")


def held(number: int, *, minutes: float = 60, cause: str = "settling", count: int | None = 5, **more: Any) -> Held:
    """Held for so many minutes."""
    fields = {"rule": "r", "completed": 0, "patient_id": "", "availability": ""} | more
    since = NOW - timedelta(minutes=minutes)
    return Held(id=number, intent=intent(number), cause=cause, instance_count=count, since=since, **fields)


def decided(
    restraint: Restraint, counts: dict[int, int | None], waiting: list[Held], recounts: dict[int, Recount] | None = None
) -> dict[int, Decision]:
    """What becomes of studies that the sweep finds with these counts, and of those that wait."""
    facts = {one.intent: TransferFact(one.id, State.HELD, one.instance_count, one.cause) for one in waiting}
    decisions = decide(
        rule="r",
        source="pacs",
        destinations=["ws"],
        priority="normal",
        candidates=[Candidate(study_instance_uid=f"1.{n}", instance_count=count) for n, count in counts.items()],
        facts=facts,
        manual=False,
    )
    answers = {(f"1.{n}", ""): one for n, one in (recounts or {}).items()}
    by_rules = [one for one in waiting if one.cause in RULE_HOLDS]  # as the ledger gives them
    found = restrain(decisions, restraint, facts, by_rules, answers)
    return {int(one.study_instance_uid[2:]): one for one in found}


def cause(decision: Decision) -> str:
    """`queued`, or the cause for which it is held from now on; empty where nothing is written."""
    if decision.new is None:
        return ""
    return decision.new.hold.cause if decision.new.hold else "queued" if decision.action is Action.MOVE else "counted"


SETTLING = [
    # minutes held, count then, count now, what is written
    (9.9, 5, 5, ""),
    (10, 5, 5, "queued"),
    (60, 5, 6, "settling"),
    (60, 5, 4, "settling"),
    (1, 5, 6, "settling"),
    (60, None, None, "queued"),
    (60, 5, None, "queued"),
    (60, None, 5, "settling"),
]


@pytest.mark.parametrize(("minutes", "before", "now", "written"), SETTLING)
def test_a_second_look(minutes: float, before: int | None, now: int | None, written: str) -> None:
    waiting = [held(1, minutes=minutes, count=before)]
    decision = decided(restraint(SETTLE), {1: now}, waiting)[1]
    assert cause(decision) == written
    if written == "settling":
        assert decision.new is not None
        assert decision.new.hold is not None
        assert (decision.new.happening, decision.new.instance_count) == (Happening.WAIT, now)
        assert decision.new.hold.since == NOW + timedelta(seconds=2), "it was seen when the answer came"
    if written == "queued":
        assert decision.new is not None
        assert decision.new.happening is Happening.RELEASE
        assert decision.new.instance_count == (before if now is None else now)


RECOUNTS = [
    (Recount(True, 5), 60, "queued"),
    (Recount(True, 6), 60, "settling"),
    (Recount(True, None), 60, "queued"),
    (Recount(False), 60, "queued"),
    (None, 60, None),
    (None, 60 * 25, "queued"),  # nobody can be asked: after a day it goes as it is
]


@pytest.mark.parametrize(("recount", "minutes", "written"), RECOUNTS)
def test_what_the_sweep_does_not_find(recount: Recount | None, minutes: float, written: str | None) -> None:
    waiting = [held(1, minutes=minutes)]
    found = decided(restraint(SETTLE), {}, waiting, {} if recount is None else {1: recount})
    assert (cause(found[1]) if found else None) == written
    assert timedelta(days=1) == PATIENCE


def test_only_what_could_go_is_asked_for_again() -> None:
    waiting = [
        held(1, minutes=11),
        held(2, minutes=60),
        held(3, minutes=5),
        held(4, cause="studies-per-sweep"),
        held(5, rule="other"),
    ]
    assert [one.id for one in to_ask_again(waiting, [], restraint(SETTLE))] == [2, 1]
    assert to_ask_again(waiting, [], restraint()) == []
    seen = decide(
        rule="r",
        source="pacs",
        destinations=["ws"],
        priority="normal",
        candidates=[Candidate(study_instance_uid="1.2", instance_count=5)],
        facts={},
        manual=False,
    )
    assert [one.id for one in to_ask_again(waiting, seen, restraint(SETTLE))] == [1]


@pytest.mark.parametrize("cause", sorted(RULE_HOLDS))
def test_another_rules_hold_ends_where_this_one_has_no_objection(cause: str) -> None:
    waiting = [held(1, cause=cause, rule="other"), held(2, cause=cause, rule="other")]
    found = decided(restraint(), {1: 5}, waiting)
    assert set(found) == {1}, "what this rule does not select is not its own"
    assert found[1].new is not None
    assert (found[1].new.rule, found[1].new.happening) == ("r", Happening.RELEASE)


def test_a_persons_hold_stands_and_is_counted_only() -> None:
    waiting = [held(1, cause="")]
    assert decided(restraint(), {1: 5}, waiting)[1].code == "held"
    grown = decided(restraint(SETTLE), {1: 6}, waiting)[1]
    assert (grown.action, grown.code, cause(grown)) == (Action.HOLD, "held", "counted")


MIDNIGHTS = [
    ("Europe/Berlin", "2026-03-28T23:30:00+00:00", "2026-03-29T22:00:00+00:00"),  # 23 hours long
    ("Europe/Berlin", "2026-10-24T22:30:00+00:00", "2026-10-25T23:00:00+00:00"),  # 25 hours long
    ("America/New_York", "2026-11-22T03:00:00+00:00", "2026-11-22T05:00:00+00:00"),
    ("Pacific/Kiritimati", "2026-11-22T12:00:00+00:00", "2026-11-23T10:00:00+00:00"),
]


@pytest.mark.parametrize(("zone", "now", "midnight"), MIDNIGHTS)
def test_a_day_ends_at_the_sources_midnight(zone: str, now: str, midnight: str) -> None:
    limited = restraint(zone=zone, now=datetime.fromisoformat(now), queued=9, instances_per_day=10)
    assert limited.tomorrow == datetime.fromisoformat(midnight)
    new = decided(limited, {1: 5}, [])[1].new
    assert new is not None
    assert new.hold is not None
    assert new.hold.next_at == limited.tomorrow


STUDIES = st.lists(st.tuples(st.booleans(), st.one_of(st.none(), st.integers(0, 40))), max_size=12)


@given(
    studies=STUDIES,
    per_sweep=st.one_of(st.none(), st.integers(1, 5)),
    per_day=st.one_of(st.none(), st.integers(1, 60)),
    queued=st.integers(0, 60),
)
def test_limits_hold_the_youngest_and_lose_nothing(
    studies: list[tuple[bool, int | None]], per_sweep: int | None, per_day: int | None, queued: int
) -> None:
    """Whatever waits and whatever is new: no limit is passed but by one that is larger than it, and alone."""
    waiting = [
        held(n, minutes=1000 - n, cause="studies-per-sweep", count=count)
        for n, (waits, count) in enumerate(studies, 1)
        if waits
    ]
    new: dict[int, int | None] = {n: count for n, (waits, count) in enumerate(studies, 1) if not waits}
    limited = restraint(queued=queued, studies_per_sweep=per_sweep, instances_per_day=per_day)
    found = decided(limited, new, waiting)
    assert set(found) | {one.id for one in waiting} == set(range(1, len(studies) + 1))
    moved = {n: one for n, one in found.items() if one.action is Action.MOVE}
    cost = {n: 1 if count is None else count for n, (_, count) in enumerate(studies, 1)}
    assert per_sweep is None or len(moved) <= per_sweep
    charged = sum(one.new.charge for one in moved.values() if one.new is not None)
    if per_day is None:
        assert charged == 0
    else:
        assert charged == sum(cost[n] for n in moved)
        alone = queued == 0 and [n for n in moved if cost[n]] == [n for n in moved if cost[n] > per_day]
        assert queued + charged <= per_day or alone or charged == 0
    for n in new:
        assert cause(found[n]) in {"queued", "studies-per-sweep", "instances-per-day"}
    if per_day is None and per_sweep is not None:
        order = [one.id for one in waiting] + list(new)
        assert sorted(moved) == sorted(order[:per_sweep]), "who has waited longest goes first"
    held_back = sum(one.code == "limit" for one in found.values())
    assert bool(said_of_held(list(found.values()), limited)) == bool(held_back)
