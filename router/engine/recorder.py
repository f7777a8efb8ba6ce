"""Asking a source what a rule's sweep asks it, to keep the answer: nothing is decided and nothing is left out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

from router.domain.candidates import divides, text_of
from router.domain.computed import COMPUTED, INSTANCES, missing
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.levels import asked_at
from router.domain.lookback import sweep_keys
from router.domain.rule import Node, Rule
from router.engine.asking import modalities_wanted, questions
from router.engine.computed import ComputedAttributes, ComputedLook
from router.engine.enumeration import Budget, Enumerator, Found
from router.engine.query import Inquiry
from router.errors import RouterError

MOST_SERIES_QUERIES = 2000
"""Studies of which one recording asks for the series."""

_STUDY, _SERIES = QueryRetrieveLevel.STUDY, QueryRetrieveLevel.SERIES
_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a source answered."""

    at: datetime
    question: Identifier
    """What it was asked, at every level; of several questions all that they ask for."""
    returned: frozenset[int]
    """The attributes that were asked back, at every level."""
    studies: list[Identifier]
    series: dict[str, list[Identifier]]
    """Study Instance UID -> its series, where they were asked for."""
    complete: bool
    reason: str = ""
    """Why it may not be all, as a sentence."""


class Recorder:
    """Takes down what sources answer."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry

    def take(self, rule: Rule, source: Node, now: datetime, cancelled: threading.Event) -> Taken:
        """What the widest sweep of a rule is answered. Raises RouterError, WireError."""
        if rule.sweep is None:
            raise RouterError(f"The rule {rule.name} has no sweep: there is nothing to record.")
        evaluation = Evaluation(now, ZoneInfo(source.timezone))
        keys = sweep_keys(rule.sweep, rule.widest_tier, now=now, zone=evaluation.zone, watermark=None).keys
        asking = _Asking(Enumerator(self._inquiry), source, modalities_wanted(keys, evaluation), cancelled)
        asked = list(questions(rule, keys, _STUDY, evaluation))
        rows = asking.all(_STUDY, asked)
        wanted = COMPUTED & (rule.where.attributes | {key.tag for key in keys if key.values}) | {INSTANCES}
        computed = ComputedAttributes(self._inquiry).look(source, cancelled)
        rows = [_filled(row, wanted, computed) for row in rows]
        series: dict[str, list[Identifier]] = {}
        returned = set[int]().union(*asked)
        question = _together(asked)
        if rule.sweep.level is _SERIES or divides(rule.sweep, rule.move):
            by_study = [(key, key.bind(evaluation)) for key in keys if asked_at(key.tag) is _STUDY]
            of_series = _together(list(questions(rule, keys, _SERIES, evaluation)))
            question = Identifier({**of_series.elements, **question.elements})
            returned.update(of_series)
            # What the source answered beside the question the rule leaves out, whatever its series are.
            wanted_rows = [row for row in rows if all(matches(row) is not False for _, matches in by_study)]
            for row in wanted_rows[:MOST_SERIES_QUERIES]:
                asked_below = list(questions(rule, keys, _SERIES, evaluation, row))
                series[text_of(row, _STUDY_INSTANCE_UID)] = _of_study(row, asking.all(_SERIES, asked_below))
            if len(wanted_rows) > MOST_SERIES_QUERIES:
                asking.doubts.append(f"The series of {MOST_SERIES_QUERIES} studies only were asked for.")
        doubts = list(dict.fromkeys([*asking.doubts, *filter(None, [computed.doubt])]))
        return Taken(
            at=now,
            question=question,
            returned=frozenset(returned),
            studies=rows,
            series=series,
            complete=not doubts,
            reason=" ".join(doubts),
        )


class _Asking:
    """One recording's way to ask."""

    def __init__(
        self, enumerator: Enumerator, source: Node, modalities: Sequence[str], cancelled: threading.Event
    ) -> None:
        self._enumerator = enumerator
        self._source = source
        self._modalities = modalities
        self._cancelled = cancelled
        self.doubts: list[str] = []

    def all(self, level: QueryRetrieveLevel, asked: Sequence[Identifier]) -> list[Identifier]:
        """All matches of these questions, each once."""
        unique = _STUDY_INSTANCE_UID if level is _STUDY else known_tag("SeriesInstanceUID")
        budget = Budget(self._source.find.max_queries)
        rows: dict[str, Identifier] = {}
        for question in asked:
            found: Found = self._enumerator.all(
                self._source,
                level,
                question,
                modalities=self._modalities if level is _STUDY else (),
                budget=budget,
                cancelled=self._cancelled,
            )
            if not found.complete:
                self.doubts.append(found.reason)
            for row in found.rows:
                rows.setdefault(text_of(row, unique), row)
        return list(rows.values())


def _filled(row: Identifier, wanted: frozenset[int], computed: ComputedLook) -> Identifier:
    """The row with what a sweep would find out of the study; what it cannot stays out."""
    for tag in sorted(missing(row, wanted)):
        row = computed.filled(row, frozenset({tag})) or row
    return row


def _of_study(study: Identifier, rows: Sequence[Identifier]) -> list[Identifier]:
    """The series of a study, each with what it says beside the study's row or otherwise."""
    uid = study.text("StudyInstanceUID")
    return [
        Identifier({tag: values for tag, values in row.elements.items() if study.elements.get(tag) != values})
        for row in rows
        if row.text("StudyInstanceUID").strip(" \0") in ("", uid)
    ]


def _together(asked: Sequence[Identifier]) -> Identifier:
    """All these questions as one: of a key each value that was asked for."""
    return Identifier(
        {
            tag: tuple(dict.fromkeys(value for one in asked for value in one.elements.get(tag, ())))
            for tag in asked[0].elements
        }
    )
