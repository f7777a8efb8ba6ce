"""One run of a transfer: what is expected, what is there already, a C-MOVE for the difference, the outcome."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from router.domain.dicom import QueryRetrieveLevel, SubOperationCounts
from router.domain.events import MoveResponded, SubOperationsCounted
from router.domain.outcome import (
    CAUSES,
    Evidence,
    Expectation,
    Outcome,
    Portion,
    Remedy,
    all_there,
    error_cause,
    missing_instances,
    outcome_of_error,
    outcome_of_status,
    portions,
)
from router.domain.progress import Progress
from router.domain.rule import LOCAL, Move, Node, RuleSet
from router.domain.transfer import Finish, Happening, Instance, Transfer, backoff
from router.engine.arrivals import Arrivals
from router.engine.evidence import EvidenceGatherer, Unavailable
from router.engine.ports import Clock, Ledger, MoveProgress, MoveRequest, Observer, Peers
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import NodeSlots, Urgency
from router.engine.step import end_step
from router.errors import Cancelled, DeadlineExceeded, WireError

_RENEW_SECONDS = 1.0
PENDING = (0xFF00, 0xFF01)
LEASE_SECONDS = 60.0

NOTHING_BEGAN = frozenset({"unreachable", "rejected", "rejected-busy", "no-context"})
"""Causes that say no sub-operation can have begun: there is no evidence to look for."""

REFUSED_AS_SUCH = frozenset({"identifier-mismatch", "unable-to-process", "argument", "unknown-status"})
"""Causes that may mean: not at this level, or not with a list of UIDs."""

_PRIORITY = {0: 1, 1: 0, 2: 2}
"""A rule's priority (0 urgent, 1 normal, 2 low) -> Priority (0000,0700): 1 high, 0 medium, 2 low."""


class Kit(NamedTuple):
    """What an attempt works with."""

    peers: Peers
    ledger: Ledger
    inquiry: Inquiry
    evidence: EvidenceGatherer
    slots: NodeSlots
    arrivals: Arrivals
    clock: Clock
    observer: Observer


class Mover:
    """Runs claimed transfers. `run` never raises WireError: every end is written to the ledger."""

    def __init__(self, rules: Callable[[], RuleSet], kit: Kit) -> None:
        self._rules = rules
        self._kit = kit

    def run(self, transfer: Transfer, cancelled: threading.Event) -> Transfer | None:
        """Run one attempt of a claimed transfer; returns it as the ledger has it then, None if the claim was lost."""
        started_at = self._kit.clock.now()
        rules = self._rules()
        rule = rules.rules.get(transfer.rule)
        move = rule.move if rule else Move(to=(transfer.intent.destination,))
        source = rules.node(transfer.intent.source)
        destination = rules.node(transfer.intent.destination)
        local = transfer.intent.destination == LOCAL
        if source is None or (destination is None and not local):
            gone = transfer.intent.source if source is None else transfer.intent.destination
            return self._end(transfer, _failed("node-removed", f"The configuration has no node {gone}."), started_at)
        ae_title = rules.router.ae_title if local or destination is None else destination.ae_title
        attempt = _Attempt(self._kit, transfer, move, source, destination, ae_title, cancelled)
        return self._end(transfer, attempt.run(), started_at)

    def _end(self, transfer: Transfer, finish: Finish, started_at: datetime) -> Transfer | None:
        kit = self._kit
        return end_step(transfer, finish, started_at, ledger=kit.ledger, clock=kit.clock, observer=kit.observer)


class _Attempt:
    """One attempt's working state."""

    def __init__(
        self,
        kit: Kit,
        transfer: Transfer,
        move: Move,
        source: Node,
        destination: Node | None,
        ae_title: str,
        cancelled: threading.Event,
    ) -> None:
        self._kit = kit
        self._transfer = transfer
        self._move = move
        self._source = source
        self._destination = destination
        self._ae_title = ae_title
        self._cancelled = cancelled
        self._renewed = time.monotonic()
        self._done = SubOperationCounts(None, 0, 0, 0)
        self._progressed = transfer.completed > 0 and transfer.attempts + transfer.rounds > 0
        """Something may have arrived, whatever the final status: evidence has the last word."""

    def run(self) -> Finish:
        """The whole attempt; how it ended."""
        try:
            expectation = self._expect()
            if expectation.size == 0:
                return Finish(happening=Happening.EMPTY, cause="gone", reason=CAUSES["gone"].sentence, expected=0)
            evidence = self._evidence_before()
            if evidence and all_there(expectation, evidence):
                return self._already_there(expectation, evidence)
            # A list that is not the whole cannot say what is missing: then everything is moved.
            difference = missing_instances(expectation, evidence) if evidence and expectation.listed_in_full else None
            return self._after(self._move_all(expectation, difference), expectation)
        except Cancelled:
            return Finish(happening=Happening.INTERRUPTED, cause="cancelled", reason=CAUSES["cancelled"].sentence)
        except QueryFailed as error:
            return self._failed_early("wire", str(error), Remedy.LATER)
        except WireError as error:
            cause = error_cause(error.cause)
            return self._failed_early(cause, str(error), CAUSES[cause].remedy)

    # what is expected, what is there ------------------------------------------------------------------------------

    def _expect(self) -> Expectation:
        """What the source holds now: its IMAGE-level list, else its count, else what the sweep saw."""
        intent, inquiry = self._transfer.intent, self._kit.inquiry
        about = (
            self._source,
            intent.study_instance_uid,
            intent.series_instance_uid,
            self._transfer.patient_id,
            Urgency.MOVE,
            self._cancelled,
        )
        known = self._transfer.instance_count if not self._transfer.attempts else None
        try:
            instances = inquiry.instances(*about, known_count=known)
            if instances:
                self._kit.ledger.set_expected(self._transfer, instances)
                return Expectation(instances=frozenset(instances), count=self._transfer.instance_count)
            # Some archives answer no IMAGE query: an empty list means nothing unless the count agrees.
            count = inquiry.count(*about)
        except (QueryFailed, DeadlineExceeded):
            count = None
        return Expectation(count=count if count is not None else self._transfer.instance_count)

    def _evidence_before(self) -> Evidence | None:
        """What the destination holds before the move; None where it cannot be said or is not asked for."""
        if not self._move.skip_present and not self._transfer.attempts and not self._transfer.rounds:
            return None
        try:
            evidence = self._kit.evidence.gather(self._transfer, self._destination, self._move.verify, self._cancelled)
        except Unavailable:
            return None
        if evidence.kind != "none":
            return evidence
        delivered = self._kit.ledger.delivered_instances(self._transfer.id)
        if not delivered:
            return None
        return Evidence(kind="sent", present=frozenset(i.sop_instance_uid for i in delivered), note=evidence.note)

    @staticmethod
    def _already_there(expectation: Expectation, evidence: Evidence) -> Finish:
        proven = evidence.kind != "sent"
        return Finish(
            happening=Happening.PROVEN if proven else Happening.NO_EVIDENCE,
            cause="already-present",
            reason=CAUSES["already-present"].sentence if proven else f"Sent before. {evidence.note}",
            expected=expectation.size,
            completed=expectation.size or 0,
        )

    # moving -------------------------------------------------------------------------------------------------------

    def _move_all(self, expectation: Expectation, difference: frozenset[Instance] | None) -> Outcome:
        """Every C-MOVE that is needed; the outcome of the first that was not clean, else of the last."""
        whole = difference is None or (expectation.instances is not None and difference == expectation.instances)
        if whole:
            return self._move_one(Portion(size=expectation.size or 0), expectation.size)
        outcome = None
        for portion in portions(difference or (), expectation.instances or (), self._source.move.max_uids):
            last = self._move_portion(portion, expectation)
            if last.remedy in (Remedy.STOP_ROUTE, Remedy.PERMANENT, Remedy.LATER):
                return last
            if outcome is None or outcome.remedy is Remedy.NONE:
                outcome = last
        assert outcome is not None
        return outcome

    def _move_portion(self, portion: Portion, expectation: Expectation) -> Outcome:
        """A part of the difference; a source that refuses lists of instances is asked for their series, or all."""
        outcome = self._move_one(portion, portion.size)
        of = expectation.instances or frozenset()
        wider = [Portion(size=len(of))]
        if portion.sop_instance_uids:
            series = portion.series_instance_uids
            size = sum(one.series_instance_uid in series for one in of)
            wider.insert(0, Portion(series_instance_uids=series, size=size))
        for attempt in wider:
            if outcome.cause not in REFUSED_AS_SUCH or outcome.counts.completed:
                break
            outcome = self._move_one(attempt, attempt.size)
        return outcome

    def _move_one(self, portion: Portion, asked: int | None) -> Outcome:
        intent = self._transfer.intent
        level = (
            QueryRetrieveLevel.IMAGE
            if portion.sop_instance_uids
            else QueryRetrieveLevel.SERIES
            if portion.series_instance_uids or intent.series_instance_uid
            else QueryRetrieveLevel.STUDY
        )
        request = MoveRequest(
            destination_ae_title=self._ae_title,
            level=level,
            study_instance_uid=intent.study_instance_uid,
            series_instance_uids=portion.series_instance_uids
            or ((intent.series_instance_uid,) if intent.series_instance_uid else ()),
            sop_instance_uids=portion.sop_instance_uids,
            patient_id=self._transfer.patient_id,
            priority=_PRIORITY.get(self._transfer.priority, 0),
        )
        progress = Progress()
        try:
            with self._kit.slots.hold(self._source, Urgency.MOVE, self._cancelled):
                result = self._kit.peers.move(
                    self._source,
                    request,
                    on_response=lambda response: self._on_response(response, progress),
                    last_arrival=lambda: self._kit.arrivals.last(intent.study_instance_uid),
                    cancelled=self._cancelled,
                )
        except Cancelled:
            raise
        except WireError as error:
            return outcome_of_error(error.cause, str(error))
        finally:
            self._add(progress)
            self._count(progress, SubOperationCounts(remaining=0))
        if self._cancelled.is_set() and result.status == 0xFE00:
            raise Cancelled
        return outcome_of_status(result.status, result.counts, asked, result.error_comment)

    def _on_response(self, response: MoveProgress, progress: Progress) -> None:
        intent = self._transfer.intent
        self._kit.observer(MoveResponded(source=intent.source, destination=intent.destination, status=response.status))
        increase = progress.advance(response.counts)
        self._progressed = self._progressed or response.status in PENDING or bool(progress.completed)
        self._count(progress, increase)
        now = time.monotonic()
        if now - self._renewed >= _RENEW_SECONDS:
            self._renewed = now
            if not self._kit.ledger.renew(self._transfer, self._kit.clock.now(), LEASE_SECONDS, self._sum(progress)):
                self._cancelled.set()  # somebody else has it now

    def _count(self, progress: Progress, increase: SubOperationCounts) -> None:
        intent = self._transfer.intent
        self._kit.observer(
            SubOperationsCounted(
                rule=self._transfer.rule,
                source=intent.source,
                destination=intent.destination,
                transfer=self._transfer.id,
                counts=increase,
            )
        )

    def _sum(self, progress: Progress) -> SubOperationCounts:
        done, counts = self._done, progress.counts
        return SubOperationCounts(
            counts.remaining,
            (done.completed or 0) + (counts.completed or 0),
            (done.failed or 0) + (counts.failed or 0),
            (done.warning or 0) + (counts.warning or 0),
        )

    def _add(self, progress: Progress) -> None:
        self._done = self._sum(progress)._replace(remaining=None)

    # how it ended -------------------------------------------------------------------------------------------------

    def _after(self, outcome: Outcome, expectation: Expectation) -> Finish:
        """The outcome of the C-MOVE as a happening: look for evidence, try again, or give up."""
        happening = Happening.MOVED
        next_at = None
        if outcome.remedy in (Remedy.STOP_ROUTE, Remedy.PERMANENT) and not self._progressed:
            happening = Happening.FAIL
        elif outcome.cause in NOTHING_BEGAN:
            if self._transfer.attempts + 1 < self._move.retry.attempts:
                happening = Happening.RETRY
                next_at = self._kit.clock.now() + backoff(
                    self._move.retry, self._transfer.attempts + 1, random.random()
                )
            else:
                happening = Happening.FAIL
        done = self._done
        return Finish(
            happening=happening,
            next_at=next_at,
            cause=outcome.cause,
            reason=outcome.sentence,
            comment=outcome.comment,
            status=outcome.status,
            expected=expectation.size,
            completed=(done.completed or 0) + (done.warning or 0),
            failed=done.failed or 0,
            warning=done.warning or 0,
            moved=True,
        )

    def _failed_early(self, cause: str, reason: str, remedy: Remedy) -> Finish:
        """Failed before any C-MOVE."""
        attempts = self._transfer.attempts + 1
        if remedy in (Remedy.STOP_ROUTE, Remedy.PERMANENT) or attempts >= self._move.retry.attempts:
            return Finish(happening=Happening.FAIL, cause=cause, reason=reason, moved=True)
        next_at = self._kit.clock.now() + backoff(self._move.retry, attempts, random.random())
        return Finish(happening=Happening.RETRY, cause=cause, reason=reason, next_at=next_at, moved=True)


def _failed(cause: str, reason: str) -> Finish:
    return Finish(happening=Happening.FAIL, cause=cause, reason=reason)
