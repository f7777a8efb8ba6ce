"""A case about priors: a current study, what the source has, which priors are wanted. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import tzinfo

from router.domain.anatomy import Anatomy
from router.domain.case import MOVE, NOT_ASKED, SKIP, Case, Failure, Got, uid_of
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, known_tag
from router.domain.examination import Examination, examination
from router.domain.relevance import Presence, Prior, choose
from router.domain.rule import Rule
from router.domain.safety import refusal

_PATIENT = tuple(
    known_tag(name) for name in ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientName")
)
_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")


class PriorCase(Case, frozen=True, kw_only=True):
    """A case of a rule that moves priors."""

    current: Identifier
    brought: Mapping[str, str] = {}
    """Study -> group that it was taken for before, for the same visit."""

    def run(self, rule: Rule, anatomy: Anatomy, zone: tzinfo) -> list[Failure]:
        """Decide as a look for priors would, and compare."""
        studies = {name: examination(candidate(name, given, self.current)) for name, given in self.studies.items()}
        failures: list[Failure] = []
        decided: dict[str, list[str]] = {name: [] for name in studies}
        for destination in self.destinations:
            chosen = {one.study_instance_uid: one for one in self._decided(rule, anatomy, zone, studies, destination)}
            for name, study in studies.items():
                got = _got(chosen[study.study_instance_uid])
                decided[name].append(got.decision)
                failure = self.compared(name, self.expect.get(name), destination, got)
                failures += [failure] if failure is not None else []
        return failures + self.counted(list(decided.values()))

    def _decided(
        self, rule: Rule, anatomy: Anatomy, zone: tzinfo, studies: Mapping[str, Examination], destination: str
    ) -> Sequence[Prior]:
        evaluation = Evaluation(self.now, zone)
        current = examination(self.current)
        why = ""
        if refusal(current.patient.patient_id):
            why = "patient-id"
        elif not rule.where.holds(self.current, evaluation):
            why = "where"
        if why or rule.priors is None:
            return [
                Prior(
                    study_instance_uid=study.study_instance_uid,
                    destination=destination,
                    taken=False,
                    code=why,
                    reason=NOT_ASKED.get(why, ""),
                )
                for study in studies.values()
            ]
        there = self.at.get(destination, ())
        return choose(
            current,
            list(studies.values()),
            rule.priors,
            anatomy,
            evaluation,
            asked=[(current.patient.patient_id, current.patient.issuer)],
            destination=destination,
            presence={
                study.study_instance_uid: Presence.THERE if name in there else Presence.ABSENT
                for name, study in studies.items()
            },
            brought={studies[name].study_instance_uid: group for name, group in self.brought.items()},
        )


def candidate(name: str, given: Identifier, current: Identifier) -> Identifier:
    """What the source answers for a study: of the current one's patient, and with a UID, unless it says otherwise."""
    patient = {tag: current.elements[tag] for tag in _PATIENT if tag in current.elements}
    elements = patient | given.elements
    if not given.text("StudyInstanceUID"):
        elements[_STUDY_INSTANCE_UID] = (uid_of(name),)
    return Identifier(elements)


def _got(prior: Prior) -> Got:
    return Got(
        decision=MOVE if prior.taken else SKIP,
        code=prior.code,
        reason=prior.reason,
        group=prior.group,
        score=prior.score,
        breakdown=str(prior.breakdown) if prior.breakdown else "",
    )
