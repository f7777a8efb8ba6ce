"""What a real archive leaves out of its answers is found out, and its text is read in the set it does not name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import Dcmqrscp
from tests.support.router import Site, node
from tests.support.samples import StudyFiles

MakeStudy = Callable[..., StudyFiles]

WHERES = [
    # DCMTK's dcmqrscp returns neither of these; its series have a modality and no number of instances.
    ({"ModalitiesInStudy": "MR"}, ["mr", "mixed"]),
    ({"ModalitiesInStudy": {"not": "MR"}}, ["ct"]),
    ({"ModalitiesInStudy": {"exists": False}}, []),
    ({"NumberOfStudyRelatedInstances": {"gte": 5}}, ["mr"]),
    ({"NumberOfStudyRelatedSeries": 2, "PatientName": {"like": "M\u00fcller*"}}, ["mr"]),
]


@pytest.fixture
def site(tmp_path: Path, start_dcmqrscp: Callable[..., Dcmqrscp], study: MakeStudy) -> tuple[Site, dict[str, str]]:
    archive = start_dcmqrscp()
    umlauts: dict[str, Any] = {"patient_name": "M\u00fcller^J\u00f6rg", "character_set": "ISO_IR 100"}
    made = {
        "ct": study(instances=3, **umlauts),
        "mr": study(modality="MR", series=2, instances=3, patient_id="TEST-2", **umlauts),
        "mixed": study(modality="MR", instances=2, patient_id="TEST-3"),
    }
    archive.load([file for one in made.values() for file in one.files])
    source = node(
        archive.address.ae_title, archive.address.port, find={"assume_character_set": "ISO_IR 100", "expected": "study"}
    )
    rules = {
        f"rule-{number}": {
            "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "20240101..20240131"}},
            "where": where,
            "move": {"to": ["local"]},
        }
        for number, (where, _) in enumerate(WHERES)
    }
    uids = {one.study_instance_uid: name for name, one in made.items()}
    return Site(tmp_path / "site", nodes={"archive": source}, rules=rules), uids


def test_rules_by_what_dcmqrscp_leaves_out(site: tuple[Site, dict[str, str]]) -> None:
    router, names = site
    for number, (where, expected) in enumerate(WHERES):
        plan = router.json("plan", "--rule", f"rule-{number}", "--all")
        found = [names[one["study_instance_uid"]] for one in plan["transfers"] if one["decision"] == "move"]
        assert sorted(found) == sorted(expected), where
        (sweep,) = plan["sweeps"]
        assert sweep["complete"], sweep["reason"]


def test_query_shows_names_in_the_assumed_set_and_asks_in_it(site: tuple[Site, dict[str, str]]) -> None:
    router, _ = site
    for asked in ("PatientName=", "PatientName=M\u00fcller*"):
        matches = router.json("query", "archive", asked)["matches"]
        assert "M\u00fcller^J\u00f6rg" in {one["PatientName"] for one in matches}
