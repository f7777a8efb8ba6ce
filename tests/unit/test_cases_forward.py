"""Cases about passing on: what arrived from whom, what is forwarded and left at each destination, and why."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from router import config
from router.cli.main import root
from router.domain.forward_case import CODES, ForwardCase

RULES = """\
nodes:
  ct1: {ae_title: CT1, address: 127.0.0.1:104, timezone: Asia/Tokyo, push: allow}
  ct2: {ae_title: CT2, address: 127.0.0.1:105, push: allow}
  a: {ae_title: A1, address: 127.0.0.1:106}
  b: {ae_title: B1, address: 127.0.0.1:107}
  research: {ae_title: RES, address: 127.0.0.1:108}
rules:
  chest:
    arrival: {from: [ct1], stable: 90s}
    where: {Modality: CT, StudyDescription: {matches: "(?i)chest"}}
    forward: {to: [research, {any_of: [a, b]}]}
  originals:
    arrival: {from: [ct1], level: series}
    where:
      ImageType: ORIGINAL
      "(0009,1002)": {exists: true}
      AnatomicRegionSequence.CodeValue: T-D3000
    forward: {to: [research], level: instance}
  series:
    arrival: {}
    where: {Modality: SR}
    forward: {to: [research], level: series}
  whole:
    arrival: {}
    where: {ModalitiesInStudy: SR, NumberOfStudyRelatedInstances: {gte: 2}, StudyDate: today}
    forward: {to: [research]}
  turns:
    arrival: {}
    forward: {to: [{round_robin: [a, b]}]}
  moves:
    sweep: {source: a, every: 5m, keys: {StudyDate: today}}
    move: {to: [local]}
"""


class Bench:
    """A directory with RULES and one case."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "rules"
        self.directory.mkdir()
        (self.directory / "rules.yaml").write_text(RULES)

    def write(self, rule: str, text: str) -> None:
        head = f"tests:\n  case:\n    rule: {rule}\n    now: 2026-11-28T08:00\n"
        (self.directory / "tests.yaml").write_text(head + textwrap.indent(textwrap.dedent(text), "    "))

    def command(self, *arguments: str) -> Result:
        return CliRunner().invoke(
            root, ("--config", str(self.directory), "test", *arguments), standalone_mode=False, catch_exceptions=False
        )

    def failures(self, rule: str, text: str) -> list[dict[str, Any]]:
        self.write(rule, text)
        outcome = self.command("--format", "json")
        (case,) = json.loads(outcome.stdout)["cases"]
        assert outcome.return_value == (1 if case["failures"] else 0)
        found: list[dict[str, Any]] = case["failures"]
        return found

    def findings(self, rule: str, text: str) -> list[tuple[int, str, str]]:
        self.write(rule, text)
        return [(one.line, str(one.code), one.message) for one in config.load(self.directory).diagnostics]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


CHEST = "{Modality: CT, StudyDescription: Chest CT}"


def test_a_study_that_matches_goes_to_each_destination_and_to_the_first_of_a_group(bench: Bench) -> None:
    assert not bench.failures(
        "chest",
        f"""\
        received: {{chest: {CHEST}, knee: {{Modality: CT, StudyDescription: Knee}}}}
        expect:
          chest: {{decision: forwarded, code: new, to: {{b: {{decision: left, code: group, reason: a gets it}}}}}}
          knee: {{decision: left, code: condition, reason: StudyDescription does not match}}
        """,
    )


def test_what_is_not_named_must_be_left(bench: Bench) -> None:
    found = bench.failures("chest", f"received: {{x: {CHEST}}}\nexpect: {{}}\n")
    assert [(one["study"], one["destination"]) for one in found] == [("x", "research"), ("x", "a")]
    assert found[0]["expected"] == "left, for the case does not name it"


def test_what_fails_says_what_it_saw(bench: Bench) -> None:
    found = bench.failures(
        "chest", "received: {x: {Modality: MR, StudyDescription: Chest}}\ndestination: research\nexpect: {x: forwarded}"
    )
    assert found == [
        {
            "study": "x",
            "destination": "research",
            "expected": "forwarded",
            "got": "left, code condition: Modality is not CT",
            "clauses": ["FAIL  Modality is CT (seen: MR)"],
        }
    ]
    assert "at research" in bench.command().stdout


def test_only_what_the_senders_of_the_rule_sent_counts(bench: Bench) -> None:
    assert not bench.failures(
        "chest",
        f"""\
        received: {{mine: {CHEST}, other: {{from: ct2, Modality: CT, StudyDescription: Chest}}}}
        expect: {{mine: {{decision: forwarded, to: {{b: left}}}}, other: {{decision: left, code: from}}}}
        """,
    )


def test_a_study_that_still_comes_is_left(bench: Bench) -> None:
    assert not bench.failures(
        "chest",
        """\
        received:
          coming:
            Modality: CT
            StudyDescription: Chest
            instances: {first: {ago: 10m}, last: {ago: 89s}}
          quiet: {Modality: CT, StudyDescription: Chest, ago: 90s}
        destination: research
        expect:
          coming: {decision: left, code: quiet, reason: less than 90 s ago}
          coming/first: {decision: left, code: quiet}
          quiet: forwarded
        """,
    )


def test_an_instance_goes_by_private_and_nested_attributes_of_its_own(bench: Bench) -> None:
    assert not bench.failures(
        "originals",
        """\
        received:
          chest:
            "(0009,1002)": SECRET
            AnatomicRegionSequence.CodeValue: T-D3000
            AnatomicRegionSequence.CodingSchemeDesignator: SRT
            instances:
              good: {ImageType: [ORIGINAL, PRIMARY]}
              derived: {ImageType: [DERIVED, PRIMARY]}
              plain: {ImageType: ORIGINAL, "(0009,1002)": null}
              elsewhere: {ImageType: ORIGINAL, AnatomicRegionSequence.CodeValue: T-D4000}
              listed: {ImageType: ORIGINAL, AnatomicRegionSequence: [{code: X}, {code: T-D3000}]}
        expect:
          chest/good: forwarded
          chest/derived: {decision: left, reason: ImageType}
          chest/plain: {decision: left, reason: "(0009,1002)"}
          chest/elsewhere: {decision: left, reason: AnatomicRegionSequence.CodeValue}
          chest/listed: forwarded
        """,
    )


def test_at_level_series_one_instance_takes_its_series_and_no_other(bench: Bench) -> None:
    assert not bench.failures(
        "series",
        """\
        received:
          s:
            instances:
              image: {series: images, Modality: CT}
              dose: {series: reports, Modality: SR}
              key: {series: reports, Modality: KO}
        expect: {s/reports: forwarded, s/key: forwarded, s/images: {decision: left, code: condition}}
        """,
    )


def test_what_is_counted_from_what_arrived_and_days_from_now_can_be_asked_for(bench: Bench) -> None:
    assert not bench.failures(
        "whole",
        """\
        received:
          both: {StudyDate: today, instances: {ct: {Modality: CT}, sr: {series: reports, Modality: SR}}}
          images: {StudyDate: today, instances: {one: {Modality: CT}, two: {Modality: CT}}}
          alone: {StudyDate: today, Modality: SR}
          old: {StudyDate: today-1d, instances: {ct: {Modality: CT}, sr: {series: reports, Modality: SR}}}
        expect:
          both: forwarded
          images: {decision: left, reason: ModalitiesInStudy}
          alone: {decision: left, reason: NumberOfStudyRelatedInstances}
          old: {decision: left, reason: StudyDate}
        """,
    )


def test_what_is_there_is_not_sent_again_and_what_has_come_since_is(bench: Bench) -> None:
    assert not bench.failures(
        "whole",
        """\
        received:
          s: {StudyDate: today, instances: {ct: {Modality: CT}, sr: {series: r, Modality: SR}, late: {Modality: CT}}}
          t: {StudyDate: today, instances: {ct: {Modality: CT}, sr: {series: r, Modality: SR}}}
          u: {StudyDate: today, instances: {ct: {Modality: CT}, sr: {series: r, Modality: SR}}}
        manual: false
        ledger:
          s: {research: {state: complete, instances: 2}}
          t: {research: complete}
          u: {research: {state: failed, cause: store-refused}}
        expect:
          s: {decision: forwarded, code: grew, reason: 1 more instance}
          s/late: forwarded
          s/sr: {decision: left, code: done}
          t: {decision: left, code: done}
          u: {decision: left, code: failed-before, reason: store-refused}
        """,
    )


def test_who_sent_it_does_not_get_it_back(bench: Bench) -> None:
    assert not bench.failures(
        "turns",
        """\
        received: {x: {from: a}, y: {from: b}}
        expect:
          x: {decision: forwarded, to: {a: {decision: left, code: sender}}}
          y: {decision: forwarded, to: {b: {decision: left, code: sender}}}
        """,
    )


def test_groups_choose_by_health_and_by_what_each_has_got(bench: Bench) -> None:
    assert not bench.failures(
        "chest",
        f"""\
        received: {{x: {CHEST}}}
        health: {{a: down}}
        expect: {{x: {{decision: forwarded, to: {{a: {{decision: left, reason: a does not answer}}}}}}}}
        """,
    )
    assert not bench.failures(
        "turns",
        """\
        received: {x: {}, y: {}, z: {}}
        given: {a: 5, b: 4}
        expect:
          x: {decision: forwarded, to: {a: left}}
          y: {decision: forwarded, to: {b: left}}
          z: {decision: forwarded, to: {a: left}}
        """,
    )


def test_every_code_that_a_case_may_name_is_known_and_no_other(bench: Bench) -> None:
    for code in CODES:
        assert not bench.findings("whole", f"received: {{x: {{}}}}\nexpect: {{x: {{decision: left, code: {code}}}}}\n")
    assert bench.findings("whole", "received: {x: {}}\nexpect: {x: {decision: left, code: settling}}\n")


@pytest.mark.parametrize(
    ("rule", "text", "code", "part"),
    [
        ("chest", "studies: {x: {}}\nreceived: {x: {}}\nexpect: {x: left}", "DR072", "passes on what arrives"),
        ("chest", "received: {x: {}}\ntier: 1\nexpect: {x: left}", "DR072", "passes on what arrives"),
        ("moves", "studies: {x: {}}\nreceived: {x: {}}\nexpect: {x: move}", "DR072", "passes nothing on"),
        ("chest", "expect: {}", "DR013", "needs 'received'"),
        ("chest", "received: {x: {}}", "DR074", "expects nothing"),
        ("chest", "received: {x: {}}\nexpect: {x: move}", "DR074", "never 'move'"),
        ("moves", "studies: {x: {}}\nexpect: {x: forwarded}", "DR074", "never 'forwarded'"),
        ("chest", "received: {x: {from: mr}}\nexpect: {x: left}", "DR070", "no node 'mr'"),
        ("chest", "received: {x: {}}\nhealth: {ct1: down}\nexpect: {x: left}", "DR070", "no destination 'ct1'"),
        ("chest", "received: {x: {}}\nexpect: {y: left}", "DR070", "no study 'y'"),
        ("chest", "received: {x: {}}\nexpect: {x/z: left}", "DR070", "no study 'x/z'"),
        ("chest", "received: {x: {StudyDat: today}}\nexpect: {x: left}", "DR030", "'StudyDat' is no DICOM attribute"),
        ("chest", "received: {x: {Modality.CodeValue: 1}}\nexpect: {x: left}", "DR030", "no sequence"),
        ("chest", "received: {x: {ago: later}}\nexpect: {x: left}", "DR014", "ago"),
        ("chest", "received: {x: {ago: 2026-11-29T08:00}}\nexpect: {x: left}", "DR073", "after the now"),
        (
            "chest",
            "received: {x: {instances: {r: {series: r}}}}\nexpect: {x: left}",
            "DR070",
            "r is the name of an instance and of a series",
        ),
        (
            "chest",
            "received: {x: {}}\nledger: {x: {a: {state: complete, instances: 3}}}\nexpect: {x: left}",
            "DR073",
            "of 3 instances the case has 1",
        ),
    ],
)
def test_a_mistake_in_a_case_is_said_where_it_stands(bench: Bench, rule: str, text: str, code: str, part: str) -> None:
    found = bench.findings(rule, text + "\n")
    assert [one[1] for one in found] == [code], found
    assert part in found[0][2]
    assert found[0][0] >= 2


def test_the_configuration_holds_the_case_as_a_value(bench: Bench) -> None:
    bench.write("chest", f"received: {{x: {CHEST}}}\nexpect: {{x: left}}\n")
    (case,) = config.load(bench.directory).cases
    assert isinstance(case, ForwardCase)
    assert (case.rule, case.destinations, case.place) == (
        "chest",
        ("research", "a", "b"),
        f"{bench.directory}/tests.yaml:2:3",
    )
