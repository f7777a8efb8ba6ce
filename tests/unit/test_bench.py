"""The benchmark itself: its ratios, its table, its JSON, its files; and that it runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.catalogue import BENCHMARKS
from bench.harness import Bench, Contender, program
from bench.instances import Instances
from bench.matches import SYNTAXES, attributes, identifiers
from bench.result import Row, Series, Target, as_json, at_least, more_by_under, table, under, verdict
from router.dimse.identifier import decode
from tests.support.part10 import read_part10

ROOT = Path(__file__).parents[2]


def row(ours: list[float], peer: list[float], target: Target | None, work: str = "Work") -> Row:
    return Row(
        work, "things/s", Series("router", tuple(ours), 7, "fsync"), Series("a peer", tuple(peer), 3, "none"), target
    )


@pytest.mark.parametrize(
    ("ours", "peer", "target", "figure", "met"),
    [
        ([100.0, 1.0, 40.0], [4.0], at_least(10), 10.0, True),
        ([39.9], [4.0], at_least(10), 9.975, False),
        ([3.0], [2.0], under(1.5), 1.5, False),
        ([2.9], [2.0], under(1.5), 1.45, True),
        ([50.0], [18.5], more_by_under(32), 31.5, True),
        ([50.0], [18.0], more_by_under(32), 32.0, False),
        ([6.0], [2.0], None, 3.0, None),
    ],
)
def test_the_result_is_that_of_the_medians_and_the_target_says_which_way_is_good(
    ours: list[float], peer: list[float], target: Target | None, figure: float, met: bool | None
) -> None:
    one = row(ours, peer, target)
    assert one.figure == pytest.approx(figure)
    assert one.met is met


def test_the_table_shows_both_sides_the_result_the_target_and_whether_it_is_met() -> None:
    text = table(
        [
            row([2400.0], [2.0], at_least(40), "Storing"),
            row([30.0], [40.0], at_least(1.2), "Storing"),
            row([14.97], [1.0], at_least(15), "Storing"),
            row([40.0], [10.0], more_by_under(32), "Memory"),
            row([40.0], [10.0], None, "Memory"),
        ]
    )
    lines = [re.sub("  +", "|", line.strip()) for line in text.splitlines()]
    headings = "ours|peer|ours|peer|result|target"
    assert lines == [
        "Storing",
        headings,
        "router [fsync]|a peer [none]|2,400|2|things/s|1200x|>= 40x|met",
        "router [fsync]|a peer [none]|30|40|things/s|0.75x|>= 1.2x|NOT MET",
        "router [fsync]|a peer [none]|15|1|things/s|14.9x|>= 15x|NOT MET",
        "",
        "Memory",
        headings,
        "router [fsync]|a peer [none]|40|10|things/s|+30.0|< +32|met",
        "router [fsync]|a peer [none]|40|10|things/s|4.00x|-",
    ]
    storing = [line for line in text.splitlines() if "things/s" in line][:3]
    assert len({line.index("things/s") for line in storing}) == 1, "columns are aligned"


def test_the_verdict_counts_and_names_what_is_not_met() -> None:
    good, bad, unjudged = row([4.0], [1.0], at_least(3)), row([2.0], [1.0], at_least(3)), row([1.0], [1.0], None)
    assert verdict([good, unjudged]) == "1 of 1 targets met."
    assert verdict([good, bad, unjudged]).splitlines() == [
        "1 of 2 targets met; not met:",
        "  Work: router [fsync] / a peer [none]: 2.00x",
    ]


def test_json_holds_every_run() -> None:
    (content,) = json.loads(json.dumps(as_json([row([3.0, 1.0, 2.0], [1.0], at_least(3))])))
    assert content == {
        "work": "Work",
        "unit": "things/s",
        "ours": {
            "label": "router",
            "durability": "fsync",
            "median": 2.0,
            "spread": 1.0,
            "count": 7,
            "values": [3.0, 1.0, 2.0],
        },
        "peer": {"label": "a peer", "durability": "none", "median": 1.0, "spread": 0.0, "count": 3, "values": [1.0]},
        "result": 2.0,
        "target": {"bound": "ratio at least", "value": 3},
        "met": False,
    }


def test_contenders_take_turns_and_each_is_first_in_some_round(tmp_path: Path) -> None:
    order: list[str] = []

    def contender(name: str) -> Contender:
        def work() -> float:
            order.append(name)
            return float(len(order))

        return Contender(name, work, count=1)

    series = Bench(tmp_path).compete([contender("a"), contender("b"), contender("c")], 3)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [one.label for one in series] == ["a", "b", "c"]
    assert [one.values for one in series] == [(1.0, 6.0, 8.0), (2.0, 4.0, 9.0), (3.0, 5.0, 7.0)]


def test_files_become_other_instances_of_another_study_with_each_use(tmp_path: Path) -> None:
    files = Instances(tmp_path, rows=64, number=3)
    seen: set[str] = set()
    for _ in range(2):
        paths = files.renewed(3)
        parts = [read_part10(path) for path in paths]
        uids = {part.sop_instance_uid for part in parts}
        assert len(uids) == 3
        for part in parts:
            assert part.dataset.count(part.sop_instance_uid.encode()) == 1
        assert len({uid.split(".1.")[0] for uid in uids}) == 1
        seen |= uids
    assert len(seen) == 6


@pytest.mark.parametrize("implicit", [False, True])
def test_canned_matches_are_what_they_say(implicit: bool) -> None:
    for number, data in enumerate(identifiers(7, implicit=implicit)):
        found = decode(data, SYNTAXES[implicit])
        for keyword, value in attributes(number).items():
            assert "\\".join(map(str, found.values(keyword))) == value, keyword


def test_programs_of_the_virtual_environment_are_not_taken_for_dcmtk() -> None:
    assert (Path(sys.prefix) / "bin" / "storescp").exists(), "pynetdicom brings one of the same name"
    assert Path(program("storescp")).parent != Path(sys.prefix) / "bin"


def test_names_are_unique() -> None:
    assert len({benchmark.name for benchmark in BENCHMARKS}) == len(BENCHMARKS)


def test_a_quick_run_prints_a_table_writes_json_and_leaves_nothing_behind(tmp_path: Path) -> None:
    work, target = tmp_path / "work", tmp_path / "figures.json"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--only", "decode", "--json", target, "--directory", work],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(target.read_text())
    assert content["quick"] is True
    assert content["failures"] == {}
    rows = content["benchmarks"]["decode"]
    assert {one["peer"]["label"] for one in rows} == {"pynetdicom", "findscu -q, less its start"}
    for one in rows:
        assert one["work"] in done.stdout
        assert all(value > 0 for side in ("ours", "peer") for value in one[side]["values"])
        assert one["result"] == pytest.approx(one["ours"]["median"] / one["peer"]["median"])
    assert "figures mean nothing" in done.stdout
    assert list(work.iterdir()) == []


def test_a_quick_round_of_sweeps_has_its_time_and_its_memory(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--only", "round", "--json", target, "--directory", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(target.read_text())
    assert content["failures"] == {}
    assert [row["unit"] for row in content["benchmarks"]["round"]] == ["s", "MiB more"]
    assert {row["ours"]["count"] for row in content["benchmarks"]["round"]} == {3 * 500}


def test_an_unknown_name_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "bench", "--only", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "decode" in done.stderr
