"""Looks at what has arrived, from receipts to transfers: on a real ledger, with time and headers made up."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from router.domain.arriving import dues
from router.domain.condition import Condition
from router.domain.dicom import Identifier
from router.domain.events import ArrivalLookEnded, Event
from router.domain.forward import Choice, Forward, Group
from router.domain.passing import (
    DISABLED,
    GONE,
    LATEST,
    NOT_TAKEN,
    PATIENCE,
    RULE_REMOVED,
    SOONEST,
    ArrivalState,
    PendingArrival,
    again_at,
)
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL, Move, Node, RouterSettings, Rule, RuleSet, WindowUse
from router.domain.transfer import Finish, Happening, State, Stop, Transfer
from router.domain.triggers import Arrival, Unit
from router.domain.window import Window
from router.engine.passing import Looked, Passer
from router.engine.slots import NodeSlots, Urgency
from router.errors import WireError
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock

STUDY = "1.2.3"
LEASE = 60.0


def node(name: str) -> Node:
    return Node(name=name, ae_title=name.upper(), host="h", port=104)


def to(*nodes: str, choice: Choice = Choice.ALL_OF) -> Group:
    return Group(choice=choice, nodes=nodes)


ANY = to("a", "b", choice=Choice.ANY_OF)


def rule(
    name: str, *groups: Group, level: Unit = Unit.STUDY, senders: tuple[str, ...] = (), where: object = None
) -> Rule:
    return Rule(
        name=name,
        arrival=Arrival(stable=60.0, level=level, senders=senders),
        where=Condition.of(where or {}),  # type: ignore[arg-type]
        move=Move(to=()),
        forward=Forward(to=groups, level=level),
    )


class World:
    """A ledger, a passer, and what happens to both."""

    def __init__(self, *rules: Rule) -> None:
        self.clock = FakeClock()
        self.ledger = SqlLedger.in_memory()
        self.events: list[Event] = []
        self.headers: dict[str, Identifier] = {}
        self.read: list[str] = []
        self.slots = NodeSlots(clock=self.clock)
        self.slots.heeds_breakers = True
        self.never = threading.Event()
        nodes = {name: node(name) for name in ("ct", "mr", *"abcde")}
        self.rules = RuleSet(
            router=RouterSettings(), nodes=nodes, rules={one.name: one for one in rules}, content_hash="x"
        )
        self.passer = self.a_passer()

    def a_passer(self) -> Passer:
        """What looks; it knows of nodes what `slots` do."""
        return Passer(
            rules=lambda: self.rules,
            ledger=self.ledger,
            slots=self.slots,
            headers=self.headers_of,
            clock=self.clock,
            observer=self.events.append,
        )

    def headers_of(self, receipts: Sequence[Receipt], tags: Collection[int]) -> Mapping[str, Identifier]:
        uids = [one.sop_instance_uid for one in receipts]
        self.read += uids
        return {uid: self.headers[uid] for uid in uids if uid in self.headers}

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def arrive(self, *numbers: int, series: str = "1", title: str = "CT") -> None:
        """Instances of the study come in now."""
        batch = [
            Receipt(
                study_instance_uid=STUDY,
                series_instance_uid=f"{STUDY}.{series}",
                sop_instance_uid=f"{STUDY}.{series}.{number}",
                sop_class_uid="1.2",
                transfer_syntax_uid="1.2.1",
                calling_ae_title=title,
                size=1,
                path=f"{series}/{number}",
                received_at=self.now,
            )
            for number in numbers
        ]
        self.ledger.add_receipts(batch, dues(batch, self.rules))

    def claim(self) -> PendingArrival | None:
        return self.ledger.claim_arrival(self.now, LEASE)

    def look(self) -> datetime | None:
        """A look at what is due; something must be."""
        pending = self.claim()
        assert pending is not None
        return self.passer.run(pending, self.never)

    def after(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def states(self) -> dict[str, State]:
        return {one.intent.destination: one.state for one in self.ledger.transfers(source=LOCAL)}

    @property
    def last(self) -> ArrivalLookEnded:
        return [one for one in self.events if isinstance(one, ArrivalLookEnded)][-1]

    @property
    def arrivals(self) -> list[tuple[ArrivalState, str]]:
        return [(one.state, one.cause) for one in self.ledger.arrivals()]


@contextmanager
def world(*rules: Rule) -> Iterator[World]:
    made = World(*rules)
    try:
        yield made
    finally:
        made.ledger.close()


# --- One look ---------------------------------------------------------------------------------------------------------


def test_a_quiet_study_is_passed_on_as_a_whole() -> None:
    with world(rule("r", to("a"), to("b"))) as it:
        it.arrive(1, 2)
        assert it.claim() is None
        it.after(60)
        assert it.look() is None
        assert it.states() == {"a": State.QUEUED, "b": State.QUEUED}
        assert (it.last.result, it.last.instances, it.last.transfers) == ("passed_on", 2, 2)
        assert it.arrivals == [(ArrivalState.DONE, "")]
        assert it.read == [], "without a condition no header is read"


def test_one_look_decides_about_what_is_quiet_and_comes_back_for_the_rest() -> None:
    with world(rule("r", to("a"), level=Unit.SERIES)) as it:
        it.arrive(1)
        it.after(50)
        it.arrive(1, series="2")
        it.after(10)
        assert it.look() == it.now + timedelta(seconds=50)
        assert {one.intent.series_instance_uid for one in it.ledger.transfers()} == {f"{STUDY}.1"}
        it.after(50)
        assert it.look() is None
        assert len(it.ledger.transfers()) == 2


def test_a_condition_is_asked_of_the_headers_and_none_is_read_twice() -> None:
    with world(rule("r", to("a"), level=Unit.INSTANCE, where={"ImageType": "DERIVED"})) as it:
        for number, kind in enumerate(("ORIGINAL", "DERIVED", "ORIGINAL"), 1):
            it.headers[f"{STUDY}.1.{number}"] = Identifier.of(ImageType=kind)
        it.arrive(1)
        assert it.look() is None
        assert (it.last.result, it.last.cause) == ("left", NOT_TAKEN)
        assert it.arrivals == [(ArrivalState.DONE, NOT_TAKEN)]
        it.after(5)
        it.arrive(2, 3)
        assert it.look() is None
        assert (it.last.result, it.last.instances) == ("passed_on", 1)
        assert it.read == [f"{STUDY}.1.{number}" for number in (1, 2, 3)]


def test_an_instance_that_comes_again_is_read_again() -> None:
    with world(rule("r", to("a"), where={"Modality": "CT"})) as it:
        it.headers[f"{STUDY}.1.1"] = Identifier.of(Modality="MR")
        for modality in ("MR", "CT"):
            it.headers[f"{STUDY}.1.1"] = Identifier.of(Modality=modality)
            it.arrive(1)
            it.after(60)
            it.look()
        assert it.states() == {"a": State.QUEUED}


def test_a_header_that_cannot_be_read_is_no_reason_to_pass_it_on() -> None:
    with world(rule("r", to("a"), where={"Modality": "CT"})) as it:
        it.arrive(1)
        it.after(60)
        due_at = it.look()
        assert due_at is not None, "a file server may be away for a while"
        assert it.now + SOONEST <= due_at <= it.now + LATEST
        assert it.ledger.transfers() == []
        assert it.last.message == "the headers of what arrived cannot be read"
        it.after(PATIENCE.total_seconds())
        assert it.look() is None
        assert it.ledger.transfers() == []


def test_what_can_be_read_later_is_passed_on_later() -> None:
    with world(rule("r", to("a"), level=Unit.INSTANCE, where={"Modality": "CT"})) as it:
        it.headers[f"{STUDY}.1.1"] = Identifier.of(Modality="CT")
        it.arrive(1, 2)
        assert it.look() == it.now + SOONEST
        assert [one.wanted for one in it.ledger.known_of(STUDY).values()] == [{f"{STUDY}.1.1"}]
        it.headers[f"{STUDY}.1.2"] = Identifier.of(Modality="CT")
        it.after(SOONEST.total_seconds())
        assert it.look() is None
        assert [one.wanted for one in it.ledger.known_of(STUDY).values()] == [{f"{STUDY}.1.1", f"{STUDY}.1.2"}]


def test_what_only_others_sent_is_not_passed_on() -> None:
    with world(rule("r", to("a"), senders=("ct",))) as it:
        it.arrive(1, title="MR")
        assert it.ledger.arrivals() == []
        it.arrive(2)
        it.after(60)
        it.look()
        [known] = it.ledger.known_of(STUDY).values()
        assert known.wanted == {f"{STUDY}.1.2"}


@pytest.mark.parametrize(("enabled", "cause"), [(None, RULE_REMOVED), (False, DISABLED)])
def test_a_rule_that_is_gone_ends_it_and_one_that_is_disabled_waits(enabled: bool | None, cause: str) -> None:
    with world(rule("r", to("a"))) as it:
        it.arrive(1)
        it.after(60)
        before = it.rules
        rules = {} if enabled is None else {"r": msgspec.structs.replace(it.rules.rules["r"], enabled=enabled)}
        it.rules = msgspec.structs.replace(it.rules, rules=rules)
        due_at = it.look()
        assert it.ledger.transfers() == []
        assert it.last.cause == cause
        assert it.arrivals == [(ArrivalState.DONE if enabled is None else ArrivalState.WAITING, cause)]
        if enabled is False:
            assert due_at == it.now + LATEST
            it.rules = before
            it.after(LATEST.total_seconds())
            it.look()
            assert it.states() == {"a": State.QUEUED}


def test_a_study_that_has_left_the_store_is_over() -> None:
    with world(rule("r", to("a"))) as it:
        it.arrive(1)
        it.after(60)
        it.ledger.forget_receipts(it.ledger.receipts_of(STUDY))
        assert it.look() is None
        assert it.arrivals == [(ArrivalState.DONE, GONE)]


def test_a_look_that_is_cancelled_decides_nothing_and_is_due_again() -> None:
    with world(rule("r", to("a"), where={"Modality": "CT"})) as it:
        it.arrive(1)
        it.after(60)
        pending = it.claim()
        assert pending is not None
        cancelled = threading.Event()
        cancelled.set()
        assert it.passer.run(pending, cancelled) == it.now
        assert it.ledger.transfers() == []
        assert it.claim() is not None


def test_a_look_at_nothing_that_was_noted_writes_nothing() -> None:
    with world(rule("r", to("a"))) as it:
        it.arrive(1)
        looked = it.passer.look(it.rules, it.rules.rules["r"], STUDY, it.never)
        assert isinstance(looked, Looked)
        assert looked.report.due_at == it.now + timedelta(seconds=60)
        it.after(60)
        looked = it.passer.look(it.rules, it.rules.rules["r"], STUDY, it.never)
        assert [one.decision.destination for one in looked.passages] == ["a"]
        assert it.ledger.transfers() == []


# --- Who can take it --------------------------------------------------------------------------------------------------


def test_a_node_that_does_not_answer_has_another_of_its_group_take_over() -> None:
    with world(rule("r", ANY)) as it:
        it.arrive(1)
        it.after(60)
        assert it.look() == it.now + SOONEST + timedelta(seconds=1), "a tenth of a minute"
        assert it.states() == {"a": State.QUEUED}
        fail(it, "a")
        it.after(10)
        it.look()
        assert it.states() == {"a": State.CANCELLED, "b": State.QUEUED}
        assert it.last.withdrawn == 1


class Silence(WireError):
    """Nobody answers."""

    cause = "timeout"


def fail(it: World, name: str) -> None:
    """Let a node not answer, until this router leaves it alone."""
    one = it.rules.nodes[name]
    for _ in range(50):
        if it.slots.left_alone(one):
            return
        with pytest.raises(Silence), it.slots.hold(one, Urgency.MOVE, it.never):
            raise Silence("It does not answer.")
    raise AssertionError("it is never left alone")


def test_a_node_whose_route_is_stopped_has_another_take_over() -> None:
    with world(rule("r", ANY)) as it:
        it.arrive(1)
        it.after(60)
        it.look()
        claimed = it.ledger.claim_transfer([LOCAL], it.now, LEASE)
        assert claimed is not None
        stop = Stop(cause="not-authorised", reason="It refuses.", probe_at=it.now + timedelta(hours=1))
        it.ledger.finish(claimed, Finish(happening=Happening.STOPPED, stop=stop), it.now, it.now)
        it.after(10)
        it.look()
        assert it.states() == {"a": State.CANCELLED, "b": State.QUEUED}


def test_a_node_whose_window_is_shut_has_another_take_over() -> None:
    with world(rule("r", ANY)) as it:
        day = it.now.astimezone(UTC)
        minute = (day.weekday() * 24 + day.hour) * 60 + day.minute
        shut = Window.of("shut", "UTC", [((minute + 600) % 10000, (minute + 600) % 10000 + 10)])
        windows = {"shut": shut}
        nodes = it.rules.nodes | {"a": msgspec.structs.replace(node("a"), windows=(WindowUse(window="shut"),))}
        it.rules = msgspec.structs.replace(it.rules, nodes=nodes, windows=windows)
        it.slots = NodeSlots(lambda: windows, it.clock)
        it.passer = it.a_passer()
        it.arrive(1)
        it.after(60)
        it.look()
        assert it.states() == {"b": State.QUEUED}


def test_a_study_that_no_node_can_take_waits_and_is_looked_at_ever_more_rarely() -> None:
    with world(rule("r", ANY)) as it:
        fail(it, "a")
        fail(it, "b")
        it.arrive(1)
        it.after(60)
        waits = []
        for _ in range(60):
            due_at = it.look()
            assert due_at is not None
            waits.append(due_at - it.now)
            it.after((due_at - it.now).total_seconds())
        assert it.states() == {"a": State.QUEUED}
        assert waits == sorted(waits)
        assert waits[-1] == LATEST


def test_once_something_is_there_no_other_node_is_looked_for() -> None:
    with world(rule("r", ANY)) as it:
        it.arrive(1)
        it.after(60)
        it.look()
        transfer = it.ledger.claim_transfer([LOCAL], it.now, LEASE)
        assert transfer is not None
        it.after(10)
        assert it.look() is not None, "it may fail yet"
        it.ledger.finish(transfer, Finish(happening=Happening.PROVEN), it.now, it.now)
        it.after(10)
        assert it.look() is None
        assert it.states() == {"a": State.COMPLETE}


def test_what_comes_while_the_rest_is_sent_goes_after_it() -> None:
    with world(rule("r", to("a"))) as it:
        it.arrive(1)
        it.after(60)
        it.look()
        transfer = it.ledger.claim_transfer([LOCAL], it.now, 9999)
        assert transfer is not None
        it.arrive(2)
        it.after(60)
        assert it.look() is not None
        assert it.last.result == "again"
        it.ledger.finish(transfer, Finish(happening=Happening.PROVEN), it.now, it.now)
        it.after(20)
        assert it.look() is None
        [known] = it.ledger.known_of(STUDY).values()
        assert known.wanted == {f"{STUDY}.1.1", f"{STUDY}.1.2"}
        assert known.there == {f"{STUDY}.1.1"}
        assert it.states() == {"a": State.QUEUED}


@given(st.timedeltas(timedelta(0), timedelta(days=9)))
def test_waits_have_bounds(age: timedelta) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert SOONEST <= again_at(now - age, now) - now <= LATEST


# --- Whatever the order -----------------------------------------------------------------------------------------------

RULES = (
    rule("whole", to("a"), senders=("ct",)),
    rule("series", to("a"), to("b", "c", choice=Choice.ANY_OF), level=Unit.SERIES),
    rule("of-ct", to("e"), level=Unit.INSTANCE, senders=("ct",)),
    rule("of-mr", to("e"), level=Unit.SERIES, senders=("mr",)),
    rule("one-by-one", to("c", "d", choice=Choice.ROUND_ROBIN), level=Unit.INSTANCE, senders=("mr",)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("arrive"),
            st.sets(st.integers(1, 6), min_size=1),
            st.sampled_from(["1", "2"]),
            st.sampled_from(["CT", "MR"]),
        ),
        st.tuples(st.just("arrive"), st.sets(st.integers(1, 6), min_size=1), st.just("1"), st.just("MR")),
        st.tuples(st.just("time"), st.sampled_from([1.0, 7.0, 31.0, 61.0, 400.0])),
        st.tuples(st.just("claim")),
        st.tuples(st.just("look"), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.integers(0, 3)),
        st.tuples(st.just("kill"), st.integers(0, 3)),
        st.tuples(st.just("send")),
        st.tuples(
            st.just("sent"),
            st.integers(0, 3),
            st.sampled_from([Happening.PROVEN, Happening.NO_EVIDENCE, Happening.RETRY, Happening.FAIL]),
        ),
    ),
    min_size=5,
    max_size=40,
)


class Play:
    """Looks and transfers that overlap as they like, and workers that die."""

    def __init__(self, it: World) -> None:
        self.it = it
        self.claimed: list[PendingArrival] = []
        self.looked: list[tuple[PendingArrival, Looked]] = []
        self.sending: list[Transfer] = []
        self.arrived: set[tuple[str, str]] = set()

    def arrive(self, numbers: set[int], series: str, title: str) -> None:
        self.it.arrive(*numbers, series=series, title=title)
        self.arrived |= {(f"{STUDY}.{series}", f"{STUDY}.{series}.{number}") for number in numbers}

    def time(self, seconds: float) -> None:
        self.it.after(seconds)
        self.it.ledger.expire_leases(self.it.now)

    def claim(self) -> None:
        pending = self.it.claim()
        if pending is not None:
            self.claimed.append(pending)

    def look(self, number: int) -> None:
        if self.claimed:
            pending = self.claimed.pop(number % len(self.claimed))
            one = self.it.rules.rules[pending.rule]
            found = self.it.passer.look(
                self.it.rules, one, pending.study_instance_uid, self.it.never, noted_at=pending.noted_at
            )
            self.looked.append((pending, found))

    def finish(self, number: int) -> None:
        if self.looked:
            pending, found = self.looked.pop(number % len(self.looked))
            self.it.ledger.finish_arrival(pending, found.report, found.passages, self.it.now)

    def kill(self, number: int) -> None:
        if self.looked:
            self.looked.pop(number % len(self.looked))

    def send(self) -> None:
        transfer = self.it.ledger.claim_transfer([LOCAL], self.it.now, LEASE)
        if transfer is not None:
            self.sending.append(transfer)

    def sent(self, number: int, happening: Happening) -> None:
        if self.sending:
            transfer = self.sending.pop(number % len(self.sending))
            expected = self.it.ledger.expected_instances(transfer.id) or []
            if happening is Happening.NO_EVIDENCE:
                self.it.ledger.set_delivered(transfer, expected[: len(expected) // 2])
            end = Finish(happening=happening, next_at=self.it.now + timedelta(seconds=5))
            self.it.ledger.finish(transfer, end, self.it.now, self.it.now)

    def settle(self) -> None:
        """Nothing comes any more, and all that can be done is done."""
        for _ in range(60):
            self.time(401.0)
            while (pending := self.it.claim()) is not None:
                self.it.passer.run(pending, self.it.never)
            while (verified := self.it.ledger.claim_verification(list("abcde"), self.it.now, LEASE)) is not None:
                self.it.ledger.finish(verified, Finish(happening=Happening.PROVEN), self.it.now, self.it.now)
            while (transfer := self.it.ledger.claim_transfer([LOCAL], self.it.now, LEASE)) is not None:
                self.it.ledger.finish(transfer, Finish(happening=Happening.PROVEN), self.it.now, self.it.now)
            if all(one.state is ArrivalState.DONE for one in self.it.ledger.arrivals()):
                return
        raise AssertionError("it is looked at for ever")

    def carried(self) -> dict[str, set[str]]:
        """Node -> what transfers that have not been given up carry to it."""
        found: dict[str, set[str]] = {name: set() for name in "abcde"}
        for intent, known in self.it.ledger.known_of(STUDY).items():
            if known.fact.state is not State.CANCELLED:
                found[intent.destination] |= known.wanted
        return found


@given(STEPS)
@example([("arrive", {1}, "1", "CT"), ("arrive", {2}, "1", "MR")])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_order_every_instance_is_carried_to_where_it_belongs(steps: list[tuple[object, ...]]) -> None:
    with world(*RULES) as it:
        play = Play(it)
        for word, *values in steps:
            getattr(play, str(word))(*values)
        play.settle()
        carried = play.carried()
        every = {uid for _, uid in play.arrived}
        assert carried["a"] >= every
        assert carried["e"] >= every, "two rules send it there, each a part"
        assert carried["b"] >= every or carried["c"] >= every, "no study is torn apart"
        senders = {one.sop_instance_uid: one.calling_ae_title for one in it.ledger.receipts_of(STUDY)}
        of_mr = {uid for uid in every if senders[uid] == "MR"}
        assert carried["c"] >= of_mr or carried["d"] >= of_mr
        for known in it.ledger.known_of(STUDY).values():
            if known.fact.state is State.COMPLETE:
                assert known.there == known.wanted
