"""Makes sweeps due. The only home of APScheduler, which does nothing but call a function at the right time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice

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

_Key = tuple[str, int]
"""Name of a rule, number of a tier."""


class _ScheduleTrigger(BaseTrigger):  # type: ignore[misc]
    """Asks the domain when a schedule is due, so that plan, tests and service agree on it."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The first due time after now: what passed unnoticed is caught up once, and counted here."""
        return next_due(self.schedule, now)


class Scheduler:
    """Puts a sweep into the ledger whenever a tier of a rule is due.

    `tick_seconds`: how often it looks whether somebody set the clock, or the machine slept.
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
        tick_seconds: float = _TICK_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._trouble = trouble
        self._wake = wake
        self._monotonic = monotonic
        self._tick_seconds = tick_seconds
        self._rules: RuleSet | None = None
        self._lock = threading.Lock()
        self._since: dict[_Key, datetime] = {}
        """Up to when due times are accounted for."""
        self._newest: dict[_Key, datetime] = {}
        """The latest due time a tier has had in the ledger."""
        self._gathered: list[_Key] = []
        """Tiers that have fallen due in this moment."""
        self._wall, self._ticked = clock.now(), monotonic()
        self._stopping = threading.Event()
        self._ticker: threading.Thread | None = None
        # What is late runs, however late it is: the machine may have slept.
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(2)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        self._scheduler.add_listener(self._failed, EVENT_JOB_ERROR)

    def start(self, rules: RuleSet) -> None:
        """Schedule the rules' sweeps; what was missed while nothing ran is counted, and caught up once."""
        self._plan(rules, self._last_due(), outage=True)
        self._wall, self._ticked = self._clock.now(), self._monotonic()
        self._scheduler.start()
        self._ticker = threading.Thread(target=self._ticking, name="clock", daemon=True)
        self._ticker.start()

    def adopt(self, rules: RuleSet) -> None:
        """Go on with these rules. A tier whose schedule is the same keeps its rhythm. Never raises."""
        last: dict[_Key, datetime] = {}
        try:
            last = self._last_due()
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
            for times in (self._since, self._newest):
                for key in [key for key in times if _job_id(*key) not in wanted]:
                    del times[key]
        self._plan(rules, last, outage=False)

    def _last_due(self) -> dict[_Key, datetime]:
        """When each tier was due last, as the ledger knows it."""
        last: dict[_Key, datetime] = {}
        for sweep in [*self._ledger.last_sweeps(), *self._ledger.open_sweeps()]:
            if not sweep.due.manual:
                key = (sweep.due.rule, sweep.due.tier)
                last[key] = max(sweep.due.due_at, last.get(key, sweep.due.due_at))
        return last

    def _plan(self, rules: RuleSet, last: dict[_Key, datetime], *, outage: bool) -> None:
        """Schedule every tier that is not scheduled yet, and catch up once what was missed.

        Only after an outage was it missed: else the rule was not there, or disabled. `last` is when each was due last.
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
                    self._since[key] = before if outage and before is not None and before < now else now
                    if before is not None:
                        self._newest[key] = max(before, self._newest.get(key, before))
                self._scheduler.add_job(
                    self._due, trigger=_ScheduleTrigger(tier.schedule), args=key, id=_job_id(rule.name, number)
                )
                if _overdue(tier, before, now):
                    overdue.append(key)
        self._add(overdue, now)

    def scheduled(self) -> list[str]:
        """What is scheduled: rule and number of the tier, `RULE/N`."""
        return sorted(job.id for job in self._scheduler.get_jobs())

    def planned(self) -> dict[str, datetime]:
        """When what is scheduled comes due next, by `RULE/N`."""
        return {job.id: job.next_run_time for job in self._scheduler.get_jobs() if hasattr(job, "next_run_time")}

    def stop(self) -> None:
        """Make nothing due any more."""
        self._stopping.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        if self._ticker is not None:
            self._ticker.join(5.0)

    # the clock ------------------------------------------------------------------------------------------------------

    def _ticking(self) -> None:
        while not self._stopping.wait(self._tick_seconds):
            try:
                self.tick()
            except Exception as error:  # noqa: BLE001  the next tick must come
                self._trouble("scheduler", error)

    def tick(self) -> None:
        """Look at the clock. Where it was set back, plan anew; where it went ahead, what is due then is due now."""
        wall, ticked = self._clock.now(), self._monotonic()
        ahead = (wall - self._wall).total_seconds() - (ticked - self._ticked)
        self._wall, self._ticked = wall, ticked
        if ahead < -_SET_BACK_SECONDS:
            with self._lock:
                self._since = dict.fromkeys(self._since, wall)
            for job in self._scheduler.get_jobs():
                with suppress(JobLookupError):  # a reload took it away
                    job.reschedule(job.trigger)
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
        passed = {(rule.name, tier): self._passed(rule, tier, now) for rule, tier in known}
        due: list[SweepDue] = []
        try:
            in_the_way = _in_the_way(self._ledger.open_sweeps(), now) if known else set()
            for rule, tier in known:
                key = (rule.name, tier)
                if (key, rule.asked) not in in_the_way:
                    passed[key] -= 1
                    due_at = self._due_at(key, now)
                    due.append(SweepDue(rule=rule.name, source=rule.asked, due_at=due_at, tier=tier))
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

    def _due_at(self, key: _Key, now: datetime) -> datetime:
        """The due time of a sweep that begins now, to the second; two schedulers on one ledger agree on it.

        Where the clock was set back, that second may have had its sweep already.
        """
        due_at = now.replace(microsecond=0)
        with self._lock:
            if key in self._newest and due_at <= self._newest[key]:
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


def _in_the_way(open_sweeps: Sequence[SweepRecord], now: datetime) -> set[tuple[_Key, str]]:
    """The tiers that have an open sweep, with its source: a reload may have given the rule another.

    A sweep that waits for a time to come is in nobody's way: the clock was set back.
    """
    return {
        ((sweep.due.rule, sweep.due.tier), sweep.due.source)
        for sweep in open_sweeps
        if not sweep.due.manual and not (sweep.state is SweepState.DUE and sweep.due.due_at > now)
    }


def _overdue(tier: Tier, last: datetime | None, now: datetime) -> bool:
    """Whether a due time passed since the last sweep. A rule that never ran starts at once if it runs at intervals."""
    if last is None:
        return tier.schedule.every is not None
    return next_due(tier.schedule, last) <= now
