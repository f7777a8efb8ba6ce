"""The service's life: stopping, dying, coming back, and schedules; nothing is lost, nothing moved twice."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from router.simulator import CALLING_NOT_RECOGNISED, Behaviour, SimulatedPacs, make_study
from tests.support.process import Process, wait_for
from tests.support.router import COMMAND, RunningRouter, Site, node

TODAY = date.today()
INSTANCES = 8


class Ward:
    """An archive with one study, and the router."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.site = Site(directory, nodes={}, rules={})
        self.ledger = stack.enter_context(SqlLedger.open(f"sqlite:///{directory}/ledger.db"))
        self.logs: list[RunningRouter] = []
        self.nodes: dict[str, Any] = {}
        self.rules: dict[str, Any] = {}
        self.archive = self.pacs("archive", limits={"associations": 2})
        self.rules["everything"] = self.rule("archive")

    def pacs(self, name: str, behaviour: Behaviour | None = None, **settings: Any) -> SimulatedPacs:
        studies = make_study(
            seed=name,
            description="Chest",
            study_date=TODAY,
            instances=INSTANCES,
            patient_id="SECRETID",
            patient_name="Secret^Name",
            accession="SECRETACC",
        )
        pacs = SimulatedPacs(name.upper(), studies=studies, behaviour=behaviour)
        pacs.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        self.nodes[name] = node(name.upper(), pacs.port or 1, **settings)
        self.stack.enter_context(pacs)
        self.nodes[name] = node(name.upper(), pacs.port, **settings)
        return pacs

    def rule(self, source: str, every: str = "1h", **more: Any) -> dict[str, Any]:
        sweep = {"source": source, "every": every, "keys": {"StudyDate": "today-1d..today"}}
        return {"sweep": sweep, "move": {"to": ["local"]}, **more}

    def slow(self, seconds: float) -> None:
        """So slow that a busy machine, too, is in time for what happens in the middle of a move."""
        self.archive.behaviour = Behaviour(suboperation_delay_seconds=seconds)

    def quick(self) -> None:
        self.archive.behaviour = Behaviour()

    def run(self, **router: Any) -> RunningRouter:
        self.site.settings.update(router)
        self.site.configure(nodes=self.nodes, rules=self.rules)
        running = self.stack.enter_context(self.site.run())
        self.logs.append(running)
        return running

    def states(self) -> list[tuple[str, int]]:
        return [(str(one.state), one.completed) for one in reversed(self.ledger.transfers())]

    def reach(self, *states: tuple[str, int]) -> None:
        """Wait until the transfers stand like this."""
        wait_for(lambda: self.states() == list(states), f"transfers to be {states}", interval=0.1)

    def parts(self) -> list[Path]:
        """Files in the store that are no whole instance."""
        found = [path for path in self.site.store.rglob("*") if path.is_file() and path.suffix != ".dcm"]
        return [path for path in found if path.name != ".store"]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        ward = Ward(tmp_path / "site", stack)
        yield ward
        assert ward.logs
        for running in ward.logs:
            for secret in ("SECRET", "Secret", "2.25.", "1.2.840"):
                assert secret not in running.log, "no identifier in a log line"
            assert "Traceback" not in running.log


def first_instances(ward: Ward) -> None:
    wait_for(lambda: len(ward.site.stored()) >= 2, "two instances in the store")


def moved_ones(ward: Ward) -> int:
    """Instances that the archive was asked to send, whole studies counted whole."""
    return sum(
        INSTANCES if not (uids := move.keys.get("SOPInstanceUID")) else len(uids.split("\\"))
        for move in ward.archive.record.of("move")
    )


def sweeps_of(ward: Ward) -> int:
    return sum(find.level == "STUDY" for find in ward.archive.record.of("find"))


# --- stopping --------------------------------------------------------------------------------------------------------


def test_sigterm_lets_running_moves_end(ward: Ward) -> None:
    ward.slow(0.25)
    router = ward.run(drain="60s")
    first_instances(ward)
    router.send_signal(signal.SIGTERM)
    assert router.wait(60) == 0
    assert ward.archive.record.of("cancel") == ()
    assert ward.archive.record.of("move")[0].status == 0x0000
    assert len(ward.site.stored()) == INSTANCES
    assert ward.states() == [("complete", INSTANCES)]


def test_a_signal_that_the_kernel_hands_to_another_thread_is_heard(ward: Ward) -> None:
    """It may choose any: nothing wakes the main thread then, which alone runs handlers."""
    router = ward.run()
    ward.reach(("complete", INSTANCES))
    others = [int(task.name) for task in Path(f"/proc/{router.pid}/task").iterdir() if int(task.name) != router.pid]
    libc = ctypes.CDLL(None, use_errno=True)
    for other in others:
        libc.tgkill(router.pid, other, signal.SIGHUP)
    time.sleep(1.0)
    assert router.returncode is None
    assert libc.tgkill(router.pid, others[0], signal.SIGTERM) == 0
    assert router.wait(60) == 0


def test_sigterm_cancels_what_takes_too_long_and_the_rest_is_moved_later(ward: Ward) -> None:
    ward.slow(2)
    router = ward.run(drain="1s")
    first_instances(ward)
    router.send_signal(signal.SIGTERM)
    assert router.wait(60) == 0
    assert len(ward.archive.record.of("cancel")) == 1
    assert ward.archive.record.of("move")[0].status == 0xFE00
    held = len(ward.site.stored())
    assert 0 < held < INSTANCES
    assert [state for state, _ in ward.states()] == ["queued"]
    assert ward.parts() == []

    ward.quick()
    ward.run()
    ward.reach(("complete", INSTANCES))
    assert len(ward.site.stored()) == INSTANCES
    assert moved_ones(ward) == INSTANCES + INSTANCES - held, "the difference only"


@pytest.mark.parametrize("drains", [True, False], ids=["later", "at once"])
def test_a_second_signal_ends_the_waiting(ward: Ward, drains: bool) -> None:
    ward.slow(2)
    router = ward.run(drain="10m")
    first_instances(ward)
    router.send_signal(signal.SIGTERM)
    if drains:
        wait_for(lambda: "running moves may end" in router.log, "the router drains")
    router.send_signal(signal.SIGINT)
    assert router.wait(60) == 0
    assert len(ward.archive.record.of("cancel")) == 1
    assert [state for state, _ in ward.states()] == ["queued"]


# --- dying -----------------------------------------------------------------------------------------------------------


def test_after_a_crash_what_arrived_is_looked_up_before_anything_is_moved_again(ward: Ward) -> None:
    ward.slow(1.5)
    router = ward.run()
    first_instances(ward)
    router.kill()
    ward.archive.record.wait_for("move", ended=False)
    held = len(ward.site.stored())
    assert 0 < held < INSTANCES
    (lost,) = ward.ledger.transfers()
    assert lost.state is State.MOVING
    ward.ledger.release_claims([lost], datetime.now(UTC))  # as the end of its lease does, some time later

    ward.quick()
    ward.run()
    ward.reach(("complete", INSTANCES))
    assert len(ward.site.stored()) == INSTANCES
    assert moved_ones(ward) <= INSTANCES + INSTANCES - held, "the difference only"
    assert ward.parts() == []
    steps = [one.step for one in ward.ledger.attempts(1)]
    assert steps[:2] == ["move", "verify"], "it is verified before it is moved again"


def test_an_apply_goes_on_alone_when_the_service_stops(ward: Ward) -> None:
    ward.slow(8)
    router = ward.run(drain="0s")
    first_instances(ward)
    words = [*COMMAND, "--config", str(ward.site.rules_directory), "apply"]
    process = Process(words, ward.site.directory, name="apply", working_directory=ward.site.directory)
    command = ward.stack.enter_context(process)
    wait_for(lambda: sweeps_of(ward) >= 2, "the sweep that the command asked for")
    router.send_signal(signal.SIGTERM)
    assert router.wait(120) == 0
    ward.quick()
    assert command.wait(150) == 0
    assert "going on without it" in command.log
    assert "1 transfer: 1 complete." in command.log
    assert ward.states() == [("complete", INSTANCES)]


def test_a_claim_that_is_lost_stops_that_work_only(ward: Ward) -> None:
    second = ward.pacs("second", Behaviour(suboperation_delay_seconds=1.5))
    ward.rules["from-second"] = ward.rule("second")
    ward.slow(1.5)
    ward.run()
    first_instances(ward)
    second.record.wait_for("move")
    (lost,) = ward.ledger.transfers(source="archive")
    ward.ledger.release_claims([lost], datetime.now(UTC))
    ward.archive.record.wait_for("cancel")
    ward.quick()
    ward.reach(("complete", INSTANCES), ("complete", INSTANCES))
    assert second.record.of("cancel") == ()
    assert len(second.record.of("move")) == 1


# --- working ---------------------------------------------------------------------------------------------------------


def test_two_rules_that_ask_for_the_same_study_share_one_transfer(ward: Ward) -> None:
    ward.rules["again"] = ward.rule("archive", description="The same study by another rule")
    router = ward.run()
    done = ward.site.apply()
    assert [one["complete"] for one in done["sweeps"]] == [True, True]
    ward.reach(("complete", INSTANCES))
    assert len(ward.archive.record.of("move")) == 1
    assert router.stop() == 0


def test_a_sweep_that_takes_longer_than_its_interval_never_overlaps(ward: Ward) -> None:
    ward.archive.behaviour = Behaviour(response_delay_seconds=2)
    ward.rules["everything"] = ward.rule("archive", every="1s", where={"PatientID": "nobody"})
    router = ward.run(drain="0s")
    missed = r'dicom_router_sweeps_missed_total\{rule="everything",source="archive"\} (\d+)'
    ward.archive.record.wait_for("find", count=3, timeout_seconds=30)
    counted = re.search(missed, router.metrics())
    assert counted
    assert int(counted[1]) >= 2
    assert ward.archive.associations_peak == 1
    begun = [find.at for find in ward.archive.record.of("find")]
    assert all(later - earlier >= timedelta(seconds=1.9) for earlier, later in itertools.pairwise(begun))


def test_what_was_missed_while_nothing_ran_is_caught_up_once(ward: Ward) -> None:
    ward.rules = {"late": ward.rule("archive"), "recent": ward.rule("archive", every="52w")}
    ward.rules["nightly"] = ward.rule("archive")
    ward.rules["nightly"]["sweep"] |= {"cron": "0 2 * * *"}
    del ward.rules["nightly"]["sweep"]["every"]
    now = datetime.now(UTC)
    for name, ago in (("late", timedelta(hours=7)), ("recent", timedelta(minutes=1)), ("nightly", timedelta(days=3))):
        at = (now - ago).replace(microsecond=0)
        ward.ledger.add_sweeps([SweepDue(rule=name, source="archive", due_at=at)])
        claimed = ward.ledger.claim_sweep(["archive"], at, 60)
        assert claimed is not None
        assert ward.ledger.finish_sweep(claimed, SweepReport(state=SweepState.COMPLETE), [], [], at)
    router = ward.run()

    def swept() -> dict[str, int]:
        found = re.findall(r'sweeps_total\{result="complete",rule="(\w+)",source="archive"\} (\d+)', router.metrics())
        return {name: int(count) for name, count in found}

    wait_for(lambda: sum(swept().values()) >= 2, "the sweeps that were missed")
    done = swept()
    assert router.stop() == 0
    assert done == {"late": 1, "nightly": 1, "recent": 0}, "each once, and none for what is not due"
    assert sweeps_of(ward) == 1, "they ask the same"
    last = {one.due.rule: one.due.due_at for one in ward.ledger.last_sweeps()}
    assert now - timedelta(hours=1, seconds=1) < last["late"], "when it was due last, whenever that was noticed"
    assert now - timedelta(hours=25, seconds=1) < last["nightly"]
    assert last["recent"] < now


def test_logs_hold_no_identifier_whatever_goes_wrong(ward: Ward) -> None:
    ward.pacs("failing", Behaviour(fail_instances=3))
    ward.pacs("garbled", Behaviour(undecodable_instances=2, undecodable_row=0))
    ward.pacs("strangers", Behaviour(reject=CALLING_NOT_RECOGNISED))
    ward.pacs("aborting", Behaviour(abort_move_after=2))
    ward.pacs("forgetful", Behaviour(deliver_fraction=0.5))
    ward.pacs("unknowing", Behaviour(stores_from="NOT_CONFIGURED"))
    for name in list(ward.nodes):
        ward.rules[f"from-{name}"] = ward.rule(name)
        ward.rules[f"from-{name}"]["move"]["retry"] = {"attempts": 1}
    router = ward.run(log={"level": "debug"})
    ward.site.call("apply")
    assert router.stop() == 0
    for name in ("failing", "strangers", "aborting", "forgetful", "unknowing"):
        assert name in router.log
