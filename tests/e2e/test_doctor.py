"""`doctor` against peers with one fault each, against a healthy Orthanc, and beside a running service.

What is wrong is found, called by its code, and the remedy names the system or the line that has to change.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.cli import main as command_line
from router.dimse.services import Accepted
from router.dimse.store_scp import ServerSettings, StoreServer
from router.objects import ObjectStore
from router.simulator import (
    CALLED_NOT_RECOGNISED,
    CALLING_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    Behaviour,
    SimulatedPacs,
    make_study,
)
from tests.support.certificates import Authority
from tests.support.command import in_process
from tests.support.orthanc import Orthanc
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import Site, node
from tests.support.tarpit import Tarpit

STUDY = make_study(seed="doctor", study_date=date.today(), study_time="000100", instances=3, patient_name="Secret^Name")
GET_MODELS = frozenset({"1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3"})
CT = "1.2.840.10008.5.1.4.1.1.2"


class Clinic:
    """An archive that rules bring studies from, and a router that knows it."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.archive = stack.enter_context(SimulatedPacs("ARCHIVE", studies=STUDY))
        self.site = Site(directory, nodes={}, rules={}, router={"drain": "0s"})
        self.archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        self.node: dict[str, Any] = node("ARCHIVE", self.archive.port)
        self.others: dict[str, Any] = {}
        self.rule: dict[str, Any] = {
            "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today"}},
            "move": {"to": ["local"]},
        }

    def configure(self) -> Site:
        self.site.configure(nodes={"archive": self.node, **self.others}, rules={"all": self.rule})
        return self.site

    def behave(self, **switches: Any) -> None:
        self.archive.behaviour = replace(Behaviour(), **switches)

    def examine(self, *arguments: str, code: int, name: str = "archive") -> dict[str, dict[str, str]]:
        """{check: {result, code, message, remedy}} of a node, after an examination that exits with `code`."""
        said = self._run("doctor", name, *arguments, code=code)
        assert set(said) == {"nodes", "router"}
        assert [one["node"] for one in said["nodes"]] == [name]
        for check in (*said["router"], *said["nodes"][0]["checks"]):
            assert set(check) == {"check", "result", "code", "message", "remedy"}
            assert check["remedy"] or check["result"] in ("ok", "skipped"), check
        self.router = {check["check"]: check for check in said["router"]}
        return {check["check"]: check for check in said["nodes"][0]["checks"]}

    def _run(self, *arguments: str, code: int) -> Any:
        done = in_process(self.configure().rules_directory, *arguments, "--format", "json")
        assert done.code == code, done.out
        return done.json

    def line(self, key: str) -> str:
        """`FILE:LINE` of the first line that has the key."""
        path = self.site.rules_directory / "site.yaml"
        lines = path.read_text(encoding="utf-8").splitlines()
        return f"{path}:{next(n for n, line in enumerate(lines, 1) if line.strip().startswith(f'{key}:'))}"


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    with contextlib.ExitStack() as stack:
        yield Clinic(tmp_path / "site", stack)


def test_a_query_that_cannot_be_asked_points_to_the_doctor_and_one_that_the_node_fails_does_not(
    clinic: Clinic, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    advice = "`dicom-router doctor archive` looks for the cause."

    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            command_line.main(["--config", str(clinic.configure().rules_directory), "query", "archive", *arguments])
        assert ended.value.code == 1
        return " ".join(capsys.readouterr().err.split())

    clinic.behave(refuse_find_status=0xA700)
    assert "status A700" in (failed := said("StudyDate=today"))
    assert advice not in failed
    clinic.behave(reject=CALLING_NOT_RECOGNISED)
    assert said("StudyDate=today").endswith(advice)
    clinic.behave()
    clinic.node["address"] = f"127.0.0.1:{free_port()}"
    assert said("StudyDate=today").endswith(advice)
    assert said("--record", str(tmp_path / "recording.yaml"), "--rule", "all").endswith(advice)
    with Tarpit("silent") as silent:
        clinic.node |= {"address": f"127.0.0.1:{silent.port}", "timeouts": {"negotiation": "1s"}}
        assert said("StudyDate=today").endswith(advice)


def results(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: check["result"] for name, check in checks.items()}


def test_a_healthy_archive_and_router_have_nothing_to_mend_and_nothing_is_kept(clinic: Clinic) -> None:
    checks = clinic.examine(code=0)
    assert set(results(checks).values()) == {"ok"}, checks
    assert checks["move"]["code"] == "arrived"
    assert checks["stores from"]["code"] == "as-configured"
    assert set(results(clinic.router).values()) <= {"ok", "warn", "skipped"}
    assert {clinic.router[name]["code"] for name in ("dicom port", "http port")} == {"free"}
    moves = clinic.archive.record.of("move")
    assert [move.destination for move in moves] == ["ROUTER"]
    assert not clinic.site.store.exists(), "the image is kept nowhere"
    assert not (clinic.site.directory / "ledger.db").exists(), "and nothing is written down"


def test_only_one_image_is_asked_for_and_no_query_is_without_a_date_or_a_unique_key(clinic: Clinic) -> None:
    clinic.examine(code=0)
    finds = clinic.archive.record.of("find")
    assert 0 < len(finds) <= 9
    for find in finds:
        assert find.keys.get("StudyDate") or find.keys.get("StudyInstanceUID"), find
    (move,) = clinic.archive.record.of("move")
    assert move.level == "IMAGE"
    assert move.keys["SOPInstanceUID"].count("\\") == 0


def test_neither_the_text_nor_the_json_holds_a_patients_data(clinic: Clinic) -> None:
    site = clinic.configure()
    for done in (site.call("doctor"), site.call("doctor", "--format", "json")):
        assert done.returncode == 0
        for secret in ("Secret", "PAT001", STUDY[0].StudyInstanceUID, STUDY[0].SOPInstanceUID):
            assert secret not in done.stdout + done.stderr


def test_no_move_asks_for_no_image(clinic: Clinic) -> None:
    checks = clinic.examine("--no-move", code=0)
    assert (checks["move"]["result"], checks["move"]["code"]) == ("skipped", "not-wanted")
    assert not clinic.archive.record.of("move")


def test_a_node_that_no_rule_brings_studies_from_is_asked_for_an_image_only_with_move(clinic: Clinic) -> None:
    clinic.others = {"ws1": node("WS1", clinic.stack.enter_context(SimulatedPacs("WS1")).port)}
    clinic.rule["move"] = {"to": ["ws1"]}
    assert clinic.examine(code=0)["move"]["code"] == "not-needed"
    assert not clinic.archive.record.of("move")
    assert clinic.examine("--move", code=0)["move"]["code"] == "arrived"


def test_a_name_that_does_not_exist_is_a_usage_error(clinic: Clinic) -> None:
    done = clinic.configure().call("doctor", "archiv")
    assert done.returncode == 2
    assert "archive" in done.stderr


# how it is reached ----------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_resolve(clinic: Clinic) -> None:
    clinic.node["address"] = "no-such-host.invalid:104"
    checks = clinic.examine(code=1)
    assert (checks["name"]["result"], checks["name"]["code"]) == ("fail", "name-unresolved")
    assert f"nodes.archive.address in {clinic.line('address')}" in checks["name"]["remedy"]
    assert {checks[name]["result"] for name in ("connect", "tls", "echo", "contexts", "query", "move")} == {"skipped"}
    assert "name failed" in checks["query"]["message"]


def test_a_port_where_nothing_listens(clinic: Clinic) -> None:
    clinic.node["address"] = f"127.0.0.1:{free_port()}"
    checks = clinic.examine(code=1)
    assert (checks["connect"]["result"], checks["connect"]["code"]) == ("fail", "connection-refused")
    assert clinic.line("address") in checks["connect"]["remedy"]


def test_an_address_that_swallows_connections(clinic: Clinic) -> None:
    hole = clinic.stack.enter_context(Tarpit("dead"))
    clinic.node |= {"address": f"127.0.0.1:{hole.port}", "timeouts": {"connect": "1s"}}
    checks = clinic.examine(code=1)
    assert (checks["connect"]["result"], checks["connect"]["code"]) == ("fail", "connect-timeout")
    assert "firewall" in checks["connect"]["remedy"]


def test_a_port_that_answers_nothing(clinic: Clinic) -> None:
    silent = clinic.stack.enter_context(Tarpit("silent"))
    clinic.node |= {"address": f"127.0.0.1:{silent.port}", "timeouts": {"connect": "1s", "negotiation": "1s"}}
    checks = clinic.examine(code=1)
    assert checks["connect"]["result"] == "ok"
    assert (checks["echo"]["result"], checks["echo"]["code"]) == ("fail", "negotiation-timeout")
    assert clinic.line("address") in checks["echo"]["remedy"]


@pytest.mark.parametrize(
    ("rejection", "result", "code", "said"),
    [
        (CALLED_NOT_RECOGNISED, "fail", "rejected-called-ae-title", "nodes.archive.ae_title in {ae_title}"),
        (CALLING_NOT_RECOGNISED, "fail", "rejected-calling-ae-title", "at archive: add an application entity with AE"),
        (LOCAL_LIMIT_EXCEEDED, "warn", "rejected-local-limit", "nodes.archive.limits.associations in"),
    ],
)
def test_a_rejection_is_told_by_who_has_to_change_what(
    clinic: Clinic, rejection: Any, result: str, code: str, said: str
) -> None:
    clinic.behave(reject=rejection)
    checks = clinic.examine(code=1 if result == "fail" else 0)
    assert (checks["echo"]["result"], checks["echo"]["code"]) == (result, code)
    lines = (clinic.site.rules_directory / "site.yaml").read_text(encoding="utf-8").splitlines()
    at = next(n for n, line in enumerate(lines, 1) if line.strip() == "ae_title: ARCHIVE")
    assert said.format(ae_title=f"{clinic.site.rules_directory / 'site.yaml'}:{at}") in checks["echo"]["remedy"]
    assert checks["query"]["result"] == "skipped"


def test_a_stranger_is_told_with_the_address_to_enter_there(clinic: Clinic) -> None:
    clinic.behave(accepted_callers=frozenset({"SOMEBODY"}))
    remedy = clinic.examine(code=1)["echo"]["remedy"]
    assert f"AE title ROUTER, host 127.0.0.1, port {clinic.site.dicom_port}" in remedy


# TLS ------------------------------------------------------------------------------------------------------------------


class TlsPeer:
    """A Store SCP that speaks TLS only."""

    def __init__(self, clinic: Clinic, directory: Path, days: int) -> None:
        self.authority = Authority(directory / "authority")
        own = self.authority.issue("ours", days=300)
        self.files = {"ca": str(self.authority.certificate), "certificate": str(own[0]), "key": str(own[1])}
        theirs = self.authority.settings(self.authority.issue("theirs", days=days))
        store = ObjectStore(directory / "store")
        server = StoreServer(
            ServerSettings(host="127.0.0.1", port=0, tls=theirs),
            store,
            policy=lambda *who: Accepted("other"),
            on_receipt=lambda receipt: None,
            observer=lambda event: None,
        )
        server.start()
        clinic.stack.callback(server.stop, 0.0)
        self.address = f"127.0.0.1:{server.port}"
        clinic.others = {"secure": {"ae_title": "SECURE", "address": self.address, "tls": self.files}}
        clinic.rule["move"] = {"to": ["secure"], "verify": "none", "skip_present": False}


def test_tls_with_certificates_that_are_long_valid(clinic: Clinic, tmp_path: Path) -> None:
    TlsPeer(clinic, tmp_path, days=200)
    checks = clinic.examine(code=0, name="secure")
    assert checks["tls"]["code"] == "secured"
    assert "TLSv1" in checks["tls"]["message"]
    assert (checks["certificate"]["code"], checks["own certificate"]["code"]) == ("valid", "valid")
    assert checks["echo"]["result"] == "ok"


def test_a_certificate_that_expires_soon_is_warned_of(clinic: Clinic, tmp_path: Path) -> None:
    TlsPeer(clinic, tmp_path, days=7)
    checks = clinic.examine(code=0, name="secure")
    assert (checks["certificate"]["result"], checks["certificate"]["code"]) == ("warn", "expires-soon")
    assert checks["certificate"]["remedy"] == "at secure: renew its certificate"


def test_a_certificate_that_has_expired_is_told_with_its_day(clinic: Clinic, tmp_path: Path) -> None:
    TlsPeer(clinic, tmp_path, days=-1)
    checks = clinic.examine(code=1, name="secure")
    assert (checks["tls"]["result"], checks["tls"]["code"]) == ("fail", "tls-expired")
    assert checks["certificate"]["code"] == "expired"
    assert f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}" in checks["certificate"]["message"]
    assert "at secure: renew" in checks["tls"]["remedy"]


def test_plain_dicom_to_a_port_that_speaks_tls(clinic: Clinic, tmp_path: Path) -> None:
    TlsPeer(clinic, tmp_path, days=200)
    del clinic.others["secure"]["tls"]
    checks = clinic.examine(code=1, name="secure")
    assert (checks["echo"]["result"], checks["echo"]["code"]) == ("fail", "tls-wanted")
    assert "add tls to nodes.secure in" in checks["echo"]["remedy"]


def test_tls_to_a_port_that_speaks_plain_dicom(clinic: Clinic, tmp_path: Path) -> None:
    peer = TlsPeer(clinic, tmp_path, days=200)
    clinic.node |= {"tls": peer.files, "timeouts": {"connect": "3s"}}
    checks = clinic.examine(code=1)
    assert checks["tls"]["result"] == "fail"
    assert checks["tls"]["code"] in ("tls-not-spoken", "timeout")
    assert checks["echo"]["result"] == "skipped"


def test_an_authority_that_is_not_ours(clinic: Clinic, tmp_path: Path) -> None:
    TlsPeer(clinic, tmp_path, days=200)
    other = Authority(tmp_path / "other")
    clinic.others["secure"]["tls"]["ca"] = str(other.certificate)
    checks = clinic.examine(code=1, name="secure")
    assert (checks["tls"]["result"], checks["tls"]["code"]) == ("fail", "tls-unknown-ca")
    assert "nodes.secure.tls in" in checks["tls"]["remedy"]


# what it offers and answers -------------------------------------------------------------------------------------------


def test_a_source_that_offers_no_get_matters_only_where_a_rule_uses_it(clinic: Clinic) -> None:
    clinic.behave(refused_sop_classes=GET_MODELS)
    assert clinic.examine(code=0)["get context"]["code"] == "not-needed"
    clinic.node["move"] = {"via": "get"}
    checks = clinic.examine(code=1)
    assert (checks["get context"]["result"], checks["get context"]["code"]) == ("fail", "not-accepted")
    assert "at archive: allow ROUTER to use C-GET" in checks["get context"]["remedy"]


def test_an_image_comes_by_get_where_rules_use_it(clinic: Clinic) -> None:
    clinic.node["move"] = {"via": "get"}
    checks = clinic.examine(code=0)
    assert checks["move"]["code"] == "arrived"
    assert "C-GET" in checks["move"]["message"]
    assert not clinic.site.store.exists()


def test_a_root_that_the_archive_does_not_know(clinic: Clinic) -> None:
    clinic.behave(refused_sop_classes=frozenset({"1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"}))
    checks = clinic.examine(code=1)
    assert (checks["find context"]["result"], checks["find context"]["code"]) == ("warn", "other-root")
    assert "set root: patient at nodes.archive.root" in checks["find context"]["remedy"]
    # With Patient Root alone it wants one patient's ID in a query for studies (PS3.4 section C.4.1.2.1).
    assert (checks["query"]["result"], checks["query"]["code"]) == ("fail", "query-failed")
    assert "at archive: switch on Study Root" in checks["query"]["remedy"]


def test_a_destination_is_told_by_the_storage_classes_it_does_not_take(clinic: Clinic) -> None:
    ward = clinic.stack.enter_context(SimulatedPacs("WS1"))
    ward.behaviour = replace(Behaviour(), refused_sop_classes=frozenset({CT}))
    clinic.others = {"ws1": node("WS1", ward.port)}
    clinic.rule["move"] = {"to": ["ws1"]}
    checks = clinic.examine(code=0, name="ws1")
    assert (checks["storage contexts"]["result"], checks["storage contexts"]["code"]) == ("warn", "some-storage")
    assert "does not take CT" in checks["storage contexts"]["message"]
    assert "at ws1:" in checks["storage contexts"]["remedy"]


def test_a_worklist_that_does_not_answer_for_us(clinic: Clinic) -> None:
    ris = clinic.stack.enter_context(SimulatedPacs("RIS"))
    clinic.others = {"ris": node("RIS", ris.port)}
    clinic.rule = {
        "worklist": {"source": "ris", "every": "1h", "keys": {"ScheduledProcedureStepStartDate": "today"}},
        "priors": {"source": "archive", "groups": [{"name": "recent", "max": 2, "within": "1y"}]},
        "move": {"to": ["local"]},
    }
    checks = clinic.examine(code=0, name="ris")
    assert (checks["worklist context"]["code"], checks["worklist query"]["code"]) == ("accepted", "answered")
    ris.behaviour = replace(Behaviour(), refused_sop_classes=frozenset({"1.2.840.10008.5.1.4.31"}))
    checks = clinic.examine(code=1, name="ris")
    assert checks["worklist context"]["code"] == "not-accepted"
    assert "at ris: let ROUTER ask for the worklist" in checks["worklist context"]["remedy"]


def test_a_refused_query(clinic: Clinic) -> None:
    clinic.behave(refuse_find_status=0x0124)
    checks = clinic.examine(code=1)
    assert (checks["query"]["result"], checks["query"]["code"]) == ("fail", "query-failed")
    assert "at archive: allow ROUTER to query" in checks["query"]["remedy"]
    assert checks["move"]["result"] == "skipped"


def test_attributes_that_do_not_come_back(clinic: Clinic) -> None:
    clinic.behave(omit=frozenset({"ModalitiesInStudy"}), empty=frozenset({"NumberOfStudyRelatedInstances"}))
    checks = clinic.examine(code=0)
    assert (checks["attributes"]["result"], checks["attributes"]["code"]) == ("warn", "not-returned")
    for name in ("ModalitiesInStudy", "NumberOfStudyRelatedInstances"):
        assert name in checks["attributes"]["message"]


def test_a_date_that_is_not_matched(clinic: Clinic) -> None:
    clinic.archive.add(make_study(seed="old", study_date="20010203"))
    clinic.behave(unmatched_keys=frozenset({"StudyDate"}))
    checks = clinic.examine(code=0)
    assert (checks["query"]["result"], checks["query"]["code"]) == ("warn", "date-ignored")


def test_a_clock_or_time_zone_that_is_ahead(clinic: Clinic) -> None:
    coming = datetime.now(UTC) + timedelta(hours=3)
    day, clock = f"{coming:%Y%m%d}", f"{coming:%H%M%S}"
    clinic.node["timezone"] = "UTC"
    clinic.archive.add(make_study(seed="ahead", study_date=day, study_time=clock, instances=1))
    checks = clinic.examine(code=0)
    assert (checks["clock"]["result"], checks["clock"]["code"]) == ("warn", "ahead")
    assert "nodes.archive.timezone in" in checks["clock"]["remedy"]


def test_a_cap_below_what_the_configuration_says(clinic: Clinic) -> None:
    for number in range(120):
        clinic.archive.add(make_study(seed=number, study_date=date.today(), study_time="000100", instances=1))
    clinic.node["find"] = {"max_results": 500}
    clinic.behave(max_results=50, capped_status=0xFE00)
    checks = clinic.examine(code=1)
    assert (checks["result cap"]["result"], checks["result cap"]["code"]) == ("fail", "lower")
    assert (
        f"set max_results: 50 at nodes.archive.find.max_results in {clinic.line('max_results')}"
        in (checks["result cap"]["remedy"])
    )


def test_a_suspicious_number_of_answers(clinic: Clinic) -> None:
    for number in range(120):
        clinic.archive.add(make_study(seed=number, study_date=date.today(), study_time="000100", instances=1))
    clinic.behave(max_results=100)
    checks = clinic.examine(code=0)
    assert (checks["result cap"]["result"], checks["result cap"]["code"]) == ("warn", "suspicious")
    assert "at archive: look up its limit" in checks["result cap"]["remedy"]


# the one image --------------------------------------------------------------------------------------------------------


def test_an_archive_that_does_not_know_us(clinic: Clinic) -> None:
    clinic.archive.forget_destination("ROUTER")
    checks = clinic.examine(code=1)
    assert (checks["move"]["result"], checks["move"]["code"]) == ("fail", "destination-unknown")
    entry = f"AE title ROUTER, host 127.0.0.1, port {clinic.site.dicom_port}"
    assert checks["move"]["remedy"].startswith("at archive: add a move destination")
    assert entry in checks["move"]["remedy"]


@pytest.mark.parametrize(
    "disguise",
    [
        {"unknown_destination_status": 0xA702},
        {"unknown_destination_status": 0xC000},
        {"abort_on_unknown_destination": True},
    ],
    ids=["A702", "Cxxx", "abort"],
)
def test_an_archive_that_does_not_know_us_and_does_not_say_so(clinic: Clinic, disguise: dict[str, Any]) -> None:
    clinic.archive.forget_destination("ROUTER")
    clinic.behave(**disguise)
    move = clinic.examine(code=1)["move"]
    assert move["result"] == "fail"
    assert f"AE title ROUTER, host 127.0.0.1, port {clinic.site.dicom_port}" in move["remedy"]
    assert "at archive" in move["remedy"]


def test_an_archive_that_sends_to_another_port(clinic: Clinic) -> None:
    elsewhere = clinic.stack.enter_context(SimulatedPacs("ELSEWHERE"))
    clinic.archive.set_destination("ROUTER", "127.0.0.1", elsewhere.port)
    move = clinic.examine(code=1)["move"]
    assert (move["result"], move["code"]) == ("fail", "sent-elsewhere")
    assert f"port {clinic.site.dicom_port}" in move["remedy"]


def test_an_archive_that_stores_from_another_ae_title(clinic: Clinic) -> None:
    clinic.behave(stores_from="ARCHIVE_OUT")
    checks = clinic.examine(code=1)
    assert checks["move"]["result"] == "ok"
    assert (checks["stores from"]["result"], checks["stores from"]["code"]) == ("fail", "other-ae-title")
    remedy = checks["stores from"]["remedy"]
    assert remedy.startswith("set sends_as: [ARCHIVE_OUT] at nodes.archive.sends_as in ")
    # What it advises is right.
    clinic.node |= yaml.safe_load(remedy.removeprefix("set ").partition(" at ")[0])
    assert clinic.examine(code=0)["stores from"]["result"] == "ok"


def test_an_image_that_comes_after_the_answer_still_counts(clinic: Clinic) -> None:
    clinic.behave(deliver_later_seconds=1.0)
    assert clinic.examine(code=0)["move"]["code"] == "arrived"


def test_a_port_that_another_program_holds(clinic: Clinic) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", clinic.site.dicom_port))
        other.listen()
        checks = clinic.examine(code=1)
    assert (checks["move"]["result"], checks["move"]["code"]) == ("skipped", "no-port")
    port = clinic.router["dicom port"]
    assert (port["result"], port["code"]) == ("fail", "in-use")
    assert f"router.listen in {clinic.line('listen')}" in port["remedy"]


# windows, the ledger, a running service -------------------------------------------------------------------------------


def test_closed_windows_are_told_and_only_a_c_echo_is_sent(clinic: Clinic) -> None:
    far = (datetime.now(UTC) + timedelta(hours=11)).replace(minute=0)
    span = f"{far:%H:%M}-{far + timedelta(hours=1):%H:%M}"
    content = clinic.configure().rules_directory / "windows.yaml"
    content.write_text(yaml.safe_dump({"windows": {"later": {"timezone": "UTC", "open": [f"mon-sun {span}"]}}}))
    clinic.node["windows"] = [{"use": "later"}]
    checks = clinic.examine(code=0)
    assert (checks["window"]["result"], checks["window"]["code"]) == ("warn", "closed")
    assert checks["echo"]["result"] == "ok"
    assert {checks[name]["code"] for name in ("contexts", "query", "move")} == {"closed"}
    assert not clinic.archive.record.of("find")


def test_beside_a_running_service_that_received_nothing_yet_an_image_is_moved_only_if_asked_for(clinic: Clinic) -> None:
    clinic.rule["sweep"]["keys"] = {"StudyDate": "20010101"}
    with clinic.configure().run():
        checks = clinic.examine(code=0)
        assert (checks["move"]["result"], checks["move"]["code"]) == ("skipped", "service-runs")
        assert "--move" in checks["move"]["remedy"]
        assert not clinic.archive.record.of("move")
        assert not clinic.site.stored()
        asked = clinic.examine("--move", code=0)
        assert (asked["move"]["code"], asked["stores from"]["code"]) == ("arrived", "as-configured")
        assert "kept nothing" in asked["move"]["message"]
        assert not clinic.site.stored(), "no rule asks for it, and the node may not push"
        clinic.node["push"] = "allow"
        clinic.configure()
        wait_for(lambda: clinic.examine("--move", code=0) and clinic.site.stored(), "a node that may push")
        assert len(clinic.site.stored()) == 1


def test_beside_a_running_service_its_receipts_tell_what_it_stores_from(clinic: Clinic) -> None:
    with clinic.configure().run():
        clinic.site.apply()
        clinic.examine(code=0)
        assert {clinic.router[name]["code"] for name in ("dicom port", "http port")} == {"ours"}
        assert {clinic.router[name]["result"] for name in ("healthz", "readyz")} == {"ok"}
        stored, moves = clinic.site.stored(), len(clinic.archive.record.of("move"))
        after = clinic.examine(code=0)
        assert (after["move"]["code"], after["stores from"]["code"]) == ("has-arrived", "as-configured")
        assert len(clinic.archive.record.of("move")) == moves, "no image is moved for it"
        forced = clinic.examine("--move", code=0)
        assert forced["move"]["code"] == "arrived"
        assert clinic.site.stored() == stored, "it asks for an image that the store has"
        assert len(clinic.site.json("transfers", "list")["transfers"]) == 1


def test_beside_a_running_service_a_caller_that_it_turned_away_is_told(clinic: Clinic) -> None:
    clinic.behave(stores_from="ARCHIVE_OUT")
    clinic.rule["sweep"]["keys"] = {"StudyDate": "20010101"}
    with clinic.configure().run():
        move = clinic.examine("--move", code=1)["move"]
    assert (move["result"], move["code"]) == ("fail", "caller-refused")
    assert "nodes.archive.sends_as in" in move["remedy"]


def test_a_stopped_route_is_told_with_its_reason(clinic: Clinic) -> None:
    clinic.archive.forget_destination("ROUTER")
    clinic.configure().apply(code=1)
    clinic.archive.set_destination("ROUTER", "127.0.0.1", clinic.site.dicom_port)
    checks = clinic.examine(code=0)
    assert (checks["routes"]["result"], checks["routes"]["code"]) == ("warn", "stopped")
    assert "A801" in checks["routes"]["message"]
    assert "apply" in checks["routes"]["remedy"]


# Orthanc --------------------------------------------------------------------------------------------------------------


def test_orthanc_is_healthy_and_told_where_it_does_not_know_us(clinic: Clinic, tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc") as orthanc:
        files = []
        for number, dataset in enumerate(STUDY):
            files.append(tmp_path / f"{number}.dcm")
            dataset.save_as(files[-1], enforce_file_format=True)
        orthanc.upload(*files)
        clinic.others = {"orthanc": node(orthanc.ae_title, orthanc.dicom_port)}
        clinic.rule["sweep"]["source"] = "orthanc"
        orthanc.register("ROUTER", clinic.site.dicom_port)
        checks = clinic.examine(code=0, name="orthanc")
        assert set(results(checks).values()) == {"ok"}, checks
        assert (checks["move"]["code"], checks["stores from"]["code"]) == ("arrived", "as-configured")
        assert "ISO_IR 100" in checks["character set"]["message"]
        orthanc.unregister("ROUTER")
        checks = clinic.examine(code=1, name="orthanc")
        told = next(check for check in checks.values() if check["result"] == "fail")
        assert f"AE title ROUTER, host 127.0.0.1, port {clinic.site.dicom_port}" in told["remedy"]
        assert "at orthanc" in told["remedy"]
