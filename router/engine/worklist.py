"""One look at a modality worklist: from the question to news of appointments. Writes nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from router.domain.appointment import Notice
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier
from router.domain.events import ValueRefused
from router.domain.relevance import attributes_of
from router.domain.rule import Node, Rule, Worklist
from router.domain.safety import patient_refusal
from router.domain.worklist import (
    COMPLETED,
    START_DATE,
    STEP_KEYS,
    STEP_SEQUENCE,
    WORKLIST_KEYS,
    against,
    each_once,
    ended,
    notice,
    only,
    past,
    questions,
    range_of,
    steps_of,
    vanished,
)
from router.engine.ports import Ledger, Observer
from router.engine.query import Inquiry
from router.engine.slots import Urgency

MAXIMUM_MATCHES = 20_000
"""An answer with more matches than this is cut off: memory has a bound."""
LONG_BEGUN = timedelta(hours=1)
"""A step that was to begin longer ago brings no appointment: it is too late to be there before."""
MANY = 20
"""A worklist that lacks more appointments than this, and most of those expected, has lost them, not the patients."""
_OTHER_OFFSET = timedelta(days=1)
"""A step may be local to another offset from UTC than its node is."""
_REASONS_TOLD = 3


class WorklistAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a worklist says."""

    notices: Sequence[Notice]
    """Appointments as they are now, and the end of those that it does not have any more."""
    matches: int
    queries: int
    complete: bool
    """It is all there is; only then is what is missing in it cancelled."""
    reason: str = ""
    """Why it is not, sentences."""
    account: str = ""
    """What was left out and why, as sentences without values."""
    dropped: dict[str, int] = {}
    """Matches that could not be used, by a word of `router.domain.events.DROPPED`."""


class WorklistLook:
    """Looks at worklists. Thread-safe."""

    def __init__(self, ledger: Ledger, inquiry: Inquiry, observer: Observer) -> None:
        self._ledger = ledger
        self._inquiry = inquiry
        self._observer = observer

    def look(
        self, rule: Rule, node: Node, evaluation: Evaluation, *, manual: bool, cancelled: threading.Event
    ) -> WorklistAnswer:
        """Ask the worklist of a rule that has one. Raises WireError and LedgerError."""
        worklist = rule.worklist
        assert worklist is not None
        found = _Found()
        for question in questions(worklist.keys, evaluation, _wanted(rule)):
            self._ask(node, question, found, cancelled)
        for row in found.rows:
            for step in steps_of(row):
                self._take(rule, worklist, step, evaluation, manual, found)
        notices = each_once(found.notices)
        if found.complete:
            notices += self._missing(rule, worklist, evaluation, found)
        return WorklistAnswer(
            notices=notices,
            matches=len(found.rows),
            queries=found.queries,
            complete=found.complete,
            reason=" ".join(found.doubts),
            account=_account(found.left_out),
            dropped=dict(found.dropped),
        )

    def _ask(self, node: Node, question: Identifier, found: _Found, cancelled: threading.Event) -> None:
        room = MAXIMUM_MATCHES - len(found.rows)
        if not room:
            return  # an answer before has said so
        result = self._inquiry.worklist(node, question, Urgency.SWEEP, cancelled, maximum=room)
        found.queries += 1
        found.asked |= question.elements.keys() | _items_asked(question)
        found.rows += result.identifiers
        if result.undecodable:
            found.dropped["undecodable"] += result.undecodable
            found.doubt(f"{node.name} sent matches that cannot be decoded.")
        if len(result.identifiers) >= room:
            found.doubt(f"{node.name} has more than {MAXIMUM_MATCHES} matches; narrow the keys of the worklist.")
        elif result.status != 0:
            found.doubt(f"{node.name} ended its answer early, status {result.status:04X}; narrow the keys.")
        elif not result.undecodable and not self._inquiry.whole(node, result):
            found.doubt(
                f"{node.name} answered {len(result.identifiers)} matches, at which it cuts its answers; "
                "narrow the keys of the worklist."
            )

    def _take(
        self,
        rule: Rule,
        worklist: Worklist,
        step: Identifier,
        evaluation: Evaluation,
        manual: bool,
        found: _Found,
    ) -> None:
        """Note what a step says of an appointment, or why it says nothing."""
        if not step.elements.get(STEP_SEQUENCE):
            found.left_out["without a scheduled procedure step"] += 1
            found.doubt("The worklist left out Scheduled Procedure Step Sequences, so nobody can say what is missing.")
            return
        one = notice(rule, only(step, found.asked), evaluation, manual=manual)
        mismatch = against(worklist.keys, step, evaluation)
        if mismatch is not None:
            found.left_out[mismatch.reason] += 1
            if mismatch.undecided:
                found.seen.add(one.key)
            return
        if not rule.where.holds(step, evaluation):
            found.left_out[rule.where.explain(step, evaluation).reason] += 1
            return
        found.seen.add(one.key)
        if word := patient_refusal(step):
            found.left_out[f"its PatientID cannot be used in a query ({word})"] += 1
            self._observer(ValueRefused(rule=rule.name, trigger="worklist", attribute="PatientID", reason=word))
        elif ended(step) == COMPLETED:
            found.left_out["done already"] += 1
        elif past(step, evaluation, LONG_BEGUN):
            found.left_out["begun long ago"] += 1
        else:
            found.notices.append(one)

    def _missing(self, rule: Rule, worklist: Worklist, evaluation: Evaluation, found: _Found) -> list[Notice]:
        """The end of appointments that should be in a complete answer, and are not."""
        asked = range_of(worklist.keys, evaluation)
        if asked is None:
            return []
        dates = [key for key in worklist.keys if key.tag == START_DATE]
        expected = [
            one
            for one in self._ledger.expected(rule.name, asked[0] - _OTHER_OFFSET, asked[1] + _OTHER_OFFSET)
            if one.trigger == "worklist" and against(dates, one.current, evaluation) is None
        ]
        gone = vanished(expected, found.seen, evaluation.now)
        if len(gone) > MANY and 2 * len(gone) > len(expected):
            found.doubt(
                f"The worklist lacks {len(gone)} of {len(expected)} appointments that are expected; "
                "none is taken for cancelled."
            )
            return []
        return gone


class _Found:
    """What was found so far."""

    def __init__(self) -> None:
        self.rows: list[Identifier] = []
        self.asked: set[int] = set()
        self.queries = 0
        self.notices: list[Notice] = []
        self.seen: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.doubts: list[str] = []

    @property
    def complete(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.doubts

    def doubt(self, sentence: str) -> None:
        """Why it is not all there is."""
        if sentence not in self.doubts:
            self.doubts.append(sentence)


def _wanted(rule: Rule) -> frozenset[int]:
    """What the rule's own conditions look at."""
    of_priors = attributes_of(rule.priors) if rule.priors is not None else frozenset()
    inside = {clause.path[1] for clause in rule.where.clauses if clause.path[0] == STEP_SEQUENCE and clause.path[1:]}
    return rule.where.attributes | inside | (of_priors & (STEP_KEYS | WORKLIST_KEYS))


def _items_asked(question: Identifier) -> set[int]:
    """The attributes of the step that a question asks for."""
    items = question.elements[STEP_SEQUENCE]
    return {tag for item in items if isinstance(item, Identifier) for tag in item.elements}


def _account(left_out: Counter[str]) -> str:
    if not left_out:
        return ""
    told = [f"{count}: {reason}" for reason, count in left_out.most_common(_REASONS_TOLD)]
    more = left_out.total() - sum(count for _, count in left_out.most_common(_REASONS_TOLD))
    rest = [f"{more}: for other reasons"] if more else []
    return f"Steps left out: {'; '.join(told + rest)}."
