"""Store and forward under fire: thousands of instances come in while the places that they go to come and go."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from tests.support.dcmtk import Storescp
from tests.support.orthanc import Orthanc, orthanc_program
from tests.support.part10 import dataset_bytes, read_part10
from tests.support.ports import free_port
from tests.support.process import Process, wait_for
from tests.support.router import Site, node
from tests.support.samples import make_study
from tests.support.stocked import forwards, passes_on

SENDERS, STUDIES, INSTANCES = 4, 5, 250
"""So many senders, studies of each, and instances of each study."""
SECONDS = 400.0
BREAKER = {"failures": 2, "pause": "1s", "maximum_pause": "1s"}


def _studies(directory: Path, sender: int) -> dict[str, bytes]:
    """Write what a sender sends, in one directory; SOP Instance UID -> data set."""
    made: dict[str, bytes] = {}
    directory.mkdir()
    for number in range(STUDIES):
        root = f"2.25.{sender + 1}{number:03}"
        study = make_study(directory.with_name("template"), instances=1, rows=64, uid_root=root)
        [template] = study.files
        [uid] = study.instances
        content = template.read_bytes()
        for instance in range(INSTANCES):
            changed = f"{uid[:-1]}{1000 + instance}"
            path = directory / f"{changed}.dcm"
            path.write_bytes(_renamed(content, uid, changed))
            made[changed] = dataset_bytes(path)
    return made


def _renamed(content: bytes, before: str, after: str) -> bytes:
    """A file with another SOP Instance UID: in (0002,0003), with the group's length, and in (0008,0018)."""

    def element(tag: bytes, uid: str) -> bytes:
        value = uid.encode() + b"\0" * (len(uid) % 2)
        return tag + b"UI" + len(value).to_bytes(2, "little") + value

    old, new = (element(b"\x02\x00\x03\x00", uid) for uid in (before, after))
    length = int.from_bytes(content[140:144], "little") + len(new) - len(old)
    content = content[:140] + length.to_bytes(4, "little") + content[144:]
    content = content.replace(old, new, 1)
    return content.replace(element(b"\x08\x00\x18\x00", before), element(b"\x08\x00\x18\x00", after), 1)


class Workstation:
    """A storescp that is killed and started again, with what it has received."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self.scp = self._start()

    def _start(self) -> Storescp:
        return Storescp(self._directory, ae_title="WS", port=self.port, options=("+xa",))

    def down(self) -> None:
        self.scp.kill()

    def up(self) -> None:
        self.scp = self._start()


class Archive:
    """An Orthanc that is killed and started again, with what it has stored."""

    def __init__(self, directory: Path, router: int) -> None:
        self._directory = directory
        self.orthanc = Orthanc(directory, modalities={"ROUTER": router}, OverwriteInstances=False)
        self._process: Process = self.orthanc

    def down(self) -> None:
        self._process.kill()

    def up(self) -> None:
        command = [orthanc_program(), self._directory / "orthanc.json"]
        self._process = Process(command, self._directory, name="orthanc")
        self._process.wait_until_listening(self.orthanc.http_port, self.orthanc.dicom_port)

    def new_instances(self) -> Counter[str]:
        """How often each of its instances came into being."""
        found: Counter[str] = Counter()
        since, done = 0, False
        while not done:
            changes = self.orthanc.get(f"/changes?since={since}&limit=1000")
            found.update(one["ID"] for one in changes["Changes"] if one["ChangeType"] == "NewInstance")
            since, done = changes["Last"], changes["Done"]
        return found


@pytest.mark.timeout(900)
def test_everything_arrives_while_both_destinations_come_and_go(tmp_path: Path) -> None:
    sent = [_studies(tmp_path / f"sender-{sender}", sender) for sender in range(SENDERS)]
    wanted = {uid: content for one in sent for uid, content in one.items()}
    assert len(wanted) == SENDERS * STUDIES * INSTANCES == 5000
    site = Site(tmp_path / "site", nodes={}, rules={}, router={"durability": "rename"})
    workstation, archive = Workstation(tmp_path / "ws"), Archive(tmp_path / "archive", site.dicom_port)
    senders = {f"ct{number}": node(f"CT{number}", 104, push="allow") for number in range(SENDERS)}
    site.configure(
        nodes={
            **senders,
            "ws": node("WS", workstation.port, breaker=BREAKER),
            "archive": node("ORTHANC", archive.orthanc.dicom_port, breaker=BREAKER, limits={"associations": 2}),
        },
        rules={"on": passes_on("ws", "archive") | {"arrival": {"stable": "1s"}}},
    )
    moments = random.Random(9)
    try:
        with site.run():
            sending = [
                Process(
                    [
                        *("storescu", "+sd", "-aet", f"CT{number}", "-aec", "ROUTER"),
                        *("127.0.0.1", str(site.dicom_port), tmp_path / f"sender-{number}"),
                    ],
                    tmp_path,
                    name=f"storescu-{number}",
                )
                for number in range(SENDERS)
            ]
            wait_for(lambda: workstation.scp.files(), "the first that arrives", SECONDS)
            for place in (workstation, archive, archive, workstation, workstation, archive):
                time.sleep(moments.uniform(0.5, 2.0))
                place.down()
                time.sleep(moments.uniform(0.2, 2.0))
                place.up()
            assert [one.wait(SECONDS) for one in sending] == [0] * SENDERS
            wait_for(lambda: _all_ended(site), "all verdicts", SECONDS, interval=0.5)
        there = workstation.scp.instances()
        assert there.keys() == wanted.keys()
        assert all(dataset_bytes(path) == wanted[uid] for uid, path in there.items())
        known = archive.orthanc.instances()
        assert known.keys() == wanted.keys()
        stored = [path for path in (tmp_path / "archive" / "storage").rglob("*") if path.is_file()]
        objects = (read_part10(path) for path in stored if _is_part10(path))
        assert {one.sop_instance_uid: one.dataset for one in objects} == wanted
        assert archive.new_instances() == Counter(dict.fromkeys(known.values(), 1)), "none came twice as a new one"
        _verdicts_agree(site, {"ws": set(there), "archive": set(known)})
    finally:
        workstation.down()
        archive.down()


def _all_ended(site: Site) -> bool:
    transfers = forwards(site)
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        lists = [ledger.expected_instances(one.id) or [] for one in transfers]
    complete = sum(map(len, lists)) == 2 * SENDERS * STUDIES * INSTANCES
    return complete and all(one.ended for one in transfers)


def _verdicts_agree(site: Site, held: dict[str, set[str]]) -> None:
    """Each transfer's verdict is what its destination holds."""
    transfers = forwards(site)
    assert len(transfers) == 2 * SENDERS * STUDIES
    broken = 0
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        for one in transfers:
            expected = {instance.sop_instance_uid for instance in ledger.expected_instances(one.id) or ()}
            assert expected <= held[one.intent.destination]
            assert (one.completed, one.expected) == (INSTANCES, INSTANCES), one.reason
            proven = State.COMPLETE if one.intent.destination == "archive" else State.UNPROVEN
            assert one.state is proven, one.reason  # storescp answers no query, so nobody can prove it
            broken += any(step.step == "move" and step.cause != "stored" for step in ledger.attempts(one.id))
    assert broken, "some of it was interrupted"


def _is_part10(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
