"""One run of a rule's C-FIND: question, answer, local truth, decisions. `plan` runs the same without writing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from router.domain.condition import Evaluation, KeyMatch
from router.domain.dicom import Identifier, QueryRetrieveLevel, is_uid, name_of
from router.domain.events import SweepEnded
from router.domain.levels import MATCHED_BY_ALL, RETURN_KEYS, asked_at
from router.domain.rule import Node, Rule, RuleSet, Tier
from router.domain.selection import Action, Candidate, Decision, Selection, decide
from router.domain.sweep import SweepRecord, SweepReport, SweepState
from router.domain.timing import DateExpression
from router.engine.ports import Clock, Ledger, Observer
from router.engine.query import Inquiry, known_tag, unique_keys
from router.engine.slots import Urgency
from router.errors import RouterError, WireError

MAXIMUM_QUERIES = 12
"""A list of values is asked value by value while that makes no more queries than this; else it is matched here only."""

_MODALITIES = known_tag("ModalitiesInStudy")
_STUDY_DATE = known_tag("StudyDate")
_LEVEL = known_tag("QueryRetrieveLevel")
_PATIENT_ID = known_tag("PatientID")
_AVAILABILITY = known_tag("InstanceAvailability")
_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")
_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")
_STUDY_INSTANCES = known_tag("NumberOfStudyRelatedInstances")
_SERIES_INSTANCES = known_tag("NumberOfSeriesRelatedInstances")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep found."""

    selection: Selection
    matches: int
    queries: int
    complete: bool
    reason: str = ""


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
                answer = self.look(rules, rule, cancelled, tier=sweep.due.tier, manual=sweep.due.manual)
                selection = answer.selection
                report = SweepReport(
                    state=SweepState.COMPLETE if answer.complete else SweepState.INCOMPLETE,
                    matches=answer.matches,
                    selected=len(selection.to_move),
                    queries=answer.queries,
                    cause="" if answer.complete else "capped",
                    reason=answer.reason,
                )
            except WireError as error:
                report = SweepReport(state=SweepState.FAILED, cause=error.cause, reason=str(error))
        now = self._clock.now()
        # Only a person waits for what was under way already; a schedule would write the same links again and again.
        under_way = selection.under_way if sweep.due.manual else []
        self._ledger.finish_sweep(sweep, report, selection.to_move, under_way, now)
        self._observer(
            SweepEnded(
                rule=sweep.due.rule,
                source=sweep.due.source,
                result=str(report.state),
                matches=report.matches,
                selected=report.selected,
                queries=report.queries,
                unavailable=selection.unavailable,
                duration_seconds=(now - started).total_seconds(),
                cause=report.cause,
                message=report.reason,
            )
        )
        return report

    def look(
        self, rules: RuleSet, rule: Rule, cancelled: threading.Event, *, tier: int = 0, manual: bool = False
    ) -> Answer:
        """Ask the source and decide. Raises WireError where it cannot be asked."""
        source = rules.node(rule.sweep.source)
        if source is None:
            raise RouterError(f"The configuration has no node {rule.sweep.source}.")
        return _Look(self._inquiry, self._ledger, rule, source, self._clock.now(), tier, manual, cancelled).run()


class _Look:
    """One look's working state."""

    def __init__(
        self,
        inquiry: Inquiry,
        ledger: Ledger,
        rule: Rule,
        source: Node,
        now: datetime,
        tier: int,
        manual: bool,
        cancelled: threading.Event,
    ) -> None:
        self._inquiry = inquiry
        self._ledger = ledger
        self._rule = rule
        self._source = source
        self._manual = manual
        self._cancelled = cancelled
        self._matches = 0
        self._queries = 0
        self._limit_reason = ""
        zone = ZoneInfo(source.timezone)
        self._evaluation = Evaluation(now=now, zone=zone)
        self._keys = _keys_of(rule, tier)
        self._decisions: list[Decision] = []

    def run(self) -> Answer:
        candidates = self._candidates(self._accepted(self._found()))  # the rows are let go before more memory is taken
        decisions = decide(
            rule=self._rule.name,
            source=self._source.name,
            destinations=self._rule.move.to,
            priority=self._rule.priority,
            candidates=candidates,
            facts=self._ledger.facts(self._source.name, [c.study_instance_uid for c in candidates]),
            manual=self._manual,
        )
        return Answer(
            selection=Selection(decisions=decisions + self._decisions),
            matches=self._matches,
            queries=self._queries,
            complete=not self._limit_reason,
            reason=self._limit_reason,
        )

    def _found(self) -> list[Identifier]:
        """The rows at the level of the sweep that match by its keys."""
        rows = self._ask(QueryRetrieveLevel.STUDY, None)
        self._matches = len(rows)
        rows = self._filtered(rows, QueryRetrieveLevel.STUDY)
        if self._rule.sweep.level is QueryRetrieveLevel.SERIES:
            rows = [one for study in rows for one in self._series_of(study)]
            self._matches = len(rows)
            rows = self._filtered(rows, QueryRetrieveLevel.SERIES)
        return rows

    # asking -------------------------------------------------------------------------------------------------------

    def _ask(self, level: QueryRetrieveLevel, study: Identifier | None) -> list[Identifier]:
        """All rows at a level, each once: rows without a usable unique key, or of another level, are dropped."""
        unique = _STUDY_INSTANCE_UID if level is QueryRetrieveLevel.STUDY else _SERIES_INSTANCE_UID
        plain = (level.value,)
        found: dict[str, Identifier] = {}
        unusable = elsewhere = 0
        for keys in self._questions(level, study):
            self._queries += 1
            result = self._inquiry.find(self._source, level, keys, Urgency.SWEEP, self._cancelled, partial=True)
            limit = self._source.find.max_results
            if result.status != 0:
                self._limit_reason = (
                    f"{self._source.name} ended a query early with status {result.status:04X}; "
                    f"{len(result.identifiers)} matches came before."
                )
            elif limit is not None and len(result.identifiers) >= limit:
                self._limit_reason = f"{self._source.name} answers at most {limit} matches, and so many came."
            elif result.undecodable:
                self._limit_reason = f"{self._source.name} sent {result.undecodable} matches that do not decode."
            for row in result.identifiers:
                if row.elements.get(_LEVEL) != plain and _text(row, _LEVEL) not in ("", level):
                    elsewhere += 1
                    continue
                uid = _text(row, unique)
                if is_uid(uid):
                    found.setdefault(uid, row)
                else:
                    unusable += 1
        if elsewhere:
            self._limit_reason = (
                f"{self._source.name} sent {elsewhere} matches of another level than {level}; they cannot be moved."
            )
        if unusable:
            self._limit_reason = (
                f"{self._source.name} sent {unusable} matches whose {name_of(unique)} is none; they cannot be moved."
            )
        return list(found.values())

    def _questions(self, level: QueryRetrieveLevel, study: Identifier | None) -> Iterable[Identifier]:
        """The identifiers to send: lists of values are asked one by one, as far as that stays a handful."""
        base = dict.fromkeys(RETURN_KEYS[level], ())
        for tag in self._rule.where.attributes:
            if asked_at(tag) is level:
                base[tag] = ()
        keys = [key for key in self._keys if asked_at(key.tag) is level]
        choices: list[list[tuple[int, tuple[str, ...]]]] = []
        for key in keys:
            base.update(dict.fromkeys(key.attributes, ()))
            values = key.wire(self._evaluation)
            # A key that alone narrows the question is asked whatever it takes: without it the archive answers all.
            if values and (key.selective or len(values) * _product(choices) <= MAXIMUM_QUERIES):
                choices.append([(key.tag, value) for value in values])
        for choice in itertools.product(*choices):
            identifier = Identifier({**base, **dict(choice)})
            if study is not None:
                uid = study.text("StudyInstanceUID")
                identifier.elements.update(unique_keys(study.text("PatientID"), uid).elements)
            yield identifier

    def _series_of(self, study: Identifier) -> list[Identifier]:
        rows = self._ask(QueryRetrieveLevel.SERIES, study)
        return [Identifier({**study.elements, **row.elements}) for row in rows]

    # local truth --------------------------------------------------------------------------------------------------

    def _filtered(self, rows: list[Identifier], level: QueryRetrieveLevel) -> list[Identifier]:
        """Apply every key of the level again: what a PACS cannot match it returns all the same."""
        keys = [(key, key.bind(self._evaluation)) for key in self._keys if asked_at(key.tag) is level]
        kept = []
        for row in rows:
            for key, matches in keys:
                if not matches(row) and (reason := self._against(key, row)):
                    self._skip(row, "key", reason)
                    break
            else:
                kept.append(row)
        return kept

    def _against(self, key: KeyMatch, row: Identifier) -> str:
        """What speaks against a row by this key; empty where nothing does."""
        verdict = key.matches(row, self._evaluation)
        if verdict is None and key.tag == _MODALITIES:
            self._fill_modalities(row)
            verdict = key.matches(row, self._evaluation)
        if verdict is False:
            return f"outside the key {key.name}: the source does not match by it"
        if verdict is None and key.tag not in MATCHED_BY_ALL:
            return f"the source does not return {key.name}, so nobody can say whether it matched by it"
        return ""

    def _accepted(self, rows: list[Identifier]) -> list[Identifier]:
        """Those for which the condition holds."""
        condition = self._rule.where
        holds = condition.bind(self._evaluation)
        by_modalities = _MODALITIES in condition.attributes
        kept = []
        for row in rows:
            if by_modalities and not row.elements.get(_MODALITIES):
                self._fill_modalities(row)
            if holds(row):
                kept.append(row)
            else:
                self._skip(row, "condition", condition.explain(row, self._evaluation).reason)
        return kept

    def _fill_modalities(self, row: Identifier) -> None:
        """Modalities in Study is computed and optional (PS3.4 section C.3.4): ask the series where it is left out."""
        keys = unique_keys(row.text("PatientID"), row.text("StudyInstanceUID"))
        keys.elements.update(Identifier.of(SeriesInstanceUID="", Modality="").elements)
        self._queries += 1
        rows = self._inquiry.find(
            self._source, QueryRetrieveLevel.SERIES, keys, Urgency.SWEEP, self._cancelled
        ).identifiers
        modalities = sorted({text for one in rows if (text := one.text("Modality"))})
        row.elements.update(Identifier.of(ModalitiesInStudy=modalities).elements)

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
        candidates: dict[tuple[str, str], Candidate] = {}
        for row in rows:
            study = _text(row, _STUDY_INSTANCE_UID)
            series = _text(row, _SERIES_INSTANCE_UID) if by_series else ""
            key = study, series
            if key in candidates:
                continue
            count = _whole_number(_text(row, _SERIES_INSTANCES if series else _STUDY_INSTANCES))
            candidates[key] = Candidate(
                study_instance_uid=study,
                series_instance_uid=series,
                instance_count=self._listed(row, study, series) if count is None else count,
                patient_id=_text(row, _PATIENT_ID),
                availability=_text(row, _AVAILABILITY),
            )
        return list(candidates.values())

    def _listed(self, row: Identifier, study: str, series: str) -> int | None:
        """How many instances the source holds by its lists and the numbers of its series: it does not give the number.

        What is found out for it serves the moves as well.
        """
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


@lru_cache(maxsize=4096)
def _whole_number(text: str) -> int | None:
    """The same as `Identifier.number` for a text; counts come again and again."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def _keys_of(rule: Rule, tier: int) -> tuple[KeyMatch, ...]:
    """The rule's keys, with the look-back of its tier in place of the Study Date."""
    tiers: tuple[Tier, ...] = rule.sweep.tiers
    lookback = tiers[tier].lookback if tier < len(tiers) else None
    if lookback is None:
        return rule.sweep.keys
    key = KeyMatch.of_date("StudyDate", DateExpression.looking_back(lookback))
    return (key, *(k for k in rule.sweep.keys if k.tag != _STUDY_DATE))


def _product(choices: list[list[tuple[int, tuple[str, ...]]]]) -> int:
    total = 1
    for choice in choices:
        total *= len(choice)
    return total
