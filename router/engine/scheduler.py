"""Makes sweeps due. The only home of APScheduler, which does nothing but call a function at the right time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import NamedTuple

from apscheduler.events import EVENT_JOB_ERROR, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from router.domain.allowance import allowance
from router.domain.events import SweepMissed
from router.domain.rule import Rule, RuleSet, Tier
from router.domain.sweep import SweepDue, SweepRecord, SweepState
from router.domain.timing import Schedule, next_due
from router.engine.ports import Clock, Ledger, Observer, Trouble
from router.errors import LedgerError

MISSED_COUNTED = 1000
"""Due times of a tier that are counted as missed at once, at most."""

_TICK_SECONDS = 15.0
_SET_BACK_SECONDS = 60.0
"""What the wall clock may fall behind the monotonic one within a tick before everything is planned anew."""

_GATHER_SECONDS = 0.05
"""What falls due within this time is put into the ledger at once."""

_EARLY = timedelta(seconds=1)
"""What the machine's clock may be ahead of the ledger's when something falls due: it is due all the same."""
_APART = timedelta(seconds=0.5)
"""What the two may move against each other before everything is planned anew."""

_Key = tuple[str, int]
"""Name of a rule, number of a tier."""


class _Last(NamedTuple):
    """The last sweep of a tier."""

    due_at: datetime
    begun_at: datetime
    """What was due by then it has caught up."""


class _ScheduleTrigger(BaseTrigger):  # type: ignore[misc]
    """Asks the domain when a schedule is due, so that plan, tests and service agree on it.

    That is by the ledger's clock, which all replicas share; APScheduler waits by the machine's.
    """

    def __init__(self, schedule: Schedule, clock: Clock) -> None:
        self.schedule = schedule
        self.due: datetime | None = None
        """When it is due next, by the ledger's clock."""
        self._clock = clock

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The first due time after now: what passed unnoticed is caught up once, and counted here."""
        ours = after = self._clock.now()
        if previous_fire_time is not None and self.due is not None and ours < self.due <= ours + _early(self.schedule):
            after = self.due  # it was that early that it is being done
        self.due = next_due(self.schedule, after)
        return self.due - (ours - now)


class Scheduler:
    """Puts a sweep into the ledger whenever a tier of a rule is due.

    It can be started again after it was stopped: the replica that leads has it started. A sweep's `due_at` is what the
    schedule says, whoever notices when: so two that lead for a moment write the same one. `clock` is the ledger's,
    `machine` gives the time of this machine. `tick_seconds`: how often it looks whether somebody set one of them, or
    the machine slept.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        observer: Observer,
        trouble: Trouble,
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        machine: Callable[[], datetime] = lambda: datetime.now(UTC),
        tick_seconds: float = _TICK_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._trouble = trouble
        self._wake = wake
        self._monotonic = monotonic
        self._machine = machine
        self._tick_seconds = tick_seconds
        self._rules: RuleSet | None = None
        self._life = threading.Lock()
        """Whoever starts, stops or changes it is alone."""
        self._lock = threading.Lock()
        self._since: dict[_Key, datetime] = {}
        """Up to when due times are accounted for."""
        self._newest: dict[_Key, datetime] = {}
        """The latest due time a tier has had in the ledger."""
        self._again: dict[_Key, datetime] = {}
        """The clock was set back: due times up to this one come a second time, and are to have their sweeps again."""
        self._gathered: list[_Key] = []
        """Tiers that have fallen due in this moment."""
        self._wall, self._ticked = clock.now(), monotonic()
        self._stopping = threading.Event()
        self._ticker: threading.Thread | None = None
        self._scheduler = self._made()

    def _made(self) -> BackgroundScheduler:
        # What is late runs, however late it is: the machine may have slept.
        scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(2)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        scheduler.add_listener(self._failed, EVENT_JOB_ERROR)
        return scheduler

    def start(self, rules: RuleSet) -> None:
        """Schedule the rules' sweeps; what was missed while nothing ran is counted, and caught up once.

        Raises LedgerError; then it has not begun.
        """
        with self._life:
            last = self._last()
            self._scheduler = self._made()
            self._stopping = threading.Event()
            with self._lock:
                for times in (self._since, self._newest, self._again):
                    times.clear()
                self._gathered.clear()
            self._plan(rules, last, outage=True)
            self._wall, self._ticked = self._clock.now(), self._monotonic()
            self._scheduler.start()
            self._ticker = threading.Thread(target=self._ticking, args=(self._stopping,), name="clock", daemon=True)
            self._ticker.start()

    def adopt(self, rules: RuleSet) -> None:
        """Go on with these rules, if it goes. A tier whose schedule is the same keeps its rhythm. Never raises."""
        with self._life:
            if self._scheduler.running:
                self._adopt(rules)

    def _adopt(self, rules: RuleSet) -> None:
        last: dict[_Key, _Last] = {}
        try:
            last = self._last()
        except LedgerError as error:  # what is new begins as if it had never run: at worst a sweep too many
            self._trouble("scheduler", error)
        wanted = {
            _job_id(rule.name, number): tier.schedule
            for rule in _enabled(rules)
            for number, tier in enumerate(rule.tiers)
        }
        for job in self._scheduler.get_jobs():
            if job.id not in wanted or job.trigger.schedule != wanted[job.id]:
                job.remove()
        with self._lock:
            for times in (self._since, self._newest, self._again):
                for key in [key for key in times if _job_id(*key) not in wanted]:
                    del times[key]
        self._plan(rules, last, outage=False)

    def _last(self) -> dict[_Key, _Last]:
        """The last sweep of each tier, as the ledger knows it."""
        last: dict[_Key, _Last] = {}
        for sweep in [*self._ledger.last_sweeps(), *self._ledger.open_sweeps()]:
            if not sweep.due.manual:
                due_at = sweep.due.due_at
                one = _Last(due_at, max(due_at, sweep.started_at or due_at))
                before = last.setdefault((sweep.due.rule, sweep.due.tier), one)
                last[sweep.due.rule, sweep.due.tier] = _Last(*map(max, before, one))
        return last

    def _plan(self, rules: RuleSet, last: dict[_Key, _Last], *, outage: bool) -> None:
        """Schedule every tier that is not scheduled yet, and catch up once what was missed.

        Only after an outage was it missed: else the rule was not there, or disabled.
        """
        now = self._clock.now()
        self._rules = rules
        overdue: list[_Key] = []
        for rule in _enabled(rules):
            for number, tier in enumerate(rule.tiers):
                if self._scheduler.get_job(_job_id(rule.name, number)) is not None:
                    continue
                key = (rule.name, number)
                before = last.get(key)
                with self._lock:
                    self._since[key] = now
                    if before is not None:
                        self._newest[key] = max(before.due_at, self._newest.get(key, before.due_at))
                        if before.due_at > now + timedelta(seconds=_SET_BACK_SECONDS):
                            self._again[key] = before.due_at
                        elif outage:  # of somebody whose clock is a little ahead it may be to come
                            self._since[key] = before.begun_at
                trigger = _ScheduleTrigger(tier.schedule, self._clock)
                self._scheduler.add_job(self._due, trigger=trigger, args=key, id=_job_id(rule.name, number))
                if _overdue(tier, before.begun_at if before is not None else None, now):
                    overdue.append(key)
        self._add(overdue, now)

    def scheduled(self) -> list[str]:
        """What is scheduled: rule and number of the tier, `RULE/N`."""
        return sorted(job.id for job in self._scheduler.get_jobs())

    def planned(self) -> dict[str, datetime]:
        """When what is scheduled comes due next, by `RULE/N`."""
        return {job.id: job.trigger.due for job in self._scheduler.get_jobs() if job.trigger.due is not None}

    def stop(self) -> None:
        """Make nothing due any more, until it is started again."""
        with self._life:
            self._stopping.set()
            if self._scheduler.running:
                self._scheduler.shutdown(wait=False)
            if self._ticker is not None:
                self._ticker.join(5.0)
            self._scheduler = self._made()

    # the clock ------------------------------------------------------------------------------------------------------

    def _ticking(self, stopping: threading.Event) -> None:
        while not stopping.wait(self._tick_seconds):
            try:
                self.tick()
            except Exception as error:  # noqa: BLE001  the next tick must come
                self._trouble("scheduler", error)

    def tick(self) -> None:
        """Look at the clocks. Where the ledger's was set back, plan anew; where it went ahead, what is due is due now.

        Where the machine's was set, by which APScheduler waits, plan anew too.
        """
        wall, ticked = self._clock.now(), self._monotonic()
        ahead = (wall - self._wall).total_seconds() - (ticked - self._ticked)
        self._wall, self._ticked = wall, ticked
        set_back = ahead < -_SET_BACK_SECONDS
        if set_back:
            with self._lock:
                self._since = dict.fromkeys(self._since, wall)
                self._again.update(self._newest)
        apart = wall - self._machine()
        for job in self._scheduler.get_jobs():
            due = job.trigger.due
            to_come = due is not None and due > wall + _EARLY
            if set_back or (to_come and abs(due - job.next_run_time - apart) > _APART):
                with suppress(JobLookupError):  # a reload took it away
                    job.reschedule(job.trigger)
            elif due is not None and due < wall - _EARLY and self._scheduler.running:
                self._due(*job.args)
        if self._scheduler.running:
            self._scheduler.wakeup()  # it waits by a clock that stands still while the machine sleeps

    # what is due ----------------------------------------------------------------------------------------------------

    def _due(self, name: str, tier: int) -> None:
        """Take what falls due in the same moment together: sweeps that are due at once share their questions."""
        with self._lock:
            self._gathered.append((name, tier))
            if len(self._gathered) > 1:
                return
        self._stopping.wait(_GATHER_SECONDS)
        with self._lock:
            keys, self._gathered = self._gathered, []
        self._add(keys, self._clock.now())

    def _add(self, keys: Sequence[_Key], now: datetime) -> None:
        rules = self._rules.rules if self._rules is not None else {}
        known = [(rules[name], tier) for name, tier in keys if name in rules and tier < len(rules[name].tiers)]
        latest = {(rule.name, tier): _latest(rule.tiers[tier].schedule, now) for rule, tier in known}
        passed = {
            (rule.name, tier): self._passed(rule, tier, max(now, latest[rule.name, tier])) for rule, tier in known
        }
        due: list[SweepDue] = []
        try:
            in_the_way = _in_the_way(self._ledger.open_sweeps(), now) if known else {}
            for rule, tier in known:
                key = (rule.name, tier)
                before = in_the_way.get((key, rule.asked))
                if before is None:
                    passed[key] -= 1
                    due_at = self._due_at(key, latest[key], now)
                    due.append(SweepDue(rule=rule.name, source=rule.asked, due_at=due_at, tier=tier))
                elif before >= latest[key]:
                    passed[key] -= 1  # it is this one, that another replica noticed sooner
            if due:
                self._ledger.add_sweeps(due)
        except LedgerError as error:
            self._trouble("scheduler", error)
            for one in due:
                passed[one.rule, one.tier] += 1
            due = []
        for rule, tier in known:
            self._miss(rule, passed[rule.name, tier])
        if due:
            self._wake()

    def _passed(self, rule: Rule, tier: int, now: datetime) -> int:
        """How many due times passed since this was asked last. While the source is closed none is missed."""
        with self._lock:
            since = self._since.get((rule.name, tier), now)
            self._since[rule.name, tier] = now
        rules = self._rules
        node = rules.node(rule.asked) if rules is not None else None
        due = rule.tiers[tier].schedule.due_between(since, now)
        passed = list(islice(due, MISSED_COUNTED + 1))  # one of them is caught up
        if node is None or rules is None or not node.windows:
            return len(passed)
        return sum(allowance(node, rules.windows, moment).open for moment in passed)

    def _due_at(self, key: _Key, latest: datetime, now: datetime) -> datetime:
        """What the schedule says; where the clock was set back, and that had its sweep already, the time it is now."""
        due_at = latest
        with self._lock:
            if key in self._again and latest <= self._again[key]:
                due_at = now if now.microsecond else now - timedelta(microseconds=1)
            self._newest[key] = max(due_at, self._newest.get(key, due_at))
        return due_at

    def _miss(self, rule: Rule, count: int) -> None:
        if count > 0:
            self._observer(SweepMissed(rule=rule.name, source=rule.asked, count=min(count, MISSED_COUNTED)))

    def _failed(self, event: JobEvent) -> None:
        rule = self._rules.rules.get(str(event.job_id).rpartition("/")[0]) if self._rules is not None else None
        if rule is not None:
            self._miss(rule, 1)
        error: BaseException | None = getattr(event, "exception", None)
        if error:
            self._trouble("scheduler", error)


def _enabled(rules: RuleSet) -> list[Rule]:
    return [rule for rule in rules.rules.values() if rule.enabled]


def _job_id(rule: str, tier: int) -> str:
    return f"{rule}/{tier}"


def _early(schedule: Schedule) -> timedelta:
    return min(_EARLY, timedelta(seconds=schedule.every / 2)) if schedule.every is not None else _EARLY


def _latest(schedule: Schedule, now: datetime) -> datetime:
    """The due time that has come by now, or comes in this moment."""
    return schedule.latest_due(now + _early(schedule))


def _in_the_way(open_sweeps: Sequence[SweepRecord], now: datetime) -> dict[tuple[_Key, str], datetime]:
    """The tiers that have an open sweep, with its source (a reload may have given the rule another): when it was due.

    A sweep that waits for a time to come is in nobody's way: the clock was set back.
    """
    return {
        ((sweep.due.rule, sweep.due.tier), sweep.due.source): sweep.due.due_at
        for sweep in sorted(open_sweeps, key=lambda one: one.due.due_at)
        if not sweep.due.manual and not (sweep.state is SweepState.DUE and sweep.due.due_at > now + _EARLY)
    }


def _overdue(tier: Tier, last: datetime | None, now: datetime) -> bool:
    """Whether a due time passed since the last sweep. A rule that never ran starts at once if it runs at intervals."""
    if last is None:
        return tier.schedule.every is not None
    return next_due(tier.schedule, last) <= now
