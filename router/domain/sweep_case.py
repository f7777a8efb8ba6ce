"""A case about a sweep: what the source answers, what the ledger says, which studies are moved. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, tzinfo
from typing import NamedTuple

import msgspec

from router.domain.anatomy import Anatomy
from router.domain.case import MOVE, SKIP, Case, Failure, Got, uid_of
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.rehearsal import Material, clauses, rehearse, without_keys
from router.domain.restraint import Held
from router.domain.rule import Rule, Sweep
from router.domain.selection import Action, Decision
from router.domain.transfer import RULE_HOLDS, Intent, State, TransferFact
from router.domain.truth import CONDITION, KEY, of_study

_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")
_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")

PRESENT, SERIESLESS = "present", "no-series"
CODES = (
    *("new", "grew", "again", "released", "settling", "limit", "held", "under-way", "done", "failed-before"),
    *("unavailable", KEY, CONDITION, "unknown", PRESENT, SERIESLESS),
)
"""Why something is decided about a study, in one word."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says of a study (or series) at a destination."""

    state: State
    instances: int | None = None
    """As many as it had then; None: as many as it has now."""
    cause: str = ""
    since: datetime | None = None
    """Since when it has been held; None: since now."""
    rule: str = ""
    """Whose transfer it is; empty: the rule's that is tested."""


class Part(NamedTuple):
    """A study of the case, or one of its series (`series` is empty for the study as a whole)."""

    study: str
    series: str = ""

    def __str__(self) -> str:
        return f"{self.study}/{self.series}" if self.series else self.study


class SweepCase(Case, frozen=True, kw_only=True):
    """A case of a rule that moves what it sweeps."""

    series: Mapping[str, Mapping[str, Identifier]] = {}
    """Study -> its series by names; those of a study that is not in it are not known."""
    whole_series: bool = True
    """These are all series of their studies."""
    fulfilled: frozenset[int] = frozenset()
    """Keys that all that is recorded fulfils, though it does not show: it is replaced."""
    tier: int = 0
    manual: bool = True
    """As `apply` asks; else as the schedule does."""
    ledger: Mapping[Part, Mapping[str, Fact]] = {}
    """Study or series -> destination -> what the ledger says."""
    queued_today: int = 0

    def run(self, rule: Rule, anatomy: Anatomy, zone: tzinfo) -> list[Failure]:
        """Decide as a sweep would, and compare."""
        assert rule.sweep is not None
        work = _Work(self, rule, without_keys(rule.sweep, self.fulfilled), Evaluation(self.now, zone))
        failures: list[Failure] = []
        counted: list[list[str]] = []
        for part in work.parts():
            decisions = []
            for destination in self.destinations:
                got = work.decision(part, destination)
                decisions.append(got.decision)
                wanted = self.expect.get(str(part), self.expect.get(part.study))
                failure = self.compared(str(part), wanted, destination, got)
                if failure is not None:
                    failures.append(msgspec.structs.replace(failure, clauses=work.clauses(part, got)))
            if not part.series or work.by_series:
                counted.append(decisions)
        return failures + self.counted(counted)

    def material(self, rule: Rule, sweep: Sweep) -> Material:
        """The rows and facts of the case, by UIDs."""
        uids = self.uids
        facts: dict[Intent, TransferFact] = {}
        held: list[Held] = []
        for part, at in self.ledger.items():
            for destination, fact in at.items():
                intent = Intent(sweep.source, uids[Part(part.study)], uids[part] if part.series else "", destination)
                number = len(facts) + 1
                count = self._count(part) if fact.instances is None else fact.instances
                facts[intent] = TransferFact(number, fact.state, count, fact.cause)
                if fact.state is State.HELD and fact.cause in RULE_HOLDS:
                    held.append(
                        Held(
                            id=number,
                            intent=intent,
                            rule=fact.rule or rule.name,
                            cause=fact.cause,
                            instance_count=count,
                            completed=0,
                            since=fact.since or self.now,
                            patient_id="",
                            availability="",
                        )
                    )
        return Material(
            studies=[self.row(Part(name)) for name in self.studies],
            series={
                uids[Part(study)]: [self.row(Part(study, name)) for name in below]
                for study, below in self.series.items()
            },
            whole=self.whole_series,
            facts=facts,
            held=held,
            queued_today=self.queued_today,
        )

    @property
    def uids(self) -> dict[Part, str]:
        """The UID of each study and series: its own, or a made up one."""
        found = {Part(name): given.text("StudyInstanceUID") or uid_of(name) for name, given in self.studies.items()}
        for study, below in self.series.items():
            for name, given in below.items():
                part = Part(study, name)
                found[part] = given.text("SeriesInstanceUID") or uid_of(str(part))
        return found

    def row(self, part: Part) -> Identifier:
        """What the source answers for it, with its UID."""
        if part.series:
            given, tag = self.series[part.study][part.series], _SERIES_INSTANCE_UID
            uid = given.text("SeriesInstanceUID") or uid_of(str(part))
        else:
            given, tag = self.studies[part.study], _STUDY_INSTANCE_UID
            uid = given.text("StudyInstanceUID") or uid_of(part.study)
        return Identifier({**given.elements, tag: (uid,)})

    def _count(self, part: Part) -> int | None:
        row = self.row(part)
        return row.number("NumberOfSeriesRelatedInstances" if part.series else "NumberOfStudyRelatedInstances")


class _Work:
    """One case's decisions, by its names."""

    def __init__(self, case: SweepCase, rule: Rule, sweep: Sweep, evaluation: Evaluation) -> None:
        self._case = case
        self._rule = rule
        self._sweep = sweep
        self._evaluation = evaluation
        self._uids = case.uids
        self._material = case.material(rule, sweep)
        self.by_series = rule.move.level is QueryRetrieveLevel.SERIES
        made = rehearse(rule, sweep, self._material, evaluation, tier=case.tier, manual=case.manual).decisions
        self._decisions: dict[tuple[str, str, str], Decision] = {}
        for one in made:
            self._decisions.setdefault((one.study_instance_uid, one.series_instance_uid, one.destination), one)
        self._series_left: dict[str, Decision] = {}
        """Study -> why the first of its series was left out."""
        for one in made:
            if one.series_instance_uid and not one.destination:
                self._series_left.setdefault(one.study_instance_uid, one)

    def parts(self) -> Iterator[Part]:
        """What is decided about: studies, or series where the rule moves series; and what the case names beside."""
        for study in self._case.studies:
            below = self._case.series.get(study, {})
            if not self.by_series or not below:
                yield Part(study)
            for series in below:
                part = Part(study, series)
                if self.by_series or str(part) in self._case.expect:
                    yield part

    def decision(self, part: Part, destination: str) -> Got:
        """What was decided about it at a destination."""
        study, series = self._uids[Part(part.study)], self._uids[part] if part.series else ""
        found = self._decisions
        one = (
            found.get((study, series, destination))
            or found.get((study, series, ""))
            or found.get((study, "", destination))
            or found.get((study, "", ""))
            or self._series_left.get(study)
        )
        if one is None:
            return Got(decision=SKIP, code=SERIESLESS, reason="it has no series")
        if (
            one.action is Action.MOVE
            and self._rule.move.skip_present
            and part.study in self._case.at.get(destination, ())
        ):
            return Got(decision=SKIP, code=PRESENT, reason="the destination holds all of it already (skip_present)")
        return Got(decision=str(one.action), code=one.code, reason=one.reason)

    def clauses(self, part: Part, got: Got) -> tuple[str, ...]:
        """What decided it: the keys and clauses that do not hold; all where they let it through."""
        moved = got.decision == MOVE
        if not moved and got.code not in (KEY, CONDITION):
            return ()
        rows = [self._case.row(Part(part.study))]
        if part.series or self._sweep.level is QueryRetrieveLevel.SERIES:
            named = [part.series] if part.series else list(self._case.series.get(part.study, {}))
            rows = of_study(rows[0], [self._case.row(Part(part.study, one)) for one in named]) or rows
        lines: list[str] = []
        for row in rows:
            said = clauses(
                self._rule,
                self._sweep,
                row,
                self._material.series if self._case.whole_series else {},
                self._evaluation,
                self._case.tier,
            )
            lines += [line for passed, some in said if moved or not passed for line in some]
        return tuple(dict.fromkeys(lines))
