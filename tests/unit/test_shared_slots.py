"""Slots that configurations share: by the archive's address, within the strictest of their limits."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from router.domain.rule import Node, NodeLimits, RouterSettings, RuleSet, WindowUse
from router.domain.window import Window
from router.engine.guard import Purpose
from router.engine.shared_slots import SharedSlots
from router.engine.slots import Urgency
from router.errors import Cancelled
from tests.support.fake_peers import FakeClock

ALWAYS = Window.of("always", "UTC", [(0, 7 * 1440)])


def node(name: str, *windows: WindowUse, port: int = 104, **limits: Any) -> Node:
    return Node(
        name=name, ae_title="PACS", host="10.0.0.5", port=port, limits=NodeLimits(**limits), windows=tuple(windows)
    )


def rules(*nodes: Node) -> RuleSet:
    return RuleSet(
        router=RouterSettings(),
        nodes={one.name: one for one in nodes},
        rules={},
        windows={"always": ALWAYS},
        content_hash="x",
    )


def shared(*configurations: RuleSet) -> SharedSlots:
    slots = SharedSlots(FakeClock())
    for one in configurations:
        slots.join(one)
    return slots


def test_of_each_limit_the_strictest_of_all_configurations_holds() -> None:
    now = node("archive", associations=4, queries_per_minute=60)
    changed = node("pacs", WindowUse(window="always", associations=2, duty=0.5), queries_per_minute=90)
    slots = shared(rules(now), rules(changed))
    for one in (now, changed):
        allowed = slots.allowance(one)
        assert (allowed.open, allowed.associations, allowed.queries_per_minute) == (True, 2, 60)
        assert (allowed.duty, allowed.incoming) == (0.5, None)


def test_another_archive_has_limits_of_its_own() -> None:
    other = node("mini", port=11112, associations=5)
    assert shared(rules(node("archive"), other)).allowance(other).associations == 5


def test_a_slot_held_under_one_name_is_taken_under_the_other() -> None:
    now, changed = node("archive"), node("pacs", associations=3)
    slots, cancelled = shared(rules(now), rules(changed)), threading.Event()
    cancelled.set()
    with slots.hold(now, Urgency.SWEEP, cancelled), pytest.raises(Cancelled):
        slots.hold(changed, Urgency.SWEEP, cancelled).__enter__()
    with slots.hold(changed, Urgency.SWEEP, cancelled) as slot:
        assert slot.node.port == now.port


def test_queries_count_whatever_the_archive_is_called() -> None:
    now = node("archive", queries_per_minute=1)
    changed = msgspec.structs.replace(now, name="pacs", limits=NodeLimits())
    slots, cancelled = shared(rules(now), rules(changed)), threading.Event()
    cancelled.set()
    with slots.hold(now, Urgency.SWEEP, cancelled, purpose=Purpose.QUERY):
        pass
    with pytest.raises(Cancelled):
        slots.hold(changed, Urgency.SWEEP, cancelled, purpose=Purpose.QUERY).__enter__()
