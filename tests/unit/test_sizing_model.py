"""The arithmetic of the sizing chapter: the slowest stage decides, and only some stages grow with the replicas."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.harness import ROOT
from bench.sizing import Measured
from bench.sizing_model import DAY, NATIONAL, Figures, Site, days, ledger_bytes, memory, stages

FIGURES = Figures(
    cpu_study=0.02,
    cpu_instance=0.001,
    cpu_mebibyte=0.002,
    cpu_forward_study=0.01,
    cpu_forward_instance=0.001,
    cpu_forward_mebibyte=0.001,
    cpu_known=0.00002,
    cpu_rule_day=10.0,
    ledger_study=1000.0,
    ledger_instance=300.0,
    ledger_forward=800.0,
    resident=100e6,
    resident_rule=20e3,
    resident_node=50e3,
    fsync_seconds=0.002,
    transfer_seconds=0.005,
)


def test_the_slowest_stage_is_worked_out_by_hand() -> None:
    site = dataclasses.replace(NATIONAL, source_query_seconds=0.0)
    slowest, *others = stages(site, FIGURES, 1)
    assert slowest.name.startswith("source")
    assert slowest.instances_a_second == pytest.approx(60 * 8)
    assert days(site, FIGURES, 1) == pytest.approx(1e9 / 480 / DAY)
    assert all(stage.instances_a_second >= 480 for stage in others)
    fsync = next(stage for stage in others if stage.name.endswith("fsync"))
    assert fsync.instances_a_second == pytest.approx(4 / (2 * 0.002))


def test_what_is_asked_of_the_source_slows_it_down() -> None:
    slowest = stages(NATIONAL, FIGURES, 1)[0]
    # 200 instances take 200/480 s, the two questions 0.1 s each on one of eight associations.
    assert slowest.instances_a_second == pytest.approx(200 / (200 / 480 + 0.025))


def test_the_ledger_and_the_memory_are_sums() -> None:
    assert ledger_bytes(NATIONAL, FIGURES) == pytest.approx(5e6 * 1000 + 1e9 * 300)
    passed_on = dataclasses.replace(NATIONAL, forward=True)
    assert ledger_bytes(passed_on, FIGURES) - ledger_bytes(NATIONAL, FIGURES) == pytest.approx(5e6 * 800)
    assert memory(FIGURES, rules=11, nodes=3) == pytest.approx(100e6 + 10 * 20e3 + 2 * 50e3)


SITES = st.builds(
    Site,
    instances=st.floats(1e3, 1e10),
    instances_a_study=st.floats(1, 5000),
    bytes_an_instance=st.floats(1e3, 1e9),
    source_instances_a_second=st.floats(0.1, 1e4),
    source_associations=st.integers(1, 64),
    source_query_seconds=st.floats(0.0, 60.0),
    network_bits_a_second=st.floats(1e6, 1e11),
    cores=st.integers(1, 128),
    disk_bytes_a_second=st.floats(1e6, 1e11),
    open_hours=st.floats(0.5, 24.0),
    forward=st.booleans(),
)


@given(SITES, st.integers(1, 20))
def test_more_replicas_help_where_they_can_and_never_harm(site: Site, replicas: int) -> None:
    one = {stage.name: stage for stage in stages(site, FIGURES, 1)}
    many = {stage.name: stage for stage in stages(site, FIGURES, replicas)}
    for name, stage in many.items():
        grown = stage.instances_a_second / one[name].instances_a_second
        assert grown == pytest.approx(replicas if stage.scales else 1)
    assert days(site, FIGURES, replicas) <= days(site, FIGURES, 1) * (1 + 1e-9)


@given(SITES, st.integers(1, 20))
def test_the_time_is_the_slowest_stages(site: Site, replicas: int) -> None:
    rates = [stage.instances_a_second for stage in stages(site, FIGURES, replicas)]
    assert rates == sorted(rates)
    assert days(site, FIGURES, replicas) * rates[0] * site.open_hours * 3600 == pytest.approx(site.instances)


@given(SITES)
def test_passing_on_as_well_costs_time_and_room(site: Site) -> None:
    alone, both = dataclasses.replace(site, forward=False), dataclasses.replace(site, forward=True)
    assert days(both, FIGURES, 3) >= days(alone, FIGURES, 3) * (1 - 1e-9)
    assert ledger_bytes(both, FIGURES) > ledger_bytes(alone, FIGURES)


def test_what_was_measured_is_worked_out_for_another_site_without_measuring(tmp_path: Path) -> None:
    measured = Measured(
        machine="x86_64, 2 processors, load 0.1",
        ledger="sqlite",
        at="2026-11-29",
        figures=vars(FIGURES),
        grown={"0": 0.021, "1000000": 0.042},
    )
    path = tmp_path / "sizing.json"
    path.write_bytes(msgspec.json.encode(measured))
    done = subprocess.run(
        [sys.executable, "-m", "bench.sizing", "--figures", path, "--instances", "1e6", "--source-query-seconds", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1,000,000 in the ledger before" in done.stdout
    assert "2.00x" in done.stdout
    assert "1,000,000 instances of 0.50 MiB in 5,000 studies, 0.5 TB" in done.stdout
    bottlenecks = [line for line in done.stdout.splitlines() if "bottleneck" in line]
    assert [line.split(" replicas")[0].strip() for line in bottlenecks] == ["1", "3", "10"]
    assert all(line.endswith("source: its C-MOVE, and the questions about each study") for line in bottlenecks)
