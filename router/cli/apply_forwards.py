"""The part of `apply` that is about what has arrived: it has it looked at now, and says what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from router.cli.render import counted
from router.domain.arriving import ArrivalDue
from router.domain.forward_explanation import NOT_QUIET
from router.domain.passing import ArrivalState
from router.domain.rule import LOCAL, Rule
from router.domain.selection import Action, Decision
from router.domain.transfer import Happening, Route, State, Transfer
from router.engine.forward_look import ForwardLook
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger

_MANY = 100_000
_OPEN = (ArrivalState.WAITING, ArrivalState.LOOKING)


class Asked(NamedTuple):
    """What one rule was asked for."""

    rule: str
    studies: int
    """In the store, from its senders."""
    forwarded: frozenset[str]
    """Study Instance UIDs of what is to go now."""
    arriving: int
    """Studies that are not quiet yet: they go by themselves once they are."""
    reason: str = ""
    """Why not all was looked at."""

    @property
    def sentence(self) -> str:
        """The same for people."""
        text = (
            f"{self.rule}: {counted(self.studies, 'study', 'studies')} in the store, {len(self.forwarded)} to forward"
        )
        if self.arriving:
            text += f", {self.arriving} still arriving (forwarded once nothing more comes)"
        return f"{text}. {self.reason}".rstrip()

    @property
    def row(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "rule": self.rule,
            "studies": self.studies,
            "to_forward": len(self.forwarded),
            "arriving": self.arriving,
            "reason": self.reason,
        }


class Forwards:
    """What these rules pass on, from the moment they were asked."""

    def __init__(self, ledger: SqlLedger, asked: Sequence[Asked], since: datetime) -> None:
        """`since`: when they were asked."""
        self._ledger = ledger
        self.asked = asked
        self.since = since

    @property
    def transfers(self) -> list[Transfer]:
        """Those of the studies that were to go. Raises LedgerError."""
        found: list[Transfer] = []
        for one in self.asked:
            if one.forwarded:
                of_rule = self._ledger.transfers(rule=one.rule, source=LOCAL, limit=_MANY)
                found += [t for t in of_rule if t.intent.study_instance_uid in one.forwarded and self._is_news(t)]
        return found

    def undecided(self, transfers: Sequence[Transfer]) -> int:
        """Studies that were to go and are still to be looked at: for the first time, or for another node of a group."""
        decided = {(one.rule, one.intent.study_instance_uid) for one in transfers}
        under_way = {(one.rule, one.intent.study_instance_uid) for one in transfers if not one.ended}
        failed = {(one.rule, one.intent.study_instance_uid) for one in transfers if one.state is State.FAILED}
        decided -= failed - under_way
        left = [(one.rule, study) for one in self.asked for study in one.forwarded if (one.rule, study) not in decided]
        waiting: set[tuple[str, str]] = set()
        for rule in {rule for rule, _ in left}:
            rows = self._ledger.arrivals(rule=rule, states=_OPEN, limit=_MANY)
            waiting |= {(rule, one.study_instance_uid) for one in rows}
        return len(waiting.intersection(left))

    def _is_news(self, transfer: Transfer) -> bool:
        return not transfer.ended or transfer.updated_at >= self.since


def ask(ledger: SqlLedger, look: ForwardLook, chosen: Sequence[Rule], now: datetime) -> Forwards:
    """Make all due that is in the store and was not passed on; what failed is tried again. Raises LedgerError."""
    return Forwards(ledger, [_ask(ledger, look, rule, now) for rule in chosen if rule.forward is not None], now)


def _ask(ledger: SqlLedger, look: ForwardLook, rule: Rule, now: datetime) -> Asked:
    answer = look.plan(rule, now)
    decisions = answer.selection.decisions
    for one in decisions:
        if one.action is Action.MOVE and _failed_before(one) and one.transfer is not None:
            _again(ledger, one.transfer, now)
    goes = frozenset(one.study_instance_uid for one in decisions if one.action is Action.MOVE)
    comes = {one.study_instance_uid for one in decisions if one.code == NOT_QUIET}
    due = [ArrivalDue(rule.name, study, now, whole=True) for study in sorted(goes | comes)]
    for node in rule.move.to if goes else ():
        ledger.probe_route(Route(LOCAL, node), now)
    ledger.note_arrivals(due, now)
    return Asked(rule.name, answer.matches, goes, len(comes - goes), answer.reason)


def _failed_before(decision: Decision) -> bool:
    return decision.new is not None and decision.new.happening is Happening.AGAIN


def _again(ledger: SqlLedger, transfer_id: int, now: datetime) -> None:
    """Try a transfer again; one that has meanwhile begun again is left alone."""
    try:
        ledger.apply(transfer_id, Happening.AGAIN, now)
    except LedgerError:
        if (transfer := ledger.transfer(transfer_id)) is None or transfer.ended:
            raise
