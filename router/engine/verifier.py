"""One look for evidence: the verdict, another look later, a repair of the gap, or another attempt."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta

from router.domain.outcome import (
    CAUSES,
    CLEAN,
    Evidence,
    Expectation,
    Remedy,
    Verdict,
    judge,
)
from router.domain.rule import Move, RuleSet
from router.domain.transfer import Finish, Happening, Transfer, backoff
from router.engine.evidence import EvidenceGatherer, Unavailable
from router.engine.ports import Clock, Ledger, Observer
from router.engine.step import end_step
from router.errors import Cancelled

LOOK_DELAYS = {"receipts": (0.1, 0.3, 1.0, 3.0, 10.0), "find": (0.5, 2.0, 5.0, 15.0, 30.0, 60.0)}
"""Seconds before the next look while a destination may still be taking in what was sent without a fault."""

QUIET_DELAYS = (0.2, 1.0, 3.0)
"""The same after a C-MOVE that broke: what was under way ends soon."""

ABSENT_DELAYS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)
"""Seconds before the next look while the destination cannot be reached: a restart of a PACS takes its time."""

MAXIMUM_ROUNDS = 2
"""Repairs of a gap per transfer."""

_BROKEN = frozenset({"lease-lost", "connection-lost", "timeout", "aborted"})
"""Causes after which stores may still be under way (PS3.4 section C.4.2.3.1)."""

_SHORT = frozenset({Happening.SOME_MISSING, Happening.CONTRADICTION, Happening.FAIL})


class Verifier:
    """Looks for evidence of claimed transfers and ends them."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        evidence: EvidenceGatherer,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._rules = rules
        self._ledger = ledger
        self._evidence = evidence
        self._clock = clock
        self._observer = observer

    def run(self, transfer: Transfer, cancelled: threading.Event) -> Transfer | None:
        """One look; returns the transfer as the ledger has it then, None where the claim was lost."""
        started_at = self._clock.now()
        rules = self._rules()
        rule = rules.rules.get(transfer.rule)
        move = rule.move if rule else Move(to=(transfer.intent.destination,))
        instances = self._ledger.expected_instances(transfer.id)
        expectation = Expectation(
            instances=frozenset(instances) if instances is not None else None,
            count=transfer.expected if transfer.expected is not None else transfer.instance_count,
        )
        try:
            finish = self._look(transfer, expectation, move, rules, cancelled)
        except Cancelled:
            finish = Finish(
                happening=Happening.INTERRUPTED,
                cause=transfer.cause,
                reason=transfer.reason,
                status=transfer.status,
                expected=transfer.expected,
                completed=transfer.completed,
                failed=transfer.failed,
                warning=transfer.warning,
            )
        observer = None if finish.happening is Happening.LATER else self._observer
        return end_step(transfer, finish, started_at, ledger=self._ledger, clock=self._clock, observer=observer)

    def _look(
        self, transfer: Transfer, expectation: Expectation, move: Move, rules: RuleSet, cancelled: threading.Event
    ) -> Finish:
        destination = rules.node(transfer.intent.destination)
        try:
            evidence = self._evidence.gather(transfer, destination, move.verify, cancelled)
        except Unavailable as error:
            if transfer.looks < len(ABSENT_DELAYS):
                return self._finish(transfer, Happening.LATER, str(error), wait=ABSENT_DELAYS[transfer.looks])
            evidence = Evidence(kind="none", note=str(error))
        verdict = judge(expectation, evidence, transfer.cause)
        if verdict.happening not in _SHORT:
            delays = _patience(evidence, transfer.cause)
            if verdict.happening is Happening.NO_EVIDENCE and transfer.looks < len(delays):
                return self._finish(transfer, Happening.LATER, verdict.reason, verdict, wait=delays[transfer.looks])
            if verdict.happening is Happening.NO_EVIDENCE and expectation.instances is not None:
                self._ledger.set_delivered(transfer, sorted(expectation.instances))
            return self._finish(transfer, verdict.happening, verdict.reason, verdict)
        return self._short(transfer, move, evidence, verdict)

    def _short(self, transfer: Transfer, move: Move, evidence: Evidence, verdict: Verdict) -> Finish:
        delays = _patience(evidence, transfer.cause)
        if transfer.looks < len(delays):
            return self._finish(transfer, Happening.LATER, verdict.reason, verdict, wait=delays[transfer.looks])
        remedy = CAUSES[transfer.cause].remedy if transfer.cause in CAUSES else Remedy.LATER
        budget_left = transfer.attempts < move.retry.attempts
        if transfer.cause == "lease-lost" and evidence.kind == "none":
            return self._finish(transfer, Happening.RETRY, verdict.reason, verdict)
        if remedy in (Remedy.NONE, Remedy.SMALLER) and verdict.missing and transfer.rounds < MAXIMUM_ROUNDS:
            if budget_left:
                return self._finish(transfer, Happening.GAP, verdict.reason, verdict)
        elif remedy in (Remedy.SOON, Remedy.LATER, Remedy.SMALLER) and budget_left and transfer.rounds < MAXIMUM_ROUNDS:
            wait = backoff(move.retry, max(1, transfer.attempts), random.random()).total_seconds()
            return self._finish(transfer, Happening.RETRY, verdict.reason, verdict, wait=wait)
        return self._finish(transfer, verdict.happening, verdict.reason, verdict)

    def _finish(
        self,
        transfer: Transfer,
        happening: Happening,
        reason: str,
        verdict: Verdict | None = None,
        *,
        wait: float = 0.0,
    ) -> Finish:
        completed = verdict.there if verdict and verdict.there is not None else transfer.completed
        return Finish(
            happening=happening,
            next_at=self._clock.now() + timedelta(seconds=wait),
            cause=transfer.cause,
            reason=reason,
            status=transfer.status,
            expected=transfer.expected,
            completed=completed,
            failed=transfer.failed,
            warning=transfer.warning,
        )


def _patience(evidence: Evidence, cause: str) -> tuple[float, ...]:
    """How long to look again while more evidence may still come, given how the C-MOVE ended."""
    if evidence.kind == "none":
        return ()
    if cause in CLEAN or cause == "success-empty":
        return LOOK_DELAYS[evidence.kind]
    return QUIET_DELAYS if cause in _BROKEN else ()
