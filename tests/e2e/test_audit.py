"""The audit of a real service: what an archive is asked and sends, who is kept out, what is changed; across a kill."""

from __future__ import annotations

import contextlib
import getpass
import platform
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from router.simulator import SimulatedPacs, make_study
from tests.support.audit import Heard, Side, TlsRepository, UdpRepository
from tests.support.certificates import Authority
from tests.support.dcmtk import Address, echoscu, store_as_is
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

OWN = Side("ROUTER", "AETITLES=ROUTER", "", True)
ASKING = OWN._replace(role="Source Role ID")
ANSWERING = Side("archive", "AETITLES=ARCHIVE", "Destination Role ID", False)
SENDING = Side("archive", "AETITLES=ARCHIVE", "Source Role ID", False)
RECEIVING = Side("ws1", "AETITLES=WS1", "Destination Role ID", False)
PATIENT = "PAT^4711"


class Ward:
    """An archive with one study of today, a workstation, and a router whose rule moves it there and here."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.archive = stack.enter_context(SimulatedPacs("ARCHIVE"))
        self.workstation = stack.enter_context(SimulatedPacs("WS1"))
        study = make_study(seed="audited", study_date=date.today(), instances=3, patient_id=PATIENT)
        self.archive.add(study)
        self.study = str(study[0].StudyInstanceUID)
        self.site = Site(directory / "site", nodes={}, rules={}, router={"drain": "0s"})
        self.archive.set_destination("WS1", self.workstation.host, self.workstation.port)
        self.archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        self.sweep: dict[str, Any] = {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today"}}

    def configure(self, audit: Mapping[str, Any] | None, *to: str) -> None:
        self.site.settings |= {} if audit is None else {"audit": dict(audit)}
        nodes = {"archive": node("ARCHIVE", self.archive.port), "ws1": node("WS1", self.workstation.port)}
        self.site.configure(nodes=nodes, rules={"all": {"sweep": self.sweep, "move": {"to": list(to)}}})

    def run(self) -> RunningRouter:
        return self.stack.enter_context(self.site.run())


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        yield Ward(tmp_path, stack)


def of(heard: list[Heard], *events: str) -> list[Heard]:
    return [one for one in heard if one.event in events]


BEGIN, END = "Begin Transferring DICOM Instances", "DICOM Instances Transferred"


def test_a_study_on_its_way_is_told_step_by_step_over_tls(ward: Ward, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    repository = ward.stack.enter_context(TlsRepository(authority.issue("audit")))
    ward.configure(
        {"to": repository.address, "ca": str(authority.certificate), "site": "St. Elsewhere"}, "ws1", "local"
    )
    with ward.run() as router:
        wait_for(lambda: router.log.count("transfer ended") == 2, "both transfers to end")
        wait_for(lambda: len(of(repository.heard, END)) == 2, "both transfers to be audited")
        assert 'audit_messages_total{result="dropped"} 0.0' in router.metrics()
        wait_for(lambda: "dicom_router_audit_waiting 0.0" in router.metrics(), "nothing to wait any more")
        router.send_signal(signal.SIGTERM)
        assert router.wait() == 0
        log = router.log
    heard = repository.heard
    assert (heard[0].types, heard[-1].types) == (["Application Start"], ["Application Stop"])
    assert heard[1].types == ["Software Configuration"]
    assert {one.outcome for one in heard} == {0}
    assert [one.at for one in heard] == sorted(one.at for one in heard)

    queries = of(heard, "Query")
    assert all(one.sides[0] == ASKING for one in queries)
    first = queries[0]
    assert first.sides == [ASKING, ANSWERING]
    assert first.objects == {"SOP Class UID": "1.2.840.10008.5.1.4.1.2.2.1"}
    asked = dcmread(DicomBytesIO(first.query), force=True)
    assert asked.QueryRetrieveLevel == "STUDY"
    assert date.today().strftime("%Y%m%d") in asked.StudyDate

    moves = of(heard, BEGIN, END)
    assert heard.index(first) < heard.index(moves[0])
    for destination, sides in (
        ("ws1", [SENDING, RECEIVING, OWN]),
        ("ROUTER", [SENDING, OWN._replace(role="Destination Role ID")]),
    ):
        mine = [one for one in moves if one.sides[1].user == destination]
        assert [one.event for one in mine] == [BEGIN, END]
        assert [one.sides for one in mine] == [sides, sides]
        assert {tuple(one.objects.items()) for one in mine} == {
            (("Study Instance UID", ward.study), ("Patient Number", PATIENT))
        }
        assert [one.instances for one in mine] == [None, 3]
    for identifier in (ward.study, PATIENT):
        assert identifier not in log


def test_without_the_key_nothing_is_made(ward: Ward) -> None:
    ward.configure(None, "ws1")
    with ward.run() as router:
        wait_for(lambda: "transfer ended" in router.log, "the transfer to end")
    assert not (ward.site.store / ".audit").exists()


def test_strangers_changes_and_failures_are_told_over_udp(ward: Ward) -> None:
    repository = ward.stack.enter_context(UdpRepository())
    ward.configure({"to": repository.address, "transport": "udp"}, "ws1")
    ward.archive.stop()
    with ward.run() as router:
        wait_for(lambda: of(repository.heard, "Query"), "the query that fails")
        failed = of(repository.heard, "Query")[0]
        assert (failed.outcome, failed.pri) == (8, 84)
        assert "archive" in failed.description
        echoscu(Address("ROUTER", ward.site.dicom_port), calling="STRANGER", check=False)
        wait_for(lambda: "Node Authentication" in repository.text, "the alert")
        request = urllib.request.Request(f"http://127.0.0.1:{ward.site.http_port}/-/reload", method="POST")
        (ward.site.rules_directory / "more.yaml").write_text("nodes: {third: {ae_title: THIRD, address: 127.0.0.1:1}}")
        with contextlib.suppress(OSError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
        wait_for(lambda: repository.text.count("Software Configuration") == 2, "the change")
        (ward.site.rules_directory / "more.yaml").write_text("nodes: {third: {}}")
        wait_for(lambda: repository.text.count("Software Configuration") == 3, "the mistake")
        alerts = {one.types[0]: one for one in of(repository.heard, "Security Alert")}
        kept_out = alerts["Node Authentication"]
        assert kept_out.sides == [OWN, Side("STRANGER", "AETITLES=STRANGER", "", False)]
        assert kept_out.objects == {"Node ID": "127.0.0.1"}
        assert alerts["Software Configuration"].outcome == 4
        assert alerts["Use of Restricted Function"].details["Alert Description"].endswith("as local: reload.")
        assert "STRANGER" in router.log


def test_a_killed_router_has_told_all_that_it_did_once_there_is_somebody_to_tell(ward: Ward) -> None:
    port = free_port()
    ward.configure({"to": f"127.0.0.1:{port}", "transport": "udp"}, "ws1")
    with ward.run() as router:
        wait_for(lambda: "transfer ended" in router.log, "the transfer to end")
        router.send_signal(signal.SIGKILL)
        router.wait()
    waiting = len(list((ward.site.store / ".audit").glob("*.syslog")))
    assert waiting >= 5
    repository = ward.stack.enter_context(UdpRepository(port))
    with ward.run():
        wait_for(lambda: repository.text.count("Application Start") >= 2, "what was left and the new start")
    heard = repository.heard
    starts = [number for number, one in enumerate(heard) if one.types == ["Application Start"]]
    before = heard[: starts[-1]]
    assert [one.event for one in of(before, BEGIN, END)] == [BEGIN, END]
    assert len({one.process for one in before}) == 1
    assert len(before) == waiting


def test_what_a_person_asks_is_told_under_his_name_once_the_service_runs(ward: Ward) -> None:
    repository = ward.stack.enter_context(UdpRepository())
    ward.configure({"to": repository.address, "transport": "udp"}, "ws1")
    ward.site.json("query", "archive", f"PatientID={PATIENT}")
    with ward.run():
        heard = repository.wait(2)
    asked, person = of(heard, "Query")[0], f"{getpass.getuser()}@{platform.node()}"
    assert asked.sides == [ASKING._replace(requestor=False), ANSWERING, Side(person, "", "", True)]
    assert dcmread(DicomBytesIO(asked.query), force=True).PatientID == PATIENT
    assert heard.index(asked) == 0


def test_nothing_is_asked_where_it_cannot_be_audited(ward: Ward) -> None:
    ward.configure({"to": "127.0.0.1:514", "transport": "udp"}, "ws1")
    ward.site.store.write_text("no directory")
    done = ward.site.call("query", "archive", f"PatientID={PATIENT}")
    assert done.returncode == 1
    assert "Audit messages cannot be kept in" in done.stderr
    assert PATIENT not in done.stdout + done.stderr


# what is pushed, asked by `doctor`, exported, refused -----------------------------------------------------------------


def pushed(ward: Ward, directory: Path, count: int) -> tuple[str, list[Path]]:
    """UID and files of a study that the scanner has made."""
    study = make_study(seed="pushed", instances=count, patient_id=PATIENT)
    directory.mkdir()
    files = [directory / f"{number}.dcm" for number in range(count)]
    for one, file in zip(study, files, strict=True):
        one.save_as(file, enforce_file_format=True)
    nodes = {"archive": node("ARCHIVE", ward.archive.port), "ct": node("CT1", free_port(), push="allow")}
    rules = {"all": {"sweep": ward.sweep, "move": {"to": ["local"]}}}
    ward.site.configure(nodes=nodes, rules=rules)
    return str(study[0].StudyInstanceUID), files


CT = "1.2.840.10008.5.1.4.1.1.2"
PUSHING = Side("ct", "AETITLES=CT1", "Source Role ID", True)
TAKING = Side("ROUTER", "AETITLES=ROUTER", "Destination Role ID", False)


def test_what_is_pushed_is_told_once_and_what_a_move_brings_is_not_told_as_pushed(ward: Ward, tmp_path: Path) -> None:
    repository = ward.stack.enter_context(UdpRepository())
    ward.site.settings["audit"] = {"to": repository.address, "transport": "udp"}
    study, files = pushed(ward, tmp_path / "files", 4)
    with ward.run() as router:
        wait_for(lambda: "transfer ended" in router.log, "the move to end")
        own = Address("ROUTER", ward.site.dicom_port)
        store_as_is(own, files[:3], calling="CT1")
        store_as_is(own, files[3:], calling="CT1")
        wait_for(lambda: len(ward.site.stored()) == 7, "all to be stored")
        router.send_signal(signal.SIGTERM)
        assert router.wait() == 0
        wait_for(lambda: "Application Stop" in repository.text, "the end")
        assert study not in router.log
    moved, told = sorted(of(repository.heard, END), key=lambda one: one.sides[0].user)
    assert moved.objects["Study Instance UID"] == ward.study
    assert told.sides == [PUSHING, TAKING]
    assert told.objects == {"Study Instance UID": study, "Patient Number": PATIENT}
    assert (told.action, told.classes) == ("C", {CT: 4})
    assert repository.heard[-1].types == ["Application Stop"]


def test_a_killed_router_leaves_what_was_pushed_to_the_next_one_to_tell(ward: Ward, tmp_path: Path) -> None:
    port = free_port()
    ward.site.settings["audit"] = {"to": f"127.0.0.1:{port}", "transport": "udp"}
    study, files = pushed(ward, tmp_path / "files", 2)
    drafts = ward.site.store / ".audit"
    with ward.run() as router:
        store_as_is(Address("ROUTER", ward.site.dicom_port), files, calling="CT1")
        whole = b'NumberOfInstances="2"'
        wait_for(lambda: any(whole in one.read_bytes() for one in drafts.glob("*.draft")), "the draft to be whole")
        router.send_signal(signal.SIGKILL)
        router.wait()
    repository = ward.stack.enter_context(UdpRepository(port))
    with ward.run():
        wait_for(lambda: study in repository.text, "what was left")
    [told] = [one for one in of(repository.heard, END) if one.objects["Study Instance UID"] == study]
    assert (told.sides, told.classes) == ([PUSHING, TAKING], {CT: 2})


def test_what_doctor_asks_and_what_is_exported_is_told_with_the_person(ward: Ward, tmp_path: Path) -> None:
    repository = ward.stack.enter_context(UdpRepository())
    ward.configure({"to": repository.address, "transport": "udp"}, "local")
    with ward.run() as router:
        wait_for(lambda: "transfer ended" in router.log, "the move to end")
        before = len(of(repository.heard, "Query"))
        ward.site.json("doctor", "archive", "--no-move")
        assert ward.site.call("store", "export", str(tmp_path / "out dir")).returncode == 0
        wait_for(lambda: of(repository.heard, "Export"), "the export")
        heard = repository.heard
    person = Side(f"{getpass.getuser()}@{platform.node()}", "", "", True)
    asked = [one for one in of(heard, "Query")[before:] if person in one.sides]
    assert asked
    assert all(one.sides == [ASKING._replace(requestor=False), ANSWERING, person] for one in asked)
    [export] = of(heard, "Export")
    media = Side((tmp_path / "out dir").as_uri(), "", "Destination Media", False)
    assert export.sides == [OWN._replace(role="Source Role ID", requestor=False), person, media]
    assert export.objects == {"Study Instance UID": ward.study, "Patient Number": PATIENT}
    assert (export.outcome, export.instances) == (0, 3)


def test_nothing_is_exported_where_it_cannot_be_audited(ward: Ward, tmp_path: Path) -> None:
    ward.configure({"to": "127.0.0.1:514", "transport": "udp"}, "ws1")
    ward.site.store.write_text("no directory")
    done = ward.site.call("store", "export", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "Audit messages cannot be kept in" in done.stderr
    assert not (tmp_path / "out").exists()


def test_who_is_refused_over_http_is_told_of_with_how_often_and_without_what_he_asked_for(ward: Ward) -> None:
    repository = ward.stack.enter_context(UdpRepository())
    token = ward.site.directory / "token"
    token.write_text("s3cret-of-the-router-0123456789")
    token.chmod(0o600)
    ward.site.settings["token"] = {"file": str(token)}
    ward.configure({"to": repository.address, "transport": "udp"}, "ws1")
    with ward.run() as router:
        root = f"http://127.0.0.1:{ward.site.http_port}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        asked = (("/-/reload", "GUESS-1"), ("/-/reload", "GUESS-2"), (f"/rules/{PATIENT}/sweep", ""), ("/login", "x"))
        for path, guess in asked:
            body = b"token=GUESS-3" if path == "/login" else b""
            request = urllib.request.Request(root + path, data=body, headers={"authorization": f"Bearer {guess}"})
            with pytest.raises(urllib.error.HTTPError):
                opener.open(request, timeout=30)
        wait_for(lambda: repository.text.count("Use of Restricted Function") >= 1, "the alert")
        assert "somebody was refused over HTTP" in router.log
        log = router.log
    alerts = [one for one in of(repository.heard, "Security Alert") if one.types == ["Use of Restricted Function"]]
    assert {one.outcome for one in alerts} == {4}
    assert alerts[0].sides[1].user == "127.0.0.1"
    said = alerts[0].details["Alert Description"]
    assert said == "Somebody was refused over HTTP: POST /-/reload was answered with 403."
    assert len(alerts) == 1
    for secret in ("GUESS", PATIENT):
        assert secret not in log
        assert secret not in "".join(one.details["Alert Description"] for one in alerts)
