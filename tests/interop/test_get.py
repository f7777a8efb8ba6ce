"""C-GET from real archives that cannot, or need not, connect back: the same bytes as by C-MOVE, and proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.peers import Dcmqrscp, Orthanc
from tests.support.process import wait_for
from tests.support.router import Site, node
from tests.support.samples import StudyFiles, dataset_bytes, settled_files

EVERYONE = {"DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True}
"""Orthanc's settings for callers it has no entry for."""

MakeStudy = Callable[..., StudyFiles]


def rule(via: str | None = "get", **keys: Any) -> dict[str, Any]:
    move = {"to": ["local"], **({"via": via} if via else {}), "retry": {"attempts": 1}}
    return {"sweep": {"source": "archive", "every": "1h", "keys": keys or {"PatientID": "*-*"}}, "move": move}


def kept(site: Site) -> dict[str, bytes]:
    return {uid: dataset_bytes(path) for uid, path in site.stored().items()}


def states(site: Site) -> list[str]:
    return [one["state"] for one in site.json("transfers", "list")["transfers"]]


def originals(*studies: StudyFiles) -> dict[str, bytes]:
    return {uid: dataset_bytes(path) for study in studies for path, uid in study.sop_instance_uids.items()}


def test_a_study_comes_from_an_orthanc_that_has_no_entry_for_us(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], study: MakeStudy
) -> None:
    archive = start_orthanc(**EVERYONE)
    made = [study(series=2, instances=3), study(modality="MR", patient_id="TEST-2"), study(modality="SR", instances=1)]
    archive.upload(*(file for one in made for file in one.files))
    assert archive.get("/modalities") == []
    source = node("ORTHANC", archive.dicom_port, move={"via": "get"})
    site = Site(tmp_path / "site", nodes={"archive": source}, rules={"all": rule(None, PatientID="TEST*")})
    done = site.apply()
    assert [one["verdict"] for one in done["transfers"]] == ["complete"] * 3
    assert sum(one["completed"] for one in done["transfers"]) == sum(len(one.instances) for one in made)
    assert kept(site) == originals(*made)

    by_move = Site(tmp_path / "by_move", nodes={"archive": source}, rules={"all": rule("move", PatientID="TEST*")})
    archive.register("ROUTER", by_move.dicom_port)
    by_move.apply()
    assert kept(by_move) == kept(site)

    # Nothing is moved twice, and what a person takes out of the store comes again, alone.
    assert site.apply()["transfers"] == []
    next(iter(site.stored().values())).unlink()
    ids = [str(one["id"]) for one in site.json("transfers", "list")["transfers"]]
    assert site.call("transfers", "retry", *ids).returncode == 0
    site.apply()
    assert kept(site) == originals(*made)


def test_instances_of_all_kinds_come_in_the_encoding_they_are_stored_in(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc]
) -> None:
    archive = start_orthanc(**EVERYONE)
    directory = tmp_path / "files"
    directory.mkdir()
    files = settled_files(directory)
    archive.upload(*(file.path for file in files))
    source = node("ORTHANC", archive.dicom_port, limits={"associations": 4})
    site = Site(
        tmp_path / "site",
        nodes={"archive": source},
        rules={"all": rule(StudyInstanceUID=sorted({file.study_instance_uid for file in files}))},
    )
    done = site.apply(code=None)
    received = kept(site)
    sent = {file.sop_instance_uid: dataset_bytes(file.path) for file in files}
    assert {uid for uid in sent if received.get(uid) != sent[uid]} == set()
    assert {one["verdict"] for one in done["transfers"]} == {"complete"}


def test_a_study_comes_from_dcmqrscp(tmp_path: Path, start_dcmqrscp: Callable[..., Dcmqrscp], study: MakeStudy) -> None:
    archive = start_dcmqrscp()  # no destination is known to it
    made = [study(series=2, instances=3), study(modality="MR", patient_id="TEST-2")]
    archive.load([file for one in made for file in one.files])
    site = Site(
        tmp_path / "site",
        nodes={"archive": node("DCMQRSCP", archive.port)},
        rules={"all": rule(PatientID="TEST*")},
    )
    done = site.apply()
    assert [one["verdict"] for one in done["transfers"]] == ["complete"] * 2
    assert kept(site) == originals(*made)


def test_an_archive_that_offers_no_c_get_is_said_to(
    tmp_path: Path, start_dcmqrscp: Callable[..., Dcmqrscp], study: MakeStudy
) -> None:
    archive = start_dcmqrscp(options=["--disable-get"])
    archive.load(study().files)
    site = Site(
        tmp_path / "site",
        nodes={"archive": node("DCMQRSCP", archive.port)},
        rules={"all": rule(PatientID="TEST*")},
    )
    (transfer,) = site.apply(code=1)["transfers"]
    assert "archive (DCMQRSCP at 127.0.0.1" in transfer["reason"]
    assert "accepts no C-GET from this router" in transfer["reason"]


def test_a_running_router_counts_what_comes_by_c_get(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], study: MakeStudy
) -> None:
    archive = start_orthanc(**EVERYONE)
    made = study(instances=5)
    archive.upload(*made.files)
    site = Site(
        tmp_path / "site",
        nodes={"archive": node("ORTHANC", archive.dicom_port)},
        rules={"all": rule(PatientID="TEST*")},
    )
    with site.run() as router:
        # Every schedule is due at the start.
        wait_for(lambda: states(site) == ["complete"], "the study")
        metrics = router.metrics()
    assert 'dicom_router_store_instances_total{calling="archive",status="0x0000"} 5.0' in metrics
    assert (
        'dicom_router_move_suboperations_total{destination="local",outcome="completed",rule="all",source="archive"} 5.0'
        in metrics
    )
    size = sum(len(data) for data in originals(made).values())
    assert f'dicom_router_store_bytes_total{{calling="archive"}} {float(size)}' in metrics
