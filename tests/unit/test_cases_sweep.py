"""Cases about sweeps: what the source answers, what the ledger says, what is moved, held and skipped, and why."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from router import config
from router.cli.main import root
from router.domain.sweep_case import CODES, SweepCase

RULES = """\
nodes:
  archive: {ae_title: ARCHIVE, address: 127.0.0.1:104, timezone: Asia/Tokyo}
  workstation: {ae_title: WS, address: 127.0.0.1:106}
rules:
  chest:
    sweep:
      source: archive
      tiers: [{every: 10m, lookback: 2h}, {cron: "0 2 * * *", lookback: 7d}]
      keys: {ModalitiesInStudy: [CT, MR]}
    where:
      StudyDescription: {matches: "(?i)chest"}
      NumberOfStudyRelatedInstances: {gte: 2}
    move: {to: [workstation, local]}
  settling:
    sweep: {source: archive, every: 5m, keys: {StudyDate: today}, settle: 10m}
    limits: {studies_per_sweep: 2}
    move: {to: [workstation]}
  daily:
    sweep: {source: archive, every: 5m, keys: {StudyDate: today}}
    limits: {instances_per_day: 1000}
    move: {to: [workstation]}
  doses:
    sweep:
      source: archive
      level: SERIES
      every: 1h
      keys: {StudyDate: today, Modality: [SR, KO]}
    where: {SeriesDescription: {matches: dose}}
    move: {to: [local], level: SERIES}
  whole-studies:
    sweep:
      source: archive
      level: SERIES
      every: 1h
      keys: {StudyDate: today, Modality: SR}
    move: {to: [local]}
  each-series:
    sweep: {source: archive, every: 1h, keys: {StudyDate: today}}
    move: {to: [local], level: SERIES}
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

    def findings(self, rule: str, text: str) -> list[tuple[int, str]]:
        self.write(rule, text)
        return [(one.line, str(one.code)) for one in config.load(self.directory).diagnostics]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


CHEST = "{StudyDate: today, ModalitiesInStudy: [CT], StudyDescription: CT chest, NumberOfStudyRelatedInstances: 300}"


def test_keys_and_condition_decide_and_say_which(bench: Bench) -> None:
    assert not bench.failures(
        "chest",
        f"""\
        studies:
          good: {CHEST}
          knee: {{StudyDate: today, ModalitiesInStudy: [MR], StudyDescription: Knee, NumberOfStudyRelatedInstances: 3}}
          sonography: {{StudyDate: today, ModalitiesInStudy: [US], StudyDescription: Chest}}
          old: {{StudyDate: today-8d, ModalitiesInStudy: [CT], StudyDescription: Chest}}
        expect:
          good: {{decision: move, code: new}}
          knee: {{decision: skip, code: condition, reason: StudyDescription does not match}}
          sonography: {{decision: skip, code: key, reason: ModalitiesInStudy}}
          old: {{decision: skip, code: key, reason: StudyDate}}
        """,
    )


def test_a_study_that_is_not_named_must_be_skipped(bench: Bench) -> None:
    (first, second) = bench.failures("chest", f"studies: {{a: {CHEST}, b: {CHEST}}}\nexpect: {{a: move}}\n")
    assert [(one["study"], one["destination"]) for one in (first, second)] == [("b", "workstation"), ("b", "local")]
    assert first["expected"] == "skip, for the case does not name it"


@pytest.mark.parametrize(("tier", "decision"), [("tier: 1", "skip"), ("tier: 2", "move"), ("", "move")])
def test_the_tier_says_how_far_the_sweep_looks_back_the_widest_unless_it_is_named(
    bench: Bench, tier: str, decision: str
) -> None:
    study = CHEST.replace("today", "today-3d")
    assert not bench.failures("chest", f"{tier}\nstudies: {{old: {study}}}\nexpect: {{old: {decision}}}\n".lstrip())


def test_times_of_day_are_those_of_the_source(bench: Bench) -> None:
    near = CHEST.replace("StudyDate", 'StudyTime: "061000", StudyDate')
    far = CHEST.replace("StudyDate", 'StudyTime: "055000", StudyDate')
    text = (
        f"tier: 1\nstudies: {{near: {near}, far: {far}}}\nexpect: {{near: move, far: {{decision: skip, code: key}}}}\n"
    )
    assert not bench.failures("chest", text)


@pytest.mark.parametrize(
    ("fact", "manual", "wanted"),
    [
        ("complete", "true", "{decision: skip, code: done}"),
        ("{state: complete, instances: 120}", "true", "{decision: move, code: grew, reason: from 120 to 300}"),
        ("moving", "true", "{decision: skip, code: under-way}"),
        ("{state: failed, cause: out-of-resources}", "false", "{decision: skip, code: failed-before, reason: out-of}"),
        ("{state: failed, cause: out-of-resources}", "true", "{decision: move, code: again}"),
        ("nothing", "false", "{decision: move, code: again}"),
        ("held", "true", "{decision: hold, code: held, reason: administrator}"),
        ("cancelled", "true", "{decision: skip, code: done}"),
    ],
)
def test_what_the_ledger_says_counts_for_its_destination(bench: Bench, fact: str, manual: str, wanted: str) -> None:
    assert not bench.failures(
        "chest",
        f"""\
        manual: {manual}
        studies: {{ct: {CHEST}}}
        ledger: {{ct: {{workstation: {fact}}}}}
        expect: {{ct: {{decision: move, code: new, to: {{workstation: {wanted}}}}}}}
        """,
    )


def test_what_a_destination_holds_is_not_moved_there(bench: Bench) -> None:
    assert not bench.failures(
        "chest",
        f"""\
        studies: {{ct: {CHEST}}}
        at: {{workstation: [ct]}}
        expect: {{ct: {{decision: move, to: {{workstation: {{decision: skip, code: present}}}}}}}}
        """,
    )


def test_a_study_settles_until_it_has_stayed_the_same(bench: Bench) -> None:
    row = "{StudyDate: today, NumberOfStudyRelatedInstances: 40}"
    assert not bench.failures(
        "settling",
        f"""\
        studies: {{fresh: {row}, young: {row}, settled: {row}, grown: {row}, gone: {{StudyDate: today-1d}}}}
        ledger:
          young: {{workstation: {{state: held, cause: settling, since: 5m}}}}
          settled: {{workstation: {{state: held, cause: settling, since: 11m}}}}
          grown: {{workstation: {{state: held, cause: settling, since: 2026-11-28T07:40, instances: 30}}}}
          gone: {{workstation: {{state: held, cause: settling, since: 20m}}}}
        expect:
          fresh: {{decision: hold, code: settling}}
          young: {{decision: hold, code: settling}}
          settled: {{decision: move, code: released}}
          grown: {{decision: hold, code: settling}}
          gone: {{decision: move, code: released}}
        counts: {{move: 2, hold: 3, skip: 0}}
        """,
    )


def test_limits_hold_back_what_is_over_and_let_go_what_waited_longest(bench: Bench) -> None:
    row = "{StudyDate: today, NumberOfStudyRelatedInstances: 400}"
    waiting = "{workstation: {state: held, cause: studies-per-sweep, since: %s}}"
    assert not bench.failures(
        "settling",
        f"""\
        studies: {{a: {row}, b: {row}, c: {row}}}
        ledger: {{a: {waiting % "1h"}, b: {waiting % "3h"}, c: {waiting % "2h"}}}
        expect: {{a: {{decision: hold, code: limit}}, b: move, c: move}}
        """,
    )
    text = f"""\
        queued_today: 500
        studies: {{a: {row}, b: {row}}}
        expect: {{a: move, b: {{decision: hold, code: limit, reason: instances_per_day}}}}
        """
    assert not bench.failures("daily", text)
    assert bench.failures("daily", text.replace("500", "100"))[0]["study"] == "b"


def test_series_stand_below_their_study_and_are_expected_by_both_names(bench: Bench) -> None:
    assert not bench.failures(
        "doses",
        """\
        studies:
          ct:
            StudyDate: today
            series:
              dose: {Modality: SR, SeriesDescription: dose report}
              report: {Modality: SR, SeriesDescription: findings}
              thin: {Modality: CT, SeriesDescription: dose}
          old: {StudyDate: today-1d, series: {dose: {Modality: SR, SeriesDescription: dose}}}
          bare: {StudyDate: today, series: {}}
          unknown: {StudyDate: today}
        expect:
          ct/dose: {decision: move, code: new}
          ct/report: {decision: skip, code: condition}
          ct: {decision: skip, code: key}
          old: {decision: skip, code: key}
          bare: {decision: skip, code: no-series}
          unknown: {decision: skip, code: unknown, reason: series are not known}
        counts: {move: 1, skip: 5}
        """,
    )


def test_a_sweep_of_series_may_move_their_studies(bench: Bench) -> None:
    assert not bench.failures(
        "whole-studies",
        """\
        studies:
          with: {StudyDate: today, series: {a: {Modality: CT}, b: {Modality: SR}}}
          without: {StudyDate: today, series: {a: {Modality: CT}}}
        expect: {with: move, with/a: {decision: skip, code: key}, with/b: move, without: {decision: skip, code: key}}
        """,
    )


def test_a_ledger_of_series_says_series(bench: Bench) -> None:
    text = """\
        studies:
          ct:
            StudyDate: today
            series: {a: {NumberOfSeriesRelatedInstances: 7}, b: {NumberOfSeriesRelatedInstances: 9}}
        ledger: {ct/a: {local: complete}, ct/b: {local: {state: complete, instances: 3}}}
        expect: {ct/a: {decision: skip, code: done}, ct/b: {decision: move, code: grew, reason: from 3 to 9}}
        """
    assert not bench.failures("each-series", text)
    assert bench.findings("each-series", text.replace("ct/a: {local", "ct: {local")) == [(9, "DR073")]


def test_what_a_row_lacks_follows_from_its_series_or_is_not_known(bench: Bench) -> None:
    assert not bench.failures(
        "chest",
        """\
        studies:
          computed:
            StudyDate: today
            StudyDescription: chest
            series:
              a: {Modality: CT, NumberOfSeriesRelatedInstances: 1}
              b: {Modality: SR, NumberOfSeriesRelatedInstances: 1}
          too-few:
            StudyDate: today
            StudyDescription: chest
            series: {a: {Modality: CT, NumberOfSeriesRelatedInstances: 1}}
          unknown: {StudyDate: today, StudyDescription: chest}
        expect:
          computed: move
          too-few: {decision: skip, code: condition}
          unknown: {decision: skip, code: unknown, reason: neither its row nor its series}
        """,
    )


def test_a_failure_shows_the_clauses_that_decided_with_the_values_seen(bench: Bench) -> None:
    knee = CHEST.replace("CT chest", "Knee")
    failures = bench.failures("chest", f"destination: local\nstudies: {{knee: {knee}}}\nexpect: {{knee: move}}\n")
    assert failures[0]["clauses"] == ["FAIL  StudyDescription matches (?i)chest (seen: Knee)"]
    text = bench.command().stdout
    assert "FAIL  StudyDescription matches (?i)chest (seen: Knee)" in text
    (failure,) = bench.failures("chest", f"destination: local\nstudies: {{ct: {CHEST}}}\nexpect: {{ct: skip}}\n")
    assert failure["clauses"][1:] == [
        "pass  key ModalitiesInStudy: CT, MR (seen: CT)",
        "pass  StudyDescription matches (?i)chest (seen: CT chest)",
        "pass  NumberOfStudyRelatedInstances is at least 2 (seen: 300)",
    ]
    assert failure["clauses"][0].startswith("pass  key StudyDate: now-604800s..now (seen: 20261128)")


def test_counts_say_how_many_in_all(bench: Bench) -> None:
    text = f"studies: {{a: {CHEST}, b: {CHEST}}}\nexpect: {{a: move, b: move}}\ncounts: {{move: 1, skip: 1}}\n"
    (failure,) = bench.failures("chest", text)
    assert failure == {
        "study": "counts",
        "destination": "",
        "expected": "1 move, 1 skip",
        "got": "2 move, 0 hold, 0 skip",
        "clauses": [],
    }


def test_each_code_that_a_case_may_name_is_one_that_comes(bench: Bench) -> None:
    """The words of CODES are those of decisions: the tests above name each but `unavailable`."""
    here = Path(__file__).read_text()
    assert [code for code in CODES if f"code: {code}" not in here] == []
    off = CHEST.replace("StudyDate", "InstanceAvailability: OFFLINE, StudyDate")
    assert not bench.failures(
        "chest", f"studies: {{ct: {off}}}\nexpect: {{ct: {{decision: skip, code: unavailable}}}}\n"
    )


def test_a_held_transfer_of_another_rule_is_let_go_by_this_one(bench: Bench) -> None:
    fact = "{state: held, cause: settling, since: 1h, rule: settling}"
    text = f"studies: {{ct: {CHEST}}}\nledger: {{ct: {{local: {fact}}}}}\n"
    text += "destination: local\nexpect: {ct: {decision: move, code: released}}\n"
    assert not bench.failures("chest", text)


MISTAKES = [
    # what follows the fourth line, the line after it, code
    ("chest", "studies: {a: {}}\nexpect: {b: move}\n", 2, "DR070"),
    ("chest", "studies: {a: {}}\nexpect: {a/b: move}\n", 2, "DR070"),
    ("chest", "studies: {a: {}}\nexpect: {a: {decision: move, code: nw}}\n", 2, "DR070"),
    ("chest", "studies: {a: {}}\nexpect: {a: {decision: move, code: taken}}\n", 2, "DR070"),
    ("chest", "studies: {a: {}}\nexpect: {a: {decision: move, group: x}}\n", 2, "DR074"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\ncurrent: {PatientID: 1}\n", 3, "DR072"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\ntier: 3\n", 3, "DR072"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\ntier: 0\n", 3, "DR014"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\nmanual: perhaps\n", 3, "DR012"),
    ("chest", "studies: {a: {}}\nrecording: x.yaml\nexpect: {a: move}\n", 2, "DR072"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\nledger: {b: {local: complete}}\n", 3, "DR070"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\nledger: {a: {lcal: complete}}\n", 3, "DR070"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\nledger: {a: {local: completed}}\n", 3, "DR014"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\nledger: {a: {local: {cause: settling}}}\n", 3, "DR013"),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\nledger: {a: {local: {state: failed, since: 1h}}}\n", 3, "DR073"),
    (
        "chest",
        "studies: {a: {}}\nexpect: {a: move}\nledger: {a: {local: {state: failed, cause: settling}}}\n",
        3,
        "DR073",
    ),
    ("chest", "studies: {a: {}}\nexpect: {a: move}\nledger: {a: {local: {state: held, since: 1h}}}\n", 3, "DR073"),
    (
        "settling",
        (
            "studies: {a: {}}\n"
            "ledger: {a: {workstation: {state: held, cause: settling, since: 2026-11-28T09:00}}}\ncounts: {move: 0}\n"
        ),
        2,
        "DR073",
    ),
    (
        "settling",
        "studies: {a: {}}\nexpect: {a: move}\nledger: {a: {workstation: {state: held, cause: settling, since: 1q}}}\n",
        3,
        "DR014",
    ),
    ("chest", "studies: {a: {series: {x: {Modalty: CT}}}}\nexpect: {a: move}\n", 1, "DR030"),
    (
        "doses",
        "studies: {a: {series: {x: {SeriesInstanceUID: 1.2}, y: {SeriesInstanceUID: 1.2}}}}\nexpect: {a: move}\n",
        1,
        "DR070",
    ),
    ("chest", "studies: {a: {}}\ncounts: {move: 1, skip: 1}\n", 2, "DR074"),
    ("chest", "studies: {a: {}}\ncounts: {moves: 1}\n", 2, "DR010"),
]


@pytest.mark.parametrize(
    ("rule", "text", "line", "code"), MISTAKES, ids=[str(number) for number in range(len(MISTAKES))]
)
def test_a_mistake_in_a_case_is_found_at_its_place(bench: Bench, rule: str, text: str, line: int, code: str) -> None:
    found = bench.findings(rule, text)
    assert [one for one in found if one != (4 + line, "DR071")] == [(4 + line, code)]


def test_a_case_is_compiled_to_what_it_says(bench: Bench) -> None:
    bench.write(
        "chest",
        f"manual: false\nqueued_today: 7\nstudies: {{ct: {CHEST}}}\nledger: {{ct: {{local: complete}}}}\n"
        "expect: {ct: skip}\n",
    )
    (case,) = config.load(bench.directory).cases
    assert isinstance(case, SweepCase)
    assert (case.manual, case.queued_today, case.tier, case.recorded) == (False, 7, 1, False)
    assert case.now.isoformat() == "2026-11-28T08:00:00+09:00"
