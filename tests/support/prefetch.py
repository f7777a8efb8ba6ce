"""A hospital whose patients have priors: a real archive with them, a real workstation that wants them, the router."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from router.domain.appointment import Appointment
from router.domain.transfer import Transfer
from router.ledger.ledger import SqlLedger
from tests.support.dcmtk import Storescp
from tests.support.orthanc import Orthanc
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import StudyFiles, add_instance, make_study

PATIENT = "P1"
BORN = "19700101"
"""What the samples of a worklist say."""

KNEE_PRIORS: dict[str, Any] = {
    "source": "archive",
    "groups": [
        {"name": "same-region", "where": {"anatomy": "same", "modality": "same"}, "max": 1, "within": "5y"},
        {"name": "by-ct", "where": {"anatomy": "same", "modality": "CT"}, "max": 1, "within": "5y"},
    ],
    "exclude": {"modality": ["OT", "SR"]},
    "exceptions": [{"leave_out": {"modality": "US"}, "unless": {"modality": "US"}}],
    "undated": "never",
}
"""Two groups with room for one each."""


def prior(
    directory: Path,
    *,
    days_ago: int | None,
    modality: str = "MR",
    description: str = "MR Knee",
    patient_id: str = PATIENT,
    born: str = BORN,
    instances: int = 2,
    accession: str = "",
) -> StudyFiles:
    """Write an earlier study of a patient; without `days_ago` it has no date."""
    day = "" if days_ago is None else f"{datetime.now(UTC) - timedelta(days=days_ago):%Y%m%d}"
    study = make_study(
        directory,
        modality=modality,
        description=description,
        patient_id=patient_id,
        study_date=day,
        accession=accession,
        instances=0,
        rows=16,
    )
    study.template.PatientBirthDate = born
    for _ in range(instances):
        add_instance(study)
    return study


def nine_priors(directory: Path, accession: str) -> dict[str, StudyFiles]:
    """By the word that says what KNEE_PRIORS makes of it: nine studies, two of them wanted.

    One is of the order `accession` itself.
    """
    year = 365
    return {
        "taken": prior(directory, days_ago=year),
        "taken-too": prior(directory, days_ago=3 * year, modality="CT", description="CT Knee"),
        "full": prior(directory, days_ago=2 * year),
        "too-old": prior(directory, days_ago=7 * year),
        "no-group": prior(directory, days_ago=40, description="MR Head"),
        "excluded": prior(directory, days_ago=year, modality="SR", description="Knee report"),
        "exception": prior(directory, days_ago=30, modality="US", description="US Knee"),
        "current": prior(directory, days_ago=0, accession=accession),
        "undated": prior(directory, days_ago=None),
    }


class Hospital:
    """An archive, a workstation and the router between them."""

    def __init__(
        self,
        directory: Path,
        archive: Orthanc,
        workstation: Storescp | Orthanc,
        *,
        router: dict[str, Any] | None = None,
    ) -> None:
        """The archive is told where the others are."""
        self.files = directory / "studies"
        self.archive = archive
        self.workstation = workstation
        self.site = Site(directory / "site", nodes={}, rules={}, router={"drain": "0s", **(router or {})})
        port = workstation.dicom_port if isinstance(workstation, Orthanc) else workstation.port
        archive.register(workstation.ae_title, port)
        archive.register("ROUTER", self.site.dicom_port)
        self.nodes: dict[str, Any] = {
            "archive": node(archive.ae_title, archive.dicom_port, timezone="UTC", limits={"associations": 2}),
            "workstation": node(workstation.ae_title, port),
        }
        self.rules: dict[str, Any] = {}

    def configure(self) -> Site:
        """Write the configuration as it is now."""
        self.site.configure(nodes=self.nodes, rules=self.rules)
        return self.site

    def close_workstation(self) -> None:
        """Have nothing sent to the workstation: no window of it is open before tomorrow's next day."""
        day = datetime.now(UTC) + timedelta(days=3)
        windows = {"not-now": {"timezone": "UTC", "open": [f"{day:%a} 00:00-24:00".lower()]}}
        (self.site.rules_directory / "windows.yaml").write_text(json.dumps({"windows": windows}), "utf-8")
        self.nodes["workstation"]["windows"] = [{"use": "not-now"}]

    def open_workstation(self) -> None:
        """Let it be sent to again."""
        (self.site.rules_directory / "windows.yaml").unlink()
        del self.nodes["workstation"]["windows"]

    def load(self, *studies: StudyFiles) -> None:
        """Put studies into the archive."""
        for study in studies:
            self.archive.upload(*study.files)

    def received(self) -> int:
        """How many instances the workstation has; in a storescp with `unique_files` what came twice counts twice."""
        place = self.workstation
        return len(place.instances()) if isinstance(place, Orthanc) else len(place.files())

    def has(self, *studies: StudyFiles) -> bool:
        """Whether the workstation has all of these studies' instances."""
        wanted = set().union(*(study.instances for study in studies))
        have = self.workstation.instances()
        return wanted <= set(have)

    def appointments(self) -> list[Appointment]:
        """What the ledger knows of appointments."""
        with SqlLedger.open(self.site.settings["ledger"], read_only=True) as ledger:
            return ledger.appointments(limit=10_000)

    def transfers(self) -> list[Transfer]:
        """What the ledger knows of transfers."""
        with SqlLedger.open(self.site.settings["ledger"], read_only=True) as ledger:
            return ledger.transfers(limit=10_000)

    def states(self) -> list[str]:
        """The states of all appointments, sorted."""
        return sorted(str(one.state) for one in self.appointments())

    def transfer_states(self) -> list[str]:
        """The states of all transfers, sorted."""
        return sorted(str(one.state) for one in self.transfers())

    def wait_for_states(self, *states: str) -> list[Appointment]:
        """Wait until the appointments have just these states; then what they are."""
        wait_for(lambda: self.states() == sorted(states), f"appointments that are {states}", interval=0.1)
        return self.appointments()

    def wait_for_transfers(self, *states: str) -> list[Transfer]:
        """Wait until the transfers have just these states; then what they are."""
        wait_for(lambda: self.transfer_states() == sorted(states), f"transfers that are {states}", interval=0.1)
        return self.transfers()


def count(router: RunningRouter, name: str, **labels: str) -> float:
    """The sum of a metric's series with these labels, without its prefix."""
    total = 0.0
    for line in router.metrics().splitlines():
        found = re.fullmatch(rf"dicom_router_{name}(?:\{{(.*)\}})? (\S+)", line)
        if found is not None:
            has = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
            total += float(found[2]) if labels.items() <= has.items() else 0.0
    return total


def patient_of(files: Path, number: int) -> StudyFiles:
    """A CT of the abdomen of one of many patients, `MANY-number`, as `tests.support.hl7.order` orders one."""
    return prior(
        files,
        days_ago=200,
        modality="CT",
        description="CT Abdomen",
        patient_id=f"MANY-{number}",
        born="19640812",
        instances=1,
    )
