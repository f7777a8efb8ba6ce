"""An archive that takes its time to commit itself: the service waits without waiting, through a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router.dimse import command as commands
from router.dimse.association import Association, Limits
from router.dimse.pdu import AssociateRequest, ProposedContext, RoleSelection
from router.dimse.request import commitment_data_set
from router.domain.commitment import (
    STORAGE_COMMITMENT_SOP_CLASS,
    STORAGE_COMMITMENT_SOP_INSTANCE,
    CommitmentRequest,
    Reference,
)
from router.ledger.ledger import SqlLedger
from tests.support.peers import Orthanc
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import StudyFiles

EXPLICIT = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


def report(port: int, transaction_uid: str, instances: list[str], *, calling: str) -> int:
    """What an archive sends that has committed itself to all of it; the status of the answer."""
    request = AssociateRequest(
        "ROUTER",
        calling,
        (ProposedContext(1, STORAGE_COMMITMENT_SOP_CLASS, (EXPLICIT,)),),
        16384,
        roles=(RoleSelection(STORAGE_COMMITMENT_SOP_CLASS, scu=False, scp=True),),
    )
    association = Association.request("127.0.0.1", port, request, peer="The router", limits=Limits())
    references = tuple(Reference(CT, uid) for uid in instances)
    association.send(
        1,
        commands.encode(
            {
                commands.AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT_SOP_CLASS,
                commands.COMMAND_FIELD: commands.N_EVENT_REPORT_RQ,
                commands.MESSAGE_ID: 1,
                commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
                commands.AFFECTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_SOP_INSTANCE,
                commands.EVENT_TYPE_ID: 1,
            }
        ),
        # A report for all of it looks like the request (PS3.4 tables J.3-1 and J.3-2).
        commitment_data_set(CommitmentRequest(transaction_uid=transaction_uid, references=references), implicit=False),
    )
    message = association.receive(time.monotonic() + 20)
    assert message is not None
    association.release(5.0)
    return message.command.status


def test_an_answer_that_comes_late_and_after_a_restart(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], study: Callable[..., StudyFiles]
) -> None:
    site = Site(tmp_path / "site", nodes={}, rules={}, router={"drain": "120s"})
    # Its own report goes nowhere: the test brings it later.
    vault = start_orthanc(ae_title="VAULT", modalities={"ROUTER": free_port()})
    archive = start_orthanc(modalities={"VAULT": vault.dicom_port, "ROUTER": site.dicom_port})
    made = study(instances=3)
    instances = sorted(made.sop_instance_uids.values())
    archive.upload(*made.files)
    site.configure(
        nodes={
            "archive": node(archive.ae_title, archive.dicom_port),
            "vault": node(vault.ae_title, vault.dicom_port, commitment=True, sends_as=["VAULT_OUT"]),
        },
        rules={
            "keep": {
                "sweep": {"source": "archive", "every": "1s", "keys": {"StudyDate": "20240101..20240131"}},
                "move": {"to": ["vault"]},
            }
        },
    )

    def transfer() -> dict[str, Any]:
        found = site.json("transfers", "list")["transfers"]
        return found[0] if found else {"state": "", "reason": ""}

    def counted(router: RunningRouter, result: str) -> bool:
        return f'storage_commitments_total{{node="vault",result="{result}"}} 1.0' in router.metrics()

    with site.run() as router:
        wait_for(lambda: "has not answered it yet" in transfer()["reason"], "the request to be taken")
        assert counted(router, "requested")
        started = time.monotonic()
    assert time.monotonic() - started < 60, "draining does not wait for an archive that takes hours"
    assert transfer()["state"] == "verifying"
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        (asked,) = ledger.commitments(transfer()["id"])

    with site.run() as router:
        assert report(site.dicom_port, "2.25.4711", instances, calling="VAULT") == 0
        wait_for(lambda: counted(router, "unknown"), "the unknown one to be counted")
        assert transfer()["state"] == "verifying"
        assert report(site.dicom_port, asked.transaction_uid, instances, calling="VAULT") == 0
        wait_for(lambda: transfer()["state"] == "complete", "the verdict")
        assert transfer()["reason"] == "The destination has committed itself to all 3 instances."
        assert counted(router, "committed")
        assert not any(uid in router.log for uid in [*instances, asked.transaction_uid])
