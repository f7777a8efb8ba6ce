"""Answers that serve several sweeps: rules that ask a source the same, or part of the same, share one C-FIND."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, filled_in
from router.domain.lookback import sweep_keys
from router.domain.question import asking_back, asks_back, covers
from router.domain.rule import Node, Rule
from router.domain.sweep import SweepRecord
from router.engine.asking import questions
from router.engine.enumeration import Budget, Enumerator, Found
from router.engine.ports import Ledger
from router.engine.query import QueryFailed
from router.errors import AssociationAborted, ConnectionLost, DeadlineExceeded, ProtocolError

_ANSWERS_KEPT = 50
"""Answers kept per source, at most; each only as long as a sweep that is due may use it."""
_ROWS_KEPT = 200_000
"""Matches in all answers that are kept: the oldest answers are let go for the newest."""
_SERVES = timedelta(minutes=10)
"""How long an answer serves: a sweep may have to wait for hours for its source to open."""
_MOST_BESIDE = 100
"""Sweeps whose questions are known when one asks, those that have their turn next: each looks at all of these."""
_WATERMARKS_KEPT = 10_000
_UNREAD = "not read yet"
_AT_FAULT = (QueryFailed, DeadlineExceeded, ConnectionLost, AssociationAborted, ProtocolError)
"""Errors that a question may bring about where another has an answer."""


class Wanted(NamedTuple):
    """A question that another sweep of the same source, due already, is about to ask."""

    question: Identifier
    due_at: datetime


class Asked(NamedTuple):
    """Another rule's sweep of the same source that is due as well."""

    rule: Rule
    tier: int
    due_at: datetime
    watermark: datetime | None = None

    def questions(self, evaluation: Evaluation) -> list[Wanted]:
        """What it would ask at that moment, at STUDY level."""
        if self.rule.sweep is None:
            return []
        keys = sweep_keys(
            self.rule.sweep, self.tier, now=evaluation.now, zone=evaluation.zone, watermark=self.watermark
        ).keys
        level = QueryRetrieveLevel.STUDY
        return [Wanted(one, self.due_at) for one in questions(self.rule, keys, level, evaluation)]


class Queue:
    """The sweeps that are due as well. Thread-safe."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._watermarks: dict[int, datetime | None] = {}
        """Of open sweeps: while one is open, none of its rule and tier ends."""
        self._lock = threading.Lock()

    def watermark(self, sweep: SweepRecord, now: datetime) -> datetime | None:
        """Up to when the sweeps of its tier have seen everything; see `lookback.sweep_keys`. Raises LedgerError."""
        if sweep.due.manual:
            return None
        known = self._watermarks.get(sweep.id, _UNREAD)
        if isinstance(known, str):
            known = self._ledger.last_complete_sweep(sweep.due.rule, sweep.due.tier, now)
            with self._lock:
                self._watermarks[sweep.id] = known
                while len(self._watermarks) > _WATERMARKS_KEPT:
                    del self._watermarks[next(iter(self._watermarks))]
        return known

    def beside(self, sweep: SweepRecord, rules: Mapping[str, Rule], now: datetime) -> list[Asked]:
        """Those of the same source that have their turn next. Raises LedgerError."""
        found: list[Asked] = []
        for other in self._ledger.open_sweeps(sweep.due.source, _MOST_BESIDE):
            rule = rules.get(other.due.rule)
            if other.id != sweep.id and rule is not None and rule.enabled:
                found.append(Asked(rule, other.due.tier, other.due.due_at, self.watermark(other, now)))
        return found


class _Answer:
    """What a question brought."""

    def __init__(self, source: str, question: Identifier, asked_at: datetime, rule: str, found: Found | None) -> None:
        self.source = source
        self.question = question
        self.asked_at = asked_at
        self.rule = rule
        self.found = found
        """None: an error, which may be another the next time."""
        self._shown: dict[int, bool] = {}

    def shows(self, tag: int) -> bool:
        """Whether every match has a value of this attribute."""
        if tag not in self._shown:
            rows = self.found.rows if self.found is not None else ()
            self._shown[tag] = all(filled_in(row.elements.get(tag, ())) for row in rows)
        return self._shown[tag]

    def serves(self, question: Identifier) -> Found | None:
        """The answer, where it says all that the answer to that question would."""
        narrowed = covers(self.question, question)
        if self.found is None or narrowed is None or not asks_back(self.question, question):
            return None
        # By what it is narrowed here each match must show; what the source would have matched by unseen is asked for.
        if narrowed and not (self.found.complete and all(map(self.shows, narrowed))):
            return None
        return self.found

    def settles(self, question: Identifier) -> bool:
        """Whether that question is not asked any more for others' sake, for this came of it."""
        return self.serves(question) is not None or (self.found is None and _same(self.question, question))


class Answers:
    """What was asked lately, for sweeps that were due before it was asked: they need nothing fresher. Thread-safe."""

    def __init__(self) -> None:
        self._kept: list[_Answer] = []
        """The oldest first."""
        self._lock = threading.Lock()

    def ask(
        self,
        source: str,
        question: Identifier,
        *,
        rule: str,
        due_at: datetime,
        now: datetime,
        others: Sequence[Wanted],
        ask: Callable[[Identifier, bool], Found],
        stands: Callable[[Found], bool] = lambda found: True,
    ) -> tuple[Found, datetime]:
        """The answer to a question of a rule's sweep that was due at `due_at`, and when it was asked.

        `ask` asks the source. Where a wider question is about to be asked by `others`, it is asked instead, once,
        unless its answer is incomplete or does not show by what the narrower one is to be matched. What does not stand
        any more serves nobody. Raises what `ask` does.
        """
        kept = [
            answer
            for answer in self._of(source)
            if timedelta() <= now - answer.asked_at <= _SERVES and (answer.found is None or stands(answer.found))
        ]
        for answer in kept:
            if answer.asked_at >= due_at and (found := answer.serves(question)) is not None:
                return _shared(found, answer.rule if answer.rule != rule else ""), answer.asked_at
        wanted = [
            one.question
            for one in others
            if not any(answer.asked_at >= one.due_at and answer.settles(one.question) for answer in kept)
        ]
        widest = _widest(question, wanted)
        alike = [one for one in wanted if covers(widest, one) is not None]
        queries = 0
        if widest is not question or alike:
            together = asking_back(widest, [question, *alike])
            try:
                found = ask(together, True)
            except _AT_FAULT:  # what others want (to have back) may be what the source cannot give
                if _same(widest, question) and not _more(question, alike):
                    raise
                self._keep(_Answer(source, together, now, rule, None))
            else:
                answer = _Answer(source, together, now, rule, found)
                self._keep(answer)
                if answer.serves(question) is not None:
                    return found, now
                queries = found.queries
        own = ask(question, bool(alike))
        if alike:
            self._keep(_Answer(source, question, now, rule, own))
        return msgspec.structs.replace(own, queries=own.queries + queries), now

    def retain(self, source: str, wanted: Collection[Wanted], now: datetime) -> None:
        """Let go of what none of these can use, and of what is too old for any."""
        with self._lock:
            self._kept = [
                answer
                for answer in self._kept
                if now - answer.asked_at <= _SERVES
                and (
                    answer.source != source
                    or any(one.due_at <= answer.asked_at and answer.settles(one.question) for one in wanted)
                )
            ]

    def _of(self, source: str) -> list[_Answer]:
        with self._lock:
            return [answer for answer in self._kept if answer.source == source]

    def _keep(self, answer: _Answer) -> None:
        with self._lock:
            here = [one for one in self._kept if one.source == answer.source]
            gone = set(map(id, here[: max(0, len(here) + 1 - _ANSWERS_KEPT)]))
            self._kept = [one for one in self._kept if id(one) not in gone] + [answer]
            while (
                len(self._kept) > 1
                and sum(len(one.found.rows) for one in self._kept if one.found is not None) > _ROWS_KEPT
            ):
                del self._kept[0]


def _shared(found: Found, rule: str) -> Found:
    """The answer for another sweep: that of a rule, or of the same one."""
    which = f"{rule}'s sweep of the same moment" if rule else "this rule's sweep just before"
    account = f"The answer to {which} served here too."
    return msgspec.structs.replace(found, queries=0, account=account)


def _widest(question: Identifier, others: Iterable[Identifier]) -> Identifier:
    widest = question
    for other in others:
        if covers(other, widest) is not None and not _same(other, widest):
            widest = other
    return widest


def _same(one: Identifier, other: Identifier) -> bool:
    return covers(one, other) == frozenset()


def _more(question: Identifier, others: Iterable[Identifier]) -> bool:
    """Whether others want more back."""
    return not all(asks_back(question, other) for other in others)


class Sharing:
    """One sweep's way to ask: what others have asked or are about to ask serves it too."""

    def __init__(
        self,
        answers: Answers,
        enumerator: Enumerator,
        source: Node,
        rule: str,
        due_at: datetime,
        now: datetime,
        others: Sequence[Wanted],
    ) -> None:
        self._answers = answers
        self._enumerator = enumerator
        self._source = source
        self._rule = rule
        self._due_at = due_at
        self._now = now
        self._others = others
        self._budget = Budget(source.find.max_queries)
        self.asked_at = now
        """When the oldest of the answers that it got was asked."""

    def ask(
        self, question: Identifier, level: QueryRetrieveLevel, modalities: Sequence[str], cancelled: threading.Event
    ) -> Found:
        """All matches of a question; `modalities` are those that are wanted. Raises WireError."""

        def ask(asked: Identifier, for_others: bool) -> Found:
            wanted = () if for_others else modalities
            # What is asked in another's place takes nothing away from what is left for its own.
            budget = self._budget if _same(asked, question) else Budget(self._source.find.max_queries)
            return self._enumerator.all(
                self._source, level, asked, modalities=wanted, budget=budget, cancelled=cancelled
            )

        if level is not QueryRetrieveLevel.STUDY:
            return ask(question, False)
        found, asked_at = self._answers.ask(
            self._source.name,
            question,
            rule=self._rule,
            due_at=self._due_at,
            now=self._now,
            others=self._others,
            ask=ask,
            stands=self.stands,
        )
        self.asked_at = min(self.asked_at, asked_at)
        return found

    def stands(self, found: Found) -> bool:
        """Whether what was found still counts: no cap was learned since that it may have been cut at."""
        return self._enumerator.stands(self._source, found)
