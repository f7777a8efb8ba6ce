"""Room on the disk and certificates: what is told when it changes, what is shown, and that nobody waits for a mount."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import surroundings
from router.dimse.probing import first_end
from router.domain.audit import AuditSettings
from router.domain.events import CertificateExpires, DiskSpace, Event
from router.domain.rule import Node, RouterSettings, RuleSet, TlsSettings, WindowUse
from router.domain.surroundings import Space, certificates, expiry_change, space_change
from router.engine.slots import NodeSlots
from router.objects import ObjectStore
from router.observe.levels import SPACE_STALE_SECONDS
from router.observe.metrics import Metrics
from router.surroundings import Surroundings
from tests.support.certificates import Authority
from tests.support.process import wait_for
from tests.unit.test_metrics import HOSPITAL, Bench, limited, samples

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    def now(self) -> datetime:
        return NOW


def tls(name: str) -> TlsSettings:
    return TlsSettings(ca=f"/{name}/ca.pem", certificate=f"/{name}/own.pem", key=f"/{name}/own.key")


SECURED = RuleSet(
    router=RouterSettings(tls=tls("router"), minimum_free=100),
    nodes={
        "same": Node(name="same", ae_title="SAME", host="h", port=104, tls=tls("router")),
        "own": Node(name="own", ae_title="OWN", host="h", port=104, tls=tls("own")),
        "plain": Node(name="plain", ae_title="PLAIN", host="h", port=104),
    },
    rules={},
    content_hash="h",
)
KEYS = {"router.tls.certificate", "router.tls.ca", "nodes.own.tls.certificate", "nodes.own.tls.ca"}


class Looking:
    """Surroundings that can be set, and all that is told of them."""

    def __init__(self, rules: RuleSet = SECURED) -> None:
        self.rules = rules
        self.free = 1000
        self.intact = True
        self.ends: dict[str, datetime | None] = {}
        self.events: list[Event] = []
        self.well: list[Event] = []
        self.metrics = Metrics(now=NOW.timestamp)
        self.metrics.configure(rules)
        self.surroundings = Surroundings(
            rules=lambda: self.rules,
            space=lambda: self.space(),
            intact=lambda: self.intact,
            clock=Clock(),
            observer=self.events.append,
            show_space=self.metrics.show_space,
            show_certificates=self.metrics.show_certificates,
            well=self.well.append,
            first_end=lambda path: self.ends.get(path, NOW + 365 * DAY),
        )

    def space(self) -> Space:
        return Space(free=self.free, size=5000)

    def look(self) -> list[Event]:
        """What one look tells."""
        self.events.clear()
        self.surroundings.adopt()
        self.surroundings.look()
        return list(self.events)

    def shown(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        text = self.metrics.render("")[0].decode()
        return {labels: value for (found, labels), value in samples(text).items() if found == name}

    def expiries(self) -> dict[str, float]:
        return {dict(labels)["certificate"]: value for labels, value in self.shown(EXPIRY).items()}


EXPIRY = "certificate_expiry_timestamp_seconds"


# --- room on the disk -------------------------------------------------------------------------------------------------


def test_that_the_disk_gets_low_full_and_well_again_is_told_once_each() -> None:
    looking = Looking()
    told = []
    for free in (1000, 200, 199, 150, 99, 5, 120, 300, 300):
        looking.free = free
        told.append([event.state for event in looking.look() if isinstance(event, DiskSpace)])
    assert told == [[], [], ["low"], [], ["full"], [], ["low"], ["ok"], []]


def test_what_is_in_order_from_the_start_is_told_once_to_those_who_may_know_it_otherwise_and_is_no_news() -> None:
    looking = Looking()
    looking.ends["/own/own.pem"] = NOW + DAY
    (news,) = looking.look()
    assert isinstance(news, CertificateExpires)
    assert looking.well == [
        DiskSpace(state="ok", free=1000, size=5000, minimum=100),
        *(
            CertificateExpires(certificate=key, state="ok", expires_at=NOW + 365 * DAY)
            for key in ("router.tls.certificate", "router.tls.ca", "nodes.own.tls.ca")
        ),
    ]
    looking.free = 42
    del looking.ends["/own/own.pem"]
    assert len(looking.look()) == 2
    looking.free = 1000
    assert [event.state for event in looking.look() if isinstance(event, DiskSpace)] == ["ok"]
    assert len(looking.well) == 4


def test_what_is_told_of_the_disk_has_its_numbers() -> None:
    looking = Looking()
    looking.free = 42
    assert looking.look() == [DiskSpace(state="full", free=42, size=5000, minimum=100)]


@given(st.integers(0, 1000), st.integers(0, 400))
def test_the_disk_is_full_just_when_instances_are_refused(free: int, minimum: int) -> None:
    change = space_change("", Space(free, 1000), minimum)
    assert change is not None
    assert (change.state == "full") == (free < minimum)
    assert space_change(change.state, Space(free, 1000), minimum) is None


def test_the_room_on_the_disk_is_that_of_the_stores_file_system(tmp_path: Path) -> None:
    found = ObjectStore(tmp_path / "store").space()
    there = os.statvfs(tmp_path)
    assert found.size == there.f_blocks * there.f_frsize
    assert 0 < found.free <= found.size


def test_the_room_on_the_disk_is_shown_and_gone_when_nobody_could_look_for_a_minute() -> None:
    now = [NOW.timestamp()]
    metrics = Metrics(now=lambda: now[0])
    metrics.configure(SECURED)

    def shown() -> dict[str, float]:
        found = samples(metrics.render("")[0].decode())
        return {name: value for (name, _), value in found.items() if name.endswith("_bytes")}

    assert shown() == {"store_minimum_free_bytes": 100}
    metrics.show_space(Space(free=7, size=9))
    now[0] += SPACE_STALE_SECONDS
    assert shown() == {"store_minimum_free_bytes": 100, "store_free_bytes": 7, "store_size_bytes": 9}
    now[0] += 1
    assert shown() == {"store_minimum_free_bytes": 100}
    metrics.show_space(Space(free=8, size=9))
    assert shown()["store_free_bytes"] == 8


def test_a_mount_that_hangs_holds_up_neither_a_scrape_nor_the_stop() -> None:
    looking, let_go, entered = Looking(), threading.Event(), threading.Event()

    def hangs() -> Space:
        entered.set()
        let_go.wait(60.0)
        raise OSError

    looking.space = hangs  # type: ignore[method-assign]
    looking.surroundings.start()
    try:
        assert entered.wait(10.0)
        assert looking.shown("store_minimum_free_bytes") == {frozenset(): 100}
        assert looking.shown("store_free_bytes") == {}
        looking.surroundings.stop()
    finally:
        let_go.set()


def test_what_keeps_the_store_from_taking_anything_is_found_by_a_look_that_begins_when_one_asks() -> None:
    looking = Looking()
    assert looking.surroundings.problems() == {}, "it does not look yet"
    looking.surroundings.start()
    try:
        for free, intact, parts in ((1000, True, set()), (99, True, {"disk"}), (100, False, {"store"})):
            looking.free, looking.intact = free, intact
            assert set(looking.surroundings.problems()) == parts

        def broken() -> Space:
            raise OSError(5, "Input/output error")

        looking.space = broken  # type: ignore[method-assign]
        assert looking.surroundings.problems()["disk"] == "Input/output error"
    finally:
        looking.surroundings.stop()


def test_who_asks_is_answered_while_the_store_hangs_and_told_so_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(surroundings, "HANGING_SECONDS", 0.5)
    looking, let_go = Looking(), threading.Event()
    looking.free = 99
    looking.surroundings.start()
    try:
        before = looking.surroundings.problems()
        assert "99 bytes free" in before["disk"]
        real = looking.space
        looking.space = lambda: (let_go.wait(60.0), real())[1]  # type: ignore[method-assign]
        assert looking.surroundings.problems() == before, "what the look before found"
        wait_for(lambda: "has not answered" in looking.surroundings.problems()["disk"], "that it hangs is a problem")
        let_go.set()
        wait_for(lambda: looking.surroundings.problems() == before, "it answers again")
    finally:
        let_go.set()
        looking.surroundings.stop()


def test_it_looks_by_itself_and_at_once_when_the_configuration_changes() -> None:
    looking = Looking()
    looking.surroundings.start()
    try:
        wait_for(lambda: len(looking.expiries()) == 4 and all(looking.expiries().values()), "a first look")
        assert looking.shown("store_free_bytes") == {frozenset(): 1000}
        looking.rules = msgspec.structs.replace(
            SECURED, nodes={"new": Node(name="new", ae_title="NEW", host="h", port=104, tls=tls("new"))}
        )
        looking.metrics.configure(looking.rules)
        looking.surroundings.adopt()
        wait_for(lambda: looking.expiries().get("nodes.new.tls.ca"), "a look at the new certificate")
        assert "nodes.own.tls.ca" not in looking.expiries()
    finally:
        looking.surroundings.stop()


# --- certificates -----------------------------------------------------------------------------------------------------


def test_files_are_named_by_their_key_and_those_of_the_router_once() -> None:
    assert certificates(SECURED) == {
        "router.tls.certificate": "/router/own.pem",
        "router.tls.ca": "/router/ca.pem",
        "nodes.own.tls.certificate": "/own/own.pem",
        "nodes.own.tls.ca": "/own/ca.pem",
    }


def test_files_for_audit_messages_are_named_where_they_are_others_and_there_are_any() -> None:
    own = AuditSettings(
        host="audit", port=6514, ca="/audit/ca.pem", certificate="/router/own.pem", key="/router/own.key"
    )
    router = msgspec.structs.replace(SECURED.router, audit=own)
    found = certificates(msgspec.structs.replace(SECURED, router=router))
    assert found["router.audit.ca"] == "/audit/ca.pem"
    assert "router.audit.certificate" not in found
    router = msgspec.structs.replace(SECURED.router, audit=AuditSettings(host="audit", port=6514))
    assert certificates(msgspec.structs.replace(SECURED, router=router)) == certificates(SECURED)


def test_what_becomes_of_a_certificate_is_told_when_it_changes() -> None:
    looking = Looking()
    assert looking.look() == []
    told: list[Any] = []
    for end in (NOW + 15 * DAY, NOW + 14 * DAY, NOW + DAY, NOW, None, NOW + 90 * DAY, NOW + 90 * DAY):
        looking.ends["/own/own.pem"] = end
        told += looking.look()
    key = "nodes.own.tls.certificate"
    assert told == [
        CertificateExpires(certificate=key, state="expiring", expires_at=NOW + 14 * DAY),
        CertificateExpires(certificate=key, state="expired", expires_at=NOW),
        CertificateExpires(certificate=key, state="unreadable"),
        CertificateExpires(certificate=key, state="ok", expires_at=NOW + 90 * DAY),
    ]


def test_when_certificates_expire_is_shown_by_their_key() -> None:
    looking = Looking()
    assert looking.expiries() == dict.fromkeys(KEYS, 0)
    looking.ends = {"/own/ca.pem": None, "/own/own.pem": NOW + DAY}
    looking.look()
    later = (NOW + 365 * DAY).timestamp()
    assert looking.expiries() == {
        "router.tls.certificate": later,
        "router.tls.ca": later,
        "nodes.own.tls.certificate": (NOW + DAY).timestamp(),
        "nodes.own.tls.ca": 0,
    }


@given(st.none() | st.integers(-(10**6), 10**8).map(lambda seconds: NOW + timedelta(seconds=seconds)))
def test_the_same_is_not_told_again(end: datetime | None) -> None:
    change = expiry_change("", "router.tls.ca", end, NOW)
    assert change is not None
    assert expiry_change(change.state, "router.tls.ca", end, NOW) is None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("made") / "keys")
    authority.issue("long", days=300)
    authority.issue("short", days=3)
    return authority


def test_of_several_certificates_in_a_file_the_first_that_ends_counts(made: Authority, tmp_path: Path) -> None:
    long, short = (made.directory / f"{name}.pem" for name in ("long", "short"))
    both = tmp_path / "both.pem"
    both.write_text(long.read_text() + short.read_text())
    first = first_end(str(short))
    assert first is not None
    assert timedelta(days=2) < first - datetime.now(UTC) < timedelta(days=4)
    assert first_end(str(both)) == first
    assert first_end(str(long)) != first


def test_a_file_that_cannot_be_read_whole_has_no_end(made: Authority, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pem"
    damaged.write_text((made.directory / "long.pem").read_text() + "-----BEGIN CERTIFICATE-----\nAAAA\n")
    assert first_end(str(damaged)) is None
    assert first_end(str(tmp_path / "none.pem")) is None


# --- limits and the process -------------------------------------------------------------------------------------------


def test_moves_of_the_last_hour_stand_beside_their_limit_for_nodes_that_have_one() -> None:
    bench = Bench(limited(HOSPITAL))
    slots = NodeSlots()
    bench.metrics.watch_moves(slots.moves_last_hour)
    assert bench.value("node_moves_last_hour", node="pacs") == 0
    slots.recall_moves("pacs", [10.0, 3000.0, 4000.0])
    slots.recall_moves("ws", [10.0])
    assert bench.value("node_moves_last_hour", node="pacs") == 2
    assert bench.value("node_moves_per_hour_limit", node="pacs") == 50
    assert bench.value("node_moves_last_hour", node="ws") is None
    bench.metrics.configure(HOSPITAL)
    assert bench.value("node_moves_last_hour", node="pacs") is None


def test_a_node_has_a_limit_where_only_a_window_of_it_has_one() -> None:
    node = Node(name="pacs", ae_title="P", host="h", port=1, windows=(WindowUse(moves_per_hour=7, associations=3),))
    bench = Bench(msgspec.structs.replace(HOSPITAL, nodes={"pacs": node}))
    assert bench.value("node_moves_per_hour_limit", node="pacs") == 7
    assert bench.value("node_associations_limit", node="pacs") == 3


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_what_the_process_uses_has_its_usual_names(accept: str) -> None:
    metrics = Metrics()
    metrics.watch_process()
    lines = metrics.render(accept)[0].decode().splitlines()
    values = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("process_")}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= set(values)
    assert all(values.values())
