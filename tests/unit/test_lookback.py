"""Watermarks: no scheduled sweep passes over what an incomplete or failed one before it may have missed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.condition import Condition
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.key import KeyMatch
from router.domain.lookback import SweepKeys, looked_back, sweep_keys
from router.domain.matcher import Evaluation
from router.domain.rule import Move, Node, RouterSettings, Rule, RuleSet, Sweep, Tier
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.timing import Schedule
from router.engine.ports import FindResult
from router.engine.query import Inquiry
from router.engine.slots import NodeSlots
from router.engine.sweep import Sweeper
from router.errors import ConnectionFailed
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock, FakePeers

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
NIGHTLY = Tier(schedule=Schedule.at("0 2 * * *", "UTC"), lookback=7 * 86400.0)
OFTEN = Tier(schedule=Schedule.periodic(600, "r"), lookback=7200.0)
PLAIN = Tier(schedule=Schedule.periodic(600, "r"))


def window(
    date: str | list[str], watermark: datetime | None, *, tier: Tier = PLAIN, catch_up: float = 7 * 86400.0
) -> SweepKeys:
    keys = (KeyMatch.of("StudyDate", *([date] if isinstance(date, str) else date)), KeyMatch.of("PatientID", "X"))
    sweep = Sweep(source="pacs", tiers=(tier,), keys=keys, catch_up=catch_up)
    return sweep_keys(sweep, 0, now=NOW, zone=BERLIN, watermark=watermark)


def wire(found: SweepKeys) -> list[str]:
    (key,) = [key for key in found.keys if key.name == "StudyDate"]
    return [value for one in key.wire(Evaluation(now=NOW, zone=BERLIN)) for value in one]


@pytest.mark.parametrize(
    ("date", "days", "expected"),
    [
        ("today-2d..today", 0, ["20261120-20261122"]),
        ("today-2d..today", 3, ["20261117-20261122"]),
        ("today-2d..today", 30, ["20261113-20261122"]),
        ("today", 3, ["20261119-20261122"]),
        ("yesterday", 1, ["20261120-20261121"]),
        ("now-2h..now", 1, ["20261121-20261122"]),
        ("today-1m..today", 3, ["20261019-20261122"]),
        ("20260101..20261231", 3, ["20260101-20261231"]),
        ("20260101..today", 3, ["20260101-20261122"]),
        (["today", "20260101"], 3, ["20261119-20261122", "20260101"]),
    ],
)
def test_a_window_that_moves_with_the_present_begins_where_it_would_have(
    date: str | list[str], days: int, expected: list[str]
) -> None:
    found = window(date, NOW - timedelta(days=days))
    assert wire(found) == expected
    moving = days > 0 and expected != wire(window(date, None))
    assert bool(found.further) is moving
    assert found.keys[1] == KeyMatch.of("PatientID", "X")


def test_a_lookback_begins_there_too_and_no_further_than_allowed() -> None:
    assert wire(window("today", NOW - timedelta(minutes=10), tier=OFTEN)) == ["20261122"]
    assert wire(window("today", NOW - timedelta(days=2), tier=OFTEN)) == ["20261120-20261122"]
    assert wire(window("today", NOW - timedelta(days=60), tier=OFTEN)) == ["20261115-20261122"]
    assert wire(window("today", NOW - timedelta(days=2), tier=OFTEN, catch_up=0.0)) == ["20261122"]
    assert wire(window("today", NOW - timedelta(days=2), tier=NIGHTLY)) == ["20261113-20261122"]


def test_only_what_is_out_of_the_ordinary_is_worth_a_word() -> None:
    assert not window("today", NOW - timedelta(minutes=10), tier=OFTEN).further
    assert window("today", NOW - timedelta(hours=3), tier=OFTEN).further == timedelta(hours=3)
    assert not window("today", NOW - timedelta(days=1), tier=NIGHTLY).further
    assert "30 seconds further" in looked_back(timedelta(seconds=30))
    assert "90.0 minutes further" in looked_back(timedelta(minutes=90))
    assert "3.0 hours further" in looked_back(timedelta(hours=3))
    assert "3.0 days further" in looked_back(timedelta(days=3))


@given(st.sampled_from(["today", "yesterday", "today-3d..today", "now-36h..now", "today-1m..yesterday"]), st.data())
def test_what_either_moment_would_have_selected_is_selected(date: str, data: st.DataObject) -> None:
    watermark = NOW - timedelta(seconds=data.draw(st.integers(0, 7 * 86400)))
    row = Identifier.of(
        StudyDate=f"{NOW - timedelta(days=data.draw(st.integers(0, 45))):%Y%m%d}",
        StudyTime=f"{data.draw(st.integers(0, 23)):02d}3000",
    )
    (plain,) = [key for key in window(date, None).keys if key.name == "StudyDate"]
    (widened,) = [key for key in window(date, watermark).keys if key.name == "StudyDate"]
    now = Evaluation(now=NOW, zone=BERLIN)
    if plain.matches(row, now) or plain.matches(row, Evaluation(now=watermark, zone=BERLIN)):
        assert widened.matches(row, now)


# --- In the engine ----------------------------------------------------------------------------------------------------


class Bench:
    """A rule that is swept every ten minutes, and an archive of which the test says how it answers."""

    def __init__(self) -> None:
        self.ledger = SqlLedger.in_memory()
        self.peers = FakePeers(self.ledger)
        self.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", StudyDate="20261122", StudyTime="100000")
        self.clock = FakeClock()
        honest = self.peers.find
        self.status = 0

        def find(*arguments: Any, **named: Any) -> FindResult:
            return msgspec.structs.replace(honest(*arguments, **named), status=self.status)

        self.peers.find = find  # type: ignore[method-assign]
        tiers = (
            Tier(schedule=Schedule.periodic(600, "r"), lookback=7200.0),
            Tier(schedule=Schedule.at("0 2 * * *", "UTC"), lookback=7 * 86400.0),
        )
        rule = Rule(
            name="r", sweep=Sweep(source="pacs", tiers=tiers), where=Condition.of(None), move=Move(to=("local",))
        )
        node = Node(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
        rules = RuleSet(router=RouterSettings(), nodes={"pacs": node}, rules={"r": rule}, content_hash="x")
        self.sweeper = Sweeper(
            rules=lambda: rules,
            ledger=self.ledger,
            inquiry=Inquiry(self.peers, NodeSlots()),
            clock=self.clock,
            observer=lambda event: None,
        )

    def sweep(self, *, tier: int = 0, manual: bool = False) -> tuple[SweepReport, str]:
        """Run one; its report, and the first date that it asked for."""
        now = self.clock.now()
        self.ledger.add_sweeps([SweepDue(rule="r", source="pacs", due_at=now, tier=tier, manual=manual)])
        claimed = self.ledger.claim_sweep(["pacs"], now, 60.0)
        assert claimed is not None
        before = len(self.peers.finds)
        report = self.sweeper.run(claimed, threading.Event())
        dates = [keys.text("StudyDate") for _, at, keys in self.peers.finds[before:] if at is QueryRetrieveLevel.STUDY]
        return report, dates[0] if dates else ""


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.ledger.close()


@pytest.mark.parametrize("trouble", ["cut", "down"])
def test_the_watermark_never_passes_a_sweep_that_is_not_complete(bench: Bench, trouble: str) -> None:
    report, asked = bench.sweep()
    assert (report.state, asked) == (SweepState.COMPLETE, "20261122")
    bench.status = 0xFE00 if trouble == "cut" else 0
    bench.peers.down = {"pacs"} if trouble == "down" else set()
    for _ in range(3):
        bench.clock.advance(86400.0)
        report, _ = bench.sweep()
        assert report.state is not SweepState.COMPLETE
        assert report.reason
    bench.status, bench.peers.down = 0, set()
    bench.clock.advance(600.0)
    report, asked = bench.sweep()
    assert report.state is SweepState.COMPLETE
    assert asked == "20261122-20261125", "it begins where the last complete one began"
    assert "looked back 3.0 days further" in report.account
    bench.clock.advance(600.0)
    report, asked = bench.sweep()
    assert asked == "20261125"
    assert report.account == ""


def test_before_any_is_complete_the_first_one_says_where_to_begin(bench: Bench) -> None:
    bench.status = 0xFE00
    bench.sweep()
    bench.clock.advance(86400.0)
    bench.sweep()
    bench.status = 0
    bench.clock.advance(86400.0)
    _, asked = bench.sweep()
    assert asked == "20261122-20261124"


def test_tiers_and_people_have_their_own_eyes(bench: Bench) -> None:
    bench.sweep()
    bench.clock.advance(2 * 86400.0)
    _, asked = bench.sweep(manual=True)
    assert asked == "20261124", "a person means the window as it stands"
    _, asked = bench.sweep(tier=1)
    assert asked == "20261117-20261124"
    _, asked = bench.sweep()
    assert asked == "20261122-20261124", "neither has moved the watermark of the first tier"


def test_a_source_that_is_down_is_an_error_of_the_sweep(bench: Bench) -> None:
    bench.peers.down = {"pacs"}
    report, _ = bench.sweep()
    assert report.cause == ConnectionFailed.cause
