"""What a receiver reports is heard to its end, whatever becomes of a single report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from router.dimse.store_scp import ServerSettings
from router.domain.access import Admission
from router.domain.receipt import Receipt
from router.receiver_words import ReceiverSettings
from router.receiving import Receivers
from tests.support.dcmtk import Address, storescu
from tests.support.process import wait_for
from tests.support.samples import StudyFiles


def test_a_report_that_cannot_be_taken_is_looked_for_in_the_store_and_the_next_are_taken(
    tmp_path: Path, study: Callable[..., StudyFiles]
) -> None:
    taken: list[Receipt] = []
    losses: list[int] = []
    troubles: list[BaseException] = []

    def take(receipts: list[Receipt]) -> None:
        if not troubles:
            raise ZeroDivisionError
        taken.extend(receipts)

    receivers = Receivers(
        ReceiverSettings(
            ae_title="ROUTER",
            server=ServerSettings(host="127.0.0.1", port=0),
            store=str(tmp_path / "store"),
            durability="rename",
            minimum_free=0,
            callers={"STORESCU": Admission(node="sender", push="allow")},
        ),
        1,
        on_receipts=take,
        asked=lambda title, study: True,
        observer=lambda event: None,
        on_loss=lambda: losses.append(1),
        trouble=lambda what, error: troubles.append(error),
    )
    receivers.start()
    try:
        pids = receivers.pids
        first, second = study(instances=1), study(instances=2)
        storescu(Address("ROUTER", receivers.port), first.files)
        wait_for(lambda: losses, "the loss to be told")
        storescu(Address("ROUTER", receivers.port), second.files)
        wait_for(lambda: {one.sop_instance_uid for one in taken} == second.instances, "the receipts of the second")
        assert [type(error) for error in troubles] == [ZeroDivisionError]
        assert receivers.pids == pids
    finally:
        receivers.stop(5.0)
