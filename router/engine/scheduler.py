"""Makes sweeps due. The only home of APScheduler, which does nothing but call a function at the right time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from router.domain.events import SweepMissed
from router.domain.rule import Rule, RuleSet, Tier
from router.domain.sweep import SweepDue
from router.domain.timing import Schedule, next_due
from router.engine.ports import Clock, Ledger, Observer, Trouble
from router.errors import LedgerError

_GRACE_SECONDS = 3600
"""APScheduler drops a run that is later than this; its default is one second."""


class _ScheduleTrigger(BaseTrigger):  # type: ignore[misc]
    """Asks the domain when a schedule is due, so that plan, tests and service agree on it."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The first due time after the previous one, or after now."""
        return next_due(self.schedule, previous_fire_time or now)


class Scheduler:
    """Puts a sweep into the ledger whenever a tier of a rule is due."""

    def __init__(
        self, *, ledger: Ledger, clock: Clock, observer: Observer, trouble: Trouble, wake: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._trouble = trouble
        self._wake = wake
        self._rules: RuleSet | None = None
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(2)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": _GRACE_SECONDS},
            timezone="UTC",
        )
        self._scheduler.add_listener(self._missed, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES | EVENT_JOB_ERROR)

    def start(self, rules: RuleSet) -> None:
        """Schedule the rules' sweeps; what was missed while nothing ran is caught up once."""
        self._plan(rules)
        self._scheduler.start()

    def adopt(self, rules: RuleSet) -> None:
        """Go on with these rules. A tier whose schedule is the same keeps its rhythm."""
        wanted = {
            _job_id(rule, number): tier.schedule
            for rule in _enabled(rules)
            for number, tier in enumerate(rule.sweep.tiers)
        }
        for job in self._scheduler.get_jobs():
            if job.id not in wanted or job.trigger.schedule != wanted[job.id]:
                job.remove()
        self._plan(rules)

    def _plan(self, rules: RuleSet) -> None:
        """Schedule every tier that is not scheduled yet, and catch up once what was missed."""
        last = {(s.due.rule, s.due.tier): s.due.due_at for s in self._ledger.last_sweeps()}
        now = self._clock.now()
        self._rules = rules
        for rule in _enabled(rules):
            for number, tier in enumerate(rule.sweep.tiers):
                if self._scheduler.get_job(_job_id(rule, number)) is not None:
                    continue
                self._scheduler.add_job(
                    self._due,
                    trigger=_ScheduleTrigger(tier.schedule),
                    args=(rule.name, number),
                    id=_job_id(rule, number),
                )
                if _overdue(tier, last.get((rule.name, number)), now):
                    self._add(rule, number, now)

    def scheduled(self) -> list[str]:
        """What is scheduled: rule and number of the tier, `RULE/N`."""
        return sorted(job.id for job in self._scheduler.get_jobs())

    def stop(self) -> None:
        """Make nothing due any more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _due(self, name: str, tier: int) -> None:
        rule = self._rules.rules.get(name) if self._rules is not None else None
        if rule is not None:  # it may have gone in this moment
            self._add(rule, tier, self._clock.now())

    def _add(self, rule: Rule, tier: int, now: datetime) -> None:
        source = rule.sweep.source
        try:
            open_sweeps = {(s.due.rule, s.due.tier) for s in self._ledger.open_sweeps() if not s.due.manual}
            if (rule.name, tier) in open_sweeps:
                self._observer(SweepMissed(rule=rule.name, source=source))
                return
            due_at = now.replace(microsecond=0)
            self._ledger.add_sweeps([SweepDue(rule=rule.name, source=source, due_at=due_at, tier=tier)])
        except LedgerError as error:
            self._trouble("scheduler", error)
            self._observer(SweepMissed(rule=rule.name, source=source))
            return
        self._wake()

    def _missed(self, event: JobEvent) -> None:
        assert self._rules is not None
        name = str(event.job_id).rpartition("/")[0]
        rule = self._rules.rules.get(name)
        if rule is not None:
            self._observer(SweepMissed(rule=name, source=rule.sweep.source))
        error: BaseException | None = getattr(event, "exception", None)
        if error:
            self._trouble("scheduler", error)


def _enabled(rules: RuleSet) -> list[Rule]:
    return [rule for rule in rules.rules.values() if rule.enabled]


def _job_id(rule: Rule, tier: int) -> str:
    return f"{rule.name}/{tier}"


def _overdue(tier: Tier, last: datetime | None, now: datetime) -> bool:
    """Whether a due time passed since the last sweep. A rule that never ran starts at once if it runs at intervals."""
    if last is None:
        return tier.schedule.every is not None
    return next_due(tier.schedule, last) <= now
