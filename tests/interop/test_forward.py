"""What is in the store is passed on to real destinations: byte for byte, or with a reason instance by instance."""

from __future__ import annotations

import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from router.domain.rule import LOCAL
from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from router.simulator import Behaviour, SimulatedPacs
from tests.support.part10 import dataset_bytes
from tests.support.peers import Orthanc, Storescp
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import Site, node
from tests.support.samples import RealFile, make_study, real_files, settled_files
from tests.support.stocked import Stock, ended, forwards, passes_on, refused

SECONDS = 120.0
NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
CT_ONLY = """
[[TransferSyntaxes]]
[Any]
TransferSyntax1 = LocalEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[Some]
PresentationContext1 = VerificationSOPClass\\Any
PresentationContext2 = CTImageStorage\\Any
[[Profiles]]
[Only]
PresentationContexts = Some
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", nodes={}, rules={})


def run_to_the_end(site: Site) -> None:
    with site.run() as router:
        wait_for(lambda: ended(site), "all verdicts", SECONDS)
        assert router.stop() == 0


def by_uid(files: list[RealFile] | tuple[RealFile, ...]) -> dict[str, RealFile]:
    return {file.sop_instance_uid: file for file in files}


def test_all_of_pydicoms_files_reach_storescp_byte_for_byte(site: Site, storescp: Storescp) -> None:
    site.configure(nodes={"ws": node(storescp.ae_title, storescp.port)}, rules={"on": passes_on("ws")})
    files = by_uid(real_files())  # this router takes nothing deflated, so there is nothing to pass on
    stock = Stock(site)
    stock.queue(stock.add(file.path for file in files.values()), "ws")
    run_to_the_end(site)
    arrived = storescp.instances()
    assert {one.state for one in forwards(site)} == {State.UNPROVEN}, "nobody can be asked there"
    assert arrived.keys() == files.keys()
    for uid, path in arrived.items():
        assert dataset_bytes(path) == dataset_bytes(files[uid].path), files[uid].path.name


def test_all_of_pydicoms_files_reach_orthanc_and_are_proven(site: Site, orthanc: Orthanc, tmp_path: Path) -> None:
    (tmp_path / "settled").mkdir()
    files = by_uid(settled_files(tmp_path / "settled"))
    site.configure(nodes={"ws": node(orthanc.ae_title, orthanc.dicom_port)}, rules={"on": passes_on("ws")})
    orthanc.register("ROUTER", site.dicom_port)
    stock = Stock(site)
    stock.queue(stock.add(file.path for file in files.values()), "ws")
    run_to_the_end(site)
    known = orthanc.instances()
    transfers = forwards(site)
    reasons = refused(site, [one for one in transfers if one.state is not State.COMPLETE])
    assert known.keys() | reasons.keys() == files.keys()
    assert not known.keys() & reasons.keys()
    assert all(reasons.values())
    assert len(known) > 0.9 * len(files)
    for uid in known:
        there = tmp_path / "there.dcm"
        there.write_bytes(orthanc.file(uid))
        assert dataset_bytes(there) == dataset_bytes(files[uid].path), files[uid].path.name
    for one in transfers:
        with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
            expected = {instance.sop_instance_uid for instance in ledger.expected_instances(one.id) or ()}
        assert (one.state is State.COMPLETE) == (expected <= known.keys()), one.reason


def test_what_a_destination_takes_only_uncompressed_has_its_reason_and_the_rest_goes(
    site: Site, start_storescp: Callable[..., Storescp]
) -> None:
    plain = start_storescp(ae_title="PLAIN", options=("--fork",))
    site.configure(nodes={"ws": node("PLAIN", plain.port)}, rules={"on": passes_on("ws")})
    files = by_uid(real_files())
    stock = Stock(site)
    stock.queue(stock.add(file.path for file in files.values()), "ws")
    run_to_the_end(site)
    native = {uid for uid, file in files.items() if file.transfer_syntax_uid in NATIVE}
    assert plain.instances().keys() == native
    for uid, path in plain.instances().items():
        assert dataset_bytes(path) == dataset_bytes(files[uid].path)
    transfers = forwards(site)
    reasons = refused(site, transfers)
    assert reasons == dict.fromkeys(files.keys() - native, "it does not take the transfer syntax of the instance")
    assert {one.state for one in transfers} == {State.UNPROVEN, State.PARTIAL, State.FAILED}
    for one in transfers:
        said = "not: it does not take the transfer syntax of the instance" in one.reason
        assert said == (one.state is not State.UNPROVEN), one.reason
    failed = next(one for one in transfers if one.state is State.FAILED)
    shown = site.call("transfers", "show", str(failed.id)).stdout
    assert "not taken by ws: it does not take the transfer syntax of the instance" in shown
    rows = site.json("transfers", "show", str(failed.id))["refused"]
    assert {row["sop_instance_uid"]: row["reason"] for row in rows} == refused(site, [failed])


def test_decompressed_is_what_a_destination_does_not_take_as_it_came(
    site: Site, start_storescp: Callable[..., Storescp]
) -> None:
    plain = start_storescp(ae_title="PLAIN", options=("--fork",))
    rule = passes_on("ws", transfer_syntax="explicit")
    site.configure(nodes={"ws": node("PLAIN", plain.port)}, rules={"on": rule})
    files = by_uid([*real_files(), *(one for one in real_files(distinct=False) if one.path.name == "MR_small_RLE.dcm")])
    stock = Stock(site)
    stock.queue(stock.add(file.path for file in files.values()), "ws")
    run_to_the_end(site)
    decodable = {uid for uid, file in files.items() if file.compressed and _decodable(file)}
    native = {uid for uid, file in files.items() if not file.compressed}
    arrived = plain.instances()
    assert len(decodable) >= 2
    assert native <= arrived.keys() <= native | decodable
    for uid in native:
        assert dataset_bytes(arrived[uid]) == dataset_bytes(files[uid].path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for uid in decodable & arrived.keys():
            was, is_now = dcmread(files[uid].path), dcmread(arrived[uid])
            assert is_now.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
            frame = is_now.Rows * is_now.Columns * is_now.SamplesPerPixel * is_now.BitsAllocated // 8
            assert len(is_now.PixelData) == (frame * int(was.get("NumberOfFrames") or 1) + 1) // 2 * 2
    words = "it does not take the transfer syntax, and it could not be decompressed here"
    reasons = refused(site, forwards(site))
    assert reasons == dict.fromkeys(files.keys() - arrived.keys(), words)
    assert not list((site.store / ".forward").iterdir())


def _decodable(file: RealFile) -> bool:
    return file.has_pixel_data and bool(get_decoder(UID(file.transfer_syntax_uid)).is_available)


def test_a_class_that_a_destination_refuses_has_its_reason_and_the_rest_of_the_study_goes(
    site: Site, start_storescp: Callable[..., Storescp], tmp_path: Path
) -> None:
    (tmp_path / "ct.cfg").write_text(CT_ONLY)
    only = start_storescp(ae_title="ONLY", options=("--fork", "-xf", str(tmp_path / "ct.cfg"), "Only"))
    site.configure(nodes={"ws": node("ONLY", only.port)}, rules={"on": passes_on("ws")})
    root = "2.25.4711"
    ct = make_study(tmp_path / "ct", instances=5, uid_root=root)
    sr = make_study(tmp_path / "sr", modality="SR", instances=2, uid_root=f"{root}.99")
    reports = []
    for number, path in enumerate(sr.files):  # of the same study
        data_set = dcmread(path)
        data_set.StudyInstanceUID = root
        data_set.save_as(tmp_path / f"sr-{number}.dcm")
        reports.append(tmp_path / f"sr-{number}.dcm")
    stock = Stock(site)
    stock.queue(stock.add([*ct.files, *reports]), "ws")
    run_to_the_end(site)
    [transfer] = forwards(site)
    assert (transfer.state, transfer.completed, transfer.failed) == (State.PARTIAL, 5, 2)
    assert only.instances().keys() == ct.instances
    assert refused(site, [transfer]) == dict.fromkeys(sr.instances, "it takes no instances of the SOP class")


def test_a_destination_that_is_stopped_keeps_its_work_until_it_is_back_and_holds_up_no_other(
    site: Site, start_storescp: Callable[..., Storescp], start_orthanc: Callable[..., Orthanc], tmp_path: Path
) -> None:
    port = free_port()
    other = start_orthanc(modalities={"ROUTER": site.dicom_port})
    breaker = {"failures": 2, "pause": "1s", "maximum_pause": "1s"}
    site.configure(
        nodes={"ws": node("WS", port, breaker=breaker), "archive": node(other.ae_title, other.dicom_port)},
        rules={"on": passes_on("ws", "archive")},
    )
    studies = [make_study(tmp_path / "studies", instances=3) for _ in range(30)]
    stock = Stock(site)
    stock.queue(stock.add(path for one in studies for path in one.files), "ws", "archive")
    wanted = {uid: dataset_bytes(path) for one in studies for path, uid in one.sop_instance_uids.items()}

    def states(destination: str) -> set[State]:
        return {one.state for one in forwards(site) if one.intent.destination == destination}

    with site.run() as router:
        wait_for(lambda: states("archive") == {State.COMPLETE}, "what the other gets", SECONDS)
        wait_for(lambda: _open_breakers(router.metrics()), "the breaker")
        waiting = [one for one in forwards(site) if one.intent.destination == "ws"]
        assert {one.state for one in waiting} == {State.QUEUED}
        assert {one.attempts for one in waiting} == {0}
        start_storescp(ae_title="WS", port=port)
        wait_for(lambda: ended(site), "all verdicts", SECONDS)
    assert states("ws") == {State.UNPROVEN}
    received = next((tmp_path / "storescp").rglob("received"))
    assert sorted(dataset_bytes(path) for path in received.iterdir()) == sorted(wanted.values())


def _open_breakers(metrics: str) -> bool:
    return any(
        line.startswith("dicom_router_breaker_open") and line.endswith((" 1", " 1.0")) and 'node="ws"' in line
        for line in metrics.splitlines()
    )


def test_a_router_killed_in_the_middle_looks_first_and_sends_nothing_that_is_there(site: Site, tmp_path: Path) -> None:
    study = make_study(tmp_path / "studies", instances=120)
    with SimulatedPacs("ARCHIVE", behaviour=Behaviour(response_delay_seconds=0.1)) as pacs:
        site.configure(nodes={"archive": node("ARCHIVE", pacs.port)}, rules={"on": passes_on("archive")})
        stock = Stock(site)
        stock.queue(stock.add(study.files), "archive")
        with site.run() as router:
            wait_for(lambda: len(pacs.stored) >= 30, "some instances", SECONDS)
            os.kill(router.pid, signal.SIGKILL)
            router.wait()
        there = len(pacs.stored)
        assert there < 120
        pacs.behaviour = replace(pacs.behaviour, response_delay_seconds=0.0)
        run_to_the_end(site)
        stored = Counter(str(one.sop_instance) for one in pacs.stored)
    assert stored.keys() == study.instances
    assert sum(stored.values()) - len(stored) <= 1, "at most what was under way goes twice"
    [transfer] = forwards(site)
    assert (transfer.state, transfer.completed, transfer.attempts) == (State.COMPLETE, 120, 2)
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        steps = [(one.step, one.happening) for one in ledger.attempts(transfer.id)]
    assert steps[0] == ("move", "lease_lost")
    assert steps[1][0] == "verify", "verified first"
    assert transfer.intent.source == LOCAL
