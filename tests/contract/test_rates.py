"""What the ledger remembers of how fast routes were, and what waits for them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from router.domain.estimate import PastMove, Work
from router.domain.transfer import Finish, Happening, Route
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import NOW, after, claim, intent, look, new, queue

TO_WS = Route("archive", "ws")


def moved(
    ledger: SqlLedger,
    number: int,
    seconds: float,
    instances: int,
    *,
    failed: int = 0,
    destination: str = "ws",
    happening: Happening = Happening.MOVED,
    verdict: Happening = Happening.PROVEN,
    cause: str = "",
    present: int = 0,
) -> None:
    """Move a study in so many seconds to its end; they are queued and moved in order of their numbers."""
    at = after(1000 * number)
    queue(ledger, [new(intent(number, destination=destination))], at)
    claimed = claim(ledger, at)
    finish = Finish(happening=happening, completed=instances, failed=failed, cause=cause, moved=True, next_at=at)
    ledger.finish(claimed, finish, at, at + timedelta(seconds=seconds))
    if happening is Happening.MOVED:
        looked = look(ledger, at + timedelta(seconds=seconds), destination)
        ledger.finish(looked, Finish(happening=verdict, completed=present or instances), at, at)


def test_the_latest_moves_of_each_route_come_first(ledger: SqlLedger) -> None:
    moved(ledger, 1, 10.0, 100)
    moved(ledger, 2, 20.0, 200, destination="local")
    moved(ledger, 3, 2.5, 25, failed=5, verdict=Happening.SOME_MISSING)
    routes = [TO_WS, Route("archive", "local"), Route("other", "ws")]
    assert ledger.past_moves(routes) == {
        TO_WS: [PastMove(30, 2.5), PastMove(100, 10.0)],
        Route("archive", "local"): [PastMove(200, 20.0)],
    }


def test_so_many_of_the_latest_are_told(ledger: SqlLedger) -> None:
    for number in range(1, 8):
        verdict = Happening.PROVEN if number % 2 else Happening.NO_EVIDENCE
        moved(ledger, number, float(number), number, verdict=verdict)
    assert ledger.past_moves([TO_WS], 3) == {TO_WS: [PastMove(7, 7.0), PastMove(6, 6.0), PastMove(5, 5.0)]}


def test_runs_that_moved_nothing_say_nothing(ledger: SqlLedger) -> None:
    moved(ledger, 1, 10.0, 0)
    moved(ledger, 2, 10.0, 5, cause="already-present")
    moved(ledger, 3, 10.0, 5, happening=Happening.FAIL)
    moved(ledger, 4, 10.0, 5, verdict=Happening.FAIL)
    moved(ledger, 5, 0.0, 5)
    assert ledger.past_moves([TO_WS]) == {}


def test_of_a_source_that_gives_no_numbers_what_came_counts(ledger: SqlLedger) -> None:
    moved(ledger, 1, 10.0, 0, present=40)
    assert ledger.past_moves([TO_WS]) == {TO_WS: [PastMove(40, 10.0)]}


def test_what_is_queued_is_told_by_route(ledger: SqlLedger) -> None:
    assert ledger.queued() == []
    waiting = [new(intent(1), count=7), new(intent(2), count=None), new(intent(3), count=30)]
    queue(ledger, [*waiting, new(intent(4, destination="local"), count=2, priority=0)], NOW)
    claim(ledger)  # what is moving waits no more: the most urgent
    assert ledger.queued() == [Work(route=TO_WS, moves=3, instances=37, unknown=1, largest=30)]


def test_reading_leaves_the_ledger_of_nobody_as_it_was(url: str, tmp_path: Path) -> None:
    with SqlLedger.open(url) as opened:
        moved(opened, 1, 10.0, 100)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    with SqlLedger.open(url, read_only=True) as opened:
        assert opened.past_moves([TO_WS])
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == before


def test_reading_beside_a_writer_sees_what_it_writes(url: str) -> None:
    with SqlLedger.open(url) as writing:
        with SqlLedger.open(url, read_only=True) as reading:
            assert reading.past_moves([TO_WS]) == {}
            moved(writing, 1, 10.0, 100)
            assert reading.past_moves([TO_WS]) == {TO_WS: [PastMove(100, 10.0)]}
        assert writing.past_moves([TO_WS]) == {TO_WS: [PastMove(100, 10.0)]}
