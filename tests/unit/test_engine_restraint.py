"""Settling and limits over several sweeps: engine and ledger on the bench, a day's time turned by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.dicom import InformationModel, QueryRetrieveLevel
from router.domain.events import SweepEnded
from router.domain.rule import Move, Rule, RuleLimits, Sweep
from router.domain.sweep import SweepDue
from router.domain.transfer import Happening, State, Transfer
from router.engine.mover import LEASE_SECONDS
from router.errors import ConnectionFailed
from router.ledger.ledger import SqlLedger
from tests.support.engine import Bench

SETTLE = 600.0


class Restrained(Bench):
    """A bench whose rule is restrained."""

    def restrain(self, name: str = "r", to: tuple[str, ...] = ("local",), settle: float = 0.0, **limits: Any) -> None:
        rule = self.rules.rules["r"]
        sweep = Sweep(source="pacs", level=rule.sweep.level, settle=settle)
        move = Move(to=to, level=rule.move.level)
        changed = Rule(name=name, sweep=sweep, where=rule.where, move=move, limits=RuleLimits(**limits))
        self.rules = msgspec.structs.replace(self.rules, rules=self.rules.rules | {name: changed})

    def node(self, **changes: Any) -> None:
        pacs = msgspec.structs.replace(self.rules.nodes["pacs"], **changes)
        self.rules = msgspec.structs.replace(self.rules, nodes=self.rules.nodes | {"pacs": pacs})

    def study(self, number: int, instances: int) -> str:
        """A study that now has so many instances."""
        uid = f"1.{number}"
        self.peers.holdings["pacs"][uid] = {f"{uid}.1": {f"{uid}.1.{n}" for n in range(1, instances + 1)}}
        self.peers.attributes.setdefault(uid, {})
        return uid

    def sweep_of(self, rule: str, *, manual: bool = False) -> None:
        self.clock.advance(60)
        self.ledger.add_sweeps([SweepDue(rule=rule, source="pacs", due_at=self.clock.now(), manual=manual)])
        claim = self.ledger.claim_sweep(["pacs"], self.clock.now(), LEASE_SECONDS)
        assert claim is not None
        self.sweeper.run(claim, self.never)

    @property
    def all(self) -> dict[str, Transfer]:
        """By the end of the study's UID, and where there are several destinations the destination."""
        transfers = self.ledger.transfers()
        several = len({t.intent.destination for t in transfers}) > 1
        return {
            t.intent.study_instance_uid.removeprefix("1.") + (f" {t.intent.destination}" if several else ""): t
            for t in reversed(transfers)
        }

    @property
    def states(self) -> dict[str, str]:
        return {name: f"{t.state} {t.cause}".strip() for name, t in self.all.items()}

    def work(self) -> None:
        """Do what is queued until nothing is due any more."""
        for _ in range(200):
            if self.step() is None:
                waiting = [t for t in self.ledger.transfers() if not t.ended and t.state is not State.HELD]
                if not waiting:
                    return
                self.clock.advance(max(0.001, (min(t.next_at for t in waiting) - self.clock.now()).total_seconds()))
        raise AssertionError("the transfers do not end")

    def pause(self, seconds: float) -> None:
        """Until just before the next sweep, which is 60 s later anyway."""
        self.clock.advance(seconds - 60)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Restrained]:
    made = Restrained(tmp_path)
    yield made
    made.ledger.close()


def writes(bench: Restrained) -> list[tuple[int, datetime]]:
    return [(t.id, t.updated_at) for t in bench.ledger.transfers()]


class TestSettling:
    def test_a_study_moves_when_two_looks_far_enough_apart_see_the_same(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        bench.study(1, 3)
        report = bench.sweep()
        assert (report.selected, report.matches) == (0, 1)
        assert "1 until the number of instances has stayed the same for 10m" in report.account
        assert bench.states == {"1": "held settling"}
        (held,) = bench.ledger.transfers()
        assert (held.next_at - held.queued_at).total_seconds() == SETTLE
        assert bench.step() is None
        before = writes(bench)
        bench.pause(SETTLE - 1)
        assert bench.sweep().selected == 0
        assert writes(bench) == before, "a sweep in which nothing changes writes its own row only"
        bench.pause(60)
        assert bench.sweep().selected == 1
        bench.work()
        assert bench.states["1"].startswith("complete")

    def test_growth_starts_the_time_anew(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        for count in (3, 5, 4):  # fewer than before is a change as well
            bench.study(1, count)
            bench.pause(SETTLE)
            assert bench.sweep().selected == 0
            assert bench.all["1"].instance_count == count
            assert bench.all["1"].queued_at == bench.clock.now()
        bench.pause(SETTLE)
        assert bench.sweep().selected == 1
        bench.work()
        assert len(bench.held("1.1")) == 4

    def test_late_series_settle_and_are_moved_as_a_difference(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        bench.study(1, 3)
        bench.sweep()
        bench.pause(SETTLE)
        bench.sweep()
        bench.work()
        bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1", "1.1.2.2")
        bench.sweep()
        assert bench.states == {"1": "held settling"}
        assert (bench.all["1"].completed, bench.all["1"].instance_count) == (3, 5)
        bench.pause(SETTLE)
        bench.sweep()
        bench.peers.requests.clear()
        bench.work()
        assert bench.states["1"].startswith("complete")
        (request,) = [request for _, request in bench.peers.requests]
        assert request.series_instance_uids == ("1.1.2",)

    def test_a_study_that_never_grew_is_not_held_again(self, bench: Restrained) -> None:
        bench.study(1, 3)
        bench.sweep()
        bench.work()
        bench.restrain(settle=SETTLE)
        bench.sweep()
        assert bench.states["1"].startswith("complete")

    def test_where_nobody_counts_two_looks_suffice(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        bench.node(find=msgspec.structs.replace(bench.rules.nodes["pacs"].find, expected="none"))
        bench.peers.report_counts = False
        bench.study(1, 3)
        bench.sweep()
        bench.pause(SETTLE)
        assert bench.sweep().selected == 1

    @pytest.mark.parametrize("lists", [True, False])
    @pytest.mark.parametrize("root", list(InformationModel))
    def test_what_drops_out_of_the_sweep_is_watched_to_the_end(
        self, bench: Restrained, lists: bool, root: InformationModel
    ) -> None:
        bench.restrain(settle=SETTLE)
        bench.node(root=root)
        bench.peers.uid_lists = lists
        for number in (1, 2, 3):
            bench.study(number, 3)
        bench.sweep()
        bench.peers.out_of_range = {"1.1", "1.2", "1.3"}
        bench.study(2, 4)
        bench.pause(SETTLE / 2)
        bench.peers.finds.clear()
        assert bench.sweep().queries == 1, "nothing is asked before its time has come"
        bench.pause(SETTLE / 2)
        report = bench.sweep()
        assert (report.matches, report.selected) == (0, 2)
        if lists:
            assert report.queries == 2
        assert bench.states == {"1": "queued", "2": "held settling", "3": "queued"}
        bench.pause(SETTLE)
        assert bench.sweep().selected == 1
        bench.work()
        assert {state.split()[0] for state in bench.states.values()} == {"complete"}
        assert len(bench.held("1.2")) == 4

    def test_series_that_drop_out_are_asked_for_within_their_study(self, bench: Restrained) -> None:
        move = msgspec.structs.replace(bench.rules.rules["r"].move, level=QueryRetrieveLevel.SERIES)
        changed = msgspec.structs.replace(bench.rules.rules["r"], move=move)
        bench.rules = msgspec.structs.replace(bench.rules, rules={"r": changed})
        bench.restrain(settle=SETTLE)
        bench.study(1, 2)
        bench.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1")
        bench.sweep()
        assert [t.state for t in bench.ledger.transfers()] == [State.HELD] * 2
        bench.peers.out_of_range = {"1.1"}
        bench.pause(SETTLE)
        report = bench.sweep()
        assert (report.selected, report.queries) == (2, 2)

    def test_what_is_gone_ends_as_nothing(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        bench.study(1, 3)
        bench.sweep()
        del bench.peers.holdings["pacs"]["1.1"]
        bench.pause(SETTLE)
        assert bench.sweep().selected == 1
        bench.work()
        assert bench.states["1"].startswith("nothing")

    def test_a_source_that_is_down_leaves_it_held(self, bench: Restrained, monkeypatch: pytest.MonkeyPatch) -> None:
        bench.restrain(settle=SETTLE)
        bench.study(1, 3)
        bench.sweep()
        bench.peers.out_of_range = {"1.1"}
        bench.pause(SETTLE)
        find = bench.peers.find

        def once(*args: Any, **options: Any) -> Any:
            monkeypatch.setattr(bench.peers, "find", gone)
            return find(*args, **options)

        def gone(*args: Any, **options: Any) -> Any:
            raise ConnectionFailed("pacs refused the connection; is it running?")

        monkeypatch.setattr(bench.peers, "find", once)
        assert str(bench.sweep().state) == "failed"
        assert bench.states == {"1": "held settling"}

    def test_without_settle_any_more_it_goes_at_once(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        bench.study(1, 3)
        bench.sweep()
        bench.restrain()
        bench.study(1, 4)
        assert bench.sweep().selected == 1
        assert bench.all["1"].instance_count == 4

    def test_another_rule_without_an_objection_takes_it(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        bench.restrain("other")
        bench.study(1, 3)
        bench.sweep()
        bench.sweep_of("other")
        assert (bench.states, bench.all["1"].rule) == ({"1": "queued"}, "other")

    def test_another_rule_that_objects_leaves_it(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        bench.restrain("other", settle=SETTLE)
        bench.study(1, 3)
        bench.sweep()
        before = writes(bench)
        bench.sweep_of("other")
        assert writes(bench) == before
        bench.study(1, 4)
        bench.sweep_of("other")
        assert (bench.all["1"].rule, bench.all["1"].instance_count) == ("r", 4)
        bench.pause(SETTLE)
        bench.sweep_of("other")
        assert (bench.states, bench.all["1"].rule) == ({"1": "queued"}, "other")

    def test_a_person_asks_in_vain_but_may_release_and_cancel(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        for number in (1, 2, 3):
            bench.study(number, 3)
        bench.sweep(manual=True)
        assert set(bench.states.values()) == {"held settling"}
        now = bench.clock.now()
        bench.ledger.apply(bench.all["1"].id, Happening.RELEASE, now)
        bench.ledger.apply(bench.all["2"].id, Happening.CANCEL, now)
        bench.ledger.apply(bench.all["3"].id, Happening.HOLD, now)
        assert bench.states == {"1": "queued", "2": "cancelled", "3": "held"}
        bench.work()
        bench.pause(10 * SETTLE)
        bench.sweep(manual=True)
        assert (bench.states["2"], bench.states["3"]) == ("cancelled", "held"), "a person's hold is never released"
        assert bench.states["1"].startswith("complete")

    def test_a_restart_forgets_nothing(self, bench: Restrained, tmp_path: Path) -> None:
        bench.restrain(settle=SETTLE)
        bench.study(1, 3)
        bench.sweep()
        bench.ledger.close()
        again = Restrained(tmp_path)
        again.rules, again.clock.time = bench.rules, bench.clock.time
        again.study(1, 3)
        again.pause(SETTLE)
        assert again.sweep().selected == 1
        bench.ledger = again.ledger  # closed by the fixture

    def test_what_is_off_line_when_it_has_settled_waits(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE)
        bench.study(1, 3)
        bench.sweep()
        bench.peers.attributes["1.1"]["InstanceAvailability"] = "OFFLINE"
        bench.pause(SETTLE)
        assert bench.sweep().selected == 0
        assert bench.states == {"1": "held settling"}
        bench.peers.attributes["1.1"]["InstanceAvailability"] = "NEARLINE"
        assert bench.sweep().selected == 1
        assert (bench.all["1"].priority, bench.all["1"].availability) == (2, "NEARLINE")


class TestStudiesPerSweep:
    def test_the_rest_has_its_turn_in_the_order_in_which_it_came(self, bench: Restrained) -> None:
        bench.restrain(to=("local", "ws"), studies_per_sweep=2)
        for number in range(1, 6):
            bench.study(number, 1)
        report = bench.sweep()
        assert report.selected == 4, "two studies, each to two destinations"
        assert "6 by studies_per_sweep (2)" in report.account
        (event,) = [e for e in bench.events if isinstance(e, SweepEnded)]
        assert event.held == {"studies_per_sweep": 6}
        bench.peers.out_of_range = {f"1.{n}" for n in range(1, 6)}
        for number in (6, 7):
            bench.study(number, 1)
        order = []
        for _ in range(4):
            queued = {t.intent.study_instance_uid for t in bench.ledger.transfers() if t.state is State.QUEUED}
            bench.work()
            bench.sweep()
            order.append(sorted(queued))
        assert order == [["1.1", "1.2"], ["1.3", "1.4"], ["1.5", "1.6"], ["1.7"]]
        assert bench.sweep().selected == 0
        assert len(bench.ledger.transfers()) == 14

    def test_growth_and_what_is_asked_again_count_too(self, bench: Restrained) -> None:
        bench.study(1, 1)
        bench.study(2, 1)
        bench.sweep()
        bench.work()
        bench.restrain(studies_per_sweep=1)
        bench.study(1, 2)
        bench.study(2, 2)
        assert bench.sweep().selected == 1
        assert bench.states == {"1": "queued", "2": "held studies-per-sweep"}
        bench.study(2, 3)
        before = bench.all["2"].queued_at
        bench.study(3, 1)
        bench.peers.out_of_range = {"1.1"}
        assert bench.sweep().selected == 1
        assert bench.states["2"] == "queued"
        assert bench.all["2"].instance_count == 3
        assert bench.all["2"].queued_at > before

    def test_settling_comes_first_and_keeps_its_place(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE, studies_per_sweep=1)
        for number in (1, 2):
            bench.study(number, 1)
        bench.sweep()
        first_seen = bench.all["2"].queued_at
        bench.study(3, 1)
        bench.sweep()
        bench.pause(SETTLE)
        bench.sweep()
        assert bench.states == {"1": "queued", "2": "held studies-per-sweep", "3": "held studies-per-sweep"}
        assert bench.all["2"].queued_at == first_seen
        before = writes(bench)
        bench.work()
        bench.sweep()
        assert bench.states["2"] == "queued"
        assert dict(writes(bench))[bench.all["3"].id] == dict(before)[bench.all["3"].id], "what stays held stays"

    def test_growth_while_it_waits_settles_anew(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE, studies_per_sweep=1)
        for number in (1, 2):
            bench.study(number, 1)
        bench.sweep()
        bench.pause(SETTLE)
        bench.sweep()
        bench.study(2, 2)
        bench.sweep()
        assert bench.states["2"] == "held settling"

    def test_a_rule_without_the_limit_takes_what_another_holds(self, bench: Restrained) -> None:
        bench.restrain(studies_per_sweep=1)
        bench.restrain("other")
        for number in (1, 2, 3):
            bench.study(number, 1)
        bench.sweep()
        bench.sweep_of("other")
        assert set(bench.states.values()) == {"queued"}
        assert [bench.all[n].rule for n in ("1", "2", "3")] == ["r", "other", "other"]


class TestInstancesPerDay:
    def test_what_does_not_fit_waits_for_the_next_day_of_the_source(self, bench: Restrained) -> None:
        bench.node(timezone="America/New_York")
        bench.clock.time = datetime(2026, 10, 31, 22, 0, tzinfo=UTC)  # 18:00 there; the clocks go back that night
        bench.restrain(instances_per_day=10)
        for number, count in enumerate((4, 5, 3, 1), 1):
            bench.study(number, count)
        report = bench.sweep()
        assert bench.states == {"1": "queued", "2": "queued", "3": "held instances-per-day", "4": "queued"}
        assert "1 by instances_per_day (10)" in report.account
        midnight = datetime(2026, 11, 1, 4, 0, tzinfo=UTC)
        assert bench.all["3"].next_at == midnight
        bench.work()
        bench.clock.time = datetime(2026, 11, 1, 3, 58, 0, tzinfo=UTC)
        assert bench.sweep().selected == 0
        assert bench.sweep().selected == 1
        bench.work()
        for number, count in ((5, 7), (6, 1)):
            bench.study(number, count)
        assert bench.sweep().selected == 1, "7 and 3 make 10"
        bench.clock.time = datetime(2026, 11, 2, 4, 58, 0, tzinfo=UTC)  # that day has 25 hours
        assert bench.sweep().selected == 0
        assert bench.sweep().selected == 1

    def test_each_destination_counts_and_of_growth_the_difference(self, bench: Restrained) -> None:
        bench.restrain(to=("local", "ws"), instances_per_day=30)
        bench.study(1, 10)
        bench.sweep()
        bench.work()
        day = bench.clock.now().date()
        assert bench.ledger.queued_on("r", day) == 20
        bench.study(1, 14)
        bench.sweep()
        assert bench.ledger.queued_on("r", day) == 28
        bench.work()
        bench.study(2, 2)
        bench.sweep()
        assert bench.states["2 ws"] == "held instances-per-day"

    def test_growth_that_was_held_is_reckoned_as_the_difference(self, bench: Restrained) -> None:
        bench.restrain(settle=SETTLE, instances_per_day=100)
        bench.study(1, 10)
        bench.sweep()
        bench.pause(SETTLE)
        bench.sweep()
        bench.work()
        bench.study(1, 13)
        bench.sweep()
        bench.study(1, 14)
        bench.sweep()
        bench.pause(SETTLE)
        bench.sweep()
        assert bench.ledger.queued_on("r", bench.clock.now().date()) == 14

    def test_a_study_larger_than_the_limit_goes_alone_on_a_fresh_day(self, bench: Restrained) -> None:
        bench.restrain(instances_per_day=10)
        bench.study(1, 2)
        bench.study(2, 50)
        bench.sweep()
        assert bench.states == {"1": "queued", "2": "held instances-per-day"}
        bench.work()
        bench.study(3, 1)
        bench.clock.advance(86400)
        answer = bench.sweeper.look(bench.rules, bench.rules.rules["r"], bench.never)
        (giant,) = [d for d in answer.selection.decisions if d.study_instance_uid == "1.2"]
        assert "alone more than instances_per_day (10)" in giant.reason
        bench.sweep()
        assert bench.states["2"] == "queued"
        assert bench.states["3"] == "held instances-per-day"

    def test_what_nobody_charges_is_not_counted(self, bench: Restrained) -> None:
        """Another sweep of the rule that decided the same at the same time."""
        bench.restrain(instances_per_day=10)
        bench.study(1, 4)
        now = bench.clock.now()
        due = [SweepDue(rule="r", source="pacs", due_at=now, manual=manual) for manual in (False, True)]
        bench.ledger.add_sweeps(due)
        first, second = (bench.ledger.claim_sweep(["pacs"], now, LEASE_SECONDS) for _ in due)
        assert first is not None
        assert second is not None
        finish = bench.ledger.finish_sweep

        def meanwhile(*args: Any) -> bool:
            bench.ledger.finish_sweep = finish  # type: ignore[method-assign]
            bench.sweeper.run(second, bench.never)
            return finish(*args)

        bench.ledger.finish_sweep = meanwhile  # type: ignore[method-assign]
        bench.sweeper.run(first, bench.never)
        assert bench.ledger.queued_on("r", now.date()) == 4


def test_what_is_held_for_a_destination_that_the_rule_does_not_name_any_more_waits_for_a_person(
    bench: Restrained,
) -> None:
    bench.restrain(to=("local", "ws"), studies_per_sweep=1)
    bench.study(1, 1)
    bench.study(2, 1)
    bench.sweep()
    held = {"2 local": "held studies-per-sweep", "2 ws": "held studies-per-sweep"}
    assert {name: state for name, state in bench.states.items() if name[0] == "2"} == held
    bench.restrain(to=("local",))
    bench.sweep()
    assert {name: state for name, state in bench.states.items() if name[0] == "2"} == held | {"2 local": "queued"}


def test_a_plan_says_what_would_be_held_and_writes_nothing(bench: Restrained) -> None:
    bench.restrain(settle=SETTLE)
    bench.study(1, 3)
    answer = bench.sweeper.look(bench.rules, bench.rules.rules["r"], bench.never, manual=True)
    (decision,) = answer.selection.decisions
    assert (str(decision.action), decision.code) == ("hold", "settling")
    assert "10m" in decision.reason
    assert bench.ledger.transfers() == []
    bench.restrain(studies_per_sweep=1)
    bench.study(2, 3)
    answer = bench.sweeper.look(bench.rules, bench.rules.rules["r"], bench.never, manual=True)
    assert [(str(d.action), d.code) for d in answer.selection.decisions] == [("move", "new"), ("hold", "limit")]


def test_a_ledger_to_read_from_tells_a_plan_what_is_held(bench: Restrained, tmp_path: Path) -> None:
    bench.restrain(studies_per_sweep=1, instances_per_day=100)
    bench.study(1, 3)
    bench.study(2, 3)
    bench.sweep()
    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db", read_only=True) as ledger:
        (held,) = ledger.held("r", "pacs", bench.clock.now(), 10)
        assert (held.cause, held.intent.study_instance_uid) == ("studies-per-sweep", "1.2")
        assert ledger.queued_on("r", bench.clock.now().date()) == 3
