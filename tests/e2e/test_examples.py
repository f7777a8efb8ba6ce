"""The example configuration in rules/ works: every rule of it runs against simulated nodes, as it stands."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.simulator import SimulatedPacs, make_study
from tests.support import samples
from tests.support.dcmtk import Address, storescu
from tests.support.hl7 import MllpClient, order
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import Site
from tests.support.worklist import scheduled

RULES = Path(__file__).parent.parent.parent / "rules"
TODAY = datetime.now().astimezone().date()


class Example:
    """The example's directory with its addresses turned to simulated nodes; everything else as it stands."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.site = Site(directory, nodes={}, rules={})
        self.site.store = directory / "data" / "store"
        self.order_port = free_port()
        self.workstation = stack.enter_context(SimulatedPacs("WS1"))
        self.research = stack.enter_context(SimulatedPacs("RESEARCH"))
        tomorrow = TODAY + timedelta(days=1)
        item = scheduled("A1", date=f"{tomorrow:%Y%m%d}", description="MR lumbar spine", patient_id="SPINE")
        self.ris = stack.enter_context(SimulatedPacs("RIS", worklist=[item]))
        self.archive = stack.enter_context(
            SimulatedPacs(
                "ORTHANC",
                studies=_archive(),
                destinations={
                    "WS1": ("127.0.0.1", self.workstation.port),
                    "ROUTER": ("127.0.0.1", self.site.dicom_port),
                },
            )
        )
        shutil.rmtree(self.site.rules_directory)
        shutil.copytree(RULES, self.site.rules_directory)
        turned = {
            "127.0.0.1:4242": self.archive.address,
            "127.0.0.1:11113": self.workstation.address,
            "127.0.0.1:11114": self.ris.address,
            "127.0.0.1:11116": self.research.address,
            "127.0.0.1:2575": f"127.0.0.1:{self.order_port}",
            "127.0.0.1:11112": f"127.0.0.1:{self.site.dicom_port}",
            "127.0.0.1:9104": f"127.0.0.1:{self.site.http_port}",
            "1GiB": "0",
        }
        for path in self.site.rules_directory.glob("*.yaml"):
            text = path.read_text("utf-8")
            for before, after in turned.items():
                text = text.replace(before, after)
            path.write_text(text, "utf-8")


_SPINE: dict[str, Any] = {"patient_birth_date": "19700101", "patient_sex": "F"}
"""As the worklist has the patient."""


def _archive() -> list[Any]:
    def study(seed: str, modality: str, description: str, days_ago: int, **more: Any) -> list[Any]:
        return make_study(
            seed=seed, modality=modality, description=description, study_date=TODAY - timedelta(days=days_ago), **more
        )

    return [
        *study("chest", "CT", "CT Chest routine", 1, instances=4),
        *study("abdomen", "CT", "CT Abdomen", 1, instances=4),
        *study("knee", "MR", "MR Knee", 3, instances=5),
        *study("scout", "MR", "MR Scout", 3, instances=2),
        *study("phantom", "MR", "MR PHANTOM check", 1, instances=5),
        *study("thyroid", "US", "US Thyroid", 0, instances=3),
        *study("disc", "MR", "MR lumbar spine", 400, patient_id="SPINE", **_SPINE),
        *study("belly", "CT", "CT Abdomen and pelvis", 300, patient_id="SPINE", **_SPINE),
        *study("sono", "US", "US Abdomen", 40, patient_id="SPINE", **_SPINE),
        *study("dose", "CT", "CT Head", 0, series=[("CT", "Axial", 3), ("SR", "Dose Report", 1), ("SR", "Notes", 1)]),
    ]


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    with ExitStack() as stack:
        yield Example(tmp_path / "example", stack)


def applied(example: Example, rule: str) -> list[tuple[str, str, int]]:
    done = example.site.apply("--rule", rule)
    assert all(sweep["complete"] for sweep in done["sweeps"])
    assert {one["verdict"] for one in done["transfers"]} == {"complete"}
    return sorted((one["destination"], one["study_instance_uid"], one["completed"]) for one in done["transfers"])


def uid(example: Example, description: str) -> str:
    return next(i.study for i in example.archive.instances if i.header.StudyDescription == description)


def test_ct_to_workstation(example: Example) -> None:
    chest = uid(example, "CT Chest routine")
    assert applied(example, "ct-to-workstation") == [("local", chest, 4), ("workstation", chest, 4)]


def test_late_arrivals_take_what_the_night_looks_back_for(example: Example) -> None:
    """`apply` runs the tier that looks back farthest: the study of three days ago is found."""
    assert applied(example, "late-arrivals") == [("workstation", uid(example, "MR Knee"), 5)]


def test_dose_reports(example: Example) -> None:
    assert applied(example, "dose-reports") == [("local", uid(example, "CT Head"), 1)]


def test_ultrasound_is_held_until_it_is_whole(example: Example) -> None:
    done = example.site.apply("--rule", "ultrasound-whole")
    assert (done["sweeps"][0]["matches"], done["transfers"]) == (1, [])
    (held,) = example.site.json("transfers", "list", "--state", "held")["transfers"]
    assert (held["cause"], held["study_instance_uid"]) == ("settling", uid(example, "US Thyroid"))


def test_priors_for_tomorrow(example: Example) -> None:
    done = applied(example, "priors-for-tomorrow")
    wanted = {uid(example, "MR lumbar spine"), uid(example, "CT Abdomen and pelvis")}
    assert {(destination, study) for destination, study, _ in done} == {("workstation", study) for study in wanted}


def test_priors_from_orders(example: Example) -> None:
    """An order of today, for there is a day of lead."""
    with example.site.run(), MllpClient(example.order_port) as client:
        start = f"{datetime.now().astimezone() + timedelta(hours=3):%Y%m%d%H%M}"
        answer = client.ask(order(patient="PAT001", start=start, code="CTABD^CT Abdomen^LOCAL"))
        assert answer.code == "AA"
        noted = example.site.json("appointments", "list", "--rule", "priors-from-orders")["appointments"]
        assert [one["trigger"] for one in noted] == ["order"]


def test_what_the_scanner_pushes_is_passed_on(example: Example, tmp_path: Path) -> None:
    chest = samples.make_study(tmp_path / "chest", instances=2, modality="CT", description="CT Chest")
    knee = samples.make_study(tmp_path / "knee", instances=1, modality="CT", description="CT Knee")
    with example.site.run():
        for made in (chest, knee):
            storescu(Address("ROUTER", example.site.dicom_port), made.files, calling="CT1")
        wait_for(lambda: len(example.research.stored) == 2, "the chest, once it is quiet", seconds=180.0)
    assert {one["decision"] for one in example.site.json("plan", "--rule", "chest-ct-to-research")["transfers"]} == {
        "skip"
    }


def test_the_cases_of_the_example_hold(example: Example) -> None:
    assert example.site.call("test").returncode == 0


def test_what_is_there_to_be_read_is_not_enabled(example: Example) -> None:
    for rule in ("study-of-the-heart", "priors-after-arrival"):
        assert example.site.call("apply", "--rule", rule).returncode == 2


def test_the_example_validates_without_a_word(example: Example) -> None:
    checked = example.site.call("validate")
    assert checked.returncode == 0
    assert not re.search("error|warning", checked.stdout)


def test_every_rule_of_the_example_is_tested_here() -> None:
    names = [name for path in RULES.glob("*.yaml") for name in yaml.safe_load(path.read_text("utf-8")).get("rules", {})]
    read_only = ["priors-after-arrival", "study-of-the-heart"]
    tested = ["ct-to-workstation", "dose-reports", "late-arrivals", "ultrasound-whole"]
    tested += ["chest-ct-to-research", "originals-to-workstation"]
    tested += ["priors-for-tomorrow", "priors-from-orders", *read_only]
    assert sorted(names) == sorted(tested)
