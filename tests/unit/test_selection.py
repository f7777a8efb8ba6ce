"""Decisions from candidates and what the ledger knows."""

from __future__ import annotations

import msgspec
import pytest

from router.domain.selection import Action, Candidate, Decision, Selection, decide
from router.domain.transfer import Happening, Intent, State, TransferFact


def study(count: int | None = 10) -> Candidate:
    return Candidate(study_instance_uid="1.2.3", instance_count=count)


def judge(fact: TransferFact | None, candidate: Candidate, *, manual: bool = False) -> Decision:
    intent = Intent("archive", "1.2.3", "", "ws")
    (decision,) = decide(
        rule="r",
        source="archive",
        destinations=["ws"],
        priority="urgent",
        candidates=[candidate],
        facts={intent: fact} if fact else {},
        manual=manual,
    )
    return decision


def fact(state: State, count: int | None = 10) -> TransferFact:
    return TransferFact(7, state, count, "some-cause")


def test_a_new_study_is_moved_with_its_fingerprint_and_priority() -> None:
    decision = judge(None, study(12))
    assert decision.action is Action.MOVE
    assert decision.new is not None
    assert (decision.new.instance_count, decision.new.priority, decision.new.happening) == (12, 0, None)
    assert decision.new.intent == Intent("archive", "1.2.3", "", "ws")


@pytest.mark.parametrize("state", [State.COMPLETE, State.UNPROVEN, State.CANCELLED])
@pytest.mark.parametrize("manual", [False, True])
def test_what_is_done_is_not_moved_twice(state: State, manual: bool) -> None:
    decision = judge(fact(state), study(10), manual=manual)
    assert (decision.action, decision.new) == (Action.SKIP, None)


@pytest.mark.parametrize("state", [State.COMPLETE, State.UNPROVEN, State.PARTIAL, State.FAILED, State.QUEUED])
def test_a_study_that_grew_is_moved_again(state: State) -> None:
    decision = judge(fact(state, 10), study(11))
    assert decision.new is not None
    assert decision.new.happening is Happening.GREW
    assert "from 10 to 11" in decision.reason


@pytest.mark.parametrize("state", [State.MOVING, State.VERIFYING])
def test_growth_in_the_middle_of_a_move_waits_for_a_later_sweep(state: State) -> None:
    decision = judge(fact(state, 10), study(11))
    assert (decision.action, decision.code) == (Action.SKIP, "under-way")


@pytest.mark.parametrize("count", [10, None])
def test_the_same_or_an_unknown_count_is_no_change(count: int | None) -> None:
    assert judge(fact(State.COMPLETE, 10), study(count)).action is Action.SKIP


@pytest.mark.parametrize(("before", "now"), [(10, 9), (None, 5)])
def test_any_change_of_the_count_is_looked_at(before: int | None, now: int) -> None:
    decision = judge(fact(State.COMPLETE, before), study(now))
    assert decision.new is not None
    assert decision.new.happening is Happening.GREW


@pytest.mark.parametrize("manual", [False, True])
def test_a_study_that_was_gone_and_is_listed_again_is_moved(manual: bool) -> None:
    decision = judge(fact(State.NOTHING), study(10), manual=manual)
    assert decision.new is not None
    assert decision.new.happening is Happening.AGAIN


@pytest.mark.parametrize("state", [State.FAILED, State.PARTIAL, State.CONTRADICTED])
def test_failures_are_asked_again_by_people_only(state: State) -> None:
    assert judge(fact(state), study()).action is Action.SKIP
    again = judge(fact(state), study(), manual=True)
    assert again.new is not None
    assert again.new.happening is Happening.AGAIN


def test_held_work_is_held() -> None:
    assert judge(fact(State.HELD), study(), manual=True).action is Action.HOLD


def test_what_is_under_way_belongs_to_the_sweep_that_found_it() -> None:
    selection = Selection(decisions=[judge(fact(State.QUEUED), study()), judge(None, study())])
    assert selection.under_way == [7]
    assert len(selection.to_move) == 1


@pytest.mark.parametrize("availability", ["OFFLINE", "UNAVAILABLE", "Offline"])
def test_what_the_source_cannot_send_is_left_out_and_counted_once(availability: str) -> None:
    candidate = msgspec.structs.replace(study(), availability=availability)
    decisions = decide(
        rule="r",
        source="archive",
        destinations=["ws", "local"],
        priority="normal",
        candidates=[candidate],
        facts={},
        manual=False,
    )
    assert [(d.action, d.code, d.new) for d in decisions] == [(Action.SKIP, "unavailable", None)] * 2
    assert Selection(decisions=decisions).unavailable == 1


@pytest.mark.parametrize("state", [State.COMPLETE, State.QUEUED])
def test_what_need_not_be_moved_is_not_called_off_line(state: State) -> None:
    candidate = msgspec.structs.replace(study(), availability="OFFLINE")
    assert judge(fact(state), candidate).code != "unavailable"
    grown = msgspec.structs.replace(study(11), availability="OFFLINE")
    assert judge(fact(State.COMPLETE), grown).code == "unavailable"


@pytest.mark.parametrize(("priority", "near", "far"), [("urgent", 0, 1), ("normal", 1, 2), ("low", 2, 2)])
def test_what_is_near_line_comes_after_what_is_online(priority: str, near: int, far: int) -> None:
    online, nearline = (
        decide(
            rule="r",
            source="archive",
            destinations=["ws"],
            priority=priority,
            candidates=[msgspec.structs.replace(study(), availability=availability)],
            facts={},
            manual=False,
        )[0]
        for availability in ("ONLINE", "NEARLINE")
    )
    assert online.new is not None
    assert nearline.new is not None
    assert (online.new.priority, nearline.new.priority) == (near, far)
    assert nearline.new.availability == "NEARLINE"
    assert "near line" in nearline.reason
    assert "near line" not in online.reason


@pytest.mark.parametrize("said", ["", "LOST", "x" * 5000])
def test_what_is_no_availability_is_taken_as_online(said: str) -> None:
    decision = judge(None, msgspec.structs.replace(study(), availability=said))
    assert decision.new is not None
    assert (decision.new.availability, decision.new.priority) == ("", 0)
