"""One run of a transfer of what arrived here: what is to be there, what is there already, C-STORE of the difference.

A destination that does not take an instance as it came gets it decompressed, where the rule allows that.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from router.domain.breaker import HELD_OFF, SILENT_CAUSES
from router.domain.causes import CAUSES, UNSENT, Remedy
from router.domain.dicom import SubOperationCounts
from router.domain.exchange import Standing, StoredObject, StoreOutcome, StoreResult
from router.domain.expectation import Expectation
from router.domain.forward import Syntax
from router.domain.outcome import Evidence, Outcome, all_there, outcome_of_error, retry_wait
from router.domain.route import Run
from router.domain.rule import Move, Node, Rule, RuleSet
from router.domain.store_outcome import STORED, Fold, InstanceFate, fate_of
from router.domain.tenure import LEASE_SECONDS
from router.domain.transfer import Finish, Happening, Instance, Transfer
from router.engine.awaiting import AWAY, Awaited
from router.engine.evidence import Unavailable, commits
from router.engine.forward_port import OpenObject as OpenObject
from router.engine.forward_port import Shelf as Shelf
from router.engine.forward_port import StorePeers as StorePeers
from router.engine.forward_port import stored_of
from router.engine.giving_back import after_outage
from router.engine.guard import Purpose
from router.engine.kit import Kit
from router.engine.leases import lasting
from router.engine.slots import Urgency
from router.engine.step import end_step
from router.errors import Cancelled, LedgerError, StoreError, WireError

_RENEW_SECONDS = 1.0
_KEEP_SECONDS = 5.0
"""Between two notes of what was acknowledged, so that little is sent twice after a kill where nobody can be asked."""
_DECOMPRESSED_AT_ONCE = 4
_HELD_OFF = timedelta(seconds=1)

UNCOMPRESSED = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
"""Transfer syntaxes without compression (PS3.5 annex A): there is nothing to decompress."""

OUT_OF_RESOURCES = "out-of-resources"
"""Cause of a result: the node answered so, again and again."""

_OF_THE_SYNTAX = frozenset({"syntax-refused", "context-rejected"})
"""Causes of a refusal that may have to do with the transfer syntax."""


class _BrokenOff(WireError):
    """What ended a request to store before its end."""

    def __init__(self, result: StoreResult) -> None:
        super().__init__(result.reason)
        self.cause = result.cause


class Forwarder:
    """Runs claimed transfers from `local`. `run` never raises WireError: every end is written to the ledger."""

    def __init__(self, rules: Callable[[], RuleSet], kit: Kit, peers: StorePeers, shelf: Shelf) -> None:
        self._rules = rules
        self._kit = kit
        self._peers = peers
        self._shelf = shelf

    def run(self, transfer: Transfer, cancelled: threading.Event) -> Transfer | None:
        """Run one attempt of a claimed transfer; returns it as the ledger has it then, None if the claim was lost."""
        kit, started_at, rules = self._kit, self._kit.clock.now(), self._rules()
        kit.terms.begin(transfer, rules)
        destination, rule = rules.node(transfer.intent.destination), self._rule_of(transfer, rules)
        if destination is None:
            reason = f"The configuration has no node {transfer.intent.destination}."
            finish = Finish(happening=Happening.FAIL, cause="node-removed", reason=reason)
        elif rule is None or rule.forward is None:
            reason = f"The configuration has no rule {transfer.rule} that passes anything on."
            finish = Finish(happening=Happening.FAIL, cause="rule-removed", reason=reason)
        else:
            syntax = rule.forward.transfer_syntax
            finish = _Attempt(self, transfer, rule.move, syntax, destination, cancelled).run()
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

    def _rule_of(self, transfer: Transfer, rules: RuleSet) -> Rule | None:
        """Whose transfer it is; where that rule is gone, another's that has given the destination the study as well."""
        rule = rules.rules.get(transfer.rule)
        if rule is not None and rule.forward is not None:
            return rule
        destination = transfer.intent.destination
        for arrival in self._kit.ledger.arrivals(study=transfer.intent.study_instance_uid):
            rule = rules.rules.get(arrival.rule)
            if rule is None or rule.forward is None or destination not in arrival.nodes:
                continue
            if destination in rule.forward.nodes:
                return rule
        return None

    @property
    def parts(self) -> tuple[Kit, StorePeers, Shelf]:
        """What an attempt works with."""
        return self._kit, self._peers, self._shelf


class _Attempt:
    """One attempt's working state."""

    def __init__(
        self,
        forwarder: Forwarder,
        transfer: Transfer,
        move: Move,
        syntax: Syntax,
        destination: Node,
        cancelled: threading.Event,
    ) -> None:
        self._kit, self._peers, self._shelf = forwarder.parts
        self._transfer = transfer
        self._move = move
        self._syntax = syntax
        self._destination = destination
        self._cancelled = cancelled
        self._awaited = Awaited(self._shelf, transfer)
        self._lacking: frozenset[str] = frozenset()
        """What the ledger has as awaited."""
        self._fold = Fold()
        self._fates: list[InstanceFate] = []
        self._stored: set[str] = set()
        self._refused: list[StoredObject] = []
        """What the destination does not take as it came, and may take decompressed."""
        self._temporary: dict[str, StoredObject] = {}
        """Decompressed files that are not done with, by their paths."""
        self._begun = False
        self._wanted: dict[str, Instance] = {}
        self._delivered: set[str] = set()
        """What was acknowledged in former attempts."""
        self._renewed = self._kept = time.monotonic()

    def run(self) -> Finish:
        """The whole attempt; how it ended."""
        try:
            finish = self._attempt()
        except LedgerError as error:
            if self._begun:
                raise  # what was sent is looked up when the claim is lost
            finish = after_outage(self._transfer, error, self._kit.clock.now())
        finally:
            for stored in self._temporary.values():
                self._shelf.release(stored)
        if not self._begun and finish.stop is None:
            lasting(lambda: self._kit.routes.untried(self._transfer.route))
        return finish

    def _attempt(self) -> Finish:
        kit, transfer = self._kit, self._transfer
        receipts = {one.sop_instance_uid: one for one in self._shelf.wanted(transfer)}
        wanted = self._wanted = {uid: Instance(one.series_instance_uid, uid) for uid, one in receipts.items()}
        if not wanted:
            return Finish(happening=Happening.EMPTY, cause="gone", reason=CAUSES["gone"].sentence, expected=0)
        kit.ledger.set_expected(transfer, sorted(wanted.values()))
        self._delivered = {one.sop_instance_uid for one in kit.ledger.delivered_instances(transfer.id)}
        there = 0
        self._lacking = frozenset(one.sop_instance_uid for one in kit.ledger.missing_instances(transfer.id))
        self._awaited = Awaited(self._shelf, transfer, self._lacking)
        self._awaited.to_be_had([stored_of(one) for uid, one in receipts.items() if uid not in self._delivered])
        if self._awaited.waits:  # nobody need be asked what is there
            return self._wait(len(wanted), transfer.completed)
        self._remember_awaited(())
        try:
            evidence = self._evidence_before()
            present = evidence.present or frozenset() if evidence is not None else frozenset()
            if evidence is None or evidence.kind in ("none", "sent"):
                present |= self._delivered  # nobody can say better
            expectation = Expectation(instances=frozenset(wanted.values()), count=len(wanted))
            there = len(wanted.keys() & present)
            if there == len(wanted):
                return self._already_there(expectation, evidence, there)
            kit.tallies.begin(transfer, there)
            # After an attempt in vain from the other end: one instance at which a node breaks off holds up no other.
            turned = transfer.attempts % 2 == 1
            objects = [stored_of(one) for uid, one in sorted(receipts.items(), reverse=turned) if uid not in present]
            objects = self._awaited.to_be_had(objects)
            if not objects:
                return self._wait(len(wanted), there)
            outcome = self._send(objects)
        except Cancelled:
            outcome = Outcome(cause="cancelled", remedy=Remedy.NONE, sentence=CAUSES["cancelled"].sentence)
        except WireError as error:
            outcome = outcome_of_error(error.cause, str(error))
        lasting(self._keep)
        lasting(lambda: self._shelf.note(transfer, self._fates))
        finish = self._awaited.after(lasting(lambda: self._after(outcome, len(wanted), there)), kit.clock.now())
        if finish.cause == AWAY:
            self._remember_awaited(self._awaited.away)
        return finish

    def _wait(self, expected: int, there: int) -> Finish:
        """Send nothing."""
        self._remember_awaited(self._awaited.away)
        return self._awaited.waiting(self._kit.clock.now(), expected, there)

    def _remember_awaited(self, away: Collection[str]) -> None:
        """What it waits for is what the destination lacks."""
        if self._lacking != frozenset(away):
            self._lacking = frozenset(away)
            instances = sorted(self._wanted[uid] for uid in away)
            lasting(lambda: self._kit.ledger.set_missing(self._transfer, instances))

    # what is there --------------------------------------------------------------------------------------------------

    def _evidence_before(self) -> Evidence | None:
        """What the destination holds, once something may have got there; None where it cannot be said."""
        transfer = self._transfer
        if not transfer.attempts and not transfer.rounds and not transfer.completed:
            return None
        try:
            return self._kit.evidence.before(transfer, self._destination, self._move.verify, self._cancelled)
        except Unavailable:
            return None

    def _already_there(self, expectation: Expectation, evidence: Evidence | None, there: int) -> Finish:
        proven = evidence is not None and evidence.kind != "none" and all_there(expectation, evidence)
        happening = Happening.PROVEN if proven else Happening.NO_EVIDENCE
        if (evidence is None or evidence.kind != "commitment") and commits(self._destination, self._move.verify):
            happening = Happening.MOVED  # stronger evidence is to be had
        return Finish(
            happening=happening,
            cause="already-present",
            reason=CAUSES["already-present"].sentence if proven else "Sent before.",
            expected=there,
            completed=there,
        )

    # sending --------------------------------------------------------------------------------------------------------

    def _send(self, objects: Sequence[StoredObject]) -> Outcome:
        """All of them as they came, then what was refused for its transfer syntax decompressed."""
        slots, node, result = self._kit.slots, self._destination, StoreResult(counts={})
        try:
            with slots.hold(node, Urgency.MOVE, self._cancelled, purpose=Purpose.MOVE) as slot:
                self._begun = True

                def hear(outcome: StoreOutcome) -> None:
                    if outcome.status is not None:
                        slot.heard()
                        slot.ended(outcome.status)
                    self._hear(outcome)

                result = self._store(objects, hear)
                while self._refused and not result.cause:
                    result = self._store(self._decompressed(hear), hear)
                    if self._cancelled.is_set() and not result.cause:
                        result = StoreResult(counts={}, cause="cancelled", reason=CAUSES["cancelled"].sentence)
                if result.cause and result.cause != OUT_OF_RESOURCES:
                    raise _BrokenOff(result)
        except _BrokenOff:  # raised for the slot, which is to know how the node behaved
            pass
        for stored in self._refused:  # the node broke off before their turn
            self._count(StoreOutcome(stored=stored, standing=Standing.NOT_SENT, cause=result.cause))
        return self._fold.outcome(result)

    def _store(self, objects: Iterable[StoredObject], hear: Callable[[StoreOutcome], None]) -> StoreResult:
        return self._peers.store(
            self._destination,
            objects,
            open_object=self._awaited.open,
            on_outcome=hear,
            cancelled=self._cancelled,
        )

    def _decompressed(self, hear: Callable[[StoreOutcome], None]) -> list[StoredObject]:
        """Some of what was refused: few temporary files exist at a time."""
        some: list[StoredObject] = []
        while self._refused and len(some) < _DECOMPRESSED_AT_ONCE and not self._cancelled.is_set():
            stored = self._refused.pop()
            cause = "not-decompressed"
            try:
                changed = self._shelf.decompressed(stored, self._syntax)
            except StoreError:
                changed, cause = None, "not-decompressed-now"
            if changed is None:
                hear(StoreOutcome(stored=stored, standing=Standing.UNREADABLE, cause=cause))
            else:
                self._temporary[changed.path] = changed
                some.append(changed)
        return some

    def _hear(self, outcome: StoreOutcome) -> None:
        """What became of an instance."""
        if self._awaited.is_for(outcome):
            return
        syntax_refused = outcome.standing is Standing.REFUSED and outcome.cause in _OF_THE_SYNTAX
        compressed = outcome.stored.transfer_syntax_uid not in UNCOMPRESSED
        if syntax_refused and compressed and self._syntax is not Syntax.KEEP:
            self._refused.append(outcome.stored)
            return
        temporary = self._temporary.pop(outcome.stored.path, None)
        if temporary is not None:
            self._shelf.release(temporary)
        self._count(outcome)
        now = time.monotonic()
        if now - self._renewed >= _RENEW_SECONDS:
            self._renewed = now
            kit = self._kit
            with suppress(LedgerError):  # the dispatcher ends this where it lasts
                if not kit.ledger.renew(self._transfer, kit.clock.now(), LEASE_SECONDS, self._fold.counts):
                    self._cancelled.set()  # somebody else has it now
        if now - self._kept >= _KEEP_SECONDS:
            self._kept = now
            with suppress(LedgerError):  # at the end it is kept all the same
                self._keep()

    def _count(self, outcome: StoreOutcome) -> None:
        before = self._fold.counts
        self._fold.add(outcome)
        self._awaited.offered(outcome)
        fate = fate_of(outcome)
        if fate.words:
            self._fates.append(fate)
        if outcome.standing in STORED:
            self._stored.add(fate.sop_instance_uid)
        after = self._fold.counts
        increase = SubOperationCounts(*((new or 0) - (old or 0) for new, old in zip(after, before, strict=True)))
        shown = None if self._move.verify == "none" else 0
        self._kit.tallies.hear(self._transfer, increase._replace(remaining=None), shown)

    def _keep(self) -> None:
        """Remember what was acknowledged."""
        if self._stored:
            got = sorted(self._wanted[uid] for uid in (self._delivered | self._stored) & self._wanted.keys())
            self._kit.ledger.set_delivered(self._transfer, got)

    # how it ended ---------------------------------------------------------------------------------------------------

    def _after(self, outcome: Outcome, expected: int, there: int) -> Finish:
        """The outcome as a happening: look for evidence, try again, wait for the route, or give up."""
        counts, kit, route = outcome.counts, self._kit, self._transfer.route
        delivered = (counts.completed or 0) + (counts.warning or 0)
        happening, next_at, stop = Happening.MOVED, None, None
        held_off = self._held_off(outcome.cause)
        if delivered:
            kit.routes.passed(route, Run(self._transfer.id, outcome.cause, 0.0, 0.0, responded=True, done=delivered))
        if outcome.cause == "cancelled":
            happening = Happening.INTERRUPTED
        elif outcome.remedy is Remedy.STOP_ROUTE and not delivered:
            happening, stop = Happening.STOPPED, kit.routes.stop(self._destination, outcome.cause, outcome.sentence)
        elif held_off is not None and not delivered:
            happening, next_at = Happening.RETRY, held_off
        elif self._awaited.broke_off and outcome.remedy is not Remedy.NONE:
            happening, next_at = self._again(outcome.cause, there)  # the next attempt asks what is there
        elif not delivered and outcome.remedy is Remedy.PERMANENT:
            happening = Happening.MOVED if there else Happening.FAIL
        elif not delivered and not self._fold.unconfirmed and outcome.remedy is not Remedy.NONE:
            happening, next_at = self._again(outcome.cause, there)  # it is certain that nothing more got there
        return Finish(
            happening=happening,
            next_at=next_at,
            cause=outcome.cause,
            reason=outcome.sentence,
            comment=outcome.comment,
            status=outcome.status,
            expected=expected,
            completed=there + delivered,
            failed=counts.failed or 0,
            warning=counts.warning or 0,
            moved=stop is None
            and held_off is None
            and happening is not Happening.INTERRUPTED
            and not self._got_on(there + delivered, outcome),
            stop=stop,
        )

    def _got_on(self, there: int, outcome: Outcome) -> bool:
        """Whether it broke off with more there than after any attempt before: that costs none, for it ends some day."""
        if outcome.cause not in SILENT_CAUSES or outcome.cause in UNSENT:
            return False
        queued_at = self._transfer.queued_at
        before = [one.completed for one in self._kit.ledger.attempts(self._transfer.id) if one.started_at >= queued_at]
        return there > max(before, default=0)

    def _held_off(self, cause: str) -> datetime | None:
        """When to go on where the node does not answer or had no association free: that costs no attempt. Else None.

        Only a person who waits for the end (`apply`) has the attempts of the rule used up by a node that is away.
        """
        slots = self._kit.slots
        silent = cause in UNSENT & SILENT_CAUSES and (slots.heeds_breakers or slots.left_alone(self._destination))
        return self._kit.clock.now() + _HELD_OFF if silent or cause in HELD_OFF else None

    def _again(self, cause: str, there: int) -> tuple[Happening, datetime | None]:
        """Another attempt after a while, if one is left: the one retry budget of the transfer."""
        wait = retry_wait(self._move.retry, cause, self._transfer.attempts + 1, random.random())
        if wait is None:
            return (Happening.MOVED if there else Happening.FAIL), None
        return Happening.RETRY, self._kit.clock.now() + wait
