"""The key `priors` of a rule: groups, exceptions and policies, and the conditions in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from router.config.base import Base
from router.config.diagnostics import Code
from router.config.document import MappingNode, Node
from router.config.schema import did_you_mean, node_at, raw_value
from router.domain.anatomy import Anatomy
from router.domain.attributes import below
from router.domain.condition import Condition, attribute_path, compile_condition
from router.domain.dicom import QueryRetrieveLevel, name_of
from router.domain.priors import NEAR, SAME, PriorCondition, PriorException, PriorGroup, Priors, Within
from router.domain.problem import ExpressionError, Kind, Step
from router.domain.relevance import OLDEST

_WORDS = ("anatomy", "modality")
"""Keys of a prior condition that are no attributes."""
_WITHIN = re.compile(r"([0-9]{1,5})(d|w|mo|y)\Z")
_MONTHS, _DAYS = {"mo": 1, "y": 12}, {"d": 1, "w": 7}
_MONTH = 30.4375
"""Days, on average."""
_LONGEST = 150 * 12 * _MONTH
"""Days; nobody has older images."""
_MODALITY = re.compile(r"[A-Z0-9_]{1,16}\Z")
_FREE = "write {equals: same} where the text itself is meant"


def build_priors(base: Base, name: str, tree: MappingNode, values: Mapping[str, Any], anatomy: Anatomy) -> Priors:
    """The priors of a rule. What is missing is for the checks to say."""
    builder = _Builder(base, name, anatomy)
    exclude = tree.values.get("exclude")
    return Priors(
        source=values.get("source", ""),
        groups=builder.groups(tree, values.get("groups", ())),
        keep_oldest_relevant=values.get("keep_oldest_relevant", False),
        exclude=None if exclude is None else builder.condition(exclude, "exclude", entirely=True),
        exceptions=builder.exceptions(tree, values.get("exceptions", ())),
        undated=values.get("undated", "last"),
        identity=values.get("identity", "verified"),
        **base.durations(tree, values, "repeat", "believed"),
    )


class _Builder:
    """Makes the parts of one rule's priors."""

    def __init__(self, base: Base, rule: str, anatomy: Anatomy) -> None:
        self._base = base
        self._rule = rule
        self._subject = f"rules.{rule}.priors"
        self._anatomy = anatomy

    # --- groups -------------------------------------------------------------------------------------------------------

    def groups(self, tree: MappingNode, values: list[Mapping[str, Any]]) -> tuple[PriorGroup, ...]:
        groups: dict[str, tuple[PriorGroup, Node]] = {}
        for index, given in enumerate(values):
            item = node_at(tree, ("groups", index))
            if not isinstance(item, MappingNode) or "name" not in given:
                continue
            group, place = self._group(item, given, index), item.values["name"]
            subject = f"{self._subject}.groups"
            if group.name in groups:
                first = groups[group.name][1]
                hint = f"the first is at {first.file}:{first.line}:{first.column}"
                self._base.report(place, Code.DUPLICATE_NAME, f"{subject}: {group.name} is given twice", hint)
                continue
            if group.name == OLDEST:
                message = f"{subject}: a group cannot be called {OLDEST}"
                self._base.report(place, Code.BAD_NAME, message, "what keep_oldest_relevant takes is shown under it")
            before = next((other for other, _ in groups.values() if _covers(other, group)), None)
            if before is not None and not self._base.is_damaged(self._rule):
                message = f"{subject}: {group.name} is never used, {before.name} before it takes all that it would"
                hint = f"give {before.name} a max, or put {group.name} first"
                self._base.report(place, Code.UNUSED_KEY, message, hint, warning=True)
            groups[group.name] = group, place
        return tuple(group for group, _ in groups.values())

    def _group(self, item: MappingNode, given: Mapping[str, Any], index: int) -> PriorGroup:
        where = item.values.get("where")
        if "max" not in given and "within" not in given and not self._base.is_damaged(self._rule):
            message = f"{self._subject}.groups: {given['name']} has no bound, it would take all there is"
            hint = "max: 3 takes the three that score highest, within: 5y none that are older"
            self._base.report(item.values["name"], Code.UNBOUNDED_PRIORS, message, hint)
        return PriorGroup(
            name=given["name"],
            where=PriorCondition() if where is None else self.condition(where, "groups", index, "where"),
            max=given.get("max"),
            within=self._within(item.values["within"], given["within"]) if "within" in given else None,
        )

    def _within(self, place: Node, text: str) -> Within | None:
        match = _WITHIN.match(text)
        number, unit = (int(match[1]), match[2]) if match is not None else (0, "d")
        within = Within(text, months=number * _MONTHS.get(unit, 0), days=number * _DAYS.get(unit, 0))
        if not 0 < _length(within) <= _LONGEST:
            message = f"{self._subject}.groups: {text!r} is no age that a study can have"
            self._base.report(
                place, Code.BAD_VALUE, message, "a number of days, weeks, months or years: 10d 6w 18mo 5y"
            )
            return None
        return within

    def exceptions(self, tree: MappingNode, values: list[Mapping[str, Any]]) -> tuple[PriorException, ...]:
        exceptions = []
        for index in range(len(values)):
            item = node_at(tree, ("exceptions", index))
            if not isinstance(item, MappingNode) or "leave_out" not in item.values:
                continue
            of_current = {
                key: self.condition(item.values[key], "exceptions", index, key, of_current=True)
                for key in ("unless", "when")
                if key in item.values
            }
            leave_out = self.condition(item.values["leave_out"], "exceptions", index, "leave_out", entirely=True)
            exceptions.append(PriorException(leave_out=leave_out, **of_current))
        return tuple(exceptions)

    # --- conditions ---------------------------------------------------------------------------------------------------

    def condition(self, tree: Node, *path: Step, entirely: bool = False, of_current: bool = False) -> PriorCondition:
        """A condition on candidates, or (`of_current`) on the current study.

        `entirely`: modalities mean what a candidate holds nothing else of.
        """
        subject = ".".join([self._subject, *(step for step in path if isinstance(step, str))])
        where = raw_value(tree) if isinstance(tree, MappingNode) else {}
        if not where and (entirely or of_current):
            message = f"{subject} is empty: it would always hold"
            self._base.report(tree, Code.BAD_VALUE, message, "say of what, or leave it away")
        for at in _buried(where, of_current):
            message = f"{subject}: same stands alone beside an attribute, in no list and not below any, all or not"
            if of_current:
                message = f"{subject}: same compares with the current study, which is what is asked here"
            self._base.report(node_at(tree, at), Code.MATCHER, message, _FREE)
        anatomy: tuple[str, ...] = ()
        modality: tuple[str, ...] = ()
        same: list[int] = []
        rest = {}
        as_words = {"modality", "ModalitiesInStudy"} & set(where) if entirely else {"modality"} & set(where)
        as_words = {key for key in as_words if key == "modality" or not isinstance(where[key], Mapping)}
        for key, value in where.items():
            place = node_at(tree, (key,))
            if key == "anatomy":
                anatomy = self._regions(place, value, f"{subject}.{key}", of_current)
            elif key in as_words:
                if modality:
                    message = f"{subject}: the modalities are given twice, as {' and as '.join(sorted(as_words))}"
                    self._base.report(node_at(tree, (key,), at_key=True), Code.DUPLICATE_KEY, message, "leave one out")
                modality = self._modalities(place, value, f"{subject}.{key}", of_current)
            elif value == SAME and not of_current:
                same += self._same(tree, key, subject)
            elif value != SAME:
                rest[key] = value
        return PriorCondition(
            anatomy=anatomy,
            modality=modality,
            entirely=entirely and bool(modality),
            same=tuple(same),
            condition=self._rest(tree, rest, subject, of_current),
        )

    def _texts(self, place: Node, value: object, subject: str, hint: str) -> Iterator[tuple[str, Node]]:
        """The words beside `anatomy` or `modality`, each with its place."""
        listed = isinstance(value, list)
        words = value if isinstance(value, list) else [value]
        if not words or not all(isinstance(word, str) and word for word in words):
            self._base.report(place, Code.WRONG_TYPE, f"{subject} must be a word or a list of them", hint)
            return
        for index, word in enumerate(words):
            yield word, node_at(place, (index,)) if listed else place

    def _regions(self, place: Node, value: object, subject: str, of_current: bool) -> tuple[str, ...]:
        special = () if of_current else (SAME, NEAR)
        known = self._anatomy.regions
        found = []
        for word, at in self._texts(place, value, subject, "for example anatomy: same"):
            if of_current and word in (SAME, NEAR):
                message = f"{subject}: {word} compares with the current study, which is what is asked here"
                self._base.report(at, Code.MATCHER, message, "name regions, for example anatomy: chest")
            elif word in special or word in known:
                found.append(word)
            elif not self._base.is_damaged("anatomy"):
                hint = did_you_mean(word, [*special, *known]) or ", ".join([*special, *known])
                self._base.report(at, Code.UNKNOWN_REGION, f"{subject}: there is no region {word!r}", hint)
        return tuple(dict.fromkeys(found))

    def _modalities(self, place: Node, value: object, subject: str, of_current: bool) -> tuple[str, ...]:
        found = []
        for word, at in self._texts(place, value, subject, "for example modality: [CT, MR]"):
            if word == SAME and of_current:
                message = f"{subject}: same compares with the current study, which is what is asked here"
                self._base.report(at, Code.MATCHER, message, "name modalities, for example modality: US")
            elif word == SAME or (_MODALITY.match(word) and word != SAME.upper()):
                found.append(word)
            else:
                meant = SAME if word.casefold() == SAME else word.upper()
                hint = f"did you mean {meant}?" if meant == SAME or _MODALITY.match(meant) else "for example CT"
                self._base.report(at, Code.ATTRIBUTE_VALUE, f"{subject}: {word!r} is no modality", hint)
        return tuple(dict.fromkeys(found))

    def _same(self, tree: Node, key: str, subject: str) -> tuple[int, ...]:
        """The tag of an attribute in which a candidate must be like the current study."""
        try:
            path = attribute_path(key)
        except ExpressionError as error:
            self._report(error.below(key), tree, subject)
            return ()
        if len(path) > 1:
            message = f"{subject}.{key}: what stands in a sequence is not compared with the current study"
            hint = f"{name_of(path[0])}: same compares the codes of a code sequence"
            self._base.report(node_at(tree, (key,)), Code.MATCHER, message, hint)
            return ()
        self._check_level(tree, key, path[0], subject)
        return path

    def _rest(self, tree: Node, rest: Mapping[str, object], subject: str, of_current: bool) -> Condition:
        condition, errors = compile_condition(rest)
        for error in errors:
            self._report(error, tree, subject)
        for clause in condition.clauses if not of_current else ():
            self._check_level(tree, clause.name, clause.path[0], subject)
        return condition

    def _report(self, error: ExpressionError, tree: Node, subject: str) -> None:
        hint = ""
        if error.kind is Kind.ATTRIBUTE and error.name in _WORDS:
            hint = f"{error.name} stands beside any, all and not, never below them"
        elif error.kind is Kind.ATTRIBUTE and error.name:
            hint = did_you_mean(error.name, _WORDS)
        self._base.report_expression(error, tree, subject, hint)

    def _check_level(self, tree: Node, key: str, tag: int, subject: str) -> None:
        """Candidates are found by one query for studies: what stands in series only is not known of them."""
        if below(tag, QueryRetrieveLevel.STUDY):
            hint = {"Modality": "use modality", "BodyPartExamined": "use anatomy"}.get(name_of(tag), "leave it out")
            message = f"{subject}: answers at the STUDY level do not hold {name_of(tag)}"
            place, never = node_at(tree, (key,), at_key=True), name_of(tag) == "Modality"  # a slip for modality
            self._base.report(place, Code.CONDITION_LEVEL, message, hint, warning=not never)


def _length(within: Within) -> float:
    """Days, about."""
    return within.months * _MONTH + within.days


def _covers(before: PriorGroup, group: PriorGroup) -> bool:
    """Whether an earlier group takes all that a group would."""
    if before.max is not None or before.where not in (PriorCondition(), group.where):
        return False
    return before.within is None or (group.within is not None and _length(group.within) <= _length(before.within))


def _buried(where: Mapping[str, object], everywhere: bool, path: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Where `same` stands beside an attribute but does not mean what it says; with `everywhere` it never does."""
    for name, value in where.items():
        here = (*path, name)
        if name in ("any", "all") and isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from _buried(item, everywhere, (*here, index))
        elif name == "not" and isinstance(value, Mapping):
            yield from _buried(value, everywhere, here)
        elif name in _WORDS and not path:
            continue
        elif value == SAME and (path or everywhere):
            yield here
        elif isinstance(value, list) and SAME in value:
            yield (*here, value.index(SAME))
