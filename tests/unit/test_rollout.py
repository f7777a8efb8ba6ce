"""While configurations differ: work for what only another replica knows is left alone, and ends only when all agree."""

from __future__ import annotations

from datetime import timedelta

import pytest

from router.domain.condition import Condition
from router.domain.rule import Move, Node, RouterSettings, Rule, RuleSet, Sweep
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Finish, Happening, Intent, NewTransfer, Route, State, Transfer
from router.engine.giving_back import AGAIN_SECONDS
from router.engine.rollout import Rollout
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock

KNOWN = ("archive", "ws", "local")


def rules() -> RuleSet:
    return RuleSet(
        router=RouterSettings(),
        nodes={name: Node(name=name, ae_title=name.upper(), host="h", port=104) for name in ("archive", "ws")},
        rules={"known": Rule(name="known", sweep=Sweep(source="archive"), where=Condition(), move=Move(to=("ws",)))},
        content_hash="c",
    )


class Bench:
    def __init__(self) -> None:
        self.ledger, self.clock, self.agree = SqlLedger.in_memory(), FakeClock(), False
        self.by_now: bool | None = None
        """Whether they agree where somebody looks anew; None: as was seen before."""
        self.rollout = Rollout(self.ledger, self.agrees, self.clock)

    def agrees(self, rules: RuleSet, *, anew: bool = False) -> bool:
        return self.by_now if anew and self.by_now is not None else self.agree

    def queued(self, rule: str, destination: str) -> Transfer:
        self.clock.advance(1)
        (number,) = self.ledger.add_sweeps(
            [SweepDue(rule=rule, source="archive", due_at=self.clock.now(), manual=True)]
        )
        sweep = self.ledger.claim_sweep(["archive"], self.clock.now(), 60)
        assert sweep is not None
        assert sweep.id == number
        intent = Intent("archive", f"1.2.{number}", "", destination)
        new = NewTransfer(intent=intent, rule=rule, priority=1, instance_count=3, patient_id="P")
        report = SweepReport(state=SweepState.COMPLETE)
        self.ledger.finish_sweep(sweep, report, [new], [], self.clock.now())
        (found,) = self.ledger.transfers(study_instance_uid=intent.study_instance_uid)
        return found

    def claimed(self, rule: str, destination: str) -> Transfer:
        self.queued(rule, destination)
        claim = self.ledger.claim_transfer(["archive"], self.clock.now(), 60)
        assert claim is not None
        return claim


@pytest.mark.parametrize(("rule", "destination"), [("new", "ws"), ("known", "new"), ("new", "new")])
def test_a_transfer_of_another_configuration_is_put_back_and_costs_nothing(rule: str, destination: str) -> None:
    bench = Bench()
    claim = bench.claimed(rule, destination)
    assert bench.rollout.leaves(claim, rules())
    left = bench.ledger.transfer(claim.id)
    assert left is not None
    assert (left.state, left.attempts, left.cause) == (State.QUEUED, 0, "other-configuration")
    assert left.next_at == bench.clock.now() + timedelta(seconds=AGAIN_SECONDS)
    bench.clock.advance(AGAIN_SECONDS)
    again = bench.ledger.claim_transfer(["archive"], bench.clock.now(), 60)
    assert again is not None
    bench.agree = True
    assert not bench.rollout.leaves(again, rules()), "nobody has it: it ends, and says so"


def test_what_another_has_adopted_since_anybody_looked_is_left_to_it() -> None:
    bench = Bench()
    bench.agree, bench.by_now = True, False
    claim = bench.claimed("known", "new")
    assert bench.rollout.leaves(claim, rules())
    bench.by_now = True
    assert not bench.rollout.leaves(claim, rules())


def test_what_is_known_is_never_left() -> None:
    bench = Bench()
    assert not bench.rollout.leaves(bench.claimed("known", "ws"), rules())


@pytest.mark.parametrize(("rule", "destination"), [("new", "ws"), ("known", "new")])
def test_what_was_moved_is_left_with_all_that_its_verdict_rests_on(rule: str, destination: str) -> None:
    bench = Bench()
    moved = Finish(
        happening=Happening.MOVED, moved=True, cause="success", reason="Said so.", status=0, expected=5, completed=4
    )
    now = bench.clock.now()
    bench.ledger.finish(bench.claimed(rule, destination), moved, now, now)
    now = bench.clock.now()
    claim = bench.ledger.claim_verification([destination], now, 60)
    assert claim is not None
    assert bench.rollout.leaves(claim, rules()), "the rule says how evidence is looked for"
    left = bench.ledger.transfer(claim.id)
    assert left is not None
    assert (left.state, left.cause, left.reason, left.status) == (State.VERIFYING, "success", "Said so.", 0)
    assert (left.expected, left.completed, left.attempts, left.looks) == (5, 4, 1, 0)
    assert left.next_at == now + timedelta(seconds=AGAIN_SECONDS)
    assert bench.ledger.claim_transfer(["archive"], now + timedelta(hours=1), 60) is None, "it is moved once"
    bench.clock.advance(AGAIN_SECONDS)
    again = bench.ledger.claim_verification([destination], bench.clock.now(), 60)
    assert again is not None
    bench.agree = True
    assert not bench.rollout.leaves(again, rules()), "what was moved is looked at, whatever became of its rule"


def test_unknown_routes_are_not_claimed_and_unknown_nodes_only_where_all_agree() -> None:
    bench = Bench()
    for destination in ("ws", "new"):
        bench.queued("known", destination)
    bench.ledger.add_sweeps([SweepDue(rule="r", source="elsewhere", due_at=bench.clock.now())])
    bench.rollout.look(rules(), KNOWN)
    assert bench.rollout.strangers == []
    assert bench.rollout.routes == {Route("archive", "new")}
    bench.agree = True
    bench.rollout.look(rules(), KNOWN)
    assert (bench.rollout.strangers, bench.rollout.routes) == (["elsewhere", "new"], frozenset())


def test_a_sweep_of_a_rule_that_another_knows_is_left_to_it() -> None:
    bench = Bench()
    bench.ledger.add_sweeps([SweepDue(rule="new", source="archive", due_at=bench.clock.now())])
    bench.ledger.add_sweeps([SweepDue(rule="known", source="ws", due_at=bench.clock.now())])
    claim = bench.rollout.claim_sweep(rules(), ["archive", "ws"], bench.clock.now(), 60)
    assert claim is not None
    assert claim.due.rule == "known"
    assert bench.rollout.claim_sweep(rules(), ["archive", "ws"], bench.clock.now(), 60) is None
    other = bench.ledger.claim_sweep(["archive"], bench.clock.now(), 60)  # as if it came in between
    assert other is not None
    assert bench.rollout.leaves(other, rules())
    bench.clock.advance(AGAIN_SECONDS + 1)
    bench.agree = True
    again = bench.rollout.claim_sweep(rules(), ["archive", "ws"], bench.clock.now(), 60)
    assert again is not None
    assert again.id == other.id
