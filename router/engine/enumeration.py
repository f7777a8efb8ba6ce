"""Asking a source until all matches are there: answers that may have been cut short are asked again in parts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.domain.account import account, cannot_divide, left_out
from router.domain.bisection import (
    CANCELLED,
    FEW,
    OUT_OF_RESOURCES,
    STUDY_TIME,
    Cut,
    Dimension,
    Seen,
    Split,
    by_common_modality,
    control,
    cut,
    expected,
    lacks,
    outside,
    split,
)
from router.domain.dicom import Identifier, QueryRetrieveLevel, is_uid, known_tag, name_of
from router.domain.question import keys_of
from router.domain.rule import Node
from router.engine.caps import Experience
from router.engine.query import MAXIMUM_MATCHES, Inquiry, QueryFailed
from router.engine.slots import Urgency

_ENRICHED = 5
"""Questions of a sweep that cannot be divided, of which some more is fetched by common modalities."""
_MISMATCHES = frozenset({0xA900, 0xC000, 0xC001})
"""A source that fails a part so does not match by its attribute."""

_LEVEL = known_tag("QueryRetrieveLevel")
_UNIQUE = {
    QueryRetrieveLevel.STUDY: known_tag("StudyInstanceUID"),
    QueryRetrieveLevel.SERIES: known_tag("SeriesInstanceUID"),
}


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The matches of a question, each once."""

    rows: list[Identifier]
    complete: bool
    """As far as the source can be asked, these are all."""
    reason: str = ""
    """Why it may not be complete, as a sentence."""
    queries: int = 0
    account: str = ""
    """What it took, as a sentence; empty where one query did."""
    dropped: dict[str, int] = {}
    """Matches left out: `duplicate`, `level`, `uid`, `undecodable`."""
    trusted: frozenset[int] = frozenset()
    """Numbers of matches of answers that were taken to be whole; see `Enumerator.stands`."""


class Budget:
    """How many more C-FIND requests a sweep may take."""

    def __init__(self, queries: int) -> None:
        self.left = queries


class Enumerator:
    """Finds all that match a question. Thread-safe."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry
        self._experience = Experience()

    def all(
        self,
        node: Node,
        level: QueryRetrieveLevel,
        question: Identifier,
        *,
        modalities: Sequence[str] = (),
        budget: Budget,
        cancelled: threading.Event,
    ) -> Found:
        """The matches of a question at STUDY or SERIES level.

        `modalities` are those the asker wants though the question does not say so: parts may be asked by them. Raises
        WireError (QueryFailed for a failure status) where the source cannot be asked.
        """
        return _Enumeration(self._inquiry, self._experience, node, level, modalities, budget, cancelled).run(question)

    def stands(self, node: Node, found: Found) -> bool:
        """Whether what was found still counts: no cap was learned meanwhile that it may have been cut at."""
        learned = self._inquiry.caps.learned(node)
        return node.find.max_results is not None or learned is None or learned not in found.trusted


class _Answer(NamedTuple):
    rows: list[Identifier]
    matches: int
    cut: Cut
    status: int
    error: QueryFailed | None = None
    """Where it was refused without a match."""


class _Parts(NamedTuple):
    """What asking in parts brought."""

    came: set[str]
    """UIDs of the matches."""
    gaps: bool
    """There may be studies that are in no part."""


class _Enumeration:
    """One question's working state."""

    def __init__(
        self,
        inquiry: Inquiry,
        experience: Experience,
        node: Node,
        level: QueryRetrieveLevel,
        modalities: Sequence[str],
        budget: Budget,
        cancelled: threading.Event,
    ) -> None:
        self._inquiry = inquiry
        self._caps = inquiry.caps
        self._experience = experience
        self._node = node
        self._level = level
        self._modalities = modalities
        self._budget = budget
        self._cancelled = cancelled
        self._unique = _UNIQUE[level]
        self._rows: dict[str, Identifier] = {}
        self._queries = 0
        self._doubts: dict[str, None] = {}
        self._dropped: Counter[str] = Counter()
        self._unusable: frozenset[Dimension] = frozenset()
        self._splits: Counter[Dimension] = Counter()
        self._cut_at: int | None = None
        self._trusted: set[int] = set()
        self._enriched = 0
        self._controlled: set[Dimension] = set()
        self._stopped = False
        """Something was not asked, for want of queries or memory."""

    def run(self, question: Identifier) -> Found:
        answer = self._ask(question)
        if answer.cut is not Cut.NO:
            self._explore(question, answer)
        if answer.error is not None and self._doubts and not self._rows:
            raise answer.error
        for sentence in left_out(self._node.name, self._dropped, self._level, name_of(self._unique)):
            self._doubt(sentence)
        return Found(
            rows=list(self._rows.values()),
            complete=not self._doubts,
            reason=" ".join(list(self._doubts)[:3]),
            queries=self._queries,
            account=account(self._queries, self._cut_at, self._splits, doubted=bool(self._doubts)),
            dropped={why: number for why, number in self._dropped.items() if number},
            trusted=frozenset(self._trusted),
        )

    # one answer -----------------------------------------------------------------------------------------------------

    def _ask(self, question: Identifier) -> _Answer:
        self._queries += 1
        self._budget.left -= 1
        node = self._node
        try:
            result = self._inquiry.find(node, self._level, question, Urgency.SWEEP, self._cancelled, partial=True)
        except QueryFailed as error:
            if error.status not in (CANCELLED, OUT_OF_RESOURCES):
                raise
            return _Answer([], 0, Cut.YES, error.status, error)
        count = len(result.identifiers)
        at_study = self._level is QueryRetrieveLevel.STUDY  # at others a node may have other caps
        if at_study and result.status == 0:
            self._caps.exceeded(node, count)
        seen = self._experience.note(node, question, count, whole=result.status == 0) if at_study else Seen()
        learned = self._caps.learned(node)
        judged = cut(result.status, count, configured=node.find.max_results, learned=learned, seen=seen)
        if judged is Cut.NO and count >= FEW:
            self._trusted.add(count)
        self._dropped["undecodable"] += result.undecodable
        return _Answer(self._usable(result.identifiers), count, judged, result.status)

    def _usable(self, answer: list[Identifier]) -> list[Identifier]:
        """The rows of the level that have a usable unique key; each is taken into what was found, once."""
        level, unique, dropped = self._level, self._unique, self._dropped
        plain = (level.value,)
        here: dict[str, Identifier] = {}
        good = 0
        for row in answer:  # very many
            get = row.elements.get
            if get(_LEVEL) != plain and _text(row, _LEVEL) not in ("", level):
                dropped["level"] += 1
                continue
            values = get(unique)
            uid = values[0] if values else ""
            if not isinstance(uid, str) or not is_uid(uid := uid.strip()):
                dropped["uid"] += 1
                continue
            good += 1
            if uid not in here:
                here[uid] = row
        dropped["duplicate"] += good - len(here)
        if self._rows:
            for uid, row in here.items():
                self._rows.setdefault(uid, row)
        else:
            self._rows.update(here)
        return list(here.values())

    # parts ----------------------------------------------------------------------------------------------------------

    def _explore(self, question: Identifier, answer: _Answer) -> set[str]:
        """Ask in parts what was cut short, or may have been. The UIDs of all matches that came for the question."""
        came = self._uids(answer.rows)
        if answer.cut is Cut.NO:
            return came
        if answer.cut is Cut.YES and answer.matches:
            self._cut_at = answer.matches
            if answer.status in (CANCELLED, OUT_OF_RESOURCES) and answer.matches < MAXIMUM_MATCHES:
                self._caps.said(self._node, answer.matches)
        if self._level is not QueryRetrieveLevel.STUDY:
            self._doubt(self._cannot(answer))
            return came
        balanced = answer.cut is Cut.MAYBE
        passed: frozenset[Dimension] = frozenset()
        while True:
            division = split(question, answer.rows, self._modalities, self._unusable | passed, balanced=balanced)
            if division is None:
                self._doubt(self._cannot(answer))
                return came | (self._enrich(question) if answer.cut is Cut.YES else set())
            parts = self._parts(division, answer) if self._matches_by(division.dimension, question, answer) else None
            if parts is None:
                self._unusable |= {division.dimension}
                continue
            lost = self._uids([row for row in answer.rows if expected(division, row)]) - parts.came
            if self._stopped:
                lost.clear()
            if lost and division.dimension is not Dimension.DATE:
                came |= parts.came
                passed |= {division.dimension}
                continue
            # One that was refused or cut with a status has more than any that was answered in full.
            most = max(answer.matches, self._experience.largest(self._node) if answer.error is not None else 0)
            hidden = answer.status != 0 and not division.whole and len(parts.came) <= most
            gaps = parts.gaps or hidden or self._shows_more(question, answer, division, parts)
            self._judge(answer, division, gaps, lost=len(lost), more=not parts.came <= came)
            came |= parts.came
            if gaps and division.dimension is Dimension.ACCESSION:
                came |= self._enrich(question)
            return came

    def _uids(self, rows: list[Identifier]) -> set[str]:
        return {_text(row, self._unique) for row in rows}

    def _judge(self, answer: _Answer, division: Split, gaps: bool, *, lost: int, more: bool) -> None:
        """What the parts say of the whole.

        `gaps`: some may be in no part; `lost`: so many came before and did not come again; `more`: the parts hold what
        the whole did not.
        """
        name, dimension = self._node.name, division.dimension
        if lost:
            self._doubt(f"{name} did not return {lost} matches again when it was asked in parts by {dimension}.")
        if answer.cut is Cut.MAYBE and not more:
            if gaps:
                self._doubt(self._cannot(answer))
            elif not self._stopped:
                self._experience.settle(self._node, answer.matches)
            return
        if answer.cut is Cut.MAYBE:
            self._caps.learn(self._node, answer.matches)
            self._cut_at = answer.matches
        self._splits[dimension] += 1
        if gaps:
            self._doubt(
                f"{name} cuts its answers short, and studies without a {dimension} cannot be asked for by themselves."
            )

    def _matches_by(self, dimension: Dimension, question: Identifier, answer: _Answer) -> bool:
        """Whether a source that refused without a match does not refuse everything, whatever the part."""
        asked = control(question, dimension)
        if answer.error is None or asked is None or dimension in self._controlled or self._spent():
            return True
        self._controlled.add(dimension)
        try:
            return self._ask(asked).error is None
        except QueryFailed as error:
            if error.status in _MISMATCHES:
                return False
            raise

    def _parts(self, division: Split, answer: _Answer) -> _Parts | None:
        """Ask the parts, each in parts again where it must be; None where the source does not match by them."""
        dimension = division.dimension
        before, came = self._uids(answer.rows), set[str]()
        answers: list[tuple[Identifier, _Answer, set[str]]] = []
        whole: list[set[str]] = []
        gaps = not division.whole and (dimension is Dimension.DATE or any(lacks(dimension, row) for row in answer.rows))
        for part in division.parts:
            if self._spent():
                break
            try:
                found = self._ask(part)
            except QueryFailed as error:
                if error.status in _MISMATCHES and dimension in (Dimension.TIME, Dimension.ACCESSION):
                    return None
                raise
            strays = [row for row in found.rows if outside(part, dimension, row)]
            uids = self._uids(found.rows)
            again = dimension is not Dimension.MODALITY and any(uids == one for one in whole)
            if found.cut is not Cut.NO and uids and (strays or again):
                return None  # nothing is in two parts, but where their attribute is passed over
            whole.append(uids)
            gaps = gaps or (not division.whole and any(lacks(dimension, row) for row in found.rows))
            answers.append((part, found, self._uids(strays)))
            came |= uids - self._uids(strays)
        if answer.cut is Cut.MAYBE and not came <= before:
            self._caps.learn(self._node, answer.matches)
        for part, found, outsiders in answers:
            if self._node.find.max_results is None and found.matches == self._caps.learned(self._node):
                found = found._replace(cut=Cut.YES)
            came |= self._explore(part, found) - outsiders
        return _Parts(came, gaps)

    def _shows_more(self, question: Identifier, answer: _Answer, division: Split, parts: _Parts) -> bool:
        """Whether asking by modality shows what the parts lack; of what was refused nothing else shows anything."""
        if answer.error is None or parts.gaps or division.whole or STUDY_TIME in keys_of(question):
            return False
        return not self._by_modality(question) <= parts.came

    def _enrich(self, question: Identifier) -> set[str]:
        """Some more of what cannot be divided: the answer is incomplete all the same."""
        self._enriched += 1
        return self._by_modality(question) if self._enriched <= _ENRICHED else set()

    def _by_modality(self, question: Identifier) -> set[str]:
        came: set[str] = set()
        for part in by_common_modality(question):
            if Dimension.MODALITY in self._unusable or self._spent():
                break
            try:
                found = self._ask(part)
            except QueryFailed as error:
                if error.status in _MISMATCHES:
                    break
                raise
            if any(outside(part, Dimension.MODALITY, row) for row in found.rows):
                self._unusable |= {Dimension.MODALITY}
                return set()
            came |= self._uids(found.rows)
        return came

    def _spent(self) -> bool:
        """Whether no more may be asked; then it says so."""
        name, most = self._node.name, self._node.find.max_queries
        if self._budget.left <= 0:
            self._stopped = True
            self._doubt(
                f"{name} cuts its answers short, and {most} queries were not enough to ask in parts (find.max_queries)."
            )
        elif len(self._rows) >= MAXIMUM_MATCHES:
            self._stopped = True
            self._doubt(f"{name} has more than {MAXIMUM_MATCHES} matches; ask for less by narrower keys.")
        return self._stopped

    # words ----------------------------------------------------------------------------------------------------------

    def _doubt(self, sentence: str) -> None:
        self._doubts.setdefault(sentence)

    def _cannot(self, answer: _Answer) -> str:
        return cannot_divide(self._node.name, answer.cut, answer.status, answer.matches)


def _text(row: Identifier, tag: int) -> str:
    values = row.elements.get(tag)
    first = values[0] if values else ""
    return first.strip() if isinstance(first, str) else ""
