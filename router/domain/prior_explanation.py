"""Why a study is a relevant prior of a current one, or is not: each filter, each group, with what was seen. Pure.

What is decided says `router.domain.relevance`; this is for a terminal only, for it shows values of patients.
"""

from __future__ import annotations

from router.domain.anatomy import Anatomy
from router.domain.condition import Evaluation, Explanation
from router.domain.examination import ANOTHER_PATIENT, IDENTITY_UNSURE, Examination, Patient
from router.domain.prior_condition import Study, View
from router.domain.priors import PriorException, PriorGroup, Priors
from router.domain.relevance import Prior

_FILTERS = {
    ("current",): "is another study than the current one, of another order",
    (ANOTHER_PATIENT, IDENTITY_UNSURE): "is surely of the same patient (identity)",
    ("later",): "is not later than the current study",
    ("excluded",): "is not excluded (exclude)",
    ("exception",): "no exception leaves it out (exceptions)",
    ("unavailable",): "the source can send it",
    ("undated",): "has a date, or needs none (undated)",
}
"""What a candidate must pass before its groups, in the order in which that is looked at; by the codes it has if not."""


def explain_prior(
    prior: Prior,
    current: Examination,
    candidate: Examination,
    priors: Priors,
    anatomy: Anatomy,
    evaluation: Evaluation,
) -> tuple[Explanation, ...]:
    """The filters as far as they were looked at, then each group, for a decision of `relevance.choose`."""
    view = View.of(current, anatomy, evaluation)
    study = Study.of(candidate, anatomy)
    filters = []
    for codes, text in _FILTERS.items():
        code = codes[0]
        if (code == "excluded" and priors.exclude is None) or (code == "exception" and not priors.exceptions):
            continue
        passed = prior.code not in codes
        filters.append(Explanation(text, passed, _seen(code, view, study), _parts(code, priors, view, study)))
        if not passed:
            break
    groups = tuple(_group(group, view, study) for group in priors.groups)
    return (*filters, Explanation("one of the groups fits", any(one.passed for one in groups), (), groups))


def _seen(code: str, view: View, study: Study) -> tuple[str, ...]:
    ours, theirs = view.current.examination, study.examination
    if code == "current":
        return tuple(filter(None, (theirs.study_instance_uid, theirs.accession_number)))
    if code == ANOTHER_PATIENT:
        return (_patient(theirs.patient), f"the current study: {_patient(ours.patient)}")
    if code == "later":
        return (f"{theirs.date or 'no date'}, the current study: {ours.date or f'none, so {view.day}'}",)
    if code == "unavailable":
        return (theirs.availability or "not said",)
    return (str(theirs.date),) if code == "undated" and theirs.date else ()


def _patient(patient: Patient) -> str:
    parts = (patient.patient_id, patient.issuer, patient.birth_date, patient.sex)
    return " ".join(part or "-" for part in parts)


def _parts(code: str, priors: Priors, view: View, study: Study) -> tuple[Explanation, ...]:
    if code == "excluded" and priors.exclude is not None:
        return (_denied("exclude asks for all of", view.explain(priors.exclude, study)),)
    if code == "exception":
        return tuple(_exception(number, one, view, study) for number, one in enumerate(priors.exceptions, 1))
    return ()


def _exception(number: int, one: PriorException, view: View, study: Study) -> Explanation:
    parts = [_all("leave_out: of this study all of", view.explain(one.leave_out, study))]
    if one.when is not None:
        parts.append(_all("when: of the current study all of", view.explain(one.when, view.current)))
    if one.unless is not None:
        inner = _all("unless: of the current study all of", view.explain(one.unless, view.current))
        parts.append(Explanation(inner.text, not inner.passed, inner.seen, inner.parts))
    return _denied(f"exception {number} asks for all of", tuple(parts))


def _group(group: PriorGroup, view: View, study: Study) -> Explanation:
    bound = f" (at most {group.max})" if group.max is not None else ""
    parts = list(view.explain(group.where, study))
    if not parts:
        parts.append(Explanation("is any other study", True, (study.examination.study_instance_uid,)))
    if group.within is not None:
        day = study.examination.date
        text = f"is no older than {group.within.text} before {view.day}"
        seen = (f"{day}, {(view.day - day).days} days before",) if day is not None else ("no date",)
        parts.append(Explanation(text, view.recent(group.within, study), seen))
    return _all(f"group {group.name}{bound}: all of", tuple(parts))


def _all(text: str, parts: tuple[Explanation, ...]) -> Explanation:
    return Explanation(text, all(part.passed for part in parts), (), parts)


def _denied(text: str, parts: tuple[Explanation, ...]) -> Explanation:
    """What must not hold."""
    return Explanation(f"not: {text}", not all(part.passed for part in parts), (), parts)
