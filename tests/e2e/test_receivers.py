"""Receiving in processes of its own: what was acknowledged is on disk, intact and indexed, whatever is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.part10 import dataset_bytes
from tests.support.ports import listening
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import StudyFiles, make_study

SENDERS = 4
INSTANCES = 500
BURST = SENDERS * INSTANCES
RULES = {
    "unused": {
        "sweep": {"source": "sender", "cron": "0 0 1 1 *", "keys": {"StudyDate": "today"}},
        "move": {"to": ["local"]},
    }
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[StudyFiles]:
    directory = tmp_path_factory.mktemp("studies")
    return [make_study(directory, instances=INSTANCES, rows=16) for _ in range(SENDERS)]


@pytest.fixture(params=[1, 2])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(
        tmp_path / "site",
        nodes={"sender": node("STORESCU", 104, push="allow")},
        rules=RULES,
        router={"receivers": request.param, "drain": "5s"},
    )


class Burst:
    """Four stock storescu at once, without Nagle's pauses; each tells what was acknowledged."""

    def __init__(self, site: Site, studies: list[StudyFiles]) -> None:
        self.logs = []
        self.processes = []
        for number, study in enumerate(studies):
            log = site.directory / f"storescu-{number}.log"
            self.logs.append(log)
            with log.open("wb") as out:
                self.processes.append(
                    subprocess.Popen(
                        ["storescu", "-v", "-aet", "STORESCU", "-aec", "ROUTER", "127.0.0.1", str(site.dicom_port)]
                        + [str(path) for path in study.files],
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, "TCP_NODELAY": "1"},
                    )
                )
        self.studies = studies

    def acknowledged(self) -> int:
        return sum(log.read_text(errors="replace").count("Received Store Response (Success)") for log in self.logs)

    def wait(self) -> dict[str, bytes]:
        """{SOP Instance UID: data set} of what was acknowledged; storescu sends in the order of its arguments."""
        found = {}
        for process, log, study in zip(self.processes, self.logs, self.studies, strict=True):
            process.wait(60)
            count = log.read_text(errors="replace").count("Received Store Response (Success)")
            for path in study.files[:count]:
                found[study.sop_instance_uids[path]] = dataset_bytes(path)
        return found


def indexed(site: Site) -> set[str]:
    with closing(sqlite3.connect(f"file:{site.directory}/ledger.db?mode=ro", uri=True)) as ledger:
        return {uid for (uid,) in ledger.execute("select sop_instance_uid from receipts")}


@pytest.fixture
def router(site: Site) -> Iterator[RunningRouter]:
    with site.run() as router:
        yield router


def check(site: Site, acknowledged: dict[str, bytes]) -> None:
    stored = {uid: dataset_bytes(path) for uid, path in site.stored().items()}
    assert {uid: stored.get(uid) for uid in acknowledged} == acknowledged, "on disk and intact"
    wait_for(lambda: set(acknowledged) <= indexed(site), "the index")
    wait_for(lambda: not list(site.store.rglob("*.part")), "what was broken off to be taken away")


def test_a_burst_is_received_stored_and_indexed(site: Site, router: RunningRouter, studies: list[StudyFiles]) -> None:
    assert len(router.receivers()) == site.settings["receivers"]
    acknowledged = Burst(site, studies).wait()
    assert len(acknowledged) == BURST
    check(site, acknowledged)
    counted = f'store_instances_total{{calling="sender",status="0x0000"}} {BURST}.0'
    wait_for(lambda: counted in router.metrics(), "all to be counted")
    wait_for(lambda: 'associations_active{node="sender",role="acceptor"} 0.0' in router.metrics(), "the end")
    assert router.stop() == 0


@pytest.mark.parametrize(("victim", "site"), [("receiver", 1), ("engine", 2)], indirect=["site"])
def test_kill_9_in_the_middle_of_a_burst_loses_nothing(
    site: Site, router: RunningRouter, studies: list[StudyFiles], victim: str
) -> None:
    """2,000 instances from four senders; every one that got its success is there, whole, and in the ledger."""
    left = router.receivers()  # before the burst: it takes a while
    burst = Burst(site, studies)
    wait_for(lambda: burst.acknowledged() > BURST // 4, "a good part of the burst")
    if victim == "engine":
        router.send_signal(signal.SIGKILL)
    else:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert burst.acknowledged() < BURST, "the burst was not over"
    acknowledged = burst.wait()
    assert len(acknowledged) > BURST // 4
    if victim == "engine":
        wait_for(lambda: not any(map(alive, left)), "the end of its receivers")
        with site.run() as again:
            check(site, acknowledged)
            check(site, everything(site, studies))
            assert again.stop() == 0
        return
    assert len(acknowledged) < BURST
    wait_for(lambda: len(router.receivers()) == site.settings["receivers"], "the receivers")
    wait_for(lambda: listening(site.dicom_port), "the port")
    check(site, acknowledged)
    check(site, everything(site, studies))
    assert router.stop() == 0
    assert "ended unasked" in router.log


def everything(site: Site, studies: list[StudyFiles]) -> dict[str, bytes]:
    """The whole burst once more: the same instances again are a success."""
    found = Burst(site, studies).wait()
    assert len(found) == BURST
    return found


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists()


def test_sigterm_to_the_whole_group_lets_stores_end(
    site: Site, router: RunningRouter, studies: list[StudyFiles]
) -> None:
    """As service managers do: every process of the group gets the signal."""
    burst = Burst(site, studies)
    wait_for(lambda: burst.acknowledged() > 40, "the burst")
    os.killpg(router.pid, signal.SIGTERM)
    assert router.wait(60) == 0
    check(site, burst.wait())


def test_a_port_that_is_taken_is_one_sentence(site: Site, router: RunningRouter) -> None:
    other = Site(site.directory / "other", nodes={"sender": node("STORESCU", 104, push="allow")}, rules=RULES)
    other.settings |= {"listen": f"127.0.0.1:{site.dicom_port}", "receivers": site.settings["receivers"]}
    other.configure(nodes={"sender": node("STORESCU", 104, push="allow")}, rules=RULES)
    done = other.call("run")
    assert done.returncode != 0
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("dicom-router:")]
    assert "router.listen" in sentence
