"""Without the ledger: what is running goes on for a while, what has ended is not lost, and nobody calls it a stall."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.events import AttemptEnded, Event
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.tenure import CUT_OFF_SECONDS, LEASE_SECONDS, Tenure
from router.domain.transfer import Finish, Happening, Intent, NewTransfer, State, Transfer
from router.engine import step
from router.engine.leases import Held, Leases, lasting
from router.engine.step import end_step
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock


@given(st.lists(st.floats(0, 1000), max_size=20), st.floats(0, 2000))
def test_a_tenure_is_over_before_the_lease_is(kept: list[float], at: float) -> None:
    tenure = Tenure(0.0)
    for moment in kept:
        tenure.keep(moment)
    last = max(kept, default=0.0)
    assert tenure.is_over(at) is (at - last >= CUT_OFF_SECONDS)
    if at - last >= LEASE_SECONDS:
        assert tenure.is_over(at), "who cannot renew has let go by then"


class Bench:
    """One running sweep, and a ledger that may be away."""

    def __init__(self) -> None:
        self.ledger, self.clock, self.at = SqlLedger.in_memory(), FakeClock(), 0.0
        self.ledger.add_sweeps([SweepDue(rule="r", source="a", due_at=self.clock.now())])
        sweep = self.ledger.claim_sweep(["a"], self.clock.now(), LEASE_SECONDS)
        assert sweep is not None
        self.held = Held(sweep, threading.Event(), Tenure(0.0))
        self.leases = Leases(self.ledger, lambda: [self.held], self.clock, monotonic=lambda: self.at)

    def pass_by(self, seconds: float) -> None:
        self.at += seconds
        self.clock.advance(seconds)

    def keep(self) -> bool:
        return self.leases.keep()


def test_claims_are_renewed_a_few_times_before_they_run_out() -> None:
    bench = Bench()
    renewed = []
    for _ in range(300):
        renewed.append(bench.keep())
        bench.leases.look()
        bench.pass_by(1.0)
    assert sum(renewed) == 20
    assert not bench.held.cancelled.is_set()
    assert bench.ledger.expire_leases(bench.clock.now()) == 0
    assert bench.ledger.claim_sweep(["a"], bench.clock.now(), LEASE_SECONDS) is None


def test_an_outage_is_borne_until_the_claim_may_soon_be_anothers() -> None:
    bench = Bench()
    bench.keep()
    bench.ledger.close()
    for second in range(1, 61):
        bench.pass_by(1.0)
        if second >= LEASE_SECONDS / 4:
            with pytest.raises(LedgerError):  # tried again at once
                bench.keep()
        bench.leases.look()
        assert bench.held.cancelled.is_set() is (second >= CUT_OFF_SECONDS)


def test_what_somebody_else_has_taken_is_cancelled() -> None:
    bench = Bench()
    bench.pass_by(LEASE_SECONDS + 1)
    assert bench.ledger.claim_sweep(["a"], bench.clock.now(), LEASE_SECONDS) is not None
    bench.keep()
    assert bench.held.cancelled.is_set()


def test_what_must_not_be_lost_is_tried_until_the_ledger_is_back() -> None:
    slept: list[float] = []

    def call() -> str:
        if len(slept) < 40:
            raise LedgerError("away")
        return "written"

    assert lasting(call, sleep=slept.append, monotonic=lambda: sum(slept)) == "written"
    assert sum(slept) == 40


def test_after_a_lease_it_is_given_up() -> None:
    slept: list[float] = []

    def call() -> None:
        raise LedgerError("away")

    with pytest.raises(LedgerError):
        lasting(call, sleep=slept.append, monotonic=lambda: sum(slept))
    assert sum(slept) == LEASE_SECONDS


# --- A ledger that is slow --------------------------------------------------------------------------------------------


class Many:
    """So many transfers under way, and a ledger each of whose answers takes its time, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.ledger, self.clock, self.at = SqlLedger.in_memory(), FakeClock(), 0.0
        self.claims = moving(self.ledger, self.clock.now(), number)
        self.held = [Held(claim, threading.Event(), Tenure(0.0)) for claim in self.claims]
        self.leases = Leases(self.ledger, lambda: self.held, self.clock, monotonic=lambda: self.at)
        self.seconds, self.failing, self.asked = 0.0, frozenset[int](), list[int]()
        renew = self.ledger.renew

        def slow(claim: Transfer, *rest: Any) -> bool:
            self.asked.append(claim.id)
            self.pass_by(self.seconds)
            if claim.id in self.failing:
                raise LedgerError("locked")
            return renew(claim, *rest)

        monkeypatch.setattr(self.ledger, "renew", slow)

    def pass_by(self, seconds: float) -> None:
        self.at += seconds
        self.clock.advance(seconds)


def moving(ledger: SqlLedger, now: datetime, number: int) -> list[Transfer]:
    """So many transfers that have just been claimed."""
    ledger.add_sweeps([SweepDue(rule="r", source="a", due_at=now)])
    sweep = ledger.claim_sweep(["a"], now, LEASE_SECONDS)
    assert sweep is not None
    new = [
        NewTransfer(intent=Intent("a", f"1.{n}", "", "b"), rule="r", priority=1, instance_count=5)
        for n in range(number)
    ]
    assert ledger.finish_sweep(sweep, SweepReport(state=SweepState.COMPLETE), new, [], now)
    claimed = ledger.claim_transfers(["a"], now, LEASE_SECONDS, number)
    assert len(claimed) == number
    return claimed


@pytest.mark.parametrize("seconds", [0.5, 3.0, 12.0])
def test_where_the_ledger_is_slow_no_lease_ends_before_its_work_does(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    many = Many(monkeypatch, 12)
    many.seconds = seconds
    began = many.clock.now()
    assert many.leases.keep()
    for held, claim in zip(many.held, many.claims, strict=True):
        found = many.ledger.transfer(claim.id)
        assert found is not None
        assert found.lease_until is not None
        lasts = (found.lease_until - began).total_seconds()
        assert held.tenure.is_over(lasts - (LEASE_SECONDS - CUT_OFF_SECONDS))
    many.seconds = 0.0
    many.pass_by(max(0.0, LEASE_SECONDS / 4 - many.at))
    assert many.leases.keep(), "due so long after it began, however long it took"


def test_where_one_cannot_be_renewed_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Many(monkeypatch, 4)
    many.pass_by(30.0)
    stuck, *others = many.held
    many.failing = frozenset({many.claims[0].id})
    with pytest.raises(LedgerError, match="locked"):
        many.leases.keep()
    many.pass_by(CUT_OFF_SECONDS - 30.0)
    many.leases.look()
    assert [one.cancelled.is_set() for one in (stuck, *others)] == [True, False, False, False]
    many.failing = frozenset()
    assert many.leases.keep(), "tried again at once"


def test_a_ledger_that_is_away_is_not_asked_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Many(monkeypatch, 50)
    many.failing, many.seconds = frozenset(claim.id for claim in many.claims), 10.0
    with pytest.raises(LedgerError):
        many.leases.keep()
    assert len(many.asked) == 2


# --- An end that was written, but not acknowledged --------------------------------------------------------------------


class Lossy:
    """A transfer under way whose end the ledger writes, but the connection breaks before it says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Callable[[Lossy], object] | None = None) -> None:
        self.ledger, self.clock = SqlLedger.in_memory(), FakeClock()
        (self.claim,) = moving(self.ledger, self.clock.now(), 1)
        self.told: list[Event] = []
        finish, lost = self.ledger.finish, list[bool]()

        def lossy(*ending: Any) -> Transfer | None:
            if lost:
                return finish(*ending)
            lost.append(True)
            (then or (lambda _: finish(*ending)))(self)
            raise LedgerError("the connection broke")

        monkeypatch.setattr(self.ledger, "finish", lossy)
        monkeypatch.setattr(step, "lasting", lambda call: lasting(call, sleep=lambda seconds: None))

    def end(self, finish: Finish) -> Transfer | None:
        began = self.clock.now()
        self.clock.advance(5.0)
        return end_step(
            self.claim,
            finish,
            began,
            ledger=self.ledger,
            clock=self.clock,
            pseudonym=lambda value: value,
            observer=self.told.append,
        )

    @property
    def states(self) -> list[State]:
        return [event.state for event in self.told if isinstance(event, AttemptEnded)]


@pytest.mark.parametrize(
    ("finish", "state"),
    [
        (Finish(happening=Happening.MOVED, moved=True, completed=5), State.VERIFYING),
        (Finish(happening=Happening.FAIL, moved=True), State.FAILED),
    ],
)
def test_what_was_written_unheard_is_told(monkeypatch: pytest.MonkeyPatch, finish: Finish, state: State) -> None:
    lossy = Lossy(monkeypatch)
    ended = lossy.end(finish)
    assert ended == lossy.ledger.transfer(lossy.claim.id)
    assert ended is not None
    assert (ended.state, lossy.states) == (state, [state])
    assert len(lossy.ledger.attempts(lossy.claim.id)) == 1


def test_what_was_written_unheard_is_told_although_another_is_at_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    retry = Finish(happening=Happening.RETRY, moved=True, cause="timeout")

    def written_and_claimed(lossy: Lossy) -> None:
        now = lossy.clock.now()
        began = now.replace(second=now.second - 5)
        assert SqlLedger.finish(lossy.ledger, lossy.claim, retry, began, now) is not None
        assert lossy.ledger.claim_transfer(["a"], now, LEASE_SECONDS) is not None

    lossy = Lossy(monkeypatch, written_and_claimed)
    ended = lossy.end(retry)
    assert ended is not None
    assert (ended.state, lossy.states) == (State.QUEUED, [State.QUEUED])
    found = lossy.ledger.transfer(lossy.claim.id)
    assert found is not None
    assert found.state is State.MOVING, "the other goes on"


def test_a_claim_that_was_lost_meanwhile_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(lossy: Lossy) -> None:
        lossy.clock.advance(LEASE_SECONDS)
        assert lossy.ledger.expire_leases(lossy.clock.now()) == 1

    lossy = Lossy(monkeypatch, lost)
    assert lossy.end(Finish(happening=Happening.MOVED, moved=True)) is None
    assert lossy.told == []


def test_an_end_that_was_not_written_is_written_by_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    lossy = Lossy(monkeypatch, lambda _: None)
    ended = lossy.end(Finish(happening=Happening.MOVED, moved=True))
    assert ended is not None
    assert lossy.states == [State.VERIFYING]


def test_what_a_person_wished_meanwhile_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lossy = Lossy(monkeypatch)
    lossy.ledger.apply(lossy.claim.id, Happening.CANCEL, lossy.clock.now())
    ended = lossy.end(Finish(happening=Happening.RETRY, moved=True))
    assert ended is not None
    assert (ended.state, lossy.states) == (State.CANCELLED, [State.CANCELLED])
