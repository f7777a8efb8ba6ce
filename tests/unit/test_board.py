"""What a board says, made of values: no service, no ledger, no clock."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from router.domain.board import Board, NodeSeen, QueueSeen, RuleSeen, said
from router.domain.board_view import Moment, NodeNow, ServiceNow, drawn
from router.domain.condition import Condition
from router.domain.forward import Forward, Group
from router.domain.overview import ArrivingRow, BacklogRow, ServiceInfo
from router.domain.route import StoppedRoute
from router.domain.rule import Arrival, Move, Rule, RuleSet, WindowUse
from router.domain.sweep import SweepState
from router.domain.transfer import Route, State
from router.domain.window import Window
from tests.support.boards import NOW, PATIENT, PSEUDONYMS, at, moment, rule, rules, sweep, transfer


def board(given: Moment, *, identifiers: bool = False) -> Board:
    return drawn(given, PSEUDONYMS, identifiers=identifiers)


def row(state: State = State.QUEUED, count: int = 3, destination: str = "local", **values: Any) -> BacklogRow:
    since = at(-100) if state is State.QUEUED else None
    usual: dict[str, Any] = {"oldest_queued_at": since, "next_at": since}
    return BacklogRow(source="archive", destination=destination, state=state, count=count, **{**usual, **values})


def service(**nodes: NodeNow) -> ServiceNow:
    return ServiceNow(nodes=nodes)


def queue_of(**values: Any) -> QueueSeen:
    (one,) = board(moment(backlog=[values.pop("row", row())], **values)).queues
    return one


def archive(**values: Any) -> NodeSeen:
    return next(one for one in board(moment(**values)).nodes if one.name == "archive")


def ct(**values: Any) -> RuleSeen:
    return next(one for one in board(moment(**values)).rules if one.name == "ct")


# identifiers ----------------------------------------------------------------------------------------------------------


def test_no_identifier_is_anywhere_in_a_board_unless_it_shows_them() -> None:
    given = moment(live=[transfer(1)], failures=[transfer(2, State.FAILED)], activity=[transfer(3, State.COMPLETE)])
    masked, shown = board(given), board(given, identifiers=True)
    text = msgspec.json.encode(masked).decode()
    assert "1.2.826" not in text
    assert PATIENT not in text
    assert not masked.identifiers
    assert [one.study for one in (*masked.live, *masked.failures)] == [
        PSEUDONYMS.of("1.2.826.1"), PSEUDONYMS.of("1.2.826.2"),
    ]  # fmt: skip
    assert shown.identifiers
    (live,) = shown.live
    assert (live.study_instance_uid, live.series_instance_uid, live.patient_id) == ("1.2.826.1", None, PATIENT)
    assert live.study == masked.live[0].study


def test_a_board_survives_its_json() -> None:
    given = moment(live=[transfer(1)], backlog=[row()], sweeps=[sweep()], service=service(archive=NodeNow(up=True)))
    shown = board(given)
    assert msgspec.json.decode(msgspec.json.encode(shown), type=Board) == shown


# transfers ------------------------------------------------------------------------------------------------------------


def test_what_is_under_way_says_what_is_expected_and_what_may_be_said_to_it() -> None:
    (one, two) = board(moment(live=[transfer(1, completed=4), transfer(2, wish="cancel", expected=7)])).live
    assert (one.expected, one.completed, one.actions) == (10, 4, ("cancel", "hold"))
    assert (two.expected, two.reason, two.actions) == (7, "Somebody wants to cancel it.", ("hold", "release"))


def test_states_are_summed_and_none_is_left_out() -> None:
    shown = board(moment(backlog=[row(), row(destination="ws"), row(State.FAILED, 2)]))
    assert shown.states["queued"] == 6
    assert shown.states["failed"] == 2
    assert set(shown.states) == {str(state) for state in State}


def test_recent_failures_are_counted_for_their_rules() -> None:
    failures = [transfer(1, State.FAILED), transfer(2, State.PARTIAL), transfer(3, State.FAILED, rule="mr")]
    shown = board(moment(rules(rule("ct"), rule("mr"), rule("us")), failures=failures))
    assert {one.name: one.failed_recently for one in shown.rules} == {"ct": 2, "mr": 1, "us": 0}


# queues ---------------------------------------------------------------------------------------------------------------


def test_a_queue_counts_what_is_under_way_on_its_way_and_the_fullest_stands_first() -> None:
    rows = [row(State.HELD, 2), row(State.MOVING, 1), row(State.COMPLETE, 99), row(destination="ws", count=9), row()]
    queues = board(moment(backlog=rows)).queues
    assert [(one.destination, one.queued, one.held, one.moving) for one in queues] == [
        ("ws", 9, 0, 0), ("local", 3, 2, 1),
    ]  # fmt: skip
    assert queues[1].oldest_queued_at == at(-100)


def test_a_way_on_which_all_has_ended_is_no_queue() -> None:
    assert board(moment(backlog=[row(State.COMPLETE, 5), row(State.FAILED, 1)])).queues == ()


def test_what_is_simply_its_turn_soon_has_no_reason() -> None:
    assert queue_of().why == ""
    assert queue_of(row=row(State.HELD, next_at=at(60))).why == ""


def closed_archive() -> RuleSet:
    """A configuration whose archive is open on Mondays only; NOW is a Sunday."""
    monday = Window.of("monday", "UTC", [(0, 24 * 60)])
    given = rules(windows={"monday": monday})
    node = msgspec.structs.replace(given.nodes["archive"], windows=(WindowUse(window="monday"),))
    return msgspec.structs.replace(given, nodes={**given.nodes, "archive": node})


def test_a_closed_node_holds_its_queues_back_and_takes_no_association() -> None:
    given = moment(closed_archive(), backlog=[row()], service=service(archive=NodeNow(associations_allowed=2)))
    shown = board(given)
    node = shown.nodes[0]
    opens = at(14 * 3600)
    assert (node.window_open, node.opens_at, node.associations_allowed) == (False, opens, 0)
    assert node.why == f"archive is closed by its windows until {opens.astimezone():%m-%d %H:%M %Z}."
    assert shown.queues[0].why == node.why


def test_why_a_queue_waits_says_what_lasts_longest_first() -> None:
    stop = StoppedRoute(
        route=Route("archive", "local"), cause="x", reason="Enter it there.", stopped_at=NOW, probe_at=at(-1)
    )
    silent = service(archive=NodeNow(left_alone=True, probe_at=at(-1)))
    later = row(next_at=at(-1), count=1)
    assert queue_of(stopped=[stop], service=silent).why == (
        "route archive -> local is stopped: Enter it there; next try at once"
    )
    assert queue_of(service=silent, row=later).why == (
        "archive does not answer; it is left alone, and tried again at once."
    )
    assert queue_of(row=row(destination="gone")).why == "gone is not in the configuration any more."
    spent = service(archive=NodeNow(moves_left=False))
    assert queue_of(service=spent).why == "archive has had all its moves of this hour (limits.moves_per_hour)."
    busy = service(archive=NodeNow(associations=2, associations_allowed=2))
    assert queue_of(service=busy).why == "archive is busy: 2 of 2 associations in use."


@pytest.mark.parametrize(("count", "who"), [(1, "It"), (3, "The first of them")])
def test_what_failed_before_says_when_it_is_tried_again(count: int, who: str) -> None:
    why = queue_of(row=row(count=count, next_at=at(120))).why
    assert why == f"{who} is tried again at {at(120).astimezone():%H:%M %Z}."
    tomorrow = queue_of(row=row(count=count, next_at=at(86400))).why
    assert tomorrow == f"{who} is tried again on {at(86400).astimezone():%m-%d at %H:%M %Z}."


# replicas -------------------------------------------------------------------------------------------------------------


def test_each_service_on_the_ledger_is_shown_as_it_stands_beside_the_one_that_answers() -> None:
    def info(name: str, seen: float = -1, work: str = "w", **values: Any) -> ServiceInfo:
        return ServiceInfo(owner=f"{name}-1-x", address="", seen_at=at(seen), work_hash=work, **values)

    services = (
        info("a", replica="router-a", started_at=at(-60)),
        info("b", replica="router-b", leads=True, seen=-5),
        info("c", replica="router-c", work="another", seen=-7),
        info("d"),
    )
    given = moment(rules(work_hash="w"), service=ServiceNow(owner="a-1-x", services=services))
    a, b, c, d = board(given).replicas
    assert (a.name, a.here, a.leads, a.silent, a.other_configuration) == ("router-a", True, False, False, False)
    assert (b.name, b.here, b.leads, b.silent, b.other_configuration) == ("router-b", False, True, False, False)
    assert (c.name, c.here, c.leads, c.silent, c.other_configuration) == ("router-c", False, False, True, True)
    assert d.name == "d-1-x"  # a program of before gave itself no name
    assert a.started_at == at(-60)
    assert board(moment()).replicas == ()


# nodes ----------------------------------------------------------------------------------------------------------------


def test_what_only_a_service_knows_is_not_said_without_one() -> None:
    without = archive(backlog=[row(), row(destination="ws")])
    assert (without.up, without.left_alone, without.associations, without.waiting) == (None, None, None, None)
    assert without.queued == 6
    assert not board(moment()).served
    now = NodeNow(up=False, associations=1, associations_allowed=2, waiting=4)
    served = archive(service=service(archive=now))
    assert (served.up, served.left_alone, served.associations, served.waiting) == (False, False, 1, 4)
    assert (served.associations_allowed, served.why) == (2, "")
    assert (served.ae_title, served.address) == ("ARCHIVE", "127.0.0.1:104")


def test_a_node_that_is_left_alone_or_rejects_says_so() -> None:
    alone = archive(service=service(archive=NodeNow(left_alone=True)))
    assert (alone.left_alone, alone.why) == (True, "archive does not answer; it is left alone.")
    throttled = archive(service=service(archive=NodeNow(associations_allowed=1)))
    assert throttled.why == "archive takes no more: only 1 of 2 associations are used for now."


# rules ----------------------------------------------------------------------------------------------------------------


def test_a_rule_shows_its_last_sweep_with_its_result() -> None:
    incomplete = sweep(state=SweepState.INCOMPLETE, matches=500, selected=7, queries=9, reason="Cut.", account="Asked.")
    last = ct(sweeps=[incomplete]).last
    assert last is not None
    assert (last.state, last.at, last.duration_seconds) == ("incomplete", at(-58), 2.0)
    assert (last.matches, last.selected, last.queries, last.reason) == (500, 7, 9, "Cut. Asked.")


def test_a_sweep_that_runs_is_shown_before_one_that_is_due_before_one_that_ended() -> None:
    ended, due = sweep(number=1), sweep(state=SweepState.DUE, began=-5, number=2)
    running = sweep(state=SweepState.RUNNING, began=-9, number=3)

    def shown(*sweeps: Any) -> tuple[str, datetime | None]:
        last = ct(sweeps=sweeps).last
        assert last is not None
        return last.state, last.at

    assert shown(ended, due, running) == ("running", at(-9))
    assert shown(ended, due) == ("due", at(-5))
    assert ct().last is None


def test_a_rule_is_due_when_the_first_of_its_tiers_is() -> None:
    planned = {"ct/0": at(600), "ct/1": at(60), "mr/a/0": at(9), "gone/0": at(1)}
    given = moment(rules(rule("ct"), rule("mr/a"), rule("us")), service=ServiceNow(planned=planned))
    assert {one.name: one.next_at for one in board(given).rules} == {"ct": at(60), "mr/a": at(9), "us": None}


def test_problems_are_those_of_the_service() -> None:
    assert board(moment(service=ServiceNow(problems={"disk": "full"}))).problems == {"disk": "full"}


# what is passed on ----------------------------------------------------------------------------------------------------


def test_a_rule_that_passes_on_says_how_many_studies_still_arrive_and_when_it_looks_next() -> None:
    passes = Rule(
        name="on",
        arrival=Arrival(),
        where=Condition(),
        move=Move(to=("ws",)),
        forward=Forward(to=(Group(nodes=("ws",)),)),
    )
    waiting = ArrivingRow(rule="on", count=3, next_at=at(20))
    shown = board(moment(rules(rule("ct"), passes), arriving=[waiting]))
    found = {one.name: (one.trigger, one.source, one.arriving, one.next_at) for one in shown.rules}
    assert found == {"ct": ("sweep", "archive", 0, None), "on": ("arrival", "local", 3, at(20))}
    assert msgspec.json.decode(msgspec.json.encode(shown), type=Board) == shown


def test_people_read_that_what_is_passed_on_comes_from_this_router() -> None:
    assert [said("local"), said("archive")] == ["this router", "archive"]
