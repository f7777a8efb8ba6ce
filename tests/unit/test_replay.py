"""`test --replay` and cases about recordings: what rules decide offline, and what the recording cannot say."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner, Result

from router import config
from router.cli.main import root
from router.config.recording import dumped, write_recording
from router.domain.dicom import Identifier
from router.errors import ConfigurationError, RouterError, UsageError
from tests.unit.test_recording import made, replaced

RULES = """\
nodes:
  archive: {ae_title: ARCHIVE, address: 127.0.0.1:104, timezone: Europe/Berlin}
  workstation: {ae_title: WS, address: 127.0.0.1:106}
rules:
  chest:
    sweep: {source: archive, every: 5m, keys: {StudyDate: today-2d..today}}
    where: {StudyDescription: {matches: "(?i)chest"}}
    move: {to: [workstation]}
"""


class Bench:
    """A configuration, a changed one, and a recording."""

    def __init__(self, directory: Path) -> None:
        self.before, self.after = directory / "rules", directory / "changed"
        self.recording = self.before / "recordings" / "archive.yaml"
        self.recording.parent.mkdir(parents=True)
        self.after.mkdir()
        (self.before / "rules.yaml").write_text(RULES)
        (self.after / "rules.yaml").write_text(RULES.replace('chest"', 'chest|knee"').replace("2d", "1d"))
        rows = [
            Identifier.of(StudyInstanceUID=f"1.2.{n}", StudyDate=f"202611{28 - days}", StudyDescription=words)
            for n, (days, words) in enumerate([(0, "Chest"), (2, "CHEST"), (1, "Knee"), (0, "Skull"), (9, "Chest")])
        ]
        keys = Identifier.of(StudyDate="20261101-20261128")
        original = made(rows, keys=keys, returned=("StudyDate", "StudyDescription", "StudyInstanceUID"))
        write_recording(self.recording, replaced(original), force=False)

    def call(self, *arguments: str) -> Result:
        return CliRunner().invoke(root, ("--config", str(self.before), "test", *arguments), standalone_mode=False)

    def json(self, *arguments: str) -> Any:
        result = self.call(*arguments, "--format", "json")
        assert result.exception is None, result.exception
        return json.loads(result.stdout)

    def case(self, text: str) -> list[str]:
        """The diagnostics of a case of this recording; what its line says, without the place."""
        (self.before / "tests.yaml").write_text(f"tests:\n  case:\n    rule: chest\n{text}")
        return [f"{one.line} {one.code} {one.message}" for one in config.load(self.before).diagnostics]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_replay_says_what_each_rule_would_decide(bench: Bench) -> None:
    said = bench.json("--replay", str(bench.recording))
    assert (said["source"], said["studies"]) == ("archive", 5)
    (rule,) = said["rules"]
    assert (rule["rule"], rule["counts"], rule["notes"]) == ("chest", {"move": 2, "hold": 0, "skip": 3}, [])
    assert [(one["study"], one["decision"], one["code"]) for one in rule["decisions"]] == [
        ("study-1", "move", "new"),
        ("study-2", "move", "new"),
        ("study-5", "skip", "key"),
        ("study-3", "skip", "condition"),
        ("study-4", "skip", "condition"),
    ]
    text = bench.call("--replay", str(bench.recording), "--rule", "chest").stdout
    assert re.search(r"chest: 2 move, 0 hold, 3 skip", text)
    assert re.search(r"skip +2 +StudyDescription does not match \(\?i\)chest", text)


def test_a_replay_against_a_changed_configuration_says_what_differs(bench: Bench) -> None:
    said = bench.json("--replay", str(bench.recording), "--against", str(bench.after))
    assert (said["added"], said["removed"], said["unchanged"]) == (1, 1, 1)
    (rule,) = said["rules"]
    assert (rule["change"], rule["added"], rule["removed"], rule["changed"]) == (None, 1, 1, 1)
    by_study = {one["study"]: one for one in rule["differences"]}
    assert (by_study["study-3"]["before"]["decision"], by_study["study-3"]["after"]["decision"]) == ("skip", "move")
    assert by_study["study-2"]["after"]["code"] == "key"
    text = bench.call("--replay", str(bench.recording), "--against", str(bench.after)).stdout
    assert "chest: +1 -1 (=1 unchanged), 1 otherwise decided" in text
    assert re.search(
        r"\+ +study-3 +workstation +skip: StudyDescription does not match .* +move: not moved before", text
    )
    assert "In all: +1 -1 (=1 unchanged)" in text


def test_a_replay_says_what_the_recording_cannot_say(bench: Bench) -> None:
    text = RULES.replace("2d", "90d").replace(
        "where: {", "where: {BodyPartExamined: CHEST, InstitutionName: {exists: true}, "
    )
    (bench.before / "rules.yaml").write_text(text)
    (rule,) = bench.json("--replay", str(bench.recording))["rules"]
    again = "record it with: dicom-router query archive --rule chest --record FILE"
    assert rule["notes"] == [
        f"The recording was not asked for BodyPartExamined, InstitutionName; {again}",
        "The recording was asked for less than the rule asks, so that there may be more.",
    ]
    series_rule = RULES.replace("keys:", "level: SERIES, keys:").replace("StudyDescription", "SeriesDescription")
    (bench.before / "rules.yaml").write_text(series_rule)
    (rule,) = bench.json("--replay", str(bench.recording))["rules"]
    assert rule["notes"][0].startswith("The recording has no series, which the rule looks at")


OF_PATIENTS = RULES.replace("keys: {", "keys: {PatientID: P1, ").replace(
    "where: {", "where: {PatientName: {like: D*}, AccessionNumber: {exists: true}, InstitutionName: ZKH, "
)


def record_patients(bench: Bench, **fields: Any) -> None:
    row = Identifier.of(
        StudyInstanceUID="1.2", StudyDate="20261128", StudyDescription="Chest", PatientID="P1", PatientName="DOE^J"
    )
    keys = Identifier.of(StudyDate="20261101-20261128", PatientID="P1")
    original = made([row], keys=keys, returned=("StudyDate", "StudyDescription", "PatientID"), **fields)
    write_recording(bench.recording, replaced(original), force=True)


def test_a_replay_says_that_a_rule_looks_at_what_is_replaced(bench: Bench) -> None:
    (bench.before / "rules.yaml").write_text(OF_PATIENTS)
    record_patients(bench, rule="another", kept=("InstitutionName",))
    (rule,) = bench.json("--replay", str(bench.recording))["rules"]
    assert rule["notes"][0] == (
        "The rule chest looks at PatientID, PatientName, which a recording replaces: "
        "what it says of that is not what the source's rows would give."
    )
    assert [one["code"] for one in rule["decisions"]] == ["key"]


@pytest.mark.parametrize("made_by", ["chest", ""])
def test_keys_that_are_replaced_count_as_fulfilled_where_the_recording_was_made_by_them(
    bench: Bench, made_by: str
) -> None:
    (bench.before / "rules.yaml").write_text(RULES.replace("keys: {", "keys: {PatientID: P1, "))
    record_patients(bench, rule=made_by)
    (rule,) = bench.json("--replay", str(bench.recording))["rules"]
    assert rule["counts"]["move"] == 1
    assert rule["notes"] == [
        "The rule chest asks for PatientID, which a recording replaces: it counts as fulfilled here."
    ]
    assert bench.case("    recording: recordings/archive.yaml\n    expect: {study-1: move}\n") == []
    assert bench.json()["failed"] == 0


def test_a_changed_time_zone_of_the_source_is_a_difference(bench: Bench) -> None:
    rows = [Identifier.of(StudyInstanceUID="1.2", StudyDate="20261128", StudyDescription="Chest")]
    original = made(rows, keys=Identifier.of(StudyDate="20261128"), returned=("StudyDate", "StudyDescription"))
    original = msgspec.structs.replace(original, recorded_at=datetime(2026, 11, 28, 23, tzinfo=UTC))
    write_recording(bench.recording, original, force=True)
    today = RULES.replace("today-2d..today", "today").replace("Europe/Berlin", "UTC")
    (bench.before / "rules.yaml").write_text(today)
    (bench.after / "rules.yaml").write_text(today.replace("UTC", "Pacific/Kiritimati"))
    said = bench.json("--replay", str(bench.recording), "--against", str(bench.after))
    assert (said["added"], said["removed"]) == (0, 1)
    by_zone = "archive was recorded in Europe/Berlin; by this configuration it is Pacific/Kiritimati."
    assert by_zone in said["rules"][0]["notes"]


@pytest.mark.parametrize("name", ["[/x]", "[bold red]x[/bold red]", "\x1b[31mred\x1b]0;title\x07"])
def test_names_in_a_recording_are_shown_as_they_are_and_send_nothing_to_the_terminal(bench: Bench, name: str) -> None:
    row = Identifier.of(StudyInstanceUID="1.2", StudyDate="20261127", StudyDescription="Knee")
    written = dumped(made([row])).decode()
    bench.recording.write_text(written.replace("study-1", json.dumps(name)))
    done = bench.call("--replay", str(bench.recording), "--against", str(bench.after))
    assert done.exception is None, done.exception
    assert name.replace("\x1b", "\ufffd").replace("\x07", "\ufffd") in done.stdout
    assert "\x1b" not in done.stdout


def test_the_results_are_well_formed_xml_whatever_a_recording_says(bench: Bench, tmp_path: Path) -> None:
    row = Identifier.of(StudyInstanceUID="1.2", StudyDate="20261128", StudyDescription="Kn\x01ee\ufffe\x1b]0;<x>\x07")
    write_recording(bench.recording, made([row]), force=True)
    bench.case("    recording: recordings/archive.yaml\n    expect: {study-1: move}\n")
    results = tmp_path / "results.xml"
    assert bench.call("--junit", str(results)).return_value == 1
    (failure,) = ElementTree.parse(results).iter("failure")
    assert "Kn\ufffdee\ufffd\ufffd]0;<x>\ufffd" in (failure.text or "")


@pytest.mark.parametrize("year", ["0001", "0999", "9000", "9999"])
def test_a_moment_at_the_end_of_the_calendar_is_a_diagnostic(bench: Bench, year: str) -> None:
    now = f"    now: {year}-01-01T00:00\n"
    (told,) = bench.case(f"{now}    studies: {{x: {{StudyDate: 20261128}}}}\n    expect: {{x: move}}\n")
    assert told.startswith("4 DR")
    assert "too near to the end of the calendar" in told


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--replay", "none.yaml"], ConfigurationError, "none.yaml: error DR071 cannot be read"),
        (["--rule", "chest"], UsageError, "go with --replay"),
        (["--against", "x"], UsageError, "go with --replay"),
        (["--replay", "RECORDING", "--run", "x"], UsageError, "runs no case"),
        (["--replay", "RECORDING", "--rule", "chst"], UsageError, "did you mean chest"),
        (["--replay", "RECORDING", "--against", "nowhere"], ConfigurationError, "--against"),
    ],
)
def test_what_cannot_be_replayed_is_one_sentence(
    bench: Bench, arguments: list[str], error: type[RouterError], message: str
) -> None:
    result = bench.call(*(str(bench.recording) if one == "RECORDING" else one for one in arguments))
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_a_recording_of_another_source_is_replayed_only_to_a_rule_that_is_named(bench: Bench) -> None:
    bench.recording.write_text(bench.recording.read_text().replace('source: "archive"', 'source: "old-archive"'))
    assert "No enabled rule sweeps old-archive" in str(bench.call("--replay", str(bench.recording)).exception)
    (rule,) = bench.json("--replay", str(bench.recording), "--rule", "chest")["rules"]
    assert rule["counts"]["move"] == 2


def test_a_case_may_be_about_a_recording_and_takes_its_now(bench: Bench) -> None:
    assert bench.case("    recording: recordings/archive.yaml\n    expect: {study-1: move, study-4: skip}\n") == []
    said = bench.json()
    assert (said["passed"], said["failed"]) == (1, 0)
    bench.case("    recording: recordings/archive.yaml\n    counts: {move: 2, hold: 0, skip: 3}\n")
    assert bench.json()["failed"] == 0
    bench.case("    recording: recordings/archive.yaml\n    now: 2026-11-29T08:00\n    counts: {move: 1, skip: 4}\n")
    assert bench.json()["failed"] == 0


def test_a_case_about_a_recording_fails_by_its_counts_and_by_the_studies_it_names(bench: Bench) -> None:
    bench.case("    recording: recordings/archive.yaml\n    expect: {study-3: move}\n    counts: {move: 3}\n")
    (case,) = bench.json()["cases"] if bench.call().return_value else pytest.fail("it passed")
    assert [(one["study"], one["expected"]) for one in case["failures"]] == [("study-3", "move"), ("counts", "3 move")]
    assert case["failures"][0]["clauses"] == ["FAIL  StudyDescription matches (?i)chest (seen: Knee)"]


def test_a_recording_that_a_case_cannot_use_is_found_at_its_line(bench: Bench) -> None:
    (told,) = bench.case("    recording: recordings/none.yaml\n    expect: {study-1: move}\n")
    assert told == "4 DR071 tests.case.recording: recordings/none.yaml: cannot be read: No such file or directory"
    bench.recording.write_text(bench.recording.read_text().replace("timezone", "time_zone"))
    (told,) = bench.case("    recording: recordings/archive.yaml\n    expect: {study-1: move}\n")
    assert re.fullmatch(
        r"4 DR071 tests.case.recording: recordings/archive.yaml: \d+:1: has the key 'time_zone', .*", told
    )


def test_a_study_that_the_recording_does_not_have_is_found(bench: Bench) -> None:
    (told,) = bench.case("    recording: recordings/archive.yaml\n    expect: {study-9: move}\n")
    assert told == "5 DR070 tests.case.expect: there is no study 'study-9'"
    (told,) = bench.case("    recording: recordings/archive.yaml\n    counts: {move: 6}\n")
    assert told.startswith("5 DR074 tests.case.counts: there are not so many: 5 in all")
