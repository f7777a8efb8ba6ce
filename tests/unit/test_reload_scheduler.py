"""The scheduler over reloads: a thousand rules, what changes while sweeps fall due, a ledger that fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.sweep import SweepRecord
from router.domain.timing import Schedule
from router.engine.scheduler import Scheduler
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from tests.unit.test_scheduler import Bench, rules


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.scheduler.stop()
    made.ledger.close()


def schedules(rules_: dict[str, float]) -> dict[str, Schedule]:
    return {name: Schedule.periodic(every, "archive") for name, every in rules_.items()}


def test_of_a_thousand_rules_only_those_that_changed_are_planned_anew(bench: Bench) -> None:
    many = {f"r{number}": 3600.0 for number in range(1000)}
    bench.scheduler.start(rules(**schedules(many)))
    bench.finish_all()
    planned = bench.scheduler.planned()
    assert len(planned) == 1000
    edited = {name: every for name, every in many.items() if name != "r1"} | {"r2": 60.0, "new": 60.0}
    bench.scheduler.adopt(rules(**schedules(edited)))
    after = bench.scheduler.planned()
    assert planned.keys() - after.keys() == {"r1/0"}
    assert after.keys() - planned.keys() == {"new/0"}
    assert {job for job in after.keys() & planned.keys() if after[job] != planned[job]} == {"r2/0"}
    assert bench.due() == ["new"], "one that runs more often now has its turn at its time"
    assert bench.missed() == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([600.0, 3600.0])), max_size=6))
def test_however_often_it_is_reloaded_what_is_scheduled_is_what_the_last_rules_say(
    edits: list[dict[str, float]],
) -> None:
    bench = Bench()
    try:
        bench.scheduler.start(rules(a=Schedule.periodic(600.0, "archive")))
        for edit in edits:
            bench.clock.advance(60)
            bench.scheduler.adopt(rules(**schedules(edit)))
            assert bench.scheduler.scheduled() == sorted(f"{name}/0" for name in edit)
            due = bench.due()
            assert len(set(due)) == len(due), "no rule has two open sweeps"
        assert bench.missed() == []
    finally:
        bench.scheduler.stop()
        bench.ledger.close()


def test_a_ledger_that_fails_at_a_reload_costs_no_rule_its_schedule(bench: Bench) -> None:
    class Failing(SqlLedger):
        fails = False

        def last_sweeps(self) -> list[SweepRecord]:
            if self.fails:
                raise LedgerError("The disk is full.")
            return super().last_sweeps()

    bench.ledger.close()
    troubles: list[str] = []
    bench.ledger = ledger = Failing.in_memory()
    bench.scheduler = Scheduler(
        ledger=ledger,
        clock=bench.clock,
        observer=bench.events.append,
        trouble=lambda where, error: troubles.append(str(error)),
        wake=lambda: None,
    )
    bench.scheduler.start(rules(old=Schedule.periodic(3600.0)))
    bench.finish_all()
    ledger.fails = True
    bench.scheduler.adopt(rules(old=Schedule.periodic(3600.0), new=Schedule.periodic(3600.0)))
    assert bench.scheduler.scheduled() == ["new/0", "old/0"]
    assert bench.due() == ["new"]
    assert troubles == ["The disk is full."]
