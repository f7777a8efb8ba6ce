"""One run of a rule's C-FIND: question, answer, local truth, decisions. `plan` runs the same without writing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.events import SweepEnded
from router.domain.lookback import SweepKeys, looked_back, sweep_keys
from router.domain.rule import Node, Rule, RuleSet
from router.domain.selection import Action, Candidate, Decision, Selection, decide
from router.domain.sweep import SweepRecord, SweepReport, SweepState
from router.engine.asking import modalities_wanted, questions
from router.engine.computed import MAXIMUM_QUERIES, ComputedAttributes, ComputedLook, uncounted
from router.engine.enumeration import Enumerator
from router.engine.ports import Clock, Ledger, Observer
from router.engine.query import Inquiry
from router.engine.restraint import Restrainer
from router.engine.sharing import Answers, Asked, Queue, Sharing
from router.engine.slots import Urgency
from router.engine.truth import LocalTruth, of_study
from router.errors import RouterError, WireError

_PATIENT_ID = known_tag("PatientID")
_AVAILABILITY = known_tag("InstanceAvailability")
_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")
_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")
_STUDY_INSTANCES = known_tag("NumberOfStudyRelatedInstances")
_SERIES_INSTANCES = known_tag("NumberOfSeriesRelatedInstances")


_Values = tuple[str | Identifier, ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep found."""

    selection: Selection
    matches: int
    queries: int
    complete: bool
    reason: str = ""
    account: str = ""
    """What it took, as a sentence; empty where one query did."""
    dropped: dict[str, int] = {}
    """Matches left out, by why."""


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

    def run(self, sweep: SweepRecord, cancelled: threading.Event) -> SweepReport:
        """Run a claimed sweep to its end, whatever that is. Raises LedgerError only."""
        started = self._clock.now()
        rules = self._rules()
        rule = rules.rules.get(sweep.due.rule)
        selection = Selection(decisions=[])
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
                report = SweepReport(
                    state=SweepState.COMPLETE if answer.complete else SweepState.INCOMPLETE,
                    matches=answer.matches,
                    selected=len(selection.to_move),
                    queries=answer.queries,
                    cause="" if answer.complete else "capped",
                    reason=answer.reason,
                    account=answer.account,
                    dropped=answer.dropped,
                )
            except WireError as error:
                report = SweepReport(state=SweepState.FAILED, cause=error.cause, reason=str(error))
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
        beside: Sequence[Rule] = (),
        since: datetime | None = None,
    ) -> Answer:
        """Ask the source and decide. Raises WireError where it cannot be asked.

        Answers serve the rules `beside` as well that are looked at after this one, if they were got after `since`.
        """
        now = self._clock.now()
        source = rule.sweep.source
        asked = [Asked(one, one.sweep.widest_tier, since or now) for one in beside if one.sweep.source == source]
        return self._look(rules, rule, cancelled, tier, manual, None, since or now, asked, now)

    def _run(self, rules: RuleSet, rule: Rule, sweep: SweepRecord, cancelled: threading.Event) -> Answer:
        """Look for a claimed sweep; what it was answered serves those that are due as well."""
        due, now = sweep.due, self._clock.now()
        watermark = self._queue.watermark(sweep, now)
        beside = self._queue.beside(sweep, rules.rules, now)
        return self._look(rules, rule, cancelled, due.tier, due.manual, watermark, due.due_at, beside, now)

    def _look(
        self,
        rules: RuleSet,
        rule: Rule,
        cancelled: threading.Event,
        tier: int,
        manual: bool,
        watermark: datetime | None,
        due_at: datetime,
        beside: Sequence[Asked],
        now: datetime,
    ) -> Answer:
        source = rules.node(rule.sweep.source)
        if source is None:
            raise RouterError(f"The configuration has no node {rule.sweep.source}.")
        evaluation = Evaluation(now=now, zone=ZoneInfo(source.timezone))
        wanted = [one for other in beside for one in other.questions(evaluation)]
        window = sweep_keys(rule.sweep, tier, now=now, zone=evaluation.zone, watermark=watermark)
        sharing = Sharing(self._answers, self._enumerator, source, rule.name, due_at, now, wanted)
        try:
            return _Look(
                self._inquiry,
                self._ledger,
                rule,
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


class _Look:
    """One look's working state."""

    def __init__(
        self,
        inquiry: Inquiry,
        ledger: Ledger,
        rule: Rule,
        source: Node,
        evaluation: Evaluation,
        window: SweepKeys,
        manual: bool,
        cancelled: threading.Event,
        sharing: Sharing,
        computed: ComputedLook,
    ) -> None:
        self._inquiry = inquiry
        self._ledger = ledger
        self._rule = rule
        self._source = source
        self._manual = manual
        self._cancelled = cancelled
        self._sharing = sharing
        self._matches = 0
        self._queries = 0
        self._listings = self._unlisted = 0
        self._limit_reason = ""
        self._accounts: list[str] = [looked_back(window.further)] if window.further else []
        self._dropped: Counter[str] = Counter()
        self._evaluation = evaluation
        self._keys = window.keys
        self._decisions: list[Decision] = []
        self._computed = computed
        self._truth = LocalTruth(self._keys, rule.where, evaluation, computed, self._skip)

    def run(self, restrainer: Restrainer) -> Answer:
        # The rows are let go before more memory is taken.
        candidates = self._candidates(self._truth.by_condition(self._found()))
        facts = self._ledger.facts(self._source.name, [c.study_instance_uid for c in candidates])
        if self._unlisted:
            self._accounts.append(uncounted(self._source.name, self._unlisted))
        decisions = decide(
            rule=self._rule.name,
            source=self._source.name,
            destinations=self._rule.move.to,
            priority=self._rule.priority,
            candidates=candidates,
            facts=facts,
            manual=self._manual,
        )
        # An answer that served others before says how things stood then.
        seen = self._evaluation._replace(now=self._sharing.asked_at)
        restrained = restrainer.apply(self._rule, self._source, seen, decisions, facts, self._cancelled)
        self._queries += restrained.queries
        self._accounts += filter(None, (restrained.account,))
        return Answer(
            selection=Selection(decisions=restrained.decisions + self._decisions, day=restrained.day),
            matches=self._matches,
            queries=self._queries + self._computed.queries,
            complete=not (self._limit_reason or self._computed.doubt),
            reason=" ".join(filter(None, (self._limit_reason, self._computed.doubt))),
            account=" ".join((*self._accounts, *filter(None, (self._computed.account,)))),
            dropped=dict(self._dropped),
        )

    def _found(self) -> list[Identifier]:
        """The rows at the level of the sweep that match by its keys."""
        rows = self._ask(QueryRetrieveLevel.STUDY, None)
        self._matches = len(rows)
        rows = self._truth.by_keys(rows, QueryRetrieveLevel.STUDY)
        if self._rule.sweep.level is QueryRetrieveLevel.SERIES:
            rows = [one for study in rows for one in self._series_of(study)]
            self._matches = len(rows)
            rows = self._truth.by_keys(rows, QueryRetrieveLevel.SERIES)
        return rows

    # asking -------------------------------------------------------------------------------------------------------

    def _ask(self, level: QueryRetrieveLevel, study: Identifier | None) -> list[Identifier]:
        """All rows at a level, each once."""
        found: dict[str, Identifier] = {}
        unique = _STUDY_INSTANCE_UID if level is QueryRetrieveLevel.STUDY else _SERIES_INSTANCE_UID
        asked = list(questions(self._rule, self._keys, level, self._evaluation, study))
        modalities = modalities_wanted(self._keys, self._evaluation)
        answers = [(question, self._sharing.ask(question, level, modalities, self._cancelled)) for question in asked]
        for question, answer in answers:
            if not self._sharing.stands(answer):  # an answer after it showed that it may have been cut
                self._queries += answer.queries
                answer = self._sharing.ask(question, level, modalities, self._cancelled)
            self._queries += answer.queries
            self._dropped.update(answer.dropped)
            if answer.account:
                self._accounts.append(answer.account)
            if not answer.complete:
                self._limit_reason = answer.reason
            if len(asked) == 1:
                return answer.rows
            for row in answer.rows:
                found.setdefault(_text(row, unique), row)
        return list(found.values())

    def _series_of(self, study: Identifier) -> list[Identifier]:
        return of_study(study, self._ask(QueryRetrieveLevel.SERIES, study))

    def _skip(self, row: Identifier, code: str, reason: str) -> None:
        self._decisions.append(
            Decision(
                action=Action.SKIP,
                code=code,
                reason=reason,
                study_instance_uid=row.text("StudyInstanceUID"),
                series_instance_uid=row.text("SeriesInstanceUID"),
                instance_count=row.number("NumberOfStudyRelatedInstances"),
            )
        )

    # candidates ---------------------------------------------------------------------------------------------------

    def _candidates(self, rows: list[Identifier]) -> list[Candidate]:
        wanted = self._rule.move.level
        if wanted is QueryRetrieveLevel.SERIES and self._rule.sweep.level is QueryRetrieveLevel.STUDY:
            rows = [one for study in rows for one in self._series_of(study)]
        by_series = wanted is QueryRetrieveLevel.SERIES
        counted = _SERIES_INSTANCES if by_series else _STUDY_INSTANCES
        often = by_series or self._rule.sweep.level is QueryRetrieveLevel.SERIES
        candidates = []
        seen: set[tuple[str, str]] = set()
        for row in rows:
            study = _text(row, _STUDY_INSTANCE_UID)
            series = _text(row, _SERIES_INSTANCE_UID) if by_series else ""
            if often:
                if (study, series) in seen:
                    continue
                seen.add((study, series))
            elements = row.elements
            count = _number_in(elements.get(counted, ()))
            candidates.append(
                Candidate(
                    study_instance_uid=study,
                    series_instance_uid=series,
                    instance_count=self._listed(row, study, series) if count is None else count,
                    patient_id=_text(row, _PATIENT_ID),
                    availability=_word_in(elements.get(_AVAILABILITY, ())),
                )
            )
        return candidates

    def _listed(self, row: Identifier, study: str, series: str) -> int | None:
        """How many instances the source holds by its lists and the numbers of its series: it does not give the number.

        What is found out for it serves the moves as well.
        """
        if self._listings == MAXIMUM_QUERIES:
            self._unlisted += 1
            return None
        self._listings += 1
        self._queries += 1
        expectation = self._inquiry.expectation(
            self._source, study, series, row.text("PatientID"), Urgency.SWEEP, self._cancelled
        )
        return expectation.size or None


def _text(row: Identifier, tag: int) -> str:
    """`Identifier.text` for the tag of an attribute: a sweep asks very many rows the same."""
    values = row.elements.get(tag)
    first = values[0] if values else ""
    return first.strip() if isinstance(first, str) else ""


def _word_in(values: _Values) -> str:
    """The first value of an attribute that has few different ones; empty where it is no text."""
    try:
        return _word(values)
    except TypeError:  # a sequence where none belongs: items cannot be looked up
        return ""


def _number_in(values: _Values) -> int | None:
    """The same as `Identifier.number` for the values of an attribute; counts come again and again."""
    try:
        return _number(values)
    except TypeError:
        return None


@lru_cache(maxsize=4096)
def _word(values: _Values) -> str:
    first = values[0] if values else ""
    return first.strip() if isinstance(first, str) else ""


@lru_cache(maxsize=4096)
def _number(values: _Values) -> int | None:
    text = _word(values)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
