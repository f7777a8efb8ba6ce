"""What an archive answered, recorded: it replays to what `plan` decided, and names nobody."""

from __future__ import annotations

import contextlib
import json
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.config.recording import read_recording
from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.command import Done, in_process
from tests.support.peers import Orthanc
from tests.support.router import Site, node

TODAY = date.today()
KEYS = {"StudyDate": "today-3d..today", "ModalitiesInStudy": ["CT", "MR"]}
RULES: dict[str, Any] = {
    "chest": {
        "sweep": {"source": "archive", "every": "1h", "keys": KEYS},
        "where": {"StudyDescription": {"matches": "(?i)chest"}, "NumberOfStudyRelatedInstances": {"gte": 3}},
        "move": {"to": ["workstation", "local"]},
    },
    "settling": {
        "sweep": {"source": "archive", "every": "1h", "keys": KEYS, "settle": "10m"},
        "where": {"NumberOfStudyRelatedSeries": {"gte": 2}},
        "move": {"to": ["workstation"]},
    },
    "limited": {
        "sweep": {"source": "archive", "every": "1h", "keys": KEYS},
        "limits": {"studies_per_sweep": 2, "instances_per_day": 6},
        "move": {"to": ["workstation"]},
    },
    "doses": {
        "sweep": {
            "source": "archive",
            "level": "SERIES",
            "every": "1h",
            "keys": {"StudyDate": "today-3d..today", "Modality": "SR"},
        },
        "where": {"SeriesDescription": {"matches": "(?i)dose"}},
        "move": {"to": ["local"], "level": "SERIES"},
    },
    "of-doses": {
        "sweep": {
            "source": "archive",
            "level": "SERIES",
            "every": "1h",
            "keys": {"StudyDate": "today-3d..today", "Modality": "SR"},
        },
        "move": {"to": ["workstation"]},
    },
    "each-series": {
        "sweep": {"source": "archive", "every": "1h", "keys": KEYS},
        "where": {"StudyDescription": {"matches": "(?i)head"}},
        "move": {"to": ["local"], "level": "SERIES"},
    },
}
SECRETS = ("Geheim", "SECRET-", "ACC-SECRET")
STUDIES = [
    # description, modality or series, days ago, instances
    ("CT Chest", "CT", 0, 4),
    ("CT Chest low dose", "CT", 1, 2),
    ("CT Chest of last week", "CT", 7, 4),
    ("MR Chest wall", "MR", 2, 3),
    ("CT Abdomen", "CT", 0, 5),
    ("US Chest", "US", 0, 3),
    ("CT Head", [("CT", "Axial", 3), ("SR", "Dose Report", 1), ("SR", "Notes", 1)], 0, 0),
]


def studies() -> list[Any]:
    return [
        one
        for number, (description, series, days, instances) in enumerate(STUDIES)
        for one in make_study(
            seed=f"recorded {number}",
            modality=series if isinstance(series, str) else "CT",
            series=1 if isinstance(series, str) else series,
            instances=instances or 1,
            description=description,
            patient_id=f"SECRET-{number // 2}",
            patient_name=f"Geheim^Nr{number // 2}",
            accession=f"ACC-SECRET-{number}",
            study_date=TODAY - timedelta(days=days),
        )
    ]


def call(site: Site, *arguments: str) -> Done:
    """Run a command in this process."""
    with contextlib.chdir(site.directory):
        return in_process(site.rules_directory, *arguments)


def printed(site: Site, *arguments: str) -> Any:
    """The same as JSON."""
    done = call(site, *arguments, "--format", "json")
    assert done.code == 0, done.err
    return json.loads(done.out)


RETICENT = Behaviour(
    omit=frozenset({"ModalitiesInStudy", "NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries"}),
    unmatched_keys=frozenset({"ModalitiesInStudy"}),
)


@pytest.fixture(params=["honest", "reticent", "orthanc"])
def site(request: pytest.FixtureRequest, tmp_path: Path, start_orthanc: Callable[..., Orthanc]) -> Iterator[Site]:
    """A router with an archive that has STUDIES: a simulated one, one that computes nothing, an Orthanc."""
    with contextlib.ExitStack() as stack:
        if request.param == "orthanc":
            orthanc = start_orthanc(ae_title="ARCHIVE", modalities={"ROUTER": 104})
            for number, one in enumerate(studies()):
                path = tmp_path / f"{number}.dcm"
                one.save_as(path, enforce_file_format=True)
                orthanc.upload(path)
            port = orthanc.address.port
        else:
            behaviour = RETICENT if request.param == "reticent" else Behaviour()
            port = stack.enter_context(SimulatedPacs("ARCHIVE", studies=studies(), behaviour=behaviour)).port
        nodes = {"archive": node("ARCHIVE", port), "workstation": node("WS", 104)}
        yield Site(tmp_path / "site", nodes=nodes, rules=RULES)


def descriptions(path: Path) -> dict[str, str]:
    """Study Instance UID -> description, in a recording."""
    rows = read_recording(path).studies.values()
    return {row.text("StudyInstanceUID"): row.text("StudyDescription") for row in rows}


def true_descriptions() -> dict[str, str]:
    return {str(one.StudyInstanceUID): str(one.StudyDescription) for one in studies()}


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Site]:
    with SimulatedPacs("ARCHIVE", studies=studies()) as pacs:
        nodes = {"archive": node("ARCHIVE", pacs.port), "workstation": node("WS", 104)}
        yield Site(tmp_path / "site", nodes=nodes, rules=RULES)


def decided(rows: list[dict[str, Any]], names: dict[str, str]) -> Counter[tuple[str, ...]]:
    """Decisions by what is the same in a plan and in a replay."""
    return Counter(
        (
            names[one["study_instance_uid"]],
            str(one["destination"]),
            str(one["series_instance_uid"] is not None),
            one["decision"],
            *((one["code"], one["reason"]) if one["decision"] != "skip" else ()),
        )
        for one in rows
    )


def test_a_recorded_sweep_replays_to_the_decisions_of_the_plan(site: Site, tmp_path: Path) -> None:
    for rule in RULES:
        path = tmp_path / f"{rule}.yaml"
        printed(site, "query", "archive", "--rule", rule, "--record", str(path))
        planned = printed(site, "plan", "--rule", rule)["transfers"]
        (replayed,) = printed(site, "test", "--replay", str(path), "--rule", rule)["rules"]
        assert decided(replayed["decisions"], descriptions(path)) == decided(planned, true_descriptions())
        assert replayed["notes"] == []
        assert {one["decision"] for one in planned} & {"move", "hold"}


def test_what_is_skipped_is_skipped_for_the_reason_of_the_plan(simulated: Site, tmp_path: Path) -> None:
    """Of an archive that computes what it is asked for: what is found out otherwise may be judged in another order."""
    for rule in RULES:
        path = tmp_path / f"{rule}.yaml"
        printed(simulated, "query", "archive", "--rule", rule, "--record", str(path))
        planned = printed(simulated, "plan", "--rule", rule)["transfers"]
        (replayed,) = printed(simulated, "test", "--replay", str(path), "--rule", rule)["rules"]
        sides = [Counter((one["code"], one["reason"]) for one in rows) for rows in (replayed["decisions"], planned)]
        assert sides[0] == sides[1]


def test_a_recording_names_nobody_and_is_its_owners(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "recording.yaml"
    said = printed(site, "query", "archive", "--rule", "doses", "--record", str(path))
    assert {"PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"} <= set(said["replaced"])
    text = path.read_text()
    assert not [secret for secret in SECRETS if secret in text]
    for one in studies():
        for uid in (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID):
            assert str(uid) not in text
    assert "Dose Report" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    of_one_patient = [row.text("PatientID") for row in read_recording(path).studies.values()]
    assert len(set(of_one_patient)) < len(of_one_patient)


def test_an_answer_to_keys_is_recorded_with_what_the_rules_look_at(simulated: Site, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    said = printed(simulated, "query", "archive", "StudyDate=today-7d..today", "--record", str(path))
    assert (said["studies"], said["series"], said["complete"]) == (7, 0, True)
    recording = read_recording(path)
    assert recording.keys.text("StudyDate") == f"{TODAY - timedelta(days=7):%Y%m%d}-{TODAY:%Y%m%d}"
    assert "NumberOfStudyRelatedSeries" in recording.returned
    (replayed,) = printed(simulated, "test", "--replay", str(path), "--rule", "chest")["rules"]
    planned = printed(simulated, "plan", "--rule", "chest")["transfers"]
    moved = Counter({one: n for one, n in decided(planned, true_descriptions()).items() if one[3] == "move"})
    assert moved == Counter(
        {one: n for one, n in decided(replayed["decisions"], descriptions(path)).items() if one[3] == "move"}
    )
    cut = printed(
        simulated, "query", "archive", "StudyDate=today-7d..today", "--limit", "2", "--record", str(path), "--force"
    )
    assert (cut["studies"], cut["complete"]) == (2, False)


def test_a_key_that_identifies_is_not_written_down(simulated: Site, tmp_path: Path) -> None:
    path = tmp_path / "patient.yaml"
    said = printed(simulated, "query", "archive", "PatientID=SECRET-1", "--record", str(path))
    assert said["studies"] == 2
    assert "SECRET" not in path.read_text()
    recording = read_recording(path)
    assert {row.text("PatientID") for row in recording.studies.values()} == {recording.keys.text("PatientID")}


@pytest.mark.parametrize("key", ["SECRET-1", "SECRET-[01]", "SECRET-?"])
def test_a_rule_that_asks_for_a_patient_replays_to_its_plan(simulated: Site, tmp_path: Path, key: str) -> None:
    patients = ["SECRET-0", "SECRET-1"] if "[" in key else key
    rule = {
        "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-3d..today", "PatientID": patients}},
        "where": {"PatientName": {"exists": True}},
        "move": {"to": ["local"]},
    }
    nodes = yaml.safe_load((simulated.rules_directory / "site.yaml").read_text())["nodes"]
    simulated.configure(nodes=nodes, rules={"patient": rule})
    path = tmp_path / "patient.yaml"
    printed(simulated, "query", "archive", "--rule", "patient", "--record", str(path))
    assert "SECRET" not in path.read_text()
    planned = printed(simulated, "plan", "--rule", "patient")["transfers"]
    (replayed,) = printed(simulated, "test", "--replay", str(path), "--rule", "patient")["rules"]
    assert decided(replayed["decisions"], descriptions(path)) == decided(planned, true_descriptions())
    assert replayed["counts"]["move"] >= 1
    (note,) = replayed["notes"]
    assert "asks for PatientID, which a recording replaces: it counts as fulfilled" in note


def test_recording_a_rule_says_that_it_looks_at_what_is_replaced(simulated: Site, tmp_path: Path) -> None:
    rule = {
        "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-3d..today"}},
        "where": {"not": {"PatientID": "SECRET-1"}},
        "move": {"to": ["local"]},
    }
    nodes = yaml.safe_load((simulated.rules_directory / "site.yaml").read_text())["nodes"]
    simulated.configure(nodes=nodes, rules={"others": rule})
    done = call(simulated, "query", "archive", "--rule", "others", "--record", str(tmp_path / "r.yaml"))
    said = "The rule others looks at PatientID, which a recording replaces"
    assert said in done.err
    assert said in call(simulated, "test", "--replay", str(tmp_path / "r.yaml")).out


def test_recordings_by_one_key_file_agree_and_shifted_ones_replay_alike(simulated: Site, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    key = ("--record-key", str(tmp_path / "key"))
    printed(simulated, "query", "archive", "--rule", "chest", "--record", str(first), *key)
    printed(simulated, "query", "archive", "--rule", "chest", "--record", str(second), *key, "--record-shift-dates")
    assert descriptions(first) == descriptions(second)
    assert f"{TODAY:%Y%m%d}" in first.read_text()
    assert f"{TODAY:%Y%m%d}" not in second.read_text()
    rules = [printed(simulated, "test", "--replay", str(path), "--rule", "chest")["rules"] for path in (first, second)]
    assert rules[0] == rules[1]


def test_an_edited_rule_is_judged_by_a_recording_without_the_archive(simulated: Site, tmp_path: Path) -> None:
    path = simulated.rules_directory / "recordings" / "archive.yaml"
    path.parent.mkdir()
    printed(simulated, "query", "archive", "--rule", "chest", "--record", str(path))
    changed = tmp_path / "changed"
    changed.mkdir()
    text = (simulated.rules_directory / "site.yaml").read_text()
    (changed / "site.yaml").write_text(text.replace("(?i)chest", "(?i)abdomen"))
    said = printed(simulated, "test", "--replay", str(path), "--rule", "chest", "--against", str(changed))
    assert (said["added"], said["removed"], said["unchanged"]) == (2, 4, 0)
    case = {"rule": "chest", "recording": "recordings/archive.yaml", "counts": {"move": 2, "hold": 0}}
    (simulated.rules_directory / "tests.yaml").write_text(yaml.safe_dump({"tests": {"recorded": case}}))
    done = call(simulated, "test")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("1 case: 1 passed, 0 failed.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PatientID=1", "--record", "EXISTS"], "exists already; --force replaces it"),
        (["PatientID=1", "--record", "nowhere/deep/x"], "There is no directory nowhere/deep"),
        (["PatientID=1", "--record", "CONFIGURATION"], "is part of the configuration; write it to"),
        (["--rule", "chst", "--record", "x"], "did you mean chest?"),
        (["--rule", "chest", "PatientID=1", "--record", "x"], "leave the keys"),
        (["--rule", "chest"], "go with --record FILE"),
        (["PatientID=1", "--force"], "go with --record FILE"),
        (["StudyInstanceUID=1.2", "--level", "SERIES", "--record", "x"], "A recording holds studies"),
        (["PatientID=1", "--record", "x", "--record-drop", "PatientID"], "a recording needs PatientID"),
        (["PatientID=1", "--record", "x", "--record-keep", "PatientName"], "what names a place or a device can: "),
        (["PatientID=1", "--record", "x", "--record-drop", "StudyDescripton"], "did you mean StudyDescription?"),
        (["PatientID=1", "--record", "x", "--format", "csv"], "does not go with --record"),
    ],
)
def test_what_cannot_be_recorded_is_said_in_one_sentence(
    simulated: Site, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "site" / "exists.yaml").write_text("kept")
    places = {"EXISTS": "exists.yaml", "CONFIGURATION": str(simulated.rules_directory / "new.yaml")}
    done = call(simulated, "query", "archive", *(places.get(one, one) for one in arguments))
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert message in done.err
    assert (tmp_path / "site" / "exists.yaml").read_text() == "kept"
    assert not (tmp_path / "site" / "x").exists()


def test_what_was_recorded_is_said_to_people_without_naming_anybody(simulated: Site) -> None:
    done = call(
        simulated, "query", "archive", "StudyDate=today", "--record", "today.yaml", "--record-drop", "StudyTime"
    )
    assert done.code == 0, done.err
    assert re.match(r"4 studies recorded in today\.yaml\.\nReplaced: .*PatientName.*\.\n", done.out)
    assert "Descriptions are as they were typed" in done.out
    assert not [secret for secret in SECRETS if secret in done.out + done.err]
    assert "StudyTime" not in (simulated.directory / "today.yaml").read_text()
    shown = json.loads(call(simulated, "test", "--replay", "today.yaml", "--format", "json").out)
    assert {one["rule"] for one in shown["rules"]} == set(RULES)
