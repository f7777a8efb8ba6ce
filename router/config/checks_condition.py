"""Checks of sense on what conditions and keys ask for: what no answer holds, what can never be, what is misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from zoneinfo import ZoneInfo

from router.config.anatomy import shipped
from router.config.base import Base
from router.config.checks_prefetch import warning_at
from router.config.diagnostics import Code, Diagnostic
from router.config.document import MappingNode, Node, ScalarNode, SequenceNode
from router.config.hl7 import FILLED
from router.config.schema import did_you_mean, node_at
from router.domain.attributes import LEVEL_OF
from router.domain.condition import Condition, Evaluation, KeyMatch
from router.domain.dicom import QueryRetrieveLevel, known_tag, name_of, tag_of
from router.domain.implication import clash
from router.domain.modality import DEFINED_TERMS, is_modality, meant_by
from router.domain.problem import Step
from router.domain.rule import Rule, RuleSet
from router.domain.timing import DateExpression
from router.domain.worklist import RETURN_KEYS, STEP_KEYS, WORKLIST_KEYS

_STUDY_DATE = known_tag("StudyDate")


def check_conditions(rule: Rule, builder: Base) -> Iterator[Diagnostic]:
    """What is odd about the conditions and keys of one rule."""
    yield from _check_terms(builder.trees[rule.name])
    yield from _check_answered(rule, builder)


# --- Modalities -------------------------------------------------------------------------------------------------------

_MODALITY_KEYS = frozenset(map(known_tag, ("Modality", "ModalitiesInStudy")))
_WORD = "modality"
"""The word for both in the groups of priors."""
_FAMILY = "XR"
_WORDS = frozenset({"same", "near", _FAMILY})
_LISTS = ("equals", "in", "not")


def _check_terms(tree: Node) -> Iterator[Diagnostic]:
    """Values of modalities anywhere below a rule that DICOM does not define."""
    if isinstance(tree, SequenceNode):
        for item in tree.items:
            yield from _check_terms(item)
    elif isinstance(tree, MappingNode):
        for key, value in tree.values.items():
            if key == _WORD or tag_of(key) in _MODALITY_KEYS:
                for node in _values(value):
                    yield from _check_term(node, of_priors=key == _WORD)
            else:
                yield from _check_terms(value)


def _values(node: Node) -> Iterator[ScalarNode]:
    """The values that an attribute is to have, or not to have, as far as they stand there whole."""
    if isinstance(node, ScalarNode):
        yield node
    elif isinstance(node, SequenceNode):
        for item in node.items:
            yield from _values(item)
    elif isinstance(node, MappingNode):
        for matcher in _LISTS:
            if matcher in node.values:
                yield from _values(node.values[matcher])


def _check_term(node: ScalarNode, of_priors: bool) -> Iterator[Diagnostic]:
    text = node.text.strip()
    if not text or {"*", "?"} & set(text) or is_modality(text) or text in (_WORDS if of_priors else ("same",)):
        return
    if of_priors and text != text.upper():
        return  # an error already
    meant = meant_by(text)
    near = difflib.get_close_matches(text.upper(), sorted(DEFINED_TERMS), n=1, cutoff=0.75)
    hint = f"did you mean {meant or near[0]}?" if meant or near else "for example CT, MR, US, DX, CR, MG, NM, PT, XA"
    yield warning_at(node, Code.NO_DEFINED_TERM, f"{text!r} is no modality that DICOM defines", hint)


# --- Attributes that no answer holds ----------------------------------------------------------------------------------

_ALSO_OF_WORKLIST = frozenset(
    map(
        known_tag,
        (
            *("PatientAge", "PatientSize", "PatientWeight", "Occupation", "AdditionalPatientHistory"),
            *("PhysiciansOfRecord", "RequestAttributesSequence"),
        ),
    )
)
"""Of the patient or the visit, which a worklist may answer too (PS3.4 table K.6-1, "all other attributes")."""
_OF_WORKLIST = STEP_KEYS | WORKLIST_KEYS | RETURN_KEYS | _ALSO_OF_WORKLIST
_OF_ORDERS = frozenset(known_tag(name) for name in FILLED)
_INSTEAD = {
    "StudyDescription": "RequestedProcedureDescription",
    "StudyDate": "ScheduledProcedureStepStartDate",
    "StudyTime": "ScheduledProcedureStepStartTime",
    "ModalitiesInStudy": "Modality",
    "ProcedureCodeSequence": "RequestedProcedureCodeSequence",
    "SeriesDescription": "ScheduledProcedureStepDescription",
    "ScheduledProcedureStepDescription": "RequestedProcedureDescription",
    "ScheduledProcedureStepStartTime": "ScheduledProcedureStepStartDate",
}


def _check_answered(rule: Rule, builder: Base) -> Iterator[Diagnostic]:
    """Whether what starts a rule knows the attributes that its condition looks at."""
    if rule.worklist is None and rule.order is None:
        return
    for clause in rule.where.clauses:
        tag = clause.path[0]
        if rule.order is not None:
            known, what = tag in _OF_ORDERS, "an order does not hold"
        else:
            done = LEVEL_OF.get(tag) not in (None, QueryRetrieveLevel.PATIENT)
            known, what = tag in _OF_WORKLIST or not done, "a worklist does not answer"
        if known:
            continue
        name = name_of(tag)
        other = _INSTEAD.get(name, "")
        hint = f"use {other}" if other in (FILLED if rule.order is not None else _INSTEAD.values()) else "leave it out"
        place = _clause_place(builder, rule.name, ("where",), clause.name)
        yield warning_at(place, Code.NOT_ANSWERED, f"rules.{rule.name}.where: {what} {name}", hint)


# --- Conditions that can never hold -----------------------------------------------------------------------------------


def check_clashes(rule: Rule, rules: RuleSet, builder: Base) -> Iterator[Diagnostic]:
    """Conditions of a rule that can never hold; asked where no part of them was refused."""
    node = rules.node(rule.asked)
    evaluation = Evaluation(builder.now, ZoneInfo(node.timezone if node is not None else "UTC"))
    yield from _check_clash(rule.where, _keys(rule), evaluation, builder, rule.name, "where")
    if rule.priors is None:
        return
    for number, group in enumerate(rule.priors.groups):
        yield from _check_clash(
            group.where.condition, [], evaluation, builder, rule.name, "priors", "groups", number, "where"
        )
    if rule.priors.exclude is not None:
        condition = rule.priors.exclude.condition
        yield from _check_clash(condition, [], evaluation, builder, rule.name, "priors", "exclude")


def _check_clash(
    condition: Condition,
    keys: list[tuple[KeyMatch, ...]],
    evaluation: Evaluation,
    builder: Base,
    rule: str,
    *path: Step,
) -> Iterator[Diagnostic]:
    found = clash(condition.root, keys, evaluation)
    if found is None:
        return
    subject = ".".join(["rules", rule, *(step for step in path if isinstance(step, str))])
    beside = " beside the keys" if found.key else ""
    message = f"{subject}: what is asked of {found.name} can never hold{beside}"
    hint = "no study is both; alternatives stand in one list or below any"
    if found.key:
        hint = "the keys ask for other studies: change one of the two"
    yield warning_at(_clause_place(builder, rule, path, found.name), Code.CONTRADICTION, message, hint)


def _keys(rule: Rule) -> list[tuple[KeyMatch, ...]]:
    """The keys with which a rule asks, for each of its tiers."""
    if rule.worklist is not None:
        return [rule.worklist.keys]
    if rule.sweep is None:
        return []
    rest = tuple(key for key in rule.sweep.keys if key.tag != _STUDY_DATE)
    return [
        rule.sweep.keys
        if tier.lookback is None
        else (*rest, KeyMatch.of_date("StudyDate", DateExpression.looking_back(tier.lookback)))
        for tier in rule.sweep.tiers
    ]


def _clause_place(builder: Base, rule: str, path: tuple[Step, ...], name: str) -> Node:
    """Where a clause on that attribute stands below a path of a rule, at whatever depth."""
    tree = node_at(builder.trees[rule], path)
    return _key_below(tree, name) or builder.rule_place(rule, *path, at_key=True)


def _key_below(tree: Node, name: str) -> Node | None:
    if isinstance(tree, MappingNode):
        if name in tree.keys:
            return tree.keys[name]
        below: Collection[Node] = tree.values.values()
    else:
        below = tree.items if isinstance(tree, SequenceNode) else ()
    return next((found for one in below if (found := _key_below(one, name)) is not None), None)


# --- Regions ----------------------------------------------------------------------------------------------------------


def check_regions(builder: Base) -> Iterator[Diagnostic]:
    """Regions that are added under a name much like that of a shipped one."""
    known = shipped().regions
    for name, key in builder.sections.anatomy.keys.items():
        near = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.8)
        if name in known or not near or name.count("-") != near[0].count("-"):
            continue
        message = f"anatomy.{name} is a region of its own, beside the shipped {near[0]}"
        hint = did_you_mean(name, [near[0]]) or f"did you mean {near[0]}?"
        yield warning_at(key, Code.UNKNOWN_REGION, message, hint)
