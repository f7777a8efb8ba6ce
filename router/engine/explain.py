"""`explain`: what each rule makes of one study, and why. Asks the source and the destinations; writes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from zoneinfo import ZoneInfo

from router.domain.computed import COMPUTED, missing
from router.domain.condition import Evaluation, Explanation, KeyMatch
from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel, known_tag, name_of
from router.domain.forward_explanation import passed_on
from router.domain.levels import asked_at
from router.domain.lookback import SweepKeys, sweep_keys
from router.domain.relevance import attributes_of
from router.domain.restraint import restrain
from router.domain.rule import Node, Rule, RuleSet, Sweep
from router.domain.rule_explanation import MOST_SERIES, explain_sweep
from router.domain.selection import Action, Candidate, Decision, decide, left_out
from router.domain.transfer import RULE_HOLDS, State
from router.domain.truth import UNKNOWN, LocalTruth, of_study
from router.engine.asking import questions
from router.engine.computed import ComputedAttributes
from router.engine.enumeration import Enumerator
from router.engine.explain_ways import Ways
from router.engine.explained import RuleExplained, StudyExplained, StudySeen
from router.engine.forward_look import ForwardLook
from router.engine.look import Answer, Look
from router.engine.ports import Clock, Ledger
from router.engine.prefetch import Looked, Prefetcher
from router.engine.query import Inquiry
from router.engine.restraint import MOST_HELD, Restrainer
from router.engine.sharing import Answers, Sharing
from router.engine.slots import Urgency
from router.errors import RouterError, WireError

_STUDY_INSTANCE_UID, _PATIENT_ID = known_tag("StudyInstanceUID"), known_tag("PatientID")
_MOST_ROWS = 1000
"""Matches to the question for one study; a node that answers more does not match by the UID."""
_ALWAYS_SEEN = [
    known_tag(name)
    for name in ("StudyDate", "StudyTime", "ModalitiesInStudy", "NumberOfStudyRelatedInstances", "InstanceAvailability")
]


class Explainer:
    """Explains one study. Not thread-safe."""

    def __init__(
        self,
        study_instance_uid: str,
        *,
        rules: RuleSet,
        ledger: Ledger,
        inquiry: Inquiry,
        prefetcher: Prefetcher,
        stored: Callable[[str, Collection[int]], Identifier | None],
        forwards: ForwardLook,
        clock: Clock,
        ways: Ways,
        offline: bool = False,
    ) -> None:
        """`stored`: what the headers of a study in our store say; `ways`: those of this study.

        `offline`: no node is asked.
        """
        self._study = study_instance_uid
        self._rules = rules
        self._ledger = ledger
        self._inquiry = inquiry
        self._prefetcher = prefetcher
        self._stored = stored
        self._forwards = forwards
        self._clock = clock
        self._offline = offline
        self._computed = ComputedAttributes(inquiry)
        self._never = threading.Event()
        self.now = ways.now
        self._ways = ways

    def explain(self, chosen: Sequence[Rule]) -> StudyExplained:
        """What these rules make of it. Raises LedgerError."""
        swept = [rule for rule in chosen if rule.sweep is not None]
        seen: dict[str, StudySeen] = {}
        for name in dict.fromkeys(rule.asked for rule in swept):
            seen[name] = self.ask(name, [rule for rule in swept if rule.asked == name])
        return StudyExplained(
            seen=tuple(seen.values()), rules=tuple(self._rule(rule, seen.get(rule.asked)) for rule in chosen)
        )

    # what the source says -----------------------------------------------------------------------------------------

    def ask(self, name: str, rules: Sequence[Rule]) -> StudySeen:
        """Ask a source for the study with all that these rules look at."""
        looked_at = tuple(dict.fromkeys((*_ALWAYS_SEEN, *(tag for rule in rules for tag in _looked_at(rule)))))
        source = self._rules.node(name)
        if self._offline or source is None:
            problem = "" if self._offline else f"The configuration has no node {name}."
            return StudySeen(source=name, problem=problem, looked_at=looked_at, asked=not self._offline)
        evaluation = self._evaluation(source)
        elements: dict[int, tuple[str | Identifier, ...]] = {}
        for rule in rules:
            returned = [KeyMatch(key.name, key.tag) for key in (rule.sweep.keys if rule.sweep else ())]
            (question,) = questions(rule, returned, QueryRetrieveLevel.STUDY, evaluation)
            elements.update(question.elements)
        elements[_STUDY_INSTANCE_UID] = (self._study,)
        if patient_id := self._ways.patient_id(source):
            elements[_PATIENT_ID] = (patient_id,)
        try:
            answer = self._inquiry.find(
                source,
                QueryRetrieveLevel.STUDY,
                Identifier(elements),
                Urgency.SWEEP,
                self._never,
                partial=True,
                maximum=_MOST_ROWS,
            )
        except RouterError as error:
            return StudySeen(source=name, problem=str(error), looked_at=looked_at)
        rows = [row for row in answer.identifiers if row.text("StudyInstanceUID") == self._study]
        problem = ""
        if not rows and len(answer.identifiers) >= _MOST_ROWS:
            problem = f"{name} does not match by Study Instance UID: it answered {len(answer.identifiers)} others."
        return StudySeen(source=name, row=rows[0] if rows else None, problem=problem, looked_at=looked_at)

    def _evaluation(self, source: Node) -> Evaluation:
        return Evaluation(now=self.now, zone=ZoneInfo(source.timezone))

    # a rule -------------------------------------------------------------------------------------------------------

    def _rule(self, rule: Rule, seen: StudySeen | None) -> RuleExplained:
        if rule.sweep is None:
            return self._without_sweep(rule)
        source = self._rules.node(rule.asked)
        if source is None or seen is None or seen.problem or self._offline:
            return self._unasked(rule, seen.problem if seen is not None else "")
        if seen.row is None:
            note = f"{source.name} does not have the study."
            if source.root is InformationModel.PATIENT_ROOT and not self._ways.patient_id(source):
                note += " It was asked without the Patient ID, which Patient Root (root: patient) may need."
            return RuleExplained(rule=rule, found=False, gates=self._ways.shared(rule), notes=(note,))
        try:
            return self._asked(rule, rule.sweep, source, seen.row)
        except WireError as error:
            return self._unasked(rule, str(error))

    def _asked(self, rule: Rule, sweep: Sweep, source: Node, row: Identifier) -> RuleExplained:
        """By what the source says. Raises WireError."""
        evaluation = self._evaluation(source)
        computed = self._computed.look(source, self._never)
        keys = sweep_keys(sweep, rule.widest_tier, now=self.now, zone=evaluation.zone, watermark=None)
        needed = COMPUTED & (rule.where.attributes | {key.tag for key in keys.keys if key.values})
        notes = []
        if absent := missing(row, needed):
            names = ", ".join(sorted(map(name_of, absent)))
            filled = computed.filled(row, absent)
            notes.append(
                f"{source.name} does not say {names}; it follows from the series."
                if filled is not None
                else f"{source.name} does not say {names}, nor anything that it follows from."
            )
            row = filled or row
        series = self._series(rule, sweep, source, row, keys, evaluation)
        clauses = explain_sweep(rule, sweep, row, series[:MOST_SERIES] if series is not None else None, evaluation)
        if series is not None and len(series) > MOST_SERIES:
            notes.append(f"It has {len(series)} series; {MOST_SERIES} of them are explained.")
        left: list[Decision] = []

        def skip(one: Identifier, code: str, reason: str) -> None:
            left.append(left_out(one, code, reason))

        truth = LocalTruth(keys.keys, rule.where, evaluation, computed, skip)
        rows = truth.by_keys([row], QueryRetrieveLevel.STUDY)
        if series is not None and rows:
            rows = truth.by_keys(series, QueryRetrieveLevel.SERIES)
        fits = bool(truth.by_condition(rows))
        unknown = any(one.code == UNKNOWN for one in left)  # the source may have left it out by its keys
        if not fits and not unknown and not self._holds(rule):
            return self._explained(rule, clauses, notes, found=False, decisions=left)
        answer, problem = self._look(rule, sweep, source, keys, evaluation), ""
        mine = [one for one in answer.selection.decisions if one.study_instance_uid == self._study]
        if rule.priors is not None:
            found = any(one.key == self._study for one in answer.notices)
            note, problem = self._as_current(rule, answer) if found else ("", "")
            notes += [note] if note else []
        else:
            found = fits and any(one.destination for one in mine)
        if not found and not mine and (fits or unknown):
            left = []
            notes.append(
                f"{source.name} lists nothing of it that could be moved."
                if answer.matches
                else f"{source.name} does not answer it for the keys of the sweep: it matches in another way."
            )
        if not answer.complete:
            notes.append(answer.reason)
        return self._explained(rule, clauses, notes, found=found, decisions=mine or left, problem=problem)

    def _holds(self, rule: Rule) -> bool:
        """Whether the rule holds it back: then its sweep decides about it though it does not find it any more."""
        return any(
            one.rule == rule.name and one.state is State.HELD and one.cause in RULE_HOLDS
            for one in self._ways.transfers.values()
        )

    def _series(
        self, rule: Rule, sweep: Sweep, source: Node, row: Identifier, keys: SweepKeys, evaluation: Evaluation
    ) -> list[Identifier] | None:
        """The rows of its series; None where the sweep finds studies. Raises WireError."""
        if sweep.level is not QueryRetrieveLevel.SERIES:
            return None
        returned = [KeyMatch(key.name, key.tag) for key in keys.keys]
        rows: list[Identifier] = []
        for question in questions(rule, returned, QueryRetrieveLevel.SERIES, evaluation, row):
            rows += self._inquiry.find(
                source, QueryRetrieveLevel.SERIES, question, Urgency.SWEEP, self._never, partial=True
            ).identifiers
        return of_study(row, rows)

    def _look(self, rule: Rule, sweep: Sweep, source: Node, keys: SweepKeys, evaluation: Evaluation) -> Answer:
        """The rule's own sweep, narrowed to the study: what `plan` says of it. Raises WireError."""
        narrowed = [key for key in keys.keys if key.tag != _STUDY_INSTANCE_UID]
        narrowed.append(KeyMatch.of("StudyInstanceUID", self._study))
        if patient_id := self._ways.patient_id(source):
            narrowed = [key for key in narrowed if key.tag != _PATIENT_ID]
            narrowed.append(KeyMatch.of("PatientID", patient_id))
        sharing = Sharing(Answers(), Enumerator(self._inquiry), source, rule.name, self.now, self.now, [])
        return Look(
            self._inquiry,
            self._ledger,
            rule,
            sweep,
            source,
            evaluation,
            SweepKeys(tuple(narrowed)),
            True,
            self._never,
            sharing,
            self._computed.look(source, self._never),
        ).run(Restrainer(self._ledger, self._inquiry, self._clock, only=self._study))

    def _as_current(self, rule: Rule, answer: Answer) -> tuple[str, str]:
        """What would be fetched for it, the number only; or why that cannot be asked."""
        notice = next(one for one in answer.notices if one.key == self._study)
        try:
            looked = self._prefetcher.look(self._rules, rule, notice.current, notice.start_at, self._never)
        except RouterError as error:
            return "", f"What would be fetched for it could not be asked: {error}"
        return _fetched(rule, looked), ""

    def _without_sweep(self, rule: Rule) -> RuleExplained:
        """What can be said where not a sweep finds the current studies."""
        if rule.forward is not None:
            return self._forward(rule)
        if rule.trigger != "arrival":
            what = f"the worklist of {rule.asked}" if rule.trigger == "worklist" else "orders"
            note = f"Current studies come from {what}, not from studies; the study may be a prior of theirs."
            return RuleExplained(
                rule=rule, gates=self._ways.shared(rule), next_sweep_at=self._ways.due(rule), notes=(note,)
            )
        here = len(self._ledger.received(self._study))
        if not here:
            note = "The study has not arrived here, and nothing else starts the rule."
            return RuleExplained(rule=rule, found=False, gates=self._ways.shared(rule), notes=(note,))
        node = self._rules.node(rule.source)
        of_priors = attributes_of(rule.priors) if rule.priors is not None else frozenset()
        header = self._stored(self._study, rule.where.attributes | of_priors)
        notes = [f"{here} instances of it have arrived here."]
        if rule.arrival is not None and rule.arrival.senders:
            notes.append(f"Only what {' or '.join(rule.arrival.senders)} sent starts the rule.")
        if header is None or node is None:
            notes.append("Their headers cannot be read, so its conditions are not explained.")
            return RuleExplained(rule=rule, gates=self._ways.shared(rule), notes=tuple(notes))
        clauses = rule.where.explain(header, self._evaluation(node))
        if clauses.passed and not self._offline:
            try:
                looked = self._prefetcher.look(self._rules, rule, header, None, self._never)
                notes.append(_fetched(rule, looked))
            except RouterError as error:
                return RuleExplained(
                    rule=rule, found=True, clauses=(clauses,), gates=self._ways.shared(rule), problem=str(error)
                )
        return RuleExplained(
            rule=rule, found=clauses.passed, clauses=(clauses,), gates=self._ways.shared(rule), notes=tuple(notes)
        )

    def _forward(self, rule: Rule) -> RuleExplained:
        """What is made of what has arrived."""
        found = self._forwards.explain(rule, self._study, self.now)
        decisions = [one for one in passed_on(self._study, found) if found.taken]
        return RuleExplained(
            rule=rule,
            found=found.taken > 0,
            clauses=found.clauses,
            gates=(*self._ways.shared(rule, decisions), found.gate),
            ways=self._ways.of(rule, decisions, found.gate),
            notes=found.notes,
        )

    def _unasked(self, rule: Rule, problem: str) -> RuleExplained:
        """By the ledger alone: what would be decided if the rule found it."""
        known = {one.series_instance_uid for one in self._ways.transfers if one.source == rule.source}
        by_series = rule.move.level is QueryRetrieveLevel.SERIES
        units = [Candidate(study_instance_uid=self._study, series_instance_uid=one) for one in sorted(known)]
        units = [one for one in units if bool(one.series_instance_uid) is by_series]
        if not units and not by_series:
            units = [Candidate(study_instance_uid=self._study)]
        decisions = self._by_ledger(rule, units) if rule.priors is None else []
        return self._explained(rule, (), [], found=None, decisions=decisions, problem=problem)

    def _by_ledger(self, rule: Rule, units: Sequence[Candidate]) -> list[Decision]:
        """What is decided about these if the rule finds them as they were."""
        facts = self._ledger.facts(rule.source, [self._study])
        decisions = decide(
            rule=rule.name,
            source=rule.source,
            destinations=rule.move.to,
            priority=rule.priority,
            candidates=units,
            facts=facts,
            manual=True,
        )
        restraint = self._ways.restraint(rule)
        held = self._ledger.held(rule.name, rule.source, restraint.settled_before, MOST_HELD)
        mine = [one for one in held if one.intent.study_instance_uid == self._study]
        return restrain(decisions, restraint, facts, mine)

    # gates --------------------------------------------------------------------------------------------------------

    def _explained(
        self,
        rule: Rule,
        clauses: tuple[Explanation, ...],
        notes: Sequence[str],
        *,
        found: bool | None,
        decisions: Sequence[Decision],
        problem: str = "",
    ) -> RuleExplained:
        return RuleExplained(
            rule=rule,
            found=found,
            clauses=clauses,
            gates=self._ways.shared(rule, decisions),
            ways=self._ways.of(rule, decisions),
            next_sweep_at=self._ways.due(rule),
            notes=tuple(notes),
            problem=problem,
        )


def _looked_at(rule: Rule) -> Iterable[int]:
    keys = rule.sweep.keys if rule.sweep is not None else ()
    tags = [tag for key in keys for tag in key.attributes] + sorted(rule.where.attributes)
    return [tag for tag in tags if asked_at(tag) is QueryRetrieveLevel.STUDY]


def _fetched(rule: Rule, looked: Looked) -> str:
    moves = sum(one.action is Action.MOVE for one in looked.decisions)
    priors = "1 transfer" if moves == 1 else f"{moves} transfers"
    of = "1 study of the patient" if looked.candidates == 1 else f"{looked.candidates} studies of the patient"
    doubt = f" {looked.reason}" if looked.reason else ""
    return (
        f"As the current study it would make {priors} of priors, out of {of}; "
        f"dicom-router plan --rule {rule.name} says which.{doubt}"
    )
