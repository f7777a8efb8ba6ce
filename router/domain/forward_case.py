"""A case about what is passed on: what arrived from whom, what the ledger says, who gets it and why not. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import ClassVar, NamedTuple

import msgspec

from router.domain.anatomy import Anatomy
from router.domain.arriving import Consignment, counting, of_pieces, quiet, taken, with_counts
from router.domain.case import FORWARDED, LEFT, Case, Failure, Got, uid_of
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, known_tag
from router.domain.forward import Group
from router.domain.forward_choice import Health
from router.domain.forward_explanation import CONDITION, NOT_QUIET
from router.domain.forwarding import Known, Passage, decide
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL, Rule, Unit
from router.domain.selection import Action
from router.domain.sweep_case import Fact, Part
from router.domain.transfer import Intent, State, TransferFact

NOT_COUNTED, GROUP, THERE, SENDER = "from", "group", "done", "sender"
CODES = (
    *("new", "grew", "again", "held", "under-way", THERE, "failed-before"),
    *(NOT_COUNTED, NOT_QUIET, CONDITION, SENDER, GROUP),
)
"""Why something is forwarded or left, in one word."""

_THERE = frozenset({State.COMPLETE, State.UNPROVEN})
_STUDY, _SERIES, _INSTANCE = map(known_tag, ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that has arrived."""

    header: Identifier
    series: str
    """The name of its series."""
    sender: str = ""
    """The node it came from; empty: one that no rule names."""
    at: datetime


class ForwardCase(Case, frozen=True, kw_only=True):
    """A case of a rule that passes on what arrives."""

    otherwise: ClassVar[str] = LEFT
    received: Mapping[str, Mapping[str, Arrived]] = {}
    """Study -> its instances by names."""
    health: Mapping[str, Health] = {}
    """Nodes that cannot take anything now; all others can."""
    given: Mapping[str, int] = {}
    """Node -> how many studies it has got of the rule, which is what `round_robin` counts by."""
    manual: bool = True
    """A person asks: what failed is tried again."""
    ledger: Mapping[Part, Mapping[str, Fact]] = {}
    """Study or series -> destination -> what the ledger says; `instances`: the first so many of the case were to go."""

    def run(self, rule: Rule, anatomy: Anatomy, zone: tzinfo) -> list[Failure]:
        """Decide as the service would, and compare."""
        work = _Work(self, rule, Evaluation(self.now, zone))
        failures = []
        for part, members in self.parts(rule):
            for destination in self.destinations:
                got = work.decision(part.study, members, destination)
                wanted = self.expect.get(str(part), self.expect.get(part.study))
                failure = self.compared(str(part), wanted, destination, got)
                if failure is not None:
                    failures.append(msgspec.structs.replace(failure, clauses=work.clauses(part.study, members, got)))
        return failures

    def parts(self, rule: Rule) -> Iterator[tuple[Part, tuple[str, ...]]]:
        """What is decided about, with its instances: what the rule takes as a whole, and what the case names beside."""
        assert rule.forward is not None
        level = rule.forward.level
        for study, instances in self.received.items():
            series = dict.fromkeys(one.series for one in instances.values())
            below = {Part(study): tuple(instances)}
            below |= {Part(study, one): tuple(n for n, i in instances.items() if i.series == one) for one in series}
            below |= {Part(study, one): (one,) for one in instances}
            whole = {Unit.STUDY: [""], Unit.SERIES: list(series), Unit.INSTANCE: list(instances)}[level]
            for part, members in below.items():
                if part.series in whole or (part.series and str(part) in self.expect):
                    yield part, members

    def receipt(self, study: str, name: str) -> Receipt:
        """The receipt of an instance; the sender's AE title is its name."""
        one = self.received[study][name]
        return Receipt(
            study_instance_uid=one.header.text("StudyInstanceUID") or uid_of(study),
            series_instance_uid=one.header.text("SeriesInstanceUID") or uid_of(f"{study}/{one.series}"),
            sop_instance_uid=one.header.text("SOPInstanceUID") or uid_of(f"{study}/{one.series}/{name}"),
            sop_class_uid=one.header.text("SOPClassUID"),
            transfer_syntax_uid="",
            calling_ae_title=one.sender,
            size=0,
            path="",
            received_at=one.at,
        )


class _Left(NamedTuple):
    code: str
    reason: str


class _Work:
    """One case's decisions, by its names."""

    def __init__(self, case: ForwardCase, rule: Rule, evaluation: Evaluation) -> None:
        assert rule.forward is not None
        self._rule = rule
        self._action = rule.forward
        self._evaluation = evaluation
        self._receipts = {
            study: {name: case.receipt(study, name) for name in case.received[study]} for study in case.received
        }
        self._headers = {
            self._receipts[study][name].sop_instance_uid: _filled(one.header, self._receipts[study][name])
            for study, instances in case.received.items()
            for name, one in instances.items()
        }
        self._left: dict[str, _Left] = {}
        """SOP Instance UID -> why the rule does not take it."""
        self._there: dict[str, list[Receipt]] = {}
        consignments: list[Consignment] = []
        for study in case.received:
            consignments += self._taken(study)
        self._passages = decide(
            rule=rule,
            consignments=consignments,
            known=self._known(case),
            health=case.health,
            studies=case.given,
            callers=self._callers,
            manual=case.manual,
        )

    @property
    def _callers(self) -> dict[str, str]:
        names = {one.calling_ae_title for receipts in self._receipts.values() for one in receipts.values()}
        return {name: name for name in names if name}

    def _taken(self, study: str) -> Sequence[Consignment]:
        """What the rule takes of a study; notes why not of the rest."""
        arrival = self._rule.arrival
        assert arrival is not None
        receipts = list(self._receipts[study].values())
        counted = counting(receipts, arrival, self._callers)
        uids = {one.sop_instance_uid for one in counted}
        for one in receipts:
            if one.sop_instance_uid not in uids:
                who = one.calling_ae_title or "a node that is not named"
                self._left[one.sop_instance_uid] = _Left(
                    NOT_COUNTED, f"it came from {who}, and the rule has another from"
                )
        there = of_pieces(counted, arrival.level, quiet(counted, arrival, self._evaluation.now).there)
        is_there = {one.sop_instance_uid for one in there}
        for one in counted:
            if one.sop_instance_uid not in is_there:
                reason = f"more of the {arrival.level} came less than {arrival.stable:g} s ago (arrival.stable)"
                self._left[one.sop_instance_uid] = _Left(NOT_QUIET, reason)
        self._there[study] = there
        if not there:
            return ()
        headers = self._headers_of(there)
        found = taken(self._rule.where, self._action.level, there, headers, self._evaluation)
        gone = {one.sop_instance_uid for part in found.consignments for one in part.receipts}
        header_of = with_counts(there, headers)
        for one in there:
            if one.sop_instance_uid not in gone:
                reason = self._rule.where.explain(header_of(one), self._evaluation).reason or found.reason
                self._left[one.sop_instance_uid] = _Left(CONDITION, reason)
        return found.consignments

    def _headers_of(self, receipts: Sequence[Receipt]) -> dict[str, Identifier]:
        return {one.sop_instance_uid: self._headers[one.sop_instance_uid] for one in receipts}

    def _known(self, case: ForwardCase) -> dict[Intent, Known]:
        found: dict[Intent, Known] = {}
        for part, at in case.ledger.items():
            of_part = [
                self._receipts[part.study][name]
                for name, one in case.received[part.study].items()
                if part.series in ("", one.series)
            ]
            for destination, fact in at.items():
                before = of_part if fact.instances is None else of_part[: fact.instances]
                wanted = frozenset(one.sop_instance_uid for one in before)
                series = of_part[0].series_instance_uid if part.series else ""
                intent = Intent(LOCAL, of_part[0].study_instance_uid, series, destination)
                found[intent] = Known(
                    fact=TransferFact(len(found) + 1, fact.state, len(wanted), fact.cause),
                    wanted=wanted,
                    there=wanted if fact.state in _THERE else frozenset(),
                )
        return found

    # --- What came of it ----------------------------------------------------------------------------------------------

    def decision(self, study: str, members: Sequence[str], destination: str) -> Got:
        """What is decided about these instances at a destination: they are forwarded if one of them is."""
        found = [self._one(self._receipts[study][name], destination) for name in members]
        return next((one for one in found if one.decision == FORWARDED), found[0])

    def _one(self, receipt: Receipt, destination: str) -> Got:
        uid = receipt.sop_instance_uid
        if uid in self._left:
            return Got(decision=LEFT, code=self._left[uid].code, reason=self._left[uid].reason)
        mine = [one for one in self._passages if _is_of(one, receipt)]
        at = next((one for one in mine if one.decision.destination == destination), None)
        if at is None:
            group = next(one for one in self._action.to if destination in one.nodes)
            return self._not_chosen(group, destination, receipt, mine)
        if at.decision.action is not Action.MOVE:
            return Got(decision=LEFT, code=at.decision.code, reason=at.decision.reason)
        if uid not in {one.sop_instance_uid for one in at.wanted}:
            return Got(decision=LEFT, code=SENDER, reason="it came from there")
        if uid not in {one.sop_instance_uid for one in at.missing}:
            return Got(decision=LEFT, code=THERE, reason="it is there already")
        return Got(decision=FORWARDED, code=at.decision.code, reason=at.decision.reason)

    @staticmethod
    def _not_chosen(group: Group, destination: str, receipt: Receipt, mine: Sequence[Passage]) -> Got:
        """Of the group another node gets it, or none."""
        chosen = next((one.decision for one in mine if one.decision.destination in group.nodes), None)
        if chosen is None or receipt.calling_ae_title == destination:
            return Got(decision=LEFT, code=SENDER, reason="it came from there")
        _, _, note = chosen.reason.partition("; ")
        reason = f"of its group ({group.choice}) {chosen.destination} gets it" + (f": {note}" if note else "")
        return Got(decision=LEFT, code=GROUP, reason=reason)

    def clauses(self, study: str, members: Sequence[str], got: Got) -> tuple[str, ...]:
        """What decided it: the clauses that do not hold; all where they let it through."""
        forwarded = got.decision == FORWARDED
        if not forwarded and got.code != CONDITION:
            return ()
        header_of = with_counts(self._there[study], self._headers_of(self._there[study]))
        lines: list[str] = []
        for name in members:
            receipt = self._receipts[study][name]
            if receipt in self._there[study]:
                parts = self._rule.where.explain(header_of(receipt), self._evaluation).parts
                lines += [line for part in parts if forwarded or not part.passed for line in part.render()]
        return tuple(dict.fromkeys(lines))


def _filled(header: Identifier, receipt: Receipt) -> Identifier:
    """A header with the UIDs that were made up for it."""
    made = {
        _STUDY: (receipt.study_instance_uid,),
        _SERIES: (receipt.series_instance_uid,),
        _INSTANCE: (receipt.sop_instance_uid,),
    }
    return Identifier({**header.elements, **made})


def _is_of(passage: Passage, receipt: Receipt) -> bool:
    """Whether a passage is about the study or series of an instance."""
    of = passage.decision
    return of.study_instance_uid == receipt.study_instance_uid and of.series_instance_uid in (
        "",
        receipt.series_instance_uid,
    )
