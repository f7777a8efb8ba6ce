"""The configuration's own tests: the form of a case, what it is compared with, and how `dicom-router test` tells it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from router import config
from router.cli.main import root
from router.domain.case import NOT_ASKED, uid_of
from router.domain.dicom import is_uid
from router.errors import ConfigurationError, RouterError, UsageError

RULES = """\
nodes:
  ris: {ae_title: RIS, address: 127.0.0.1:105}
  archive: {ae_title: ARCHIVE, address: 127.0.0.1:104, timezone: Asia/Tokyo}
  workstation: {ae_title: WS, address: 127.0.0.1:106}
rules:
  tomorrow:
    worklist:
      source: ris
      every: 15m
      keys: {ScheduledProcedureStepStartDate: today..today+1d}
    where:
      Modality: [CT, MR]
    priors:
      source: archive
      groups:
        - {name: same-kind, where: {modality: same}, max: 1, within: 5y}
        - {name: recent, max: 1, within: 1y}
      keep_oldest_relevant: false
    move: {to: [workstation, local]}
  plain:
    sweep: {source: archive, every: 5m, keys: {StudyDate: today}}
    move: {to: [local]}
"""
HEAD = """\
tests:
  case:
    rule: tomorrow
    now: 2026-11-28T08:00
    current:
      PatientID: "4711"
      PatientBirthDate: 19600102
      PatientSex: F
      Modality: MR
      ScheduledProcedureStepStartDate: today
"""
LINES_BEFORE = HEAD.count("\n")


class Bench:
    """A directory with RULES and the cases of a test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "rules"
        self.directory.mkdir()
        (self.directory / "rules.yaml").write_text(RULES)

    def write(self, text: str, *, whole: bool = False) -> None:
        """`text` goes on after HEAD, unless it is the whole section."""
        body = textwrap.dedent(text)
        (self.directory / "tests.yaml").write_text(body if whole else HEAD + textwrap.indent(body, "    "))

    def command(self, *arguments: str) -> Result:
        arguments = ("--config", str(self.directory), "test", *arguments)
        return CliRunner().invoke(root, arguments, standalone_mode=False)

    def result(self) -> list[dict[str, str]]:
        """The failures of the one case."""
        outcome = self.command("--format", "json")
        assert outcome.stdout, outcome.exception or outcome.stderr
        (case,) = json.loads(outcome.stdout)["cases"]
        failures: list[dict[str, str]] = case["failures"]
        assert case["passed"] is (not failures)
        assert outcome.return_value == (1 if failures else 0)
        return failures

    def findings(self) -> list[tuple[str, int, str]]:
        loaded = config.load(self.directory)
        return [(Path(one.file).name, one.line, str(one.code)) for one in loaded.diagnostics]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


STUDIES = """\
studies:
  mr: {StudyDate: today-2y, ModalitiesInStudy: [MR]}
  ct: {StudyDate: 20260601, ModalitiesInStudy: CT}
  us: {StudyDate: 2026-05-01, ModalitiesInStudy: [US, SR]}
"""


def test_a_case_holds_where_everything_is_as_expected(bench: Bench) -> None:
    bench.write(
        STUDIES
        + """\
expect:
  mr: {decision: move, group: same-kind}
  ct: {decision: move, group: recent}
  us: {decision: skip, code: full}
"""
    )
    assert bench.result() == []


def test_decisions_alone_will_do_and_what_is_not_named_must_not_move(bench: Bench) -> None:
    bench.write(STUDIES + "expect: {mr: move, us: skip}\n")
    failures = bench.result()
    assert [(one["study"], one["destination"]) for one in failures] == [("ct", "workstation"), ("ct", "local")]
    assert failures[0]["expected"] == "skip, for the case does not name it"
    assert failures[0]["got"].startswith("move, group recent, code taken")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("skip", "skip"),
        ("{decision: move, group: recent}", "move, group recent"),
        ("{decision: move, code: oldest}", "move, code oldest"),
        ("{decision: move, score: 0}", "move, score 0"),
        ("{decision: move, reason: the moon}", "move, a reason with 'the moon'"),
    ],
)
def test_each_part_of_an_expectation_counts(bench: Bench, wanted: str, expected: str) -> None:
    bench.write(STUDIES + f"destination: local\nexpect: {{mr: {wanted}, ct: move}}\n")
    (failure,) = bench.result()
    assert failure["expected"] == expected
    assert failure["got"].startswith("move, group same-kind, code taken, score ")


def test_a_part_of_the_reason_is_enough_whatever_its_capital_letters(bench: Bench) -> None:
    bench.write(STUDIES + "destination: local\nexpect: {mr: {decision: move, reason: nonesuch}, ct: move}\n")
    (failure,) = bench.result()
    reason = failure["got"].partition(": ")[2]
    bench.write(STUDIES + f"expect: {{mr: {{decision: move, reason: {json.dumps(reason.upper())}}}, ct: move}}\n")
    assert bench.result() == []


def test_what_a_destination_holds_counts_there_alone(bench: Bench) -> None:
    bench.write(
        STUDIES
        + """\
at: {workstation: [mr]}
expect: {mr: {decision: skip, code: present}, ct: move}
"""
    )
    assert [(one["study"], one["destination"]) for one in bench.result()] == [("mr", "local")]
    bench.write(
        STUDIES
        + """\
destination: workstation
at: {workstation: [mr]}
expect: {mr: {decision: skip, code: present}, ct: move}
"""
    )
    assert bench.result() == []


def test_what_was_brought_for_the_same_visit_fills_its_group(bench: Bench) -> None:
    bench.write(
        STUDIES
        + """\
brought: {us: recent}
expect: {mr: move, us: {decision: move, group: recent}, ct: {decision: skip, code: full}}
"""
    )
    assert bench.result() == []


def test_a_study_is_of_the_current_patient_unless_it_says_otherwise(bench: Bench) -> None:
    bench.write(
        """\
studies:
  stranger: {PatientID: "4712", StudyDate: today-1y, ModalitiesInStudy: [MR]}
  unsure: {PatientBirthDate: null, StudyDate: today-1y, ModalitiesInStudy: [MR]}
  blank: {PatientSex: "", StudyDate: today-1y, ModalitiesInStudy: [MR]}
  own: {StudyDate: today-1y, ModalitiesInStudy: [MR]}
expect:
  stranger: {decision: skip, code: another-patient}
  unsure: {decision: skip, code: identity-unsure}
  blank: {decision: skip, code: identity-unsure}
  own: move
"""
    )
    assert bench.result() == []


def test_dates_count_from_the_now_of_the_case(bench: Bench) -> None:
    bench.write(
        """\
studies:
  young: {StudyDate: today-5y+1d, ModalitiesInStudy: [MR]}
  old: {StudyDate: today-5y-1d, ModalitiesInStudy: [MR]}
  later: {StudyDate: 20261130, ModalitiesInStudy: [MR]}
  undated: {StudyDate: , ModalitiesInStudy: [US]}
expect:
  young: move
  old: {decision: skip, code: too-old}
  later: {decision: skip, code: later}
  undated: move
"""
    )
    assert bench.result() == []


def test_the_rules_condition_is_asked_of_the_current_study(bench: Bench) -> None:
    bench.write(
        """\
        tests:
          ultrasound:
            rule: tomorrow
            now: 2026-11-28 08:00:30
            current: {PatientID: 1, Modality: US}
            studies: {ct: {StudyDate: today-1d, ModalitiesInStudy: CT}}
            expect: {ct: {decision: skip, code: where, reason: "(`where`) does not hold"}}
        """,
        whole=True,
    )
    assert bench.result() == []


@pytest.mark.parametrize("patient_id", ["'*'", "''", "null", "'47?1'", r"'a\b'"])
def test_a_patient_id_that_must_not_be_asked_for_brings_nothing(bench: Bench, patient_id: str) -> None:
    bench.write(
        f"""\
        tests:
          hostile:
            rule: tomorrow
            now: 2026-11-28T08:00
            current: {{PatientID: {patient_id}, Modality: MR}}
            studies: {{mr: {{StudyDate: today-1d, ModalitiesInStudy: MR}}}}
            expect: {{mr: {{decision: skip, code: patient-id}}}}
        """,
        whole=True,
    )
    assert bench.result() == []


def test_codes_of_a_sequence_are_given_as_lists(bench: Bench) -> None:
    bench.write(
        """\
studies:
  mr:
    StudyDate: today-1y
    ModalitiesInStudy: [MR]
    ProcedureCodeSequence: [{code: "0123", scheme: L, meaning: Knee}, {code: X}]
  same: {StudyInstanceUID: 1.2.3, StudyDate: 20200101}
expect: {mr: move}
"""
    )
    (case,) = config.load(bench.directory).cases
    first, second = case.studies["mr"].values("ProcedureCodeSequence")
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert (first.text("CodeValue"), first.text("CodingSchemeDesignator"), first.text("CodeMeaning")) == (
        "0123",
        "L",
        "Knee",
    )
    assert (second.text("CodeValue"), "CodingSchemeDesignator" in second) == ("X", False)
    assert case.studies["same"].text("StudyInstanceUID") == "1.2.3"
    assert case.now.isoformat() == "2026-11-28T08:00:00+09:00"


def test_a_made_up_uid_is_a_uid_and_always_the_same() -> None:
    assert is_uid(uid_of("ct-abdomen"))
    assert uid_of("ct-abdomen") == uid_of("ct-abdomen") != uid_of("ct-chest")


# --- What validate says ----------------------------------------------------------------------------------------------

MISTAKES = [
    # what follows HEAD, the line after it, code
    ("studies: {mr: {StudyDat: today}}\nexpect: {mr: move}\n", 1, "DR030"),
    ("studies: {mr: {StudyDate: someday}}\nexpect: {mr: move}\n", 1, "DR034"),
    ("studies: {mr: {StudyDate: today-2d..today}}\nexpect: {mr: move}\n", 1, "DR070"),
    ("studies: {mr: {ProcedureCodeSequence: [CT]}}\nexpect: {mr: move}\n", 1, "DR070"),
    ("studies: {mr: {StudyDescription: [{code: CT}]}}\nexpect: {mr: move}\n", 1, "DR070"),
    ("studies: {mr: {StudyInstanceUID: 1.2}, ct: {StudyInstanceUID: 1.2}}\nexpect: {mr: move}\n", 1, "DR070"),
    ("studies: {mr: {}}\nexpect: {rm: move}\n", 2, "DR070"),
    ("studies: {mr: {}}\nexpect: {mr: {decision: move, group: same-knd}}\n", 2, "DR070"),
    ("studies: {mr: {}}\nexpect: {mr: {decision: skip, code: presnt}}\n", 2, "DR070"),
    ("studies: {mr: {}}\nexpect: {mr: perhaps}\n", 2, "DR014"),
    ("studies: {mr: {}}\nexpect: {mr: {group: recent}}\n", 2, "DR013"),
    ("studies: {mr: {}}\nexpect: {mr: move}\nat: {workstation: [rm]}\n", 3, "DR070"),
    ("studies: {mr: {}}\nexpect: {mr: move}\nat: {archive: [mr]}\n", 3, "DR070"),
    ("studies: {mr: {}}\nexpect: {mr: move}\nbrought: {rm: recent}\n", 3, "DR070"),
    ("studies: {mr: {}}\nexpect: {mr: move}\nbrought: {mr: rescent}\n", 3, "DR070"),
    ("studies: {mr: {}}\nexpect: {mr: move}\ndestination: archive\n", 3, "DR070"),
    ("studies: {mr: {}}\nexpect: {mr: move}\nwhen: today\n", 3, "DR010"),
    ("studies: {mr: {}}\nexpect: {mr: hold}\n", 2, "DR074"),
    ("studies: {mr: {}}\nexpect: {mr: {decision: move, to: {locl: skip}}}\n", 2, "DR070"),
    ("studies: {mr: {series: {one: {}}}}\nexpect: {mr: move}\n", 1, "DR072"),
    ("studies: {mr: {}}\nexpect: {mr: move}\nledger: {mr: {local: complete}}\n", 3, "DR072"),
    ("studies: {mr: {}}\nexpect: {mr: move}\nmanual: false\n", 3, "DR072"),
    ("expect: {mr: move}\nrecording: none.yaml\n", 2, "DR071"),
]


@pytest.mark.parametrize(("text", "line", "code"), MISTAKES, ids=[str(number) for number in range(len(MISTAKES))])
def test_a_mistake_in_a_case_is_found_at_its_place(bench: Bench, text: str, line: int, code: str) -> None:
    bench.write(text)
    assert bench.findings() == [("tests.yaml", LINES_BEFORE + line, code)]


def test_a_case_needs_a_rule(bench: Bench) -> None:
    text = HEAD.replace("rule: tomorrow", "rule: tomorow") + "    studies: {mr: {}}\n    expect: {mr: move}\n"
    bench.write(text, whole=True)
    (finding,) = config.load(bench.directory).diagnostics
    message = "tests.case.rule: there is no rule 'tomorow' (did you mean tomorrow?)"
    assert str(finding).endswith(f"tests.yaml:3:11: error DR070 {message}")


def test_a_time_that_no_calendar_has_is_found(bench: Bench) -> None:
    bench.write(HEAD.replace("11-28", "02-30") + "    studies: {mr: {}}\n    expect: {mr: move}\n", whole=True)
    assert bench.findings() == [("tests.yaml", 4, "DR014")]


def test_what_follows_from_a_mistake_is_not_told_as_another(bench: Bench) -> None:
    bench.write("studies: {mr: MR}\nexpect: {mr: move}\n")
    assert bench.findings() == [("tests.yaml", LINES_BEFORE + 1, "DR012")]


@pytest.mark.parametrize(
    ("without", "code"), [("current", "DR013"), ("now", "DR013"), ("studies", "DR013"), ("expect", "DR074")]
)
def test_what_a_case_about_priors_needs_is_found_at_its_name(bench: Bench, without: str, code: str) -> None:
    parts = {
        "rule": "rule: tomorrow",
        "now": "now: 2026-11-28T08:00",
        "current": "current: {PatientID: 1, Modality: MR}",
        "studies": "studies: {mr: {}}",
        "expect": "expect: {mr: move}" if without != "studies" else "counts: {move: 0}",
    }
    lines = ["tests:", "  case:", *(f"    {line}" for key, line in parts.items() if key != without)]
    bench.write("\n".join(lines) + "\n", whole=True)
    assert bench.findings() == [("tests.yaml", 2, code)]


def test_a_name_of_two_cases_is_found(bench: Bench) -> None:
    bench.write(STUDIES + "expect: {mr: move}\n")
    (bench.directory / "twice.yaml").write_bytes((bench.directory / "tests.yaml").read_bytes())
    assert bench.findings() == [("twice.yaml", 2, "DR020")]


def test_validating_runs_no_case(bench: Bench) -> None:
    bench.write(STUDIES + "expect: {mr: skip}\n")
    result = CliRunner().invoke(root, ["--config", str(bench.directory), "validate"])
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_configuration_with_mistakes_is_not_tested(bench: Bench) -> None:
    bench.write("studies: {mr: {}}\nexpect: {rm: move}\n")
    result = bench.command()
    assert isinstance(result.exception, ConfigurationError)
    assert "DR070" in result.stderr


# --- The command -----------------------------------------------------------------------------------------------------

SEVERAL = """\
tests:
  knee-good:
    rule: tomorrow
    now: 2026-11-28T08:00
    current: &current {PatientID: 1, PatientBirthDate: 19600102, PatientSex: F, Modality: MR}
    studies: &studies {mr: {StudyDate: today-1d, ModalitiesInStudy: MR}}
    expect: {mr: move}
  knee-bad:
    rule: tomorrow
    now: 2026-11-28T08:00
    destination: local
    current: *current
    studies: *studies
    expect: {mr: skip}
  spine:
    rule: tomorrow
    now: 2026-11-28T08:00
    current: *current
    studies: *studies
    expect: {mr: {decision: move, group: same-kind}}
"""


def test_each_case_has_a_line_and_a_failure_its_difference(bench: Bench) -> None:
    bench.write(SEVERAL, whole=True)
    result = bench.command()
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == "ok    knee-good"
    assert lines[1] == f"FAIL  knee-bad  {bench.directory}/tests.yaml:8:3"
    assert lines[2].split() == ["mr", "at", "local"]
    assert lines[3].split() == ["expected", "skip"]
    assert lines[4].split()[:6] == ["got", "move,", "group", "same-kind,", "code", "taken,"]
    assert lines[-2:] == ["ok    spine", "3 cases: 2 passed, 1 failed."]


def test_cases_are_chosen_by_a_part_of_their_name(bench: Bench) -> None:
    bench.write(SEVERAL, whole=True)
    assert bench.command("--run", "knee-g").stdout.splitlines()[-1] == "1 case: 1 passed, 0 failed."
    assert bench.command("--run", "k*d").stdout.splitlines()[-1] == "2 cases: 1 passed, 1 failed."
    result = bench.command("--run", "elbow")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "No case's name holds elbow; there are: knee-good, knee-bad, spine"


def test_junit_says_the_same(bench: Bench, tmp_path: Path) -> None:
    bench.write(SEVERAL, whole=True)
    bench.command("--junit", str(tmp_path / "results.xml"))
    suites = ElementTree.parse(tmp_path / "results.xml").getroot()
    assert (suites.get("tests"), suites.get("failures")) == ("3", "1")
    cases = suites.findall("testsuite/testcase")
    assert [(case.get("name"), case.get("classname"), case.get("line")) for case in cases] == [
        ("knee-good", "tomorrow", "2"),
        ("knee-bad", "tomorrow", "8"),
        ("spine", "tomorrow", "15"),
    ]
    assert [case.find("failure") is not None for case in cases] == [False, True, False]
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.get("message") == "1 study decided otherwise"
    assert "mr at local\n  expected skip\n  got      move" in str(failure.text)


def test_a_file_that_cannot_be_written_is_told(bench: Bench, tmp_path: Path) -> None:
    bench.write(SEVERAL, whole=True)
    result = bench.command("--junit", str(tmp_path / "nowhere" / "results.xml"))
    assert isinstance(result.exception, RouterError)
    assert "cannot be written to" in str(result.exception)


def test_json_has_each_case_with_its_failures(bench: Bench) -> None:
    bench.write(SEVERAL, whole=True)
    found: dict[str, Any] = json.loads(bench.command("--format", "json").stdout)
    assert (found["passed"], found["failed"]) == (2, 1)
    assert [(case["name"], case["rule"], case["passed"]) for case in found["cases"]] == [
        ("knee-good", "tomorrow", True),
        ("knee-bad", "tomorrow", False),
        ("spine", "tomorrow", True),
    ]
    assert [len(case["failures"]) for case in found["cases"]] == [0, 1, 0]


def test_where_there_are_no_cases_it_says_so(bench: Bench) -> None:
    assert bench.command().stdout.strip() == "The configuration has no test cases (section tests)."


def test_why_nothing_was_asked_is_a_sentence() -> None:
    assert all(sentence.endswith(".") for sentence in NOT_ASKED.values())
