"""Which of a patient's studies are relevant priors of the current one: filters, groups, quotas, scores. Pure.

Reasons hold no identifier and no value of a data set: they are stored and printed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from router.domain.anatomy import Anatomy
from router.domain.condition import Evaluation
from router.domain.examination import ANOTHER_PATIENT, IDENTITY_UNSURE, Examination, same_patient
from router.domain.levels import NOT_TO_BE_HAD
from router.domain.prior_condition import Study, View
from router.domain.priors import PriorCondition, PriorException, PriorGroup, Priors
from router.domain.score import Score, score


class Presence(StrEnum):
    """What is known of a candidate at a destination."""

    THERE = "there"
    """With at least as many instances: by the destination's answer, or believed where it cannot be asked."""
    ABSENT = "absent"
    """Asked, and it is not there, or holds fewer instances."""
    UNKNOWN = "unknown"
    """It cannot be asked, and nothing was sent there (lately)."""


class Prior(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one candidate at one destination."""

    study_instance_uid: str
    destination: str
    taken: bool
    code: str
    """A word of CODES."""
    reason: str
    group: str = ""
    """The group it was taken for, or (of one that was not) the first that it fits."""
    score: int | None = None
    """0 to 100; None where it was left out before."""
    breakdown: str = ""
    """What the score is made of, such as `anatomy same 50 + modality same 25 + recency 18`."""
    age_days: int | None = None
    """Days before the current study; None without dates."""
    instance_count: int | None = None


CODES = {
    "taken": "It was taken for a group.",
    "oldest": "It was taken as the oldest relevant (`keep_oldest_relevant`).",
    "present": "It is at the destination already; it uses up no quota.",
    "current": "It is the current study itself, or of the same order.",
    "later": "It is later than the current study.",
    "another-patient": "It is of another patient.",
    "identity-unsure": "Whether it is of the same patient cannot be said.",
    "excluded": "The rule excludes it (`exclude`).",
    "exception": "An exception of the rule leaves it out (`exceptions`).",
    "unavailable": "The source has it off line.",
    "undated": "It has no date, and the rule takes none without (`undated: never`).",
    "too-old": "It fits a group but for its age (`within`).",
    "full": "The groups that it fits have their number (`max`).",
    "no-group": "It fits no group.",
}
"""Why a candidate is taken or not."""


OLDEST = "oldest"
"""Stands for a group where a candidate is taken by `keep_oldest_relevant`."""


def choose(
    current: Examination,
    candidates: Sequence[Examination],
    priors: Priors,
    anatomy: Anatomy,
    evaluation: Evaluation,
    *,
    destination: str,
    presence: Mapping[str, Presence],
    brought: Mapping[str, str],
    asked: Collection[tuple[str, str]] = (),
) -> list[Prior]:
    """A decision for each candidate, those that are taken first, in the order in which they are to be moved.

    Each study is among the candidates once. `presence` by Study Instance UID (absent: UNKNOWN). `brought`: Study
    Instance UID -> group of what this rule has taken before for the same visit: it is taken again and fills its group,
    so that asking twice brings no more; where its group is gone it fills none. `asked`: the patient IDs with their
    issuers that were asked for, see `router.domain.examination.same_patient`.
    """
    return _Choice(current, priors, anatomy, evaluation, destination, presence, brought, asked).of(candidates)


def wants_anatomy(priors: Priors) -> bool:
    """Whether a group or exception looks at the anatomy: then Body Part Examined is worth a query."""
    return any(condition.anatomy for condition in (*_of_candidates(priors), *_of_current(priors)))


def attributes_of(priors: Priors) -> frozenset[int]:
    """Tags that the source is asked back for the rule's own conditions on candidates."""
    return frozenset(
        tag for condition in _of_candidates(priors) for tag in (*condition.same, *condition.condition.attributes)
    )


def _of_candidates(priors: Priors) -> list[PriorCondition]:
    groups = [group.where for group in priors.groups]
    left_out = [exception.leave_out for exception in priors.exceptions]
    return [*groups, *left_out, *([priors.exclude] if priors.exclude is not None else [])]


def _of_current(priors: Priors) -> list[PriorCondition]:
    asked = (condition for exception in priors.exceptions for condition in (exception.unless, exception.when))
    return [condition for condition in asked if condition is not None]


# --- One decision -----------------------------------------------------------------------------------------------------


class _Scored(NamedTuple):
    """A candidate that passed the filters."""

    study: Study
    score: Score
    fits: tuple[PriorGroup, ...]
    """Groups whose `where` and `within` hold."""
    aged: tuple[PriorGroup, ...]
    """Groups whose `where` holds."""

    @property
    def uid(self) -> str:
        return self.study.examination.study_instance_uid

    @property
    def rank(self) -> tuple[bool, int, int, int, str]:
        """The best first: by score, then the newest; those without a date after all others."""
        one = self.study.examination
        day = one.date.toordinal() if one.date is not None else 0
        return one.date is None, -self.score.points, -day, -(one.time.low if one.time is not None else 0), self.uid


class _Choice:
    """Decides about the candidates of one current study for one destination."""

    def __init__(
        self,
        current: Examination,
        priors: Priors,
        anatomy: Anatomy,
        evaluation: Evaluation,
        destination: str,
        presence: Mapping[str, Presence],
        brought: Mapping[str, str],
        asked: Collection[tuple[str, str]],
    ) -> None:
        self._current = current
        self._priors = priors
        self._anatomy = anatomy
        self._view = View.of(current, anatomy, evaluation)
        self._destination = destination
        self._presence = presence
        self._brought = brought
        self._asked = asked
        self._numbers = dict.fromkeys((group.name for group in priors.groups), 0)
        """Group -> how many were taken for it."""
        self._taken: list[tuple[int, Prior]] = []
        """With the place of the group."""

    def of(self, candidates: Sequence[Examination]) -> list[Prior]:
        """A decision for each; once only."""
        scored: list[_Scored] = []
        out: list[Prior] = []
        for candidate in candidates:
            study = Study.of(candidate, self._anatomy)
            code, reason = self._filtered(study)
            if code:
                out.append(self._prior(study, code, reason))
            else:
                aged = tuple(group for group in self._priors.groups if self._view.holds(group.where, study))
                fits = tuple(group for group in aged if self._view.recent(group.within, study))
                scored.append(_Scored(study, score(self._view, study), fits, aged))
        scored.sort(key=lambda one: one.rank)
        rest = [one for one in scored if not self._bring_again(one)]
        rest = [one for one in rest if self._is_there(one.uid) or not self._take(one)]
        oldest = self._oldest(scored)
        present: list[_Scored] = []
        left: list[_Scored] = []
        for one in rest:
            if self._is_there(one.uid) and (one.fits or one is oldest):
                present.append(one)
            elif one is oldest:
                self._note_taken(one, OLDEST, "oldest", "taken as the oldest relevant")
            else:
                left.append(one)
        self._taken.sort(key=lambda item: item[0])  # stable: by rank within a group
        out.sort(key=lambda prior: (list(CODES).index(prior.code), prior.study_instance_uid))
        return [prior for _, prior in self._taken] + [*map(self._present, present), *map(self._left, left), *out]

    # --- filters ------------------------------------------------------------------------------------------------------

    def _filtered(self, study: Study) -> tuple[str, str]:
        """Code and reason where a candidate is left out whatever groups there are."""
        current, candidate = self._current, study.examination
        uid = candidate.study_instance_uid
        if uid == current.study_instance_uid:
            return "current", "it is the current study itself"
        if candidate.accession_number and candidate.accession_number == current.accession_number:
            return "current", "it is of the same order as the current study"
        identity = same_patient(current.patient, candidate.patient, self._priors.identity, self._asked)
        if identity:
            return identity, _IDENTITY_REASONS[identity]
        if self._is_later(candidate):
            return "later", "it is later than the current study"
        if self._priors.exclude is not None and self._view.holds(self._priors.exclude, study):
            return "excluded", "the rule excludes it"
        for number, exception in enumerate(self._priors.exceptions, 1):
            if self._leaves_out(exception, study):
                return "exception", f"exception {number} of the rule leaves it out"
        if candidate.availability in NOT_TO_BE_HAD and not (uid in self._brought or self._is_there(uid)):
            return "unavailable", "the source has it off line"
        if candidate.date is None and self._priors.undated == "never":
            return "undated", "it has no date, and the rule takes none without"
        return "", ""

    def _is_later(self, candidate: Examination) -> bool:
        if candidate.date is None or candidate.date != self._view.day:
            return candidate.date is not None and candidate.date > self._view.day
        ours, theirs = self._current.time, candidate.time
        return self._current.date is not None and ours is not None and theirs is not None and theirs.low > ours.high

    def _leaves_out(self, exception: PriorException, study: Study) -> bool:
        view = self._view
        if exception.unless is not None and view.holds(exception.unless, view.current):
            return False
        if exception.when is not None and not view.holds(exception.when, view.current):
            return False
        return view.holds(exception.leave_out, study)

    # --- groups -------------------------------------------------------------------------------------------------------

    def _is_there(self, uid: str) -> bool:
        return self._presence.get(uid, Presence.UNKNOWN) is Presence.THERE

    def _bring_again(self, one: _Scored) -> bool:
        """Take what was brought before and still fits, and fill its group with it.

        It may have been for another examination of the day, or the examination is another now.
        """
        group = self._brought.get(one.uid)
        oldest = group == OLDEST and group not in self._numbers and self._priors.keep_oldest_relevant
        if group is None or not (group in {fit.name for fit in one.fits} or (oldest and one.aged)):
            return False
        if group in self._numbers:
            self._numbers[group] += 1
        reason = "taken as the oldest relevant before" if oldest else f"taken for {group} before"
        self._note_taken(one, group, "oldest" if oldest else "taken", f"{reason}, for the same appointment")
        return True

    def _take(self, one: _Scored) -> bool:
        """Put it into the first group that it fits and that has room."""
        for group in one.fits:
            number = self._numbers[group.name] + 1
            if group.max is None or number <= group.max:
                self._numbers[group.name] = number
                bound = f" ({number} of {group.max})" if group.max is not None else ""
                self._note_taken(one, group.name, "taken", f"taken for {group.name}{bound}")
                return True
        return False

    def _oldest(self, scored: list[_Scored]) -> _Scored | None:
        """The oldest relevant that is neither taken yet nor of the same day as one that is, or is there."""
        # A group that takes whatever there is says nothing of what is relevant, if others do.
        telling = {group.name for group in self._priors.groups if group.where != PriorCondition()}
        dated = [
            (one.study.examination.date, one)
            for one in scored
            if (telling.intersection(group.name for group in one.aged) if telling else one.aged)
        ]
        days = [day for day, _ in dated if day is not None]
        if not self._priors.keep_oldest_relevant or not days:
            return None
        first = [one for day, one in dated if day == min(days)]
        if not {prior.study_instance_uid for _, prior in self._taken}.isdisjoint(one.uid for one in first):
            return None
        return min(first, key=lambda one: (not self._is_there(one.uid), one.rank))

    # --- what is said -------------------------------------------------------------------------------------------------

    def _note_taken(self, one: _Scored, group: str, code: str, reason: str) -> None:
        place = list(self._numbers).index(group) if group in self._numbers else len(self._numbers)
        self._taken.append((place, self._prior(one.study, code, reason, group, one.score)))

    def _present(self, one: _Scored) -> Prior:
        group = one.fits[0].name if one.fits else OLDEST
        return self._prior(one.study, "present", "it is at the destination already", group, one.score)

    def _left(self, one: _Scored) -> Prior:
        if one.fits:
            full = ", ".join(f"{group.name}: {group.max}" for group in one.fits)
            return self._prior(
                one.study, "full", f"the groups that it fits are full ({full})", one.fits[0].name, one.score
            )
        if one.aged:
            group = one.aged[0]
            within = group.within.text if group.within is not None else ""
            reason = f"fits {group.name} but for its age (within {within})"
            return self._prior(one.study, "too-old", reason, group.name, one.score)
        lacking = dict.fromkeys(self._view.lacks(group.where, one.study) for group in self._priors.groups)
        return self._prior(one.study, "no-group", f"fits no group ({'; '.join(lacking)})", "", one.score)

    def _prior(self, study: Study, code: str, reason: str, group: str = "", score: Score | None = None) -> Prior:
        one = study.examination
        return Prior(
            study_instance_uid=one.study_instance_uid,
            destination=self._destination,
            taken=code in ("taken", "oldest"),
            code=code,
            reason=reason,
            group=group,
            score=score.points if score is not None else None,
            breakdown=score.breakdown if score is not None else "",
            age_days=(self._view.day - one.date).days if one.date is not None else None,
            instance_count=one.instance_count,
        )


_IDENTITY_REASONS = {
    ANOTHER_PATIENT: "it is of another patient",
    IDENTITY_UNSURE: "without an issuer of the patient ID both birth date and sex must be known on both sides",
}
