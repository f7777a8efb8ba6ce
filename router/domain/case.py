"""A case of the tests in a configuration: a current study, what the source has, which priors are wanted. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo

import msgspec

from router.domain.anatomy import Anatomy
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, known_tag
from router.domain.examination import Examination, examination
from router.domain.relevance import Presence, Prior, choose
from router.domain.rule import Rule
from router.domain.safety import refusal

MOVE, SKIP = "move", "skip"
"""What is decided about a study."""

_PATIENT = tuple(
    known_tag(name) for name in ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientName")
)
_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be decided about one study; what is empty or None may be anything."""

    decision: str
    """MOVE or SKIP."""
    group: str = ""
    code: str = ""
    """A word of `router.domain.relevance.CODES`, or of NOT_ASKED."""
    reason: str = ""
    """A part of the reason; capital letters do not matter."""
    score: int | None = None


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One case, by names of its own for the studies."""

    name: str
    place: str = ""
    """`file:line:column`."""
    rule: str
    now: datetime
    """Aware; in the configuration local to the priors' source."""
    destinations: tuple[str, ...]
    """Those of the rule that it is about; what is expected must hold at each."""
    current: Identifier
    studies: Mapping[str, Identifier]
    at: Mapping[str, tuple[str, ...]] = {}
    """Destination -> studies that it holds, with all their instances. It holds no others."""
    brought: Mapping[str, str] = {}
    """Study -> group that it was taken for before, for the same visit."""
    expect: Mapping[str, Wanted] = {}
    """What is to be decided; what is not named must not be moved."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Something else was decided than expected."""

    study: str
    destination: str
    expected: str
    got: str


NOT_ASKED = {
    "where": "The rule's condition (`where`) does not hold for the current study, so nothing is fetched for it.",
    "patient-id": "The current study's Patient ID must not be asked for: it is empty, or could match other patients.",
}
"""Why no study is looked at."""


def uid_of(name: str) -> str:
    """A Study Instance UID for a study that has none of its own: always the same (PS3.5 section B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])}"


def candidate(name: str, given: Identifier, current: Identifier) -> Identifier:
    """What the source answers for a study: of the current one's patient, and with a UID, unless it says otherwise."""
    patient = {tag: current.elements[tag] for tag in _PATIENT if tag in current.elements}
    elements = patient | given.elements
    if not given.text("StudyInstanceUID"):
        elements[_STUDY_INSTANCE_UID] = (uid_of(name),)
    return Identifier(elements)


def run(case: Case, rule: Rule, anatomy: Anatomy, zone: tzinfo) -> list[Failure]:
    """Decide as a look for priors would, and compare. `zone` is that of the priors' source."""
    studies = {name: examination(candidate(name, given, case.current)) for name, given in case.studies.items()}
    failures: list[Failure] = []
    for destination in case.destinations:
        decided = {
            prior.study_instance_uid: prior for prior in _decided(case, rule, anatomy, zone, studies, destination)
        }
        for name, study in studies.items():
            failures += _compared(name, case.expect.get(name), decided[study.study_instance_uid])
    return failures


def _decided(
    case: Case, rule: Rule, anatomy: Anatomy, zone: tzinfo, studies: Mapping[str, Examination], destination: str
) -> Sequence[Prior]:
    evaluation = Evaluation(case.now, zone)
    current = examination(case.current)
    why = ""
    if refusal(current.patient.patient_id):
        why = "patient-id"
    elif not rule.where.holds(case.current, evaluation):
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
    there = case.at.get(destination, ())
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
        brought={studies[name].study_instance_uid: group for name, group in case.brought.items()},
    )


def _compared(name: str, wanted: Wanted | None, got: Prior) -> Iterator[Failure]:
    if _fits(wanted or Wanted(decision=SKIP), got):
        return
    yield Failure(
        study=name,
        destination=got.destination,
        expected=_expected(wanted) if wanted is not None else f"{SKIP}, for the case does not name it",
        got=_got(got),
    )


def _fits(wanted: Wanted, got: Prior) -> bool:
    return (
        (MOVE if got.taken else SKIP) == wanted.decision
        and wanted.group in ("", got.group)
        and wanted.code in ("", got.code)
        and wanted.reason.casefold() in got.reason.casefold()
        and wanted.score in (None, got.score)
    )


def _expected(wanted: Wanted) -> str:
    parts = [wanted.decision]
    parts += [f"{name} {value}" for name, value in (("group", wanted.group), ("code", wanted.code)) if value]
    parts += [f"score {wanted.score}"] if wanted.score is not None else []
    parts += [f"a reason with {wanted.reason!r}"] if wanted.reason else []
    return ", ".join(parts)


def _got(prior: Prior) -> str:
    parts = [MOVE if prior.taken else SKIP, *([f"group {prior.group}"] if prior.group else []), f"code {prior.code}"]
    if prior.score is not None:
        parts.append(f"score {prior.score}" + (f" ({prior.breakdown})" if prior.breakdown else ""))
    return ", ".join(parts) + f": {prior.reason}"
