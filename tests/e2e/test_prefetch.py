"""Prefetch with real peers: DCMTK's worklist, Orthanc as archive, storescp and a second Orthanc as destinations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from router.simulator import make_study
from tests.support.peers import Orthanc, Storescp
from tests.support.process import wait_for
from tests.support.router import Site, node
from tests.support.worklist import Wlmscpfs, scheduled

PATIENT = {"patient_id": "P1", "patient_birth_date": "19700101", "patient_sex": "F"}
HISTORY = (
    ("spine-1", "MR", "MR lumbar spine", 300),
    ("spine-2", "MR", "MRT LWS", 900),
    ("spine-old", "MR", "MR lumbar spine", 4000),
    ("knee", "MR", "MR knee left", 100),
    ("abdomen", "CT", "CT abdomen", 200),
    ("chest", "CR", "Chest pa", 10),
    ("sono", "US", "US abdomen", 30),
    ("head", "CT", "CT head", 700),
    ("hand", "DX", "Hand left", 500),
)
"""Nine studies: name, modality, description, days ago."""


def history(**patient: str) -> dict[str, list[Dataset]]:
    today = date.today()
    return {
        name: make_study(
            seed=f"{name} {patient or ''}",
            modality=modality,
            description=description,
            study_date=today - timedelta(days=days),
            accession=f"OLD{number}",
            instances=2,
            **{**PATIENT, **patient},
        )
        for number, (name, modality, description, days) in enumerate(HISTORY)
    }


def files(directory: Path, studies: dict[str, list[Dataset]]) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    for name, instances in studies.items():
        for number, instance in enumerate(instances):
            found.append(directory / f"{name}-{number}.dcm")
            dcmwrite(found[-1], instance, enforce_file_format=True)
    return found


def uid(studies: dict[str, list[Dataset]], name: str) -> str:
    return str(studies[name][0].StudyInstanceUID)


def at(moment: datetime, accession: str = "A1", **attributes: Any) -> Dataset:
    local = moment.astimezone()
    return scheduled(
        accession,
        date=f"{local:%Y%m%d}",
        time=f"{local:%H%M%S}",
        description="MR lumbar spine",
        **attributes,
    )


def soon(hours: float = 3.0) -> datetime:
    """An appointment of today or tomorrow."""
    return (datetime.now().astimezone() + timedelta(hours=hours)).replace(microsecond=0)


def eventually(probe: Callable[[], bool]) -> None:
    """Within a generous time it is so."""
    wait_for(probe, "what the test is about", 80.0, 0.2)


PRIORS: dict[str, Any] = {
    "worklist": {"source": "ris", "every": "2s", "keys": {"Modality": "MR"}, "lead": "6h"},
    "priors": {
        "source": "archive",
        "groups": [{"name": "same-region", "where": {"anatomy": "same", "modality": "same"}, "max": 2, "within": "5y"}],
    },
    "move": {"to": ["workstation"]},
}


class Hospital:
    """A worklist, an archive with one patient's nine studies, a workstation, and the router between them."""

    def __init__(
        self,
        directory: Path,
        archive: Orthanc,
        workstation: Storescp | Orthanc,
        ris: Wlmscpfs,
        site: Site,
        nodes: dict[str, Any],
    ) -> None:
        self.directory = directory
        self.nodes = nodes
        self.archive = archive
        self.workstation = workstation
        self.ris = ris
        self.site = site
        self.studies = history()
        archive.upload(*files(directory / "history", self.studies))

    def name(self, study_instance_uid: str) -> str:
        return next(name for name in self.studies if uid(self.studies, name) == study_instance_uid)

    def arrived(self) -> set[str]:
        """Names of the studies at the workstation."""
        return {
            name
            for name, instances in self.studies.items()
            if {str(one.SOPInstanceUID) for one in instances} <= set(self.workstation.instances())
        }

    def appointments(self) -> list[dict[str, Any]]:
        return list(self.site.json("appointments", "list")["appointments"])

    def transfers(self) -> list[dict[str, Any]]:
        return list(self.site.json("transfers", "list")["transfers"])


@pytest.fixture(params=["storescp", "orthanc"])
def hospital(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    start_orthanc: Callable[..., Orthanc],
    start_storescp: Callable[..., Storescp],
) -> Iterator[Hospital]:
    workstation: Orthanc | Storescp
    if request.param == "orthanc":
        workstation = start_orthanc(ae_title="WS")
        port = workstation.dicom_port
    else:
        workstation = start_storescp(ae_title="WS")
        port = workstation.port
    yield from _hospital(tmp_path, start_orthanc, workstation, port)


@pytest.fixture
def with_storescp(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], start_storescp: Callable[..., Storescp]
) -> Iterator[Hospital]:
    workstation = start_storescp(ae_title="WS")
    yield from _hospital(tmp_path, start_orthanc, workstation, workstation.port)


def _hospital(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], workstation: Orthanc | Storescp, port: int
) -> Iterator[Hospital]:
    archive = start_orthanc(ae_title="ARCHIVE", modalities={"WS": port})
    with Wlmscpfs(tmp_path) as ris:
        nodes = {
            "archive": node("ARCHIVE", archive.dicom_port),
            "workstation": node("WS", port),
            "ris": node("RIS", ris.port),
        }
        site = Site(tmp_path / "site", nodes=nodes, rules={"priors": PRIORS})
        for peer in (archive, workstation):
            if isinstance(peer, Orthanc):
                peer.register("ROUTER", site.dicom_port)
        yield Hospital(tmp_path, archive, workstation, ris, site, nodes)


def test_two_of_nine_priors_are_there_before_the_appointment_and_all_have_their_reason(hospital: Hospital) -> None:
    start = soon()
    hospital.ris.put(at(start))
    planned = hospital.site.json("plan")
    wanted = {hospital.name(one["study_instance_uid"]) for one in planned["transfers"] if one["decision"] == "move"}
    assert wanted == {"spine-1", "spine-2"}
    assert hospital.arrived() == set(), "a plan moves nothing"
    assert {hospital.name(one["study_instance_uid"]): one["code"] for one in planned["transfers"]} == {
        "spine-1": "new",
        "spine-2": "new",
        "spine-old": "too-old",
        **dict.fromkeys(("knee", "abdomen", "chest", "sono", "head", "hand"), "no-group"),
    }

    with hospital.site.run() as router:
        eventually(lambda: hospital.arrived() == {"spine-1", "spine-2"})
        eventually(lambda: all(one["verdict"] for one in hospital.transfers()))
        assert datetime.now().astimezone() < start
        (one,) = hospital.appointments()
        assert (one["state"], one["candidates"], one["taken"]) == ("done", 9, 2)
        assert datetime.fromisoformat(one["start"]) == start
        transfers = hospital.transfers()
        assert {one["verdict"] for one in transfers} <= {"complete", "unproven"}
        assert {datetime.fromisoformat(one["deadline"]) for one in transfers} == {start}
        metrics = router.metrics()
        assert 'dicom_router_priors_selected_total{group="same-region",rule="priors"} 2.0' in metrics
        assert 'dicom_router_priors_ended_total{result="on_time",rule="priors"} 2.0' in metrics

        shown = hospital.site.json("appointments", "show", str(one["id"]))
        reasons = {hospital.name(prior["study_instance_uid"]): prior for prior in shown["candidates"]}
        assert set(reasons) == set(hospital.studies), "each candidate is remembered"
        assert all(prior["reason"] for prior in reasons.values())
        assert reasons["spine-1"]["score"] > reasons["spine-2"]["score"]
        assert "anatomy same 50" in reasons["spine-1"]["breakdown"]
        for_whom = hospital.site.json("transfers", "show", str(transfers[0]["id"]))["appointments"]
        assert [(one["appointment"], one["group"]) for one in for_whom] == [(shown["appointment"]["id"], "same-region")]
        explained = hospital.site.json("explain", uid(hospital.studies, "knee"))
        assert [(one["decision"], one["code"]) for one in explained["considered"]] == [("skip", "no-group")]

        before = sorted(hospital.transfers(), key=lambda one: one["id"])
        again = hospital.site.apply()
        assert again["transfers"] == [], "asked again it moves nothing"
        assert [one["state"] for one in again["appointments"]] == ["done"]
        assert sorted(hospital.transfers(), key=lambda one: one["id"]) == before
        assert hospital.arrived() == {"spine-1", "spine-2"}
        assert router.stop() == 0
    log = router.log
    for secret in ("P1", "Doe", uid(hospital.studies, "spine-1")):
        assert secret not in log


def test_studies_that_are_there_already_use_up_no_quota(tmp_path: Path, start_orthanc: Callable[..., Orthanc]) -> None:
    workstation = start_orthanc(ae_title="WS")
    for hospital in _hospital(tmp_path, start_orthanc, workstation, workstation.dicom_port):
        there = {"spine-1": hospital.studies["spine-1"]}
        workstation.upload(*files(tmp_path / "there", there))
        group = {"name": "magnetic", "where": {"modality": "same"}, "max": 2}
        rule = {**PRIORS, "priors": {"source": "archive", "groups": [group]}}
        hospital.site.configure(nodes=hospital.nodes, rules={"priors": rule})
        hospital.ris.put(at(soon()))
        done = hospital.site.apply()
        assert {hospital.name(one["study_instance_uid"]) for one in done["transfers"]} == {"spine-2", "spine-old"}
        assert hospital.arrived() == {"spine-1", "spine-2", "spine-old"}
        assert hospital.site.apply()["transfers"] == []


def test_a_moved_appointment_moves_the_deadline_and_a_cancelled_one_cancels_what_has_not_begun(
    with_storescp: Hospital,
) -> None:
    hospital = with_storescp
    hospital.archive.unregister("WS")  # the archive does not know the workstation: nothing gets through
    first, second = soon(3), soon(5)
    hospital.ris.put(at(first), at(soon(30), "FAR"))
    with hospital.site.run() as router:
        eventually(lambda: len(hospital.transfers()) == 2)
        eventually(lambda: len(hospital.appointments()) >= 1)
        assert {datetime.fromisoformat(one["deadline"]) for one in hospital.transfers()} == {first}

        hospital.ris.put(at(second))
        eventually(lambda: {datetime.fromisoformat(one["deadline"]) for one in hospital.transfers()} == {second})
        eventually(lambda: all(one["state"] == "queued" for one in hospital.transfers()))

        hospital.ris.remove("A1")
        eventually(lambda: any(one["state"] == "cancelled" for one in hospital.appointments()))
        eventually(lambda: {one["state"] for one in hospital.transfers()} == {"cancelled"})
        assert {one["cause"] for one in hospital.transfers()} == {"appointment-cancelled"}

        hospital.archive.register("WS", hospital.workstation.port)  # type: ignore[union-attr]
        hospital.ris.put(at(second))
        eventually(lambda: hospital.arrived() == {"spine-1", "spine-2"})
        assert router.stop() == 0


def test_what_is_not_due_yet_waits_and_goes_with_its_appointment(with_storescp: Hospital) -> None:
    hospital = with_storescp
    rule = {**PRIORS, "worklist": {**PRIORS["worklist"], "lead": "10m"}}
    hospital.site.configure(nodes=hospital.nodes, rules={"priors": rule})
    hospital.ris.put(at(soon(3)))
    with hospital.site.run() as router:
        eventually(lambda: [one["state"] for one in hospital.appointments()] == ["waiting"])
        assert hospital.transfers() == []
        hospital.ris.put(at(soon(0.1)))  # earlier than its lead: at once
        eventually(lambda: hospital.arrived() == {"spine-1", "spine-2"})
        hospital.ris.put(at(soon(3), "A2"))
        eventually(lambda: sorted(one["state"] for one in hospital.appointments()) == ["done", "waiting"])
        hospital.ris.remove("A2")
        eventually(lambda: sorted(one["state"] for one in hospital.appointments()) == ["cancelled", "done"])
        assert len(hospital.transfers()) == 2
        assert router.stop() == 0


@pytest.mark.parametrize("patient_id", ["*", "P?", "P1\\P2", "P" * 70])
def test_a_patient_id_that_would_widen_the_query_asks_nothing(with_storescp: Hospital, patient_id: str) -> None:
    hospital = with_storescp
    item = at(soon())
    item.PatientID = patient_id if "\\" not in patient_id else patient_id.split("\\")
    hospital.ris.put(item)
    done = hospital.site.apply(code=None)
    assert done["sweeps"][0]["matches"] == 1
    assert done["appointments"] == []
    assert done["transfers"] == []
    assert "PatientID" in done["sweeps"][0]["account"]
    assert patient_id.split("\\")[0] not in str(done)


def test_swept_studies_bring_their_priors(with_storescp: Hospital) -> None:
    hospital = with_storescp
    today = make_study(
        seed="today", modality="MR", description="MR lumbar spine", study_date=date.today(), instances=1, **PATIENT
    )
    hospital.archive.upload(*files(hospital.directory / "today", {"today": today}))
    rule = {
        "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "today"}},
        "where": {"ModalitiesInStudy": "MR"},
        "priors": PRIORS["priors"],
        "move": PRIORS["move"],
    }
    hospital.site.configure(nodes=hospital.nodes, rules={"of-swept": rule})
    done = hospital.site.apply()
    assert {hospital.name(one["study_instance_uid"]) for one in done["transfers"]} == {"spine-1", "spine-2"}
    assert hospital.arrived() == {"spine-1", "spine-2"}
    assert hospital.site.apply()["transfers"] == []


def test_a_study_that_arrives_brings_its_priors(with_storescp: Hospital) -> None:
    hospital = with_storescp
    today = make_study(
        seed="today", modality="MR", description="MR lumbar spine", study_date=date.today(), instances=3, **PATIENT
    )
    hospital.archive.upload(*files(hospital.directory / "today", {"today": today}))
    rules = {
        "to-us": {
            "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "today"}},
            "move": {"to": ["local"]},
        },
        "after-arrival": {
            "arrival": {"from": ["archive"], "stable": "1s"},
            "where": {"ModalitiesInStudy": "MR"},
            "priors": PRIORS["priors"],
            "move": PRIORS["move"],
        },
    }
    hospital.site.configure(nodes=hospital.nodes, rules=rules)
    with hospital.site.run() as router:
        eventually(lambda: hospital.arrived() == {"spine-1", "spine-2"})
        (one,) = hospital.appointments()
        assert (one["trigger"], one["start"], one["taken"]) == ("arrival", None, 2)
        assert router.stop() == 0
