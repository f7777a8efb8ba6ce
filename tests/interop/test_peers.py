"""The peers tests rely on, against each other: what they do here, tests of the router may count on."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.part10 import read_part10
from tests.support.peers import (
    Address,
    Dcmqrscp,
    MoveResponse,
    Orthanc,
    OrthancError,
    Prometheus,
    PrometheusError,
    Storescp,
    check_metrics,
    echoscu,
    findscu,
    movescu,
    store_as_is,
    storescu,
)
from tests.support.ports import free_port, listening
from tests.support.process import Process, run, wait_for
from tests.support.samples import (
    RealFile,
    StudyFiles,
    add_instance,
    add_series,
    dataset_bytes,
    real_files,
    settled_files,
)

SUCCESS, PENDING, CANCEL, WARNING = 0x0000, 0xFF00, 0xFE00, 0xB000
CANNOT_PERFORM, DESTINATION_UNKNOWN, UNABLE_TO_PROCESS = 0xA702, 0xA801, 0xC000

MakeStudy = Callable[..., StudyFiles]


def arrived_unchanged(study: StudyFiles, destination: Storescp) -> bool:
    """Whether the destination holds exactly the study, each data set byte for byte as it was sent."""
    received = destination.wait_for_instances(len(study.instances))
    sent = {study.sop_instance_uids[path]: dataset_bytes(path) for path in study.files}
    return {uid: dataset_bytes(path) for uid, path in received.items()} == sent


# --- Support itself --------------------------------------------------------------------------------------------------


def test_ports_are_free_and_never_given_out_twice() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert not any(listening(port, seconds=0.2) for port in ports)


def test_a_process_that_ends_before_it_is_ready_shows_its_log(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "echo no luck today; exit 3"], tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)ended with 3.*no luck today"):
        process.wait_until_listening(free_port())


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "trap '' TERM; (trap '' TERM; sleep 1000) & echo $!; wait"
    process = Process(["sh", "-c", script], tmp_path)
    wait_for(lambda: process.log.strip(), "the child")
    child = int(process.log)
    assert process.stop(seconds=0.2) == -9
    # Its parent is gone, so somebody else reaps it; until then it may be seen as a zombie.
    wait_for(lambda: "Z" in state(child), "the child's end")


def state(pid: int) -> str:
    """Return the state letter of a process, Z if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


# --- Sample files ----------------------------------------------------------------------------------------------------


def test_the_real_files_cover_what_scans_are_like(samples: tuple[RealFile, ...]) -> None:
    assert len(samples) >= 120
    assert len({sample.sop_instance_uid for sample in samples}) == len(samples)
    assert len({sample.transfer_syntax_uid for sample in samples}) >= 9
    assert sum(sample.compressed for sample in samples) >= 20
    assert {sample.number_of_frames for sample in samples} >= {1, 2, 30}
    assert {"CT", "MR", "US", "CR", "NM", "SR", "ECG", "SEG", "OT"} <= {sample.modality for sample in samples}
    sets = {name for sample in samples for name in sample.specific_character_set}
    assert {"ISO_IR 192", "GB18030", "ISO_IR 127", "ISO 2022 IR 87", "ISO 2022 IR 149"} <= sets
    assert any(not sample.has_pixel_data for sample in samples)
    assert len(real_files(distinct=False)) > len(samples)
    assert len(real_files(deflated=True)) == len(samples) + 1


def test_made_studies_are_what_was_asked_for(study: MakeStudy) -> None:
    made = study(
        modality="MR",
        patient_name="Müller^Jürgen=山田^太郎",
        character_set="ISO_IR 192",
        body_part="HEAD",
        series=2,
        instances=2,
        rows=128,
    )
    more = add_instance(made), *add_series(made, 2)
    assert [len(files) for files in made.series.values()] == [2, 3, 2]
    assert set(more) <= set(made.files)
    assert len(made.instances) == 7
    for path in made.files:
        assert read_part10(path).sop_instance_uid == made.sop_instance_uids[path]
        assert len(dataset_bytes(path)) > 128 * 128 * 2
        assert "yes" in run(["dcmftest", path]).stdout


def test_a_report_has_no_image(study: MakeStudy) -> None:
    report = study(modality="SR", instances=1)
    assert len(dataset_bytes(report.files[0])) < 2000


# --- storescp --------------------------------------------------------------------------------------------------------


def test_storescp_keeps_each_data_set_byte_for_byte(storescp: Storescp, study: MakeStudy) -> None:
    made = study(instances=5)
    storescu(storescp.address, made.files)
    assert arrived_unchanged(made, storescp)
    storescp.clear()
    assert storescp.files() == []


def test_storescp_can_keep_every_copy(start_storescp: Callable[..., Storescp], study: MakeStudy) -> None:
    destination = start_storescp(unique_files=True)
    made = study(instances=2)
    storescu(destination.address, made.files)
    storescu(destination.address, made.files)
    wait_for(lambda: len(destination.files()) == 4, "two copies of each")
    assert set(destination.instances()) == made.instances


def test_storescp_without_further_options_takes_uncompressed_only(
    start_storescp: Callable[..., Storescp], samples: tuple[RealFile, ...]
) -> None:
    destination = start_storescp(options=())
    compressed = next(sample for sample in samples if sample.compressed)
    with pytest.raises(AssertionError, match="did not send all"):
        store_as_is(destination.address, [compressed.path])
    assert destination.instances() == {}


# --- Orthanc ---------------------------------------------------------------------------------------------------------


def test_orthanc_answers_echo_and_counts_what_it_holds(orthanc: Orthanc, study: MakeStudy) -> None:
    echoscu(orthanc.address)
    ct, mr = study(), study(modality="MR", series=2, patient_id="P2")
    orthanc.upload(*ct.files)
    storescu(orthanc.address, mr.files)
    assert orthanc.statistics() == {"patients": 2, "studies": 2, "series": 3, "instances": 9}
    assert set(orthanc.studies()) == {ct.study_instance_uid, mr.study_instance_uid}
    assert orthanc.study_instances(mr.study_instance_uid) == mr.instances
    assert orthanc.study_instances("1.2.3") == set()
    orthanc.delete_instance(ct.sop_instance_uids[ct.files[0]])
    assert orthanc.study_instances(ct.study_instance_uid) == ct.instances - {ct.sop_instance_uids[ct.files[0]]}
    orthanc.delete_study(mr.study_instance_uid)
    assert orthanc.statistics()["instances"] == 2
    orthanc.reset()
    assert orthanc.statistics()["instances"] == 0
    with pytest.raises(OrthancError, match="404"):
        orthanc.get("/studies/none")


def test_orthanc_keeps_and_returns_files_unchanged(orthanc: Orthanc, study: MakeStudy, tmp_path: Path) -> None:
    made = study(instances=1)
    storescu(orthanc.address, made.files)
    (tmp_path / "back.dcm").write_bytes(orthanc.file(made.sop_instance_uids[made.files[0]]))
    assert dataset_bytes(tmp_path / "back.dcm") == dataset_bytes(made.files[0])


def test_orthanc_finds_by_study_attributes(orthanc: Orthanc, study: MakeStudy) -> None:
    orthanc.register("FINDSCU", free_port())
    ct = study(series=2, body_part="CHEST")
    mr = study(modality="MR", description="Head", study_date="20240505")
    orthanc.upload(*ct.files, *mr.files)

    keys = {"StudyInstanceUID": "", "NumberOfStudyRelatedInstances": "", "ModalitiesInStudy": ""}
    by_modality = findscu(orthanc.address, "STUDY", {**keys, "ModalitiesInStudy": "CT"}).matches
    assert [
        (match.StudyInstanceUID, match.ModalitiesInStudy, match.NumberOfStudyRelatedInstances) for match in by_modality
    ] == [(ct.study_instance_uid, "CT", 6)]
    by_date = findscu(orthanc.address, "STUDY", {**keys, "StudyDate": "20240501-20240531"}).matches
    assert [match.StudyInstanceUID for match in by_date] == [mr.study_instance_uid]
    series_keys = {
        "StudyInstanceUID": ct.study_instance_uid,
        "SeriesInstanceUID": "",
        "NumberOfSeriesRelatedInstances": "",
    }
    series = findscu(orthanc.address, "SERIES", series_keys).matches
    assert {match.SeriesInstanceUID: match.NumberOfSeriesRelatedInstances for match in series} == dict.fromkeys(
        ct.series, 3
    )
    # What is computed cannot be matched: asked for as a matching key, it matches nothing.
    assert findscu(orthanc.address, "STUDY", {**keys, "NumberOfStudyRelatedInstances": "6"}).matches == []
    # Unlike names, descriptions are compared by case.
    assert len(findscu(orthanc.address, "STUDY", {**keys, "StudyDescription": "thorax*"}).matches) == 0
    assert len(findscu(orthanc.address, "STUDY", {**keys, "StudyDescription": "Thorax*"}).matches) == 1


def test_orthanc_accepts_many_queries_on_one_association(orthanc: Orthanc) -> None:
    orthanc.register("FINDSCU", free_port())
    output = findscu(orthanc.address, "STUDY", {"StudyInstanceUID": ""}, "--repeat", "3").output
    assert output.count("Association Accepted") == 1
    assert output.count("Final Find Response (Success)") == 3


def test_orthanc_signals_a_cap_with_cancel(start_orthanc: Callable[..., Orthanc], study: MakeStudy) -> None:
    orthanc = start_orthanc(LimitFindResults=2, modalities={"FINDSCU": free_port()})
    for _ in range(3):
        orthanc.upload(*study(instances=1).files)
    found = findscu(orthanc.address, "STUDY", {"StudyInstanceUID": ""})
    assert len(found.matches) == 2
    assert "Final Find Response (Cancel" in found.output


def test_orthanc_aborts_when_a_stranger_queries(orthanc: Orthanc) -> None:
    with pytest.raises(AssertionError, match=r"(?s)Association Accepted.*Peer aborted Association"):
        findscu(orthanc.address, "STUDY", {"StudyInstanceUID": ""}, calling="STRANGER")


def test_orthanc_moves_a_study_and_reports_each_sub_operation(
    orthanc: Orthanc, storescp: Storescp, study: MakeStudy
) -> None:
    made = study(series=2, instances=2)
    orthanc.upload(*made.files)
    orthanc.register("MOVESCU", free_port())
    orthanc.register("STORESCP", storescp.port)
    moved = movescu(orthanc.address, "STORESCP", "STUDY", {"StudyInstanceUID": made.study_instance_uid})
    # The last sub-operation is reported by the final response only.
    assert moved.responses == [
        MoveResponse(PENDING, 3, 1, 0, 0),
        MoveResponse(PENDING, 2, 2, 0, 0),
        MoveResponse(PENDING, 1, 3, 0, 0),
        MoveResponse(SUCCESS, None, 4, 0, 0),
    ]
    assert arrived_unchanged(made, storescp)


def test_orthanc_moves_at_series_and_image_level(orthanc: Orthanc, storescp: Storescp, study: MakeStudy) -> None:
    made = study(series=2, instances=3)
    first, second = made.series
    orthanc.upload(*made.files)
    orthanc.register("MOVESCU", free_port())
    orthanc.register("STORESCP", storescp.port)
    keys = {"StudyInstanceUID": made.study_instance_uid, "SeriesInstanceUID": first}
    assert movescu(orthanc.address, "STORESCP", "SERIES", keys).status == SUCCESS
    assert set(storescp.instances()) == {made.sop_instance_uids[path] for path in made.series[first]}
    storescp.clear()
    wanted = [made.sop_instance_uids[path] for path in made.series[second][:2]]
    keys = {**keys, "SeriesInstanceUID": second, "SOPInstanceUID": "\\".join(wanted)}
    assert movescu(orthanc.address, "STORESCP", "IMAGE", keys).status == SUCCESS
    assert set(storescp.instances()) == set(wanted)


def test_orthanc_calls_every_failure_of_a_move_unable_to_process(orthanc: Orthanc, study: MakeStudy) -> None:
    made = study()
    orthanc.upload(*made.files)
    orthanc.register("MOVESCU", free_port())
    orthanc.register("DEAD", free_port())
    keys = {"StudyInstanceUID": made.study_instance_uid}
    failure = [MoveResponse(UNABLE_TO_PROCESS, None, 0, 0, 0)]
    assert movescu(orthanc.address, "UNKNOWN", "STUDY", keys).responses == failure
    assert movescu(orthanc.address, "DEAD", "STUDY", keys).responses == failure
    assert movescu(orthanc.address, "DEAD", "STUDY", {"StudyInstanceUID": "1.2.3"}).responses == failure


def test_orthanc_sends_settled_files_of_all_kinds_unchanged(
    orthanc: Orthanc, start_storescp: Callable[..., Storescp], tmp_path: Path
) -> None:
    files = settled_files(tmp_path)
    destination = start_storescp(environment={"TCP_NODELAY": "1"})
    orthanc.upload(*(file.path for file in files))
    orthanc.register("MOVESCU", free_port())
    orthanc.register("STORESCP", destination.port)
    moved = movescu(
        orthanc.address, "STORESCP", "STUDY", {"StudyInstanceUID": "\\".join(orthanc.studies())}, seconds=100
    )
    assert moved.responses[-1] == MoveResponse(SUCCESS, None, len(files), 0, 0)
    received = destination.instances()
    changed = [file for file in files if dataset_bytes(received[file.sop_instance_uid]) != dataset_bytes(file.path)]
    assert changed == []


# --- dcmqrscp --------------------------------------------------------------------------------------------------------


def test_dcmqrscp_moves_what_was_stored_or_loaded(
    start_dcmqrscp: Callable[..., Dcmqrscp], storescp: Storescp, study: MakeStudy
) -> None:
    archive = start_dcmqrscp(destinations={"STORESCP": storescp.port})
    echoscu(archive.address)
    stored, loaded = study(instances=2), study(modality="MR", instances=2)
    storescu(archive.address, stored.files)
    archive.load(loaded.files)
    for made in (stored, loaded):
        keys = {"StudyInstanceUID": made.study_instance_uid}
        assert movescu(archive.address, "STORESCP", "STUDY", keys).responses == [
            MoveResponse(PENDING, 1, 1, 0, 0),
            MoveResponse(PENDING, 0, 2, 0, 0),
            MoveResponse(SUCCESS, None, 2, 0, 0),
        ]
        assert arrived_unchanged(made, storescp)
        storescp.clear()


def test_dcmqrscp_knows_few_attributes_and_ignores_the_others(
    start_dcmqrscp: Callable[..., Dcmqrscp], study: MakeStudy
) -> None:
    archive = start_dcmqrscp()
    ct, mr = study(), study(modality="MR", description="Head", study_date="20240505")
    archive.load([*ct.files, *mr.files])
    keys = {
        "StudyInstanceUID": "",
        "ModalitiesInStudy": "CT",
        "NumberOfStudyRelatedInstances": "",
        "StudyDescription": "",
    }
    found = findscu(archive.address, "STUDY", keys)
    # Keys it does not support are neither matched nor returned.
    assert {match.StudyInstanceUID for match in found.matches} == {ct.study_instance_uid, mr.study_instance_uid}
    assert all("ModalitiesInStudy" not in match for match in found.matches)
    assert all("NumberOfStudyRelatedInstances" not in match for match in found.matches)
    by_date = findscu(archive.address, "STUDY", {"StudyInstanceUID": "", "StudyDate": "20240501-20240531"}).matches
    assert [match.StudyInstanceUID for match in by_date] == [mr.study_instance_uid]
    images = findscu(
        archive.address,
        "IMAGE",
        {"StudyInstanceUID": ct.study_instance_uid, "SeriesInstanceUID": next(iter(ct.series)), "SOPInstanceUID": ""},
    ).matches
    assert {match.SOPInstanceUID for match in images} == ct.instances


def test_dcmqrscp_accepts_many_queries_on_one_association(start_dcmqrscp: Callable[..., Dcmqrscp]) -> None:
    output = findscu(start_dcmqrscp().address, "STUDY", {"StudyInstanceUID": ""}, "--repeat", "3").output
    assert output.count("Association Accepted") == 1
    assert output.count("Final Find Response (Success)") == 3


def test_dcmqrscp_tells_failures_of_a_move_apart(start_dcmqrscp: Callable[..., Dcmqrscp], study: MakeStudy) -> None:
    archive = start_dcmqrscp(destinations={"DEAD": free_port()})
    made = study()
    archive.load(made.files)
    keys = {"StudyInstanceUID": made.study_instance_uid}
    assert movescu(archive.address, "UNKNOWN", "STUDY", keys).status == DESTINATION_UNKNOWN
    dead = movescu(archive.address, "DEAD", "STUDY", keys)
    assert dead.responses == [MoveResponse(CANNOT_PERFORM, None, 0, 3, 0)]
    assert all(uid in dead.output.split("FailedSOPInstanceUIDList")[0] for uid in made.instances)
    nothing = movescu(archive.address, "DEAD", "STUDY", {"StudyInstanceUID": "1.2.3"})
    assert nothing.responses == [MoveResponse(SUCCESS, None, 0, 0, 0)]


def test_dcmqrscp_fails_the_compressed_instances_of_a_move(
    start_dcmqrscp: Callable[..., Dcmqrscp], storescp: Storescp, samples: tuple[RealFile, ...]
) -> None:
    archive = start_dcmqrscp(destinations={"STORESCP": storescp.port})
    mixed = {sample.study_instance_uid for sample in samples if sample.compressed} & {
        sample.study_instance_uid for sample in samples if not sample.compressed
    }
    study_instance_uid = min(mixed)
    of_study = [sample for sample in samples if sample.study_instance_uid == study_instance_uid]
    archive.load(sample.path for sample in of_study)
    moved = movescu(archive.address, "STORESCP", "STUDY", {"StudyInstanceUID": study_instance_uid})
    compressed = sum(sample.compressed for sample in of_study)
    assert moved.responses[-1] == MoveResponse(WARNING, None, len(of_study) - compressed, compressed, 0)


def test_dcmqrscp_rejects_another_called_ae_title(start_dcmqrscp: Callable[..., Dcmqrscp]) -> None:
    with pytest.raises(AssertionError, match="Called AE Title Not Recognized"):
        findscu(Address("OTHER", start_dcmqrscp().port), "STUDY", {"StudyInstanceUID": ""})


# --- Prometheus ------------------------------------------------------------------------------------------------------

EXPOSITION = """\
# HELP sample_total Things counted.
# TYPE sample_total counter
sample_total{kind="a"} 3
sample_total{kind="b"} 4
"""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(EXPOSITION.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def target() -> Iterator[int]:
    """The port of a small HTTP server with metrics."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(10)


def test_prometheus_scrapes_and_answers_queries(start_prometheus: Callable[..., Prometheus], target: int) -> None:
    prometheus = start_prometheus(targets={"sample": target, "dead": free_port()})
    prometheus.wait_until_up("sample")
    prometheus.wait_for_value("sum(sample_total)", 7)
    wait_for(  # after a late scrape there is nothing
        lambda: (
            {sample.labels["kind"]: sample.value for sample in prometheus.query("sample_total")} == {"a": 3, "b": 4}
        ),
        "both kinds",
    )
    assert prometheus.value("absent_metric") is None
    assert prometheus.value("2 + 3") == 5
    wait_for(lambda: any(item["lastError"] for item in prometheus.targets()), "the failed scrape")
    with pytest.raises(PrometheusError, match="parse error"):
        prometheus.query("sum(")


def test_promtool_judges_metrics() -> None:
    assert check_metrics(EXPOSITION) == ""
    assert "no help text" in check_metrics("# TYPE x counter\nx 1\n")
