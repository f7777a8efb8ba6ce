"""An archive is protected from this router: by what it sees on the wire, over all rules and kinds of work."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Intent, NewTransfer, State
from router.ledger.ledger import SqlLedger
from router.simulator import Behaviour, SimulatedPacs, make_study, make_uid
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

INSTANCES = 2


class Ward:
    """An archive with studies, and a router."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, *, studies: int) -> None:
        self.stack = stack
        self.studies = studies
        self.site = Site(directory, nodes={}, rules={}, router={"drain": "0s"})
        # Not a port of the kernel's choice: another's outgoing connection could take it while the archive is down.
        self.archive = SimulatedPacs("ARCHIVE", port=free_port())
        for number in range(studies):
            self.archive.add(
                make_study(seed=f"s{number}", study_date=date.today(), instances=INSTANCES, patient_id=f"P{number}")
            )
        self.archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        stack.enter_context(self.archive)

    def run(self, rules: dict[str, Any], **settings: Any) -> RunningRouter:
        self.site.configure(nodes={"archive": node("ARCHIVE", self.archive.port, **settings)}, rules=rules)
        return self.stack.enter_context(self.site.run())

    def complete(self) -> bool:
        return len(self.rows(state="complete")) == self.studies

    def rows(self, **wanted: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.json("transfers", "list")["transfers"]
        return [row for row in found if all(row[key] == value for key, value in wanted.items())]


def rule(every: str = "1h", **more: Any) -> dict[str, Any]:
    move = {"to": ["local"], "retry": {"attempts": 4, "delay": "1s"}, **more.pop("move", {})}
    return {
        "sweep": {"source": "archive", "every": every, "keys": {"StudyDate": "today-1d..today"}},
        "move": move,
    } | more


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def metric(router: RunningRouter, name: str) -> float:
    found = re.search(rf"^dicom_router_{re.escape(name)} (\S+)$", router.metrics(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_an_archive_with_one_association_never_sees_two(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """Twenty rules, their sweeps and moves, C-GET and C-MOVE, repairs, and probes after it was gone for a while."""
    ward = Ward(tmp_path / "site", stack, studies=20)
    archive = ward.archive
    archive.behaviour = Behaviour(deliver_fraction=0.5)
    rules = {}
    for number in range(20):
        # Each rule has a question of its own, half of them bring their studies by C-GET, on associations of their own.
        one = rule(every="6s", move={"via": "get" if number % 2 else "move"})
        one["sweep"]["keys"]["PatientID"] = f"P{number}"
        rules[f"rule{number}"] = one
    router = ward.run(rules, breaker={"failures": 2, "pause": "1s", "maximum_pause": "2s"})
    archive.record.wait_for("move", count=3, ended=True, timeout_seconds=60)
    archive.record.wait_for("get", count=2, ended=True, timeout_seconds=60)
    peak = archive.associations_peak
    archive.stop()
    wait_for(lambda: metric(router, 'breaker_open{node="archive"}') == 1, "the breaker", 60)
    archive.behaviour = Behaviour()
    archive.record.clear()
    archive.start()
    wait_for(lambda: metric(router, 'breaker_open{node="archive"}') == 0, "a probe that gets through", 60)
    wait_for(ward.complete, "all transfers", 120, interval=1.0)
    assert (peak, archive.associations_peak) == (1, 1)
    kinds = [operation.kind for operation in archive.record]
    assert kinds[0] == "echo"
    asked = archive.record.of("find")
    assert asked[0].keys["StudyInstanceUID"].startswith("2.25.")
    assert asked[0].association == 1
    assert {"move", "get"} <= set(kinds)
    assert len({find.keys.get("PatientID") for find in asked if find.level == "STUDY"}) > 15, "the sweeps went on"
    assert {row["verdict"] for row in ward.rows()} == {"complete"}


def test_a_duty_cycle_is_kept(tmp_path: Path, stack: contextlib.ExitStack, record_property: Any) -> None:
    ward = Ward(tmp_path / "site", stack, studies=40)
    busy: dict[int, list[float]] = {}
    lock, begin, end = threading.Lock(), ward.archive.record.begin, ward.archive.record.end

    def begun(operation: Any) -> int:
        number = begin(operation)
        with lock:
            busy[number] = [time.monotonic()]
        return number

    def ended(number: int, status: int) -> None:
        with lock:
            busy[number].append(time.monotonic())
        end(number, status)

    ward.archive.record.begin = begun  # type: ignore[method-assign]
    ward.archive.record.end = ended  # type: ignore[method-assign]
    ward.archive.behaviour = Behaviour(response_delay_seconds=0.8)  # long beside what a busy machine adds
    router = ward.run({"all": rule(every="5s")}, limits={"associations": 1, "duty": "50%"})
    ward.archive.record.wait_for("move", timeout_seconds=60)
    time.sleep(30)
    with lock:
        spans = [span for _, span in sorted(busy.items()) if len(span) == 2]
    # The last one does not count: its rest is yet to come.
    share = sum(last - first for first, last in spans[:-1]) / (spans[-1][0] - spans[0][0])
    record_property("share", share)
    assert not ward.complete(), "there was always something to do"
    assert 0.3 <= share <= 0.6
    assert metric(router, 'node_waits_total{node="archive",reason="duty"}') > 5


def test_queries_per_minute_and_moves_per_hour_are_kept_even_over_a_restart(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    ward = Ward(tmp_path / "site", stack, studies=8)
    site = ward.site
    limits = {"associations": 4, "moves_per_hour": 3}
    router = ward.run({"all": rule(every="5s")}, limits=limits)
    ward.archive.record.wait_for("move", count=3, ended=True, timeout_seconds=60)
    wait_for(lambda: len(ward.rows(state="complete")) == 3, "three transfers", 60)
    finds = len(ward.archive.record.of("find"))
    ward.archive.record.wait_for("find", count=finds + 2, ended=True, timeout_seconds=60)
    assert len(ward.archive.record.of("move")) == 3
    router.stop()
    site.configure(
        nodes={"archive": node("ARCHIVE", ward.archive.port, limits=limits | {"queries_per_minute": 3})},
        rules={"all": rule(every="5s")},
    )
    ward.archive.record.clear()
    with site.run():
        ward.archive.record.wait_for("find", count=3, ended=True, timeout_seconds=60)
        time.sleep(12)
        assert len(ward.archive.record.of("find")) == 3
        assert len(ward.archive.record.of("move")) == 0, "the hour is not over"
    assert {row["attempts"] for row in ward.rows(state="queued")} == {0}


def test_work_of_a_dead_archive_keeps_its_budget_and_is_done_when_it_is_back(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    ward = Ward(tmp_path / "site", stack, studies=6)
    ward.archive.stop()
    now = datetime.now(UTC)
    rules = {"all": rule(move={"retry": {"attempts": 2, "delay": "1s"}})}
    with SqlLedger.open(ward.site.settings["ledger"]) as ledger:
        ledger.add_sweeps([SweepDue(rule="all", source="archive", due_at=now, tier=7)])
        claimed = ledger.claim_sweep(["archive"], now, 60)
        assert claimed is not None
        intents = [Intent("archive", str(make_uid(f"s{number}")), "", "local") for number in range(ward.studies)]
        new = [NewTransfer(intent=one, rule="all", priority=1, instance_count=INSTANCES) for one in intents]
        assert ledger.finish_sweep(claimed, SweepReport(state=SweepState.COMPLETE), new, [], now)
    router = ward.run(rules, breaker={"failures": 2, "pause": "1s", "maximum_pause": "2s"})
    wait_for(lambda: metric(router, 'breaker_open{node="archive"}') == 1, "the breaker", 60)
    time.sleep(6)
    rows = ward.rows()
    assert {row["state"] for row in rows} == {"queued"}
    assert sum(row["attempts"] for row in rows) <= 2
    ward.archive.start()
    wait_for(ward.complete, "all transfers", 60)
    assert metric(router, 'breaker_open{node="archive"}') == 0
    assert ward.archive.record.of("echo")
    assert "node left alone" in router.log
    assert "is it running" in router.log


def test_a_workstation_that_takes_one_at_a_time_and_is_closed_by_day(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """Limits of a destination hold back the moves to it, and no others."""
    ward = Ward(tmp_path / "site", stack, studies=6)
    workstation = stack.enter_context(SimulatedPacs("WS1"))
    closed = stack.enter_context(SimulatedPacs("WS2"))
    ward.archive.set_destination("WS1", workstation.host, workstation.port)
    ward.archive.set_destination("WS2", closed.host, closed.port)
    ward.archive.behaviour = replace(ward.archive.behaviour, response_delay_seconds=0.2)
    nodes = {
        "archive": node("ARCHIVE", ward.archive.port, limits={"associations": 4}),
        "ws1": node("WS1", workstation.port, limits={"incoming": 1}),
        "ws2": node("WS2", closed.port, windows=[{"use": "never-today"}]),
    }
    tomorrow = datetime.now(UTC) + timedelta(days=2)
    window = {"timezone": "UTC", "open": [f"{tomorrow:%a} 12:00-12:01".lower()]}
    (ward.site.rules_directory / "windows.yaml").write_text(json.dumps({"windows": {"never-today": window}}))
    ward.site.configure(nodes=nodes, rules={"all": rule(move={"to": ["ws2", "ws1", "local"]})})
    router = stack.enter_context(ward.site.run())
    wait_for(lambda: len(ward.rows(state="complete")) == 2 * ward.studies, "all others", 60)
    assert {row["state"] for row in ward.rows(destination="ws2")} == {"queued"}
    assert closed.associations_total == 0
    assert metric(router, 'window_open{node="ws2"}') == 0
    assert metric(router, 'node_associations_allowed{node="ws2"}') == 0
    assert metric(router, 'node_associations_allowed{node="archive"}') == 4
    with SqlLedger.open(ward.site.settings["ledger"], read_only=True) as ledger:
        done = ledger.transfers(states=[State.COMPLETE], destination="ws1")
        runs = [a for one in done for a in ledger.attempts(one.id) if a.step == "move"]
    runs.sort(key=lambda run: run.started_at)
    assert all(one.finished_at <= other.started_at for one, other in itertools.pairwise(runs))
