"""What a receiver reports is heard to its end, whatever becomes of a single report; what it asks is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router.dimse.store_scp import ServerSettings
from router.domain.access import Admission
from router.domain.receipt import Receipt
from router.questions import Asked
from router.receiver_words import ReceiverSettings
from router.receiving import Receivers
from tests.support.dcmtk import Address, storescu
from tests.support.ports import listening
from tests.support.process import wait_for
from tests.support.samples import StudyFiles


def _receivers(directory: Path, push: str, asked: Asked, **told: Any) -> Receivers:
    """One receiver, and storescu as the node that may store; `told` is what the engine does with what it is told."""
    settings = ReceiverSettings(
        ae_title="ROUTER",
        server=ServerSettings(host="127.0.0.1", port=0),
        store=str(directory / "store"),
        durability="rename",
        minimum_free=0,
        callers={"STORESCU": Admission(node="sender", push=push)},
    )
    nothing: dict[str, Callable[..., None]] = {
        "observer": lambda event: None,
        "on_loss": lambda: None,
        "trouble": lambda what, error: None,
    }
    return Receivers(settings, 1, asked=asked, **(nothing | told))


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

    receivers = _receivers(
        tmp_path,
        "allow",
        lambda title, study: True,
        on_receipts=take,
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


def test_a_store_that_is_under_way_when_the_receiver_has_to_stop_still_gets_its_answer(
    tmp_path: Path, study: Callable[..., StudyFiles]
) -> None:
    taken: list[Receipt] = []
    in_question, may_answer = threading.Event(), threading.Event()

    def asked(title: str, study_instance_uid: str) -> bool:
        in_question.set()
        return may_answer.wait(60.0)

    receivers = _receivers(tmp_path, "refuse", asked, on_receipts=taken.extend)
    receivers.start()
    sent = study(instances=2)
    sending = threading.Thread(target=storescu, args=(Address("ROUTER", receivers.port), sent.files))
    stopping = threading.Thread(target=receivers.stop, args=(60.0,))
    sending.start()
    try:
        assert in_question.wait(60.0)
        stopping.start()
        wait_for(lambda: not listening(receivers.port), "the receiver to stop")
    finally:
        may_answer.set()
        sending.join(60.0)
        receivers.stop(0.0)
    stopping.join(60.0)
    assert {one.sop_instance_uid for one in taken} == sent.instances
