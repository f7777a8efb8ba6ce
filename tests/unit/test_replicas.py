"""Which services live, what they are called, what they agree on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.overview import ServiceInfo
from router.domain.replicas import (
    LOST_SECONDS,
    NAME_SECONDS,
    SILENT_SECONDS,
    Standing,
    agreed,
    deposed,
    is_silent,
    leader,
    live,
    named,
    of_this,
    predecessors,
    standing,
    to_ask,
)

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def service(
    owner: str, replica: str = "", *, ago: float = 0.0, store: str = "s", work: str = "w", leads: bool = False
) -> ServiceInfo:
    return ServiceInfo(
        owner=owner,
        address=f"{owner}:9104",
        leads=leads,
        seen_at=NOW - timedelta(seconds=ago),
        replica=replica or owner,
        store=store,
        work_hash=work,
        started_at=NOW - timedelta(hours=1),
    )


def test_who_was_seen_within_a_minute_lives() -> None:
    found = live([service("b", ago=LOST_SECONDS), service("dead", ago=LOST_SECONDS + 1), service("a")], NOW)
    assert [one.owner for one in found] == ["a", "b"]


@pytest.mark.parametrize(
    ("others", "expected"),
    [([], True), (["w"], True), (["w", "w"], True), (["w", "other"], False), ([""], False)],
)
def test_all_agree_or_somebody_may_know_more(others: list[str], expected: bool) -> None:
    services = [service("me", work="what I said before")]
    services += [service(f"o{number}", work=work) for number, work in enumerate(others)]
    assert agreed(services, "me", "w") is expected


@pytest.mark.parametrize(
    ("ago", "store", "waited", "expected"),
    [
        (0.0, "s", 0.0, Standing.WAIT),  # it may be stopping
        (0.0, "s", NAME_SECONDS, Standing.TAKEN),
        (SILENT_SECONDS - 0.1, "s", 0.0, Standing.WAIT),
        (SILENT_SECONDS, "s", 0.0, Standing.FREE),  # the one before, killed
        (SILENT_SECONDS, "another", 0.0, Standing.WAIT),  # another machine, that may be cut off only
        (SILENT_SECONDS, "another", NAME_SECONDS, Standing.TAKEN),
    ],
)
def test_a_name_that_another_has(ago: float, store: str, waited: float, expected: Standing) -> None:
    services = [service("old", "r", ago=ago, store=store), service("other", "r2")]
    assert standing("r", "s", services, "new", NOW, waited) is expected
    assert standing("free", "s", services, "new", NOW, waited) is Standing.FREE
    assert standing("r2", "s", services, "other", NOW, waited) is Standing.FREE, "its own"


def test_without_a_configured_name_a_host_has_several() -> None:
    here = [service("a", "host", store="s1"), service("b", "host-2", store="s2")]
    assert named("", "host", "s3", here, "new", NOW, 0.0) == ("host-3", Standing.FREE)
    assert named("", "host", "s1", here, "new", NOW, 0.0) == ("host", Standing.WAIT), "its own before, perhaps"
    assert named("", "host", "s1", here, "new", NOW, 8.0) == ("host-3", Standing.FREE), "no, it lives"
    dead = [service("a", "host", store="s1", ago=SILENT_SECONDS)]
    assert named("", "host", "s1", dead, "new", NOW, 0.0) == ("host", Standing.FREE)
    assert predecessors("host", dead, "new") == ["a"]


@given(st.text(max_size=300))
def test_a_host_of_any_name_makes_one_that_can_be_configured(host: str) -> None:
    name, found = named("", host, "s", [service("x", "y", store="z")], "new", NOW, 0.0)
    assert found is Standing.FREE
    assert 0 < len(name) <= 63
    assert name[0].isalnum()
    assert name.isascii()


def test_the_one_that_started_later_has_the_name() -> None:
    mine, later = service("me", "r"), NOW
    assert mine.started_at is not None
    assert not deposed("r", mine.started_at, [mine, service("other", "r2")], "me")
    other = ServiceInfo(owner="z", address="", seen_at=NOW, replica="r", started_at=later)
    assert deposed("r", mine.started_at, [mine, other], "me")
    assert not deposed("r", later, [mine, other], "z")


@pytest.mark.parametrize(
    ("configured", "host", "store", "own"),
    [
        ("r1", "h", "s1", {"a"}),
        ("r1", "h", "s2", {"a"}),  # the name decides
        ("", "r1", "", {"a"}),
        ("", "r2.example", "s2", {"b"}),  # by its store: a service in a container
        ("", "r1", "other", set()),
        ("", "r", "", set()),
        ("r3", "r1", "s1", set()),
        ("", "h", "", {"c"}),
    ],
)
def test_which_service_is_of_this_configuration(configured: str, host: str, store: str, own: set[str]) -> None:
    services = [service("a", "r1", store="s1"), service("b", "r2", store="s2"), service("c", "h-2", store="s3")]
    assert of_this(services, configured, host, store) == own
    assert of_this([*services, msgspec.structs.replace(service("old"), replica="")], configured, host, store) == own | {
        "old"
    }


def test_where_all_have_one_store_the_name_decides() -> None:
    services = [service("a", "r1", store="s"), service("b", "r2", store="s")]
    assert of_this(services, "", "r1", "s") == {"a"}


def test_of_several_that_said_they_lead_the_last_does() -> None:
    """The others died, and said so before."""
    dead = service("a", ago=51.0, leads=True)
    leads = service("b", ago=1.0, leads=True)
    assert leader([dead, leads, service("c", ago=0.5)]) is leads
    assert leader([service("c", ago=0.5)]) is None
    assert [is_silent(one, NOW) for one in (dead, leads)] == [True, False]


@pytest.mark.parametrize(
    ("services", "asked"),
    [
        ((("a", 1.0, False), ("own", 0.5, False), ("b", 0.1, True)), "own"),
        ((("a", 1.0, False), ("b", 2.0, True)), "b"),
        ((("own", 30.0, False), ("a", 1.0, False)), "a"),
        ((("b", 0.1, False), ("a", 1.0, False)), "a"),
        ((("own", 30.0, False),), "own"),
        ((), None),
    ],
)
def test_a_question_goes_to_the_own_replica_else_to_who_leads(
    services: tuple[tuple[str, float, bool], ...], asked: str | None
) -> None:
    known = [service(name, ago=ago, leads=leads) for name, ago, leads in services]
    found = to_ask(known, frozenset({"own"}), NOW)
    assert (found.owner if found is not None else None) == asked
