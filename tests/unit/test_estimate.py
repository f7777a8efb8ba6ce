"""How long moves take: rates of past moves, and the limits of the nodes over the time to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.estimate import HORIZON, Bound, Estimate, PastMove, Rate, Work, estimate, joined, rate_of
from router.domain.rule import Node, NodeLimits, WindowUse
from router.domain.transfer import Route
from router.domain.window import Window

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday
HOUR = 3600.0
TO_WS, TO_LOCAL, OTHER = Route("pacs", "ws"), Route("pacs", "local"), Route("mini", "ws")
ONE_A_SECOND = Rate(moves=50, per_move=0.0, per_instance=1.0, typical=10)


def node(name: str, *windows: WindowUse, **limits: Any) -> Node:
    return Node(name=name, ae_title=name.upper(), host="h", port=104, limits=NodeLimits(**limits), windows=windows)


def nodes(*given: Node) -> dict[str, Node]:
    return {"pacs": node("pacs"), "mini": node("mini"), "ws": node("ws")} | {one.name: one for one in given}


def open_from(first: int, last: int, name: str = "evening") -> Window:
    """Open daily between these hours of UTC."""
    spans = [(day * 1440 + first * 60, day * 1440 + last * 60) for day in range(7)]
    return Window.of(name, "UTC", spans)


def taken(
    works: Sequence[Work],
    peers: Mapping[str, Node] | None = None,
    *windows: Window,
    rate: Rate = ONE_A_SECOND,
    begun: Mapping[str, Sequence[datetime]] | None = None,
) -> Estimate:
    rates = dict.fromkeys((TO_WS, TO_LOCAL, OTHER), rate)
    return estimate(works, rates, peers or nodes(), {one.name: one for one in windows}, NOW, begun)


def work(*counts: int | None, route: Route = TO_WS) -> Work:
    return Work.of(route, counts)


class TestRate:
    def test_without_past_moves_there_is_none(self) -> None:
        assert rate_of([]) is None

    def test_what_each_move_takes_is_told_from_what_each_instance_takes(self) -> None:
        rate = rate_of([PastMove(count, 2.0 + 0.1 * count) for count in (1, 10, 100, 400)])
        assert rate is not None
        assert rate.per_move == pytest.approx(2.0)
        assert rate.per_instance == pytest.approx(0.1)
        assert rate.moves == 4
        assert rate.typical == 55

    def test_studies_of_one_size_tell_only_the_whole(self) -> None:
        assert rate_of([PastMove(10, 5.0)] * 3) == Rate(moves=3, per_move=0.0, per_instance=0.5, typical=10)

    def test_a_study_that_hung_changes_little(self) -> None:
        past = [PastMove(count, 1.0 + 0.1 * count) for count in range(10, 60)]
        usual, hung = rate_of(past), rate_of([*past[:-1], PastMove(59, 7200.0)])
        assert usual is not None
        assert hung is not None
        assert hung.per_instance == pytest.approx(usual.per_instance, rel=0.05)

    @given(
        st.lists(
            st.builds(PastMove, st.integers(1, 5000), st.floats(0.001, 1e5, allow_nan=False)), min_size=1, max_size=50
        )
    )
    def test_no_move_takes_less_than_nothing(self, past: list[PastMove]) -> None:
        rate = rate_of(past)
        assert rate is not None
        assert rate.per_move >= 0
        assert rate.per_instance >= 0
        assert rate.per_move + rate.per_instance > 0


class TestWork:
    def test_is_counted_from_the_sizes_of_moves(self) -> None:
        assert work(5, None, 7) == Work(route=TO_WS, moves=3, instances=12, unknown=1, largest=7)

    def test_of_a_route_is_joined(self) -> None:
        found = joined([work(5), work(1, route=OTHER), work(None, 9), work(route=TO_LOCAL)])
        assert found == [work(5, None, 9), work(1, route=OTHER)]


class TestLimits:
    def test_nothing_takes_no_time(self) -> None:
        assert taken([]).seconds == 0

    def test_one_association_moves_one_after_another(self) -> None:
        found = taken([work(10, 20, 30)])
        assert found.seconds == pytest.approx(60)
        assert found.finish_at == NOW + timedelta(seconds=60)
        assert found.instances_per_second == pytest.approx(1.0)
        assert found.past_moves == 50

    def test_associations_share_the_moves_but_not_one_move(self) -> None:
        assert taken([work(*[30] * 5)], nodes(node("pacs", associations=4))).seconds == pytest.approx(60)
        assert taken([work(*[30] * 401)], nodes(node("pacs", associations=4))).seconds == pytest.approx(3030)
        assert taken([work(600)], nodes(node("pacs", associations=4))).seconds == pytest.approx(600)

    def test_two_routes_share_the_associations_of_their_source(self) -> None:
        both = taken([work(30, 30), work(30, 30, route=TO_LOCAL)])
        assert both.seconds == pytest.approx(120)
        assert both.bound == Bound("associations", "pacs")

    def test_routes_from_two_sources_run_side_by_side(self) -> None:
        assert taken([work(30, 30), work(30, 30, route=OTHER)]).seconds == pytest.approx(60)

    def test_a_destination_that_takes_one_at_a_time_makes_sources_wait(self) -> None:
        found = taken([work(30, 30), work(30, 30, route=OTHER)], nodes(node("ws", incoming=1)))
        assert found.seconds == pytest.approx(120)
        assert found.bound == Bound("incoming", "ws")

    def test_duty_makes_rests_between_moves(self) -> None:
        assert taken([work(60, 60, 60)], nodes(node("pacs", duty=0.5))).seconds == pytest.approx(2 * 120 + 60)

    def test_moves_per_hour_count_at_source_and_destination(self) -> None:
        for name in ("pacs", "ws"):
            found = taken([work(*[1] * 25)], nodes(node(name, moves_per_hour=10)))
            assert found.seconds == pytest.approx(2 * HOUR, abs=60)
            assert found.bound == Bound("moves_per_hour", name)

    def test_moves_of_the_last_hour_count_as_well(self) -> None:
        begun = {"pacs": [NOW - timedelta(minutes=30)] * 10 + [NOW - timedelta(hours=2)] * 50}
        found = taken([work(1)], nodes(node("pacs", moves_per_hour=10)), begun=begun)
        assert found.seconds == pytest.approx(HOUR / 2, abs=60)

    def test_what_is_of_unknown_size_counts_as_the_typical_study(self) -> None:
        assert taken([work(None, None)]).seconds == pytest.approx(20)

    def test_this_router_itself_has_no_limits(self) -> None:
        peers = nodes(node("pacs", associations=10))
        assert taken([work(*[10] * 101, route=TO_LOCAL)], peers).seconds == pytest.approx(110)

    def test_a_route_on_which_nothing_was_moved_is_not_guessed(self) -> None:
        found = estimate([work(5), work(7, route=OTHER)], {TO_WS: ONE_A_SECOND}, nodes(), {}, NOW)
        assert found.seconds is None
        assert found.finish_at is None
        assert found.unmeasured == (OTHER,)


class TestWindows:
    EVENING = open_from(19, 20)

    def use(self, **limits: Any) -> WindowUse:
        return WindowUse(window="evening", **limits)

    def test_a_closed_source_begins_when_it_opens(self) -> None:
        found = taken([work(60)], nodes(node("pacs", self.use())), self.EVENING)
        assert found.opens_at == {"pacs": NOW + timedelta(hours=7)}
        assert found.seconds == pytest.approx(7 * HOUR + 60)

    def test_a_closed_destination_does_as_well(self) -> None:
        assert taken([work(60)], nodes(node("ws", self.use())), self.EVENING).seconds == pytest.approx(7 * HOUR + 60)

    def test_what_does_not_fit_goes_on_in_the_next_window(self) -> None:
        found = taken([work(*[60] * 90)], nodes(node("pacs", self.use())), self.EVENING)
        assert found.finish_at is not None
        assert found.finish_at == NOW + timedelta(days=1, hours=7, minutes=30)

    def test_what_has_begun_ends_after_the_window_closes(self) -> None:
        found = taken([work(7200)], nodes(node("pacs", self.use())), self.EVENING)
        assert found.seconds == pytest.approx(9 * HOUR)

    def test_the_limits_of_the_open_window_hold(self) -> None:
        always = WindowUse(associations=1)
        peers = nodes(node("pacs", self.use(associations=10), always, associations=1))
        # Seven hours at one, then ten at a time.
        found = taken([work(*[60] * 1020)], peers, self.EVENING)
        assert found.seconds == pytest.approx(7 * HOUR + (600 * 60 - 60) / 10 + 60)

    def test_source_and_destination_must_be_open_together(self) -> None:
        peers = nodes(node("pacs", self.use()), node("ws", WindowUse(window="night")))
        together = taken([work(60)], peers, self.EVENING, open_from(19, 24, "night"))
        assert together.seconds == pytest.approx(7 * HOUR + 60)
        apart = taken([work(60)], peers, self.EVENING, open_from(20, 24, "night"))
        assert apart.endless
        assert apart.seconds is None

    def test_a_node_that_never_opens_is_said_to_never_open(self) -> None:
        found = taken([work(60)], nodes(node("pacs", self.use())), Window.of("evening", "UTC", []))
        assert found.endless
        assert found.opens_at == {"pacs": None}

    def test_what_takes_more_than_a_year_has_no_end(self) -> None:
        found = taken([work(*[1] * 9000)], nodes(node("pacs", moves_per_hour=1)))
        assert found.endless
        assert found.bound == Bound("moves_per_hour", "pacs")


# properties -----------------------------------------------------------------------------------------------------------

_LIMITS = st.fixed_dictionaries(
    {
        "associations": st.integers(1, 5),
        "moves_per_hour": st.none() | st.integers(1, 20),
        "duty": st.none() | st.sampled_from([0.25, 0.5, 1.0]),
        "incoming": st.none() | st.integers(1, 4),
    }
)
_COUNTS = st.lists(st.none() | st.integers(0, 3000), min_size=1, max_size=12)
_RATES = st.builds(
    Rate, moves=st.just(3), per_move=st.floats(0, 30), per_instance=st.floats(0.001, 2), typical=st.integers(1, 500)
)
_ROUTES = (TO_WS, TO_LOCAL, OTHER)
_SITES = st.fixed_dictionaries({"pacs": _LIMITS, "mini": _LIMITS, "ws": _LIMITS})
_WINDOWED = st.sets(st.sampled_from(["pacs", "ws"]))
_SPANS = st.tuples(st.integers(0, 23), st.integers(1, 24)).filter(lambda span: span[0] < span[1])


def site(limits: Mapping[str, Mapping[str, Any]], windowed: set[str]) -> dict[str, Node]:
    return nodes(
        *(node(name, *([WindowUse(window="w")] if name in windowed else []), **one) for name, one in limits.items())
    )


def seconds(works: Sequence[Work], rate: Rate, peers: Mapping[str, Node], span: tuple[int, int]) -> float:
    """How long; infinite where it has no end."""
    found = estimate(works, dict.fromkeys(_ROUTES, rate), peers, {"w": open_from(*span, "w")}, NOW)
    return float("inf") if found.seconds is None else found.seconds


def not_faster(slower: float, faster: float) -> bool:
    """Within the microseconds that a datetime has."""
    return slower >= faster - 1e-3


@given(
    st.fixed_dictionaries(dict.fromkeys(_ROUTES, _COUNTS)),
    st.sampled_from(_ROUTES),
    st.none() | st.integers(0, 5000),
    _RATES,
    _SITES,
    _WINDOWED,
    _SPANS,
)
def test_more_to_move_is_never_faster(
    counts: dict[Route, list[int | None]],
    route: Route,
    more: int | None,
    rate: Rate,
    limits: dict[str, dict[str, Any]],
    windowed: set[str],
    span: tuple[int, int],
) -> None:
    peers = site(limits, windowed)
    works = [Work.of(one, sizes) for one, sizes in counts.items()]
    least = seconds(works, rate, peers, span)
    assert not_faster(seconds([*works, Work.of(route, [more])], rate, peers, span), least)
    larger = [*counts[route][:-1], (counts[route][-1] or rate.typical) + 100]
    grown = [Work.of(one, larger if one == route else sizes) for one, sizes in counts.items()]
    assert not_faster(seconds(grown, rate, peers, span), least)
    for alone in works:
        assert not_faster(least, seconds([alone], rate, peers, span))


@given(
    st.fixed_dictionaries(dict.fromkeys(_ROUTES, _COUNTS)),
    st.sampled_from(["pacs", "mini", "ws"]),
    _RATES,
    _SITES,
    _WINDOWED,
    _SPANS,
    st.data(),
)
def test_a_stricter_limit_is_never_faster(
    counts: dict[Route, list[int | None]],
    name: str,
    rate: Rate,
    limits: dict[str, dict[str, Any]],
    windowed: set[str],
    span: tuple[int, int],
    data: st.DataObject,
) -> None:
    peers = site(limits, windowed)
    works = [Work.of(one, sizes) for one, sizes in counts.items()]
    least = seconds(works, rate, peers, span)
    now = limits[name]
    stricter = {
        "associations": data.draw(st.integers(1, now["associations"])),
        "moves_per_hour": data.draw(st.integers(1, now["moves_per_hour"] or 20)),
        "duty": (now["duty"] or 1.0) * data.draw(st.sampled_from([0.5, 1.0])),
        "incoming": data.draw(st.integers(1, now["incoming"] or 4)),
    }
    key = data.draw(st.sampled_from(sorted(stricter)))
    replaced = msgspec.structs.replace(peers[name], limits=NodeLimits(**(now | {key: stricter[key]})))
    assert not_faster(seconds(works, rate, {**peers, name: replaced}, span), least)
    shorter = (span[0], data.draw(st.integers(span[0] + 1, span[1])))
    assert not_faster(seconds(works, rate, peers, shorter), least)
    assert not_faster(seconds(works, rate, site(limits, windowed | {"pacs"}), span), least)


@given(
    st.lists(st.none() | st.integers(0, 10**30), min_size=1, max_size=5),
    st.floats(0, 1e12),
    st.floats(0, 1e12),
    _SITES,
    _WINDOWED,
    _SPANS,
)
def test_what_would_end_after_the_horizon_is_endless_however_much_it_is(
    counts: list[int | None],
    per_move: float,
    per_instance: float,
    limits: dict[str, dict[str, Any]],
    windowed: set[str],
    span: tuple[int, int],
) -> None:
    rate = Rate(moves=5, per_move=per_move, per_instance=per_instance, typical=10**9)
    found = taken([work(*counts)], site(limits, windowed), open_from(*span, "w"), rate=rate)
    assert found.endless is (found.finish_at is None)
    assert found.finish_at is None or found.finish_at <= NOW + HORIZON
    assert (found.bound is not None) or not found.endless


@pytest.mark.parametrize("per_instance", [0.1, 500.0])
def test_a_study_that_takes_longer_than_a_year_does_not_end(per_instance: float) -> None:
    found = taken([work(99_999_999_999)], rate=Rate(moves=5, per_move=1.0, per_instance=per_instance, typical=10))
    assert (found.endless, found.finish_at, found.seconds) == (True, None, None)
    assert found.bound == Bound("associations", "pacs")
