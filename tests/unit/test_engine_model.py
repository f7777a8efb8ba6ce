"""Ledger and engine against chance: two workers, crashes, lost leases, late finishes, people, peers that misbehave.

Whatever happens, no intent is lost, none is moved by two at once that both hold it, and all that can end ends.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router.domain.dicom import SubOperationCounts
from router.domain.rule import Retry, RuleLimits
from router.domain.transfer import RULE_HOLDS, TRANSITIONS, Happening, Intent, State, Transfer
from router.engine.mover import LEASE_SECONDS
from router.engine.ports import MoveResult
from router.errors import AssociationAborted, ConnectionFailed, LedgerError, WireError
from tests.support.engine import Bench

STUDIES = ("1.1", "1.2", "1.3")
DESTINATIONS = ("local", "ws")
STATUSES = (0x0000, 0xB000, 0xA701, 0xA702, 0xA801, 0xA900, 0xC000, 0xFE00, 0x0110)


class _Crash(BaseException):
    """The process is gone: nothing after it is written."""


MEANWHILE = st.lists(
    st.sampled_from(["time", "lease", "expire", "look", "move", "sweep", "cancel"]), max_size=4
)  # what happens while a C-MOVE is under way


class EngineMachine(RuleBasedStateMachine):
    """The engine's steps are taken in an order that hypothesis chooses; within a C-MOVE others take theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="engine-model-"))
        self.bench = Bench(self.directory, retry=Retry(attempts=4, delay=1.0, maximum_delay=5.0))
        self.bench.to(*DESTINATIONS, retry=Retry(attempts=4, delay=1.0, maximum_delay=5.0))
        self.moving: list[Transfer] = []
        """C-MOVE requests under way, of whoever, with the claim they began with."""
        self.intents: set[Intent] = set()
        self.next_instance = 0

    def teardown(self) -> None:
        try:
            self._all_ends()
        finally:
            self.bench.ledger.close()
            shutil.rmtree(self.directory)

    # what the world does --------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for study in STUDIES[:2]:
            self._grow(study)
        self._sweep()

    @rule(study=st.sampled_from(STUDIES))
    def grow(self, study: str) -> None:
        self._grow(study)

    def _grow(self, study: str) -> None:
        self.next_instance += 1
        series = f"{study}.{1 + self.next_instance % 2}"
        self.bench.peers.add("pacs", study, series, f"{series}.{self.next_instance}")

    @rule()
    def sweep(self) -> None:
        self._sweep()

    def _sweep(self) -> None:
        self.bench.sweep()
        self.intents |= {
            Intent("pacs", study, "", destination)
            for study in self.bench.peers.holdings["pacs"]
            if study not in self.bench.peers.out_of_range
            for destination in DESTINATIONS
        }

    @rule(settle=st.sampled_from([0.0, 0.0, 90.0, 600.0]), studies=st.sampled_from([None, None, 1]))
    def restrain(self, settle: float, studies: int | None) -> None:
        """The configuration is changed: the rule holds back more, or less."""
        before = self.bench.rules.rules["r"]
        sweep = msgspec.structs.replace(before.sweep, settle=settle)
        changed = msgspec.structs.replace(before, sweep=sweep, limits=RuleLimits(studies_per_sweep=studies))
        self.bench.rules = msgspec.structs.replace(self.bench.rules, rules={"r": changed})

    @rule(study=st.sampled_from(STUDIES))
    def moves_in_and_out_of_range(self, study: str) -> None:
        """The keys of the sweep match it no longer, or again."""
        self.bench.peers.out_of_range ^= {study}

    @rule(seconds=st.sampled_from([1.0, 10.0, LEASE_SECONDS + 1, 1000.0, 5000.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        self.bench.ledger.expire_leases(self.bench.clock.now())

    @rule(number=st.integers(1, 6), happening=st.sampled_from([Happening.CANCEL, Happening.HOLD, Happening.RELEASE]))
    def person(self, number: int, happening: Happening) -> None:
        self._person(number, happening)

    def _person(self, number: int, happening: Happening) -> None:
        transfer = self.bench.ledger.transfer(number)
        if transfer is None:
            return
        try:
            self.bench.ledger.apply(number, happening, self.bench.clock.now())
        except LedgerError:
            by_person = transfer.state is State.HELD and transfer.cause not in RULE_HOLDS
            twice = happening is Happening.HOLD and by_person
            assert happening not in TRANSITIONS[transfer.state] or transfer.lease_until is not None or twice

    # what workers do ------------------------------------------------------------------------------------------------

    @rule(
        data=st.data(),
        share=st.sampled_from([0.0, 0.5, 1.0]),
        end=st.sampled_from(["answer", "abort", "refuse", "crash", "crash after"]),
        status=st.sampled_from(STATUSES),
        meanwhile=MEANWHILE,
    )
    def move(self, data: st.DataObject, share: float, end: str, status: int, meanwhile: list[str]) -> None:
        """A worker takes up a transfer; in the middle of its C-MOVE others go on, then it ends in some way."""
        claim = self.bench.ledger.claim_transfer(["pacs"], self.bench.clock.now(), LEASE_SECONDS)
        if claim is None:
            return
        self._run_move(claim, share, end, status, meanwhile)

    def _run_move(self, claim: Transfer, share: float, end: str, status: int, meanwhile: list[str]) -> None:
        peers = self.bench.peers
        assert claim.state is State.MOVING

        def deliver(wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
            for other in self.moving:
                assert other.intent != claim.intent or not self._holds(other), "moved by two that both hold it"
            self.moving.append(claim)
            before = peers.deliver, peers.answer
            try:
                for word in meanwhile:
                    self._meanwhile(word)
            finally:
                peers.deliver, peers.answer = before
                self.moving.pop()
            if end == "abort":
                raise AssociationAborted(0, 0, "pacs aborted the association.")
            if end == "refuse":
                raise ConnectionFailed("pacs refused the connection; is it running?")
            return wanted[: int(len(wanted) * share)]

        def answer(wanted: int, delivered: int) -> MoveResult:
            if end == "crash":
                raise _Crash
            counts = SubOperationCounts(None, delivered, wanted - delivered, 0)
            return MoveResult(status=status, counts=counts)

        peers.deliver, peers.answer = deliver, answer
        try:
            ended = self.bench.mover.run(claim, self.bench.never)
        except _Crash:
            return
        finally:
            peers.deliver, peers.answer = (lambda wanted: wanted), None
        held = self.bench.ledger.transfer(claim.id)
        assert held is not None
        if ended is None:
            assert held.fence != claim.fence or held.lease_until is None, "a claim that still held was not finished"
        else:
            assert held.fence == claim.fence

    def _holds(self, claim: Transfer) -> bool:
        now = self.bench.ledger.transfer(claim.id)
        return now is not None and now.fence == claim.fence and now.lease_until is not None

    def _meanwhile(self, word: str) -> None:
        now = self.bench.clock.now()
        if word == "time":
            self.bench.clock.advance(5.0)
        elif word == "lease":
            self.bench.clock.advance(LEASE_SECONDS + 1)
        elif word == "expire":
            self.bench.ledger.expire_leases(now)
        elif word == "look":
            self.look()
        elif word == "sweep":
            self._sweep()
        elif word == "cancel":
            self._person(1, Happening.CANCEL)
        elif word == "move" and len(self.moving) < 2:
            claim = self.bench.ledger.claim_transfer(["pacs"], now, LEASE_SECONDS)
            if claim is not None:
                self._run_move(claim, 1.0, "answer", 0x0000, [])

    @rule()
    def look(self) -> None:
        """A worker looks for evidence."""
        claim = self.bench.ledger.claim_verification(["local", "ws"], self.bench.clock.now(), LEASE_SECONDS)
        if claim is not None:
            self.bench.verifier.run(claim, self.bench.never)

    @rule(name=st.sampled_from(["pacs", "ws"]))
    def goes_down_for_a_look(self, name: str) -> None:
        self.bench.peers.down.add(name)
        try:
            self.look()
        except WireError as error:
            pytest.fail(f"a WireError escaped: {error}")
        finally:
            self.bench.peers.down.discard(name)

    # what holds -----------------------------------------------------------------------------------------------------

    @invariant()
    def no_intent_is_lost_or_doubled(self) -> None:
        found = [transfer.intent for transfer in self.bench.ledger.transfers()]
        assert sorted(found) == sorted(self.intents)

    @invariant()
    def completeness_is_true(self) -> None:
        for transfer in self.bench.ledger.transfers(states=[State.COMPLETE]):
            intent = transfer.intent
            expected = {i.sop_instance_uid for i in self.bench.ledger.expected_instances(transfer.id) or ()}
            if intent.destination == "local":
                there = self.bench.ledger.received(intent.study_instance_uid)
            else:
                there = set().union(*self.bench.peers.holdings["ws"].get(intent.study_instance_uid, {}).values())
            assert expected <= there, "complete, but something is missing"

    def _all_ends(self) -> None:
        """From wherever things stand, honest peers and ordinary workers bring all of it to a verdict."""
        ledger, clock = self.bench.ledger, self.bench.clock
        clock.advance(LEASE_SECONDS + 1)
        ledger.expire_leases(clock.now())
        # What the rule holds back its own sweeps let go; what a person holds a person.
        for _ in range(8):
            clock.advance(600.0)
            self._sweep()
        assert not [t for t in ledger.transfers(states=[State.HELD]) if t.cause in RULE_HOLDS]
        for transfer in ledger.transfers(states=[State.HELD]):
            ledger.apply(transfer.id, Happening.RELEASE, clock.now())
        self.bench.finish()
        assert all(transfer.ended for transfer in ledger.transfers())


EngineMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestEngineModel = EngineMachine.TestCase
