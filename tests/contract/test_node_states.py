"""What services share about nodes: decided under the rows' locks, on every database, whoever else is at it."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime

import pytest

from router.domain import ration
from router.domain.allowance import Allowance
from router.domain.node_state import NodeState, Obstacle, Purpose
from router.domain.overview import ServiceInfo
from router.domain.ration import Ration, Request, Return
from router.domain.replicas import LOST_SECONDS
from router.domain.rule import Node
from router.engine.slot_counts import SlotCounts
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import NOW, after

LIMITS = Allowance(open=True, associations=2, moves_per_hour=100)
INCOMING = Allowance(open=True, associations=5, incoming=1)


def announce(ledger: SqlLedger, owner: str, at: datetime = NOW) -> None:
    ledger.announce(ServiceInfo(owner=owner, address="", seen_at=at))


def enter(ledger: SqlLedger, owner: str, at: datetime = NOW) -> bool:
    """Whether it is alone."""
    announce(ledger, owner, at)
    alone, _ = ledger.ration(None, lambda known: ration.enter(known, owner, {}, at.timestamp()), at)
    return alone


def share(ledger: SqlLedger, owner: str, states: dict[str, NodeState] | None = None) -> bool:
    return ledger.ration(None, lambda known: ration.share(known, owner, states or {}), NOW)[0]


def agree(ledger: SqlLedger, *owners: str) -> None:
    """All of these count by the ledger."""
    for owner in owners:
        enter(ledger, owner)
    assert share(ledger, owners[0])


def take(
    ledger: SqlLedger, owner: str, number: int, at: datetime = NOW, *, node: str = "pacs", to: str = ""
) -> Obstacle | None:
    request = Request((owner, number), node, LIMITS, Purpose.MOVE, to, INCOMING if to else None)
    names = [node, to] if to else [node]
    return ledger.ration(names, lambda known: ration.take(known, request, at.timestamp()), at)[0]


def give(ledger: SqlLedger, owner: str, number: int, at: datetime = NOW, *, node: str = "pacs", to: str = "") -> None:
    one = Return((owner, number), node, LIMITS, to, at.timestamp())
    names = [node, to] if to else [node]
    ledger.ration(names, lambda known: ration.give_back(known, one), at)


def state(ledger: SqlLedger, name: str) -> NodeState:
    return ledger.ration_look({}, NOW).states[name][1]


def test_nobody_takes_before_all_others_have_written_down_what_they_hold(ledger: SqlLedger) -> None:
    assert enter(ledger, "first")
    assert not enter(ledger, "second")
    refused = take(ledger, "second", 1)
    assert refused is not None
    assert refused.reason == "ledger"
    held = NodeState()
    held.take(("first", 7), Purpose.MOVE, "", NOW.timestamp())
    assert share(ledger, "first", {"pacs": held})
    assert share(ledger, "first", {}), "done twice it changes nothing"
    assert take(ledger, "second", 1) is None
    full = take(ledger, "second", 2)
    assert full is not None
    assert full.reason == "slots"
    assert set(state(ledger, "pacs").held) == {("first", 7), ("second", 1)}


def test_a_move_takes_at_both_nodes_or_at_none(ledger: SqlLedger) -> None:
    agree(ledger, "a", "b")
    assert take(ledger, "a", 1, to="ward") is None
    refused = take(ledger, "b", 1, to="ward")
    assert refused is not None
    assert (refused.reason, refused.elsewhere) == ("incoming", True)
    assert set(state(ledger, "pacs").held) == {("a", 1)}
    give(ledger, "a", 1, to="ward")
    assert not state(ledger, "ward").coming
    assert take(ledger, "b", 2, to="ward") is None


def test_what_a_dead_service_holds_is_free_once_it_was_not_seen_for_so_long(ledger: SqlLedger) -> None:
    agree(ledger, "a", "b")
    assert take(ledger, "a", 1) is None
    assert take(ledger, "a", 2) is None
    at = after(LOST_SECONDS - 1)
    announce(ledger, "b", at)
    assert take(ledger, "b", 1, at) is not None
    at = after(LOST_SECONDS + 1)
    announce(ledger, "b", at)
    assert take(ledger, "b", 1, at) is None
    assert set(state(ledger, "pacs").held) == {("b", 1)}
    assert state(ledger, "pacs").moves.count(at.timestamp()) == 3, "its moves of the hour count on"


def test_what_a_service_held_that_has_withdrawn_is_free_at_once(ledger: SqlLedger) -> None:
    agree(ledger, "a", "b")
    assert take(ledger, "a", 1) is None
    assert take(ledger, "a", 2) is None
    ledger.withdraw("a")
    assert take(ledger, "b", 1) is None


def test_who_is_left_counts_for_itself_again_with_all_that_was_written(ledger: SqlLedger) -> None:
    agree(ledger, "a", "b")
    assert take(ledger, "a", 1) is None
    assert take(ledger, "b", 1) is None
    moment = NOW.timestamp()
    assert ledger.ration(None, lambda known: ration.part(known, "b", moment), NOW)[0] is False
    ledger.withdraw("a")
    alone, states = ledger.ration(None, lambda known: ration.part(known, "b", moment), NOW)
    assert alone is True
    assert set(states["pacs"][1].held) == {("b", 1)}
    assert states["pacs"][1].moves.count(moment) == 2
    look = ledger.ration_look({name: version for name, (version, _) in states.items()}, NOW)
    assert look.circle.members == {"b": False}
    assert look.states == {}, "nothing is news"


def test_a_look_says_who_is_there_and_only_what_is_new(ledger: SqlLedger) -> None:
    agree(ledger, "a", "b")
    assert take(ledger, "a", 1) is None
    first = ledger.ration_look({}, NOW)
    assert first.circle.members == {"a": True, "b": True}
    assert set(first.seen) == {"a", "b"}
    assert set(first.states) == {"pacs"}
    known = {name: version for name, (version, _) in first.states.items()}
    assert ledger.ration_look(known, NOW).states == {}
    assert take(ledger, "b", 1) is None
    assert set(ledger.ration_look(known, NOW).states) == {"pacs"}
    late = ledger.ration_look(known, after(LOST_SECONDS + 1))
    assert late.lost == {"a", "b"}


def test_states_that_nobody_needs_are_forgotten(ledger: SqlLedger) -> None:
    agree(ledger, "a", "b")
    for node in ("old", "held"):
        assert take(ledger, "a", 1, node=node) is None
    give(ledger, "a", 1, node="old")
    late = after(3 * 3600)
    for owner in "ab":
        announce(ledger, owner, late)
    assert ledger.ration(None, lambda known: ration.share(known, "a", {}), late)[0]
    assert set(ledger.ration_look({}, late).states) == {"held"}


def test_what_is_known_of_a_forgotten_node_is_followed_by_what_is_new(ledger: SqlLedger) -> None:
    """A replica that saw many versions of the row that is gone takes the first of the new one for news."""
    agree(ledger, "a", "b", "c")
    slots = SlotCounts()
    slots.adopt({"pacs": Node(name="pacs", ae_title="PACS", host="h", port=104)})
    for number in range(20):
        assert take(ledger, "a", number, after(number)) is None
        give(ledger, "a", number, after(number))
    slots.adopt_states(ledger.ration_look({}, after(20)).states)
    known = slots.versions()
    late = after(3 * 3600)
    for owner in "abc":
        announce(ledger, owner, late)
    assert ledger.ration(None, lambda held: ration.share(held, "b", {}), late)[0]
    assert ledger.ration_look({}, late).states == {}, "forgotten"
    assert take(ledger, "b", 1, late) is None
    slots.adopt_states(ledger.ration_look(known, late).states)
    assert slots.in_use("pacs") == 1
    assert slots.versions()["pacs"] > known["pacs"]


def test_a_decision_that_fails_changes_nothing(ledger: SqlLedger) -> None:
    agree(ledger, "a", "b")

    def decision(known: Ration) -> None:
        known.nodes["pacs"].take(("a", 1), Purpose.QUERY, "", NOW.timestamp())
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        ledger.ration(["pacs"], decision, NOW)
    assert "pacs" not in ledger.ration_look({}, NOW).states


def test_many_at_once_never_hold_more_than_there_are(ledger: SqlLedger, url: str) -> None:
    """Threads of this process, and another process, take and give as fast as they can, at nodes that cross."""
    agree(ledger, *"abcd")
    most: dict[str, int] = {"pacs": 0, "ward": 0}
    held: dict[str, set[tuple[str, int]]] = {"pacs": set(), "ward": set()}
    lock, problems = threading.Lock(), list[str]()

    def work(owner: str) -> None:
        for number in range(1, 26):
            node, to = ("pacs", "ward") if number % 2 else ("ward", "")
            if take(ledger, owner, number, node=node, to=to) is not None:
                continue
            with lock:
                held[node].add((owner, number))
                most[node] = max(most[node], len(held[node]))
                if len(held[node]) > LIMITS.associations:
                    problems.append(f"{len(held[node])} at {node}")
                held[node].discard((owner, number))
            give(ledger, owner, number, node=node, to=to)

    program = (
        "import sys; from tests.contract import test_node_states as t; from router.ledger.ledger import SqlLedger\n"
        "ledger = SqlLedger.open(sys.argv[1])\n"
        "for number in range(1, 26):\n"
        "    if t.take(ledger, 'd', number, to='ward') is None:\n"
        "        assert len(t.state(ledger, 'pacs').held) <= t.LIMITS.associations\n"
        "        t.give(ledger, 'd', number, to='ward')\n"
        "ledger.close()"
    )
    other = subprocess.Popen([sys.executable, "-c", program, url], stderr=subprocess.PIPE, text=True)
    threads = [threading.Thread(target=work, args=(owner,)) for owner in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    _, errors = other.communicate(timeout=90)
    assert other.returncode == 0, errors
    assert problems == []
    assert max(most.values()) >= 1
    for name in ("pacs", "ward"):
        assert not state(ledger, name).held
        assert not state(ledger, name).coming
