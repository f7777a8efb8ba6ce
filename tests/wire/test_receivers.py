"""What a receiver reports is heard to its end, whatever becomes of a single report; what it asks is answered."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("asked_to_stop", [1, 2])
def test_a_store_that_is_under_way_when_the_receiver_has_to_stop_still_gets_its_answer(
    tmp_path: Path, study: Callable[..., StudyFiles], asked_to_stop: int
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
    stopping = [threading.Thread(target=receivers.stop, args=(60.0,)) for _ in range(asked_to_stop)]
    sending.start()
    try:
        assert in_question.wait(60.0)
        for thread in stopping:
            thread.start()
        wait_for(lambda: not listening(receivers.port), "the receiver to stop")
    finally:
        may_answer.set()
        sending.join(60.0)
        receivers.stop(0.0)
    for thread in stopping:
        thread.join(60.0)
    assert {one.sop_instance_uid for one in taken} == sent.instances


def _coming_up(receivers: Receivers) -> BaseProcess:
    """The process of a receiver that does not listen yet."""

    def found() -> BaseProcess | None:
        running = receivers.pids
        return next((one for one in multiprocessing.active_children() if one.pid not in running), None)

    child = wait_for(found, "a receiver to be started", interval=0.001)
    assert child is not None
    return child


def _successor(receivers: Receivers) -> BaseProcess:
    """Kill the receiver; the process of the one that is started for it."""
    os.kill(receivers.pids[0], signal.SIGKILL)
    wait_for(lambda: not receivers.pids, "its end to be seen")
    return _coming_up(receivers)


def test_a_receiver_that_dies_before_it_listens_is_started_again(
    tmp_path: Path, study: Callable[..., StudyFiles]
) -> None:
    taken: list[Receipt] = []
    whole: list[bool] = []
    receivers = _receivers(
        tmp_path, "allow", lambda title, study: True, on_receipts=taken.extend, on_whole=whole.append
    )
    receivers.start()
    try:
        first = receivers.pids[0]
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not receivers.alive, "its end")
        second = _coming_up(receivers)
        second.kill()
        wait_for(lambda: receivers.pids and receivers.pids[0] not in (first, second.pid), "a third")
        sent = study(instances=1)
        storescu(Address("ROUTER", receivers.port), sent.files)
        wait_for(lambda: {one.sop_instance_uid for one in taken} == sent.instances, "the receipt")
        assert whole == [False, True]
    finally:
        receivers.stop(5.0)


def test_a_receiver_that_comes_up_hears_no_signal_to_all(tmp_path: Path) -> None:
    """As systemd and a terminal send it: the engine says when its receivers end."""
    receivers = _receivers(tmp_path, "allow", lambda title, study: True, on_receipts=lambda receipts: None)
    starting = threading.Thread(target=receivers.start)
    starting.start()
    try:
        coming = _coming_up(receivers)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            assert coming.pid is not None
            os.kill(coming.pid, number)
        starting.join(60.0)
        assert receivers.pids == [coming.pid]
    finally:
        receivers.stop(5.0)


def test_a_receiver_that_comes_up_while_all_are_told_to_stop_stops_too(tmp_path: Path) -> None:
    receivers = _receivers(tmp_path, "allow", lambda title, study: True, on_receipts=lambda receipts: None)
    receivers.start()
    another = _successor(receivers)
    receivers.stop(60.0)
    assert another.exitcode == 0, "it ended by itself, it was not killed"


def test_a_receiver_that_comes_up_while_callers_change_hears_of_it(
    tmp_path: Path, study: Callable[..., StudyFiles]
) -> None:
    taken: list[Receipt] = []
    receivers = _receivers(tmp_path, "allow", lambda title, study: True, on_receipts=taken.extend)
    receivers.start()
    try:
        _successor(receivers)
        receivers.adopt({"NEWCOMER": Admission(node="newcomer", push="allow")})
        wait_for(lambda: receivers.alive, "another")
        sent = study(instances=1)
        storescu(Address("ROUTER", receivers.port), sent.files, calling="NEWCOMER")
        wait_for(lambda: {one.sop_instance_uid for one in taken} == sent.instances, "the receipt")
    finally:
        receivers.stop(5.0)
