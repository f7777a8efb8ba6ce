"""One look of a sweep: from the question to a decision for each study and destination, or to the current studies."""

from __future__ import annotations

import threading
from collections import Counter

import msgspec

from router.domain.appointment import Notice
from router.domain.candidates import candidates, divides, text_of
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.lookback import SweepKeys, looked_back
from router.domain.prefetching import of_swept
from router.domain.rule import Node, Rule, Sweep
from router.domain.selection import Candidate, Decision, Selection, decide, left_out
from router.domain.truth import LocalTruth, of_study
from router.engine.asking import modalities_wanted, questions
from router.engine.computed import MAXIMUM_QUERIES, ComputedLook, uncounted
from router.engine.ports import Ledger
from router.engine.query import Inquiry
from router.engine.restraint import Restrainer
from router.engine.sharing import Sharing
from router.engine.slots import Urgency

_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")
_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")


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
    notices: list[Notice] = []
    """The current studies it found, where the rule moves their priors."""


class Look:
    """One sweep's question, answer, local truth and decisions. Not thread-safe."""

    def __init__(
        self,
        inquiry: Inquiry,
        ledger: Ledger,
        rule: Rule,
        sweep: Sweep,
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
        self._sweep = sweep
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
        """Ask and decide. Raises WireError."""
        if self._rule.priors is not None:
            return self._currents(self._truth.by_condition(self._found()))
        # The rows are let go before more memory is taken.
        selected = self._candidates(self._truth.by_condition(self._found()))
        facts = self._ledger.facts(self._source.name, [c.study_instance_uid for c in selected])
        if self._unlisted:
            self._accounts.append(uncounted(self._source.name, self._unlisted))
        decisions = decide(
            rule=self._rule.name,
            source=self._source.name,
            destinations=self._rule.move.to,
            priority=self._rule.priority,
            candidates=selected,
            facts=facts,
            manual=self._manual,
        )
        # An answer that served others before says how things stood then.
        seen = self._evaluation._replace(now=self._sharing.asked_at)
        restrained = restrainer.apply(self._rule, self._source, seen, decisions, facts, self._cancelled)
        self._queries += restrained.queries
        self._accounts += filter(None, (restrained.account,))
        return self._answer(Selection(decisions=restrained.decisions + self._decisions, day=restrained.day))

    def _currents(self, rows: list[Identifier]) -> Answer:
        """What was found, as the studies whose priors are wanted: each study once."""
        notices = {row.text("StudyInstanceUID"): of_swept(self._rule, row, self._evaluation.now) for row in rows}
        return self._answer(Selection(decisions=self._decisions), list(notices.values()))

    def _answer(self, selection: Selection, notices: list[Notice] | None = None) -> Answer:
        return Answer(
            selection=selection,
            matches=self._matches,
            queries=self._queries + self._computed.queries,
            complete=not (self._limit_reason or self._computed.doubt),
            reason=" ".join(filter(None, (self._limit_reason, self._computed.doubt))),
            account=" ".join((*self._accounts, *filter(None, (self._computed.account,)))),
            dropped=dict(self._dropped),
            notices=notices or [],
        )

    def _found(self) -> list[Identifier]:
        """The rows at the level of the sweep that match by its keys."""
        rows = self._ask(QueryRetrieveLevel.STUDY, None)
        self._matches = len(rows)
        rows = self._truth.by_keys(rows, QueryRetrieveLevel.STUDY)
        if self._sweep.level is QueryRetrieveLevel.SERIES:
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
                found.setdefault(text_of(row, unique), row)
        return list(found.values())

    def _series_of(self, study: Identifier) -> list[Identifier]:
        return of_study(study, self._ask(QueryRetrieveLevel.SERIES, study))

    def _skip(self, row: Identifier, code: str, reason: str) -> None:
        self._decisions.append(left_out(row, code, reason))

    # candidates ---------------------------------------------------------------------------------------------------

    def _candidates(self, rows: list[Identifier]) -> list[Candidate]:
        if divides(self._sweep, self._rule.move):
            rows = [one for study in rows for one in self._series_of(study)]
        return candidates(rows, self._sweep, self._rule.move, self._listed)

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
