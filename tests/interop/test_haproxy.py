"""The HAProxy file we ship, before three services on one ledger: replicas come and go, senders do not notice."""

from __future__ import annotations

import signal
import threading
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from router.domain.transfer import State
from router.simulator import Behaviour, SimulatedPacs
from tests.support.haproxy import DICOM, HL7, HTTP, SHIPPED, Haproxy, check
from tests.support.hl7 import MllpClient, order
from tests.support.peers import Address, echoscu, storescu
from tests.support.ports import free_port
from tests.support.process import READY_SECONDS, wait_for
from tests.support.replicas import Fleet
from tests.support.router import node
from tests.support.samples import StudyFiles, make_study

NAMES = [f"router-{number}" for number in (1, 2, 3)]
ADDRESSES = [f"127.0.0.{number}" for number in (2, 3, 4)]
TOKEN = "a-token-that-is-long-enough"
CALLING = "MODALITY"
SUCCESS = 0x0000


class Ward:
    """Three replicas at addresses of their own, on the same ports, and HAProxy before them."""

    def __init__(self, directory: Path) -> None:
        (directory / "token").write_text(TOKEN)
        self.archive = SimulatedPacs("ARCHIVE", behaviour=Behaviour(association_per_suboperation=True)).__enter__()
        self.ports = {DICOM: free_port(), HL7: free_port(), HTTP: free_port()}
        self.fleet = Fleet(
            directory / "fleet",
            nodes={
                "archive": node("ARCHIVE", self.archive.port),
                "modality": node(CALLING, free_port(), push="allow"),
            },
            rules={
                "all": {
                    "sweep": {"source": "archive", "every": "1s", "keys": {"StudyDate": "20240101..20240131"}},
                    "move": {"to": ["local"], "retry": {"attempts": 20, "delay": "1s"}},
                },
                "priors": {
                    "order": {"from": ["RIS"], "events": ["ORM^O01"]},
                    "priors": {"source": "archive", "groups": [{"name": "latest", "max": 1, "within": "5y"}]},
                    "move": {"to": ["local"]},
                },
            },
            router={"leave": "4s", "drain": "300s", "token": {"file": str(directory / "token")}},
        )
        for site, host in zip(self.fleet.sites, ADDRESSES, strict=True):
            site.host, site.dicom_port, site.http_port = host, self.ports[DICOM], self.ports[HTTP]
            site.settings |= {
                "listen": f"{host}:{self.ports[DICOM]}",
                "http": f"{host}:{self.ports[HTTP]}",
                "hl7": {"listen": f"{host}:{self.ports[HL7]}", "from": ["RIS"]},
            }
        self.fleet.configure()
        self.directory = directory
        self.sent: set[str] = set()
        """SOP Instance UIDs of what was stored through HAProxy."""
        self.haproxy = Haproxy(directory / "haproxy", dict(zip(NAMES, ADDRESSES, strict=True)), self.ports)
        self.archive.set_destination("ROUTER", "127.0.0.1", self.haproxy.ports[DICOM])
        self.router = Address("ROUTER", self.haproxy.ports[DICOM])

    def close(self) -> None:
        self.haproxy.stop(first=signal.SIGKILL)
        self.fleet.close()
        self.archive.__exit__(None, None, None)

    def wait_until_up(self, *numbers: int) -> None:
        """Wait until HAProxy takes these replicas for ready, and no others."""
        wanted = {NAMES[number] for number in numbers}
        for backend in ("dicom-ready", "hl7"):
            wait_for(
                lambda: self.haproxy.up(backend) == wanted,  # noqa: B023 - called at once
                f"HAProxy finds {wanted} ready for {backend}",
                READY_SECONDS,
                0.1,
            )

    def send(self, instances: int = 2) -> StudyFiles:
        """Store a study through HAProxy; DCMTK's storescu fails where anything is refused."""
        study = make_study(self.directory / "studies", instances=instances)
        storescu(self.router, study.files, calling=CALLING)
        self.sent |= set(study.sop_instance_uids.values())
        return study


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """One for all tests: each of them leaves three replicas that are ready."""
    ward = Ward(tmp_path_factory.mktemp("ward"))
    try:
        ward.fleet.start()
        ward.wait_until_up(0, 1, 2)
        yield ward
    finally:
        ward.close()


class SlowSender:
    """A modality that sends an image now and then on one association, in a thread of its own, until it is to end."""

    def __init__(self, router: Address, study: StudyFiles) -> None:
        entity = AE(CALLING)
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = READY_SECONDS
        self.association = entity.associate("127.0.0.1", router.port, ae_title=router.ae_title)
        assert self.association.is_established
        self.statuses: list[int | None] = []
        self.released = False
        self._files = list(study.files)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join(READY_SECONDS)
        self.association.join(READY_SECONDS)  # it closes its socket

    def _send(self) -> None:
        for path in self._files:
            answer = self.association.send_c_store(dcmread(path))
            self.statuses.append(answer.Status if "Status" in answer else None)
            if self._ending.wait(0.4):
                break
        self.association.release()
        self.released = self.association.is_released


def test_the_shipped_file_is_valid() -> None:
    said = check(SHIPPED)
    assert "Configuration file is valid" in said
    # Without Docker's resolver here, its servers have no address yet; nothing else is to be warned of.
    assert [line for line in said.splitlines() if "[WARNING]" in line and "could not resolve address" not in line] == []


def test_associations_are_spread_and_a_replica_may_stop_or_die_unnoticed(ward: Ward) -> None:
    fleet, haproxy = ward.fleet, ward.haproxy
    for _ in range(9):
        ward.send()
    assert all(haproxy.associations()[name] >= 1 for name in NAMES)

    # One stops while an association is under way there: that one ends as it should, and nothing new is refused.
    long = make_study(ward.directory / "studies", instances=500)
    before = haproxy.associations()
    slow = SlowSender(ward.router, long)
    wait_for(lambda: len(slow.statuses) >= 2, "the slow sender has begun")
    (name,) = [name for name in NAMES if haproxy.associations()[name] > before[name]]
    stopping = NAMES.index(name)
    replica = fleet.signal(stopping, signal.SIGTERM)
    while name in haproxy.up():  # its Store SCP still takes associations meanwhile
        echoscu(ward.router, calling=CALLING)
    said_not_ready = haproxy.associations()[name]
    for _ in range(3):
        ward.send()
    wait_for(lambda: "stopping: running moves may end" in replica.log, "the replica drains")
    count = len(slow.statuses)
    wait_for(lambda: len(slow.statuses) > count + 12, "the slow sender goes on for longer than router.leave")
    assert haproxy.associations()[name] == said_not_ready
    slow.end()
    assert set(slow.statuses) == {SUCCESS}
    assert slow.released
    ward.sent |= {long.sop_instance_uids[path] for path in long.files[: len(slow.statuses)]}
    assert replica.wait() == 0, replica.log
    replica.stop()

    # Another one dies: what comes is taken by the one that is left, from the very first association on.
    killed = next(number for number in range(3) if number != stopping)
    fleet.kill(killed)
    for _ in range(4):
        echoscu(ward.router, calling=CALLING)
    ward.send()

    # Both are back, and get their share again.
    fleet.start(stopping, killed)
    ward.wait_until_up(0, 1, 2)
    before = haproxy.associations()
    for _ in range(30):  # as few connections decide, not who had the last: it need not go round and round
        echoscu(ward.router, calling=CALLING)
        if all(haproxy.associations()[name] > before[name] for name in NAMES):
            break
    assert all(haproxy.associations()[name] > before[name] for name in NAMES)

    assert fleet.instances_stored() == ward.sent
    assert not [line for line in haproxy.log.splitlines() if any(uid in line for uid in ward.sent)]


def test_orders_and_browsers_come_through(ward: Ward) -> None:
    haproxy = ward.haproxy
    with MllpClient(haproxy.ports[HL7]) as ris:
        answers = [ris.ask(order(f"ACC-{number}", control_id=str(number))) for number in range(3)]
    assert [(answer.code, answer.control_id) for answer in answers] == [("AA", str(n)) for n in range(3)]

    assert "dicom-router" in haproxy.get("/")
    assert "ok" in haproxy.get("/healthz?study=1.2.3.4711")
    for path in ("/metrics", "/api/v1/objects/1.2.3.4711/1/1"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            haproxy.get(path)
        with refused.value:  # an answer, whose connection is to be closed
            assert refused.value.code == 404
    wait_for(lambda: haproxy.log.count(" http ") >= 3, "HAProxy has logged the requests")
    assert "1.2.3.4711" not in haproxy.log


def test_one_move_whose_associations_reach_several_replicas_ends_complete(ward: Ward) -> None:
    studies = [make_study(ward.directory / "archive", instances=6) for _ in range(4)]
    for study in studies:
        ward.archive.add_files(study.files)
    ward.fleet.wait_for_states({State.COMPLETE: len(studies)}, seconds=120.0)
    assert [transfer.attempts for transfer in ward.fleet.transfers()] == [1] * len(studies)
    moved = {uid for one in studies for uid in one.sop_instance_uids.values()}
    stored = ward.fleet.stored()
    assert set().union(*stored.values()) == moved | ward.sent
    assert all(moved & set(one) for one in stored.values())  # each replica has some of them


def test_no_replica_is_ready_and_those_that_listen_answer_all_the_same(ward: Ward) -> None:
    """Replicas whose stores are not there say so at /readyz, and to senders in DICOM's words."""
    for site in ward.fleet.sites:
        site.store.rename(site.directory / "elsewhere")
    ward.wait_until_up()
    wait_for(lambda: len(ward.haproxy.up("dicom-listening")) == 3, "they are alive")
    echoscu(ward.router, calling=CALLING)
    assert "Calling AE Title Not Recognized" in echoscu(ward.router, calling="NOBODY", check=False).stdout
    for site in ward.fleet.sites:
        (site.directory / "elsewhere").rename(site.store)
    ward.wait_until_up(0, 1, 2)
