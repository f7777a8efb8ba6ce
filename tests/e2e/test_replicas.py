"""Three services on one ledger: one leads, another takes over, and a rolling restart loses and doubles nothing."""

from __future__ import annotations

import itertools
import re
import signal
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import Dataset

from router.domain.overview import ServiceInfo
from router.domain.sweep import SweepDue, SweepRecord, SweepState
from router.domain.timing import Schedule
from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.process import wait_for
from tests.support.replicas import Fleet, Watch
from tests.support.router import node

REPLICAS, STUDIES, INSTANCES = 3, 45, 3
EVERY = 20.0
PATIENCE = 240.0
"""Bounds a hang."""


def _services(fleet: Fleet) -> list[ServiceInfo]:
    with fleet.ledger() as ledger:
        return ledger.services(datetime.now(UTC) - timedelta(seconds=20))


def _leaders(fleet: Fleet) -> list[int]:
    """By what the replicas themselves say."""
    return [number for number, one in fleet.running.items() if "\ndicom_router_leads 1.0\n" in one.metrics()]


def _leader(fleet: Fleet) -> int:
    """The number of the one that leads, once it is one."""
    found = wait_for(lambda: found if len(found := _leaders(fleet)) == 1 else None, "one leader", PATIENCE)
    assert found
    return found[0]


def _who_shows(fleet: Fleet, series: str) -> list[int]:
    """The numbers of those in whose metrics it is."""
    pattern = re.compile(f"^dicom_router_{series}", re.MULTILINE)
    return [number for number, one in fleet.running.items() if pattern.search(one.metrics())]


def _sweeps(fleet: Fleet) -> list[SweepRecord]:
    with fleet.ledger() as ledger:
        return ledger.sweeps(range(1, 1000))


def _studies(seed: str, number: int) -> list[list[Dataset]]:
    return [
        make_study(seed=f"{seed}/{one}", study_date=date.today(), instances=INSTANCES, patient_id=f"P{seed}{one}")
        for one in range(number)
    ]


@pytest.mark.timeout(900)
def test_one_leads_another_takes_over_and_a_rolling_restart_goes_unnoticed(tmp_path: Path) -> None:
    with SimulatedPacs("ARCHIVE", behaviour=Behaviour(suboperation_delay_seconds=0.1)) as archive:
        watch = Watch(archive)
        fleet = Fleet(
            tmp_path,
            replicas=REPLICAS,
            router={"drain": "60s"},
            nodes={"archive": node("ARCHIVE", archive.port, limits={"associations": 4})},
            rules={
                "all": {
                    "sweep": {"source": "archive", "every": f"{EVERY:g}s", "keys": {"StudyDate": "today-1d..today"}},
                    "move": {"to": ["local"], "retry": {"attempts": 5, "delay": "1s"}},
                }
            },
        )
        fleet.is_destination_of(archive)
        with fleet:
            fleet.start()
            first = _leader(fleet)
            names = {one.replica for one in _services(fleet)}
            assert names == {f"replica-{number}" for number in range(REPLICAS)}
            wait_for(
                lambda: [one.replica for one in _services(fleet) if one.leads] == [f"replica-{first}"],
                "the leader's row to say that it leads",
                PATIENCE,
            )
            for number, one in fleet.running.items():
                assert f'dicom_router_info{{replica="replica-{number}"}} 1.0' in one.metrics()
            for series in (r"sweep_due_timestamp_seconds\{", r'transfers\{.*state="queued"'):
                wait_for(
                    lambda series=series: _who_shows(fleet, series) == [first],
                    f"the leader, and no other, to show {series}",
                    PATIENCE,
                )

            fleet.kill(first)
            second = _leader(fleet)
            assert second != first
            fleet.start(first)
            assert _leader(fleet) == second, "who comes back does not take it from who leads"

            studies = _studies("load", STUDIES)
            for number in (*(n for n in range(REPLICAS) if n != second), second):
                for _ in range(STUDIES // REPLICAS):
                    archive.add(studies.pop())
                wait_for(lambda: fleet.counts().get(State.MOVING), "something is being moved", PATIENCE)
                fleet.restart(number)
            fleet.wait_for_states({State.COMPLETE: STUDIES}, PATIENCE)

            assert Counter(watch.moves().values()) == {1: STUDIES}, "nothing was moved twice"
            assert {one.attempts for one in fleet.transfers()} == {1}
            assert fleet.instances_stored() == {str(one.sop_instance) for one in archive.instances}
            _leader(fleet)
            _every_due_time_has_its_sweep(fleet)


def _every_due_time_has_its_sweep(fleet: Fleet) -> None:
    """By the schedule, whoever led when: none was left out, none was made twice."""
    schedule = Schedule.periodic(EVERY, f"archive/{EVERY:g}")
    found = [sweep.due.due_at for sweep in _sweeps(fleet) if sweep.due.rule == "all"]
    assert len(found) == len(set(found)) >= 3
    steps = {round((later - sooner).total_seconds(), 3) for sooner, later in itertools.pairwise(found)}
    assert steps == {EVERY}, found
    assert found == list(schedule.due_between(found[0] - timedelta(seconds=1), found[-1]))


@pytest.mark.timeout(600)
def test_what_only_a_new_configuration_knows_is_left_to_who_has_it(tmp_path: Path) -> None:
    with SimulatedPacs("ARCHIVE") as archive, SimulatedPacs("READING") as reading:
        archive.set_destination("READING", "127.0.0.1", reading.port)
        nodes = {"archive": node("ARCHIVE", archive.port)}
        old = {
            "nothing": {
                "sweep": {"source": "archive", "every": "1h", "keys": {"PatientID": "NOBODY"}},
                "move": {"to": ["local"]},
            }
        }
        new = {
            "new": {
                "sweep": {"source": "archive", "cron": "0 0 1 1 *", "keys": {"StudyDate": "today-1d..today"}},
                "move": {"to": ["reading"]},
            }
        }
        for study in _studies("rollout", 12):
            archive.add(study)
        fleet = Fleet(tmp_path, replicas=REPLICAS, nodes=nodes, rules=old)
        fleet.is_destination_of(archive)
        with fleet:
            fleet.start()
            before = {one.owner: one.work_hash for one in _services(fleet)}
            assert len(before) == REPLICAS
            assert len(set(before.values())) == 1, "each has a router section of its own, all agree about work"
            with_new = {"nodes": nodes | {"reading": node("READING", reading.port)}, "rules": old | new}
            fleet.configure(**with_new, only=1)
            fleet.running[1].send_signal(signal.SIGHUP)
            wait_for(
                lambda: len({one.work_hash for one in _services(fleet)}) == 2, "one has the new configuration", PATIENCE
            )
            with SqlLedger.open(fleet.ledger_url) as ledger:
                due = SweepDue(rule="new", source="archive", due_at=datetime.now(UTC), manual=True)
                (number,) = ledger.add_sweeps([due])
            fleet.wait_for_states({State.COMPLETE: 12}, PATIENCE)
            with fleet.ledger() as ledger:
                (sweep,) = ledger.sweeps([number])
            assert sweep.state is SweepState.COMPLETE
            assert {one.intent.destination for one in fleet.transfers()} == {"reading"}

            # The new one is rolled back: what still waits for what nobody has any more ends, and says why.
            with SqlLedger.open(fleet.ledger_url) as ledger:
                (number,) = ledger.add_sweeps([SweepDue(rule="gone", source="archive", due_at=datetime.now(UTC))])
            time.sleep(3.0)
            with fleet.ledger() as ledger:
                assert ledger.sweeps([number])[0].state is SweepState.DUE, "somebody else might know it"
            fleet.configure(nodes=nodes, rules=old)
            fleet.running[1].send_signal(signal.SIGHUP)

            def ended() -> SweepRecord | None:
                with fleet.ledger() as ledger:
                    (sweep,) = ledger.sweeps([number])
                return sweep if sweep.report is not None else None

            last = wait_for(ended, "it ends", PATIENCE)
            assert last is not None
            report = last.report
            assert report is not None
            assert (report.state, report.cause) == (SweepState.FAILED, "rule-removed")


def test_a_database_that_hangs_keeps_nobody_from_stopping(tmp_path: Path) -> None:
    """It keeps its connections and says nothing: the service is as well as it can be, and SIGTERM ends it."""
    database = PostgresServer()
    database.start()
    nodes = {"archive": node("ARCHIVE", free_port())}
    try:
        with (
            database.database() as ledger,
            Fleet(tmp_path, nodes=nodes, rules={}, replicas=1, ledger=ledger, router={"drain": "1s"}) as fleet,
        ):
            (replica,) = fleet.start()
            database.pause()
            try:
                assert '"ok"' in replica.get("/healthz")
                fleet.signal(0, signal.SIGTERM)
                assert replica.wait(PATIENCE) == 0, fleet.log(0)[-6000:]
            finally:
                database.resume()
                replica.stop()
    finally:
        database.end()
