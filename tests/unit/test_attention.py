"""What needs a look, read off a board: what counts, what does not, and in which order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from router.domain.attention import Concern, Level, attention, nodes_in_order, overdue, rules_in_order
from router.domain.board import MOST_RECENT, Board, NodeSeen, QueueSeen, RuleSeen, SweepSeen
from tests.support.pages import NOW, REFUSED, RESTART, at, full_board, transfer


def rule(name: str = "ct", **values: Any) -> RuleSeen:
    return RuleSeen(**{"name": name, "trigger": "sweep", "source": "archive", "destinations": ("ws",), **values})


def node(name: str = "archive", **values: Any) -> NodeSeen:
    return NodeSeen(name=name, ae_title="A", address="10.0.0.5:104", **values)


def found(**values: Any) -> list[Concern]:
    """The concerns of a board."""
    return [*attention(Board(at=NOW, states={}, **values), {})]


def test_an_empty_board_needs_no_look() -> None:
    assert found() == []
    good = Board(
        at=NOW,
        states={},
        nodes=(node(up=True, left_alone=False), node("new")),
        rules=(rule(last=SweepSeen(state="complete", at=at(-60)), next_at=at(60)), rule("running", next_at=at(-10))),
        queues=(QueueSeen(source="archive", destination="ws", queued=5, why="archive is busy."),),
    )
    assert attention(good, {}) == ()


def test_errors_stand_before_warnings_and_each_says_what_to_do() -> None:
    concerns = attention(full_board(), {"ledger": "locked"}, REFUSED)
    levels = [one.level for one in concerns]
    assert levels == sorted(levels)
    assert {*levels} == {Level.ERROR, Level.WARNING}
    assert all(one.what.endswith((".", "?")) for one in concerns)
    assert all(one.advice for one in concerns)
    assert attention(Board(at=NOW, states={}), {}, RESTART)[0].level is Level.WARNING


def test_what_lies_in_quarantine_needs_a_look() -> None:
    [one] = found(quarantined=2)
    assert (one.level, one.what.split(":")[0]) == (Level.WARNING, "2 objects lie in quarantine")
    assert "quarantine list" in one.advice


def test_a_part_that_is_told_twice_counts_once() -> None:
    board = Board(at=NOW, states={}, problems={"disk": "full"})
    assert len(attention(board, {"disk": "full"})) == 1


@pytest.mark.parametrize(
    ("values", "late"),
    [
        ({"next_at": at(-299)}, False),
        ({"next_at": at(-301)}, True),
        ({"next_at": at(60), "last": SweepSeen(state="due", at=at(-301))}, True),
        ({"next_at": at(-301), "enabled": False}, False),
        ({"next_at": None}, False),
        ({"next_at": at(60), "last": SweepSeen(state="running", at=at(-3000))}, False),
    ],
)
def test_a_sweep_is_overdue_after_a_while(values: dict[str, Any], late: bool) -> None:
    assert overdue(rule(**values), NOW) is late


def test_a_sweep_that_waits_for_a_window_is_nothing_wrong() -> None:
    waits = rule(next_at=at(-3600))
    assert found(rules=(waits,), nodes=(node(window_open=False, why="archive is closed."),)) == []
    (one,) = found(rules=(waits,), nodes=(node(why="archive takes no more."),))
    assert one.what == "A sweep of ct is overdue. archive takes no more."
    (one,) = found(rules=(waits,))
    assert one.advice == "Look whether archive answers and has associations left."


def test_what_a_disabled_rule_did_last_is_nothing_wrong() -> None:
    assert found(rules=(rule(enabled=False, last=SweepSeen(state="failed", at=NOW)),)) == []


def test_failures_count_for_a_day() -> None:
    old = transfer(1, "failed", finished_at=at(-86401))
    assert found(failures=(old,)) == []
    (one,) = found(failures=(transfer(2, "partial"), old))
    assert one.what == "1 transfer has failed within 24 hours."
    many = tuple(transfer(number, "failed") for number in range(MOST_RECENT))
    (one,) = found(failures=many)
    assert one.what == f"At least {MOST_RECENT} transfers have failed within 24 hours."


def test_a_node_that_is_left_alone_is_worse_than_one_that_failed_once() -> None:
    down, left = node("a", up=False, left_alone=False), node("b", up=False, left_alone=True, why="b does not answer.")
    assert [(one.level, one.what) for one in found(nodes=(down, left))] == [
        (Level.ERROR, "b does not answer."),
        (Level.WARNING, "The last exchange with a failed."),
    ]
    assert [one.name for one in nodes_in_order((node("c", queued=1), node("d", why="x."), down, left))] == [*"badc"]


def test_rules_in_trouble_stand_first_and_disabled_ones_last() -> None:
    rules = (
        rule("off", enabled=False),
        rule("later", next_at=at(60)),
        rule("soon", next_at=at(5)),
        rule("runs", last=SweepSeen(state="running", at=NOW)),
        rule("failed", last=SweepSeen(state="failed", at=NOW), next_at=at(600)),
        rule("late", next_at=at(-600)),
    )
    assert [one.name for one in rules_in_order(rules, NOW)] == ["late", "failed", "runs", "soon", "later", "off"]


def test_a_stopped_route_is_an_error() -> None:
    why = "route archive -> ws is stopped: Enter it there; next try at once"
    queue = QueueSeen(source="archive", destination="ws", queued=1, why=why, stopped=True)
    (one,) = found(queues=(queue,))
    assert (one.level, one.what) == (Level.ERROR, f"R{why[1:]}.")
    assert found(queues=(msgspec.structs.replace(queue, stopped=False),)) == []
