"""The ledger against a model: whatever workers, people and crashes do, no intent is lost, none held by two at once."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from router.domain.transfer import ENDED, RULE_HOLDS, TRANSITIONS, WISHES, Finish, Happening, Intent, State, Transfer
from router.domain.transfer import after as state_after
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from router.ledger.transfers import PERSONAL
from tests.contract.ledgers import ADAPTERS, LEASE, NOW, hold, intent, new, queue

INTENTS = [intent(n, source=source, destination=destination) for n, source, destination in [
    (1, "archive", "ws"), (1, "archive", "local"), (2, "archive", "ws"), (2, "pacs", "ws"), (3, "pacs", "local"),
]]  # fmt: skip
SOURCES, DESTINATIONS = ("archive", "pacs"), ("ws", "local")
FINISHES = sorted(
    {happening for state in (State.MOVING, State.VERIFYING) for happening in TRANSITIONS[state]}
    - {Happening.CLAIMED, Happening.LEASE_LOST}
)


class LedgerMachine(RuleBasedStateMachine):
    """Workers claim, finish, crash and come late; people interfere; the process dies and comes back."""

    adapter = "sqlite"
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="ledger-model-"))
        self.ends = contextlib.ExitStack()
        self.ends.callback(shutil.rmtree, self.directory)
        self.url = self.ends.enter_context(ADAPTERS[self.adapter](self.directory, True))
        self.now: datetime = NOW
        self.sweeps = 0
        self.states: dict[Intent, State] = {}
        self.counts: dict[Intent, int] = {}
        self.leases: dict[Intent, tuple[int, datetime]] = {}
        """Who holds what: the fence number and the end of the lease."""
        self.wishes: dict[Intent, Happening] = {}
        """What a person wants of what is held."""
        self.by_rule: set[Intent] = set()
        """What a rule holds back."""
        self.fences: dict[Intent, set[int]] = {}
        self.ledger = self._open()

    def _open(self) -> SqlLedger:
        return SqlLedger.open(self.url)

    def teardown(self) -> None:
        try:
            self._nothing_is_lost()
        finally:
            self.ledger.close()
            self.ends.close()

    def _nothing_is_lost(self) -> None:
        """From wherever things stand, ordinary workers bring all of it to an end."""
        self.now += timedelta(days=2)
        self.ledger.expire_leases(self.now)
        for transfer in self.ledger.transfers(states=[State.HELD]):
            self.ledger.apply(transfer.id, Happening.RELEASE, self.now)
        while moving := self.ledger.claim_transfer(SOURCES, self.now, LEASE):
            assert self.ledger.finish(moving, Finish(happening=Happening.MOVED, moved=True), self.now, self.now)
        while looked := self.ledger.claim_verification(DESTINATIONS, self.now, LEASE):
            assert self.ledger.finish(looked, Finish(happening=Happening.PROVEN), self.now, self.now)
        assert all(transfer.state in ENDED for transfer in self.ledger.transfers())
        assert sorted(transfer.intent for transfer in self.ledger.transfers()) == sorted(self.states)

    @initialize()
    def first_sweep(self) -> None:
        self.sweep(INTENTS[:2], 5, None)

    @rule(
        wanted=st.lists(st.sampled_from(INTENTS), min_size=1, max_size=4),
        count=st.integers(1, 9),
        happening=st.sampled_from([None, Happening.GREW, Happening.AGAIN, Happening.RELEASE, Happening.WAIT]),
        cause=st.sampled_from(["", "", *sorted(RULE_HOLDS)]),
    )
    def sweep(self, wanted: list[Intent], count: int, happening: Happening | None, cause: str = "") -> None:
        """A sweep selects; some rules hold back what they select, others let go what is held."""
        self.now += timedelta(microseconds=1)
        wanted = list(dict.fromkeys(wanted))
        if happening is Happening.RELEASE or (happening is Happening.WAIT and not cause):
            cause = "settling" if happening is Happening.WAIT else ""
        held = hold(cause, self.now) if cause else None
        queue(self.ledger, [new(one, count=count, happening=happening, hold=held) for one in wanted], self.now)
        for one in wanted:
            if one not in self.states:
                self.states[one], self.counts[one] = State.HELD if held else State.QUEUED, count
                self.by_rule |= {one} if held else set()
            elif self._takes(one, count, happening, held=bool(held)):
                assert happening is not None
                before = self.states[one]
                counted = happening is Happening.GREW and before in (State.QUEUED, State.HELD)
                self.states[one] = state_after(before, Happening.WAIT if held and not counted else happening)
                self.counts[one] = count
                if not counted:
                    (self.by_rule.add if held else self.by_rule.discard)(one)

    def _takes(self, one: Intent, count: int, happening: Happening | None, *, held: bool) -> bool:
        ways = TRANSITIONS[self.states[one]]
        if happening not in ways or (held and Happening.WAIT not in ways):
            return False
        if happening is Happening.GREW:
            return self.counts[one] != count
        return happening is Happening.AGAIN or one in self.by_rule

    @rule(target=claims, sources=st.sets(st.sampled_from(SOURCES)))
    def claim_transfer(self, sources: set[str]) -> object:
        return self._claimed(self.ledger.claim_transfer(sorted(sources), self.now, LEASE), State.QUEUED)

    @rule(target=claims, destinations=st.sets(st.sampled_from(DESTINATIONS)))
    def claim_verification(self, destinations: set[str]) -> object:
        return self._claimed(self.ledger.claim_verification(sorted(destinations), self.now, LEASE), State.VERIFYING)

    def _claimed(self, transfer: Transfer | None, expected: State) -> object:
        if transfer is None:
            return multiple()
        assert self.states[transfer.intent] is expected
        assert transfer.intent not in self.leases, "held by two at once"
        assert transfer.fence not in self.fences.setdefault(transfer.intent, set()), "a fence number came twice"
        self.fences[transfer.intent].add(transfer.fence)
        self.states[transfer.intent] = state_after(expected, Happening.CLAIMED)
        self.leases[transfer.intent] = (transfer.fence, self.now + timedelta(seconds=LEASE))
        return transfer

    def _holds(self, transfer: Transfer) -> bool:
        return self.leases.get(transfer.intent, (0, None))[0] == transfer.fence

    @rule(transfer=claims, happening=st.sampled_from(FINISHES), wait=st.sampled_from([0, 30, 600]))
    def finish(self, transfer: Transfer, happening: Happening, wait: int) -> None:
        """A worker finishes, perhaps a second time, perhaps long after it lost the claim."""
        finish = Finish(happening=happening, next_at=self.now + timedelta(seconds=wait))
        legal = happening in TRANSITIONS[transfer.state]
        try:
            changed = self.ledger.finish(transfer, finish, self.now, self.now)
        except LedgerError:
            assert self._holds(transfer)
            assert not legal
            return
        assert (changed is not None) == self._holds(transfer)
        if changed is not None:
            assert legal
            self.states[transfer.intent] = changed.state
            wish = self.wishes.pop(transfer.intent, None)
            led_to = state_after(transfer.state, happening)
            heeded = wish is not None and led_to not in ENDED
            assert changed.state is (state_after(transfer.state, wish) if wish and heeded else led_to)
            del self.leases[transfer.intent]

    @rule(transfer=claims)
    def renew(self, transfer: Transfer) -> None:
        holds = self._holds(transfer)
        assert self.ledger.renew(transfer, self.now, LEASE, None) == holds
        if holds:
            self.leases[transfer.intent] = (transfer.fence, self.now + timedelta(seconds=LEASE))

    @rule(transfer=consumes(claims))
    def release(self, transfer: Transfer) -> None:
        if self._holds(transfer):
            self._lost(transfer.intent)
        self.ledger.release_claims([transfer], self.now)

    def _lost(self, lost: Intent) -> None:
        del self.leases[lost]
        self.states[lost] = state_after(self.states[lost], self.wishes.pop(lost, Happening.LEASE_LOST))

    @rule(seconds=st.sampled_from([1, 31, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def expire(self) -> None:
        late = [one for one, (_, until) in self.leases.items() if until <= self.now]
        assert self.ledger.expire_leases(self.now) == len(late)
        for one in late:
            self._lost(one)

    @rule(wanted=st.sampled_from(INTENTS), happening=st.sampled_from(sorted(PERSONAL)))
    def person(self, wanted: Intent, happening: Happening) -> None:
        for transfer in self.ledger.transfers(source=wanted.source, study_instance_uid=wanted.study_instance_uid):
            state = self.states[transfer.intent]
            legal = happening in TRANSITIONS[state] and not (
                happening is Happening.HOLD and state is State.HELD and transfer.intent not in self.by_rule
            )
            held = transfer.intent in self.leases and self.leases[transfer.intent][1] > self.now
            taken_back = held and happening is Happening.RELEASE and transfer.intent in self.wishes
            try:
                changed = self.ledger.apply(transfer.id, happening, self.now)
            except LedgerError:
                assert not legal
                assert not taken_back
                continue
            assert legal or taken_back
            if taken_back:
                del self.wishes[transfer.intent]
                continue
            if held and happening in WISHES:
                self.wishes[transfer.intent] = happening
                continue
            self.leases.pop(transfer.intent, None)
            self.wishes.pop(transfer.intent, None)
            self.by_rule.discard(transfer.intent)
            self.states[transfer.intent] = changed.state

    @rule()
    def crash(self) -> None:
        """The process is gone without a word and another one starts; its claims are still written down."""
        self.ledger.close()
        self.ledger = self._open()

    @invariant()
    def agrees(self) -> None:
        transfers = {transfer.intent: transfer for transfer in self.ledger.transfers()}
        assert {one: transfer.state for one, transfer in transfers.items()} == self.states
        assert {one: transfer.instance_count for one, transfer in transfers.items()} == self.counts
        held = {one: t.fence for one, t in transfers.items() if t.lease_until is not None}
        assert held == {one: fence for one, (fence, _) in self.leases.items()}
        assert {one: t.wish for one, t in transfers.items() if t.wish} == self.wishes
        assert sorted(self.ledger.wished()) == sorted((transfers[one].id, held[one]) for one in self.wishes)
        assert all((t.finished_at is not None) == t.ended for t in transfers.values())
        assert {one for one, t in transfers.items() if t.state is State.HELD and t.cause in RULE_HOLDS} == self.by_rule
        found = {one.intent for s in SOURCES for one in self.ledger.held("ct", s, self.now, 100)}
        assert found == self.by_rule
        lanes = Counter((t.intent.source, t.intent.destination, t.state) for t in transfers.values())
        assert {(row.source, row.destination, row.state): row.count for row in self.ledger.backlog()} == lanes


class OnServer(LedgerMachine):
    """The same in PostgreSQL."""

    adapter = "postgresql"


LedgerMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
OnServer.TestCase.settings = settings(max_examples=8, stateful_step_count=40, deadline=None)
TestLedgerModel = LedgerMachine.TestCase
TestLedgerModelOnServer = OnServer.TestCase
