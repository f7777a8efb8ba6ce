"""What every ledger tells those who watch, whatever database it lives in."""

from __future__ import annotations

from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Finish, Happening, State, Stop
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after, claim, intent, look, new, queue, running_sweep

COMPLETE = SweepReport(state=SweepState.COMPLETE)


def ended(ledger: SqlLedger, number: int, happening: Happening, at: float) -> int:
    """Bring a study to an end at a time."""
    queue(ledger, [new(intent(number))], after(at))
    moving = claim(ledger, after(at))
    assert ledger.finish(moving, Finish(happening=happening), after(at), after(at))
    return moving.id


def test_an_empty_ledger_has_an_empty_overview(ledger: SqlLedger) -> None:
    overview = ledger.overview(100, 50)
    assert not (overview.backlog or overview.live or overview.failures or overview.activity or overview.sweeps)


def test_failures_are_kept_apart_from_a_flood_of_other_ends(ledger: SqlLedger) -> None:
    failed = ended(ledger, 1, Happening.FAIL, 1)
    partial = ended(ledger, 2, Happening.SOME_MISSING, 3)
    contradicted = ended(ledger, 3, Happening.CONTRADICTION, 2)
    others = [ended(ledger, 10 + n, Happening.PROVEN, 10 + n) for n in range(8)]
    cancelled = ended(ledger, 4, Happening.CANCEL, 30)
    overview = ledger.overview(100, 5)
    assert [one.id for one in overview.failures] == [partial, contradicted, failed]
    assert [one.id for one in overview.activity] == [cancelled, *reversed(others[-4:])]


def test_only_so_many_failures_the_newest(ledger: SqlLedger) -> None:
    numbers = [ended(ledger, n, Happening.FAIL, n) for n in range(1, 7)]
    assert [one.id for one in ledger.overview(100, 4).failures] == numbers[:1:-1]


def test_what_is_asked_for_again_has_not_ended(ledger: SqlLedger) -> None:
    number = ended(ledger, 1, Happening.FAIL, 1)
    ledger.apply(number, Happening.AGAIN, after(2))
    assert ledger.overview(100, 50).failures == ()


def test_what_moves_comes_before_what_only_waits_for_its_verification(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(n)) for n in range(6)])
    for seconds in range(4):
        moving = claim(ledger, after(seconds))
        ledger.finish(moving, Finish(happening=Happening.MOVED, moved=True), after(seconds), after(seconds))
    moving = claim(ledger, after(50))
    looked = look(ledger, after(60))
    assert {one.id for one in ledger.overview(2, 50).live} == {moving.id, looked.id}
    live = ledger.overview(100, 50).live
    assert [one.started_at for one in live] == [after(0), after(1), after(2), after(3), after(50)]
    assert [one.state for one in live] == [*[State.VERIFYING] * 4, State.MOVING]
    assert len(ledger.overview(3, 50).live) == 3


def test_sweeps_are_the_last_of_each_rule_and_all_that_are_open(ledger: SqlLedger) -> None:
    for rule, at, manual in (("ct", 1, False), ("ct", 9, True), ("ct", 5, False), ("mr", 2, False)):
        ledger.finish_sweep(running_sweep(ledger, after(at), rule=rule, manual=manual), COMPLETE, [], [], after(at + 1))
    running = running_sweep(ledger, after(20), rule="us")
    (due,) = ledger.add_sweeps([SweepDue(rule="ct", source="archive", due_at=after(30))])
    sweeps = ledger.overview(100, 50).sweeps
    assert {(one.due.rule, one.finished_at) for one in sweeps if one.finished_at} == {
        ("ct", after(10)),
        ("mr", after(3)),
    }
    assert {one.id for one in sweeps if not one.finished_at} == {running.id, due}


def test_stopped_routes_and_the_backlog_are_of_the_same_moment(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1)), new(intent(2))])
    stop = Stop(cause="destination-unknown", reason="Unknown.", probe_at=after(600))
    ledger.finish(claim(ledger), Finish(happening=Happening.STOPPED, stop=stop), NOW, NOW)
    overview = ledger.overview(100, 50)
    assert list(overview.stopped) == ledger.stopped_routes()
    assert list(overview.backlog) == ledger.backlog()
    assert ledger.claim_transfer(["archive"], NOW, LEASE) is None
