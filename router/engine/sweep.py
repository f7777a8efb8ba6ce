"""One run of a rule's C-FIND: question, answer, local truth, decisions. `plan` runs the same without writing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from zoneinfo import ZoneInfo

from router.domain.appointment import News, Notice, repeat_of
from router.domain.condition import Evaluation
from router.domain.events import AppointmentNoted, SweepEnded
from router.domain.lookback import sweep_keys
from router.domain.rule import Node, Rule, RuleSet
from router.domain.selection import Selection
from router.domain.sweep import SweepRecord, SweepReport, SweepState
from router.engine.computed import ComputedAttributes
from router.engine.enumeration import Enumerator
from router.engine.look import Answer, Look
from router.engine.ports import Clock, Ledger, Observer
from router.engine.query import Inquiry
from router.engine.restraint import Restrainer
from router.engine.sharing import Answers, Asked, Queue, Sharing, Wanted
from router.engine.worklist import WorklistLook
from router.errors import Cancelled, LedgerError, RouterError, WireError

_NOTICES_AT_ONCE = 500
"""Appointments that are written in one transaction."""


class Sweeper:
    """Runs sweeps. `look` decides and writes nothing; `run` writes a claimed sweep's outcome to the ledger."""

    def __init__(
        self, *, rules: Callable[[], RuleSet], ledger: Ledger, inquiry: Inquiry, clock: Clock, observer: Observer
    ) -> None:
        self._rules = rules
        self._ledger = ledger
        self._inquiry = inquiry
        self._clock = clock
        self._observer = observer
        self._enumerator = Enumerator(inquiry)
        self._answers = Answers()
        self._queue = Queue(ledger)
        self._computed = ComputedAttributes(inquiry)
        self._restrainer = Restrainer(ledger, inquiry, clock)
        self._worklist = WorklistLook(ledger, inquiry, observer)

    def run(self, sweep: SweepRecord, cancelled: threading.Event) -> SweepReport:
        """Run a claimed sweep to its end, whatever that is. Raises LedgerError; a defect of ours once it is ended.

        A scheduled one that is cancelled, as by a stop, has not ended: it is due again, as if this service had died.
        """
        started = self._clock.now()
        rules = self._rules()
        rule = rules.rules.get(sweep.due.rule)
        selection = Selection(decisions=[])
        defect: Exception | None = None
        if rule is None or not rule.enabled:
            report = SweepReport(
                state=SweepState.FAILED,
                cause="rule-removed",
                reason=f"The running configuration has no enabled rule {sweep.due.rule}; was the service reloaded?",
            )
        else:
            try:
                answer = self._run(rules, rule, sweep, cancelled)
                selection = answer.selection
                news = self._note(rule, answer.notices, sweep)
                report = SweepReport(
                    state=SweepState.COMPLETE if answer.complete else SweepState.INCOMPLETE,
                    matches=answer.matches,
                    selected=len(selection.to_move) + news,
                    queries=answer.queries,
                    cause="" if answer.complete else "capped",
                    reason=answer.reason,
                    account=answer.account,
                    dropped=answer.dropped,
                )
            except Cancelled as error:
                report = SweepReport(state=SweepState.FAILED, cause=error.cause, reason=str(error))
                if not sweep.due.manual:
                    with suppress(LedgerError):  # then its lease ends by itself
                        self._ledger.renew_sweep(sweep, self._clock.now(), 0.0)
                    return report
            except WireError as error:
                report = SweepReport(state=SweepState.FAILED, cause=error.cause, reason=str(error))
            except LedgerError:
                raise
            except RouterError as error:
                report = SweepReport(state=SweepState.FAILED, cause="node-removed", reason=str(error))
            except Exception as error:  # noqa: BLE001  whoever waits for the sweep is told that it ended
                defect = error
                reason = f"The sweep broke off by an unforeseen {type(error).__name__}; the log says where."
                report = SweepReport(state=SweepState.FAILED, cause="defect", reason=reason)
        now = self._clock.now()
        # Only a person waits for what was under way already; a schedule would write the same links again and again.
        under_way = selection.under_way if sweep.due.manual else []
        written = [*selection.to_move, *selection.to_hold]
        self._ledger.finish_sweep(sweep, report, written, under_way, now, selection.day)
        self._observer(
            SweepEnded(
                rule=sweep.due.rule,
                source=sweep.due.source,
                result=str(report.state),
                matches=report.matches,
                selected=report.selected,
                queries=report.queries,
                unavailable=selection.unavailable,
                held=selection.newly_held,
                dropped=report.dropped,
                account=report.account,
                duration_seconds=(now - started).total_seconds(),
                cause=report.cause,
                message=report.reason,
            )
        )
        if defect is not None:
            raise defect
        return report

    def now(self) -> datetime:
        """The time, as sweeps see it."""
        return self._clock.now()

    def look(
        self,
        rules: RuleSet,
        rule: Rule,
        cancelled: threading.Event,
        *,
        tier: int = 0,
        manual: bool = False,
        beside: Sequence[Wanted] = (),
        at: datetime | None = None,
    ) -> Answer:
        """Ask the source and decide. Raises WireError where it cannot be asked.

        Looks at the same moment `at` (aware; else now) share answers: those `beside` are asked the source after this.
        """
        now = at or self._clock.now()
        return self._look(rules, rule, cancelled, tier, manual, None, now, lambda evaluation: beside, now)

    def questions(self, rules: RuleSet, rule: Rule, at: datetime) -> list[Wanted]:
        """What a look at that moment (aware) asks of its source, for all tiers; nothing where it asks no studies."""
        source = rules.node(rule.asked)
        if source is None:
            return []
        return Asked(rule, rule.widest_tier, at).questions(Evaluation(now=at, zone=ZoneInfo(source.timezone)))

    def _run(self, rules: RuleSet, rule: Rule, sweep: SweepRecord, cancelled: threading.Event) -> Answer:
        """Look for a claimed sweep; what it was answered serves those that are due as well."""
        due, now = sweep.due, self._clock.now()
        watermark = self._queue.watermark(sweep, now)
        beside = self._queue.beside(sweep, rules.rules, now)

        def wanted(evaluation: Evaluation) -> list[Wanted]:
            return [one for other in beside for one in other.questions(evaluation)]

        return self._look(rules, rule, cancelled, due.tier, due.manual, watermark, due.due_at, wanted, now)

    def _look(
        self,
        rules: RuleSet,
        rule: Rule,
        cancelled: threading.Event,
        tier: int,
        manual: bool,
        watermark: datetime | None,
        due_at: datetime,
        beside: Callable[[Evaluation], Sequence[Wanted]],
        now: datetime,
    ) -> Answer:
        if rule.sweep is None and rule.worklist is None:
            # It waits for what comes by itself; a person wants what has come to be seen to now.
            return Answer(selection=Selection(decisions=[]), matches=0, queries=0, complete=True)
        source = rules.node(rule.asked)
        if source is None:
            raise RouterError(f"The configuration has no node {rule.asked}.")
        evaluation = Evaluation(now=now, zone=ZoneInfo(source.timezone))
        if rule.sweep is None:
            return self._of_worklist(rule, source, evaluation, manual, cancelled)
        wanted = beside(evaluation)
        window = sweep_keys(rule.sweep, tier, now=now, zone=evaluation.zone, watermark=watermark)
        sharing = Sharing(self._answers, self._enumerator, source, rule.name, due_at, now, wanted)
        try:
            return Look(
                self._inquiry,
                self._ledger,
                rule,
                rule.sweep,
                source,
                evaluation,
                window,
                manual,
                cancelled,
                sharing,
                self._computed.look(source, cancelled),
            ).run(self._restrainer)
        finally:
            self._answers.retain(source.name, wanted, now)

    def _of_worklist(
        self, rule: Rule, source: Node, evaluation: Evaluation, manual: bool, cancelled: threading.Event
    ) -> Answer:
        """The appointments of a worklist."""
        found = self._worklist.look(rule, source, evaluation, manual=manual, cancelled=cancelled)
        return Answer(
            selection=Selection(decisions=[]),
            matches=found.matches,
            queries=found.queries,
            complete=found.complete,
            reason=found.reason,
            account=found.account,
            dropped=found.dropped,
            notices=list(found.notices),
        )

    def _note(self, rule: Rule, notices: Sequence[Notice], sweep: SweepRecord) -> int:
        """Write down the current studies that were found; how many are news. Raises LedgerError."""
        if rule.priors is None:
            return 0
        now, manual = self._clock.now(), sweep.due.manual
        if rule.sweep is None and rule.worklist is None:
            return self._ledger.hasten(rule.name, sweep.id, now)
        repeat, changed = {rule.name: repeat_of(rule.priors)}, 0
        for start in range(0, len(notices), _NOTICES_AT_ONCE):
            some = notices[start : start + _NOTICES_AT_ONCE]
            news = self._ledger.note(some, now, repeat, again=manual, sweep_id=sweep.id if manual else None)
            for notice, one in zip(some, news, strict=True):
                changed += one not in (News.REPEATED, News.UNKNOWN)
                self._observer(AppointmentNoted(rule=rule.name, trigger=notice.trigger, news=str(one)))
        return changed
