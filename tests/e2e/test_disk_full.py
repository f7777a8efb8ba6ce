"""A disk that runs full, a real one: what was acknowledged is there, the rest is refused, and room is all it takes."""

from __future__ import annotations

import os
import signal
import sqlite3
import urllib.error
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.dcmtk import Address, storescu
from tests.support.filesystems import MEBIBYTE, SmallDisk, small_disk
from tests.support.part10 import dataset_bytes
from tests.support.ports import listening
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import StudyFiles, make_study
from tests.wire.scu import associate, store

SIZE = 16
"""MiB of the disk."""
HELD = 6 * MEBIBYTE
"""What another program's file takes of it, until room is made."""
SUCCESS, REFUSED = "Success", "Refused: OutOfResources"
SENDER = {"sender": node("STORESCU", 104, push="allow")}
RULES = {
    "unused": {
        "sweep": {"source": "sender", "cron": "0 0 1 1 *", "keys": {"StudyDate": "today"}},
        "move": {"to": ["local"]},
    }
}

both_kinds = pytest.mark.parametrize("kind", ["tmpfs", "ext4"])


@pytest.fixture
def kind() -> str:
    return "tmpfs"


@pytest.fixture
def disk(kind: str, tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(kind, tmp_path, SIZE) as mounted:
        yield mounted


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[StudyFiles]:
    """Big instances and small ones, more than the disk holds: where no big one fits any more, a small one may."""
    directory = tmp_path_factory.mktemp("studies")
    return [
        make_study(directory, instances=20, rows=512),
        make_study(directory, instances=60, rows=64),
        make_study(directory, instances=20, rows=512),
    ]


def make_site(tmp_path: Path, disk: SmallDisk, *, ledger_too: bool = False, minimum_free: int = 0) -> Site:
    store = disk.root / "store"
    ledger = disk.root if ledger_too else tmp_path
    site = Site(
        tmp_path / "site",
        nodes=SENDER,
        rules=RULES,
        router={"store": str(store), "ledger": f"sqlite:///{ledger}/ledger.db", "minimum_free": minimum_free},
    )
    site.store = store
    return site


def ledger_of(site: Site) -> Path:
    return Path(str(site.settings["ledger"]).removeprefix("sqlite:///"))


def send(site: Site, study: StudyFiles, files: list[Path] | None = None) -> dict[Path, str]:
    """What a stock storescu was answered for each file; it goes on after a refusal."""
    files = study.files if files is None else files
    done = storescu(Address("ROUTER", site.dicom_port), files, "--no-halt", check=False)
    answers = [
        line.split("(", 1)[1].rstrip(")") for line in done.stdout.splitlines() if "Received Store Response (" in line
    ]
    assert len(answers) == len(files), f"an answer for each instance, on one association\n{done.stdout}"
    return dict(zip(files, answers, strict=True))


def acknowledged(studies: list[StudyFiles], answers: dict[Path, str]) -> dict[str, bytes]:
    """{SOP Instance UID: data set} of what was answered with success."""
    uids = {path: uid for study in studies for path, uid in study.sop_instance_uids.items()}
    return {uids[path]: dataset_bytes(path) for path, answer in answers.items() if answer == SUCCESS}


def held(site: Site) -> dict[str, bytes]:
    return {uid: dataset_bytes(path) for uid, path in site.stored().items()}


def leftovers(site: Site) -> list[Path]:
    """What no instance is: temporary files, and directories that hold nothing."""
    return [
        path
        for path in site.store.rglob("*")
        if path.suffix != ".dcm"
        and path.name != ".store"
        and (path.is_file() or (path.name != ".incoming" and not any(path.iterdir())))
    ]


def indexed(site: Site) -> set[str]:
    with closing(sqlite3.connect(f"file:{ledger_of(site)}?mode=ro", uri=True)) as ledger:
        return {uid for (uid,) in ledger.execute("select sop_instance_uid from receipts")}


def status_of_one(site: Site, data: Callable[[str], bytes]) -> int:
    """The status our own sender sees for one more instance."""
    association = associate(site.dicom_port, calling="STORESCU")
    try:
        uid = f"2.25.{uuid.uuid4().int}"
        return store(association, uid, data(uid)).status
    finally:
        association.release(5.0)


def instance(study: StudyFiles) -> Callable[[str], bytes]:
    """A data set of the study, under a SOP Instance UID of its own."""
    path, old = next(iter(study.sop_instance_uids.items()))
    data = dataset_bytes(path)
    place = data.index(old.encode())

    def under(uid: str) -> bytes:
        size = len(old.encode()) + len(old) % 2
        return data[: place - 2] + _padded(uid) + data[place + size :]

    return under


def _padded(uid: str) -> bytes:
    raw = uid.encode() + b"\0" * (len(uid) % 2)
    return len(raw).to_bytes(2, "little") + raw


@both_kinds
@pytest.mark.parametrize("ledger_too", [False, True], ids=["store", "store and ledger"])
def test_a_disk_that_runs_full_loses_nothing_and_needs_no_restart(
    tmp_path: Path, disk: SmallDisk, studies: list[StudyFiles], ledger_too: bool
) -> None:
    site = make_site(tmp_path, disk, ledger_too=ledger_too)
    with site.run() as router:
        before = router.receivers()
        disk.hold(HELD)
        answers: dict[Path, str] = {}
        for study in studies:
            answers |= send(site, study)
        assert set(answers.values()) == {SUCCESS, REFUSED}
        assert status_of_one(site, instance(studies[0])) == 0xA700
        taken = acknowledged(studies, answers)
        assert held(site) == taken, "all that was acknowledged, whole, and nothing else"

        # Full to the last block, and everything sent again: what is there is a success, nothing else is left behind.
        disk.fill()
        again: dict[Path, str] = {}
        for study in studies:
            again |= send(site, study)
        assert held(site) == taken | acknowledged(studies, again)
        assert not [path for path in leftovers(site) if path.is_file()]
        assert len(leftovers(site)) <= 2 * len(studies), "no more than the directories of these studies and series"
        assert router.get("/healthz")

        disk.let_go()
        refused = [path for path, answer in answers.items() if answer == REFUSED]
        room = refused[: HELD // (2 * refused[0].stat().st_size)]
        after = send(site, studies[0], room)
        assert set(after.values()) == {SUCCESS}
        assert held(site) == taken | acknowledged(studies, again) | acknowledged(studies, after)
        wait_for(lambda: set(held(site)) <= indexed(site), "everything to be indexed", 60.0, 0.2)
        wait_for(lambda: '"ok"' in _ready(router), "the router to be ready again")
        assert [path for path in leftovers(site) if path.is_file()] == []
        assert router.receivers() == before, "the same processes"
        assert f'status="0xA700"}} {sum(map(_is_refusal, [*answers.values(), *again.values()])) + 1}.0' in (
            router.metrics()
        )
        assert router.stop() == 0


def _is_refusal(answer: str) -> bool:
    return answer == REFUSED


def _ready(router: RunningRouter) -> str:
    try:
        return router.get("/readyz")
    except OSError as error:
        return str(error)


@both_kinds
def test_below_the_watermark_nothing_is_taken_until_there_is_room(
    tmp_path: Path, disk: SmallDisk, studies: list[StudyFiles]
) -> None:
    study = studies[1]
    first, second, third = study.files[:3]
    site = make_site(tmp_path, disk, minimum_free=5 * MEBIBYTE)
    with site.run() as router:
        before = router.receivers()
        assert send(site, study, [first]) == {first: SUCCESS}
        disk.hold(disk.free - 4 * MEBIBYTE)  # there is room for it, but not above what must stay free
        assert send(site, study, [second, third]) == {second: REFUSED, third: REFUSED}
        assert status_of_one(site, instance(study)) == 0xA700
        assert set(site.stored()) == {study.sop_instance_uids[first]}
        assert [path for path in leftovers(site) if path.is_file()] == []
        assert "wanted" in _not_ready(router)
        disk.let_go()
        assert send(site, study, [second, third]) == {second: SUCCESS, third: SUCCESS}
        assert held(site) == {study.sop_instance_uids[path]: dataset_bytes(path) for path in study.files[:3]}
        wait_for(lambda: set(held(site)) <= indexed(site), "the index")
        assert router.receivers() == before
        assert router.stop() == 0


def _not_ready(router: RunningRouter) -> str:
    """The body of a /readyz that is no."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        router.get("/readyz")
    with caught.value as answer:
        return answer.read().decode()


@pytest.mark.parametrize("victim", ["receiver", "engine"])
def test_whoever_dies_while_the_ledger_cannot_be_written_loses_nothing(
    tmp_path: Path, disk: SmallDisk, studies: list[StudyFiles], victim: str
) -> None:
    """The worst moment: what was acknowledged is in no ledger yet, and who remembers it is killed."""
    site = make_site(tmp_path, disk, ledger_too=True)
    small = studies[1]
    with site.run() as router:
        disk.hold(HELD)
        answers = send(site, studies[0]) | send(site, studies[2])
        disk.hold(disk.free - 300_000)
        answers |= send(site, small)
        assert REFUSED in answers.values()
        disk.fill()
        taken = acknowledged(studies, answers)
        (receiver,) = router.receivers()
        if victim == "engine":
            router.kill()
        else:
            os.kill(receiver, signal.SIGKILL)
            wait_for(lambda: router.receivers() not in ([], [receiver]), "another receiver")
            wait_for(lambda: listening(site.dicom_port), "the port")
            assert status_of_one(site, instance(studies[0])) == 0xA700
            disk.let_go()
            wait_for(lambda: set(taken) <= indexed(site), "everything to be indexed", 60.0, 0.2)
            sent = send(site, small)
            assert set(sent.values()) == {SUCCESS}
            taken |= acknowledged(studies, sent)
            wait_for(lambda: set(taken) <= indexed(site), "what came after it to be indexed", 60.0, 0.2)
            assert router.stop() == 0
    disk.let_go()
    with site.run() as following:
        assert {uid: held(site).get(uid) for uid in taken} == taken
        assert set(taken) <= indexed(site)
        assert [path for path in leftovers(site) if path.is_file()] == []
        assert following.stop() == 0
