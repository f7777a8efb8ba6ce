"""The section `tests`: its cases, compiled against the rules they are about. What is wrong goes to `report`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from router.config.case_values import SERIES, CaseTree, near
from router.config.diagnostics import Code
from router.config.document import DocumentError, MappingNode, Node, ScalarNode, SequenceNode
from router.config.forward_cases import check_ledger, given, health, received
from router.config.recording import read_recording
from router.config.schema import raw_value
from router.config.sweep_cases import facts, flag, number, tier
from router.config.tls import Report
from router.domain.arriving import zone_of
from router.domain.case import FORWARDED, HOLD, LEFT, MOVE, NOT_ASKED, SKIP, Wanted
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier
from router.domain.forward_case import CODES as FORWARD_CODES
from router.domain.forward_case import ForwardCase
from router.domain.prior_case import PriorCase, candidate
from router.domain.recording import Recording, fulfilled_by
from router.domain.relevance import CODES, OLDEST
from router.domain.rule import Rule, RuleSet
from router.domain.sweep_case import CODES as SWEEP_CODES
from router.domain.sweep_case import Part, SweepCase

AnyCase = PriorCase | SweepCase | ForwardCase
"""A case of any kind: each decides as the service would, and compares."""

_OF_PRIORS = ("current", "brought")
_OF_SWEEPS = ("tier", "queued_today")
_OF_SELECTIONS = ("studies", "recording", "at", "counts")
_OF_FORWARDS = ("received", "health", "given")
_OF_LEDGER = ("manual", "ledger")
_COUNTED = (MOVE, HOLD, SKIP)


def compile_cases(
    section: MappingNode, rules: RuleSet, is_damaged: Callable[..., bool], report: Report
) -> tuple[AnyCase, ...]:
    """The cases. `is_damaged`: whether something of a case, rule or section was refused before; those are left out."""
    cases: list[AnyCase] = []
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
                report(rule_node, Code.CASE, message, near(rule_node.text, "rules", rules.rules))
            continue
        case = _Compiler(CaseTree(name, tree, section.keys[name], zone_of(rules, rule), report), rule, rules).case()
        cases += [case] if case is not None else []
    return tuple(cases)


class _Compiler:
    """One case."""

    def __init__(self, tree: CaseTree, rule: Rule, rules: RuleSet) -> None:
        self._tree = tree
        self._rule = rule
        self._rules = rules
        priors = rule.priors
        self._groups = [*(group.name for group in priors.groups), OLDEST] if priors is not None else []

    def case(self) -> AnyCase | None:
        """The case; None where it cannot be run for what is missing or wrong."""
        self._refuse_others()
        if self._rule.forward is not None:
            return self._of_forward()
        given, priors = self._tree.tree.values, self._rule.priors is not None
        recording = self._recording()
        now = self._tree.moment("now")
        if now is None and recording is not None and "now" not in given:
            now = recording.recorded_at.astimezone(self._tree.zone)
        self._check(recording)
        if now is None or ("recording" in given and recording is None):
            return None
        return self._of_priors(now, recording) if priors else self._of_sweep(now, recording)

    def _refuse_others(self) -> None:
        """Report the keys of cases about rules of another kind."""
        rule, tree = self._rule, self._tree
        kind = "has no priors"
        others: tuple[str, ...] = (*_OF_PRIORS, *_OF_FORWARDS)
        if rule.priors is not None:
            kind, others = "moves priors", (*_OF_SWEEPS, *_OF_LEDGER, *_OF_FORWARDS)
        elif rule.forward is not None:
            kind, others = "passes on what arrives", (*_OF_PRIORS, *_OF_SWEEPS, *_OF_SELECTIONS)
        for key in others:
            if key in tree.tree.values:
                why = "passes nothing on" if key in _OF_FORWARDS else kind
                node = tree.tree.keys[key]
                tree.refuse(node, key, f"the rule {rule.name} {why}", "leave it out", code=Code.CASE_KEY)

    def _check(self, recording: Recording | None) -> None:
        """What each case needs."""
        tree, given = self._tree, self._tree.tree.values
        if "recording" in given and "studies" in given:
            node = tree.tree.keys["recording"]
            message = "a case has studies or a recording, not both"
            tree.refuse(node, "recording", message, "leave one of them out", code=Code.CASE_KEY)
        elif "recording" not in given and "studies" not in given:
            tree.needs("studies", "for example studies: {ct: {StudyDate: today}}; or a recording")
        if "recording" not in given:
            self._check_moment()
        if self._rule.priors is not None and "current" not in given:
            tree.needs("current", "the study that priors are wanted for")
        if "counts" not in given:
            self._check_expectation("expect: {ct: move}; counts: {move: 12} with a recording")

    def _check_moment(self) -> None:
        if "now" not in self._tree.tree.values:
            self._tree.needs("now", "for example now: 2026-11-28T08:00")

    def _check_expectation(self, hint: str) -> None:
        if "expect" not in self._tree.tree.values:
            self._tree.refuse(self._tree.key, "", "expects nothing", hint, code=Code.CASE_EXPECTATION)

    def _recording(self) -> Recording | None:
        """The recording that stands in the place of the studies; None where there is none, or none that can be read."""
        node = self._tree.tree.values.get("recording")
        if not isinstance(node, ScalarNode):
            return None
        try:
            return read_recording(Path(node.file).parent / node.text)
        except DocumentError as error:
            found = error.diagnostic
            at = f"{found.line}:{found.column}: " if found.line else ""
            self._tree.refuse(node, "recording", f"{node.text}: {at}{found.message}", found.hint, code=Code.RECORDING)
            return None

    # --- The kinds ----------------------------------------------------------------------------------------------------

    def _of_priors(self, now: datetime, recording: Recording | None) -> PriorCase:
        tree, evaluation = self._tree, Evaluation(now, self._tree.zone)
        current = tree.identifier("current", tree.section("current"), evaluation)
        studies = self._studies(evaluation, recording)
        for name, row in tree.section("studies").values.items():
            if isinstance(row, MappingNode) and SERIES in row.values:
                message = "series are not looked at where priors are chosen"
                tree.refuse(row.keys[SERIES], f"studies.{name}", message, "leave them out", code=Code.CASE_KEY)
        uids = {name: candidate(name, given, current).text("StudyInstanceUID") for name, given in studies.items()}
        tree.distinct(uids, tree.section("studies").keys)
        return PriorCase(
            name=tree.name,
            place=tree.place,
            rule=self._rule.name,
            now=now,
            destinations=self._destinations(),
            current=current,
            studies=studies,
            at=self._at(studies),
            brought=self._brought(studies),
            expect=self._expect(studies, (*CODES, *NOT_ASKED)),
            counts=self._counts(len(studies)),
            recorded=recording is not None,
        )

    def _of_sweep(self, now: datetime, recording: Recording | None) -> SweepCase | None:
        tree, rule = self._tree, self._rule
        if rule.sweep is None:
            return None
        evaluation = Evaluation(now, tree.zone)
        studies = self._studies(evaluation, recording)
        series = self._series(evaluation, recording)
        parts = [*studies, *(str(Part(study, one)) for study, below in series.items() for one in below)]
        units = sum(max(1, len(series.get(study, ()))) for study in studies)
        case = SweepCase(
            name=tree.name,
            place=tree.place,
            rule=rule.name,
            now=now,
            destinations=self._destinations(),
            studies=studies,
            series=series,
            whole_series=recording is None or recording.has_whole_series,
            fulfilled=fulfilled_by(recording, rule) if recording is not None else frozenset(),
            at=self._at(studies),
            tier=tier(tree, rule),
            manual=flag(tree, "manual", default=True),
            ledger=facts(tree, rule, parts, now),
            queued_today=number(tree, "queued_today"),
            expect=self._expect(parts, SWEEP_CODES),
            counts=self._counts(units),
            recorded=recording is not None,
        )
        if recording is None:
            nodes = dict(tree.section("studies").keys)
            for study, row in tree.section("studies").values.items():
                below = row.values.get(SERIES) if isinstance(row, MappingNode) else None
                if isinstance(below, MappingNode):
                    nodes |= {str(Part(study, one)): node for one, node in below.keys.items()}
            tree.distinct({str(part): uid for part, uid in case.uids.items()}, nodes)
        return case

    def _of_forward(self) -> ForwardCase | None:
        tree, rule = self._tree, self._rule
        if "received" not in tree.tree.values:
            tree.needs("received", "for example received: {ct: {from: ct1, Modality: CT}}")
        self._check_moment()
        self._check_expectation("expect: {ct: forwarded}")
        now = tree.moment("now")
        if now is None:
            return None
        arrived = received(tree, rule, self._rules, now, Evaluation(now, tree.zone))
        series = {study: dict.fromkeys(one.series for one in below.values()) for study, below in arrived.items()}
        of_series = [str(Part(study, one)) for study, below in series.items() for one in below]
        ledger = facts(tree, rule, [*arrived, *of_series], now)
        check_ledger(tree, ledger, arrived)
        of_instances = [str(Part(study, one)) for study, below in arrived.items() for one in below]
        return ForwardCase(
            name=tree.name,
            place=tree.place,
            rule=rule.name,
            now=now,
            destinations=self._destinations(),
            received=arrived,
            health=health(tree, rule),
            given=given(tree, rule),
            manual=flag(tree, "manual", default=True),
            ledger=ledger,
            expect=self._expect([*arrived, *of_series, *of_instances], FORWARD_CODES),
        )

    def _studies(self, evaluation: Evaluation, recording: Recording | None) -> dict[str, Identifier]:
        if recording is not None:
            return dict(recording.studies)
        return dict(self._tree.rows("studies", self._tree.section("studies"), evaluation))

    def _series(self, evaluation: Evaluation, recording: Recording | None) -> dict[str, dict[str, Identifier]]:
        if recording is not None:
            return {study: dict(below) for study, below in recording.series.items()}
        found = {}
        for study, row in self._tree.section("studies").values.items():
            below = row.values.get(SERIES) if isinstance(row, MappingNode) else None
            if isinstance(below, MappingNode):
                found[study] = dict(self._tree.rows(f"studies.{study}.{SERIES}", below, evaluation))
        return found

    # --- Names --------------------------------------------------------------------------------------------------------

    def _destinations(self) -> tuple[str, ...]:
        node = self._tree.tree.values.get("destination")
        if not isinstance(node, ScalarNode):
            return self._rule.move.to
        self._tree.knows(node, "destination", node.text, "destination", self._rule.move.to)
        return (node.text,)

    def _at(self, studies: Collection[str]) -> dict[str, tuple[str, ...]]:
        tree, section, found = self._tree, self._tree.section("at"), {}
        for destination, names in section.values.items():
            tree.knows(section.keys[destination], "at", destination, "destination", self._rule.move.to)
            items = names.items if isinstance(names, SequenceNode) else []
            texts = [(item, item.text) for item in items if isinstance(item, ScalarNode)]
            found[destination] = tuple(
                name for item, name in texts if tree.knows(item, f"at.{destination}", name, "study", studies)
            )
        return found

    def _brought(self, studies: Collection[str]) -> dict[str, str]:
        tree, section, found = self._tree, self._tree.section("brought"), {}
        for name, group in section.values.items():
            known = tree.knows(section.keys[name], "brought", name, "study", studies)
            if isinstance(group, ScalarNode):
                known &= tree.knows(group, f"brought.{name}", group.text, "group", self._groups)
                if known:
                    found[name] = group.text
        return found

    # --- What is expected ---------------------------------------------------------------------------------------------

    def _expect(self, parts: Collection[str], codes: Sequence[str]) -> dict[str, Wanted]:
        section, found = self._tree.section("expect"), {}
        for name, value in section.values.items():
            if self._tree.knows(section.keys[name], "expect", name, "study", parts):
                found[name] = self._wanted(f"expect.{name}", value, codes)
        return found

    def _wanted(self, where: str, node: Node, codes: Sequence[str]) -> Wanted:
        if not isinstance(node, MappingNode):
            decision = node.text if isinstance(node, ScalarNode) else SKIP
            self._possible(node, where, decision)
            return Wanted(decision=decision)
        at, tree = node.values, self._tree
        given: Mapping[str, str] = {key: value.text for key, value in at.items() if isinstance(value, ScalarNode)}
        decision = given.get("decision", MOVE)
        self._possible(at.get("decision", node), f"{where}.decision", decision)
        if self._rule.priors is None:
            for key in ("group", "score"):
                if key in at:
                    message = f"the rule {self._rule.name} has no priors, so there is no {key}"
                    tree.refuse(node.keys[key], where, message, "leave it out", code=Code.CASE_EXPECTATION)
        elif group := given.get("group"):
            tree.knows(at["group"], f"{where}.group", group, "group", self._groups)
        if code := given.get("code"):
            tree.knows(at["code"], f"{where}.code", code, "code", codes)
        there = at.get("to")
        to: dict[str, Wanted] = {}
        for destination, value in there.values.items() if isinstance(there, MappingNode) else ():
            assert isinstance(there, MappingNode)
            if tree.knows(there.keys[destination], f"{where}.to", destination, "destination", self._rule.move.to):
                to[destination] = self._wanted(f"{where}.to.{destination}", value, codes)
        return Wanted(
            decision=decision,
            group=given.get("group", ""),
            code=given.get("code", ""),
            reason=given.get("reason", ""),
            score=int(given["score"]) if given.get("score") else None,
            to=to,
        )

    def _possible(self, node: Node, where: str, decision: str) -> None:
        """Report a decision that never comes of such a rule."""
        words: tuple[str, ...] = (MOVE, HOLD, SKIP)
        kind = "moves what it finds"
        if self._rule.forward is not None:
            words, kind = (FORWARDED, LEFT), "passes on what arrives"
        elif self._rule.priors is not None:
            words, kind = (MOVE, SKIP), "moves priors"
        if decision in (MOVE, HOLD, SKIP, FORWARDED, LEFT) and decision not in words:
            never = "which are never held" if (decision, kind) == (HOLD, "moves priors") else f"never {decision!r}"
            message = f"the rule {self._rule.name} {kind}, {never}"
            self._tree.refuse(node, where, message, " or ".join(words), code=Code.CASE_EXPECTATION)

    def _counts(self, most: int) -> dict[str, int]:
        section = self._tree.section("counts")
        counts = {key: int(text) for key, text in raw_value(section).items() if key in _COUNTED}
        if sum(counts.values()) > most:
            message = f"there are not so many: {most} in all"
            self._tree.refuse(section, "counts", message, code=Code.CASE_EXPECTATION)
        return counts
