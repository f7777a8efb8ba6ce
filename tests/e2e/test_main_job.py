"""The main job with real archives: a rule moves what it selects, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import Dcmqrscp, Orthanc, Prometheus, Storescp, check_metrics
from tests.support.process import wait_for
from tests.support.router import Site, node
from tests.support.samples import add_instance, dataset_bytes, make_study, settled_files

CHEST_CT: dict[str, Any] = {
    "sweep": {
        "source": "archive",
        "every": "1h",
        "keys": {"StudyDate": "20240101..20240131", "ModalitiesInStudy": "CT"},
    },
    "where": {"StudyDescription": {"matches": "(?i)chest|thorax"}},
    "move": {"to": ["workstation", "local"]},
}


class Hospital:
    """An archive with studies, a workstation, and the router between them."""

    def __init__(self, directory: Path, archive: Orthanc | Dcmqrscp, workstation: Storescp, site: Site) -> None:
        self.archive = archive
        self.workstation = workstation
        self.site = site
        files = directory / "studies"
        self.chest = make_study(files, modality="CT", description="CT Thorax", patient_id="SECRET-ID-1", series=2)
        self.second = make_study(
            files, modality="CT", description="Chest CT low dose", accession="SECRETACC", instances=5
        )
        self.abdomen = make_study(files, modality="CT", description="CT Abdomen")
        self.magnetic = make_study(files, modality="MR", description="MR Thorax")
        self.old = make_study(files, modality="CT", description="CT Thorax", study_date="20231130")
        for study in (self.chest, self.second, self.abdomen, self.magnetic, self.old):
            self.load(*study.files)

    @property
    def wanted(self) -> dict[str, bytes]:
        """{SOP Instance UID: data set} of what the rule selects."""
        return {
            uid: dataset_bytes(path)
            for study in (self.chest, self.second)
            for path, uid in study.sop_instance_uids.items()
        }

    def load(self, *files: Path) -> None:
        if isinstance(self.archive, Orthanc):
            self.archive.upload(*files)
        else:
            self.archive.load(files)

    def arrived(self) -> dict[str, bytes]:
        return {uid: dataset_bytes(path) for uid, path in self.workstation.instances().items()}

    def kept(self) -> dict[str, bytes]:
        return {uid: dataset_bytes(path) for uid, path in self.site.stored().items()}


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def hospital(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    start_orthanc: Callable[..., Orthanc],
    start_dcmqrscp: Callable[..., Dcmqrscp],
    storescp: Storescp,
) -> Hospital:
    site = Site(tmp_path / "site", nodes={}, rules={})
    known = {storescp.ae_title: storescp.port, "ROUTER": site.dicom_port}
    archive: Orthanc | Dcmqrscp
    if request.param == "orthanc":
        archive = start_orthanc(modalities=known)
        port = archive.dicom_port
    else:
        archive = start_dcmqrscp(destinations=known)
        port = archive.port
    site.configure(
        nodes={
            "archive": node(archive.ae_title, port, limits={"associations": 2}),
            "workstation": node(storescp.ae_title, storescp.port),
        },
        rules={"chest-ct": CHEST_CT},
    )
    return Hospital(tmp_path, archive, storescp, site)


def test_what_the_rule_selects_arrives_byte_for_byte_and_nothing_else(hospital: Hospital) -> None:
    plan = hospital.site.json("plan")
    assert sum(one["decision"] == "move" for one in plan["transfers"]) == 4
    assert hospital.arrived() == {}, "a plan moves nothing"

    done = hospital.site.apply()
    assert [sweep["complete"] for sweep in done["sweeps"]] == [True]
    assert hospital.arrived() == hospital.wanted
    assert hospital.kept() == hospital.wanted
    verdicts = {(one["destination"], one["verdict"]) for one in done["transfers"]}
    assert verdicts == {("local", "complete"), ("workstation", "unproven")}
    assert {one["status"] for one in done["transfers"]} == {"0x0000"}
    assert sum(one["completed"] for one in done["transfers"]) == 2 * len(hospital.wanted)

    hospital.workstation.clear()
    again = hospital.site.apply()
    assert again["transfers"] == []
    assert hospital.arrived() == {}, "nothing is moved twice"

    late = add_instance(hospital.chest)
    hospital.load(late)
    grown = hospital.site.apply()
    assert {one["study_instance_uid"] for one in grown["transfers"]} == {hospital.chest.study_instance_uid}
    assert {one["expected"] for one in grown["transfers"]} == {7}
    assert list(hospital.arrived()) == [hospital.chest.sop_instance_uids[late]], "the new instance only"
    assert hospital.kept() == hospital.wanted


def test_a_service_is_used_if_one_runs_and_prometheus_counts_what_arrived(
    hospital: Hospital, start_prometheus: Callable[..., Prometheus]
) -> None:
    with hospital.site.run() as router:
        prometheus = start_prometheus(targets={"dicom-router": hospital.site.http_port})
        prometheus.wait_until_up("dicom-router")
        hospital.site.apply(code=0)
        expected = 2 * len(hospital.wanted)
        assert len(hospital.arrived()) + len(hospital.kept()) == expected
        prometheus.wait_for_value('sum(dicom_router_move_suboperations_total{outcome="completed"})', expected)
        prometheus.wait_for_value('sum(dicom_router_store_instances_total{status="0x0000"})', expected / 2)
        prometheus.wait_for_value('sum(dicom_router_transfers{state="complete"})', 2)
        prometheus.wait_for_value("sum(dicom_router_move_suboperations_remaining)", 0)
        prometheus.wait_for_value("dicom_router_sweep_complete", 1)
        exposition = router.metrics()
        assert check_metrics(exposition) == ""
        assert router.get("/healthz")
        assert router.stop() == 0
    for secret in ("SECRET", "Doe", hospital.chest.study_instance_uid, hospital.second.study_instance_uid, "2.25."):
        assert secret not in router.log, "no identifier in a log line"
        assert secret not in exposition, "no identifier in a label"


def test_the_schedule_sweeps_without_being_asked(hospital: Hospital) -> None:
    rule = {**CHEST_CT, "sweep": {**CHEST_CT["sweep"], "every": "2s"}}
    hospital.site.configure(
        nodes={
            "archive": node(hospital.archive.ae_title, hospital.archive.address.port),
            "workstation": node(hospital.workstation.ae_title, hospital.workstation.port),
        },
        rules={"chest-ct": rule},
    )
    with hospital.site.run() as router:
        wait_for(lambda: hospital.arrived() == hospital.wanted, "what the rule selects")
        wait_for(lambda: hospital.kept() == hospital.wanted, "what the rule selects, here")
        hospital.load(add_instance(hospital.second))
        wait_for(lambda: hospital.arrived() == hospital.wanted, "the late instance")
        assert router.stop() == 0


def test_real_scans_pass_through_unchanged(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], storescp: Storescp
) -> None:
    """pydicom's test files: compressed, multi-frame, odd character sets; as DCMTK and Orthanc send them."""
    site = Site(tmp_path / "site", nodes={}, rules={})
    archive = start_orthanc(modalities={storescp.ae_title: storescp.port, "ROUTER": site.dicom_port})
    files = settled_files(tmp_path / "settled") if (tmp_path / "settled").mkdir() is None else []
    archive.upload(*(file.path for file in files))
    site.configure(
        nodes={"archive": node("ORTHANC", archive.dicom_port, limits={"associations": 2})},
        rules={
            "everything": {
                "sweep": {
                    "source": "archive",
                    "every": "1h",
                    "keys": {"PatientID": "*", "StudyDate": "19000101..today"},
                },
                "move": {"to": ["local"]},
            }
        },
    )
    study_dates = {row["StudyInstanceUID"]: row["StudyDate"] for row in site.json("query", "archive")["matches"]}
    site.apply(code=None)
    kept = {uid: dataset_bytes(path) for uid, path in site.stored().items()}
    dated = [file for file in files if study_dates.get(file.study_instance_uid)]
    assert len(dated) >= 80
    for file in dated:
        assert kept.get(file.sop_instance_uid) == dataset_bytes(file.path), file.path.name
    verdicts = {
        one["study_instance_uid"]: one["verdict"]
        for one in site.json("transfers", "list", "--limit", "1000")["transfers"]
    }
    assert {verdicts[file.study_instance_uid] for file in dated} == {"complete"}
