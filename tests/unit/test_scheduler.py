"""The scheduler: what it makes due, catches up and leaves alone. Time is the test's; nothing waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

import msgspec
import pytest
from apscheduler.schedulers import base as apscheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.condition import Condition
from router.domain.events import Event, SweepMissed
from router.domain.rule import Move, Node, RouterSettings, Rule, RuleSet, Sweep, Tier, WindowUse
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.timing import Schedule
from router.domain.window import Window, parse_span
from router.engine.scheduler import MISSED_COUNTED, Scheduler
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

    def missed(self) -> list[int]:
        return [event.count for event in self.events if isinstance(event, SweepMissed)]

    def due(self) -> list[str]:
        return sorted(sweep.due.rule for sweep in self.ledger.open_sweeps())

    def finish_all(self) -> list[str]:
        done = []
        while (sweep := self.ledger.claim_sweep(["archive"], self.clock.now(), 60)) is not None:
            done.append(sweep.due.rule)
            self.ledger.finish_sweep(sweep, SweepReport(state=SweepState.COMPLETE), [], [], self.clock.now())
        return done


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
    assert bench.missed() == [2], "two hours, two more due times"


def test_a_persons_sweep_does_not_stand_in_the_way(bench: Bench) -> None:
    bench.ledger.add_sweeps([SweepDue(rule="hourly", source="archive", due_at=bench.clock.now(), manual=True)])
    bench.scheduler.start(rules(hourly=HOURLY))
    assert bench.due() == ["hourly", "hourly"]


def test_a_sweep_of_the_source_that_a_rule_had_before_does_not_stand_in_the_way(bench: Bench) -> None:
    bench.ledger.add_sweeps([SweepDue(rule="hourly", source="old", due_at=bench.clock.now() - timedelta(hours=2))])
    bench.scheduler.start(rules(hourly=HOURLY))
    assert sorted(sweep.due.source for sweep in bench.ledger.open_sweeps()) == ["archive", "old"]


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


# --- What was missed -------------------------------------------------------------------------------------------------


def ran(bench: Bench, rule: str) -> None:
    """The rule's sweep of this moment is in the ledger, ended."""
    bench.ledger.add_sweeps([SweepDue(rule=rule, source="archive", due_at=bench.clock.now())])
    bench.finish_all()


def test_an_outage_is_counted_but_for_the_sweep_that_catches_it_up(bench: Bench) -> None:
    ran(bench, "nightly")
    bench.clock.advance(3 * 86400)
    bench.scheduler.start(rules(nightly=DAILY))
    assert bench.due() == ["nightly"]
    assert bench.missed() == [2]


def test_a_long_outage_is_counted_up_to_a_bound(bench: Bench) -> None:
    ran(bench, "often")
    bench.clock.advance(90 * 86400)
    bench.scheduler.start(rules(often=Schedule.periodic(60.0, "often")))
    assert bench.due() == ["often"]
    assert bench.missed() == [MISSED_COUNTED]


def test_a_restart_between_due_times_misses_nothing(bench: Bench) -> None:
    ran(bench, "nightly")
    bench.ledger.add_sweeps([SweepDue(rule="hourly", source="archive", due_at=bench.clock.now())])
    bench.clock.advance(1)
    bench.scheduler.start(rules(nightly=DAILY, hourly=Schedule.periodic(86400.0 * 365)))
    assert bench.missed() == []
    assert bench.due() == ["hourly"], "the one that was open"


def test_a_rule_that_comes_back_by_a_reload_missed_nothing(bench: Bench) -> None:
    ran(bench, "nightly")
    bench.scheduler.start(rules())
    bench.clock.advance(3 * 86400)
    bench.scheduler.adopt(rules(nightly=DAILY))
    assert bench.due() == ["nightly"]
    assert bench.missed() == []


def closed_by_day(made: RuleSet) -> RuleSet:
    """The same rules, with a source that is open from 20:00 to 22:00."""
    window = Window.of("evening", "UTC", parse_span("daily 20:00-22:00"))
    node = Node(name="archive", ae_title="A", host="h", port=1, windows=(WindowUse(window="evening"),))
    return msgspec.structs.replace(made, nodes={"archive": node}, windows={"evening": window})


def test_what_falls_due_while_the_source_is_closed_is_not_missed(bench: Bench) -> None:
    ran(bench, "hourly")  # at 10:00
    bench.clock.advance(9.9 * 3600)  # due at 20:00 next
    bench.scheduler.start(closed_by_day(rules(hourly=Schedule.periodic(3600.0))))
    assert bench.due() == ["hourly"], "it waits for the window to open"
    assert bench.missed() == []


def test_what_fell_due_while_the_source_was_open_is(bench: Bench) -> None:
    ran(bench, "hourly")
    bench.clock.advance(2 * 86400)
    bench.scheduler.start(closed_by_day(rules(hourly=Schedule.periodic(3600.0))))
    assert bench.due() == ["hourly"]
    assert bench.missed() == [3], "20:00 and 21:00 of two days, one is caught up"


# --- Rhythm -----------------------------------------------------------------------------------------------------------


def test_unchanged_tiers_keep_their_rhythm_when_others_change(bench: Bench) -> None:
    def with_tiers(*schedules: Schedule, **others: Schedule) -> RuleSet:
        made = rules(late=HOURLY, **others)
        rule = made.rules["late"]
        sweep = msgspec.structs.replace(rule.sweep, tiers=tuple(Tier(schedule=one) for one in schedules))
        made.rules["late"] = msgspec.structs.replace(rule, sweep=sweep, description=f"with {len(others)}")
        return made

    other = Schedule.periodic(7200.0, "other")
    bench.scheduler.start(with_tiers(HOURLY, DAILY, other=HOURLY))
    bench.finish_all()
    before = bench.scheduler.planned()
    bench.clock.advance(600)
    bench.scheduler.adopt(with_tiers(HOURLY, Schedule.at("0 3 * * *", "UTC"), other=other))
    after = bench.scheduler.planned()
    assert after["late/0"] == before["late/0"]
    assert after["late/1"] - before["late/1"] in (timedelta(hours=1), timedelta(hours=1) - timedelta(days=1))
    assert bench.missed() == []
    assert "late" not in bench.due(), "nothing of it starts anew"


# --- The clock --------------------------------------------------------------------------------------------------------


class TurnedClock(FakeClock):
    """The real clock, which tests set; APScheduler reads it too."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def set(self, moment: datetime) -> None:
        self.offset = moment - datetime.now(UTC)

    def advance(self, seconds: float) -> None:
        self.offset += timedelta(seconds=seconds)


@pytest.fixture
def turned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    clock = TurnedClock()

    class Turned(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(clock.now().timestamp(), tz)

    monkeypatch.setattr(apscheduler, "datetime", Turned)
    bench.clock = clock
    bench.scheduler = Scheduler(
        ledger=bench.ledger,
        clock=clock,
        observer=bench.events.append,
        trouble=lambda where, error: None,
        wake=lambda: None,
        tick_seconds=0.02,
    )
    return bench


def test_a_clock_that_is_set_back_stops_no_sweep(turned: Bench) -> None:
    """It was two hours ahead: nobody waits two hours for the next sweep."""
    turned.clock.advance(7200)
    turned.scheduler.start(rules(often=Schedule.periodic(0.5)))
    wait_for(turned.finish_all, "a sweep")
    wait_for(turned.due, "one that is due when the clock is set")
    turned.clock.advance(-7200)
    for _ in range(3):
        wait_for(turned.finish_all, "a sweep")
    assert turned.scheduler.planned()["often/0"] < turned.clock.now() + timedelta(seconds=60)


def test_a_second_that_comes_again_has_its_sweep_again(turned: Bench) -> None:
    start = datetime(2026, 11, 22, 10, 0, 5, tzinfo=UTC)
    turned.clock.set(start)
    turned.scheduler.start(rules(minutely=Schedule.periodic(60.0)))
    for _ in range(2):
        turned.clock.set(start)  # the second time it is set back, by three minutes
        wait_for(lambda: turned.scheduler.planned()["minutely/0"] < start + timedelta(minutes=1), "a new plan")
        turned.finish_all()
        for minutes in range(1, 4):
            turned.clock.set(start + timedelta(minutes=minutes))
            assert wait_for(turned.finish_all, "a sweep") == ["minutely"]


def test_a_machine_that_slept_sweeps_at_once_and_counts_what_it_slept_through(turned: Bench) -> None:
    turned.clock.set(datetime(2026, 11, 22, 10, 30, tzinfo=UTC))
    turned.scheduler.start(rules(hourly=Schedule.periodic(3600.0)))
    turned.finish_all()
    turned.clock.advance(5 * 3600)
    wait_for(turned.due, "a due sweep")
    assert wait_for(turned.missed, "what was missed") == [4]


def test_the_hour_that_comes_twice_has_one_sweep(turned: Bench) -> None:
    """Berlin, 25 October 2026: 02:30 comes at 00:30 and at 01:30 UTC."""
    turned.clock.set(datetime(2026, 10, 25, 0, 20, tzinfo=UTC))
    night = Schedule.at("30 2 * * *", "Europe/Berlin")
    turned.scheduler.start(rules(night=night, minutes=Schedule.at("*/30 * * * *", "Europe/Berlin")))
    seen: list[str] = []
    for hour in (0, 1, 2, 3):
        turned.clock.set(datetime(2026, 10, 25, hour, 31, tzinfo=UTC))
        wait_for(lambda: "minutes" in turned.due(), "the sweep of all half hours")
        seen += turned.finish_all()
    assert seen.count("minutes") == 4
    assert seen.count("night") == 1
    assert turned.scheduler.planned()["night/0"] == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


# --- Replicas ---------------------------------------------------------------------------------------------------------


class Skewed(FakeClock):
    """The time of another clock, so many seconds ahead."""

    def __init__(self, clock: FakeClock, ahead: float) -> None:
        self.clock, self.ahead = clock, timedelta(seconds=ahead)

    def now(self) -> datetime:
        return self.clock.now() + self.ahead


def due_times(bench: Bench) -> list[datetime]:
    return [sweep.due.due_at for sweep in bench.ledger.sweeps(range(1, 1000))]


@pytest.mark.parametrize("schedule", [HOURLY, DAILY, Schedule.at("*/5 * * * *", "Europe/Berlin")])
@pytest.mark.parametrize("skew", [-30.0, -1.0, 0.0, 1.0, 30.0])
def test_two_that_lead_write_the_same_sweep(bench: Bench, schedule: Schedule, skew: float) -> None:
    """One falls due for both, whose clocks differ, and the first one's has run before the other notices it."""
    ran(bench, "one")
    other = Scheduler(
        ledger=bench.ledger,
        clock=Skewed(bench.clock, skew),
        observer=bench.events.append,
        trouble=lambda where, error: None,
        wake=lambda: None,
    )
    both = sorted([(0.0, bench.scheduler), (skew, other)], key=lambda one: -one[0])
    for _, scheduler in both:
        scheduler.start(rules(one=schedule))
    due_at = schedule.next_due(bench.clock.now() + timedelta(seconds=31))
    for ahead, scheduler in both:  # the one whose clock is ahead notices it first
        bench.clock.time = due_at - timedelta(seconds=ahead)
        scheduler._due("one", 0)
        bench.clock.time = due_at + timedelta(seconds=31)
        bench.finish_all()
    other.stop()
    assert due_times(bench)[1:] == [due_at]
    assert bench.missed() == []


@given(
    every=st.integers(1, 100_000),
    now=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
    late=st.floats(0, 0.999),
)
def test_whoever_notices_a_due_time_late_gives_it_the_same_name(every: int, now: datetime, late: float) -> None:
    schedule = Schedule.periodic(float(every), "r")
    due = schedule.next_due(now.replace(tzinfo=UTC))
    assert schedule.latest_due(due) == due
    assert schedule.latest_due(due + timedelta(seconds=late * every)) == due
    assert schedule.latest_due(due - timedelta(microseconds=1)) < due


@given(
    cron=st.sampled_from(["*/5 * * * *", "30 2 * * *", "0 0 29 2 *", "15 3 1 1 mon", "0 2 * * sun"]),
    now=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe"]),
)
@settings(max_examples=50, deadline=None)
def test_the_latest_run_by_cron_is_the_one_before_the_next(cron: str, now: datetime, zone: str) -> None:
    schedule, moment = Schedule.at(cron, zone), now.replace(tzinfo=UTC)
    latest = schedule.latest_due(moment)
    assert latest <= moment
    assert schedule.latest_due(latest) == latest
    assert schedule.next_due(latest) > moment


def test_one_that_takes_over_between_due_times_makes_nothing_due(bench: Bench) -> None:
    bench.scheduler.start(rules(hourly=HOURLY))
    bench.finish_all()
    bench.scheduler.stop()
    bench.clock.advance(1)
    successor = bench.make()
    successor.start(rules(hourly=HOURLY))
    assert (bench.due(), bench.missed()) == ([], [])
    successor.stop()


def test_one_that_takes_over_after_a_due_time_catches_it_up_once(bench: Bench) -> None:
    bench.scheduler.start(rules(hourly=HOURLY))
    bench.finish_all()
    bench.scheduler.stop()
    missed = HOURLY.next_due(bench.clock.now())
    bench.clock.time = missed + timedelta(seconds=3)
    successor = bench.make()
    successor.start(rules(hourly=HOURLY))
    successor.stop()
    assert due_times(bench)[1:] == [missed]
    assert bench.missed() == []


def test_what_another_has_made_due_already_is_not_missed(bench: Bench) -> None:
    bench.scheduler.start(rules(hourly=HOURLY))
    bench.finish_all()
    due_at = HOURLY.next_due(bench.clock.now())
    bench.clock.time = due_at
    bench.ledger.add_sweeps([SweepDue(rule="hourly", source="archive", due_at=due_at)])
    bench.scheduler._due("hourly", 0)
    assert bench.due() == ["hourly"]
    assert bench.missed() == []


def test_it_starts_again_after_it_was_stopped(bench: Bench) -> None:
    bench.scheduler.start(rules(hourly=HOURLY))
    bench.scheduler.stop()
    assert bench.scheduler.scheduled() == []
    bench.scheduler.adopt(rules(hourly=HOURLY, other=HOURLY))
    assert bench.scheduler.scheduled() == [], "who does not lead makes nothing due"
    bench.scheduler.start(rules(other=HOURLY))
    assert bench.scheduler.scheduled() == ["other/0"]
    assert bench.due() == ["hourly", "other"]


def test_a_clock_of_the_machine_that_is_wrong_delays_nothing(turned: Bench) -> None:
    """APScheduler waits by it; what counts is the ledger's."""
    turned.clock.set(datetime(2026, 11, 22, 10, 30, tzinfo=UTC))
    wrong = Skewed(turned.clock, -3600.0)
    scheduler = Scheduler(
        ledger=turned.ledger,
        clock=turned.clock,
        observer=turned.events.append,
        trouble=lambda where, error: None,
        wake=lambda: None,
        machine=wrong.now,
        tick_seconds=0.02,
    )
    scheduler.start(rules(hourly=Schedule.periodic(3600.0)))
    turned.finish_all()
    turned.clock.set(datetime(2026, 11, 22, 11, 0, 1, tzinfo=UTC))
    wait_for(turned.due, "a due sweep")
    scheduler.stop()
    assert due_times(turned)[-1] == datetime(2026, 11, 22, 11, 0, tzinfo=UTC)
