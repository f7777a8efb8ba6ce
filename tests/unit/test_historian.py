"""The historian: what it does in which order, how gently, and when it rests."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.compiler import Sources, compile_sources
from router.domain.history import (
    MOST,
    PAUSE_SECONDS,
    STEP_SECONDS,
    Archived,
    Mark,
    next_step,
    rest_after,
)
from router.domain.rule import RouterSettings
from router.domain.transfer import State
from router.engine import historian
from router.engine.historian import Historian
from router.errors import LedgerError
from tests.support.process import READY_SECONDS

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class FakeLedger:
    """Has so many steps' worth; each takes `seconds` of the fake clock for one transfer."""

    def __init__(self, steps: int, seconds: float = 0.0) -> None:
        self.steps, self.seconds = steps, seconds
        self.at = 0.0
        self.asked: list[tuple[Mark | None, datetime, int]] = []
        self.error: LedgerError | None = None
        self.passes = threading.Semaphore(0)

    def archive(self, mark: Mark | None, before: datetime, most: int, now: datetime) -> Archived:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.asked.append((mark, before, most))
        self.at += most * self.seconds
        number = 0 if mark is None else mark.transfer_id
        if number + 1 == self.steps:
            self.passes.release()
            return Archived(moved=1, mark=None)
        return Archived(moved=1, mark=Mark(State.COMPLETE, NOW, number + 1))


class Clock:
    def now(self) -> datetime:
        return NOW


def made(ledger: FakeLedger, keep: float | None = 86400.0, *, leads: bool = True) -> tuple[Historian, list[str]]:
    told: list[str] = []
    one = Historian(
        keep=lambda: keep,
        ledger=ledger,
        leads=lambda: leads,
        clock=Clock(),
        trouble=lambda where, error: told.append(f"{where}: {error}"),
        monotonic=lambda: ledger.at,
    )
    return one, told


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(historian, "rest_after", lambda seconds: 0.0)
    monkeypatch.setattr(historian, "LOOK_SECONDS", 0.01)


def test_a_pass_goes_from_mark_to_mark_to_the_end() -> None:
    ledger = FakeLedger(3)
    one, _ = made(ledger)
    assert one.go_through() == 3
    assert [mark and mark.transfer_id for mark, _, _ in ledger.asked] == [None, 1, 2]
    assert {before for _, before, _ in ledger.asked} == {NOW - timedelta(days=1)}


def test_steps_become_as_small_as_the_ledger_is_slow() -> None:
    ledger = FakeLedger(5, seconds=0.002)
    one, _ = made(ledger)
    one.go_through()
    assert [most for _, _, most in ledger.asked] == [125, 50, 50, 50, 50]


@pytest.mark.parametrize(("keep", "leads"), [(None, True), (86400.0, False)])
def test_nothing_goes_without_keep_or_where_another_leads(keep: float | None, leads: bool) -> None:
    ledger = FakeLedger(1)
    one, _ = made(ledger, keep, leads=leads)
    assert one.go_through() == 0
    assert ledger.asked == []


def test_it_goes_through_at_once_then_rests_and_ends_when_told() -> None:
    ledger = FakeLedger(2)
    one, told = made(ledger)
    one.start()
    assert ledger.passes.acquire(timeout=READY_SECONDS)
    ledger.at += historian.PASS_SECONDS
    assert ledger.passes.acquire(timeout=READY_SECONDS)
    one.stop()
    assert (told, len(ledger.asked)) == ([], 4)


def test_trouble_is_told_and_the_next_pass_comes() -> None:
    ledger = FakeLedger(1)
    ledger.error = LedgerError("The ledger x is away.")
    one, told = made(ledger)
    one.start()
    try:
        for _ in range(int(READY_SECONDS / 0.01)):
            if ledger.passes.acquire(timeout=0.01):
                break
            ledger.at += historian.PASS_SECONDS
    finally:
        one.stop()
    assert told == ["history: The ledger x is away."]
    assert ledger.asked != []


@given(size=st.integers(1, MOST), seconds=st.floats(0, 100))
def test_steps_and_rests_are_bounded(size: int, seconds: float) -> None:
    following = next_step(size, seconds)
    assert 1 <= following <= MOST
    assert rest_after(seconds) >= max(seconds, PAUSE_SECONDS)
    if seconds > STEP_SECONDS and size > 20:
        assert following < size


# --- The key ----------------------------------------------------------------------------------------------------------


def read(keep: str) -> tuple[float | None, list[str]]:
    """What a configuration with this `keep` says, and its errors."""
    nodes = "nodes: {a: {ae_title: A, address: 'h:104'}}"
    text = f"router: {{ae_title: R, history: {{keep: {keep}}}}}\n{nodes}\nrules: {{}}\n"
    loaded = compile_sources(Sources((("a.yaml", text.encode()),), ()), NOW)
    errors = [f"{one.line}: {one.code} {one.message}" for one in loaded.diagnostics if one.severity == "error"]
    return (None if loaded.rule_set is None else loaded.rule_set.router.history), errors


def test_keep_is_a_duration_of_an_hour_at_least() -> None:
    assert read("90d") == (90 * 86400.0, [])
    assert read("1h") == (3600.0, [])
    assert read("59m") == (None, ["1: DR014 router.history.keep: 59m is shorter than 1h"])
    assert read("soon")[0] is None


def test_a_change_of_it_needs_no_restart() -> None:
    before, wanted = RouterSettings(), RouterSettings(history=3600.0, ae_title="OTHER")
    assert before.restart_needed(wanted) == ("ae_title",)
    assert before.adopting(wanted) == RouterSettings(history=3600.0)
