"""The section `tests`: its cases, compiled against the rules they are about. What is wrong goes to `report`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from router.config.diagnostics import Code
from router.config.document import MappingNode, Node, ScalarNode, SequenceNode
from router.config.schema import did_you_mean, raw_value
from router.config.tls import Report
from router.config.values import nearest_attribute
from router.domain.case import MOVE, NOT_ASKED, SKIP, Case, Wanted, candidate
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, tag_of, vr_of
from router.domain.problem import ExpressionError
from router.domain.relevance import CODES, OLDEST
from router.domain.rule import Rule, RuleSet
from router.domain.timing import DateExpression

_NOTHING = ("", "null", "~")
_CODE = {"code": "CodeValue", "scheme": "CodingSchemeDesignator", "meaning": "CodeMeaning"}


def compile_cases(
    section: MappingNode, rules: RuleSet, is_damaged: Callable[..., bool], report: Report
) -> tuple[Case, ...]:
    """The cases. `is_damaged`: whether something of a case, rule or section was refused before; those are left out."""
    cases = []
    for name, tree in section.values.items():
        rule_node = tree.values.get("rule") if isinstance(tree, MappingNode) else None
        if not isinstance(tree, MappingNode) or not isinstance(rule_node, ScalarNode):
            continue
        if is_damaged(name, rule_node.text):
            continue
        rule = rules.rules.get(rule_node.text)
        if rule is None:
            if not is_damaged("rules"):
                message = f"tests.{name}.rule: there is no rule {rule_node.text!r}"
                report(rule_node, Code.CASE, message, _near(rule_node.text, "rules", rules.rules))
        elif rule.priors is None:
            message = f"tests.{name}.rule: the rule {rule.name} has no priors"
            report(rule_node, Code.CASE, message, "this version tests rules that fetch priors only")
        else:
            node = rules.node(rule.priors.source)
            zone = ZoneInfo(node.timezone if node is not None else "UTC")
            case = _Compiler(name, tree, section.keys[name], rule, zone, report).case()
            cases += [case] if case is not None else []
    return tuple(cases)


def _near(name: str, what: str, known: Collection[str]) -> str:
    return did_you_mean(name, known) or (f"{what}: " + ", ".join(known) if known else f"there are no {what}")


class _Compiler:
    """One case."""

    def __init__(self, name: str, tree: MappingNode, key: Node, rule: Rule, zone: ZoneInfo, report: Report) -> None:
        self._name = name
        self._tree = tree
        self._key = key
        self._rule = rule
        self._zone = zone
        self._report = report
        priors = rule.priors
        self._groups = [*(group.name for group in priors.groups), OLDEST] if priors is not None else []

    def case(self) -> Case | None:
        """The case; None where its time is missing or is none."""
        now = self._now()
        if now is None:
            return None
        evaluation = Evaluation(now, self._zone)
        current = self._identifier("current", self._section("current"), evaluation)
        studies = dict(self._studies(evaluation))
        self._check_uids(studies, current)
        return Case(
            name=self._name,
            place=f"{self._key.file}:{self._key.line}:{self._key.column}",
            rule=self._rule.name,
            now=now,
            destinations=self._destinations(),
            current=current,
            studies=studies,
            at=self._at(studies),
            brought=self._brought(studies),
            expect=self._expect(studies),
        )

    def _section(self, key: str) -> MappingNode:
        """A mapping of the case; an empty one where it has none."""
        section = self._tree.values.get(key)
        return section if isinstance(section, MappingNode) else MappingNode(self._key.file, 0, 0)

    def _refuse(self, node: Node, where: str, message: str, hint: str = "") -> None:
        self._report(node, Code.CASE, f"tests.{self._name}.{where}: {message}", hint)

    def _studies(self, evaluation: Evaluation) -> Iterator[tuple[str, Identifier]]:
        for name, given in self._section("studies").values.items():
            if isinstance(given, MappingNode):
                yield name, self._identifier(f"studies.{name}", given, evaluation)
            elif isinstance(given, ScalarNode) and given.is_nothing:
                yield name, Identifier()

    def _now(self) -> datetime | None:
        node = self._tree.values.get("now")
        if not isinstance(node, ScalarNode):
            return None
        try:
            return datetime.fromisoformat(node.text).replace(tzinfo=self._zone)
        except ValueError:
            message = f"tests.{self._name}.now: {node.text!r} is no moment of the calendar"
            self._report(node, Code.BAD_VALUE, message, "for example 2026-11-28T08:00")
            return None

    # --- Attributes ---------------------------------------------------------------------------------------------------

    def _identifier(self, where: str, tree: MappingNode, evaluation: Evaluation) -> Identifier:
        elements: dict[int, tuple[str | Identifier, ...]] = {}
        for name, value in tree.values.items():
            tag = tag_of(name)
            if tag is None:
                message = f"tests.{self._name}.{where}: {name!r} is no DICOM attribute"
                self._report(tree.keys[name], Code.UNKNOWN_ATTRIBUTE, message, nearest_attribute(name))
                continue
            items = value.items if isinstance(value, SequenceNode) else [value]
            found = (self._value(f"{where}.{name}", tag, item, evaluation) for item in items)
            elements[tag] = tuple(one for one in found if one is not None)
        return Identifier(elements)

    def _value(self, where: str, tag: int, node: Node, evaluation: Evaluation) -> str | Identifier | None:
        if isinstance(node, ScalarNode) and node.text in _NOTHING and (node.plain or not node.text):
            return None
        if vr_of(tag) == "SQ":
            if not isinstance(node, MappingNode):
                self._refuse(node, where, "a sequence takes codes", "for example [{code: 77477000, scheme: SCT}]")
                return None
            given: Mapping[str, str] = raw_value(node)
            return Identifier.of(**{keyword: given[key] for key, keyword in _CODE.items() if given.get(key)})
        if not isinstance(node, ScalarNode):
            self._refuse(node, where, "is no code sequence", "give a value, or a list of values")
            return None
        return self._day(where, node, evaluation) if vr_of(tag) == "DA" else node.text

    def _day(self, where: str, node: ScalarNode, evaluation: Evaluation) -> str | None:
        try:
            expression = DateExpression.parse(node.text)
            if not expression.single:
                self._refuse(node, where, f"{node.text!r} is more than one day", "a study has one date")
                return None
            return f"{expression.resolve(*evaluation).first:%Y%m%d}".rjust(8, "0")
        except ExpressionError as error:
            self._report(node, Code.DATE, f"tests.{self._name}.{where}: {error.message}", error.hint)
        except (ValueError, OverflowError):
            self._report(node, Code.DATE, f"tests.{self._name}.{where}: {node.text!r} leaves the calendar")
        return None

    def _check_uids(self, studies: Mapping[str, Identifier], current: Identifier) -> None:
        seen: dict[str, str] = {}
        for name, given in studies.items():
            uid = candidate(name, given, current).text("StudyInstanceUID")
            if uid in seen:
                node = self._section("studies").keys[name]
                self._refuse(node, f"studies.{name}", f"has the StudyInstanceUID of {seen[uid]}", "give each its own")
            seen.setdefault(uid, name)

    # --- Names --------------------------------------------------------------------------------------------------------

    def _knows(self, node: Node, where: str, name: str, what: str, known: Collection[str]) -> bool:
        if name not in known:
            self._refuse(node, where, f"there is no {what} {name!r}", _near(name, _PLURALS[what], known))
        return name in known

    def _destinations(self) -> tuple[str, ...]:
        node = self._tree.values.get("destination")
        if not isinstance(node, ScalarNode):
            return self._rule.move.to
        self._knows(node, "destination", node.text, "destination", self._rule.move.to)
        return (node.text,)

    def _at(self, studies: Collection[str]) -> dict[str, tuple[str, ...]]:
        section, found = self._section("at"), {}
        for destination, names in section.values.items():
            self._knows(section.keys[destination], "at", destination, "destination", self._rule.move.to)
            items = names.items if isinstance(names, SequenceNode) else []
            texts = [(item, item.text) for item in items if isinstance(item, ScalarNode)]
            found[destination] = tuple(
                name for item, name in texts if self._knows(item, f"at.{destination}", name, "study", studies)
            )
        return found

    def _brought(self, studies: Collection[str]) -> dict[str, str]:
        section, found = self._section("brought"), {}
        for name, group in section.values.items():
            known = self._knows(section.keys[name], "brought", name, "study", studies)
            if isinstance(group, ScalarNode):
                known &= self._knows(group, f"brought.{name}", group.text, "group", self._groups)
                if known:
                    found[name] = group.text
        return found

    def _expect(self, studies: Collection[str]) -> dict[str, Wanted]:
        section, found = self._section("expect"), {}
        for name, value in section.values.items():
            if self._knows(section.keys[name], "expect", name, "study", studies):
                found[name] = self._wanted(f"expect.{name}", value)
        return found

    def _wanted(self, where: str, node: Node) -> Wanted:
        if not isinstance(node, MappingNode):
            return Wanted(decision=node.text if isinstance(node, ScalarNode) else SKIP)
        given: dict[str, str] = raw_value(node)
        if group := given.get("group"):
            self._knows(node.values["group"], f"{where}.group", group, "group", self._groups)
        if code := given.get("code"):
            self._knows(node.values["code"], f"{where}.code", code, "code", (*CODES, *NOT_ASKED))
        return Wanted(
            decision=given.get("decision", MOVE),
            group=given.get("group", ""),
            code=given.get("code", ""),
            reason=given.get("reason", ""),
            score=int(given["score"]) if given.get("score") else None,
        )


_PLURALS = {"destination": "destinations", "study": "studies", "group": "groups", "code": "codes"}
