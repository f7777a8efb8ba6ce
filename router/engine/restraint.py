"""What a rule holds back at a sweep: fetches what `router.domain.restraint` decides from, and asks again by UID."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel, known_tag
from router.domain.restraint import Held, Recount, Restraint, Unit, restrain, said_of_held, to_ask_again
from router.domain.rule import Node, Rule
from router.domain.selection import LIMITED, SETTLES, Decision
from router.domain.transfer import LIMIT_HOLDS, Intent, TransferFact
from router.engine.ports import Clock, Ledger
from router.engine.query import Inquiry, QueryFailed, unique_keys
from router.engine.slots import Urgency

MOST_HELD = 10_000
"""Held transfers of each cause, the oldest, that one sweep looks at; the rest has its turn when these have gone."""

MOST_ASKED_AGAIN = 500
"""Studies (or series) that one sweep asks for again by their UID; the rest is asked for by the next."""

UIDS_AT_ONCE = 50

_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")
_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")


class Restrained(NamedTuple):
    """What the restraint of a rule made of a sweep's decisions."""

    decisions: list[Decision]
    day: date | None
    """See `Selection.day`."""
    queries: int
    account: str
    """What is held back, as a sentence; empty where nothing is."""


class Restrainer:
    """Applies `settle` and `limits` of rules. Thread-safe."""

    def __init__(self, ledger: Ledger, inquiry: Inquiry, clock: Clock, *, only: str = "") -> None:
        """`only`: a Study Instance UID; what settles of others is left alone, and not asked for again."""
        self._only = only
        self._ledger = ledger
        self._inquiry = inquiry
        self._clock = clock

    def apply(
        self,
        rule: Rule,
        source: Node,
        evaluation: Evaluation,
        decisions: Sequence[Decision],
        facts: Mapping[Intent, TransferFact],
        cancelled: threading.Event,
    ) -> Restrained:
        """The decisions with what the rule holds back, and what it took.

        `evaluation` is of when the sweep began. Raises WireError where the source cannot be asked any more.
        """
        limits = rule.limits
        restraint = Restraint.of(rule, now=evaluation.now, seen_at=self._clock.now(), zone=evaluation.zone)
        if limits.instances_per_day is not None:
            queued = self._ledger.queued_on(rule.name, restraint.day)
            restraint = restraint.having_queued(queued)
        held = self._ledger.held(rule.name, source.name, restraint.settled_before, MOST_HELD)
        known = {one.id for one in held}
        others = [
            one.transfer
            for one in decisions
            if one.code in (SETTLES, LIMITED) and one.transfer is not None and one.transfer not in known
        ]
        if others:
            held += self._ledger.held_by_others(rule.name, others)
        if self._only:
            held = [one for one in held if one.cause in LIMIT_HOLDS or one.intent.study_instance_uid == self._only]
        # What is held for where the rule does not lead any more is let go by `router.engine.orphans`.
        held = [one for one in held if one.intent.destination in rule.move.to]
        if restraint.is_none and not held:
            return Restrained(list(decisions), None, 0, said_of_held(decisions, restraint) if others else "")
        again = to_ask_again(held, decisions, restraint)[:MOST_ASKED_AGAIN]
        recounts: dict[Unit, Recount] = {}
        queries = sum(self._recount(source, group, recounts, cancelled) for group in _groups(source, again))
        restrained = restrain(decisions, restraint, facts, held, recounts)
        return Restrained(
            decisions=restrained,
            day=restraint.day if limits.instances_per_day is not None else None,
            queries=queries,
            account=said_of_held(restrained, restraint),
        )

    def _recount(
        self, source: Node, group: Sequence[Held], recounts: dict[Unit, Recount], cancelled: threading.Event
    ) -> int:
        """Ask for these studies, or series of one study; those that the source fails to answer for stay out."""
        first = group[0]
        study, series = first.unit
        level = QueryRetrieveLevel.SERIES if series else QueryRetrieveLevel.STUDY
        patient_id = first.patient_id if source.root is InformationModel.PATIENT_ROOT else ""
        keys = unique_keys(patient_id, study, series)
        keys.elements[_SERIES_INSTANCE_UID if series else _STUDY_INSTANCE_UID] = tuple(
            one.unit[bool(series)] for one in group
        )
        counter = "NumberOfSeriesRelatedInstances" if series else "NumberOfStudyRelatedInstances"
        keys.elements.update(Identifier.of(**{counter: ""}).elements)
        if not patient_id and not series:
            # Archives exist that want these to be there (empty).
            keys.elements.update(Identifier.of(PatientID="", PatientName="").elements)
        queries = 1
        try:
            rows = self._inquiry.find(source, level, keys, Urgency.SWEEP, cancelled).identifiers
        except QueryFailed:
            rows = None
        unique = "SeriesInstanceUID" if series else "StudyInstanceUID"
        found = {row.text(unique): row for row in rows or ()}
        for one in group:
            row = found.get(one.unit[bool(series)])
            if row is not None:
                count = row.number(counter)
                if count is None:
                    queries += 1
                    count = self._listed(source, one, cancelled)
                recounts[one.unit] = Recount(True, count)
            elif len(group) > 1:
                # Not every source matches by lists of UIDs, and some cut their answers short: asked for by itself.
                queries += self._recount(source, [one], recounts, cancelled)
            elif rows is not None:
                recounts[one.unit] = Recount(False)
        return queries

    def _listed(self, source: Node, one: Held, cancelled: threading.Event) -> int | None:
        """As the sweep does it where the source does not give the number."""
        study, series = one.unit
        found = self._inquiry.expectation(source, study, series, one.patient_id, Urgency.SWEEP, cancelled)
        return found.size or None


def _groups(source: Node, wanted: Sequence[Held]) -> Iterator[list[Held]]:
    """What can be asked for in one query: studies (of one patient, by Patient Root), or the series of one study."""
    by_patient = source.root is InformationModel.PATIENT_ROOT
    groups: dict[tuple[str, str], list[Held]] = {}
    for one in wanted:
        study, series = one.unit
        groups.setdefault((one.patient_id if by_patient else "", study if series else ""), []).append(one)
    for group in groups.values():
        for start in range(0, len(group), UIDS_AT_ONCE):
            yield group[start : start + UIDS_AT_ONCE]
