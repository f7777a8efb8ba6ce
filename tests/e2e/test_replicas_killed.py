"""Three replicas on one PostgreSQL, all of it killed at random: nothing is lost, no limit is exceeded."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from sqlalchemy import func, select

from router.domain.replicas import LOST_SECONDS
from router.domain.transfer import State
from router.ledger import tables
from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.postgres import PostgresServer
from tests.support.process import wait_for
from tests.support.replicas import Fleet, Replica, Watch
from tests.support.router import node

REPLICAS, STUDIES, INSTANCES = 3, 300, 3
SECONDS = 180.0
"""How long it is chaos."""
_PATIENCE_SECONDS = 20.0
CALM_SECONDS = 600.0
"""Bounds a hang: what a dead replica held is free again after a minute, and the last retries come then."""
SLOTS, INCOMING = 3, 2
QUICK = {
    "find": {"inactivity": "60s", "total": "2m"},
    "move": {"inactivity": "60s", "total": "5m"},
    "breaker": {"failures": 50, "pause": "1s", "maximum_pause": "2s"},
}


class Database(Protocol):
    """The database under the ledger."""

    def crash(self) -> None:
        """End it at once, as a power cut does to its programs."""

    def start(self) -> None:
        """Start it again; what was committed is there."""


@dataclass
class Chaos:
    """Ends replicas and the database at random moments, and starts them again a little later."""

    fleet: Fleet
    database: Database | None
    moments: random.Random
    progress: Callable[[], int]
    """How much was done so far."""
    done: Counter[str] = field(default_factory=Counter)
    _later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _database_up_at: float = 0.0
    _began: dict[int, float] = field(default_factory=dict)

    def run(self, seconds: float, meanwhile: Callable[[float], None]) -> None:
        """Do it for so long; `meanwhile` is told which share of the time is over. All of it runs in the end."""
        begun = time.monotonic()
        next_at, seen, patience = begun + 3.0, -1, begun
        while (now := time.monotonic()) < begun + seconds:
            meanwhile((now - begun) / seconds)
            self._tend()
            # On a slow machine nothing would ever be done, were it not waited for what has just started.
            if now >= next_at and (self.progress() > seen or now >= patience):
                self._strike()
                seen = self.progress()
                next_at = time.monotonic() + self.moments.uniform(2.0, 7.0)
                patience = next_at + _PATIENCE_SECONDS
            time.sleep(0.05)
        meanwhile(1.0)
        wait_for(self._calm, "all replicas are ready again", 120.0, interval=0.2)

    def _strike(self) -> None:
        kinds = ["kill", "kill", "stop", *(["database"] if self.database is not None else [])]
        what = self.moments.choice(kinds)
        if what == "database":
            if self._database_up_at == float("inf"):
                return
            assert self.database is not None
            self.database.crash()
            self._database_up_at = float("inf")
            self._in(self.moments.uniform(1.0, 5.0), self._database_starts)
        else:
            if not self.fleet.running:
                return
            number = self.moments.choice(sorted(self.fleet.running))
            ended = self.fleet.signal(number, signal.SIGKILL if what == "kill" else signal.SIGTERM)
            self._in(self.moments.uniform(0.2, 6.0), lambda: self._start(number, ended))
        self.done[what] += 1

    def _database_starts(self) -> None:
        assert self.database is not None
        self.database.start()
        self._database_up_at = time.monotonic()

    def _start(self, number: int, before: Replica) -> None:
        """Start it, once the one before has ended: what drains is left to it."""
        if before.returncode is None:
            self._in(0.2, lambda: self._start(number, before))
            return
        before.stop()
        self.fleet.start(number, ready=False)
        self._began[number] = time.monotonic()

    def _in(self, seconds: float, work: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, work))

    def _tend(self) -> None:
        """What has become due; and who could not start without a database is started again, as a supervisor does."""
        now = time.monotonic()
        due = [work for at, work in self._later if at <= now]
        self._later = [(at, work) for at, work in self._later if at > now]
        for work in due:
            work()
        for number, replica in list(self.fleet.running.items()):
            if replica.returncode is None:
                continue
            if self._began.get(number, float("inf")) > self._database_up_at + 5.0 or number not in self._began:
                raise AssertionError(f"replica {number} ended by itself\n{self.fleet.log(number)[-6000:]}")
            del self.fleet.running[number]
            self.done["start without database"] += 1
            self._in(1.0, lambda number=number, gone=replica: self._start(number, gone))  # type: ignore[misc]

    def _calm(self) -> bool:
        self._tend()
        return (
            not self._later
            and len(self.fleet.running) == REPLICAS
            and all(replica.ready() for replica in self.fleet.running.values())
        )


def proof(directory: Path, ledger: str, database: Database | None, seconds: float, seed: int) -> None:
    """The whole test, on this ledger."""
    with (
        SimulatedPacs("ARCHIVE", behaviour=Behaviour(suboperation_delay_seconds=0.15)) as archive,
        SimulatedPacs("READING") as reading,
    ):
        studies = [
            make_study(seed=f"{seed}/{number}", study_date=date.today(), instances=INSTANCES, patient_id=f"P{number}")
            for number in range(STUDIES)
        ]
        wanted = {str(instance.SOPInstanceUID) for study in studies for instance in study}
        watch = Watch(archive)
        archive.set_destination("READING", "127.0.0.1", reading.port)
        fleet = Fleet(
            directory,
            ledger=ledger,
            replicas=REPLICAS,
            router={"drain": "10s"},
            nodes={
                "archive": node("ARCHIVE", archive.port, limits={"associations": SLOTS}, **QUICK),
                "reading": node("READING", reading.port, limits={"associations": 1, "incoming": INCOMING}, **QUICK),
            },
            rules={
                "all": {
                    "sweep": {"source": "archive", "every": "5s", "keys": {"StudyDate": "today-1d..today"}},
                    "move": {
                        "to": ["local", "reading"],
                        "retry": {"attempts": 100, "delay": "1s", "maximum_delay": "5s"},
                    },
                }
            },
        )
        fleet.is_destination_of(archive)
        added = 0

        def more(share: float) -> None:
            nonlocal added
            # All have come when nine tenths of the time are over, so that there is work when it is calm.
            for study in studies[added : int(min(1.0, share / 0.9) * STUDIES)]:
                archive.add(study)
                added += 1

        with fleet:
            fleet.start()
            chaos = Chaos(fleet, database, random.Random(seed), lambda: len(archive.record.of("move")))
            chaos.run(seconds, more)
            sys.stdout.write(f"seed {seed}: {dict(chaos.done)}, then {fleet.counts()}\n")
            fleet.wait_for_states({State.COMPLETE: 2 * STUDIES}, CALM_SECONDS)
            _limits_were_kept(archive, reading, watch)
            moves = watch.moves()
            assert len(moves) == 2 * STUDIES
            again = sum(moves.values()) - len(moves)
            sys.stdout.write(
                f"{again} moves were repeated; at once: {archive.associations_peaks}, {watch.most_moving}\n"
            )
            assert again <= sum(chaos.done.values()) * SLOTS
            for number in sorted(fleet.running):
                assert fleet.stop(number) == 0, fleet.log(number)[-6000:]
            _ledger_is_consistent(fleet)
            assert fleet.instances_stored() == wanted
            assert {str(instance.sop_instance) for instance in reading.instances} == wanted


def _limits_were_kept(archive: SimulatedPacs, reading: SimulatedPacs, watch: Watch) -> None:
    """As the PACS saw it, at every moment."""
    assert archive.associations_peaks["ROUTER"] <= SLOTS
    assert watch.most_moving["READING"] <= INCOMING
    assert watch.most_moving[""] <= SLOTS
    assert reading.associations_peaks["ROUTER"] <= 1
    assert reading.associations_peaks["ARCHIVE"] <= INCOMING


def _ledger_is_consistent(fleet: Fleet) -> None:
    """What it counts is what is there, nobody holds anything, and each store's files have their receipts."""
    transfers = fleet.transfers()
    assert Counter(transfer.state for transfer in transfers) == fleet.counts() == {State.COMPLETE: 2 * STUDIES}
    assert len({transfer.intent for transfer in transfers}) == len(transfers)
    with fleet.ledger() as ledger:
        now = ledger.clock().now()
        assert not ledger.services(now - timedelta(seconds=LOST_SECONDS))
        shared = ledger.ration_look({}, now)
        assert not shared.circle.members
        held = {name: (state.in_use, state.incoming) for name, (_, state) in shared.states.items()}
        assert held == dict.fromkeys(held, (0, 0))
        with ledger._database.read() as connection:
            assert not connection.scalar(select(func.count()).where(tables.transfers.c.lease_until.is_not(None)))
        received = set().union(*(ledger.received(transfer.intent.study_instance_uid) for transfer in transfers))
    assert received == fleet.instances_stored()


@dataclass
class Crashing:
    """A PostgreSQL server of this test's own, which keeps what was committed."""

    server: PostgresServer

    def crash(self) -> None:
        self.server.stop(immediately=True)

    def start(self) -> None:
        self.server.start()


@pytest.mark.timeout(1500)
def test_three_replicas_and_their_database_are_killed_for_three_minutes(tmp_path: Path) -> None:
    server = PostgresServer(durable=True)
    try:
        server.start()
        seed = random.SystemRandom().randrange(10**6)
        with server.database() as url:
            proof(tmp_path, url, Crashing(server), SECONDS, seed)
    finally:
        server.end()
