"""One run of a transfer: what is expected, what is there already, a C-MOVE for the difference, the outcome."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from router.domain.breaker import HELD_OFF, SILENT_CAUSES
from router.domain.causes import LOOSE, UNSENT
from router.domain.dicom import QueryRetrieveLevel, SubOperationCounts
from router.domain.events import MoveResponded
from router.domain.expectation import AS_A_WHOLE, BY_INSTANCE, requests
from router.domain.levels import NEARLINE
from router.domain.outcome import (
    CAUSES,
    Evidence,
    Expectation,
    Outcome,
    Portion,
    Remedy,
    all_there,
    error_cause,
    judge,
    missing_instances,
    outcome_of_error,
    outcome_of_status,
    retry_wait,
    short_series,
)
from router.domain.progress import Progress
from router.domain.route import stops
from router.domain.rule import LOCAL, Move, Node, RuleSet
from router.domain.tenure import LEASE_SECONDS as LEASE_SECONDS
from router.domain.transfer import Finish, Happening, Transfer
from router.engine.evidence import Unavailable, commits
from router.engine.giving_back import after_outage
from router.engine.kit import Kit
from router.engine.leases import lasting
from router.engine.ports import MoveProgress, MoveRequest
from router.engine.query import QueryFailed
from router.engine.retrieval import Asking, Retrieval
from router.engine.routes import Passage
from router.engine.slots import Urgency
from router.engine.step import end_step
from router.errors import Cancelled, LedgerError, WireError

_RENEW_SECONDS = 1.0
_HELD_OFF = timedelta(seconds=1)
_UNTRIED = HELD_OFF | {"ledger"}
PENDING = (0xFF00, 0xFF01)

REFUSED_AS_SUCH = frozenset({"identifier-mismatch", "unable-to-process", "argument", "unknown-status"})
"""Causes that may mean: not at this level, or not with a list of UIDs."""

_PRIORITY = {0: 1, 1: 0, 2: 2}
"""A rule's priority (0 urgent, 1 normal, 2 low) -> Priority (0000,0700): 1 high, 0 medium, 2 low."""


class Mover:
    """Runs claimed transfers. `run` never raises WireError: every end is written to the ledger."""

    def __init__(self, rules: Callable[[], RuleSet], kit: Kit) -> None:
        self._rules = rules
        self._kit = kit

    def run(self, transfer: Transfer, cancelled: threading.Event) -> Transfer | None:
        """Run one attempt of a claimed transfer; returns it as the ledger has it then, None if the claim was lost."""
        started_at = self._kit.clock.now()
        rules = self._rules()
        self._kit.terms.begin(transfer, rules)
        move = self._kit.terms.move(transfer, rules)
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
        ended = end_step(
            transfer,
            finish,
            started_at,
            ledger=kit.ledger,
            clock=kit.clock,
            pseudonym=kit.pseudonym,
            observer=kit.observer,
        )
        kit.terms.ended(transfer, ended)
        return ended


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
        asking = Asking(kit.peers, kit.inquiry, kit.slots, kit.arrivals, kit.detours)
        self._retrieval = Retrieval(asking, transfer, move, source, destination, cancelled)
        self._renewed = time.monotonic()
        self._passage = Passage(kit.routes, transfer, source, kit.arrivals)
        self._done = SubOperationCounts(None, 0, 0, 0)
        self._arrived = 0
        """Instances of the study that came in before the attempt."""
        self._progressed = transfer.completed > 0 and transfer.attempts + transfer.rounds > 0
        """Something may have arrived, whatever the final status: evidence has the last word."""

    def run(self) -> Finish:
        """The whole attempt; how it ended."""
        finish = self._attempt()
        if finish.cause in _UNTRIED or finish.happening not in (Happening.RETRY, Happening.FAIL, Happening.STOPPED):
            lasting(self._passage.untried)
        return finish

    def _attempt(self) -> Finish:
        try:
            expectation = self._expect()
            if expectation.size == 0:
                return Finish(happening=Happening.EMPTY, cause="gone", reason=CAUSES["gone"].sentence, expected=0)
            evidence = self._evidence_before()
            if evidence and all_there(expectation, evidence):
                return self._already_there(expectation, evidence)
            held = judge(expectation, evidence, "success").there if evidence else None
            self._kit.tallies.begin(self._transfer, held)
            self._arrived = self._kit.arrivals.number(self._transfer.intent.study_instance_uid)
            # What neither a list nor the numbers of the series can tell apart is moved as a whole.
            portions = requests(
                expectation,
                missing_instances(expectation, evidence) if evidence else None,
                short_series(expectation, evidence) if evidence else None,
                self._source.move.max_uids,
                self._smallness(),
            )
            outcome = self._move_all(portions, expectation)
            return lasting(lambda: self._after(outcome, expectation))
        except Cancelled:
            return Finish(
                happening=Happening.INTERRUPTED,
                cause="cancelled",
                reason=CAUSES["cancelled"].sentence,
                completed=(self._done.completed or 0) + (self._done.warning or 0),
                failed=self._done.failed or 0,
                warning=self._done.warning or 0,
            )
        except QueryFailed as error:
            return self._failed_early("query-failed", str(error), Remedy.LATER)
        except LedgerError as error:
            if self._passage.begun:
                raise  # what was sent is looked up when the claim is lost
            return after_outage(self._transfer, error, self._kit.clock.now())
        except WireError as error:
            cause = error_cause(error.cause)
            return self._failed_early(cause, str(error), CAUSES[cause].remedy)

    # what is expected, what is there ------------------------------------------------------------------------------

    def _expect(self) -> Expectation:
        """What the source holds now, as far as it is trusted to say; the verifier finds it in the ledger."""
        transfer = self._transfer
        expectation = self._kit.inquiry.expectation(
            self._source,
            transfer.intent.study_instance_uid,
            transfer.intent.series_instance_uid,
            transfer.patient_id,
            Urgency.MOVE,
            self._cancelled,
            seen=transfer.instance_count,
            fresh=transfer.attempts > 0,
        )
        if expectation.instances is not None or transfer.attempts:
            self._kit.ledger.set_expected(transfer, sorted(expectation.instances or ()))
        if not expectation.listed_in_full:
            self._kit.ledger.set_expected_series(transfer, expectation.series or {})
        return expectation

    def _evidence_before(self) -> Evidence | None:
        """What the destination holds before the move; None where it cannot be said or is not asked for."""
        if not self._move.skip_present and not self._transfer.attempts and not self._transfer.rounds:
            return None
        try:
            with self._kit.detours.wait(self._transfer.route):
                evidence = self._kit.evidence.before(
                    self._transfer, self._destination, self._move.verify, self._cancelled
                )
        except Unavailable:
            return None
        if evidence.kind != "none":
            return evidence
        delivered = self._kit.ledger.delivered_instances(self._transfer.id)
        if not delivered:
            return None
        return Evidence(kind="sent", present=frozenset(i.sop_instance_uid for i in delivered), note=evidence.note)

    def _already_there(self, expectation: Expectation, evidence: Evidence) -> Finish:
        proven = evidence.kind != "sent"
        happening = Happening.PROVEN if proven else Happening.NO_EVIDENCE
        if evidence.kind != "commitment" and commits(self._destination, self._move.verify):
            happening = Happening.MOVED  # stronger evidence is to be had
        return Finish(
            happening=happening,
            cause="already-present",
            reason=CAUSES["already-present"].sentence if proven else f"Sent before. {evidence.note}",
            expected=expectation.size,
            completed=expectation.size or 0,
        )

    # moving -------------------------------------------------------------------------------------------------------

    def _move_all(self, portions: list[Portion], expectation: Expectation) -> Outcome:
        """Every C-MOVE that is needed; the outcome of the first that was not clean, else of the last.

        One that breaks off may be about its portion only; where the next one does as well, the source is in trouble.
        """
        outcome = None
        broken = 0
        for portion in portions:
            last = self._move_portion(portion, expectation)
            broken = broken + 1 if last.cause in LOOSE else 0
            if last.remedy in (Remedy.STOP_ROUTE, Remedy.PERMANENT, Remedy.LATER) or broken > 1:
                return last
            if outcome is None or outcome.remedy is Remedy.NONE:
                outcome = last
        assert outcome is not None
        return outcome

    def _smallness(self) -> int:
        """How small to ask: a request that was too much is repeated series by series, then in lists of instances."""
        transfer = self._transfer
        if not transfer.attempts or CAUSES.get(transfer.cause, CAUSES["wire"]).remedy is not Remedy.SMALLER:
            return AS_A_WHOLE
        before = [
            attempt
            for attempt in self._kit.ledger.attempts(transfer.id)
            if attempt.step == "move" and attempt.started_at >= transfer.queued_at and attempt.cause in CAUSES
        ]
        return min(BY_INSTANCE, sum(CAUSES[attempt.cause].remedy is Remedy.SMALLER for attempt in before))

    def _move_portion(self, portion: Portion, expectation: Expectation) -> Outcome:
        """A part of the difference; a source that refuses lists of instances is asked for their series, or all."""
        outcome = self._move_one(portion)
        wider = []
        if portion.sop_instance_uids:
            series = portion.series_instance_uids
            numbers = expectation.by_series or Counter(one.series_instance_uid for one in expectation.instances or ())
            wider.append(Portion(series_instance_uids=series, size=sum(numbers.get(one, 0) for one in series)))
        if portion.series_instance_uids:
            wider.append(Portion(size=expectation.size))
        for attempt in wider:
            if outcome.cause not in REFUSED_AS_SUCH or outcome.counts.completed:
                break
            outcome = self._move_one(attempt)
        return outcome

    def _move_one(self, portion: Portion) -> Outcome:
        intent, asked = self._transfer.intent, portion.size
        nearline = self._transfer.availability == NEARLINE
        inactivity, total = self._source.move.deadlines(asked, nearline=nearline)
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
            inactivity=inactivity,
            total=total,
        )
        progress = Progress(asked)
        try:
            result = self._retrieval.run(
                request, lambda response: self._on_response(response, progress), self._passage.begin
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
        return outcome_of_status(
            result.status,
            progress.reported,
            asked,
            result.error_comment,
            wavering=progress.wavering,
            note=result.note,
        )

    def _on_response(self, response: MoveProgress, progress: Progress) -> None:
        intent = self._transfer.intent
        self._kit.observer(MoveResponded(source=intent.source, destination=intent.destination, status=response.status))
        increase = progress.advance(response.counts)
        self._progressed = self._progressed or response.status in PENDING or bool(progress.completed)
        self._passage.heard(response.status in PENDING, self._sum(progress))
        self._count(progress, increase)
        now = time.monotonic()
        if now - self._renewed >= _RENEW_SECONDS:
            self._renewed = now
            with suppress(LedgerError):  # the dispatcher ends this where it lasts
                held = self._kit.ledger.renew(self._transfer, self._kit.clock.now(), LEASE_SECONDS, self._sum(progress))
                if not held:
                    self._cancelled.set()  # somebody else has it now

    def _count(self, progress: Progress, increase: SubOperationCounts) -> None:
        shown: int | None = 0
        if self._transfer.intent.destination == LOCAL:
            shown = self._kit.arrivals.number(self._transfer.intent.study_instance_uid) - self._arrived
        elif self._move.verify == "none":
            shown = None
        self._kit.tallies.hear(self._transfer, increase, shown)

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
        """The outcome of the C-MOVE as a happening: look for evidence, try again, wait for the route, or give up."""
        happening, next_at, reason, held_off = Happening.MOVED, None, outcome.sentence, None
        stop = self._passage.ended(outcome.cause, outcome.sentence)
        disguised = stop is not None and not stops(outcome.cause)
        if stop is not None:
            happening, reason = Happening.STOPPED, stop.reason
            if disguised:  # it may be this study after all: that costs it an attempt, and others go before it
                happening, _ = self._again(outcome.cause)
                happening = Happening.STOPPED if happening is Happening.RETRY else happening
        elif outcome.remedy in (Remedy.STOP_ROUTE, Remedy.PERMANENT) and not self._progressed:
            happening = Happening.FAIL
        elif held_off := self._held_off(outcome.cause):
            happening, next_at = Happening.RETRY, held_off
        elif outcome.cause in UNSENT:
            happening, next_at = self._again(outcome.cause)
        done = self._done
        return Finish(
            happening=happening,
            next_at=next_at,
            cause=outcome.cause,
            reason=f"{reason} {self._passage.note}".strip(),
            comment=outcome.comment,
            status=outcome.status,
            expected=expectation.size,
            completed=(done.completed or 0) + (done.warning or 0),
            failed=done.failed or 0,
            warning=done.warning or 0,
            moved=disguised if stop is not None else self._progressed or held_off is None,
            stop=stop,
        )

    def _failed_early(self, cause: str, reason: str, remedy: Remedy) -> Finish:
        """Failed before any C-MOVE."""
        stop = self._passage.failed_early(cause, reason)
        if stop is not None:
            return Finish(happening=Happening.STOPPED, cause=cause, reason=reason, stop=stop)
        if held_off := self._held_off(cause):
            return Finish(happening=Happening.RETRY, cause=cause, reason=reason, next_at=held_off)
        happening, next_at = (Happening.FAIL, None) if remedy is Remedy.PERMANENT else self._again(cause)
        return Finish(happening=happening, cause=cause, reason=reason, next_at=next_at, moved=True)

    def _held_off(self, cause: str) -> datetime | None:
        """When to go on where the source is left alone or had no association free: that costs no attempt. Else None."""
        silent = cause in UNSENT & SILENT_CAUSES and self._kit.slots.left_alone(self._source)
        return self._kit.clock.now() + _HELD_OFF if silent or cause in HELD_OFF else None

    def _again(self, cause: str) -> tuple[Happening, datetime | None]:
        """Another attempt after a while, if one is left: the one retry budget of the transfer."""
        wait = retry_wait(self._move.retry, cause, self._transfer.attempts + 1, random.random())
        return (Happening.FAIL, None) if wait is None else (Happening.RETRY, self._kit.clock.now() + wait)


def _failed(cause: str, reason: str) -> Finish:
    return Finish(happening=Happening.FAIL, cause=cause, reason=reason)
