"""The scheduler: what it makes due, catches up and leaves alone. Time is the test's; nothing waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from router.domain.condition import Condition
from router.domain.events import Event, SweepMissed
from router.domain.rule import Move, RouterSettings, Rule, RuleSet, Sweep, Tier
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.timing import Schedule
from router.engine.scheduler import Scheduler
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock
from tests.support.process import wait_for


def rules(**schedules: Schedule) -> RuleSet:
    made = {
        name: Rule(
            name=name,
            sweep=Sweep(source="archive", tiers=(Tier(schedule=schedule),)),
            where=Condition(),
            move=Move(to=("local",)),
        )
        for name, schedule in schedules.items()
    }
    return RuleSet(router=RouterSettings(), nodes={}, rules=made, content_hash="x")


class Bench:
    def __init__(self) -> None:
        self.ledger = SqlLedger.in_memory()
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.woken = 0
        self.scheduler = self.make()

    def make(self) -> Scheduler:
        def wake() -> None:
            self.woken += 1

        def trouble(where: str, error: BaseException) -> None:
            raise AssertionError(f"{where}: {error}")

        return Scheduler(ledger=self.ledger, clock=self.clock, observer=self.events.append, trouble=trouble, wake=wake)

    def due(self) -> list[str]:
        return sorted(sweep.due.rule for sweep in self.ledger.open_sweeps())

    def finish_all(self) -> None:
        while (sweep := self.ledger.claim_sweep(["archive"], self.clock.now(), 60)) is not None:
            self.ledger.finish_sweep(sweep, SweepReport(state=SweepState.COMPLETE), [], [], self.clock.now())


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.scheduler.stop()
    bench.ledger.close()


DAILY = Schedule.at("0 2 * * *", "UTC")
HOURLY = Schedule.periodic(3600.0, "hourly")


def test_a_new_rule_starts_at_once_at_intervals_and_at_its_time_by_cron(bench: Bench) -> None:
    bench.scheduler.start(rules(hourly=HOURLY, nightly=DAILY))
    assert bench.due() == ["hourly"]
    assert bench.woken == 1


def test_what_was_missed_while_down_is_caught_up_once(bench: Bench) -> None:
    bench.ledger.add_sweeps([SweepDue(rule="nightly", source="archive", due_at=bench.clock.now())])
    bench.finish_all()
    bench.clock.advance(3 * 86400)
    bench.scheduler.start(rules(nightly=DAILY))
    assert bench.due() == ["nightly"]


def test_what_is_not_due_yet_is_not_caught_up(bench: Bench) -> None:
    bench.ledger.add_sweeps([SweepDue(rule="nightly", source="archive", due_at=bench.clock.now())])
    bench.finish_all()
    bench.clock.advance(60)
    bench.scheduler.start(rules(nightly=DAILY))
    assert bench.due() == []


def test_a_sweep_that_is_still_open_is_not_doubled_but_counted(bench: Bench) -> None:
    bench.ledger.add_sweeps([SweepDue(rule="hourly", source="archive", due_at=bench.clock.now() - timedelta(hours=2))])
    bench.scheduler.start(rules(hourly=HOURLY))
    assert bench.due() == ["hourly"]
    assert [type(event) for event in bench.events] == [SweepMissed]


def test_a_persons_sweep_does_not_stand_in_the_way(bench: Bench) -> None:
    bench.ledger.add_sweeps([SweepDue(rule="hourly", source="archive", due_at=bench.clock.now(), manual=True)])
    bench.scheduler.start(rules(hourly=HOURLY))
    assert bench.due() == ["hourly", "hourly"]


def test_a_disabled_rule_sleeps(bench: Bench) -> None:
    made = rules(hourly=HOURLY)
    rule = made.rules["hourly"]
    asleep = Rule(name="hourly", enabled=False, sweep=rule.sweep, where=rule.where, move=rule.move)
    bench.scheduler.start(RuleSet(router=made.router, nodes={}, rules={"hourly": asleep}, content_hash="y"))
    assert bench.due() == []


def test_after_a_reload_new_rules_begin_and_removed_ones_end(bench: Bench) -> None:
    bench.scheduler.start(rules(hourly=HOURLY))
    bench.finish_all()
    bench.scheduler.adopt(rules(hourly=HOURLY, other=Schedule.periodic(600.0, "other")))
    assert bench.due() == ["other"], "the one that was there keeps its rhythm"
    bench.scheduler.adopt(rules(other=Schedule.periodic(600.0, "other")))
    assert bench.scheduler.scheduled() == ["other/0"]


def test_time_makes_a_sweep_due_again_and_again(bench: Bench) -> None:
    """The one test with real time: a schedule of a tenth of a second fires by itself."""
    bench.scheduler.start(rules(often=Schedule.periodic(0.1, "often")))
    for _ in range(3):
        wait_for(bench.due, "a due sweep")
        bench.finish_all()
        bench.clock.advance(10)
