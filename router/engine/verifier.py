"""One look for evidence: the verdict, another look later, a repair of the gap, or another attempt."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta

import msgspec

from router.domain.causes import LOOSE
from router.domain.commitment import CLASS_NOT_COMMITTED, PASSING, failure_sentence
from router.domain.outcome import (
    CAUSES,
    CLEAN,
    Evidence,
    Expectation,
    Remedy,
    Verdict,
    judge,
    retry_wait,
)
from router.domain.rule import LOCAL, Move, Node, RuleSet
from router.domain.store_causes import STORE_CAUSES
from router.domain.transfer import Finish, Happening, Transfer
from router.engine.commitment import Committer, Unanswered, Waiting
from router.engine.evidence import EvidenceGatherer, Unavailable, commits
from router.engine.ports import Clock, Ledger, Observer, Pseudonym
from router.engine.step import end_step
from router.engine.tally import Tallies
from router.engine.terms import Terms
from router.errors import Cancelled

LOOK_DELAYS = {"receipts": (0.1, 0.3, 1.0, 3.0, 10.0), "find": (0.5, 2.0, 5.0, 15.0, 30.0, 60.0), "commitment": ()}
"""Seconds before the next look while a destination may still be taking in what was sent without a fault.

What it says of storage commitment it says once.
"""

ANEW_DELAYS = (10.0, 60.0)
"""Seconds before it is asked for storage commitment anew, while what it lacks may still come."""

NOTHING_YET_DELAYS = (0.1, 0.5, 1.0, 3.0, 10.0, 20.0, 30.0, 60.0)
"""The same while nothing at all has come: some archives report success when they have noted the request."""

ARRIVING_DELAY = 30.0
"""The same for as long as each look finds more than the one before."""

QUIET_DELAYS = (0.2, 1.0, 3.0)
"""The same after a C-MOVE that broke: what was under way ends soon."""

ABSENT_DELAYS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)
"""Seconds before the next look while the destination cannot be reached: a restart of a PACS takes its time."""

MAXIMUM_ROUNDS = 2
"""Repairs of a gap per transfer."""

_SHORT = frozenset({Happening.SOME_MISSING, Happening.CONTRADICTION, Happening.FAIL})


class Verifier:
    """Looks for evidence of claimed transfers and ends them."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        evidence: EvidenceGatherer,
        committer: Committer,
        tallies: Tallies,
        terms: Terms,
        clock: Clock,
        observer: Observer,
        pseudonym: Pseudonym,
    ) -> None:
        self._rules = rules
        self._ledger = ledger
        self._evidence = evidence
        self._committer = committer
        self._tallies = tallies
        self._terms = terms
        self._clock = clock
        self._observer = observer
        self._pseudonym = pseudonym

    def run(self, transfer: Transfer, cancelled: threading.Event) -> Transfer | None:
        """One look; returns the transfer as the ledger has it then, None where the claim was lost."""
        started_at = self._clock.now()
        rules = self._rules()
        move = self._terms.move(transfer, rules)
        expectation = self._expected(transfer, rules)
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
        if finish.happening not in (Happening.LATER, Happening.INTERRUPTED):
            self._tallies.end(transfer)
        observer = None if finish.happening is Happening.LATER else self._observer
        ended = end_step(
            transfer,
            finish,
            started_at,
            ledger=self._ledger,
            clock=self._clock,
            pseudonym=self._pseudonym,
            observer=observer,
        )
        self._terms.ended(transfer, ended)
        return ended

    def _expected(self, transfer: Transfer, rules: RuleSet) -> Expectation:
        """What the source said that it holds, as the mover remembered it."""
        source = self._terms.node(transfer.intent.source, transfer, rules)
        if source is not None and source.find.expected == "none":
            return Expectation()
        instances = self._ledger.expected_instances(transfer.id)
        whole = instances is not None and len(instances) == transfer.expected
        return Expectation(
            instances=frozenset(instances) if instances else None,
            series=None if whole else self._ledger.expected_series(transfer.id),
            count=transfer.expected if transfer.expected is not None else transfer.instance_count,
        )

    def _look(
        self, transfer: Transfer, expectation: Expectation, move: Move, rules: RuleSet, cancelled: threading.Event
    ) -> Finish:
        try:
            evidence = self._gather(transfer, expectation, move.verify, rules, cancelled)
        except Unavailable as error:
            if transfer.looks < len(ABSENT_DELAYS):
                return self._finish(transfer, Happening.LATER, str(error), wait=ABSENT_DELAYS[transfer.looks])
            evidence = Evidence(kind="none", note=str(error))
        if isinstance(evidence, Waiting):
            return self._finish(transfer, Happening.LATER, evidence.reason, wait=evidence.seconds)
        verdict = _with_reasons(judge(expectation, evidence, transfer.cause), evidence)
        if transfer.intent.source == LOCAL and verdict.happening in _SHORT:
            verdict = self._as_sent(transfer, verdict, evidence)
        self._tallies.look(transfer, verdict.there if evidence.kind != "none" else None)
        if verdict.happening not in _SHORT:
            wait = _next_look(transfer, evidence, verdict)
            if verdict.happening is Happening.NO_EVIDENCE and wait is not None:
                return self._finish(transfer, Happening.LATER, verdict.reason, verdict, wait=wait)
            if verdict.happening is Happening.NO_EVIDENCE and expectation.instances is not None:
                self._ledger.set_delivered(transfer, sorted(expectation.instances))
            return self._finish(transfer, verdict.happening, verdict.reason, verdict)
        return self._short(transfer, move, evidence, verdict)

    def _gather(
        self, transfer: Transfer, expectation: Expectation, verify: str, rules: RuleSet, cancelled: threading.Event
    ) -> Evidence | Waiting:
        """The strongest evidence that the rule allows and the destination gives; a weaker one says why in its note."""
        destination = self._terms.node(transfer.intent.destination, transfer, rules)
        settings = destination.commitment if destination is not None and commits(destination, verify) else None
        if destination is None or settings is None or expectation.size == 0:
            if verify == "commitment" and destination is not None and expectation.size != 0:
                return Evidence(kind="none", note=f"{destination.name} is no longer configured to commit itself.")
            return self._evidence.gather(transfer, destination, verify, cancelled)
        under_way = transfer.cause in LOOSE and transfer.looks < len(QUIET_DELAYS)
        if under_way and not self._committer.asked(transfer, destination):
            return Waiting(QUIET_DELAYS[transfer.looks], "What was under way when the move broke may still arrive.")
        source = self._terms.node(transfer.intent.source, transfer, rules)
        said = self._committer.look(transfer, expectation, source, destination, settings, cancelled)
        if isinstance(said, Waiting):
            return said
        if isinstance(said, Evidence):
            return self._with_other_classes(transfer, said, verify, destination, cancelled)
        if verify == "commitment":
            return _no_commitment(said)
        evidence = self._evidence.gather(transfer, destination, verify, cancelled)
        return msgspec.structs.replace(evidence, note=f"{said.reason} {evidence.note}".strip())

    def _with_other_classes(
        self, transfer: Transfer, evidence: Evidence, verify: str, destination: Node, cancelled: threading.Event
    ) -> Evidence:
        """With those whose SOP class the destination does not commit itself to, if a C-FIND shows that it has them."""
        others = {uid for uid, reason in evidence.failures.items() if reason == CLASS_NOT_COMMITTED}
        if not others or verify != "auto":
            return evidence
        found = self._evidence.gather(transfer, destination, verify, cancelled).present or frozenset()
        return msgspec.structs.replace(
            evidence,
            present=(evidence.present or frozenset()) | (others & found),
            failures={uid: reason for uid, reason in evidence.failures.items() if uid not in others & found},
            note=f"{destination.name} does not commit itself to some SOP classes; those were asked for by C-FIND.",
        )

    def _as_sent(self, transfer: Transfer, verdict: Verdict, evidence: Evidence) -> Verdict:
        """The verdict on what this router sent itself: it knows what was acknowledged, and why the rest was not."""
        happening, reason = verdict.happening, verdict.reason
        if evidence.kind == "none" and transfer.completed:
            happening = Happening.SOME_MISSING
        if transfer.cause in STORE_CAUSES and transfer.cause not in CLEAN:
            moves = [one.discreet.reason for one in self._ledger.attempts(transfer.id) if one.step == "move"]
            held = f"The destination holds {verdict.there}." if verdict.there not in (None, transfer.completed) else ""
            reason = " ".join(filter(None, (held, *moves[-1:])))
        return msgspec.structs.replace(verdict, happening=happening, reason=reason or verdict.reason)

    def _short(self, transfer: Transfer, move: Move, evidence: Evidence, verdict: Verdict) -> Finish:
        if evidence.kind == "commitment" and _not_yet(transfer, evidence, verdict):
            self._committer.forget(transfer, transfer.intent.destination)
            return self._finish(transfer, Happening.LATER, verdict.reason, verdict, wait=ANEW_DELAYS[transfer.looks])
        patience = _next_look(transfer, evidence, verdict)
        if patience is not None:
            return self._finish(transfer, Happening.LATER, verdict.reason, verdict, wait=patience)
        remedy = CAUSES[transfer.cause].remedy if transfer.cause in CAUSES else Remedy.LATER
        wait = retry_wait(move.retry, transfer.cause, transfer.attempts, random.random())
        gap = bool(verdict.missing or verdict.short)
        if transfer.cause == "lease-lost" and evidence.kind == "none" and wait is not None:
            return self._finish(transfer, Happening.RETRY, verdict.reason, verdict)
        if transfer.intent.source == LOCAL and transfer.cause in LOOSE and wait is not None:
            # What broke off goes on: nothing was lost that would have to be repaired.
            return self._finish(transfer, Happening.RETRY, verdict.reason, verdict, wait=wait.total_seconds())
        if wait is not None and transfer.rounds < MAXIMUM_ROUNDS:
            # A repair that brought nothing was a round as well: what cannot be moved is not asked for again and again.
            in_vain = transfer.rounds > 0 and transfer.cause == "all-failed"
            if gap and (in_vain or remedy in (Remedy.NONE, Remedy.SMALLER)):
                seconds = wait.total_seconds() if in_vain else 0.0
                return self._finish(transfer, Happening.GAP, verdict.reason, verdict, wait=seconds)
            if remedy in (Remedy.SOON, Remedy.LATER, Remedy.SMALLER):
                return self._finish(transfer, Happening.RETRY, verdict.reason, verdict, wait=wait.total_seconds())
        self._ledger.set_missing(transfer, sorted(verdict.missing))
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


def _with_reasons(verdict: Verdict, evidence: Evidence) -> Verdict:
    """The verdict with all that was said: what it rests on, what was refused, why nothing stronger was to be had."""
    reason = verdict.reason
    if verdict.happening is Happening.PROVEN and evidence.kind == "commitment" and not evidence.note:
        reason = f"The destination has committed itself to all {verdict.there} instances."
    note = evidence.note if evidence.note not in reason else ""
    said = (reason, failure_sentence(evidence.failures), note)
    return msgspec.structs.replace(verdict, reason=" ".join(filter(None, said)))


def _not_yet(transfer: Transfer, evidence: Evidence, verdict: Verdict) -> bool:
    """Whether what was not committed may be soon: the move did not fail, and the destination may still take it in."""
    if transfer.looks >= len(ANEW_DELAYS) or transfer.cause not in CLEAN | LOOSE | {"success-empty"}:
        return False
    return any(evidence.failures.get(one.sop_instance_uid, 0) in PASSING for one in verdict.missing)


def _no_commitment(said: Unanswered) -> Evidence:
    """Where the rule takes nothing but storage commitment. Raises Unavailable where it may be had later."""
    if not said.lasting:
        raise Unavailable(said.reason)
    return Evidence(kind="none", note=said.reason)


def _next_look(transfer: Transfer, evidence: Evidence, verdict: Verdict) -> float | None:
    """Seconds until another look, while more evidence may still come, given how the C-MOVE ended; None: look no more.

    An archive may report success at once and begin a minute later. As long as instances arrive it is looked again.
    """
    there = verdict.there or 0
    if not LOOK_DELAYS.get(evidence.kind):
        return None
    if transfer.cause in CLEAN or transfer.cause == "success-empty":
        delays = LOOK_DELAYS[evidence.kind] if there else NOTHING_YET_DELAYS
    elif transfer.cause in LOOSE:
        delays = QUIET_DELAYS
    else:
        return None
    if transfer.looks < len(delays):
        return delays[transfer.looks]
    return ARRIVING_DELAY if transfer.looks and there > transfer.completed else None
