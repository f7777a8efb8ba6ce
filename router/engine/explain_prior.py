"""`explain --for`: what a rule with priors makes of a study as a prior of a current one, now. Writes nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from zoneinfo import ZoneInfo

from router.domain.condition import Evaluation, Explanation
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.examination import examination
from router.domain.prefetching import CURRENT_KEYS
from router.domain.prior_explanation import explain_prior
from router.domain.relevance import attributes_of
from router.domain.rule import Node, Rule, RuleSet
from router.engine.explain_ways import Ways
from router.engine.explained import RuleExplained, StudyExplained
from router.engine.prefetch import Looked, Prefetcher
from router.engine.query import Inquiry
from router.engine.slots import Urgency
from router.errors import RouterError

_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")


class PriorExplainer:
    """Explains a study as a prior of a current one. Not thread-safe."""

    def __init__(
        self, study_instance_uid: str, *, rules: RuleSet, inquiry: Inquiry, prefetcher: Prefetcher, ways: Ways
    ) -> None:
        """`ways`: those of the study."""
        self._study = study_instance_uid
        self._rules = rules
        self._inquiry = inquiry
        self._prefetcher = prefetcher
        self._ways = ways
        self._never = threading.Event()

    def explain(self, chosen: Sequence[Rule], current_uid: str) -> StudyExplained:
        """What these rules make of it; those without priors are left out. Raises LedgerError."""
        return StudyExplained(
            rules=tuple(self._rule(rule, current_uid) for rule in chosen if rule.priors is not None), seen=()
        )

    def _rule(self, rule: Rule, current_uid: str) -> RuleExplained:
        try:
            return self._asked(rule, current_uid)
        except RouterError as error:
            return RuleExplained(rule=rule, gates=self._ways.shared(rule), problem=str(error))

    def _asked(self, rule: Rule, current_uid: str) -> RuleExplained:
        """Raises RouterError where a node cannot be asked."""
        source = self._rules.node(rule.source)
        if source is None or rule.priors is None:
            raise RouterError(f"The configuration has no node {rule.source or 'for priors'} (rule {rule.name}).")
        current, notes = None, []
        for name in dict.fromkeys((rule.asked, rule.source)) if rule.trigger == "sweep" else (rule.source,):
            node = self._rules.node(name)
            current = self._current(rule, node, current_uid) if node is not None and current is None else current
            if current is None:
                notes.append(f"{name} does not have the current study.")
        if current is None:
            return RuleExplained(rule=rule, found=False, gates=self._ways.shared(rule), notes=tuple(notes))
        evaluation = Evaluation(now=self._ways.now, zone=ZoneInfo(source.timezone))
        clauses = _of_current(rule, current, evaluation)
        looked = self._prefetcher.look(self._rules, rule, current, None, self._never)
        return self._decided(rule, looked, current, evaluation, clauses)

    def _decided(
        self,
        rule: Rule,
        looked: Looked,
        current: Identifier,
        evaluation: Evaluation,
        clauses: tuple[Explanation, ...],
    ) -> RuleExplained:
        """By what was decided about it in the look."""
        mine = [one for one in looked.decisions if one.study_instance_uid == self._study]
        notes = [looked.reason] if looked.reason else []
        candidate = looked.examined.get(self._study)
        if candidate is None or not mine or mine[0].prior is None or rule.priors is None:
            notes.append(
                f"{rule.source} does not list it among the {looked.candidates} studies of the current study's patient."
            )
            return RuleExplained(
                rule=rule, found=False, clauses=clauses, gates=self._ways.shared(rule), notes=tuple(notes)
            )
        of_prior = explain_prior(
            mine[0].prior, examination(current), candidate, rule.priors, self._rules.anatomy, evaluation
        )
        wanted = all(one.passed for one in clauses)
        if not wanted:
            notes.append("The rule is not for this current study: it does not look for priors of it.")
        return RuleExplained(
            rule=rule,
            found=wanted and any(one.prior is not None and one.prior.taken for one in mine),
            clauses=(*clauses, *of_prior),
            gates=self._ways.shared(rule, mine),
            ways=self._ways.of(rule, mine),
            next_sweep_at=self._ways.due(rule),
            notes=tuple(notes),
        )

    def _current(self, rule: Rule, node: Node, uid: str) -> Identifier | None:
        """The current study as a node has it; None where it does not. Raises WireError."""
        wanted = CURRENT_KEYS | rule.where.attributes
        wanted |= attributes_of(rule.priors) if rule.priors is not None else frozenset()
        question = Identifier({**dict.fromkeys(wanted, ()), _STUDY_INSTANCE_UID: (uid,)})
        answer = self._inquiry.find(
            node, QueryRetrieveLevel.STUDY, question, Urgency.SWEEP, self._never, partial=True, maximum=1000
        )
        return next((row for row in answer.identifiers if row.text("StudyInstanceUID") == uid), None)


def _of_current(rule: Rule, current: Identifier, evaluation: Evaluation) -> tuple[Explanation, ...]:
    """Whether the current study is one that the rule is for, where a study says that."""
    if rule.trigger not in ("sweep", "arrival"):
        return ()
    found = rule.where.explain(current, evaluation)
    text = "the current study fulfils the rule's where: all of"
    return (Explanation(text, found.passed, found.seen, found.parts),) if found.parts else ()
