"""A service among others: its name, its announcements, its part as leader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from router.announcing import Announcer
from router.domain.arriving import ArrivalDue
from router.domain.overview import ServiceInfo
from router.domain.replicas import LOST_SECONDS
from router.domain.rule import RouterSettings, RuleSet
from router.engine.company import STALE_SECONDS, Company
from router.engine.rollout import Rollout
from router.errors import LedgerError, RouterError
from router.leading import Leading
from router.ledger.ledger import SqlLedger
from tests.support.fake_peers import FakeClock
from tests.support.process import READY_SECONDS


def rules(replica: str = "", work: str = "w") -> RuleSet:
    return RuleSet(router=RouterSettings(replica=replica), nodes={}, rules={}, content_hash="c", work_hash=work)


class Bench:
    """Services on one ledger; time passes while they wait."""

    def __init__(self) -> None:
        self.ledger = SqlLedger.in_memory()
        self.clock = FakeClock()
        self.troubles: list[str] = []
        self.deposed: list[str] = []
        self.waiting: list[tuple[str, str]] = []
        """Who waited for which name."""
        self.alive: list[Announcer] = []
        """Those that announce themselves while another waits."""

    def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for one in self.alive:
            one.announce()

    def make(
        self, owner: str, replica: str = "", *, store: str = "s", ledger: object = None
    ) -> tuple[Announcer, Company]:
        company = Company(owner, monotonic=lambda: self.clock.now().timestamp())
        announcer = Announcer(
            ledger=ledger or self.ledger,  # type: ignore[arg-type]
            clock=self.clock,
            owner=owner,
            host="host",
            store=lambda: store,
            rules=lambda: rules(replica),
            address=lambda: "127.0.0.1:9104",
            leads=lambda: False,
            company=company,
            trouble=lambda where, error: self.troubles.append(f"{where}: {error}"),
            waiting=lambda name: self.waiting.append((owner, name)),
            deposed=lambda: self.deposed.append(owner),
            sleep=self.sleep,
            monotonic=lambda: self.clock.now().timestamp(),
        )
        return announcer, company

    def owners(self) -> set[str]:
        return {one.owner for one in self.ledger.services(self.clock.now() - timedelta(seconds=LOST_SECONDS))}


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.ledger.close()


def test_services_see_each_other(bench: Bench) -> None:
    (first, one), (second, other) = bench.make("a", "r1", store="s1"), bench.make("b", "r2", store="s2")
    assert first.take_name() == second.take_name() == []
    first.announce()
    assert [seen.replica for seen in one.services] == [seen.replica for seen in other.services] == ["r1", "r2"]
    assert [seen.owner for seen in one.others] == ["b"]
    assert one.services[0] == ServiceInfo(
        owner="a",
        address="127.0.0.1:9104",
        seen_at=bench.clock.now(),
        content_hash="c",
        work_hash="w",
        replica="r1",
        store="s1",
        started_at=bench.clock.now(),
    )
    assert one.agrees(rules())
    assert not one.agrees(rules(work="other"))
    second.stop()
    first.announce()
    assert one.others == ()
    assert one.agrees(rules(work="other")), "it is alone"


def test_rules_are_announced_before_they_are_adopted_and_seen_by_who_looks(bench: Bench) -> None:
    (first, one), (second, _) = bench.make("a", "r1"), bench.make("b", "r2")
    first.take_name()
    second.take_name()
    first.announce()
    second.announce(rules("r2", work="new"))
    assert one.agrees(rules()), "as it was"
    first.look()
    assert not one.agrees(rules())
    assert one.agrees(rules(work="new"))


def test_who_has_not_looked_for_long_agrees_to_nothing(bench: Bench) -> None:
    announcer, company = bench.make("a")
    assert not company.agrees(rules()), "nobody has looked yet"
    announcer.take_name()
    assert company.agrees(rules())
    bench.clock.advance(STALE_SECONDS + 1)
    assert not company.agrees(rules())


class Away:
    """A ledger that was away lately, or not."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger
        self.lately = False

    def lost_at(self, now: datetime) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) if self.lately else now

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)


def test_after_the_ledger_was_away_the_first_one_back_does_not_think_that_it_is_alone(bench: Bench) -> None:
    ledger = Away(bench.ledger)
    (first, company), (second, _) = bench.make("a", "r1", ledger=ledger), bench.make("b", "r2")
    first.take_name()
    second.take_name()
    second.announce(rules("r2", work="new"))
    bench.ledger.note_arrivals([ArrivalDue("new", "1.2", bench.clock.now())], bench.clock.now())
    bench.clock.advance(LOST_SECONDS + 30)  # nobody could announce himself
    ledger.lately = True

    def agrees(rules: RuleSet, *, anew: bool = False) -> bool:
        if anew:
            first.look()
        return company.agrees(rules)

    for see in (first.announce, first.look):
        see()
        assert not company.agrees(rules()), "the other has not been back yet"
    arrival = bench.ledger.claim_arrival(bench.clock.now(), 60)
    assert arrival is not None
    assert Rollout(bench.ledger, agrees, bench.clock).leaves(arrival, rules()), "of a rule that the other knows"
    second.announce(rules("r2", work="new"))
    ledger.lately = False
    first.announce()
    assert not company.agrees(rules())
    second.stop()
    first.announce()
    assert company.agrees(rules()), "it is alone"


def test_a_killed_one_is_replaced_as_soon_as_it_is_silent(bench: Bench) -> None:
    old, _ = bench.make("old", "r")
    old.take_name()
    bench.clock.advance(1)
    began = bench.clock.now()
    new, company = bench.make("new", "r")
    assert new.take_name() == ["old"]
    assert bench.waiting == [("new", "r")], "told once"
    assert timedelta(seconds=4) < bench.clock.now() - began < timedelta(seconds=8)
    assert bench.owners() == {"new"}
    old.announce()  # it was not dead, but hung
    assert bench.deposed == ["old"]
    assert "Another service has taken the name r" in old.problem
    old.announce()
    assert bench.deposed == ["old"], "told once"
    assert bench.owners() == {"new"}
    assert company.services[0].owner == "new"


def test_one_that_stops_is_waited_for(bench: Bench) -> None:
    old, _ = bench.make("old", "r")
    old.take_name()
    bench.alive.append(old)
    ends_at = bench.clock.now() + timedelta(seconds=20)
    sleep = bench.sleep

    def until_it_ends(seconds: float) -> None:
        sleep(seconds)
        if bench.clock.now() >= ends_at and bench.alive:
            bench.alive.clear()
            old.stop()

    bench.sleep = until_it_ends  # type: ignore[method-assign]
    new, _ = bench.make("new", "r")
    assert new.take_name() == []
    assert bench.owners() == {"new"}
    assert bench.deposed == []


@pytest.mark.parametrize("store", ["s", "another"])
def test_two_that_live_cannot_have_the_same_name(bench: Bench, store: str) -> None:
    old, _ = bench.make("old", "r")
    old.take_name()
    bench.alive.append(old)
    new, _ = bench.make("new", "r", store=store)
    with pytest.raises(RouterError, match=r"called r \(router\.replica\); it runs .*a name of its own"):
        new.take_name()
    assert bench.owners() == {"old"}
    assert bench.deposed == []


def test_without_a_name_in_the_configuration_each_finds_one(bench: Bench) -> None:
    names = []
    for number in range(3):
        one, _ = bench.make(f"o{number}", store=f"s{number}")
        one.take_name()
        bench.alive.append(one)
        names.append(one.replica)
    assert names == ["host", "host-2", "host-3"]


def test_a_ledger_that_is_away_is_a_problem_until_it_is_back(bench: Bench) -> None:
    announcer, company = bench.make("a")
    announcer.take_name()
    bench.ledger.close()
    announcer.announce()
    assert "is closed" in announcer.problem
    assert bench.troubles == [f"announce: {announcer.problem}"]
    assert [one.owner for one in company.services] == ["a"]


# --- Leading ----------------------------------------------------------------------------------------------------------


class Led:
    """What a leader does, and what the ledger says."""

    def __init__(self) -> None:
        self.answer: bool | Exception = False
        self.fails = False
        self.done: list[str] = []
        self.troubles: list[str] = []
        self.leading = Leading(
            leads=self.ask,
            resign=lambda: self.done.append("resign"),
            begin=self.begin,
            end=lambda: self.done.append("end"),
            trouble=lambda where, error: self.troubles.append(f"{where}: {error}"),
        )

    def ask(self) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def begin(self) -> None:
        if self.fails:
            raise LedgerError("away")
        self.done.append("begin")


def test_it_begins_when_it_leads_and_ends_when_it_does_not() -> None:
    led = Led()
    for answer in (False, True, True, False, False, True):
        led.answer = answer
        led.leading.look()
        assert led.leading.leads is answer
    assert led.done == ["begin", "end", "begin"]
    led.leading.stop()
    assert led.done == ["begin", "end", "begin", "end", "resign"]
    assert not led.leading.leads


def test_who_cannot_ask_does_not_lead() -> None:
    led = Led()
    led.answer = True
    led.leading.look()
    led.answer = LedgerError("away")
    led.leading.look()
    assert led.done == ["begin", "end"]
    assert led.troubles == ["lead: away"]


def test_what_could_not_begin_is_begun_at_the_next_look() -> None:
    led = Led()
    led.answer, led.fails = True, True
    led.leading.look()
    assert (led.done, led.troubles) == ([], ["lead: away"])
    led.fails = False
    led.leading.look()
    assert led.done == ["begin"]


@pytest.mark.parametrize("frozen", ["ask", "begin"])
def test_a_look_that_ends_after_it_was_stopped_leads_no_more(monkeypatch: pytest.MonkeyPatch, frozen: str) -> None:
    monkeypatch.setattr("router.leading.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("router.leading.JOIN_SECONDS", 0.01)
    led, reached, thawed = Led(), threading.Event(), threading.Event()
    call = getattr(led, frozen)

    def slow() -> object:
        if led.answer:
            reached.set()
            thawed.wait(READY_SECONDS)
        return call()

    monkeypatch.setattr(led.leading, f"_{frozen}", slow)
    led.leading.start()
    led.answer = True
    assert reached.wait(READY_SECONDS)
    led.leading.stop()
    assert led.done == ["resign"]
    thawed.set()
    assert led.leading._thread is not None
    led.leading._thread.join(READY_SECONDS)
    assert not led.leading.leads
    assert led.done == ["resign", *(["begin", "end"] if frozen == "begin" else []), "resign"]


def test_it_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.leading.LOOK_SECONDS", 0.01)
    led, begun = Led(), threading.Event()
    led.leading = Leading(
        leads=led.ask,
        resign=lambda: led.done.append("resign"),
        begin=begun.set,
        end=lambda: None,
        trouble=lambda where, error: None,
    )
    led.leading.start()
    assert not begun.is_set()
    led.answer = True
    assert begun.wait(60)
    led.leading.stop()
    assert led.done == ["resign"]
