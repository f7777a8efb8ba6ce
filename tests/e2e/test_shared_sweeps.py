"""Rules that ask a source the same share one C-FIND, whether the service asks or a person."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.process import wait_for
from tests.support.router import Site, node

QUESTIONS: list[dict[str, Any]] = [
    {"StudyDate": "today-1d..today", "ModalitiesInStudy": "CT"},
    {"StudyDate": "today-1d..today", "ModalitiesInStudy": "MR"},
    {"StudyDate": "20200101..20200131"},
    {"PatientID": "P1"},
    {"StudyDate": "today", "AccessionNumber": "A1"},
]
DESCRIPTIONS = ["chest", "head", "knee"]
BODY_PARTS: list[dict[str, Any]] = [{}, {"StudyID": {"exists": True}}]
PERIOD = 4


@pytest.fixture
def archive() -> Iterator[SimulatedPacs]:
    with SimulatedPacs("ARCHIVE") as pacs:
        pacs.add(make_study(seed="a", study_date=date.today(), instances=1))
        pacs.add(make_study(seed="b", study_date=date.today() - timedelta(days=1), instances=1))
        yield pacs


def questions(archive: SimulatedPacs) -> list[tuple[str, ...]]:
    """What was asked at STUDY level, by the keys that had a value."""
    asked = [one.keys for one in archive.record.of("find") if one.level == "STUDY"]
    return [tuple(sorted(f"{key}={value}" for key, value in keys.items() if value)) for keys in asked]


def site(directory: Path, archive: SimulatedPacs, rules: dict[str, Any]) -> Site:
    made = Site(directory, nodes={"archive": node("ARCHIVE", archive.port)}, rules=rules)
    archive.set_destination("ROUTER", "127.0.0.1", made.dicom_port)
    return made


def fifty(every: str) -> dict[str, Any]:
    return {
        f"rule-{number}": {
            "sweep": {"source": "archive", "every": every, "keys": QUESTIONS[number % 5]},
            "where": {"StudyDescription": {"matches": DESCRIPTIONS[number % 3]}, **BODY_PARTS[number % 2]},
            "move": {"to": ["local"]},
        }
        for number in range(50)
    }


def swept(metrics: str) -> list[int]:
    """How often each rule's sweep was complete."""
    found = re.findall(r'sweeps_total\{[^}]*result="complete"[^}]*\} (\d+)', metrics)
    return [int(times) for times in found]


def test_fifty_rules_with_five_questions_make_five_queries_in_a_period(tmp_path: Path, archive: SimulatedPacs) -> None:
    with site(tmp_path, archive, fifty(f"{PERIOD}s")).run() as router:
        wait_for(lambda: min(swept(router.metrics())) >= 3, "three sweeps of each rule", seconds=60)
        periods = max(swept(router.metrics()))
    times = Counter(questions(archive))
    assert len(times) == 5, times
    # The last period may have begun without its sweeps being counted yet.
    assert all(3 <= number <= periods + 1 for number in times.values()), (periods, times)


def test_plan_and_apply_share_too_and_a_wider_answer_serves(tmp_path: Path, archive: SimulatedPacs) -> None:
    sweep = {"source": "archive", "every": "1h"}
    move = {"to": ["local"]}
    rules: dict[str, Any] = {
        "wide": {"sweep": sweep | {"keys": {"StudyDate": "today-7d..today"}}, "move": move},
        "today": {"sweep": sweep | {"keys": {"StudyDate": "today"}}, "move": move},
        "ct": {"sweep": sweep | {"keys": {"StudyDate": "today-7d..today", "ModalitiesInStudy": "CT"}}, "move": move},
    }
    made = site(tmp_path, archive, rules)
    planned = made.json("plan")
    assert len(questions(archive)) == 1
    assert sorted(sweep["queries"] for sweep in planned["sweeps"]) == [0, 0, 1]
    assert sum("served here too" in sweep["account"] for sweep in planned["sweeps"]) == 2
    applied = made.apply()
    assert len(questions(archive)) == 2
    assert {row["verdict"] for row in applied["transfers"]} == {"complete"}
    assert len(applied["transfers"]) == 2


def test_a_wider_answer_that_is_cut_short_does_not_serve(tmp_path: Path, archive: SimulatedPacs) -> None:
    for number in range(30):
        archive.add(make_study(seed=f"c{number}", study_date=date.today() - timedelta(days=3), instances=1))
    archive.behaviour = Behaviour(max_results=20, capped_status=0xFE00, unmatched_keys=frozenset({"StudyTime"}))
    sweep = {"source": "archive", "every": "1h"}
    rules: dict[str, Any] = {
        "today": {"sweep": sweep | {"keys": {"StudyDate": "today"}}, "move": {"to": ["local"]}},
        "wide": {"sweep": sweep | {"keys": {"StudyDate": "today-7d..today"}}, "move": {"to": ["local"]}},
    }
    planned = {row["rule"]: row for row in site(tmp_path, archive, rules).json("plan")["sweeps"]}
    assert planned["today"]["complete"]
    assert planned["today"]["matches"] == 1


def test_what_a_match_does_not_show_is_asked_for_by_itself(tmp_path: Path, archive: SimulatedPacs) -> None:
    archive.behaviour = Behaviour(omit=frozenset({"AccessionNumber"}))
    sweep = {"source": "archive", "every": "1h"}
    rules: dict[str, Any] = {
        "one": {
            "sweep": sweep | {"keys": {"StudyDate": "today", "AccessionNumber": "none"}},
            "move": {"to": ["local"]},
        },
        "wide": {"sweep": sweep | {"keys": {"StudyDate": "today-7d..today"}}, "move": {"to": ["local"]}},
    }
    planned = {row["rule"]: row for row in site(tmp_path, archive, rules).json("plan")["sweeps"]}
    assert planned["one"]["matches"] == 0
    assert planned["wide"]["matches"] == 2
