"""What rules held back that are removed, disabled, renamed or led elsewhere: nothing is lost or begun unasked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from router.domain.events import HoldsLeft
from router.domain.holds import HeldRoute, Owner, owner_of
from router.domain.rule import Rule
from router.domain.transfer import Happening, State
from router.engine import orphans as orphans_module
from router.engine.orphans import GRACE_SECONDS, Orphans
from tests.unit.test_engine_restraint import Restrained


class Bench(Restrained):
    """A restrained bench that looks for what has no owner, by a clock of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.at = 0.0
        self.orphans = Orphans(self.ledger, self.events.append, lambda: self.at)

    def look(self, seconds: float = 0.0) -> None:
        self.at += seconds
        self.orphans.look(self.rules, self.clock.now())

    def remove(self, *names: str) -> None:
        rules = {name: rule for name, rule in self.rules.rules.items() if name not in names}
        self.rules = msgspec.structs.replace(self.rules, rules=rules)

    def change(self, **changes: object) -> None:
        rule: Rule = msgspec.structs.replace(self.rules.rules["r"], **changes)
        self.rules = msgspec.structs.replace(self.rules, rules=self.rules.rules | {"r": rule})

    @property
    def told(self) -> list[tuple[str, str, int, bool]]:
        return [(e.rule, e.destination, e.count, e.released) for e in self.events if isinstance(e, HoldsLeft)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    for number in range(1, 6):
        made.study(number, 2)
    return made


def limited(bench: Bench) -> None:
    """The rule has one study a sweep: the others wait."""
    bench.restrain(studies_per_sweep=1)
    bench.sweep()
    assert sorted(bench.states.values()) == ["held studies-per-sweep"] * 4 + ["queued"]


def test_what_a_removed_rule_holds_goes_on_after_a_grace(bench: Bench) -> None:
    limited(bench)
    bench.remove("r")
    bench.look()
    bench.look(GRACE_SECONDS - 1)
    assert sorted(set(bench.states.values())) == ["held studies-per-sweep", "queued"]
    bench.look(1)
    assert set(bench.states.values()) == {"queued"}
    assert bench.told == [("r", "local", 4, True)]
    assert all("r that held it" in one.reason for one in bench.all.values() if one.id > 1)
    bench.work()
    assert set(bench.states.values()) == {"complete success"}


def test_what_settled_for_a_removed_rule_goes_on_too(bench: Bench) -> None:
    bench.restrain(settle=600.0)
    bench.sweep()
    bench.remove("r")
    bench.look()
    bench.look(GRACE_SECONDS)
    assert set(bench.states.values()) == {"queued"}


def test_a_rule_that_comes_back_within_the_grace_has_lost_nothing(bench: Bench) -> None:
    limited(bench)
    whole = bench.rules
    bench.remove("r")
    bench.look()
    bench.rules = whole
    bench.look(GRACE_SECONDS / 2)
    bench.remove("r")
    bench.look(GRACE_SECONDS / 2)
    assert bench.told == [], "each absence counts by itself"
    bench.rules = whole
    bench.look(GRACE_SECONDS * 3)
    bench.work()
    bench.sweep()
    assert sorted(bench.states.values()) == ["complete success"] + ["held studies-per-sweep"] * 3 + ["queued"]
    assert bench.told == []


def test_what_a_disabled_rule_holds_stays_until_it_is_enabled(bench: Bench) -> None:
    limited(bench)
    bench.change(enabled=False)
    for _ in range(5):
        bench.look(GRACE_SECONDS)
    assert sorted(bench.states.values()) == ["held studies-per-sweep"] * 4 + ["queued"]
    assert bench.told == [("r", "local", 4, False)], "told once"
    bench.change(enabled=True)
    bench.look(GRACE_SECONDS)
    bench.sweep()
    assert sorted(bench.states.values()) == ["held studies-per-sweep"] * 3 + ["queued"] * 2
    bench.change(enabled=False)
    bench.look(GRACE_SECONDS)
    assert bench.told[1:] == [("r", "local", 3, False)], "and again when it is disabled again"


def test_what_a_renamed_rule_held_goes_on_and_is_not_moved_twice(bench: Bench) -> None:
    limited(bench)
    rule = bench.rules.rules["r"]
    bench.remove("r")
    bench.rules = msgspec.structs.replace(bench.rules, rules={"new": msgspec.structs.replace(rule, name="new")})
    bench.look()
    bench.sweep_of("new")
    bench.look(GRACE_SECONDS)
    bench.work()
    bench.sweep_of("new")
    bench.work()
    assert set(bench.states.values()) == {"complete success"}
    assert len(bench.peers.requests) == 5


def test_what_is_held_for_a_destination_or_from_a_source_that_a_rule_leaves_goes_on(bench: Bench) -> None:
    bench.restrain(to=("local", "ws"), settle=600.0)
    bench.sweep()
    bench.restrain(to=("local",), settle=600.0)
    bench.look()
    bench.look(GRACE_SECONDS)
    held = {one.intent.destination: one.state for one in bench.ledger.transfers()}
    assert held == {"ws": State.QUEUED, "local": State.HELD}
    assert bench.told == [("r", "ws", 5, True)]


def test_what_a_person_holds_is_his(bench: Bench) -> None:
    limited(bench)
    held = [one for one in bench.ledger.transfers() if one.state is State.HELD]
    bench.ledger.apply(held[0].id, Happening.HOLD, bench.clock.now())
    bench.remove("r")
    bench.look()
    bench.look(GRACE_SECONDS)
    known = bench.ledger.transfer(held[0].id)
    assert known is not None
    assert known.state is State.HELD
    assert bench.told == [("r", "local", 3, True)]


def test_a_sweep_that_ends_after_its_rule_was_removed_leaves_nothing_held_for_ever(bench: Bench) -> None:
    whole = bench.rules
    bench.remove("r")
    bench.look()
    bench.rules = whole
    limited(bench)  # it was under way when the rule was removed
    bench.remove("r")
    bench.look(GRACE_SECONDS)
    bench.look(GRACE_SECONDS)
    assert set(bench.states.values()) == {"queued"}


def test_a_great_many_are_let_go_in_parts_and_a_look_comes_now_and_then_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans_module, "MOST_RELEASED", 3)
    limited(bench)
    bench.remove("r")
    bench.look()
    bench.look(GRACE_SECONDS)
    bench.look(GRACE_SECONDS / 2)
    assert [count for _, _, count, _ in bench.told] == [3]
    bench.look(GRACE_SECONDS / 2)
    assert [count for _, _, count, _ in bench.told] == [3, 1]


def test_who_leads_somewhere_is_told_from_who_is_gone(bench: Bench) -> None:
    bench.restrain(to=("local",))
    held = HeldRoute("r", "pacs", "local", 1)
    assert owner_of(held, bench.rules) is Owner.LEADS
    assert owner_of(held._replace(source="ws"), bench.rules) is Owner.GONE
    assert owner_of(held._replace(destination="ws"), bench.rules) is Owner.GONE
    assert owner_of(held._replace(rule="x"), bench.rules) is Owner.GONE
    bench.change(enabled=False)
    assert owner_of(held, bench.rules) is Owner.ASLEEP
    bench.prefetches("local")
    assert owner_of(held, bench.rules) is Owner.GONE
