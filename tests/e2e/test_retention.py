"""A small disk, a destination that comes late, and senders that push on and on: what was acknowledged is not lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from router.domain.rule import LOCAL
from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from router.simulator import SimulatedPacs
from tests.support.dcmtk import Address, storescu
from tests.support.filesystems import MEBIBYTE, SmallDisk, small_disk
from tests.support.part10 import dataset_bytes
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import StudyFiles, make_study

SIZE = 20
"""MiB of the disk; the studies are twice as much."""
SUCCESS = "Success"
ANSWER = re.compile(r"Received Store Response \(([^)]*)\)")
SECONDS = 240.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk("tmpfs", tmp_path, SIZE) as mounted:
        yield mounted


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[StudyFiles]:
    directory = tmp_path_factory.mktemp("studies")
    return [make_study(directory, instances=8, rows=512) for _ in range(10)]


class Ward:
    """A modality that pushes to a router with little room, which passes on to an archive."""

    def __init__(self, tmp_path: Path, disk: SmallDisk, **retention: Any) -> None:
        self.archive = SimulatedPacs("ARCHIVE", port=free_port())
        quick = {"connect": "1s", "negotiation": "5s"}
        self.site = Site(
            tmp_path / "site",
            nodes={
                "modality": node("STORESCU", 104, push="allow"),
                "archive": node("ARCHIVE", self.archive.port, timeouts=quick, breaker={"failures": 3, "pause": "1s"}),
            },
            rules={
                "on": {
                    "arrival": {"from": ["modality"], "stable": "1s"},
                    "forward": {"to": ["archive"], "retry": {"attempts": 50, "delay": "1s", "maximum_delay": "2s"}},
                }
            },
            router={"store": str(disk.root / "store"), "minimum_free": 3 * MEBIBYTE, "retention": retention},
        )
        self.site.store = disk.root / "store"
        self.acknowledged: dict[Path, str] = {}
        """File -> SOP Instance UID."""
        self.refused = 0

    def push(self, studies: list[StudyFiles]) -> None:
        """Send once what is not acknowledged yet, as modalities do that try again."""
        for study in studies:
            left = [path for path in study.files if path not in self.acknowledged]
            if left:
                done = storescu(Address("ROUTER", self.site.dicom_port), left, "--no-halt", check=False)
                for path, answer in zip(left, ANSWER.findall(done.stdout), strict=False):
                    if answer == SUCCESS:
                        self.acknowledged[path] = study.sop_instance_uids[path]
                    else:
                        self.refused += 1

    @property
    def archived(self) -> set[str]:
        return {str(one.sop_instance) for one in self.archive.instances}

    @property
    def here(self) -> set[str]:
        """What the store holds, also while files leave it."""
        names = {name for *_, names in os.walk(self.site.store) for name in names}
        return {name.removesuffix(".dcm") for name in names - {".store"}}

    def check(self) -> None:
        """What was acknowledged is still here, or (looked at later) at the archive."""
        lost = set(self.acknowledged.values()) - self.here - self.archived
        assert not lost

    def all_proven(self, studies: list[StudyFiles]) -> bool:
        with SqlLedger.open(str(self.site.settings["ledger"]), read_only=True) as ledger:
            states = [one.state for one in ledger.transfers(source=LOCAL)]
        return len(states) == len(studies) and set(states) == {State.COMPLETE}

    def left(self, router: RunningRouter) -> int:
        found = re.search(r"^dicom_router_store_removed_total ([0-9.]+)$", router.metrics(), re.MULTILINE)
        return int(float(found[1])) if found is not None else 0


def test_under_constant_push_room_is_made_and_nothing_acknowledged_is_lost(
    tmp_path: Path, disk: SmallDisk, studies: list[StudyFiles]
) -> None:
    ward = Ward(tmp_path, disk, keep="0s", watermark={"high": "60%", "low": "40%"})
    everything = [path for study in studies for path in study.files]
    with ExitStack() as stack:
        router = stack.enter_context(ward.site.run())
        ward.push(studies)
        assert ward.refused, "the archive is down, and the disk is full"
        assert 0 < len(ward.acknowledged) < len(everything)
        ward.check()
        assert ward.left(router) == 0
        stack.enter_context(ward.archive)

        def pushed() -> bool:
            ward.push(studies)
            ward.check()
            return len(ward.acknowledged) == len(everything)

        wait_for(pushed, "all to be taken: senders that try again succeed", SECONDS, 0.5)
        wait_for(lambda: ward.all_proven(studies), "all to be proven at the archive", SECONDS, 0.5)
        assert ward.archived == {uid for study in studies for uid in study.sop_instance_uids.values()}
        assert ward.left(router) > 0
        ward.check()
        for uid, path in ward.site.stored().items():
            (source,) = [file for file, known in ward.acknowledged.items() if known == uid]
            assert dataset_bytes(path) == dataset_bytes(source)
        assert router.stop() == 0
    verified = ward.site.json("store", "verify")
    assert verified["faults"] == []
    assert ward.all_proven(studies), "no verdict turned bad because its study has left"


def test_a_router_that_is_killed_while_studies_leave_goes_on_with_it(
    tmp_path: Path, disk: SmallDisk, studies: list[StudyFiles]
) -> None:
    ward = Ward(tmp_path, disk, keep="0s")
    some = studies[:3]
    with ward.archive:
        for _ in range(3):
            with ward.site.run() as router:
                ward.push(some)
                ward.check()
                wait_for(lambda r=router: ward.left(r) > 0 or not ward.here, "something to leave", 60.0, 0.02)
                router.kill()
            ward.check()
        with ward.site.run() as router:
            ward.push(some)
            wait_for(lambda: ward.all_proven(some), "all to be proven", SECONDS, 0.5)
            wait_for(lambda: not ward.here, "all to leave", SECONDS, 0.2)
            assert router.stop() == 0
    assert ward.archived == {uid for study in some for uid in study.sop_instance_uids.values()}
    assert ward.site.json("store", "leaving")["leave"] == []
    assert ward.site.json("store", "list")["studies"] == []
    assert not [path for path in ward.site.store.iterdir() if not path.name.startswith(".")], "no directory is left"


def test_who_has_no_retention_keeps_everything(tmp_path: Path, disk: SmallDisk, studies: list[StudyFiles]) -> None:
    ward = Ward(tmp_path, disk)
    del ward.site.settings["retention"]
    ward.site.configure(
        nodes={
            "modality": node("STORESCU", 104, push="allow"),
            "archive": node("ARCHIVE", ward.archive.port),
        },
        rules={"on": {"arrival": {"from": ["modality"], "stable": "1s"}, "forward": {"to": ["archive"]}}},
    )
    with ward.archive, ward.site.run() as router:
        ward.push(studies[:1])
        wait_for(lambda: ward.all_proven(studies[:1]), "all to be proven", SECONDS, 0.5)
        assert ward.site.json("store", "leaving") == {
            "retention": False,
            "leave": [],
            "stay": [],
            "counts": {},
            "lacking": 0,
        }
        assert set(ward.site.stored()) == set(ward.acknowledged.values())
        assert ward.left(router) == 0
        assert router.stop() == 0
