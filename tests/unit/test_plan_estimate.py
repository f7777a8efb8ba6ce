"""How a plan says how much is to be moved and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from router.cli.plan_estimate import Forecast, Forecaster, basis, said_in_all, said_of, spelled
from router.cli.planned import Planned
from router.domain.condition import Condition
from router.domain.estimate import Bound, Estimate
from router.domain.rule import Move, Node, NodeLimits, RouterSettings, Rule, RuleSet, Sweep
from router.domain.selection import Action, Decision, Selection
from router.domain.transfer import Finish, Happening, Route, Stop
from router.engine.look import Answer
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import NOW, claim, intent, look, new, queue

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RATE: dict[str, Any] = {"past_moves": 50, "instances_per_second": 14.2, "finish_at": NOON}


def forecast(waiting: int = 0, unknown: int = 0, transfers: int = 12, **found: Any) -> Forecast:
    estimate = Estimate(**found)
    return Forecast(studies=6, transfers=transfers, instances=3480, unknown=unknown, waiting=waiting, estimate=estimate)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (45.4, "45 s"),
        (59.7, "1 min"),
        (240, "4 min"),
        (3580, "1 h"),
        (12000, "3 h 20 min"),
        (7200, "2 h"),
        (86390, "1 d"),
        (180000, "2 d 2 h"),
    ],
)
def test_a_duration_is_said_by_its_largest_units(seconds: float, words: str) -> None:
    assert spelled(seconds) == words


def test_one_line_says_how_much_how_long_and_from_what() -> None:
    line = said_of(forecast(seconds=245.0, bound=Bound("associations", "pacs"), **RATE))
    assert line == (
        "12 transfers with 3,480 instances to move: about 4 min at the rate of the last 50 moves (14 instances/s)."
    )


def test_what_takes_long_or_waits_for_a_window_says_when_it_ends() -> None:
    long = said_of(forecast(seconds=12000.0, bound=Bound("moves_per_hour", "pacs"), **RATE))
    local = f"{NOON.astimezone():%m-%d %H:%M %Z}"
    assert f"to move: about 3 h 20 min, until {local}, at the rate" in long
    assert long.endswith("(14 instances/s); limited by pacs's moves_per_hour.")
    closed = said_of(forecast(seconds=245.0, opens_at={"pacs": NOON}, **RATE))
    assert closed.endswith(f"(14 instances/s); pacs is closed by its windows until {local}.")


def test_without_past_moves_nothing_is_invented() -> None:
    line = said_of(forecast(unmeasured=(Route("pacs", "ws"), Route("pacs", "local"))))
    assert line == (
        "12 transfers with 3,480 instances to move. "
        "No past moves from pacs to ws and from pacs to local to estimate the time from."
    )


def test_what_never_ends_says_why() -> None:
    found = forecast(endless=True, bound=Bound("associations", "pacs"), opens_at={"pacs": None})
    assert basis(found) == (
        "it does not end within a year, limited by pacs's associations; "
        "pacs is closed by its windows and does not open any more"
    )


def test_what_is_of_unknown_size_and_what_waits_already_is_said() -> None:
    line = said_in_all(forecast(seconds=245.0, unknown=2, waiting=1040, **RATE))
    assert line.startswith("In all 6 studies, 12 transfers with 3,480 instances (2 transfers of unknown size) to move:")
    assert line.endswith("; 1,040 transfers that wait already are reckoned with.")
    line = said_in_all(forecast(seconds=2.0, waiting=1, **RATE))
    assert line.endswith("; 1 transfer that waits already is reckoned with.")
    assert said_of(forecast(transfers=0, seconds=0.0, finish_at=NOON)) == "Nothing to move."


def test_one_past_move_is_no_series() -> None:
    found = forecast(seconds=2.0, past_moves=1, instances_per_second=0.25, finish_at=NOON)
    assert "at the rate of the last move (0.25 instances/s)" in said_of(found)


# from a ledger --------------------------------------------------------------------------------------------------------

LATER = NOW + timedelta(minutes=30)


def node(name: str, **limits: Any) -> Node:
    return Node(name=name, ae_title=name.upper(), host="h", port=104, limits=NodeLimits(**limits))


def site(**limits: Any) -> RuleSet:
    peers = {"archive": node("archive", **limits), "ws": node("ws")}
    return RuleSet(router=RouterSettings(), nodes=peers, rules={}, content_hash="x")


def planned(name: str, studies: Sequence[int], count: int | None = 5, action: Action = Action.MOVE) -> Planned:
    """A rule that would do that with these studies."""
    decisions = [
        Decision(
            action=action,
            code="",
            reason="",
            study_instance_uid=intent(number).study_instance_uid,
            destination="ws",
            instance_count=count,
        )
        for number in studies
    ]
    rule = Rule(name=name, sweep=Sweep(source="archive"), where=Condition(), move=Move(to=("ws",)))
    answer = Answer(selection=Selection(decisions=decisions), matches=0, queries=1, complete=True)
    return Planned(rule, answer)


@pytest.fixture
def ledger() -> SqlLedger:
    """One study of five instances was moved in ten seconds."""
    opened = SqlLedger.in_memory()
    queue(opened, [new(intent(1))])
    moved = Finish(happening=Happening.MOVED, completed=5, moved=True, next_at=NOW)
    opened.finish(claim(opened), moved, NOW, NOW + timedelta(seconds=10))
    opened.finish(look(opened), Finish(happening=Happening.PROVEN, completed=5), NOW, NOW)
    return opened


def test_a_rule_is_reckoned_alone_and_all_together_once_with_what_waits(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(9), count=20)], LATER)
    forecaster = Forecaster(ledger, site(), LATER)
    rules = [planned("a", [2, 3]), planned("b", [3, 4]), planned("c", [5], action=Action.SKIP)]
    alone = [forecaster.rule(one) for one in rules]
    assert [one.estimate.seconds for one in alone] == [pytest.approx(20), pytest.approx(20), 0]
    total = forecaster.total(rules)
    assert (total.studies, total.transfers, total.instances, total.waiting) == (3, 3, 15, 1)
    assert total.estimate.seconds == pytest.approx(3 * 10 + 40)
    assert total.estimate.finish_at == LATER + timedelta(seconds=70)


def test_moves_of_the_last_hour_use_up_what_a_node_allows(ledger: SqlLedger) -> None:
    found = Forecaster(ledger, site(moves_per_hour=1), LATER).rule(planned("a", [2]))
    assert found.estimate.seconds == pytest.approx(1800, abs=60)
    assert found.estimate.bound == Bound("moves_per_hour", "archive")


def test_a_stopped_route_is_named(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(9))], LATER)
    stop = Stop(cause="move-destination-unknown", reason="A801", probe_at=LATER)
    ledger.finish(claim(ledger, LATER), Finish(happening=Happening.STOPPED, stop=stop), LATER, LATER)
    found = Forecaster(ledger, site(), LATER).rule(planned("a", [2]))
    assert found.estimate.seconds == pytest.approx(10)
    assert basis(found).endswith("; the route from archive to ws is stopped")
