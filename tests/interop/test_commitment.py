"""Storage commitment with a real archive: Orthanc, which reports on an association of its own."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.dimse.peers import Peers
from router.dimse.store_scp import Accepted, ServerSettings, StoreServer
from router.domain.commitment import CommitmentAnswer, CommitmentRequest, Reference
from router.domain.rule import CommitmentSettings, Node
from router.errors import ContextRefused
from router.objects import ObjectStore
from tests.support.peers import Orthanc, Storescp
from tests.support.router import Site, node
from tests.support.samples import StudyFiles

CT = "1.2.840.10008.5.1.4.1.1.2"
RULE: dict[str, Any] = {
    "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "20240101..20240131"}},
    "move": {"to": ["vault"]},
}

MakeStudy = Callable[..., StudyFiles]


@pytest.mark.parametrize("verify", ["auto", "commitment"])
def test_a_transfer_is_complete_when_the_archive_has_committed_itself(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], study: MakeStudy, verify: str
) -> None:
    site = Site(tmp_path / "site", nodes={}, rules={})
    vault = start_orthanc(ae_title="VAULT", modalities={"ROUTER": site.dicom_port})
    archive = start_orthanc(modalities={"VAULT": vault.dicom_port, "ROUTER": site.dicom_port})
    made = study(series=2, instances=3)
    archive.upload(*made.files)
    site.configure(
        nodes={
            "archive": node(archive.ae_title, archive.dicom_port),
            "vault": node(vault.ae_title, vault.dicom_port, commitment=True),
        },
        rules={"keep": {**RULE, "move": {"to": ["vault"], "verify": verify}}},
    )
    done = site.apply()
    (transfer,) = done["transfers"]
    assert (transfer["verdict"], transfer["completed"]) == ("complete", 6)
    assert transfer["reason"] == "The destination has committed itself to all 6 instances."
    assert len(vault.instances()) == 6


def test_a_destination_that_does_not_know_the_service_is_asked_by_c_find(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], start_dcmqrscp: Callable[..., Any], study: MakeStudy
) -> None:
    site = Site(tmp_path / "site", nodes={}, rules={})
    vault = start_dcmqrscp(ae_title="VAULT", destinations={"ROUTER": site.dicom_port})
    archive = start_orthanc(modalities={"VAULT": vault.port, "ROUTER": site.dicom_port})
    archive.upload(*study(instances=2).files)
    site.configure(
        nodes={
            "archive": node(archive.ae_title, archive.dicom_port),
            "vault": node("VAULT", vault.port, commitment={"timeout": "1h"}),
        },
        rules={"keep": RULE},
    )
    (transfer,) = site.apply()["transfers"]
    assert transfer["verdict"] == "complete"
    assert transfer["reason"].startswith("All 2 instances are there. vault (VAULT at 127.0.0.1:")
    assert "accepts no storage commitment requests" in transfer["reason"]


class Asking:
    """A router that asks Orthanc, reduced to its wire."""

    def __init__(self, root: Path) -> None:
        self.answers: queue.Queue[CommitmentAnswer] = queue.Queue()
        self.server = StoreServer(
            ServerSettings(host="127.0.0.1", port=0),
            ObjectStore(root),
            policy=lambda *who: Accepted("vault"),
            on_receipt=lambda receipt: None,
            observer=lambda event: None,
            on_answer=self.answers.put,
        )
        self.server.start()

    def ask(self, vault: Node, *references: Reference) -> CommitmentAnswer:
        request = CommitmentRequest(transaction_uid=f"2.25.{uuid.uuid4().int}", references=references)
        peers = Peers("ROUTER", lambda event: None)
        try:
            peers.commit(
                vault,
                [request],
                on_answer=self.answers.put,
                answered=lambda: not self.answers.empty(),
                cancelled=threading.Event(),
            )
        finally:
            peers.close()
        answer = self.answers.get(timeout=20)
        assert answer.transaction_uid == request.transaction_uid
        return answer


def committing(ae_title: str, port: int) -> Node:
    return Node(name="vault", ae_title=ae_title, host="127.0.0.1", port=port, commitment=CommitmentSettings())


def test_orthanc_says_what_it_has_and_what_not_and_why(tmp_path: Path, orthanc: Orthanc, study: MakeStudy) -> None:
    made = study(instances=3)
    orthanc.upload(*made.files)
    held = sorted(made.sop_instance_uids.values())
    asking = Asking(tmp_path / "store")
    try:
        orthanc.register("ROUTER", asking.server.port)
        vault = committing(orthanc.ae_title, orthanc.dicom_port)
        everything = asking.ask(vault, *(Reference(CT, uid) for uid in held))
        assert (everything.committed, everything.failed) == (frozenset(held), {})
        assert everything.calling_ae_title == orthanc.ae_title
        unknown, wrong = Reference(CT, "2.25.4711"), Reference("1.2.840.10008.5.1.4.1.1.4", held[0])
        answer = asking.ask(vault, unknown, wrong, *(Reference(CT, uid) for uid in held[1:]))
        assert answer.committed == frozenset(held[1:])
        assert answer.failed == {"2.25.4711": 0x0112, held[0]: 0x0119}
    finally:
        asking.server.stop(1.0)


def test_storescp_refuses_the_context(storescp: Storescp) -> None:
    peers = Peers("ROUTER", lambda event: None)
    request = CommitmentRequest(transaction_uid="2.25.1", references=(Reference(CT, "2.25.2"),))
    try:
        with pytest.raises(ContextRefused, match="accepts no storage commitment requests"):
            peers.commit(
                committing(storescp.ae_title, storescp.port),
                [request],
                on_answer=lambda answer: None,
                answered=lambda: False,
                cancelled=threading.Event(),
            )
    finally:
        peers.close()
