"""A destination the archive does not know stops one route, not each study; and what people may say to transfers."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

STUDIES, INSTANCES = 4, 3


class Ward:
    """An archive that knows this router but not the workstation."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.site = Site(directory, nodes={}, rules={}, router={"drain": "0s"})
        self.archive = stack.enter_context(SimulatedPacs("ARCHIVE"))
        for number in range(STUDIES):
            self.archive.add(make_study(seed=f"s{number}", study_date=date.today(), instances=INSTANCES))
        self.archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        self.workstation = stack.enter_context(SimulatedPacs("WS1"))
        self.nodes = {"archive": node("ARCHIVE", self.archive.port), "ws1": node("WS1", self.workstation.port)}
        sweep = {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today"}}
        self.rules: dict[str, Any] = {
            "all": {"sweep": sweep, "move": {"to": ["ws1", "local"], "retry": {"attempts": 3, "delay": "1s"}}}
        }
        self.configure()

    def configure(self) -> Site:
        self.site.configure(nodes=self.nodes, rules=self.rules)
        return self.site

    def cure(self) -> None:
        self.archive.set_destination("WS1", self.workstation.host, self.workstation.port)

    def run(self) -> RunningRouter:
        return self.stack.enter_context(self.configure().run())

    def asked(self, title: str = "WS1") -> int:
        return sum(move.destination == title for move in self.archive.record.of("move"))

    def rows(self, **wanted: str) -> list[dict[str, Any]]:
        found = self.site.json("transfers", "list")["transfers"]
        return [row for row in found if all(row[key] == value for key, value in wanted.items())]

    def states(self, destination: str) -> set[str]:
        return {row["state"] for row in self.rows(destination=destination)}


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        yield Ward(tmp_path / "site", stack)


WAITS = re.compile(r"^route archive -> ws1 is stopped: .*; next try at \d\d:\d\d \S+$")


@pytest.mark.parametrize(
    ("behaviour", "requests", "says"),
    [
        (Behaviour(), 1, "A801"),
        (Behaviour(abort_on_unknown_destination=True), 2, "aborted"),
        (Behaviour(unknown_destination_status=0xC000), 3, "Cxxx"),
        (Behaviour(unknown_destination_status=0xA702), 3, "A702"),
    ],
    ids=["A801", "abort", "C000", "A702"],
)
def test_the_route_is_stopped_and_other_routes_go_on(
    ward: Ward, behaviour: Behaviour, requests: int, says: str
) -> None:
    ward.archive.behaviour = behaviour
    done = ward.site.apply(code=1)
    assert {row["verdict"] for row in done["transfers"] if row["destination"] == "local"} == {"complete"}
    stopped = [row for row in done["transfers"] if row["destination"] == "ws1"]
    assert {(row["verdict"], row["state"], row["completed"]) for row in stopped} == {("failed", "queued", 0)}
    assert all(WAITS.match(row["reason"]) and says in row["reason"] for row in stopped)
    assert ward.asked() == requests


def test_people_see_what_it_waits_for_and_asking_again_tries_it(ward: Ward) -> None:
    stopped = [row for row in ward.site.apply(code=1)["transfers"] if row["destination"] == "ws1"]
    text = ward.site.call("transfers", "list", "--destination", "ws1").stdout
    assert "route archive -> ws1 is stopped" in re.sub(r"\s+", " ", text)
    shown = ward.site.call("transfers", "show", str(stopped[0]["id"])).stdout
    assert "queued" in shown
    assert "is stopped" in re.sub(r"\s+", " ", shown)

    again = ward.site.call("apply")
    assert again.returncode == 1
    assert f"{STUDIES} transfers: {STUDIES} failed." in again.stdout
    assert ward.asked() == 2, "a person asks: one tries it at once"

    ward.cure()
    cured = ward.site.apply(code=0)
    assert {row["verdict"] for row in cured["transfers"]} == {"complete"}
    assert ward.states("ws1") == {"complete"}
    assert len(ward.workstation.instances) == STUDIES * INSTANCES


def test_a_running_service_tells_tries_and_goes_on(ward: Ward) -> None:
    ward.nodes["archive"]["move"] = {"probe": "2s"}
    router = ward.run()
    series = 'dicom_router_route_stopped{destination="ws1",source="archive"}'
    wait_for(lambda: f"{series} 1.0" in router.metrics(), "the route to be shown as stopped")
    assert 'dicom_router_route_stopped{destination="local",source="archive"} 0.0' in router.metrics()
    wait_for(lambda: ward.states("local") == {"complete"}, "the other route")
    wait_for(lambda: ward.asked() >= 2, "a probe")
    wait_for(lambda: ward.states("ws1") == {"queued"}, "the probe to end, with nothing moved")
    ward.cure()
    wait_for(lambda: ward.states("ws1") == {"complete"}, "everything to flow")
    wait_for(lambda: f"{series} 0.0" in router.metrics(), "the route to be shown as working")
    assert router.log.count("route stopped") == 1
    assert router.log.count("route resumed") == 1


@pytest.mark.parametrize("word", ["retry", "release"])
def test_a_word_or_another_configuration_has_it_tried_at_once(ward: Ward, word: str) -> None:
    router = ward.run()
    wait_for(lambda: ward.rows() and ward.asked() == 1 and ward.states("local") == {"complete"}, "the stop")
    number = ward.rows(destination="ws1")[-1]["id"]
    (row,) = ward.site.json("transfers", word, str(number))["transfers"]
    assert (row["state"], "is stopped" in row["reason"]) == ("queued", True)
    wait_for(lambda: ward.asked() == 2, "a probe")
    ward.cure()
    ward.rules["all"]["description"] = "Changed"
    ward.configure()
    router.send_signal(1)  # SIGHUP
    wait_for(lambda: ward.states("ws1") == {"complete"}, "everything to flow")


def test_a_node_that_is_removed_takes_its_stop_with_it(ward: Ward) -> None:
    ward.site.apply(code=1)
    ward.rules["all"]["move"]["to"] = ["local"]
    del ward.nodes["ws1"]
    ward.configure()
    with ward.site.run():
        wait_for(lambda: ward.states("ws1") == {"failed"}, "what cannot be moved any more to end")
    with SqlLedger.open(ward.site.settings["ledger"], read_only=True) as ledger:
        assert ledger.stopped_routes() == []
    assert "no node ws1" in ward.rows(destination="ws1")[0]["reason"]


# --- cancel, hold, release -------------------------------------------------------------------------------------------


@pytest.fixture
def slow(ward: Ward) -> Ward:
    """One study after the other, an instance every half second, to the router only."""
    ward.rules["all"]["move"]["to"] = ["local"]
    ward.archive.behaviour = Behaviour(suboperation_delay_seconds=0.5)
    return ward


def moving(ward: Ward) -> int:
    """The transfer that moves, once its first instance has arrived."""
    with SqlLedger.open(ward.site.settings["ledger"], read_only=True) as ledger:

        def begun() -> int:
            for one in ledger.transfers(states=[State.MOVING]):
                if any(one.intent.study_instance_uid in path.parts for path in ward.site.stored().values()):
                    return one.id
            return 0

        return wait_for(begun, "a transfer to move")


def test_what_moves_is_cancelled_within_a_moment_and_what_arrived_stays(slow: Ward) -> None:
    slow.archive.add(make_study(seed="long", study_date=date.today(), description="Long", instances=200))
    slow.rules["all"]["where"] = {"StudyDescription": "Long"}
    router = slow.run()
    number = moving(slow)
    asked = time.monotonic()
    done = slow.site.call("transfers", "cancel", str(number), "--format", "json")
    assert done.returncode == 0
    assert "1 transfer under way will be cancelled in a moment; the service stops the work." in done.stderr

    def row() -> dict[str, Any]:
        return next(one for one in slow.rows() if one["id"] == number)

    wait_for(lambda: row()["state"] == "cancelled", "the transfer to be cancelled", interval=0.1)
    assert time.monotonic() - asked < 80
    assert row()["reason"] == "Cancelled by a person."
    assert slow.archive.record.of("cancel")
    assert slow.site.stored()
    assert re.search(
        r'transfers_total\{destination="local",rule="all",source="archive",verdict="cancelled"\} 1\.0', router.metrics()
    )
    refused = slow.site.call("transfers", "cancel", str(number), "99")
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"dicom-router: Transfer {number} has ended: it is cancelled.",
        "dicom-router: The ledger has no transfer 99.",
    ]
    assert slow.site.apply("--timeout", "1", code=None)["sweeps"], "a cancelled one is not asked for again"
    assert row()["state"] == "cancelled"


def test_what_moves_is_held_and_goes_on_with_the_difference(slow: Ward) -> None:
    slow.archive.behaviour = Behaviour(suboperation_delay_seconds=4)  # the command comes in time on a busy machine too
    slow.run()
    number = moving(slow)
    assert slow.site.call("transfers", "hold", "--all", "--rule", "all").returncode == 0
    wait_for(lambda: slow.states("local") <= {"held", "complete"}, "all to be held")
    assert slow.rows(state="held")
    assert slow.site.call("transfers", "hold", str(number)).stderr.startswith("dicom-router: Transfer ")
    asked = len(slow.archive.record.of("move"))
    time.sleep(1.5)
    assert len(slow.archive.record.of("move")) == asked
    slow.archive.behaviour = Behaviour()
    held = len(slow.rows(state="held"))
    released = slow.site.json("transfers", "release", "--all", "--source", "archive", "--destination", "local")
    assert len(released["transfers"]) == held
    wait_for(lambda: slow.states("local") == {"complete"}, "all to be complete")
    assert len(slow.site.stored()) == STUDIES * INSTANCES


def test_words_where_no_service_runs(ward: Ward) -> None:
    ward.site.apply(code=1)
    queued = sorted(row["id"] for row in ward.rows(state="queued"))
    complete = next(row["id"] for row in ward.rows(state="complete"))
    held = ward.site.json("transfers", "hold", *map(str, queued[:2]))["transfers"]
    assert [(row["id"], row["state"]) for row in held] == [(number, "held") for number in queued[:2]]
    for words, sentence in (
        (["hold", str(queued[0])], f"Transfer {queued[0]} is held already."),
        (["release", str(complete)], f"Transfer {complete} has ended: it is complete."),
        (["retry", str(queued[0])], f"Transfer {queued[0]} has not ended: it is held."),
    ):
        done = ward.site.call("transfers", *words)
        assert (done.returncode, done.stderr.strip()) == (1, f"dicom-router: {sentence}")
    everything = ward.site.json("transfers", "cancel", "--all", "--state", "held")["transfers"]
    assert sorted(row["id"] for row in everything) == queued[:2]
    assert {row["verdict"] for row in everything} == {"cancelled"}
    assert ward.site.call("transfers", "release", "--all").stdout == "No such transfers.\n"
    assert ward.site.call("transfers", "retry", "--all").stdout == "No such transfers.\n"
    for words in (["cancel"], ["cancel", "1", "--all"], ["hold", "1", "--rule", "all"]):
        assert ward.site.call("transfers", *words).returncode == 2


# --- a crash ---------------------------------------------------------------------------------------------------------


def test_after_a_kill_the_next_service_looks_at_once(slow: Ward) -> None:
    """The lease of what was lost has most of a minute left: nobody waits for it."""
    first = slow.run()
    number = moving(slow)
    first.kill()
    slow.archive.behaviour = Behaviour()
    with SqlLedger.open(slow.site.settings["ledger"], read_only=True) as ledger:
        lost = ledger.transfer(number)
    assert lost is not None
    assert lost.lease_until is not None
    second = slow.run()
    wait_for(lambda: slow.states("local") == {"complete"}, "all to be complete")
    assert "work that a former service left is looked up first" in second.log
    with SqlLedger.open(slow.site.settings["ledger"], read_only=True) as ledger:
        moved, looked, *_ = ledger.attempts(number)
        assert (moved.step, moved.happening) == ("move", "lease_lost")
        assert looked.step == "verify", "looked up before anything is moved again"
        assert looked.started_at < lost.lease_until


def test_commands_beside_a_running_service_take_nothing_from_it(slow: Ward) -> None:
    slow.run()
    number = moving(slow)
    assert slow.site.call("plan").returncode == 0
    assert slow.site.call("apply").returncode == 0
    slow.site.call("transfers", "list")
    with SqlLedger.open(slow.site.settings["ledger"], read_only=True) as ledger:
        one = ledger.transfer(number)
        assert one is not None
        assert one.state is State.COMPLETE
        assert [one.happening for one in ledger.attempts(number) if one.step == "move"] == ["moved"]
