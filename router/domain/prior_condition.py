"""Whether a PriorCondition holds of a study, seen from the current one, and what to say where it does not. Pure.

What is said are names of regions, defined terms of modalities and keywords, never a value of a data set.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import msgspec

from router.domain.anatomy import Anatomy
from router.domain.condition import Evaluation, Explanation
from router.domain.dicom import Identifier, known_tag, name_of, vr_of
from router.domain.examination import MODALITIES, Examination, families, family
from router.domain.matcher import normalize_name
from router.domain.priors import NEAR, SAME, PriorCondition, Within
from router.domain.timing import shift


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """An examination with what conditions look at worked out."""

    examination: Examination
    regions: frozenset[str]
    located_by: str = ""
    """What said where it was, a word of `router.domain.anatomy.KINDS`; empty where nothing did."""
    images: frozenset[str]
    """Families of its modalities without companions."""

    @classmethod
    def of(cls, examination: Examination, anatomy: Anatomy) -> Study:
        """Locate it."""
        located = anatomy.regions_of(examination)
        return cls(
            examination=examination,
            regions=located.regions,
            located_by=located.by,
            images=families(examination.modalities),
        )


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The current study, from which all others are looked at."""

    current: Study
    neighbours: frozenset[str]
    day: date
    """Its day: that of the present where it has none."""
    evaluation: Evaluation

    @classmethod
    def of(cls, current: Examination, anatomy: Anatomy, evaluation: Evaluation) -> View:
        """From this examination."""
        study = Study.of(current, anatomy)
        day = current.date or evaluation.now.astimezone(evaluation.zone).date()
        return cls(current=study, neighbours=anatomy.near(study.regions), day=day, evaluation=evaluation)

    def lacks(self, condition: PriorCondition, study: Study) -> str:
        """The first part of the condition that does not hold of the study, for people; empty where all of it does."""
        if condition.anatomy and not self._located(condition.anatomy, study.regions):
            return self._beside("anatomy", condition.anatomy, study.regions, self.current.regions)
        if condition.modality and not self._made(condition, study):
            return self._beside("modality", condition.modality, _printable(study), _printable(self.current))
        ours, theirs = self.current.examination.attributes, study.examination.attributes
        for tag in condition.same:
            if _of_all(ours, tag).isdisjoint(_of_all(theirs, tag)):
                return f"no {name_of(tag)} in common"
        if not condition.condition.holds(theirs, self.evaluation):
            return "its conditions do not hold"
        return ""

    def holds(self, condition: PriorCondition, study: Study) -> bool:
        """Whether all of the condition holds of the study; it may be the current one itself."""
        return not self.lacks(condition, study)

    def explain(self, condition: PriorCondition, study: Study) -> tuple[Explanation, ...]:
        """Each part of the condition with what it saw of the study; all pass where it holds. For a terminal only."""
        parts: list[Explanation] = []
        if condition.anatomy:
            by = f"by {_LOCATED_BY[study.located_by]}" if study.located_by else "nothing says where"
            names = ", ".join(sorted(study.regions)) or "no region"
            text = f"anatomy is {self._wanted(condition.anatomy, self.current.regions)}"
            parts.append(Explanation(text, self._located(condition.anatomy, study.regions), (f"{names}, {by}",)))
        if condition.modality:
            text = f"modality is {self._wanted(condition.modality, _printable(self.current))}"
            text += " and nothing else" if condition.entirely else ""
            parts.append(Explanation(text, self._made(condition, study), study.examination.modalities))
        ours, theirs = self.current.examination.attributes, study.examination.attributes
        for tag in condition.same:
            common = not _of_all(ours, tag).isdisjoint(_of_all(theirs, tag))
            seen = tuple(sorted(str(value) for value in _of_all(theirs, tag)))
            parts.append(Explanation(f"{name_of(tag)} is one of the current study's", common, seen))
        return (*parts, *condition.condition.explain(theirs, self.evaluation).parts)

    def _wanted(self, wanted: tuple[str, ...], ours: Iterable[str]) -> str:
        """Words of a condition, with what those stand for that speak of the current study."""
        same = " ".join(sorted(ours)) or "not known"
        near = " ".join(sorted(self.neighbours)) or "none"
        meant = {SAME: f"same ({same})", NEAR: f"same ({same}) or near ({near})"}
        return " or ".join(meant.get(word, word) for word in wanted)

    def recent(self, within: Within | None, study: Study) -> bool:
        """Whether a study is not older, by the calendar, than that before the current one; undated it is not."""
        day = study.examination.date
        if within is None or day is None:
            return True
        try:
            return day >= shift(self.day, -within.months, -within.days)
        except (ValueError, OverflowError):  # further back than there are dates
            return True

    def _located(self, wanted: tuple[str, ...], regions: frozenset[str]) -> bool:
        names = set(wanted)
        if not names.isdisjoint((SAME, NEAR)):
            names |= self.current.regions
        if NEAR in wanted:
            names |= self.neighbours
        return not regions.isdisjoint(names)

    def _made(self, condition: PriorCondition, study: Study) -> bool:
        wanted = {family(name) for name in condition.modality if name != SAME}
        own = self.current.images if SAME in condition.modality else frozenset()
        everything = families(study.examination.modalities, companions=True)
        if condition.entirely:
            if not study.images:  # reports, key objects and the like: one of those that are named is enough
                return not everything.isdisjoint(wanted)
            return study.images <= wanted | own
        return not (everything.isdisjoint(wanted) and study.images.isdisjoint(own))

    def _beside(self, what: str, wanted: tuple[str, ...], theirs: Iterable[str], ours: Iterable[str]) -> str:
        text = f"{what} {' '.join(sorted(theirs)) or 'not known'}"
        if {SAME, NEAR}.isdisjoint(wanted):
            return f"{text}, not {' or '.join(wanted)}"
        return f"{text}, the current study has {' '.join(sorted(ours)) or 'none that is known'}"


def _printable(study: Study) -> frozenset[str]:
    made = study.images or families(study.examination.modalities, companions=True)
    return frozenset(one if one in MODALITIES else "another" for one in made)


_LOCATED_BY = {
    "code": "its procedure code",
    "description": "its description",
    "region": "its anatomic region code",
    "body-part": "Body Part Examined",
}

_ALIKE = (
    ("ProcedureCodeSequence", "RequestedProcedureCodeSequence", "ScheduledProtocolCodeSequence"),
    ("ModalitiesInStudy", "Modality"),
    ("StudyDescription", "RequestedProcedureDescription", "ScheduledProcedureStepDescription"),
    ("StudyDate", "ScheduledProcedureStepStartDate"),
)
"""What a study done has under one name, an examination to come has under another."""
_TWINS = {tag: tags for names in _ALIKE for tags in [tuple(map(known_tag, names))] for tag in tags}


def _of_all(identifier: Identifier, tag: int) -> set[object]:
    """The values of an attribute, under whichever name an examination has it."""
    return {value for twin in _TWINS.get(tag, (tag,)) for value in _values(identifier, twin)}


def _values(identifier: Identifier, tag: int) -> set[object]:
    """What can be in common: texts that are not blank, names by their parts, items of code sequences by their code."""
    values: set[object] = set()
    for value in identifier.elements.get(tag, ()):
        if isinstance(value, Identifier):
            code = value.text("CodeValue")
            values |= {(code, value.text("CodingSchemeDesignator").upper())} if code else set()
        elif value.strip(" \0"):
            values.add(normalize_name(value) if vr_of(tag) == "PN" else value.strip(" \0"))
    return values
