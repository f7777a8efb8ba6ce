"""A sweep decided from rows at hand, as the service decides it from a source's answers and its ledger. Pure.

What a source would be asked for beyond the rows (computed attributes, the series of a study) is taken from the series
given; what they do not say is not known, and counts as the service counts what it cannot find out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from router.domain.candidates import candidates, divides
from router.domain.computed import COMPUTED, INSTANCES, missing, of_series
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, name_of
from router.domain.key import KeyMatch
from router.domain.levels import asked_at
from router.domain.lookback import sweep_keys
from router.domain.restraint import Held, Recount, Restraint, Unit, restrain, to_ask_again
from router.domain.rule import Rule, Sweep
from router.domain.selection import LIMITED, SETTLES, Decision, decide, left_out
from router.domain.transfer import LIMIT_HOLDS, Intent, TransferFact
from router.domain.truth import UNKNOWN, LocalTruth, of_study

_STUDY, _SERIES = QueryRetrieveLevel.STUDY, QueryRetrieveLevel.SERIES
NO_SERIES = "its series are not known here, and the rule looks at them"


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """What a source answers, and what the ledger says."""

    studies: Sequence[Identifier]
    """In the order of the answer, each with its UID."""
    series: Mapping[str, Sequence[Identifier]] = {}
    """Study Instance UID -> its series; of a study that is not in it they are not known."""
    whole: bool = True
    """These are all series of their studies, so that computed attributes follow from them."""
    facts: Mapping[Intent, TransferFact] = {}
    held: Sequence[Held] = ()
    """Of these facts what rules hold back."""
    queued_today: int = 0
    """Instances that the rule has queued since midnight."""


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep would do."""

    decisions: list[Decision]
    currents: list[Identifier] = []
    """The current studies it finds, where the rule moves their priors."""


def rehearse(
    rule: Rule, sweep: Sweep, material: Material, evaluation: Evaluation, *, tier: int, manual: bool
) -> Rehearsed:
    """Decide as a sweep of this tier would. `manual`: as `apply` asks, which tries again what failed."""
    skipped: list[Decision] = []

    def skip(row: Identifier, code: str, reason: str) -> None:
        skipped.append(left_out(row, code, reason))

    def series_of(studies: Sequence[Identifier]) -> list[Identifier]:
        found: list[Identifier] = []
        for study in studies:
            rows = material.series.get(study.text("StudyInstanceUID"))
            if rows is None:
                skip(study, UNKNOWN, NO_SERIES)
            else:
                found += of_study(study, list(rows))
        return found

    keys = _keys(sweep, tier, evaluation)
    computing = FromSeries(material.series if material.whole else {})
    truth = LocalTruth(keys, rule.where, evaluation, computing, skip)
    rows = truth.by_keys(list(material.studies), _STUDY)
    if sweep.level is _SERIES:
        rows = truth.by_keys(series_of(rows), _SERIES)
    rows = truth.by_condition(rows)
    if rule.priors is not None:
        return Rehearsed(decisions=skipped, currents=rows)
    if divides(sweep, rule.move):
        rows = series_of(rows)
    decisions = decide(
        rule=rule.name,
        source=sweep.source,
        destinations=rule.move.to,
        priority=rule.priority,
        candidates=candidates(rows, sweep, rule.move, computing.counted),
        facts=material.facts,
        manual=manual,
    )
    return Rehearsed(decisions=_restrained(rule, decisions, material, evaluation, computing) + skipped)


def without_keys(sweep: Sweep, tags: frozenset[int]) -> Sweep:
    """The sweep without some of its keys: of what is replaced in the rows at hand they cannot be judged."""
    return msgspec.structs.replace(sweep, keys=tuple(key for key in sweep.keys if key.tag not in tags))


def _keys(sweep: Sweep, tier: int, evaluation: Evaluation) -> tuple[KeyMatch, ...]:
    return sweep_keys(sweep, tier, now=evaluation.now, zone=evaluation.zone, watermark=None).keys


def _restrained(
    rule: Rule,
    decisions: list[Decision],
    material: Material,
    evaluation: Evaluation,
    computing: FromSeries,
) -> list[Decision]:
    restraint = Restraint.of(rule, now=evaluation.now, seen_at=evaluation.now, zone=evaluation.zone)
    restraint = restraint.having_queued(material.queued_today)
    waiting = {one.transfer for one in decisions if one.code in (SETTLES, LIMITED)}
    held = [one for one in material.held if one.id in waiting and one.rule != rule.name]
    held += [
        one
        for one in material.held
        if one.rule == rule.name and (one.cause in LIMIT_HOLDS or one.since <= restraint.settled_before)
    ]
    held = [one for one in held if one.intent.destination in rule.move.to]
    recounts = _recounts(to_ask_again(held, decisions, restraint), material, computing)
    return restrain(decisions, restraint, material.facts, held, recounts)


def _recounts(again: Sequence[Held], material: Material, computing: FromSeries) -> dict[Unit, Recount]:
    """What the source answers when it is asked by UID for what its answer to the sweep does not have."""
    studies = {row.text("StudyInstanceUID"): row for row in material.studies}
    recounts: dict[Unit, Recount] = {}
    for study, series in (one.unit for one in again):
        if not series and (row := studies.get(study)) is not None:
            count = row.number("NumberOfStudyRelatedInstances")
            recounts[study, ""] = Recount(True, computing.counted(row, study, "") if count is None else count)
        for row in material.series.get(study, ()) if series else ():
            if row.text("SeriesInstanceUID") == series:
                recounts[study, series] = Recount(True, row.number("NumberOfSeriesRelatedInstances"))
    return recounts


class FromSeries:
    """Finds out computed attributes from the series at hand."""

    def __init__(self, series: Mapping[str, Sequence[Identifier]]) -> None:
        self._series = series

    def filled(self, row: Identifier, wanted: frozenset[int]) -> Identifier | None:
        """The row with these attributes as well; None where the series do not say one of them."""
        rows = self._series.get(row.text("StudyInstanceUID"))
        values = of_series({one.text("SeriesInstanceUID"): one for one in rows}) if rows else {}
        said = {tag: value for tag in wanted if (value := values.get(tag)) is not None}
        return Identifier({**row.elements, **said}) if len(said) == len(wanted) else None

    def why(self, wanted: frozenset[int]) -> str:
        """The words for a study that is left out."""
        return f"{', '.join(sorted(map(name_of, wanted)))} cannot be said: neither its row nor its series say it"

    def counted(self, row: Identifier, study: str, series: str) -> int | None:
        """How many instances a study has by its series; of a series only its row says it."""
        filled = None if series else self.filled(row, frozenset({INSTANCES}))
        return filled.number("NumberOfStudyRelatedInstances") if filled is not None else None


def clauses(
    rule: Rule,
    sweep: Sweep,
    row: Identifier,
    series: Mapping[str, Sequence[Identifier]],
    evaluation: Evaluation,
    tier: int,
) -> list[tuple[bool, list[str]]]:
    """What each key and clause says of a row (a series has its study's attributes too), with the values seen.

    Whether it holds, and its lines for a terminal.
    """
    if absent := missing(row, COMPUTED):
        # One by one: what follows from the series is seen even where something else does not.
        for tag in absent:
            row = FromSeries(series).filled(row, frozenset({tag})) or row
    level = _SERIES if row.text("SeriesInstanceUID") else _STUDY
    found: list[tuple[bool, list[str]]] = []
    for key in _keys(sweep, tier, evaluation):
        if key.values and (asked_at(key.tag) is _STUDY or level is _SERIES):
            seen = [value for value in row.values(key.name) if isinstance(value, str)]
            passed = key.matches(row, evaluation) is not False
            wanted = ", ".join(value.text for value in key.values)
            shown = ", ".join(seen) if seen else "no value"
            found.append((passed, [f"{'pass' if passed else 'FAIL'}  key {key.name}: {wanted} (seen: {shown})"]))
    found += [(part.passed, part.render()) for part in rule.where.explain(row, evaluation).parts]
    return found
