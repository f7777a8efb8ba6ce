"""The doctor on this router's own side: ports, directories, limits, clock, a running service; and places of keys."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from router import opening
from router.config.places import Places
from router.domain.checkup import Check, Result
from router.domain.condition import Condition
from router.domain.dicom import QueryRetrieveLevel
from router.domain.hl7 import Hl7Settings
from router.domain.notify import Mail, NotifySettings
from router.domain.overview import ServiceInfo
from router.domain.rule import HttpTls, Move, Node, RouterSettings, Rule, RuleSet, Sweep, TlsSettings
from router.engine.doctor_own import left_alone, own_side
from router.engine.doctor_port import Directory, ServiceSeen
from router.ledger.ledger import SqlLedger
from router.machine import ThisMachine
from router.objects import ObjectStore
from router.store_name import name_at
from tests.support.passing import FakeShelf

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
GIB = 1 << 30


class Valid(NamedTuple):
    last: datetime


class FakeMachine:
    """A machine on which all is well, but for what a test changes."""

    def __init__(self) -> None:
        self.problems: dict[int, str] = {}
        self.found = Directory(path="", exists=True, free=100 * GIB, inodes=1_000_000, inodes_free=900_000)
        self.files = 100_000
        self.lacking: set[str] = set()
        self.version = "2026a"
        self.synchronised: bool | None = True
        self.answers: dict[str, tuple[int, str] | None] = {}
        self.last = NOW + timedelta(days=300)
        self.authorities_last: datetime | None = None

    def directory(self, path: str) -> Directory:
        return msgspec.structs.replace(self.found, path=path)

    def port_problem(self, host: str, port: int) -> str:
        return self.problems.get(port, "")

    def open_files(self) -> int:
        return self.files

    def zone_loads(self, name: str) -> bool:
        return name not in self.lacking

    def zone_version(self) -> str:
        return self.version

    def clock_synchronised(self) -> bool | None:
        return self.synchronised

    def certificate(self, path: str) -> Valid:
        return Valid(self.last)

    def first_end(self, path: str) -> datetime | None:
        return self.authorities_last or self.last

    def ask(self, address: str, path: str) -> tuple[int, str] | None:
        return self.answers.get(path, (200, '{"status": "ok", "problems": {}}'))


def where(*keys: str) -> str:
    return f"{'.'.join(keys)} in rules/site.yaml:7"


def rules(*, host: str = "10.1.2.3", **router: Any) -> RuleSet:
    node = Node(name="archive", ae_title="PACS", host=host, port=104, timezone="Europe/Berlin")
    sweep = Sweep(source="archive", level=QueryRetrieveLevel.STUDY, keys=(), tiers=())
    rule = Rule(name="r", sweep=sweep, where=Condition(), move=Move(to=("local",)))
    return RuleSet(router=RouterSettings(**router), nodes={"archive": node}, rules={"r": rule}, content_hash="now")


SETTINGS: dict[str, Any] = {
    "services": [],
    "warnings": [],
    "ledger": "The ledger opens.",
    "ledger_problem": "",
    "ledger_file": "./data/ledger.db",
    "now": NOW,
}


def examine(
    machine: FakeMachine, configured: RuleSet | None = None, *, running: bool = False, **more: Any
) -> dict[str, Check]:
    services = [ServiceSeen("127.0.0.1:9104", "now")] if running else []
    checks = own_side(configured or rules(), where, machine, **(SETTINGS | {"services": services} | more))
    for check in checks:
        assert check.remedy or check.result in (Result.OK, Result.SKIPPED), check
    return {check.check: check for check in checks}


def judged(checks: dict[str, Check], name: str) -> tuple[str, str]:
    return checks[name].result.value, checks[name].code


def test_all_is_well() -> None:
    assert {check.result for check in examine(FakeMachine()).values()} == {Result.OK}
    assert {check.result for check in examine(FakeMachine(), rules(host="127.0.0.1")).values()} == {Result.OK}


@pytest.mark.parametrize("problem", ["in-use", "not-allowed", "no-such-address", "unusable"])
def test_each_port_that_cannot_be_had_names_its_key(problem: str) -> None:
    machine = FakeMachine()
    machine.problems = dict.fromkeys((11112, 9104, 2575), problem)
    found = examine(machine, rules(hl7=Hl7Settings()))
    for name, key in (("dicom port", "listen"), ("http port", "http"), ("hl7 port", "hl7.listen")):
        assert judged(found, name) == ("fail", problem)
        assert f"router.{key} in rules/site.yaml:7" in found[name].remedy


def test_ports_that_a_running_service_holds_are_ours() -> None:
    machine = FakeMachine()
    machine.problems = {11112: "in-use"}
    found = examine(machine, running=True)
    assert judged(found, "dicom port") == ("ok", "ours")
    assert judged(found, "http port") == ("warn", "not-listening")


def test_a_service_is_asked_how_it_is() -> None:
    machine = FakeMachine()
    found = examine(machine, running=True)
    assert (judged(found, "healthz"), judged(found, "readyz")) == (("ok", "ok"), ("ok", "ok"))
    machine.answers = {"/readyz": (503, '{"problems": {"disk": "5 bytes free"}}'), "/healthz": None}
    found = examine(machine, running=True)
    assert (judged(found, "healthz"), judged(found, "readyz")) == (("fail", "silent"), ("fail", "failing"))
    assert "disk: 5 bytes free" in found["readyz"].message
    machine.answers = {"/readyz": (500, "no JSON at all")}
    assert "500" in examine(machine, running=True)["readyz"].message


def test_a_service_with_another_configuration_is_warned_of() -> None:
    found = examine(FakeMachine(), running=True, services=[ServiceSeen("127.0.0.1:9104", "before")])
    assert judged(found, "service") == ("warn", "other-configuration")


def replicas(*others: ServiceSeen, here: bool = True) -> list[ServiceSeen]:
    """Services on one ledger; the one of this configuration too, where it runs."""
    return [*([ServiceSeen("127.0.0.1:9104", "now", "work", "router-1")] if here else []), *others]


def test_other_replicas_are_compared_by_what_they_have_in_common_and_named() -> None:
    configured = msgspec.structs.replace(rules(), work_hash="work")
    like = ServiceSeen("10.0.0.2:9104", "its own", "work", "router-2", own=False)
    found = examine(FakeMachine(), configured, services=replicas(like))
    assert "service" not in found
    assert found["healthz"].message.startswith("The replica router-2 says at 10.0.0.2:9104")
    found = examine(FakeMachine(), configured, services=replicas(like._replace(work_hash="before")))
    assert judged(found, "service") == ("warn", "other-configuration")
    assert found["service"].message.startswith("The replica router-2 has other nodes")


def test_of_the_services_on_a_ledger_the_one_of_this_configuration_is_told_apart(tmp_path: Path) -> None:
    configured = rules(replica="router-1", store=str(tmp_path))
    both = [
        ServiceInfo(owner=f"o{n}", address=f"10.0.0.{n}:9104", seen_at=NOW, work_hash="w", replica=f"router-{n}")
        for n in (1, 2)
    ]
    assert opening._seen(configured, both) == [
        ServiceSeen("10.0.0.1:9104", "", "w", "router-1", own=True),
        ServiceSeen("10.0.0.2:9104", "", "w", "router-2", own=False),
    ]


def test_a_replica_that_does_not_run_while_others_do() -> None:
    configured = msgspec.structs.replace(rules(), work_hash="work")
    machine = FakeMachine()
    others = replicas(ServiceSeen("10.0.0.2:9104", "x", "work", "router-2", own=False), here=False)
    found = examine(machine, configured, services=others)
    assert judged(found, "service") == ("warn", "not-here")
    assert "does not run; others do: router-2." in found["service"].message
    assert judged(found, "dicom port") == ("ok", "free")
    machine.problems = {11112: "in-use"}
    assert judged(examine(machine, configured, services=others), "dicom port") == ("fail", "in-use")


def test_a_service_that_is_being_stopped_is_nothing_to_mend() -> None:
    machine = FakeMachine()
    machine.answers = {"/readyz": (503, '{"status": "failing", "problems": {"service": "stopping"}}')}
    found = examine(machine, running=True)
    assert judged(found, "readyz") == ("warn", "stopping")
    assert judged(found, "healthz") == ("ok", "ok")


def test_a_store_that_no_running_replica_has_is_told_with_what_to_do(tmp_path: Path) -> None:
    own = tmp_path / "store"
    ObjectStore(own, durability="rename").close()
    configured = rules(replica="router-1", store=str(own))
    live = ServiceInfo(owner="o2", address="10.0.0.2:9104", seen_at=NOW, work_hash="w", replica="router-2", store="two")
    with SqlLedger.in_memory() as ledger:
        for name, replica, store in (("a", "router-1", name_at(own)), ("b", "router-2", "two"), ("c", "router-3", "3")):
            ledger.announce(ServiceInfo(owner=name, address="", seen_at=NOW, replica=replica, store=store))
        assert opening._away(configured, [live], ledger) == {}, "it holds nothing"
        shelf = FakeShelf()
        for number, store in enumerate((name_at(own), "two", "3", "3")):
            shelf.arrives(f"1.2.3.{number}", at=NOW, store=store)
        ledger.add_receipts(list(shelf.receipts.values()))
        away = opening._away(configured, [live], ledger)
    assert [(one.replica, number) for one, number in away.items()] == [("router-3", 2)]
    found = examine(FakeMachine(), away=away)
    assert judged(found, "replica") == ("warn", "away")
    assert "router-3 does not run" in found["replica"].message
    assert "2 instances" in found["replica"].message
    assert "dicom-router store forget router-3" in found["replica"].remedy


@pytest.mark.parametrize("tls", [False, True])
def test_without_a_ledger_whose_a_port_is_is_asked_at_the_http_port(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    files = TlsSettings(ca="people.pem", certificate="web.pem", key="web.key")
    configured = rules(http_tls=HttpTls(files=files, clients=())) if tls else rules()
    machine = FakeMachine()
    machine.problems = {11112: "in-use", 9104: "in-use"}
    asked: list[str] = []
    ask = machine.ask

    def noted(address: str, path: str) -> tuple[int, str] | None:
        asked.append(address)
        return ask(address, path)

    monkeypatch.setattr(machine, "ask", noted)
    machine.answers = {"/readyz": (503, '{"problems": {"ledger": "cannot be reached"}}')}
    found = examine(machine, configured, ledger_problem="The ledger x cannot be reached.")
    assert judged(found, "dicom port") == judged(found, "http port") == ("ok", "ours")
    assert judged(found, "readyz") == ("fail", "failing")
    assert {one.startswith("https://") for one in asked} == {tls}
    for other in (None, (200, "It works!"), (200, "[]"), (404, '{"detail": "Not Found"}')):
        machine.answers = {"/healthz": other}
        found = examine(machine, configured, ledger_problem="The ledger x cannot be reached.")
        assert judged(found, "dicom port") == judged(found, "http port") == ("warn", "whose")
        assert "cannot be told without the ledger" in found["dicom port"].message
        assert "healthz" not in found
    machine.problems = {}
    assert judged(examine(machine, ledger_problem="It does not open."), "dicom port") == ("ok", "free")


def test_a_loopback_address_that_others_should_reach() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        found = examine(FakeMachine(), rules(listen_host=host))
        assert judged(found, "listen address") == ("warn", "loopback")
        assert "archive cannot reach" in found["listen address"].message
        assert "router.listen in" in found["listen address"].remedy
        assert judged(examine(FakeMachine(), rules(listen_host=host, host="127.0.0.1")), "listen address")[0] == "ok"


def test_the_store() -> None:
    machine = FakeMachine()
    machine.found = Directory(path="", exists=False, problem="a file cannot be written in /data (Permission denied)")
    found = examine(machine)
    assert judged(found, "store") == ("fail", "unusable")
    assert "router.store in" in found["store"].remedy
    assert "disk" not in found
    for free, result in ((GIB // 2, ("fail", "full")), (GIB + 1, ("warn", "low")), (3 * GIB, ("ok", "enough"))):
        machine.found = Directory(path="", exists=True, free=free, inodes=100, inodes_free=1)
        found = examine(machine)
        assert judged(found, "disk") == result
        assert judged(found, "inodes") == ("fail", "few")
    machine.found = Directory(path="", exists=True, free=3 * GIB)
    assert judged(examine(machine), "inodes") == ("ok", "not-counted")


def test_a_ledger_that_does_not_open() -> None:
    found = examine(FakeMachine(), ledger_problem="The ledger x is damaged; restore it.")
    assert judged(found, "ledger") == ("fail", "unusable")
    assert "router.ledger in" in found["ledger"].remedy


def test_limits_zones_and_clock() -> None:
    machine = FakeMachine()
    machine.files, machine.lacking, machine.synchronised = 100, {"Europe/Berlin"}, False
    found = examine(machine)
    assert judged(found, "open files") == ("warn", "few")
    assert judged(found, "time zones") == ("fail", "missing")
    assert "Europe/Berlin" in found["time zones"].message
    assert judged(found, "clock") == ("warn", "not-synchronised")
    machine.lacking, machine.version, machine.synchronised = set(), "2024b", None
    found = examine(machine)
    assert judged(found, "time zones") == ("warn", "old")
    assert judged(found, "clock") == ("skipped", "not-told")
    machine.version = ""
    assert judged(examine(machine), "time zones") == ("ok", "loaded")


def test_our_certificate_and_configuration_warnings_and_title() -> None:
    machine = FakeMachine()
    machine.last = NOW + timedelta(days=3)
    settings = TlsSettings(ca="ca.pem", certificate="us.pem", key="us.key")
    found = examine(machine, rules(tls=settings, ae_title="router"), warnings=["rules/a.yaml:1:1: warning DR046 x."])
    assert judged(found, "certificate") == ("warn", "expires-soon")
    assert "router.tls in" in found["certificate"].remedy
    assert judged(found, "configuration") == ("warn", "warnings")
    assert "rules/a.yaml:1:1" in found["configuration"].message
    assert judged(found, "ae title") == ("warn", "lower-case")


def test_every_file_with_certificates_is_warned_of_before_one_ends() -> None:
    machine = FakeMachine()
    own = TlsSettings(ca="ca.pem", certificate="us.pem", key="us.key")
    web = HttpTls(files=TlsSettings(ca="people.pem", certificate="web.pem", key="web.key"), clients=("operator",))
    mail = Mail(host="mail", port=587, sender="a@b", to=("c@d",), ca="mail.pem")
    configured = rules(tls=own, http_tls=web, notify=NotifySettings(channels={"mail": mail}))
    other = msgspec.structs.replace(own, ca="x.pem")
    archive = msgspec.structs.replace(configured.nodes["archive"], tls=other)
    configured = msgspec.structs.replace(configured, nodes={"archive": archive})
    checks = own_side(configured, where, machine, **SETTINGS)
    said = {check.message.split(" is valid")[0] for check in checks if "is valid until" in check.message}
    assert said == {
        "The Store SCP's certificate us.pem",
        "A certificate in router.tls.ca ca.pem",
        "The certificate of HTTP web.pem",
        "A certificate in router.http_tls.ca people.pem",
        "A certificate in nodes.archive.tls.ca x.pem",
        "A certificate in router.notify.channels.mail.ca mail.pem",
    }
    machine.authorities_last = NOW + timedelta(days=3)
    found = examine(machine, configured)
    assert judged(found, "authorities") == ("warn", "expires-soon")
    assert judged(found, "certificate") == judged(found, "http certificate") == ("ok", "valid")
    assert "renew the file ca in router." in found["authorities"].remedy


def test_nodes_that_a_service_leaves_alone_are_read_from_its_metrics() -> None:
    text = '# TYPE dicom_router_breaker_open gauge\ndicom_router_breaker_open{node="a"} 1.0\n'
    text += 'dicom_router_breaker_open{node="b"} 0.0\ndicom_router_breaker_open{node="c"} 1\n'
    assert left_alone(text) == {"a", "c"}
    assert left_alone("") == frozenset()


# the real machine -----------------------------------------------------------------------------------------------------

MACHINE = ThisMachine()


class TestThisMachine:
    def test_a_directory_is_tried_and_left_as_it_was(self, tmp_path: Path) -> None:
        found = MACHINE.directory(str(tmp_path))
        assert (found.exists, found.problem) == (True, "")
        assert found.free > 0
        assert not list(tmp_path.iterdir())

    def test_one_that_is_not_there_is_tried_above_it_and_not_made(self, tmp_path: Path) -> None:
        found = MACHINE.directory(str(tmp_path / "a" / "b"))
        assert (found.exists, found.problem) == (False, "")
        assert not list(tmp_path.iterdir())

    def test_a_file_in_its_place_is_a_problem(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert "no directory" in MACHINE.directory(str(tmp_path / "file" / "store")).problem

    @pytest.mark.parametrize("call", ["fsync", "open"])
    def test_a_disk_that_fails_is_told_by_what_failed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, call, fail)
        problem = MACHINE.directory(str(tmp_path)).problem
        monkeypatch.undo()
        assert "Input/output error" in problem
        assert ("fsync fails" in problem) == (call == "fsync")
        assert not list(tmp_path.iterdir())

    def test_zones(self) -> None:
        assert MACHINE.zone_loads("Europe/Berlin")
        for name in ("Europe/Nowhere", "../etc/passwd", "", "Europe"):
            assert not MACHINE.zone_loads(name)
        version = MACHINE.zone_version()
        assert version == "" or version[:2] == "20"

    def test_limits_and_clock_are_told_or_not(self) -> None:
        assert MACHINE.open_files() > 0
        assert MACHINE.clock_synchronised() in (True, False, None)


@pytest.fixture
def web() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = 503 if self.path == "/readyz" else 200
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"said")

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"0.0.0.0:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_service_is_asked_over_http_where_it_listens_on_every_address(web: str) -> None:
    assert MACHINE.ask(web, "/healthz") == (200, "said")
    assert MACHINE.ask(web, "/readyz") == (503, "said")
    assert MACHINE.ask("127.0.0.1:1", "/healthz") is None
    assert MACHINE.ask("nonsense", "/healthz") is None


# places ---------------------------------------------------------------------------------------------------------------


def test_a_key_is_found_in_its_file_and_line_and_else_what_is_above_it(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text(
        "# first\nnodes:\n  archive:\n    ae_title: PACS\n    address: h:1\n    find: {max_results: 3}\n"
    )
    (tmp_path / "router.yaml").write_text("router:\n  listen: 0.0.0.0:11112\n")
    (tmp_path / "broken.yaml").write_text("nodes: [\n")
    places = Places(tmp_path)
    assert places("nodes", "archive", "address") == f"nodes.archive.address in {tmp_path}/nodes.yaml:5"
    assert places("nodes", "archive", "find", "max_results").endswith("nodes.yaml:6")
    assert places("nodes", "archive", "sends_as") == f"nodes.archive.sends_as in {tmp_path}/nodes.yaml:3"
    assert places("router", "listen") == f"router.listen in {tmp_path}/router.yaml:2"
    assert places("router", "store") == f"router.store in {tmp_path}"
    assert places("nodes", "gone", "address") == f"nodes.gone.address in {tmp_path}"
